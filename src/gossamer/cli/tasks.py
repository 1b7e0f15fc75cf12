"""`gossamer tasks`: what there is to find circuits for, and whether a model does it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Json, emit, number, table
from gossamer.errors import BadInput

app = typer.Typer(invoke_without_command=True, help="List the tasks; with --model, how a model does on them.")


@app.callback()
def tasks(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="A shipped model, a model folder, or a Hub name.")] = None,
    json: Json = False,
) -> None:
    """List the tasks; with --model, how a model does on their held-out pairs."""
    if context.invoked_subcommand is not None:
        if model is not None or json:
            raise BadInput(f"Give --model and --json after {context.invoked_subcommand}, got them before it.")
        return
    from gossamer import commands

    r = commands.tasks(model=model)

    def text() -> None:
        scores = [[number(t.paired_accuracy), number(t.ordered_accuracy), number(t.loss_nats)] for t in r.tasks]
        columns = ["task", "what", "pairs"] + (["paired", "ordered", "loss (nats)"] if r.model else [])
        rows = [
            [t.name, t.problem or t.description, f"{t.train_pairs} + {t.heldout_pairs}", *(s if r.model else [])]
            for t, s in zip(r.tasks, scores, strict=True)
        ]
        table(f"Tasks{f' on {r.model}, held-out pairs' if r.model else ''}", columns, rows)
        if r.model:
            typer.echo("Chance: paired 0.25 for a coin, 0 for a model blind to the difference; ordered 0.5.")

    emit(r, json, text)


@app.command("check")
def check(
    pairs: Annotated[Path, typer.Argument(help="A .jsonl or .csv file: clean, counterfactual, answer, wrong_answer.")],
    model: Annotated[str, typer.Option(help="A shipped model, a model folder, or a Hub name.")] = "tiny",
    json: Json = False,
) -> None:
    """Your own pairs as a model reads them: tokens, alignment, and whether the model does them at all."""
    from gossamer import commands

    r = commands.tasks_check(pairs, model=model)

    def text() -> None:
        for c in r.checks[:3]:
            typer.echo(f"line {c.line}: {'|'.join(c.clean)!r} -> {c.answer!r}")
            typer.echo(f"        {'|'.join(c.counterfactual)!r} -> {c.wrong_answer!r}")
        bad = [c for c in r.checks if c.problems]
        for c in bad[:20]:
            typer.echo(f"line {c.line}: {'; '.join(c.problems)}")
        typer.echo(f"{r.usable} of {r.pairs} pairs can be used with {r.model}; {r.aligned} have sides of equal length.")
        if r.usable:
            typer.echo(
                f"{r.model} gets {number(r.paired_accuracy)} of pairs right (coin 0.25), orders "
                f"{number(r.ordered_accuracy)} (coin 0.5), task loss {number(r.loss_nats)} nats (blind: 0.693)."
            )

    emit(r, json, text)
    if r.usable < r.pairs:
        sys.exit(2)
