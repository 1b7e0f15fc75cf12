"""Automatic circuit discovery: every edge is tried once, from the logits back, and removed if that costs little.

Conmy et al. 2023 (arXiv 2304.14997), algorithm 1. Readers in reverse order of the forward pass, for each its writers
from the last to the first: with all earlier removals in force, the edge is ablated; if the metric rises by less than
the threshold it stays ablated. The metric is KL(model || circuit) at the answer's position, mean over pairs, or the
drop of the logit difference; ablated edges carry the counterfactual prompt's value.

The result is that of the sequential algorithm, edge for edge, but a run computes only what the edge that is tried can
change: the readers that its reader still reaches, after the first token in which the prompts differ. An edge whose
reader reaches the logits no more changes nothing and is removed without a run. Several successive removals are tried in
one batch where that pays: the longest run of them that the sequential rule accepts is kept, the rest is tried again.

When it lies: greedy and in one order. Of two edges of which either is enough it keeps one, which one depending on the
order; an edge that holds the metric down is removed; a value that is the same in both prompts is invisible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gossamer.ablation import Methodology, of_edges
from gossamer.circuit import Circuit
from gossamer.discover.eap import Ablated, Progress, training_pairs
from gossamer.discover.edge_patching import trials_of
from gossamer.discover.room import probed, room_for
from gossamer.errors import options
from gossamer.graph import Graph
from gossamer.metric import row_metric
from gossamer.record import Record
from gossamer.registry import method
from gossamer.replacement import replacement
from gossamer.subject import Probe, Removing, ResidualSubject
from gossamer.task import Encoded, Task, sides

if TYPE_CHECKING:
    from gossamer.subject import Removals


class ACDCConfig(BaseModel):
    """threshold: in units of the metric, nats for `kl` and `sequence-log-probability` (of whole answers, which may be
    several tokens), logits for `logit-difference`; pairs: of the training split.

    ablation: what a removed edge carries, see gossamer.replacement; positions: where, `all`, `last` or a span of the
    pairs; order: in which a reader's writers are tried, the last first or the first first. memory: a budget such as
    "8GB", weights included, for which fewer removals are tried in a pass; all pairs go together, and no edge changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: float = Field(default=0.01, gt=0)
    metric: Literal["kl", "logit-difference", "sequence-log-probability"] = "kl"
    pairs: int = Field(default=32, gt=0)
    ablation: Ablated = "resample"
    positions: str = "all"
    order: Literal["reverse", "forward"] = "reverse"
    memory: str | None = None


def acdc_config(**changes: Any) -> ACDCConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(ACDCConfig, changes, "set of options")


@method("acdc")
def acdc(
    model: ResidualSubject, task: Task, config: ACDCConfig | None = None, *, progress: Progress | None = None
) -> Circuit:
    """The edges that are left; the weight of each is what the metric rose by when it was tried.

    progress(edges tried, all edges, metric now). Edges that then lie on no path are kept, as the algorithm has them.
    """
    config = config or ACDCConfig()
    task, batch = training_pairs(model, task, config)
    clean, other = sides(batch)
    n, trials = batch.n_pairs, trials_of(model, "acdc", batch.tokens.shape[1])
    room = room_for(model, batch, config, "acdc", most=n, least=n, trials=trials)
    how = _how(model, config)
    reference = replacement(model, batch, how)(clean, other)
    runs = _runs(model, clean, reference)
    score = metric_of(config, clean, runs.clean)
    graph = model.graph()
    search = _Search(runs, score, config.threshold, room.trials)
    done = 0
    for stage in runs.stages():
        if config.order == "forward":
            stage = _forward(graph, stage)
        live = runs.live(stage)
        runs.drop(stage[~live])
        search.unrun += int((~live).sum())
        done += int((~live).sum())
        edges = stage[live]
        while len(edges):
            decided = search.advance(edges)
            edges = edges[decided:]
            done += decided
            if progress:
                progress(done, graph.n_edges, search.now)
    if progress:
        progress(done, graph.n_edges, search.now)
    kept = np.array(sorted(search.rises), dtype=np.int64)
    model_hash, means_hash = model.hashes()
    record = Record.now(
        method="acdc", config=config.model_dump(mode="json"), seed=0, model=model.name, model_sha256=model_hash,
        means_sha256=means_hash, task=task.name, task_version=task.version,
        details={
            "pairs": batch.n_pairs, "left_out": dict(task.left_out), "methodology": how.as_dict(),
            "metric_at_end": search.now, "passes": search.passes, "removed_without_a_run": search.unrun,
        },
    )  # fmt: skip
    return Circuit.from_edges(graph, kept, np.array([search.rises[e] for e in kept.tolist()]), record=record)


def _how(model: ResidualSubject, config: ACDCConfig) -> Methodology:
    component: Literal["head", "block"] = "block" if model.graph().layout.grain == "block" else "head"
    return of_edges(config.ablation, component=component, positions=config.positions)


def _runs(model: ResidualSubject, clean: Encoded, reference: Tensor) -> Removals:
    return model.removals(clean, reference) if isinstance(model, Removing) else _OneByOne(model, clean, reference)


@probed("acdc")
def _probe(model: ResidualSubject, config: ACDCConfig) -> Probe:
    """Every reader has lost an edge, and one to the first layer is tried: all layers are computed again."""

    def probe(pairs: Encoded, trials: int) -> Iterator[None]:
        clean, other = sides(pairs)
        runs = _runs(model, clean, replacement(model, pairs, _how(model, config))(clean, other))
        yield
        edges = np.concatenate(list(runs.stages()))
        writer, reader = model.graph().src[edges], model.graph().dst[edges]
        first = edges[(writer == 0) & (reader == reader[-1])]
        runs.drop(edges[(writer == 0) & ~np.isin(edges, first)])
        metric_of(config, clean, runs.clean)(runs.logits(np.resize(first, trials)))
        runs.accept(1)
        yield

    return probe


def _forward(graph: Graph, edges: np.ndarray) -> np.ndarray:
    """The same edges, those of each reader from its first writer to its last."""
    ends = np.stack([graph.dst[edges], graph.matrix[edges]])
    starts = np.flatnonzero(np.diff(ends, prepend=-1).any(axis=0))
    return np.concatenate([part[::-1] for part in np.split(edges, starts[1:])])


def metric_of(config: ACDCConfig, clean: Encoded, whole: Tensor) -> Callable[[Tensor], list[float]]:
    """Logits [trials, rows, vocab] -> the metric of each trial, lower being nearer to the whole model's logits."""
    per_row = row_metric(config.metric, clean, whole)

    def mean(logits: Tensor) -> Tensor:
        return per_row(logits).cpu().double().mean(-1)

    if config.metric == "kl":
        return lambda logits: mean(logits).tolist()
    before = mean(whole)
    return lambda logits: (before - mean(logits)).tolist()


class _OneByOne:
    """The removals of a model that only knows ablations of a layer on, see gossamer.subject.Removals."""

    def __init__(self, model: ResidualSubject, clean: Encoded, reference: Tensor) -> None:
        self.n_edges, self.runs = model.graph().n_edges, model.ablations(clean, reference)
        self.clean = self.runs.clean
        self.alpha = torch.zeros(self.runs.table_shape, dtype=self.clean.dtype, device=self.clean.device)
        self.tried = np.empty(0, dtype=np.int64)

    def stages(self) -> Iterator[np.ndarray]:
        """All in one: a graph lists its edges reader by reader in the order of the forward pass."""
        yield np.arange(self.n_edges)[::-1]

    def live(self, edges: np.ndarray) -> np.ndarray:
        return np.ones(len(edges), dtype=bool)

    def at_once(self, edges: np.ndarray) -> int:
        layer = self.runs.places(edges[: self.runs.at_once])[2]
        return int(np.count_nonzero(layer == layer[0]))

    def logits(self, edges: np.ndarray) -> Tensor:
        self.tried = edges
        writer, reader, layer = self.runs.places(edges)
        alphas = self.alpha.repeat(len(edges), 1, 1)
        for trial in range(len(edges)):
            alphas[trial:, writer[trial], reader[trial]] = 1
        return self.runs.logits(alphas, int(layer[0]))

    def accept(self, n: int) -> None:
        self.drop(self.tried[:n])

    def drop(self, edges: np.ndarray) -> None:
        writer, reader, _ = self.runs.places(edges)
        self.alpha[writer, reader] = 1


class _Search:
    """The search so far: `now` the metric, `rises` of the edges kept, `unrun` edges removed without a run."""

    def __init__(self, runs: Removals, score: Callable[[Tensor], list[float]], threshold: float, most: int) -> None:
        self.runs, self.score, self.threshold, self.most = runs, score, threshold, most
        self.now = score(runs.clean[None])[0]
        self.rises: dict[int, float] = {}
        self.passes, self.unrun, self.width = 0, 0, 1

    def advance(self, edges: np.ndarray) -> int:
        """Try the first of these edges, as many in a pass as lately were accepted in a row; how many are decided."""
        most = min(self.most, self.runs.at_once(edges))
        tried = edges[: min(self.width, most)]
        values = self.score(self.runs.logits(tried))
        self.passes += 1
        for trial, value in enumerate(values):
            if value - self.now >= self.threshold:
                self.rises[int(tried[trial])] = value - self.now
                self.runs.accept(trial)
                self.width = trial + 1
                return trial + 1
            self.now = value
        self.runs.accept(len(tried))
        self.width = min(most, 2 * self.width)
        return len(tried)
