"""Sequence continuation: numerals, number words, months (Lan et al. 2024, arXiv 2311.04131).

The counterfactual is another run of the same series among the same words. The splits share neither templates nor the
nouns of the prompts; the members of a series are few, and both splits draw runs of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gossamer.registry import task
from gossamer.task import Example, Task
from gossamer.tasks.pairs import Split, make_task

_TRAIN_NOUNS = "school bank hotel museum library market station bakery garden office".split()
_HELDOUT_NOUNS = "church bridge tower farm factory gallery palace hospital store stadium".split()
_SHOWN, _LONGER = 4, 7


@dataclass(frozen=True, kw_only=True)
class _Series:
    """A series and sentences that end in one of its members. more: other members, out of distribution, by name."""

    what: str
    members: tuple[str, ...]
    train: tuple[str, ...]
    heldout: tuple[str, ...]
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_SERIES = {
    "sequence_numerals": _Series(
        what="Go on counting in numerals",
        members=tuple(str(i) for i in range(1, 31)),
        train=("The {noun} is number {member}.", "Turn to the {noun} on page {member}.", "The {noun} has {member}."),
        heldout=("Look for the {noun} under entry {member}.", "The {noun} got {member}."),
        more={"larger numbers": tuple(str(i) for i in range(50, 100))},
    ),
    "sequence_number_words": _Series(
        what="Go on counting in number words",
        members=tuple(
            "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty".split()
        ),
        train=("The {noun} is number {member}.", "For the {noun} we paid {member}.", "The {noun} has {member}."),
        heldout=("The answer of the {noun} was {member}.", "The {noun} got {member}."),
    ),
    "sequence_months": _Series(
        what="Go on with the months",
        members=tuple(
            "January February March April May June July August September October November December".split()
        ),
        train=("The {noun} opened in {member}.", "They sold the {noun} in {member}.", "A {noun} was new in {member}."),
        heldout=("We saw the {noun} during {member}.", "The {noun} will close next {member}."),
    ),
}  # fmt: skip


def _run(sentence: str, shown: int) -> str:
    """The sentence `shown` times, then once more up to its member: {n0} to {n9} are nouns, {m0}, {m1}, ... members."""
    sentences = [sentence.format(noun=f"{{n{i}}}", member=f"{{m{i}}}") for i in range(shown + 1)]
    return " ".join(sentences).removesuffix(f" {{m{shown}}}.")


def _fill(rng: random.Random, template: str, nouns: Sequence[str], members: Sequence[str]) -> Example:
    shown = template.count("{m")
    words = {f"n{i}": noun for i, noun in enumerate(rng.sample(nouns, shown + 1))}
    sides = []
    for start in rng.sample(range(len(members) - shown), 2):
        run = {f"m{i}": members[start + i] for i in range(shown)}
        sides.append((template.format(**words, **run), f" {members[start + shown]}"))
    (clean, answer), (other, wrong) = sides
    return Example(clean=clean, counterfactual=other, answer=answer, wrong_answer=wrong, template=template)


def _register(name: str, series: _Series) -> None:
    train, heldout, longer = (
        tuple(_run(sentence, shown) for sentence in sentences)
        for sentences, shown in ((series.train, _SHOWN), (series.heldout, _SHOWN), (series.heldout, _LONGER))
    )
    ood = {
        "longer runs": Split(longer, (_HELDOUT_NOUNS, series.members), _fill),
        "backwards": Split(heldout, (_HELDOUT_NOUNS, series.members[::-1]), _fill),
        **{k: Split(heldout, (_HELDOUT_NOUNS, members), _fill) for k, members in series.more.items()},
    }

    def make(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
        return make_task(
            name, series.what, Split(train, (_TRAIN_NOUNS, series.members), _fill),
            Split(heldout, (_HELDOUT_NOUNS, series.members), _fill), seed=seed, n_train=n_train, n_heldout=n_heldout,
            ood=ood, both_sides=True,
        )  # fmt: skip

    make.__name__, make.__doc__ = name, series.what + " (Lan et al. 2024)."
    task(name)(make)


for _name, _series in _SERIES.items():
    _register(_name, _series)
