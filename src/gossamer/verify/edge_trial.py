"""What a check of a circuit of edges sees: its metrics on held-out pairs, beside random, empty and full circuits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from torch import Tensor

from gossamer.ablation import Direction, Methodology, Set, Value, of_edges
from gossamer.circuit import Circuit, shares_of
from gossamer.errors import BadInput, Unsupported
from gossamer.graph import Graph, kind_of
from gossamer.metric import Metric, row_metric
from gossamer.record import Record
from gossamer.replacement import Replacement, everywhere, replacement
from gossamer.subject import Objective, ResidualSubject, Subject, Watched
from gossamer.task import Encoded, Example, Task, sides
from gossamer.verify.nulls import DRAWS, SAME_EDGES, SAME_HEADS, random_edge_circuits
from gossamer.verify.trial import Progress, Watch, mirrored_pairs, rows_of


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
    pairs have chosen; training: pairs that means and optimal constants are of. Each methodology is run once. Its parts
    are edges (at granularity branch, a set of them stands for all paths that it makes) or, at granularity node, what
    the nodes that write write, for all their readers."""

    model: ResidualSubject
    circuit: Circuit
    task: Task
    heldout: Encoded
    training: Encoded
    value: str = "resample"
    granularity: str = "edge"
    draws: int = DRAWS
    seed: int = 0
    pairs_at_once: int = 16
    progress: Progress | None = None
    cache: Path | None = None
    _known: dict[Methodology, EdgeOutcome] = field(default_factory=dict)
    _effects: dict[tuple[Methodology, bytes], np.ndarray] = field(default_factory=dict)
    _references: dict[tuple[Methodology, int, int], Tensor] = field(default_factory=dict)
    _bases: dict[tuple[Methodology, bytes], Replacement] = field(default_factory=dict)

    def methodology(
        self, value: str | None = None, set_: Set = "complement", direction: Direction = "clean"
    ) -> Methodology:
        """Of this trial's granularity and, without another, its value."""
        component: Literal["head", "block"] = "block" if self.circuit.layout.grain == "block" else "head"
        return of_edges(
            value or self.value, set=set_, direction=direction, granularity=self.granularity, component=component,
            positions=self.heldout.marks.positions,
        )  # fmt: skip

    @property
    def _several(self) -> bool:
        return self.heldout.marks.answers is not None

    @property
    def metric(self) -> Metric:
        """What its gap is."""
        return gap_metric(self.heldout)

    def _total(self, batch: Encoded) -> Objective:
        """The sum of the gaps of a batch."""
        score = row_metric(self.metric, batch)
        return lambda logits: score(logits).sum()

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

    @property
    def n_pairs(self) -> int:
        return self.heldout.n_pairs

    @property
    def values(self) -> tuple[str, ...]:
        """The trial's own value first, then the others."""
        without = (self.value, "optimal") if self.granularity == "branch" else (self.value,)
        return (self.value, *(v for v in get_args(Value) if v not in without))

    @cached_property
    def _sources(self) -> np.ndarray:
        """Node numbers of what writes: the parts at granularity node."""
        return np.unique(self.graph().src)

    @cached_property
    def kinds(self) -> np.ndarray:
        """What reads an edge (query, key, value, MLP or logits); of nodes, whether it is input, head or MLP."""
        if self.granularity != "node":
            return self.graph().matrix.astype(np.int64)
        names = [self.circuit.layout.locations[n][0] for n in self._sources]
        return np.unique([kind_of(name) for name in names], return_inverse=True)[1]

    @cached_property
    def inside(self) -> np.ndarray:
        if self.granularity == "node":
            return np.isin(self._sources, self.circuit.nodes)
        found = np.zeros(self.graph().n_edges, dtype=bool)
        found[self.graph().numbers(self.circuit.src, self.circuit.dst, self.circuit.matrix)] = True
        return found

    def part(self, number: int) -> str:
        layout, graph = self.circuit.layout, self.graph()
        if self.granularity == "node":
            return layout.locations[self._sources[number]][0]
        src, dst = layout.locations[graph.src[number]][0], layout.locations[graph.dst[number]][0]
        what = graph.matrices[graph.matrix[number]]
        return f"{src}->{dst}<{what}>" if what in "qkv" else f"{src}->{dst}"

    def _of_edges(self, per_part: np.ndarray) -> np.ndarray:
        """[.., parts] as [.., edges]."""
        if self.granularity != "node":
            return per_part
        return per_part[..., self._column]

    @cached_property
    def sources(self) -> np.ndarray:
        """Nodes are what writes."""
        return np.arange(len(self._sources)) if self.granularity == "node" else self._column

    @cached_property
    def _column(self) -> np.ndarray:
        """The number, among nodes that write, of every edge's source."""
        return np.searchsorted(self._sources, self.graph().src)

    def node(self, number: int) -> str:
        return self.circuit.layout.locations[self._sources[number]][0]

    def _watched(self, kept: np.ndarray, start: int, stop: int, value: str | None) -> tuple[Tensor, Tensor, Tensor]:
        """(writes, attention patterns, last) of both prompts of pairs with these parts kept."""
        if not isinstance(self.model, Watched):
            raise Unsupported(f"watching ablated runs of {self.model.name}", "it does not show them", "a decoder")
        if self.heldout.marks.answers is not None:
            raise Unsupported("watching runs of answers of several tokens", "it is built for prompts", "one token")
        batch, how = self.heldout.pairs(start, stop), self.methodology(value)
        share = torch.from_numpy(self._of_edges(~kept).astype(np.float32))
        key = (how, np.packbits(kept).tobytes() if how.value == "optimal" else b"")
        if key not in self._bases:
            base = replacement(self.model, self.training, how, seed=self.seed, pairs_at_once=self.pairs_at_once)
            self._bases[key] = base.fitted(share)
        other = torch.arange(len(batch.last)).view(-1, 2).flip(1).flatten()
        reference = self._bases[key](batch, batch._replace(tokens=batch.tokens[other], last=batch.last[other]))
        writes, patterns = self.model.watched(everywhere(batch, how), share.to(reference), reference)
        return writes, patterns, batch.last.cpu()

    @torch.no_grad()
    def activity(
        self, kept: np.ndarray, nodes: np.ndarray, start: int, stop: int, *, value: str | None = None
    ) -> Watch:  # fmt: skip
        """See gossamer.verify.trial."""
        writes, _, last = self._watched(kept, start, stop, value)
        return Watch(writes[torch.from_numpy(nodes).to(writes.device)].permute(1, 2, 0, 3).float().cpu(), last)

    @torch.no_grad()
    def attention(self, kept: np.ndarray, start: int, stop: int, *, value: str | None = None) -> Watch:
        """See gossamer.verify.trial."""
        _, patterns, last = self._watched(kept, start, stop, value)
        return Watch(patterns.permute(1, 3, 0, 2, 4).cpu(), last)

    def effects(
        self, kept: np.ndarray, *, value: str | None = None, direction: Direction = "clean"
    ) -> np.ndarray:  # fmt: skip
        """See gossamer.verify.trial."""
        restores = direction == "counterfactual"
        how = self.methodology(value, "circuit" if restores else "complement", direction)
        keys = [(how, np.packbits(row).tobytes()) for row in kept]
        new = [i for i, key in enumerate(keys) if key not in self._effects and key not in keys[:i]]
        if new:
            shares = shares_of(self.graph(), self._of_edges(kept[new]), how)
            (found,) = edge_values(
                self.model, self.heldout, shares, how, (self.metric,), training=self.training, seed=self.seed,
                pairs_at_once=self.pairs_at_once, progress=self.progress if len(new) > 8 else None,
            )  # fmt: skip
            self._effects.update(zip((keys[i] for i in new), found, strict=True))
        return np.stack([self._effects[key] for key in keys])

    def graded(self, kept: Tensor, start: int, stop: int, *, value: str | None = None) -> Tensor:
        """See gossamer.verify.trial; of all values but `optimal`."""
        how = self.methodology(value)
        if how.value == "optimal":
            raise Unsupported("shares of edges ablated by optimal", "the constants are fitted to a set", "mean")
        clean, other = sides(self.heldout.pairs(start, stop))
        if (how, start, stop) not in self._references:
            with torch.no_grad():
                base = replacement(self.model, self.training, how, seed=self.seed, pairs_at_once=self.pairs_at_once)
                self._references[how, start, stop] = base(clean, other)
        if self.granularity == "node":
            kept = kept[torch.from_numpy(self._column).to(kept.device)]
        reference = self._references[how, start, stop]
        logits = self.model.patched(everywhere(clean, how), 1 - kept.to(reference), reference)
        return row_metric(self.metric, clean)(logits)

    def attributions(self) -> np.ndarray:
        """See gossamer.verify.trial: by the trial's own value, edge attribution patching of every pair."""
        how, found = self.methodology(), list[np.ndarray]()
        if how.value == "optimal":
            raise Unsupported("attributions by ablation optimal", "the constants are fitted to a set", "mean")
        base = replacement(self.model, self.training, how, seed=self.seed, pairs_at_once=self.pairs_at_once)
        for pair in range(self.n_pairs):
            clean, other = sides(self.heldout.pairs(pair, pair + 1))
            reference = base(clean, other)
            rise, _ = self.model.edge_gradient(everywhere(clean, how), reference, self._total(clean))
            found.append(-rise.cpu().double().numpy())
        per_edge = np.stack(found)
        if self.granularity != "node":
            return per_edge
        return np.stack([np.bincount(self._column, row, len(self._sources)) for row in per_edge])

    @torch.no_grad()
    def scrubbed(self, donors: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """See gossamer.verify.trial."""
        if self._several:
            raise Unsupported("scrubbing answers of several tokens", "it is built for prompts", "one token")
        share = torch.from_numpy((groups[self._column] >= 0).astype(np.float32))
        found = []
        for start in range(0, self.n_pairs, self.pairs_at_once):
            stop = min(start + self.pairs_at_once, self.n_pairs)
            clean, _other = sides(self.heldout.pairs(start, stop))
            reference: Tensor | None = None
            for group, rows in enumerate(donors[:, 2 * start : 2 * stop : 2]):
                writes = self.model.writes(rows_of(self.heldout, rows))[0]
                reference = torch.zeros_like(writes) if reference is None else reference
                where = torch.from_numpy(groups == group).to(writes.device)
                reference[where] = writes[where]
            if reference is None:
                raise BadInput("Expected at least one group of donors, got none.")
            logits = self.model.patched(clean, share.to(reference), reference)
            found.append(row_metric(self.metric, clean)(logits).cpu().double())
        return torch.cat(found).numpy()

    def of_nodes(self) -> EdgeTrial:
        """See gossamer.verify.trial."""
        return self if self.granularity == "node" else replace(self, granularity="node", _known={}, _effects={})

    def mirrored(self) -> EdgeTrial:
        """See gossamer.verify.trial."""
        return replace(self, heldout=mirrored_pairs(self.heldout), _known={}, _effects={}, _references={})

    def on(self, examples: Sequence[Example]) -> EdgeTrial:
        """See gossamer.verify.trial."""
        heldout = self.model.encode(examples, positions=self.heldout.marks.positions, several=self._several)
        return replace(self, heldout=heldout, _known={}, _effects={}, _references={})

    def under(self, model: Subject | ResidualSubject) -> EdgeTrial:
        """See gossamer.verify.trial."""
        return replace(self, model=cast(ResidualSubject, model), _known={}, _effects={}, _references={}, _bases={})

    def retried(self, circuit: Circuit) -> EdgeTrial:
        """See gossamer.verify.trial."""
        return replace(self, circuit=circuit, _known={})

    def elsewhere(self, model: ResidualSubject, task: Task, circuit: Circuit) -> EdgeTrial:
        """See gossamer.verify.trial."""
        heldout, training = (
            model.encode(pairs[: there.n_pairs], positions=there.marks.positions, several=self._several)
            for pairs, there in ((task.heldout, self.heldout), (task.train, self.training))
        )
        return replace(
            self, model=model, task=task, circuit=circuit, heldout=heldout, training=training, _known={}, _effects={},
            _references={}, _bases={},
        )  # fmt: skip


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

    shares: [ablations, edges], see gossamer.circuit.shares_of; equal ones are run once. `kl` is to the whole model on
    the same prompt. training: pairs that means, spreads and optimal constants are of, which those values need; seed: of
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
    bases = {i: base.fitted(alpha) if alpha.any() else base for i, alpha in alphas.items()}
    values = np.empty((len(metrics), len(shares), pairs.n_pairs))
    starts = range(0, pairs.n_pairs, pairs_at_once)
    done, runs = 0, len(starts) * len(alphas)
    for start in starts:
        stop = min(start + pairs_at_once, pairs.n_pairs)
        clean, counterfactual = sides(pairs.pairs(start, stop))
        run, other = (clean, counterfactual) if how.direction == "clean" else (counterfactual, clean)
        reference = base(run, other)
        run = everywhere(run, how)
        whole = model.patched(run, torch.zeros(shares.shape[1]).to(reference), reference) if "kl" in metrics else None
        scores = [row_metric(metric, run, whole) for metric in metrics]
        for i, alpha in alphas.items():
            to = reference if bases[i] is base else bases[i](run, other)  # of optimal, never of branches
            logits: Tensor = model.patched(run, alpha.to(to), to)
            if logits.dtype in (torch.bfloat16, torch.float16):
                logits = logits.float()
            for n, score in enumerate(scores):
                values[n, i, start:stop] = score(logits).cpu().double().numpy()
            done += 1
            if progress:
                progress(done, runs, float(values[-1, 0, :stop].mean()))
    return values[:, which]
