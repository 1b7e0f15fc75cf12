"""Tasks by name, and users' own pairs from files."""

from __future__ import annotations

from gossamer.registry import task
from gossamer.task import Task
from gossamer.tasks import python_code  # first: its tasks are listed first

# isort: split
from gossamer.tasks import agreement, docstring, greater_than, induction, ioi, pronoun, sequence
from gossamer.tasks.own_pairs import read_pairs

__all__ = [
    "agreement", "docstring", "greater_than", "induction", "ioi", "is_pairs_file", "load_task", "pronoun",
    "python_code", "read_pairs", "sequence",
]  # fmt: skip


def is_pairs_file(name_or_path: str) -> bool:
    """Whether this names a user's file of pairs rather than a task."""
    return name_or_path.endswith((".jsonl", ".csv"))


def load_task(name_or_path: str, seed: int = 0) -> Task:
    """A task by name, or the pairs of a .jsonl or .csv file; an unknown name is BadInput with the nearest ones."""
    if is_pairs_file(name_or_path):
        return read_pairs(name_or_path, seed)
    found: Task = task[name_or_path](seed=seed)
    return found
