"""Intervals, quantiles and the arithmetic of nulls. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from gossamer.errors import BadInput

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, seed: int = 0, draws: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (one per pair), resampling pairs."""
    x = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(x), size=(draws, len(x)))
    means = x[picks].mean(1)
    tail = (1 - level) / 2
    return float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))


def resampled_means(values: np.ndarray, seed: int = 0, draws: int = 2000) -> np.ndarray:
    """Means of values [.., items] over items drawn with replacement, [.., draws]; every row sees the same draws."""
    x = np.asarray(values, dtype=np.float64)
    n = x.shape[-1]
    rng, block = np.random.default_rng(seed), max(1, 2**20 // n)
    found = []
    for start in range(0, draws, block):
        size = min(block, draws - start)
        picks = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(picks.ravel(), minlength=n * size).reshape(size, n)
        found.append(x @ (counts.T / n))
    return np.concatenate(found, axis=-1)


def quantile_interval(draws: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of null draws."""
    tail = (1 - level) / 2
    return float(np.quantile(draws, tail)), float(np.quantile(draws, 1 - tail))


def per_item_quantiles(
    values: Sequence[float] | np.ndarray, at: Sequence[float] = QUANTILES
) -> np.ndarray:  # fmt: skip
    """Quantiles over items of values [.., items], [.., quantiles]: 0 is the worst item, 1 the best. Never clipped.

    A mean hides items too high behind items too low, and a faithfulness of one prompt can be -6 or 60 (Miller et al.
    2024, Figure 3). BadInput for no item, or for one that is not a finite number: what a ratio without a denominator
    is has to be said, not ranked. When it lies: the ends grow with the number of items.
    """
    x = np.asarray(values, dtype=np.float64)
    if not x.shape[-1:] or not x.shape[-1]:
        raise BadInput("Expected at least one item to take quantiles of, got none.")
    require_finite(x, "value per item")
    return np.moveaxis(np.quantile(x, at, axis=-1), 0, -1)


def require_finite(x: np.ndarray, what: str) -> None:
    """BadInput that says how many numbers are not finite, if any."""
    if bad := int((~np.isfinite(x)).sum()):
        raise BadInput(
            f"Expected every {what} to be a finite number, {bad} of {x.size} are not; leave them out by name."
        )


def hierarchical_bootstrap(
    values: Sequence[Sequence[float] | np.ndarray] | np.ndarray, *, crossed: bool = False, seed: int = 0,
    draws: int = 2000, level: float = 0.95,
) -> tuple[float, tuple[float, float]]:  # fmt: skip
    """Mean over seeds of the means over their prompts, with a percentile interval that knows of both levels.

    values: one row per seed, of one number per prompt. A draw picks seeds with replacement, and for every seed picked,
    prompts with replacement: each row's own (rows may differ in length; Saravanan et al. 2020), or with `crossed` the
    same for all rows, for prompts that every seed was asked (the pigeonhole bootstrap, Owen 2007). Every seed has the
    same weight. When it lies: with few seeds the interval is too narrow, by a factor of sqrt(1 - 1/seeds) where seeds
    are all that differs, and with one seed it is of prompts alone.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in values]
    if not rows or any(row.ndim != 1 or not len(row) for row in rows):
        raise BadInput("Expected one row of one or more numbers for every seed, got none or an empty one.")
    for row in rows:
        require_finite(row, "value")
    if crossed and len({len(row) for row in rows}) > 1:
        raise BadInput(f"Expected as many prompts of every seed, got {[len(r) for r in rows]}; or say crossed=False.")
    rng, n = np.random.default_rng(seed), len(rows)
    picked = rng.integers(0, n, size=(draws, n))
    if crossed:
        prompts = rng.integers(0, len(rows[0]), size=(draws, len(rows[0])))
        table = np.stack(rows)
        means = np.array([table[s][:, p].mean() for s, p in zip(picked, prompts, strict=True)])
    else:
        means = np.zeros(draws)
        for place in picked.T:
            for i, row in enumerate(rows):
                here = np.flatnonzero(place == i)
                means[here] += row[rng.integers(0, len(row), size=(len(here), len(row)))].mean(1) / n
    return float(np.mean([row.mean() for row in rows])), quantile_interval(means, level)


def wilson_interval(
    successes: int | np.ndarray, n: int, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Wilson's interval of a probability (or of many) of which `n` independent trials succeeded `successes` times.

    Wilson 1927. Unlike the normal interval it is not empty at 0 or n successes and stays within 0 and 1.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = np.asarray(successes, dtype=np.float64) / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Exact at the ends, where rounding is not.
    return np.where(share == 0, 0.0, middle - half), np.where(share == 1, 1.0, middle + half)


def mean_interval(values: np.ndarray, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of one number per prompt: Wilson's where each is 0 or 1, the bootstrap's otherwise.

    Of a share at its edge, such as 128 right of 128, every bootstrap draw is the same and the interval has no width.
    """
    x = np.asarray(values, dtype=np.float64)
    if np.isin(x, (0.0, 1.0)).all():
        low, high = wilson_interval(int(x.sum()), len(x), level)
        return float(low), float(high)
    return bootstrap_interval(x, seed, level=level)


def geometric_mean(values: Sequence[float] | np.ndarray) -> float:
    """Geometric mean of positive numbers of any shape."""
    return float(np.exp(np.log(np.asarray(values, dtype=np.float64)).mean()))


def ratio_of_geometric_means(
    above: Sequence[Sequence[float]] | np.ndarray, below: Sequence[Sequence[float]] | np.ndarray, seed: int = 0,
    draws: int = 10_000, level: float = 0.95,
) -> tuple[float, tuple[float, float] | None]:  # fmt: skip
    """Geometric mean of `above` over that of `below` (both positive, [tasks, seeds]), with a bootstrap interval.

    A draw picks tasks with replacement, the same ones for both sides, and within each picked task seeds with
    replacement, apart for the two sides. With one task only seeds are picked; with one number a side there is no
    interval (None). When it lies: few tasks or seeds make it too narrow, and it knows nothing of other trainings of
    the models.
    """
    a, b = np.log(np.asarray(above, dtype=np.float64)), np.log(np.asarray(below, dtype=np.float64))
    value = float(np.exp(a.mean() - b.mean()))
    if a.size == 1 and b.size == 1:
        return value, None
    rng = np.random.default_rng(seed)
    tasks = rng.integers(0, len(a), size=(draws, len(a), 1))
    means = [x[tasks, rng.integers(0, x.shape[1], size=(draws, len(a), x.shape[1]))].mean((1, 2)) for x in (a, b)]
    low, high = quantile_interval(np.exp(means[0] - means[1]), level)
    return value, (low, high)
