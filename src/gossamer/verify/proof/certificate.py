"""A proof as a file: what is claimed of which weights, and the witnesses that make checking it short.

One JSON object, sealed by a hash of its content. checker.py reads it, and nothing that made it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.evidence import Evidence, Null, Verdict
from gossamer.record import Record
from gossamer.whole_file import write_whole


class Witnesses(BaseModel):
    """What a search found for a sub-cubic proof: gaps [n][q][m], and the vectors a and b unless scores are exact."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    gaps: list[list[list[int]]]
    a: list[float] | None = None
    b: list[float] | None = None

    @property
    def numbers(self) -> int:
        """How many numbers they are: the part of a proof's length that operations do not show."""
        found = sum(len(row) for n in self.gaps for row in n)
        return found + len(self.a or ()) + len(self.b or ())


class Certificate(BaseModel):
    """`certified` of the `inputs` = v^K sequences are answered right, a tie being wrong: a lower bound.

    The claim is about real arithmetic on the float32 weights in the file with hash model_sha256, and about inputs drawn
    uniformly. flops, unexplained_dimensions: see cost.py; witness_numbers: see Witnesses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: int = 1
    model: str
    model_sha256: str
    k: int
    v: int
    rung: str
    certified: int = Field(ge=0)
    inputs: int = Field(ge=1)
    bound: float = Field(ge=0, le=1)
    flops: int = Field(ge=0)
    unexplained_dimensions: int = Field(ge=0)
    witness_numbers: int = Field(ge=0)
    witnesses: Witnesses | None
    record: Record

    def evidence(self, shuffled: float | None, seed: int) -> Evidence:
        """The claim beside its null: the same proof of the same weights in a random order, drawn by `seed`.

        pass where the bound is above its null, fail where not; not measured without a null.
        """
        verdict: Verdict = "not measured" if shuffled is None else "pass" if self.bound > shuffled else "fail"
        null = Null(name="shuffled weights", value=shuffled) if shuffled is not None else Null(
            name="shuffled weights", value=None, outcome="not measured"
        )  # fmt: skip
        return Evidence(
            claim=f"{self.rung}: the maximum of {self.k} tokens of {self.v} is answered right", value=self.bound,
            unit="proven share of inputs", n=self.inputs, unit_of_n="inputs", nulls=(null,), verdict=verdict,
            methodology=None, threshold="above the same proof of shuffled weights", seed=seed,
            note="a lower bound by the search; the checker was not run, `gossamer prove check` runs it",
        )  # fmt: skip


def seal(content: dict[str, Any]) -> str:
    """sha256 of the content as JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save_certificate(certificate: Certificate, path: Path) -> Path:
    """The certificate with its seal, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = certificate.model_dump(mode="json")
    return write_whole(json.dumps({**content, "sha256": seal(content)}), path)


def load_certificate(path: Path) -> Certificate:
    """BadInput when there is none, CorruptFile when it is damaged."""
    if not path.is_file():
        raise BadInput(f"Expected a certificate at {path}, found none; `gossamer prove bound MODEL` makes them.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        given = content.pop("sha256")
        if seal(content) != given:
            raise ValueError("its content has another hash than it says")
        return Certificate.model_validate(content)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CorruptFile(f"{path} is not a whole certificate ({one_line(error)}); make it again.") from error
