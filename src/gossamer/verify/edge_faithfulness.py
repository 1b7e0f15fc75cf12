"""How much of a metric does a circuit of edges keep when every edge outside it is ablated? Any metric, any circuits.

f = (m(C) - m(empty)) / (m(M) - m(empty)), with m(C) the metric with the edges outside C ablated, m(empty) with all of
them and m(M) with none (Miller et al. 2024, arXiv 2407.08734; Mueller et al. 2025, arXiv 2504.13151, section 3.1). By
default the ratio of means over prompts; `mean-of-ratios` is another number and is named. f is never clipped: above 1
the circuit leaves out edges that hold the metric down, below 0 it does worse than nothing.

`metric_values` runs the model; everything after it is arithmetic on arrays [circuits, pairs].

When it lies: f is a property of an ablation and of prompts as much as of a circuit, so each number says which. Where
the model's metric does not differ from the empty circuit's there is nothing to keep, and f is refused. With `kl` and
`answer-rank` f says that the model's output is kept, not that the model does the task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from gossamer.ablation import Methodology, of_edges
from gossamer.circuit import Circuit, shares_of
from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null
from gossamer.graph import Graph, on_paths
from gossamer.metric import SIGNS, Metric, known_metric
from gossamer.statistics import bootstrap_interval, quantile_interval, resampled_means
from gossamer.subject import ResidualSubject, require_model_of
from gossamer.task import Encoded
from gossamer.verify.edge_trial import edge_values
from gossamer.verify.nulls import DRAWS, SAME_EDGES, random_edge_circuits
from gossamer.verify.trial import Progress

Aggregate = Literal["ratio-of-means", "mean-of-ratios"]
Passes = Callable[[float, tuple[float, float], np.ndarray], bool]
FEWEST = 2  # pairs of a bootstrap
ROUNDING = 1e-6  # of the metric: differences that float32 does not know
ON_PATHS = "random edges on paths, at least as many"


def kept_edges(graph: Graph, circuits: Sequence[Circuit]) -> np.ndarray:
    """Which edges of the graph each circuit keeps, bool [circuits, edges]."""
    kept = np.zeros((len(circuits), graph.n_edges), dtype=bool)
    for row, circuit in zip(kept, circuits, strict=True):
        if circuit.layout != graph.layout:
            raise BadInput(
                f"Expected a circuit at grain {graph.layout.grain} of a model with {graph.layout.n_nodes} nodes, got "
                f"one at grain {circuit.layout.grain} of {circuit.layout.n_nodes}; give the model it was found in."
            )
        row[graph.numbers(circuit.src, circuit.dst, circuit.matrix)] = True
    return kept


def random_connected(graph: Graph, kept: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Random edges on paths from input to logits, the fewest that are at least as many as kept, bool [draws, edges].

    Drawn from the kinds of readers (`matrix`) of the circuit, in its proportions; what lies on no path is then left
    out, so that the proportions are kept only nearly. Head grain.
    """
    rng, size = np.random.default_rng(seed), int(kept.sum())
    wanted = np.bincount(graph.matrix[kept], minlength=len(graph.matrices))
    found = np.zeros((draws, graph.n_edges), dtype=bool)
    for row in found:
        place = np.full(graph.n_edges, np.inf)
        for kind in np.flatnonzero(wanted):
            own = np.flatnonzero(graph.matrix == kind)
            place[own] = rng.permutation(len(own)) / wanted[kind]
        order = np.argsort(place, kind="stable")[: np.isfinite(place).sum()]
        if len(on_paths(graph, order)) < size:
            raise BadInput(
                f"Expected kinds of edges of which {size} can lie on paths from input to logits, these cannot; draw "
                "random circuits without connected."
            )
        low, high = size, len(order)
        while low < high:
            middle = (low + high) // 2
            enough = len(on_paths(graph, order[:middle])) >= size
            low, high = (low, middle) if enough else (middle + 1, high)
        row[on_paths(graph, order[:high])] = True
    return found


def metric_values(
    model: ResidualSubject, pairs: Encoded, kept: np.ndarray, *, metric: Metric = "logit-difference",
    how: Methodology | None = None, training: Encoded | None = None, seed: int = 0, pairs_at_once: int = 16,
    progress: Progress | None = None,
) -> np.ndarray:  # fmt: skip
    """The metric of each prompt that runs, under each circuit, float64 [circuits, pairs].

    kept: bool [circuits, edges]; with set `complement` all True is the model and all False the empty circuit, which
    under resampling at all positions is the counterfactual run. how: default, resampling of edges. The rest as
    edge_values.
    """
    known_metric(metric)
    how = how or of_edges(positions=pairs.marks.positions)
    n_edges = model.graph(how.component).n_edges
    if kept.ndim != 2 or kept.shape[1] != n_edges or kept.dtype != bool:
        raise BadInput(f"Expected circuits as bool [circuits, {n_edges}], got {kept.dtype} {list(kept.shape)}.")
    (values,) = edge_values(
        model, pairs, shares_of(model.graph(how.component), kept, how), how, (metric,), training=training, seed=seed,
        pairs_at_once=pairs_at_once, progress=progress,
    )  # fmt: skip
    return values


def require_aggregate(name: str) -> None:
    """BadInput unless f can be aggregated over pairs this way."""
    if name not in ("ratio-of-means", "mean-of-ratios"):
        raise BadInput(f"Expected the aggregate ratio-of-means or mean-of-ratios, got {name!r}.")


def why_undefined(
    empty: np.ndarray, whole: np.ndarray, metric: Metric = "logit-difference",
    aggregate: Aggregate = "ratio-of-means", seed: int = 0,
) -> str:  # fmt: skip
    """Why f cannot be computed from the metric of the empty circuit and of the model, both [pairs]; empty if it can.

    The bootstrap interval of the mean difference has to lie on the side on which the model does the task, by more than
    float32 rounds: two runs of one prompt can differ in the last bits, the same way in every pair.
    """
    require_aggregate(aggregate)
    better = SIGNS[metric] * (whole - empty)
    low, high = bootstrap_interval(better, seed)
    if low <= ROUNDING * max(np.abs(whole).max(), np.abs(empty).max()):
        how = "does not differ from" if high >= 0 else "is worse than"
        return (
            f"the model's {metric} (mean {whole.mean():.4g}) {how} that of the empty circuit ({empty.mean():.4g}; 95% "
            f"of the difference {SIGNS[metric] * low:.4g} to {SIGNS[metric] * high:.4g}, {len(whole)} pairs): the "
            "model does not do this task, or the ablation does not take it away"
        )
    if aggregate == "mean-of-ratios" and not better.all():
        return f"in {int((better == 0).sum())} of {len(better)} pairs the ablation changes nothing: no ratio there"
    return ""


def faithfulness_of(
    own: np.ndarray, empty: np.ndarray, whole: np.ndarray, *, metric: Metric = "logit-difference",
    aggregate: Aggregate = "ratio-of-means", seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """f of circuits from their metric [.., pairs], and bootstrap draws of it over pairs [.., draws].

    A draw takes the same pairs for the circuit, the empty circuit and the model. BadInput where f is not defined.
    """
    if why := why_undefined(empty, whole, metric, aggregate, seed):
        raise BadInput(f"Faithfulness is not defined: {why}; take prompts on which the model does the task.")
    above, below = own - empty, whole - empty
    if aggregate == "mean-of-ratios":
        return (above / below).mean(-1), resampled_means(above / below, seed)
    return above.mean(-1) / below.mean(), resampled_means(above, seed) / resampled_means(below, seed)


def circuit_faithfulness(
    model: ResidualSubject, pairs: Encoded, circuit: Circuit, *, metric: Metric = "logit-difference",
    aggregate: Aggregate = "ratio-of-means", value: str = "resample", training: Encoded | None = None,
    target: float = 0.9, draws: int = DRAWS, connected: bool = False, seed: int = 0, pairs_at_once: int = 16,
    granularity: Literal["edge", "branch"] = "edge", progress: Progress | None = None,
) -> Evidence:  # fmt: skip
    """f of a circuit on pairs that it was not found on, beside random, empty and full circuits.

    Passes if f is in [target, 2 - target] and its whole interval above every random circuit; `not measured` where f is
    not defined. A circuit of another model is BadInput. value, training, granularity: of the ablation, see
    gossamer.replacement, at the positions that the pairs have chosen. connected: random circuits on paths (see
    random_connected), a harder null than any edges.
    """
    if draws < DRAWS:
        raise BadInput(f"Expected at least {DRAWS} random circuits, got {draws}.")
    require_aggregate(aggregate)
    require_model_of(circuit.record, model)
    component: Literal["head", "block"] = "block" if circuit.layout.grain == "block" else "head"
    how = of_edges(value, granularity=granularity, component=component, positions=pairs.marks.positions)
    graph = model.graph(how.component)
    own = kept_edges(graph, [circuit])
    ends = np.repeat([[False], [True]], graph.n_edges, axis=1)
    if connected:
        random = random_connected(graph, own[0], draws, seed)
    else:
        random = kept_edges(graph, random_edge_circuits(circuit, graph, draws, seed, "edge"))
    values = metric_values(
        model, pairs, np.concatenate([own, ends, random]), metric=metric, how=how, training=training, seed=seed,
        pairs_at_once=pairs_at_once, progress=progress,
    )  # fmt: skip
    return evidence_of(
        values, metric=metric, aggregate=aggregate, how=how, target=target, seed=seed,
        null=ON_PATHS if connected else SAME_EDGES,
    )  # fmt: skip


def near_one(target: float) -> Passes:
    """Passes: f in [target, 2 - target] and its whole interval above every random draw."""
    return lambda f, ends, random: bool(target <= f <= 2 - target and ends[0] > random.max())


def evidence_of(
    values: np.ndarray, *, metric: Metric, aggregate: Aggregate, how: Methodology, target: float = 0.9,
    seed: int = 0, null: str = SAME_EDGES, claim: str = "", unit: str = "", threshold: str = "",
    passes: Passes | None = None, lost: bool = False,
) -> Evidence:  # fmt: skip
    """The verdict from the metric [circuits, pairs] of the circuit, the empty and the full one, and random ones: where
    the circuit lies between the empty and the full one. lost: how much is lost from the empty one on, where the edges
    of circuits are what is ablated. Fewer than FEWEST pairs measure nothing."""
    values = -values if lost else values
    own, empty, whole = values[:3]
    fields = {
        "claim": claim or f"faithfulness: the circuit alone keeps the model's {metric}", "n": len(own),
        "unit": unit or f"f ({aggregate} of {metric})", "methodology": how.as_dict(), "seed": seed,
        "threshold": threshold or f"fails outside {target:g} to {2 - target:g}, or if any random draw reaches the "
        "interval",
    }  # fmt: skip
    few = f"{len(own)} pairs are too few for an interval, {FEWEST} are needed" if len(own) < FEWEST else ""
    if why := few or why_undefined(empty, whole, metric, aggregate, seed):
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": f"{why}."})
    f, spread = faithfulness_of(values, empty, whole, metric=metric, aggregate=aggregate, seed=seed)
    intervals = [quantile_interval(draws) for draws in spread[:3]]
    nulls = [Null(name=null, value=float(f[3:].mean()), interval=quantile_interval(f[3:]), n=len(f) - 3)]
    for i, name in ((1, "empty circuit"), (2, "full circuit")):
        nulls.append(Null(name=name, value=float(f[i]), interval=intervals[i], n=len(own)))
    good = (passes or near_one(target))(float(f[0]), intervals[0], f[3:])
    ends = ("everything ablated", "nothing ablated") if lost else ("full", "empty")
    sign = -1 if lost else 1
    note = f"{metric}: {ends[0]} {sign * whole.mean():.4g}, circuit {sign * own.mean():.4g}, {ends[1]} "
    note += f"{sign * empty.mean():.4g}."
    if passes is None and intervals[0][0] > 1:
        note += " Above 1: the circuit leaves out edges that hold the metric down."
    return Evidence.model_validate({
        **fields, "value": float(f[0]), "interval": intervals[0], "nulls": tuple(nulls), "note": note,
        "verdict": "pass" if good else "fail",
    })  # fmt: skip
