"""The command line: one error line and exit code 2, JSON that is only JSON, help everywhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from taught import saved
from toys import planted_model
from transformers import BertConfig

from gossamer.models.files import save_model

Command = Callable[..., tuple[int, str, str]]

VERBS = (
    ["--help"], ["demo", "--help"], ["train", "--help"], ["discover", "--help"], ["discover", "prune", "--help"],
    ["means", "--help"], ["verify", "--help"], ["show", "--help"], ["replay", "--help"], ["tasks", "--help"],
    ["tasks", "check", "--help"], ["bridge", "train", "--help"], ["bridge", "report", "--help"],
    ["bridge", "perturb", "--help"], ["export", "--help"], ["compare", "--help"], ["compose", "--help"],
)  # fmt: skip


def gossamer(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gossamer", *arguments], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"},
    )  # fmt: skip


def test_every_verb_has_help(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from gossamer.cli.main import app

    for arguments in VERBS:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, arguments
        assert "Usage" in result.output


def test_tasks_as_json(tmp_path: Path) -> None:
    done = gossamer("tasks", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert {t["name"] for t in json.loads(done.stdout)["tasks"]} >= {"single_double_quote"}


def test_a_target_that_no_circuit_reaches_is_reported_as_not_reached(tmp_path: Path) -> None:
    arguments = ["discover", "prune", "tiny", "single_double_quote", "--target-loss", "0.001", "--steps", "2",
                 "--k-coef", "1e-3"]  # fmt: skip
    done = gossamer(*arguments, "--out", "a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "NOT REACHED" in done.stdout
    found = json.loads(gossamer(*arguments, "--out", "b", "--json", cwd=tmp_path).stdout)
    assert found["reached"] is False
    assert found["loss_train"] > 0.001
    assert found["nodes"] > 0
    assert json.loads((tmp_path / "b" / "record.json").read_text())["result"]["reached"] is False


def bad_inputs(tmp_path: Path) -> list[tuple[list[str], str]]:
    m = planted_model()
    save_model(m.model, tmp_path / "no_tokenizer", tokenizer=None, reference=m.reference, record={})
    (tmp_path / "empty").mkdir()
    rows = [
        {"clean": f"print('{w}", "counterfactual": f'print("{w}', "answer": "') or so", "wrong_answer": '")'}
        for w in ("a", "b")
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "open.csv").write_text('clean,counterfactual,answer,wrong_answer\na,b,"c' + 200_000 * "x")
    (tmp_path / "half.jsonl").write_text(
        '{"clean": "\\ud800", "counterfactual": "b", "answer": "c", "wrong_answer": "d"}'
    )
    saved(tmp_path / "taught")
    one = {"clean": "the girl said here that", "answer": " she", "wrong_answer": " he"}
    other = one | {"counterfactual": "the boy said here that"}
    (tmp_path / "she-he.jsonl").write_text("\n".join(json.dumps(other | {"clean": c}) for c in (
        "the girl said here that", "the queen said here that"
    )))  # fmt: skip
    (tmp_path / "uneven.jsonl").write_text("\n".join(json.dumps(other | {"clean": c}) for c in (
        "the girl said here that that", "the queen said here that"
    )))  # fmt: skip
    encoder = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    encoder.save_pretrained(tmp_path / "encoder")
    return [
        (["discover", "prune", "tiny", "single_doubel_quote"], "did you mean single_double_quote"),
        (["discover", "prune", "no_tokenizer", "single_double_quote"], "tokenizer.json"),
        (["discover", "prune", "tiny", "pairs.jsonl"], "tokens after the clean prompt, not one"),
        (["train", "--density", "0.0001", "--out", "m"], "--density of at least"),
        (["train", "--corpus", "empty", "--out", "m"], "empty"),
        (["train", "--device", "cuda", "--out", "m"], "cuda"),
        (["verify", "nowhere"], "record.json"),
        (["tasks", "check", "none.jsonl"], "found no file"),
        (["verify", "nowhere", "--device", "tpu"], "use cpu, cuda"),
        (["discover", "prune", "tiny", "single_double_quote", "--out", "pairs.jsonl/run"], "can be written to"),
        (["train", "--out", "pairs.jsonl/m"], "can be written to"),
        (["train", "--out", "."], "exists"),
        (["train", "--set", "banana=1", "--out", "m"], "banana"),
        (["discover", "prune", "tiny", "single_double_quote", "--set", "lr"], "FIELD=VALUE"),
        (["discover", "prune", "tiny", "single_double_quote", "--k-coef", "nan"], "k_coef.0: Input should be"),
        (["discover", "prune", "~/no model", "single_double_quote"], "Unknown model"),
        (["train", "--preset", "paper", "--out", "m"], "--micro-batch"),
        (["train", "--set", "dtype=bfloat16", "--out", "m"], "knows no field 'dtype'"),
        (["discover", "prune", "tiny", "single_double_quote", "--set", "device=cpu"], "knows no field 'device'"),
        (["train", "--threads", "0", "--out", "m"], "at least 1"),
        (["verify", "nowhere", "--seed", "-1"], "seed of at least 0"),
        (["tasks", "--model", "nowhere", "check", "pairs.jsonl"], "after check"),
        (["tasks", "check", "open.csv"], "quote left open"),
        (["tasks", "check", "half.jsonl"], "lacks text in clean"),
        (["means", "nowhere", "--out", "m"], "Unknown model"),
        (["discover", "eap", "nowhere", "ioi"], "Hugging Face model"),
        (["discover", "eap", "taught", "pairs.jsonl"], "one begins the other"),
        (["discover", "eap", "taught", "uneven.jsonl"], "6 and 5 tokens"),
        (["discover", "path-patching", "taught", "she-he.jsonl", "--receiver", "a9.h9<q>"], "a9.h9"),
        (["discover", "eap", "encoder", "she-he.jsonl"], "encoder"),
        (
            ["verify", "none.json", "--model", "taught", "--task", "she-he.jsonl"],
            "circuit file at none.json, found none",
        ),
        (["verify", "she-he.jsonl", "--model", "taught", "--task", "she-he.jsonl"], "she-he.jsonl"),
        (["discover", "acdc", "taught", "she-he.jsonl", "--ablation", "optimal"], "ablation: Input should be"),
    ]


@pytest.mark.parametrize(
    "arguments", [["verify"], ["train", "--threads", "x"], ["verify", "run", "--bogus"], ["bogus"]]
)
def test_wrong_usage_is_one_json_object_too(tmp_path: Path, arguments: list[str]) -> None:
    done = gossamer(*arguments, "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["message"]
    assert "Traceback" not in done.stderr


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, from tmp_path: (exit code, stdout, stderr)."""
    from gossamer.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["gossamer", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return run


@pytest.mark.parametrize("which", range(33))
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path: Path, which: int, command: Command) -> None:
    arguments, says = bad_inputs(tmp_path)[which]
    if arguments[:3] == ["train", "--device", "cuda"]:
        import torch

        if torch.cuda.is_available():
            return
    before = sorted(tmp_path.rglob("*"))
    code, _, err = command(*arguments)
    assert code == 2, err
    assert says in err
    lines = [line for line in err.splitlines() if line.startswith("gossamer: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before
    again = json.loads(command(*arguments, "--json")[1])["message"]
    free = r"[0-9.]+ GiB are free"  # changes between two runs
    assert re.sub(free, "", again) == re.sub(free, "", lines[0][len("gossamer: ") :])
