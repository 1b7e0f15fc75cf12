"""A small encoder-decoder transformer whose modules' outputs can be masked.

Pre-norm, gated feed-forward modules, no biases, learned absolute positions. Its nodes are what Mondorf et al. 2025
(arXiv 2410.01434) mask: every output channel of every attention and feed-forward module, before it is added to the
residual stream, `encoder.0.attn.resid_delta:5` and so on; 5 * d_model of them per pair of layers. A model folder holds
config.json, model.safetensors and record.json.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from gossamer.errors import BadInput, CorruptFile
from gossamer.graph import Graph, Layout
from gossamer.metric import jensen_shannon
from gossamer.models.files import CONFIG, WEIGHTS, read_parts, write_parts
from gossamer.record import Record
from gossamer.whole_file import whole_folder

PAD, BOS, EOS = 0, 1, 2  # the token numbers that the model itself knows
Edit = Callable[[str, Tensor], Tensor]


class EncoderDecoderConfig(BaseModel):
    """Sizes. Token 0 is padding, 1 starts an answer, 2 ends it; d_ff: width of the gated feed-forward modules."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["gossamer-encoder-decoder"] = "gossamer-encoder-decoder"
    vocabulary: int = Field(default=40, ge=4)
    n_layers: int = Field(default=2, ge=1, le=64)
    d_model: int = Field(default=64, ge=1)
    n_heads: int = Field(default=4, ge=1)
    d_ff: int = Field(default=128, ge=1)
    longest_source: int = Field(default=13, ge=1)
    longest_answer: int = Field(default=11, ge=1)

    @model_validator(mode="after")
    def _whole_heads(self) -> EncoderDecoderConfig:
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")
        return self

    def layout(self) -> Layout:
        """The nodes, in the order of the forward pass."""
        encoder = [f"encoder.{i}.{m}.resid_delta" for i in range(self.n_layers) for m in ("attn", "mlp")]
        decoder = [f"decoder.{i}.{m}.resid_delta" for i in range(self.n_layers) for m in ("attn", "cross", "mlp")]
        return Layout(grain="channel", locations=tuple((name, self.d_model) for name in (*encoder, *decoder)))


class _Attention(nn.Module):
    def __init__(self, d: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x: Tensor, read: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """x [n, pos, d] asks, read [n, keys, d] answers; mask [n, 1, 1, keys] True where a key may be seen."""
        q, k, v = (
            w(at).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for w, at in ((self.q, x), (self.k, read), (self.v, read))
        )
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        mixed: Tensor = self.out(z.transpose(1, 2).flatten(2))
        return mixed


class _FeedForward(nn.Module):
    def __init__(self, d: int, d_ff: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(d, d_ff, bias=False), nn.Linear(d, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class _Layer(nn.Module):
    """An encoder's layer, or with cross-attention a decoder's."""

    def __init__(self, c: EncoderDecoderConfig, cross: bool) -> None:
        super().__init__()
        self.attn, self.mlp = _Attention(c.d_model, c.n_heads), _FeedForward(c.d_model, c.d_ff)
        self.cross = _Attention(c.d_model, c.n_heads) if cross else None
        self.norms = nn.ModuleList(nn.LayerNorm(c.d_model, bias=False) for _ in range(3 if cross else 2))

    def forward(self, x: Tensor, read: Tensor | None, seen: Tensor, where: str, edit: Edit | None) -> Tensor:
        """x [n, pos, d]; read: the encoder's, for a decoder's layer; seen: which source tokens are no padding."""
        h = self.norms[0](x)
        own = self.attn(h, h, seen) if self.cross is None else self.attn(h, h, None, causal=True)
        x = x + _edited(edit, f"{where}.attn.resid_delta", own)
        if self.cross is not None:
            x = x + _edited(edit, f"{where}.cross.resid_delta", self.cross(self.norms[1](x), read, seen))
        return x + _edited(edit, f"{where}.mlp.resid_delta", self.mlp(self.norms[-1](x)))


class EncoderDecoder(nn.Module):
    """The model; normal weights drawn from the global generator, see `random_encoder_decoder`."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        c = self.config = config
        self.embed = nn.Embedding(c.vocabulary, c.d_model)
        self.source_positions = nn.Embedding(c.longest_source, c.d_model)
        self.answer_positions = nn.Embedding(c.longest_answer, c.d_model)
        self.encoder = nn.ModuleList(_Layer(c, cross=False) for _ in range(c.n_layers))
        self.decoder = nn.ModuleList(_Layer(c, cross=True) for _ in range(c.n_layers))
        self.encoder_norm = nn.LayerNorm(c.d_model, bias=False)
        self.decoder_norm = nn.LayerNorm(c.d_model, bias=False)
        self.unembed = nn.Linear(c.d_model, c.vocabulary, bias=False)

    def graph(self, grain: str = "channel") -> Graph:
        """The nodes, without edges: a circuit here is a set of nodes."""
        none = np.zeros(0, dtype=np.int64)
        return Graph(layout=self.config.layout(), src=none, dst=none, matrix=none, matrices=())

    def encode(self, source: Tensor, edit: Edit | None = None) -> Tensor:
        """What the decoder reads, [n, pos, d_model], of sources [n, pos] (int64)."""
        _require_at_most(self.config.longest_source, "sources", source)
        x = self.embed(source) + self.source_positions.weight[: source.shape[1]]
        seen = (source != PAD)[:, None, None]
        for i, layer in enumerate(self.encoder):
            x = layer(x, None, seen, f"encoder.{i}", edit)
        read: Tensor = self.encoder_norm(x)
        return read

    def decode(self, read: Tensor, source: Tensor, given: Tensor, edit: Edit | None = None) -> Tensor:
        """Logits [n, pos, vocabulary] of the token after each of the given ones [n, pos], which start with BOS."""
        _require_at_most(self.config.longest_answer, "answers", given)
        x = self.embed(given) + self.answer_positions.weight[: given.shape[1]]
        seen = (source != PAD)[:, None, None]
        for i, layer in enumerate(self.decoder):
            x = layer(x, read, seen, f"decoder.{i}", edit)
        logits: Tensor = self.unembed(self.decoder_norm(x))
        return logits

    def forward(self, source: Tensor, answer: Tensor, edit: Edit | None = None) -> Tensor:
        """Logits [n, pos, vocabulary] of every token of the answers [n, pos], each given those before it.

        edit(location, a module's output [n, pos, d_model]) -> what is added to the residual stream in its place.
        """
        given = torch.cat([torch.full_like(answer[:, :1], BOS), answer[:, :-1]], dim=1)
        return self.decode(self.encode(source, edit), source, given, edit)

    @torch.no_grad()
    def generate(self, source: Tensor, edit: Edit | None = None) -> Tensor:
        """Greedy answers [n, at most longest_answer], padded after EOS; one that does not end is cut there."""
        read = self.encode(source, edit)
        given = torch.full_like(source[:, :1], BOS)
        ended = torch.zeros_like(given[:, 0], dtype=torch.bool)
        while given.shape[1] <= self.config.longest_answer and not bool(ended.all()):
            token = self.decode(read, source, given, edit)[:, -1].argmax(-1).masked_fill(ended, PAD)
            given = torch.cat([given, token[:, None]], dim=1)
            ended = ended | (token == EOS)
        return given[:, 1:]

    def sha256(self) -> str:
        """A hash of the weights by name."""
        digest = hashlib.sha256()
        for name, w in sorted(self.state_dict().items()):
            digest.update(f"{name} {tuple(w.shape)} {w.dtype}".encode())
            digest.update(w.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _require_at_most(longest: int, what: str, tokens: Tensor) -> None:
    if tokens.shape[1] > longest:
        raise BadInput(
            f"Expected {what} of at most {longest} tokens, got {tokens.shape[1]}; train a model for longer ones."
        )


def _edited(edit: Edit | None, location: str, x: Tensor) -> Tensor:
    return x if edit is None else edit(location, x)


@torch.no_grad()
def random_encoder_decoder(config: EncoderDecoderConfig, seed: int) -> EncoderDecoder:
    """Normal weights: matrices with standard deviation 1 / sqrt(inputs), embeddings 0.3; norms at 1."""
    generator = torch.Generator().manual_seed(seed)
    model = EncoderDecoder(config)
    for name, w in model.named_parameters():
        if w.ndim == 2:
            std = 0.3 if name == "embed.weight" or "positions" in name else w.shape[1] ** -0.5
            w.normal_(std=std, generator=generator)
    return model


@torch.no_grad()
def exact_match(model: EncoderDecoder, source: Tensor, answer: Tensor, *, at_once: int = 1024) -> float:
    """Share of greedily decoded answers that are right to the last token, the end included."""
    right = 0
    for i in range(0, len(source), at_once):
        out, wanted = model.generate(source[i : i + at_once]), answer[i : i + at_once]
        width = max(out.shape[1], wanted.shape[1])
        a, b = (F.pad(t, (0, width - t.shape[1]), value=PAD) for t in (out, wanted))
        right += int((a == b).all(1).sum())
    return right / len(source)


def answer_faithfulness(whole: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
    """1 - JSD / ln 2 of the next-token distributions, the mean over an answer's tokens: [.., n] of logits [.., n, pos,
    vocabulary] and bool [.., n, pos]; nan for an answer without a token that is counted."""
    return ((1 - jensen_shannon(whole, logits)) * counted).sum(-1) / counted.sum(-1)


@torch.no_grad()
def module_means(model: EncoderDecoder, source: Tensor, answer: Tensor, *, at_once: int = 1024) -> dict[str, Tensor]:
    """Mean output of every module, [channels] per location, over the tokens of these prompts; padding is left out.

    (The authors' code averages over padding too.)
    """
    total: dict[str, Tensor] = {}
    count: dict[str, int] = {}
    for i in range(0, len(source), at_once):
        tokens = {"encoder": source[i : i + at_once], "decoder": answer[i : i + at_once]}

        def add(location: str, x: Tensor, tokens: dict[str, Tensor] = tokens) -> Tensor:
            here = tokens[location.split(".")[0]] != PAD
            total[location] = total.get(location, 0) + x[here].double().sum(0)
            count[location] = count.get(location, 0) + int(here.sum())
            return x

        model(tokens["encoder"], tokens["decoder"], add)
    return {name: (total[name] / count[name]).float() for name, _ in model.config.layout().locations}


def replacements(model: EncoderDecoder, source: Tensor, answer: Tensor, value: str) -> dict[str, Tensor]:
    """What a channel that is taken away becomes, [channels] per location: its mean over these prompts, or zero."""
    if value == "mean":
        return module_means(model, source, answer)
    if value != "zero":
        raise BadInput(f"Expected the value mean or zero, got {value!r}.")
    return {name: torch.zeros(width) for name, width in model.config.layout().locations}


@dataclass(frozen=True, kw_only=True)
class LoadedEncoderDecoder:
    """A model and the record of how it was made."""

    name: str
    model: EncoderDecoder
    record: Record


def save_encoder_decoder(model: EncoderDecoder, folder: Path, record: Record) -> Path:
    """Write a model folder under a temporary name and rename it; an existing model folder is replaced whole.

    Errors: BadInput for an existing `folder` that is not such a model's.
    """
    with whole_folder(folder, "model folder", holds=CONFIG) as work:
        weights = {name: w.detach() for name, w in model.state_dict().items()}
        write_parts(work, model.config, weights, record)
    return folder


def load_encoder_decoder(folder: str | Path) -> LoadedEncoderDecoder:
    """The inverse of save. Errors: BadInput for a folder without such a model, CorruptFile for a damaged one."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise BadInput(f"Expected an encoder-decoder model folder with {CONFIG} at {folder}, found none.")
    config, tensors, record = read_parts(folder, EncoderDecoderConfig, "encoder-decoder model")
    model = EncoderDecoder(config)
    if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in model.state_dict().items()}:
        raise CorruptFile(f"{folder / WEIGHTS}: the matrices' names and shapes are not those of {CONFIG}; restore it.")
    if any(t.dtype != torch.float32 or not bool(t.isfinite().all()) for t in tensors.values()):
        raise CorruptFile(f"{folder / WEIGHTS}: expected finite float32 weights; restore it or make it again.")
    model.load_state_dict(tensors)
    return LoadedEncoderDecoder(name=folder.resolve().name, model=model.eval().requires_grad_(False), record=record)
