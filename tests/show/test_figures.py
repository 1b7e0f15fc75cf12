"""Figures are drawn from data alone: equal data gives equal files, and what is not reached is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossamer.errors import BadInput, CorruptFile
from gossamer.show.figures import Curves, Kind, Level, SearchedModel, read_curves, share, write_figure

pytest.importorskip("matplotlib")


def curves(kind: Kind, reached: bool = True) -> Curves:
    models = tuple(
        SearchedModel(
            label=label, source=label, sha256=label, means_sha256="", d_model=width, n_layer=2, density=density,
            activation_fraction=1.0, nonzero_weights=1000 * width, validation_loss_nats=loss,
            unpruned={"x": 0.001, "y": 0.2}, found=(),
        )
        for label, width, density, loss in (("fine", 128, 1 / 16, 3.9), ("coarse", 36, 1.0, 3.8))
    )  # fmt: skip
    empty = Level(
        target_loss=0.05,
        tasks=(),
        missed=(("x", "y"), ()),
        by_task={},
        edges=(None, None),
        band=(None, None),
        heldout=(None, None),
        random=(None, None),
    )
    full = Level(
        target_loss=0.15, tasks=("x", "y"), missed=((), ()), by_task={"x": (12.0, 150.0)},
        edges=(12.0, 150.0), band=((10.0, 14.0), (100.0, 200.0)),
        heldout=(0.15, 0.2),
        random=((0.7, 0.6, 0.8), (0.9, 0.7, 1.4)), ratio=12.5, interval=(8.0, 20.0),
    )  # fmt: skip
    levels = (empty, full) if reached else (empty, empty.model_copy(update={"target_loss": 0.15}))
    return Curves(
        kind=kind, finding="found", warnings=(), at=0.15, trials=16, seeds=2, tasks=("x", "y"), methodology="gao-mean",
        interval_over="tasks and seeds", models=models, levels=levels, record={},
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["size-for-loss", "frontier"])
@pytest.mark.parametrize("reached", [True, False])
def test_equal_data_gives_equal_files(kind: Kind, reached: bool, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written.append([p.read_bytes() for p in write_figure(curves(kind, reached), tmp_path / name / kind)])
    assert written[0] == written[1]
    assert written[0][0].startswith(b"\x89PNG")
    svg = written[0][1].decode()
    assert "<dc:date>" not in svg
    assert len(svg) < 100_000
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f"{kind}.png", f"{kind}.svg"]
    other = write_figure(curves(kind, not reached), tmp_path / kind)[1]
    assert other.read_text() != svg


def test_every_number_and_name_stands_in_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")  # text as text, to be read here
    svg = write_figure(curves("size-for-loss"), tmp_path / "s")[1].read_text()
    for text in ("fine", "coarse", "6% of weights", "100% of weights", "×12.5", "[8.0, 20.0]", "none", "reached",
                 "gao-mean", "ln 2"):  # fmt: skip
        assert text in svg, text
    svg = write_figure(curves("frontier"), tmp_path / "f")[1].read_text()
    for text in ("width 128", "width 36", "1/16 weights", "dense weights", "edges in circuit at 0.15 nats"):
        assert text in svg, text
    assert "no task that all models reach" in write_figure(curves("frontier", False), tmp_path / "g")[1].read_text()


def test_data_survives_the_file_and_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "size-for-loss.json"
    path.write_text(curves("size-for-loss").model_dump_json())
    assert read_curves(path) == curves("size-for-loss")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CorruptFile, match="not a whole figure's data"):
        read_curves(path)
    with pytest.raises(BadInput, match="found none"):
        read_curves(tmp_path / "no.json")


def test_a_density_is_said_as_a_share() -> None:
    assert [share(d) for d in (1.0, 0.9999, 1 / 16, 0.0626, 1 / 32, 0.3)] == [
        "dense", "dense", "1/16", "1/16", "1/32", "30.0%",
    ]  # fmt: skip
