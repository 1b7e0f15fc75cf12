"""The trial passes a planted circuit and fails what is not one."""

from __future__ import annotations

import numpy as np
import pytest
from toys import PLANTED_NODES, planted_task, random_model
from verify_helpers import circuit_of

from gossamer import Circuit
from gossamer.errors import BadInput
from gossamer.metric import LN2
from gossamer.models import LoadedModel
from gossamer.models.planted import planted as known
from gossamer.record import Record
from gossamer.task import Task
from gossamer.verify import run_checks
from gossamer.verify.battery import OF_CHANNELS
from gossamer.verify.nulls import gaps, random_circuits


def test_the_planted_circuit_passes_every_check(planted: LoadedModel, planted_pairs: Task) -> None:
    evidence = run_checks(planted, planted_pairs, circuit_of(planted, PLANTED_NODES), target_loss=0.15)
    assert [e.name for e in evidence] == list(OF_CHANNELS)
    assert {e.verdict for e in evidence} == {"pass"}
    sufficiency, accuracy, necessity = evidence
    assert sufficiency.value is not None
    assert sufficiency.value < 0.15
    assert accuracy.value == 1.0
    assert necessity.value is not None
    assert necessity.value >= LN2 - 1e-3
    for e in evidence:
        names = [n.name for n in e.nulls]
        assert names == ["random circuit of the same size at every location", "empty circuit", "full circuit"]
        assert e.nulls[0].n == 20
        assert e.nulls[0].interval is not None
        assert e.methodology is not None
        assert e.methodology["set"] == ("circuit" if e is necessity else "complement")


def test_the_wrong_circuit_fails_every_check(planted: LoadedModel, planted_pairs: Task) -> None:
    """Control that must fail: the decoys, as many nodes at the same locations."""
    wrong = circuit_of(planted, ("0.attn.act_in:1", "0.attn.v:1", "0.attn.resid_delta:2", "final_resid:2"))
    evidence = run_checks(planted, planted_pairs, wrong, target_loss=0.15)
    assert {e.verdict for e in evidence} == {"fail"}


def test_full_and_empty_circuits_mean_what_they_say(planted: LoadedModel, planted_pairs: Task) -> None:
    from gossamer.metric import task_loss_nats

    circuit = circuit_of(planted, PLANTED_NODES)
    heldout = planted.encode(planted_pairs.heldout)
    whole = float(task_loss_nats(planted.run(heldout).gap).mean())
    sufficiency, _, necessity = run_checks(planted, planted_pairs, circuit, target_loss=0.15)
    assert sufficiency.nulls[2].value == pytest.approx(whole, abs=1e-6)
    assert necessity.nulls[1].value == pytest.approx(whole, abs=1e-6)
    assert sufficiency.nulls[1].value == pytest.approx(necessity.nulls[2].value, abs=1e-6)
    assert sufficiency.nulls[1].value >= LN2 - 1e-6  # type: ignore[operator]


def test_random_circuits_match_size_at_every_location(small: LoadedModel) -> None:
    graph = small.graph("channel")
    rng = np.random.default_rng(0)
    nodes = rng.choice(graph.layout.n_nodes, 40, replace=False)
    circuit = Circuit.from_nodes(
        graph, small.edge_weights(graph), nodes, record=Record.now(method="t", config={}, seed=0)
    )
    drawn = random_circuits(circuit, graph, 20, seed=1)
    for name, inside in circuit.kept_by_location().items():
        assert all(d.kept_by_location()[name].sum() == inside.sum() for d in drawn)
    assert len({d.nodes.tobytes() for d in drawn}) == 20
    again = random_circuits(circuit, graph, 20, seed=1)
    assert all((a.nodes == b.nodes).all() for a, b in zip(drawn, again, strict=True))


def test_random_circuits_of_edges_match_the_matrices(small: LoadedModel) -> None:
    graph = small.graph("channel")
    whole = Circuit.from_nodes(
        graph, small.edge_weights(graph), range(0, 200, 2), record=Record.now(method="t", config={}, seed=0)
    )
    circuit = whole.only(np.arange(0, whole.n_edges, 2))
    edges = {tuple(e) for e in np.stack([graph.src, graph.dst, graph.matrix], axis=1).tolist()}
    for drawn in random_circuits(circuit, graph, 5, seed=1):
        assert drawn.granularity == "edge"
        assert (np.bincount(drawn.matrix, minlength=12) == np.bincount(circuit.matrix, minlength=12)).all()
        assert {tuple(e) for e in np.stack([drawn.src, drawn.dst, drawn.matrix], axis=1).tolist()} <= edges
        assert np.isin(np.concatenate([drawn.src, drawn.dst]), drawn.nodes).all()
        for name, inside in circuit.kept_by_location().items():
            assert drawn.kept_by_location()[name].sum() >= inside.sum()


def test_the_engine_and_the_ablation_agree(small: LoadedModel, planted_pairs: Task) -> None:
    graph = small.graph("channel")
    circuit = Circuit.from_nodes(
        graph, small.edge_weights(graph), range(0, 150, 2), record=Record.now(method="t", config={}, seed=0)
    )
    heldout = small.encode(planted_pairs.heldout)
    for preset in ("gao-mean", "gao-mean-circuit", "zero-complement", "zero-circuit"):
        direct = small.run(heldout, ablation=circuit.as_ablation(preset)).gap
        assert (gaps(small, circuit, heldout, preset, [circuit])[0] == direct).all()


def test_a_circuit_of_another_model_is_refused(planted: LoadedModel, planted_pairs: Task) -> None:
    circuit = circuit_of(planted, PLANTED_NODES)
    with pytest.raises(BadInput, match="weights"):
        run_checks(random_model(), planted_pairs, circuit, target_loss=0.15)
    with pytest.raises(BadInput, match="did you mean necessity"):
        run_checks(planted, planted_task(), circuit, target_loss=0.15, checks=("necesity",))


def test_a_trace_of_the_answer_outside_the_circuit_is_not_the_task() -> None:
    """Of this planted model noise carries a thousandth of the effect past the circuit: 0.691 nats, not ln 2."""
    made = known("plain", 0)
    (evidence,) = run_checks(made.model, made.task, made.circuit(made.true), target_loss=0.15, checks=("necessity",))
    assert evidence.value is not None
    assert LN2 - 0.01 < evidence.value < LN2
    assert evidence.verdict == "pass"


def test_random_sets_that_hit_a_chain_do_not_clear_it() -> None:
    """Of twenty draws two or more hit this circuit's chain of twelve; of a set of half the model, every draw does."""
    made = known("plain", 7)
    (evidence,) = run_checks(made.model, made.task, made.circuit(made.true), target_loss=0.15, checks=("necessity",))
    assert evidence.verdict == "pass"
    assert int(evidence.note.split()[0]) >= 2
    half = [str(made.model.layout.site(i)) for i in range(0, made.model.layout.n_nodes, 2)]
    large = made.circuit((*made.true, *half))
    (evidence,) = run_checks(made.model, made.task, large, target_loss=0.15, checks=("necessity",))
    assert evidence.verdict == "fail"
