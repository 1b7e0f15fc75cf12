"""Prune a weight-sparse (or dense) transformer to the few nodes a task needs.

Gao et al. 2025 (arXiv 2511.13653), sections 2.2 and A.5: one Heaviside mask per node, trained on task loss plus a node
penalty; nodes ranked by their mask parameter; the ranking cut where the task loss meets the target.

When it lies: a mask learned against full complement ablation can solve a task in a way the whole model does not
(its nodes may change meaning inside the circuit); a circuit here is a hypothesis until `verify` has tried it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gossamer.circuit import Calibration, Circuit
from gossamer.discover.mask_training import owners, split_masks, train_masks
from gossamer.errors import options
from gossamer.graph import Graph
from gossamer.metric import calibrate, fit_calibration, paired_accuracy, task_loss_nats
from gossamer.record import Record
from gossamer.registry import method
from gossamer.scores import Scores
from gossamer.subject import Subject
from gossamer.task import Encoded, Task

METHODOLOGY = "gao-mean"
OPTIONS = "set of pruning options"
EVALUATION_PAIRS = 512
FEW_PAIRS = 64
AROUND = (0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2.0, 4.0)  # sizes of the curve, as multiples of the cut


class PruneConfig(BaseModel):
    """The search. Every value of `k_coef` is one trial; all trials train in one batched pass.

    k_coef: penalty per kept node, on the scale of task_loss_nats (half the sum of the two cross-entropies). The other
    defaults are the paper's search centres, except lr and steps (docs/decisions/0003-penalty-scale.md).
    batch_pairs: pairs per step, so twice as many sequences. calibrate: fit a scale and a shift of the circuit's
    binary logit before each loss is taken. tied: one mask for a query channel and its key channel. ablated: what of the
    complement is ablated while masks train: all of it (the paper), a random half, or the half that a few steps of
    gradient ascent on the loss choose; one choice per mask and batch. The cut is always taken with all of it ablated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    k_coef: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(2e-3, 4e-3, 6e-3), min_length=1)
    steps: int = Field(default=400, gt=0)
    batch_pairs: int = Field(default=8, gt=0)
    lr: float = Field(default=1e-2, gt=0)
    init_noise_scale: float = Field(default=1e-2, ge=0)
    init_noise_bias: float = Field(default=1e-1, gt=0, le=1)
    weight_decay: float = Field(default=1e-3, ge=0)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    warmup_fraction: float = Field(default=5e-2, ge=0, lt=1)
    temperature: float = Field(default=1.0, gt=0)
    grad_clip: float = Field(default=1.0, gt=0)
    target_loss: float = Field(default=0.15, gt=0)
    calibrate: bool = False
    tied: bool = False
    ablated: Literal["all", "random", "adversarial"] = "all"
    seed: int = Field(default=0, ge=0)


def prune_config(**changes: Any) -> PruneConfig:
    """The default search with fields changed; a value out of range is BadInput."""
    return options(PruneConfig, changes, OPTIONS)


class CurvePoint(NamedTuple):
    """A cut through scores: its size and its task loss on the training split."""

    nodes: int
    edges: int
    loss_nats: float


class Trial(NamedTuple):
    """One mask of the search and the smallest cut through it that meets the target (`reached`), else its best."""

    k_coef: float
    reached: bool
    nodes: int
    edges: int
    loss_nats: float
    mask_nodes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """What pruning found. Not `reached`: no cut of any trial meets the target; the circuit is the one nearest to it.

    Losses in nats (task_loss_nats) under gao-mean; `curve` has other cuts of the same scores, on the training split.
    """

    scores: Scores
    circuit: Circuit
    reached: bool
    loss_train: float
    loss_heldout: float
    accuracy_heldout: float
    curve: tuple[CurvePoint, ...]
    trials: tuple[NamedTuple, ...]


@method("prune")
def prune(
    model: Subject, task: Task, config: PruneConfig | None = None, *,
    progress: Callable[[int, int, float], None] | None = None,
) -> Pruned:  # fmt: skip
    """Learn masks, cut the best of them at the target loss, report on the held-out split.

    progress(step, steps, mean task loss over trials) is called every 20 steps. The best trial is the one with the
    fewest edges, then nodes, among those that reach the target. Errors: BadInput for pairs this model cannot read.
    """
    config = config or PruneConfig()
    return smallest(model, task, config, search(model, task, config, progress))


class Searched(NamedTuple):
    """Trained masks tau [trials, n_nodes], the sizes of each that were tried and its cut at the target."""

    tau: Tensor
    sizes: list[Sizes]
    cuts: list[Cut]
    trials: tuple[Trial, ...]
    train: Encoded
    heldout: Encoded


def search(
    model: Subject, task: Task, config: PruneConfig, progress: Callable[[int, int, float], None] | None
) -> Searched:
    """One mask per node penalty, trained in one pass and cut on the training split."""
    graph = model.graph("channel")
    train, heldout = model.encode(task.train), model.encode(task.heldout)
    tau = train_masks(model, graph, train, (config,), progress)
    owner, sample = owners(graph, config.tied), train.pairs(0, EVALUATION_PAIRS)
    sizes = [Sizes(model, graph, mask_ranking(owner, t), sample, config.calibrate) for t in tau]
    cuts = [cut_at(s, config.target_loss) for s in sizes]
    trials = tuple(trial_of(k, c, t[owner]) for k, c, t in zip(config.k_coef, cuts, tau, strict=True))
    return Searched(tau, sizes, cuts, trials, train, heldout)


def smallest(model: Subject, task: Task, config: PruneConfig, found: Searched) -> Pruned:
    """The best trial of a search with its curve: see `prune`."""
    trials = found.trials
    best = min(
        range(len(trials)), key=lambda i: (not trials[i].reached, trials[i].edges, trials[i].nodes)
        if trials[i].reached else (True, trials[i].loss_nats, trials[i].nodes),
    )  # fmt: skip
    sizes, cut = found.sizes[best], found.cuts[best]
    for factor in AROUND if cut.reached else ():
        sizes.loss(max(1, min(int(cut.units * factor), sizes.most)))
    return pruned(model, task, config, found.tau[best], cut, sizes, found.heldout, trials, config.k_coef[best])


def trial_of(k_coef: float, cut: Cut, tau: Tensor) -> Trial:
    """What a mask parameter [n_nodes] trained with a node penalty came to."""
    return Trial(k_coef, cut.reached, *cut.point, int((tau > 0).sum()))


def pruned(
    model: Subject, task: Task, config: PruneConfig, tau: Tensor, cut: Cut, sizes: Sizes, heldout: Encoded,
    trials: tuple[Trial, ...], k_coef: float,
) -> Pruned:  # fmt: skip
    """The circuit of a cut through one mask parameter tau [n_nodes], with its Record and its held-out numbers."""
    graph = model.graph("channel")
    inside = graph.within(cut.nodes)
    model_hash, means_hash = model.hashes()
    record = Record.now(
        method="prune", config=config.model_dump(mode="json"), seed=config.seed, model=model.name,
        model_sha256=model_hash, means_sha256=means_hash, task=task.name, task_version=task.version,
        details={
            "methodology": METHODOLOGY, "best_k_coef": k_coef, "reached": cut.reached, "means_of": model.means_of,
        },
    )  # fmt: skip
    circuit = Circuit.from_nodes(
        inside, model.edge_weights(inside), cut.nodes, record=record, calibration=cut.calibration, tied=config.tied
    )
    values = tau.double().numpy()[owners(graph, config.tied)]
    z = circuit_gap(model, circuit, heldout)
    return Pruned(
        scores=Scores(layout=graph.layout, values=values, record=record), circuit=circuit,
        reached=cut.reached, loss_train=cut.point.loss_nats, loss_heldout=float(task_loss_nats(z).mean()),
        accuracy_heldout=float(paired_accuracy(z).mean()), curve=sizes.curve(), trials=trials,
    )  # fmt: skip


@torch.no_grad()
def circuit_gap(model: Subject, circuit: Circuit, batch: Encoded, preset: str = METHODOLOGY) -> Tensor:
    """Logit gap per row with everything outside the circuit ablated, calibrated if the circuit is."""
    z = model.run(batch, ablation=circuit.as_ablation(preset)).gap
    return calibrate(z, circuit.calibration.scale, circuit.calibration.shift) if circuit.calibration else z


def circuit_loss(model: Subject, circuit: Circuit, batch: Encoded, preset: str = METHODOLOGY) -> Tensor:
    """task_loss_nats per pair of `circuit_gap`."""
    return task_loss_nats(circuit_gap(model, circuit, batch, preset))


class Ranking(NamedTuple):
    """Units (a node, or a query channel with its key channel when tied) from the last to be cut to the first.

    owner: for each node the node whose mask it uses; order: owners, highest score first.
    """

    owner: np.ndarray
    order: np.ndarray

    def nodes(self, units: int) -> np.ndarray:
        """Sorted node numbers of the first `units` units."""
        return np.flatnonzero(np.isin(self.owner, self.order[:units]))

    def units(self, n_nodes: int) -> int:
        """How many units make at least `n_nodes` nodes."""
        return int(np.searchsorted(np.bincount(self.owner)[self.order].cumsum(), n_nodes)) + 1


def ranking(owner: np.ndarray, scores: np.ndarray) -> Ranking:
    """Units by score (float [n_nodes]), equal ones by number."""
    units = np.unique(owner)
    return Ranking(owner, units[np.argsort(-scores[units], kind="stable")])


@torch.no_grad()
def loss_at(
    model: Subject, graph: Graph, nodes: np.ndarray, sample: Encoded, calibrated: bool
) -> tuple[float, Calibration | None]:
    """task_loss_nats of these nodes alone on a sample, after a calibration fitted to it if wanted."""
    keep = np.zeros(graph.layout.n_nodes, dtype=np.float32)
    keep[nodes] = 1
    z = model.run(sample, masks=split_masks(graph, torch.from_numpy(keep))).gap
    if not calibrated:
        return float(task_loss_nats(z).mean()), None
    fit = Calibration(**dict(zip(("scale", "shift"), fit_calibration(z), strict=True)))
    return float(task_loss_nats(calibrate(z, fit.scale, fit.shift)).mean()), fit


class MaskRanking(NamedTuple):
    """A mask's units, best first, and how many of them it keeps itself."""

    ranked: Ranking
    kept: int


def mask_ranking(owner: np.ndarray, tau: Tensor) -> MaskRanking:
    """The ranking of one trained mask parameter [n_nodes]."""
    values = tau.double().numpy()
    return MaskRanking(ranking(owner, values), int((values[np.unique(owner)] > 0).sum()))


@dataclass(frozen=True, eq=False)
class Sizes:
    """Cuts through one ranking by their number of units, each run once.

    seen: loss in nats and calibration of (units, pairs), on the first so many pairs of the sample.
    """

    model: Subject
    graph: Graph
    mask: MaskRanking
    sample: Encoded
    calibrated: bool
    seen: dict[tuple[int, int], tuple[float, Calibration | None]] = field(default_factory=dict)

    @property
    def most(self) -> int:
        return len(self.mask.ranked.order)

    def loss(self, units: int, pairs: int = EVALUATION_PAIRS) -> float:
        """Task loss in nats of the first `units` units on the sample, or on its first `pairs` pairs."""
        at = units, min(pairs, self.sample.n_pairs)
        if at not in self.seen:
            nodes, part = self.mask.ranked.nodes(units), self.sample.pairs(0, pairs)
            self.seen[at] = loss_at(self.model, self.graph, nodes, part, self.calibrated)
        return self.seen[at][0]

    def whole(self) -> dict[int, tuple[float, Calibration | None]]:
        """Loss and calibration of every size that was run on the whole sample."""
        return {units: found for (units, pairs), found in self.seen.items() if pairs == self.sample.n_pairs}

    def point(self, units: int) -> CurvePoint:
        nodes = self.mask.ranked.nodes(units)
        return CurvePoint(len(nodes), self.graph.count(nodes), self.loss(units))

    def curve(self) -> tuple[CurvePoint, ...]:
        return tuple(sorted(map(self.point, self.whole())))


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """A cut of so many units: its nodes, whether it meets the target, its calibration, its size and loss."""

    units: int
    nodes: np.ndarray
    reached: bool
    calibration: Calibration | None
    point: CurvePoint


def cut_at(sizes: Sizes, target: float) -> Cut:
    """Fewest units of the ranking whose loss meets the target, by bisection from the size of the mask itself.

    As the paper, it takes the loss to fall with size; where it does not, the cut is a size that meets the target next
    to one that does not. When even all nodes miss the target, the best size seen. Most sizes miss or meet the target
    by far (twice, half of it), and a few pairs show it; the cut itself is always tried on the whole sample.
    """
    missed, surely = set[int](), target / 2

    def meets(units: int) -> bool:
        if units not in sizes.whole():
            rough = sizes.loss(units, FEW_PAIRS)
            if rough > 2 * target:
                missed.add(units)
            if rough > 2 * target or rough < surely:
                return rough < surely
        return sizes.loss(units) <= target

    low, high = 0, max(1, sizes.mask.kept)
    while True:
        while not meets(high) and high < sizes.most:  # grow until the target is met
            low, high = high, min(sizes.most, 2 * high)
        reached = meets(high)
        while reached and high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if meets(middle) else (middle, high)
        if not reached or sizes.loss(high) <= target:
            break
        surely = 0.0  # the few pairs misled: from here on without them
    if not reached:
        for units in missed:
            sizes.loss(units)
        high = min(whole := sizes.whole(), key=lambda units: (whole[units][0], units))
    return Cut(
        units=high, nodes=sizes.mask.ranked.nodes(high), reached=reached, calibration=sizes.whole()[high][1],
        point=sizes.point(high),
    )  # fmt: skip
