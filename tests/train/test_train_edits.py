"""Training on string edits: it learns, resumes to the same bits, and says what it will not do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gossamer.errors import BadInput
from gossamer.train.pcfg_set import EditTraining, train_edits

TINY = EditTraining(
    operations=("copy", "remove_first"), per_operation=100, letters=3, shortest=1, longest=4, n_layers=1, d_model=16,
    n_heads=2, d_ff=16, steps=60, batch_size=48, lr=1e-2,
)  # fmt: skip


def test_a_run_that_was_stopped_ends_with_the_same_bits_and_learns(tmp_path: Path) -> None:
    losses: list[float] = []
    whole = train_edits(tmp_path / "whole", TINY, progress=lambda step, steps, loss: losses.append(loss))
    assert whole is not None
    out = tmp_path / "parts"
    assert train_edits(out, TINY, stop_after=25, checkpoint_every=10) is None
    assert not out.exists()
    with pytest.raises(BadInput, match="resume it"):
        train_edits(out, TINY)
    with pytest.raises(BadInput, match="another config"):
        train_edits(out, TINY.model_copy(update={"lr": 0.1}), resume=True)
    parts = train_edits(out, TINY, resume=True)
    assert parts is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "whole"]
    assert parts.model.sha256() == whole.model.sha256() == whole.record.model_sha256
    with pytest.raises(BadInput, match="exists"):
        train_edits(out, TINY)
    details = whole.record.details
    assert losses[-1] < 1.2  # chance: ln 17
    assert set(details["exact_match"]) == set(TINY.operations)
    assert details["held_out"] == {"copy": 20, "remove_first": 20}


def test_an_unknown_operation_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean copy"):
        train_edits(tmp_path / "m", TINY.model_copy(update={"operations": ("copi",)}))
    assert not list(tmp_path.iterdir())


def test_another_seed_is_another_model() -> None:
    from gossamer.models.encoder_decoder import random_encoder_decoder

    a, b = (random_encoder_decoder(TINY.model(), seed).state_dict() for seed in (0, 1))
    assert not torch.equal(a["embed.weight"], b["embed.weight"])
