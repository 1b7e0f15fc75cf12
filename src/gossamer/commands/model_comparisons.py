"""`gossamer compare MODEL MODEL ...`: how alike models are, from weights alone; the folder is that of a comparison.

Weight-sparse models by the QK and OV forms of their heads, bilinear networks by their polynomials (of a training run
the last checkpoint).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gossamer.commands.comparisons import CompareReport, evidence_known, write_comparison
from gossamer.commands.progress import Say, Steps
from gossamer.commands.run_folder import CIRCUIT, next_free
from gossamer.commands.sweeps import open_folder
from gossamer.compare import (
    checkpoint_form_evidence,
    form_similarity,
    forms_of,
    model_form_evidence,
    tensor_evidence,
)
from gossamer.errors import BadInput, Unsupported, nearest
from gossamer.evidence import Evidence
from gossamer.models import LoadedModel, any_model, shipped_models
from gossamer.models.bilinear import CHECKPOINTS, load_bilinear
from gossamer.models.files import CONFIG
from gossamer.record import Record
from gossamer.show.figures import require_matplotlib
from gossamer.show.matrix_figure import Matrix


def are_models(given: Sequence[str | Path]) -> bool:
    """Whether models are to be compared, not run folders. BadInput for some of each, and for what is neither."""
    kinds = [_is_model(one) for one in given]
    for one, model in zip(given, kinds, strict=True):
        if not model and not (Path(one) / CIRCUIT).is_file():
            what = f"a folder without {CIRCUIT} or {CONFIG}" if Path(one).exists() else "which is no folder here"
            raise BadInput(
                f"Expected a run folder or a model, got {one}, {what}. `gossamer discover prune MODEL TASK` makes a "
                f"run folder; a model is given by its folder or its name: {nearest(str(one), shipped_models())}"
            )
    if any(kinds) and not all(kinds):
        models, runs = ([str(g) for g, k in zip(given, kinds, strict=True) if k == kind] for kind in (True, False))
        raise BadInput(
            f"Expected run folders or models, got both: {', '.join(models)} as models, {', '.join(runs)} not; give "
            "those of one kind: models, or the run folders of circuits on them."
        )
    return bool(kinds) and all(kinds)


def _is_model(one: str | Path) -> bool:
    folder = Path(one)
    if folder.exists():
        return (folder / CONFIG).is_file() and not (folder / CIRCUIT).is_file()
    return str(one) in shipped_models()


def compare(
    models: Sequence[str | Path], *, along: bool, out: str | Path | None, draws: int, seed: int, progress: Steps | None,
    say: Say,
) -> CompareReport:  # fmt: skip
    """See gossamer.commands.compare."""
    started = time.perf_counter()
    if len(models) < 2 or draws < 1 or seed < 0:
        raise BadInput(
            f"Expected two or more models, 1 draw and a seed of at least 0, got {len(models)}, {draws} and {seed}."
        )
    require_matplotlib()
    bilinear = [(Path(m) / CHECKPOINTS).is_file() for m in models]
    if any(bilinear) and not all(bilinear):
        raise BadInput("Expected bilinear networks or transformers, got some of each: nothing of the two is alike.")
    names = _names(models)
    if all(bilinear):
        if along:
            raise Unsupported(
                "--along of several bilinear trainings", "a training has its checkpoints in one folder",
                "gossamer figure tensor-similarity RUN",
            )  # fmt: skip
        runs = {n: load_bilinear(m) for n, m in zip(names, models, strict=True)}
        tensors = {n: run.models[-1] for n, run in runs.items()}
        hashes = {n: run.record.model_sha256 for n, run in runs.items()}
    else:
        loaded = {n: _weight_sparse(m) for n, m in zip(names, models, strict=True)}
        hashes = {n: m.hashes()[0] for n, m in loaded.items()}
        tensors = {}
    if len(set(hashes.values()) - {""}) < len([h for h in hashes.values() if h]):
        raise BadInput("Expected different models to compare, got the same weights twice; they are alike.")
    start = {"models": hashes, "along": along, "draws": draws, "seed": seed}
    target = Path(out) if out else next_free(Path("runs") / f"compare-{names[0]}-{names[-1]}")
    open_folder(target, start, "comparison")
    known, keep = evidence_known(target)
    if tensors:
        pairs = list(itertools.combinations(names, 2))
        for i, (a, b) in enumerate(pairs):
            if f"{a}, {b}" not in known:
                keep(f"{a}, {b}", (tensor_evidence(a, tensors[a], b, tensors[b], draws=draws, seed=seed),))
            if progress:
                progress(i + 1, len(pairs), known[f"{a}, {b}"][0].value or 0.0)
    else:
        pairs = [(n, names[-1]) for n in names[:-1]] if along else list(itertools.combinations(names, 2))
        left = [(a, b) for a, b in pairs if f"{a}, {b}" not in known]
        forms = {n: forms_of(m) for n, m in loaded.items() if any(n in pair for pair in left)}
        if along and left:
            say(f"{len(left)} checkpoints beside {names[-1]}, and {draws} shuffled models")
            for (a, b), row in zip(left, checkpoint_form_evidence(forms, draws=draws, seed=seed), strict=True):
                keep(f"{a}, {b}", (row,))
        elif not along:
            for a, b in left:
                say(f"{a} and {b}: the best order of channels, and of {draws} shuffled models")
                found = form_similarity(forms[a], forms[b], draws=draws, seed=seed, progress=progress)
                keep(f"{a}, {b}", (model_form_evidence(a, b, found, seed),))
    evidence = [known[f"{a}, {b}"][0] for a, b in pairs]
    record = Record.now(
        method="compare", config={k: v for k, v in start.items() if k != "models"}, seed=seed, model=", ".join(names),
        details={"models": hashes},
    )  # fmt: skip
    what = "tensor similarity" if tensors else "form similarity"
    matrix = _matrix(names, dict(zip(pairs, evidence, strict=True)), what, symmetric=not along)
    finding = _finding(evidence, what, along)
    files = write_comparison(target, evidence, record, finding, evidence[0].nulls[0].name, (matrix,))
    return CompareReport(
        runs=tuple(map(str, models)), names=names, models=names, overlap=(), specificity=None, reuse={},
        similarity=tuple(evidence), notes=("Models are compared from weights alone; nothing was run.",),
        finding=finding, **files, seconds=time.perf_counter() - started,
    )  # fmt: skip


def _names(models: Sequence[str | Path]) -> tuple[str, ...]:
    """By the names of their folders, or else by their paths."""
    choices = [[Path(m).resolve().name if Path(m).exists() else str(m) for m in models], [str(m) for m in models]]
    for names in choices:
        if len(set(names)) == len(names):
            return tuple(names)
    twice = next(m for m in choices[1] if choices[1].count(m) > 1)
    raise BadInput(f"Expected different models to compare, got {twice} twice; a model is like itself.")


def _weight_sparse(model: str | Path) -> LoadedModel:
    found = any_model(model)
    if not isinstance(found, LoadedModel):
        raise Unsupported(
            f"comparing the weights of {found.name}", "forms of heads are built for weight-sparse transformers; with "
            "rotary positions a head has no one QK form", "compare runs on it",
        )  # fmt: skip
    return found


def _matrix(
    names: tuple[str, ...], rows: Mapping[tuple[str, str], Evidence], what: str, *, symmetric: bool
) -> Matrix:  # fmt: skip
    """Every model with every other; along a training each with the last."""

    def cell(a: str, b: str, null: bool) -> float | None:
        row = rows.get((a, b)) or (rows.get((b, a)) if symmetric else None)
        if row is None:
            return None if null or a != b else 1.0
        return row.nulls[0].value if null else row.value

    columns = names if symmetric else names[-1:]
    values, beneath = (tuple(tuple(cell(a, b, null) for b in columns) for a in names) for null in (False, True))
    return Matrix(title=what, rows=names, columns=columns, values=values, beneath=beneath)


def _finding(rows: Sequence[Evidence], what: str, along: bool) -> str:
    values = [float(r.value or 0) for r in rows]
    if along:
        rises = sum(b > a for a, b in itertools.pairwise([*values, 1.0]))
        return (
            f"Along {len(rows) + 1} checkpoints the {what} to the last goes from {values[0]:.3f} to {values[-1]:.3f} "
            f"and rises {rises} of {len(rows)} times; shuffled weights {rows[0].nulls[0].value or 0:.3f}."
        )
    measured = [r for r in rows if r.verdict != "not measured"]
    above = f"{sum(r.verdict == 'pass' for r in rows)} of {len(rows)}" if measured else "not measured, too few draws"
    spread = f"{values[0]:.3f}" if len(rows) == 1 else f"{min(values):.3f} to {max(values):.3f} of {len(rows)} pairs"
    random = sum(float(r.nulls[0].value or 0) for r in rows) / len(rows)
    return f"{what[0].upper()}{what[1:]} {spread}, null {random:.3f}; above it: {above}."
