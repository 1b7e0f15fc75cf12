"""ACDC against the plain sequential algorithm: the same edges, in how much less time.

    python benchmarks/acdc.py [--layers 2 4 6] [--heads 6] [--width 192] [--pairs 16] [--tokens 24] [--same 8]
        [--threshold 0.001] [--threads 1] [--json]

The opponent runs the whole model once per edge, with logits at the answer's position only and the clean run's values
cached: the algorithm as published, without its waste. Ours computes only what the edge that is tried can still change,
from the first token in which the prompts differ (`--same` tokens in). Random GPT-2-shaped models in float32; the time
of both includes everything. On a machine that others use too, the processor time (one thread) is the fairer number.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time

import numpy as np
import torch
from number_words import Numbers
from transformers import GPT2Config, GPT2LMHeadModel

from gossamer.discover import ACDCConfig, acdc
from gossamer.discover.acdc import metric_of
from gossamer.models.huggingface import Decoder, decoder_of
from gossamer.task import Example, Task, sides


def random_task(vocab: int, given: argparse.Namespace) -> Task:
    """Pairs of random tokens that agree in the first `same`."""
    rng = np.random.default_rng(0)

    def pair() -> Example:
        one = rng.integers(2, vocab, given.tokens)
        other = one.copy()
        other[given.same :] = rng.integers(2, vocab, given.tokens - given.same)
        clean, counterfactual = (" ".join(map(str, x)) for x in (one, other))
        return Example(clean=clean, counterfactual=counterfactual, answer=" 5", wrong_answer=" 9")

    return Task(
        name="random", version="1", description="", train=tuple(pair() for _ in range(given.pairs)), heldout=(pair(),)
    )


@torch.no_grad()
def sequential(model: Decoder, task: Task, config: ACDCConfig) -> set[tuple[int, int, int]]:
    """Edges kept by algorithm 1, one whole run an edge."""
    clean, other = sides(model.encode(task.train))
    reference, _ = model.writes(other)
    whole, graph = model.writes(clean)[1], model.graph()
    score = metric_of(config, clean, whole)
    alpha, now, kept = torch.zeros(graph.n_edges), score(whole[None])[0], []
    for edge in reversed(range(graph.n_edges)):
        alpha[edge] = 1
        value = score(model.patched(clean, alpha, reference)[None])[0]
        if value - now < config.threshold:
            now = value
        else:
            alpha[edge] = 0
            kept.append(edge)
    return {(int(graph.src[e]), int(graph.dst[e]), int(graph.matrix[e])) for e in kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--same", type=int, default=8, help="tokens in which both prompts of a pair agree")
    parser.add_argument("--threshold", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for layers in given.layers:
        torch.manual_seed(0)
        shape = GPT2Config(
            vocab_size=1000, n_embd=given.width, n_layer=layers, n_head=given.heads, n_positions=given.tokens + 2,
            initializer_range=0.1, bos_token_id=1, eos_token_id=1,
        )  # fmt: skip
        model = decoder_of(GPT2LMHeadModel(shape), Numbers(), f"{layers} layers")
        task, config = random_task(1000, given), ACDCConfig(threshold=given.threshold, pairs=given.pairs)
        at = [(time.perf_counter(), time.process_time())]
        found = acdc(model, task, config)
        at.append((time.perf_counter(), time.process_time()))
        plain = sequential(model, task, config)
        at.append((time.perf_counter(), time.process_time()))
        (ours, ours_cpu), (theirs, theirs_cpu) = (
            tuple(b - a for a, b in zip(*ends, strict=True)) for ends in itertools.pairwise(at)
        )
        mine = set(zip(found.src.tolist(), found.dst.tolist(), found.matrix.tolist(), strict=True))
        rows.append({
            "layers": layers, "edges": model.graph().n_edges, "kept": found.n_edges, "differ": len(mine ^ plain),
            "passes": found.record.details["passes"], "seconds": ours, "sequential_seconds": theirs,
            "ratio": theirs / ours, "cpu_seconds": ours_cpu, "sequential_cpu_seconds": theirs_cpu,
            "cpu_ratio": theirs_cpu / ours_cpu, "unrun": found.record.details["removed_without_a_run"],
        })  # fmt: skip
        if not given.json:
            r = rows[-1]
            print(
                f"{layers} layers, {r['edges']:,} edges: {r['kept']} kept, {r['differ']} decided otherwise; "
                f"{ours:.1f} s in {r['passes']} passes, sequential {theirs:.1f} s: {r['ratio']:.1f} times faster "
                f"(processor time {ours_cpu:.1f} s and {theirs_cpu:.1f} s: {r['cpu_ratio']:.1f} times); "
                f"{1e3 * ours_cpu / r['edges']:.1f} and {1e3 * theirs_cpu / r['edges']:.1f} ms an edge",
                flush=True,
            )
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
