"""What attention heads do on a task: copy, go on in a sequence, look at its members; and where the answer appears.

Lan, Torr and Barez 2024 (arXiv 2311.04131), section 4. For every head of a decoder:

- Next score and copy score, of its output-value circuit: x is the residual stream after the first block at a member of
  the sequence, and logits = U(N_f(W_O W_V N(x))) with the head's own norm N, the final norm N_f and the unembedding U:
  what the head would say if it looked only there and nothing came after it. The copy score is the share of members
  that are themselves among the `top` largest logits (Wang et al. 2022, arXiv 2211.00593, section 3.1), the next score
  the share whose successor is: the following member of the prompt, after the last one the answer.
- Attention: the share of the last token's attention that goes to each labelled stretch of the prompt.

And of the model, the logit lens (nostalgebraist 2020): U(N_f(.)) of the residual stream at the last token after every
sublayer, as the right answer's logit minus the wrong one's, and how often the right answer has the highest logit.

Labels are the spans of the pairs, else the blanks of their template (`{m0}`). Members are the labels `m0`, `m1`, ...
in order, or those that are named; without members every label counts for the copy score and there is no next score.

Nulls: of the scores, the same logits against targets dealt out anew among the samples; of attention, as many tokens
drawn from all that the last one sees; of the lens, the answers of other prompts; and beside each head all the others.

When it lies: a score reads weights, not use: a head that never looks at a member can have a copy score of 1. The first
block stands for the embedding; a head of the first layer reads something else. Heads work together, and a next score
through later MLPs is not seen. W_V includes its bias, so that a head can always name the same members: the dealt-out
targets show that. Attention says where values come from and not what they are. The lens reads early layers in the
final layer's terms; a gap that is not there need not be absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from gossamer.errors import BadInput, Unsupported, nearest, options
from gossamer.hypotheses import adjusted_p_values, null_p_value
from gossamer.record import Record
from gossamer.statistics import bootstrap_interval, quantile_interval
from gossamer.task import Chars, Encoded, Example, Task, check_pair, sides

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.models.huggingface import Decoder

Progress = Callable[[int, int, float], None]
_MEMBER = re.compile(r"m\d+")


class HeadRolesConfig(BaseModel):
    """top: how many of the largest logits count; members: labels of the sequence in order, empty: `m0`, `m1`, ...

    pairs: training pairs, their clean prompts; samples: members at most that scores are of, drawn by the seed from all;
    draws: of every null; pairs_at_once: memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: int = Field(default=5, gt=0)
    members: tuple[str, ...] = ()
    pairs: int = Field(default=64, gt=1)
    samples: int = Field(default=128, gt=1)
    draws: int = Field(default=999, gt=0)
    seed: int = Field(default=0, ge=0)
    pairs_at_once: int = Field(default=16, gt=0)


def head_roles_config(**changes: Any) -> HeadRolesConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(HeadRolesConfig, changes, "set of options")


class RoleScore(NamedTuple):
    """value: 0 to 1; null: its mean over draws and their central 95%; p_value: of a value as high among the draws,
    p_adjusted: over all heads (Benjamini and Hochberg); others: mean over all other heads, and their central 95%."""

    value: float
    null: float
    null_interval: tuple[float, float]
    p_value: float
    p_adjusted: float
    others: float
    others_interval: tuple[float, float]


class HeadRole(NamedTuple):
    """next_score: None where the task has no sequence of members; attention: by label."""

    head: str
    next_score: RoleScore | None
    copy_score: RoleScore
    attention: dict[str, RoleScore]


class LensPoint(NamedTuple):
    """The residual stream after `input` or a sublayer (`a0`, `m0`, ...). gap: right minus wrong answer's logit, mean
    over prompts, with a bootstrap interval; null: with answers of other prompts, mean and central 95% over draws;
    right: share of prompts whose right answer has the highest logit."""

    after: str
    gap: float
    interval: tuple[float, float]
    null: float
    null_interval: tuple[float, float]
    right: float


@dataclass(frozen=True, kw_only=True)
class HeadRoles:
    """heads in the order of the forward pass. record.details: the members, how many samples, and how many pairs had a
    label that begins or ends inside a token or is not to be found (`left_out`)."""

    heads: tuple[HeadRole, ...]
    lens: tuple[LensPoint, ...]
    record: Record


class _Samples(NamedTuple):
    """Members, one token each: prompt, position, token and the token of its successor, -1 without; [samples]."""

    row: Tensor
    position: Tensor
    token: Tensor
    following: Tensor


def head_roles(
    model: Decoder, task: Task, config: HeadRolesConfig | None = None, *, progress: Progress | None = None
) -> HeadRoles:
    """Roles of all heads on the clean prompts of a task's training pairs; nothing is ablated.

    progress(heads done, all heads, copy score of the last). Errors: Unsupported for what is no Hugging Face decoder;
    BadInput for pairs without labels, unknown members, or a `top` of the whole vocabulary.
    """
    from gossamer.models.huggingface import Decoder

    if not isinstance(model, Decoder):
        raise Unsupported(
            f"head roles of {type(model).__name__}", "its heads' weights are not read here", "a Hugging Face decoder"
        )
    config = config or HeadRolesConfig()
    examples, left_out = _labelled(model, task, config.pairs)
    clean = sides(model.encode(examples, positions="last"))[0]
    labels = list(dict.fromkeys(name for e in examples for name in e.spans))
    members = _members(labels, config.members)
    rng = np.random.default_rng(config.seed)
    samples = _samples(clean, members or tuple(labels), following=bool(members))
    if len(samples.row) < 2:
        raise BadInput(f"Expected members that are one token of {model.name}, {task.name} has {len(samples.row)}.")
    chosen = torch.from_numpy(np.sort(rng.permutation(len(samples.row))[: config.samples]))
    samples = _Samples(*(t[chosen] for t in samples))
    x, lens = _first_block_and_lens(model, clean, samples, config, rng)
    next_, copy = _scores(model, x, samples, config, rng, progress)
    attention = _attention(model, clean, labels, config, rng)
    names = [w for w in model.shape.writers if w.startswith("a")]
    heads = tuple(
        HeadRole(name, next_[i] if next_ else None, copy[i], {label: found[i] for label, found in attention.items()})
        for i, name in enumerate(names)
    )
    model_hash, means_hash = model.hashes()
    record = Record.now(
        method="head-roles", config=config.model_dump(mode="json"), seed=config.seed, model=model.name,
        model_sha256=model_hash, means_sha256=means_hash, task=task.name, task_version=task.version,
        details={
            "pairs": len(examples), "left_out": left_out, "members": list(members), "samples": len(samples.row),
            "methodology": "weights and whole runs are read, nothing is ablated",
        },
    )  # fmt: skip
    return HeadRoles(heads=heads, lens=lens, record=record)


def labels_of(example: Example) -> Mapping[str, tuple[Chars, Chars]]:
    """The spans of a pair, else the blanks of its template in both prompts (each at its first place); empty where the
    prompts do not follow the template."""
    if example.spans:
        return example.spans
    pattern, seen = "", list[str]()
    for literal, name, _, _ in Formatter().parse(example.template):
        pattern += re.escape(literal)
        if name is not None:
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"
            seen.append(name)
    both = [re.fullmatch(pattern, prompt, re.DOTALL) for prompt in (example.clean, example.counterfactual)]
    if both[0] is None or both[1] is None:
        return {}
    return {name: (both[0].span(name), both[1].span(name)) for name in dict.fromkeys(seen)}


def _labelled(model: Decoder, task: Task, pairs: int) -> tuple[list[Example], int]:
    """(the first pairs whose labels are whole tokens, with their labels as spans, how many before those are not)."""
    kept: list[Example] = []
    left_out = 0
    for example in task.train:
        labels = labels_of(example)
        if labels and not check_pair(found := replace(example, spans=labels), model.tokenizer, *model.limits).problems:
            kept.append(found)
        else:
            left_out += 1
        if len(kept) == pairs:
            break
    if len(kept) < 2:
        raise BadInput(
            f"Expected pairs of {task.name} with labels that {model.name} has as whole tokens, found {len(kept)} in "
            f"{len(task.train)}; mark spans, or give a template with blanks such as {{m0}}."
        )
    return kept, left_out


def _members(labels: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    if unknown := [name for name in asked if name not in labels]:
        raise BadInput(f"Unknown label {unknown[0]!r}: {nearest(unknown[0], labels)}")
    return tuple(asked) or tuple(sorted((n for n in labels if _MEMBER.fullmatch(n)), key=lambda n: int(n[1:])))


def _samples(clean: Encoded, members: Sequence[str], *, following: bool) -> _Samples:
    """Members that are one token; a successor that is several is none."""
    found: list[tuple[int, int, int, int]] = []
    for row in range(len(clean.tokens)):
        ends = [clean.marks.spans[m][row].tolist() for m in members]
        tokens = [int(clean.tokens[row, first]) if stop - first == 1 else -1 for first, stop in ends]
        after = [*tokens[1:], int(clean.answer[row])] if following else [-1] * len(tokens)
        found += [
            (row, first, token, then) for (first, _), token, then in zip(ends, tokens, after, strict=True) if token >= 0
        ]
    return _Samples(*torch.tensor(found, dtype=torch.int64).reshape(-1, 4).T)


@torch.no_grad()
def _first_block_and_lens(
    model: Decoder, clean: Encoded, samples: _Samples, config: HeadRolesConfig, rng: np.random.Generator
) -> tuple[Tensor, tuple[LensPoint, ...]]:
    """(the residual stream after the first block at the samples [samples, d], the lens)."""
    from gossamer.models.huggingface.reads import activations, logit_map

    x: list[Tensor] = []
    gaps: list[list[Tensor]] = []  # per batch and point: logits of all candidates [rows, candidates]
    right: list[list[Tensor]] = []
    candidates = torch.cat([clean.answer, clean.wrong]).unique()
    for start in range(0, len(clean.tokens), config.pairs_at_once):
        rows = torch.arange(start, min(start + config.pairs_at_once, len(clean.tokens)))
        batch = clean.rows(rows)
        run = activations(model, batch)
        own = (samples.row >= start) & (samples.row <= int(rows[-1]))
        first = run.start + run.layers[0]["attn"] + run.layers[0]["mlp"]
        x.append(first[samples.row[own].to(first.device) - start, samples.position[own].to(first.device)])
        at = torch.arange(len(rows), device=first.device), batch.last.to(first.device)
        stream = [run.start[at]]
        for layer in run.layers:
            stream += [stream[-1] + layer["attn"][at]]
            stream += [stream[-1] + layer["mlp"][at]]
        cap = logit_map(model, stream[-1], run.logits).cap
        gaps.append([])
        right.append([])
        for point in stream:
            logits = model.parts.head(model.parts.final_norm(point))
            logits = (cap * torch.tanh(logits / cap) if cap else logits).float().cpu()
            gaps[-1].append(logits[:, candidates])
            right[-1].append((logits >= logits.gather(1, batch.answer[:, None])).sum(1) == 1)
    answer, wrong = (torch.searchsorted(candidates, t.contiguous()).numpy() for t in (clean.answer, clean.wrong))
    n = len(answer)
    deals = np.stack([rng.permutation(n) for _ in range(config.draws)])
    names = ["input", *(f"{kind}{i}" for i in range(len(model.parts.layers)) for kind in "am")]
    lens: list[LensPoint] = []
    for i, name in enumerate(names):
        table = torch.cat([of_batch[i] for of_batch in gaps]).double().numpy()
        own_gap = table[np.arange(n), answer] - table[np.arange(n), wrong]
        dealt = (table[np.arange(n), answer[deals]] - table[np.arange(n), wrong[deals]]).mean(1)
        share = float(torch.cat([of_batch[i] for of_batch in right]).double().mean())
        lens.append(LensPoint(
            name, float(own_gap.mean()), bootstrap_interval(own_gap, config.seed), float(dealt.mean()),
            quantile_interval(dealt), share,
        ))  # fmt: skip
    return torch.cat(x), tuple(lens)


@torch.no_grad()
def says(model: Decoder, layer: int, x: Tensor) -> list[Tensor]:
    """What each head of a layer says of residual streams x [n, d] by its output-value circuit: logits [n, vocab] each,
    before a softcap, which changes no order."""
    from gossamer.models.huggingface.anatomy import weight_of

    parts = model.parts
    part = parts.layers[layer]
    seen = x if part.attn_norm is None else part.attn_norm(x)
    values, bias = part.v.weight(), part.v.bias()
    out = weight_of(part.out).unflatten(1, (parts.n_heads, -1))
    size = parts.n_heads // parts.n_groups
    found = []
    for head in range(parts.n_heads):
        group = head // size
        value = seen @ values[group].T + (0 if bias is None else bias[group])
        written = value @ out[:, head].T
        written = written if part.attn_post is None else part.attn_post(written)
        found.append(parts.head(parts.final_norm(written)))
    return found


def _scores(
    model: Decoder, x: Tensor, samples: _Samples, config: HeadRolesConfig, rng: np.random.Generator,
    progress: Progress | None,
) -> tuple[list[RoleScore] | None, list[RoleScore]]:  # fmt: skip
    """(next scores, where some sample has a successor; copy scores) of all heads."""
    from gossamer.models.huggingface.anatomy import weight_of

    vocabulary = weight_of(model.parts.head).shape[0]
    if config.top >= vocabulary:
        raise BadInput(f"Expected a top of fewer than the {vocabulary} tokens of {model.name}, got {config.top}.")
    with_next = samples.following >= 0
    every = np.ones(len(with_next), dtype=bool)
    asked = [(samples.token, every), (samples.following, with_next.numpy())]
    asked = [(targets, which) for targets, which in asked if which.sum() > 1]
    deals = [np.stack([rng.permutation(int(which.sum())) for _ in range(config.draws)]) for _, which in asked]
    found: list[list[tuple[float, np.ndarray]]] = [[] for _ in asked]
    for layer in range(model.shape.n_layers):
        for logits in says(model, layer, x):
            top = logits.topk(config.top, dim=1).indices.cpu()
            for place, (targets, which) in enumerate(asked):
                wanted, places = targets[which].unique(return_inverse=True)
                hits = (top[which][:, :, None] == wanted).any(1).double().numpy()  # [samples, targets]
                own, at = places.numpy(), np.arange(len(places))
                found[place].append((float(hits[at, own].mean()), hits[at, own[deals[place]]].mean(1)))
            if progress:
                progress(len(found[0]), model.shape.n_layers * model.parts.n_heads, found[0][-1][0])
    scored = [_role_scores(each) for each in found]
    return scored[1] if len(scored) > 1 else None, scored[0]


@torch.no_grad()
def _attention(
    model: Decoder, clean: Encoded, labels: Sequence[str], config: HeadRolesConfig, rng: np.random.Generator
) -> dict[str, list[RoleScore]]:
    """By label, of all heads."""
    from gossamer.models.huggingface.attention import attention_from_last

    parts = []
    for start in range(0, len(clean.tokens), config.pairs_at_once):
        seen = attention_from_last(model, clean.rows(slice(start, start + config.pairs_at_once)))
        parts.append(seen.transpose(1, 2).flatten(0, 1))  # [heads, rows, pos]
    pattern = torch.cat(parts, dim=1).double().numpy()
    ends = {label: clean.marks.spans[label].numpy() for label in labels}
    last = clean.last.numpy()
    found = {}
    for label in labels:
        first, stop = ends[label].T
        own = np.zeros(pattern.shape[:2])
        dealt = np.zeros((len(pattern), config.draws))
        for row, n in enumerate(stop - first):
            own[:, row] = pattern[:, row, first[row] : stop[row]].sum(1)
            order = rng.random((config.draws, last[row] + 1)).argsort(1)[:, :n]
            dealt += pattern[:, row][:, order].sum(2) / len(last)
        found[label] = _role_scores(list(zip(own.mean(1).tolist(), dealt, strict=True)))
    return found


def _role_scores(found: Sequence[tuple[float, np.ndarray]]) -> list[RoleScore]:
    """Of every head its value and its null's draws."""
    values = np.array([value for value, _ in found])
    p = [null_p_value(round(value, 9), np.round(draws, 9)).p_value for value, draws in found]
    adjusted = adjusted_p_values(p)
    scores = []
    for i, (value, draws) in enumerate(found):
        others = np.delete(values, i) if len(values) > 1 else values
        scores.append(RoleScore(
            float(value), float(draws.mean()), quantile_interval(draws), p[i], float(adjusted[i]),
            float(others.mean()), quantile_interval(others),
        ))  # fmt: skip
    return scores
