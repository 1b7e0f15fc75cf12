"""Per-output proof: the convexity lemma with every wrong output looked at by itself. O(v^4 K), whatever v^K is.

For every query q, maximum m, filling token k < m, number n of positions that k fills, and wrong output o: the margin of
m over o with the positions' weight split in the worst way, and the position part of the values (PVOU) at its worst
position, without which the lemma does not hold. k is good if no output beats m.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gossamer.verify.proof.cells import Cells
from gossamer.verify.proof.decomposition import MARGIN, Parts


def per_output(parts: Parts, progress: Callable[[int, int, float], None] | None = None) -> Cells:
    """What this proof certifies."""
    k, v = parts.k, parts.v
    alone, good = np.zeros((v, v), dtype=bool), np.zeros((k, v, v, v), dtype=bool)
    for m in range(v):
        wrong = np.delete(np.arange(v), m)
        direct, copies, positions = (
            a[:, [m]] - a[:, wrong] for a in (parts.direct, parts.copies, parts.position_copies)
        )  # fmt: skip
        filled = positions[:-1].min(0)
        for q in range(m + 1):
            u = parts.token_weights[q]
            at_query = u[q] * parts.position_weights[q, -1]
            query = at_query * (direct[q] + copies[q] + positions[-1])
            maximum, filling = u[m] * (direct[q] + copies[m] + filled), u[:m, None] * (direct[q] + copies[:m] + filled)
            on_max, on_rest = parts.split_weights[:, :, q].swapaxes(0, 1)[..., None]  # [2, n, 1]
            slack = MARGIN * parts.size * (at_query + on_max[0, 0, 0] * u[m])
            alone[q, m] = (query + on_max[0, 0] * maximum).min() > slack
            base = query + on_max * maximum  # [2, n, o]
            for n in range(1, k):
                margin = np.minimum(*(base[s, n] + on_rest[s, n] * filling for s in (0, 1))).min(1)
                slack = MARGIN * parts.size * (at_query + on_max[1, n] * u[m] + on_rest[0, n] * u[:m])
                good[n, q, m, :m] = margin > slack
        if progress is not None:
            seen = (k - 1) * ((m + 1) ** 3 - (m + 1)) / 3
            progress(m + 1, v, float(good.sum()) / max(seen, 1))
    return Cells(alone=alone, good=good)
