"""Is a weight-sparse model's circuit more canonical than its dense twin's? Rivals and stability over tasks and seeds.

    python benchmarks/canonical.py [--sparse tiny] [--dense tiny-dense] [--tasks NAME ...] [--seeds 1] [--loss 0.15]
        [--rows FILE] [--json]

Default tasks: those of the twenty that both models solve. Per model, task and seed: one prune at the same target loss,
then the two checks on the circuit. Overlap means little beside circuits of another size, so what is compared is how
far it is from chance: (IoU - chance) / (1 - chance). Printed per model: mean over tasks with an interval that
resamples tasks, then seeds; then the paired difference and the exact sign-flip p over tasks. A task on which either
model's check measured nothing (no circuit, or not even the free search does as well) is left out of both, by name.

--rows keeps every circuit as a line of JSON; started again with it, the command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.commands import tasks as solved_by
from gossamer.discover import PruneConfig, prune
from gossamer.hypotheses import sign_flip_test
from gossamer.models import from_pretrained
from gossamer.statistics import hierarchical_bootstrap
from gossamer.tasks import load_task
from gossamer.verify import ChannelTrial, run_battery

CHECKS = ("rivals", "stability")
Row = dict[str, Any]


def circuit_row(name: str, task_name: str, seed: int, given: argparse.Namespace) -> Row:
    """One circuit and what the two checks say of it."""
    started = time.perf_counter()
    model, task = from_pretrained(name), load_task(task_name)
    found = prune(model, task, PruneConfig(seed=seed, target_loss=given.loss))
    row: Row = {"model": name, "task": task_name, "seed": seed, "reached": found.reached}
    row |= {"nodes": found.circuit.n_nodes, "edges": found.circuit.n_edges, "loss_heldout": found.loss_heldout}
    if found.reached:
        heldout = model.encode(task.heldout[: given.pairs])
        trial = ChannelTrial(model=model, circuit=found.circuit, task=task, heldout=heldout, seed=seed)
        for e in run_battery(trial, {check: {} for check in CHECKS}):
            check, chance = e.claim.split(":")[0], next((n.value for n in e.nulls if n.value is not None), None)
            row[check] = {"iou": e.value, "chance": chance, "verdict": e.verdict, "note": e.note}
    return {**row, "seconds": round(time.perf_counter() - started, 1)}


def beyond_chance(row: Row, check: str) -> float | None:
    """(IoU - chance) / (1 - chance), 1 where rivals were looked for in earnest and none found; None where the check
    measured nothing."""
    found = row.get(check)
    if not found or found["chance"] is None or found["verdict"] == "not measured":
        return None
    iou = 1.0 if found["iou"] is None else found["iou"]
    return float((iou - found["chance"]) / (1 - found["chance"]))


def report(rows: list[Row], given: argparse.Namespace) -> Row:
    """Per check: both models' means with intervals, the paired difference, and what was left out."""
    out: Row = {"circuits": len(rows)}
    for check in CHECKS:
        by: dict[tuple[str, str], list[float | None]] = {}
        for r in rows:
            by.setdefault((r["model"], r["task"]), []).append(beyond_chance(r, check))
        tasks = sorted({t for _, t in by})
        whole = [
            t for t in tasks if all((m, t) in by and None not in by[m, t] for m in (given.sparse, given.dense))
        ]  # fmt: skip
        here: Row = {"tasks": whole, "left_out": [t for t in tasks if t not in whole]}
        for side in (given.sparse, given.dense) if whole else ():
            mean, interval = hierarchical_bootstrap([np.array(by[side, t], dtype=float) for t in whole])
            here[side] = {"mean": mean, "interval": interval}
        if len(whole) > 1:
            means = {
                side: [np.array(by[side, t], dtype=float).mean() for t in whole] for side in (given.sparse, given.dense)
            }
            differences = np.subtract(means[given.sparse], means[given.dense])
            here |= {"differences": differences.tolist(), "p": sign_flip_test(differences, side="greater").p_value}
        out[check] = here
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparse", default="tiny")
    parser.add_argument("--dense", default="tiny-dense")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--loss", type=float, default=0.15, help="target task loss in nats")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not given.tasks:
        solved = [{t.name for t in solved_by(model=m).tasks if t.solved} for m in (given.sparse, given.dense)]
        given.tasks = sorted(set.intersection(*solved))
        print(f"both solve {', '.join(given.tasks)}", file=sys.stderr, flush=True)
    rows: list[Row] = []
    if given.rows and given.rows.is_file():
        rows = [json.loads(line) for line in given.rows.read_text().splitlines()]
    done = {(r["model"], r["task"], r["seed"]) for r in rows}
    todo = [
        (m, t, s) for s in range(given.seeds) for t in given.tasks for m in (given.sparse, given.dense)
        if (m, t, s) not in done
    ]  # fmt: skip
    for i, (m, t, s) in enumerate(todo):
        rows.append(circuit_row(m, t, s, given))
        if given.rows:
            with given.rows.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        took = rows[-1]["seconds"]
        print(f"{i + 1} of {len(todo)}: {m}, {t}, seed {s}: {took:.0f} s", file=sys.stderr, flush=True)
    out = report(rows, given)
    if given.json:
        print(json.dumps(out))
        return
    for check in CHECKS:
        here = out[check]
        print(f"{check}, (IoU - chance) / (1 - chance), {len(here['tasks'])} tasks ({', '.join(here['tasks'])}):")
        for side in (given.sparse, given.dense):
            if side in here:
                low, high = here[side]["interval"]
                print(f"  {side}: {here[side]['mean']:.3f} [{low:.3f}, {high:.3f}]")
        if "p" in here:
            print(
                f"  paired difference per task {', '.join(f'{d:.3f}' for d in here['differences'])}; p {here['p']:.3f}"
            )
        if here["left_out"]:
            print(f"  not measured on both: {', '.join(here['left_out'])}")


if __name__ == "__main__":
    main()
