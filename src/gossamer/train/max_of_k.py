"""Train max-of-K transformers from scratch (Gross et al. 2024), dense or weight-sparse.

As in the paper: AdamW, cross-entropy at the last position, fresh uniform sequences at every step. With density below 1,
after every step each matrix keeps its largest weights (projection.py); how many falls linearly over the first half of
the run (schedule.py).

When it lies: the accuracy here is of sampled sequences; `gossamer prove bound --rung brute-force` looks at all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field

from gossamer.errors import BadInput, require_new
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
    return train_together([config], progress=progress)[0]


def train_together(
    configs: Sequence[MaxOfKTraining], *, progress: Callable[[int, int, float], None] | None = None
) -> list[MaxOfK]:
    """Models that differ in seed and density only, trained side by side: small as they are, ten cost hardly more than
    one. None sees another; rounding may differ from that of training alone. progress: with the mean loss.

    Errors: BadInput for configs that differ in anything else.
    """
    first = configs[0]
    if any(c.model_copy(update={"seed": first.seed, "density": first.density}) != first for c in configs):
        raise BadInput("Expected recipes that differ in seed and density only; train the others apart.")
    n, k, v = first.batch_size, first.k, first.vocabulary
    shape = MaxOfKConfig(k=k, vocabulary=v, d_model=first.d_model, d_head=first.d_model)
    models = [random_max_of_k(shape, c.seed) for c in configs]
    w = {name: torch.stack([m.weights()[name] for m in models]).requires_grad_() for name in NAMES}
    data = [torch.Generator().manual_seed(c.seed + 1_000_003) for c in configs]  # apart from the weights' generators
    offset = v * torch.arange(len(configs))[:, None, None]
    optimizer = torch.optim.AdamW(
        w.values(), lr=first.lr, betas=first.betas, weight_decay=first.weight_decay, fused=True
    )  # fmt: skip
    for step in range(1, first.steps + 1):
        done = step / first.steps
        if done > first.decay_from:
            optimizer.param_groups[0]["lr"] = first.lr * (1 - done) / (1 - first.decay_from)
        tokens = torch.stack([torch.randint(v, (n, k), generator=g) for g in data])
        x = F.embedding(tokens + offset, w["embed"].flatten(0, 1)) + w["positions"][:, None]
        query = x[:, :, -1] @ w["query"] @ w["key"].mT / math.sqrt(first.d_model)
        attention = (x * query[:, :, None]).sum(-1).softmax(-1)
        mixed = (attention[..., None] * x).sum(2)
        logits = (x[:, :, -1] + mixed @ w["value"] @ w["output"]) @ w["unembed"]
        loss = F.cross_entropy(logits.flatten(0, 1), tokens.amax(2).flatten(), reduction="sum") / n
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for i, c in enumerate(configs):
            if c.density < 1:
                now = density_at(done, c.density, 1.0, c.anneal_fraction)
                for stack in w.values():
                    project_(stack[i], max(1, round(now * stack[i].numel())))
        if progress is not None and (step % 50 == 0 or step == first.steps):
            progress(step, first.steps, float(loss.detach()) / len(configs))
    for i, model in enumerate(models):
        model.load_state_dict({name: stack[i].detach() for name, stack in w.items()})
    return [m.eval().requires_grad_(False) for m in models]


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
    return train_all_into([folder], [config], progress=progress)[0]


def train_all_into(
    folders: Sequence[Path], configs: Sequence[MaxOfKTraining], *,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[LoadedMaxOfK]:  # fmt: skip
    """As train_into for models trained together, see train_together; their Records say how many there were."""
    for folder in folders:
        require_new(folder)
    started = time.perf_counter()
    models = train_together(configs, progress=progress)
    seconds = time.perf_counter() - started
    for folder, config, model in zip(folders, configs, models, strict=True):
        details = {
            "train_seconds": seconds, "trained_together": len(models), "sampled_accuracy": sampled_accuracy(model),
            "samples": SAMPLES, "nonzero_weights": model.nonzero(),
            "total_weights": sum(w.numel() for w in model.weights().values()),
        }  # fmt: skip
        record = Record.now(
            method="train-max-of-k", config=config.model_dump(mode="json"), seed=config.seed,
            model=f"max-of-{config.k}", details=details,
        )  # fmt: skip
        save_max_of_k(model, folder, record)
    return [load_max_of_k(folder) for folder in folders]
