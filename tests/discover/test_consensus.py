"""Inclusion probabilities: by hand, against runs on every resample, and where nothing varies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scalar_decoder import ScalarDecoder, numbers

from gossamer.circuit import Circuit
from gossamer.discover import Consensus, ConsensusConfig, EAPConfig, consensus, eap
from gossamer.errors import BadInput
from gossamer.registry import method
from gossamer.scores import EdgeScores
from gossamer.statistics import wilson_interval
from gossamer.task import Task

# One head writes what is above 1/2, the other what is below: a pair is about one of them alone.
EITHER = ScalarDecoder(
    heads=[[lambda q, k, v: torch.relu(v - 0.5), lambda q, k, v: torch.relu(0.5 - v)]], mlps=[lambda x: 0 * x],
    logit=lambda x: x,
)  # fmt: skip
VARIED = ScalarDecoder(
    heads=[[lambda q, k, v: torch.tanh(q + 2 * k) * v, lambda q, k, v: v**2 / 2]] * 2, mlps=[torch.sin, torch.tanh],
    logit=lambda x: torch.sin(x) + x,
)  # fmt: skip
PAIRS = numbers((9, 3), (1, 7), (4, 5), (8, 2), (2, 3))


def of(model: ScalarDecoder, task: Task, **changes: Any) -> Consensus:
    return consensus(model, task, ConsensusConfig(**{"method": "eap", "seed": 3, **changes}))


def edge(found: Consensus, src: str, dst: str) -> int:
    g = found.scores.graph
    starts = g.layout.starts
    return int(np.flatnonzero((g.src == starts[src]) & (g.dst == starts[dst]))[-1])


def test_two_pairs_by_hand() -> None:
    """The first head's edge to the logits moves by -8/10 in the first pair, the second head's by 4/10 in the second.

    Of the four resamples of two pairs one has the first pair alone, one the second alone and two both, where the first
    head's edge is the larger: it is in the cut with a probability of 3/4, the second head's with 1/4.
    """
    task = numbers((9, 5), (4, 2))
    bare = ScalarDecoder(heads=EITHER.heads, mlps=EITHER.mlps, logit=lambda x: 2 * x)
    found = of(bare, task, edges=3, resamples=1500)
    plain = eap(bare, task)
    first, second, direct = (edge(found, n, "logits") for n in ("a0.h0", "a0.h1", "input"))
    assert plain.values[[first, second]] == pytest.approx([-0.8 / 2, 0.4 / 2])
    assert found.inclusion.values[direct] == 1
    assert found.inclusion.values[first] == pytest.approx(0.75, abs=0.04)
    assert found.inclusion.values[second] == pytest.approx(0.25, abs=0.04)
    low, high = found.interval
    assert low[first] < 0.75 < high[first]
    assert found.deviation[first] == pytest.approx(0.8 * np.sqrt(1 / 8), rel=0.05)  # share of pair 1: 0, 1/2, 1
    assert found.same_sign[first] == pytest.approx(0.75, abs=0.04)  # 0 has another sign
    kept = found.scores.graph.numbers(found.circuit.src, found.circuit.dst, found.circuit.matrix)
    assert first in kept
    assert second not in kept
    assert np.array_equal(found.circuit.weight, found.inclusion.values[kept])


def as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method `plain` with the scores of EAP that does not say that they are means over pairs."""

    def plain(model: ScalarDecoder, task: Task, config: EAPConfig | None = None) -> EdgeScores:
        found = eap(model, task, config)
        details = {k: v for k, v in found.record.details.items() if k != "mean_over_pairs"}
        record = found.record.model_copy(update={"details": details})
        return EdgeScores(graph=found.graph, values=found.values, record=record)

    assert "eap" in method  # loads the others first
    monkeypatch.setitem(method._known, "plain", plain)


def test_weighted_means_are_what_runs_on_every_resample_give(monkeypatch: pytest.MonkeyPatch) -> None:
    as_any_other(monkeypatch)
    cheap, dear = (of(VARIED, PAIRS, method=name, edges=6, resamples=8) for name in ("eap", "plain"))
    assert np.array_equal(cheap.inclusion.values, dear.inclusion.values)
    for name in ("deviation", "same_sign", "interval"):
        assert np.allclose(getattr(cheap, name), getattr(dear, name))
    assert np.allclose(cheap.scores.values, eap(VARIED, PAIRS).values)
    assert np.allclose(dear.scores.values, eap(VARIED, PAIRS).values)
    assert cheap.inclusion.record.details["runs"] == 5
    assert dear.inclusion.record.details["runs"] == 10
    assert 0 < cheap.inclusion.values[cheap.inclusion.values > 0].min() < 1
    again, other = of(VARIED, PAIRS, edges=6, resamples=8), of(VARIED, PAIRS, edges=6, resamples=8, seed=4)
    assert np.array_equal(again.inclusion.values, cheap.inclusion.values)
    assert not np.array_equal(other.inclusion.values, cheap.inclusion.values)


def test_pairs_that_are_all_alike_give_one_circuit() -> None:
    found = of(VARIED, numbers(*[(9, 3)] * 4), edges=6, resamples=20)
    circuit = eap(VARIED, numbers((9, 3))).top(6)
    assert set(np.unique(found.inclusion.values)) == {0.0, 1.0}
    assert found.deviation.max() < 1e-12
    assert (found.same_sign == 1).all()
    assert np.array_equal(found.circuit.src, circuit.src)
    assert np.array_equal(found.circuit.dst, circuit.dst)
    assert not (of(VARIED, PAIRS, edges=6, resamples=20).deviation < 1e-12).all()


def test_little_memory_draws_blocks_of_pairs() -> None:
    n_edges = VARIED.graph("head").n_edges
    found = of(VARIED, PAIRS, edges=6, resamples=20, memory=3 * 8 * n_edges)
    assert found.inclusion.record.details["pairs_per_block"] == 2
    assert found.inclusion.record.details["runs"] == 3
    assert np.allclose(found.scores.values, eap(VARIED, PAIRS).values)


def test_a_method_that_returns_circuits_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def strong(model: ScalarDecoder, task: Task, config: EAPConfig | None = None) -> Circuit:
        return eap(model, task, config).above(0.2, connected=False)

    assert "eap" in method
    monkeypatch.setitem(method._known, "strong", strong)
    found = of(VARIED, PAIRS, method="strong", resamples=12)
    whole = eap(VARIED, PAIRS).above(0.2, connected=False)
    kept = found.scores.graph.numbers(whole.src, whole.dst, whole.matrix)
    assert np.array_equal(np.flatnonzero(found.scores.values), kept)
    assert found.inclusion.values[kept].mean() > found.inclusion.values.mean()
    assert found.circuit.n_edges == int((found.inclusion.values > 0.5).sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"method": "eep"}, "did you mean eap"), ({"method": "random"}, "takes a number of pairs"),
     ({"options": {"pears": 3}}, "set of options of eap"), ({"edges": 10**6}, "at most"),
     ({"method": "consensus"}, "takes a number of pairs")],
)  # fmt: skip
def test_what_cannot_be_is_told_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    changes = {"edges": 6, **changes}
    silent = ScalarDecoder(heads=VARIED.heads, mlps=VARIED.mlps, logit=_never)
    with pytest.raises(BadInput, match=message):
        of(silent, PAIRS, **changes)


def _never(x: torch.Tensor) -> torch.Tensor:
    raise AssertionError("the model was run")


def test_wilson() -> None:
    """8 of 10 and 0 of 10 at 95%, as in Brown, Cai and DasGupta 2001's definition worked out by hand."""
    low, high = wilson_interval(np.array([8, 0, 10]), 10)
    assert low == pytest.approx([0.4902, 0.0, 0.7225], abs=1e-4)
    assert high == pytest.approx([0.9433, 0.2775, 1.0], abs=1e-4)


def test_means_are_over_all_pairs_of_a_resample() -> None:
    whole = eap(VARIED, PAIRS, EAPConfig(ablation="mean")).values
    found = of(VARIED, PAIRS, edges=3, resamples=3, options={"ablation": "mean"})
    assert np.allclose(found.scores.values, whole, atol=1e-12)
    assert not np.allclose(of(VARIED, PAIRS, edges=3, resamples=3).scores.values, whole, atol=1e-3)
