"""Laws of hard-concrete masks and of learning them over edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from compiled_helpers import edges_of, names

from gossamer.discover import EdgeMaskConfig, edge_mask, edge_mask_config
from gossamer.discover.edge_mask import loss_of
from gossamer.errors import BadInput
from gossamer.mask import hard_concrete, probability_kept
from gossamer.models.compiled import Program, gate, proportion
from gossamer.task import Encoded, Task, sides

FAST = EdgeMaskConfig(steps=60, lr=0.2, pairs=4)


@pytest.fixture(scope="module")
def add() -> Program:
    return gate("add", n=4)


def test_samples_of_a_mask_are_kept_as_often_as_the_formula_says() -> None:
    log_alpha = torch.tensor([-4.0, -1.0, 0.0, 2.0]).double()
    uniform = (torch.arange(100_000).double()[:, None] + 0.5) / 100_000
    samples = hard_concrete(log_alpha, uniform.expand(-1, 4))
    assert torch.allclose((samples > 0).double().mean(0), probability_kept(log_alpha), atol=2e-5)
    assert (samples == 1).any()
    assert samples.min() == 0
    assert samples.max() == 1
    ones = (samples == 1).double().mean(0)  # by symmetry: 1 as often as -log alpha is 0
    assert torch.allclose(ones, 1 - probability_kept(-log_alpha), atol=2e-5)


def test_a_mask_without_noise_and_its_gradient() -> None:
    log_alpha = torch.tensor([-9.0, 0.0, 9.0]).double().requires_grad_()
    value = hard_concrete(log_alpha)
    assert value.tolist() == pytest.approx([0.0, 0.5, 1.0])
    (grad,) = torch.autograd.grad(value.sum(), log_alpha)
    assert grad.tolist() == pytest.approx([0.0, 1.2 * 0.25, 0.0])


def test_the_loss_is_the_divergence_and_a_padded_batch_equals_its_items() -> None:
    p = proportion()
    clean, other = sides(p.model.encode(p.task.train[:6]))
    assert len(set(clean.last.tolist())) > 1
    reference, whole = p.model.writes(other)[0], p.model.writes(clean)[1]
    alpha = torch.rand(p.model.graph().n_edges, generator=torch.Generator().manual_seed(0))
    for config in (EdgeMaskConfig(), EdgeMaskConfig(metric="logit-difference")):
        together = loss_of(config, clean, whole, p.model.patched(clean, alpha, reference))
        apart = []
        for i, end in enumerate((clean.last + 1).tolist()):
            one, two = (Encoded(b.tokens[i : i + 1, :end], *(t[i : i + 1] for t in b[1:])) for b in (clean, other))
            logits = p.model.patched(one, alpha, p.model.writes(two)[0])
            apart.append(loss_of(config, one, p.model.writes(one)[1], logits))
        assert float(together) == pytest.approx(float(torch.stack(apart).mean()), rel=1e-5)
        assert abs(float(together)) > 1e-3
        assert float(loss_of(config, clean, whole, whole)) == pytest.approx(0, abs=1e-6)
    logits = p.model.patched(clean, alpha, reference)
    by_hand = (whole.softmax(-1) * (whole.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean()
    assert float(loss_of(EdgeMaskConfig(), clean, whole, logits)) == pytest.approx(float(by_hand), rel=1e-5)


def test_it_keeps_the_edges_of_a_sum_and_is_the_same_by_seed(add: Program) -> None:
    graph, true = add.model.graph(), add.true_edges("resample")
    one, two = edge_mask(add.model, add.task, FAST), edge_mask(add.model, add.task, FAST)
    assert edges_of(graph, one.above(0.5)) == names(graph, true)
    assert np.array_equal(one.values, two.values)
    assert one.record.details["kept"] == len(true)
    assert one.record.details["undecided"] == 0
    other = edge_mask(add.model, add.task, FAST.model_copy(update={"seed": 1}))
    assert not np.array_equal(one.values, other.values)
    assert edges_of(graph, other.top(len(true))) == names(graph, true)


def test_a_penalty_above_what_all_edges_are_worth_leaves_none(add: Program) -> None:
    found = edge_mask(add.model, add.task, FAST.model_copy(update={"penalty": 50.0}))
    assert found.above(0.5).n_edges == 0


def test_pairs_without_a_difference_need_no_edge(add: Program) -> None:
    alike = tuple(replace(e, counterfactual=e.clean) for e in add.task.train)
    task = Task(name="t", version="1", description="", train=alike, heldout=alike)
    found = edge_mask(add.model, task, FAST)
    assert found.values.max() < 0.1
    assert found.record.details["loss_at_end"] == pytest.approx(0, abs=1e-6)


def test_one_mask_per_node_keeps_the_nodes_of_the_program(add: Program) -> None:
    graph = add.model.graph()
    found = edge_mask(add.model, add.task, FAST.model_copy(update={"over": "nodes"}))
    for node in np.unique(graph.src):
        assert len(set(found.values[graph.src == node])) == 1
    kept = found.above(0.5)
    assert set(kept.src) == set(graph.src[add.true_edges("resample")])


def test_a_target_bounds_the_edges_expected(add: Program) -> None:
    graph, true, steps = add.model.graph(), add.true_edges("resample"), []
    config = FAST.model_copy(update={"target": len(true)})
    found = edge_mask(add.model, add.task, config, progress=lambda *at: steps.append(at))
    assert found.values.sum() == pytest.approx(len(true), abs=1e-3)
    assert edges_of(graph, found.top(len(true))) == names(graph, true)
    assert [s[:2] for s in steps] == [(i + 1, 60) for i in range(60)]
    with pytest.raises(BadInput, match="at most 23 edges, got 24"):
        edge_mask(add.model, add.task, edge_mask_config(target=24))
    with pytest.raises(BadInput, match="penalty"):
        edge_mask_config(penalty=-1)
