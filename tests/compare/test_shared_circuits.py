"""The shared part of planted tasks, what it does, and the control in which nothing is shared."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from taught import she_he, taught
from two_tasks import Kind, sides_task, two_channel_tasks
from verify_helpers import circuit_of

from gossamer.ablation import of_edges
from gossamer.circuit import Circuit
from gossamer.compare import SharedCircuits, order_stability, shared_circuits
from gossamer.compare.shared_circuits import parts_of, stability_evidence
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import Evidence
from gossamer.graph import Layout, nodes_around
from gossamer.models.succession import Succession, succession
from gossamer.record import Record
from gossamer.task import Task, sides

PAIRS, DRAWS = 2, 9
TASKS = ("numerals", "number-words", "months")


def circuit(planted: Succession, parts: frozenset[str] | set[str]) -> Circuit:
    graph = planted.model.graph()
    nodes = nodes_around(graph.layout, [graph.layout.starts[p] for p in parts])
    record = Record(method="planted", config={}, seed=0, model_sha256=planted.model.hashes()[0])
    return Circuit.from_nodes(graph, np.zeros(graph.n_edges), nodes.tolist(), record=record)


def asked(planted: Succession) -> dict[str, tuple[Task, Circuit]]:
    return {n: (planted.tasks[n], circuit(planted, planted.shared | planted.private[n])) for n in TASKS}


@pytest.fixture(scope="module")
def planted() -> Succession:
    return succession(n=PAIRS)


@pytest.fixture(scope="module")
def found(planted: Succession) -> SharedCircuits:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[SharedCircuits.__module__], "LEVEL", 1 / (1 + DRAWS))
        return shared_circuits(planted.model, asked(planted), value="zero", draws=DRAWS, pairs=PAIRS)


def named(rows: tuple[Evidence, ...], name: str) -> Evidence:
    (row,) = [e for e in rows if name in e.claim]
    return row


def test_the_parts_are_told_apart(planted: Succession, found: SharedCircuits) -> None:
    assert set(found.shared) == planted.shared
    assert {n: set(parts) for n, parts in found.own.items()} == {n: planted.private[n] for n in TASKS}
    assert set(found.union) == planted.shared.union(*planted.private.values())


def test_cross_evaluation_is_diagonal_where_private_parts_are_needed(found: SharedCircuits) -> None:
    for own in TASKS:
        for task in TASKS:
            row = named(found.cross, f"({own} on {task})")
            assert row.verdict == ("pass" if own == task else "fail")
            assert row.value == pytest.approx(1.0 if own == task else named_null(row, "empty"), abs=1e-6)
        assert named(found.cross, f"(the union on {own})").value == pytest.approx(1, abs=1e-6)
        assert named(found.cross, f"(the intersection on {own})").verdict == "fail"
    row = found.cross[0]
    assert row.methodology is not None
    assert (row.methodology["granularity"], row.methodology["set"]) == ("node", "complement")
    assert [n.name.split()[0] for n in row.nulls] == ["random", "empty", "full"]
    assert row.nulls[0].n == DRAWS


def named_null(row: Evidence, name: str) -> float:
    (value,) = [n.value for n in row.nulls if n.name.startswith(name)]
    assert value is not None
    return value


def test_the_shared_part_takes_every_task_with_it_and_random_sets_do_not(found: SharedCircuits) -> None:
    heads = named(found.joint, "(the shared heads, logit difference)")
    whole = named(found.joint, "(the shared part, logit difference)")
    for row in (heads, whole):
        assert row.value == pytest.approx(1, abs=1e-6)
        assert named_null(row, "random parts") < 0.8
        assert row.methodology is not None
        assert row.methodology["set"] == "circuit"
    assert heads.p_value == heads.p_smallest == 0.1
    assert heads.verdict == "pass"
    assert named_null(heads, "random parts") < 0.15
    # all four heads of their layer are shared, so that heads of the same layers are the same heads
    assert named_null(heads, "random heads") == pytest.approx(heads.value)
    answers = named(found.joint, "(the shared part, right answers)")
    assert named_null(answers, "random parts") == 0


def test_a_share_is_resampled_as_a_ratio() -> None:
    """Where every pair loses half of what it has, so does every resample, however unequal the pairs are."""
    whole = np.array([1.0, 2.0, 9.0, 30.0])
    falls = {"a": (np.stack([whole / 2, 0 * whole]), whole), "b": (np.stack([whole, 0 * whole]), whole)}
    joint = sys.modules[SharedCircuits.__module__]._joint
    row = joint("the shared part", "logit difference", falls, ["random"], of_edges(granularity="node"), 0)
    assert (row.value, row.interval, row.n) == (0.5, pytest.approx((0.5, 0.5)), 8)
    assert row.verdict == "not measured"
    assert "so few draws" in row.note
    many = {n: (np.concatenate([f, np.zeros((18, 4))]), of) for n, (f, of) in falls.items()}
    assert joint("the shared part", "logit difference", many, ["random"], of_edges(granularity="node"), 0).verdict == (
        "pass"
    )
    none = {n: (0 * f, of) for n, (f, of) in falls.items()}
    assert joint("the shared part", "logit difference", none, ["random"], of_edges(granularity="node"), 0).verdict == (
        "fail"
    )


def test_nothing_shared_is_said_and_not_measured_as_zero() -> None:
    control = succession(shared=False, n=PAIRS)
    found = shared_circuits(control.model, asked(control), value="zero", draws=3, pairs=PAIRS)
    assert found.shared == ()
    (row,) = found.joint
    assert (row.verdict, row.value) == ("not reached", None)
    for task in TASKS:
        none = named(found.cross, f"(the intersection on {task})")
        assert (none.verdict, none.value) == ("not measured", None)
        assert "Empty" in none.note
    first = found.cross[0]  # three draws cannot have a p-value of 0.05
    assert (first.verdict, first.value, first.p_smallest) == ("not measured", pytest.approx(1, abs=1e-6), 0.25)
    assert "so few draws" in first.note
    others = [e for e in found.cross if e.value is not None and e.value < 0.8]
    assert {e.verdict for e in others} == {"fail"}  # below the floor, whatever random sets do


def test_numbers_of_a_decoder_are_those_of_whole_runs() -> None:
    """Grouped queries; a circuit's share, and what is lost without the shared head, by one run each."""
    model, task = taught(), she_he()
    graph, starts = model.graph(), model.graph().layout.starts
    record = Record(method="planted", config={}, seed=0, model_sha256=model.hashes()[0])

    def of(*parts: str) -> Circuit:
        nodes = nodes_around(graph.layout, [starts[p] for p in parts])
        return Circuit.from_nodes(graph, np.zeros(graph.n_edges), nodes.tolist(), record=record)

    circuits = {"one": of("a0.h1", "m0", "a1.h2"), "two": of("a0.h1", "m1")}
    found = shared_circuits(model, {n: (task, c) for n, c in circuits.items()}, draws=1, pairs=5, pairs_at_once=2)
    assert found.shared == ("a0.h1",)
    clean, other = sides(model.encode(task.heldout[:5]))
    reference, logits = model.writes(other)[0], model.writes(clean)[1]
    rows = torch.arange(5)

    def gap(shares: np.ndarray) -> float:
        logits = model.patched(clean, torch.from_numpy(shares).float(), reference)
        return float((logits[rows, clean.answer] - logits[rows, clean.wrong]).mean())

    whole = float((logits[rows, clean.answer] - logits[rows, clean.wrong]).mean())
    for name, c in circuits.items():
        share = gap(c.shares(graph, of_edges(granularity="node"))) / whole
        assert named(found.cross, f"({name} on one)").value == pytest.approx(share, abs=1e-5)
    lost = 1 - gap((graph.src == starts["a0.h1"]).astype(np.float64)) / whole
    assert named(found.joint, "(the shared part, logit difference)").value == pytest.approx(lost, abs=1e-5)


def test_order_stability_is_the_mean_jaccard_with_its_core(planted: Succession) -> None:
    whole = planted.shared | planted.private["months"]
    same = order_stability([circuit(planted, whole)] * 5, draws=99)
    assert (same.overlap.value, set(same.core)) == (1, whole)
    assert same.overlap.p_value == 0.01
    less = [circuit(planted, whole - {f"a1.h{i % 4}"}) for i in range(4)]
    varied = order_stability(less, draws=99)
    assert varied.overlap.value == pytest.approx((len(whole) - 2) / len(whole))
    assert set(varied.core) == whole - {f"a1.h{i}" for i in range(4)}
    assert varied.inclusion["a1.h0"] == 0.75
    heads = len(whole) - 3  # the MLPs are the same in all
    assert varied.heads is not None
    assert varied.heads.value == pytest.approx((heads - 2) / heads)
    assert order_stability([circuit(planted, {"m0", "m1"})] * 2, draws=9).heads is None


def test_bad_input_is_named(planted: Succession) -> None:
    tasks = asked(planted)
    with pytest.raises(BadInput, match="two or more tasks"):
        shared_circuits(planted.model, {"months": tasks["months"]})
    with pytest.raises(BadInput, match="2 pairs"):
        shared_circuits(planted.model, tasks, pairs=1)
    one = {**tasks, "months": (replace(tasks["months"][0], heldout=tasks["months"][0].heldout[:1]), tasks["months"][1])}
    with pytest.raises(BadInput, match="at least 2 held-out pairs of months"):
        shared_circuits(planted.model, one)
    other = succession(shared=False, n=PAIRS)
    with pytest.raises(BadInput, match="Expected the model the circuit was found in"):
        shared_circuits(other.model, tasks)
    empty = {**tasks, "months": (planted.tasks["months"], circuit(planted, set()))}
    with pytest.raises(BadInput, match="that of months has none"):
        shared_circuits(planted.model, empty)
    with pytest.raises(BadInput, match="two or more circuits"):
        order_stability([tasks["months"][1]])
    with pytest.raises(Unsupported, match="grain feature"):
        parts_of(Layout(grain="feature", locations=(("0.attn.q", 4),)))


def of_channels(shared: Kind, draws: int = 19) -> tuple[dict[str, tuple[str, ...]], SharedCircuits]:
    model, sites = two_channel_tasks(shared)
    asked = {name: (sides_task(name), circuit_of(model, own)) for name, own in sites.items()}
    return sites, shared_circuits(model, asked, draws=draws, pairs=24)


def test_channels_that_two_tasks_share_cost_both() -> None:
    sites, found = of_channels("core")
    core = set(sites["sides"]) & set(sites["others"])
    assert set(found.shared) == core
    assert {n: set(parts) for n, parts in found.own.items()} == {n: set(own) - core for n, own in sites.items()}
    gap, ahead = found.joint
    assert gap.value == pytest.approx(1, abs=0.05)
    assert gap.p_value == pytest.approx(0.1)  # the last location has 8 channels, and one random set hits the right one
    assert gap.nulls[0].value == pytest.approx(0, abs=0.1)
    assert gap.methodology is not None
    assert (gap.methodology["component"], gap.methodology["set"]) == ("channel", "circuit")
    assert ahead.unit.startswith("share of the right answers ahead")
    for task in sites:
        own, alone = (named(found.cross, f"({what} on {task})") for what in (task, "the intersection"))
        assert own.value == pytest.approx(1, abs=0.05)
        assert own.verdict == "pass"
        assert alone.verdict == "fail"  # nothing reaches it
        assert own.nulls[0].name == "random channels, as many of every location"


def test_disjoint_channels_share_nothing() -> None:
    _, found = of_channels("nothing", draws=1)
    assert (found.shared, found.joint[0].verdict) == ((), "not reached")
    other = [e.value for e in found.cross if "(sides on others)" in e.claim or "(others on sides)" in e.claim]
    assert other == pytest.approx([0, 0], abs=0.02)


def test_circuits_that_agree_are_stable_and_unlike_ones_are_not(planted: Succession) -> None:
    own = circuit(planted, planted.shared | planted.private["months"])
    row = stability_evidence("months", [own, own, own])
    assert (row.value, row.verdict) == (1.0, "pass")
    assert stability_evidence("months", [own, own, own], draws=18).verdict == "not measured"
    assert "In at least 80% of them: " in row.note
    names, _ = parts_of(planted.model.graph().layout)
    apart = [circuit(planted, set(names[i::4])) for i in range(4)]
    assert stability_evidence("months", apart, draws=99).verdict == "fail"
