"""Attribution patching (AtP): activation_patching.py's change of the metric for every node at once, to first order.

Nanda 2023; Kramar, Lieberum, Shah and Nanda 2024 (arXiv 2403.00745). A node's score is (what it hands on in the
counterfactual run - in the clean run) . (gradient of the metric at it), from two forward passes and one backward. Two
fixes of that paper, AtP*, against needed nodes that get no score:

- `qk_fix`: for queries and keys the softmax is computed again with the counterfactual queries (or keys) in place of the
  clean ones, and only what comes after the head's values is taken to first order. Where a head is sure, its softmax has
  no gradient. Costs two forward passes.
- `grad_drop`: the gradient is taken once per layer with nothing flowing back through what that layer writes, and the
  score is the mean of the sizes. A node whose direct effect cancels with that through a later layer has no gradient.
  Costs a backward pass per layer, and the sign. A layer's own nodes count the other layers' only.

When it lies: to first order. A norm, an MLP or the values after the softmax may still saturate; a score may be many
times too large as well; with `grad_drop` a score is the size of parts of an effect, and what truly cancels is not told
from what does not. Try what it finds by activation_patching.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gossamer.discover.activation_patching import with_parts
from gossamer.discover.ceap import wide
from gossamer.discover.eap import MetricConfig, Progress, per_pair
from gossamer.discover.edge_patching import SIGN, named, record_of
from gossamer.discover.room import probed, room_for
from gossamer.errors import Unsupported, options
from gossamer.registry import method
from gossamer.scores import Scores
from gossamer.task import Encoded, Task, sides

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.models.huggingface import Blocks, Decoder
    from gossamer.models.huggingface.reads import Activations
    from gossamer.subject import Probe


class AttributionPatchingConfig(MetricConfig):
    """qk_fix: exact softmax for queries and keys; grad_drop: mean size over gradients without one layer each."""

    qk_fix: bool = True
    grad_drop: bool = False


def attribution_patching_config(**changes: Any) -> AttributionPatchingConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(AttributionPatchingConfig, changes, "set of options")


@method("attribution-patching")
def attribution_patching(
    model: Decoder | Blocks, task: Task, config: AttributionPatchingConfig | None = None, *,
    progress: Progress | None = None,
) -> Scores:  # fmt: skip
    """First-order scores of all nodes on the task's training pairs, in units of the metric per node ablated.

    Nodes as in activation_patching.py with `attention_parts`: those of the graph, then queries, keys and values. At
    block grain, the blocks; they have no queries and keys for `qk_fix` to help.
    """
    config = config or AttributionPatchingConfig()
    if config.metric == "sequence-log-probability":
        raise Unsupported(
            "attribution patching by the metric sequence-log-probability", "it scores answers of one token",
            "metric logit-difference, or activation-patching",
        )  # fmt: skip
    graph, decoder = model.graph(), at_heads(model)
    if config.grad_drop and decoder.shape.n_layers < 2:
        raise Unsupported("grad_drop", "the model has one layer, and a node counts the others", "grad_drop=False")
    layout = with_parts(graph)
    task = model.fitting(task)
    pairs = model.encode(task.train[: config.pairs])
    total = np.zeros(layout.n_nodes)
    at_once = room_for(model, pairs, config, "attribution-patching", most=config.pairs_at_once).pairs
    for start in range(0, pairs.n_pairs, at_once):
        done = min(start + at_once, pairs.n_pairs)
        clean, other = sides(pairs.pairs(start, done))
        found = node_estimates(decoder, clean, other, config, grain=graph.layout.grain)
        total += np.array([float(found[name].cpu().double().sum()) for name in layout.starts])
        if progress:
            progress(done, pairs.n_pairs, float(np.abs(total).max() / done))
    sign = SIGN.format(what="node")
    if config.grad_drop:
        sign = "size of the change of the metric when the node is ablated, mean over gradients without one layer each"
    record = record_of(
        "attribution-patching", config, model, task, pairs, sign=sign, methodology=named("all", graph.layout.grain)
    )
    return Scores(layout=layout, values=total / pairs.n_pairs, record=record, signed=True)


@probed("attribution-patching")
def _probe(model: Decoder | Blocks, config: AttributionPatchingConfig) -> Probe:
    def probe(pairs: Encoded, trials: int) -> Iterator[None]:
        node_estimates(at_heads(model), *sides(pairs), config, grain=model.graph().layout.grain)
        yield

    return probe


def at_heads(model: Any) -> Decoder:
    """The decoder whose heads a model at head or block grain is made of."""
    found: Decoder = getattr(model, "decoder", model)
    return found


def node_estimates(
    model: Decoder, clean: Encoded, other: Encoded, config: AttributionPatchingConfig, *, grain: str = "head"
) -> dict[str, Tensor]:
    """Per node and part of attention its score for each row, [rows]; at grain block per block."""
    from gossamer.models.huggingface.reads import activations, gradients, head_values_with

    there = activations(model, other)
    here, sets = gradients(
        model, clean, lambda logits: per_pair(config, clean, logits).sum(), drop_each_layer=config.grad_drop
    )
    exact = (
        {p: head_values_with(model, clean, here, p, there) for p in ("q", "k")}
        if config.qk_fix and grain == "head"
        else {}
    )
    estimates = [_estimates(model, here, there, g, exact) for g in sets]
    if grain == "block":
        estimates = [_of_blocks(e) for e in estimates]
    if not config.grad_drop:
        return estimates[0]
    inner = len(sets) - 1  # of a layer's own nodes one of the sets has no gradient at all
    return {
        name: torch.stack([e[name].abs() for e in estimates]).sum(0) / (inner if name[0] in "am" else len(sets))
        for name in estimates[0]
    }


def _of_blocks(by_head: dict[str, Tensor]) -> dict[str, Tensor]:
    """What all heads of a layer write is one write: the estimates are linear in it."""
    found: dict[str, Tensor] = {}
    for name, value in by_head.items():
        layer, _, part = name.partition(".")
        if not part:
            found[layer] = value
        elif part.startswith("h") and "<" not in part:
            found[layer] = found[layer] + value if layer in found else value
    return found


@torch.no_grad()
def _estimates(
    model: Decoder, here: Activations, there: Activations, gradient: Activations, exact: dict[str, list[Tensor]]
) -> dict[str, Tensor]:
    """Inner products of changes and gradients, by node."""
    from gossamer.models.huggingface.reads import head_products

    shape, kv = model.shape, "g" if model.shape.n_groups < model.shape.n_heads else "h"
    found = {
        "input": _dot(there.start - here.start, gradient.start, (1, 2)),
        "logits": _dot(there.logits - here.logits, gradient.logits, (1,)),
    }
    for i, (own, new, g) in enumerate(zip(here.layers, there.layers, gradient.layers, strict=True)):
        heads = head_products(model, i, there, g["attn"]) - head_products(model, i, here, g["attn"])
        parts = {p: _dot(new[p] - own[p], g[p], (1, 3)) for p in ("q", "k", "v")}  # [rows, heads or groups]
        if exact:
            moved = {p: _dot(exact[p][i] - own["z"], g["z"], (1, 3)) for p in ("q", "k")}
            parts |= {"q": moved["q"], "k": moved["k"].unflatten(1, (shape.n_groups, -1)).sum(2)}
        found[f"m{i}"] = _dot(new["mlp"] - own["mlp"], g["mlp"], (1, 2))
        for h in range(shape.n_heads):
            found[f"a{i}.h{h}"] = heads[:, h]
            found[f"a{i}.h{h}<q>"] = parts["q"][:, h]
        for n in range(shape.n_groups):
            found |= {f"a{i}.{kv}{n}<{p}>": parts[p][:, n] for p in ("k", "v")}
            if kv == "g":
                found[f"a{i}.g{n}"] = parts["k"][:, n] + parts["v"][:, n]
    return found


def _dot(change: Tensor, gradient: Tensor, over: tuple[int, ...]) -> Tensor:
    """Inner products over some dimensions, in float32 at least."""
    return (wide(change) * wide(gradient)).sum(over)
