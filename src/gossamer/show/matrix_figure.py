"""Matrices of a comparison (overlaps, losses), drawn from data alone (`MatrixData`; equal data gives equal files)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, model_validator

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.show.figures import save_figure

CELL_INCHES, GAP_INCHES = 0.42, 0.2
LETTER_INCHES = 0.052  # of a label
DARK = 0.6  # of the scale, from which numbers are white
Number = float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Matrix(_Part):
    """Numbers for rows by columns, None where there is none; beneath: the null of each. The colours go from `low` to
    `high`."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[Number, ...], ...]
    beneath: tuple[tuple[Number, ...], ...]
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _rectangular(self) -> Matrix:
        for table in (self.values, self.beneath):
            if len(table) != len(self.rows) or any(len(row) != len(self.columns) for row in table):
                raise ValueError(f"expected {len(self.rows)} rows of {len(self.columns)} numbers")
        return self


class MatrixData(_Part):
    """The data of a picture of one or more matrices, side by side. null: what the small numbers are."""

    format_version: Literal[1] = 1
    finding: str
    null: str
    matrices: tuple[Matrix, ...]
    record: dict[str, JsonValue]


def read_matrices(path: Path) -> MatrixData:
    """The data of a picture; BadInput when there is none, CorruptFile when it is damaged."""
    try:
        return MatrixData.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"Expected the data of matrices at {path}, found none.") from error
    except ValueError as error:
        raise CorruptFile(f"{path} is not whole ({one_line(error)}); make the comparison again.") from error


def write_matrix_figure(data: MatrixData, stem: Path) -> tuple[Path, Path]:
    """Draw STEM.png and STEM.svg: a panel per matrix, every number in its cell, its null small beneath."""
    if not data.matrices:
        raise BadInput("Expected one or more matrices to draw, got none.")
    return save_figure(lambda figure: _draw(data, figure), stem)


def _draw(data: MatrixData, figure: Any) -> None:
    panels, labels = data.matrices, LETTER_INCHES * max(len(n) for m in data.matrices for n in (*m.rows, *m.columns))
    named = [i == 0 or m.rows != panels[i - 1].rows for i, m in enumerate(panels)]
    sizes = [(CELL_INCHES * len(m.columns), CELL_INCHES * len(m.rows)) for m in panels]
    rooms = [max(wide, 1.1 * LETTER_INCHES * len(m.title)) for (wide, _), m in zip(sizes, panels, strict=True)]
    width = sum(rooms) + GAP_INCHES * len(panels) + (labels + 0.1) * sum(named)
    height = max(tall for _, tall in sizes) + 0.7 * labels + 0.65
    figure.set_layout_engine("none")  # its solver differs in the last digit from run to run
    figure.set_size_inches(width, height)
    left = 0.0
    for m, (wide, tall), room, own in zip(panels, sizes, rooms, named, strict=True):
        left += labels + 0.1 if own else 0.0
        axes = figure.add_axes((left / width, (height - 0.25 - tall) / height, wide / width, tall / height))
        _panel(axes, m, own)
        left += room + GAP_INCHES
    figure.text(0.05 / width, 0.08 / height, f"beneath each number: {data.null}", fontsize=6.5)


def _panel(axes: Any, m: Matrix, named: bool) -> None:
    filled = [[float("nan") if v is None else v for v in row] for row in m.values]
    axes.imshow(filled, cmap="Blues", vmin=m.low, vmax=m.high, aspect="auto")
    axes.set_title(m.title, fontsize=7.5, loc="left", pad=4)
    axes.set_xticks(range(len(m.columns)), m.columns, rotation=40, ha="right", rotation_mode="anchor", fontsize=6.5)
    axes.set_yticks(range(len(m.rows)), m.rows if named else [""] * len(m.rows), fontsize=6.5)
    axes.tick_params(length=0)
    for i, (values, beneath) in enumerate(zip(m.values, m.beneath, strict=True)):
        for j, (value, null) in enumerate(zip(values, beneath, strict=True)):
            if value is None:
                axes.text(j, i, "-", ha="center", va="center", fontsize=7)
                continue
            colour = "white" if value > m.low + DARK * (m.high - m.low) else "black"
            axes.text(j, i - (0.12 if null is not None else 0), f"{value:.2f}", ha="center", va="center", fontsize=7,
                      color=colour)  # fmt: skip
            if null is not None:
                axes.text(j, i + 0.26, f"{null:.2f}", ha="center", va="center", fontsize=5, color=colour)
