"""How many times more edges a dense model's circuit needs than the weight-sparse one's, at the same task loss.

    python benchmarks/sparse_vs_dense.py [--sparse tiny] [--dense tiny-dense] [--task single_double_quote] [--json]

The headline of Gao et al. 2025 (Fig. 2). Both models get the same search: every node penalty at every learning rate,
with every seed. A model's best configuration is the one with the fewest edges (median over the seeds, a seed that
misses the target counting as infinitely many); the ratio is that of the two medians. The sparse model's best circuits
then stand trial for necessity, each beside 20 random sets of their size.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time

from gossamer.discover import PruneConfig, prune
from gossamer.metric import LN2
from gossamer.models import LoadedModel, from_pretrained
from gossamer.task import Task
from gossamer.tasks import load_task
from gossamer.verify import run_checks

K_COEFS = (4e-3, 6e-3, 8e-3, 1.2e-2)
LEARNING_RATES = (5e-3, 1e-2, 2e-2)


def search(model: LoadedModel, task: Task, given: argparse.Namespace) -> dict[str, object]:
    """The best configuration of the grid, and one entry per seed of it."""
    found: dict[tuple[float, float], list[tuple[float, float]]] = {}
    for lr in given.lr:
        for seed in range(given.seeds):
            started = time.perf_counter()
            config = PruneConfig(
                k_coef=tuple(given.k_coef), lr=lr, seed=seed, steps=given.steps, target_loss=given.loss
            )
            for t in prune(model, task, config).trials:
                size = (float(t.edges), float(t.nodes)) if t.reached else (math.inf, math.inf)
                found.setdefault((lr, t.k_coef), []).append(size)
            say = f"{model.name}: lr {lr:g}, seed {seed}, fewest edges {min(v[-1][0] for v in found.values()):g}"
            print(f"{say}, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    medians = {k: statistics.median(edges for edges, _ in v) for k, v in found.items()}
    (lr, k_coef), edges = min(medians.items(), key=lambda item: item[1])
    return {
        "model": model.name, "validation_loss_nats": model.record["details"]["validation_loss_nats"],
        "d_model": model.model.config.d_model, "lr": lr, "k_coef": k_coef, "median_edges": edges,
        "median_nodes": statistics.median(nodes for _, nodes in found[lr, k_coef]),
        "edges_per_seed": [e for e, _ in found[lr, k_coef]],
        "configurations": len(found), "not_reached": sum(e == math.inf for v in found.values() for e, _ in v),
    }  # fmt: skip


def trials(model: LoadedModel, task: Task, best: dict[str, object], given: argparse.Namespace) -> dict[str, object]:
    """Held-out loss and necessity of the best configuration's circuits, one per seed."""
    rows = []
    for seed in range(given.seeds):
        config = PruneConfig(
            k_coef=(best["k_coef"],), lr=best["lr"], seed=seed, steps=given.steps, target_loss=given.loss
        )  # fmt: skip
        found = prune(model, task, config)
        (e,) = run_checks(model, task, found.circuit, target_loss=given.loss, checks=("necessity",), seed=seed)
        random = e.nulls[0]
        rows.append({
            "nodes": found.circuit.n_nodes, "edges": found.circuit.n_edges, "loss_heldout": found.loss_heldout,
            "necessity": e.value, "necessity_random": random.value, "necessity_random_interval": random.interval,
            "verdict": e.verdict,
        })  # fmt: skip
    return {
        "seeds": rows,
        "median_necessity": statistics.median(r["necessity"] for r in rows),
        "median_random": statistics.median(r["necessity_random"] for r in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparse", default="tiny")
    parser.add_argument("--dense", default="tiny-dense")
    parser.add_argument("--task", default="single_double_quote")
    parser.add_argument("--loss", type=float, default=0.15, help="target task loss in nats")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--k-coef", type=float, nargs="+", default=K_COEFS)
    parser.add_argument("--lr", type=float, nargs="+", default=LEARNING_RATES)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    task = load_task(given.task)
    sides = {side: from_pretrained(getattr(given, side)) for side in ("sparse", "dense")}
    report: dict[str, object] = {side: search(model, task, given) for side, model in sides.items()}
    ratio = report["dense"]["median_edges"] / report["sparse"]["median_edges"]
    report |= {"edges_ratio": ratio, "task": task.name, "target_loss_nats": given.loss}
    report |= {f"trial_{side}": trials(model, task, report[side], given) for side, model in sides.items()}
    if given.json:
        print(json.dumps(report))
        return
    for side in sides:
        r, t = report[side], report[f"trial_{side}"]
        seeds = ", ".join(f"{e:g}" for e in r["edges_per_seed"])
        print(f"{side:>6}: {r['model']}, width {r['d_model']}, validation loss {r['validation_loss_nats']:.3f} nats")
        print(f"        {r['median_nodes']:g} nodes, {r['median_edges']:g} edges (medians; per seed {seeds}), best of "
              f"{r['configurations']} configurations: node penalty {r['k_coef']:g}, lr {r['lr']:g}")  # fmt: skip
        print(f"        without the circuit {t['median_necessity']:.3f} nats, without a random set of that size "
              f"{t['median_random']:.3f} (medians; blind: {LN2:.3f})")  # fmt: skip
    print(f"{ratio:.1f} times as many edges in the dense model at {given.loss:g} nats of task loss")


if __name__ == "__main__":
    main()
