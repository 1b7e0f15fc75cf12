"""Methods at block grain are what plain hooks on whole sublayers of the Hugging Face model give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import pytest
import torch
from patching_helpers import BY_HAND, by_hand, gap, made, number_pairs
from torch import Tensor, nn

from gossamer.discover import (
    ActivationPatchingConfig,
    AttributionPatchingConfig,
    DirectLogitAttributionConfig,
    EAPIGConfig,
    EdgeMaskConfig,
    PathPatchingConfig,
    activation_patching,
    attribution_patching,
    direct_logit_attribution,
    eap_ig_activations,
    edge_mask,
    path_effects,
    path_patching,
)
from gossamer.errors import BadInput, Unsupported
from gossamer.models.huggingface import Blocks
from gossamer.scores import Scores
from gossamer.task import Encoded, sides

DECODER, TASK = made("gpt2"), number_pairs()
MODEL = Blocks(DECODER)
PAIRS = DECODER.encode(TASK.train)
CLEAN, OTHER = sides(PAIRS)
HF: Any = DECODER.model
SUBLAYERS: dict[str, nn.Module] = {
    name: part
    for i, layer in enumerate(HF.transformer.h) for name, part in ((f"a{i}", layer.attn), (f"m{i}", layer.mlp))
}  # fmt: skip
STREAM: dict[str, nn.Module] = {"input": HF.transformer.drop, **SUBLAYERS}


def value(scores: Scores, name: str) -> float:
    return float(scores.values[scores.layout.starts[name]])


@contextmanager
def hooks(*wanted: tuple[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook in wanted:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def put(to: Tensor) -> Callable[..., Any]:
    return lambda module, args, out: (to, *out[1:]) if isinstance(out, tuple) else to


def plain(rows: Encoded) -> np.ndarray:
    logits = HF(rows.tokens, use_cache=False).logits
    return gap(CLEAN, logits[torch.arange(len(rows.last)), rows.last].detach())


def outputs(rows: Encoded) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            seen[name] = out[0] if isinstance(out, tuple) else out

        return hook

    with hooks(*((m, keep(name)) for name, m in STREAM.items())):
        HF(rows.tokens, use_cache=False)
    return seen


BEFORE, OWN, THERE = plain(CLEAN), outputs(CLEAN), outputs(OTHER)


def test_a_block_ablated_is_its_output_exchanged() -> None:
    scores = activation_patching(MODEL, TASK)
    assert scores.layout.grain == "block"
    assert isinstance(scores.record.details["methodology"], dict)
    assert scores.record.details["methodology"]["component"] == "block"
    by_head = activation_patching(DECODER, TASK)
    differs = 0
    for name, module in SUBLAYERS.items():
        with hooks((module, put(THERE[name]))):
            wanted = (plain(CLEAN) - BEFORE).mean()
        assert value(scores, name) == pytest.approx(wanted, abs=1e-9)
        if name[0] == "a":  # and not the sum of its heads ablated apart
            apart = sum(value(by_head, f"{name}.h{h}") for h in range(DECODER.parts.n_heads))
            differs += abs(apart - wanted) > 1e-4
    assert differs
    assert value(scores, "input") == pytest.approx((plain(OTHER) - BEFORE).mean(), abs=1e-9)
    with pytest.raises(Unsupported, match="parts of attention at grain block"):
        activation_patching(MODEL, TASK, ActivationPatchingConfig(attention_parts=True))


@pytest.mark.parametrize("grad_drop", [False, True])
def test_first_order_scores_of_blocks_are_inner_products_with_plain_gradients(grad_drop: bool) -> None:
    scores = attribution_patching(MODEL, TASK, AttributionPatchingConfig(grad_drop=grad_drop))
    if grad_drop:
        by_head = attribution_patching(DECODER, TASK, AttributionPatchingConfig(grad_drop=True))
        for name in SUBLAYERS:
            if name[0] == "m":
                assert value(scores, name) == pytest.approx(value(by_head, name), abs=1e-9)
            else:  # sizes of sums are at most sums of sizes
                heads = [value(by_head, f"{name}.h{h}") for h in range(DECODER.parts.n_heads)]
                assert 0 < value(scores, name) <= sum(heads) + 1e-12
        return
    leaves = {name: out.detach().requires_grad_() for name, out in OWN.items()}
    for name, module in STREAM.items():
        with hooks((module, put(leaves[name]))):
            logits = HF(CLEAN.tokens, use_cache=False).logits[torch.arange(len(CLEAN.last)), CLEAN.last]
        rows = torch.arange(len(logits))
        total = (logits[rows, CLEAN.answer] - logits[rows, CLEAN.wrong]).sum()
        (grad,) = torch.autograd.grad(total, leaves[name])
        wanted = float(((THERE[name] - OWN[name]) * grad).sum()) / PAIRS.n_pairs
        assert value(scores, name) == pytest.approx(wanted, abs=1e-9)
    assert set(scores.layout.starts) == set(MODEL.graph().layout.starts)


@pytest.mark.parametrize("through", ["nothing", "mlps"])
def test_what_the_logits_hear_directly_of_a_block(through: Literal["nothing", "mlps"]) -> None:
    scores = path_patching(MODEL, TASK, PathPatchingConfig(through=through))
    for name in SUBLAYERS:
        held = [n for n in SUBLAYERS if n != name and (n[0] == "a" or through == "nothing")]
        with hooks((SUBLAYERS[name], put(THERE[name])), *((SUBLAYERS[n], put(OWN[n])) for n in held)):
            wanted = (plain(CLEAN) - BEFORE).mean()
        assert value(scores, name) == pytest.approx(wanted, abs=1e-9)
    with pytest.raises(BadInput, match="Unknown receiver"):
        path_patching(MODEL, TASK, PathPatchingConfig(receivers=("a0.h0<q>",)))


def test_a_path_of_blocks_is_a_recomputation_with_the_rest_held() -> None:
    found = path_effects(MODEL, PAIRS, ["a0->m1->logits"])
    layer = HF.transformer.h[1]
    with torch.no_grad():
        moved = THERE["a0"] - OWN["a0"]
        base = OWN["input"] + OWN["a0"] + OWN["m0"] + OWN["a1"]
        made_of_it = layer.mlp(layer.ln_2(base + moved))
    with hooks(*((SUBLAYERS[n], put(OWN[n])) for n in ("a0", "m0", "a1")), (SUBLAYERS["m1"], put(made_of_it))):
        assert np.allclose(found, plain(CLEAN) - BEFORE, atol=1e-9)
    assert np.abs(found).max() > 1e-4


def test_logits_of_a_block_are_those_of_its_heads() -> None:
    """By hand from what the sublayers gave, the norm's scale held at the clean run's."""
    scores = direct_logit_attribution(MODEL, TASK)
    rows = torch.arange(len(CLEAN.last))
    norm, head = HF.transformer.ln_f, HF.lm_head.weight
    final = sum(OWN[n] for n in STREAM)
    assert isinstance(final, Tensor)
    at = final[rows, CLEAN.last]
    scale = (at.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    direction = (head[CLEAN.answer] - head[CLEAN.wrong]) * norm.weight
    for name in STREAM:
        wrote = OWN[name][rows, CLEAN.last]
        if name[0] == "a":
            wrote = wrote - HF.transformer.h[int(name[1:])].attn.c_proj.bias
        wanted = (((wrote - wrote.mean(-1, keepdim=True)) / scale) * direction).sum(-1).mean()
        assert value(scores, name) == pytest.approx(float(wanted), abs=1e-9)
    assert scores.values.sum() == pytest.approx(float(BEFORE.mean()), abs=1e-9)
    apart = direct_logit_attribution(DECODER, TASK, DirectLogitAttributionConfig(pairs_at_once=1))
    heads = sum(value(apart, f"a1.h{h}") for h in range(DECODER.parts.n_heads))
    assert value(scores, "a1") == pytest.approx(heads, abs=1e-9)


def test_activations_out_of_a_block_sum_to_the_effect_of_exchanging_it() -> None:
    exact, graph = activation_patching(MODEL, TASK), MODEL.graph()
    errors = []
    for steps in (1, 40):
        scores = eap_ig_activations(MODEL, TASK, EAPIGConfig(steps=steps))
        sums = np.array([scores.values[graph.src == graph.layout.starts[n]].sum() for n in STREAM])
        errors.append(np.abs(sums - [value(exact, n) for n in STREAM]).max())
    assert errors[1] < errors[0] / 10
    assert errors[1] < 0.02 * np.abs(exact.values).max()


def test_learned_masks_over_blocks_keep_the_path_that_is_there() -> None:
    """The only edges that carry anything: the input to a0 and m0's silence, a0 to a1, and both to the logits."""
    model = Blocks(by_hand())
    graph = model.graph()
    names = [
        f"{graph.layout.locations[s][0]}->{graph.layout.locations[d][0]}"
        for s, d in zip(graph.src, graph.dst, strict=True)
    ]
    kept = edge_mask(model, BY_HAND, EdgeMaskConfig(steps=150, penalty=0.02, lr=0.2)).above(0.5)
    found = {names[i] for i in graph.numbers(kept.src, kept.dst, kept.matrix)}
    assert found == {"input->a0", "a0->a1", "a1->logits", "a0->logits"}
