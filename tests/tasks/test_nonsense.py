"""Nonsense is the same prompts with other answers, each of which still follows from the prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from patching_helpers import made
from taught import she_he, taught

from gossamer.errors import BadInput
from gossamer.models import LoadedModel
from gossamer.task import Example, Task
from gossamer.tasks.nonsense import nonsense

WORDS = tuple(f" w{i}" for i in range(11))


def test_prompts_stay_and_every_answer_has_one_word(planted: LoadedModel, planted_pairs: Task) -> None:
    task = replace(planted_pairs, ood={"more": planted_pairs.heldout[:3]})
    other = nonsense(task, planted, seed=4, words=WORDS)
    stands_for: dict[str, str] = {}
    for before, after in (
        (task.train, other.train),
        (task.heldout, other.heldout),
        (task.ood["more"], other.ood["more"]),
    ):
        for a, b in zip(before, after, strict=True):
            assert (a.clean, a.counterfactual, a.template) == (b.clean, b.counterfactual, b.template)
            for real, word in ((a.answer, b.answer), (a.wrong_answer, b.wrong_answer)):
                assert stands_for.setdefault(real, word) == word
                assert word in WORDS
    assert len(set(stands_for.values())) == len(stands_for) == 2
    assert other.name == "planted-nonsense-4"
    assert other.version == "1-nonsense-4"
    planted.encode(other.train)
    assert nonsense(task, planted, seed=4, words=WORDS) == other
    assert len({nonsense(task, planted, seed=s, words=WORDS).train[0].answer for s in range(8)}) > 2


def test_words_that_cannot_be_answers_are_left_out(planted: LoadedModel, planted_pairs: Task) -> None:
    unfit = (" L", " R", " L R", " w1 w2", " unknown", " also-unknown")  # the last two are one token, the same one
    found = nonsense(planted_pairs, planted, words=(*unfit, " w7"))
    assert {a for e in found.train for a in (e.answer, e.wrong_answer)} <= {" w7", " unknown", " also-unknown"}
    with pytest.raises(BadInput, match=r"Expected 2 unrelated words .* 1 of 6 are for this model"):
        nonsense(planted_pairs, planted, words=unfit)


def test_a_decoder_is_asked_words_it_has() -> None:
    found = nonsense(she_he(), taught(), words=(" here", " there", " she"))
    assert {e.answer for e in found.train} == {" here", " there"}
    taught().encode(found.heldout)


def test_lengths_and_answers_of_several_tokens_make_no_word_unfit() -> None:
    d = made("llama")
    spans = {"who": ((0, 1), (2, 3))}
    uneven = Example(clean="5 6 7", counterfactual="4 3 9 8", answer=" 5 11", wrong_answer=" 9", spans=spans)
    task = Task(name="uneven", version="1", description="", train=(uneven,), heldout=(uneven,))
    found = nonsense(task, d, words=(" 5", " 9", " 12 13", " 20", " 21"))  # a beginning, an answer, two tokens
    assert {found.train[0].answer, found.train[0].wrong_answer} == {" 20", " 21"}
    assert found.train[0].spans == spans
    d.encode(found.train, positions="who")
