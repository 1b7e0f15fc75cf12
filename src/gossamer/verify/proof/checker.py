"""Check a certificate against the weights: `python checker.py CERTIFICATE WEIGHTS`, or `check`.

This file shares no code with what made the certificate: it needs numpy and safetensors, imports nothing of Gossamer and
reads both files itself. It recomputes the claim with all rounding against it, so that an accepted claim holds for real
arithmetic on the stored float32 weights.

Why the margins are enough. float64 rounds to nearest with u = 2^-53; underflow loses at most 2^-1074.

- A `Ball` is a midpoint and a radius >= the distance of the true value. |fl(x) - x| <= u |fl(x)| for a sum, product or
  quotient; an inner product of n terms, in whatever order and with or without fused operations, is within
  g |a|.|b|, g = n u / (1 - n u) (Higham 2002, section 3.1). `GAMMA` (n + 2) u exceeds g for n < 2^20.
- Radii are sums and products of non-negative floats, at most 2^12 roundings deep, hence too small by a factor of at
  most 1 - 2^-40; `grown` multiplies by 1 + 2^-39 and adds 2^-1000 for underflow. Sizes above 1024 are refused.
- Endpoints, and all that is computed from endpoints, move one float outwards after every operation.
- exp is that of Python's decimal, documented as correctly rounded, at 30 digits; the float nearest to it moves one
  float outwards. sqrt is correctly rounded by IEEE 754.
- Comparisons are written so that a NaN fails the claim.

The sums themselves are explained in decomposition.py and the proofs in per_output.py, cubic.py and sub_cubic.py.
"""

from __future__ import annotations

import decimal
import hashlib
import itertools
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

Array = np.ndarray
UNIT = 2.0**-53
GAMMA = 1.001 * UNIT
TINY = 2.0**-1000
LARGEST = 1024
MOST = 2**25  # inputs of brute force: within a minute
CONTEXT = decimal.Context(prec=30, rounding=decimal.ROUND_HALF_EVEN, Emin=-999999, Emax=999999, traps=[])
NAMES = {
    "embed": "embed.W_E", "positions": "pos_embed.W_pos", "query": "blocks.0.attn.W_Q", "key": "blocks.0.attn.W_K",
    "value": "blocks.0.attn.W_V", "output": "blocks.0.attn.W_O", "unembed": "unembed.W_U",
}  # fmt: skip
FIELDS = {
    "format_version", "model", "model_sha256", "k", "v", "rung", "certified", "inputs", "bound", "flops",
    "unexplained_dimensions", "witness_numbers", "witnesses", "record", "sha256",
}  # fmt: skip


class Rejected(Exception):
    """The certificate does not hold for these weights, or is no certificate."""


@dataclass(frozen=True)
class Checked:
    """An accepted certificate. verified: inputs that the checker itself could certify, at least `certified`."""

    rung: str
    k: int
    v: int
    certified: int
    verified: int
    inputs: int
    seconds: float


def down(x: Array) -> Array:
    return np.nextafter(x, -np.inf)


def up(x: Array) -> Array:
    return np.nextafter(x, np.inf)


def grown(x: Array) -> Array:
    return x * (1 + 2.0**-39) + TINY


@dataclass(frozen=True)
class Ball:
    """Numbers known within a radius."""

    mid: Array
    rad: Array

    @classmethod
    def exact(cls, x: Array) -> Ball:
        return cls(x, np.zeros_like(x))

    def __add__(self, other: Ball) -> Ball:
        mid = self.mid + other.mid
        return Ball(mid, grown(self.rad + other.rad + UNIT * np.abs(mid)))

    def __neg__(self) -> Ball:
        return Ball(-self.mid, self.rad)

    def __sub__(self, other: Ball) -> Ball:
        return self + -other

    def __mul__(self, other: Ball) -> Ball:
        mid = self.mid * other.mid
        rad = np.abs(self.mid) * other.rad + self.rad * (np.abs(other.mid) + other.rad) + UNIT * np.abs(mid)
        return Ball(mid, grown(rad))

    def __matmul__(self, other: Ball) -> Ball:
        a, b = np.abs(self.mid), np.abs(other.mid)
        rounding = GAMMA * (self.mid.shape[-1] + 2) * (a @ b)
        return Ball(self.mid @ other.mid, grown(a @ other.rad + self.rad @ (b + other.rad) + rounding))

    def __getitem__(self, at: Any) -> Ball:
        return Ball(self.mid[at], self.rad[at])

    @property
    def T(self) -> Ball:
        return Ball(self.mid.T, self.rad.T)

    @property
    def low(self) -> Array:
        return down(self.mid - self.rad)

    @property
    def high(self) -> Array:
        return up(self.mid + self.rad)


def exp(x: Array, outwards: Callable[[Array], Array]) -> Array:
    """exp of every entry, one float outwards: down (never below 0) or up."""
    found = [float(CONTEXT.exp(decimal.Decimal(e))) if math.isfinite(e) else math.exp(e) for e in x.ravel().tolist()]
    return np.maximum(outwards(np.array(found)), 0).reshape(x.shape)


def times_low(low: Array, high: Array, value: Array) -> Array:
    """A lower bound of weight * value for every weight in [low, high], low >= 0."""
    return down(np.where(value >= 0, low, high) * value)


def lead(x: Ball) -> Array:
    """A lower bound of min over o != m of x[r, m] - x[r, o], [r, m]."""
    high, found = x.high, np.empty_like(x.mid)
    for m in range(high.shape[1]):
        found[:, m] = down(x.low[:, m] - np.delete(high, m, axis=1).max(1))
    return found


class Model:
    """The weights as balls of the five matrices, and weights of tokens and positions as intervals."""

    def __init__(self, w: dict[str, Array]) -> None:
        self.w = {name: Ball.exact(a) for name, a in w.items()}
        self.k, self.v, self.h = len(w["positions"]), len(w["embed"]), w["query"].shape[1]
        p = self.w["positions"]
        share = Ball(np.full((1, self.k), 1 / self.k), np.full((1, self.k), UNIT))
        mean = share @ p
        root = 1 / math.sqrt(self.h)
        scale = Ball(np.array(root), np.array(4 * UNIT * root))
        self.query_embed, embed, apart = self.w["embed"] + p[-1:], self.w["embed"] + mean, p - mean
        self.left, self.right = (self.query_embed @ self.w["query"]) * scale, embed @ self.w["key"]
        self.scores = self.left @ self.right.T
        self.position_scores = self.left @ (apart @ self.w["key"]).T
        out = self.w["output"] @ self.w["unembed"]
        self.copies, self.position_copies = (x @ self.w["value"] @ out for x in (embed, apart))
        self.position_low, self.position_high = self._weights(self.position_scores)
        self._splits()

    @staticmethod
    def _weights(scores: Ball) -> tuple[Array, Array]:
        """exp of scores over a constant of the row, which changes no sign: [low, high]."""
        over = scores.mid.max(1, keepdims=True)
        return exp(down(scores.low - over), down), exp(up(scores.high - over), up)

    def token_weights(self) -> tuple[Array, Array]:
        return self._weights(self.scores)

    def direct(self) -> Ball:
        return self.query_embed @ self.w["unembed"]

    def _splits(self) -> None:
        """Intervals of the position weight on maxima and on the rest, [split, q, n]. Order statistics of lower ends
        are below those of the true weights, of upper ends above."""

        def sums(x: Array, outwards: Callable[[Array], Array]) -> tuple[Array, Array]:
            both = []
            for ordered in (np.sort(x[:, :-1], axis=1), -np.sort(-x[:, :-1], axis=1)):
                total = [np.zeros(self.v)]
                for i in range(self.k - 1):
                    total.append(outwards(total[-1] + ordered[:, i]))
                both.append(np.stack(total, axis=1))
            return both[0], both[1]

        n = np.arange(self.k)
        maxima = self.k - 1 - n
        (light_low, heavy_low), (light_high, heavy_high) = sums(self.position_low, down), sums(self.position_high, up)
        self.max_low, self.max_high = (
            np.stack([light[:, maxima], heavy[:, maxima]])
            for light, heavy in ((light_low, heavy_low), (light_high, heavy_high))
        )
        self.rest_high = np.stack([heavy_high[:, n], light_high[:, n]])
        self.rest_low = np.maximum(np.stack([heavy_low[:, n], light_low[:, n]]), 0)
        self.max_low = np.maximum(self.max_low, 0)

    def query_weights(self) -> tuple[Array, Array]:
        """Position weight of the last position, [q, 1]."""
        return self.position_low[:, [-1]], self.position_high[:, [-1]]


def brute_force(model: Model) -> int:
    """Inputs whose margin exceeds all rounding."""
    k, v = model.k, model.v
    if v**k > MOST:
        raise Rejected(f"{v}^{k} inputs are more than this checker goes through ({MOST:,}).")
    low, high = model.token_weights()
    direct = model.direct()
    tail = min(2, k - 1)
    tokens = np.array(list(itertools.product(range(v), repeat=tail)))
    every, largest, found = np.arange(len(tokens)), tokens.max(1), 0
    logits = np.empty((v, len(tokens)))
    for q in range(v):
        value = (direct[q][None] + model.copies)[None] + model.position_copies[:, None]  # [i, t, o]
        w_low = down(low[q] * model.position_low[q][:, None])[..., None]
        w_high = up(high[q] * model.position_high[q][:, None])[..., None]
        w_low = np.maximum(w_low, 0)
        least = times_low(w_low, w_high, value.low)
        most = -times_low(w_low, w_high, -value.high)
        rows = (least + most) / 2
        radius = np.maximum(up(rows - least), up(most - rows)).max(-1)
        radius = grown(radius + (k + 2) * UNIT * np.abs(rows).max(-1))  # and of adding up k rows
        at = np.arange(k - 1 - tail, k - 1)
        table, error = np.ascontiguousarray(rows[at, tokens].sum(1).T), radius[at, tokens].sum(1)
        for head in itertools.product(range(v), repeat=k - 1 - tail):
            np.add(table, (rows[-1, q] + sum(rows[i, t] for i, t in enumerate(head)))[:, None], out=logits)
            within = error + (radius[-1, q] + sum(radius[i, t] for i, t in enumerate(head)))
            answer = np.maximum(largest, max(q, *head) if head else q)
            best = logits[answer, every]
            logits[answer, every] = -np.inf
            found += int(np.count_nonzero(best - logits.max(0) > 2.001 * within))
    return found


def count(alone: Array, free: Array) -> int:
    """Inputs of cells (q, m, n) with so many tokens that may fill; see cells.py. alone [q, m], free [n, q, m]."""
    k, v, found = len(free), len(alone), 0
    for q in range(v):
        found += int(alone[q, q]) + (int(alone[q, q + 1 :].sum()) if k > 1 else 0)
        for n in range(1, k):
            most = v if n < k - 1 else q + 1  # without a maximum before the query, the query is the maximum
            found += math.comb(k - 1, n) * sum(int(s) ** n for s in free[n, q, q:most])
    return found


def per_output(model: Model) -> int:
    k, v = model.k, model.v
    low, high = model.token_weights()
    direct = model.direct()
    alone, free = np.zeros((v, v), dtype=bool), np.zeros((k, v, v), dtype=np.int64)
    for m in range(v):
        wrong = np.delete(np.arange(v), m)

        def over(x: Ball, m: int = m, wrong: Array = wrong) -> Array:
            return down(x.low[:, [m]] - x.high[:, wrong])

        path, copies, positions = over(direct), over(model.copies), over(model.position_copies)
        filled = positions[:-1].min(0)
        for q in range(m + 1):
            query_low = down(low[q, q] * model.position_low[q, -1])
            query_high = up(high[q, q] * model.position_high[q, -1])
            value = down(down(path[q] + copies[q]) + positions[-1])
            query = times_low(np.maximum(query_low, 0), query_high, value)
            base = down(path[q] + filled)
            maximum = times_low(low[q, m], high[q, m], down(base + copies[m]))
            filling = times_low(low[q, :m, None], high[q, :m, None], down(base + copies[:m]))  # [k, o]
            for n in range(k):
                margins = []
                for s in (0, 1):
                    on_max = times_low(model.max_low[s, q, n], model.max_high[s, q, n], maximum)
                    margin = down(query + on_max)
                    if n:
                        on_rest = times_low(model.rest_low[s, q, n], model.rest_high[s, q, n], filling)
                        margin = down(margin + on_rest)
                    margins.append(margin)
                if not n:
                    alone[q, m] = bool((margins[0] > 0).all())
                else:
                    free[n, q, m] = np.count_nonzero((np.minimum(*margins) > 0).all(-1))
    return count(alone, free)


def cubic(model: Model) -> int:
    k, v = model.k, model.v
    low, high = model.token_weights()
    path, copies, positions = lead(model.direct()), lead(model.copies), lead(model.position_copies)
    p_low, p_high = model.query_weights()
    own_low, own_high = np.diagonal(low)[:, None], np.diagonal(high)[:, None]
    value = down(down(path + copies) + positions[-1])
    query = times_low(np.maximum(down(own_low * p_low), 0), up(own_high * p_high), value)
    filled = down(path + positions[:-1].min(0))
    maximum = times_low(low, high, down(filled + np.diagonal(copies)))
    filling = times_low(low[:, None], high[:, None], down(filled[..., None] + copies.T))  # [q, m, k]
    below = np.arange(v)[:, None] > np.arange(v)
    alone, free = np.zeros((v, v), dtype=bool), np.zeros((k, v, v), dtype=np.int64)
    for n in range(k):
        margins = []
        for s in (0, 1):
            margin = down(query + times_low(model.max_low[s, :, [n]].T, model.max_high[s, :, [n]].T, maximum))
            if n:
                rest_low, rest_high = (x[s, :, n, None, None] for x in (model.rest_low, model.rest_high))
                margin = down(margin[..., None] + times_low(rest_low, rest_high, filling))
            margins.append(margin)
        if not n:
            alone = margins[0] > 0
        else:
            free[n] = np.count_nonzero((np.minimum(*margins) > 0) & below, axis=-1)
    return count(alone, free)


def norms(x: Ball) -> Array:
    """Upper bounds of the rows' lengths."""
    return grown(np.sqrt(grown((grown(np.abs(x.mid) + x.rad) ** 2).sum(1))))


def apart(left: Ball, right: Ball) -> Array:
    """Upper bounds of |(left right^T)[q, k] - (left right^T)[q, m]| for every k, [q, m]; any centre will do."""
    distance = norms(right - Ball.exact(right.mid.mean(0, keepdims=True)))
    by_length = grown(norms(left)[:, None] * grown(distance + distance.max()))
    by_channel = grown(grown(np.abs(left.mid) + left.rad) @ up(right.high.max(0) - right.low.min(0)))
    return np.minimum(by_length, by_channel[:, None])


def score_ratios(model: Model, scores: str, witnesses: dict[str, Any], last: Array) -> tuple[Array, Array, Array]:
    """Weights over the maximum's: of the query [low, high], and of the heaviest k <= last[n, q, m] [high]."""
    k, v = model.k, model.v
    near = np.eye(v, dtype=bool)
    q, m = np.arange(v)[:, None], np.arange(v)
    if scores == "exact":
        own = Ball(np.diagonal(model.scores.mid)[:, None], np.diagonal(model.scores.rad)[:, None]) - model.scores
        low, high = np.where(near, 0, own.low), np.where(near, 0, own.high)
        largest = np.maximum.accumulate(model.scores.high, axis=1)
        rest = up(largest[q, np.maximum(last, 0)] - model.scores.low)
    else:
        a, b = (Ball.exact(vector(witnesses.get(name), model.h)[:, None]) for name in "ab")
        x, y, turn = model.left @ a, model.right @ b, Ball.exact(np.array([[2.0]])) - a.T @ b
        cx = x @ turn
        if scores == "rank-1":
            rest_ball = model.scores - cx @ y.T
            error = up(rest_ball.high.max(1) - rest_ball.low.min(1))[:, None] + np.zeros(v)
        else:
            rest_left, rest_right = model.left - x @ b.T, model.right - y @ a.T
            if scores == "factored":
                error = apart(rest_left, rest_right)
            else:
                power = (rest_left.T @ rest_left) @ (rest_right.T @ rest_right)
                for _ in range(3):
                    power = power @ power
                diagonal = Ball(np.diagonal(power.mid), np.diagonal(power.rad))
                root = np.maximum((diagonal @ Ball.exact(np.ones(model.h))).high, 0)
                for _ in range(4):
                    root = grown(np.sqrt(root))
                error = grown(np.full((v, v), root * math.sqrt(2)))
        between = cx * (y - y.T)
        low, high = down(between.low - error), up(between.high + error)
        low, high = np.where(near, 0, low), np.where(near, 0, high)
        most, least = np.maximum.accumulate(y.high[:, 0]), np.minimum.accumulate(y.low[:, 0])
        at = np.maximum(last, 0)
        ends = [up(most[at] - y.low[:, 0]), down(least[at] - y.high[:, 0])]
        rest = np.max([up(end * x_end) for end in ends for x_end in (cx.low, cx.high)], axis=0)
        rest = up(rest + error)
    used = q <= m
    low, high = np.where(used, low, 0), np.where(used, high, 0)
    rest = np.where(used & (last >= 0), rest, 0)
    heaviest = np.ones((k, v, v))
    for n in range(1, k):
        heaviest[n] = exp(rest[n], up)
    return exp(low, down), exp(high, up), heaviest


def sub_cubic(model: Model, rung: str, witnesses: dict[str, Any]) -> int:
    """The count that the gaps come to, once each of them holds."""
    k, v = model.k, model.v
    _, scores, direct = rung.split(".")
    gaps = np.array(witnesses.get("gaps"), dtype=np.int64)
    m = np.arange(v)
    used = m[:, None] <= m
    if gaps.shape != (k, v, v) or (gaps < 0).any() or (gaps[:, ~used] != 0).any():
        raise Rejected("the gaps do not have the shape and the range of a proof.")
    if (gaps[1:] > m).any() or (gaps[0] > 1).any():
        raise Rejected("a gap is larger than its maximum.")
    last = np.where(gaps > 0, m - gaps, -1)
    if direct == "exact":
        path = lead(model.direct())
    else:
        centre = Ball.exact(model.query_embed.mid.mean(0, keepdims=True))
        path = down(lead(centre @ model.w["unembed"]) - apart(model.query_embed - centre, model.w["unembed"].T))
    copies, positions = lead(model.copies), lead(model.position_copies)
    low, high, heaviest = score_ratios(model, scores, witnesses, last)
    p_low, p_high = model.query_weights()
    value = down(down(path + copies) + positions[-1])
    query = times_low(np.maximum(down(low * p_low), 0), up(high * p_high), value)
    filled = down(path + positions[:-1].min(0))
    maximum = down(filled + np.diagonal(copies))
    worst = np.minimum.accumulate(copies, axis=0)  # [largest k, m]
    for n in range(k):
        rest = np.minimum(down(filled + worst[np.maximum(last[n], 0), m]), 0)
        for s in (0, 1):
            margin = down(query + times_low(model.max_low[s, :, [n]].T, model.max_high[s, :, [n]].T, maximum))
            if n:
                margin = down(margin + down(up(model.rest_high[s, :, [n]].T * heaviest[n]) * rest))
            if not ((margin > 0) | (gaps[n] == 0)).all():
                raise Rejected(f"a gap for n = {n} does not hold.")
    return count(gaps[0] > 0, last + 1)


def vector(given: Any, length: int) -> Array:
    found = np.array(given, dtype=np.float64)
    if found.shape != (length,) or not np.isfinite(found).all():
        raise Rejected("a witness vector is missing or has the wrong length.")
    return found


def length(w: dict[str, Array], rung: str) -> tuple[int, int]:
    """(operations, unexplained dimensions) as cost.py defines them, counted anew."""
    hot = {name: (a != 0).astype(np.int64) for name, a in w.items()}
    k, v, h = len(w["positions"]), len(w["embed"]), w["query"].shape[1]
    on = {name: int(a.sum()) for name, a in hot.items()}
    spent = [on["positions"], k * v + v * k * k + 2 * k * v]

    def dot(a: Array, b: Array) -> Array:
        spent.append(2 * int((a.sum(0) * b.sum(1)).sum()))
        return np.minimum(a @ b, 1)

    def both(a: Array, b: Array) -> Array:
        spent.append(int((a * b).sum()))
        return np.maximum(a, b)

    mean = hot["positions"].max(0)
    asks, keys, places = (
        both(a, b) for a, b in ((hot["embed"], hot["positions"][-1]), (hot["embed"], mean), (hot["positions"], mean))
    )
    left = dot(asks, hot["query"])
    spent.append(int(left.sum()))
    right, out = dot(keys, hot["key"]), dot(hot["output"], hot["unembed"])
    moved = dot(dot(keys, hot["value"]), out), dot(dot(places, hot["value"]), out)
    scored = dot(left, dot(places, hot["key"]).T)
    through = on["value"] + on["output"] + on["unembed"]
    unexplained = min(int(moved[0].sum()), on["embed"] + through) + min(int(moved[1].sum()), on["positions"] + through)
    unexplained += min(int(scored.sum()), on["embed"] + on["query"] + on["key"] + on["positions"])
    pairs, triples = v * (v + 1) // 2, v * (v * v - 1) // 3
    parts = rung.split(".")
    exact_scores, exact_direct = parts[1:2] in ([], ["exact"]), parts[2:3] in ([], ["exact"])
    if exact_scores or parts[1] == "rank-1":
        pattern = dot(left, right.T)
        unexplained += min(int(pattern.sum()), on["embed"] + on["query"] + on["key"]) if exact_scores else 0
    if exact_direct:
        unexplained += min(int(dot(asks, hot["unembed"]).sum()), on["embed"] + on["unembed"])
    if parts[0] == "brute-force":
        return sum(spent) + v * v + 3 * k * v**3 + 2 * v ** (k + 1), v ** (k + 1)
    if parts[0] == "per-output":
        outputs = pairs * (6 + 4 * k) + triples * (6 * k - 3) + 2 * v * (v + k)
        return sum(spent) + v * v + (v - 1) * outputs, unexplained
    if parts[0] == "cubic":
        return sum(spent) + 7 * v * v + 3 * v * k + pairs * (6 + 4 * k) + triples * (6 * k - 4), unexplained
    spent.append(7 * v * v + 3 * k * v + pairs * (6 + 4 * k + (k - 1) * (12 if exact_scores else 15)))
    if not exact_direct:
        dot(asks.max(0)[None], hot["unembed"])
        d = len(hot["unembed"])
        spent.append(2 * v + 6 * v * int(asks.max(0).sum() + hot["unembed"].max(1).sum()) + d + v * v)
        unexplained += 4 * v + d
    if exact_scores:
        return sum(spent) + 2 * v * v, unexplained
    spent.append(2 * int(left.sum() + right.sum()) + 2 * h + 3 * v)
    if parts[1] == "rank-1":
        return sum(spent) + 4 * v * v, unexplained + 3 * v
    if parts[1] == "factored":
        return sum(spent) + 14 * v * h + h + 2 * v + 3 * v * v, unexplained + 5 * v + h
    return sum(spent) + 4 * v * h + 4 * v * h * h + 8 * h**3 + h + 5, unexplained + 2 * v + 1


def read_weights(path: Path, sha256: str) -> dict[str, Array]:
    """The seven matrices in float64, from a file with this hash."""
    if path.is_dir():
        path = path / "model.safetensors"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Rejected(f"{path} cannot be read: {error}.") from error
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise Rejected(f"{path} is not the file of the certificate: its sha256 differs.")
    try:
        with safe_open(path, framework="numpy") as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise Rejected(f"{path} is not a whole safetensors file: {error}.") from error
    theirs = {old: new for new, old in NAMES.items()}
    found: dict[str, Array] = {}
    for name, a in tensors.items():
        if name.rpartition(".")[2].startswith("b_") and not a.any():
            continue
        own = theirs.get(name, name)
        if own not in NAMES or own in found or a.dtype != np.float32 or not np.isfinite(a).all():
            raise Rejected(f"{path} holds {name}, which is no matrix of a max-of-K model.")
        found[own] = (a[0] if a.ndim == 3 and len(a) == 1 else a).astype(np.float64)
    if set(found) != set(NAMES) or any(a.ndim != 2 or max(a.shape) > LARGEST for a in found.values()):
        raise Rejected(f"{path} lacks a matrix of a max-of-K model, or holds one that is too large.")
    v, d = found["embed"].shape
    h, k = found["query"].shape[1], len(found["positions"])
    shapes = {"positions": (k, d), "query": (d, h), "key": (d, h), "value": (d, h), "output": (h, d), "unembed": (d, v)}
    if any(found[name].shape != shape for name, shape in shapes.items()) or k < 2 or v < 2:
        raise Rejected(f"{path} holds matrices that do not fit each other.")
    return found


def check(certificate: str | Path, weights: str | Path) -> Checked:
    """Accept a certificate, or raise Rejected saying why not. weights: a model folder or its .safetensors file."""
    started = time.perf_counter()
    try:
        c = json.loads(Path(certificate).read_text(encoding="utf-8"))
        bare = {key: value for key, value in c.items() if key != "sha256"}
        own = hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        if set(c) != FIELDS or c["format_version"] != 1 or own != c["sha256"]:
            raise Rejected(f"{certificate} was altered: its content is not what its hash says.")
        w = read_weights(Path(weights), str(c["model_sha256"]))
        witnesses = c["witnesses"] or {}
        claims = {name: c[name] for name in ("k", "v", "certified", "inputs", "flops", "unexplained_dimensions")}
        if not all(type(value) is int for value in claims.values()):
            raise Rejected("a claim that must be a whole number is none.")
        with np.errstate(all="ignore"):
            verified = _verified(Model(w), str(c["rung"]), witnesses)
        flops, unexplained = length(w, str(c["rung"]))
        numbers = sum(np.size(np.array(value)) for value in witnesses.values() if value is not None)
    except (
        AttributeError, IndexError, KeyError, TypeError, ValueError, OSError, OverflowError, RecursionError
    ) as error:  # fmt: skip
        raise Rejected(f"{certificate} is no certificate: {error!r}.") from error
    k, v = len(w["positions"]), len(w["embed"])
    if not 0 <= c["certified"] <= v**k:
        raise Rejected(f"a count that is not among 0 to {v**k} inputs is claimed, {verified} can be verified.")
    if (c["k"], c["v"], c["inputs"]) != (k, v, v**k) or c["bound"] != c["certified"] / v**k:
        raise Rejected("the sizes or the bound are not those of the claim.")
    if (c["flops"], c["unexplained_dimensions"], c["witness_numbers"]) != (flops, unexplained, numbers):
        raise Rejected(f"the proof's length is not as claimed: {flops} operations, {unexplained} dimensions.")
    if not 0 <= c["certified"] <= verified:
        raise Rejected(f"{c['certified']} inputs are claimed, {verified} can be verified.")
    return Checked(c["rung"], k, v, c["certified"], verified, v**k, time.perf_counter() - started)


def _verified(model: Model, rung: str, witnesses: dict[str, Any]) -> int:
    whole = {"brute-force": brute_force, "per-output": per_output, "cubic": cubic}
    if rung in whole:
        return whole[rung](model)
    kinds = {f"sub-cubic.{s}.{d}" for s in ("exact", "rank-1", "factored", "svd") for d in ("exact", "factored")}
    if rung not in kinds:
        raise Rejected(f"there is no proof called {rung!r}.")
    return sub_cubic(model, rung, witnesses)


def main(arguments: list[str]) -> int:
    """0 accepted, 1 rejected; says so on stdout or stderr."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python checker.py CERTIFICATE WEIGHTS\n")
        return 2
    try:
        found = check(*arguments)
    except Rejected as error:
        sys.stderr.write(f"rejected: {error}\n")
        return 1
    sys.stdout.write(
        f"accepted: {found.rung}, {found.certified} of {found.inputs} inputs of {found.k} tokens of {found.v} are "
        f"answered right ({found.certified / found.inputs:.4f}); {found.seconds:.1f} s\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
