"""`gossamer compose`: a circuit made of the circuits of runs, tried against random sets of its size, as a run folder.

The folder is one that verify, show and replay take, with composition.json (the evidence) in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.circuit import Circuit
from gossamer.commands.comparisons import different_circuits, run_names
from gossamer.commands.edge_runs import (
    TRIAL_PAIRS,
    EdgeResult,
    EdgeRun,
    EdgeRunRecord,
    edge_trial,
    of_whole_answers,
    own_ablation,
    own_positions,
    write,
)
from gossamer.commands.imports import given
from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import ComposeReport
from gossamer.commands.run_folder import CIRCUIT, COMPOSITION, Run, copied_pairs, next_free, write_run
from gossamer.commands.solved import at_channels, scores_of
from gossamer.commands.trials import read_any
from gossamer.compare.overlap import require_comparable
from gossamer.compare.parts import LEAST_DRAWS
from gossamer.compare.set_algebra import (
    OnTask,
    Operation,
    composed,
    composition_evidence,
    known_operation,
    on_task,
    require_gain,
)
from gossamer.errors import BadInput, Unsupported, nearest, require_new
from gossamer.evidence import Evidence, save_evidence
from gossamer.models import LoadedModel
from gossamer.record import Record
from gossamer.task import Task
from gossamer.tasks import is_pairs_file, load_task
from gossamer.verify import ChannelTrial, EdgeTrial, Trial, faithfulness

RULES = ("first", "evaluated", "all")
Asked = tuple[str, int, Task]  # source, seed, pairs


def compose(
    operation: str, runs: Sequence[str | Path], *, tasks: Sequence[str | Path], task_seed: int, rule: str | None,
    value: str | None, model: str | None, out: str | Path | None, pairs: int, draws: int, gain: float, seed: int,
    device: str, progress: Steps | None, say: Say,
) -> ComposeReport:  # fmt: skip
    """See gossamer.commands.compose."""
    started = time.perf_counter()
    how = known_operation(operation)
    if rule is not None and rule not in RULES:
        raise BadInput(f"Unknown rule {rule!r}: {nearest(rule, RULES)}")
    if len(runs) < 2:
        raise BadInput(f"Expected two or more runs, got {len(runs)}; give another run of the same model.")
    if pairs < 2:
        raise BadInput(f"Expected at least 2 pairs of each task (one has no interval), got {pairs}; 128 are usual.")
    if draws < 1:
        raise BadInput(f"Expected at least 1 random set of each part, got {draws}; a verdict needs {LEAST_DRAWS}.")
    if seed < 0:
        raise BadInput(f"Expected a seed of at least 0, got {seed}.")
    require_gain(gain)
    if out:
        require_new(Path(out))
    folders = [Path(run) for run in runs]
    for f in folders:
        if not (f / CIRCUIT).is_file():
            raise BadInput(
                f"Expected a run folder with {CIRCUIT}, {f} has none; "
                "make one with `gossamer discover prune MODEL TASK`."
            )
    circuits = [Circuit.load(f / CIRCUIT) for f in folders]
    hashes = different_circuits(folders, "composed with itself a circuit is what it was, or nothing")
    names = run_names(folders, circuits, along=False)
    require_comparable(dict(zip(names, circuits, strict=True)))
    read = {n: read_any(f, model, device) for n, f in zip(names, folders, strict=True)}
    first = next(iter(read.values()))
    asked = _asked(read, tasks, task_seed)
    made = _OfChannels(first, value, rule, model, device) if isinstance(first, Run) else _OfEdges(first, value, rule)
    source, at, task = asked[0]
    record = Record.now(
        method="set-operation", seed=seed, model=first.circuit.record.model or first.model.name, task=task.name,
        task_version=task.version,
        config={
            "operation": how, "circuits": list(names), "rule": made.rule, "pairs": pairs, "draws": draws, "gain": gain,
            **made.config(read),
        },
        details={
            "circuits": dict(zip(names, hashes, strict=True)),
            "sizes": {n: [c.n_nodes, c.n_edges] for n, c in zip(names, circuits, strict=True)},
            **made.details(),
        },
        **made.hashes(task),
    )  # fmt: skip
    found = composed(first.model.graph(first.circuit.layout.grain), circuits, how, record, made.weights)
    say(f"{how} of {', '.join(names)}: {found.n_nodes} nodes, {found.n_edges} edges; asked {len(asked)} tasks")
    results, rows = list[OnTask](), list[Evidence]()
    firsts = [run.task for run in read.values()]
    for _, _, one in asked:
        trial = made.trial(found, one, firsts, pairs, seed, progress)
        parts = {n: trial.retried(c).inside for n, c in zip(names, circuits, strict=True)}
        result = on_task(trial, trial.inside, parts, how, draws=draws, value=made.value)
        results.append(result)
        rows.append(composition_evidence(result, trial, how, rule=made.rule, gain=gain, value=made.value))
    folder = Path(out) if out else next_free(Path("runs") / f"{how}-{record.model.replace('/', '-')}")
    made.write(folder, found, task, source, at, lambda work: save_evidence(rows, work / COMPOSITION, record))
    return ComposeReport(
        run=str(folder), operation=how, circuits=names, model=record.model, task=task.name, rule=made.rule,
        nodes=found.n_nodes, edges=found.n_edges, evidence=tuple(rows), finding=_finding(how, names, results),
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def _asked(read: Mapping[str, Run | EdgeRun], tasks: Sequence[str | Path], seed: int) -> list[Asked]:
    """The tasks that are asked for, else those of the runs (once where two have the same pairs); each as the model can
    be asked it."""
    first, found = next(iter(read.values())), dict[str, Asked]()
    for one in tasks or read.values():
        if isinstance(one, Run | EdgeRun):
            source, at, task = one.about.task_source, one.about.task_seed, one.task
            source = str(one.folder / source) if is_pairs_file(source) else source
        else:
            source, at = str(one), seed
            if isinstance(first, EdgeRun):
                positions, several = own_positions(first.circuit.record), of_whole_answers(first.circuit.record)
                task = load_task(source, at, first.model.tokenizer)
                task = first.model.fitting(task, positions=positions, several=several)
            else:
                task = first.model.fitting(load_task(source, at))
        _, _, known = found.setdefault(task.name, (source, at, task))
        if (known.train, known.heldout) != (task.train, task.heldout):
            raise BadInput(
                f"Expected tasks of different names, {task.name} is of two sets of pairs (of {found[task.name][0]}, "
                f"seed {found[task.name][1]}, and of {source}, seed {at}); choose one with --task."
            )
        if len(task.heldout) < 2:
            raise BadInput(
                f"Expected at least 2 held-out pairs of {task.name}, got {len(task.heldout)}; leave it out with --task."
            )
    return list(found.values())


def _means_of(rule: str, task: Task, of_runs: Sequence[Task], most: int | None = None) -> Task:
    """The task with the training pairs that a rule takes means over, at most so many of a task."""
    chosen = of_runs if rule == "all" else of_runs[:1] if rule == "first" else [task]
    return replace(task, train=tuple(e for t in chosen for e in t.train[:most]))


def _only(own: str, rule: str | None, why: str) -> str:
    """What an ablation has instead of means over some task; Unsupported where a rule for those is given."""
    if rule is not None:
        raise Unsupported(f"the rule {rule} here", f"{why}; a rule says whose means are taken", "no --rule")
    return own


class _OfChannels:
    """Circuits of channels. With a weight-sparse model its reference means stand in, of no task."""

    def __init__(self, first: Run, value: str | None, rule: str | None, model: str | None, device: str) -> None:
        self.first, self.value, self.device = first, value, device
        self.place = model or first.about.model_source
        self.sparse = isinstance(first.model, LoadedModel)
        if value not in (None, "mean", "zero"):
            raise Unsupported(
                f"composing circuits of channels by {value}", "a run's trial is by constants", "mean, zero"
            )
        if value == "zero":
            self.rule = _only("none", rule, "zeros are of no task")
        elif self.sparse:
            self.rule = _only("reference", rule, "a weight-sparse model's reference means are of no task")
        else:
            self.rule = rule or RULES[0]
        self.weights = first.model.edge_weights

    def config(self, read: Mapping[str, Run | EdgeRun]) -> dict[str, Any]:
        targets = [run.about.result.target_loss_nats for run in read.values() if isinstance(run, Run)]
        return {"target_loss": max(targets), "ablation": self.value or "mean"}

    def details(self) -> dict[str, Any]:
        return {"means_of": self.first.model.means_of}

    def hashes(self, task: Task) -> dict[str, str]:
        weights, means = self._model(task).hashes()
        return {"model_sha256": weights, "means_sha256": means}

    def _model(self, task: Task) -> Any:
        return self.first.model if self.sparse else at_channels(self.place, self.device, task)

    def trial(
        self, circuit: Circuit, task: Task, of_runs: Sequence[Task], pairs: int, seed: int, progress: Steps | None
    ) -> Trial:
        model = self._model(_means_of(self.rule, task, of_runs))
        heldout = model.encode(task.heldout[:pairs])
        return ChannelTrial(model=model, circuit=circuit, task=task, heldout=heldout, seed=seed, progress=progress)

    def write(
        self, folder: Path, circuit: Circuit, task: Task, source: str, at: int, also: Callable[[Path], object]
    ) -> None:
        model = self._model(task)
        whole = scores_of(model, task.heldout)
        found = given(model, circuit, task, circuit.record.config["target_loss"])
        write_run(
            folder, found, self.first.about.model_source, source, at, accuracy_full=whole[0], loss_full=whole[2],
            also=also,
        )  # fmt: skip


class _OfEdges:
    """Circuits of edges between heads and MLPs."""

    def __init__(self, first: EdgeRun, value: str | None, rule: str | None) -> None:
        self.first, self.value, record = first, value or own_ablation(first.circuit.record), first.circuit.record
        if self.value == "resample":
            self.rule = _only("the pair's other prompt", rule, "values are those of the pair's other prompt")
        elif self.value in ("zero", "noise"):
            self.rule = _only("none", rule, f"{self.value} is of no task")
        else:
            self.rule = rule or RULES[0]
        self.positions, self.several, self.weights = own_positions(record), of_whole_answers(record), None

    def config(self, read: Mapping[str, Run | EdgeRun]) -> dict[str, Any]:
        others = {own_positions(run.circuit.record) for run in read.values()}
        if len(others) > 1:
            raise Unsupported(
                f"composing circuits at positions {', '.join(sorted(others))}", "an edge is ablated at one choice of "
                "positions", "runs found with the same --positions",
            )  # fmt: skip
        metric = {"metric": self.first.circuit.record.config["metric"]} if self.several else {}
        return {"ablation": self.value, "positions": self.positions, **metric}

    def details(self) -> dict[str, Any]:
        return {"sign": "that of the first circuit that has the edge; 0 where none has"}

    def hashes(self, task: Task) -> dict[str, str]:
        weights, means = self.first.model.hashes()
        return {"model_sha256": weights, "means_sha256": means}

    def trial(
        self, circuit: Circuit, task: Task, of_runs: Sequence[Task], pairs: int, seed: int, progress: Steps | None
    ) -> Trial:
        means = _means_of(self.rule, task, of_runs, TRIAL_PAIRS)
        heldout, training = (
            self.first.model.encode(part, positions=self.positions, several=self.several)
            for part in (task.heldout[:pairs], means.train)
        )
        return EdgeTrial(
            model=self.first.model, circuit=circuit, task=task, heldout=heldout, training=training, value=self.value,
            seed=seed, progress=progress,
        )  # fmt: skip

    def write(
        self, folder: Path, circuit: Circuit, task: Task, source: str, at: int, also: Callable[[Path], object]
    ) -> None:
        model, f = self.first.model, self.first.f
        trial = edge_trial(model, task, circuit, self.value, positions=self.positions)
        result = EdgeResult(
            nodes=circuit.n_nodes, edges=circuit.n_edges, all_edges=model.graph().n_edges, cut=None,
            faithfulness=faithfulness(trial, target=f),
        )  # fmt: skip
        about = EdgeRunRecord(
            record=circuit.record, result=result, model_source=self.first.about.model_source,
            dtype=self.first.about.dtype, task_source=copied_pairs(source), task_seed=at, target=f,
        )  # fmt: skip
        write(folder, about, circuit, None, source, also)


def _finding(operation: Operation, names: Sequence[str], results: Sequence[OnTask]) -> str:
    word = "supersets" if operation == "union" else "subsets"
    told = [
        f"{x.task} {x.share:.3f} ({x.best} alone {x.parts[x.best]:.3f}, random {word} of it "
        f"{np.mean(x.random[x.best]):.3f})"
        for x in results
    ]  # fmt: skip
    return f"Share of the effect that the {operation} of {' and '.join(names)} leaves: {'; '.join(told)}."
