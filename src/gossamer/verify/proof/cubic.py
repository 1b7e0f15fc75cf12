"""Cubic proof (Gross et al. 2024): as per-output, with the worst output of each term taken apart. O(v^3 K).

The margin's terms (direct path, maximum, query, filling token, position) each take their own worst wrong output, so
outputs need not be gone through; what is left is every query q, maximum m, filling token k and number n.
"""

from __future__ import annotations

import numpy as np

from gossamer.verify.proof.cells import Cells
from gossamer.verify.proof.decomposition import MARGIN, Parts


def cubic(parts: Parts) -> Cells:
    """What this proof certifies."""
    k, v = parts.k, parts.v
    tokens, u = np.arange(v), parts.token_weights
    direct, copies, positions = parts.worst_direct, parts.worst_copies, parts.worst_positions
    at_query = np.diagonal(u) * parts.position_weights[:, -1]
    query = at_query[:, None] * (direct + copies + positions[-1])  # [q, m]
    filled = direct + positions[:-1].min(0)  # [q, m]
    maximum = u * (filled + np.diagonal(copies))  # [q, m]
    filling = u[:, None] * (filled[..., None] + copies.T)  # [q, m, k]
    split = parts.split_weights[..., None]  # [2, 2, q, n, 1]
    alone = query + split[0, 0, :, 0] * maximum > MARGIN * parts.size * (at_query[:, None] + split[0, 0, :, 0] * u)
    good = np.zeros((k, v, v, v), dtype=bool)
    for n in range(1, k):
        margins = [
            (query + on_max[:, n] * maximum)[..., None] + on_rest[:, n, None] * filling for on_max, on_rest in split
        ]
        slack = MARGIN * parts.size * (
            (at_query[:, None] + split[1, 0, :, n] * u)[..., None] + split[0, 1, :, n, None] * u[:, None]
        )  # fmt: skip
        good[n] = np.minimum(*margins) > slack
    good &= tokens[:, None] > tokens  # k < m
    return Cells(alone=alone & (tokens[:, None] <= tokens), good=good)
