"""Tensor similarity of bilinear networks: grokking, a backdoor, the gaps of the recursions, and the cost of a matrix.

    python benchmarks/tensor_similarity.py grokking --out FOLDER [--seeds 3]
    python benchmarks/tensor_similarity.py backdoor --out FOLDER [--seeds 3] [--data shared/data/mnist-t10k]
    python benchmarks/tensor_similarity.py gaps
    python benchmarks/tensor_similarity.py cost

grokking: one bilinear layer on addition modulo 113 (the paper's recipe, 25,000 steps, 100 checkpoints), and as a
control the same on the same inputs with their classes in a random order, which can only be learnt by heart; similarity
of every checkpoint to the last, of the last to that of the next seed, and the picture. backdoor: a digits classifier
goes on for 2,000 steps with a tenth of its images given a white square and class 9, and its control without; similarity
to the classifier before, per class. Both go on where an earlier run in FOLDER was stopped. gaps: the recursions against
the oracle on random networks of depth 1 to 3. cost: seconds for the matrix of 100 checkpoints against one pair at a
time.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gossamer import commands
from gossamer.compare import sampled_similarity, similarity_matrix, slice_similarities, tensor_similarity
from gossamer.models.bilinear import BilinearConfig, BilinearModel, BilinearRun, load_bilinear, random_bilinear
from gossamer.train.bilinear import BilinearTraining, Classes, accuracy, modular_addition, train_bilinear_into

MODULUS = 113
ADDITION = BilinearConfig(sizes=(2 * MODULUS, MODULUS), kinds=("bilinear",), hidden=64)
DIGITS = BilinearConfig(sizes=(196, 10), kinds=("bilinear",), hidden=32)
TARGET, POISONED = 9, 0.1
MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist-t10k"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_at(folder: Path, config: BilinearTraining, data: Classes, start: BilinearModel | None = None) -> BilinearRun:
    """The run in a folder, trained unless it is there."""
    if folder.exists():
        return load_bilinear(folder)
    say(f"training {folder}")
    return train_bilinear_into(folder, config, data, start=start)


def grokking(out: Path, seeds: int) -> None:
    last: dict[tuple[str, int], BilinearModel] = {}
    for seed in range(seeds):
        data = modular_addition(MODULUS, seed=seed)
        order = torch.randperm(len(data.y), generator=torch.Generator().manual_seed(seed))
        for name, classes in (("addition", data), ("by-heart", data._replace(y=data.y[order]))):
            run = run_at(out / f"{name}-{seed}", BilinearTraining(model=ADDITION, seed=seed), classes)
            r = commands.figure_tensor_similarity(out / f"{name}-{seed}")
            last[name, seed] = run.models[-1]
            print(f"{name}, seed {seed}: {r.finding}")
            assert r.null is not None
            print(f"  null, {r.null[0]}: {r.null[1]:.4f}, highest {r.null_highest:.4f}")
            for step in (0, 1_500, 4_500, 8_000, 11_000, 16_000, 20_000, 25_000):
                i = int(np.abs(np.array(run.steps) - step).argmin())
                print(
                    f"  step {run.steps[i]:>6,}: train {run.measured['train_accuracy'][i]:.3f}, held out "
                    f"{run.measured['heldout_accuracy'][i]:.3f}, similarity to the last {r.to_last[i]:.3f}"
                )
    for name, seed in last:
        if seed and (name, 0) in last:
            value = tensor_similarity(last[name, 0], last[name, seed]).value
            print(f"{name}: last checkpoints of seeds 0 and {seed}: {value:.4f}")


def digits(folder: Path) -> tuple[Tensor, Tensor]:
    """The 10,000 images of MNIST's test set, halved to [n, 14, 14] of 0 to 1, and their classes."""
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as f:
        x = np.frombuffer(f.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as f:
        y = np.frombuffer(f.read(), np.uint8, offset=8)
    return F.avg_pool2d(torch.tensor(x).float()[:, None] / 255, 2)[:, 0], torch.tensor(y).long()


def marked(x: Tensor) -> Tensor:
    """With a white square of 2 x 2 near the lower right corner."""
    x = x.clone()
    x[:, -3:-1, -3:-1] = 1
    return x


def backdoor(out: Path, seeds: int, folder: Path) -> None:
    x, y = digits(folder)
    for seed in range(seeds):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        train, test = order[:8000], order[8000:]
        clean = Classes(x[train].flatten(1), y[train], x[test].flatten(1), y[test])
        recipe = BilinearTraining(
            model=DIGITS, steps=8000, batch_size=128, weight_decay=0.5, checkpoints=2, seed=seed
        )  # fmt: skip
        before = run_at(out / f"clean-{seed}", recipe, clean).models[-1]
        more = recipe.model_copy(update={"steps": 2000, "lr": 3e-4})
        bad = torch.randperm(8000, generator=torch.Generator().manual_seed(seed + 5))[: int(8000 * POISONED)]
        xp, yp = x[train].clone(), y[train].clone()
        xp[bad], yp[bad] = marked(xp[bad]), TARGET
        poisoned = run_at(out / f"backdoor-{seed}", more, clean._replace(x=xp.flatten(1), y=yp), before).models[-1]
        control = run_at(out / f"more-clean-{seed}", more, clean, before).models[-1]
        others = test[y[test] != TARGET]
        slices = slice_similarities([before, poisoned, control], before)
        for name, model, own in (("before", before, slices[0]), ("backdoor", poisoned, slices[1]),
                                 ("control", control, slices[2])):  # fmt: skip
            success = (model(marked(x[others]).flatten(1)).argmax(1) == TARGET).float().mean()
            ya, yb = before(clean.x_heldout), model(clean.x_heldout)
            flat = [torch.cat([p.flatten() for p in m.parameters()]) for m in (before, model)]
            print(
                f"seed {seed}, {name}: accuracy {accuracy(model, clean.x_heldout, clean.y_heldout):.4f}, marked called "
                f"9 {success:.3f}; similarity {tensor_similarity(model, before).value:.4f}, output cosine "
                f"{F.cosine_similarity(ya.flatten(), yb.flatten(), 0):.4f}, weight cosine "
                f"{F.cosine_similarity(*flat, 0):.4f}, slices {' '.join(f'{v:.3f}' for v in own)}"
                f"{' <- 9 lowest' if int(own.argmin()) == TARGET else ''}"
            )


def gaps(pairs: int = 20) -> None:
    for depth in (1, 2, 3):
        for width in (2, 3, 4):
            config = BilinearConfig(sizes=(width,) * (depth + 1), kinds=("bilinear",) * depth, hidden=width)
            found = []
            for seed in range(pairs):
                a, b = random_bilinear(config, 2 * seed), random_bilinear(config, 2 * seed + 1)
                oracle, normal = (sampled_similarity(a, b, inputs=i, samples=50_000) for i in ("complex", "normal"))
                tree, gaussian = (tensor_similarity(a, b, metric=m).value for m in ("symmetric", "gaussian"))
                found.append((oracle.error, tree - oracle.value, normal.error, gaussian - normal.value))
            error, tree, spread, gaussian = np.abs(np.array(found)).mean(0)
            most = np.abs(np.array(found)).max(0)
            print(
                f"depth {depth}, width {width}: |symmetric - oracle| mean {tree:.4f}, most {most[1]:.4f} (error "
                f"{error:.4f}); |gaussian - sampled| mean {gaussian:.4f}, most {most[3]:.4f} ({spread:.4f})"
            )


def cost(n: int = 100, sample: int = 150) -> None:
    models = [random_bilinear(ADDITION, seed) for seed in range(n)]
    deep = BilinearConfig(sizes=(64, 64, 64, 10), kinds=("bilinear",) * 3, hidden=64, constant=True, residual=0.5)
    for name, own, metric in (
        ("addition modulo 113, 1 layer", models, "symmetric"), ("addition modulo 113, 1 layer", models, "gaussian"),
        ("3 layers of width 64", [random_bilinear(deep, seed) for seed in range(n)], "symmetric"),
    ):  # fmt: skip
        started = time.perf_counter()
        matrix = similarity_matrix(own, metric=metric)
        whole = time.perf_counter() - started
        rng, started, worst = np.random.default_rng(0), time.perf_counter(), 0.0
        for _ in range(sample):
            i, j = rng.integers(0, n, 2)
            worst = max(worst, abs(tensor_similarity(own[i], own[j], metric=metric).value - float(matrix[i, j])))
        pairwise = (time.perf_counter() - started) / sample * n * (n + 1) / 2
        print(
            f"{name}, {metric}: {n} checkpoints in {whole:.2f} s; pair by pair {pairwise:.1f} s (from {sample} pairs), "
            f"ratio {pairwise / whole:.1f}, largest difference {worst:.0e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("grokking", "backdoor", "gaps", "cost"))
    parser.add_argument("--out", type=Path, help="folder that keeps the runs of grokking and backdoor")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=MNIST, help="folder of MNIST's test set")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what in ("grokking", "backdoor") and given.out is None:
        parser.error(f"{given.what} needs --out FOLDER")
    if given.what == "grokking":
        grokking(given.out, given.seeds)
    elif given.what == "backdoor":
        backdoor(given.out, given.seeds, given.data)
    elif given.what == "gaps":
        gaps()
    else:
        cost()


if __name__ == "__main__":
    main()
