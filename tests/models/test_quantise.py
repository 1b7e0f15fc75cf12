"""Laws of the rounded bigram table: the bound, exact repetition, a small file, damage noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import random_model

from gossamer.errors import CorruptFile
from gossamer.models.files import load_weights, save_model
from gossamer.models.quantise import from_rounded_rows, rounded_rows

SHIFTS = [1e-30, 1e-3, 1.0, 40.0, 1e30]


def table(scale: float, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(64, 48, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", SHIFTS)
def test_the_error_is_within_half_a_step_and_rounding_again_changes_nothing(scale: float) -> None:
    exact = table(scale)
    codes, exponents = rounded_rows(exact)
    rounded = from_rounded_rows(codes, exponents)
    step = torch.exp2(exponents.double())
    assert ((rounded.double() - exact.double()).abs() <= step[:, None] / 2).all()
    assert (step / 2 <= exact.abs().amax(1).double() / 127).all()
    again = rounded_rows(rounded)
    assert torch.equal(from_rounded_rows(*again), rounded)
    assert not torch.equal(rounded, exact)


def test_rows_of_zeros_and_of_the_largest_code_are_exact() -> None:
    exact = torch.tensor([[0.0, 0.0, 0.0], [127.0, -127.0, 64.0], [-128.0, 2.0, 0.0], [0.5, 0.25, -0.125]])
    assert torch.equal(from_rounded_rows(*rounded_rows(exact)), exact)


def test_a_rounded_table_is_a_quarter_of_the_file_and_comes_back_equal(tmp_path: Path) -> None:
    model = random_model(seed=3, bigram=True, vocab_size=400).model
    assert model.bigram_table is not None
    torch.nn.init.normal_(model.bigram_table, generator=torch.Generator().manual_seed(0))
    sizes = []
    for name in ("exact", "rounded"):
        folder = save_model(model, tmp_path / name, tokenizer=None, reference=None, record={})
        sizes.append((folder / "model.safetensors").stat().st_size)
        again = load_weights(folder).bigram_table
        assert again is not None
        assert torch.equal(again, model.bigram_table)
        with torch.no_grad():
            model.bigram_table.copy_(from_rounded_rows(*rounded_rows(model.bigram_table)))
    assert sizes[0] - sizes[1] == pytest.approx(3 * 400 * 400, rel=0.01)


@pytest.mark.parametrize("defect", ["codes short", "exponents short", "wide codes", "no exponents"])
def test_codes_that_do_not_fit_are_not_loaded(tmp_path: Path, defect: str) -> None:
    model = random_model(seed=3, bigram=True).model
    assert model.bigram_table is not None
    with torch.no_grad():
        model.bigram_table.copy_(from_rounded_rows(*rounded_rows(model.bigram_table)))
    path = save_model(model, tmp_path / "m", tokenizer=None, reference=None, record={}) / "model.safetensors"
    tensors = load_file(path)
    if defect == "codes short":
        tensors["bigram_table.codes"] = tensors["bigram_table.codes"][:, :-1].clone()
    elif defect == "exponents short":
        tensors["bigram_table.exponents"] = tensors["bigram_table.exponents"][:-1].clone()
    elif defect == "wide codes":
        tensors["bigram_table.codes"] = tensors["bigram_table.codes"].to(torch.int32)
    else:
        tensors.pop("bigram_table.exponents")
    save_file(tensors, path, metadata={"format_version": "1"})
    with pytest.raises(CorruptFile, match="bigram_table"):
        load_weights(tmp_path / "m")
