"""One optimiser step of a recipe on one batch: what the training loop repeats and the estimate times."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gossamer.errors import BadInput
from gossamer.models.sparse import SparseTransformer
from gossamer.train.optimizer import SparseAdam
from gossamer.train.presets import TrainConfig
from gossamer.train.schedule import density_at, lr_multiplier, sharkfin

DTYPES = ("float32", "bfloat16", "float16")


class Stepped(NamedTuple):
    """What a step did: mean loss of its batch in nats, density of the blocks, learning rate."""

    loss_nats: float
    density: float
    lr: float


def shapes(config: TrainConfig) -> SparseTransformer:
    """The model without its numbers."""
    with torch.device("meta"):
        return SparseTransformer(config.model_config_(), seed=None)


class Learner:
    """Model and optimiser of a recipe on a device.

    micro_batch: sequences per forward and backward pass; the gradients of a batch's parts add up to the batch's, up to
    rounding. It bounds the memory, the recipe stays what it is.
    """

    def __init__(self, config: TrainConfig, device: str, dtype: str = "float32", micro_batch: int | None = None):
        self.config, self.device = config, device
        self.micro_batch = micro_batch or config.batch_size
        self.model = SparseTransformer(config.model_config_(), seed=config.seed).to(device)
        self.optimizer = SparseAdam(self.model, config)
        self.kind, self.dtype = device.split(":")[0], dtype
        self.scaler = torch.amp.GradScaler(self.kind, enabled=dtype == "float16")

    def _cast(self) -> Any:
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.kind, dtype=getattr(torch, self.dtype))

    def accumulate(self, part: Tensor, share: float) -> float:
        """Add `share` of the gradient of the part's mean loss; returns that loss. part: [sequences, n_ctx + 1]."""
        part = part.to(self.device)
        with self._cast():
            loss = self.model.loss(part[:, :-1], part[:, 1:])
        value = loss.item()
        self.scaler.scale(loss * share).backward()
        return value

    def apply(self, step: int) -> tuple[float, float]:
        """Take optimiser step number `step` (from 0) with the gradients added up so far; returns (density, lr).

        A float16 overflow skips the step and lowers the scale; elsewhere gradients that are not finite are BadInput.
        """
        c, progress = self.config, step / self.config.steps
        density = density_at(progress, c.density, c.start_density, c.anneal_fraction, c.anneal_start)
        lr = c.lr * lr_multiplier((step + 1) / c.steps, c.warmup_fraction) * sharkfin(density, c.density)
        self.scaler.unscale_(self.optimizer.adam)
        rms = self.optimizer.step(lr, progress)
        if not math.isfinite(rms) and not self.scaler.is_enabled():
            raise BadInput(f"The gradient became {rms} at step {step}; use a smaller --lr.")
        self.scaler.update()
        return density, lr

    def wait(self) -> None:
        """Return when the device has done what it was given, so that a clock reads true."""
        if self.kind in ("cuda", "mps"):
            torch.accelerator.synchronize(torch.device(self.device))

    def step(self, batch: Tensor, number: int) -> Stepped:
        """Optimiser step `number` on a batch [batch_size, n_ctx + 1]; BadInput when the loss is not finite."""
        loss = 0.0
        for part in batch.split(self.micro_batch):
            share = len(part) / len(batch)
            loss += self.accumulate(part, share) * share
        if not math.isfinite(loss):
            raise BadInput(f"The loss became {loss} at step {number}; use a smaller --lr.")
        return Stepped(loss, *self.apply(number))
