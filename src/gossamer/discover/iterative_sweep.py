"""Iterative sweeps: heads and MLPs are tried one after the other, backward and forward, as long as any can go.

Lan, Torr and Barez 2024 (arXiv 2311.04131), section 3. From the whole model on, a sweep tries every head and MLP that
is left: with all earlier removals in force, what it writes is ablated for all its readers, and if the metric, a mean
over pairs, stays at `floor` of the whole model's, it stays ablated. A backward sweep (the last part first) and a
forward one take turns until one of them removes nothing, so that in the end no part can go alone. The input stays. With
`then_edges` the edges between the parts that are left are swept likewise, at the same floor.

A sweep of n parts asks for n runs, at most n + 1 sweeps are made. Of few tokens in all (a decoder on a CPU:
up to 128; of more one at a time) several runs go in a pass: in a first sweep removals in a row, of which the longest
prefix that the sequential rule accepts is kept; in later ones, where most stay, each part alone. A pass starts at the
first layer in which a removed write is read.

When it lies: the floor holds on the training pairs that chose the circuit. On others less may be left, down to nothing
(of 80% on 32 pairs, docs/shared_circuits.md); `share` is no result, the held-out share is. Greedy, so the circuit
depends on the order; of two parts of which either is enough one stays (several orders, and what they share, are in
compare/shared_circuits.py). The floor has one side: a part that holds the metric down goes, and what is left may be
above the whole model. The floor is of the metric itself, not of its way from the empty circuit: where that has a metric
of its own, less is asked, and more under resampling, where it is below 0 (`share_of_empty` in the record). Means by
position mix the templates of a task unless its prompts have one. Unlike the
authors' code, which compares scores that are not always of the latest circuit and stops when two lists are equal, every
trial is against the parts left then.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from gossamer.ablation import of_edges
from gossamer.circuit import Circuit
from gossamer.discover.eap import Ablated, Progress, training_pairs
from gossamer.errors import BadInput, options
from gossamer.graph import nodes_around
from gossamer.metric import row_metric
from gossamer.record import Record
from gossamer.registry import method
from gossamer.replacement import replacement
from gossamer.subject import Ablations, ResidualSubject
from gossamer.task import Encoded, Task, sides

SIGN = "fall of the metric when its writer alone (or, after `then_edges`, the edge alone) is also removed"
Order = Literal["last-to-first", "first-to-last"] | NonNegativeInt
Measure = Callable[[Sequence[np.ndarray]], list[float]]


class IterativeSweepConfig(BaseModel):
    """floor: share of the whole model's metric that must be left, above 0 to 1; order: of the first sweep, which then
    alternates with its reverse; a number is the seed of random orders, a new one in every sweep.

    pairs: of the training split, all in memory together; ablation, positions, metric: as for EAP. The paper's ablation
    is position-mean, of a task of one template.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    floor: float = Field(default=0.8, gt=0, le=1)
    order: Order = "last-to-first"
    then_edges: bool = False
    pairs: int = Field(default=32, gt=0)
    metric: Literal["logit-difference", "probability-difference", "sequence-log-probability"] = "logit-difference"
    ablation: Ablated = "resample"
    positions: str = "all"


def iterative_sweep_config(**changes: Any) -> IterativeSweepConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(IterativeSweepConfig, changes, "set of options")


@method("iterative-sweep")
def iterative_sweep(
    model: ResidualSubject, task: Task, config: IterativeSweepConfig | None = None, *, progress: Progress | None = None
) -> Circuit:
    """The heads and MLPs that are left, with the edges between them; an edge weighs what the metric falls by when its
    writer (with `then_edges`: the edge) goes too.

    progress(parts decided, those and the ones left of this sweep, metric now). details: `share` and `share_of_empty` of
    the whole model's metric on these pairs, the number of `sweeps` (of parts and of edges), `runs` and `passes`.
    Errors: BadInput where the whole model's metric is not above 0 on these pairs.
    """
    config = config or IterativeSweepConfig()
    graph = model.graph()
    task, batch = training_pairs(model, task, config)
    component: Literal["head", "block"] = "block" if graph.layout.grain == "block" else "head"
    how = of_edges(
        config.ablation, granularity="edge" if config.then_edges else "node", component=component,
        positions=config.positions,
    )  # fmt: skip
    clean, other = sides(batch)
    with torch.no_grad():
        reference = replacement(model, batch, how)(clean, other)
        search = _Search(model.ablations(clean, reference), clean, config, progress)
    whole = search.now
    if not whole > 0:
        raise BadInput(
            f"Expected a model whose {config.metric} is above 0 on {batch.n_pairs} training pairs of {task.name}, "
            f"{model.name} has {whole:.3g}; there is no share of it to keep."
        )
    search.least = config.floor * whole
    names = [name for name, _ in graph.layout.locations]
    parts = {n: np.flatnonzero(graph.src == n) for n in np.unique(graph.src).tolist() if names[n] != "input"}
    (empty,) = search.values([np.concatenate(list(parts.values()))])
    falls = search.until_fixed(parts)
    kept = nodes_around(graph.layout, falls)
    source = graph.layout.starts["input"]
    (without,) = search.values([np.concatenate([search.gone, np.flatnonzero(graph.src == source)])])
    falls[source] = search.now - without
    of_edge: dict[int, float] = {}
    if config.then_edges:
        of_edge = search.until_fixed({e: np.array([e]) for e in graph.between(kept).tolist()})
    model_hash, means_hash = model.hashes()
    record = Record.now(
        method="iterative-sweep", config=config.model_dump(mode="json"), seed=_seed(config.order), model=model.name,
        model_sha256=model_hash, means_sha256=means_hash, task=task.name, task_version=task.version,
        details={
            "pairs": batch.n_pairs, "left_out": dict(task.left_out), "methodology": how.as_dict(), "sign": SIGN,
            "share": search.now / whole, "share_of_empty": empty / whole, "sweeps": search.sweeps,
            "runs": search.runs_made, "passes": search.passes,
        },
    )  # fmt: skip
    if config.then_edges:
        return Circuit.from_edges(
            graph, np.array(list(of_edge), dtype=np.int64), np.array(list(of_edge.values())), record=record
        )
    weights = np.array([falls.get(n, 0.0) for n in graph.src.tolist()])
    return Circuit.from_nodes(graph, weights, kept.tolist(), record=record)


def _seed(order: Order) -> int:
    return order if isinstance(order, int) else 0


class _Search:
    """now: the metric with the edges `gone` ablated; least: what it must not fall below."""

    def __init__(
        self, runs: Ablations, clean: Encoded, config: IterativeSweepConfig, progress: Progress | None
    ) -> None:  # fmt: skip
        self.runs, self.progress, self.order = runs, progress, config.order
        self.score = row_metric(config.metric, clean)
        self.rng = np.random.default_rng(_seed(config.order))
        self.now = float(self.score(runs.clean).double().mean())
        self.least = 0.0
        self.gone = np.zeros(0, dtype=np.int64)
        self.sweeps = self.runs_made = self.passes = self.decided = 0

    @torch.no_grad()
    def values(self, sets: Sequence[np.ndarray]) -> list[float]:
        """The metric with each of these sets of edges ablated, in one pass."""
        alpha = torch.zeros(len(sets), *self.runs.table_shape, dtype=self.runs.clean.dtype)
        layer: int | None = None
        for trial, edges in enumerate(sets):
            writer, reader, layers = self.runs.places(edges)
            alpha[trial, writer, reader] = 1
            layer = int(layers.min()) if layer is None else min(layer, int(layers.min()))
        assert layer is not None, "every set has edges"
        logits = self.runs.logits(alpha.to(self.runs.clean.device), layer)
        self.passes += 1
        self.runs_made += len(sets)
        found: list[float] = self.score(logits).double().mean(-1).tolist()
        return found

    def until_fixed(self, parts: dict[int, np.ndarray]) -> dict[int, float]:
        """Sweep over parts (sets of edges by number, in the order of the forward pass) until none can go; what the
        metric falls by without each that is left."""
        left = list(parts)
        for place in itertools.count():
            falls = self._sweep(self._ordered(left, place), parts, together=place == 0)
            self.sweeps += 1
            if len(falls) == len(left):
                break
            left = [p for p in left if p in falls]
        return {p: falls[p] for p in left}

    def _ordered(self, left: list[int], place: int) -> list[int]:
        """In the order of the sweep at this place, 0 for the first."""
        if isinstance(self.order, int):
            return [left[i] for i in self.rng.permutation(len(left))]
        backward = (self.order == "last-to-first") == (place % 2 == 0)
        return left[::-1] if backward else left

    def _sweep(self, order: list[int], parts: dict[int, np.ndarray], *, together: bool) -> dict[int, float]:
        """What the metric fell by without each part that stays. together: guess that those tried in one pass can all
        go; else that none of them can."""
        falls: dict[int, float] = {}
        width = 1
        while order:
            tried = order[: min(width, self.runs.at_once)]
            own = [parts[p] for p in tried]
            if together:
                sets = [np.concatenate([self.gone, *own[: i + 1]]) for i in range(len(own))]
            else:
                sets = [np.concatenate([self.gone, edges]) for edges in own]
            values = self.values(sets)
            right = next((i for i, v in enumerate(values) if (v >= self.least) != together), len(values))
            for i in range(right):
                if together:
                    self.gone, self.now = sets[i], values[i]
                else:
                    falls[tried[i]] = self.now - values[i]
            if right < len(tried):
                if together:
                    falls[tried[right]] = self.now - values[right]
                else:
                    self.gone, self.now = sets[right], values[right]
            decided = min(right + 1, len(tried))
            width = 2 * width if right == len(tried) else decided
            order = order[decided:]
            self.decided += decided
            if self.progress:
                self.progress(self.decided, self.decided + len(order), self.now)
        return falls
