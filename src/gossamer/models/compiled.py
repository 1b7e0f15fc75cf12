"""Hand-compiled transformers: programs written into weights, so that the edges that matter are known beforehand.

The residual stream's channels have names (`token`, `position`, ...). A head is given pairs of channels that attract
each other and pairs that it moves; an MLP is given units. Everything that is not part of the program is noise: heads,
MLPs and further channels of heads and units of MLPs that read every channel and write to channels (`noise`) that only
noise reads.

`Program.true_edges` derives the true edges from the weights, without a run and without any method of discovery:

1. Backwards from the logits: a channel is live at a reader when it moves the logits through weights that are not zero.
   A head's values read the rows of W_V W_O with a non-zero entry in a channel that is live after it; its queries and
   keys the non-zero rows of W_Q W_K^T and of its transpose, if its values are live; an MLP what those of its units
   read that write to such a channel.
2. Forwards from the input: what each writer's write carries. Under zero ablation the channels in which it is not zero;
   under resampling those in which it differs between the two prompts of a pair: the input's by its embeddings, a later
   writer's when what it reads carries something.
3. An edge is true when its writer carries a channel that is live at its reader.

The tests ablate every edge alone, on many inputs: the true edges are those that change the logits, and no other changes
any. An edge that is the same in all prompts (a position, a marker) is therefore true under zero ablation and not under
resampling.

No norms; ReLU; attention scores over the square root of d_head as usual; float64.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import BadInput, Unsupported
from gossamer.graph import Graph, HeadShape, head_graph
from gossamer.models.loaded import tensors_sha256
from gossamer.subject import Objective
from gossamer.task import Encoded, Example, Task, encode, fitting

SHARP = 12.0  # a score that is this much higher leaves a key without it e^-12 of the attention
Value = Literal["resample", "zero"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """One tensor per kind over all layers and heads.

    embed: [vocab, d]; positions: [n_ctx, d]; q, k, v: [layers, heads, d, d_head], their biases [layers, heads, d_head];
    out: [layers, heads, d_head, d]; out_bias: [layers, d], of no head; up: [layers, d, hidden]; up_bias:
    [layers, hidden]; down: [layers, hidden, d]; down_bias: [layers, d], part of what the MLP writes; unembed:
    [d, answers]; unembed_bias: [answers].
    """

    embed: Tensor
    positions: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    q_bias: Tensor
    k_bias: Tensor
    v_bias: Tensor
    out: Tensor
    out_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    unembed: Tensor
    unembed_bias: Tensor

    def items(self) -> Iterator[tuple[str, Tensor]]:
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    def map(self, change: Callable[[Tensor], Tensor]) -> Weights:
        return replace(self, **{name: change(t) for name, t in self.items()})

    @classmethod
    def zeros(
        cls, *, vocab: int, n_ctx: int, d: int, layers: int, heads: int, d_head: int, hidden: int, answers: int
    ) -> Weights:
        shapes = {
            "embed": (vocab, d), "positions": (n_ctx, d), **dict.fromkeys("qkv", (layers, heads, d, d_head)),
            **dict.fromkeys(("q_bias", "k_bias", "v_bias"), (layers, heads, d_head)), "out": (layers, heads, d_head, d),
            "out_bias": (layers, d), "up": (layers, d, hidden), "up_bias": (layers, hidden),
            "down": (layers, hidden, d), "down_bias": (layers, d), "unembed": (d, answers), "unembed_bias": (answers,),
        }  # fmt: skip
        return cls(**{name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()})


class Words:
    """A tokenizer of words between spaces; one that is not in the vocabulary is BadInput."""

    def __init__(self, words: Sequence[str]) -> None:
        self.ids = {w: i for i, w in enumerate(words)}

    def encode(self, sequence: str, *, add_special_tokens: bool = True) -> list[int]:
        words = sequence.split()
        if unknown := [w for w in words if w not in self.ids]:
            raise BadInput(f"Expected words of this model ({' '.join(self.ids)}), got {unknown[0]!r} in {sequence!r}.")
        return [self.ids[w] for w in words]


@dataclass(frozen=True, kw_only=True, eq=False)
class CompiledModel:
    """A transformer without norms that answers ResidualSubject from its definition, with nothing cached.

    bos: the word put before every prompt. causal: whether a token sees later ones; if not, it sees all of its prompt.
    """

    name: str
    weights: Weights
    words: tuple[str, ...]
    bos: str
    causal: bool = True

    @cached_property
    def tokenizer(self) -> Words:
        return Words(self.words)

    @cached_property
    def shape(self) -> HeadShape:
        layers, heads = self.weights.q.shape[:2]
        return HeadShape(n_heads=heads, n_groups=heads, parallel=(False,) * layers)

    @cached_property
    def _head_graph(self) -> Graph:
        return head_graph(self.shape)

    @cached_property
    def cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(writer, reader, layer of the reader) of every edge; the logits are read after the last layer."""
        counts = [n for _, _, n in self.shape.readers]
        reader = np.repeat(np.arange(len(counts)), counts)
        return np.concatenate([np.arange(n) for n in counts]), reader, reader // (3 * self.shape.n_heads + 1)

    def graph(self, grain: str = "head") -> Graph:
        if grain != "head":
            raise Unsupported(f"grain {grain!r} of a compiled model", "its edges are known per head", "head")
        return self._head_graph

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        rest = json.dumps([self.words, self.bos, self.causal])
        return hashlib.sha256((rest + tensors_sha256(dict(self.weights.items()))).encode()).hexdigest(), ""

    def hashes(self) -> tuple[str, str]:
        return self._hashes

    def to(self, to: torch.device | torch.dtype | str) -> CompiledModel:
        """The same model on another device or in another dtype."""
        return replace(self, weights=self.weights.map(lambda t: t.to(to)))

    def shuffled(self, seed: int) -> CompiledModel:
        """The numbers of every weight tensor in a random order, over all layers and heads: a model of nothing."""
        generator = torch.Generator().manual_seed(seed)

        def permuted(t: Tensor) -> Tensor:
            return t.flatten()[torch.randperm(t.numel(), generator=generator).to(t.device)].view_as(t)

        return replace(self, name=f"{self.name}, shuffled", weights=self.weights.map(permuted))

    @property
    def _limits(self) -> tuple[int, int]:
        return len(self.weights.positions), self.tokenizer.ids[self.bos]

    def encode(self, examples: Sequence[Example], *, positions: str = "all", several: bool = False) -> Encoded:
        """Pairs as tokens, both sides of each pair equally long. Unsupported for positions other than all."""
        if positions != "all":
            raise Unsupported(f"positions {positions!r} of {self.name}", "it ablates edges at all of them", "all")
        if several:
            raise Unsupported(f"answers of several tokens of {self.name}", "it reads whole prompts", "one token")
        batch = encode(examples, self.tokenizer, *self._limits)
        uneven = (batch.last[::2] != batch.last[1::2]).nonzero().flatten().tolist()
        if uneven:
            raise BadInput(
                f"Expected both prompts of a pair to have as many tokens, {len(uneven)} of {len(examples)} pairs do "
                f"not, the first being pair {uneven[0] + 1}; pair prompts of as many words."
            )
        return batch

    def fitting(self, task: Task, *, positions: str = "all", several: bool = False) -> Task:
        return fitting(task, self.tokenizer, *self._limits, aligned=True)

    def _forward(
        self, tokens: Tensor, last: Tensor, alpha: Tensor | None = None, reference: Tensor | None = None, *,
        start: Tensor | None = None, own: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(writes [trials, writers, rows, pos, d], logits of all positions [trials, rows, pos, answers]).

        alpha: [trials, writers, readers] shares of `reference`; own: what its change is measured from, this run's.
        """
        w, shape = self.weights, self.shape
        heads, d_head = w.q.shape[1], w.q.shape[3]
        tokens, last = tokens.to(w.embed.device), last.to(w.embed.device)
        n_pos = tokens.shape[1]
        x = w.embed[tokens] + w.positions[:n_pos] if start is None else start
        trials = 1 if alpha is None else len(alpha)
        writes = x.expand(trials, 1, *x.shape)
        at = torch.arange(n_pos, device=x.device)
        unseen = at > (at[:, None] if self.causal else last[:, None, None])  # [pos, pos] or [rows, 1, pos]
        bias, column = torch.zeros_like(w.down_bias[0]), 0

        def read(n: int) -> Tensor:
            """What the next n readers get, [trials, n, rows, pos, d]."""
            nonlocal column
            whole, column = (writes.sum(1) + bias)[:, None], column + n
            if alpha is None or reference is None:
                return whole.expand(trials, n, *x.shape)
            known = writes.shape[1]
            change = reference[:known] - (writes if own is None else own[:known])
            share = alpha[:, :known, column - n : column].transpose(1, 2).to(change)
            return whole + (share @ change.flatten(2 if own is None else 1)).unflatten(2, x.shape)

        for i in range(shape.n_layers):
            inputs = read(3 * heads).unflatten(1, (3, heads)).flatten(3, 4)
            weight, added = torch.stack([w.q[i], w.k[i], w.v[i]]), torch.stack([w.q_bias[i], w.k_bias[i], w.v_bias[i]])
            qkv = (inputs @ weight + added[:, :, None]).unflatten(3, x.shape[:2])
            q, k, v = qkv.unbind(1)  # [trials, heads, rows, pos, d_head]
            scores = (q @ k.transpose(-1, -2) / math.sqrt(d_head)).masked_fill(unseen, -torch.inf)
            mixed = (scores.softmax(-1) @ v).flatten(2, 3) @ w.out[i]
            writes, bias = torch.cat([writes, mixed.unflatten(2, x.shape[:2])], 1), bias + w.out_bias[i]
            hidden = (read(1) @ w.up[i] + w.up_bias[i]).relu()
            writes = torch.cat([writes, hidden @ w.down[i] + w.down_bias[i]], 1)
        return writes, read(1)[:, 0] @ w.unembed + w.unembed_bias

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits after every token, [rows, pos, answers], of rows [rows, pos] that are as long as they are."""
        last = torch.full((len(tokens),), tokens.shape[1] - 1)
        return self._forward(tokens, last)[1][0]

    def _at_last(self, batch: Encoded, logits: Tensor) -> Tensor:
        """[trials, rows, answers]"""
        rows = torch.arange(len(batch.last), device=logits.device)
        return logits[:, rows, batch.last.to(rows)]

    @torch.no_grad()
    def writes(self, batch: Encoded, *, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        writes, logits = self._forward(batch.tokens, batch.last, start=start)
        return writes[0], self._at_last(batch, logits)[0]

    def _table(self, alpha: Tensor) -> Tensor:
        """[writers, readers] of one number per edge; 0 where there is no edge."""
        writer, reader = (torch.from_numpy(c).to(alpha.device) for c in self.cells[:2])
        return alpha.new_zeros(len(self.shape.writers), len(self.shape.readers)).index_put((writer, reader), alpha)

    def patched(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> Tensor:
        table = self._table(alpha.to(reference.device))[None]
        return self._at_last(batch, self._forward(batch.tokens, batch.last, table, reference)[1])[0]

    def edge_gradient(
        self, batch: Encoded, reference: Tensor, objective: Objective, *, start: Tensor | None = None,
        writes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with torch.enable_grad():
            alpha = reference.new_zeros(len(self.cells[0])).requires_grad_()
            table = self._table(alpha)[None]
            own, logits = self._forward(batch.tokens, batch.last, table, reference, start=start, own=writes)
            (found,) = torch.autograd.grad(objective(self._at_last(batch, logits)[0]), alpha)
        return found, own.detach()[0]

    def ablations(self, batch: Encoded, reference: Tensor) -> WholeRuns:
        return WholeRuns(self, batch, reference)


class WholeRuns:
    """Ablations of one batch of prompts, several in a pass, each computed whole."""

    def __init__(self, model: CompiledModel, batch: Encoded, reference: Tensor) -> None:
        self.model, self.batch, self.reference = model, batch, reference
        self.clean = model.writes(batch)[1]

    @property
    def table_shape(self) -> tuple[int, int]:
        return len(self.model.shape.writers), len(self.model.shape.readers)

    @property
    def at_once(self) -> int:
        return max(1, 2048 // self.batch.tokens.numel())

    def places(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        writer, reader, layer = self.model.cells
        return writer[edges], reader[edges], layer[edges]

    @torch.no_grad()
    def logits(self, alpha: Tensor, layer: int) -> Tensor:
        found = self.model._forward(self.batch.tokens, self.batch.last, alpha, self.reference)[1]
        return self.model._at_last(self.batch, found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A compiled model, a task that it does, and its true edges. prompts: inputs it is defined on, all or many."""

    model: CompiledModel
    task: Task
    prompts: tuple[str, ...]

    def true_edges(self, value: str) -> np.ndarray:
        """Numbers of the true edges under `resample` or `zero`, in the graph's order (see the head of this file)."""
        if value not in ("resample", "zero"):
            raise BadInput(f"Expected the truth under resample or zero, got {value!r}.")
        if value == "zero":
            return true_edges(self.model)
        batch = self.model.encode((*self.task.train, *self.task.heldout))
        return true_edges(self.model, batch)


def true_edges(model: CompiledModel, pairs: Encoded | None = None) -> np.ndarray:
    """The rule at the head of this file: under resampling between the prompts of `pairs`, under zero ablation without.

    When it lies: weights that are not zero can cancel or saturate, so for weights that are not written by hand (or by
    a compiler) it is an upper bound.
    """
    w = {name: t.double().cpu().numpy() for name, t in model.weights.items()}
    live = _live(model.shape, w)
    carried = _carried(model.shape, w, live, _input(w, pairs), zero=pairs is None)
    writer, reader, _ = model.cells
    return np.flatnonzero((carried[writer] & live[reader]).any(1))


def _input(w: Mapping[str, np.ndarray], pairs: Encoded | None) -> np.ndarray:
    """Channels [d] that the input carries."""
    if pairs is None:
        return np.asarray(np.concatenate([w["embed"], w["positions"]]).any(axis=0))
    tokens = pairs.tokens.cpu().numpy()
    used = np.arange(tokens.shape[1]) <= pairs.last.cpu().numpy()[::2, None]
    differs = w["embed"][tokens[::2]] != w["embed"][tokens[1::2]]
    return np.asarray(differs[used].any(axis=0))


def _live(shape: HeadShape, w: Mapping[str, np.ndarray]) -> np.ndarray:
    """Channels live at each reader, bool [readers, d]."""
    layers, heads, d, _ = w["q"].shape
    found = np.zeros((len(shape.readers), d), dtype=bool)
    found[-1] = after = w["unembed"].any(1)
    for i in reversed(range(layers)):
        first = i * (3 * heads + 1)
        units = w["down"][i][:, after].any(1)
        found[first + 3 * heads] = w["up"][i][:, units].any(1)
        after = after | found[first + 3 * heads]
        for h in range(heads):
            values = w["v"][i, h] @ w["out"][i, h][:, after]
            if not values.any():
                continue
            pairs = w["q"][i, h] @ w["k"][i, h].T
            found[first + 2 * heads + h] = values.any(1)
            found[first + h] = pairs.any(1)
            found[first + heads + h] = pairs.any(0) | (w["k"][i, h] @ w["q_bias"][i, h] != 0)
        after = after | found[first : first + 3 * heads].any(0)
    return found


def _carried(
    shape: HeadShape, w: Mapping[str, np.ndarray], live: np.ndarray, given: np.ndarray, *, zero: bool
) -> np.ndarray:
    """Channels that each writer's write carries, bool [writers, d]; given: the input's."""
    layers, heads, d, _ = w["q"].shape
    found = np.zeros((len(shape.writers), d), dtype=bool)
    found[0] = stream = given
    for i in range(layers):
        place, column = 1 + i * (heads + 1), i * (3 * heads + 1)
        for h in range(heads):
            path = w["v"][i, h] @ w["out"][i, h]
            attends = (live[column + h] | live[column + heads + h]) & stream
            moved = path if not zero and attends.any() else path[stream]  # another pattern moves whatever there is
            found[place + h] = moved.any(0) | (zero & (w["v_bias"][i, h] @ w["out"][i, h] != 0))
        stream = stream | found[place : place + heads].any(0) | (zero & (w["out_bias"][i] != 0))  # read by later ones
        units = w["up"][i][stream].any(0) | (zero & (w["up_bias"][i] > 0))
        found[place + heads] = w["down"][i][units].any(0) | (zero & (w["down_bias"][i] != 0))
        stream = stream | found[place + heads]
    return found


class _Compiler:
    """Writes a program into weights. Channels by name, `at(name, i)` being their numbers."""

    def __init__(
        self, words: Sequence[str], n_ctx: int, channels: Mapping[str, int], *, layers: int, heads: int, slots: int,
        units: int, noise: int = 6, seed: int,
    ) -> None:  # fmt: skip
        """slots: match or move pairs of a head, units: of an MLP, at most; noise: more channels, slots and units."""
        sizes = {"token": len(words), "position": n_ctx, "one": 1, **channels, "noise": noise}
        self.starts = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
        self.words, self.slots, self.units, self.noise = tuple(words), slots, units, noise
        w = Weights.zeros(
            vocab=len(words), n_ctx=n_ctx, d=sum(sizes.values()), layers=layers, heads=heads, d_head=slots + noise,
            hidden=units + noise, answers=len(words),
        )  # fmt: skip
        w.embed[:, : len(words)] = torch.eye(len(words))
        w.embed[:, self.at("one")] = 1
        w.positions[:, self.at("position") : self.at("position") + n_ctx] = torch.eye(n_ctx)
        self.w = w
        self._add_noise(torch.Generator().manual_seed(seed))

    def at(self, name: str, i: int = 0) -> int:
        return self.starts[name] + i

    def token(self, word: str) -> int:
        return self.at("token", self.words.index(word))

    def _add_noise(self, generator: torch.Generator) -> None:
        """Heads and MLPs of noise, which read every channel and write to channels that only they read."""
        w, mine = self.w, slice(self.at("noise"), None)

        def fill(part: Tensor, size: float) -> None:
            part.copy_(size * torch.randn(part.shape, generator=generator, dtype=part.dtype))

        for t in (w.q, w.k, w.v[..., self.slots :], w.up[..., self.units :]):
            fill(t, 1.0)
        fill(w.out[:, :, self.slots :, mine], 0.5)
        fill(w.down[:, self.units :, mine], 0.5)

    def head(
        self, layer: int, head: int, match: Sequence[tuple[int, int, float]], move: Sequence[tuple[int, int]]
    ) -> None:
        """match: (query channel, key channel, score of the two); move: (channel read, channel written)."""
        w = self.w
        w.q[layer, head] = w.k[layer, head] = 0
        for slot, (query, key, score) in enumerate(match):
            w.q[layer, head, query, slot] = score * math.sqrt(w.q.shape[-1])
            w.k[layer, head, key, slot] = 1
        for slot, (read, written) in enumerate(move):
            w.v[layer, head, read, slot] = 1
            w.out[layer, head, slot, written] = 1

    def mlp(self, layer: int, units: Sequence[tuple[Mapping[int, float], float, Mapping[int, float]]]) -> None:
        """units: (weights of the channels read, bias, weights of the channels written)."""
        for unit, (read, bias, written) in enumerate(units):
            for channel, weight in read.items():
                self.w.up[layer, channel, unit] = weight
            self.w.up_bias[layer, unit] = bias
            for channel, weight in written.items():
                self.w.down[layer, unit, channel] = weight

    def answer(self, channel: int, weights: Mapping[str, float]) -> None:
        """What a channel adds to the logits of words."""
        for word, weight in weights.items():
            self.w.unembed[channel, self.words.index(word)] = weight

    def model(self, name: str) -> CompiledModel:
        return CompiledModel(name=name, weights=self.w, words=self.words, bos="BOS")


def _task(name: str, description: str, pairs: Iterator[Example], n: int) -> Task:
    """The first 2n different pairs, half of them held out."""
    found: dict[Example, None] = {}
    while len(found) < 2 * n:
        found[next(pairs)] = None
    both = tuple(found)
    return Task(name=f"compiled-{name}", version="1", description=description, train=both[:n], heldout=both[n:])


def _paired(rng: np.random.Generator, prompt: Callable[[], str], answer: Callable[[str], str]) -> Iterator[Example]:
    """Pairs of random prompts of as many words whose answers differ."""
    while True:
        one, other = prompt(), prompt()
        if len(one.split()) == len(other.split()) and answer(one) != answer(other):
            yield Example(clean=one, counterfactual=other, answer=f" {answer(one)}", wrong_answer=f" {answer(other)}")


def _program(
    model: CompiledModel, name: str, description: str, pairs: Iterator[Example], n: int,
    prompts: Sequence[str] | None = None,
) -> Program:  # fmt: skip
    task = _task(name, description, pairs, n)
    asked = dict.fromkeys(p for e in (*task.train, *task.heldout) for p in (e.clean, e.counterfactual))
    return Program(model=model, task=task, prompts=tuple(prompts or asked))


def induction(seed: int = 0, n: int = 16) -> Program:
    """What followed the last letter when it stood there before: a head that copies the letter before, and one that
    looks for it (Elhage et al. 2021). 7 true edges under zero ablation; the copying head's queries and keys read
    positions, the same in both prompts of a pair, so 5 under resampling."""
    letters, rng = "abcdef", np.random.default_rng(seed)
    words = ["BOS", *letters]
    c = _Compiler(
        words, 7, {"before": 7, "copied": 7}, layers=2, heads=3, slots=7, units=0, seed=seed,
    )  # fmt: skip
    tokens = range(7)
    c.head(
        0, 1, [(c.at("position", p), c.at("position", p - 1), SHARP) for p in range(1, 7)],
        [(c.at("token", t), c.at("before", t)) for t in tokens],
    )  # fmt: skip
    c.head(
        1, 2, [(c.at("token", t), c.at("before", t), SHARP) for t in tokens],
        [(c.at("token", t), c.at("copied", t)) for t in tokens],
    )  # fmt: skip
    for t, word in enumerate(words):
        c.answer(c.at("copied", t), {word: 6.0})

    def prompt() -> str:
        found = rng.permutation(list(letters))[:5]
        return " ".join([*found, found[rng.integers(4)]])

    def answer(prompt: str) -> str:
        found = prompt.split()
        return found[found.index(found[-1]) + 1]

    return _program(
        c.model("induction"), "induction", "What followed the last letter before", _paired(rng, prompt, answer), n
    )


def reverse(seed: int = 0, n: int = 16) -> Program:
    """Two to four letters, `=`, and their reverse, a letter at a time: a head finds where `=` is, an MLP subtracts the
    own position from twice that, a head copies from the place so found. 9 true edges under zero ablation; those that
    carry positions or a constant are the same in both prompts of a pair, so 5 under resampling."""
    rng, n_ctx = np.random.default_rng(seed), 9
    words = ["BOS", "=", *"abcd"]
    sums = [(e, p) for e in (3, 4, 5) for p in range(e, 2 * e - 1)]  # BOS stands at 0, `=` at e, the last word at p
    c = _Compiler(
        words, n_ctx, {"equals": n_ctx, "target": n_ctx, "copied": 6}, layers=2, heads=2, slots=n_ctx, units=len(sums),
        seed=seed,
    )  # fmt: skip
    positions = range(n_ctx)
    c.head(0, 1, [(c.at("one"), c.token("="), SHARP)], [(c.at("position", p), c.at("equals", p)) for p in positions])
    c.mlp(0, [
        ({c.at("equals", e): 1, c.at("position", p): 1}, -1, {c.at("target", 2 * e - 1 - p): 1}) for e, p in sums
    ])  # fmt: skip
    c.head(
        1, 0, [(c.at("target", p), c.at("position", p), SHARP) for p in positions],
        [(c.at("token", t), c.at("copied", t)) for t in range(6)],
    )  # fmt: skip
    for t, word in enumerate(words):
        c.answer(c.at("copied", t), {word: 6.0})

    def prompt() -> str:
        found = rng.choice(list("abcd"), rng.integers(2, 5)).tolist()
        return " ".join([*found, "=", *found[::-1][: rng.integers(len(found))]])

    def answer(prompt: str) -> str:
        found, done = (side.split() for side in prompt.split("="))
        return str(found[len(found) - 1 - len(done)])

    return _program(c.model("reverse"), "reverse", "The letters backwards", _paired(rng, prompt, answer), n)


def proportion(seed: int = 0, n: int = 16) -> Program:
    """Whether more than half of the words so far are x: an MLP marks x, a head averages the marks over all words but
    the first, and the logits read the running fraction f (their difference is 12 f - 6).

    The MLP reads the input, the head's values the MLP, the logits the head: 3 true edges under resampling. The head's
    queries read a constant and its keys whether a word is BOS: the same in both prompts of a pair, so true under
    zero ablation only: 5.
    """
    rng = np.random.default_rng(seed)
    c = _Compiler(
        ["BOS", "x", "y", "z", "more", "fewer"], 8, {"mark": 1, "fraction": 1}, layers=2, heads=2, slots=1, units=1,
        seed=seed,
    )  # fmt: skip
    c.mlp(0, [({c.token("x"): 1}, 0, {c.at("mark"): 1})])
    c.head(1, 0, [(c.at("one"), c.token("BOS"), -2 * SHARP)], [(c.at("mark"), c.at("fraction"))])
    c.answer(c.at("fraction"), {"more": 6.0, "fewer": -6.0})
    c.w.unembed_bias[-2:] = torch.tensor([-3.0, 3.0])

    def prompt() -> str:
        return " ".join(rng.choice(list("xyz"), rng.choice([3, 5, 7]), p=(0.5, 0.25, 0.25)))

    def answer(prompt: str) -> str:
        words = prompt.split()
        return "more" if 2 * words.count("x") > len(words) else "fewer"

    return _program(c.model("proportion"), "proportion", "More than half x, or fewer", _paired(rng, prompt, answer), n)


def gate(kind: Literal["and", "or", "add"], seed: int = 0, n: int = 16) -> Program:
    """Two heads fetch the first two words, an MLP combines them, 1 and 1 against 0 and 0: x and y = max(0, x + y - 1);
    x or y = x + y - max(0, x + y - 1); their sum. 9 true edges under zero ablation, 5 under resampling.

    Both parents are true, since on some input each matters alone; in the pairs of the `or` task neither does.
    """
    if kind not in ("and", "or", "add"):
        raise BadInput(f"Expected a gate and, or or add, got {kind!r}.")
    rng = np.random.default_rng(seed)
    words = ["BOS", "0", "1", "u", "v", "w", "=", "yes", "no"]
    c = _Compiler(words, 6, {"bit": 2, "gate": 1}, layers=1, heads=4, slots=1, units=2, seed=seed)
    for bit, head in enumerate((1, 2)):
        c.head(
            0, head, [(c.at("one"), c.at("position", 1 + bit), SHARP)], [(c.token("1"), c.at("bit", bit))]
        )  # fmt: skip
    bits = {c.at("bit", 0): 1.0, c.at("bit", 1): 1.0}
    whole, carry = (bits, 0.0, {c.at("gate"): 1.0}), (bits, -1.0, {c.at("gate"): -1.0 if kind == "or" else 1.0})
    c.mlp(0, {"and": [carry], "or": [whole, carry], "add": [whole]}[kind])
    middle = 1.0 if kind == "add" else 0.5
    c.answer(c.at("gate"), {"yes": 4.0, "no": -4.0})
    c.w.unembed_bias[-2:] = torch.tensor([-4.0, 4.0]) * middle

    def pairs() -> Iterator[Example]:
        while True:
            one, other = (" ".join([b, b, *rng.choice(list("uvw"), 2), "="]) for b in "10")
            yield Example(clean=one, counterfactual=other, answer=" yes", wrong_answer=" no")

    every = [f"{x} {y} {f} {g} =" for x, y, f, g in itertools.product("01", "01", "uvw", "uvw")]
    return _program(c.model(kind), kind, f"1 {kind} 1", pairs(), n, every)


def _gate(kind: Literal["and", "or", "add"]) -> Callable[..., Program]:
    def made(seed: int = 0, n: int = 16) -> Program:
        return gate(kind, seed, n)

    return made


PROGRAMS: dict[str, Callable[..., Program]] = {
    "induction": induction, "reverse": reverse, "proportion": proportion, "and": _gate("and"), "or": _gate("or"),
    "add": _gate("add"),
}  # fmt: skip
