"""Typed prompts to a decoder and a circuit of edges in it: exact ends, and that changes do what they say."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from taught import WORDS, she_he, taught
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gossamer.ablation import of_edges
from gossamer.circuit import Circuit
from gossamer.errors import BadInput, Unsupported
from gossamer.explain import Change, Said, Spoken, ask_edges
from gossamer.explain.live import TOP, candidate_tokens, token_ids
from gossamer.models.huggingface import Decoder
from gossamer.record import Record
from gossamer.replacement import Replacement, replacement
from gossamer.task import Example, encode
from gossamer.tasks import load_task

RECORD = Record(
    model="taught", model_sha256="", means_sha256="", task="she-he", task_version="1", method="test", config={}, seed=0
)
STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260k" / "hf"
PROMPT, OTHER = "the girl said here that", "the boy said here that"


@cache
def base(value: str = "mean", positions: str = "all") -> Replacement:
    model = taught()
    training = model.encode(she_he().train[:16], positions=positions)
    return replacement(model, training, of_edges(value, positions=positions))


def ask(text: str, kept: np.ndarray, *changes: Change, how: Replacement | None = None) -> Spoken:
    graph = taught().graph()
    circuit = Circuit.from_edges(graph, kept, np.zeros(len(kept)), record=RECORD)
    return ask_edges(taught(), circuit, how or base(), text, changes, (" she", " he"))


def every() -> np.ndarray:
    return np.arange(taught().graph().n_edges)


def same(a: Said, b: Said) -> bool:
    close = np.allclose([p for _, p in a.top], [p for _, p in b.top], atol=1e-6)
    return bool(close and np.allclose(a.candidates, b.candidates, atol=1e-6))


def test_the_model_says_what_it_says_and_so_does_the_whole_of_it() -> None:
    model = taught()
    found = ask(PROMPT, every())
    tokens = torch.tensor([list(model.tokenizer.encode(PROMPT, add_special_tokens=False))])
    p = model.model(tokens).logits[0, -1].double().softmax(-1)
    assert found.tokens == tuple(tokens[0].tolist())
    she, he = (model.tokenizer.convert_tokens_to_ids(w) for w in ("she", "he"))
    assert found.model.candidates == pytest.approx((float(p[she]), float(p[he])), abs=1e-6)
    assert found.model.candidates[0] > 0.9
    best = p.topk(TOP)
    assert [i for i, _ in found.model.top] == best.indices.tolist()
    assert same(found.model, found.circuit)


def with_a_space_before_every_text() -> Decoder:
    """The taught Llama with its words cut as Llama's own tokenizer does it: alone, " he" is a space and " he"."""
    words = Tokenizer(models.WordLevel({w if w == "?" else f"▁{w}": i for i, w in enumerate(WORDS)}, unk_token="?"))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return replace(taught(), tokenizer=PreTrainedTokenizerFast(tokenizer_object=words))


def candidates_are_the_answers_of_the_task(model: Decoder, pairs: tuple[Example, ...]) -> None:
    batch = encode(pairs, model.tokenizer, 512, None)
    for i, pair in enumerate(pairs):
        problems: list[str] = []
        for row, text in enumerate((pair.clean, pair.counterfactual)):
            found, notes = candidate_tokens(model, text, (pair.answer, pair.wrong_answer), problems)
            right, wrong = int(batch.answer[2 * i + row]), int(batch.wrong[2 * i + row])
            assert (found, notes) == ([right, wrong] if row == 0 else [wrong, right], ())
        assert not problems


def test_a_candidate_is_one_token_right_after_its_prompt() -> None:
    model = with_a_space_before_every_text()
    assert len(token_ids(model.tokenizer, " he")) == 2
    candidates_are_the_answers_of_the_task(model, she_he().heldout[:4])
    circuit = Circuit.from_edges(model.graph(), every(), np.zeros(len(every())), record=RECORD)
    found = ask_edges(model, circuit, base(), PROMPT, (), (" she", " he"))
    assert found.model.candidates == pytest.approx(ask(PROMPT, every()).model.candidates, abs=1e-6)
    with pytest.raises(BadInput, match="one token after the prompt, ' she he' is 2"):
        ask_edges(model, circuit, base(), PROMPT, (), (" she he",))


@pytest.mark.skipif(not STORIES.is_dir(), reason="shared data is absent")
def test_by_a_pretrained_llamas_tokenizer_candidates_are_the_answers_of_the_task() -> None:
    model = replace(taught(), tokenizer=PreTrainedTokenizerFast(tokenizer_file=str(STORIES / "tokenizer.json")))
    assert len(token_ids(model.tokenizer, " he")) == 2
    candidates_are_the_answers_of_the_task(model, load_task("gendered_pronoun").heldout[:6])


def test_an_empty_circuit_hears_nothing_of_the_prompt() -> None:
    """A control: where the prompts differ in one word, the model changes its answer and the empty circuit cannot."""
    one, other = ask(PROMPT, every()[:0]), ask(OTHER, every()[:0])
    assert one.model.candidates[0] - other.model.candidates[0] > 0.8
    assert one.circuit.candidates == pytest.approx(other.circuit.candidates, abs=1e-6)


def test_a_node_ablated_is_all_its_edges_cut() -> None:
    graph, layout = taught().graph(), taught().graph().layout
    cut = [
        Change(kind="cut", src=str(layout.site(int(s))), dst=str(layout.site(int(d))), matrix=graph.matrices[m])
        for s, d, m in zip(graph.src, graph.dst, graph.matrix, strict=True) if str(layout.site(int(s))) == "input"
    ]  # fmt: skip
    ablated = ask(PROMPT, every(), Change(kind="ablate", site="input"))
    whole, in_parts, one = ask(PROMPT, every()), ask(PROMPT, every(), *cut), ask(PROMPT, every(), cut[0])
    assert same(ablated.model, in_parts.model)
    assert same(ablated.model, ablated.circuit)
    assert not same(ablated.model, whole.model)
    assert not same(ablated.model, one.model)
    assert not same(whole.model, one.model)


def test_what_is_outside_the_circuit_can_be_cut_without_effect_on_it() -> None:
    graph = taught().graph()
    kept = every()[graph.matrix != graph.matrices.index("mlp")]
    site = graph.layout.site(int(graph.src[graph.matrix == graph.matrices.index("mlp")][0]))
    change = Change(kind="cut", src=str(site), dst="m0", matrix="mlp")
    plain, cut = ask(PROMPT, kept), ask(PROMPT, kept, change)
    assert same(plain.circuit, cut.circuit)
    assert not same(plain.model, cut.model)


def test_heads_show_where_they_look() -> None:
    found = ask(PROMPT, every())
    assert sorted(found.model.patterns) == [f"a{layer}.h{head}" for layer in range(2) for head in range(4)]
    for rows in found.model.patterns.values():
        assert torch.allclose(rows.sum(-1), torch.ones(len(found.tokens)), atol=1e-5)
        assert float(rows.triu(1).abs().max()) == 0
    assert not found.model.traces


def test_at_the_last_token_alone_earlier_ones_stay_as_they_are() -> None:
    at_last = ask(PROMPT, every()[:0], how=base(positions="last"))
    everywhere = ask(PROMPT, every()[:0])
    first = "a1.h0"
    kept = ask(PROMPT, every(), Change(kind="ablate", site="input"), how=base(positions="last"))
    whole = ask(PROMPT, every())
    assert torch.allclose(kept.model.patterns[first][:-1], whole.model.patterns[first][:-1], atol=1e-6)
    assert not torch.allclose(kept.model.patterns[first][-1], whole.model.patterns[first][-1], atol=1e-6)
    assert not same(at_last.circuit, ask(PROMPT, every(), how=base(positions="last")).circuit)
    assert at_last.model.candidates == everywhere.model.candidates


@pytest.mark.parametrize("text, changes, candidates, message", [
    ("", (), (), "at least one token, got none"),
    ("the girl", (), ("she he",), "one token after the prompt, 'she he' is 2"),
    ("the girl", (Change(kind="ablate", site="a9.h9"),), (), "a9.h9"),
    ("the girl", (Change(kind="ablate", site="logits"),), (), "logits writes nothing that is read"),
    ("the girl", (Change(kind="ablate", site="a0.g0"),), (), "a0.g0 writes nothing that is read"),
    ("the girl", (Change(kind="cut", src="m1", dst="m0", matrix="mlp"),), (), "edges of this graph"),
    ("the girl", (Change(kind="cut", src="m0", dst="m1", matrix="c_fc"),), (), "one of q, k, v, mlp, logits to cut"),
])  # fmt: skip
def test_what_cannot_be_asked_is_said(
    text: str, changes: tuple[Change, ...], candidates: tuple[str, ...], message: str
) -> None:
    circuit = Circuit.from_edges(taught().graph(), every(), np.zeros(len(every())), record=RECORD)
    with pytest.raises(BadInput, match=message):
        ask_edges(taught(), circuit, base(), text, changes, candidates)


def test_what_has_no_meaning_between_heads_is_refused() -> None:
    with pytest.raises(Unsupported, match="a value for m0"):
        ask(PROMPT, every(), Change(kind="clamp", site="m0", value=1.0))
    with pytest.raises(Unsupported, match="no other prompt to resample from"):
        ask(PROMPT, every(), how=base("resample"))
    with pytest.raises(BadInput, match="use value mean"):
        ask("the girl said here that the girl said here that", every(), how=base("position-mean"))
