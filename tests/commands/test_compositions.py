"""`gossamer compose`: a run folder that verify, show and replay take, with what it was tried against, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_helpers import run_of
from taught import pairs, saved
from toys import PLANTED_NODES, planted_model
from typer.testing import CliRunner
from verify_helpers import circuit_of

from gossamer import commands
from gossamer.circuit import Circuit
from gossamer.cli.main import app
from gossamer.commands.run_folder import CIRCUIT, COMPOSITION
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import load_evidence, load_record
from gossamer.models import LoadedModel
from gossamer.models.files import save_model
from gossamer.show import read_bundle


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The planted circuit in two halves, of two tasks that it does."""
    folder = tmp_path_factory.mktemp("halves")
    made = planted_model()
    save_model(made.model, folder / "model", tokenizer=made.tokenizer, reference=made.reference, record={"details": {}})
    one = run_of(folder, "sides", made, folder / "model", PLANTED_NODES[:2], 0)
    return one, run_of(folder, "others", made, folder / "model", PLANTED_NODES[2:], 1)


def test_a_union_does_what_neither_half_does_and_is_a_run(halves: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "union"
    asked = ["compose", "union", *map(str, halves), "--pairs", "6", "--out", str(out)]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["run"], report["nodes"], report["task"], report["rule"]) == (str(out), 4, "sides", "reference")
    rows = load_evidence(out / COMPOSITION)
    assert [r.name for r in rows] == [f"composition (sides | others on {t})" for t in ("sides", "others")]
    for row in rows:
        assert row.value is not None
        assert row.value > 0.95 > 0.1 > max(n.value or 0 for n in row.nulls[:2])
        assert row.verdict == "pass"
    record = load_record(out / COMPOSITION)
    assert (record.method, record.config["operation"], record.config["rule"]) == ("set-operation", "union", "reference")
    circuit = Circuit.load(out / CIRCUIT)
    assert circuit.n_edges == circuit_of(planted_model(), PLANTED_NODES).n_edges  # those between the halves too
    replayed = commands.replay(out)
    assert replayed.agrees, replayed.differences
    lines = list[str]()
    commands.show(out, say=lines.append)
    assert "only what `compose` measured" in lines.pop()
    trial = commands.verify(out, quick=True, pairs=6)
    assert next(e.value for e in trial.evidence if e.name == "necessity") is not None
    assert commands.replay(out).agrees  # the evidence of the composition is none of the trial's
    bundle = read_bundle(Path(commands.show(out, say=lines.append).bundle))
    assert not lines  # it has a trial by now
    assert [e.claim.partition(" (")[0] for e in bundle.evidence].count("composition") == 2
    again = CliRunner().invoke(app, asked)
    assert again.exit_code != 0
    assert "exists" in str(again.exception)


def test_an_intersection_and_other_tasks(halves: tuple[Path, Path], tmp_path: Path) -> None:
    union = commands.compose("union", halves, pairs=4, draws=1, out=tmp_path / "union").run
    report = commands.compose("intersection", [union, halves[1]], pairs=4, draws=2, out=tmp_path / "both")
    assert set(Circuit.load(tmp_path / "both" / CIRCUIT).nodes) == set(Circuit.load(halves[1] / CIRCUIT).nodes)
    assert report.finding.startswith("Share of the effect that the intersection of ")
    assert [row.verdict for row in report.evidence] == ["not measured"] * 2  # it is one of its parts
    pairs_file = halves[1] / "others.jsonl"
    report = commands.compose("difference", [union, halves[1]], tasks=[pairs_file], pairs=4, draws=2,
                              out=tmp_path / "first")  # fmt: skip
    assert (report.task, len(report.evidence)) == ("others", 1)
    assert (tmp_path / "first" / "others.jsonl").is_file()
    assert "leaves: others " in report.finding
    assert "(sides alone " in report.finding  # the first circuit, of the task sides
    assert commands.replay(tmp_path / "first").agrees


def test_the_pairs_are_those_asked_for(halves: tuple[Path, Path], tmp_path: Path) -> None:
    """A file, or a seed, of the same name as a run's task but with other pairs is never taken for it, nor dropped."""
    file = tmp_path / "sides.jsonl"
    file.write_text("\n".join((halves[1] / "others.jsonl").read_text().splitlines()[::-1]))
    commands.compose("union", halves, tasks=[file], pairs=4, draws=1, out=tmp_path / "asked")
    assert (tmp_path / "asked" / "sides.jsonl").read_text() == file.read_text()
    asked = commands.compose("union", halves, tasks=[halves[0] / "sides.jsonl"], task_seed=5, pairs=4, draws=1,
                             out=tmp_path / "seed")  # fmt: skip
    assert json.loads((tmp_path / "seed" / "record.json").read_text())["task_seed"] == 5
    assert asked.task == "sides"
    assert commands.replay(tmp_path / "seed").agrees
    two = [tmp_path / "seed", halves[1]]
    named = ["compose", "union", *map(str, [halves[0], tmp_path / "asked"]), "--out", str(tmp_path / "x")]
    done = CliRunner().invoke(app, named)
    assert "sides is of two sets of pairs" in str(done.exception)
    with pytest.raises(BadInput, match=r"sides is of two sets of pairs.*choose one with --task"):
        commands.compose("union", two, tasks=[file, halves[0] / "sides.jsonl"], out=tmp_path / "x")
    assert not (tmp_path / "x").exists()
    same = commands.compose("difference", [tmp_path / "asked", halves[1]], tasks=[file, file], pairs=4, draws=1,
                            out=tmp_path / "once")  # fmt: skip
    assert len(same.evidence) == 1


@pytest.fixture(scope="module")
def decoder_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Circuits of heads of a Hugging Face folder, of two files of pairs."""
    place = tmp_path_factory.mktemp("decoder")
    folder, found = saved(place / "taught"), []
    for i in range(2):
        file = place / f"task{i}.jsonl"
        rows = [
            {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer}
            for e in pairs()[i::6]
        ]
        file.write_text("\n".join(map(json.dumps, rows)))
        out = place / f"run{i}"
        method = ("iterative-sweep", "eap")[i]
        commands.discover_edges(method, folder, file, out=out, force=True, ablation="mean", pairs=4)
        found.append(out)
    return found[0], found[1]


@pytest.mark.parametrize("rule", ["first", "evaluated", "all"])
def test_circuits_of_a_decoder_by_a_stated_rule(decoder_runs: tuple[Path, Path], tmp_path: Path, rule: str) -> None:
    report = commands.compose("union", decoder_runs, rule=rule, pairs=4, draws=1, out=tmp_path / "out")
    assert report.rule == rule
    assert all((e.methodology or {})["replacement"] == rule for e in report.evidence)
    assert len(report.evidence) == 2
    whole = Circuit.load(tmp_path / "out" / CIRCUIT)
    assert whole.granularity == "edge"
    assert all(set(Circuit.load(r / CIRCUIT).nodes) <= set(whole.nodes) for r in decoder_runs)
    if rule == "first":
        assert commands.verify(tmp_path / "out", quick=True, pairs=4).evidence
        assert commands.replay(tmp_path / "out").agrees
        assert read_bundle(Path(commands.show(tmp_path / "out").bundle)).grain == "head"
        by_pair = commands.compose("union", decoder_runs, value="resample", pairs=4, draws=1, out=tmp_path / "pair")
        assert by_pair.rule == "the pair's other prompt"
        for value in ("resample", "zero", "noise"):
            with pytest.raises(Unsupported, match=f"the rule {rule} here is not supported"):
                commands.compose("union", decoder_runs, rule=rule, value=value, out=tmp_path / "no")
        assert not (tmp_path / "no").exists()
        shared = commands.compare(decoder_runs, shared=True, pairs=4, draws=2, out=tmp_path / "shared")
        assert shared.shared is not None
        assert set(shared.shared.shared) <= set(shared.shared.union)


def test_what_cannot_be_composed_is_said_before_anything_is_made(
    halves: tuple[Path, Path], tmp_path: Path, small: LoadedModel
) -> None:
    other = tmp_path / "other"
    circuit_of(small, ("0.attn.v:1",)).save(other / CIRCUIT)
    x = tmp_path / "x"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: commands.compose("xor", halves, out=x), "Unknown operation 'xor'"),
        (lambda: commands.compose("union", halves[:1], out=x), "two or more runs"),
        (lambda: commands.compose("union", halves, rule="last", out=x), "Unknown rule 'last'"),
        (lambda: commands.compose("union", halves, draws=0, out=x), "1 random set of each part, got 0"),
        (lambda: commands.compose("union", halves, pairs=1, out=x), "at least 2 pairs of each task .*, got 1"),
        (lambda: commands.compose("union", halves, seed=-1, out=x), "a seed of at least 0, got -1"),
        (lambda: commands.compose("union", halves, gain=-0.5, out=x), "a gain of at least 0, .*, got -0.5"),
        (lambda: commands.compose("union", halves, gain=float("nan"), out=x), "a gain of at least 0, .*, got nan"),
        (lambda: commands.compose("union", [halves[0], halves[0]], out=x), "got one twice"),
        (lambda: commands.compose("union", halves, rule="all", out=x), "reference means are of no task"),
        (lambda: commands.compose("union", halves, rule="first", value="zero", out=x), "zeros are of no task"),
        (lambda: commands.compose("union", [halves[0], other], out=x), "within one model only"),
        (lambda: commands.compose("intersection", halves, out=x), "it is empty"),
        (lambda: commands.compose("union", halves, value="noise", out=x), "by noise"),
        (lambda: commands.compose("union", halves, tasks=["no_such_task"], out=x), "no_such_task"),
        (
            lambda: commands.compose("union", [tmp_path / "none", halves[0]], out=x),
            "gossamer discover prune MODEL TASK",
        ),
    ]
    for call, message in cases:
        with pytest.raises((BadInput, Unsupported), match=message):
            call()
    assert not x.exists()
    twice = CliRunner().invoke(app, ["compose", "union", str(halves[0]), str(halves[0]), "--out", str(x)])
    assert isinstance(twice.exception, BadInput)  # which `gossamer` ends with exit status 2
    assert not x.exists()
