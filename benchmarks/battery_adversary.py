"""Can a wrong circuit be optimised to pass the battery? Its success rate on planted models.

    python benchmarks/battery_adversary.py [--n 40] [--seed 0] [--pairs 48] [--steps 200] [--checks NAME ...]
        [--except NAME ...] [--rows FILE]

Per model, one part of the true circuit is forbidden (of a redundant or shortcut model one that the other mechanism does
not share, so that that one is free). Masks over all other channels are trained by gradient on what the battery itself
measures: the task loss of the circuit alone, of the circuit with random halves of the rest (the subsets), how far the
loss without the circuit is below ln 2 (necessity), and a penalty per channel; the pairs are the training pairs. Each of
three penalties gives a circuit, and the adversary hands in the one that does best by its own loss without the penalty,
the smallest of those within 0.02 nats. Then the whole battery tries it on held-out pairs. It has succeeded when every
check passes. The models are plain, redundant, shortcut and instead in turn.

Beside it, as a control, the true circuit of every plain model; a check that measures nothing there is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from battery import Row, known_checks, rate, trial_of, verdict_of
from torch import Tensor

from gossamer.mask import heaviside
from gossamer.metric import LN2, task_loss_nats
from gossamer.models.planted import Case, Planted, planted
from gossamer.site import Site

KINDS = ("plain", "redundant", "shortcut", "instead")
PENALTIES = (1e-3, 4e-3, 1.6e-2)
BATCH, LR, CLOSE = 12, 2e-2, 0.02


def forbidden(made: Planted, rng: random.Random) -> int:
    """The node number of a part of the true circuit, of no other mechanism."""
    shared = {s for name, sites in made.mechanisms.items() if name not in ("real", "A") for s in sites}
    own = next(iter(made.mechanisms.values()))
    return made.model.layout.number(Site.parse(rng.choice([s for s in own if s not in shared])))


def objective(made: Planted, masks: Tensor, start: int, stop: int, generator: torch.Generator) -> Tensor:
    """Per mask [masks, channels], nats: alone, among random halves of the rest, and what necessity lacks."""
    batch, layout = made.model.encode(made.task.train).pairs(start, stop), made.model.layout
    halves = (torch.rand(masks.shape, generator=generator) < 0.5).float()
    sets = torch.cat([masks, masks + (1 - masks) * halves, 1 - masks])
    widths = [w for _, w in layout.locations]
    by_location = dict(zip((n for n, _ in layout.locations), sets.split(widths, dim=-1), strict=True))
    losses = task_loss_nats(made.model.run(batch, masks=by_location).gap).view(3, len(masks), -1).mean(-1)
    return losses[0] + losses[1] + (LN2 - losses[2]).relu()


def wrong_circuit(made: Planted, never: int, steps: int, seed: int) -> np.ndarray:
    """Node numbers of the circuit the adversary hands in."""
    generator, n = torch.Generator().manual_seed(seed), made.model.layout.n_nodes
    tau = (0.1 + 0.01 * torch.randn((len(PENALTIES), n), generator=generator)).requires_grad_()
    free = torch.ones(n)
    free[never] = 0
    optimizer, penalty = torch.optim.Adam([tau], lr=LR), torch.tensor(PENALTIES)
    pairs = len(made.task.train)
    for step in range(steps):
        start = step * BATCH % max(1, pairs - BATCH + 1)
        masks = heaviside(tau, 0.5) * free
        loss = objective(made, masks, start, start + BATCH, generator) + penalty * masks.sum(1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        tau.data.clamp_(-1, 1)
    with torch.no_grad():
        masks = (tau > 0).float() * free
        final = objective(made, masks, 0, pairs, generator)
    near = final <= final.min() + CLOSE
    best = int(torch.where(near, masks.sum(1), torch.inf).argmin())
    return masks[best].nonzero()[:, 0].numpy()


def attack(made: Planted, seed: int, steps: int) -> tuple[Case, Row]:
    never = forbidden(made, random.Random(seed))
    nodes = wrong_circuit(made, never, steps, seed)
    circuit = made.circuit([str(made.model.layout.site(int(i))) for i in nodes])
    true = set(made.circuit(made.true).nodes.tolist())
    both = len(true & set(nodes.tolist()))
    row = {
        "forbidden": str(made.model.layout.site(never)), "nodes": len(nodes), "true": len(true),
        "overlap": round(both / max(1, len(true) + len(nodes) - both), 3),
    }  # fmt: skip
    return Case(label="bad", planted=made, task=made.task, circuit=circuit), row


def report(rows: list[Row], names: list[str]) -> list[str]:
    control = [r for r in rows if r["what"] == "true"]
    silent = [n for n in names if control and all(r["verdicts"][n] == "not measured" for r in control)]
    counted = [n for n in names if n not in silent]

    def passed(some: list[Row]) -> str:
        return rate(sum(all(r["verdicts"][n] == "pass" for n in counted) for r in some), len(some))

    attacks = [r for r in rows if r["what"] == "attack"]
    lines = [f"checks: {', '.join(counted)}" + (f"; left out: {', '.join(silent)}" if silent else "")]
    lines += [f"true circuits of plain models accepted: {passed(control)}", f"attacks accepted: {passed(attacks)}"]
    for kind in KINDS:
        own = [r for r in attacks if r["kind"] == kind]
        sizes = (
            f"{np.median([r['nodes'] for r in own]):.0f} of {np.median([r['true'] for r in own]):.0f}" if own else ""
        )
        stopped = {n: sum(r["verdicts"][n] != "pass" for r in own) for n in counted}
        said = ", ".join(f"{n} {k}" for n, k in stopped.items() if k)
        lines.append(f"  {kind}: {passed(own)}; channels {sizes} true ones (medians); stopped by {said}")
        for r in own:
            if all(r["verdicts"][n] == "pass" for n in counted):
                lines.append(f"    accepted: seed {r['seed']} without {r['forbidden']}, overlap {r['overlap']}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--checks", nargs="+", help="names of checks, instead of all that are registered")
    parser.add_argument("--except", nargs="+", default=[], dest="without", help="names of checks to leave out")
    parser.add_argument("--rows", type=Path, help="file of finished models, read at the start and added to")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = known_checks()
    names = [n for n in given.checks or known if n not in given.without]
    settings = {"pairs": given.pairs, "steps": given.steps, "checks": names}
    kept = given.rows.read_text().splitlines() if given.rows and given.rows.exists() else []
    rows = [r for r in map(json.loads, kept) if all(r[k] == v for k, v in settings.items())]
    done = {(r["seed"], r["what"]) for r in rows}
    todo = [(seed, KINDS[i % 4], what) for i, seed in enumerate(range(given.seed, given.seed + given.n))
            for what in ("attack", "true") if what == "attack" or KINDS[i % 4] == "plain"]  # fmt: skip
    todo, started = [t for t in todo if (t[0], t[2]) not in done], time.perf_counter()
    for i, (seed, kind, what) in enumerate(todo, 1):
        made = planted(kind, seed, pairs=given.pairs)
        case, row = attack(made, seed, given.steps) if what == "attack" else (
            Case(label="true", planted=made, task=made.task, circuit=made.circuit(made.true)), {})  # fmt: skip
        trial = trial_of(case, seed)
        verdicts = {n: verdict_of(n, trial)["verdict"] for n in names}
        rows.append({"seed": seed, "kind": kind, "what": what, **settings, **row, "verdicts": verdicts})
        if given.rows:
            with open(given.rows, "a") as f:
                f.write(json.dumps(rows[-1]) + "\n")
        left = (time.perf_counter() - started) / i * (len(todo) - i)
        failed = ", ".join(n for n, v in verdicts.items() if v != "pass") or "nothing"
        print(f"{i}/{len(todo)} {kind} {seed} {what} {row}: stopped by {failed}; {left / 60:.0f} min left",
              file=sys.stderr, flush=True)  # fmt: skip
    print("\n".join(report(rows, names)))


if __name__ == "__main__":
    main()
