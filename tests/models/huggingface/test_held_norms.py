"""Norms held at another run's scales, and what ablated runs show, in Hugging Face decoders."""

from __future__ import annotations

import pytest
import torch
from taught import tokenizer
from torch import Tensor
from zoo import decoder

from gossamer.errors import Unsupported
from gossamer.models.huggingface import Blocks, Decoder, channels_of, decoder_of
from gossamer.models.huggingface.attention import attention_from_last
from gossamer.models.huggingface.decoder import _Pass
from gossamer.models.huggingface.norms import forms_of
from gossamer.models.shuffled import weight_shuffled
from gossamer.subject import Attending, FreezingNorms, Watched
from gossamer.task import Encoded

# layer norms, flattened ones, norms after sublayers, norms of queries and keys, parallel sublayers
FAMILIES = ("gpt2", "opt", "gemma2", "qwen3", "falcon")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Decoder:
    return decoder_of(decoder(request.param), tokenizer(), request.param)


@pytest.fixture(scope="module")
def batch() -> Encoded:
    tokens = torch.randint(2, 64, (6, 7), generator=torch.Generator().manual_seed(0))
    return Encoded(tokens, torch.tensor([6, 6, 5, 5, 3, 3]), torch.full((6,), 3), torch.full((6,), 5))


def some_edges(model: Decoder | Blocks) -> Tensor:
    return (torch.rand(model.graph().n_edges, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def test_held_norms_change_nothing_in_the_whole_model(model: Decoder, batch: Encoded) -> None:
    held, alpha = model.frozen_norms(), some_edges(model)
    writes, logits = model.writes(batch)
    assert isinstance(model, FreezingNorms)
    assert torch.allclose(held.patched(batch, torch.zeros_like(alpha), writes), logits, atol=2e-6)
    assert torch.allclose(held.patched(batch, alpha, writes), logits, atol=2e-6)  # replaced by what it is
    assert torch.allclose(held.watched(batch, alpha, writes)[0], writes, atol=1e-5)
    other = model.patched(batch, alpha, torch.zeros_like(writes))
    assert not torch.allclose(held.patched(batch, alpha, torch.zeros_like(writes)), other, atol=0.05)


def test_shuffled_weights_hold_their_own_norms(model: Decoder, batch: Encoded) -> None:
    held, alpha = model.frozen_norms(), some_edges(model)
    nothing = torch.zeros_like(model.writes(batch)[0])
    held.patched(batch, alpha, nothing)
    found = weight_shuffled(held, 0).patched(batch, alpha, nothing)
    assert torch.equal(found, weight_shuffled(model, 0).frozen_norms().patched(batch, alpha, nothing))


def test_only_norms_with_their_own_scale_forget_a_doubled_residual_stream(batch: Encoded) -> None:
    model = decoder_of(decoder("llama"), tokenizer(), "llama")
    writes, logits = model.writes(batch)
    every = torch.ones(model.graph().n_edges)
    to_logits = torch.from_numpy(model.graph().matrix == 4).float()
    assert torch.allclose(model.patched(batch, every, 2 * writes), logits, atol=1e-3)
    moved = model.frozen_norms().patched(batch, to_logits, 2 * writes)
    assert torch.allclose(moved, 2 * logits, atol=1e-4)  # into the logits alone


def test_channels_hold_their_norms_too(model: Decoder, batch: Encoded) -> None:
    channels = channels_of(model)
    held, generator = channels.frozen_norms(), torch.Generator().manual_seed(2)
    masks = {k: (torch.rand(width, generator=generator) < 0.6).float() for k, width in channels.layout.locations}
    both = {k: torch.stack([m, torch.ones_like(m)]) for k, m in masks.items()}
    with torch.no_grad():
        some, whole = held.run(batch, masks=both, value="zero").gap.view(2, -1)
        assert torch.allclose(whole, channels.run(batch).gap, atol=2e-6)
        assert torch.allclose(some, held.run(batch, masks=masks, value="zero").gap, atol=1e-5)
        assert not torch.allclose(some, channels.run(batch, masks=masks, value="zero").gap, atol=0.01)


def test_patterns_are_the_model_s_own(model: Decoder, batch: Encoded) -> None:
    channels, alpha = channels_of(model), some_edges(model)
    assert isinstance(channels, Attending)
    assert isinstance(model, Watched)
    writes, _ = model.writes(batch)
    _, plain = model.watched(batch, torch.zeros_like(alpha), writes)
    rows = torch.arange(len(batch.last))
    at_last = torch.stack([layer[rows, :, batch.last] for layer in plain])
    assert torch.allclose(at_last, attention_from_last(model, batch), atol=1e-6)
    assert torch.allclose(channels.attention(batch), plain, atol=1e-6)
    wrote, ablated = model.watched(batch, alpha, torch.zeros_like(writes))
    state = _Pass(last=batch.last, alpha=model._table(alpha), reference=torch.zeros_like(writes))
    with torch.no_grad():
        model._forward(batch.tokens, state)
    assert torch.equal(wrote, torch.cat(state.writes))
    assert not torch.allclose(ablated, plain, atol=1e-3)


def test_blocks_are_watched_as_their_heads(model: Decoder, batch: Encoded) -> None:
    blocks = Blocks(model)
    writes, logits = blocks.writes(batch)
    alpha = some_edges(blocks)
    wrote, patterns = blocks.watched(batch, torch.zeros_like(alpha), writes)
    assert torch.allclose(wrote, writes, atol=1e-5)
    assert patterns.shape[:3] == (2, 6, 4)
    assert torch.allclose(blocks.frozen_norms().patched(batch, alpha * 0, writes), logits, atol=2e-6)


def test_what_cannot_be_held_is_refused() -> None:
    model = decoder_of(decoder("llama"), tokenizer(), "llama")
    two = torch.tensor([2, 2])
    held, pairs = model.frozen_norms(), Encoded(torch.tensor([[3, 4, 5], [3, 4, 6]]), two, two, two + 1)
    reference = model.writes(pairs)[0]
    for call in (held.ablations, held.removals):
        with pytest.raises(Unsupported, match="norms held"):
            call(pairs, reference)
    with pytest.raises(Unsupported, match="norms held"):
        held.edge_gradient(pairs, reference, lambda z: z.sum())
    norm = model.parts.final_norm
    norm.forward = lambda x: x.tanh()  # type: ignore[method-assign]
    with pytest.raises(Unsupported, match="holding the norm LlamaRMSNorm"):
        forms_of(model.model)
