"""How long the overlap of two large circuits takes, beside the straightforward Python sets.

    python benchmarks/overlap.py [--edges 1000000] [--repeats 3] [--json]

Two circuits at granularity edge of a model with 24 layers and 30 times as many edges as a circuit has, half of one's
edges in the other, with everything that `gossamer.compare.overlaps` says of them: nodes, edges, every kind, chance and
p-values. The reference makes Python sets of (matrix, source, destination), their intersection and their union, and no
chance. Both have to come to the same numbers. Seconds are of the processor: a busy machine does not change them.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from gossamer.circuit import Circuit
from gossamer.compare import overlaps
from gossamer.graph import Graph, Layout
from gossamer.record import Record

MATRICES = ("attn.c_attn.q", "attn.c_attn.k", "attn.c_attn.v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
ENDS = ((0, 1), (0, 2), (0, 3), (3, 4), (5, 6), (6, 7))
LOCATIONS = ("attn.act_in", "attn.q", "attn.k", "attn.v", "attn.resid_delta", "mlp.act_in", "mlp.post_act",
             "mlp.resid_delta")  # fmt: skip
LAYERS, FACTOR = 24, 30


def model(edges: int, rng: np.random.Generator) -> Graph:
    """A graph with about so many edges, as many of every matrix."""
    per_matrix = edges // (LAYERS * len(MATRICES))
    width = max(16, int(np.sqrt(4 * per_matrix)))
    locations = tuple((f"{i}.{name}", width) for i in range(LAYERS) for name in LOCATIONS)
    src, dst, matrix = [], [], []
    for number, (layer, (source, destination)) in enumerate((i, e) for i in range(LAYERS) for e in ENDS):
        entries = rng.choice(width * width, per_matrix, replace=False)
        first = layer * len(LOCATIONS)
        src.append((first + source) * width + entries % width)
        dst.append((first + destination) * width + entries // width)
        matrix.append(np.full(per_matrix, number))
    return Graph(
        layout=Layout(grain="channel", locations=locations), src=np.concatenate(src), dst=np.concatenate(dst),
        matrix=np.concatenate(matrix), matrices=tuple(f"{i}.{name}" for i in range(LAYERS) for name in MATRICES),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    graph = model(FACTOR * given.edges, rng)
    record = Record(method="random", config={}, seed=0)
    first = rng.choice(graph.n_edges, given.edges, replace=False)
    half = given.edges // 2
    other = np.setdiff1d(rng.choice(graph.n_edges, given.edges, replace=False), first)[: given.edges - half]
    circuits = {
        name: Circuit.from_edges(graph, kept, np.zeros(len(kept)), record=record)
        for name, kept in (("a", first), ("b", np.concatenate([first[:half], other])))
    }
    seconds, reference = [], []
    for _ in range(given.repeats):
        started = time.process_time()
        rows = overlaps(circuits, graph)
        seconds.append(time.process_time() - started)
        started = time.process_time()
        a, b = (set(zip(c.matrix.tolist(), c.src.tolist(), c.dst.tolist(), strict=True)) for c in circuits.values())
        iou = len(a & b) / len(a | b)
        reference.append(time.process_time() - started)
        found = next(r for r in rows if r.what == "edges" and r.kind == "all")
        assert found.iou == iou, (found, iou)
    best, slow = min(seconds), min(reference)
    result = {
        "edges": given.edges, "edges_of_model": graph.n_edges, "rows": len(rows), "iou": iou, "chance": found.chance,
        "seconds": best, "python_sets_seconds": slow, "ratio": slow / best,
    }  # fmt: skip
    if given.json:
        print(json.dumps(result))
    else:
        print(
            f"overlap of two circuits of {given.edges:,} edges, {len(rows)} rows with chance and p-values: {best:.2f} "
            f"s of processor time; Python sets, without chance: {slow:.2f} s ({slow / best:.1f} times as long); IoU "
            f"{iou:.3f}, chance {found.chance:.3f}"
        )


if __name__ == "__main__":
    main()
