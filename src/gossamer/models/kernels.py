"""The few operations a weight-sparse transformer spends its time in, written for memory traffic first.

On a CPU the straightforward step spends more time in top-k, allocation and passes over memory than in matrix products.
Here: AbsTopK finds each row's threshold with a vectorised partition instead of sorting; norm, activation and AbsTopK
write one buffer and save one byte per element for the backward pass; the output layer and its cross-entropy work
through the tokens in chunks and never hold all logits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LOSS_CHUNK_TOKENS = 512
BLOCK_ELEMENTS, LARGEST_BLOCK = 1 << 17, 1 << 19


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="abs-topk")


def _keep_largest_(x: Tensor, k: int) -> Tensor:
    """Zero all but the k largest |x| of each row, in place; returns which were kept, bool, shape of x.

    Exactly k per row (ties broken by position). On a CPU the rows go through in blocks that fit the cache, one block
    per thread at a time: size, partition, compare and multiply touch memory once. Sizes are partitioned as integers,
    whose order the bits of floats that are not negative have: numpy takes almost twice as long for floats.
    """
    dim = x.shape[-1]
    flat = x.detach().view(-1, dim)
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        size = flat.abs()
        kept = size >= size.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        tied = kept.sum(-1) != k
        if bool(tied.any()):
            kept[tied] = _exactly_k(size[tied], k)
        flat.mul_(kept)
        return kept.view(x.shape)
    values, kept = flat.numpy(), torch.empty(flat.shape, dtype=torch.bool)
    flags, bits = kept.numpy(), np.int32 if x.dtype == torch.float32 else np.int64

    def block(own: np.ndarray, flag: np.ndarray) -> None:
        size = np.abs(own)
        size.view(bits).partition(dim - k, axis=-1)
        threshold = size[:, dim - k : dim - k + 1].copy()
        np.greater_equal(np.abs(own, out=size), threshold, out=flag)
        if np.count_nonzero(flag) != len(own) * k:
            tied = np.count_nonzero(flag, axis=-1) != k
            flag[tied] = _exactly_k(torch.from_numpy(size[tied]), k).numpy()
        np.multiply(own, flag, out=own)

    _in_blocks(block, values, flags)
    return kept.view(x.shape)


def _in_blocks(block: Callable[..., object], *matrices: np.ndarray) -> None:
    """Call it on as many rows of the matrices at a time as fit the cache.

    Threads wait for the interpreter at every call, and for torch's own, which spin after each operation: only as many
    run as have a large block each.
    """
    (n, dim), size = matrices[0].shape, matrices[0].size
    threads = max(1, min(torch.get_num_threads(), size // LARGEST_BLOCK))
    largest = LARGEST_BLOCK if threads > 1 else BLOCK_ELEMENTS
    rows = max(1, min(largest // max(1, dim), -(-n // threads)))
    parts = [[m[start : start + rows] for m in matrices] for start in range(0, n, rows)]
    if threads == 1:
        for part in parts:
            block(*part)
    else:
        list(_pool(threads).map(lambda part: block(*part), parts))


def _exactly_k(size: Tensor, k: int) -> Tensor:
    """The k largest of each row of a non-negative matrix, with ties among them, as bool."""
    largest = size.topk(k, dim=-1).indices
    return torch.zeros_like(size, dtype=torch.bool).scatter_(-1, largest, True)


def _kept_part(grad: Tensor, kept: Tensor, *, inplace: bool = False) -> Tensor:
    """The grad, a new one unless inplace, with zeros where not kept. numpy multiplies by booleans without first
    copying them as floats."""
    if grad.device.type == "cpu" and grad.dtype in (torch.float32, torch.float64) and grad.is_contiguous():
        out = grad if inplace else torch.empty_like(grad)
        _in_blocks(np.multiply, *(t.view(-1, t.shape[-1]).numpy() for t in (grad, kept, out)))
        return out
    return (grad if inplace else grad.clone(memory_format=torch.contiguous_format)).mul_(kept)


class _AbsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, groups: int, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        y = x if inplace else x.clone(memory_format=torch.contiguous_format)
        ctx.save_for_backward(_keep_largest_(y.unflatten(-1, (groups, -1)), k).view(x.shape))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (kept,) = ctx.saved_tensors
        return _kept_part(grad, kept), None, None, None


def abs_topk(x: Tensor, k: int, groups: int = 1, inplace: bool = False) -> Tensor:
    """Keep the k largest |x| of the last dimension and zero the rest; the gradient flows through the kept ones only.

    The last dimension may hold several `groups` side by side (q, k and v), each with its own k largest. `inplace`
    overwrites x: only for the fresh output of an operation that does not need it for its own backward.
    """
    return x if k * groups >= x.shape[-1] else _AbsTopK.apply(x, k, groups, inplace)


def linear_topk(x: Tensor, weight: Tensor, bias: Tensor | None, k: int, groups: int = 1) -> Tensor:
    """AbsTopK(x @ weight.T + bias). The product is made of rows, [n, d_out]: overwriting a view costs three copies."""
    y = abs_topk(F.linear(x.flatten(0, -2), weight, bias), k, groups, inplace=True)
    return y.unflatten(0, x.shape[:-1])


def rms_scale(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps), [..., 1]: what RMSNorm multiplies x [..., channels] by, before the gain."""
    rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return rms.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


class _RmsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, k: int) -> Tensor:
        inverse = rms_scale(x, eps)
        y = (x * inverse).mul_(gain)
        kept = None
        if k < x.shape[-1]:
            kept = _keep_largest_(y, k)
        ctx.save_for_backward(x, inverse, gain, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, inverse, gain, kept = ctx.saved_tensors
        g = _kept_part(grad, kept) if kept is not None else grad.clone()
        unit = x * inverse
        product = g * unit
        along = (product @ gain).div_(x.shape[-1])[..., None]
        grad_gain = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return g.mul_(gain).addcmul_(unit, along, value=-1).mul_(inverse), grad_gain, None, None


def rms_topk(x: Tensor, gain: Tensor, eps: float, k: int) -> Tensor:
    """AbsTopK(RMSNorm(x) * gain): x / sqrt(mean(x^2) + eps) * gain, then the k largest |.| kept. Shape kept."""
    return _RmsTopK.apply(x, gain, eps, k)


class _GeluTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        y = F.gelu(x)
        kept = None
        if k < x.shape[-1]:
            kept = _keep_largest_(y, k)
        ctx.save_for_backward(x, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, kept = ctx.saved_tensors
        g = torch.ops.aten.gelu_backward(grad, x)
        return g if kept is None else _kept_part(g, kept, inplace=True), None


def gelu_topk(x: Tensor, k: int) -> Tensor:
    """AbsTopK(GELU(x)), exact (erf) GELU."""
    return _GeluTopK.apply(x, k)


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _SinkAttention(torch.autograd.Function):
    """Attention with a sink from the library's CPU kernel without one.

    With Z = sum exp(score) and sink s, the sink's softmax has the log-partition l' = log(Z + e^s), so its output is
    the plain one times e^(log Z - l'). The kernel's backward pass needs only output and log-partition: handed these
    two it returns the gradients of the softmax with the sink, whose value is 0. And d/ds = -p_sink <grad, output>.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        out, plain = _flash(q, k, v, 0.0, True)
        partition = torch.logaddexp(plain, sink.to(plain.dtype)[:, None])
        out = out.mul_((plain - partition).exp_()[..., None])
        ctx.save_for_backward(q, k, v, sink, out, partition)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        q, k, v, sink, out, partition = ctx.saved_tensors
        grads = _flash_backward(grad, q, k, v, out, partition, 0.0, True)
        if not ctx.needs_input_grad[3]:
            return *grads, None
        share = (sink.to(partition.dtype)[:, None] - partition).exp_()
        grad_sink = -(share * (grad * out).sum(-1)).sum((0, 2))
        return *grads, grad_sink.to(sink.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None) -> Tensor:
    """Causal attention, scale 1/sqrt(d_head). q, k, v: [batch, head, pos, d_head]; sink: [head] logits or None.

    The sink is one more key with score `sink[h]` and value 0, so that a head may attend to nothing.
    """
    if sink is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if q.device.type == "cpu":
        return _SinkAttention.apply(q, k, v, sink)
    return _attention_with_sink_key(q, k, v, sink)


def _attention_with_sink_key(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    """The sink on any device: queries get one more channel of ones and the extra key has the score in it, which keeps
    the library's fused kernel (and its gradient to the sink) usable; it asks for a width that is a multiple of 8."""
    batch, heads, pos, width = q.shape
    wide = -(-(width + 1) // 8) * 8
    q1, k1, v1 = (q.new_zeros(batch, heads, pos + 1, wide) for _ in range(3))
    q1[:, :, 1:, :width], k1[:, :, 1:, :width], v1[:, :, 1:, :width] = q, k, v
    q1[..., width] = math.sqrt(width)
    k1[:, :, 0, width] = sink
    out = F.scaled_dot_product_attention(q1, k1, v1, is_causal=True, scale=1 / math.sqrt(width))
    return out[:, :, 1:, :width]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bigram: Tensor | None, tokens: Tensor, targets: Tensor, trained: bool
    ) -> Tensor:
        n = h.shape[0]
        grad_h = torch.empty_like(h)
        grad_w = torch.zeros_like(weight)
        grad_bigram = torch.zeros_like(bigram) if bigram is not None else None
        total = torch.zeros((), dtype=torch.float64 if h.device.type == "cpu" else torch.float32, device=h.device)
        buffers = h.new_empty(2, min(LOSS_CHUNK_TOKENS, n), weight.shape[0])
        for start in range(0, n, LOSS_CHUNK_TOKENS):
            chunk = slice(start, min(start + LOSS_CHUNK_TOKENS, n))
            rows, target = h[chunk], targets[chunk, None]
            logits = torch.mm(rows, weight.T, out=buffers[0, : rows.shape[0]])
            if bigram is not None:
                logits += bigram[tokens[chunk]]
            p = torch.softmax(logits, -1, out=buffers[1, : rows.shape[0]])  # the largest is at least 1 / vocab
            partition = logits.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()
            total += (partition - logits.gather(1, target)).sum()
            if not trained:
                continue
            p.scatter_add_(1, target, p.new_full(target.shape, -1))
            torch.mm(p, weight, out=grad_h[chunk])
            grad_w.addmm_(p.T, rows)
            if grad_bigram is not None:
                grad_bigram.index_add_(0, tokens[chunk], p)
        ctx.n = n
        ctx.save_for_backward(grad_h, grad_w, grad_bigram)
        return (total / n).to(h.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_w, grad_bigram = ctx.saved_tensors
        each = grad / ctx.n
        grads = grad_h.mul_(each), grad_w.mul_(each), None if grad_bigram is None else grad_bigram.mul_(each)
        return *grads, None, None, None


def linear_cross_entropy(h: Tensor, weight: Tensor, tokens: Tensor, targets: Tensor, bigram: Tensor | None) -> Tensor:
    """Mean next-token cross-entropy in nats of logits h @ weight.T (+ bigram[tokens]), chunk by chunk.

    h: [n, d_model]; weight: [vocab, d_model]; tokens, targets: [n]. Memory: one chunk of logits, not all of them.
    """
    with torch.autocast(h.device.type, enabled=False):
        trained = torch.is_grad_enabled()
        return _LinearCrossEntropy.apply(h.to(weight.dtype), weight, bigram, tokens, targets, trained)


class _LinearKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bigram: Tensor | None, teacher: tuple[Tensor, Tensor, Tensor | None],
        tokens: Tensor, trained: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        (students, n, _), (teacher_h, teacher_weight, teacher_bigram) = h.shape, teacher
        grad_h = torch.empty_like(h)
        grad_w = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bigram = torch.zeros_like(bigram) if bigram is not None and ctx.needs_input_grad[2] else None
        each = torch.zeros(students, dtype=torch.float64 if h.device.type == "cpu" else torch.float32, device=h.device)
        for start in range(0, n, LOSS_CHUNK_TOKENS):
            chunk = slice(start, min(start + LOSS_CHUNK_TOKENS, n))
            target = torch.mm(teacher_h[chunk], teacher_weight.T)
            if teacher_bigram is not None:
                target += teacher_bigram[tokens[chunk]]
            target -= target.logsumexp(-1, keepdim=True)
            p = target.exp()
            negative_entropy = target.mul_(p).sum()
            logits = torch.empty_like(p)
            for student in range(students):
                rows = h[student, chunk]
                torch.mm(rows, weight.T, out=logits)
                if bigram is not None:
                    logits += bigram[tokens[chunk]]
                logits -= logits.amax(-1, keepdim=True)
                cross = torch.dot(logits.flatten(), p.flatten())
                partition = logits.exp_().sum(-1, keepdim=True)
                each[student] += negative_entropy - cross + partition.log().sum()
                if not trained:
                    continue
                logits.div_(partition).sub_(p).div_(n)
                torch.mm(logits, weight, out=grad_h[student, chunk])
                if grad_w is not None:
                    grad_w.addmm_(logits.T, rows)
                if grad_bigram is not None:
                    grad_bigram.index_add_(0, tokens[chunk], logits)
        ctx.save_for_backward(grad_h, grad_w, grad_bigram)
        each = (each / n).to(h.dtype)
        ctx.mark_non_differentiable(each)
        return each.sum(), each

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if g is None else g.mul_(grad) for g in ctx.saved_tensors)
        return *grads, None, None, None


def linear_kl(
    h: Tensor, weight: Tensor, bigram: Tensor | None, teacher: tuple[Tensor, Tensor, Tensor | None], tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) in nats, mean over tokens: its sum over several students, and each one's (no gradient).

    h: [students, n, d], each student's final residual, all read by `weight` [vocab, d] and `bigram`; teacher: the
    same three of one other model, [n, d'], taken as given; tokens: [n]. Memory: two chunks of logits.
    """
    with torch.autocast(h.device.type, enabled=False):
        return _LinearKL.apply(h, weight, bigram, teacher, tokens, torch.is_grad_enabled())
