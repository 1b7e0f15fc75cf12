"""Attribution patching: the slope of exact patching, and two planted nodes that it misses until it is mended."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from patching_helpers import BY_HAND, by_hand, difference, gap, made, number_pairs

from gossamer.discover import (
    ActivationPatchingConfig,
    AttributionPatchingConfig,
    activation_patching,
    attribution_patching,
    eap,
)
from gossamer.errors import Unsupported
from gossamer.models.huggingface import Decoder
from gossamer.scores import Scores
from gossamer.task import Example, Task, sides

FAMILIES = ["gpt2", "llama", "gemma2", "falcon", "qwen3"]
TASK = number_pairs()
PLAIN = AttributionPatchingConfig(qk_fix=False)
ready = cache(made)


def pair(clean: str, counterfactual: str) -> Task:
    one = Example(clean=clean, counterfactual=counterfactual, answer=" 0", wrong_answer=" 1")
    return Task(name="planted", version="1", description="", train=(one,), heldout=(one,))


def value(scores: Scores, name: str) -> float:
    return float(scores.values[scores.layout.starts[name]])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_writer_has_the_sum_of_the_scores_of_its_edges(name: str) -> None:
    """Patching a node is ablating all edges out of it, so its slope is the sum of theirs."""
    d = ready(name)
    edges, scores = eap(d, TASK), attribution_patching(d, TASK, PLAIN)
    tolerance = (1e-12 if name in ("gpt2", "falcon") else 1e-6) * np.abs(scores.values).max()
    for writer in d.shape.writers:
        own = edges.values[edges.graph.src == edges.graph.layout.starts[writer]].sum()
        assert value(scores, writer) == pytest.approx(own, abs=tolerance), writer
    clean, other = sides(d.encode(TASK.train))
    if name != "gemma2":  # whose logits are capped, and so no sum
        whole = (gap(clean, d.writes(other)[1]) - gap(clean, d.writes(clean)[1])).mean()
        assert value(scores, "logits") == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_parts_of_attention_have_the_slope_of_exact_patching(name: str) -> None:
    """With a counterfactual token a hundredth of the way off, first order is nearly all there is."""
    d, task = ready(name), pair("10 11 12 13 14", "10 11 20 13 14")
    embedding: Any = d.model.get_input_embeddings()
    before = embedding.weight[20].clone()
    embedding.weight[20] = embedding.weight[12] + 0.01 * (before - embedding.weight[12])
    try:
        exact = activation_patching(d, task, ActivationPatchingConfig(attention_parts=True))
        parts = [i for i, n in enumerate(exact.layout.starts) if "<" in n]
        for fix in (False, True):
            scores = attribution_patching(d, task, AttributionPatchingConfig(qk_fix=fix))
            assert scores.layout == exact.layout
            assert np.allclose(scores.values, exact.values, atol=0.03 * np.abs(exact.values).max())
            assert np.corrcoef(scores.values[parts], exact.values[parts])[0, 1] > 0.999
            assert np.corrcoef(scores.values[parts][::-1], exact.values[parts])[0, 1] < 0.9
    finally:
        embedding.weight[20] = before


@pytest.mark.parametrize("config", [PLAIN, AttributionPatchingConfig(qk_fix=True, grad_drop=True)])
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_the_size_of_a_batch_and_padding_change_nothing(name: str, config: AttributionPatchingConfig) -> None:
    d = ready(name)
    together = attribution_patching(d, TASK, config).values
    apart = attribution_patching(d, TASK, config.model_copy(update={"pairs_at_once": 1})).values
    assert np.allclose(together, apart, atol=1e-6 * np.abs(together).max(), rtol=0)
    assert np.array_equal(attribution_patching(d, TASK, config).values, together)


def sure_head() -> Decoder:
    """A head that is sure: at a 4 it attends to a 2 and at a 5 to a 3, with a score far above the others', and hands on
    the root of 8 for a 2 and the negative of it for a 3."""
    d = by_hand()
    model: Any = d.model
    first, second = model.model.layers
    for p in second.parameters():
        if p.ndim == 2:
            p.zero_()
    first.self_attn.v_proj.weight.zero_()
    first.self_attn.v_proj.weight[0, 2:4] = torch.tensor([1.0, -1.0]).double()
    model.model.embed_tokens.weight[5, 1] = 1
    q, k = first.self_attn.q_proj.weight, first.self_attn.k_proj.weight
    q[1, 4], q[1, 1] = 1, -1  # a channel that rotates by 0.01 a place
    k[1, 2], k[1, 3] = 20 / 8, -20 / 8
    q.mul_(2)
    return d


@pytest.mark.parametrize(("task", "part"), [(pair("2 3 4", "2 3 5"), "a0.h0<q>"), (pair("2 3 4", "3 2 4"), "a0.h0<k>")])
def test_a_sure_softmax_is_missed_and_the_fix_finds_it(task: Task, part: str) -> None:
    d = sure_head()
    exact = value(activation_patching(d, task, ActivationPatchingConfig(attention_parts=True)), part)
    missed = value(attribution_patching(d, task, PLAIN), part)
    found = value(attribution_patching(d, task, AttributionPatchingConfig(qk_fix=True)), part)
    write = 8**0.5  # what the head hands on after a 2, from the norm of a token with one channel
    whole = -2 * 2 * 8**0.5 * write / (1 + write**2) ** 0.5
    assert exact == pytest.approx(whole, abs=1e-4)
    assert abs(missed) < 1e-6 * abs(exact)
    # first order from the head's values on, as told by hand: -2 writes times the slope of the final norm
    assert found == pytest.approx(-2 * write * 2 * 8**0.5 / (1 + write**2) ** 1.5, rel=1e-4)


def cancelling(strength: float) -> Decoder:
    """The model made by hand with an MLP in its last layer that writes nothing for either prompt but has a slope.

    Its gate is open where channel 5 is positive and shut where it is negative; what passes is channel 5 less the half
    that it is at the last place after a 2.
    """
    d = by_hand()
    model: Any = d.model  # whose layers are typed as anything
    mlp = model.model.layers[1].mlp
    mlp.gate_proj.weight[0, 5] = 40
    mlp.up_proj.weight[0, 5], mlp.up_proj.weight[0, 4] = 1, -0.5
    mlp.down_proj.weight[5, 0] = strength
    return d


def test_effects_that_cancel_to_first_order_are_missed_and_grad_drop_finds_them() -> None:
    direct = value(attribution_patching(cancelling(0), BY_HAND, PLAIN), "a0.h0")
    with_it = value(attribution_patching(cancelling(-0.01), BY_HAND, PLAIN), "a0.h0")
    d = cancelling(-0.01 * direct / (direct - with_it))
    exact = value(activation_patching(d, BY_HAND), "a0.h0")
    missed = value(attribution_patching(d, BY_HAND, PLAIN), "a0.h0")
    found = attribution_patching(d, BY_HAND, AttributionPatchingConfig(grad_drop=True))
    assert exact == pytest.approx(difference(-1, -1) - difference(1, 1), abs=1e-4)
    assert abs(missed) < 1e-4 * abs(exact)
    edges = eap(d, BY_HAND)
    starts = edges.graph.layout.starts
    alone = edges.values[(edges.graph.src == starts["a0.h0"]) & (edges.graph.dst == starts["logits"])]
    assert value(found, "a0.h0") == pytest.approx(abs(float(alone[0])), rel=1e-6)  # the other layer is dropped
    assert value(found, "a0.h0") > 0.1 * abs(exact)
    assert found.record.details["sign"].startswith("size of the change")
    assert (found.values >= 0).all()


def test_grad_drop_is_the_mean_over_layers_of_runs_without_a_gradient_there() -> None:
    """Three layers, by hand: the gradient at a layer's output with one later layer's writes detached."""
    d = ready("llama", num_hidden_layers=3)
    found = attribution_patching(d, TASK, AttributionPatchingConfig(qk_fix=False, grad_drop=True, pairs=1))
    model: Any = d.model
    clean, other = sides(d.encode(TASK.train[:1]))
    with torch.no_grad():
        there: list[torch.Tensor] = []
        handle = model.model.layers[0].mlp.register_forward_hook(lambda m, args, out: there.append(out))
        model(other.tokens)
        handle.remove()
    sizes = []
    for dropped in (1, 2):
        here: list[torch.Tensor] = []

        def follow(m: Any, args: Any, out: torch.Tensor, here: list[torch.Tensor] = here) -> torch.Tensor:
            here.append(out.detach().requires_grad_())
            return here[0]

        layer = model.model.layers[dropped]
        handles = [
            m.register_forward_hook(lambda m, args, out: out.detach()) for m in (layer.mlp, layer.self_attn.o_proj)
        ]
        handles.append(model.model.layers[0].mlp.register_forward_hook(follow))
        with torch.enable_grad():
            logits = model(clean.tokens).logits[0, int(clean.last[0])]
            (gradient,) = torch.autograd.grad(logits[5] - logits[9], here[0])
        for h in handles:
            h.remove()
        sizes.append(abs(float(((there[0] - here[0].detach()) * gradient).sum())))
    assert value(found, "m0") == pytest.approx(sum(sizes) / 2, rel=1e-6)
    assert sizes[0] != pytest.approx(sizes[1], rel=1e-4)
    assert value(attribution_patching(d, TASK, PLAIN.model_copy(update={"pairs": 1})), "m0") != pytest.approx(
        sum(sizes) / 2, rel=1e-2
    )


def test_one_layer_has_no_other_to_drop() -> None:
    with pytest.raises(Unsupported, match="the model has one layer"):
        attribution_patching(made("gpt2", n_layer=1), TASK, AttributionPatchingConfig(grad_drop=True))


def test_lower_precisions_agree() -> None:
    exact = attribution_patching(ready("llama"), TASK).values
    single = attribution_patching(made("llama", torch.float32), TASK).values
    half = attribution_patching(made("llama", torch.bfloat16), TASK).values
    assert np.allclose(single, exact, atol=1e-5 * np.abs(exact).max())
    assert np.corrcoef(half, exact)[0, 1] > 0.99
