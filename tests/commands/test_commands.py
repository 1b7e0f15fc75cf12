"""The whole way on a small model: prune, verify, show, replay; and what replay is for."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from toys import planted_model, planted_task, random_model

from gossamer import commands
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.models.files import save_model
from gossamer.show import read_bundle
from gossamer.show.live import Answer

SEARCH = {"steps": 100, "lr": 3e-2, "batch_pairs": 16, "k_coef": (1e-3, 3e-3)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pairs and a run of them, made once; tests get a copy to spoil."""
    folder, m, task = tmp_path_factory.mktemp("made"), planted_model(), planted_task()
    save_model(m.model, folder / "planted", tokenizer=m.tokenizer, reference=m.reference, record={"details": {}})
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer,
         "split": split}
        for split, part in (("train", task.train), ("heldout", task.heldout)) for e in part
    ]  # fmt: skip
    (folder / "sides.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = commands.prune(folder / "planted", folder / "sides.jsonl", out=folder / "run", **SEARCH)
    assert found.reached
    assert (found.nodes, found.edges) == (4, 2)
    commands.verify(folder / "run", quick=True)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The folder of `made` at another place, as if it had been made there."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for file in (tmp_path / "run").glob("*.json"):
        file.write_text(file.read_text().replace(str(made), str(tmp_path)))
    return tmp_path


@pytest.fixture
def model_folder(copy: Path) -> Path:
    return copy / "planted"


@pytest.fixture
def pairs_file(copy: Path) -> Path:
    return copy / "sides.jsonl"


@pytest.fixture
def run(copy: Path) -> Path:
    return copy / "run"


def test_a_run_folder_tells_the_story(run: Path) -> None:
    report = commands.show(run)
    names = {p.name for p in run.iterdir()}
    assert names == {
        "record.json", "scores.safetensors", "circuit.safetensors", "evidence.json", "bundle.json", "page.html",
        "sides.jsonl",
    }  # fmt: skip
    assert Path(report.page).stat().st_size == report.bytes
    bundle = read_bundle(run / "bundle.json")
    assert bundle.circuit.n_nodes == 4
    assert {e.verdict for e in bundle.evidence} == {"pass"}
    final = next(n for n in bundle.circuit.nodes if n.location == "final_resid")
    assert final.direct_logit == pytest.approx(0.4)
    assert [(c.src, c.dst) for c in bundle.circuit.carries] == [("0.attn.resid_delta:6", "final_resid:6")]


def test_a_notebook_shows_the_trial_that_lies_in_the_folder(run: Path) -> None:
    commands.show(run)
    path, said = run / "bundle.json", list[str]()
    trial = read_bundle(path).evidence

    def shown(**changes: object) -> dict[str, Any]:
        path.write_text(read_bundle(path).model_copy(update=changes).model_dump_json())
        (run / "evidence.json").touch()
        return dict(commands.widget(run, say=said.append).bundle)

    assert shown(title="as it was")["title"] == "as it was"
    assert not said
    assert len(shown(title="as it was", evidence=())["evidence"]) == len(trial)
    assert shown(title="x", record={**read_bundle(path).record, "seed": 99})["title"] != "x"
    assert [line for line in said if "made again" in line] == said
    assert len(said) == 2
    assert read_bundle(path).evidence == trial


MALFORMED = {
    "record.json": ("{", "not a whole run record"), "circuit.safetensors": ("none", "damaged"),
    "evidence.json": ("{", "evidence"), "notes.json": ("[]", "does not hold notes"),
}  # fmt: skip


def test_a_run_is_served_until_ctrl_c_and_a_malformed_one_is_not(run: Path) -> None:
    command = [sys.executable, "-m", "gossamer", "show", str(run), "--serve", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stderr is not None
            told = json.loads(server.stdout.readline())
            assert told["run"] == str(run)
            assert told["token"] is None

            def ask(side: str, *changes: dict[str, str]) -> Answer:
                body = {"text": f"w1 {side} w2", "candidates": [" L", " R"], "interventions": changes}
                kind = {"content-type": "application/json"}
                asked = Request(f"{told['url']}api/ask", json.dumps(body).encode(), kind)
                return Answer.model_validate_json(urlopen(asked, timeout=20).read())

            left, right = ask("left"), ask("right")
            for side, sign in ((left, 1), (right, -1)):
                for reading in (side.model, side.circuit):
                    assert sign * (reading.candidates[0] - reading.candidates[1]) > 0
            blind = [ask(side, {"kind": "ablate", "site": "0.attn.v:5"}) for side in ("left", "right")]
            assert blind[0].circuit.candidates == pytest.approx(blind[1].circuit.candidates)
            server.send_signal(signal.SIGINT)
            assert server.wait(20) == 0
            assert server.stdout.read() == ""
            assert "Traceback" not in server.stderr.read()
        finally:
            server.kill()
    for file, (content, message) in MALFORMED.items():
        whole = (run / file).read_bytes() if (run / file).exists() else b"{}"
        (run / file).write_text(content)
        with pytest.raises(CorruptFile, match=message):
            commands.serve(run, ready=lambda report: pytest.fail("it was served"))
        (run / file).write_bytes(whole)


@pytest.mark.parametrize("seed", [0, 7])
def test_replay_agrees_with_a_saved_run(run: Path, seed: int) -> None:
    commands.verify(run, quick=True, seed=seed)
    report = commands.replay(run)
    assert report.agrees, report.differences
    assert report.compared > 20


def test_replay_repeats_the_search_to_the_bit_and_notices_another_seed(run: Path) -> None:
    report = commands.replay(run, tolerance=0, search=True)
    assert report.agrees, report.differences
    record = run / "record.json"
    content = json.loads(record.read_text())
    content["record"]["config"]["seed"] += 1
    record.write_text(json.dumps(content))
    changed = commands.replay(run, tolerance=0, search=True)
    assert [d.what for d in changed.differences] == ["largest change of a score"]


@pytest.mark.parametrize("what", ["weight", "mean", "scores"])
def test_replay_disagrees_when_something_was_changed(run: Path, model_folder: Path, what: str) -> None:
    file, key = {
        "weight": (model_folder / "model.safetensors", "h.0.attn.c_proj.weight.values"),
        "mean": (model_folder / "reference.safetensors", "mean.final_resid"),
        "scores": (run / "scores.safetensors", "values"),
    }[what]
    from safetensors import safe_open

    with safe_open(file, framework="pt") as f:
        meta = f.metadata()
    meta.pop("sha256", None)  # as if it had been written so
    tensors = load_file(file)
    tensors[key] = -tensors[key] if what == "scores" else tensors[key] + 0.25
    save_file(tensors, file, metadata=meta)
    report = commands.replay(run)
    assert not report.agrees
    text = " ".join(d.what for d in report.differences)
    assert {"weight": "model weights", "mean": "reference means", "scores": "top of the scores"}[what] in text
    if what != "scores":
        assert "task loss" in text


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("record.json", lambda c: c["result"].update(loss_full_nats=9.0), "task loss, whole model"),
        ("record.json", lambda c: c["result"].update(accuracy_full=0.3), "paired accuracy, whole model"),
        ("record.json", lambda c: c["result"]["curve"][0].__setitem__(2, 9.0), "task loss"),
        ("evidence.json", lambda c: c["evidence"][0].update(interval=[0, 9]), "sufficiency: interval"),
        ("evidence.json", lambda c: c["evidence"][0]["nulls"].pop(), "sufficiency: nulls"),
        ("evidence.json", lambda c: c["evidence"][2].update(value=0.1), "necessity: value"),
    ],
)
def test_replay_notices_every_edited_number(
    run: Path, file: str, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    edit(run / file, change)
    assert says in " ".join(d.what for d in commands.replay(run).differences)


def test_a_run_is_not_drawn_or_tried_with_another_model(run: Path, tmp_path: Path) -> None:
    other = planted_model(decoys=False)
    save_model(other.model, tmp_path / "other", tokenizer=other.tokenizer, reference=other.reference, record={})
    with pytest.raises(BadInput, match="nowhere"):
        commands.show(run, compare=tmp_path / "nowhere")
    with pytest.raises(Unsupported, match="channel by channel"):
        commands.roles("tiny", "gendered_pronoun")
    for command in (commands.show, commands.verify):
        with pytest.raises(BadInput, match="the model the circuit was found in"):
            command(run, model=str(tmp_path / "other"))
    assert not commands.replay(run, model=str(tmp_path / "other")).agrees
    small = random_model()
    save_model(small.model, tmp_path / "small", tokenizer=small.tokenizer, reference=small.reference, record={})
    with pytest.raises(BadInput, match="of the shape"):
        commands.replay(run, model=str(tmp_path / "small"))


def test_a_users_task_keeps_its_name(run: Path) -> None:
    assert commands.verify(run, quick=True).task == "sides"


def test_a_model_without_means_is_given_some_and_can_then_be_pruned(
    tmp_path: Path, pairs_file: Path, text_folder: Path
) -> None:
    bare = planted_model()
    save_model(bare.model, tmp_path / "bare", tokenizer=bare.tokenizer, reference=None, record={})
    with pytest.raises(BadInput, match="gossamer means"):
        commands.prune(tmp_path / "bare", pairs_file, out=tmp_path / "r", **SEARCH)
    made = commands.means(tmp_path / "bare", tmp_path / "ready", corpus=text_folder)
    assert made.tokens > 1000
    assert commands.prune(tmp_path / "ready", pairs_file, out=tmp_path / "r", **SEARCH).nodes > 0


def test_a_moved_model_is_asked_for(run: Path, model_folder: Path) -> None:
    moved = model_folder.rename(model_folder.with_name("elsewhere"))
    with pytest.raises(BadInput, match="--model"):
        commands.replay(run)
    assert commands.replay(run, model=str(moved)).agrees


def test_a_killed_run_leaves_nothing_and_an_existing_one_is_kept(
    tmp_path: Path, model_folder: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gossamer.scores

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gossamer.scores.Scores, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        commands.prune(model_folder, pairs_file, out=tmp_path / "r", **{**SEARCH, "steps": 5})
    assert {p.name for p in tmp_path.iterdir()} == {"planted", "sides.jsonl", "run"}
    (tmp_path / "r").mkdir()
    with pytest.raises(BadInput, match="exists"):
        commands.prune(model_folder, pairs_file, out=tmp_path / "r")


@pytest.mark.parametrize("file", ["record.json", "evidence.json", "circuit.safetensors"])
def test_a_damaged_run_is_one_clear_error(run: Path, file: str) -> None:
    content = (run / file).read_bytes()
    (run / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFile, match=file):
        commands.show(run)


def test_bad_input_writes_nothing(tmp_path: Path, model_folder: Path, pairs_file: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for model, task, options, says in (
        (model_folder, "nope", {}, "Unknown task"),
        (tmp_path / "nowhere", pairs_file, {}, "Unknown model"),
        (model_folder, "single_double_quote", {}, "0 of 2048 train pairs that fit this model.*not one"),
        (model_folder, pairs_file, {"steps": -1}, "steps"),
        (model_folder, pairs_file, {"device": "tpu"}, "use cpu, cuda"),
    ):
        with pytest.raises(BadInput, match=says):
            commands.prune(model, task, out=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert sorted(tmp_path.rglob("*")) == before


def test_own_pairs_are_checked_with_the_model(tmp_path: Path, model_folder: Path, pairs_file: Path) -> None:
    good = commands.tasks_check(pairs_file, model=model_folder)
    assert good.usable == good.pairs == good.aligned == 128
    assert good.paired_accuracy == 1.0
    bad = tmp_path / "bad.jsonl"
    bad.write_text(
        '{"clean":"left w1","counterfactual":"right w1","answer":" L","wrong_answer":" R"}\n'
        '{"clean":"left w2","counterfactual":"right w2","answer":" L w1","wrong_answer":" R"}\n'
    )
    report = commands.tasks_check(bad, model=model_folder)
    assert (report.pairs, report.usable) == (2, 1)
    assert [c.line for c in report.checks if c.problems] == [2]
    assert [c.line for c in report.checks if c.problems] == [2]
    assert "not one" in " ".join(p for c in report.checks for p in c.problems)


def test_runs_are_bitwise_repeatable(tmp_path: Path, model_folder: Path, pairs_file: Path, run: Path) -> None:
    commands.prune(model_folder, pairs_file, out=tmp_path / "again", **SEARCH)
    a, b = (load_file(r / "scores.safetensors")["values"].numpy() for r in (run, tmp_path / "again"))
    assert np.array_equal(a, b)
