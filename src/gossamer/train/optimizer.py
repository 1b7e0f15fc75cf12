"""One optimiser step, in the published order: normalise the gradient, Adam, project, decay."""

from __future__ import annotations

import torch
from torch import nn

from gossamer.train.projection import Target, project_
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

    def __init__(
        self, model: nn.Module, targets: tuple[Target, ...], *, betas: tuple[float, float], eps: float,
        weight_decay: float, start_density: float, anneal_fraction: float, clip_only: bool,
    ) -> None:  # fmt: skip
        self.model, self.targets, self.weight_decay = model, targets, weight_decay
        self.start_density, self.anneal_fraction, self.clip_only = start_density, anneal_fraction, clip_only
        self.parameters = dict(model.named_parameters())
        self.adam = torch.optim.Adam(self.parameters.values(), lr=0.0, betas=betas, eps=eps, fused=True)
        self.decayed: list[torch.Tensor] = [
            p for n, p in self.parameters.items() if p.ndim >= 2 and n != "bigram_table"
        ]

    def step(self, lr: float, progress: float) -> float:
        """Apply the accumulated gradients at this learning rate; returns the gradient's RMS before normalisation."""
        rms = normalise_gradients(self.model, self.clip_only)
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        for t in self.targets:
            density = density_at(progress, t.density, self.start_density, self.anneal_fraction)
            k = max(t.k(density), t.forced)
            project_(self.parameters[t.name].data, k, t.alive_dim, t.min_alive)
        with torch.no_grad():
            torch._foreach_mul_(self.decayed, 1 - self.weight_decay * lr)
        self.adam.zero_grad(set_to_none=True)
        return rms
