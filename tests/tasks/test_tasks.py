"""Tasks: splits share nothing, answers are single tokens of the shipped model, own pairs are checked whole."""

from __future__ import annotations

import json
import re
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from toys import toy_tokenizer

from gossamer.errors import BadInput
from gossamer.models import from_pretrained
from gossamer.registry import Registry, task
from gossamer.task import Example, encode
from gossamer.tasks import load_task, python_code, read_pairs
from gossamer.tasks.python_code import _HELDOUT_NAMES, _HELDOUT_WORDS, _TRAIN_NAMES, _TRAIN_WORDS

NAMES = tuple(n for n in task if task[n].__module__ == python_code.__name__)
ONE_TOKEN = tuple(
    n for n in NAMES if n != "enumerate_range"
)  # ` enumerate` is several tokens of the shipped vocabulary


def test_the_twenty_tasks_of_the_paper() -> None:
    assert len(NAMES) == 20


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_template_and_no_prompt(name: str) -> None:
    t = load_task(name)
    assert {e.template for e in t.train}.isdisjoint({e.template for e in t.heldout})
    assert {e.clean for e in t.train}.isdisjoint({e.clean for e in t.heldout})
    assert len({e.clean for e in t.train}) == len(t.train) == 2048
    assert len({e.clean for e in t.heldout}) == len(t.heldout) == 512


def test_splits_share_no_filler_and_a_set_stays_a_set() -> None:
    assert {*_TRAIN_WORDS, *_TRAIN_NAMES}.isdisjoint({*_HELDOUT_WORDS, *_HELDOUT_NAMES})
    for e in load_task("set_or_string").train:
        name = e.clean.split()[0]
        assert not any(line.strip().startswith(f"{name} =") for line in e.clean.splitlines()[1:])


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_pairs_and_another_gives_others(name: str) -> None:
    assert load_task(name, 3) == load_task(name, 3)
    assert load_task(name, 3).train != load_task(name, 4).train
    assert load_task(name, 3).version == load_task(name, 4).version


@pytest.mark.parametrize("name", ONE_TOKEN)
def test_every_answer_is_one_token_of_the_shipped_model(name: str) -> None:
    model, t = from_pretrained("tiny"), load_task(name)
    for split in (t.train[:256], t.heldout[:256], *t.ood.values()):
        batch = model.encode(split)
        assert batch.n_pairs == len(split)
        assert (batch.answer != batch.wrong).all()
        assert (batch.answer[::2] == batch.wrong[1::2]).all()
        assert (batch.tokens[:, 0] == model.bos).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_is_minimal_and_wholly_filled_in(name: str) -> None:
    t = load_task(name)
    for e in (*t.train[:64], *t.heldout[:64]):
        assert e.clean != e.counterfactual
        same = sum(
            block.size for block in SequenceMatcher(None, e.clean, e.counterfactual, False).get_matching_blocks()
        )
        assert max(len(e.clean), len(e.counterfactual)) - same <= 24, e
        assert not re.search(r"\{[a-z]\}|[|]", e.clean + e.counterfactual + e.answer + e.wrong_answer), e


def test_all_problems_of_all_pairs_are_reported_at_once() -> None:
    pairs = [
        Example(clean="left w1", counterfactual="right w1", answer=" L R", wrong_answer=" R"),
        Example(clean="left w1", counterfactual="right w1", answer=" L", wrong_answer=" L"),
        Example(clean="left " * 40, counterfactual="right", answer=" L", wrong_answer=" R"),
        Example(clean="", counterfactual="right", answer="L", wrong_answer=" R"),
    ]
    with pytest.raises(BadInput) as caught:
        encode(pairs, toy_tokenizer(), 16, None)
    text = str(caught.value)
    for part in ("pair 1", "2 tokens", "pair 2", "same answer", "pair 3", "40 tokens, the model reads 16", "pair 4"):
        assert part in text, part


def test_nothing_is_truncated_and_rows_alternate() -> None:
    pairs = [Example(clean="left w1 w2", counterfactual="right w1", answer=" L", wrong_answer=" R")]
    batch = encode(pairs, toy_tokenizer(), 16, 15)
    assert batch.tokens.tolist() == [[15, 0, 5, 6], [15, 1, 5, 0]]
    assert batch.last.tolist() == [3, 2]
    assert batch.answer.tolist() == [2, 3]
    assert batch.wrong.tolist() == [3, 2]


def rows(n: int = 6) -> list[dict[str, str]]:
    return [
        {"clean": f"a{i}", "counterfactual": f"b{i}", "answer": "x", "wrong_answer": "y", "template": str(i % 3)}
        for i in range(n)
    ]


def test_jsonl_and_csv_give_the_same_task(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(r) for r in rows()))
    lines = [",".join(rows()[0]), *(",".join(r.values()) for r in rows())]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    a, b = read_pairs(str(tmp_path / "p.jsonl")), read_pairs(str(tmp_path / "p.csv"))
    assert (a.train, a.heldout) == (b.train, b.heldout)
    assert {e.template for e in a.train}.isdisjoint({e.template for e in a.heldout})
    assert a.version != b.version  # another file is another version


def test_files_from_a_spreadsheet_are_read_and_other_encodings_are_named(tmp_path: Path) -> None:
    lines = [",".join(rows()[0]), *(",".join(r.values()) for r in rows())]
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert len(read_pairs(str(tmp_path / "p.csv")).train) == 2
    (tmp_path / "latin.csv").write_bytes("\n".join(lines).replace("a0", "\xe9").encode("latin-1"))
    with pytest.raises(BadInput, match="UTF-8"):
        read_pairs(str(tmp_path / "latin.csv"))


def test_a_line_separator_inside_a_prompt_is_not_the_end_of_the_row(tmp_path: Path) -> None:
    content = [{**r, "clean": f"x\u2028{i}"} for i, r in enumerate(rows())]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in content))
    assert "\u2028" in read_pairs(str(tmp_path / "p.jsonl")).train[0].clean


def test_a_pair_in_both_splits_is_refused(tmp_path: Path) -> None:
    content = [{**rows()[0], "split": "train"}, {**rows()[1], "split": "train"}, {**rows()[0], "split": "heldout"}]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(r) for r in content))
    with pytest.raises(BadInput, match="lines 3 = 1"):
        read_pairs(str(tmp_path / "p.jsonl"))
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(r) for r in [rows()[0]] * 4 + [rows()[1]] * 2))
    t = read_pairs(str(tmp_path / "p.jsonl"))  # equal rows stay together
    assert {e.clean for e in t.train}.isdisjoint({e.clean for e in t.heldout})


def test_problems_name_the_line_of_the_file(tmp_path: Path) -> None:
    good = {"clean": "left w1", "counterfactual": "right w1", "answer": " L", "wrong_answer": " R"}
    content = [{**good, "clean": f"left w{i}", "answer": " L R" if i == 4 else " L"} for i in range(6)]
    (tmp_path / "p.jsonl").write_text("\n" + "\n".join(json.dumps(r) for r in content))
    t = read_pairs(str(tmp_path / "p.jsonl"))
    with pytest.raises(BadInput, match="1 problems in 6 pairs: line 6: the answer ' L R' is 2 tokens"):
        encode([*t.train, *t.heldout], toy_tokenizer(), 16, 15)


def test_a_split_column_is_obeyed(tmp_path: Path) -> None:
    content = [{**r, "split": "heldout" if i < 2 else "train"} for i, r in enumerate(rows())]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(r) for r in content))
    t = read_pairs(str(tmp_path / "p.jsonl"))
    assert [e.clean for e in t.heldout] == ["a0", "a1"]


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    bad = [
        json.dumps(rows()[0]),
        "{oops",
        json.dumps({"clean": "a"}),
        json.dumps({**rows()[1], "split": "dev"}),
        "3",
        json.dumps({**rows()[2], "template": ["x"]}),
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(bad))
    with pytest.raises(BadInput) as caught:
        read_pairs(str(tmp_path / "p.jsonl"))
    for part in (
        "line 2: not JSON",
        "line 3: lacks",
        "line 4: split 'dev'",
        "line 5: expected an object",
        "line 6: template ['x'] is not text",
    ):
        assert part in str(caught.value), part


def test_unknown_names_list_the_nearest_and_duplicates_are_refused() -> None:
    with pytest.raises(BadInput, match="did you mean bracket_counting"):
        load_task("braket_counting")
    registry = Registry("task")

    @registry("mine")
    def one() -> None: ...

    with pytest.raises(BadInput, match="is taken by"):

        @registry("mine")
        def two() -> None: ...

    assert set(NAMES) <= set(task)
