"""What each method finds in hand-compiled models whose true edges are known: precision and recall, as a table.

    python benchmarks/ground_truth.py [--seeds 3] [--pairs 16] [--shuffles 60] [--acdc-shuffles 15]
        [--how entries matrix heads] [--only-shuffled] [--json]

A model's noise, prompts and (for masks) training differ by seed; the table has the means. ACDC with a threshold of
0.001 nats; EAP and EAP-IG (5 steps) take as many edges as are true; masks are cut at one half. After that, the area
under the ROC curve on models with shuffled weights (see `shuffled`): over all edges, among edges between the same
layers and kinds of parts, where by symmetry it is 0.5 (entries), and of the place alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gossamer.circuit import Circuit
from gossamer.discover import ACDCConfig, EAPConfig, EAPIGConfig, EdgeMaskConfig, acdc, eap, eap_ig, edge_mask
from gossamer.models.compiled import PROGRAMS, CompiledModel, Program, true_edges
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


def by_entries(model: CompiledModel, seed: int) -> CompiledModel:
    """Every entry of a kind of weight, over all layers and heads."""
    return model.shuffled(seed)


def by_matrix(model: CompiledModel, seed: int) -> CompiledModel:
    """The entries within each matrix of a head, of an MLP, of the embedding: every one stays in its part."""
    generator = torch.Generator().manual_seed(seed)
    per_head = ("q", "k", "v", "q_bias", "k_bias", "v_bias", "out")
    per_layer = ("out_bias", "up", "up_bias", "down", "down_bias")

    def permuted(name: str, t: torch.Tensor) -> torch.Tensor:
        over = 2 if name in per_head else 1 if name in per_layer else 0
        rows = t.flatten(0, over - 1).flatten(1) if over else t.flatten()[None]
        return torch.stack([r[torch.randperm(len(r), generator=generator)] for r in rows]).view_as(t)

    return replace(model, weights=replace(model.weights, **{n: permuted(n, t) for n, t in model.weights.items()}))


def by_heads(model: CompiledModel, seed: int) -> CompiledModel:
    """As the authors of ACDC reset a network: the queries, keys and values of a layer's heads, each in a random order
    of heads, and what the units of its MLP read; all that is written stays."""
    generator, w = torch.Generator().manual_seed(seed), model.weights

    def permuted(t: torch.Tensor, dim: int) -> torch.Tensor:
        orders = [torch.randperm(t.shape[dim], generator=generator) for _ in t]
        return torch.stack([layer.index_select(dim - 1, order) for layer, order in zip(t, orders, strict=True)])

    dims = {**dict.fromkeys(("q", "k", "v", "q_bias", "k_bias", "v_bias"), 1), "up": 2, "up_bias": 1}
    return replace(model, weights=replace(w, **{n: permuted(getattr(w, n), dim) for n, dim in dims.items()}))


SHUFFLES = {"entries": by_entries, "matrix": by_matrix, "heads": by_heads}
THRESHOLDS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def sizes(p: Program, model: CompiledModel, method: str) -> np.ndarray:
    """How much each edge counts, [edges]; of ACDC the number of thresholds at which it is kept."""
    if method == "EAP":
        return np.abs(eap(model, p.task, EAPConfig(pairs=4)).values)
    if method == "EAP-IG":
        return np.abs(eap_ig(model, p.task, EAPIGConfig(pairs=4)).values)
    graph, found = model.graph(), np.zeros(model.graph().n_edges)
    for threshold in THRESHOLDS:
        c = acdc(model, p.task, ACDCConfig(threshold=threshold, pairs=4))
        found[graph.numbers(c.src, c.dst, c.matrix)] += 1
    return found


def shuffled(models: dict[str, int], how: str) -> list[dict[str, Any]]:
    """Areas on models of nothing, means over models and programs.

    models: how many per program, of each method. Edges left out: those of score 0, or those that by the weights of the
    very model can carry nothing to the logits (true_edges of it). place: the area when every edge has the mean rank of
    its place in all models instead of its score, which no weights tell.
    """
    areas: dict[tuple[str, str], dict[str, list[float]]] = {}
    for made in PROGRAMS.values():
        p = made(n=4)
        graph, batch = p.model.graph(), p.model.encode(p.task.train)
        nodes = [n.split(".")[0] for n, _ in graph.layout.locations]
        ends = [f"{nodes[s]} {nodes[d]} {m}" for s, d, m in zip(graph.src, graph.dst, graph.matrix, strict=True)]
        place = np.unique(ends, return_inverse=True)[1]
        true = np.isin(np.arange(graph.n_edges), p.true_edges("resample"))
        for method, n in models.items():
            each = []
            for seed in range(n):
                model = SHUFFLES[how](p.model, seed)
                live = np.isin(np.arange(graph.n_edges), true_edges(model, batch))
                each.append((sizes(p, model, method), live))
            ranks = [np.sign(size[:, None] - size).mean(1) for size, _ in each]
            of_place = np.array([np.mean(ranks, 0)[place == i].mean() for i in range(place.max() + 1)])[place]
            for size, live in each:
                for left_out, used in (("score 0", size > 0), ("no path", live)):
                    if not (used & true).any() or not (used & ~true).any():
                        continue
                    found = areas.setdefault((method, left_out), {"all": [], "one place": [], "place": []})
                    found["all"].append(roc_of_ranking(size[used], true[used]).plain)
                    found["place"].append(roc_of_ranking(of_place[used], true[used]).plain)
                    same = place[used & true][:, None] == place[used & ~true]
                    above = (np.sign(size[used & true][:, None] - size[used & ~true]) + 1) / 2
                    if same.any():
                        found["one place"].append(float(above[same].mean()))

    def told(values: list[float]) -> dict[str, float]:
        mean, error = np.mean(values), np.std(values) / len(values) ** 0.5
        return {"models": len(values), "area": round(float(mean), 3), "standard error": round(float(error), 3)}

    return [
        {"shuffled": how, "method": method, "left out": out, **{k: told(v) for k, v in found.items() if v}}
        for (method, out), found in areas.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--shuffles", type=int, default=60, help="models per program, for EAP and EAP-IG")
    parser.add_argument("--acdc-shuffles", type=int, default=15, help="models per program, for ACDC")
    parser.add_argument("--how", nargs="*", choices=SHUFFLES, default=list(SHUFFLES), help="what is shuffled")
    parser.add_argument("--only-shuffled", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [] if given.only_shuffled else table(given.seeds, given.pairs)
    models = {"EAP": given.shuffles, "EAP-IG": given.shuffles, "ACDC": given.acdc_shuffles}
    null = [row for how in given.how for row in shuffled(models, how)]
    if given.json:
        print(json.dumps({"rows": rows, "shuffled": null}))
        return
    if rows:
        print("| program | edges | ablation | true |", " | ".join(METHODS), "|")
    for i in range(0, len(rows), len(METHODS)):
        cells = [f"{r['precision']} / {r['recall']}" for r in rows[i : i + len(METHODS)]]
        print(
            "|", " | ".join(str(rows[i][k]) for k in ("program", "edges", "value", "true")), "|", " | ".join(cells), "|"
        )
    for row in null:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
