"""`gossamer replay RUN`: do the numbers come out again?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, say, steps, table


def replay(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    model: Annotated[str | None, typer.Option(help="Where the model is now; default: where the run found it.")] = None,
    tolerance: Annotated[float, typer.Option(help="Largest difference that still agrees.")] = 1e-4,
    search: Annotated[bool, typer.Option("--search", help="Repeat the whole search from the Record too.")] = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Derive a run's numbers again and say where they differ; exit code 1 if any does."""
    from gossamer import commands

    with steps("repeating the search") as progress:
        r = commands.replay(
            run, model=model, device=device, tolerance=tolerance, search=search, progress=progress, say=say
        )

    def text() -> None:
        if r.agrees:
            typer.echo(f"{r.run}: all {r.compared} numbers come out the same.")
        else:
            rows = [[d.what, str(d.stored), str(d.found)] for d in r.differences]
            table(f"{len(rows)} of {r.compared} numbers differ", ["what", "in the run", "now"], rows)

    emit(r, json, text)
    if not r.agrees:
        sys.exit(1)
