"""Train bilinear networks as classifiers, keeping checkpoints: modular addition, or any inputs with classes.

AdamW and cross-entropy on batches drawn without replacement, epoch after epoch. Checkpoints are spaced as squares, so
that the early ones lie closer together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gossamer.errors import BadInput, require_new
from gossamer.models.bilinear import BilinearConfig, BilinearModel, BilinearRun, random_bilinear, save_bilinear
from gossamer.record import Record

Progress = Callable[[int, int, float], None]


class BilinearTraining(BaseModel):
    """Everything that decides a run except its data and the machine. The defaults are the paper's, of 25,000 steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: BilinearConfig
    steps: int = Field(default=25_000, ge=1)
    batch_size: int = Field(default=512, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.3, ge=0)
    checkpoints: int = Field(default=100, ge=2)
    seed: int = Field(default=0, ge=0)

    def kept_steps(self) -> tuple[int, ...]:
        """The steps after which the model is kept, 0 and the last one among them."""
        n = self.checkpoints - 1
        return tuple(sorted({round(self.steps * (i / n) ** 2) for i in range(n + 1)}))


class Classes(NamedTuple):
    """Inputs [n, ..] and their classes [n], to train on and held out."""

    x: Tensor
    y: Tensor
    x_heldout: Tensor
    y_heldout: Tensor


def modular_addition(modulus: int, *, share: float = 0.3, seed: int = 0) -> Classes:
    """All pairs (a, b) with class (a + b) mod modulus, `share` of them to train on; inputs are two one-hots in turn."""
    if modulus < 2 or not 0 < share < 1:
        raise BadInput(f"Expected a modulus of 2 or more and a share between 0 and 1, got {modulus} and {share:g}.")
    order = torch.randperm(modulus**2, generator=torch.Generator().manual_seed(seed))
    a, b = order // modulus, order % modulus
    x, y = torch.cat([F.one_hot(a, modulus), F.one_hot(b, modulus)], 1).float(), (a + b) % modulus
    n = int(share * modulus**2)
    return Classes(x[:n], y[:n], x[n:], y[n:])


@torch.no_grad()
def accuracy(model: BilinearModel, x: Tensor, y: Tensor) -> float:
    """Share of inputs whose class has the largest output."""
    return float((model(x).argmax(-1) == y).double().mean())


def train_bilinear(
    config: BilinearTraining, data: Classes, *, start: BilinearModel | None = None, progress: Progress | None = None
) -> BilinearRun:
    """The run, with train_accuracy and heldout_accuracy at every checkpoint. Deterministic given config and data.

    start: go on from this model's weights (with a new optimiser) instead of random ones. progress: called with (step,
    steps, loss in nats). Errors: BadInput for inputs or a start that do not fit the model, or classes beyond its
    outputs.
    """
    shape = config.model
    if start is not None and start.config != shape:
        raise BadInput(f"Expected a start of the shape that is trained, {shape}, got {start.config}.")
    if int(torch.cat([data.y, data.y_heldout]).max()) >= shape.sizes[-1]:
        raise BadInput(f"Expected classes below the model's {shape.sizes[-1]} outputs, got {int(data.y.max())}.")
    model = random_bilinear(shape, config.seed)
    if start is not None:
        model.load_state_dict(start.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    generator = torch.Generator().manual_seed(config.seed + 1_000_003)  # apart from the weights' generator
    n, size = len(data.x), min(config.batch_size, len(data.x))
    order, place = torch.randperm(n, generator=generator), 0
    kept, models = set(config.kept_steps()), []
    measured: dict[str, list[float]] = {"train_accuracy": [], "heldout_accuracy": []}
    started = time.perf_counter()
    for step in range(config.steps + 1):
        if step in kept:
            own = BilinearModel(shape)
            own.load_state_dict(model.state_dict())
            models.append(own.eval().requires_grad_(False))
            measured["train_accuracy"].append(accuracy(model, data.x, data.y))
            measured["heldout_accuracy"].append(accuracy(model, data.x_heldout, data.y_heldout))
        if step == config.steps:
            break
        if place + size > n:
            order, place = torch.randperm(n, generator=generator), 0
        rows = order[place : place + size]
        place += size
        loss = F.cross_entropy(model(data.x[rows]), data.y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if progress is not None and ((step + 1) % 100 == 0 or step + 1 == config.steps):
            progress(step + 1, config.steps, float(loss.detach()))
    record = Record.now(
        method="train-bilinear", config=config.model_dump(mode="json"), seed=config.seed, model="bilinear",
        details={"train_seconds": time.perf_counter() - started, "inputs": n, "from_a_model": start is not None},
    )  # fmt: skip
    return BilinearRun(
        config=shape, steps=config.kept_steps(), models=tuple(models), record=record,
        measured={name: tuple(values) for name, values in measured.items()},
    )  # fmt: skip


def train_bilinear_into(
    folder: Path, config: BilinearTraining, data: Classes, *, start: BilinearModel | None = None,
    progress: Progress | None = None,
) -> BilinearRun:  # fmt: skip
    """Train and save a run folder. Errors: BadInput where `folder` exists."""
    require_new(folder)
    run = train_bilinear(config, data, start=start, progress=progress)
    save_bilinear(run, folder)
    return run
