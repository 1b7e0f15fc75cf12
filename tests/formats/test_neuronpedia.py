"""Attribution graphs: validation, a head circuit written as one, and one read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.formats import neuronpedia, read_circuit
from gossamer.graph import HeadShape, head_graph
from gossamer.record import Record

GROUPED = head_graph(HeadShape(n_heads=2, n_groups=1, parallel=(False,)))

# as circuit-tracer writes a graph of features
FEATURES = """{"metadata": {"slug": "hat", "scan": "gemma-2-2b", "transcoder_list": [], "prompt": "The cat",
  "prompt_tokens": ["The", " cat"], "node_threshold": 0.8, "schema_version": 1},
 "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
 "nodes": [
  {"node_id": "E_651_0", "feature": 0, "layer": "E", "ctx_idx": 0, "feature_type": "embedding", "token_prob": 0.0,
   "is_target_logit": false, "run_idx": 0, "reverse_ctx_idx": 0, "jsNodeId": "E_651-0", "clerp": "", "influence": 0.3,
   "activation": null},
  {"node_id": "0_253_1", "feature": 32384, "layer": "0", "ctx_idx": 1, "feature_type": "cross layer transcoder",
   "jsNodeId": "0_253-0", "clerp": "", "influence": 0.48, "activation": 9.4},
  {"node_id": "3_17_1", "feature": 17, "layer": 3, "ctx_idx": 1, "feature_type": "logit", "jsNodeId": "L_17-1",
   "clerp": "Output \\" hat\\" (p=0.9)"}],
 "links": [{"source": "E_651_0", "target": "0_253_1", "weight": 12.9},
           {"source": "0_253_1", "target": "3_17_1", "weight": -1}]}"""


def put(folder: Path, data: Any) -> Path:
    path = folder / "graph.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_graph_of_features_is_validated_and_is_no_circuit_of_heads(tmp_path: Path) -> None:
    path = put(tmp_path, FEATURES)
    found = neuronpedia.read_graph(path)
    assert [n.node_id for n in found.nodes] == ["E_651_0", "0_253_1", "3_17_1"]
    assert (found.metadata.scan, found.links[0].weight) == ("gemma-2-2b", 12.9)
    with pytest.raises(Unsupported, match="nodes of cross layer transcoder"):
        read_circuit(path, GROUPED)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["nodes"].append(d["nodes"][1]), "the id 0_253_1 occurs 2 times"),
        (lambda d: d["links"].append({"source": "E_651_0", "target": "9_9", "weight": 1.0}), "'9_9', which is no node"),
        (lambda d: d["links"].append(d["links"][0]), "2 links from E_651_0 to 0_253_1"),
        (lambda d: d["links"][0].update(weight="big"), "links.0.weight"),
        (lambda d: d["nodes"][0].update(ctx_idx=2), "E_651_0 at token 2 of 2"),
        (lambda d: d["nodes"][0].pop("clerp"), "nodes.0.clerp: Field required"),
        (lambda d: d["metadata"].pop("slug"), "metadata.slug: Field required"),
        (lambda d: d.pop("qParams"), "qParams: Field required"),
    ],
)  # fmt: skip
def test_unsound_graphs(tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    data = json.loads(FEATURES)
    change(data)
    with pytest.raises(CorruptFile, match=says):
        neuronpedia.read_graph(put(tmp_path, data))


def written(folder: Path, circuit: Circuit) -> dict[str, Any]:
    path = neuronpedia.write_circuit(
        circuit, GROUPED, folder / "graph.json", slug="she-he", scan="tiny", prompt="a b", prompt_tokens=["a", " b"]
    )
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def whole(weights: np.ndarray | None = None) -> Circuit:
    record = Record(method="eap", config={"pairs": 3}, seed=0, details={"sign": "change of the metric"})
    values = np.arange(11.0) if weights is None else weights
    return Circuit.from_edges(GROUPED, np.arange(11), values, record=record)


def test_a_circuit_as_an_attribution_graph(tmp_path: Path) -> None:
    data = written(tmp_path, whole())
    ids = {n["clerp"]: n["node_id"] for n in data["nodes"]}
    assert ids == {
        "input": "E_0_1",
        "a0.h0": "0_0_1",
        "a0.h1": "0_1_1",
        "a0.g0": "0_2_1",
        "m0": "0_3_1",
        "logits": "2_0_1",
    }
    for key in ("node_id", "jsNodeId"):
        assert len({n[key] for n in data["nodes"]}) == len(data["nodes"])
    links = {(link["source"], link["target"]): link for link in data["links"]}
    assert len(links) == len(data["links"])
    assert links["E_0_1", "0_2_1"] == {
        "source": "E_0_1",
        "target": "0_2_1",
        "weight": 5.0,
        "reads": {"k": 2.0, "v": 3.0},
    }
    assert links["0_2_1", "0_0_1"]["reads"] == {}  # the group and its head: no edge
    assert "sign of the weights: change of the metric" in data["metadata"]["info"]["description"]
    back = read_circuit(tmp_path / "graph.json", GROUPED)
    assert back.n_edges == 11
    assert np.array_equal(back.weight, np.arange(11.0))
    assert back.record == whole().record


def test_unknown_weights_stay_unknown(tmp_path: Path) -> None:
    written(tmp_path, whole(np.full(11, np.nan)))
    assert np.isnan(read_circuit(tmp_path / "graph.json", GROUPED).weight).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["links"][0].pop("reads"), "does not say what it is read for"),
        (lambda d: d["links"][0]["reads"].update(q="x"), "has the weight 'x' for q"),
        (lambda d: d["links"][0]["reads"].update(q=1e999), "Infinity is no number"),
        (lambda d: d["links"][0]["reads"].update(mlp=1.0), "links that are no edges"),
        (lambda d: d["nodes"][4].update(feature_type="attention head"), "0_3_1 .attention head. is no node"),
        (lambda d: d["nodes"].append({**d["nodes"][0], "node_id": "E_0_0", "jsNodeId": "x"}), "at several tokens"),
    ],
)  # fmt: skip
def test_graphs_of_heads_of_another_model(tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    data = written(tmp_path, whole())
    change(data)
    with pytest.raises(CorruptFile, match=says):
        read_circuit(put(tmp_path, data), GROUPED)


def test_a_graph_needs_a_prompt_and_a_record_is_optional(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least one token"):
        neuronpedia.write_circuit(
            whole(), GROUPED, tmp_path / "g.json", slug="s", scan="m", prompt="", prompt_tokens=[]
        )  # fmt: skip
    data = written(tmp_path, whole())
    del data["metadata"]["gossamer"]
    record = read_circuit(put(tmp_path, data), GROUPED).record
    assert record.method == "read-neuronpedia"
    assert "no record" in record.details["notes"][0]
