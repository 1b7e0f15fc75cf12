"""Every error a user can cause: one sentence each, saying what was expected, what came and the next step."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")


class GossamerError(Exception):
    """Base of all errors that are the input's fault; the command line prints the message and exits with `exit_code`."""

    exit_code = 2


class BadInput(GossamerError):
    """Something given to Gossamer is not what it needs."""


class CorruptFile(GossamerError):
    """A file exists but cannot be trusted: truncated, altered, or of another format version."""


class Unsupported(GossamerError):
    """A request that is understood and cannot be honoured; nothing is guessed in its place."""

    def __init__(self, what: str, why: str, instead: str) -> None:
        self.what, self.why, self.instead = what, why, instead
        super().__init__(f"{what} is not supported: {why}. Instead: {instead}.")


def one_line(error: Exception) -> str:
    """An error's message on one line: for a pydantic error every wrong field (the first eight) with what is wrong."""
    fields = getattr(error, "errors", None)
    if not callable(fields):
        return " ".join(str(error).split())
    found = [f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in fields()]
    more = f" (and {len(found) - 8} more)" if len(found) > 8 else ""
    return "; ".join(found[:8]) + more


def options(kind: type[M], given: Mapping[str, Any], what: str) -> M:
    """Options of a kind, its defaults where None is given; values that are not allowed are one BadInput."""
    try:
        return kind.model_validate({k: v for k, v in given.items() if v is not None})
    except ValueError as error:
        raise BadInput(f"The {what} does not hold together: {one_line(error)}.") from error


def require_new(out: Path) -> None:
    """BadInput unless something can be made at `out`: nothing is there, and the nearest folder above is writable."""
    if out.exists():
        raise BadInput(f"{out} exists; choose another --out or remove it.")
    above = next(p for p in out.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise BadInput(f"Expected a folder that can be written to at {above}; choose another --out.")


def nearest(name: str, choices: Iterable[str]) -> str:
    """A sentence that lists the nearest known names, or all of them when none is near."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known) or 'none'}."
