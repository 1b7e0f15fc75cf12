"""How much memory EAP needs at most, before it is run, and how many pairs fit into a budget.

What has to be held together: the weights; what every writer wrote in both runs and their difference; what the model's
own operations keep for the backward pass; the gradients at all readers; and what is in hand at one moment. All but one
are sizes of known tensors. What the operations keep is measured: the model runs on three short prompts, and as a
function of the length it is a polynomial (of degree two where attention weights are kept).

When it lies: operations that choose another algorithm at another length, and an allocator that keeps what was let go.
glibc does (half as much again on a CPU) unless it is told not to, as a run with a budget does. The libraries' own
working memory, of tens of megabytes on a CPU, is not counted.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from gossamer.budget import in_words
from gossamer.errors import BadInput, Unsupported
from gossamer.models.huggingface.anatomy import weight_of
from gossamer.task import Encoded

if TYPE_CHECKING:
    from gossamer.models.huggingface.decoder import Decoder

METHODS = ("eap", "eap-ig")
_LENGTHS = (4, 8, 12)
_KNOWN: WeakKeyDictionary[Decoder, tuple[float, ...]] = WeakKeyDictionary()
_M_MMAP_THRESHOLD = -3  # malloc.h


def estimate(model: Decoder, n_tokens: int, pairs_at_once: int, method: str = "eap") -> int:
    """Peak bytes, weights included, of `eap` or `eap-ig` on pairs of so many tokens a prompt.

    Unsupported for another method; BadInput for numbers below one.
    """
    if method not in METHODS:
        raise Unsupported(f"an estimate of the memory of {method}", "only that of EAP is known", " or ".join(METHODS))
    if n_tokens < 1 or pairs_at_once < 1:
        raise BadInput(f"Expected at least one token and one pair, got {n_tokens} and {pairs_at_once}.")
    parts, size = model.parts, model.model.dtype.itemsize
    layers, numbers = parts.layers, size * pairs_at_once * n_tokens  # bytes of one number per token
    runs = numbers * parts.d_model * len(model.shape.writers)  # what all writers write in one run
    reads = [sum(weight_of(m).shape[0] for m in {r.linear for r in (layer.q, layer.k, layer.v)}) for layer in layers]
    inputs = [
        parts.d_model * (len(layer.up) if layer.mlp_norm is layer.attn_norm else 1) for layer in layers
    ]  # fmt: skip
    kept = pairs_at_once * int(max(0.0, float(np.polyval(_kept(model), n_tokens))))
    heads = numbers * parts.d_model * parts.n_heads  # one number per head, token and channel
    forward = heads * (2 if layers[0].attn_post is not None else 1)
    backward = 3 * numbers * max(weight_of(m).shape[0] for layer in layers for m in layer.up)
    wide = max(4, size) // size  # sums are in float32 at least
    gradients = wide * numbers * sum(reads + inputs)
    residuals = numbers * 2 * parts.d_model * len(layers)
    some = 0 if size >= 4 else 16  # writers that are widened together
    at_readers = wide * numbers * parts.d_model * (parts.n_heads + 2 * parts.n_groups + some)
    scoring = runs + gradients + max(numbers * sum(reads) + residuals, at_readers)
    first = 2 * runs + max(kept + max(forward, backward), scoring)
    later = 2 * runs + gradients + kept + backward if method == "eap-ig" else 0
    return weights(model) + max(first, later)


def weights(model: Decoder) -> int:
    """Bytes of the parameters and buffers."""
    tensors = [*model.model.parameters(), *model.model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def pairs_that_fit(model: Decoder, n_tokens: int, budget_bytes: int, method: str = "eap") -> int:
    """The most pairs at once whose estimate stays within the budget; BadInput, naming what would do, if none does."""
    one = estimate(model, n_tokens, 1, method)
    if one > budget_bytes:
        raise BadInput(
            f"Expected a memory budget of at least {in_words(one)} for one pair of {n_tokens} tokens with {method} "
            f"({in_words(weights(model))} of it weights), got {in_words(budget_bytes)}; give more, or a shorter "
            "prompt, a smaller dtype or a smaller model."
        )
    two = estimate(model, n_tokens, 2, method)  # the estimate is a straight line in the pairs
    return max(1, 1 + (budget_bytes - one) // (two - one))


def trials_at_once(decoder: Decoder, tokens: int) -> int:
    """How many runs of so many tokens a pass is worth: a few hundred tokens on a CPU, where more cost as much each;
    elsewhere thousands, as far as what all writers write takes 2 GiB and the table of shares 1 GiB."""
    size = decoder.model.dtype.itemsize
    writers, readers = len(decoder.shape.writers), len(decoder.shape.readers)
    worth = 256 if decoder.device.type == "cpu" else 1 << 14
    worth = min(worth, (2 << 30) // (writers * decoder.parts.d_model * size))
    return max(1, min(worth // tokens, (1 << 30) // (writers * readers * size)))


def give_back_large_blocks() -> None:
    """Make glibc return blocks of a megabyte and more to the system when they are freed; elsewhere nothing happens.

    Otherwise it learns to keep blocks of up to 32 MB, which is faster and leaves holes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 14)


def _kept(model: Decoder) -> tuple[float, ...]:
    """Coefficients of the bytes that one prompt keeps for the backward pass, as a polynomial in its tokens."""
    if model not in _KNOWN:
        lengths = [min(n, model.n_ctx - 2 + i) for i, n in enumerate(_LENGTHS)]  # different ones, in any context
        _KNOWN[model] = tuple(np.polyfit(lengths, [_kept_at(model, n) for n in lengths], 2))
    return _KNOWN[model]


def _kept_at(model: Decoder, n_tokens: int) -> int:
    tokens = torch.zeros(1, n_tokens, dtype=torch.int64, device=model.device)
    own = {t.untyped_storage().data_ptr() for t in (*model.model.parameters(), *model.model.buffers())}
    found: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    last = torch.tensor([n_tokens - 1])
    batch = Encoded(tokens, last, last, last)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, _same):
        run = model.followed(batch, None, model.room(batch))
    for t in (run.logits, *(t for x, outs in run.reads for t in (x, *outs))):
        note(t)
    return sum(size for at, size in found.items() if at not in own)


def _same(x: Tensor) -> Tensor:
    return x
