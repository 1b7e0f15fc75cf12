"""Norms held at another run's scales, and attention patterns, in weight-sparse models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import planted_task, random_model

from gossamer.models import LoadedModel
from gossamer.models.kernels import linear_topk
from gossamer.subject import Attending, EdgeMasks, FreezingNorms
from gossamer.task import Encoded


@pytest.fixture(params=["none", "channels"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return random_model(position=request.param, d_pos=8 if request.param == "channels" else 0)


def pairs_of(model: LoadedModel) -> Encoded:
    return model.encode(planted_task(6).heldout)


def masks_of(model: LoadedModel, trials: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        k: (torch.rand(trials, width, generator=generator) < 0.6).float() for k, width in model.model.config.locations()
    }


def test_nothing_ablated_is_the_model_bit_for_bit(model: LoadedModel) -> None:
    batch, held = pairs_of(model), model.frozen_norms()
    ones = {k: torch.ones(width) for k, width in model.model.config.locations()}
    assert isinstance(model, FreezingNorms)
    assert isinstance(model, Attending)
    for reads in ((), ("final_resid",)):  # shared prefixes, and every position
        assert torch.equal(held.run(batch, masks=ones, reads=reads).gap, model.run(batch, reads=reads).gap)
    some = masks_of(model, 1)
    assert not torch.equal(held.run(batch, masks=some).gap, model.run(batch, masks=some).gap)


def test_trials_prefixes_and_every_position_agree(model: LoadedModel) -> None:
    model.model.double()
    batch, held = pairs_of(model), model.frozen_norms()
    masks = {k: m.double() for k, m in masks_of(model, 3).items()}
    with torch.no_grad():
        together = held.run(batch, masks=masks, value="zero").gap.view(3, -1)
        long = held.run(batch, masks=masks, value="zero", reads=("final_resid",)).gap.view(3, -1)
        for i in range(3):
            one = held.run(batch, masks={k: m[i] for k, m in masks.items()}, value="zero").gap
            assert torch.allclose(together[i], one, atol=1e-10)
    assert torch.allclose(together, long, atol=1e-10)


def test_the_scale_is_that_of_the_whole_run(model: LoadedModel) -> None:
    """Twice the residual stream at the final norm: nothing to a norm with its own scale, twice the logits held."""
    batch, held = pairs_of(model), model.frozen_norms()
    at = {"final_resid": torch.zeros(model.model.config.d_model)}
    twice = {"final_resid": 2 * model.run(batch, reads=("final_resid",)).reads["final_resid"]}
    whole = model.run(batch).gap
    own, kept = (m.run(batch, masks=at, values=twice).gap for m in (model, held))
    assert torch.allclose(own, whole, atol=1e-4)
    assert torch.allclose(kept, 2 * whole, atol=1e-4)


def test_cut_edges_and_gradients_use_the_held_scales(model: LoadedModel) -> None:
    model.model.double()
    batch, held, graph = pairs_of(model), model.frozen_norms(), model.graph()
    some = np.arange(0, graph.n_edges, 5)
    edges = np.stack([graph.src[some], graph.dst[some], graph.matrix[some]])
    kept = EdgeMasks(edges, torch.ones(len(some), dtype=torch.float64))
    assert torch.allclose(held.run(batch, edges=kept, value="zero").gap, model.run(batch).gap, atol=1e-10)
    share = torch.full((model.model.config.d_model,), 0.7, dtype=torch.float64, requires_grad=True)
    gap = held.run(batch, masks={"final_resid": share}, value="zero").gap.sum()
    (gradient,) = torch.autograd.grad(gap, share)
    assert float(gradient @ share.detach()) == pytest.approx(
        float(gap.detach()), abs=1e-9
    )  # a linear map, so its own gradient


def test_patterns_make_what_attention_writes(model: LoadedModel) -> None:
    model.model.double()
    batch, config = pairs_of(model), model.model.config
    masks = {k: m[0].double() for k, m in masks_of(model, 1).items() if k != "0.attn.resid_delta"}
    patterns = model.attention(batch, masks=masks, value="zero")
    n = batch.tokens.shape[1]
    assert patterns.shape == (config.n_layer, len(batch.last), config.n_head, n, n + 1)  # and the sink
    assert torch.allclose(patterns.sum(-1), torch.ones((), dtype=torch.float64))
    seen = model.run(batch, masks=masks, value="zero", reads=("0.attn.v", "0.attn.resid_delta")).reads
    v = seen["0.attn.v"].unflatten(-1, (config.n_head, -1)).transpose(1, 2)
    y = (patterns[0][..., :n] @ v).transpose(1, 2).flatten(2)
    out = model.model.blocks[0].attn.c_proj
    assert torch.allclose(
        linear_topk(y, out.weight, out.bias, config.kept("attn_out")), seen["0.attn.resid_delta"], atol=1e-10
    )
