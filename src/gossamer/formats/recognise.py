"""A circuit, scores or prompts from a file of any known kind, told by its content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile, GossamerError
from gossamer.formats import (
    autocircuit,
    eap_csv,
    eap_ig,
    edge_pruning,
    feature_circuits,
    head_lists,
    mib,
    neuronpedia,
)
from gossamer.formats.files import parse_json, read_bytes, read_text
from gossamer.formats.heads import PerQueryHead, edges_of
from gossamer.formats.tables import Content, Metric, circuit_of, largest, scores_of
from gossamer.graph import Graph
from gossamer.models.authors import load_weights_only
from gossamer.scores import EdgeScores
from gossamer.task import Task

Kind = Literal[
    "gossamer", "eap-ig", "eap-ig-pt", "eap-csv", "autocircuit-scores", "edge-pruning", "head-lists",
    "neuronpedia", "autocircuit-prompts", "eap-csv-prompts", "edge-pruning-prompts", "feature-circuits-prompts",
]  # fmt: skip
PROMPTS = ("autocircuit-prompts", "eap-csv-prompts", "edge-pruning-prompts", "feature-circuits-prompts")
METHODS = {
    "eap-ig": eap_ig.METHOD, "eap-ig-pt": eap_ig.METHOD, "eap-csv": eap_csv.METHOD,
    "autocircuit-scores": autocircuit.METHOD,
}  # fmt: skip
KNOWN = (
    "circuits and scores of gossamer, EAP-IG (.json, .pt), EAP (.csv), AutoCircuit, Edge Pruning and Neuronpedia, "
    "lists of heads and MLPs; prompts of EAP-IG (.csv), AutoCircuit, Edge Pruning and feature-circuits"
)


def recognise(path: Path) -> tuple[Kind, Any]:
    """(what kind of file it is, its content as far as it was read). BadInput for none that is known."""
    data = read_bytes(path)
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data):  # safetensors: a length, then JSON
        return "gossamer", None
    if data.startswith((b"PK", b"\x80")):
        saved = load_weights_only(path)
        if isinstance(saved, dict) and "edges_in_graph" in saved:
            return "eap-ig-pt", saved
        if autocircuit.is_saved_scores(saved):
            return "autocircuit-scores", saved
        raise _unknown(path, "a saved dictionary of something else")
    text = read_text(path)
    first = text.lstrip().partition("\n")[0]
    if not text.lstrip().startswith(("{", "[")):
        columns = set(eap_csv.columns_of(text))
        if columns >= set(eap_csv.SCORE_COLUMNS):
            return "eap-csv", text
        if "clean" in columns and columns & {"corrupted", "label", "correct_idx"}:
            return "eap-csv-prompts", None
        raise _unknown(path, f"text that begins with {first[:40]!r}")
    unsound: CorruptFile | None = None
    try:
        found = parse_json(text, path)
    except CorruptFile as error:
        found, unsound = _object(first), error  # of JSON lines the first is an object of its own
    if isinstance(found, list):
        return "edge-pruning", found
    keys = set(found) if isinstance(found, dict) else set()
    if "clean_prefix" in keys:
        return "feature-circuits-prompts", None
    if keys >= {"clean", "corrupted"}:
        return "edge-pruning-prompts", None
    if keys >= {"clean", "counterfactual"}:
        raise BadInput(f"{path} is a file of pairs in gossamer's own form; give it as a task.")
    if unsound:
        raise unsound
    if "prompts" in keys:
        return "autocircuit-prompts", None
    if keys == head_lists.KEYS:
        return "head-lists", found
    if keys >= {"nodes", "links"}:
        return "neuronpedia", found
    if keys >= {"nodes", "edges"} or "cfg" in keys:
        return "eap-ig", found
    raise _unknown(path, f"an object of {', '.join(sorted(keys)[:8]) or 'nothing'}")


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _unknown(path: Path, found: str) -> BadInput:
    return BadInput(f"Expected one of the known files in {path}, got {found}. Known: {KNOWN}.")


def _content(kind: Kind, data: Any, path: Path, table: PerQueryHead) -> Content:
    if kind == "eap-ig":
        return eap_ig.from_json(data, path, table)
    if kind == "eap-ig-pt":
        return eap_ig.from_pt(data, path, table)
    if kind == "eap-csv":
        return eap_csv.content(data, path, table)
    return autocircuit.from_saved(data, path, table)


def read_circuit(path: Path, graph: Graph, *, size: int | None = None, metric: Metric | None = None) -> Circuit:
    """The circuit in a file, of this model's graph; a folder may be a run of gossamer's or an entry of MIB's.

    size: of a file of scores, keep so many edges of largest |score| (counted per query head where the file is);
    metric: whether its scores are of a loss or a value, for the sign of the weights. What the file could not tell is
    in `record.details["notes"]`. Errors: BadInput for a file of another kind or model, CorruptFile for an unsound one.
    """
    path = Path(path)
    if path.is_dir():
        path, metric = _in_folder(path, metric)
    kind, data = recognise(path)
    if kind in PROMPTS:
        raise BadInput(f"{path} holds prompts ({kind}) and no circuit; read it as a task.")
    if kind in METHODS:
        table = PerQueryHead.of(graph)
        content = _content(kind, data, path, table)
        if size is None and kind == "autocircuit-scores":
            raise BadInput(f"{path} holds scores, not a circuit; say how many edges to keep.")
        return circuit_of(
            content if size is None else largest(content, table, size), table, path, METHODS[kind], metric
        )
    if size is not None:
        raise BadInput(f"{path} is a circuit without scores of the other edges; it has its own size.")
    if kind == "edge-pruning":
        return edge_pruning.from_list(data, path, graph)
    if kind == "head-lists":
        return head_lists.from_lists(data, path, graph)
    if kind == "neuronpedia":
        return neuronpedia.circuit_of(neuronpedia.from_json(data, path), path, graph)
    circuit = Circuit.load(path)
    edges_of(circuit, graph)
    return circuit


def _in_folder(folder: Path, metric: Metric | None) -> tuple[Path, Metric | None]:
    if (own := folder / "circuit.safetensors").is_file():
        return own, metric
    if not mib.is_entry(folder):
        raise BadInput(f"Expected a run folder or a folder TASK_MODEL of a MIB submission, got {folder}.")
    files = mib.entry(folder).files
    if len(files) > 1:
        raise BadInput(f"{folder} holds {len(files)} circuits; name one of its files, e.g. {files[0].name}.")
    return files[0], metric or "loss"


def read_scores(path: Path, graph: Graph, *, metric: Metric | None = None) -> EdgeScores:
    """The scores in a file, of all edges of this model's graph and in our sign; errors as `read_circuit`."""
    path = Path(path)
    if path.is_dir():
        own = path / "scores.safetensors"
        path, metric = (own, metric) if own.is_file() else _in_folder(path, metric)
    kind, data = recognise(path)
    if kind == "gossamer":
        return _own_scores(path, graph)
    if kind not in METHODS:
        raise BadInput(f"{path} ({kind}) has no scores of all edges.")
    table = PerQueryHead.of(graph)
    content = _content(kind, data, path, table)
    eap_ig.require_edge_scores(content, path)
    return scores_of(content, table, path, METHODS[kind], metric)


def _own_scores(path: Path, graph: Graph) -> EdgeScores:
    scores = EdgeScores.load(path)
    theirs = scores.graph
    if theirs.layout != graph.layout or any(
        not np.array_equal(getattr(theirs, k), getattr(graph, k)) for k in ("src", "dst", "matrix")
    ):
        raise BadInput(
            f"{path} scores the edges of another model's graph ({theirs.n_edges}, this has {graph.n_edges})."
        )
    return scores


def read_task(
    path: Path, tokenizer: eap_csv.Tokenizer | None = None, *, seed: int = 0, numbered: bool = False
) -> Task:  # fmt: skip
    """The prompts in a file of another tool as a task; tokenizer: for files whose answers are token numbers; numbered:
    see gossamer.formats.files.task_of."""
    path = Path(path)
    kind, _ = recognise(path)
    if kind == "eap-csv-prompts":
        return eap_csv.read_task(path, tokenizer, seed=seed, numbered=numbered)
    if kind not in _READERS:
        raise BadInput(f"{path} ({kind}) holds no prompts but a circuit or scores; give those to verify.")
    return _READERS[kind].read_task(path, seed=seed, numbered=numbered)


_READERS: dict[str, Any] = {
    "autocircuit-prompts": autocircuit, "edge-pruning-prompts": edge_pruning,
    "feature-circuits-prompts": feature_circuits,
}  # fmt: skip


def holds_prompts(path: Path) -> Kind | None:
    """The kind of a file of another tool's prompts; None for any other file, a damaged one among them."""
    try:
        kind, _ = recognise(Path(path))
    except GossamerError:
        return None
    return kind if kind in PROMPTS else None
