"""What a node fires on: the strongest places in a frozen excerpt of text, and its activations on the task's prompts.

When it lies: top examples show the tail of a node's distribution, not what it does on ordinary text, and nothing about
what the model does with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.site import Site
from gossamer.subject import Subject
from gossamer.task import Encoded

WINDOW_BEFORE, WINDOW_AFTER = 14, 4


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
