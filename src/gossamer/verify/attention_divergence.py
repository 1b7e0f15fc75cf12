"""Do the circuit's heads look where they look in the whole model?

A head that attends to a name became uniform when pruning kept none of its queries and keys, and the circuit went on
with values that are there on names alone (Drori 2026, "interpretable yet unfaithful", on the weight-sparse circuits of
Gao et al. 2025, arXiv 2511.13653). Per head the total variation distance between the two patterns: the share of its
attention that lies elsewhere, 0 to 1. It is bounded and reads as it is; Jensen-Shannon's is not a share of anything and
weighs near-zero probabilities by their logarithm.

When it lies: a head can look elsewhere and read the same (keys with equal values), or look at the same places for
another reason; a head whose pattern is uniform in the whole model cannot fail. Heads are weighed by first-order
attributions in the whole model.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import Unsupported
from gossamer.evidence import Evidence, Null
from gossamer.registry import check
from gossamer.statistics import bootstrap_interval, quantile_interval
from gossamer.verify.edge_faithfulness import FEWEST
from gossamer.verify.trial import Trial, Watch, nodes_of, random_sets

AT_ONCE = 16  # pairs
UNIFORM = 0.98  # of the largest entropy
WORST = 5
_HEAD = re.compile(r"a(\d+)(?:\.h(\d+))?")


class _Patterns(NamedTuple):
    """Per pair and head, [pairs, heads of all layers]: distance at the last token, its mean over the tokens after the
    first, and entropy at the last token in the whole model and in the circuit, over the largest there is."""

    last: np.ndarray
    everywhere: np.ndarray
    entropy: np.ndarray
    own_entropy: np.ndarray


@check("attention-divergence")
def attention_divergence(trial: Trial, *, most: float = 0.2, draws: int = 10, pairs: int = 32) -> Evidence:
    """Total variation distance between each head's pattern from the last token in the whole model and inside the
    circuit, meaned over both prompts of the first `pairs` held-out pairs and over heads, weighed by the attribution of
    what is kept of them. Heads of which the circuit keeps no value are left out: their pattern moves nothing.

    Passes if the interval (over pairs) reaches down to `most`.
    """
    n = min(pairs, trial.n_pairs)
    fields = {
        "claim": "attention-divergence: the circuit's heads look where they look in the whole model", "n": n,
        "unit": "total variation distance of attention patterns", "seed": trial.seed,
        "methodology": trial.methodology().as_dict(),
        "threshold": f"fails if the whole interval is above {most:g}",
    }  # fmt: skip

    def not_measured(why: str) -> Evidence:
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": f"{why}."})

    if n < FEWEST:
        return not_measured(f"{n} pairs are too few for an interval, {FEWEST} are needed")
    sets = np.concatenate([trial.inside[None], random_sets(trial, draws, trial.seed)])
    try:
        found, heads = _patterns(trial, sets, n)
    except Unsupported as error:
        return not_measured(str(error).rstrip("."))
    weights, how = _weights(trial, sets, heads)
    if not weights[0].any():
        return not_measured("the circuit keeps the values of no attention head")
    per_pair = found[0].last @ weights[0] / weights[0].sum()
    means = np.array([f.last.mean(0) @ w / w.sum() for f, w in zip(found[1:], weights[1:], strict=True) if w.any()])
    interval = bootstrap_interval(per_pair, trial.seed)
    nulls = [Null(name="full circuit", value=0.0, n=n)]
    if len(means):
        nulls.insert(
            0, Null(name=trial.null, value=float(means.mean()), interval=quantile_interval(means), n=len(means))
        )
    return Evidence.model_validate({
        **fields, "value": float(per_pair.mean()), "interval": interval, "nulls": tuple(nulls),
        "verdict": "pass" if interval[0] <= most else "fail", "note": _note(found[0], weights[0], heads, how),
    })  # fmt: skip


class _Heads(NamedTuple):
    """Which nodes are a head's values: nodes and heads in parallel, head numbers running through the layers."""

    node: np.ndarray
    head: np.ndarray
    names: tuple[str, ...]


def _heads(trial: Trial, layers: int, n_heads: int) -> _Heads:
    """At channel grain what a head hands to the output map, or its value channels; above it the head."""
    names = tuple(f"a{i}.h{h}" for i in range(layers) for h in range(n_heads))
    layout, nodes, heads = trial.circuit.layout, list[np.ndarray](), list[np.ndarray]()
    if layout.grain == "channel":
        for i in range(layers):
            name = next(s for s in (f"{i}.attn.z", f"{i}.attn.v") if s in layout.starts)
            width = layout.width(name)
            nodes.append(layout.starts[name] + np.arange(width))
            heads.append(i * n_heads + np.arange(width) // (width // n_heads))
    else:
        for number in np.unique(trial.sources):
            if match := _HEAD.fullmatch(trial.node(int(number))):
                layer, head = match.groups()
                own = range(n_heads) if head is None else (int(head),)
                heads.append(int(layer) * n_heads + np.array(own))
                nodes.append(np.full(len(own), number))
    return _Heads(np.concatenate(nodes), np.concatenate(heads), names)


def _weights(trial: Trial, sets: np.ndarray, heads: _Heads) -> tuple[np.ndarray, str]:
    """(weight of each head under each set [sets, heads], how heads are weighed); heads of a set whose attributions are
    all 0 weigh alike."""
    try:
        size, how = np.abs(trial.attributions().mean(0)), "weighed by attribution"
    except Unsupported:
        size, how = np.ones(len(trial.kinds)), "weighed by the number of parts kept"
    found = np.zeros((len(sets), len(heads.names)))
    for row, kept in zip(found, sets, strict=True):
        per_node = np.bincount(trial.sources[kept], size[kept], int(trial.sources.max()) + 1)
        np.add.at(row, heads.head, per_node[heads.node])
        if not row.any():
            row[heads.head[np.isin(heads.node, nodes_of(trial, kept))]] = 1.0
    return found, how


def _patterns(trial: Trial, sets: np.ndarray, n: int) -> tuple[list[_Patterns], _Heads]:
    """What each set does to the patterns, and the heads."""
    every, parts = np.ones(len(trial.kinds), dtype=bool), list[list[_Patterns]]()
    shape = (0, 0)
    for start in range(0, n, AT_ONCE):
        stop = min(start + AT_ONCE, n)
        whole = trial.attention(every, start, stop)
        shape = whole.seen.shape[2], whole.seen.shape[3]
        parts.append([])
        for done, kept in enumerate(sets):
            parts[-1].append(_compared(whole, trial.attention(kept, start, stop)))
            if trial.progress:
                trial.progress(
                    start // AT_ONCE * len(sets) + done + 1,
                    -(-n // AT_ONCE) * len(sets),
                    float(parts[-1][-1].last.mean()),
                )
    found = [_Patterns(*(np.concatenate(a) for a in zip(*of_set, strict=True))) for of_set in zip(*parts, strict=True)]
    return found, _heads(trial, *shape)


def _compared(whole: Watch, own: Watch) -> _Patterns:
    rows, last = torch.arange(len(whole.last)), whole.last
    distance = 0.5 * (whole.seen - own.seen).abs().sum(-1).flatten(2)
    where = torch.arange(distance.shape[1])
    later = ((where > 0) & (where <= last[:, None])).to(distance)[..., None]
    per_row = (
        distance[rows, last], (distance * later).sum(1) / later.sum(1).clamp(min=1),
        _entropy(whole.seen[rows, last], last), _entropy(own.seen[rows, last], last),
    )  # fmt: skip
    return _Patterns(*(t.unflatten(0, (-1, 2)).mean(1).double().numpy() for t in per_row))


def _entropy(pattern: Tensor, last: Tensor) -> Tensor:
    """Entropy over the tokens seen [rows, heads of all layers], 1 where they are seen alike; without what a sink takes.
    pattern: [rows, layers, heads, keys] at the last token."""
    tokens = pattern[..., : int(last.max()) + 1].flatten(1, 2).double()
    tokens = tokens / tokens.sum(-1, keepdim=True).clamp(min=1e-12)
    most = (last + 1).double().log().clamp(min=1e-12)[:, None]
    return torch.special.entr(tokens).sum(-1) / most


def _note(found: _Patterns, weights: np.ndarray, heads: _Heads, how: str) -> str:
    kept, last = np.flatnonzero(weights), found.last.mean(0)
    before, after = found.entropy.mean(0), found.own_entropy.mean(0)
    flat = [h for h in kept if after[h] >= UNIFORM > before[h]]
    worst = sorted(kept, key=lambda h: -last[h] * weights[h])[:WORST]
    said = [f"{heads.names[h]} {last[h]:.2f} (entropy {before[h]:.2f} to {after[h]:.2f})" for h in worst]
    everywhere = found.everywhere.mean(0) @ weights / weights.sum()
    became = f" Uniform inside the circuit alone: {', '.join(heads.names[h] for h in flat)}." if flat else ""
    return (
        f"{len(kept)} heads, {how}; not weighed {last[kept].mean():.3g}; over all tokens after the first "
        f"{everywhere:.3g}. Largest shares, with entropy over its largest: {', '.join(said)}.{became}"
    )
