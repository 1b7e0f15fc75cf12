"""`gossamer train`: a model folder from text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.console import Device, Json, Set, emit, fields, interruptible, say

if TYPE_CHECKING:
    from gossamer.train.loop import Progress


def train(
    preset: Annotated[
        str, typer.Option(help="Recipe: tiny or small (two CPU cores), paper or train-py (GPU).")
    ] = "tiny",
    out: Annotated[Path, typer.Option(help="Model folder to write; work goes to OUT.training.")] = Path("models/mine"),
    corpus: Annotated[Path | None, typer.Option(help="Folder of text; default: this machine's Python source.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="OUT.training of an earlier run: same text, order, tokenizer.")
    ] = None,
    density: Annotated[float | None, typer.Option(help="Share of non-zero weights; 1 trains the dense twin.")] = None,
    embed_density: Annotated[float | None, typer.Option(help="The same for the two embedding matrices.")] = None,
    activation_fraction: Annotated[float | None, typer.Option(help="Share of activations that AbsTopK keeps.")] = None,
    d_model: Annotated[int | None, typer.Option(help="Width.")] = None,
    n_layer: Annotated[int | None, typer.Option(help="Layers.")] = None,
    d_head: Annotated[int | None, typer.Option(help="Width of a head.")] = None,
    n_ctx: Annotated[int | None, typer.Option(help="Context length in tokens.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Tokens of the vocabulary trained on the text.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to train on.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    min_alive: Annotated[int | None, typer.Option(help="Weights every neuron keeps at least.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, text order and splits.")] = None,
    set_: Set = None,
    device: Device = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16 (autocast).")] = "float32",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Sequences per pass, to fit the memory; default: the whole batch.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.training.")] = False,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 200,
    json: Json = False,
) -> None:
    """Train a weight-sparse transformer, or with --density 1 a dense one, on Python source found here."""
    from gossamer import commands
    from gossamer.train.presets import TrainConfig

    recipe = fields(
        TrainConfig, set_, density=density, embed_density=embed_density, activation_fraction=activation_fraction,
        d_model=d_model, n_layer=n_layer, d_head=d_head, n_ctx=n_ctx, vocab_size=vocab_size, tokens=tokens,
        batch_size=batch_size, lr=lr, min_alive=min_alive, seed=seed,
    )  # fmt: skip
    with interruptible(f"the last checkpoint is in {out}.training: run the same command with --resume."):
        r = commands.train(
            out, preset=preset, corpus=corpus, data=data, device=device, dtype=dtype, threads=threads,
            micro_batch=micro_batch, resume=resume, checkpoint_every=checkpoint_every, progress=_line, say=say,
            **recipe,
        )  # fmt: skip

    def text() -> None:
        typer.echo(
            f"{r.model}: validation loss {r.validation_loss_nats:.3f} nats per token, {r.nonzero_weights:,} of "
            f"{r.total_weights:,} weights are not zero, {r.seconds / 60:.1f} minutes.\n"
            f"Next: gossamer tasks --model {r.model}"
        )

    emit(r, json, text)


def _line(p: Progress) -> None:
    end = "\r" if sys.stderr.isatty() and p.step < p.steps else "\n"
    if end == "\n" and p.step % 100 and p.step < p.steps:
        return
    left = f"{p.eta_seconds / 60:.1f} min" if p.eta_seconds > 90 else f"{p.eta_seconds:.0f} s"
    sys.stderr.write(
        f"step {p.step}/{p.steps}  loss {p.loss_nats:.3f}  density {p.density:.4f}  lr {p.lr:.4g}  "
        f"{p.tokens_per_second:,.0f} tokens/s  {left} left   {end}"
    )
    sys.stderr.flush()
