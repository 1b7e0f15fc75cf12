"""Prompts as a tree of prefixes: what a causal model computes at a token depends on the prefix that ends there alone.

The prompts of a task share templates and the two sides of a pair everything up to where they differ, so a batch has two
to five times fewer different prefixes than tokens. Everything but attention is computed once per prefix.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Prefixes(NamedTuple):
    """The different prefixes of a batch of rows [rows, pos], numbered.

    tokens, depth: last token and number of tokens before it, [prefixes]; cells: the prefix at each place, [rows, pos],
    any at padding; homes: one place (row * pos + position) of each prefix; ends: each row's whole prompt, [rows].
    """

    tokens: Tensor
    depth: Tensor
    cells: Tensor
    homes: Tensor
    ends: Tensor

    @classmethod
    def of(cls, tokens: Tensor, last: Tensor) -> Prefixes:
        """Of rows of tokens [rows, pos] that end at positions `last` [rows]; on the device of the tokens."""
        ends, device = last.cpu().numpy(), tokens.device
        width = int(ends.max()) + 1
        valid = np.arange(width) <= ends[:, None]
        own = np.where(valid, tokens.cpu().numpy()[:, :width], -1)
        order = np.lexsort(own.T[::-1])
        table, inside = own[order], valid[order]
        new = np.ones(table.shape, dtype=bool)
        new[1:] = np.logical_or.accumulate(table[1:] != table[:-1], axis=1)
        new &= inside
        number = np.where(new, np.cumsum(new).reshape(new.shape) - 1, 0)
        row = np.maximum.accumulate(np.where(new, np.arange(len(table))[:, None], 0), axis=0)
        cells = np.empty_like(number)
        cells[order] = np.where(inside, np.take_along_axis(number, row, axis=0), 0)
        rows, columns = np.nonzero(new)
        found = (
            table[new], columns, cells, order[rows] * width + columns, cells[np.arange(len(cells)), ends],
        )  # fmt: skip
        return cls(*(torch.from_numpy(a).to(device) for a in found))

    def spread(self, x: Tensor) -> Tensor:
        """[trials, prefixes, channels] -> [trials * rows, pos, channels]."""
        trials, n, width = x.shape
        first = torch.arange(0, trials * n, n, device=x.device)[:, None, None]
        return F.embedding((first + self.cells).flatten(0, 1), x.reshape(trials * n, width))

    def gather(self, x: Tensor, trials: int) -> Tensor:
        """[trials * rows, pos, channels] -> [trials, prefixes, channels], each prefix from one of its places."""
        return x.reshape(trials, -1, x.shape[-1]).index_select(1, self.homes)
