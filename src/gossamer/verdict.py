"""From the evidence of a trial to its verdict: one ruling per claim, and a paragraph in plain words made from them.

There is no overall number: the headline counts the claims that hold and names those that do not.

A ruling passes where the check passed as claimed (its thresholds, pairs, random circuits, ablation, split and every
seed) and its p-value, after control of false discoveries over everything that was tried, is at most the claim's level.
What passed otherwise than claimed, or with too few draws to come below that level, is not measured; what failed by the
thresholds claimed has failed, on however few pairs and draws.

When it lies: it is as good as the claim, and says what was tried, not what else would have failed; checks of a circuit
on the same pairs are not independent, for which `correction: benjamini-yekutieli` is the safe choice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import product

from pydantic import BaseModel, ConfigDict

from gossamer.claim import Claim
from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null, Verdict
from gossamer.hypotheses import LEVEL, POWER, Correction, adjusted_p_values, fewest_draws
from gossamer.record import Record

HELDOUT = "heldout"
_WORST_FIRST: tuple[Verdict, ...] = ("fail", "not measured", "not reached", "pass")


class Ruling(BaseModel):
    """One claim: a check under an ablation value on a split. name: the check, with its ablation where there are several
    and its split where it is not `heldout`; reason: why the verdict is not that of the check, or not a pass; rows: the
    evidence it rests on, one per seed; claimed: False for what was tried beside the claim."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    check: str
    ablation: str
    split: str
    verdict: Verdict
    reason: str = ""
    claimed: bool = True
    rows: tuple[Evidence, ...] = ()


class TrialVerdict(BaseModel):
    """Rulings on what was claimed, then on what was tried beside it. differences: every one between the claim and what
    was done, in words; headline: how many claims hold, and which do not; summary: the paragraph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim_sha256: str
    rulings: tuple[Ruling, ...]
    differences: tuple[str, ...]
    headline: str
    summary: str


def with_adjusted(
    evidence: Sequence[Evidence], correction: Correction = "benjamini-hochberg"
) -> tuple[Evidence, ...]:  # fmt: skip
    """The evidence with p_adjusted beside every p_value, over all rows that have one."""
    tested = [i for i, e in enumerate(evidence) if e.p_value is not None]
    adjusted = adjusted_p_values([p for e in evidence if (p := e.p_value) is not None], correction)
    found = [e.model_copy(update={"p_adjusted": None}) for e in evidence]
    for i, p in zip(tested, adjusted, strict=True):
        found[i] = found[i].model_copy(update={"p_adjusted": float(p)})
    return tuple(found)


def judge(evidence: Sequence[Evidence], claim: Claim | None = None, record: Record | None = None) -> TrialVerdict:
    """The verdict of a trial, against a claim or (None) of every check by the thresholds it was made with.

    record: of the trial, whose claim hash is compared with the claim's; one of another model or task is BadInput.
    """
    if claim and record:
        for what, wanted, got in (("model", claim.model, record.model), ("task", claim.task, record.task)):
            if wanted and wanted != got:
                raise BadInput(f"Expected the trial of a circuit of the {what} {wanted}, as claimed; it is of {got!r}.")
    correction: Correction = claim.correction if claim else "benjamini-hochberg"
    rows = with_adjusted(evidence, correction)
    tests = sum(row.p_value is not None for row in rows)
    level, power = (claim.level, claim.power) if claim else (LEVEL, POWER)
    groups: dict[tuple[str, str, str], list[Evidence]] = {}
    if claim:
        for check, split in product(claim.checks, claim.splits):
            groups |= {(check, ablation, split): [] for ablation in claim.under(check)}
    claimed = set(groups)
    for row in rows:
        groups.setdefault((row.check, (row.methodology or {}).get("value", ""), row.split or HELDOUT), []).append(row)
    least = fewest_draws(tests, level, correction) if tests else 0
    several = len({ablation for _, ablation, _ in groups if ablation}) > 1
    rulings = tuple(
        _ruling(key, several, found, claim if key in claimed else None, not claim or key in claimed, level, least)
        for key, found in groups.items()
    )
    differences = _differences(rulings, claim, record) if claim else ()
    headline = _headline([r for r in rulings if r.claimed])
    return TrialVerdict(
        claim_sha256=claim.sha256 if claim else "", rulings=rulings, differences=differences, headline=headline,
        summary=_summary(rulings, headline, differences, level, power, correction, tests, record),
    )  # fmt: skip


def _ruling(
    key: tuple[str, str, str], several: bool, rows: list[Evidence], claim: Claim | None, claimed: bool, level: float,
    least: int,
) -> Ruling:  # fmt: skip
    """The worst of its rows; a seed without a row is not measured."""
    found: list[tuple[Verdict, str]] = []
    for row in rows:
        if claim and row.seed not in claim.seeds:
            continue
        other = _otherwise(row, claim) if claim else ""
        thresholds = claim.differences_of(row.check, row.limits) if claim else ()
        excused = other and (row.verdict == "pass" or (row.verdict == "fail" and thresholds))
        so = f"{other} (the check itself: {row.verdict})"
        found.append(("not measured", so) if excused else _of_row(row, level, least))
    missing = sorted(set(claim.seeds) - {row.seed for row in rows}) if claim else []
    if missing:
        seeds = f" for seed {', '.join(map(str, missing))}" if rows or (claim and len(claim.seeds) > 1) else ""
        found.append(("not measured", f"not tried{seeds}"))
    verdict = min((v for v, _ in found), key=_WORST_FIRST.index)
    reasons = dict.fromkeys(reason for v, reason in found if v == verdict and reason)
    check, ablation, split = key
    where = [ablation] * (several and ablation != "") + [split] * (split != HELDOUT)
    return Ruling(
        name=f"{check} ({', '.join(where)})" if where else check, check=check, ablation=ablation, split=split,
        verdict=verdict, reason="; ".join(reasons), claimed=claimed, rows=tuple(rows),
    )  # fmt: skip


def _otherwise(row: Evidence, claim: Claim) -> str:
    """In what a row was not made as claimed, in words; empty if as claimed."""
    found = list(claim.differences_of(row.check, row.limits))
    if row.verdict not in ("not reached", "not measured"):
        if row.n < claim.pairs:
            found.append(f"{claim.pairs} pairs in the claim, the verdict used {row.n}")
        draws = min((null.n for null in row.nulls if _is_random(null)), default=0)
        if draws < claim.random_circuits:
            found.append(f"{claim.random_circuits} random circuits in the claim, the verdict used {draws}")
    return ", ".join(found)


def _is_random(null: Null) -> bool:
    return null.name.startswith("random")


def _of_row(row: Evidence, level: float, least: int) -> tuple[Verdict, str]:
    if row.verdict != "pass":
        return row.verdict, row.note.rstrip(".") if row.verdict in ("not reached", "not measured") else row.threshold
    if row.p_value is None or row.p_adjusted is None or row.p_adjusted <= level:
        return "pass", ""
    told = f"the adjusted p-value {row.p_adjusted:.3g} is above {level:g}"
    if row.p_smallest is not None and row.p_value <= row.p_smallest:
        return "not measured", f"{told}, and no random circuit does as well: too few were drawn, {least} are needed"
    return "fail", told


def _differences(rulings: Sequence[Ruling], claim: Claim, record: Record | None) -> tuple[str, ...]:
    """Thresholds, seeds and how each row was made; then the record."""
    found = []
    for ruling in rulings:
        if not ruling.claimed:
            found.append(f"{ruling.name}: tried, not claimed")
            continue
        if not ruling.rows:
            found.append(f"{ruling.name}: claimed, not tried")
        for row in ruling.rows:
            if row.seed not in claim.seeds:
                found.append(f"{ruling.name}: tried for seed {row.seed}, which is not claimed")
            if other := _otherwise(row, claim):
                found.append(f"{ruling.name}: {other}")
    if record and (why := claim.differs_from_record(record)):
        found.append(why)
    return tuple(dict.fromkeys(found))


def _headline(rulings: Sequence[Ruling]) -> str:
    """`2 of 5 claims hold; fail: necessity; not measured: restoration.`"""
    count = Counter(r.verdict for r in rulings)
    n = len(rulings)
    told = [f"{count['pass']} of {n} claim{'s' * (n != 1)} hold{'s' * (n == 1)}"]
    for verdict in _WORST_FIRST[:-1]:
        if count[verdict]:
            told.append(f"{verdict}: {', '.join(r.name for r in rulings if r.verdict == verdict)}")
    return "; ".join(told) + "."


def _summary(
    rulings: Sequence[Ruling], headline: str, differences: Sequence[str], level: float, power: float,
    correction: str, tests: int, record: Record | None,
) -> str:  # fmt: skip
    rows = [row for r in rulings for row in r.rows]
    of = f" of {record.model} on {record.task}" if record and record.model and record.task else ""
    sizes = sorted({row.n for row in rows})
    pairs = f" on {sizes[0]} to {sizes[-1]} pairs" if len(sizes) > 1 else f" on {sizes[0]} pairs" if sizes else ""
    values = sorted({value for row in rows if (value := (row.methodology or {}).get("value"))})
    how = f", ablation by {' and '.join(values)}" if values else ""
    told = [f"{len(rows)} check{'s' * (len(rows) != 1)}{of} {'was' if len(rows) == 1 else 'were'} made{pairs}{how}."]
    told.append(headline)
    for verdict, lead in (("pass", "Held"), ("fail", "Failed")):
        if here := [r for r in rulings if r.claimed and r.verdict == verdict]:
            told.append(f"{lead}: {'; '.join(map(_told, here))}.")
    for verdict, lead in (("not reached", "Not reached"), ("not measured", "Not measured")):
        if here := [r for r in rulings if r.claimed and r.verdict == verdict]:
            why = _grouped([(r.name, r.reason) for r in here])
            told.append(f"{lead}: {'; '.join(f'{names} ({reason})' if reason else names for reason, names in why)}.")
    if here := [r for r in rulings if not r.claimed]:
        told.append(f"Tried and not claimed: {'; '.join(f'{r.name}, {r.verdict}' for r in here)}.")
    told.append(_of_tests(rows, tests, level, correction))
    told.append(_of_pairs(rulings, level, power))
    if differences:
        told.append(f"Otherwise than claimed: {'; '.join(differences)}.")
    return " ".join(filter(None, told))


def _told(ruling: Ruling) -> str:
    """`necessity 0.9 share lost (95% 0.8 to 1) where 100 random circuits had 0.1 (95% 0 to 0.2), adjusted p 0.0099`."""
    each = []
    for row in ruling.rows:
        seed = f" for seed {row.seed}" if len(ruling.rows) > 1 else ""
        value = "no value" if row.value is None else f"{row.value:.4g}"
        told = f"{value} {row.unit}{_span(row.interval)}{seed}"
        nulls = [_of_null(null) for null in row.nulls if _is_random(null) or null.outcome != "measured"]
        told += f" where {' and '.join(nulls)}" if nulls else " without a random circuit beside it"
        if row.p_adjusted is not None:
            told += f", adjusted p {row.p_adjusted:.3g}"
        each.append(told)
    reason = f" [{ruling.reason}]" if ruling.reason else ""
    return f"{ruling.name} {', and '.join(each)}{reason}"


def _of_null(null: Null) -> str:
    if null.value is None:
        return f"the null `{null.name}` was {null.outcome}"
    return f"{null.n} random circuits had {null.value:.4g}{_span(null.interval)}"


def _span(interval: tuple[float, float] | None) -> str:
    return f" (95% {interval[0]:.4g} to {interval[1]:.4g})" if interval else ""


def _of_tests(rows: Sequence[Evidence], tests: int, level: float, correction: str) -> str:
    without = [row.check for row in rows if row.p_value is None]
    if not rows:
        return ""
    if not tests:
        return "No check has a p-value."
    told = f"The p-values are of {tests} test{'s' * (tests != 1)} together ({correction}, level {level:g})."
    return told + (f" Without a p-value: {', '.join(dict.fromkeys(without))}." if without else "")


def _of_pairs(rulings: Sequence[Ruling], level: float, power: float) -> str:
    """How many pairs tell the circuit from its null, the most over the rows of a ruling."""
    known = {
        r.name: (max(needed, key=_size), max(row.n for row in r.rows))
        for r in rulings if (needed := [row.pairs_needed for row in r.rows if row.pairs_needed is not None])
    }  # fmt: skip
    if not known:
        return ""
    told = []
    for name, (pairs, used) in known.items():
        fewer = " (more than were used)" * (used < _size(pairs))
        told.append((name, "no number of them" if pairs == "infinite" else f"{pairs}{fewer}"))
    by = "; ".join(f"{enough} for {names}" for enough, names in _grouped(told))
    return f"Pairs that tell the circuit from its null (level {level:g}, power {power:g}): {by}."


def _grouped(told: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """(what is told, the names of which it is) of (name, what is told of it), each told once."""
    found: dict[str, list[str]] = {}
    for name, what in told:
        found.setdefault(what, []).append(name)
    return [(what, ", ".join(names)) for what, names in found.items()]


def _size(pairs: int | str) -> float:
    return math.inf if pairs == "infinite" else float(pairs)
