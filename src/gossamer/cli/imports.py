"""`gossamer import FORMAT FILE`: circuits that other tools wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, number, say, table

app = typer.Typer(no_args_is_help=True, help="Read circuits that other tools wrote.")


@app.callback()
def _group() -> None:
    pass


@app.command("openai-viz")
def openai_viz(
    file: Annotated[Path, typer.Argument(help="A viz_data.pt of the weight-sparse paper's authors.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    model: Annotated[
        str | None, typer.Option(help="The circuit's model: a folder (theirs or ours), best one with means.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="A task or a file of pairs to ask instead of the file's.")] = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(help="Right answer of the first half of the file's prompts; again for the second half."),
    ] = None,
    target_loss: Annotated[
        float, typer.Option(help="Task loss that verify tries the circuit against, in nats.")
    ] = 0.15,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Turn a released circuit into a run folder, and derive its losses again where the model is at hand."""
    from gossamer import commands

    r = commands.import_openai_viz(
        file, out=out, model=model, task=task, answers=answer or (), target_loss=target_loss, device=device, say=say
    )

    def text() -> None:
        table("Nodes", ["location", "kept"], [[k, str(n)] for k, n in r.nodes_by_location.items()])
        table("Edges", ["matrix", "edges"], [[k, str(n)] for k, n in r.edges_by_matrix.items()])
        d = r.derived

        def row(name: str, stored: float | None, found: float | None) -> list[str]:
            difference = "-" if stored is None or found is None else f"{found - stored:+.4f}"
            return [name, number(stored, 4), number(found, 4), difference]

        rows = [
            row("whole model", r.stored_loss, d.loss if d else None),
            row("circuit", r.stored_circuit_loss, d.circuit_loss if d else None),
        ]
        columns = ["task loss (nats)", "stored, halved", f"derived on {d.prompts}" if d else "derived", "difference"]
        table("Losses", columns, rows)
        typer.echo(f"{r.nodes} of {r.total_nodes} nodes, {r.edges} edges, {r.biases} biases shown; {r.out}")
        if r.shown_not_weights is not None:
            typer.echo(
                f"connections shown that are no weights of the model: {r.shown_not_weights}; weights between kept "
                f"nodes that are not shown: {r.weights_not_shown}"
            )
        if d and d.node_loss_difference is not None:
            typer.echo(
                f"losses with one node ablated as well: {d.node_loss_difference:.3g} nats from stored on average"
            )
        for name, largest in r.activation_differences.items():
            typer.echo(f"largest difference of the stored activations from the {name}'s: {largest:.3g}")
        if r.model:
            typer.echo(f"means: {r.means or 'none'}")
        if r.prompts_changed:
            typer.echo(f"{r.prompts_changed} prompts are other tokens in the run than in the file")
        for what in r.missing:
            typer.echo(f"not made: {what}")
        if r.run:
            typer.echo(f"Next: gossamer verify {r.out}")

    emit(r, json, text)
