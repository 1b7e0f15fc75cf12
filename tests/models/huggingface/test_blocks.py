"""Laws of decoders at block grain: every number is a sum over heads, or an ablation of all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from discover.test_acdc import Numbers, task
from torch import Tensor
from zoo import decoder

from gossamer.circuit import Circuit
from gossamer.discover import ACDCConfig, EAPIGConfig, acdc, eap, eap_ig, edge_patching
from gossamer.discover.acdc import metric_of
from gossamer.errors import BadInput, Unsupported
from gossamer.graph import HeadShape, block_graph, head_graph, on_paths
from gossamer.models.huggingface import Blocks, Decoder
from gossamer.models.huggingface.anatomy import anatomy
from gossamer.site import Site
from gossamer.task import sides
from gossamer.verify import EdgeTrial, known_checks, run_battery
from gossamer.verify.edge_checks import EDGE_BATTERY

# fused maps, parallel layers, groups, post-norms; the runs are the decoder's, whose test has every family
SHAPES = ("gpt2", "gptj", "falcon", "llama", "gemma2", "olmo2")


def made(name: str, **changes: int) -> Blocks:
    """Without the proof, which is test_decoder's."""
    model = decoder(name, **changes).double().requires_grad_(False)
    return Blocks(Decoder(name=name, model=model, tokenizer=Numbers(), parts=anatomy(model)))


def total(logits: Tensor) -> Tensor:
    return (logits[:, 5] - logits[:, 9]).sum()


@pytest.mark.parametrize("name", SHAPES)
def test_scores_are_sums_over_heads_and_ablations_are_of_all_heads(name: str) -> None:
    b = made(name)
    heads, graph = b.decoder, b.graph()
    clean, other = sides(b.encode(task(4).train))
    n = np.bincount(b.members, minlength=graph.n_edges)
    assert n.sum() == heads.graph().n_edges
    assert n.min() >= 1
    (reference, there), (of_heads, _) = b.writes(other), heads.writes(other)
    assert torch.allclose(reference.sum(0), of_heads.sum(0), atol=1e-10)
    scores, own = b.edge_gradient(clean, reference, total)
    each, own_heads = heads.edge_gradient(clean, of_heads, total)
    sums = torch.from_numpy(np.bincount(b.members, weights=each.numpy(), minlength=graph.n_edges))
    assert torch.allclose(scores, sums, atol=1e-9 * float(sums.abs().max()), rtol=0)
    assert torch.allclose(own.sum(0), own_heads.sum(0), atol=1e-10)
    alpha = torch.rand(graph.n_edges, generator=torch.Generator().manual_seed(0)).double()
    alpha[alpha < 0.3] = 0
    with torch.no_grad():
        fast = b.patched(clean, alpha, reference)
        slow = heads.patched(clean, alpha[torch.from_numpy(b.members)], of_heads)
        every = b.patched(clean, torch.ones_like(alpha), reference)
        none = b.patched(clean, torch.zeros_like(alpha), reference)
    assert torch.allclose(fast, slow, atol=1e-6, rtol=0)  # norms that round to float32
    assert torch.allclose(every, there, atol=1e-6, rtol=0)
    assert not torch.allclose(fast, none, atol=1e-3)
    runs = b.ablations(clean, reference)
    assert torch.allclose(none, runs.clean, atol=1e-6, rtol=0)
    writer, reader, layer = runs.places(np.arange(graph.n_edges))
    assert runs.heads.shared == 4  # nothing before the first different token is computed
    alpha[torch.from_numpy(layer == 0)] = 0
    table = torch.zeros(2, *runs.table_shape).double()
    table[1, writer, reader] = alpha
    with torch.no_grad():
        assert torch.allclose(runs.logits(table, 1)[1], b.patched(clean, alpha, reference), atol=1e-6, rtol=0)
        assert torch.allclose(runs.logits(table, 1)[0], none, atol=1e-6, rtol=0)


def test_scores_of_eap_and_eap_ig_are_sums_over_heads() -> None:
    b, config = made("llama"), EAPIGConfig(steps=3, pairs_at_once=2)
    sums = np.bincount(b.members, weights=eap(b.decoder, task(4)).values)
    assert np.allclose(eap(b, task(4)).values, sums, atol=1e-6 * np.abs(sums).max(), rtol=0)
    sums = np.bincount(b.members, weights=eap_ig(b.decoder, task(4), config).values)
    assert np.allclose(eap_ig(b, task(4), config).values, sums, atol=1e-6 * np.abs(sums).max(), rtol=0)


def test_acdc_is_the_sequential_algorithm_on_blocks() -> None:
    b, config = made("gpt2"), ACDCConfig(threshold=1e-3, pairs=4)
    graph, pairs = b.graph(), task(3)
    clean, other = sides(b.encode(pairs.train))
    reference, _ = b.writes(other)
    whole = b.writes(clean)[1]
    score, alpha, kept = metric_of(config, clean, whole), torch.zeros(graph.n_edges).double(), list[int]()
    now = score(whole[None])[0]
    for edge in reversed(range(graph.n_edges)):
        alpha[edge] = 1
        with torch.no_grad():
            value = score(b.patched(clean, alpha, reference)[None])[0]
        assert abs(value - now - config.threshold) > 1e-9
        if value - now < config.threshold:
            now = value
        else:
            alpha[edge] = 0
            kept.append(edge)
    found = acdc(b, pairs, config)
    assert 0 < found.n_edges < graph.n_edges
    assert sorted(graph.numbers(found.src, found.dst, found.matrix)) == sorted(kept)


def test_exact_scores_and_checks_of_blocks() -> None:
    b, pairs = made("llama"), task(4)
    n, (clean, other) = b.graph().n_edges, sides(b.encode(pairs.train))
    reference, _ = b.writes(other)
    with torch.no_grad():
        runs = [b.patched(clean, alpha, reference) for alpha in (torch.zeros(n).double(), *torch.eye(n).double())]
    gaps = torch.stack([(r[:, 5] - r[:, 9]).mean() for r in runs])  # the answers of every pair are 5 and 9
    scores = edge_patching(b, pairs)
    assert np.allclose(scores.values, (gaps[1:] - gaps[0]).numpy(), atol=1e-6)
    encoded = b.encode(pairs.train)
    trial = EdgeTrial(
        model=b, circuit=scores.top(12), task=pairs, heldout=encoded, training=encoded, value="mean", draws=3
    )
    quick = {name: known_checks("block")[name] for name in EDGE_BATTERY}
    evidence = [e for e in run_battery(trial, quick) if e.methodology]
    assert {e.methodology["component"] for e in evidence} == {"block"}


@pytest.mark.parametrize("layers", [1, 2, 12, 32])
def test_a_graph_has_one_edge_for_each_pair_of_blocks_with_edges_between_heads(layers: int) -> None:
    """GPT-2 small has 325; in a parallel layer its MLP does not read its attention."""
    shape = HeadShape(n_heads=2, n_groups=1, parallel=(False,) * layers)
    assert block_graph(shape).n_edges == (layers + 1) * (2 * layers + 1)
    mixed = HeadShape(n_heads=2, n_groups=1, parallel=tuple(i % 2 == 0 for i in range(layers)))
    graph, heads = block_graph(mixed), head_graph(mixed)
    names = [n.split(".")[0] for n, _ in heads.layout.locations]
    wanted = {(names[a], names[b]) for a, b in zip(heads.src, heads.dst, strict=True)}
    of_blocks = [n for n, _ in graph.layout.locations]
    found = [(of_blocks[a], of_blocks[b]) for a, b in zip(graph.src, graph.dst, strict=True)]
    assert set(found) == wanted
    assert len(found) == len(wanted)


def test_names_paths_and_circuits_of_blocks() -> None:
    b = made("llama")
    graph = b.graph()
    for number in range(graph.layout.n_nodes):
        site = graph.layout.site(number)
        assert graph.layout.number(Site.parse(str(site))) == number
        assert site.index is None
    with pytest.raises(BadInput, match="Expected a site"):
        Site.parse("a01")
    number = {edge: i for i, edge in enumerate(zip(graph.src.tolist(), graph.dst.tolist(), strict=True))}
    at = graph.layout.starts
    whole = [number[at["input"], at["a1"]], number[at["a1"], at["logits"]]]
    loose = number[at["a0"], at["m0"]]
    assert sorted(on_paths(graph, np.array([*whole, loose]))) == sorted(whole)
    circuit = eap(b, task(4)).top(12)
    assert isinstance(circuit, Circuit)
    assert circuit.layout.grain == "block"
    assert 0 < circuit.n_edges <= 12
    assert circuit.matrices == ("attn", "mlp", "logits")
    assert circuit.as_ablation("acdc-resample").methodology.component == "block"
    with pytest.raises(Unsupported, match="grain 'head' here"):
        b.graph("head")
    assert (b.name, b.hashes()) == ("llama", b.decoder.hashes())
