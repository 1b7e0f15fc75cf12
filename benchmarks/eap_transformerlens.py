"""EAP against TransformerLens's edge attribution, on the same random GPT-2-shaped model and the same pairs.

    python benchmarks/eap_transformerlens.py [--python PATH | --environment FOLDER] [--layers 4] [--heads 4]
        [--width 128] [--pairs 8] [--tokens 12] [--repeats 3]

TransformerLens needs other versions than ours: it runs in a process of its own, by a Python that has it (`--python`),
or in an environment that is made at `--environment` (pip install transformer-lens, some gigabytes). It takes the
gradient on its corrupt run, so our counterfactual prompt is its clean one and our clean prompt its corrupt one, and it
scores edges position by position, so its scores are summed over positions. Printed: the largest difference, the largest
score, and the ratio of times (processor time of one thread, medians).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from number_words import Numbers
from transformers import GPT2Config, GPT2LMHeadModel

from gossamer.discover import EAPConfig, eap
from gossamer.models.huggingface import decoder_of
from gossamer.task import Example, Task, sides

VERSION = "4.3.0"
THEIRS = """
import json, sys, time
from collections import defaultdict
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

torch.set_num_threads(1)
given = json.load(open(sys.argv[1]))
words = Tokenizer(models.WordLevel({str(i): i for i in range(200)}, unk_token="0"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="1", eos_token="1", pad_token="0")
tokenizer.save_pretrained(given["model"])
tokenizer = PreTrainedTokenizerFast.from_pretrained(given["model"])
model = TransformerBridge.boot_transformers(given["model"], tokenizer=tokenizer, device="cpu", dtype=torch.float32)
model.eval()
clean, other = torch.tensor(given["clean"]), torch.tensor(given["other"])
answer, wrong = given["answer"], given["wrong"]
def metric(logits):
    return (logits[0, -1, answer] - logits[0, -1, wrong]).sum()
took = []
for _ in range(given["repeats"] + 1):
    start = time.process_time()
    found = attribution_patch(model, other, clean, metric, EdgeAttributionConfig(granularity="edge"))
    took.append(time.process_time() - start)
def name(node):
    if node.kind == "embed":
        return "input", ""
    if node.kind == "attn_head_out":
        return f"a{node.layer}.h{node.head}", ""
    if node.kind == "mlp_out":
        return f"m{node.layer}", ""
    if node.kind == "logits":
        return "logits", "logits"
    if node.kind == "mlp_in":
        return f"m{node.layer}", "mlp"
    return f"a{node.layer}.h{node.head}", node.kind[0]
total = defaultdict(float)
for (writer, reader), score in found.edge_scores.items():
    total["|".join((name(writer)[0], *name(reader)))] += float(score)
import importlib.metadata
print(json.dumps({"scores": total, "seconds": sorted(took[1:])[len(took[1:]) // 2],
                  "version": importlib.metadata.version("transformer-lens")}))
"""


def environment(folder: Path) -> Path:
    """An environment with TransformerLens; made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for package in (f"torch=={torch.__version__.split('+')[0]}", f"transformer-lens=={VERSION}"):
            subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
    return python


def random_task(pairs: int, tokens: int) -> Task:
    rng = np.random.default_rng(0)

    def pair() -> Example:
        one, other = (" ".join(map(str, rng.integers(2, 200, tokens))) for _ in range(2))
        return Example(clean=one, counterfactual=other, answer=" 5", wrong_answer=" 9")

    return Task(
        name="random", version="1", description="", train=tuple(pair() for _ in range(pairs)), heldout=(pair(),)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "transformer-lens")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    python = given.python or environment(given.environment)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=200, n_embd=given.width, n_layer=given.layers, n_head=given.heads, n_positions=given.tokens + 2,
        initializer_range=0.1, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    plain = GPT2LMHeadModel(shape).eval()
    with tempfile.TemporaryDirectory() as folder:
        plain.save_pretrained(folder)
        model, task = decoder_of(plain, Numbers(), "random"), random_task(given.pairs, given.tokens)
        clean, other = sides(model.encode(task.train))
        asked = {
            "model": folder, "clean": clean.tokens.tolist(), "other": other.tokens.tolist(), "answer": 5, "wrong": 9,
            "repeats": given.repeats,
        }  # fmt: skip
        (at := Path(folder) / "asked.json").write_text(json.dumps(asked))
        done = subprocess.run([python, "-c", THEIRS, at], stdout=subprocess.PIPE, check=True, text=True)
        theirs = json.loads(done.stdout.splitlines()[-1])
    took = []
    for _ in range(given.repeats + 1):
        start = time.process_time()
        found = eap(model, task, EAPConfig(pairs=given.pairs))
        took.append(time.process_time() - start)
    graph = found.graph
    site = [str(graph.layout.site(i)) for i in range(graph.layout.n_nodes)]
    ends = zip(graph.src.tolist(), graph.dst.tolist(), graph.matrix.tolist(), strict=True)
    names = [f"{site[a]}|{site[b]}|{graph.matrices[m]}" for a, b, m in ends]
    if set(names) != set(theirs["scores"]):
        raise SystemExit(f"different edges: {sorted(set(names) ^ set(theirs['scores']))[:4]}")
    its = np.array([theirs["scores"][n] for n in names])
    row = {
        "transformer_lens": theirs["version"], "edges": len(names), "largest_score": float(np.abs(its).max()),
        "largest_difference": float(np.abs(found.values - its).max()), "seconds": statistics.median(took[1:]),
        "their_seconds": theirs["seconds"], "ratio": theirs["seconds"] / statistics.median(took[1:]),
    }  # fmt: skip
    if given.json:
        print(json.dumps(row))
        return
    print(f"TransformerLens {row['transformer_lens']}, {row['edges']:,} edges, {given.pairs} pairs of {given.tokens} "
          f"tokens: largest difference {row['largest_difference']:.1e} (largest score {row['largest_score']:.2f}); "
          f"ours {row['seconds']:.2f} s, theirs {row['their_seconds']:.2f} s: {row['ratio']:.0f} times")  # fmt: skip


if __name__ == "__main__":
    main()
