"""How long a proof is: arithmetic operations to check it, and dimensions that it leaves unexplained.

Operations are those on real numbers: each sum, product, comparison, exponential and root is one, in the order that the
checker takes; the checker's margins for rounding and the search for witnesses are not counted. A product of matrices
costs 2 per pair of entries that can both be non-zero, so that a weight-sparse model is charged for its non-zeros only.

Unexplained dimensions (Gross et al. 2024): numbers that the case analysis still reads one by one. Brute force reads
v^(K+1). A matrix read entry by entry counts its entries, 3 v^2 + 2 K v for the five of a dense model; for a sparse one
at most the non-zero weights it is made of. A rank-1 or mean row counts its vectors and its error terms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gossamer.models.max_of_k import MaxOfK

Mask = np.ndarray
SUB_CUBIC = "sub-cubic."


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations to check, unexplained dimensions."""

    flops: int
    unexplained_dimensions: int


@dataclass
class _Meter:
    """Adds up operations while patterns of non-zeros go through the products."""

    flops: int = 0
    patterns: dict[str, Mask] = field(default_factory=dict)

    def product(self, a: Mask, b: Mask) -> Mask:
        self.flops += 2 * int(a.sum(0).astype(np.int64) @ b.sum(1).astype(np.int64))
        return (a.astype(np.int64) @ b.astype(np.int64)) > 0

    def sum(self, a: Mask, b: Mask) -> Mask:
        self.flops += int((a & b).sum())
        return a | b


def cost(model: MaxOfK, rung: str) -> Cost:
    """What checking a proof of this rung takes for this model."""
    k, v, h = model.config.k, model.config.vocabulary, model.config.d_head
    w = {name: t.numpy() != 0 for name, t in model.weights().items()}
    size = {name: int(mask.sum()) for name, mask in w.items()}
    pairs, triples = v * (v + 1) // 2, (v**3 - v) // 3  # q <= m; and k < m with them
    meter = _Meter()
    meter.flops += size["positions"]  # their mean
    mean = w["positions"].any(0, keepdims=True)
    query_embed, embed = meter.sum(w["embed"], w["positions"][-1:]), meter.sum(w["embed"], mean)
    apart = meter.sum(w["positions"], mean)
    left = meter.product(query_embed, w["query"])
    meter.flops += int(left.sum())  # over sqrt(d_head)
    position_right, out = meter.product(apart, w["key"]), meter.product(w["output"], w["unembed"])
    copies = meter.product(meter.product(embed, w["value"]), out)
    position_copies = meter.product(meter.product(apart, w["value"]), out)
    position_scores = meter.product(left, position_right.T)
    right = meter.product(embed, w["key"])
    meter.flops += k * v + v * k * k + 2 * k * v  # exponentials, order and sums of position weights
    ov, qk, eu = (
        size["embed"] + sum(size[n] for n in names) for names in (("value", "output"), ("query", "key"), ())
    )  # fmt: skip
    ov, eu = ov + size["unembed"], eu + size["unembed"]
    dimensions = (
        min(int(copies.sum()), ov) + min(int(position_copies.sum()), ov - size["embed"] + size["positions"])
        + min(int(position_scores.sum()), qk + size["positions"])
    )  # fmt: skip

    def entries_of_scores() -> int:
        return min(int(meter.product(left, right.T).sum()), qk)

    def entries_of_direct() -> int:
        return min(int(meter.product(query_embed, w["unembed"]).sum()), eu)

    if not rung.startswith(SUB_CUBIC):
        dimensions += entries_of_scores() + entries_of_direct()
        meter.flops += v * v  # exponentials
        if rung == "brute-force":
            meter.flops += 3 * k * v**3 + 2 * v ** (k + 1)
            return Cost(flops=meter.flops, unexplained_dimensions=v ** (k + 1))
        if rung == "per-output":
            meter.flops += (v - 1) * (v * (2 * v + 2 * k) + pairs * (6 + 4 * k) + triples * (3 + 6 * (k - 1)))
        else:
            meter.flops += 3 * (2 * v + k) * v + pairs * (6 + 4 * k) + triples * (2 + 6 * (k - 1))
        return Cost(flops=meter.flops, unexplained_dimensions=dimensions)
    _, scores, direct = rung.split(".")
    meter.flops += 4 * v * v + 3 * k * v + pairs * (6 + 4 * k + (k - 1) * (12 if scores == "exact" else 15))
    if direct == "exact":
        dimensions += entries_of_direct()
        meter.flops += 3 * v * v
    else:
        dimensions += 4 * v + model.config.d_model  # mean row; lengths, distances, sums over channels; ranges
        for rows in (query_embed, w["unembed"].T):
            meter.flops += v * 6 * int(rows.any(0).sum()) + v  # mean, difference, length; range, or sum by ranges
        meter.flops += model.config.d_model + v * v
        meter.product(np.asarray(query_embed.any(0, keepdims=True)), w["unembed"])
        meter.flops += 3 * v * v
    if scores == "exact":
        dimensions += entries_of_scores()
        meter.flops += 2 * v * v
        return Cost(flops=meter.flops, unexplained_dimensions=dimensions)
    meter.flops += 2 * int(left.sum() + right.sum()) + 2 * h + 3 * v  # x, y, 2 - a.b times x, range of y so far
    if scores == "rank-1":
        meter.product(left, right.T)
        meter.flops += 4 * v * v
        return Cost(flops=meter.flops, unexplained_dimensions=dimensions + 3 * v)
    meter.flops += 4 * v * h  # the two rests
    if scores == "factored":
        meter.flops += 10 * v * h + h + 2 * v + 3 * v * v
        return Cost(flops=meter.flops, unexplained_dimensions=dimensions + 5 * v + h)
    meter.flops += 4 * v * h * h + 2 * h**3 * 4 + h + 5
    return Cost(flops=meter.flops, unexplained_dimensions=dimensions + 2 * v + 1)
