"""Head-grain graphs as other tools count them, with keys and values per query head.

EAP-IG, MIB and AutoCircuit let every query head read its keys and values apart. Ours has one node per key-value group,
which is what the model computes. The mapping between the two:

- Reading: the edge of a group has the sum of its query heads' scores, and is in the circuit if any of theirs is.
- Writing: every query head of the group gets the group's membership and an equal share of its score.

The sum is exact for scores that are gradients (EAP, EAP-IG): what moves a group's input moves it for each of its heads.

When it lies: a circuit with a group's edge for some of its query heads only is no circuit of the model. The other
heads' edges come in with it, and a note in the circuit's record says how many.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gossamer.circuit import Circuit
from gossamer.errors import BadInput
from gossamer.graph import Graph, HeadShape, head_graph, on_paths
from gossamer.record import Record

_HEAD = re.compile(r"a(\d+)\.([hg])(\d+)")


def shape_of(graph: Graph) -> HeadShape:
    """The shape that a graph at head grain was built from; BadInput for any other graph."""
    found = [m.groups() for name, _ in graph.layout.locations if (m := _HEAD.fullmatch(name))]
    count = {kind: sum(k == kind and layer == "0" for layer, k, _ in found) for kind in "hg"}
    starts, matrices = graph.layout.starts, list(graph.matrices)
    if graph.layout.grain == "head" and count["h"] and "mlp" in matrices:
        n_layers = 1 + max(int(layer) for layer, _, _ in found)
        into_mlps = graph.matrix == matrices.index("mlp")
        edges = set(zip(graph.src[into_mlps].tolist(), graph.dst[into_mlps].tolist(), strict=True))
        shape = HeadShape(
            n_heads=count["h"], n_groups=count["g"] or count["h"],
            parallel=tuple((starts.get(f"a{i}.h0"), starts.get(f"m{i}")) not in edges for i in range(n_layers)),
        )  # fmt: skip
        expected = head_graph(shape)
        if expected.layout == graph.layout and all(
            np.array_equal(getattr(expected, k), getattr(graph, k)) for k in ("src", "dst", "matrix")
        ):
            return shape
    raise BadInput(
        f"Expected the whole graph of a decoder at head grain, got one at grain {graph.layout.grain} with "
        f"{graph.layout.n_nodes} nodes and {graph.n_edges} edges; take it from model.graph('head')."
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class PerQueryHead:
    """The edges of a graph as a table [writers, readers] in which every query head reads keys and values itself.

    Writers are the shape's; readers are, per layer, the queries of all heads, their keys, their values and the MLP,
    then the logits. A table has places where there is no edge: `exists` is False there.
    """

    graph: Graph
    shape: HeadShape

    @classmethod
    def of(cls, graph: Graph) -> PerQueryHead:
        return cls(graph=graph, shape=shape_of(graph))

    @cached_property
    def _whole(self) -> tuple[tuple[str, str, int], ...]:
        return replace(self.shape, n_groups=self.shape.n_heads).readers

    @cached_property
    def writers(self) -> dict[str, int]:
        """Row of each writer."""
        return {name: i for i, name in enumerate(self.shape.writers)}

    @cached_property
    def readers(self) -> tuple[tuple[str, str], ...]:
        """(node, what it reads for: q, k, v, mlp or logits) of each column."""
        return tuple((node, part) for node, part, _ in self._whole)

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column of each reader by the name that EAP-IG gives it: a9.h6<q>, m3, logits."""
        names = (node if part in ("mlp", "logits") else f"{node}<{part}>" for node, part in self.readers)
        return {name: i for i, name in enumerate(names)}

    @cached_property
    def exists(self) -> np.ndarray:
        """bool [writers, readers]"""
        before = np.array([n for _, _, n in self._whole])
        return np.arange(len(self.writers))[:, None] < before

    @property
    def n_edges(self) -> int:
        return int(self.exists.sum())

    @cached_property
    def _ours(self) -> np.ndarray:
        """[readers] number of the reader in our graph that each column belongs to."""
        numbers = {(node, part): i for i, (node, part, _) in enumerate(self.shape.readers)}
        size = self.shape.n_heads // self.shape.n_groups
        kind = "g" if size > 1 else "h"
        own = []
        for node, part in self.readers:
            if part in ("k", "v"):
                layer, head = node.split(".h")
                node = f"{layer}.{kind}{int(head) // size}"
            own.append(numbers[node, part])
        return np.array(own)

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """(writer, reader of ours) of each edge of our graph."""
        counts = [n for _, _, n in self.shape.readers]
        return np.concatenate([np.arange(n) for n in counts]), np.repeat(np.arange(len(counts)), counts)

    def sums(self, table: np.ndarray) -> np.ndarray:
        """[n edges of our graph] from a table: summed over the query heads of a group."""
        first = np.searchsorted(self._ours, np.arange(len(self.shape.readers)))  # a group's columns are side by side
        total = np.add.reduceat(np.where(self.exists, table, 0.0), first, axis=1)
        return total[self._places]

    @cached_property
    def members(self) -> np.ndarray:
        """[n edges of our graph] how many edges of the table each one is."""
        return self.sums(self.exists).astype(np.int64)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """A table with an edge's value at each of its query heads, 0 where there is no edge."""
        table = np.zeros((len(self.writers), len(self.shape.readers)), dtype=values.dtype)
        table[self._places] = values
        return table[:, self._ours]

    def circuit(self, kept: np.ndarray, weights: np.ndarray | None, record: Record) -> Circuit:
        """The circuit of a table of kept edges (bool) and one of weights (None: unknown, NaN); notes go to the record.

        Errors: BadInput where no edge is kept.
        """
        kept = kept & self.exists
        counts = self.sums(kept).astype(np.int64)
        edges = np.flatnonzero(counts)
        if not len(edges):
            raise BadInput(
                f"{record.config['file']} keeps no edge: it holds scores, not a circuit. Say how many edges of largest "
                "score to keep, or read the scores."
            )
        notes = list(record.details["notes"])
        split = (counts > 0) & (counts < self.members)
        if split.any():
            notes.append(
                f"{int(split.sum())} edges into key-value groups were kept for some of a group's query heads only; a "
                f"group reads once, so the {int((self.members - counts)[split].sum())} edges of the other heads came "
                f"in with them ({int(kept.sum())} edges as the file counts them became "
                f"{int(self.members[edges].sum())})"
            )
        if loose := len(edges) - len(on_paths(self.graph, edges)):
            notes.append(f"{loose} of its {len(edges)} edges are on no path from input to logits; they change nothing")
        values = np.full(len(edges), np.nan) if weights is None else self.sums(weights)[edges]
        record = record.model_copy(update={"details": {**record.details, "notes": notes}})
        return Circuit.from_edges(self.graph, edges, values, record=record)

    def kept(self, circuit: Circuit) -> tuple[np.ndarray, np.ndarray]:
        """(table of kept edges, table of their weights in equal shares) of a circuit of this graph.

        Errors: BadInput for a circuit of another graph.
        """
        edges = edges_of(circuit, self.graph)
        kept = np.zeros(self.graph.n_edges, dtype=bool)
        kept[edges] = True
        shares = np.zeros(self.graph.n_edges)
        shares[edges] = circuit.weight / self.members[edges]
        return self.spread(kept), self.spread(shares)


def edges_of(circuit: Circuit, graph: Graph) -> np.ndarray:
    """Indices of a circuit's edges in a graph; BadInput for a circuit of another one."""
    if circuit.layout != graph.layout or circuit.matrices != graph.matrices:
        raise BadInput(
            f"Expected a circuit of this model's graph at head grain ({graph.layout.n_nodes} nodes), got one at grain "
            f"{circuit.layout.grain} of a graph with {circuit.layout.n_nodes} nodes; take both from the same model."
        )
    return graph.numbers(circuit.src, circuit.dst, circuit.matrix) if circuit.n_edges else np.zeros(0, dtype=np.int64)
