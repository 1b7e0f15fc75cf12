"""`gossamer export` end to end: what it writes works by itself, what it reports is measured, the rest is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_commands import SEARCH
from toys import planted_model, planted_task

from gossamer import commands
from gossamer.errors import BadInput, Unsupported
from gossamer.models.files import save_model
from gossamer.models.standalone import load_standalone


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the planted model and a run of it."""
    import json

    folder = tmp_path_factory.mktemp("export")
    m, task = planted_model(), planted_task()
    save_model(m.model, folder / "planted", tokenizer=m.tokenizer, reference=m.reference, record={})
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer,
         "split": split}
        for split, part in (("train", task.train), ("heldout", task.heldout)) for e in part
    ]  # fmt: skip
    (folder / "sides.jsonl").write_text("\n".join(map(json.dumps, rows)))
    commands.prune(folder / "planted", folder / "sides.jsonl", out=folder / "run", **SEARCH)
    return folder


def test_the_torch_file_runs_alone_and_the_report_is_of_it(place: Path, tmp_path: Path) -> None:
    r = commands.export(place / "run", out=tmp_path / "c.safetensors")
    assert (r.to, r.mode, r.nodes, r.edges, r.runtime_error) == ("torch", "exact", 4, 2, None)
    assert r.error_max is not None
    assert r.error_max < 1e-5
    assert r.loss == pytest.approx(r.ablated_loss, abs=1e-6)
    assert r.accuracy == r.ablated_accuracy == 1
    code = (
        "import sys, torch; from gossamer.models.standalone import load_standalone as l; "
        f"m = l({r.out!r}); print(m(torch.tensor([[15, 0, 5]]), torch.tensor([2])).argmax().item(), m.config.answers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["0", "(2, 3)\n"]
    whole = commands.export(place / "run", out=tmp_path / "w.safetensors", all_tokens=True, ablation="zero-complement")
    assert whole.ablation == "zero-complement"
    assert len(load_standalone(tmp_path / "w.safetensors").config.answers) == 16


def test_frozen_mode_reports_its_error(place: Path, tmp_path: Path) -> None:
    r = commands.export(place / "run", out=tmp_path / "c.safetensors", mode="frozen")
    assert r.error_mean is not None
    assert r.error_max is not None
    assert 1e-4 < r.error_mean <= r.error_max  # the norm of a prompt with a side in it varies with its length
    made, model = load_standalone(tmp_path / "c.safetensors"), planted_model()
    batch = model.encode(planted_task().heldout)
    assert r.n_pairs == batch.n_pairs
    assert bool((made.gap(batch) > 0).all()) == (r.accuracy == 1)


def test_the_python_file_answers(place: Path, tmp_path: Path) -> None:
    r = commands.export(place / "run", to="python", out=tmp_path / "c.py")
    assert r.mode == "frozen"
    done = subprocess.run([sys.executable, "-I", r.out, "15", "0", "5"], capture_output=True, text=True, check=True)
    logits = eval(done.stdout)
    made = commands.export(place / "run", out=tmp_path / "c.safetensors", mode="frozen")
    expected = load_standalone(made.out)(torch.tensor([[15, 0, 5]]), torch.tensor([2]))[0]
    assert [logits[2], logits[3]] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_model_becomes_a_hugging_face_folder(place: Path, tmp_path: Path) -> None:
    r = commands.export(place / "planted", to="huggingface", out=tmp_path / "hf")
    assert (tmp_path / "hf" / "model.safetensors").is_file()
    assert r.mode is None
    assert r.model_numbers == sum(p.numel() for p in planted_model().model.parameters())
    with pytest.raises(Unsupported, match="no language model"):
        commands.export(place / "run", to="huggingface", out=tmp_path / "other")
    with pytest.raises(BadInput, match="--mode"):
        commands.export(place / "planted", to="huggingface", out=tmp_path / "other", mode="exact")


def test_mistakes_are_named_and_nothing_is_written(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    cases = (
        ({"to": "onxx"}, BadInput, "did you mean onnx"), ({"mode": "frosen"}, BadInput, "did you mean frozen"),
        ({"to": "python", "mode": "exact"}, Unsupported, "exact mode"),
        ({"to": "python", "all_tokens": True}, Unsupported, "vocabulary"),
        ({"ablation": "zero-circuit"}, Unsupported, "gao-mean or zero-complement"),
    )  # fmt: skip
    for given, error, message in cases:
        with pytest.raises(error, match=message):
            commands.export(place / "run", out=out, **given)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="run folder"):
        commands.export(place / "planted2", out=out)
    (tmp_path / "there").write_text("mine")
    with pytest.raises(BadInput, match="exists"):
        commands.export(place / "run", out=tmp_path / "there")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
