"""A Hugging Face decoder with shuffled weights, at the grain it is made from: see gossamer.models.shuffled.

Embeddings that are tied to the output stay tied. The parts found in the original are those of the copy.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from gossamer.errors import Unsupported
from gossamer.models.huggingface.blocks import Blocks
from gossamer.models.huggingface.channels import Channels, channels_of
from gossamer.models.huggingface.decoder import Decoder
from gossamer.models.shuffled import permute
from gossamer.task import Task


def shuffled_decoder(model: object, seed: int, task: Task | None) -> Decoder | Blocks | Channels:
    """task: what means at channel grain are taken over, where the model has means."""
    if isinstance(model, Blocks):
        return Blocks(_shuffled(model.decoder, seed))
    if isinstance(model, Channels):
        return channels_of(_shuffled(model.decoder, seed), None if model.reference is None else task)
    if isinstance(model, Decoder):
        return _shuffled(model, seed)
    raise Unsupported(f"shuffling {type(model).__name__}", "it is no decoder", "a Decoder, Blocks or Channels")


def _shuffled(decoder: Decoder, seed: int) -> Decoder:
    model, parts = copy.deepcopy((decoder.model, decoder.parts))
    permute((p.data for p in model.parameters() if p.ndim >= 2), seed)
    return replace(
        decoder, name=f"{decoder.name}, weights shuffled {seed}", model=model, parts=parts, source="", _held=[]
    )
