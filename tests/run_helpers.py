"""Run folders by hand, as `gossamer discover prune` would have left them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from toys import planted_task
from verify_helpers import circuit_of

from gossamer.commands.run_folder import CIRCUIT, RunRecord, RunResult, write_json
from gossamer.models import LoadedModel
from gossamer.scores import Scores
from gossamer.tasks import load_task


def run_of(folder: Path, name: str, model: LoadedModel, source: Path, sites: tuple[str, ...], seed: int) -> Path:
    """A run folder with this circuit, as `discover prune` would have left it."""
    task = planted_task(n=8, seed=seed)
    file = folder / f"{name}.jsonl"
    lines = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer}
        for e in (*task.train, *task.heldout)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    asked = load_task(str(file), 0)
    made = circuit_of(model, sites)
    record = made.record.model_copy(
        update={"task": asked.name, "task_version": asked.version, "config": {"target_loss": 0.15}}
    )
    run = folder / "runs" / name
    run.mkdir(parents=True)
    replace(made, record=record).save(run / CIRCUIT)
    Scores(layout=made.layout, values=np.zeros(made.layout.n_nodes), record=record).save(run / "scores.safetensors")
    result = RunResult(
        reached=True, target_loss_nats=0.15, loss_train_nats=0.1, loss_heldout_nats=0.1, loss_full_nats=0.1,
        accuracy_circuit=1.0, accuracy_full=1.0, nodes=made.n_nodes, edges=made.n_edges, curve=(), trials=(),
    )  # fmt: skip
    (run / file.name).write_text(file.read_text())
    write_json(
        RunRecord(record=record, result=result, model_source=str(source), task_source=file.name), run / "record.json"
    )
    return run
