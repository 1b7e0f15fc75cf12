"""Turn a circuit of a weight-sparse model into a program of its own (standalone.py says what is computed and why)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, Unsupported
from gossamer.mask import apply_masks
from gossamer.models.kernels import abs_topk
from gossamer.models.loaded import LoadedModel
from gossamer.models.sparse import Block, Place
from gossamer.models.standalone import (
    Attention,
    Contest,
    Mode,
    Neurons,
    Numbers,
    Part,
    Read,
    Readout,
    StandaloneCircuit,
    StandaloneConfig,
    Write,
    strongest,
)
from gossamer.subject import require_model_of
from gossamer.task import Encoded

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "none": torch.Tensor.clone}
PRESETS = ("gao-mean", "zero-complement")


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What frozen mode holds fixed, measured under the ablation on a task's prompts.

    threshold: median size of the last survivor per location with AbsTopK; inverse: mean 1/RMS per read; share: per
    layer [heads], the mean attention that the sink leaves (1 without a sink).
    """

    threshold: Mapping[str, float]
    inverse: Mapping[str, float]
    share: Mapping[int, Tensor]


class Rows(NamedTuple):
    """Kept rows of a map, or a sublayer's kept writes, as they were built: those that vary, in the part's order (no
    part: none does), and the values of those that are constant, 0 for all others [all rows]."""

    part: Part | None
    channels: Tensor
    constants: Tensor


class Reads(NamedTuple):
    """The kept channels of a normalised read: those of `part`, in order; the values of the others by token
    [vocab, channels], 0 for the rest (frozen mode; None: there are none)."""

    part: Read | None
    channels: Tensor
    by_token: Tensor | None


def require_exportable(model: LoadedModel, circuit: Circuit, preset: str) -> None:
    """Unsupported or BadInput for a circuit that cannot become a program."""
    if preset not in PRESETS:
        raise Unsupported(
            f"a standalone circuit under {preset}", "only what replaces all outside it by constants",
            " or ".join(PRESETS),
        )  # fmt: skip
    if model.model.config.position != "none":
        raise Unsupported(
            f"a standalone circuit of a model with {model.model.config.position} positions",
            "its tables are per token, not per token and position", "a model without positions, as `tiny`",
        )  # fmt: skip
    if circuit.granularity == "edge":
        raise Unsupported(
            "a standalone circuit with cut edges", "its matrices are those of the model", "the circuit of `prune`"
        )
    if circuit.layout != model.layout:
        raise BadInput(f"Expected a circuit of the nodes of {model.name}, got one of another layout.")
    require_model_of(circuit.record, model)


@torch.no_grad()
def extract(
    model: LoadedModel, circuit: Circuit, mode: Mode = "exact", *, preset: str = "gao-mean",
    answers: Sequence[int] | None = None, prompts: Encoded | None = None,
) -> StandaloneCircuit:  # fmt: skip
    """The circuit as a module that gives the logits of `answers` (default: of every token) at the last position.

    prompts: what frozen mode is fitted to, usually the task's training pairs; only it needs them. Computed in float64,
    stored in the model's dtype. Errors: Unsupported for a model with positions or another ablation, BadInput for
    answers outside the vocabulary, no prompts, or another model's circuit.
    """
    require_exportable(model, circuit, preset)
    vocab = model.model.config.vocab_size
    wanted = tuple(dict.fromkeys(range(vocab) if answers is None else map(int, answers)))
    if not wanted or not all(0 <= a < vocab for a in wanted):
        raise BadInput(f"Expected answers as token ids of 0 to {vocab - 1}, got {list(wanted[:8]) or 'none'}.")
    frozen = None
    if mode == "frozen":
        if prompts is None:
            raise BadInput("Frozen mode is fitted to prompts, got none; give the task's training pairs.")
        frozen = freeze(model, circuit, preset, prompts, narrowing_layer(model, circuit, preset))
    builder = _Builder(model, circuit, preset, wanted, frozen)
    layers, readout = builder.layers, builder.readout
    parts = {"layers": [p.outline() for p in layers], "readout": readout.outline()}
    fit = circuit.calibration
    config = StandaloneConfig(
        mode=mode, ablation=preset, answers=wanted, vocab_size=vocab, n_ctx=model.model.config.n_ctx,
        everywhere=builder.everywhere, nodes=circuit.n_nodes, edges=circuit.n_edges,
        calibration=(fit.scale, fit.shift) if fit else None, record=circuit.record, outline=parts,
    )  # fmt: skip
    carried = mode == "exact" and len(builder.varying) > 0
    made = StandaloneCircuit(config, builder.start if carried else None, layers, readout)
    return made.to(model.model.lm_head.weight.dtype).eval().requires_grad_(False)


@torch.no_grad()
def freeze(model: LoadedModel, circuit: Circuit, preset: str, prompts: Encoded, narrowing: int | None) -> Frozen:
    """Thresholds, norms and shares on `prompts` under the ablation, at the positions where the circuit reads them.

    narrowing: the last layer whose attention looks back; from its queries on only last positions count (None: from the
    start). A row where fewer than k channels are not zero has threshold 0.
    """
    c, net = model.model.config, model.model
    tokens, last = prompts.tokens.to(model.device), prompts.last.to(model.device)
    ablation = circuit.as_ablation(preset)
    masks = {k: torch.from_numpy(v).to(net.lm_head.weight) for k, v in ablation.keep.items()}
    change = apply_masks(masks, model.means(ablation.methodology.value))
    at = torch.arange(tokens.shape[1], device=tokens.device)
    final, real = at == last[:, None], at <= last[:, None]
    places: dict[str, Place] = {
        "attn.act_in": "attn_in", "attn.q": "attn_q", "attn.k": "attn_k", "attn.v": "attn_v",
        "attn.resid_delta": "attn_out", "mlp.act_in": "mlp_in", "mlp.post_act": "mlp_neuron",
        "mlp.resid_delta": "mlp_out",
    }  # fmt: skip
    threshold: dict[str, float] = {}
    inverse: dict[str, float] = {}
    share: dict[int, Tensor] = {}
    state = {"x": net.wte(tokens)}

    def wanted(layer: int, name: str) -> Tensor:
        before = narrowing is not None and (
            layer < narrowing or (layer == narrowing and name in ("attn.act_in", "attn.k", "attn.v"))
        )
        return real if before else final

    def look(location: str, value: Tensor) -> Tensor:
        edited = change(location, value)
        eps = torch.finfo(value.dtype).eps
        if location == "final_resid":
            inverse[location] = float((edited.square().mean(-1) + eps).rsqrt()[final].double().mean())
            return edited
        number, name = location.split(".", 1)
        layer, k = int(number), c.kept(places[name])
        chosen = wanted(layer, name)
        if k < value.shape[-1]:
            size = value[chosen].abs()
            least = size.masked_fill(size == 0, torch.inf).amin(-1)
            least = torch.where((size != 0).sum(-1) < k, 0, least)
            threshold[location] = _between(least.double())
        if name.endswith("act_in"):
            inverse[location] = float((state["x"].square().mean(-1) + eps).rsqrt()[chosen].double().mean())
        elif name.endswith("resid_delta"):
            state["x"] = state["x"] + edited
        elif name == "attn.q":
            state["q"] = edited
        elif name == "attn.k":
            sink = net.blocks[layer].attn.sink_logit
            share[layer] = torch.ones(c.n_head, dtype=torch.float64)
            if sink is not None:
                q, key = (t.unflatten(-1, (c.n_head, c.d_head)).transpose(1, 2) for t in (state["q"], edited))
                score = q @ key.transpose(-1, -2) / math.sqrt(c.d_head)
                total = score.masked_fill(at > at[:, None], -torch.inf).logsumexp(-1)
                left = (total - sink[:, None]).sigmoid().transpose(1, 2)
                share[layer] = left[wanted(layer, "attn.q")].double().mean(0).cpu()
        return edited

    net.hidden(tokens, look)
    return Frozen(threshold=threshold, inverse=inverse, share=share)


def _between(sizes: Tensor) -> float:
    """The median of sizes [n], moved half-way to the next larger one: no size is equal to it, so rounding cannot
    decide who survives."""
    middle = float(sizes.median())
    above = sizes[sizes > middle * (1 + 1e-6)]
    return (middle + float(above.min())) / 2 if len(above) else middle * (1 - 1e-6)


class _Builder:
    """Goes through the model once, in order, and keeps what the circuit's logits depend on. All in float64.

    stream: [vocab, d_model] the residual stream so far without the writes of layers that are left; varying: K, the
    channels that are carried; start: [vocab, |K|] x over K before the first layer that is left; written: channels of
    the kept writes of the layers so far, one after the other.
    """

    def __init__(
        self, model: LoadedModel, circuit: Circuit, preset: str, answers: tuple[int, ...], frozen: Frozen | None
    ) -> None:
        ablation = circuit.as_ablation(preset)
        self.c, self.net, self.frozen = model.model.config, model.model, frozen
        self.keep = {k: torch.from_numpy(v.copy()) for k, v in ablation.keep.items()}
        self.mean = {k: v.detach().cpu().double() for k, v in model.means(ablation.methodology.value).items()}
        self.eps = torch.finfo(model.model.lm_head.weight.dtype).eps
        self.stream = self.net.wte.weight.detach().cpu().double()
        self.needed = self._needed()
        self.varying = torch.stack(list(self.needed.values())).any(0).nonzero()[:, 0]
        self.still = _others(self.varying, self.c.d_model)
        self.written = self.varying[:0]
        self.start = self.stream[:, self.varying]
        self.layers: list[Part] = []
        self.numbers: list[int] = []
        for i in range(self.c.n_layer):
            for sub in ("attn", "mlp"):
                self._sublayer(i, sub)
        self.readout = self._readout(answers)
        self.everywhere = self._narrow()

    def _narrowing(self) -> int | None:
        looks = [n for n, p in enumerate(self.layers) if isinstance(p, Attention) and p.looks_back()]
        return looks[-1] if looks else None

    def _narrow(self) -> bool:
        """From where later keys and values depend on tokens alone only last positions are computed; False: all the
        way."""
        attention = [(n, p) for n, p in enumerate(self.layers) if isinstance(p, Attention)]
        carried = [n for n, p in attention if p.carries_back()]
        for n, part in attention:
            if part.looks_back() and n >= max(carried, default=0):
                self.layers[n] = part.narrow()
        return bool(carried)

    def narrowing_layer(self) -> int | None:
        """The model's last layer whose attention looks back, in this circuit."""
        found = self._narrowing()
        return None if found is None else self.numbers[found]

    def _needed(self) -> dict[str, Tensor]:
        """Kept writes that the logits depend on, bool [d_model] per location. Exact: a norm or a contest that comes
        later depends on all of them; frozen: only what later reads."""
        read = self.keep["final_resid"].clone()
        later, found = False, {}
        for i in reversed(range(self.c.n_layer)):
            for sub in ("mlp", "attn"):
                own = self.keep[f"{i}.{sub}.resid_delta"]
                need = own if later and self.frozen is None else own & read
                if need.any():
                    later = True
                    read |= self.keep[f"{i}.{sub}.act_in"]
                found[f"{i}.{sub}.resid_delta"] = need
        return found

    def _sublayer(self, i: int, sub: str) -> None:
        location = f"{i}.{sub}.resid_delta"
        shift = torch.where(self.keep[location], 0, self.mean[location])
        need = self.needed[location].nonzero()[:, 0]
        part, channels = None, need[:0]
        if len(need):
            block = self.net.blocks[i]
            part, channels, constants = self._attention(i, block, need) if sub == "attn" else self._mlp(i, block, need)
            shift = shift + constants
        self.stream = self.stream + shift
        if part is None:
            if self.frozen is None and self.layers:
                cast(Write, self.layers[-1].part("write")).shift += shift[self.varying]
            else:
                self.start = self.start + shift[self.varying]
            return
        every = torch.arange(self.c.vocab_size)[None]
        if self.frozen is not None:
            if isinstance(part, Neurons) and not part.has("read"):  # of the token alone
                self.stream[:, channels] += part.delta(None, every)[0]
                return
            part.add_module("write", Write({}, {}))
            if isinstance(part, Attention) and not part.has("read"):
                part = part.tabulate(None, every)
            self.written = torch.cat([self.written, channels])
        else:
            place = _pick(self.varying, channels)
            part.add_module("write", Write({}, {"place": place, "shift": shift[self.varying]}))
            if not self.layers:
                if isinstance(part, Neurons):
                    self.start = part(self.start[None], every)[0]
                    return
                part = cast(Attention, part).tabulate(self.start[None], every)
        self.layers.append(part)
        self.numbers.append(i)

    def _contest(
        self, location: str, weight: Tensor, bias: Tensor, rows: Tensor, k: int, activation: str = "none",
        by_token: Tensor | None = None, held: bool = False,
    ) -> Rows:  # fmt: skip
        """Kept `rows` of weight [all rows, sources] @ sources + bias + by_token [vocab, all rows].

        held: rows that are constant count as rows that vary.
        """
        act = ACTIVATIONS[activation]
        wide = len(weight)
        alone = self.frozen is not None or k >= wide
        varies = (weight != 0).any(-1) if weight.shape[-1] else torch.zeros(wide, dtype=torch.bool)
        if by_token is not None:
            varies |= (by_token != 0).any(0)
        kept = torch.zeros(wide, dtype=torch.bool)
        kept[rows] = True
        if alone:
            varies = kept.clone() if held else varies & kept
        h = act(bias)
        if self.frozen is not None:
            h = F.hardshrink(h, self.frozen.threshold.get(location, 0.0))
        elif not alone and not varies.any():
            h = abs_topk(h[None], k)[0]
        if not varies.any() or not len(rows):
            return Rows(None, rows[:0], torch.where(kept, h, 0))
        first = (kept & varies).nonzero()[:, 0]
        numbers: Numbers = {"kept": len(first), "rank": 0, "activation": activation, "threshold": None}
        sure = (kept & ~varies).nonzero()[:, 0]  # constants that are not decided from prompt to prompt
        if self.frozen is not None:
            numbers["threshold"] = self.frozen.threshold.get(location, 0.0)
            part = self._frozen_rows(weight[first], bias[first], numbers, by_token, first)
        elif alone:
            part = Contest(numbers, {"weight": weight[first], "bias": bias[first]})
        else:
            still = (~varies).nonzero()[:, 0]
            places, survive = strongest(h[still].abs(), k, int(varies.sum()))
            sure, rivals = still[places[:survive]], still[places[survive:]]
            sure, first = sure[kept[sure]], torch.cat([first, rivals[kept[rivals]]])
            compete = torch.cat([first, (varies & ~kept).nonzero()[:, 0], rivals[~kept[rivals]]])
            numbers |= {"kept": len(first), "rank": k - survive}
            part = Contest(numbers, {"weight": weight[compete], "bias": bias[compete]})
        return Rows(part, first, torch.zeros_like(h).index_put((sure,), h[sure]))

    def _frozen_rows(
        self, weight: Tensor, bias: Tensor, numbers: Numbers, by_token: Tensor | None, rows: Tensor
    ) -> Contest:
        """A contest with a fixed threshold; where nothing but the token counts, a table of its results."""
        depends = bool((weight != 0).any())
        if by_token is None and depends:
            return Contest(numbers, {"weight": weight, "bias": bias})
        table = bias + (by_token[:, rows] if by_token is not None else bias.new_zeros(self.c.vocab_size, 1))
        if depends:
            return Contest(numbers, {"weight": weight, "table": table})
        table = F.hardshrink(ACTIVATIONS[numbers["activation"]](table), numbers["threshold"])
        return Contest(numbers | {"activation": "none", "threshold": None}, {"table": table})

    def _read(self, location: str, gain: Tensor, channels: Tensor, k: int) -> Reads:
        """The kept `channels` of a normalised read."""
        gain = gain.detach().cpu().double()
        table = self.stream * gain
        numbers: Numbers = {"width": self.c.d_model, "eps": self.eps, "rank": 0, "own": 0, "threshold": None}
        if self.frozen is not None:
            threshold, inverse = self.frozen.threshold.get(location, 0.0), self.frozen.inverse[location]
            moved = torch.isin(channels, self.written)
            inside, outside = channels[moved], channels[~moved]
            by_token = None
            if len(outside):
                by_token = torch.zeros_like(table)
                by_token[:, outside] = F.hardshrink(table[:, outside] * inverse, threshold)
            take = _pick(inside, self.written) * (gain[inside] * inverse)[:, None]
            part = Read(numbers | {"threshold": threshold}, {"take": take, "table": table[:, inside] * inverse})
            return Reads(part if len(inside) else None, inside, by_token)
        inside = torch.isin(channels, self.varying)
        square = self.stream[:, self.still].square().sum(-1, keepdim=True)
        rivals = square[:, :0]
        tensors = {"take": _pick(channels[inside], self.varying) * gain[self.varying]}
        if k < self.c.d_model:
            tensors["gain"] = gain[self.varying]
            sizes = table[:, self.still].abs()
            places, survive = strongest(sizes, k, len(self.varying))
            rivals, numbers["rank"] = sizes.gather(1, places[:, survive:]), k - survive
        tensors["table"] = torch.cat([square, rivals, table[:, channels[~inside]]], dim=-1)
        numbers["own"] = 1 + rivals.shape[-1]
        return Reads(Read(numbers, tensors), torch.cat([channels[inside], channels[~inside]]), None)

    def _reading(self, location: str, maps: Sequence[tuple[Tensor, Tensor, int]]) -> Tensor:
        """Kept channels of a read that any of the maps (weight, rows wanted, k) depends on."""
        used = torch.zeros(self.c.d_in, dtype=torch.bool)
        for weight, rows, k in maps:
            if len(rows):
                used |= (self._considered(weight, rows, k) != 0).any(0)
        return (used & self.keep[location]).nonzero()[:, 0]

    def _considered(self, weight: Tensor, rows: Tensor, k: int) -> Tensor:
        return weight[rows] if self.frozen is not None or k >= len(weight) else weight

    def _mlp(self, i: int, block: Block, need: Tensor) -> Rows:
        c, mlp = self.c, block.mlp
        down, up = _weights(mlp.c_proj), _weights(mlp.c_fc)
        k_out, k_mid = c.kept("mlp_out"), c.kept("mlp_neuron")
        used = (self._considered(down.weight, need, k_out) != 0).any(0)
        neurons = (used & self.keep[f"{i}.mlp.post_act"]).nonzero()[:, 0]
        channels = self._reading(f"{i}.mlp.act_in", [(up.weight, neurons, k_mid)])
        bias = up.bias + up.weight @ _at_rest(self.mean[f"{i}.mlp.act_in"], channels)
        read, channels, by_token = self._read(f"{i}.mlp.act_in", block.ln_2.weight, channels, c.kept("mlp_in"))
        by_token = None if by_token is None else by_token @ up.weight.T
        first, varying, constants = self._contest(
            f"{i}.mlp.post_act", up.weight[:, channels], bias, neurons, k_mid, c.activation, by_token
        )
        rest = _at_rest(self.mean[f"{i}.mlp.post_act"], neurons) + constants
        second, need, constants = self._contest(
            f"{i}.mlp.resid_delta", down.weight[:, varying], down.bias + down.weight @ rest, need, k_out
        )
        parts = {"read": read, "up": first, "down": second}
        return Rows(None if second is None else Neurons({}, {}, parts), need, constants)

    def _attention(self, i: int, block: Block, need: Tensor) -> Rows:
        c = self.c
        out, k_out = _weights(block.attn.c_proj), c.kept("attn_out")
        sink = None if block.attn.sink_logit is None else block.attn.sink_logit.detach().cpu().double()
        shares = sink is not None and self.frozen is None  # whether what the sink leaves of a head's means varies
        head = torch.arange(c.d_attn) // c.d_head
        used = (self._considered(out.weight, need, k_out) != 0).any(0)

        def of_heads(channels: Tensor) -> Tensor:
            return torch.isin(head, head[channels])

        values = used & self.keep[f"{i}.attn.v"]
        live = of_heads(used) if shares else of_heads(values)
        keys = live & self.keep[f"{i}.attn.k"]
        queries = live & self.keep[f"{i}.attn.q"] & (of_heads(keys) if sink is None else True)
        weights = _weights(block.attn.c_attn)
        rows = {"q": queries, "k": keys, "v": values}
        wanted = {p: r.nonzero()[:, 0] for p, r in rows.items()}
        places: dict[str, Place] = {"q": "attn_q", "k": "attn_k", "v": "attn_v"}
        weight = dict(zip("qkv", weights.weight.chunk(3), strict=True))
        bias = dict(zip("qkv", weights.bias.chunk(3), strict=True))
        location = f"{i}.attn.act_in"
        channels = self._reading(location, [(weight[p], wanted[p], c.kept(places[p])) for p in "qkv"])
        rest = _at_rest(self.mean[location], channels)
        read, channels, by_token = self._read(location, block.ln_1.weight, channels, c.kept("attn_in"))
        parts: dict[str, Part | None] = {"read": read}
        order, still = {}, {}
        for p in "qkv":
            parts[p], order[p], constants = self._contest(
                f"{i}.attn.{p}", weight[p][:, channels], bias[p] + weight[p] @ rest, wanted[p], c.kept(places[p]),
                by_token=None if by_token is None else by_token @ weight[p].T, held=p == "v" and sink is not None,
            )  # fmt: skip
            still[p] = _at_rest(self.mean[f"{i}.attn.{p}"], wanted[p]) + constants
        by_head = (out.weight * still["v"]).unflatten(-1, (c.n_head, c.d_head)).sum(-1)  # [d_model, head]
        with_share = (self._considered(by_head, need, k_out) != 0).any(0) if shares else torch.zeros(c.n_head).bool()
        live_heads = (with_share | torch.isin(torch.arange(c.n_head), head[order["v"]])).nonzero()[:, 0]
        scored = live_heads[torch.isin(live_heads, head[order["k"]])]
        even = live_heads[~torch.isin(live_heads, scored)]
        tensors, y = self._scores(order, still, head, scored, even, sink, shares)
        share_heads = [h[with_share[h]] for h in (scored, even)]
        for name, found, h in zip(("share_take", "even_share"), share_heads, (scored, even), strict=True):
            if len(found):
                tensors[name] = torch.searchsorted(h, found)
        source = torch.cat([out.weight[:, y], *(by_head[:, h] for h in share_heads)], dim=-1)
        fixed = torch.ones(c.n_head, dtype=torch.float64)
        if shares:
            fixed = torch.zeros(c.n_head, dtype=torch.float64)
        elif self.frozen is not None:
            fixed = self.frozen.share[i]
        parts["out"], need, constants = self._contest(
            f"{i}.attn.resid_delta", source, out.bias + by_head @ fixed, need, k_out
        )
        if parts["out"] is None:
            return Rows(None, need, constants)
        if not any(parts[p] for p in "qkv"):
            parts["read"] = None
        numbers: Numbers = {"narrows": False, "scale": c.d_head**-0.5, "heads": len(scored)}
        return Rows(Attention(numbers, tensors, parts), need, constants)

    def _scores(
        self, order: Mapping[str, Tensor], still: Mapping[str, Tensor], head: Tensor, scored: Tensor, even: Tensor,
        sink: Tensor | None, shares: bool,
    ) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
        """The tensors of attention scores (see standalone.Attention), and the value channels in the order of its y."""
        q, k, v = order["q"], order["k"], order["v"]
        scale = self.c.d_head**-0.5
        constant = still["q"] * still["k"] * scale  # channels that vary on either side are at rest with 0 there
        tensors: dict[str, Tensor] = {}
        ys = []

        def own(heads: Tensor, channels: Tensor, value: Tensor) -> Tensor:
            return (heads[:, None] == head[channels]) * value

        if len(scored):
            both = [q[(head[q] == h) & torch.isin(q, k)] for h in scored]
            if max(map(len, both)):
                tensors["q_pick"], tensors["k_pick"] = _pick(_padded(both), q), _pick(_padded(both), k)
            tensors["k_alone"] = own(scored, k, still["q"][k] * scale)
            if sink is not None:
                tensors["sink"] = sink[scored]
                tensors["q_none"] = own(scored, torch.arange(len(head)), constant).sum(-1)
                if len(q):
                    tensors["q_alone"] = own(scored, q, still["k"][q] * scale)
            values = [v[head[v] == h] for h in scored]
            if max(map(len, values)):
                tensors["v_pick"] = _pick(_padded(values), v)
                tensors["y_take"] = _pick(torch.cat(values), _padded(values))
                ys += values
        if len(even) and sink is not None:
            tensors["even_none"] = own(even, torch.arange(len(head)), constant).sum(-1) - sink[even]
            if torch.isin(head[q], even).any():
                tensors["even_q"] = own(even, q, still["k"][q] * scale)
        at = torch.isin(head[v], even).nonzero()[:, 0]
        if len(at):
            tensors["even_v"], tensors["even_head"] = _pick(v[at], v), torch.searchsorted(even, head[v[at]])
            ys.append(v[at])
        return tensors, torch.cat(ys) if ys else v[:0]

    def _readout(self, answers: tuple[int, ...]) -> Readout:
        net, keep, mean = self.net, self.keep["final_resid"], self.mean["final_resid"]
        gain = net.ln_f.weight.detach().cpu().double()
        rows = net.lm_head.weight.detach().cpu().double()[list(answers)] * gain
        channels = keep.nonzero()[:, 0]
        inside = torch.isin(channels, self.varying)
        if self.frozen is None:
            channels = torch.cat([channels[inside], channels[~inside]])
        rest = torch.where(keep, 0, mean)
        tensors = {
            "weight": rows[:, channels], "bias": rows @ rest,
            "extra": net.final_logits_bias.detach().cpu().double()[list(answers)],
        }  # fmt: skip
        if self.frozen is not None and len(channels):
            tensors["table"] = self.stream[:, channels]
            if torch.isin(channels, self.written).any():
                tensors["take"] = _pick(channels, self.written)
        elif self.frozen is None:
            if inside.any():
                tensors["take"] = _pick(channels[: int(inside.sum())], self.varying)
            if not inside.all():
                tensors["table"] = self.stream[:, channels[int(inside.sum()) :]]
        if net.bigram_table is not None:
            tensors["bigram"] = net.bigram_table.detach().cpu().double()[:, list(answers)]
        square = float(rest.square().sum())
        inverse = self.frozen.inverse["final_resid"] if self.frozen else None
        if not len(channels):
            inverse = (square / self.c.d_model + self.eps) ** -0.5
            tensors["bias"] = tensors["bias"] * inverse
        numbers = {"width": self.c.d_model, "eps": self.eps, "square": square, "inverse": inverse}
        return Readout(numbers, tensors)


def narrowing_layer(model: LoadedModel, circuit: Circuit, preset: str) -> int | None:
    """The last layer whose attention looks back in this circuit; after its keys and values only the last position
    counts. None: the circuit depends on the last token alone."""
    return _Builder(model, circuit, preset, (0,), None).narrowing_layer()


def linear_of(layer: torch.nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias (zeros where there is none) as float64 arrays."""
    found = _weights(layer)
    return found.weight.numpy(), found.bias.numpy()


class _Linear(NamedTuple):
    weight: Tensor
    bias: Tensor


def _weights(layer: torch.nn.Linear) -> _Linear:
    """A linear map in float64 on the CPU, with a bias of zeros where it has none."""
    weight = layer.weight.detach().cpu().double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().cpu().double()
    return _Linear(weight, bias)


def _others(channels: Tensor, width: int) -> Tensor:
    flags = torch.ones(width, dtype=torch.bool)
    flags[channels] = False
    return flags.nonzero()[:, 0]


def _at_rest(mean: Tensor, varying: Tensor) -> Tensor:
    """Constants of a location, 0 at the channels that vary."""
    rest = mean.clone()
    rest[varying] = 0
    return rest


def _padded(groups: Sequence[Tensor]) -> Tensor:
    """Groups of channels one after the other, each filled up to the largest with -1."""
    most = max(map(len, groups))
    return torch.cat([F.pad(group, (0, most - len(group)), value=-1) for group in groups])


def _pick(wanted: Tensor, order: Tensor) -> Tensor:
    """[wanted, order]: 1 where a wanted channel is the one in the order; a row of zeros for -1 and what is missing."""
    return ((wanted[:, None] == order) & (wanted[:, None] >= 0)).double()
