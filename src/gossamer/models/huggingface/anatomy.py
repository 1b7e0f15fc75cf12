"""Where a decoder writes to its residual stream and where it reads it, found by looking at one run.

No model is known by name except for one thing that a run cannot show cheaply: how a fused query-key-value projection
lays its outputs out (`_FUSED`); that table is then proven by perturbation. Everything else is found by value: the
linear maps of a layer that read the residual's normalised copy, the two that write to it, the norms before and after
them, whether the MLP reads what the attention of its own layer wrote. The proof at load is that the writes add up to
what the final norm reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gossamer.errors import Unsupported

_INSTEAD = "a decoder of the families listed in docs/huggingface.md"
PROBE_TOKENS = 6
PROBE_BATCH = 2


def weight_of(linear: nn.Module) -> Tensor:
    """[out, in] of a Linear or of GPT-2's Conv1D."""
    weight = cast(Tensor, linear.weight)
    return weight.T if isinstance(linear, Conv1D) else weight


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """Output rows of one linear map: `rows` [heads or groups, d_head] for queries, keys or values."""

    linear: nn.Module
    rows: Tensor

    def weight(self) -> Tensor:
        """[heads, d_head, d_model]."""
        return weight_of(self.linear)[self.rows]

    def bias(self) -> Tensor | None:
        """[heads, d_head]."""
        return None if self.linear.bias is None else cast(Tensor, self.linear.bias)[self.rows]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One layer. A norm that is None leaves its input as it is; `parallel`: the MLP does not read this attention.

    q, k, v: the readers of attention; out: its writer, fed by all heads side by side. up: the linear maps that read
    for the MLP; down: its writer. *_norm is applied before reading, *_post to what was written. returns: 0 for a layer
    that returns a tensor, else the length of its tuple.
    """

    block: nn.Module
    attention: nn.Module
    q: Reader
    k: Reader
    v: Reader
    out: nn.Module
    attn_norm: nn.Module | None
    attn_post: nn.Module | None
    up: tuple[nn.Module, ...]
    down: nn.Module
    mlp_norm: nn.Module | None
    mlp_post: nn.Module | None
    parallel: bool
    returns: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Anatomy:
    """A decoder's layers, its final norm and the map to its logits."""

    layers: tuple[Layer, ...]
    final_norm: nn.Module
    head: nn.Module
    n_heads: int
    n_groups: int
    d_head: int
    d_model: int


def _blocks(rows: Sequence[tuple[int, int]], d_head: int) -> tuple[Tensor, ...]:
    """(first output row, heads) of each of q, k, v that lie one after the other."""
    return tuple((first + torch.arange(n * d_head)).view(n, d_head) for first, n in rows)


def _fused_blocks(heads: int, groups: int, d: int) -> tuple[Tensor, ...]:
    """All queries, then all keys, then all values."""
    return _blocks(((0, heads), (heads * d, groups), ((heads + groups) * d, groups)), d)


def _fused_per_group(heads: int, groups: int, d: int) -> tuple[Tensor, ...]:
    """For each key-value group its queries, its key, its value."""
    each = heads // groups
    rows = torch.arange(groups * (each + 2) * d).view(groups, each + 2, d)
    return rows[:, :each].reshape(heads, d), rows[:, each], rows[:, each + 1]


_FUSED: dict[str, Callable[[int, int, int], tuple[Tensor, ...]]] = {
    "gpt2": _fused_blocks, "phi3": _fused_blocks, "gpt_neox": _fused_per_group, "bloom": _fused_per_group,
    "falcon": _fused_per_group,
}  # fmt: skip


def _number(config: Any, *names: str) -> int | None:
    return next((int(v) for n in names if isinstance(v := getattr(config, n, None), int) and v), None)


def refuse_by_config(config: Any) -> None:
    """Unsupported for what a configuration shows to be no decoder of the kind."""
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise Unsupported(f"the encoder-decoder {name}", "its decoder reads a second stream", _INSTEAD)
    if getattr(config, "quantization_config", None) is not None:
        raise Unsupported(f"the quantised {name}", "its weights cannot be read per head", "the unquantised weights")
    for experts in ("num_local_experts", "num_experts", "n_routed_experts"):
        if (getattr(config, experts, 0) or 0) > 1:
            raise Unsupported(f"the mixture of experts {name}", "who writes depends on the token", _INSTEAD)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not list(module.children())


@contextmanager
def recording(
    modules: Sequence[nn.Module], returns: dict[nn.Module, int]
) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """(first input, output), both [rows, channels], of modules in the runs inside; a module that runs twice keeps its
    last run. returns: gets the length of the tuple that each returns, 0 for a tensor."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        first = args[0] if args else kwargs["hidden_states"]
        returns[module] = len(out) if isinstance(out, tuple) else 0
        out = out[0] if isinstance(out, tuple) else out
        seen[module] = first.flatten(0, -2).clone(), out.flatten(0, -2).clone()  # some models add in place later

    handles = [m.register_forward_hook(note, with_kwargs=True) for m in modules]
    try:
        yield seen
    finally:
        for h in handles:
            h.remove()


def same(a: Tensor, b: Tensor, roundings: int = 64) -> bool:
    """Equal up to so many roundings at the dtype of `a`, of the largest number; 64: sums in another order."""
    if a.shape != b.shape:
        return False
    scale = float(b.abs().max()) + 1e-12
    return float((a - b).abs().max()) <= roundings * torch.finfo(a.dtype).eps * scale


def probe_tokens(model: PreTrainedModel) -> Tensor:
    """Different tokens, [PROBE_BATCH, PROBE_TOKENS]."""
    generator = torch.Generator().manual_seed(0)
    vocab = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    return torch.randint(0, vocab, (PROBE_BATCH, PROBE_TOKENS), generator=generator).to(model.device)


@torch.no_grad()
def anatomy(model: PreTrainedModel) -> Anatomy:
    """Find and prove the parts of a decoder; Unsupported, with the reason, for one that they do not fit."""
    config = model.config.get_text_config()
    refuse_by_config(config)
    n_layer = _number(config, "num_hidden_layers", "n_layer")
    heads = _number(config, "num_attention_heads", "n_head")
    d_model = _number(config, "hidden_size", "n_embd")
    if n_layer is None or heads is None or d_model is None:
        raise Unsupported(f"the model {config.model_type}", "its config names no layers, heads or width", _INSTEAD)
    stack = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layer]
    head = model.get_output_embeddings()
    if len(stack) != 1 or head is None:
        raise Unsupported(f"the model {config.model_type}", f"it has {len(stack)} stacks of {n_layer} layers", _INSTEAD)
    blocks = list(stack[0])
    inside = {m for b in blocks for m in b.modules()}
    leaves = [m for m in model.modules() if _is_linear(m) or _is_norm(m)]
    returns: dict[nn.Module, int] = {}
    with recording([*leaves, *blocks], returns) as seen:
        model(probe_tokens(model), use_cache=False)
    d_head = _number(config, "head_dim") or d_model // heads
    finder = _Finder(config, seen, returns, heads, d_head, d_model)
    layers = tuple(finder.layer(block) for block in blocks)
    final = [m for m in seen if _is_norm(m) and m not in inside and same(seen[m][0], finder.residual)]
    if len(final) != 1 or not torch.equal(seen[final[0]][1], seen[head][0]):
        raise Unsupported(
            f"the model {config.model_type}", "what its layers write does not add up to what its final norm and its "
            "logits read", _INSTEAD,
        )  # fmt: skip
    return Anatomy(
        layers=layers, final_norm=final[0], head=head, n_heads=heads, n_groups=len(layers[0].k.rows), d_head=d_head,
        d_model=d_model,
    )  # fmt: skip


class _Finder:
    """Reads one layer after the other from the record of a run; `residual` is what has been written so far."""

    def __init__(
        self, config: Any, seen: dict[nn.Module, tuple[Tensor, Tensor]], returns: dict[nn.Module, int], heads: int,
        d_head: int, d_model: int,
    ) -> None:  # fmt: skip
        self.config, self.seen, self.returns = config, seen, returns
        self.heads, self.d_head, self.d_model = heads, d_head, d_model
        self.residual: Tensor = torch.empty(0)

    def _no(self, why: str) -> Unsupported:
        return Unsupported(f"the model {self.config.model_type}", why, _INSTEAD)

    def layer(self, block: nn.Module) -> Layer:
        """The parts of one layer, and the residual moved past it."""
        if not self.residual.numel():
            self.residual = self.seen[block][0]
        if not same(self.seen[block][0], self.residual):
            raise self._no("what its layers write does not add up to what the next layer reads")
        named = block.named_children()
        attention = [part for name, part in named if "att" in name and list(part.children())]
        if len(attention) != 1:
            raise self._no(f"a layer has {len(attention)} parts called attention")
        own = {m for m in attention[0].modules() if _is_linear(m) and m in self.seen}
        others = [m for m in block.modules() if _is_linear(m) and m in self.seen and m not in own]
        norms = [m for m in block.modules() if _is_norm(m) and m in self.seen]
        before = self.residual
        out, reads = self._split([m for m in attention[0].modules() if m in own], norms, before)
        attn_norm = self._norm_before(reads, norms, before)
        written, attn_post = self._written(out, norms)
        middle = before + written
        down, up = self._split(others, norms, before, middle)
        parallel = self._off(up, norms, before) < self._off(up, norms, middle)
        mlp_norm = self._norm_before(up, norms, before if parallel else middle)
        wrote, mlp_post = self._written(down, norms)
        self.residual = middle + wrote
        q, k, v = self._readers({m: name for name, m in attention[0].named_modules() if m in reads})
        return Layer(
            block=block, attention=attention[0], q=q, k=k, v=v, out=out, attn_norm=attn_norm, attn_post=attn_post,
            up=tuple(up), down=down, mlp_norm=mlp_norm, mlp_post=mlp_post, parallel=parallel,
            returns=self.returns[block],
        )  # fmt: skip

    def _split(
        self, linears: list[nn.Module], norms: list[nn.Module], *residuals: Tensor
    ) -> tuple[nn.Module, list[nn.Module]]:
        """(writer, readers) among the linear maps of one sublayer: the readers share their input, a residual."""
        readers = [m for m in linears if any(self._reads_of([m], norms, r) for r in residuals)]
        rest = [m for m in linears if m not in readers]
        if not readers or len(rest) != 1:
            raise self._no(f"in a sublayer {len(readers)} maps read the residual and {len(rest)} others remain, not 1")
        if self.seen[rest[0]][1].shape[-1] != self.d_model:
            raise self._no("a sublayer writes something else than the residual's width")
        if not all(torch.equal(self.seen[m][0], self.seen[readers[0]][0]) for m in readers):
            raise self._no("the maps that read in a sublayer read different things")
        return rest[0], readers

    def _reads_of(self, readers: list[nn.Module], norms: list[nn.Module], residual: Tensor) -> bool:
        """Whether these maps read this residual, normalised or as it is."""
        x = self.seen[readers[0]][0]
        return same(x, residual) or any(
            torch.equal(self.seen[n][1], x) and same(self.seen[n][0], residual) for n in norms
        )

    def _off(self, readers: list[nn.Module], norms: list[nn.Module], residual: Tensor) -> float:
        """How far what these maps read, normalised or as it is, lies from this residual."""
        x = self.seen[readers[0]][0]
        given = [x, *(self.seen[n][0] for n in norms if torch.equal(self.seen[n][1], x))]
        return min(float((g - residual).abs().max()) for g in given if g.shape == residual.shape)

    def _norm_before(self, readers: list[nn.Module], norms: list[nn.Module], residual: Tensor) -> nn.Module | None:
        x = self.seen[readers[0]][0]
        for n in norms:
            if torch.equal(self.seen[n][1], x) and same(self.seen[n][0], residual):
                return n
        if same(x, residual):
            return None
        raise self._no("a sublayer reads something else than the residual, normalised or as it is")

    def _written(self, writer: nn.Module, norms: list[nn.Module]) -> tuple[Tensor, nn.Module | None]:
        """What a writer adds to the residual and the norm that it goes through first."""
        plain = self.seen[writer][1]
        for n in norms:
            given = self.seen[n][0]
            if given.shape == plain.shape and torch.equal(given, plain):
                return self.seen[n][1], n
        return plain, None

    def _readers(self, named: dict[nn.Module, str]) -> tuple[Reader, Reader, Reader]:
        heads, d, reads = self.heads, self.d_head, list(named)
        if len(reads) == 1:
            if self.config.model_type not in _FUSED:
                raise self._no("its queries, keys and values come out of one map in an order that is not known")
            width = self.seen[reads[0]][1].shape[-1]
            groups = (width // d - heads) // 2
            rows = _FUSED[self.config.model_type](heads, groups, d)
            if sum(r.numel() for r in rows) != width:
                raise self._no(f"its map to queries, keys and values has {width} outputs")
            q, k, v = (Reader(linear=reads[0], rows=r) for r in rows)
            return q, k, v
        if len(reads) != 3:
            raise self._no(f"{len(reads)} maps read for its attention")
        by_part = {part: [m for m in reads if named[m].startswith(part)] for part in "qkv"}
        if any(len(found) != 1 for found in by_part.values()):
            raise self._no("its three maps of attention are not called q, k and v")
        found = []
        for part in "qkv":
            linear = by_part[part][0]
            n = self.seen[linear][1].shape[-1] // d
            found.append(Reader(linear=linear, rows=torch.arange(n * d).view(n, d)))
        return found[0], found[1], found[2]


def joint_norms(layer: Layer) -> bool:
    """Whether a norm runs over the queries, or the keys, of all heads together."""
    sizes = {r.rows.numel() for r in (layer.q, layer.k) if len(r.rows) > 1}
    return any(_is_norm(m) and cast(Tensor, m.weight).numel() in sizes for m in layer.attention.modules())


class _Reached(Exception):
    pass


@torch.no_grad()
def prove_rows(model: PreTrainedModel, parts: Anatomy) -> None:
    """Unsupported unless a head's values depend on the rows taken for its queries, keys and values as they must.

    In the first layer: other queries of a head at the last position change its value there and nothing else; other keys
    of a group at the first position leave the values there (one key to attend to) and change later ones of its heads;
    other values of a group at the first position change its heads there. And no other head, unless a norm runs over the
    queries or keys of all heads together (OLMo 2).
    """
    layer, tokens = parts.layers[0], probe_tokens(model)
    group = torch.arange(parts.n_heads) // (parts.n_heads // parts.n_groups)
    plain = _values(model, layer, tokens, None, 0)
    joint = joint_norms(layer)
    for name, reader in (("queries", layer.q), ("keys", layer.k), ("values", layer.v)):
        at = -1 if name == "queries" else 0
        for number, rows in enumerate(reader.rows):
            moved = _values(model, layer, tokens, (reader.linear, rows), at)
            heads = (moved - plain).unflatten(-1, (parts.n_heads, -1)).abs().amax((0, -1)) > 0  # [pos, heads]
            own = torch.arange(parts.n_heads) == number if name == "queries" else group == number
            wanted = own & torch.ones(tokens.shape[1], 1, dtype=torch.bool)
            wanted[: {"queries": -1, "keys": 1, "values": 0}[name]] = False
            before = {"queries": wanted, "keys": wanted, "values": wanted[:1]}[name]
            heads = heads.cpu() & own if joint and name != "values" else heads.cpu()
            if not torch.equal(heads[: len(before)], before) or bool(heads[:, ~own].any()):
                raise Unsupported(
                    f"the model {model.config.model_type}", f"its {name} are not where they were looked for", _INSTEAD
                )


def _values(
    model: PreTrainedModel, layer: Layer, tokens: Tensor, rows: tuple[nn.Module, Tensor] | None, at: int
) -> Tensor:
    """What a layer's map over all heads reads [batch, pos, heads * d_head], with some outputs moved at one position."""
    found: list[Tensor] = []

    def move(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
        if rows is None:
            return None
        out = out.clone()
        out[:, at, rows[1].to(out.device)] += torch.linspace(1, 2, len(rows[1])).to(out)
        return out

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(args[0])
        raise _Reached

    handles = [layer.out.register_forward_pre_hook(stop)]
    if rows is not None:
        handles.append(rows[0].register_forward_hook(move))
    try:
        model(tokens, use_cache=False)
    except _Reached:
        return found[0]
    finally:
        for h in handles:
            h.remove()
    raise AssertionError("unreachable: every layer writes")


@dataclass(frozen=True, kw_only=True, eq=False)
class NormForm:
    """A norm x -> gain * y / sqrt(mean square of y + eps) + offset, y = x, or x less its mean where `centred`."""

    gain: Tensor
    offset: Tensor
    centred: bool
    eps: float

    def unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(1 / sqrt(..) [..., 1], y / sqrt(..) [..., d]), in float32 at least."""
        y = x if x.dtype.itemsize >= 4 else x.float()
        y = y - y.mean(-1, keepdim=True) if self.centred else y
        size = torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return size, y * size


@torch.no_grad()
def norm_form(norm: nn.Module) -> NormForm | None:
    """What a norm computes, read off its values; None if it is not of this form."""
    weight = next(norm.parameters(), None)
    eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    if weight is None or eps is None:
        return None
    x = 3 + torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    signs = torch.ones_like(x[0])
    signs[1::2] = -1
    offset = norm(torch.zeros_like(signs))
    gain = signs * (norm(signs) - norm(-signs)) / 2 * math.sqrt(1 + eps)
    for centred in (False, True):
        form = NormForm(gain=gain, offset=offset, centred=centred, eps=float(eps))
        if same(norm(x), (form.unit(x)[1] * gain + offset).to(x), roundings=16):
            return form
    return None


def exchange(module: nn.Module, forward: Callable[..., Any], stack: ExitStack) -> None:
    """Let a module do something else, until the stack is left."""
    before = vars(module).get("forward")
    module.forward = forward
    if before is None:
        stack.callback(delattr, module, "forward")
    else:
        stack.callback(setattr, module, "forward", before)


def plainly(module: nn.Module, x: Tensor) -> Tensor:
    """What a module whose forward is exchanged would make of x."""
    made: Tensor = type(module).forward(module, x)
    return made


def post_scale(norm: nn.Module, total: Tensor) -> Tensor:
    """What a norm without offset multiplies each channel of `total` [..., d_model] by, [..., d_model].

    A root-mean-square norm is x times a gain per channel over its own size; the gain is read off its value at ones.
    """
    eps = float(getattr(norm, "eps", getattr(norm, "variance_epsilon", 0.0)))
    gain = norm(torch.ones(total.shape[-1], dtype=total.dtype, device=total.device)) * math.sqrt(1 + eps)
    return gain * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps)
