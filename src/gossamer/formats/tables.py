"""What a file says of every edge, as tables of writers and readers per query head, made a circuit or scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile
from gossamer.formats.files import record_of, several
from gossamer.formats.heads import PerQueryHead
from gossamer.record import Record
from gossamer.scores import EdgeScores

Metric = Literal["loss", "value"]
SIGNS: dict[Metric, int] = {"loss": -1, "value": 1}


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """Tables [writers, readers] of a file: kept (bool) and scores (None: it has none).

    complete: whether the file speaks of every edge; metric: whether its scores are of a loss or of a value, None where
    it does not say; config: what else it says of itself; notes: what it cannot tell, and what reading left out;
    origin: the record of ours that it carries.
    """

    kept: np.ndarray
    scores: np.ndarray | None
    complete: bool = True
    metric: Metric | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    origin: Record | None = None


def content_of(edges: Mapping[str, Any], path: Path, table: PerQueryHead, **more: Any) -> Content:
    """Edges by EAP-IG's names, each with `in_graph` and, all or none of them, a finite `score`.

    An edge that is not listed is not kept. Errors: CorruptFile with every edge that cannot be.
    """
    problems: list[str] = []
    places: list[tuple[int, int]] = []
    inside: list[bool] = []
    scores: list[float] = []
    before = table.exists.sum(0).tolist()
    for name, info in edges.items():
        source, _, target = name.partition("->")
        row, column = table.writers.get(source), table.columns.get(target)
        if row is None or column is None or row >= before[column]:
            problems.append(f"{name!r} is no edge of this model")
        elif not isinstance(info, dict) or not isinstance(info.get("in_graph"), bool):
            problems.append(f"{name} does not say whether it is in_graph")
        else:
            places.append((row, column))
            inside.append(info["in_graph"])
            if "score" in info:
                scores.append(number(info["score"]))
                if not math.isfinite(scores[-1]):
                    problems.append(f"{name} has the score {info['score']!r}")
    if problems:
        raise CorruptFile(f"{path} has {len(problems)} edges that cannot be: {several(problems)}.")
    n = len(edges)
    if len(scores) not in (0, n):
        raise CorruptFile(f"{path} scores {len(scores)} of the {n} edges that it lists; it can score all or none.")
    at = tuple(np.array(places, dtype=np.int64).reshape(-1, 2).T)
    kept, values = np.zeros(table.exists.shape, dtype=bool), np.zeros(table.exists.shape)
    kept[at] = inside
    if scores:
        values[at] = scores
    notes = list(more.pop("notes", ()))
    if n < table.n_edges:
        notes.append(f"the file lists {n} of the model's {table.n_edges} edges; the others are not in the circuit")
    return Content(
        kept=kept, scores=values if scores else None, complete=n == table.n_edges, notes=tuple(notes), **more
    )


def number(value: Any) -> float:
    """A number of JSON; NaN for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def largest(content: Content, table: PerQueryHead, size: int) -> Content:
    """The same scores with the `size` edges of largest |score| kept, counted per query head; ties in table order."""
    if not 0 < size <= table.n_edges:
        raise BadInput(f"Expected a size of 1 to {table.n_edges} edges, got {size}.")
    if content.scores is None:
        raise BadInput("Expected a file with scores, of which to keep the largest; this one has none.")
    places = np.flatnonzero(table.exists)
    order = np.argsort(-np.abs(content.scores.flat[places]), kind="stable")[:size]
    kept = np.zeros(table.exists.shape, dtype=bool)
    kept.flat[places[order]] = True
    return replace(content, kept=kept, config={**content.config, "size": size})


def circuit_of(content: Content, table: PerQueryHead, path: Path, method: str, metric: Metric | None) -> Circuit:
    """The edges that are kept, with their scores as weights: in our sign where the metric is known, NaN without."""
    known = metric or content.metric
    notes = list(content.notes)
    if content.scores is not None and known is None:
        notes.append("the sign of the weights is the file's, which does not say whether its metric was a loss")
    weights = None if content.scores is None else content.scores * SIGNS[known or "value"]
    return table.circuit(
        content.kept, weights, record_of(method, path, notes, content.origin, **content.config, metric=known)
    )


def scores_of(content: Content, table: PerQueryHead, path: Path, method: str, metric: Metric | None) -> EdgeScores:
    """The scores in our sign. Errors: CorruptFile where an edge has none, BadInput where the metric is not known."""
    known = metric or content.metric
    if content.scores is None or not content.complete:
        raise CorruptFile(f"{path} does not score all of its {table.n_edges} edges; read it as a circuit.")
    if known is None:
        raise BadInput(
            f"{path} does not say what its scores are of. Give metric='loss' if a positive score is an edge that the "
            "task needs (EAP-IG's demos and MIB attribute the negative logit difference), metric='value' if a "
            "negative one is."
        )
    record = record_of(method, path, content.notes, content.origin, **content.config, metric=known)
    details = {**record.details, "sign": "change of the metric when the edge is ablated"}
    return EdgeScores(
        graph=table.graph, values=table.sums(content.scores * SIGNS[known]),
        record=record.model_copy(update={"details": details}),
    )  # fmt: skip
