"""Where heads look: the attention pattern of every head, from each prompt's last token."""

from __future__ import annotations

import torch
from torch import Tensor

from gossamer.errors import Unsupported
from gossamer.models.huggingface.decoder import Decoder
from gossamer.task import Encoded


@torch.no_grad()
def attention_from_last(decoder: Decoder, batch: Encoded) -> Tensor:
    """Attention probabilities from each row's last token, float32 [layers, rows, heads, pos]; 0 beyond that token.

    The model runs once, on all rows. Unsupported where its attention does not return what it computes (anything but
    `attn_implementation="eager"`, which `load_decoder` asks for).
    """
    tokens = batch.tokens.to(decoder.device)
    found = decoder.model(tokens, use_cache=False, output_attentions=True).attentions
    if not found or any(layer is None for layer in found):
        raise Unsupported(
            f"attention patterns of {decoder.name}", "its attention does not return them",
            'a model loaded with attn_implementation="eager"',
        )  # fmt: skip
    rows = torch.arange(len(tokens), device=decoder.device)
    last = batch.last.to(decoder.device)
    return torch.stack([layer[rows, :, last].float() for layer in found]).cpu()
