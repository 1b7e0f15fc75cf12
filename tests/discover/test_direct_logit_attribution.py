"""Direct logit attribution: the parts sum to the logit difference, the constant's among them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from patching_helpers import BY_HAND, MEAN, ROOT, by_hand, gap, made, number_pairs
from torch import nn

from gossamer.discover import DirectLogitAttributionConfig, direct_logit_attribution
from gossamer.discover.direct_logit_attribution import contributions
from gossamer.errors import Unsupported
from gossamer.models.huggingface import Decoder
from gossamer.task import sides

TASK = number_pairs()
ready = cache(made)


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "falcon", "bloom", "gemma3", "olmo2"])
def test_parts_sum_to_the_logit_difference_of_each_prompt(name: str) -> None:
    d = ready(name)
    clean, _ = sides(d.encode(TASK.train))
    parts, rest = contributions(d, clean)
    wanted = gap(clean, d.writes(clean)[1])
    rounded = isinstance(d.parts.final_norm, nn.LayerNorm)
    total = parts.sum(0) + sum(v for k, v in rest.items() if k != "softcap")
    assert np.allclose(total, wanted, atol=1e-10 if rounded else 1e-6, rtol=0)
    scores = direct_logit_attribution(d, TASK)
    assert scores.values.sum() == pytest.approx(wanted.mean(), abs=1e-6)
    assert scores.values[-1] == pytest.approx(sum(scores.record.details["constant"].values()))
    if name == "gptj":  # a bias of the logits, and none of attention
        assert abs(parts.sum(0) - wanted).min() > 1e-3
        assert scores.record.details["constant"]["attention output biases"] == pytest.approx(0, abs=1e-12)
        assert abs(scores.record.details["constant"]["logits"]) > 1e-3
    if name == "gpt2":
        assert abs(scores.record.details["constant"]["attention output biases"]) > 1e-3


def test_capped_logits_are_taken_apart_before_the_cap() -> None:
    d = made("gemma2", final_logit_softcapping=2.0)
    clean, _ = sides(d.encode(TASK.train))
    seen: list[torch.Tensor] = []
    handle = d.parts.head.register_forward_hook(lambda m, args, out: seen.append(out[:, 0]))
    capped = gap(clean, d.writes(clean)[1])
    handle.remove()
    scores = direct_logit_attribution(d, TASK)
    assert scores.values.sum() == pytest.approx(gap(clean, seen[0]).mean(), abs=1e-6)
    assert abs(scores.values.sum() - capped.mean()) > 1e-3
    assert scores.record.details["softcap"] == 2.0


def test_the_numbers_of_a_model_made_by_hand_and_the_sign() -> None:
    scores, size = direct_logit_attribution(by_hand(), BY_HAND), (1 + 0.25 + MEAN**2) ** 0.5
    found = {n: scores.values[i] for n, i in scores.layout.starts.items()}
    assert found["a0.h0"] == pytest.approx(2 * ROOT * 0.5 / size, abs=1e-5)
    assert found["a1.h0"] == pytest.approx(2 * ROOT * MEAN / size, abs=1e-5)
    assert sum(abs(v) for n, v in found.items() if n not in ("a0.h0", "a1.h0")) < 1e-9
    assert "positive where it is for the right answer" in scores.record.details["sign"]


def test_the_size_of_a_batch_and_padding_change_nothing() -> None:
    d = ready("gpt2")
    together, seen = direct_logit_attribution(d, TASK), list[int]()
    apart = direct_logit_attribution(
        d, TASK, DirectLogitAttributionConfig(pairs_at_once=1), progress=lambda done, n, size: seen.append(done)
    )
    assert np.allclose(together.values, apart.values, atol=1e-12)
    assert seen == [1, 2, 3]


def test_logits_that_are_scaled_afterwards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    d = ready("gpt2")
    plain = Decoder.writes

    def doubled(self: Decoder, batch: Any) -> Any:
        writes, logits = plain(self, batch)
        return writes, 2 * logits

    monkeypatch.setattr(Decoder, "writes", doubled)
    with pytest.raises(Unsupported, match="not its final norm's output times a matrix"):
        direct_logit_attribution(d, TASK)
