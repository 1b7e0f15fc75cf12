"""Language tasks: each answer follows from its prompt by a rule written again here, and splits share no word."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from gossamer.commands.solved import fitted
from gossamer.errors import BadInput
from gossamer.models import from_pretrained
from gossamer.task import MIN_FITTING, Example, Task, check_pair, encode, fitting
from gossamer.tasks import load_task

SHARED = Path(__file__).parents[3] / "shared" / "data"
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December"]  # fmt: skip
NUMBER_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
                "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
                "twenty"]  # fmt: skip
NUMERALS = [str(i) for i in range(100)]
FEMALE = {"Lily", "Lucy", "Emma", "Alice", "Laura", "Susan", "Kate", "Julia", "Grace", "Nina", "Claire", "Jane", "Mia",
          "Anna", "Sophie", "Molly", "Rachel", "Emily", "Helen", "Linda", "girl", "woman", "mother", "sister", "aunt",
          "queen", "princess", "daughter"}  # fmt: skip
MALE = {"Tim", "Tom", "Adam", "Frank", "Kevin", "Simon", "Peter", "Henry", "Brian", "Oscar", "Jack", "Bob", "Ben",
        "Max", "Sam", "Martin", "Philip", "Eric", "Hugo", "Arthur", "boy", "man", "father", "brother", "uncle", "king",
        "prince", "son"}  # fmt: skip


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+|\d+", text)


def ioi(prompt: str, one: str, other: str) -> str:
    (named,) = [n for n in (one, other) if words(prompt).count(n.strip()) == 1]
    assert words(prompt).count(({one, other} - {named}).pop().strip()) == 2
    return named


def greater_than(prompt: str, one: str, other: str) -> str:
    (start,) = (int(y) for y in re.findall(r"\b\d{3,4}\b", prompt))
    span = {"twenty": 20, "thirty": 30, "forty": 40}[re.search(r"(\w+) years", prompt)[1]]  # type: ignore[index]
    century = re.search(r"(\d{1,2})$", prompt)[1]  # type: ignore[index]
    (right,) = [y for y in (one, other) if start < int(century + y) < start + span]
    return right


def docstring(prompt: str, one: str, other: str) -> str:
    (signature,) = re.findall(r"def \w+\((.*)\):", prompt)
    parameters = [p for p in signature.split(", ") if p not in ("self", "cls")]
    documented = re.findall(r"[:@]param (\w+):", prompt)
    assert parameters[: len(documented)] == documented
    assert other.strip() in parameters
    return f" {parameters[len(documented)]}"


def gendered_pronoun(prompt: str, one: str, other: str) -> str:
    female, male = FEMALE & set(words(prompt)), MALE & set(words(prompt))
    assert len(female | male) == 1
    return " she" if female else " he"


def subject_verb_agreement(prompt: str, one: str, other: str) -> str:
    determiners = [i for i, w in enumerate(words(prompt)) if w.lower() == "the"]
    adjectives = ("old", "famous")
    subject = next(w for w in words(prompt)[determiners[0] + 1 :] if w not in adjectives)
    plural = {" are", " were", " have"}
    (right,) = [v for v in (one, other) if (v in plural) == subject.endswith("s")]
    return right


def sequence(series: list[str]) -> Callable[[str, str, str], str]:
    def rule(prompt: str, one: str, other: str) -> str:
        run = [series.index(w) for w in words(prompt) if w in series]
        steps = {b - a for a, b in pairwise(run)}
        assert len(run) >= 4
        assert steps in ({1}, {-1})
        return f" {series[run[-1] + steps.pop()]}"

    return rule


def induction(prompt: str, one: str, other: str) -> str:
    said = prompt.split()
    assert said.count(said[-1]) == 2
    return f" {said[said.index(said[-1]) + 1]}"


RULES: dict[str, Callable[[str, str, str], str]] = {
    "ioi": ioi, "greater_than": greater_than, "docstring": docstring, "gendered_pronoun": gendered_pronoun,
    "subject_verb_agreement": subject_verb_agreement, "sequence_numerals": sequence(NUMERALS),
    "sequence_number_words": sequence(NUMBER_WORDS), "sequence_months": sequence(MONTHS), "induction": induction,
}  # fmt: skip
NAMES = tuple(RULES)
CLOSED = {*MONTHS, *NUMBER_WORDS, *NUMERALS}  # members of series, which both splits of a sequence task draw


def every(t: Task) -> list[Example]:
    return [*t.train, *t.heldout, *(e for part in t.ood.values() for e in part)]


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_of_each_side_follows_from_its_own_prompt(name: str) -> None:
    for e in every(load_task(name)):
        assert RULES[name](e.clean, e.answer, e.wrong_answer) == e.answer, e
        assert RULES[name](e.counterfactual, e.answer, e.wrong_answer) == e.wrong_answer, e
        assert e.answer != e.wrong_answer


@pytest.mark.parametrize("name", NAMES)
def test_sides_have_as_many_words_and_differ_in_few(name: str) -> None:
    longest = {"docstring": 2, "induction": 2, "gendered_pronoun": 2}
    for e in every(load_task(name)):
        ours, theirs = words(e.clean), words(e.counterfactual)
        assert len(ours) == len(theirs), e
        differ = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
        if name.startswith("sequence"):
            assert {w for pair in differ for w in pair} <= CLOSED, e
        else:
            assert 1 <= len(differ) <= longest.get(name, 1), e
        assert not re.search(r"[{}|]", e.clean + e.answer + e.wrong_answer), e


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_template_no_prompt_and_no_word(name: str) -> None:
    t = load_task(name)
    assert (len(t.train), len(t.heldout), {len(part) for part in t.ood.values()} - {256}) == (2048, 512, set())
    prompts = [p for e in every(t) for p in (e.clean, e.counterfactual)]
    assert len(set(prompts)) == len(prompts)
    assert {e.template for e in t.train}.isdisjoint({e.template for e in t.heldout})

    def drawn(examples: tuple[Example, ...]) -> set[str]:
        fixed = {e.template: set(words(re.sub(r"\{\w+\}", " ", e.template))) for e in examples}
        return {w for e in examples for p in (e.clean, e.counterfactual) for w in set(words(p)) - fixed[e.template]}

    others = tuple(e for part in t.ood.values() for e in part)
    assert drawn(t.train) & drawn((*t.heldout, *others)) <= (CLOSED if name.startswith("sequence") else set())
    assert len(drawn(t.train)) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_pairs_and_another_gives_others(name: str) -> None:
    assert load_task(name, 3) == load_task(name, 3)
    assert load_task(name, 3).train != load_task(name, 4).train
    assert load_task(name, 3).version == load_task(name, 4).version


def paired(rule: Callable[[str, str, str], str], examples: tuple[Example, ...]) -> float:
    right = [
        rule(e.clean, *sorted((e.answer, e.wrong_answer))) == e.answer
        and rule(e.counterfactual, *sorted((e.answer, e.wrong_answer))) == e.wrong_answer
        for e in examples
    ]
    return sum(right) / len(right)


def last_seen(prompt: str, one: str, other: str) -> str:
    return max((one, other), key=lambda answer: prompt.rfind(answer))


def nearest_year(prompt: str, one: str, other: str) -> str:
    start = int(re.search(r"\d(\d\d)\b", prompt)[1])  # type: ignore[index]
    return min((one, other), key=lambda y: abs(int(y) - start))


def nearest_noun(prompt: str, one: str, other: str) -> str:
    return one if (one in (" are", " were", " have")) == prompt.endswith("s") else other


def test_shortcuts_that_must_fail_fail() -> None:
    """A rule that does not do the task is right on a part of the pairs at most; one blind to the difference on none."""
    for name in NAMES:
        t = load_task(name)
        assert paired(RULES[name], t.heldout) == 1, name
        assert paired(lambda prompt, one, other: one, t.heldout) == 0, name
    assert paired(lambda prompt, one, other: max(one, other), load_task("greater_than").heldout) == 0
    assert 0.1 < paired(nearest_year, load_task("greater_than").heldout) < 0.8
    assert paired(nearest_noun, load_task("subject_verb_agreement").heldout) == 0
    assert paired(last_seen, load_task("ioi").heldout) == 0  # the repeated name is the last one
    assert paired(last_seen, load_task("docstring").heldout) == 0
    induced = load_task("induction")
    for examples in (induced.train, induced.heldout, *induced.ood.values()):
        assert 0.3 < paired(last_seen, examples) < 0.7


def stories() -> Tokenizer:
    path = SHARED / "stories260k" / "hf" / "tokenizer.json"
    if not path.is_file():
        pytest.skip("shared data is absent")
    return Tokenizer.from_file(str(path))


def gpt2() -> Tokenizer:
    folder = SHARED / "gpt2-bpe"
    if not folder.is_dir():
        pytest.skip("shared data is absent")
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    vocabulary = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    return byte_level(vocabulary, [(a, b) for a, _, b in (line.partition(" ") for line in lines if line)])


def byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def bytes_and(known: list[str]) -> Tokenizer:
    """Every byte a token, and each of `known` one more (after a space)."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in known:
        start = "Ġ"
        for letter in word:
            if start + letter not in vocabulary:
                vocabulary[start + letter] = len(vocabulary)
                merges.append((start, letter))
            start += letter
    return byte_level(vocabulary, merges)


@pytest.mark.parametrize("name", NAMES)
def test_gpt2_can_be_asked_every_pair_and_sides_align(name: str) -> None:
    t, tokenizer = load_task(name), gpt2()
    found = fitting(t, tokenizer, 1024, None)
    assert {k: n for k, n in found.left_out.items() if k in ("train", "heldout")} == {}
    assert sum(found.left_out.values()) <= 20  # some years of three digits are one token
    for e in (*t.train[:128], *t.heldout[:128]):
        assert check_pair(e, tokenizer, 1024, None).aligned, e


def test_stories260k_can_be_asked_for_pronouns_and_not_for_names() -> None:
    tokenizer = stories()
    t = load_task("gendered_pronoun")
    assert fitting(t, tokenizer, 512, 1) is t
    assert encode(t.heldout, tokenizer, 512, 1).n_pairs == 512
    with pytest.raises(BadInput, match=f"ioi has 0 of 2048 train pairs that fit this model, {MIN_FITTING} are needed"):
        fitting(load_task("ioi"), tokenizer, 512, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_bytes_can_be_asked_nothing(name: str) -> None:
    with pytest.raises(BadInput, match=f"{name} has 0 of 2048 train pairs that fit"):
        fitting(load_task(name), bytes_and([]), 1024, None)


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    t = load_task("ioi")
    known = ["Alice", "Adam", "Brian", "Carol", "Diana", "Eric", "Anna", "Bruce", "Clara", "Derek", "Ellen", "Felix",
             "Gloria", "Harold", "Ivan", "Joan", "Karl", "Maria"]  # fmt: skip
    found = fitting(t, bytes_and(known), 1024, None)

    def fits(e: Example) -> bool:
        return {e.answer.strip(), e.wrong_answer.strip()} <= set(known)

    assert found.train == tuple(e for e in t.train if fits(e))
    assert found.heldout == tuple(e for e in t.heldout if fits(e))
    assert found.left_out == {
        "train": 2048 - len(found.train), "heldout": 512 - len(found.heldout),
        "a clause between": sum(not fits(e) for e in t.ood["a clause between"]),
    }  # fmt: skip
    gone = f"{found.left_out['train']}-train-{found.left_out['heldout']}-heldout"
    assert found.version == f"{t.version}-without-{gone}"
    encode(found.train, bytes_and(known), 1024, None)
    with pytest.raises(BadInput, match="problems in 2048 pairs"):
        encode(t.train, bytes_and(known), 1024, None)


def test_a_task_of_which_too_little_is_left_is_refused_and_such_an_ood_split_left_out() -> None:
    t = load_task("ioi")
    with pytest.raises(BadInput, match=f"ioi has [0-9]+ of 512 heldout pairs that fit this model, {MIN_FITTING} are"):
        fitting(t, bytes_and([n for e in t.train for n in (e.answer.strip(), "Anna", "Bruce")]), 1024, None)
    everybody = bytes_and([n for part in (t.train, t.heldout) for e in part for n in e.answer.split()])
    lengths = [len(everybody.encode(e.clean).ids) for e in (*t.train, *t.heldout)]
    found = fitting(t, everybody, max(lengths), None)
    assert found.left_out == {"a clause between": 256}
    assert found.ood == {}
    assert found.version == t.version  # the pairs of the search and of its numbers are all there


def test_pairs_of_a_users_file_are_never_left_out() -> None:
    e = Example(clean="a", counterfactual="b", answer=" none", wrong_answer=" of these", line=1)
    t = Task(name="own", version="1", description="", train=(e,), heldout=(e,))
    assert fitting(t, bytes_and([]), 8, None) is t


def test_a_command_says_what_it_leaves_out() -> None:
    said: list[str] = []
    model, t = from_pretrained("tiny"), load_task("docstring")
    found = fitted(model, t, said.append)
    assert found.left_out == {"train": len(t.train) - len(found.train)}
    (line,) = said
    assert f"{found.left_out['train']} train pairs left out" in line
    assert fitted(model, load_task("induction"), said.append).left_out == {}
    assert said == [line]
