"""Laws of CEAP, EAP-IG of activations and the two baselines: what their scores sum to, and one case by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from edge_helpers import metric_under
from scalar_decoder import ScalarDecoder, numbers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gossamer.discover import (
    EAPConfig,
    EAPIGConfig,
    RandomConfig,
    ceap,
    eap,
    eap_ig,
    eap_ig_activations,
    random_edges,
    weight_magnitude,
)
from gossamer.discover.eap_ig_activations import sublayers
from gossamer.errors import Unsupported
from gossamer.graph import Graph
from gossamer.models.huggingface import Decoder, decoder_of
from gossamer.registry import method
from gossamer.scores import EdgeScores
from gossamer.subject import ResidualSubject
from gossamer.task import Example, Task

WORDS = "the boy girl said was that here there she he quite often".split()


def pair(rest: str) -> Example:
    return Example(clean=f"the girl {rest}", counterfactual=f"the boy {rest}", answer=" she", wrong_answer=" he")


def task(*rests: str) -> Task:
    pairs = tuple(map(pair, rests))
    return Task(name="she-he", version="1", description="", train=pairs, heldout=pairs[:1])


TASK = task("said that", "was quite often here that", "was there that")  # padded when together


def small(family: str, **changes: Any) -> Decoder:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["?", *WORDS])}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    model = zoo.decoder(family, seed=1, **changes).double()
    return decoder_of(model, PreTrainedTokenizerFast(tokenizer_object=words), family)


@pytest.fixture(scope="module")
def llama() -> Decoder:
    return small("llama", initializer_range=0.3)


def square(x: torch.Tensor) -> torch.Tensor:
    return x * x


def nothing(x: torch.Tensor) -> torch.Tensor:
    return 0 * x


# x goes from 1 (clean) to 0: the head writes x * x, the logit is the square of what is read, (x + x * x) squared
BY_HAND = ScalarDecoder(heads=[[lambda q, k, v: v * v]], mlps=[nothing], logit=square)
WAVES = ScalarDecoder(
    heads=[[lambda q, k, v: torch.tanh(q + 2 * k) * v, lambda q, k, v: v**2 / 2], [lambda q, k, v: q * k / 3] * 2],
    mlps=[torch.sin, torch.tanh], logit=lambda x: torch.sin(x / 3) + x,
)  # fmt: skip
ONE_TO_NOUGHT = numbers((10, 0))


def score(found: EdgeScores, src: str, dst: str, what: str) -> float:
    starts = found.graph.layout.starts
    ends = (np.array([n]) for n in (starts[src], starts[dst], found.graph.matrices.index(what)))
    return float(found.values[found.graph.numbers(*ends)[0]])


def cut_at(graph: Graph, layer: int) -> np.ndarray:
    """Edges (bool) from before a layer into it or past it; 0: all out of the input, the last: all into the logits."""

    def layers(nodes: np.ndarray, edge: int) -> np.ndarray:
        names = [str(graph.layout.site(n)) for n in range(graph.layout.n_nodes)]
        return np.array([edge if n in ("input", "logits") else int(n.split(".")[0][1:]) for n in names])[nodes]

    return (layers(graph.src, -1) < layer) & (layers(graph.dst, 10**6) >= layer)


def change(model: ResidualSubject, about: Task, ablated: np.ndarray) -> float:
    """The change of the metric when these edges (bool) are ablated exactly."""
    batch = model.encode(about.train)
    alphas = (torch.from_numpy(a.astype(np.float64)) for a in (ablated, np.zeros(len(ablated))))
    after, before = (metric_under(model, batch, EAPConfig(), a).mean() for a in alphas)
    return float(after - before)


def test_conductance_by_hand() -> None:
    """In two steps from 0: the head's write goes 0, 1/4, 1 and the logit's gradient is 0 at 0 and 3/2 at 1/2."""
    found = ceap(BY_HAND, ONE_TO_NOUGHT, EAPIGConfig(steps=2))
    assert score(found, "a0.h0", "logits", "logits") == pytest.approx((1 / 4 - 1) * 3 / 2)
    assert score(found, "input", "logits", "logits") == pytest.approx(-1 / 2 * 3 / 2)
    assert score(found, "input", "a0.h0", "v") == pytest.approx(-1 / 2 * 3 / 2 * 2 * 1 / 2)
    assert score(found, "input", "a0.h0", "q") == score(found, "input", "m0", "mlp") == 0
    other = eap_ig(BY_HAND, ONE_TO_NOUGHT, EAPIGConfig(steps=2))
    assert score(other, "a0.h0", "logits", "logits") == pytest.approx(-1 * (3 / 2 + 4) / 2)


@pytest.mark.parametrize("make", [lambda llama: llama, lambda llama: WAVES], ids=["llama", "scalar"])
def limit(coarse: float, fine: float) -> float:
    """What a sum of rectangles tends to, from one of some steps and one of twice as many: the error of order 1 / steps
    cancels."""
    return 2 * fine - coarse


@pytest.mark.parametrize(
    "make, about",
    [(lambda llama: llama, TASK), (lambda llama: WAVES, numbers((9, 3), (1, 7)))],
    ids=["llama", "scalar"],
)
def test_conductance_through_every_cut_is_the_change_of_the_metric(
    llama: Decoder, make: Callable[[Decoder], ResidualSubject], about: Task
) -> None:
    model = make(llama)
    graph = model.graph("head")
    wanted = change(model, about, np.ones(graph.n_edges, dtype=bool))
    assert abs(wanted) > 1e-2
    coarse, fine = (ceap(model, about, EAPIGConfig(steps=n)) for n in (16, 32))
    for layer in range(3):
        inside = cut_at(graph, layer)
        sums = [float(s.values[inside].sum()) for s in (coarse, fine)]
        assert limit(*sums) == pytest.approx(wanted, rel=0.02)
        assert abs(sums[1] - wanted) < abs(sums[0] - wanted)


def test_integrated_gradients_are_complete_at_the_input_alone(llama: Decoder) -> None:
    graph = llama.graph()
    wanted = change(llama, TASK, np.ones(graph.n_edges, dtype=bool))
    coarse, fine = (eap_ig(llama, TASK, EAPIGConfig(steps=n)) for n in (4, 8))
    at_input, at_logits = (
        limit(*(float(s.values[cut_at(graph, layer)].sum()) for s in (coarse, fine))) for layer in (0, 2)
    )
    assert at_input == pytest.approx(wanted, rel=0.1)
    assert at_logits != pytest.approx(wanted, rel=0.15)


def test_one_step_of_conductance_is_eap_of_the_swapped_pairs(llama: Decoder) -> None:
    swapped = tuple(
        Example(clean=e.counterfactual, counterfactual=e.clean, answer=e.wrong_answer, wrong_answer=e.answer)
        for e in TASK.train
    )
    other = eap(llama, Task(name="swapped", version="1", description="", train=swapped, heldout=swapped))
    found = ceap(llama, TASK, EAPIGConfig(steps=1))
    assert np.allclose(found.values, other.values, atol=1e-9 * np.abs(other.values).max())
    assert not np.allclose(found.values, eap(llama, TASK).values, rtol=1e-2)


def test_activations_by_hand() -> None:
    """The head's write goes to 1/2 and 1 beside a clean input of 1, the logit's gradient is 3 and 4 there."""
    found = eap_ig_activations(BY_HAND, ONE_TO_NOUGHT, EAPIGConfig(steps=2))
    assert score(found, "a0.h0", "logits", "logits") == pytest.approx(-1 * (3 + 4) / 2)
    assert score(found, "input", "logits", "logits") == pytest.approx(-1 * (3 / 2 + 4) / 2)
    straight = ScalarDecoder(heads=BY_HAND.heads, mlps=BY_HAND.mlps, logit=lambda x: 3 * x)
    exact = eap_ig_activations(straight, ONE_TO_NOUGHT, EAPIGConfig(steps=3))
    assert score(exact, "a0.h0", "logits", "logits") == pytest.approx(-3, abs=1e-14)


def test_activations_out_of_a_sublayer_sum_to_the_effect_of_patching_it(llama: Decoder) -> None:
    coarse, fine = (eap_ig_activations(llama, TASK, EAPIGConfig(steps=n)) for n in (4, 8))
    plain = eap(llama, TASK)
    parts = sublayers(llama.graph())
    assert len(parts) == 5
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(llama.graph().n_edges))
    for part in parts:
        wanted = change(llama, TASK, np.isin(np.arange(llama.graph().n_edges), part))
        sums = [float(s.values[part].sum()) for s in (coarse, fine, plain)]
        assert limit(sums[0], sums[1]) == pytest.approx(wanted, rel=0.05)
        assert abs(sums[2] - wanted) > 4 * abs(sums[1] - wanted) > 0


def test_activations_have_the_scores_of_their_neighbours_where_they_must(llama: Decoder) -> None:
    """Out of the input those of EAP-IG, in one step those of EAP, computed another way."""
    found, other = (f(llama, TASK, EAPIGConfig(steps=4)) for f in (eap_ig_activations, eap_ig))
    of_input = found.graph.src == 0
    near = 1e-9 * np.abs(other.values).max()
    assert np.allclose(found.values[of_input], other.values[of_input], atol=near)
    assert not np.allclose(found.values[~of_input], other.values[~of_input], rtol=1e-2)
    assert np.array_equal(eap_ig_activations(llama, TASK, EAPIGConfig(steps=1)).values, eap(llama, TASK).values)


@pytest.mark.parametrize("function", [ceap, eap_ig_activations])
def test_the_size_of_a_batch_and_its_padding_change_nothing(
    llama: Decoder, function: Callable[..., EdgeScores]
) -> None:
    one, together, again = (function(llama, TASK, EAPIGConfig(steps=2, pairs_at_once=n)) for n in (1, 16, 16))
    assert np.allclose(one.values, together.values, atol=1e-9 * np.abs(together.values).max())
    assert np.array_equal(together.values, again.values)
    assert one.record.method == {ceap: "ceap", eap_ig_activations: "eap-ig-activations"}[function]
    assert method[one.record.method] is function


def test_random_scores_are_of_their_seed_and_of_nothing_else(llama: Decoder) -> None:
    one, same, other = (random_edges(llama, TASK, RandomConfig(seed=s)) for s in (0, 0, 1))
    elsewhere = random_edges(llama, task("said that"), RandomConfig(seed=0))
    assert np.array_equal(one.values, same.values)
    assert np.array_equal(one.values, elsewhere.values)
    assert abs(np.corrcoef(one.values, other.values)[0, 1]) < 0.2
    assert one.top(30, connected=False).n_edges == one.top(30, signed=True, connected=False).n_edges == 30
    assert one.record.seed == 0
    assert other.record.seed == 1


def composed(readers: Sequence[torch.Tensor], writers: Sequence[torch.Tensor], counts: Sequence[int]) -> np.ndarray:
    """Every product of weights made, one after the other."""
    return np.array([float((r @ w).norm()) for r, n in zip(readers, counts, strict=True) for w in writers[:n]])


def llama_weights(model: PreTrainedModel) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    readers, writers = [], [model.model.embed_tokens.weight.T / model.config.vocab_size**0.5]
    for block in model.model.layers:
        a, m, g = block.self_attn, block.mlp, block.input_layernorm.weight
        for linear in (a.q_proj, a.k_proj, a.v_proj):
            readers += [w * g for w in linear.weight.split(8)]
        readers.append(torch.cat([m.gate_proj.weight, m.up_proj.weight]) * block.post_attention_layernorm.weight)
        writers += [*a.o_proj.weight.split(8, 1), m.down_proj.weight]
    head = model.lm_head.weight - model.lm_head.weight.mean(0)
    return [*readers, head * model.model.norm.weight], writers


def gpt2_weights(model: PreTrainedModel) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    t = model.transformer
    readers, writers = [], [(t.wte.weight + t.wpe.weight[0]).T / model.config.vocab_size**0.5]
    centre = torch.eye(32, dtype=torch.float64) - 1 / 32
    for block in t.h:
        for part in block.attn.c_attn.weight.T.split(32):
            readers += [w * block.ln_1.weight @ centre for w in part.split(8)]
        readers.append(block.mlp.c_fc.weight.T * block.ln_2.weight @ centre)
        writers += [*block.attn.c_proj.weight.T.split(8, 1), block.mlp.c_proj.weight.T]
    head = model.lm_head.weight - model.lm_head.weight.mean(0)
    return [*readers, head * t.ln_f.weight @ centre], writers


@pytest.mark.parametrize("family, weights", [("llama", llama_weights), ("gpt2", gpt2_weights)])
@pytest.mark.parametrize("width", [16, 48])
def test_weight_magnitudes_are_norms_of_products(
    family: str, weights: Callable[[PreTrainedModel], tuple[list[torch.Tensor], list[torch.Tensor]]], width: int
) -> None:
    """Grouped queries, root-mean-square and mean-subtracting norms, MLPs narrower and wider than the residual."""
    model = small(family, **({"intermediate_size": width} if family == "llama" else {"n_inner": width}))
    found = weight_magnitude(model, TASK)
    wanted = composed(*weights(model.model), [n for _, _, n in model.shape.readers])
    assert np.allclose(found.values, wanted, rtol=1e-6)
    assert found.values.std() > 0.1 * found.values.mean()


@pytest.mark.parametrize("family", ["gemma2", "phi"])
def test_weight_magnitudes_follow_the_weights(family: str) -> None:
    """Post-norms and parallel blocks: twice a head's output weights, twice the scores out of it, and no other's."""
    model = small(family)
    before = weight_magnitude(model, TASK)
    layer = model.parts.layers[0]
    with torch.no_grad():
        layer.out.weight[:, :8] *= 2  # type: ignore[union-attr, index, operator]
        layer.q.linear.weight[8:16] = 0  # type: ignore[union-attr, index, operator]
    after = weight_magnitude(model, TASK)
    starts, g = after.graph.layout.starts, after.graph
    times = np.where(g.src == starts["a0.h0"], 2.0, 1.0)
    times[(g.dst == starts["a0.h1"]) & (g.matrix == g.matrices.index("q"))] = 0
    assert np.allclose(after.values, times * before.values, rtol=1e-6)
    assert (before.values > 0).all()


def test_weight_magnitude_needs_weights() -> None:
    with pytest.raises(Unsupported, match="ScalarDecoder is not supported"):
        weight_magnitude(WAVES, ONE_TO_NOUGHT)
