"""Perturb a dense model through a node of a sparse one (Gao et al. 2025, sections 2.3 and A.4).

Two kinds of node, both at every token t.

*A read*, as in the paper: a channel c that a sublayer of the sparse model reads after its RMSNorm, `i.attn.act_in:c` or
`i.mlp.act_in:c`. With delta_t = its activation on the pair's other prompt minus that on the presented one, the dense
model's read of the same sublayer becomes

    read_t + strength * delta_t * direction,    direction = gain_dense * decoder[:, c] / gain_sparse[c] * rms_s / rms_d.

Why that scale: a read is gain * residual / RMS(residual), and the decoder maps residuals before their norm. So
delta_t / gain_sparse[c] * rms_s is the change of the sparse residual's channel, times the decoder's column that of the
dense residual, and gain_dense / rms_d makes it a change of the dense read (rms: mean over the prompts' tokens).
The decoder has learned the scale between the two residual streams, the reads after a norm have none: the ratio of the
mean RMS takes it out again.

*A node inside a sublayer*: a query, key, value, neuron or write, such as the value channel that carries the quote's
type to the end. In the sparse model it is replaced by its value on the other prompt; what that changes in the
sublayer's write goes through the decoder of the site after it, times strength, and is added to the dense sublayer's
write. Nothing is normalised between, so there is no scale to take out.

In a model bridged to itself by identities strength 1 of either replaces the node by its value on the other prompt,
exactly. Several nodes of one location are moved together: a small model spreads over many what a big one has in one.

When it lies: for a read, a mean RMS stands for one per token; the change is added whether or not the dense model could
ever have it; and any direction that happens to hold the dense model's own feature moves its answer. So the same change
turned by random rotations stands beside the curve, the rotation of it that training pairs would choose (how much any
change of these sizes can do), and what the dense model's own read or write of the other prompt does. A write late in
the model is near the answer: that it moves the dense model says that the decoder has the answer's direction, not that
the dense model computes it in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gossamer.compare.parts import beyond_chance
from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null
from gossamer.models.bridge import BridgedPair
from gossamer.models.loaded import LoadedModel
from gossamer.models.sparse import Edit, Norm, SparseTransformer
from gossamer.site import Site
from gossamer.statistics import bootstrap_interval, quantile_interval
from gossamer.task import Encoded, Example, Task

STRENGTHS = tuple(i / 10 for i in range(11))
ROTATIONS = 99
P_VALUE = 0.05
PAIRS = 128
METHODOLOGY = {
    "granularity": "node", "component": "channel", "positions": "all", "direction": "presented, each prompt of a pair",
    "value": "presented read or write + strength * what the sparse nodes' values on the other prompt change, through "
    "the bridge's decoder", "set": "sparse nodes of one location", "reference": "the pair's other prompt",
}  # fmt: skip


class Point(NamedTuple):
    """One strength. gap: counterfactual minus presented answer's logit, mean over both prompts of every pair, with its
    bootstrap interval over pairs; probability: of the counterfactual answer, of the two candidates, likewise a mean;
    random: the mean gap over random rotations of the change; random_quantiles: the central 95% of these draws (no
    confidence interval of their mean)."""

    strength: float
    gap: float
    interval: tuple[float, float]
    probability: float
    random: float
    random_quantiles: tuple[float, float]


class Perturbation(NamedTuple):
    """The curve of some nodes over strengths, and its Evidence."""

    nodes: tuple[Site, ...]
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
    return batch.rows(rows).pairs(0, len(pairs)), int((~same[: int(pairs[-1]) + 1]).sum())


def pushable(model: SparseTransformer) -> dict[str, tuple[str, int]]:
    """Location of sparse nodes -> the dense location that is pushed, and the site whose decoder leads there. All but
    what the last MLP makes: no site comes after it."""
    found: dict[str, tuple[str, int]] = {}
    for location, _ in model.config.locations():
        layer, _, name = location.partition(".")
        if location == "final_resid":
            continue
        sublayer = name.partition(".")[0]
        site = 2 * int(layer) + (sublayer == "mlp")
        if name.endswith(".act_in"):
            found[location] = location, site
        elif site + 1 < model.n_sites:
            found[location] = f"{layer}.{sublayer}.resid_delta", site + 1
    return found


def _target(nodes: Sequence[Site], model: SparseTransformer) -> tuple[str, int]:
    """Where the nodes push, and the decoder's site; BadInput for none, several locations, or one that cannot push."""
    targets = pushable(model)
    if not nodes or len({n.location for n in nodes}) > 1 or len(set(nodes)) < len(nodes):
        raise BadInput(f"Expected different nodes of one location, got {', '.join(map(str, nodes)) or 'none'}.")
    location, width = nodes[0].location, _widths(model).get(nodes[0].location, 0)
    if location not in targets or any(n.index is None or n.index >= width for n in nodes):
        channels = f"channels 0 to {width - 1} of {location}" if location in targets else f"one of {', '.join(targets)}"
        raise BadInput(
            f"Expected nodes of the sparse model before its last MLP's neurons, {channels}, got "
            f"{', '.join(map(str, nodes))}."
        )
    return targets[location]


def _widths(model: SparseTransformer) -> dict[str, int]:
    """Channels of each location, without read-only positions."""
    return {n: model.config.d_model if n.endswith(".act_in") else w for n, w in model.config.locations()}


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


def _add(location: str, change: Tensor) -> Edit:
    """An edit that adds `change` [rows, pos, d_model] to a read; read-only positional channels stay."""

    def edit(name: str, x: Tensor) -> Tensor:
        return x + F.pad(change, (0, x.shape[-1] - change.shape[-1])) if name == location else x

    return edit


def _replace(location: str, channels: Sequence[int] | slice) -> Edit:
    """An edit that gives channels of a read their value on the pair's other prompt."""

    def edit(name: str, x: Tensor) -> Tensor:
        if name != location:
            return x
        x = x.clone()
        x[..., channels] = _swap(x[..., channels])
        return x

    return edit


def directions_of(pair: BridgedPair, nodes: Sequence[Site], batch: Encoded) -> Tensor:
    """[nodes, d_dense]: what a unit of each read's activation adds to the dense model's read (module docstring)."""
    sparse, dense = pair.sparse.model, pair.dense.model
    (_, site), channels = _target(nodes, sparse), [n.index or 0 for n in nodes]
    own = _norm(sparse, site).weight[channels]
    if bool((own == 0).any()):
        raise BadInput("Expected nodes that can be active, the norm before one of these has gain 0 there.")
    ratio = _mean_rms(sparse, batch, site) / _mean_rms(dense, batch, site)
    _, decoder = pair.bridge.maps(site)
    return _norm(dense, site).weight * decoder.weight[:, channels].T * (ratio / own)[:, None]


@torch.no_grad()
def change_of(pair: BridgedPair, nodes: Sequence[Site], batch: Encoded) -> Tensor:
    """[rows, pos, d_dense]: what strength 1 adds at the dense location that the nodes push."""
    model, location, channels = pair.sparse.model, nodes[0].location, [n.index or 0 for n in nodes]
    (target, site), found = _target(nodes, model), list[Tensor]()
    if location.endswith(".act_in"):
        own = pair.sparse.run(batch, reads=(location,)).reads[location][..., channels]
        return (_swap(own) - own) @ directions_of(pair, nodes, batch)
    replace = _replace(location, channels)
    for change in (replace, lambda _, x: x):

        def edit(name: str, x: Tensor, change: Edit = change) -> Tensor:
            x = change(name, x)
            if name == target:
                found.append(x)
            return x

        model.hidden(batch.tokens.to(model.wte.weight.device), edit)
    _, decoder = pair.bridge.maps(site)
    return (found[0] - found[1]) @ decoder.weight.T


def _best_rotation(pair: BridgedPair, nodes: Sequence[Site], target: str, batch: Encoded) -> Tensor:
    """The orthogonal matrix that, to first order, makes the change move the dense model's answers most on a batch.

    change @ Q moves the gap by <change @ Q, gradient>, largest at Q = U V' of change' @ gradient = U S V' (Procrustes).
    """
    change = change_of(pair, nodes, batch)
    leaf = torch.zeros_like(change, requires_grad=True)
    with torch.enable_grad():
        _gap(pair.dense.model, batch, _add(target, leaf)).sum().backward()
    assert leaf.grad is not None
    u, _, v = torch.linalg.svd(change.flatten(0, 1).double().T @ leaf.grad.flatten(0, 1).double())
    return (u @ v).to(change)


def _rotations(width: int, n: int, seed: int) -> list[Tensor]:
    """Random orthogonal matrices, uniform, float64."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
        found.append(q * r.diagonal().sign())
    return found


@torch.no_grad()
def perturbation(
    pair: BridgedPair, nodes: Sequence[Site], task: Task, *, strengths: Sequence[float] = STRENGTHS,
    rotations: int = ROTATIONS, seed: int = 0, progress: Callable[[int, int, float], None] | None = None,
) -> Perturbation:  # fmt: skip
    """The dense model's answers on held-out pairs as it is pushed along sparse nodes, each prompt of a pair presented.

    nodes: channels of one location of the sparse model. strengths: 0 to 1, rising, from 0 (the dense model as it is) to
    1. A random rotation turns the change of every token alike, so that it keeps its norm at every token; for one read
    or write that is a random direction. Passes if the logit gap towards the counterfactual answer rises with every
    strength and at most one in twenty of the rotations and the change itself moves it as far; of fewer than 19
    rotations that is `not measured`.

    Errors: BadInput for nodes that cannot push or of several locations, strengths that do not rise from 0 to 1, a task
    whose pairs all have unequal lengths.
    """
    s = np.asarray(strengths, dtype=np.float64)
    if len(s) < 2 or s[0] != 0 or s[-1] != 1 or not (np.diff(s) > 0).all() or rotations < 2 or seed < 0:
        raise BadInput(
            f"Expected strengths that rise from 0 to 1, at least two random rotations and a seed of at least 0, got "
            f"{list(strengths)}, {rotations} and {seed}."
        )
    target, _ = _target(nodes, pair.sparse.model)
    batch, unequal = _aligned(pair.dense, task.heldout, PAIRS)
    change = change_of(pair, nodes, batch)
    best = change @ _best_rotation(pair, nodes, target, _aligned(pair.dense, task.train, PAIRS)[0])

    def pushed(by: Tensor) -> np.ndarray:
        return _gap(pair.dense.model, batch, _add(target, by)).double().cpu().numpy()

    turned = (change @ q.to(change) for q in _rotations(change.shape[-1], rotations, seed))
    gaps = np.zeros((rotations + 1, len(s), len(change)))
    for i, each in enumerate((change, *turned)):
        gaps[i] = [pushed(strength * each) for strength in strengths]
        if progress:
            progress(i + 1, rotations + 1, float(gaps[i].mean()))
    by_pair = _by_pair(gaps)
    means, probability = by_pair.mean(-1), (1 / (1 + np.exp(-gaps[0]))).mean(-1)
    curve = tuple(
        Point(
            float(strength), float(means[0, j]), bootstrap_interval(by_pair[0, j], seed), float(probability[j]),
            float(means[1:, j].mean()), quantile_interval(means[1:, j]),
        )
        for j, strength in enumerate(s)
    )  # fmt: skip
    chosen = _by_pair(pushed(best)) - by_pair[0, 0]
    return Perturbation(tuple(nodes), curve, _evidence(pair, nodes, batch, by_pair, chosen, unequal, seed))


def _by_pair(gaps: np.ndarray) -> np.ndarray:
    """Mean over the two prompts of a pair: [..., rows] to [..., pairs]."""
    return gaps.reshape(*gaps.shape[:-1], -1, 2).mean(-1)


def _evidence(
    pair: BridgedPair, nodes: Sequence[Site], batch: Encoded, by_pair: np.ndarray, chosen: np.ndarray, unequal: int,
    seed: int,
) -> Evidence:  # fmt: skip
    means, target = by_pair.mean(-1), _target(nodes, pair.sparse.model)[0]
    moved, random = by_pair[0, -1] - by_pair[0, 0], means[1:, -1] - means[1:, 0]
    rising = (np.diff(means, axis=1) > 0).all(1)
    interval = bootstrap_interval(moved, seed)
    p = (1 + int((random >= moved.mean()).sum())) / (1 + len(random))
    smallest = 1 / (1 + len(random))
    verdict, few = beyond_chance(p, smallest, P_VALUE, bool(rising[0]) and interval[0] > 0)

    def null(name: str, by: np.ndarray) -> Null:
        return Null(name=name, value=float(by.mean()), interval=bootstrap_interval(by, seed), n=len(by))

    def replaced(model: SparseTransformer, location: str, channels: Sequence[int] | slice) -> np.ndarray:
        gaps = (_gap(model, batch, edit).double().cpu().numpy() for edit in (_replace(location, channels), None))
        after, before = map(_by_pair, gaps)
        return after - before

    part = "read" if target.endswith(".act_in") else "write"
    whole = replaced(pair.dense.model, target, slice(None))
    nulls = (
        Null(name="random rotations of the same change: mean, central 95% of the draws", value=float(random.mean()),
             interval=quantile_interval(random), n=len(random)),
        Null(name="random rotation that moves it most", value=float(random.max()), n=1),
        null("the rotation of the same change that training pairs would choose", chosen),
        null(f"dense model's whole {part} taken from the other prompt", whole),
        null("the same nodes replaced in the sparse model",
             replaced(pair.sparse.model, nodes[0].location, [n.index or 0 for n in nodes])),
        null("the other prompt itself", -2 * by_pair[0, 0]),  # presented, the gap has the opposite sign there
    )  # fmt: skip
    left_out = f" {unequal} pairs of unequal lengths left out." if unequal else ""
    return Evidence(
        claim=f"perturbation: {pair.dense.name} pushed along {', '.join(map(str, nodes))} of {pair.sparse.name} moves "
        "towards the answer of the other prompt", value=float(moved.mean()),
        unit="nats of logit gap, strength 1 minus 0", interval=interval, n=len(moved), nulls=nulls, seed=seed,
        verdict=verdict, methodology=METHODOLOGY,
        threshold="fails if a step of strength does not raise the gap, if more than one in twenty of the random "
        "rotations and the change itself move it as far, or if the interval reaches 0",
        note=f"rises at every step: {'yes' if rising[0] else 'no'}; of {len(random)} random rotations "
        f"{int((random >= moved.mean()).sum())} move it as far (p = {p:.3g}) and {int(rising[1:].sum())} rise at every "
        f"step.{left_out}{few}",
        limits={"p_value": P_VALUE}, p_value=p, p_smallest=smallest,
    )  # fmt: skip


def strongest_nodes(
    pair: BridgedPair, task: Task, n: int = 1, *, among: str | None = None, pairs: int = 32, tried: int = 16
) -> tuple[Site, ...]:
    """The n nodes of one location of the sparse model that, set to their value on the other prompt, each by itself
    moves its own answer most. On training pairs; the dense model has no say.

    among: one location, such as 1.attn.act_in; default: all that can push (`pushable`). Nodes are ranked by a
    first-order estimate, and the best `tried` of all locations (then the best 2n of the winner's) by replacing them in
    earnest. Errors: BadInput for a location that cannot push, and a number of nodes that it does not have.
    """
    batch, _ = _aligned(pair.sparse, task.train, pairs)
    model, leaves, values = pair.sparse.model, dict[str, Tensor](), dict[str, Tensor]()
    locations, widths = tuple(pushable(model)), _widths(model)
    if among is not None and among not in locations:
        raise BadInput(f"Expected a location of nodes that can push ({', '.join(locations)}), got {among}.")
    locations = locations if among is None else (among,)

    def edit(name: str, x: Tensor) -> Tensor:
        if name not in locations:
            return x
        leaves[name], values[name] = torch.zeros_like(x, requires_grad=True), x.detach()
        return x + leaves[name]

    with torch.enable_grad():
        _gap(model, batch, edit).sum().backward()
    estimates: list[tuple[float, Site]] = []
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        each = ((_swap(values[name]) - values[name]) * leaf.grad).sum((0, 1))
        estimates += [(e, Site(name, i)) for i, e in enumerate(each[: widths[name]].tolist())]
    estimates.sort(key=lambda e: -e[0])

    @torch.no_grad()
    def by_replacing(nodes: Sequence[Site]) -> list[Site]:
        moves = [float(_gap(model, batch, _replace(s.location, [s.index or 0])).mean()) for s in nodes]
        return [s for _, s in sorted(zip(moves, nodes, strict=True), key=lambda m: -m[0])]

    best = by_replacing([s for _, s in estimates[:tried]])[0]
    if not 1 <= n <= widths[best.location]:
        raise BadInput(f"Expected 1 to {widths[best.location]} nodes of {best.location}, got {n}.")
    if n == 1:
        return (best,)
    near = [s for _, s in estimates if s.location == best.location]
    return tuple(by_replacing(near[: 2 * n])[:n])
