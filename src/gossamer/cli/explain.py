"""`gossamer explain METHOD RUN`: what the parts of a circuit are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gossamer.cli.console import Device, Json, Set, emit, fields, number, say, steps, table

if TYPE_CHECKING:
    from gossamer.commands.reports import HeadRoleReport, RoleScoreReport
    from gossamer.evidence import Evidence, Null

app = typer.Typer(no_args_is_help=True, help="Describe the parts of a circuit or of a model.")


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


def _strength(head: HeadRoleReport) -> tuple[float, float, float]:
    """Largest score; of equal ones the least adjusted p-value of anything about the head; then its attention."""
    scores = [head.copy_score, *([head.next_score] if head.next_score else [])]
    looks = list(head.attention.values())
    return max(x.value for x in scores), -min(x.p_adjusted for x in (*scores, *looks)), max(x.value for x in looks)


@app.command("roles")
def roles(
    model: Annotated[str, typer.Argument(help="A folder of a Hugging Face decoder, or a Hub name.")],
    task: Annotated[str, typer.Argument(help="A task (see gossamer tasks), or a .jsonl or .csv file of pairs.")],
    members: Annotated[
        str | None, typer.Option(help="Labels of the sequence in order, such as m0,m1,m2 (every m0, m1, ...).")
    ] = None,
    top: Annotated[int | None, typer.Option(help="How many of the largest logits count (5).")] = None,
    pairs: Annotated[int | None, typer.Option(help="Training pairs to use (64).")] = None,
    show: Annotated[int, typer.Option(help="How many heads to print.")] = 12,
    task_seed: Annotated[int, typer.Option(help="Seed of the task's pairs.")] = 0,
    set_: Set = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float64.")] = "float32",
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Copy and next scores, attention and logit lens of every head of a decoder (Lan et al. 2024), with nulls."""
    from gossamer import commands
    from gossamer.explain import HeadRolesConfig

    given = fields(HeadRolesConfig, set_, members=members.split(",") if members else None, top=top, pairs=pairs)
    with steps("heads", "copy score") as progress:
        r = commands.roles(
            model, task, task_seed=task_seed, dtype=dtype, device=device, progress=progress, say=say, **given
        )

    def cell(score: RoleScoreReport | None) -> str:
        return "-" if score is None else f"{score.value:.2f} ({score.null:.2f}, p {score.p_adjusted:.3f})"

    def text() -> None:
        strongest = sorted(r.heads, key=_strength, reverse=True)
        rows = []
        for head in strongest[:show]:
            label, looks = max(head.attention.items(), key=lambda item: item[1].value)
            rows.append([head.head, cell(head.next_score), cell(head.copy_score), f"{label} {cell(looks)}"])
        table(
            f"{len(rows)} of {len(r.heads)} heads, largest score first, of equal ones the least p-value; in brackets "
            "the null and the adjusted p-value",
            ["head", "next score", "copy score", "looks most at"], rows,
        )  # fmt: skip
        about: Any = r.record["details"]
        typer.echo(
            f"members: {', '.join(about['members']) or 'none, all labels'}; {about['samples']} samples of one token in "
            f"{about['pairs']} prompts, {about['left_out']} pairs left out"
        )
        rows = [
            [point.after, f"{point.gap:+.3f}", f"{point.null:+.3f}", f"{point.right:.1%}"] for point in r.lens
        ]  # fmt: skip
        table("Logit lens at the last token", ["after", "right minus wrong", "answers of other prompts", "right"], rows)

    emit(r, json, text)
