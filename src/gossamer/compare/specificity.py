"""Whose circuit hurts whom? Every task's circuit ablated on every task (Li and Subramani 2026, arXiv 2605.08348).

M[a, b] is the share of the model's effect on task b that is lost when the circuit of task a is ablated and everything
else runs: (whole - ablated) / (whole - empty), a ratio of means over b's held-out pairs, never clipped. The raw logits
and the paper's own number, the relative drop of accuracy, stand beside it (the accuracy here is of the order of a
pair's two answers, of which a coin has half, so a relative drop of a half is all there is). A specific circuit costs
its own task and no other: a diagonal matrix. A flat one says that the tasks share what was ablated, or that anything
of that size hurts, so every entry has beside it random sets with as many parts of each kind. They are drawn from all
parts: sets that avoid their own circuit (the paper's default) hit the others' instead, and would look specific to
them.

- contrast: mean of the diagonal minus mean of the rest. As every task and every circuit is as often on the diagonal
  as any other, neither a fragile task nor a large circuit moves it; 1 where circuits are wholly specific, 0 where it
  does not matter whose circuit is ablated. Its p-value: circuits dealt out to tasks at random.
- selectivity of a circuit: loss on its own task over the mean loss on the others, a ratio that a wholly specific
  circuit does not have; so the difference of the two is what is claimed, beyond the central 95% of that of random sets
  in the circuit's place (those too are ahead on one task or another).
- core and residuals of two tasks: A & B, A without B, B without A, each ablated on both tasks, each beside random sets.

When it lies: a circuit found by keeping it (sufficiency) need not be what the model cannot do without (a backup takes
over), so a low diagonal is not proof of no specificity. Ablated values are off what the rest expects, and tasks can all
be hurt by that; the random sets are the measure of it. Tasks whose prompts differ in kind are told apart by parts that
only know the kind. With few tasks the p-value cannot be small: 1/2 for two, 1/24 for four. Of fewer than 20 random sets
the central 95% is not measured, and nothing is claimed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gossamer.compare.parts import (
    LEAST_DRAWS,
    TOO_FEW,
    Lost,
    Parts,
    central_95,
    countable,
    lost,
    matched,
    require_effect,
)
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import Evidence, Null, Verdict
from gossamer.statistics import quantile_interval

DRAWS = LEAST_DRAWS
LEVEL = 0.05
PERMUTATIONS, ALL_UP_TO = 9999, 7  # tasks of which every deal is tried
Interval = tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """A set of parts ablated on a task: own is None, as are the others, where the set is empty.

    random: mean share lost over random sets, with the central 95% of their means (None of fewer than 20) and the logits
    they cost.
    """

    ablated: str
    on: str
    size: int
    own: Lost | None
    random: float | None
    random_interval: Interval | None
    random_logits: float | None


@dataclass(frozen=True)
class Selectivity:
    """Of a circuit: ahead, its own task's loss minus the mean of the others'; random_ahead: of random sets in its
    place, mean and central 95%; ratio: the one over the other, None where the loss of the others is not surely above
    0."""

    ahead: float
    ahead_interval: Interval
    random_ahead: float
    random_interval: Interval | None
    ratio: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Specificity:
    """cells: circuits by tasks, row by row. selectivity: per circuit, None where it is empty.
    contrast, random_contrast: see the head of the file; random_interval: the central 95% over draws, None of fewer than
    20. parts: cells of
    cores and residuals. accuracy, effect: of the whole model per task, effect in logits."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    n_parts: int
    pairs: tuple[int, ...]
    effect: tuple[float, ...]
    accuracy: tuple[float, ...]
    cells: tuple[Cell, ...]
    selectivity: tuple[Selectivity | None, ...]
    diagonal: float | None
    rest: float | None
    contrast: float | None
    interval: Interval | None
    random_contrast: float | None
    random_interval: Interval | None
    p_value: float | None
    smallest: float | None
    parts: tuple[Cell, ...]
    draws: int
    methodology: dict[str, str]
    seed: int


def specificity(
    trials: Mapping[str, Parts], *, sets: Mapping[str, np.ndarray] | None = None, draws: int = DRAWS,
    value: str | None = None, decompose: bool = True,
) -> Specificity:  # fmt: skip
    """trials: of circuits of two or more tasks in one model, by name. sets: parts to ablate in their place, bool
    [parts] by the same names, such as the cores of gossamer.compare.reuse. draws: random sets beside each circuit;
    value: of the ablation, default the first trial's own; decompose: cores and residuals of every two as well.

    Errors: BadInput for fewer than two trials or a task that the model does not do; Unsupported for trials of different
    models.
    """
    names = tuple(trials)
    require_one_model(trials)
    if draws < 1:
        raise BadInput(f"Expected one or more random sets, got {draws}.")
    first = trials[names[0]]
    how = first.methodology(value, "circuit")
    free, seed = countable(first), first.seed
    sets = {name: (trial.inside if sets is None else sets[name]) & free for name, trial in trials.items()}
    wanted, asked_of = dict(sets), dict.fromkeys(names, names)
    for a, b in itertools.combinations(names, 2) if decompose else ():
        more = {
            f"{a} and {b}": sets[a] & sets[b], f"{a} without {b}": sets[a] & ~sets[b],
            f"{b} without {a}": sets[b] & ~sets[a],
        }  # fmt: skip
        wanted, asked_of = wanted | more, asked_of | dict.fromkeys(more, (a, b))
    rng = np.random.default_rng(seed)
    random = {name: matched(first, s, draws, rng) for name, s in wanted.items()}

    cells: dict[tuple[str, str], Cell] = {}
    spread: dict[tuple[str, str], np.ndarray] = {}
    drawn: dict[tuple[str, str], np.ndarray] = {}
    effect, accuracy = [], []
    for place, (on, trial) in enumerate(trials.items()):
        here = [name for name, s in wanted.items() if on in asked_of[name] and s.any()]
        rows = [np.zeros((1, len(free)), dtype=bool), np.ones((1, len(free)), dtype=bool)]
        rows += [np.concatenate([~wanted[name][None], ~random[name]]) for name in here]
        empty, whole, *rest = trial.effects(np.concatenate(rows), value=how.value)
        require_effect(trial, empty, whole)
        effect.append(float(whole.mean()))
        accuracy.append(float((whole > 0).mean()))
        below = (whole - empty).mean()
        for i, name in enumerate(here):
            own, *others = rest[i * (draws + 1) : (i + 1) * (draws + 1)]
            found, bootstrap = lost(own, empty, whole, seed + place)
            of_random = (whole - np.stack(others)).mean(1)
            shares = of_random / below
            cells[name, on] = Cell(
                name, on, int(wanted[name].sum()), found, float(shares.mean()), central_95(shares),
                float(of_random.mean()),
            )  # fmt: skip
            spread[name, on], drawn[name, on] = bootstrap, shares
        if trial.progress:
            trial.progress(place + 1, len(names), float(below))
    for name, s in wanted.items():
        for on in asked_of[name]:
            cells.setdefault((name, on), Cell(name, on, int(s.sum()), None, None, None, None))

    full = [name for name in names if sets[name].any()]
    summary = _summary(full, spread, drawn, {k: c.own.share for k, c in cells.items() if c.own}, seed)
    return Specificity(
        names=names, sizes=tuple(int(s.sum()) for s in sets.values()), n_parts=int(free.sum()),
        pairs=tuple(t.n_pairs for t in trials.values()), effect=tuple(effect), accuracy=tuple(accuracy),
        cells=tuple(cells[a, b] for a in names for b in names),
        selectivity=tuple(_selectivity(a, names, cells, spread, drawn) for a in names), **summary,
        parts=tuple(cells[name, on] for name in wanted if name not in sets for on in asked_of[name]),
        draws=draws, methodology=how.as_dict(), seed=seed,
    )  # fmt: skip


def require_one_model(trials: Mapping[str, Parts]) -> None:
    """Two or more trials of one model and one kind of parts."""
    if len(trials) < 2:
        raise BadInput(f"Expected circuits of two or more tasks, got {len(trials)}.")
    (name, first), *others = trials.items()
    for other, trial in others:
        if trial.model.hashes()[0] != first.model.hashes()[0] or len(trial.kinds) != len(first.kinds):
            raise Unsupported(
                f"ablating the circuit of {name} ({first.model.name}) on {other} ({trial.model.name})",
                "its parts are those of another model", "runs on one model; a matrix for each model, side by side",
            )  # fmt: skip


def _selectivity(
    a: str, names: tuple[str, ...], cells: Mapping[tuple[str, str], Cell],
    spread: Mapping[tuple[str, str], np.ndarray], drawn: Mapping[tuple[str, str], np.ndarray],
) -> Selectivity | None:  # fmt: skip
    own, others = cells[a, a].own, [b for b in names if b != a]
    if own is None:
        return None
    mean = float(np.mean([c.own.share for b in others if (c := cells[a, b]).own]))
    of_random = drawn[a, a] - np.mean([drawn[a, b] for b in others], axis=0)
    below = np.mean([spread[a, b] for b in others], axis=0)
    ratio = interval = None
    if mean > 0 and (below > 0).all():
        ratio, interval = own.share / mean, quantile_interval(spread[a, a] / below)
    return Selectivity(
        ahead=own.share - mean, ahead_interval=quantile_interval(spread[a, a] - below),
        random_ahead=float(of_random.mean()), random_interval=central_95(of_random), ratio=ratio, interval=interval,
    )  # fmt: skip


def _summary(
    names: list[str], spread: Mapping[tuple[str, str], np.ndarray], drawn: Mapping[tuple[str, str], np.ndarray],
    shares: Mapping[tuple[str, str], float], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The contrast and what stands beside it, over the circuits that are not empty."""
    keys = ("diagonal", "rest", "contrast", "interval", "random_contrast", "random_interval", "p_value", "smallest")
    if len(names) < 2:
        return dict.fromkeys(keys)

    def contrast(table: Mapping[tuple[str, str], np.ndarray]) -> np.ndarray:
        own = np.mean([table[a, a] for a in names], axis=0)
        return np.asarray(own - np.mean([table[a, b] for a in names for b in names if a != b], axis=0))

    matrix = np.array([[shares[a, b] for b in names] for a in names])
    off = ~np.eye(len(names), dtype=bool)
    n, places = len(names), np.arange(len(names))
    if n <= ALL_UP_TO:
        deals = np.array(list(itertools.permutations(range(n))))
    else:
        rng = np.random.default_rng(seed)
        deals = np.stack([places, *(rng.permutation(n) for _ in range(PERMUTATIONS))])
    sums = matrix[places, deals].sum(1)
    slack = 1e-12 * np.abs(matrix).sum()
    random = contrast(drawn)
    return dict(zip(keys, (
        float(matrix.diagonal().mean()), float(matrix[off].mean()),
        float(matrix.diagonal().mean() - matrix[off].mean()), quantile_interval(contrast(spread)),
        float(random.mean()), central_95(random), float((sums >= sums[0] - slack).mean()),
        1 / len(deals) if n > ALL_UP_TO else 1 / math.factorial(n),
    ), strict=True))  # fmt: skip


def specificity_evidence(found: Specificity) -> tuple[Evidence, ...]:
    """A claim for the contrast, one for every circuit, one for every core and residual."""
    evidence, sizes = [], dict(zip(found.names, found.sizes, strict=True))
    n_pairs = dict(zip(found.names, found.pairs, strict=True))
    fields = {"methodology": found.methodology, "seed": found.seed}
    few = f" {TOO_FEW}" if found.draws < LEAST_DRAWS else ""

    def beyond(low: float, random: Interval | None, least: float = 0.0) -> Verdict:
        return "not measured" if random is None else "pass" if low > max(least, random[1]) else "fail"

    if found.contrast is None or found.interval is None:
        empty = ", ".join(n for n in found.names if not sizes[n])
        evidence.append(Evidence.model_validate({
            **fields, "claim": "specificity: a circuit costs its own task more than others", "value": None,
            "unit": "share of the effect lost, own minus others", "n": len(found.names), "unit_of_n": "tasks",
            "verdict": "not measured", "threshold": "", "note": f"Empty circuits: {empty}.",
        }))  # fmt: skip
    else:
        can = f" {len(found.names)} tasks cannot give a p-value below {found.smallest:.2g}."
        evidence.append(Evidence.model_validate({
            **fields, "claim": "specificity: a circuit costs its own task more than others", "value": found.contrast,
            "unit": "share of the effect lost, own minus others", "interval": found.interval, "n": len(found.names),
            "unit_of_n": "tasks", "verdict": beyond(found.interval[0], found.random_interval),
            "nulls": (Null(name="random sets, as many parts of every type", value=found.random_contrast,
                           interval=found.random_interval, n=found.draws),),
            "threshold": "fails if the interval reaches 0 or the central 95% of random sets",
            "p_value": found.p_value, "p_smallest": found.smallest,
            "note": f"Own task {found.diagonal:.3g}, others {found.rest:.3g}."
            f"{can if (found.smallest or 0) > LEVEL else ''}{few}",
        }))  # fmt: skip
    for name, selective in zip(found.names, found.selectivity, strict=True):
        row = [c for c in found.cells if c.ablated == name]
        told = "; ".join(
            f"{c.on} {c.own.share:.3g} (random {c.random:.3g}, accuracy {c.own.accuracy:.3g})" for c in row if c.own
        )
        note = "Empty: nothing was ablated." if not sizes[name] else told + "."
        if selective is None:
            about: dict[str, Any] = {"value": None, "verdict": "not measured"}
        else:
            ratio = "not told from infinite"
            if selective.ratio is not None and selective.interval is not None:
                low, high = selective.interval
                ratio = f"{selective.ratio:.3g} [{low:.3g}, {high:.3g}]"
            note = f"Selectivity, own over others: {ratio}. Lost: {note}{few}"
            about = {
                "value": selective.ahead, "interval": selective.ahead_interval,
                "verdict": beyond(selective.ahead_interval[0], selective.random_interval),
                "nulls": (Null(name="random sets in its place", value=selective.random_ahead,
                               interval=selective.random_interval, n=found.draws),),
            }  # fmt: skip
        evidence.append(Evidence.model_validate({
            **fields, **about, "claim": f"selectivity ({name}): its circuit costs it more than the other tasks",
            "unit": "share of the effect lost, own minus mean of others", "n": n_pairs[name], "note": note,
            "threshold": "fails if the interval reaches 0 or the central 95% of random sets",
        }))  # fmt: skip
    for cell in found.parts:
        if cell.own is None:
            continue
        evidence.append(Evidence.model_validate({
            **fields, "claim": f"part ({cell.ablated}, on {cell.on}): ablating it costs more than as many other parts",
            "value": cell.own.share, "interval": cell.own.interval, "unit": "share of the effect lost",
            "n": n_pairs[cell.on], "verdict": beyond(cell.own.interval[0], cell.random_interval, -np.inf),
            "nulls": (Null(name="random sets, as many parts of every type", value=cell.random,
                           interval=cell.random_interval, n=found.draws),),
            "threshold": "fails if the interval reaches the central 95% of random sets",
            "note": f"{cell.size} parts, {cell.own.logits:.3g} logits.{few}",
        }))  # fmt: skip
    return tuple(evidence)
