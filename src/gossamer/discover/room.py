"""How much of a method goes at once under a budget of memory: pairs, and trials of them in a pass. No score changes.

A method's file says what its dearest batch is (`probed`); how much that takes is told by the model, see
gossamer.models.huggingface.memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
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
    most, (length, each) = min(most, pairs.n_pairs), asked_size(pairs)
    found = model.within_budget(
        length, budget, name, probe_of(model, config, name), most=most * each, least=min(least, most) * each,
        trials=trials,
    )  # fmt: skip
    return Room(found.pairs // each, found.trials)


def asked_size(pairs: Encoded) -> tuple[int, int]:
    """(tokens of a prompt, pairs that a pair counts as) at most, once the whole of the answers is asked: every further
    token of either answer is a prompt of its own (gossamer.task.asked)."""
    length, answers = pairs.tokens.shape[1], pairs.marks.answers
    if answers is None:
        return length, 1
    further = (answers >= 0).sum(2) - 1
    return length + answers.shape[2] - 1, 1 + int(further.clamp(min=0).sum(1).max())


def probe_of(model: ResidualSubject, config: Any, name: str) -> Probe | None:
    """The probe of a method; None where its need is known from sizes."""
    known = name in FROM_SIZES and config.ablation == "resample" and model.graph().layout.grain == "head"
    return None if known else PROBES[name](model, config)
