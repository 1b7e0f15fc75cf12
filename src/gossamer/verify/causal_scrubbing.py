"""Is a stated hypothesis true: does this part depend on the prompt through that feature of it alone?

Causal scrubbing (Chan et al. 2022, Redwood Research) replaces what a part holds by what it holds in another prompt
that agrees on the feature it is claimed to depend on. A hypothesis is a list of claims about the circuit's parts; all
that is outside the circuit is claimed to depend on nothing, and takes its values from any prompt. For each claim in
turn, its parts take theirs, all from one prompt that agrees with this one on the claimed features, while the circuit's
other parts compute their own. f: the effect that is left, from 0 where every part takes its value from any prompt to 1
where the circuit computes all its own (and what is outside takes any; the same ones in every run). Beside each claim
stands the same with its parts from any prompt: a claim that nothing changes then is not tested by this task.

A file:

    features:
      quote: "['\\"]"                 # a feature of prompts: what a regular expression first finds
    claims:
      - parts: ["3.attn.v:9"]        # names of parts, or of locations: all of the circuit's parts there
        depends_on: [quote]          # answer, template, nothing, example (its own value, unscrubbed), or one above
      - parts: rest                  # all that no other claim names
        depends_on: [answer]

Without one, the parts of every location (at head grain: input, heads, MLPs) are claimed to depend on the answer alone.
That is false of many circuits that are right: a key that finds a word depends on where the word stands (11 of 29 true
planted circuits fail it), so `gossamer verify` makes this check only where a hypothesis is stated.

Prompts have different lengths, and values are exchanged position by position: donors are prompts of exactly as many
tokens (not aligned at the last token, which would have to make up what comes before). A prompt without another donor is
its own; a claim for which this is so for more than half of the prompts is not measured.

When it lies: this is not the whole of Chan's algorithm, which scrubs all claims at once along a tree of copies of the
model; parts in series that hide the same thing twice pass one by one here. A claim about parts that another path
replaces passes with anything: look at its blank. Values come from unscrubbed runs, so that f is above 1 where random
values outside hold the circuit down. Features that single out prompts pass for want of donors. Agreeing on the answer
says that nothing finer is needed, not that the part computes it. A circuit of edges is tried as its nodes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from gossamer.errors import BadInput, nearest, one_line
from gossamer.evidence import Evidence, Null, Verdict
from gossamer.registry import check
from gossamer.statistics import quantile_interval, resampled_means
from gossamer.task import Example
from gossamer.verify.edge_faithfulness import why_undefined
from gossamer.verify.trial import Trial

GIVEN = ("answer", "template", "example", "nothing")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Claim(_Strict):
    """These parts depend on a prompt through these of its features alone. parts: names of parts or locations, `rest`
    for those that no other claim names."""

    parts: list[str] | Literal["rest"]
    depends_on: list[str] = Field(min_length=1)


class Hypothesis(_Strict):
    """Claims about parts of a circuit. features: by name, a regular expression whose first match in a prompt is the
    value; a prompt in which it finds nothing has the value nothing."""

    claims: list[Claim] = Field(min_length=1)
    features: dict[str, str] = {}

    @field_validator("features")
    @classmethod
    def _patterns(cls, features: dict[str, str]) -> dict[str, str]:
        for name, pattern in features.items():
            if name in GIVEN:
                raise ValueError(f"{name} is a feature of every prompt, call yours another name")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name} is no regular expression ({error})") from error
        return features


def hypothesis_of(content: object, source: str) -> Hypothesis:
    """A hypothesis from plain data; BadInput says everything in it that is not one."""
    try:
        return Hypothesis.model_validate(content)
    except ValueError as error:
        raise BadInput(f"{source} is not a hypothesis: {one_line(error)}.") from error


def read_hypothesis(path: str | Path) -> Hypothesis:
    """A hypothesis from a YAML file."""
    if not Path(path).is_file():
        raise BadInput(f"Expected a hypothesis at {path}, found none.")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{path} is not a hypothesis: {one_line(error)}.") from error
    return hypothesis_of(content, str(path))


class Stated(NamedTuple):
    """A claim about parts (numbers) in words, and which prompts agree: class per prompt, int [rows]."""

    name: str
    parts: np.ndarray
    classes: np.ndarray


@check("causal-scrubbing")
def causal_scrubbing(
    trial: Trial, *, hypothesis: Hypothesis | None = None, target: float = 0.8, draws: int = 1
) -> Evidence:
    """The smallest f of the hypothesis's tested claims; 1 where scrubbing takes nothing away.

    Passes if that claim's f is at least `target`, fails if its whole interval is below, and is not measured in between.
    A claim is tested if its blank's interval is below. draws: donors per prompt, over which pairs are averaged. A claim
    about parts or features that are not there is BadInput.
    """
    trial = trial.of_nodes()
    fields = {
        "claim": "causal-scrubbing: parts depend on the prompt only as the hypothesis says",
        "unit": "share of the circuit's effect kept", "n": trial.n_pairs, "seed": trial.seed,
        "methodology": trial.methodology().as_dict() | {
            "value": "resample", "reference": "other prompts of the claimed class",
        },
        "threshold": f"fails if, by a claim that matters, the whole interval is below {target:g} of the effect",
    }  # fmt: skip

    def unmeasured(why: str) -> Evidence:
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": why})

    if trial.n_pairs < 2:
        return unmeasured(f"{trial.n_pairs} held-out pairs; 2 are needed.")
    if not trial.inside.any():
        return unmeasured("The circuit has no parts.")
    claims = stated(trial, hypothesis)
    rng = np.random.default_rng(trial.seed)
    lengths = trial.heldout.last.cpu().numpy()

    outside = [donors(lengths, rng) for _ in range(draws)]

    def effect(parts: np.ndarray, classes: np.ndarray, rest: int = -1) -> np.ndarray:
        """Mean over draws of donors, [pairs]; rest: -1 where the circuit's other parts compute their own, else 0."""
        groups = np.where(trial.inside, rest, 0)
        groups[parts] = 1
        found = [trial.scrubbed(np.stack([other, donors(classes, rng)]), groups) for other in outside]
        return np.mean(found, axis=0)

    none = np.empty(0, dtype=np.int64)
    anything, own = effect(none, lengths, rest=0), effect(none, lengths)
    if why := why_undefined(anything, own, seed=trial.seed):
        return unmeasured(f"Of the circuit with everything outside from any prompt: {why}.")
    below = own - anything

    def f_of(effects: np.ndarray) -> tuple[float, tuple[float, float]]:
        spread = resampled_means(effects - anything, trial.seed) / resampled_means(below, trial.seed)
        return float((effects - anything).mean() / below.mean()), quantile_interval(spread)

    rows, worst = [], None
    for i, claim in enumerate(claims):
        classes = joined(lengths, claim.classes)
        alone = share_alone(classes)
        kept, blank = f_of(effect(claim.parts, classes)), f_of(effect(claim.parts, lengths))
        tested = alone <= 0.5 and blank[1][1] < target
        why = "" if tested else " (no donors)" if alone > 0.5 else " (not tested)"
        rows.append(f"{claim.name}: {kept[0]:.2f}, from any prompt {blank[0]:.2f}{why}")
        rank = kept[1][1] >= target, kept[0]  # a claim that surely fails before one that only looks worse
        if tested and (worst is None or rank < (worst[0][1][1] >= target, worst[0][0])):
            worst = kept, blank, claim.name
        if trial.progress:
            trial.progress(i + 1, len(claims), kept[0])
    note = f"f of each claim: {'; '.join(rows)}. Prompts of equal length are donors."
    if worst is None:
        return unmeasured(f"No claim is tested: without donors, or any prompt's values do as well. {note}")
    (f, spread), (f_blank, spread_blank), which = worst
    name = "the same parts from any prompt of the length"
    verdict = decided(f, spread, target)
    if verdict == "not measured":
        note = f"Undecided: the interval holds {target:g}; take more pairs or draws. {note}"
    return Evidence.model_validate({
        **fields, "value": f, "interval": spread, "verdict": verdict,
        "nulls": (Null(name=name, value=f_blank, interval=spread_blank, n=trial.n_pairs),),
        "note": f"The claim that fares worst: {which}. {note}",
    })  # fmt: skip


def decided(f: float, interval: tuple[float, float], target: float) -> Verdict:
    """Pass from `target` on, fail where the whole interval is below it, else not measured."""
    return "pass" if f >= target else "fail" if interval[1] < target else "not measured"


def joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Classes of prompts that agree in both, int [rows]."""
    return np.asarray(np.unique(np.stack([a, b]), axis=1, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def donors(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each prompt another one of its class, or itself where it is alone, int [rows]."""
    found = np.arange(len(classes))
    for value in np.unique(classes):
        rows = np.flatnonzero(classes == value)
        if len(rows) > 1:
            found[rows] = rows[(np.arange(len(rows)) + rng.integers(1, len(rows), len(rows))) % len(rows)]
    return found


def share_alone(classes: np.ndarray) -> float:
    """The share of prompts that no other one agrees with."""
    _, which, counts = np.unique(classes, return_inverse=True, return_counts=True)
    return float((counts[which.reshape(-1)] == 1).mean())


def stated(trial: Trial, hypothesis: Hypothesis | None = None) -> tuple[Stated, ...]:
    """The claims of a hypothesis about a trial's circuit; without one, of every kind of part that it depends on the
    answer alone. Parts and features that are not there, or parts claimed twice, are one BadInput."""
    parts = np.flatnonzero(trial.inside)
    names = {trial.part(int(i)): int(i) for i in parts}
    if hypothesis is None:
        answer = features(trial, {}, {"answer"})["answer"]
        return tuple(
            Stated(f"{_place(trial.part(int(here[0])), len(here))} on answer", here, answer)
            for kind in np.unique(trial.kinds[parts]) for here in [parts[trial.kinds[parts] == kind]]
        )  # fmt: skip
    problems, taken = [], dict[int, int]()
    places: dict[str, list[int]] = {}
    for name, number in names.items():
        places.setdefault(name, []).append(number)
        if ":" in name:
            places.setdefault(name.partition(":")[0], []).append(number)
    for i, claim in enumerate(hypothesis.claims):
        for name in claim.parts if claim.parts != "rest" else ():
            if name not in places:
                problems.append(f"claim {i + 1} names {name!r}, no part of the circuit: {nearest(name, places)}")
            for number in places.get(name, ()):
                if taken.setdefault(number, i) != i:
                    problems.append(f"claims {taken[number] + 1} and {i + 1} are both about {trial.part(number)}")
    if sum(claim.parts == "rest" for claim in hypothesis.claims) > 1:
        problems.append("more than one claim is about the rest")
    known = (*GIVEN, *hypothesis.features)
    asked = {f for claim in hypothesis.claims for f in claim.depends_on}
    problems += [f"unknown feature {f!r}: {nearest(f, known)}" for f in sorted(asked - set(known))]
    if problems:
        raise BadInput(f"The hypothesis does not fit the circuit: {'; '.join(problems)}.")
    values, found = features(trial, hypothesis.features, asked), list[Stated]()
    for i, claim in enumerate(hypothesis.claims):
        here = [p for p in parts.tolist() if (p not in taken if claim.parts == "rest" else taken.get(p) == i)]
        classes = values[claim.depends_on[0]]
        for name in claim.depends_on[1:]:
            classes = joined(classes, values[name])
        what = "rest" if claim.parts == "rest" else ", ".join(claim.parts[:3]) + ", ..." * (len(claim.parts) > 3)
        if here:
            found.append(Stated(f"{what} on {' and '.join(claim.depends_on)}", np.array(here), classes))
    if not found:
        raise BadInput("Expected a claim about at least one part of the circuit, got claims about none.")
    return tuple(found)


def _place(name: str, n: int) -> str:
    """The location of a part, or what kind of node it is; n: how many there are of it."""
    where = name.partition(":")[0] if ":" in name else {"i": "input", "a": "heads", "m": "MLPs"}.get(name[0], name)
    return f"{where} ({n})" if n > 1 else name


def features(trial: Trial, patterns: dict[str, str], asked: set[str]) -> dict[str, np.ndarray]:
    """Classes of the held-out prompts by the features asked for, int [rows] each."""
    n = len(trial.heldout.last)
    found = {
        "answer": trial.heldout.answer.cpu().numpy().astype(np.int64), "example": np.arange(n),
        "nothing": np.zeros(n, dtype=np.int64),
    }  # fmt: skip
    if asked <= set(found):
        return found
    examples = _examples(trial)
    prompts = [p for e in examples for p in (e.clean, e.counterfactual)]
    found["template"] = np.repeat(np.unique([e.template for e in examples], return_inverse=True)[1], 2)
    for name, pattern in patterns.items():
        matches = [re.search(pattern, p) for p in prompts]
        found[name] = np.unique([m.group(0) if m else "" for m in matches], return_inverse=True)[1]
    return found


def _examples(trial: Trial) -> tuple[Example, ...]:
    """The examples that the held-out pairs are of; BadInput where they are not the task's first ones."""
    examples, pairs = trial.task.heldout[: trial.n_pairs], trial.heldout
    same = len(examples) == trial.n_pairs
    if same:
        now = trial.model.encode(examples)
        same = now.tokens.shape == pairs.tokens.shape and bool((now.tokens == pairs.tokens.to(now.tokens.device)).all())
    if not same:
        raise BadInput(
            "Features of the text (template, or a regular expression) need a trial on the first held-out pairs of its "
            "task; these pairs are others: claim dependence on answer, example or nothing."
        )
    return examples
