"""Does the circuit do what it does on prompts unlike those it was found on?

A circuit pruned on prompts of one kind can be a rule that is right on that kind alone: pruned on pairs of opposite
gender, one answers "the other gender than the second name", and fails on same-gender prompts where the model does not
(Drori 2026, "interpretable yet unfaithful", on circuits of Gao et al. 2025). Every split of the task is tried: the
held-out templates, and each split that is out of distribution in one respect.

When it lies: a split that differs little from the training prompts proves little; a split that the model itself cannot
do is left out; f is a share of the model's own effect on the same split, so that a model which falls off as fast as its
circuit hides it (the note gives both in logits).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gossamer.errors import GossamerError
from gossamer.evidence import Evidence, Null
from gossamer.registry import check
from gossamer.statistics import quantile_interval
from gossamer.task import Example
from gossamer.verify.edge_faithfulness import FEWEST, why_undefined
from gossamer.verify.trial import Trial, ends, random_sets, shares

TRAIN = "train"


class _Split(NamedTuple):
    """f of the circuit and random sets [1 + draws] with bootstrap draws [.., draws]; effects [pairs] of circuit and
    model."""

    name: str
    f: np.ndarray
    spread: np.ndarray
    own: np.ndarray
    whole: np.ndarray

    def describe(self) -> str:
        low, high = quantile_interval(self.spread[0])
        right = f"{(self.own > 0).mean():.0%} the right way, the model {(self.whole > 0).mean():.0%}"
        logits = f"{self.own.mean():.3g} of {self.whole.mean():.3g} logits"
        return f"{self.name}: f {self.f[0]:.3g} [{low:.3g}, {high:.3g}], {right}, {logits}, {len(self.own)} pairs"


@check("generalisation")
def generalisation(trial: Trial, *, fall: float = 0.2, draws: int = 10, pairs: int = 64) -> Evidence:
    """By how much further f is from 1 than on the training pairs, on the split where that is most, of the held-out one
    and those out of distribution; at most `pairs` pairs of each split, in their order.

    Passes if no split's interval (pairs drawn apart on both sides) lies above `fall` as a whole, and on every split f
    is above the 97.5% quantile of random sets of the same size.
    """
    fields = {
        "claim": "generalisation: the circuit does as much on other prompts as on those it was found on",
        "unit": "growth of |f - 1| since training pairs", "seed": trial.seed,
        "methodology": trial.methodology().as_dict(),
        "threshold": f"fails if on any split the whole interval of the growth is above {fall:g} or random sets reach "
        "the circuit's f",
    }  # fmt: skip
    splits = {TRAIN: trial.task.train, "heldout": trial.task.heldout, **trial.task.ood}
    sets = np.concatenate([trial.inside[None], random_sets(trial, draws, trial.seed)])
    found, left_out = dict[str, _Split](), list[str]()
    for done, (name, examples) in enumerate(splits.items()):
        split = _tried(trial, name, examples[:pairs], sets, trial.seed + done)
        if isinstance(split, _Split):
            found[name] = split
        else:
            left_out.append(f"{name}: not measured, {split}")
    base = found.pop(TRAIN, None)
    if base is None or not found:
        why = "; ".join(left_out) or "the task has no other split"
        return Evidence.model_validate(
            {**fields, "value": None, "n": 0, "verdict": "not measured", "note": f"{why}."}
        )  # fmt: skip
    falls = {name: _growth(base.f, s.f) for name, s in found.items()}
    intervals = {name: quantile_interval(_growth(base.spread[0], s.spread[0])) for name, s in found.items()}
    worst = max(falls, key=lambda name: float(falls[name][0]))
    above = {name: s.f[0] > quantile_interval(s.f[1:])[1] for name, s in found.items()}
    good = all(low <= fall for low, _ in intervals.values()) and all(above.values())
    draws_of = {f"{trial.null}, {worst}": falls[worst][1:]}
    draws_of |= {f"f of {trial.null}, {name}": s.f[1:] for name, s in found.items()}
    nulls = [
        Null(name=name, value=float(f.mean()), interval=quantile_interval(f), n=draws) for name, f in draws_of.items()
    ]
    lines = [s.describe() for s in (base, *found.values())]
    lines += [f"{name}: growth {falls[name][0]:.3g} [{a:.3g}, {b:.3g}]" for name, (a, b) in intervals.items()]
    lines += [f"{name}: random sets do as well" for name, well in above.items() if not well]
    return Evidence.model_validate({
        **fields, "value": float(falls[worst][0]), "interval": intervals[worst], "n": len(found[worst].own),
        "nulls": tuple(nulls), "verdict": "pass" if good else "fail",
        "note": f"Most on {worst}. {'; '.join([*lines, *left_out])}.",
    })  # fmt: skip


def _growth(base: np.ndarray, other: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.abs(other - 1) - np.abs(base - 1)
    return found


def _tried(trial: Trial, name: str, examples: Sequence[Example], sets: np.ndarray, seed: int) -> _Split | str:
    """The circuit and random sets on a split, or why they cannot be tried there."""
    if len(examples) < FEWEST:
        return f"it has {len(examples)} pairs, {FEWEST} are needed"
    try:
        there = trial.on(examples)
        empty, whole = ends(there)
        if why := why_undefined(empty, whole, seed=seed):
            return why
        effects = there.effects(sets)
    except GossamerError as error:
        return str(error).rstrip(".")
    f, spread = shares(effects, empty, whole, seed)
    return _Split(name, f, spread, effects[0], whole)
