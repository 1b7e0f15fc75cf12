"""Circuits made of circuits: laws of sets, planted halves that only together do the task, junk that adds nothing."""

from __future__ import annotations

import numpy as np
import pytest
from taught import taught
from toys import PLANTED_NODES
from two_tasks import Additive, channel_trials
from verify_helpers import circuit_of

from gossamer.circuit import Circuit
from gossamer.compare.parts import TOO_FEW
from gossamer.compare.set_algebra import GAIN, Operation, composed, composition_evidence, known_operation, on_task
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


def tried(operation: Operation, draws: int = 20, gain: float = GAIN, **circuits: Circuit) -> Evidence:
    graph = MODEL.graph("channel")
    found = composed(graph, list(circuits.values()), operation, RECORD, MODEL.edge_weights)
    parts = {n: TRIAL.retried(c).inside for n, c in circuits.items()}
    result = on_task(TRIAL, TRIAL.retried(found).inside, parts, operation, draws=draws)
    assert result.share == pytest.approx(result.parts["one"], abs=1e-9) or len(set(map(id, circuits.values()))) > 1
    return composition_evidence(result, TRIAL, operation, rule="reference", gain=gain)


def test_two_halves_do_together_what_neither_does() -> None:
    row = tried("union", one=planted(*PLANTED_NODES[:2]), two=planted(*PLANTED_NODES[2:]))
    assert row.value == pytest.approx(1, abs=0.02)
    part, *random, empty, full = row.nulls
    assert part.value == pytest.approx(0, abs=0.05)
    assert {r.name.split(",")[0] for r in random} == {f"random supersets of {x}" for x in ("one", "two")}
    assert random[0].name.split(",")[0] == f"random supersets of {part.name.partition('(')[2][:-1]}"
    for null in random:
        assert null.n == 20
        assert null.value == pytest.approx(0, abs=0.1)
    assert (empty.value, full.value) == (0, 1)
    assert (row.verdict, row.p_value) == ("pass", 1 / 21)
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
    assert len(row.nulls) == 5
    assert tried("difference", one=more, two=planted(*JUNK)).verdict == "pass"
    assert tried("difference", one=more, two=planted(*PLANTED_NODES)).verdict == "fail"  # the junk is left


def test_too_few_random_sets_are_no_verdict() -> None:
    halves = {"one": planted(*PLANTED_NODES[:2]), "two": planted(*PLANTED_NODES[2:])}
    for draws in (1, 19):
        row = tried("union", draws, **halves)
        assert (row.verdict, row.p_value) == ("not measured", 1 / (draws + 1))
        assert row.note.startswith(TOO_FEW)
        assert {n.interval for n in row.nulls} == {None}
    more = {"one": planted(*PLANTED_NODES, *JUNK), "two": planted(*JUNK)}
    assert tried("difference", 19, **more).verdict == "not measured"
    assert tried("union", 20, gain=0.9, **halves).verdict == "pass"
    assert tried("union", 20, gain=1.1, **halves).verdict == "fail"
    for gain in (-0.1, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="a gain of at least 0"):
            tried("union", 1, gain=gain, **halves)


def test_a_set_that_is_one_of_its_parts_has_no_random_sets() -> None:
    """Nested circuits and a difference of disjoint ones: all random sets of that part are the set itself."""
    whole, half = planted(*PLANTED_NODES, *JUNK), planted(*PLANTED_NODES[:2])
    for operation, other, same in (
        ("union", half, "one"), ("intersection", half, "two"), ("difference", planted(*OTHER_JUNK), "one"),
    ):  # fmt: skip
        row = tried(known_operation(operation), one=whole, two=other)
        assert row.verdict == "not measured"
        assert f" of {same} is the composed circuit itself" in row.note
        assert row.p_value == 1


def test_a_difference_stands_beside_the_first_circuit() -> None:
    """Not the one taken away, though that does more; each random set is of one circuit, p the worse of both."""
    junk = planted(*JUNK, PLANTED_NODES[0])
    row = tried("difference", one=junk, two=planted(*PLANTED_NODES))
    assert row.nulls[0].name == "the first circuit alone (one)"
    assert row.nulls[0].value == pytest.approx(0, abs=0.05)
    assert [n.name for n in row.nulls[1:-2]] == ["random subsets of one, as many parts of every kind"]
    trial = Additive(0).trial
    sets = {"a": np.arange(60) < 4, "b": (np.arange(60) > 25) & (np.arange(60) < 50)}
    result = on_task(trial, sets["a"] | sets["b"], sets, "union")
    share, p = result.share, {n: (1 + sum(x >= result.share for x in r)) / 21 for n, r in result.random.items()}
    found = composition_evidence(result, trial, "union", rule="none")
    assert share == found.value
    assert found.p_value == max(p.values())
    assert min(p.values()) < max(p.values())  # the two nulls are unlike


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
    with pytest.raises(BadInput, match="not of it"):
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
        assert [len(x) for x in result.random.values()] == [10, 10]
        assert result.share == pytest.approx(
            (union @ additive.of_pairs.T).mean() / additive.of_pairs.sum(1).mean(), abs=1e-9
        )
        passed += result.share > max(map(max, result.random.values()))
    assert passed <= 6
    with pytest.raises(BadInput, match="random sets, got 0"):
        on_task(additive.trial, union, {"a": sets[0]}, "union", draws=0)
