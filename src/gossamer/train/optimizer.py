"""One optimiser step, in the published order: normalise the gradient, Adam, project, decay."""

from __future__ import annotations

import math

import torch
from torch import nn

from gossamer.train.presets import TrainConfig
from gossamer.train.projection import project_, targets
from gossamer.train.schedule import density_at

RMS_FLOOR = 1e-5


@torch.no_grad()
def normalise_gradients(model: nn.Module, clip_only: bool) -> float:
    """Divide all gradients by their global root mean square (with `clip_only`, only when it exceeds 1); returns it."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    count = sum(g.numel() for g in grads)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    rms = float(norm) / count**0.5
    if not clip_only or rms > 1:
        torch._foreach_div_(grads, rms + RMS_FLOOR)
    return rms


class SparseAdam:
    """Adam with dense gradients and moments, then the L0 projection, then decoupled decay (lambda * lr) of matrices."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.model, self.config, self.targets = model, config, targets(model, config)
        self.parameters = dict(model.named_parameters())
        self.adam = torch.optim.Adam(
            self.parameters.values(), lr=0.0, betas=config.betas, eps=config.eps, fused=True
        )  # fmt: skip
        self.decayed: list[torch.Tensor] = [
            p for n, p in self.parameters.items() if p.ndim >= 2 and n != "bigram_table"
        ]

    def step(self, lr: float, progress: float) -> float:
        """Apply the accumulated gradients at this learning rate; returns the gradient's RMS before normalisation.

        Gradients that are not finite (a float16 overflow) change nothing.
        """
        c = self.config
        rms = normalise_gradients(self.model, c.clip_only)
        if math.isfinite(rms):
            self.adam.param_groups[0]["lr"] = lr
            self.adam.step()
            for t in self.targets:
                density = density_at(progress, t.density, c.start_density, c.anneal_fraction, c.anneal_start)
                k = max(t.k(density), t.forced)
                project_(self.parameters[t.name].data, k, t.alive_dim, t.min_alive)
            with torch.no_grad():
                torch._foreach_mul_(self.decayed, 1 - c.weight_decay * lr)
        self.adam.zero_grad(set_to_none=True)
        return rms
