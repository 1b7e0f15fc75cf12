"""Pruning speed: seconds per step and to a finished circuit, against the same search with one mask at a time.

    python benchmarks/prune.py [--model tiny] [--random WIDTH LAYERS] [--task single_double_quote] [--masks 4]
        [--sequences 64] [--steps 40] [--threads 2] [--json]

The opponent is the straightforward loop: one forward and backward pass per mask and step over the whole sequence, all
logits. Ours trains all masks in one pass, computes the last layer only where the answer is read, and two logits instead
of all; `one at a time` is ours with a pass for each mask. Steps are timed at `sequences` per mask, the finished circuit
is that of the default search. With --random the model has random weights of that shape, one in sixteen not zero: no
circuit meets the target there, but the search takes as long.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time

import numpy as np
import torch

from gossamer.discover import PruneConfig, prune
from gossamer.discover.mask_training import split_masks, train_masks
from gossamer.mask import apply_masks, heaviside
from gossamer.metric import task_loss_nats
from gossamer.models import LoadedModel, Reference, from_pretrained
from gossamer.models.sparse import SparseTransformer
from gossamer.task import Encoded, Task
from gossamer.tasks import load_task
from gossamer.train.presets import preset


@torch.no_grad()
def random_model(like: LoadedModel, task: Task, width: int, layers: int) -> LoadedModel:
    """Random weights as dense as those of `tiny`; the means are those of a task's prompts."""
    recipe = preset("tiny", d_model=width, n_layer=layers)
    net, generator = SparseTransformer(recipe.model_config_()), torch.Generator().manual_seed(0)
    for name, p in net.named_parameters():
        if p.ndim == 2:
            density = recipe.density if name.startswith("h.") else recipe.embed_density
            p.mul_(torch.rand(p.shape, generator=generator) < density)
    net.eval().requires_grad_(False)
    model = LoadedModel(
        name=f"random-{width}x{layers}", model=net, tokenizer=like.tokenizer, reference=None, record={}
    )  # fmt: skip
    prompts = model.encode(task.train).pairs(0, 64)
    reads = model.run(prompts, reads=[name for name, _ in net.config.locations()]).reads
    means = {name: x.mean((0, 1)) for name, x in reads.items()}
    reference = Reference(means=means, n_tokens=prompts.tokens.numel(), excerpt=prompts.tokens)
    return dataclasses.replace(model, reference=reference)


def straightforward(model: LoadedModel, train: Encoded, config: PruneConfig) -> None:
    """The same masks, one after the other."""
    graph, means = model.graph("channel"), model.means()
    for k_coef in config.k_coef:
        tau = torch.full((graph.layout.n_nodes,), config.init_noise_bias, requires_grad=True)
        optimizer = torch.optim.AdamW([tau], lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay)
        for step in range(config.steps):
            start = step * config.batch_pairs % (train.n_pairs - config.batch_pairs)
            batch = train.pairs(start, start + config.batch_pairs)
            m = heaviside(tau, config.temperature)
            logits = model.model(batch.tokens, apply_masks(split_masks(graph, m), means))
            at = logits[torch.arange(len(batch.last)), batch.last]
            z = at.gather(1, batch.answer[:, None])[:, 0] - at.gather(1, batch.wrong[:, None])[:, 0]
            (task_loss_nats(z).mean() + k_coef * m.sum()).backward()
            torch.nn.utils.clip_grad_norm_(tau, config.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
            tau.data.clamp_(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--task", default="single_double_quote")
    parser.add_argument("--random", type=int, nargs=2, metavar=("WIDTH", "LAYERS"))
    parser.add_argument("--sequences", type=int, default=64, help="per mask and step; two make a pair")
    parser.add_argument("--masks", type=int, default=4, help="node penalties from 1e-3 to 6e-3")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, task = from_pretrained(given.model), load_task(given.task)
    if given.random:
        model = random_model(model, task, *given.random)
    train = model.encode(task.train)
    config = PruneConfig(
        steps=given.steps,
        batch_pairs=given.sequences // 2,
        k_coef=tuple(np.geomspace(1e-3, 6e-3, given.masks).tolist()),
    )
    alone = [config.model_copy(update={"k_coef": (k,)}) for k in config.k_coef]
    seconds: dict[str, list[float]] = {"ours": [], "one at a time": [], "straightforward": []}
    for _ in range(given.rounds):
        for side, times in seconds.items():
            started = time.perf_counter()
            if side == "ours":
                train_masks(model, model.graph("channel"), train, (config,))
            elif side == "one at a time":
                for one in alone:
                    train_masks(model, model.graph("channel"), train, (one,))
            else:
                straightforward(model, train, config)
            times.append((time.perf_counter() - started) / given.steps)
    step = {k: statistics.median(v) for k, v in seconds.items()}
    started = time.perf_counter()
    found = prune(model, task)
    whole = time.perf_counter() - started
    masks = len(config.k_coef)
    report = {
        "seconds_per_step": {k: round(v, 4) for k, v in step.items()},
        "mask_steps_per_second": {k: round(masks / v, 1) for k, v in step.items()},
        "times_faster": round(step["straightforward"] / step["ours"], 2),
        "batched_over_one_at_a_time": round(step["ours"] / step["one at a time"], 2),
        "model": model.name, "seconds_to_circuit": round(whole, 1), "reached": found.reached,
        "nodes": found.circuit.n_nodes, "edges": found.circuit.n_edges, "loss_heldout": round(found.loss_heldout, 4),
        "masks": masks, "sequences_per_mask": 2 * config.batch_pairs,
        "threads": given.threads,
    }  # fmt: skip
    if given.json:
        print(json.dumps(report))
        return
    for side in step:
        print(f"{side:>16}: {step[side]:.4f} s per step of {masks} masks x {2 * config.batch_pairs} sequences, "
              f"{masks / step[side]:.1f} mask steps per second")  # fmt: skip
    share = report["batched_over_one_at_a_time"]
    print(f"{report['times_faster']} times faster; a batched pass takes {share} of passes one at a time")
    print(
        f"{whole:.1f} s to {'a' if found.reached else 'NO'} circuit of {model.name} at the target loss: "
        f"{found.circuit.n_nodes} nodes and {found.circuit.n_edges} edges, held-out loss {found.loss_heldout:.3f}"
    )


if __name__ == "__main__":
    main()
