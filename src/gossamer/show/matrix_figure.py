"""Matrices of a comparison (overlaps, losses), drawn from data alone (`MatrixData`; equal data gives equal files)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, model_validator

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.show.figures import save_figure

CELL_INCHES, GAP_INCHES = 0.47, 0.35
DARK = 0.6  # of the scale, from which numbers are white
Number = float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Matrix(_Part):
    """Numbers for rows by columns, None where there is none; beneath: the null of each. The colours go from `low` to
    `high`. across, down: what columns and rows are, in words."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[Number, ...], ...]
    beneath: tuple[tuple[Number, ...], ...]
    low: float = 0.0
    high: float = 1.0
    across: str = ""
    down: str = ""

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
    longest = 0.062 * max(len(name) for m in data.matrices for name in (*m.rows, *m.columns)) + 0.2
    widths = [CELL_INCHES * len(m.columns) for m in data.matrices]
    tallest = CELL_INCHES * max(len(m.rows) for m in data.matrices)
    width = sum(widths) + len(widths) * (longest + GAP_INCHES)
    height = tallest + 0.8 * longest + 0.75
    figure.set_layout_engine("none")  # its solver differs in the last digit from run to run
    figure.set_size_inches(width, height)
    left = 0.0
    for m, own in zip(data.matrices, widths, strict=True):
        left += longest + 0.2
        tall = CELL_INCHES * len(m.rows)
        box = (left / width, (height - 0.45 - tall) / height, own / width, tall / height)
        _panel(figure.add_axes(box), m)
        left += own + GAP_INCHES - 0.2
    figure.text(0.01, 0.02, f"small: {data.null}", fontsize=6.5)


def _panel(axes: Any, m: Matrix) -> None:
    filled = [[float("nan") if v is None else v for v in row] for row in m.values]
    axes.imshow(filled, cmap="Blues", vmin=m.low, vmax=m.high, aspect="auto")
    axes.set_title(m.title, fontsize=7.5, loc="left", pad=4)
    axes.set_xticks(range(len(m.columns)), m.columns, rotation=40, ha="right", rotation_mode="anchor", fontsize=6.5)
    axes.set_yticks(range(len(m.rows)), m.rows, fontsize=6.5)
    axes.tick_params(length=0)
    if m.across:
        axes.set_xlabel(m.across, fontsize=7)
    if m.down:
        axes.set_ylabel(m.down, fontsize=7)
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
