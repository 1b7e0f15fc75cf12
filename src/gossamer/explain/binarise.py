"""Is every node of a circuit a two-valued variable? Gao et al. 2025, appendix C.

Each node x is replaced by psi_t(x) = t x + (1 - t) step(x), step(x) = low if x < (low + high) / 2 else high. psi_1 is
the identity, and low and high are fixed points of psi_t for every t. t falls from 1 to 0 as (1 - progress)^5 while the
two values of every node are trained on the task loss of the circuit (everything outside it mean-ablated). That is
noisy, as the authors say: a cut follows its two values over the node's own without a gradient that would say so. So the
values that are kept are the best, at t = 0 on training pairs, of the start, every 20th step and the end.

Gradients: psi is differentiated with respect to low and high where it takes them, (1 - t) on the side chosen; the
cut moves with its two values and has no gradient of its own. To x the gradient passes as through the identity
(straight through), whatever t: with the true slope t nothing would reach the nodes upstream once t is near 0.

The start: at a cut at 1/4, 1/2 and 3/4 of a node's range on the training prompts, low and high are the means on either
side; the node takes the one of three with the lowest task loss when it alone is binarised.

When it lies: a low loss says that two values are enough for these prompts, not that the model uses two; a node that
is constant on the task binarises for nothing, so read its loss as a constant beside it. All positions share the two
values. Training moves the values to where the circuit works, away from what the node computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from gossamer.ablation import methodology
from gossamer.circuit import Circuit
from gossamer.errors import BadInput, options
from gossamer.evidence import Evidence, Null
from gossamer.explain.effects import node_effects
from gossamer.metric import calibrate, paired_accuracy, task_loss_nats
from gossamer.site import Site
from gossamer.statistics import bootstrap_interval, quantile_interval
from gossamer.subject import Subject
from gossamer.task import Encoded, Task

METHODOLOGY = "gao-mean"
CUTS = (0.25, 0.5, 0.75)
TRIALS_PER_PASS = 8
START_PAIRS = 128
DRAWS = 20


class BinariseConfig(BaseModel):
    """lr: in units of a node's range, decaying linearly to 0; at 0.01 circuits die as t nears 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(default=400, gt=1)
    batch_pairs: int = Field(default=32, gt=0)
    lr: float = Field(default=3e-3, gt=0)
    seed: int = Field(default=0, ge=0)


def binarise_config(**changes: Any) -> BinariseConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(BinariseConfig, changes, "set of binarisation options")


class _Psi(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, t: Tensor) -> Tensor:
        below = x < (low + high) / 2
        ctx.save_for_backward(below, t)
        ctx.shape = low.shape
        return torch.lerp(torch.where(below, low, high), x, t.expand_as(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        below, t = ctx.saved_tensors
        to_step = grad * (1 - t)
        to_low = (to_step * below).sum_to_size(ctx.shape)
        return grad, to_low, to_step.sum_to_size(ctx.shape) - to_low, None


def psi(x: Tensor, low: Tensor, high: Tensor, t: Tensor) -> Tensor:
    """t x + (1 - t) (low if x < (low + high) / 2 else high); shapes broadcast to that of x. low <= high, t in [0, 1].

    Exact at t = 1 (x itself) and, for every t, at x = low and x = high. For gradients see the module.
    """
    return _Psi.apply(x, low, high, t)


def two_valued(circuit: Circuit, low: Tensor, high: Tensor, t: Tensor) -> Callable[[str, Tensor], Tensor]:
    """psi at every node of a circuit, as an edit for a model's run.

    low, high, t: [trials, n_nodes], in the order of the circuit's nodes; t is 1 for a node to be left alone.
    """
    places: dict[str, tuple[Tensor, Tensor]] = {}
    for name, inside in circuit.kept_by_location().items():
        if inside.any():
            start = circuit.layout.starts[name]
            channels = np.flatnonzero(inside)
            at = np.searchsorted(circuit.nodes, channels + start)
            places[name] = torch.from_numpy(channels).to(low.device), torch.from_numpy(at).to(low.device)

    def edit(location: str, x: Tensor) -> Tensor:
        if location not in places:
            return x
        channels, at = places[location]
        by_trial = x.index_select(-1, channels).unflatten(0, (len(t), -1))
        own = (p[:, None, None, at] for p in (low, high, t))
        return x.index_copy(-1, channels, psi(by_trial, *own).flatten(0, 1))

    return edit


class BinaryNode(NamedTuple):
    """A node as a two-valued variable: `low` below `cut` = (low + high) / 2, else `high`.

    Held-out task losses of the circuit in nats: loss_alone, only this node binarised; loss_constant, only this node at
    its mean.
    """

    site: Site
    low: float
    high: float
    cut: float
    loss_alone: float
    loss_constant: float


@dataclass(frozen=True, kw_only=True)
class Binarised:
    """The nodes, and the Evidence of task loss and of paired accuracy with all of them binarised at once."""

    nodes: tuple[BinaryNode, ...]
    loss_before: float
    accuracy_before: float
    evidence: tuple[Evidence, Evidence]


def gaps(model: Subject, circuit: Circuit, batch: Encoded, low: Tensor, high: Tensor, t: Tensor) -> Tensor:
    """Logit gap [trials, rows] of the circuit with psi at its nodes, calibrated as the circuit is."""
    keep = circuit.as_ablation(METHODOLOGY).keep
    masks = {k: torch.from_numpy(v).to(low).expand(len(t), -1) for k, v in keep.items()}
    z = model.run(batch, masks=masks, then=two_valued(circuit, low, high, t)).gap.unflatten(0, (len(t), -1))
    return calibrate(z, circuit.calibration.scale, circuit.calibration.shift) if circuit.calibration else z


@torch.no_grad()
def _in_passes(model: Subject, circuit: Circuit, batch: Encoded, low: Tensor, high: Tensor, t: Tensor) -> Tensor:
    """`gaps` of many trials, a few at a time."""
    parts = zip(*(p.split(TRIALS_PER_PASS) for p in (low, high, t)), strict=True)
    return torch.cat([gaps(model, circuit, batch, *part) for part in parts])


@torch.no_grad()
def node_values(model: Subject, circuit: Circuit, batch: Encoded) -> list[Tensor]:
    """Per node its values over all tokens of all prompts, in the circuit alone."""
    locations = sorted({s.location for s in circuit.sites})
    reads = model.run(batch, ablation=circuit.as_ablation(METHODOLOGY), reads=locations).reads
    real = torch.arange(batch.tokens.shape[1]) <= batch.last[:, None]
    return [reads[s.location][..., s.index][real.to(reads[s.location].device)] for s in circuit.sites]


def starts(model: Subject, circuit: Circuit, batch: Encoded) -> tuple[Tensor, Tensor, Tensor]:
    """(low, high, range), each [n_nodes]: for every node the best of three cuts by its loss when binarised alone."""
    lows, highs, ranges = [], [], []
    for x in node_values(model, circuit, batch):
        least, most = x.min(), x.max()
        ranges.append(most - least)
        for fraction in CUTS:
            below = x < least + fraction * (most - least)
            lows.append(x[below].mean() if bool(below.any()) else x.mean())
            highs.append(x[~below].mean())
    n = circuit.n_nodes
    low, high = (torch.stack(v).view(n, len(CUTS)) for v in (lows, highs))
    which = torch.arange(n).repeat_interleave(len(CUTS))
    trial_low, trial_high = low[:, :1].T.repeat(len(which), 1), high[:, :1].T.repeat(len(which), 1)
    t = torch.ones_like(trial_low)
    rows = torch.arange(len(which))
    trial_low[rows, which], trial_high[rows, which], t[rows, which] = low.flatten(), high.flatten(), 0.0
    losses = task_loss_nats(_in_passes(model, circuit, batch, trial_low, trial_high, t)).mean(-1).view(n, len(CUTS))
    best = losses.argmin(1, keepdim=True)
    return low.gather(1, best)[:, 0], high.gather(1, best)[:, 0], torch.stack(ranges)


def train_levels(
    model: Subject, circuit: Circuit, train: Encoded, start: tuple[Tensor, Tensor, Tensor], config: BinariseConfig,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(low, high), each [n_nodes]: the best that training met as t went from 1 to 0, or the start."""
    low0, high0, width = start
    shifts = torch.zeros(2, len(width), dtype=width.dtype, device=width.device, requires_grad=True)
    optimizer = torch.optim.Adam([shifts], lr=config.lr)
    order, sample = train.batches(config.batch_pairs, config.seed), train.pairs(0, START_PAIRS)

    def levels() -> tuple[Tensor, Tensor]:
        return low0 + width * shifts[0], high0 + width * shifts[1]

    def binary_loss(low: Tensor, high: Tensor) -> float:
        z = _in_passes(model, circuit, sample, low[None], high[None], torch.zeros_like(low)[None])
        return float(task_loss_nats(z).mean())

    best = (low0, high0)
    lowest = binary_loss(*best)
    for step in range(config.steps):
        left = 1 - step / (config.steps - 1)
        optimizer.param_groups[0]["lr"] = config.lr * (left + 1 / config.steps)
        low, high = levels()
        t = torch.full_like(width, left**5)[None]
        z = gaps(model, circuit, next(order), low[None], high[None], t)
        loss = task_loss_nats(z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            low, high = levels()
            crossed = ((low - high) / width.clamp_min(1e-12)).clamp_min(0) / 2
            shifts[0] -= crossed
            shifts[1] += crossed
            if step % 20 == 19 or step + 1 == config.steps:
                low, high = levels()
                low, high = torch.minimum(low, high), torch.maximum(low, high)
                if (own := binary_loss(low, high)) < lowest:
                    lowest, best = own, (low, high)
                if progress:
                    progress(step + 1, config.steps, float(loss.detach()))
    return best


def binarise(
    model: Subject, task: Task, circuit: Circuit, *, target_loss: float, config: BinariseConfig | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Binarised:  # fmt: skip
    """Each node of a circuit as a two-valued variable, trained on the training pairs and measured on held-out ones.

    Controls beside every number: the circuit as it is, all nodes at their means (the empty circuit), the start without
    training, and every node with the two values of another, at random (20 draws). Passes like `verify` does: the
    interval reaches the target loss and no random draw does as well. Errors: BadInput for an empty circuit.
    """
    config = config or BinariseConfig()
    if not circuit.n_nodes:
        raise BadInput("Expected a circuit with nodes to binarise, got an empty one; find one that reaches its target.")
    train, heldout = model.encode(task.train), model.encode(task.heldout)
    start = starts(model, circuit, train.pairs(0, START_PAIRS))
    low, high = train_levels(model, circuit, train, start, config, progress)
    n, ones = circuit.n_nodes, torch.ones_like(low)

    def all_at_once(low: Tensor, high: Tensor) -> Tensor:
        return _in_passes(model, circuit, heldout, low, high, torch.zeros_like(low))

    rng = np.random.default_rng(config.seed)
    orders = [rng.permutation(n) for _ in range(DRAWS)]  # each node takes the values of the next in a random order
    deals = [torch.from_numpy(np.roll(o, -1)[np.argsort(o)]).to(low.device) for o in orders]
    after, untrained = all_at_once(low[None], high[None]), all_at_once(start[0][None], start[1][None])
    shuffled = all_at_once(*(torch.stack([p[d] for d in deals]) for p in (low, high)))
    before = _in_passes(model, circuit, heldout, low[None], high[None], ones[None])
    constant = _constant(model, circuit, heldout)
    alone = _in_passes(
        model, circuit, heldout, low.expand(n, n), high.expand(n, n), 1 - torch.eye(n, dtype=low.dtype).to(low.device)
    )
    loss_alone = task_loss_nats(alone).mean(-1)
    loss_before = float(task_loss_nats(before).mean())
    effects = node_effects(model, circuit, heldout)
    nodes = tuple(
        BinaryNode(site, float(a), float(b), float((a + b) / 2), float(own), loss_before + float(effect))
        for site, a, b, own, effect in zip(circuit.sites, low, high, loss_alone, effects, strict=True)
    )
    controls = {"circuit as it is": before, "all nodes at their means": constant, "start, not trained": untrained}
    evidence = tuple(
        _evidence(score, name, after, shuffled, controls, target_loss, config.seed)
        for score, name in ((task_loss_nats, "loss"), (paired_accuracy, "accuracy"))
    )
    return Binarised(
        nodes=nodes, loss_before=loss_before, accuracy_before=float(paired_accuracy(before).mean()),
        evidence=(evidence[0], evidence[1]),
    )  # fmt: skip


@torch.no_grad()
def _constant(model: Subject, circuit: Circuit, batch: Encoded) -> Tensor:
    """Logit gap [1, rows] with every node at its mean, calibrated as the circuit is."""
    z = model.run(batch, masks={k: torch.zeros(w) for k, w in circuit.layout.locations}).gap[None]
    return calibrate(z, circuit.calibration.scale, circuit.calibration.shift) if circuit.calibration else z


def _evidence(
    score: Callable[[Tensor], Tensor], name: str, after: Tensor, shuffled: Tensor, controls: dict[str, Tensor],
    target_loss: float, seed: int,
) -> Evidence:  # fmt: skip
    own = score(after)[0].cpu().double().numpy()
    draws = score(shuffled).mean(-1).cpu().double().numpy()
    value, interval = float(own.mean()), bootstrap_interval(own, seed)
    shuffled_null = Null(
        name="values of other nodes, at random", value=float(draws.mean()), interval=quantile_interval(draws),
        n=len(draws),
    )  # fmt: skip
    nulls = [shuffled_null]
    for what, z in controls.items():
        x = score(z)[0].cpu().double().numpy()
        nulls.append(Null(name=what, value=float(x.mean()), interval=bootstrap_interval(x, seed), n=len(x)))
    if name == "loss":
        good = interval[0] <= target_loss and value < draws.min()
        bound = f"fails if the interval lies above {target_loss:g} nats or any random draw does as well"
    else:
        good = interval[0] > 0.25 and value > draws.max()
        bound = "fails if the interval reaches a coin's 0.25 or any random draw does as well"
    return Evidence(
        claim=f"binarisation, {name}: two values per node are enough", value=value,
        unit="nats of task loss" if name == "loss" else "share of pairs", interval=interval, n=len(own),
        nulls=tuple(nulls), verdict="pass" if good else "fail", methodology=methodology(METHODOLOGY).as_dict(),
        threshold=bound, seed=seed, note="every node of the circuit has one of two values, at every position",
    )  # fmt: skip
