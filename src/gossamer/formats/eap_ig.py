"""Graph files of EAP-IG (Hanna, Pezzelle and Belinkov 2024), which MIB uses too: `.json` read and written, `.pt` read.

A file holds every edge's score and whether it is in the circuit; edges are named `a5.h1->a9.h6<q>`, with keys and
values per query head (heads.py says how they become ours). `in_graph` of edges decides; that of nodes follows from it.

Signs: a score is the change of the tool's metric when the edge is ablated, as ours is. But the metric of EAP-IG's demos
and of MIB is a loss, the negative logit difference, so there a positive score is an edge that the task needs. The file
does not say which it was: scores are read with `metric="loss"` (negated) or `metric="value"` (as they are). Files
written here say it themselves, under a key of ours that the other tools ignore.

When it lies: the file does not name the model, its weights or the task. That its numbers of layers and heads and its
parallel blocks fit is all that can be checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line
from gossamer.formats.files import parse_json, read_text, several, write_text
from gossamer.formats.heads import PerQueryHead
from gossamer.formats.tables import SIGNS, Content, Metric, circuit_of, content_of, scores_of
from gossamer.graph import Graph, HeadShape
from gossamer.models.authors import load_weights_only
from gossamer.record import Record
from gossamer.scores import EdgeScores

METHOD = "read-eap-ig"
NODES = "the file scores nodes too, which is not read"
OURS = "gossamer"  # a key of the file; the tools that read it look their own keys up and leave others alone
PT_KEYS = ("cfg", "src_nodes", "dst_nodes", "edges_in_graph", "nodes_in_graph")


def read_circuit(path: Path, graph: Graph, *, metric: Metric | None = None) -> Circuit:
    """The edges that a .json or .pt file keeps, as a circuit of this model's graph.

    Weights are the file's scores, in our sign if the metric is known and as they are if not; NaN where there are none.
    Errors: CorruptFile for a file that is not sound; BadInput for one of another model or where no edge is kept.
    """
    table = PerQueryHead.of(graph)
    return circuit_of(read_content(path, table), table, path, METHOD, metric)


def read_scores(path: Path, graph: Graph, *, metric: Metric | None = None) -> EdgeScores:
    """The scores of all edges in our sign; a group's edge has the sum of its query heads'.

    metric: whether the file's metric was a loss or a value, needed unless the file says it. Errors: as `read_circuit`;
    BadInput where the metric is not known; CorruptFile where an edge has no score.
    """
    table = PerQueryHead.of(graph)
    content = read_content(path, table)
    require_edge_scores(content, path)
    return scores_of(content, table, path, METHOD, metric)


def read_content(path: Path, table: PerQueryHead) -> Content:
    """The tables of a file, checked against the model's shape."""
    if path.suffix == ".pt":
        return from_pt(load_weights_only(path), path, table)
    return from_json(parse_json(read_text(path), path), path, table)


def require_edge_scores(content: Content, path: Path) -> None:
    """Unsupported for a file of which only the nodes have scores."""
    if NODES in content.notes and content.scores is not None and not content.scores.any():
        raise Unsupported(f"the node-level scores in {path}", "all of its edges have score 0", "scores of edges")


def _require_one_kind(shape: HeadShape) -> None:
    if any(shape.parallel) and not all(shape.parallel):
        raise Unsupported(
            "a model in which only some blocks are parallel", "the format has one flag for all of them",
            "the edge list of edge_pruning or a circuit file of ours",
        )  # fmt: skip


def _checked_config(cfg: Any, path: Path, table: PerQueryHead) -> dict[str, Any]:
    shape = table.shape
    _require_one_kind(shape)
    wanted = {"n_layers": shape.n_layers, "n_heads": shape.n_heads, "parallel_attn_mlp": all(shape.parallel)}
    if not isinstance(cfg, dict):
        raise CorruptFile(f"Expected the model's configuration under `cfg` in {path}, found none.")
    wrong = [f"{k} {cfg.get(k)!r} where the model has {v}" for k, v in wanted.items() if cfg.get(k) != v]
    if wrong:
        raise BadInput(f"{path} is of another model: {', '.join(wrong)}.")
    return {"cfg": {k: v for k, v in cfg.items() if isinstance(v, bool | int | float | str)}}


def from_json(data: Any, path: Path, table: PerQueryHead) -> Content:
    """What the JSON of a file says."""
    if not isinstance(data, dict) or not all(isinstance(data.get(k), dict) for k in ("cfg", "nodes", "edges")):
        raise CorruptFile(f"Expected an object with `cfg`, `nodes` and `edges` in {path}, as EAP-IG writes it.")
    config = _checked_config(data["cfg"], path, table)
    _check_nodes(data["nodes"], path, table)
    own = data[OURS] if isinstance(data.get(OURS), dict) else {}
    edges = data["edges"]
    if own.get("scored") is False:
        edges = {k: {"in_graph": v.get("in_graph")} if isinstance(v, dict) else v for k, v in edges.items()}
    notes = [NODES] if any("score" in node for node in data["nodes"].values()) else []
    metric, origin = own.get("metric"), own.get("record")
    return content_of(
        edges, path, table, config=config, notes=notes, metric=metric if metric in SIGNS else None,
        origin=_record(origin, path) if origin else None,
    )  # fmt: skip


def _record(data: Any, path: Path) -> Record:
    try:
        return Record.model_validate(data)
    except ValueError as error:
        raise CorruptFile(f"{path} has a damaged record of ours ({one_line(error)}).") from error


def _check_nodes(nodes: Mapping[str, Any], path: Path, table: PerQueryHead) -> None:
    known = {*table.writers, "logits"}
    if unknown := [name for name in nodes if name not in known]:
        raise CorruptFile(f"{path} has {len(unknown)} nodes that this model has not: {several(unknown)}.")
    if bad := [k for k, v in nodes.items() if not isinstance(v, dict) or not isinstance(v.get("in_graph"), bool)]:
        raise CorruptFile(f"{path} has {len(bad)} nodes that do not say whether they are in_graph: {several(bad)}.")
    neurons = [v["neurons"] for v in nodes.values() if v["in_graph"] and isinstance(v.get("neurons"), list)]
    _no_neurons(path, sum(any(n) and not all(n) for n in neurons))


def _no_neurons(path: Path, count: int) -> None:
    if count:
        raise Unsupported(
            f"the neuron-level circuit in {path}", f"{count} of its nodes are in it with some of their neurons only",
            "a circuit of edges",
        )  # fmt: skip


def from_pt(data: Any, path: Path, table: PerQueryHead) -> Content:
    """What the dictionary of a .pt file says."""
    if not isinstance(data, dict) or (missing := [k for k in PT_KEYS if k not in data]):
        what = f"it lacks {', '.join(missing)}" if isinstance(data, dict) else "it holds no dictionary"
        raise CorruptFile(f"{path} is no graph of EAP-IG: {what}.")
    config = _checked_config(data["cfg"], path, table)
    for key, names in (("src_nodes", list(table.writers)), ("dst_nodes", list(table.columns))):
        if not isinstance(data[key], list | tuple) or list(data[key]) != names:
            raise CorruptFile(f"{path} lists other {key} than a model of this shape has, or in another order.")
    _array(data, "nodes_in_graph", table.exists.shape[:1], path)
    kept = _array(data, "edges_in_graph", table.exists.shape, path)
    scores = _array(data, "edges_scores", table.exists.shape, path) if data.get("edges_scores") is not None else None
    if not np.isin(kept, (0, 1)).all():
        raise CorruptFile(f"{path} has edges that are neither in the circuit nor out of it.")
    if scores is not None and not np.isfinite(scores[table.exists]).all():
        raise CorruptFile(f"{path} has scores that are not finite numbers.")
    notes = [NODES] if data.get("nodes_scores") is not None else []
    if extra := int((kept.astype(bool) & ~table.exists).sum()):
        notes.append(f"{extra} places of the file's table that are no edges were marked as kept and left out")
    neurons = data.get("neurons_in_graph")
    if isinstance(neurons, torch.Tensor) and neurons.ndim == 2:
        _no_neurons(path, int((neurons.bool().any(1) & ~neurons.bool().all(1)).sum()))
    return Content(kept=kept.astype(bool), scores=scores, config=config, notes=tuple(notes))


def _array(data: Mapping[str, Any], key: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    found = data[key]
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != shape:
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise CorruptFile(f"Expected {key} of shape {shape} in {path}, got {got}.")
    array: np.ndarray = found.detach().double().numpy()
    return array


def write_circuit(circuit: Circuit, graph: Graph, path: Path, *, d_model: int) -> Path:
    """The circuit as EAP-IG's JSON; an edge of a group becomes one for each of its query heads.

    Scores are the circuit's weights, 0 outside of it. d_model: the model's width, which the format wants.
    """
    table = PerQueryHead.of(graph)
    kept, shares = table.kept(circuit)
    ours = {
        "metric": "value",
        "scored": not np.isnan(circuit.weight).any(),
        "record": circuit.record.model_dump(mode="json"),
    }
    return _write(path, table, kept, np.nan_to_num(shares), ours, d_model)


def write_scores(
    scores: EdgeScores, path: Path, *, d_model: int, circuit: Circuit | None = None, metric: Metric = "loss"
) -> Path:
    """All scores as EAP-IG's JSON, with the edges of `circuit` marked as kept.

    metric: as which of EAP-IG's two kinds they are written; `loss`, MIB's, makes edges that the task needs positive.
    """
    table = PerQueryHead.of(scores.graph)
    kept = np.zeros(table.exists.shape, dtype=bool) if circuit is None else table.kept(circuit)[0]
    shares = table.spread(scores.values / table.members) * SIGNS[metric]
    return _write(
        path, table, kept, shares, {"metric": metric, "record": scores.record.model_dump(mode="json")}, d_model
    )


def _write(
    path: Path, table: PerQueryHead, kept: np.ndarray, scores: np.ndarray, ours: Mapping[str, Any], d_model: int
) -> Path:
    if path.suffix != ".json":
        raise BadInput(f"Expected a name that ends in .json, got {path}; the .pt form is read here and never written.")
    shape = table.shape
    _require_one_kind(shape)
    cfg = {
        "n_layers": shape.n_layers, "n_heads": shape.n_heads, "parallel_attn_mlp": all(shape.parallel),
        "d_model": d_model,
    }  # fmt: skip
    inside = {table.readers[c][0] for c in np.flatnonzero(kept.any(0))} | {"logits"}
    inside |= {node for node, row in table.writers.items() if kept[row].any()}
    nodes = {name: {"in_graph": name in inside} for name in (*table.writers, "logits")}
    writers = list(table.writers)
    edges = (  # a large model has millions: written one by one
        f'"{writers[row]}->{target}": {{"score": {float(scores[row, column])!r}, '
        f'"in_graph": {"true" if kept[row, column] else "false"}}}'
        for target, column in table.columns.items() for row in np.flatnonzero(table.exists[:, column]).tolist()
    )  # fmt: skip
    head = f'"cfg": {json.dumps(cfg)}, "nodes": {json.dumps(nodes)}, "{OURS}": {json.dumps(ours)}'
    return write_text(path, f'{{{head}, "edges": {{{", ".join(edges)}}}}}')
