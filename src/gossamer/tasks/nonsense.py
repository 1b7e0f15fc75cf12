"""A task that no model has a reason to know: another one's prompts, its answers replaced by unrelated words.

The critique of Gao et al. 2025 by Drori (LessWrong, 2026) asks for " when" or " is" by the gender of a name: pruning
reached a loss below 0.05 with about 30 nodes where the real task took about 10. Which prompt wants which word still
follows from the prompt, as each answer has one word that stands for it; only that the model was never taught it.

When it lies: a model may prefer one of two unrelated words after a prompt for reasons of its own, and a circuit of that
preference is real.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from gossamer.errors import BadInput
from gossamer.subject import ResidualSubject, Subject
from gossamer.task import Example, Task

WORDS = tuple(
    f" {word}" for word in (
        "when is or and in not as for with from but then so if that this all one two by at on of no the a it some more "
        "other new first time day way thing place part end set call name line use get see find work make take give "
        "hand big little old long good very now here there what how who which were was had has said into"
    ).split()
)  # fmt: skip
PROBED = 8


def nonsense(
    task: Task, model: Subject | ResidualSubject, *, seed: int = 0, words: Sequence[str] = WORDS
) -> Task:  # fmt: skip
    """The same prompts and splits; each distinct answer is replaced by a word drawn by `seed`, another for each.

    words: what is drawn from, with the space before it; those that are not one token after the prompts of this model,
    the same token as another, or an answer of the task itself are left out. Errors: BadInput when fewer words are left
    than the task has answers.
    """
    pairs = (*task.train, *task.heldout, *(e for split in task.ood.values() for e in split))
    answers = sorted({a for e in pairs for a in (e.answer, e.wrong_answer)})
    rng = random.Random(f"nonsense {seed}")
    found: dict[int, str] = {}
    some = list({(e.template, e.answer): e for e in pairs}.values())
    some = some[:: -(-len(some) // PROBED)]
    for word in rng.sample(list(words), len(words)):
        token = None if word in answers else _token(word, some, model)
        if token is not None:
            found.setdefault(token, word)
        if len(found) == len(answers):
            break
    if len(found) < len(answers):
        raise BadInput(
            f"Expected {len(answers)} unrelated words that are single tokens after the prompts of {task.name}, one for "
            f"each answer, {len(found)} of {len(words)} are for this model; give others."
        )
    stands_for = dict(zip(answers, found.values(), strict=True))

    def changed(examples: tuple[Example, ...]) -> tuple[Example, ...]:
        return tuple(replace(e, answer=stands_for[e.answer], wrong_answer=stands_for[e.wrong_answer]) for e in examples)

    return replace(
        task, name=f"{task.name}-nonsense-{seed}", version=f"{task.version}-nonsense-{seed}",
        description=f"The prompts of {task.name} with unrelated words as answers", train=changed(task.train),
        heldout=changed(task.heldout), ood={name: changed(split) for name, split in task.ood.items()},
    )  # fmt: skip


def _token(word: str, pairs: Sequence[Example], model: Subject | ResidualSubject) -> int | None:
    """The token that a word is after both prompts of these pairs; None where it is not one, or begins as a prompt's own
    answer. Each prompt is asked beside itself, so that lengths and spans do not matter."""
    asked = [
        Example(clean=prompt, counterfactual=prompt, answer=word, wrong_answer=answer)
        for e in pairs for prompt, answer in ((e.clean, e.answer), (e.counterfactual, e.wrong_answer))
    ]  # fmt: skip
    try:
        batch = model.encode(asked, several=True) if isinstance(model, ResidualSubject) else model.encode(asked)
    except BadInput:
        return None
    if batch.marks.answers is not None:
        own, answers = batch.marks.answers[::2].unbind(1)
        if bool((own[:, 1:] >= 0).any()) or bool((own[:, 0] == answers[:, 0]).any()):
            return None
    tokens = set(batch.answer[::2].tolist())
    return int(tokens.pop()) if len(tokens) == 1 else None
