"""Gradients of a metric to the share ablated of every edge, at none ablated: one or several runs, one set of products.

The score of an edge is the inner product of the change of its writer with the gradient at its reader's input. A head's
gradient comes from its queries, keys or values through their weights and the norm before them. The derivative of a norm
x -> gain * y / |y| + offset, with y = x or x less its mean, is known: gradients g at the outputs of weights W give

    change . gradient = sum over tokens of change . (s g W') - (change . u) a,   u = s y,  s = 1 / |y|,
    W' = W * gain (less its mean over channels where y is), a = (s g) . (W' u) / channels,

and W' u is what the map gave, less what it gives for the offset. So gradients of several runs add up as they are, as
narrow as heads, before they meet weights and changes; only (change . u) a belongs to each run. Through a norm of
another kind they are pulled run by run.

A model in half precision gives gradients and writes in half precision; what is added up from them (over runs, tokens,
channels and prompts) is in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from gossamer.models.huggingface.anatomy import Layer, NormForm, Reader, norm_form
from gossamer.subject import Objective
from gossamer.task import Encoded

if TYPE_CHECKING:
    from gossamer.models.huggingface.decoder import Decoder


@dataclass(kw_only=True)
class _Sums:
    """What several runs add up to at one group of readers. maps: per map to attention's readers s g, [tokens, outputs];
    pulled: the gradient at the input of a single reader [rows, pos, d]; table: finished scores [writers, readers]."""

    table: Tensor
    maps: dict[nn.Module, Tensor] = field(default_factory=dict)
    pulled: Tensor | None = None


class Gradients:
    """Adds up runs of one batch; `scores` then makes the products."""

    @torch.no_grad()
    def __init__(self, decoder: Decoder, batch: Encoded, objective: Objective) -> None:
        self.decoder, self.batch, self.objective = decoder, batch, objective
        self.layers, self.shape = decoder.parts.layers, decoder.shape
        self.sums: list[_Sums] = []
        self.wide = added_up_in(decoder.model.dtype)
        self.forms = [None if layer.attn_norm is None else norm_form(layer.attn_norm) for layer in self.layers]

        self.at_offset = [  # what maps give for the offset of the norm before them, [1, out]
            {} if form is None else {m: m(form.offset[None]) for m in dict.fromkeys(r.linear for r in readers(layer))}
            for layer, form in zip(self.layers, self.forms, strict=True)
        ]

    def add(self, reference: Tensor, start: Tensor | None, writes: Tensor | None, change: Tensor | None) -> Tensor:
        """One run, from `start`, which puts what it writes into `writes` where given.

        Returns the change of every writer [writers, rows, pos, d]: `change` where given, else reference minus `writes`.
        """
        run = self.decoder.followed(self.batch, start, writes)
        with torch.enable_grad():
            total = self.objective(run.logits)
            groups = [outs for _, outs in run.reads]
            flat = list(torch.autograd.grad(total, [o for outs in groups for o in outs]))[::-1]
        del total, run.logits
        with torch.no_grad():
            if change is None:
                change = self.change(reference, cast(Tensor, writes))
            first = not self.sums
            for number in range(len(groups)):
                x, outs = run.reads.pop(0)
                given = [flat.pop() for _ in outs]
                if first:
                    self.sums.append(self._empty(number, change))
                self._add_group(number, self.sums[number], change, x.detach(), [o.detach() for o in outs], given)
                del x, outs, given
                groups[number] = []
        return change

    def change(self, reference: Tensor, writes: Tensor) -> Tensor:
        """What ablating an edge changes its reader's input by, [writers, rows, pos, d]: 0 where it is not ablated."""
        change, chosen = reference - writes, self.batch.marks.chosen
        return change if chosen is None else change.mul_(chosen[..., None].to(change))

    def _empty(self, number: int, change: Tensor) -> _Sums:
        attention = number % 2 == 0 and number < 2 * len(self.layers)
        n = self.shape.n_heads + 2 * self.shape.n_groups if attention else 1
        return _Sums(table=change.new_zeros(len(change), n, dtype=self.wide))

    def _add_group(
        self, number: int, sums: _Sums, change: Tensor, x: Tensor, outs: list[Tensor], grads: list[Tensor]
    ) -> None:
        if number < 2 * len(self.layers) and number % 2 == 0:
            self._add_attention(number // 2, sums, change, x, outs, grads)
            return
        if number == 2 * len(self.layers):
            norm: nn.Module | None = self.decoder.parts.final_norm
        else:
            layer = self.layers[number // 2]
            norm = layer.mlp_norm if layer.mlp_norm is layer.attn_norm else None  # else it is at the norm's input
        inner = grads[0].view(x.shape)
        for g in grads[1:]:
            inner = inner + g.view(x.shape)
        inner = pulled(norm, x, inner[None])[0].to(self.wide)
        sums.pulled = inner if sums.pulled is None else sums.pulled + inner

    def _add_attention(
        self, number: int, sums: _Sums, change: Tensor, x: Tensor, outs: list[Tensor], grads: list[Tensor]
    ) -> None:
        layer, form = self.layers[number], self.forms[number]
        linears = list(dict.fromkeys(r.linear for r in readers(layer)))
        by_linear = {m: (o.flatten(0, 1), g.flatten(0, 1)) for m, o, g in zip(linears, outs, grads, strict=True)}
        n = self.shape.written_before(number)
        if form is None and layer.attn_norm is not None:
            inner = torch.cat([_through(r, _columns(r, by_linear[r.linear][1])) for r in readers(layer)])
            inner = pulled(layer.attn_norm, x, inner.unflatten(1, x.shape[:2]))
            sums.table[:n] += _products(change[:n], inner)
            return
        if form is None:
            found = {m: g.to(self.wide, copy=True) for m, (_, g) in by_linear.items()}
        else:
            size, unit = (t.flatten(0, 1) for t in form.unit(x))
            found = {m: (g * size).to(self.wide) for m, (_, g) in by_linear.items()}
            moved = {m: (by_linear[m][0] - self.at_offset[number][m]).to(g).mul_(g) for m, g in found.items()}
            along = torch.cat([_columns(r, moved[r.linear]).sum(-1) for r in readers(layer)], dim=1) / x.shape[-1]
            direction = unit[:, None].to(self.wide)
            for some, table in zip(_chunks(change[:n]), _chunks(sums.table[:n], change.dtype), strict=True):
                # [tokens, d, writers]: a bmm reads it fastest
                channels_first = some.flatten(1, 2).permute(1, 2, 0).to(self.wide)
                table -= torch.bmm(direction, channels_first)[:, 0].T @ along
        for m, g in found.items():
            sums.maps[m] = sums.maps[m].add_(g) if m in sums.maps else g

    def scores(self, change: Tensor) -> Tensor:
        """The sum over runs of the gradients to every edge, as a table [writers, readers]."""
        columns = []
        with torch.no_grad():
            for number, sums in enumerate(self.sums):
                last = number == 2 * len(self.layers)
                n = len(change) if last else self.shape.written_before(number // 2, mlp=number % 2 == 1)
                if last:
                    rows = torch.arange(len(self.batch.last), device=change.device)
                    inner = cast(Tensor, sums.pulled)[None]
                    sums.table += _products(change[:, rows, self.batch.last.to(rows)], inner)
                elif sums.pulled is not None:
                    sums.table[:n] += _products(change[:n], sums.pulled[None])
                elif sums.maps:
                    shape = sums.table.shape[1], change.shape[1:3].numel(), change.shape[-1]
                    inner = change.new_empty(shape, dtype=self.wide)
                    at = 0
                    for r in readers(self.layers[number // 2]):
                        g = _columns(r, sums.maps[r.linear])
                        _through(r, g, self.forms[number // 2], out=inner[at : at + len(r.rows)])
                        at += len(r.rows)
                    sums.table[:n] += _products(change[:n], inner)
                columns.append(sums.table)
        return torch.cat(columns, dim=1)


def readers(layer: Layer) -> tuple[Reader, Reader, Reader]:
    return layer.q, layer.k, layer.v


def _products(change: Tensor, inner: Tensor) -> Tensor:
    """Inner products [writers, readers] of [writers, ...] and [readers, ...], in the precision of the latter."""
    return torch.cat([some.flatten(1).to(inner) @ inner.flatten(1).T for some in _chunks(change)])


def _chunks(x: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
    """All of a tensor of writers; in half precision, or beside one that is, a few at a time, to be widened."""
    return (x,) if (dtype or x.dtype).itemsize >= 4 else x.split(16)


def added_up_in(dtype: torch.dtype) -> torch.dtype:
    """What sums of numbers of this precision are held in."""
    return torch.promote_types(dtype, torch.float32)


def _columns(r: Reader, x: Tensor) -> Tensor:
    """[tokens, outputs of the map] -> [tokens, heads, d_head]."""
    first, n = int(r.rows.flatten()[0]), r.rows.numel()
    if int(r.rows.flatten()[-1]) - first + 1 == n:  # in a row
        return x[:, first : first + n].unflatten(1, r.rows.shape)
    return x[:, r.rows.to(x.device)]


def _through(r: Reader, g: Tensor, form: NormForm | None = None, out: Tensor | None = None) -> Tensor:
    """Gradients [tokens, heads, d_head] through the weights of a reader, [heads, tokens, d]."""
    weight = r.weight().to(g)
    if form is not None:
        weight = weight * form.gain
        weight = weight - weight.mean(-1, keepdim=True) if form.centred else weight
    return torch.bmm(g.transpose(0, 1), weight, out=out) if out is not None else torch.bmm(g.transpose(0, 1), weight)


def pulled(norm: nn.Module | None, x: Tensor, grads: Tensor) -> Tensor:
    """Gradients at a norm's output [n, ...] pulled back to its input x."""
    if norm is None:
        return grads
    x = x.detach().expand_as(grads).requires_grad_()
    with torch.enable_grad():
        seen = norm(x)
    return torch.autograd.grad(seen, x, grads)[0]


def edge_gradient(
    decoder: Decoder, batch: Encoded, reference: Tensor, objective: Objective, *, start: Tensor | None,
    writes: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See Decoder.edge_gradient."""
    sums, own = Gradients(decoder, batch, objective), decoder.room(batch)
    change = sums.add(reference, start, own, None if writes is None else sums.change(reference, writes))
    return sums.scores(change)[decoder._cells], own


def path_gradient(
    decoder: Decoder, batch: Encoded, reference: Tensor, objective: Objective, fractions: Sequence[float]
) -> Tensor:
    """See Decoder.path_gradient."""
    sums, own = Gradients(decoder, batch, objective), decoder.room(batch)
    change = sums.add(reference, None, own, None)
    clean = own[0].clone()
    del own
    for share in fractions[1:]:
        start = batch.where_chosen(reference[0] + (clean - reference[0]) * share, clean)
        sums.add(reference, start, None, change)
    return sums.scores(change)[decoder._cells] / len(fractions)
