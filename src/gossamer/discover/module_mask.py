"""Learned masks over the output channels of every module of an encoder-decoder (Mondorf et al. 2025, arXiv 2410.01434).

A channel with mask m contributes m x + (1 - m) value, value being its mean over the task's training prompts, or zero.
The masks are annealed ones (mask.py): sigmoids that sharpen to steps. A step descends

    cross-entropy(whole model, masked model), per answer token in nats + penalty * (sum of the masks),

teacher-forced, so the penalty is what a channel must be worth. Channels with s > 0 in the end are the circuit.

When it lies: the channels of a dense model are no privileged basis, so a circuit's size depends on how the model
happens to be turned; another value for what is taken away gives another circuit; of two channels of which either is
enough both may stay; the loss is over all tokens, most of which are easy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, options
from gossamer.mask import annealed, apply_masks
from gossamer.models.encoder_decoder import EncoderDecoder, replacements
from gossamer.record import Record
from gossamer.tasks.pcfg_set import PAD, Edit, encode


class ModuleMaskConfig(BaseModel):
    """penalty: nats per channel kept; start: every s at first (0.05 in the paper); last: the final inverse temperature.

    lr: of Adam, with cosine decay to 0 and no weight decay, which would pull the s to the edge of the step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: Literal["mean", "zero"] = "mean"
    penalty: float = Field(default=1e-3, ge=0)
    steps: int = Field(default=500, gt=0)
    batch: int = Field(default=64, gt=0)
    lr: float = Field(default=0.01, gt=0)
    start: float = 0.05
    last: float = Field(default=200.0, ge=1)
    seed: int = Field(default=0, ge=0)


def module_mask_config(**changes: Any) -> ModuleMaskConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(ModuleMaskConfig, changes, "set of options")


def module_mask(
    model: EncoderDecoder, operation: str, train: list[Edit], config: ModuleMaskConfig | None = None, *,
    letters: int = 26, name: str = "encoder-decoder", progress: Callable[[int, int, float], None] | None = None,
) -> Circuit:  # fmt: skip
    """The channels an operation needs, from training edits of it. The record's `task` names the operation.

    progress(step, steps, loss). The same seed gives the same circuit on the same machine. BadInput without edits, or
    with one of another operation.
    """
    if not train or any(e.operation != operation for e in train):
        raise BadInput(f"Expected one or more edits of {operation}, got {len(train)}, not all of it.")
    config, graph = config or ModuleMaskConfig(), model.graph()
    data = encode(train, letters)
    values = replacements(model, *data, config.value)
    with torch.no_grad():
        whole = torch.cat([model(*data.rows(slice(i, i + 1024))) for i in range(0, len(train), 1024)]).softmax(-1)
    widths = [w for _, w in graph.layout.locations]
    s = torch.full((graph.layout.n_nodes,), config.start, requires_grad=True)
    adam = torch.optim.Adam([s], lr=config.lr)
    rng = np.random.default_rng(config.seed)
    for step in range(config.steps):
        rows = torch.from_numpy(rng.integers(0, len(train), size=config.batch))
        batch = data.rows(rows)
        counted = batch.answer != PAD
        m = annealed(s, step / max(1, config.steps - 1), config.last)
        masks = dict(zip(values, m.split(widths), strict=True))
        logits: Tensor = model(*batch, apply_masks(masks, values))[counted]
        loss = -(whole[rows][counted] * logits.log_softmax(-1)).sum(-1).mean()
        adam.param_groups[0]["lr"] = config.lr * (1 + np.cos(np.pi * step / config.steps)) / 2
        adam.zero_grad()
        (loss + config.penalty * m.sum()).backward()
        adam.step()
        if progress and (step % 20 == 19 or step + 1 == config.steps):
            progress(step + 1, config.steps, float(loss.detach()))
    record = Record.now(
        method="module-mask", config=config.model_dump(mode="json"), seed=config.seed, model=name,
        model_sha256=model.sha256(), task=operation,
        details={"edits": len(train), "means_of": "training", "loss_at_end": float(loss.detach())},
    )  # fmt: skip
    return Circuit.from_nodes(graph, np.zeros(0), np.flatnonzero(s.detach().numpy() > 0), record=record)
