"""Trials of circuits that a method found, for tests of what finds them again."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from taught import she_he, taught
from toys import planted_model, planted_task

from gossamer.circuit import Circuit
from gossamer.discover import eap, prune, prune_config
from gossamer.models import LoadedModel
from gossamer.task import Task
from gossamer.verify import ChannelTrial, EdgeTrial

QUICK: dict[str, Any] = {"steps": 60, "lr": 5e-2, "batch_pairs": 16, "k_coef": (1e-3, 1e-2)}
EDGES = 20


def pronouns() -> Task:
    """The taught task, its templates named by place."""
    task = she_he()
    named = [tuple(replace(e, template=e.clean.split()[3]) for e in pairs) for pairs in (task.train, task.heldout)]
    return replace(task, train=named[0], heldout=named[1])


def edge_trial(circuit: Circuit | None = None, **fields: Any) -> EdgeTrial:
    """The edges that EAP finds in the taught model."""
    model, task = taught(), pronouns()
    given: dict[str, Any] = {
        "model": model, "task": task, "circuit": circuit or eap(model, task).top(EDGES),
        "heldout": model.encode(task.heldout[:10]), "training": model.encode(task.train[:16]),
    }  # fmt: skip
    return EdgeTrial(**given | fields)


def channel_trial(model: LoadedModel, task: Task, cache: Path | None = None) -> ChannelTrial:
    """The channels that pruning finds in the planted model."""
    return ChannelTrial(
        model=model, circuit=_pruned(), task=task, heldout=model.encode(task.heldout[:32]), cache=cache
    )  # fmt: skip


@functools.cache
def _pruned() -> Circuit:
    found = prune(planted_model(), planted_task(), prune_config(**QUICK))
    assert found.reached
    return found.circuit
