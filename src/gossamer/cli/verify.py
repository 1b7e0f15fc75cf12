"""`gossamer claim RUN`, `gossamer verify RUN`, `gossamer verdict RUN`: the trial."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.console import Device, Json, emit, say, steps, trial

if TYPE_CHECKING:
    from gossamer.verdict import TrialVerdict

Claimed = Annotated[Path | None, typer.Option(help="claim.yaml: checks and thresholds, see `gossamer claim`.")]
Model = Annotated[str | None, typer.Option(help="Where the model is now; default: where the run found it.")]
Quick = Annotated[bool, typer.Option("--quick", help="Only the checks that take seconds.")]


def verify(
    run: Annotated[Path, typer.Argument(help="A run folder, or a circuit file (with --model and --task).")],
    claim: Claimed = None,
    quick: Quick = False,
    model: Model = None,
    task: Annotated[str | None, typer.Option(help="Of a circuit file: its task, or a file of pairs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Of a circuit file: the run folder to put it in.")] = None,
    ablation: Annotated[
        str | None,
        typer.Option(help="Edges: resample, zero, mean, position-mean, noise or optimal; default: the method's."),
    ] = None,
    granularity: Annotated[
        str | None, typer.Option(help="Edges: edge (default), node or branch (a path), what is ablated as one.")
    ] = None,
    positions: Annotated[
        str | None, typer.Option(help="Edges: all, last, or a span of the pairs, where they are ablated.")
    ] = None,
    faithfulness: Annotated[
        float | None, typer.Option(help="Edges: the faithfulness that passes; default: the run's.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="Held-out pairs to use; default: 128.")] = None,
    edges: Annotated[int | None, typer.Option(help="Of a file of scores: how many edges to keep.")] = None,
    hypothesis: Annotated[
        Path | None, typer.Option(help="What parts depend on, as YAML: causal scrubbing tries it.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of a circuit file: float32, bfloat16 or float64.")] = "float32",
    device: Device = "cpu",
    seed: Annotated[int | None, typer.Option(help="Seed of the random circuits; default: 0.")] = None,
    json: Json = False,
) -> None:
    """Put a circuit on trial: is it enough, is it needed, is it the only one, and would a random one do as well?"""
    from gossamer import commands

    with steps("running circuits", "effect") as progress:
        r = commands.verify(
            run, claim=claim, quick=quick, model=model, task=task, out=out, ablation=ablation, granularity=granularity,
            positions=positions,
            target=faithfulness, pairs=pairs, edges=edges, hypothesis=hypothesis, dtype=dtype,
            device=device, seed=seed, progress=progress, say=say,
        )  # fmt: skip

    def text() -> None:
        for note in r.notes:
            typer.echo(f"note: {note}")
        trial(r.evidence)
        _told(r.verdict)
        typer.echo(f"evidence: {Path(r.run) / 'evidence.json'}\nNext: gossamer show {r.run}")

    emit(r, json, text)


def claim(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; default: claim.yaml in the run folder.")] = None,
    quick: Quick = False,
    model: Model = None,
    json: Json = False,
) -> None:
    """Write down what is claimed of a circuit, before its trial: every check with its thresholds, to be changed."""
    from gossamer import commands

    r = commands.claim(run, out=out, quick=quick, model=model)
    emit(r, json, lambda: typer.echo(
        f"{len(r.checks)} checks claimed, sha256 {r.sha256[:12]}: {r.claim}\n"
        f"Next: change it, then gossamer verify {run} --claim {r.claim}"
    ))  # fmt: skip


def verdict(
    run: Annotated[Path, typer.Argument(help="A run folder that was verified.")],
    claim: Claimed = None,
    model: Model = None,
    json: Json = False,
) -> None:
    """What a trial's evidence says of a claim; nothing is run, and other thresholds than the claim's are told."""
    from gossamer import commands

    r = commands.verdict(run, claim=claim, model=model)

    def text() -> None:
        trial(r.evidence)
        _told(r.verdict)

    emit(r, json, text)


def _told(found: TrialVerdict) -> None:
    typer.echo("")
    typer.echo(textwrap.fill(found.summary, 110, break_long_words=False, break_on_hyphens=False))
