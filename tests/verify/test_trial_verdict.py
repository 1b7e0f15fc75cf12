"""A real trial, filled in and judged: as claimed, with a circuit that is none, and with a claim made afterwards."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from taught import she_he, taught

from gossamer.circuit import Circuit
from gossamer.claim import CHECKS, Claim
from gossamer.discover import eap
from gossamer.evidence import Evidence
from gossamer.hypotheses import against_null, sign_flip_test
from gossamer.metric import LN2
from gossamer.record import Record
from gossamer.verdict import judge
from gossamer.verify import BATTERY
from gossamer.verify.edge_checks import EDGE_BATTERY, run_edge_checks
from gossamer.verify.edge_trial import CIRCUIT, RANDOM, EdgeTrial
from gossamer.verify.nulls import random_edge_circuits

MODEL, TASK = taught(), she_he()
PAIRS, DRAWS = 12, 60
CLAIM = Claim.default("head", task=TASK.name).model_copy(update={"pairs": PAIRS, "random_circuits": DRAWS})


def filled(circuit: Circuit) -> tuple[Evidence, ...]:
    """Every check of a circuit with its test against random circuits, its quantiles and its thresholds in numbers."""
    trial = EdgeTrial(
        model=MODEL, circuit=circuit, heldout=MODEL.encode(TASK.heldout[:PAIRS]),
        training=MODEL.encode(TASK.train[:PAIRS]), draws=DRAWS,
    )  # fmt: skip
    alone, without = trial.outcome(trial.methodology()), trial.outcome(trial.methodology("circuit"))
    back = trial.outcome(trial.methodology("circuit", "counterfactual"))
    values = {
        "faithfulness": (alone.gap, "greater"), "restoration": (back.gap, "greater"), "divergence": (alone.kl, "less"),
        "accuracy": ((alone.gap > 0).astype(np.float64), "greater"), "necessity": (without.gap, "less"),
    }  # fmt: skip
    rows = []
    for row in run_edge_checks(trial):
        per_pair, side = values[row.check]
        rows.append(row.model_copy(update={
            "limits": CLAIM.thresholds_for(row.check),
            **against_null(per_pair[CIRCUIT], per_pair[RANDOM], side)._asdict(),
        }))  # fmt: skip
    return tuple(rows)


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return eap(MODEL, TASK).top(30)


@pytest.fixture(scope="module")
def rows(circuit: Circuit) -> tuple[Evidence, ...]:
    return filled(circuit)


def test_the_claims_know_the_checks_that_there_are() -> None:
    assert set(CHECKS["head"]) == set(EDGE_BATTERY)
    assert set(CHECKS["channel"]) == set(BATTERY)
    assert pytest.approx(math.log(2)) == LN2
    assert Claim.default("channel").checks["necessity"]["loss_above"] == LN2


def test_a_trial_of_a_found_circuit_is_judged_as_its_checks_and_p_values_say(rows: tuple[Evidence, ...]) -> None:
    found = judge(rows, CLAIM, CLAIM.recorded(Record(method="verify", config={}, seed=0, task=TASK.name)))
    assert found.differences == ()
    for ruling, row in zip(found.rulings, rows, strict=True):
        assert ruling.check == row.check
        told = row.p_value is not None and ruling.rows[0].p_adjusted <= CLAIM.level
        assert (ruling.verdict == "pass") == (row.verdict == "pass" and told)
        assert f"{row.value:.4g}" in found.summary
    faithful = rows[0]
    assert (found.rulings[0].verdict, faithful.p_value) == ("pass", 1 / (DRAWS + 1))
    assert faithful.pairs_needed != "infinite"


def test_a_random_circuit_holds_in_no_claim_that_has_a_null(circuit: Circuit) -> None:
    (random,) = random_edge_circuits(circuit, MODEL.graph(), 1, 99, "edge")
    found = judge(filled(replace(random, record=circuit.record)), CLAIM)
    assert not any(r.verdict == "pass" for r in found.rulings)
    assert found.headline.startswith("0 of 5 claims hold; fail: faithfulness")


def test_a_claim_made_after_the_numbers_is_found_out(rows: tuple[Evidence, ...]) -> None:
    kinder = CLAIM.model_copy(update={"checks": {**CLAIM.checks, "faithfulness": {"at_least": 0.1, "at_most": 3.0}}})
    record = CLAIM.recorded(Record(method="verify", config={}, seed=0, task=TASK.name))
    found = judge(rows, kinder, record)
    assert found.rulings[0].verdict == "not measured"
    assert "faithfulness: at_least is 0.1 in the claim, the verdict used 0.9" in found.summary
    assert f"another claim (sha256 {CLAIM.sha256[:12]})" in found.summary


def test_the_paired_test_agrees_that_the_circuit_is_not_random(circuit: Circuit) -> None:
    trial = EdgeTrial(
        model=MODEL, circuit=circuit, heldout=MODEL.encode(TASK.heldout[:PAIRS]),
        training=MODEL.encode(TASK.train[:PAIRS]), draws=20,
    )  # fmt: skip
    gap = trial.outcome(trial.methodology()).gap
    assert sign_flip_test(gap[CIRCUIT] - gap[RANDOM].mean(0)).p_value == 2.0**-PAIRS  # every pair, exactly
