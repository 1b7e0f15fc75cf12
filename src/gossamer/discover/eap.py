"""Edge attribution patching: the gradient of the metric to the share ablated of every edge, at none ablated.

Syed, Rager and Conmy 2023 (arXiv 2310.10348). The score of an edge from writer w to reader r is the sum over positions
of (w's write in the counterfactual run - in the clean run) . (gradient of the metric at r's input), from two forward
passes and one backward for all edges together, averaged over pairs.

When it lies: it is a first-order guess of one ablation at a time. It misses an edge whose reader saturates (a softmax
that is sure has no gradient; eap_ig.py helps) and an edge whose effect needs another one ablated with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gossamer.ablation import Methodology, of_edges
from gossamer.discover.room import probed, room_for
from gossamer.errors import options
from gossamer.metric import row_metric
from gossamer.record import Record
from gossamer.registry import method
from gossamer.replacement import replacement
from gossamer.scores import EdgeScores
from gossamer.subject import Probe, ResidualSubject
from gossamer.task import Encoded, Task, sides

if TYPE_CHECKING:
    from gossamer.subject import Objective

Progress = Callable[[int, int, float], None]
Score = Callable[[Encoded, Tensor, "Objective"], Tensor]


Ablated = Literal["resample", "zero", "mean", "position-mean", "noise"]


class MetricConfig(BaseModel):
    """metric: of the clean prompts, the right answer's logit minus the wrong one's, or the same of probabilities; or,
    for answers of several tokens, of log probabilities of the whole answers, in nats.

    pairs: how many training pairs; pairs_at_once: how many are in memory together, at most; memory: a budget such as
    "8GB", weights included, for which fewer go at once where needed. No number changes with either.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Literal["logit-difference", "probability-difference", "sequence-log-probability"] = "logit-difference"
    pairs: int = Field(default=64, gt=0)
    pairs_at_once: int = Field(default=16, gt=0)
    memory: str | None = None


class EAPConfig(MetricConfig):
    """ablation: what an ablated write becomes, see gossamer.replacement; means are over both prompts of these pairs.
    positions: where edges are ablated, `all`, `last` or a span of the pairs, see Encoded.choose.
    """

    ablation: Ablated = "resample"
    positions: str = "all"


def eap_config(**changes: Any) -> EAPConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(EAPConfig, changes, "set of options")


@method("eap")
def eap(
    model: ResidualSubject, task: Task, config: EAPConfig | None = None, *, progress: Progress | None = None
) -> EdgeScores:
    """Scores of all edges on the task's training pairs, in units of the metric per edge ablated."""
    config = config or EAPConfig()
    return scored(model, task, config, "eap", _score(model), progress)


def _score(model: ResidualSubject) -> Score:
    def score(clean: Encoded, reference: Tensor, objective: Objective) -> Tensor:
        return model.edge_gradient(clean, reference, objective)[0]

    return score


@probed("eap")
def _probe(model: ResidualSubject, config: EAPConfig) -> Probe:
    return probe_of_score(model, config, _score(model))


class Asking(Protocol):
    """Options that say what is asked of a task: how many pairs, ablated where, and by which metric."""

    @property
    def pairs(self) -> int: ...
    @property
    def positions(self) -> str: ...
    @property
    def metric(self) -> str: ...


def training_pairs(model: ResidualSubject, task: Task, config: Asking) -> tuple[Task, Encoded]:
    """(the task without the pairs that the model cannot be asked, its first training pairs, to be ablated there).

    Answers may be several tokens where the metric is of whole answers.
    """
    several = config.metric == "sequence-log-probability"
    task = model.fitting(task, positions=config.positions, several=several)
    return task, model.encode(task.train[: config.pairs], positions=config.positions, several=several)


def per_pair(config: MetricConfig, clean: Encoded, logits: Tensor) -> Tensor:
    """The metric of each clean prompt, from its logits [rows, vocab]."""
    return row_metric(config.metric, clean)(logits)


def _total(config: EAPConfig, clean: Encoded, logits: Tensor) -> Tensor:
    return per_pair(config, clean, logits).sum()


def _how(model: ResidualSubject, config: EAPConfig) -> Methodology:
    component: Literal["head", "block"] = "block" if model.graph().layout.grain == "block" else "head"
    return of_edges(config.ablation, component=component, positions=config.positions)


def probe_of_score(model: ResidualSubject, config: EAPConfig, score: Score) -> Probe:
    """The probe of a method whose scores are added up batch by batch."""

    def probe(pairs: Encoded, trials: int) -> Iterator[None]:
        clean, other = sides(pairs)
        reference = replacement(model, pairs, _how(model, config), pairs_at_once=pairs.n_pairs)(clean, other)
        score(clean, reference, partial(_total, config, clean)).cpu()
        yield

    return probe


def scored(
    model: ResidualSubject, task: Task, config: EAPConfig, name: str, score: Score, progress: Progress | None
) -> EdgeScores:
    """The mean over pairs of `score` (sum over pairs of a batch), with the record of how it was made.

    Pairs that the model cannot be asked are left out, as the record says.
    """
    graph, (task, pairs) = model.graph(), training_pairs(model, task, config)
    total = np.zeros(graph.n_edges)
    at_once = room_for(model, pairs, config, name, most=config.pairs_at_once).pairs
    how = _how(model, config)
    replaced = replacement(model, pairs, how, pairs_at_once=at_once)
    for start in range(0, pairs.n_pairs, at_once):
        clean, other = sides(pairs.pairs(start, min(start + at_once, pairs.n_pairs)))
        reference = replaced(clean, other)
        total += score(clean, reference, partial(_total, config, clean)).cpu().double().numpy()
        if progress:
            done = min(start + at_once, pairs.n_pairs)
            progress(done, pairs.n_pairs, float(np.abs(total).max() / done))
    model_hash, means_hash = model.hashes()
    record = Record.now(
        method=name, config=config.model_dump(mode="json"), seed=0, model=model.name, model_sha256=model_hash,
        means_sha256=means_hash, task=task.name, task_version=task.version,
        details={
            "pairs": pairs.n_pairs, "left_out": dict(task.left_out), "methodology": how.as_dict(),
            "sign": "change of the metric when the edge is ablated",
            "mean_over_pairs": config.ablation in ("resample", "zero"),
        },
    )  # fmt: skip
    return EdgeScores(graph=graph, values=total / pairs.n_pairs, record=record)
