"""The doctor's view of a Hugging Face decoder: its writes, heads and edges."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.errors import Unsupported
from gossamer.evidence import Evidence, Null
from gossamer.metric import logit_difference
from gossamer.models.huggingface.anatomy import Layer, post_scale, prove_rows, recording
from gossamer.models.huggingface.decoder import Decoder
from gossamer.statistics import quantile_interval
from gossamer.task import Encoded, sides
from gossamer.verify.doctor import (
    OF_LARGEST,
    ROUNDING_WHY,
    ROUNDINGS,
    SWAPPED,
    Part,
    Patient,
    Slopes,
    judged,
    relative,
    rounding_noise,
)

SHUFFLES = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Heads(Patient):
    """A decoder whose edges run between heads and MLPs."""

    model: Decoder

    @property
    def dtypes_do_not_apply(self) -> str:
        return ""

    @torch.no_grad()
    def observe(self, batch: Encoded) -> dict[str, Tensor]:
        clean, other = sides(batch)
        reference, _ = self.model.writes(other)
        scores, _ = self.model.edge_gradient(clean, reference, partial(_total, clean))
        found = {
            "logits": self.model.writes(clean)[1],
            "patched logits": self.model.patched(clean, self._half.to(reference), reference),
            "EAP scores": scores,
        }  # fmt: skip
        return {k: v.cpu().double() for k, v in found.items()}

    @cached_property
    def _half(self) -> Tensor:
        """Half of the edges ablated."""
        generator = torch.Generator().manual_seed(self.seed)
        return (torch.rand(self.model.graph().n_edges, generator=generator) < 0.5).float()

    @contextmanager
    def moved(self, size: float, seed: int) -> Iterator[None]:
        def move(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            normal = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
            x = x * (1 + size * normal)
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

        handle = self.model.parts.layers[0].block.register_forward_pre_hook(move, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def copied(self, dtype: torch.dtype, device: torch.device) -> Heads:
        """Parameters are cast, buffers keep their dtype, as in a model that is loaded in `dtype`."""
        module, parts = copy.deepcopy((self.model.model, self.model.parts))
        for p in module.parameters():
            p.data = p.data.to(dtype)
        module.to(device)  # type: ignore[arg-type]  # the wrapper hides what it wraps
        module.config.dtype = dtype
        return replace(self, model=replace(self.model, model=module, parts=parts), _kept={})

    def own_checks(self) -> Mapping[str, Callable[[], Evidence]]:
        return {
            "reconstruction": self.reconstruction, "hooks": self.hooks, "heads": self.heads, "ends": self.ends,
            "exact patching": self.exact_patching, "EAP against exact patching": self.eap_against_exact,
        }  # fmt: skip

    # what is written and who reads it

    @torch.no_grad()
    def reconstruction(self) -> Evidence:
        """What embedding, heads, MLPs and biases write adds up to what the final norm reads, in a run without hooks."""
        clean, _ = sides(self.batch)
        parts = self.model.parts
        outs = [layer.out for layer in parts.layers]
        with recording([parts.final_norm, *outs], {}) as seen:
            self.model.model(clean.tokens.to(self.device), use_cache=False)
        writes = self.model.writes(clean)[0].flatten(1, 2).cpu().double()
        biases = [_bias(layer, seen[layer.out][1]).cpu().double() for layer in parts.layers]
        total = writes.sum(0) + sum(biases, torch.zeros_like(writes[0]))
        read = seen[parts.final_norm][0].cpu().double()
        sizes = float((writes.abs().sum(0) + sum(b.abs() for b in biases)).max())
        head = int(np.random.default_rng(self.seed).integers(parts.n_heads)) + 1
        part = Part(
            "the sum of the writes", float((total - read).abs().max()) / sizes,
            ROUNDINGS * torch.finfo(self.dtype).eps, float((total - writes[head] - read).abs().max()) / sizes,
        )  # fmt: skip
        return judged(
            "reconstruction: what is written adds up to what the final norm reads", [part],
            unit="of the largest sum of the sizes of the writes", null="without one head", n=read.numel(),
            seed=self.seed, why=f"{ROUNDINGS} roundings of such a sum at the model's dtype",
        )  # fmt: skip

    @torch.no_grad()
    def hooks(self) -> Evidence:
        """The model's own logits are those with the hooks in place."""
        clean, other = sides(self.batch)

        def plain(side: Encoded) -> Tensor:
            logits = self.model.model(side.tokens.to(self.device), use_cache=False).logits
            return logits[torch.arange(len(side.last)), side.last].cpu().double()

        own = plain(clean)
        part = Part("logits", relative(self.seen["logits"], own), self.tolerance("logits"), relative(plain(other), own))
        return judged(
            "hooks: reading the model's parts leaves its logits alone", [part], unit=OF_LARGEST, why=ROUNDING_WHY,
            null=SWAPPED, n=len(own), seed=self.seed,
        )  # fmt: skip

    @torch.no_grad()
    def heads(self) -> Evidence:
        """A head is one and the same to those who read its rows, its values and its write.

        The first layer's queries, keys and values as at load (`prove_rows`); then, in the first, middle and last layer,
        moving the values of a head before the output map changes the write of that head and of no other, but for a
        common factor where the layer has a norm after it.
        """
        clean, _ = sides(self.batch)
        layers, rng = self.model.parts.layers, np.random.default_rng(self.seed)
        wrong: list[str] = []
        try:
            prove_rows(self.model.model, self.model.parts)
        except Unsupported as error:
            wrong.append(error.why)
        plain, _ = self.model.writes(clean)
        n, tried = self.model.parts.n_heads, 0
        limit = self.tolerance("logits") + 1e-6
        for number in sorted({0, len(layers) // 2, len(layers) - 1}):
            first = self.model.shape.written_before(number)
            before = _directions(plain[first : first + n])
            for head in rng.permutation(n)[:8].tolist():
                with _other_values(layers[number], head, self.model.parts.d_head):
                    after = _directions(self.model.writes(clean)[0][first : first + n])
                changed = ((after - before).abs().amax((1, 2, 3)) > limit).nonzero().flatten().tolist()
                tried += 1
                if changed != [head]:
                    wrong.append(f"other values of head {head} of layer {number} move the writes of heads {changed}")
        return judged(
            "heads: the rows, values and write of a head are of the same head",
            [Part("heads", float(len(wrong)), 0.0, float(tried))], unit="heads that are another's", n=tried,
            null="every head another's", seed=self.seed, why="a head is its own or it is not", note="; ".join(wrong),
        )  # fmt: skip

    @torch.no_grad()
    def ends(self) -> Evidence:
        """Every edge ablated is the counterfactual run, none the clean run; and so are the edges out of the input.

        With every edge ablated the logits are read off the reference, whatever the readers before them do. With those
        out of the input alone, every reader must hear its own, or the rest of the run is not the counterfactual one.
        """
        clean, other = sides(self.batch)
        reference, there = self.model.writes(other)
        here, graph = self.seen["logits"], self.model.graph()
        there = there.cpu().double()
        every = torch.ones(graph.n_edges)
        from_input = torch.from_numpy(graph.src == graph.layout.starts["input"]).float()
        parts = []
        for what, alpha, wanted in (
            ("every edge ablated", every, there), ("those out of the input", from_input, there),
            ("none", 0 * every, here),
        ):  # fmt: skip
            logits = self.model.patched(clean, alpha.to(reference), reference).cpu().double()
            parts.append(Part(what, relative(logits, wanted), self.tolerance("logits"), relative(here, there)))
        return judged(
            "ends: all edges ablated, or all out of the input, is the counterfactual run, none the clean run", parts,
            unit=OF_LARGEST, why=ROUNDING_WHY, null="the clean run for the counterfactual one", n=len(here),
            seed=self.seed,
        )  # fmt: skip

    # single edges

    @cached_property
    def _edges(self) -> np.ndarray:
        """Random edges, as many of each kind as there are."""
        graph, rng = self.model.graph(), np.random.default_rng(self.seed)
        kinds = [np.flatnonzero(graph.matrix == k) for k in np.unique(graph.matrix)]
        each = max(1, self.draws // len(kinds))
        return np.concatenate([rng.choice(k, min(each, len(k)), replace=False) for k in kinds])

    @cached_property
    @torch.no_grad()
    def _exact(self) -> Tensor:
        """Logits with each of the edges ablated alone, a whole run each, [edges, rows, vocab]."""
        clean, other = sides(self.batch)
        reference, _ = self.model.writes(other)
        found = []
        for edge in self._edges.tolist():
            alpha = torch.zeros(self.model.graph().n_edges).to(reference)
            alpha[edge] = 1
            found.append(self.model.patched(clean, alpha, reference).cpu().double())
        return torch.stack(found)

    @torch.no_grad()
    def exact_patching(self) -> Evidence:
        """Ablations several in a pass, from the layer and the token at which they begin, are those of whole runs."""
        clean, other = sides(self.batch)
        reference, _ = self.model.writes(other)
        engine = self.model.ablations(clean, reference)
        writer, reader, layer = engine.places(self._edges)
        found = torch.empty_like(self._exact)
        order = np.argsort(layer, kind="stable")
        for start in range(0, len(order), engine.at_once):
            some = order[start : start + engine.at_once]
            alpha = reference.new_zeros(len(some), *engine.table_shape)
            alpha[np.arange(len(some)), writer[some], reader[some]] = 1
            found[some] = engine.logits(alpha, int(layer[some].min())).cpu().double()
        part = Part(
            "logits", relative(found, self._exact), self.tolerance("logits"), relative(found.roll(1, 0), self._exact)
        )
        return judged(
            "exact patching: cached and batched ablations are whole runs", [part], unit=OF_LARGEST, why=ROUNDING_WHY,
            null="ablations of other edges", n=len(order), seed=self.seed,
        )  # fmt: skip

    def eap_against_exact(self) -> Evidence:
        """Rank correlation of EAP's scores with what ablating each edge does; information, not a law."""
        clean, _ = sides(self.batch)
        whole = logit_difference(self.seen["logits"], clean).sum()
        exact = (logit_difference(self._exact, clean).sum(-1) - whole).numpy()
        scores = self.seen["EAP scores"].numpy()[self._edges]
        rng = np.random.default_rng(self.seed)
        chance = [spearman(rng.permutation(scores), exact) for _ in range(SHUFFLES)]
        interval, value = quantile_interval(chance), spearman(scores, exact)
        product = float(np.corrcoef(scores, exact)[0, 1])
        return Evidence(
            claim="EAP against exact patching: its scores rank edges as ablating them does", value=value,
            unit="rank correlation", n=len(exact), seed=self.seed, methodology=None,
            nulls=(Null(name="shuffled edges", value=float(np.mean(chance)), interval=interval, n=SHUFFLES),),
            verdict="pass" if value > interval[1] else "not reached",
            threshold="never fails: a first-order guess need not agree; not reached if shuffled edges do as well",
            note=f"product-moment correlation {product:.3f}, on {self.prompts}",
        )  # fmt: skip

    def slopes(self) -> Slopes:
        clean, other = sides(self.batch)
        graph = self.model.graph()
        reference, _ = self.model.writes(other)
        gradient, _ = self.model.edge_gradient(clean, reference, partial(_total, clean))

        @torch.no_grad()
        def metric(alpha: np.ndarray) -> float:
            shares = torch.from_numpy(alpha).to(reference)
            return float(_total(clean, self.model.patched(clean, shares, reference).cpu().double()))

        def at_none() -> dict[str, Tensor]:
            return {"metric": torch.tensor(metric(np.zeros(graph.n_edges)), dtype=torch.float64)}

        reader = graph.dst * len(graph.matrices) + graph.matrix

        def place(group: int) -> str:
            node, what = divmod(group, len(graph.matrices))
            return f"{graph.layout.site(node)}<{graph.matrices[what]}>"

        return Slopes(
            kinds={graph.matrices[k]: np.flatnonzero(graph.matrix == k) for k in np.unique(graph.matrix)},
            gradient=gradient.cpu().double().numpy(), metric=metric, group=reader, group_name=place,
            noise=rounding_noise(self, at_none, at_none(), draws=4)["metric"],
            rounding=f"in {str(self.dtype).removeprefix('torch.')}",
        )  # fmt: skip


def _total(clean: Encoded, logits: Tensor) -> Tensor:
    return logit_difference(logits, clean).sum()


def _bias(layer: Layer, out: Tensor) -> Tensor:
    """What the bias of a layer's output map adds to the residual, [positions, d]. out: what the map gave."""
    bias = layer.out.bias
    if not isinstance(bias, Tensor):
        return torch.zeros_like(out)
    return bias.expand_as(out) if layer.attn_post is None else bias * post_scale(layer.attn_post, out)


def _directions(writes: Tensor) -> Tensor:
    return writes.cpu().double() / writes.cpu().double().norm(dim=-1, keepdim=True).clamp_min(1e-30)


@contextmanager
def _other_values(layer: Layer, head: int, d_head: int) -> Iterator[None]:
    """The values of a head, before the output map, at another place."""

    def move(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        z = args[0].clone()
        own = z[..., head * d_head : (head + 1) * d_head]
        own += torch.linspace(1, 2, d_head).to(z) * own.abs().max()
        return (z, *args[1:])

    handle = layer.out.register_forward_pre_hook(move)
    try:
        yield
    finally:
        handle.remove()


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of numbers without ties."""
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
