"""`gossamer explain METHOD RUN`: what the parts of a circuit are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.console import Device, Json, emit, number, say, steps, table

if TYPE_CHECKING:
    from gossamer.evidence import Evidence, Null

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
        loss, accuracy = r.evidence

        def cell(x: Evidence | Null) -> str:
            return number(x.value) + (f" [{x.interval[0]:.3f}, {x.interval[1]:.3f}]" if x.interval else "")

        rows = [["every node two-valued", cell(loss), cell(accuracy)]]
        rows += [[a.name, cell(a), cell(b)] for a, b in zip(loss.nulls, accuracy.nulls, strict=True)]
        rows += [["verdict", loss.verdict, accuracy.verdict]]
        table("All nodes at once, on held-out pairs", ["", "task loss (nats)", "pairs right"], rows)
        typer.echo(
            f"loss {r.loss_before:.3f} -> {r.loss_after:.3f} nats, pairs right {r.accuracy_before:.1%} -> "
            f"{r.accuracy_after:.1%}\nwritten: {Path(r.run) / 'binarised.json'}"
        )

    emit(r, json, text)
