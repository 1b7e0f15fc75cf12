"""What methods take of memory against what was predicted for them and the budget that they were given.

    python benchmarks/memory.py [--methods eap ceap ...] [--layers 12] [--heads 12] [--width 768] [--vocab 1000]
        [--pairs 32] [--tokens 64] [--dtype bfloat16] [--family llama] [--json]

A random model in memory; every method in a process of its own, on one batch of all pairs, with the prediction as its
budget. Peak memory is what the process has taken at most (VmHWM), less what it had taken with the model loaded and the
libraries warm, plus the weights. Methods whose time grows with edges or steps are stopped after their dearest batch,
the same as their probe's but of the whole size (--whole: they run to their end).
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from eap import WORDS, made, random_task, resident

from gossamer.discover import (
    acdc,
    acdc_config,
    activation_patching,
    activation_patching_config,
    attribution_patching,
    attribution_patching_config,
    ceap,
    direct_logit_attribution,
    direct_logit_attribution_config,
    eap,
    eap_config,
    eap_ig,
    eap_ig_activations,
    eap_ig_config,
    edge_mask,
    edge_mask_config,
    edge_patching,
    edge_patching_config,
    path_patching,
    path_patching_config,
)
from gossamer.discover.edge_patching import trials_of
from gossamer.discover.room import probe_of
from gossamer.models.huggingface.memory import give_back_large_blocks, weights

METHODS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "eap": (eap, eap_config), "eap-ig": (eap_ig, eap_ig_config), "ceap": (ceap, eap_ig_config),
    "eap-ig-activations": (eap_ig_activations, eap_ig_config), "edge-patching": (edge_patching, edge_patching_config),
    "acdc": (acdc, acdc_config), "edge-mask": (edge_mask, edge_mask_config),
    "activation-patching": (activation_patching, activation_patching_config),
    "attribution-patching": (attribution_patching, attribution_patching_config),
    "path-patching": (path_patching, path_patching_config),
    "direct-logit-attribution": (direct_logit_attribution, direct_logit_attribution_config),
}  # fmt: skip
LONG = ("edge-patching", "activation-patching", "path-patching", "acdc", "eap-ig-activations")


class Enough(Exception):
    """The dearest batch has been run."""


def config_of(name: str, n: int, memory: str | None) -> Any:
    fields: dict[str, Any] = {"pairs": n, "memory": memory}
    if name == "edge-mask":
        fields |= {"batch": n, "steps": 1}
    elif name != "acdc":
        fields["pairs_at_once"] = n
    if name in ("eap-ig", "ceap"):
        fields["steps"] = 2
    return METHODS[name][1](**fields)


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: the peak of one batch above the loaded model, and what was predicted."""
    give_back_large_blocks()
    model, task = made(given.family, given), random_task(given.pairs, given.tokens)
    function, config = METHODS[name][0], config_of(name, given.pairs, None)
    model.hashes()
    eap(model, random_task(1, 4), eap_config(pairs=1))  # libraries loaded on first use are not the method's memory
    trials = trials_of(model, name, given.tokens)
    probe = probe_of(model, config, name)
    began = time.process_time()
    predicted = model.needed(given.tokens, name, probe, pairs=given.pairs, trials=trials)
    probing = time.process_time() - began
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    if name in LONG and not given.whole:
        assert probe is not None
        for _ in probe(model.encode(task.train), 1 if trials is None else trials(given.pairs)):
            pass
    else:
        function(model, task, config_of(name, given.pairs, f"{int(predicted * 1.001)}B"))
    peak = resident("VmHWM") - before + weights(model)
    return {"method": name, "predicted": predicted, "measured": peak, "weights": weights(model), "probing": probing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=WORDS)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--family", default="llama", choices=["gpt2", "llama"])
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.lengths = [given.tokens]
    torch.set_num_threads(1)
    if given.measure:
        print(json.dumps(measure(given.measure, given)))
        return
    flags = [w for a in sys.argv[1:] for w in (a,) if a != "--json"]
    found = []
    for name in given.methods:
        command = [sys.executable, __file__, *flags, "--measure", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found.append(r := json.loads(done.stdout.splitlines()[-1]))
        if not given.json:
            print(f"{name}: peak {r['measured'] / 1e6:,.0f} MB, predicted {r['predicted'] / 1e6:,.0f} MB "
                  f"({r['predicted'] / r['measured'] - 1:+.0%}), weights {r['weights'] / 1e6:,.0f} MB, "
                  f"{r['probing']:.1f} s to predict", flush=True)  # fmt: skip
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
