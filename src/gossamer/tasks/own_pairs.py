"""A user's own pairs: JSONL or CSV with clean, counterfactual, answer, wrong_answer and optionally split, template.

JSONL may have `spans` too: `{"subject": ["girl", "old boy"]}`, by name the words of the clean and of the counterfactual
prompt that play one part. Words that stand in their prompt more than once are given by their characters, `[4, 8]`: the
first, counted from 0, and the one after the last.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from pathlib import Path

from gossamer.errors import BadInput, one_line
from gossamer.task import POSITIONS, Chars, Example, Task

_NEEDED = ("clean", "counterfactual", "answer", "wrong_answer")
_OPTIONAL = ("split", "template", "spans")


def read_pairs(path: str, seed: int = 0) -> Task:
    """The task in a file. Every bad row is reported at once, by line.

    Without a `split` column (train or heldout) the templates, or without those the rows, are divided in two halves by
    the seed. Both splits are in an order drawn by the seed, whatever the order of the file.
    """
    file = Path(path)
    if not file.is_file():
        raise BadInput(f"Expected pairs at {file}, found no file.")
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets begin their files with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"Expected UTF-8 text in {file}, could not read it ({one_line(error)}); save it as UTF-8."
        ) from error
    rows, problems = _rows_jsonl(text) if file.suffix == ".jsonl" else _rows_csv(text)
    examples: list[tuple[Example, str]] = []
    for line, row in rows:
        wrong = [k for k in _NEEDED if not _is_text(row.get(k))]
        unknown = sorted(set(row) - set(_NEEDED) - set(_OPTIONAL))
        split, template = row.get("split") or "", row.get("template") or ""
        spans, bad_spans = _spans(row.get("spans"), row) if not wrong else ({}, [])
        if wrong or unknown or bad_spans or split not in ("", "train", "heldout") or not isinstance(template, str):
            parts = [f"lacks text in {', '.join(wrong)}"] * bool(wrong)
            parts += [f"unknown {', '.join(unknown)}"] * bool(unknown)
            parts += [f"split {split!r} is not train or heldout"] * (split not in ("", "train", "heldout"))
            parts += [f"template {template!r} is not text"] * (not isinstance(template, str))
            parts += bad_spans
            problems.append(f"line {line}: {'; '.join(parts)}")
            continue
        clean, counterfactual, answer, wrong_answer = (row[k] for k in _NEEDED)
        example = Example(
            clean=clean, counterfactual=counterfactual, answer=answer, wrong_answer=wrong_answer, template=template,
            line=line, spans=spans,
        )  # fmt: skip
        examples.append((example, split))
    if problems:
        raise BadInput(
            f"{file} has {len(problems)} bad rows: {' | '.join(problems[:10])}. Needed: {', '.join(_NEEDED)}; or "
            "prompts as AutoCircuit, EAP-IG, Edge Pruning or feature-circuits write them."
        )
    if len(examples) < 2:
        raise BadInput(
            f"Expected at least two pairs in {file} (one to find a circuit, one held out), got {len(examples)}."
        )
    train, heldout = _split(examples, seed)
    lines = {(e.clean, e.counterfactual): e.line for e in train}
    shared = [f"{e.line} = {lines[pair]}" for e in heldout if (pair := (e.clean, e.counterfactual)) in lines]
    if shared:
        raise BadInput(
            f"Expected held-out pairs of {file} that are not training pairs too, got lines {', '.join(shared[:8])} "
            f"({len(shared)} in all); remove one of each or give them one split."
        )
    if not train or not heldout:
        raise BadInput(f"Expected pairs in both splits of {file}, got {len(train)} train and {len(heldout)} heldout.")
    version = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Task(
        name=file.stem, version=version, description=f"pairs of {file.name}", train=tuple(train), heldout=tuple(heldout)
    )


def _is_text(value: object) -> bool:
    """Not empty, and without the half characters that JSON can escape and no encoding can hold."""
    return isinstance(value, str) and value != "" and not any("\ud800" <= c <= "\udfff" for c in value)


def _spans(given: object, row: dict[str, str]) -> tuple[dict[str, tuple[Chars, Chars]], list[str]]:
    """(the spans of a row by their characters, what is wrong with them)."""
    if given is None or given == "":
        return {}, []
    if not isinstance(given, dict):
        return {}, ['spans are not an object of names, such as {"subject": ["girl", "boy"]} (in .jsonl)']
    found, problems = dict[str, tuple[Chars, Chars]](), list[str]()
    for name, ends in given.items():
        if name in POSITIONS or not name:
            problems.append(f"a span cannot be named {name!r}")
        elif not isinstance(ends, list) or len(ends) != 2:
            problems.append(f"span {name!r} is not two, of the clean and of the counterfactual prompt")
        else:
            one, other = (
                _chars(end, row[side], f"span {name!r}", problems)
                for end, side in zip(ends, ("clean", "counterfactual"), strict=True)
            )
            found[name] = one, other
    return found, problems


def _chars(given: object, prompt: str, what: str, problems: list[str]) -> Chars:
    """The characters of a span; what is wrong with them is added to `problems`."""
    if isinstance(given, str) and given:
        if (times := sum(prompt.startswith(given, i) for i in range(len(prompt)))) == 1:
            return prompt.find(given), prompt.find(given) + len(given)
        problems.append(f"{what}: {given!r} stands {times} times in {prompt[-40:]!r}")
    elif isinstance(given, list) and len(given) == 2 and all(type(n) is int for n in given):
        start, end = given
        if 0 <= start < end <= len(prompt):
            return start, end
        problems.append(f"{what}: characters {start} to {end} of the {len(prompt)} of {prompt[-40:]!r}")
    else:
        problems.append(f"{what}: {given!r} is neither words of the prompt nor [first, end] of its characters")
    return 0, 0


def _rows_jsonl(text: str) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    rows, problems = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"line {number}: not JSON ({error.msg})")
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            problems.append(f"line {number}: expected an object")
    return rows, problems


def _rows_csv(text: str) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        for row in reader:
            rows.append((reader.line_num, {k if isinstance(k, str) else "extra columns": v for k, v in row.items()}))
    except csv.Error as error:
        return rows, [f"line {reader.line_num}: not CSV ({error}; a quote left open?)"]
    return rows, []


def _split(examples: list[tuple[Example, str]], seed: int) -> tuple[list[Example], list[Example]]:
    examples = random.Random(seed).sample(examples, len(examples))
    if any(split for _, split in examples):
        train = [e for e, split in examples if split != "heldout"]
        return train, [e for e, split in examples if split == "heldout"]
    keys = [e.template or f"{e.clean}\0{e.counterfactual}" for e, _ in examples]
    if len(set(keys)) == 1:
        keys = [f"{e.clean}\0{e.counterfactual}" for e, _ in examples]
    unique = sorted(set(keys))
    random.Random(seed).shuffle(unique)
    chosen = set(unique[: max(1, len(unique) // 2)])
    pairs = list(zip(examples, keys, strict=True))
    return [e for (e, _), k in pairs if k in chosen], [e for (e, _), k in pairs if k not in chosen]
