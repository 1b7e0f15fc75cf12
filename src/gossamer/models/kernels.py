"""The few operations a weight-sparse transformer spends its time in, written for memory traffic first.

On a CPU the straightforward step spends more time in top-k, allocation and passes over memory than in matrix products.
Here: AbsTopK finds each row's threshold with a vectorised partition instead of sorting; norm, activation and AbsTopK
write one buffer and save one byte per element for the backward pass; the output layer and its cross-entropy work
through the tokens in chunks and never hold all logits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LOSS_CHUNK_TOKENS = 1024


def _dropped(x: Tensor, k: int) -> Tensor:
    """Boolean [..., dim]: True where AbsTopK zeroes `x`; exactly dim - k per row (ties broken by position)."""
    dim = x.shape[-1]
    a = x.detach().abs()
    if a.device.type == "cpu" and a.dtype in (torch.float32, torch.float64):
        flat = a.reshape(-1, dim)
        threshold = torch.from_numpy(np.partition(flat.numpy(), dim - k, axis=-1)[:, dim - k : dim - k + 1].copy())
        dropped = flat < threshold
    else:
        flat = a.reshape(-1, dim)
        dropped = flat < flat.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    if a.device.type == "cpu" and np.count_nonzero(dropped.numpy()) == flat.shape[0] * (dim - k):
        return dropped.view(x.shape)
    tied = (dim - k) - dropped.sum(-1)
    if bool((tied != 0).any()):
        rows = tied.nonzero().squeeze(-1)
        kept = flat[rows].topk(k, dim=-1).indices
        dropped[rows] = torch.ones_like(flat[rows], dtype=torch.bool).scatter_(-1, kept, False)
    return dropped.view(x.shape)


class _AbsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, groups: int, inplace: bool) -> Tensor:
        dropped = _dropped(x.unflatten(-1, (groups, -1)), k).view(x.shape)
        ctx.save_for_backward(dropped)
        if inplace:
            ctx.mark_dirty(x)
            return x.masked_fill_(dropped, 0)
        return x.masked_fill(dropped, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (dropped,) = ctx.saved_tensors
        return grad.masked_fill(dropped, 0), None, None, None


def abs_topk(x: Tensor, k: int, groups: int = 1, inplace: bool = False) -> Tensor:
    """Keep the k largest |x| of the last dimension and zero the rest; the gradient flows through the kept ones only.

    The last dimension may hold several `groups` side by side (q, k and v), each with its own k largest. `inplace`
    overwrites x: only for the fresh output of an operation that does not need it for its own backward.
    """
    return x if k * groups >= x.shape[-1] else _AbsTopK.apply(x, k, groups, inplace)


class _RmsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, k: int) -> Tensor:
        rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = rms.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        y = (x * inverse).mul_(gain)
        dropped = None
        if k < x.shape[-1]:
            dropped = _dropped(y, k)
            y.masked_fill_(dropped, 0)
        ctx.save_for_backward(x, inverse, gain, dropped)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, inverse, gain, dropped = ctx.saved_tensors
        g = grad.masked_fill(dropped, 0) if dropped is not None else grad.clone()
        unit = x * inverse
        grad_gain = (g * unit).flatten(0, -2).sum(0)
        g.mul_(gain)
        along = (g * unit).mean(-1, keepdim=True)
        return g.addcmul_(unit, along, value=-1).mul_(inverse), grad_gain, None, None


def rms_topk(x: Tensor, gain: Tensor, eps: float, k: int) -> Tensor:
    """AbsTopK(RMSNorm(x) * gain): x / sqrt(mean(x^2) + eps) * gain, then the k largest |.| kept. Shape kept."""
    return _RmsTopK.apply(x, gain, eps, k)


class _GeluTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        y = F.gelu(x)
        dropped = None
        if k < x.shape[-1]:
            dropped = _dropped(y, k)
            y.masked_fill_(dropped, 0)
        ctx.save_for_backward(x, dropped)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, dropped = ctx.saved_tensors
        g = grad.masked_fill(dropped, 0) if dropped is not None else grad
        return torch.ops.aten.gelu_backward(g, x), None


def gelu_topk(x: Tensor, k: int) -> Tensor:
    """AbsTopK(GELU(x)), exact (erf) GELU."""
    return _GeluTopK.apply(x, k)


def attention(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None) -> Tensor:
    """Causal attention, scale 1/sqrt(d_head). q, k, v: [batch, head, pos, d_head]; sink: [head] logits or None.

    The sink is one more key with score `sink[h]` and value 0, so that a head may attend to nothing. It is computed
    by giving queries one more channel of ones and the extra key the score in it, which keeps the library's fused
    kernel (and its gradient to the sink) usable on every device.
    """
    if sink is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    batch, heads, pos, width = q.shape
    wide = width + 1
    q1, k1, v1 = (q.new_zeros(batch, heads, pos + 1, wide) for _ in range(3))
    q1[:, :, 1:, :width], k1[:, :, 1:, :width], v1[:, :, 1:, :width] = q, k, v
    q1[..., width] = math.sqrt(width)
    k1[:, :, 0, width] = sink
    out = F.scaled_dot_product_attention(q1, k1, v1, is_causal=True, scale=1 / math.sqrt(width))
    return out[:, :, 1:, :width]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bigram: Tensor | None, tokens: Tensor, targets: Tensor) -> Tensor:
        n = h.shape[0]
        grad_h = torch.empty_like(h)
        grad_w = torch.zeros_like(weight)
        grad_bigram = torch.zeros_like(bigram) if bigram is not None else None
        total = torch.zeros((), dtype=torch.float64 if h.device.type == "cpu" else torch.float32, device=h.device)
        buffer = h.new_empty(min(LOSS_CHUNK_TOKENS, n), weight.shape[0])
        for start in range(0, n, LOSS_CHUNK_TOKENS):
            chunk = slice(start, min(start + LOSS_CHUNK_TOKENS, n))
            rows, target = h[chunk], targets[chunk, None]
            logits = torch.mm(rows, weight.T, out=buffer[: rows.shape[0]])
            if bigram is not None:
                logits += bigram[tokens[chunk]]
            logits -= logits.amax(-1, keepdim=True)
            correct = logits.gather(1, target)
            partition = logits.exp_().sum(-1, keepdim=True)
            total += (partition.log() - correct).sum()
            logits.div_(partition * n)
            logits.scatter_add_(1, target, torch.full_like(correct, -1 / n))
            torch.mm(logits, weight, out=grad_h[chunk])
            grad_w.addmm_(logits.T, rows)
            if grad_bigram is not None:
                grad_bigram.index_add_(0, tokens[chunk], logits)
        ctx.save_for_backward(grad_h, grad_w, grad_bigram)
        return (total / n).to(h.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        grad_h, grad_w, grad_bigram = ctx.saved_tensors
        return grad_h.mul_(grad), grad_w.mul_(grad), None if grad_bigram is None else grad_bigram.mul_(grad), None, None


def linear_cross_entropy(h: Tensor, weight: Tensor, tokens: Tensor, targets: Tensor, bigram: Tensor | None) -> Tensor:
    """Mean next-token cross-entropy in nats of logits h @ weight.T (+ bigram[tokens]), chunk by chunk.

    h: [n, d_model]; weight: [vocab, d_model]; tokens, targets: [n]. Memory: one chunk of logits, not all of them.
    """
    with torch.autocast(h.device.type, enabled=False):
        return _LinearCrossEntropy.apply(h.to(weight.dtype), weight, bigram, tokens, targets)
