"""The weight-sparse transformer of Gao et al. 2025 (arXiv 2511.13653), section 2.1 and appendix A.

A GPT-2 shaped decoder with untied embeddings, RMSNorm, and AbsTopK at eight places per layer. Sparsity of the weights
is not the model's business: the training loop projects them (train/projection.py), the model only holds zeros.
Every node location can be read and replaced: `forward(tokens, edit=...)` calls `edit(location, activation)` at each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from gossamer.errors import Unsupported
from gossamer.models.kernels import (
    abs_topk,
    attention,
    gelu_topk,
    linear_cross_entropy,
    linear_topk,
    rms_scale,
    rms_topk,
)
from gossamer.models.prefixes import Prefixes

Edit = Callable[[str, Tensor], Tensor]
Place = Literal["attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out"]
ALL_PLACES: tuple[Place, ...] = (
    "attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out",
)  # fmt: skip


class SparseConfig(BaseModel):
    """Shape of a weight-sparse transformer. `activation_fraction` of each place's channels survive AbsTopK."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["gossamer-sparse"] = "gossamer-sparse"
    vocab_size: int = Field(gt=1)
    n_ctx: int = Field(gt=0)
    n_layer: int = Field(gt=0)
    d_model: int = Field(gt=0)
    n_head: int = Field(gt=0)
    d_head: int = Field(gt=0)
    d_mlp: int = Field(gt=0)
    activation_fraction: float = Field(default=0.25, gt=0, le=1)
    topk_places: tuple[Place, ...] = ALL_PLACES
    activation: Literal["gelu", "relu"] = "gelu"
    sink: bool = False
    bigram: bool = False
    bias: bool = True
    position: Literal["none", "additive", "channels"] = "none"
    d_pos: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _positions_agree(self) -> SparseConfig:
        if (self.position == "channels") != (self.d_pos > 0):
            raise ValueError('position "channels" needs d_pos > 0, and only it')
        return self

    @property
    def d_in(self) -> int:
        """Width that attention and MLP read: the residual channels and the read-only positional ones."""
        return self.d_model + self.d_pos

    @property
    def d_attn(self) -> int:
        return self.n_head * self.d_head

    def kept(self, place: Place) -> int:
        """How many channels AbsTopK keeps at a place: int(fraction * width), all of them where it is off."""
        width = {"attn_in": self.d_in, "mlp_in": self.d_in, "mlp_neuron": self.d_mlp}.get(
            place, self.d_model if place in ("attn_out", "mlp_out") else self.d_attn
        )
        return max(1, int(self.activation_fraction * width)) if place in self.topk_places else width

    def locations(self) -> tuple[tuple[str, int], ...]:
        """Every node location and its number of channels, in the order of the forward pass (names of the authors)."""
        found: list[tuple[str, int]] = []
        for i in range(self.n_layer):
            found += [(f"{i}.attn.act_in", self.d_in)]
            found += [(f"{i}.attn.{name}", self.d_attn) for name in ("q", "k", "v")]
            found += [(f"{i}.attn.resid_delta", self.d_model), (f"{i}.mlp.act_in", self.d_in)]
            found += [(f"{i}.mlp.post_act", self.d_mlp), (f"{i}.mlp.resid_delta", self.d_model)]
        return (*found, ("final_resid", self.d_model))

    def matrices(self) -> tuple[tuple[str, str, str], ...]:
        """(name, source location, destination location) of every weight matrix whose entries count as edges."""
        found: list[tuple[str, str, str]] = []
        for i in range(self.n_layer):
            found += [(f"{i}.attn.c_attn.{part}", f"{i}.attn.act_in", f"{i}.attn.{part}") for part in "qkv"]
            found += [(f"{i}.attn.c_proj", f"{i}.attn.v", f"{i}.attn.resid_delta")]
            found += [(f"{i}.mlp.c_fc", f"{i}.mlp.act_in", f"{i}.mlp.post_act")]
            found += [(f"{i}.mlp.c_proj", f"{i}.mlp.post_act", f"{i}.mlp.resid_delta")]
        return tuple(found)


class Norm(nn.Module):
    """RMSNorm with a learnable gain; eps is the dtype's machine epsilon, as in the authors' code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, k: int | None = None) -> Tensor:
        return rms_topk(x, self.weight, torch.finfo(x.dtype).eps, x.shape[-1] if k is None else k)

    def scale(self, x: Tensor) -> Tensor:
        """What x is multiplied by before the gain, [..., 1]."""
        return rms_scale(x, torch.finfo(x.dtype).eps)

    def at(self, x: Tensor, scale: Tensor, k: int | None = None) -> Tensor:
        """`forward` with another scale [..., 1] in place of the input's own."""
        return abs_topk(x * scale * self.weight, x.shape[-1] if k is None else k)


def _unedited(location: str, x: Tensor) -> Tensor:
    return x


class AttentionWeights(nn.Module):
    """c_attn ([3 heads d_head, d_in]: q, k, v in turn), c_proj, and the sink's logit per head."""

    def __init__(self, config: SparseConfig) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.d_in, 3 * config.d_attn, bias=config.bias)
        self.c_proj = nn.Linear(config.d_attn, config.d_model, bias=config.bias)
        self.sink_logit = nn.Parameter(torch.zeros(config.n_head)) if config.sink else None


class MLPWeights(nn.Module):
    """c_fc ([d_mlp, d_in]) and c_proj ([d_model, d_mlp])."""

    def __init__(self, config: SparseConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.d_in, config.d_mlp, bias=config.bias)
        self.c_proj = nn.Linear(config.d_mlp, config.d_model, bias=config.bias)


class Block(nn.Module):
    """One layer: attention, then MLP, each reading the normalised residual stream and adding a sparse write to it."""

    def __init__(self, config: SparseConfig, index: int) -> None:
        super().__init__()
        self.config, self.index = config, index
        self.ln_1, self.ln_2 = Norm(config.d_model), Norm(config.d_model)
        if config.d_pos:
            self.ln_p1, self.ln_p2 = Norm(config.d_pos), Norm(config.d_pos)
        self.attn, self.mlp = AttentionWeights(config), MLPWeights(config)

    def _read(self, sub: str, x: Tensor, pos: Tensor | None, edit: Edit) -> Tensor:
        k = self.config.kept("attn_in" if sub == "attn" else "mlp_in")
        norm = self.ln_1 if sub == "attn" else self.ln_2
        if pos is None:
            a = norm(x, k)
        else:
            pos_norm = self.ln_p1 if sub == "attn" else self.ln_p2
            a = abs_topk(torch.cat([norm(x), pos_norm(pos).expand(*x.shape[:-1], -1)], dim=-1), k)
        return edit(f"{self.index}.{sub}.act_in", a)

    def forward(
        self, x: Tensor, pos: Tensor | None, edit: Edit | None, last: Tensor | None, prefixes: Prefixes | None
    ) -> Tensor:
        """x: [batch, pos, d_model]; with `prefixes`, [trials, prefixes, d_model].

        With `last` ([rows] positions, or prefixes) only those rows are carried on: [batch, 1, d] or [trials, rows, d].
        """
        change = edit or _unedited
        x, pos = self.attention(x, pos, change, edit is None, last, prefixes)
        return self.feed_forward(x, pos, change)

    def feed_forward(self, x: Tensor, pos: Tensor | None, change: Edit = _unedited) -> Tensor:
        """The MLP's half of `forward`: the residual before it to the residual after it."""
        c = self.config
        a = self._read("mlp", x, pos, change)
        h = F.linear(a, self.mlp.c_fc.weight, self.mlp.c_fc.bias)
        kept = c.kept("mlp_neuron")
        h = gelu_topk(h, kept) if c.activation == "gelu" else abs_topk(F.relu(h), kept)
        h = change(f"{self.index}.mlp.post_act", h)
        d = linear_topk(h, self.mlp.c_proj.weight, self.mlp.c_proj.bias, c.kept("mlp_out"))
        return x + change(f"{self.index}.mlp.resid_delta", d)

    def attention(
        self,
        x: Tensor,
        pos: Tensor | None,
        change: Edit = _unedited,
        plain: bool = True,
        last: Tensor | None = None,
        prefixes: Prefixes | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The attention's half of `forward`: (residual after it, positional channels), at `last` only if given."""
        c, i, attn = self.config, self.index, self.attn
        a = self._read("attn", x, pos, change)
        together = len({c.kept("attn_q"), c.kept("attn_k"), c.kept("attn_v")}) == 1

        def at_last(t: Tensor) -> Tensor:
            if prefixes is not None:
                return t[:, last]
            return t[torch.arange(t.shape[0], device=t.device), last, None]

        if together and last is None:
            joint = linear_topk(a, attn.c_attn.weight, attn.c_attn.bias, c.kept("attn_q"), groups=3)
            q, k, v = joint.chunk(3, dim=-1)
        else:
            weights = attn.c_attn.weight.chunk(3)
            biases = attn.c_attn.bias.chunk(3) if c.bias else (None, None, None)
            q = linear_topk(a if last is None else at_last(a), weights[0], biases[0], c.kept("attn_q"))
            k = linear_topk(a, weights[1], biases[1], c.kept("attn_k"))
            v = linear_topk(a, weights[2], biases[2], c.kept("attn_v"))
        if not plain:
            q, k, v = (change(f"{i}.attn.{name}", t) for name, t in (("q", q), ("k", k), ("v", v)))
        end, trials = last, len(x)
        if prefixes is not None:
            if last is None:
                q = prefixes.spread(q)
            else:
                q, end = q.flatten(0, 1)[:, None], prefixes.depth[last].repeat(trials)
            k, v = prefixes.spread(k), prefixes.spread(v)
        q, k, v = (t.unflatten(-1, (c.n_head, c.d_head)).transpose(1, 2) for t in (q, k, v))
        sink = attn.sink_logit
        y = attention(q, k, v, sink) if end is None else _attention_at(q, k, v, sink, end)
        y = y.transpose(1, 2).flatten(2)
        if prefixes is not None:
            y = prefixes.gather(y, trials) if last is None else y.unflatten(0, (trials, -1))[:, :, 0]
        d = linear_topk(y, attn.c_proj.weight, attn.c_proj.bias, c.kept("attn_out"))
        d = change(f"{i}.attn.resid_delta", d)
        if last is not None:
            x = at_last(x)
            pos = None if pos is None else pos[:, last] if prefixes is not None else pos[0, last, None]
        return x + d, pos


def _attention_at(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, last: Tensor) -> Tensor:
    """Attention of one query per sequence (at position `last`) over the keys up to it; q: [batch, head, 1, d_head]."""
    score = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    hidden = torch.arange(k.shape[2], device=q.device) > last[:, None, None, None]
    score = score.masked_fill(hidden, -torch.inf)
    if sink is not None:
        score = torch.cat([score, sink[None, :, None, None].expand(score.shape[0], -1, 1, 1)], dim=-1)
    return score.softmax(-1)[..., : k.shape[2]] @ v


def attention_pattern(q: Tensor, k: Tensor, n_head: int, sink: Tensor | None) -> Tensor:
    """Where every head looks, [rows, head, pos, keys], of queries and keys [rows, pos, heads * d_head].

    The sink is one key more, the last; its value is 0.
    """
    q, k = (t.unflatten(-1, (n_head, -1)).transpose(1, 2) for t in (q, k))
    score = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    ahead = torch.ones(score.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    score = score.masked_fill(ahead, -torch.inf)
    if sink is not None:
        score = torch.cat([score, sink[None, :, None, None].expand(*score.shape[:-1], 1)], dim=-1)
    return score.softmax(-1)


class SparseTransformer(nn.Module):
    """A weight-sparse (or, at density 1, dense) decoder. Parameters have the authors' names without `transformer.`."""

    def __init__(self, config: SparseConfig, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        if config.position != "none":
            self.wpe = nn.Embedding(config.n_ctx, config.d_pos or config.d_model)
        self.h = nn.ModuleList(Block(config, i) for i in range(config.n_layer))
        self.final_logits_bias: Tensor
        self.ln_f = Norm(config.d_model)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.register_buffer("final_logits_bias", torch.zeros(config.vocab_size), persistent=False)
        self.bigram_table: nn.Parameter | None = None
        if config.bigram:
            self.bigram_table = nn.Parameter(torch.empty(config.vocab_size, config.vocab_size))
        if seed is not None:
            self._initialise(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """N(0, 0.02); output projections divided by sqrt(2 n_layer); biases 0; bigram table U[0, 0.02]."""
        for name, p in self.named_parameters():
            if name == "bigram_table":
                p.uniform_(0, 0.02, generator=generator)
            elif p.ndim == 2:
                scale = math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else 1
                p.normal_(0, 0.02 / scale, generator=generator)
            elif name.endswith("bias"):
                p.zero_()

    def weight_counts(self) -> tuple[int, int]:
        """(weights that are not zero, all weights), without the bigram table: it is looked up, no circuit runs through
        it."""
        own = [p for name, p in self.named_parameters() if name != "bigram_table"]
        return sum(int(p.count_nonzero()) for p in own), sum(p.numel() for p in own)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The layers in order."""
        return tuple(cast(Block, b) for b in self.h)

    def hidden(self, tokens: Tensor, edit: Edit | None = None, last: Tensor | None = None) -> Tensor:
        """Normalised final residual: [batch, pos, d_model], or [batch, 1, d_model] at positions `last` only.

        With `last`, the final layer's queries and MLP are computed at those positions alone: same numbers, less work.
        """
        where = torch.arange(tokens.shape[1], device=tokens.device)[None]
        return self._through(tokens, where, edit, last)

    def hidden_at_ends(self, prefixes: Prefixes, edit: Edit | None = None, trials: int = 1) -> Tensor:
        """Normalised final residual at each row's last token: [trials, rows, d_model].

        Every prefix that rows share is computed once; `edit` sees [trials, prefixes, channels], and in the last layer,
        from the queries on, [trials, rows, channels].
        """
        tokens = prefixes.tokens.expand(trials, -1)
        return self._through(tokens, prefixes.depth[None], edit, prefixes.ends, prefixes)

    def _through(
        self, tokens: Tensor, where: Tensor, edit: Edit | None, last: Tensor | None, prefixes: Prefixes | None = None
    ) -> Tensor:
        x, pos = self.embed(tokens, where), self._read_only(where)
        for block in self.blocks:
            x = block(x, pos, edit, last if block.index == self.config.n_layer - 1 else None, prefixes)
        return self.ln_f(edit("final_resid", x) if edit else x)

    def embed(self, tokens: Tensor, where: Tensor | None = None) -> Tensor:
        """The residual at site 0, [batch, pos, d_model]: embeddings, plus additive positions if it has them.

        where: position of each token, [1, pos]; default: in order.
        """
        x: Tensor = self.wte(tokens)
        if self.config.position != "additive":
            return x
        return x + (self.wpe.weight[None, : tokens.shape[1]] if where is None else self.wpe(where))

    def _read_only(self, where: Tensor) -> Tensor | None:
        """The read-only positional channels at positions `where` [1, pos], in a model that has them."""
        return self.wpe(where) if self.config.position == "channels" else None

    @property
    def n_sites(self) -> int:
        """Sublayer inputs: site 2i is the residual before layer i's attention, 2i + 1 the one before its MLP."""
        return 2 * self.config.n_layer

    def sublayer(self, x: Tensor, site: int) -> Tensor:
        """From the residual before sublayer `site` to the one after it, both [batch, pos, d_model]."""
        block, pos = self.blocks[site // 2], self._read_only(torch.arange(x.shape[1], device=x.device)[None])
        return block.feed_forward(x, pos) if site % 2 else block.attention(x, pos)[0]

    def residuals(self, tokens: Tensor) -> list[Tensor]:
        """The residual before every sublayer and, last, after all of them: n_sites + 1 of [batch, pos, d_model]."""
        found = [self.embed(tokens)]
        for site in range(self.n_sites):
            found.append(self.sublayer(found[-1], site))
        return found

    def tail(self, x: Tensor, site: int) -> Tensor:
        """Normalised final residual of a run that starts with x as the residual at `site`; see `unembed`."""
        for later in range(site, self.n_sites):
            x = self.sublayer(x, later)
        return cast(Tensor, self.ln_f(x))

    def unembed(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the normalised final residual; tokens [batch, pos] of the same positions, for the bigram table."""
        logits: Tensor = self.lm_head(hidden) + self.final_logits_bias
        return logits if self.bigram_table is None else logits + self.bigram_table[tokens]

    def forward(self, tokens: Tensor, edit: Edit | None = None, last: Tensor | None = None) -> Tensor:
        """Logits [batch, pos, vocab] of tokens [batch, pos]; [batch, 1, vocab] with `last`. See `hidden`."""
        seen = tokens if last is None else tokens.gather(1, last[:, None])
        return self.unembed(self.hidden(tokens, edit, last), seen)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean next-token cross-entropy in nats; tokens, targets: [batch, pos]. Never holds all logits.

        Errors: Unsupported for a model with an output bias (some of the authors' have one; training never makes one).
        """
        if not torch.is_grad_enabled() and self.final_logits_bias.any():
            raise Unsupported("the chunked loss of a model with an output bias", "none is trained here", "the logits")
        h = self.hidden(tokens).flatten(0, 1)
        return linear_cross_entropy(h, self.lm_head.weight, tokens.flatten(), targets.flatten(), self.bigram_table)
