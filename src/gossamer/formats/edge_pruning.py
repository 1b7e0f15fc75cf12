"""Edge Pruning (Bhaskar et al. 2024, princeton-nlp): its circuits, `edges.json`, and its prompts, JSON lines.

A circuit is a list of [writer, reader] names: readers `a9.h6.q`, `m3`, `resid_post`; keys and values of a model with
grouped queries are numbered by group, as ours are. Writers `a5.h1`, `m3`; the embedding is `tok_embeds` and
`pos_embeds` in GPT-2, `embeds` in Llama. Prompts have the answer in the text: `..., John gave it to<predict>
Mary</predict>`, and a counterfactual under `corrupted`, marked likewise.

What is lost: the two embeddings of GPT-2 are one writer here, kept if either is. A file in which no embedding writes is
of a run that did not prune them: they were all kept, and come in here. The list has no scores.

When it lies: the tool counts its edges without those of the input, or with twice as many; its sparsities are not ours.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile
from gossamer.formats.files import (
    Row,
    is_text,
    json_lines,
    parse_json,
    read_text,
    record_of,
    several,
    task_of,
    write_text,
)
from gossamer.formats.heads import edges_of, shape_of
from gossamer.graph import READS, Graph
from gossamer.task import Example, Task

EMBEDDINGS = ("tok_embeds", "pos_embeds", "embeds")
_ANSWER = re.compile(r"(.*?)(\s*)<predict>(.*?)</predict>.*", re.DOTALL)


def read_circuit(path: Path, graph: Graph) -> Circuit:
    """The listed edges as a circuit of this model's graph, weights unknown (NaN).

    Errors: CorruptFile with every edge that is none of this model's or that is listed twice.
    """
    return from_list(parse_json(read_text(path), path), path, graph)


def from_list(data: Any, path: Path, graph: Graph) -> Circuit:
    """What a list of pairs says."""
    shape = shape_of(graph)
    if not isinstance(data, list) or not data:
        raise CorruptFile(f"Expected a list of [writer, reader] names in {path}, as Edge Pruning writes it.")
    starts, shared = graph.layout.starts, shape.n_groups < shape.n_heads
    ends = zip(graph.src.tolist(), graph.dst.tolist(), graph.matrix.tolist(), strict=True)
    numbers = {edge: i for i, edge in enumerate(ends)}
    found: list[int] = []
    problems: list[str] = []
    for pair in data:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            problems.append(f"{pair!r} is no pair of names")
            continue
        source = "input" if pair[0] in EMBEDDINGS else pair[0]
        target, part = _reader(pair[1], shared)
        edge = numbers.get((starts.get(source, -1), starts.get(target, -1), READS.index(part)))
        if edge is None:
            problems.append(f"{pair[0]}->{pair[1]} is no edge of this model")
        else:
            found.append(edge)
    pairs = [(p[0], p[1]) for p in data if isinstance(p, list) and len(p) == 2]
    if len(found) == len(data):
        problems += [f"{a}->{b} is listed {n} times" for (a, b), n in Counter(pairs).items() if n > 1]
    if problems:
        raise CorruptFile(f"{path} has {len(problems)} edges that cannot be: {several(problems)}.")
    notes = []
    halves = {p[0] for p in pairs} & {"tok_embeds", "pos_embeds"}
    if not {p[0] for p in pairs} & set(EMBEDDINGS):
        from_input = np.flatnonzero(graph.src == starts["input"]).tolist()
        notes.append(f"no embedding is listed: the {len(from_input)} edges out of the input were not pruned, all kept")
        found += from_input
    elif halves:
        readers = [{p[1] for p in pairs if p[0] == e} for e in ("tok_embeds", "pos_embeds")]
        if one := len(readers[0] ^ readers[1]):
            notes.append(f"{one} readers were fed by only one of token and position embeddings, here by both")
    edges = np.unique(np.array(found, dtype=np.int64))
    record = record_of("read-edge-pruning", path, notes, listed=len(data))
    return Circuit.from_edges(graph, edges, np.full(len(edges), np.nan), record=record)


def _reader(name: str, shared: bool) -> tuple[str, str]:
    """(node, what it reads for) of a reader's name."""
    if name == "resid_post":
        return "logits", "logits"
    node, _, part = name.rpartition(".")
    if part in ("q", "k", "v"):
        return (node.replace(".h", ".g") if shared and part != "q" else node), part
    return name, "mlp"


def write_circuit(circuit: Circuit, graph: Graph, path: Path, *, embeddings: Sequence[str]) -> Path:
    """The circuit as a list of pairs. embeddings: what the input is called, `tok_embeds` and `pos_embeds` for GPT-2,
    `embeds` for Llama; its edges are written once for each. Weights are lost."""
    if not embeddings or any(e not in EMBEDDINGS for e in embeddings):
        raise BadInput(f"Expected some of {', '.join(EMBEDDINGS)} as names of the input, got {list(embeddings)}.")
    edges = edges_of(circuit, graph)
    pairs: list[list[str]] = []
    for src, dst, matrix in zip(*(a[edges].tolist() for a in (graph.src, graph.dst, graph.matrix)), strict=True):
        source, target = graph.layout.locations[src][0], graph.layout.locations[dst][0].replace(".g", ".h")
        part = READS[matrix]
        name = "resid_post" if part == "logits" else f"{target}.{part}" if part in ("q", "k", "v") else target
        pairs += [[e, name] for e in embeddings] if source == "input" else [[source, name]]
    return write_text(path, json.dumps(pairs, indent=1))


def read_task(path: Path, *, seed: int = 0, numbered: bool = False) -> Task:
    """The prompts of a file as a task (its split `validation` is held out); every row that makes no pair is reported.

    The answer is what `<predict>` marks, with the space before it; what follows it is not read.
    """
    lines, problems = json_lines(read_text(path))
    rows = []
    for line, row in lines:
        found = {k: _ANSWER.fullmatch(row[k]) if is_text(row.get(k)) else None for k in ("clean", "corrupted")}
        clean, other = found["clean"], found["corrupted"]
        split = {"train": "train", "validation": "heldout", None: ""}.get(row.get("split"))
        bad = [f"no <predict>answer</predict> in {k}" for k, m in found.items() if not m or not m[1] or not m[3]]
        bad += [f"split {row.get('split')!r} is not train or validation"] if split is None else []
        if bad or not clean or not other or split is None:
            problems.append(f"line {line}: {', '.join(bad)}")
            continue
        answer, wrong = clean[2] + clean[3], other[2] + other[3]
        example = Example(clean=clean[1], counterfactual=other[1], answer=answer, wrong_answer=wrong)
        rows.append(Row(line, example, split))
    return task_of(path, rows, problems, seed, f"pairs of {path.name} (Edge Pruning)", numbered)


def write_task(task: Task, path: Path) -> Path:
    """A task's pairs as JSON lines with splits; BadInput for a prompt that ends in a space or holds the marks."""
    lines = []
    for split, examples in (("train", task.train), ("validation", task.heldout)):
        for e in examples:
            sides = {"clean": (e.clean, e.answer), "corrupted": (e.counterfactual, e.wrong_answer)}
            if wrong := [p for p, a in sides.values() if p != p.rstrip() or "predict>" in p + a]:
                raise BadInput(
                    f"Expected prompts without a space at their end and without <predict>, got {wrong[0]!r}."
                )
            row = {k: f"{p}<predict>{a}</predict>" for k, (p, a) in sides.items()}
            lines.append(json.dumps({**row, "split": split}, ensure_ascii=False))
    return write_text(path, "\n".join(lines) + "\n")
