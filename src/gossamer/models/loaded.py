"""A weight-sparse transformer with everything that belongs to it, answering the protocol of subject.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.func import functional_call

from gossamer.ablation import Ablation, MeansOf
from gossamer.corpora.tokenizer import END_OF_TEXT
from gossamer.errors import BadInput, Unsupported
from gossamer.graph import Graph, Layout
from gossamer.mask import apply_masks
from gossamer.models.norms import hooked, scales_of
from gossamer.models.prefixes import Prefixes
from gossamer.models.sparse import Edit, Norm, SparseTransformer, attention_pattern
from gossamer.subject import EdgeMasks, Outcome
from gossamer.task import Encoded, Example, Task, encode, fitting

PAIRS_AT_ONCE = 256  # a run without gradients needs memory for so many pairs


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What travels with a model so that its circuits' numbers do not change with the machine.

    means: mean activation per location ([channels], after AbsTopK) over `n_tokens` of pretraining text; excerpt: int64
    [n, pos] tokens of standard-library text, the only text pages show.
    """

    means: Mapping[str, Tensor]
    n_tokens: int
    excerpt: Tensor

    def sha256(self) -> str:
        return tensors_sha256(self.means)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """One hash over names, shapes, dtypes and bytes, in name order; -0.0 is 0.0: a sparse file keeps neither."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu()
        t = (t.float() if t.dtype in (torch.bfloat16, torch.float16) else t).contiguous() + 0  # numpy knows no bfloat16
        digest.update(f"{name} {tuple(t.shape)} {t.dtype}".encode())
        digest.update(t.numpy().tobytes())
    return digest.hexdigest()


def weights_of(model: SparseTransformer) -> dict[str, Tensor]:
    """The state dict, with the output bias that only the authors' released models have."""
    bias = model.final_logits_bias
    return dict(model.state_dict()) | ({"final_logits_bias": bias} if bool(bias.any()) else {})


def model_sha256(model: SparseTransformer) -> str:
    """Hash of configuration and weights: the identity a circuit refers to."""
    own = hashlib.sha256(model.config.model_dump_json().encode())
    own.update(tensors_sha256(weights_of(model)).encode())
    return own.hexdigest()


class _Method(nn.Module):
    """A method of a model as a module, which is what torch can call with other parameters."""

    def __init__(self, model: SparseTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, method: str, *args: Any) -> Tensor:
        return getattr(self.model, method)(*args)


def _call(model: SparseTransformer, changed: Mapping[str, Tensor], method: str, *args: Any) -> Tensor:
    """A method of the model with some of its parameters changed."""
    if not changed:
        return getattr(model, method)(*args)
    return functional_call(_Method(model), {f"model.{k}": v for k, v in changed.items()}, (method, *args))


@torch.no_grad()
def reference_over(model: SparseTransformer, batches: Iterable[Tensor], excerpt: Tensor) -> Reference:
    """Mean of every node over batches of tokens [rows, pos], taken after AbsTopK. The excerpt goes along as it is."""
    sums: dict[str, Tensor] = {}
    n_tokens = 0

    def add(location: str, x: Tensor) -> Tensor:
        sums[location] = sums.get(location, 0) + x.flatten(0, 1).cpu().double().sum(0)
        return x

    for tokens in batches:
        model.hidden(tokens.to(model.lm_head.weight.device), edit=add)
        n_tokens += tokens.numel()
    return Reference(
        means={k: (v / n_tokens).float() for k, v in sums.items()}, n_tokens=n_tokens, excerpt=excerpt
    )  # fmt: skip


Matrix = tuple[str, str, str, Tensor]
"""(name, source location, destination location, weight [destination, source])"""


def entries_of(graph: Graph, whole: Graph, matrices: Iterable[Matrix], name: str) -> np.ndarray:
    """The matrix entry of every edge of `graph`, which is `whole` or has some of its edges."""
    if graph.layout != whole.layout or graph.matrices != whole.matrices:
        raise BadInput(f"Expected the graph of {name} or a part of it; take it from model.graph('channel').")
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for number, (_, source, destination, weight) in enumerate(matrices):
        mine = np.flatnonzero(graph.matrix == number)
        ends = (graph.dst[mine] - graph.layout.starts[destination], graph.src[mine] - graph.layout.starts[source])
        rows, columns = (torch.from_numpy(e).to(weight.device) for e in ends)
        entries = weight.detach()[rows, columns]
        parts.append((mine, entries.to(torch.promote_types(entries.dtype, torch.float32)).cpu().numpy()))
    order = np.argsort(np.concatenate([mine for mine, _ in parts]), kind="stable")
    return np.concatenate([entries for _, entries in parts])[order]


def cut_edges_of(ablation: Ablation, graph: Graph, dtype: torch.dtype) -> EdgeMasks | None:
    """What an ablation of granularity edge cuts in a model with this graph; None at granularity node."""
    if ablation.edges is None:
        return None
    listed, layout = ablation.edges, graph.layout
    if ablation.methodology.set == "complement":
        inside = graph.within(np.flatnonzero(np.concatenate([ablation.keep[k] for k, _ in layout.locations])))
        between = np.stack([inside.src, inside.dst, inside.matrix])
        sizes = (layout.n_nodes, layout.n_nodes, len(graph.matrices))
        kept = np.isin(*(np.ravel_multi_index(tuple(e.astype(np.int64)), sizes) for e in (between, listed)))
        listed = between[:, ~kept]
    return EdgeMasks(listed, torch.zeros(listed.shape[1], dtype=dtype))


def check_run(
    name: str, layout: Layout, ablation: Ablation | None, masks: Mapping[str, Tensor] | None, edges: EdgeMasks | None,
    value: str, reads: Sequence[str], values: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """BadInput for what `run` of a model at channel grain cannot do as asked."""
    if values is not None and (edges is not None or any(k not in values for k in masks or {})):
        raise BadInput("Expected values for every masked location and no masks of edges beside them.")
    if ablation is not None and (masks or edges):
        raise BadInput("Expected an ablation or masks, got both.")
    if ablation is not None and ablation.methodology.component != "channel":
        raise Unsupported(
            f"an ablation of {ablation.methodology.component}s in {name} at channel grain",
            "its circuits are made of channels", "gao-mean or zero-complement",
        )  # fmt: skip
    if value not in ("mean", "zero"):
        raise BadInput(f"Expected value mean or zero, got {value!r}.")
    for location in reads:
        layout.width(location)
    shapes = {k: tuple(m.shape) for k, m in (masks or {}).items()}
    trials = {shape[0] for shape in shapes.values() if len(shape) == 2}
    for location, shape in shapes.items():
        width = layout.width(location)
        if shape[-1] != width or len(shape) > 2 or len(trials) > 1:
            raise BadInput(
                f"Expected masks of one number of trials, [{width}] or [trials, {width}] at {location}, got "
                f"{list(shape)} and trials {sorted(trials)}."
            )


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model, its tokenizer, its reference means and its Record.

    `folder` is where it was read from; `source` finds it again: a shipped name, a Hub name or an absolute folder.
    norms_held: see `frozen_norms`.
    """

    name: str
    model: SparseTransformer
    tokenizer: Tokenizer
    reference: Reference | None
    record: dict[str, Any]
    folder: str = ""
    source: str = ""
    norms_held: bool = False

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        return model_sha256(self.model), "" if self.reference is None else self.reference.sha256()

    def hashes(self) -> tuple[str, str]:
        """(hash of configuration and weights, hash of the reference means)."""
        return self._hashes

    @property
    def means_of(self) -> MeansOf:
        """What the reference means are over."""
        return "pretraining"

    @property
    def device(self) -> torch.device:
        return self.model.lm_head.weight.device

    @property
    def bos(self) -> int | None:
        """The token every training document starts with, put before each prompt."""
        found = self.tokenizer.token_to_id(END_OF_TEXT)
        return None if found is None else int(found)

    @property
    def limits(self) -> tuple[int, int | None]:
        """(longest prompt in tokens, the token put before every prompt, if there is one)."""
        return self.model.config.n_ctx, self.bos

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Pairs as tokens, each prompt after <|endoftext|>; BadInput lists every pair that does not fit."""
        return encode(examples, self.tokenizer, *self.limits)

    def fitting(self, task: Task) -> Task:
        """The task without the pairs this model cannot be asked, see gossamer.task.fitting."""
        return fitting(task, self.tokenizer, *self.limits)

    def means(self, value: str = "mean") -> Mapping[str, Tensor]:
        """What an ablated node becomes, per location: the reference mean, or zero."""
        if value == "zero":
            return {k: torch.zeros(width, device=self.device) for k, width in self.model.config.locations()}
        if self.reference is None:
            raise BadInput(
                f"Mean ablation needs the reference means of {self.name}, its folder has no reference.safetensors; "
                "compute the means of a text with `gossamer means MODEL --corpus FOLDER`."
            )
        return {k: v.to(self.device) for k, v in self.reference.means.items()}

    @cached_property
    def layout(self) -> Layout:
        return Layout(grain="channel", locations=self.model.config.locations())

    def _matrices(self) -> list[Matrix]:
        """(name, source location, destination location, weight [destination, source]) of every counted matrix."""
        weights: list[Tensor] = []
        for block in self.model.blocks:
            attn, mlp = block.attn, block.mlp
            weights += [*attn.c_attn.weight.detach().chunk(3), attn.c_proj.weight, mlp.c_fc.weight, mlp.c_proj.weight]
        return [(*names, w) for names, w in zip(self.model.config.matrices(), weights, strict=True)]

    def counted_weights(self) -> int:
        """Entries of all matrices whose non-zero entries are edges, zero or not."""
        return sum(w.numel() for *_, w in self._matrices())

    @cached_property
    def _channel_graph(self) -> Graph:
        src, dst, matrix = [], [], []
        matrices = self._matrices()
        for number, (_, source, destination, weight) in enumerate(matrices):
            w = weight.detach().cpu().numpy()
            rows, columns = np.nonzero(w)
            src.append(self.layout.starts[source] + columns)
            dst.append(self.layout.starts[destination] + rows)
            matrix.append(np.full(len(rows), number))
        return Graph(
            layout=self.layout, src=np.concatenate(src), dst=np.concatenate(dst), matrix=np.concatenate(matrix),
            matrices=tuple(name for name, *_ in matrices),
        )  # fmt: skip

    def graph(self, grain: str = "channel") -> Graph:
        """Every non-zero weight between two node locations is an edge (paper 0, section 3)."""
        if grain != "channel":
            raise Unsupported(f"grain {grain!r}", "a weight-sparse model's circuits are made of channels", "channel")
        return self._channel_graph

    def edge_weights(self, graph: Graph) -> np.ndarray:
        """The non-zero matrix entries, in the order of the edges of the graph or of a part of it."""
        return entries_of(graph, self.graph(), self._matrices(), self.name)

    def cut_edges(self, ablation: Ablation) -> EdgeMasks | None:
        """What an ablation of granularity edge cuts; None at granularity node."""
        return cut_edges_of(ablation, self.graph(), self.model.lm_head.weight.dtype)

    def _weights_under(self, edges: EdgeMasks, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of the matrices with masked edges: the masked share of a weight moves, times the source's
        replacement, into the bias of its destination."""
        if not self.model.config.bias:
            raise Unsupported(
                "ablated edges in a model without biases", "what a cut edge is replaced by goes into the bias", "nodes"
            )
        changed = dict[str, Tensor]()
        keep = edges.keep.to(self.model.lm_head.weight)
        for number in np.unique(edges.edges[2]).tolist():
            name, source, destination, _ = self._matrices()[number]
            mine = np.flatnonzero(edges.edges[2] == number)
            rows, columns = (
                torch.from_numpy(edges.edges[end, mine] - self.layout.starts[at]).to(self.device)
                for end, at in ((1, destination), (0, source))
            )
            module, _, part = f"h.{name}".partition(".c_attn.")
            if part:
                module, rows = f"{module}.c_attn", rows + "qkv".index(part) * self.model.config.d_attn
            weight, bias = (changed.get(f"{module}.{p}", self.model.get_parameter(f"{module}.{p}"))
                            for p in ("weight", "bias"))  # fmt: skip
            moved = (1 - keep[mine]) * weight.detach()[rows, columns]
            changed[f"{module}.weight"] = weight.index_put((rows, columns), -moved, accumulate=True)
            changed[f"{module}.bias"] = bias.index_add(0, rows, moved * means[source][columns])
        return changed

    def run(
        self, batch: Encoded, *, ablation: Ablation | None = None, masks: Mapping[str, Tensor] | None = None,
        edges: EdgeMasks | None = None, value: str = "mean", values: Mapping[str, Tensor] | None = None,
        reads: Sequence[str] = (), then: Edit | None = None,
    ) -> Outcome:  # fmt: skip
        """Logit gap of every row at its last token, and the activations asked for.

        then: a further edit (location, activation) -> activation after ablation or masks, before reads; it must treat
        every position alike, as prompts share the positions of their common beginning.

        masks with a trial axis [trials, channels] repeat the batch once per trial: gap is [trials * rows]. Reads keep
        all positions, which costs the final layer's full width; without them only the last position is computed.
        """
        check_run(self.name, self.layout, ablation, masks, edges, value, reads, values)
        by_row = values is not None and any(v.ndim > 1 for v in values.values())
        if not (reads or by_row) and not torch.is_grad_enabled() and batch.n_pairs > PAIRS_AT_ONCE:
            parts = [batch.pairs(i, i + PAIRS_AT_ONCE) for i in range(0, batch.n_pairs, PAIRS_AT_ONCE)]
            how: dict[str, Any] = {"masks": masks, "edges": edges, "value": value, "values": values, "then": then}
            gaps = [self.run(b, ablation=ablation, **how).gap for b in parts]
            gaps = [g.view(-1, len(b.last)) for g, b in zip(gaps, parts, strict=True)]
            return Outcome(torch.cat(gaps, dim=1).flatten(), {})
        tokens, last = batch.tokens.to(self.device), batch.last.to(self.device)
        weight = self.model.lm_head.weight
        direction = weight[batch.answer] - weight[batch.wrong]
        bias = self.model.final_logits_bias[batch.answer] - self.model.final_logits_bias[batch.wrong]
        if self.model.bigram_table is not None:
            seen = tokens.gather(1, last[:, None])[:, 0]
            bias = bias + self.model.bigram_table[seen, batch.answer] - self.model.bigram_table[seen, batch.wrong]
        if ablation is not None:
            value = ablation.methodology.value
            masks = {k: torch.from_numpy(v).to(weight) for k, v in ablation.keep.items()}
            edges = self.cut_edges(ablation)
        trials = 1
        if masks:
            masks = {k: m.to(self.device) for k, m in masks.items()}
            trials = max((m.shape[0] for m in masks.values() if m.ndim == 2), default=1)
        replaced = values or (self.means(value) if masks or edges is not None else {})
        change = apply_masks(masks, replaced) if masks else None
        found: dict[str, Tensor] = {}

        def edit(location: str, x: Tensor) -> Tensor:
            x = x if change is None else change(location, x)
            x = x if then is None else then(location, x)
            if location in reads:
                found[location] = x
            return x

        changed = self._weights_under(edges, replaced) if edges is not None else {}
        if reads or by_row:
            repeated, rows = tokens.repeat(trials, 1), torch.arange(trials * len(tokens), device=self.device)
            with self._norms(lambda: self.model.hidden(tokens)):
                hidden = _call(self.model, changed, "hidden", repeated, edit)[rows, last.repeat(trials)]
            hidden = hidden.unflatten(0, (trials, -1))
        else:
            prefixes = Prefixes.of(tokens, last)
            wanted = edit if change or then else None
            with self._norms(lambda: self.model.hidden_at_ends(prefixes)):
                hidden = _call(self.model, changed, "hidden_at_ends", prefixes, wanted, trials)
        gap = (hidden * direction).sum(-1) + bias
        return Outcome(gap.flatten(), found)

    @contextmanager
    def _norms(self, whole: Callable[[], Tensor]) -> Iterator[None]:
        """Norms as this model has them: their own, or held at the scales of a run with nothing ablated."""
        if not self.norms_held:
            yield
            return
        norms = [m for m in self.model.modules() if isinstance(m, Norm)]
        with torch.no_grad():
            scales = scales_of(norms, whole, Norm.scale)

        def hold(norm: Norm, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
            return norm.at(args[0], scales.of(norm, args[0]), *args[1:])

        with hooked(norms, hold):
            yield

    def frozen_norms(self) -> LoadedModel:
        """The same model, the norms of whose runs keep the scales that they have with nothing ablated on the same
        prompts. A run costs one more without trials."""
        return replace(self, norms_held=True)

    def attention(
        self, batch: Encoded, *, masks: Mapping[str, Tensor] | None = None, value: str = "mean",
        values: Mapping[str, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Where every head looks, [layers, rows, heads, pos, keys], in the run with these arguments (see `run`); in a
        model with a sink the sink is the last key."""
        names = [f"{i}.attn.{part}" for i in range(self.model.config.n_layer) for part in "qk"]
        seen = self.run(batch, masks=masks, value=value, values=values, reads=names).reads
        n_head = self.model.config.n_head
        return torch.stack([
            attention_pattern(seen[f"{i}.attn.q"], seen[f"{i}.attn.k"], n_head, block.attn.sink_logit)
            for i, block in enumerate(self.model.blocks)
        ])  # fmt: skip
