"""Prompts of other tools as tasks: rows as those tools write them, every bad row at once, round trips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gossamer.errors import BadInput, CorruptFile, GossamerError, Unsupported
from gossamer.formats import autocircuit, eap_csv, edge_pruning, feature_circuits, read_task
from gossamer.task import Example, Task

DATA = Path(__file__).parents[3] / "shared" / "data" / "circuit-tasks"
FEATURE_CIRCUITS = """{"clean_prefix": "The friends", "patch_prefix": "The friend", "clean_answer": " have", "patch_answer": " has", "case": "plural"}
{"clean_prefix": "The carpenter", "patch_prefix": "The carpenters", "clean_answer": " does", "patch_answer": " do", "case": "singular"}
{"clean_prefix": "The friends", "patch_prefix": "The friend", "clean_answer": " go", "patch_answer": " goes", "case": "plural"}
"""  # noqa: E501
AUTOCIRCUIT = """{"seq_labels": ["a", "b"], "word_idxs": {},
 "prompts": [{"clean": "When Mary", "corrupt": "When Paul", "answers": [" gave"], "wrong_answers": [" took"]},
             {"clean": "When Jane", "corrupt": "When Paul", "answers": [" gave"], "wrong_answers": [" took"]}]}"""
EDGE_PRUNING = """{"clean": "Tom and Mary met, Tom gave it to<predict> Mary</predict> gladly", "corrupted": "Tom and Mary met, Mary gave it to<predict> Tom</predict>", "split": "train"}
{"clean": "Ann and Bob met, Ann gave it to <predict>Bob</predict>", "corrupted": "Ann and Bob met, Bob gave it to <predict>Ann</predict>", "split": "validation"}
"""  # noqa: E501


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def everything(task: Task) -> set[Example]:
    return {*task.train, *task.heldout}


def test_feature_circuits_by_hand(tmp_path: Path) -> None:
    task = read_task(put(tmp_path, "sva.json", FEATURE_CIRCUITS))
    friends = [
        Example(clean="The friends", counterfactual="The friend", answer=a, wrong_answer=w, template="plural")
        for a, w in ((" have", " has"), (" go", " goes"))
    ]
    carpenter = Example(
        clean="The carpenter", counterfactual="The carpenters", answer=" does", wrong_answer=" do", template="singular"
    )
    assert everything(task) == {*friends, carpenter}
    assert {frozenset(task.train), frozenset(task.heldout)} == {frozenset(friends), frozenset([carpenter])}
    assert task.name == "sva"


def test_autocircuit_by_hand(tmp_path: Path) -> None:
    path = put(tmp_path, "ioi.json", AUTOCIRCUIT)
    task = read_task(path)
    assert {(e.clean, e.counterfactual, e.answer, e.wrong_answer) for e in everything(task)} == {
        ("When Mary", "When Paul", " gave", " took"), ("When Jane", "When Paul", " gave", " took"),
    }  # fmt: skip
    path.write_text(AUTOCIRCUIT.replace('[" took"]', '[" took", " lost"]'))
    with pytest.raises(BadInput, match=r"2 rows.*prompt 1: 2 wrong_answers.*prompt 2: 2 wrong_answers"):
        read_task(path)
    first = autocircuit.read_task(path, first=True)
    assert everything(first) == everything(task)
    assert "of 2 lists of answers only the first" in first.description


def test_edge_pruning_by_hand(tmp_path: Path) -> None:
    task = read_task(put(tmp_path, "ioi.jsonl", EDGE_PRUNING))
    assert task.train == (
        Example(
            clean="Tom and Mary met, Tom gave it to", counterfactual="Tom and Mary met, Mary gave it to",
            answer=" Mary", wrong_answer=" Tom",
        ),
    )  # fmt: skip
    assert task.heldout[0].answer == " Bob"
    assert task.heldout[0].clean == "Ann and Bob met, Ann gave it to"


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    vocabulary = {w: i for i, w in enumerate("? When Mary John met gave".split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


EAP_CSV = """,clean,corrupted,corrupted_hard,correct_idx,incorrect_idx
470,"When Mary met John, gave",When John met,When Mary met,2,3
184,When John met,When Mary met,When Mary gave,3,2
"""


def test_eap_csv_by_hand(tmp_path: Path, words: PreTrainedTokenizerFast) -> None:
    path = put(tmp_path, "ioi.csv", EAP_CSV)
    task = read_task(path, words)
    found = {(e.clean, e.counterfactual, e.answer.strip(), e.wrong_answer.strip()) for e in everything(task)}
    assert found == {
        ("When Mary met John, gave", "When John met", "Mary", "John"),
        ("When John met", "When Mary met", "John", "Mary"),
    }  # fmt: skip
    for e in everything(task):
        assert len(words.encode(e.clean + e.answer)) == len(words.encode(e.clean)) + 1
    hard = eap_csv.read_task(path, words, corrupted="corrupted_hard")
    assert {e.counterfactual for e in everything(hard)} == {"When Mary met", "When Mary gave"}
    with pytest.raises(BadInput, match="give the tokenizer"):
        read_task(path)
    with pytest.raises(BadInput, match=r"2 rows.*line 2: token 99 .*; line 3: '-1' is no token number"):
        read_task(put(tmp_path, "bad.csv", EAP_CSV.replace(",2,3", ",99,3").replace(",3,2", ",-1,2")), words)
    with pytest.raises(BadInput, match="lacks incorrect_idx"):
        read_task(put(tmp_path, "bad.csv", "clean,corrupted,correct_idx\na,b,1\n"), words)
    with pytest.raises(Unsupported, match="all years after `label`"):
        read_task(put(tmp_path, "years.csv", "clean,corrupted,label\nfrom 1352 to 13,from 1301 to 13,52\n"), words)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("f.json", FEATURE_CIRCUITS.replace('" has"', "7").replace('" do"', '""'),
         "2 rows.*line 1: no text in patch_answer.*line 2: no text in patch_answer"),
        ("f.json", FEATURE_CIRCUITS + "{oops\n[1]\n", "line 4: not JSON.*line 5: expected an object"),
        ("f.json", FEATURE_CIRCUITS.splitlines()[0], "Expected at least two pairs"),
        ("a.json", AUTOCIRCUIT.replace('"When Paul"', "[4, 5]"), "prompt 1: no text in corrupt.*prompt 2"),
        ("a.json", AUTOCIRCUIT.replace('[" took"]', "[]"), "no list of texts in wrong_answers"),
        ("a.json", '{"prompts": 3}', "list of `prompts`"),
        ("e.jsonl", EDGE_PRUNING.replace("<predict> Tom</predict>", "."), "line 1: no <predict>.* in corrupted"),
        ("e.jsonl", EDGE_PRUNING.replace('"validation"', '"test"'), "line 2: split 'test' is not train or validation"),
        ("e.jsonl", EDGE_PRUNING.replace('"validation"', '"train"'), "1 train and 0|2 train and 0"),
        ("e.jsonl", EDGE_PRUNING + EDGE_PRUNING.replace('"train"', '"validation"'), "that are not training pairs too"),
        ("c.json", '[["m0", "resid_post"]]', "holds no prompts"),
    ],
)  # fmt: skip
def test_bad_rows_are_reported_together(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(GossamerError, match=f"(?s){says}") as caught:
        read_task(put(tmp_path, name, text))
    assert isinstance(caught.value, BadInput | CorruptFile)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
PAIR = st.builds(
    Example, clean=TEXT, counterfactual=TEXT, answer=TEXT, wrong_answer=TEXT, template=st.sampled_from(["", "t"])
)
PAIRS = st.lists(PAIR, min_size=2, max_size=6, unique_by=lambda e: (e.clean, e.counterfactual))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=PAIRS)
@pytest.mark.parametrize("tool", [autocircuit, feature_circuits])
def test_pairs_survive_a_file(tmp_path: Path, tool: object, pairs: list[Example]) -> None:
    write: Callable[..., Path] = tool.write_task  # type: ignore[attr-defined]
    back = read_task(write(pairs, tmp_path / "pairs.json"))
    kept = {e if tool is feature_circuits else Example(**{**vars(e), "template": ""}) for e in pairs}
    assert everything(back) == kept
    assert len(back.train) == len(pairs) // 2


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=PAIRS)
def test_a_task_survives_edge_pruning(tmp_path: Path, pairs: list[Example]) -> None:
    """With its splits, unless a prompt ends in a space, which then is the answer's: refused."""
    task = Task(name="pairs", version="", description="", train=tuple(pairs[:1]), heldout=tuple(pairs[1:]))
    if any(p != p.rstrip() for e in pairs for p in (e.clean, e.counterfactual)):
        with pytest.raises(BadInput, match="without a space at their end"):
            edge_pruning.write_task(task, tmp_path / "pairs.jsonl")
        return
    back = read_task(edge_pruning.write_task(task, tmp_path / "pairs.jsonl"))
    bare = [Example(**{**vars(e), "template": ""}) for e in pairs]
    assert (set(back.train), set(back.heldout)) == ({bare[0]}, set(bare[1:]))


def test_published_prompts_are_read() -> None:
    path = DATA / "sva" / "simple_train.json"
    if not path.is_file():
        pytest.skip("shared data is absent")
    task = read_task(path)
    assert len(task.train) + len(task.heldout) == 480
    assert {e.template for e in task.train} == {"plural", "singular"}
    shared = {(e.clean, e.counterfactual) for e in task.train} & {(e.clean, e.counterfactual) for e in task.heldout}
    assert not shared
    with pytest.raises(Unsupported, match="greater-than"):
        read_task(DATA / "greater-than" / "greater_than_data.csv")
    assert json.loads(path.read_text().splitlines()[0])["case"] == "plural"
