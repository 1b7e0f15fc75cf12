"""Brute force: the model's answer on every input. The tightest proof there is, and the longest.

The margin is a sum over positions of a row per token (decomposition.py), so an input costs K rows of v numbers, not a
forward pass. Cost O(v^(K+1) K).

When it lies: never about the weights at hand; it explains nothing, and K = 6 at v = 64 is out of reach.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from gossamer.errors import Unsupported
from gossamer.verify.proof.decomposition import MARGIN, Array, Parts

MOST = 2**25  # inputs: half a minute


def require_brute_force(parts: Parts) -> None:
    """Unsupported where there are too many inputs."""
    if parts.v**parts.k > MOST:
        raise Unsupported(
            f"brute force over {parts.v}^{parts.k} inputs", f"{MOST:,} are what a minute allows",
            "--rung per-output or shorter",
        )  # fmt: skip


def rows_of(parts: Parts, q: int) -> tuple[Array, Array]:
    """(w c [i, t, o], w [i, t]) of query q: what token t at position i adds to logit o, times the denominator."""
    w = parts.token_weights[q][None] * parts.position_weights[q][:, None]
    return w[..., None] * (parts.direct[q] + parts.copies[None] + parts.position_copies[:, None]), w


def brute_force(parts: Parts, progress: Callable[[int, int, float], None] | None = None) -> int:
    """Inputs that are answered right, out of v^K. A tie, or a margin within rounding, is wrong.

    Errors: Unsupported for more than 2^25 inputs.
    """
    require_brute_force(parts)
    k, v = parts.k, parts.v
    tail = min(2, k - 1)  # the last positions before the query, laid out in one table
    tokens = np.stack(np.meshgrid(*[np.arange(v)] * tail, indexing="ij"), -1).reshape(-1, tail)
    every, largest, found = np.arange(len(tokens)), tokens.max(1), 0
    logits = np.empty((v, len(tokens)))
    for q in range(v):
        rows, w = rows_of(parts, q)
        at = np.arange(k - 1 - tail, k - 1)
        table, weight = np.ascontiguousarray(rows[at, tokens].sum(1).T), w[at, tokens].sum(1)  # [o, tail], [tail]
        for head in itertools.product(range(v), repeat=k - 1 - tail):
            np.add(table, (rows[-1, q] + sum(rows[i, t] for i, t in enumerate(head)))[:, None], out=logits)
            size = parts.size * (weight + w[-1, q] + sum(w[i, t] for i, t in enumerate(head)))
            most = np.maximum(largest, max(q, *head) if head else q)
            best = logits[most, every]
            logits[most, every] = -np.inf
            found += int(np.count_nonzero(best - logits.max(0) > MARGIN * size))
        if progress is not None:
            progress(q + 1, v, found / ((q + 1) * v ** (k - 1)))
    return found
