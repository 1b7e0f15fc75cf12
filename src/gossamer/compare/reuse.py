"""Do the examples of a task use the same parts, and does the task need those? (Li and Subramani 2026, arXiv 2605.08348)

Every pair has a circuit of its own, C_i: the floor(K N), at least 1, of N nodes with the largest attributions, a node's
being the sum over what comes out of it of |attribution|. The core S(K, p) are the nodes in ceil(p n) or more of the n
circuits, and

    reuse@p = |S(K, p)| / |C|.

Chance is exact: of random sets with as many nodes of each kind, a node of kind t is in circuit i with the probability
c_it / n_t, independently for every i, so it is in enough of them with a Poisson-binomial probability; summed over nodes
and divided by |C| (for p = 1 and one kind K^(n - 1): 1e-9 for 10% and 10 examples). The p-value is an upper bound,
E|S| / |S| (Markov), exact for any dependence.

The core is found on training pairs and judged on held-out ones: it is ablated at all positions, beside random sets with
as many nodes of each kind out of all; its p-value is the rank of its share lost among theirs, so that a random core
passes as often as the level says. An empty core has no necessity: it is said to be empty.

When it lies: attributions are first-order and of either sign, so parts that hinder are in the circuits too. Nodes that
are busy on every prompt of whatever task are in every circuit; reuse is high for those, which is what the cross-task
matrix (gossamer.compare.specificity) is for. Pairs of one template are hardly different examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gossamer.compare.overlap import LEVEL, kind_shown
from gossamer.compare.parts import (
    LEAST_DRAWS,
    ROUNDING,
    TOO_FEW,
    Lost,
    Parts,
    central_95,
    countable,
    lost,
    matched,
    require_effect,
)
from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null
from gossamer.hypotheses import null_p_value
from gossamer.set_overlap import expected_iou_by_type, mean_overlap

SHARES = (0.01, 0.05, 0.1, 0.2, 0.3)
AT = (0.95, 1.0)
PAIRS, DRAWS = 64, 20


@dataclass(frozen=True)
class Shared:
    """reuse@p of the nodes of one kind: how many are in the core, out of how many a circuit has of it (mean)."""

    kind: str
    core: int
    size: float


@dataclass(frozen=True)
class ReuseRow:
    """One size K (a share of the nodes) and one p. size: |C|; examples: n, those left out had no attribution at all.

    core: names of S; reuse with its chance and the bound of its p-value; iou: mean over pairs of the examples'
    circuits, beside that of random ones. necessity: of the core on held-out pairs, beside `draws` random sets (mean
    share lost, and the central 95% of their means, None of fewer than 20); p_ablated: of as much lost by a random set,
    smallest: the least that so many can give. outcome `empty`: there is no core, and nothing was ablated.
    """

    share: float
    at: float
    size: int
    examples: int
    left_out: int
    core: tuple[str, ...]
    outcome: Literal["measured", "empty"]
    reuse: float
    chance: float
    p_value: float
    kinds: tuple[Shared, ...]
    iou: float | None
    iou_chance: float | None
    necessity: Lost | None
    random: float | None
    random_interval: tuple[float, float] | None
    p_ablated: float | None
    smallest: float | None
    draws: int


def example_circuits(trial: Parts, share: float, attributions: np.ndarray | None = None) -> np.ndarray:
    """bool [examples, nodes]: the circuit of every pair of the trial that has an attribution at all.

    share: of the nodes, 0 to 1; attributions: of the trial's parts [pairs, parts], the trial's own if they are at hand.
    """
    nodes = trial.of_nodes()
    free = countable(nodes)
    if not 0 < share <= 1:
        raise BadInput(f"Expected a share of the nodes above 0 and up to 1, got {share:g}.")
    sizes = np.abs(trial.attributions() if attributions is None else attributions)
    scores = np.stack([np.bincount(trial.sources, row, len(nodes.kinds)) for row in sizes])
    scores = scores[scores.any(1)]
    if not len(scores):
        raise BadInput(f"Expected pairs of {trial.task.name} whose answer depends on some part, none does.")
    order = np.argsort(-np.where(free, scores, -1.0), axis=1, kind="stable")
    found = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(found, order[:, : size_of(share, int(free.sum()))], True, axis=1)
    return found


def size_of(share: float, nodes: int) -> int:
    """Nodes of a circuit: the floor of a share of all, at least one."""
    return max(1, math.floor(share * nodes + 1e-9))


def shared_by(circuits: np.ndarray, at: float) -> np.ndarray:
    """bool [nodes]: in ceil(at * n) or more of the n circuits (bool [n, nodes])."""
    if not 0 < at <= 1:
        raise BadInput(f"Expected a share of the examples above 0 and up to 1, got {at:g}.")
    return np.asarray(circuits.sum(0) >= math.ceil(at * len(circuits) - 1e-9))


def expected_core(circuits: np.ndarray, kinds: np.ndarray, at: float) -> float:
    """Mean size of the core of random circuits with as many nodes of each kind; kinds: [nodes]."""
    needed, total = math.ceil(at * len(circuits) - 1e-9), 0.0
    for kind in np.unique(kinds):
        here = kinds == kind
        often = np.ones(1)  # probability that a node is in so many circuits
        for p in circuits[:, here].mean(1):
            often = np.convolve(often, [1 - p, p])
        total += int(here.sum()) * float(often[needed:].sum())
    return total


def reuse(
    trial: Parts, *, shares: Sequence[float] = SHARES, at: Sequence[float] = AT, pairs: int = PAIRS,
    draws: int = DRAWS, value: str | None = None,
) -> tuple[ReuseRow, ...]:  # fmt: skip
    """Reuse, its chance and the core's necessity at every size and every p. pairs: training ones whose circuits are
    found; draws: random sets beside the core. value: of the ablation, default the trial's own."""
    if min(pairs, draws) < 1 or len(trial.task.train) < 2:
        raise BadInput(
            f"Expected at least 2 training pairs, 1 pair and 1 draw, got {len(trial.task.train)}, {pairs} and {draws}."
        )
    there, nodes = trial.on(trial.task.train[:pairs]), trial.of_nodes()
    attributions, free = there.attributions(), countable(nodes)
    kinds = np.array([kind_shown(nodes.part(i).partition(":")[0]) for i in range(len(nodes.kinds))])
    types = np.unique(nodes.kinds, return_inverse=True)[1]
    counts = np.bincount(types[free])
    rows = []
    for share in shares:
        circuits = example_circuits(there, share, attributions)
        size = int(circuits[0].sum())
        of_type = np.stack([np.bincount(types[c], minlength=len(counts)) for c in circuits])
        mean_sizes = of_type.sum(0) // len(circuits)
        iou = chance = None
        if len(circuits) > 1:
            iou = mean_overlap([np.flatnonzero(c) for c in circuits])
            if mean_sizes.any():
                chance = expected_iou_by_type(counts.tolist(), mean_sizes.tolist(), mean_sizes.tolist())
        for p in at:
            core = shared_by(circuits, p)
            n, expected = int(core.sum()), expected_core(circuits[:, free], types[free], p)
            of_kinds = [(k, kinds == k) for k in dict.fromkeys(kinds[free].tolist()) if circuits[:, kinds == k].any()]
            rows.append(ReuseRow(
                share=share, at=p, size=size, examples=len(circuits), left_out=len(attributions) - len(circuits),
                core=tuple(nodes.part(int(i)) for i in np.flatnonzero(core)), outcome="measured" if n else "empty",
                reuse=n / size, chance=expected / size, p_value=min(1.0, expected / n) if n else 1.0,
                kinds=tuple(Shared(k, int(core[h].sum()), float(circuits[:, h].sum(1).mean())) for k, h in of_kinds),
                iou=iou, iou_chance=chance, draws=draws, **_necessity(nodes, core, draws, value),
            ))  # fmt: skip
    return tuple(rows)


def _necessity(nodes: Parts, core: np.ndarray, draws: int, value: str | None) -> dict[str, Any]:
    if not core.any():
        return dict.fromkeys(("necessity", "random", "random_interval", "p_ablated", "smallest"))
    random = matched(nodes, core, draws, np.random.default_rng(nodes.seed))
    n = len(core)
    sets = np.concatenate([np.zeros((1, n), dtype=bool), np.ones((1, n), dtype=bool), ~core[None], ~random])
    empty, whole, own, *others = nodes.effects(sets, value=value)
    require_effect(nodes, empty, whole)
    found, _ = lost(own, empty, whole, nodes.seed)
    shares = (whole - np.stack(others)).mean(1) / (whole - empty).mean()
    p, smallest = null_p_value(found.share, shares + ROUNDING)  # a random set that loses the same is a tie
    return {
        "necessity": found, "random": float(shares.mean()), "random_interval": central_95(shares), "p_ablated": p,
        "smallest": smallest,
    }  # fmt: skip


def reuse_evidence(trial: Parts, rows: Sequence[ReuseRow], value: str | None = None) -> tuple[Evidence, ...]:
    """Two claims per row: that the examples share a core, and that the task needs it more than other parts."""
    name, found = trial.task.name, []
    how = trial.of_nodes().methodology(value, "circuit").as_dict()
    for row in rows:
        which = f"{name}, K {row.share:.0%}, p {row.at:.0%}"
        left = f" {row.left_out} pairs without any attribution left out." if row.left_out else ""
        told = "; ".join(f"{s.kind} {s.core} of {s.size:.3g}" for s in row.kinds if s.core) or "none"
        found.append(Evidence(
            claim=f"reuse ({which}): the examples' circuits share more than random ones do", value=row.reuse,
            unit="nodes of the core over nodes of a circuit", n=row.examples, seed=trial.seed,
            nulls=(Null(name="random circuits, as many nodes of every type", value=row.chance, n=row.examples),),
            verdict="pass" if row.outcome == "measured" and row.p_value <= LEVEL else "fail", methodology=None,
            threshold=f"fails if the core is empty or random circuits have one as large with a probability above "
            f"{LEVEL:g} (upper bound)", p_value=row.p_value,
            note=f"{len(row.core)} of {row.size} nodes in {row.at:.0%} of {row.examples} circuits; by kind: {told}."
            + left,
        ))  # fmt: skip
        fields = {
            "claim": f"core ({which}): the task needs its core more than as many random nodes",
            "unit": "share of the effect lost", "n": trial.n_pairs, "seed": trial.seed, "methodology": how,
            "threshold": f"fails if random sets cost as much with a probability above {LEVEL:g} (its rank)",
        }  # fmt: skip
        if row.necessity is None or row.random is None:
            found.append(Evidence.model_validate({
                **fields, "value": None, "verdict": "not measured",
                "note": "Empty: there is no node that enough examples share, so nothing was ablated.",
            }))  # fmt: skip
            continue
        few = row.draws < LEAST_DRAWS
        gain = f"{row.necessity.share / row.random:.3g} times" if row.random > 0 else "not comparable with"
        found.append(Evidence.model_validate({
            **fields, "value": row.necessity.share, "interval": row.necessity.interval,
            "nulls": (Null(name="random sets, as many nodes of every type", value=row.random,
                           interval=row.random_interval, n=row.draws),),
            "verdict": "not measured" if few else "pass" if (row.p_ablated or 0) <= LEVEL else "fail",
            "p_value": row.p_ablated, "p_smallest": row.smallest,
            "note": f"{row.necessity.logits:.3g} logits; accuracy falls to {row.necessity.accuracy:.3f}, by "
            f"{row.necessity.relative:.1%} of what it was; {gain} the random sets.{f' {TOO_FEW}' if few else ''}",
        }))  # fmt: skip
    return tuple(found)
