"""Query-key attribution: parts sum to a head's score, and the scores to the model's own attention."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from patching_helpers import BY_HAND, ROOT, by_hand, made, number_pairs
from torch import nn
from zoo import decoder

from gossamer.discover import QueryKeyAttributionConfig, query_key_attribution, query_key_attribution_config
from gossamer.discover.query_key_attribution import score_parts
from gossamer.errors import BadInput, Unsupported
from gossamer.models.huggingface import decoder_of
from gossamer.models.huggingface.attention_score import score_form
from gossamer.task import sides

TASK = number_pairs()
ready = cache(made)
FAMILIES = {
    "gpt2": {}, "gptj": {}, "bloom": {}, "falcon alibi": {}, "llama": {}, "qwen3": {}, "olmo2": {},
    "phi": {"qk_layernorm": True},
    "gemma2": {"attn_logit_softcapping": 0.05},
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_the_scores_are_what_the_model_attends_by(name: str) -> None:
    """The softmax of three keys' sums is the model's own attention, with rotations, ALiBi, groups, norms and caps."""
    d = ready(name, **FAMILIES[name])
    clean, _ = sides(d.encode(TASK.train))
    found = [score_parts(d, clean, "a1.h2", 2, key) for key in range(3)]
    scores, cap = torch.tensor(np.stack([f.sum((1, 2)) for f, _ in found], axis=1)), found[0][1]
    with torch.no_grad():
        attention = d.model(clean.tokens, output_attentions=True).attentions[1][:, 2, 2, :3]
    assert cap == FAMILIES[name].get("attn_logit_softcapping", 0)
    assert torch.allclose((cap * torch.tanh(scores / cap) if cap else scores).softmax(1), attention, atol=1e-6)
    assert not torch.allclose(scores.flip(1).softmax(1), attention, atol=1e-3)
    if cap:
        assert not torch.allclose(scores.softmax(1), attention, atol=1e-4)
    form = score_form(d, clean, 1, 2, torch.full((3,), 2), torch.zeros(3, dtype=torch.int64))
    assert torch.allclose(form.score, scores[:, 0], atol=1e-10)
    if name in ("gpt2", "phi"):  # biases of queries and keys
        assert np.abs(found[0][0][:, -1, -1]).min() > 1e-6


def test_one_writer_at_a_time_equals_a_plain_product() -> None:
    """Qwen 3, which has norms and rotations of queries and keys: each part from the formulas."""
    d = ready("qwen3")
    clean, _ = sides(d.encode(TASK.train))
    model: Any = d.model
    layer, eps, writes = model.model.layers[1], 1e-6, d.writes(clean)[0]
    att, seen = layer.self_attn, writes[:6].sum(0)
    at = {"q": 4, "k": 1}

    def heard(part: str, rows: slice) -> torch.Tensor:
        x = seen[:, at[part]]
        scale = layer.input_layernorm.weight * (x.square().mean(-1, keepdim=True) + eps).rsqrt()
        weight = getattr(att, f"{part}_proj").weight[rows]
        whole = (x * scale) @ weight.T
        inner = getattr(att, f"{part}_norm").weight * (whole.square().mean(-1, keepdim=True) + eps).rsqrt()
        cos, sin = (t[0, at[part]] for t in model.model.rotary_emb(writes[0], torch.arange(7)[None]))
        y = (writes[:6, :, at[part]] * scale) @ weight.T * inner
        return y * cos + torch.cat([-y[..., 4:], y[..., :4]], -1) * sin

    q, k = heard("q", slice(16, 24)), heard("k", slice(8, 16))
    parts = torch.einsum("ard,brd->rab", q, k) / 8**0.5
    found, _ = score_parts(d, clean, "a1.h2", 4, 1)
    assert np.allclose(found[:, :6, :6], parts.numpy(), atol=1e-6)
    assert np.abs(found[:, -1]).max() < 1e-6  # no biases
    assert float(parts.abs().max()) > 1e-2


def test_the_numbers_of_a_model_made_by_hand() -> None:
    d = by_hand()
    attention: Any = d.model.model.layers[1].self_attn  # type: ignore[union-attr]
    attention.q_proj.weight[1, 4] = 3  # hears the token 4
    attention.k_proj.weight[1, 5] = attention.k_proj.weight[1, 2] = 1  # what a0.h0 writes, and the token 2
    found = query_key_attribution(d, BY_HAND, QueryKeyAttributionConfig(head="a1.h0", query=1, key=0))
    turned = np.cos(1 / 100)  # a place apart
    query, key = 3 * ROOT / 1.25**0.5, ROOT / 2**0.5
    each = query * key * turned / 2  # over the root of the head's width, 4
    number = {n: i for i, n in enumerate(found.names)}
    assert found.names[-1] == "constant"
    assert found.values[number["input"], number["a0.h0"]] == pytest.approx(each, abs=1e-5)
    assert found.values[number["input"], number["input"]] == pytest.approx(each, abs=1e-5)
    assert found.score == pytest.approx(2 * each, abs=1e-5)
    assert found.query_side.sum() == pytest.approx(found.score)
    assert found.key_side[number["a0.h0"]] == pytest.approx(each, abs=1e-5)
    assert "positive where it makes the head attend" in found.record.details["sign"]


def test_positions_from_the_end_batches_and_padding() -> None:
    d = ready("llama")
    config = query_key_attribution_config(head="a1.h3", key=-3)
    together = query_key_attribution(d, TASK, config)
    apart = query_key_attribution(d, TASK, config.model_copy(update={"pairs_at_once": 1}))
    assert np.allclose(together.values, apart.values, atol=1e-7)
    clean, _ = sides(d.encode(TASK.train))
    one = sides(d.encode(TASK.train[:1]))[0]
    assert np.allclose(
        score_parts(d, clean, "a1.h3", -1, -3)[0][0], score_parts(d, one, "a1.h3", 6, 4)[0][0], atol=1e-7
    )
    assert clean.last.tolist() == [6, 4, 6]
    with pytest.raises(BadInput, match="-5 to 4"):
        score_parts(d, clean, "a1.h3", 6, 4)


def test_attention_in_one_kernel_is_switched_and_switched_back() -> None:
    model = decoder("llama").double()
    eager = decoder_of(model, ready("llama").tokenizer, "llama")
    config = QueryKeyAttributionConfig(head="a1.h2", key=0)
    wanted = query_key_attribution(eager, TASK, config)
    model.set_attn_implementation("sdpa")
    assert np.allclose(query_key_attribution(eager, TASK, config).values, wanted.values, atol=1e-6)
    assert model.config._attn_implementation == "sdpa"


def test_what_cannot_be_asked_is_told() -> None:
    d = ready("gpt2")
    for changes, says in (
        ({"head": "a9.h1", "key": 0}, "Unknown head 'a9.h1': did you mean"),
        ({"head": "a1.h1", "key": 3, "query": 2}, "at or before the query"),
        ({"head": "a1.h1", "key": 9}, "shortest prompt having 5 tokens, got 9"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=says):
            query_key_attribution(d, TASK, QueryKeyAttributionConfig(**changes))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="head: Field required"):
        query_key_attribution_config(key=1)
    window = made("mistral", sliding_window=6)
    with pytest.raises(BadInput, match="outside its window"):
        query_key_attribution(window, number_pairs(length=9), QueryKeyAttributionConfig(head="a1.h1", key=0))


class Squares(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.square()


class SquaresNorm(Squares):
    pass


@pytest.mark.parametrize(
    ("inner", "says"), [(Squares(), "not linear in queries and keys"), (SquaresNorm(), "with its scale held")]
)
def test_an_attention_that_is_no_product_is_refused(inner: nn.Module, says: str) -> None:
    d = made("qwen3")
    d.model.model.layers[1].self_attn.q_norm = inner  # type: ignore[union-attr, index]
    with pytest.raises(Unsupported, match=says):
        score_parts(d, sides(d.encode(TASK.train))[0], "a1.h1", 2, 1)
