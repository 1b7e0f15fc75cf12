"""`gossamer compare` on run folders: files, resumption, names, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import PLANTED_NODES, planted_model, planted_task
from typer.testing import CliRunner
from verify_helpers import circuit_of

from gossamer import commands
from gossamer.cli.main import app
from gossamer.commands import comparisons
from gossamer.commands.run_folder import CIRCUIT, RunRecord, RunResult, write_json
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.evidence import load_evidence, load_record
from gossamer.models import LoadedModel
from gossamer.models.files import save_model
from gossamer.scores import Scores
from gossamer.show.matrix_figure import read_matrices, write_matrix_figure
from gossamer.tasks import load_task

DECOY = ("0.attn.act_in:1", "0.attn.v:1", "0.attn.resid_delta:2", "final_resid:6")


def run_of(folder: Path, name: str, model: LoadedModel, source: Path, sites: tuple[str, ...], seed: int) -> Path:
    """A run folder with this circuit, as `discover prune` would have left it."""
    task = planted_task(n=8, seed=seed)
    file = folder / f"{name}.jsonl"
    lines = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer}
        for e in (*task.train, *task.heldout)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    asked = load_task(str(file), 0)
    made = circuit_of(model, sites)
    record = made.record.model_copy(
        update={"task": asked.name, "task_version": asked.version, "config": {"target_loss": 0.15}}
    )
    run = folder / "runs" / name
    run.mkdir(parents=True)
    replace(made, record=record).save(run / CIRCUIT)
    Scores(layout=made.layout, values=np.zeros(made.layout.n_nodes), record=record).save(run / "scores.safetensors")
    result = RunResult(
        reached=True, target_loss_nats=0.15, loss_train_nats=0.1, loss_heldout_nats=0.1, loss_full_nats=0.1,
        accuracy_circuit=1.0, accuracy_full=1.0, nodes=made.n_nodes, edges=made.n_edges, curve=(), trials=(),
    )  # fmt: skip
    (run / file.name).write_text(file.read_text())
    write_json(
        RunRecord(record=record, result=result, model_source=str(source), task_source=file.name), run / "record.json"
    )
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The planted circuit on one task, and one that shares its last channel on another."""
    folder = tmp_path_factory.mktemp("runs")
    made = planted_model()
    save_model(made.model, folder / "model", tokenizer=made.tokenizer, reference=made.reference, record={})
    return tuple(  # type: ignore[return-value]
        run_of(folder, name, made, folder / "model", sites, seed)
        for name, sites, seed in (("sides", PLANTED_NODES, 0), ("others", DECOY, 1))
    )


def test_two_tasks_are_compared_and_the_same_files_come_again(runs: tuple[Path, Path], tmp_path: Path) -> None:
    asked = ["compare", *map(str, runs), "--pairs", "4", "--draws", "2", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["names"] == ["sides", "others"]
    (nodes,) = (r for r in report["overlap"] if (r["what"], r["kind"]) == ("nodes", "all"))
    assert (nodes["iou"], nodes["shared"]) == (1 / 7, 1)
    assert nodes["chance"] is not None
    share = {(c["ablated"], c["on"]): c["own"]["share"] for c in report["specificity"]["cells"]}
    assert share["sides", "sides"] == pytest.approx(1, abs=0.05)
    assert share["sides", "others"] == pytest.approx(1, abs=0.05)  # one mechanism does both tasks
    assert "Ablating a circuit costs its own task" in report["finding"]
    evidence = load_evidence(Path(report["evidence"]))
    assert {e.check for e in evidence} >= {"overlap", "specificity", "selectivity", "part"}
    assert load_record(Path(report["evidence"])).details["circuits"].keys() == {"sides", "others"}
    data = read_matrices(Path(report["data"]))
    assert [m.title for m in data.matrices] == ["IoU of nodes", "IoU of edges", "effect lost, circuit by task"]
    first = Path(report["svg"]).read_bytes()
    assert write_matrix_figure(data, tmp_path / "again")[1].read_bytes() == first
    text = CliRunner().invoke(app, asked)  # goes on from what is made
    assert text.exit_code == 0, text.output
    assert "ablating 2 circuits" not in text.output
    assert "Share of the effect lost" in text.output
    (tmp_path / "out" / comparisons.MADE).write_text('{"overlap": 3}')
    with pytest.raises(CorruptFile, match="compare again"):
        commands.compare(runs, pairs=4, draws=2, out=tmp_path / "out")
    with pytest.raises(BadInput, match="another seed"):
        commands.compare(runs, pairs=4, draws=2, out=tmp_path / "out", seed=1)


def test_reuse_of_one_run_and_a_run_again(runs: tuple[Path, Path], tmp_path: Path) -> None:
    report = commands.compare(runs[:1], reuse=True, pairs=4, draws=1, out=tmp_path / "one")
    assert (report.overlap, report.specificity) == ((), None)
    assert report.png == ""
    assert report.notes == ("No cross-task matrix of one run.",)
    assert len(report.reuse["sides"]) == 10
    assert "share" in report.finding
    assert {e.check for e in load_evidence(Path(report.evidence))} == {"reuse", "core"}


def test_checkpoints_are_compared_in_their_order(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Circuits of one layout whose weights differ."""
    folders = []
    for step, n in ((10, 2), (20, 3), (30, 4)):
        made = circuit_of(planted_model(), PLANTED_NODES[:n])
        record = made.record.model_copy(update={"model_sha256": f"{step}" * 32, "task": "sides"})
        folders.append(tmp_path / f"step-{step}")
        replace(made, record=record).save(folders[-1] / CIRCUIT)
    with pytest.raises(Unsupported, match="--along"):
        commands.compare(folders)
    report = commands.compare(folders, along=True, out=tmp_path / "out")
    assert report.names == ("step-10", "step-20", "step-30")
    ious = [r.iou for r in report.overlap if (r.what, r.kind) == ("nodes", "all")]
    assert ious == [2 / 3, 2 / 4, 3 / 4]
    assert report.finding.startswith("Along 3 checkpoints the circuits of neighbours overlap by 0.667 to 0.750")
    assert Path(report.svg).stat().st_size > 0
    with pytest.raises(BadInput, match="--along or --reuse"):
        commands.compare(folders, along=True, reuse=True)


def test_an_empty_circuit_is_named(tmp_path: Path) -> None:
    folders = []
    for step, own in ((10, PLANTED_NODES), (20, ()), (30, PLANTED_NODES)):
        made = circuit_of(planted_model(), own)
        folders.append(tmp_path / f"step-{step}")
        replace(made, record=made.record.model_copy(update={"model_sha256": f"{step}" * 32})).save(
            folders[-1] / CIRCUIT
        )
    report = commands.compare(folders[:2], along=True, out=tmp_path / "two")
    assert report.finding == "The circuit of step-20 has no node, so there is no overlap."
    report = commands.compare(folders, along=True, out=tmp_path / "three")
    assert report.finding.endswith("The circuit of step-20 has no node.")


def test_what_cannot_be_compared_is_said_before_anything_is_made(
    runs: tuple[Path, Path], tmp_path: Path, small: LoadedModel
) -> None:
    other = tmp_path / "other"
    circuit_of(small, ("0.attn.v:1",)).save(other / CIRCUIT)
    link = tmp_path / "link"
    link.symlink_to(runs[0])
    for call, message in (
        (lambda: commands.compare([runs[0], other], out=tmp_path / "x"), "within one model only"),
        (lambda: commands.compare([runs[0]], out=tmp_path / "x"), "two or more circuits"),
        (lambda: commands.compare([runs[0], runs[0]], out=tmp_path / "x"), "got one twice"),
        (lambda: commands.compare([runs[0], link], out=tmp_path / "x"), "sides and .*link are the same"),
        (lambda: commands.compare(runs, draws=0, out=tmp_path / "x"), "1 random set"),
        (lambda: commands.compare(runs, pairs=1, out=tmp_path / "x"), "at least 2 pairs"),
        (lambda: commands.compare(runs, value="zeroo", out=tmp_path / "x"), "Unknown ablation value"),
        (lambda: commands.compare([tmp_path / "none", runs[0]], out=tmp_path / "x"), "Expected a file"),
    ):
        with pytest.raises((BadInput, Unsupported), match=message):
            call()
    assert not (tmp_path / "x").exists()
