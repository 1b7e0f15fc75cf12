"""The encoder-decoder: causal, blind to padding, decoded as one pass measures it, masked by name, whole on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from planted_edits import LETTERS, OPERATIONS, planted_edits, planted_splits
from torch import Tensor

from gossamer.errors import BadInput, CorruptFile
from gossamer.mask import apply_masks
from gossamer.models import encoder_decoder
from gossamer.models.encoder_decoder import (
    EncoderDecoder,
    EncoderDecoderConfig,
    exact_match,
    load_encoder_decoder,
    module_means,
    random_encoder_decoder,
    replacements,
    save_encoder_decoder,
)
from gossamer.record import Record
from gossamer.tasks import pcfg_set
from gossamer.tasks.pcfg_set import EncodedEdits, edits, encode

CONFIG = EncoderDecoderConfig(vocabulary=20, d_model=16, n_heads=2, d_ff=8, longest_source=11, longest_answer=8)


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    return random_encoder_decoder(CONFIG, 1).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def batch() -> EncodedEdits:
    drawn = [e for o in ("copy", "append", "echo") for e in edits(o, 12, letters=6, shortest=1, longest=3)]
    return encode(drawn, letters=6)


def test_model_and_task_agree_on_what_pads_starts_and_ends() -> None:
    names = ("PAD", "BOS", "EOS")
    assert [getattr(encoder_decoder, n) for n in names] == [getattr(pcfg_set, n) for n in names]


def test_a_token_sees_none_after_it_and_no_padding(model: EncoderDecoder, batch: EncodedEdits) -> None:
    logits = model(*batch)
    later = batch.answer.clone()
    later[:, 3:] = 5
    assert torch.equal(model(batch.source, later)[:, :4], logits[:, :4])
    more = torch.nn.functional.pad(batch.source, (0, 2))
    assert torch.allclose(model(more, batch.answer), logits, atol=1e-5)
    one = batch.rows(slice(4, 5))
    assert torch.allclose(model(*one), logits[4:5], atol=1e-5)
    assert not torch.allclose(model(batch.source.roll(1, 0), batch.answer), logits, atol=1e-2)


def test_greedy_answers_are_right_exactly_when_every_token_is_given_those_before(
    model: EncoderDecoder, batch: EncodedEdits
) -> None:
    own = model.generate(batch.source)
    answers = EncodedEdits(batch.source, own)
    answers.answer[::3, 0] = 1 + answers.answer[::3, 0] % 19  # every third is made wrong
    right = ((model(*answers).argmax(-1) == answers.answer) | (answers.answer == 0)).all(1)
    assert exact_match(model, *answers, at_once=5) == pytest.approx(float(right.double().mean()))
    assert 0 < float(right.double().mean()) < 1


def test_the_hand_written_model_is_always_right() -> None:
    made = planted_edits()
    for operation, (train, held) in planted_splits().items():
        batch = encode(train + held, LETTERS)
        assert exact_match(made, *batch) == 1
        assert operation in OPERATIONS
    shuffled = encode(held, LETTERS)
    assert exact_match(made, shuffled.source.flip(0), shuffled.answer) < 0.1


def test_masks_of_ones_change_no_bit_and_of_zeros_leave_the_values(model: EncoderDecoder, batch: EncodedEdits) -> None:
    layout, means = model.config.layout(), module_means(model, *batch)
    assert [n for n, _ in layout.locations] == list(means)
    assert layout.n_nodes == 2 * 5 * 16
    ones = {n: torch.ones(w) for n, w in layout.locations}
    assert torch.equal(model(*batch, apply_masks(ones, means)), model(*batch))
    seen: dict[str, Tensor] = {}

    def edit(location: str, x: Tensor) -> Tensor:
        seen[location] = x
        return torch.zeros_like(x)

    model(*batch, edit)
    nothing = {n: torch.zeros(w) for n, w in layout.locations}
    zeroed = model(*batch, apply_masks(nothing, replacements(model, *batch, "zero")))
    assert set(seen) == set(means)
    assert torch.equal(zeroed, model(*batch, edit))
    with pytest.raises(BadInput, match="mean or zero"):
        replacements(model, *batch, "median")


def test_means_are_over_tokens_and_not_over_padding(model: EncoderDecoder, batch: EncodedEdits) -> None:
    padded = EncodedEdits(*(torch.nn.functional.pad(t, (0, 1)) for t in batch))
    for one, other in zip(
        *(module_means(model, *b, at_once=n).values() for b, n in ((batch, 7), (padded, 99))), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_too_long_strings_are_refused(model: EncoderDecoder, batch: EncodedEdits) -> None:
    with pytest.raises(BadInput, match="sources of at most 11 tokens, got 12"):
        model(torch.nn.functional.pad(batch.source, (0, 12 - batch.source.shape[1])), batch.answer)
    with pytest.raises(BadInput, match="answers of at most 8 tokens, got 9"):
        model(batch.source, torch.nn.functional.pad(batch.answer, (0, 9 - batch.answer.shape[1])))


def test_a_model_folder_comes_back_and_damage_is_found(model: EncoderDecoder, tmp_path: Path) -> None:
    record = Record.now(method="test", config={}, seed=1)
    folder = save_encoder_decoder(model, tmp_path / "m", record)
    back = load_encoder_decoder(folder)
    assert back.model.sha256() == model.sha256()
    assert back.record == record
    assert random_encoder_decoder(CONFIG, 2).sha256() != model.sha256()
    other = EncoderDecoderConfig(vocabulary=21, d_model=16, n_heads=2, d_ff=8)
    (folder / "config.json").write_text(other.model_dump_json())
    with pytest.raises(CorruptFile, match="not those of"):
        load_encoder_decoder(folder)
    (folder / "config.json").write_text('{"d_model": 3, "n_heads": 2}')
    with pytest.raises(CorruptFile, match="multiple of n_heads"):
        load_encoder_decoder(folder)
    with pytest.raises(BadInput, match="Expected an encoder-decoder model folder"):
        load_encoder_decoder(tmp_path)
    with pytest.raises(BadInput, match="model folder to replace"):
        save_encoder_decoder(model, tmp_path, record)
