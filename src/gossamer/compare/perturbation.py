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

Several nodes of one read add up their changes: a small model spreads over many channels what a big one has in one.

When it lies: a mean RMS stands for one per token; the change is added whether or not the dense model could ever have
such a read; and any direction that happens to hold the dense model's own feature moves its answer. So the same change
turned by random rotations stands beside the curve, and what the dense model's own read of the other prompt does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
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
ROTATIONS = 32
PAIRS = 128
METHODOLOGY = {
    "granularity": "node", "component": "channel", "positions": "all", "direction": "presented, each prompt of a pair",
    "value": "presented read + strength * (counterfactual - presented activation of the sparse nodes), through the "
    "bridge's decoder", "set": "sparse nodes of one read", "reference": "the pair's other prompt",
}  # fmt: skip


class Point(NamedTuple):
    """One strength. gap: counterfactual minus presented answer's logit, mean over both prompts of every pair, with its
    bootstrap interval over pairs; probability: of the counterfactual answer, of the two candidates, likewise a mean;
    random: the mean gap over random rotations of the change, with the central 95% of the rotations."""

    strength: float
    gap: float
    interval: tuple[float, float]
    probability: float
    random: float
    random_interval: tuple[float, float]


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


def _site_of(nodes: Sequence[Site], model: SparseTransformer) -> int:
    """The sublayer that reads the nodes; BadInput for none, for nodes of several reads, for what is no read."""
    reads, width = [n for n, _ in model.config.locations() if n.endswith(".act_in")], model.config.d_model
    if not nodes or len({n.location for n in nodes}) > 1 or len(set(nodes)) < len(nodes):
        raise BadInput(f"Expected different nodes of one read, got {', '.join(map(str, nodes)) or 'none'}.")
    if nodes[0].location not in reads or any(n.index is None or n.index >= width for n in nodes):
        raise BadInput(
            f"Expected channels 0 to {width - 1} of a read of the sparse model ({', '.join(reads)}), got "
            f"{', '.join(map(str, nodes))}."
        )
    return reads.index(nodes[0].location)


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
    """[nodes, d_dense]: what a unit of each node's activation adds to the dense model's read (module docstring)."""
    sparse, dense = pair.sparse.model, pair.dense.model
    site, channels = _site_of(nodes, sparse), [n.index or 0 for n in nodes]
    own = _norm(sparse, site).weight[channels]
    if bool((own == 0).any()):
        raise BadInput("Expected nodes that can be active, the norm before one of these has gain 0 there.")
    ratio = _mean_rms(sparse, batch, site) / _mean_rms(dense, batch, site)
    _, decoder = pair.bridge.maps(site)
    return _norm(dense, site).weight * decoder.weight[:, channels].T * (ratio / own)[:, None]


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

    nodes: channels of one read of the sparse model. strengths: 0 to 1, rising, from 0 (the dense model as it is) to 1.
    A random rotation turns the change of every token alike, so that it keeps its norm at every token; for one node
    that is a random direction. Passes if the logit gap towards the counterfactual answer rises with every strength and
    no rotation moves it as far.

    Errors: BadInput for nodes that are no reads or of several, strengths that do not rise from 0 to 1, a task whose
    pairs all have unequal lengths.
    """
    s = np.asarray(strengths, dtype=np.float64)
    if len(s) < 2 or s[0] != 0 or s[-1] != 1 or not (np.diff(s) > 0).all() or rotations < 2 or seed < 0:
        raise BadInput(
            f"Expected strengths that rise from 0 to 1, at least two random rotations and a seed of at least 0, got "
            f"{list(strengths)}, {rotations} and {seed}."
        )
    _site_of(nodes, pair.sparse.model)
    location = nodes[0].location
    batch, unequal = _aligned(pair.dense, task.heldout, PAIRS)
    own = pair.sparse.run(batch, reads=(location,)).reads[location][..., [n.index for n in nodes]]
    change = (_swap(own) - own) @ directions_of(pair, nodes, batch)
    turned = (change @ q.to(change) for q in _rotations(change.shape[-1], rotations, seed))
    gaps = np.zeros((rotations + 1, len(s), len(own)))
    for i, each in enumerate((change, *turned)):
        for j, strength in enumerate(strengths):
            gaps[i, j] = _gap(pair.dense.model, batch, _add(location, strength * each)).double().cpu().numpy()
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
    return Perturbation(tuple(nodes), curve, _evidence(pair, nodes, batch, by_pair, unequal, seed))


def _by_pair(gaps: np.ndarray) -> np.ndarray:
    """Mean over the two prompts of a pair: [..., rows] to [..., pairs]."""
    return gaps.reshape(*gaps.shape[:-1], -1, 2).mean(-1)


def _evidence(
    pair: BridgedPair, nodes: Sequence[Site], batch: Encoded, by_pair: np.ndarray, unequal: int, seed: int
) -> Evidence:
    means, location = by_pair.mean(-1), nodes[0].location
    moved, random = by_pair[0, -1] - by_pair[0, 0], means[1:, -1] - means[1:, 0]
    rising = (np.diff(means, axis=1) > 0).all(1)
    interval = bootstrap_interval(moved, seed)
    good = bool(rising[0]) and moved.mean() > random.max() and interval[0] > 0

    def null(name: str, model: SparseTransformer, channels: Sequence[int] | slice) -> Null:
        gaps = (_gap(model, batch, edit).double().cpu().numpy() for edit in (_replace(location, channels), None))
        after, before = map(_by_pair, gaps)
        by = after - before
        return Null(name=name, value=float(by.mean()), interval=bootstrap_interval(by, seed), n=len(by))

    other = -2 * by_pair[0, 0]  # the other prompt presented: the gap has the opposite sign there
    nulls = (
        Null(name="random rotation of the same change, mean", value=float(random.mean()),
             interval=quantile_interval(random), n=len(random)),
        Null(name="random rotation that moves it most", value=float(random.max()), n=1),
        null("dense model's whole read taken from the other prompt", pair.dense.model, slice(None)),
        null("the same nodes replaced in the sparse model", pair.sparse.model, [n.index or 0 for n in nodes]),
        Null(name="the other prompt itself", value=float(other.mean()), interval=bootstrap_interval(other, seed),
             n=len(other)),
    )  # fmt: skip
    left_out = f" {unequal} pairs of unequal lengths left out." if unequal else ""
    return Evidence(
        claim=f"perturbation: {pair.dense.name} pushed along {', '.join(map(str, nodes))} of {pair.sparse.name} moves "
        "towards the answer of the other prompt", value=float(moved.mean()),
        unit="nats of logit gap, strength 1 minus 0", interval=interval, n=len(moved), nulls=nulls, seed=seed,
        verdict="pass" if good else "fail", methodology=METHODOLOGY,
        threshold="fails if a step of strength does not raise the gap, if any random rotation moves it as far, or if "
        "the interval reaches 0",
        note=f"rises at every step: {'yes' if rising[0] else 'no'}; of {len(random)} random rotations "
        f"{int(rising[1:].sum())} rise at every step.{left_out}",
    )  # fmt: skip


def strongest_nodes(pair: BridgedPair, task: Task, n: int = 1, *, pairs: int = 32, tried: int = 16) -> tuple[Site, ...]:
    """The n reads of one sublayer of the sparse model that, set to their value on the other prompt, each by itself
    moves its own answer most. On training pairs; the dense model has no say.

    Reads are ranked by a first-order estimate, and the best `tried` of all sublayers (then the best 2n of the winner's)
    by replacing them in earnest. Errors: BadInput for a number of nodes the sublayer does not have.
    """
    batch, _ = _aligned(pair.sparse, task.train, pairs)
    model, leaves, values = pair.sparse.model, dict[str, Tensor](), dict[str, Tensor]()
    if not 1 <= n <= model.config.d_model:
        raise BadInput(f"Expected 1 to {model.config.d_model} nodes, got {n}.")

    def edit(name: str, x: Tensor) -> Tensor:
        if not name.endswith(".act_in"):
            return x
        leaves[name], values[name] = torch.zeros_like(x, requires_grad=True), x.detach()
        return x + leaves[name]

    with torch.enable_grad():
        _gap(model, batch, edit).sum().backward()
    estimates: list[tuple[float, Site]] = []
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        each = ((_swap(values[name]) - values[name]) * leaf.grad).sum((0, 1))
        estimates += [(e, Site(name, i)) for i, e in enumerate(each[: model.config.d_model].tolist())]
    estimates.sort(key=lambda e: -e[0])

    @torch.no_grad()
    def by_replacing(nodes: Sequence[Site]) -> list[Site]:
        moves = [float(_gap(model, batch, _replace(s.location, [s.index or 0])).mean()) for s in nodes]
        return [s for _, s in sorted(zip(moves, nodes, strict=True), key=lambda m: -m[0])]

    best = by_replacing([s for _, s in estimates[:tried]])[0]
    if n == 1:
        return (best,)
    near = [s for _, s in estimates if s.location == best.location]
    return tuple(by_replacing(near[: 2 * n])[:n])
