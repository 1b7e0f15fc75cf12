"""`gossamer grid`: one circuit under every methodology, as data, PNG and SVG."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.commands import edge_runs
from gossamer.commands.reports import GridReport
from gossamer.commands.run_folder import CIRCUIT, read_run, write_json
from gossamer.commands.sweeps import open_folder
from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.record import Record
from gossamer.show.figures import require_matplotlib
from gossamer.show.grid_figure import PARTS, GridData, GridScore, write_grid_figure
from gossamer.verify import ChannelTrial, EdgeTrial
from gossamer.verify.grid import GridRow
from gossamer.verify.grid import grid as grid_of

ROWS, DATA = "rows.json", "grid.json"


def grid(
    run: str | Path, *, model: str | None = None, out: str | Path | None = None, values: Sequence[str] = (),
    pairs: int = 128, draws: int = 3, device: str = "cpu", seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None, say: Callable[[str], None] = lambda line: None,
) -> GridReport:  # fmt: skip
    """See gossamer.commands.grid."""
    started = time.perf_counter()
    if min(pairs, draws) < 1 or seed < 0:
        raise BadInput(
            f"Expected at least 1 pair, 1 random set and a seed of at least 0, got {pairs}, {draws} and {seed}."
        )
    require_matplotlib()
    folder = Path(run)
    trial = _trial(folder, model, pairs, device, seed, progress)
    grid_of(trial, values=values, draws=draws)  # a wrong name is told before anything is written
    asked = tuple(values or trial.values)
    target = Path(out) if out else folder / "grid"
    circuit = hashlib.sha256((folder / CIRCUIT).read_bytes()).hexdigest()
    start: dict[str, Any] = {
        "model": trial.model.hashes(), "circuit": circuit, "task": trial.task.version, "values": asked,
        "pairs": trial.n_pairs, "draws": draws, "seed": seed,
    }  # fmt: skip
    open_folder(target, start, "grid")
    known = _known(target / ROWS)
    say(f"{trial.circuit.n_edges} edges on {trial.n_pairs} held-out pairs, ablated by {', '.join(asked)}")
    rows: dict[str, tuple[GridRow, ...]] = {}
    for key, of_key in grid_of(trial, values=values, draws=draws, known=known):
        rows[key] = of_key
        if key not in known:
            write_json({k: [asdict(r) for r in v] for k, v in (known | rows).items()}, target / ROWS)
    every = tuple(row for of_key in rows.values() for row in of_key)
    record = Record.now(
        method="grid", config={"values": asked, "pairs": trial.n_pairs, "draws": draws}, seed=seed,
        model=trial.model.name, model_sha256=start["model"][0], means_sha256=start["model"][1], task=trial.task.name,
        task_version=trial.task.version, details={"circuit_sha256": circuit},
    )  # fmt: skip
    data = GridData(
        model=trial.model.name, task=trial.task.name, finding=finding_of(every),
        rows=tuple(GridScore.model_validate(asdict(row)) for row in every), record=record.model_dump(mode="json"),
    )  # fmt: skip
    write_json(data, target / DATA)
    png, svg = write_grid_figure(data, target / "grid")
    return GridReport(
        run=str(run), model=data.model, task=data.task, data=str(target / DATA), png=str(png), svg=str(svg),
        finding=data.finding, rows=data.rows, seconds=time.perf_counter() - started,
    )  # fmt: skip


def _trial(
    folder: Path, model: str | None, pairs: int, device: str, seed: int,
    progress: Callable[[int, int, float], None] | None,
) -> ChannelTrial | EdgeTrial:  # fmt: skip
    if edge_runs.is_edge_run(folder):
        run = edge_runs.read(folder, model, device)
        value = edge_runs.own_ablation(run.circuit.record)
        at = edge_runs.own_positions(run.circuit.record)
        return edge_runs.edge_trial(run.model, run.task, run.circuit, value, "edge", seed, pairs, progress, at)
    r = read_run(folder, model, device)
    return ChannelTrial(
        model=r.model, circuit=r.circuit, task=r.task, heldout=r.model.encode(r.task.heldout[:pairs]), seed=seed,
        progress=progress,
    )  # fmt: skip


def _known(path: Path) -> dict[str, tuple[GridRow, ...]]:
    """Rows of an earlier start; a damaged file is CorruptFile."""
    if not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: tuple(GridRow(**GridScore.model_validate(row).model_dump()) for row in rows)
            for key, rows in stored.items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise CorruptFile(f"{path} is not whole ({one_line(error)}); remove it and start the grid again.") from error


def finding_of(rows: Sequence[GridRow]) -> str:
    """From where to where the scores of one question go, and under what."""
    asked = [(r.score, r) for r in rows if r.asks == "maintained performance" and r.score is not None]
    if not asked:
        return "Under no methodology does the ablation take the model's effect away, so that there is no score."
    scores = np.array([score for score, _ in asked])
    first, low, high = (asked[i] for i in (0, int(scores.argmin()), int(scores.argmax())))

    def named(row: GridRow) -> str:
        return f"{row.value}, {PARTS[row.granularity]}, {row.aggregate}"

    return (
        f"Of the same circuit, {len(asked)} ways to score the performance it maintains go from {low[0]:.3f} "
        f"({named(low[1])}) to {high[0]:.3f} ({named(high[1])}); {first[0]:.3f} under {named(first[1])}."
    )
