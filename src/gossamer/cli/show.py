"""`gossamer show RUN`: the page, as a file or served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.console import Device, Json, emit, say
from gossamer.errors import BadInput

if TYPE_CHECKING:
    from gossamer.commands.reports import ServeReport


def show(
    run: Annotated[Path, typer.Argument(help="A run folder, or that of a comparison.")],
    model: Annotated[str | None, typer.Option(help="Where the model is now; default: where the run found it.")] = None,
    twin: Annotated[
        Path | None, typer.Option(help="Run folder of the dense twin's circuit (channels), to compare.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(help="Run folder of another circuit of the same grain, to draw beside this one; or a comparison."),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page until Ctrl-C, with the model to answer prompts.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Where to listen (--serve); default 127.0.0.1. Others need the token.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port (--serve); default: a free one.")] = None,
    token: Annotated[
        str | None, typer.Option(help="What every request must bring (--serve); default: one is made where needed.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser (--serve).")] = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Write a self-contained page about a run: the circuit, what its nodes fire on or its heads look at, the trial,
    the Record. Or serve it, so that it can ask the model."""
    from gossamer import commands

    if serve:

        def ready(r: ServeReport) -> None:
            emit(r, json, lambda: typer.echo(f"page: {r.url} (Ctrl-C ends it)"))

        commands.serve(
            run, model=model, twin=twin, compare=compare, device=device, host=host or "127.0.0.1",
            port=port or 0, token=token, open_browser=open_browser, ready=ready, say=say,
        )  # fmt: skip
        return
    if host is not None or port is not None or token is not None or open_browser:
        raise BadInput("Expected --serve with --host, --port, --token or --open: they are of the server.")
    r = commands.show(run, model=model, twin=twin, compare=compare, device=device, say=say)
    emit(r, json, lambda: typer.echo(f"page: {r.page} ({r.bytes / 1024:.0f} KiB, open it in a browser)"))
