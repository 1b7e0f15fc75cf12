"""Circuits as lists of heads and MLPs, JSON: `{"heads": [[9, 1], ...], "mlps": [0, 3]}`, a head as [layer, head].

What seqcont_circuits (Lan et al. 2024, apartresearch) publishes, out of its pickled lists. Read and written.

The circuit is its nodes: every edge between two of them is in it, and so are `input`, `logits` and, with grouped
queries, the key-value groups of its heads. What is lost: edges that a circuit of ours has cut, and all weights.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile
from gossamer.formats.files import parse_json, read_text, record_of, several, write_text
from gossamer.formats.heads import edges_of, shape_of
from gossamer.graph import Graph, nodes_around

KEYS = {"heads", "mlps"}


def read_circuit(path: Path, graph: Graph) -> Circuit:
    """The listed heads and MLPs as a circuit of this model's graph, weights unknown (NaN).

    Errors: CorruptFile with everything listed that is no [layer, head] or no layer, none of this model's, or listed
    twice.
    """
    return from_lists(parse_json(read_text(path), path), path, graph)


def from_lists(data: Any, path: Path, graph: Graph) -> Circuit:
    """What the two lists say."""
    shape_of(graph)
    if not isinstance(data, dict) or set(data) != KEYS or not all(isinstance(v, list) for v in data.values()):
        raise CorruptFile(f'Expected {{"heads": [[layer, head], ...], "mlps": [layer, ...]}} in {path}.')
    problems, names = list[str](), list[str]()
    for head in data["heads"]:
        if isinstance(head, list) and len(head) == 2 and all(type(n) is int for n in head):
            names.append(f"a{head[0]}.h{head[1]}")
        else:
            problems.append(f"{json.dumps(head)} under heads is no [layer, head] of two whole numbers")
    for mlp in data["mlps"]:
        if type(mlp) is int:
            names.append(f"m{mlp}")
        else:
            problems.append(f"{json.dumps(mlp)} under mlps is no whole number of a layer")
    starts = graph.layout.starts
    problems += [f"{n} is none of this model's" for n in names if n not in starts]
    problems += [f"{n} is listed {k} times" for n, k in Counter(names).items() if k > 1]
    if problems:
        raise CorruptFile(f"{path} has {len(problems)} heads or MLPs that cannot be: {several(problems)}.")
    if not names:
        raise BadInput(f"Expected a circuit in {path}, it lists no head and no MLP.")
    nodes = nodes_around(graph.layout, [starts[n] for n in names])
    record = record_of("read-head-lists", path, [], heads=len(data["heads"]), mlps=len(data["mlps"]))
    return Circuit.from_nodes(graph, np.full(graph.n_edges, np.nan), nodes.tolist(), record=record)


def write_circuit(circuit: Circuit, graph: Graph, path: Path) -> Path:
    """The heads and MLPs of a circuit of this graph."""
    edges_of(circuit, graph)
    names = [graph.layout.locations[n][0] for n in circuit.nodes.tolist()]
    heads = [[int(layer), int(head)] for n in names for layer, head in re.findall(r"^a(\d+)\.h(\d+)$", n)]
    mlps = [int(n[1:]) for n in names if n[0] == "m"]
    return write_text(path, json.dumps({"heads": heads, "mlps": mlps}))
