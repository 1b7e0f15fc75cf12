"""Compact proofs (Gross et al. 2024): certified lower bounds on a max-of-K model's accuracy over all inputs.

A rung is a way to prove; LADDER lists those where each is shorter than the one before, RUNGS all. `prove` searches and
counts and returns a certificate; checker.py, which shares no code with it, says whether a certificate holds.

When it lies: a bound far below the accuracy says that the proof is loose, or that the model is not the mechanism the
proof is about, and not which. It says nothing about other distributions of inputs, and nothing about the answers of a
float32 run on inputs whose two best logits are closer than its rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from gossamer.errors import BadInput, Unsupported, nearest
from gossamer.models.max_of_k import LoadedMaxOfK, MaxOfK, MaxOfKConfig
from gossamer.record import Record
from gossamer.verify.proof.brute_force import MOST, brute_force
from gossamer.verify.proof.cells import Cells
from gossamer.verify.proof.certificate import Certificate, Witnesses, load_certificate, save_certificate
from gossamer.verify.proof.cost import SUB_CUBIC, Cost, cost
from gossamer.verify.proof.cubic import cubic
from gossamer.verify.proof.decomposition import Parts
from gossamer.verify.proof.per_output import per_output
from gossamer.verify.proof.sub_cubic import Direct, Found, Scores, sub_cubic

RUNGS = (
    "brute-force", "per-output", "cubic",
    *(f"{SUB_CUBIC}{s}.{d}" for s in ("exact", "rank-1", "factored", "svd") for d in ("exact", "factored")),
)  # fmt: skip
LADDER = (
    "brute-force", "per-output", "cubic", "sub-cubic.exact.exact", "sub-cubic.rank-1.factored",
    "sub-cubic.factored.factored",
)  # fmt: skip

__all__ = [
    "LADDER", "MOST", "RUNGS", "Cells", "Certificate", "Cost", "Found", "Parts", "cells_of", "cost", "load_certificate",
    "prove", "require_rung", "require_size", "save_certificate",
]  # fmt: skip
LARGEST = 1024  # of any dimension: what the checker's margins are made for
LARGEST_CUBE = 512  # tokens: a table of v^3 float64 is then 1 GiB


def require_rung(rung: str) -> None:
    """BadInput for a rung that is none."""
    if rung not in RUNGS:
        raise BadInput(f"There is no rung {rung!r}: {nearest(rung, RUNGS)}")


def require_size(config: MaxOfKConfig, rung: str) -> None:
    """Unsupported for a model that this rung, or the checker, is not made for."""
    if (largest := max(max(shape) for shape in config.shapes().values())) > LARGEST:
        raise Unsupported(
            f"a proof of matrices of up to {largest} rows or columns", f"the checker reads at most {LARGEST}",
            f"a vocabulary and widths of at most {LARGEST}",
        )  # fmt: skip
    if rung != "brute-force" and config.vocabulary > LARGEST_CUBE:
        raise Unsupported(
            f"the rung {rung} with a vocabulary of {config.vocabulary}",
            f"its tables hold v^3 numbers, v being at most {LARGEST_CUBE}",
            f"brute-force where v^K is at most {MOST:,}, or a smaller vocabulary",
        )  # fmt: skip


def _sub_cubic(parts: Parts, rung: str) -> Found:
    scores, direct = rung.removeprefix(SUB_CUBIC).split(".")
    return sub_cubic(parts, scores=cast(Scores, scores), direct=cast(Direct, direct))


def cells_of(model: MaxOfK, rung: str, progress: Callable[[int, int, float], None] | None = None) -> Cells:
    """The inputs that a rung certifies; of every rung but brute force."""
    require_rung(rung)
    parts = Parts.of(model)
    if rung == "brute-force":
        raise BadInput("Expected a rung with cells, brute force has none.")
    if rung == "per-output":
        return per_output(parts, progress)
    return cubic(parts) if rung == "cubic" else _sub_cubic(parts, rung).cells()


def prove(
    loaded: LoadedMaxOfK, rung: str, progress: Callable[[int, int, float], None] | None = None
) -> Certificate:  # fmt: skip
    """The certificate of one rung. progress: called with (step, steps, share certified).

    Errors: BadInput for an unknown rung, Unsupported for brute force over more than 2^25 inputs and for models that are
    too large: see require_size.
    """
    require_rung(rung)
    require_size(loaded.model.config, rung)
    model = loaded.model
    k, v, found = model.config.k, model.config.vocabulary, None
    if rung == "brute-force":
        certified = brute_force(Parts.of(model), progress)
    elif rung.startswith(SUB_CUBIC):
        found = _sub_cubic(Parts.of(model), rung)
        certified = found.cells().count()
    else:
        certified = cells_of(model, rung, progress).count()
    witnesses = None if found is None else Witnesses(
        gaps=found.gaps.tolist(), a=None if found.a is None else found.a.tolist(),
        b=None if found.b is None else found.b.tolist(),
    )  # fmt: skip
    length = cost(model, rung)
    return Certificate(
        model=loaded.name, model_sha256=loaded.sha256, k=k, v=v, rung=rung, certified=certified, inputs=v**k,
        bound=certified / v**k, flops=length.flops, unexplained_dimensions=length.unexplained_dimensions,
        witness_numbers=witnesses.numbers if witnesses else 0, witnesses=witnesses,
        record=Record.now(
            method="prove", config={"rung": rung}, seed=0, model=loaded.name, model_sha256=loaded.sha256
        ),
    )  # fmt: skip
