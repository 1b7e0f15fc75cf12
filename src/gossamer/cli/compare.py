"""`gossamer compare RUN_A RUN_B ...`: what circuits share, and whose ablation costs which task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, interruptible, number, say, steps, table


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, of circuits of one model.")],
    along: Annotated[
        bool, typer.Option("--along", help="The runs are checkpoints of one training, in order; only overlaps.")
    ] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help="Circuits of single examples as well; takes minutes.")] = False,
    model: Annotated[str | None, typer.Option(help="Where the model is now; default: where the runs found it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; run again with the same one to go on. Default: runs/compare-MODEL.")
    ] = None,
    value: Annotated[str | None, typer.Option(help="Ablation value; default: that the circuits were found by.")] = None,
    granularity: Annotated[str, typer.Option(help="Of circuits of a decoder: edge, or node (heads, MLPs).")] = "edge",
    pairs: Annotated[int, typer.Option(help="Held-out pairs of each task, at least 2.")] = 128,
    draws: Annotated[int, typer.Option(help="Random sets beside each number; of fewer than 20 no verdict.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the random sets and of the bootstrap.")] = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Compare circuits: overlap, the cross-task matrix of ablations, and (--reuse) what single examples share."""
    from gossamer import commands

    where = f"run the same command with --out {out} to go on." if out else "with --out it would go on where it was."
    with interruptible(where), steps("ablating", "effect") as progress:
        r = commands.compare(
            runs, along=along, reuse=reuse, model=model, out=out, value=value, granularity=granularity, pairs=pairs,
            draws=draws, seed=seed, device=device, progress=progress, say=say,
        )  # fmt: skip

    def text() -> None:
        rows = [
            [
                f"{o.a}, {o.b}", o.what if o.kind == "all" else f"{o.what}: {o.kind}", f"{o.sizes[0]}, {o.sizes[1]}",
                str(o.shared), *(["empty"] if o.outcome == "empty" else [number(o.iou)]), number(o.iom),
                number(o.chance), "-" if o.p_value is None else f"{o.p_value:.2g}",
            ]
            for o in r.overlap
            if o.kind == "all" or o.kind in ("heads", "MLPs", "attention")
        ]  # fmt: skip
        table("Overlap", ["circuits", "what", "sizes", "shared", "IoU", "IoM", "chance IoU", "p"], rows)
        if r.specificity is not None:
            cells = {(c.ablated, c.on): c for c in r.specificity.cells}
            names = r.specificity.names
            rows = [
                [a, *(f"{number(c.own.share if c.own else None)} ({number(c.random)})" for b in names
                      for c in [cells[a, b]])]
                for a in names
            ]  # fmt: skip
            table("Share of the effect lost (random sets), circuit by task", ["ablated", *names], rows)
        for name, of_task in r.reuse.items():
            rows = [
                [
                    f"{u.share:.0%}", f"{u.at:.0%}", str(u.size), str(len(u.core)), number(u.reuse), f"{u.chance:.2g}",
                    number(u.necessity.share if u.necessity else None), number(u.random),
                ]
                for u in of_task
            ]  # fmt: skip
            columns = ["K", "p", "nodes", "core", "reuse", "chance", "lost without the core", "random"]
            table(f"Reuse, {name}", columns, rows)
        for note in r.notes:
            typer.echo(f"Note: {note}")
        typer.echo(f"{r.finding}\nfigure: {r.png}, {r.svg}\ndata: {r.data}, {r.evidence}")

    emit(r, json, text)
