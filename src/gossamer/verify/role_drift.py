"""Does a node of the circuit fire inside it where it fires in the whole model?

Nodes of pruned circuits were found to mean something else than in the model: their sign turned, or what they tell apart
(a "question classifier" only in the pruned model; Drori 2026, "interpretable yet unfaithful", on the weight-sparse
circuits of Gao et al. 2025, arXiv 2511.13653). Per node its activation over every token of both prompts, in the whole
model and with everything outside the circuit ablated: their correlation, and whether it tells the pair's two prompts
apart the same way round at the last token.

A channel has one activation. A head or an MLP writes a vector: it is taken along the direction in which its writes of
the whole model differ most between the two prompts of pairs (first singular vector, at every position). The mean
difference would cancel where either prompt of a pair may be the clean one, and a norm has no sign to flip.

When it lies: what a node does along other directions is not seen; a node that reads only what is never ablated (the
embedding) keeps its role in any circuit, so look at the random sets; a role can be kept and not be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import Unsupported
from gossamer.evidence import Evidence, Null
from gossamer.registry import check
from gossamer.statistics import quantile_interval, resampled_means
from gossamer.verify.edge_faithfulness import FEWEST
from gossamer.verify.trial import Trial, Watch, nodes_of, random_sets

AT_ONCE = 16  # pairs
STEPS = 30  # of the power iteration for a direction
SILENT = 1e-10  # variance over mean square of a node that does not vary
NOTICED = 0.1  # standard deviations by which a node has to tell prompts apart, to tell them apart
RESAMPLES = 400
LISTED = 8


class _Roles(NamedTuple):
    """Of nodes, [.., nodes]: correlation, whether the node turns what it tells apart, and whether it varies at all."""

    correlation: np.ndarray
    flips: np.ndarray
    varies: np.ndarray


@check("role-drift")
def role_drift(
    trial: Trial, *, correlation: float = 0.8, share: float = 0.8, draws: int = 10, pairs: int = 32
) -> Evidence:  # fmt: skip
    """Share of the circuit's nodes whose activation correlates with that in the whole model by at least `correlation`,
    over all tokens of the first `pairs` held-out pairs, and that do not turn what they tell apart. Nodes that are
    constant in both are not counted, nor is the input.

    Passes if the interval (over pairs) reaches up to `share`.
    """
    n = min(pairs, trial.n_pairs)
    fields = {
        "claim": "role-drift: the circuit's nodes do inside it what they do in the whole model", "n": n,
        "unit": "share of nodes that keep their role", "seed": trial.seed, "methodology": trial.methodology().as_dict(),
        "threshold": f"fails if the whole interval is below {share:g}; a role is kept at correlation {correlation:g} "
        "without a flip",
    }  # fmt: skip

    def not_measured(why: str) -> Evidence:
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": f"{why}."})

    if n < FEWEST:
        return not_measured(f"{n} pairs are too few for an interval, {FEWEST} are needed")
    sets = np.concatenate([trial.inside[None], random_sets(trial, draws, trial.seed)])
    nodes = [_nodes(trial, kept) for kept in sets]
    if not len(nodes[0]):
        return not_measured("the circuit keeps no node that reads another")
    try:
        sums = _sums(trial, sets, nodes, n)
    except Unsupported as error:
        return not_measured(str(error).rstrip("."))
    roles = [_roles(s.mean(-1)) for s in sums]
    if not roles[0].varies.any():
        return not_measured("no node of the circuit varies over the tokens, in the circuit or in the model")
    shares = [_share(r, correlation) for r in roles]
    resampled = _roles(np.moveaxis(resampled_means(sums[0], trial.seed, RESAMPLES), -1, 1))
    interval = quantile_interval(_share(resampled, correlation))
    random = np.array([s for s in shares[1:] if np.isfinite(s)])
    nulls = [Null(name="full circuit", value=1.0, n=n)]
    if len(random):
        nulls.insert(
            0, Null(name=trial.null, value=float(random.mean()), interval=quantile_interval(random), n=len(random))
        )
    names = [trial.node(int(i)) for i in nodes[0]]
    return Evidence.model_validate({
        **fields, "value": float(shares[0]), "interval": interval, "nulls": tuple(nulls),
        "verdict": "pass" if interval[1] >= share else "fail", "note": _note(roles[0], names, correlation),
    })  # fmt: skip


def _nodes(trial: Trial, kept: np.ndarray) -> np.ndarray:
    found = nodes_of(trial, kept)
    return np.array([i for i in found if trial.node(int(i)) != "input"], dtype=np.int64)


def _share(roles: _Roles, correlation: float) -> np.ndarray:
    """Of the nodes that vary, [..]; nan without any."""
    kept = roles.varies & (roles.correlation >= correlation) & ~roles.flips
    with np.errstate(invalid="ignore"):
        found: np.ndarray = kept.sum(-1) / roles.varies.sum(-1)
    return found


def _sums(trial: Trial, sets: np.ndarray, nodes: Sequence[np.ndarray], n: int) -> list[np.ndarray]:
    """Per set, what roles are made of, [9, nodes, pairs]."""
    every, used = np.ones(len(trial.kinds), dtype=bool), np.unique(np.concatenate(nodes))
    found: list[list[np.ndarray]] = [[] for _ in sets]
    direction: Tensor | None = None
    for start in range(0, n, AT_ONCE):
        stop = min(start + AT_ONCE, n)
        whole = trial.activity(every, used, start, stop)
        direction = _directions(whole) if direction is None else direction
        x = torch.einsum("rpnd,nd->rpn", whole.seen, direction)
        for done, (kept, own) in enumerate(zip(sets, nodes, strict=True)):
            if not len(own):
                continue
            at = torch.from_numpy(np.searchsorted(used, own))
            y = torch.einsum("rpnd,nd->rpn", trial.activity(kept, own, start, stop).seen, direction[at])
            found[done].append(_pair_sums(x[..., at], y, whole.last))
            if trial.progress:
                trial.progress(start // AT_ONCE * len(sets) + done + 1, -(-n // AT_ONCE) * len(sets), float(y.mean()))
    return [np.concatenate(f, axis=-1) if f else np.zeros((9, 0, n)) for f in found]


def _directions(whole: Watch) -> Tensor:
    """A unit vector per node [nodes, d], see the module; of what varies where the two prompts make no difference."""
    seen, d = whole.seen, whole.seen.shape[-1]
    if d == 1:
        return torch.ones(seen.shape[2], 1)
    inside = (torch.arange(seen.shape[1]) <= whole.last[:, None]).to(seen)[..., None, None]
    differ = ((seen[::2] - seen[1::2]) * inside[::2] * inside[1::2]).flatten(0, 1).transpose(0, 1).double()
    varied = ((seen - (seen * inside).sum((0, 1)) / inside.sum()) * inside).flatten(0, 1).transpose(0, 1).double()
    none = differ.square().sum((1, 2)) <= 1e-6 * varied.square().sum((1, 2))
    found = _principal(differ)
    found[none] = _principal(varied[none])
    return found.to(seen)


def _principal(rows: Tensor) -> Tensor:
    """First right singular vectors [nodes, d] of rows [nodes, m, d], up to their sign."""
    if not len(rows):
        return rows[:, 0]
    longest = rows.square().sum(-1).argmax(1)
    v = rows[torch.arange(len(rows)), longest]
    for _ in range(STEPS):
        v = torch.nn.functional.normalize(v, dim=-1)
        v = torch.einsum("nmd,nm->nd", rows, torch.einsum("nmd,nd->nm", rows, v))
    return torch.nn.functional.normalize(v, dim=-1)


def _pair_sums(x: Tensor, y: Tensor, last: Tensor) -> np.ndarray:
    """x in the whole model, y in the circuit [rows, pos, nodes]; -> [9, nodes, pairs]: tokens, x, y, xx, yy, xy, and of
    the difference at the last token between the two prompts xx, yy, xy."""
    x, y = x.double(), y.double()
    inside = (torch.arange(x.shape[1]) <= last[:, None]).to(x)[..., None]
    rows = torch.arange(len(last))
    a, b = (t[rows, last].unflatten(0, (-1, 2)) for t in (x, y))
    a, b = a[:, 0] - a[:, 1], b[:, 0] - b[:, 1]
    over = [(inside * t).sum(1).unflatten(0, (-1, 2)).sum(1) for t in (torch.ones_like(x), x, y, x * x, y * y, x * y)]
    return torch.stack([*over, a * a, b * b, a * b]).transpose(1, 2).numpy()


def _roles(means: np.ndarray) -> _Roles:
    """From means over pairs of what `_pair_sums` gives, [9, .., nodes]."""
    n, x, y, xx, yy, xy, aa, bb, ab = means
    x, y, xx, yy, xy = (s / n for s in (x, y, xx, yy, xy))
    var, own = xx - x * x, yy - y * y
    varies, moves = var > SILENT * xx, own > SILENT * yy
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.where(varies & moves, (xy - x * y) / np.sqrt(var * own), 0.0)
    noticed = NOTICED**2 * var
    return _Roles(correlation, varies & (aa > noticed) & (bb > noticed) & (ab < 0), varies | moves)


def _note(roles: _Roles, names: Sequence[str], correlation: float) -> str:
    drifts = np.flatnonzero(roles.varies & ((roles.correlation < correlation) | roles.flips))
    order = drifts[np.argsort(roles.correlation[drifts], kind="stable")]
    said = [f"{names[i]} {roles.correlation[i]:.2f}{' flips' if roles.flips[i] else ''}" for i in order[:LISTED]]
    more = f" and {len(order) - LISTED} more" if len(order) > LISTED else ""
    turned = int((roles.varies & (roles.correlation < 0)).sum())
    return (
        f"{int(roles.varies.sum())} nodes vary, {len(names) - int(roles.varies.sum())} are constant. Sign turned "
        f"(correlation below 0): {turned}; what it tells apart turned: {int(roles.flips.sum())}. "
        + (f"Correlation of those that drift: {', '.join(said)}{more}." if said else "None drifts.")
    )
