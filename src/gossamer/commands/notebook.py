"""A run's page in a notebook. No model is imported before the reader asks one something."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.errors import BadInput
from gossamer.evidence import load_evidence
from gossamer.record import Record
from gossamer.show import Bundle, read_bundle
from gossamer.show.bundle import EvidenceView
from gossamer.show.desk import BUNDLE, NOTES, Desk
from gossamer.show.live import Answer, Question

if TYPE_CHECKING:
    from gossamer.commands.pages import AnyRun
    from gossamer.show.widget import Page


def _of_now(bundle: Bundle, folder: Path) -> bool:
    """Whether a bundle tells of the circuit and of the trial that lie beside it, by their content: the times of copied
    files say nothing. True without a record."""
    record, evidence = folder / "record.json", folder / "evidence.json"
    if not record.is_file():
        return True
    trial = load_evidence(evidence) if evidence.is_file() else ()
    rows = [EvidenceView.model_validate(e.model_dump(include=set(EvidenceView.model_fields))) for e in trial]
    try:
        own = Record.model_validate(json.loads(record.read_text(encoding="utf-8"))["record"])
        return Record.model_validate(bundle.record) == own and list(bundle.evidence) == rows
    except (KeyError, TypeError, ValueError):
        return False  # who makes it again says what is wrong


def widget(of: str | Path | Bundle, model: str | None, device: str, say: Callable[[str], None]) -> Page:
    """See gossamer.commands.widget."""
    if find_spec("anywidget") is None:
        raise BadInput("A page in a notebook needs the package anywidget: pip install 'gossamer-interp[notebook]'.")
    from gossamer.show.widget import page

    if isinstance(of, Bundle):
        return page(of)
    folder = Path(of)
    if folder.is_file():
        return page(read_bundle(folder))
    bundle = read_bundle(folder / BUNDLE) if (folder / BUNDLE).is_file() else None
    if bundle is None or not _of_now(bundle, folder):
        from gossamer.commands.pages import write

        if bundle is not None:
            say(f"{BUNDLE} is of another circuit or trial than the run's: it is made again, with nothing beside it")
        _, bundle = write(folder, model, None, None, device, say)

    @cache
    def run() -> AnyRun:
        from gossamer.commands.pages import read_any

        return read_any(folder, model, device)

    def answer(question: Question) -> Answer:
        from gossamer.commands import live

        return live.answer(run(), question)

    def tokenize(text: str) -> tuple[str, ...]:
        from gossamer.commands import live

        return live.tokenize(run(), text)

    return page(bundle, Desk(bundle=bundle, answer=answer, tokenize=tokenize, notes=folder / NOTES))
