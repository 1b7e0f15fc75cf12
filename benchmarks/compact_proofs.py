"""Compact proofs on max-of-4 over 64 tokens: every rung's bound on several seeds, and bounds against weight density.

    python benchmarks/compact_proofs.py --out FOLDER [--seeds 5] [--samples 1000000] [--json]
    python benchmarks/compact_proofs.py --out FOLDER --seeds 3 --densities 1 0.5 0.3 0.2 0.15 [--level 0.998] [--json]

Without --densities: per seed every rung's bound and times, the checker's word on each certificate, the same rungs on
the weights in a random order and on random weights, and sampled certified inputs that the model gets wrong.

With --densities: at each density and seed a model is trained with 10,000 steps, then 20,000, then 40,000 until brute
force proves an accuracy of at least --level; all densities have the same recipe (learning rate to 0 over the second
half). The data and the figure are FOLDER/density.json, .png and .svg. Run again with the same FOLDER to go on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from gossamer.models.max_of_k import LoadedMaxOfK, load_max_of_k
from gossamer.train.max_of_k import MaxOfKTraining, train_into
from gossamer.verify.proof import prove, save_certificate
from gossamer.verify.proof.certificate import Certificate, load_certificate

STEPS = (5_000, 10_000, 20_000)


def model_at(folder: Path, config: MaxOfKTraining) -> LoadedMaxOfK:
    """The trained model in a folder, trained unless it is there."""
    return load_max_of_k(folder) if folder.exists() else train_into(folder, config)


def certificate_of(loaded: LoadedMaxOfK, rung: str) -> Certificate:
    """The rung's certificate beside the model, made unless it is there."""
    path = loaded.weights.parent / "certificates" / f"{rung}.json"
    if path.is_file():
        return load_certificate(path)
    return load_certificate(save_certificate(prove(loaded, rung), path))


def at_density(out: Path, density: float, seed: int, level: float) -> LoadedMaxOfK | None:
    """The first model of more and more steps whose accuracy on 100,000 sampled inputs reaches the level, if one does."""
    for steps in STEPS:
        config = MaxOfKTraining(seed=seed, density=density, steps=steps, decay_from=0.5)
        loaded = model_at(out / f"density-{density:g}" / f"seed-{seed}-steps-{steps}", config)
        assert loaded.record is not None
        reached = loaded.record.details["sampled_accuracy"]
        print(f"density {density:g} seed {seed} steps {steps}: sampled accuracy {reached:.5f}", file=sys.stderr)
        if reached >= level:
            return loaded
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps models and results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--densities", type=float, nargs="+")
    parser.add_argument("--level", type=float, default=0.998, help="brute-force accuracy that counts as matched")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(given.seeds):
        for density in given.densities:
            at_density(given.out, density, seed, given.level)


if __name__ == "__main__":
    main()
