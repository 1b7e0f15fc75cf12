"""Discovery where there is nothing to find: it finds less; where the very task is there, it finds as much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rediscovery_helpers import channel_trial, edge_trial

from gossamer.models import LoadedModel
from gossamer.task import Task
from gossamer.tasks.nonsense import nonsense
from gossamer.verify.nonsense_task import nonsense_task
from gossamer.verify.same_procedure import nothing_there
from gossamer.verify.shuffled_model import shuffled_model
from gossamer.verify.trial import ends, shares

EDGES = edge_trial()
WORDS = (" here", " there", " often", " now")
LINE = {"draws": 2, "share": 0.5, "times": 2.0, "steps": None}


def test_on_the_same_model_and_task_it_finds_the_same_and_fails() -> None:
    same = nothing_there(
        EDGES, claim="same: x", where="same model", elsewhere=lambda draw: (EDGES.model, EDGES.task), **LINE
    )  # type: ignore[arg-type]
    assert same.verdict == "fail"
    assert same.nulls[0].value == pytest.approx(same.value, abs=1e-12)
    assert same.nulls[0].n == 2
    (own,) = EDGES.effects(EDGES.inside[None])
    f, _ = shares(own, *ends(EDGES), 0)
    assert same.value == float(f)
    assert "The circuit has 20 parts. Draw 0: found 20 parts" in same.note


def test_shuffled_weights_and_unrelated_words_give_a_circuit_of_edges_little_to_carry() -> None:
    for found in (shuffled_model(EDGES, draws=3), nonsense_task(EDGES, words=WORDS)):
        assert found.verdict == "pass", found
        assert found.value is not None
        assert found.value > 0.5
        null, random = found.nulls
        assert null.outcome == "measured"
        assert null.value is not None
        assert null.value < 0.5 * found.value
        assert random.name == EDGES.null
    assert shuffled_model(EDGES, draws=3) == shuffled_model(edge_trial(), draws=3)


def test_words_that_the_model_knows_are_no_nonsense(planted: LoadedModel, planted_pairs: Task, tmp_path: Path) -> None:
    """Control that must fail: two words with the unembedding of the answers are as good as the answers."""
    trial = channel_trial(planted, planted_pairs, tmp_path)
    weight = planted.model.lm_head.weight.data
    weight[4], weight[5] = weight[2], weight[3]  # w0 is L, w1 is R
    known = next(
        s for s in range(20) if nonsense(planted_pairs, planted, seed=s, words=(" w0", " w1")).train[0].answer == " w0"
    )
    told = nonsense_task(replace(trial, seed=known), words=(" w0", " w1"))
    assert told.verdict == "fail"
    assert told.nulls[0].value == pytest.approx(told.value, abs=1e-6)
    others = nonsense_task(trial, words=(" w9", " w10"))
    assert others.verdict == "pass"
    assert others.nulls[0].outcome == "not reached"
    assert others.nulls[0].value is None
    assert "held-out task loss" in others.note


def test_a_pruning_does_not_reach_its_target_in_a_shuffled_model(
    planted: LoadedModel, planted_pairs: Task, tmp_path: Path
) -> None:
    trial = channel_trial(planted, planted_pairs, tmp_path)
    found = shuffled_model(trial)
    assert found.verdict == "pass"
    assert found.nulls[0].outcome == "not reached"
    assert found.value == pytest.approx(1, abs=0.05)
    record = trial.circuit.record.model_copy(update={"details": {**trial.circuit.record.details, "reached": False}})
    missed = shuffled_model(trial.retried(replace(trial.circuit, record=record)))
    assert missed.nulls[0].outcome == "measured"  # nor did the circuit reach it: what is nearest is compared


def test_what_cannot_be_measured_says_why() -> None:
    record = EDGES.circuit.record.model_copy(update={"method": "by hand"})
    found = shuffled_model(EDGES.retried(replace(EDGES.circuit, record=record)))
    assert (found.verdict, found.value) == ("not measured", None)
    assert "repeating the discovery 'by hand'" in found.note
    few = nonsense_task(EDGES, words=(" here",))
    assert few.verdict == "not measured"
    assert "Expected 2 unrelated words" in few.note
    pairs = EDGES.task.heldout[:6]
    flat = EDGES.on(tuple(replace(e, counterfactual=e.clean) for e in pairs))
    assert "does not do this task" in shuffled_model(flat).note
    assert "too few" in shuffled_model(EDGES.on(pairs[:1])).note
