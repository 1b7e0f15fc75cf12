"""A max-of-K model as five matrices whose sum is its logits (Gross et al. 2024, section on the decomposition).

With E' = E + mean(P), P' = P - mean(P) and E_q = E + P[last], over real numbers

    logits = EU[q] + sum_i a_i (EVOU[t_i] + PVOU[i]),   a = softmax_i(EQKE[q, t_i] + EQKP[q, i])

    EU = E_q U    EVOU = E' V O U    PVOU = P' V O U    EQKE = E_q Q (E' K)^T / sqrt(d_head)    EQKP the same with P'

for tokens t_1 .. t_K with t_K = q. Multiplied by the softmax's denominator, the margin of the maximum m over an output
o is a sum over positions,

    sum_i w_i c_i,   w_i = exp(EQKE[q, t_i] + EQKP[q, i]),
    c_i = (EU[q, m] - EU[q, o]) + (EVOU[t_i, m] - EVOU[t_i, o]) + (PVOU[i, m] - PVOU[i, o]),

and the answer is right exactly when it is positive for every o other than m. All proofs bound this sum from below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gossamer.models.max_of_k import MaxOfK

Array = np.ndarray
MARGIN = 1e-9  # share of its terms' size that a sum must exceed to be claimed: the checker's rounding stays far below


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The model in float64. left, right: EQKE = left @ right.T, both [v, d_head]; query_embed: E_q [v, d_model].

    scores: EQKE [q, t]; position_scores: EQKP [q, i]; copies: EVOU [t, o]; position_copies: PVOU [i, o]; direct: EU
    [q, o].
    """

    k: int
    v: int
    query_embed: Array
    unembed: Array
    left: Array
    right: Array
    scores: Array
    position_scores: Array
    copies: Array
    position_copies: Array
    direct: Array

    @classmethod
    def of(cls, model: MaxOfK) -> Parts:
        w = {name: t.cpu().numpy().astype(np.float64) for name, t in model.weights().items()}
        mean = w["positions"].mean(0)
        query_embed, embed = w["embed"] + w["positions"][-1], w["embed"] + mean
        apart = w["positions"] - mean
        left = query_embed @ w["query"]
        right, position_right = (x @ w["key"] / math.sqrt(model.config.d_head) for x in (embed, apart))
        out = w["output"] @ w["unembed"]
        return cls(
            k=model.config.k, v=model.config.vocabulary, query_embed=query_embed, unembed=w["unembed"], left=left,
            right=right, scores=left @ right.T, position_scores=left @ position_right.T,
            copies=embed @ w["value"] @ out, position_copies=apart @ w["value"] @ out,
            direct=query_embed @ w["unembed"],
        )  # fmt: skip

    @cached_property
    def size(self) -> float:
        """Largest absolute logit that the three value terms can add up to."""
        return float(sum(np.abs(a).max() for a in (self.direct, self.copies, self.position_copies)))

    @cached_property
    def position_weights(self) -> Array:
        """exp(EQKP) [q, i], every row over its largest: a factor common to a row changes no sign."""
        return np.exp(self.position_scores - self.position_scores.max(1, keepdims=True))

    @cached_property
    def token_weights(self) -> Array:
        """exp(EQKE) [q, t], every row over its largest."""
        return np.exp(self.scores - self.scores.max(1, keepdims=True))

    @cached_property
    def worst_direct(self) -> Array:
        """min over o != m of EU[q, m] - EU[q, o], [q, m]."""
        return lead(self.direct)

    @cached_property
    def worst_copies(self) -> Array:
        """min over o != m of EVOU[t, m] - EVOU[t, o], [t, m]."""
        return lead(self.copies)

    @cached_property
    def worst_positions(self) -> Array:
        """min over o != m of PVOU[i, m] - PVOU[i, o], [i, m]."""
        return lead(self.position_copies)

    @cached_property
    def split_weights(self) -> Array:
        """Position weight on the maxima and on the rest, [2, 2, q, n]: (maxima, rest) when n of the first K - 1
        positions hold no maximum, first with the lightest positions on the maxima, then with the heaviest.

        The margin is linear in how the positions' weight is split, so its minimum over orderings is at one of the two.
        """
        ordered = np.sort(self.position_weights[:, :-1], axis=1)
        light = np.concatenate([np.zeros((self.v, 1)), ordered.cumsum(1)], axis=1)
        heavy = np.concatenate([np.zeros((self.v, 1)), ordered[:, ::-1].cumsum(1)], axis=1)
        n = np.arange(self.k)
        maxima = self.k - 1 - n
        return np.stack([np.stack([light[:, maxima], heavy[:, n]]), np.stack([heavy[:, maxima], light[:, n]])])


def lead(values: Array) -> Array:
    """min over o != m of values[r, m] - values[r, o] for every row r and m, from each row's two largest: [r, m]."""
    top = np.argmax(values, axis=1)
    rows = np.arange(len(values))
    first, rest = values[rows, top], values.copy()
    rest[rows, top] = -np.inf
    best_other = np.repeat(first[:, None], values.shape[1], axis=1)
    best_other[rows, top] = rest.max(1)
    return values - best_other
