"""Derive a run's numbers again and list every one that does not come out the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gossamer.circuit import Circuit
from gossamer.commands.reports import Difference
from gossamer.commands.run_folder import EVIDENCE, Run
from gossamer.discover.prune import EVALUATION_PAIRS, PruneConfig, circuit_gap, circuit_loss
from gossamer.evidence import load_evidence
from gossamer.metric import paired_accuracy
from gossamer.registry import check, method


class _Comparison:
    def __init__(self, tolerance: float) -> None:
        self.tolerance, self.compared = tolerance, 0
        self.found: list[Difference] = []

    def same(self, what: str, stored: float | int | str | None, found: float | int | str | None) -> None:
        self.compared += 1
        if isinstance(stored, float) and isinstance(found, float):
            if abs(stored - found) <= self.tolerance:
                return
        elif stored == found:
            return
        self.found.append(Difference(what=what, stored=stored, found=found))


def differences(
    run: Run, tolerance: float, search: bool = False, progress: Callable[[int, int, float], None] | None = None
) -> tuple[int, list[Difference]]:
    """(numbers compared, those that differ by more than `tolerance`); with `search` the method runs again too."""
    compare = _Comparison(tolerance)
    record, result, circuit, model = run.about.record, run.about.result, run.circuit, run.model
    weights_hash, means_hash = model.hashes()
    compare.same("model weights (sha256)", record.model_sha256, weights_hash)
    compare.same("reference means (sha256)", record.means_sha256, means_hash)
    graph = model.graph("channel")
    again = Circuit.from_nodes(graph, model.edge_weights(graph), circuit.nodes, record=circuit.record)
    compare.same("nodes", result.nodes, circuit.n_nodes)
    cut = np.sort(run.scores.top(circuit.n_nodes))
    compare.same("nodes that are not the top of the scores", 0, int(np.setdiff1d(circuit.nodes, cut).size))
    compare.same("edges", result.edges, again.n_edges)
    if again.n_edges == circuit.n_edges:
        compare.same(
            "largest change of an edge weight", 0.0, float(np.abs(again.weight - circuit.weight).max(initial=0))
        )
    train, heldout = model.encode(run.task.train).pairs(0, EVALUATION_PAIRS), model.encode(run.task.heldout)
    compare.same("task loss, training split", result.loss_train_nats, float(circuit_loss(model, circuit, train).mean()))
    compare.same("task loss, held-out", result.loss_heldout_nats, float(circuit_loss(model, circuit, heldout).mean()))
    accuracy = float(paired_accuracy(circuit_gap(model, circuit, heldout)).mean())
    compare.same("paired accuracy, held-out", result.accuracy_circuit, accuracy)
    if search:
        found = method[record.method](model, run.task, PruneConfig(**record.config), progress=progress)
        compare.same("largest change of a score", 0.0, float(np.abs(found.scores.values - run.scores.values).max()))
        compare.same("nodes found otherwise", 0, int(np.setxor1d(found.circuit.nodes, circuit.nodes).size))
    if (run.folder / EVIDENCE).is_file():
        for stored in load_evidence(run.folder / EVIDENCE):
            name = stored.claim.split(":")[0]
            now = check[name](model, circuit, heldout, target_loss=result.target_loss_nats, seed=stored.seed)
            compare.same(f"{name}: value", stored.value, now.value)
            compare.same(f"{name}: verdict", stored.verdict, now.verdict)
            for a, b in zip(stored.nulls, now.nulls, strict=True):
                compare.same(f"{name}: {a.name}", a.value, b.value)
    return compare.compared, compare.found
