"""CSV files about EAP: EAP-IG's prompt pairs (`clean,corrupted,correct_idx,incorrect_idx`), and edges with scores.

Prompts name their answers as token numbers of one tokenizer, so that tokenizer is needed to read them. Scores are
`edge,score` with EAP-IG's names of edges and, if a circuit is meant, `in_graph` (true or false).

Signs: as eap_ig.py has them; a CSV says nothing of its metric. When it lies: a token number belongs to the tokenizer
it was made with, and another one may well have a token of that number.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.formats.files import Row, is_text, read_text, several, task_of, write_text
from gossamer.formats.heads import PerQueryHead
from gossamer.formats.tables import SIGNS, Content, Metric, circuit_of, content_of, scores_of
from gossamer.graph import Graph
from gossamer.scores import EdgeScores
from gossamer.task import Example, Task

METHOD = "read-eap-csv"
PROMPT_COLUMNS = ("clean", "corrupted", "correct_idx", "incorrect_idx")
SCORE_COLUMNS = ("edge", "score")


class Tokenizer(Protocol):
    """What is needed of a tokenizer; that of a loaded model fits."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> Any: ...

    def decode(self, token_ids: list[int]) -> Any: ...


def columns_of(text: str) -> tuple[str, ...]:
    """The names in the first line; none of a text that is no CSV."""
    try:
        return tuple(next(csv.reader(io.StringIO(text)), []))
    except csv.Error:
        return ()


def _rows(text: str, path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        lacking = [c for c in needed if c not in (reader.fieldnames or ())]
        if lacking:
            raise BadInput(f"Expected the columns {', '.join(needed)} in {path}, it lacks {', '.join(lacking)}.")
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise CorruptFile(f"{path} is no sound CSV (line {reader.line_num}: {error}).") from error
    if uneven := [str(line) for line, row in rows if None in row or None in row.values()]:
        raise CorruptFile(f"{path} has more or fewer columns in lines {several(uneven)} than in its first.")
    return rows


def read_task(
    path: Path, tokenizer: Tokenizer | None, *, corrupted: str = "corrupted", seed: int = 0, numbered: bool = False
) -> Task:
    """The pairs of a file as a task; every row that makes none is reported at once.

    corrupted: the column of the counterfactual prompts, where a file has several; numbered: see
    gossamer.formats.files.task_of. Errors: BadInput also for a token
    that is not the one that follows its prompt when its text is written there; Unsupported for files of which the
    answer is a range (greater-than).
    """
    text = read_text(path)
    if "label" in columns_of(text):
        raise Unsupported(
            f"the file {path}", "its answers are all years after `label`, a range and not a pair of answers",
            "the task greater-than of gossamer",
        )  # fmt: skip
    table = _rows(text, path, ("clean", corrupted, "correct_idx", "incorrect_idx"))
    if tokenizer is None:
        raise BadInput(f"The answers in {path} are token numbers; give the tokenizer, or a decoder, that they are of.")
    rows, problems = [], []
    for line, row in table:
        sides = [(row["clean"], row["correct_idx"]), (row["clean"], row["incorrect_idx"])]
        answers = [_answer(tokenizer, prompt, number) for prompt, number in sides]
        bad = [problem for answer, problem in answers if not answer]
        bad += [f"no text in {c}" for c in ("clean", corrupted) if not is_text(row[c])]
        if bad:
            problems.append(f"line {line}: {', '.join(bad)}")
            continue
        (answer, _), (wrong, _) = answers
        example = Example(clean=row["clean"], counterfactual=row[corrupted], answer=answer, wrong_answer=wrong)
        rows.append(Row(line, example))
    about = f"pairs of {path.name} (EAP-IG); the wrong answer is what the metric compares with"
    return task_of(path, rows, problems, seed, about, numbered)


def _answer(tokenizer: Tokenizer, prompt: str, number: str) -> tuple[str, str]:
    """(text of a token after a prompt, what is wrong with it)."""
    if not number.isdigit():
        return "", f"{number!r} is no token number"

    def ids(text: str) -> list[int]:
        found = tokenizer.encode(text, add_special_tokens=False)
        return list(getattr(found, "ids", found))

    try:
        token = str(tokenizer.decode([int(number)]))
    except (IndexError, OverflowError, TypeError, ValueError, KeyError):
        token = ""
    for text in (token, " " + token):  # some tokenizers decode the first token of a text without its space
        if token and ids(prompt + text) == [*ids(prompt), int(number)]:
            return text, ""
    return "", f"token {number} ({token!r}) does not follow its prompt as one token"


def read_circuit(path: Path, graph: Graph, *, metric: Metric | None = None) -> Circuit:
    """The edges with `in_graph` true, as eap_ig.read_circuit gives them."""
    table = PerQueryHead.of(graph)
    return circuit_of(content(read_text(path), path, table), table, path, METHOD, metric)


def read_scores(path: Path, graph: Graph, *, metric: Metric | None = None) -> EdgeScores:
    """The scores of all edges in our sign, as eap_ig.read_scores gives them."""
    table = PerQueryHead.of(graph)
    return scores_of(content(read_text(path), path, table), table, path, METHOD, metric)


def content(text: str, path: Path, table: PerQueryHead) -> Content:
    """The tables of a file's text, its edges checked as EAP-IG's are."""
    edges: dict[str, dict[str, object]] = {}
    problems: list[str] = []
    for line, row in _rows(text, path, SCORE_COLUMNS):
        name, inside = row["edge"], row.get("in_graph", "false").lower()
        if name in edges:
            problems.append(f"line {line}: {name} occurs twice")
        if inside not in ("true", "false"):
            problems.append(f"line {line}: in_graph is {inside!r}, not true or false")
        try:
            edges[name] = {"score": float(row["score"]), "in_graph": inside == "true"}
        except ValueError:
            problems.append(f"line {line}: the score {row['score']!r} is no number")
    if problems:
        raise CorruptFile(f"{path} has {len(problems)} wrong lines: {several(problems)}.")
    return content_of(edges, path, table)


def write_scores(
    scores: EdgeScores, path: Path, *, circuit: Circuit | None = None, metric: Metric = "loss"
) -> Path:  # fmt: skip
    """All scores, per query head, with the edges of `circuit` marked as kept; metric: as in eap_ig.write_scores."""
    table = PerQueryHead.of(scores.graph)
    kept = np.zeros(table.exists.shape, dtype=bool) if circuit is None else table.kept(circuit)[0]
    shares = table.spread(scores.values / table.members) * SIGNS[metric]
    writers = list(table.writers)
    lines = (
        f"{writers[row]}->{target},{float(shares[row, column])!r},{str(bool(kept[row, column])).lower()}\n"
        for target, column in table.columns.items() for row in np.flatnonzero(table.exists[:, column]).tolist()
    )  # fmt: skip
    return write_text(path, "edge,score,in_graph\n" + "".join(lines))
