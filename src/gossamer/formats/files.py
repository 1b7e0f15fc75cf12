"""Other tools' files as text: read whole and strictly, written whole; and rows of prompt pairs made a task."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.record import Record
from gossamer.task import Example, Task
from gossamer.whole_file import write_whole

GZIP = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzipped; BadInput where there is none."""
    if not path.is_file():
        raise BadInput(f"Expected a file at {path}, found none.")
    data = path.read_bytes()
    if not data.startswith(GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise CorruptFile(f"{path} is a damaged gzip file ({one_line(error)}); download it again.") from error


def read_text(path: Path) -> str:
    """The text of a file, UTF-8 with or without a byte order mark."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"Expected UTF-8 text in {path}, could not read it ({one_line(error)}).") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [k for k, _ in pairs]
        raise ValueError(f"{next(k for k in names if names.count(k) > 1)!r} occurs twice")
    return found


def parse_json(text: str, path: Path) -> Any:
    """JSON in which no name occurs twice and every number is one; anything else is CorruptFile."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is not sound JSON ({one_line(error)}); correct it or make it again.") from error


def write_text(path: Path, text: str) -> Path:
    """The text, whole or not at all; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_whole(text, path)


def record_of(
    method: str, path: Path, notes: Sequence[str], origin: Record | None = None, **config: Any
) -> Record:  # fmt: skip
    """Where a circuit or scores were read from; `notes` say what the file could not tell or what reading changed.

    origin: the record of ours that the file carries, whose model and task stay known.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    config = {"file": path.name, "sha256": digest, **config}
    about = {}
    if origin is not None:
        config["origin"] = origin.method
        about = {k: getattr(origin, k) for k in ("model", "model_sha256", "means_sha256", "task", "task_version")}
    return Record.now(method=method, config=config, seed=0, details={"notes": list(notes)}, **about)


def several(problems: Sequence[str], shown: int = 8) -> str:
    """The first problems of many in one sentence."""
    more = f" (and {len(problems) - shown} more)" if len(problems) > shown else ""
    return "; ".join(problems[:shown]) + more


class Row(NamedTuple):
    """A pair, where it stands in its file, and the split that it is said to be in, empty where the file names none.

    The example itself has no line: pairs that a model cannot be asked are then left out and counted (task.fitting),
    where those of a user's own file have to be corrected.
    """

    line: int
    example: Example
    split: str = ""


def is_text(value: object) -> bool:
    """Not empty, and without the half characters that JSON can escape and no encoding can hold."""
    return isinstance(value, str) and value != "" and not any("\ud800" <= c <= "\udfff" for c in value)


def json_lines(text: str) -> tuple[list[tuple[int, dict[str, Any]]], list[str]]:
    """(line number and object of every line, what is wrong with the others)."""
    rows: list[tuple[int, dict[str, Any]]] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            problems.append(f"line {number}: not JSON ({one_line(error)})")
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            problems.append(f"line {number}: expected an object")
    return rows, problems


def task_of(
    path: Path, rows: Sequence[Row], problems: Sequence[str], seed: int, description: str, numbered: bool = False
) -> Task:
    """The pairs as a task; every problem is reported at once.

    Where the file names no splits, its different pairs of prompts are divided in two halves by the seed; rows with the
    same two prompts stay together. Both splits are in an order drawn by the seed. numbered: examples know their line,
    as those of a user's own file do, so that none is left out.
    """
    if problems:
        raise BadInput(f"{path} has {len(problems)} rows that make no pair: {several(problems)}.")
    if numbered:
        rows = [r._replace(example=replace(r.example, line=r.line)) for r in rows]
    drawn = random.Random(seed).sample(list(rows), len(rows))
    keys = [(r.example.clean, r.example.counterfactual) for r in drawn]
    unique = sorted(set(keys))
    if len(unique) < 2:
        raise BadInput(
            f"Expected at least two pairs in {path} (one to find a circuit, one held out), got {len(unique)}."
        )
    random.Random(seed).shuffle(unique)
    halves = set(unique[: len(unique) // 2])
    stated = any(r.split for r in drawn)
    in_train = [(r.split != "heldout") if stated else k in halves for r, k in zip(drawn, keys, strict=True)]
    shared = {k for k, t in zip(keys, in_train, strict=True) if t}
    twice = [str(r.line) for r, k, t in zip(drawn, keys, in_train, strict=True) if not t and k in shared]
    if twice:
        raise BadInput(f"Expected held-out pairs of {path} that are not training pairs too, rows {several(twice)} are.")
    train = tuple(r.example for r, t in zip(drawn, in_train, strict=True) if t)
    heldout = tuple(r.example for r, t in zip(drawn, in_train, strict=True) if not t)
    if not train or not heldout:
        raise BadInput(f"Expected pairs in both splits of {path}, got {len(train)} train and {len(heldout)} heldout.")
    version = hashlib.sha256(read_bytes(path)).hexdigest()[:12]
    return Task(name=path.stem.split(".")[0], version=version, description=description, train=train, heldout=heldout)
