"""Compact proofs on max-of-4 over 64 tokens: every rung's bound on several seeds, and bounds against weight density.

    python benchmarks/compact_proofs.py --out FOLDER [--seeds 5] [--samples 1000000] [--json]
    python benchmarks/compact_proofs.py --out FOLDER --seeds 3 --densities 1 0.5 0.3 0.2 0.15 [--level 0.998] [--json]

Without --densities: per seed every rung's bound and times, the checker's word on each certificate, the same rungs on
the weights in a random order and on random weights, and inputs drawn from those that the per-output proof certifies
(every other proof's are among them) with how many of them the model gets wrong.

With --densities: at each density and seed a model is trained with 5,000 steps, then 10,000, then 20,000 until its
accuracy on 100,000 sampled inputs is at least --level; all densities have the same recipe (learning rate to 0 over the
second half). The data and the figure are FOLDER/density.json, .png and .svg. Run again with the same FOLDER to go on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gossamer.models.max_of_k import LoadedMaxOfK, MaxOfK, load_max_of_k, random_max_of_k, shuffled_max_of_k
from gossamer.show.figures import COLOURS, GREY, require_matplotlib
from gossamer.train.max_of_k import MaxOfKTraining, train_all_into, train_into
from gossamer.verify.proof import LADDER, RUNGS, cells_of, prove, save_certificate
from gossamer.verify.proof.certificate import Certificate, load_certificate
from gossamer.verify.proof.checker import check

STEPS = (5_000, 10_000, 20_000)
SHORT = {
    "brute-force": "brute force", "per-output": "per output", "cubic": "cubic", "sub-cubic.exact.exact": "sub-cubic",
    "sub-cubic.rank-1.factored": "rank 1", "sub-cubic.factored.factored": "factored",
}  # fmt: skip


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def write(path: Path, content: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(partial, path)


def model_at(folder: Path, config: MaxOfKTraining) -> LoadedMaxOfK:
    """The trained model in a folder, trained unless it is there."""
    return load_max_of_k(folder) if folder.exists() else train_into(folder, config)


def certificate_of(loaded: LoadedMaxOfK, rung: str) -> Certificate:
    """The rung's certificate beside the model, made unless it is there."""
    path = loaded.weights.parent / "certificates" / f"{rung}.json"
    if path.is_file():
        return load_certificate(path)
    return load_certificate(save_certificate(prove(loaded, rung), path))


@torch.no_grad()
def wrong_of_certified(model: MaxOfK, number: int, seed: int) -> int:
    """How many of `number` inputs drawn from those the per-output proof certifies the model, in float64, gets wrong."""
    exact = MaxOfK(model.config).double()
    exact.load_state_dict(model.state_dict())
    tokens, wrong = torch.from_numpy(cells_of(model, "per-output").sample(number, seed)), 0
    for part in tokens.split(50_000):
        logits, most = exact(part), part.amax(1, keepdim=True)
        best = logits.gather(1, most)[:, 0]
        wrong += int((best <= logits.scatter(1, most, -torch.inf).amax(1)).sum())
    return wrong


def one_seed(out: Path, seed: int, samples: int) -> dict[str, Any]:
    """Everything about one seed of the paper's model; kept in OUT/seed-N.json."""
    path = out / f"seed-{seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    loaded = model_at(out / f"seed-{seed}", MaxOfKTraining(k=4, seed=seed))
    assert loaded.record is not None
    nulls = {
        "shuffled": shuffled_max_of_k(loaded.model, seed),
        "random": random_max_of_k(loaded.model.config, seed + 99),
    }
    rungs: dict[str, Any] = {}
    for rung in RUNGS:
        started, cpu = time.perf_counter(), time.process_time()
        certificate = prove(loaded, rung)
        wall, seconds = time.perf_counter() - started, time.process_time() - cpu
        file = save_certificate(certificate, loaded.weights.parent / "certificates" / f"{rung}.json")
        cpu = time.process_time()
        verified = check(file, loaded.weights).verified
        rungs[rung] = {
            "bound": certificate.bound, "certified": certificate.certified, "verified": verified,
            "flops": certificate.flops, "unexplained_dimensions": certificate.unexplained_dimensions,
            "witness_numbers": certificate.witness_numbers, "cpu_seconds": seconds, "wall_seconds": wall,
            "check_cpu_seconds": time.process_time() - cpu,
            **{name: prove(replace(loaded, model=model), rung).bound for name, model in nulls.items()},
        }  # fmt: skip
        say(f"seed {seed} {rung}: {certificate.bound:.4f}, {wall:.1f} s")
    found = {
        "seed": seed, "train_seconds": loaded.record.details["train_seconds"], "rungs": rungs, "samples": samples,
        "wrong": wrong_of_certified(loaded.model, samples, seed),
    }  # fmt: skip
    write(path, found)
    return found


def acceptance(out: Path, seeds: int, samples: int, as_json: bool) -> None:
    each = [one_seed(out, seed, samples // seeds) for seed in range(seeds)]
    rows = []
    for rung in RUNGS:
        found = [e["rungs"][rung] for e in each]
        rows.append({
            "rung": rung, "bounds": [f["bound"] for f in found], "median": median(f["bound"] for f in found),
            **{n: max(f[n] for f in found) for n in ("shuffled", "random", "cpu_seconds", "check_cpu_seconds")},
            **{name: found[0][name] for name in ("flops", "unexplained_dimensions", "witness_numbers")},
        })  # fmt: skip
    total = {"samples": sum(e["samples"] for e in each), "wrong": sum(e["wrong"] for e in each)}
    train = [e["train_seconds"] for e in each]
    if as_json:
        print(json.dumps({"rows": rows, "train_seconds": train, "sampled": total}))
        return
    print("| rung |", " | ".join(f"seed {s}" for s in range(seeds)), "| median | shuffled, at most | random, at most |"
          " FLOPs | unexplained | witnesses | CPU s | check, CPU s |")  # fmt: skip
    for r in rows:
        bounds = " | ".join(f"{b:.4f}" for b in r["bounds"])
        print(
            f"| {r['rung']} | {bounds} | {r['median']:.4f} | {r['shuffled']:.4f} | {r['random']:.4f} | "
            f"{r['flops']:,} | {r['unexplained_dimensions']:,} | {r['witness_numbers']:,} | {r['cpu_seconds']:.1f} | "
            f"{r['check_cpu_seconds']:.1f} |"
        )
    print(f"{total['wrong']} of {total['samples']:,} sampled certified inputs are wrong; training {train} s")


def matched(out: Path, wanted: Iterable[float], seeds: int, level: float) -> dict[tuple[float, int], LoadedMaxOfK]:
    """Per density and seed the first model of more and more steps whose sampled accuracy reaches the level, if any."""
    found: dict[tuple[float, int], LoadedMaxOfK] = {}
    for steps in STEPS:
        missing = [(d, s) for s in range(seeds) for d in wanted if (d, s) not in found]
        folders = {(d, s): out / f"density-{d:g}" / f"seed-{s}-steps-{steps}" for d, s in missing}
        new = [at for at in missing if not folders[at].exists()]
        if new:
            configs = [MaxOfKTraining(seed=s, density=d, steps=steps, decay_from=0.5) for d, s in new]
            train_all_into([folders[at] for at in new], configs, progress=told)
        for at in missing:
            loaded = load_max_of_k(folders[at])
            assert loaded.record is not None
            reached = loaded.record.details["sampled_accuracy"]
            say(f"density {at[0]:g} seed {at[1]} steps {steps}: sampled accuracy {reached:.5f}")
            if reached >= level:
                found[at] = loaded
    return found


def told(step: int, steps: int, loss: float) -> None:
    if step % 500 == 0:
        say(f"step {step} of {steps}, loss {loss:.4f}")


def densities(out: Path, wanted: Iterable[float], seeds: int, level: float, as_json: bool) -> None:
    """Train, prove, write density.json and draw it. A density and seed that misses the level has no model."""
    require_matplotlib()
    found, models = [], matched(out, wanted, seeds, level)
    for density in wanted:
        for seed in range(seeds):
            if (loaded := models.get((density, seed))) is None:
                found.append({"density": density, "seed": seed, "reached": False})
                continue
            assert loaded.record is not None
            certificates = {rung: certificate_of(loaded, rung) for rung in LADDER}
            found.append({
                "density": density, "seed": seed, "reached": True, "steps": loaded.record.config["steps"],
                "nonzero_weights": loaded.model.nonzero(),
                "sampled_accuracy": loaded.record.details["sampled_accuracy"], "rungs": {
                    rung: {
                        "bound": c.bound, "flops": c.flops, "unexplained_dimensions": c.unexplained_dimensions,
                    }
                    for rung, c in certificates.items()
                },
            })  # fmt: skip
    data = {"format_version": 1, "level": level, "steps": STEPS, "seeds": seeds, "models": found}
    write(out / "density.json", data)
    draw(data, out / "density")
    if as_json:
        print(json.dumps(data))
        return
    print("| density | steps | non-zero | sampled |", " | ".join(LADDER), "|")
    for density in wanted:
        own = [m for m in found if m["density"] == density and m["reached"]]
        if len(own) < seeds:
            print(f"{seeds - len(own)} of {seeds} models of density {density:g} miss the level {level:g}")
        if not own:
            continue
        cells = []
        for rung in LADDER:
            of = [m["rungs"][rung] for m in own]
            bounds = [o["bound"] for o in of]
            cells.append(
                f"{median(bounds):.4f} [{min(bounds):.4f}, {max(bounds):.4f}], {median(o['flops'] for o in of):,}, "
                f"{median(o['unexplained_dimensions'] for o in of):,}"
            )
        steps = ", ".join(str(m["steps"]) for m in own)
        sampled = min(m["sampled_accuracy"] for m in own), max(m["sampled_accuracy"] for m in own)
        print(
            f"| {density:g} | {steps} | {own[0]['nonzero_weights']:,} | {sampled[0]:.4f} to {sampled[1]:.4f} |",
            " | ".join(cells), "|",
        )  # fmt: skip


def draw(data: dict[str, Any], stem: Path) -> None:
    """Bound against operations, and against unexplained dimensions: a mark per seed, a line through the medians."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    style: Any = {
        "svg.hashsalt": "gossamer", "font.size": 8, "font.family": "DejaVu Sans", "axes.spines.top": False,
        "axes.spines.right": False, "axes.linewidth": 0.6, "path.simplify": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(layout="constrained", figsize=(7, 3))
        FigureCanvasAgg(figure)
        sides = figure.subplots(1, 2, sharey=True)
        rungs = LADDER[2:]
        for axes, what, label in zip(
            sides, ("flops", "unexplained_dimensions"), ("operations to check", "unexplained dimensions"), strict=True
        ):  # fmt: skip
            for number, density in enumerate(dict.fromkeys(m["density"] for m in data["models"] if m["reached"])):
                own = [m["rungs"] for m in data["models"] if m["density"] == density and m["reached"]]
                colour = COLOURS[number % len(COLOURS)]
                middle = [
                    (median(o[r][what] for o in own), median(o[r]["bound"] for o in own)) for r in rungs
                ]  # fmt: skip
                axes.plot(*zip(*middle, strict=True), color=colour, linewidth=0.9, label=f"{density:g} of weights")
                for rung, marker in zip(rungs, "osD^", strict=True):
                    points = [(o[rung][what], o[rung]["bound"]) for o in own]
                    axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=3.5)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(label)
        sides[0].set_ylabel("proven accuracy")
        sides[1].legend(frameon=False, fontsize=6.5, loc="lower right")
        marks = [
            Line2D([], [], color=GREY, marker=marker, linestyle="", markersize=3.5, label=SHORT[rung])
            for rung, marker in zip(rungs, "osD^", strict=True)
        ]
        sides[0].legend(handles=marks, frameon=False, fontsize=6.5, loc="lower right")
        for suffix, options in (
            (".png", {"metadata": {"Software": None}, "dpi": 200}),
            (".svg", {"metadata": {"Date": None}}),
        ):
            path = stem.with_name(stem.name + suffix)
            partial = path.with_name(f".{path.name}.partial")
            figure.savefig(partial, format=suffix[1:], **options)
            os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps models and results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1_000_000, help="certified inputs to draw, over all seeds")
    parser.add_argument("--densities", type=float, nargs="+")
    parser.add_argument("--level", type=float, default=0.998, help="sampled accuracy that counts as matched")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.densities:
        densities(given.out, given.densities, given.seeds, given.level, given.json)
    else:
        acceptance(given.out, given.seeds, given.samples, given.json)


if __name__ == "__main__":
    main()
