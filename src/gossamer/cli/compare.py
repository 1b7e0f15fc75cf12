"""`gossamer compare RUN_A RUN_B ...`: what circuits share, and whose ablation costs which task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.console import Device, Json, emit, interruptible, number, say, steps, table

if TYPE_CHECKING:
    from gossamer.evidence import Evidence


def compare(
    runs: Annotated[list[str], typer.Argument(help="Run folders, of circuits of one model; or models.")],
    along: Annotated[
        bool, typer.Option("--along", help="Checkpoints of one training, in order: overlaps, or of models similarity.")
    ] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help="Circuits of single examples as well; takes minutes.")] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="What circuits of several tasks share, kept and ablated alone, too.")
    ] = False,
    floor: Annotated[float, typer.Option(help="With --shared: share of the effect that must be left.")] = 0.8,
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
    """Compare circuits (overlap, whose ablation costs which task) or models (similarity of their weights)."""
    from gossamer import commands

    where = f"run the same command with --out {out} to go on." if out else "with --out it would go on where it was."
    with interruptible(where), steps("comparing", "value") as progress:
        r = commands.compare(
            runs, along=along, reuse=reuse, shared=shared, model=model, out=out, value=value, granularity=granularity,
            floor=floor, pairs=pairs, draws=draws, seed=seed, device=device, progress=progress, say=say,
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
        if rows:
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
        more = [*r.similarity, *r.stability, *((*r.shared.cross, *r.shared.joint) if r.shared else ())]
        if more:
            table("More", ["what", "value", "unit", "null", "p", "verdict"], [_row(e) for e in more])
        if r.shared:
            typer.echo(f"Shared by all: {', '.join(r.shared.shared[:40]) or 'nothing'}")
        for note in r.notes:
            typer.echo(f"Note: {note}")
        typer.echo(f"{r.finding}\nfigure: {r.png}, {r.svg}\ndata: {r.data}, {r.evidence}")

    emit(r, json, text)


def _row(e: Evidence) -> list[str]:
    spread = f" [{e.interval[0]:.3f}, {e.interval[1]:.3f}]" if e.interval else ""
    null = next((n for n in e.nulls if n.value is not None), None)
    beside = "-" if null is None else number(null.value)
    return [
        e.name,
        number(e.value) + spread,
        e.unit,
        beside,
        "-" if e.p_value is None else f"{e.p_value:.2g}",
        e.verdict,
    ]
