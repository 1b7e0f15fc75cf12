"""Sites and the legal edges between them at one grain: arrays of node numbers, no weights.

Which kinds count in "edges" (and so in every reported size):

| grain   | counted    | present but not counted                              |
| ------- | ---------- | ---------------------------------------------------- |
| channel | `weight`   | `carry`, `attention`, `bias`, `embed`, `unembed`     |
| head    | `residual` |                                                      |
| block   | `residual` |                                                      |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gossamer.errors import BadInput, nearest
from gossamer.site import Site


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Numbering of the nodes of a graph: locations in order, each with its number of channels."""

    grain: str
    locations: tuple[tuple[str, int], ...]

    @cached_property
    def starts(self) -> dict[str, int]:
        """First node number of each location."""
        found, total = {}, 0
        for name, width in self.locations:
            found[name] = total
            total += width
        return found

    @cached_property
    def n_nodes(self) -> int:
        return sum(width for _, width in self.locations)

    def width(self, location: str) -> int:
        """Channels at a location; an unknown one is BadInput with the nearest names."""
        widths = dict(self.locations)
        if location not in widths:
            raise BadInput(f"Unknown location {location!r}: {nearest(location, widths)}")
        return widths[location]

    def number(self, site: Site) -> int:
        """The node number of a site; an index beyond its location is BadInput."""
        width = self.width(site.location)
        if self.grain != "channel" and site.index is None:
            return self.starts[site.location]
        if site.index is None or not 0 <= site.index < width:
            raise BadInput(f"Expected an index of 0 to {width - 1} at {site.location}, got {site}.")
        return self.starts[site.location] + site.index

    def site(self, number: int) -> Site:
        """The site with a node number."""
        if not 0 <= number < self.n_nodes:
            raise BadInput(f"Expected a node number of 0 to {self.n_nodes - 1}, got {number}.")
        for name, start in reversed(self.starts.items()):
            if number >= start:
                return Site(name, int(number - start) if self.grain == "channel" else None)
        raise AssertionError("unreachable: the first location starts at 0")

    def split(self, per_node: np.ndarray) -> dict[str, np.ndarray]:
        """An array over all nodes ([..., n_nodes]) cut into one view per location."""
        return {name: per_node[..., self.starts[name] : self.starts[name] + width] for name, width in self.locations}


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Edges as three parallel arrays: source and destination node numbers, and the number of the weight matrix.

    `matrices` names the matrices; every edge here is of the kind its grain counts. A dense model's edges are too many
    to list: ask its graph for those `within` some nodes.
    """

    layout: Layout
    src: np.ndarray
    dst: np.ndarray
    matrix: np.ndarray
    matrices: tuple[str, ...]

    @property
    def n_edges(self) -> int:
        return len(self.src)

    def numbers(self, src: np.ndarray, dst: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Indices of edges given by their ends and matrix, in the order given; one that is not here is BadInput."""
        sizes = (self.layout.n_nodes, self.layout.n_nodes, len(self.matrices))
        own, asked = (np.ravel_multi_index(e, sizes) for e in ((self.src, self.dst, self.matrix), (src, dst, matrix)))
        order = np.argsort(own)
        found = order[np.minimum(np.searchsorted(own, asked, sorter=order), len(own) - 1)]
        if not np.array_equal(own[found], asked):
            raise BadInput("Expected edges of this graph, some are not; take them from a circuit of the same model.")
        return found

    def between(self, nodes: np.ndarray) -> np.ndarray:
        """Indices of the edges whose two ends are both in `nodes` (node numbers)."""
        kept = np.zeros(self.layout.n_nodes, dtype=bool)
        kept[nodes] = True
        return np.flatnonzero(kept[self.src] & kept[self.dst])

    def count(self, nodes: np.ndarray) -> int:
        """How many edges have both ends in `nodes` (node numbers)."""
        return len(self.between(nodes))

    def counts(self) -> np.ndarray:
        """How many edges there are of each matrix, [matrices]."""
        return np.bincount(self.matrix, minlength=len(self.matrices))

    def within(self, nodes: np.ndarray) -> Graph:
        """The graph with only the edges between `nodes` (node numbers)."""
        return self._part(self.between(nodes))

    def draw(self, counts: np.ndarray, rng: np.random.Generator) -> Graph:
        """The graph with only so many edges of each matrix (`counts`), drawn at random."""
        drawn = [
            rng.choice(np.flatnonzero(self.matrix == number), n, replace=False) for number, n in enumerate(counts)
        ]  # fmt: skip
        return self._part(np.concatenate(drawn))

    def _part(self, edges: np.ndarray) -> Graph:
        return Graph(
            layout=self.layout, src=self.src[edges], dst=self.dst[edges], matrix=self.matrix[edges],
            matrices=self.matrices,
        )  # fmt: skip


def carries(layout: Layout, nodes: np.ndarray) -> list[tuple[int, int]]:
    """Links at channel grain that are not counted as edges, between nodes of a set: (source, destination) numbers.

    A residual write and every later read of the same channel, and a query channel with its key channel (without
    grouped queries).
    """
    order = [name for name, _ in layout.locations]
    by_location: dict[str, dict[int, int]] = {name: {} for name in order}
    for number in nodes.tolist():
        site = layout.site(number)
        by_location[site.location][site.index or 0] = number
    found: list[tuple[int, int]] = []
    for place, name in enumerate(order):
        if name.endswith(".resid_delta"):
            reads = [n for n in order[place + 1 :] if n.endswith(".act_in") or n == "final_resid"]
        elif name.endswith(".attn.q") and layout.width(name) == layout.width(name[:-1] + "k"):
            reads = [name[:-1] + "k"]
        else:
            continue
        found += [
            (number, by_location[read][channel])
            for read in reads for channel, number in by_location[name].items() if channel in by_location[read]
        ]  # fmt: skip
    return found


READS = ("q", "k", "v", "mlp", "logits")  # what an edge at head grain is read by: the "matrices" of its graph


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What decides the graph of a decoder at head grain. n_groups: key-value groups, n_heads without grouped queries;
    parallel: per layer, whether its MLP does not read what its own attention wrote."""

    n_heads: int
    n_groups: int
    parallel: tuple[bool, ...]

    @property
    def n_layers(self) -> int:
        return len(self.parallel)

    @property
    def writers(self) -> tuple[str, ...]:
        """Who writes to the residual stream, in order: input, and of each layer its heads and its MLP."""
        layers = range(self.n_layers)
        return ("input", *(n for i in layers for n in (*(f"a{i}.h{h}" for h in range(self.n_heads)), f"m{i}")))

    def written_before(self, layer: int, mlp: bool = False) -> int:
        """How many writers a sublayer reads: the first so many."""
        return 1 + layer * (self.n_heads + 1) + (self.n_heads if mlp and not self.parallel[layer] else 0)

    @property
    def readers(self) -> tuple[tuple[str, str, int], ...]:
        """(node, what it reads for, how many writers it reads: the first so many), in order."""
        shared = self.n_groups < self.n_heads
        found: list[tuple[str, str, int]] = []
        for i in range(self.n_layers):
            before = self.written_before(i)
            found += [(f"a{i}.h{h}", "q", before) for h in range(self.n_heads)]
            for part in ("k", "v"):
                found += [(f"a{i}.{'g' if shared else 'h'}{g}", part, before) for g in range(self.n_groups)]
            found.append((f"m{i}", "mlp", self.written_before(i, mlp=True)))
        return (*found, ("logits", "logits", len(self.writers)))


def head_graph(shape: HeadShape) -> Graph:
    """Every write to the residual stream and every later read of it: one node per head and MLP, one edge per pair.

    Edges go into the queries, keys and values of a head apart. With grouped queries the keys and values of a group are
    a node of their own, read once. Edges are listed reader by reader.
    """
    shared = shape.n_groups < shape.n_heads
    names = ["input"]
    for i in range(shape.n_layers):
        names += [f"a{i}.h{h}" for h in range(shape.n_heads)]
        names += [f"a{i}.g{g}" for g in range(shape.n_groups)] if shared else []
        names.append(f"m{i}")
    layout = Layout(grain="head", locations=tuple((n, 1) for n in (*names, "logits")))
    writers = np.array([layout.starts[n] for n in shape.writers])
    parts = [(writers[:n], layout.starts[node], READS.index(what)) for node, what, n in shape.readers]
    return Graph(
        layout=layout, src=np.concatenate([w for w, _, _ in parts]),
        dst=np.concatenate([np.full(len(w), to) for w, to, _ in parts]),
        matrix=np.concatenate([np.full(len(w), what) for w, _, what in parts]), matrices=READS,
    )  # fmt: skip


BLOCK_READS = ("attn", "mlp", "logits")  # the "matrices" at block grain


def block_graph(shape: HeadShape) -> Graph:
    """`head_graph` with all heads of a layer as one node `a0`, which reads once: 2 L^2 + 3 L + 1 edges of L sequential
    layers. Edges are listed reader by reader."""
    parts: list[tuple[int, int, int]] = []  # (how many writers are read, reader, what it reads for)
    for i, parallel in enumerate(shape.parallel):
        parts += [(1 + 2 * i, 1 + 2 * i, 0), (1 + 2 * i + (not parallel), 2 + 2 * i, 1)]
    parts.append((1 + 2 * shape.n_layers, 1 + 2 * shape.n_layers, 2))
    counts, to, what = np.array(parts).T
    names = ("input", *(f"{kind}{i}" for i in range(shape.n_layers) for kind in "am"), "logits")
    return Graph(
        layout=Layout(grain="block", locations=tuple((n, 1) for n in names)), matrices=BLOCK_READS,
        src=np.concatenate([np.arange(n) for n in counts]), dst=np.repeat(to, counts), matrix=np.repeat(what, counts),
    )  # fmt: skip


def count_branches(graph: Graph, edges: np.ndarray) -> int:
    """How many paths from `input` to `logits` these edges (indices) make, exactly. Head and block grain.

    What a head reads for its queries, keys and values are paths of their own; through a key-value group go as many as
    through each of its heads.
    """
    starts, into = graph.layout.starts, dict[int, list[int]]()
    links = group_links(graph.layout)
    for src, dst in zip(graph.src[edges].tolist(), graph.dst[edges].tolist(), strict=True):
        into.setdefault(dst, []).append(src)
    for group, head in links.tolist():
        into.setdefault(head, []).append(group)
    found = {starts["input"]: 1}

    def to(node: int) -> int:
        if node not in found:
            found[node] = sum(map(to, into.get(node, ())))
        return found[node]

    return to(starts["logits"])


def kind_of(name: str) -> str:
    """Of a node of a residual graph: input, logits, a head, a key-value group, an attention or an MLP."""
    return name if name in ("input", "logits") else name[0] + name.partition(".")[2][:1]


def group_links(layout: Layout) -> np.ndarray:
    """(key-value group, head of that group) node numbers, [links, 2]; without grouped queries none. Head grain."""
    starts = layout.starts
    heads, groups = ([n for n in starts if f".{kind}" in n] for kind in "hg")
    per_group = len(heads) // len(groups) if groups else 1
    links = [(starts[f"{n.split('.')[0]}.g{int(n.split('.h')[1]) // per_group}"], starts[n]) for n in heads if groups]
    return np.array(links, dtype=np.int64).reshape(-1, 2)


def nodes_around(layout: Layout, parts: Iterable[int]) -> np.ndarray:
    """Sorted node numbers of a circuit that is heads and MLPs, or blocks (`parts`): those, `input` and `logits`, and
    the key-value groups of its heads. Head and block grain."""
    kept = list(parts)
    links = group_links(layout)
    groups = links[np.isin(links[:, 1], kept), 0].tolist()
    return np.unique(np.array([layout.starts["input"], layout.starts["logits"], *kept, *groups], dtype=np.int64))


def on_paths(graph: Graph, edges: np.ndarray) -> np.ndarray:
    """Those of the edges (indices) that lie on a path from `input` to `logits` through these edges alone.

    Head and block grain; what a head reads for its queries, keys and values all reaches what it writes, and what a
    key-value group reads reaches every head of the group.
    """
    starts = graph.layout.starts
    links = group_links(graph.layout)
    src = np.concatenate([graph.src[edges], links[:, 0]])
    dst = np.concatenate([graph.dst[edges], links[:, 1]])

    def reached(first: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Nodes (bool) that can be reached from `first`."""
        inside = np.zeros(graph.layout.n_nodes, dtype=bool)
        inside[starts[first]] = True
        while True:
            more = after[inside[before] & ~inside[after]]
            if not len(more):
                return inside
            inside[more] = True

    forth, back = reached("input", src, dst), reached("logits", dst, src)
    return edges[forth[graph.src[edges]] & back[graph.dst[edges]]]
