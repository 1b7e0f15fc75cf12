"""The attribution-graph JSON of Neuronpedia and circuit-tracer: read and validated; circuits of heads written as one.

Nodes have a unique `node_id` LAYER_FEATURE_POSITION, links a source, a target and a weight. A head circuit has no
positions: its nodes stand at the last token. In a layer, feature h is head h, then come the key-value groups if there
are any, then the MLP; the embedding and the logits are the nodes E_0 and (number of layers + 1)_0. The edges between
two nodes become one link with the sum of their weights; `reads` on the link has the weight of each (q, k, v, mlp,
logits). A link without reads joins a group to its heads and is no edge.

Weights are the circuit's own, with their sign; `metadata.info.description` repeats what the record says of it.

What is lost: nothing, the record is in `metadata.gossamer`. When it lies: attribution graphs of other tools are of
transcoder features on one prompt. They are validated here but are no circuits of heads.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

import gossamer
from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line
from gossamer.formats.files import parse_json, read_text, record_of, several, write_text
from gossamer.formats.heads import edges_of, shape_of
from gossamer.formats.tables import number
from gossamer.graph import READS, Graph, HeadShape
from gossamer.record import Record

KINDS = ("embedding", "attention head", "key-value group", "mlp", "logit")


class _Part(BaseModel):
    """A part of the file; keys that are not named here are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class Metadata(_Part):
    """scan: the model, by Neuronpedia's name of it."""

    slug: str
    scan: str
    prompt: str
    prompt_tokens: list[str]


class Node(_Part):
    """feature: its number in the layer, or circuit-tracer's pairing of layer and number; ctx_idx: its token."""

    node_id: str = Field(min_length=1)
    feature: int | None
    layer: str | int
    ctx_idx: int = Field(ge=0)
    feature_type: str
    jsNodeId: str
    clerp: str


class Link(_Part):
    """From the id of a node to that of another."""

    source: str
    target: str
    weight: FiniteFloat


class AttributionGraph(_Part):
    """A whole file."""

    metadata: Metadata
    qParams: dict[str, Any]
    nodes: list[Node]
    links: list[Link]


def read_graph(path: Path) -> AttributionGraph:
    """Any attribution graph, of features as of heads. Errors: CorruptFile with everything that is not as it must be:
    missing keys, ids that occur twice, links to no node or drawn twice, tokens beyond the prompt."""
    return from_json(parse_json(read_text(path), path), path)


def from_json(data: Any, path: Path) -> AttributionGraph:
    """What the JSON of a file says, validated."""
    try:
        found = AttributionGraph.model_validate(data)
    except ValueError as error:
        raise CorruptFile(f"{path} is no attribution graph: {one_line(error)}.") from error
    ids = Counter(n.node_id for n in found.nodes)
    pairs = Counter((link.source, link.target) for link in found.links)
    ends = [end for pair in pairs for end in pair]
    problems = [f"the id {i} occurs {n} times" for i, n in ids.items() if n > 1]
    problems += [f"a link to or from {end!r}, which is no node" for end in dict.fromkeys(ends) if end not in ids]
    problems += [f"{n} links from {a} to {b}" for (a, b), n in pairs.items() if n > 1]
    last = len(found.metadata.prompt_tokens)
    problems += [f"{n.node_id} at token {n.ctx_idx} of {last}" for n in found.nodes if n.ctx_idx >= last]
    if problems:
        raise CorruptFile(f"{path} is no sound attribution graph: {several(problems)}.")
    return found


def read_circuit(path: Path, graph: Graph) -> Circuit:
    """The circuit in a graph of heads. Errors: Unsupported for a graph of features; as `read_graph` otherwise."""
    return circuit_of(read_graph(path), path, graph)


def circuit_of(found: AttributionGraph, path: Path, graph: Graph) -> Circuit:
    """The links of a validated graph as edges of this model's graph."""
    shape = shape_of(graph)
    kinds = Counter(n.feature_type for n in found.nodes)
    if other := [k for k in kinds if k not in KINDS]:
        raise Unsupported(
            f"the attribution graph {path} as a circuit of heads", f"it has nodes of {', '.join(other)}",
            "read_graph, which validates it and gives its nodes and links",
        )  # fmt: skip
    names = {_address(shape, name): name for name, _ in graph.layout.locations}
    starts = graph.layout.starts
    edges: list[tuple[int, int, int]] = []
    weights: list[float] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for node in found.nodes:
        address = node.node_id.rpartition("_")[0]
        if address not in names or _kind(names[address]) != node.feature_type:
            problems.append(f"{node.node_id} ({node.feature_type}) is no node of this model")
        else:
            places[node.node_id] = names[address]
    if len(set(places.values())) < len(places):
        problems.append("a node of the model stands at several tokens, a circuit of heads has it once")
    for link in found.links if not problems else []:
        reads = (link.model_extra or {}).get("reads")
        if not isinstance(reads, dict) or any(k not in READS for k in reads):
            problems.append(f"the link {link.source} to {link.target} does not say what it is read for (`reads`)")
            continue
        for part, weight in reads.items():
            if weight is not None and not math.isfinite(number(weight)):
                problems.append(f"{link.source} to {link.target} has the weight {weight!r} for {part}")
                continue
            edges.append((starts[places[link.source]], starts[places[link.target]], READS.index(part)))
            weights.append(math.nan if weight is None else float(weight))
    if problems:
        raise CorruptFile(f"{path} is no circuit of this model: {several(problems)}.")
    if not edges:
        raise BadInput(f"{path} has no edge.")
    try:
        numbers = graph.numbers(*np.array(edges).T)
    except BadInput as error:
        raise CorruptFile(f"{path} has links that are no edges of this model.") from error
    return Circuit.from_edges(graph, numbers, np.array(weights), record=_record(found, path))


def _record(found: AttributionGraph, path: Path) -> Record:
    ours = (found.metadata.model_extra or {}).get("gossamer")
    try:
        return Record.model_validate(ours)
    except ValueError:
        return record_of("read-neuronpedia", path, ["the file has no record of how its circuit was found"])


def write_circuit(
    circuit: Circuit, graph: Graph, path: Path, *, slug: str, scan: str, prompt: str, prompt_tokens: Sequence[str]
) -> Path:
    """The circuit as an attribution graph. slug: the graph's name; scan: Neuronpedia's name of the model; prompt and
    its tokens: an example to show it on."""
    shape = shape_of(graph)
    numbers = edges_of(circuit, graph)
    if not slug or not scan or not prompt_tokens:
        raise BadInput("Expected a slug, a scan (the model's name) and a prompt of at least one token.")
    last = len(prompt_tokens) - 1
    weight = dict(zip(numbers.tolist(), circuit.weight.tolist(), strict=True))
    links: dict[tuple[str, str], dict[str, float | None]] = {}
    for edge in numbers.tolist():
        src, dst = (graph.layout.locations[int(a[edge])][0] for a in (graph.src, graph.dst))
        value = weight[edge]
        links.setdefault((src, dst), {})[READS[graph.matrix[edge]]] = None if math.isnan(value) else value
    inside = {name for pair in links for name in pair}
    size = shape.n_heads // shape.n_groups
    for name in sorted(n for n in inside if ".h" in n and size > 1):
        layer, head = name.split(".h")
        if (group := f"{layer}.g{int(head) // size}") in inside:
            links[group, name] = {}
    nodes = [name for name, _ in graph.layout.locations if name in inside | {"input", "logits"}]
    sign = circuit.record.details.get("sign", "that of the method")
    about = f"{circuit.n_edges} edges between heads, found by {circuit.record.method}; sign of the weights: {sign}"
    info = {"description": about, "generator": {"name": "gossamer", "version": gossamer.__version__}}
    data = {
        "metadata": {
            "slug": slug, "scan": scan, "transcoder_list": [], "prompt_tokens": list(prompt_tokens), "prompt": prompt,
            "schema_version": 1, "info": info, "gossamer": circuit.record.model_dump(mode="json"),
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [_node(shape, name, last) for name in nodes],
        "links": [
            {
                "source": f"{_address(shape, src)}_{last}", "target": f"{_address(shape, dst)}_{last}",
                "weight": sum(v for v in reads.values() if v is not None), "reads": reads,
            }
            for (src, dst), reads in links.items()
        ],
    }  # fmt: skip
    return write_text(path, json.dumps(data, ensure_ascii=False, allow_nan=False))


def _kind(name: str) -> str:
    if name in ("input", "logits"):
        return "embedding" if name == "input" else "logit"
    return "mlp" if name.startswith("m") else "attention head" if ".h" in name else "key-value group"


def _feature(shape: HeadShape, name: str) -> tuple[str, int]:
    """(layer, number in it) of a node."""
    if name in ("input", "logits"):
        return ("E", 0) if name == "input" else (str(shape.n_layers + 1), 0)
    layer, _, inside = name[1:].partition(".")
    groups = shape.n_groups if shape.n_groups < shape.n_heads else 0
    if name.startswith("m"):
        return layer, shape.n_heads + groups
    return layer, int(inside[1:]) + (shape.n_heads if inside[0] == "g" else 0)


def _address(shape: HeadShape, name: str) -> str:
    """A node's id without its token."""
    layer, feature = _feature(shape, name)
    return f"{layer}_{feature}"


def _node(shape: HeadShape, name: str, position: int) -> dict[str, Any]:
    layer, feature = _feature(shape, name)
    kind = _kind(name)
    depth = int(layer) if layer.isdigit() else 0
    pairing = (depth + feature) * (depth + feature + 1) // 2 + feature  # as circuit-tracer numbers features
    return {
        "node_id": f"{layer}_{feature}_{position}", "feature": position if kind == "embedding" else pairing,
        "layer": layer, "ctx_idx": position, "feature_type": kind, "token_prob": 0.0,
        "is_target_logit": kind == "logit", "run_idx": 0, "reverse_ctx_idx": 0,
        "jsNodeId": f"{'L' if kind == 'logit' else layer}_{feature}-{position}", "clerp": name, "influence": None,
        "activation": None,
    }  # fmt: skip
