"""One number per node or per edge. A circuit is a cut through scores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gossamer.circuit import FORMAT_VERSION, Circuit, layout_of, load_arrays, save_arrays
from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.graph import Graph, Layout, on_paths
from gossamer.record import Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """values: float [n_nodes], in the order of the layout; higher is kept longer."""

    layout: Layout
    values: np.ndarray
    record: Record

    def ranking(self) -> np.ndarray:
        """Node numbers from the highest score to the lowest; equal scores by node number."""
        return np.argsort(-self.values, kind="stable")

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
        }  # fmt: skip
        return save_arrays({"values": self.values}, meta, path)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """The inverse of save; a damaged file or one of another kind is CorruptFile."""
        arrays, meta = load_arrays(path, "gossamer-scores")
        try:
            found = cls(
                layout=layout_of(meta), values=arrays["values"], record=Record.model_validate_json(meta["record"])
            )
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

    def top(self, k: int, *, connected: bool = True) -> Circuit:
        """The k edges of largest |score| (equal ones by number) as a circuit.

        connected: without those that then lie on no path from input to logits, so possibly fewer than k.
        """
        if not 0 <= k <= len(self.values):
            raise BadInput(f"Expected 0 to {len(self.values)} edges, got {k}.")
        chosen = np.argsort(-np.abs(self.values), kind="stable")[:k]
        if connected:
            chosen = on_paths(self.graph, chosen)
        return Circuit.from_edges(self.graph, chosen, self.values[chosen], record=self.record)

    def above(self, threshold: float, *, connected: bool = True) -> Circuit:
        """The edges of |score| at least `threshold` as a circuit; connected: as in `top`."""
        return self.top(int((np.abs(self.values) >= threshold).sum()), connected=connected)
