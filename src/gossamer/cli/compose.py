"""`gossamer compose OPERATION RUN_A RUN_B ...`: a circuit made of others, beside random sets of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, number, say, steps, table


def compose(
    operation: Annotated[str, typer.Argument(help="union, intersection or difference (the first without the others).")],
    runs: Annotated[list[Path], typer.Argument(help="Run folders, of circuits of one model.")],
    task: Annotated[
        list[str] | None, typer.Option(help="Task or file of pairs to ask; repeatable (default: those of the runs).")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="Whose means stand in for what is outside: first (default), evaluated or all (runs' tasks)."),
    ] = None,
    value: Annotated[str | None, typer.Option(help="Ablation value; default: that of the first run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write; default runs/OPERATION-MODEL.")] = None,
    gain: Annotated[float, typer.Option(help="What a union must do more than its better part.")] = 0.1,
    model: Annotated[str | None, typer.Option(help="Where the model is now; default: where the runs found it.")] = None,
    pairs: Annotated[int, typer.Option(help="Held-out pairs of each task, at least 2.")] = 128,
    draws: Annotated[int, typer.Option(help="Random sets of each part; a verdict needs 20.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the random sets and of the bootstrap.")] = 0,
    task_seed: Annotated[int, typer.Option(help="Seed of the pairs of tasks given here.")] = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Make a circuit of others by set algebra and ask it tasks, beside random sets of its size; a run folder."""
    from gossamer import commands

    with steps("asking", "effect") as progress:
        r = commands.compose(
            operation, runs, tasks=task or (), task_seed=task_seed, rule=rule, value=value, model=model, out=out,
            pairs=pairs, draws=draws, gain=gain, seed=seed, device=device, progress=progress, say=say,
        )  # fmt: skip

    def text() -> None:
        rows = []
        for e in r.evidence:
            low, high = e.interval or (0.0, 0.0)
            part, random = e.nulls[:2]
            spread = f" [{random.interval[0]:.3f}, {random.interval[1]:.3f}]" if random.interval else ""
            name = e.name.partition("(")[2].removesuffix(")")
            own = f"{number(e.value)} [{low:.3f}, {high:.3f}]"
            rows.append([name, own, number(part.value), number(random.value) + spread, f"{e.p_value:.2g}", e.verdict])
        columns = ["circuit on task", "effect left", "part alone", "random sets of it", "p", "verdict"]
        table(f"{r.operation}: {r.nodes} nodes, {r.edges} edges; outside: {r.rule}", columns, rows)
        typer.echo(f"{r.finding}\nrun folder: {r.run}\nNext: gossamer verify {r.run}")

    emit(r, json, text)
