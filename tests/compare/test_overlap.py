"""Overlap is that of Python sets, chance that of random circuits, and what cannot be compared is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import PLANTED_NODES
from verify_helpers import circuit_of

from gossamer.circuit import Circuit
from gossamer.compare import OverlapRow, overlap_evidence, overlaps
from gossamer.errors import BadInput, Unsupported
from gossamer.graph import Graph, HeadShape, Layout, head_graph
from gossamer.models import LoadedModel
from gossamer.record import Record

RECORD = Record(method="by hand", config={}, seed=0)


def drawn(graph: Graph, n: int, seed: int) -> Circuit:
    kept = np.random.default_rng(seed).choice(graph.n_edges, n, replace=False)
    return Circuit.from_edges(graph, kept, np.zeros(n), record=RECORD)


def whole(rows: tuple[OverlapRow, ...], what: str) -> OverlapRow:
    return next(r for r in rows if r.what == what and r.kind == "all")


def test_overlaps_of_circuits_of_heads_are_those_of_sets_of_their_names() -> None:
    graph = head_graph(HeadShape(n_heads=4, n_groups=4, parallel=(False,) * 3))
    a, b = drawn(graph, 60, 0), drawn(graph, 40, 1)
    rows = overlaps({"a": a, "b": b}, graph)
    names = [{str(s) for s in c.sites} - {"input", "logits"} for c in (a, b)]
    edges = [set(zip(c.src.tolist(), c.dst.tolist(), c.matrix.tolist(), strict=True)) for c in (a, b)]
    for what, (x, y) in (("nodes", names), ("edges", edges)):
        row = whole(rows, what)
        assert (row.sizes, row.shared) == ((len(x), len(y)), len(x & y))
        assert (row.iou, row.iom) == (len(x & y) / len(x | y), len(x & y) / min(len(x), len(y)))
        assert (row.a_in_b, row.b_in_a) == (len(x & y) / len(x), len(x & y) / len(y))
    by_kind = {r.kind: r for r in rows if r.what == "nodes"}
    assert set(by_kind) == {"all", "heads", "MLPs"}
    mlps = [{n for n in x if n.startswith("m")} for x in names]
    assert by_kind["MLPs"].shared == len(mlps[0] & mlps[1])
    assert (by_kind["MLPs"].of, by_kind["heads"].of) == (3, 12)
    assert {r.kind for r in rows if r.what == "edges"} == {"all", "q", "k", "v", "mlp", "logits"}


@pytest.mark.parametrize("share, limit", [(0.1, 0.053), (0.3, 0.176)])
def test_random_circuits_sit_at_chance(share: float, limit: float) -> None:
    layout = Layout(grain="channel", locations=(("0.attn.act_in", 4000), ("0.attn.q", 6000)))
    graph = Graph(layout=layout, src=np.zeros(0, int), dst=np.zeros(0, int), matrix=np.zeros(0, int), matrices=("m",))
    rng = np.random.default_rng(0)
    circuits = {
        str(i): Circuit.from_nodes(graph, np.zeros(0), rng.choice(10000, int(share * 10000), False), record=RECORD)
        for i in range(12)
    }  # fmt: skip
    rows = [r for r in overlaps(circuits) if r.what == "nodes" and r.kind == "all"]
    assert np.mean([r.iou for r in rows]) == pytest.approx(limit, abs=0.002)
    assert np.mean([r.chance for r in rows]) == pytest.approx(limit, abs=0.001)
    p = np.array([r.p_value for r in rows])
    assert 0.3 < p.mean() < 0.7
    assert (p < 0.05).mean() < 0.15
    edges = next(r for r in overlaps(circuits) if r.what == "edges")
    assert (edges.outcome, edges.iou, edges.chance) == ("empty", None, None)


def test_a_circuit_that_is_its_nodes_has_its_edges_beside_those_of_random_nodes(planted: LoadedModel) -> None:
    graph = planted.graph()
    own = circuit_of(planted, PLANTED_NODES)
    rows = overlaps({"own": own, "again": own, "part": circuit_of(planted, PLANTED_NODES[:3])}, graph)
    row = whole(rows, "edges")
    assert (row.iou, row.shared, row.of) == (1.0, 2, graph.n_edges)
    assert row.chance is not None
    assert row.chance < 0.05
    assert row.p_value == row.smallest == 1 / 200
    nodes = whole(rows, "nodes")
    assert nodes.p_value is not None
    assert nodes.p_value == pytest.approx(1 / 128**4)
    assert [r.iou for r in rows if r.what == "nodes" and r.kind == "all"] == [1.0, 0.75, 0.75]


def test_an_empty_circuit_is_said_to_be_empty(planted: LoadedModel) -> None:
    own, none = circuit_of(planted, PLANTED_NODES), circuit_of(planted, ())
    rows = overlaps({"own": own, "none": none}, planted.graph())
    assert all((r.outcome, r.iou, r.iom, r.p_value) == ("empty", None, None, None) for r in rows)
    evidence = overlap_evidence(rows)
    assert all(e.verdict == "not measured" and "Empty" in e.note for e in evidence)
    (shared, *_) = overlap_evidence(overlaps({"own": own, "again": own}, planted.graph()))
    assert (shared.verdict, shared.value) == ("pass", 1.0)


def test_circuits_of_different_models_are_refused(planted: LoadedModel, small: LoadedModel) -> None:
    own, other = circuit_of(planted, PLANTED_NODES), circuit_of(small, ("0.attn.v:1",))
    with pytest.raises(Unsupported, match=r"within one model only.*each one's own reuse"):
        overlaps({"own": own, "other": other})
    retrained = replace(own, record=own.record.model_copy(update={"model_sha256": "0" * 64}))
    with pytest.raises(Unsupported, match="--along"):
        overlaps({"own": own, "later": retrained})
    (nodes, *_) = overlaps({"own": own, "later": retrained}, along=True)
    assert nodes.iou == 1.0
    with pytest.raises(BadInput, match="own and again are of the same weights"):
        overlaps({"own": own, "later": retrained, "again": own}, along=True)
    one, another = (
        replace(c, record=c.record.model_copy(update={"task": t})) for c, t in ((own, "a"), (retrained, "b"))
    )
    with pytest.raises(BadInput, match="one task along a training, got a, b"):
        overlaps({"one": one, "another": another}, along=True)
    with pytest.raises(BadInput, match="two or more"):
        overlaps({"own": own})
    with pytest.raises(BadInput, match="graph of the circuits' model"):
        overlaps({"own": own, "again": own}, small.graph())
