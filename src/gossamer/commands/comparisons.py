"""`gossamer compare`: circuits of several runs, or models, beside each other, as data, evidence, PNG and SVG.

The folder: compare.json (what is drawn), evidence.json, made.json (all numbers; a comparison that was stopped goes on
from it), compare.png, compare.svg, start.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from gossamer.circuit import Circuit
from gossamer.commands.edge_runs import EdgeRun, own_ablation, own_positions
from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import Report
from gossamer.commands.run_folder import CIRCUIT, EVIDENCE, Run, next_free, write_json
from gossamer.commands.sweeps import open_folder
from gossamer.commands.trials import default_claim, read_any, trial_of
from gossamer.compare import (
    OverlapRow,
    ReuseRow,
    SharedCircuits,
    Specificity,
    circuit_form_evidence,
    overlap_evidence,
    overlaps,
    reuse,
    reuse_evidence,
    shared_circuits,
    specificity,
    specificity_evidence,
)
from gossamer.compare.overlap import ALL, require_comparable
from gossamer.compare.shared_circuits import GAP, stability_evidence
from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.evidence import Evidence, save_evidence
from gossamer.models import LoadedModel
from gossamer.record import Record
from gossamer.show.figures import require_matplotlib
from gossamer.show.matrix_figure import Matrix, MatrixData, write_matrix_figure
from gossamer.verify import Trial

DATA, MADE, STEM = "compare.json", "made.json", "compare"
_OVERLAP, _SPECIFICITY = TypeAdapter(tuple[OverlapRow, ...]), TypeAdapter(Specificity)
_REUSE, _SHARED = TypeAdapter(tuple[ReuseRow, ...]), TypeAdapter(SharedCircuits)
_EVIDENCE = TypeAdapter(tuple[Evidence, ...])
RUNS = "runs"  # in the record's details: the folder of each run, from the comparison's own


class CompareReport(Report):
    """Circuits compared: every pair's overlap, the cross-task matrix and the reuse of every task where they were made
    (`notes` says why not), as data, evidence and pictures, and a one-line finding. similarity: of the forms of heads,
    or of bilinear networks, for circuits or models; shared: the shared part of several tasks; stability: of circuits of
    one task."""

    runs: tuple[str, ...]
    names: tuple[str, ...]
    models: tuple[str, ...]
    overlap: tuple[OverlapRow, ...]
    specificity: Specificity | None
    reuse: dict[str, tuple[ReuseRow, ...]]
    similarity: tuple[Evidence, ...] = ()
    shared: SharedCircuits | None = None
    stability: tuple[Evidence, ...] = ()
    notes: tuple[str, ...]
    finding: str
    data: str
    evidence: str
    png: str
    svg: str
    seconds: float


def compare(
    runs: Sequence[str | Path], *, along: bool = False, with_reuse: bool = False, with_shared: bool = False,
    model: str | None = None, out: str | Path | None = None, value: str | None = None, granularity: str = "edge",
    floor: float = 0.8, pairs: int = 128, draws: int = 20, seed: int = 0, device: str = "cpu",
    progress: Steps | None = None, say: Say = lambda line: None,
) -> CompareReport:  # fmt: skip
    """See gossamer.commands.compare."""
    started = time.perf_counter()
    if not 0 < floor <= 1:
        raise BadInput(f"Expected a floor of above 0 to 1, got {floor:g}.")
    if pairs < 2 or draws < 1 or seed < 0:
        raise BadInput(
            f"Expected at least 2 pairs (one has no interval), 1 random set and a seed of at least 0, got {pairs}, "
            f"{draws} and {seed}."
        )
    if along and (with_reuse or with_shared):
        raise BadInput(
            "Expected --along or --reuse or --shared: along a training only circuits are compared, no model is run."
        )
    if len(runs) < 2 and not with_reuse:
        raise BadInput(
            f"Expected two or more circuits to compare, got {len(runs)}; give another run folder on the same model, or "
            "--reuse for one run alone."
        )
    require_matplotlib()
    folders = [Path(run) for run in runs]
    found = [Circuit.load(f / CIRCUIT) for f in folders]
    hashes = different_circuits(folders, "a run overlaps itself whatever it is")
    circuits = dict(zip(run_names(folders, found, along), found, strict=True))
    if not (with_reuse and len(circuits) == 1):
        require_comparable(circuits, along)
    first = next(iter(circuits.values()))
    start: dict[str, Any] = {
        "circuits": dict(zip(circuits, hashes, strict=True)), "along": along, "reuse": with_reuse,
        "value": value, "granularity": granularity, "pairs": pairs, "draws": draws, "seed": seed,
        **({"shared": True, "floor": floor} if with_shared else {}),
    }  # fmt: skip
    read = {} if along else {n: read_any(f, model, device) for n, f in zip(circuits, folders, strict=True)}
    trials = {} if along else _trials(read, value, granularity, pairs, seed, progress)
    target = Path(out) if out else next_free(Path("runs") / f"compare-{first.record.model or 'runs'}")
    open_folder(target, start, "comparison")
    made, notes = _known(target / MADE), list[str]()

    def keep(name: str, found: Any) -> None:
        made[name] = found
        write_json(made, target / MADE)

    if "overlap" not in made and len(circuits) > 1:
        say(f"overlap of {len(circuits)} circuits")
        graph = None if along else next(iter(read.values())).model.graph(first.layout.grain)
        keep("overlap", _OVERLAP.dump_python(overlaps(circuits, graph, along=along, seed=seed), mode="json"))
    rows = _OVERLAP.validate_python(made.get("overlap", ()))
    cross = None
    if why := _no_matrix(read, along):
        notes.append(why)
    else:
        if "specificity" not in made:
            say(f"ablating {len(trials)} circuits, and {draws} random sets beside each, on {len(trials)} tasks")
            keep("specificity", _SPECIFICITY.dump_python(specificity(trials, draws=draws, value=value), mode="json"))
        cross = _SPECIFICITY.validate_python(made["specificity"])
    reused: dict[str, tuple[ReuseRow, ...]] = {}
    for name, trial in trials.items() if with_reuse else ():
        if f"reuse {name}" not in made:
            say(f"{name}: circuits of single examples")
            keep(f"reuse {name}", _REUSE.dump_python(reuse(trial, draws=draws, value=value), mode="json"))
        reused[name] = _REUSE.validate_python(made[f"reuse {name}"])
    own = next(iter(read.values())).model if read else None
    alike: tuple[Evidence, ...] = ()
    if isinstance(own, LoadedModel) and len(circuits) > 1:
        if "forms" not in made:
            say(f"forms of heads of {len(circuits)} circuits")
            keep(
                "forms",
                _EVIDENCE.dump_python(circuit_form_evidence(own, circuits, draws=draws, seed=seed), mode="json"),
            )
        alike = _EVIDENCE.validate_python(made["forms"])
    shared: SharedCircuits | None = None
    stable: tuple[Evidence, ...] = ()
    if with_shared:
        if "stability" not in made:
            keep("stability", _EVIDENCE.dump_python(_stability(read, seed), mode="json"))
        stable = _EVIDENCE.validate_python(made["stability"])
        if why := _no_shared(read):
            notes.append(why)
        else:
            if "shared" not in made:
                say("the shared part, kept alone and ablated alone")
                keep(
                    "shared",
                    _SHARED.dump_python(_shared_of(read, value, floor, draws, pairs, seed, progress), mode="json"),
                )
            shared = _SHARED.validate_python(made["shared"])
    evidence = list[Evidence](overlap_evidence(rows, seed))
    evidence += specificity_evidence(cross) if cross else ()
    for name, of_task in reused.items():
        evidence += reuse_evidence(trials[name], of_task, value)
    evidence += (*alike, *stable, *((*shared.cross, *shared.joint) if shared else ()))
    models = tuple(c.record.model for c in circuits.values())
    record = Record.now(
        method="compare", config={k: v for k, v in start.items() if k != "circuits"}, seed=seed, model=models[0],
        model_sha256=first.record.model_sha256, means_sha256=first.record.means_sha256,
        task=", ".join(dict.fromkeys(c.record.task for c in circuits.values())),
        details={
            "circuits": start["circuits"],
            RUNS: {n: os.path.relpath(f.resolve(), target.resolve()) for n, f in zip(circuits, folders, strict=True)},
        },
    )  # fmt: skip
    finding = " ".join(
        x for x in (_of_overlap(rows, along), _of_matrix(cross), _of_reuse(reused), _of_shared(shared)) if x
    )
    matrices = (*overlap_matrices(tuple(circuits), rows), *((loss_matrix(cross),) if cross else ()))
    files = write_comparison(
        target, evidence, record, finding, "chance, or random sets in the circuit's place", matrices
    )
    return CompareReport(
        runs=tuple(map(str, runs)), names=tuple(circuits), models=models, overlap=rows, specificity=cross,
        reuse=reused, similarity=alike, shared=shared, stability=stable, notes=tuple(notes), finding=finding,
        **files, seconds=time.perf_counter() - started,
    )  # fmt: skip


def write_comparison(
    target: Path, evidence: Sequence[Evidence], record: Record, finding: str, null: str, matrices: tuple[Matrix, ...]
) -> dict[str, Any]:
    """evidence.json, compare.json and the pictures of it; where they are, by the names of CompareReport."""
    save_evidence(evidence, target / EVIDENCE, record)
    data = MatrixData(finding=finding, null=null, record=record.model_dump(mode="json"), matrices=matrices)
    write_json(data, target / DATA)
    png, svg = write_matrix_figure(data, target / STEM) if data.matrices else ("", "")
    return {"data": str(target / DATA), "evidence": str(target / EVIDENCE), "png": str(png), "svg": str(svg)}


def evidence_known(
    target: Path,
) -> tuple[dict[str, tuple[Evidence, ...]], Callable[[str, tuple[Evidence, ...]], None]]:
    """(rows that an earlier start has made, what keeps further ones)."""
    path = target / MADE
    try:
        known = {k: _EVIDENCE.validate_python(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        known = {}
    except (ValueError, AttributeError) as error:
        raise CorruptFile(f"{path} is not whole ({one_line(error)}); remove it and compare again.") from error

    def keep(name: str, rows: tuple[Evidence, ...]) -> None:
        known[name] = rows
        write_json({k: _EVIDENCE.dump_python(v, mode="json") for k, v in known.items()}, path)

    return known, keep


def different_circuits(folders: Sequence[Path], why: str) -> list[str]:
    """The SHA-256 of every run's circuit file; BadInput where two are the same, with why that is of no use."""
    hashes = [hashlib.sha256((f / CIRCUIT).read_bytes()).hexdigest() for f in folders]
    if len(set(hashes)) < len(hashes):
        twice = next(own for own in hashes if hashes.count(own) > 1)
        same = [f for f, own in zip(folders, hashes, strict=True) if own == twice]
        raise BadInput(
            f"Expected different runs, got one twice: the circuit files of {same[0]} and {same[1]} are the same; {why}."
        )
    return hashes


def run_names(folders: Sequence[Path], circuits: Sequence[Circuit], along: bool) -> tuple[str, ...]:
    """The runs by their tasks; where those are alike, by the names of their folders, or else by their paths."""
    choices = [[c.record.task for c in circuits], [f.resolve().name for f in folders], [str(f) for f in folders]]
    return next(tuple(names) for names in choices[along:] if all(names) and len(set(names)) == len(names))


def _trials(
    read: Mapping[str, Run | EdgeRun], value: str | None, granularity: str, pairs: int, seed: int,
    progress: Steps | None,
) -> dict[str, Trial]:  # fmt: skip
    found = {}
    for name, run in read.items():
        own: dict[str, Any] = {"seed": seed, "granularity": granularity}
        if isinstance(run, EdgeRun):
            own["ablation"] = value
        claim = default_claim(run, quick=True, **{k: v for k, v in own.items() if v is not None})
        if len(run.task.heldout) < 2:
            raise BadInput(f"Expected at least 2 held-out pairs of {run.task.name}, got {len(run.task.heldout)}.")
        pairs_here = min(pairs, len(run.task.heldout))
        trial = trial_of(run, claim.model_copy(update={"pairs": pairs_here}), progress)
        trial.methodology(value, "circuit")  # a wrong value is told before anything is run
        found[name] = trial
    return found


def _no_matrix(read: Mapping[str, Run | EdgeRun], along: bool) -> str:
    """Why there is no cross-task matrix, in words; empty if there is one."""
    if along:
        return "No cross-task matrix along a training."
    if len(read) < 2:
        return "No cross-task matrix of one run."
    tasks = [run.task.name for run in read.values()]
    if len(set(tasks)) < len(tasks):
        twice = next(t for t in tasks if tasks.count(t) > 1)
        return f"No cross-task matrix: several runs are of {twice}."
    return ""


def _by_task(read: Mapping[str, Run | EdgeRun]) -> dict[str, list[Run | EdgeRun]]:
    found: dict[str, list[Run | EdgeRun]] = {}
    for run in read.values():
        found.setdefault(run.task.name, []).append(run)
    return found


def _no_shared(read: Mapping[str, Run | EdgeRun]) -> str:
    """Why there is no shared part of several tasks, in words; empty if there is one."""
    if len(_by_task(read)) < 2:
        return "No shared part of several tasks: the runs are of one."
    where = {own_positions(r.circuit.record) for r in read.values() if isinstance(r, EdgeRun)} - {"all"}
    return f"No shared part: circuits at positions {', '.join(sorted(where))} are not built." if where else ""


def _shared_of(
    read: Mapping[str, Run | EdgeRun], value: str | None, floor: float, draws: int, pairs: int, seed: int,
    progress: Steps | None,
) -> SharedCircuits:  # fmt: skip
    """Of the first run of every task."""
    firsts = {task: runs[0] for task, runs in _by_task(read).items()}
    first = next(iter(firsts.values()))
    if value is None and isinstance(first, EdgeRun):
        value = own_ablation(first.circuit.record)
    return shared_circuits(
        first.model, {task: (run.task, run.circuit) for task, run in firsts.items()}, value=value, floor=floor,
        draws=draws, pairs=pairs, seed=seed, progress=progress,
    )  # fmt: skip


def _stability(read: Mapping[str, Run | EdgeRun], seed: int) -> tuple[Evidence, ...]:
    """Of every task of which there are several runs."""
    return tuple(
        stability_evidence(task, [run.circuit for run in runs], seed=seed)
        for task, runs in _by_task(read).items() if len(runs) > 1
    )  # fmt: skip


def _known(path: Path) -> dict[str, Any]:
    """What an earlier start has made; a damaged file is CorruptFile."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for name, content in found.items():
            kinds: dict[str, TypeAdapter[Any]] = {
                "overlap": _OVERLAP, "specificity": _SPECIFICITY, "forms": _EVIDENCE, "stability": _EVIDENCE,
                "shared": _SHARED,
            }  # fmt: skip
            kinds.get(name, _REUSE).validate_python(content)
    except (ValueError, AttributeError) as error:
        raise CorruptFile(f"{path} is not whole ({one_line(error)}); remove it and compare again.") from error
    return dict(found)


def numbers(path: Path) -> tuple[tuple[OverlapRow, ...], Specificity | None]:
    """The overlaps, and the cross-task matrix if one was made, of a comparison's made.json."""
    made = _known(path)
    cross = made.get("specificity")
    return _OVERLAP.validate_python(made.get("overlap", ())), cross and _SPECIFICITY.validate_python(cross)


def overlap_matrices(names: Sequence[str], rows: Sequence[OverlapRow]) -> list[Matrix]:
    """IoU of all nodes, and of all edges, every circuit with every other, chance beneath."""
    found = []
    for what in ("nodes", "edges"):
        n = len(names)
        values: list[list[float | None]] = [[1.0 if i == j else None for j in range(n)] for i in range(n)]
        beneath: list[list[float | None]] = [[None] * n for _ in range(n)]
        chosen = [r for r in rows if r.what == what and r.kind == ALL]
        for row in chosen:
            i, j = names.index(row.a), names.index(row.b)
            values[i][j] = values[j][i] = row.iou
            beneath[i][j] = beneath[j][i] = row.chance
        if chosen:
            found.append(Matrix(
                title=f"IoU of {what}", rows=tuple(names), columns=tuple(names),
                values=tuple(map(tuple, values)), beneath=tuple(map(tuple, beneath)),
            ))  # fmt: skip
    return found


def loss_matrix(found: Specificity, title: str = "effect lost, circuit by task") -> Matrix:
    """The cross-task matrix, the mean of random sets beneath."""
    cells = {(c.ablated, c.on): c for c in found.cells}
    values, beneath = (
        tuple(tuple(of(cells[a, b]) for b in found.names) for a in found.names)
        for of in (lambda c: c.own.share if c.own else None, lambda c: c.random)
    )
    return Matrix(
        title=title, rows=found.names, columns=found.names, values=values, beneath=beneath,
    )  # fmt: skip


def _of_overlap(rows: Sequence[OverlapRow], along: bool) -> str:
    chosen = [r for r in rows if r.what == "nodes" and r.kind == ALL]
    measured = [r for r in chosen if r.iou is not None]
    if not chosen:
        return ""
    empty = sorted({name for x in chosen for name, size in zip((x.a, x.b), x.sizes, strict=True) if not size})
    without = f"{'The circuit' if len(empty) == 1 else 'The circuits'} of {', '.join(empty)}"
    without += f" {'has' if len(empty) == 1 else 'have'} no node" if empty else ""
    if not measured:
        return f"{without}, so there is no overlap."
    iou, chance = np.mean([r.iou for r in measured]), np.mean([r.chance for r in measured])
    many = len(measured) > 1
    told = (
        f"The nodes of {f'{len(measured)} pairs of' if many else 'the two'} circuits overlap by {iou:.3f} "
        f"(IoU{', mean' if many else ''}), chance {chance:.3f}.{f' {without}.' if empty else ''}"
    )
    if not along:
        return told
    order = list(dict.fromkeys(n for r in chosen for n in (r.a, r.b)))
    steps = [float(r.iou or 0) for r in measured if order.index(r.b) - order.index(r.a) == 1]
    if not steps:
        return told
    ends = next((r.iou for r in measured if (r.a, r.b) == (order[0], order[-1])), None)
    whole = "no number" if ends is None else f"{ends:.3f}"
    return (
        f"Along {len(order)} checkpoints the circuits of neighbours overlap by {min(steps):.3f} to {max(steps):.3f} "
        f"(IoU of nodes), first and last by {whole}, chance {chance:.3f}.{f' {without}.' if empty else ''}"
    )


def _of_matrix(found: Specificity | None) -> str:
    if found is None or found.contrast is None or found.interval is None:
        return ""
    random = "(too few for an interval)"
    if found.random_interval is not None:
        random = f"[{found.random_interval[0]:.3f}, {found.random_interval[1]:.3f}]"
    return (
        f"Ablating a circuit costs its own task {found.diagonal:.3f} of the effect and others {found.rest:.3f}: "
        f"contrast {found.contrast:.3f} [{found.interval[0]:.3f}, {found.interval[1]:.3f}], random sets "
        f"{found.random_contrast:.3f} {random}."
    )


def _of_reuse(found: Mapping[str, Sequence[ReuseRow]]) -> str:
    chosen = [row for rows in found.values() for row in rows if (row.share, row.at) == (0.1, 0.95)]
    if not chosen:
        return ""
    return (
        f"The circuits of single examples (10% of the nodes) share {np.mean([r.reuse for r in chosen]):.3f} of their "
        f"nodes in 95% of examples, chance {np.mean([r.chance for r in chosen]):.1g}."
    )


def _of_shared(found: SharedCircuits | None) -> str:
    if found is None:
        return ""
    if not found.shared:
        return f"The circuits of {len(found.own)} tasks have no part in common."
    row = found.joint[0]
    return (
        f"{len(found.own)} tasks share {len(found.shared)} of {len(found.union)} parts; without those each loses at "
        f"least {row.value or 0:.3f} of its {GAP}, random sets {row.nulls[0].value or 0:.3f}."
    )
