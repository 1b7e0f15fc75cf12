"""Is it the same circuit when it is found again? Other seeds, training prompts drawn again, other templates.

The circuit's own discovery (rediscovery.py) is run with its configuration, one thing changed at a time: the seed, where
the method has one; the training pairs it sees, drawn with replacement (Efron 1979; Méloux, Portet and Peyrard 2025,
arXiv 2510.00845, do this to EAP-IG); or the wording, half of the templates against the other half. Each circuit is
compared with the one on trial by the intersection of their parts over the union, IoU; of a circuit of channels with cut
edges the parts are its edges.

Random circuits overlap too: two that keep a share K of all parts by K / (2 - K) (Li and Subramani's check of reuse;
0.053 at 10%, 0.176 at 30%), more where they are matched by kind. The variance of a part's being kept, summed over
parts, is half of the number of parts in which two circuits differ: said for each thing changed.

When it lies: a method that always returns the same wrong circuit is stable. Halves of the templates have half of the
prompts as well. One thing at a time does not see what changes only together. Circuits of two sizes cannot overlap
wholly: the smaller over the larger is the most. With few runs an interval is no more than a warning.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gossamer.circuit import Circuit
from gossamer.errors import GossamerError
from gossamer.evidence import Evidence, Null
from gossamer.registry import check
from gossamer.set_overlap import mask_iou
from gossamer.statistics import bootstrap_interval, quantile_interval
from gossamer.task import Task
from gossamer.verify.rediscovery import Discovery, discovery_of
from gossamer.verify.same_procedure import not_measured
from gossamer.verify.trial import Trial

CLAIM = "stability: the same discovery finds the same circuit again"
UNIT = "mean IoU with the circuit"
DRAWS = 1000
_EMPTY = np.empty((3, 0), dtype=np.int64)
Changed = tuple[Task, int | None]
"""(task, seed in place of the configuration's) of a discovery"""


def chance_overlap(n: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """IoU of random sets with a and b of n parts of each kind (all [kinds]), as the ratio of the expected sizes of
    intersection and union. Of one kind and a share K each it is K / (2 - K)."""
    shared = float((a * b / np.maximum(n, 1)).sum())
    return shared / max(float(a.sum() + b.sum()) - shared, 1.0)


def chance_overlaps(n: np.ndarray, a: np.ndarray, b: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """IoU of a set with a of n parts of each kind with random sets with b of them (all [kinds]), [draws]: the number
    of shared parts of a kind is hypergeometric."""
    shared = rng.hypergeometric(a, n - a, b, (draws, len(n))).sum(1)
    return shared / np.maximum(a.sum() + b.sum() - shared, 1)


def variance_of(sets: np.ndarray) -> float:
    """Variance of being kept over sets (bool [sets, parts]), unbiased, summed over parts: half of the mean number of
    parts in which two of the sets differ."""
    return float(np.var(sets.astype(np.float64), axis=0, ddof=1).sum())


@check("stability")
def stability(trial: Trial, *, runs: int = 3, overlap: float = 0.5, steps: int | None = None) -> Evidence:
    """Mean IoU of circuits found again with the one on trial, beside random circuits of their sizes.

    runs: seeds, and draws of the training pairs, the circuit's own among them. A discovery that does not reach its
    target overlaps by 0. Passes if the interval (bootstrap over the circuits found again) lies above 97.5% of random
    ones and not below `overlap`. steps: for a cheaper search of masks, which the note then tells.
    """
    threshold = f"fails if the interval reaches down to random circuits of the same sizes or below {overlap:g}"
    try:
        discovery = discovery_of(trial, steps=steps)
        runs_of = {
            what: [_found(trial, discovery, task, seed) for task, seed in changed]
            for what, changed in _changes(trial, discovery, runs).items() if changed
        }  # fmt: skip
    except GossamerError as error:
        return not_measured(trial, CLAIM, threshold, str(error), UNIT)
    inside, again, own, sizes, total = _as_sets(trial, [c for circuits in runs_of.values() for c in circuits])
    ends = np.cumsum([len(circuits) for circuits in runs_of.values()])
    found = dict(zip(runs_of, np.split(again, ends[:-1]), strict=True))
    each = mask_iou(again, inside, empty=0)
    value, interval = float(each.mean()), bootstrap_interval(each, trial.seed)
    rng = np.random.default_rng([trial.seed, 5])
    random = np.mean([chance_overlaps(total, own, size, DRAWS, rng) for size in sizes], axis=0)
    expected = [chance_overlap(total, size, own) for size in sizes]
    chance = quantile_interval(random)
    good = interval[0] > chance[1] and interval[0] >= overlap
    return Evidence(
        claim=CLAIM, value=value, unit=UNIT, interval=interval, n=len(again), unit_of_n="circuits",
        nulls=(
            Null(name="random circuits of the sizes of those found again", value=float(random.mean()), interval=chance,
                 n=DRAWS),
        ),
        verdict="pass" if good else "fail", methodology=None, threshold=threshold, seed=trial.seed,
        note=" ".join([
            f"Expected of random ones: {np.mean(expected):.3g}.", *_told(inside, found),
            *(["The method draws nothing: no seeds to vary."] if not discovery.seeded else []),
            *(["One template: no wording to vary."] if "templates" not in found else []), discovery.notes,
        ]).strip(),
    )  # fmt: skip


def _changes(trial: Trial, discovery: Discovery, runs: int) -> dict[str, list[Changed]]:
    """(task, seed) of every discovery, by what is changed."""
    task, rng = trial.task, np.random.default_rng(trial.seed)
    pool, first = discovery.pool(task), trial.circuit.record.seed
    seeds: list[Changed] = [(task, first + i) for i in range(1, runs)] if discovery.seeded else []
    drawn: list[Changed] = []
    for i in range(1, runs):
        pairs = tuple(pool[j] for j in rng.integers(0, len(pool), size=len(pool)).tolist())
        drawn.append((replace(task, version=f"{task.version}-drawn-{trial.seed}-{i}", train=pairs), None))
    names = sorted({e.template for e in task.train})
    halves: list[Changed] = []
    if len(names) > 1:
        order = rng.permutation(len(names))
        for i, half in enumerate((order[::2], order[1::2])):
            chosen = {names[j] for j in half.tolist()}
            pairs = tuple(e for e in task.train if e.template in chosen)
            halves.append((replace(task, version=f"{task.version}-half-{trial.seed}-{i}", train=pairs), None))
    return {"seed": seeds, "prompts": drawn, "templates": halves}


def _found(trial: Trial, discovery: Discovery, task: Task, seed: int | None) -> Circuit | None:
    """None where it does not reach its target."""
    found = discovery.run(trial.model, task, seed=seed, progress=trial.progress)
    return found.circuit if found.reached else None


def _as_sets(
    trial: Trial, circuits: Sequence[Circuit | None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(parts of the circuit on trial, bool [parts]; of these circuits, [circuits, parts]; their number by kind,
    [kinds] and [circuits, kinds]; that of the whole model, [kinds]). Where parts are edges of channels, they are those
    that some circuit has."""
    if trial.circuit.granularity == "edge" and trial.circuit.layout.grain == "channel":
        graph, nodes = trial.model.graph("channel"), trial.circuit.layout.n_nodes
        shape = (len(graph.matrices), nodes, nodes)
        edges = [_EMPTY if c is None else np.stack([c.matrix, c.src, c.dst]) for c in (trial.circuit, *circuits)]
        keys = [np.ravel_multi_index(tuple(e.astype(np.int64)), shape) for e in edges]
        seen = np.unique(np.concatenate(keys))
        sets = np.stack([np.isin(seen, k) for k in keys])
        sizes = np.stack([np.bincount(e[0], minlength=len(graph.matrices)) for e in edges])
        total = graph.counts()
    else:
        empty = np.zeros_like(trial.inside)
        sets = np.stack([trial.inside, *(empty if c is None else trial.retried(c).inside for c in circuits)])
        total = np.bincount(trial.kinds)
        sizes = np.stack([np.bincount(trial.kinds[row], minlength=len(total)) for row in sets])
    return sets[0], sets[1:], sizes[0], sizes[1:], total


def _told(inside: np.ndarray, found: dict[str, np.ndarray]) -> list[str]:
    """Per thing changed the overlaps and the variance, in words. Templates vary between the two halves; the circuit on
    trial is one more draw of a seed and of the prompts."""
    sets = {what: kept if what == "templates" else np.concatenate([kept, inside[None]]) for what, kept in found.items()}
    variance = {what: variance_of(each) for what, each in sets.items()}
    total = sum(variance.values())
    told = []
    for what, kept in found.items():
        sizes = ", ".join(str(int(row.sum())) for row in kept)
        between = np.mean([mask_iou(a, b, empty=0) for a, b in itertools.combinations(sets[what], 2)])
        part = f" ({variance[what] / total:.0%})" if total > 0 else ""
        n = int((~kept.any(-1)).sum())
        missed = f" ({n} not reached)" if n else ""
        same = mask_iou(kept, inside, empty=0).mean()
        told.append(
            f"{what}: IoU {same:.3g} with the circuit, {between:.3g} among themselves, "
            f"{sizes} parts{missed}, variance {variance[what]:.3g}{part}."
        )
    return told
