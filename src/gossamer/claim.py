"""claim.yaml: what is claimed of a circuit, with every threshold, written down before the trial.

A verdict is only as good as the thresholds it was made with, and they are easily chosen after the numbers are known. A
claim names them beforehand; its hash goes into the record of the trial, and a verdict made with others says so.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gossamer.ablation import Value
from gossamer.errors import BadInput, CorruptFile, nearest, one_line
from gossamer.hypotheses import LEVEL, POWER, Correction
from gossamer.record import Record

Kind = Literal["channel", "head"]
Thresholds = dict[str, float]
HASH = "claim_sha256"  # of Record.details
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_T = TypeVar("_T")
_Several = Annotated[tuple[_T, ...], Field(min_length=1, strict=False)]  # a list in YAML


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A threshold of a check: its name, what is claimed unless said otherwise, the range it can have, and what it
    means."""

    name: str
    default: float
    low: float
    high: float
    means: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check of a kind of circuit: its thresholds, what it asks, and the ablation values it has a meaning under
    (empty: every one)."""

    asks: str
    limits: tuple[Limit, ...] = ()
    only: tuple[Value, ...] = ()


def _near_one(asks: str, only: tuple[Value, ...] = ()) -> Check:
    return Check(asks=asks, only=only, limits=(
        Limit(name="at_least", default=0.9, low=0, high=1, means="the least that passes"),
        Limit(name="at_most", default=1.1, low=1, high=math.inf, means="the most; above 1 it lacks edges that hinder"),
    ))  # fmt: skip


CHECKS: dict[Kind, dict[str, Check]] = {
    "channel": {
        "sufficiency": Check(asks="task loss of the circuit alone, nats", limits=(
            Limit(name="loss_at_most", default=0.15, low=0, high=math.inf, means="the interval reaches down to it"),)),
        "accuracy": Check(asks="share of pairs whose two prompts the circuit alone gets right", limits=(
            Limit(name="above", default=0.25, low=0, high=1, means="the interval lies above; a coin has 0.25"),)),
        "necessity": Check(asks="task loss of the model without the circuit, nats; blind ln 2", limits=(
            Limit(name="loss_above", default=math.log(2), low=0, high=math.inf, means="the interval lies above"),)),
    },
    "head": {
        "faithfulness": _near_one("share of the logit difference that the circuit alone keeps"),
        "restoration": _near_one("share that the circuit's values alone bring back", ("resample",)),
        "accuracy": Check(asks="share of prompts on which the circuit alone prefers the answer", limits=(
            Limit(name="above", default=0.5, low=0, high=1, means="the interval lies above; a coin has 0.5"),)),
        "divergence": Check(asks="KL(model || circuit), nats: the interval lies below every random circuit"),
        "necessity": Check(asks="share of the logit difference lost without the circuit", limits=(
            Limit(name="lost_above", default=0.5, low=0, high=1, means="the interval lies above"),)),
    },
}  # fmt: skip


class Claim(BaseModel):
    """What is claimed of a circuit. Strict: an unknown key, check or threshold is an error that names the nearest.

    Every check of the claim is claimed under every ablation value (where it has a meaning), on every split, for every
    seed. Lists are sets: their order changes neither the claim nor its hash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format_version: Literal[1] = Field(default=1, description="of this file")
    kind: Kind = Field(description="of circuit: channel (of a sparse model), or head (edges of heads, MLPs or blocks)")
    model: str = Field(default="", description="the model's name; empty: whichever the circuit is of")
    task: str = Field(default="", description="the task's name; empty: whichever the circuit is of")
    checks: dict[str, dict[str, _Finite]] = Field(min_length=1, description="what is claimed, with its thresholds")
    ablations: _Several[Value] = Field(description="what an ablated value becomes; each is claimed")
    splits: _Several[str] = Field(default=("heldout",), description="pairs tried: heldout, or names of others")
    seeds: _Several[int] = Field(default=(0,), description="of random circuits and bootstraps; each is claimed")
    pairs: int = Field(default=128, ge=2, description="the fewest pairs of a split that a check is made on")
    random_circuits: int = Field(default=100, ge=1, description="the fewest random circuits beside each number")
    level: _Finite = Field(default=LEVEL, gt=0, lt=0.5, description="the largest adjusted p-value that passes")
    power: _Finite = Field(default=POWER, ge=0.5, lt=1, description="of the pairs said to be needed")
    correction: Correction = Field(default="benjamini-hochberg", description="for many tests; or benjamini-yekutieli")

    @classmethod
    def default(cls, kind: Kind, *, model: str = "", task: str = "") -> Claim:
        """The claim of a kind of circuit of which nobody said otherwise: every check with its usual thresholds.

        100 random circuits, since with 99 one true check of five can be told from its null at level .05.
        """
        if kind not in CHECKS:
            raise BadInput(f"Unknown kind of circuit {kind!r}: {nearest(kind, CHECKS)}")
        return cls(
            kind=kind, model=model, task=task, ablations=("mean" if kind == "channel" else "resample",),
            checks={name: {x.name: x.default for x in check.limits} for name, check in CHECKS[kind].items()},
        )  # fmt: skip

    @classmethod
    def of(cls, content: Mapping[str, Any], source: str = "the claim") -> Claim:
        """A claim from plain data; everything that is wrong with it in one BadInput."""
        try:
            found = cls.model_validate(dict(content))
        except ValidationError as error:
            raise BadInput(f"Expected a claim in {source}: {'; '.join(_told(error))}.") from error
        if problems := tuple(found._problems()):
            raise BadInput(f"Expected a claim in {source}: {'; '.join(problems)}.")
        return found

    def _problems(self) -> Iterator[str]:
        for field in ("ablations", "splits", "seeds"):
            listed = getattr(self, field)
            yield from (f"{field} has {x!r} twice" for x in sorted({x for x in listed if listed.count(x) > 1}))
        known = CHECKS[self.kind]
        for name, given in self.checks.items():
            if name not in known:
                yield f"unknown check {name!r} of {self.kind} circuits: {nearest(name, known).rstrip('.')}"
                continue
            limits = {x.name: x for x in known[name].limits}
            for key in given.keys() - limits:
                yield f"unknown threshold {key!r} of {name}: {nearest(key, limits).rstrip('.')}"
            for key, limit in limits.items():
                if key not in given:
                    yield f"{name} does not say its threshold {key} (by default {limit.default:g})"
                elif not limit.low <= given[key] <= limit.high:
                    yield f"{key} of {name} is {given[key]:g}, expected {limit.low:g} to {limit.high:g}"
            if not self.under(name):
                yield f"{name} has a meaning under {' and '.join(known[name].only)} alone, which is not in ablations"

    def under(self, check: str) -> tuple[str, ...]:
        """The ablation values of the claim under which a check has a meaning."""
        only = CHECKS[self.kind][check].only
        return tuple(v for v in self.ablations if not only or v in only)

    def thresholds_for(self, check: str) -> Thresholds:
        """The thresholds claimed of a check, by name; BadInput for a check that is not claimed."""
        if check not in self.checks:
            raise BadInput(f"The claim has no check {check!r}: {nearest(check, self.checks)}")
        return dict(self.checks[check])

    @property
    def sha256(self) -> str:
        """Of its content as canonical JSON: every field, keys and lists sorted, no white space."""
        content = self.model_dump(mode="json")
        content |= {name: sorted(content[name]) for name in ("ablations", "splits", "seeds")}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def recorded(self, record: Record) -> Record:
        """The record of a trial made under this claim: details say its hash."""
        return record.model_copy(update={"details": {**record.details, HASH: self.sha256}})

    def differences_of(self, check: str, used: Mapping[str, float]) -> tuple[str, ...]:
        """Every difference between the thresholds claimed of a check and those used, in words; empty if none."""
        claimed = self.thresholds_for(check)
        found = [f"{key} is {v:g} in the claim, not stated by the verdict" for key, v in claimed.items()
                 if key not in used]  # fmt: skip
        found += [f"{key} is {v:g} in the claim, the verdict used {used[key]:g}" for key, v in claimed.items()
                  if key in used and used[key] != v]  # fmt: skip
        found += [f"{key} is {v:g} in the verdict, not in the claim" for key, v in used.items() if key not in claimed]
        return tuple(found)

    def differences(self, thresholds: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
        """Every difference from the thresholds that a verdict used (by check and name), in words; empty if none."""
        found = [f"{name}: tried, not claimed" for name in thresholds if name not in self.checks]
        for name in self.checks:
            if name in thresholds:
                found += [f"{name}: {told}" for told in self.differences_of(name, thresholds[name])]
            else:
                found.append(f"{name}: claimed, not tried")
        return tuple(found)

    def differences_from(self, other: Claim) -> tuple[str, ...]:
        """Every difference from another claim, in words: this one is the claim, the other what was done."""
        found = []
        for name in type(self).model_fields:
            own, its = getattr(self, name), getattr(other, name)
            if isinstance(own, tuple):
                own, its = tuple(sorted(own)), tuple(sorted(its))
            if name != "checks" and own != its:
                found.append(f"{name} is {_told_value(own)} in the claim, {_told_value(its)} was used")
        return (*found, *self.differences(other.checks))

    def differs_from_record(self, record: Record) -> str:
        """Why a trial's record is not of this claim, in words; empty if it is."""
        recorded = str(record.details.get(HASH, ""))
        if recorded == self.sha256:
            return ""
        said = f"another claim (sha256 {recorded[:12]})" if recorded else "no claim on record"
        return f"the trial was made with {said}, this one has sha256 {self.sha256[:12]}"

    def to_yaml(self) -> str:
        """The file, with a comment that explains each line."""
        lines = ["# What is claimed of a circuit, written down before its trial."]
        for name, field in type(self).model_fields.items():
            if name != "checks":
                lines.append(_commented(f"{name}: {_scalar(getattr(self, name))}", field.description or ""))
                continue
            lines.append(_commented("checks:", field.description or ""))
            for check, given in self.checks.items():
                about = CHECKS[self.kind][check]
                lines.append(_commented(f"  {check}:" if given else f"  {check}: {{}}", about.asks))
                limits = {x.name: x.means for x in about.limits}
                lines += [_commented(f"    {key}: {_scalar(v)}", limits[key]) for key, v in given.items()]
        return "\n".join(lines) + "\n"

    def save(self, path: Path) -> Path:
        """The file at a path; temporary name, then rename."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".partial")
        temporary.write_text(self.to_yaml(), encoding="utf-8")
        os.replace(temporary, path)
        return path


def load_claim(path: Path) -> Claim:
    """A claim from its file: BadInput for one that is not there or does not hold together, CorruptFile for a file that
    is no YAML."""
    if not path.is_file():
        raise BadInput(f"Expected a claim at {path}, found none; Claim.default(kind).save(path) writes one.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{path} is not a YAML file ({one_line(error)}); correct it there.") from error
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        raise BadInput(f"Expected names with values in {path}, got {type(content).__name__}; see Claim.to_yaml.")
    return Claim.of(content, str(path))


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


def _told(error: ValidationError) -> Iterator[str]:
    """Each wrong field in words, unknown ones with the nearest known."""
    for e in error.errors():
        where = ".".join(map(str, e["loc"]))
        if e["type"] == "extra_forbidden":
            yield f"unknown key {where!r}: {nearest(where, Claim.model_fields).rstrip('.')}"
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
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=math.inf, allow_unicode=False)
    return str(text).removesuffix("\n").removesuffix("\n...")


def _told_value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _commented(line: str, comment: str) -> str:
    return f"{line:<32} # {comment}"
