"""`gossamer prove` and commands.prove_*: certificates, evidence, verdicts and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gossamer import commands
from gossamer.cli.main import app
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import load_evidence
from gossamer.models.max_of_k import MaxOfK, MaxOfKConfig, ideal_max_of_k, save_max_of_k
from gossamer.record import Record
from gossamer.verify.proof import RUNGS


@pytest.fixture(scope="module")
def ideal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = Record(method="by hand", config={}, seed=0)
    return save_max_of_k(ideal_max_of_k(3, 8), tmp_path_factory.mktemp("ideal") / "m", record)


def run(*words: str) -> tuple[int, dict[str, object]]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, json.loads(done.stdout)


def test_bounds_come_with_nulls_certificates_and_evidence(ideal: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    r = commands.prove_bound(ideal, out=tmp_path / "p", progress=lambda step, steps, share: seen.append((step, steps)))
    assert tuple(row.rung for row in r.rows) == RUNGS
    assert all(row.bound == 1 and row.certified == row.inputs == 512 for row in r.rows)
    assert max(row.shuffled for row in r.rows) < 0.6
    assert seen[-1][0] == seen[-1][1]
    evidence = load_evidence(tmp_path / "p" / "evidence.json")
    assert [e.value for e in evidence] == [1.0] * len(RUNGS)
    assert all(e.nulls[0].value == row.shuffled for e, row in zip(evidence, r.rows, strict=True))
    assert all((e.verdict, e.unit_of_n, e.seed) == ("pass", "inputs", 0) for e in evidence)
    assert all("checker was not run" in e.note for e in evidence)
    for row in r.rows:
        assert commands.prove_check(row.certificate, ideal).accepted


def test_the_command_line_says_the_same(ideal: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    status, found = run("prove", "bound", str(ideal), "--rung", "cubic", "--out", str(out), "--json")
    assert (status, found["rows"][0]["bound"]) == (0, 1.0)  # type: ignore[index]
    shown = CliRunner().invoke(app, ["prove", "bound", str(ideal), "--rung", "cubic", "--out", str(tmp_path / "q")])
    assert "1.0000" in shown.stdout
    assert str(tmp_path / "q") in shown.stdout.replace("\n", "")
    certificate = out / "cubic.json"
    status, found = run("prove", "check", str(certificate), str(ideal), "--json")
    assert (status, found["accepted"], found["verified"]) == (0, True, 512)
    certificate.write_text(certificate.read_text().replace('"certified": 512', '"certified": 511'))
    status, found = run("prove", "check", str(certificate), str(ideal), "--json")
    assert (status, found["accepted"]) == (1, False)
    assert "altered" in str(found["reason"])


def test_what_is_out_of_reach_is_skipped_or_refused(tmp_path: Path) -> None:
    record = Record(method="by hand", config={}, seed=0)
    big = save_max_of_k(ideal_max_of_k(10, 8), tmp_path / "big", record)
    r = commands.prove_bound(big, out=tmp_path / "p")
    assert set(r.skipped) == {"brute-force"}
    assert {row.rung for row in r.rows} == set(RUNGS) - {"brute-force"}
    assert all(row.certified == 8**10 for row in r.rows)
    with pytest.raises(Unsupported, match="brute force"):
        commands.prove_bound(big, rung="brute-force", out=tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_a_bound_that_is_not_above_its_null_fails(tmp_path: Path) -> None:
    record = Record(method="by hand", config={}, seed=0)
    zeros = save_max_of_k(MaxOfK(MaxOfKConfig(k=2, vocabulary=4)), tmp_path / "zeros", record)
    commands.prove_bound(zeros, rung="cubic", out=tmp_path / "p", seed=3)
    (e,) = load_evidence(tmp_path / "p" / "evidence.json")
    assert (e.value, e.nulls[0].value, e.verdict, e.seed) == (0, 0, "fail", 3)


def test_all_among_rungs_is_all_and_none_is_a_mistake(ideal: Path, tmp_path: Path) -> None:
    r = commands.prove_bound(ideal, rung=("all", "cubic"), out=tmp_path / "p")
    assert tuple(row.rung for row in r.rows) == RUNGS
    with pytest.raises(BadInput, match="at least one rung"):
        commands.prove_bound(ideal, rung=(), out=tmp_path / "q")


def test_models_that_are_too_large_are_refused_before_any_work(tmp_path: Path) -> None:
    record = Record(method="by hand", config={}, seed=0)
    many = save_max_of_k(MaxOfK(MaxOfKConfig(k=2, vocabulary=513, d_model=2, d_head=2)), tmp_path / "many", record)
    wide = save_max_of_k(MaxOfK(MaxOfKConfig(k=2, vocabulary=4, d_model=1025, d_head=2)), tmp_path / "wide", record)
    for folder, rung, message in ((many, "all", "vocabulary of 513"), (wide, "brute-force", "up to 1025")):
        with pytest.raises(Unsupported, match=message):
            commands.prove_bound(folder, rung=rung, out=tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_what_has_an_option_is_not_set(tmp_path: Path) -> None:
    for name in ("k", "seed", "density"):
        done = CliRunner().invoke(app, ["prove", "train", "--set", f"{name}=1", "--out", str(tmp_path / "m")])
        assert isinstance(done.exception, BadInput)
        assert f"use --{name} 1" in str(done.exception)


def test_mistakes_are_told_before_any_work(ideal: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"did you mean .*cubic"):
        commands.prove_bound(ideal, rung="cubicc")
    with pytest.raises(BadInput, match="exists"):
        commands.prove_bound(ideal, out=tmp_path)
    with pytest.raises(BadInput, match="prove bound"):
        commands.prove_check(tmp_path / "none.json", ideal)
    with pytest.raises(BadInput, match="prove train"):
        commands.prove_bound(tmp_path / "none")
