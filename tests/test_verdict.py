"""From evidence to rulings, a headline and a paragraph; and that none of them flatters."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.claim import Claim
from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null, Verdict, load_evidence, load_record, save_evidence
from gossamer.record import Record
from gossamer.verdict import TrialVerdict, judge, with_adjusted

RECORD = Record(method="verify", config={}, seed=0, model="toy", task="letters")
CLAIM = Claim.default("head")
VERDICTS: tuple[Verdict, ...] = ("pass", "fail", "not reached", "not measured")


def row(check: str, verdict: Verdict = "pass", p: float | None = 1 / 101, **fields: Any) -> Evidence:
    limits = CLAIM.checks.get(check, {})
    random = Null(name="random circuit with as many edges", value=0.1, interval=(0.0, 0.2), n=100)
    given = {
        "claim": f"{check}: of a toy", "value": 0.95, "unit": "f", "interval": (0.9, 1.0), "n": 128, "nulls": (random,),
        "verdict": verdict, "methodology": {"value": "resample"}, "threshold": "fails below 0.9", "limits": limits,
        "p_value": p, "p_smallest": None if p is None else 1 / 101, "pairs_needed": 12, **fields,
    }  # fmt: skip
    return Evidence.model_validate(given)


def ruling(verdict: TrialVerdict, check: str) -> tuple[Verdict, str]:
    (found,) = (r for r in verdict.rulings if r.check == check)
    return found.verdict, found.reason


def test_a_trial_as_claimed_holds_in_every_claim() -> None:
    found = judge([row(c) for c in CLAIM.checks], CLAIM, CLAIM.recorded(RECORD))
    assert [r.verdict for r in found.rulings] == ["pass"] * 5
    assert found.headline == "5 of 5 claims hold."
    assert (found.differences, found.claim_sha256) == ((), CLAIM.sha256)
    assert found.summary == (
        "5 checks of toy on letters were made on 128 pairs, ablation by resample. 5 of 5 claims hold. Held: "
        + "; ".join(
            f"{c} 0.95 f (95% 0.9 to 1) where 100 random circuits had 0.1 (95% 0 to 0.2), adjusted p 0.0099"
            for c in CLAIM.checks
        )
        + ". The p-values are of 5 tests together (benjamini-hochberg, level 0.05). Pairs that tell the circuit from "
        "its null (level 0.05, power 0.9): " + f"12 for {', '.join(CLAIM.checks)}" + "."
    )
    assert TrialVerdict.model_validate_json(found.model_dump_json()) == found


def test_every_outcome_is_named_and_none_is_averaged() -> None:
    rows = [
        row("faithfulness"),
        row("accuracy", "fail", 0.4, pairs_needed="infinite"),
        row("divergence", "not measured", None, value=None, interval=None, nulls=(), note="too few pairs."),
        row("necessity", "not reached", None, value=None, interval=None, nulls=()),
    ]
    found = judge(rows, CLAIM)
    assert found.headline == (
        "1 of 5 claims hold; fail: accuracy; not measured: restoration, divergence; not reached: necessity."
    )
    assert ruling(found, "accuracy") == ("fail", "fails below 0.9")
    assert ruling(found, "restoration") == ("not measured", "not tried")
    for told in (
        "Failed: accuracy 0.95 f (95% 0.9 to 1) where 100 random circuits had 0.1",
        "[fails below 0.9]",
        "Not measured: restoration (not tried); divergence (too few pairs).",
        "Not reached: necessity.",
        "12 for faithfulness, divergence, necessity; no number of them for accuracy.",
        "Without a p-value: divergence, necessity.",
        "Otherwise than claimed: restoration: claimed, not tried",
    ):
        assert told in found.summary


def test_what_was_tried_otherwise_than_claimed_does_not_hold() -> None:
    lax = row("faithfulness", limits={"at_least": 0.5, "at_most": 1.5})
    few = row("restoration", n=64)
    drawn = row("accuracy", nulls=(Null(name="random circuit", value=0.1, n=20),))
    unsaid = row("necessity", "fail", limits={})
    found = judge([lax, few, drawn, row("divergence"), unsaid], CLAIM, RECORD)
    assert found.headline.startswith("1 of 5 claims hold; not measured: faithfulness")
    assert found.differences == (
        "faithfulness: at_least is 0.9 in the claim, the verdict used 0.5, at_most is 1.1 in the claim, the "
        "verdict used 1.5",
        "restoration: 128 pairs in the claim, the verdict used 64",
        "accuracy: 100 random circuits in the claim, the verdict used 20",
        "necessity: lost_above is 0.5 in the claim, not stated by the verdict",
        f"the trial was made with no claim on record, this one has sha256 {CLAIM.sha256[:12]}",
    )
    assert all(told in found.summary for told in found.differences)
    assert ruling(found, "necessity")[1].endswith("(the check itself: fail)")
    failed = row("accuracy", "fail", 0.5, n=64, nulls=(Null(name="random circuit", value=0.1, n=20),))
    assert ruling(judge([failed], CLAIM), "accuracy") == ("fail", "fails below 0.9")  # too few, and bad enough
    for wrong in ({"model": "gpt2"}, {"task": "ioi"}):
        with pytest.raises(BadInput, match=r"as claimed; it is of '(toy|letters)'"):
            judge([lax], CLAIM.model_copy(update=wrong), RECORD)


def test_other_ablations_splits_and_seeds_are_other_claims() -> None:
    claim = CLAIM.model_copy(update={
        "ablations": ("mean", "resample"), "splits": ("heldout", "names"), "seeds": (0, 1),
        "checks": {k: CLAIM.checks[k] for k in ("faithfulness", "restoration")},
    })  # fmt: skip
    found = judge([row("faithfulness"), row("faithfulness", seed=1), row("restoration", split="names")], claim)
    assert {(r.check, r.ablation, r.split): (r.verdict, r.reason) for r in found.rulings} == {
        ("faithfulness", "mean", "heldout"): ("not measured", "not tried for seed 0, 1"),
        ("faithfulness", "resample", "heldout"): ("pass", ""),
        ("faithfulness", "mean", "names"): ("not measured", "not tried for seed 0, 1"),
        ("faithfulness", "resample", "names"): ("not measured", "not tried for seed 0, 1"),
        ("restoration", "resample", "heldout"): ("not measured", "not tried for seed 0, 1"),
        ("restoration", "resample", "names"): ("not measured", "not tried for seed 1"),
    }
    assert found.headline.startswith(
        "1 of 6 claims hold; not measured: faithfulness (mean), faithfulness (mean, names)"
    )
    # one seed that fails is a claim that fails; a seed beside the claimed ones cannot save or spoil it
    both = judge([row("faithfulness"), row("faithfulness", "fail", 0.5, seed=1)], claim)
    assert [r.verdict for r in both.rulings][1] == "fail"
    extra = judge([row(c) for c in CLAIM.checks] + [row("necessity", "fail", 0.5, seed=7)], CLAIM)
    assert extra.headline.startswith("5 of 5")
    assert "necessity: tried for seed 7, which is not claimed" in extra.differences


def test_what_was_tried_beside_the_claim_counts_as_a_test_and_is_told() -> None:
    claim = CLAIM.model_copy(update={"checks": {"necessity": CLAIM.checks["necessity"]}})
    own = row("necessity", p=0.03)
    assert judge([own], claim).headline == "1 of 1 claim holds."
    many = judge([own, *(row(f"other{i}", "fail", 0.9) for i in range(4))], claim)
    assert many.headline == "0 of 1 claim holds; fail: necessity."
    assert ruling(many, "necessity")[1] == "the adjusted p-value 0.15 is above 0.05"
    assert "Tried and not claimed: other0, fail; other1" in many.summary
    assert "other3: tried, not claimed" in many.differences


def test_a_test_that_could_not_have_passed_was_not_made() -> None:
    claim = CLAIM.model_copy(update={"random_circuits": 20})
    null = (Null(name="random circuit", value=0.1, n=20),)
    rows = [row("faithfulness", p=1 / 21, p_smallest=1 / 21, nulls=null)]
    rows += [row(c, "fail", 0.9, nulls=null) for c in ("accuracy", "necessity")]
    verdict, reason = ruling(judge(rows, claim), "faithfulness")
    assert verdict == "not measured"
    assert reason.endswith("no random circuit does as well: too few were drawn, 59 are needed")
    enough = [row("faithfulness", p=1 / 60, p_smallest=1 / 60), *rows[1:]]
    assert ruling(judge(enough, claim), "faithfulness") == ("pass", "")


def test_without_a_claim_every_check_rules_for_itself() -> None:
    found = judge([row("sufficiency", methodology=None), row("accuracy", "fail", None)])
    assert (found.claim_sha256, found.differences) == ("", ())
    assert found.headline == "1 of 2 claims hold; fail: accuracy."
    assert [r.name for r in found.rulings] == ["sufficiency", "accuracy"]
    assert judge([]).headline == "0 of 0 claims hold."
    assert judge([], CLAIM).headline.startswith("0 of 5 claims hold; not measured: faithfulness, ")


rows = st.lists(
    st.tuples(st.sampled_from([*CLAIM.checks, "other"]), st.sampled_from(VERDICTS), st.none() | st.floats(1e-3, 1)),
    max_size=6, unique_by=lambda r: r[0],
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(rows)
def test_no_verdict_is_better_than_its_evidence(given_rows: list[tuple[str, Verdict, float | None]]) -> None:
    evidence = [row(*r) for r in given_rows]
    found = judge(evidence, CLAIM)
    own = {e.check: e.verdict for e in evidence}
    for r in found.rulings:
        if r.verdict == "pass":
            assert own[r.check] == "pass"
            assert all(e.p_adjusted is None or e.p_adjusted <= CLAIM.level for e in r.rows)
        elif r.claimed:
            assert r.name in found.headline
            assert r.name in found.summary
    n = sum(r.verdict == "pass" and r.claimed for r in found.rulings)
    assert found.headline.startswith(f"{n} of 5 claims hold")
    for order in itertools.islice(itertools.permutations(evidence), 3):
        assert judge(order, CLAIM).headline == found.headline


def test_adjusted_p_values_stand_beside_their_rows() -> None:
    found = with_adjusted([row("a", p=0.01), row("b", p=None), row("c", p=0.04), row("d", p=None, p_adjusted=0.5)])
    assert [e.p_adjusted for e in found] == [0.02, None, 0.04, None]
    harmonic = with_adjusted([row("a", p=0.01), row("c", p=0.04)], "benjamini-yekutieli")
    assert [e.p_adjusted for e in harmonic] == pytest.approx([0.03, 0.06])


def test_evidence_of_both_format_versions_is_read(tmp_path: Path) -> None:
    new = row("faithfulness", quantiles={"0": -3.0, "1": 7.5}, pairs_needed="infinite", p_adjusted=0.5, split="names")
    path = save_evidence([new], tmp_path / "evidence.json", RECORD)
    assert load_evidence(path) == (new,)
    (tmp_path / "old.json").write_text(OLD)
    (old,) = load_evidence(tmp_path / "old.json")
    assert (old.check, old.verdict, old.value) == ("necessity", "fail", 0.25)
    assert (old.limits, old.p_value, old.quantiles, old.pairs_needed, old.split) == ({}, None, None, None, "")
    assert load_record(tmp_path / "old.json").method == "verify"
    assert judge([old]).headline == "0 of 1 claim holds; fail: necessity."


OLD = """{"format_version": 1, "record": {"format_version": 1, "method": "verify", "config": {}, "seed": 0},
"evidence": [{"claim": "necessity: without the circuit the model does not do it", "value": 0.25, "unit": "share",
"interval": [0.1, 0.4], "n": 128, "nulls": [{"name": "random circuit", "value": 0.1, "interval": [0.0, 0.2], "n": 20,
"outcome": "measured"}], "verdict": "fail", "methodology": {"value": "resample"}, "threshold": "fails below", "seed": 0,
"note": ""}]}"""
