"""`gossamer export WHAT --to FORM --out PATH`: a circuit as a program, or a model for another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, say


def export(
    what: Annotated[str, typer.Argument(help="A run folder; for huggingface a model.")],
    out: Annotated[Path, typer.Option(help="File (huggingface: folder) to write.")],
    to: Annotated[str, typer.Option(help="torch, onnx, python or huggingface.")] = "torch",
    mode: Annotated[
        str | None, typer.Option(help="exact (default): the ablated model; frozen: fixed thresholds and norms.")
    ] = None,
    ablation: Annotated[
        str, typer.Option(help="What is outside the circuit: gao-mean or zero-complement.")
    ] = "gao-mean",
    all_tokens: Annotated[
        bool, typer.Option("--all-tokens", help="Logits of every token, not only the answers.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Where the model is now; default: where the run found it.")] = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Write a circuit as a torch module, an ONNX graph or a readable Python file, or a model for transformers."""
    from gossamer import commands

    r = commands.export(
        what, to=to, out=out, mode=mode, model=model, ablation=ablation, all_tokens=all_tokens, device=device, say=say
    )

    def text() -> None:
        if r.mode is None:
            typer.echo(f"{r.model} for transformers: {r.out} ({r.model_numbers:,} numbers)")
            typer.echo("Next: import gossamer.models.huggingface, then AutoModelForCausalLM.from_pretrained(folder)")
            return
        typer.echo(f"{r.mode} {r.to}: {r.out} ({r.nodes} nodes, {r.edges} edges)")
        typer.echo(f"{r.numbers:,} numbers with its tables; {r.model} has {r.model_numbers:,}")
        typer.echo(
            f"logit gap against the model under {r.ablation}, {r.n_pairs} held-out pairs: off by {r.error_mean:.2g} on "
            f"average, {r.error_max:.2g} at most"
        )
        typer.echo(
            f"pairs right {r.accuracy:.1%} (ablated model {r.ablated_accuracy:.1%}), loss {r.loss:.4f} nats "
            f"({r.ablated_loss:.4f})"
        )
        if r.runtime_error is not None:
            typer.echo(f"onnxruntime against torch: logits differ by {r.runtime_error:.2g} at most")
        steps = {
            "torch": f"gossamer.models.standalone.load_standalone({r.out!r})",
            "onnx": "feed `tokens` [batch, length] and `last` [batch], int64",
            "python": f"python {r.out} TOKEN_ID...",
        }
        typer.echo(f"Next: {steps[r.to]}")

    emit(r, json, text)
