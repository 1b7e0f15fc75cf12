"""The string edits: what each operation does, that draws do not repeat, and that PCFG SET's own samples agree."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.errors import BadInput
from gossamer.tasks.pcfg_set import (
    BINARY,
    COMMA,
    EOS,
    OPERATIONS,
    PAD,
    UNARY,
    Edit,
    apply,
    arity,
    decode,
    edits,
    encode,
    evaluate,
    split,
    told_apart,
    vocabulary,
)

SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "circuit-tasks" / "pcfg-set"
strings = st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=6).map(tuple)


@given(strings, strings)
def test_operations_relate_as_their_names_say(x: tuple[str, ...], y: tuple[str, ...]) -> None:
    def one(operation: str, s: tuple[str, ...] = x) -> tuple[str, ...]:
        return apply(operation, [s])

    def two(operation: str, a: tuple[str, ...] = x, b: tuple[str, ...] = y) -> tuple[str, ...]:
        return apply(operation, [a, b])

    assert one("copy") == x
    assert one("reverse", one("reverse")) == x
    assert one("swap_first_last", one("swap_first_last")) == x
    shifted = x
    for _ in x:
        shifted = one("shift", shifted)
    assert shifted == x
    assert one("repeat") == two("append", x, x)
    assert one("echo") == two("append", x, x[-1:])
    assert two("append") == two("prepend", y, x)
    assert one("reverse", two("append")) == two("append", one("reverse", y), one("reverse"))
    assert two("remove_first") == y == two("remove_second", y, x)


def test_operations_by_example() -> None:
    answers = {
        "copy": "A B C", "reverse": "C B A", "shift": "B C A", "swap_first_last": "C B A", "repeat": "A B C A B C",
        "echo": "A B C C",
    }  # fmt: skip
    assert {o: " ".join(apply(o, ["ABC"])) for o in UNARY} == answers
    assert apply("swap_first_last", [tuple("ABCD")]) == tuple("DBCA")
    both = {o: "".join(apply(o, [tuple("AB"), tuple("C")])) for o in BINARY}
    assert both == {"append": "ABC", "prepend": "CAB", "remove_first": "C", "remove_second": "AB"}
    assert evaluate("reverse append A B , repeat C") == tuple("CCBA")


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="shared data is absent")
@pytest.mark.parametrize("name", ["dev", *(f"per_function_test/test_{o}" for o in ("echo", "swap_first_last"))])
def test_published_samples_are_evaluated_to_their_answers(name: str) -> None:
    sources, answers = ((SAMPLES / f"{name}.{kind}").read_text().splitlines()[:2000] for kind in ("src", "tgt"))
    assert len(sources) == len(answers) == 2000
    wrong = [s for s, a in zip(sources, answers, strict=True) if evaluate(s) != tuple(a.split())]
    assert not wrong


@pytest.mark.parametrize("operation", OPERATIONS)
def test_draws_are_different_follow_the_seed_and_split_apart(operation: str) -> None:
    drawn = edits(operation, 300, seed=3, letters=5, shortest=1, longest=4)
    assert len(set(drawn)) == 300
    assert drawn == edits(operation, 300, seed=3, letters=5, shortest=1, longest=4)
    assert drawn != edits(operation, 300, seed=4, letters=5, shortest=1, longest=4)
    assert all(evaluate(e.source) == e.answer and len(e.strings) == arity(operation) for e in drawn)
    assert {len(s) for e in drawn for s in e.strings} == {1, 2, 3, 4}
    train, held = split(drawn)
    assert (len(train), len(held)) == (240, 60)
    assert not set(train) & set(held)


def test_every_edit_there_is_can_be_drawn_and_no_more() -> None:
    assert len(edits("append", 36, letters=2, shortest=1, longest=2)) == 36
    with pytest.raises(BadInput, match="Expected 1 to 36 edits of append"):
        edits("append", 37, letters=2, shortest=1, longest=2)


def test_tokens_and_back() -> None:
    both = [Edit("append", (tuple("AB"), tuple("C"))), Edit("echo", (tuple("A"),))]
    source, answer = encode(both, letters=3)
    names = vocabulary(3)
    assert [names[t] for t in source[0]] == ["append", "A", "B", ",", "C", "<eos>"]
    assert source[0, 3] == COMMA
    assert answer[1].tolist() == [names.index("A"), names.index("A"), EOS, PAD]
    assert [decode(row, 3) for row in answer] == [e.answer for e in both]
    with pytest.raises(BadInput, match="letters A to B"):
        encode(both, letters=2)


def test_tokens_that_tell_two_operations_apart() -> None:
    assert told_apart(Edit("reverse", (tuple("ABC"),)), "copy") == [True, False, True, False]
    assert told_apart(Edit("echo", (tuple("AB"),)), "copy") == [False, False, True, True]
    assert told_apart(Edit("copy", (tuple("AB"),)), "echo") == [False, False, True]
    assert told_apart(Edit("append", (tuple("AB"), tuple("C"))), "copy") == [False] * 4
    assert told_apart(Edit("copy", (tuple("AB"),)), "remove_first") == [True, True, True]
    assert told_apart(Edit("copy", (tuple("AB"),)), "prepend") == [False] * 3


@pytest.mark.parametrize(
    ("source", "said"),
    [("", "an operation or a string"), ("append A B", "a comma"), ("copy A , B", "after its end"), ("reverse", "none")],
)
def test_what_is_no_source_is_refused(source: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        evaluate(source)


def test_unknown_operations_and_wrong_numbers_of_strings_are_refused() -> None:
    with pytest.raises(BadInput, match="did you mean reverse"):
        arity("revers")
    with pytest.raises(BadInput, match="Expected 2 strings for append, got 1"):
        apply("append", [("A",)])
