"""Indirect object identification (Wang et al. 2022, arXiv 2211.00593).

The counterfactual repeats the other name, so both names stand in both prompts and one word differs. Names are common
ones, of which most vocabularies hold most as one token; fitting() in task.py leaves out the pairs of the others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from gossamer.registry import task
from gossamer.task import Example, Task
from gossamer.tasks.pairs import Split, make_task

_TRAIN_WORDS = (
    "Alice Adam Brian Carol Diana Eric Frank Grace Henry Julia Kevin Laura Nina Oscar Paula Ralph Simon Teresa Victor "
    "Walter".split(),
    "market library beach hotel station cinema garden harbor bakery office".split(),
    "ticket book letter coat basket guitar map ring lamp cake".split(),
)
_HELDOUT_WORDS = (
    "Anna Bruce Clara Derek Ellen Felix Gloria Harold Ivan Joan Karl Maria Nathan Olivia Peter Rachel".split(),
    "theatre airport castle bridge hospital museum stadium farm".split(),
    "watch bottle jacket camera phone necklace pencil ball".split(),
)
_TRAIN = (
    "When {a} and {b} came to the {place}, {again} handed a {thing} to",
    "{a} and {b} were waiting at the {place}, and {again} brought a {thing} to",
    "Then {a} and {b} left the {place}. Later {again} sent a {thing} to",
    "As {a} and {b} sat in front of the {place}, {again} offered a {thing} to",
    "While {a} and {b} walked past the {place}, {again} showed a {thing} to",
    "Yesterday {a} and {b} met near the {place}, where {again} sold a {thing} to",
)
_HELDOUT = (
    "Once {a} and {b} had found the {place}, {again} passed a {thing} to",
    "{a} and {b} had a long talk at the {place}, so {again} lent a {thing} to",
    "On Monday {a} and {b} stayed at the {place}. There {again} gave a {thing} to",
    "Because {a} and {b} both liked the {place}, {again} promised a {thing} to",
)
_CLAUSE = (
    "Once {a} and {b} had found the {place}, although it was raining hard, {again} passed a {thing} to",
    "{a} and {b} had a long talk at the {place}. Nobody else was there that evening, so {again} lent a {thing} to",
    "Because {a} and {b} both liked the {place}, which was closed for the winter, {again} promised a {thing} to",
)


def _fill(
    rng: random.Random, template: str, names: Sequence[str], places: Sequence[str], things: Sequence[str]
) -> Example:
    a, b = rng.sample(names, 2)
    place, thing = rng.choice(places), rng.choice(things)
    again, other = rng.sample((a, b), 2)  # the repeated name may be the first (BABA) or the second (ABBA)
    sides = [template.format(a=a, b=b, again=name, place=place, thing=thing) for name in (again, other)]
    return Example(
        clean=sides[0], counterfactual=sides[1], answer=f" {other}", wrong_answer=f" {again}", template=template
    )


@task("ioi")
def ioi(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
    """Who receives it: of two names the one that is not repeated (Wang et al. 2022)."""
    return make_task(
        "ioi", "Name the one of two people who is not repeated", Split(_TRAIN, _TRAIN_WORDS, _fill),
        Split(_HELDOUT, _HELDOUT_WORDS, _fill), seed=seed, n_train=n_train, n_heldout=n_heldout, both_sides=True,
        ood={"a clause between": Split(_CLAUSE, _HELDOUT_WORDS, _fill)},
    )  # fmt: skip
