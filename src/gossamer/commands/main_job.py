"""`gossamer demo`: prune, verify and show the shipped model's circuit, and find that of its dense twin."""

from __future__ import annotations

import time
from pathlib import Path

from gossamer import commands
from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import DemoReport
from gossamer.commands.run_folder import next_free
from gossamer.models import shipped_models

K_COEF = (4e-3, 6e-3)  # half of the default search: the demo finds two circuits in about a minute


def run_demo(out: Path | None, model: str, task: str, progress: Steps | None, say: Say) -> DemoReport:
    """See gossamer.commands.demo."""
    started = time.perf_counter()
    folder = out or next_free(Path("runs") / "demo")
    found = commands.prune(model, task, out=folder, progress=progress, say=say, k_coef=K_COEF)
    trial = commands.verify(folder, quick=True, say=say)
    twin, dense = f"{model}-dense", None
    if twin in shipped_models():
        beside = next_free(folder.with_name(f"{folder.name}-dense"))
        dense = commands.prune(twin, task, out=beside, progress=progress, say=say, k_coef=K_COEF)
    page = commands.show(folder, twin=dense.run if dense else None, say=say)
    by_name = {e.claim.split(":")[0]: e for e in trial.evidence}
    necessity, sufficiency = by_name["necessity"], by_name["sufficiency"]
    return DemoReport(
        task=found.task, model=found.model, accuracy_full=found.accuracy_full, accuracy_circuit=found.accuracy_circuit,
        nodes=found.nodes, edges=found.edges, reached=found.reached, loss_full=found.loss_full,
        loss_circuit=found.loss_heldout, necessity_loss=necessity.value or 0.0,
        random_same_size_loss=necessity.nulls[0].value or 0.0, random_circuit_loss=sufficiency.nulls[0].value or 0.0,
        twin_nodes=dense.nodes if dense else None, twin_edges=dense.edges if dense else None,
        twin_loss=dense.loss_heldout if dense else None, twin_reached=dense.reached if dense else None,
        verdicts={name: e.verdict for name, e in by_name.items()}, run=str(folder), page=page.page,
        seconds=time.perf_counter() - started,
    )  # fmt: skip
