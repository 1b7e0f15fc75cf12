"""What a check of a circuit of edges sees: its metrics on held-out pairs, beside random, empty and full circuits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch

from gossamer.ablation import Direction, Methodology, Set, of_edges
from gossamer.circuit import Circuit
from gossamer.graph import Graph
from gossamer.metric import divergence, logit_difference
from gossamer.record import Record
from gossamer.replacement import replacement
from gossamer.subject import ResidualSubject
from gossamer.task import Encoded, sides
from gossamer.verify.nulls import DRAWS, random_edge_circuits

Progress = Callable[[int, int, float], None]


class EdgeOutcome(NamedTuple):
    """Per circuit and pair, [circuits, pairs]; of a trial: the circuit, the empty one, the full one, random ones.

    gap: the right answer's logit minus the wrong one's; kl: KL(whole model || circuit) in nats, whole vocabulary, of
    the prompts that run.
    """

    gap: np.ndarray
    kl: np.ndarray


CIRCUIT, EMPTY, FULL, RANDOM = 0, 1, 2, slice(3, None)


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeTrial:
    """A circuit of edges on held-out pairs. value: of the ablation, see gossamer.replacement; training: pairs that
    means and optimal constants are of. Each methodology is run once."""

    model: ResidualSubject
    circuit: Circuit
    heldout: Encoded
    training: Encoded
    value: str = "resample"
    granularity: str = "edge"
    draws: int = DRAWS
    seed: int = 0
    pairs_at_once: int = 16
    progress: Progress | None = None
    _known: dict[Methodology, EdgeOutcome] = field(default_factory=dict)

    def methodology(self, set_: Set = "complement", direction: Direction = "clean") -> Methodology:
        """Of this trial's value and granularity."""
        component: Literal["head", "block"] = "block" if self.circuit.layout.grain == "block" else "head"
        return of_edges(self.value, set=set_, direction=direction, granularity=self.granularity, component=component)

    def graph(self) -> Graph:
        return self.model.graph(self.circuit.layout.grain)

    def outcome(self, how: Methodology) -> EdgeOutcome:
        """The circuit and its nulls under a methodology; the empty circuit has no edge, the full one every edge."""
        if how not in self._known:
            self._known[how] = self._run(how)
        return self._known[how]

    def _run(self, how: Methodology) -> EdgeOutcome:
        graph = self.graph()
        random = random_edge_circuits(self.circuit, graph, self.draws, self.seed, self.granularity)
        return outcome(
            self.model, self.heldout, self.training, how, [self.circuit, *ends_of(graph, self.circuit.record), *random],
            seed=self.seed, pairs_at_once=self.pairs_at_once, progress=self.progress,
        )  # fmt: skip


def ends_of(graph: Graph, record: Record) -> list[Circuit]:
    """The empty and the full circuit."""
    every = np.arange(graph.n_edges)
    return [Circuit.from_edges(graph, kept, np.zeros(len(kept)), record=record) for kept in (every[:0], every)]


@torch.no_grad()
def outcome(
    model: ResidualSubject, pairs: Encoded, training: Encoded, how: Methodology, circuits: Sequence[Circuit], *,
    seed: int = 0, pairs_at_once: int = 16, progress: Progress | None = None,
) -> EdgeOutcome:  # fmt: skip
    """Each of the circuits on the pairs under a methodology, [circuits, pairs]; see EdgeTrial for the rest."""
    graph = model.graph(circuits[0].layout.grain)
    shares = [torch.from_numpy(c.shares(graph, how)) for c in circuits]
    base = replacement(model, training, how, seed=seed, pairs_at_once=pairs_at_once)
    fitted = [base.fitted(s) for s in shares] if how.value == "optimal" else [base]
    gap, kl = (np.empty((len(shares), pairs.n_pairs)) for _ in range(2))
    for start in range(0, pairs.n_pairs, pairs_at_once):
        stop = min(start + pairs_at_once, pairs.n_pairs)
        clean, counterfactual = sides(pairs.pairs(start, stop))
        run, other = (clean, counterfactual) if how.direction == "clean" else (counterfactual, clean)
        _, whole = model.writes(run)
        reference = base(run, other) if len(fitted) == 1 else None
        for number, share in enumerate(shares):
            to = fitted[number](run, other) if reference is None else reference
            logits = model.patched(run, share.to(to), to)
            gap[number, start:stop] = logit_difference(logits, clean).double().cpu().numpy()
            kl[number, start:stop] = divergence(whole, logits).double().cpu().numpy()
        if progress:
            progress(stop, pairs.n_pairs, float(kl[0, :stop].mean()))
    return EdgeOutcome(gap, kl)
