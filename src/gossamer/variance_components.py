"""How much of a number's variance is seeds, resampled prompts or rephrased templates? numpy only.

Method of moments (analysis of variance): mean squares are set equal to their expectations under a random-effects model
and solved (Searle, Casella and McCulloch 1992, chapters 3 and 4). The estimates are unbiased whatever the distribution,
and can be negative; a negative one is reported as it is and named, since clipping it would bias all the others upwards.

When it lies: with few levels an estimate is wide (of k levels about sqrt(2 / (k - 1)) of itself), and a negative one
says that the true component is small, or that the levels are not drawn independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gossamer.errors import BadInput
from gossamer.statistics import require_finite


@dataclass(frozen=True, kw_only=True)
class VarianceComponents:
    """parts: an estimate per source of variance, the square of the numbers' unit, negative where it came out so."""

    mean: float
    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """The sum of all parts, negative ones included: the variance of one number."""
        return sum(self.parts.values())

    @property
    def negative(self) -> tuple[str, ...]:
        """The sources whose estimate is below zero."""
        return tuple(name for name, part in self.parts.items() if part < 0)

    def share(self, name: str) -> float:
        """Part over total, not clipped to 0 and 1. BadInput where the total is not positive: there is nothing to
        share."""
        if self.total <= 0:
            raise BadInput(f"Expected a positive total variance to take a share of, it is {self.total:.4g}.")
        return self.parts[name] / self.total

    def in_words(self) -> str:
        """One sentence: each part as a standard deviation and a share, negative ones as they are."""
        if self.total <= 0:
            return f"mean {self.mean:.4g}; no variance to divide (the parts sum to {self.total:.4g})."
        told = [
            f"{name} {part:.3g} (negative: not told from none)" if part < 0
            else f"{name} sd {np.sqrt(part):.3g} ({self.share(name):.0%})"
            for name, part in self.parts.items()
        ]  # fmt: skip
        return f"mean {self.mean:.4g}; {', '.join(told)} of the variance."


def one_way(groups: Sequence[Sequence[float] | np.ndarray] | np.ndarray, name: str = "between") -> VarianceComponents:
    """Parts `name` (between groups) and `within` of one row of numbers per group (a seed, a resampled set of prompts).

    within = MSW; between = (MSB - MSW) / n0, n0 = (N - sum n_i^2 / N) / (k - 1), which is n for groups of equal size.
    Rows may differ in length. BadInput for fewer than two groups, or where no group has two numbers.
    """
    rows = [np.asarray(g, dtype=np.float64) for g in groups]
    sizes = np.array([len(r) for r in rows])
    n, k = int(sizes.sum()), len(rows)
    if k < 2 or not sizes.all() or n <= k:
        raise BadInput(f"Expected two or more groups, one of them of two numbers or more, got sizes {sizes.tolist()}.")
    for row in rows:
        require_finite(row, "number")
    means = np.array([r.mean() for r in rows])
    grand = float(np.concatenate(rows).mean())
    between = (sizes * (means - grand) ** 2).sum() / (k - 1)
    within = sum(((r - m) ** 2).sum() for r, m in zip(rows, means, strict=True)) / (n - k)
    per_group = (n - (sizes**2).sum() / n) / (k - 1)
    return VarianceComponents(
        mean=grand, parts={name: float((between - within) / per_group), "within": float(within)}
    )  # fmt: skip


def two_way(values: np.ndarray, names: tuple[str, str] = ("rows", "columns")) -> VarianceComponents:
    """Parts of two crossed sources (seeds x templates) from values [rows, columns] or [rows, columns, repeats].

    Without repeats the parts are the two sources and `rest` (their interaction and noise, which a single number per
    cell cannot tell apart): (MSR - MSE) / C, (MSC - MSE) / R and MSE. With repeats the interaction is a part too:
    (MSR - MSI) / (C n), (MSC - MSI) / (R n), (MSI - MSE) / n and MSE. BadInput for fewer than two of anything.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim not in (2, 3) or min(x.shape) < 2:
        raise BadInput(f"Expected values [rows, columns] or [rows, columns, repeats], two or more each, got {x.shape}.")
    require_finite(x, "value")
    cells = x if x.ndim == 2 else x.mean(2)
    repeats = 1 if x.ndim == 2 else x.shape[2]
    (n_rows, n_columns), grand = cells.shape, cells.mean()
    rows, columns = cells.mean(1) - grand, cells.mean(0) - grand
    square_rows = repeats * n_columns * (rows**2).sum() / (n_rows - 1)
    square_columns = repeats * n_rows * (columns**2).sum() / (n_columns - 1)
    apart = cells - grand - rows[:, None] - columns
    square_apart = repeats * (apart**2).sum() / ((n_rows - 1) * (n_columns - 1))
    parts = {
        names[0]: float((square_rows - square_apart) / (n_columns * repeats)),
        names[1]: float((square_columns - square_apart) / (n_rows * repeats)),
    }
    if x.ndim == 2:
        parts["rest"] = float(square_apart)
    else:
        noise = ((x - cells[..., None]) ** 2).sum() / (n_rows * n_columns * (repeats - 1))
        parts |= {f"{names[0]} x {names[1]}": float((square_apart - noise) / repeats), "rest": float(noise)}
    return VarianceComponents(mean=float(grand), parts=parts)
