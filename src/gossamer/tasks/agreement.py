"""Subject-verb agreement across a noun that may have the other number (Linzen et al. 2016, arXiv 1611.01368; pairs as
in Marks et al. 2024, arXiv 2403.19647).

The counterfactual changes the number of the subject alone. The noun between stays, so in one prompt of every pair the
noun nearest to the verb has the other number, and its number alone answers no pair right.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from gossamer.registry import task
from gossamer.task import Example, Task
from gossamer.tasks.pairs import Split, make_task

_VERBS = ((" is", " are"), (" was", " were"), (" has", " have"))

# All have a plural in -s.
_TRAIN_WORDS = (
    "doctor teacher farmer singer driver poet lawyer worker soldier student hunter king prince guard judge player "
    "reader author guest artist dog horse".split(),
    "car tree house table door window bridge tower garden river lake road wall gate chair boat".split(),
)
_HELDOUT_WORDS = (
    "nurse pilot sailor writer dancer actor banker girl boy queen manager runner engineer cat cow goat".split(),
    "train truck hill rock stone shop tent bottle basket cup coin clock lamp flag".split(),
)
_TRAIN = (
    "The {noun} near the {other}",
    "The {noun} behind the {other}",
    "The old {noun} next to the {other}",
    "It seems that the {noun} beside the {other}",
    "Nobody knows why the {noun} in front of the {other}",
)
_HELDOUT = (
    "The {noun} with the {other}",
    "We heard that the {noun} across from the {other}",
    "The famous {noun} opposite the {other}",
    "I wonder whether the {noun} around the {other}",
)
_CLAUSE = (
    "The {noun} that the {other} had passed",
    "We heard that the {noun} that the {other} could not stop",
    "The famous {noun} that once touched the {other}",
)
_TWO = (
    "The {noun} with the {other} opposite the {third}",
    "We heard that the {noun} across from the {other} with the {third}",
    "I wonder whether the {noun} around the {other} across from the {third}",
)


def _fill(rng: random.Random, template: str, nouns: Sequence[str], others: Sequence[str]) -> Example:
    noun, (other, third) = rng.choice(nouns), rng.sample(others, 2)
    between = {"other": other + rng.choice(("", "s")), "third": third + rng.choice(("", "s"))}
    singular, plural = rng.choice(_VERBS)
    (one, answer), (two, wrong) = rng.sample([(noun, singular), (f"{noun}s", plural)], 2)
    sides = [template.format(noun=n, **between) for n in (one, two)]
    return Example(clean=sides[0], counterfactual=sides[1], answer=answer, wrong_answer=wrong, template=template)


@task("subject_verb_agreement")
def subject_verb_agreement(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
    """The verb in the number of its subject, past another noun (Linzen et al. 2016)."""
    return make_task(
        "subject_verb_agreement", "Put the verb in the number of its subject, past another noun",
        Split(_TRAIN, _TRAIN_WORDS, _fill), Split(_HELDOUT, _HELDOUT_WORDS, _fill), seed=seed, n_train=n_train,
        n_heldout=n_heldout, both_sides=True,
        ood={"a relative clause": Split(_CLAUSE, _HELDOUT_WORDS, _fill),
             "two nouns between": Split(_TWO, _HELDOUT_WORDS, _fill)},
    )  # fmt: skip
