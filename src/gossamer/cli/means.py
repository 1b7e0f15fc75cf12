"""`gossamer means`: reference means for a model that came without."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.console import Device, Json, emit, say


def means(
    model: Annotated[str, typer.Argument(help="A model folder (ours or the authors' layout) or a Hub name.")],
    out: Annotated[Path, typer.Option(help="Model folder to write, in our layout.")],
    corpus: Annotated[Path | None, typer.Option(help="Folder of text like the model's pretraining text.")] = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Give a model the reference means of a text, so that it can be pruned; default text: Python source found here."""
    from gossamer import commands

    r = commands.means(model, out, corpus=corpus, device=device, say=say)
    emit(r, json, lambda: typer.echo(f"{r.model}: means over {r.tokens:,} tokens of {r.text}\n"
                                     f"Next: gossamer tasks --model {r.model}"))  # fmt: skip
