"""Tests against null draws and by sign flips, many tests at once, and power: against enumeration and simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null
from gossamer.hypotheses import (
    Side,
    adjusted_p_values,
    against_null,
    fewest_draws,
    null_p_value,
    pairs_needed,
    sign_flip_test,
    simulated_pairs_needed,
)

SIDES: tuple[Side, ...] = ("greater", "less", "two-sided")
p_values = st.lists(st.floats(1e-6, 1), min_size=1, max_size=12)


def enumerated(x: list[int], side: Side) -> float:
    sums = [sum(s * v for s, v in zip(signs, x, strict=True)) for signs in product((1, -1), repeat=len(x))]
    extreme = {
        "greater": [s >= sum(x) for s in sums],
        "less": [s <= sum(x) for s in sums],
        "two-sided": [abs(s) >= abs(sum(x)) for s in sums],
    }
    return sum(extreme[side]) / len(sums)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=8), st.sampled_from(SIDES), st.sampled_from([1.0, 0.1, 1e-7]))
def test_sign_flips_of_few_pairs_are_the_full_enumeration(x: list[int], side: Side, unit: float) -> None:
    # tenths do not add up exactly: sums that are equal must stay ties
    assert sign_flip_test([unit * v for v in x], side).p_value == enumerated(x, side)


def test_sign_flips_of_many_pairs_approach_the_enumeration() -> None:
    x = [3, -1, 4, 1, -5, 9, 2, -6, 5, 3, 5, -8, 9, 7]
    for side in SIDES:
        exact, drawn = enumerated(x, side), sign_flip_test(x, side, draws=9999, seed=1)
        assert abs(drawn.p_value - exact) < 4 * math.sqrt(exact * (1 - exact) / 9999) + 1e-4
        assert drawn == sign_flip_test(x, side, draws=9999, seed=1)
        assert drawn.smallest == 1e-4
    assert sign_flip_test([1.0] * 40).p_value == 1e-4  # never zero
    assert sign_flip_test([1.0] * 8).p_value == sign_flip_test([1.0] * 8).smallest == 2**-8
    assert sign_flip_test([1.0] * 8, "two-sided").p_value == 2**-7


def test_sign_flips_keep_their_level_under_the_null_and_find_an_effect() -> None:
    rng = np.random.default_rng(0)
    null = [sign_flip_test(rng.normal(size=20), draws=199, seed=i).p_value for i in range(600)]
    assert 0.03 < np.mean(np.array(null) <= 0.05) < 0.07  # 4 standard errors are .036 on one side of .05
    shifted = [sign_flip_test(1 + rng.normal(size=20), draws=199, seed=i).p_value for i in range(100)]
    assert np.mean(np.array(shifted) <= 0.05) > 0.95


def test_p_value_among_null_draws_by_hand() -> None:
    assert null_p_value(3, [1, 2, 3, 4]) == (3 / 5, 1 / 5)  # the tie counts
    assert null_p_value(5, range(20)) == (16 / 21, 1 / 21)
    assert null_p_value(99, range(20)).p_value == 1 / 21
    assert null_p_value(-1, range(20), "less").p_value == 1 / 21
    assert null_p_value(-1, range(20), "two-sided") == (2 / 21, 2 / 21)
    with pytest.raises(BadInput, match="1 of 4 are not"):
        null_p_value(1, [1, 2, np.nan])
    with pytest.raises(BadInput, match="one or more null draws"):
        null_p_value(1, [])
    with pytest.raises(BadInput, match="'more'"):
        null_p_value(1, [1], "more")  # type: ignore[arg-type]


def test_p_values_among_null_draws_are_uniform_or_larger_under_the_null() -> None:
    draws = np.random.default_rng(1).normal(size=(2000, 20))
    p = np.array([null_p_value(row[0], row[1:]).p_value for row in draws])
    for level in (0.05, 0.1, 0.5):
        assert (p <= level).mean() < level + 3 * math.sqrt(level * (1 - level) / len(p))


def test_adjusted_p_values_by_hand() -> None:
    # the 15 p-values of Benjamini and Hochberg 1995, section 3.2: at q = .05 the first four are rejected
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590]
    p.append(1.0)
    adjusted = adjusted_p_values(p)
    assert (adjusted <= 0.05).sum() == 4
    assert adjusted[:4] == pytest.approx([15 * p[0], 15 * p[1] / 2, 15 * p[2] / 3, 15 * p[3] / 4])
    assert adjusted[4] == pytest.approx(15 * 0.0201 / 5)
    harmonic = sum(1 / i for i in range(1, 16))
    assert adjusted_p_values(p, "benjamini-yekutieli")[:4] == pytest.approx(harmonic * adjusted[:4])
    assert adjusted_p_values([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert len(adjusted_p_values([])) == 0
    with pytest.raises(BadInput, match="did you mean benjamini-hochberg"):
        adjusted_p_values([0.1], "benjamini-hochburg")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="above 0"):
        adjusted_p_values([0.0, 0.5])


@settings(max_examples=60, deadline=None)
@given(p_values, st.floats(0.01, 0.5))
def test_adjusted_p_values_reject_as_the_step_up_procedure_does(p: list[float], q: float) -> None:
    order, m = np.argsort(p, kind="stable"), len(p)
    passing = [i for i in range(m) if m * p[order[i]] / (i + 1) <= q]
    rejected = set(order[: passing[-1] + 1].tolist()) if passing else set()
    adjusted = adjusted_p_values(p)
    assert set(np.flatnonzero(adjusted <= q).tolist()) == rejected
    assert (adjusted >= np.array(p)).all()
    assert (adjusted_p_values(p, "benjamini-yekutieli") >= adjusted).all()
    assert (np.diff(adjusted[order]) >= 0).all()


def test_false_discoveries_are_kept_below_q_and_are_not_without_adjustment() -> None:
    rng, z = np.random.default_rng(0), np.vectorize(math.erf)
    shift = np.r_[np.zeros(15), np.full(5, 3.0)]
    p = 0.5 * (1 - z((rng.normal(size=(1000, 20)) + shift) / math.sqrt(2))) + 1e-12

    def share(rejected: np.ndarray) -> float:
        return float((rejected[:, :15].sum(1) / np.maximum(1, rejected.sum(1))).mean())

    adjusted = np.array([adjusted_p_values(row) for row in p]) <= 0.1
    assert share(adjusted) == pytest.approx(0.1 * 15 / 20, abs=0.015)  # exactly q m0 / m for independent tests
    assert share(p <= 0.1) > 0.15
    everything = np.array([adjusted_p_values(row, "benjamini-yekutieli") for row in p]) <= 0.1
    assert share(everything) < share(adjusted)
    assert adjusted[:, 15:].mean() > 0.6


@pytest.mark.parametrize("correction", ["benjamini-hochberg", "benjamini-yekutieli"])
def test_fewest_draws_are_enough_and_one_less_is_not(correction: str) -> None:
    for tests in range(1, 12):
        n = fewest_draws(tests, 0.05, correction)  # type: ignore[arg-type]
        for draws, enough in ((n, True), (n - 1, False)):
            best = [1 / (1 + draws)] + [1.0] * (tests - 1)
            assert (adjusted_p_values(best, correction)[0] <= 0.05) == enough  # type: ignore[arg-type]
    assert fewest_draws(5) == 99


def test_pairs_needed_by_hand_and_when_infinite() -> None:
    x = np.array([0.0, 1.0] * 8)  # mean 1/2, sd sqrt(4/15)
    n = ((1.6448536 + 1.2815516) * math.sqrt(4 / 15) / 0.5) ** 2
    assert pairs_needed(x).pairs == math.ceil(n) == 10
    assert pairs_needed(x).power >= 0.9
    assert pairs_needed(-x, "less") == pairs_needed(x)
    assert pairs_needed(x, "two-sided").pairs == math.ceil(n * ((1.9599640 + 1.2815516) / (1.6448536 + 1.2815516)) ** 2)
    for useless in (pairs_needed(-x), pairs_needed([1.0, -1.0], "two-sided"), simulated_pairs_needed(-x)):
        assert useless == (math.inf, 0.0)
    assert pairs_needed([2.0, 2.0, 2.0]) == (5, 1.0)  # 2^-5 is the first p-value below .05
    assert pairs_needed([2.0, 2.0], "two-sided").pairs == 6
    assert pairs_needed([2.0, 2.0], level=0.01).pairs == 7
    with pytest.raises(BadInput, match="two or more differences"):
        pairs_needed([1.0])
    with pytest.raises(BadInput, match="a power of"):
        pairs_needed(x, power=1.0)


@pytest.mark.parametrize("effect", [0.35, 0.5, 0.8])
def test_the_formula_has_its_power_and_half_of_the_pairs_have_not(effect: float) -> None:
    pilot = np.array([effect - 1, effect + 1]) / math.sqrt(2) + effect * (1 - 1 / math.sqrt(2))  # mean: effect, sd: 1
    n = int(pairs_needed(pilot).pairs)
    assert n == math.ceil((2.9264052 / effect) ** 2)
    rng = np.random.default_rng(2)

    def power(pairs: int) -> float:
        x = effect + rng.normal(size=(400, pairs))
        return float(np.mean([sign_flip_test(row, draws=199, seed=i).p_value <= 0.05 for i, row in enumerate(x)]))

    assert power(n) == pytest.approx(0.9, abs=0.06)  # the t test lacks a little of the normal one; 4 s.e. are .06
    assert power(n // 2) < 0.8


def test_simulated_pairs_agree_with_the_formula_and_do_without_it() -> None:
    normal = np.random.default_rng(3).normal(0.4, 1, size=300)
    formula, simulated = pairs_needed(normal), simulated_pairs_needed(normal)
    assert simulated.pairs == pytest.approx(formula.pairs, rel=0.15)
    assert simulated.power >= 0.9
    assert simulated == simulated_pairs_needed(normal)
    # one pair in ten carries the whole effect: sums of few such are far from normal
    rare = np.r_[np.zeros(90), np.ones(10)]
    few = simulated_pairs_needed(rare)
    # signs can only tell with 5 ones among n: the share of n with 5 or more ones is the power
    n = int(few.pairs)
    reach = [1 - sum(math.comb(k, i) * 0.1**i * 0.9 ** (k - i) for i in range(5)) for k in (n - 5, n, n + 5)]
    assert reach[0] - 0.04 < 0.9 < reach[2] + 0.04
    assert few.pairs > pairs_needed(rare).pairs * 0.9
    assert simulated_pairs_needed([1.0, 1.0]).pairs == 5
    weak = normal - normal.mean() + 0.02
    assert simulated_pairs_needed(weak) == pairs_needed(weak)  # too many to simulate
    # one pair in a hundred undoes fifteen others: 32 pairs by the formula, twice as many in truth
    skewed = np.r_[np.full(99, 0.1), -1.5]
    assert simulated_pairs_needed(skewed).pairs > 2 * pairs_needed(skewed).pairs
    with pytest.raises(BadInput, match=r"64 pairs to be enough, their power is 0\.8"):
        simulated_pairs_needed(skewed, most=64)
    with pytest.raises(BadInput, match="enough flips"):
        simulated_pairs_needed(normal, level=0.001)


def test_a_row_of_evidence_takes_what_a_test_against_random_circuits_says() -> None:
    rng = np.random.default_rng(0)
    own, random = rng.normal(1, 1, size=64), rng.normal(0, 1, size=(20, 64))
    row = Evidence(
        claim="faithfulness: of a toy", value=1.0, unit="f", n=64, verdict="pass", methodology=None, threshold="none",
        nulls=(Null(name="random circuit", value=0.0, n=20),),
    )  # fmt: skip
    filled = row.model_copy(update=against_null(own, random)._asdict())
    assert Evidence.model_validate(filled.model_dump()) == filled
    assert filled.p_value == filled.p_smallest == 1 / 21
    assert isinstance(filled.pairs_needed, int)
    assert 5 <= filled.pairs_needed < 40
    assert filled.quantiles
    assert (filled.quantiles["0"], filled.quantiles["0.5"]) == (own.min(), np.median(own))
    # a circuit that is one of the random ones is not told from them, with any number of pairs if it is below them
    null = against_null(random[0] - 1, random)
    assert null.p_value > 0.9
    assert null.pairs_needed == "infinite"
    assert against_null(random[0] - 1, random, "less").p_value == 1 / 21
    with pytest.raises(BadInput, match=r"\[20, 64\]"):
        against_null(own[:5], random)
