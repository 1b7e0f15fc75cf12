"""`gossamer sweep METHOD MODEL TASK...`: search a method's options, keep the best circuits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, ModelName, Set, emit, fields, interruptible, number, say, steps, table

app = typer.Typer(no_args_is_help=True, help="Search a method's options and keep the best circuits.")


@app.callback()
def _group() -> None:
    pass


@app.command("prune")
def prune(
    model: ModelName,
    tasks: Annotated[list[str], typer.Argument(help="Tasks (see gossamer tasks), or .jsonl or .csv files of pairs.")],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; run again with the same one to go on.")] = Path(
        "runs/sweep"
    ),
    trials: Annotated[int, typer.Option(help="Masks to train for each task and seed.")] = 64,
    batch: Annotated[int, typer.Option(help="Masks per pass.")] = 8,
    seeds: Annotated[int, typer.Option(help="Seeds, each with a search of its own.")] = 1,
    target_loss: Annotated[
        list[float] | None, typer.Option(help="Target loss in nats; repeatable (0.05, 0.1, 0.15, 0.3, 0.5).")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="Database URL to share; default: a journal in OUT.")] = None,
    set_: Set = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Search the pruning options; the best circuit of every target loss becomes a run folder in OUT."""
    from gossamer import commands
    from gossamer.discover import PruneConfig

    base = fields(PruneConfig, set_)
    more = {"target_losses": target_loss} if target_loss else {}
    with interruptible(f"finished trials are in {out}: run the same command to go on."):
        with steps("learning masks") as progress:
            r = commands.sweep_prune(
                model, tasks, out=out, trials=trials, batch=batch, seeds=seeds, storage=storage, device=device,
                progress=progress, say=say, **more, **base,
            )  # fmt: skip

    def text() -> None:
        rows = [
            [
                b.task, str(b.seed), f"{b.target_loss:g}", "yes" if b.reached else "no", str(b.nodes), str(b.edges),
                number(b.loss_train), number(b.loss_heldout),
            ]
            for b in r.best
        ]  # fmt: skip
        columns = ["task", "seed", "target", "reached", "nodes", "edges", "loss, training", "loss, held out"]
        table(f"Best circuits of {r.model} in {r.trials} trials", columns, rows)
        typer.echo(f"run folders and sweep.json: {r.out}\nNext: gossamer verify {r.best[0].run or r.out + '/RUN'}")

    emit(r, json, text)
