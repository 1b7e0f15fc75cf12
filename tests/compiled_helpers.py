"""What tests of hand-compiled models share: zero ablation, names of edges, and every edge ablated alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.graph import Graph
from gossamer.models.compiled import CompiledModel
from gossamer.task import Encoded


class Zeroed:
    """A model whose writes on any other prompt are zero: methods that take the reference from there ablate to zero."""

    def __init__(self, model: CompiledModel) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def writes(self, batch: Encoded, *, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        writes, logits = self.model.writes(batch, start=start)
        return torch.zeros_like(writes), logits


def under(model: CompiledModel, value: str) -> Any:
    """The model as methods are to see it under an ablation value: resample or zero."""
    return Zeroed(model) if value == "zero" else model


def names(graph: Graph, edges: Any) -> set[str]:
    nodes = [n for n, _ in graph.layout.locations]
    return {f"{nodes[graph.src[e]]}->{nodes[graph.dst[e]]}<{graph.matrices[graph.matrix[e]]}>" for e in edges}


def edges_of(graph: Graph, circuit: Circuit) -> set[str]:
    return names(graph, graph.numbers(circuit.src, circuit.dst, circuit.matrix))


def rows(tokens: Tensor) -> Encoded:
    """Prompts that are all as long as they can be; their answers are not asked for."""
    return Encoded(tokens, torch.full((len(tokens),), tokens.shape[1] - 1), tokens[:, 0], tokens[:, 0])


def changes(model: CompiledModel, clean: Tensor, other: Tensor, value: str) -> np.ndarray:
    """The largest change of a logit when each edge alone is ablated, [edges]; clean, other: tokens [rows, pos]."""
    batch, reference = rows(clean), under(model, value).writes(rows(other))[0]
    runs = model.ablations(batch, reference)
    alone = torch.stack([model._table(a) for a in torch.eye(model.graph().n_edges, dtype=torch.float64)])
    found: np.ndarray = (runs.logits(alone, 0) - runs.clean).abs().amax((1, 2)).numpy()
    return found
