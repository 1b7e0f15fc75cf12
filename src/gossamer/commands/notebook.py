"""A run's page in a notebook. No model is imported before the reader asks one something."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.errors import BadInput
from gossamer.show import Bundle, read_bundle
from gossamer.show.desk import BUNDLE, NOTES, Desk
from gossamer.show.live import Answer, Question

if TYPE_CHECKING:
    from gossamer.commands.pages import AnyRun
    from gossamer.show.widget import Page


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
    if not (folder / BUNDLE).is_file():
        from gossamer.commands.pages import write

        write(folder, model, None, None, device, say)

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

    bundle = read_bundle(folder / BUNDLE)
    return page(bundle, Desk(bundle=bundle, answer=answer, tokenize=tokenize, notes=folder / NOTES))
