"""Learned masks over edges: hard-concrete ones, trained to keep the model's answers with few edges.

A mask per edge: Edge Pruning of Bhaskar et al. 2024 (arXiv 2406.16778). One for all edges out of a node: Subnetwork
Probing of Cao, Sanh and Rush 2021 (arXiv 2104.03514), as Conmy et al. 2023 run it beside ACDC. The masks are those of
Louizos et al. 2018 (arXiv 1712.01312). A step samples them, gives every reader the counterfactual prompt's write for
the part that its mask takes away, and descends

    metric + penalty x (expected number of edges kept)

so the penalty is what an edge must be worth, as ACDC's threshold is. With a target size it descends the metric alone,
all log alphas being lowered alike after a step until the expected number of edges kept is within a budget, which falls
to the target in the first half of the steps (ours; the papers raise a multiplier until the size is met).

When it lies: of two edges of which either is enough both stay, as long as a sample may lose one of them, or one by
chance; an edge that the metric barely needs stays or goes by the penalty; with few steps masks are undecided (the
record counts them); a value that is the same in both prompts is invisible; with the metric logit-difference, edges that
hold the difference down are dropped though the model uses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gossamer.ablation import Methodology, of_edges
from gossamer.discover.eap import Ablated, Progress, training_pairs
from gossamer.discover.room import probed, room_for
from gossamer.errors import BadInput, options
from gossamer.mask import hard_concrete, probability_kept
from gossamer.metric import row_metric
from gossamer.record import Record
from gossamer.registry import method
from gossamer.replacement import replacement
from gossamer.scores import EdgeScores
from gossamer.subject import Probe, ResidualSubject
from gossamer.task import Encoded, Task, sides

START = 2.0  # log alpha of every mask at first: 97% of the samples are not 0


class EdgeMaskConfig(BaseModel):
    """metric: KL(model || circuit) at the answer's position in nats, or the drop of the logit difference, or of that of
    whole answers, which may be several tokens.

    over: one mask per edge, or one per node for all edges out of it. penalty: per edge kept, in units of the metric;
    target: edges to end with, in place of the penalty. lr: of Adam. pairs: of the training split; batch: pairs a step.
    positions: where masks take away, `all`, `last` or a span of the pairs. memory: a budget such as "8GB", weights
    included, for which the pairs of a step go one part after the other; the gradients are the same but for rounding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: Literal["kl", "logit-difference", "sequence-log-probability"] = "kl"
    over: Literal["edges", "nodes"] = "edges"
    penalty: float = Field(default=0.01, ge=0)
    target: int | None = Field(default=None, gt=0)
    steps: int = Field(default=400, gt=0)
    lr: float = Field(default=0.1, gt=0)
    pairs: int = Field(default=64, gt=0)
    ablation: Ablated = "resample"
    positions: str = "all"
    batch: int = Field(default=16, gt=0)
    seed: int = Field(default=0, ge=0)
    memory: str | None = None


def edge_mask_config(**changes: Any) -> EdgeMaskConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(EdgeMaskConfig, changes, "set of options")


@method("edge-mask")
def edge_mask(
    model: ResidualSubject, task: Task, config: EdgeMaskConfig | None = None, *, progress: Progress | None = None
) -> EdgeScores:
    """How probable it is that each edge is kept, 0 to 1: `.above(0.5)` is the circuit, `.top(k)` one of another size.

    progress(steps done, all steps, loss). The same seed gives the same numbers on the same machine. Errors: BadInput
    for a target that is more than all edges.
    """
    config = config or EdgeMaskConfig()
    graph, (task, pairs) = model.graph(), training_pairs(model, task, config)
    if config.target is not None and config.target > graph.n_edges:
        raise BadInput(f"Expected a target of at most {graph.n_edges} edges, got {config.target}; give a smaller one.")
    owner = np.unique(graph.src, return_inverse=True)[1] if config.over == "nodes" else np.arange(graph.n_edges)
    log_alpha, losses = _train(model, pairs, owner, config, progress)
    kept = probability_kept(log_alpha).cpu().double().numpy()[owner]
    model_hash, means_hash = model.hashes()
    record = Record.now(
        method="edge-mask", config=config.model_dump(mode="json"), seed=config.seed, model=model.name,
        model_sha256=model_hash, means_sha256=means_hash, task=task.name, task_version=task.version,
        details={
            "pairs": pairs.n_pairs, "left_out": dict(task.left_out), "methodology": _how(model, config).as_dict(),
            "sign": "none: the probability that the edge is kept",
            "kept": int((kept > 0.5).sum()), "undecided": int(((kept > 0.1) & (kept < 0.9)).sum()),
            "loss_at_end": losses[-1],
        },
    )  # fmt: skip
    return EdgeScores(graph=graph, values=kept, record=record)


def _how(model: ResidualSubject, config: EdgeMaskConfig) -> Methodology:
    component: Literal["head", "block"] = "block" if model.graph().layout.grain == "block" else "head"
    return of_edges(config.ablation, component=component, positions=config.positions)


@probed("edge-mask")
def _probe(model: ResidualSubject, config: EdgeMaskConfig) -> Probe:
    def probe(pairs: Encoded, trials: int) -> Iterator[None]:
        clean, other = sides(pairs)
        reference = replacement(model, pairs, _how(model, config), pairs_at_once=pairs.n_pairs)(clean, other)
        whole = model.writes(clean)[1]
        keep = torch.full((model.graph().n_edges,), 0.5, device=reference.device, requires_grad=True)
        loss_of(config, clean, whole, model.patched(clean, 1 - keep, reference)).backward()
        yield

    return probe


def loss_of(config: EdgeMaskConfig, clean: Encoded, whole: Tensor, logits: Tensor) -> Tensor:
    """The metric, mean over rows: logits [rows, vocab] of the circuit against those of the whole model."""
    per_row = row_metric(config.metric, clean, whole)
    values = per_row(logits) if config.metric == "kl" else per_row(whole) - per_row(logits)
    return values.float().mean()


def _train(
    model: ResidualSubject, pairs: Encoded, owner: np.ndarray, config: EdgeMaskConfig, progress: Progress | None
) -> tuple[Tensor, list[float]]:
    """(log alpha of every mask, loss of every step). owner: the mask of each edge."""

    part = room_for(model, pairs, config, "edge-mask", most=config.batch).pairs
    replaced = replacement(model, pairs, _how(model, config), pairs_at_once=part)

    @lru_cache(maxsize=1)
    def prepared(start: int, stop: int) -> tuple[Encoded, Tensor, Tensor]:
        """Clean prompts, what they are ablated by, and the whole model's logits."""
        clean, other = sides(pairs.pairs(start, stop))
        return clean, replaced(clean, other), model.writes(clean)[1]

    device, n = prepared(0, min(part, pairs.n_pairs))[1].device, len(owner)
    index, sizes = torch.from_numpy(owner).to(device), torch.from_numpy(np.bincount(owner)).to(device).float()
    log_alpha = torch.full((len(sizes),), START, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([log_alpha], lr=config.lr)
    generator, rng = torch.Generator().manual_seed(config.seed), np.random.default_rng(config.seed)
    order: list[int] = []
    losses: list[float] = []
    for step in range(config.steps):
        order = order or rng.permutation(np.arange(0, pairs.n_pairs, config.batch)).tolist()
        start = order.pop()
        stop = min(start + config.batch, pairs.n_pairs)
        sampled = hard_concrete(log_alpha, torch.rand(len(sizes), generator=generator).to(device))
        keep = sampled.detach().requires_grad_()
        optimizer.zero_grad()
        losses.append(0.0)
        for begin in range(start, stop, part):
            end = min(begin + part, stop)
            clean, reference, whole = prepared(begin, end)
            loss = loss_of(config, clean, whole, model.patched(clean, 1 - keep[index], reference))
            loss = loss * ((end - begin) / (stop - start))
            loss.backward()
            losses[-1] += float(loss.detach())
        if config.target is None:
            (config.penalty * (probability_kept(log_alpha) * sizes).sum()).backward()
        sampled.backward(keep.grad)
        optimizer.step()
        if config.target is not None:
            _within(log_alpha, sizes, n + min(1.0, 2 * (step + 1) / config.steps) * (config.target - n))
        if progress:
            progress(step + 1, config.steps, losses[-1])
    return log_alpha.detach(), losses


@torch.no_grad()
def _within(log_alpha: Tensor, sizes: Tensor, budget: float) -> None:
    """Lower all log alphas alike, in place, until the expected number of edges kept is at most the budget."""
    low, high = 0.0, 50.0
    if float((probability_kept(log_alpha) * sizes).sum()) <= budget:
        return
    for _ in range(30):
        middle = (low + high) / 2
        enough = float((probability_kept(log_alpha - middle) * sizes).sum()) <= budget
        low, high = (low, middle) if enough else (middle, high)
    log_alpha.sub_(high)
