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
        if r.model is None:
            rows = [[t.name, t.description, f"{t.train_pairs} + {t.heldout_pairs}"] for t in r.tasks]
            table("Tasks", ["task", "what", "pairs"], rows)
            return
        columns = ["task", "n", "paired", "calibrated", "ordered", "loss (nats)", "solved, or why not"]
        rows = []
        for t in r.tasks:
            scores = (t.paired_accuracy, t.calibrated_accuracy, t.ordered_accuracy, t.loss_nats)
            why = "solved" if t.solved else t.problem
            if t.left_out:
                why += f" (left out: {', '.join(f'{n} {split}' for split, n in t.left_out.items())} pairs)"
            rows.append([t.name, str(t.heldout_pairs), *map(number, scores), why])
            rows += [[f"  {name}", "", "", number(value), "", "", ""] for name, value in t.ood.items()]
        table(f"Tasks on {r.model}, held-out pairs", columns, rows)
        solved = sum(t.solved or False for t in r.tasks)
        typer.echo(
            f"{solved} of {len(r.tasks)} solved (calibrated paired accuracy of 0.9 or more). Chance: paired 0.25 for a "
            "coin, 0 for a model blind to the difference; ordered 0.5.\nCalibrated: after one scale and shift of the "
            "logit gap, fitted on training pairs. Indented: held-out pairs unlike the training pairs."
        )

    emit(r, json, text)


@app.command("check")
def check(
    pairs: Annotated[
        Path,
        typer.Argument(help="A .jsonl or .csv file: clean, counterfactual, answer, wrong_answer; or a peer's prompts."),
    ],
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
            for name, (one, other) in c.spans.items():
                typer.echo(f"        span {name}: {'|'.join(one)!r}, {'|'.join(other)!r}")
            if c.answer_tokens:
                typer.echo(f"        answers: {'|'.join(c.answer_tokens)!r}, {'|'.join(c.wrong_answer_tokens)!r}")
        bad = [c for c in r.checks if c.problems]
        for c in bad[:20]:
            typer.echo(f"line {c.line}: {'; '.join(c.problems)}")
        typer.echo(f"{r.usable} of {r.pairs} pairs can be used with {r.model}; {r.aligned} have sides of equal length.")
        if several := sum(bool(c.answer_tokens) and not c.problems for c in r.checks):
            typer.echo(f"{several} have answers of several tokens: --metric sequence-log-probability in discover.")
        if r.usable:
            typer.echo(
                f"{r.model} gets {number(r.paired_accuracy)} of pairs right (coin 0.25), orders "
                f"{number(r.ordered_accuracy)} (coin 0.5), task loss {number(r.loss_nats)} nats (blind: 0.693)."
            )

    emit(r, json, text)
    if r.usable < r.pairs:
        sys.exit(2)
