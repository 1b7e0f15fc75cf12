"""Derive a run's numbers again and list every one that does not come out the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gossamer.circuit import Circuit
from gossamer.commands.edge_discovery import CONFIGS
from gossamer.commands.edge_runs import EdgeRun, edge_trial, own_ablation, own_positions
from gossamer.commands.reports import Difference
from gossamer.commands.run_folder import EVIDENCE, SCORES, Run
from gossamer.commands.trials import claim_of, stated_of, trial_of
from gossamer.discover import Consensus
from gossamer.discover.mask_training import owners
from gossamer.discover.prune import EVALUATION_PAIRS, PruneConfig, circuit_gap, circuit_loss, loss_at, ranking
from gossamer.discover.prune_edges import EdgePruneConfig
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import Evidence, load_evidence, load_record
from gossamer.metric import paired_accuracy, task_loss_nats
from gossamer.registry import method
from gossamer.scores import EdgeScores
from gossamer.verify import faithfulness, run_battery


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
    if graph.layout != circuit.layout:
        raise BadInput(
            f"Expected a model of the shape of {record.model}, got {model.name}; give that one with --model."
        )
    _cut(compare, run)
    _losses(compare, run)
    _evidence(compare, run)
    if search:
        kind = EdgePruneConfig if record.method == "prune-edges" else PruneConfig
        found = method[record.method](model, run.task, kind(**record.config), progress=progress)
        compare.same("largest change of a score", 0.0, float(np.abs(found.scores.values - run.scores.values).max()))
        compare.same("nodes found otherwise", 0, int(np.setxor1d(found.circuit.nodes, circuit.nodes).size))
        compare.same("edges found otherwise", 0, len(_edges(found.circuit).keys() ^ _edges(circuit).keys()))
        for number, (stored, now) in enumerate(zip(result.trials, found.trials, strict=True), 1):
            compare.same(f"trial {number}: edges", stored["edges"], now.edges)
            compare.same(f"trial {number}: loss", stored["loss_nats"], now.loss_nats)
    return compare.compared, compare.found


def _cut(compare: _Comparison, run: Run) -> None:
    """The circuit is the cut through the scores (node granularity), and its edges are the model's."""
    circuit, result, graph = run.circuit, run.about.result, run.model.graph("channel")
    inside = graph.within(circuit.nodes)
    again = Circuit.from_nodes(inside, run.model.edge_weights(inside), circuit.nodes, record=circuit.record)
    ours, theirs = _edges(circuit), _edges(again)
    compare.same("nodes", result.nodes, circuit.n_nodes)
    compare.same("edges that are not weights of the model", 0, len(ours.keys() - theirs.keys()))
    if circuit.granularity == "node":
        ranked = ranking(owners(graph, circuit.tied), run.scores.values)
        cut = ranked.nodes(ranked.units(circuit.n_nodes))
        compare.same("nodes that are not the top of the scores", 0, int(np.setdiff1d(circuit.nodes, cut).size))
        compare.same("weights of the model that are not edges", 0, len(theirs.keys() - ours.keys()))
    compare.same("edges", result.edges, len(ours.keys() & theirs.keys()))
    change = max((abs(ours[e] - theirs[e]) for e in ours.keys() & theirs.keys()), default=0.0)
    compare.same("largest change of an edge weight", 0.0, change)


def _edges(circuit: Circuit) -> dict[tuple[int, int, int], float]:
    """Weight by (source, destination, matrix)."""
    ends = zip(circuit.src.tolist(), circuit.dst.tolist(), circuit.matrix.tolist(), strict=True)
    return dict(zip(ends, circuit.weight.tolist(), strict=True))


def _losses(compare: _Comparison, run: Run) -> None:
    """Losses and accuracies of the circuit, of the whole model and of the curve's other cuts."""
    circuit, result, model, graph = run.circuit, run.about.result, run.model, run.model.graph("channel")
    train, heldout = model.encode(run.task.train).pairs(0, EVALUATION_PAIRS), model.encode(run.task.heldout)
    compare.same("task loss, training split", result.loss_train_nats, float(circuit_loss(model, circuit, train).mean()))
    compare.same("task loss, held-out", result.loss_heldout_nats, float(circuit_loss(model, circuit, heldout).mean()))
    accuracy = float(paired_accuracy(circuit_gap(model, circuit, heldout)).mean())
    compare.same("paired accuracy, held-out", result.accuracy_circuit, accuracy)
    with torch.no_grad():
        whole = model.run(heldout).gap
    compare.same("task loss, whole model", result.loss_full_nats, float(task_loss_nats(whole).mean()))
    compare.same("paired accuracy, whole model", result.accuracy_full, float(paired_accuracy(whole).mean()))
    ranked = ranking(owners(graph, circuit.tied), run.scores.values)
    for n_nodes, n_edges, loss in result.curve:
        nodes = ranked.nodes(ranked.units(n_nodes))
        now, _ = loss_at(model, graph, nodes, train, circuit.calibration is not None)
        compare.same(f"cut at {n_nodes} nodes: edges", n_edges, graph.count(nodes))
        compare.same(f"cut at {n_nodes} nodes: task loss", loss, now)


def edge_differences(
    run: EdgeRun, tolerance: float, search: bool = False, progress: Callable[[int, int, float], None] | None = None
) -> tuple[int, list[Difference]]:
    """The same of a run whose circuit is edges: its size, its faithfulness, its evidence, with `search` the method."""
    compare = _Comparison(tolerance)
    result, circuit, record = run.about.result, run.circuit, run.about.record
    graph = run.model.graph(circuit.layout.grain)
    inside = graph.numbers(circuit.src, circuit.dst, circuit.matrix)
    compare.same("nodes", result.nodes, circuit.n_nodes)
    compare.same("edges", result.edges, circuit.n_edges)
    compare.same("edges of the model", result.all_edges, graph.n_edges)
    _same_evidence(
        compare,
        result.faithfulness,
        faithfulness(
            edge_trial(run.model, run.task, circuit, own_ablation(record), positions=own_positions(record)),
            target=run.f,
        ),
    )
    path = run.folder / SCORES
    values = EdgeScores.load(path).values if path.is_file() else None
    if values is not None:
        compare.same("largest change of an edge's score", 0.0, float(np.abs(values[inside] - circuit.weight).max()))
    _evidence(compare, run)
    if search:
        if record.method not in CONFIGS:
            raise Unsupported(
                f"repeating the search of {record.method or 'another tool'}", "the circuit came from a file",
                "replay without --search",
            )  # fmt: skip
        found = method[record.method](run.model, run.task, CONFIGS[record.method](**record.config), progress=progress)
        found = found.inclusion if isinstance(found, Consensus) else found
        if isinstance(found, EdgeScores):
            old, new = (circuit.weight, found.values[inside]) if values is None else (values, found.values)
            compare.same("largest change of a score", 0.0, float(np.abs(new - old).max()))
        else:
            there = graph.numbers(found.src, found.dst, found.matrix)
            compare.same("edges found otherwise", 0, int(np.setxor1d(there, inside).size))
    return compare.compared, compare.found


def _evidence(compare: _Comparison, run: Run | EdgeRun) -> None:
    """Every number of evidence.json, if the run was verified, under the claim it was made under."""
    if not (run.folder / EVIDENCE).is_file():
        return
    stored, record = load_evidence(run.folder / EVIDENCE), load_record(run.folder / EVIDENCE)
    claim = claim_of(run, record)
    now = run_battery(trial_of(run, claim), claim.checks, stated=stated_of(claim))
    by_name = {e.name: e for e in now}
    compare.same("checks", ", ".join(sorted(e.name for e in stored)), ", ".join(sorted(by_name)))
    for e in stored:
        if e.name in by_name:
            _same_evidence(compare, e, by_name[e.name])


def _same_evidence(compare: _Comparison, stored: Evidence, now: Evidence) -> None:
    """Every number of a check."""
    name = stored.name
    compare.same(f"{name}: verdict", stored.verdict, now.verdict)
    compare.same(f"{name}: nulls", ", ".join(n.name for n in stored.nulls), ", ".join(n.name for n in now.nulls))
    for what, a, b in [(name, stored, now)] + [
        (f"{name}: {n.name}", n, m) for n in stored.nulls for m in now.nulls if n.name == m.name
    ]:  # fmt: skip
        compare.same(f"{what}: value", a.value, b.value)
        compare.same(f"{what}: n", a.n, b.n)
        for end in range(2):
            compare.same(f"{what}: interval", *(x.interval and x.interval[end] for x in (a, b)))
