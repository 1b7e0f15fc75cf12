"""How alike the checkpoints of one training are, drawn from data alone (`SimilarityData`; equal data, equal files)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, model_validator

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.show.figures import COLOURS, GREY, WIDTH_INCHES, save_figure


class SimilarityData(BaseModel):
    """Similarities of checkpoints [n, n] after `steps` [n] of a training.

    curves [n] each: what else was measured at every checkpoint, 0 to 1; null: the last checkpoint's similarity to a
    model that it should not be like, in words and as a number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format_version: Literal[1] = 1
    name: str
    measure: str
    finding: str
    steps: tuple[int, ...]
    matrix: tuple[tuple[float, ...], ...]
    curves: dict[str, tuple[float, ...]]
    null: tuple[str, float] | None
    record: dict[str, JsonValue]

    @model_validator(mode="after")
    def _whole(self) -> SimilarityData:
        n = len(self.steps)
        if n < 2 or any(len(row) != n for row in (self.matrix, *self.matrix, *self.curves.values())):
            raise ValueError(f"expected {n} by {n} similarities of two or more checkpoints and {n} numbers per curve")
        return self


def read_similarity(path: Path) -> SimilarityData:
    """The data of a picture; BadInput when there is none, CorruptFile when it is damaged."""
    try:
        return SimilarityData.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"Expected similarities of checkpoints at {path}, found none.") from error
    except ValueError as error:
        raise CorruptFile(f"{path} is not whole ({one_line(error)}); make the picture again.") from error


def write_similarity_figure(data: SimilarityData, stem: Path) -> tuple[Path, Path]:
    """Draw STEM.png and STEM.svg: the matrix, and beside it the similarity to the last checkpoint with the curves."""
    return save_figure(lambda figure: _draw(data, figure), stem)


def _draw(data: SimilarityData, figure: Any) -> None:
    figure.set_layout_engine("none")  # its solver differs in the last digit from run to run
    figure.set_size_inches(2 * WIDTH_INCHES, 2.75)
    left = figure.add_axes((0.08, 0.16, 0.3, 0.76))
    low = min(0.0, *(v for row in data.matrix for v in row))
    image = left.imshow(data.matrix, cmap="viridis", vmin=low, vmax=1, origin="lower", interpolation="nearest")
    ticks = [round(i * (len(data.steps) - 1) / 4) for i in range(5)] if len(data.steps) > 5 else range(len(data.steps))
    names = [f"{data.steps[i]:,}" for i in ticks]
    left.set_xticks(list(ticks), names, rotation=40, ha="right", rotation_mode="anchor")
    left.set_yticks(list(ticks), names)
    left.set_title(data.measure, fontsize=7.5, loc="left")
    bar = figure.colorbar(image, cax=figure.add_axes((0.395, 0.16, 0.012, 0.76)))
    bar.outline.set_visible(False)
    axes = figure.add_axes((0.52, 0.16, 0.46, 0.66))
    last = [row[-1] for row in data.matrix]
    axes.plot(data.steps, last, color=COLOURS[0], linewidth=1.2, label="to the last checkpoint")
    for place, (name, values) in enumerate(data.curves.items()):
        colour = COLOURS[(place + 1) % len(COLOURS)]
        axes.plot(data.steps, values, "--", color=colour, linewidth=1.2, label=name.replace("_", " "))
    if data.null is not None:
        axes.axhline(data.null[1], color=GREY, linewidth=0.8, linestyle=":", label=data.null[0])
    axes.set_xlabel("step")
    axes.set_ylim(min(low, 0) - 0.02, 1.03)
    axes.legend(
        frameon=False, fontsize=6.5, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2, ncols=2,
        labelspacing=0.3,
    )  # fmt: skip
