"""`gossamer`: errors become one line and exit code 2."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

from gossamer import __version__
from gossamer.cli import (
    bridge,
    compare,
    compose,
    demo,
    discover,
    doctor,
    explain,
    export,
    figure,
    grid,
    imports,
    means,
    prove,
    replay,
    show,
    sweep,
    tasks,
    train,
    verify,
)
from gossamer.errors import GossamerError, one_line

app = typer.Typer(
    name="gossamer", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Train weight-sparse transformers, find the circuit of a task, put it on trial, show it.",
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("means")(means.means)
app.add_typer(discover.app, name="discover")
app.add_typer(sweep.app, name="sweep")
app.add_typer(bridge.app, name="bridge")
app.add_typer(figure.app, name="figure")
app.command("claim")(verify.claim)
app.command("verify")(verify.verify)
app.command("verdict")(verify.verdict)
app.add_typer(prove.app, name="prove")
app.command("grid")(grid.grid)
app.command("compare")(compare.compare)
app.command("compose")(compose.compose)
app.command("doctor")(doctor.doctor)
app.add_typer(explain.app, name="explain")
app.command("show")(show.show)
app.command("replay")(replay.replay)
app.add_typer(imports.app, name="import")
app.command("export")(export.export)
app.add_typer(tasks.app, name="tasks")


_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, or that of the copy of click inside newer versions of typer


def main() -> None:
    """Entry point of the `gossamer` script.

    torch's threads wait for each other spinning, which on a machine that others use takes a search 20 times as long;
    where they sleep at once, a small model takes twice as long. Here they spin for one to three tenths of a
    millisecond, unless the environment says otherwise. It has to be said before torch loads.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    as_json = "--json" in sys.argv
    try:
        sys.exit(app(standalone_mode=not as_json))
    except BrokenPipeError:
        sys.exit(1)
    except (GossamerError, OSError, _UsageError) as error:  # OSError: a full disk, a folder that is not ours to write
        message = one_line(error)
        if as_json:
            typer.echo(json.dumps({"error": type(error).__name__, "message": message}))
        typer.echo(f"gossamer: {message}", err=True)
        sys.exit(GossamerError.exit_code)


if __name__ == "__main__":
    main()
