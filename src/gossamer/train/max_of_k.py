"""Train max-of-K transformers from scratch (Gross et al. 2024), dense or weight-sparse.

As in the paper: AdamW, cross-entropy at the last position, fresh uniform sequences at every step. With density below 1,
after every step each matrix keeps its largest weights (projection.py); how many falls linearly over the first half of
the run (schedule.py).

When it lies: the accuracy here is of sampled sequences; `gossamer prove bound --rung brute-force` looks at all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field

from gossamer.errors import BadInput
from gossamer.models.max_of_k import (
    NAMES,
    LoadedMaxOfK,
    MaxOfK,
    MaxOfKConfig,
    load_max_of_k,
    random_max_of_k,
    save_max_of_k,
)
from gossamer.record import Record
from gossamer.train.projection import project_
from gossamer.train.schedule import density_at

SAMPLES = 100_000  # sequences that the reported accuracy is over


class MaxOfKTraining(BaseModel):
    """Everything that decides a run except the machine. The defaults are the paper's: 384,000 sequences.

    density: share of weights kept in each of the seven matrices; 1 is the paper's dense model. decay_from: where in the
    run the learning rate starts to fall linearly to 0; 1 is never, as in the paper.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    k: int = Field(default=4, ge=2, le=20)
    vocabulary: int = Field(default=64, ge=2, le=4096)
    d_model: int = Field(default=32, ge=1, le=4096)
    density: float = Field(default=1.0, gt=0, le=1)
    anneal_fraction: float = Field(default=0.5, gt=0, le=1)
    steps: int = Field(default=3000, ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    decay_from: float = Field(default=1.0, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    seed: int = Field(default=0, ge=0)


def train_max_of_k(config: MaxOfKTraining, *, progress: Callable[[int, int, float], None] | None = None) -> MaxOfK:
    """The trained model. progress: called with (step, steps, loss in nats). Deterministic given the config."""
    shape = MaxOfKConfig(
        k=config.k, vocabulary=config.vocabulary, d_model=config.d_model, d_head=config.d_model
    )  # fmt: skip
    model = random_max_of_k(shape, config.seed)
    generator = torch.Generator().manual_seed(config.seed + 1_000_003)  # of the data, apart from the weights'
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )  # fmt: skip
    for step in range(1, config.steps + 1):
        done = step / config.steps
        if done > config.decay_from:
            optimizer.param_groups[0]["lr"] = config.lr * (1 - done) / (1 - config.decay_from)
        tokens = torch.randint(config.vocabulary, (config.batch_size, config.k), generator=generator)
        loss = F.cross_entropy(model(tokens), tokens.amax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if config.density < 1:
            now = density_at(done, config.density, 1.0, config.anneal_fraction)
            for name in NAMES:
                weight = model.get_parameter(name)
                project_(weight, max(1, round(now * weight.numel())))
        if progress is not None and (step % 50 == 0 or step == config.steps):
            progress(step, config.steps, float(loss.detach()))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def sampled_accuracy(model: MaxOfK, *, samples: int = SAMPLES, seed: int = 0) -> float:
    """Share of uniformly drawn sequences whose maximum has the largest logit."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.config.vocabulary, (samples, model.config.k), generator=generator)
    return float((model(tokens).argmax(-1) == tokens.amax(1)).double().mean())


def train_into(
    folder: Path, config: MaxOfKTraining, *, progress: Callable[[int, int, float], None] | None = None
) -> LoadedMaxOfK:
    """Train and save a model folder with its Record. Errors: BadInput where `folder` exists."""
    if folder.exists():
        raise BadInput(f"{folder} exists; choose another --out or remove it.")
    started = time.perf_counter()
    model = train_max_of_k(config, progress=progress)
    details = {
        "train_seconds": time.perf_counter() - started, "sampled_accuracy": sampled_accuracy(model),
        "samples": SAMPLES, "nonzero_weights": model.nonzero(),
        "total_weights": sum(w.numel() for w in model.weights().values()),
    }  # fmt: skip
    record = Record.now(
        method="train-max-of-k", config=config.model_dump(mode="json"), seed=config.seed,
        model=f"max-of-{config.k}", details=details,
    )  # fmt: skip
    save_max_of_k(model, folder, record)
    return load_max_of_k(folder)
