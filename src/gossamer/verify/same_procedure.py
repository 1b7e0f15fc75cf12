"""What the circuit's own discovery finds where there is nothing to find, beside what it found: two checks share this.

The gain of a circuit is how much of the answer it brings back, (m(C) - m(empty)) / (m(M) - m(empty)), with the real
model's m(M) - m(empty) on the real task below the line in every case: a whole model that does not do a task has no
effect of its own to take a share of. Of the circuit on trial the gain is its f.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gossamer.errors import GossamerError
from gossamer.evidence import Evidence, Null
from gossamer.statistics import quantile_interval, resampled_means
from gossamer.task import Task
from gossamer.verify.edge_faithfulness import FEWEST, why_undefined
from gossamer.verify.nulls import DRAWS
from gossamer.verify.rediscovery import Discovery, Found, discovery_of
from gossamer.verify.trial import Trial, ends, random_sets, shares

UNIT = "share of the whole model's effect"
Elsewhere = Callable[[int], tuple[Any, Task]]
"""draw -> (model, task) to discover on"""


def why_no_share(trial: Trial) -> str:
    """Why no share of the effect can be taken; empty if it can."""
    if trial.n_pairs < FEWEST:
        return f"{trial.n_pairs} pairs are too few for an interval, {FEWEST} are needed"
    return why_undefined(*ends(trial), seed=trial.seed)


def not_measured(
    trial: Trial, claim: str, threshold: str, why: str, unit: str = UNIT, methodology: dict[str, str] | None = None
) -> Evidence:
    """A check that could not be made, and why."""
    return Evidence(
        claim=claim, value=None, unit=unit, n=trial.n_pairs, verdict="not measured", threshold=threshold,
        methodology=methodology, seed=trial.seed, note=f"{why.rstrip('.')}.",
    )  # fmt: skip


def nothing_there(
    trial: Trial, *, claim: str, where: str, elsewhere: Elsewhere, draws: int, share: float, times: float,
    steps: int | None,
) -> Evidence:  # fmt: skip
    """The gain of the circuit beside that of what its own discovery finds elsewhere.

    Fails if a discovery elsewhere reaches its target with at most `times` the circuit's parts and at least `share` of
    its gain. The null's interval is over draws, of a single one over pairs.
    """
    threshold = (
        f"fails if the same discovery, on a {where}, reaches its target with at most {times:g} times as many parts and "
        f"at least {share:g} of the gain"
    )
    if why := why_no_share(trial):
        return not_measured(trial, claim, threshold, why, methodology=trial.methodology().as_dict())
    try:
        discovery = discovery_of(trial, steps=steps, gentler=True)
        found = [_found(trial, discovery, *elsewhere(draw)) for draw in range(draws)]
    except GossamerError as error:
        return not_measured(trial, claim, threshold, str(error), methodology=trial.methodology().as_dict())
    empty, whole = ends(trial)
    (own,) = trial.effects(trial.inside[None])
    f, spread = shares(own, empty, whole, trial.seed)
    below = whole - empty
    random, _ = shares(trial.effects(random_sets(trial, DRAWS, trial.seed)), empty, whole, trial.seed)
    said = trial.circuit.record.details.get(
        "reached", True
    )  # a circuit that misses its target is not beaten by missing it
    size, bad, reached, notes = int(trial.inside.sum()), False, list[np.ndarray](), list[str]()
    for draw, (there, circuit_there) in enumerate(found):
        effects = there.effects(np.stack([there.inside, np.zeros_like(there.inside), np.ones_like(there.inside)]))
        above, of_whole = effects[0] - effects[1], effects[2] - effects[1]
        gain, parts = float(above.mean() / below.mean()), int(there.inside.sum())
        notes.append(_told(draw, circuit_there, parts, gain, float(of_whole.mean() / below.mean())))
        if circuit_there.reached or not said:
            reached.append(above)
            bad = bad or bool(gain >= share * f and parts <= times * size)
    null = Null(name=f"the same discovery on a {where}", value=None, n=draws, outcome="not reached")
    if reached:
        gains = np.array([above.mean() for above in reached]) / below.mean()
        over = gains
        if len(gains) == 1:
            over = resampled_means(reached[0], trial.seed) / resampled_means(below, trial.seed)
        null = Null(name=null.name, value=float(gains.mean()), interval=quantile_interval(over), n=len(gains))
    return Evidence(
        claim=claim, value=float(f), unit=UNIT, interval=quantile_interval(spread), n=trial.n_pairs,
        nulls=(null, Null(name=trial.null, value=float(random.mean()), interval=quantile_interval(random), n=DRAWS)),
        verdict="fail" if bad else "pass", methodology=trial.methodology().as_dict(), threshold=threshold,
        seed=trial.seed, note=" ".join([f"The circuit has {size} parts.", *notes, discovery.notes]).strip(),
    )  # fmt: skip


def _found(trial: Trial, discovery: Discovery, model: Any, task: Task) -> tuple[Trial, Found]:
    found = discovery.run(model, task, progress=trial.progress)
    return trial.elsewhere(model, task, found.circuit), found


def _told(draw: int, found: Found, parts: int, gain: float, whole: float) -> str:
    loss = "" if found.loss is None else f", held-out task loss {found.loss:.3g} nats"
    outcome = "found" if found.reached else "not reached; the nearest has"
    return f"Draw {draw}: {outcome} {parts} parts, gain {gain:.3g}{loss} (the whole model there: {whole:.3g})."
