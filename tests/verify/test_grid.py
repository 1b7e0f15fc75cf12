"""Scores move with the methodology as paper 9 says, on programs whose true edges are known; rows are what they name."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from mechanisms import trial_of
from toys import PLANTED_NODES
from verify_helpers import circuit_of

from gossamer.discover import ACDCConfig, EAPIGConfig, acdc, eap_ig
from gossamer.errors import BadInput
from gossamer.models import LoadedModel
from gossamer.models.compiled import PROGRAMS
from gossamer.task import Task
from gossamer.verify import ChannelTrial, EdgeTrial, roc, roc_of_circuits
from gossamer.verify.edge_faithfulness import kept_edges
from gossamer.verify.grid import AGGREGATES, QUANTILES, TARGETS, GridRow, grid

PROPORTION = PROGRAMS["proportion"](n=8)


def of_truth(truth: str) -> EdgeTrial:
    every = trial_of(PROPORTION.model, PROPORTION.task, set())
    return trial_of(PROPORTION.model, PROPORTION.task, {every.part(int(i)) for i in PROPORTION.true_edges(truth)})


@functools.cache
def rows_of(truth: str) -> tuple[GridRow, ...]:
    return tuple(row for _, rows in grid(of_truth(truth), values=("resample", "mean", "zero")) for row in rows)


def score(truth: str, value: str, **how: str) -> float:
    wanted = {
        "value": value,
        "granularity": "edge",
        "asks": "maintained performance",
        "aggregate": AGGREGATES[0],
        **how,
    }
    (row,) = (r for r in rows_of(truth) if all(getattr(r, k) == v for k, v in wanted.items()))
    assert row.score is not None
    return row.score


def test_the_truth_depends_on_the_ablation() -> None:
    """Three edges are the whole circuit under resampling and means, and two short of it under zero ablation; five are
    it under all (paper 9, X-proportion)."""
    assert [len(PROPORTION.true_edges(v)) for v in ("resample", "zero")] == [3, 5]
    assert score("resample", "resample") == pytest.approx(1, abs=1e-9)
    assert score("zero", "resample") == pytest.approx(1, abs=1e-9)
    assert score("zero", "zero") == pytest.approx(1, abs=1e-9)
    assert abs(score("resample", "zero") - 1) > 0.05
    assert score("resample", "resample", asks="destroyed performance") == pytest.approx(0, abs=1e-9)
    assert score("resample", "resample", asks="restored performance") == pytest.approx(1, abs=1e-9)
    assert score("resample", "resample", asks="maintained inefficacy") == pytest.approx(0, abs=1e-9)


def truth(value: str) -> np.ndarray:
    return np.isin(np.arange(PROPORTION.model.graph().n_edges), PROPORTION.true_edges(value))


def test_roc_is_one_with_matched_truth_and_below_with_the_other() -> None:
    """A ranking under zero ablation has the three edges first and then the two, so it is its circuit that errs."""
    ranked = eap_ig(PROPORTION.model, PROPORTION.task, EAPIGConfig(steps=5))
    assert roc(ranked, truth("resample")).pessimistic == 1
    assert roc(ranked, truth("zero")).pessimistic < 1
    for value, other in (("resample", "zero"), ("zero", "resample")):
        found = acdc(PROPORTION.model, PROPORTION.task, ACDCConfig(threshold=1e-3, ablation=value))
        kept = kept_edges(PROPORTION.model.graph(), [found])
        assert roc_of_circuits(kept, truth(value)).pessimistic == 1
        assert roc_of_circuits(kept, truth(other)).pessimistic < 1


def test_every_row_says_all_of_its_methodology_and_how_single_pairs_fare() -> None:
    rows = rows_of("resample")
    assert len(rows) == 2 * 3 * (3 * 2 + 2)
    assert len({(r.granularity, r.value, r.direction, r.set, r.aggregate) for r in rows}) == len(rows)
    assert {(r.direction, r.set, r.asks, r.expected) for r in rows} == set(TARGETS)
    for row in rows:
        assert row.component == "head"
        assert row.positions == "all"
        if row.why:
            assert row.score is row.interval is row.quantiles is row.random is None
            continue
        assert row.interval is not None
        assert row.quantiles is not None
        assert row.random is not None
        assert row.interval[0] <= row.score <= row.interval[1] or row.interval[0] == pytest.approx(row.score)
        assert len(row.quantiles) == len(QUANTILES)
        assert list(row.quantiles) == sorted(row.quantiles)
        assert row.random[1] <= row.random[0] <= row.random[2]
    zero = [r for r in rows if (r.granularity, r.value, r.asks) == ("edge", "zero", "maintained performance")]
    assert zero[0].score != zero[1].score  # ratio of means, mean of ratios
    # a circuit of edges as its nodes keeps more
    assert {r.granularity for r in rows} == {"edge", "node", "branch"}


def test_rows_that_are_known_are_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = of_truth("resample")
    known = dict(grid(trial, values=("resample",), draws=1))
    monkeypatch.setattr(EdgeTrial, "effects", lambda *a, **k: pytest.fail("ran"))
    assert dict(grid(trial, values=("resample",), draws=1, known=known)) == known


def test_channels_alike(planted: LoadedModel, planted_pairs: Task) -> None:
    trial = ChannelTrial(
        model=planted, circuit=circuit_of(planted, PLANTED_NODES), task=planted_pairs,
        heldout=planted.encode(planted_pairs.heldout[:16]),
    )  # fmt: skip
    rows = [row for _, found in grid(trial, values=("mean", "zero", "resample"), draws=2) for row in found]
    assert len(rows) == 2 * (3 * 2 + 2 + 2 * 2)
    by = {(r.granularity, r.value, r.asks): r for r in rows if r.aggregate == AGGREGATES[0]}
    for key, row in by.items():
        assert row.score == pytest.approx(row.expected, abs=0.1), key
    # cutting the edges of a circuit of nodes and ablating nothing else takes the answer away as its nodes do
    assert by["edge", "mean", "destroyed performance"].score == pytest.approx(0, abs=0.05)
    (own,) = trial.effects(trial.inside[None], value="zero")
    empty, whole = trial.effects(np.repeat([[False], [True]], len(trial.kinds), axis=1), value="zero")
    wanted = (own - empty).mean() / (whole - empty).mean()
    assert by["node", "zero", "maintained performance"].score == pytest.approx(wanted)


def test_what_is_not_a_grid_is_refused_before_a_run() -> None:
    trial = of_truth("resample")
    with pytest.raises(BadInput, match=r"Unknown ablation value 'meen' here.*mean"):
        grid(trial, values=("meen",))
    with pytest.raises(BadInput, match="at least 1 random set"):
        grid(trial, draws=0)
    few = trial.on(trial.task.heldout[:1])
    _, rows = next(grid(few, values=("resample",), draws=1))
    assert rows[0].score is None
    assert "too few" in rows[0].why
