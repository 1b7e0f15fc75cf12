"""One circuit's scores under every methodology, drawn from data alone (`GridData`; equal data gives equal files)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.show.figures import COLOURS, GREY, WIDTH_INCHES, save_figure

ROW_INCHES = 0.16
LEFT, RIGHT, TOP, BOTTOM, GAP = 1.15, 0.15, 0.2, 0.4, 0.22  # inches; the gap has a panel's title in it
AGGREGATES = ("ratio-of-means", "mean-of-ratios")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GridScore(_Part):
    """A methodology and the circuit's score under it; see gossamer.verify.grid. quantiles: of single pairs, 5, 25, 50,
    75 and 95%; random: mean, lowest, highest of random sets of the same size."""

    granularity: str
    component: str
    value: str
    positions: str
    direction: str
    set: str
    reference: str
    aggregate: str
    asks: str
    expected: float
    score: float | None
    interval: tuple[float, float] | None
    quantiles: tuple[float, ...] | None
    n: int
    defined: int
    random: tuple[float, float, float] | None
    draws: int
    why: str


PARTS = {"node": "nodes", "edge": "edges", "branch": "branches"}


class GridData(_Part):
    """The data of a grid."""

    format_version: Literal[1] = 1
    model: str
    task: str
    finding: str
    rows: tuple[GridScore, ...]
    record: dict[str, JsonValue]


def read_grid(path: Path) -> GridData:
    """The data of a grid; BadInput when there is none, CorruptFile when it is damaged."""
    try:
        return GridData.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"Expected the data of a grid at {path}, found none.") from error
    except ValueError as error:
        raise CorruptFile(f"{path} is not a whole grid's data ({one_line(error)}); make the grid again.") from error


def write_grid_figure(data: GridData, stem: Path) -> tuple[Path, Path]:
    """Draw STEM.png and STEM.svg: a line per methodology, in a panel per thing asked, random sets in grey."""
    return save_figure(lambda figure: _draw(data, figure), stem)


def _draw(data: GridData, figure: Any) -> None:
    panels = [(asks, [r for r in data.rows if r.asks == asks]) for asks in dict.fromkeys(r.asks for r in data.rows)]
    lines = [list(dict.fromkeys((r.granularity, r.value) for r in rows)) for _, rows in panels]
    heights = [len(found) + 0.4 for found in lines]
    height, width = ROW_INCHES * sum(heights) + GAP * len(panels) + TOP + BOTTOM, 1.4 * WIDTH_INCHES
    figure.set_layout_engine("none")  # the solver of the others' layout differs in the last digit from run to run
    figure.set_size_inches(width, height)
    all_axes: list[Any] = []
    top = height - TOP
    for share in heights:
        top -= GAP + ROW_INCHES * share
        box = (LEFT / width, top / height, 1 - (LEFT + RIGHT) / width, ROW_INCHES * share / height)
        all_axes.append(figure.add_axes(box, sharex=all_axes[0] if all_axes else None))
    for axes, (asks, rows), names in zip(all_axes, panels, lines, strict=True):
        axes.axvline(rows[0].expected, color="black", linewidth=0.8)
        axes.set_title(f"{asks}: {rows[0].direction} run, {rows[0].set} ablated", fontsize=7, loc="left", pad=2)
        if rows[0].direction == "counterfactual":
            axes.set_title(f"{asks}: counterfactual run, {rows[0].set} restored", fontsize=7, loc="left", pad=2)
        axes.set_yticks(
            [-i for i in range(len(names))], [f"{value}, {PARTS[part]}" for part, value in names], fontsize=6.5
        )
        axes.set_ylim(0.4 - len(names), 0.6)
        axes.tick_params(labelbottom=axes is all_axes[-1])
        for row in rows:
            _line(axes, row, -names.index((row.granularity, row.value)))
    all_axes[-1].set_xlim(*_view(data.rows))
    all_axes[-1].set_xlabel("share of the effect; bars: the middle 50% and 90% of pairs", fontsize=7)
    for aggregate, colour in zip(AGGREGATES, COLOURS, strict=False):
        all_axes[0].plot([], [], "o", color=colour, markersize=3, label=aggregate)
    all_axes[0].plot([], [], "|", color=GREY, markersize=5, label="random sets of the same size")
    figure.legend(frameon=False, fontsize=6.5, loc="upper left", ncols=3, handletextpad=0.2, columnspacing=1)


def _line(axes: Any, row: GridScore, y: float) -> None:
    place = AGGREGATES.index(row.aggregate)
    if row.score is None or row.interval is None or row.quantiles is None or row.random is None:
        if not place:
            axes.text(row.expected, y, " no score", fontsize=6, color=GREY, va="center")
        return
    at = y + (0.16, -0.16)[place]
    if not place:
        axes.plot(row.quantiles[::4], [y, y], color=COLOURS[5], linewidth=0.8, zorder=1)
        axes.plot(row.quantiles[1:4:2], [y, y], color=COLOURS[5], linewidth=2.5, alpha=0.6, zorder=1)
        axes.plot(row.random, [y] * 3, "|", color=GREY, markersize=5, zorder=2)
    axes.plot(row.interval, [at, at], color=COLOURS[place], linewidth=1, zorder=3)
    axes.plot([row.score], [at], "o", color=COLOURS[place], markersize=3, zorder=4)


def _view(rows: Sequence[GridScore]) -> tuple[float, float]:
    """From the lowest to the highest of scores, intervals and middle halves of pairs, 0 and 1 inside."""
    ends = [0.0, 1.0]
    for row in rows:
        if row.score is not None and row.aggregate == AGGREGATES[0]:
            ends += [*(row.interval or ()), *(row.quantiles or ())[1:4]]
        elif row.score is not None:
            ends.append(row.score)
    margin = 0.05 * (max(ends) - min(ends))
    return min(ends) - margin, max(ends) + margin
