"""Luck of the same budget: what it is, that a real circuit beats it, and that luck does not beat itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rediscovery_helpers import channel_trial, edge_trial
from verify_helpers import no_task

from gossamer.circuit import Circuit
from gossamer.models import LoadedModel
from gossamer.record import Record
from gossamer.task import Task
from gossamer.verify.budget_matched import budget_matched, evaluated
from gossamer.verify.trial import random_sets

EDGES = edge_trial()


@pytest.mark.parametrize(
    ("name", "config", "details", "n"),
    [
        ("prune", {"k_coef": [1, 2, 3], "steps": 10}, {}, 30),
        ("prune-edges", {"k_coef": [1, 2], "steps": 10, "edge_coef": [1, 2, 3], "edge_steps": 5}, {}, 50),
        ("acdc", {"threshold": 0.1}, {"removed_without_a_run": 30}, 70),
        ("edge-mask", {"steps": 40}, {}, 40),
        ("edge-patching", {}, {}, 100),
        ("eap-ig", {"steps": 5}, {}, 7),
        ("eap", {"pairs": 64}, {}, 2),
        ("consensus", {"method": "eap-ig", "options": {"steps": 4}, "resamples": 10}, {}, 60),
        ("consensus", {"method": "acdc", "options": {"threshold": 0.1}, "resamples": 3}, {}, 300),
        ("consensus", {"method": "iterative-sweep", "options": {}, "resamples": 3}, {"runs": 4}, 600),  # 4 resamples
    ],
)
def test_budgets_are_counted(name: str, config: dict[str, object], details: dict[str, object], n: int) -> None:
    found, words = evaluated(Record(method=name, config=config, seed=0, details=details), parts=100)
    assert found == n
    assert words


def test_real_circuits_beat_luck(planted: LoadedModel, planted_pairs: Task) -> None:
    channels = channel_trial(planted, planted_pairs)
    for trial, budget in ((EDGES, "2 in all; tried: 20"), (channels, "120 in all; tried: 50")):
        found = budget_matched(trial, most=50)
        assert found.verdict == "pass", found
        assert budget in found.note
        assert found.interval is not None
        assert found.interval[0] > 0
        assert ("Capped at 50" in found.note) == (trial is not EDGES)
        assert budget_matched(trial, most=50) == found


def test_luck_does_not_beat_itself() -> None:
    """Control that must fail, and an identity: the best random set against itself is 0 exactly."""
    drawn = random_sets(EDGES, 20, EDGES.seed)
    best = drawn[EDGES.on(EDGES.task.train[:16]).effects(drawn).mean(1).argmax()]
    edges = np.flatnonzero(best)
    luck = Circuit.from_edges(EDGES.graph(), edges, np.zeros(len(edges)), record=EDGES.circuit.record)
    found = budget_matched(EDGES.retried(luck))
    assert (found.verdict, found.value, found.interval) == ("fail", 0.0, (0.0, 0.0))
    assert found.nulls[0].n == 20


def test_without_training_pairs_there_is_no_search() -> None:
    found = budget_matched(replace(EDGES, task=no_task()))
    assert found.verdict == "not measured"
    assert "no training pairs" in found.note
