"""Sites and the legal edges between them at one grain: arrays of node numbers, no weights.

Which kinds count in "edges" (and so in every reported size):

| grain   | counted    | present but not counted                              |
| ------- | ---------- | ---------------------------------------------------- |
| channel | `weight`   | `carry`, `attention`, `bias`, `embed`, `unembed`     |
| head    | `residual` |                                                      |
"""

from __future__ import annotations

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
        if site.index is None or not 0 <= site.index < width:
            raise BadInput(f"Expected an index of 0 to {width - 1} at {site.location}, got {site}.")
        return self.starts[site.location] + site.index

    def site(self, number: int) -> Site:
        """The site with a node number."""
        if not 0 <= number < self.n_nodes:
            raise BadInput(f"Expected a node number of 0 to {self.n_nodes - 1}, got {number}.")
        for name, start in reversed(self.starts.items()):
            if number >= start:
                return Site(name, int(number - start))
        raise AssertionError("unreachable: the first location starts at 0")

    def split(self, per_node: np.ndarray) -> dict[str, np.ndarray]:
        """An array over all nodes ([..., n_nodes]) cut into one view per location."""
        return {name: per_node[..., self.starts[name] : self.starts[name] + width] for name, width in self.locations}


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Edges as three parallel arrays: source and destination node numbers, and the number of the weight matrix.

    `matrices` names the matrices; every edge here is of the kind its grain counts.
    """

    layout: Layout
    src: np.ndarray
    dst: np.ndarray
    matrix: np.ndarray
    matrices: tuple[str, ...]

    @property
    def n_edges(self) -> int:
        return len(self.src)

    def between(self, nodes: np.ndarray) -> np.ndarray:
        """Indices of the edges whose two ends are both in `nodes` (node numbers)."""
        kept = np.zeros(self.layout.n_nodes, dtype=bool)
        kept[nodes] = True
        return np.flatnonzero(kept[self.src] & kept[self.dst])


def carries(layout: Layout, nodes: np.ndarray) -> list[tuple[int, int]]:
    """Links at channel grain that are not counted as edges, between nodes of a set: (source, destination) numbers.

    A residual write and every later read of the same channel, and a query channel with its key channel.
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
        elif name.endswith(".attn.q"):
            reads = [name[:-1] + "k"]
        else:
            continue
        found += [
            (number, by_location[read][channel])
            for read in reads for channel, number in by_location[name].items() if channel in by_location[read]
        ]  # fmt: skip
    return found
