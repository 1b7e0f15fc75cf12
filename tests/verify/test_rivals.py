"""A redundant mechanism is found as a rival without a common part; a mechanism that has no double is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mechanisms import FIRST, SECOND, two_heads, two_routes
from toys import PLANTED_NODES
from verify_helpers import circuit_of, no_task

from gossamer.models import LoadedModel
from gossamer.task import Task
from gossamer.verify import ChannelTrial
from gossamer.verify.rivals import core_of, rivals, search
from gossamer.verify.trial import ends


def trial_of(model: LoadedModel, task: Task, sites: tuple[str, ...]) -> ChannelTrial:
    return ChannelTrial(
        model=model, circuit=circuit_of(model, sites), task=task, heldout=model.encode(task.heldout[:24])
    )


def test_a_second_route_is_a_rival_with_no_part_in_common(planted_pairs: Task) -> None:
    trial = trial_of(two_routes(("left", "right")), planted_pairs, FIRST)
    found = rivals(trial, steps=20, pairs=16)
    assert (found.verdict, found.value) == ("fail", 0)
    assert found.interval == (0, 0)  # a double does as well whichever pairs are drawn
    assert "In 100% of draws" in found.note
    there = trial.on(planted_pairs.train[:16])
    forbidden, *_, free = search(there, np.zeros_like(trial.inside), there.attributions().mean(0), steps=20)
    assert {trial.part(int(i)) for i in np.flatnonzero(forbidden.kept)} == set(SECOND)
    assert free.how == "free"
    assert found.nulls[0].value is not None
    assert found.nulls[0].value < 0.2


def test_a_route_without_a_double_has_no_rival(planted: LoadedModel, planted_pairs: Task) -> None:
    trial = trial_of(planted, planted_pairs, PLANTED_NODES)
    found = rivals(trial, steps=20, pairs=16)
    assert (found.verdict, found.value) == ("pass", None)
    assert found.note.startswith("Not reached")
    assert found.interval is None
    assert "In 0% of draws" in found.note
    assert [n.outcome for n in found.nulls] == ["measured", "measured", "not reached"]
    there = trial.on(planted_pairs.train[:16])
    assert np.array_equal(
        core_of(there, *ends(there), 0.9, there.attributions().mean(0)), trial.inside
    )  # every part is needed
    assert rivals(trial, steps=20, pairs=16) == found


def test_a_rival_that_does_as_well_on_some_pairs_only_has_a_wide_interval(planted_pairs: Task) -> None:
    """The second route at nine tenths of the first's strength on half of the held-out pairs: whether it does as well
    depends on which of them are drawn."""
    trial = trial_of(two_routes(("left", "right")), planted_pairs, FIRST)
    second, effects = circuit_of(trial.model, SECOND), trial.effects
    uneven = np.linspace(-0.6, 0.6, trial.n_pairs)

    class Uneven(ChannelTrial):
        def effects(self, kept: np.ndarray, **how: Any) -> np.ndarray:
            found = effects(kept, **how) if self.n_pairs == trial.n_pairs else super().effects(kept, **how)
            for row, one in zip(kept, found, strict=True):
                if self.n_pairs == trial.n_pairs and np.array_equal(np.flatnonzero(row), second.nodes):
                    one += uneven
            return found

    fields = {k: getattr(trial, k) for k in ("model", "circuit", "task", "heldout")}
    found = rivals(Uneven(**fields), steps=20, pairs=16)
    assert found.value == 0
    assert found.interval is not None
    assert found.interval[0] == 0
    assert found.interval[1] > 0.5


def test_edges_alike() -> None:
    both = rivals(two_heads("both"), steps=20)
    assert (both.verdict, both.value) == ("fail", 0)
    chosen = rivals(two_heads("chosen"), steps=20)
    assert (chosen.verdict, chosen.value) == ("pass", None)
    assert "Core: 4 parts" in chosen.note


def test_a_search_that_does_not_find_the_circuit_itself_says_nothing(
    planted: LoadedModel, planted_pairs: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: ranks that are all wrong find no rival of a circuit that has one, and that must not pass."""
    trial = trial_of(two_routes(("left", "right")), planted_pairs, FIRST)
    graded = ChannelTrial.graded
    monkeypatch.setattr(ChannelTrial, "graded", lambda *a, **k: -graded(*a, **k))
    monkeypatch.setattr(
        ChannelTrial, "attributions", lambda self: np.zeros((self.n_pairs, len(self.kinds)))
    )  # fmt: skip
    found = rivals(trial, steps=10, pairs=16)
    assert found.verdict == "not measured"
    assert "free search did not do as well" in found.note


def test_what_cannot_be_measured_is_said(planted: LoadedModel, planted_pairs: Task) -> None:
    trial = trial_of(planted, planted_pairs, PLANTED_NODES)
    nothing = rivals(replace(trial, task=no_task()))
    assert (nothing.verdict, nothing.value) == ("not measured", None)
    assert "0 training" in nothing.note
    every = np.ones(len(trial.kinds), dtype=bool)
    whole = trial.retried(replace(trial.circuit, nodes=np.flatnonzero(every)))
    assert "nothing to choose" in rivals(whole).note
    optimal = two_heads("both")
    found = rivals(replace(optimal, value="optimal"), steps=2)
    assert found.verdict == "not measured"
    assert "optimal" in found.note
