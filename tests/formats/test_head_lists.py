"""Lists of heads and MLPs: the published circuits and their published overlaps, a round trip, refusals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile
from gossamer.formats import head_lists, read_circuit
from gossamer.graph import Graph, HeadShape, head_graph
from gossamer.set_overlap import iou, overlap_test

DATA = Path(__file__).parents[3] / "shared" / "data" / "circuit-tasks" / "sequence-continuation"
GPT2 = head_graph(HeadShape(n_heads=12, n_groups=12, parallel=(False,) * 12))
GROUPED = head_graph(HeadShape(n_heads=2, n_groups=1, parallel=(False, False)))


def parts(circuit: Circuit, kind: str = "am") -> set[str]:
    names = {circuit.layout.locations[n][0] for n in circuit.nodes.tolist()}
    return {n for n in names if n[0] in kind and ".g" not in n and n not in ("input", "logits")}


def put(folder: Path, content: object) -> Path:
    path = folder / "circuit.json"
    path.write_text(json.dumps(content))
    return path


def test_a_list_by_hand(tmp_path: Path) -> None:
    path = put(tmp_path, {"heads": [[0, 1], [1, 0]], "mlps": [1]})
    circuit = read_circuit(path, GROUPED)
    names = [name for name, _ in GROUPED.layout.locations]
    assert [names[n] for n in circuit.nodes] == ["input", "a0.h1", "a0.g0", "a1.h0", "a1.g0", "m1", "logits"]
    assert circuit.granularity == "node"
    assert np.isnan(circuit.weight).all()
    assert circuit.n_edges == GROUPED.count(circuit.nodes)
    again = read_circuit(head_lists.write_circuit(circuit, GROUPED, tmp_path / "again.json"), GROUPED)
    assert np.array_equal(again.nodes, circuit.nodes)


@pytest.mark.parametrize(
    ("content", "graph", "told"),
    [
        ({"heads": [[0, 1], [0, 2]], "mlps": [7]}, GROUPED, "a0.h2 is none of this model's; m7 is none"),
        ({"heads": [[0, 1], [0, 1]], "mlps": []}, GROUPED, "a0.h1 is listed 2 times"),
        ({"heads": [[0, True], "a0.h0x"], "mlps": ["m1x"]}, GROUPED, "3 heads or MLPs"),
        ({"heads": 3, "mlps": []}, GROUPED, "heads.*mlps"),
    ],
)
def test_what_is_none_of_the_models_is_told_at_once(tmp_path: Path, content: object, graph: Graph, told: str) -> None:
    with pytest.raises(CorruptFile, match=told):
        read_circuit(put(tmp_path, content), graph)


def test_an_empty_list_is_no_circuit(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no head and no MLP"):
        read_circuit(put(tmp_path, {"heads": [], "mlps": []}), GROUPED)


needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="shared data is absent")


@pytest.fixture(scope="module")
def published() -> dict[str, Circuit]:
    return {
        name: read_circuit(DATA / f"{name}_circuit_thres_0.8.json", GPT2) for name in ("numerals", "numwords", "months")
    }


@needs_data
def test_published_circuits_have_their_sizes_and_shared_part(published: dict[str, Circuit]) -> None:
    sizes = {name: (len(parts(c, "a")), len(parts(c, "m"))) for name, c in published.items()}
    assert sizes == {"numerals": (14, 11), "numwords": (19, 12), "months": (13, 10)}
    shared = set.intersection(*map(parts, published.values()))
    heads = {"a0.h1", "a4.h4", "a6.h1", "a6.h6", "a6.h10", "a7.h11", "a8.h8", "a9.h1"}
    assert shared == heads | {f"m{i}" for i in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10)}


@needs_data
def test_published_overlaps_come_out_and_are_above_chance(published: dict[str, Circuit]) -> None:
    """Heads alone, and all parts, beside random sets with as many heads and MLPs."""
    names = [n for n, _ in GPT2.layout.locations if n not in ("input", "logits")]
    types = np.array([n[0] == "m" for n in names]).astype(int)
    expected = {
        ("numerals", "numwords"): (0.65, 0.75),
        ("numerals", "months"): (0.42, 0.60),
        ("numwords", "months"): (0.39, 0.54),
    }
    for a, b in itertools.combinations(published, 2):
        for kind, wanted in zip(("a", "am"), expected[a, b], strict=True):
            sets = [np.array([names.index(p) for p in parts(published[n], kind)]) for n in (a, b)]
            assert round(iou(*sets), 2) == wanted
            test = overlap_test(sets, types, draws=99)
            assert test.p_value == test.smallest == 0.01
            assert test.null < test.value
