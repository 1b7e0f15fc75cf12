"""What a check of a circuit of edges sees: its metrics on held-out pairs, beside random, empty and full circuits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.ablation import Direction, Methodology, Set, of_edges
from gossamer.circuit import Circuit
from gossamer.errors import BadInput
from gossamer.graph import Graph
from gossamer.metric import Metric, row_metric
from gossamer.record import Record
from gossamer.replacement import replacement
from gossamer.subject import ResidualSubject
from gossamer.task import Encoded, sides
from gossamer.verify.nulls import DRAWS, SAME_EDGES, SAME_HEADS, random_edge_circuits

Progress = Callable[[int, int, float], None]


class EdgeOutcome(NamedTuple):
    """Per circuit and pair, [circuits, pairs]; of a trial: the circuit, the empty one, the full one, random ones.

    gap: the right answer's logit minus the wrong one's, or, where answers are several tokens, their log probability's;
    kl: KL(whole model || circuit) in nats, whole vocabulary, at the answer's (first) token. Of the prompts that run.
    """

    gap: np.ndarray
    kl: np.ndarray


CIRCUIT, EMPTY, FULL, RANDOM = 0, 1, 2, slice(3, None)


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeTrial:
    """A circuit of edges on held-out pairs. value: of the ablation, see gossamer.replacement, at the positions that the
    pairs have chosen; training: pairs that means and optimal constants are of. Each methodology is run once."""

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
        return of_edges(
            self.value, set=set_, direction=direction, granularity=self.granularity, component=component,
            positions=self.heldout.marks.positions,
        )  # fmt: skip

    @property
    def metric(self) -> Metric:
        """What its gap is."""
        return gap_metric(self.heldout)

    @property
    def null(self) -> str:
        return SAME_HEADS if self.granularity == "node" else SAME_EDGES

    def graph(self) -> Graph:
        return self.model.graph(self.circuit.layout.grain)

    def outcome(self, how: Methodology) -> EdgeOutcome:
        """The circuit and its nulls under a methodology; the empty circuit has no edge, the full one every edge."""
        if how not in self._known:
            self._known[how] = self._run(how)
        return self._known[how]

    def _run(self, how: Methodology) -> EdgeOutcome:
        graph = self.graph()
        circuits = [self.circuit, *ends_of(graph, self.circuit.record)]
        circuits += random_edge_circuits(self.circuit, graph, self.draws, self.seed, self.granularity)
        shares = np.stack([c.shares(graph, how) for c in circuits])
        return EdgeOutcome(*edge_values(
            self.model, self.heldout, shares, how, (self.metric, "kl"), training=self.training, seed=self.seed,
            pairs_at_once=self.pairs_at_once, progress=self.progress,
        ))  # fmt: skip


def gap_metric(pairs: Encoded) -> Metric:
    """The logit difference, or that of the log probabilities of whole answers where some are several tokens."""
    return "logit-difference" if pairs.marks.answers is None else "sequence-log-probability"


def ends_of(graph: Graph, record: Record) -> list[Circuit]:
    """The empty and the full circuit."""
    every = np.arange(graph.n_edges)
    return [Circuit.from_edges(graph, kept, np.zeros(len(kept)), record=record) for kept in (every[:0], every)]


@torch.no_grad()
def edge_values(
    model: ResidualSubject, pairs: Encoded, shares: np.ndarray, how: Methodology, metrics: Sequence[Metric], *,
    training: Encoded | None = None, seed: int = 0, pairs_at_once: int = 16, progress: Progress | None = None,
) -> np.ndarray:  # fmt: skip
    """Metrics of each prompt that runs, under each of several ablations, float64 [metrics, ablations, pairs].

    shares: [ablations, edges], 1 where an edge is ablated; equal ones are run once. `kl` is to the whole model on the
    same prompt. training: pairs that means, spreads and optimal constants are of, which those values need; seed: of
    noise. pairs_at_once: memory, no number changes with it beyond rounding. progress(runs done, all runs, mean of the
    last metric under the first ablation). Edges are ablated at the positions that the pairs have chosen, which have to
    be those of the methodology: BadInput.
    """
    for some in (pairs, training):
        if some is not None and some.marks.positions != how.positions:
            raise BadInput(
                f"Expected pairs whose chosen positions are {how.positions!r}, as the methodology has them, got "
                f"{some.marks.positions!r}; encode them with positions={how.positions!r}."
            )
    if pairs_at_once < 1:
        raise BadInput(f"Expected at least 1 pair at once, got {pairs_at_once}.")
    if training is None and how.value not in ("resample", "zero"):
        raise BadInput(f"Expected training pairs beside ablation by {how.value}, got none.")
    base = replacement(model, pairs if training is None else training, how, seed=seed, pairs_at_once=pairs_at_once)
    first: dict[bytes, int] = {}
    which = np.array([first.setdefault(np.packbits(row > 0).tobytes(), i) for i, row in enumerate(shares)])
    alphas = {i: torch.from_numpy(shares[i].astype(np.float32)) for i in first.values()}
    bases = {i: base.fitted(alpha) for i, alpha in alphas.items()}
    values = np.empty((len(metrics), len(shares), pairs.n_pairs))
    starts = range(0, pairs.n_pairs, pairs_at_once)
    done, runs = 0, len(starts) * len(alphas)
    for start in starts:
        stop = min(start + pairs_at_once, pairs.n_pairs)
        clean, counterfactual = sides(pairs.pairs(start, stop))
        run, other = (clean, counterfactual) if how.direction == "clean" else (counterfactual, clean)
        reference = base(run, other)
        whole = model.patched(run, torch.zeros(shares.shape[1]).to(reference), reference) if "kl" in metrics else None
        scores = [row_metric(metric, run, whole) for metric in metrics]
        for i, alpha in alphas.items():
            to = reference if bases[i] is base else bases[i](run, other)
            logits: Tensor = model.patched(run, alpha.to(to), to)
            if logits.dtype in (torch.bfloat16, torch.float16):
                logits = logits.float()
            for n, score in enumerate(scores):
                values[n, i, start:stop] = score(logits).cpu().double().numpy()
            done += 1
            if progress:
                progress(done, runs, float(values[-1, 0, :stop].mean()))
    return values[:, which]
