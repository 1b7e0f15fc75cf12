"""`gossamer grid RUN`: one circuit under every methodology."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, interruptible, number, say, steps, table


def grid(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    model: Annotated[str | None, typer.Option(help="Where the model is now; default: where the run found it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; run again with the same one to go on. Default: RUN/grid.")
    ] = None,
    value: Annotated[
        list[str] | None, typer.Option(help="Ablation value, such as mean or resample; repeatable (all).")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Held-out pairs to use.")] = 128,
    draws: Annotated[int, typer.Option(help="Random sets of the same size beside each score.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the random sets.")] = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Score a circuit under every methodology: how much of its score is how it was asked?"""
    from gossamer import commands

    with interruptible(f"finished rows are in {out or run / 'grid'}: run the same command to go on."):
        with steps("scoring", "share") as progress:
            r = commands.grid(
                run, model=model, out=out, values=value or (), pairs=pairs, draws=draws, device=device, seed=seed,
                progress=progress, say=say,
            )  # fmt: skip

    def text() -> None:
        rows = []
        for row in r.rows:
            inside = f" [{row.interval[0]:.3f}, {row.interval[1]:.3f}]" if row.interval else ""
            single = " ".join(f"{q:.2f}" for q in row.quantiles) if row.quantiles else row.why.split(":")[-1].strip()
            rows.append([
                row.asks, f"{row.expected:g}", row.granularity, row.value, row.aggregate, number(row.score) + inside,
                single, number(row.random[0] if row.random else None),
            ])  # fmt: skip
        columns = ["asks", "wanted", "what", "value", "aggregate", "score", "pairs, 5 25 50 75 95%", "random"]
        table(f"{r.task} in {r.model}: the same circuit, asked in {len(rows)} ways", columns, rows)
        typer.echo(f"{r.finding}\nfigure: {r.png}, {r.svg}\ndata: {r.data}")

    emit(r, json, text)
