"""Removals of edges, one after the other from the logits back, each computed from what it changes alone.

The state is a run in which some edges are ablated for good. A trial ablates a few more, all into readers of one stage
(the logits, an MLP, or the heads of one layer); later stages are decided, earlier ones still run clean. Which readers a
trial can reach, and from which the logits can still be reached, is known from the edges left: only those are computed
again, and everything else keeps its cached outputs. The last layer's queries and MLP are computed at the last token
alone, and nothing before the first token in which the prompts differ.

Every number is computed from the writes as they are, never from an earlier difference: nothing drifts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from gossamer.models.huggingface.anatomy import exchange, joint_norms, plainly, post_scale, weight_of
from gossamer.models.huggingface.memory import trials_at_once
from gossamer.task import Encoded

if TYPE_CHECKING:
    from gossamer.models.huggingface.decoder import Decoder


class _Layer(NamedTuple):
    """What a pass computes again in a layer: q, k, v and heads (bool per head or group), mlp."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    heads: np.ndarray
    mlp: bool

    @property
    def attention(self) -> bool:
        return bool(self.heads.any())


@dataclass(kw_only=True)
class _Trials:
    """One pass. share: what it ablates more than the state, [trials, writers, tried readers]; resid: what has been
    written before the layer under way, [trials or 1, rows, pos, d], middle: after its attention.

    changed: writers that change, in order; delta: by how much their reference minus their write grows, without those of
    the last layer, [changed, trials, rows, pos, d]; delta_last: the same at the last token, of all.
    """

    n: int
    edges: np.ndarray
    tried: np.ndarray
    share: Tensor
    plan: list[_Layer]
    first: int
    changed: np.ndarray
    resid: Tensor
    middle: Tensor
    delta: Tensor
    delta_last: Tensor
    written: int = 0
    outs: dict[nn.Module, Tensor] = field(default_factory=dict)
    totals: dict[tuple[int, str], Tensor] = field(default_factory=dict)


class Removals:
    """The state, and trials of further removals. `clean`: logits without any removal, [rows, vocab]."""

    @torch.no_grad()
    def __init__(self, decoder: Decoder, batch: Encoded, reference: Tensor) -> None:
        runs = decoder.ablations(batch, reference)
        self.decoder, self.clean, self.rows = decoder, runs.clean, runs.rows
        self.tokens, self.last, self.reference = runs.tokens, runs.last.to(decoder.device), runs.reference
        self.starts, self.past, self.shared = runs.starts, runs.past, runs.shared
        self.layers, self.shape = decoder.parts.layers, decoder.shape
        self.coupled = [layer.attn_post is not None or joint_norms(layer) for layer in self.layers]
        self._caches: dict[int, tuple[DynamicCache, list[tuple[Tensor, Tensor]]]] = {}
        n_writers, n_readers = len(self.shape.writers), len(self.shape.readers)
        self._planned: tuple[np.ndarray, list[_Layer]] | None = None
        cells = decoder._cells
        self._writer, self._reader = (c.cpu().numpy() for c in cells)
        self._n_read = [n for _, _, n in self.shape.readers]
        self._heads_from = [self.shape.written_before(number) for number in range(len(self.layers) + 1)]
        self.kept = np.zeros((n_writers, n_readers), dtype=bool)
        self.kept[self._writer, self._reader] = True
        # an edge that is removed at some positions alone is still heard at the others
        self.heard = self.kept if runs.chosen is None else self.kept.copy()
        self.alpha = torch.zeros(n_readers, n_writers, dtype=self.clean.dtype, device=self.clean.device)
        heads, groups = decoder.parts.n_heads, decoder.parts.n_groups
        self.columns = np.arange(len(self.layers) + 1) * (heads + 2 * groups + 1)  # first reader of each layer
        self.chosen = runs.chosen
        self.gap = self._masked(self.reference - runs.known)
        self.gap_last = self._on_last(self.gap)
        self.outs: dict[nn.Module, Tensor] = {}
        self.totals: dict[tuple[int, str], Tensor] = {}
        self._returns: dict[nn.Module, int] = {}
        each = [np.ones(n, dtype=bool) for n in (heads, groups, groups, heads)]
        every = [_Layer(each[0], each[1], each[2], each[3], True) for _ in self.layers]
        none = np.zeros(0, dtype=np.int64)
        handles = [layer.attention.register_forward_hook(self._note_returns) for layer in self.layers]
        try:
            self._pass(none, none, self.alpha.new_zeros(1, n_writers, 0), every)
        finally:
            for h in handles:
                h.remove()
        self.accept(1)

    def _note_returns(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        self._returns[module] = len(out) if isinstance(out, tuple) else 0

    # the order

    def stages(self) -> Iterator[np.ndarray]:
        """Edges (their numbers in the graph) in the order of ACDC, the readers of one stage at a time."""
        place = np.searchsorted(self.columns, self._reader, side="right") - 1
        mlp = np.isin(self._reader, self.columns[1:] - 1)
        stage = 2 * place + mlp
        for s in np.unique(stage)[::-1]:
            yield np.flatnonzero(stage == s)[::-1]

    def live(self, edges: np.ndarray) -> np.ndarray:
        """Per edge, whether anything its reader does can still reach the logits."""
        live: np.ndarray = self._live()[self._reader[edges]]
        return live

    def _live(self) -> np.ndarray:
        heads, groups = self.shape.n_heads, self.shape.n_groups
        live = np.zeros(len(self._n_read), dtype=bool)
        live[-1] = True
        for number in reversed(range(len(self.layers))):
            first, mlp = self.columns[number], self.columns[number + 1] - 1
            head, m = self._heads_from[number], self._heads_from[number + 1] - 1
            live[mlp] = (self.heard[m] & live).any()
            own = (self.heard[head : head + heads] & live).any(1)
            own |= self.coupled[number] and own.any()
            live[first : first + heads] = own
            live[first + heads : mlp] = np.tile(own.reshape(groups, -1).any(1), 2)
        return live

    def _plan(self, tried: np.ndarray) -> list[_Layer]:
        """What a change of what these readers read makes each layer compute again; it hangs on edges into later stages,
        which are decided, so it stays the same until the readers are others."""
        if self._planned is not None and np.array_equal(self._planned[0], tried):
            return self._planned[1]
        heads, groups, live = self.shape.n_heads, self.shape.n_groups, self._live()
        changed = np.zeros(len(self.gap), dtype=bool)
        plan = []
        for number in range(len(self.layers)):
            columns = np.arange(self.columns[number], self.columns[number + 1])
            head = self._heads_from[number]
            hit = live[columns] & (changed @ self.heard[:, columns]) | np.isin(columns, tried)
            q, k, v, _ = np.split(hit, [heads, heads + groups, heads + 2 * groups])
            own = q | np.repeat(k | v, heads // groups)
            own |= self.coupled[number] and own.any()
            changed[head : head + heads] = own
            mlp = columns[-1]
            hit_mlp = bool(live[mlp] and (changed & self.heard[:, mlp]).any()) or mlp in tried
            changed[head + heads] = hit_mlp
            plan.append(_Layer(q, k, v, own, hit_mlp))
        self._planned = tried, plan
        return plan

    # trials

    def at_once(self, edges: np.ndarray) -> int:
        """How many removals in a pass are worth it: a few hundred tokens on a CPU, thousands elsewhere."""
        reader = self._reader[edges[0]]
        last_only = reader == len(self._n_read) - 1 or reader == self.columns[-1] - 1
        return trials_at_once(self.decoder, self.rows * (1 if last_only else self.tokens.shape[1]))

    @torch.no_grad()
    def logits(self, edges: np.ndarray) -> Tensor:
        """Logits [trials, rows, vocab]: trial t removes the edges 0 to t, all of one stage, from the state."""
        tried, column = np.unique(self._reader[edges], return_inverse=True)
        share = np.zeros((len(edges), len(self.gap), len(tried)))
        for t in range(len(edges)):
            share[t:, self._writer[edges[t]], column[t]] = 1
        return self._pass(edges, tried, torch.from_numpy(share).to(self.alpha), self._plan(tried))

    def accept(self, n: int) -> None:
        """Make the first n removals of the last trial part of the state."""
        if not n:
            return
        state = self._trials
        full = len(state.delta)
        self.gap[state.changed[:full]] += state.delta[:, n - 1]
        self.gap_last[state.changed] += state.delta_last[:, n - 1]
        for module, out in state.outs.items():
            self.outs[module] = out.unflatten(0, (state.n, -1))[n - 1]
        for key, total in state.totals.items():
            self.totals[key] = total[n - 1]
        self.drop(state.edges[:n])

    def drop(self, edges: np.ndarray) -> None:
        """Remove edges that are not live, or whose effect is in the state."""
        self.kept[self._writer[edges], self._reader[edges]] = False
        self.alpha[self._reader[edges], self._writer[edges]] = 1

    # one pass

    def _masked(self, change: Tensor) -> Tensor:
        """A change [.., rows, pos, d] where it is chosen, 0 elsewhere."""
        return change if self.chosen is None else change * self.chosen.to(change)

    def _on_last(self, x: Tensor) -> Tensor:
        """[..., rows, pos, d] at each row's last token, [..., rows, 1, d]; one that is so already as it is."""
        if x.shape[-2] == 1:
            return x
        return x[..., torch.arange(self.rows, device=x.device), self.last, :][..., None, :]

    def _cache(self, trials: int) -> dict[str, Any]:
        """The clean run's keys and values of the tokens that all runs share, for so many trials."""
        if not self.shared:
            return {"use_cache": False}
        if trials not in self._caches:
            past = DynamicCache()
            for number, (keys, values) in enumerate(self.past):
                past.update(keys.repeat(trials, 1, 1, 1), values.repeat(trials, 1, 1, 1), number)
            self._caches = {trials: (past, [(kv.keys, kv.values) for kv in cast(list[Any], past.layers)])}
        past, saved = self._caches[trials]
        for kv, (keys, values) in zip(cast(list[Any], past.layers), saved, strict=True):
            kv.keys, kv.values = keys, values  # a run appends to them
        return {"use_cache": True, **self.decoder._cache_as(past)}

    def _pass(self, edges: np.ndarray, tried: np.ndarray, share: Tensor, plan: list[_Layer]) -> Tensor:
        n, n_last, d = len(share), len(self.layers) - 1, self.gap.shape[1:]
        changed = np.flatnonzero(np.concatenate([[False], *((*p.heads, p.mlp) for p in plan)]))
        full = int(np.searchsorted(changed, self._heads_from[n_last]))
        first = next((i for i, p in enumerate(plan) if p.attention or p.mlp), len(plan))
        start = self.starts[first][None]
        state = self._trials = _Trials(
            n=n, edges=edges, tried=tried, share=share, plan=plan, first=first, changed=changed, resid=start,
            middle=start, delta=self.gap.new_empty(full, n, *d),
            delta_last=self.gap.new_empty(len(changed), n, self.rows, 1, d[-1]),
        )  # fmt: skip
        with ExitStack() as stack:
            for number in range(len(plan)):
                self._put_layer(state, number, stack)
            exchange(self.decoder.parts.final_norm, _same, stack)
            head, norm = self.decoder.parts.head, self.decoder.parts.final_norm

            def logits(given: Tensor) -> Tensor:
                x = self._inputs(state, np.array([len(self.alpha) - 1]), self._on_last(state.resid), last=True)
                return plainly(head, plainly(norm, x[0].flatten(0, 1)))

            exchange(head, logits, stack)
            tokens = self.tokens.to(self.clean.device).repeat(n, 1)
            found = self.decoder.model(tokens, **self._cache(n)).logits[:, 0]
        return found.unflatten(0, (n, self.rows))

    def _put_layer(self, state: _Trials, number: int, stack: ExitStack) -> None:
        """Let a layer's maps compute what changes; what the layer itself adds up meanwhile is read by nobody."""
        layer, plan = self.layers[number], state.plan[number]

        def skip(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if number >= state.first:
                self._attended(state, number, self.totals[number, "attention"][None])
                self._layer_done(state, number, self.totals[number, "mlp"][None])
            return (hidden_states, *(None,) * (layer.returns - 1)) if layer.returns else hidden_states

        if not (plan.attention or plan.mlp):
            exchange(layer.block, skip, stack)
            return
        for norm in {layer.attn_norm, layer.mlp_norm} - {None}:
            exchange(cast(nn.Module, norm), _same, stack)
        linears = dict.fromkeys(r.linear for r in (layer.q, layer.k, layer.v))

        def reads(module: nn.Module) -> Callable[[Tensor], Tensor]:
            def forward(given: Tensor) -> Tensor:
                if module not in state.outs:
                    self._read_attention(state, number)
                return state.outs[module].view(*given.shape[:-1], -1)

            return forward

        def attend(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._attended(state, number, self.totals[number, "attention"][None])
            returns = self._returns[layer.attention]
            return (hidden_states, *(None,) * (returns - 1)) if returns else hidden_states

        def out(z: Tensor) -> Tensor:
            self._heads_wrote(state, number, z)
            return z.new_zeros(*z.shape[:-1], self.gap.shape[-1])

        if plan.attention:
            for m in linears:
                exchange(m, reads(m), stack)
            exchange(layer.out, out, stack)
        else:
            exchange(layer.attention, attend, stack)
        seen: list[Tensor] = []
        shape: list[torch.Size] = []

        def up(module: nn.Module) -> Callable[[Tensor], Tensor]:
            def forward(given: Tensor) -> Tensor:
                shape[:] = [given.shape]
                if not plan.mlp:
                    return given.new_zeros(1, 1, weight_of(module).shape[0])
                if not seen:
                    base = state.resid if layer.parallel else state.middle
                    last = number == len(self.layers) - 1
                    at = np.array([self.columns[number + 1] - 1])
                    x = self._inputs(state, at, self._on_last(base) if last else base, last=last)
                    seen.append(_normed(layer.mlp_norm, x[0].flatten(0, 1)))
                return plainly(module, seen[0])

            return forward

        def down(inner: Tensor) -> Tensor:
            if plan.mlp:
                total = _normed(layer.mlp_post, plainly(layer.down, inner)).unflatten(0, (state.n, self.rows))
                state.totals[number, "mlp"] = total
                self._wrote(state, self._heads_from[number + 1] - 1, total[None])
            else:
                total = self.totals[number, "mlp"][None]
            self._layer_done(state, number, total)
            return total.new_zeros(shape[0])

        for m in layer.up:
            exchange(m, up(m), stack)
        exchange(layer.down, down, stack)

    def _attended(self, state: _Trials, number: int, total: Tensor) -> None:
        state.middle = (state.resid if total.shape[-2] > 1 else self._on_last(state.resid)) + total

    def _layer_done(self, state: _Trials, number: int, total: Tensor) -> None:
        state.resid = state.middle + total

    def _inputs(self, state: _Trials, readers: np.ndarray, base: Tensor, *, last: bool) -> Tensor:
        """What readers of as many writers read, [readers, trials, rows, pos, d]. base: all that is written before."""
        n = self._n_read[readers[0]]
        gap, delta = (self.gap_last, state.delta_last) if last else (self.gap, state.delta)
        share, x = self.alpha[readers, :n], base.expand(len(readers), state.n, *gap.shape[1:])
        column = np.searchsorted(state.tried, readers)
        if len(state.tried) and np.array_equal(state.tried[column.clip(max=len(state.tried) - 1)], readers):
            # the readers that are tried: all that they read is as in the state
            share = share + state.share[:, :n, column].transpose(1, 2)  # [trials, readers, n]
            return x + (share.transpose(0, 1) @ gap[:n].flatten(1)).view_as(x)
        if not self.kept[:n, readers].all():
            x = x + (share @ gap[:n].flatten(1)).view(len(readers), 1, *gap.shape[1:])
            c = int(np.searchsorted(state.changed, n))
            if c and not self.kept[np.ix_(state.changed[:c], readers)].all():
                x = x + (share[:, state.changed[:c]] @ delta[:c].flatten(1)).view_as(x)
        return x

    def _read_attention(self, state: _Trials, number: int) -> None:
        """The outputs of a layer's maps to queries, keys and values, [trials * rows, pos, out]."""
        layer, plan, last = self.layers[number], state.plan[number], number == len(self.layers) - 1
        heads, groups, first = self.shape.n_heads, self.shape.n_groups, self.columns[number]
        rows, pos = self.gap.shape[1:3]
        parts = [
            (layer.q, plan.q, first), (layer.k, plan.k, first + heads), (layer.v, plan.v, first + heads + groups),
        ]  # fmt: skip
        for linear in dict.fromkeys(r.linear for r, _, _ in parts):
            old = self.outs.get(linear)
            if old is None:
                old = self.gap.new_zeros(rows, pos, weight_of(linear).shape[0])
            state.outs[linear] = old.repeat(state.n, 1, 1)
        for some in (parts[:1], parts[1:]) if last else (parts,):
            some = [(r, np.flatnonzero(hit), at) for r, hit, at in some if hit.any()]
            if not some:
                continue
            only_last = last and some[0][0] is layer.q
            readers = np.concatenate([at + hit for _, hit, at in some])
            base = self._on_last(state.resid) if only_last else state.resid
            seen = _normed(layer.attn_norm, self._inputs(state, readers, base, last=only_last)).flatten(1, -2)
            start = 0
            for r, hit, _ in some:
                own = r.rows[hit]
                part = seen[start : start + len(hit)] @ weight_of(r.linear)[own].transpose(1, 2)
                bias = cast(Tensor | None, r.linear.bias)
                part = (part if bias is None else part + bias[own][:, None]).transpose(0, 1).flatten(1)
                start += len(hit)
                whole, columns = state.outs[r.linear], own.flatten().to(part.device)
                if only_last and pos > 1:
                    every = torch.arange(len(whole), device=part.device)
                    whole[every[:, None], self.last.repeat(state.n)[:, None], columns] = part
                else:
                    whole.index_copy_(2, columns, part.unflatten(0, whole.shape[:2]))

    def _heads_wrote(self, state: _Trials, number: int, z: Tensor) -> None:
        """z: all heads' values [trials * rows, pos, heads * d_head]."""
        layer, hit = self.layers[number], np.flatnonzero(state.plan[number].heads)
        z = z.unflatten(0, (state.n, self.rows))
        z = self._on_last(z) if number == len(self.layers) - 1 else z
        out = plainly(layer.out, z)
        total = state.totals[number, "attention"] = _normed(layer.attn_post, out)
        each = z.unflatten(-1, (self.shape.n_heads, -1))[..., hit, :].flatten(0, 2).transpose(0, 1)
        weight = weight_of(layer.out).T.unflatten(0, (self.shape.n_heads, -1))[hit]
        written = (each @ weight).unflatten(1, z.shape[:3])
        written = written if layer.attn_post is None else written * post_scale(layer.attn_post, out)
        self._wrote(state, self._heads_from[number] + int(hit[0]), written)
        self._attended(state, number, total)

    def _wrote(self, state: _Trials, writer: int, written: Tensor) -> None:
        """Note what the next writers that change have written, [writers, trials, rows, pos, d]."""
        a, b = state.written, state.written + len(written)
        own = state.changed[a:b]
        assert own[0] == writer
        state.written = b
        if b <= len(state.delta):
            state.delta[a:b] = self._masked(self.reference[own][:, None] - written) - self.gap[own][:, None]
            state.delta_last[a:b] = self._on_last(state.delta[a:b])
        else:
            there = self._on_last(self.reference[own])[:, None] - self._on_last(written)
            there = there if self.chosen is None else there * self._on_last(self.chosen).to(there)
            state.delta_last[a:b] = there - self.gap_last[own][:, None]


def _same(x: Tensor) -> Tensor:
    return x


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else plainly(norm, x)
