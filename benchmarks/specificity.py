"""Does weight sparsity buy specificity? Reuse, overlap and the cross-task matrix of a sparse model and its dense twin.

    python benchmarks/specificity.py [--sparse tiny] [--dense tiny-dense] [--tasks single_double_quote if_equals
        while_return_true else_elif] [--seeds 2] [--pairs 128] [--draws 20] [--runs runs/specificity]
        [--figure docs/figures/specificity] [--json]

Both models get the same search (`gossamer discover prune` with its defaults) for every task and seed; the runs are kept
in --runs as MODEL-TASK-sSEED, so that the command goes on after a stop. Of each model, over the tasks:

- circuits: the cross-task matrix of mean ablations and its contrast (gossamer.compare.specificity), beside random sets;
  overlap of nodes and edges of different tasks' circuits, beside chance, and of the same task's of two seeds;
- cores: the nodes that 95% of a task's single examples have among their 5% of largest attribution, how many that is
  (reuse) beside chance, and the cross-task matrix of these cores, which are as large a share in both models.

The contrast of a task is its own circuit's loss minus the mean of what it costs other tasks and what others cost it;
their mean is the matrix's. The difference of the two models is over tasks (mean over seeds), with a bootstrap interval
over tasks and a sign-flip test. --figure draws the matrices of seed 0; beside it STEM.json has all numbers of all
seeds, in the details of its record. Of fewer than 20 random sets the central 95% is not measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gossamer import commands
from gossamer.commands.comparisons import loss_matrix
from gossamer.commands.run_folder import CIRCUIT, Run, read_run, write_json
from gossamer.compare import Specificity, example_circuits, overlaps, shared_by, specificity
from gossamer.compare.reuse import expected_core
from gossamer.hypotheses import sign_flip_test
from gossamer.record import Record
from gossamer.show.figures import require_matplotlib
from gossamer.show.matrix_figure import MatrixData, write_matrix_figure
from gossamer.statistics import bootstrap_interval
from gossamer.verify import ChannelTrial

TASKS = ("single_double_quote", "if_equals", "while_return_true", "else_elif")
SHARE, AT, EXAMPLES = 0.05, 0.95, 64


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def found(model: str, task: str, seed: int, runs: Path) -> Run:
    """The run of a search, made where it is not there yet."""
    folder = runs / f"{model}-{task}-s{seed}"
    if not folder.exists():
        commands.prune(model, task, out=folder, seed=seed)
        say(f"made {folder}")
    return read_run(folder)


def by_task(s: Specificity) -> list[float]:
    """The contrast of every task."""
    share = {(c.ablated, c.on): c.own.share if c.own else float("nan") for c in s.cells}
    rows = []
    for a in s.names:
        rest = [np.mean([share[a, b], share[b, a]]) for b in s.names if b != a]
        rows.append(float(share[a, a] - np.mean(rest)))
    return rows


def told(s: Specificity) -> dict[str, Any]:
    return {
        "sizes": s.sizes, "own": s.diagonal, "others": s.rest, "contrast": s.contrast, "interval": s.interval,
        "random": s.random_contrast, "random_interval": s.random_interval, "p_value": s.p_value,
        "smallest": s.smallest, "by_task": by_task(s),
        "random_loss": float(np.mean([c.random for c in s.cells if c.random is not None])),
        "accuracy_lost_own": [c.own.relative for c in s.cells if c.own and c.ablated == c.on],
    }  # fmt: skip


def of_model(name: str, seed: int, given: argparse.Namespace) -> tuple[dict[str, Any], Specificity]:
    """Everything of one model with one seed's circuits."""
    runs = {t: found(name, t, seed, given.runs) for t in given.tasks}
    trials = {
        t: ChannelTrial(
            model=r.model, circuit=r.circuit, task=r.task, heldout=r.model.encode(r.task.heldout[: given.pairs])
        )
        for t, r in runs.items()
    }
    circuits = {t: r.circuit for t, r in runs.items()}
    rows = [r for r in overlaps(circuits, next(iter(runs.values())).model.graph()) if r.kind == "all"]
    overlap = {
        what: {
            "iou": float(np.mean([r.iou for r in rows if r.what == what])),
            "chance": float(np.mean([r.chance for r in rows if r.what == what])),
            "above_chance": sum((r.p_value or 1) <= 0.05 for r in rows if r.what == what),
            "pairs": sum(r.what == what for r in rows),
        }
        for what in ("nodes", "edges")
    }
    own = specificity(trials, draws=given.draws, decompose=False)
    say(f"{name}, seed {seed}: contrast {own.contrast:.3f} {own.interval}, random {own.random_contrast:.3f}")
    first = next(iter(runs.values())).circuit.record
    result = {
        "model": name, "model_sha256": first.model_sha256, "means_sha256": first.means_sha256,
        "circuits_sha256": [hashlib.sha256((r.folder / CIRCUIT).read_bytes()).hexdigest() for r in runs.values()],
        "methodology": own.methodology, "seed": seed, "nodes_of_model": own.n_parts,
        "edges": [c.n_edges for c in circuits.values()],
        "reached": [r.about.result.reached for r in runs.values()], "effect": own.effect, "overlap": overlap,
        "circuits": told(own),
    }  # fmt: skip
    if seed == 0:  # attributions have no seed
        cores, reused, iou = {}, [], []
        for t, trial in trials.items():
            examples = example_circuits(trial.on(trial.task.train[:EXAMPLES]), SHARE)
            cores[t] = shared_by(examples, AT)
            size = int(examples[0].sum())
            chance = expected_core(examples, trial.kinds, AT) / size
            reused.append({"task": t, "reuse": int(cores[t].sum()) / size, "chance": chance})
            iou.append(
                float(np.mean([(a & b).sum() / (a | b).sum() for a in examples for b in examples if a is not b]))
            )
        result |= {"reuse": reused, "examples_iou": iou}
        if sum(c.any() for c in cores.values()) > 1:
            result["cores"] = told(specificity(trials, sets=cores, draws=given.draws, decompose=False))
    return result, own


def same_task(name: str, given: argparse.Namespace) -> dict[str, float] | None:
    """Overlap of the circuits that different seeds find for one task."""
    if given.seeds < 2:
        return None
    sums: dict[str, list[float]] = {"nodes": [], "edges": [], "chance": []}
    for t in given.tasks:
        circuits = {str(s): found(name, t, s, given.runs).circuit for s in range(given.seeds)}
        for r in overlaps(circuits):
            if r.kind == "all" and r.iou is not None:
                sums[r.what].append(r.iou)
                sums["chance"] += [r.chance] if r.chance is not None else []
    return {k: float(np.mean(v)) for k, v in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sparse", default="tiny")
    parser.add_argument("--dense", default="tiny-dense")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--runs", type=Path, default=Path("runs/specificity"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.figure:
        require_matplotlib()
    config = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(given).items()}
    for k in ("runs", "figure", "json"):
        config.pop(k)
    record = Record.now(method="specificity", config=config, seed=0)  # of the code as it is when this starts
    results, matrices = [], {}
    for seed in range(given.seeds):
        for name in (given.sparse, given.dense):
            result, own = of_model(name, seed, given)
            results.append(result)
            matrices[name, seed] = own
    summary: dict[str, Any] = {"tasks": given.tasks, "results": results}
    summary["same_task"] = {name: same_task(name, given) for name in (given.sparse, given.dense)}
    for what in ("circuits", "cores"):
        per = {
            name: np.mean([r[what]["by_task"] for r in results if r["model"] == name and what in r], axis=0)
            for name in (given.sparse, given.dense)
        }
        ahead = per[given.sparse] - per[given.dense]
        if np.isfinite(ahead).all() and np.ndim(ahead):
            summary[f"difference_{what}"] = {
                "mean": float(ahead.mean()), "interval_over_tasks": bootstrap_interval(ahead),
                **sign_flip_test(ahead)._asdict(), "by_task": ahead.tolist(),
            }  # fmt: skip
    if given.figure:
        at_first = [r for r in results if r["seed"] == 0]
        record = record.model_copy(update={
            "task": ", ".join(given.tasks), "details": json.loads(json.dumps(summary)),
            **{k: ", ".join(r[k] for r in at_first) for k in ("model", "model_sha256", "means_sha256")},
        })  # fmt: skip
        data = MatrixData(
            finding=sentence(summary, given), null="random sets with as many channels at every location",
            record=record.model_dump(mode="json"),
            matrices=tuple(
                loss_matrix(matrices[name, 0], f"{name}: effect lost, circuit by task")
                for name in (given.sparse, given.dense)
            ),
        )  # fmt: skip
        write_json(data, given.figure.with_suffix(".json"))
        write_matrix_figure(data, given.figure)
    print(json.dumps(summary) if given.json else json.dumps(summary, indent=1) + "\n" + sentence(summary, given))


def sentence(summary: dict[str, Any], given: argparse.Namespace) -> str:
    parts = []
    for name in (given.sparse, given.dense):
        mine = [r["circuits"] for r in summary["results"] if r["model"] == name]
        own, others, contrast = (np.mean([m[k] for m in mine]) for k in ("own", "others", "contrast"))
        parts.append(f"{name}: own task {own:.2f}, others {others:.2f}, contrast {contrast:.2f}")
    d = summary["difference_circuits"]
    return (
        f"{'; '.join(parts)}. Sparse minus dense {d['mean']:.2f}, by task {min(d['by_task']):.2f} to "
        f"{max(d['by_task']):.2f}, p {d['p_value']:.2g} ({len(summary['tasks'])} tasks: at least {d['smallest']:.2g})."
    )


if __name__ == "__main__":
    main()
