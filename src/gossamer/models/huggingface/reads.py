"""What methods read off a decoder besides its edges: activations inside attention, their gradients, and frozen norms.

Everything is found by the parts that `anatomy` proved; the model's own code computes, also inside attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from gossamer.errors import Unsupported
from gossamer.models.huggingface.anatomy import Layer, Reader, post_scale, same, weight_of
from gossamer.models.huggingface.decoder import Decoder
from gossamer.subject import Objective
from gossamer.task import Encoded

Hook = Callable[..., Any]


# a run's activations by node, and gradients at them


@dataclass(kw_only=True)
class Activations:
    """Of one run: start [rows, pos, d], what the residual stream starts as; logits [rows, vocab] at the last tokens;
    per layer, attention's q, k, v and z (the values that heads hand to the output map) [rows, pos, heads or groups,
    d_head], attn and mlp, what is added to the residual stream [rows, pos, d], and out, attn before its norm."""

    start: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    layers: list[dict[str, Tensor]] = field(default_factory=list)


def activations(decoder: Decoder, batch: Encoded) -> Activations:
    """The activations of a plain run."""
    with torch.no_grad():
        found, _ = _recorded(decoder, batch, follow=False)
    return _by_head(decoder, found)


def gradients(
    decoder: Decoder, batch: Encoded, objective: Objective, *, drop_each_layer: bool = False
) -> tuple[Activations, list[Activations]]:
    """(activations of a plain run, the objective's gradients at them: one set, or one per layer).

    objective: logits [rows, vocab] -> a sum over rows. drop_each_layer: in set i nothing flows back through what layer
    i adds to the residual stream.
    """
    with torch.enable_grad():
        found, dropped = _recorded(decoder, batch, follow=True)
        total = objective(found.logits)
        names = [list(layer) for layer in found.layers]
        flat = [
            found.start,
            found.logits,
            *(layer[n] for layer, ns in zip(found.layers, names, strict=True) for n in ns),
        ]
        sets = []
        for drop in range(len(found.layers)) if drop_each_layer else (None,):
            dropped[0] = drop
            grads = iter(torch.autograd.grad(total, flat, retain_graph=drop_each_layer))
            sets.append(Activations(
                start=next(grads), logits=next(grads), layers=[{n: next(grads) for n in ns} for ns in names]
            ))  # fmt: skip
    clean = Activations(
        start=found.start.detach(), logits=found.logits.detach(),
        layers=[{n: t.detach() for n, t in layer.items()} for layer in found.layers],
    )  # fmt: skip
    return _by_head(decoder, clean), [_by_head(decoder, s) for s in sets]


def _recorded(decoder: Decoder, batch: Encoded, *, follow: bool) -> tuple[Activations, list[int | None]]:
    """(activations as the model's maps return them, a box: the layer whose contribution has no gradient)."""
    parts, found, dropped = decoder.parts, Activations(), list[int | None]([None])

    def begin(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        found.start = given.detach().requires_grad_() if follow else given.clone()
        return ((found.start, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": found.start})

    def keep(number: int, name: str, droppable: bool = False) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            found.layers[number][name] = out
            given = out.clone()  # some models add in place later
            if droppable and follow:
                given.register_hook(lambda g: torch.zeros_like(g) if dropped[0] == number else None)
            return given

        return hook

    def keep_z(number: int) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            found.layers[number]["z"] = args[0]

        return hook

    def logits(head: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        rows = torch.arange(len(batch.last), device=args[0].device)
        return (args[0][rows, batch.last.to(rows)][:, None],)

    with ExitStack() as stack:

        def add(handle: Any) -> None:
            stack.callback(handle.remove)

        add(parts.layers[0].block.register_forward_pre_hook(begin, with_kwargs=True))
        for i, layer in enumerate(parts.layers):
            found.layers.append({})
            for name, reader in (("q", layer.q), ("k", layer.k), ("v", layer.v)):
                if name == "q" or reader.linear is not layer.q.linear:
                    add(reader.linear.register_forward_hook(keep(i, name)))
            add(layer.out.register_forward_pre_hook(keep_z(i)))
            if layer.attn_post is not None:
                add(layer.out.register_forward_hook(keep(i, "out")))
            add((layer.attn_post or layer.out).register_forward_hook(keep(i, "attn", droppable=True)))
            add((layer.mlp_post or layer.down).register_forward_hook(keep(i, "mlp", droppable=True)))
        add(parts.head.register_forward_pre_hook(logits))
        found.logits = decoder.model(batch.tokens.to(decoder.device), use_cache=False).logits[:, 0]
    return found, dropped


def _by_head(decoder: Decoder, found: Activations) -> Activations:
    """The same with q, k, v and z cut into heads, and all with rows and positions apart."""
    at, layers = found.start.shape[:2], []
    for layer, raw in zip(decoder.parts.layers, found.layers, strict=True):
        parts = {n: raw[n].reshape(*at, -1) for n in raw if n in ("attn", "mlp", "out")}
        parts["z"] = raw["z"].reshape(*at, decoder.parts.n_heads, -1)
        for name, reader in _readers(layer):
            whole = raw[name] if name in raw else raw["q"]  # one map for all three
            parts[name] = whole.reshape(*at, -1)[..., reader.rows.to(whole.device)]
        layers.append(parts)
    return Activations(start=found.start, logits=found.logits, layers=layers)


def _readers(layer: Layer) -> tuple[tuple[str, Reader], ...]:
    return (("q", layer.q), ("k", layer.k), ("v", layer.v))


@torch.no_grad()
def head_values_with(
    decoder: Decoder, batch: Encoded, clean: Activations, part: str, given: Activations
) -> list[Tensor]:
    """z of every layer [rows, pos, heads, d_head] when all of its queries, keys or values come from another run.

    part: q, k or v, taken from `given`; the two others, and all that the layer reads, are those of the run `clean`.
    The softmax is the model's own, computed again.
    """
    found: list[Tensor] = []

    def replace(reader: Reader, values: Tensor) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            rows = reader.rows.to(out.device).flatten()
            return out.index_copy(-1, rows, values.flatten(-2).reshape(*out.shape[:-1], -1).to(out))

        return hook

    def take(z: Tensor) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            found.append(args[0].reshape(z.shape))
            return (z.reshape(args[0].shape),)  # the run goes on as the clean one

        return hook

    with ExitStack() as stack:
        for i, layer in enumerate(decoder.parts.layers):
            reader = dict(_readers(layer))[part]
            stack.callback(reader.linear.register_forward_hook(replace(reader, given.layers[i][part])).remove)
            stack.callback(layer.out.register_forward_pre_hook(take(clean.layers[i]["z"])).remove)
        # nobody reads the logits: those of one token are the least
        stack.callback(decoder.parts.head.register_forward_pre_hook(lambda m, args: (args[0][:1, :1],)).remove)
        decoder.model(batch.tokens.to(decoder.device), use_cache=False)
    return found


def head_products(decoder: Decoder, number: int, run: Activations, gradient: Tensor) -> Tensor:
    """Inner product of what each head of a layer writes with a gradient at its residual stream, [rows, heads].

    gradient: [rows, pos, d]. A head's write goes through its layer's post-norm with the scale of its own run.
    """
    layer, parts = decoder.parts.layers[number], run.layers[number]
    if layer.attn_post is not None:
        gradient = gradient * post_scale(layer.attn_post, parts["out"])
    pulled = (gradient @ weight_of(layer.out)).unflatten(-1, (decoder.parts.n_heads, -1))
    wide = torch.promote_types(pulled.dtype, torch.float32)
    return (parts["z"].to(wide) * pulled.to(wide)).sum((1, 3))


# norms whose scale is held


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A norm with the scale that it has at one input: an affine map. factor [..., d], bias [d]."""

    factor: Tensor
    bias: Tensor
    centred: bool

    def __call__(self, x: Tensor) -> Tensor:
        """What is left of x, without the bias; sums of x go to sums."""
        return (x - x.mean(-1, keepdim=True) if self.centred else x) * self.factor


def frozen(norm: nn.Module | None, x: Tensor) -> Frozen:
    """The norm at x [..., d]: Frozen(x) + bias is norm(x); Unsupported for a norm of another kind."""
    zeros = torch.zeros_like(x[(0,) * (x.ndim - 1)])
    if norm is None:
        return Frozen(factor=torch.ones_like(x), bias=zeros, centred=False)
    if isinstance(norm, nn.LayerNorm):
        scale = torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + norm.eps)
        gain = 1.0 if norm.weight is None else norm.weight
        found = Frozen(factor=scale * gain, bias=zeros if norm.bias is None else norm.bias, centred=True)
    else:
        found = Frozen(factor=post_scale(norm, x), bias=zeros, centred=False)
    given = norm(x)
    eps = max(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)  # some norms round to float32 inside
    if float((found(x) + found.bias - given).abs().max()) > 64 * eps * (float(given.abs().max()) + 1):
        raise Unsupported(
            f"the norm {type(norm).__name__}",
            "with its scale held it is not linear",
            "a model with LayerNorm or RMSNorm",
        )
    return found


class Residual(NamedTuple):
    """What is read at one position of each row. writes: [writers, rows, d]; biases: [rows, d], the part of the residual
    stream that no writer wrote (biases of attention's output maps, and roundings); x: [rows, d], their sum, in the
    dtype of the model, the others at least in float32."""

    writes: Tensor
    biases: Tensor
    x: Tensor


@torch.no_grad()
def final_residual(decoder: Decoder, batch: Encoded) -> tuple[Residual, Tensor]:
    """(the residual stream that the final norm reads at the last tokens, the logits there [rows, vocab])."""
    writes, logits = decoder.writes(batch)
    seen = _input_of(decoder, batch, decoder.parts.final_norm)
    return _taken(writes, seen, batch.last), logits


def _taken(writes: Tensor, seen: Tensor, position: Tensor) -> Residual:
    """At a position of each row [rows], of [writers, rows, pos, d] and [rows, pos, d]."""
    rows = torch.arange(len(seen), device=seen.device)
    at = (rows, position.to(rows))
    own = writes[:, *at].to(torch.promote_types(writes.dtype, torch.float32))
    return Residual(own, seen[at] - own.sum(0), seen[at])


@torch.no_grad()
def residual_at(decoder: Decoder, batch: Encoded, layer: int, positions: Sequence[Tensor]) -> list[Residual]:
    """The residual stream that the attention of a layer reads, at positions ([rows] each)."""
    part = decoder.parts.layers[layer]
    seen = _input_of(decoder, batch, part.attn_norm or part.q.linear)
    writes = decoder.writes(batch)[0][: decoder.shape.written_before(layer)]
    return [_taken(writes, seen, p) for p in positions]


def _input_of(decoder: Decoder, batch: Encoded, module: nn.Module) -> Tensor:
    """What a module reads in a plain run, [rows, pos, d]; the run ends there."""

    class Reached(Exception):
        pass

    found: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(args[0])
        raise Reached

    handle = module.register_forward_pre_hook(stop)
    try:
        decoder.model(batch.tokens.to(decoder.device), use_cache=False)
    except Reached:
        return found[0].reshape(*batch.tokens.shape, -1)
    finally:
        handle.remove()
    raise AssertionError("unreachable: every module of the anatomy runs")


class LogitMap(NamedTuple):
    """bias: [vocab] or None; cap: the softcap of the logits, 0 without."""

    weight: Tensor
    bias: Tensor | None
    cap: float


@torch.no_grad()
def logit_map(decoder: Decoder, x: Tensor, logits: Tensor) -> LogitMap:
    """How logits [rows, vocab] come from the final residual stream x [rows, d], proven on these rows."""
    head = decoder.parts.head
    raw = head(decoder.parts.final_norm(x))
    cap = float(getattr(decoder.model.config.get_text_config(), "final_logit_softcapping", None) or 0)
    made = cap * torch.tanh(raw / cap) if cap else raw
    if not same(made, logits, roundings=1 << 10):
        raise Unsupported(
            f"the model {decoder.name}", "its logits are not its final norm's output times a matrix", "path-patching"
        )
    return LogitMap(weight_of(head), cast("Tensor | None", head.bias), cap)
