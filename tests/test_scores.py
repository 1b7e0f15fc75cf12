"""Edge scores: cutting them to circuits, and their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile
from gossamer.graph import Graph, HeadShape, head_graph, on_paths
from gossamer.record import Record
from gossamer.scores import EdgeScores

RECORD = Record.now(method="test", config={}, seed=0)
GROUPED = head_graph(HeadShape(n_heads=4, n_groups=2, parallel=(False, True, False)))
PLAIN = head_graph(HeadShape(n_heads=3, n_groups=3, parallel=(False, False)))


def scores(graph: Graph, seed: int = 0) -> EdgeScores:
    return EdgeScores(graph=graph, values=np.random.default_rng(seed).normal(size=graph.n_edges), record=RECORD)


def indices(found: EdgeScores, circuit: Circuit) -> np.ndarray:
    return found.graph.numbers(circuit.src, circuit.dst, circuit.matrix)


def by_name(graph: Graph, **values: float) -> EdgeScores:
    """Scores 0 but for edges named source__destination, or source__destination__matrix."""
    found = np.zeros(graph.n_edges)
    for name, value in values.items():
        src, dst, *matrix = name.replace("_h", ".h").replace("_g", ".g").split("__")
        starts = graph.layout.starts
        there = (graph.src == starts[src]) & (graph.dst == starts[dst])
        if matrix:
            there &= graph.matrix == graph.matrices.index(matrix[0])
        assert there.sum() == 1
        found[there] = value
    return EdgeScores(graph=graph, values=found, record=RECORD)


def test_top_keeps_the_largest_or_the_most_negative() -> None:
    found = scores(PLAIN)
    order = np.argsort(found.values)
    assert set(indices(found, found.top(7, signed=True, connected=False))) == set(order[:7])
    largest = np.argsort(-np.abs(found.values))[:7]
    assert set(indices(found, found.top(7, connected=False))) == set(largest)
    assert set(largest) != set(order[:7])
    kept = found.top(7)
    assert set(indices(found, kept)) == set(on_paths(PLAIN, largest))


def test_above_is_the_top_of_as_many_and_nought_is_not_above_nought() -> None:
    found = scores(PLAIN)
    sizes = np.sort(np.abs(found.values))[::-1]
    for connected in (True, False):
        cut, same = found.above(sizes[10], connected=connected), found.top(10, connected=connected)
        assert np.array_equal(indices(found, cut), indices(found, same))
    assert found.above(0, signed=True, connected=False).n_edges == int((found.values < 0).sum())
    sparse = by_name(PLAIN, input__m0=-1.0, m0__logits=0.5)
    assert sparse.above(0).n_edges == 2
    for wrong in (-0.1, float("nan")):
        with pytest.raises(BadInput, match="threshold of 0 or more"):
            found.above(wrong)


def test_greedy_by_hand() -> None:
    """From the logits: m1 (3), into it a1.h2 (2), then the input's edge to a1.h2; the largest of all reaches nothing
    that is there, and top takes it."""
    found = by_name(
        PLAIN, m1__logits=3.0, a1_h2__m1=-2.0, input__a1_h2__v=1.0, input__a0_h0__q=9.0, m0__logits=0.5
    )  # fmt: skip
    name = {
        e: f"{PLAIN.layout.site(int(PLAIN.src[e]))}>{PLAIN.layout.site(int(PLAIN.dst[e]))}"
        for e in range(PLAIN.n_edges)
    }
    assert [name[e] for e in indices(found, found.greedy(3))] == ["input>a1.h2", "a1.h2>m1", "m1>logits"]
    assert found.greedy(2).n_edges == 0
    assert found.greedy(2, connected=False).n_edges == 2
    assert found.top(3).n_edges == 0
    assert found.greedy(3, signed=True, connected=False).n_edges == 3
    assert "a1.h2>m1" not in [name[e] for e in indices(found, found.greedy(3, signed=True, connected=False))]


def test_greedy_reaches_keys_and_values_of_a_group_through_its_heads() -> None:
    found = by_name(GROUPED, a2_h3__logits=3.0, m0__a2_g1__k=2.0, m0__a2_g0__k=9.0, input__m0=1.0)
    kept = found.greedy(3)
    assert kept.n_edges == 3
    names = {str(GROUPED.layout.site(int(n))) for n in kept.dst}
    assert names == {"logits", "a2.g1", "m0"}


@pytest.mark.parametrize("graph", [PLAIN, GROUPED])
def test_greedy_circuits_reach_the_logits_and_are_largest_where_they_could_choose(graph: Graph) -> None:
    found = scores(graph, 1)
    assert np.array_equal(indices(found, found.greedy(graph.n_edges)), np.arange(graph.n_edges))
    last = np.zeros(0, dtype=np.int64)
    for k in range(1, 40):
        chosen = indices(found, found.greedy(k, connected=False))
        assert len(chosen) == k
        added = np.setdiff1d(chosen, last)
        assert len(added) == 1  # a greedy circuit holds every smaller one
        assert _reaches(graph, chosen)
        last = chosen
        inner = indices(found, found.greedy(k))
        assert np.array_equal(inner, on_paths(graph, chosen))
    assert not _reaches(graph, indices(found, found.top(5, connected=False)))
    with pytest.raises(BadInput, match="Expected 0 to"):
        found.greedy(graph.n_edges + 1)


def one_by_one(graph: Graph, sizes: np.ndarray, k: int) -> set[int]:
    """Greedy growth as it is defined: look at every edge every time."""
    starts, name = graph.layout.starts, {i: n for n, i in graph.layout.starts.items()}

    def there(nodes: set[str], edge: int) -> bool:
        node = name[int(graph.dst[edge])]
        layer, _, group = node.partition(".g")
        return node in nodes or (bool(group) and bool({f"{layer}.h{2 * int(group) + i}" for i in (0, 1)} & nodes))

    nodes, chosen = {"logits"}, []
    assert "logits" in starts
    while len(chosen) < k:
        open_ = [e for e in range(graph.n_edges) if e not in chosen and there(nodes, e)]
        chosen.append(max(open_, key=lambda e: (sizes[e], -e)))
        nodes.add(name[int(graph.src[chosen[-1]])])
    return set(chosen)


@pytest.mark.parametrize("graph", [PLAIN, GROUPED])
@pytest.mark.parametrize("ties", [False, True])
def test_greedy_is_what_growing_edge_by_edge_gives(graph: Graph, ties: bool) -> None:
    for seed in range(3):
        found = scores(graph, seed)
        found = replace(found, values=np.round(found.values)) if ties else found
        for k in (1, 5, 20, 60):
            chosen = indices(found, found.greedy(k, connected=False))
            assert set(chosen.tolist()) == one_by_one(graph, np.abs(found.values), k)


def _reaches(graph: Graph, edges: np.ndarray) -> bool:
    """Whether from every edge a chain of these edges ends in the logits."""
    starts = graph.layout.starts
    there = {starts["logits"]}
    heads_of = {n: [m for m in starts if m.startswith(n.split(".")[0] + ".h")] for n in starts if ".g" in n}
    for _ in range(graph.layout.n_nodes):
        for e in edges.tolist():
            node = next(n for n, i in starts.items() if i == graph.dst[e])
            ways = {graph.dst[e], *(starts[h] for h in heads_of.get(node, []))}
            if ways & there:
                there.add(int(graph.src[e]))
    return all(int(graph.src[e]) in there for e in edges.tolist())


@pytest.mark.parametrize("graph", [PLAIN, GROUPED])
def test_saved_is_loaded(graph: Graph, tmp_path: Path) -> None:
    a = scores(graph)
    b = EdgeScores.load(a.save(tmp_path / "s.safetensors"))
    assert np.array_equal(a.values, b.values)
    assert (a.record, a.graph.layout, a.graph.matrices) == (b.record, b.graph.layout, b.graph.matrices)
    for name in ("src", "dst", "matrix"):
        mine, its = getattr(a.graph, name), getattr(b.graph, name)
        assert np.array_equal(mine, its)
        assert mine.dtype == its.dtype
    kept = b.top(9)
    assert np.array_equal(kept.weight, a.top(9).weight)
    assert np.array_equal(a.graph.numbers(kept.src, kept.dst, kept.matrix), indices(a, a.top(9)))


DEFECTS: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], np.ndarray], str]] = {
    "no number": ("values", lambda a: np.where(a["values"] > 1, np.nan, a["values"]), "no order"),
    "whole scores": ("values", lambda a: a["values"].astype(np.int64), "no order"),
    "short": ("values", lambda a: a["values"][1:], "scores for edges"),
    "table": ("values", lambda a: a["values"][:, None], "scores for edges"),
    "short src": ("src", lambda a: a["src"][1:], "scores for edges"),
    "fractions": ("dst", lambda a: a["dst"] + 0.5, "whole numbers"),
    "beyond": ("dst", lambda a: a["dst"] + 1, "beyond its"),
    "below": ("src", lambda a: a["src"] - 1, "beyond its"),
    "matrix": ("matrix", lambda a: a["matrix"] + 5, "beyond its"),
    "twice": ("src", lambda a: np.append(a["src"][:1], a["src"][:-1]), "edge twice"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_edge_scores_that_cannot_be_are_not_loaded(tmp_path: Path, defect: str) -> None:
    name, wrong, message = DEFECTS[defect]
    path = scores(PLAIN).save(tmp_path / "s.safetensors")
    with safe_open(path, framework="np") as f:
        meta = dict(f.metadata())
    meta.pop("sha256")
    arrays = load_file(path)
    arrays[name] = wrong(arrays)
    save_file(arrays, path, metadata=meta)
    with pytest.raises(CorruptFile, match=message) as error:
        EdgeScores.load(path)
    assert "\n" not in str(error.value)


def test_a_damaged_file_or_another_kind_is_one_clear_error(tmp_path: Path) -> None:
    made = scores(PLAIN)
    path = made.save(tmp_path / "s.safetensors")
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for at in np.linspace(start, len(content) - 1, 10).astype(int):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(CorruptFile, match="altered or damaged"):
            EdgeScores.load(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFile, match="damaged"):
        EdgeScores.load(path)
    with pytest.raises(CorruptFile, match="expected gossamer-edge-scores"):
        EdgeScores.load(made.top(9).save(tmp_path / "c.safetensors"))
    with pytest.raises(BadInput, match="found none"):
        EdgeScores.load(tmp_path / "no")
