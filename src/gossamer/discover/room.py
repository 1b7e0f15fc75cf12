"""How much of a method goes at once under a budget of memory: pairs, and trials of them in a pass. No score changes.

A method's file says what its dearest batch is (`probed`); how much that takes is told by the model, see
gossamer.models.huggingface.memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from gossamer.budget import bytes_of
from gossamer.errors import Unsupported
from gossamer.subject import Budgeted, Probe, ResidualSubject, Room
from gossamer.task import Encoded

Made = Callable[[Any, Any], Probe]
PROBES: dict[str, Made] = {}
FROM_SIZES = ("eap", "eap-ig")  # known without a probe, at head grain and ablated by resampling
UNBOUNDED = sys.maxsize


def probed(name: str) -> Callable[[Made], Made]:
    """Say what makes the probe of a method, from the model and the method's configuration."""

    def note(make: Made) -> Made:
        PROBES[name] = make
        return make

    return note


def room_for(
    model: ResidualSubject, pairs: Encoded, config: Any, name: str, *, most: int, least: int = 1,
    trials: Callable[[int], int] | None = None,
) -> Room:  # fmt: skip
    """How many pairs, from `least` to `most`, and trials go at once under the budget `config.memory`.

    trials: how many are worth it for so many pairs, where several go in a pass. Errors: BadInput if the least does not
    fit; Unsupported for what the need is not known of.
    """
    if config.memory is None:
        return Room(most, UNBOUNDED)
    budget = bytes_of(config.memory)
    if not isinstance(model, Budgeted):
        raise Unsupported(
            f"a memory budget for {model.name}", "what it takes is not known", "a number of pairs_at_once"
        )
    most, probe = min(most, pairs.n_pairs), probe_of(model, config, name)
    length, each, together = asked_size(pairs)
    least = min(least, most)
    at_least, at_most = (together, together) if least == pairs.n_pairs else (least * each, most * each)
    found = model.within_budget(
        length, budget, name, probe and marked_as(pairs, probe), most=at_most, least=at_least, trials=trials
    )
    return Room(least if at_most == at_least else found.pairs // each, found.trials)


def marked_as(pairs: Encoded, probe: Probe) -> Probe:
    """The probe on pairs that are asked as these: at chosen positions, and for the whole of answers."""
    import torch

    def same(batch: Encoded, trials: int) -> Iterator[None]:
        chosen = prompt = None
        if pairs.marks.chosen is not None:
            chosen = torch.arange(batch.tokens.shape[1]) == batch.last[:, None]
        if pairs.marks.answers is not None:
            prompt = torch.zeros(len(batch.tokens), dtype=torch.int64)
        marks = replace(batch.marks, positions=pairs.marks.positions, chosen=chosen, prompt=prompt)
        return probe(batch._replace(marks=marks), trials)

    return same


def asked_size(pairs: Encoded) -> tuple[int, int, int]:
    """(tokens of a prompt, pairs that a pair counts as, both at most, and pairs that all count as together), once the
    whole of the answers is asked: every further token of either answer is a prompt of its own (gossamer.task.asked)."""
    length, answers = pairs.tokens.shape[1], pairs.marks.answers
    if answers is None:
        return length, 1, pairs.n_pairs
    counts = 1 + ((answers[::2] >= 0).sum(2) - 1).clamp(min=0).sum(1)
    return length + answers.shape[2] - 1, int(counts.max()), int(counts.sum())


def probe_of(model: ResidualSubject, config: Any, name: str) -> Probe | None:
    """The probe of a method; None where its need is known from sizes."""
    known = name in FROM_SIZES and config.ablation == "resample" and model.graph().layout.grain == "head"
    return None if known else PROBES[name](model, config)
