"""What a node fires on: places in a frozen excerpt of text from the strongest to none, and the task's prompts.

When it lies: top examples show the tail of a node's distribution, which is why places of ordinary strength and one
where it is silent stand beside them (`examples_by_level`). None says what the model does with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import BadInput
from gossamer.site import Site
from gossamer.subject import Subject
from gossamer.task import Encoded

WINDOW_BEFORE, WINDOW_AFTER = 14, 4
LEVELS = (0.9, 0.5, 0.1)
BINS = 12


class TopExample(NamedTuple):
    """A stretch of text with one activation per token; `position` is the peak's place in it."""

    tokens: tuple[int, ...]
    activations: tuple[float, ...]
    position: int


def activations(model: Subject, batch: Encoded, sites: Sequence[Site]) -> dict[Site, np.ndarray]:
    """Activations [rows, pos] of each site in the unablated model."""
    locations = sorted({s.location for s in sites})
    with torch.no_grad():
        reads = model.run(batch, reads=locations).reads
    return {s: reads[s.location][..., s.index].float().cpu().numpy() for s in sites}


def text_batch(tokens: Tensor) -> Encoded:
    """Rows of text as a batch without answers."""
    last = torch.full((len(tokens),), tokens.shape[1] - 1)
    nothing = torch.zeros(len(tokens), dtype=torch.int64)
    return Encoded(tokens, last, nothing, nothing)


def top_examples(
    model: Subject, excerpt: Tensor, sites: Sequence[Site], n: int = 6
) -> dict[Site, tuple[TopExample, ...]]:
    """The n strongest places (by |activation|) of each site in the excerpt, at most one per row of it.

    excerpt: int64 [rows, pos]. A site that never fires has none.
    """
    found: dict[Site, tuple[TopExample, ...]] = {}
    for site, acts in activations(model, text_batch(excerpt), sites).items():
        size = np.abs(acts)
        peaks = size.argmax(1)
        rows = np.argsort(-size.max(1), kind="stable")[:n]
        found[site] = tuple(_window(excerpt[r], acts[r], int(peaks[r])) for r in rows if size[r, peaks[r]] > 0)
    return found


class Levels(NamedTuple):
    """share: of the text's tokens at which a node is not zero; shown: (level, place) from strong to weak. At a level of
    0.9 the node is stronger than at 90% of the places where it is not zero; level 0 is one where it is zero."""

    share: float
    shown: tuple[tuple[float, TopExample], ...]


def examples_by_level(
    model: Subject, excerpt: Tensor, sites: Sequence[Site], levels: Sequence[float] = LEVELS
) -> dict[Site, Levels]:
    """Places of the excerpt at quantiles of each site's |activation|, and one where it is zero, if there is one.

    excerpt: int64 [rows, pos]. A tie, and the silent place, is broken by a fixed seed: the excerpt's order is of files.
    """
    found: dict[Site, Levels] = {}
    for site, acts in activations(model, text_batch(excerpt), sites).items():
        size = np.abs(acts).ravel()
        mixed = np.random.default_rng(0).permutation(len(size))
        order = mixed[np.argsort(size[mixed], kind="stable")]
        silent = int((size == 0).sum())
        places = [(q, order[silent + round(q * (len(size) - silent - 1))]) for q in levels if silent < len(size)]
        places += [(0.0, order[0])] if silent else []
        shown = []
        for level, place in places:
            row, at = divmod(int(place), acts.shape[1])
            shown.append((level, _window(excerpt[row], acts[row], at)))
        found[site] = Levels(1 - silent / len(size), tuple(shown))
    return found


def _window(tokens: Tensor, acts: np.ndarray, peak: int) -> TopExample:
    start, stop = max(0, peak - WINDOW_BEFORE), min(len(tokens), peak + WINDOW_AFTER + 1)
    values = tuple(round(float(a), 4) for a in acts[start:stop])
    return TopExample(tuple(tokens[start:stop].tolist()), values, peak - start)


def task_examples(
    model: Subject, batch: Encoded, sites: Sequence[Site], pairs: int = 2
) -> dict[Site, tuple[TopExample, ...]]:
    """Each site on the first `pairs` pairs of a batch: whole prompts, clean and counterfactual in turn."""
    few = batch.pairs(0, pairs)
    found: dict[Site, tuple[TopExample, ...]] = {}
    for site, acts in activations(model, few, sites).items():
        rows = []
        for r, last in enumerate(few.last.tolist()):
            values = acts[r, : last + 1]
            rounded = tuple(round(float(a), 4) for a in values)
            rows.append(TopExample(tuple(few.tokens[r, : last + 1].tolist()), rounded, int(np.abs(values).argmax())))
        found[site] = tuple(rows)
    return found


def mean_on_answer(model: Subject, batch: Encoded, sites: Sequence[Site]) -> dict[Site, tuple[float, float]]:
    """Mean activation at the last position over clean prompts, and over counterfactual ones."""
    last = batch.last.numpy()
    found: dict[Site, tuple[float, float]] = {}
    for site, acts in activations(model, batch, sites).items():
        at = acts[np.arange(len(last)), last]
        found[site] = (float(at[0::2].mean()), float(at[1::2].mean()))
    return found


class Sides(NamedTuple):
    """Counts of a node's activation on the two sides of the pairs, in equal bins from low to high."""

    low: float
    high: float
    clean: tuple[int, ...]
    counterfactual: tuple[int, ...]


def first_difference(batch: Encoded) -> Tensor:
    """The first token at which the prompts of each pair differ, [rows]; BadInput for a pair of equal prompts."""
    differs = batch.tokens[0::2] != batch.tokens[1::2]
    if not bool(differs.any(1).all()):
        raise BadInput("Expected prompts that differ in every pair, got a pair of equal ones.")
    return torch.minimum(differs.int().argmax(1).repeat_interleave(2), batch.last)


def histograms(
    model: Subject, batch: Encoded, sites: Sequence[Site], at: Tensor, bins: int = BINS
) -> dict[Site, Sides]:
    """Each site's activation on clean and on counterfactual prompts at one position per row, as counts in bins."""
    where = at.numpy()
    found: dict[Site, Sides] = {}
    for site, acts in activations(model, batch, sites).items():
        values = acts[np.arange(len(where)), where].astype(np.float64)
        low, high = float(values.min()), float(values.max())
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        clean, other = (np.histogram(values[i::2], bins, (low, high))[0].tolist() for i in (0, 1))
        found[site] = Sides(low, high, tuple(clean), tuple(other))
    return found
