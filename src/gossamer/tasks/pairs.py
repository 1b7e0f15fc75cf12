"""Minimal pairs drawn from templates and words: what every generator of this folder is made of."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gossamer.errors import BadInput
from gossamer.task import Example, Task

N_OOD = 256
Words = tuple[Sequence[str], ...]
Fill = Callable[..., Example]
"""fill(rng, template, *words of the split): the pair that one draw of the words makes of a template."""


class Split(NamedTuple):
    """What the pairs of one split are drawn from."""

    templates: tuple[str, ...]
    words: Words
    fill: Fill


def make_task(
    name: str, description: str, train: Split, heldout: Split, *, seed: int, n_train: int, n_heldout: int,
    ood: Mapping[str, Split] | None = None, both_sides: bool = False,
) -> Task:  # fmt: skip
    """`n_train` and `n_heldout` pairs, N_OOD of each out-of-distribution split, no prompt twice: no clean prompt, or
    with `both_sides` neither side of a pair on either side of another. BadInput when so many cannot be drawn."""
    rng = random.Random(f"{name} {seed}")
    seen: set[str] = set()
    others = dict(ood or {})

    def draw(wanted: int, split: Split) -> tuple[Example, ...]:
        found: list[Example] = []
        for attempt in range(200 * wanted):
            example = split.fill(rng, split.templates[attempt % len(split.templates)], *split.words)
            prompts = {example.clean, example.counterfactual} if both_sides else {example.clean}
            if seen.isdisjoint(prompts):
                seen.update(prompts)
                found.append(example)
            if len(found) == wanted:
                return tuple(found)
        raise BadInput(f"{name} has only {len(found)} different pairs in a split, {wanted} were asked for.")

    return Task(
        name=name, version=_version(name, train, heldout, others), description=description,
        train=draw(n_train, train), heldout=draw(n_heldout, heldout),
        ood={k: draw(N_OOD, split) for k, split in others.items()},
    )  # fmt: skip


def _version(name: str, train: Split, heldout: Split, ood: Mapping[str, Split]) -> str:
    """Follows the templates, the words and the code that fills them."""
    rng = random.Random(name)
    shown = [
        [e.clean, e.counterfactual, e.answer, e.wrong_answer]
        for split in (train, heldout)
        for template in split.templates
        for e in (split.fill(rng, template, *split.words) for _ in range(4))
    ]
    own = {k: split.words for k, split in ood.items() if split.words != heldout.words}
    everything = [
        name, [train.templates, heldout.templates], [train.words, heldout.words], shown,
        {k: split.templates for k, split in ood.items()}, *([own] if own else []),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:12]
