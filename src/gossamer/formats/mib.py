"""Submissions to MIB's circuit track (Mueller et al. 2025): a folder per task and model, in it EAP-IG's graph files.

A folder `ioi_gpt2` or `arc-easy_llama3` holds either one file with a score for every edge, or nine with circuits of at
most 0.1, 0.2, 0.5, 1, 2, 5, 10, 20 and 50 % of the edges, counted per query head. Scores are read as MIB makes them:
of the negative logit difference, so that a positive one is an edge that the task needs.

When it lies: a group's edge kept for one of its query heads comes in for all (heads.py): a nearly full circuit may then
be over its limit when it is written again, which is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile, nearest, require_new
from gossamer.formats import eap_ig
from gossamer.formats.files import several
from gossamer.formats.heads import PerQueryHead
from gossamer.formats.tables import circuit_of
from gossamer.graph import Graph
from gossamer.scores import EdgeScores

TASKS = ("ioi", "mcqa", "arithmetic_addition", "arithmetic_subtraction", "arc_easy", "arc_challenge")
MODELS = ("gpt2", "qwen2.5", "gemma2", "llama3", "interpbench")
PERCENT = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


class Entry(NamedTuple):
    """What a submission has for one task and model: its files, one of scores or nine of circuits."""

    task: str
    model: str
    files: tuple[Path, ...]


def _named(folder: Path) -> tuple[str, str]:
    task, _, model = folder.name.rpartition("_")
    task = task.replace("-", "_")
    for what, name, known in (("task", task, TASKS), ("model", model, MODELS)):
        if name not in known:
            raise BadInput(f"Expected a folder named TASK_MODEL as MIB does, got {folder.name}: no {what} {name!r}, "
                           f"{nearest(name, known)}")  # fmt: skip
    return task, model


def is_entry(folder: Path) -> bool:
    """Whether a folder is named as MIB names them."""
    try:
        return bool(_named(folder))
    except BadInput:
        return False


def entry(folder: Path) -> Entry:
    """One folder of a submission; BadInput unless it is named as MIB wants it and has one file or nine."""
    if not folder.is_dir():
        raise BadInput(f"Expected a folder of a MIB submission at {folder}, found none.")
    task, model = _named(folder)
    files = tuple(sorted(p for p in folder.iterdir() if p.suffix in (".json", ".pt")))
    if len(files) not in (1, len(PERCENT)):
        raise BadInput(
            f"Expected one file of scores or {len(PERCENT)} of circuits (.json or .pt) in {folder}, got {len(files)}."
        )
    return Entry(task, model, files)


def submission(folder: Path) -> tuple[Entry, ...]:
    """Every entry of a submission, in order of their names; all folders that are none are one BadInput."""
    if not folder.is_dir():
        raise BadInput(f"Expected the folder of a MIB submission at {folder}, found none.")
    found, problems = [], []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        try:
            found.append(entry(place))
        except BadInput as error:
            problems.append(str(error))
    if problems or not found:
        raise BadInput(several(problems) if problems else f"Expected folders named TASK_MODEL in {folder}, found none.")
    return tuple(found)


def read_scores(folder: Path, graph: Graph) -> EdgeScores:
    """The scores of one entry; BadInput for an entry of circuits."""
    found = entry(folder)
    if len(found.files) > 1:
        raise BadInput(f"{folder} holds {len(found.files)} circuits and no scores; read its circuits.")
    return eap_ig.read_scores(found.files[0], graph, metric="loss")


def read_circuits(folder: Path, graph: Graph) -> dict[float, Circuit]:
    """The nine circuits of one entry by their limit in percent of the edges, from the smallest.

    Errors: BadInput for an entry of scores; CorruptFile where the circuits do not keep to MIB's limits.
    """
    found = entry(folder)
    if len(found.files) == 1:
        raise BadInput(f"{folder} holds one file of scores and no circuits; read its scores.")
    table = PerQueryHead.of(graph)
    contents = [eap_ig.read_content(p, table) for p in found.files]
    sizes = [int((c.kept & table.exists).sum()) for c in contents]
    order = np.argsort(sizes, kind="stable").tolist()
    over = [
        f"{found.files[i].name} has {sizes[i]} edges, at most {limit(p, table.n_edges)} are {p:g} %"
        for i, p in zip(order, PERCENT, strict=True) if sizes[i] > limit(p, table.n_edges)
    ]  # fmt: skip
    if over:
        raise CorruptFile(f"The circuits of {folder} are larger than MIB allows: {several(over)}.")
    return {
        p: circuit_of(contents[i], table, found.files[i], eap_ig.METHOD, None)
        for i, p in zip(order, PERCENT, strict=True)
    }  # fmt: skip


def limit(percent: float, n_edges: int) -> int:
    """The most edges a circuit of so many percent may have."""
    return int(percent / 100 * n_edges)


def write_scores(scores: EdgeScores, submission_folder: Path, *, task: str, model: str, d_model: int) -> Path:
    """An entry of scores: `importances.json` in a new folder of the submission, which is returned."""
    folder = _new_folder(submission_folder, task, model)
    eap_ig.write_scores(scores, folder / "importances.json", d_model=d_model, metric="loss")
    return folder


def write_circuits(
    circuits: Sequence[Circuit], graph: Graph, submission_folder: Path, *, task: str, model: str, d_model: int
) -> Path:
    """An entry of nine circuits, from the smallest; BadInput where one is over its limit as MIB counts its edges."""
    if len(circuits) != len(PERCENT):
        raise BadInput(f"Expected {len(PERCENT)} circuits, one for each of {PERCENT} percent, got {len(circuits)}.")
    table = PerQueryHead.of(graph)
    sizes = [int(table.kept(c)[0].sum()) for c in circuits]
    over = [
        f"{n} edges for {p:g} % (at most {limit(p, table.n_edges)})"
        for n, p in zip(sizes, PERCENT, strict=True) if n > limit(p, table.n_edges)
    ]  # fmt: skip
    if over:
        raise BadInput(f"Expected circuits within MIB's limits, counted per query head, got {several(over)}.")
    folder = _new_folder(submission_folder, task, model)
    for circuit, percent in zip(circuits, PERCENT, strict=True):
        eap_ig.write_circuit(circuit, graph, folder / f"{percent:g}.json", d_model=d_model)
    return folder


def _new_folder(submission_folder: Path, task: str, model: str) -> Path:
    folder = submission_folder / f"{task.replace('_', '-')}_{model}"
    _named(folder)
    require_new(folder)
    return folder
