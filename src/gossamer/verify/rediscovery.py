"""A circuit's own discovery, run again: on other prompts, with another seed, on a model or a task where there is
nothing to find.

The method and its whole configuration are those in the circuit's Record; the method is looked up in the registry. What
it returns is made a circuit as the circuit on trial was: scores of edges are cut to as many edges, a search that is cut
at a target loss is `not reached` where it misses it. A pruning with several node penalties is run with all of them: on
other prompts, in another model, another penalty may win, and choosing among them is part of the method. Where there
should be nothing to find it gets a gentler one besides; `notes` says so.

A result is kept in a folder by a hash of all it depends on: the weights, the method, its configuration, every prompt,
the versions and the commit. The folder is the trial's `cache`, else $GOSSAMER_CACHE, else $XDG_CACHE_HOME/gossamer or
~/.cache/gossamer. An entry is written whole or not at all, and one that is damaged is made again. With uncommitted
changes in the source nothing is kept: the code that a result came from could not be told.

When it lies: a circuit that was cut in another way than by size (by sign, greedily) is cut by size here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile, Unsupported, options
from gossamer.graph import on_paths
from gossamer.record import Record
from gossamer.registry import config_kind, method
from gossamer.scores import EdgeScores
from gossamer.subject import ResidualSubject, Subject
from gossamer.task import Example, Task
from gossamer.verify.trial import Progress, Trial

GENTLER = 4
_OUTCOME = "rediscovery"


class Found(NamedTuple):
    """The circuit that a discovery came to. Not `reached`: it misses the target loss, and is the one nearest to it.

    loss: held-out task loss in nats, of methods that are cut at one.
    """

    circuit: Circuit
    reached: bool
    loss: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Discovery:
    """A method with its configuration, and how what it returns is made a circuit.

    edges: to how many scores are cut; connected: whether edges on no path are left out. grain: of the circuit; folder:
    where results are kept, None for nowhere. notes: what is done otherwise than in the first place, in sentences.
    """

    name: str
    function: Callable[..., Any]
    config: BaseModel
    edges: int
    connected: bool
    grain: str
    folder: Path | None
    notes: str = ""

    @property
    def seeded(self) -> bool:
        """Whether the method draws anything."""
        return "seed" in type(self.config).model_fields

    def pool(self, task: Task) -> tuple[Example, ...]:
        """The training pairs that the method sees."""
        return task.train[: getattr(self.config, "pairs", len(task.train))]

    def run(
        self, model: Subject | ResidualSubject, task: Task, *, seed: int | None = None,
        progress: Progress | None = None,
    ) -> Found:  # fmt: skip
        """Discover on the task's training pairs, or read what the same discovery found before.

        seed: in place of the configuration's. Errors: those of the method, and Unsupported for one that returns neither
        scores of edges nor a circuit.
        """
        config = self.config
        if seed is not None and self.seeded:
            config = config.model_copy(update={"seed": seed})
        path = None if self.folder is None else self.folder / f"{self._key(model, task, config)}.safetensors"
        if path is not None and (known := _read(path)) is not None:
            return known
        found = self._circuit(self.function(model, task, config, progress=progress))
        if path is not None:
            _keep(found, path)
        return found

    def _key(self, model: Subject | ResidualSubject, task: Task, config: BaseModel) -> str:
        now = Record.now(method=self.name, config=config.model_dump(mode="json"), seed=0)
        parts = [
            model.hashes(), type(model).__name__, self.grain, now.method, now.config, self.edges, self.connected,
            task.name, task.version, [asdict(e) for e in (*task.train, *task.heldout)], now.versions, now.commit,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _circuit(self, found: object) -> Found:
        if isinstance(found, Circuit):
            return Found(found, True, None)
        if isinstance(found, EdgeScores):
            return Found(cut_to(found, self.edges, self.connected), True, None)
        circuit = getattr(found, "circuit", None)
        if not isinstance(circuit, Circuit):
            raise Unsupported(
                f"the discovery {self.name} on trial", "it returns neither scores of edges nor a circuit",
                "a circuit of another method",
            )  # fmt: skip
        return Found(circuit, bool(getattr(found, "reached", True)), getattr(found, "loss_heldout", None))


def discovery_of(trial: Trial, *, steps: int | None = None, gentler: bool = False) -> Discovery:
    """The discovery of the circuit on trial. Unsupported for a circuit that no method of the registry found.

    steps: train masks for so many steps in place of the record's. gentler: give a search under a penalty per node one
    more mask, of a quarter of its smallest penalty, as a task that needs more nodes may lose all of them under one that
    suits the real task. Each for methods that have it; `notes` says so.
    """
    record, circuit = trial.circuit.record, trial.circuit
    if record.method not in method:
        raise Unsupported(
            f"repeating the discovery {record.method or 'without a name'!r}", "no method of that name is known here",
            "a circuit that `gossamer discover` found",
        )  # fmt: skip
    function = method[record.method]
    kind, given, notes = config_kind(function), dict(record.config), []
    if kind is None:
        raise Unsupported(
            f"repeating {record.method}", "its configuration has no class", "a method with a config argument"
        )
    if steps is not None and "steps" in kind.model_fields and steps != given.get("steps"):
        notes.append(f"Masks were trained for {steps} steps, those of the circuit for {given.get('steps')}.")
        given["steps"] = steps
    config = options(kind, given, f"record of {record.method}")
    penalties = getattr(config, "k_coef", ())
    if gentler and penalties and (more := min(penalties) / GENTLER) > 0:
        notes.append(f"Masks were trained with the penalty {more:g} too.")
        config = config.model_copy(update={"k_coef": (*penalties, more)})
    if record.task_version and (record.task, record.task_version) != (trial.task.name, trial.task.version):
        notes.append(f"The circuit was found on {record.task} {record.task_version}, not on this task.")
    edges = np.empty(0, dtype=np.int64)
    if circuit.granularity == "edge" and circuit.layout.grain != "channel":
        graph = trial.model.graph(circuit.layout.grain)
        edges = graph.numbers(circuit.src, circuit.dst, circuit.matrix)
        connected = len(on_paths(graph, edges)) == len(edges)
    else:
        connected = True
    return Discovery(
        name=record.method, function=function, config=config, edges=len(edges), connected=connected,
        grain=circuit.layout.grain, folder=trial.cache or user_folder(), notes=" ".join(notes),
    )  # fmt: skip


def cut_to(scores: EdgeScores, edges: int, connected: bool) -> Circuit:
    """The fewest edges of largest score of which at least so many are left once those on no path are left out; where
    there are no so many, all that are on paths."""
    low, high = 0, len(scores.values)
    if not connected:
        return scores.top(min(edges, high), connected=False)
    order = np.argsort(-np.abs(scores.values), kind="stable")
    while high - low > 1:
        middle = (low + high) // 2
        enough = len(on_paths(scores.graph, order[:middle])) >= edges
        low, high = (low, middle) if enough else (middle, high)
    return scores.top(high)


def user_folder() -> Path | None:
    """Where this user's results are kept; None with uncommitted changes in the source."""
    if Record.now(method="", config={}, seed=0).dirty:
        return None
    named, base = os.environ.get("GOSSAMER_CACHE"), os.environ.get("XDG_CACHE_HOME")
    root = Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "gossamer"
    return root / "rediscovered"


def _read(path: Path) -> Found | None:
    with suppress(BadInput, CorruptFile, LookupError, TypeError):
        circuit = Circuit.load(path)
        outcome = circuit.record.details[_OUTCOME]
        return Found(circuit, bool(outcome["reached"]), outcome["loss"])
    return None


def _keep(found: Found, path: Path) -> None:
    """Under a name of this process's own, then renamed; a folder that cannot be written to keeps nothing."""
    outcome = {_OUTCOME: {"reached": found.reached, "loss": found.loss}}
    record = found.circuit.record.model_copy(update={"details": {**found.circuit.record.details, **outcome}})
    with suppress(OSError):
        replace(found.circuit, record=record).save(path.with_name(f"{path.stem}.{os.getpid()}")).replace(path)
