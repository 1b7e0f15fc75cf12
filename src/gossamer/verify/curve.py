"""Faithfulness of the first edges of a ranking, from a thousandth of them to all: areas and sizes.

MIB (Mueller et al. 2025, arXiv 2504.13151, section 3.1, and its released evaluation): circuits of
int(k * number of edges) edges, k in FRACTIONS, without those on no path from input to logits; f is the ratio of means
of the logit difference, ablated edges carry the counterfactual prompt's value. CPR is the area under f over k by
trapezoids, edges ranked with those that the metric needs first; CMD the area under |1 - f|, edges ranked by size. k
starts at 0.001, so f = 1 throughout is a CPR of 0.999.

When it lies: half of CPR and CMD is what happens between half of the edges and all of them; the area over log k looks
at small circuits. MIB counts keys and values per query head: with grouped queries its circuits of a k have other
edges. A bootstrap of CMD sees noise as distance: near 0 its interval lies above the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from gossamer.ablation import of_edges
from gossamer.errors import BadInput
from gossamer.metric import Metric
from gossamer.scores import EdgeScores
from gossamer.statistics import quantile_interval
from gossamer.subject import ResidualSubject, require_model_of
from gossamer.task import Encoded
from gossamer.verify.edge_faithfulness import Aggregate, faithfulness_of, kept_edges, metric_values, require_aggregate
from gossamer.verify.trial import Progress

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
LEVEL = 0.9


class Estimate(NamedTuple):
    """A number with its bootstrap interval over pairs."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """f of nested circuits, ablated alike on the same pairs.

    signed: whether the edges that the metric needs came first. fractions, edges, f: [sizes], share of the edges asked
    for, edges left on paths, faithfulness (never clipped) with intervals [sizes, 2]. area, distance: under f and under
    |1 - f| over the fraction; log_area: mean of f over the logarithm of the fraction. reached: edges of the smallest
    circuit with f >= 0.9; stays: of the smallest from which every larger one has it too; infinite if there is none.
    random: the curves of random rankings, f [rankings, sizes].
    """

    signed: bool
    fractions: np.ndarray
    edges: np.ndarray
    f: np.ndarray
    intervals: np.ndarray
    area: Estimate
    distance: Estimate
    log_area: Estimate
    reached: Estimate
    stays: Estimate
    random: np.ndarray
    n: int

    @property
    def random_areas(self) -> np.ndarray:
        """`area` of each random ranking, [rankings]."""
        return area(self.random, self.fractions)

    @property
    def random_distances(self) -> np.ndarray:
        """`distance` of each random ranking, [rankings]."""
        return area(np.abs(1 - self.random), self.fractions)


class MIB(NamedTuple):
    """cpr: higher is better, needed.random_areas beside it; cmd: lower is better, 0 best, size.random_distances beside
    it; and the two curves."""

    cpr: Estimate
    cmd: Estimate
    needed: Curve
    size: Curve


def area(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Area under y [.., sizes] over x [sizes], by trapezoids."""
    return np.asarray(((y[..., 1:] + y[..., :-1]) / 2 * np.diff(x)).sum(-1))


def smallest(f: np.ndarray, edges: np.ndarray, *, stays: bool, level: float = LEVEL) -> np.ndarray:
    """Edges [..] of the first size at which f [.., sizes] is at least `level` (stays: there and ever after), or inf."""
    good = f >= level
    if stays:
        good = np.logical_and.accumulate(good[..., ::-1], axis=-1)[..., ::-1]
    return np.where(good.any(-1), edges[good.argmax(-1)].astype(np.float64), np.inf)


def ladder(scores: EdgeScores, fractions: Sequence[float] = FRACTIONS, *, signed: bool = False) -> np.ndarray:
    """The circuits of the first int(fraction * edges) edges, as `scores.top` cuts them, bool [sizes, edges]."""
    graph = scores.graph
    return kept_edges(graph, [scores.top(int(fraction * graph.n_edges), signed=signed) for fraction in fractions])


def curve_of(
    values: np.ndarray, empty: np.ndarray, whole: np.ndarray, edges: np.ndarray, *,
    fractions: Sequence[float] = FRACTIONS, signed: bool = False, metric: Metric = "logit-difference",
    aggregate: Aggregate = "ratio-of-means", seed: int = 0,
) -> Curve:  # fmt: skip
    """The curve from metrics: of a ranking's circuits and of random rankings' [1 + random, sizes, pairs], of the empty
    circuit and of the model [pairs]; edges: how many each circuit has [sizes]."""
    k = np.array(fractions)
    f, draws = faithfulness_of(values, empty, whole, metric=metric, aggregate=aggregate, seed=seed)
    spread = draws[0].T  # [draws, sizes]

    def estimate(of: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        low, high = np.quantile(of(spread), (0.025, 0.975), method="inverted_cdf")  # sizes can be infinite
        return Estimate(float(of(f[0])), (float(low), float(high)))

    return Curve(
        signed=signed, fractions=k, edges=edges, f=f[0], random=f[1:], n=len(whole),
        intervals=np.array([quantile_interval(column) for column in draws[0]]),
        area=estimate(lambda y: area(y, k)), distance=estimate(lambda y: area(np.abs(1 - y), k)),
        log_area=estimate(lambda y: area(y, np.log(k)) / np.log(k[-1] / k[0])),
        reached=estimate(lambda y: smallest(y, edges, stays=False)),
        stays=estimate(lambda y: smallest(y, edges, stays=True)),
    )  # fmt: skip


def curve(
    model: ResidualSubject, pairs: Encoded, scores: EdgeScores, *, signed: bool = False,
    fractions: Sequence[float] = FRACTIONS, metric: Metric = "logit-difference",
    aggregate: Aggregate = "ratio-of-means", value: str = "resample", training: Encoded | None = None,
    random: int = 3, seed: int = 0, pairs_at_once: int = 16, progress: Progress | None = None,
) -> Curve:  # fmt: skip
    """Faithfulness of a ranking's circuits on pairs it was not made from, beside `random` random rankings.

    signed: the edges that the metric needs first, else those of largest score. value, training: of the ablation, see
    gossamer.replacement. One run per different circuit and `pairs_at_once` pairs. BadInput where the model does not do
    the task, or the scores are of another model.
    """
    require_aggregate(aggregate)
    values, ends, edges = _values(
        model,
        pairs,
        scores,
        (signed,),
        tuple(fractions),
        metric,
        value,
        training,
        random,
        seed,
        pairs_at_once,
        progress,
    )
    return curve_of(
        values,
        ends[0],
        ends[1],
        edges[0],
        fractions=fractions,
        signed=signed,
        metric=metric,
        aggregate=aggregate,
        seed=seed,
    )


def mib(
    model: ResidualSubject, pairs: Encoded, scores: EdgeScores, *, random: int = 3, seed: int = 0,
    pairs_at_once: int = 16, progress: Progress | None = None,
) -> MIB:  # fmt: skip
    """CPR and CMD as MIB defines them, each from its own ranking of the same scores."""
    both = (True, False)
    values, ends, edges = _values(
        model, pairs, scores, both, FRACTIONS, "logit-difference", "resample", None, random, seed, pairs_at_once,
        progress,
    )  # fmt: skip
    needed, size = (
        curve_of(values[[i, *range(2, 2 + random)]], ends[0], ends[1], edges[i], signed=signed, seed=seed)
        for i, signed in enumerate(both)
    )
    return MIB(needed.area, size.distance, needed, size)


def _values(
    model: ResidualSubject, pairs: Encoded, scores: EdgeScores, rankings: Sequence[bool], k: tuple[float, ...],
    metric: Metric, value: str, training: Encoded | None, random: int, seed: int, pairs_at_once: int,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Metrics of the rankings' (signed or not) and of random rankings' circuits [rankings, sizes, pairs], of the empty
    circuit and of the model [2, pairs], and the edges of each circuit [rankings, sizes]."""
    if len(k) < 2 or not all(0 < a < b <= 1 for a, b in pairwise(k)):
        raise BadInput(f"Expected two or more growing fractions above 0 and up to 1, got {k}.")
    if random < 0:
        raise BadInput(f"Expected 0 or more random rankings, got {random}.")
    require_model_of(scores.record, model)
    component: Literal["head", "block"] = "block" if scores.graph.layout.grain == "block" else "head"
    how = of_edges(value, component=component, positions=pairs.marks.positions)
    graph, rng = model.graph(how.component), np.random.default_rng(seed)
    if scores.graph.layout != graph.layout or not np.array_equal(scores.graph.dst, graph.dst):
        raise BadInput(f"Expected scores of the {graph.n_edges} edges of {model.name}, got others; score this model.")
    rungs = [ladder(scores, k, signed=signed) for signed in rankings]
    rungs += [ladder(replace(scores, values=rng.random(graph.n_edges)), k) for _ in range(random)]
    ends = np.repeat([[False], [True]], graph.n_edges, axis=1)
    found = metric_values(
        model, pairs, np.concatenate([ends, *rungs]), metric=metric, how=how, training=training, seed=seed,
        pairs_at_once=pairs_at_once, progress=progress,
    )  # fmt: skip
    return found[2:].reshape(len(rungs), len(k), -1), found[:2], np.stack(rungs).sum(-1)
