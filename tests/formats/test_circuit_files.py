"""Circuits and scores of other tools: files as those tools write them, written here by hand; round trips; refusals."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile, GossamerError, Unsupported
from gossamer.formats import autocircuit, eap_csv, eap_ig, edge_pruning, neuronpedia, read_circuit, read_scores
from gossamer.formats.heads import PerQueryHead
from gossamer.graph import Graph, HeadShape, head_graph
from gossamer.record import Record
from gossamer.scores import EdgeScores

DATA = Path(__file__).parents[3] / "shared" / "data" / "circuit-tasks"
ONE = head_graph(HeadShape(n_heads=1, n_groups=1, parallel=(False,)))  # 8 edges
GROUPED = head_graph(HeadShape(n_heads=2, n_groups=1, parallel=(False,)))  # 11 edges, 13 per query head
RECORD = Record(method="test", config={}, seed=0, details={"sign": "that of the test"})

EAP_IG = """{"cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": false, "d_model": 8},
 "nodes": {"input": {"in_graph": true}, "a0.h0": {"in_graph": true}, "m0": {"in_graph": false},
           "logits": {"in_graph": true}},
 "edges": {"input->a0.h0<q>": {"score": 0.5, "in_graph": false},
           "input->a0.h0<k>": {"score": -0.25, "in_graph": false},
           "input->a0.h0<v>": {"score": 2.0, "in_graph": true},
           "input->m0": {"score": 0.0, "in_graph": false},
           "a0.h0->m0": {"score": 1e-3, "in_graph": false},
           "input->logits": {"score": 0.125, "in_graph": false},
           "a0.h0->logits": {"score": -3.0, "in_graph": true},
           "m0->logits": {"score": 1, "in_graph": false}}}"""


@pytest.fixture(autouse=True)
def quick_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record asks git and the installed packages, which takes longer than all else here."""
    monkeypatch.setattr("gossamer.record._git", lambda: ("", None))
    monkeypatch.setattr("gossamer.record._versions", dict)


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def named(graph: Graph, circuit: Circuit) -> dict[str, float]:
    names = [name for name, _ in graph.layout.locations]
    parts = [graph.matrices[m] for m in circuit.matrix.tolist()]
    edges = zip(circuit.src.tolist(), circuit.dst.tolist(), parts, circuit.weight.tolist(), strict=True)
    return {f"{names[s]}->{names[d]}<{p}>": w for s, d, p, w in edges}


KEPT = {"input->a0.h0<v>": 2.0, "a0.h0->logits<logits>": -3.0}


def test_a_circuit_of_eap_ig_by_hand(tmp_path: Path) -> None:
    path = put(tmp_path, "circuit.json", EAP_IG)
    as_it_is = read_circuit(path, ONE)
    assert named(ONE, as_it_is) == KEPT
    assert "does not say whether its metric was a loss" in as_it_is.record.details["notes"][0]
    assert as_it_is.record.config["cfg"]["d_model"] == 8
    loss = read_circuit(path, ONE, metric="loss")
    assert named(ONE, loss) == {k: -v for k, v in KEPT.items()}
    assert loss.record.details["notes"] == []
    packed = put(tmp_path, "circuit.json.gz", gzip.compress(EAP_IG.encode()))
    assert named(ONE, read_circuit(packed, ONE)) == KEPT


def test_scores_of_eap_ig_need_their_metric(tmp_path: Path) -> None:
    path = put(tmp_path, "scores.json", EAP_IG)
    with pytest.raises(BadInput, match="Give metric='loss'"):
        read_scores(path, ONE)
    scores = read_scores(path, ONE, metric="loss")
    assert scores.values[-1] == -1.0  # m0->logits: ablating it costs, so it is needed
    assert np.array_equal(read_scores(path, ONE, metric="value").values, -scores.values)
    assert named(ONE, read_circuit(path, ONE, size=1)) == {"a0.h0->logits<logits>": -3.0}


def test_a_list_of_some_edges_is_a_circuit_and_no_scores(tmp_path: Path) -> None:
    data = json.loads(EAP_IG)
    data["edges"] = {k: {"in_graph": True} for k in ("input->a0.h0<v>", "a0.h0->logits")}
    path = put(tmp_path, "few.json", json.dumps(data))
    circuit = read_circuit(path, ONE)
    assert named(ONE, circuit).keys() == KEPT.keys()
    assert np.isnan(circuit.weight).all()
    assert "lists 2 of the model's 8 edges" in circuit.record.details["notes"][0]
    with pytest.raises(CorruptFile, match="does not score all of its 8 edges"):
        read_scores(path, ONE, metric="loss")


def pt_content(**changes: Any) -> dict[str, Any]:
    kept, scores = torch.zeros(3, 5, dtype=torch.bool), torch.arange(15.0).view(3, 5)
    kept[0, 2] = kept[1, 4] = True
    return {
        "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 8},
        "src_nodes": ["input", "a0.h0", "m0"], "dst_nodes": ["a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits"],
        "edges_scores": scores, "edges_in_graph": kept, "nodes_in_graph": torch.tensor([True, True, False]), **changes,
    }  # fmt: skip


def test_a_pt_file_of_eap_ig_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "graph.pt"
    torch.save(pt_content(), path)
    assert named(ONE, read_circuit(path, ONE)) == {"input->a0.h0<v>": 2.0, "a0.h0->logits<logits>": 9.0}
    assert read_scores(path, ONE, metric="loss").values.tolist() == [0, -1, -2, -3, -8, -4, -9, -14]
    kept = torch.ones(3, 5, dtype=torch.bool)  # their node-level circuits mark whole rows
    torch.save(pt_content(edges_in_graph=kept), path)
    circuit = eap_ig.read_circuit(path, ONE)
    assert circuit.n_edges == 8
    assert "7 places of the file's table that are no edges" in circuit.record.details["notes"][0]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"edges_scores": torch.full((3, 5), math.nan)}, CorruptFile, "not finite"),
        ({"edges_in_graph": torch.zeros(3, 4)}, CorruptFile, r"Expected edges_in_graph of shape \(3, 5\)"),
        ({"edges_in_graph": torch.full((3, 5), 0.5)}, CorruptFile, "neither in the circuit nor out of it"),
        ({"src_nodes": ["input", "m0", "a0.h0"]}, CorruptFile, "other src_nodes"),
        ({"cfg": {"n_layers": 2, "n_heads": 1, "parallel_attn_mlp": False}}, BadInput, "n_layers 2 where the model"),
        ({"neurons_in_graph": torch.tensor([[True, False]] * 3)}, Unsupported, "3 of its nodes"),
    ],
)  # fmt: skip
def test_unsound_pt_files(tmp_path: Path, changes: dict[str, Any], error: type[GossamerError], says: str) -> None:
    torch.save(pt_content(**changes), tmp_path / "graph.pt")
    with pytest.raises(error, match=says):
        read_circuit(tmp_path / "graph.pt", ONE)


def test_code_in_a_pt_file_is_not_run(tmp_path: Path) -> None:
    torch.save(pt_content(cfg=Path("x")), tmp_path / "graph.pt")
    with pytest.raises(CorruptFile, match="nothing in it was run"):
        read_circuit(tmp_path / "graph.pt", ONE)


def changed(**edges: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["edges"].update({k.replace("__", "->"): v for k, v in edges.items()})


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (changed(m0__m0={"score": 1.0, "in_graph": True}), CorruptFile, "'m0->m0' is no edge"),
        (changed(input__m9={"score": 1.0, "in_graph": True}), CorruptFile, "'input->m9' is no edge"),
        (changed(m0__logits={"score": None, "in_graph": True}), CorruptFile, "score None"),
        (changed(m0__logits={"score": 1e999, "in_graph": True}), CorruptFile, "not sound JSON|score inf"),
        (changed(m0__logits={"score": 1.0, "in_graph": 1}), CorruptFile, "does not say whether it is in_graph"),
        (changed(m0__logits={"in_graph": True}), CorruptFile, "scores 7 of the 8 edges"),
        (lambda d: d["nodes"].update({"a0.h7": {"in_graph": True}}), CorruptFile, "a0.h7"),
        (lambda d: d["nodes"].update({"m0": {"in_graph": "yes"}}), CorruptFile, "do not say whether"),
        (lambda d: d["nodes"].update({"m0": {"in_graph": True, "neurons": [1, 0]}}), Unsupported, "neuron-level"),
        (lambda d: d["cfg"].update(n_heads=12), BadInput, "n_heads 12 where the model has 1"),
        (lambda d: d["cfg"].update(parallel_attn_mlp=True), BadInput, "parallel_attn_mlp True"),
        (lambda d: d.pop("nodes"), CorruptFile, "`cfg`, `nodes` and `edges`"),
        (lambda d: [e.update(in_graph=False) for e in d["edges"].values()], BadInput, "keeps no edge"),
    ],
)  # fmt: skip
def test_unsound_files_of_eap_ig(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], error: type[GossamerError], says: str
) -> None:
    data = json.loads(EAP_IG)
    change(data)
    with pytest.raises(error, match=says):
        read_circuit(put(tmp_path, "circuit.json", json.dumps(data)), ONE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (EAP_IG.replace('"score": 1,', '"score": NaN,'), "NaN is no number"),
        (EAP_IG.replace("a0.h0<k>", "a0.h0<q>"), "'input->a0.h0<q>' occurs twice"),
        (EAP_IG[:-20], "not sound JSON"),
        (EAP_IG.replace("\n", "") * 2, "Extra data"),
        (EAP_IG.replace("\n", "") + "\n{}", "Extra data"),
    ],
)
def test_json_that_is_none(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(CorruptFile, match=says):
        read_circuit(put(tmp_path, "circuit.json", text), ONE)


def test_scores_of_nodes_only_are_refused(tmp_path: Path) -> None:
    data = json.loads(EAP_IG)
    data["nodes"]["m0"]["score"] = 1.0
    for edge in data["edges"].values():
        edge["score"] = 0.0
    with pytest.raises(Unsupported, match="node-level scores"):
        read_scores(put(tmp_path, "nodes.json", json.dumps(data)), ONE, metric="loss")


def test_a_published_circuit_is_read() -> None:
    path = DATA / "mib-circuit-track" / "ioi-eap-ig.json.gz"
    if not path.is_file():
        pytest.skip("shared data is absent")
    gpt2 = head_graph(HeadShape(n_heads=12, n_groups=12, parallel=(False,) * 12))
    circuit = read_circuit(path, gpt2)
    assert (circuit.n_edges, circuit.n_nodes) == (756, 81)
    assert len(circuit.record.details["notes"]) == 1  # of the sign; every edge is on a path
    assert named(gpt2, circuit)["a9.h9->logits<logits>"] == pytest.approx(-0.2815, abs=1e-4)


def some_circuit(graph: Graph, seed: int) -> Circuit:
    rng = np.random.default_rng(seed)
    edges = np.flatnonzero(rng.random(graph.n_edges) < 0.4)
    edges = edges if len(edges) else np.array([0])
    return Circuit.from_edges(graph, edges, rng.normal(size=len(edges)), record=RECORD)


def alike(a: Circuit, b: Circuit, *, weights: bool = True) -> bool:
    same = all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("nodes", "src", "dst", "matrix"))
    return same and a.layout == b.layout and (not weights or np.allclose(a.weight, b.weight, rtol=1e-12, atol=0))


SHAPES = st.builds(
    lambda groups, size, parallel: HeadShape(n_heads=groups * size, n_groups=groups, parallel=tuple(parallel)),
    st.integers(1, 3), st.integers(1, 3),
    st.one_of(*(st.lists(st.just(p), min_size=1, max_size=3) for p in (True, False))),
)  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_what_is_written_is_read_again(tmp_path: Path, shape: HeadShape, seed: int) -> None:
    graph = head_graph(shape)
    circuit = some_circuit(graph, seed)
    scores = EdgeScores(graph=graph, values=np.random.default_rng(seed).normal(size=graph.n_edges), record=RECORD)
    loose = {"slug": "s", "scan": "m", "prompt": "a b", "prompt_tokens": ["a", " b"]}
    for path, weights in (
        (eap_ig.write_circuit(circuit, graph, tmp_path / "c.json", d_model=8), True),
        (neuronpedia.write_circuit(circuit, graph, tmp_path / "n.json", **loose), True),  # type: ignore[arg-type]
        (edge_pruning.write_circuit(circuit, graph, tmp_path / "e.json", embeddings=["embeds"]), False),
        (circuit.save(tmp_path / "circuit.safetensors"), True),
    ):
        if "e.json" in path.name and "input" not in {str(s) for s in circuit.sites}:
            continue  # an Edge Pruning list without embeddings says that they were not pruned
        assert alike(read_circuit(path, graph), circuit, weights=weights), path.name
    for path in (
        eap_ig.write_scores(scores, tmp_path / "s.json", d_model=8, circuit=circuit),
        eap_csv.write_scores(scores, tmp_path / "s.csv", circuit=circuit),
    ):
        assert alike(read_circuit(path, graph), circuit, weights=False)
        back = read_scores(path, graph, metric="loss" if path.suffix == ".csv" else None)
        assert np.allclose(back.values, scores.values, rtol=1e-12, atol=0)


def test_written_scores_are_positive_where_the_task_needs_the_edge(tmp_path: Path) -> None:
    values = np.arange(GROUPED.n_edges) - 5.0
    scores = EdgeScores(graph=GROUPED, values=values, record=RECORD)
    path = eap_ig.write_scores(scores, tmp_path / "s.json", d_model=4)
    data = json.loads(path.read_text())
    assert set(data) == {"cfg", "nodes", "edges", "gossamer"}
    assert data["cfg"] == {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 4}
    assert set(data["nodes"]) == {"input", "a0.h0", "a0.h1", "m0", "logits"}
    assert len(data["edges"]) == 13
    assert data["edges"]["input->a0.h0<q>"] == {"score": 5.0, "in_graph": False}
    assert [data["edges"][f"input->a0.h{h}<k>"]["score"] for h in (0, 1)] == [1.5, 1.5]  # 3 in equal shares
    plain = json.loads(eap_ig.write_scores(scores, tmp_path / "v.json", d_model=4, metric="value").read_text())
    assert plain["edges"]["input->a0.h0<q>"]["score"] == -5.0
    assert np.allclose(read_scores(tmp_path / "v.json", GROUPED).values, values)
    with pytest.raises(BadInput, match="never written"):
        eap_ig.write_scores(scores, tmp_path / "s.pt", d_model=4)


def test_a_file_of_ours_still_knows_its_model(tmp_path: Path) -> None:
    record = Record(method="eap", config={}, seed=0, model="tiny", model_sha256="12ab", task="ioi", task_version="3")
    circuit = Circuit.from_edges(ONE, np.arange(8), np.full(8, np.nan), record=record)
    path = eap_ig.write_circuit(circuit, ONE, tmp_path / "c.json", d_model=8)
    back = read_circuit(path, ONE)
    assert np.isnan(back.weight).all()
    assert (back.record.model_sha256, back.record.task, back.record.config["origin"]) == ("12ab", "ioi", "eap")
    path.write_text(path.read_text().replace('"method": "eap"', '"method": 3'))
    with pytest.raises(CorruptFile, match="damaged record"):
        read_circuit(path, ONE)


def test_blocks_of_both_kinds_have_no_place_in_eap_ig(tmp_path: Path) -> None:
    graph = head_graph(HeadShape(n_heads=1, n_groups=1, parallel=(True, False)))
    with pytest.raises(Unsupported, match="only some blocks are parallel"):
        eap_ig.write_circuit(some_circuit(graph, 0), graph, tmp_path / "c.json", d_model=4)
    csv = eap_csv.write_scores(
        EdgeScores(graph=graph, values=np.ones(graph.n_edges), record=RECORD), tmp_path / "c.csv"
    )
    assert (read_scores(csv, graph, metric="loss").values == 1).all()


def test_edges_and_scores_in_a_csv_by_hand(tmp_path: Path) -> None:
    path = put(tmp_path, "s.csv", "edge,score,in_graph\ninput->a0.h0<q>,0.5,TRUE\nm0->logits,-2e-1,false\n")
    assert named(ONE, read_circuit(path, ONE, metric="loss")) == {"input->a0.h0<q>": -0.5}
    for text, says in (
        ("edge,score\ninput->m0,0.5\ninput->m0,1\n", "line 3: input->m0 occurs twice"),
        ("edge,score\ninput->m0,high\n", "the score 'high' is no number"),
        ("edge,score\ninput->m0,nan\n", "has the score nan"),
        ("edge,score,in_graph\ninput->m0,1,maybe\n", "not true or false"),
        ("edge,score\ninput->m0,1,2\n", "more or fewer columns in lines 2"),
    ):
        with pytest.raises(CorruptFile, match=says):
            read_circuit(put(tmp_path, "bad.csv", text), ONE, size=1)


# Edge Pruning


def test_a_list_of_edge_pruning_by_hand(tmp_path: Path) -> None:
    text = """[["tok_embeds", "a0.h0.v"], ["pos_embeds", "a0.h0.v"], ["pos_embeds", "a0.h0.q"],
               ["a0.h0", "m0"], ["m0", "resid_post"]]"""
    circuit = read_circuit(put(tmp_path, "edges.json", text), ONE)
    assert set(named(ONE, circuit)) == {"input->a0.h0<q>", "input->a0.h0<v>", "a0.h0->m0<mlp>", "m0->logits<logits>"}
    assert np.isnan(circuit.weight).all()
    assert circuit.record.details["notes"] == [
        "1 readers were fed by only one of token and position embeddings, here by both"
    ]
    grouped = read_circuit(put(tmp_path, "l.json", '[["embeds", "a0.h0.k"], ["embeds", "a0.h1.q"]]'), GROUPED)
    assert set(named(GROUPED, grouped)) == {"input->a0.g0<k>", "input->a0.h1<q>"}
    bare = read_circuit(put(tmp_path, "b.json", '[["m0", "resid_post"]]'), ONE)
    assert bare.n_edges == 1 + 5
    assert "were not pruned, all kept" in bare.record.details["notes"][0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[["m0", "m0"]]', "m0->m0 is no edge"), ('[["embeds", "a0.h1.k"]]', "a0.h1.k is no edge"),
        ('[["embeds", "m0"], ["embeds", "m0"]]', "embeds->m0 is listed 2 times"),
        ('[["embeds", "m0", 1.0]]', "no pair of names"), ("[]", "Expected a list"),
    ],
)  # fmt: skip
def test_unsound_lists_of_edge_pruning(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(CorruptFile, match=says):
        read_circuit(put(tmp_path, "edges.json", text), GROUPED)


# AutoCircuit


def prune_scores() -> dict[str, torch.Tensor]:
    return {
        "blocks.0.hook_q_input": torch.tensor([[1.0], [2.0]]), "blocks.0.hook_k_input": torch.tensor([[3.0], [4.0]]),
        "blocks.0.hook_v_input": torch.tensor([[5.0], [-6.0]]), "blocks.0.hook_mlp_in": torch.tensor([7.0, 8.0, 9.0]),
        "blocks.0.hook_resid_post": torch.tensor([0.1, 0.2, 0.3, 0.4]),
    }  # fmt: skip


def test_prune_scores_of_autocircuit_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "scores.pkl"
    torch.save(prune_scores(), path)
    scores = read_scores(path, GROUPED, metric="loss").values
    assert np.allclose(scores, [-1, -2, -7, 1, -7, -8, -9, -0.1, -0.2, -0.3, -0.4])  # the group's are sums
    circuit = read_circuit(path, GROUPED, size=4, metric="value")
    assert named(GROUPED, circuit) == {
        "input->a0.g0<v>": -1.0,
        "input->m0<mlp>": 7,
        "a0.h0->m0<mlp>": 8,
        "a0.h1->m0<mlp>": 9,
    }
    with pytest.raises(BadInput, match="say how many edges to keep"):
        read_circuit(path, GROUPED)
    torch.save({"IOI": {"ACDC": prune_scores()}}, path)
    with pytest.raises(BadInput, match="say which with at=: IOI"):
        read_scores(path, GROUPED, metric="loss")
    assert np.allclose(autocircuit.read_scores(path, GROUPED, at=("IOI", "ACDC"), metric="loss").values, scores)
    with pytest.raises(BadInput, match="nothing at 'EAP'"):
        autocircuit.read_scores(path, GROUPED, at=("IOI", "EAP"), metric="loss")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"blocks.1.hook_mlp_in": torch.ones(3)}, BadInput, "of another model"),
        ({"blocks.0.hook_mlp_in": torch.ones(2)}, BadInput, r"shape \(2,\), expected \(3,\)"),
        ({"blocks.0.hook_mlp_in": torch.ones(5, 3)}, Unsupported, "per token position"),
        ({"blocks.0.hook_mlp_in": torch.full((3,), math.inf)}, CorruptFile, "finite scores"),
        ({"blocks.0.hook_attn_in": torch.ones(2, 1)}, Unsupported, "queries, keys and values together"),
    ],
)  # fmt: skip
def test_unsound_prune_scores(tmp_path: Path, changes: dict[str, Any], error: type[GossamerError], says: str) -> None:
    torch.save({**prune_scores(), **changes}, tmp_path / "scores.pt")
    with pytest.raises(error, match=says):
        autocircuit.read_circuit(tmp_path / "scores.pt", GROUPED, 2)


def test_names_of_autocircuit() -> None:
    assert autocircuit.parse_edge("Resid Start->A10.2.K") == ("input", "a10.h2", "k")
    assert autocircuit.parse_edge("MLP 3->Resid End") == ("m3", "logits", "logits")
    table = PerQueryHead.of(head_graph(HeadShape(n_heads=12, n_groups=3, parallel=(False, False))))
    for column, (node, part) in enumerate(table.readers):
        for writer in np.flatnonzero(table.exists[:, column]).tolist():
            edge = (list(table.writers)[writer], node, part)
            assert autocircuit.parse_edge(autocircuit.edge_name(*edge)) == edge
    for bad in ("A0.1->A1.2", "A0.1.Q->MLP 1", "Resid End->MLP 1", "MLP 1", "a0.h1->m1"):
        with pytest.raises(BadInput):
            autocircuit.parse_edge(bad)


# telling files apart


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", '{"prompts": []}', "holds prompts"), ("a.json", '{"other": 1}', "an object of other"),
        ("a.txt", "hello", "begins with 'hello'"), ("a.bin", b"\xff\xfe", "Expected UTF-8"),
        ("a.jsonl", '{"clean": "a", "counterfactual": "b"}', "gossamer's own form"),
        ("a.gz", b"\x1f\x8bnope", "damaged gzip"), ("a.json", "", "begins with ''"),
    ],
)  # fmt: skip
def test_files_that_hold_no_circuit(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(GossamerError, match=says):
        read_circuit(put(tmp_path, name, content), ONE)


def test_other_places_and_models(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="found none"):
        read_circuit(tmp_path / "none.json", ONE)
    with pytest.raises(BadInput, match="Expected a run folder"):
        read_circuit(tmp_path, ONE)
    torch.save({"a": torch.ones(2)}, tmp_path / "t.pt")
    with pytest.raises(BadInput, match="a saved dictionary of something else"):
        read_circuit(tmp_path / "t.pt", ONE)
    circuit = some_circuit(GROUPED, 1)
    circuit.save(tmp_path / "circuit.safetensors")
    assert alike(read_circuit(tmp_path, GROUPED), circuit)
    with pytest.raises(BadInput, match="Expected a circuit of this model's graph"):
        read_circuit(tmp_path, ONE)
    with pytest.raises(CorruptFile, match="expected gossamer-edge-scores"):
        read_scores(tmp_path, GROUPED)
    scores = EdgeScores(graph=GROUPED, values=np.arange(11.0), record=RECORD)
    scores.save(tmp_path / "scores.safetensors")
    assert np.array_equal(read_scores(tmp_path, GROUPED).values, scores.values)
    with pytest.raises(BadInput, match="another model's graph"):
        read_scores(tmp_path, ONE)
    with pytest.raises(BadInput, match="has no scores of all edges"):
        read_scores(put(tmp_path, "e.json", '[["m0", "resid_post"]]'), GROUPED)
    with pytest.raises(BadInput, match="has its own size"):
        read_circuit(tmp_path, GROUPED, size=3)
