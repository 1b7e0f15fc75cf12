"""Random circuits that match a circuit's size: what a circuit that is not one would score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gossamer.ablation import methodology
from gossamer.circuit import Circuit
from gossamer.graph import Graph, kind_of
from gossamer.metric import calibrate
from gossamer.subject import Subject
from gossamer.task import Encoded

DRAWS = 20
SAME_NODES = "random circuit of the same size at every location"
SAME_EDGES = "random circuit with as many edges of every matrix"
SAME_HEADS = "random circuit with as many heads and MLPs"


def random_circuits(circuit: Circuit, graph: Graph, draws: int, seed: int) -> list[Circuit]:
    """Circuits of the same size, drawn from the whole graph; a draw may hit parts of the circuit.

    Granularity node: as many nodes at every location (edges are not listed: they do not matter). Granularity edge: as
    many edges of every matrix, their ends, and at every location at least as many nodes. A tied circuit's draws keep
    their query and key channels tied.
    """
    rng = np.random.default_rng(seed)
    return [_random(circuit, graph, rng) for _ in range(draws)]


def _random(circuit: Circuit, graph: Graph, rng: np.random.Generator) -> Circuit:
    drawn = graph.within(np.empty(0, dtype=np.int64))
    if circuit.granularity == "edge":
        drawn = graph.draw(np.bincount(circuit.matrix, minlength=len(graph.matrices)), rng)
    kept = np.zeros(graph.layout.n_nodes, dtype=bool)
    kept[drawn.src] = kept[drawn.dst] = True
    for name, inside in circuit.kept_by_location().items():
        here = graph.layout.split(kept)[name]
        if circuit.tied and name.endswith(".attn.k"):
            here |= graph.layout.split(kept)[name[:-1] + "q"]
            continue
        free = np.flatnonzero(~here)
        more = int(inside.sum()) - int(here.sum())
        here[rng.permutation(free)[: max(0, more)]] = True
    return replace(
        circuit, nodes=np.flatnonzero(kept), src=drawn.src, dst=drawn.dst, matrix=drawn.matrix,
        weight=np.zeros(drawn.n_edges, dtype=circuit.weight.dtype),
    )  # fmt: skip


def random_edge_circuits(circuit: Circuit, graph: Graph, draws: int, seed: int, granularity: str) -> list[Circuit]:
    """Circuits of a residual graph as large as this one: as many edges into queries, keys, values, MLPs and logits, or
    (granularity node) as many heads and MLPs with every edge between them."""
    rng = np.random.default_rng(seed)
    kinds = np.array([kind_of(name) for name, _ in graph.layout.locations])
    found = []
    for _ in range(draws):
        if granularity == "node":
            nodes = np.concatenate([
                rng.choice(np.flatnonzero(kinds == kind), int((kinds[circuit.nodes] == kind).sum()), replace=False)
                for kind in np.unique(kinds)
            ])  # fmt: skip
            edges = graph.between(nodes)
        else:
            wanted = np.bincount(circuit.matrix, minlength=len(graph.matrices))
            edges = np.concatenate([
                rng.choice(np.flatnonzero(graph.matrix == m), n, replace=False) for m, n in enumerate(wanted)
            ])  # fmt: skip
        drawn = Circuit.from_edges(graph, edges, np.zeros(len(np.unique(edges))), record=circuit.record)
        found.append(replace(drawn, nodes=np.unique(nodes)) if granularity == "node" else drawn)
    return found


def whole_or_nothing(circuit: Circuit, every: bool) -> Circuit:
    """The full circuit (`every` node) or the empty one, at granularity node."""
    nodes = np.arange(circuit.layout.n_nodes if every else 0)
    return replace(circuit.only(np.empty(0, dtype=np.int64)), nodes=nodes, granularity="node")


@torch.no_grad()
def gaps(model: Subject, circuit: Circuit, batch: Encoded, preset: str, circuits: Sequence[Circuit]) -> Tensor:
    """Logit gap [draws, rows] with each of the circuits in the circuit's place; calibrated exactly as it is."""
    found = []
    for drawn in circuits:
        z = model.run(batch, ablation=drawn.as_ablation(preset)).gap
        if circuit.calibration and methodology(preset).set == "complement":
            z = calibrate(z, circuit.calibration.scale, circuit.calibration.shift)
        found.append(z)
    return torch.stack(found)
