"""`gossamer verify RUN`: the trial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, say, steps, trial


def verify(
    run: Annotated[Path, typer.Argument(help="A run folder, or a circuit file (with --model and --task).")],
    model: Annotated[str | None, typer.Option(help="Where the model is now; default: where the run found it.")] = None,
    task: Annotated[str | None, typer.Option(help="Of a circuit file: its task, or a file of pairs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Of a circuit file: the run folder to put it in.")] = None,
    ablation: Annotated[
        str | None,
        typer.Option(help="Edges: resample, zero, mean, position-mean, noise or optimal; default: the method's."),
    ] = None,
    granularity: Annotated[str, typer.Option(help="Edges: edge or node, what is ablated as one.")] = "edge",
    positions: Annotated[
        str | None, typer.Option(help="Edges: all, last, or a span of the pairs, where they are ablated.")
    ] = None,
    faithfulness: Annotated[float, typer.Option(help="Edges: the faithfulness that passes.")] = 0.9,
    pairs: Annotated[int, typer.Option(help="Edges: held-out pairs to use.")] = 128,
    edges: Annotated[int | None, typer.Option(help="Of a file of scores: how many edges to keep.")] = None,
    dtype: Annotated[str, typer.Option(help="Of a circuit file: float32, bfloat16 or float64.")] = "float32",
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the random circuits.")] = 0,
    json: Json = False,
) -> None:
    """Put a circuit on trial: is it enough, is it needed, and would a random one do as well?"""
    from gossamer import commands

    with steps("running circuits", "KL") as progress:
        r = commands.verify(
            run, model=model, task=task, out=out, ablation=ablation, granularity=granularity, positions=positions,
            target=faithfulness, pairs=pairs, edges=edges, dtype=dtype, device=device, seed=seed, progress=progress,
            say=say,
        )  # fmt: skip

    def text() -> None:
        for note in r.notes:
            typer.echo(f"note: {note}")
        trial(r.evidence)
        typer.echo(f"evidence: {Path(r.run) / 'evidence.json'}\nNext: gossamer show {r.run}")

    emit(r, json, text)
