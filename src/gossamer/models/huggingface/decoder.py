"""A Hugging Face decoder at head grain: who writes to its residual stream, who reads it, and any edge between ablated.

Every reader (the queries of a head, the keys or the values of a head or group, an MLP, the logits) gets an input of its
own: the sum of this run's writes, in which the share alpha of each ablated write is replaced by its reference value.
Weights are used where they are; the model's own attention, positions and activation functions run unchanged.

Prompts are padded on the right. A causal model's numbers at a prompt's own tokens then do not depend on the padding.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel

from gossamer.errors import BadInput, Unsupported, one_line
from gossamer.graph import Graph, HeadShape, head_graph
from gossamer.models.hub import checked_device, hub_answers
from gossamer.models.huggingface.anatomy import (
    _INSTEAD,
    Anatomy,
    Layer,
    NormForm,
    anatomy,
    exchange,
    plainly,
    post_scale,
    probe_tokens,
    prove_rows,
    refuse_by_config,
    same,
    weight_of,
)
from gossamer.models.huggingface.gradients import edge_gradient, path_gradient
from gossamer.models.huggingface.memory import (
    estimate,
    give_back_large_blocks,
    needs,
    pairs_that_fit,
    room,
    trials_at_once,
)
from gossamer.models.huggingface.norms import HeldNorms, forms_of
from gossamer.models.huggingface.patterns import watching
from gossamer.models.huggingface.removals import Removals
from gossamer.models.loaded import tensors_sha256
from gossamer.subject import Objective, Probe, Room
from gossamer.task import Encoded, Example, Task, encode, fitting


@dataclass(kw_only=True)
class _Pass:
    """What a forward pass has written so far, and what its hooks are to do.

    resid: the sum of everything written [rows, pos, d]; middle: the same after the attention of the layer under way.
    writes: what each writer wrote, in order; into: where it goes in their place, without gradients,
    [writers, rows, pos, d], of which n_written are there; known: what the first writers wrote in a run that this one
    only goes on from, and that their `rows` share. alpha: [writers, readers], or [trials, writers, readers], the rows
    then being `trials` blocks of those of the reference. chosen: where they are ablated, see mask_of. held: norms that
    do not use their own scales.
    """

    last: Tensor
    alpha: Tensor | None = None
    reference: Tensor | None = None
    chosen: Tensor | None = None
    start: Tensor | None = None
    known: Tensor | None = None
    held: HeldNorms | None = None
    layer: int = 0
    follow: bool = False
    resid: Tensor = field(default_factory=lambda: torch.empty(0))
    middle: Tensor = field(default_factory=lambda: torch.empty(0))
    writes: list[Tensor] = field(default_factory=list)
    into: Tensor | None = None
    n_written: int = 0
    reads: list[tuple[Tensor, list[Tensor]]] = field(default_factory=list)
    column: int = 0

    def __post_init__(self) -> None:
        self.n_written = 0 if self.known is None else len(self.known)

    def mixed(self, base: Tensor, n_writers: int, n_readers: int) -> Tensor | None:
        """Inputs of the next readers [readers, rows, pos, d]; None where none of them has an ablated edge."""
        if self.alpha is None or self.reference is None:
            return None
        share = self.alpha[..., :n_writers, self.column : self.column + n_readers]
        if not share.requires_grad and not bool(share.any()):
            return None
        return base + self.change(share.to(base), ()).reshape(-1, *base.shape)

    def change(self, share: Tensor, at: Any) -> Tensor:
        """What shares [.., writers, readers] of the first writers replace, [readers, trials, numbers]; at: places."""
        assert self.reference is not None
        n, trials = share.shape[-2], 1 if share.ndim == 2 else len(share)
        share = (share if share.ndim == 3 else share[None]).transpose(1, 2)
        first = min(n, 0 if self.known is None else len(self.known))
        total: Tensor | float = 0.0
        if self.known is not None and first:
            moved = self.masked(self.reference[:first] - self.known[:first])[(slice(None), *at)]
            total = share[..., :first] @ moved.flatten(1)  # [trials, readers, numbers of a block]
        if n > first:
            own = torch.cat(self.writes)[: n - first].unflatten(1, (trials, -1))
            moved = self.masked(self.reference[first:n, None] - own)[(slice(None), slice(None), *at)]
            total = total + share[..., first:] @ moved.flatten(2).transpose(0, 1)
        assert isinstance(total, Tensor)
        return total.transpose(0, 1)

    def masked(self, moved: Tensor) -> Tensor:
        """A change [.., rows, pos, d] where it is chosen, 0 elsewhere."""
        return moved if self.chosen is None else moved * self.chosen.to(moved)

    def wrote(self, n: int, written: Callable[[Tensor | None], Tensor]) -> None:
        """Note what the next n writers wrote, [writers, rows, pos, d]; `written` makes it, in a given place or not."""
        if self.into is not None:
            place = self.into[self.n_written : self.n_written + n]
            with torch.no_grad():
                if (made := written(place)) is not place:
                    place.copy_(made)
        elif not self.follow:
            self.writes.append(written(None))
        self.n_written += n


@dataclass(kw_only=True)
class Followed:
    """A run with gradients: per group of readers (of each layer attention and MLP, then the logits) the residual that
    they read, and what the gradient is taken at: outputs of the maps to queries, keys, values; the input of the MLP's
    norm, or of its maps where attention has the same norm; the input of the map to the logits."""

    logits: Tensor
    reads: list[tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoder:
    """A decoder, its tokenizer, and its parts proven by `anatomy`. Parameters are frozen, dropout is off.

    norms_held: see `frozen_norms`.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Any
    parts: Anatomy
    source: str = ""
    norms_held: bool = False
    _held: list[tuple[Encoded, HeldNorms]] = field(default_factory=list, repr=False)  # of the last prompts

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def shape(self) -> HeadShape:
        return HeadShape(
            n_heads=self.parts.n_heads, n_groups=self.parts.n_groups,
            parallel=tuple(layer.parallel for layer in self.parts.layers),
        )  # fmt: skip

    @cached_property
    def _head_graph(self) -> Graph:
        return head_graph(self.shape)

    def graph(self, grain: str = "head") -> Graph:
        """The graph at grain `head`: edges reader by reader, as `head_graph` lists them."""
        if grain != "head":
            other = "Blocks(decoder) at grain block, or channels_of(decoder) at grain channel"
            raise Unsupported(f"grain {grain!r} of a Decoder", "it is the model at grain head", other)
        return self._head_graph

    def encode(self, examples: Sequence[Example], *, positions: str = "all", several: bool = False) -> Encoded:
        """Pairs as tokens, to be ablated at these positions; BadInput lists every pair that does not fit.

        positions: `all`, for which both prompts of a pair have to be equally long; `last`; or a span's name, for which
        the span has to be: see Encoded.choose. several: whether answers may be several tokens, see gossamer.task.asked.
        """
        batch = encode(examples, self.tokenizer, *self.limits, several=several)
        if positions != "all":
            return batch.choose(positions)
        ends = batch.last.view(-1, 2)
        if wrong := (ends[:, 0] != ends[:, 1]).nonzero().flatten().tolist():
            e = examples[wrong[0]]
            place = f"that of line {e.line}" if e.line else f"pair {wrong[0] + 1}"
            raise BadInput(
                f"Expected both prompts of a pair to have as many tokens, {len(wrong)} of {len(examples)} pairs do "
                f"not, the first being {place} ({ends[wrong[0], 0] + 1} and {ends[wrong[0], 1] + 1} "
                f"tokens: {e.clean[-30:]!r}, {e.counterfactual[-30:]!r}); pair words of as many tokens, or mark spans "
                "and ablate at their positions."
            )
        return batch

    def fitting(self, task: Task, *, positions: str = "all", several: bool = False) -> Task:
        """The task without the pairs this model cannot be asked, or, to be ablated at all positions, of unequal length:
        see gossamer.task.fitting."""
        return fitting(task, self.tokenizer, *self.limits, aligned=positions == "all", several=several)

    @property
    def n_ctx(self) -> int:
        """Longest prompt in tokens."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**31

    @cached_property
    def limits(self) -> tuple[int, int | None]:
        """(longest prompt, the token that the tokenizer puts before every text, if it does)."""
        begins = list(self.tokenizer("a").input_ids[:1]) == [self.tokenizer.bos_token_id]
        return self.n_ctx, self.tokenizer.bos_token_id if begins else None

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        said = json.loads(self.model.config.to_json_string(use_diff=False))
        said = {k: v for k, v in said.items() if k not in ("_name_or_path", "transformers_version")}  # it may be moved
        # Saving notes these two in the configuration, so a model made in memory is to have them before it is saved.
        said |= {"architectures": [type(self.model).__name__], "dtype": str(self.model.dtype).removeprefix("torch.")}
        config = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        config.update(tensors_sha256(self.model.state_dict()).encode())
        return config.hexdigest(), ""

    def hashes(self) -> tuple[str, str]:
        """(hash of configuration and weights, empty: it has no reference means)."""
        return self._hashes

    # one forward pass

    def _attention_reads(self, state: _Pass, layer: Layer) -> dict[nn.Module, Tensor] | None:
        """Outputs of the linear maps to queries, keys and values, [rows, pos, out], when one of their edges is cut."""
        readers = (layer.q, layer.k, layer.v)
        n = sum(len(r.rows) for r in readers)
        inputs = state.mixed(state.resid, state.n_written, n)
        state.column += n
        if inputs is None:
            return None
        seen = _read(layer.attn_norm, inputs).flatten(1, 2)
        outs: dict[nn.Module, Tensor] = {}
        start = 0
        for r in readers:
            part = seen[start : start + len(r.rows)] @ r.weight().transpose(1, 2)
            bias = r.bias()
            part = part if bias is None else part + bias[:, None]
            start += len(r.rows)
            whole = outs.get(r.linear)
            if whole is None:
                width = weight_of(r.linear).shape[0]
                whole = part.new_zeros(part.shape[1], width)
            rows = r.rows.to(part.device).flatten()
            outs[r.linear] = whole.index_copy(1, rows, part.transpose(0, 1).flatten(1))
        return {m: o.unflatten(0, state.resid.shape[:2]) for m, o in outs.items()}

    @contextmanager
    def _hooked(self, state: _Pass) -> Iterator[None]:
        parts = self.parts
        with ExitStack() as stack:

            def add(handle: RemovableHandle) -> None:
                stack.callback(handle.remove)

            def enter(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                given = args[0] if args else kwargs["hidden_states"]
                x = given if state.start is None else state.start.to(given)
                if state.follow:
                    x = x.detach().requires_grad_()
                state.resid = x
                if state.known is None:
                    state.wrote(1, lambda place: x[None])
                if args:
                    return (x, *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": x}

            if state.layer < len(parts.layers):
                add(parts.layers[state.layer].block.register_forward_pre_hook(enter, with_kwargs=True))
            for layer in parts.layers[: state.layer]:
                _skip(layer, stack)
            for layer in parts.layers[state.layer :]:
                self._hook_layer(state, layer, stack)

            def logits(head: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
                rows = torch.arange(len(state.last), device=state.resid.device)
                x = state.resid[rows, state.last.to(rows)][:, None]
                if state.alpha is not None and state.reference is not None:
                    block = rows[: state.reference.shape[1]]
                    share = state.alpha[..., :, state.column :].to(x)
                    x = x + state.change(share, (block, state.last.to(rows)[: len(block)])).reshape(x.shape)
                hidden = parts.final_norm(x)
                if state.follow:
                    state.reads.append((x, [hidden]))
                return (hidden,)

            add(parts.head.register_forward_pre_hook(logits))
            yield

    def _hook_layer(self, state: _Pass, layer: Layer, stack: ExitStack) -> None:
        def add(handle: RemovableHandle) -> None:
            stack.callback(handle.remove)

        changed: dict[nn.Module, Tensor] = {}
        linears = list(dict.fromkeys(r.linear for r in (layer.q, layer.k, layer.v)))

        def before_attention(module: nn.Module, args: tuple[Any, ...]) -> None:
            changed.clear()
            changed.update(self._attention_reads(state, layer) or {})
            if state.follow:
                state.reads.append((state.resid, []))

        def read(module: nn.Module, x: Tensor) -> Tensor:
            return changed[module].view(*x.shape[:-1], -1) if module in changed else plainly(module, x)

        def after_read(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            if state.follow:
                state.reads[-1][1].append(out)

        add(linears[0].register_forward_pre_hook(before_attention))
        for m in linears:
            exchange(m, partial(read, m), stack)
            add(m.register_forward_hook(after_read))

        def after_attention(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            total = out if layer.attn_post is None else layer.attn_post(out)
            state.middle = state.resid + total
            state.wrote(self.parts.n_heads, lambda place: self._head_writes(layer, args[0], out, place, state.held))

        add(layer.out.register_forward_hook(after_attention))

        own_norm = layer.mlp_norm is not None and layer.mlp_norm is not layer.attn_norm
        at_norm: list[Tensor] = []

        def before_mlp(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
            base = state.resid if layer.parallel else state.middle
            if module is layer.up[0]:
                n = state.n_written - (self.parts.n_heads if layer.parallel else 0)
                if n != self.shape.written_before(self.parts.layers.index(layer), mlp=True):
                    raise Unsupported(f"the model {self.name}", "its MLP runs before its attention", "another decoder")
                inputs = state.mixed(base, n, 1)
                state.column += 1
                if inputs is not None:
                    changed.update(dict.fromkeys(layer.up, _read(layer.mlp_norm, inputs[0])))
                if state.follow:
                    state.reads.append((base, list(at_norm)))
            if state.follow and not own_norm:  # the gradient at this map's own input
                state.reads[-1][1].append(args[0].view_as(args[0]))
                return (state.reads[-1][1][-1],)
            return (changed[module].view_as(args[0]),) if module in changed else None

        def before_norm(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            at_norm[:] = [args[0].view_as(args[0])]
            return (at_norm[0],)

        if state.follow and own_norm:
            add(cast(nn.Module, layer.mlp_norm).register_forward_pre_hook(before_norm))
        for m in layer.up:
            add(m.register_forward_pre_hook(before_mlp))

        def after_mlp(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            total = (out if layer.mlp_post is None else layer.mlp_post(out)).view_as(state.resid)
            state.resid = state.middle + total
            state.wrote(1, lambda place: total[None].clone() if place is None else total[None])

        add(layer.down.register_forward_hook(after_mlp))

    def _head_writes(
        self, layer: Layer, z: Tensor, out: Tensor, place: Tensor | None, norms: HeldNorms | None
    ) -> Tensor:
        """What each head writes, [heads, rows, pos, d]. z: all heads' values; out: what the map made of them; place:
        where to put it, or a new one; norms: at whose scale the norm after them is held."""
        heads, weight = self.parts.n_heads, weight_of(layer.out)
        each = z.unflatten(-1, (heads, -1)).flatten(0, -3).transpose(0, 1)
        by_head = weight.T.unflatten(0, (heads, -1))
        if place is not None and layer.attn_post is None:
            torch.bmm(each, by_head, out=place.view(heads, -1, place.shape[-1]))
            return place
        written = (each @ by_head).unflatten(1, z.shape[:-1])
        if layer.attn_post is None:
            return written
        scale = post_scale(layer.attn_post, out)
        return written * (scale if norms is None else (scale * norms.ratio(layer.attn_post, out)).to(scale))

    def _forward(self, tokens: Tensor, state: _Pass, **more: Any) -> Tensor:
        """Logits at each row's last token, [rows, vocab]."""
        with self._hooked(state):
            return self.model(tokens.to(self.device), **{"use_cache": False, **more}).logits[:, 0]

    # what methods ask for

    @torch.no_grad()
    def writes(self, batch: Encoded, *, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(what every writer wrote [writers, rows, pos, d], logits at the last token [rows, vocab]). start: what the
        residual stream starts as, [rows, pos, d]."""
        state = _Pass(last=batch.last, start=start, into=self.room(batch))
        logits = self._forward(batch.tokens, state)
        return cast(Tensor, state.into), logits

    def room(self, batch: Encoded) -> Tensor:
        """Memory for what every writer writes, [writers, rows, pos, d]."""
        return torch.empty(
            len(self.shape.writers), *batch.tokens.shape, self.parts.d_model, dtype=self.model.dtype, device=self.device
        )

    def patched(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> Tensor:
        """Logits [rows, vocab] with a share of each edge ablated.

        alpha: [edges], 0 keeps and 1 ablates, in the order of the graph; gradients flow into it. reference:
        [writers, rows, pos, d], what an ablated write is replaced by.
        """
        state = _Pass(last=batch.last, alpha=self._table(alpha), reference=reference, chosen=mask_of(batch))
        return self._patched(batch, state)

    @torch.no_grad()
    def written(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> Tensor:
        """What every writer writes [writers, rows, pos, d] in the run that `patched` makes."""
        state = _Pass(last=batch.last, alpha=self._table(alpha), reference=reference, chosen=mask_of(batch))
        self._patched(batch, state)
        return torch.cat(state.writes)

    def _patched(self, batch: Encoded, state: _Pass) -> Tensor:
        if not self.norms_held:
            return self._forward(batch.tokens, state)
        if not (self._held and all(map(torch.equal, self._held[0][0][:2], batch[:2]))):
            whole = _Pass(last=batch.last, into=self.room(batch))
            self._held[:] = [(batch, HeldNorms(self._norm_forms, lambda: self._forward(batch.tokens, whole)))]
        state.held = self._held[0][1]
        with state.held.holding():
            return self._forward(batch.tokens, state)

    @cached_property
    def _norm_forms(self) -> dict[nn.Module, NormForm]:
        return forms_of(self.model)

    def frozen_norms(self) -> Decoder:
        """The same model, the norms of whose ablated runs (`patched`, `watched`) keep the scales that they have with
        nothing ablated on the same prompts. A run costs one more; what goes on from another run, and gradients at none
        ablated, are Unsupported. Unsupported for a norm of which the scale cannot be told."""
        forms_of(self.model)
        return replace(self, norms_held=True, _held=[])

    def _own_norms(self, what: str) -> None:
        if self.norms_held:
            raise Unsupported(f"{what} with norms held", "only whole runs can be held", "patched, or the model itself")

    @torch.no_grad()
    def watched(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """(what every writer wrote [writers, rows, pos, d], attention patterns [layers, rows, heads, pos, keys])
        in the run that `patched` makes. Unsupported for an attention whose softmax cannot be seen."""
        state = _Pass(last=batch.last, alpha=self._table(alpha), reference=reference, chosen=mask_of(batch))
        shape = (len(batch.tokens), self.parts.n_heads, batch.tokens.shape[1])
        with watching(self.model, self.parts.layers, shape) as patterns:
            self._patched(batch, state)
        return torch.cat(state.writes), torch.stack(patterns[-len(self.parts.layers) :])

    def _cache_as(self, cache: DynamicCache) -> dict[str, DynamicCache]:
        """Keys and values under the name by which this version of the library takes them."""
        names = inspect.signature(self.model.forward).parameters
        return {"cache" if "cache" in names else "past_key_values": cache}

    def ablations(self, batch: Encoded, reference: Tensor) -> Ablations:
        """Many ablations of the same prompts, each computed from where it differs from the clean run on."""
        self._own_norms("ablations that go on from a run")
        return Ablations(self, batch, reference)

    def removals(self, batch: Encoded, reference: Tensor) -> Removals:
        """Edges removed one after the other from the logits back, each trial computed from what it changes alone."""
        self._own_norms("removals")
        return Removals(self, batch, reference)

    def _table(self, alpha: Tensor) -> Tensor:
        """[writers, readers] of one number per edge; 0 where there is no edge."""
        return alpha.new_zeros(len(self.shape.writers), len(self.shape.readers)).index_put(self._cells, alpha)

    @cached_property
    def _cells(self) -> tuple[Tensor, Tensor]:
        """(writer, reader) of each edge of the graph."""
        counts = [n for _, _, n in self.shape.readers]
        writer = np.concatenate([np.arange(n) for n in counts])
        reader = np.repeat(np.arange(len(counts)), counts)
        return torch.from_numpy(writer).to(self.device), torch.from_numpy(reader).to(self.device)

    def edge_gradient(
        self, batch: Encoded, reference: Tensor, objective: Objective, *, start: Tensor | None = None,
        writes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(gradient of the objective to the share alpha of every edge [edges], what was written [writers, ...]).

        Taken at alpha = 0 in a run whose residual stream starts as `start` ([rows, pos, d], default: as it does). The
        change of an edge is reference minus `writes` (default: minus this run's). objective: logits at the last token
        [rows, vocab] -> a sum over rows.
        """
        self._own_norms("gradients at none ablated")
        return edge_gradient(self, batch, reference, objective, start=start, writes=writes)

    def path_gradient(
        self, batch: Encoded, reference: Tensor, objective: Objective, fractions: Sequence[float]
    ) -> Tensor:
        """The mean of `edge_gradient` [edges] over runs whose residual stream starts so far on the way from the
        reference's start to the clean one; the first fraction is 1. The change is that from the clean run in each."""
        self._own_norms("gradients at none ablated")
        return path_gradient(self, batch, reference, objective, fractions)

    def followed(self, batch: Encoded, start: Tensor | None, into: Tensor | None) -> Followed:
        """A run with gradients, its writes put into `into` where given."""
        state = _Pass(last=batch.last, start=start, follow=True, into=into)
        with torch.enable_grad():
            logits = self._forward(batch.tokens, state)
        return Followed(logits=logits, reads=state.reads)

    def trials_at_once(self, tokens: int) -> int:
        """How many runs of so many tokens a pass is worth on this device."""
        return trials_at_once(self, tokens)

    def needed(
        self, n_tokens: int, method: str, probe: Probe | None, *, pairs: int, trials: Callable[[int], int] | None = None
    ) -> int:
        """Peak bytes, weights included, of a method on so many pairs at once; see memory.py."""
        if probe is None:
            return estimate(self, n_tokens, pairs, method)
        return needs(self, probe, n_tokens, trials=trials is not None)(pairs, 1 if trials is None else trials(pairs))

    def within_budget(
        self, n_tokens: int, budget_bytes: int, method: str, probe: Probe | None, *, most: int, least: int = 1,
        trials: Callable[[int], int] | None = None,
    ) -> Room:  # fmt: skip
        """How many pairs and trials a method can take at once, from here on with memory given back when let go.

        See `memory.room` and `memory.pairs_that_fit`; BadInput if the least does not fit.
        """
        if probe is None:
            found = Room(min(most, pairs_that_fit(self, n_tokens, budget_bytes, method, least)), 1)
        else:
            found = room(self, n_tokens, budget_bytes, method, probe, most=most, least=least, trials=trials)
        if self.device.type == "cpu":
            give_back_large_blocks()
        return found


def mask_of(batch: Encoded) -> Tensor | None:
    """Where edges are ablated, bool [rows, pos, 1]; None for everywhere."""
    return None if batch.marks.chosen is None else batch.marks.chosen[..., None]


def _read(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _skip(layer: Layer, stack: ExitStack) -> None:
    """Make a layer hand on what it is given, until the stack is left."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states, *(None,) * (layer.returns - 1)) if layer.returns else hidden_states

    exchange(layer.block, forward, stack)


class Ablations:
    """Ablations of one batch of prompts, several in a pass, from the layer of the first ablated reader on.

    Positions before the first token in which a prompt differs from its counterfactual are the same in every run: only
    later ones are computed, with the clean run's keys and values before them.
    """

    @torch.no_grad()
    def __init__(self, decoder: Decoder, batch: Encoded, reference: Tensor) -> None:
        self.decoder = decoder
        starts: list[Tensor] = []
        handles = [
            layer.block.register_forward_pre_hook(partial(_note_input, starts), with_kwargs=True)
            for layer in decoder.parts.layers
        ]
        cache, state = DynamicCache(), _Pass(last=batch.last)
        try:
            self.clean = decoder._forward(batch.tokens, state, use_cache=True, **decoder._cache_as(cache))
        finally:
            for h in handles:
                h.remove()
        whole = torch.cat(state.writes)
        reference = batch.where_chosen(reference, whole)
        change = (whole - reference).abs().amax((0, 1, 3))
        eps = max(torch.finfo(whole.dtype).eps, torch.finfo(torch.float32).eps)  # some models round inside
        moved = (change > 64 * eps * whole.abs().max()) | (whole[0] != reference[0]).any(-1).any(0)
        first = int(moved.nonzero()[0]) if bool(moved.any()) else 0
        self.shared = min(first, int(batch.last.min()))
        self.rows = len(batch.tokens)
        self.tokens, self.last = batch.tokens[:, self.shared :], batch.last - self.shared
        self.known, self.reference = whole[:, :, self.shared :], reference[:, :, self.shared :]
        mask = mask_of(batch)
        self.chosen = None if mask is None else mask[:, self.shared :].to(decoder.device)
        self.starts = [x[:, self.shared :] for x in (*starts, state.resid)]
        pairs = [cast(tuple[Tensor, Tensor], (kv.keys, kv.values)) for kv in cast(list[Any], cache.layers)]
        self.past = [(keys[:, :, : self.shared], values[:, :, : self.shared]) for keys, values in pairs]
        self.columns = np.cumsum([0, *(decoder.parts.n_heads + 2 * decoder.parts.n_groups + 1 for _ in self.starts)])

    @property
    def table_shape(self) -> tuple[int, int]:
        """(writers, readers)"""
        return len(self.decoder.shape.writers), len(self.decoder.shape.readers)

    @property
    def at_once(self) -> int:
        """So many that a pass has a few hundred tokens on a CPU, where more cost as much each, thousands elsewhere."""
        return trials_at_once(self.decoder, self.rows * self.tokens.shape[1])

    def places(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(writer, reader, layer of the reader) of edges of the graph; the logits are read after the last layer."""
        writer, reader = (t.cpu().numpy()[edges] for t in self.decoder._cells)
        return writer, reader, np.searchsorted(self.columns, reader, side="right") - 1

    @torch.no_grad()
    def logits(self, alpha: Tensor, layer: int) -> Tensor:
        """Logits [trials, rows, vocab] under shares alpha [trials, writers, readers], 0 in layers before `layer`."""
        trials, shape = len(alpha), self.decoder.shape
        start = self.starts[layer].repeat(trials, 1, 1)
        state = _Pass(
            last=self.last.repeat(trials), alpha=alpha, reference=self.reference, chosen=self.chosen, start=start,
            resid=start, layer=layer,
            known=self.known[: shape.written_before(layer) if layer < shape.n_layers else len(self.known)],
            column=int(self.columns[layer]),
        )  # fmt: skip
        more: dict[str, Any] = {}
        if self.shared:
            past = DynamicCache()
            for number, (keys, values) in enumerate(self.past):
                past.update(keys.repeat(trials, 1, 1, 1), values.repeat(trials, 1, 1, 1), number)
            more = {"use_cache": True, **self.decoder._cache_as(past)}
        found = self.decoder._forward(self.tokens.repeat(trials, 1), state, **more)
        return found.unflatten(0, (trials, self.rows))


def _note_input(found: list[Tensor], block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    found.append(args[0] if args else kwargs["hidden_states"])


def load_decoder(
    name_or_folder: str | Path, device: str = "cpu", dtype: str = "float32", device_map: Any = None
) -> Decoder:
    """A decoder and its tokenizer by folder or Hub name, proven.

    device_map: as transformers takes it, in place of `device` (it needs the package accelerate): parts are loaded where
    they belong and never pass through this machine's memory as a whole. All of them must end on one device.

    Errors: BadInput for a name that is none, a device that is not there or a dtype that is not float32, bfloat16 or
    float64; Unsupported for a model that is no decoder of the kind (see `anatomy`), or that ends on several devices.
    """
    checked_device(device)
    if dtype not in ("float32", "bfloat16", "float64"):
        raise BadInput(f"Unknown dtype {dtype!r}; use float32, bfloat16 or float64.")
    if device_map is not None and importlib.util.find_spec("accelerate") is None:
        raise BadInput("A device_map needs the package accelerate: pip install accelerate, or give a device instead.")
    local = Path(name_or_folder).is_dir() or not hub_answers()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name_or_folder, dtype=getattr(torch, dtype), attn_implementation="eager", local_files_only=local,
            **({} if device_map is None else {"device_map": device_map}),
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(name_or_folder, local_files_only=local)
    except (OSError, ValueError) as error:
        if "Unrecognized configuration class" in str(error):  # which goes on to list two hundred others
            refuse_by_config(AutoConfig.from_pretrained(name_or_folder, local_files_only=local))
            raise Unsupported(
                f"the model {Path(name_or_folder).name}", "it is no decoder that goes on with a text", _INSTEAD
            ) from error
        raise BadInput(
            f"Expected a Hugging Face model with its tokenizer at {name_or_folder} ({one_line(error)}); check the name "
            "and the connection."
        ) from error
    if device_map is None:
        model.to(torch.device(device))  # type: ignore[arg-type]  # the wrapper hides what it wraps
    return decoder_of(model, tokenizer, Path(str(name_or_folder)).name, str(name_or_folder))


def decoder_of(model: PreTrainedModel, tokenizer: Any, name: str, source: str = "") -> Decoder:
    """A model that is already in memory as a Decoder; its parameters are frozen and it is put in evaluation mode."""
    if (
        len(devices := sorted({str(t.device) for t in (*model.parameters(), *model.buffers())})) > 1
        or "meta" in devices
    ):
        raise Unsupported(
            f"the model {name} on {' and '.join(devices)}", "what its parts read is added up on one device",
            "a device_map that puts all of it on one, in bfloat16 if it does not fit",
        )  # fmt: skip
    model.eval().requires_grad_(False)
    found = Decoder(name=name, model=model, tokenizer=tokenizer, parts=anatomy(model), source=source)
    _prove(found)
    return found


@torch.no_grad()
def _prove(decoder: Decoder) -> None:
    """Unsupported unless the hooks leave the logits alone, heads read where they were found to, and a run in which
    every reader gets another run's input is that run."""
    tokens = probe_tokens(decoder.model)
    last = torch.full((len(tokens),), tokens.shape[1] - 1)
    plain = decoder.model(tokens, use_cache=False).logits[:, -1]
    if not same(decoder._forward(tokens, _Pass(last=last)), plain):
        raise Unsupported(f"the model {decoder.name}", "reading its parts changes its logits", "another decoder")
    prove_rows(decoder.model, decoder.parts)
    other = tokens.flip(1)
    clean, there = (Encoded(t, last, tokens[:, 0], tokens[:, 1]) for t in (tokens, other))
    reference, wanted = decoder.writes(there)
    graph = decoder.graph()  # with another input in every reader, and nothing else, each has to hear it
    heard = torch.from_numpy((graph.src == graph.layout.starts["input"]).astype(np.float32)).to(decoder.device)
    if not same(decoder.patched(clean, heard, reference), wanted, roundings=1 << 13):  # through all layers
        raise Unsupported(
            f"the model {decoder.name}", "its readers and writers, exchanged one by one, do not make another run",
            "another decoder",
        )  # fmt: skip
