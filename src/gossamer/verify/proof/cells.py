"""Which inputs a proof certifies, as sets that can be counted without looking at each input.

A cell is a query q, a maximum m >= q and a number n of non-maximal tokens among the first K - 1 positions. Its inputs:
choose the n positions, put m on the others, fill the n with tokens below m. The convexity lemma (Gross et al. 2024):
if for fixed values the margin with token k on all n is positive for every k of a set, it is for every mixture of the
set, since position weights factor out and a mixture's margin is a weighted mean of theirs. So a cell whose set has s
tokens holds C(K-1, n) s^n certified inputs.

Corners: for q < m at least one of the first K - 1 positions must hold m, so n <= K - 2; for q = m none need. With n = 0
there is one input, certified by itself; m = 0 has nothing below it, so only n = 0 and q = 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Cells:
    """alone: [q, m], the input of cell n = 0 is certified; good: [n, q, m, k], k may stand in cell (q, m, n).

    good[0] is empty, and so is every k >= m. Cells that hold no input are ignored.
    """

    alone: np.ndarray
    good: np.ndarray

    def sizes(self) -> Iterator[tuple[int, int, int, int]]:
        """(q, m, n, certified inputs) of every cell that can hold an input; exact."""
        k, v = len(self.good), len(self.alone)
        counts = self.good.sum(-1)
        for m in range(v):
            for q in range(m + 1):
                for n in range(k if q == m else k - 1):
                    free = int(counts[n, q, m])
                    yield q, m, n, math.comb(k - 1, n) * free**n if n else int(self.alone[q, m])

    def count(self) -> int:
        """Certified inputs out of v^K."""
        return sum(size for *_, size in self.sizes())

    def sample(self, number: int, seed: int) -> np.ndarray:
        """Certified inputs [number, K], each with equal probability. Needs one certified input at least."""
        rng = np.random.default_rng(seed)
        cells = [c for c in self.sizes() if c[3]]
        weights = np.array([c[3] for c in cells], dtype=np.float64)
        drawn = rng.multinomial(number, weights / weights.sum())
        k, found = len(self.good), []
        for (q, m, n, _), times in zip(cells, drawn, strict=True):
            if not times:
                continue
            tokens = np.full((times, k), m)
            tokens[:, -1] = q
            if n:
                where = rng.permuted(np.tile(np.arange(k - 1), (times, 1)), axis=1)[:, :n]
                tokens[np.arange(times)[:, None], where] = rng.choice(np.flatnonzero(self.good[n, q, m]), (times, n))
            found.append(tokens)
        return np.concatenate(found)

    def inputs(self) -> np.ndarray:
        """Every certified input [count, K], for vocabularies small enough to list."""
        k, found = len(self.good), []
        for q, m, n, size in self.sizes():
            if not size:
                continue
            free = np.flatnonzero(self.good[n, q, m]) if n else ()
            for where in itertools.combinations(range(k - 1), n):
                for fill in itertools.product(free, repeat=n):
                    tokens = np.full(k, m)
                    tokens[-1] = q
                    tokens[list(where)] = fill
                    found.append(tokens)
        return np.array(found, dtype=np.int64).reshape(-1, k)
