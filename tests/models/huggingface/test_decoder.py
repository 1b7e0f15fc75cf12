"""Laws of decoders at head grain: parts that add up, edges that can be ablated one by one, and their gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from zoo import DECODERS, ROUND_NORMS, decoder

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, Unsupported
from gossamer.graph import READS, Graph, HeadShape, head_graph, on_paths
from gossamer.models import LoadedModel
from gossamer.models.huggingface import Decoder, decoder_of, load_decoder
from gossamer.models.huggingface import anatomy as anatomy_module
from gossamer.record import Record
from gossamer.task import Encoded, Example


def prompts(seed: int, lengths: tuple[int, ...] = (7, 5, 6)) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 64, (len(lengths), max(lengths)), generator=generator)
    rows = torch.arange(len(lengths))
    return Encoded(tokens, torch.tensor(lengths) - 1, 3 + rows, 9 + rows)


def last_logits(model: PreTrainedModel, batch: Encoded) -> Tensor:
    with torch.no_grad():
        return model(batch.tokens, use_cache=False).logits[torch.arange(len(batch.last)), batch.last]


def gap(logits: Tensor) -> Tensor:
    return (logits[:, 3] - logits[:, 9]).sum()


@pytest.fixture(scope="module", params=DECODERS)
def made(request: pytest.FixtureRequest) -> tuple[str, Decoder]:
    return request.param, decoder_of(decoder(request.param).double(), None, request.param)


def test_what_is_written_adds_up_and_hooks_change_nothing(made: tuple[str, Decoder]) -> None:
    _, d = made
    batch = prompts(0)
    writes, logits = d.writes(batch)
    assert writes.shape == (len(d.shape.writers), 3, 7, 32)
    assert torch.allclose(logits, last_logits(d.model, batch), atol=1e-12, rtol=0)
    seen: list[Tensor] = []
    handle = d.parts.final_norm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    d.model(batch.tokens, use_cache=False)
    handle.remove()
    biases = seen[0] - writes.sum(0)  # the same at every place, or times a post-norm's scale
    if all(layer.out.bias is None for layer in d.parts.layers):
        assert float(biases.abs().max()) < 1e-6  # norms that round to float32 in between
    else:
        assert float((biases - biases[0, 0]).abs().max()) < 1e-9


def test_all_edges_ablated_is_the_counterfactual_and_none_the_clean_run(made: tuple[str, Decoder]) -> None:
    _, d = made
    clean, other = prompts(0), prompts(1)
    reference, there = d.writes(other)
    n = d.graph().n_edges
    with torch.no_grad():
        everything = d.patched(clean, torch.ones(n).double(), reference)
        nothing = d.patched(clean, torch.zeros(n).double(), reference)
    assert torch.allclose(everything, there, atol=1e-10, rtol=0)
    assert torch.equal(nothing, d.writes(clean)[1])
    assert not torch.allclose(everything, nothing, atol=1e-3)


def test_eap_is_the_gradient_at_no_ablation(made: tuple[str, Decoder]) -> None:
    name, d = made
    clean, other = prompts(0), prompts(1)
    reference, _ = d.writes(other)
    alpha = torch.zeros(d.graph().n_edges).double().requires_grad_()
    (slow,) = torch.autograd.grad(gap(d.patched(clean, alpha, reference)), alpha)
    fast, own = d.edge_gradient(clean, reference, gap)
    assert torch.allclose(fast, slow, atol=(1e-6 if name in ROUND_NORMS else 1e-12) * float(slow.abs().max()), rtol=0)
    assert torch.allclose(own, d.writes(clean)[0], atol=1e-12)
    wrong, _ = d.edge_gradient(clean, d.writes(prompts(2))[0], gap)
    assert not torch.allclose(wrong, slow, atol=0.1 * float(slow.abs().max()))


def test_a_gradient_is_the_slope_of_single_ablations(made: tuple[str, Decoder]) -> None:
    _, d = made
    step, tolerance = 1e-2, 1e-3  # the library rounds its softmax to float32
    clean, other = prompts(0), prompts(1)
    reference, _ = d.writes(other)
    fast, _ = d.edge_gradient(clean, reference, gap)
    for edge in np.random.default_rng(0).choice(d.graph().n_edges, 4, replace=False):
        ends = []
        for sign in (1, -1):
            alpha = torch.zeros(d.graph().n_edges).double()
            alpha[edge] = sign * step
            with torch.no_grad():
                ends.append(float(gap(d.patched(clean, alpha, reference))))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float(fast[edge]), abs=tolerance * float(fast.abs().max()))


def test_a_padded_batch_equals_its_items(made: tuple[str, Decoder]) -> None:
    _, d = made
    clean, other = prompts(0), prompts(1)
    reference, _ = d.writes(other)
    together, _ = d.edge_gradient(clean, reference, gap)
    apart = torch.zeros_like(together)
    for i in range(3):
        end = int(clean.last[i]) + 1
        one, two = (Encoded(b.tokens[i : i + 1, :end], b.last[i : i + 1], b.answer[i : i + 1], b.wrong[i : i + 1])
                    for b in (clean, other))  # fmt: skip
        apart += d.edge_gradient(one, d.writes(two)[0], gap)[0]
    assert torch.allclose(together, apart, atol=1e-6 * float(together.abs().max()), rtol=0)


def straightforward(
    model: Any, tokens: Tensor, alpha: dict[tuple[str, str, str], float], reference: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A Llama with ablated edges, one reader at a time, from the formulas: logits of all positions, and all writes."""
    c, base = model.config, model.model
    d, heads, groups = c.head_dim, c.num_attention_heads, c.num_key_value_heads
    x = base.embed_tokens(tokens)
    pos = torch.arange(tokens.shape[1])
    cos, sin = base.rotary_emb(x, pos[None])

    def norm(module: Any, x: Tensor) -> Tensor:
        return module.weight * (x.float() * (x.float().pow(2).mean(-1, keepdim=True) + c.rms_norm_eps).rsqrt()).to(x)

    def turn(x: Tensor) -> Tensor:
        return x * cos + torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1) * sin

    writes: dict[str, Tensor] = {"input": x}

    def read(node: str, what: str) -> Tensor:
        total = torch.zeros_like(x)
        for name, write in writes.items():
            a = alpha.get((name, node, what), 0.0)
            total = total + (1 - a) * write + (a * reference[name] if a else 0)
        return total

    hidden = torch.full((tokens.shape[1],) * 2, -torch.inf).triu(1).to(x)
    for i, layer in enumerate(base.layers):
        att = layer.self_attn
        shared = groups < heads

        def project(linear: Any, node: str, what: str, n: int, layer: Any = layer) -> Tensor:
            return norm(layer.input_layernorm, read(node, what)) @ linear.weight[n * d : (n + 1) * d].T

        keys = [f"a{i}.{'g' if shared else 'h'}{g}" for g in range(groups)]
        k = [turn(project(att.k_proj, node, "k", g)) for g, node in enumerate(keys)]
        v = [project(att.v_proj, node, "v", g) for g, node in enumerate(keys)]
        new = {}
        for h in range(heads):
            q = turn(project(att.q_proj, f"a{i}.h{h}", "q", h))
            g = h // (heads // groups)
            pattern = (q @ k[g].transpose(1, 2) / math.sqrt(d) + hidden).float().softmax(-1).to(x)
            new[f"a{i}.h{h}"] = pattern @ v[g] @ att.o_proj.weight[:, h * d : (h + 1) * d].T
        writes |= new
        m, z = layer.mlp, norm(layer.post_attention_layernorm, read(f"m{i}", "mlp"))
        gate = torch.nn.functional.silu(z @ m.gate_proj.weight.T)
        writes[f"m{i}"] = (gate * (z @ m.up_proj.weight.T)) @ m.down_proj.weight.T
    return norm(base.norm, read("logits", "logits")) @ model.lm_head.weight.T, writes


def named(graph: Graph, edges: np.ndarray) -> list[tuple[str, str, str]]:
    names = [n for n, _ in graph.layout.locations]
    return [(names[graph.src[e]], names[graph.dst[e]], READS[graph.matrix[e]]) for e in edges]


@pytest.mark.parametrize("heads", [2, 4])
def test_any_set_of_ablated_edges_equals_the_formulas_reader_by_reader(heads: int) -> None:
    model = decoder("llama", num_key_value_heads=heads).double()
    d = decoder_of(model, None, "llama")
    clean, other, graph = prompts(0), prompts(1), d.graph()
    reference, _ = d.writes(other)
    rows, rng = torch.arange(3), np.random.default_rng(0)
    with torch.no_grad():
        _, expected = straightforward(model, other.tokens, {}, {})
        for name, ours in zip(d.shape.writers, reference, strict=True):
            assert torch.allclose(ours, expected[name], atol=1e-6), name
        for size in (1, 1, 1, 10, graph.n_edges // 2):
            chosen = rng.choice(graph.n_edges, size, replace=False)
            shares = rng.uniform(0.2, 1, size) if size == 10 else np.ones(size)
            alpha = torch.zeros(graph.n_edges).double()
            alpha[torch.from_numpy(chosen)] = torch.from_numpy(shares)
            slow, _ = straightforward(
                model, clean.tokens, dict(zip(named(graph, chosen), shares.tolist(), strict=True)), expected
            )
            fast = d.patched(clean, alpha, reference)
            assert torch.allclose(fast, slow[rows, clean.last], atol=2e-6)


@pytest.mark.parametrize(
    ("name", "layers", "heads", "groups", "edges", "ours"),
    [
        ("gpt2", 12, 12, 12, 32_491, 32_491), ("Llama-3.1-8B", 32, 32, 8, 1_592_881, 805_681),
        ("Qwen2.5-0.5B", 24, 14, 2, 179_749, 79_813), ("Gemma-2-2B", 26, 8, 4, 74_218, 50_610),
    ],
)  # fmt: skip
def test_published_counts_of_edges(name: str, layers: int, heads: int, groups: int, edges: int, ours: int) -> None:
    shape = {"n_heads": heads, "parallel": (False,) * layers}
    assert head_graph(HeadShape(n_groups=heads, **shape)).n_edges == edges
    grouped = head_graph(HeadShape(n_groups=groups, **shape))
    assert grouped.n_edges == ours
    if name == "gpt2":
        assert grouped.layout.n_nodes == 158
    assert len(np.unique(np.stack([grouped.src, grouped.dst, grouped.matrix]), axis=1).T) == ours


def test_edges_are_numbered_by_their_ends() -> None:
    graph = head_graph(HeadShape(n_heads=2, n_groups=1, parallel=(False, True)))
    chosen = np.random.default_rng(0).permutation(graph.n_edges)[:9]
    assert np.array_equal(graph.numbers(graph.src[chosen], graph.dst[chosen], graph.matrix[chosen]), chosen)
    with pytest.raises(BadInput, match="Expected edges of this graph"):
        graph.numbers(graph.dst[chosen], graph.src[chosen], graph.matrix[chosen])


def test_edges_off_every_path_are_found() -> None:
    graph = head_graph(HeadShape(n_heads=2, n_groups=1, parallel=(False, False)))
    number = {edge: i for i, edge in enumerate(named(graph, np.arange(graph.n_edges)))}
    whole = [("input", "a0.g0", "v"), ("a0.h1", "m1", "mlp"), ("m1", "logits", "logits")]  # through the group to h1
    loose = [("a1.h0", "logits", "logits"), ("input", "a1.h1", "q"), ("m0", "m1", "mlp")]
    kept = on_paths(graph, np.array([number[e] for e in whole + loose]))
    assert named(graph, kept) == whole
    assert len(on_paths(graph, np.array([number[e] for e in loose]))) == 0


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("mixtral", {"num_local_experts": 4, "num_key_value_heads": 2}, "mixture of experts mixtral"),
        ("gpt2", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantised gpt2"),
        ("mamba", {"state_size": 4}, "mamba"),
    ],
)
def test_other_models_are_refused_with_a_reason(kind: str, config: dict[str, Any], says: str) -> None:
    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
             "intermediate_size": 48, "n_embd": 32, "n_layer": 1, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1,
             "pad_token_id": 0}  # fmt: skip
    extra = {k: v for k, v in config.items() if k != "quantization_config"}
    built = AutoConfig.for_model(kind, **{**small, **extra})
    model = AutoModelForCausalLM.from_config(built)
    if "quantization_config" in config:
        model.config.quantization_config = config["quantization_config"]
    with pytest.raises(Unsupported, match=says) as raised:
        decoder_of(model, None, kind)
    assert "\n" not in str(raised.value)


def test_a_wrong_table_of_fused_rows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(anatomy_module._FUSED, "gpt_neox", anatomy_module._fused_blocks)
    with pytest.raises(Unsupported, match="not where they were looked for"):
        decoder_of(decoder("gpt_neox"), None, "gpt_neox")


def test_float32_and_bfloat16_agree_with_float64() -> None:
    clean, other = prompts(0), prompts(1)
    scores = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        d = decoder_of(decoder("llama").to(dtype), None, "llama")
        scores[dtype] = d.edge_gradient(clean, d.writes(other)[0], gap)[0].double()
    exact = scores[torch.float64]
    assert torch.allclose(scores[torch.float32], exact, atol=1e-4 * float(exact.abs().max()))
    assert float(torch.corrcoef(torch.stack([scores[torch.bfloat16], exact]))[0, 1]) > 0.99


def test_pairs_of_unequal_length_are_told(stories: Decoder) -> None:
    pair = Example(clean="There was a girl.", counterfactual="There was a boy here.", answer=" She", wrong_answer=" He")
    with pytest.raises(BadInput, match="1 of 1 pairs do not"):
        stories.encode([pair])


@pytest.mark.parametrize(("given", "says"), [({"dtype": "float8"}, "use float32"), ({"device": "tpu"}, "use cpu")])
def test_a_wrong_dtype_or_device_is_told_before_anything_is_loaded(given: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        load_decoder("no/such-model", **given)


def test_a_weight_sparse_model_refuses_what_it_cannot_ablate(small: LoadedModel) -> None:
    layout, none = small.graph().layout, np.empty(0, dtype=np.int64)
    circuit = Circuit(
        layout=layout, nodes=np.arange(3), src=none, dst=none, weight=np.empty(0), matrix=none, matrices=(),
        record=Record.now(method="test", config={}, seed=0),
    )  # fmt: skip
    tokens = torch.arange(4).view(2, 2)
    batch = Encoded(tokens, torch.tensor([1, 1]), torch.tensor([1, 2]), torch.tensor([2, 1]))
    small.run(batch, ablation=circuit.as_ablation("gao-mean"))
    with pytest.raises(Unsupported, match="an ablation of heads"):
        small.run(batch, ablation=circuit.as_ablation("acdc-resample"))


@pytest.mark.parametrize("name", DECODERS)
def test_half_precision_finds_the_same_graph(name: str) -> None:
    whole, half = (decoder_of(decoder(name).to(dtype), None, name) for dtype in (torch.float32, torch.bfloat16))
    assert half.shape == whole.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_has_one_hash_before_it_is_saved_after_and_loaded_again(tmp_path: Path, dtype: torch.dtype) -> None:
    def sha256(model: PreTrainedModel) -> str:
        return decoder_of(model, None, "llama").hashes()[0]

    model = decoder("llama").to(dtype)
    before = sha256(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype, attn_implementation="eager")
    assert sha256(model) == sha256(loaded) == before
    others = [decoder("llama", rms_norm_eps=0.5), model.to(torch.float64), decoder("llama", seed=1)]
    assert len({before, *map(sha256, others)}) == 4
