"""A Hugging Face decoder at channel grain: every channel of channel_parts.py can be ablated, every weight between two
is an edge. It answers subject.py's `Subject`, so node pruning, edge pruning and `verify` run on it as they do on
weight-sparse models.

Prompts are padded on the right and need no equal lengths. The model's own forward pass runs, with hooks at its linear
maps and norms: with nothing ablated its numbers are the model's own, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gossamer.ablation import Ablation, MeansOf
from gossamer.errors import BadInput, Unsupported
from gossamer.graph import Graph, Layout
from gossamer.mask import apply_masks
from gossamer.models.huggingface.channel_parts import Sublayer, WeightMatrix, locations_of, sublayers
from gossamer.models.huggingface.decoder import Decoder
from gossamer.models.huggingface.means import Batch, Means, Sums, batches_of_texts
from gossamer.models.huggingface.norms import HeldNorms
from gossamer.models.huggingface.patterns import watching
from gossamer.models.huggingface.weight_graph import WeightGraph
from gossamer.models.loaded import check_run, cut_edges_of, entries_of
from gossamer.subject import EdgeMasks, Outcome
from gossamer.task import Encoded, Example, Task, encode, fitting

Edit = Callable[[str, Tensor], Tensor]
TOKENS_AT_ONCE = 1 << 13  # a run without gradients needs memory for so many tokens
WINDOW = 256  # tokens of a text that means are taken over are read so many at a time


class _Cut(NamedTuple):
    """Masked edges of one matrix: out[rows] += (value - x[columns]) @ share.T."""

    rows: Tensor
    columns: Tensor
    share: Tensor  # [rows, columns], the masked share of each weight
    value: Tensor  # [columns], what is read instead


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """A decoder whose circuits are made of channels; see `channels_of`. reference: what ablated channels become."""

    decoder: Decoder
    layers: tuple[tuple[Sublayer, Sublayer], ...]
    reference: Means | None

    @property
    def name(self) -> str:
        return self.decoder.name

    @property
    def source(self) -> str:
        return self.decoder.source

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    @property
    def means_of(self) -> MeansOf:
        """What the reference means are over."""
        return "pretraining" if self.reference is None else self.reference.of

    def hashes(self) -> tuple[str, str]:
        """(hash of configuration and weights, hash of the reference means, empty without)."""
        return self.decoder.hashes()[0], "" if self.reference is None else self.reference.sha256()

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Pairs as tokens, of any lengths; BadInput lists every pair that does not fit."""
        return encode(examples, self.decoder.tokenizer, *self.decoder.limits)

    def fitting(self, task: Task) -> Task:
        """The task without the pairs this model cannot be asked, see gossamer.task.fitting."""
        return fitting(task, self.decoder.tokenizer, *self.decoder.limits)

    def means(self, value: str = "mean") -> Mapping[str, Tensor]:
        """What an ablated channel becomes, per location: the reference mean, or zero."""
        if value == "mean" and self.reference is None:
            raise BadInput(
                f"Mean ablation of {self.name} needs reference means: channels_of(decoder, TASK) takes them over the "
                "task's training prompts, channels_of(decoder, TEXTS) over texts."
            )
        return self._placed[value]

    @cached_property
    def _placed(self) -> dict[str, dict[str, Tensor]]:
        found = {"zero": {name: torch.zeros(width, device=self.device) for name, width in self.layout.locations}}
        if self.reference is not None:
            found["mean"] = {k: v.to(self.device) for k, v in self.reference.values.items()}
        return found

    @cached_property
    def layout(self) -> Layout:
        return Layout(grain="channel", locations=locations_of(self.layers, self.decoder.parts))

    @cached_property
    def _weights(self) -> tuple[WeightMatrix, ...]:
        return tuple(m for layer in self.layers for s in layer for m in (*s.readers, s.writer))

    @cached_property
    def _graph(self) -> Graph:
        return WeightGraph(self.layout, self._weights)

    def graph(self, grain: str = "channel") -> Graph:
        """Every non-zero weight between two channels is an edge; see WeightGraph for how to list some of them."""
        if grain != "channel":
            raise Unsupported(f"grain {grain!r} here", "this is the model at channel grain", "its decoder, or Blocks")
        return self._graph

    def edge_weights(self, graph: Graph) -> np.ndarray:
        """The matrix entries, in the order of the edges of the graph or of a part of it."""
        return entries_of(
            graph, self._graph, ((m.name, m.source, m.destination, m.weight()) for m in self._weights), self.name
        )

    def cut_edges(self, ablation: Ablation) -> EdgeMasks | None:
        """What an ablation of granularity edge cuts; None at granularity node."""
        return cut_edges_of(ablation, self._graph, self.decoder.model.dtype)

    def _cuts(self, edges: EdgeMasks, means: Mapping[str, Tensor]) -> dict[str, _Cut]:
        """Masked edges by the name of their matrix."""
        found: dict[str, _Cut] = {}
        for number in np.unique(edges.edges[2]).tolist():
            m, mine = self._weights[number], np.flatnonzero(edges.edges[2] == number)
            weight, ends = m.weight(), list[Tensor]()
            for end, at, width in ((1, m.destination, m.shape[0]), (0, m.source, m.shape[1])):
                channels = torch.from_numpy(edges.edges[end, mine] - self.layout.starts[at]).to(weight.device)
                if not bool(((channels >= 0) & (channels < width)).all()):
                    raise BadInput(f"Expected edges of {m.name} between {m.source} and {m.destination}, some are not.")
                ends += channels.unique(return_inverse=True)
            rows, row, columns, column = ends
            masked = 1 - edges.keep.to(weight)[torch.from_numpy(mine).to(weight.device)]
            share = weight.new_zeros(len(rows), len(columns)).index_put(
                (row, column), masked * weight[rows[row], columns[column]], accumulate=True
            )
            found[m.name] = _Cut(rows, columns, share, means[m.source].to(weight)[columns])
        return found

    def run(
        self, batch: Encoded, *, ablation: Ablation | None = None, masks: Mapping[str, Tensor] | None = None,
        edges: EdgeMasks | None = None, value: str = "mean", values: Mapping[str, Tensor] | None = None,
        reads: Sequence[str] = (), then: Edit | None = None,
    ) -> Outcome:  # fmt: skip
        """Logit gap of every row at its last token, and the activations asked for: see subject.py.

        Without gradients and reads, pairs run TOKENS_AT_ONCE tokens at a time.
        """
        check_run(self.name, self.layout, ablation, masks, edges, value, reads, values)
        by_row = values is not None and any(v.ndim > 1 for v in values.values())
        trials = max((m.shape[0] for m in (masks or {}).values() if m.ndim == 2), default=1)
        at_once = max(1, TOKENS_AT_ONCE // (2 * trials * batch.tokens.shape[1]))
        if not (reads or by_row) and not torch.is_grad_enabled() and batch.n_pairs > at_once:
            parts = [batch.pairs(i, i + at_once) for i in range(0, batch.n_pairs, at_once)]
            how: dict[str, Any] = {"masks": masks, "edges": edges, "value": value, "values": values, "then": then}
            gaps = [self.run(b, ablation=ablation, **how).gap for b in parts]
            gaps = [g.view(trials, -1) for g in gaps]
            return Outcome(torch.cat(gaps, dim=1).flatten(), {})
        if ablation is not None:
            value = ablation.methodology.value
            masks = {k: torch.from_numpy(v) for k, v in ablation.keep.items()}
            edges = self.cut_edges(ablation)
        replaced = values or (self.means(value) if masks or edges is not None else {})
        found: dict[str, Tensor] = {}

        def edit(location: str, x: Tensor) -> Tensor:
            if masks and location in masks:
                own = {location: masks[location].to(x)}, {location: replaced[location].to(x)}
                x = apply_masks(*own)(location, x)
            x = x if then is None else then(location, x)
            if location in reads:
                found[location] = x
                x = x.clone()  # some models add to it in place
            return x

        cuts = {} if edges is None else self._cuts(edges, replaced)
        with self._norms(batch):
            logits = self._logits(batch.tokens.repeat(trials, 1), batch.last.repeat(trials), edit, cuts)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        answer, wrong = (t.to(logits.device).repeat(trials)[:, None] for t in (batch.answer, batch.wrong))
        return Outcome((logits.gather(1, answer) - logits.gather(1, wrong))[:, 0], found)

    @contextmanager
    def _norms(self, batch: Encoded) -> Iterator[None]:
        """Norms as the decoder has them: their own, or held at the scales of a run with nothing ablated."""
        if not self.decoder.norms_held:
            yield
            return
        held = HeldNorms(self.decoder._norm_forms, lambda: self._logits(batch.tokens, batch.last, _unedited, {}))
        with held.holding():
            yield

    def frozen_norms(self) -> Channels:
        """The same model, the norms of whose runs keep the scales that they have with nothing ablated on the same
        prompts: see Decoder. A run costs one more without trials."""
        return replace(self, decoder=self.decoder.frozen_norms())

    def attention(
        self, batch: Encoded, *, masks: Mapping[str, Tensor] | None = None, value: str = "mean",
        values: Mapping[str, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Where every head looks, float32 [layers, rows, heads, pos, keys], in the run with these arguments: see `run`.

        Unsupported for an attention whose softmax cannot be seen."""
        parts = self.decoder.parts
        shape = (len(batch.tokens), parts.n_heads, batch.tokens.shape[1])
        together = ["final_resid"]  # a run with reads is one run
        with watching(self.decoder.model, parts.layers, shape) as patterns:
            self.run(batch, masks=masks, value=value, values=values, reads=together)
        return torch.stack(patterns[-len(parts.layers) :])

    def _logits(self, tokens: Tensor, last: Tensor, edit: Edit, cuts: Mapping[str, _Cut]) -> Tensor:
        """Logits at each row's last token [rows, vocab], under an edit [rows, pos, channels] of every location."""
        with self._hooked(tokens, last, edit, cuts):
            return self.decoder.model(tokens.to(self.device), use_cache=False).logits[:, 0]

    @contextmanager
    def _hooked(self, tokens: Tensor, last: Tensor, edit: Edit, cuts: Mapping[str, _Cut]) -> Iterator[None]:
        with ExitStack() as stack:

            def add(handle: RemovableHandle) -> None:
                stack.callback(handle.remove)

            def edited(location: str, x: Tensor) -> Tensor:
                return edit(location, x.view(*tokens.shape, -1)).view_as(x)  # some MLPs read [rows * pos, channels]

            for layer in self.layers:
                for s in layer:
                    _hook(s, edited, cuts, add)

            def final(norm: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
                return (edited("final_resid", args[0]),)

            def at_last(head: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
                where = last.to(args[0].device)
                return (args[0][torch.arange(len(where), device=where.device), where][:, None],)

            add(self.decoder.parts.final_norm.register_forward_pre_hook(final))
            add(self.decoder.parts.head.register_forward_pre_hook(at_last))
            yield


def _unedited(location: str, x: Tensor) -> Tensor:
    return x


def _hook(s: Sublayer, edit: Edit, cuts: Mapping[str, _Cut], add: Callable[[RemovableHandle], None]) -> None:
    """Hooks that edit the locations of a sublayer and cut its edges."""
    linears = list(dict.fromkeys(m.linear for m in s.readers))
    read: list[Tensor] = []

    def before_reading(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        if not read:  # all readers read the same, edited once
            read.append(edit(s.act_in, args[0]))
        return (read[0],)

    def after_reading(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        for m in s.readers:
            if m.linear is not module:
                continue
            rows = None if m.rows is None else m.rows.to(out.device)
            part = _without(cuts.get(m.name), args[0], out if rows is None else out[..., rows])
            part = part if m.destination == s.inner else edit(m.destination, part)
            out = part if rows is None else out.index_copy(-1, rows, part)
        return out

    def before_writing(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        read.clear()
        return (edit(s.inner, args[0]),)

    def after_writing(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        out = _without(cuts.get(s.writer.name), args[0], out)
        return edit(s.delta, out) if s.last is module else out

    for linear in linears:
        add(linear.register_forward_pre_hook(before_reading))
        add(linear.register_forward_hook(after_reading))
    add(s.writer.linear.register_forward_pre_hook(before_writing))
    add(s.writer.linear.register_forward_hook(after_writing))
    if s.last is not s.writer.linear:
        add(s.last.register_forward_hook(lambda module, args, out: edit(s.delta, out)))


def _without(cut: _Cut | None, x: Tensor, out: Tensor) -> Tensor:
    """What a map puts out when it reads, along cut edges, the replacement in place of x."""
    if cut is None:
        return out
    return out.index_add(-1, cut.rows, (cut.value - x[..., cut.columns]) @ cut.share.T)


def channels_of(decoder: Decoder, reference: Task | Iterable[str] | Means | None = None) -> Channels:
    """A decoder at channel grain, with the means that ablated channels take.

    reference: texts like those it was trained on (cut into windows of at most WINDOW tokens), a task (means over both
    prompts of its training pairs), or Means taken earlier; means are over all tokens but padding. Without, only zero
    ablation can be run.
    Errors: Unsupported for an MLP whose gate cannot be told, BadInput for means of a model of another shape.
    """
    bare = Channels(decoder=decoder, layers=sublayers(decoder.model, decoder.parts), reference=None)
    if reference is None:
        return bare
    if not isinstance(reference, Means):
        reference = _means_over(bare, reference)
    widths = {k: len(v) for k, v in reference.values.items()}
    if widths != dict(bare.layout.locations):
        raise BadInput(f"Expected means of the channels of {decoder.name}, got those of a model of another shape.")
    return Channels(decoder=decoder, layers=bare.layers, reference=reference)


@torch.no_grad()
def _means_over(model: Channels, text: Task | Iterable[str]) -> Means:
    decoder, sums = model.decoder, Sums()
    n_ctx, begin = decoder.limits
    if isinstance(text, Task):
        task = model.fitting(text)
        pairs, size = model.encode(task.train), TOKENS_AT_ONCE // 2
        size = max(1, size // pairs.tokens.shape[1])
        parts = (pairs.pairs(i, i + size) for i in range(0, pairs.n_pairs, size))
        batches: Iterator[Batch] = ((b.tokens, b.last) for b in parts)
    else:
        window = min(WINDOW, n_ctx)

        def ids(one: str) -> list[int]:
            return list(decoder.tokenizer(one, add_special_tokens=False, verbose=False).input_ids)

        batches = batches_of_texts(text, ids, begin, window, max(1, TOKENS_AT_ONCE // window))
    for batch in batches:
        sums.start(batch)
        model._logits(*batch, sums.add, {})
    return sums.means("training" if isinstance(text, Task) else "pretraining", decoder.model.dtype)
