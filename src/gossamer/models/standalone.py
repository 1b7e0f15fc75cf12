"""A circuit as a program of its own: a small torch module (or ONNX graph) that needs no Gossamer model to run.

`exact` computes the logits of the ablated model, and only what they depend on. Under node ablation every channel that
is not kept is a constant after its AbsTopK, which leaves these questions, in the order of the forward pass.

1. *Residual stream.* The embedding is not a node, so every channel of x = embedding + writes depends on the token. But
   a channel that no needed kept `resid_delta` node writes is a function of the token alone: embedding plus constants.
   Call the others K (`varying`); only x over K is carried, [batch, pos, |K|].
2. *RMSNorm* needs sum x^2 over all channels: a number per token for those outside K, plus the sum over K.
3. *AbsTopK after the norm.* Dividing by the RMS changes no order, so channels compete with |gain x|. Outside K these
   sizes are known per token. Of these the ranks before s = max(0, k - |K| - 1) always survive and those from k on
   never do, so a channel is among the k largest of all exactly when fewer than k - s of K's sizes and of the ranks s
   to k are larger than it. One row of at most |K| + 1 numbers per token stands for all channels outside K.
4. *AbsTopK of q, k, v, neurons and writes.* A row that is not kept still varies with kept inputs and competes before
   its mean replaces it. Rows without a weight from a kept input are constants: they compete as in 3, with one list for
   all tokens. Rows with one are computed, kept or not.
5. *Attention.* Scores are q.k over the channels kept in q or in k, plus a constant. The constant matters where there
   is a sink; so does a value channel that is not kept: its mean is weighed by the share of attention that the sink
   leaves, one number per head and query. A head without kept keys attends evenly: a running mean instead of scores.
6. *Positions.* After the last attention whose keys or values carry something from their position, everything is
   computed at the last token alone; before it, once for each prefix that prompts share.
7. *Tables.* Up to the first attention all of this is a function of the token and computed once, when it is built.

`frozen` runs the kept nodes alone: each AbsTopK is a fixed threshold (the median over training prompts under the same
ablation), each RMSNorm a fixed factor (the mean of 1/RMS), each sink's share at heads' means its average. Without
norms and competition the residual stream is never added up: x is the kept writes so far side by side, each read has
its own map from them, and what a read or a contest owes to the token alone is a row of a table.

When it lies: two channels of exactly equal size at an AbsTopK's edge both survive here, while the model keeps one of
them. `exact` is the ablated model, not the model; what the ablation hides, it hides. `frozen` was fitted to a task's
prompts; on other text its thresholds and norms are wrong, and it does not notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.metric import calibrate
from gossamer.models.files import read_safetensors, write_safetensors
from gossamer.models.prefixes import Prefixes
from gossamer.record import Record
from gossamer.task import Encoded

FORMAT_VERSION = "2"
KIND = "gossamer-standalone"

Mode = Literal["exact", "frozen"]
Numbers = dict[str, Any]


def _survive(values: Tensor, candidates: Tensor, rank: int) -> Tensor:
    """Which of `values` [..., n] are among the `rank` largest of `candidates` [..., m]; sizes, not negative; bool."""
    if torch.compiler.is_exporting() or values.device.type != "cpu":
        threshold = candidates.topk(rank, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    else:  # numpy's partition takes a third of the time
        place = candidates.shape[-1] - rank
        sizes = candidates.detach().numpy()
        sizes.partition(place, axis=-1)
        threshold = torch.from_numpy(sizes[..., place, None])
    return values >= threshold


def strongest(fixed: Tensor, k: int, varying: int) -> tuple[Tensor, int]:
    """Places of the k largest of fixed sizes [..., n], largest first, and how many of them always are among the k
    largest together with `varying` others. The rest decides, at rank k less that number (see 3 in the docstring)."""
    return fixed.argsort(dim=-1, descending=True)[..., :k], max(0, k - varying - 1)


class Part(nn.Module):
    """A piece with its tensors as buffers and its constants as plain numbers, so that it can be stored as both."""

    def __init__(
        self, numbers: Numbers, tensors: Mapping[str, Tensor], parts: Mapping[str, Part | None] | None = None
    ) -> None:
        super().__init__()
        self.numbers = dict(numbers)
        for name, t in tensors.items():
            self.register_buffer(name, t)
        for name, p in (parts or {}).items():
            if p is not None:
                self.add_module(name, p)

    def has(self, name: str) -> bool:
        return name in self._buffers or name in self._modules

    def part(self, name: str) -> Part:
        return cast(Part, self._modules[name])

    def outline(self) -> dict[str, Any]:
        """What, beside the tensors, makes this piece again."""
        parts = {k: cast(Part, p).outline() for k, p in self._modules.items()}
        return {"kind": type(self).__name__, "numbers": self.numbers, "parts": parts}


class Contest(Part):
    """Kept rows of a linear map, after its activation and AbsTopK among all rows: [..., sources] -> [..., rows].

    weight, bias: the `kept` rows first, then the others that compete at `rank`, constant ones with a weight of 0; rank
    0: no AbsTopK; threshold: a fixed one in its place, with the bias in `table` [vocab, rows] where rows depend on the
    token too.
    """

    weight: Tensor
    bias: Tensor
    table: Tensor

    def forward(self, sources: Tensor | None, tokens: Tensor) -> Tensor:
        n = self.numbers
        h = F.embedding(tokens, self.table) if self.has("table") else None
        if self.has("weight"):
            mapped = F.linear(cast(Tensor, sources), self.weight, self.bias if self.has("bias") else None)
            h = mapped if h is None else h + mapped
        assert h is not None
        h = F.gelu(h) if n["activation"] == "gelu" else F.relu(h) if n["activation"] == "relu" else h
        if n["threshold"] is not None:
            return F.hardshrink(h, n["threshold"])
        values = h[..., : n["kept"]]
        if not n["rank"]:
            return values
        return torch.where(_survive(values.abs(), h.abs(), n["rank"]), values, 0)


class Read(Part):
    """Kept channels of a normalised read of the residual stream: x over K [..., |K|] and tokens -> [..., channels].

    take: [kept channels in K, |K|] picks them and applies the gain; table: per token the sum of squares outside K, the
    rivals' sizes, and the kept channels outside K (with gain). Frozen (`threshold`): x is the kept writes so far, take
    [channels, writes] and table have gain and 1/RMS, and the table is what the channels are without the writes.
    """

    table: Tensor
    gain: Tensor
    take: Tensor

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        n = self.numbers
        row, values = F.embedding(tokens, self.table), F.linear(x, self.take)
        if n["threshold"] is not None:
            return F.hardshrink(row + values, n["threshold"])
        values = torch.cat([values, row[..., n["own"] :]], dim=-1)
        inverse = ((row[..., :1] + x.square().sum(-1, keepdim=True)) / n["width"] + n["eps"]).rsqrt()
        if n["rank"]:
            sizes = torch.cat([(x * self.gain).abs(), row[..., 1 : n["own"]]], dim=-1)
            values = torch.where(_survive(values.abs(), sizes, n["rank"]), values, 0)
        return values * inverse


class Write(Part):
    """Adds a sublayer's kept channels (place: [|K|, channels]) and constants (shift) to x over K; frozen: puts the
    channels beside the kept writes before it."""

    place: Tensor
    shift: Tensor

    def forward(self, x: Tensor | None, delta: Tensor) -> Tensor:
        if x is None:
            return delta
        return x + F.linear(delta, self.place, self.shift) if self.has("place") else torch.cat([x, delta], dim=-1)


class Neurons(Part):
    """An MLP: x over K, tokens -> its kept writes."""

    read: Read
    up: Contest
    down: Contest
    write: Write

    def delta(self, x: Tensor | None, tokens: Tensor) -> Tensor:
        """The kept writes, before they are added."""
        read = self.read(x, tokens) if self.has("read") else None
        return cast(Tensor, self.down(self.up(read, tokens), tokens))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.write(x, self.delta(x, tokens)))


class Attention(Part):
    """An attention sublayer: queries, keys, values of kept channels -> its kept writes, before they are added.

    Heads with kept keys have scores: channels kept on both sides (q_pick, k_pick), keys against constant queries
    (k_alone), queries against constant keys (q_alone, q_none). The other heads attend evenly (even_*). Shares are what
    the sink leaves. A `pick` is a matrix of ones and zeros: for vectors this short it beats indexing. Where only the
    last query counts, all heads' weights (the even heads' as one more head) times all values are one product, of which
    y_at and even_at are the places that are wanted, and q_to_k makes of a query what each head asks of each key.
    """

    q_pick: Tensor
    k_pick: Tensor
    v_pick: Tensor
    y_take: Tensor
    k_alone: Tensor
    q_alone: Tensor
    q_none: Tensor
    sink: Tensor
    share_take: Tensor
    even_v: Tensor
    even_head: Tensor
    even_q: Tensor
    even_none: Tensor
    even_share: Tensor
    q_to_k: Tensor
    y_at: Tensor
    even_at: Tensor
    q_table: Tensor
    kv_table: Tensor
    write: Write

    def _tensors(self) -> dict[str, Tensor]:
        return {k: v for k, v in self._buffers.items() if v is not None}

    def _with(self, numbers: Numbers, tensors: Mapping[str, Tensor], without: Sequence[str] = ()) -> Attention:
        parts = {k: cast(Part, p) for k, p in self._modules.items() if k not in without}
        return Attention(self.numbers | numbers, tensors, parts)

    def tabulate(self, x: Tensor | None, tokens: Tensor) -> Attention:
        """The same with queries, keys and values looked up by token; x, tokens: [1, vocab, ...], every token once."""
        a = self.part("read")(x, tokens) if self.has("read") else None
        found = {p: self.part(p)(a, tokens) for p in "qkv" if self.has(p)}
        tensors = self._tensors()
        if "q" in found:
            tensors["q_table"] = found["q"][0].contiguous()
        if both := [found[p][0] for p in "kv" if p in found]:
            tensors["kv_table"] = torch.cat(both, dim=-1)
        numbers = {"n_keys": found["k"].shape[-1] if "k" in found else 0}
        return self._with(numbers, tensors, ("read", "q", "k", "v"))

    def narrow(self) -> Attention:
        """The same for the last query alone."""
        tensors, heads = self._tensors(), self.numbers["heads"]
        if self.has("q_pick"):
            q, k = (tensors.pop(f"{p}_pick").unflatten(0, (heads, -1)) for p in "qk")
            tensors["q_to_k"] = torch.einsum("hjk,hjq->hkq", k, q).flatten(0, 1) * self.numbers["scale"]
        values = next((self.get_buffer(name).shape[-1] for name in ("v_pick", "even_v") if self.has(name)), 0)
        if self.has("v_pick"):
            pick, take = tensors.pop("v_pick"), tensors.pop("y_take")
            tensors["y_at"] = take.argmax(1) // (len(pick) // heads) * values + (take @ pick).argmax(1)
        if self.has("even_v"):
            tensors["even_at"] = heads * values + tensors.pop("even_v").argmax(1)
        return self._with({"narrows": True}, tensors)

    def looks_back(self) -> bool:
        """Whether a query depends on tokens before its own."""
        return any(map(self.has, ("k", "v", "kv_table")))

    def carries_back(self) -> bool:
        """Whether keys or values depend on what was carried to their position, not on its token alone."""
        return any(self.has(p) and self.part(p).has("weight") for p in "kv")

    def _qkv(
        self, x: Tensor | None, tokens: Tensor, last: Tensor | None, wide: bool, shared: Prefixes | None
    ) -> tuple[Tensor | None, ...]:
        def at_last(each: Tensor) -> Tensor:
            if shared is not None:
                return each[0, shared.ends, None]
            return each[torch.arange(each.shape[0], device=each.device), last, None]

        at = tokens if last is None else at_last(tokens)
        if self.has("q_table") or self.has("kv_table"):
            q = F.embedding(at, self.q_table) if self.has("q_table") else None
            kv = F.embedding(tokens, self.kv_table) if self.has("kv_table") else None
            n = self.numbers["n_keys"]
            k, v = (None, None) if kv is None else (kv[..., :n], kv[..., n:])
        else:
            a = self.part("read")(x, tokens if wide else at) if self.has("read") else None
            k, v = (self.part(p)(a, tokens) if self.has(p) else None for p in "kv")
            a = at_last(a) if a is not None and last is not None and wide else a
            q = self.part("q")(a, at) if self.has("q") else None
        if shared is None:
            return q, k, v
        q = q if q is None or last is not None else shared.spread(q)
        return q, *(None if each is None else shared.spread(each) for each in (k, v))

    def forward(
        self, x: Tensor | None, tokens: Tensor, count: Tensor, last: Tensor | None = None, wide: bool = True,
        shared: Prefixes | None = None,
    ) -> Tensor:  # fmt: skip
        """count: [batch or 1, pos], keys that each query sees. With `last` [batch] only those queries are computed;
        wide: whether x is there at every position, or at `last` alone, where it has no part in keys and values; shared:
        x and tokens are those of the prefixes, [1, prefixes, ...], not of every position."""
        q, k, v = self._qkv(x, tokens, last, wide, shared)
        p, y, even = self._everywhere(q, k, v, count) if last is None else self._at_last(q, k, v, last)
        found, shares = [] if y is None else [y], []
        if self.has("share_take"):
            shares.append(cast(Tensor, p).sum(-1).transpose(1, 2).index_select(-1, self.share_take))
        if self.has("even_none"):
            share = self.even_none if q is None or not self.has("even_q") else F.linear(q, self.even_q, self.even_none)
            share = (share + count[..., None].to(self.even_none).log()).sigmoid()
            if self.has("even_share"):
                rows = tokens.shape[0] if shared is None else shared.cells.shape[0]
                shares.append(share.index_select(-1, self.even_share).expand(rows, -1, -1))
            if even is not None:
                even = even * share.index_select(-1, self.even_head)
        found += [] if even is None else [even]
        y = torch.cat(found + shares, dim=-1)
        if shared is not None and last is None:
            y = shared.gather(y, 1)
        return cast(Tensor, self.part("out")(y, tokens))

    def _everywhere(
        self, q: Tensor | None, k: Tensor | None, v: Tensor | None, count: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Attention [batch, head, query, key] of the heads with kept keys, their values [batch, query, channels], and
        those of the heads that attend evenly, before their share; None for what there is not."""
        p = y = even = None
        if self.has("k_alone"):
            k = cast(Tensor, k)
            score = F.linear(k, self.k_alone).transpose(1, 2)[:, :, None]
            if q is not None and self.has("q_pick"):
                both = self._picked(q, self.q_pick).transpose(1, 2) @ self._picked(k, self.k_pick).permute(0, 2, 3, 1)
                score = score + self.numbers["scale"] * both
            keys = torch.arange(k.shape[1], device=k.device)
            p = self._softmax(score.masked_fill(keys > keys[:, None], -torch.inf), q)
            if self.has("y_take"):
                y = p @ self._picked(cast(Tensor, v), self.v_pick).permute(0, 2, 1, 3)
                y = F.linear(y.permute(0, 2, 1, 3).flatten(2), self.y_take)
        if self.has("even_v"):
            even = F.linear(cast(Tensor, v), self.even_v).cumsum(1) / count[..., None]
        return p, y, even

    def _at_last(self, q: Tensor | None, k: Tensor | None, v: Tensor | None, last: Tensor) -> tuple[Tensor | None, ...]:
        """The same for one query at `last` [batch]."""
        length = cast(Tensor, v if k is None else k).shape[1]
        seen = torch.arange(length, device=last.device) <= last[:, None]
        p, weights = None, []
        if self.has("k_alone"):
            asked = self.k_alone[None]
            if q is not None and self.has("q_to_k"):
                asked = F.linear(q[:, 0], self.q_to_k, self.k_alone.flatten()).unflatten(-1, self.k_alone.shape)
            score = asked @ cast(Tensor, k).transpose(1, 2)
            p = self._softmax(score.masked_fill(~seen[:, None], -torch.inf)[:, :, None], q)
            weights.append(p[:, :, 0])
        if self.has("even_at"):
            weights.append((seen / (last[:, None] + 1).to(cast(Tensor, v)))[:, None])
        if v is None or not weights:
            return p, None, None
        y = (torch.cat(weights, dim=1) @ v).flatten(1)[:, None]
        at = (self._buffers.get(name) for name in ("y_at", "even_at"))
        return p, *(None if places is None else y.index_select(-1, places) for places in at)

    def _picked(self, x: Tensor, pick: Tensor) -> Tensor:
        """x [batch, pos, channels] -> [batch, pos, head, as many channels as the fullest head has]."""
        return F.linear(x, pick).unflatten(-1, (self.numbers["heads"], -1))

    def _softmax(self, score: Tensor, q: Tensor | None) -> Tensor:
        """Probabilities of scores [batch, head, query, key], the sink's left out."""
        if not self.has("sink"):
            return score.softmax(-1)
        # the sink's logit relative to what a query gets from constant keys, rather than that added to every score
        sink = self.sink - self.q_none
        if q is not None and self.has("q_alone"):
            sink = (sink - F.linear(q, self.q_alone)).transpose(1, 2)[..., None]
        else:
            sink = sink[None, :, None, None]
        sink = sink.expand(*score.shape[:-1], 1)
        return torch.cat([score, sink], dim=-1).softmax(-1)[..., :-1]


class Readout(Part):
    """Logits of the answers: the final norm over kept channels and constants, then the rows asked for."""

    table: Tensor
    take: Tensor
    weight: Tensor
    bias: Tensor
    extra: Tensor
    bigram: Tensor

    def forward(self, x: Tensor | None, tokens: Tensor) -> Tensor:
        n = self.numbers
        parts = [F.linear(cast(Tensor, x), self.take)] if self.has("take") else []
        if self.has("table"):
            parts.append(F.embedding(tokens, self.table))
        inverse = n["inverse"]
        if not parts:
            logits = torch.zeros_like(tokens, dtype=self.bias.dtype)[..., None] + self.bias
        else:
            values = torch.cat(parts, dim=-1) if inverse is None else sum(parts[1:], parts[0])
            if inverse is None:
                square = values.square().sum(-1, keepdim=True) + n["square"]
                inverse = (square / n["width"] + n["eps"]).rsqrt()
            logits = F.linear(values, self.weight, self.bias) * inverse
        logits = logits + self.extra
        return logits + F.embedding(tokens, self.bigram) if self.has("bigram") else logits


KINDS: dict[str, type[Part]] = {c.__name__: c for c in (Contest, Read, Write, Neurons, Attention, Readout)}


class StandaloneConfig(BaseModel):
    """What a standalone circuit is and where it comes from. answers: the token ids of its logits, in order;
    everywhere: whether it carries anything at other positions than the last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode
    ablation: str
    answers: tuple[int, ...] = Field(min_length=1)
    vocab_size: int
    n_ctx: int
    everywhere: bool
    nodes: int
    edges: int
    calibration: tuple[float, float] | None
    record: Record
    outline: dict[str, Any]


class StandaloneCircuit(nn.Module):
    """A circuit that runs by itself. `forward(tokens, last)` -> logits of `config.answers`, [batch, answers]."""

    def __init__(
        self, config: StandaloneConfig, start: Tensor | None, layers: Sequence[Part], readout: Readout
    ) -> None:
        super().__init__()
        self.config = config
        self.start: Tensor | None
        self.register_buffer("start", start)
        self.layers = nn.ModuleList(layers)
        self.readout = readout
        lookup = torch.full((config.vocab_size,), -1)
        lookup[list(config.answers)] = torch.arange(len(config.answers))
        self.column_of: Tensor
        self.register_buffer("column_of", lookup, persistent=False)

    def forward(self, tokens: Tensor, last: Tensor) -> Tensor:
        """tokens: int64 [batch, pos], right-padded with any tokens; last: [batch], each row's last position."""
        ends, seen = tokens.gather(1, last[:, None]), last[:, None] + 1
        wide, here, count, shared = self.config.everywhere, ends, seen, None
        if wide:
            here = tokens
            if tokens.device.type == "cpu" and not torch.compiler.is_exporting():
                shared = Prefixes.of(tokens, last)
                here, tokens = shared.tokens[None], tokens[:, : shared.cells.shape[1]]
            count = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)[None]
        rows = torch.arange(tokens.shape[0], device=tokens.device)
        x: Tensor | None = None
        for layer in self.layers:
            if not isinstance(layer, Attention):
                x = layer(x, here)
                continue
            if layer.numbers["narrows"]:
                delta = layer(x, here if wide else tokens, seen, last, wide, shared)
                if wide and x is not None:
                    x = x[rows, last, None] if shared is None else x[0, shared.ends, None]
                wide, here, count, shared = False, ends, seen, None
            else:
                delta = layer(x, here, count, shared=shared)
            if x is None and self.start is not None:
                x = F.embedding(here, self.start)
            x = layer.write(x, delta)
        if x is None and self.start is not None:
            x = F.embedding(here, self.start)
        return cast(Tensor, self.readout(x, here))[:, 0]

    @torch.no_grad()
    def gap(self, batch: Encoded) -> Tensor:
        """Right minus wrong answer's logit per row, [rows]; calibrated if the circuit is.

        Errors: BadInput for answers that it has no logits of, or prompts longer than the model reads.
        """
        columns = self.column_of[torch.stack([batch.answer, batch.wrong], dim=1)]
        if bool((columns < 0).any()):
            asked = torch.cat([batch.answer, batch.wrong]).unique().tolist()
            raise BadInput(
                f"Expected answers among the tokens {list(self.config.answers[:8])} that it was exported with, got "
                f"{asked[:8]}; export it with those answers."
            )
        if batch.tokens.shape[1] > self.config.n_ctx:
            raise BadInput(f"Expected prompts of at most {self.config.n_ctx} tokens, got {batch.tokens.shape[1]}.")
        right, wrong = self(batch.tokens, batch.last).gather(1, columns).unbind(1)
        z = right - wrong
        return z if self.config.calibration is None else calibrate(z, *self.config.calibration)

    def n_numbers(self) -> int:
        """Numbers it stores, tables and indices included."""
        return sum(b.numel() for b in self.state_dict().values())

    def save(self, path: str | Path) -> Path:
        """One safetensors file, the configuration in its metadata; temporary name, then rename."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = {"format_version": FORMAT_VERSION, "kind": KIND, "config": self.config.model_dump_json()}
        write_safetensors(self.state_dict(), path, meta)
        return path


def load_standalone(path: str | Path) -> StandaloneCircuit:
    """The inverse of `StandaloneCircuit.save`: nothing is executed from the file. Errors: BadInput, CorruptFile."""
    path = Path(path)
    tensors, meta = read_safetensors(path)
    if meta.get("kind") != KIND or meta.get("format_version") != FORMAT_VERSION:
        raise CorruptFile(
            f"{path} is {meta.get('kind', 'of unknown kind')} version {meta.get('format_version')}, expected {KIND} "
            f"version {FORMAT_VERSION}; `gossamer export RUN --to torch` makes one."
        )
    try:
        config = StandaloneConfig.model_validate_json(meta["config"])
        layers = [_made(o, tensors, f"layers.{i}.") for i, o in enumerate(config.outline["layers"])]
        readout = cast(Readout, _made(config.outline["readout"], tensors, "readout."))
        made = StandaloneCircuit(config, tensors.get("start"), layers, readout)
    except (LookupError, TypeError, ValueError, ValidationError) as error:
        raise CorruptFile(f"{path} is not a whole standalone circuit ({one_line(error)}); export it again.") from error
    return made.eval()


def _made(outline: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str) -> Part:
    own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    parts = {name: _made(o, own, f"{name}.") for name, o in outline["parts"].items()}
    return KINDS[outline["kind"]](outline["numbers"], {k: t for k, t in own.items() if "." not in k}, parts)
