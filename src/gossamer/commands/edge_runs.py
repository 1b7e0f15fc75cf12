"""Run folders whose circuit is edges of a Hugging Face decoder: written, read, and their trial.

The folder: record.json circuit.safetensors evidence.json, and scores.safetensors where the method scores all edges.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from gossamer.ablation import of_edges
from gossamer.circuit import Circuit
from gossamer.commands.progress import Steps
from gossamer.commands.run_folder import (
    CIRCUIT,
    RECORD,
    SCORES,
    copied_pairs,
    new_folder,
    next_free,
    task_of_run,
    write_json,
)
from gossamer.errors import BadInput, CorruptFile, one_line, require_new
from gossamer.evidence import Evidence
from gossamer.formats import read_circuit
from gossamer.record import Record
from gossamer.replacement import Replacement, replacement
from gossamer.scores import EdgeScores
from gossamer.subject import ResidualSubject, require_model_of
from gossamer.task import Task
from gossamer.tasks import asks_by_token_number, load_task
from gossamer.verify import EdgeTrial, faithfulness

if TYPE_CHECKING:
    from gossamer.models.huggingface import Decoder

WHOLE_ANSWERS = "sequence-log-probability"
TRIAL_PAIRS = 128  # held-out pairs of a trial; training pairs that a cut is made on


class EdgeResult(BaseModel):
    """What a run says of its circuit. cut: how the circuit was made of scores, None where the method returned it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int
    edges: int
    all_edges: int
    cut: dict[str, float] | None
    faithfulness: Evidence


class EdgeRunRecord(BaseModel):
    """record.json: provenance, numbers, and where the model and the task come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    kind: Literal["edges"] = "edges"
    record: Record
    result: EdgeResult
    model_source: str
    dtype: str = "float32"
    task_source: str
    task_seed: int = 0
    target: float = 0.9


@dataclass(frozen=True, kw_only=True)
class EdgeRun:
    """A run read from disk, with its model and its task."""

    folder: Path
    about: EdgeRunRecord
    circuit: Circuit
    model: Decoder
    task: Task

    @property
    def f(self) -> float:
        """The faithfulness that its circuit was held to."""
        return self.about.target

    @cached_property
    def standing(self) -> Replacement:
        """What an ablated write becomes in a prompt without a counterfactual: by the run's own ablation, or the mean
        where that resamples; made once."""
        value = own_ablation(self.about.record)
        positions = own_positions(self.about.record)
        how = of_edges("mean" if value == "resample" else value, positions=positions)
        pairs = self.model.encode(
            self.task.train[:TRIAL_PAIRS], positions=positions, several=of_whole_answers(self.about.record)
        )
        found = replacement(self.model, pairs, how)
        return found.fitted(torch.from_numpy(self.circuit.shares(self.model.graph(), how).astype(np.float32)))


def edge_trial(
    model: ResidualSubject, task: Task, circuit: Circuit, value: str = "resample",
    granularity: str = "edge", seed: int = 0, pairs: int = TRIAL_PAIRS,
    progress: Steps | None = None, positions: str = "all",
) -> EdgeTrial:  # fmt: skip
    """The trial of a circuit on a task's held-out pairs."""
    return EdgeTrial(
        model=model, circuit=circuit, task=task,
        heldout=model.encode(task.heldout[:pairs], positions=positions, several=True),
        training=model.encode(task.train[:TRIAL_PAIRS], positions=positions, several=True), value=value,
        granularity=granularity, seed=seed, progress=progress,
    )  # fmt: skip


def own_ablation(record: Record) -> str:
    """What an ablated write became in the method that found a circuit: what it is tried by, unless asked otherwise."""
    return str(_asked(record).get("ablation", "resample"))


def own_positions(record: Record) -> str:
    """Where the method that found a circuit ablated edges: where it is tried, unless asked otherwise."""
    return str(_asked(record).get("positions", "all"))


def of_whole_answers(record: Record) -> bool:
    """Whether the method that found a circuit could be asked answers of several tokens."""
    return _asked(record).get("metric") == WHOLE_ANSWERS


def _asked(record: Record) -> Mapping[str, Any]:
    """The options of the method itself, which consensus has within its own."""
    return record.config.get("options", {}) if record.method == "consensus" else record.config


def write(
    folder: Path, about: EdgeRunRecord, circuit: Circuit, scores: EdgeScores | None, task: str,
    also: Callable[[Path], object] | None = None,
) -> None:  # fmt: skip
    """The run folder, whole or not at all. also: writes what else belongs into it."""
    with new_folder(folder) as work:
        if scores is not None:
            scores.save(work / SCORES)
        circuit.save(work / CIRCUIT)
        copied_pairs(task, work)
        write_json(about, work / RECORD)
        if also:
            also(work)


def edge_name(circuit: Circuit, i: int) -> str:
    src, dst = (circuit.layout.site(int(ends[i])) for ends in (circuit.src, circuit.dst))
    what = circuit.matrices[int(circuit.matrix[i])]
    return f"{src}->{dst}<{what}>" if what in "qkv" else f"{src}->{dst}"


def sign_of(record: Record) -> str:
    removed = "rise of the metric when the edge was removed" if record.method == "acdc" else "not stated"
    return str(record.details.get("sign", removed))


def is_edge_run(folder: Path) -> bool:
    """Whether a run folder's record is of a circuit of edges."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("kind") == "edges"


def read_about(folder: Path) -> EdgeRunRecord:
    """record.json of a run of edges; CorruptFile when it is damaged."""
    path = folder / RECORD
    try:
        return EdgeRunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFile(f"{path} is not a whole run record ({one_line(error)}); make the run again.") from error


def read(folder: Path, model: str | None = None, device: str = "cpu") -> EdgeRun:
    """A run with its model (from where the run found it, or `model`) and its task; every file is checked first."""
    from gossamer.models.huggingface import load_decoder

    about = read_about(folder)
    circuit = Circuit.load(folder / CIRCUIT)
    source = model or about.model_source
    try:
        loaded = load_decoder(source, device, about.dtype)
    except BadInput as error:
        raise BadInput(
            f"{error} The run was made with {about.model_source}; give its place now with --model."
        ) from error
    require_model_of(circuit.record, loaded)
    at, several = own_positions(about.record), of_whole_answers(about.record)
    fitting = partial(loaded.fitting, positions=at, several=several)
    task = task_of_run(folder, about.task_source, about.task_seed, about.record, fitting, loaded.tokenizer)
    return EdgeRun(folder=folder, about=about, circuit=circuit, model=loaded, task=task)


def put_in_run(
    file: Path, model: str | None, task: str | Path | None, out: str | Path | None, edges: int | None, device: str,
    dtype: str,
) -> EdgeRun:  # fmt: skip
    """A circuit from a file, of a model and a task, as a new run folder."""
    from gossamer.models.huggingface import load_decoder

    if model is None or task is None:
        missing = " and ".join(n for n, v in (("--model", model), ("--task", task)) if v is None)
        raise BadInput(f"Expected {missing} with the circuit file {file}: it does not say what it is of.")
    asked = None if asks_by_token_number(str(task)) else load_task(str(task))
    loaded = load_decoder(model, device, dtype)
    asked = asked or load_task(str(task), 0, loaded.tokenizer)
    circuit = read_circuit(file, loaded.graph(), size=edges)
    at, several = own_positions(circuit.record), of_whole_answers(circuit.record)
    asked = loaded.fitting(asked, positions=at, several=several)
    require_model_of(circuit.record, loaded)
    if not circuit.n_edges:
        raise BadInput(f"Expected a circuit with edges in {file}, it has none.")
    folder = Path(out) if out else next_free(Path("runs") / f"{asked.name}-{loaded.name}-{file.stem}")
    require_new(folder)
    model_hash, means_hash = loaded.hashes()
    record = circuit.record.model_copy(update={
        "model": loaded.name, "model_sha256": model_hash, "means_sha256": means_hash, "task": asked.name,
        "task_version": asked.version,
    })  # fmt: skip
    circuit = replace(circuit, record=record)
    result = EdgeResult(
        nodes=circuit.n_nodes, edges=circuit.n_edges, all_edges=loaded.graph().n_edges, cut=None,
        faithfulness=faithfulness(
            edge_trial(loaded, asked, circuit, own_ablation(record), positions=at), target=0.9
        ),
    )  # fmt: skip
    about = EdgeRunRecord(
        record=record, result=result, model_source=loaded.source, dtype=dtype, task_source=copied_pairs(str(task))
    )
    write(folder, about, circuit, None, str(task))
    return EdgeRun(folder=folder, about=about, circuit=circuit, model=loaded, task=asked)
