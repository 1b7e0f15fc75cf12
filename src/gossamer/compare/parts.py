"""What reuse and specificity see of a circuit on trial: parts, at any grain, that keep their values or lose them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gossamer.ablation import Direction, Methodology, Set
from gossamer.errors import BadInput
from gossamer.evidence import Verdict
from gossamer.statistics import bootstrap_interval, quantile_interval, resampled_means
from gossamer.subject import ResidualSubject, Subject
from gossamer.task import Example, Task

ROUNDING = 1e-6  # of an effect: differences that float32 does not know
LEAST_DRAWS = 20  # random sets below which their central 95% is not measured, nor anything by it
TOO_FEW = f"Fewer than {LEAST_DRAWS} random sets: what they come to by chance is not measured."


class Parts(Protocol):
    """The part of gossamer.verify.Trial that comparisons need; its documentation is there."""

    @property
    def model(self) -> Subject | ResidualSubject: ...
    @property
    def task(self) -> Task: ...
    @property
    def seed(self) -> int: ...
    @property
    def progress(self) -> Callable[[int, int, float], None] | None: ...
    @property
    def n_pairs(self) -> int: ...
    @property
    def kinds(self) -> np.ndarray: ...
    @property
    def inside(self) -> np.ndarray: ...
    @property
    def sources(self) -> np.ndarray: ...
    def part(self, number: int) -> str: ...
    def node(self, number: int) -> str: ...
    def methodology(
        self, value: str | None = None, set_: Set = "complement", direction: Direction = "clean"
    ) -> Methodology: ...
    def effects(self, kept: np.ndarray, *, value: str | None = None, direction: Direction = "clean") -> np.ndarray: ...
    def attributions(self) -> np.ndarray: ...
    def of_nodes(self) -> Parts: ...
    def on(self, examples: Sequence[Example]) -> Parts: ...


@dataclass(frozen=True)
class Lost:
    """What a set of parts is worth to a task: ablated, everything else running as it does.

    logits: mean effect lost; share: of what the whole model has over the empty circuit, with its bootstrap interval
    over pairs; never clipped, above 1 where the answer turns round. accuracy: share of pairs with the right answer
    ahead, after the ablation; relative: of the whole model's accuracy, how much is lost (a coin loses half).
    """

    logits: float
    share: float
    interval: tuple[float, float]
    accuracy: float
    relative: float


def countable(trial: Parts) -> np.ndarray:
    """bool [parts]: those that a circuit is compared by. The node `input` is not: nothing runs without it."""
    return np.array([trial.part(i) != "input" for i in range(len(trial.kinds))])


def lost(ablated: np.ndarray, empty: np.ndarray, whole: np.ndarray, seed: int) -> tuple[Lost, np.ndarray]:
    """Effects [pairs] under an ablation, of the empty circuit and of the whole model; and bootstrap draws of the
    share."""
    draws = resampled_means(whole - ablated, seed) / resampled_means(whole - empty, seed)
    before, after = float((whole > 0).mean()), float((ablated > 0).mean())
    found = Lost(
        logits=float((whole - ablated).mean()), share=float((whole - ablated).mean() / (whole - empty).mean()),
        interval=quantile_interval(draws), accuracy=after, relative=(before - after) / before if before else 0.0,
    )  # fmt: skip
    return found, draws


def require_effect(trial: Parts, empty: np.ndarray, whole: np.ndarray) -> None:
    """BadInput where the whole model is not surely better than the empty circuit (effects [pairs]), by more than
    float32 rounds: then there is nothing to lose a share of."""
    low, high = bootstrap_interval(whole - empty, trial.seed)
    if low <= ROUNDING * max(np.abs(whole).max(), np.abs(empty).max()):
        raise BadInput(
            f"Expected a model that does {trial.task.name}, its effect is {whole.mean():.3g} logits and that of the "
            f"empty circuit {empty.mean():.3g} (95% of the difference {low:.3g} to {high:.3g}); leave the task out."
        )


def matched(trial: Parts, own: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Random sets, bool [draws, parts], with as many parts of each kind as `own` has (bool [parts]), out of all of the
    kind: sets that avoid `own` would be unlike a random one in its place, which hits what matters as often as they."""
    free, found = countable(trial), np.zeros((draws, len(own)), dtype=bool)
    for kind in np.unique(trial.kinds[own]):
        places = np.flatnonzero(free & (trial.kinds == kind))
        for row in found:
            row[rng.choice(places, int(own[places].sum()), replace=False)] = True
    return found


def beyond_chance(p: float, smallest: float, level: float, others: bool = True) -> tuple[Verdict, str]:
    """(verdict, what to add to its note) of a claim that asks for a p-value of at most `level` and that all else about
    it, `others`, holds: `not measured` where only chance is open and no value could have that p among so few draws."""
    if others and smallest > level:
        return "not measured", f" Among so few draws no p-value is below {smallest:.3g}: chance is not measured."
    return ("pass" if others and p <= level else "fail"), ""


def central_95(draws: np.ndarray) -> tuple[float, float] | None:
    """The central 95% of random sets' numbers [draws]; None where there are too few."""
    return quantile_interval(draws) if len(draws) >= LEAST_DRAWS else None
