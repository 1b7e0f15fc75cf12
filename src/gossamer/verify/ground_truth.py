"""Edges found against edges known to be true, where a model was built so that they are known.

ROC: the share of the true edges found over the share of the others taken in. Between the sizes at which a method was
run nothing is known. The pessimistic curve stays at the last rate until the next size is reached, as the areas of
Conmy et al. 2023 (arXiv 2304.14997) do; the optimistic one has the next rate at once; the plain one connects the two.
Edges of equal score are one size: with no ties the three areas of a ranking are the same.

When it lies: a truth holds under one ablation (an edge that carries the same in both prompts is invisible to
resampling). Edges that no method can score above 0 inflate the area when they count: leave them out with `counted`.
Few sizes make the pessimistic area small whatever the method.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gossamer.errors import BadInput
from gossamer.scores import EdgeScores


class ROC(NamedTuple):
    """false_positive, true_positive: rates [sizes] from the empty set of edges to all; and the area three ways."""

    false_positive: np.ndarray
    true_positive: np.ndarray
    pessimistic: float
    plain: float
    optimistic: float


class PrecisionRecall(NamedTuple):
    """Of a circuit's counted edges: the share that is true (None when it keeps none), and the share of the true ones
    that it keeps; and the counts."""

    precision: float | None
    recall: float
    true_positive: int
    false_positive: int
    false_negative: int


def _checked(true: np.ndarray, counted: np.ndarray | None, n_edges: int) -> np.ndarray:
    """Indices of the edges that count."""
    counted = np.ones(n_edges, dtype=bool) if counted is None else counted
    for what, mask in (("true edges", true), ("edges to count", counted)):
        if mask.shape != (n_edges,) or mask.dtype != bool:
            raise BadInput(f"Expected {what} as bool [{n_edges}], got {mask.dtype} {list(mask.shape)}.")
    if lost := int((true & ~counted).sum()):
        raise BadInput(f"Expected every true edge to count, {lost} of {int(true.sum())} do not.")
    if not true.any():
        raise BadInput("Expected at least one true edge, got none.")
    return np.flatnonzero(counted)


def precision_recall(kept: np.ndarray, true: np.ndarray, counted: np.ndarray | None = None) -> PrecisionRecall:
    """Precision and recall of kept edges against true ones, all bool [edges]; counted: which edges count at all."""
    counts = _checked(true, counted, len(true))
    if kept.shape != true.shape or kept.dtype != bool:
        raise BadInput(f"Expected kept edges as bool [{len(true)}], got {kept.dtype} {list(kept.shape)}.")
    kept, true = kept[counts], true[counts]
    hits = int((kept & true).sum())
    return PrecisionRecall(
        precision=hits / int(kept.sum()) if kept.any() else None, recall=hits / int(true.sum()), true_positive=hits,
        false_positive=int((kept & ~true).sum()), false_negative=int((true & ~kept).sum()),
    )  # fmt: skip


def roc_of_ranking(values: np.ndarray, true: np.ndarray, counted: np.ndarray | None = None) -> ROC:
    """ROC of numbers [edges], the highest taken first, one size per different number."""
    counts = _checked(true, counted, len(values))
    values, true = values[counts], true[counts]
    if np.isnan(values).any():
        raise BadInput(f"Expected numbers, {int(np.isnan(values).sum())} of {len(values)} scores are none.")
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(values[order]) != 0, True])  # of each run of equal scores
    hits = np.cumsum(true[order])[last]
    return _roc(last + 1 - hits, hits, true)


def roc(scores: EdgeScores, true: np.ndarray, counted: np.ndarray | None = None) -> ROC:
    """ROC of edges ranked by the size of their score, as `scores.top` takes them."""
    return roc_of_ranking(np.abs(scores.values), true, counted)


def roc_of_circuits(kept: np.ndarray, true: np.ndarray, counted: np.ndarray | None = None) -> ROC:
    """ROC of circuits, bool [circuits, edges], such as a sweep over thresholds; they need not be nested.

    A circuit that another one beats in both rates takes that one's true positive rate.
    """
    counts = _checked(true, counted, len(true))
    if kept.ndim != 2 or kept.shape[1] != len(true) or kept.dtype != bool:
        raise BadInput(f"Expected circuits as bool [circuits, {len(true)}], got {kept.dtype} {list(kept.shape)}.")
    kept, true = kept[:, counts], true[counts]
    return _roc((kept & ~true).sum(1), (kept & true).sum(1), true)


def _roc(false: np.ndarray, hits: np.ndarray, true: np.ndarray) -> ROC:
    """From how many false and true edges each size takes in."""
    positive, negative = int(true.sum()), int((~true).sum())
    if not negative:
        raise BadInput("Expected at least one edge that counts and is not true, got none.")
    false, hits = np.r_[0, false, negative], np.r_[0, hits, positive]
    order = np.lexsort((hits, false))
    x, y = false[order] / negative, np.maximum.accumulate(hits[order]) / positive
    steps = np.diff(x)
    low, high = float((steps * y[:-1]).sum()), float((steps * y[1:]).sum())
    return ROC(x, y, low, (low + high) / 2, high)
