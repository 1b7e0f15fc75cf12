"""Training of bilinear networks, and the picture of its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gossamer import commands
from gossamer.cli.main import app
from gossamer.compare import similarity_matrix
from gossamer.errors import BadInput, CorruptFile
from gossamer.models.bilinear import BilinearConfig, BilinearRun, load_bilinear
from gossamer.show.similarity_figure import read_similarity
from gossamer.train.bilinear import (
    BilinearTraining,
    Classes,
    accuracy,
    modular_addition,
    train_bilinear,
    train_bilinear_into,
)

P = 7
SMALL = BilinearTraining(
    model=BilinearConfig(sizes=(2 * P, P), kinds=("bilinear",), hidden=24), steps=250, lr=1e-2, batch_size=16,
    checkpoints=6, weight_decay=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Classes:
    return modular_addition(P, share=0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Classes) -> Path:
    path = tmp_path_factory.mktemp("bilinear") / "run"
    train_bilinear_into(path, SMALL, data)
    return path


@pytest.fixture(scope="module")
def run(folder: Path) -> BilinearRun:
    return load_bilinear(folder)


def test_addition_has_every_pair_once(data: Classes) -> None:
    x = torch.cat([data.x, data.x_heldout])
    assert len(data.x) == int(0.8 * P**2)
    a, b = x[:, :P].argmax(1), x[:, P:].argmax(1)
    assert len(set(zip(a.tolist(), b.tolist(), strict=True))) == P**2
    assert torch.equal((a + b) % P, torch.cat([data.y, data.y_heldout]))
    assert torch.equal(x.sum(1), torch.full((P**2,), 2.0))
    with pytest.raises(BadInput, match="share between 0 and 1"):
        modular_addition(P, share=1)


def test_training_learns_and_repeats_itself_to_the_bit(data: Classes, run: BilinearRun) -> None:
    assert run.steps == SMALL.kept_steps() == (0, 10, 40, 90, 160, 250)
    assert run.measured["train_accuracy"][-1] == accuracy(run.models[-1], data.x, data.y) > 0.95
    assert run.measured["train_accuracy"][0] < 0.5
    again = train_bilinear(SMALL, data)
    assert all(torch.equal(run.models[-1].weights[n], again.models[-1].weights[n]) for n in again.models[-1].weights)
    further = train_bilinear(SMALL.model_copy(update={"steps": 1}), data, start=run.models[-1])
    assert torch.equal(further.models[0].weights["0_left"], run.models[-1].weights["0_left"])
    assert not torch.equal(further.models[1].weights["0_left"], run.models[-1].weights["0_left"])


def test_what_does_not_fit_is_refused(data: Classes, run: BilinearRun, folder: Path) -> None:
    other = SMALL.model_copy(update={"model": SMALL.model.model_copy(update={"hidden": 3})})
    with pytest.raises(BadInput, match="shape that is trained"):
        train_bilinear(other, data, start=run.models[-1])
    with pytest.raises(BadInput, match="below the model's 7 outputs, got 9"):
        train_bilinear(SMALL, data._replace(y=data.y + 3))
    with pytest.raises(BadInput, match="exists"):
        train_bilinear_into(folder, SMALL, data)


def test_the_picture_is_of_the_matrix_and_its_data_come_back(run: BilinearRun, folder: Path, tmp_path: Path) -> None:
    r = commands.figure_tensor_similarity(folder, out=tmp_path / "a")
    data = read_similarity(Path(r.data))
    torch.testing.assert_close(torch.tensor(data.matrix, dtype=torch.float64), similarity_matrix(run.models))
    assert data.curves == run.measured
    assert r.to_last[-1] == pytest.approx(1)
    assert r.null is not None
    assert r.null[1] <= r.null_highest < 0.5
    assert "checkpoints after it" in r.finding
    done = CliRunner().invoke(app, ["figure", "tensor-similarity", str(folder), "--out", str(tmp_path / "b"), "--json"])
    assert json.loads(done.stdout)["to_last"] == list(r.to_last)
    for name in ("tensor-similarity.png", "tensor-similarity.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(BadInput, match="Unknown metric 'other'"):
        commands.figure_tensor_similarity(folder, out=tmp_path / "c", metric="other")  # type: ignore[arg-type]
    Path(r.data).write_text(
        Path(r.data).read_text().replace('"steps": [', '"steps": [1,').replace('"steps":[', '"steps":[1,')
    )
    with pytest.raises(CorruptFile, match="not whole"):
        read_similarity(Path(r.data))
    with pytest.raises(BadInput, match="found none"):
        read_similarity(tmp_path / "none.json")
