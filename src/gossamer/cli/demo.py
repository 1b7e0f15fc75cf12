"""`gossamer demo`: the main job on the shipped model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Json, emit, say, steps, table


def demo(
    out: Annotated[Path | None, typer.Option(help="Run folder to write; default runs/demo.")] = None,
    model: Annotated[str, typer.Option(help="A shipped model, a model folder or a Hub name.")] = "tiny",
    task: Annotated[str, typer.Option(help="A task, or a .jsonl or .csv file of pairs.")] = "single_double_quote",
    json: Json = False,
) -> None:
    """Find the quote circuit of the shipped model, put it on trial, and write a page about it."""
    from gossamer import commands

    with steps("learning which nodes matter") as progress:
        r = commands.demo(out=out, model=model, task=task, progress=progress, say=say)

    def text() -> None:
        rows = [
            ["the whole model", "", "", f"{r.loss_full:.3f}", f"{r.accuracy_full:.1%}"],
            ["the circuit alone", str(r.nodes), str(r.edges), f"{r.loss_circuit:.3f}", f"{r.accuracy_circuit:.1%}"],
            ["a random circuit of that size", str(r.nodes), "", f"{r.random_circuit_loss:.3f}", ""],
            ["the model without the circuit", "", "", f"{r.necessity_loss:.3f}", ""],
            ["the model without a random set of that size", "", "", f"{r.random_same_size_loss:.3f}", ""],
        ]
        if r.twin_edges is not None and r.twin_loss is not None:
            found = "the circuit of its dense twin" if r.twin_reached else "the best found in its dense twin"
            rows.append([found, str(r.twin_nodes), str(r.twin_edges), f"{r.twin_loss:.3f}", ""])
        table(f"{r.task} in {r.model}", ["what runs", "nodes", "edges", "task loss (nats)", "pairs right"], rows)
        typer.echo("A model that cannot tell the two prompts apart has a loss of at least 0.693 (ln 2).")
        if not r.reached:
            typer.echo("NOT REACHED: no circuit met the target loss; these are the numbers of the best one found.")
        typer.echo("verdicts: " + ", ".join(f"{name} {v}" for name, v in r.verdicts.items()))
        typer.echo(f"run folder: {r.run}\npage:       {r.page}  (open it in a browser)\ntook {r.seconds:.0f} s")

    emit(r, json, text)
