"""Sub-cubic proofs (Gross et al. 2024): the filling token is not gone through either. O(v^2 K + v^2 d).

A search that is not part of the proof picks for every query q, maximum m and number n a gap g; the proof then certifies
all filling tokens k <= m - g at once, by the largest score and the worst value among them taken apart. What is said of
scores and of the direct path can be cheaper still, at the price of an error term:

scores (qk)
    exact       EQKE entry by entry.
    rank-1      EQKE = c x y^T + error with x = left a, y = right b for two witness vectors a, b; a score difference is
                that of c x y^T within the row's range (largest minus smallest) of the error, computed exactly.
    factored    the error is A B^T with A = left - x b^T, B = right - y a^T and c = 2 - a.b, which is exact whatever a
                and b are. Its entries k and m of row q differ by at most |A[q]| (r[k] + r[m]), r the distances of B's
                rows from their mean (Cauchy and Schwarz), and by at most sum_d |A[q, d]| (max B[:, d] - min B[:, d])
                (the paper's row difference): the smaller of the two. Needs no v x v product.
    svd         the same error by its largest singular value s: entries of a row differ by at most sqrt(2) s, and s^16
                is at most the trace of (A^T A B^T B)^8.
direct path (eu)
    exact       EU entry by entry.
    factored    EU = the mean query's row + error, the error by the same two. Needs no v x v product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gossamer.verify.proof.cells import Cells
from gossamer.verify.proof.decomposition import MARGIN, Array, Parts, lead

Scores = Literal["exact", "rank-1", "factored", "svd"]
Direct = Literal["exact", "factored"]
SQUARINGS = 3


@dataclass(frozen=True, kw_only=True)
class Found:
    """A sub-cubic proof: gaps [n, q, m] (0: nothing is certified; for n = 0, 1 is the one input), and witnesses a and b
    [d_head], None where scores are exact."""

    gaps: Array
    a: Array | None
    b: Array | None

    def cells(self) -> Cells:
        """What it certifies."""
        v = self.gaps.shape[1]
        m, tokens = np.arange(v)[:, None], np.arange(v)
        good = (self.gaps[..., None] > 0) & (tokens <= m - self.gaps[..., None])
        good[0] = False
        return Cells(alone=self.gaps[0] > 0, good=good)


def witnesses(parts: Parts) -> tuple[Array, Array]:
    """(a, b) that make x and y the first singular vectors of EQKE, with a.b = 1 up to rounding."""
    first, sizes, second = np.linalg.svd(parts.scores)
    if not sizes[0]:
        return np.zeros(parts.left.shape[1]), np.zeros(parts.left.shape[1])
    return parts.right.T @ second[0] / sizes[0], parts.left.T @ first[:, 0]


def error_range(parts: Parts, a: Array, b: Array, scores: Scores) -> tuple[Array, Array, Array]:
    """(c x [q], y [k], e [q, m]): EQKE[q, k] - EQKE[q, m] is c x[q] (y[k] - y[m]) within e[q, m] either way."""
    x, y, c = parts.left @ a, parts.right @ b, 2 - a @ b
    if scores == "rank-1":
        error = np.ptp(parts.scores - c * np.outer(x, y), axis=1)[:, None]
        return c * x, y, np.repeat(error, parts.v, axis=1)
    rest_left, rest_right = parts.left - np.outer(x, b), parts.right - np.outer(y, a)
    if scores == "factored":
        return c * x, y, difference(rest_left, rest_right)
    power = (rest_left.T @ rest_left) @ (rest_right.T @ rest_right)
    for _ in range(SQUARINGS):
        power = power @ power
    largest = max(float(np.trace(power)), 0.0) ** (1 / 2 ** (SQUARINGS + 1))
    return c * x, y, np.full((parts.v, parts.v), math.sqrt(2) * largest)


def difference(left: Array, right: Array) -> Array:
    """At least |(left right^T)[q, k] - (left right^T)[q, m]| for every k, [q, m]."""
    apart = np.linalg.norm(right - right.mean(0), axis=1)
    by_length = np.outer(np.linalg.norm(left, axis=1), apart + apart.max())
    return np.minimum(by_length, (np.abs(left) @ np.ptp(right, axis=0))[:, None])


def direct_path(parts: Parts, direct: Direct) -> Array:
    """A lower bound of min over o != m of EU[q, m] - EU[q, o], [q, m]."""
    if direct == "exact":
        return parts.worst_direct
    mean = parts.query_embed.mean(0)
    return lead((mean @ parts.unembed)[None]) - difference(parts.query_embed - mean, parts.unembed.T)


def sub_cubic(parts: Parts, *, scores: Scores, direct: Direct) -> Found:
    """The smallest gaps that hold. Searching takes O(v^3 K); checking what it found does not."""
    k, v = parts.k, parts.v
    own, tokens = np.eye(v, dtype=bool), np.arange(v)
    a = b = None
    if scores == "exact":
        low = high = np.diagonal(parts.scores)[:, None] - parts.scores  # query over maximum, [q, m]
        filling = np.maximum.accumulate(parts.scores, axis=1)[:, None] - parts.scores[..., None]  # [q, m, largest k]
    else:
        a, b = witnesses(parts)
        x, y, error = error_range(parts, a, b, scores)
        near = x[:, None] * (y[:, None] - y)
        low, high = (np.where(own, 0, near + sign * error) for sign in (-1, 1))
        most = np.where(x[:, None] >= 0, np.maximum.accumulate(y), np.minimum.accumulate(y))  # [q, largest k]
        filling = x[:, None, None] * (most[:, None] - y[:, None]) + error[..., None]
    with np.errstate(over="ignore", invalid="ignore"):
        low, high, filling = np.exp(low), np.exp(high), np.exp(filling)
        path, copies = direct_path(parts, direct), parts.worst_copies
        at_query = parts.position_weights[:, [-1]]
        value = path + copies + parts.worst_positions[-1]
        query = at_query * np.where(value >= 0, low, high) * value  # [q, m]
        filled = path + parts.worst_positions[:-1].min(0)
        maximum = filled + np.diagonal(copies)
        rest = np.minimum(filled[..., None] + np.minimum.accumulate(copies, axis=0).T, 0)  # [q, m, largest k]
        gaps = np.zeros((k, v, v), dtype=np.int64)
        size = parts.size + np.abs(path).max()
        for n in range(k):
            held = np.ones((v, v, v), dtype=bool)
            for on_max, on_rest in parts.split_weights[:, :, :, n, None]:
                margin = query + on_max * maximum
                slack = MARGIN * size * (at_query * high + on_max)
                if not n:
                    gaps[0] = margin > slack
                    break
                light = on_rest[..., None] * filling
                held &= margin[..., None] + light * rest > slack[..., None] + MARGIN * size * light
            else:
                held &= tokens[:, None] > tokens
                last = np.where(held.any(-1), v - 1 - np.argmax(held[..., ::-1], axis=-1), v)
                gaps[n] = np.where(last < v, tokens - last, 0)
    gaps[:, tokens[:, None] > tokens] = 0  # the maximum is at least the query
    return Found(gaps=gaps, a=a, b=b)
