"""Docstring: the next parameter to document (Heimersheim and Janiak 2023, LessWrong).

The counterfactual exchanges the next parameter and a later one in the signature, so both names stand in both prompts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from gossamer.registry import task
from gossamer.task import Example, Task
from gossamer.tasks.pairs import Split, make_task

_TRAIN_WORDS = (
    "data index mode path size key order source text token shape config name value limit weight".split(),
    "load parse merge build check write find apply".split(),
    "upper second plain common table random inner old whole final".split(),
)
_HELDOUT_WORDS = (
    "user line target node group image state field input model position result version length layer".split(),
    "read split count update send clean draw".split(),
    "lower first simple local record outer given new small next".split(),
)
# {r} is the next parameter and {s} a later one; {p}, {q}, {o} are others; {d0} to {d3} are descriptions.
_TRAIN = (
    'def {f}(self, {p}, {q}, {r}, {s}):\n    """{d0}\n\n    :param {p}: {d1}\n    :param {q}: {d2}\n    :param',
    'def {f}({p}, {q}, {r}, {s}):\n    """{d0}\n\n    :param {p}: {d1}\n    :param {q}: {d2}\n    :param',
    'def {f}({p}, {r}, {s}):\n    """{d0}\n\n    :param {p}: {d1}\n    :param',
    'def {f}(self, {p}, {q}, {r}, {o}, {s}):\n    """{d0}\n\n    :param {p}: {d1}\n    :param {q}: {d2}\n    :param',
)
_HELDOUT = (
    'def _{f}({p}, {q}, {r}, {o}, {s}):\n    """{d0}\n\n    :param {p}: {d1}\n    :param {q}: {d2}\n    :param',
    'def {f}(cls, {p}, {r}, {s}):\n    """{d0}\n\n    :param {p}: {d1}\n    :param',
    'def {f}({p}, {q}, {o}, {r}, {s}):\n    """{d0}\n\n    :param {p}: {d1}\n    :param {q}: {d2}\n'
    "    :param {o}: {d3}\n    :param",
)
_OTHER_STYLE = (
    'def _{f}({p}, {q}, {r}, {o}, {s}):\n    """{d0}\n\n    @param {p}: {d1}\n    @param {q}: {d2}\n    @param',
    'def {f}(cls, {p}, {r}, {s}):\n    """{d0}\n\n    @param {p}: {d1}\n    @param',
)


def _fill(
    rng: random.Random, template: str, names: Sequence[str], functions: Sequence[str], words: Sequence[str]
) -> Example:
    p, q, o, r, s = rng.sample(names, 5)
    said = {f"d{i}": " ".join(rng.sample(words, 2)) for i in range(4)}
    f = rng.choice(functions)
    sides = [template.format(f=f, p=p, q=q, o=o, r=r, s=s, **said) for r, s in ((r, s), (s, r))]
    return Example(clean=sides[0], counterfactual=sides[1], answer=f" {r}", wrong_answer=f" {s}", template=template)


@task("docstring")
def docstring(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
    """The next parameter of the signature after those that are documented (Heimersheim and Janiak 2023)."""
    return make_task(
        "docstring", "Document the next parameter of the signature", Split(_TRAIN, _TRAIN_WORDS, _fill),
        Split(_HELDOUT, _HELDOUT_WORDS, _fill), seed=seed, n_train=n_train, n_heldout=n_heldout, both_sides=True,
        ood={"@param": Split(_OTHER_STYLE, _HELDOUT_WORDS, _fill)},
    )  # fmt: skip
