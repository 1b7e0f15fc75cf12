"""Matrices of a comparison: what is read is what was written, and a table that is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossamer.errors import BadInput, CorruptFile
from gossamer.show.matrix_figure import Matrix, MatrixData, read_matrices, write_matrix_figure


def test_a_matrix_with_an_empty_cell_is_drawn_and_read_back(tmp_path: Path) -> None:
    m = Matrix(title="lost", rows=("a", "b"), columns=("a", "b"), values=((1.0, None), (0.2, 0.9)),
               beneath=((0.1, None), (None, 0.0)))  # fmt: skip
    data = MatrixData(finding="found", null="random sets", matrices=(m,), record={})
    path = tmp_path / "data.json"
    path.write_text(data.model_dump_json())
    assert read_matrices(path) == data
    _, svg = write_matrix_figure(data, tmp_path / "drawn")
    assert svg.read_bytes() == write_matrix_figure(data, tmp_path / "again")[1].read_bytes()


def test_what_is_no_matrix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 1 rows of 2 numbers"):
        Matrix(title="", rows=("a",), columns=("a", "b"), values=((1.0,),), beneath=((1.0, 2.0),))
    with pytest.raises(BadInput, match="found none"):
        read_matrices(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(CorruptFile, match="make the comparison again"):
        read_matrices(tmp_path / "broken.json")
    with pytest.raises(BadInput, match="one or more matrices"):
        write_matrix_figure(MatrixData(finding="", null="", matrices=(), record={}), tmp_path / "x")
