"""`gossamer compare` on run folders: files, resumption, names, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from run_helpers import run_of
from toys import PLANTED_NODES, planted_model
from typer.testing import CliRunner
from verify_helpers import circuit_of

from gossamer import commands
from gossamer.circuit import Circuit
from gossamer.cli.main import app
from gossamer.commands import comparisons, model_comparisons
from gossamer.commands.run_folder import CIRCUIT
from gossamer.compare import tensor_similarity
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.evidence import load_evidence, load_record
from gossamer.models import LoadedModel
from gossamer.models.bilinear import BilinearConfig, load_bilinear
from gossamer.models.files import save_model
from gossamer.models.sparse import SparseTransformer
from gossamer.show import read_bundle
from gossamer.show.matrix_figure import read_matrices, write_matrix_figure
from gossamer.train.bilinear import BilinearTraining, modular_addition, train_bilinear_into

DECOY = ("0.attn.act_in:1", "0.attn.v:1", "0.attn.resid_delta:2", "final_resid:6")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The planted circuit on one task, and one that shares its last channel on another."""
    folder = tmp_path_factory.mktemp("runs")
    made = planted_model()
    save_model(made.model, folder / "model", tokenizer=made.tokenizer, reference=made.reference, record={})
    one = run_of(folder, "sides", made, folder / "model", PLANTED_NODES, 0)
    return one, run_of(folder, "others", made, folder / "model", DECOY, 1)


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
    assert {e.check for e in evidence} >= {"overlap", "specificity", "selectivity", "part", "form similarity"}
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
    with pytest.raises(BadInput, match="another shared, another floor"):
        commands.compare(runs, pairs=4, draws=2, out=tmp_path / "out", shared=True)


def test_the_shared_part_of_two_tasks_and_runs_of_one(runs: tuple[Path, Path], tmp_path: Path) -> None:
    asked = ["compare", *map(str, runs), "--shared", "--pairs", "4", "--draws", "2", "--out", str(tmp_path / "out")]
    text = CliRunner().invoke(app, asked)
    assert text.exit_code == 0, text.output
    assert "Shared by all: final_resid:6" in text.output
    assert "joint ablation" in text.output
    done = CliRunner().invoke(app, [*asked, "--json"])
    report = json.loads(done.stdout)
    assert report["shared"]["shared"] == ["final_resid:6"]
    assert "2 tasks share 1 of 7 parts" in report["finding"]
    checks = [e.check for e in load_evidence(Path(report["evidence"]))]
    assert (checks.count("cross-evaluation"), checks.count("joint ablation")) == (8, 2)
    with pytest.raises(BadInput, match="another shared, another floor"):
        commands.compare(runs, pairs=4, draws=2, out=tmp_path / "out")
    again = tmp_path / "again"
    shutil.copytree(runs[0], again)
    smaller = circuit_of(planted_model(), PLANTED_NODES[:3])
    replace(smaller, record=Circuit.load(runs[0] / CIRCUIT).record).save(again / CIRCUIT)
    report = commands.compare([runs[0], again], shared=True, pairs=4, draws=2, out=tmp_path / "one")
    assert report.shared is None
    assert report.stability[0].value == 0.75
    assert any("the runs are of one" in note for note in report.notes)


def test_models_are_compared_by_their_weights(tmp_path: Path, small: LoadedModel) -> None:
    places = []
    for name, seed in (("one", 0), ("two", 1), ("three", 2)):
        model = SparseTransformer(small.model.config, seed=seed)
        save_model(model, tmp_path / name, tokenizer=small.tokenizer, reference=None, record={})
        places.append(str(tmp_path / name))
    asked = ["compare", *places[:2], "--draws", "2", "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["names"] == ["one", "two"]
    (row,) = load_evidence(Path(report["evidence"]))
    assert row.name == "form similarity (one and two)"
    assert row.nulls[0].n == 2
    assert report["finding"].startswith("Form similarity 0.")
    assert report["finding"].endswith("above it: not measured, too few draws.")
    again = CliRunner().invoke(app, asked)
    assert "the best order" not in again.stderr  # what was made is kept
    along = commands.compare(places, along=True, draws=2, out=tmp_path / "along")
    assert [e.name for e in along.similarity] == ["form similarity (one and three)", "form similarity (two and three)"]
    assert along.finding.startswith("Along 3 checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_comparisons, "forms_of", lambda model: pytest.fail("what is known is made again"))
        again = commands.compare(places, along=True, draws=2, out=tmp_path / "along")
    assert again.similarity == along.similarity
    made = tmp_path / "along" / comparisons.MADE
    known = json.loads(made.read_text())
    del known["one, three"]  # stopped before it
    made.write_text(json.dumps(known))
    told = list[str]()
    assert commands.compare(places, along=True, draws=2, out=tmp_path / "along", say=told.append).similarity == (
        along.similarity
    )
    assert told == ["1 checkpoints beside three, and 2 shuffled models"]
    with pytest.raises(Unsupported, match="a page is of a circuit"):
        commands.show(tmp_path / "along")


def test_bilinear_networks_are_compared_as_polynomials(tmp_path: Path) -> None:
    network = BilinearConfig(sizes=(6, 3), kinds=("bilinear",), hidden=4)
    for name, seed in (("one", 0), ("two", 1)):
        training = BilinearTraining(model=network, steps=2, checkpoints=2, seed=seed)
        train_bilinear_into(tmp_path / name, training, modular_addition(3))
    report = commands.compare([tmp_path / "one", tmp_path / "two"], draws=3, out=tmp_path / "out")
    (row,) = report.similarity
    one, two = (load_bilinear(tmp_path / name).models[-1] for name in ("one", "two"))
    assert row.value == pytest.approx(tensor_similarity(one, two).value)
    assert row.check == "tensor similarity"
    assert "Tensor similarity" in report.finding


def test_models_that_cannot_be_compared_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for call, message in (
        (lambda: commands.compare(["tiny"], out=tmp_path / "x"), "two or more models"),
        (lambda: commands.compare(["tiny", "tiny"], out=tmp_path / "x"), "got tiny twice"),
        (lambda: commands.compare(["tiny", runs[0]], out=tmp_path / "x"), "got both: tiny as models.* of one kind"),
        (lambda: commands.compare(["gpt2", "tiny"], out=tmp_path / "x"), "got gpt2.*discover prune.*known: .*tiny"),
        (lambda: commands.compare(["tiny", "tiny-dens"], out=tmp_path / "x"), "got tiny-dens.*did you mean tiny-dense"),
        (lambda: commands.compare([runs[0], tmp_path], out=tmp_path / "x"), "a folder without circuit.safetensors"),
        (lambda: commands.compare([runs[0], "nope"], out=tmp_path / "x"), "got nope.*no folder.*discover prune"),
        (lambda: commands.compare(["tiny", "tiny-dense"], shared=True, out=tmp_path / "x"), "--reuse, --shared"),
    ):
        with pytest.raises((BadInput, Unsupported), match=message):
            call()
    assert not (tmp_path / "x").exists()


def test_a_page_of_a_comparison(runs: tuple[Path, Path], tmp_path: Path) -> None:
    report = commands.compare(runs, pairs=4, draws=2, out=tmp_path / "out")
    bundle = read_bundle(Path(commands.show(tmp_path / "out").bundle))
    assert (tmp_path / "out" / "page.html").is_file()
    found = bundle.comparison
    assert found is not None
    assert bundle.other is not None
    assert (found.own, found.other, bundle.task.name, bundle.other.task) == ("sides", "others", "sides", "others")
    assert found.finding == report.finding
    assert [(r.iou, r.p_value) for r in found.overlap] == [(r.iou, r.p_value) for r in report.overlap]
    assert report.specificity is not None
    assert [c.share for c in found.cells] == [c.own.share for c in report.specificity.cells if c.own]
    assert {c.ablated for c in found.parts} == {"sides and others", "sides without others", "others without sides"}
    assert {e.claim.partition(" ")[0].rstrip(":") for e in found.evidence} == {"specificity", "selectivity", "form"}
    again = read_bundle(Path(commands.show(runs[1], compare=tmp_path / "out").bundle))
    assert again.comparison is not None
    assert (again.comparison.own, again.comparison.other, again.task.name) == ("others", "sides", "others")
    assert read_bundle(Path(commands.show(runs[1], compare=runs[0]).bundle)).comparison is None
    with pytest.raises(BadInput, match="it is a comparison"):
        commands.show(tmp_path / "out", compare=runs[0])
    moved = tmp_path / "elsewhere" / "deeper"
    shutil.copytree(tmp_path / "out", moved)
    with pytest.raises(BadInput, match="found none; compare again"):
        commands.show(moved)


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
        (lambda: commands.compare([runs[0]], out=tmp_path / "x"), "two or more circuits.*--reuse"),
        (lambda: commands.compare(runs, granularity="branch", out=tmp_path / "x"), "^--granularity of a .*without"),
        (lambda: commands.compare([runs[0], runs[0]], out=tmp_path / "x"), "got one twice"),
        (lambda: commands.compare([runs[0], link], out=tmp_path / "x"), "sides and .*link are the same"),
        (lambda: commands.compare(runs, draws=0, out=tmp_path / "x"), "1 random set"),
        (lambda: commands.compare(runs, pairs=1, out=tmp_path / "x"), "at least 2 pairs"),
        (lambda: commands.compare(runs, value="zeroo", out=tmp_path / "x"), "Unknown ablation value"),
        (lambda: commands.compare([tmp_path / "none", runs[0]], out=tmp_path / "x"), "none, which is no folder here"),
    ):
        with pytest.raises((BadInput, Unsupported), match=message):
            call()
    assert not (tmp_path / "x").exists()
