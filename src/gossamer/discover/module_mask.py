"""Learned masks over the output channels of every module of an encoder-decoder (Mondorf et al. 2025, arXiv 2410.01434).

A channel with mask m contributes m x + (1 - m) value, value being its mean over the task's training prompts, or zero.
The masks are annealed ones (mask.py): sigmoids that sharpen to steps. A step descends

    cross-entropy(whole model, masked model), per answer token in nats + penalty * (sum of the masks),

teacher-forced, so the penalty is what a channel must be worth. Channels with s > 0 in the end are the circuit.

Several penalties are tried from the largest, which leaves the fewest channels, down to the first whose circuit is
surely at the floor: the lower end of the 95% interval, over edits, of its faithfulness (1 - JSD / ln 2) on training
edits. If none is, the most faithful circuit is kept and `reached` is false. No held-out edit is seen.

When it lies: the channels of a dense model are no privileged basis, so a circuit's size depends on how the model
happens to be turned; another value for what is taken away gives another circuit; of two channels of which either is
enough both may stay; the loss is over all tokens, most of which are easy. A circuit chosen so sits near the floor: with
other penalties to choose from it has another size. That a larger penalty leaves fewer channels is no law.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, options
from gossamer.mask import annealed, apply_masks
from gossamer.models.encoder_decoder import EncoderDecoder, answer_faithfulness, replacements
from gossamer.record import Record
from gossamer.statistics import bootstrap_interval
from gossamer.tasks.pcfg_set import PAD, Edit, EncodedEdits, encode

JUDGED = 1000  # training edits that a circuit's faithfulness is judged on, at most
AT_ONCE = 1024


class ModuleMaskConfig(BaseModel):
    """penalty: nats per channel kept, one or several to choose from; floor: the faithfulness that a circuit must have.

    start: every s at first (0.05 in the paper); last: the final inverse temperature. lr: of Adam, with cosine decay to
    0 and no weight decay, which would pull the s to the edge of the step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: Literal["mean", "zero"] = "mean"
    penalty: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(2e-3, 1e-3, 5e-4, 2.5e-4), min_length=1)
    floor: float = Field(default=0.9, ge=0, le=1)
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
    """The channels an operation needs, from training edits of it. The record's `task` names the operation; its details
    have `reached` and, per penalty tried, the `trials`: channels, faithfulness on training edits with its interval,
    loss.

    progress(step, steps of all penalties, loss); fewer are made where a large penalty reaches the floor. The same seed
    gives the same circuit on the same machine. BadInput without edits, or with one of another operation.
    """
    if not train or any(e.operation != operation for e in train):
        raise BadInput(f"Expected one or more edits of {operation}, got {len(train)}, not all of it.")
    config, graph = config or ModuleMaskConfig(), model.graph()
    data = encode(train, letters)
    values = replacements(model, *data, config.value)
    with torch.no_grad():
        rows = [data.rows(slice(i, i + AT_ONCE)) for i in range(0, len(train), AT_ONCE)]
        whole = torch.cat([model(*some) for some in rows])
    masks, trials = list[np.ndarray](), list[dict[str, Any]]()
    for place, penalty in enumerate(sorted(config.penalty, reverse=True)):

        def told(step: int, steps: int, loss: float, place: int = place) -> None:
            if progress:
                progress(place * steps + step, len(config.penalty) * steps, loss)

        kept, loss = _learned(model, data, whole.softmax(-1), values, penalty, config, told)
        faithful = _faithfulness(model, data, whole, kept, values)
        masks.append(kept)
        trials.append({
            "penalty": penalty, "nodes": int(kept.sum()), "faithfulness": float(faithful.mean()),
            "interval": bootstrap_interval(faithful, config.seed), "loss_at_end": loss,
        })  # fmt: skip
        if reached := trials[-1]["interval"][0] >= config.floor:
            break
    best = len(trials) - 1 if reached else int(np.argmax([t["faithfulness"] for t in trials]))
    record = Record.now(
        method="module-mask", config=config.model_dump(mode="json"), seed=config.seed, model=name,
        model_sha256=model.sha256(), task=operation,
        details={
            "edits": len(train), "judged": min(JUDGED, len(train)), "means_of": "training", "reached": bool(reached),
            "penalty": trials[best]["penalty"], "trials": trials, "loss_at_end": trials[best]["loss_at_end"],
        },
    )  # fmt: skip
    return Circuit.from_nodes(graph, np.zeros(0), np.flatnonzero(masks[best]), record=record)


def _learned(
    model: EncoderDecoder, data: EncodedEdits, whole: Tensor, values: dict[str, Tensor], penalty: float,
    config: ModuleMaskConfig, progress: Callable[[int, int, float], None],
) -> tuple[np.ndarray, float]:  # fmt: skip
    """(bool [nodes], the last step's cross-entropy) of one penalty. whole: the model's probabilities."""
    layout = model.config.layout()
    widths = [w for _, w in layout.locations]
    s = torch.full((layout.n_nodes,), config.start, requires_grad=True)
    adam = torch.optim.Adam([s], lr=config.lr)
    rng, last = np.random.default_rng(config.seed), float("nan")
    for step in range(config.steps):
        rows = torch.from_numpy(rng.integers(0, len(data.source), size=config.batch))
        batch = data.rows(rows)
        counted = batch.answer != PAD
        m = annealed(s, step / max(1, config.steps - 1), config.last)
        masks = dict(zip(values, m.split(widths), strict=True))
        logits: Tensor = model(*batch, apply_masks(masks, values))[counted]
        loss = -(whole[rows][counted] * logits.log_softmax(-1)).sum(-1).mean()
        adam.param_groups[0]["lr"] = config.lr * (1 + np.cos(np.pi * step / config.steps)) / 2
        adam.zero_grad()
        (loss + penalty * m.sum()).backward()
        adam.step()
        last = float(loss.detach())
        if step % 20 == 19 or step + 1 == config.steps:
            progress(step + 1, config.steps, last)
    return s.detach().numpy() > 0, last


@torch.no_grad()
def _faithfulness(
    model: EncoderDecoder, data: EncodedEdits, whole: Tensor, kept: np.ndarray, values: dict[str, Tensor]
) -> np.ndarray:  # fmt: skip
    """Of the circuit on the first JUDGED edits, [edits]."""
    masks = {
        name: torch.from_numpy(m.astype(np.float32)) for name, m in model.config.layout().split(kept).items()
    }  # fmt: skip
    some = data.rows(slice(0, JUDGED))
    logits = model(*some, apply_masks(masks, values))
    found: np.ndarray = answer_faithfulness(whole[: len(logits)], logits, some.answer != PAD).double().numpy()
    return found
