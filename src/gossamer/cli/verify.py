"""`gossamer verify RUN`: the trial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, say, trial


def verify(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    model: Annotated[str | None, typer.Option(help="Where the model is now; default: where the run found it.")] = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the random circuits.")] = 0,
    json: Json = False,
) -> None:
    """Put a run's circuit on trial: is it enough, is it needed, and would a random one do as well?"""
    from gossamer import commands

    r = commands.verify(run, model=model, device=device, seed=seed, say=say)

    def text() -> None:
        trial(r.evidence)
        typer.echo(f"evidence: {run / 'evidence.json'}\nNext: gossamer show {run}")

    emit(r, json, text)
