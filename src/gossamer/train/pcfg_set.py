"""Train a small encoder-decoder transformer on the ten string edits of PCFG SET (tasks/pcfg_set.py).

Cross-entropy of every answer token given those before it, Adam, the learning rate up and then linearly down to 0
(schedule.py). A batch is a function of the seed and the step; operations with one and with two strings are batched
apart, so that short sources are not padded to long ones. While it runs, `OUT.training/checkpoint.safetensors` holds
weights and moments: a run that was killed goes on from there and ends with the same bits.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gossamer.errors import BadInput, require_new
from gossamer.models.encoder_decoder import (
    EncoderDecoder,
    EncoderDecoderConfig,
    LoadedEncoderDecoder,
    exact_match,
    load_encoder_decoder,
    random_encoder_decoder,
    save_encoder_decoder,
)
from gossamer.models.files import read_safetensors, write_safetensors
from gossamer.record import Record
from gossamer.tasks.pcfg_set import OPERATIONS, PAD, Edit, EncodedEdits, arity, edits, encode, split, vocabulary
from gossamer.train.optimizer import adam_state, restore_adam
from gossamer.train.schedule import lr_multiplier

CHECKED = 1000  # held-out edits of an operation that the reported exact match is over, at most


class EditTraining(BaseModel):
    """Everything that decides a run except the machine.

    per_operation: edits drawn of each operation, of which a fifth is held out (20,000 in Mondorf et al. 2025);
    shortest, longest: letters of a string. clip: the largest norm of a step's gradient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    operations: tuple[str, ...] = OPERATIONS
    per_operation: int = Field(default=20_000, ge=5)
    letters: int = Field(default=26, ge=1, le=26)
    shortest: int = Field(default=2, ge=1)
    longest: int = Field(default=5, ge=1, le=64)
    n_layers: int = Field(default=2, ge=1)
    d_model: int = Field(default=128, ge=1)
    n_heads: int = Field(default=4, ge=1)
    d_ff: int = Field(default=256, ge=1)
    steps: int = Field(default=800, ge=1)
    batch_size: int = Field(default=192, ge=2)
    lr: float = Field(default=1.5e-3, gt=0)
    warmup_fraction: float = Field(default=0.03, gt=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)

    def model(self) -> EncoderDecoderConfig:
        """The model's sizes: room for the longest source and answer of all ten operations."""
        return EncoderDecoderConfig(
            vocabulary=len(vocabulary(self.letters)), n_layers=self.n_layers, d_model=self.d_model,
            n_heads=self.n_heads, d_ff=self.d_ff, longest_source=2 * self.longest + 3,
            longest_answer=2 * self.longest + 1,
        )  # fmt: skip

    def edits(self, operation: str) -> tuple[list[Edit], list[Edit]]:
        """(training, held-out) edits of an operation."""
        return split(
            edits(
                operation, self.per_operation, seed=self.seed, letters=self.letters, shortest=self.shortest,
                longest=self.longest,
            )
        )  # fmt: skip


def edit_loss(model: EncoderDecoder, batch: EncodedEdits) -> Tensor:
    """Mean cross-entropy of the answers' tokens, in nats."""
    logits = model(*batch)
    return F.cross_entropy(logits.flatten(0, 1), batch.answer.flatten(), ignore_index=PAD)


def train_edits(
    out: Path, config: EditTraining, *, resume: bool = False, checkpoint_every: int = 250,
    stop_after: int | None = None, progress: Callable[[int, int, float], None] | None = None,
) -> LoadedEncoderDecoder | None:  # fmt: skip
    """Train to the model folder `out` and return it; None when `stop_after` steps ended the session early.

    progress(step, steps, loss in nats). The record holds the exact match of every operation over held-out edits.
    Errors: BadInput for an existing `out`, an unfinished run without `resume`, one of another config.
    """
    require_new(out)
    drawn = {o: config.edits(o) for o in config.operations}
    work = out.with_name(out.name + ".training")
    checkpoint = work / "checkpoint.safetensors"
    if work.exists() and not resume:
        raise BadInput(f"An unfinished run is in {work}; resume it, or remove it to start again.")
    work.mkdir(parents=True, exist_ok=True)
    model = random_encoder_decoder(config.model(), config.seed)
    parameters = dict(model.named_parameters())
    adam = torch.optim.Adam(parameters.values(), lr=0.0, betas=config.betas, fused=True)
    step, seconds = 0, 0.0
    if checkpoint.is_file():
        tensors, meta = read_safetensors(checkpoint)
        if meta["config"] != config.model_dump_json():
            raise BadInput(f"The run in {work} has another config ({meta['config']}); resume it with that one.")
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        restore_adam(adam, parameters, {k[5:]: v for k, v in tensors.items() if k.startswith("adam.")})
        step, seconds = int(meta["step"]), float(meta["seconds"])
    groups = [
        encode([e for o in config.operations if arity(o) == n for e in drawn[o][0]], config.letters)
        for n in (1, 2)
        if any(arity(o) == n for o in config.operations)
    ]
    n_all = sum(len(g.source) for g in groups)
    first, started, before = step, time.perf_counter(), seconds
    while step < config.steps:
        rng = np.random.default_rng([config.seed, step])
        loss = torch.zeros(())
        for group in groups:
            n = len(group.source)
            rows = torch.from_numpy(rng.integers(0, n, size=max(1, round(config.batch_size * n / n_all))))
            share = edit_loss(model, group.rows(rows)) / len(groups)
            share.backward()
            loss = loss + share.detach()
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
        adam.param_groups[0]["lr"] = config.lr * lr_multiplier((step + 1) / config.steps, config.warmup_fraction)
        adam.step()
        adam.zero_grad(set_to_none=True)
        step += 1
        seconds = before + time.perf_counter() - started
        if progress and (step % 50 == 0 or step == config.steps):
            progress(step, config.steps, float(loss))
        stop = stop_after is not None and step - first >= stop_after
        if step % checkpoint_every == 0 or step == config.steps or stop:
            state = {f"model.{k}": v.detach() for k, v in model.state_dict().items()}
            state |= {f"adam.{k}": v for k, v in adam_state(adam, parameters).items()}
            meta = {"step": str(step), "seconds": str(seconds), "config": config.model_dump_json()}
            write_safetensors(state, checkpoint, meta)
        if stop and step < config.steps:
            return None
    model.eval().requires_grad_(False)
    checked = {o: held[:CHECKED] for o, (_, held) in drawn.items()}
    details = {
        "exact_match": {o: exact_match(model, *encode(held, config.letters)) for o, held in checked.items()},
        "held_out": {o: len(held) for o, held in checked.items()},
        "train_seconds": round(seconds, 1), "threads": torch.get_num_threads(),
        "parameters": sum(w.numel() for w in parameters.values()),
    }  # fmt: skip
    record = Record.now(
        method="train-edits", config=config.model_dump(mode="json"), seed=config.seed, model=out.name,
        model_sha256=model.sha256(), details=details,
    )  # fmt: skip
    save_encoder_decoder(model, out, record)
    shutil.rmtree(work)
    return load_encoder_decoder(out)
