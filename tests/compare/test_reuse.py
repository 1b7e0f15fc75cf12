"""Examples that use the same parts share all of them, random ones as many as chance says, others none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mechanisms import FIRST, mixed_task
from two_tasks import SIDES, Additive, channel_trials, head_trials

from gossamer.compare import example_circuits, reuse, reuse_evidence, shared_by
from gossamer.compare.reuse import _necessity, expected_core
from gossamer.errors import BadInput


def test_the_planted_circuit_is_every_examples() -> None:
    trial = channel_trials("nothing")["sides"]
    share = len(FIRST) / len(trial.kinds)
    (row,) = reuse(trial, shares=(share,), at=(1.0,), pairs=16)
    assert set(row.core) == set(FIRST)
    assert (row.reuse, row.iou, row.outcome) == (1.0, 1.0, "measured")
    assert row.chance < 1e-20
    assert row.necessity is not None
    assert row.necessity.share == pytest.approx(1, abs=0.02)
    assert row.random is not None
    assert row.random < 0.1
    shared, core = reuse_evidence(trial, (row,))
    assert (shared.verdict, core.verdict) == ("pass", "pass")
    assert {s.kind: (s.core, s.size) for s in row.kinds}["attn.v"] == (1, 1.0)
    assert reuse(trial, shares=(share,), at=(1.0,), pairs=16) == (row,)


def test_examples_of_two_mechanisms_share_nothing_and_nothing_is_ablated() -> None:
    trial = channel_trials("nothing")["sides"]
    task = mixed_task(SIDES["others"], n=16)
    trial = replace(trial, task=task, heldout=trial.model.encode(task.heldout), _gaps={}, _effects={})
    (row,) = reuse(trial, shares=(len(FIRST) / len(trial.kinds),), at=(1.0,))
    assert (row.outcome, row.core, row.reuse, row.p_value) == ("empty", (), 0.0, 1.0)
    assert row.necessity is row.random is row.p_ablated is None
    shared, core = reuse_evidence(trial, (row,))
    assert (shared.verdict, core.verdict, core.value) == ("fail", "not measured", None)
    assert "Empty" in core.note


def test_heads_alike() -> None:
    trial = head_trials()["A"]
    rows = reuse(trial, shares=(0.2,), at=(0.95, 1.0), draws=3)
    assert [row.core for row in rows] == [("a0.h1",)] * 2  # of four heads and an MLP; the input does not count
    assert rows[0].size == 1
    assert {s.kind for s in rows[0].kinds} == {"heads"}
    assert rows[0].necessity is not None
    assert rows[0].necessity.share == pytest.approx(1, abs=0.05)


def test_chance_is_that_of_random_circuits() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1], [30, 50])
    sizes = [(10, 5), (8, 20), (12, 10)]

    def draw() -> np.ndarray:
        found = np.zeros((3, 80), dtype=bool)
        for row, (a, b) in zip(found, sizes, strict=True):
            row[rng.choice(30, a, replace=False)] = row[30 + rng.choice(50, b, replace=False)] = True
        return found

    for at in (0.6, 1.0):
        mean = np.mean([shared_by(draw(), at).sum() for _ in range(500)])
        assert expected_core(draw(), kinds, at) == pytest.approx(mean, rel=0.1)
    tenth = np.zeros((10, 1000), dtype=bool)
    tenth[:, :100] = True
    assert expected_core(tenth, np.zeros(1000), 1.0) / 100 == pytest.approx(0.1**9)  # K^(n - 1)


def test_a_random_core_passes_as_often_as_the_level_says() -> None:
    """Over pairs a random core is surely above or below the mean of random sets; among them it has a random rank."""
    made = [Additive(seed) for seed in range(200)]
    passed = [_necessity(m.trial, m.random_set(), 20, None)["p_ablated"] <= 0.05 for m in made]
    assert 0.01 < np.mean(passed) < 0.1  # 1 / 21 with a standard error of 0.015
    strongest = np.zeros(60, dtype=bool)
    strongest[np.argsort(-made[0].worth)[:5]] = True
    found = _necessity(made[0].trial, strongest, 20, None)
    assert found["p_ablated"] == found["smallest"] == 1 / 21


def test_of_too_few_random_sets_nothing_is_said() -> None:
    trial = channel_trials("nothing")["sides"]
    (row,) = reuse(trial, shares=(len(FIRST) / len(trial.kinds),), at=(1.0,), pairs=16, draws=19)
    assert (row.random_interval, row.smallest) == (None, 1 / 20)
    (_, core) = reuse_evidence(trial, (row,))
    assert (core.verdict, core.nulls[0].interval) == ("not measured", None)
    assert "Fewer than 20 random sets" in core.note


def test_bad_sizes_are_refused() -> None:
    trial = channel_trials("nothing")["sides"]
    with pytest.raises(BadInput, match="share of the nodes"):
        example_circuits(trial, 0.0)
    with pytest.raises(BadInput, match="share of the examples"):
        shared_by(np.ones((2, 2), dtype=bool), 1.5)
    with pytest.raises(BadInput, match="at least 2 training pairs"):
        reuse(trial, pairs=0)
    with pytest.raises(BadInput, match="none does"):
        example_circuits(trial, 0.1, np.zeros((2, len(trial.kinds))))
