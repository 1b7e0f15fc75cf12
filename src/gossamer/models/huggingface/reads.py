"""What methods read off a decoder besides its edges: activations inside attention, their gradients, and frozen norms.

Everything is found by the parts that `anatomy` proved; the model's own code computes, also inside attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gossamer.errors import BadInput, Unsupported
from gossamer.models.huggingface.anatomy import Layer, Reader, _is_norm, post_scale, same, weight_of
from gossamer.models.huggingface.decoder import Decoder, _Pass
from gossamer.subject import Objective
from gossamer.task import Encoded

Hook = Callable[..., Any]


@torch.no_grad()
def writes_under(decoder: Decoder, batch: Encoded, alpha: Tensor, reference: Tensor) -> Tensor:
    """What every writer writes [writers, rows, pos, d] with edges ablated as by `Decoder.patched`."""
    state = _Pass(last=batch.last, alpha=decoder._table(alpha), reference=reference)
    decoder._forward(batch.tokens, state)
    return torch.cat(state.writes)


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
        stack.callback(decoder.parts.head.register_forward_pre_hook(lambda m, args: (args[0][:, :1],)).remove)
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
    return (parts["z"] * pulled).sum((1, 3))


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


# one head's score between two positions


class ScoreForm(NamedTuple):
    """A head's score before the softmax as a form in its query and key, as the linear maps return them.

    Of each row: score = q . matrix . k + q . left + right . k + rest. q, k, left, right: [rows, d_head]; matrix: [rows,
    d_head, d_head]; rest: [rows], ALiBi's bias among it; score: [rows], the model's own. cap: the softcap that the
    model puts on this score, 0 without.
    """

    matrix: Tensor
    left: Tensor
    right: Tensor
    rest: Tensor
    q: Tensor
    k: Tensor
    score: Tensor
    cap: float


class _Softmax(TorchFunctionMode):
    """Notes what softmax (and before it tanh, which caps scores) is given while `on`."""

    def __init__(self) -> None:
        super().__init__()
        self.on, self.seen, self.capped = False, list[Tensor](), list[Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.on and (name := getattr(func, "__name__", "")) in ("softmax", "tanh"):
            (self.seen if name == "softmax" else self.capped).append(args[0] if args else kwargs["input"])
        return func(*args, **(kwargs or {}))


def score_form(decoder: Decoder, batch: Encoded, layer: int, head: int, query: Tensor, key: Tensor) -> ScoreForm:
    """The score of a head between positions `query` and `key` ([rows] each) of every row, norms of queries and keys at
    the scale that they have there.

    Rotations, scales and ALiBi are the model's own: the form is its derivative, and proven by a run with another query
    and key. Unsupported for an attention whose softmax cannot be seen, or whose score is no such form.
    """
    part = decoder.parts.layers[layer]
    group = head // (decoder.parts.n_heads // decoder.parts.n_groups)
    run = _ScoreRun(decoder, batch, part, head, part.q.rows[head], part.k.rows[group], query, key)
    with _eager(decoder):
        plain = run.score(None, None)
        q, k = run.q.detach().requires_grad_(), run.k.detach().requires_grad_()
        with torch.enable_grad():
            score = run.score(q, k)
            (by_q,) = torch.autograd.grad(score.sum(), q, create_graph=True)
            (by_k,) = torch.autograd.grad(score.sum(), k, retain_graph=True)
            columns = [torch.autograd.grad(by_q[:, i].sum(), k, retain_graph=True)[0] for i in range(by_q.shape[1])]
        matrix = torch.stack(columns, dim=1)
        q, k, by_q, by_k = q.detach(), k.detach(), by_q.detach(), by_k.detach()
        left = by_q - torch.einsum("rij,rj->ri", matrix, k)
        right = by_k - torch.einsum("rij,ri->rj", matrix, q)
        rest = score.detach() - (q * by_q).sum(1) - (right * k).sum(1)
        elsewhere = run.score(2 * q, k / 2)
    scale = float(score.detach().abs().max()) + 1
    eps = max(torch.finfo(score.dtype).eps, torch.finfo(torch.float32).eps)
    made = torch.einsum("ri,rij,rj->r", q, matrix, k) + 2 * (q * left).sum(1) + (right * k).sum(1) / 2 + rest
    if max(float((elsewhere - made).abs().max()), float((plain - score.detach()).abs().max())) > 1024 * eps * scale:
        raise Unsupported(
            f"the attention of {decoder.name}", "its scores are not linear in queries and keys", "activation-patching"
        )
    return ScoreForm(matrix, left, right, rest, q, k, plain, run.cap)


class _ScoreRun:
    """Runs up to the softmax of one layer, with a query and a key of one head put in; norms inside attention keep the
    scale of the first run."""

    def __init__(
        self, decoder: Decoder, batch: Encoded, layer: Layer, head: int, q_rows: Tensor, k_rows: Tensor, query: Tensor,
        key: Tensor,
    ) -> None:  # fmt: skip
        self.decoder, self.batch, self.layer, self.head = decoder, batch, layer, head
        self.rows = torch.arange(len(batch.tokens), device=decoder.device)
        self.places = {"q": (query.to(self.rows), q_rows), "k": (key.to(self.rows), k_rows)}
        self.scales: dict[nn.Module, Frozen] = {}
        self.q = self.k = torch.empty(0)
        self.cap = 0.0

    def score(self, q: Tensor | None, k: Tensor | None) -> Tensor:
        """The score [rows]; q, k: [rows, d_head] in place of those of the run, which are noted where None is given."""

        class Reached(Exception):
            pass

        mode, measured = _Softmax(), set[nn.Module]()

        def put(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            whole = out.reshape(*self.batch.tokens.shape, -1)
            for name, reader, given in (("q", self.layer.q, q), ("k", self.layer.k, k)):
                if reader.linear is not module:
                    continue
                at, channels = self.places[name]
                place = (self.rows[:, None], at[:, None], channels.to(at)[None])
                if given is None:
                    setattr(self, name, whole[place])
                else:
                    whole = whole.index_put(place, given.to(whole))
            return whole.view_as(out)

        def hold(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
            if module in measured:
                return None  # called by frozen()
            if module not in self.scales:
                measured.add(module)
                with torch.no_grad():
                    self.scales[module] = frozen(module, args[0])
                measured.remove(module)
            return self.scales[module](args[0]) + self.scales[module].bias

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            mode.on = True

        def end(module: nn.Module, args: Any) -> None:
            raise Reached

        inner = [m for m in self.layer.attention.modules() if _is_norm(m)]
        with ExitStack() as stack:
            for m in dict.fromkeys((self.layer.q.linear, self.layer.k.linear)):
                stack.callback(m.register_forward_hook(put).remove)
            for m in inner:
                stack.callback(m.register_forward_hook(hold).remove)
            stack.callback(self.layer.attention.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(self.layer.out.register_forward_pre_hook(end).remove)
            try:
                with torch.set_grad_enabled(q is not None and q.requires_grad), mode:
                    self.decoder.model(self.batch.tokens.to(self.decoder.device), use_cache=False)
            except Reached:
                pass
        n, heads = self.batch.tokens.shape[1], self.decoder.parts.n_heads
        shape = (len(self.rows), heads, n, n)
        seen = [s for s in mode.seen if tuple(s.shape) == shape]
        capped = [s for s in mode.capped if tuple(s.shape) == shape]
        if len(seen) != 1:
            raise Unsupported(
                f"the attention of {self.decoder.name}", "it shows no softmax over scores",
                "the model loaded with attn_implementation='eager'",
            )  # fmt: skip
        at = (self.rows, self.head, self.places["q"][0], self.places["k"][0])
        if bool((seen[0][at] < torch.finfo(seen[0].dtype).min / 4).any()):
            raise BadInput("Expected a key that the query can see; this one lies after it or outside its window.")
        if capped:
            self.cap = float(self.decoder.model.config.get_text_config().attn_logit_softcapping)
            return capped[0][at] * self.cap
        return seen[0][at]


@contextmanager
def _eager(decoder: Decoder) -> Iterator[None]:
    """The model's attention in plain operations, where it lets itself be switched."""
    config: Any = decoder.model.config
    before = getattr(config, "_attn_implementation", "eager")
    if before == "eager":
        yield
        return
    decoder.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.model.set_attn_implementation(before)


@torch.no_grad()
def residual_at(decoder: Decoder, batch: Encoded, layer: int, positions: Sequence[Tensor]) -> list[Residual]:
    """The residual stream that the attention of a layer reads, at positions ([rows] each)."""
    part = decoder.parts.layers[layer]
    seen = _input_of(decoder, batch, part.attn_norm or part.q.linear)
    writes = decoder.writes(batch)[0][: decoder.shape.written_before(layer)]
    return [_taken(writes, seen, p) for p in positions]
