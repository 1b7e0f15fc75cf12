"""How much do circuits of one model have in common, and how much would random ones? numpy only.

Of the nodes and of the edges of two circuits A and B: |A & B| over the union (IoU), over the smaller one (IoM), over
each of the two (containment; Li and Subramani 2026, arXiv 2605.08348). All of them, and by kind: heads and MLPs apart,
as a circuit with most MLPs in it shares those with every other; at channel grain every location, of all layers
together.

Beside each stands chance: the exact mean IoU of random sets with as many nodes at every location (head grain: as many
heads, as many MLPs) or as many edges of every matrix, and the exact p-value of a permutation within those types. Of
circuits that are their nodes, every edge between them included, edges are no choice of their own: there chance is
that of the edges between random nodes, drawn.

`input` and `logits` are in every circuit of heads and are not counted. A set without an element has no overlap: it is
said to be empty, and no number stands for it.

When it lies: sites have a meaning within one model only, and in a model they need not be what is shared: two circuits
may use one channel for two things, or one thing in two channels. Circuits of one method share what the method prefers,
whatever the task; the same method with another seed is what to look at beside it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import Evidence, Null
from gossamer.graph import Graph, kind_of
from gossamer.hypotheses import adjusted_p_values, null_p_value
from gossamer.set_overlap import chance

DRAWS = 199  # random sets of nodes whose edges are counted
WORDS = {"ah": "heads", "ag": "key-value groups", "a": "attention", "m": "MLPs"}
ALL = "all"
NODES_AT_RANDOM = "random nodes, as many of every type"
EDGES_AT_RANDOM = "random edges, as many of every matrix"
EDGES_OF_NODES = "edges between random nodes, as many of every type"
LEVEL = 0.05
_LAYER = re.compile(r"^\d+\.")
_OF_HEADS = re.compile(r"input|logits|a\d+(\.[hg]\d+)?|m\d+")  # names of nodes at head and block grain


@dataclass(frozen=True)
class OverlapRow:
    """Two circuits, a and b by name, and what of them is compared: their nodes or edges, all or of one kind.

    of: how many there are in the model, None where that is not known; sizes, shared: numbers of them. The four
    overlaps are 0 to 1, None where outcome is `empty`. chance: mean IoU of random sets; p_value: of as much overlap by
    chance, smallest: the least that it can be for these sizes. All three None without `of`.
    """

    a: str
    b: str
    what: Literal["nodes", "edges"]
    kind: str
    of: int | None
    sizes: tuple[int, int]
    shared: int
    outcome: Literal["measured", "empty"]
    iou: float | None = None
    iom: float | None = None
    a_in_b: float | None = None
    b_in_a: float | None = None
    chance: float | None = None
    p_value: float | None = None
    smallest: float | None = None
    null: str = ""


class _Sets(NamedTuple):
    """What of a circuit is compared, as sorted numbers, each with its type (a number of 0 to the last)."""

    items: np.ndarray
    types: np.ndarray


def overlaps(
    circuits: Mapping[str, Circuit], graph: Graph | None = None, *, along: bool = False, seed: int = 0,
    draws: int = DRAWS,
) -> tuple[OverlapRow, ...]:  # fmt: skip
    """Every pair of two or more circuits (by name) in their order; of a pair the nodes, then the edges, all before the
    single kinds. Kinds that neither has are left out.

    graph: of the model, whose edges a random circuit has; without it edges have no chance beside them. along: the
    circuits are of one model at several times of its training, whose weights differ and whose sites do not; their
    edges then have no chance beside them unless the graph is theirs too.

    Errors: BadInput for fewer than two circuits, a graph of another model, or, along, several tasks or the same weights
    twice; Unsupported for circuits of different models.
    """
    require_comparable(circuits, along)
    first = next(iter(circuits.values()))
    if graph is not None and graph.layout != first.layout:
        raise BadInput(
            f"Expected the graph of the circuits' model ({first.layout.n_nodes} nodes), got one of "
            f"{graph.layout.n_nodes} nodes."
        )
    sites = _Sites(first)
    nodes = {name: sites.nodes(c) for name, c in circuits.items()}
    edges = {name: sites.edges(c) for name, c in circuits.items()}
    every = None if graph is None else graph.counts()
    rows: list[OverlapRow] = []
    for a, b in itertools.combinations(circuits, 2):
        rows += _rows(a, b, "nodes", sites.node_kinds, nodes[a], nodes[b], sites.counts, NODES_AT_RANDOM)
        null = EDGES_AT_RANDOM
        if circuits[a].granularity == circuits[b].granularity == "node":
            null = EDGES_OF_NODES
        found = _rows(a, b, "edges", sites.edge_kinds, edges[a], edges[b], every, null)
        if null == EDGES_OF_NODES and graph is not None:
            found = _of_random_nodes(found, circuits[a], circuits[b], sites, graph, seed, draws)
        rows += found
    return tuple(rows)


def require_comparable(circuits: Mapping[str, Circuit], along: bool = False) -> None:
    """Two or more circuits of one model, or, with `along`, of one task and layout, each of weights of its own."""
    if len(circuits) < 2:
        raise BadInput(f"Expected two or more circuits to compare, got {len(circuits)}.")
    (name, first), *others = circuits.items()
    for other_name, other in others:
        hashes = {c.record.model_sha256 for c in (first, other)} - {""}
        if other.layout == first.layout and other.matrices == first.matrices and (along or len(hashes) < 2):
            continue
        what = (
            f"{first.layout.grain}s of {first.record.model or 'a model'} and {other.layout.grain}s of "
            f"{other.record.model or 'a model'}"
        )
        raise Unsupported(
            f"the overlap of {name} and {other_name} ({what})", "a site has a meaning within one model only",
            "circuits of one model and grain; of two models each one's own reuse, overlap and cross-task matrix, side "
            "by side; of checkpoints of one training, --along",
        )  # fmt: skip
    if not along:
        return
    if len(tasks := {c.record.task for c in circuits.values()} - {""}) > 1:
        raise BadInput(
            f"Expected circuits of one task along a training, got {', '.join(sorted(tasks))}; leave others out."
        )
    weights = [c.record.model_sha256 for c in circuits.values() if c.record.model_sha256]
    if len(set(weights)) < len(weights):
        twice = next(h for h in weights if weights.count(h) > 1)
        same = [n for n, c in circuits.items() if c.record.model_sha256 == twice]
        raise BadInput(
            f"Expected checkpoints with weights of their own, {same[0]} and {same[1]} are of the same weights; compare "
            "circuits of one model without --along."
        )


def kind_shown(name: str) -> str:
    """What kind of node this location is, without its layer; empty for input and logits."""
    return WORDS.get(kind_of(name), "") if _OF_HEADS.fullmatch(name) else _LAYER.sub("", name)


class _Sites:
    """The types that nodes and edges of a layout have, and the kinds that types are shown as."""

    def __init__(self, circuit: Circuit) -> None:
        layout, matrices = circuit.layout, circuit.matrices
        self.n_nodes, self.n_matrices = layout.n_nodes, len(matrices)
        if layout.grain == "channel":
            names = [name for name, _ in layout.locations]
            widths = [width for _, width in layout.locations]
            self.node_kinds = tuple(kind_shown(name) for name in names)
            self.type_of = np.repeat(np.arange(len(names)), widths)
            self.counts = np.array(widths)
        else:
            kinds = [kind_shown(name) for name, _ in layout.locations]
            known = [k for k in WORDS.values() if k in kinds]
            self.node_kinds = tuple(known)
            self.type_of = np.array([known.index(k) if k in known else -1 for k in kinds])
            self.counts = np.bincount(self.type_of[self.type_of >= 0], minlength=len(known))
        self.edge_kinds = tuple(_LAYER.sub("", name) for name in matrices)

    def nodes(self, circuit: Circuit) -> _Sets:
        types = self.type_of[circuit.nodes]
        return _Sets(circuit.nodes[types >= 0], types[types >= 0])

    def edges(self, circuit: Circuit) -> _Sets:
        """Numbered by matrix, source and destination."""
        ends = np.stack([circuit.matrix, circuit.src, circuit.dst]).astype(np.int64)
        items = np.sort((ends[0] * self.n_nodes + ends[1]) * self.n_nodes + ends[2])
        if len(items) and (items[1:] == items[:-1]).any():
            items = np.unique(items)
        return _Sets(items, items // self.n_nodes**2)


def _rows(
    a: str, b: str, what: Literal["nodes", "edges"], kinds: Sequence[str], own: _Sets, other: _Sets,
    counts: np.ndarray | None, null: str,
) -> list[OverlapRow]:  # fmt: skip
    """kinds: one per type; counts: how many of each type the model has."""
    both = own.types[_inside(own.items, other.items)]
    n_a, n_b, n_both = (np.bincount(types, minlength=len(kinds)) for types in (own.types, other.types, both))
    rows = []
    for kind in (ALL, *dict.fromkeys(kinds)):
        chosen = np.array([kind in (ALL, k) for k in kinds], dtype=bool)
        sizes, shared = (int(n_a[chosen].sum()), int(n_b[chosen].sum())), int(n_both[chosen].sum())
        if kind != ALL and not any(sizes):
            continue
        of = None if counts is None else int(counts[chosen].sum())
        row = OverlapRow(a, b, what, kind, of, sizes, shared, "empty", null=null if of is not None else "")
        if all(sizes):
            row = replace(
                row,                 outcome="measured", iou=shared / (sum(sizes) - shared), iom=shared / min(sizes),
                a_in_b=shared / sizes[0], b_in_a=shared / sizes[1],
            )  # fmt: skip
            if counts is not None and null != EDGES_OF_NODES:
                found = chance(
                    counts[chosen].tolist(), n_a[chosen].tolist(), n_b[chosen].tolist(), shared
                )  # fmt: skip
                row = replace(row, chance=found.iou, p_value=found.p_value, smallest=found.smallest)
        rows.append(row)
    return rows


def _inside(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which of a are in b; both sorted, without repeats."""
    if not len(b):
        return np.zeros(len(a), dtype=bool)
    place = np.searchsorted(b, a)
    return np.asarray(b[np.minimum(place, len(b) - 1)] == a)


def _of_random_nodes(
    rows: Sequence[OverlapRow], a: Circuit, b: Circuit, sites: _Sites, graph: Graph, seed: int, draws: int
) -> list[OverlapRow]:
    """The rows of edges with chance beside them: b's nodes are drawn anew within their types, and the model's edges
    between them counted."""
    if draws < 1:
        raise BadInput(f"Expected one or more draws, got {draws}.")
    types, n = sites.type_of[b.nodes], len(sites.edge_kinds)
    members = [(np.flatnonzero(sites.type_of == t), int((types == t).sum())) for t in range(len(sites.node_kinds))]
    rng, found = np.random.default_rng(seed), np.zeros((draws, 2, n), dtype=np.int64)
    for draw in found:
        nodes = np.concatenate([b.nodes[types < 0], *(rng.choice(m, k, replace=False) for m, k in members)])
        kept = np.zeros(sites.n_nodes, dtype=bool)
        kept[nodes] = True
        draw[0] = np.bincount(graph.within(nodes).matrix, minlength=n)
        draw[1] = np.bincount(a.matrix[kept[a.src] & kept[a.dst]], minlength=n)
    filled = []
    for row in rows:
        if row.iou is not None:
            chosen = np.array([row.kind in (ALL, k) for k in sites.edge_kinds])
            size, shared = found[..., chosen].sum(-1).T
            null = shared / np.maximum(row.sizes[0] + size - shared, 1)
            row = replace(row, chance=float(null.mean()), **null_p_value(row.iou, null)._asdict())
        filled.append(row)
    return filled


def overlap_evidence(rows: Sequence[OverlapRow], seed: int = 0) -> tuple[Evidence, ...]:
    """A claim per row that the two share more than random ones do, p-values adjusted over all rows for false
    discoveries (Benjamini and Hochberg)."""
    tested = [i for i, row in enumerate(rows) if row.p_value is not None]
    adjusted = dict(zip(tested, adjusted_p_values([rows[i].p_value or 1.0 for i in tested]), strict=True))
    found = []
    for i, row in enumerate(rows):
        which = row.what if row.kind == ALL else f"{row.what}: {row.kind}"
        p = adjusted.get(i)
        verdict = "not measured" if p is None else "pass" if p <= LEVEL else "fail"
        note = f"{row.shared} shared, of {row.sizes[0]} and {row.sizes[1]}"
        if row.a_in_b is not None and row.b_in_a is not None:
            note += f": {row.a_in_b:.1%} of {row.a}, {row.b_in_a:.1%} of {row.b}"
        note += "."
        if row.outcome == "empty":
            note = f"Empty: {row.sizes[0]} and {row.sizes[1]} {which}, so there is no overlap to speak of."
        elif row.of is None:
            note += " No chance beside it: how many there are in the model is not known."
        nulls = (
            (Null(name=row.null, value=row.chance, n=row.of or 0),)
            if row.chance is not None
            else (Null(name=row.null or "random circuits", value=None, outcome="not measured"),)
        )
        found.append(Evidence.model_validate({
            "claim": f"overlap ({row.a} and {row.b}, {which}): they share more than random ones of their sizes",
            "value": row.iou, "unit": "intersection over union", "n": sum(row.sizes) - row.shared, "nulls": nulls,
            "verdict": verdict, "methodology": None, "seed": seed, "note": note, "unit_of_n": row.what,
            "threshold": f"fails if random ones share as much with a probability above {LEVEL:g}, adjusted over all "
            "rows", "p_value": row.p_value, "p_smallest": row.smallest, "p_adjusted": None if p is None else float(p),
        }))  # fmt: skip
    return tuple(found)
