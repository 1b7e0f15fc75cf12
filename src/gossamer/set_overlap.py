"""How much do sets (the nodes or edges of circuits) have in common, and how much would random ones? numpy only.

|A & B| over the union is IoU, over the smaller set IoM (the overlap coefficient), over A the share of A in B. Random
sets of a and of b out of n items share k of them with the hypergeometric probability C(a, k) C(n - a, b - k) / C(n, b),
so their expected IoU is the mean of k / (a + b - k), which for many items and a share K each goes to K / (2 - K): 0.053
at 10%, 0.176 at 30%. An overlap without that number beside it says nothing.

When it lies: circuits are not uniform draws. Sizes per type (layer, kind of node) explain much of what circuits share,
hence the type-matched forms; within a type busy nodes are still shared by everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from gossamer.errors import BadInput, nearest
from gossamer.hypotheses import null_p_value
from gossamer.statistics import quantile_interval

Measure = Literal["iou", "iom"]
_NEGLIGIBLE = 1e-20  # of a probability, beside the largest


def _shared(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int]:
    a, b = np.unique(a), np.unique(b)
    if not len(a) or not len(b):
        raise BadInput(f"Expected two sets with something in them, got sizes {len(a)} and {len(b)}.")
    return len(np.intersect1d(a, b, assume_unique=True)), len(a), len(b)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two sets of numbers, 0 to 1. BadInput where one is empty, here and below."""
    both, n_a, n_b = _shared(a, b)
    return both / (n_a + n_b - both)


def mask_iou(a: np.ndarray, b: np.ndarray, *, empty: float) -> np.ndarray:
    """`iou` of sets given as masks, bool [.., items] that broadcast: [..]; `empty` where both are empty.

    What two empty sets share depends on the claim: a search that finds nothing twice has found nothing again (0), and
    is no rival of itself (1).
    """
    joint = (a | b).sum(-1)
    return np.where(joint == 0, empty, (a & b).sum(-1) / np.maximum(joint, 1))


def iom(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over the smaller set (the overlap coefficient), 0 to 1: 1 where one contains the other."""
    both, n_a, n_b = _shared(a, b)
    return both / min(n_a, n_b)


def containment(a: np.ndarray, b: np.ndarray) -> float:
    """The share of a that is in b, 0 to 1; the only one of the three that is not symmetric."""
    both, n_a, _ = _shared(a, b)
    return both / n_a


def expected_iou(n: int, a: int, b: int) -> float:
    """Mean IoU of two random sets of a and of b out of n items: exact, to rounding."""
    return expected_iou_by_type([n], [a], [b])


def expected_iou_by_type(n: Sequence[int], a: Sequence[int], b: Sequence[int]) -> float:
    """As expected_iou, of random sets with a[t] and b[t] of the n[t] items of type t: exact, to rounding.

    What types share is independent, so the number shared is the sum of hypergeometric ones.
    """
    start, weight, total = _shared_by_type(n, a, b)
    both = start + np.arange(len(weight))
    return float((weight * both / (total - both)).sum())


class Chance(NamedTuple):
    """iou: of two random sets, its mean; p_value: probability that they share as many items or more; smallest: that
    they share as many as such sets can. None of them is below 1e-20, where the arithmetic ends."""

    iou: float
    p_value: float
    smallest: float


def chance(n: Sequence[int], a: Sequence[int], b: Sequence[int], shared: int) -> Chance:
    """Sets with a[t] and b[t] of the n[t] items of type t that share so many in all, against random ones: exact.

    The p-value is that of a permutation test with all permutations of the items within their types (Fisher's exact
    test; with one type the tail of the hypergeometric distribution). IoU and IoM of sets of these sizes rise with the
    number shared, so it is the p-value of each.
    """
    most = sum(min(own, other) for own, other in zip(a, b, strict=True))
    least = sum(max(0, own + other - items) for items, own, other in zip(n, a, b, strict=True))
    if not least <= shared <= most:
        raise BadInput(f"Expected sets that share {least} to {most} items, got {shared}.")
    start, weight, total = _shared_by_type(n, a, b)
    both = start + np.arange(len(weight))
    tail = np.minimum(np.cumsum(weight[::-1])[::-1], 1.0)

    def at_least(k: int) -> float:
        return float(tail[max(0, k - start)]) if k - start < len(tail) else _NEGLIGIBLE

    mean = float((weight * both / (total - both)).sum())
    return Chance(mean, max(at_least(shared), _NEGLIGIBLE), max(at_least(most), _NEGLIGIBLE))


def _shared_by_type(n: Sequence[int], a: Sequence[int], b: Sequence[int]) -> tuple[int, np.ndarray, int]:
    """(smallest number shared that is likely at all, probabilities from there on, sum of the sizes of both sets)."""
    sizes = np.array([n, a, b], dtype=np.int64)
    if not ((sizes[1:] >= 0) & (sizes[1:] <= sizes[0])).all() or not sizes[1:].sum(1).all():
        raise BadInput(f"Expected two sets that are not empty, of each type at most all, got {list(n)}, {list(a)}, "
                       f"{list(b)}.")  # fmt: skip
    start, weight = 0, np.ones(1)
    for items, own, other in sizes.T.tolist():
        first, here = _hypergeometric(items, own, other)
        start, weight = start + first, np.convolve(weight, here)
        first, weight = _trimmed(weight)
        start += first
    return start, weight / weight.sum(), int(sizes[1:].sum())


def _hypergeometric(n: int, a: int, b: int) -> tuple[int, np.ndarray]:
    """(smallest number shared that is likely at all, probabilities from there on), by the ratio of neighbours."""
    low, high = max(0, a + b - n), min(a, b)
    k = np.arange(low, high, dtype=np.float64)
    ratios = (np.log(a - k) + np.log(b - k)) - (np.log(k + 1) + np.log(n - a - b + k + 1))
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    weight = np.exp(logs - logs.max())
    first, weight = _trimmed(weight)
    return low + first, weight / weight.sum()


def _trimmed(weight: np.ndarray) -> tuple[int, np.ndarray]:
    kept = np.flatnonzero(weight > _NEGLIGIBLE * weight.max())
    return int(kept[0]), weight[kept[0] : kept[-1] + 1]


def iou_limit(share: float) -> float:
    """K / (2 - K): the IoU of two random sets of a share K of very many items."""
    if not 0 < share <= 1:
        raise BadInput(f"Expected a share above 0 and up to 1, got {share:g}.")
    return share / (2 - share)


class Overlap(NamedTuple):
    """value: mean over pairs of sets; null: the same of random sets, its mean and central 95%; p_value: of a value as
    high among `draws` of them, `smallest` the least there could be."""

    value: float
    null: float
    null_interval: tuple[float, float]
    p_value: float
    smallest: float
    draws: int


def mean_overlap(sets: Sequence[np.ndarray], measure: Measure = "iou") -> float:
    """Mean IoU or IoM over all pairs of two or more sets of numbers of 0 and more, none empty."""
    own = [np.unique(s) for s in sets]
    if len(own) < 2 or not all(len(s) for s in own):
        raise BadInput(f"Expected two or more sets with something in them, got sizes {[len(s) for s in own]}.")
    if measure not in ("iou", "iom"):
        raise BadInput(f"Unknown measure {measure!r}: {nearest(measure, ('iou', 'iom'))}")
    return _mean_overlap(own, np.zeros(1 + max(int(s[-1]) for s in own), dtype=bool), measure)


def _mean_overlap(sets: Sequence[np.ndarray], flags: np.ndarray, measure: Measure) -> float:
    """Of sets without repeats; flags: False for every number, as it is again afterwards."""
    total = 0.0
    for i, own in enumerate(sets):
        flags[own] = True
        for other in sets[i + 1 :]:
            both = int(np.count_nonzero(flags[other]))
            total += both / (len(own) + len(other) - both if measure == "iou" else min(len(own), len(other)))
        flags[own] = False
    return total / (len(sets) * (len(sets) - 1) / 2)


def overlap_test(
    sets: Sequence[np.ndarray], types: np.ndarray, *, measure: Measure = "iou", draws: int = 999, seed: int = 0
) -> Overlap:  # fmt: skip
    """Do sets (circuits of several seeds, or of rephrased templates) share more than random sets of their sizes?

    sets: numbers of items; types: [items] a whole number per item. A draw replaces every set by a random one with as
    many items of every type; types all alike gives sets of equal size and no more. The p-value is of the mean over all
    pairs of sets. When it lies: circuits found by one method share what the method prefers, whatever the task; the
    same method on another task is the null for that.
    """
    kinds = np.asarray(types)
    members = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    own = [np.unique(s) for s in sets]
    for s in own:
        if not len(s) or s[0] < 0 or s[-1] >= len(kinds):
            raise BadInput(f"Expected sets of one or more numbers of 0 to {len(kinds) - 1}, got {s[:1]} to {s[-1:]}.")
    if draws < 1:
        raise BadInput(f"Expected one or more draws, got {draws}.")
    sizes = [[int(np.isin(s, m, assume_unique=True).sum()) for m in members] for s in own]
    value, rng, flags = mean_overlap(own, measure), np.random.default_rng(seed), np.zeros(len(kinds), dtype=bool)
    null = np.array([
        _mean_overlap([_like(rng, members, size) for size in sizes], flags, measure) for _ in range(draws)
    ])  # fmt: skip
    p, smallest = null_p_value(value, null)
    return Overlap(value, float(null.mean()), quantile_interval(null), p, smallest, draws)


def _like(rng: np.random.Generator, members: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    return np.concatenate([rng.choice(m, k, replace=False) for m, k in zip(members, sizes, strict=True)])
