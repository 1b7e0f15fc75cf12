"""What is written into a folder that someone else made stays in it, and is there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossamer.circuit import save_arrays
from gossamer.commands.run_folder import write_json
from gossamer.errors import BadInput
from gossamer.evidence import save_evidence
from gossamer.record import Record
from gossamer.whole_file import whole_folder, write_whole

WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: write_whole("new", path),
    "bundle.json": lambda path: write_json({"a": "new"}, path),
    "evidence.json": lambda path: save_evidence((), path, Record(method="verify", config={}, seed=0)),
    "circuit.safetensors": lambda path: save_arrays({"a": np.zeros(2)}, {}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_link_in_the_folder_leads_out_of_it(name: str, tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    victim.write_text("mine")
    links = [name, f"{name}.partial", f".{name}.partial", f".{name}.part"]
    for link in links:
        (run / link).symlink_to(victim)
    WRITERS[name](run / name)
    assert victim.read_text() == "mine"
    assert not (run / name).is_symlink()
    assert sorted(p.name for p in run.iterdir()) == sorted(links)
    assert (run / name).stat().st_mode & 0o777 == 0o644


def test_what_ends_in_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_whole("old", tmp_path / "a")
    with pytest.raises(UnicodeEncodeError):
        write_whole("new \ud800", path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_writer_of_the_library_has_a_name_that_can_be_foreseen() -> None:
    source = Path(__file__).parents[1] / "src" / "gossamer"
    assert [str(p) for p in source.rglob("*.py") if '".partial"' in p.read_text()] == []


def test_a_folder_is_replaced_whole_by_one_of_its_kind_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"

    def fill(text: str, *, stop: bool = False) -> None:
        with whole_folder(folder, "run folder", holds="result.json") as work:
            (work / text).touch()
            (work / "result.json").write_text(text)
            assert work.parent == folder.parent
            if stop:
                raise OSError("disk full")

    fill("first")
    with pytest.raises(OSError, match="disk full"):
        fill("second", stop=True)
    assert (folder / "result.json").read_text() == "first"
    fill("third")
    assert sorted(p.name for p in folder.iterdir()) == ["result.json", "third"]
    (folder / "result.json").unlink()
    with pytest.raises(BadInput, match=r"a run folder to replace at .*, it has no result\.json"):
        fill("fourth")
    assert [p.name for p in folder.iterdir()] == ["third"]
    assert [p.name for p in folder.parent.iterdir()] == ["one"]
