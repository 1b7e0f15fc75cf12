"""How often an edge is in the circuit when the prompts are drawn again: inclusion probabilities and a consensus.

Bootstrap (Efron 1979) over the training pairs; with inputs drawn again Méloux, Portet and Peyrard 2025 show how little
circuits of EAP-IG agree (arXiv 2510.00845). Any method by name: its scores are cut at `edges`, or its circuit is taken
as it is. Where a method's score is a mean over pairs, as those of the EAP family say in their record, it is run once
per block of pairs and the scores of a resample are means of its blocks'; any other method runs on every resample.

When it lies: resampling varies the pairs of one task, not its wording: an edge in every resample may be in no circuit
of other templates. A probability near 1 says that the method agrees with itself, not that it is right. The interval is
that of a probability from so many resamples, and does not shrink with more pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gossamer.budget import bytes_of
from gossamer.circuit import Circuit
from gossamer.discover.eap import Progress
from gossamer.errors import BadInput, Unsupported, options
from gossamer.graph import Graph
from gossamer.record import Record
from gossamer.registry import config_kind, method
from gossamer.scores import EdgeScores
from gossamer.statistics import wilson_interval
from gossamer.subject import ResidualSubject
from gossamer.task import Example, Task


class ConsensusConfig(BaseModel):
    """method, options: what scores, by its name, and how; options["pairs"] says how many pairs there are to draw from.

    edges, cut, signed: the cut of each resample's scores, see EdgeScores.top and EdgeScores.greedy. probability: the
    consensus keeps edges that are in more than this share of the circuits. memory: bytes that the scores of blocks may
    take; where those of single pairs take more, blocks of several are drawn. budget: such as "8GB", weights included,
    of everything: a tenth is for the scores of blocks, if that is less than `memory`, the rest for each run of the
    method.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str = "eap-ig"
    options: dict[str, Any] = {}
    edges: int = Field(default=200, gt=0)
    cut: Literal["top", "greedy"] = "top"
    signed: bool = False
    resamples: int = Field(default=100, ge=2)
    probability: float = Field(default=0.5, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    memory: int = Field(default=10**9, gt=0)
    budget: str | None = None


def consensus_config(**changes: Any) -> ConsensusConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(ConsensusConfig, changes, "set of options")


@dataclass(frozen=True, kw_only=True, eq=False)
class Consensus:
    """scores: of all pairs, as drawn once each. inclusion: per edge the share of resamples whose circuit has it.

    Arrays over the edges of the graph: interval [2, edges] of the inclusion (95%, Wilson), deviation: the standard
    deviation of the score over resamples, same_sign: the share of resamples in which the score has the sign it has in
    `scores`. circuit: the edges above the probability asked for, each weighted with its inclusion; of a method that
    returns scores, only those on a path of such edges.
    """

    scores: EdgeScores
    inclusion: EdgeScores
    interval: np.ndarray
    deviation: np.ndarray
    same_sign: np.ndarray
    circuit: Circuit


@method("consensus")
def consensus(
    model: ResidualSubject, task: Task, config: ConsensusConfig | None = None, *, progress: Progress | None = None
) -> Consensus:
    """Inclusion probabilities of all edges under resampling of the training pairs.

    progress(runs of the method done, all, 0). Errors: BadInput for a method or options that do not exist, or more
    edges than the graph has, before anything is run.
    """
    config = config or ConsensusConfig()
    graph = model.graph()
    run = _Run(model, task, config, graph, progress)

    def cut(found: EdgeScores | Circuit) -> Circuit:
        if isinstance(found, Circuit):
            return found
        take = found.greedy if config.cut == "greedy" else found.top
        return take(config.edges, signed=config.signed, connected=run.connected)

    whole, block, draws = run.resampled()
    counts, agree = np.zeros(graph.n_edges), np.zeros(graph.n_edges)
    mean, squares = np.zeros(graph.n_edges), np.zeros(graph.n_edges)
    for number, found in enumerate(draws, 1):
        values, circuit = _values(graph, found), cut(found)
        counts[graph.numbers(circuit.src, circuit.dst, circuit.matrix)] += 1
        agree += np.sign(values) == np.sign(whole)
        away = values - mean
        mean += away / number
        squares += away * (values - mean)
    model_hash, means_hash = model.hashes()
    record = Record.now(
        method="consensus", config=config.model_dump(mode="json"), seed=config.seed, model=model.name,
        model_sha256=model_hash, means_sha256=means_hash, task=task.name, task_version=run.task.version,
        details={
            "pairs": len(run.pairs), "pairs_per_block": block, "runs": run.done, "left_out": dict(run.task.left_out),
            "sign": "none: share of resamples of the pairs whose circuit holds the edge",
        },
    )  # fmt: skip
    inclusion = EdgeScores(graph=graph, values=counts / config.resamples, record=record)
    return Consensus(
        scores=EdgeScores(graph=graph, values=whole, record=record), inclusion=inclusion,
        interval=np.stack(wilson_interval(counts, config.resamples)),
        deviation=np.sqrt(squares / (config.resamples - 1)), same_sign=agree / config.resamples,
        circuit=inclusion.above(config.probability, connected=run.scored and run.connected),
    )  # fmt: skip


def _values(graph: Graph, found: EdgeScores | Circuit) -> np.ndarray:
    """One number per edge of the graph; 0 where a circuit has no edge."""
    if isinstance(found, EdgeScores):
        return found.values
    values = np.zeros(graph.n_edges)
    values[graph.numbers(found.src, found.dst, found.matrix)] = found.weight
    return values


class _Run:
    """Runs of the method on some of the pairs."""

    def __init__(
        self, model: ResidualSubject, task: Task, config: ConsensusConfig, graph: Graph, progress: Progress | None
    ) -> None:
        self.model, self.config, self.graph, self.progress = model, config, graph, progress
        self.function = method[config.method]
        kind = config_kind(self.function)
        if kind is None or "pairs" not in kind.model_fields:
            raise BadInput(f"Expected a method that takes a number of pairs, {config.method!r} does not; try eap-ig.")
        self.own = options(kind, config.options, f"set of options of {config.method}")
        self.memory = config.memory
        if config.budget is not None:
            if "memory" not in kind.model_fields:
                raise Unsupported(f"a memory budget of {config.method}", "it has none", "a method such as eap-ig")
            self.memory = min(config.memory, max(1, bytes_of(config.budget) // 10))
            self.own = self.own.model_copy(update={"memory": f"{bytes_of(config.budget) - self.memory}B"})
        if get_type_hints(self.function).get("return") is not Circuit and config.edges > graph.n_edges:
            raise BadInput(f"Expected a cut of at most {graph.n_edges} edges, got {config.edges}.")
        at = getattr(self.own, "positions", "all")
        self.connected = at == "all"  # at chosen positions edges on no path are heard at the others
        several = getattr(self.own, "metric", "") == "sequence-log-probability"
        self.task = model.fitting(task, positions=at, several=several)
        self.pairs = self.task.train[: self.own.model_dump()["pairs"]]
        self.rng = np.random.default_rng(config.seed)
        self.done, self.total, self.scored = 0, 0, True

    def __call__(self, pairs: tuple[Example, ...]) -> EdgeScores | Circuit:
        own = self.own.model_copy(update={"pairs": len(pairs)})
        found = self.function(self.model, replace(self.task, train=pairs, heldout=(), ood={}), own)
        if not isinstance(found, EdgeScores | Circuit):
            raise BadInput(f"Expected a method that returns scores or a circuit, {self.config.method!r} does not.")
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total, 0.0)
        return found

    def resampled(self) -> tuple[np.ndarray, int, Iterator[EdgeScores | Circuit]]:
        """(numbers of all pairs, pairs per block, what each resample gives)."""
        n, most = len(self.pairs), max(1, self.memory // (8 * self.graph.n_edges))
        block = -(-n // most)
        self.total = -(-n // block)
        first = self(self.pairs[:block])
        self.scored = isinstance(first, EdgeScores)
        if not self.scored or not first.record.details.get("mean_over_pairs"):
            self.total = self.done + (block < n) + self.config.resamples
            whole = first if block == n else self(self.pairs)
            draws = (self.rng.integers(0, n, size=n) for _ in range(self.config.resamples))
            return _values(self.graph, whole), 1, (self(tuple(self.pairs[i] for i in d)) for d in draws)
        blocks = [self.pairs[i : i + block] for i in range(0, n, block)]
        table = np.stack([_values(self.graph, s) for s in (first, *(self(b) for b in blocks[1:]))])
        sizes = np.array([len(b) for b in blocks], dtype=np.float64)

        def drawn() -> EdgeScores:
            times = np.bincount(self.rng.integers(0, len(blocks), size=len(blocks)), minlength=len(blocks)) * sizes
            return EdgeScores(graph=self.graph, values=times / times.sum() @ table, record=first.record)

        return sizes / n @ table, block, (drawn() for _ in range(self.config.resamples))
