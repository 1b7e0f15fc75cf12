"""`gossamer sweep prune`: a search per task and seed, its best circuits as run folders."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gossamer.commands.reports import SweepReport, SweepRow
from gossamer.commands.run_folder import RECORD, read_record, write_json, write_run
from gossamer.commands.solved import fitted, scores_of
from gossamer.discover import PruneConfig, Pruned, prune_config
from gossamer.discover.sweep import SPACE, Size, SweepConfig, Swept, open_storage, sweep
from gossamer.errors import BadInput, CorruptFile, require_new
from gossamer.models import LoadedModel, from_pretrained
from gossamer.task import Task
from gossamer.tasks import load_task

START, REPORT, JOURNAL = "start.json", "sweep.json", "journal.log"


def run_sweep(
    model: str | Path, tasks: Sequence[str | Path], *, out: Path, trials: int, batch: int, seeds: int,
    target_losses: tuple[float, ...], storage: str | None, device: str, base: dict[str, Any],
    progress: Callable[[int, int, float], None] | None, say: Callable[[str], None],
) -> SweepReport:  # fmt: skip
    """See gossamer.commands.sweep_prune."""
    started = time.perf_counter()
    fixed = checked_search(tasks, trials, batch, seeds, target_losses, base)
    asked = [(str(name), load_task(str(name))) for name in tasks]
    loaded = from_pretrained(model, device)
    found = [(name, fitted(loaded, task, say)) for name, task in asked]
    for _, task in found:
        loaded.encode(task.train)  # every pair of every task is checked before the first search
    database = open_storage(storage) if storage else None
    start = {"model": loaded.hashes(), "base": fixed.model_dump(mode="json"), "target_losses": target_losses}
    open_folder(out, start, "sweep")
    database = database or open_storage(str(out / JOURNAL))
    rows: list[SweepRow] = []
    done = 0
    for source, task in found:
        whole = scores_of(loaded, task.heldout)
        for seed in range(fixed.seed, fixed.seed + seeds):
            config = SweepConfig(
                trials=trials, batch=batch, target_losses=target_losses, base=fixed.model_copy(update={"seed": seed})
            )
            say(f"{task.name}, seed {seed}: {trials} masks, {batch} per pass")
            swept = sweep(
                loaded, task, config, database, worker=f"{socket.gethostname()}:{out.resolve()}",
                keep=_keeper(out, loaded, source, task, seed, whole), progress=progress,
            )  # fmt: skip
            done += swept.finished
            rows += _rows(swept, out, task, seed)
            report = SweepReport(
                out=str(out), model=loaded.name, trials=done, best=tuple(rows), seconds=time.perf_counter() - started,
                validation_loss_nats=loaded.record.get("details", {}).get("validation_loss_nats"),
            )  # fmt: skip
            write_json(report, out / REPORT)
    return report


def _keeper(
    out: Path, model: LoadedModel, source: str, task: Task, seed: int, whole: tuple[float, float, float]
) -> Callable[[Size, Pruned], None]:
    """What writes the best circuit of a target as its run folder."""

    def keep(size: Size, found: Pruned) -> None:
        folder = _folder(out, task, seed, size.target_loss)
        write_run(
            folder, found, model.source, source, 0, accuracy_full=whole[0], loss_full=whole[2], replace=True
        )  # fmt: skip

    return keep


def checked_search(
    tasks: Sequence[str | Path], trials: int, batch: int, seeds: int, target_losses: Sequence[float],
    base: dict[str, Any],
) -> PruneConfig:  # fmt: skip
    """What a sweep does not search, as a configuration; BadInput for a search that cannot be made."""
    if not tasks or min(trials, batch, seeds) < 1 or not target_losses or min(target_losses) <= 0:
        raise BadInput(
            "Expected at least one task, trial, seed and mask per pass and target losses above 0, got "
            f"{len(tasks)} tasks, {trials} trials, {seeds} seeds, {batch} per pass, targets {list(target_losses)}."
        )
    searched = sorted(k for k in base if k in (*SPACE, "beta2", "target_loss"))
    if searched:
        raise BadInput(f"Expected fields that a sweep does not search, got {', '.join(searched)}; leave them out.")
    return prune_config(**base)


def read_start(folder: Path, what: str) -> dict[str, Any]:
    """What a folder of resumable work was started with; `what` names the work in errors."""
    try:
        stored: dict[str, Any] = json.loads((folder / START).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadInput(f"{folder} exists and is no {what} (it has no {START}); choose another --out.") from error
    except ValueError as error:
        raise CorruptFile(f"{folder / START} is damaged; remove {folder} and start the {what} again.") from error
    return stored


def open_folder(out: Path, start: dict[str, Any], what: str) -> None:
    """Make `out`, or check that what is there is a `what` with the same start."""
    if not out.exists():
        require_new(out)
        out.mkdir(parents=True)
        write_json(start, out / START)
        return
    stored = read_start(out, what)
    start = json.loads(json.dumps(start))
    differ = [k for k in dict.fromkeys((*start, *stored)) if stored.get(k) != start.get(k)]
    if differ:
        raise BadInput(f"{out} was started with another {', another '.join(differ)}; choose another --out.")


def _folder(out: Path, task: Task, seed: int, target_loss: float) -> Path:
    return out / f"{task.name}-seed{seed}-loss{target_loss:g}"


def _rows(swept: Swept, out: Path, task: Task, seed: int) -> list[SweepRow]:
    rows = []
    for size, config in swept.best:
        folder = _folder(out, task, seed, size.target_loss)
        result = read_record(folder).result if (folder / RECORD).is_file() else None
        here = result is not None and (result.nodes, result.edges) == (size.nodes, size.edges)
        rows.append(
            SweepRow(
                task=task.name,
                seed=seed,
                **size.model_dump(),
                config=config.model_dump(mode="json"),
                loss_heldout=result.loss_heldout_nats if result is not None and here else None,
                run=str(folder) if here else None,
            )
        )
    return rows
