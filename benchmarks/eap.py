"""EAP and EAP-IG in units of the model's own runs, and what they need of memory.

    python benchmarks/eap.py [--layers 6] [--heads 6] [--width 384] [--vocab 1000] [--pairs 64] [--tokens 24]
        [--steps 5] [--repeats 5] [--lengths 128 256 512 1024] [--threads 1] [--json]

The unit is the Hugging Face model by itself, without hooks: two forward passes (clean and counterfactual prompts) and
one backward pass of the same logit difference, down to the embeddings, with the parameters frozen, logits at the last
token alone. A random GPT-2-shaped model in float32 and a random Llama-shaped one with grouped queries. The runs
alternate, a ratio is the median of those of neighbours, and times are of the processor where one thread runs: other
users of a machine slow a clock more than that.

Peak memory is what a process of its own has taken at most (VmHWM), less what the loaded model had taken, next to what
was predicted for it; the run has that as its budget (--no-budget: as the allocator likes it).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from number_words import Numbers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from gossamer.discover import EAPConfig, EAPIGConfig, eap, eap_ig
from gossamer.models.huggingface import Decoder, decoder_of, estimate
from gossamer.models.huggingface.memory import give_back_large_blocks, weights
from gossamer.task import Example, Task, sides

WORDS = 1000


def made(family: str, given: argparse.Namespace) -> Decoder:
    torch.manual_seed(0)
    model: PreTrainedModel
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=given.vocab, n_embd=given.width, n_layer=given.layers, n_head=given.heads,
            n_positions=max(given.tokens, *given.lengths) + 2, bos_token_id=1, eos_token_id=1,
        ))  # fmt: skip
    else:
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=given.vocab, hidden_size=given.width, num_hidden_layers=given.layers,
            num_attention_heads=given.heads, num_key_value_heads=given.heads // 3,
            intermediate_size=given.width * 8 // 3,
        ))  # fmt: skip
    return decoder_of(model.to(getattr(torch, given.dtype)), Numbers(), family)


def random_task(pairs: int, tokens: int) -> Task:
    rng = np.random.default_rng(0)

    def pair() -> Example:
        one, other = (" ".join(map(str, rng.integers(2, WORDS, tokens))) for _ in range(2))
        return Example(clean=one, counterfactual=other, answer=" 5", wrong_answer=" 9")

    return Task(
        name="random", version="1", description="", train=tuple(pair() for _ in range(pairs)), heldout=(pair(),)
    )


def plain(model: Decoder, task: Task, forwards: int, at_once: int) -> None:
    """The model by itself: forward passes, the last of them with a backward pass."""
    pairs = model.encode(task.train)
    for start in range(0, pairs.n_pairs, at_once):
        clean, other = sides(pairs.pairs(start, min(start + at_once, pairs.n_pairs)))
        if forwards == 2:
            with torch.no_grad():
                model.model(other.tokens, use_cache=False, logits_to_keep=1)
        embedded = model.model.get_input_embeddings()(clean.tokens).requires_grad_()
        logits = model.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[:, 0]
        gap = logits.gather(1, clean.answer[:, None]) - logits.gather(1, clean.wrong[:, None])
        torch.autograd.grad(gap.sum(), embedded)


def times(runs: dict[str, Callable[[], Any]], repeats: int, threads: int) -> dict[str, list[float]]:
    """Seconds of each, one after the other, again and again."""
    clock = time.process_time if threads == 1 else time.perf_counter
    took: dict[str, list[float]] = {name: [] for name in runs}
    for again in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if again:  # the first one warms up
                took[name].append(clock() - start)
    return took


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios of neighbours in time."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def speed(family: str, given: argparse.Namespace) -> dict[str, Any]:
    model, task = made(family, given), random_task(given.pairs, given.tokens)
    model.hashes()  # once per model, and of no interest here
    at_once = given.pairs_at_once
    config = EAPConfig(pairs=given.pairs, pairs_at_once=at_once)
    many = EAPIGConfig(pairs=given.pairs, pairs_at_once=at_once, steps=given.steps)
    took = times(
        {
            "two forwards and a backward": lambda: plain(model, task, 2, at_once),
            "eap": lambda: eap(model, task, config),
            "forward and backward": lambda: plain(model, task, 1, at_once),
            "eap-ig": lambda: eap_ig(model, task, many),
        },
        given.repeats, given.threads,
    )  # fmt: skip
    return {
        "family": family, "edges": model.graph().n_edges,
        "seconds": {name: statistics.median(t) for name, t in took.items()},
        "eap": ratio(took["eap"], took["two forwards and a backward"]),
        "eap_ig": ratio(took["eap-ig"], took["forward and backward"]) / given.steps,
    }  # fmt: skip


def resident(what: str) -> int:
    """Bytes: VmRSS now, or VmHWM at most since the process began or the peak was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])


def measure(family: str, given: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: peak of one EAP run above the loaded model, and what was predicted."""
    if not given.no_budget:
        give_back_large_blocks()  # so that what the warm-up let go is not there to be used again
    model, task = made(family, given), random_task(given.pairs, given.tokens)
    predicted, held = estimate(model, given.tokens, given.pairs), weights(model)
    model.hashes()
    eap(model, random_task(1, 4), EAPConfig(pairs=1))  # libraries loaded on first use are not the method's memory
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    budget = None if given.no_budget else f"{predicted}"
    eap(model, task, EAPConfig(pairs=given.pairs, pairs_at_once=given.pairs, memory=budget))
    peak = resident("VmHWM") - before + held
    return {"tokens": given.tokens, "predicted": predicted, "measured": peak, "weights": held}


def memory(family: str, given: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    flags = {**vars(given), **changes, "measure": family}
    command = [sys.executable, __file__]
    for name, value in flags.items():
        if name not in ("json", "lengths", "no_budget"):
            command += [f"--{name.replace('_', '-')}", str(value)]
    command += ["--no-budget"] * given.no_budget + ["--lengths", str(flags["tokens"])]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocab", type=int, default=WORDS)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--pairs-at-once", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="*", default=[128, 256, 512, 1024], help="for peak memory")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-budget", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.measure:
        print(json.dumps(measure(given.measure, given)))
        return
    found: dict[str, Any] = {"threads": given.threads, "speed": [], "memory": {}}
    for family in ("gpt2", "llama"):
        found["speed"].append(r := speed(family, given))
        if not given.json:
            print(f"{family}, {r['edges']:,} edges, {given.pairs} pairs of {given.tokens} tokens: EAP takes "
                  f"{r['eap']:.2f} times two forwards and a backward ({r['seconds']['eap']:.2f} s), EAP-IG "
                  f"{r['eap_ig']:.2f} times {given.steps} x (forward + backward)", flush=True)  # fmt: skip
    shapes = {f"gpt2, 4 pairs, {n} tokens": ("gpt2", {"tokens": n, "pairs": 4}) for n in given.lengths}
    small = {"layers": 12, "heads": 12, "width": 768, "tokens": 64, "pairs": 32}
    shapes |= {
        f"llama 0.1B, 32 pairs, 64 tokens, {t}": ("llama", {**small, "dtype": t}) for t in ("float32", "bfloat16")
    }
    for name, (family, changes) in shapes.items():
        found["memory"][name] = r = memory(family, given, **changes)
        if not given.json:
            print(f"{name}: peak {r['measured'] / 1e6:,.0f} MB, predicted {r['predicted'] / 1e6:,.0f} MB "
                  f"({r['predicted'] / r['measured'] - 1:+.0%})", flush=True)  # fmt: skip
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
