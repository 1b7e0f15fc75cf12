"""claim.yaml: what is claimed of a circuit, with every threshold, written down before the trial.

A verdict is only as good as the thresholds it was made with, and they are easily chosen after the numbers are known. A
claim names them beforehand; its hash goes into the record of the trial, and a verdict made with others says so.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gossamer.ablation import Granularity
from gossamer.errors import BadInput, CorruptFile, nearest, one_line
from gossamer.hypotheses import LEVEL, Correction
from gossamer.record import Record
from gossamer.whole_file import write_whole

Checks = Mapping[str, Mapping[str, float]]
"""The thresholds of every check, by name."""
HASH = "claim_sha256"  # of Record.details
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Claim(BaseModel):
    """What is claimed of a circuit. Strict: an unknown key, check or threshold is an error that names the nearest."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format_version: Literal[1] = Field(default=1, description="of this file")
    model: str = Field(default="", description="the model's name; empty: whichever the circuit is of")
    task: str = Field(default="", description="the task's name; empty: whichever the circuit is of")
    checks: dict[str, dict[str, _Finite]] = Field(min_length=1, description="what is claimed, with its thresholds")
    ablation: str = Field(default="", description="what an ablated value becomes; empty: as in the circuit's method")
    granularity: Granularity = Field(default="edge", description="what is ablated as one: edge, node or branch")
    positions: str = Field(default="", description="where edges are ablated; empty: as in the circuit's method")
    hypothesis: dict[str, Any] | None = Field(default=None, description="of causal scrubbing; empty: the usual one")
    seed: int = Field(default=0, ge=0, description="of random circuits and bootstraps")
    pairs: int = Field(default=128, ge=2, description="how many held-out pairs")
    level: _Finite = Field(default=LEVEL, gt=0, lt=0.5, description="the largest adjusted p-value that passes")
    correction: Correction = Field(default="benjamini-hochberg", description="for many tests; or benjamini-yekutieli")

    @classmethod
    def of(cls, content: Mapping[str, Any], known: Checks, source: str = "the claim") -> Claim:
        """A claim from plain data; everything that is wrong with it in one BadInput.

        known: the checks there are, with the thresholds that a claim that does not say one takes.
        """
        wrong, found = list(_unknown(content.get("checks"), known)), None
        try:
            found = cls.model_validate(dict(content))
        except ValidationError as error:
            wrong = [*_told(error), *wrong]
        if found is None or wrong:
            raise BadInput(f"Expected {source} to hold together: {'; '.join(wrong)}.")
        return found.model_copy(update={"checks": {k: {**known[k], **v} for k, v in found.checks.items()}})

    def thresholds_for(self, check: str) -> dict[str, float]:
        """The thresholds claimed of a check, by name; BadInput for a check that is not claimed."""
        if check not in self.checks:
            raise BadInput(f"The claim has no check {check!r}: {nearest(check, self.checks)}")
        return dict(self.checks[check])

    @property
    def sha256(self) -> str:
        """Of its content as canonical JSON: every field, keys sorted, no white space."""
        content = self.model_dump(mode="json")
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def recorded(self, record: Record) -> Record:
        """The record of a trial made under this claim: details say its hash."""
        return record.model_copy(update={"details": {**record.details, HASH: self.sha256}})

    def differences(self, used: Checks) -> tuple[str, ...]:
        """Every difference from the thresholds that a verdict used (by check and name), in words; empty if none."""
        found = [f"{name}: tried, not claimed" for name in used if name not in self.checks]
        for name, claimed in self.checks.items():
            if name not in used:
                found.append(f"{name}: claimed, not tried")
                continue
            theirs = used[name]
            for key in sorted({*claimed, *theirs}):
                if claimed.get(key) != theirs.get(key):
                    a, b = stated(claimed.get(key)), stated(theirs.get(key))
                    found.append(f"{name}: {key} is {a} in the claim, {b} in the verdict")
        return tuple(found)

    def differs_from_record(self, record: Record) -> str:
        """Why a trial's record is not of this claim, in words; empty if it is."""
        recorded = str(record.details.get(HASH, ""))
        if recorded == self.sha256:
            return ""
        said = f"another claim (sha256 {recorded[:12]})" if recorded else "no claim on record"
        return f"the trial was made with {said}, this one has sha256 {self.sha256[:12]}"

    def to_yaml(self, asks: Mapping[str, str] | None = None) -> str:
        """The file, with a comment that explains each line; asks: what every check asks."""
        lines = ["# What is claimed of a circuit, written down before its trial."]
        for name, field in type(self).model_fields.items():
            if name != "checks":
                lines.append(_commented(f"{name}: {_scalar(getattr(self, name))}", field.description or ""))
                continue
            lines.append(_commented("checks:", field.description or ""))
            for check, given in self.checks.items():
                lines.append(_commented(f"  {check}:" if given else f"  {check}: {{}}", (asks or {}).get(check, "")))
                lines += [f"    {key}: {_scalar(v)}" for key, v in given.items()]
        return "\n".join(lines) + "\n"

    def save(self, path: Path, asks: Mapping[str, str] | None = None) -> Path:
        """The file at a path, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_whole(self.to_yaml(asks), path)


def load_claim(path: Path, known: Checks) -> Claim:
    """A claim from its file: BadInput for one that is not there or does not hold together, CorruptFile for a file that
    is no YAML."""
    if not path.is_file():
        raise BadInput(f"Expected a claim at {path}, found none; `gossamer claim RUN --out {path}` writes one.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{path} is not a YAML file ({one_line(error)}); correct it there.") from error
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        raise BadInput(f"Expected names with values in {path}, got {type(content).__name__}; see `gossamer claim`.")
    return Claim.of(content, known, str(path))


class _Strict(yaml.SafeLoader):  # type: ignore[misc]
    """A key that is given twice is an error, where YAML libraries take the last."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    pairs = [(loader.construct_object(k, deep=True), loader.construct_object(v, deep=True)) for k, v in node.value]
    seen: list[Any] = []
    for (key, _), (at, _) in zip(pairs, node.value, strict=True):
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", at.start_mark)
        seen.append(key)
    return dict(pairs)


_Strict.add_constructor("tag:yaml.org,2002:map", _mapping)


def stated(threshold: float | None) -> str:
    """In words: unlike thresholds never read alike."""
    return "not stated" if threshold is None else repr(threshold).removesuffix(".0")


def _unknown(checks: object, known: Checks) -> Iterator[str]:
    """Checks and thresholds that there are none of, with the nearest, of content that may be of any kind."""
    for name, given in checks.items() if isinstance(checks, Mapping) else ():
        if name not in known:
            yield f"unknown check {name!r}: {_nearest(str(name), known)}"
            continue
        for key in given if isinstance(given, Mapping) else ():
            if key not in known[name]:
                yield f"unknown threshold {key!r} of {name}: {_nearest(str(key), known[name])}"


def _nearest(name: str, choices: Iterable[str]) -> str:
    """In the middle of a sentence."""
    return nearest(name, choices).rstrip(".?")


def _told(error: ValidationError) -> Iterator[str]:
    """Each wrong field in words, unknown ones with the nearest known."""
    for e in error.errors():
        where = ".".join(map(str, e["loc"]))
        if e["type"] == "extra_forbidden":
            yield f"unknown key {where!r}: {_nearest(where, Claim.model_fields)}"
        elif e["type"] == "float_type" and _reads_as_number(e["input"]):
            yield f"{where} is the text {e['input']!r}; YAML reads numbers like 1.0e-3 with a point"
        else:
            yield f"{where}: {e['msg']}"


def _reads_as_number(given: object) -> bool:
    try:
        return isinstance(given, str) and math.isfinite(float(given))
    except ValueError:
        return False


def _scalar(value: object) -> str:
    """On one line, as YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=False)
    return str(text).removesuffix("\n").removesuffix("\n...")


def _commented(line: str, comment: str) -> str:
    return f"{line:<32} # {comment}" if comment else line
