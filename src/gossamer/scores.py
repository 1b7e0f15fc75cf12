"""One number per node or per edge. A circuit is a cut through scores."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gossamer.circuit import FORMAT_VERSION, Circuit, layout_of, load_arrays, save_arrays
from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.graph import Graph, Layout, group_links, on_paths
from gossamer.record import Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """values: float [n_nodes], in the order of the layout; higher is kept longer.

    signed: the values have a sign as those of EdgeScores have, and a node of larger size is kept longer.
    """

    layout: Layout
    values: np.ndarray
    record: Record
    signed: bool = False

    def ranking(self) -> np.ndarray:
        """Node numbers from the highest score (or size, of signed ones) to the lowest; equal ones by node number."""
        return np.argsort(-(np.abs(self.values) if self.signed else self.values), kind="stable")

    def top(self, k: int) -> np.ndarray:
        """The k nodes with the highest scores."""
        if not 0 <= k <= len(self.values):
            raise BadInput(f"Expected a size of 0 to {len(self.values)} nodes, got {k}.")
        return self.ranking()[:k]

    def save(self, path: Path) -> Path:
        """One safetensors file; temporary name, then rename."""
        meta = {
            "format_version": FORMAT_VERSION, "kind": "gossamer-scores", "grain": self.layout.grain,
            "locations": json.dumps(self.layout.locations), "record": self.record.model_dump_json(),
            "signed": json.dumps(self.signed),
        }  # fmt: skip
        return save_arrays({"values": self.values}, meta, path)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """The inverse of save; a damaged file or one of another kind is CorruptFile."""
        arrays, meta = load_arrays(path, "gossamer-scores")
        try:
            found = cls(
                layout=layout_of(meta), values=arrays["values"], record=Record.model_validate_json(meta["record"]),
                signed=bool(json.loads(meta.get("signed", "false"))),
            )  # fmt: skip
        except (LookupError, TypeError, ValueError) as error:
            raise CorruptFile(f"{path} is not a whole scores file ({one_line(error)}); make it again.") from error
        if found.values.shape != (found.layout.n_nodes,):
            raise CorruptFile(
                f"{path} holds {found.values.shape} scores for {found.layout.n_nodes} nodes; make it again."
            )
        if found.values.dtype.kind != "f" or np.isnan(found.values).any():
            raise CorruptFile(f"{path} holds scores that are no numbers and have no order; make it again.")
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeScores:
    """values: float [n_edges] in the order of the graph, signed; an edge of larger size is kept longer.

    The sign is that of the change of the metric when the edge is ablated: a negative score is an edge that the metric
    needs, a positive one an edge that holds it down.
    """

    graph: Graph
    values: np.ndarray
    record: Record

    def top(self, k: int, *, signed: bool = False, connected: bool = True) -> Circuit:
        """The k edges of largest size (equal ones by number) as a circuit.

        signed: the k most negative ones instead, those the metric needs. connected: without those that then lie on no
        path from input to logits, so possibly fewer than k.
        """
        self._check_size(k)
        return self._circuit(np.argsort(-self._sizes(signed), kind="stable")[:k], connected)

    def above(self, threshold: float, *, signed: bool = False, connected: bool = True) -> Circuit:
        """The edges of a size above the threshold, in units of the scores; signed, connected: see `top`."""
        if not threshold >= 0:
            raise BadInput(
                f"Expected a threshold of 0 or more, got {threshold}; a threshold is a size, without a sign."
            )
        return self._circuit(np.flatnonzero(self._sizes(signed) > threshold), connected)

    def greedy(self, k: int, *, signed: bool = False, connected: bool = True) -> Circuit:
        """k edges grown back from the logits, each time the one of largest size into a node that is already there.

        Hanna et al. 2024 (arXiv 2403.17806). Every edge lies on a path to the logits by construction; connected:
        without those that no path from the input reaches, so possibly fewer than k. Head grain.
        """
        self._check_size(k)
        return self._circuit(self._grown(k, self._sizes(signed)), connected)

    def _grown(self, k: int, sizes: np.ndarray) -> np.ndarray:
        """The first k edges in greedy order. A phase ends with the edge that brings a new node in; which edges are
        taken in each follows from the ranks of those that end them."""
        graph, none = self.graph, len(sizes)
        rank = np.empty(none, dtype=np.int64)
        rank[np.argsort(-sizes, kind="stable")] = np.arange(none)
        into = np.argsort(graph.dst, kind="stable")
        first = np.searchsorted(graph.dst[into], np.arange(graph.layout.n_nodes + 1))
        shared = dict(group_links(graph.layout)[:, ::-1].tolist())  # head -> its key-value group
        best = np.full(graph.layout.n_nodes, none)  # per source, of its edges into what is there
        there = np.zeros(graph.layout.n_nodes, dtype=bool)
        came: dict[int, int] = {}
        ends: list[int] = []
        node = graph.layout.starts["logits"]
        while True:
            there[node] = True
            for n in (node, shared.get(node, node)):
                if n not in came:
                    came[n] = len(ends)
                    edges = into[first[n] : first[n + 1]]
                    np.minimum.at(best, graph.src[edges], rank[edges])
            outside = np.where(there, none, best)
            node = int(outside.argmin())
            ends.append(int(outside[node]))
            if ends[-1] == none:
                break
        phase = np.full(none, len(ends))
        for n, since in came.items():
            edges = into[first[n] : first[n + 1]]
            phase[edges] = since + np.searchsorted(np.maximum.accumulate(ends[since:]), rank[edges])
        order = np.lexsort((rank, phase))
        return order[: min(k, int((phase < len(ends)).sum()))]

    def _check_size(self, k: int) -> None:
        if not 0 <= k <= len(self.values):
            raise BadInput(f"Expected 0 to {len(self.values)} edges, got {k}.")

    def _sizes(self, signed: bool) -> np.ndarray:
        return -self.values if signed else np.abs(self.values)

    def _circuit(self, chosen: np.ndarray, connected: bool) -> Circuit:
        if connected:
            chosen = on_paths(self.graph, chosen)
        return Circuit.from_edges(self.graph, chosen, self.values[chosen], record=self.record)

    def save(self, path: Path) -> Path:
        """One safetensors file, the graph in it; temporary name, then rename."""
        layout = self.graph.layout
        meta = {
            "format_version": FORMAT_VERSION, "kind": "gossamer-edge-scores", "grain": layout.grain,
            "locations": json.dumps(layout.locations), "matrices": json.dumps(self.graph.matrices),
            "record": self.record.model_dump_json(),
        }  # fmt: skip
        ends = {k: np.ascontiguousarray(getattr(self.graph, k), dtype=np.int32) for k in ("src", "dst", "matrix")}
        return save_arrays({**ends, "values": np.ascontiguousarray(self.values)}, meta, path)

    @classmethod
    def load(cls, path: Path) -> EdgeScores:
        """The inverse of save; a damaged file or one of another kind is CorruptFile."""
        arrays, meta = load_arrays(path, "gossamer-edge-scores")
        try:
            graph = Graph(
                layout=layout_of(meta), src=arrays["src"], dst=arrays["dst"], matrix=arrays["matrix"],
                matrices=tuple(json.loads(meta["matrices"])),
            )  # fmt: skip
            found = cls(graph=graph, values=arrays["values"], record=Record.model_validate_json(meta["record"]))
        except (LookupError, TypeError, ValueError) as error:
            raise CorruptFile(f"{path} is not a whole edge scores file ({one_line(error)}); make it again.") from error
        if defect := found._defect():
            raise CorruptFile(f"{path} {defect}; make it again.")
        src, dst, matrix = (a.astype(np.int64) for a in (graph.src, graph.dst, graph.matrix))
        return replace(found, graph=replace(graph, src=src, dst=dst, matrix=matrix))

    def _defect(self) -> str:
        """What no edge scores can have, in words; empty for sound ones."""
        ends = (self.graph.src, self.graph.dst, self.graph.matrix)
        sizes = (self.graph.layout.n_nodes, self.graph.layout.n_nodes, len(self.graph.matrices))
        if any(a.ndim != 1 or a.dtype.kind not in "iu" for a in ends):
            return "has edges that are not lists of whole numbers"
        if len({a.shape for a in (*ends, self.values)}) != 1:
            return f"has {self.values.shape} scores for edges of {', '.join(str(len(a)) for a in ends)} ends"
        if self.values.dtype.kind != "f" or np.isnan(self.values).any():
            return "holds scores that are no numbers and have no order"
        if any(((a < 0) | (a >= n)).any() for a, n in zip(ends, sizes, strict=True)):
            return f"has edges beyond its {sizes[0]} nodes or its {sizes[2]} matrices"
        numbers = np.sort(np.ravel_multi_index(ends, sizes))
        if (numbers[1:] == numbers[:-1]).any():
            return "has an edge twice"
        return ""
