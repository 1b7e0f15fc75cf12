"""Tests of hypotheses: against null draws, by sign flips, many at once, and how many pairs they need. numpy only.

A p-value here is of a randomisation test: the observed arrangement counts as one of the arrangements, so it is never
zero and exact at every number of draws (Phipson and Smyth 2010, arXiv 1603.05766). `smallest` stands beside each: with
20 draws nothing can be below 1/21, and a test that could not have passed has not been made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from gossamer.errors import BadInput, nearest
from gossamer.statistics import QUANTILES, per_item_quantiles, require_finite

Side = Literal["greater", "less", "two-sided"]
Correction = Literal["benjamini-hochberg", "benjamini-yekutieli"]
CORRECTIONS: tuple[Correction, ...] = ("benjamini-hochberg", "benjamini-yekutieli")
EXACT_UP_TO = 12  # pairs of which all 2^n signs are tried
LEVEL, POWER = 0.05, 0.9


class Tested(NamedTuple):
    """p_value, and the smallest that this test could have given with its number of draws or pairs."""

    p_value: float
    smallest: float


class Needed(NamedTuple):
    """pairs: how many tell the circuit from its null, infinite where no number does; power: what that many reach (the
    formula's own, or the simulated share of rejections)."""

    pairs: float
    power: float


def _require_side(side: str) -> None:
    if side not in ("greater", "less", "two-sided"):
        raise BadInput(f"Expected the side greater, less or two-sided, got {side!r}.")


def null_p_value(value: float, draws: Sequence[float] | np.ndarray, side: Side = "greater") -> Tested:
    """(1 + #{draws at least as extreme as value}) / (1 + draws): of a circuit among as many random ones.

    Ties count against the value. two-sided: twice the smaller of both sides, at most 1. When it lies: it says that the
    value is unusual among the draws, which is only as much as the draws are worth as a null.
    """
    _require_side(side)
    x = np.asarray(draws, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise BadInput(f"Expected one or more null draws, got {list(x.shape)}.")
    require_finite(np.append(x, value), "value and null draw")
    above, below = ((1 + int(n)) / (1 + len(x)) for n in ((x >= value).sum(), (x <= value).sum()))
    if side == "two-sided":
        return Tested(min(1.0, 2 * min(above, below)), min(1.0, 2 / (1 + len(x))))
    return Tested(above if side == "greater" else below, 1 / (1 + len(x)))


def sign_flip_test(
    differences: Sequence[float] | np.ndarray, side: Side = "greater", draws: int = 9999, seed: int = 0
) -> Tested:  # fmt: skip
    """Is the mean of paired differences above (below, unlike) zero? Fisher's randomisation test by flipping signs.

    differences: [pairs], own minus null on the same prompt. The null hypothesis is that each is as likely with the
    other sign. Up to 12 pairs all 2^n signs are tried and the p-value is exact; with more, `draws` random ones and
    (1 + #) / (1 + draws). Bitwise the same for one seed. When it lies: it asks for symmetry, not for a mean of zero: a
    skewed null is rejected too often or too seldom with few pairs; prompts that share a template are not independent.
    """
    _require_side(side)
    x = np.asarray(differences, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise BadInput(f"Expected one difference per pair, [pairs], got {list(x.shape)}.")
    require_finite(x, "difference")
    if draws < 1:
        raise BadInput(f"Expected one or more draws, got {draws}.")
    exact = len(x) <= EXACT_UP_TO
    if exact:
        sums = _all_signs(len(x)) @ x
    else:
        rng, block = np.random.default_rng(seed), max(1, 2**22 // len(x))
        sizes = [min(block, draws - start) for start in range(0, draws, block)]
        sums = np.concatenate([_signs(rng, size, len(x)) @ x for size in sizes])
    return Tested(
        float(_p_values(sums[:, None], x.sum(keepdims=True), np.abs(x).sum(keepdims=True), side, exact)[0]),
        _smallest(len(x), side) if exact else 1 / (1 + draws),
    )  # fmt: skip


def _all_signs(n: int) -> np.ndarray:
    """Every assignment of signs, [2^n, n]; the first is all plus."""
    return 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)


def _signs(rng: np.random.Generator, draws: int, n: int) -> np.ndarray:
    return 1.0 - 2.0 * rng.integers(0, 2, size=(draws, n), dtype=np.int8)


def _smallest(n: int, side: Side) -> float:
    """The smallest p-value that n pairs can give."""
    return min(1.0, (2 if side == "two-sided" else 1) * 2.0**-n)


def _p_values(sums: np.ndarray, own: np.ndarray, size: np.ndarray, side: Side, exact: bool) -> np.ndarray:
    """p-values [tests] of own sums [tests] among flipped ones [draws, tests]; sums equal up to rounding are ties."""
    slack = 1e-12 * size
    at_least = {
        "greater": lambda: sums >= own - slack, "less": lambda: sums <= own + slack,
        "two-sided": lambda: np.abs(sums) >= np.abs(own) - slack,
    }[side]().sum(0)  # fmt: skip
    return np.asarray(at_least / len(sums) if exact else (1 + at_least) / (1 + len(sums)))


def known_correction(name: str) -> Correction:
    """A correction for many tests by name; an unknown one is BadInput."""
    for known in CORRECTIONS:
        if name == known:
            return known
    raise BadInput(f"Unknown correction {name!r}: {nearest(name, CORRECTIONS)}")


def adjusted_p_values(
    p_values: Sequence[float] | np.ndarray, correction: Correction = "benjamini-hochberg"
) -> np.ndarray:  # fmt: skip
    """p-values [tests] adjusted so that rejecting those up to q keeps the expected share of false rejections below q.

    Step up: the i-th smallest of m becomes the least of m p(j) / j over j >= i, at most 1. benjamini-hochberg (1995)
    holds for independent or positively dependent tests; benjamini-yekutieli (2001) for any, at a price of 1 + 1/2 + ..
    + 1/m. When it lies: the family is what was tried, so a check that was run and not passed in weakens the promise.
    """
    known_correction(correction)
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p > 0) & (p <= 1)).all():
        raise BadInput(f"Expected p-values [tests] above 0 and up to 1, got {p_values!r}.")
    m = len(p)
    factor = m * (1.0 if correction == "benjamini-hochberg" else float((1 / np.arange(1, m + 1)).sum()))
    order = np.argsort(-p, kind="stable")
    found = np.empty(m)
    found[order] = np.minimum.accumulate(factor / np.arange(m, 0, -1) * p[order])
    return np.minimum(found, 1.0)


def fewest_draws(tests: int, level: float = LEVEL, correction: Correction = "benjamini-hochberg") -> int:
    """Null draws with which a single true one of `tests` can be told: m / (1 + draws) <= level, one-sided."""
    if tests < 1:
        raise BadInput(f"Expected one or more tests, got {tests}.")
    others = [1.0] * (tests - 1)
    draws = max(1, int(tests / level) - 2)
    while adjusted_p_values([1 / (1 + draws), *others], correction)[0] > level:
        draws += 1
    return draws


def pairs_needed(
    differences: Sequence[float] | np.ndarray, side: Side = "greater", level: float = LEVEL, power: float = POWER
) -> Needed:  # fmt: skip
    """Pairs with which a paired test at `level` finds a mean as far from zero as this one's with that power.

    n = ((z(1 - level) + z(power)) sd / mean)^2, rounded up (level / 2 for two sides), the normal approximation of the
    paired test; never fewer than the sign-flip test needs to get below `level` at all (5, or 6 for two sides, at .05).
    Infinite where the mean is zero or on the other side. differences: [pairs], two or more. When it lies: it takes the
    mean that was seen for the true one, which it exceeds where it was chosen for being large.
    """
    _require_side(side)
    x = _pilot(differences, level, power)
    z, least = NormalDist(), _least_pairs(side, level)
    mean, sd = _towards(float(x.mean()), side), float(x.std(ddof=1))
    if mean <= 0:
        return Needed(math.inf, 0.0)
    critical = z.inv_cdf(1 - (level / 2 if side == "two-sided" else level))
    pairs = max(least, math.ceil(((critical + z.inv_cdf(power)) * sd / mean) ** 2 - 1e-9))
    return Needed(float(pairs), z.cdf(math.sqrt(pairs) * mean / sd - critical) if sd else 1.0)


def simulated_pairs_needed(
    differences: Sequence[float] | np.ndarray, side: Side = "greater", level: float = LEVEL, power: float = POWER, *,
    trials: int = 500, flips: int = 499, most: int = 4096, seed: int = 0,
) -> Needed:  # fmt: skip
    """As pairs_needed without the normal approximation: draw n of the differences with replacement, do the sign-flip
    test, and count how often it rejects. n has that power and n - 1 has not, found by doubling and halving from the
    formula's on the same draws; of skewed differences fewer pairs can have it too, and more lack it for a while.

    Where the formula asks for more than half of `most` pairs it stands in: a mean of so many bounded numbers is normal.
    The standard error of the power is sqrt(power (1 - power) / trials), .013 by default, so n is uncertain by a few per
    cent. Infinite as there; BadInput where `most` pairs are too few all the same.
    """
    if 1 / (1 + flips) > level:
        raise BadInput(
            f"Expected enough flips for a p-value of {level:g}, got {flips}; ask for {math.ceil(1 / level)}."
        )
    formula = pairs_needed(differences, side, level, power)
    if formula.pairs > most / 2:
        return formula
    x, rng = _pilot(differences, level, power), np.random.default_rng(seed)
    found: dict[int, float] = {}
    picks = rng.integers(0, len(x), size=(most, trials))
    signs = _signs(rng, flips, most)

    def rejects(n: int) -> bool:
        if n not in found:
            drawn, exact = x[picks[:n]], n <= EXACT_UP_TO
            sums = (_all_signs(n) if exact else signs[:, :n]) @ drawn
            p = _p_values(sums, drawn.sum(0), np.abs(drawn).sum(0), side, exact)
            found[n] = float((p <= level).mean())
        return found[n] >= power

    low, high = _least_pairs(side, level) - 1, int(formula.pairs)
    while not rejects(high):
        if high == most:
            raise BadInput(f"Expected {most} pairs to be enough, their power is {found[most]:.3g}; give a larger most.")
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rejects(middle) else (middle, high)
    return Needed(float(high), found[high])


def _pilot(differences: Sequence[float] | np.ndarray, level: float, power: float) -> np.ndarray:
    x = np.asarray(differences, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise BadInput(f"Expected two or more differences, [pairs], to estimate their spread, got {list(x.shape)}.")
    if not (0 < level < 0.5 and 0.5 <= power < 1):
        raise BadInput(f"Expected a level of 0 to 0.5 and a power of 0.5 to 1, got {level:g} and {power:g}.")
    require_finite(x, "difference")
    return x


def _towards(mean: float, side: Side) -> float:
    return {"greater": mean, "less": -mean, "two-sided": abs(mean)}[side]


def _least_pairs(side: Side, level: float) -> int:
    n = 2
    while _smallest(n, side) > level:
        n += 1
    return n


class AgainstNull(NamedTuple):
    """What a test against random circuits adds to a row of Evidence, under the names of its fields."""

    p_value: float
    p_smallest: float
    quantiles: dict[str, float]
    pairs_needed: int | Literal["infinite"]


def against_null(
    own: np.ndarray, random: np.ndarray, side: Side = "greater", level: float = LEVEL, power: float = POWER
) -> AgainstNull:  # fmt: skip
    """A circuit's values [pairs] against those of random circuits on the same pairs [draws, pairs].

    p_value: of its mean among theirs; quantiles: of its values over pairs, keyed by quantile; pairs_needed: to tell its
    values from the mean of theirs, pair by pair. A check adds them to its row so:

        row.model_copy(update=against_null(values[CIRCUIT], values[RANDOM])._asdict())

    side `less` for losses and divergences. When it lies: pairs_needed knows that prompts vary, not that random circuits
    do; the p-value knows the latter.
    """
    if own.ndim != 1 or random.ndim != 2 or random.shape[1] != len(own):
        raise BadInput(f"Expected values [pairs] and [draws, pairs], got {list(own.shape)} and {list(random.shape)}.")
    p, smallest = null_p_value(float(own.mean()), random.mean(1), side)
    pairs = pairs_needed(own - random.mean(0), side, level, power).pairs
    return AgainstNull(
        p_value=p, p_smallest=smallest, pairs_needed=int(pairs) if math.isfinite(pairs) else "infinite",
        quantiles={f"{q:g}": float(v) for q, v in zip(QUANTILES, per_item_quantiles(own), strict=True)},
    )  # fmt: skip
