"""Tasks by name, and users' own pairs from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gossamer.registry import task
from gossamer.task import Task
from gossamer.tasks import python_code  # first: its tasks are listed first

# isort: split
from gossamer.tasks import agreement, docstring, greater_than, induction, ioi, pronoun, sequence
from gossamer.tasks.own_pairs import read_pairs

__all__ = [
    "agreement", "asks_by_token_number", "docstring", "greater_than", "induction", "ioi", "is_pairs_file", "load_task",
    "pronoun", "python_code", "read_pairs", "sequence",
]  # fmt: skip


def is_pairs_file(name_or_path: str) -> bool:
    """Whether this names a file of pairs rather than a task."""
    return name_or_path.endswith((".jsonl", ".csv", ".json"))


def asks_by_token_number(name_or_path: str) -> bool:
    """Whether this is a file whose answers are token numbers, so that it takes a tokenizer to read it."""
    if not is_pairs_file(name_or_path):
        return False
    from gossamer.formats.recognise import holds_prompts

    return holds_prompts(Path(name_or_path)) == "eap-csv-prompts"


def load_task(name_or_path: str, seed: int = 0, tokenizer: Any = None, *, numbered: bool = False) -> Task:
    """A task by name, or the pairs of a file: gossamer's own (.jsonl or .csv), or the prompts of EAP-IG (.csv, with the
    tokenizer that its answers are of), AutoCircuit, Edge Pruning or feature-circuits (.json, .jsonl), told by content.

    numbered: examples of other tools' files know their line, as those of our own do. An unknown name is BadInput with
    the nearest ones.
    """
    if is_pairs_file(name_or_path):
        from gossamer.formats.recognise import holds_prompts, read_task

        path = Path(name_or_path)
        if holds_prompts(path) is None and (path.suffix != ".json" or not path.is_file()):
            return read_pairs(name_or_path, seed)
        return read_task(path, tokenizer, seed=seed, numbered=numbered)
    found: Task = task[name_or_path](seed=seed)
    return found
