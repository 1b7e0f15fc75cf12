"""Every value of an ablation: the planted circuit holds under each, a decoy under none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from battery import trial_of as trial_made
from taught import she_he, taught
from toys import PLANTED_NODES
from verify_helpers import circuit_of

from gossamer.discover import eap
from gossamer.models import LoadedModel
from gossamer.models.planted import case
from gossamer.task import Task
from gossamer.verify import ChannelTrial, EdgeTrial
from gossamer.verify.every_value import _row, every_value
from gossamer.verify.trial import random_sets


def trial_of(model: LoadedModel, task: Task, sites: tuple[str, ...]) -> ChannelTrial:
    return ChannelTrial(
        model=model, circuit=circuit_of(model, sites), task=task, heldout=model.encode(task.heldout[:12])
    )


def test_the_planted_circuit_holds_under_every_value(planted: LoadedModel, planted_pairs: Task) -> None:
    rows = every_value(trial_of(planted, planted_pairs, PLANTED_NODES))
    names = [e.name for e in rows]
    assert len(names) == len(set(names)) == 9
    assert {e.verdict for e in rows} == {"pass"}
    for e in rows:
        assert e.value == pytest.approx(2 if "necessity by resample" in e.name else 1, abs=1.1)
        assert e.methodology is not None
        assert e.methodology["value"] in e.claim


def test_a_decoy_holds_under_none(planted: LoadedModel, planted_pairs: Task) -> None:
    """Control that must fail: as many nodes at the same locations."""
    decoys = ("0.attn.act_in:1", "0.attn.v:1", "0.attn.resid_delta:2", "final_resid:2")
    rows = every_value(trial_of(planted, planted_pairs, decoys))
    assert {e.verdict for e in rows} == {"fail"}
    assert [e.value for e in rows] == pytest.approx([0] * len(rows), abs=0.2)


def test_a_random_set_that_hits_the_chain_does_not_refute_it_and_a_set_that_always_hits_does() -> None:
    """Some of 10 random sets of this planted circuit's size hold one of its parts, and take all away as it does."""
    trial = trial_made(case("true", 1028, pairs=12), 1028)
    row = _row(trial, "zero", "circuit", "clean", 0.5, 10)
    inside, sets = trial.inside, random_sets(trial, 10, trial.seed)
    whole = trial.effects(np.ones((1, len(inside)), dtype=bool), value="zero").mean()
    takes_all = trial.effects(~sets, value="zero").mean(1) < 0.01 * whole
    assert row.verdict == "pass"
    own = _row(trial, "mean", "circuit", "clean", 0.5, 40)  # the value that it was found under
    assert (own.p_value, own.pairs_needed) == (None, None)
    assert own.quantiles is not None
    alone = _row(trial, "mean", "complement", "clean", 0.5, 40)
    assert alone.p_value == pytest.approx(1 / 41)
    assert 1 < takes_all.sum() < 5
    assert (sets[takes_all] & inside).any(1).all()
    most = np.random.default_rng(0).random(len(inside)) < 0.6  # sets of this size nearly always hit it
    half = trial.retried(replace(trial.circuit, nodes=np.flatnonzero(most | inside)))
    told = _row(half, "mean", "circuit", "clean", 0.5, 20)
    assert told.value == pytest.approx(1, abs=0.05)
    assert told.verdict == "fail"
    assert "10 of 20 random sets" in told.threshold


def test_rows_of_edges_and_a_row_that_means_nothing() -> None:
    model, task = taught(), she_he()
    train, heldout = model.encode(task.train[:8]), model.encode(task.heldout[:6])
    trial = EdgeTrial(model=model, circuit=eap(model, task).top(40), task=task, heldout=heldout, training=train)
    rows = {e.name: e for e in every_value(trial)}
    assert len(rows) == 2 * 4 + 1
    everything = np.ones((1, len(trial.kinds)), dtype=bool)
    same = trial.effects(everything, value="resample") - trial.effects(~everything, value="resample")
    assert rows["every-value (sufficiency by resample)"].value == pytest.approx(
        float((trial.effects(trial.inside[None]) - trial.effects(~everything)).mean() / same.mean())
    )
    unclear = [e for e in rows.values() if e.verdict == "not measured"]
    assert all("does not take the effect away" in e.note for e in unclear)
