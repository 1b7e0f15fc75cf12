"""MIB submission folders: names, one file of scores or nine circuits within their limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile
from gossamer.formats import mib, read_circuit, read_scores
from gossamer.formats.heads import PerQueryHead
from gossamer.graph import HeadShape, head_graph
from gossamer.record import Record
from gossamer.scores import EdgeScores

GRAPH = head_graph(HeadShape(n_heads=4, n_groups=2, parallel=(False,) * 8))
N = PerQueryHead.of(GRAPH).n_edges
RECORD = Record(method="test", config={}, seed=0)
SCORES = EdgeScores(graph=GRAPH, values=np.random.default_rng(0).normal(size=GRAPH.n_edges), record=RECORD)


@pytest.fixture(autouse=True)
def quick_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record asks git and the installed packages, which takes longer than all else here."""
    monkeypatch.setattr("gossamer.record._git", lambda: ("", None))
    monkeypatch.setattr("gossamer.record._versions", dict)


def nine() -> list[Circuit]:
    """Circuits of the edges of largest score that are one edge for MIB too, within its limits."""
    order = np.argsort(-np.abs(SCORES.values))
    once = order[~np.isin(GRAPH.matrix[order], (1, 2))]
    sizes = [mib.limit(p, N) for p in mib.PERCENT]
    return [Circuit.from_edges(GRAPH, once[:n], SCORES.values[once[:n]], record=RECORD) for n in sizes]


def test_scores_make_an_entry(tmp_path: Path) -> None:
    folder = mib.write_scores(SCORES, tmp_path, task="arc_easy", model="llama3", d_model=48)
    assert folder.name == "arc-easy_llama3"
    assert [p.name for p in folder.iterdir()] == ["importances.json"]
    assert np.allclose(mib.read_scores(folder, GRAPH).values, SCORES.values)
    assert np.allclose(read_scores(folder, GRAPH).values, SCORES.values)
    with pytest.raises(BadInput, match="no circuits"):
        mib.read_circuits(folder, GRAPH)
    with pytest.raises(BadInput, match="exists"):
        mib.write_scores(SCORES, tmp_path, task="arc_easy", model="llama3", d_model=48)
    assert [(e.task, e.model, len(e.files)) for e in mib.submission(tmp_path)] == [("arc_easy", "llama3", 1)]


def test_nine_circuits_make_an_entry(tmp_path: Path) -> None:
    circuits = nine()
    folder = mib.write_circuits(circuits, GRAPH, tmp_path, task="ioi", model="gemma2", d_model=48)
    assert sorted(p.stem for p in folder.iterdir()) == sorted(f"{p:g}" for p in mib.PERCENT)
    back = mib.read_circuits(folder, GRAPH)
    assert [c.n_edges for c in back.values()] == [c.n_edges for c in circuits]
    assert list(back) == list(mib.PERCENT)
    with pytest.raises(BadInput, match="name one of its files"):
        read_circuit(folder, GRAPH)
    (folder / "0.1.json").write_text((folder / "50.json").read_text())
    with pytest.raises(CorruptFile, match="larger than MIB allows"):
        mib.read_circuits(folder, GRAPH)
    (folder / "0.1.json").unlink()
    with pytest.raises(BadInput, match="got 8"):
        mib.submission(tmp_path)


def test_a_group_counts_for_each_of_its_heads(tmp_path: Path) -> None:
    circuits = nine()
    most = mib.limit(mib.PERCENT[0], N)
    keys = np.flatnonzero(GRAPH.matrix == 1)[:most]  # for MIB twice as many edges
    circuits[0] = Circuit.from_edges(GRAPH, keys, np.ones(len(keys)), record=RECORD)
    with pytest.raises(BadInput, match=rf"{2 * most} edges for 0.1 % \(at most {most}\)"):
        mib.write_circuits(circuits, GRAPH, tmp_path, task="ioi", model="gpt2", d_model=48)
    with pytest.raises(BadInput, match="Expected 9 circuits"):
        mib.write_circuits(circuits[:3], GRAPH, tmp_path, task="ioi", model="gpt2", d_model=48)


def test_names_that_mib_has_not(tmp_path: Path) -> None:
    for name, says in (("ioi_gpt3", "no model 'gpt3', did you mean gpt2"), ("oi_gpt2", "no task 'oi'"), ("x", "no ")):
        with pytest.raises(BadInput, match=says):
            mib.write_scores(SCORES, tmp_path, task=name.split("_")[0], model=name.split("_")[-1], d_model=48)
    with pytest.raises(BadInput, match="found none"):
        mib.submission(tmp_path)
    (tmp_path / "ioi_gpt2").mkdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match=r"got 0.*got other"):
        mib.submission(tmp_path)


def test_scores_by_hand_are_of_a_loss(tmp_path: Path) -> None:
    """What the task needs is positive in MIB's files and negative here."""
    graph = head_graph(HeadShape(n_heads=1, n_groups=1, parallel=(False,)))
    names = "input->a0.h0<q> input->a0.h0<k> input->a0.h0<v> input->m0 a0.h0->m0 input->logits a0.h0->logits m0->logits"
    data = {
        "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 8},
        "nodes": {n: {"in_graph": False} for n in ("input", "a0.h0", "m0", "logits")},
        "edges": {name: {"score": float(i), "in_graph": False} for i, name in enumerate(names.split())},
    }
    folder = tmp_path / "ioi_gpt2"
    folder.mkdir()
    (folder / "importances.json").write_text(json.dumps(data))
    assert mib.read_scores(folder, graph).values.tolist() == [0, -1, -2, -3, -4, -5, -6, -7]
    assert read_circuit(folder, graph, size=1).weight.tolist() == [-7]
