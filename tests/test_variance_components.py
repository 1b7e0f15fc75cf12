"""Variance components, quantiles per item and the two-level bootstrap, against algebra and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import BadInput
from gossamer.statistics import bootstrap_interval, hierarchical_bootstrap, per_item_quantiles
from gossamer.variance_components import one_way, two_way


def test_quantiles_per_item_are_never_clipped() -> None:
    x = np.array([[-600.0, 0.5, 1.0, 600.0], [1.0, 2.0, 3.0, 4.0]])
    found = per_item_quantiles(x, (0, 0.5, 1))
    assert found.tolist() == [[-600.0, 0.75, 600.0], [1.0, 2.5, 4.0]]
    assert per_item_quantiles([3.0]).tolist() == [3.0] * 7
    with pytest.raises(BadInput, match="1 of 2 are not"):
        per_item_quantiles([1.0, np.inf])
    with pytest.raises(BadInput, match="at least one"):
        per_item_quantiles([])


def spread(values: list[np.ndarray] | np.ndarray, crossed: bool) -> float:
    """sd of the draws, from the central 68.27% of a normal."""
    low, high = hierarchical_bootstrap(values, crossed=crossed, draws=4000, level=0.6826895)[1]
    return (high - low) / 2


def test_the_two_level_bootstrap_has_the_spread_that_algebra_gives() -> None:
    rng, seeds, prompts = np.random.default_rng(0), 12, 40
    x = rng.normal(size=(seeds, 1)) + 2 * rng.normal(size=(1, prompts)) + rng.normal(size=(seeds, prompts))
    nested = np.sqrt((x.mean(1).var() + x.var(1).mean() / prompts) / seeds)
    assert spread(x, False) == pytest.approx(nested, rel=0.06)
    rows, columns = x.mean(1) - x.mean(), x.mean(0) - x.mean()
    rest = x - x.mean() - rows[:, None] - columns
    crossed = np.sqrt(rows.var() / seeds + columns.var() / prompts + rest.var() / (seeds * prompts))
    assert spread(x, True) == pytest.approx(crossed, rel=0.06)
    assert crossed > 1.2 * nested  # prompts that all seeds share: to take them for others hides their variance


def test_the_two_level_bootstrap_in_its_limits() -> None:
    x = np.random.default_rng(1).normal(size=50)
    value, interval = hierarchical_bootstrap([x])  # one seed: of prompts alone
    assert value == pytest.approx(x.mean())
    assert interval == pytest.approx(bootstrap_interval(x), abs=0.05)
    seeds = np.arange(6.0)
    value, interval = hierarchical_bootstrap(seeds[:, None] + np.zeros((6, 9)), crossed=True)
    assert (value, interval) == (2.5, pytest.approx(bootstrap_interval(seeds), abs=0.2))
    assert hierarchical_bootstrap([[0.0] * 99, [1.0]])[0] == 0.5  # every seed has the same weight
    assert hierarchical_bootstrap([x, x[:9]]) == hierarchical_bootstrap([x, x[:9]])
    with pytest.raises(BadInput, match="as many prompts"):
        hierarchical_bootstrap([x, x[:9]], crossed=True)
    with pytest.raises(BadInput, match="one row"):
        hierarchical_bootstrap([])
    with pytest.raises(BadInput, match="1 of 50"):
        hierarchical_bootstrap([np.where(np.arange(50) == 3, np.nan, x)])


def test_one_level_taken_for_two_covers_too_little() -> None:
    """Six seeds with prompts that vary little: the bootstrap over all numbers misses the truth, that over both does
    not."""
    rng, both, flat = np.random.default_rng(2), 0, 0
    for i in range(100):
        x = rng.normal(size=(6, 1)) + 0.1 * rng.normal(size=(6, 20))
        low, high = hierarchical_bootstrap(x, seed=i, draws=300)[1]
        both += low <= 0 <= high
        low, high = bootstrap_interval(x.ravel(), seed=i, draws=300)
        flat += low <= 0 <= high
    assert both > 75
    assert flat < 55


def test_one_way_by_hand() -> None:
    # means 2 and 6 around 4: MSB = 2 * 4 + 2 * 4, MSW = (2 + 2) / 2, between = (16 - 2) / 2
    found = one_way([[1, 3], [5, 7]], "seeds")
    assert found.parts == pytest.approx({"seeds": 7, "within": 2})
    assert (found.mean, found.total, found.negative) == (4, 9, ())
    assert found.share("seeds") == pytest.approx(7 / 9)
    # unequal sizes 1, 2, 3: n0 = (6 - 14/6) / 2
    uneven = one_way([[0.0], [1.0, 3.0], [5.0, 6.0, 7.0]])
    square = ((0 - 22 / 6) ** 2 + 2 * (2 - 22 / 6) ** 2 + 3 * (6 - 22 / 6) ** 2) / 2
    assert uneven.parts["within"] == pytest.approx(4 / 3)
    assert uneven.parts["between"] == pytest.approx((square - 4 / 3) / ((6 - 14 / 6) / 2))


def test_a_negative_estimate_is_reported_as_it_is() -> None:
    found = one_way([[0.0, 10.0], [10.0, 0.0]], "seeds")
    assert found.parts == {"seeds": -25.0, "within": 50.0}
    assert found.negative == ("seeds",)
    assert found.share("seeds") == -1
    assert "seeds -25 (negative: not told from none)" in found.in_words()
    flat = one_way([[1.0, 1.0], [1.0, 1.0]])
    assert "no variance" in flat.in_words()
    with pytest.raises(BadInput, match="positive total"):
        flat.share("within")


def test_two_way_by_hand() -> None:
    """Rows 0 and 2 apart, columns 0, 1, 5: purely additive, so that nothing is left over."""
    additive = np.array([[0.0], [2.0]]) + np.array([0.0, 1.0, 5.0])
    found = two_way(additive, ("seeds", "templates"))
    assert found.parts == pytest.approx({"seeds": 2, "templates": 7, "rest": 0})
    checkered = two_way(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert checkered.parts == pytest.approx({"rows": -2, "columns": -2, "rest": 4})
    assert checkered.negative == ("rows", "columns")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(2, 5), st.integers(2, 4), st.floats(-5, 5))
def test_two_way_laws(seed: int, rows: int, columns: int, repeats: int, shift: float) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, columns, repeats))
    found = two_way(x)
    assert two_way(x + shift).parts == pytest.approx(found.parts, abs=1e-9)
    assert two_way(3 * x).parts == pytest.approx({k: 9 * v for k, v in found.parts.items()}, abs=1e-9)
    turned = two_way(x.transpose(1, 0, 2)).parts
    assert [turned[k] for k in ("columns", "rows", "rest")] == pytest.approx(
        [found.parts[k] for k in ("rows", "columns", "rest")]
    )
    # cells' means alone: the same sources, and what is left is the interaction and its share of the noise
    means = two_way(x.mean(2)).parts
    assert (means["rows"], means["columns"]) == pytest.approx((found.parts["rows"], found.parts["columns"]))
    assert means["rest"] == pytest.approx(found.parts["rows x columns"] + found.parts["rest"] / repeats)
    # groups of one factor: the other factors are within
    one = one_way(x.reshape(rows, -1))
    assert one.mean == pytest.approx(found.mean)


def test_components_are_unbiased_and_clipping_would_not_be() -> None:
    rng, found = np.random.default_rng(4), []
    for _ in range(800):
        seeds, templates = 1.0 * rng.normal(size=(5, 1, 1)), 0.0 * rng.normal(size=(1, 4, 1))
        x = seeds + templates + 0.5 * rng.normal(size=(5, 4, 1)) + rng.normal(size=(5, 4, 3))
        found.append(list(two_way(x).parts.values()))
    parts = np.array(found)
    error = 4 * parts.std(0) / np.sqrt(len(parts))
    assert (abs(parts.mean(0) - [1, 0, 0.25, 1]) < error).all()
    assert np.maximum(parts[:, 1], 0).mean() > error[1]


def test_designs_that_say_nothing_are_refused() -> None:
    for groups in ([[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0], []]):
        with pytest.raises(BadInput, match="two or more groups"):
            one_way(groups)
    with pytest.raises(BadInput, match="two or more each"):
        two_way(np.zeros((1, 4)))
    with pytest.raises(BadInput, match="1 of 4 are not"):
        two_way(np.array([[1.0, np.nan], [1.0, 2.0]]))
