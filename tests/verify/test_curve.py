"""Areas and sizes of a curve of faithfulness, by hand, and of an additive model's rankings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from additive import Additive

from gossamer.errors import BadInput
from gossamer.graph import on_paths
from gossamer.verify import curve, mib
from gossamer.verify.curve import FRACTIONS, Curve, area, curve_of, ladder, smallest

NUMBERS = [(1, -1), (2, -1), (10, 3), (4, -6)]
EMPTY, WHOLE = np.zeros(3), np.array([1.0, 2.0, 3.0])


def of(f: Sequence[float] | np.ndarray, fractions: tuple[float, ...] = FRACTIONS) -> Curve:
    """The curve of circuits with these f, the same on every pair."""
    edges = np.array([round(1000 * k) for k in fractions])
    return curve_of(np.array(f)[None, :, None] * WHOLE, EMPTY, WHOLE, edges, fractions=fractions)


def test_an_oracle_has_the_width_of_the_ladder_and_no_distance() -> None:
    found = of(np.ones(10))
    assert found.area.value == pytest.approx(0.999, abs=1e-15)  # from 0.001 to 1
    assert found.distance.value == 0
    assert found.log_area.value == pytest.approx(1)
    assert found.reached == found.stays == (1, (1, 1))
    assert found.area.interval == pytest.approx((0.999, 0.999))


def test_areas_by_hand() -> None:
    assert of(FRACTIONS).area.value == pytest.approx((1 - 0.001**2) / 2)  # f = k: trapezoids are exact
    assert of(FRACTIONS).distance.value == pytest.approx(0.999 - (1 - 0.001**2) / 2)
    found = of([2, 0, 1], (0.1, 0.5, 1.0))  # overshoot counts in both, and is not clipped
    assert found.area.value == pytest.approx(0.4 * 1 + 0.5 * 0.5)
    assert found.distance.value == pytest.approx(0.4 * 1 + 0.5 * 0.5)
    assert found.log_area.value == pytest.approx(1 * math.log10(5) + 0.5 * math.log10(2))
    assert (found.reached.value, found.stays.value) == (100, 1000)
    deep = of([-3, -1, 1], (0.1, 0.5, 1.0))
    assert deep.area.value == pytest.approx(-0.8)
    assert deep.distance.value == pytest.approx(0.4 * 3 + 0.5 * 1)
    assert area(np.array([[1.0, 1.0], [0.0, 2.0]]), np.array([0.0, 3.0])).tolist() == [3, 3]


def test_the_size_at_nine_tenths() -> None:
    edges = np.array([1, 2, 3, 4])
    f = np.array([[0.9, 0.8, 0.95, 1], [0, 0, 0, 0.9], [1, 1, 1, 1], [0.1, 1, 1, 0.5]])
    assert smallest(f, edges, stays=False).tolist() == [1, 4, 1, 2]
    assert smallest(f, edges, stays=True).tolist() == [3, 4, 1, math.inf]
    assert smallest(f, edges, stays=False, level=1.5).tolist() == [math.inf] * 4


def test_intervals_are_of_pairs_drawn_together() -> None:
    """Two kinds of pairs: on one the circuit keeps all, on the other nothing."""
    keeps = np.r_[np.ones(50), np.zeros(50)]
    values = np.stack([keeps, np.ones(100)])[None]
    found = curve_of(values, np.zeros(100), np.ones(100), np.array([10, 20]), fractions=(0.5, 1.0))
    (low, high), last = found.intervals
    assert 0.35 < low < 0.45 < found.f[0] == 0.5 < 0.55 < high < 0.65
    assert last.tolist() == pytest.approx([1, 1], abs=1e-12)
    assert found.area.value == pytest.approx(0.375)
    assert found.area.interval == pytest.approx((0.25 * (1 + low), 0.25 * (1 + high)), abs=0.005)
    assert found.distance.interval == pytest.approx((0.25 * (1 - high), 0.25 * (1 - low)), abs=0.005)
    assert found.reached == (20, (20, 20))
    assert found.n == 100


def test_the_rankings_of_an_additive_model() -> None:
    """f of a rung is its share of the weights. Edges that hold the metric down come last when the needed come first."""
    rng = np.random.default_rng(0)
    weights = rng.normal(1, 3, Additive([], NUMBERS).graph().n_edges)
    model = Additive(weights, NUMBERS)
    graph, scores = model.graph(), model.scores(-weights)  # ablating a needed edge lowers the metric
    for signed, key in ((True, -weights), (False, -np.abs(weights))):
        found = curve(model, model.pairs, scores, signed=signed)
        assert found.signed == signed
        for k, f, edges in zip(FRACTIONS, found.f, found.edges, strict=True):
            kept = on_paths(graph, np.argsort(key)[: int(k * graph.n_edges)])
            assert f == pytest.approx(weights[kept].sum() / weights.sum(), abs=1e-12)
            assert edges == len(kept)
        assert found.f[-1] == 1
        assert found.random.shape == (3, 10)
    both = mib(model, model.pairs, scores, pairs_at_once=3)
    assert both.cpr.value == pytest.approx(both.needed.area.value)
    assert both.cmd.value == pytest.approx(found.distance.value)
    assert np.allclose(both.size.f, found.f)
    assert both.cpr.value > max(both.needed.random_areas.max(), both.size.area.value) > 0
    assert both.needed.f.max() > 1  # never clipped
    assert np.allclose(both.size.random, found.random)
    with pytest.raises(BadInput, match="not defined"):
        mib(Additive(weights, [(1, -1), (-1, 1)]), Additive(weights, [(1, -1), (-1, 1)]).pairs, scores)


def test_mibs_distance_is_lowest_for_the_right_ranking_and_a_wrong_one_fails() -> None:
    graph = Additive([], NUMBERS).graph()
    mlps = [graph.layout.starts[name] for name in ("m0", "m1", "m2")]
    into, out = (graph.src == 0) & np.isin(graph.dst, mlps), np.isin(graph.src, mlps) & (graph.matrix == 4)
    weights = np.where(into | out, 5.0, 1e-3)  # six edges, on paths
    model = Additive(weights, NUMBERS)
    right, wrong = (mib(model, model.pairs, model.scores(v)) for v in (-weights, -1 / weights))
    assert right.size.stays.value == 6
    assert right.cmd.value < right.size.random_distances.min() < wrong.cmd.value
    assert right.cpr.value > right.needed.random_areas.max() > wrong.cpr.value


def test_sizes_are_whole_edges_and_equal_circuits_run_once() -> None:
    model = Additive([1.0], NUMBERS)
    graph = model.graph()
    scores = model.scores(np.zeros(graph.n_edges))
    rungs = ladder(scores)
    assert [int(r.sum()) for r in rungs[:2]] == [0, 0]  # a thousandth of this graph is no edge
    assert rungs[-1].all()
    curve(model, model.pairs, scores, random=0)
    assert model.runs == len({r.tobytes() for r in rungs}) < len(rungs)


def test_bad_input() -> None:
    model = Additive([1.0], NUMBERS)
    scores = model.scores(np.zeros(model.graph().n_edges))
    for wrong in ((0.5,), (0.5, 0.2), (0.0, 1.0), (0.5, 2.0)):
        with pytest.raises(BadInput, match="growing fractions"):
            curve(model, model.pairs, scores, fractions=wrong)
    with pytest.raises(BadInput, match="0 or more random"):
        curve(model, model.pairs, scores, random=-1)
    with pytest.raises(BadInput, match="Expected the model the circuit was found in"):
        curve(model, model.pairs, model.scores(scores.values, model_sha256="1" * 64))
    assert model.runs == 0
