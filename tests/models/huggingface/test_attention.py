"""Attention from the last token: shares that add up whatever a prompt is padded with, uniform for queries of zero."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from zoo import DECODERS, decoder

from gossamer.errors import Unsupported
from gossamer.models.huggingface import decoder_of
from gossamer.models.huggingface.attention import attention_from_last
from gossamer.task import Encoded


def prompts(tokens: torch.Tensor, *lengths: int) -> Encoded:
    answers = torch.full((len(lengths),), 3)
    return Encoded(tokens, torch.tensor(lengths) - 1, answers, answers + 1)


@pytest.mark.parametrize("name", DECODERS)
def test_shares_add_up_and_padding_changes_nothing(name: str) -> None:
    d = decoder_of(decoder(name), None, name)
    tokens = torch.randint(2, 64, (2, 7), generator=torch.Generator().manual_seed(0))
    found = attention_from_last(d, prompts(tokens, 7, 5))
    assert found.shape == (2, 2, d.shape.n_heads, 7)
    assert torch.allclose(found.sum(-1), torch.ones(()), atol=1e-5)
    assert float(found[:, 1, :, 5:].abs().max()) == 0
    alone = attention_from_last(d, prompts(tokens[1:, :5], 5))
    assert torch.allclose(found[:, 1:, :, :5], alone, atol=1e-5)
    assert not torch.allclose(found[:, 0], found[:, 0].mean(-1, keepdim=True), atol=1e-3)


def test_queries_of_zero_attend_to_every_token_alike() -> None:
    d = decoder_of(decoder("llama"), None, "llama")
    with torch.no_grad():
        for layer in d.parts.layers:
            layer.q.linear.weight.zero_()
    found = attention_from_last(d, prompts(torch.arange(2, 8)[None], 6))
    assert torch.allclose(found, torch.full((), 1 / 6), atol=1e-6)


def test_a_model_that_keeps_its_attention_to_itself_is_refused() -> None:
    kind, config = DECODERS["llama"]
    hidden = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config), attn_implementation="sdpa")
    d = decoder_of(hidden, None, "fused")
    with pytest.raises(Unsupported, match="attention patterns of fused"):
        attention_from_last(d, prompts(torch.arange(2, 8)[None], 6))
