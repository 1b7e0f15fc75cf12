"""Circuit and model without the same parts: alike for the planted circuit, not where a backup was left out."""

from __future__ import annotations

import numpy as np
import pytest
from subset_toys import doubled, trial_of
from taught import she_he, taught
from toys import PLANTED_NODES, planted_model

from gossamer.discover import eap
from gossamer.errors import BadInput
from gossamer.verify import EdgeTrial
from gossamer.verify.completeness import completeness, gaps_of
from gossamer.verify.random_subsets import random_subsets
from gossamer.verify.trial import ends, shares

DECODER, SHE_HE = taught(), she_he()


def edges(kept: int = 30, pairs: int = 6) -> EdgeTrial:
    return EdgeTrial(
        model=DECODER, circuit=eap(DECODER, SHE_HE).top(kept), task=SHE_HE, training=DECODER.encode(SHE_HE.train[:8]),
        heldout=DECODER.encode(SHE_HE.heldout[:pairs]),
    )  # fmt: skip


def test_identities_of_the_gap() -> None:
    """No part gone: what faithfulness lacks. All parts gone: the model without the circuit. Whole model: exactly 0."""
    for trial in (trial_of(planted_model()), edges()):
        empty, whole = ends(trial)
        inside, n = trial.inside, len(trial.kinds)
        none, every = np.zeros(n, dtype=bool), inside
        gaps = gaps_of(trial, inside, np.stack([none, every]))
        (f,), _ = shares(trial.effects(inside[None]), empty, whole, 0)
        assert gaps[0].mean() / (whole - empty).mean() == pytest.approx(f - 1, abs=1e-9)
        assert np.array_equal(gaps[1], empty - trial.effects(~inside[None])[0])
        some = np.random.default_rng(0).random((4, n)) > 0.5
        assert not gaps_of(trial, np.ones(n, dtype=bool), some).any()


def test_the_planted_circuit_is_complete() -> None:
    e = completeness(trial_of(planted_model()))
    assert (e.verdict, e.n) == ("pass", 8)
    assert e.value == pytest.approx(0, abs=0.1)
    (null,) = e.nulls
    assert (null.name, null.n) == ("random circuit of the same size at every location", 3)
    assert null.value == pytest.approx(1, abs=0.1)
    assert e == completeness(trial_of(planted_model()))


def test_a_part_missing_fails() -> None:
    e = completeness(trial_of(planted_model(), PLANTED_NODES[:2] + PLANTED_NODES[3:]))
    assert e.verdict == "fail"
    assert e.value == pytest.approx(1, abs=0.05)


def test_a_backup_left_out_fails_though_the_circuit_is_faithful() -> None:
    """Control: only sets that take the circuit's own copy away show the other; with both the circuit is complete."""
    trial = trial_of(doubled())
    assert random_subsets(trial).verdict == "pass"
    e = completeness(trial)
    assert e.verdict == "fail"
    assert e.value == pytest.approx(1, abs=0.01)
    assert "has 1 of 4 parts: 0.attn.v:5." in e.note
    both = completeness(trial_of(doubled(), (*PLANTED_NODES, "0.attn.v:7")))
    assert both.verdict == "pass"


def test_the_search_goes_on_where_the_draws_stop() -> None:
    """With one draw, the empty set, only the greedy rounds can find the backup."""
    trial = trial_of(doubled())
    assert completeness(trial, draws=1, rounds=0).value == pytest.approx(0, abs=0.01)
    assert completeness(trial, draws=1, rounds=1).value == pytest.approx(1, abs=0.01)


def test_edges_and_an_empty_circuit_are_tried_alike() -> None:
    e = completeness(edges(), draws=8, rounds=1)
    assert e.value is not None
    assert e.methodology is not None
    assert (e.n, e.methodology["value"]) == (3, "resample")
    nothing = completeness(trial_of(planted_model(), ()))
    assert (nothing.verdict, nothing.value) == ("fail", 1.0)


def test_what_cannot_be_measured_is_said() -> None:
    few = completeness(edges(pairs=3))
    assert (few.verdict, few.value) == ("not measured", None)
    assert "3 pairs are too few" in few.note
    with pytest.raises(BadInput, match="at least 1 draw"):
        completeness(edges(), draws=0)
