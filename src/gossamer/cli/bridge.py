"""`gossamer bridge`: join a sparse and a dense model, and act on the dense one through it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, Set, emit, fields, interruptible, number, say, steps, table

app = typer.Typer(no_args_is_help=True, help="Bridges between a sparse and a dense model of equal depth.")

Folder = Annotated[Path, typer.Argument(metavar="BRIDGE", help="A bridge folder.")]
Dense = Annotated[str | None, typer.Option(help="The dense model; default: the one the bridge was trained with.")]


@app.command("train")
def train(
    sparse: Annotated[str, typer.Argument(help="The sparse model: a shipped one (tiny), a folder, or a Hub name.")],
    dense: Annotated[str, typer.Argument(help="The dense model, of equal depth and with the same tokenizer.")],
    out: Annotated[Path, typer.Option(help="Bridge folder to write; work goes to OUT.training.")] = Path(
        "models/bridge"
    ),
    corpus: Annotated[Path | None, typer.Option(help="Folder of text; default: this machine's Python source.")] = None,
    data: Annotated[Path | None, typer.Option(help="OUT.training of a run with the same tokenizer: its text.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to train on.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of the sparse model.")] = None,
    bridge_lr: Annotated[float | None, typer.Option(help="Peak learning rate of the bridge.")] = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Leave the sparse model as it is.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the text's order and split.")] = None,
    set_: Set = None,
    device: Device = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.training.")] = False,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    json: Json = False,
) -> None:
    """Train encoders and decoders at every sublayer input, jointly with the sparse model."""
    from gossamer import commands
    from gossamer.train.bridge import BridgeConfig

    recipe = fields(
        BridgeConfig, set_, tokens=tokens, batch_size=batch_size, lr=lr, bridge_lr=bridge_lr, seed=seed,
    )  # fmt: skip
    if frozen:
        recipe["train_sparse"] = False
    with interruptible(f"the last checkpoint is in {out}.training: run the same command with --resume."):
        with steps("training the bridge") as progress:
            r = commands.bridge_train(
                sparse, dense, out, corpus=corpus, data=data, device=device, threads=threads, resume=resume,
                checkpoint_every=checkpoint_every, progress=progress, say=say, **recipe,
            )  # fmt: skip

    def text() -> None:
        typer.echo(
            f"{r.bridge}: {r.bytes / 1024:.0f} KiB, {r.steps:,} steps, {r.seconds / 60:.1f} minutes. Validation loss "
            f"of the sparse model {r.loss_after:.3f} nats per token (before {r.loss_before:.3f}, dense "
            f"{r.loss_dense:.3f}); it is the model {r.sparse_model}.\nNext: gossamer bridge report {r.bridge}"
        )

    emit(r, json, text)


@app.command("report")
def report(
    bridge: Folder,
    dense: Dense = None,
    sparse: Annotated[
        str | None, typer.Option(help="The sparse model as it was before; default: its old place.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A .training folder with text; default: that of the run.")] = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Per site: NMSE both ways beside least squares, KL of single switches beside mean-ablated sites."""
    from gossamer import commands

    r = commands.bridge_report(bridge, dense=dense, sparse=sparse, data=data, device=device, say=say)

    def text() -> None:
        errors, kl = [], []
        for s in r.sites:
            errors.append([
                str(s.site), s.before, number(s.nmse_to_sparse), number(s.least_squares_to_sparse),
                number(s.nmse_to_dense), number(s.least_squares_to_dense),
            ])  # fmt: skip
            kl.append([
                str(s.site), s.before, number(s.kl_to_sparse), number(s.ablated_sparse), number(s.kl_to_dense),
                number(s.ablated_dense),
            ])  # fmt: skip
        columns = ["site", "before", "dense to sparse", "least squares", "sparse to dense", "least squares"]
        table(f"Error over variance (NMSE), {r.tokens:,} validation tokens", columns, errors)
        columns = ["site", "before", "dense to sparse", "mean-ablated", "sparse to dense", "mean-ablated"]
        table(f"KL(dense || switched), nats per token, {r.kl_tokens:,} tokens", columns, kl)
        typer.echo(
            f"KL(dense || sparse) without a switch: {r.kl_models:.3f}. Validation loss of the sparse model "
            f"{r.loss_after:.3f}, before {r.loss_before:.3f}, dense {r.loss_dense:.3f}."
        )

    emit(r, json, text)


@app.command("perturb")
def perturb(
    bridge: Folder,
    task: Annotated[str, typer.Argument(help="A task (see gossamer tasks), or a .jsonl or .csv file of pairs.")],
    node: Annotated[
        list[str] | None, typer.Option(help="A node of the sparse model, e.g. 1.attn.v:10; repeatable.")
    ] = None,
    strongest: Annotated[
        int, typer.Option(help="Without --node: so many nodes that move the sparse model's own answer most.")
    ] = 1,
    among: Annotated[
        str | None, typer.Option(help="Without --node: only nodes of this location, e.g. 1.attn.act_in.")
    ] = None,
    rotations: Annotated[int, typer.Option(help="Random rotations of the same change to compare with.")] = 99,
    dense: Dense = None,
    seed: Annotated[int, typer.Option(help="Seed of the random rotations and of the bootstrap.")] = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Push the dense model along nodes of the sparse one: its answers over strengths 0 to 1."""
    from gossamer import commands

    with steps("pushing") as progress:
        r = commands.bridge_perturb(
            bridge, task, nodes=node or (), strongest=strongest, among=among, rotations=rotations, dense=dense,
            seed=seed, device=device, progress=progress, say=say,
        )  # fmt: skip

    def text() -> None:
        rows = [
            [f"{p.strength:g}", number(p.probability), _with(p.gap, p.interval), _with(p.random, p.random_quantiles)]
            for p in r.curve
        ]
        columns = [
            "strength",
            "probability of the other answer",
            "logit gap, nats",
            "gap, random rotations: mean [95% of draws]",
        ]
        table(f"{r.task}: the dense model pushed along {', '.join(r.nodes)}", columns, rows)
        e = r.evidence
        typer.echo(f"{e.verdict}: moved by {_with(e.value or 0, e.interval or (0, 0))} nats; {e.threshold}.\n{e.note}")
        for null in e.nulls:
            typer.echo(f"  {null.name}: {number(null.value)}")

    emit(r, json, text)


def _with(value: float, interval: tuple[float, float]) -> str:
    return f"{number(value)} [{number(interval[0])}, {number(interval[1])}]"
