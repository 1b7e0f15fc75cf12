"""Laws of decoders at channel grain: places that can be ablated one by one, weights between them, node pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from zoo import DECODERS, ROUND_NORMS, decoder

from gossamer.circuit import Circuit
from gossamer.discover import PruneConfig, prune
from gossamer.discover.mask_training import owners, split_masks
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.metric import LN2
from gossamer.models.huggingface import Channels, Decoder, Means, channels_of, weight_graph
from gossamer.models.huggingface.anatomy import anatomy
from gossamer.record import Record
from gossamer.subject import EdgeMasks
from gossamer.task import Encoded, Example, Task
from gossamer.verify import run_checks

LENGTHS = (7, 5, 6, 7)
SHAPES = ("gpt2", "gpt_neox", "opt", "bloom", "falcon", "phi3", "llama", "gemma2", "olmo2")  # fused maps, groups, norms
RECORD = Record(method="t", config={}, seed=0)


def prompts(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 64, (len(lengths), max(lengths)), generator=generator)
    rows = torch.arange(len(lengths))
    return Encoded(tokens, torch.tensor(lengths) - 1, 3 + rows, 9 + rows)


def bare(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Decoder:
    """Without the proof, which is test_decoder's."""
    model = decoder(name, **changes).to(dtype).requires_grad_(False)
    return Decoder(name=name, model=model, tokenizer=None, parts=anatomy(model))


def with_means(d: Decoder) -> Channels:
    """Means of a normal distribution."""
    generator = torch.Generator().manual_seed(5)
    values = {k: torch.randn(n, generator=generator).double() for k, n in channels_of(d).layout.locations}
    return channels_of(d, Means(values=values, n_tokens=1, of="training"))


@pytest.fixture(scope="module", params=DECODERS)
def made(request: pytest.FixtureRequest) -> Channels:
    return with_means(bare(request.param))


def plain_gap(c: Channels, batch: Encoded) -> Tensor:
    with torch.no_grad():
        logits = c.decoder.model(batch.tokens, use_cache=False).logits[torch.arange(len(batch.last)), batch.last]
    return (logits.gather(1, batch.answer[:, None]) - logits.gather(1, batch.wrong[:, None]))[:, 0]


def random_masks(c: Channels, trials: int, share: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(trials, c.layout.n_nodes, generator=generator) < share).double()


def circuit_of(c: Channels, mask: Tensor) -> Circuit:
    inside = c.graph().within(np.flatnonzero(mask.numpy()))
    return Circuit.from_nodes(inside, c.edge_weights(inside), np.flatnonzero(mask.numpy()), record=RECORD)


def test_masks_of_ones_are_the_clean_run_and_masks_are_ablations(made: Channels) -> None:
    batch, graph = prompts(), made.graph()
    clean = made.run(batch).gap
    assert torch.allclose(clean, plain_gap(made, batch), atol=1e-12, rtol=0)  # logits of one position, or of all
    ones = torch.ones(graph.layout.n_nodes).double()
    assert torch.equal(made.run(batch, masks=split_masks(graph, ones)).gap, clean)
    (mask,) = random_masks(made, 1)
    masked = made.run(batch, masks=split_masks(graph, mask)).gap
    assert torch.equal(made.run(batch, ablation=circuit_of(made, mask).as_ablation("gao-mean")).gap, masked)
    other = made.run(batch, ablation=circuit_of(made, 1 - mask).as_ablation("gao-mean-circuit")).gap
    assert torch.equal(other, masked)
    zeros = made.run(batch, masks=split_masks(graph, mask), value="zero").gap
    assert torch.equal(made.run(batch, ablation=circuit_of(made, mask).as_ablation("zero-complement")).gap, zeros)
    assert min(float((x - y).abs().max()) for x, y in ((masked, clean), (zeros, clean), (zeros, masked))) > 1e-3


@pytest.mark.parametrize("made", SHAPES, indirect=True)
def test_several_masks_in_a_pass_padding_and_parts_change_nothing(
    made: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, graph, several = prompts(), made.graph(), random_masks(made, 3)
    together = made.run(batch, masks=split_masks(graph, several)).gap.view(3, -1)
    alone = torch.stack([made.run(batch, masks=split_masks(graph, m)).gap for m in several])
    assert torch.allclose(together, alone, atol=1e-6, rtol=0)
    with torch.no_grad():
        for i, n in enumerate(LENGTHS):
            item = Encoded(*(t[i : i + 1] for t in batch))._replace(tokens=batch.tokens[i : i + 1, :n])
            gap = made.run(item, masks=split_masks(graph, several[0])).gap
            assert torch.allclose(gap, together[0, i : i + 1], atol=1e-6, rtol=0)
        monkeypatch.setattr("gossamer.models.huggingface.channels.TOKENS_AT_ONCE", 8)
        parts = made.run(batch, masks=split_masks(graph, several)).gap.view(3, -1)
    assert torch.allclose(parts, together, atol=1e-6, rtol=0)


def test_reads_are_what_the_modules_hand_on_and_writes_add_up(made: Channels) -> None:
    """Every location beside a plain hook on the module it belongs to; the writes sum to the final residual."""
    batch, parts, seen = prompts(), made.decoder.parts, dict[tuple[nn.Module, str], Tensor]()

    def note(m: nn.Module) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            seen[m, "in"], seen[m, "out"] = (t.reshape(*batch.tokens.shape, -1).clone() for t in (args[0], out))

        return m.register_forward_hook(hook)

    modules = {m for layer in parts.layers for m in (layer.q.linear, layer.k.linear, layer.v.linear, layer.out)}
    modules |= {m for layer in parts.layers for m in (*layer.up, layer.down, layer.attn_post, layer.mlp_post) if m}
    handles = [note(m) for m in (*modules, parts.final_norm)]
    first = parts.layers[0].block.register_forward_pre_hook(
        lambda m, args, kwargs: seen.update({(m, "in"): args[0] if args else kwargs["hidden_states"]}), with_kwargs=True
    )
    made.decoder.model(batch.tokens, use_cache=False)
    for h in (*handles, first):
        h.remove()
    reads = made.run(batch, reads=[name for name, _ in made.layout.locations]).reads
    total = seen[parts.layers[0].block, "in"].clone()
    for i, layer in enumerate(parts.layers):
        up = torch.cat([seen[m, "out"] for m in layer.up], -1)
        wanted = {
            "attn.act_in": seen[layer.q.linear, "in"], "attn.z": seen[layer.out, "in"],
            "attn.q": seen[layer.q.linear, "out"][..., layer.q.rows.flatten()],
            "attn.k": seen[layer.k.linear, "out"][..., layer.k.rows.flatten()],
            "attn.v": seen[layer.v.linear, "out"][..., layer.v.rows.flatten()],
            "attn.resid_delta": seen[layer.attn_post or layer.out, "out"], "mlp.act_in": seen[layer.up[0], "in"],
            "mlp.post_act": seen[layer.down, "in"], "mlp.resid_delta": seen[layer.mlp_post or layer.down, "out"],
        }  # fmt: skip
        if up.shape[-1] > wanted["mlp.post_act"].shape[-1]:
            wanted["mlp.gate"], wanted["mlp.up"] = up.chunk(2, -1)  # every gated family here has its gate first
            act = wanted["mlp.post_act"] / wanted["mlp.up"]  # the activation of the gate, alone
            flat = wanted["mlp.gate"].flatten().argsort()
            assert float(act.flatten()[flat].diff().abs().median()) < 0.05
        for name, x in wanted.items():
            assert torch.equal(reads[f"{i}.{name}"], x), name
        total = total + reads[f"{i}.attn.resid_delta"] + reads[f"{i}.mlp.resid_delta"]
    assert set(reads) == {name for name, _ in made.layout.locations}
    assert torch.allclose(reads["final_resid"], total, atol=1e-9, rtol=0)
    assert torch.equal(reads["final_resid"], seen[parts.final_norm, "in"])


@pytest.mark.parametrize("made", SHAPES, indirect=True)
def test_to_cut_every_edge_out_of_a_channel_is_to_ablate_it(made: Channels) -> None:
    graph, batch = made.graph(), prompts()
    clean = made.run(batch).gap
    for location in ("0.attn.act_in", "0.attn.z", "1.mlp.act_in", "1.mlp.post_act"):
        node = graph.layout.starts[location] + 3
        out = np.flatnonzero(graph.src == node)
        edges = np.stack([graph.src[out], graph.dst[out], graph.matrix[out]])
        keep = torch.ones(graph.layout.n_nodes).double()
        keep[node] = 0
        cut = made.run(batch, edges=EdgeMasks(edges, torch.zeros(len(out)))).gap
        wanted = made.run(batch, masks=split_masks(graph, keep)).gap
        assert torch.allclose(cut, wanted, atol=1e-6, rtol=0), location
        assert not torch.allclose(cut, clean, atol=1e-5, rtol=0), location
    assert torch.equal(made.run(batch, edges=EdgeMasks(edges, torch.ones(len(out)))).gap, clean)


def test_the_gradient_of_a_mask_is_the_slope_of_the_gap(made: Channels) -> None:
    graph, batch = made.graph(), prompts()
    m = torch.full((graph.layout.n_nodes,), 0.8, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(made.run(batch, masks=split_masks(graph, m)).gap.square().sum(), m)
    assert all(bool((g != 0).any()) for g in graph.layout.split(grad.numpy()).values())
    direction = torch.randn(m.shape, generator=torch.Generator().manual_seed(0)).double()
    step = 1e-4  # the library rounds softmax and norms to float32
    with torch.no_grad():
        ends = [
            made.run(batch, masks=split_masks(graph, m + s * step * direction)).gap.square().sum() for s in (1, -1)
        ]  # fmt: skip
    slope, size = float((ends[0] - ends[1]) / (2 * step)), float((grad * direction).abs().sum())
    tolerance = 2e-3 if made.name in ROUND_NORMS else 2e-4
    assert slope == pytest.approx(float(grad @ direction), abs=tolerance * size)


def test_edges_are_the_weights_between_channels_listed_or_counted(made: Channels) -> None:
    graph, parts = made.graph(), made.decoder.parts
    entries = sum(r.rows.numel() * parts.d_model for layer in parts.layers for r in (layer.q, layer.k, layer.v))
    entries += sum(p.weight.numel() for layer in parts.layers for p in (layer.out, layer.down, *layer.up))  # type: ignore[misc]
    assert graph.n_edges == entries == len(graph.src) == len(made.edge_weights(graph))
    assert graph.counts().tolist() == np.bincount(graph.matrix, minlength=len(graph.matrices)).tolist()
    assert made.edge_weights(graph).std() > 0
    nodes = np.random.default_rng(0).permutation(graph.layout.n_nodes)[:150]
    inside, between = graph.within(nodes), graph.between(nodes)
    assert graph.count(nodes) == inside.n_edges == len(between)
    for name in ("src", "dst", "matrix"):
        assert np.array_equal(getattr(inside, name), getattr(graph, name)[between])
    assert np.array_equal(made.edge_weights(inside), made.edge_weights(graph)[between])


def test_a_llama_with_ablated_channels_equals_its_formulas() -> None:
    """Grouped queries, a gate: every location replaced by hand."""
    c = with_means(bare("llama"))
    batch, (mask,) = prompts(), random_masks(c, 1, share=0.5)
    keep, means, model = split_masks(c.graph(), mask), c.means(), c.decoder.model
    config, base = model.config, model.model
    d, heads, groups = config.head_dim, config.num_attention_heads, config.num_key_value_heads

    def put(location: str, x: Tensor) -> Tensor:
        return keep[location] * x + (1 - keep[location]) * means[location]

    def norm(module: Any, x: Tensor) -> Tensor:
        return module.weight * (x.float() * (x.float().pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt())

    x = base.embed_tokens(batch.tokens)
    cos, sin = base.rotary_emb(x, torch.arange(x.shape[1])[None])

    def turn(x: Tensor) -> Tensor:
        return x * cos + torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1) * sin

    hidden = torch.full((x.shape[1],) * 2, -torch.inf).triu(1).to(x)
    for i, layer in enumerate(base.layers):
        att, mlp = layer.self_attn, layer.mlp
        a = put(f"{i}.attn.act_in", norm(layer.input_layernorm, x).double())
        q, k, v = (put(f"{i}.attn.{p}", a @ getattr(att, f"{p}_proj").weight.T) for p in "qkv")
        z = []
        for h in range(heads):
            g = h // (heads // groups)
            own, shared = slice(h * d, (h + 1) * d), slice(g * d, (g + 1) * d)
            score = turn(q[..., own]) @ turn(k[..., shared]).transpose(1, 2) / d**0.5 + hidden
            z.append(score.float().softmax(-1).double() @ v[..., shared])
        x = x + put(f"{i}.attn.resid_delta", put(f"{i}.attn.z", torch.cat(z, -1)) @ att.o_proj.weight.T)
        a = put(f"{i}.mlp.act_in", norm(layer.post_attention_layernorm, x).double())
        gate = put(f"{i}.mlp.gate", a @ mlp.gate_proj.weight.T)
        neurons = torch.nn.functional.silu(gate) * put(f"{i}.mlp.up", a @ mlp.up_proj.weight.T)
        x = x + put(f"{i}.mlp.resid_delta", put(f"{i}.mlp.post_act", neurons) @ mlp.down_proj.weight.T)
    logits = norm(base.norm, put("final_resid", x)).double() @ model.lm_head.weight.T
    logits = logits[torch.arange(len(batch.last)), batch.last]
    wanted = logits.gather(1, batch.answer[:, None]) - logits.gather(1, batch.wrong[:, None])
    assert torch.allclose(c.run(batch, masks=keep).gap, wanted[:, 0], atol=2e-6, rtol=0)


def test_a_circuit_of_edges_is_ablated_by_its_edges() -> None:
    c = with_means(bare("llama"))
    graph, batch, (mask,) = c.graph(), prompts(), random_masks(c, 1)
    whole = circuit_of(c, mask)
    every, half = whole.only(np.arange(whole.n_edges)), whole.only(np.arange(0, whole.n_edges, 2))
    of_nodes = c.run(batch, ablation=whole.as_ablation("gao-mean")).gap
    assert torch.equal(c.run(batch, ablation=every.as_ablation("gao-mean")).gap, of_nodes)
    cut = np.stack([whole.src, whole.dst, whole.matrix])[:, 1::2]
    by_masks = c.run(batch, masks=split_masks(graph, mask), edges=EdgeMasks(cut, torch.zeros(cut.shape[1]))).gap
    assert torch.equal(c.run(batch, ablation=half.as_ablation("gao-mean")).gap, by_masks)
    assert not torch.allclose(by_masks, of_nodes, atol=1e-3)
    keep = torch.full((cut.shape[1],), 0.5).double().requires_grad_()
    (grad,) = torch.autograd.grad(c.run(batch, edges=EdgeMasks(cut, keep)).gap.sum(), keep)
    with torch.no_grad():
        far, near = (c.run(batch, edges=EdgeMasks(cut, keep + s * grad)).gap.sum() for s in (1e-4, -1e-4))
    assert float(far - near) / 2e-4 == pytest.approx(float(grad.square().sum()), rel=1e-3)
    wrong = cut.copy()
    wrong[0] += graph.layout.n_nodes
    with pytest.raises(BadInput, match=r"Expected edges of 0\.attn\.q_proj between"):
        c.run(batch, edges=EdgeMasks(wrong, torch.zeros(cut.shape[1])))


WORDS = "ask then that girl boy she he".split()


def planted() -> Decoder:
    """A Llama with three weights: a neuron reads channel 0, which is 1 for a girl and -1 for a boy, through an open
    gate, and writes channel 2, from which she and he are read. Channel 1 is 1 for every word."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(WORDS) + 1, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=6, attn_implementation="eager",
    ))  # fmt: skip
    words = {w: i for i, w in enumerate(["?", *WORDS])}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                p.normal_(generator=torch.Generator().manual_seed(len(name)))  # for the probe at load
        parts = anatomy(model)
        for p in model.parameters():
            if p.ndim == 2:
                p.zero_()
        base, mlp = model.model, model.model.layers[0].mlp
        base.embed_tokens.weight[:, 1] = 1
        base.embed_tokens.weight[words["girl"], 0] = 1
        base.embed_tokens.weight[words["boy"], 0] = -1
        mlp.gate_proj.weight[3, 1] = mlp.up_proj.weight[3, 0] = 1.0
        mlp.down_proj.weight[2, 3] = 0.25
        model.lm_head.weight[words["she"], 2] = 1
        model.lm_head.weight[words["he"], 2] = -1
    of_words = Tokenizer(models.WordLevel(words, unk_token="?"))
    of_words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_words)
    return Decoder(name="planted", model=model.eval().requires_grad_(False), tokenizer=tokenizer, parts=parts)


def girl_boy(n: int = 12, swap: bool = False) -> Task:
    """Half of the pairs start with the boy; with `swap` their answers stay those of a girl."""
    pairs = []
    for i in range(n):
        sides = [f"{'ask ' * (i % 3)}then the {w}" for w in (("girl", "boy") if i % 2 else ("boy", "girl"))]
        answers = (" she", " he") if i % 2 or swap else (" he", " she")
        pairs.append(Example(clean=sides[0], counterfactual=sides[1], answer=answers[0], wrong_answer=answers[1]))
    return Task(name="girl-boy", version="1", description="", train=tuple(pairs), heldout=tuple(pairs[:6]))


QUICK = PruneConfig(steps=30, lr=5e-2, batch_pairs=12, k_coef=(1e-3, 3e-3))
PLANTED = ["0.mlp.act_in:0", "0.mlp.up:3", "0.mlp.post_act:3", "0.mlp.resid_delta:2", "final_resid:2"]


def test_the_planted_circuit_is_found_and_tried() -> None:
    """The gate is open at its mean: two edges of three are needed, and five nodes."""
    c = channels_of(planted(), girl_boy())
    assert c.graph().n_edges == 3
    found = prune(c, girl_boy(), QUICK)
    assert found.reached
    assert list(map(str, found.circuit.sites)) == PLANTED
    assert [found.circuit.matrices[m] for m in found.circuit.matrix] == ["0.mlp.up_proj", "0.mlp.down_proj"]
    assert found.circuit.weight.tolist() == [1.0, 0.25]
    assert found.accuracy_heldout == 1
    evidence = run_checks(c, girl_boy(), found.circuit, target_loss=0.15)
    assert [e.verdict for e in evidence[:2]] == ["pass", "pass"]
    assert {e.methodology["reference"] for e in evidence} == {"training"}
    with pytest.raises(BadInput, match="the model the circuit was found in"):
        run_checks(channels_of(c.decoder, ["then the boy"]), girl_boy(), found.circuit, target_loss=0.15)


def test_an_impossible_task_is_not_reached() -> None:
    """Control that must fail: half of the pairs have the answers of the other half."""
    found = prune(channels_of(planted(), girl_boy()), girl_boy(swap=True), QUICK)
    assert not found.reached
    assert found.loss_heldout >= LN2 - 1e-3


def test_means_are_over_every_real_token_of_a_task_or_a_text(tmp_path: Path) -> None:
    d, task = planted(), girl_boy()
    for p in d.model.parameters():
        p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    prompts = [t for e in task.train for t in (e.clean, e.counterfactual)]
    bare = channels_of(d)
    sums, n = {name: torch.zeros(width).double() for name, width in bare.layout.locations}, 0
    for text in prompts:
        ids = torch.tensor([d.tokenizer(text).input_ids])
        reads = bare.run(Encoded(ids, torch.tensor([ids.shape[1] - 1]), ids[0, :1], ids[0, :1]), reads=list(sums)).reads
        n += ids.shape[1]
        for name, x in reads.items():
            sums[name] += x[0].double().sum(0)
    of_task, of_text = channels_of(d, task), channels_of(d, prompts)
    for c in (of_task, of_text):
        assert c.reference is not None
        assert c.reference.n_tokens == n
        for name, total in sums.items():
            assert torch.allclose(c.reference.values[name].double(), total / n, atol=1e-5), name
    assert (of_task.means_of, of_text.means_of) == ("training", "pretraining")
    assert channels_of(d, task).hashes() == of_task.hashes()
    assert channels_of(d, prompts[:3]).hashes()[1] != of_text.hashes()[1]
    assert bare.hashes() == (of_task.hashes()[0], "")
    assert of_task.reference is not None
    path = of_task.reference.save(tmp_path / "means.safetensors")
    assert channels_of(d, Means.load(path)).hashes() == of_task.hashes()
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptFile, match="damaged"):
        Means.load(path)


def test_a_long_text_is_read_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    d = planted()
    monkeypatch.setattr("gossamer.models.huggingface.channels.WINDOW", 3)
    monkeypatch.setattr("gossamer.models.huggingface.channels.TOKENS_AT_ONCE", 6)
    long, cut = (
        channels_of(d, ["ask then the girl that ask the boy"]),
        channels_of(d, ["ask then the", "girl that ask", "the boy"]),
    )
    assert long.reference is not None
    assert long.reference.n_tokens == 8
    assert long.hashes() == cut.hashes()


def test_bad_input_is_told() -> None:
    d = bare("llama")
    without, c = channels_of(d), with_means(d)
    mask, batch = {"0.mlp.gate": torch.zeros(48)}, prompts()
    without.run(batch, masks=mask, value="zero")
    with pytest.raises(BadInput, match="needs reference means: channels_of"):
        without.run(batch, masks=mask)
    with pytest.raises(BadInput, match="another shape"):
        channels_of(bare("gpt2"), c.reference)
    with pytest.raises(BadInput, match="got one string"):
        channels_of(planted(), "then the boy")
    with pytest.raises(BadInput, match="got none"):
        channels_of(planted(), [])
    with pytest.raises(BadInput, match=r"Unknown location '0\.mlp\.gates'"):
        c.run(batch, reads=["0.mlp.gates"])
    with pytest.raises(BadInput, match="Expected masks of one number of trials"):
        c.run(batch, masks={"0.mlp.gate": torch.zeros(47)})
    with pytest.raises(Unsupported, match="grain 'head' here"):
        c.graph("head")
    with pytest.raises(Unsupported, match="an ablation of heads"):
        c.run(batch, ablation=circuit_of(c, random_masks(c, 1)[0]).as_ablation("acdc-resample"))
    with pytest.raises(BadInput, match="as many key as query channels to tie, got 16 and 32"):
        owners(c.graph(), tied=True)
    owners(channels_of(bare("gpt2")).graph(), tied=True)
    with pytest.raises(BadInput, match="Expected the graph of llama or a part"):
        c.edge_weights(channels_of(bare("gpt2")).graph())


def test_edges_too_many_to_list_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_graph, "MOST_LISTED", 1000)
    graph = channels_of(bare("llama")).graph()
    assert graph.n_edges == 15360
    nodes = np.arange(0, graph.layout.n_nodes, 5)
    assert 0 < graph.within(nodes).n_edges == graph.count(nodes) < 1000
    counts = np.arange(len(graph.matrices))
    drawn = graph.draw(counts, np.random.default_rng(0))
    whole = channels_of(bare("llama")).graph()
    assert np.array_equal(np.bincount(drawn.matrix, minlength=len(counts)), counts)
    with pytest.raises(BadInput, match="at most 1,000 edges to list, there are 15,360"):
        _ = graph.src
    monkeypatch.undo()
    assert len(set(whole.numbers(drawn.src, drawn.dst, drawn.matrix))) == drawn.n_edges


def test_a_gate_that_cannot_be_told_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    d = bare("llama")
    for layer in d.model.model.layers:
        monkeypatch.setattr(layer.mlp, "act_fn", torch.nn.Tanh())  # odd, as what it multiplies
    with pytest.raises(Unsupported, match="gate cannot be told"):
        channels_of(d)


def test_bfloat16_runs_and_is_near_float64() -> None:
    gaps = {}
    for dtype in (torch.float64, torch.bfloat16):
        c = with_means(bare("llama", dtype))
        mask = random_masks(c, 2).float().requires_grad_()
        gaps[dtype] = c.run(prompts(), masks=split_masks(c.graph(), mask)).gap
        gaps[dtype].sum().backward()
        assert mask.grad is not None
        assert bool(mask.grad.isfinite().all())
        assert c.edge_weights(c.graph()).dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert gaps[torch.bfloat16].dtype == torch.float32
    exact = gaps[torch.float64].detach()
    assert torch.allclose(gaps[torch.bfloat16].double(), exact, atol=0.05 * float(exact.abs().max()))


def test_node_pruning_of_a_pretrained_model(stories: Decoder) -> None:
    """She or he after a short search: a part of the channels, and none of 20 random sets of as many does as well."""
    text = "Once upon a time, there was a {a} {who} in the {p}. One day,"
    pairs = tuple(
        Example(clean=text.format(a=a, p=p, who="girl"), counterfactual=text.format(a=a, p=p, who="boy"),
                answer=" she", wrong_answer=" he")
        for a in ("little", "happy", "small", "big") for p in ("park", "house", "garden")
    )  # fmt: skip
    task = Task(name="she-he", version="1", description="", train=pairs[:6], heldout=pairs[6:])
    c = channels_of(stories, task)
    assert (c.layout.n_nodes, c.graph().n_edges) == (4884, 226_560)
    found = prune(c, task, PruneConfig(steps=40, batch_pairs=1, lr=0.05, k_coef=(3e-4,)))
    assert found.reached
    assert found.circuit.n_edges < 0.5 * c.graph().n_edges
    assert found.accuracy_heldout == 1
    assert run_checks(c, task, found.circuit, target_loss=0.3, checks=["sufficiency"])[0].verdict == "pass"
