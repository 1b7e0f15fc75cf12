"""A circuit as a program against the ablated model it stands for: time per example, errors, size.

    python benchmarks/standalone.py [--model tiny] [--task single_double_quote] [--run RUN] [--nodes SHARE]
        [--batch 256] [--repeats 31] [--threads 1] [--onnx] [--json]

The opponent is LoadedModel.run under the circuit's ablation (gao-mean), which computes two logits at the last position.
Both get the same prompts of the held-out split and give the same logit gap. The circuit is that of a run, or found
here, or (--nodes) a random share of all nodes, the hardest case for exact mode. Medians of interleaved repeats, in
processor time of the process: on a busy machine a long call is interrupted more often than a short one.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gossamer import Circuit, LoadedModel, Task, from_pretrained, load_task, read_run
from gossamer.discover import PruneConfig, prune
from gossamer.metric import paired_accuracy, task_loss_nats
from gossamer.models.extract import extract
from gossamer.models.onnx_graph import run_onnx, save_onnx
from gossamer.record import Record


def medians(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor seconds per call, the sides taking turns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for n in range(repeats + 1):
        for name, side in sides.items():
            started = time.process_time()
            side()
            if n:
                found[name].append(time.process_time() - started)
    return {name: statistics.median(times) for name, times in found.items()}


def subject(given: argparse.Namespace) -> tuple[LoadedModel, Task, Circuit]:
    if given.run:
        run = read_run(Path(given.run))
        return run.model, run.task, run.circuit
    model, task = from_pretrained(given.model), load_task(given.task)
    if given.nodes is None:
        return model, task, prune(model, task, PruneConfig(k_coef=(4e-3,))).circuit
    graph = model.graph("channel")
    nodes = np.flatnonzero(np.random.default_rng(0).random(graph.layout.n_nodes) < given.nodes)
    record = Record(method="random", config={}, seed=0)
    return model, task, Circuit.from_nodes(graph, model.edge_weights(graph), nodes, record=record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--task", default="single_double_quote")
    parser.add_argument("--run", help="a run folder: its model, task and circuit")
    parser.add_argument("--nodes", type=float, help="a random circuit that keeps this share of all nodes")
    parser.add_argument("--batch", type=int, default=256, help="prompts")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--onnx", action="store_true", help="also write ONNX graphs and run them")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, task, circuit = subject(given)
    heldout, fit = model.encode(task.heldout), model.encode(task.train).pairs(0, 512)
    batch = heldout.pairs(0, given.batch // 2)
    answers = sorted({int(t) for t in torch.cat([fit.answer, heldout.answer])})
    ablation = circuit.as_ablation("gao-mean")
    modes = {m: extract(model, circuit, m, answers=answers, prompts=fit) for m in ("exact", "frozen")}
    with torch.no_grad():
        sides = {"ablated model": lambda: model.run(batch, ablation=ablation)}
        sides |= {name: (lambda made=made: made.gap(batch)) for name, made in modes.items()}
        seconds = medians(sides, given.repeats)
        expected = model.run(heldout, ablation=ablation).gap
        double = replace(model, model=copy.deepcopy(model.model).double())
        bare = replace(circuit, record=circuit.record.model_copy(update={"model_sha256": ""}))
        error64 = (
            extract(double, bare, answers=answers).gap(heldout) - double.run(heldout, ablation=ablation).gap
        ).abs()
    report: dict[str, object] = {
        "nodes": circuit.n_nodes, "edges": circuit.n_edges, "prompts": len(batch.last), "threads": given.threads,
        "ms_ablated_model": round(1e3 * seconds["ablated model"], 2), "exact_error_float64": float(error64.max()),
        "ablated_accuracy": float(paired_accuracy(expected).mean()),
        "ablated_loss": round(float(task_loss_nats(expected).mean()), 4),
        "model_numbers": sum(p.numel() for p in model.model.parameters()),
    }  # fmt: skip
    for name, made in modes.items():
        z = made.gap(heldout)
        error = (z - expected).abs()
        report |= {
            f"{name}_ms": round(1e3 * seconds[name], 3),
            f"{name}_times_faster": round(seconds["ablated model"] / seconds[name], 1),
            f"{name}_error_mean": float(error.mean()), f"{name}_error_max": float(error.max()),
            f"{name}_accuracy": float(paired_accuracy(z).mean()),
            f"{name}_loss": round(float(task_loss_nats(z).mean()), 4),
            f"{name}_numbers": made.n_numbers(),
        }  # fmt: skip
        if given.onnx:
            with tempfile.TemporaryDirectory() as folder:
                path = save_onnx(made, Path(folder) / "circuit.onnx")
                logits = run_onnx(path, heldout.tokens, heldout.last)
            report[f"{name}_onnx_error"] = float((logits - made(heldout.tokens, heldout.last)).abs().max())
    if given.json:
        print(json.dumps(report))
        return
    print(f"{circuit.n_nodes} nodes, {circuit.n_edges} edges; {len(batch.last)} prompts, {given.threads} threads")
    print(f"ablated model: {report['ms_ablated_model']} ms, {report['model_numbers']:,} numbers, pairs right "
          f"{report['ablated_accuracy']:.1%}, loss {report['ablated_loss']}")  # fmt: skip
    for name in modes:
        print(f"{name:>6}: {report[f'{name}_ms']} ms, {report[f'{name}_times_faster']} times faster; "
              f"{report[f'{name}_numbers']:,} numbers; logit gap off by {report[f'{name}_error_mean']:.2g} on average, "
              f"{report[f'{name}_error_max']:.2g} at most; pairs right {report[f'{name}_accuracy']:.1%}, "
              f"loss {report[f'{name}_loss']}")  # fmt: skip
        if given.onnx:
            print(f"        onnxruntime: logits differ by {report[f'{name}_onnx_error']:.2g} at most")
    print(f"exact mode in float64: off by {report['exact_error_float64']:.2g} at most")


if __name__ == "__main__":
    main()
