"""Gendered pronoun: she or he after a name (Mathwin et al. 2023).

Only the answers ` she` and ` he` have to be single tokens, names may be several: most tokenizers fit. No prompt opens
with the name, as a name without a space before it is often other tokens than one with.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from gossamer.registry import task
from gossamer.task import Example, Task
from gossamer.tasks.pairs import Split, make_task

_TRAIN_PLACES = "park river kitchen school garden shop station church".split()
_TRAIN_THINGS = "ball book hat letter basket kite picture coat".split()
_HELDOUT_PLACES = "beach farm forest library market barn".split()
_HELDOUT_THINGS = "cup toy ring map bag flower".split()
_TRAIN_WORDS = (
    "Lily Lucy Emma Alice Laura Susan Kate Julia Grace Nina Claire Jane".split(),
    "Tim Tom Adam Frank Kevin Simon Peter Henry Brian Oscar Jack Bob".split(),
    _TRAIN_PLACES, _TRAIN_THINGS,
)  # fmt: skip
_HELDOUT_WORDS = (
    "Mia Anna Sophie Molly Rachel Emily Helen Linda".split(), "Ben Max Sam Martin Philip Eric Hugo Arthur".split(),
    _HELDOUT_PLACES, _HELDOUT_THINGS,
)  # fmt: skip
_NOUNS = (
    "girl woman mother sister aunt queen princess daughter".split(),
    "boy man father brother uncle king prince son".split(), _HELDOUT_PLACES, _HELDOUT_THINGS,
)  # fmt: skip
_TRAIN = (
    "Then {who} carried the {thing} to the {place} because",
    "At the {place} {who} lost the {thing}, and then",
    "Yesterday {who} forgot the {thing} in the {place} when",
    "Once there was a child named {who}. {who} saw a {thing} in the {place}, and",
    "Near the {place}, {who} bought a {thing} before",
    "After the {thing} fell down in the {place}, {who} was sad because",
)
_HELDOUT = (
    "Once {who} took a {thing} from the {place} after",
    "In the {place} {who} was happy about the {thing} because",
    "Later {who} went back to the {place}, found the {thing}, and soon",
    "Not far from the {place}, {who} had a {thing} that",
)
_NOUN_TEMPLATES = (
    "Once the {who} took a {thing} from the {place} after",
    "In the {place} the {who} was happy about the {thing} because",
    "Later the {who} went back to the {place}, found the {thing}, and soon",
    "Not far from the {place}, the {who} had a {thing} that",
)


def _fill(
    rng: random.Random, template: str, female: Sequence[str], male: Sequence[str], places: Sequence[str],
    things: Sequence[str],
) -> Example:  # fmt: skip
    people = [(rng.choice(female), " she"), (rng.choice(male), " he")]
    (one, answer), (other, wrong) = rng.sample(people, 2)
    place, thing = rng.choice(places), rng.choice(things)
    sides = [template.format(who=who, place=place, thing=thing) for who in (one, other)]
    return Example(clean=sides[0], counterfactual=sides[1], answer=answer, wrong_answer=wrong, template=template)


@task("gendered_pronoun")
def gendered_pronoun(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
    """The pronoun of a named person: ` she` or ` he` (Mathwin et al. 2023)."""
    return make_task(
        "gendered_pronoun", "Go on with the pronoun of a named person", Split(_TRAIN, _TRAIN_WORDS, _fill),
        Split(_HELDOUT, _HELDOUT_WORDS, _fill), seed=seed, n_train=n_train, n_heldout=n_heldout, both_sides=True,
        ood={"a noun for the name": Split(_NOUN_TEMPLATES, _NOUNS, _fill)},
    )  # fmt: skip
