"""Differentiable masks: Heaviside ones with a trial axis, several in one batched pass, hard-concrete ones and annealed
ones.

Heaviside masks as in Gao et al. 2025, section A.5: m = H(tau), tau clamped to [-1, 1]; the backward pass replaces the
step's derivative by that of a sigmoid at a temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tau: Tensor, temperature: float | Tensor) -> Tensor:
        ctx.save_for_backward(tau)
        ctx.temperature = temperature.to(tau) if isinstance(temperature, Tensor) else temperature
        return (tau > 0).to(tau.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (tau,) = ctx.saved_tensors
        s = torch.sigmoid(tau / ctx.temperature)
        return grad * s * (1 - s) / ctx.temperature, None


def heaviside(tau: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """1 where tau > 0, else 0; gradient sigmoid'(tau / temperature) / temperature. Shape kept."""
    return _Heaviside.apply(tau, temperature)


class _Replace(torch.autograd.Function):
    """m x + (1 - m) value, x [trials * rows, ..., channels], m [trials, channels], value [channels]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, m: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(x, m, value)
        by_trial = x.reshape(len(m), -1, x.shape[-1])
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)  # no view: some models add to what they get in place
        torch.addcmul(((1 - m) * value)[:, None], m[:, None], by_trial, out=out.view(by_trial.shape))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, m, value = ctx.saved_tensors
        by_trial, grad_m, grad_x, grad_value = grad.reshape(len(m), -1, grad.shape[-1]), None, None, None
        if ctx.needs_input_grad[1]:
            grad_m = (by_trial * x.reshape(by_trial.shape)).sum(1).addcmul_(by_trial.sum(1), value, value=-1)
        if ctx.needs_input_grad[0]:
            grad_x = (by_trial * m[:, None]).view(x.shape)
        if ctx.needs_input_grad[2]:
            grad_value = (by_trial.sum(1) * (1 - m)).sum(0)
        return grad_x, grad_m, grad_value


def apply_masks(masks: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Callable[[str, Tensor], Tensor]:
    """An edit for a model's forward: x -> m x + (1 - m) value at every location that has a mask.

    masks: [channels] for one circuit or [trials, channels], the batch then being `trials` equal blocks; values:
    [channels], or anything that broadcasts against the activation [batch, pos, channels]. A mask of ones returns x
    bit for bit.
    """

    def edit(location: str, x: Tensor) -> Tensor:
        m = masks.get(location)
        if m is None:
            return x
        value, per_trial = values[location], m if m.ndim == 2 else m[None]
        if value.ndim > 1:
            return m * x + (1 - m) * value
        return _Replace.apply(x, per_trial, value)

    return edit


# Hard-concrete masks of Louizos, Welling and Kingma 2018 (arXiv 1712.01312), with that paper's constants
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1


def hard_concrete(log_alpha: Tensor, uniform: Tensor | None = None) -> Tensor:
    """A mask in [0, 1] with exact zeros and ones, and gradients in between: a sample, or its value at test time.

    log_alpha: any shape; uniform: numbers in (0, 1) of that shape, without them equation 13 of the paper.
    """
    if uniform is None:
        s = log_alpha.sigmoid()
    else:
        s = ((uniform.log() - (-uniform).log1p() + log_alpha) / TEMPERATURE).sigmoid()
    return (LOW + (HIGH - LOW) * s).clamp(0, 1)


def probability_kept(log_alpha: Tensor) -> Tensor:
    """How probable it is that a hard-concrete sample is not 0 (equation 12 of the paper); differentiable."""
    return (log_alpha - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid()


def annealed(s: Tensor, progress: float, last: float = 200.0) -> Tensor:
    """Continuous sparsification (Savarese et al. 2020, arXiv 1912.04427): sigmoid(last^progress * s), in (0, 1).

    progress 0 to 1 sharpens it, exponentially, from a sigmoid to nearly the step s > 0, which is the mask in the end.
    """
    return torch.sigmoid(last**progress * s)
