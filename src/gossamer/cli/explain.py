"""`gossamer explain METHOD RUN`: what the parts of a circuit are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, number, say, steps, table

app = typer.Typer(no_args_is_help=True, help="Describe the parts of a circuit.")


@app.callback()
def _group() -> None:
    pass


@app.command("binarise")
def binarise(
    run: Annotated[Path, typer.Argument(help="A run folder of discover.")],
    model: Annotated[str | None, typer.Option(help="The run's model, if it has moved.")] = None,
    steps_: Annotated[int | None, typer.Option("--steps", help="Steps of training (400).")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate in units of a node's range (0.003).")] = None,
    batch_pairs: Annotated[int | None, typer.Option(help="Pairs per step (32).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the batches and of the random draws.")] = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Replace every node by a variable of two values, and measure what that costs (Gao et al. 2025, appendix C)."""
    from gossamer import commands

    with steps("training values") as progress:
        r = commands.binarise(
            run, model=model, device=device, progress=progress, say=say, steps=steps_, lr=lr, batch_pairs=batch_pairs,
            seed=seed,
        )  # fmt: skip

    def text() -> None:
        rows = [
            [n.site, number(n.low), number(n.cut), number(n.high), number(n.loss_alone), number(n.loss_constant)]
            for n in r.nodes
        ]
        columns = ["node", "low", "cut", "high", "loss, it alone binarised", "loss, it alone at its mean"]
        table(f"{len(r.nodes)} two-valued variables (held-out task loss in nats)", columns, rows)
        rows = []
        for e in r.evidence:
            interval = f" [{e.interval[0]:.3f}, {e.interval[1]:.3f}]" if e.interval else ""
            shown = [number(e.value) + interval, *(number(n.value) for n in e.nulls)]
            rows.append([e.claim.split(",")[1].split(":")[0].strip(), *shown, e.verdict])
        columns = ["", "binarised", *(n.name for n in r.evidence[0].nulls), "verdict"]
        table("All nodes at once, on held-out pairs", columns, rows)
        typer.echo(
            f"loss {r.loss_before:.3f} -> {r.loss_after:.3f} nats, pairs right {r.accuracy_before:.1%} -> "
            f"{r.accuracy_after:.1%}\nwritten: {Path(r.run) / 'binarised.json'}"
        )

    emit(r, json, text)
