"""Automatic circuit discovery: every edge is tried once, from the logits back, and removed if that costs little.

Conmy et al. 2023 (arXiv 2304.14997), algorithm 1. Readers in reverse order of the forward pass, for each its writers
from the last to the first: with all earlier removals in force, the edge is ablated; if the metric rises by less than
the threshold it stays ablated. The metric is KL(model || circuit) at the answer's position, mean over pairs, or the
drop of the logit difference; ablated edges carry the counterfactual prompt's value.

The result is that of the sequential algorithm, edge for edge, but a run starts at the layer of the edge that is tried
and at the first token in which the prompts differ, and several successive removals are tried in one batch: the longest
run of them that the sequential rule accepts is kept, the rest is tried again.

When it lies: greedy and in one order. Of two edges of which either is enough it keeps one, which one depending on the
order; an edge that holds the metric down is removed; a value that is the same in both prompts is invisible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.discover.eap import Progress
from gossamer.errors import options
from gossamer.metric import row_metric
from gossamer.record import Record
from gossamer.registry import method
from gossamer.subject import ResidualSubject
from gossamer.task import Encoded, Task, sides

if TYPE_CHECKING:
    from gossamer.subject import Ablations


class ACDCConfig(BaseModel):
    """threshold: in units of the metric, nats for `kl`, logits for `logit-difference`; pairs: of the training split.

    order: in which a reader's writers are tried, the last first or the first first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: float = Field(default=0.01, gt=0)
    metric: Literal["kl", "logit-difference"] = "kl"
    pairs: int = Field(default=32, gt=0)
    order: Literal["reverse", "forward"] = "reverse"


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
    task = model.fitting(task)
    batch = model.encode(task.train[: config.pairs])
    clean, other = sides(batch)
    reference, _ = model.writes(other)
    runs = model.ablations(clean, reference)
    score = metric_of(config, clean, runs.clean)
    graph = model.graph()
    edges = np.arange(graph.n_edges)[::-1]  # a graph lists them reader by reader in the order of the forward pass
    if config.order == "forward":
        ends = np.stack([graph.dst, graph.matrix])
        reader = np.diff(ends, prepend=ends[:, :1]).any(axis=0).cumsum()
        edges = np.argsort(reader[-1] - reader, kind="stable")
    search = _Search(runs, score, config.threshold)
    start = 0
    while start < len(edges):
        start += search.advance(edges[start : start + runs.at_once])
        if progress:
            progress(start, len(edges), search.now)
    kept = np.array(sorted(search.rises), dtype=np.int64)
    model_hash, means_hash = model.hashes()
    record = Record.now(
        method="acdc", config=config.model_dump(mode="json"), seed=0, model=model.name, model_sha256=model_hash,
        means_sha256=means_hash, task=task.name, task_version=task.version,
        details={
            "pairs": batch.n_pairs, "left_out": dict(task.left_out), "methodology": "acdc-resample",
            "metric_at_end": search.now, "passes": search.passes,
        },
    )  # fmt: skip
    return Circuit.from_edges(graph, kept, np.array([search.rises[e] for e in kept.tolist()]), record=record)


def metric_of(config: ACDCConfig, clean: Encoded, whole: Tensor) -> Callable[[Tensor], list[float]]:
    """Logits [trials, rows, vocab] -> the metric of each trial, lower being nearer to the whole model's logits."""
    per_row = row_metric(config.metric, clean, whole)

    def mean(logits: Tensor) -> Tensor:
        return per_row(logits).double().mean(-1)

    if config.metric == "kl":
        return lambda logits: mean(logits).tolist()
    before = mean(whole)
    return lambda logits: (before - mean(logits)).tolist()


class _Search:
    """The circuit so far: `alpha` is 1 where an edge is removed, `now` the metric, `rises` of the edges kept."""

    def __init__(self, runs: Ablations, score: Callable[[Tensor], list[float]], threshold: float) -> None:
        self.runs, self.score, self.threshold = runs, score, threshold
        self.alpha = torch.zeros(runs.table_shape, dtype=runs.clean.dtype, device=runs.clean.device)
        self.now = score(runs.clean[None])[0]
        self.rises: dict[int, float] = {}
        self.passes, self.width = 0, 1

    def advance(self, edges: np.ndarray) -> int:
        """Try the first of these edges, as many in a pass as lately were accepted in a row; how many are decided."""
        writer, reader, layer = self.runs.places(edges)
        n = int(np.count_nonzero(layer[: self.width] == layer[0]))
        alphas = self.alpha.repeat(n, 1, 1)
        for trial in range(n):  # trial t removes the edges 0 to t
            alphas[trial:, writer[trial], reader[trial]] = 1
        values = self.score(self.runs.logits(alphas, int(layer[0])))
        self.passes += 1
        for trial, value in enumerate(values):
            if value - self.now >= self.threshold:
                self.rises[int(edges[trial])] = value - self.now
                self.width = trial + 1
                return trial + 1
            self.now = value
            self.alpha[writer[trial], reader[trial]] = 1
        if n == self.width:
            self.width = min(self.runs.at_once, 2 * self.width)
        return n
