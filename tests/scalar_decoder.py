"""The smallest decoders: a residual stream of one channel, one token, sublayers that are functions of one number.

They answer the protocol of models at head grain by nothing but its definition, so that methods can be checked by hand,
and on a model that is no Hugging Face model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.graph import Graph, HeadShape, head_graph
from gossamer.subject import Ablations, Objective
from gossamer.task import Encoded, Example, Task

Head = Callable[[Tensor, Tensor, Tensor], Tensor]  # what its queries, keys and values read -> what it writes
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScalarDecoder:
    """heads[layer][head] and mlps[layer] write, `logit` is the answer's logit beside a wrong one of 0."""

    heads: Sequence[Sequence[Head]]
    mlps: Sequence[Function]
    logit: Function
    name: str = "scalar"

    @property
    def shape(self) -> HeadShape:
        n = len(self.heads[0])
        return HeadShape(n_heads=n, n_groups=n, parallel=(False,) * len(self.heads))

    def hashes(self) -> tuple[str, str]:
        return "scalar", ""

    def encode(self, examples: Sequence[Example], *, positions: str = "all", several: bool = False) -> Encoded:
        """A prompt is a number; the residual stream starts as a tenth of it."""
        rows = torch.tensor([[int(side)] for e in examples for side in (e.clean, e.counterfactual)])
        zeros = torch.zeros(len(rows), dtype=torch.int64)
        return Encoded(rows, zeros, zeros.clone(), zeros + 1)

    def fitting(self, task: Task, *, positions: str = "all", several: bool = False) -> Task:
        return task

    def graph(self, grain: str = "head") -> Graph:
        assert grain == "head"
        return head_graph(self.shape)

    def _run(
        self, batch: Encoded, alpha: Tensor, change: Callable[[list[Tensor]], list[Tensor]], start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(logits, writes); change: what was written so far -> by what an ablated edge moves its reader, per writer."""
        written = [batch.tokens.double() / 10 if start is None else start[..., 0]]
        shares = list(alpha.split([n for _, _, n in self.shape.readers]))

        def read() -> Tensor:
            share = shares.pop(0)
            moved = change(written)
            total = sum(written[: len(share)])
            assert isinstance(total, Tensor)
            return total + sum(a * moved[i] for i, a in enumerate(share))

        for heads, mlp in zip(self.heads, self.mlps, strict=True):
            inputs = [[read() for _ in heads] for _ in "qkv"]
            written += [head(*(part[h] for part in inputs)) for h, head in enumerate(heads)]
            written.append(mlp(read()))
        answer = self.logit(read())[:, 0]
        return torch.stack([answer, torch.zeros_like(answer)], 1), torch.stack(written)[..., None]

    def writes(self, batch: Encoded, *, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits, written = self.patched_run(batch, None, None, start)
        return written, logits

    def patched_run(
        self, batch: Encoded, alpha: Tensor | None, reference: Tensor | None, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        none = torch.zeros(self.graph("head").n_edges, dtype=torch.float64)

        def change(written: list[Tensor]) -> list[Tensor]:
            return [w - w if reference is None else reference[i, ..., 0] - w for i, w in enumerate(written)]

        return self._run(batch, none if alpha is None else alpha, change, start)

    def patched(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> Tensor:
        return self.patched_run(batch, alpha, reference)[0]

    def ablations(self, batch: Encoded, reference: Tensor) -> Ablations:
        raise NotImplementedError

    def edge_gradient(
        self, batch: Encoded, reference: Tensor, objective: Objective, *, start: Tensor | None = None,
        writes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        alpha = torch.zeros(self.graph("head").n_edges, dtype=torch.float64, requires_grad=True)

        def change(written: list[Tensor]) -> list[Tensor]:
            own = [w.detach() for w in written] if writes is None else list(writes[..., 0])
            return [reference[i, ..., 0] - w for i, w in enumerate(own)]

        logits, written = self._run(batch, alpha, change, start)
        return torch.autograd.grad(objective(logits), alpha)[0], written.detach()


def numbers(*pairs: tuple[int, int]) -> Task:
    """A task of pairs of numbers, clean and counterfactual."""
    examples = tuple(Example(clean=str(a), counterfactual=str(b), answer="", wrong_answer="") for a, b in pairs)
    return Task(name="numbers", version="1", description="", train=examples, heldout=examples[:1])
