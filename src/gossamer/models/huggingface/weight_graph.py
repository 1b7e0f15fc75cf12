"""The graph of a dense model's channels: every non-zero weight is an edge, so edges are listed only between some nodes.

GPT-2 small has 85 million. See docs/decisions/0006-edges-on-demand.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from gossamer.errors import BadInput
from gossamer.graph import Graph, Layout
from gossamer.models.huggingface.channel_parts import WeightMatrix

MOST_LISTED = 1 << 25  # edges: about 1 GB of circuit


class WeightGraph(Graph):
    """A Graph that reads its edges from the weights when it is asked: `count` and `within` cost what they return.

    Of a small model, `src`, `dst` and `matrix` list all edges as those of any graph do; of one with more than
    MOST_LISTED they are BadInput.
    """

    def __init__(self, layout: Layout, weights: Sequence[WeightMatrix]) -> None:
        self.__dict__.update(layout=layout, weights=tuple(weights), matrices=tuple(m.name for m in weights))

    weights: tuple[WeightMatrix, ...]

    @cached_property
    def _without_zeros(self) -> tuple[bool, ...]:
        return tuple(int(m.weight().count_nonzero()) == np.prod(m.shape) for m in self.weights)

    def _ends(self, m: WeightMatrix, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, columns) of a matrix whose nodes are kept (bool over all nodes)."""
        starts, (rows, columns) = self.layout.starts, m.shape
        first, second = starts[m.destination], starts[m.source]
        return np.flatnonzero(kept[first : first + rows]), np.flatnonzero(kept[second : second + columns])

    def _flags(self, nodes: np.ndarray) -> np.ndarray:
        kept = np.zeros(self.layout.n_nodes, dtype=bool)
        kept[nodes] = True
        return kept

    @cached_property
    def _every(self) -> Graph:
        return self.within(np.arange(self.layout.n_nodes))

    @cached_property
    def n_edges(self) -> int:
        """Non-zero weights of all matrices."""
        return self.count(np.arange(self.layout.n_nodes))

    def counts(self) -> np.ndarray:
        """See Graph: non-zero weights per matrix."""
        return np.array([int(m.weight().count_nonzero()) for m in self.weights])

    @cached_property
    def src(self) -> np.ndarray:
        return self._every.src

    @cached_property
    def dst(self) -> np.ndarray:
        return self._every.dst

    @cached_property
    def matrix(self) -> np.ndarray:
        return self._every.matrix

    def count(self, nodes: np.ndarray) -> int:
        """How many edges have both ends in `nodes` (node numbers)."""
        kept, total = self._flags(nodes), 0
        for m, full in zip(self.weights, self._without_zeros, strict=True):
            rows, columns = self._ends(m, kept)
            total += len(rows) * len(columns) if full else int(_entries(m, rows, columns).count_nonzero())
        return total

    def within(self, nodes: np.ndarray) -> Graph:
        """The graph with only the edges between `nodes` (node numbers); BadInput when there are more than MOST_LISTED.

        Edges are listed matrix by matrix, in each row by row.
        """
        if (n := self.count(nodes)) > MOST_LISTED:
            raise BadInput(
                f"Expected at most {MOST_LISTED:,} edges to list, there are {n:,} between {len(nodes):,} nodes of a "
                "dense model; ask for fewer nodes (a larger node penalty, or a target loss that the model reaches)."
            )
        kept = self._flags(nodes)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for m in self.weights:
            rows, columns = self._ends(m, kept)
            at = _entries(m, rows, columns).nonzero().cpu().numpy()
            found.append((rows[at[:, 0]], columns[at[:, 1]]))
        return self._listed(found)

    def draw(self, counts: np.ndarray, rng: np.random.Generator) -> Graph:
        """The graph with only so many edges of each matrix (`counts`), drawn at random."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for m, full, n in zip(self.weights, self._without_zeros, counts, strict=True):
            every = m.weight().flatten().nonzero()[:, 0].cpu().numpy() if not full else int(np.prod(m.shape))
            rows, columns = np.unravel_index(rng.choice(every, n, replace=False), m.shape)
            found.append((rows, columns))
        return self._listed(found)

    def _listed(self, found: Sequence[tuple[np.ndarray, np.ndarray]]) -> Graph:
        """Edges by their (rows, columns) in every matrix."""
        starts, edges = self.layout.starts, list[np.ndarray]()
        for number, (m, (rows, columns)) in enumerate(zip(self.weights, found, strict=True)):
            ends = starts[m.source] + columns, starts[m.destination] + rows
            edges.append(np.stack([*ends, np.full(len(rows), number)]))
        src, dst, matrix = np.concatenate(edges, axis=1)
        return Graph(layout=self.layout, src=src, dst=dst, matrix=matrix, matrices=self.matrices)


def _entries(m: WeightMatrix, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    weight = m.weight()
    at = [torch.from_numpy(i).to(weight.device) for i in (rows, columns)]
    return weight[at[0]][:, at[1]]
