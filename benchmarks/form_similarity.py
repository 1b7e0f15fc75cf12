"""QK and OV forms of weight-sparse models: along a training, between two trainings, sparse against dense, and circuits.

    python benchmarks/form_similarity.py --out FOLDER [--steps 1500] [--draws 20]
    python benchmarks/form_similarity.py --circuits RUN RUN ...

Two small weight-sparse models (width 64, 2 layers, density 1/8) are trained with seeds 0 and 1 on this machine's Python
source, a checkpoint kept every 50 steps (the training stops and goes on, as `gossamer train --resume` does). Printed:
the similarity of each checkpoint to the last, with the picture FOLDER/forms.png; of the two seeds' last models, and of
a model to its own copy in another order; of the shipped sparse models to their dense twins; each beside the same search
on shuffled weights. Run again with the same FOLDER to go on.

With --circuits: runs of `gossamer discover prune` on one model; the similarity of every two circuits, of one task and
of different ones, against the tasks shared out in 999 other ways and against shuffled weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gossamer.commands.run_folder import read_run, write_json
from gossamer.compare import Forms, form_matrix, form_similarity, forms_of
from gossamer.hypotheses import null_p_value
from gossamer.models import LoadedModel, from_pretrained
from gossamer.models.files import read_safetensors, write_safetensors
from gossamer.models.sparse import SparseTransformer
from gossamer.record import Record
from gossamer.show.similarity_figure import SimilarityData, write_similarity_figure
from gossamer.train.loop import train
from gossamer.train.presets import TrainConfig, preset

EVERY = 50


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def recipe(seed: int, steps: int) -> TrainConfig:
    return preset(
        "tiny", d_model=64, vocab_size=512, n_ctx=64, batch_size=32, density=1 / 8, embed_density=1 / 4,
        tokens=2048 * steps, seed=seed,
    )  # fmt: skip


def trained(out: Path, seed: int, steps: int) -> tuple[LoadedModel, list[int], list[Forms]]:
    """The model of a seed with the steps and forms of its checkpoints, trained unless they are there."""
    folder, kept = out / f"seed-{seed}", out / f"checkpoints-{seed}"
    work = folder.with_name(folder.name + ".training")
    kept.mkdir(parents=True, exist_ok=True)
    while not folder.exists():
        train(folder, recipe(seed, steps), threads=1, resume=work.exists(), checkpoint_every=10**9, stop_after=EVERY)
        tensors, meta = read_safetensors(work / "checkpoint.safetensors")
        own = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        write_safetensors(own, kept / f"{int(meta['step']):06d}.safetensors", {})
        say(f"seed {seed}: step {meta['step']} of {steps}")
    model = from_pretrained(folder)
    at, forms = [], []
    for path in sorted(kept.glob("*.safetensors")):
        checkpoint = SparseTransformer(model.model.config, seed=None)
        checkpoint.load_state_dict(read_safetensors(path)[0])
        at.append(int(path.stem))
        forms.append(forms_of(checkpoint))
    return model, at, forms


def report(name: str, a: Forms, b: Forms, draws: int) -> None:
    started = time.perf_counter()
    r = form_similarity(a, b, draws=draws)
    print(
        f"{name}: {r.value:.4f} (QK {r.qk:.4f}, OV {r.ov:.4f}; as it is {r.as_is:.4f}); shuffled "
        f"{r.null:.4f} [{r.null_interval[0]:.4f}, {r.null_interval[1]:.4f}], p {r.p_value:.3f} of {r.smallest:.3f}, "
        f"{time.perf_counter() - started:.0f} s"
    )


def circuits(runs: Sequence[Path], draws: int) -> None:
    found = [read_run(run) for run in runs]
    forms = [forms_of(r.model, r.circuit) for r in found]
    tasks = np.array([r.task.name for r in found])
    matrix = form_matrix(forms).numpy()
    for run, row in zip(runs, matrix, strict=True):
        print(" ".join(f"{v:5.2f}" for v in row) + f"  {run.name}")
    above = ~np.isnan(matrix) & np.triu(np.ones_like(matrix, dtype=bool), 1)

    def means(names: np.ndarray) -> tuple[float, float]:
        same = names[:, None] == names
        return float(matrix[above & same].mean()), float(matrix[above & ~same].mean())

    within, between = means(tasks)
    rng = np.random.default_rng(0)
    gaps = [np.subtract(*means(rng.permutation(tasks))) for _ in range(999)]
    p, smallest = null_p_value(within - between, gaps)
    null = [float(form_matrix([f, f.shuffled(i)])[0, 1]) for f in forms for i in range(draws)]
    print(
        f"{found[0].model.name}: within a task {within:.4f}, between {between:.4f}, p {p:.3f} (least {smallest:.3f}); "
        f"shuffled weights {np.nanmean(null):.4f}, highest {np.nanmax(null):.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder that keeps the models")
    parser.add_argument("--circuits", type=Path, nargs="+", help="run folders of one model")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--draws", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.circuits:
        return circuits(given.circuits, given.draws)
    if given.out is None:
        parser.error("expected --out FOLDER or --circuits RUN ...")
    last = []
    for seed in (0, 1):
        model, at, forms = trained(given.out, seed, given.steps)
        matrix = form_matrix(forms)
        last.append(forms[-1])
        to_last = {step: round(float(v), 3) for step, v in zip(at, matrix[:, -1], strict=True)}
        rises = int((matrix[1:, -1] > matrix[:-1, -1]).sum())
        shuffled = [float(form_matrix([forms[-1], forms[-1].shuffled(i)])[0, 1]) for i in range(given.draws)]
        finding = f"Similarity to the last checkpoint rises at {rises} of {len(at) - 1} checkpoints."
        loss = model.record["details"]["validation_loss_nats"]
        print(f"seed {seed}, validation loss {loss:.3f}: {finding} {to_last}")
        record = Record.now(method="form-similarity", config={"steps": given.steps}, seed=seed)
        data = SimilarityData(
            name=f"seed {seed}", measure="QK and OV forms", finding=finding, steps=tuple(at),
            matrix=tuple(tuple(row) for row in matrix.tolist()), curves={},
            null=("weights in a random order", sum(shuffled) / len(shuffled)),
            record=record.model_dump(mode="json"),
        )  # fmt: skip
        write_json(data, given.out / f"forms-{seed}.json")
        write_similarity_figure(data, given.out / f"forms-{seed}")
    report("seed 0 and seed 1", *last, given.draws)
    for sparse, dense in (("tiny", "tiny-dense"), ("small", "small-dense")):
        own, twin = (forms_of(from_pretrained(m)) for m in (sparse, dense))
        report(f"{sparse} and {dense}", own, twin, given.draws)
        report(f"{sparse} and itself", own, own, given.draws)


if __name__ == "__main__":
    main()
