"""Prune the edges of a weight-sparse transformer's circuit: masks on single non-zero weights, started from nodes.

Gao et al. 2025 (arXiv 2511.13653) prune nodes and count every non-zero weight between two kept nodes; they name edges
as future work. Here the nodes are pruned as they do it (prune.py), and the circuit of every node penalty that meets the
target is a start: one Heaviside mask per edge and per node of it is trained on task loss plus a penalty per edge and
per node, the edges are ranked by their mask and cut at the target loss, and what can still be left out without missing
the target is left out. A cut edge's destination reads the source's reference mean in place of its value.

When it lies: everything prune.py says, and more freedom to fit: look at the held-out loss. A circuit with cut edges
ablates more than one with the same nodes and all their edges, so compare sizes only at one granularity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field

from gossamer.circuit import Calibration, Circuit
from gossamer.discover.mask_training import Adam, learning_rate, split_masks
from gossamer.discover.prune import (
    EVALUATION_PAIRS,
    METHODOLOGY,
    OPTIONS,
    PruneConfig,
    Pruned,
    circuit_gap,
    circuit_loss,
    search,
    smallest,
)
from gossamer.errors import options
from gossamer.mask import heaviside
from gossamer.metric import fit_calibration, paired_accuracy, task_loss_nats
from gossamer.record import Record
from gossamer.registry import method
from gossamer.subject import EdgeMasks, Subject
from gossamer.task import Encoded, Task

FEW_PAIRS = 128
ONE_BY_ONE = 64  # so many edges are left out one by one, weakest first


class EdgePruneConfig(PruneConfig):
    """The search over nodes, and then over edges: every start with every edge penalty.

    edge_coef: penalty per kept edge and per kept node, on the scale of task_loss_nats. edge_steps, edge_lr: as steps
    and lr. tied and ablated hold for the search over nodes only.
    """

    edge_coef: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(4e-3, 8e-3), min_length=1)
    edge_steps: int = Field(default=200, gt=0)
    edge_lr: float = Field(default=1e-2, gt=0)


def edge_prune_config(**changes: Any) -> EdgePruneConfig:
    """The default search with fields changed; a value out of range is BadInput."""
    return options(EdgePruneConfig, changes, OPTIONS)


class EdgeTrial(NamedTuple):
    """A start, a penalty, and the smallest circuit found from them that meets the target, else the start itself."""

    k_coef: float
    start_nodes: int
    start_edges: int
    reached: bool
    nodes: int
    edges: int
    loss_nats: float


@method("prune-edges")
def prune_edges(
    model: Subject, task: Task, config: EdgePruneConfig | None = None, *,
    progress: Callable[[int, int, float], None] | None = None,
) -> Pruned:  # fmt: skip
    """Prune nodes, then edges; scores and curve are those of the nodes, the circuit has granularity `edge`.

    The best trial is the one with the fewest edges, then nodes, among those that reach the target; when the nodes do
    not reach it, nothing is cut and the result is that of `prune`. progress as in `prune`, for each search in turn.
    """
    config = config or EdgePruneConfig()
    nodes_only = PruneConfig.model_validate(config.model_dump(include=set(PruneConfig.model_fields)))
    searched = search(model, task, nodes_only, progress)
    found = smallest(model, task, nodes_only, searched)
    whole = found.circuit
    whole = replace(whole, record=_record(whole.record, config, found.reached, whole.n_edges))
    if not found.reached:
        return replace(found, circuit=whole)
    graph = model.graph("channel")
    train, heldout = searched.train, searched.heldout
    sample = train.pairs(0, EVALUATION_PAIRS)
    best: tuple[Circuit, float] = (whole, found.loss_train)
    trials: list[EdgeTrial] = []
    for cut in searched.cuts:
        if not cut.reached:
            continue
        inside = graph.within(cut.nodes)
        start = Circuit.from_nodes(inside, model.edge_weights(inside), cut.nodes, record=whole.record)
        for coef in config.edge_coef:
            tau_nodes, tau_edges = _train(model, start, train, coef, config, progress)
            circuit, loss = _cut(model, start, tau_nodes, tau_edges, sample, config)
            trials.append(EdgeTrial(
                coef, start.n_nodes, start.n_edges, loss <= config.target_loss, circuit.n_nodes, circuit.n_edges, loss
            ))  # fmt: skip
            if loss <= config.target_loss and (circuit.n_edges, circuit.n_nodes) < (best[0].n_edges, best[0].n_nodes):
                best = circuit, loss
    circuit = best[0]
    return Pruned(
        scores=found.scores, circuit=circuit, reached=True, loss_train=best[1],
        loss_heldout=float(circuit_loss(model, circuit, heldout).mean()),
        accuracy_heldout=float(paired_accuracy(circuit_gap(model, circuit, heldout)).mean()),
        curve=found.curve, trials=(*found.trials, *trials),
    )  # fmt: skip


def _record(nodes: Record, config: EdgePruneConfig, reached: bool, edges: int) -> Record:
    details = {**nodes.details, "edges_of_node_circuit": edges, "reached": reached}
    return nodes.model_copy(
        update={"method": "prune-edges", "config": config.model_dump(mode="json"), "details": details}
    )


def _train(
    model: Subject, start: Circuit, train: Encoded, coef: float, config: EdgePruneConfig,
    progress: Callable[[int, int, float], None] | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Mask parameters of the start's nodes and of its edges after training."""
    generator = torch.Generator().manual_seed(config.seed)
    n, graph = start.n_nodes, model.graph("channel")
    noise = torch.randn(n + start.n_edges, generator=generator)
    tau = (config.init_noise_bias + config.init_noise_scale * noise).clamp_(-1, 1)[None].requires_grad_()
    own = {k: torch.tensor([[getattr(config, k)]]) for k in ("beta2", "weight_decay", "grad_clip")}
    adam = Adam(tau, **own)
    edges = np.stack([start.src, start.dst, start.matrix])
    nodes = torch.from_numpy(start.nodes)
    batches = train.batches(config.batch_pairs, config.seed)
    for step in range(config.edge_steps):
        m = heaviside(tau, config.temperature)[0]
        every = torch.zeros(graph.layout.n_nodes).index_put((nodes,), m[:n])
        gap = model.run(next(batches), masks=split_masks(graph, every), edges=EdgeMasks(edges, m[n:])).gap
        loss = task_loss_nats(gap).mean()
        (loss + (coef * m.sum()).to(loss.device)).backward()
        adam.step(torch.tensor([[learning_rate(step, config.edge_steps, config.edge_lr, config.warmup_fraction)]]))
        if progress and (step % 20 == 19 or step + 1 == config.edge_steps):
            progress(step + 1, config.edge_steps, float(loss.detach()))
    values = tau[0].detach().double().numpy()
    return values[:n], values[n:]


def _cut(
    model: Subject, start: Circuit, tau_nodes: np.ndarray, tau_edges: np.ndarray, sample: Encoded,
    config: EdgePruneConfig,
) -> tuple[Circuit, float]:  # fmt: skip
    """The fewest edges, then nodes, that meet the target: bisection along the ranking, then leaving out what can be."""

    def tried(alive: np.ndarray, edges: np.ndarray, pairs: Encoded) -> tuple[Circuit, float]:
        """The start with some of its nodes (bool) and of its edges (indices) left, and its loss."""
        part = replace(start, nodes=start.nodes[alive]).only(np.sort(_within(start, alive, edges)))
        part = replace(part, calibration=_fit(model, part, pairs) if config.calibrate else None)
        return part, float(circuit_loss(model, part, pairs).mean())

    def meets(alive: np.ndarray, edges: np.ndarray) -> bool:
        few = tried(alive, edges, sample.pairs(0, FEW_PAIRS))[1]  # most that miss the target miss it by far
        return few <= 2 * config.target_loss and tried(alive, edges, sample)[1] <= config.target_loss

    alive, order = tau_nodes > 0, np.argsort(-tau_edges, kind="stable")
    order = _within(start, alive, order)
    if not meets(alive, order):
        alive, order = np.ones(start.n_nodes, dtype=bool), np.argsort(-tau_edges, kind="stable")
        if not meets(alive, order):
            return tried(alive, order, sample)
    low, high = -1, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(alive, order[:middle]) else (middle, high)
    edges = order[: max(high, int((tau_edges[order] > 0).sum()))]
    if len(edges) > ONE_BY_ONE:
        edges = thin(order[:high][::-1], lambda left: meets(alive, left), smallest=len(order) // ONE_BY_ONE + 1)
    if len(edges) <= 2 * ONE_BY_ONE:
        few = sample.pairs(0, FEW_PAIRS)
        edges = weakest_first(edges, lambda left: tried(alive, left, few)[1], lambda left: meets(alive, left))
    else:
        edges = thin(edges[::-1], lambda left: meets(alive, left))
    nodes = np.flatnonzero(alive)
    nodes = thin(
        nodes[np.argsort(tau_nodes[nodes], kind="stable")],
        lambda left: meets(np.isin(np.arange(start.n_nodes), left), edges),
    )
    return tried(np.isin(np.arange(start.n_nodes), nodes), edges, sample)


def _within(start: Circuit, alive: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Those of the edges (indices) whose ends are alive (bool over the start's nodes)."""
    ends = start.nodes[alive]
    return edges[np.isin(start.src[edges], ends) & np.isin(start.dst[edges], ends)]


@torch.no_grad()
def _fit(model: Subject, circuit: Circuit, sample: Encoded) -> Calibration:
    z = model.run(sample, ablation=circuit.as_ablation(METHODOLOGY)).gap
    return Calibration(**dict(zip(("scale", "shift"), fit_calibration(z), strict=True)))


def thin(items: np.ndarray, holds: Callable[[np.ndarray], bool], smallest: int = 1) -> np.ndarray:
    """Leave out, from the front, what can be left out while the rest `holds`: halves first, then down to `smallest`."""
    size = max(smallest, len(items) // 2)
    while True:
        at = 0
        while at < len(items):
            rest = np.delete(items, slice(at, at + size))
            if holds(rest):
                items = rest
            else:
                at += size
        if size <= smallest:
            return items
        size //= 2


def weakest_first(
    items: np.ndarray, loss: Callable[[np.ndarray], float], holds: Callable[[np.ndarray], bool]
) -> np.ndarray:
    """Leave out one item after the other, each time the one without which the loss is smallest, while the rest `holds`.

    When that one cannot be left out, the next two are tried before it ends.
    """
    while len(items):
        losses = [loss(np.delete(items, i)) for i in range(len(items))]
        for i in np.argsort(losses, kind="stable")[:3]:
            rest = np.delete(items, i)
            if holds(rest):
                items = rest
                break
        else:
            return items
    return items
