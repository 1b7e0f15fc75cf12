"""AutoCircuit (Miller, Chughtai and Saunders 2024): its prompts JSON, read and written, and its prune scores, read.

Prompts: `{"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}`; the metric compares the answers with the
wrong ones after `clean`. Whether a wrong answer continues `corrupt` the file does not say, so a pair's counterfactual
side may have no right answer.

Prune scores: a saved dictionary from the name of a module to scores [heads, writers]; as the tool names edges,
`A5.1->A9.6.Q`, `Resid Start->MLP 0`, `MLP 3->Resid End`.

Signs: an edge of larger |score| is kept longer. Of its methods, mask gradients (EAP and its integrated forms) are of a
loss, the negative answer difference, summed over batches (`metric="loss"`); others (ACDC, subnetwork probing) score
how far an edge is kept, which is no change of a metric: read those as a circuit of some size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile, Unsupported, nearest
from gossamer.formats.files import Row, is_text, parse_json, read_text, several, task_of, write_text
from gossamer.formats.heads import PerQueryHead
from gossamer.formats.tables import Content, Metric, circuit_of, largest, scores_of
from gossamer.graph import Graph
from gossamer.models.authors import load_weights_only
from gossamer.scores import EdgeScores
from gossamer.task import Example, Task

METHOD = "read-autocircuit"
_MODULE = re.compile(r"blocks\.(\d+)\.hook_(?:([qkv])_input|mlp_in|resid_post)")
_NODE = re.compile(r"A(\d+)\.(\d+)(?:\.([QKV]))?|MLP (\d+)|Resid Start|Resid End")


def read_task(path: Path, *, first: bool = False, seed: int = 0, numbered: bool = False) -> Task:
    """The prompts of a file as a task; every prompt that makes no pair is reported at once.

    first: of several answers or wrong answers take the first, which is another question than AutoCircuit's mean over
    them; without it such prompts are refused. numbered: see gossamer.formats.files.task_of.
    """
    data = parse_json(read_text(path), path)
    prompts = data.get("prompts") if isinstance(data, dict) else None
    if not isinstance(prompts, list):
        raise CorruptFile(f"Expected an object with a list of `prompts` in {path}, as AutoCircuit has them.")
    rows, problems, cut = [], [], 0
    for place, row in enumerate(prompts, 1):
        row = row if isinstance(row, dict) else {}
        bad = [f"no text in {k}" for k in ("clean", "corrupt") if not is_text(row.get(k))]
        answers = {}
        for key in ("answers", "wrong_answers"):
            given = row.get(key)
            if not isinstance(given, list) or not given or not all(map(is_text, given)):
                bad.append(f"no list of texts in {key}")
            elif len(given) > 1 and not first:
                bad.append(f"{len(given)} {key}, a pair has one (first=True takes the first)")
            else:
                answers[key] = given[0]
                cut += len(given) > 1
        if bad:
            problems.append(f"prompt {place}: {', '.join(bad)}")
            continue
        sides = {"clean": row["clean"], "counterfactual": row["corrupt"]}
        rows.append(Row(place, Example(**sides, answer=answers["answers"], wrong_answer=answers["wrong_answers"])))
    taken = f"; of {cut} lists of answers only the first was taken" if cut else ""
    about = f"pairs of {path.name} (AutoCircuit); the wrong answer is what the metric compares with{taken}"
    return task_of(path, rows, problems, seed, about, numbered)


def write_task(examples: Sequence[Example], path: Path) -> Path:
    """Pairs as a prompts file. Splits and templates are lost: the tool divides a file itself."""
    prompts = [
        {"clean": e.clean, "corrupt": e.counterfactual, "answers": [e.answer], "wrong_answers": [e.wrong_answer]}
        for e in examples
    ]  # fmt: skip
    return write_text(path, json.dumps({"prompts": prompts}, ensure_ascii=False, indent=1))


def edge_name(source: str, target: str, part: str) -> str:
    """AutoCircuit's name of the edge from a writer to what a node reads for q, k, v, mlp or logits."""
    return f"{_node_name(source)}->{_node_name(target)}{f'.{part.upper()}' if part in ('q', 'k', 'v') else ''}"


def _node_name(node: str) -> str:
    if node in ("input", "logits"):
        return {"input": "Resid Start", "logits": "Resid End"}[node]
    return f"MLP {node[1:]}" if node.startswith("m") else "A" + node[1:].replace(".h", ".")


def parse_edge(name: str) -> tuple[str, str, str]:
    """The inverse of edge_name; BadInput for any other text."""
    source, _, target = name.partition("->")
    ends = [_NODE.fullmatch(source), _NODE.fullmatch(target)]
    if not all(ends) or source == "Resid End" or target == "Resid Start" or (ends[0] and ends[0][3]):
        raise BadInput(f"Expected an edge such as 'A5.1->A9.6.Q' or 'Resid Start->MLP 0', got {name!r}.")
    names, part = [], ""
    for text, match in zip((source, target), ends, strict=True):
        assert match
        layer, head, letter, mlp = match.groups()
        part = letter.lower() if letter else "mlp" if mlp is not None else "logits"
        names.append({"Resid Start": "input", "Resid End": "logits"}.get(text) or (
            f"m{mlp}" if mlp is not None else f"a{layer}.h{head}"))  # fmt: skip
    if names[1].startswith("a") and part not in ("q", "k", "v"):
        raise BadInput(f"Expected queries, keys or values (.Q, .K, .V) at the end of {name!r}.")
    return names[0], names[1], part


def read_circuit(
    path: Path, graph: Graph, size: int, *, at: Sequence[str] = (), metric: Metric | None = None
) -> Circuit:  # fmt: skip
    """The `size` edges of largest |prune score|, as the tool counts them, as a circuit of this model's graph.

    at: where the scores are in a file of several, e.g. the task's and the method's name.
    """
    table = PerQueryHead.of(graph)
    content = from_saved(load_weights_only(path), path, table, at)
    return circuit_of(largest(content, table, size), table, path, METHOD, metric)


def read_scores(path: Path, graph: Graph, *, at: Sequence[str] = (), metric: Metric | None = None) -> EdgeScores:
    """Prune scores that are gradients, in our sign: give metric='loss' for AutoCircuit's mask gradients."""
    table = PerQueryHead.of(graph)
    return scores_of(from_saved(load_weights_only(path), path, table, at), table, path, METHOD, metric)


def is_saved_scores(data: Any) -> bool:
    """Whether a saved dictionary is of prune scores, or of dictionaries of them."""
    if not isinstance(data, Mapping) or not data:
        return False
    return all(isinstance(k, str) and (_MODULE.fullmatch(k) or is_saved_scores(v)) for k, v in data.items())


def from_saved(data: Any, path: Path, table: PerQueryHead, at: Sequence[str] = ()) -> Content:
    """The scores of a saved dictionary. Errors: Unsupported for scores per token or of heads as a whole."""
    for key in at:
        if not isinstance(data, Mapping) or key not in data:
            raise BadInput(f"{path} has nothing at {key!r}: {nearest(key, data if isinstance(data, Mapping) else ())}")
        data = data[key]
    if not isinstance(data, Mapping) or not data:
        raise CorruptFile(f"Expected prune scores of AutoCircuit in {path}: names of modules and a tensor for each.")
    if not any(isinstance(v, torch.Tensor) for v in data.values()):
        raise BadInput(f"{path} holds several prune scores; say which with at=: {several([*map(str, data)])}.")
    if any("hook_attn_in" in str(k) for k in data):
        raise Unsupported(
            f"the prune scores in {path}", "they score a head's queries, keys and values together",
            "scores made with separate_qkv=True",
        )  # fmt: skip
    modules: dict[str, list[int]] = {}
    for column, (node, part) in enumerate(table.readers):
        modules.setdefault(_module(node, part, table), []).append(column)
    if set(data) != set(modules):
        lacking, other = sorted(set(modules) - set(data)), sorted(map(str, set(data) - set(modules)))
        raise BadInput(
            f"{path} is of another model: it lacks {several(lacking) or 'nothing'} and has "
            f"{several(other) or 'nothing'} besides."
        )
    scores = np.zeros(table.exists.shape)
    for name, columns in modules.items():
        n, before = len(columns), int(table.exists[:, columns[0]].sum())
        expected = (n, before) if n > 1 else (before,)
        found = data[name]
        if not isinstance(found, torch.Tensor) or not found.is_floating_point() or not torch.isfinite(found).all():
            raise CorruptFile(f"Expected finite scores for {name} in {path}, got something else.")
        if tuple(found.shape) != expected:
            if found.ndim == len(expected) + 1:
                raise Unsupported(f"the prune scores in {path}", "they are per token position", "scores of whole edges")
            raise BadInput(f"{path} is of another model: {name} has shape {tuple(found.shape)}, expected {expected}.")
        scores[:before, columns] = found.detach().double().numpy().reshape(n, before).T
    return Content(kept=np.zeros(table.exists.shape, dtype=bool), scores=scores, config={"at": list(at)})


def _module(node: str, part: str, table: PerQueryHead) -> str:
    if node == "logits":
        return f"blocks.{table.shape.n_layers - 1}.hook_resid_post"
    layer = node.split(".")[0][1:]
    return f"blocks.{layer}.hook_mlp_in" if part == "mlp" else f"blocks.{layer}.hook_{part}_input"
