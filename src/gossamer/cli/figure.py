"""`gossamer figure`: curves over models, as data, PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gossamer.cli.console import Device, Json, ModelName, Set, emit, fields, interruptible, number, say, steps, table

if TYPE_CHECKING:
    from gossamer.commands.reports import FigureReport

app = typer.Typer(no_args_is_help=True, help="Curves over models: data, PNG, SVG and a one-line finding.")

Tasks = Annotated[
    list[str] | None, typer.Option("--task", help="Task or file of pairs; repeatable (those that all models solve).")
]
Trials = Annotated[int, typer.Option(help="Masks to train for each model, task and seed.")]
Batch = Annotated[int, typer.Option(help="Masks per pass.")]
Seeds = Annotated[int, typer.Option(help="Seeds, each with a search of its own.")]
Targets = Annotated[
    list[float] | None,
    typer.Option("--target-loss", help="Target loss in nats; repeatable (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)."),
]
At = Annotated[float, typer.Option(help="The target loss of the finding.")]
Sweeps = Annotated[
    list[Path] | None, typer.Option("--sweep", help="Folder of an earlier sweep of one of the models; repeatable.")
]


@app.command("size-for-loss")
def size_for_loss(
    sparse: ModelName,
    dense: Annotated[str, typer.Argument(help="Its dense twin.")],
    task: Tasks = None,
    out: Annotated[Path, typer.Option(help="Folder; run again with the same one to go on.")] = Path(
        "runs/size-for-loss"
    ),
    trials: Trials = 16,
    batch: Batch = 8,
    seeds: Seeds = 2,
    target_loss: Targets = None,
    at: At = 0.15,
    sweep: Sweeps = None,
    set_: Set = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Edges against task loss for a sparse model and its dense twin, after the same search on both."""
    from gossamer import commands

    def make(**asked: Any) -> FigureReport:
        return commands.figure_size_for_loss(sparse, dense, **asked)

    _show(make, json, out, task, trials, batch, seeds, target_loss, at, sweep, set_, device)


@app.command("frontier")
def frontier(
    models: Annotated[list[str], typer.Argument(help="Shipped models, model folders, or Hub names.")],
    task: Tasks = None,
    out: Annotated[Path, typer.Option(help="Folder; run again with the same one to go on.")] = Path("runs/frontier"),
    trials: Trials = 16,
    batch: Batch = 8,
    seeds: Seeds = 1,
    target_loss: Targets = None,
    at: At = 0.15,
    sweep: Sweeps = None,
    set_: Set = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Circuit size against validation loss for models of several densities and widths, after the same search on all."""
    from gossamer import commands

    def make(**asked: Any) -> FigureReport:
        return commands.figure_frontier(models, **asked)

    _show(make, json, out, task, trials, batch, seeds, target_loss, at, sweep, set_, device)


@app.command("draw")
def draw(
    out: Annotated[Path, typer.Argument(help="Folder of a figure.")],
    json: Json = False,
) -> None:
    """Draw a figure again from its stored data."""
    from gossamer import commands

    r = commands.figure_draw(out)
    emit(r, json, lambda: _text(r))


@app.command("tensor-similarity")
def tensor_similarity(
    run: Annotated[Path, typer.Argument(help="Folder of a bilinear network's training.")],
    metric: Annotated[str, typer.Option(help="symmetric or gaussian.")] = "symmetric",
    out: Annotated[Path | None, typer.Option(help="Folder; default: RUN.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the null's orders of inputs.")] = 0,
    json: Json = False,
) -> None:
    """How alike the checkpoints of a bilinear network's training are, as a matrix and against the last one."""
    from gossamer import commands

    r = commands.figure_tensor_similarity(run, out=out, metric=metric, seed=seed)  # type: ignore[arg-type]

    def text() -> None:
        shown = sorted({round(i * (len(r.steps) - 1) / 10) for i in range(11)})
        names = list(r.measured)
        rows = [[f"{r.steps[i]:,}", number(r.to_last[i]), *(number(r.measured[n][i]) for n in names)] for i in shown]
        table(f"{r.run}: {r.metric} similarity to the last checkpoint", ["step", "similarity", *names], rows)
        if r.null:
            typer.echo(f"{r.null[0]}: {r.null[1]:.3f}, highest {r.null_highest:.3f}")
        typer.echo(f"{r.finding}\nfigure: {r.png}, {r.svg}\ndata: {r.data}")

    emit(r, json, text)


def _show(
    make: Callable[..., FigureReport], json: bool, out: Path, task: list[str] | None, trials: int, batch: int,
    seeds: int, target_loss: list[float] | None, at: float, sweep: list[Path] | None, set_: list[str] | None,
    device: str,
) -> None:  # fmt: skip
    from gossamer.discover import PruneConfig

    more = fields(PruneConfig, set_, target_losses=target_loss)
    with interruptible(f"finished trials are in {out}: run the same command to go on."):
        with steps("learning masks") as progress:
            r = make(
                tasks=task or (), out=out, trials=trials, batch=batch, seeds=seeds, at=at, sweeps=sweep or (),
                device=device, progress=progress, say=say, **more,
            )  # fmt: skip
    emit(r, json, lambda: _text(r))


def _text(r: FigureReport) -> None:
    pair = r.kind == "size-for-loss"
    rows = []
    for level in r.levels:
        edges = [
            "not reached" if e is None else f"{e:.1f} [{b[0]:.1f}, {b[1]:.1f}]" if b and r.seeds > 1 else f"{e:.1f}"
            for e, b in zip(level.edges, level.band, strict=True)
        ]
        lowest = min((x[1] for x in level.random if x), default=None)
        ratio = "-" if level.ratio is None else f"{level.ratio:.1f}"
        ratio += f" [{level.interval[0]:.1f}, {level.interval[1]:.1f}]" if level.interval else ""
        held = " / ".join(number(x) for x in level.heldout)
        null = "-" if lowest is None else f"{lowest:.3f}"
        rows.append([f"{level.target_loss:g}", str(len(level.tasks)), *edges, *([ratio] if pair else []), held, null])
    models = [f"edges, {m}" for m in r.models]
    columns = ["target", "tasks", *models, *(["ratio"] if pair else []), "held out", "random, lowest"]
    table(f"{r.kind}: {r.trials} trials per model, task and seed, seeds: {r.seeds}", columns, rows)
    chosen = next(x for x in r.levels if x.target_loss == r.at)
    rows = [[task, *(f"{e:.1f}" for e in edges)] for task, edges in chosen.by_task.items()]
    for task in dict.fromkeys(task for missed in chosen.missed for task in missed):
        rows.append([task, *("not reached" if task in missed else "reached" for missed in chosen.missed)])
    table(f"Edges at {r.at:g} nats, geometric mean over seeds", ["task", *r.models], rows)
    for warning in r.warnings:
        typer.echo(f"Note: {warning}")
    typer.echo(f"{r.finding}\nfigure: {r.png}, {r.svg}\ndata: {r.data}")
