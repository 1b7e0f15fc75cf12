"""What the checks of subsets share: which parts a draw spares, and why a share of the effect cannot be measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gossamer.errors import BadInput
from gossamer.verify.edge_faithfulness import FEWEST, why_undefined
from gossamer.verify.trial import Trial


def strata(draws: int, rng: np.random.Generator) -> np.ndarray:
    """Probabilities uniform between 0 and 1, one in every 1/draws of it, float64 [draws]."""
    return (np.arange(draws) + rng.random(draws)) / draws


def spared(parts: int, draws: int, seed: int, p: Sequence[float] | None = None) -> np.ndarray:
    """Which parts each draw leaves alone where they are not protected, bool [draws, parts].

    A draw ablates each part with one probability: uniform between 0 and 1, or the values of `p` in turn. p = 1 ablates
    all of them and p = 0 none.
    """
    if p is not None and not (len(p) and all(0 <= x <= 1 for x in p)):
        raise BadInput(f"Expected probabilities from 0 to 1, got {tuple(p)}.")
    rng = np.random.default_rng([seed, 1])  # not the stream of random_sets
    rate = strata(draws, rng) if p is None else np.resize(p, draws)
    found: np.ndarray = rng.random((draws, parts)) >= rate[:, None]
    return found


def why_not(trial: Trial, empty: np.ndarray, whole: np.ndarray, *, halves: bool = False) -> str:
    """Why subsets around a circuit cannot be judged, empty if they can; empty, whole: effects [pairs] of the two ends.

    halves: the first and the second half of the pairs have to do on their own.
    """
    if trial.inside.all():
        return "the circuit is the whole model: nothing lies outside it"
    if (n := trial.n_pairs) < FEWEST * (1 + halves):
        return f"{n} pairs are too few, {FEWEST * (1 + halves)} are needed"
    for part in (slice(None, n // 2), slice(n // 2, None)) if halves else (slice(None),):
        if why := why_undefined(empty[part], whole[part], seed=trial.seed):
            return why
    return ""
