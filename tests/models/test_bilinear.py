"""Bilinear networks: the formulas, the same function as a chain of products, and their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gossamer.errors import BadInput, CorruptFile
from gossamer.models.bilinear import (
    BilinearConfig,
    BilinearModel,
    BilinearRun,
    load_bilinear,
    random_bilinear,
    save_bilinear,
)
from gossamer.record import Record

DEEP = BilinearConfig(
    sizes=(3, 4, 4, 4, 2), kinds=("linear", "attention", "bilinear", "linear"), hidden=5, positions=3, heads=2,
    d_head=2, constant=True, residual=0.4,
)  # fmt: skip


def inputs(config: BilinearConfig, n: int = 5) -> Tensor:
    shape = (n, config.positions, config.sizes[0])
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_forward_pass_is_the_formulas() -> None:
    """Position by position, head by head, with the constant and the residual connection."""
    model = random_bilinear(DEEP, 1).double()

    def lifted(x: Tensor) -> Tensor:
        return torch.cat([torch.ones(1, dtype=torch.float64), x])

    def w(layer: int, name: str) -> Tensor:
        return model.weight(layer, name)

    for row, out in zip(inputs(DEEP), model(inputs(DEEP)), strict=True):
        x = [w(0, "down") @ lifted(r) for r in row]
        after = []
        for t in range(3):
            y = torch.zeros(4, dtype=torch.float64)
            for h in range(2):
                for s in range(t + 1):
                    q, k = lifted(x[t]), lifted(x[s])
                    one = (w(1, "query1")[h] @ q) @ (w(1, "key1")[h] @ k)
                    two = (w(1, "query2")[h] @ q) @ (w(1, "key2")[h] @ k)
                    y = y + one * two * (w(1, "down")[h] @ w(1, "value")[h] @ k)
            after.append(0.4 * x[t] + 0.6 * y)
        z = lifted(after[-1])
        last = 0.4 * after[-1] + 0.6 * (w(2, "down") @ ((w(2, "left") @ z) * (w(2, "right") @ z)))
        torch.testing.assert_close(out, w(3, "down") @ lifted(last))


@pytest.mark.parametrize(
    "config",
    [
        DEEP,
        DEEP.model_copy(update={"constant": False}),
        DEEP.model_copy(update={"constant": False, "residual": 0.0}),
        BilinearConfig(sizes=(4, 3), kinds=("bilinear",)),
        BilinearConfig(sizes=(2, 2, 1), kinds=("attention", "attention"), positions=2, d_head=2),
    ],
)
def test_the_chain_of_products_is_the_same_function(config: BilinearConfig) -> None:
    model = random_bilinear(config, 0).double()
    z = x = inputs(config)
    z = z.flatten(1)
    if config.lifted:
        z = torch.cat([torch.ones_like(z[:, :1]), z], 1)
    for layer in model.products():
        y = torch.ones(1, dtype=torch.float64)
        for factor in layer.factors:
            y = y * (z @ factor.T)
        z = y @ layer.down.T
    torch.testing.assert_close(z, model(x))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 layers have 3 sizes, got 2"):
        BilinearConfig(sizes=(2, 2), kinds=("bilinear", "bilinear"))
    with pytest.raises(BadInput, match=r"\[n, 1, 4\], got \[2, 1, 5\]"):
        BilinearModel(BilinearConfig(sizes=(4, 3), kinds=("bilinear",)))(torch.zeros(2, 5))
    wide = BilinearConfig(sizes=(4, 4), kinds=("attention",), positions=4, heads=2, d_head=16)
    with pytest.raises(BadInput, match="the attention of layer 0 has 32,768"):
        BilinearModel(wide).products()


def test_a_run_comes_back_and_damage_is_found(tmp_path: Path) -> None:
    config = BilinearConfig(sizes=(3, 2), kinds=("bilinear",), hidden=2)
    record = Record(method="by hand", config={}, seed=0)
    run = BilinearRun(
        config=config, steps=(0, 5), models=tuple(random_bilinear(config, i) for i in (0, 1)),
        measured={"train_accuracy": (0.1, 0.9)}, record=record,
    )  # fmt: skip
    folder = save_bilinear(run, tmp_path / "run")
    found = load_bilinear(folder)
    assert (found.config, found.steps, found.measured, found.record) == (config, (0, 5), run.measured, record)
    for a, b in zip(found.models, run.models, strict=True):
        assert all(torch.equal(a.weights[n], b.weights[n]) for n in a.weights)
    save_bilinear(replace(run, steps=(0, 6)), folder)
    assert load_bilinear(folder).steps == (0, 6)
    measured = (folder / "measured.json").read_text()
    (folder / "measured.json").write_text('{"steps": [0, 5], "train_accuracy": [1]}')
    with pytest.raises(CorruptFile, match="not those of"):
        load_bilinear(folder)
    (folder / "measured.json").write_text(measured)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"hidden": 2', '"hidden": 0'))
    with pytest.raises(CorruptFile, match="hidden"):
        load_bilinear(folder)
    (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match=r"no checkpoints\.safetensors"):
        save_bilinear(run, tmp_path / "other")
    with pytest.raises(BadInput, match="run folder of a bilinear model"):
        load_bilinear(tmp_path / "other")
