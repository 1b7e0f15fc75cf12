"""`gossamer doctor MODEL`: can circuits be found in this model, on this machine?"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, ModelName, emit, say, steps, table


def doctor(
    model: ModelName,
    task: Annotated[str | None, typer.Option(help="A task or a file of pairs; default: random tokens.")] = None,
    device: Device = "cpu",
    dtype: Annotated[str, typer.Option(help="What to load it in: float32, bfloat16 or float64.")] = "float32",
    pairs: Annotated[int, typer.Option(help="How many pairs of prompts.")] = 4,
    tokens: Annotated[int, typer.Option(help="Tokens of a random prompt.")] = 12,
    edges: Annotated[int, typer.Option(help="How many single edges (or channels) to try.")] = 25,
    seed: Annotated[int, typer.Option(help="Seed of the prompts and the edges.")] = 0,
    json: Json = False,
) -> None:
    """Check a model on this machine: do its parts add up, are hooks where they should be, do devices agree?"""
    from gossamer import commands

    with steps("examining", "value") as progress:
        r = commands.doctor(
            model, task=task, device=device, dtype=dtype, pairs=pairs, tokens=tokens, edges=edges, seed=seed,
            progress=progress, say=say,
        )  # fmt: skip

    def text() -> None:
        rows = []
        for e in r.evidence:
            held = e.threshold.removeprefix("fails above ").split(":")[0] if "above" in e.threshold else "-"
            null = e.nulls[0].value if e.nulls else None
            rows.append([e.claim.split(":")[0], short(e.value), held, short(null), e.unit, e.verdict])
        columns = ["check", "found", "held to", "control", "unit", "verdict"]
        table(f"{r.model} on {r.device}, {r.prompts}", columns, rows)
        for e in r.evidence:
            if e.verdict != "pass":
                typer.echo(f"{e.verdict}: {e.claim}" + (f" ({e.note})" if e.note else ""))
        failed = sum(e.verdict == "fail" for e in r.evidence)
        typer.echo(f"{failed} of {len(r.evidence)} checks failed, {r.seconds:.0f} s; --json has why each tolerance.")

    emit(r, json, text)
    if not r.passed:
        sys.exit(1)


def short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
