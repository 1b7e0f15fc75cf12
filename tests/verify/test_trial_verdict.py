"""A real trial, filled in and judged: as claimed, with a circuit that is none, and with a claim made afterwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from taught import she_he, taught

from gossamer.circuit import Circuit
from gossamer.claim import Claim
from gossamer.discover import eap
from gossamer.evidence import Evidence
from gossamer.hypotheses import against_null, sign_flip_test
from gossamer.record import Record
from gossamer.verdict import judge
from gossamer.verify import checks_of, known_checks, run_battery
from gossamer.verify.edge_trial import CIRCUIT, RANDOM, EdgeTrial
from gossamer.verify.nulls import random_edge_circuits

MODEL, TASK = taught(), she_he()
PAIRS, DRAWS = 12, 60
KNOWN = known_checks("head")
CLAIM = Claim.of(
    {"task": TASK.name, "pairs": PAIRS, "checks": {name: {} for name in checks_of("head", quick=True)}}, KNOWN
)  # fmt: skip
RECORD = CLAIM.recorded(Record(method="verify", config={}, seed=0, task=TASK.name))


def trial_of(circuit: Circuit, draws: int = DRAWS) -> EdgeTrial:
    return EdgeTrial(
        model=MODEL, circuit=circuit, task=TASK, heldout=MODEL.encode(TASK.heldout[:PAIRS]),
        training=MODEL.encode(TASK.train[:PAIRS]), draws=draws,
    )  # fmt: skip


def filled(circuit: Circuit) -> tuple[Evidence, ...]:
    """Every check of a circuit, with its test against random circuits."""
    trial = trial_of(circuit)
    alone, without = (trial.outcome(trial.methodology(set_=s)) for s in ("complement", "circuit"))
    back = trial.outcome(trial.methodology(set_="circuit", direction="counterfactual"))
    values = {
        "faithfulness": (alone.gap, "greater"), "restoration": (back.gap, "greater"), "divergence": (alone.kl, "less"),
        "accuracy": ((alone.gap > 0).astype(np.float64), "greater"), "necessity": (without.gap, "less"),
    }  # fmt: skip
    rows = []
    for row in run_battery(trial, CLAIM.checks):
        per_pair, side = values[row.check]
        rows.append(row.model_copy(update=against_null(per_pair[CIRCUIT], per_pair[RANDOM], side)._asdict()))
    return tuple(rows)


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return eap(MODEL, TASK).top(30)


@pytest.fixture(scope="module")
def rows(circuit: Circuit) -> tuple[Evidence, ...]:
    return filled(circuit)


def test_the_battery_says_with_which_thresholds_each_row_was_made(rows: tuple[Evidence, ...]) -> None:
    assert [r.check for r in rows] == list(CLAIM.checks)
    assert {r.check: r.limits for r in rows} == CLAIM.checks


def test_the_battery_makes_no_check_again_that_was_made(circuit: Circuit, rows: tuple[Evidence, ...]) -> None:
    made: list[str] = []
    done = {r.check: (r,) for r in rows if r.check != "necessity"}
    found = run_battery(trial_of(circuit), CLAIM.checks, done=done, after=lambda name, _: made.append(name))
    assert made == ["necessity"]
    assert [r.check for r in found] == list(CLAIM.checks)
    assert found[:-1] == rows[:-1]
    assert found[-1].value == rows[-1].value


def test_a_trial_of_a_found_circuit_is_judged_as_its_checks_and_p_values_say(rows: tuple[Evidence, ...]) -> None:
    found = judge(rows, CLAIM, RECORD)
    assert found.differences == ()
    for ruling, row in zip(found.rulings, rows, strict=True):
        assert ruling.check == row.check
        assert ruling.row is not None
        assert ruling.row.p_adjusted is not None
        told = ruling.row.p_adjusted <= CLAIM.level
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
    kinder = CLAIM.model_copy(update={"checks": {**CLAIM.checks, "faithfulness": {"target": 0.1}}})
    found = judge(rows, kinder, RECORD)
    assert found.rulings[0].verdict == "not measured"
    assert "faithfulness: target is 0.1 in the claim, 0.9 in the verdict" in found.summary
    assert f"another claim (sha256 {CLAIM.sha256[:12]})" in found.summary


def test_the_paired_test_agrees_that_the_circuit_is_not_random(circuit: Circuit) -> None:
    trial = trial_of(circuit, draws=20)
    gap = trial.outcome(trial.methodology()).gap
    assert sign_flip_test(gap[CIRCUIT] - gap[RANDOM].mean(0)).p_value == 2.0**-PAIRS  # every pair, exactly
