"""Our training step against a straightforward one, in one run: tokens per second, peak memory, same losses.

    python benchmarks/train_step.py [--rounds 3] [--steps 20] [--threads 2] [--json]

The opponent (`Plain` below, frozen) uses the fastest library call for each operation: torch.topk + scatter for
AbsTopK, F.rms_norm, F.gelu, scaled_dot_product_attention with the sink as an extra key, all logits at once,
F.cross_entropy, fused Adam, torch.topk for the projection. Both sides train the `tiny` shape (width 128, 2 layers, 64
sequences of 128 tokens) from the same weights on the same random tokens, each round in its own fresh process, sides
alternating. Memory is the peak resident size above that of the process just before its first step.

That both do the same is checked in float64 (with float32's eps in the norms, so that it is the same model), where no
two values are nearly equal: the losses of all steps agree to 1e-9 nats. In float32, in which both are timed, AbsTopK
and the projection turn another order of sums into other choices; there our losses may be at most twice as far from
those in float64 as the opponent's.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gossamer.models.kernels import rms_topk
from gossamer.models.sparse import Norm, SparseTransformer
from gossamer.train.loop import reuse_freed_memory
from gossamer.train.optimizer import RMS_FLOOR, SparseAdam
from gossamer.train.presets import preset
from gossamer.train.projection import targets
from gossamer.train.schedule import density_at

RECIPE = preset("tiny")
SAME_LOSS = 1e-9  # nats, in float64
EPS = torch.finfo(torch.float32).eps  # of every norm


class Plain(nn.Module):
    """The architecture, one library call per operation, reading its weights from a SparseTransformer."""

    def __init__(self, model: SparseTransformer) -> None:
        super().__init__()
        self.m, self.c = model, model.config

    def top(self, x: Tensor) -> Tensor:
        kept = torch.topk(x.abs(), int(self.c.activation_fraction * x.shape[-1]), dim=-1, sorted=False).indices
        return torch.zeros_like(x).scatter_(-1, kept, x.gather(-1, kept))

    def loss(self, tokens: Tensor, targets_: Tensor) -> Tensor:
        c, (batch, length) = self.c, tokens.shape
        x = self.m.wte(tokens)
        mask = torch.full((length, length + 1), -torch.inf).triu(2)
        for block in self.m.blocks:
            a = self.top(F.rms_norm(x, (c.d_model,), block.ln_1.weight, EPS))
            q, k, v = block.attn.c_attn(a).split(c.d_attn, -1)
            q, k, v = (self.top(t).view(batch, length, c.n_head, c.d_head).transpose(1, 2) for t in (q, k, v))
            k, v = (F.pad(t, (0, 0, 1, 0)) for t in (k, v))
            sink = torch.zeros(1, c.n_head, length, length + 1)
            sink[..., 0] = 1
            bias = mask + sink * block.attn.sink_logit.view(1, -1, 1, 1)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            x = x + self.top(block.attn.c_proj(y.transpose(1, 2).flatten(2)))
            a = self.top(F.rms_norm(x, (c.d_model,), block.ln_2.weight, EPS))
            x = x + self.top(block.mlp.c_proj(self.top(F.gelu(block.mlp.c_fc(a)))))
        logits = self.m.lm_head(F.rms_norm(x, (c.d_model,), self.m.ln_f.weight, EPS))
        return F.cross_entropy(logits.flatten(0, 1), targets_.flatten())


class PlainStep:
    """Normalise, Adam, project with torch.topk, decay: in the published order, parameter by parameter."""

    def __init__(self, model: SparseTransformer) -> None:
        c = RECIPE
        self.named = dict(model.named_parameters())
        self.targets = targets(model, c)
        self.adam = torch.optim.Adam(self.named.values(), lr=0.0, betas=c.betas, eps=c.eps, fused=True)

    @torch.no_grad()
    def step(self, lr: float, progress: float) -> None:
        grads = [p.grad for p in self.named.values() if p.grad is not None]
        rms = torch.sqrt(sum(g.pow(2).sum() for g in grads) / sum(g.numel() for g in grads))
        for g in grads:
            g.div_(rms + RMS_FLOOR)
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        for t in self.targets:
            w = self.named[t.name]
            size = w.abs()
            if t.alive_dim is not None:
                size.scatter_(t.alive_dim, torch.topk(size, t.min_alive, dim=t.alive_dim).indices, torch.inf)
            k = max(t.k(density_at(progress, t.density, RECIPE.start_density, RECIPE.anneal_fraction)), t.forced)
            kept = torch.zeros(w.numel(), dtype=torch.bool)
            kept[torch.topk(size.flatten(), k, sorted=False).indices] = True
            w.mul_(kept.view_as(w))
        for w in self.named.values():
            if w.ndim >= 2:
                w.mul_(1 - RECIPE.weight_decay * lr)
        self.adam.zero_grad(set_to_none=True)


def peak_bytes() -> int:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def one_side(side: str, dtype: str, steps: int, threads: int) -> dict[str, object]:
    """Losses, seconds per step (the first two left out) and peak memory of one side in this process."""
    torch.set_num_threads(threads)
    c = RECIPE
    model = SparseTransformer(c.model_config_(), seed=0).to(getattr(torch, dtype))
    torch.set_default_dtype(getattr(torch, dtype))  # for what both sides make on the way
    if side == "ours":
        reuse_freed_memory()  # as `gossamer train` does
        optimizer: SparseAdam | PlainStep = SparseAdam(model, c)
        network: Plain | SparseTransformer = model
        for norm in [m for m in model.modules() if isinstance(m, Norm)] if dtype == "float64" else []:
            norm.forward = partial(same_norm, norm)
    else:
        network, optimizer = Plain(model), PlainStep(model)
    generator = torch.Generator().manual_seed(1)
    frequencies = 1 / torch.arange(1, c.vocab_size + 1, dtype=torch.float32)  # Zipf, as text
    before = peak_bytes()
    losses, seconds = [], []
    for step in range(steps):
        draws = torch.multinomial(frequencies, c.batch_size * (c.n_ctx + 1), True, generator=generator)
        batch = draws.view(c.batch_size, -1)
        started = time.perf_counter()
        loss = network.loss(batch[:, :-1], batch[:, 1:])
        loss.backward()
        optimizer.step(0.5 * c.lr, step / steps)
        seconds.append(time.perf_counter() - started)
        losses.append(float(loss.detach()))
    return {"losses": losses, "seconds": seconds[2:], "peak": peak_bytes() - before}


def same_norm(norm: Norm, x: Tensor, k: int | None = None) -> Tensor:
    """The norm's forward with float32's eps."""
    return rms_topk(x, norm.weight, EPS, x.shape[-1] if k is None else k)


def apart(a: list[float], b: list[float]) -> float:
    """The largest difference; infinite where a loss is no number."""
    return max(abs(x - y) if math.isfinite(x - y) else math.inf for x, y in zip(a, b, strict=True))


def in_words(report: dict[str, Any]) -> str:
    speed, peak, moved = (report[k] for k in ("tokens_per_second", "peak_mib", "rounding_nats"))
    lines = [f"{side:>6}: {speed[side]:>7,} tokens/s, peak {peak[side]} MiB" for side in speed]
    lines += [
        f"{report['times_faster']} times faster with {report['memory_share']:.0%} of the memory;",
        f"losses over {report['steps']} steps differ by at most {report['float64_gap_nats']:.2g} in float64;",
        f"rounding to float32 moves ours by {moved['ours']:.2g}, the plain ones by {moved['plain']:.2g}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(one_side(given.side, given.dtype, given.steps, given.threads)))
        return

    def run(side: str, dtype: str = "float32") -> dict[str, list[float]]:
        command = [sys.executable, __file__, "--side", side, "--dtype", dtype, "--steps", str(given.steps)]
        command += ["--threads", str(given.threads)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)
        return json.loads(done.stdout)

    exact = {side: run(side, "float64")["losses"] for side in ("ours", "plain")}
    if (gap := apart(exact["ours"], exact["plain"])) > SAME_LOSS:
        sys.exit(f"The two sides do not train the same model: in float64 their losses differ by {gap:.3g} nats.")
    found: dict[str, list[dict[str, list[float]]]] = {"ours": [], "plain": []}
    for _ in range(given.rounds):
        for side in found:
            found[side].append(run(side))
    seconds = {k: statistics.median(s for r in v for s in r["seconds"]) for k, v in found.items()}
    peak = {k: statistics.median(r["peak"] for r in v) for k, v in found.items()}
    tokens = RECIPE.batch_size * RECIPE.n_ctx
    rounding = {side: max(apart(run["losses"], exact[side]) for run in found[side]) for side in found}
    report = {
        "tokens_per_second": {k: round(tokens / s) for k, s in seconds.items()},
        "peak_mib": {k: round(p / 2**20) for k, p in peak.items()},
        "times_faster": round(seconds["plain"] / seconds["ours"], 2),
        "memory_share": round(peak["ours"] / peak["plain"], 2),
        "float64_gap_nats": gap, "rounding_nats": rounding,
        "last_loss": found["ours"][0]["losses"][-1],
        "threads": given.threads, "rounds": given.rounds, "steps": given.steps,
    }  # fmt: skip
    print(json.dumps(report) if given.json else in_words(report))
    if not rounding["ours"] <= 2 * rounding["plain"] < math.inf:
        sys.exit("Our losses in float32 are more than twice as far from those in float64 as the opponent's.")


if __name__ == "__main__":
    main()
