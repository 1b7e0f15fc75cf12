"""`gossamer discover prune` and `prune-edges`: the circuit of channels of a task, into a run folder."""

from __future__ import annotations

import time
from pathlib import Path

from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import PruneReport
from gossamer.commands.run_folder import next_free, write_run
from gossamer.commands.solved import at_channels, fitted, scores_of
from gossamer.discover import PruneConfig
from gossamer.errors import require_new
from gossamer.registry import method
from gossamer.tasks import load_task


def discover(
    name: str, model: str | Path, task: str | Path, config: PruneConfig, out: str | Path | None, device: str,
    task_seed: int, progress: Steps | None, say: Say,
) -> PruneReport:  # fmt: skip

    started = time.perf_counter()
    found_task = load_task(str(task), task_seed)
    loaded = at_channels(model, device, found_task)
    found_task = fitted(loaded, found_task, say)
    suffix = name.removeprefix("prune")
    folder = Path(out) if out else next_free(
        Path("runs") / f"{found_task.name}-{loaded.name.replace('/', '-')}{suffix}"
    )  # fmt: skip
    require_new(folder)
    full = scores_of(loaded, found_task.heldout)
    say(f"{loaded.name} answers {full[0]:.1%} of held-out pairs right; searching {len(config.k_coef)} masks")
    pruned = method[name](loaded, found_task, config, progress=progress)
    write_run(folder, pruned, loaded.source, str(task), task_seed, accuracy_full=full[0], loss_full=full[2])
    c = pruned.circuit
    return PruneReport(
        run=str(folder), model=loaded.name, task=found_task.name, reached=pruned.reached,
        target_loss=config.target_loss, nodes=c.n_nodes, edges=c.n_edges, loss_train=pruned.loss_train,
        loss_heldout=pruned.loss_heldout, loss_full=full[2], accuracy_circuit=pruned.accuracy_heldout,
        accuracy_full=full[0], trials=tuple(t._asdict() for t in pruned.trials), seconds=time.perf_counter() - started,
        edges_of_nodes=c.record.details.get("edges_of_node_circuit"),
    )  # fmt: skip
