"""Curves over models: edges against task loss, and circuit size against pretraining loss. Drawn from data alone.

The data is one JSON object (`Curves`); equal data gives equal files. matplotlib comes with the `figures` extra.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.whole_file import whole_file

Kind = Literal["size-for-loss", "frontier"]
Spread = tuple[float, float, float]

# Okabe and Ito's colours, apart for the colour-blind and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#767676"
WIDTH_INCHES = 3.5  # a column
COIN = math.log(2)  # the lowest task loss of a model blind to the input


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FoundSize(_Part):
    """The smallest circuit of one model, task and seed at one target. Losses are task_loss_nats.

    loss_train is on the pairs it was cut on. random_losses: held-out loss of random circuits with as many nodes at
    every location; empty where no circuit reached the target or another machine holds it.
    """

    task: str
    seed: int
    target_loss: float
    reached: bool
    nodes: int
    edges: int
    loss_train: float
    loss_heldout: float | None
    random_losses: tuple[float, ...] = ()


class SearchedModel(_Part):
    """A model and all that its search found. density: non-zero share of the matrices whose entries are edges.

    unpruned: task loss of the whole model per task, on the pairs that circuits are cut on.
    """

    label: str
    source: str
    sha256: str
    means_sha256: str
    d_model: int
    n_layer: int
    density: float
    activation_fraction: float
    nonzero_weights: int
    validation_loss_nats: float | None
    unpruned: dict[str, float]
    found: tuple[FoundSize, ...]


class Level(_Part):
    """What all models come to at one target, over the tasks that every model reaches there with every seed.

    missed: per model the tasks that it does not reach. by_task: per task that counts the geometric mean over seeds of
    each model's edges. edges (geometric means over tasks and seeds), band (lowest and highest over seeds),
    heldout (mean held-out task loss of the circuits) and random (mean, lowest, highest held-out loss of random circuits
    of the same size): one per model, None without a task that counts. ratio: edges of the second model over the first,
    of a pair only, with its interval.
    """

    target_loss: float
    tasks: tuple[str, ...]
    missed: tuple[tuple[str, ...], ...]
    by_task: dict[str, tuple[float, ...]]
    edges: tuple[float | None, ...]
    band: tuple[tuple[float, float] | None, ...]
    heldout: tuple[float | None, ...]
    random: tuple[Spread | None, ...]
    ratio: float | None = None
    interval: tuple[float, float] | None = None


class Curves(_Part):
    """The data of a figure. at: the target loss of the finding; trials: masks per model, task and seed."""

    format_version: Literal[1] = 1
    kind: Kind
    finding: str
    warnings: tuple[str, ...]
    at: float
    trials: int
    seeds: int
    tasks: tuple[str, ...]
    methodology: str
    interval_over: str
    models: tuple[SearchedModel, ...]
    levels: tuple[Level, ...]
    record: dict[str, JsonValue]


def read_curves(path: Path) -> Curves:
    """The data of a figure; BadInput when there is none, CorruptFile when it is damaged."""
    try:
        return Curves.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"Expected the data of a figure at {path}, found none.") from error
    except ValueError as error:
        raise CorruptFile(f"{path} is not a whole figure's data ({one_line(error)}); make the figure again.") from error


def require_matplotlib() -> None:
    """BadInput without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise BadInput("A figure needs matplotlib: pip install 'gossamer-interp[figures]'.") from error


def write_figure(curves: Curves, stem: Path) -> tuple[Path, Path]:
    """Draw STEM.png and STEM.svg, each renamed into place. Equal data and matplotlib give equal bytes."""
    draw = _size_for_loss if curves.kind == "size-for-loss" else _frontier
    return save_figure(lambda figure: draw(curves, figure), stem)


def save_figure(draw: Callable[[Any], None], stem: Path) -> tuple[Path, Path]:
    """STEM.png and STEM.svg of what `draw` puts into a figure, in one style, each renamed into place."""
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {
        "svg.hashsalt": "gossamer", "font.size": 8, "font.family": "DejaVu Sans", "axes.spines.top": False,
        "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
        "xtick.minor.width": 0.4, "ytick.minor.width": 0.4, "axes.labelsize": 8, "xtick.labelsize": 6.5,
        "ytick.labelsize": 7, "path.simplify": False,
    }  # fmt: skip
    png, svg = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")
    with mpl.rc_context(style):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        for path, options in ((png, {"metadata": {"Software": None}, "dpi": 200}), (svg, {"metadata": {"Date": None}})):
            with whole_file(path) as partial:
                figure.savefig(partial, format=path.suffix[1:], **options)
    return png, svg


def _whole_numbers(axis: Any) -> None:
    """Ticks of a logarithmic axis as whole numbers; at 1, 2 and 5 of a decade while that is few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    few = math.log10(high / low) < 1.9
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())


def _at_targets(axes: Any, targets: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(min(targets) / 1.5, max(targets) * 1.4)
    axes.xaxis.set_major_locator(FixedLocator(list(targets)))
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _size_for_loss(curves: Curves, figure: Any) -> None:
    """Edges at each target; the losses of the whole models; and random circuits of the same sizes, whose loss must
    stay far from the target."""
    figure.set_size_inches(WIDTH_INCHES, 3.8)
    top, strip, low = figure.subplots(3, 1, sharex=True, height_ratios=(3, 0.35, 1.15))
    levels = sorted(curves.levels, key=lambda level: level.target_loss)
    targets = [level.target_loss for level in levels]
    for axes in (top, strip, low):
        _at_targets(axes, targets)
    top.set_yscale("log")
    top.margins(y=0.1)
    ends: list[tuple[float, float, str, str]] = []
    for number, model in enumerate(curves.models):
        colour = COLOURS[number]
        x = [level.target_loss for level in levels if level.tasks]
        y = [edges for level in levels if (edges := level.edges[number]) is not None]
        if not x:
            continue
        band = [band for level in levels if (band := level.band[number]) is not None]
        top.fill_between(x, [b[0] for b in band], [b[1] for b in band], color=colour, alpha=0.2, linewidth=0)
        top.plot(x, y, color=colour, marker="os"[number], markersize=3.5, linewidth=1.3, clip_on=False)
        ends.append((x[-1], y[-1], f"{model.label}\n{model.density:.0%} of weights", colour))
        null = [(level.target_loss, r) for level in levels if (r := level.random[number]) is not None]
        at = [t * (0.97, 1.03)[number] for t, _ in null]
        spread = [[r[0] - r[1] for _, r in null], [r[2] - r[0] for _, r in null]]
        low.errorbar(
            at, [r[0] for _, r in null], spread, color=colour, fmt="os"[number], markersize=2.5, linewidth=0.8
        )  # fmt: skip
    _whole_numbers(top.yaxis)
    for x_end, y_end, text, colour in ends:
        top.annotate(
            text, (x_end, y_end), xytext=(6, 0), textcoords="offset points", color=colour, fontsize=7, va="center",
            annotation_clip=False,
        )  # fmt: skip
    for level in levels:
        where = (level.target_loss, 1.0)
        text = str(len(level.tasks)) if level.tasks else "none\nreached"
        top.annotate(
            text, where, xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points", ha="center",
            va="bottom", fontsize=6, color=GREY,
        )  # fmt: skip
    top.annotate(
        "tasks", (0.0, 1.0), xycoords="axes fraction", xytext=(-3, 2), textcoords="offset points", ha="right",
        va="bottom", fontsize=6, color=GREY,
    )  # fmt: skip
    _unpruned(curves, strip)
    chosen = next(level for level in levels if level.target_loss == curves.at)
    if chosen.ratio is not None and chosen.edges[0] and chosen.edges[1]:
        top.plot([curves.at] * 2, chosen.edges, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        halfway = math.sqrt(chosen.edges[0] * chosen.edges[1])
        inside = f"\n[{chosen.interval[0]:.1f}, {chosen.interval[1]:.1f}]" if chosen.interval else ""
        top.annotate(
            f"×{chosen.ratio:.1f}{inside}", (curves.at, halfway), xytext=(4, 0), textcoords="offset points", fontsize=7,
            va="center",
        )  # fmt: skip
    top.set_ylabel("edges in circuit")
    middle = targets[len(targets) // 2]
    low.plot(targets, targets, color="black", linewidth=0.8)
    low.axhline(COIN, color=GREY, linewidth=0.8, linestyle="--")
    low.annotate(
        "ln 2", (1.0, COIN), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points", fontsize=6,
        color=GREY, va="center",
    )  # fmt: skip
    low.annotate(
        "target", (middle, middle), xytext=(3, -2), textcoords="offset points", fontsize=6, va="top"
    )  # fmt: skip
    low.set_yscale("log")
    _whole_numbers(low.yaxis)
    low.set_ylabel("loss of random\nsame-size circuits", fontsize=7)
    low.set_xlabel(f"target task loss (nats), {curves.methodology} ablation")


def _unpruned(curves: Curves, axes: Any) -> None:
    """A mark per task at the loss of the whole model, a row per model; an arrow where that is off the axis."""
    left, right = axes.get_xlim()
    for number, model in enumerate(curves.models):
        for loss in model.unpruned.values():
            marker = "|" if left <= loss <= right else "<" if loss < left else ">"
            axes.plot(
                [min(max(loss, left), right)], [-number], marker, color=COLOURS[number], clip_on=False,
                markersize=5 if marker == "|" else 3, markeredgewidth=1.2 if marker == "|" else 0,
            )  # fmt: skip
    axes.set_ylim(0.6 - len(curves.models), 0.6)
    axes.set_yticks([])
    axes.set_ylabel("whole\nmodel", fontsize=6.5, rotation=0, ha="right", va="center")
    axes.annotate(
        "a mark\nper task", (1.0, 0.5), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points", fontsize=6,
        color=GREY, va="center",
    )  # fmt: skip


def share(density: float) -> str:
    """A density in words: dense, 1/16, or a percentage where it is no such share."""
    whole = round(1 / density)
    return "dense" if whole == 1 else f"1/{whole}" if abs(density * whole - 1) < 0.02 else f"{density:.1%}"


def _frontier(curves: Curves, figure: Any) -> None:
    """A point per model; lines join models of one width (solid) or of one number of non-zero weights (dashed)."""
    figure.set_size_inches(WIDTH_INCHES, 2.9)
    axes = figure.subplots()
    axes.set_yscale("log")
    chosen = next(level for level in curves.levels if level.target_loss == curves.at)
    shown = [
        (model, edges, band, model.validation_loss_nats)
        for model, edges, band in zip(curves.models, chosen.edges, chosen.band, strict=True)
        if edges is not None and band is not None and model.validation_loss_nats is not None
    ]
    axes.set_xlabel("validation loss (nats per token)")
    axes.set_ylabel(f"edges in circuit at {curves.at:g} nats")
    if not shown:
        axes.text(0.5, 0.5, "no task that all models reach", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    families: dict[tuple[str, float], int] = {}
    for model, *_ in shown:
        families.setdefault((share(model.density), model.activation_fraction), len(families))

    def join(same: Callable[[SearchedModel, SearchedModel], bool], line: str, name: str) -> None:
        left = list(shown)
        while left:
            group = [p for p in left if same(left[0][0], p[0])]
            left = [p for p in left if p not in group]
            if len(group) > 1:
                group.sort(key=lambda p: p[3])
                x, y = [p[3] for p in group], [p[1] for p in group]
                axes.plot(x, y, line, color=GREY, linewidth=0.9, zorder=1, label=name)
                name = ""

    join(lambda a, b: (a.d_model, a.n_layer) == (b.d_model, b.n_layer), "-", "equal width")
    join(
        lambda a, b: a.n_layer == b.n_layer and abs(a.nonzero_weights / b.nonzero_weights - 1) < 0.02, "--",
        "equal number of non-zero weights",
    )  # fmt: skip
    for model, edges, band, loss in shown:
        family = families[share(model.density), model.activation_fraction]
        colour = COLOURS[family % len(COLOURS)]
        axes.plot([loss, loss], band, color=colour, linewidth=1, zorder=2)
        axes.plot([loss], [edges], "osD^v"[family % 5], color=colour, markersize=4.5, zorder=3)
        axes.annotate(
            f"width {model.d_model}", (loss, edges), xytext=(5, 0), textcoords="offset points", fontsize=6.5,
            color=colour, va="center",
        )  # fmt: skip
    for (density, activations), family in families.items():
        name = f"{density} weights" + (f", {activations:.0%} of activations" if activations < 1 else "")
        axes.plot([], [], "osD^v"[family % 5], color=COLOURS[family % len(COLOURS)], markersize=4.5, label=name)
    axes.margins(x=0.18, y=0.12)
    _whole_numbers(axes.yaxis)
    axes.legend(
        frameon=False, fontsize=6.5, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0, handletextpad=0.3,
        labelspacing=0.25,
    )  # fmt: skip
