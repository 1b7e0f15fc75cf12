"""A shuffled model has the same numbers in other places, its own means, and is another model."""

from __future__ import annotations

import pytest
import torch
from taught import she_he, taught

from gossamer.errors import BadInput, Unsupported
from gossamer.models import LoadedModel
from gossamer.models.compiled import PROGRAMS
from gossamer.models.huggingface import Blocks, Channels, channels_of
from gossamer.models.loaded import model_sha256
from gossamer.models.shuffled import weight_shuffled
from gossamer.models.sparse import SparseTransformer


def sorted_entries(t: torch.Tensor) -> torch.Tensor:
    return t.detach().flatten().sort().values


def parts(model: SparseTransformer) -> dict[str, torch.Tensor]:
    found = {}
    for name, p in model.named_parameters():
        pieces = p.chunk(3) if name.endswith("c_attn.weight") else (p,)
        found |= {f"{name} {i}": piece for i, piece in enumerate(pieces)}
    return found


def test_every_matrix_keeps_its_entries_and_nothing_else_moves(small: LoadedModel) -> None:
    before = model_sha256(small.model)
    again = weight_shuffled(small, 1)
    assert model_sha256(small.model) == before
    own, other = parts(small.model), parts(again.model)
    for name, t in own.items():
        assert torch.equal(sorted_entries(t), sorted_entries(other[name]))
        assert torch.equal(t, other[name]) == (t.ndim < 2)
    assert again.graph().n_edges == small.graph().n_edges
    counts = [torch.bincount(torch.from_numpy(m.graph().matrix)) for m in (small, again)]
    assert torch.equal(*counts)
    hashes = {small.hashes(), again.hashes(), weight_shuffled(small, 2).hashes()}
    assert len({h[0] for h in hashes}) == len({h[1] for h in hashes}) == 3
    assert weight_shuffled(small, 1).hashes() == again.hashes()


def test_means_are_those_of_the_excerpt(small: LoadedModel) -> None:
    again = weight_shuffled(small, 0)
    assert again.reference is not None
    assert small.reference is not None
    seen: dict[str, torch.Tensor] = {}

    def note(location: str, x: torch.Tensor) -> torch.Tensor:
        seen[location] = x.double().mean((0, 1))
        return x

    with torch.no_grad():
        again.model.hidden(again.reference.excerpt, note)
    assert again.reference.n_tokens == again.reference.excerpt.numel()
    for location, mean in again.reference.means.items():
        assert torch.allclose(mean.double(), seen[location], atol=1e-6)
    bare = LoadedModel(name="bare", model=small.model, tokenizer=small.tokenizer, reference=None, record={})
    assert weight_shuffled(bare, 0).reference is None


def test_a_decoder_forgets_its_task_at_every_grain() -> None:
    model, task = taught(), she_he()
    batch, before = model.encode(task.heldout), model.hashes()
    again = weight_shuffled(model, 0)
    for name, p in model.model.named_parameters():
        q = again.model.get_parameter(name)
        assert torch.equal(sorted_entries(p), sorted_entries(q))
        assert torch.equal(p, q) == (p.ndim < 2)
    fresh = type(model)(name="", model=model.model, tokenizer=model.tokenizer, parts=model.parts)
    assert fresh.hashes() == before != again.hashes()
    plain = again.model(batch.tokens[:, : int(batch.last[0]) + 1], use_cache=False).logits[:, -1]
    assert torch.allclose(again.writes(batch)[1], plain, atol=1e-5)  # its parts are its own, not the original's
    right = [(m.writes(batch)[1].argmax(1) == batch.answer).float().mean() for m in (model, again)]
    assert right[0] == 1
    assert right[1] < 0.6
    blocks = weight_shuffled(Blocks(model), 0)
    assert isinstance(blocks, Blocks)
    assert blocks.hashes() == again.hashes()


def test_a_decoder_s_channels_have_means_of_their_own() -> None:
    task, model = she_he(), channels_of(taught(), she_he())
    again = weight_shuffled(model, 0, task=task)
    assert isinstance(again, Channels)
    assert again.reference is not None
    wanted = channels_of(weight_shuffled(taught(), 0), task)
    assert again.hashes() == wanted.hashes()
    assert again.hashes()[1] != model.hashes()[1]
    with pytest.raises(BadInput, match="Expected a task to take the means of taught over"):
        weight_shuffled(model, 0)
    assert weight_shuffled(channels_of(taught()), 0).reference is None


def test_compiled_models_shuffle_as_before_and_others_are_refused() -> None:
    p = next(iter(PROGRAMS.values()))(n=2)
    assert weight_shuffled(p.model, 3).hashes() == p.model.shuffled(3).hashes()
    with pytest.raises(Unsupported, match="shuffling str"):
        weight_shuffled("tiny", 0)
