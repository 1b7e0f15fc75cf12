"""A Hugging Face decoder at block grain: all heads of a layer are one node, which reads once and writes once.

Every run is one of the decoder at head grain: an edge between blocks stands for all edges between their heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import Unsupported
from gossamer.graph import READS, Graph, block_graph
from gossamer.models.huggingface.decoder import Ablations, Decoder
from gossamer.subject import Objective, Probe, Room
from gossamer.task import Encoded, Example, Task


@dataclass(frozen=True, eq=False)
class Blocks:
    """The attention and the MLP of each layer as nodes (`a0`, `m0`, ...) with `input` and `logits`.

    It answers the same protocol as the decoder: methods that need no heads run on it. Writers are `input`,
    `a0`, `m0`, ...
    """

    decoder: Decoder

    @property
    def name(self) -> str:
        return self.decoder.name

    def hashes(self) -> tuple[str, str]:
        """(hash of configuration and weights, empty: it has no reference means)."""
        return self.decoder.hashes()

    def encode(self, examples: Sequence[Example], *, positions: str = "all", several: bool = False) -> Encoded:
        """Pairs as tokens, to be ablated at these positions: see Decoder."""
        return self.decoder.encode(examples, positions=positions, several=several)

    def fitting(self, task: Task, *, positions: str = "all", several: bool = False) -> Task:
        """The task without the pairs this model cannot be asked: see Decoder."""
        return self.decoder.fitting(task, positions=positions, several=several)

    @cached_property
    def _graph(self) -> Graph:
        return block_graph(self.decoder.shape)

    def graph(self, grain: str = "block") -> Graph:
        """The graph at grain `block`: edges reader by reader, as `block_graph` lists them."""
        if grain != "block":
            raise Unsupported(
                f"grain {grain!r} here", "this is the model at block grain", "its decoder, or channels_of"
            )
        return self._graph

    @cached_property
    def _block_of(self) -> tuple[np.ndarray, np.ndarray]:
        """(block of every writer, block of every reader) of the head graph, numbered as the block graph's nodes."""
        starts, shape = self._graph.layout.starts, self.decoder.shape
        writers = [starts[name.split(".")[0]] for name in shape.writers]
        return np.array(writers), np.array([starts[name.split(".")[0]] for name, _, _ in shape.readers])

    @cached_property
    def members(self) -> np.ndarray:
        """For each edge of the head graph the edge of the block graph that stands for it."""
        head = self.decoder.graph()
        names = [name.split(".")[0] for name, _ in head.layout.locations]
        starts = self._graph.layout.starts
        block = np.array([starts[name] for name in names])
        what = np.array([{"mlp": 1, "logits": 2}.get(name, 0) for name in READS])
        return self._graph.numbers(block[head.src], block[head.dst], what[head.matrix])

    def _summed(self, writes: Tensor) -> Tensor:
        """Writes of heads [writers, ...] summed within blocks."""
        to = torch.from_numpy(self._block_of[0]).to(writes.device)
        return writes.new_zeros(int(to[-1]) + 1, *writes.shape[1:]).index_add(0, to, writes)

    def _spread(self, writes: Tensor, onto: Tensor | None = None) -> Tensor:
        """Writes of blocks as writes of heads that sum to them: all of a change to `onto` is the first head's.

        Heads of a block are always ablated alike, so that only their sum counts.
        """
        change = writes if onto is None else writes - self._summed(onto)
        first = torch.from_numpy(np.unique(self._block_of[0], return_index=True)[1]).to(writes.device)
        base = change.new_zeros(len(self._block_of[0]), *change.shape[1:]) if onto is None else onto
        return base.index_add(0, first, change)

    @torch.no_grad()
    def writes(self, batch: Encoded, *, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(what every block wrote [blocks, rows, pos, d], logits at the last token [rows, vocab]): see Decoder."""
        writes, logits = self.decoder.writes(batch, start=start)
        return self._summed(writes), logits

    def patched(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> Tensor:
        """Logits [rows, vocab] with a share alpha [edges] of each edge ablated; gradients flow into it."""
        return self.decoder.patched(batch, alpha[self._members(alpha)], self._spread(reference))

    def written(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> Tensor:
        """What every block writes [blocks, rows, pos, d] in the run that `patched` makes."""
        return self._summed(self.decoder.written(batch, alpha[self._members(alpha)], self._spread(reference)))

    def trials_at_once(self, tokens: int) -> int:
        """How many runs of so many tokens a pass is worth: see Decoder."""
        return self.decoder.trials_at_once(tokens)

    def needed(
        self, n_tokens: int, method: str, probe: Probe | None, *, pairs: int, trials: Callable[[int], int] | None = None
    ) -> int:
        """Peak bytes of a method at this grain: see Decoder."""
        return self.decoder.needed(n_tokens, method, probe, pairs=pairs, trials=trials)

    def within_budget(
        self, n_tokens: int, budget_bytes: int, method: str, probe: Probe | None, *, most: int, least: int = 1,
        trials: Callable[[int], int] | None = None,
    ) -> Room:  # fmt: skip
        """How many pairs and trials a method can take at once at this grain: see Decoder."""
        return self.decoder.within_budget(
            n_tokens, budget_bytes, method, probe, most=most, least=least, trials=trials
        )  # fmt: skip

    def frozen_norms(self) -> Blocks:
        """The same model, norms held in its ablated runs: see Decoder."""
        return Blocks(self.decoder.frozen_norms())

    def watched(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """(what every block wrote [blocks, rows, pos, d], attention patterns of all heads): see Decoder."""
        writes, patterns = self.decoder.watched(batch, alpha[self._members(alpha)], self._spread(reference))
        return self._summed(writes), patterns

    def _members(self, beside: Tensor) -> Tensor:
        return torch.from_numpy(self.members).to(beside.device)

    def edge_gradient(
        self, batch: Encoded, reference: Tensor, objective: Objective, *, start: Tensor | None = None,
        writes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(gradient of the objective to the share alpha of every edge, what was written): see Decoder."""
        before = None if writes is None else self._spread(writes)
        each, own = self.decoder.edge_gradient(batch, self._spread(reference), objective, start=start, writes=before)
        return each.new_zeros(self._graph.n_edges).index_add(0, self._members(each), each), self._summed(own)

    def ablations(self, batch: Encoded, reference: Tensor) -> BlockAblations:
        """Many ablations of the same prompts, each computed from where it differs from the clean run on."""
        own, _ = self.decoder.writes(batch)
        return BlockAblations(self, self.decoder.ablations(batch, self._spread(reference, own)))


class BlockAblations:
    """A decoder's Ablations, told which blocks."""

    def __init__(self, blocks: Blocks, heads: Ablations) -> None:
        self.blocks, self.heads, self.clean = blocks, heads, heads.clean

    @property
    def table_shape(self) -> tuple[int, int]:
        """(writers, readers)"""
        n = self.blocks.graph().layout.n_nodes - 1
        return n, n

    @property
    def at_once(self) -> int:
        """How many ablations in a pass are worth it on this device."""
        return self.heads.at_once

    def places(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(writer, reader, layer of the reader) of edges of the graph; the logits are read after the last layer."""
        graph = self.blocks.graph()
        reader = graph.dst[edges] - 1  # the input reads nothing
        return graph.src[edges], reader, reader // 2

    def logits(self, alpha: Tensor, layer: int) -> Tensor:
        """Logits [trials, rows, vocab] under shares alpha [trials, writers, readers], 0 in layers before `layer`."""
        writer, reader = (torch.from_numpy(n).to(alpha.device) for n in self.blocks._block_of)
        return self.heads.logits(alpha[:, writer][:, :, reader - 1], layer)
