"""A model at head grain whose logit difference is a weighted sum over its edges: its faithfulness is a sum by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gossamer.graph import Graph, HeadShape, head_graph
from gossamer.record import Record
from gossamer.scores import EdgeScores
from gossamer.subject import Ablations
from gossamer.task import Encoded, Example, Task

SHAPE = HeadShape(n_heads=4, n_groups=4, parallel=(False,) * 3)  # 262 edges


class Additive:
    """Logit 0 of a row: sum over edges of weight * (own number, or the other prompt's where ablated); logit 1: 0.

    A prompt is one token, its number token - 100. Ablated edges that reach nothing count like any other.
    """

    name = "additive"

    def __init__(self, weights: Sequence[float] | np.ndarray, numbers: Sequence[tuple[int, int]]) -> None:
        self._graph = head_graph(SHAPE)
        self.weights = torch.zeros(self._graph.n_edges, dtype=torch.float64)
        self.weights[: len(weights)] = torch.as_tensor(np.asarray(weights), dtype=torch.float64)
        tokens = torch.tensor(numbers).flatten()[:, None] + 100
        rows = torch.arange(len(tokens))
        self.pairs = Encoded(tokens, 0 * rows, rows % 2, 1 - rows % 2)
        self.runs = 0

    def hashes(self) -> tuple[str, str]:
        return "0" * 64, ""

    def graph(self, grain: str = "head") -> Graph:
        assert grain == "head"
        return self._graph

    def encode(self, examples: Sequence[Example], *, positions: str = "all", several: bool = False) -> Encoded:
        raise NotImplementedError

    def fitting(self, task: Task, *, positions: str = "all", several: bool = False) -> Task:
        return task

    def writes(self, batch: Encoded, *, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert start is None
        own = (batch.tokens - 100).double()
        return own.expand(len(SHAPE.writers), -1, -1)[..., None], torch.empty(0)

    def patched(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> Tensor:
        self.runs += 1
        own, other = (batch.tokens[:, 0] - 100).double(), reference[0, :, 0, 0]
        first = (self.weights * (1 - alpha)).sum() * own + (self.weights * alpha).sum() * other
        return torch.stack([first, torch.zeros_like(first)], dim=1)

    def ablations(self, batch: Encoded, reference: Tensor) -> Ablations:
        raise NotImplementedError

    def edge_gradient(self, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def record(self, **changes: str) -> Record:
        fields: dict[str, Any] = {"model": self.name, "model_sha256": self.hashes()[0]} | changes
        return Record(method="by hand", config={}, seed=0, **fields)

    def scores(self, values: np.ndarray, **changes: str) -> EdgeScores:
        return EdgeScores(graph=self._graph, values=np.asarray(values, dtype=float), record=self.record(**changes))
