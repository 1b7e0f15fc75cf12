"""`gossamer discover METHOD MODEL TASK`: a circuit, in a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, ModelName, Set, emit, fields, say, steps, table

app = typer.Typer(no_args_is_help=True, help="Find the circuit of a task.")


@app.callback()
def _group() -> None:
    pass


@app.command("prune")
def prune(
    model: ModelName,
    task: Annotated[str, typer.Argument(help="A task (see gossamer tasks), or a .jsonl or .csv file of pairs.")],
    out: Annotated[Path | None, typer.Option(help="Run folder to write; default runs/TASK-MODEL.")] = None,
    target_loss: Annotated[float | None, typer.Option(help="Task loss the circuit must reach, in nats (0.15).")] = None,
    k_coef: Annotated[
        list[float] | None, typer.Option(help="Node penalty; repeat it to search several at once.")
    ] = None,
    steps_: Annotated[int | None, typer.Option("--steps", help="Steps of mask training.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of the masks.")] = None,
    batch_pairs: Annotated[int | None, typer.Option(help="Pairs per step.")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Fit scale and shift of the circuit's logit.")] = False,
    tied: Annotated[bool, typer.Option("--tied", help="One mask for a query channel and its key channel.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the masks and of the batches.")] = None,
    task_seed: Annotated[int, typer.Option(help="Seed of the task's pairs.")] = 0,
    set_: Set = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Learn a mask over all nodes and cut it at the target loss (Gao et al. 2025)."""
    from gossamer import commands
    from gossamer.discover import PruneConfig

    search = fields(
        PruneConfig, set_, target_loss=target_loss, k_coef=k_coef or None, steps=steps_, lr=lr, batch_pairs=batch_pairs,
        calibrate=calibrate, tied=tied, seed=seed,
    )  # fmt: skip
    with steps("learning masks") as progress:
        r = commands.prune(
            model, task, out=out, device=device, task_seed=task_seed, progress=progress, say=say, **search,
        )  # fmt: skip

    def text() -> None:
        rows = [
            [
                f"{t['k_coef']:g}",
                "yes" if t["reached"] else "no",
                str(t["nodes"]),
                str(t["edges"]),
                f"{t['loss_nats']:.3f}",
            ]
            for t in r.trials
        ]
        table("Masks tried (training split)", ["node penalty", "reached", "nodes", "edges", "task loss (nats)"], rows)
        if r.reached:
            typer.echo(f"{r.nodes} nodes and {r.edges} edges do {r.task}: held-out loss {r.loss_heldout:.3f} nats,")
        else:
            typer.echo(
                f"NOT REACHED: no circuit has a loss of {r.target_loss:g} nats; the best found has {r.nodes} nodes, "
                f"{r.edges} edges and a loss of {r.loss_train:.3f} (held out {r.loss_heldout:.3f}),"
            )
        typer.echo(
            f"pairs right {r.accuracy_circuit:.1%} (whole model: {r.loss_full:.3f} nats, {r.accuracy_full:.1%}).\n"
            f"run folder: {r.run}\nNext: gossamer verify {r.run}"
        )

    emit(r, json, text)
