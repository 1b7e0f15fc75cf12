"""ACDC against AutoCircuit's, on the same random GPT-2-shaped model, the same pairs, metric and threshold.

    python benchmarks/acdc_autocircuit.py [--python PATH | --environment FOLDER] [--layers 2] [--heads 6] [--width 192]
        [--pairs 16] [--tokens 24] [--same 8] [--base 1] [--exponent -3] [--own-order] [--json]

AutoCircuit 1.0.1 needs other versions than ours: it runs in a process of its own, by a Python that has it (`--python`),
or in an environment that is made at `--environment` (some gigabytes). It starts each run at the layer of the edge that
is tried, and the keys and values of what the prompts of a pair share are cached, as its own loader does it; it computes
logits at all later positions. It tries the edges of a layer in the order of a Python set, another one in every process:
it is given ours (readers and writers from the last to the first) and, with `--own-order`, once more its own. Times are
of the processor, one thread each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from acdc import random_task
from number_words import Numbers
from transformers import GPT2Config, GPT2LMHeadModel

from gossamer.discover import ACDCConfig, acdc
from gossamer.models.huggingface import decoder_of
from gossamer.task import sides

NEEDED = (  # it bounds none of them, and the newest of each do not go together
    "auto-circuit==1.0.1", "transformer-lens==2.7.0", "transformers==4.45.2", "datasets<3", "pyarrow<18", "numpy<2",
    "typeguard<5",
)  # fmt: skip
THEIRS = """
import json, sys, time
import torch
from auto_circuit.data import PromptPair, collate_fn
from auto_circuit.prune_algos.ACDC import acdc_prune_scores
from auto_circuit.utils.graph_utils import patchable_model
from tokenizers import Tokenizer, models
from transformer_lens import HookedTransformer, HookedTransformerConfig, HookedTransformerKeyValueCache
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

torch.set_num_threads(1)
given = json.load(open(sys.argv[1]))
plain = GPT2LMHeadModel.from_pretrained(given["model"])
shape = plain.config
words = Tokenizer(models.WordLevel({str(i): i for i in range(shape.vocab_size)}, unk_token="0"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="1", eos_token="1", pad_token="0")
tokenizer.save_pretrained(given["model"])  # it asks the tokenizer what padding is, once keys and values are cached
tokenizer = PreTrainedTokenizerFast.from_pretrained(given["model"])
cfg = HookedTransformerConfig(
    n_layers=shape.n_layer, d_model=shape.n_embd, n_ctx=shape.n_positions, d_head=shape.n_embd // shape.n_head,
    n_heads=shape.n_head, d_mlp=4 * shape.n_embd, act_fn="gelu_new", d_vocab=shape.vocab_size, eps=1e-5,
    normalization_type="LN", use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True, device="cpu",
)
clean, other, same = torch.tensor(given["clean"]), torch.tensor(given["other"]), given["same"]

def run(ours):
    model = HookedTransformer(cfg, tokenizer=tokenizer)
    model.load_state_dict(convert_gpt2_weights(plain, cfg), strict=False)
    model.eval()
    with torch.no_grad():
        whole = model(clean)[:, -1]
    at = time.process_time()
    cache = HookedTransformerKeyValueCache.init_cache(cfg, "cpu", len(clean))
    with torch.inference_mode():
        model(clean[:, :same], past_kv_cache=cache)
    cache.freeze()
    model = patchable_model(
        model, factorized=True, slice_output="last_seq", separate_qkv=True, kv_caches=(cache,)
    )
    if ours:
        place = {tuple(e): i for i, e in enumerate(given["order"])}
        model.edges = sorted(model.edges, key=lambda e: place[e.src.name, e.dest.name])
    none = torch.zeros(1, dtype=torch.long)
    batch = collate_fn([PromptPair(a[same:], b[same:], none, none) for a, b in zip(clean, other)])
    scores = acdc_prune_scores(model, [batch], None, tao_exps=[given["exponent"]], tao_bases=[given["base"]])
    took = time.process_time() - at
    kept = [[e.src.name, e.dest.name] for e in model.edges if torch.isinf(e.prune_score(scores))]
    return kept, took, whole.tolist(), len(model.edges)

kept, took, whole, edges = run(True)
own = run(False)[0] if given["own_order"] else None
print(json.dumps({"kept": kept, "seconds": took, "logits": whole, "edges": edges, "own_order": own}))
"""


def environment(folder: Path) -> Path:
    """An environment with AutoCircuit; made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for packages in ((f"torch=={torch.__version__.split('+')[0]}",), NEEDED):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def their_name(site: str) -> str:
    """Of a writer: `input`, `a1.h2`, `m1` -> Resid Start, A1.2, MLP 1; of the logits: Resid End."""
    if site.startswith("a"):
        return "A" + site[1:].replace("h", "")
    return {"input": "Resid Start", "logits": "Resid End"}.get(site, f"MLP {site[1:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "auto-circuit")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--same", type=int, default=8, help="tokens in which both prompts of a pair agree")
    parser.add_argument("--exponent", type=int, default=-3, help="the threshold is base x 10 ** exponent")
    parser.add_argument("--base", type=int, default=1)
    parser.add_argument("--own-order", action="store_true", help="how many edges differ if it takes its own order")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    python = given.python or environment(given.environment)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = GPT2LMHeadModel(GPT2Config(
        vocab_size=1000, n_embd=given.width, n_layer=given.layers, n_head=given.heads, n_positions=given.tokens + 2,
        initializer_range=0.1, bos_token_id=1, eos_token_id=1,
    )).eval()  # fmt: skip
    model, task = decoder_of(plain, Numbers(), f"{given.layers} layers"), random_task(1000, given)
    graph, (clean, other) = model.graph(), sides(model.encode(task.train))
    site = [str(graph.layout.site(i)) for i in range(graph.layout.n_nodes)]
    names = []
    for a, b, m in zip(graph.src.tolist(), graph.dst.tolist(), graph.matrix.tolist(), strict=True):
        part = graph.matrices[m]
        names.append(
            (their_name(site[a]), their_name(site[b]) + (f".{part.upper()}" if part in ("q", "k", "v") else ""))
        )
    with tempfile.TemporaryDirectory() as folder:
        plain.save_pretrained(folder)
        asked = {
            "model": folder, "clean": clean.tokens.tolist(), "other": other.tokens.tolist(), "same": given.same,
            "order": names[::-1], "exponent": given.exponent, "base": given.base,
            "own_order": given.own_order,
        }  # fmt: skip
        (at := Path(folder) / "asked.json").write_text(json.dumps(asked))
        done = subprocess.run([python, "-c", THEIRS, at], stdout=subprocess.PIPE, check=True, text=True)
    theirs: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    start = time.process_time()
    found = acdc(model, task, ACDCConfig(threshold=given.base * 10.0**given.exponent, pairs=given.pairs))
    took = time.process_time() - start
    mine = {names[e] for e in graph.numbers(found.src, found.dst, found.matrix).tolist()}
    its, own = ({tuple(e) for e in theirs[k] or ()} for k in ("kept", "own_order"))
    logits = model.writes(clean)[1]
    row = {
        "edges": graph.n_edges, "their_edges": theirs["edges"], "kept": len(mine), "their_kept": len(its),
        "differ": len(mine ^ its), "own_order_differs": len(mine ^ own) if given.own_order else None, "seconds": took,
        "their_seconds": theirs["seconds"], "ratio": theirs["seconds"] / took,
        "logits_differ": float((logits - torch.tensor(theirs["logits"])).abs().max()),
    }  # fmt: skip
    if given.json:
        print(json.dumps(row))
        return
    print(f"{given.layers} layers, {row['edges']:,} edges (AutoCircuit {row['their_edges']:,}): {row['kept']} kept, "
          f"AutoCircuit {row['their_kept']}, {row['differ']} decided otherwise"
          + f" ({row['own_order_differs']} with edges in its own order)" * given.own_order
          + f"; logits differ by {row['logits_differ']:.0e}; ours {took:.1f} s, AutoCircuit "
          f"{row['their_seconds']:.1f} s: {row['ratio']:.1f} times")  # fmt: skip


if __name__ == "__main__":
    main()
