"""Differentiable masks over nodes, with a trial axis: several masks train in one batched pass.

Heaviside masks as in Gao et al. 2025, section A.5: m = H(tau), tau clamped to [-1, 1]; the backward pass replaces the
step's derivative by that of a sigmoid at a temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


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


def apply_masks(masks: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Callable[[str, Tensor], Tensor]:
    """An edit for a model's forward: x -> m x + (1 - m) value at every location that has a mask.

    masks: [channels] for one circuit or [trials, channels], the batch then being `trials` equal blocks; values:
    [channels], or anything that broadcasts against the activation [batch, pos, channels]. A mask of ones returns x
    bit for bit.
    """
    shifts = {k: (1 - m) * values[k] if values[k].ndim == 1 else None for k, m in masks.items()}

    def edit(location: str, x: Tensor) -> Tensor:
        m = masks.get(location)
        if m is None:
            return x
        shift = shifts[location]
        if shift is None:
            return m * x + (1 - m) * values[location]
        if m.ndim == 1:
            return torch.addcmul(shift, m, x)
        by_trial = x.unflatten(0, (m.shape[0], -1))
        return torch.addcmul(shift[:, None, None], m[:, None, None], by_trial).flatten(0, 1)

    return edit
