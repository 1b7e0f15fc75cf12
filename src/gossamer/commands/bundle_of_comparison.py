"""What a page shows of a comparison: `gossamer compare RUNS --out DIR`, then `show DIR` or `show RUN --compare DIR`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from gossamer.commands.comparisons import DATA, MADE, RUNS, numbers
from gossamer.commands.run_folder import CIRCUIT, EVIDENCE
from gossamer.compare.specificity import Cell
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import load_evidence
from gossamer.show import bundle as view
from gossamer.show.matrix_figure import read_matrices

IN_TABLES = ("overlap", "part")  # rows of evidence whose numbers the tables have


def is_comparison(folder: Path) -> bool:
    """Whether a folder is one that `gossamer compare` wrote."""
    return (folder / DATA).is_file() and not (folder / CIRCUIT).is_file()


def runs_of(folder: Path) -> dict[str, Path]:
    """The run folders that were compared, by the names they have there, in order.

    BadInput for one that is gone or whose circuit is another now; Unsupported for a comparison of models.
    """
    details = cast(Mapping[str, Any], read_matrices(folder / DATA).record.get("details") or {})
    if "circuits" not in details:
        raise Unsupported(f"a page of {folder}", "it compares models, and a page is of a circuit", "its compare.svg")
    if RUNS not in details:
        raise BadInput(f"Expected a comparison that names its runs in {folder}, got an older one; compare again.")
    found = {name: folder / place for name, place in details[RUNS].items()}
    for name, run in found.items():
        file = run / CIRCUIT
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != details["circuits"][name]:
            what = "another circuit" if file.is_file() else "none"
            raise BadInput(f"Expected the circuit of {name} that was compared in {run}, found {what}; compare again.")
    return found


def beside(folder: Path, run: Path | None = None) -> tuple[Path, Path | None, view.Comparison]:
    """(the run whose page it is, by default the first; the run drawn beside it, the next one in order; what was found).

    BadInput for a run that is not in the comparison.
    """
    runs = runs_of(folder)
    own = next(iter(runs)) if run is None else None
    if run is not None:
        here = hashlib.sha256((run / CIRCUIT).read_bytes()).hexdigest() if (run / CIRCUIT).is_file() else ""
        hashes = {n: hashlib.sha256((r / CIRCUIT).read_bytes()).hexdigest() for n, r in runs.items()}
        own = next((n for n, h in hashes.items() if h == here), None)
        if own is None:
            raise BadInput(f"Expected a run that is compared in {folder} ({', '.join(runs)}), {run} is none of them.")
    assert own is not None
    names = list(runs)
    other = names[(names.index(own) + 1) % len(names)] if len(names) > 1 else None
    return runs[own], runs[other] if other else None, _view(folder, own, other, tuple(names))


def _view(folder: Path, own: str, other: str | None, names: tuple[str, ...]) -> view.Comparison:
    rows, found = numbers(folder / MADE)
    return view.Comparison(
        own=own, other=other, names=names, finding=read_matrices(folder / DATA).finding,
        overlap=tuple(
            view.ComparedOverlap(
                a=r.a, b=r.b, what=r.what, kind=r.kind, sizes=r.sizes, shared=r.shared, iou=r.iou, iom=r.iom,
                chance=r.chance, p_value=r.p_value,
            ) for r in rows
        ),
        cells=tuple(map(_cell, found.cells)) if found else (), parts=tuple(map(_cell, found.parts)) if found else (),
        evidence=tuple(
            view.EvidenceView.model_validate(e.model_dump(include=set(view.EvidenceView.model_fields)))
            for e in load_evidence(folder / EVIDENCE) if e.check not in IN_TABLES
        ),
    )  # fmt: skip


def _cell(cell: Cell) -> view.ComparedCell:
    return view.ComparedCell(
        ablated=cell.ablated, on=cell.on, size=cell.size, share=cell.own.share if cell.own else None,
        interval=cell.own.interval if cell.own else None, random=cell.random, random_interval=cell.random_interval,
    )  # fmt: skip
