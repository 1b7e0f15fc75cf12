"""`gossamer grid` on run folders of both grains: files, resumption, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from taught import pairs, saved
from toys import planted_model, planted_task
from typer.testing import CliRunner

from gossamer import commands
from gossamer.cli.main import app
from gossamer.commands import grids
from gossamer.errors import BadInput, CorruptFile
from gossamer.models.files import save_model
from gossamer.show.grid_figure import read_grid, write_grid_figure
from gossamer.task import Example
from gossamer.verify import ChannelTrial


def written(examples: tuple[Example, ...], path: Path) -> Path:
    lines = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer}
        for e in examples
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the planted model, pruned."""
    folder = tmp_path_factory.mktemp("channels")
    made = planted_model()
    save_model(made.model, folder / "model", tokenizer=made.tokenizer, reference=made.reference, record={})
    task = planted_task()
    file = written((*task.train, *task.heldout), folder / "sides.jsonl")
    commands.prune(folder / "model", file, out=folder / "run", steps=60, batch_pairs=16, k_coef=(4e-3,))
    return folder / "run"


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edges")
    file = written(pairs(), folder / "she_he.jsonl")
    commands.discover_edges("eap", saved(folder / "model"), file, edges=40, out=folder / "run", force=True)
    return folder / "run"


def test_edges_under_every_methodology_and_the_same_files_again(edges: Path, tmp_path: Path) -> None:
    asked = ["grid", str(edges), "--value", "resample", "--value", "zero", "--pairs", "8", "--draws", "1", "--json"]
    done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert len(report["rows"]) == 2 * 3 * (2 * 2 + 2)
    assert report["finding"].startswith("Of the same circuit, 12 ways")
    data = read_grid(Path(report["data"]))
    assert [r.model_dump(mode="json") for r in data.rows] == report["rows"]
    assert data.record["method"] == "grid"
    for name in ("grid.json", "grid.png", "grid.svg"):
        assert (tmp_path / "a" / name).stat().st_size > 0
    first = Path(report["svg"]).read_bytes()
    _, svg = write_grid_figure(data, tmp_path / "again")
    assert svg.read_bytes() == first
    text = CliRunner().invoke(app, [*asked[:-1], "--out", str(tmp_path / "a")])  # all rows are known
    assert text.exit_code == 0, text.output
    assert "maintained" in text.output


def test_a_grid_that_was_stopped_goes_on(channels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    effects = ChannelTrial.effects

    def counted(self: ChannelTrial, kept, **how):  # type: ignore[no-untyped-def]
        if how["value"] == "zero" and not ran.count("stop"):
            ran.append("stop")
            raise KeyboardInterrupt
        ran.append(how["value"])
        return effects(self, kept, **how)

    monkeypatch.setattr(ChannelTrial, "effects", counted)
    how = {"values": ("mean", "zero"), "pairs": 8, "draws": 1, "out": tmp_path / "grid"}
    with pytest.raises(KeyboardInterrupt):
        commands.grid(channels, **how)  # type: ignore[arg-type]
    assert not (tmp_path / "grid" / "grid.json").exists()
    report = commands.grid(channels, **how)  # type: ignore[arg-type]
    assert ran == ["mean", "mean", "stop", "zero", "zero"]
    assert {r.granularity for r in report.rows} == {"node", "edge"}
    assert all(r.component == "channel" for r in report.rows)
    with pytest.raises(BadInput, match="another seed"):
        commands.grid(channels, seed=1, **how)  # type: ignore[arg-type]
    (tmp_path / "grid" / grids.ROWS).write_text("{")
    with pytest.raises(CorruptFile, match=r"rows\.json"):
        commands.grid(channels, **how)  # type: ignore[arg-type]


def test_wrong_requests_write_nothing(channels: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Unknown ablation value 'noise'"):
        commands.grid(channels, values=("noise",), out=tmp_path / "grid")
    with pytest.raises(BadInput, match="at least 1 pair"):
        commands.grid(channels, pairs=0, out=tmp_path / "grid")
    with pytest.raises(BadInput, match=r"run folder with record\.json"):
        commands.grid(tmp_path / "none", out=tmp_path / "grid")
    assert not (tmp_path / "grid").exists()
