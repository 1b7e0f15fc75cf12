"""Circuits of two tasks that share nothing give a diagonal matrix, those that share all a flat one: one code."""

from __future__ import annotations

import numpy as np
import pytest
from toys import PLANTED_NODES
from two_tasks import Additive, channel_trials, head_trials
from verify_helpers import circuit_of

from gossamer.compare import Specificity, overlaps, specificity, specificity_evidence
from gossamer.errors import BadInput, Unsupported
from gossamer.models import LoadedModel
from gossamer.models.planted import nonsense
from gossamer.models.planted import planted as planted_of_kind
from gossamer.verify import ChannelTrial


def matrix(found: Specificity) -> np.ndarray:
    n = len(found.names)
    return np.array([c.own.share if c.own else np.nan for c in found.cells]).reshape(n, n)


def test_disjoint_circuits_give_a_diagonal_matrix() -> None:
    trials = channel_trials("nothing")
    found = specificity(trials)
    m = matrix(found)
    assert m.diagonal() == pytest.approx(1, abs=0.02)
    assert np.abs(m[~np.eye(2, dtype=bool)]).max() < 0.05
    assert found.contrast == pytest.approx(1, abs=0.05)
    assert found.random_contrast is not None
    assert abs(found.random_contrast) < 0.2
    assert (found.p_value, found.smallest) == (0.5, 0.5)
    (whole, *rest) = specificity_evidence(found)
    assert whole.verdict == "pass"
    assert whole.methodology == trials["sides"].methodology(set_="circuit").as_dict()
    assert all(e.verdict == "pass" for e in rest if e.check == "selectivity")
    core = [c for c in found.parts if c.ablated == "sides and others"]
    assert [(c.size, c.own, c.random) for c in core] == [(0, None, None)] * 2  # empty: nothing was ablated
    assert specificity(trials, draws=1) == specificity(channel_trials("nothing"), draws=1)


def test_shared_circuits_give_a_flat_matrix() -> None:
    found = specificity(channel_trials("everything"))
    assert matrix(found) == pytest.approx(1, abs=0.02)
    assert found.contrast == pytest.approx(0, abs=0.02)
    (whole, *rest) = specificity_evidence(found)
    assert whole.verdict == "fail"
    assert all(e.verdict == "fail" for e in rest if e.check == "selectivity")


def test_a_core_costs_both_tasks_and_a_residual_its_own() -> None:
    trials = channel_trials("core")
    rows = overlaps({name: t.circuit for name, t in trials.items()})
    assert next(r.iou for r in rows if r.what == "nodes" and r.kind == "all") == 2 / 6
    found = specificity(trials)
    share = {(c.ablated, c.on): c.own.share for c in found.parts if c.own}
    for name, other in (("sides", "others"), ("others", "sides")):
        assert share["sides and others", name] == pytest.approx(1, abs=0.05)
        assert share[f"{name} without {other}", name] == pytest.approx(1, abs=0.05)
        assert share[f"{name} without {other}", other] == pytest.approx(0, abs=0.05)
    assert all(e.verdict == "pass" for e in specificity_evidence(found) if "sides and others" in e.claim)


@pytest.mark.parametrize("nodes", [False, True])
def test_heads_alike(nodes: bool) -> None:
    trials = head_trials()
    found = specificity({n: t.of_nodes() if nodes else t for n, t in trials.items()}, draws=5)
    m = matrix(found)
    assert m.diagonal() == pytest.approx(1, abs=0.05)
    assert np.abs(m[~np.eye(2, dtype=bool)]).max() < 0.05
    assert found.sizes == ((1, 1) if nodes else (2, 2))  # the input is not ablated


def test_other_sets_in_place_of_the_circuits() -> None:
    trials = channel_trials("nothing")
    exchanged = {"sides": trials["others"].inside, "others": trials["sides"].inside}
    found = specificity(trials, sets=exchanged, decompose=False, draws=2)
    assert found.contrast == pytest.approx(-1, abs=0.05)
    assert found.p_value == 1.0
    nothing = {**exchanged, "sides": np.zeros_like(exchanged["sides"])}
    empty = specificity(trials, sets=nothing, draws=2)
    assert (empty.sizes[0], empty.cells[0].own, empty.contrast, empty.selectivity[0]) == (0, None, None, None)
    (whole, first, *_) = specificity_evidence(empty)
    assert {whole.verdict, first.verdict} == {"not measured"}
    assert "Empty" in whole.note
    assert "Empty" in first.note


def test_random_circuits_are_seldom_selective() -> None:
    """A set is ahead on one task or the other; half of random sets are beyond the mean of those, few beyond all."""
    above, verdicts = [], []
    for seed in range(60):
        made = [Additive(seed, task) for task in range(4)]
        trials = {m.task.name: m.trial for m in made}
        found = specificity(trials, sets=dict.fromkeys(trials, made[0].random_set()), decompose=False)
        verdicts += [e.verdict for e in specificity_evidence(found) if e.check == "selectivity"]
        above += [s.ahead > max(0.0, s.random_ahead) for s in found.selectivity if s]
    assert np.mean(above) > 0.3
    assert verdicts.count("pass") / len(verdicts) < 0.1  # above the interpolated 97.5% of 20 draws: 1.5 in 21


def test_of_too_few_random_sets_nothing_is_claimed() -> None:
    found = specificity({m.task.name: m.trial for m in (Additive(0, 0), Additive(0, 1))}, draws=19)
    assert found.random_interval is None
    assert {c.random_interval for c in found.cells} == {None}
    for row in specificity_evidence(found):
        assert row.verdict == "not measured"
        assert "Fewer than 20 random sets" in row.note
    assert "2 tasks cannot give a p-value below 0.5" in specificity_evidence(found)[0].note


def test_what_cannot_be_compared_is_refused(planted: LoadedModel) -> None:
    trials = channel_trials("nothing")
    own = trials["sides"]
    elsewhere = ChannelTrial(
        model=planted, circuit=circuit_of(planted, PLANTED_NODES), task=own.task, heldout=own.heldout
    )
    with pytest.raises(Unsupported, match="another model"):
        specificity({"own": own, "elsewhere": elsewhere})
    with pytest.raises(BadInput, match="two or more tasks"):
        specificity({"own": own})
    made = planted_of_kind("cancelled", 0, pairs=8)
    task = nonsense(made.task)  # X and Y: the whole model has no such effect
    cannot = ChannelTrial(model=made.model, circuit=made.circuit(made.true), task=task,
                          heldout=made.model.encode(task.heldout))  # fmt: skip
    wrong = cannot.mirrored() if cannot.effects(np.ones((1, len(cannot.kinds)), dtype=bool)).mean() > 0 else cannot
    with pytest.raises(BadInput, match="leave the task out"):
        specificity({"a": wrong, "b": wrong}, draws=1)
