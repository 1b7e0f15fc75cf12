"""What each method finds in hand-compiled models whose true edges are known: precision and recall, as a table.

    python benchmarks/ground_truth.py [--seeds 3] [--pairs 8] [--shuffles 200] [--json]

A model's noise, prompts and (for masks) training differ by seed; the table has the means. ACDC with a threshold of
0.001 nats; EAP and EAP-IG (5 steps) take as many edges as are true; masks are cut at one half. The last line is the
area under the ROC curve of EAP on models with shuffled weights, edges that score 0 left out: over all edges, and among
edges between the same layers and kinds of parts, where by symmetry it is 0.5.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gossamer.circuit import Circuit
from gossamer.discover import ACDCConfig, EAPConfig, EAPIGConfig, EdgeMaskConfig, acdc, eap, eap_ig, edge_mask
from gossamer.metric import logit_difference
from gossamer.models.compiled import PROGRAMS, Program
from gossamer.task import sides
from gossamer.verify.ground_truth import precision_recall, roc_of_ranking

METHODS: dict[str, Callable[[Program, Any, int, int], Circuit]] = {
    "ACDC": lambda p, value, k, seed: acdc(p.model, p.task, ACDCConfig(threshold=1e-3, ablation=value)),
    "EAP": lambda p, value, k, seed: eap(p.model, p.task, EAPConfig(ablation=value)).top(k),
    "EAP-IG": lambda p, value, k, seed: eap_ig(p.model, p.task, EAPIGConfig(ablation=value)).top(k),
    "edge masks": lambda p, value, k, seed: edge_mask(
        p.model, p.task, EdgeMaskConfig(steps=150, seed=seed, ablation=value)
    ).above(0.5),
}


def table(seeds: int, pairs: int) -> list[dict[str, Any]]:
    found = []
    for name, made in PROGRAMS.items():
        for value in ("resample", "zero"):
            for method, run in METHODS.items():
                each = []
                for seed in range(seeds):
                    p = made(seed=seed, n=pairs)
                    graph, true = p.model.graph(), np.zeros(p.model.graph().n_edges, dtype=bool)
                    true[p.true_edges(value)] = True
                    circuit = run(p, value, int(true.sum()), seed)
                    kept = np.zeros_like(true)
                    kept[graph.numbers(circuit.src, circuit.dst, circuit.matrix)] = True
                    each.append(precision_recall(kept, true))
                precision = [e.precision for e in each if e.precision is not None]
                found.append({
                    "program": name, "edges": len(true), "value": value, "true": int(true.sum()), "method": method,
                    "precision": round(float(np.mean(precision)), 2) if precision else None,
                    "recall": round(float(np.mean([e.recall for e in each])), 2),
                })  # fmt: skip
    return found


def shuffled(models: int) -> dict[str, Any]:
    whole, matched = [], []
    for made in PROGRAMS.values():
        p = made(n=4)
        graph, clean_other = p.model.graph(), sides(p.model.encode(p.task.train))
        nodes = [n.split(".")[0] for n, _ in graph.layout.locations]
        ends = [f"{nodes[s]} {nodes[d]} {m}" for s, d, m in zip(graph.src, graph.dst, graph.matrix, strict=True)]
        true = np.isin(np.arange(graph.n_edges), p.true_edges("resample"))
        for seed in range(models):
            m, (clean, other) = p.model.shuffled(seed), clean_other
            gradient, _ = m.edge_gradient(
                clean, m.writes(other)[0], lambda logits, clean=clean: logit_difference(logits, clean).sum()
            )
            size = gradient.abs().numpy()
            used = size > 0
            if not (used & true).any() or not (used & ~true).any():
                continue
            whole.append(roc_of_ranking(size[used], true[used]).plain)
            same = np.array(ends)[used & true][:, None] == np.array(ends)[used & ~true]
            above = (np.sign(size[used & true][:, None] - size[used & ~true]) + 1) / 2
            if same.any():
                matched.append(above[same].mean())

    def told(areas: list[float]) -> dict[str, float]:
        mean, error = np.mean(areas), np.std(areas) / len(areas) ** 0.5
        return {"models": len(areas), "area": round(float(mean), 3), "standard error": round(float(error), 3)}

    return {"all edges": told(whole), "edges of one place": told(matched)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--shuffles", type=int, default=200, help="models per program")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, null = table(given.seeds, given.pairs), shuffled(given.shuffles)
    if given.json:
        print(json.dumps({"rows": rows, "shuffled": null}))
        return
    print("| program | edges | ablation | true |", " | ".join(METHODS), "|")
    for i in range(0, len(rows), len(METHODS)):
        cells = [f"{r['precision']} / {r['recall']}" for r in rows[i : i + len(METHODS)]]
        print(
            "|", " | ".join(str(rows[i][k]) for k in ("program", "edges", "value", "true")), "|", " | ".join(cells), "|"
        )
    print(json.dumps(null))


if __name__ == "__main__":
    main()
