"""`gossamer prove`: compact proofs of a max-of-K model's accuracy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Json, Set, emit, fields, say, steps, table
from gossamer.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Prove how often a max-of-K model is right, over all inputs.")

Model = Annotated[Path, typer.Argument(help="A model folder, or a .safetensors file under TransformerLens names.")]


@app.command("train")
def train(
    out: Annotated[Path, typer.Option(help="Model folder to write.")] = Path("models/max-of-k"),
    k: Annotated[int, typer.Option(help="Tokens to take the maximum of, 2 to 20.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the sequences.")] = 0,
    density: Annotated[float, typer.Option(help="Share of the weights of each matrix that stay non-zero.")] = 1.0,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Train a one-layer, one-head transformer to answer the maximum of K tokens."""
    from gossamer import commands
    from gossamer.train.max_of_k import MaxOfKTraining

    recipe = fields(MaxOfKTraining, set_)
    if own := sorted({"k", "seed", "density"} & set(recipe)):
        raise BadInput(f"--set {own[0]} has an option of its own; use --{own[0]} {recipe[own[0]]}.")
    with steps("training") as progress:
        r = commands.prove_train(out, k=k, seed=seed, density=density, progress=progress, **recipe)

    def text() -> None:
        typer.echo(
            f"{r.model}: {r.nonzero_weights:,} of {r.total_weights:,} weights, {r.steps:,} steps in {r.seconds:.0f} s, "
            f"{r.sampled_accuracy:.4f} of {r.samples:,} sampled sequences right.\nNext: gossamer prove bound {r.model}"
        )

    emit(r, json, text)


@app.command("bound")
def bound(
    model: Model,
    rung: Annotated[
        list[str] | None, typer.Option(help="all, brute-force, per-output, cubic, sub-cubic.exact.exact, ...; repeat.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of certificates; default: runs/proofs-MODEL, numbered.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of the shuffled weights.")] = 0,
    json: Json = False,
) -> None:
    """Lower bounds on the accuracy over uniform inputs, each with a certificate that `gossamer prove check` reads."""
    from gossamer import commands

    with steps("proving", "share certified") as progress:
        r = commands.prove_bound(model, rung=rung or "all", out=out, seed=seed, progress=progress, say=say)

    def text() -> None:
        rows = [
            [
                row.rung, f"{row.bound:.4f}", f"{row.certified:,}", f"{row.flops:.3g}",
                f"{row.unexplained_dimensions:,}", f"{row.witness_numbers:,}", f"{row.shuffled:.4f}",
                f"{row.seconds:.1f}",
            ]
            for row in r.rows
        ]  # fmt: skip
        columns = ["rung", "proven", "inputs", "FLOPs", "unexplained", "witnesses", "shuffled", "s"]
        table(f"{r.model}: max of {r.k} tokens of {r.vocabulary}, {r.rows[0].inputs:,} inputs", columns, rows)
        for name, why in r.skipped.items():
            typer.echo(f"skipped: {name}, {why}")
        typer.echo(
            f"certificates and evidence.json: {r.out}\nNext: gossamer prove check {r.rows[-1].certificate} {model}"
        )

    emit(r, json, text)


@app.command("check")
def check(
    certificate: Annotated[Path, typer.Argument(help="A certificate of gossamer prove bound.")],
    model: Model,
    json: Json = False,
) -> None:
    """Check a certificate against the weights, rounding against it; exit code 1 when it is rejected."""
    from gossamer import commands

    r = commands.prove_check(certificate, model)

    def text() -> None:
        if r.accepted:
            typer.echo(
                f"accepted: {r.rung}, {r.certified:,} of {r.inputs:,} inputs are answered right; {r.seconds:.1f} s"
            )
        else:
            typer.echo(f"rejected: {r.reason}")

    emit(r, json, text)
    if not r.accepted:
        sys.exit(1)
