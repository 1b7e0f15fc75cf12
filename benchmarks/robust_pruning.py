"""What changes when masks train against random or adversarial subsets of the complement instead of all of it.

    python benchmarks/robust_pruning.py [--sparse tiny] [--dense tiny-dense] [--tasks single_double_quote if_equals]
        [--seeds 3] [--rows FILE] [--json]

Critics of Gao et al. 2025 show that full complement ablation lets a circuit solve a task that the model does not, and
propose to ablate subsets. For each objective (`--set ablated=all|random|adversarial` of `gossamer discover prune`):

- size of the circuit at the target loss, both models, and the ratio of dense to sparse (geometric means over tasks and
  seeds, bootstrap interval);
- held-out loss and paired accuracy, and accuracy on pairs unlike the training ones (the quote task: strings of 8 to 12
  words; a finished string in the other quotes before); the loss when a random half of the complement is ablated, mean
  and worst of 20 halves;
- the same search on nonsense: the task's prompts, the answers replaced by two words that have nothing to do with them;
- the same search on the sparse model with the entries of every matrix shuffled (reference means of its own).

An objective is better if it makes the last two harder and the first not. --rows keeps finished searches (JSON lines):
started again with it, the command goes on where it was. A size is that of a search that met the target; how many did
stands beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gossamer.discover import prune_config
from gossamer.discover.prune import circuit_gap, circuit_loss, prune
from gossamer.metric import paired_accuracy, task_loss_nats
from gossamer.models import LoadedModel, from_pretrained
from gossamer.models.shuffled import weight_shuffled
from gossamer.statistics import bootstrap_interval, ratio_of_geometric_means
from gossamer.task import Example, Task
from gossamer.tasks import load_task
from gossamer.tasks.nonsense import nonsense

OBJECTIVES = ("all", "random", "adversarial")
NONSENSE = ((" is", " or"), (" and", " in"), (" not", " as"))
HALVES = 20


def unlike(task: Task) -> dict[str, tuple[Example, ...]]:
    """Splits unlike the training pairs: the task's own, and two for the quotes."""
    found = dict(task.ood)
    if task.name == "single_double_quote":
        pairs = task.heldout[:256]
        tails = [e.clean.split("'", 1)[1] for e in pairs]

        def longer(e: Example, i: int) -> Example:
            words = " ".join(tails[(i + k) % len(tails)] for k in range(12)).split()[: 8 + i % 5]
            return replace(e, clean=e.clean.split("'", 1)[0] + "'" + " ".join(words),
                           counterfactual=e.counterfactual.split('"', 1)[0] + '"' + " ".join(words))  # fmt: skip

        def after(e: Example, i: int) -> Example:
            word = tails[(i + 1) % len(tails)].split()[0]
            return replace(e, clean=f'x = "{word}"\n{e.clean}', counterfactual=f"x = '{word}'\n{e.counterfactual}")

        found["long strings"] = tuple(longer(e, i) for i, e in enumerate(pairs))
        found["after a string in the other quotes"] = tuple(after(e, i) for i, e in enumerate(pairs))
    return found


@torch.no_grad()
def loss_under_halves(model: LoadedModel, task: Task, nodes: np.ndarray, seed: int) -> list[float]:
    """Held-out task loss with a random half of the nodes outside the circuit ablated, once per half."""
    graph, batch = model.graph("channel"), model.encode(task.heldout).pairs(0, 128)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(HALVES):
        keep = (torch.rand(graph.layout.n_nodes, generator=generator) < 0.5).float()
        keep[torch.from_numpy(nodes)] = 1
        masks = {k: torch.from_numpy(v) for k, v in graph.layout.split(keep.numpy()).items()}
        losses.append(float(task_loss_nats(model.run(batch, masks=masks).gap).mean()))
    return losses


def searches(given: argparse.Namespace) -> Iterator[tuple[str, str, str, int]]:
    """(what, objective, task, seed) in the order they run: every part of the report fills evenly."""
    for seed in range(given.seeds):
        for what in ("sparse", "dense", "nonsense", "shuffled"):
            for task in given.tasks if what in ("sparse", "dense") else given.tasks[:1]:
                for objective in OBJECTIVES:
                    yield what, objective, task, seed


def one(what: str, objective: str, task: Task, seed: int, models: dict[str, LoadedModel]) -> dict[str, object]:
    """One search and everything that is measured of its circuit."""
    model, name = models["dense" if what == "dense" else "sparse"], task.name
    if what == "nonsense":
        task = nonsense(task, model, seed=seed, words=NONSENSE[seed % len(NONSENSE)])
    if what == "shuffled":
        model = weight_shuffled(model, seed)
    started = time.perf_counter()
    found = prune(model, task, prune_config(ablated=objective, seed=seed))
    seconds = time.perf_counter() - started
    heldout = model.encode(task.heldout)
    right = paired_accuracy(circuit_gap(model, found.circuit, heldout)).double().numpy()
    halves = loss_under_halves(model, task, found.circuit.nodes, seed)
    other: dict[str, object] = {}
    for name, pairs in unlike(task).items() if what in ("sparse", "dense") else ():
        batch = model.encode(pairs)
        scores = [paired_accuracy(z).double().numpy()
                  for z in (circuit_gap(model, found.circuit, batch), model.run(batch).gap)]  # fmt: skip
        other[name] = {
            "circuit": scores[0].mean(), "interval": bootstrap_interval(scores[0]), "model": scores[1].mean(),
            "loss": float(circuit_loss(model, found.circuit, batch).mean()),
        }  # fmt: skip
    return {
        "what": what, "objective": objective, "task": name, "seed": seed, "on": task.name,
        "model": model.name, "reached": found.reached, "nodes": found.circuit.n_nodes, "edges": found.circuit.n_edges,
        "loss_train": found.loss_train, "loss_heldout": found.loss_heldout, "accuracy_heldout": right.mean(),
        "accuracy_interval": bootstrap_interval(right), "halves_mean": statistics.mean(halves),
        "halves_worst": max(halves), "ood": other, "seconds": seconds,
    }  # fmt: skip


def median_range(values: list[float]) -> str:
    """Median [smallest, largest]."""
    return f"{statistics.median(values):.4g} [{min(values):.4g}, {max(values):.4g}]" if values else "none"


def report(rows: list[dict[str, object]], given: argparse.Namespace) -> list[str]:
    """The lines of the report, one block per objective."""
    lines = []
    for objective in OBJECTIVES:
        mine = [r for r in rows if r["objective"] == objective]
        lines.append(f"ablated: {objective}")
        for what in ("sparse", "dense", "nonsense", "shuffled"):
            for task in given.tasks:
                these = [r for r in mine if r["what"] == what and r["task"] == task]
                if not these:
                    continue
                met = [r for r in these if r["reached"]]
                lines.append(
                    f"  {what:9} {task}: {len(met)} of {len(these)} met the target; nodes "
                    f"{median_range([r['nodes'] for r in met])}, edges {median_range([r['edges'] for r in met])}; "
                    f"held out {median_range([r['loss_heldout'] for r in these])} nats, pairs right "
                    f"{median_range([r['accuracy_heldout'] for r in these])}; random halves ablated "
                    f"{median_range([r['halves_mean'] for r in these])}, worst "
                    f"{max(r['halves_worst'] for r in these):.3f}"
                )
                for name in these[0]["ood"]:
                    lines.append(
                        f"            {name}: pairs right {median_range([r['ood'][name]['circuit'] for r in these])}, "
                        f"the whole model {these[0]['ood'][name]['model']:.3f}"
                    )
        sizes = {
            what: [[r["edges"] for r in mine if r["what"] == what and r["task"] == t and r["reached"]]
                   for t in given.tasks] for what in ("sparse", "dense")
        }  # fmt: skip
        n = min((len(s) for side in sizes.values() for s in side), default=0)
        if n:
            cut = {k: [s[:n] for s in side] for k, side in sizes.items()}
            ratio, interval = ratio_of_geometric_means(cut["dense"], cut["sparse"])
            between = f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else ""
            lines.append(f"  dense / sparse edges {ratio:.1f}{between} over {len(given.tasks)} tasks, {n} seeds")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparse", default="tiny")
    parser.add_argument("--dense", default="tiny-dense")
    parser.add_argument("--tasks", nargs="+", default=["single_double_quote", "if_equals"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=Path, help="file of finished searches, read at the start and added to")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    models = {side: from_pretrained(getattr(given, side)) for side in ("sparse", "dense")}
    tasks = {name: load_task(name) for name in given.tasks}
    earlier = given.rows.read_text().splitlines() if given.rows and given.rows.exists() else []
    rows = [json.loads(line) for line in earlier]
    done = {(r["what"], r["objective"], r["task"], r["seed"]) for r in rows}
    todo = [s for s in searches(given) if s not in done]
    for i, (what, objective, task, seed) in enumerate(todo, 1):
        row = one(what, objective, tasks[task], seed, models)
        rows.append(row)
        if given.rows:
            with open(given.rows, "a") as f:
                f.write(json.dumps(row) + "\n")
        size = f"reached {row['reached']}, {row['nodes']} nodes, {row['edges']} edges, {row['seconds']:.0f} s"
        say = f"{i}/{len(todo)} {what} {objective} {row['on']} seed {seed}: {size}"
        print(say, file=sys.stderr, flush=True)
    print(json.dumps({"rows": rows}) if given.json else "\n".join(report(rows, given)))


if __name__ == "__main__":
    main()
