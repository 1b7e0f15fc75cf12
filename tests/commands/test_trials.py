"""Claims, trials that stop and go on, and verdicts, on circuits of edges and of channels."""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from taught import pairs, saved
from toys import planted_model, planted_task

from gossamer import commands
from gossamer.claim import Claim, load_claim
from gossamer.commands.trials import TRIAL
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import load_evidence, load_record, save_evidence
from gossamer.models.files import save_model
from gossamer.record import Record
from gossamer.task import Example
from gossamer.verify import asks, checks_of, known_checks
from gossamer.verify.edge_checks import EDGE_BATTERY

KNOWN = known_checks("head")
SHORT = ("faithfulness", "accuracy", "necessity")
HELDOUT = 12


def write_pairs(file: Path, train: tuple[Example, ...], heldout: tuple[Example, ...]) -> Path:
    file.write_text("\n".join(
        json.dumps({
            "clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer,
            "split": split,
        })
        for split, part in (("train", train), ("heldout", heldout)) for e in part
    ))  # fmt: skip
    return file


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose circuit is edges; its model is beside it."""
    home = tmp_path_factory.mktemp("edges")
    own = write_pairs(home / "she-he.jsonl", pairs()[:72:3], pairs()[72:][:HELDOUT])
    commands.discover_edges("eap", saved(home / "taught"), own, out=home / "run", edges=30)
    return home / "run"


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home, m, task = tmp_path_factory.mktemp("channels"), planted_model(), planted_task()
    save_model(m.model, home / "planted", tokenizer=m.tokenizer, reference=m.reference, record={"details": {}})
    own = write_pairs(home / "sides.jsonl", task.train, task.heldout[:16])
    options = {"steps": 100, "lr": 3e-2, "batch_pairs": 16, "k_coef": (1e-3, 3e-3)}
    commands.prune(home / "planted", own, out=home / "run", **options)
    return home / "run"


@pytest.fixture
def run(edges: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(edges, tmp_path / "run"))


def claim_file(path: Path, target: float = 0.5, **fields: Any) -> Path:
    """A claim of three checks on all held-out pairs."""
    checks: dict[str, dict[str, float]] = {**{name: {} for name in SHORT}, "faithfulness": {"target": target}}
    return Claim.of({"checks": checks, "pairs": HELDOUT, **fields}, KNOWN).save(path)


@pytest.fixture
def claimed(tmp_path: Path) -> Path:
    return claim_file(tmp_path / "claim.yaml")


class Counted:
    """How often each check was made; `stop` before a check as if someone had pressed Ctrl-C."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: Counter[str] = Counter()
        self.stop = ""
        for name, check in EDGE_BATTERY.items():
            monkeypatch.setitem(EDGE_BATTERY, name, self._counting(name, check))

    def _counting(self, name: str, check: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(check)
        def made(*args: Any, **limits: Any) -> Any:
            if name == self.stop:
                raise KeyboardInterrupt
            self.made[name] += 1
            return check(*args, **limits)

        return made

    def until(self, name: str, run: Path, claim: Path) -> None:
        """A trial stopped before a check; nothing is counted of it."""
        self.stop = name
        with pytest.raises(KeyboardInterrupt):
            commands.verify(run, claim=claim)
        self.stop = ""
        self.made.clear()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.mark.parametrize("grain", ["channel", "head"])
def test_a_claim_is_written_once_and_explains_every_check(
    grain: str, channels: Path, edges: Path, tmp_path: Path
) -> None:  # fmt: skip
    folder = {"channel": channels, "head": edges}[grain]
    report = commands.claim(folder, out=tmp_path / "claim.yaml")
    text, claim = (tmp_path / "claim.yaml").read_text(), load_claim(tmp_path / "claim.yaml", known_checks(grain))
    assert tuple(claim.checks) == tuple(report.checks) == checks_of(grain)
    assert (claim.sha256, claim.checks) == (report.sha256, report.checks)
    assert (claim.model, claim.task) == (("planted", "sides") if grain == "channel" else ("taught", "she-he"))
    for name in claim.checks:
        (line,) = (line for line in text.splitlines() if line.startswith(f"  {name}:"))
        assert line.endswith(f" # {asks(grain)[name]}")
    if grain == "channel":
        assert claim.thresholds_for("sufficiency") == {"target_loss": 0.15}  # that the run was cut at
    with pytest.raises(BadInput, match="Expected no file at"):
        commands.claim(folder, out=tmp_path / "claim.yaml")
    assert (tmp_path / "claim.yaml").read_text() == text
    quick = commands.claim(folder, out=tmp_path / "quick.yaml", quick=True)
    assert tuple(quick.checks) == checks_of(grain, quick=True)
    assert "every-value" not in quick.checks


def test_by_default_no_more_pairs_are_claimed_than_there_are(run: Path) -> None:
    report = commands.claim(run, quick=True)
    assert Path(report.claim) == run / "claim.yaml"
    assert load_claim(run / "claim.yaml", KNOWN).pairs == HELDOUT
    found = commands.verify(run, quick=True).verdict
    assert found.differences == ()
    assert [r.verdict for r in found.rulings] == [r.row.verdict for r in found.rulings if r.row]
    assert load_record(run / "evidence.json").details["claim_sha256"] == report.sha256
    more = commands.verify(run, quick=True, pairs=HELDOUT + 1).verdict
    assert not any(r.verdict == "pass" for r in more.rulings)
    assert f"on {HELDOUT} pairs, {HELDOUT + 1} are claimed" in more.differences


def test_a_quick_trial_has_the_base_checks_only(run: Path, channels: Path, tmp_path: Path) -> None:
    assert [e.check for e in commands.verify(run, quick=True).evidence] == list(checks_of("head", quick=True))
    copy = Path(shutil.copytree(channels, tmp_path / "channels"))
    assert [e.check for e in commands.verify(copy, quick=True).evidence] == list(checks_of("channel", quick=True))


def test_the_trial_of_a_claim_records_its_hash_and_thresholds(run: Path, claimed: Path) -> None:
    report, claim = commands.verify(run, claim=claimed), load_claim(claimed, KNOWN)
    assert [e.check for e in report.evidence] == list(SHORT)
    assert {e.check: e.limits for e in report.evidence} == claim.checks
    assert all(e.n == HELDOUT for e in report.evidence)
    assert (report.verdict.claim_sha256, report.verdict.differences) == (claim.sha256, ())
    record = load_record(run / "evidence.json")
    assert record.details["claim_sha256"] == claim.sha256
    assert Claim.of(record.config["claim"], KNOWN) == claim
    assert load_evidence(run / "evidence.json") == report.evidence
    assert not (run / TRIAL).exists()
    assert commands.verdict(run).verdict == report.verdict


def test_a_stopped_trial_goes_on_where_it_stopped(
    run: Path, edges: Path, claimed: Path, counted: Counted, tmp_path: Path
) -> None:  # fmt: skip
    whole = commands.verify(Path(shutil.copytree(edges, tmp_path / "whole")), claim=claimed)
    assert counted.made == Counter(SHORT)
    counted.until("necessity", run, claimed)
    assert not (run / "evidence.json").exists()
    said: list[str] = []
    report = commands.verify(run, claim=claimed, say=said.append)
    assert counted.made == Counter(["necessity"])
    assert any(line.endswith("faithfulness, accuracy were made before") for line in said)
    assert report.evidence == whole.evidence
    assert report.verdict == whole.verdict
    old, new = (json.loads((folder / "evidence.json").read_text()) for folder in (tmp_path / "whole", run))
    assert new["evidence"] == old["evidence"]
    assert new["record"]["config"] == old["record"]["config"]
    assert not (run / TRIAL).exists()
    counted.made.clear()
    commands.verify(run, claim=claimed)  # a trial that ended is made again
    assert counted.made == Counter(SHORT)


def test_a_check_that_was_not_written_whole_is_made_again(run: Path, claimed: Path, counted: Counted) -> None:
    counted.until("necessity", run, claimed)
    (run / TRIAL).write_bytes((run / TRIAL).read_bytes()[:-20])
    counted.until("necessity", run, claimed)  # the stump does not spoil what is written after it
    report = commands.verify(run, claim=claimed)
    assert counted.made == Counter(["necessity"])
    assert [e.check for e in report.evidence] == list(SHORT)


@pytest.mark.parametrize("damage", ["first line", "middle", "no text", "empty"])
def test_a_damaged_trial_is_made_again(damage: str, run: Path, claimed: Path, counted: Counted) -> None:
    counted.until("necessity", run, claimed)
    state = run / TRIAL
    first, second, *others = state.read_bytes().splitlines(keepends=True)
    state.write_bytes({
        "first line": b"".join([first[5:], second, *others]), "middle": b"".join([first, second[:50], b"\n", *others]),
        "no text": b"".join([first, b"\xff\xfe\n", second, *others]), "empty": b"",
    }[damage])  # fmt: skip
    report = commands.verify(run, claim=claimed)
    assert counted.made == Counter(SHORT)
    assert [e.check for e in report.evidence] == list(SHORT)
    assert not state.exists()


def test_a_changed_claim_starts_anew(run: Path, claimed: Path, counted: Counted, tmp_path: Path) -> None:
    counted.until("necessity", run, claimed)
    report = commands.verify(run, claim=claim_file(tmp_path / "other.yaml", seed=1))
    assert counted.made == Counter(SHORT)
    assert {e.seed for e in report.evidence} == {1}


def test_other_code_starts_anew(
    run: Path, claimed: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    counted.until("necessity", run, claimed)
    monkeypatch.setattr("gossamer.commands.trials.code_sha256", lambda: "changed, and not committed")
    commands.verify(run, claim=claimed)
    assert counted.made == Counter(SHORT)


def test_a_claim_made_after_the_trial_is_found_out(run: Path, claimed: Path, tmp_path: Path) -> None:
    own = commands.verify(run, claim=claimed).verdict
    assert own.rulings[0].verdict == "pass"
    before = (run / "evidence.json").read_bytes()
    for target in (0.1, 0.97):
        found = commands.verdict(run, claim=claim_file(tmp_path / f"{target}.yaml", target)).verdict
        assert found.rulings[0].verdict == "not measured"
        assert found.rulings[0].reason == "made with target 0.5 (the check itself: pass)"
        assert found.differences[0] == f"faithfulness: target is {target} in the claim, 0.5 in the verdict"
        assert f"another claim (sha256 {own.claim_sha256[:12]})" in found.summary
        assert [r.verdict for r in found.rulings[1:]] == [r.verdict for r in own.rulings[1:]]
    same = commands.verdict(run, claim=claimed)
    assert (same.verdict, same.evidence) == (own, load_evidence(run / "evidence.json"))
    assert (run / "evidence.json").read_bytes() == before
    with pytest.raises(BadInput, match="of the task ioi, as claimed"):
        commands.verdict(run, claim=claim_file(tmp_path / "ioi.yaml", task="ioi"))
    with pytest.raises(BadInput, match="of the task ioi, as claimed"):
        commands.verify(run, claim=tmp_path / "ioi.yaml")


def test_replay_makes_the_checks_of_the_claim_again(run: Path, tmp_path: Path) -> None:
    by_zero = claim_file(tmp_path / "claim.yaml", 0.2, ablation="zero", seed=3, pairs=5)
    report = commands.verify(run, claim=by_zero)
    assert {e.methodology["value"] for e in report.evidence if e.methodology} == {"zero"}
    again = commands.replay(run)
    assert again.agrees, again.differences
    content = json.loads((run / "evidence.json").read_text())
    content["record"]["config"]["claim"]["seed"] = 4
    (run / "evidence.json").write_text(json.dumps(content))
    assert not commands.replay(run).agrees


def as_version_1(file: Path, config: dict[str, Any]) -> None:
    """The evidence as it was written before there were claims."""
    save_evidence(load_evidence(file), file, Record(method="verify", config=config, seed=0))
    content = json.loads(file.read_text())
    content["format_version"] = 1
    for row in content["evidence"]:
        fields = list(row)
        for name in fields[fields.index("note") + 1 :]:
            del row[name]
    file.write_text(json.dumps(content))


def test_a_trial_from_before_there_were_claims_replays_and_holds_in_none(
    run: Path, channels: Path, claimed: Path, tmp_path: Path
) -> None:  # fmt: skip
    rows = commands.verify(run, quick=True, target=0.5).evidence
    assert rows[0].verdict == "pass"
    config = {"ablation": "resample", "granularity": "edge", "target": 0.5, "pairs": HELDOUT}
    as_version_1(run / "evidence.json", config)
    again = commands.replay(run)
    assert again.agrees, again.differences
    found = commands.verdict(run).verdict
    assert (found.claim_sha256, found.differences) == ("", ())
    assert [r.verdict for r in found.rulings] == [e.verdict for e in rows]
    later = commands.verdict(run, claim=claimed).verdict
    assert later.rulings[0].reason == "made with target not stated (the check itself: pass)"
    assert "no claim on record" in later.summary
    as_version_1(run / "evidence.json", {**config, "ablation": "zero"})
    assert "checks" in {d.what for d in commands.replay(run).differences}  # there was no restoration by zero
    copy = Path(shutil.copytree(channels, tmp_path / "channels"))
    commands.verify(copy, quick=True)
    as_version_1(copy / "evidence.json", {"checks": ["sufficiency", "accuracy", "necessity"], "target_loss": 0.15})
    again = commands.replay(copy)
    assert again.agrees, again.differences
    assert len(commands.verdict(copy).verdict.rulings) == 3


def test_a_claim_stands_alone(run: Path, claimed: Path, channels: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        commands.verify(run, claim=claimed, ablation="zero", granularity="node", pairs=3, seed=0, quick=True, target=1)
    assert "alone: it says what --ablation, --granularity, --pairs, --seed, --quick, --faithfulness would" in str(
        error.value
    )
    for options, told in (
        ({"claim": tmp_path / "none.yaml"}, "Expected a claim at .*none.yaml, found none"),
        ({"claim": claim_file(tmp_path / "typo.yaml", ablation="zeros")}, "Unknown ablation value 'zeros'"),
        ({"pairs": 1}, "at least 2 held-out pairs"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=told):
            commands.verify(run, **options)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="a faithfulness of a circuit of channels"):
        commands.verify(channels, target=0.5)
    with pytest.raises(BadInput, match="unknown check 'faithfulness'"):
        commands.verify(channels, claim=claimed)
    with pytest.raises(BadInput, match="gossamer verify RUN"):
        commands.verdict(run)
    for folder in (run, channels):
        assert not {TRIAL, "evidence.json"} & {p.name for p in folder.iterdir()}


def test_a_model_that_was_moved_is_the_claimed_one(channels: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(channels, tmp_path / "run"))
    moved = str(shutil.copytree(channels.parent / "planted", tmp_path / "elsewhere"))
    known = known_checks("channel")

    def claim_of(model: str) -> Path:
        claim = Claim.of({"model": model, "checks": {"sufficiency": {}}, "pairs": 16}, known)
        return claim.save(tmp_path / f"{model}.yaml")

    for options in ({"claim": claim_of("planted")}, {"quick": True}):
        assert commands.verify(run, model=moved, **options).verdict.differences == ()  # type: ignore[arg-type]
    assert load_record(run / "evidence.json").model == "planted"
    for other in ("elsewhere", "gpt2"):
        with pytest.raises(BadInput, match=f"of the model {other}, as claimed"):
            commands.verify(run, claim=claim_of(other), model=moved)


def test_the_three_verbs_on_the_command_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    from gossamer.cli.main import main

    monkeypatch.setenv("NO_COLOR", "1")

    def gossamer(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["gossamer", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    file = str(tmp_path / "mine.yaml")
    code, out, _ = gossamer("claim", str(run), "--out", file, "--quick", "--json")
    written = json.loads(out)
    assert (code, written["claim"], tuple(written["checks"])) == (0, file, checks_of("head", quick=True))
    code, out, err = gossamer("verify", str(run), "--claim", file, "--json")
    report = json.loads(out)
    assert (code, report["verdict"]["claim_sha256"]) == (0, written["sha256"])
    assert "trying 30 edges" in err
    code, out, _ = gossamer("verdict", str(run), "--json")
    assert (code, json.loads(out)["verdict"]) == (0, report["verdict"])
    code, out, err = gossamer("verify", str(run), "--claim", file, "--pairs", "3", "--json")
    assert (code, json.loads(out)["error"]) == (2, "BadInput")
    assert "--pairs" in err
    code, out, _ = gossamer("verdict", str(run), "--claim", file)
    words = " ".join(out.split())
    assert code == 0
    assert report["verdict"]["headline"] in words
    code, out, _ = gossamer("claim", str(run))
    assert (code, "Next: change it, then gossamer verify" in out) == (0, True)
    assert gossamer("claim", str(run))[0] == 2


def test_a_stated_hypothesis_is_part_of_the_claim(channels: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(channels, tmp_path / "run"))
    file = tmp_path / "hypothesis.yaml"
    file.write_text("features: {side: 'left|right'}\nclaims: [{parts: rest, depends_on: [side]}]\n")
    known = {"causal-scrubbing": known_checks("channel")["causal-scrubbing"]}
    content = {"checks": known, "pairs": 16}
    usual = Claim.of(content, known_checks("channel")).save(tmp_path / "usual.yaml")
    told = Claim.of(
        {**content, "hypothesis": {"features": {"side": "left|right"}, "claims": [
            {"parts": "rest", "depends_on": ["side"]}]}}, known_checks("channel"),
    )  # fmt: skip
    (row,) = commands.verify(run, claim=usual).evidence
    assert "side" not in row.note
    (row,) = commands.verify(run, claim=told.save(tmp_path / "told.yaml")).evidence
    assert "side" in row.note
    assert load_record(run / "evidence.json").details["claim_sha256"] == told.sha256
    assert commands.replay(run).agrees
    with pytest.raises(BadInput, match="says what --hypothesis"):
        commands.verify(run, claim=usual, hypothesis=file)
    with pytest.raises(BadInput, match="Expected a hypothesis at"):
        commands.verify(run, hypothesis=tmp_path / "none.yaml")
