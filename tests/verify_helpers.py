"""Circuits by hand, for tests of several folders."""

from __future__ import annotations

from gossamer import Circuit, Site
from gossamer.models import LoadedModel
from gossamer.record import Record
from gossamer.task import Task


def circuit_of(model: LoadedModel, sites: tuple[str, ...]) -> Circuit:
    """The circuit with these nodes, its Record naming the model."""
    graph = model.graph("channel")
    weights_hash, means_hash = model.hashes()
    record = Record.now(
        method="by hand", config={}, seed=0, model=model.name, model_sha256=weights_hash, means_sha256=means_hash
    )
    nodes = [graph.layout.number(Site.parse(s)) for s in sites]
    return Circuit.from_nodes(graph, model.edge_weights(graph), nodes, record=record)


def no_task() -> Task:
    """Of trials whose pairs are not a task's."""
    return Task(name="pairs", version="1", description="", train=(), heldout=())
