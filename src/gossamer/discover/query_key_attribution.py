"""Query-key attribution: why a head attends from one place to another, writer by writer.

Elhage et al. 2021 ("A mathematical framework for transformer circuits"): a head's score before the softmax is a product
of a query and a key, each a linear map of a normalised sum of writes. With the norms' scales held at their values in
the run, the score between two positions is a sum over pairs of writers: one heard through the query, the other through
the key. Rotations (of both positions), scales, grouped keys and norms of queries and keys (Qwen 3, Gemma 3, OLMo 2) are
the model's own. A constant on either side holds the biases, and between the two whatever depends on neither side, such
as ALiBi. The sum is the score.

Where a model caps its scores (Gemma 2), the numbers add up to the score before the cap.

When it lies: only differences between keys count in a softmax, so a part of the score that all keys share explains
nothing (compare two keys). It is a decomposition: without a writer the norms' scales would be others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from gossamer.discover.eap import Progress
from gossamer.discover.edge_patching import record_of
from gossamer.errors import BadInput, nearest, options
from gossamer.record import Record
from gossamer.registry import method
from gossamer.task import Encoded, Task, sides

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.models.huggingface import Decoder
    from gossamer.models.huggingface.reads import Residual

CONSTANT = "constant"
SIGN = "part of the head's score before the softmax: positive where it makes the head attend to the key"


class QueryKeyAttributionConfig(BaseModel):
    """head: such as a5.h1. query, key: positions in the clean prompts, counted from 0 or, negative, from the last token
    (-1) back. pairs, pairs_at_once: as elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: str
    key: int
    query: int = -1
    pairs: int = Field(default=64, gt=0)
    pairs_at_once: int = Field(default=16, gt=0)


def query_key_attribution_config(**changes: Any) -> QueryKeyAttributionConfig:
    """The defaults with fields changed; a value out of range, or a head or key that is not given, is BadInput."""
    return options(QueryKeyAttributionConfig, changes, "set of options")


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryKeyAttribution:
    """values: [names, names], mean over pairs; row: heard through the query, column: heard through the key.

    names: the writers before the head's layer, and last `constant`.
    """

    names: tuple[str, ...]
    values: np.ndarray
    record: Record

    @property
    def score(self) -> float:
        """The head's mean score."""
        return float(self.values.sum())

    @property
    def query_side(self) -> np.ndarray:
        """[names]: what each adds through the query, over all keys; sums to the score."""
        return self.values.sum(1)

    @property
    def key_side(self) -> np.ndarray:
        """[names]: what each adds through the key, over all queries; sums to the score."""
        return self.values.sum(0)


@method("query-key-attribution")
def query_key_attribution(
    model: Decoder, task: Task, config: QueryKeyAttributionConfig, *, progress: Progress | None = None
) -> QueryKeyAttribution:
    """A head's score between two positions, on the clean prompts of the task's training pairs, by pairs of writers."""
    layer, _ = _place(model, config.head)
    names = (*model.shape.writers[: model.shape.written_before(layer)], CONSTANT)
    task = model.fitting(task)
    pairs = model.encode(task.train[: config.pairs])
    total, cap = np.zeros((len(names), len(names))), 0.0
    for start in range(0, pairs.n_pairs, config.pairs_at_once):
        done = min(start + config.pairs_at_once, pairs.n_pairs)
        found, cap = score_parts(model, sides(pairs.pairs(start, done))[0], config.head, config.query, config.key)
        total += found.sum(0)
        if progress:
            progress(done, pairs.n_pairs, float(np.abs(total).max() / done))
    record = record_of("query-key-attribution", config, model, task, pairs, sign=SIGN, softcap=cap)
    return QueryKeyAttribution(names=names, values=total / pairs.n_pairs, record=record)


def score_parts(model: Decoder, clean: Encoded, head: str, query: int, key: int) -> tuple[np.ndarray, float]:
    """(parts of each prompt's score [rows, names, names], the softcap put on their sum, 0 without).

    names: the writers before the head's layer, and last the constant; a row is heard through the query, a column
    through the key.
    """
    from gossamer.models.huggingface.attention_score import score_form
    from gossamer.models.huggingface.reads import frozen, residual_at

    layer, number = _place(model, head)
    at = [_positions(clean, "query", query), _positions(clean, "key", key)]
    if bool((at[1] > at[0]).any()):
        raise BadInput(f"Expected a key at or before the query, got key {key} after query {query} in some prompts.")
    part = model.parts.layers[layer]
    form = score_form(model, clean, layer, number, *at)
    group = number // (model.shape.n_heads // model.shape.n_groups)

    @torch.no_grad()
    def heard(residual: Residual, reader: Any, rows: int, whole: Tensor) -> Tensor:
        """What each writer adds to a query or key, and last what is left of it, [names, rows, d_head]."""
        by_writer = frozen(part.attn_norm, residual.x)(residual.writes) @ reader.weight()[rows].T.to(residual.writes)
        return torch.cat([by_writer, (whole - by_writer.sum(0))[None]])

    there = residual_at(model, clean, layer, at)
    q, k = heard(there[0], part.q, number, form.q), heard(there[1], part.k, group, form.k)
    found = torch.einsum("ari,rij,brj->rab", q, form.matrix.to(q), k)
    found[:, :, -1] += torch.einsum("ari,ri->ra", q, form.left.to(q))
    found[:, -1, :] += torch.einsum("brj,rj->rb", k, form.right.to(k))
    found[:, -1, -1] += form.rest
    return found.cpu().double().numpy(), form.cap


def _place(model: Decoder, head: str) -> tuple[int, int]:
    """(layer, head) of a name such as a5.h1."""
    heads = [w for w in model.shape.writers if w.startswith("a")]
    if head not in heads:
        raise BadInput(f"Unknown head {head!r}: {nearest(head, heads)}")
    layer, number = re.findall(r"\d+", head)
    return int(layer), int(number)


def _positions(clean: Encoded, what: str, position: int) -> Tensor:
    """The position in each prompt, [rows]."""
    shortest = int(clean.last.min()) + 1
    if not -shortest <= position < shortest:
        raise BadInput(
            f"Expected a {what} position of {-shortest} to {shortest - 1}, the shortest prompt having {shortest} "
            f"tokens, got {position}."
        )
    return clean.last + 1 + position if position < 0 else torch.full_like(clean.last, position)
