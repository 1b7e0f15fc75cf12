"""Where a decoder's channels are: the places that can be ablated one by one, and the weights between them.

Per layer, in the names of the weight-sparse models: `attn.act_in` (what attention reads, normalised); `attn.q`,
`attn.k`, `attn.v` (as their maps put them out: before rotary positions and norms of their own, keys and values once per
group); `attn.z` (each head's attended value); `attn.resid_delta` (what is added to the residual, after bias and
post-norm);
`mlp.act_in`, in a gated MLP `mlp.gate` and `mlp.up` (what the two maps put out, the gate before its activation),
`mlp.post_act` (the neurons, what `down` reads), `mlp.resid_delta`; and `final_resid` before the final norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gossamer.errors import Unsupported
from gossamer.models.huggingface.anatomy import Anatomy, Layer, Reader, probe_tokens, recording, weight_of


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightMatrix:
    """A linear map, or those `rows` of its outputs, between two locations."""

    name: str
    source: str
    destination: str
    linear: nn.Module
    rows: Tensor | None = None

    def weight(self) -> Tensor:
        """[destination, source]"""
        weight = weight_of(self.linear).detach()
        return weight if self.rows is None else weight[self.rows.to(weight.device)]

    @property
    def shape(self) -> tuple[int, int]:
        """(destination channels, source channels)"""
        out, into = weight_of(self.linear).shape
        return (out if self.rows is None else len(self.rows)), into


@dataclass(frozen=True, kw_only=True, eq=False)
class Sublayer:
    """Attention or the MLP of a layer: `readers` read act_in, `writer` reads `inner`, `last` puts out `delta`.

    inner: `attn.z` or `mlp.post_act`; last: the writer's map or the norm after it.
    """

    act_in: str
    readers: tuple[WeightMatrix, ...]
    inner: str
    writer: WeightMatrix
    delta: str
    last: nn.Module

    @property
    def locations(self) -> tuple[tuple[str, int], ...]:
        """Its locations but the last one, each with its number of channels."""
        outs = tuple((m.destination, m.shape[0]) for m in self.readers if m.destination != self.inner)
        return ((self.act_in, self.readers[0].shape[1]), *outs, (self.inner, self.writer.shape[1]))


def sublayers(model: PreTrainedModel, parts: Anatomy) -> tuple[tuple[Sublayer, Sublayer], ...]:
    """(attention, MLP) of every layer; Unsupported for an MLP whose gate cannot be told."""
    names = _mlp_names(model, parts.layers[0])
    return tuple((_attention(i, layer), _mlp(i, layer, names)) for i, layer in enumerate(parts.layers))


def locations_of(layers: tuple[tuple[Sublayer, Sublayer], ...], parts: Anatomy) -> tuple[tuple[str, int], ...]:
    """Every location with its number of channels, in the order of the forward pass: where the MLP does not read what
    its layer's attention wrote, both read before either writes."""
    found: list[tuple[str, int]] = []
    for (attention, mlp), layer in zip(layers, parts.layers, strict=True):
        wrote = [(s.delta, parts.d_model) for s in (attention, mlp)]
        between = [] if layer.parallel else wrote[:1]
        found += [*attention.locations, *between, *mlp.locations, *(wrote if layer.parallel else wrote[1:])]
    return (*found, ("final_resid", parts.d_model))


def _attention(i: int, layer: Layer) -> Sublayer:
    act_in, z, delta = (f"{i}.attn.{name}" for name in ("act_in", "z", "resid_delta"))

    def read(part: str, reader: Reader) -> WeightMatrix:
        rows = reader.rows.flatten()
        whole = torch.equal(rows, torch.arange(len(weight_of(reader.linear))))
        return WeightMatrix(
            name=f"{i}.attn.{part}_proj", source=act_in, destination=f"{i}.attn.{part}", linear=reader.linear,
            rows=None if whole else rows,
        )  # fmt: skip

    return Sublayer(
        act_in=act_in, readers=(read("q", layer.q), read("k", layer.k), read("v", layer.v)), inner=z, delta=delta,
        writer=WeightMatrix(name=f"{i}.attn.o_proj", source=z, destination=delta, linear=layer.out),
        last=layer.attn_post or layer.out,
    )  # fmt: skip


def _mlp(i: int, layer: Layer, names: tuple[str, ...]) -> Sublayer:
    act_in, neurons, delta = (f"{i}.mlp.{name}" for name in ("act_in", "post_act", "resid_delta"))
    readers = [
        WeightMatrix(
            name=f"{i}.mlp.{name if len(names) > 1 else 'up'}_proj", source=act_in, destination=f"{i}.mlp.{name}",
            linear=linear, rows=rows,
        )
        for name, (linear, rows) in zip(names, _maps(layer), strict=True)
    ]  # fmt: skip
    return Sublayer(
        act_in=act_in, readers=tuple(readers), inner=neurons, delta=delta,
        writer=WeightMatrix(name=f"{i}.mlp.down_proj", source=neurons, destination=delta, linear=layer.down),
        last=layer.mlp_post or layer.down,
    )  # fmt: skip


def _maps(layer: Layer) -> list[tuple[nn.Module, Tensor | None]]:
    """(map, rows of its outputs) that make the neurons: one, or two that are multiplied."""
    neurons = weight_of(layer.down).shape[1]
    widths = [len(weight_of(m)) for m in layer.up]
    if widths in ([neurons], [neurons, neurons]):
        return [(m, None) for m in layer.up]
    if widths == [2 * neurons]:
        return [(layer.up[0], torch.arange(neurons)), (layer.up[0], torch.arange(neurons, 2 * neurons))]
    raise Unsupported(
        "channels of this model", f"maps of {widths} outputs make its {neurons} neurons", "grain head or block"
    )


def _mlp_names(model: PreTrainedModel, layer: Layer) -> tuple[str, ...]:
    """What each of a layer's `_maps` is: `post_act` without a gate, else `gate` and `up` in their order.

    Neurons are act(gate) * up: they change their sign with `up`, and not with the gate.
    """
    maps = _maps(layer)
    if len(maps) == 1:
        return ("post_act",)
    plain = _neurons(model, layer, None)
    odd = [torch.equal(_neurons(model, layer, m), -plain) for m in maps]
    if sum(odd) != 1:
        raise Unsupported("channels of this model", "its gate cannot be told from what it gates", "grain head or block")
    return ("gate", "up") if odd[1] else ("up", "gate")


@torch.no_grad()
def _neurons(model: PreTrainedModel, layer: Layer, flipped: tuple[nn.Module, Tensor | None] | None) -> Tensor:
    """The layer's neurons on the probe's tokens, with the sign of some outputs changed."""

    def flip(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        rows = None if flipped is None else flipped[1]
        return -out if rows is None else out.index_copy(-1, rows.to(out.device), -out[..., rows.to(out.device)])

    handle = flipped[0].register_forward_hook(flip) if flipped is not None else None
    try:
        with recording([layer.down], {}) as seen:
            model(probe_tokens(model), use_cache=False)
    finally:
        if handle is not None:
            handle.remove()
    return seen[layer.down][0]
