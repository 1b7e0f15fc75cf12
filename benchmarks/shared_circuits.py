"""What three tasks share, where it is known: the planted model, its control, and the published circuits of GPT-2.

    python benchmarks/shared_circuits.py [--orders 10] [--pairs 16] [--draws 99] [--seed 0] [--data DIR] [--json]
    python benchmarks/shared_circuits.py --decoder DIR --task NAME [--orders 10] [--pairs 32]

Sweeps at a floor of 80% under ablation by means of positions, in `--orders` orders: last to first, first to last, then
random ones. Per order the Jaccard overlap of what the three circuits share with the planted shared part; per task the
mean overlap among orders. Then cross-evaluation and joint ablation of the shared part found, and the same for the model
without a shared part. --data: shared/data/circuit-tasks/sequence-continuation, for the published circuits. --decoder:
instead, how alike the circuits of one task are that sweeps of a Hugging Face decoder find in other orders (resampling),
and what share of the metric each of them leaves, on the pairs that it was swept on and on held-out ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.circuit import Circuit
from gossamer.commands.edge_runs import edge_trial
from gossamer.compare import order_stability, shared_circuits
from gossamer.compare.parts import LEAST_DRAWS, countable, matched
from gossamer.compare.shared_circuits import parts_of
from gossamer.discover import IterativeSweepConfig, iterative_sweep, iterative_sweep_config
from gossamer.formats import read_circuit
from gossamer.graph import HeadShape, head_graph
from gossamer.models.huggingface import Decoder, load_decoder
from gossamer.models.succession import Succession, succession
from gossamer.set_overlap import overlap_test
from gossamer.statistics import quantile_interval, resampled_means
from gossamer.task import Task
from gossamer.tasks import load_task

HELD_OUT = 256  # pairs


def parts(circuit: Circuit) -> frozenset[str]:
    kept = {circuit.layout.locations[n][0] for n in circuit.nodes.tolist()}
    return frozenset(n for n in parts_of(circuit.layout)[0] if n in kept)


def jaccard(a: frozenset[str], b: frozenset[str]) -> float | None:
    return len(a & b) / len(a | b) if a | b else None


def configs(orders: int, pairs: int, ablation: str) -> list[IterativeSweepConfig]:
    every = ["last-to-first", "first-to-last", *range(orders - 2)]
    return [iterative_sweep_config(pairs=pairs, order=order, ablation=ablation) for order in every]


def of_decoder(folder: str, name: str, orders: int, pairs: int) -> dict[str, Any]:
    model, started = load_decoder(folder), time.process_time()
    task = load_task(name)
    circuits = [iterative_sweep(model, task, c) for c in configs(orders, pairs, "resample")]
    seconds = (time.process_time() - started) / orders
    details = [c.record.details for c in circuits]
    stable = order_stability(circuits)
    return {
        "model": model.name, "task": name, "parts": len(parts_of(model.graph().layout)[0]),
        "sizes": [len(parts(c)) for c in circuits], "shares_of_training_pairs": [round(d["share"], 3) for d in details],
        "shares_held_out": {n: [held_out(model, task, c, n) for c in circuits] for n in (pairs, HELD_OUT)},
        "share_of_empty": details[0]["share_of_empty"], "overlap": stable.overlap._asdict(),
        "heads": stable.heads and stable.heads._asdict(), "core": stable.core,
        **{k: [d[k] for d in details] for k in ("sweeps", "runs", "passes")},
        "seconds": seconds,
    }  # fmt: skip


def held_out(model: Decoder, task: Task, circuit: Circuit, pairs: int) -> dict[str, Any]:
    """Share of the metric that a circuit leaves on held-out pairs, with an interval over these; beside it that of the
    empty circuit and of random ones with as many heads and MLPs (mean and central 95%)."""
    trial = edge_trial(model, model.fitting(task), circuit, "resample", "node", pairs=pairs)
    own = trial.inside & countable(trial)
    random = matched(trial, own, LEAST_DRAWS, np.random.default_rng(0))
    kept = np.concatenate([np.ones((1, len(own)), dtype=bool), own[None], np.zeros_like(own)[None], random])
    whole, *values = trial.effects(kept | ~countable(trial))
    left, empty, *others = (float(v.mean() / whole.mean()) for v in values)
    return {
        "share": left, "interval": quantile_interval(resampled_means(values[0]) / resampled_means(whole)),
        "empty": empty, "random": float(np.mean(others)), "random_interval": quantile_interval(others),
    }  # fmt: skip


def sweeps(planted: Succession, orders: int, pairs: int) -> dict[str, list[Circuit]]:
    asked = configs(orders, pairs, "position-mean")
    return {name: [iterative_sweep(planted.model, task, c) for c in asked] for name, task in planted.tasks.items()}


def of_planted(shared: bool, orders: int, pairs: int, draws: int, seed: int) -> dict[str, Any]:
    planted = succession(shared=shared, seed=seed, n=pairs)
    started = time.process_time()
    found = sweeps(planted, orders, pairs)
    per_order = [frozenset.intersection(*map(parts, circuits)) for circuits in zip(*found.values(), strict=True)]
    seconds = time.process_time() - started
    compared = shared_circuits(
        planted.model, {n: (planted.tasks[n], found[n][0]) for n in found}, value="position-mean", draws=draws,
        pairs=pairs, seed=seed,
    )  # fmt: skip
    stable = {n: order_stability(circuits, seed=seed) for n, circuits in found.items()}
    return {
        "model": planted.model.name, "parts": len(parts_of(planted.model.graph().layout)[0]),
        "planted": sorted(planted.shared), "found": list(compared.shared),
        "jaccard_with_planted": [jaccard(s, planted.shared) for s in per_order],
        "private_found": {
            n: all(parts(c) - planted.shared == planted.private[n] for c in circuits) for n, circuits in found.items()
        },
        "among_orders": {
            n: {"jaccard": s.overlap.value, "random": s.overlap.null, "p": s.overlap.p_value, "core": len(s.core)}
            for n, s in stable.items()
        },
        "runs": [c.record.details["runs"] for circuits in found.values() for c in circuits],
        "passes": [c.record.details["passes"] for circuits in found.values() for c in circuits],
        "share_of_empty": {n: circuits[0].record.details["share_of_empty"] for n, circuits in found.items()},
        "sweep_seconds": seconds / (3 * orders),
        "evidence": [
            {
                "claim": e.claim, "value": e.value, "interval": e.interval, "verdict": e.verdict, "p": e.p_value,
                "nulls": {n.name: (n.value, n.interval) for n in e.nulls}, "note": e.note,
            } for e in (*compared.cross, *compared.joint)
        ],
        "methodology": compared.cross[0].methodology,
    }  # fmt: skip


def published(data: Path) -> list[dict[str, Any]]:
    graph = head_graph(HeadShape(n_heads=12, n_groups=12, parallel=(False,) * 12))
    circuits = {
        n: read_circuit(data / f"{n}_circuit_thres_0.8.json", graph) for n in ("numerals", "numwords", "months")
    }
    names, kinds = parts_of(graph.layout)
    rows = []
    for (a, b), what in itertools.product(itertools.combinations(circuits, 2), ("heads", "heads and MLPs")):
        own = [np.array([names.index(p) for p in parts(circuits[n]) if what != "heads" or p[0] == "a"]) for n in (a, b)]
        test = overlap_test(own, kinds, draws=9999)
        rows.append({
            "pair": f"{a} and {b}", "what": what, "sizes": [len(s) for s in own], "jaccard": round(test.value, 3),
            "chance": round(test.null, 3), "chance_interval": [round(x, 3) for x in test.null_interval],
            "p": test.p_value,
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--draws", type=int, default=99)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--decoder")
    parser.add_argument("--task", default="gendered_pronoun")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.decoder:
        print(json.dumps(of_decoder(args.decoder, args.task, args.orders, args.pairs)))
        return
    found: dict[str, Any] = {
        name: of_planted(shared, args.orders, args.pairs, args.draws, args.seed)
        for name, shared in (("planted", True), ("control", False))
    }
    if args.data:
        found["published"] = published(args.data)
    if args.json:
        print(json.dumps(found))
        return
    for name in ("planted", "control"):
        r = found[name]
        print(f"{name}: {r['model']}, {r['parts']} heads and MLPs, planted {r['planted']}, found {r['found']}")
        print(f"  overlap with the planted part by order {r['jaccard_with_planted']}, private {r['private_found']}")
        print(f"  among orders {r['among_orders']}")
        print(
            f"  {np.mean(r['runs']):.1f} runs in {np.mean(r['passes']):.1f} passes, {r['sweep_seconds']:.2f} s a sweep"
        )
        for e in r["evidence"]:
            print(f"  {e['verdict']:12} {e['claim']}: {e['value']} {e['interval']} p {e['p']} {e['nulls']} {e['note']}")
        print(f"  {r['methodology']}, empty {r['share_of_empty']}")
    for row in found.get("published", []):
        print(row)


if __name__ == "__main__":
    main()
