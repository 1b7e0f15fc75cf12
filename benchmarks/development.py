"""How the circuit of a task changes along the training of a weight-sparse model.

    python benchmarks/development.py [--task else_elif] [--out runs/development] [--checkpoints 5] [--json]

Trains a small sparse model (width 64, one weight in 4, 1.5 million tokens of this machine's Python source, minutes on
an idle core), keeps its weights at so many steps of equal distance, each with reference means over the same
text, prunes the task's circuit in each, and compares those that reached the target (`gossamer compare --along`). The
command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gossamer import commands
from gossamer.commands.run_folder import read_record
from gossamer.corpora.tokenizer import load_tokenizer
from gossamer.models.files import read_safetensors, save_model
from gossamer.models.sparse import SparseTransformer
from gossamer.train.loop import train
from gossamer.train.measure import reference_means
from gossamer.train.presets import TrainConfig, preset
from gossamer.train.text import read_text

RECIPE = {
    "d_model": 64, "n_ctx": 64, "batch_size": 32, "density": 1 / 4, "embed_density": 0.5, "tokens": 1_536_000,
    "seed": 0,
}  # fmt: skip


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def keep(weights: Path, folder: Path, recipe: TrainConfig, text_folder: Path) -> None:
    """A model folder of the weights in a checkpoint, with reference means over the training text."""
    tensors, _ = read_safetensors(weights)
    model = SparseTransformer(recipe.model_config_(), seed=None)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if not k.startswith("adam.")})
    model.eval().requires_grad_(False)
    text = read_text(text_folder)
    reference = reference_means(model, text.train, recipe.n_ctx, text.excerpt)
    save_model(model, folder, tokenizer=load_tokenizer(text.folder), reference=reference, record={})


def checkpoints(out: Path, recipe: TrainConfig, n: int) -> list[Path]:
    """Model folders of n steps of equal distance, trained where they are not there yet."""
    final, every = out / "final", recipe.steps // n
    work = final.with_name(final.name + ".training")
    folders = [out / f"step-{every * (i + 1)}" for i in range(n)]
    for i, folder in enumerate(folders):
        if folder.exists():
            continue
        if not final.exists():
            train(final, recipe, threads=1, resume=work.exists(), checkpoint_every=10**9,
                  stop_after=every if i < n - 1 else None)  # fmt: skip
        keep(work / "checkpoint.safetensors", folder, recipe, work)
        say(f"kept {folder}")
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--task", default="else_elif")
    parser.add_argument("--out", type=Path, default=Path("runs/development"))
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows, reached = [], []
    for model in checkpoints(given.out, preset("tiny", **RECIPE), given.checkpoints):
        run = given.out / f"{model.name}-{given.task}"
        if not run.exists():
            commands.prune(model, given.task, out=run)
        found = read_record(run).result
        rows.append({
            "checkpoint": model.name, "reached": found.reached, "nodes": found.nodes, "edges": found.edges,
            "loss": found.loss_heldout_nats, "loss_of_model": found.loss_full_nats,
        })  # fmt: skip
        say(json.dumps(rows[-1]))
        reached += [run] if found.reached else []
    result = {"task": given.task, "checkpoints": rows}
    if len(reached) > 1:
        out = given.out / f"compare-{given.task}-{len(reached)}"
        report = commands.compare(reached, along=True, out=out)
        nodes = [r for r in report.overlap if (r.what, r.kind) == ("nodes", "all")]
        result |= {"finding": report.finding, "figure": report.png, "overlap": [
            {"a": r.a, "b": r.b, "iou": r.iou, "chance": r.chance, "p_value": r.p_value} for r in nodes
        ]}  # fmt: skip
    print(json.dumps(result) if given.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
