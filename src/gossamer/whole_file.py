"""Files that exist whole or not at all: a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
