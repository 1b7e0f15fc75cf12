"""From evidence to rulings, a headline and a paragraph; and that none of them flatters."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.claim import Claim
from gossamer.errors import BadInput, CorruptFile
from gossamer.evidence import Evidence, Null, Verdict, load_evidence, load_record, save_evidence
from gossamer.record import Record
from gossamer.verdict import TrialVerdict, judge, with_adjusted
from gossamer.verify import checks_of, known_checks

RECORD = Record(method="verify", config={}, seed=0, model="toy", task="letters")
HEADS = known_checks("head")
CLAIM = Claim.of({"checks": {name: {} for name in checks_of("head", quick=True)}}, HEADS)
VERDICTS: tuple[Verdict, ...] = ("pass", "fail", "not reached", "not measured")


def row(name: str, verdict: Verdict = "pass", p: float | None = 1 / 101, **fields: Any) -> Evidence:
    random = Null(name="random circuit with as many edges", value=0.1, interval=(0.0, 0.2), n=100)
    given = {
        "claim": f"{name}: of a toy", "value": 0.95, "unit": "f", "interval": (0.9, 1.0), "n": 128, "nulls": (random,),
        "verdict": verdict, "methodology": {"value": "resample"}, "threshold": "fails below 0.9",
        "limits": HEADS.get(name.partition(" (")[0], {}), "p_value": p, "p_smallest": None if p is None else 1 / 101,
        "pairs_needed": 12, **fields,
    }  # fmt: skip
    return Evidence.model_validate(given)


def ruling(verdict: TrialVerdict, name: str) -> tuple[Verdict, str]:
    (found,) = (r for r in verdict.rulings if r.name == name)
    return found.verdict, found.reason


def test_a_trial_as_claimed_holds_in_every_claim() -> None:
    found = judge([row(c) for c in CLAIM.checks], CLAIM, CLAIM.recorded(RECORD))
    assert [r.verdict for r in found.rulings] == ["pass"] * 5
    assert found.headline == "5 of 5 claims hold."
    assert (found.differences, found.claim_sha256) == ((), CLAIM.sha256)
    assert found.summary == (
        "5 checks of toy on letters were made on 128 pairs. 5 of 5 claims hold. Held: "
        + "; ".join(
            f"{c} 0.95 f (95% 0.9 to 1) where 100 draws of `random circuit with as many edges` had 0.1, "
            "adjusted p 0.0099"
            for c in CLAIM.checks
        )
        + ". 5 rows have p-values, adjusted together (benjamini-hochberg, level 0.05). Pairs that tell the circuit "
        "from its null (level 0.05, power 0.9): " + f"12 for {', '.join(CLAIM.checks)}" + "."
    )
    assert TrialVerdict.model_validate_json(found.model_dump_json()) == found


def test_every_outcome_is_named_and_none_is_averaged() -> None:
    rows = [
        row("faithfulness"),
        row("accuracy", "fail", 0.4, pairs_needed="infinite"),
        row("divergence", "not measured", None, value=None, interval=None, nulls=(), note="too few pairs."),
        row("necessity", "not reached", None, value=None, interval=None, nulls=(), pairs_needed=200),
    ]
    found = judge(rows, CLAIM)
    assert found.headline == (
        "1 of 5 claims hold; fail: accuracy; not measured: divergence, restoration; not reached: necessity."
    )
    assert ruling(found, "accuracy") == ("fail", "fails below 0.9")
    assert ruling(found, "restoration") == ("not measured", "not tried")
    assert ruling(found, "divergence") == ("not measured", "too few pairs")
    for told in (
        "Failed: accuracy 0.95 f (95% 0.9 to 1) where 100 draws of `random circuit with as many edges` had 0.1, "
        "adjusted p 0.4.",
        "Not measured: divergence (too few pairs); restoration (not tried).",
        "Not reached: necessity.",
        "12 for faithfulness, divergence; no number of them for accuracy; 200 (more than were used) for necessity.",
        "2 rows have p-values",
        "Otherwise than claimed: restoration: claimed, not tried.",
    ):
        assert told in found.summary


def test_what_was_tried_otherwise_than_claimed_does_not_hold() -> None:
    lax = row("faithfulness", limits={"target": 0.5})
    unsaid = row("restoration", limits={})
    half = row("accuracy", n=64)  # a check may take some of a trial's pairs
    more = row("divergence", limits={"at_most": 1.5})
    found = judge([lax, unsaid, half, more, row("necessity")], CLAIM, RECORD)
    assert found.headline == (
        "2 of 5 claims hold; not measured: faithfulness, restoration, divergence."
    )  # fmt: skip
    assert [r.reason for r in found.rulings] == [
        "made with target 0.5 (the check itself: pass)",
        "made with target not stated (the check itself: pass)",
        "",
        "made with at_most 1.5 (the check itself: pass)",
        "",
    ]
    assert found.differences == (
        "faithfulness: target is 0.9 in the claim, 0.5 in the verdict",
        "restoration: target is 0.9 in the claim, not stated in the verdict",
        "divergence: at_most is not stated in the claim, 1.5 in the verdict",
        f"the trial was made with no claim on record, this one has sha256 {CLAIM.sha256[:12]}",
    )
    assert all(told in found.summary for told in found.differences)
    fewer = judge([row(name, n=64) for name in CLAIM.checks], CLAIM)
    assert not any(r.verdict == "pass" for r in fewer.rulings)
    assert fewer.rulings[0].reason == "on 64 pairs, 128 are claimed (the check itself: pass)"
    assert fewer.differences == ("on 64 pairs, 128 are claimed",)
    assert judge([row("faithfulness", n=129)], CLAIM).rulings[0].verdict == "pass"  # more pairs than claimed
    sets = row("faithfulness", n=3, unit_of_n="subsets")
    assert ruling(judge([sets], CLAIM), "faithfulness") == ("pass", "")  # n is not of pairs
    for wrong in ({"model": "gpt2"}, {"task": "ioi"}):
        with pytest.raises(BadInput, match=r"as claimed; it is of '(toy|letters)'"):
            judge([lax], CLAIM.model_copy(update=wrong), RECORD)


def test_a_failure_stays_a_failure_by_any_threshold_on_any_number_of_pairs() -> None:
    for failed in (row("accuracy", "fail", 0.5, n=64), row("faithfulness", "fail", 0.5, limits={"target": 0.99})):
        assert ruling(judge([failed], CLAIM), failed.name) == ("fail", "fails below 0.9")


def test_each_row_of_a_check_is_a_claim_of_its_own() -> None:
    claim = Claim.of({"checks": {"every-value": {}}}, HEADS)
    rows = [row(f"every-value ({how})") for how in ("sufficiency by mean", "necessity by mean")]
    assert judge(rows, claim).headline == "2 of 2 claims hold."
    both = judge([rows[0], row("every-value (necessity by mean)", "fail", 0.5)], claim)
    assert both.headline == "1 of 2 claims hold; fail: every-value (necessity by mean)."
    assert both.rulings[0].check == "every-value"
    assert both.differences == ()
    lax = row("every-value (sufficiency by mean)", limits={"kept": 0.1, "lost": 0.5, "draws": 40.0})
    assert ruling(judge([lax], claim), lax.name) == ("not measured", "made with kept 0.1 (the check itself: pass)")


def test_what_was_tried_beside_the_claim_counts_as_a_test_and_is_told() -> None:
    claim = Claim.of({"checks": {"necessity": {}}}, HEADS)
    own = row("necessity", p=0.03)
    assert judge([own], claim).headline == "1 of 1 claim holds."
    many = judge([*(row(f"other{i}", "fail", 0.9) for i in range(4)), own], claim)
    assert many.headline == "0 of 1 claim holds; fail: necessity."
    assert many.rulings[0].name == "necessity"
    assert ruling(many, "necessity")[1] == "the adjusted p-value 0.15 is above 0.05"
    assert "Tried and not claimed: other0, fail; other1" in many.summary
    assert "other3: tried, not claimed" in many.differences
    by_chance = judge([own], claim.model_copy(update={"level": 0.01}))
    assert by_chance.headline == "0 of 1 claim holds; fail: necessity."
    two = [own, row("other", "fail", 0.9)]  # 0.06 by Hochberg's step
    assert judge(two, claim.model_copy(update={"level": 0.07})).headline == "1 of 1 claim holds."
    safe = claim.model_copy(update={"level": 0.07, "correction": "benjamini-yekutieli"})
    assert judge(two, safe).headline == "0 of 1 claim holds; fail: necessity."


def test_a_test_that_could_not_have_passed_was_not_made() -> None:
    rows = [row("faithfulness", p=1 / 21, p_smallest=1 / 21), *(row(c, "fail", 0.9) for c in ("accuracy", "necessity"))]
    verdict, reason = ruling(judge(rows, CLAIM), "faithfulness")
    assert verdict == "not measured"
    assert reason.endswith("no random circuit does as well: too few were drawn, 59 are needed")
    enough = [row("faithfulness", p=1 / 60, p_smallest=1 / 60), *rows[1:]]
    assert ruling(judge(enough, CLAIM), "faithfulness") == ("pass", "")


def test_without_a_claim_every_check_rules_for_itself() -> None:
    found = judge([row("sufficiency", methodology=None), row("accuracy", "fail", None)])
    assert (found.claim_sha256, found.differences) == ("", ())
    assert found.headline == "1 of 2 claims hold; fail: accuracy."
    assert [r.name for r in found.rulings] == ["sufficiency", "accuracy"]
    assert judge([]).headline == "0 of 0 claims hold."
    assert judge([], CLAIM).headline.startswith("0 of 5 claims hold; not measured: faithfulness, ")


limits = st.sampled_from([{}, {"target": 0.9}, {"target": 0.90000001}, {"other": 0.5}])
rows = st.lists(
    st.tuples(
        st.sampled_from([*CLAIM.checks, "other", "necessity (again)"]), st.sampled_from(VERDICTS),
        st.none() | st.floats(1e-3, 1), limits, st.sampled_from([2, 127, 128]),
    ),
    max_size=6, unique_by=lambda r: r[0],
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rows)
def test_no_verdict_is_better_than_its_evidence(drawn: list[tuple[str, Verdict, float | None, Any, int]]) -> None:
    evidence = [row(name, verdict, p, limits=used, n=n) for name, verdict, p, used, n in drawn]
    found = judge(evidence, CLAIM)
    own = {e.name: e.verdict for e in evidence}
    for r in found.rulings:
        if r.row is None:
            assert (r.verdict, r.reason) == ("not measured", "not tried")
        else:
            assert r.verdict == own[r.name] or own[r.name] == "pass"
        if r.verdict == "pass" and r.row is not None:
            assert r.row.p_adjusted is None or r.row.p_adjusted <= CLAIM.level
            if r.claimed:
                assert r.row.limits == CLAIM.checks[r.check]
                assert max(e.n for e in evidence) >= CLAIM.pairs
        elif r.claimed:
            assert r.name in found.headline
            assert r.name in found.summary
        assert r.claimed == (r.check in CLAIM.checks)
    n = sum(r.verdict == "pass" and r.claimed for r in found.rulings)
    assert found.headline.startswith(f"{n} of {sum(r.claimed for r in found.rulings)} claim")
    for order in itertools.islice(itertools.permutations(evidence), 3):
        again = {r.name: (r.verdict, r.reason) for r in judge(order, CLAIM).rulings}
        assert again == {r.name: (r.verdict, r.reason) for r in found.rulings}


def test_adjusted_p_values_stand_beside_their_rows() -> None:
    found = with_adjusted([row("a", p=0.01), row("b", p=None), row("c", p=0.04), row("d", p=None, p_adjusted=0.5)])
    assert [e.p_adjusted for e in found] == [0.02, None, 0.04, None]
    harmonic = with_adjusted([row("a", p=0.01), row("c", p=0.04)], "benjamini-yekutieli")
    assert [e.p_adjusted for e in harmonic] == pytest.approx([0.03, 0.06])


def test_evidence_of_both_format_versions_is_read(tmp_path: Path) -> None:
    new = row("faithfulness", quantiles={"0": -3.0, "1": 7.5}, pairs_needed="infinite", p_adjusted=0.5)
    path = save_evidence([new], tmp_path / "evidence.json", RECORD)
    assert load_evidence(path) == (new,)
    (tmp_path / "old.json").write_text(OLD)
    (old,) = load_evidence(tmp_path / "old.json")
    assert (old.name, old.check, old.verdict, old.value) == ("necessity", "necessity", "fail", 0.25)
    assert (old.limits, old.p_value, old.quantiles, old.pairs_needed, old.unit_of_n) == ({}, None, None, None, "pairs")
    assert load_record(tmp_path / "old.json").method == "verify"
    assert judge([old]).headline == "0 of 1 claim holds; fail: necessity."
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(CorruptFile, match="format version 3, this Gossamer reads 1 to 2"):
        load_evidence(path)


OLD = """{"format_version": 1, "record": {"format_version": 1, "method": "verify", "config": {}, "seed": 0},
"evidence": [{"claim": "necessity: without the circuit the model does not do it", "value": 0.25, "unit": "share",
"interval": [0.1, 0.4], "n": 128, "nulls": [{"name": "random circuit", "value": 0.1, "interval": [0.0, 0.2], "n": 20,
"outcome": "measured"}], "verdict": "fail", "methodology": {"value": "resample"}, "threshold": "fails below", "seed": 0,
"note": ""}]}"""


def test_a_trial_that_ablated_otherwise_supports_nothing() -> None:
    """The thresholds are those claimed; what was ablated is not."""
    made = Record(method="verify", config={"claim": {"ablation": "resample", "granularity": "edge"}}, seed=0)
    claim = Claim.of({"checks": {"necessity": {}}, "ablation": "zero"}, HEADS)
    found = judge([row("necessity")], claim, made)
    assert found.headline == "0 of 1 claim holds; not measured: necessity."
    assert "made with ablation resample, claimed with zero" in found.differences
    few = made.model_copy(update={"config": {}, "details": {"pairs": 40}})
    assert "on 40 pairs, 128 are claimed" in judge([row("necessity")], claim, few).differences
