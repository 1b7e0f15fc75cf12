"""Laws of the perturbation through a bridge: 0 changes nothing, 1 between equal models replaces the node exactly."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import PLANTED_NODES, planted_model, planted_task, random_model

from gossamer.compare import perturbation, strongest_nodes
from gossamer.compare.perturbation import _add, _best_rotation, _gap, _rotations, change_of
from gossamer.errors import BadInput
from gossamer.evidence import Evidence
from gossamer.models import LoadedModel
from gossamer.models.bridge import BridgedPair, identity_bridge
from gossamer.site import Site
from gossamer.task import Example, Task

QUOTE = Site("0.attn.act_in", 3)  # the planted mechanism's read: +1 after left, -1 after right


def to_itself(model: LoadedModel) -> BridgedPair:
    model.model.double()
    bridge = identity_bridge(model.model.config.d_model, model.model.n_sites).double()
    return BridgedPair(bridge=bridge, sparse=model, dense=model, record={})


def scaled_twin(model: LoadedModel, factor: float) -> LoadedModel:
    """The same model with every residual `factor` times as large: its norms see no difference."""
    twin = copy.deepcopy(model.model)
    twin.wte.weight.data *= factor
    for block in twin.blocks:
        for linear in (block.attn.c_proj, block.mlp.c_proj):
            linear.weight.data *= factor
            linear.bias.data *= factor
    return replace(model, model=twin, name="scaled")


def null(evidence: Evidence, name: str) -> float:
    (found,) = [n.value for n in evidence.nulls if n.name.startswith(name)]
    assert found is not None
    return found


def test_the_planted_node_moves_the_answer_all_the_way_and_random_rotations_do_not() -> None:
    pair = to_itself(planted_model())
    found = perturbation(pair, (QUOTE,), planted_task(8), rotations=19)
    e = found.evidence
    assert e.verdict == "pass"
    assert e.p_value == e.p_smallest == pytest.approx(0.05)
    assert e.value == pytest.approx(null(e, "the other prompt itself"), abs=1e-12)
    assert e.value == pytest.approx(null(e, "the same nodes replaced"), abs=1e-12)
    assert e.value == pytest.approx(null(e, "dense model's whole read"), abs=1e-12)
    assert null(e, "random rotation that moves it most") < 0.5 * (e.value or 0)
    assert [p.strength for p in found.curve] == pytest.approx([i / 10 for i in range(11)])
    assert (np.diff([p.probability for p in found.curve]) > 0).all()
    assert found.curve[0].probability < 0.5 < found.curve[-1].probability
    assert e.methodology is not None


def test_a_node_outside_the_mechanism_fails() -> None:
    e = perturbation(to_itself(planted_model()), (Site("0.attn.act_in", 1),), planted_task(), rotations=4).evidence
    assert e.verdict == "fail"
    assert e.value == pytest.approx(0, abs=1e-12)


def test_too_few_rotations_measure_no_chance() -> None:
    e = perturbation(to_itself(planted_model()), (QUOTE,), planted_task(8), strengths=(0, 1), rotations=18).evidence
    assert e.verdict == "not measured"
    assert "so few draws" in e.note
    assert e.p_value == pytest.approx(1 / 19)


def test_a_change_that_random_rotations_match_fails() -> None:
    """A node of a random model moves its own answers a little, and any direction of that size does the same."""
    pair = to_itself(random_model(5))
    nodes = (Site("0.mlp.act_in", 2),)
    e = perturbation(pair, nodes, planted_task(8), strengths=(0, 1), rotations=39).evidence
    assert e.verdict == "fail"
    assert e.p_value is not None
    assert e.p_value > 0.05


@pytest.mark.parametrize("location", ["0.attn.q", "0.attn.v", "0.attn.resid_delta", "0.mlp.post_act", "1.attn.k"])
def test_a_node_inside_a_sublayer_is_replaced_exactly_between_equal_models(location: str) -> None:
    pair, task = to_itself(random_model(5)), planted_task()
    for channels in (range(16), (3, 6, 9)):
        nodes = tuple(Site(location, c) for c in channels)
        found = perturbation(pair, nodes, task, strengths=(0, 1), rotations=2)
        assert found.evidence.value == pytest.approx(null(found.evidence, "the same nodes replaced"), abs=1e-12)
        assert found.curve[0].random == pytest.approx(found.curve[0].gap, abs=1e-12)
    assert abs(null(found.evidence, "dense model's whole write")) > 1e-6


def test_all_writes_are_the_whole_write() -> None:
    nodes = tuple(Site("1.attn.resid_delta", c) for c in range(16))
    e = perturbation(to_itself(random_model(6)), nodes, planted_task(), strengths=(0, 1), rotations=2).evidence
    assert e.value == pytest.approx(null(e, "dense model's whole write"), abs=1e-12)
    assert abs(e.value or 0) > 1e-3


def test_the_best_rotation_reaches_the_bound_and_no_random_one_does() -> None:
    """To first order the gap moves by <change Q, gradient>: at most the singular values of change' gradient, summed."""
    pair, batch = to_itself(random_model(5)), planted_model().encode(planted_task().train)
    nodes = (Site("0.attn.v", 3), Site("0.attn.v", 9))
    change = change_of(pair, nodes, batch)
    leaf = torch.zeros_like(change, requires_grad=True)
    _gap(pair.dense.model, batch, _add("0.attn.resid_delta", leaf)).sum().backward()
    assert leaf.grad is not None
    m = change.flatten(0, 1).T @ leaf.grad.flatten(0, 1)
    best = _best_rotation(pair, nodes, "0.attn.resid_delta", batch)
    assert torch.allclose(best @ best.T, torch.eye(16, dtype=torch.float64), atol=1e-9)
    bound = float(torch.linalg.svdvals(m).sum())
    assert float((best * m).sum()) == pytest.approx(bound, rel=1e-9)
    assert max(float((q * m).sum()) for q in _rotations(16, 50, 0)) < 0.9 * bound


def test_strength_0_is_the_identity_and_1_replaces_the_nodes_exactly() -> None:
    model = random_model(5)
    for block in model.model.blocks:  # gains that are not 1
        for norm in (block.ln_1, block.ln_2):
            norm.weight.data = 0.5 + torch.rand(16, generator=torch.Generator().manual_seed(1))
    pair, task = to_itself(model), planted_task()
    plain = -model.run(model.encode(task.heldout)).gap.double()
    for location in ("0.attn.act_in", "0.mlp.act_in", "1.attn.act_in", "1.mlp.act_in"):
        for channels in ((2,), (2, 7, 11)):
            nodes = tuple(Site(location, c) for c in channels)
            found = perturbation(pair, nodes, task, strengths=(0, 1), rotations=2)
            assert found.curve[0].gap == pytest.approx(float(plain.mean()), abs=1e-12)
            assert found.curve[0].random == pytest.approx(found.curve[0].gap, abs=1e-12)
            replaced = null(found.evidence, "the same nodes replaced")
            assert found.evidence.value == pytest.approx(replaced, abs=1e-12)


def test_all_channels_of_a_read_are_the_whole_read() -> None:
    pair = to_itself(random_model(6))
    nodes = tuple(Site("1.attn.act_in", c) for c in range(16))
    e = perturbation(pair, nodes, planted_task(), strengths=(0, 1), rotations=2).evidence
    assert e.value == pytest.approx(null(e, "dense model's whole read"), abs=1e-12)
    assert abs(e.value or 0) > 1e-3


def test_the_scale_of_the_dense_residual_makes_no_difference() -> None:
    pair, task = to_itself(random_model(5)), planted_task()
    bridge = copy.deepcopy(pair.bridge)
    for site in range(4):
        encoder, decoder = bridge.maps(site)
        decoder.weight.data *= 7
        encoder.weight.data /= 7
    scaled = BridgedPair(bridge=bridge, sparse=pair.sparse, dense=scaled_twin(pair.dense, 7), record={})
    tokens = torch.randint(0, 16, (4, 9), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(scaled.sparse_to_dense(tokens, 3), pair.dense.model(tokens), atol=1e-10)
    wrong = BridgedPair(bridge=pair.bridge, sparse=pair.sparse, dense=scaled.dense, record={})  # forgets the scale
    for location in ("1.attn.act_in", "1.attn.v"):
        nodes = (Site(location, 4),)
        a, b, c = (perturbation(p, nodes, task, strengths=(0, 1), rotations=2).evidence for p in (pair, scaled, wrong))
        assert a.value == pytest.approx(b.value, rel=1e-9)
        assert a.value != pytest.approx(c.value, rel=1e-2)


def test_the_strongest_node_is_the_planted_one() -> None:
    pair = to_itself(planted_model())
    reads, task = "0.attn.act_in", planted_task(8)
    assert str(strongest_nodes(pair, task)[0]) in PLANTED_NODES
    assert strongest_nodes(pair, task, among=reads) == (QUOTE,)
    assert strongest_nodes(pair, task, 3, among=reads)[0] == QUOTE
    for location in ("0.attn.v", "0.attn.resid_delta"):  # where the mechanism goes on
        (node,) = strongest_nodes(pair, task, among=location)
        assert str(node) in PLANTED_NODES
        e = perturbation(pair, (node,), task, strengths=(0, 1), rotations=19).evidence
        assert e.verdict == "pass"
    with pytest.raises(BadInput, match=r"1 to 128 nodes of 0\.attn\.act_in, got 0"):
        strongest_nodes(pair, task, 0, among=reads)
    with pytest.raises(BadInput, match=r"can push .*got 0\.mlp\.post_act"):
        strongest_nodes(pair, task, among="0.mlp.post_act")


def test_it_is_deterministic_by_seed() -> None:
    pair, task = to_itself(random_model(5)), planted_task(8)
    nodes = (Site("1.attn.act_in", 4),)
    a, b, c = (perturbation(pair, nodes, task, rotations=3, seed=s).evidence for s in (0, 0, 1))
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ((), "got none"),
        ((Site("0.mlp.post_act", 3),), "before its last MLP's neurons, one of 0.attn.act_in"),
        ((Site("final_resid", 3),), "before its last MLP's neurons"),
        ((Site("3.attn.act_in", 3),), "before its last MLP's neurons"),
        ((Site("0.attn.act_in", 128),), "channels 0 to 127"),
        ((QUOTE, Site("0.mlp.act_in", 3)), "nodes of one location"),
        ((QUOTE, QUOTE), "different nodes"),
    ],
)
def test_nodes_that_cannot_push_are_refused(nodes: tuple[Site, ...], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        perturbation(to_itself(planted_model()), nodes, planted_task(4))


def test_strengths_gains_and_pairs_that_cannot_be_used_are_refused() -> None:
    pair = to_itself(planted_model())
    for strengths in ((0, 0.5), (0.5, 1), (0, 0.7, 0.3, 1), (1,)):
        with pytest.raises(BadInput, match="rise from 0 to 1"):
            perturbation(pair, (QUOTE,), planted_task(4), strengths=strengths)
    pair.sparse.model.blocks[0].ln_1.weight.data[3] = 0
    with pytest.raises(BadInput, match="gain 0"):
        perturbation(pair, (QUOTE,), planted_task(4))
    uneven = Example(clean="w1 left", counterfactual="w1 w2 right", answer=" L", wrong_answer=" R")
    task = Task(name="t", version="1", description="", train=(uneven,), heldout=(uneven,))
    with pytest.raises(BadInput, match="as many tokens"):
        perturbation(to_itself(planted_model()), (QUOTE,), task)


def test_pairs_of_unequal_lengths_are_counted_and_left_out() -> None:
    task = planted_task(6)
    uneven = Example(clean="w1 left", counterfactual="w1 w2 right", answer=" L", wrong_answer=" R")
    mixed = replace(task, heldout=(uneven, *task.heldout))
    pair = to_itself(planted_model())
    whole, some = (perturbation(pair, (QUOTE,), t, rotations=2).evidence for t in (task, mixed))
    assert some.n == whole.n == 6
    assert some.value == pytest.approx(whole.value, abs=1e-12)
    assert "1 pairs of unequal lengths left out" in some.note
