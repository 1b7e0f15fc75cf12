"""A circuit: kept nodes of a model's graph and the weighted edges between them, with what is needed to re-run it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gossamer.ablation import MEANS_OF, Ablation, Granularity, Methodology, methodology
from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line
from gossamer.graph import Graph, Layout
from gossamer.record import Record
from gossamer.site import Site
from gossamer.whole_file import whole_file

FORMAT_VERSION = "1"
_GRANULARITIES: dict[str, Granularity] = {"node": "node", "edge": "edge"}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Final binary logit z -> scale * z + shift, z = logit(clean answer) - logit(counterfactual answer)."""

    scale: float
    shift: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Circuit:
    """Kept nodes (sorted node numbers) of a layout, and the edges between them.

    edges: src, dst (node numbers), weight (the matrix entry) and matrix (index into `matrices`). granularity: `node`
    when every non-zero weight between two kept nodes is an edge, `edge` when some of them are cut. Set operations need
    equal layouts; they keep nodes and cut or drop edges accordingly, and drop the calibration.
    """

    layout: Layout
    nodes: np.ndarray
    src: np.ndarray
    dst: np.ndarray
    weight: np.ndarray
    matrix: np.ndarray
    matrices: tuple[str, ...]
    record: Record
    calibration: Calibration | None = None
    tied: bool = False
    granularity: Granularity = "node"

    @classmethod
    def from_nodes(
        cls, graph: Graph, weights: np.ndarray, nodes: Iterable[int], *, record: Record,
        calibration: Calibration | None = None, tied: bool = False,
    ) -> Circuit:  # fmt: skip
        """Keep `nodes`; the edges are the graph's edges (non-zero weights) between two kept nodes."""
        kept = np.unique(np.asarray(list(nodes), dtype=np.int64))
        if len(kept) and not (kept[0] >= 0 and kept[-1] < graph.layout.n_nodes):
            raise BadInput(f"Expected node numbers of 0 to {graph.layout.n_nodes - 1}, got {kept[0]} to {kept[-1]}.")
        inside = graph.between(kept)
        return cls(
            layout=graph.layout, nodes=kept, src=graph.src[inside], dst=graph.dst[inside], weight=weights[inside],
            matrix=graph.matrix[inside], matrices=graph.matrices, record=record, calibration=calibration, tied=tied,
        )  # fmt: skip

    @classmethod
    def from_edges(cls, graph: Graph, edges: np.ndarray, weights: np.ndarray, *, record: Record) -> Circuit:
        """Keep these edges (indices into the graph) and their ends; weights: one number per edge kept."""
        kept = np.unique(edges)
        order = np.argsort(edges, kind="stable")
        src, dst = graph.src[kept], graph.dst[kept]
        return cls(
            layout=graph.layout, nodes=np.unique(np.concatenate([src, dst])), src=src, dst=dst,
            weight=np.asarray(weights, dtype=np.float64)[order], matrix=graph.matrix[kept], matrices=graph.matrices,
            record=record, granularity="edge",
        )  # fmt: skip

    def only(self, kept: np.ndarray) -> Circuit:
        """The same nodes with these of its edges (bool [edges] or indices), at granularity `edge`."""
        edges = {k: getattr(self, k)[kept] for k in ("src", "dst", "weight", "matrix")}
        return replace(self, **edges, granularity="edge")

    @property
    def n_nodes(self) -> int:
        return len(self.nodes)

    @property
    def n_edges(self) -> int:
        return len(self.src)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.layout.site(int(n)) for n in self.nodes)

    def kept_by_location(self) -> dict[str, np.ndarray]:
        """Boolean [channels] per location: True where the node is in the circuit."""
        flags = np.zeros(self.layout.n_nodes, dtype=bool)
        flags[self.nodes] = True
        return self.layout.split(flags)

    def _preset(self, name: str) -> Methodology:
        """A preset with what this circuit says: its granularity, its blocks, what its reference means are over."""
        method = replace(methodology(name), granularity=self.granularity)
        if self.layout.grain == "block":
            method = replace(method, component="block")
        if method.reference == "pretraining":  # a record without the entry is of pretraining text
            method = replace(method, reference=MEANS_OF[self.record.details.get("means_of", "pretraining")])
        return method

    def as_ablation(self, how: str | Methodology) -> Ablation:
        """The one place that defines ablating a circuit or its complement, by a preset's name or by a methodology.

        A circuit with cut edges is its edges: its complement are the other nodes and the edges that were cut, and to
        ablate the circuit is to ablate its edges and no node. A preset takes the circuit's granularity; a methodology
        has its own, so one of nodes asks what a circuit of edges would be as its nodes.
        """
        method = self._preset(how) if isinstance(how, str) else how
        if method.component == "channel" and method.positions != "all":
            raise Unsupported(
                f"ablation of channels at positions {method.positions!r}", "channels are ablated at every position",
                "positions all, or a circuit of heads",
            )  # fmt: skip
        if method.component == "channel" and method.granularity == "branch":
            raise Unsupported(
                "ablation of branches of channels", "they are paths between reads and writes of a residual stream",
                "granularity edge or node, or a circuit of heads or blocks",
            )  # fmt: skip
        inside = self.kept_by_location()
        if method.granularity != "node":
            keep = {k: v | (method.set == "circuit") for k, v in inside.items()}
            return Ablation(methodology=method, keep=keep, edges=np.stack([self.src, self.dst, self.matrix]))
        keep = inside if method.set == "complement" else {k: ~v for k, v in inside.items()}
        return Ablation(methodology=method, keep=keep)

    def shares(self, graph: Graph, how: Methodology) -> np.ndarray:
        """How much of its replacement every edge of a residual graph carries, float [edges]: see `shares_of`."""
        if graph.layout != self.layout:
            raise BadInput(
                f"Expected a circuit at grain {graph.layout.grain} of a model with {graph.layout.n_nodes} nodes, got "
                f"one at grain {self.layout.grain} of {self.layout.n_nodes}; give the model it was found in."
            )
        ablation = self.as_ablation(how)
        if ablation.edges is None:
            keep = np.concatenate([ablation.keep[name] for name, _ in graph.layout.locations])
            return (~keep[graph.src]).astype(np.float64)
        inside = np.zeros(graph.n_edges, dtype=bool)
        inside[graph.numbers(*ablation.edges)] = True
        return shares_of(graph, inside, how)

    def _combine(self, nodes: np.ndarray, other: Circuit | None) -> Circuit:
        if other is not None and other.layout != self.layout:
            raise BadInput("Expected two circuits of models of one shape, got different layouts.")
        hashes = [c.record.model_sha256 for c in (self, other) if c is not None and c.record.model_sha256]
        if len(set(hashes)) > 1:
            raise BadInput(
                f"Expected two circuits of one model, got one of {hashes[0][:12]} and one of {hashes[1][:12]}; find "
                "both in the same model."
            )
        parts = [self] if other is None else [self, other]
        table = np.concatenate([np.stack([p.src, p.dst, p.matrix]) for p in parts], axis=1)
        weight = np.concatenate([p.weight for p in parts])
        _, first = np.unique(table, axis=1, return_index=True)
        inside = first[np.isin(table[0, first], nodes) & np.isin(table[1, first], nodes)]
        record = self.record.model_copy(update={"method": "set-operation", "config": {}})
        grains = {p.granularity for p in parts}
        return Circuit(
            layout=self.layout, nodes=nodes, src=table[0, inside], dst=table[1, inside], weight=weight[inside],
            matrix=table[2, inside], matrices=self.matrices, record=record, tied=self.tied,
            granularity="edge" if "edge" in grains and other is not None else "node",
        )  # fmt: skip

    def __and__(self, other: Circuit) -> Circuit:
        return self._combine(np.intersect1d(self.nodes, other.nodes), other)

    def __or__(self, other: Circuit) -> Circuit:
        """Union of nodes and of edges; an edge between a node of each that neither had is not added."""
        return self._combine(np.union1d(self.nodes, other.nodes), other)

    def __invert__(self) -> Circuit:
        """The other nodes, without edges (a circuit does not know the weights outside it)."""
        return self._combine(np.setdiff1d(np.arange(self.layout.n_nodes), self.nodes), None)

    def save(self, path: Path) -> Path:
        """One safetensors file with everything as arrays and JSON metadata; temporary name, then rename."""
        arrays = {k: np.ascontiguousarray(getattr(self, k)) for k in ("nodes", "src", "dst", "weight", "matrix")}
        meta = {
            "format_version": FORMAT_VERSION, "kind": "gossamer-circuit", "grain": self.layout.grain,
            "locations": json.dumps(self.layout.locations), "matrices": json.dumps(self.matrices),
            "record": self.record.model_dump_json(), "tied": json.dumps(self.tied),
            "granularity": self.granularity,
            "calibration": json.dumps(self.calibration and [self.calibration.scale, self.calibration.shift]),
        }  # fmt: skip
        return save_arrays(arrays, meta, path)

    @classmethod
    def load(cls, path: Path) -> Circuit:
        """The inverse of save; a damaged file or one of another kind is CorruptFile."""
        arrays, meta = load_arrays(path, "gossamer-circuit")
        try:
            fit = json.loads(meta["calibration"])
            found = cls(
                layout=layout_of(meta), **{k: arrays[k] for k in ("nodes", "src", "dst", "weight", "matrix")},
                matrices=tuple(json.loads(meta["matrices"])), record=Record.model_validate_json(meta["record"]),
                calibration=Calibration(scale=float(fit[0]), shift=float(fit[1])) if fit else None,
                tied=json.loads(meta["tied"]), granularity=_GRANULARITIES[meta.get("granularity", "node")],
            )  # fmt: skip
        except (LookupError, TypeError, ValueError) as error:
            raise CorruptFile(f"{path} is not a whole circuit file ({one_line(error)}); make it again.") from error
        if defect := found._defect():
            raise CorruptFile(f"{path} {defect}; make it again.")
        return found

    def _defect(self) -> str:
        """What no circuit can have, in words; empty for a sound one."""
        nodes, edges = self.nodes, (self.src, self.dst, self.matrix, self.weight)
        if any(a.ndim != 1 for a in (nodes, *edges)) or any(a.dtype.kind not in "iu" for a in (nodes, *edges[:3])):
            return "has nodes or edges that are not lists of whole numbers"
        if self.weight.dtype.kind != "f" or len({len(a) for a in edges}) != 1:
            return f"has edges of different lengths or without weights ({', '.join(str(len(a)) for a in edges)})"
        if (nodes[1:] <= nodes[:-1]).any():
            return "has nodes that are not in order or occur twice"
        if len(nodes) and not (nodes[0] >= 0 and nodes[-1] < self.layout.n_nodes):
            return f"has nodes {nodes[0]} to {nodes[-1]}, its layout has 0 to {self.layout.n_nodes - 1}"
        if not np.isin(np.concatenate([self.src, self.dst]), nodes).all():
            return "has edges whose ends are not among its nodes"
        if ((self.matrix < 0) | (self.matrix >= len(self.matrices))).any():
            return f"has edges of matrices that are not among its {len(self.matrices)}"
        return ""


def shares_of(graph: Graph, inside: np.ndarray, how: Methodology) -> np.ndarray:
    """1 where an edge of a residual graph carries its replacement value and 0 where it does not, float [.., edges], for
    circuits of these edges (bool [.., edges]).

    Those are the ablated edges; where the circuit's branches alone are ablated, see gossamer.replacement, the edges of
    the circuit out of the input, and beyond the input all that are not in the circuit.
    """
    ablated = inside == (how.set == "circuit")
    if how.granularity == "branch" and how.set == "circuit":
        ablated = np.where(graph.src == graph.layout.starts["input"], inside, ~inside)
    return ablated.astype(np.float64)


def layout_of(meta: dict[str, str]) -> Layout:
    """The layout written in a file's metadata; ValueError for one that is none."""
    locations = tuple((str(name), width) for name, width in json.loads(meta["locations"]))
    if len(dict(locations)) < len(locations) or not all(type(w) is int and w > 0 for _, w in locations):
        raise ValueError("its locations are not different names with a number of channels each")
    return Layout(grain=meta["grain"], locations=locations)


def sealed(parts: Mapping[str, np.ndarray], meta: Mapping[str, str]) -> dict[str, str]:
    """Metadata with a hash over itself and over arrays, each under a label of its name, shape and dtype."""
    digest = hashlib.sha256(json.dumps(sorted(meta.items())).encode())
    for label in sorted(parts):
        digest.update(label.encode())
        digest.update(np.ascontiguousarray(parts[label]).reshape(-1).data)
    return {**meta, "sha256": digest.hexdigest()}


def check_seal(parts: Mapping[str, np.ndarray], meta: Mapping[str, str], path: Path) -> None:
    """CorruptFile when the content of a file is not what its hash says; files of earlier versions have no hash."""
    bare = {k: v for k, v in meta.items() if k != "sha256"}
    if "sha256" in meta and sealed(parts, bare) != meta:
        raise CorruptFile(
            f"{path} was altered or damaged (its content has another sha256 than it says); nothing was loaded, restore "
            "it or make it again."
        )


def _labelled(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name} {a.shape} {a.dtype}": a for name, a in arrays.items()}


def save_arrays(arrays: dict[str, np.ndarray], meta: dict[str, str], path: Path) -> Path:
    """Arrays and metadata as one safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        save_file(arrays, partial, metadata=sealed(_labelled(arrays), meta))
    return path


def load_arrays(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The inverse of save_arrays, checked for damage, kind and format version."""
    if not path.is_file():
        raise BadInput(f"Expected a file at {path}, found none.")
    try:
        with safe_open(path, framework="np") as f:
            arrays, meta = {k: f.get_tensor(k) for k in f.keys()}, dict(f.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptFile(f"{path} is damaged ({one_line(error)}); nothing was loaded, make it again.") from error
    if meta.get("kind") != kind or meta.get("format_version") != FORMAT_VERSION:
        raise CorruptFile(
            f"{path} is {meta.get('kind', 'of unknown kind')} version {meta.get('format_version')}, expected {kind} "
            f"version {FORMAT_VERSION}."
        )
    check_seal(_labelled(arrays), meta, path)
    return arrays, meta
