"""What a page shows of a circuit beside its own: its outline, and what the two have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gossamer.circuit import Circuit
from gossamer.commands import edge_runs
from gossamer.commands.run_folder import CIRCUIT, Run, read_record, read_run
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.explain import direct_logit
from gossamer.graph import Graph, Layout, carries, group_links
from gossamer.set_overlap import expected_iou_by_type, iou
from gossamer.show import bundle as view
from gossamer.subject import require_model_of


def outline(circuit: Circuit, order: np.ndarray | None = None, run: Run | None = None) -> view.Outline:
    """A circuit as nodes and edges alone. order: its node numbers in the order to list them; default: their own. run:
    of a circuit of channels, for the weights of final channels to the answer."""
    nodes = circuit.nodes if order is None else order
    place = {int(n): i for i, n in enumerate(nodes)}
    links = carries(circuit.layout, circuit.nodes) if circuit.layout.grain == "channel" else [
        (int(a), int(b)) for a, b in group_links(circuit.layout) if int(a) in place and int(b) in place
    ]  # fmt: skip
    edges = zip(circuit.src.tolist(), circuit.dst.tolist(), circuit.weight.tolist(), circuit.matrix.tolist(),
                strict=True)  # fmt: skip
    return view.Outline(
        nodes=tuple(str(circuit.layout.site(int(n))) for n in nodes), matrices=circuit.matrices,
        edges=tuple((place[s], place[d], None if np.isnan(w) else float(f"{w:.8g}"), m) for s, d, w, m in edges),
        carries=tuple((place[a], place[b]) for a, b in links),
        direct=_direct(circuit, place, run) if run else (),
    )  # fmt: skip


def _direct(circuit: Circuit, place: dict[int, int], run: Run) -> tuple[tuple[int, float], ...]:
    model = run.weight_sparse
    finals = [(number, circuit.layout.site(number)) for number in place]
    heldout = model.encode(run.task.heldout)
    return tuple(
        (place[number], float(f"{direct_logit(model, site.index or 0, heldout):.8g}"))
        for number, site in finals if site.location == "final_resid"
    )  # fmt: skip


def compared(folder: Path, own: Circuit, graph: Graph | None, *, twin: bool = False) -> view.OtherCircuit:
    """The circuit of the run in `folder` beside `own`. graph: of own's model, for what chance would share; twin: as
    the dense twin's. Errors: Unsupported for circuits of two grains."""
    about = edge_runs.read_about(folder) if edge_runs.is_edge_run(folder) else read_record(folder)
    record, other = about.record, Circuit.load(folder / CIRCUIT)
    if other.layout.grain != own.layout.grain:
        raise Unsupported(
            f"a circuit at grain {own.layout.grain} beside one at grain {other.layout.grain}",
            "their nodes are of two kinds", "a run at the same grain",
        )  # fmt: skip
    same = bool(record.model_sha256) and record.model_sha256 == own.record.model_sha256 and other.layout == own.layout
    if isinstance(about, edge_runs.EdgeRunRecord):
        reached, loss, run = about.result.faithfulness.verdict == "pass", None, None
    else:
        reached, loss, run = about.result.reached, about.result.loss_heldout_nats, _run(folder)
    return view.OtherCircuit(
        model=record.model, task=record.task, method=record.method, twin=twin, n_layer=_layers(other.layout),
        d_head=run.weight_sparse.model.config.d_head if run else None, reached=reached, loss_heldout_nats=loss,
        outline=outline(other, run=run), heldout_pairs=len(run.task.heldout) if run else None,
        nodes=_shared(own.nodes, other.nodes, _kinds(own.layout)) if same else None,
        edges=_shared_edges(own, other, graph) if same and graph is not None else None,
    )  # fmt: skip


def _layers(layout: Layout) -> int:
    layers = {int(part) for name, _ in layout.locations if (part := name.lstrip("am").split(".")[0]).isdigit()}
    return 1 + max(layers, default=-1)


def _run(folder: Path) -> Run | None:
    """The other run with its model and its task; None when one of them is gone or has changed, or the model is of
    another kind."""
    try:
        found = read_run(folder)
        require_model_of(found.circuit.record, found.weight_sparse)
    except (BadInput, CorruptFile, Unsupported):
        return None
    return found


def _kinds(layout: Layout) -> np.ndarray:
    """The number of its location per node; of heads and MLPs, one kind of each."""
    if layout.grain == "channel":
        return np.repeat(np.arange(len(layout.locations)), [width for _, width in layout.locations])
    kinds = ["h" if ".h" in name else "g" if ".g" in name else name[0] for name, _ in layout.locations]
    return np.array([sorted(set(kinds)).index(kind) for kind in kinds])


def _shared(a: np.ndarray, b: np.ndarray, kinds: np.ndarray) -> view.Shared | None:
    """None where one of them is empty."""
    if not len(a) or not len(b):
        return None
    n, own, other = (np.bincount(kinds[items], minlength=int(kinds.max()) + 1).tolist() for items in (
        np.arange(len(kinds)), a, b))  # fmt: skip
    both = len(np.intersect1d(a, b))
    return view.Shared(
        shared=both, left=len(a) - both, right=len(b) - both, iou=iou(a, b), chance=expected_iou_by_type(n, own, other)
    )


def _shared_edges(own: Circuit, other: Circuit, graph: Graph) -> view.Shared | None:
    a, b = (graph.numbers(c.src, c.dst, c.matrix) if len(c.src) else np.empty(0, int) for c in (own, other))
    return _shared(a, b, graph.matrix)


def cuts(run: Run, sizes: Sequence[int], most_edges: int) -> view.Outline | None:
    """The largest of the cuts of the run's scores to `sizes` nodes that has at most so many edges, best nodes first.

    None where the circuit itself is no cut of its scores to nodes.
    """
    ranking, circuit = run.scores.ranking(), run.circuit
    if circuit.granularity != "node" or set(ranking[: circuit.n_nodes].tolist()) != set(circuit.nodes.tolist()):
        return None
    graph = run.model.graph("channel")
    for size in sorted({*sizes, circuit.n_nodes}, reverse=True):
        inside = graph.within(ranking[:size])
        if inside.n_edges <= most_edges:
            whole = Circuit.from_nodes(inside, run.model.edge_weights(inside), ranking[:size], record=circuit.record)
            return outline(whole, ranking[:size], run)
    return None
