"""The graph under onnxruntime is the module, at other batch sizes and lengths than it was traced with."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from export_helpers import prompts, random_circuit
from toys import random_model

from gossamer.errors import BadInput
from gossamer.models.extract import extract
from gossamer.models.onnx_graph import run_onnx, save_onnx


@pytest.mark.parametrize("mode", ["exact", "frozen"])
def test_onnxruntime_agrees(mode: str, tmp_path: Path) -> None:
    model = random_model(3, n_layer=1)
    batch = prompts(model, 20)
    made = extract(model, random_circuit(model, 0.6, 3), "exact" if mode == "exact" else "frozen", prompts=batch)
    path = save_onnx(made, tmp_path / "c.onnx")
    for rows in (slice(0, 40), slice(3, 4)):
        tokens, last = batch.tokens[rows], batch.last[rows]
        found = run_onnx(path, tokens, last)
        torch.testing.assert_close(found, made(tokens, last), atol=1e-4, rtol=0)
        wrong = (last - 1).clamp(min=0)
        assert (run_onnx(path, tokens, wrong) - found).abs().max() > 1e-3  # the control
    meta = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(meta["gossamer"])["mode"] == mode
    assert [p.name for p in tmp_path.iterdir()] == ["c.onnx"]


def test_missing_packages_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "onnxscript":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    model = random_model()
    with pytest.raises(BadInput, match=r"pip install 'gossamer-interp\[onnx\]'"):
        save_onnx(extract(model, random_circuit(model, 0.5)), tmp_path / "c.onnx")
    assert not list(tmp_path.iterdir())
