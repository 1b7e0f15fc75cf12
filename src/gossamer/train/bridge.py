"""Train a bridge between a sparse and a dense model, and the sparse model with it (Gao et al. 2025, 2.3 and A.3).

The dense model is frozen. The loss is the sparse model's cross-entropy, NMSE both ways at every site, and KL both ways
of every single switch; the paper leaves coefficients and normaliser out, here they are BridgeConfig's. Encoders and
decoders start at the least-squares maps between the two models as they are given.

A run killed at any moment and resumed ends with the same bits. While it runs everything is in `OUT.training/`.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from gossamer.corpora.tokenizer import load_tokenizer
from gossamer.corpora.tokens import TokenFile
from gossamer.errors import BadInput, options, require_new
from gossamer.models.bridge import (
    SPARSE,
    Bridge,
    BridgedPair,
    BridgeShape,
    least_squares,
    load_bridge,
    nmse,
    require_pair,
    save_bridge,
    tails,
)
from gossamer.models.files import read_safetensors, save_model, write_safetensors
from gossamer.models.hub import checked_device
from gossamer.models.kernels import linear_cross_entropy, linear_kl
from gossamer.models.loaded import LoadedModel, model_sha256
from gossamer.models.sparse import SparseTransformer
from gossamer.record import Record
from gossamer.train.loop import deterministic, reuse_freed_memory
from gossamer.train.measure import MEAN_TOKENS, reference_means, validation_loss
from gossamer.train.optimizer import SparseAdam, adam_state, restore_adam
from gossamer.train.presets import TrainConfig
from gossamer.train.projection import kept_as_is
from gossamer.train.schedule import lr_multiplier
from gossamer.train.start import Start
from gossamer.train.text import Text, find_text, read_text, tokenize_text
from gossamer.whole_file import whole_folder

CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.jsonl"
LOG_EVERY = 10

_Share = Annotated[float, Field(ge=0, lt=1)]
_Coefficient = Annotated[float, Field(ge=0)]


class BridgeConfig(BaseModel):
    """Everything that decides a bridge's training except the models, the text and the machine.

    Loss = ce_coef * CE of the sparse model
         + sum over sites of nmse_to_sparse_coef * NMSE(encoder(h_dense), h_sparse)
                           + nmse_to_dense_coef * NMSE(decoder(h_sparse), h_dense)
                           + kl_to_sparse_coef * KL(dense || dense up to the site, then sparse)
                           + kl_to_dense_coef * KL(dense || sparse up to the site, then dense),
    all in nats or without unit, means over the tokens of a step. NMSE is the squared error over the squared deviation
    from the mean over the step's tokens, each summed over tokens and channels; its gradient also reaches the target.

    encoder_fraction: share of the sparse residual's channels that an encoder's AbsTopK keeps. kl_sequences: single
    switches run on so many of a step's `batch_size` sequences. train_sparse: false leaves the sparse model as it is,
    only the bridge learns. lr, eps, betas, weight_decay and clip_only are the sparse model's (train/optimizer.py:
    gradient divided by its RMS, Adam, projection to the number of weights each matrix has, decay); min_alive its
    minimum of weights per neuron. The bridge has plain Adam with bridge_lr and the same betas. Both rates rise
    linearly over warmup_fraction and fall linearly to 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tokens: int = Field(default=3_000_000, gt=0)
    batch_size: int = Field(default=16, gt=0)
    kl_sequences: int = Field(default=4, gt=0)
    encoder_fraction: float = Field(default=0.25, gt=0, le=1)
    ce_coef: _Coefficient = 4.0
    nmse_to_sparse_coef: _Coefficient = 1.0
    nmse_to_dense_coef: _Coefficient = 1.0
    kl_to_sparse_coef: _Coefficient = 1.0
    kl_to_dense_coef: _Coefficient = 1.0
    train_sparse: bool = True
    lr: float = Field(default=1e-2, gt=0)
    bridge_lr: float = Field(default=2e-3, gt=0)
    warmup_fraction: float = Field(default=0.05, gt=0, lt=1)
    betas: tuple[_Share, _Share] = (0.9, 0.95)
    eps: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip_only: bool = False
    min_alive: int = Field(default=4, ge=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _switches_fit(self) -> BridgeConfig:
        if self.kl_sequences > self.batch_size:
            raise ValueError(f"kl_sequences {self.kl_sequences} is more than batch_size {self.batch_size}")
        return self

    def steps(self, n_ctx: int) -> int:
        return max(1, self.tokens // (self.batch_size * n_ctx))


def bridge_config(**fields: Any) -> BridgeConfig:
    """A BridgeConfig, its errors as one BadInput."""
    return options(BridgeConfig, fields, "recipe")


class Losses(NamedTuple):
    """A step's loss and its parts: the sum that is minimised, CE in nats, and sums over sites of the other four."""

    total: Tensor
    ce: Tensor
    nmse_to_sparse: Tensor
    nmse_to_dense: Tensor
    kl_to_sparse: Tensor
    kl_to_dense: Tensor


def losses(
    bridge: Bridge, sparse: SparseTransformer, dense: SparseTransformer, batch: Tensor, config: BridgeConfig
) -> Losses:
    """The loss of a batch of text [sequences, n_ctx + 1]; gradients flow into the bridge and the sparse model.

    The tails of all single switches run together (models/bridge.py, `tails`), so one backward pass serves every site.
    """
    tokens, n = batch[:, :-1], config.kl_sequences
    with torch.no_grad():
        dense_at = dense.residuals(tokens)
        teacher = dense.ln_f(dense_at[-1][:n]).flatten(0, 1), dense.lm_head.weight, dense.bigram_table
    with torch.set_grad_enabled(config.train_sparse and torch.is_grad_enabled()):
        sparse_at = sparse.residuals(tokens)
        final = sparse.ln_f(sparse_at[-1]).flatten(0, 1)
        read = sparse.lm_head.weight, sparse.bigram_table
        ce = linear_cross_entropy(final, read[0], tokens.flatten(), batch[:, 1:].flatten(), read[1])
    sites = range(sparse.n_sites)
    encoded = [bridge.encode(dense_at[i], i) for i in sites]
    decoded = [bridge.decode(sparse_at[i], i) for i in sites]
    to_sparse = torch.stack([nmse(encoded[i], sparse_at[i]) for i in sites]).sum()
    to_dense = torch.stack([nmse(decoded[i], dense_at[i]) for i in sites]).sum()
    switched = tokens[:n].flatten()
    hidden = tails(sparse, [x[:n] for x in encoded]).flatten(1, 2)
    kl_to_sparse, _ = linear_kl(hidden, *read, teacher, switched)
    hidden = tails(dense, [x[:n] for x in decoded]).flatten(1, 2)
    kl_to_dense, _ = linear_kl(hidden, *teacher[1:], teacher, switched)
    parts = ce, to_sparse, to_dense, kl_to_sparse, kl_to_dense
    weights = (
        config.ce_coef, config.nmse_to_sparse_coef, config.nmse_to_dense_coef, config.kl_to_sparse_coef,
        config.kl_to_dense_coef,
    )  # fmt: skip
    total = torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum()
    return Losses(total, *parts)


class BridgeStart(Start):
    """The start of a bridge's training."""

    config: BridgeConfig
    sparse_sha256: str
    dense_sha256: str


def train_bridge(
    out: Path,
    sparse: LoadedModel,
    dense: LoadedModel,
    config: BridgeConfig,
    *,
    corpus: Path | None = None,
    data: Path | None = None,
    threads: int | None = None,
    resume: bool = False,
    checkpoint_every: int = 100,
    stop_after: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> BridgedPair | None:
    """Train to the bridge folder `out` and return it (None when `stop_after` steps ended the session early).

    The sparse model is copied, not changed; the device is the one both models are on. corpus: a folder of text instead
    of this machine's Python source. data: a `.training` folder with text in the models' tokens (the sparse model's own
    is best). Errors: BadInput before any work for models that do not fit together, text of another tokenizer, an
    existing `out`, an unfinished run without `resume`, a resumed run with other options.
    """
    require_new(out)
    require_pair(sparse, dense)
    unnamed = [m.name for m in (sparse, dense) if not m.source]
    if unnamed:
        raise BadInput(
            f"Expected models that can be found again, {' and '.join(unnamed)} came from no file; save and load first."
        )
    device = checked_device(str(sparse.device))
    work = out.with_name(out.name + ".training")
    if work.exists() and not resume:
        raise BadInput(f"An unfinished run is in {work}; add --resume to continue it, or remove it to start again.")
    if checkpoint_every < 1 or (threads is not None and threads < 1):
        raise BadInput(f"Expected --checkpoint-every and --threads of at least 1, got {checkpoint_every}, {threads}.")
    if corpus is not None and data is not None:
        raise BadInput("Expected --corpus or --data, got both; --data brings its own text.")
    start = BridgeStart(
        config=config, sparse_sha256=sparse.hashes()[0], dense_sha256=dense.hashes()[0],
        corpus=corpus.resolve() if corpus else None, data=data.resolve() if data else None,
    )  # fmt: skip
    if resume:
        start = start.resuming(work)
    if threads:
        torch.set_num_threads(threads)
    with deterministic():
        text = bridge_text(start.data, sparse) if start.data else _own_text(work, start, sparse, say)
        n_ctx = sparse.model.config.n_ctx
        if text.train.n_windows(n_ctx) < config.batch_size:
            raise BadInput(
                f"Expected at least {config.batch_size * n_ctx + 1:,} training tokens, {text.folder} has "
                f"{text.train.n_tokens:,}; add text or lower --batch-size."
            )
        start.note(work)
        if device == "cpu":
            reuse_freed_memory()
        run = _Run(start, work, text, sparse, dense, say)
        done = run.go(checkpoint_every, stop_after, progress)
        return _finish(run, out, sparse, dense) if done else None


def bridge_text(folder: Path, model: LoadedModel) -> Text:
    """The text of a `.training` folder; BadInput unless it is in the model's tokens."""
    missing = [name for name in ("text.json", "train.npy", "val.npy", "excerpt.npy") if not (folder / name).is_file()]
    if missing:
        raise BadInput(
            f"Expected the .training folder of a run at {folder}; it has no {' and no '.join(missing)}. Give one with "
            "--data, or text with --corpus."
        )
    if json.loads(load_tokenizer(folder).to_str()) != json.loads(model.tokenizer.to_str()):
        raise BadInput(f"Expected text in the tokens of {model.name}, that of {folder} has another tokenizer.")
    return read_text(folder)


def _own_text(work: Path, start: BridgeStart, model: LoadedModel, say: Callable[[str], None]) -> Text:
    if not (work / "text.json").is_file():
        found, parts = find_text(start.corpus, start.config.seed, say)
        new = not work.exists()
        start.note(work)
        try:
            tokenize_text(
                work, model.tokenizer, found, parts, tokens=max(start.config.tokens, MEAN_TOKENS),
                n_ctx=model.model.config.n_ctx, batch_size=start.config.batch_size, seed=start.config.seed,
                own=start.corpus is not None, say=say,
            )  # fmt: skip
        except BadInput:
            if new:
                shutil.rmtree(work)
            raise
    return read_text(work)


def spread(text: TokenFile, n_ctx: int, windows: int, batch: int = 32) -> list[Tensor]:
    """Tokens [batch, n_ctx] of at most `windows` windows, evenly spread over a token file."""
    n = min(windows, text.n_windows(n_ctx))
    chosen = np.linspace(0, text.n_windows(n_ctx) - 1, n).astype(np.int64)
    return [text.windows(chosen[i : i + batch], n_ctx)[:, :-1] for i in range(0, n, batch)]


def _copy(model: SparseTransformer, trained: bool) -> SparseTransformer:
    copied = SparseTransformer(model.config, seed=None).to(model.wte.weight)
    copied.load_state_dict(model.state_dict())
    return copied.train().requires_grad_(trained)


class _Run:
    """The mutable middle of a bridge's training: sparse model, bridge, their optimisers, where it is."""

    def __init__(
        self, start: BridgeStart, work: Path, text: Text, sparse: LoadedModel, dense: LoadedModel,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        c = self.config = start.config
        self.start, self.work, self.text, self.dense = start, work, text, dense.model
        self.n_ctx, self.steps = sparse.model.config.n_ctx, c.steps(sparse.model.config.n_ctx)
        self.sparse = _copy(sparse.model, c.train_sparse)
        d_sparse, d_dense = self.sparse.config.d_model, self.dense.config.d_model
        k = max(1, int(c.encoder_fraction * d_sparse))
        shape = BridgeShape(d_sparse=d_sparse, d_dense=d_dense, n_sites=self.sparse.n_sites, k=k)
        self.bridge = Bridge(shape).to(self.sparse.wte.weight)
        recipe = TrainConfig(
            density=1, embed_density=1, tokens=c.tokens, n_ctx=self.n_ctx, batch_size=c.batch_size, lr=c.lr,
            warmup_fraction=c.warmup_fraction, betas=c.betas, eps=c.eps, weight_decay=c.weight_decay,
            clip_only=c.clip_only, seed=c.seed,
        )  # fmt: skip
        kept = kept_as_is(self.sparse, c.min_alive)
        self.sparse_adam = SparseAdam(self.sparse, recipe, kept) if c.train_sparse else None
        self.parameters = dict(self.bridge.named_parameters())
        self.adam = torch.optim.Adam(self.parameters.values(), lr=0.0, betas=c.betas, fused=True)
        self.step, self.seconds, self.sums = 0, 0.0, [0.0] * len(Losses._fields)
        if (work / CHECKPOINT).is_file():
            self._restore()
            return
        (work / METRICS).unlink(missing_ok=True)
        say("least-squares maps between the two models")
        windows = spread(text.train, self.n_ctx, MEAN_TOKENS // self.n_ctx)
        batches = (w.to(self.sparse.wte.weight.device) for w in windows)
        self.bridge.load_state_dict(least_squares(sparse.model, dense.model, batches).state_dict())

    def save(self) -> None:
        """One file with everything needed to go on, renamed into place."""
        tensors = {f"sparse.{k}": v.detach().cpu() for k, v in self.sparse.state_dict().items()}
        tensors |= {f"bridge.{k}": v.detach().cpu() for k, v in self.bridge.state_dict().items()}
        tensors |= {f"adam.{k}": v for k, v in adam_state(self.adam, self.parameters).items()}
        if self.sparse_adam is not None:
            moments = adam_state(self.sparse_adam.adam, self.sparse_adam.parameters)
            tensors |= {f"sparse_adam.{k}": v for k, v in moments.items()}
        metrics = self.work / METRICS
        meta = {
            "step": str(self.step), "metrics_bytes": str(metrics.stat().st_size if metrics.exists() else 0),
            "seconds": str(self.seconds), "sums": json.dumps(self.sums),
        }  # fmt: skip
        write_safetensors(tensors, self.work / CHECKPOINT, meta)

    def _restore(self) -> None:
        tensors, meta = read_safetensors(self.work / CHECKPOINT)

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.sparse.load_state_dict(part("sparse."))
        self.bridge.load_state_dict(part("bridge."))
        restore_adam(self.adam, self.parameters, part("adam."))
        if self.sparse_adam is not None:
            restore_adam(self.sparse_adam.adam, self.sparse_adam.parameters, part("sparse_adam."))
        self.step, self.seconds, self.sums = int(meta["step"]), float(meta["seconds"]), json.loads(meta["sums"])
        if (self.work / METRICS).exists():
            with open(self.work / METRICS, "r+b") as f:
                f.truncate(int(meta["metrics_bytes"]))

    def _update(self) -> None:
        """One optimiser step on a batch; BadInput when the loss is not finite."""
        c = self.config
        batch = self.text.train.batch(self.step, c.batch_size, self.n_ctx, c.seed).to(self.sparse.wte.weight.device)
        found = losses(self.bridge, self.sparse, self.dense, batch, c)
        values = torch.stack([x.detach().float() for x in found]).tolist()
        if not all(map(math.isfinite, values)):
            raise BadInput(f"The loss became {values[0]} at step {self.step}; use a smaller --lr or --bridge-lr.")
        found.total.backward()
        rate = lr_multiplier((self.step + 1) / self.steps, c.warmup_fraction)
        self.adam.param_groups[0]["lr"] = c.bridge_lr * rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        if self.sparse_adam is not None:
            self.sparse_adam.step(c.lr * rate, progress=1.0)
        self.sums = [a + b for a, b in zip(self.sums, values, strict=True)]

    def go(
        self, checkpoint_every: int, stop_after: int | None, progress: Callable[[int, int, float], None] | None
    ) -> bool:
        """Run to the end (True) or for `stop_after` steps (False, checkpointed)."""
        first, started, before = self.step, time.perf_counter(), self.seconds
        while self.step < self.steps:
            self._update()
            self.step += 1
            self.seconds = before + time.perf_counter() - started
            if self.step % LOG_EVERY == 0 or self.step == self.steps:
                count = self.step % LOG_EVERY or LOG_EVERY
                means = {k: round(v / count, 6) for k, v in zip(Losses._fields, self.sums, strict=True)}
                with open(self.work / METRICS, "a") as f:
                    f.write(json.dumps({"step": self.step, **means}) + "\n")
                self.sums = [0.0] * len(self.sums)
                if progress:
                    progress(self.step, self.steps, means["total"])
            if self.step % checkpoint_every == 0 and self.step < self.steps:
                self.save()
            if stop_after is not None and self.step - first >= stop_after and self.step < self.steps:
                self.save()
                return False
        self.save()
        return True


def _finish(run: _Run, out: Path, sparse: LoadedModel, dense: LoadedModel) -> BridgedPair:
    """The bridge folder: bridge, jointly trained sparse model with new reference means, Record, metrics."""
    c, text, model = run.config, run.text, run.sparse.eval().requires_grad_(False)
    loss = validation_loss(model, text.val, run.n_ctx)
    excerpt = text.excerpt if sparse.reference is None else sparse.reference.excerpt
    reference = reference_means(model, text.train, run.n_ctx, excerpt)
    model.cpu()
    details = {
        "validation_loss_nats": loss, "validation_loss_before_nats": validation_loss(sparse.model, text.val, run.n_ctx),
        "validation_loss_dense_nats": validation_loss(dense.model, text.val, run.n_ctx), "steps": run.steps,
        "train_seconds": round(run.seconds, 1), "threads": torch.get_num_threads(), "device": str(sparse.device),
        "sparse_source": sparse.source, "sparse_sha256": sparse.hashes()[0], "dense_source": dense.source,
        "dense_sha256": dense.hashes()[0], "text_of": str(text.folder), "text": text.about,
    }  # fmt: skip
    record = Record.now(
        method="bridge", config=c.model_dump(mode="json"), seed=c.seed, model=out.name,
        model_sha256=model_sha256(model), means_sha256=reference.sha256(), details=details,
    ).model_dump(mode="json")  # fmt: skip
    with whole_folder(out) as new:
        save_model(model, new / SPARSE, tokenizer=sparse.tokenizer, reference=reference, record=record)
        save_bridge(run.bridge.cpu(), new, record=record)
        shutil.copyfile(run.work / METRICS, new / METRICS)
    return load_bridge(out, dense=dense.source or dense.folder, device=str(sparse.device))
