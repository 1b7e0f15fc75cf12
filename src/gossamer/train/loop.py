"""Train a weight-sparse transformer, or with density 1 its dense twin, from text to a model folder.

While it runs, everything is in `OUT.training/` (tokens, checkpoint, metrics); a finished run leaves the model folder
OUT. A run killed at any moment and resumed ends with the same bits: batches are a function of (seed, step), the
checkpoint holds weights and moments, and the metrics file is cut back to the checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from gossamer.corpora.python_source import STANDARD_LIBRARY, find_python_source, text_folder
from gossamer.corpora.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from gossamer.corpora.tokens import TokenFile, frozen_excerpt, tokenize_corpus
from gossamer.errors import BadInput
from gossamer.models.files import load_model, read_safetensors, save_model, write_safetensors
from gossamer.models.hub import checked_device
from gossamer.models.loaded import LoadedModel, Reference
from gossamer.models.sparse import SparseTransformer
from gossamer.record import Record
from gossamer.train.estimate import estimate
from gossamer.train.learner import DTYPES, Learner, recipe_targets, shapes
from gossamer.train.presets import TrainConfig

VAL_TOKENS = 200_000
MEAN_TOKENS = 262_144
EXCERPT_WINDOWS = 96
LOG_EVERY = 10
START = "start.json"


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
    out = Path(out)
    checked_device(device)
    if dtype not in DTYPES:
        raise BadInput(f"Unknown dtype {dtype!r}; use {', '.join(DTYPES)}.")
    work = out.with_name(out.name + ".training")
    if out.exists():
        raise BadInput(f"{out} exists; choose another --out or remove it.")
    if work.exists() and not resume:
        raise BadInput(f"An unfinished run is in {work}; add --resume to continue it, or remove it to start again.")
    if micro_batch is not None and not 0 < micro_batch <= config.batch_size:
        raise BadInput(f"Expected --micro-batch of 1 to {config.batch_size} sequences, got {micro_batch}.")
    start = Start(recipe=config, data=None if data is None else data.resolve(), dtype=dtype, micro_batch=micro_batch)
    if resume:
        start = start.resuming(work)
    recipe_targets(config, shapes(config))
    if threads:
        torch.set_num_threads(threads)
    with deterministic():
        need = estimate(config, device, dtype, micro_batch)
        say(
            f"needs about {need.memory_bytes / 2**20:,.0f} MiB of {need.available_bytes / 2**30:.1f} GiB free on "
            f"{device}, and {need.seconds / 60:.0f} minutes for {config.steps:,} steps"
        )
        text = prepare_text(work, start, corpus=corpus, say=say)
        if device == "cpu":
            reuse_freed_memory()
        run = _Run(start, work, text, device, resume)
        done = run.go(checkpoint_every, stop_after, progress)
        return _finish(run, out, text) if done else None


class Start(BaseModel):
    """start.json: everything given at the start that a resumed run must share, or its bits would differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: TrainConfig
    data: Path | None
    dtype: str
    micro_batch: int | None

    def resuming(self, work: Path) -> Start:
        """The start stored in `work`; BadInput when there is none, or it differs from this one."""
        path = work / START
        if not path.is_file():
            raise BadInput(f"Nothing to resume at {work}; leave out --resume.")
        stored = Start.model_validate_json(path.read_text())
        mine = self if self.data else self.model_copy(update={"data": stored.data})
        if stored != mine:
            ours, theirs = (json.loads(s.model_dump_json()) for s in (mine, stored))
            flat = [{**x.pop("recipe"), **x} for x in (ours, theirs)]
            differ = [f"{k} was {flat[1][k]}, now {v}" for k, v in flat[0].items() if flat[1][k] != v]
            raise BadInput(f"{work} was started with other options ({'; '.join(differ)}); resume with the same ones.")
        return stored


def reuse_freed_memory() -> None:
    """Ask glibc to keep freed buffers for the next step instead of handing their pages back and faulting them in again.

    A training step frees and takes hundreds of megabytes; elsewhere than on Linux with glibc this does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):
        return


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms inside, the previous setting after."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class Text(NamedTuple):
    """Tokens to train on and to validate on, an excerpt that may be shown, the tokenizer's folder, and what it was."""

    train: TokenFile
    val: TokenFile
    excerpt: Tensor
    folder: Path
    about: dict[str, Any]


def prepare_text(work: Path, start: Start, *, corpus: Path | None, say: Callable[[str], None]) -> Text:
    """Find text, train the tokenizer, write token files into `work`; or reuse what is already there or in `data`."""
    config, source = start.recipe, start.data or work
    if start.data is not None and not (source / "text.json").is_file():
        raise BadInput(f"Expected the .training folder of an earlier run at {source}; it has no text.json.")
    if not (source / "text.json").is_file():
        found = text_folder(corpus) if corpus else find_python_source()
        train_part, val_part = found.split(seed=config.seed)
        say(f"text: {len(found.documents)} files, {sum(found.packages().values()) / 1e6:.0f} MB")
        _note_start(work, start)
        tokenizer = train_tokenizer(train_part, config.vocab_size, config.seed)
        save_tokenizer(tokenizer, work)
        train_file = tokenize_corpus(train_part, tokenizer, work / "train.npy", config.tokens, config.seed)
        val_file = tokenize_corpus(val_part, tokenizer, work / "val.npy", VAL_TOKENS, config.seed)
        shown = train_part if corpus else train_part.only(STANDARD_LIBRARY)
        excerpt = frozen_excerpt(shown, tokenizer, EXCERPT_WINDOWS, config.n_ctx, config.seed)
        np.save(work / "excerpt.npy", excerpt.numpy())
        about = {
            "corpus": found.name, "files": len(found.documents), "skipped": found.skipped,
            "file_list_sha256": found.file_list_hash(), "train_tokens": train_file.n_tokens,
            "validation_tokens": val_file.n_tokens, "validation_packages": sorted(val_part.packages()),
            "train_packages": dict(train_part.packages()),
        }  # fmt: skip
        (work / "text.json.partial").write_text(json.dumps(about, indent=1))
        os.replace(work / "text.json.partial", work / "text.json")
    _note_start(work, start)
    about = json.loads((source / "text.json").read_text())
    return Text(
        TokenFile(path=source / "train.npy", n_tokens=about["train_tokens"]),
        TokenFile(path=source / "val.npy", n_tokens=about["validation_tokens"]),
        torch.from_numpy(np.load(source / "excerpt.npy")),
        source,
        about,
    )


def _note_start(work: Path, start: Start) -> None:
    work.mkdir(parents=True, exist_ok=True)
    partial = work / (START + ".partial")
    partial.write_text(start.model_dump_json(indent=1))
    os.replace(partial, work / START)


class _Run:
    """The mutable middle of a training run: model, optimiser, where it is."""

    def __init__(self, start: Start, work: Path, text: Text, device: str, resume: bool) -> None:
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
        for name, p in self.learner.optimizer.parameters.items():
            for key, value in self.learner.optimizer.adam.state[p].items():
                tensors[f"adam.{key}.{name}"] = value.detach().cpu().reshape(value.shape)
        meta = {
            "step": str(self.step), "metrics_bytes": str(self.metrics.stat().st_size if self.metrics.exists() else 0),
            "seconds": str(self.seconds),
            "scaler": json.dumps(self.learner.scaler.state_dict()), "losses": json.dumps(self.losses),
        }  # fmt: skip
        write_safetensors(tensors, self.work / "checkpoint.safetensors", meta)

    def _restore(self) -> None:
        tensors, meta = read_safetensors(self.work / "checkpoint.safetensors")
        self.learner.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for name, p in self.learner.optimizer.parameters.items():
            state = self.learner.optimizer.adam.state[p]
            for key in ("step", "exp_avg", "exp_avg_sq"):
                state[key] = tensors[f"adam.{key}.{name}"].to(p.device)
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


@torch.no_grad()
def validation_loss(model: SparseTransformer, val: TokenFile, n_ctx: int, batch: int = 32) -> float:
    """Mean next-token cross-entropy in nats over all windows of the validation tokens."""
    device = next(model.parameters()).device
    total, n = 0.0, val.n_windows(n_ctx)
    for start in range(0, n, batch):
        w = val.windows(np.arange(start, min(start + batch, n)), n_ctx).to(device)
        total += float(model.loss(w[:, :-1], w[:, 1:])) * len(w)
    return total / n


@torch.no_grad()
def reference_means(model: SparseTransformer, text: TokenFile, n_ctx: int, n_tokens: int = MEAN_TOKENS) -> Reference:
    """Mean of every node over pretraining text, taken after AbsTopK; windows spread evenly over the token file."""
    device = next(model.parameters()).device
    n = min(max(1, n_tokens // n_ctx), text.n_windows(n_ctx))
    chosen = np.linspace(0, text.n_windows(n_ctx) - 1, n).astype(np.int64)
    sums: dict[str, Tensor] = {}

    def add(location: str, x: Tensor) -> Tensor:
        sums[location] = sums.get(location, 0) + x.flatten(0, 1).double().sum(0).cpu()
        return x

    for start in range(0, n, 64):
        model.hidden(text.windows(chosen[start : start + 64], n_ctx)[:, :-1].to(device), edit=add)
    means = {k: (v / (n * n_ctx)).float() for k, v in sums.items()}
    return Reference(means=means, n_tokens=n * n_ctx, excerpt=torch.zeros(0, n_ctx, dtype=torch.int64))


def _finish(run: _Run, out: Path, text: Text) -> LoadedModel:
    c = run.config
    model = run.learner.model.cpu().eval()
    loss = validation_loss(model, text.val, c.n_ctx)
    found = reference_means(model, text.train, c.n_ctx)
    reference = Reference(means=found.means, n_tokens=found.n_tokens, excerpt=text.excerpt)
    state = model.state_dict()
    details = {
        "validation_loss_nats": loss, "steps": c.steps, "train_seconds": round(run.seconds, 1),
        "nonzero_weights": sum(int(t.count_nonzero()) for t in state.values()),
        "total_weights": sum(t.numel() for t in state.values()), "threads": torch.get_num_threads(),
        "device": run.learner.device, "text": text.about,
    }  # fmt: skip
    record = Record.now(method="train", config=c.model_dump(mode="json"), seed=c.seed, details=details)
    tokenizer = load_tokenizer(text.folder)
    save_model(model, out, tokenizer=tokenizer, reference=reference, record=record.model_dump(mode="json"))
    shutil.copyfile(run.metrics, out / "metrics.jsonl")
    return load_model(out)
