"""Files and folders that exist whole or not at all: a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gossamer.errors import BadInput


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new, empty file beside `path` that becomes `path` when the block ends without an error, else is deleted.

    Its name cannot be foreseen, and a link at `path` is replaced, not followed: a folder that someone else made leads
    to no file outside it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(text: str, path: Path) -> Path:
    """A text file in UTF-8; see whole_file."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    return path


@contextmanager
def whole_folder(folder: Path, kind: str = "", holds: str = "") -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends without an error, else is deleted.

    A folder that was there is replaced whole. Errors: BadInput for one of another kind, without the file `holds`, where
    that is named.
    """
    if holds and folder.exists() and not (folder / holds).is_file():
        raise BadInput(f"Expected a new name or a {kind} to replace at {folder}, it has no {holds}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial.", dir=folder.parent))
    try:
        yield work
        work.chmod(0o755)
        _put_in_place(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put_in_place(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`. A folder that was there is set aside first and deleted last: a kill loses neither."""
    if not folder.exists():
        os.replace(new, folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=folder.name + ".replaced.", dir=folder.parent))
    try:
        os.replace(folder, aside / folder.name)
        os.replace(new, folder)
    except BaseException:
        if not folder.exists():
            os.replace(aside / folder.name, folder)
        raise
    finally:
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
