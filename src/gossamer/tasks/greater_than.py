"""Greater-than: a year later than the one before (Hanna et al. 2023, arXiv 2305.00586).

Two prompts that differ in the first year cannot have one right answer each by greater-than alone: what is late enough
for the later year is late enough for the earlier one. So a template also says how long the event lasted at most, the
same in both prompts, and each of the two completions fits one of them: neither always the larger one is right nor
always the nearer one. Years that end in 0 are often one token and are not used. A tokenizer that splits numbers into
digits cannot be asked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from gossamer.registry import task
from gossamer.task import Example, Task
from gossamer.tasks.pairs import Split, make_task

_SPANS = {"twenty": 20, "thirty": 30, "forty": 40}
_YEARS = [y for y in range(11, 100) if y % 10]

_TRAIN_EVENTS = "siege reign truce famine voyage rebellion alliance exile feud drought".split()
_HELDOUT_EVENTS = "occupation crusade revolt plague conflict monarchy embargo partnership".split()
_TRAIN = (
    "The {event} lasted less than {span} years, from the year {c}{y} to the year {c}",
    "In less than {span} years the {event} was over: it went on from {c}{y} to {c}",
    "The {event} was shorter than {span} years. It started in the year {c}{y} and stopped in the year {c}",
)
_HELDOUT = (
    "The {event} took less than {span} years. It began in {c}{y} and ended in {c}",
    "Not quite {span} years long, the {event} stretched from the year {c}{y} to the year {c}",
)


def _fill(
    rng: random.Random, template: str, events: Sequence[str], spans: Sequence[str], centuries: Sequence[str]
) -> Example:
    event, word, century = rng.choice(events), rng.choice(spans), rng.choice(centuries)
    span = _SPANS[word]
    while True:
        earlier, wrong, later, right = sorted(rng.sample(_YEARS, 4))
        if right - earlier >= span > max(right - later, wrong - earlier):
            break
    sides = [template.format(event=event, span=word, c=century, y=y) for y in (later, earlier)]
    return Example(
        clean=sides[0], counterfactual=sides[1], answer=str(right), wrong_answer=str(wrong), template=template
    )


@task("greater_than")
def greater_than(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
    """The last two digits of a year after another one and less than some decades later (Hanna et al. 2023)."""
    return make_task(
        "greater_than", "End an event after the year it began, and not too late",
        Split(_TRAIN, (_TRAIN_EVENTS, ["twenty", "forty"], ["12", "14", "16"]), _fill),
        Split(_HELDOUT, (_HELDOUT_EVENTS, ["thirty"], ["13", "15", "17"]), _fill),
        seed=seed, n_train=n_train, n_heldout=n_heldout, both_sides=True,
        ood={"years of three digits": Split(_HELDOUT, (_HELDOUT_EVENTS, ["thirty"], ["7", "8", "9"]), _fill)},
    )  # fmt: skip
