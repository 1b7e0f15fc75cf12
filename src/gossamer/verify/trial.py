"""One trial shape for several checks: a number for the circuit, and for matched random, empty and full circuits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.evidence import Null
from gossamer.statistics import bootstrap_interval, quantile_interval
from gossamer.subject import Subject
from gossamer.task import Encoded
from gossamer.verify.nulls import DRAWS, constant_masks, gaps, matched_random_masks, members


class Measured(NamedTuple):
    """value with its bootstrap interval over pairs; `random` is one mean per draw; nulls ready for Evidence."""

    value: float
    interval: tuple[float, float]
    n: int
    random: np.ndarray
    nulls: tuple[Null, ...]


def measure(
    model: Subject, circuit: Circuit, heldout: Encoded, preset: str, score: Callable[[Tensor], Tensor], seed: int
) -> Measured:
    """`score` ([.., rows] of logit gaps -> [.., pairs]) under a preset, for the circuit and its three nulls."""

    def per_pair(masks: dict[str, np.ndarray]) -> np.ndarray:
        found: np.ndarray = score(gaps(model, circuit, heldout, preset, masks)).cpu().double().numpy()
        return found

    own = per_pair(members(circuit))[0]
    random = per_pair(matched_random_masks(circuit, DRAWS, seed)).mean(1)
    nulls = [
        Null(
            name="random circuit of the same size at every location", value=float(random.mean()),
            interval=quantile_interval(random), n=DRAWS,
        )
    ]  # fmt: skip
    for name, value in (("empty circuit", False), ("full circuit", True)):
        x = per_pair(constant_masks(circuit, value))[0]
        nulls.append(Null(name=name, value=float(x.mean()), interval=bootstrap_interval(x, seed), n=len(x)))
    return Measured(float(own.mean()), bootstrap_interval(own, seed), len(own), random, tuple(nulls))
