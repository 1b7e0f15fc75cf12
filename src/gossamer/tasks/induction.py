"""Induction: A B ... A goes on with B (Elhage et al. 2021; Olsson et al. 2022, arXiv 2209.11895).

The counterfactual exchanges B with a word that stands elsewhere, so both prompts are made of the same words and only
what follows the first A tells them apart. The words are unrelated, and so common that most vocabularies hold each as
one token.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from gossamer.registry import task
from gossamer.task import Example, Task
from gossamer.tasks.pairs import Split, make_task

_TRAIN_WORDS = (
    "array base case class copy device error field form group index key length line log match mode name node number "
    "object path point range result".split()
)
_HELDOUT_WORDS = (
    "code default file function image layer list method model order position request shape size source start state "
    "string symbol target test text time user value".split()
)
# {a} is the repeated word, {b} and {c} the exchanged ones, the others words between.
_TRAIN = (
    "{u} {a} {b} {v} {c} {w} {a}",
    "{u} {v} {c} {w} {a} {b} {x} {y} {a}",
    "{u} {a} {b} {v} {w} {c} {x} {y} {a}",
    "{u} {c} {v} {w} {a} {b} {x} {a}",
    "{u} {v} {w} {x} {a} {b} {y} {c} {z} {a}",
)
_HELDOUT = (
    "{u} {v} {w} {a} {b} {x} {c} {y} {a}",
    "{u} {a} {b} {v} {w} {x} {c} {y} {z} {a}",
    "{u} {v} {c} {w} {x} {a} {b} {y} {z} {a}",
    "{u} {c} {v} {a} {b} {w} {x} {a}",
)
_FAR = (
    "{u} {v} {a} {b} {w} {x} {c} {y} {z} {p} {q} {r} {s} {t} {a}",
    "{u} {v} {c} {w} {a} {b} {x} {y} {z} {p} {q} {r} {s} {t} {a}",
)
_TWO = (
    "{u} {a} {b} {v} {w} {c} {x} {w} {y} {a}",
    "{u} {w} {c} {v} {a} {b} {x} {w} {y} {a}",
)
_SLOTS = "abcuvwxyzpqrst"


def _fill(rng: random.Random, template: str, words: Sequence[str]) -> Example:
    drawn = dict(zip(_SLOTS, rng.sample(words, len(_SLOTS)), strict=True))
    exchanged = {**drawn, "b": drawn["c"], "c": drawn["b"]}
    return Example(
        clean=template.format(**drawn), counterfactual=template.format(**exchanged), answer=f" {drawn['b']}",
        wrong_answer=f" {drawn['c']}", template=template,
    )  # fmt: skip


@task("induction")
def induction(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
    """What followed the last word when it stood there before (Elhage et al. 2021; Olsson et al. 2022)."""
    return make_task(
        "induction", "Repeat what followed a word before", Split(_TRAIN, (_TRAIN_WORDS,), _fill),
        Split(_HELDOUT, (_HELDOUT_WORDS,), _fill), seed=seed, n_train=n_train, n_heldout=n_heldout, both_sides=True,
        ood={"a longer gap": Split(_FAR, (_HELDOUT_WORDS,), _fill),
             "another word repeated": Split(_TWO, (_HELDOUT_WORDS,), _fill)},
    )  # fmt: skip
