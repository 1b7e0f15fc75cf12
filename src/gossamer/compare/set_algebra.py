"""Circuits made of circuits: union, intersection and difference, on a task, beside random sets of the same size.

Of circuits that are their nodes the nodes are combined, and every edge between kept nodes is kept; if one of them has
cut edges, the edges are. A union is bigger than its parts and so nearer to the whole model, whatever it is of: beside
it stand random supersets of each part with as many parts of every kind. Beside an intersection or a difference, which
are smaller, stand random subsets of what they were cut from (of each circuit, or of the first one).

What is measured is the share of the effect that is left, (kept - empty) / (whole - empty), a ratio of means over held-
out pairs that is not clipped. Random sets of each circuit are a null of their own, and p the largest of these nulls'.
A union passes where it leaves `gain` more than the better part and more than every random superset; the others where
p is at most 5%. With fewer than 20 random sets of a circuit, or where these can be nothing but the composed set itself
(it is one of its parts), nothing is claimed: not measured.

When it lies: supersets match the number of parts of every kind, not the weight of what they add; two circuits that one
method found share what that method prefers. What is outside a circuit is replaced by values of one task: circuits of
two tasks were found with two, so the rule is part of every number (`replacement` in the methodology).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Literal, NamedTuple, get_args

import numpy as np

from gossamer.circuit import Circuit
from gossamer.compare.parts import LEAST_DRAWS, TOO_FEW, Parts, central_95, require_effect
from gossamer.errors import BadInput, nearest
from gossamer.evidence import Evidence, Null
from gossamer.graph import Graph
from gossamer.hypotheses import null_p_value
from gossamer.record import Record
from gossamer.statistics import quantile_interval, resampled_means

Operation = Literal["union", "intersection", "difference"]
WORDS: dict[Operation, str] = {"union": "|", "intersection": "&", "difference": "-"}
DRAWS, GAIN, LEVEL = 20, 0.1, 0.05
_SETS = {
    "union": lambda a, b: np.union1d(a, b), "intersection": lambda a, b: np.intersect1d(a, b),
    "difference": lambda a, b: np.setdiff1d(a, b),
}  # fmt: skip


def known_operation(name: str) -> Operation:
    """BadInput unless it is the name of an operation."""
    for operation in get_args(Operation):
        if operation == name:
            return operation
    raise BadInput(f"Unknown operation {name!r}: {nearest(name, get_args(Operation))}")


def composed(
    graph: Graph, circuits: Sequence[Circuit], operation: Operation, record: Record,
    weights: Callable[[Graph], np.ndarray] | None = None,
) -> Circuit:  # fmt: skip
    """Two or more circuits of one graph as one; a difference is the first without the others.

    weights: of a graph within some nodes, where the model has them; without it an edge has the weight that it has in
    the first circuit with it, else 0. Errors: BadInput for fewer than two circuits, circuits of another graph, or a
    result without a node.
    """
    if len(circuits) < 2:
        raise BadInput(f"Expected two or more circuits, got {len(circuits)}; give another run of the same model.")
    if other := [c for c in circuits if c.layout != graph.layout]:
        raise BadInput(f"Expected circuits of this model's graph, got one of {other[0].layout.grain}s, not of it.")
    join, of_nodes = _SETS[operation], all(c.granularity == "node" for c in circuits)
    nodes = reduce(join, (c.nodes for c in circuits))
    if of_nodes and weights:
        inside = graph.within(nodes)
        found = Circuit.from_nodes(inside, weights(inside), nodes.tolist(), record=record)
    else:
        own = [graph.numbers(c.src, c.dst, c.matrix) if c.n_edges else np.zeros(0, dtype=np.int64) for c in circuits]
        known = np.zeros(graph.n_edges)
        for c, edges in reversed(list(zip(circuits, own, strict=True))):
            known[edges] = c.weight
        if of_nodes:
            found = Circuit.from_nodes(graph, known, nodes.tolist(), record=record)
        else:
            edges = reduce(join, own)
            found = Circuit.from_edges(graph, edges, known[edges], record=record)
    if not found.n_nodes:
        raise BadInput(f"Expected circuits whose {operation} has a node, it is empty; they have nothing in common.")
    return found


class OnTask(NamedTuple):
    """One composed circuit on one task: shares of the effect that are left. parts: of each circuit alone, by name;
    best: the one it is put beside, the better of them (of a difference the first); random: of random sets, by the
    circuit that they were made from; same: the circuits whose random sets are all the composed set."""

    name: str
    task: str
    share: float
    interval: tuple[float, float]
    parts: dict[str, float]
    best: str
    random: dict[str, tuple[float, ...]]
    same: tuple[str, ...]


def require_gain(gain: float) -> None:
    """BadInput unless it is finite and at least 0."""
    if not 0 <= gain < np.inf:
        raise BadInput(f"Expected a gain of at least 0, in shares of the effect, got {gain:g}; {GAIN:g} is usual.")


def on_task(
    trial: Parts, whole_set: np.ndarray, parts: Mapping[str, np.ndarray], operation: Operation, *,
    draws: int = DRAWS, value: str | None = None,
) -> OnTask:  # fmt: skip
    """trial: of the task; whole_set: the composed circuit, bool [parts]; parts: the circuits that it is of, by
    name. Errors: BadInput without draws, or for a task that the model does not do."""
    if draws < 1:
        raise BadInput(f"Expected one or more random sets, got {draws}; {DRAWS} are usual.")
    rng, kinds = np.random.default_rng(trial.seed), np.asarray(trial.kinds)
    bases = list(parts)[:1] if operation == "difference" else list(parts)
    random = [
        _random(parts[base], whole_set, kinds, rng, grow=operation == "union") for base in bases for _ in range(draws)
    ]
    ends = np.repeat([[False], [True]], len(kinds), axis=1)
    effects = trial.effects(
        np.concatenate([ends, whole_set[None], *(p[None] for p in parts.values()), random]), value=value
    )
    empty, whole, found, *rest = effects
    require_effect(trial, empty, whole)
    below = whole - empty
    shares = [float((x - empty).mean() / below.mean()) for x in (found, *rest)]
    alone = dict(zip(parts, shares[1:], strict=False))
    starts = {base: i * draws for i, base in enumerate(bases)}
    of_random = shares[1 + len(parts) :]
    return OnTask(
        name=f" {WORDS[operation]} ".join(parts), task=trial.task.name, share=shares[0],
        interval=quantile_interval(resampled_means(found - empty, trial.seed) / resampled_means(below, trial.seed)),
        parts=alone, best=max(bases, key=lambda base: alone[base]),
        random={base: tuple(of_random[at : at + draws]) for base, at in starts.items()},
        same=tuple(base for base, at in starts.items() if (np.array(random[at : at + draws]) == whole_set).all()),
    )  # fmt: skip


def _random(
    base: np.ndarray, wanted: np.ndarray, kinds: np.ndarray, rng: np.random.Generator, *, grow: bool
) -> np.ndarray:
    """bool [parts]: the base and random further parts (grow), or random parts of it; per kind as many as wanted."""
    found = base.copy() if grow else np.zeros_like(base)
    for kind in np.unique(kinds[wanted]):
        here = kinds == kind
        free = np.flatnonzero(here & (~base if grow else base))
        n = int(wanted[here].sum()) - (int(base[here].sum()) if grow else 0)
        found[rng.choice(free, n, replace=False)] = True
    return found


def composition_evidence(
    found: OnTask, trial: Parts, operation: Operation, *, rule: str, gain: float = GAIN, value: str | None = None
) -> Evidence:  # fmt: skip
    """A composed circuit on a task as evidence. rule: whose values stand in for what is outside, in words.

    Nulls: the circuit it is put beside, alone; its random sets, then those of the others; the empty and the full one.
    Errors: BadInput for a gain below 0 or not finite.
    """
    require_gain(gain)
    union, best, n = operation == "union", found.parts[found.best], trial.n_pairs
    tests = [null_p_value(found.share, shares) for shares in found.random.values()]
    p, smallest = max(t.p_value for t in tests), max(t.smallest for t in tests)
    largest = max(map(max, found.random.values()))
    if union:
        claim, kind = "it does more than any of its parts", "random supersets"
        good = found.share >= best + gain and found.share > largest
        threshold = f"{gain:g} above the better part, and above every random superset"
    else:
        claim, kind = "it does more than random subsets", "random subsets"
        good, threshold = p <= LEVEL, f"fails if random subsets do as well with a probability above {LEVEL:g}"
    why = ""
    if found.same:
        names = " and ".join(found.same)
        why = f"Every one of the {kind} of {names} is the composed circuit itself: there is nothing to do better than. "
    elif min(map(len, found.random.values())) < LEAST_DRAWS or smallest > LEVEL:
        why = f"{TOO_FEW} "
    alone = ", ".join(f"{name} {x:.3g}" for name, x in found.parts.items())
    beside = "the first circuit alone" if operation == "difference" else "the better part alone"
    return Evidence(
        claim=f"composition ({found.name} on {found.task}): {claim}", value=found.share,
        unit="share of the effect left", interval=found.interval, n=n, seed=trial.seed,
        nulls=(
            Null(name=f"{beside} ({found.best})", value=best, n=n),
            *(
                Null(
                    name=f"{kind} of {base}, as many parts of every kind", value=float(np.mean(found.random[base])),
                    interval=central_95(np.array(found.random[base])), n=len(found.random[base]),
                )
                for base in sorted(found.random, key=lambda base: base != found.best)
            ),
            Null(name="empty circuit", value=0.0, n=n), Null(name="full circuit", value=1.0, n=n),
        ),
        verdict="not measured" if why else "pass" if good else "fail",
        methodology={**trial.methodology(value).as_dict(), "replacement": rule}, threshold=threshold,
        limits={"gain": gain} if union else {}, p_value=p, p_smallest=smallest,
        note=f"{why}Alone: {alone}. Largest random set {largest:.3g}.",
    )  # fmt: skip
