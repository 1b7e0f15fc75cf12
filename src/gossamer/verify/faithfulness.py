"""How much of the model's metric does a circuit of heads keep when every edge outside it is ablated?

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
import torch
from torch import Tensor

from gossamer.ablation import Methodology, methodology
from gossamer.circuit import Circuit
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import Evidence, Null
from gossamer.graph import Graph, on_paths
from gossamer.metric import SIGNS, Metric, known_metric, row_metric
from gossamer.statistics import bootstrap_interval, quantile_interval, ratio_of_means, resampled_means
from gossamer.subject import ResidualSubject, require_model_of
from gossamer.task import Encoded, sides
from gossamer.verify.nulls import DRAWS, SAME_EDGES

Aggregate = Literal["ratio-of-means", "mean-of-ratios"]
RESAMPLE = methodology("acdc-resample")
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


def random_kept(graph: Graph, kept: np.ndarray, draws: int, seed: int, *, connected: bool = False) -> np.ndarray:
    """Random circuits of the size of one (kept: bool [edges]) from the whole graph, bool [draws, edges].

    As many edges into each kind of reader (`matrix`). connected: only edges on paths from input to logits, the fewest
    that make up at least as many; the kinds are then drawn in the circuit's proportions and kept approximately.
    """
    rng = np.random.default_rng(seed)
    wanted = np.bincount(graph.matrix[kept], minlength=len(graph.matrices))
    found = np.zeros((draws, graph.n_edges), dtype=bool)
    for row in found:
        place = np.full(graph.n_edges, np.inf)  # below 1 for as many edges of each kind as are wanted
        for kind in np.flatnonzero(wanted):
            own = np.flatnonzero(graph.matrix == kind)
            place[own] = rng.permutation(len(own)) / wanted[kind]
        order = np.argsort(place, kind="stable")[: np.isfinite(place).sum()]
        row[_connected(graph, order, int(kept.sum())) if connected else order[: kept.sum()]] = True
    return found


def _connected(graph: Graph, order: np.ndarray, size: int) -> np.ndarray:
    """Those on paths of the fewest first edges of an order of which at least `size` are."""
    low, high = size, len(order)
    if len(on_paths(graph, order)) < size:
        raise BadInput(
            f"Expected kinds of edges of which {size} can lie on paths from input to logits, these cannot; draw random "
            "circuits without connected."
        )
    while low < high:
        middle = (low + high) // 2
        if len(on_paths(graph, order[:middle])) >= size:
            high = middle
        else:
            low = middle + 1
    return on_paths(graph, order[:high])


@torch.no_grad()
def metric_values(
    model: ResidualSubject, pairs: Encoded, kept: np.ndarray, *, metric: Metric = "logit-difference",
    method: Methodology = RESAMPLE, pairs_at_once: int = 16, progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """The metric of each clean prompt with the edges outside each circuit ablated, float64 [circuits, pairs].

    kept: bool [circuits, edges]; all True is the model, all False the empty circuit, which under resampling is the
    counterfactual run. Equal circuits are run once. pairs_at_once: memory, no number changes with it beyond rounding.
    progress(runs done, all runs).
    """
    n_edges = model.graph("head").n_edges
    if kept.ndim != 2 or kept.shape[1] != n_edges or kept.dtype != bool:
        raise BadInput(f"Expected circuits as bool [circuits, {n_edges}], got {kept.dtype} {list(kept.shape)}.")
    if pairs_at_once < 1:
        raise BadInput(f"Expected at least 1 pair at once, got {pairs_at_once}.")
    _require_known(method)
    known_metric(metric)
    first: dict[bytes, int] = {}
    which = np.array([first.setdefault(np.packbits(row).tobytes(), i) for i, row in enumerate(kept)])
    values = np.empty((len(kept), pairs.n_pairs))
    starts = range(0, pairs.n_pairs, pairs_at_once)
    done, runs = 0, len(starts) * len(first)
    for start in starts:
        stop = min(start + pairs_at_once, pairs.n_pairs)
        clean, other = sides(pairs.pairs(start, stop))
        reference = _reference(model, clean, other, method)

        def logits(row: np.ndarray, clean: Encoded = clean, reference: Tensor = reference) -> Tensor:
            found = model.patched(clean, torch.from_numpy(~row).to(reference), reference)
            return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found

        whole = logits(np.ones(n_edges, dtype=bool)) if metric == "kl" else None
        score = row_metric(metric, clean.answer, clean.wrong, whole)
        for i in first.values():
            values[i, start:stop] = score(logits(kept[i])).cpu().double().numpy()
            done += 1
            if progress:
                progress(done, runs)
    return values[which]


def _require_known(method: Methodology) -> None:
    """Unsupported unless the edges of heads outside a circuit are to be resampled or zeroed."""
    known = (
        (method.granularity, method.component, method.positions, method.direction, method.set)
        == ("edge", "head", "all", "clean", "complement")
    )  # fmt: skip
    if not known or (method.value, method.reference) not in (("resample", "counterfactual"), ("zero", "none")):
        raise Unsupported(
            f"faithfulness under {method.as_dict()}", "only edges of heads outside a circuit are resampled or zeroed",
            "acdc-resample",
        )  # fmt: skip


def _reference(model: ResidualSubject, clean: Encoded, other: Encoded, method: Methodology) -> Tensor:
    """What ablated writes are replaced by, [writers, rows, pos, d]."""
    written, _ = model.writes(other if method.value == "resample" else clean)
    return written if method.value == "resample" else torch.zeros_like(written)


def require_aggregate(name: str) -> None:
    """BadInput unless f can be aggregated over pairs this way."""
    if name not in ("ratio-of-means", "mean-of-ratios"):
        raise BadInput(f"Expected the aggregate ratio-of-means or mean-of-ratios, got {name!r}.")


def why_undefined(
    empty: np.ndarray, whole: np.ndarray, metric: Metric = "logit-difference",
    aggregate: Aggregate = "ratio-of-means", seed: int = 0,
) -> str:  # fmt: skip
    """Why f cannot be computed from the metric of the empty circuit and of the model, both [pairs]; empty if it can.

    The bootstrap interval of the mean difference has to lie on the side on which the model does the task.
    """
    require_aggregate(aggregate)
    better = SIGNS[metric] * (whole - empty)
    low, high = bootstrap_interval(better, seed)
    if low <= 0:
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
    if aggregate == "mean-of-ratios":
        ratios = (own - empty) / (whole - empty)
        return ratios.mean(-1), resampled_means(ratios, seed)
    return ratio_of_means(own - empty, whole - empty, seed)


def faithfulness(
    model: ResidualSubject, pairs: Encoded, circuit: Circuit, *, metric: Metric = "logit-difference",
    aggregate: Aggregate = "ratio-of-means", method: Methodology = RESAMPLE, target: float = 0.9,
    draws: int = DRAWS, connected: bool = False, seed: int = 0, pairs_at_once: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Evidence:  # fmt: skip
    """f of a circuit on pairs that it was not found on, beside random, empty and full circuits.

    Passes if the upper end of the interval reaches `target` and no random circuit does as well; `not measured` where f
    is not defined. A circuit of another model is BadInput. connected: random circuits on paths (see random_kept).
    """
    if draws < DRAWS:
        raise BadInput(f"Expected at least {DRAWS} random circuits, got {draws}.")
    require_aggregate(aggregate)
    require_model_of(circuit.record, model)
    graph = model.graph("head")
    (own,) = kept_edges(graph, [circuit])
    random = random_kept(graph, own, draws, seed, connected=connected)
    kept = np.concatenate([own[None], np.zeros_like(own)[None], np.ones_like(own)[None], random])
    values = metric_values(
        model, pairs, kept, metric=metric, method=method, pairs_at_once=pairs_at_once, progress=progress
    )
    return evidence_of(
        values, metric=metric, aggregate=aggregate, method=method, target=target, seed=seed,
        null=ON_PATHS if connected else SAME_EDGES,
    )  # fmt: skip


def evidence_of(
    values: np.ndarray, *, metric: Metric, aggregate: Aggregate, method: Methodology, target: float = 0.9,
    seed: int = 0, null: str = SAME_EDGES,
) -> Evidence:  # fmt: skip
    """The verdict from the metric [circuits, pairs] of the circuit, the empty and the full one, and random ones."""
    own, empty, whole = values[:3]
    claim, unit = f"faithfulness: the circuit alone keeps the model's {metric}", f"share kept, {aggregate}"
    threshold = f"fails if the interval lies below {target:g} or any random circuit does as well"
    if why := why_undefined(empty, whole, metric, aggregate, seed):
        return Evidence(
            claim=claim, value=None, unit=unit, n=len(own), verdict="not measured", methodology=method.as_dict(),
            threshold=threshold, seed=seed, note=f"Not measured: {why}.",
        )  # fmt: skip
    f, spread = faithfulness_of(values, empty, whole, metric=metric, aggregate=aggregate, seed=seed)
    intervals = [quantile_interval(draws) for draws in spread]
    nulls = [Null(name=null, value=float(f[3:].mean()), interval=quantile_interval(f[3:]), n=len(f) - 3)]
    for i, name in ((1, "empty circuit"), (2, "full circuit")):
        nulls.append(Null(name=name, value=float(f[i]), interval=intervals[i], n=len(own)))
    good = intervals[0][1] >= target and f[0] > f[3:].max()
    note = f"{metric}: model {whole.mean():.4g}, circuit {own.mean():.4g}, empty circuit {empty.mean():.4g}."
    if intervals[0][0] > 1:
        note += " Above 1: the circuit leaves out edges that hold the metric down."
    return Evidence(
        claim=claim, value=float(f[0]), unit=unit, interval=intervals[0], n=len(own), nulls=tuple(nulls),
        verdict="pass" if good else "fail", methodology=method.as_dict(), threshold=threshold, seed=seed, note=note,
    )  # fmt: skip
