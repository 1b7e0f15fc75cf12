"""How much memory a method needs at most, before it is run, and how much of it goes at once within a budget.

EAP and EAP-IG, which are made for large models, are added up from sizes of known tensors: the weights; what every
writer wrote in both runs and their difference; what the model's own operations keep for the backward pass; the
gradients at all readers; and what is in hand at one moment. What the operations keep is measured: the model runs on
three short prompts, and as a function of the length it is a polynomial (of degree two where attention weights are
kept).

Every other method is tried: a probe of it, its dearest batch, is run on one and on two pairs (and trials in a pass) of
three short lengths, and then of the whole length where that is safe under the budget. All tensors that are alive are
counted, and the peak of each of its phases is continued as what it is: linear in pairs and in trials, and, where the
whole length was not tried, a polynomial in the length.

When it lies: operations that choose another algorithm at another length, prompts that agree up to some token (patching
and ACDC then need less), and an allocator that keeps what was let go. glibc does (half as much again on a CPU) unless
it is told not to, as a run with a budget does, down to blocks of 64 KiB: with those above a megabyte alone, small runs
in half precision took 18% more than predicted. The libraries' own working memory and what the allocator rounds up are
counted on a CPU as what they were in such runs, 12 MiB (5 where all tensors are counted) and 4%.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from gossamer.budget import in_words
from gossamer.errors import BadInput, Unsupported
from gossamer.models.huggingface.anatomy import weight_of
from gossamer.subject import Probe, Room
from gossamer.task import Encoded

if TYPE_CHECKING:
    from gossamer.models.huggingface.decoder import Decoder

METHODS = ("eap", "eap-ig")
# what a CPU's libraries hold besides tensors: bytes (more where tensors of a moment are not in the sizes that are added
# up, less where every tensor is counted), and a share of those of tensors
WORKING, WORKING_BESIDE_PROBES, SCRATCH = 12 << 20, 5 << 20, 0.04
_LENGTHS = (4, 8, 12)
_PROBED = (8, 16, 24)
PROBE_MARGIN = 1.3  # by which short probes may be wrong
_KNOWN: WeakKeyDictionary[Decoder, tuple[float, ...]] = WeakKeyDictionary()
_M_MMAP_THRESHOLD = -3  # malloc.h


def estimate(model: Decoder, n_tokens: int, pairs_at_once: int, method: str = "eap") -> int:
    """Peak bytes, weights included, of `eap` or `eap-ig` on pairs of so many tokens a prompt.

    Unsupported for another method, see `needs`; BadInput for numbers below one.
    """
    if method not in METHODS:
        raise Unsupported(
            f"an estimate of the memory of {method} from sizes alone", "it is told from a probe",
            "memory.needs, or " + " or ".join(METHODS),
        )  # fmt: skip
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
    vocab = cast(torch.nn.Embedding, model.model.get_input_embeddings()).num_embeddings
    logits = 3 * max(4, size) * pairs_at_once * vocab  # with their gradient and what whole answers' are made by
    first = 2 * runs + logits + max(kept + max(forward, backward), scoring)
    later = 2 * runs + logits + gradients + kept + backward if method == "eap-ig" else 0
    return with_working(model, max(first, later))


def with_working(model: Decoder, tensors: float, working: int = WORKING) -> int:
    """Bytes of a run whose own tensors take so many: with the weights and, on a CPU, what libraries hold besides."""
    besides = working + SCRATCH * tensors if model.device.type == "cpu" else 0.0
    return weights(model) + int(tensors + besides)


def weights(model: Decoder) -> int:
    """Bytes of the parameters and buffers."""
    tensors = [*model.model.parameters(), *model.model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@dataclass(frozen=True)
class Needs:
    """Peak bytes of a method on prompts of some length. phases: what 1, a pair, a trial and a trial of a pair take of
    tensors, [phases, 4]; the largest phase counts."""

    model: Decoder
    phases: np.ndarray

    def tensors(self, pairs: int, trials: int = 1) -> int:
        """Of the run's own tensors."""
        return int((self.phases @ np.array([1, pairs, trials, pairs * trials])).max())

    def __call__(self, pairs: int, trials: int = 1) -> int:
        """Of everything, weights included."""
        return with_working(self.model, self.tensors(pairs, trials), WORKING_BESIDE_PROBES)


def needs(
    model: Decoder, probe: Probe, n_tokens: int, *, trials: bool = False, budget_bytes: int | None = None
) -> Needs:  # fmt: skip
    """What a method needs on pairs of so many tokens a prompt, from runs of its probe; trials: whether several go in a
    pass. Runs of the whole length are left out where they would not stay within the budget. BadInput for less than one
    token."""
    if n_tokens < 1:
        raise BadInput(f"Expected at least one token, got {n_tokens}.")
    n = max(2, min(n_tokens, model.n_ctx))
    corners = [(p, t) for t in ((1, 2) if trials else (1,)) for p in (1, 2)]

    def peaks(length: int) -> np.ndarray:
        """[corners, phases]"""
        return np.array([_peaks(model, probe, length, p, t) for p, t in corners], dtype=np.float64)

    if n <= _PROBED[-1]:
        return Needs(model, _solved(corners, peaks(n)))
    short = np.stack([peaks(length) for length in _PROBED])
    found = np.polyfit(_PROBED, short.reshape(len(_PROBED), -1), len(_PROBED) - 1)
    told = np.stack([np.polyval(column, n) for column in found.T]).reshape(short.shape[1:])
    more = np.ones(short.shape[2])
    for number, (p, t) in enumerate(corners):
        told[number] *= more
        if budget_bytes is None or with_working(model, PROBE_MARGIN * told[number].max()) <= budget_bytes:
            seen = np.array(_peaks(model, probe, n, p, t))
            more, told[number] = more * seen / told[number], seen
    return Needs(model, _solved(corners, told))


def _solved(corners: list[tuple[int, int]], peaks: np.ndarray) -> np.ndarray:
    """Coefficients [phases, 4] of 1, pairs, trials and their product from peaks [corners, phases]."""
    terms = np.array([[1, p, t, p * t] for p, t in corners], dtype=np.float64)[:, : len(corners)]
    found = np.zeros((peaks.shape[1], 4))
    found[:, : len(corners)] = np.linalg.solve(terms, peaks).T
    return found


def room(
    model: Decoder, n_tokens: int, budget_bytes: int, method: str, probe: Probe, *, most: int, least: int = 1,
    trials: Callable[[int], int] | None = None,
) -> Room:  # fmt: skip
    """How many pairs of so many tokens a prompt, from `least` to `most`, and how many trials in a pass go at once.

    trials: how many are worth it with so many pairs. First as many pairs as go with one trial, then as many trials.
    BadInput, naming what would do, if the least does not fit.
    """
    found = needs(model, probe, n_tokens, trials=trials is not None, budget_bytes=budget_bytes)
    if found(least) > budget_bytes:
        raise _too_little(model, found(least), budget_bytes, least, n_tokens, method)
    pairs = max(p for p in range(least, max(least, most) + 1) if found(p) <= budget_bytes)
    wanted = trials(pairs) if trials is not None else 1
    return Room(pairs, max(t for t in range(1, wanted + 1) if t == 1 or found(pairs, t) <= budget_bytes))


def _too_little(model: Decoder, need: int, budget_bytes: int, least: int, n_tokens: int, method: str) -> BadInput:
    which = "one pair" if least == 1 else f"{least} pairs, which go together,"
    return BadInput(
        f"Expected a memory budget of at least {in_words(need)} for {which} of {n_tokens} tokens with {method} "
        f"({in_words(weights(model))} of it weights), got {in_words(budget_bytes)}; give more, or fewer pairs, shorter "
        "prompts or answers, a smaller dtype or a smaller model."
    )


def pairs_that_fit(model: Decoder, n_tokens: int, budget_bytes: int, method: str = "eap", least: int = 1) -> int:
    """The most pairs at once whose estimate stays within the budget; BadInput, naming what would do, if the least does
    not."""
    if (need := estimate(model, n_tokens, least, method)) > budget_bytes:
        raise _too_little(model, need, budget_bytes, least, n_tokens, method)
    one, two = (estimate(model, n_tokens, n, method) for n in (1, 2))  # a straight line, but for rounding
    found = max(1, 1 + (budget_bytes - one) // (two - one))
    return max(
        n
        for n in {1, max(1, found - 1), found, found + 1}
        if n == 1 or estimate(model, n_tokens, n, method) <= budget_bytes
    )


def trials_at_once(decoder: Decoder, tokens: int) -> int:
    """How many runs of so many tokens a pass is worth: a few hundred tokens on a CPU, where more cost as much each;
    elsewhere thousands, as far as what all writers write takes 2 GiB and the table of shares 1 GiB."""
    size = decoder.model.dtype.itemsize
    writers, readers = len(decoder.shape.writers), len(decoder.shape.readers)
    worth = 256 if decoder.device.type == "cpu" else 1 << 14
    worth = min(worth, (2 << 30) // (writers * decoder.parts.d_model * size))
    return max(1, min(worth // tokens, (1 << 30) // (writers * readers * size)))


def give_back_large_blocks() -> None:
    """Make glibc return blocks of 64 KiB and more to the system when they are freed; elsewhere nothing happens.

    Otherwise it learns to keep blocks of up to 32 MB, which is faster and leaves holes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 16)


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


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, those of the model apart."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()
        self.own, self.sizes, self.now, self.peak = own, dict[int, int](), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_iter(out):
            if isinstance(t, Tensor):
                self._note(t)
        return out

    def _note(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        key = storage._cdata
        if storage.data_ptr() in self.own or key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)


@contextmanager
def _counting(model: Decoder) -> Iterator[Callable[[], int]]:
    """Gives what makes the peak since it was last asked, in bytes of tensors other than the model's."""
    if model.device.type == "cuda":  # the backward pass runs in another thread there
        before = torch.cuda.memory_allocated(model.device)

        def allocated() -> int:
            peak = torch.cuda.max_memory_allocated(model.device) - before
            torch.cuda.reset_peak_memory_stats(model.device)
            return int(peak)

        torch.cuda.reset_peak_memory_stats(model.device)
        yield allocated
        return
    own = {t.untyped_storage().data_ptr() for t in (*model.model.parameters(), *model.model.buffers())}

    def alive() -> int:
        peak, live.peak = live.peak, live.now
        return peak

    with _Live(own) as live:
        yield alive


def _peaks(model: Decoder, probe: Probe, n_tokens: int, pairs: int, trials: int) -> list[int]:
    """Peak bytes of each phase of a probe on pairs of prompts whose tokens all differ."""
    vocab = cast(torch.nn.Embedding, model.model.get_input_embeddings()).num_embeddings
    tokens = (
        torch.arange(2 * pairs * n_tokens) % 7 + torch.arange(2 * pairs).repeat_interleave(n_tokens) % 2 * 7
    ) % vocab
    rows = torch.zeros(2 * pairs, dtype=torch.int64)
    batch = Encoded(tokens.view(2 * pairs, n_tokens), rows + n_tokens - 1, rows, rows + 1)
    with _counting(model) as peak:
        return [peak() for _ in probe(batch, trials)]
