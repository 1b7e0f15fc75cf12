"""Provenance: what made an artefact, on what, with which versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

_PACKAGES = ("gossamer-interp", "torch", "numpy", "tokenizers", "safetensors", "transformers")


class Record(BaseModel):
    """Which method with which full configuration made an artefact, from which model and task, and where.

    model_sha256 and means_sha256 name the exact weights and reference means; `config` is the method's whole
    configuration, seed included; `dirty` says whether the source tree had uncommitted changes (None: not a checkout).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    method: str
    config: dict[str, Any]
    seed: int
    model: str = ""
    model_sha256: str = ""
    means_sha256: str = ""
    task: str = ""
    task_version: str = ""
    versions: dict[str, str] = {}
    machine: str = ""
    commit: str = ""
    dirty: bool | None = None
    created: str = ""
    details: dict[str, Any] = {}

    @classmethod
    def now(cls, *, method: str, config: dict[str, Any], seed: int, **fields: Any) -> Record:
        """A record of this moment, this machine and these versions."""
        commit, dirty = _git()
        return cls(
            method=method, config=config, seed=seed, versions=_versions(), machine=f"{platform.platform()}",
            commit=commit, dirty=dirty, created=datetime.now(UTC).isoformat(timespec="seconds"), **fields,
        )  # fmt: skip


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache  # of the code that this process runs, whatever is committed meanwhile
def _git() -> tuple[str, bool | None]:
    here = Path(__file__).resolve().parent
    try:
        own = ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name]
        subprocess.run(own, capture_output=True, timeout=5, check=True)  # installed inside somebody else's checkout?
        root = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        status = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "."],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "", None
    return root.stdout.strip(), bool(status.stdout.strip())


@cache
def code_sha256() -> str:
    """Hash of the library's own source files: the code that runs, committed or not."""
    here, digest = Path(__file__).resolve().parent, hashlib.sha256()
    for path in sorted(here.rglob("*.py")):
        digest.update(f"{path.relative_to(here).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
