"""What a check returns: a claim with its value, interval, nulls and verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.record import Record
from gossamer.whole_file import write_whole

FORMAT_VERSION = 2  # 1: without what follows `note` in Evidence
Verdict = Literal["pass", "fail", "not reached", "not measured"]


class Null(BaseModel):
    """A control beside a value: what a circuit that is not one would score.

    `not reached` is an outcome (no such circuit within the target); `not measured` is the absence of a null.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    n: int = 0
    outcome: Literal["measured", "not reached", "not measured"] = "measured"


class Evidence(BaseModel):
    """A claim about a model and a circuit. `threshold` says in words what would have failed; `seed` is that of the
    random draws and of the bootstrap.

    What follows `note` is absent from files of format version 1. unit_of_n: what n counts. limits: the check's
    thresholds in numbers, as a claim names them. p_value: of the value among its null's draws, p_smallest the
    least that they could give, p_adjusted after control of false discoveries over everything tried. quantiles: of the
    values per pair, keyed by quantile, never clipped. pairs_needed: pairs that tell the values from the null's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: str
    value: float | None
    unit: str
    interval: tuple[float, float] | None = None
    n: int
    nulls: tuple[Null, ...] = ()
    verdict: Verdict
    methodology: dict[str, str] | None
    threshold: str
    seed: int = 0
    note: str = ""
    unit_of_n: str = "pairs"
    limits: dict[str, float] = {}
    p_value: float | None = None
    p_smallest: float | None = None
    p_adjusted: float | None = None
    quantiles: dict[str, float] | None = None
    pairs_needed: int | Literal["infinite"] | None = None

    @property
    def name(self) -> str:
        """The claim up to the colon: unlike in every row of a trial."""
        return self.claim.partition(":")[0]

    @property
    def check(self) -> str:
        """The name of the check; several rows of one check have names `check (row)`."""
        return self.name.partition(" (")[0]


def save_evidence(evidence: Sequence[Evidence], path: Path, record: Record) -> Path:
    """A JSON file with a format version and the record of the trial, whole or not at all."""
    content = {
        "format_version": FORMAT_VERSION, "record": record.model_dump(mode="json"),
        "evidence": [e.model_dump(mode="json") for e in evidence],
    }  # fmt: skip
    text = json.dumps(content, indent=1)
    return write_whole(text, path)


def load_evidence(path: Path) -> tuple[Evidence, ...]:
    """The inverse of save_evidence; a damaged file is CorruptFile."""
    return _load(path)[0]


def load_record(path: Path) -> Record:
    """The record of the trial in an evidence file."""
    return _load(path)[1]


def _load(path: Path) -> tuple[tuple[Evidence, ...], Record]:
    if not path.is_file():
        raise BadInput(f"Expected evidence at {path}, found none; `gossamer verify RUN` makes it.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] not in (1, FORMAT_VERSION):
            raise CorruptFile(
                f"{path} has format version {content['format_version']}, this Gossamer reads 1 to {FORMAT_VERSION}."
            )
        found = tuple(Evidence.model_validate(e) for e in content["evidence"])
        return found, Record.model_validate(content["record"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(
            f"{path} is not a whole evidence file ({one_line(error)}); run `gossamer verify` again."
        ) from error
