"""The benchmark of the battery counts what it says, goes on where it was, and its adversary keeps to its rule."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import battery
import battery_adversary
import numpy as np
import pytest
from battery import report, summary, trial_of, verdict_of

from gossamer.discover import prune_config
from gossamer.models.planted import CAUGHT_BY, CLASSES, case, planted
from gossamer.site import Site
from gossamer.verify import stability

BASE = ["sufficiency", "accuracy", "necessity"]


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], main: object, *options: str) -> str:
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    main()  # type: ignore[operator]
    return capsys.readouterr().out


def made_up(verdicts: dict[str, dict[str, str]]) -> list[battery.Row]:
    """Two circuits of every class; by check, the verdict of each class (pass where not named)."""
    return [
        {"index": i, "class": label, "kind": "plain", "seed": i // 7, "pairs": 8, "check": name, "value": 0.0,
         "note": "", "seconds": 1.0, "verdict": by.get(label, "pass")}
        for i, label in enumerate(CLASSES * 2) for name, by in verdicts.items()
    ]  # fmt: skip


def test_a_perfect_battery_and_a_blind_one() -> None:
    perfect = made_up({"minimality": dict.fromkeys(set(CLASSES) - {"true"}, "fail"), "accuracy": {}})
    lines = "\n".join(report(perfect))
    assert "false passes 0/12 = 0.000" in lines
    assert "power 2/2 = 1.000" in lines
    assert "wrong outcomes: 0" in lines
    assert "| minimality | 0 | 2 | 2 | 2 | 2 | 2 | 2 | 12 | 1.0 |" in lines
    blind = "\n".join(report(made_up({"accuracy": {}})))
    assert "false passes 12/12 = 1.000" in blind
    assert "mixed seed 1 (plain): accepted" in blind


def test_not_measured_is_no_pass_unless_of_all_true_circuits() -> None:
    silent = dict.fromkeys(CLASSES, "not measured")
    found = summary(made_up({"accuracy": {"true": "not measured"}, "minimality": silent, "necessity": {}}))
    assert found["silent"] == ["accuracy", "minimality"]
    assert found["checks"] == ["necessity"]
    rows = made_up({"accuracy": {"nonsense": "not measured"}, "necessity": {}})
    accepted = {c["class"] for c in summary(rows)["circuits"] if c["accepted"]}
    assert accepted == set(CLASSES) - {"nonsense"}


def test_every_wrong_class_names_a_check_that_is_meant_for_it() -> None:
    meant = {name for names in CAUGHT_BY.values() for name in names}
    assert meant <= set(battery.known_checks())
    assert all(CAUGHT_BY[label] for label in CLASSES if label != "true")
    lines = report(made_up({name: {"nonsense": "not measured"} for name in meant}))
    assert any(line.startswith("| nonsense | 0/2") and "random-subsets, completeness: 2/2" in line for line in lines)


def test_a_wrong_circuit_is_tried_until_it_is_stopped_and_a_true_one_by_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    given = ("--n", "4", "--pairs", "8", "--checks", "necessity", *BASE[:2], "--until-stopped", "--rows", str(rows))
    out = run(monkeypatch, capsys, battery.main, *given)
    tried = [(r["class"], r["check"]) for r in map(json.loads, rows.read_text().splitlines())]
    assert [n for label, n in tried if label == "true"] == ["necessity", *BASE[:2]]
    assert [n for label, n in tried if label == "random"] == ["sufficiency"]  # of those meant for it, which fails
    assert "| random | 0/1" in out
    assert "| true | 1/1" in out
    before = rows.read_text()
    assert run(monkeypatch, capsys, battery.main, *given) == out
    assert rows.read_text() == before
    left = summary([r for r in map(json.loads, before.splitlines()) if r["check"] != "necessity"])
    assert left["checks"] == BASE[:2]
    stopped = made_up({"accuracy": {"random": "fail"}, "necessity": {}})
    part = [r for r in stopped if not (r["class"] in ("random", "missing", "true") and r["check"] == "necessity")]
    labels = [c["class"] for c in summary(part)["circuits"]]
    assert labels.count("random") == 2  # stopped, so known
    assert labels.count("missing") == labels.count("true") == 0  # not yet known


def test_what_is_not_measured_stops_no_trial_and_loses_no_circuit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without a search on record shuffled-model measures nothing: it must not end the trial of a wrong circuit."""
    rows = tmp_path / "rows.jsonl"
    given = ("--n", "4", "--pairs", "8", "--checks", "shuffled-model", "sufficiency", "--until-stopped")
    out = run(monkeypatch, capsys, battery.main, *given, "--rows", str(rows))
    tried = [(r["class"], r["check"], r["verdict"]) for r in map(json.loads, rows.read_text().splitlines())]
    assert ("redundant", "shuffled-model", "not measured") in tried
    assert ("redundant", "sufficiency", "pass") in tried
    assert "| redundant | 1/1" in out
    assert "false passes 1/3" in out
    made = made_up({"accuracy": {"missing": "fail", "true": "not measured"}})
    assert {c["class"] for c in summary(made)["circuits"] if c["accepted"]} >= {"missing"}  # it does not count


@pytest.mark.parametrize("seed", [3000, 3002])
def test_the_search_in_the_records_is_one_that_finds_planted_circuits(seed: int) -> None:
    """Under the default penalty the second model's circuit is not found, and a record that says so is not true."""
    for k_coef, found in ((battery.FOUND_BY["prune"]["k_coef"], True), ((4e-3,), seed == 3000)):
        config = prune_config(**{**battery.FOUND_BY["prune"], "k_coef": k_coef}).model_dump(mode="json")
        row = battery.search_of(trial_of(case("true", seed, record={"method": "prune", "config": config}), seed))
        assert (row["value"] == 1) == found, row
        assert battery.summary([row | {"index": 0, "class": "true", "kind": "plain", "seed": seed}])["checks"] == []


def test_a_wrong_outcome_is_named_by_its_seed() -> None:
    lines = report(made_up({"accuracy": {"true": "fail"}, "sufficiency": {}}))
    assert "  true seed 1 (plain): stopped by accuracy" in lines


def test_a_check_that_raises_stops_no_benchmark() -> None:
    trial = trial_of(case("true", 0, pairs=8), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(battery.check._known, "broken", lambda t: t.model.graph("head"))
        row = verdict_of("broken", trial)
    assert row["verdict"] == "raised"
    assert "head" in row["note"]


def test_it_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    given = ("--n", "4", "--pairs", "8", "--checks", *BASE[:2], "--rows", str(rows))
    whole = run(monkeypatch, capsys, battery.main, *given)
    kept = rows.read_text().splitlines()
    assert len(kept) == 8
    verdict = {(r["class"], r["check"]): r["verdict"] for r in map(json.loads, kept)}
    assert [verdict["random", n] for n in BASE[:2]] == ["fail", "fail"]
    assert [verdict["true", n] for n in BASE[:2]] == ["pass", "pass"]
    rows.write_text("\n".join(kept[:5]) + "\n")
    again = run(monkeypatch, capsys, battery.main, *given)
    cut = [line.rpartition("|")[0].rpartition("|")[0] for line in whole.splitlines()]  # seconds differ
    assert [line.rpartition("|")[0].rpartition("|")[0] for line in again.splitlines()] == cut
    with pytest.raises(SystemExit, match="another seed"):
        run(monkeypatch, capsys, battery.main, *given, "--seed", "5")


def test_the_adversary_leaves_out_what_it_must_and_is_deterministic() -> None:
    made = planted("shortcut", 2, pairs=12)
    first, row = battery_adversary.attack(made, 2, steps=40)
    second, _ = battery_adversary.attack(made, 2, steps=40)
    assert np.array_equal(first.circuit.nodes, second.circuit.nodes)
    never = made.model.layout.number(Site.parse(row["forbidden"]))
    assert row["forbidden"] in made.true
    assert never not in first.circuit.nodes
    assert row["overlap"] < 1
    assert verdict_of("sufficiency", trial_of(first, 2))["verdict"] == "pass"  # the cue is there to be found


def test_the_adversary_reports_both_sides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ("--n", "1", "--pairs", "8", "--steps", "3", "--checks", *BASE[:1], "--rows", str(tmp_path / "rows"))
    out = run(monkeypatch, capsys, battery_adversary.main, *given)
    assert "true circuits of plain models accepted: 1/1" in out
    assert "attacks accepted: 0/1" in out
    assert run(monkeypatch, capsys, battery_adversary.main, *given) == out


def test_stability_tells_the_circuit_that_the_search_finds_from_one_that_it_is_only_said_to_have_found(
    tmp_path: Path,
) -> None:
    record = {"method": "prune", "config": prune_config(**battery.FOUND_BY["prune"]).model_dump(mode="json")}
    for label, verdict, least in (("true", "pass", 0.99), ("redundant", "pass", 0.7), ("random", "fail", 0.0)):
        trial = replace(trial_of(case(label, 3008, pairs=24, record=record), 3008), cache=tmp_path)
        found = stability(trial, runs=2)
        assert found.verdict == verdict, found
        assert found.value is not None
        assert found.value >= least
        assert (found.value < 0.5) == (label == "random")
