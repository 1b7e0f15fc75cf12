"""What people see: tables on stdout, progress on stderr; with --json one object on stdout and nothing else there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gossamer.errors import BadInput, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from gossamer.evidence import Evidence

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]


ModelName = Annotated[str, typer.Argument(help="A shipped model (tiny), a model folder, or a Hub name.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of the recipe; repeatable.")
]


def fields(recipe: type[BaseModel], given: list[str] | None, **options: object) -> dict[str, Any]:
    """The options that were given, and the fields of --set with their values read as JSON (else as text)."""
    found: dict[str, Any] = {}
    for item in given or ():
        name, equals, value = item.partition("=")
        name = name.replace("-", "_")
        if not equals:
            raise BadInput(f"Expected --set FIELD=VALUE, got {item!r}.")
        if name not in recipe.model_fields:
            raise BadInput(f"--set knows no field {name!r}: {nearest(name, recipe.model_fields)}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found | {k: v for k, v in options.items() if v is not None and v is not False}


def say(line: str) -> None:
    """A line about what is going on."""
    typer.echo(line, err=True)


@contextmanager
def interruptible(how_to_go_on: str) -> Iterator[None]:
    """Ctrl-C in the block ends the command with what is kept and how to go on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nStopped; {how_to_go_on}")
        sys.exit(130)


def emit(report: BaseModel, as_json: bool, text: Callable[[], None]) -> None:
    """The report as JSON, or as text for a person."""
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        text()


@contextmanager
def steps(what: str, number: str = "loss") -> Iterator[Callable[[int, int, float], None]]:
    """A progress bar with an estimate of the time left, on stderr; plain lines where that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        import time

        base, last, shown = 0, 0, 0.0
        started = time.perf_counter()

        def line(step: int, total: int, loss: float) -> None:
            nonlocal base, last, shown, started
            now = time.perf_counter()
            if step <= last:  # the next of several jobs
                base, started, shown = step, now, now
            last = step
            if now - shown > 5 or step == total:
                shown = now
                left = (now - started) / max(step - base, 1) * (total - step)
                say(f"{what}: step {step} of {total}, {number} {loss:.3f}, {left:.0f} s left")

        yield line
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn(number + " {task.fields[loss]:.3f}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, loss=float("nan"))

        def update(step: int, total: int, loss: float) -> None:
            if step <= bar.tasks[0].completed:
                bar.reset(task)
            bar.update(task, completed=step, total=total, loss=loss)

        yield update


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on stdout, as wide as its content needs."""
    from rich.console import Console
    from rich.table import Table

    found = Table(*columns, title=title, title_justify="left", title_style="bold")
    for row in rows:
        found.add_row(*row)
    terminal = sys.stdout.isatty()
    Console(width=None if terminal else 120).print(found)


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def trial(evidence: tuple[Evidence, ...]) -> None:
    """The trial: one row per check with its nulls beside it."""
    rows = []
    for e in evidence:
        by = {n.name.split(" ")[0]: n for n in e.nulls}
        random, empty, full = (by.get(n) for n in ("random", "empty", "full"))
        spread = f" [{random.interval[0]:.3f}, {random.interval[1]:.3f}]" if random and random.interval else ""
        own = f" [{e.interval[0]:.3f}, {e.interval[1]:.3f}]" if e.interval else ""
        rows.append([
            e.name, number(e.value) + own, number(random.value if random else None) + spread,
            number(empty.value if empty else None), number(full.value if full else None), e.unit, e.verdict,
        ])  # fmt: skip
    table(
        "The trial, on held-out pairs",
        ["check", "this circuit", "random, same size", "empty", "full", "unit", "verdict"],
        rows,
    )  # fmt: skip
