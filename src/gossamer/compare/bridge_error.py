"""How well a bridge joins two models: NMSE of its maps and KL of single switches (Gao et al. 2025, sections 2.3, A.3).

When it lies: NMSE weighs channels by their variance, which need not be what the model reads; a switch's KL also holds
the difference between the two models after the site, so read it beside KL(dense || sparse) without a bridge, and beside
the KL of a site replaced by its mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gossamer.models.bridge import Bridge, tails
from gossamer.models.kernels import linear_kl
from gossamer.models.sparse import SparseTransformer


class _Sums:
    """Squared error and variance about the token mean of one map, added up over batches in float64."""

    def __init__(self) -> None:
        self.n, self.error, self.square = 0, 0.0, 0.0
        self.total: Tensor | None = None

    def add(self, prediction: Tensor, target: Tensor) -> None:
        p, t = prediction.flatten(0, -2).double(), target.flatten(0, -2).double()
        self.n += len(t)
        self.error += float((p - t).square().sum())
        self.square += float(t.square().sum())
        self.total = t.sum(0) if self.total is None else self.total + t.sum(0)

    def nmse(self) -> float:
        assert self.total is not None
        return self.error / (self.square - float(self.total.square().sum()) / self.n)


@torch.no_grad()
def residual_errors(
    bridge: Bridge, sparse: SparseTransformer, dense: SparseTransformer, batches: Sequence[Tensor]
) -> list[tuple[float, float]]:
    """(NMSE dense to sparse, NMSE sparse to dense) per site: error over variance about the token mean of this text.

    batches: tokens [batch, pos]. 0 is exact, 1 the best constant.
    """
    sums = [(_Sums(), _Sums()) for _ in range(bridge.shape.n_sites)]
    for tokens in batches:
        at = sparse.residuals(tokens), dense.residuals(tokens)
        for site, (to_sparse, to_dense) in enumerate(sums):
            to_sparse.add(bridge.encode(at[1][site], site), at[0][site])
            to_dense.add(bridge.decode(at[0][site], site), at[1][site])
    return [(a.nmse(), b.nmse()) for a, b in sums]


class SwitchKL(NamedTuple):
    """KL(dense || switched) in nats per token, one number per site; `ablated_*`: the site's residual replaced by its
    token mean in the model that goes on; `models`: KL(dense || sparse) without any switch."""

    to_sparse: list[float]
    to_dense: list[float]
    ablated_sparse: list[float]
    ablated_dense: list[float]
    models: float


@torch.no_grad()
def switch_kl(
    bridge: Bridge, sparse: SparseTransformer, dense: SparseTransformer, batches: Sequence[Tensor]
) -> SwitchKL:
    """Single switches at every site, both ways, beside mean-ablated sites; the means are over the same text."""
    n, sites = bridge.shape.n_sites, range(bridge.shape.n_sites)
    means: list[list[Tensor]] = []
    for model in (sparse, dense):
        total = [torch.zeros(model.config.d_model, dtype=torch.float64, device=model.wte.weight.device) for _ in sites]
        for tokens in batches:
            for site, x in zip(sites, model.residuals(tokens), strict=False):
                total[site] += x.flatten(0, 1).double().sum(0)
        count = sum(t.numel() for t in batches)
        means.append([(t / count).to(model.wte.weight) for t in total])
    sums = torch.zeros(4, n, dtype=torch.float64)
    models, windows = 0.0, sum(len(t) for t in batches)
    for tokens in batches:
        at = sparse.residuals(tokens), dense.residuals(tokens)
        teacher = dense.ln_f(at[1][-1]).flatten(0, 1), dense.lm_head.weight, dense.bigram_table
        starts = (
            (sparse, [bridge.encode(at[1][i], i) for i in sites]), (dense, [bridge.decode(at[0][i], i) for i in sites]),
            (sparse, [means[0][i].expand_as(at[0][i]) for i in sites]),
            (dense, [means[1][i].expand_as(at[1][i]) for i in sites]),
        )  # fmt: skip
        for row, (model, begun) in enumerate(starts):
            hidden = tails(model, begun).flatten(1, 2)
            _, each = linear_kl(hidden, model.lm_head.weight, model.bigram_table, teacher, tokens.flatten())
            sums[row] += each.cpu().double() * len(tokens)
        final = sparse.ln_f(at[0][-1]).flatten(0, 1)[None]
        plain, _ = linear_kl(final, sparse.lm_head.weight, sparse.bigram_table, teacher, tokens.flatten())
        models += float(plain) * len(tokens)
    a, b, c, d = (sums / windows).tolist()
    return SwitchKL(a, b, c, d, models / windows)
