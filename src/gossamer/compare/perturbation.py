"""Perturb a dense model through a node of a sparse one (Gao et al. 2025, sections 2.3 and A.4).

The node is a channel c that a sublayer of the sparse model reads after its RMSNorm, `i.attn.act_in:c` or
`i.mlp.act_in:c`. With delta_t = its activation on the pair's other prompt minus that on the presented one, at every
token t, the dense model's read of the same sublayer becomes

    read_t + strength * delta_t * direction,    direction = gain_dense * decoder[:, c] / gain_sparse[c] * rms_s / rms_d.

Why that scale: a read is gain * residual / RMS(residual), and the decoder maps residuals before their norm. So
delta_t / gain_sparse[c] * rms_s is the change of the sparse residual's channel, times the decoder's column that of the
dense residual, and gain_dense / rms_d makes it a change of the dense read (rms: mean over the prompts' tokens).
The decoder has learned the scale between the two residual streams, the reads after a norm have none: the ratio of the
mean RMS takes it out again. In a model bridged to itself by identities the formula replaces the node by its value on
the other prompt, exactly.

When it lies: a mean RMS stands for one per token; the change is added whether or not the dense model could ever have
such a read; and any direction that happens to hold the dense model's own feature moves its answer, which is why random
directions of the same norm stand beside the curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null
from gossamer.models.bridge import BridgedPair
from gossamer.models.loaded import LoadedModel
from gossamer.models.sparse import Edit, Norm, SparseTransformer
from gossamer.site import Site
from gossamer.statistics import bootstrap_interval, quantile_interval
from gossamer.task import Encoded, Example, Task

STRENGTHS = tuple(i / 10 for i in range(11))
DIRECTIONS = 32
PAIRS = 128
METHODOLOGY = {
    "granularity": "node", "component": "channel", "positions": "all", "direction": "presented, each prompt of a pair",
    "value": "presented read + strength * (counterfactual - presented activation of the sparse node), through the "
    "bridge's decoder", "set": "one sparse node", "reference": "the pair's other prompt",
}  # fmt: skip


class Point(NamedTuple):
    """One strength. probability: of the counterfactual answer, of the two candidates, mean over both prompts of every
    pair, with its bootstrap interval over pairs; gap: counterfactual minus presented answer's logit; random: the mean
    over random directions of that probability, with the central 95% of the directions."""

    strength: float
    probability: float
    interval: tuple[float, float]
    gap: float
    random: float
    random_interval: tuple[float, float]


class Perturbation(NamedTuple):
    """A node's curve over strengths, and its Evidence."""

    node: Site
    curve: tuple[Point, ...]
    evidence: Evidence


def _swap(x: Tensor) -> Tensor:
    """Rows 2i and 2i + 1 exchanged."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _aligned(model: LoadedModel, examples: Sequence[Example], most: int) -> tuple[Encoded, int]:
    """Up to `most` pairs whose prompts have equal length, as tokens, and how many of those looked at had not."""
    batch = model.encode(examples)
    same = batch.last[0::2] == batch.last[1::2]
    if not bool(same.any()):
        raise BadInput("Expected pairs whose two prompts have as many tokens each; none of this task's have.")
    pairs = same.nonzero()[:most, 0]
    rows = torch.stack([2 * pairs, 2 * pairs + 1], dim=1).flatten()
    return Encoded(*(t[rows] for t in batch)).pairs(0, len(pairs)), int((~same[: int(pairs[-1]) + 1]).sum())


def _site_of(node: Site, model: SparseTransformer) -> int:
    """The sublayer that reads a node; BadInput for a node that is no residual channel read by one."""
    location, _, name = node.location.partition(".")
    known = name in ("attn.act_in", "mlp.act_in") and int(location) < model.config.n_layer
    if not known or node.index is None or node.index >= model.config.d_model:
        raise BadInput(
            f"Expected a read of the sparse model, I.attn.act_in:C or I.mlp.act_in:C with a layer I below "
            f"{model.config.n_layer} and a channel C below {model.config.d_model}, got {node}."
        )
    return 2 * int(location) + (name == "mlp.act_in")


def _norm(model: SparseTransformer, site: int) -> Norm:
    block = model.blocks[site // 2]
    return block.ln_2 if site % 2 else block.ln_1


@torch.no_grad()
def _mean_rms(model: SparseTransformer, batch: Encoded, site: int) -> float:
    """Mean over the prompts' tokens of the root mean square of the residual at a site."""
    tokens = batch.tokens.to(model.wte.weight.device)
    real = torch.arange(tokens.shape[1], device=tokens.device) <= batch.last.to(tokens.device)[:, None]
    return float(model.residuals(tokens)[site].square().mean(-1).sqrt()[real].mean())


def _gap(model: SparseTransformer, batch: Encoded, edit: Edit | None) -> Tensor:
    """Counterfactual minus presented answer's logit per row, at its last token."""
    tokens = batch.tokens.to(model.wte.weight.device)
    rows, last = torch.arange(len(tokens), device=tokens.device), batch.last.to(tokens.device)
    h = model.hidden(tokens, edit or (lambda _, x: x))[rows, last]
    logits = model.unembed(h, tokens[rows, last])
    wrong, right = (t.to(tokens.device)[:, None] for t in (batch.wrong, batch.answer))
    return (logits.gather(1, wrong) - logits.gather(1, right))[:, 0]


def _add(location: str, delta: Tensor, direction: Tensor, strength: float) -> Edit:
    def edit(name: str, x: Tensor) -> Tensor:
        if name != location:
            return x
        change = strength * delta[..., None] * direction
        return torch.cat([x[..., : len(direction)] + change, x[..., len(direction) :]], dim=-1)

    return edit


def direction_of(pair: BridgedPair, node: Site, batch: Encoded) -> Tensor:
    """[d_dense]: what one unit of the sparse node's activation adds to the dense model's read (module docstring)."""
    sparse, dense = pair.sparse.model, pair.dense.model
    site = _site_of(node, sparse)
    own = float(_norm(sparse, site).weight[node.index])
    if own == 0:
        raise BadInput(f"The norm before {node} has gain 0: the node is always 0; choose another node.")
    ratio = _mean_rms(sparse, batch, site) / _mean_rms(dense, batch, site)
    _, decoder = pair.bridge.maps(site)
    return _norm(dense, site).weight * decoder.weight[:, node.index] * (ratio / own)


@torch.no_grad()
def perturbation(
    pair: BridgedPair, node: Site, task: Task, *, strengths: Sequence[float] = STRENGTHS, directions: int = DIRECTIONS,
    seed: int = 0, progress: Callable[[int, int, float], None] | None = None,
) -> Perturbation:  # fmt: skip
    """The dense model's answers on held-out pairs as it is pushed along a sparse node, each prompt of a pair presented.

    strengths: 0 to 1, rising, from 0 (the dense model as it is) to 1. The random directions have the norm of the
    node's, so the change has the same norm at every token of every prompt. Passes if the probability of the
    counterfactual answer rises with every strength and no random direction moves it as far.

    Errors: BadInput for a node that is no read, strengths that do not rise from 0 to 1, pairs of unequal lengths only.
    """
    s = np.asarray(strengths, dtype=np.float64)
    if len(s) < 2 or s[0] != 0 or s[-1] != 1 or not (np.diff(s) > 0).all() or directions < 2 or seed < 0:
        raise BadInput(
            f"Expected strengths that rise from 0 to 1, at least two random directions and a seed of at least 0, got "
            f"{list(strengths)}, {directions} and {seed}."
        )
    _site_of(node, pair.sparse.model)
    batch, unequal = _aligned(pair.dense, task.heldout, PAIRS)
    own = pair.sparse.run(batch, reads=(node.location,)).reads[node.location][..., node.index]
    delta, wanted = _swap(own) - own, direction_of(pair, node, batch)
    drawn = torch.randn(directions, len(wanted), generator=torch.Generator().manual_seed(seed)).to(wanted)
    drawn *= wanted.norm() / drawn.norm(dim=-1, keepdim=True)
    total, done = len(s) * (directions + 1), 0
    gaps = np.zeros((directions + 1, len(s), len(own)))
    for i, direction in enumerate((wanted, *drawn)):
        for j, strength in enumerate(strengths):
            edit = _add(node.location, delta, direction, strength)
            gaps[i, j] = _gap(pair.dense.model, batch, edit).double().cpu().numpy()
            done += 1
        if progress:
            progress(done, total, float(gaps[i].mean()))
    by_pair = (1 / (1 + np.exp(-gaps))).reshape(directions + 1, len(s), -1, 2).mean(-1)
    means = by_pair.mean(-1)
    curve = tuple(
        Point(
            float(strength), float(means[0, j]), bootstrap_interval(by_pair[0, j], seed), float(gaps[0, j].mean()),
            float(means[1:, j].mean()), quantile_interval(means[1:, j]),
        )
        for j, strength in enumerate(s)
    )  # fmt: skip
    return Perturbation(node, curve, _evidence(pair, node, batch, by_pair, unequal, seed))


def _evidence(
    pair: BridgedPair, node: Site, batch: Encoded, by_pair: np.ndarray, unequal: int, seed: int
) -> Evidence:  # fmt: skip
    means = by_pair.mean(-1)
    moved, random = by_pair[0, -1] - by_pair[0, 0], means[1:, -1] - means[1:, 0]
    rising = (np.diff(means, axis=1) > 0).all(1)
    inside = (1 / (1 + np.exp(-_replaced(pair.sparse, node, batch)))).reshape(-1, 2).mean(-1)
    before = (1 / (1 + np.exp(-_gap(pair.sparse.model, batch, None).double().cpu().numpy()))).reshape(-1, 2).mean(-1)
    whole = 1 - 2 * by_pair[0, 0]  # the other prompt itself: its right answer is the counterfactual one
    good = bool(rising[0]) and moved.mean() > random.max() and bootstrap_interval(moved, seed)[0] > 0
    nulls = (
        Null(name="random direction of the same norm at every token", value=float(random.mean()),
             interval=quantile_interval(random), n=len(random)),
        Null(name="the random direction that moves it most", value=float(random.max()), n=1),
        Null(name="the other prompt itself", value=float(whole.mean()), interval=bootstrap_interval(whole, seed),
             n=len(whole)),
        Null(name="the node replaced in the sparse model", value=float((inside - before).mean()),
             interval=bootstrap_interval(inside - before, seed), n=len(whole)),
    )  # fmt: skip
    left_out = f" {unequal} pairs of unequal lengths left out." if unequal else ""
    return Evidence(
        claim=f"perturbation: {pair.dense.name} pushed along {node} of {pair.sparse.name} answers as on the other "
        "prompt", value=float(moved.mean()), unit="probability of the counterfactual answer, strength 1 minus 0",
        interval=bootstrap_interval(moved, seed), n=len(moved), nulls=nulls, seed=seed,
        verdict="pass" if good else "fail", methodology=METHODOLOGY,
        threshold="fails if a step of strength does not raise the probability, if any random direction moves it as "
        "far, or if the interval reaches 0",
        note=f"rises at every step: {'yes' if rising[0] else 'no'}; of {len(random)} random directions "
        f"{int(rising[1:].sum())} rise at every step.{left_out}",
    )  # fmt: skip


@torch.no_grad()
def _replaced(model: LoadedModel, node: Site, batch: Encoded) -> np.ndarray:
    """The gap of `_gap` per row with a node of the model itself at its value on the pair's other prompt."""

    def edit(name: str, x: Tensor) -> Tensor:
        if name != node.location:
            return x
        x = x.clone()
        x[..., node.index] = _swap(x[..., node.index])
        return x

    found: np.ndarray = _gap(model.model, batch, edit).double().cpu().numpy()
    return found


def strongest_node(pair: BridgedPair, task: Task, *, pairs: int = 32, tried: int = 16) -> tuple[Site, float]:
    """The read of the sparse model that, set to its value on the other prompt, moves its own answer most.

    Returns it with the mean move of the logit gap in nats. On training pairs; among the `tried` reads with the
    largest first-order estimate, each is then replaced in earnest. The dense model has no say.
    """
    batch, _ = _aligned(pair.sparse, task.train, pairs)
    model, leaves, values = pair.sparse.model, dict[str, Tensor](), dict[str, Tensor]()

    def edit(name: str, x: Tensor) -> Tensor:
        if not name.endswith(".act_in"):
            return x
        leaves[name], values[name] = torch.zeros_like(x, requires_grad=True), x.detach()
        return x + leaves[name]

    with torch.enable_grad():
        before = _gap(model, batch, edit)
        before.sum().backward()
    found: list[tuple[float, Site]] = []
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        estimate = ((_swap(values[name]) - values[name]) * leaf.grad).sum((0, 1))
        found += [(float(e), Site(name, i)) for i, e in enumerate(estimate[: model.config.d_model].tolist())]
    best = sorted(found, key=lambda f: -f[0])[:tried]
    base = before.detach().double().cpu().numpy()
    moves = [(float((_replaced(pair.sparse, node, batch) - base).mean()), node) for _, node in best]
    move, node = max(moves, key=lambda m: m[0])
    return node, move
