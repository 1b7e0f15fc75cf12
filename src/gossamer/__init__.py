"""Gossamer: train, find, test and show the circuits of transformers.

The names below load on first use; `import gossamer` itself imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "BadInput": "gossamer.errors",
    "Circuit": "gossamer.circuit",
    "CorruptFile": "gossamer.errors",
    "Evidence": "gossamer.evidence",
    "Example": "gossamer.task",
    "GossamerError": "gossamer.errors",
    "LoadedModel": "gossamer.models.loaded",
    "Null": "gossamer.evidence",
    "Record": "gossamer.record",
    "Scores": "gossamer.scores",
    "Site": "gossamer.site",
    "Subject": "gossamer.subject",
    "Task": "gossamer.task",
    "Unsupported": "gossamer.errors",
    "from_pretrained": "gossamer.models.hub",
    "load_task": "gossamer.tasks",
    "push_to_hub": "gossamer.models.hub",
    "read_run": "gossamer.commands.run_folder",
    "widget": "gossamer.commands",
}
_FOLDERS = (
    "commands", "compare", "corpora", "discover", "explain", "formats", "models", "show", "tasks", "train", "verify",
)  # fmt: skip

__all__ = [
    "BadInput", "Circuit", "CorruptFile", "Evidence", "Example", "GossamerError", "LoadedModel", "Null", "Record",
    "Scores", "Site", "Subject", "Task", "Unsupported", "__version__", "commands", "compare", "discover", "explain",
    "formats", "from_pretrained", "load_task", "models", "push_to_hub", "read_run", "show", "tasks", "train", "verify",
    "widget",
]  # fmt: skip

if TYPE_CHECKING:
    from gossamer import commands, compare, discover, explain, formats, models, show, tasks, train, verify
    from gossamer.circuit import Circuit
    from gossamer.commands import widget
    from gossamer.commands.run_folder import read_run
    from gossamer.errors import BadInput, CorruptFile, GossamerError, Unsupported
    from gossamer.evidence import Evidence, Null
    from gossamer.models.hub import from_pretrained, push_to_hub
    from gossamer.models.loaded import LoadedModel
    from gossamer.record import Record
    from gossamer.scores import Scores
    from gossamer.site import Site
    from gossamer.subject import Subject
    from gossamer.task import Example, Task
    from gossamer.tasks import load_task


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in _FOLDERS:
        return importlib.import_module(f"gossamer.{name}")
    raise AttributeError(f"module 'gossamer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
