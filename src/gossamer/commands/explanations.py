"""`gossamer binarise` and `explain roles`: what the nodes of a run's circuit and the heads of a decoder do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import BinariseReport, BinaryNodeReport, RolesReport
from gossamer.commands.run_folder import BINARISED, read_run, write_json
from gossamer.errors import Unsupported
from gossamer.explain import binarise, binarise_config, head_roles, head_roles_config
from gossamer.models import LoadedModel, any_model
from gossamer.subject import require_model_of
from gossamer.tasks import load_task


def binarise_run(
    run: Path, *, model: str | None, device: str, progress: Steps | None, say: Say, options: dict[str, Any]
) -> BinariseReport:
    """See gossamer.commands.binarise."""
    started = time.perf_counter()
    config = binarise_config(**options)
    r = read_run(run, model, device)
    require_model_of(r.circuit.record, r.model)
    if r.circuit.granularity == "edge":
        raise Unsupported("binarising a circuit with cut edges", "it is not built", "the circuit of `prune`")
    say(f"two values for each of {r.circuit.n_nodes} nodes, trained on {len(r.task.train)} pairs")
    target = r.about.result.target_loss_nats
    found = binarise(r.weight_sparse, r.task, r.circuit, target_loss=target, config=config, progress=progress)
    loss, accuracy = found.evidence
    report = BinariseReport(
        run=str(run), model=r.model.name, task=r.task.name, config=config.model_dump(mode="json"),
        loss_before=found.loss_before, loss_after=loss.value or 0.0, accuracy_before=found.accuracy_before,
        accuracy_after=accuracy.value or 0.0, evidence=found.evidence,
        nodes=tuple(BinaryNodeReport(**{**n._asdict(), "site": str(n.site)}) for n in found.nodes),
        seconds=time.perf_counter() - started,
    )  # fmt: skip
    write_json(report, r.folder / BINARISED)
    return report


def roles_of(
    model: str | Path, task: str | Path, *, device: str, dtype: str, task_seed: int, progress: Steps | None, say: Say,
    options: dict[str, Any],
) -> RolesReport:  # fmt: skip
    """See gossamer.commands.roles."""
    started = time.perf_counter()
    config = head_roles_config(**options)
    asked = load_task(str(task), task_seed)
    loaded = any_model(model, device, dtype)
    if isinstance(loaded, LoadedModel):
        raise Unsupported(
            f"head roles of {loaded.name}", "a weight-sparse model's heads are read channel by channel",
            "a Hugging Face decoder; or `gossamer show` of a run",
        )  # fmt: skip
    asked = loaded.fitting(asked, positions="last")
    say(f"{len(loaded.parts.layers) * loaded.parts.n_heads} heads of {loaded.name} on {asked.name}")
    found = head_roles(loaded, asked, config, progress=progress)
    heads = [
        {
            "head": role.head, "copy_score": role.copy_score._asdict(),
            "next_score": role.next_score and role.next_score._asdict(),
            "attention": {label: score._asdict() for label, score in role.attention.items()},
        } for role in found.heads
    ]  # fmt: skip
    return RolesReport.model_validate({
        "model": loaded.name, "task": asked.name, "heads": heads, "lens": [point._asdict() for point in found.lens],
        "record": found.record.model_dump(mode="json"), "seconds": time.perf_counter() - started,
    })  # fmt: skip
