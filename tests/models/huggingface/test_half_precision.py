"""Scores of a model in bfloat16 are sums in float32: against the same gradients added up in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from patching_helpers import made, number_pairs

from gossamer.discover import EAPConfig, EAPIGConfig, ceap, eap, eap_ig
from gossamer.metric import logit_difference, sequence_log_probability
from gossamer.models.huggingface import Decoder, gradients
from gossamer.task import sides

TASK = number_pairs(1, length=12, n=6)
RUNS: dict[str, Callable[[Decoder], np.ndarray]] = {
    "eap": lambda d: eap(d, TASK, EAPConfig(pairs_at_once=4)).values,
    "eap-ig": lambda d: eap_ig(d, TASK, EAPIGConfig(steps=7, pairs_at_once=4)).values,
    "ceap": lambda d: ceap(d, TASK, EAPIGConfig(steps=3)).values,
}


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, as a share of the largest score."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("method", RUNS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "falcon"])
def test_sums_in_float32_are_those_in_float64(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    d = made(name, torch.bfloat16)
    found = RUNS[method](d)
    monkeypatch.setattr(gradients, "added_up_in", lambda dtype: torch.float64)
    wanted = RUNS[method](d)
    assert apart(found, wanted) < 1e-6
    monkeypatch.setattr(gradients, "added_up_in", lambda dtype: dtype)  # as narrow as the gradients: the control
    assert apart(RUNS[method](d), wanted) > 1e-4


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_wider_models_are_added_up_as_they_are(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        d = made(name, dtype)
        clean, other = sides(d.encode(TASK.train))
        scores, _ = d.edge_gradient(clean, d.writes(other)[0], lambda logits: logits[:, 5].sum())
        assert scores.dtype == dtype


def test_a_difference_of_half_precision_logits_is_exact() -> None:
    batch, _ = sides(made("llama").encode(number_pairs(n=1).train))
    logits = torch.zeros(1, 64, dtype=torch.bfloat16)
    logits[0, batch.answer], logits[0, batch.wrong] = 300.0, 1.5
    for metric in (logit_difference, sequence_log_probability):
        assert metric(logits, batch).tolist() == [298.5]
    assert (logits[0, batch.answer] - logits[0, batch.wrong]).tolist() != [298.5]  # bfloat16 has no such number
