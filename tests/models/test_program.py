"""The readable file computes frozen mode, reads like the circuit, and needs nothing but Python."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_helpers import model64, prompts, random_circuit
from toys import PLANTED_NODES, planted_model, planted_task, random_model
from verify_helpers import circuit_of

from gossamer.errors import BadInput, Unsupported
from gossamer.models import LoadedModel
from gossamer.models import program as program_file
from gossamer.models.extract import extract
from gossamer.models.program import program
from gossamer.task import Encoded

VARIANTS: tuple[dict[str, object], ...] = (
    {}, {"sink": False}, {"bigram": True}, {"topk_places": ()}, {"n_layer": 3}, {"bias": False}, {"activation": "relu"},
)  # fmt: skip


def loaded(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "exported"}
    exec(source, names)
    return names


def gaps(source: str, batch: Encoded) -> torch.Tensor:
    gap = loaded(source)["logit_gap"]
    rows = zip(batch.tokens.tolist(), batch.last.tolist(), batch.answer.tolist(), batch.wrong.tolist(), strict=True)
    return torch.tensor([gap(t[: n + 1], a, w) for t, n, a, w in rows], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(len(VARIANTS)))
@pytest.mark.parametrize("preset", ["gao-mean", "zero-complement"])
def test_the_file_is_frozen_mode(seed: int, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_file, "MOST_EDGES", 10**9)  # big circuits use more of the writer
    model = model64(seed, **VARIANTS[seed])
    batch = prompts(model, 6, seed)
    for share in (0.0, 0.1, 0.4, 1.0):
        circuit = random_circuit(model, share, seed)
        expected = extract(model, circuit, "frozen", preset=preset, prompts=batch).gap(batch)
        found = gaps(program(model, circuit, batch, [2, 3], preset=preset), batch)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-9)


def test_a_float32_model_is_printed_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    monkeypatch.setattr(program_file, "MOST_EDGES", 10**9)
    circuit, batch = random_circuit(model, 0.5), prompts(model)
    source = program(model, circuit, batch, [2, 3])
    frozen = extract(model, circuit, "frozen", prompts=batch).double()
    torch.testing.assert_close(gaps(source, batch), frozen.gap(batch), atol=1e-5, rtol=1e-5)
    weights = re.findall(r"(\d+\.\d+) \* (?:attn|mlp)\d_", source)
    assert weights
    assert all(len(w.replace(".", "").strip("0")) <= 9 for w in weights)


def planted_source() -> tuple[LoadedModel, str, Encoded]:
    model = planted_model()
    batch = model.encode(planted_task().train)
    return model, program(model, circuit_of(model, PLANTED_NODES), batch, [2, 3]), batch


def test_the_planted_circuit_reads_as_it_was_planted() -> None:
    """Four nodes, a line each, with the two weights that were put there: 2 (side to value) and 3 (value to write)."""
    _, source, batch = planted_source()
    for site in PLANTED_NODES:
        assert sum(f"# {site}" in line for line in source.splitlines()) == 1
    assert "attn0_v_5 = [2.0 * attn0_in_3[t]" in source
    assert "attn0_out_6 = 3.0 * attn0_mix_5" in source
    assert "EMBED_3 = {\n    0: 1.0, 1: -1.0,\n}" in source
    assert bool((gaps(source, batch) > 0).all())
    broken = source.replace("2.0 * attn0_in_3[t]", "-2.0 * attn0_in_3[t]")
    assert bool((gaps(broken, batch) < 0).all())


def test_it_imports_nothing_of_ours_and_checks_its_input() -> None:
    _, source, _ = planted_source()
    found = {a.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import) for a in n.names}
    assert found <= {"math", "sys"}
    assert not any(isinstance(n, ast.ImportFrom) for n in ast.walk(ast.parse(source)))
    assert all(len(line) <= 120 for line in source.splitlines())
    logits = loaded(source)["logits"]
    for tokens in ([], [16], [-1], [0] * 17):
        with pytest.raises(ValueError, match="token ids"):
            logits(tokens)


def test_as_a_script_it_answers_or_says_what_it_expects(tmp_path: Path) -> None:
    _, source, batch = planted_source()
    script = tmp_path / "quotes.py"
    script.write_text(source)
    tokens = [str(t) for t in batch.tokens[0].tolist()]

    def run(*given: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(script), *given], capture_output=True, text=True, check=False)

    assert ast.literal_eval(run(*tokens).stdout) == loaded(source)["logits"](batch.tokens[0].tolist())
    for wrong in ((), ("here",)):
        done = run(*wrong)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{script}: ")
        assert done.stderr.count("\n") == 1


def test_large_circuits_and_lone_answers_are_refused() -> None:
    model = model64()
    batch, circuit = prompts(model), random_circuit(model, 1.0)
    assert circuit.n_edges >= 100
    with pytest.raises(Unsupported, match="100 or more"):
        program(model, circuit, batch, [2, 3])
    with pytest.raises(BadInput, match="two answers"):
        program(model, random_circuit(model, 0.1), batch, [2])
