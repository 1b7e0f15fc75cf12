"""Found again: the same circuit from the same prompts, chance overlap from chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rediscovery_helpers import channel_trial, edge_trial

from gossamer.discover import random_config, random_edges
from gossamer.discover.random_edges import RandomConfig
from gossamer.models import LoadedModel
from gossamer.registry import method
from gossamer.scores import EdgeScores
from gossamer.set_overlap import mask_iou
from gossamer.subject import ResidualSubject
from gossamer.task import Task
from gossamer.verify.stability import _as_sets, chance_overlap, chance_overlaps, stability, variance_of

EDGES = edge_trial()


@pytest.mark.parametrize(("share", "expected"), [(0.1, 0.0526), (0.3, 0.1765), (0.5, 1 / 3), (1.0, 1.0)])
def test_random_circuits_overlap_at_their_analytic_chance(share: float, expected: float) -> None:
    n, rng = 4000, np.random.default_rng(0)
    size = int(share * n)
    assert chance_overlap(np.array([n]), np.array([size]), np.array([size])) == pytest.approx(share / (2 - share))
    assert share / (2 - share) == pytest.approx(expected, abs=1e-4)
    sets = np.argsort(rng.random((40, n)), axis=1).argsort(1) < size
    assert mask_iou(sets[::2], sets[1::2], empty=0).mean() == pytest.approx(share / (2 - share), abs=0.01)


def test_chance_is_that_of_sets_drawn_with_as_many_parts_of_each_kind() -> None:
    n, a, b = np.array([40, 9]), np.array([10, 3]), np.array([6, 8])
    drawn = chance_overlaps(n, a, b, 20_000, np.random.default_rng(1))
    kinds, rng = np.repeat([0, 1], n), np.random.default_rng(2)
    own = np.concatenate([np.arange(k) < m for k, m in zip(n, a, strict=True)])
    sets = np.zeros((2000, len(kinds)), dtype=bool)
    for row in sets:
        for kind, m in enumerate(b):
            row[rng.choice(np.flatnonzero(kinds == kind), m, replace=False)] = True
    other = mask_iou(sets, own, empty=0)
    assert drawn.mean() == pytest.approx(other.mean(), abs=0.005)
    assert np.quantile(drawn, (0.1, 0.5, 0.9)) == pytest.approx(np.quantile(other, (0.1, 0.5, 0.9)), abs=0.03)
    assert chance_overlaps(n, n, n, 2, rng).tolist() == [1, 1]


def test_edges_of_channels_are_compared_where_edges_were_cut(planted: LoadedModel, planted_pairs: Task) -> None:
    """The same nodes with other edges between them are another circuit: nodes alone would say that all overlap."""
    trial = channel_trial(planted, planted_pairs)
    whole = replace(trial.circuit, granularity="edge")
    assert whole.n_edges == 2
    found = {"again": whole, "half": whole.only(np.arange(1)), "none": None}
    inside, again, own, sizes, total = _as_sets(trial.retried(whole), list(found.values()))
    assert mask_iou(again, inside, empty=0).tolist() == [1, 0.5, 0]
    assert sizes.sum(1).tolist() == [2, 1, 0]
    assert own.sum() == 2
    assert np.array_equal(total, planted.graph("channel").counts())
    of_nodes, *_ = _as_sets(trial, [])
    assert of_nodes.sum() == trial.circuit.n_nodes


def test_chance_of_kinds_and_variance_by_hand() -> None:
    # of 4 parts of one kind both keep 2, of 10 of another 1 and none: 1 shared of 4 and 1
    assert chance_overlap(np.array([4, 10]), np.array([2, 1]), np.array([2, 0])) == pytest.approx(1 / 4)
    a, b, c = (np.array(row, dtype=bool) for row in ([1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]))
    pairwise = [(x ^ y).sum() / 2 for x, y in ((a, b), (a, c), (b, c))]
    assert variance_of(np.stack([a, b, c])) == pytest.approx(np.mean(pairwise))


def test_a_planted_circuit_is_the_same_whatever_changes(
    planted: LoadedModel, planted_pairs: Task, tmp_path: Path
) -> None:
    named = tuple(replace(e, template=str(len(e.clean.split()) % 2)) for e in planted_pairs.train)
    trial = channel_trial(planted, replace(planted_pairs, train=named), tmp_path)
    found = stability(trial)
    assert found.verdict == "pass"
    assert found.value == 1
    assert found.n == 6
    assert found.nulls[0].value is not None
    assert found.nulls[0].value < 0.1
    assert "variance 0." in found.note
    assert {w for w in ("seed:", "prompts:", "templates:") if w in found.note} == {"seed:", "prompts:", "templates:"}
    assert stability(trial) == found
    trained = trial.circuit.record.model_copy(update={"config": {**trial.circuit.record.config, "target_loss": 1e-9}})
    missed = stability(trial.retried(replace(trial.circuit, record=trained)), runs=2, steps=5)
    assert (missed.verdict, missed.value) == ("fail", 0)
    assert "not reached" in missed.note


def test_edges_found_again_are_compared_by_prompts_and_templates_only() -> None:
    found = stability(EDGES, runs=2)
    assert found.n == 3
    assert "no seeds to vary" in found.note
    assert found.value is not None
    assert found.nulls[0].value is not None
    assert found.nulls[0].interval is not None
    assert found.value > found.nulls[0].interval[1]
    one = replace(EDGES.task, train=tuple(replace(e, template="") for e in EDGES.task.train))
    assert "One template" in stability(replace(EDGES, task=one), runs=2).note


def test_chance_is_not_stability(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control that must fail: edges drawn at random, other ones for other prompts and other seeds."""

    def drawn(
        model: ResidualSubject, task: Task, config: RandomConfig | None = None, *, progress: object = None
    ) -> EdgeScores:
        seed = (config.seed if config else 0) * 1000 + sum(map(ord, task.version))
        return random_edges(model, task, random_config(seed=seed))

    monkeypatch.setitem(method._known, "random", drawn)
    circuit = drawn(EDGES.model, EDGES.task, random_config(seed=0)).top(20, connected=False)
    found = stability(EDGES.retried(circuit), runs=5)
    assert found.verdict == "fail"
    assert found.n == 10
    assert found.value is not None
    assert found.nulls[0].interval is not None
    assert found.interval is not None
    assert found.interval[0] < found.nulls[0].interval[1]
    assert found.value < found.nulls[0].interval[1] + 0.1


def test_a_circuit_from_elsewhere_is_not_measured() -> None:
    record = EDGES.circuit.record.model_copy(update={"method": "by hand"})
    found = stability(EDGES.retried(replace(EDGES.circuit, record=record)))
    assert (found.verdict, found.value) == ("not measured", None)
