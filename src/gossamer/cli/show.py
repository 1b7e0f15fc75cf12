"""`gossamer show RUN`: the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, say


def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    model: Annotated[str | None, typer.Option(help="Where the model is now; default: where the run found it.")] = None,
    twin: Annotated[
        Path | None, typer.Option(help="Run folder of the dense twin's circuit (channels), to compare.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Run folder of any other circuit of the same grain, to draw beside this one.")
    ] = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Write a self-contained page about a run: the circuit, what its nodes fire on or its heads look at, the trial,
    the Record."""
    from gossamer import commands

    r = commands.show(run, model=model, twin=twin, compare=compare, device=device, say=say)
    emit(r, json, lambda: typer.echo(f"page: {r.page} ({r.bytes / 1024:.0f} KiB, open it in a browser)"))
