"""L0 projection (Gao et al. 2025, section 2.1): after each optimiser step keep the k largest weights of each matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.errors import BadInput
from gossamer.train.presets import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Target:
    """What one parameter is projected to: its final density, and how many weights each neuron keeps at least.

    `alive_dim` is the dimension along which a neuron's own weights lie: 1 for rows of c_fc and c_attn (its inputs), 0
    for columns of the c_proj matrices (its outputs), None where no minimum applies (embeddings, biases).
    """

    name: str
    shape: tuple[int, ...]
    density: float
    alive_dim: int | None
    min_alive: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def k(self, density: float) -> int:
        """Weights kept at a density: rounded, never below one."""
        return max(1, round(density * self.size))

    @property
    def forced(self) -> int:
        """Weights that the minimum alone keeps."""
        return 0 if self.alive_dim is None else self.min_alive * self.shape[1 - self.alive_dim]


def targets(model: nn.Module, config: TrainConfig) -> tuple[Target, ...]:
    """One Target per parameter that is ever sparse. Norm gains, sinks and the bigram table never are.

    Errors: BadInput where the density leaves no room for the minimum alive.
    """
    density, min_alive = config.density, config.min_alive
    found: list[Target] = []
    for name, p in model.named_parameters():
        alive_dim: int | None = None
        if name.endswith(("c_attn.weight", "c_fc.weight")):
            own, alive_dim = density, 1
        elif name.endswith("c_proj.weight"):
            own, alive_dim = density, 0
        elif name.endswith(("wte.weight", "wpe.weight", "lm_head.weight")):
            own = config.embed_density
        elif name.endswith("bias") and config.sparse_biases:
            own = density
        else:
            continue
        if own < 1:
            target = Target(
                name=name, shape=tuple(p.shape), density=own, alive_dim=alive_dim if min_alive else None,
                min_alive=min_alive,
            )  # fmt: skip
            found.append(target)
    short = [t for t in found if t.k(t.density) < t.forced]
    if short:
        lines = "; ".join(f"{t.name}: k = {t.k(t.density)} < {t.forced}" for t in short)
        least = max(t.forced / t.size for t in short)
        raise BadInput(
            f"Expected a density that leaves room for {min_alive} weights per neuron, got {density:g} ({lines}); use "
            f"--density of at least {least:.4g} or a smaller --min-alive."
        )
    return tuple(found)


def kept_as_is(model: nn.Module, min_alive: int) -> tuple[Target, ...]:
    """Targets that hold a trained model at the sparsity it has: k is each parameter's number of non-zero values.

    Covers the parameters that `targets` covers and that have a zero. min_alive: as in the model's recipe; a matrix
    too sparse for it is held without a minimum.
    """
    found: list[Target] = []
    for name, p in model.named_parameters():
        if not name.endswith((".weight", "bias")) or ".ln_" in f".{name}":
            continue
        nonzero = int(p.count_nonzero())
        if not 0 < nonzero < p.numel():
            continue
        dim = 1 if name.endswith(("c_attn.weight", "c_fc.weight")) else 0 if name.endswith("c_proj.weight") else None
        target = Target(
            name=name, shape=tuple(p.shape), density=nonzero / p.numel(), alive_dim=dim if min_alive else None,
            min_alive=min_alive,
        )  # fmt: skip
        found.append(target if target.forced <= nonzero else replace(target, alive_dim=None))
    return tuple(found)


@torch.no_grad()
def project_(weight: Tensor, k: int, alive_dim: int | None = None, min_alive: int = 0) -> Tensor:
    """Zero all but k entries of `weight` in place: first the `min_alive` largest of each neuron, then the largest.

    Returns the boolean mask of kept entries; it has exactly k True (ties broken by position).
    """
    size = weight.abs()
    if alive_dim is not None and min_alive:
        forced = size.topk(min_alive, dim=alive_dim, sorted=False).indices
        size.scatter_(alive_dim, forced, torch.inf)
    flat = size.flatten()
    if flat.device.type == "cpu":
        threshold = np.partition(flat.numpy(), flat.numel() - k)[flat.numel() - k]
        kept = flat >= float(threshold)
        exact = np.count_nonzero(kept.numpy()) == k
    else:
        exact, kept = False, torch.empty(0)
    if not exact:
        kept = torch.zeros_like(flat, dtype=torch.bool).scatter_(0, flat.topk(k, sorted=False).indices, True)
    kept = kept.view_as(weight)
    weight.masked_fill_(~kept, 0)
    return kept
