"""Head roles of a Llama whose output-value circuits are written by hand, and of random ones of every family."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from number_words import Numbers
from taught import pairs, saved
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner
from zoo import DECODERS, decoder

from gossamer import commands
from gossamer.cli.explain import _strength
from gossamer.cli.main import app
from gossamer.commands.reports import HeadRoleReport, RoleScoreReport
from gossamer.errors import BadInput, Unsupported
from gossamer.explain import HeadRoles, HeadRolesConfig, head_roles, head_roles_config
from gossamer.explain.head_roles import labels_of, says
from gossamer.models.compiled import induction
from gossamer.models.huggingface import Decoder, decoder_of
from gossamer.models.huggingface.reads import activations
from gossamer.task import Example, Task

FIRST, LAST = 10, 60  # members of the sequence are the numbers from here to there
TEMPLATE = "{n0} {m0} {n1} {m1} {n2}"


def sequence(n: int = 24) -> Task:
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(n):
        nouns = dict(zip(("n0", "n1", "n2"), rng.integers(2, FIRST, 3), strict=True))
        starts = rng.choice(np.arange(FIRST, LAST - 2), 2, replace=False).tolist()
        clean, other = (TEMPLATE.format(**nouns, m0=s, m1=s + 1) for s in starts)
        answers = [f" {s + 2}" for s in starts]
        examples.append(
            Example(clean=clean, counterfactual=other, answer=answers[0], wrong_answer=answers[1], template=TEMPLATE)
        )
    return Task(name="numbers", version="1", description="", train=tuple(examples), heldout=tuple(examples[:1]))


def by_hand() -> Decoder:
    """Two layers of two query heads on one key-value group; the values are the stream itself. In layer 1 head 0 writes
    them as they are, head 1 turned by one token; layer 0 and the MLPs write nothing, all attention is even."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=64,
        intermediate_size=4, rms_norm_eps=1e-30, attn_implementation="eager", bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    d = decoder_of(LlamaForCausalLM(config).double(), Numbers(), "by hand")
    model: Any = d.model
    for p in model.parameters():
        p.zero_() if p.ndim == 2 else p.fill_(1)
    one = torch.eye(64).double()
    model.model.embed_tokens.weight.copy_(one)
    model.lm_head.weight.copy_(one)
    attention = model.model.layers[1].self_attn
    attention.v_proj.weight.copy_(one)
    attention.o_proj.weight.copy_(torch.cat([one, one.roll(1, 0)], dim=1))
    return d


@pytest.fixture(scope="module")
def found() -> HeadRoles:
    return head_roles(by_hand(), sequence(), HeadRolesConfig(top=1, draws=199))


def test_a_copying_head_copies_and_a_turning_head_goes_on(found: HeadRoles) -> None:
    roles = {role.head: role for role in found.heads}
    copying, turning = roles["a1.h0"], roles["a1.h1"]
    assert copying.next_score is not None
    assert turning.next_score is not None
    assert (copying.copy_score.value, copying.next_score.value) == (1, 0)
    assert (turning.copy_score.value, turning.next_score.value) == (0, 1)
    for score in (copying.copy_score, turning.next_score):
        assert score.p_value == 1 / 200
        assert score.null_interval[1] < 0.2
        assert score.others < 0.4
    for score in (copying.next_score, turning.copy_score):
        assert score.p_value == 1
    assert found.record.details["samples"] == 48


def test_targets_dealt_out_anew_have_the_mean_that_counting_gives(found: HeadRoles) -> None:
    """A head that copies names a random target as often as two samples have one token."""
    task = sequence()
    tokens = np.array([int(e.clean.split()[i]) for e in task.train for i in (1, 3)])
    expected = float((tokens[:, None] == tokens).mean())
    copying = next(role for role in found.heads if role.head == "a1.h0")
    assert abs(copying.copy_score.null - expected) < 0.01


def test_a_head_whose_values_are_shuffled_is_at_chance() -> None:
    """The control: the same weights in a random order."""
    d = by_hand()
    value: Any = d.parts.layers[1].v.linear
    order = torch.from_numpy(np.random.default_rng(1).permutation(64))
    value.weight.copy_(value.weight[order])
    roles = {r.head: r for r in head_roles(d, sequence(), HeadRolesConfig(top=1, draws=199)).heads}
    shuffled = roles["a1.h0"]
    assert shuffled.copy_score.value <= 0.1
    assert shuffled.copy_score.p_value > 0.05
    assert shuffled.next_score is not None
    assert shuffled.next_score.value <= 0.1


def test_even_attention_is_the_share_of_the_tokens(found: HeadRoles) -> None:
    for role in found.heads:
        assert set(role.attention) == {"n0", "m0", "n1", "m1", "n2"}
        for score in role.attention.values():
            assert np.isclose(score.value, 1 / 5)
            assert np.allclose((score.null, *score.null_interval, score.p_value), (1 / 5, 1 / 5, 1 / 5, 1))


def test_the_lens_ends_at_the_logits(found: HeadRoles) -> None:
    d, task = by_hand(), sequence()
    assert [point.after for point in found.lens] == ["input", "a0", "m0", "a1", "m1"]
    batch = d.encode(task.train)
    _, logits = d.writes(batch)
    rows = torch.arange(len(logits))
    gap = (logits[rows, batch.answer] - logits[rows, batch.wrong])[::2]
    assert np.isclose(found.lens[-1].gap, float(gap.mean()))
    assert found.lens[0].gap == found.lens[2].gap == 0  # the last token is a noun: it is nobody's answer
    assert found.lens[3].gap > found.lens[3].null_interval[1]  # a1.h1 turned the last member into the answer


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "falcon multi-query", "gpt_neox", "qwen3", "olmo2"])
def test_what_a_head_says_is_what_it_writes_when_it_looks_there_alone(name: str) -> None:
    """A prompt of one token: every head looks at it, and writes its output-value circuit of it."""
    d = decoder_of(decoder(name).double(), Numbers(), name)
    pair = Example(clean="7", counterfactual="9", answer=" 3", wrong_answer=" 4")
    batch = d.encode([pair])
    stream = activations(d, batch)
    written, _ = d.writes(batch)
    at = 1 + d.parts.n_heads + 1  # the first head of layer 1
    first = stream.start + stream.layers[0]["attn"] + stream.layers[0]["mlp"]
    assert batch.tokens.shape == (2, 1)
    for head, logits in enumerate(says(d, 1, first[:, 0])):
        wanted = d.parts.head(d.parts.final_norm(written[at + head, :, 0]))
        bias = 0 if d.parts.layers[1].attn_post is None else 1e-2  # that norm is of all heads together in the run
        assert torch.allclose(logits, wanted, atol=max(bias * float(wanted.abs().max()), 1e-6))


def test_labels_are_blanks_of_the_template_or_spans() -> None:
    e = Example(
        clean="Anna and Bob: Bob", counterfactual="Anna and Bob: Anna", answer="", wrong_answer="",
        template="{a} and {b}: {again}",
    )  # fmt: skip
    assert labels_of(e) == {"a": ((0, 4), (0, 4)), "b": ((9, 12), (9, 12)), "again": ((14, 17), (14, 18))}
    twice = Example(clean="x y x", counterfactual="z y z", answer="", wrong_answer="", template="{a} {b} {a}")
    assert labels_of(twice)["a"] == ((0, 1), (0, 1))
    assert labels_of(Example(clean="x", counterfactual="y", answer="", wrong_answer="", template="{a} {b}")) == {}


def test_without_members_every_label_counts_and_nothing_goes_on() -> None:
    task = sequence(6)
    other = tuple(replace(e, template="{a} {b} {c} {d} {e}") for e in task.train)
    found = head_roles(by_hand(), replace(task, train=other), HeadRolesConfig(top=1, draws=9))
    assert found.record.details["samples"] == 30
    assert all(role.next_score is None for role in found.heads)
    assert {role.head: role.copy_score.value for role in found.heads}["a1.h0"] == 1


def test_bad_input_is_named() -> None:
    d, task = by_hand(), sequence()
    with pytest.raises(BadInput, match="Unknown label 'm9'"):
        head_roles(d, task, HeadRolesConfig(members=("m0", "m9")))
    with pytest.raises(BadInput, match="fewer than the 64 tokens"):
        head_roles(d, task, HeadRolesConfig(top=64))
    with pytest.raises(BadInput, match="draws"):
        head_roles_config(draws=0)
    bare = Task(
        name="bare", version="1", description="", heldout=task.heldout,
        train=tuple(Example(clean=e.clean, counterfactual=e.counterfactual, answer=e.answer,
                            wrong_answer=e.wrong_answer) for e in task.train),
    )  # fmt: skip
    with pytest.raises(BadInput, match="mark spans"):
        head_roles(d, bare)
    with pytest.raises(Unsupported, match="head roles of CompiledModel"):
        head_roles(induction().model, task)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gpt2", "bloom", "falcon", "phi3"])
def test_every_family_has_scores_between_0_and_1(name: str) -> None:
    assert name in DECODERS
    d = decoder_of(decoder(name), Numbers(), name)
    found = head_roles(d, sequence(6), HeadRolesConfig(draws=19))
    assert [r.head for r in found.heads] == [w for w in d.shape.writers if w.startswith("a")]
    for role in found.heads:
        assert role.next_score is not None
        assert all(0 <= s.value <= 1 for s in (role.copy_score, role.next_score, *role.attention.values()))
        assert sum(s.value for s in role.attention.values()) <= 1 + 1e-5


def test_of_equal_scores_the_significant_head_is_printed_first() -> None:
    def head(name: str, copy: float, p: float, looks: float) -> HeadRoleReport:
        copy_score, attention = (
            RoleScoreReport(value=v, null=0, null_interval=(0, 0), p_value=q, p_adjusted=q, others=0,
                            others_interval=(0, 0))
            for v, q in ((copy, 1.0), (looks, p))
        )  # fmt: skip
        return HeadRoleReport(head=name, next_score=None, copy_score=copy_score, attention={"who": attention})

    made = [head("a", 0, 1, 0.2), head("b", 0, 1, 0.3), head("c", 0, 0.02, 0.1), head("d", 1, 1, 0.1)]
    assert [h.head for h in sorted(made, key=_strength, reverse=True)] == ["d", "c", "b", "a"]


def test_the_command_and_its_python_twin_agree(tmp_path: Path) -> None:
    file, folder = tmp_path / "she-he.jsonl", saved(tmp_path / "taught")
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer,
         "template": "the {who} {verb} {place} that"}
        for e in pairs()[::4]
    ]  # fmt: skip
    file.write_text("\n".join(json.dumps({**row, "split": "train" if i else "heldout"}) for i, row in enumerate(rows)))
    report = commands.roles(folder, file, draws=19, top=1, members=["who", "place"])
    assert len(report.heads) == 8
    assert report.lens[-1].right > 0.9  # it was taught the task
    assert set(report.heads[0].attention) == {"who", "verb", "place"}
    asked = ["explain", "roles", str(folder), str(file), "--top", "1", "--set", "draws=19", "--members", "who,place"]
    shown = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert shown["record"]["details"]["members"] == ["who", "place"]
    assert shown["heads"] == report.model_dump(mode="json")["heads"]
    text = CliRunner().invoke(app, asked).stdout
    assert "samples of one token" in text
    assert "Logit lens" in text
