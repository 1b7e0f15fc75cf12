"""`gossamer prove`: train a max-of-K model, bound its accuracy, check a certificate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gossamer.commands.progress import Steps
from gossamer.commands.reports import ProofRow, ProveBoundReport, ProveCheckReport, ProveTrainReport
from gossamer.commands.run_folder import next_free
from gossamer.errors import BadInput, CorruptFile, options, require_new
from gossamer.evidence import save_evidence
from gossamer.models.max_of_k import load_max_of_k, shuffled_max_of_k
from gossamer.record import Record
from gossamer.train.max_of_k import MaxOfKTraining, train_into
from gossamer.verify.proof import (
    MOST,
    RUNGS,
    load_certificate,
    prove,
    require_rung,
    require_size,
    save_certificate,
)
from gossamer.verify.proof.checker import Rejected, check

EVIDENCE = "evidence.json"


def train_one(
    out: Path, *, k: int, seed: int, density: float, progress: Steps | None, recipe: Mapping[str, Any]
) -> ProveTrainReport:
    """See gossamer.commands.prove_train."""
    config = options(MaxOfKTraining, {"k": k, "seed": seed, "density": density, **recipe}, "recipe")
    require_new(out)
    loaded = train_into(out, config, progress=progress)
    assert loaded.record is not None
    d = loaded.record.details
    return ProveTrainReport(
        model=str(out), k=config.k, vocabulary=config.vocabulary, density=config.density, steps=config.steps,
        nonzero_weights=d["nonzero_weights"], total_weights=d["total_weights"],
        sampled_accuracy=d["sampled_accuracy"], samples=d["samples"], seconds=d["train_seconds"],
    )  # fmt: skip


def bound(
    model: str | Path, *, rung: str | Sequence[str], out: str | Path | None, seed: int, progress: Steps | None,
    say: Callable[[str], None],
) -> ProveBoundReport:  # fmt: skip
    """See gossamer.commands.prove_bound."""
    wanted = (rung,) if isinstance(rung, str) else tuple(rung)
    if not wanted:
        raise BadInput("Expected at least one rung, or all, got none.")
    everything = "all" in wanted
    for name in wanted:
        if name != "all":
            require_rung(name)
    if seed < 0:
        raise BadInput(f"Expected a seed of at least 0, got {seed}.")
    loaded = load_max_of_k(model)
    config, skipped = loaded.model.config, dict[str, str]()
    inputs = config.vocabulary**config.k
    rungs = list(RUNGS if everything else dict.fromkeys(wanted))
    if everything and inputs > MOST:
        rungs.remove("brute-force")
        skipped["brute-force"] = f"{inputs:,} inputs, {MOST:,} are what a minute allows"
        say(f"brute-force is skipped: {skipped['brute-force']}")
    for name in rungs:
        require_size(config, name)
    if out is not None:
        require_new(Path(out))
    folder = Path(out) if out is not None else next_free(Path("runs") / f"proofs-{loaded.name}")
    null = replace(loaded, name=f"{loaded.name} shuffled", model=shuffled_max_of_k(loaded.model, seed), sha256="")
    rows, evidence = [], []
    for name in rungs:
        started = time.perf_counter()
        certificate = prove(loaded, name, progress)
        seconds = time.perf_counter() - started
        shuffled = prove(null, name, progress).bound
        path = save_certificate(certificate, folder / f"{name}.json")
        evidence.append(certificate.evidence(shuffled, seed))
        rows.append(ProofRow(
            rung=name, certified=certificate.certified, inputs=inputs, bound=certificate.bound,
            flops=certificate.flops, unexplained_dimensions=certificate.unexplained_dimensions,
            witness_numbers=certificate.witness_numbers, shuffled=shuffled, seconds=seconds, certificate=str(path),
        ))  # fmt: skip
    record = Record.now(
        method="prove", config={"rungs": rungs}, seed=seed, model=loaded.name, model_sha256=loaded.sha256
    )
    save_evidence(evidence, folder / EVIDENCE, record)
    return ProveBoundReport(
        out=str(folder), model=loaded.name, k=config.k, vocabulary=config.vocabulary, rows=tuple(rows), skipped=skipped
    )


def check_one(certificate: Path, model: Path) -> ProveCheckReport:
    """See gossamer.commands.prove_check."""
    started = time.perf_counter()
    if not certificate.is_file():
        raise BadInput(f"Expected a certificate at {certificate}, found none; `gossamer prove bound MODEL` makes them.")
    if not model.exists():
        raise BadInput(f"Expected a max-of-K model folder or a .safetensors file at {model}, found nothing.")
    try:
        found = check(certificate, model)
    except Rejected as error:
        try:
            rung = load_certificate(certificate).rung
        except CorruptFile:
            rung = None
        return ProveCheckReport(
            certificate=str(certificate), model=str(model), accepted=False, reason=str(error), rung=rung,
            certified=None, verified=None, inputs=None, seconds=time.perf_counter() - started,
        )  # fmt: skip
    return ProveCheckReport(
        certificate=str(certificate), model=str(model), accepted=True, reason="", rung=found.rung,
        certified=found.certified, verified=found.verified, inputs=found.inputs, seconds=found.seconds,
    )  # fmt: skip
