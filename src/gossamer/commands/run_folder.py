"""A run folder: record.json scores.safetensors circuit.safetensors evidence.json bundle.json page.html notes.json.

Written under a temporary name and renamed, so a run exists whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from gossamer.circuit import Circuit
from gossamer.commands.solved import at_channels
from gossamer.discover import Pruned
from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line, require_new
from gossamer.models import LoadedModel, checked_device
from gossamer.record import Record
from gossamer.scores import Scores
from gossamer.task import Task
from gossamer.tasks import is_pairs_file, load_task
from gossamer.whole_file import whole_folder, write_whole

if TYPE_CHECKING:
    from gossamer.models.huggingface import Channels

RECORD, SCORES, CIRCUIT, EVIDENCE, BINARISED, REPORT, COMPOSITION = (
    "record.json", "scores.safetensors", "circuit.safetensors", "evidence.json", "binarised.json", "report.json",
    "composition.json",
)  # fmt: skip


class RunResult(BaseModel):
    """The numbers of a discovery run. Losses are task_loss_nats; `full` is the whole model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reached: bool
    target_loss_nats: float
    loss_train_nats: float
    loss_heldout_nats: float
    loss_full_nats: float
    accuracy_circuit: float
    accuracy_full: float
    nodes: int
    edges: int
    curve: tuple[tuple[int, int, float], ...]
    trials: tuple[dict[str, float | int | bool], ...]


class RunRecord(BaseModel):
    """record.json: provenance, numbers, and where the model and the task come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    record: Record
    result: RunResult
    model_source: str
    task_source: str
    task_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run read from disk, with its model and its task."""

    folder: Path
    about: RunRecord
    scores: Scores
    circuit: Circuit
    model: LoadedModel | Channels
    task: Task

    @property
    def weight_sparse(self) -> LoadedModel:
        """Its model; Unsupported for a Hugging Face decoder."""
        if not isinstance(self.model, LoadedModel):
            raise Unsupported(
                f"this for a run on {self.model.name}, a Hugging Face decoder", "it is built for weight-sparse models",
                "verify or replay, or show of a circuit of edges (discover eap, acdc, ...)",
            )  # fmt: skip
        return self.model


def next_free(folder: Path) -> Path:
    """`folder`, or the first of `folder-2`, `folder-3`, ... that does not exist."""
    number, found = 1, folder
    while found.exists():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


@contextmanager
def new_folder(out: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` when the block ends without an error."""
    if not replace:
        require_new(out)
    with whole_folder(out) as work:
        yield work


def write_json(content: BaseModel | dict[str, Any], path: Path) -> Path:
    """JSON, whole or not at all."""
    text = content.model_dump_json(indent=1) if isinstance(content, BaseModel) else json.dumps(content, indent=1)
    return write_whole(text, path)


def write_run(
    out: Path, found: Pruned, model_source: str, task: str, task_seed: int, *, accuracy_full: float, loss_full: float,
    replace: bool = False, also: Callable[[Path], object] | None = None,
) -> None:  # fmt: skip
    """The run folder of a circuit: scores, circuit, Record, and a copy of the user's pairs if the task is a file. also:
    writes what else belongs into it."""
    c = found.circuit
    result = RunResult(
        reached=found.reached, target_loss_nats=c.record.config["target_loss"], loss_train_nats=found.loss_train,
        loss_heldout_nats=found.loss_heldout, loss_full_nats=loss_full, accuracy_circuit=found.accuracy_heldout,
        accuracy_full=accuracy_full, nodes=c.n_nodes, edges=c.n_edges, curve=found.curve,
        trials=tuple(t._asdict() for t in found.trials),
    )  # fmt: skip
    about = RunRecord(
        record=c.record, result=result, model_source=model_source, task_source=copied_pairs(task), task_seed=task_seed
    )
    with new_folder(out, replace) as work:
        found.scores.save(work / SCORES)
        c.save(work / CIRCUIT)
        copied_pairs(task, work)
        write_json(about, work / RECORD)
        if also:
            also(work)


def copied_pairs(task: str, into: Path | None = None) -> str:
    """How a run names its task: by name, or the name of the user's file of pairs, of which `into` gets a copy."""
    if not is_pairs_file(task):
        return task
    if into is not None:
        shutil.copyfile(task, into / Path(task).name)
    return Path(task).name


def task_of_run(
    folder: Path, source: str, seed: int, record: Record, fitting: Callable[[Task], Task], tokenizer: Any = None
) -> Task:
    """The pairs of a run that its model can be asked; BadInput when they are not those it was made with."""
    task = fitting(load_task(str(folder / source) if is_pairs_file(source) else source, seed, tokenizer))
    if task.version != record.task_version:
        raise BadInput(
            f"Expected task {task.name} version {record.task_version}, this Gossamer has {task.version}; use the "
            "version that made the run."
        )
    return task


def read_record(folder: Path) -> RunRecord:
    """record.json of a run folder; BadInput when there is none, CorruptFile when it is damaged."""
    path = folder / RECORD
    if not path.is_file():
        raise BadInput(f"Expected a run folder with {RECORD} at {folder}; `gossamer discover prune` makes one.")
    try:
        return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFile(f"{path} is not a whole run record ({one_line(error)}); make the run again.") from error


def read_run(folder: Path, model: str | None = None, device: str = "cpu") -> Run:
    """A run with its model (from where the run found it, or `model`) and its task; every file is checked first."""
    checked_device(device)
    about = read_record(folder)
    scores, circuit = Scores.load(folder / SCORES), Circuit.load(folder / CIRCUIT)
    source = model or about.model_source
    own = folder / about.task_source
    asked = load_task(str(own) if is_pairs_file(about.task_source) else about.task_source, about.task_seed)
    try:
        loaded = at_channels(source, device, asked)
    except BadInput as error:
        raise BadInput(
            f"{error} The run was made with {about.model_source}; give its place now with --model."
        ) from error
    task = task_of_run(folder, about.task_source, about.task_seed, about.record, loaded.fitting)
    return Run(folder=folder, about=about, scores=scores, circuit=circuit, model=loaded, task=task)
