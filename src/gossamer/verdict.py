"""From the evidence of a trial to its verdict: one ruling per row, and a paragraph in plain words made from them.

There is no overall number: the headline counts the claims that hold and names those that do not.

A ruling passes where the check passed by the thresholds claimed, in a trial of at least the pairs claimed, and its
p-value, if it has one, is at most the claim's level after control of false discoveries over everything that was tried.
What passed by other thresholds or on fewer pairs is not measured; what failed has failed.

When it lies: it is as good as the claim, and says what was tried, not what else would have failed; checks of a circuit
on the same pairs are not independent, for which `correction: benjamini-yekutieli` is the safe choice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from gossamer.claim import Claim, stated
from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Verdict
from gossamer.hypotheses import LEVEL, POWER, Correction, adjusted_p_values, fewest_draws
from gossamer.record import Record

TRIED_PAIRS = "pairs"  # of Record.details: how many a trial was made on
_WORST_FIRST: tuple[Verdict, ...] = ("fail", "not measured", "not reached", "pass")


class Ruling(BaseModel):
    """One claim. name: that of the row; check: the check it is of; reason: why the verdict is not that of the check, or
    not a pass; row: the evidence, None for a check that was claimed and not tried; claimed: False for what was tried
    beside the claim."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    check: str
    verdict: Verdict
    reason: str = ""
    claimed: bool = True
    row: Evidence | None = None


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
    level = claim.level if claim else LEVEL
    tests = sum(row.p_value is not None for row in rows)
    otherwise = _otherwise(rows, claim, record) if claim else ()
    rulings = [_ruling(row, claim, otherwise, level, tests, correction) for row in rows]
    differences = list[str]()
    if claim:
        tried = {row.check: row.limits for row in rows}
        rulings += [
            Ruling(name=name, check=name, verdict="not measured", reason="not tried")
            for name in claim.checks if name not in tried
        ]  # fmt: skip
        rulings.sort(key=lambda r: not r.claimed)
        differences += claim.differences(tried)
        differences += otherwise
        if record and (why := claim.differs_from_record(record)):
            differences.append(why)
    headline = _headline([r for r in rulings if r.claimed])
    return TrialVerdict(
        claim_sha256=claim.sha256 if claim else "", rulings=tuple(rulings), differences=tuple(differences),
        headline=headline, summary=_summary(rulings, headline, differences, level, correction, record),
    )  # fmt: skip


def _otherwise(rows: Sequence[Evidence], claim: Claim, record: Record | None) -> tuple[str, ...]:
    """In what the whole trial was not made as claimed, in words: its pairs, and how it ablated."""
    found, details = list[str](), record.details if record else {}
    used = details.get(TRIED_PAIRS, max((row.n for row in rows if row.unit_of_n == "pairs"), default=claim.pairs))
    if used < claim.pairs:
        found.append(f"on {used} pairs, {claim.pairs} are claimed")
    made = record.config.get("claim", {}) if record else {}
    for name in ("ablation", "granularity", "positions", "hypothesis"):
        if name in made and made[name] != getattr(claim, name):
            own, its = (value or "the usual one" for value in (getattr(claim, name), made[name]))
            found.append(f"made with {name} {its}, claimed with {own}")
    return tuple(found)


def _ruling(
    row: Evidence, claim: Claim | None, otherwise: Sequence[str], level: float, tests: int, correction: Correction
) -> Ruling:
    claimed = claim is None or row.check in claim.checks
    verdict, reason = _of_row(row, level, tests, correction)
    if claim and claimed and row.verdict == "pass":
        own, made = claim.checks[row.check], row.limits
        other = [f"made with {k} {stated(made.get(k))}" for k in sorted({*own, *made}) if own.get(k) != made.get(k)]
        other += otherwise
        if other:
            verdict, reason = "not measured", f"{', '.join(other)} (the check itself: pass)"
    return Ruling(name=row.name, check=row.check, verdict=verdict, reason=reason, claimed=claimed, row=row)


def _of_row(row: Evidence, level: float, tests: int, correction: Correction) -> tuple[Verdict, str]:
    if row.verdict != "pass":
        return row.verdict, row.note.rstrip(".") if row.verdict in ("not reached", "not measured") else row.threshold
    if row.p_value is None or row.p_adjusted is None or row.p_adjusted <= level:
        return "pass", ""
    told = f"the adjusted p-value {row.p_adjusted:.3g} is above {level:g}"
    if row.p_smallest is not None and row.p_value <= row.p_smallest:
        least = fewest_draws(tests, level, correction)
        return "not measured", f"{told}, and no random circuit does as well: too few were drawn, {least} are needed"
    return "fail", told


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
    rulings: Sequence[Ruling], headline: str, differences: Sequence[str], level: float,
    correction: str, record: Record | None,
) -> str:  # fmt: skip
    rows = [r.row for r in rulings if r.row]
    of = f" of {record.model} on {record.task}" if record and record.model and record.task else ""
    sizes = sorted({row.n for row in rows if row.unit_of_n == "pairs" and row.n})
    pairs = f" on {sizes[0]} to {sizes[-1]} pairs" if len(sizes) > 1 else f" on {sizes[0]} pairs" if sizes else ""
    told = [f"{len(rows)} check{'s' * (len(rows) != 1)}{of} {'was' if len(rows) == 1 else 'were'} made{pairs}."]
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
    tests = sum(row.p_value is not None for row in rows)
    if tests:
        told.append(
            f"{tests} row{'s have p-values' if tests > 1 else ' has a p-value'}, adjusted together ({correction}, "
            f"level {level:g})."
        )
    told.append(_of_pairs(rows))
    if differences:
        told.append(f"Otherwise than claimed: {'; '.join(differences)}.")
    return " ".join(filter(None, told))


def _told(ruling: Ruling) -> str:
    """`necessity 0.9 share lost (95% 0.8 to 1) where 100 random circuits had 0.1 (95% 0 to 0.2), adjusted p 0.0099`."""
    row = ruling.row
    assert row is not None, "a check that was not tried neither holds nor fails"
    value = "no value" if row.value is None else f"{row.value:.4g}"
    told = f"{ruling.name} {value} {row.unit}{_span(row.interval)}"
    random = next((n for n in row.nulls if n.name.startswith("random") and n.value is not None), None)
    if random:
        told += f" where {random.n} draws of `{random.name}` had {random.value:.4g}"
    if row.p_adjusted is not None:
        told += f", adjusted p {row.p_adjusted:.3g}"
    return told


def _span(interval: tuple[float, float] | None) -> str:
    return f" (95% {interval[0]:.4g} to {interval[1]:.4g})" if interval else ""


def _of_pairs(rows: Sequence[Evidence]) -> str:
    """How many pairs tell the circuit from its null."""
    told = []
    for row in rows:
        if row.pairs_needed is not None:
            fewer = " (more than were used)" * (row.n < _size(row.pairs_needed))
            enough = "no number of them" if row.pairs_needed == "infinite" else f"{row.pairs_needed}{fewer}"
            told.append((row.name, enough))
    by = "; ".join(f"{enough} for {names}" for enough, names in _grouped(told))
    return by and f"Pairs that tell the circuit from its null (level {LEVEL:g}, power {POWER:g}): {by}."


def _grouped(told: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """(what is told, the names of which it is) of (name, what is told of it), each told once."""
    found: dict[str, list[str]] = {}
    for name, what in told:
        found.setdefault(what, []).append(name)
    return [(what, ", ".join(names)) for what, names in found.items()]


def _size(pairs: int | str) -> float:
    return math.inf if pairs == "infinite" else float(pairs)
