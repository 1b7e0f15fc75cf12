"""ROC areas and precision by hand, and against the probability that they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from additive import Additive
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import BadInput
from gossamer.verify import precision_recall, roc, roc_of_circuits
from gossamer.verify.ground_truth import ROC, roc_of_ranking


def ranking(values: Sequence[float], true: list[int], counted: list[int] | None = None) -> ROC:
    mask = None if counted is None else np.array(counted, dtype=bool)
    return roc_of_ranking(np.array(values, dtype=float), np.array(true, dtype=bool), mask)


def areas(found: ROC) -> tuple[float, float, float]:
    return found.pessimistic, found.plain, found.optimistic


def test_without_ties_there_is_one_area() -> None:
    assert areas(ranking([9, 8, 7, 6], [1, 1, 0, 0])) == (1, 1, 1)
    assert areas(ranking([9, 8, 7, 6], [0, 0, 1, 1])) == (0, 0, 0)
    found = ranking([9, 8, 7, 6], [1, 0, 1, 0])
    assert areas(found) == (0.75, 0.75, 0.75)
    assert found.false_positive.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert found.true_positive.tolist() == [0, 0.5, 0.5, 1, 1, 1]


def test_ties_are_one_size_each() -> None:
    assert areas(ranking([1, 1, 1, 1], [1, 0, 1, 0])) == (0, 0.5, 1)
    assert areas(ranking([2, 1, 1, 0], [1, 1, 0, 0])) == (0.75, 0.875, 1)
    assert areas(ranking([2, 1, 1, 0], [0, 1, 0, 1])) == (0.0, 0.125, 0.25)


def test_all_rankings_together_are_a_half() -> None:
    found = [ranking(list(order), [1, 1, 0, 0, 0]).plain for order in permutations(range(5))]
    assert np.mean(found) == pytest.approx(0.5, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_the_areas_bracket_the_chance_that_a_true_edge_is_ahead(edges: list[tuple[int, bool]]) -> None:
    values, true = np.array([v for v, _ in edges], dtype=float), np.array([t for _, t in edges])
    if true.all() or not true.any():
        return
    ahead = [(a > b, a == b) for a in values[true] for b in values[~true]]
    more, equal = (np.mean([p[i] for p in ahead]) for i in (0, 1))
    found = roc_of_ranking(values, true)
    assert areas(found) == pytest.approx((more, more + equal / 2, more + equal))
    mirrored = roc_of_ranking(-values, true)
    assert mirrored.plain == pytest.approx(1 - found.plain)
    circuits = np.stack([values >= v for v in np.unique(values)])
    assert areas(roc_of_circuits(circuits, true)) == pytest.approx(areas(found))


def test_structural_zeros_left_out() -> None:
    """Two edges that nothing can score above 0 make any method look better; they need not count."""
    values, true = [5, 4, 3, 0, 0], [0, 1, 0, 0, 0]
    assert ranking(values, true).plain == pytest.approx(0.75)
    assert ranking(values, true, [1, 1, 1, 0, 0]).plain == pytest.approx(0.5)


def test_scores_are_ranked_by_size() -> None:
    model = Additive([], [(1, -1)])
    n = model.graph().n_edges
    true = np.arange(n) < 3
    values = np.where(true, -2.0, 1.0)
    assert areas(roc(model.scores(values), true)) == (1, 1, 1)
    assert areas(roc_of_ranking(values, true)) == (0, 0, 0)
    rng = np.random.default_rng(0)
    random = [roc(model.scores(rng.normal(size=n)), true).plain for _ in range(300)]
    assert np.mean(random) == pytest.approx(0.5, abs=0.03)


def test_circuits_that_are_not_nested() -> None:
    """Rates (0.25, 0.5), (0.5, 0.25) and (0.5, 0.75) of 4 true and 4 other edges; the second is beaten."""
    true = np.arange(8) < 4
    kept = np.array(
        [[1, 1, 0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 1, 1, 0], [1, 1, 1, 0, 1, 1, 0, 0]],
        dtype=bool,
    )
    found = roc_of_circuits(kept, true)
    low = 0.25 * 0 + 0.25 * 0.5 + 0.5 * 0.75
    high = 0.25 * 0.5 + 0.25 * 0.5 + 0.5 * 1
    assert found.pessimistic == pytest.approx(low)
    assert low <= found.plain <= found.optimistic
    assert found.optimistic == pytest.approx(high)
    assert roc_of_circuits(kept[[0, 2]], true).pessimistic == pytest.approx(low)
    assert areas(roc_of_circuits(true[None], true)) == (1, 1, 1)
    assert areas(roc_of_circuits(np.zeros((0, 8), dtype=bool), true)) == (0, 0.5, 1)


def test_precision_and_recall_by_hand() -> None:
    true, kept = np.array([1, 1, 1, 0, 0, 0], dtype=bool), np.array([1, 1, 0, 1, 0, 1], dtype=bool)
    assert precision_recall(kept, true) == (0.5, 2 / 3, 2, 2, 1)
    counted = np.array([1, 1, 1, 1, 1, 0], dtype=bool)
    assert precision_recall(kept, true, counted) == (2 / 3, 2 / 3, 2, 1, 1)
    assert precision_recall(true, true) == (1, 1, 3, 0, 0)
    assert precision_recall(np.zeros(6, dtype=bool), true) == (None, 0, 0, 0, 3)
    assert precision_recall(~true, true) == (0, 0, 0, 3, 3)


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="at least one true edge"):
        ranking([1, 2], [0, 0])
    with pytest.raises(BadInput, match="counts and is not true"):
        ranking([1, 2], [1, 1])
    with pytest.raises(BadInput, match="1 of 2 scores are none"):
        ranking([1, float("nan")], [1, 0])
    with pytest.raises(BadInput, match="every true edge to count, 1 of 1"):
        ranking([1, 2, 3], [1, 0, 0], [0, 1, 1])
    with pytest.raises(BadInput, match="true edges as bool"):
        roc_of_ranking(np.ones(3), np.ones(3))
    with pytest.raises(BadInput, match="kept edges as bool"):
        precision_recall(np.ones(3), np.ones(3, dtype=bool))
    with pytest.raises(BadInput, match="circuits as bool"):
        roc_of_circuits(np.ones(3, dtype=bool), np.ones(3, dtype=bool))
