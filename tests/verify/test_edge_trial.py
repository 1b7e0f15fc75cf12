"""The trial of a circuit of edges: its ends, both directions, nodes, and controls that must fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from taught import she_he, taught

from gossamer.ablation import of_edges
from gossamer.circuit import Circuit
from gossamer.discover import eap
from gossamer.evidence import Evidence
from gossamer.metric import divergence, logit_difference
from gossamer.task import sides
from gossamer.verify import run_battery
from gossamer.verify.edge_checks import EDGE_BATTERY
from gossamer.verify.edge_trial import CIRCUIT, EMPTY, FULL, RANDOM, EdgeTrial
from gossamer.verify.nulls import random_edge_circuits

MODEL, TASK = taught(), she_he()
TRAINING, HELDOUT = MODEL.encode(TASK.train[:12]), MODEL.encode(TASK.heldout[:12])


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return eap(MODEL, TASK).top(30)


def trial(circuit: Circuit, **fields: object) -> EdgeTrial:
    given = {"model": MODEL, "circuit": circuit, "task": TASK, "heldout": HELDOUT, "training": TRAINING, "draws": 5}
    return EdgeTrial(**given | fields)  # type: ignore[arg-type]


def on_trial(made: EdgeTrial) -> tuple[Evidence, ...]:
    limits = {name: {"target": 0.9} if name in ("faithfulness", "restoration") else {} for name in EDGE_BATTERY}
    return run_battery(made, limits)


def test_a_trial_is_what_patched_runs_say(circuit: Circuit) -> None:
    clean, other = sides(HELDOUT)
    reference, _ = MODEL.writes(other)
    _, whole = MODEL.writes(clean)
    _, none = MODEL.writes(other)
    shares = torch.ones(MODEL.graph().n_edges)
    shares[torch.from_numpy(MODEL.graph().numbers(circuit.src, circuit.dst, circuit.matrix))] = 0
    logits = MODEL.patched(clean, shares, reference)
    for at_once in (5, 12):
        made = trial(circuit, pairs_at_once=at_once)
        gap, kl = made.outcome(made.methodology())
        assert np.allclose(gap[CIRCUIT], logit_difference(logits, clean), atol=1e-4)
        assert np.allclose(gap[EMPTY], logit_difference(none, clean), atol=1e-4)
        assert np.allclose(gap[FULL], logit_difference(whole, clean), atol=1e-4)
        assert np.allclose(kl[CIRCUIT], divergence(whole, logits), atol=1e-4)
        assert np.allclose(kl[FULL], 0, atol=1e-5)
        assert len(gap[RANDOM]) == 5


def test_the_other_direction_restores_the_clean_answer(circuit: Circuit) -> None:
    made = trial(circuit)
    there = made.outcome(made.methodology(set_="circuit", direction="counterfactual"))
    here = made.outcome(made.methodology())
    assert np.allclose(there.gap[FULL], here.gap[FULL], atol=1e-3)
    assert np.allclose(there.gap[EMPTY], here.gap[EMPTY], atol=1e-3)


def test_a_real_circuit_passes_and_a_random_one_fails(circuit: Circuit) -> None:
    found = {e.name: e for e in on_trial(trial(circuit))}
    assert set(found) == set(EDGE_BATTERY)
    for name in ("faithfulness", "accuracy", "divergence"):
        assert found[name].verdict == "pass", found[name]
        assert {n.name.split(" ")[0] for n in found[name].nulls} == {"random", "empty", "full"}
        assert found[name].methodology == of_edges().as_dict()
    assert found["necessity"].methodology == of_edges(set="circuit").as_dict()
    assert found["necessity"].value == pytest.approx(1, abs=0.2)  # nothing is left of the task without it
    gap = trial(circuit).outcome(of_edges(set="circuit")).gap.mean(1)
    assert f"nothing ablated {gap[EMPTY]:.4g}" in found["necessity"].note
    few = {e.name: e.verdict for e in on_trial(trial(circuit, heldout=HELDOUT.pairs(0, 1)))}
    assert set(few.values()) == {"not measured"}
    (random,) = random_edge_circuits(circuit, MODEL.graph(), 1, 7, "edge")
    assert np.array_equal(np.bincount(random.matrix, minlength=5), np.bincount(circuit.matrix, minlength=5))
    verdicts = {e.name: e.verdict for e in on_trial(trial(random))}
    assert verdicts["faithfulness"] == verdicts["divergence"] == verdicts["accuracy"] == "fail"


def test_ablating_nodes_ablates_every_edge_out_of_them(circuit: Circuit) -> None:
    graph, made = MODEL.graph(), trial(circuit, granularity="node")
    shares = circuit.shares(graph, made.methodology())
    assert set(graph.src[shares == 1].tolist()).isdisjoint(circuit.nodes.tolist())
    assert (shares[np.isin(graph.src, circuit.nodes)] == 0).all()
    assert np.array_equal(circuit.shares(graph, made.methodology(set_="circuit")), 1 - shares)
    kinds = [str(s)[:2] if s.location[0] == "m" else s.location.partition(".")[2][:1] for s in circuit.sites]
    for drawn in random_edge_circuits(circuit, graph, 3, 0, "node"):
        there = [str(s)[:2] if s.location[0] == "m" else s.location.partition(".")[2][:1] for s in drawn.sites]
        assert there.count("h") == kinds.count("h")
        assert drawn.n_nodes == circuit.n_nodes
    nodes = {e.name: e for e in on_trial(made)}
    assert nodes["faithfulness"].methodology == of_edges(granularity="node").as_dict()
    assert nodes["faithfulness"].nulls[0].name == "random circuit with as many heads and MLPs"


def test_without_a_difference_there_is_no_ratio(circuit: Circuit) -> None:
    """Prompts that are their own counterfactuals: nothing to be faithful to."""
    same = replace(TASK.heldout[0], counterfactual=TASK.heldout[0].clean)
    made = trial(circuit, heldout=MODEL.encode((same,) * 5))
    found = {e.name: e for e in on_trial(made)}
    assert found["faithfulness"].verdict == "not measured"
    assert found["faithfulness"].value is None
    assert "the model does not do this task, or the ablation does not take it away" in found["faithfulness"].note
