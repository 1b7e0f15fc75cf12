"""Circuits made of circuits: laws of sets, planted halves that only together do the task, junk that adds nothing."""

from __future__ import annotations

import numpy as np
import pytest
from taught import taught
from toys import PLANTED_NODES
from two_tasks import Additive, channel_trials
from verify_helpers import circuit_of

from gossamer.circuit import Circuit
from gossamer.compare.set_algebra import Operation, composed, composition_evidence, known_operation, on_task
from gossamer.errors import BadInput
from gossamer.evidence import Evidence
from gossamer.models import LoadedModel
from gossamer.record import Record

RECORD = Record(method="by hand", config={}, seed=0)
NAMES = ("0.attn.act_in", "0.attn.v", "0.attn.resid_delta", "final_resid")
JUNK = tuple(f"{name}:{i}" for name in NAMES for i in (0, 1, 2))
TRIAL = channel_trials("nothing")["sides"]
MODEL = TRIAL.model
assert isinstance(MODEL, LoadedModel)
OTHER_JUNK = ("0.attn.act_in:4", "0.attn.act_in:5", "0.attn.v:3", "0.attn.v:4", "0.attn.v:6", "0.attn.resid_delta:3",
              "0.attn.resid_delta:4", "final_resid:4", "final_resid:5")  # fmt: skip


def planted(*sites: str) -> Circuit:
    assert isinstance(MODEL, LoadedModel)
    return circuit_of(MODEL, sites)


def tried(operation: Operation, draws: int = 19, **circuits: Circuit) -> Evidence:
    graph = MODEL.graph("channel")
    found = composed(graph, list(circuits.values()), operation, RECORD, MODEL.edge_weights)
    parts = {n: TRIAL.retried(c).inside for n, c in circuits.items()}
    result = on_task(TRIAL, TRIAL.retried(found).inside, parts, operation, draws=draws)
    assert result.share == pytest.approx(result.parts["one"], abs=1e-9) or len(set(map(id, circuits.values()))) > 1
    return composition_evidence(result, TRIAL, operation, rule="reference")


def test_two_halves_do_together_what_neither_does() -> None:
    row = tried("union", one=planted(*PLANTED_NODES[:2]), two=planted(*PLANTED_NODES[2:]))
    assert row.value == pytest.approx(1, abs=0.02)
    part, random, empty, full = row.nulls
    assert part.value == pytest.approx(0, abs=0.05)
    assert random.n == 38  # supersets of either half
    assert random.value == pytest.approx(0, abs=0.1)
    assert (empty.value, full.value) == (0, 1)
    assert (row.verdict, row.p_value) == ("pass", 1 / 39)
    assert row.methodology is not None
    assert row.methodology["replacement"] == "reference"
    assert row.claim.startswith("composition (one | two on sides)")


def test_a_union_with_junk_gains_nothing() -> None:
    """The control: the circuit and what nobody reads; every superset of the circuit is as good."""
    row = tried("union", one=planted(*PLANTED_NODES), two=planted(*JUNK))
    assert row.value == pytest.approx(1, abs=0.02)
    assert row.verdict == "fail"


def test_an_intersection_and_a_difference_keep_what_matters() -> None:
    more = planted(*PLANTED_NODES, *JUNK)
    row = tried("intersection", one=more, two=planted(*PLANTED_NODES, *OTHER_JUNK))
    assert row.value == pytest.approx(1, abs=0.02)
    assert row.verdict == "pass"
    assert row.nulls[1].value is not None
    assert row.nulls[1].value < 0.9
    assert tried("difference", one=more, two=planted(*JUNK)).verdict == "pass"
    assert tried("difference", one=more, two=planted(*PLANTED_NODES)).verdict == "fail"  # the junk is left


def test_laws_of_sets_and_every_edge_between_kept_nodes() -> None:
    a, b = planted(*PLANTED_NODES[:3]), planted(*PLANTED_NODES[1:])
    graph = MODEL.graph("channel")

    def nodes(operation: Operation, *circuits: Circuit) -> set[int]:
        return set(composed(graph, circuits, operation, RECORD, MODEL.edge_weights).nodes.tolist())

    assert nodes("union", a, b) == set(a.nodes) | set(b.nodes) == nodes("union", b, a)
    assert nodes("intersection", a, b) == set(a.nodes) & set(b.nodes)
    assert nodes("difference", a, b) == set(a.nodes) - set(b.nodes)
    assert len(nodes("union", a, b)) + len(nodes("intersection", a, b)) == a.n_nodes + b.n_nodes
    assert nodes("intersection", a, a) == nodes("union", a, a) == set(a.nodes)
    whole = planted(*PLANTED_NODES)
    halves = (planted(*PLANTED_NODES[:2]), planted(*PLANTED_NODES[2:]))
    union = composed(graph, halves, "union", RECORD, MODEL.edge_weights)
    assert (union.n_edges, union.weight.tolist()) == (whole.n_edges, whole.weight.tolist())
    assert union.n_edges > sum(h.n_edges for h in halves)
    with pytest.raises(BadInput, match="it is empty"):
        composed(graph, [a, a], "difference", RECORD, MODEL.edge_weights)
    with pytest.raises(BadInput, match="two or more"):
        composed(graph, [a], "union", RECORD)
    with pytest.raises(BadInput, match="not all of it"):
        composed(taught().graph(), [a, b], "union", RECORD)
    with pytest.raises(BadInput, match="known: difference, intersection, union"):
        known_operation("xor")


def test_circuits_with_cut_edges_are_combined_as_edges() -> None:
    graph = taught().graph()
    rng = np.random.default_rng(0)
    sets = [np.sort(rng.choice(graph.n_edges, 30, replace=False)) for _ in range(2)]
    a, b = (Circuit.from_edges(graph, s, s + 0.5, record=RECORD) for s in sets)
    for operation, wanted in (
        ("union", np.union1d(*sets)), ("intersection", np.intersect1d(*sets)), ("difference", np.setdiff1d(*sets)),
    ):  # fmt: skip
        found = composed(graph, [a, b], known_operation(operation), RECORD)
        assert np.array_equal(graph.numbers(found.src, found.dst, found.matrix), wanted)
        assert np.array_equal(found.weight, wanted + 0.5)
        assert found.granularity == "edge"


def test_random_sets_match_every_kind_and_hold_their_part() -> None:
    """By arithmetic: a union's random supersets are as good as it is on average, so it seldom beats them all."""
    passed = 0
    for seed in range(40):
        additive = Additive(seed, task=seed)
        sets = [additive.random_set() for _ in range(2)]
        sets[1] = np.roll(sets[1], 1) & (np.arange(60) > 20)
        union = sets[0] | sets[1]
        result = on_task(additive.trial, union, {"a": sets[0], "b": sets[1]}, "union", draws=10)
        assert len(result.random) == 20
        assert result.share == pytest.approx(
            (union @ additive.of_pairs.T).mean() / additive.of_pairs.sum(1).mean(), abs=1e-9
        )
        passed += result.share > max(result.random)
    assert passed <= 6
    with pytest.raises(BadInput, match="random sets, got 0"):
        on_task(additive.trial, union, {"a": sets[0]}, "union", draws=0)
