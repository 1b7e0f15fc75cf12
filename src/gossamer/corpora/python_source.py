"""Training text: the Python source found on this machine, or any folder of text."""

from __future__ import annotations

import functools
import hashlib
import random
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gossamer.errors import BadInput

STANDARD_LIBRARY = "standard library"
MIN_BYTES, MAX_BYTES = 200, 400_000
PACKAGE_CAP = 0.15
_SKIPPED_FOLDERS = {"test", "tests", "__pycache__", "site-packages", "idle_test", "lib2to3", "dist-packages"}


@dataclass(frozen=True, kw_only=True)
class Document:
    """One file of text; `package` is the unit of the train/validation split."""

    path: Path
    package: str
    source: str
    name: str
    sha256: str
    n_bytes: int

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents in a fixed order, and why files were left out (reason -> count)."""

    name: str
    documents: tuple[Document, ...]
    skipped: dict[str, int]

    def packages(self) -> dict[str, int]:
        """Bytes per package, largest first."""
        sizes: Counter[str] = Counter()
        for d in self.documents:
            sizes[d.package] += d.n_bytes
        return dict(sizes.most_common())

    def file_list_hash(self) -> str:
        """sha256 over every document's name and content hash: equal hash, equal text."""
        lines = sorted(f"{d.name} {d.sha256}" for d in self.documents)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def only(self, source: str) -> Corpus:
        """The documents of one source, e.g. the standard library, whose text may be shown."""
        kept = tuple(d for d in self.documents if d.source == source)
        return Corpus(name=f"{self.name}, {source}", documents=kept, skipped={})

    def split(self, val_fraction: float = 0.03, seed: int = 0) -> tuple[Corpus, Corpus]:
        """Train and validation parts: whole packages; none gives the training part more than 15% of all there is."""
        packages = sorted(self.packages())
        random.Random(seed).shuffle(packages)
        sizes, total = self.packages(), sum(self.packages().values())
        held: set[str] = set()
        for package in packages:
            if sizes[package] <= 0.02 * total and sum(sizes[p] for p in held) < val_fraction * total:
                held.add(package)
        if not held and len(packages) > 1:  # few or large packages: the smallest one
            held.add(min(packages, key=lambda p: sizes[p]))
        if not held or len(held) == len(packages):
            raise BadInput(
                f"Expected text of several packages (sub-folders) to split into training and validation, found "
                f"{len(packages)} in {self.name}; add a second sub-folder of text."
            )
        train = [d for d in self.documents if d.package not in held]
        val = tuple(d for d in self.documents if d.package in held)
        return (
            Corpus(name=f"{self.name}, train", documents=tuple(_capped(train, seed)), skipped=self.skipped),
            Corpus(name=f"{self.name}, validation", documents=val, skipped={}),
        )


def _capped(documents: Sequence[Document], seed: int) -> Iterator[Document]:
    limit = PACKAGE_CAP * sum(d.n_bytes for d in documents)
    shuffled = sorted(documents, key=lambda d: hashlib.sha256(f"{seed} {d.name}".encode()).digest())
    used: Counter[str] = Counter()
    several = len({d.package for d in documents}) * PACKAGE_CAP > 1
    for d in shuffled:
        if not several or used[d.package] + d.n_bytes <= limit:
            used[d.package] += d.n_bytes
            yield d


def find_python_source(roots: Sequence[Path] | None = None) -> Corpus:
    """Every readable .py file of the standard library and of the installed packages of this interpreter."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found: list[tuple[Path, str]] = [(library, STANDARD_LIBRARY)]
    if roots is None:
        paths = {sysconfig.get_paths()[key] for key in ("purelib", "platlib")}
        base = library / "site-packages"
        paths |= {str(base)} if base.is_dir() and sys.prefix != sys.base_prefix else set()
        roots = [Path(p) for p in sorted(paths)]
    found += [(root, "package") for root in roots if root.is_dir()]
    return _collect(f"Python source of {sys.prefix}", found, {".py"})


@functools.cache
def standard_library() -> Corpus:
    """The standard library of this interpreter alone: the text that may be shown."""
    return find_python_source(()).only(STANDARD_LIBRARY)


def text_folder(folder: Path) -> Corpus:
    """Every .txt, .py and .md file below `folder`; the first sub-folder is the package."""
    if not folder.is_dir():
        raise BadInput(f"Expected a folder of text at {folder}, found none; give an existing folder.")
    return _collect(str(folder), [(folder, "folder")], {".txt", ".py", ".md"})


def _collect(name: str, roots: list[tuple[Path, str]], suffixes: set[str]) -> Corpus:
    documents: list[Document] = []
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    for root, source in roots:
        for path in sorted(p for p in root.rglob("*") if p.suffix in suffixes):
            relative = path.relative_to(root)
            folders = set(relative.parts[:-1])
            if source != "folder" and folders & _SKIPPED_FOLDERS:
                continue
            reason, content = _read(path)
            digest = hashlib.sha256(content).hexdigest()
            if not reason and digest in seen:
                reason = "duplicate"
            if reason:
                skipped[reason] += 1
                continue
            seen.add(digest)
            first = relative.parts[0].removesuffix(path.suffix)
            package = f"{source}: {first}" if source != "package" else first
            shown = f"{source}/{relative.as_posix()}"
            documents.append(
                Document(path=path, package=package, source=source, name=shown, sha256=digest, n_bytes=len(content))
            )
    if not documents:
        raise BadInput(
            f"No text found in {name}: looked for {', '.join(sorted(suffixes))} files of {MIN_BYTES} to {MAX_BYTES} "
            f"bytes (left out: {dict(skipped) or 'nothing'}); point --corpus at a folder that holds some."
        )
    return Corpus(name=name, documents=tuple(documents), skipped=dict(skipped))


def _read(path: Path) -> tuple[str, bytes]:
    """(why not, content): the reason is empty when the file is usable."""
    try:
        size = path.stat().st_size
        if not MIN_BYTES <= size <= MAX_BYTES:
            return "too small or too large", b""
        content = path.read_bytes()
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return "unreadable or not UTF-8", b""
    lines = text.splitlines() or [""]
    if max(map(len, lines)) > 2000 or len(text) > 120 * len(lines):
        return "looks generated (very long lines)", b""
    return "", content
