"""f under held norm scales: a circuit that leans on amplification, one that does not, and ones that cannot be tried."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drift_helpers import Bare, loud_model, trial_of, whole_circuit
from taught import she_he, taught
from toys import planted_model

from gossamer.discover import eap
from gossamer.verify import EdgeTrial
from gossamer.verify.frozen_norms import frozen_norms
from gossamer.verify.trial import ends

LOUD = loud_model()


def test_a_circuit_in_a_quiet_stream_does_as_much_either_way() -> None:
    found = frozen_norms(trial_of(planted_model(decoys=False)))
    assert found.verdict == "pass"
    assert found.value == pytest.approx(1, abs=0.05)
    assert found.methodology is not None
    assert {n.name: n.value for n in found.nulls}["full circuit, held scales"] == 1


def test_a_circuit_amplified_by_the_final_norm_is_found_out() -> None:
    """Everything else at its mean, near 0, leaves the final norm little to divide by. Held, the circuit is linear in
    what it keeps and does exactly what the whole model does."""
    found = frozen_norms(trial_of(LOUD))
    own = {n.name: n.value for n in found.nulls}["the circuit with its own scales"]
    assert found.value == pytest.approx(1, abs=1e-4)
    assert own is not None
    assert own > 1.3
    assert found.verdict == "fail"
    assert frozen_norms(trial_of(LOUD), tolerance=10).verdict == "pass"


def test_the_whole_circuit_is_the_model_and_a_random_one_is_nothing() -> None:
    whole = frozen_norms(trial_of(LOUD, whole_circuit(LOUD)))
    assert whole.value == pytest.approx(1, abs=1e-6)
    wrong = frozen_norms(trial_of(LOUD, ("0.attn.act_in:2", "0.attn.v:9", "0.attn.resid_delta:7", "final_resid:7")))
    assert wrong.value == pytest.approx(0, abs=1e-6)
    assert wrong.verdict == "fail"


def test_edges_of_a_decoder() -> None:
    model, task = taught(), she_he()
    trial = EdgeTrial(
        model=model, circuit=eap(model, task).top(model.graph().n_edges), task=task, heldout=model.encode(task.heldout),
        training=model.encode(task.train[:8]),
    )  # fmt: skip
    found = frozen_norms(trial, draws=3)
    assert found.value == pytest.approx(1, abs=1e-5)
    assert np.allclose(ends(trial)[1], ends(trial.under(model.frozen_norms()))[1], atol=1e-5)
    assert not np.allclose(ends(trial)[0], ends(trial.under(model.frozen_norms()))[0], atol=1e-3)


def test_what_cannot_be_tried_says_why() -> None:
    trial = trial_of(LOUD)
    bare = frozen_norms(replace(trial, model=Bare(LOUD)))
    assert bare.verdict == "not measured"
    assert "cannot hold them" in bare.note
    assert bare.value is None
    few = frozen_norms(trial.on(trial.task.heldout[:1]))
    assert few.verdict == "not measured"
    assert "too few" in few.note
    swapped = [replace(e, answer=e.wrong_answer, wrong_answer=e.answer) for e in trial.task.heldout]
    assert "does not do this task" in frozen_norms(trial.on(swapped)).note
