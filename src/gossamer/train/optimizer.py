"""One optimiser step, in the published order: normalise the gradient, Adam, project, decay."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gossamer.train.presets import TrainConfig
from gossamer.train.projection import Target, project_, targets
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


def adam_state(adam: torch.optim.Adam, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The moments and step counts of an optimiser as tensors `KEY.PARAMETER`, for a checkpoint."""
    return {
        f"{key}.{name}": value.detach().cpu().reshape(value.shape)
        for name, p in parameters.items() for key, value in adam.state[p].items()
    }  # fmt: skip


def restore_adam(
    adam: torch.optim.Adam, parameters: Mapping[str, nn.Parameter], stored: Mapping[str, Tensor]
) -> None:  # fmt: skip
    """The inverse of `adam_state`; a parameter that has no stored state keeps none."""
    for name, p in parameters.items():
        if f"step.{name}" in stored:  # float16 may overflow until the first checkpoint
            for key in ("step", "exp_avg", "exp_avg_sq"):
                adam.state[p][key] = stored[f"{key}.{name}"].to(p.device)


class SparseAdam:
    """Adam with dense gradients and moments, then the L0 projection, then decoupled decay (lambda * lr) of matrices.

    kept: what to project to, instead of the targets of the recipe (see projection.kept_as_is).
    """

    def __init__(self, model: nn.Module, config: TrainConfig, kept: tuple[Target, ...] | None = None) -> None:
        self.model, self.config = model, config
        self.targets = targets(model, config) if kept is None else kept
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
