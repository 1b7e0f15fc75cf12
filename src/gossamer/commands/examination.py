"""`gossamer doctor`: load a model, say what examining it costs, examine it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.commands.reports import DoctorReport
from gossamer.commands.solved import fitted
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import Evidence
from gossamer.models import LoadedModel, any_model, checked_device
from gossamer.tasks import load_task
from gossamer.train.estimate import available_memory
from gossamer.verify.doctor import doctor, patient_of

if TYPE_CHECKING:
    from gossamer.models.huggingface import Decoder

PARTS = 30  # times a look at all that methods ask for, beside one per single edge: what the checks cost together


def examine(
    model: str | Path, *, task: str | Path | None, device: str, dtype: str, pairs: int, tokens: int, edges: int,
    seed: int, progress: Callable[[int, int, float], None] | None, say: Callable[[str], None],
) -> DoctorReport:  # fmt: skip
    """See gossamer.commands.doctor."""
    started = time.perf_counter()
    if seed < 0:
        raise BadInput(f"Expected a seed of at least 0, got {seed}.")
    checked_device(device)
    asked = None if task is None else load_task(str(task))
    try:
        loaded = _load(model, device, dtype)
    except Unsupported as error:
        return DoctorReport(
            model=Path(str(model)).name, passed=False, prompts="none", parameters=None, device=device, dtype=None,
            evidence=(_refused(error),), seconds=time.perf_counter() - started,
        )  # fmt: skip
    batch = None
    if asked is not None:
        asked = fitted(loaded, asked, say)
        batch = loaded.encode(asked.train[:pairs])
    patient = patient_of(
        loaded, batch, n_pairs=pairs, tokens=tokens, draws=edges, seed=seed, free=available_memory
    )  # fmt: skip
    before = time.perf_counter()
    with contextlib.suppress(RuntimeError, Unsupported):  # a model that breaks here fails its checks below
        _ = patient.seen
    seconds = (PARTS + edges) * (time.perf_counter() - before)
    say(
        f"examining {loaded.name} on {device}: {patient.n_parameters:,} parameters, {patient.prompts}, about "
        f"{seconds:.0f} s; copies of up to {8 * patient.n_parameters / 2**30:.2f} GiB where they fit"
    )
    evidence = doctor(patient, progress)
    return DoctorReport(
        model=loaded.name, passed=all(e.verdict != "fail" for e in evidence), prompts=patient.prompts,
        parameters=patient.n_parameters, device=device, dtype=str(patient.dtype).removeprefix("torch."),
        evidence=evidence, seconds=time.perf_counter() - started,
    )  # fmt: skip


def _load(model: str | Path, device: str, dtype: str) -> LoadedModel | Decoder:
    """A weight-sparse model, or a decoder in `dtype`."""
    found = any_model(model, device, dtype)
    if isinstance(found, LoadedModel) and dtype != "float32":
        raise BadInput(f"Expected dtype float32 for the weight-sparse model {found.name}, got {dtype}.")
    return found


def _refused(error: Unsupported) -> Evidence:
    return Evidence(
        claim="architecture: a decoder whose parts can be found and proven", value=None, unit="", n=0, verdict="fail",
        methodology=None, threshold="fails where who writes to and who reads the residual stream cannot be told",
        note=str(error),
    )  # fmt: skip
