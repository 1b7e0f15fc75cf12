"""One circuit under every methodology: its score depends on how it is asked (Miller, Chughtai and Saunders 2024).

arXiv 2407.08734: granularity, component, ablation value, token positions, direction and set decide what a circuit's
score is, and so does whether pairs are averaged before or after dividing. A row of the grid is one choice of all of
them, with its interval, its random sets and the quantiles of single prompts, as some are far from the mean.

A score is the share of the model's effect that a run has: 0 where everything is ablated, 1 where nothing is, never
clipped. What is expected of a circuit:

| direction      | set        | asks for               | expected |
| -------------- | ---------- | ---------------------- | -------- |
| clean          | complement | maintained performance | 1        |
| clean          | circuit    | destroyed performance  | 0        |
| counterfactual | circuit    | restored performance   | 1        |
| counterfactual | complement | maintained inefficacy  | 0        |

In the counterfactual run it is parts of the set that carry the clean run's values; that needs resampling. Token
positions are those that the trial's pairs have chosen.

When it lies: a row that suits the circuit can be found in most grids, so read the row that the circuit was found under
first, and the spread of the others as how much the score is of the methodology. Mean-of-ratios is ruled by pairs with
little effect. Only the first row of the table above means that the signal flows through the circuit alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple, Protocol

import numpy as np
import torch

from gossamer.ablation import Direction, Granularity, Methodology, Set
from gossamer.circuit import Circuit
from gossamer.errors import BadInput, nearest
from gossamer.statistics import quantile_interval, resampled_means
from gossamer.verify.channel_trial import ChannelTrial
from gossamer.verify.edge_faithfulness import Aggregate, metric_values, why_undefined
from gossamer.verify.edge_trial import EdgeTrial
from gossamer.verify.nulls import random_circuits, whole_or_nothing
from gossamer.verify.trial import Progress, random_sets

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
AGGREGATES: tuple[Aggregate, ...] = ("ratio-of-means", "mean-of-ratios")
TARGETS: tuple[tuple[Direction, Set, str, float], ...] = (
    ("clean", "complement", "maintained performance", 1.0), ("clean", "circuit", "destroyed performance", 0.0),
    ("counterfactual", "circuit", "restored performance", 1.0),
    ("counterfactual", "complement", "maintained inefficacy", 0.0),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """A methodology (seven fields and the aggregate) and the share of the effect under it.

    expected: what a circuit should score; interval: bootstrap over pairs; quantiles: of single pairs at QUANTILES, of
    the `defined` ones of n, whose effect the ablation changes; random: mean, lowest and highest score of `draws` random
    sets. score, interval, quantiles and random are None where `why` says why there is no score.
    """

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
    why: str = ""


class Cell(NamedTuple):
    """One methodology of the grid, without the aggregate."""

    granularity: Granularity
    value: str
    direction: Direction
    set: Set
    asks: str
    expected: float

    @property
    def key(self) -> str:
        return " ".join(self[:4])


class _Asked(Protocol):
    """What runs the cells of one grain."""

    def cells(self, values: Sequence[str]) -> Iterator[Cell]: ...
    def methodology(self, cell: Cell) -> Methodology: ...
    def run(self, cell: Cell, how: Methodology) -> np.ndarray: ...


def grid(
    trial: ChannelTrial | EdgeTrial, *, values: Sequence[str] = (), draws: int = 3,
    known: Mapping[str, tuple[GridRow, ...]] | None = None,
) -> Iterator[tuple[str, tuple[GridRow, ...]]]:  # fmt: skip
    """The rows of one circuit, methodology by methodology: (its key, a row per aggregate).

    values: of ablations, default all that the trial has; draws: random sets of the same size beside each score. known:
    rows by key that are taken as they are and not run again.
    """
    if draws < 1:
        raise BadInput(f"Expected at least 1 random set beside each score, got {draws}.")
    for value in values:
        if value not in trial.values:
            raise BadInput(f"Unknown ablation value {value!r} here: {nearest(value, trial.values)}")
    asked: _Asked = _Channels(trial, draws) if isinstance(trial, ChannelTrial) else _Edges(trial, draws)
    return _rows(asked, list(asked.cells(values or trial.values)), trial.seed, trial.progress, known or {})


def _rows(
    asked: _Asked, cells: Sequence[Cell], seed: int, progress: Progress | None, known: Mapping[str, tuple[GridRow, ...]]
) -> Iterator[tuple[str, tuple[GridRow, ...]]]:
    for i, cell in enumerate(cells):
        rows = known.get(cell.key)
        if rows is None:
            how = asked.methodology(cell)
            try:
                effects = asked.run(cell, how)
                rows = tuple(row_of(effects, how, cell, aggregate, seed) for aggregate in AGGREGATES)
            except BadInput as error:  # means of positions that training prompts have not
                rows = tuple(_none(how, cell, aggregate, str(error)) for aggregate in AGGREGATES)
        if progress:
            progress(i + 1, len(cells), float("nan") if rows[0].score is None else rows[0].score)
        yield cell.key, rows


@dataclass(frozen=True, eq=False)
class _Edges:
    """Head and block grain: edges, what nodes write, and branches."""

    trial: EdgeTrial
    draws: int

    def cells(self, values: Sequence[str]) -> Iterator[Cell]:
        granularities: tuple[Granularity, ...] = ("edge", "node", "branch")
        for granularity, value in product(granularities, values):
            if (granularity, value) != ("branch", "optimal"):
                yield from (
                    Cell(granularity, value, direction, set_, asks, expected)
                    for direction, set_, asks, expected in TARGETS
                    if direction == "clean" or value == "resample"
                )

    def methodology(self, cell: Cell) -> Methodology:
        trial = replace(self.trial, granularity=cell.granularity)
        return trial.methodology(cell.value, cell.set, cell.direction)

    def run(self, cell: Cell, how: Methodology) -> np.ndarray:
        """Effects [3 + draws, pairs] of: the circuit, the empty and the whole one, random sets."""
        trial = self.trial
        if cell.granularity == "branch":
            return self._of_branches(cell, how)
        if cell.granularity != trial.granularity:
            trial = replace(trial, granularity=cell.granularity, _known={}, _effects={}, _references={})
        return _by_sets(replace(trial, progress=None), cell, self.draws)

    def _of_branches(self, cell: Cell, how: Methodology) -> np.ndarray:
        """The same: to ablate the branches of a circuit is not to keep those of its other edges."""
        trial = replace(self.trial, granularity="branch")
        sets = np.concatenate([trial.inside[None], random_sets(trial, self.draws, trial.seed)])
        ablated = (cell.set == "complement") != (cell.direction == "clean")  # the circuit's branches are the other's
        ends = np.repeat([[ablated], [not ablated]], sets.shape[1], axis=1)
        return metric_values(
            trial.model, trial.heldout, np.concatenate([sets[:1], ends, sets[1:]]), metric=trial.metric, how=how,
            training=trial.training, seed=trial.seed, pairs_at_once=trial.pairs_at_once,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Channels:
    """Channel grain: nodes under every value; edges under constants, where the model can cut them."""

    trial: ChannelTrial
    draws: int

    def cells(self, values: Sequence[str]) -> Iterator[Cell]:
        for value in values:
            yield from (
                Cell("node", value, direction, set_, asks, expected)
                for direction, set_, asks, expected in TARGETS if direction == "clean" or value == "resample"
            )  # fmt: skip
        for value in ("mean", "zero"):
            if value in values:
                yield from (
                    Cell("edge", value, direction, set_, asks, expected)
                    for direction, set_, asks, expected in TARGETS if direction == "clean"
                )  # fmt: skip

    def methodology(self, cell: Cell) -> Methodology:
        how = self.trial.methodology(cell.value, cell.set, cell.direction)
        return replace(how, granularity=cell.granularity)

    def run(self, cell: Cell, how: Methodology) -> np.ndarray:
        """As of edges; at granularity edge the random circuits have as many edges of every matrix."""
        trial = replace(self.trial, progress=None)
        if cell.granularity == "node":
            return _by_sets(trial, cell, self.draws)
        circuit = replace(trial.circuit, granularity="edge", calibration=None)
        graph = trial.model.graph(circuit.layout.grain)
        runs = [circuit, *random_circuits(circuit, graph, self.draws, trial.seed)]
        ends = [whole_or_nothing(circuit, every) for every in (False, True)]
        own, *random = (self._effect(c, how) for c in runs)
        empty, whole = (self._effect(c, replace(how, granularity="node", set="complement")) for c in ends)
        return np.stack([own, empty, whole, *random])

    @torch.no_grad()
    def _effect(self, circuit: Circuit, how: Methodology) -> np.ndarray:
        gap = self.trial.model.run(self.trial.heldout, ablation=circuit.as_ablation(how)).gap
        return gap.unflatten(-1, (-1, 2)).mean(-1).cpu().double().numpy()


def _by_sets(trial: ChannelTrial | EdgeTrial, cell: Cell, draws: int) -> np.ndarray:
    """Effects [3 + draws, pairs] of the circuit, the empty and the whole one, and random sets."""
    sets = np.concatenate([trial.inside[None], random_sets(trial, draws, trial.seed)])
    carries = sets if (cell.set == "complement") == (cell.direction == "clean") else ~sets
    ends = np.repeat([[False], [True]], len(trial.kinds), axis=1)
    return trial.effects(
        np.concatenate([carries[:1], ends, carries[1:]]), value=cell.value, direction=cell.direction
    )  # fmt: skip


def _none(how: Methodology, cell: Cell, aggregate: Aggregate, why: str, n: int = 0, defined: int = 0) -> GridRow:
    """A row without a score."""
    return GridRow(
        **how.as_dict(), aggregate=aggregate, asks=cell.asks, expected=cell.expected, score=None, interval=None,
        quantiles=None, n=n, defined=defined, random=None, draws=0, why=why,
    )  # fmt: skip


def row_of(effects: np.ndarray, how: Methodology, cell: Cell, aggregate: Aggregate, seed: int = 0) -> GridRow:
    """A row from effects [3 + draws, pairs] of the circuit, the empty and the whole one, and random sets."""
    empty, whole = effects[1:3]
    below, above = whole - empty, effects[[0, *range(3, len(effects))]] - empty
    defined, n = below != 0, len(whole)
    few = f"{n} pairs are too few for an interval" if n < 2 else ""
    if why := few or why_undefined(empty, whole, aggregate=aggregate, seed=seed):
        return _none(how, cell, aggregate, why, n, int(defined.sum()))
    if aggregate == "mean-of-ratios":
        scores, spread = (above / below).mean(1), resampled_means(above[0] / below, seed)
    else:
        scores = above.mean(1) / below.mean()
        spread = resampled_means(above[0], seed) / resampled_means(below, seed)
    single = np.quantile(above[0][defined] / below[defined], QUANTILES)
    return GridRow(
        **how.as_dict(), aggregate=aggregate, asks=cell.asks, expected=cell.expected, score=float(scores[0]),
        interval=quantile_interval(spread), quantiles=tuple(single.tolist()), n=n, defined=int(defined.sum()),
        random=(float(scores[1:].mean()), float(scores[1:].min()), float(scores[1:].max())), draws=len(scores) - 1,
    )  # fmt: skip
