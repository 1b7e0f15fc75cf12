"""Set algebra of circuits, and unions on the hand-written model: copy | reverse swaps, random supersets do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_edits import COPIES, CROSS, LETTERS, OPERATIONS, REVERSES, planted_edits, planted_splits

from gossamer.circuit import Circuit
from gossamer.compare import Composed, cross_task, edit_faithfulness, edit_means, union_evidence, unions
from gossamer.compare.composition import answered, kept, random_like, random_superset, values_by
from gossamer.errors import BadInput
from gossamer.mask import apply_masks
from gossamer.models.encoder_decoder import exact_match
from gossamer.record import Record
from gossamer.tasks.pcfg_set import encode

MODEL, EDITS = planted_edits(), planted_splits()
TRAIN, HELD = ({o: both[i] for o, both in EDITS.items()} for i in (0, 1))
MEANS = edit_means(MODEL, TRAIN, LETTERS)
GRAPH = MODEL.graph()
N, START = GRAPH.layout.n_nodes, GRAPH.layout.starts[CROSS]


def circuit(nodes: list[int], operation: str = "copy") -> Circuit:
    details = {"means_of": "training"}
    record = Record.now(method="test", config={}, seed=0, task=operation, details=details)
    return Circuit.from_nodes(GRAPH, np.zeros(0), nodes, record=record)


TRUE = {"copy": COPIES, "reverse": REVERSES, "swap_first_last": [*COPIES, *REVERSES[:4]]}
CIRCUITS = {o: circuit([START + c for c in channels], o) for o, channels in TRUE.items()}

sets = st.frozensets(st.integers(0, N - 1), max_size=N)


@settings(max_examples=40, deadline=None)
@given(sets, sets, sets)
def test_circuits_obey_the_laws_of_sets(x: frozenset[int], y: frozenset[int], z: frozenset[int]) -> None:
    a, b, c = (circuit(sorted(s)) for s in (x, y, z))

    def same(one: Circuit, other: Circuit) -> bool:
        return one.nodes.tolist() == other.nodes.tolist() and bool((kept([one]) == kept([other])).all())

    assert set((a | b).nodes.tolist()) == x | y
    assert set((a & b).nodes.tolist()) == x & y
    assert set((a & ~b).nodes.tolist()) == x - y
    assert same(~(a | b), ~a & ~b)
    assert same(~(a & b), ~a | ~b)
    assert same(a | a, a)
    assert same(a & a, a)
    assert same(~~a, a)
    assert same(a | b, b | a)
    assert same((a | b) | c, a | (b | c))
    assert same(a & (b | c), (a & b) | (a & c))
    assert same(a | (a & b), a)
    assert (a | b).n_nodes + (a & b).n_nodes == a.n_nodes + b.n_nodes
    assert (kept([a]) != kept([~a])).all()


def test_a_union_remembers_the_first_circuits_operation() -> None:
    both = CIRCUITS["copy"] | CIRCUITS["reverse"]
    assert both.record.task == "copy"
    assert (CIRCUITS["reverse"] | CIRCUITS["copy"]).record.task == "reverse"


def test_rules_say_whose_means() -> None:
    assert values_by("first", MEANS, "copy", "reverse") is MEANS["copy"]
    assert values_by("evaluated", MEANS, "copy", "reverse") is MEANS["reverse"]
    every = values_by("all", MEANS, "copy", "reverse")
    assert torch.allclose(every[CROSS], sum(m[CROSS] for m in MEANS.values()) / 3)
    assert not any(v.any() for v in values_by("zero", MEANS, "copy", "reverse").values())
    with pytest.raises(BadInput, match="did you mean first"):
        values_by("frist", MEANS, "copy", "copy")
    with pytest.raises(BadInput, match="means of echo"):
        values_by("first", MEANS, "echo", "copy")


def test_one_pass_measures_what_decoding_does() -> None:
    rng = np.random.default_rng(0)
    batch = encode(HELD["copy"], LETTERS)
    keep = kept([CIRCUITS["copy"], CIRCUITS["reverse"]])
    keep = np.concatenate([keep, [keep[0] & (rng.random(N) < 0.8) for _ in range(4)]])
    found = answered(MODEL, keep, batch, MEANS["copy"]).exact.mean(1)
    for row, exact in zip(keep, found, strict=True):
        masks = {name: torch.from_numpy(m).float() for name, m in GRAPH.layout.split(row).items()}
        edit = apply_masks(masks, MEANS["copy"])

        class Masked:
            def generate(self, source: torch.Tensor, edit: object = edit) -> torch.Tensor:
                return MODEL.generate(source, edit)  # type: ignore[arg-type]

        assert exact_match(Masked(), *batch) == pytest.approx(exact)  # type: ignore[arg-type]
    assert len(set(found)) > 2


def test_faithfulness_of_everything_of_the_circuit_and_of_random_ones() -> None:
    full = circuit(list(range(N)))
    found = answered(MODEL, kept([full, CIRCUITS["copy"]]), encode(HELD["copy"], LETTERS), MEANS["copy"])
    assert found.faithful[0].min() == 1
    row = edit_faithfulness(MODEL, CIRCUITS["copy"], HELD["copy"], MEANS, letters=LETTERS)
    assert row.value == pytest.approx(found.faithful[1].mean())
    assert row.value > 0.99
    assert row.verdict == "pass"
    assert row.nulls[0].value is not None
    assert row.nulls[0].value < 0.6
    assert row.methodology is not None
    assert (row.methodology["value"], row.methodology["replacement"]) == ("mean", "first")
    other = circuit([START + c for c in REVERSES], "copy")
    assert edit_faithfulness(MODEL, other, HELD["copy"], MEANS, letters=LETTERS).verdict == "fail"
    assert (
        edit_faithfulness(MODEL, full, HELD["copy"], MEANS, letters=LETTERS).verdict == "fail"
    )  # all of it is no circuit


@pytest.mark.parametrize("rule", ["first", "evaluated", "all", "zero"])
def test_planted_circuits_do_their_own_operation_and_the_larger_one_a_part_of_it(rule: str) -> None:
    found = cross_task(MODEL, CIRCUITS, HELD, MEANS, rule=rule, letters=LETTERS)  # type: ignore[arg-type]
    assert found.operations == OPERATIONS
    assert np.diag(found.faithful).min() > 0.99
    assert np.diag(found.exact).min() == 1
    assert found.exact[0].tolist() == [1, 0, 0]
    assert found.exact[1].tolist() == [0, 1, 0]
    assert found.exact[2, 0] == 1  # the circuit of swap contains that of copy
    assert np.isnan(np.diag(found.apart)).all()
    # copy's circuit on swap: the two ends are told apart, and only they are wrong; the easy tokens hide it
    assert found.faithful[0, 2] > 0.6
    assert found.apart[0, 2] < 0.15


@pytest.mark.parametrize("rule", ["first", "evaluated", "zero"])
def test_the_union_of_copy_and_reverse_swaps_and_no_random_superset_does(rule: str) -> None:
    found = unions(MODEL, CIRCUITS, HELD, MEANS, rule=rule, letters=LETTERS, draws=20, tested=2)  # type: ignore[arg-type]
    assert len(found) == (6 if rule == "first" else 3)
    best = [u for u in found if u.gain >= 0.3]
    assert {(frozenset((u.first, u.second)), u.evaluated) for u in best} == {
        (frozenset(("copy", "reverse")), "swap_first_last")
    }
    for u in best:
        assert (u.alone, u.union, u.own, u.nodes) == (0, 1, 1, 10)
        assert len(u.random) == 40
        assert u.beats_random
        row = union_evidence(u, CIRCUITS[u.first], len(HELD[u.evaluated]), rule=rule)  # type: ignore[arg-type]
        assert (row.verdict, row.value, row.p_value) == ("pass", 1, 1 / 41)
        assert [null.value for null in row.nulls] == [0, pytest.approx(np.mean(u.random))]
        assert row.methodology is not None
        assert row.methodology["replacement"] == rule
    assert all(not u.beats_random for u in found if u.gain < 0.3)
    assert [len(u.random) for u in found] == [40, 40, *[0] * (len(found) - 2)]


def test_a_gain_of_exactly_the_limit_passes() -> None:
    union = Composed("copy", "reverse", "swap_first_last", 10, alone=0.17, union=0.47, own=1, random=(0.4,))
    assert 0.47 - 0.17 < 0.3
    assert union_evidence(union, CIRCUITS["copy"], 100, rule="first").verdict == "pass"
    assert union_evidence(union._replace(union=0.46), CIRCUITS["copy"], 100, rule="first").verdict == "fail"


def test_a_union_with_what_does_it_already_gains_nothing() -> None:
    some = {o: CIRCUITS[o] for o in ("reverse", "swap_first_last")}
    (only,) = unions(MODEL, some, {"copy": HELD["copy"]}, MEANS, rule="evaluated", letters=LETTERS, tested=1)
    assert (only.gain, only.own) == (0, None)
    assert not only.beats_random  # supersets of swap's circuit copy as well
    assert union_evidence(only, CIRCUITS["reverse"], 80, rule="evaluated").verdict == "fail"
    bare = union_evidence(only._replace(random=()), CIRCUITS["reverse"], 80, rule="evaluated")
    assert (bare.verdict, bare.p_value, bare.nulls[1].outcome) == ("fail", None, "not measured")
    assert not Composed("a", "b", "c", 3, 0.0, 1.0, None).beats_random


def test_random_sets_have_the_sizes_of_every_module() -> None:
    rng = np.random.default_rng(1)
    a, b = (circuit(rng.choice(N, 60, replace=False).tolist()) for _ in range(2))
    sizes = {k: int(v.sum()) for k, v in (a | b).kept_by_location().items()}
    for _ in range(5):
        drawn = random_superset(a, a | b, rng)
        assert {k: int(v.sum()) for k, v in GRAPH.layout.split(drawn).items()} == sizes
        assert drawn[a.nodes].all()
        like = GRAPH.layout.split(random_like(a, rng))
        assert {k: int(v.sum()) for k, v in like.items()} == {k: int(v.sum()) for k, v in a.kept_by_location().items()}
    assert (random_superset(a, a, rng) == kept([a])[0]).all()


def test_circuits_of_another_model_and_no_edits_are_refused() -> None:
    other = circuit([1]).record.model_copy(update={"model_sha256": "another"})
    wrong = Circuit.from_nodes(GRAPH, np.zeros(0), [1], record=other)
    with pytest.raises(BadInput, match="got one of another"):
        edit_faithfulness(MODEL, wrong, HELD["copy"], MEANS, letters=LETTERS)
    with pytest.raises(BadInput, match="edits of every operation"):
        unions(MODEL, CIRCUITS, {"copy": []}, MEANS, letters=LETTERS)
    with pytest.raises(BadInput, match="one or more circuits"):
        cross_task(MODEL, {}, HELD, MEANS, letters=LETTERS)
