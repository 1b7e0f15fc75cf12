"""Prompts of feature-circuits (Marks et al. 2024, saprmarks/feature-circuits `data/`): JSON lines, read and written.

A row has `clean_prefix`, `patch_prefix`, `clean_answer` and `patch_answer`, which is our pair: each answer continues
its own prefix. `case` becomes the template; other keys are not read. Its circuits of sparse-autoencoder features are
not read: they have no edge between heads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gossamer.formats.files import Row, is_text, json_lines, read_text, task_of, write_text
from gossamer.task import Example, Task

KEYS = {
    "clean_prefix": "clean", "patch_prefix": "counterfactual", "clean_answer": "answer", "patch_answer": "wrong_answer",
}  # fmt: skip


def read_task(path: Path, *, seed: int = 0, numbered: bool = False) -> Task:
    """The rows of a file as a task; every row that makes no pair is reported at once."""
    lines, problems = json_lines(read_text(path))
    rows = []
    for line, row in lines:
        bad = [k for k in KEYS if not is_text(row.get(k))]
        case = row.get("case", "")
        if bad or not isinstance(case, str):
            problems.append(
                f"line {line}: no text in {', '.join([*bad, *(['case'] if not isinstance(case, str) else [])])}"
            )
            continue
        rows.append(Row(line, Example(**{ours: row[k] for k, ours in KEYS.items()}, template=case)))
    return task_of(path, rows, problems, seed, f"pairs of {path.name} (feature-circuits)", numbered)


def write_task(examples: Sequence[Example], path: Path) -> Path:
    """Pairs as JSON lines; splits are lost, the tool has a file for each."""
    rows = ({**{k: getattr(e, ours) for k, ours in KEYS.items()}, "case": e.template} for e in examples)
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
