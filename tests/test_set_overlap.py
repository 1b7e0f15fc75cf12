"""Overlaps of sets and of random sets, against brute force."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import BadInput
from gossamer.set_overlap import (
    chance,
    containment,
    expected_iou,
    expected_iou_by_type,
    iom,
    iou,
    iou_limit,
    mask_iou,
    mean_overlap,
    overlap_test,
)

ids = st.lists(st.integers(0, 12), min_size=1, max_size=10)


def test_overlaps_by_hand() -> None:
    a, b = np.array([1, 2, 3, 4]), np.array([3, 4, 5, 3])
    assert (iou(a, b), iom(a, b), containment(a, b), containment(b, a)) == (2 / 5, 2 / 3, 2 / 4, 2 / 3)
    assert mean_overlap([a, b, a]) == pytest.approx((2 / 5 + 1 + 2 / 5) / 3)
    assert mean_overlap([a, b], "iom") == 2 / 3
    for call in (lambda: iou(a, a[:0]), lambda: mean_overlap([a]), lambda: mean_overlap([a, a[:0]])):
        with pytest.raises(BadInput, match="something in them"):
            call()


def test_masks_overlap_as_the_sets_they_are_do_and_empty_ones_as_said() -> None:
    a = np.array([[True, True, False, False], [False] * 4])
    b = np.array([False, True, True, False])
    for empty in (0, 1):
        assert mask_iou(a, b, empty=empty).tolist() == [iou(np.flatnonzero(a[0]), np.flatnonzero(b)), 0]
        assert mask_iou(a, a[1], empty=empty).tolist() == [0, empty]


@settings(max_examples=60, deadline=None)
@given(ids, ids)
def test_overlaps_are_those_of_python_sets(x: list[int], y: list[int]) -> None:
    a, b = np.array(x), np.array(y)
    both, union = set(x) & set(y), set(x) | set(y)
    assert iou(a, b) == iou(b, a) == mean_overlap([a, b]) == len(both) / len(union)
    assert iou(a, b) <= containment(a, b) <= iom(a, b) <= 1


def brute(n: int, a: int, b: int) -> float:
    values = [iou(np.array(x), np.array(y)) for x, y in product(combinations(range(n), a), combinations(range(n), b))]
    return float(np.mean(values))


@pytest.mark.parametrize("n, a, b", [(6, 2, 3), (6, 5, 4), (5, 5, 2), (6, 3, 3), (7, 1, 1)])
def test_expected_iou_is_the_mean_over_all_pairs_of_sets(n: int, a: int, b: int) -> None:
    assert expected_iou(n, a, b) == pytest.approx(brute(n, a, b), rel=1e-12)


def test_expected_iou_by_type_is_the_mean_over_all_pairs_of_sets_of_those_types() -> None:
    first, second = (
        [np.array([*x, *y]) for x in combinations(range(4), k) for y in combinations(range(4, 7), m)]
        for k, m in ((2, 1), (3, 2))
    )
    by_hand = np.mean([iou(a, b) for a, b in product(first, second)])
    assert expected_iou_by_type([4, 3], [2, 3 - 2], [3, 2]) == pytest.approx(by_hand, rel=1e-12)
    # types matter: all of one type and none of the other is always the same set
    assert expected_iou_by_type([4, 3], [4, 0], [4, 0]) == 1
    assert expected_iou(7, 4, 4) < 0.5
    assert expected_iou_by_type([50], [10], [7]) == expected_iou(50, 10, 7)


@pytest.mark.parametrize("share, limit", [(0.1, 0.053), (0.3, 0.176), (0.5, 1 / 3)])
def test_the_limit_is_reached_at_many_items(share: float, limit: float) -> None:
    assert iou_limit(share) == pytest.approx(limit, abs=5e-4)
    found = [expected_iou(n, int(share * n), int(share * n)) for n in (100, 10_000, 1_000_000)]
    assert found[1] == pytest.approx(iou_limit(share), abs=1e-3)
    assert found[2] == pytest.approx(iou_limit(share), abs=1e-5)
    many = expected_iou_by_type([10_000] * 40, [int(share * 10_000)] * 40, [int(share * 10_000)] * 40)
    assert many == pytest.approx(iou_limit(share), abs=1e-4)


def test_sets_that_cannot_be_are_refused() -> None:
    for n, a, b in ((5, 6, 1), (5, 0, 1), (5, -1, 2)):
        with pytest.raises(BadInput, match="not empty"):
            expected_iou(n, a, b)
    with pytest.raises(BadInput, match="above 0"):
        iou_limit(0)
    with pytest.raises(BadInput, match="0 to 9"):
        overlap_test([np.array([1]), np.array([10])], np.zeros(10, dtype=int))
    with pytest.raises(BadInput, match="did you mean iou"):
        mean_overlap([np.arange(2)] * 2, "iuo")  # type: ignore[arg-type]


def test_the_overlap_test_finds_shared_parts_and_keeps_its_level() -> None:
    rng, types = np.random.default_rng(0), np.repeat([0, 1], [200, 40])
    core = np.arange(10)
    shared = [np.concatenate([core, rng.choice(np.arange(10, 240), 10, replace=False)]) for _ in range(4)]
    found = overlap_test(shared, types, draws=199)
    assert found.p_value == found.smallest == 1 / 200
    assert found.value > found.null_interval[1]
    assert found == overlap_test(shared, types, draws=199)
    p = [
        overlap_test([rng.choice(240, 20, replace=False) for _ in range(3)], types * 0, draws=39, seed=i).p_value
        for i in range(200)
    ]
    assert np.mean(np.array(p) <= 0.1) < 0.1 + 3 * np.sqrt(0.09 / 200)
    plain = overlap_test([rng.choice(240, 20, replace=False) for _ in range(3)], types * 0, draws=400)
    assert plain.null == pytest.approx(expected_iou(240, 20, 20), abs=0.002)


def test_sets_alike_in_type_alone_are_told_from_sets_that_share_parts() -> None:
    rng, types = np.random.default_rng(1), np.repeat([0, 1], [1000, 30])
    alike = [rng.choice(np.arange(1000, 1030), 15, replace=False) for _ in range(3)]
    assert overlap_test(alike, types * 0, draws=199).p_value == 1 / 200  # a null blind to types is fooled
    matched = overlap_test(alike, types, draws=199)
    assert matched.p_value > 0.02
    assert matched.null == pytest.approx(expected_iou_by_type([1000, 30], [0, 15], [0, 15]), abs=0.01)


@pytest.mark.parametrize("n, a, b", [((6,), (3,), (2,)), ((4, 3), (2, 1), (3, 2)), ((5, 1, 2), (2, 1, 0), (4, 1, 1))])
def test_chance_is_a_count_over_all_permutations_within_types(
    n: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    starts = np.cumsum((0, *n))
    fixed = {s + i for s, k in zip(starts[:-1].tolist(), a, strict=True) for i in range(k)}
    draws = [
        len(fixed & set(sum(parts, ())))
        for parts in product(*(
            list(combinations(range(s, s + items), k)) for s, items, k in zip(starts[:-1].tolist(), n, b, strict=True)
        ))
    ]  # fmt: skip
    for shared in set(draws):
        found = chance(n, a, b, shared)
        assert found.p_value == pytest.approx(np.mean([d >= shared for d in draws]))
        assert found.iou == pytest.approx(expected_iou_by_type(n, a, b))
    assert chance(n, a, b, max(draws)).p_value == chance(n, a, b, max(draws)).smallest
    with pytest.raises(BadInput, match="share"):
        chance(n, a, b, max(draws) + 1)


def test_a_p_value_is_never_zero() -> None:
    assert chance([10**6], [10**5], [10**5], 10**5).p_value == 1e-20
    assert chance([10**6], [10**5], [10**5], 9_900).p_value > 0.5
