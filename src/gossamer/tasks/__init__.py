"""Tasks by name, and users' own pairs from files."""

from __future__ import annotations

from collections.abc import Callable

from gossamer.errors import BadInput, nearest
from gossamer.task import Task
from gossamer.tasks.own_pairs import read_pairs
from gossamer.tasks.python_code import bracket_counting, set_or_string, single_double_quote

TASKS: dict[str, Callable[..., Task]] = {
    "single_double_quote": single_double_quote,
    "bracket_counting": bracket_counting,
    "set_or_string": set_or_string,
}


def load_task(name_or_path: str, seed: int = 0) -> Task:
    """A task by name, or the pairs of a .jsonl or .csv file; an unknown name is BadInput with the nearest ones."""
    if name_or_path in TASKS:
        return TASKS[name_or_path](seed=seed)
    if name_or_path.endswith((".jsonl", ".csv")):
        return read_pairs(name_or_path, seed)
    raise BadInput(f"Unknown task {name_or_path!r}: {nearest(name_or_path, TASKS)} Or give a .jsonl or .csv file.")
