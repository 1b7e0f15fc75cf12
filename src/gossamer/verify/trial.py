"""What a check sees: a circuit on held-out pairs, beside matched random, empty and full circuits, run once each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.evidence import Null
from gossamer.statistics import bootstrap_interval, quantile_interval
from gossamer.subject import Subject
from gossamer.task import Encoded
from gossamer.verify.nulls import DRAWS, SAME_EDGES, SAME_NODES, gaps, random_circuits, whole_or_nothing


class Gaps(NamedTuple):
    """Logit gaps [draws, rows]: one draw of the circuit, DRAWS random ones, one empty, one full circuit."""

    circuit: Tensor
    random: Tensor
    empty: Tensor
    full: Tensor


class Measured(NamedTuple):
    """value with its bootstrap interval over pairs; `random` is one mean per draw; nulls ready for Evidence."""

    value: float
    interval: tuple[float, float]
    n: int
    random: np.ndarray
    nulls: tuple[Null, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A circuit and the held-out pairs it is tried on. Checks that ablate alike share the runs."""

    model: Subject
    circuit: Circuit
    heldout: Encoded
    seed: int = 0
    _gaps: dict[str, Gaps] = field(default_factory=dict)

    def gaps(self, preset: str) -> Gaps:
        """The gaps under an ablation preset, calibrated as the circuit is."""
        if preset not in self._gaps:
            graph = self.model.graph(self.circuit.layout.grain)
            sets = (
                [self.circuit], random_circuits(self.circuit, graph, DRAWS, self.seed),
                [whole_or_nothing(self.circuit, False)], [whole_or_nothing(self.circuit, True)],
            )  # fmt: skip
            self._gaps[preset] = Gaps(*(gaps(self.model, self.circuit, self.heldout, preset, s) for s in sets))
        return self._gaps[preset]

    def measure(self, preset: str, score: Callable[[Tensor], Tensor]) -> Measured:
        """`score` ([.., rows] of logit gaps -> [.., pairs]) for the circuit and its three nulls."""
        own, random, empty, full = (score(z).cpu().double().numpy() for z in self.gaps(preset))
        means = random.mean(1)
        nulls = [
            Null(
                name=SAME_EDGES if self.circuit.granularity == "edge" else SAME_NODES, value=float(means.mean()),
                interval=quantile_interval(means), n=DRAWS,
            )
        ]  # fmt: skip
        for name, (x,) in (("empty circuit", empty), ("full circuit", full)):
            nulls.append(Null(name=name, value=float(x.mean()), interval=bootstrap_interval(x, self.seed), n=len(x)))
        (x,) = own
        return Measured(float(x.mean()), bootstrap_interval(x, self.seed), len(x), means, tuple(nulls))
