"""Norms of composed weights: what a reader's weights make of a writer's, without any prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.errors import Unsupported
from gossamer.models.huggingface.anatomy import weight_of
from gossamer.models.huggingface.decoder import Decoder
from gossamer.subject import ResidualSubject

TOKENS_AT_ONCE = 4096


class _Written(NamedTuple):
    """What writers make of their hidden values: [writers, d, hidden], or that times its transpose, [writers, d, d]."""

    weight: Tensor
    squared: bool = False


@torch.no_grad()
def composed_norms(
    model: ResidualSubject, progress: Callable[[int, int, float], None] | None = None
) -> np.ndarray:  # fmt: skip
    """Frobenius norm of reader weights times writer weights for every edge, float64 [edges] in the graph's order.

    The gains of norms are folded in and, where a norm subtracts the mean, that; logits are read up to a constant. The
    input's weights are what it writes for each token at position 0, over the root of the vocabulary. No product is
    larger than a layer's queries, keys and values times its heads; of the input and of every MLP one [d, d] matrix is
    kept, in float32 or more. progress(layers done, all, 0). Errors: Unsupported for what is no Decoder.
    """
    if not isinstance(model, Decoder):
        raise Unsupported(
            f"the weight magnitude of {type(model).__name__}", "its weights cannot be composed",
            "a Hugging Face decoder, or the method `random`",
        )  # fmt: skip
    parts = model.parts
    writers = [_squared(_embedded(model))]
    columns: list[Tensor] = []  # per reader: squares over the writers it reads, in order
    for number, layer in enumerate(parts.layers):
        heads = torch.cat([_wide(r.weight()) for r in (layer.q, layer.k, layer.v)])
        columns += _squares(_folded(heads, layer.attn_norm), writers)
        out = _posted(weight_of(layer.out), layer.attn_post).unflatten(1, (parts.n_heads, -1))
        attention = _Written(out.transpose(0, 1))
        up = torch.cat([_wide(weight_of(m)) for m in layer.up])
        columns += _squares(_folded(up[None], layer.mlp_norm), writers if layer.parallel else [*writers, attention])
        writers += [attention, _squared(_posted(weight_of(layer.down), layer.mlp_post))]
        if progress:
            progress(number + 1, len(parts.layers), 0.0)
    unembedding = _wide(weight_of(parts.head))
    columns += _squares(_folded((unembedding - unembedding.mean(0))[None], parts.final_norm), writers)
    return torch.cat([c.cpu() for c in columns]).double().clamp_min(0).sqrt().numpy()


def _squares(rows: Tensor, writers: list[_Written]) -> list[Tensor]:
    """Per reader the squared Frobenius norms of its rows ([readers, out, d]) times each writer, [writers]."""
    wide = rows.shape[1] > rows.shape[2]
    inner = rows.transpose(1, 2) @ rows if wide else rows  # many rows are as good as their [d, d] inner products
    found = []
    for writer in writers:
        w = writer.weight.to(rows.device)
        if wide and writer.squared:
            found.append((inner * w).sum((1, 2))[None])
        elif wide:
            found.append((w[:, None] * (inner @ w[:, None])).sum((2, 3)))
        elif writer.squared:
            found.append((inner * (inner @ w[0])).sum((1, 2))[None])
        else:
            products = inner.flatten(0, 1) @ w.transpose(0, 1).flatten(1)
            blocks = products.square_().unflatten(1, (len(w), -1)).sum(2)
            found.append(blocks.unflatten(0, (len(rows), -1)).sum(1).T)
    return list(torch.cat(found).T)


def _wide(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _squared(weight: Tensor) -> _Written:
    """[d, hidden] as one writer."""
    return _Written((weight @ weight.T)[None], squared=True)


def _posted(weight: Tensor, post: nn.Module | None) -> Tensor:
    """A map's weights [d, hidden] times the gain of the norm that follows it."""
    weight = _wide(weight)
    return weight if post is None else _folded(weight.T, post).T


def _folded(rows: Tensor, norm: nn.Module | None) -> Tensor:
    """Rows [..., d] on a norm's output as rows on its input, up to the size that it divides by.

    The gain and whether the mean is subtracted are read off its values, of which an offset cancels.
    """
    if norm is None:
        return rows
    d = rows.shape[-1]
    x = 1024.0 * (1.0 - 2.0 * (torch.arange(d, device=rows.device) % 2))  # large beside the norm's epsilon
    x = x.to(next((p.dtype for p in norm.parameters()), rows.dtype))
    response, constant = (((norm(v) - norm(-v)) / 2).to(rows) for v in (x, torch.full_like(x, 1024.0)))
    x = x.to(rows)
    centred = float(constant.abs().max()) < 1e-3 * float(response.abs().max())
    x = x - x.mean() if centred else x
    rows = rows * (response * x.square().mean().sqrt() / x)
    return rows - rows.mean(-1, keepdim=True) if centred else rows


class _Reached(Exception):
    pass


def _embedded(model: Decoder) -> Tensor:
    """What the input writes for each token at position 0, over the root of their number, [d, tokens]."""
    found: list[Tensor] = []

    def stop(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(_wide(args[0] if args else kwargs["hidden_states"])[:, 0])
        raise _Reached

    n_tokens = cast(nn.Embedding, model.model.get_input_embeddings()).num_embeddings
    handle = model.parts.layers[0].block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        for tokens in torch.arange(n_tokens, device=model.device).split(TOKENS_AT_ONCE):
            try:
                model.model(tokens[:, None], use_cache=False)
            except _Reached:
                continue
    finally:
        handle.remove()
    return (torch.cat(found) / n_tokens**0.5).T
