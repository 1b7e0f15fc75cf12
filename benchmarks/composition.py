"""Circuits of the ten string edits of PCFG SET in one encoder-decoder, and what their unions do (Mondorf et al. 2025).

    python benchmarks/composition.py OUT [--operations copy reverse ...] [--rule first] [--again 2] [--json]

Trains the model into OUT/model (or goes on where it was stopped, or loads it), finds a circuit per operation into
OUT/circuits (those that are there are kept), and prints: exact match and faithfulness beside random channels as many of
every module; every circuit on every operation; overlaps beside chance; the unions with the largest gains beside random
supersets of their size; the largest of those that are above all, once more on edits that they were not chosen by.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gossamer.circuit import Circuit
from gossamer.compare import Composed, cross_task, edit_faithfulness, edit_means, union_evidence, unions
from gossamer.compare.composition import Means, Rule, answered, kept, random_superset, values_by
from gossamer.discover import ModuleMaskConfig, module_mask
from gossamer.models.encoder_decoder import EncoderDecoder, LoadedEncoderDecoder, exact_match, load_encoder_decoder
from gossamer.set_overlap import iom, iou, overlap_test
from gossamer.tasks.pcfg_set import OPERATIONS, Edit, encode
from gossamer.train.pcfg_set import EditTraining, train_edits


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def trained(folder: Path, recipe: EditTraining) -> LoadedEncoderDecoder:
    if not folder.exists():
        train_edits(
            folder, recipe, resume=True, progress=lambda step, n, loss: say(f"training: {step} of {n}, {loss:.4f} nats")
        )
    found = load_encoder_decoder(folder)
    if found.record.config != recipe.model_dump(mode="json"):
        sys.exit(f"{folder} was trained with other options ({found.record.config}); give those or another OUT.")
    return found


def listed(values: np.ndarray) -> list[object]:
    """For JSON, which has no nan."""
    return np.where(np.isnan(values), None, values.astype(object)).tolist()


def once_more(
    model: EncoderDecoder, circuits: dict[str, Circuit], u: Composed, edits: Sequence[Edit], means: dict[str, Means],
    rule: Rule, draws: int, seed: int,
) -> Composed:  # fmt: skip
    """A union on further edits, beside `draws` supersets of each part."""
    parts, batch = (circuits[u.first], circuits[u.second]), encode(edits)
    union, rng = parts[0] | parts[1], np.random.default_rng(seed)
    random = [random_superset(part, union, rng) for part in parts for _ in range(draws)]
    keep = np.concatenate([kept([*parts, union]), random])
    exact = answered(model, keep, batch, values_by(rule, means, u.first, u.evaluated)).exact.mean(1).tolist()
    second, own = (
        float(answered(model, kept([circuits[o]]), batch, values_by(rule, means, o, u.evaluated)).exact.mean())
        for o in (u.second, u.evaluated)
    )
    return u._replace(alone=max(*exact[:2], second), union=exact[2], own=own, random=tuple(exact[3:]))


def grid(title: str, names: tuple[str, ...], columns: tuple[str, ...], values: np.ndarray) -> None:
    print(f"\n{title}\n{'':16}" + "".join(f"{c[:8]:>9}" for c in columns))
    for name, row in zip(names, values, strict=True):
        print(f"{name:16}" + "".join(f"{'-':>9}" if np.isnan(v) else f"{v:9.2f}" for v in row))


def chosen(some: Sequence[Composed]) -> None:
    print(f"{'union':34}{'on':16}{'nodes':>6}{'alone':>7}{'union':>7}{'gain':>7}{'random':>8}{'max':>6}{'own':>6}")
    for u in some:
        line = f"{u.first + ' | ' + u.second:34}{u.evaluated:16}{u.nodes:6}{u.alone:7.2f}{u.union:7.2f}{u.gain:7.2f}"
        line += f"{np.mean(u.random):8.2f}{max(u.random):6.2f}{u.own or 0:6.2f}" + " beats all" * u.beats_random
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--operations", nargs="+", default=OPERATIONS, choices=OPERATIONS)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=192)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0, help="of the training, the masks and the draws")
    parser.add_argument("--mask-steps", type=int, default=200)
    parser.add_argument("--mask-lr", type=float, default=0.05)
    parser.add_argument(
        "--penalty", type=float, nargs="+", default=[2e-3, 1e-3, 5e-4, 2.5e-4],
        help="of a mask, in nats per channel kept; of several the largest whose circuit reaches the floor",
    )  # fmt: skip
    parser.add_argument("--floor", type=float, default=0.9, help="faithfulness on training edits, surely")
    parser.add_argument("--value", default="mean", choices=("mean", "zero"), help="what a channel taken away becomes")
    parser.add_argument(
        "--rule", default="first", choices=("first", "evaluated", "all"), help="whose means, of a union"
    )
    parser.add_argument("--train-edits", type=int, default=2000, help="per operation, for the means and the masks")
    parser.add_argument("--asked", type=int, default=500, help="held-out edits that a circuit's faithfulness is of")
    parser.add_argument("--edits", type=int, default=100, help="of those, edits that unions and other circuits do")
    parser.add_argument("--draws", type=int, default=20, help="random circuits, and supersets of either part")
    parser.add_argument("--tested", type=int, default=20, help="unions put beside supersets, the largest gains first")
    parser.add_argument("--again", type=int, default=0, help="unions above all supersets that are asked once more")
    parser.add_argument("--again-edits", type=int, default=200, help="further held-out edits, and supersets, for those")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    recipe = EditTraining(
        steps=given.steps, batch_size=given.batch_size, d_model=given.width, d_ff=2 * given.width,
        seed=given.seed,
    )  # fmt: skip
    loaded = trained(given.out / "model", recipe)
    model, names = loaded.model, tuple(given.operations)
    splits = {o: recipe.edits(o) for o in names}
    train = {o: t[: given.train_edits] for o, (t, _) in splits.items()}
    asked = {o: h[: given.asked] for o, (_, h) in splits.items()}
    heldout = {o: h[: given.edits] for o, h in asked.items()}
    means = edit_means(model, train)
    rule = "zero" if given.value == "zero" else given.rule
    config = ModuleMaskConfig(
        value=given.value, penalty=tuple(given.penalty), floor=given.floor, steps=given.mask_steps, lr=given.mask_lr,
        seed=given.seed,
    )  # fmt: skip
    circuits, rows = {}, []
    for o in names:
        file, clock = given.out / "circuits" / f"{o}.safetensors", time.perf_counter()
        if file.is_file():
            circuits[o] = Circuit.load(file)
            if (was := circuits[o].record).config != config.model_dump(
                mode="json"
            ) or was.model_sha256 != model.sha256():
                sys.exit(f"{file} was found with other options or in another model; remove it or give another OUT.")
        else:
            circuits[o] = module_mask(
                model, o, train[o], config, name=loaded.name,
                progress=lambda step, n, loss, o=o: say(f"{o}: step {step} of {n}, {loss:.4f} nats"),
            )  # fmt: skip
            circuits[o].save(file)
        row = edit_faithfulness(model, circuits[o], asked[o], means, rule=rule, draws=given.draws, seed=given.seed)
        e = row.model_dump(mode="json")
        rows.append({
            "operation": o, "exact_match": loaded.record.details["exact_match"][o],
            "exact_match_here": exact_match(model, *encode(asked[o])), "nodes": circuits[o].n_nodes,
            "share": circuits[o].n_nodes / circuits[o].layout.n_nodes, "faithfulness": e["value"],
            "interval": e["interval"], "random": e["nulls"][0]["value"], "random_interval": e["nulls"][0]["interval"],
            "penalty": (found := circuits[o].record.details)["penalty"], "reached": found["reached"],
            "trials": found["trials"], "p_value": e["p_value"], "note": e["note"],
            "verdict": e["verdict"], "seconds": round(time.perf_counter() - clock, 1),
        })  # fmt: skip
        say(f"{o}: {rows[-1]}")
    crossed = cross_task(model, circuits, heldout, means, rule=rule)
    types = np.repeat(np.arange(len(model.config.layout().locations)), model.config.d_model)
    shared = np.full((4, len(names), len(names)), np.nan)
    for i, a in enumerate(circuits.values()):
        for j, b in enumerate(list(circuits.values())[:i]):
            tried = overlap_test([a.nodes, b.nodes], types, seed=given.seed)
            shared[:, i, j] = iou(a.nodes, b.nodes), tried.null, tried.p_value, iom(a.nodes, b.nodes)
    found = unions(
        model, circuits, heldout, means, rule=rule, draws=given.draws, seed=given.seed, tested=given.tested,
        progress=lambda done, n, best: say(f"unions: {done} of {n} operations, best gain {best:.3f}"),
    )  # fmt: skip
    tested = found[: given.tested]
    again = [
        once_more(
            model, circuits, u, splits[u.evaluated][1][given.edits : given.edits + given.again_edits], means, rule,
            given.again_edits // 2, given.seed,
        ) for u in [u for u in tested if u.beats_random][: given.again]
    ]  # fmt: skip
    report = {
        "model": {"parameters": loaded.record.details["parameters"], "train_seconds":
                  loaded.record.details["train_seconds"], "config": loaded.record.config},
        "masks": config.model_dump(mode="json"), "rule": rule, "circuits": rows, "operations": names,
        "faithful": listed(crossed.faithful), "apart": listed(crossed.apart), "exact": listed(crossed.exact),
        **dict(zip(("iou", "expected_iou", "overlap_p", "iom"), listed(shared), strict=True)),
        "unions": [u[:7] for u in found],
        "tested": [
            u._asdict() | {"gain": u.gain, "beats_random": u.beats_random, "evidence": union_evidence(
                u, circuits[u.first], given.edits, rule=rule, seed=given.seed).model_dump(mode="json")} for u in tested
        ],
        "again": [u._asdict() | {"gain": u.gain, "beats_random": u.beats_random} for u in again],
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    if given.json:
        print(json.dumps(report))
        return
    print(f"{report['model']['parameters']:,} parameters, trained in {report['model']['train_seconds']:.0f} s; "
          f"{circuits[names[0]].layout.n_nodes} channels; ablation by {given.value}, rule {rule}")  # fmt: skip
    print(f"\n{'operation':16}{'exact':>7}{'penalty':>9}{'nodes':>7}{'share':>7}{'F':>7}{'random':>8}{'p':>7}  verdict")
    for r in rows:
        print(f"{r['operation']:16}{r['exact_match']:7.3f}{r['penalty']:9g}{r['nodes']:7}{r['share']:7.2f}{r['faithfulness']:7.3f}"
              f"{r['random']:8.3f}{r['p_value']:7.3f}  {r['verdict']}; {r['note']}")  # fmt: skip
    grid("faithfulness, all tokens: circuit (row) on operation", names, names, crossed.faithful)
    grid("faithfulness, tokens that tell the operations apart", names, names, crossed.apart)
    grid("exact match", names, names, crossed.exact)
    grid("IoU", names, names, shared[0])
    grid("IoU of random circuits with as many channels of every module, mean of 999", names, names, shared[1])
    grid("p-value of the IoU among them", names, names, shared[2])
    grid("IoM", names, names, shared[3])
    gained = sum(u.gain >= 0.3 for u in found)
    print(f"\n{len(found)} unions, {gained} gain 0.3 or more; the first beside random supersets of either part")
    chosen(tested)
    if again:
        print(f"\nonce more, on {given.again_edits} further edits")
        chosen(again)
    print(f"\n{report['seconds']:.0f} s")


if __name__ == "__main__":
    main()
