"""Train a weight-sparse transformer, or with density 1 its dense twin, from text to a model folder.

While it runs, everything is in `OUT.training/` (tokens, checkpoint, metrics); a finished run leaves the model folder
OUT. A run killed at any moment and resumed ends with the same bits: batches are a function of (seed, step), the
checkpoint holds weights and moments, and the metrics file is cut back to the checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from gossamer.corpora.tokenizer import load_tokenizer
from gossamer.errors import BadInput, require_new
from gossamer.models.files import load_model, read_safetensors, save_model, write_safetensors
from gossamer.models.hub import checked_device
from gossamer.models.loaded import LoadedModel, model_sha256
from gossamer.models.quantise import from_rounded_rows, rounded_rows
from gossamer.record import Record
from gossamer.train.estimate import estimate
from gossamer.train.learner import DTYPES, Learner, shapes
from gossamer.train.measure import reference_means, validation_loss
from gossamer.train.optimizer import adam_state, restore_adam
from gossamer.train.presets import TrainConfig
from gossamer.train.projection import targets
from gossamer.train.start import ModelStart
from gossamer.train.text import Text, prepare_text

LOG_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One line of metrics; `eta_seconds` from the speed of this session."""

    step: int
    steps: int
    loss_nats: float
    density: float
    lr: float
    tokens_per_second: float
    eta_seconds: float


def train(
    out: Path,
    config: TrainConfig,
    *,
    corpus: Path | None = None,
    data: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    micro_batch: int | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    stop_after: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> LoadedModel | None:
    """Train to the model folder `out` and return it (None when `stop_after` steps ended the session early).

    corpus: a folder of text instead of this machine's Python source. data: the `.training` folder of an earlier run
    whose tokenizer, tokens and order to use (a dense twin sees exactly its sibling's text). dtype other than float32
    autocasts the matrix products. micro_batch: sequences per pass, to bound the memory. Errors: BadInput before any
    work for a device that is absent, too little memory, an unfinished run without `resume`, a resumed run with other
    options, an existing `out`.
    """
    require_new(out)
    checked_device(device)
    if dtype not in DTYPES:
        raise BadInput(f"Unknown dtype {dtype!r}; use {', '.join(DTYPES)}.")
    work = out.with_name(out.name + ".training")
    if work.exists() and not resume:
        raise BadInput(f"An unfinished run is in {work}; add --resume to continue it, or remove it to start again.")
    if checkpoint_every < 1 or (threads is not None and threads < 1):
        raise BadInput(f"Expected --checkpoint-every and --threads of at least 1, got {checkpoint_every}, {threads}.")
    if micro_batch is not None and not 0 < micro_batch <= config.batch_size:
        raise BadInput(f"Expected --micro-batch of 1 to {config.batch_size} sequences, got {micro_batch}.")
    start = ModelStart(
        recipe=config, corpus=corpus.resolve() if corpus else None, data=data.resolve() if data else None, dtype=dtype,
        micro_batch=micro_batch,
    )  # fmt: skip
    if resume:
        start = start.resuming(work)
    if start.data is not None:
        start.check_sibling()
    targets(shapes(config), config)
    if threads:
        torch.set_num_threads(threads)
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products need it
    with deterministic():
        need = estimate(config, device, dtype, micro_batch)
        say(
            f"needs about {need.memory_bytes / 2**20:,.0f} MiB of {need.available_bytes / 2**30:.1f} GiB free on "
            f"{device}, and {need.seconds / 60:.0f} minutes for {config.steps:,} steps"
        )
        text = prepare_text(work, start, say=say)
        if device == "cpu":
            reuse_freed_memory()
        run = _Run(start, work, text, device, resume)
        done = run.go(checkpoint_every, stop_after, progress)
        return _finish(run, start, out, text) if done else None


def reuse_freed_memory() -> None:
    """Ask glibc to keep freed buffers for the next step instead of handing their pages back and faulting them in again.

    A training step frees and takes hundreds of megabytes; elsewhere than on Linux with glibc this does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        if not libc.mallopt(mmap_threshold, 1 << 30):
            libc.mallopt(mmap_threshold, 1 << 25)  # the most that an older glibc takes
        libc.mallopt(trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):
        return


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms inside, the previous setting after; without the costly filling of fresh memory."""
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]


class _Run:
    """The mutable middle of a training run: model, optimiser, where it is."""

    def __init__(self, start: ModelStart, work: Path, text: Text, device: str, resume: bool) -> None:
        self.config, self.work, self.text = start.recipe, work, text
        self.learner = Learner(start.recipe, device, start.dtype, start.micro_batch)
        self.step = 0
        self.metrics = work / "metrics.jsonl"
        self.seconds = 0.0
        self.losses: list[float] = []  # since the last line of metrics
        if resume and (work / "checkpoint.safetensors").is_file():
            self._restore()
        elif self.metrics.exists():
            self.metrics.unlink()
        self.board = SummaryWriter(str(work / "tensorboard"), purge_step=self.step + 1)

    def save(self) -> None:
        """One file with everything needed to go on, renamed into place."""
        tensors = {f"model.{k}": v.detach().cpu() for k, v in self.learner.model.state_dict().items()}
        moments = adam_state(self.learner.optimizer.adam, self.learner.optimizer.parameters)
        tensors |= {f"adam.{k}": v for k, v in moments.items()}
        meta = {
            "step": str(self.step), "metrics_bytes": str(self.metrics.stat().st_size if self.metrics.exists() else 0),
            "seconds": str(self.seconds),
            "scaler": json.dumps(self.learner.scaler.state_dict()), "losses": json.dumps(self.losses),
        }  # fmt: skip
        write_safetensors(tensors, self.work / "checkpoint.safetensors", meta)

    def _restore(self) -> None:
        tensors, meta = read_safetensors(self.work / "checkpoint.safetensors")
        self.learner.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        moments = {k[5:]: v for k, v in tensors.items() if k.startswith("adam.")}
        restore_adam(self.learner.optimizer.adam, self.learner.optimizer.parameters, moments)
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
        self.losses = json.loads(meta["losses"])
        self.learner.scaler.load_state_dict(json.loads(meta["scaler"]))
        if self.metrics.exists():
            with open(self.metrics, "r+b") as f:
                f.truncate(int(meta["metrics_bytes"]))

    def go(
        self, checkpoint_every: int, stop_after: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> bool:  # fmt: skip
        """Run to the end (True) or for `stop_after` steps (False, checkpointed)."""
        first, started, before = self.step, time.perf_counter(), self.seconds
        tokens = self.config.batch_size * self.config.n_ctx
        while self.step < self.config.steps:
            batch = self.text.train.batch(self.step, self.config.batch_size, self.config.n_ctx, self.config.seed)
            loss, density, lr = self.learner.step(batch, self.step)
            self.step += 1
            self.losses.append(loss)
            spent = time.perf_counter() - started
            self.seconds = before + spent
            speed = (self.step - first) * tokens / spent
            if self.step % LOG_EVERY == 0 or self.step == self.config.steps:
                mean = sum(self.losses) / len(self.losses)
                now = Progress(
                    step=self.step, steps=self.config.steps, loss_nats=mean, density=density,
                    lr=lr, tokens_per_second=speed, eta_seconds=(self.config.steps - self.step) * tokens / speed,
                )  # fmt: skip
                self.losses = []
                self._log(now)
                if progress:
                    progress(now)
            if self.step % checkpoint_every == 0 and self.step < self.config.steps:
                self.save()
            if stop_after is not None and self.step - first >= stop_after and self.step < self.config.steps:
                self.save()
                self.board.close()
                return False
        self.save()
        self.board.close()
        return True

    def _log(self, now: Progress) -> None:
        line = {"step": now.step, "loss_nats": round(now.loss_nats, 6), "density": round(now.density, 6), "lr": now.lr}
        with open(self.metrics, "a") as f:
            f.write(json.dumps(line) + "\n")
        for name in ("loss_nats", "density", "lr"):
            self.board.add_scalar(f"train/{name}", line[name], now.step)
        self.board.add_scalar("train/tokens_per_second", now.tokens_per_second, now.step)


def _finish(run: _Run, start: ModelStart, out: Path, text: Text) -> LoadedModel:
    c = run.config
    model = run.learner.model.eval()
    cost: dict[str, float] = {}
    if model.bigram_table is not None:
        exact = validation_loss(model, text.val, c.n_ctx)
        with torch.no_grad():
            model.bigram_table.copy_(from_rounded_rows(*rounded_rows(model.bigram_table)))
        cost = {"validation_loss_before_rounding_nats": exact}
    loss = validation_loss(model, text.val, c.n_ctx)
    reference = reference_means(model, text.train, c.n_ctx, text.excerpt)
    model.cpu()
    nonzero, total = model.weight_counts()
    details = {
        "validation_loss_nats": loss, **cost, "steps": c.steps, "train_seconds": round(run.seconds, 1),
        "nonzero_weights": nonzero, "total_weights": total, "threads": torch.get_num_threads(),
        "device": run.learner.device, "dtype": start.dtype, "micro_batch": start.micro_batch,
        "text_of": str(text.folder), "text": text.about,
    }  # fmt: skip
    record = Record.now(
        method="train", config=c.model_dump(mode="json"), seed=c.seed, model=out.name,
        model_sha256=model_sha256(model), means_sha256=reference.sha256(), details=details,
    )  # fmt: skip
    save_model(
        model, out, tokenizer=load_tokenizer(text.folder), reference=reference, record=record.model_dump(mode="json"),
        extra={"metrics.jsonl": run.metrics},
    )  # fmt: skip
    return load_model(out)
