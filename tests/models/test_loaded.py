"""Edge masks against the same change made to the weights by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from toys import planted_task, random_model

from gossamer import Circuit, LoadedModel, Unsupported
from gossamer.discover.mask_training import split_masks
from gossamer.record import Record
from gossamer.subject import EdgeMasks


def double_model(**changes: object) -> LoadedModel:
    model = random_model(**changes)
    model.model.double()
    assert model.reference is not None
    for k, v in model.reference.means.items():
        model.reference.means[k] = v.double()  # type: ignore[index]
    return model


def some_edges(model: LoadedModel, n: int) -> np.ndarray:
    graph = model.graph("channel")
    chosen = np.random.default_rng(0).choice(graph.n_edges, n, replace=False)
    return np.stack([graph.src[chosen], graph.dst[chosen], graph.matrix[chosen]])


def cut_by_hand(model: LoadedModel, edges: np.ndarray) -> LoadedModel:
    """A copy of the model whose weights lack these edges and whose biases carry the sources' means instead."""
    changed = copy.deepcopy(model)
    means, starts = model.means(), model.layout.starts
    for src, dst, matrix in edges.T.tolist():
        name = model.graph("channel").matrices[matrix]
        layer, sub, which = name.split(".")[:3]
        linear = getattr(getattr(changed.model.blocks[int(layer)], sub), which)
        row = dst - starts[str(model.layout.site(dst).location)]
        if name[-2:] in (".q", ".k", ".v"):
            row += "qkv".index(name[-1]) * model.model.config.d_attn
        site = model.layout.site(src)
        linear.bias.data[row] += linear.weight.data[row, site.index] * means[site.location][site.index]
        linear.weight.data[row, site.index] = 0
    return changed


@pytest.mark.parametrize("changes", [{}, {"sink": False, "n_layer": 1}, {"topk_places": ()}], ids=str)
def test_a_cut_edge_reads_the_mean_of_its_source(changes: dict[str, object]) -> None:
    model = double_model(**changes)
    batch, edges = model.encode(planted_task(8).train), some_edges(model, 40)
    by_hand = cut_by_hand(model, edges).run(batch).gap
    masked = model.run(batch, edges=EdgeMasks(edges, torch.zeros(40))).gap
    assert torch.allclose(masked, by_hand, atol=1e-12)
    assert not torch.allclose(masked, model.run(batch).gap, atol=1e-4)
    kept = model.run(batch, edges=EdgeMasks(edges, torch.ones(40))).gap
    assert torch.equal(kept, model.run(batch).gap)
    with torch.no_grad():  # and with activations read, and in parts
        reads = model.run(batch, edges=EdgeMasks(edges, torch.zeros(40)), reads=("final_resid",)).gap
    assert torch.allclose(reads, by_hand, atol=1e-12)


def test_to_cut_every_edge_out_of_a_node_is_to_ablate_the_node() -> None:
    model = double_model(sink=False)
    graph, batch = model.graph("channel"), model.encode(planted_task(8).train)
    for location in ("0.attn.act_in", "0.mlp.act_in", "0.mlp.post_act", "1.attn.v"):
        node = graph.layout.starts[location] + 3
        out = np.flatnonzero(graph.src == node)
        edges = np.stack([graph.src[out], graph.dst[out], graph.matrix[out]])
        keep = torch.ones(graph.layout.n_nodes, dtype=torch.float64)
        keep[node] = 0
        cut = model.run(batch, edges=EdgeMasks(edges, torch.zeros(len(out)))).gap
        assert torch.allclose(cut, model.run(batch, masks=split_masks(graph, keep)).gap, atol=1e-12), location


def test_the_gradient_of_an_edge_mask_is_the_slope_of_the_gap() -> None:
    model = double_model(topk_places=())
    batch, edges = model.encode(planted_task(4).train), some_edges(model, 30)
    keep = torch.full((30,), 0.5, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(model.run(batch, edges=EdgeMasks(edges, keep)).gap.square().sum(), keep)
    for i in (0, 7, 29):
        step = torch.zeros(30, dtype=torch.float64)
        step[i] = 1e-6
        ends = [model.run(batch, edges=EdgeMasks(edges, keep.detach() + s)).gap.square().sum() for s in (step, -step)]
        assert float(grad[i]) == pytest.approx(float((ends[0] - ends[1]) / 2e-6), rel=1e-5, abs=1e-7)


def test_a_circuit_of_edges_is_ablated_by_its_edges() -> None:
    model = double_model()
    graph, batch = model.graph("channel"), model.encode(planted_task(8).train)
    record = Record.now(method="t", config={}, seed=0)
    whole = Circuit.from_nodes(graph, model.edge_weights(graph), range(0, graph.layout.n_nodes, 2), record=record)
    every = whole.only(np.arange(whole.n_edges))
    for preset in ("gao-mean", "zero-complement"):
        of_nodes = model.run(batch, ablation=whole.as_ablation(preset)).gap
        assert torch.equal(model.run(batch, ablation=every.as_ablation(preset)).gap, of_nodes)
    half = whole.only(np.arange(0, whole.n_edges, 2))
    assert half.as_ablation("gao-mean").methodology.granularity == "edge"
    missing = np.setdiff1d(np.arange(whole.n_edges), np.arange(0, whole.n_edges, 2))
    keep = torch.zeros(graph.layout.n_nodes, dtype=torch.float64)
    keep[whole.nodes] = 1
    cut = np.stack([whole.src, whole.dst, whole.matrix])[:, missing]
    by_masks = model.run(batch, masks=split_masks(graph, keep), edges=EdgeMasks(cut, torch.zeros(len(missing)))).gap
    assert torch.equal(model.run(batch, ablation=half.as_ablation("gao-mean")).gap, by_masks)
    without = cut_by_hand(model, np.stack([half.src, half.dst, half.matrix])).run(batch).gap
    assert torch.allclose(model.run(batch, ablation=half.as_ablation("gao-mean-circuit")).gap, without, atol=1e-12)


def test_a_model_without_biases_has_no_place_for_a_mean() -> None:
    model = random_model(bias=False)
    with pytest.raises(Unsupported, match="without biases"):
        model.run(model.encode(planted_task(2).train), edges=EdgeMasks(some_edges(model, 2), torch.zeros(2)))
