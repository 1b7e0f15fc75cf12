"""A true hypothesis keeps the effect and a wrong one does not; donors, identities, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mechanisms import two_heads
from toys import PLANTED_NODES
from verify_helpers import circuit_of

from gossamer.errors import BadInput
from gossamer.models import LoadedModel
from gossamer.task import Task, sides
from gossamer.verify import ChannelTrial
from gossamer.verify.causal_scrubbing import (
    Hypothesis,
    causal_scrubbing,
    decided,
    donors,
    joined,
    read_hypothesis,
    share_alone,
    stated,
)
from gossamer.verify.trial import ends, rows_of


@pytest.fixture
def trial(planted: LoadedModel, planted_pairs: Task) -> ChannelTrial:
    return ChannelTrial(
        model=planted, circuit=circuit_of(planted, PLANTED_NODES), task=planted_pairs,
        heldout=planted.encode(planted_pairs.heldout),
    )  # fmt: skip


def claims(*parts: tuple[list[str] | str, str], **features: str) -> Hypothesis:
    return Hypothesis.model_validate({
        "claims": [{"parts": p, "depends_on": f.split()} for p, f in parts], "features": features,
    })  # fmt: skip


def test_donors_are_other_prompts_of_the_class() -> None:
    classes = joined(np.array([0, 0, 0, 1, 1, 2]), np.array([5, 5, 5, 5, 5, 5]))
    found = donors(classes, np.random.default_rng(0))
    assert (classes[found] == classes).all()
    assert (found != np.arange(6)).tolist() == [True] * 5 + [False]
    assert share_alone(classes) == pytest.approx(1 / 6)


def test_channels_that_carry_their_own_values_are_the_whole_model(trial: ChannelTrial) -> None:
    """Every part claimed to depend on the very example: the identity. Every part from one class of all prompts: the
    last channels decide, so the answer is the donor's."""
    every = np.zeros(len(trial.kinds), dtype=np.int64)
    rows = np.arange(2 * trial.n_pairs)
    whole = ends(trial)[1]
    assert np.allclose(trial.scrubbed(rows[None], every), whole, atol=1e-5)
    other = donors(trial.heldout.last.numpy(), np.random.default_rng(0))
    gap = trial.model.run(trial.heldout).gap.numpy()
    same = trial.heldout.answer.numpy()[other] == trial.heldout.answer.numpy()
    wanted = np.where(same, gap[other], -gap[other]).reshape(-1, 2).mean(1)
    assert np.allclose(trial.scrubbed(other[None], every), wanted, atol=1e-4)
    # nothing replaced
    assert np.allclose(trial.scrubbed(other[None], every - 1), whole, atol=1e-5)


def test_heads_that_carry_their_own_values_are_the_whole_model() -> None:
    trial = two_heads("chosen").of_nodes()
    every, rows = np.zeros(len(trial.kinds), dtype=np.int64), np.arange(2 * trial.n_pairs)
    clean = sides(trial.heldout)[0]
    assert np.allclose(trial.scrubbed(rows[None], every), ends(trial)[1], atol=1e-9)
    other = donors(trial.heldout.last.numpy(), np.random.default_rng(0))
    logits = trial.model.writes(rows_of(trial.heldout, other[::2]))[1]
    at = np.arange(len(logits))
    assert np.allclose(
        trial.scrubbed(other[None], every), logits[at, clean.answer] - logits[at, clean.wrong], atol=1e-9
    )


def test_the_answer_is_all_that_the_planted_channels_depend_on(trial: ChannelTrial) -> None:
    found = causal_scrubbing(trial)
    assert found.verdict == "pass"
    assert found.value == pytest.approx(1, abs=0.05)
    assert found.nulls[0].value is not None
    assert found.nulls[0].value < 0.5
    assert found.methodology is not None
    assert found.methodology["value"] == "resample"
    assert len(stated(trial)) == len(PLANTED_NODES)  # each at a location of its own
    assert causal_scrubbing(trial) == found
    asked = [decided(f, (0.1, 0.9), 0.8) for f in (0.8, 0.5)]
    assert asked == ["pass", "not measured"]
    assert decided(0.5, (0.1, 0.79), 0.8) == "fail"


@pytest.mark.parametrize("feature", ["template", "first"])
def test_a_wrong_hypothesis_fails(trial: ChannelTrial, feature: str) -> None:
    """The value channel depends on which side was named, not on the template, nor on whether the first word is it."""
    wrong = claims((["0.attn.v:5"], feature), first="^(left|right)?")
    wrong = wrong if feature == "first" else claims((["0.attn.v:5"], feature))
    found = causal_scrubbing(trial, hypothesis=wrong)
    assert found.verdict == "fail"
    assert found.value is not None
    assert found.value < 0.5
    right = claims((["0.attn.v:5"], "side"), ("rest", "answer"), side="left|right")
    assert causal_scrubbing(trial, hypothesis=right).verdict == "pass"


def test_heads_depend_on_the_answer_and_not_on_the_context() -> None:
    trial = two_heads("chosen")
    # where the last word does not choose it, a head still carries nothing: only what the answer and the context say
    right = claims((["a0.h1", "a0.h2"], "answer context"), context="[AB]$")
    good = causal_scrubbing(trial, hypothesis=right)
    assert good.verdict == "pass"
    assert good.value == pytest.approx(1, abs=0.02)
    wrong = causal_scrubbing(trial, hypothesis=claims((["a0.h1", "a0.h2"], "context"), context="[AB]$"))
    assert wrong.verdict == "fail"
    assert wrong.methodology is not None
    assert wrong.methodology["granularity"] == "node"


def test_a_claim_that_nothing_tests_is_not_a_pass(trial: ChannelTrial) -> None:
    alone = causal_scrubbing(trial, hypothesis=claims(("rest", "example")))
    assert (alone.verdict, alone.value) == ("not measured", None)
    assert "no donors" in alone.note
    assert "example: 1.00" in alone.note  # its own values are the whole effect
    wider = circuit_of(trial.model, (*PLANTED_NODES, "0.mlp.post_act:9"))  # type: ignore[arg-type]
    unused = causal_scrubbing(trial.retried(wider), hypothesis=claims((["0.mlp.post_act:9"], "nothing")))
    assert unused.verdict == "not measured"
    assert "not tested" in unused.note


def test_a_file_is_read_strictly_and_every_unknown_name_is_told(trial: ChannelTrial, tmp_path: Path) -> None:
    path = tmp_path / "hypothesis.yaml"
    path.write_text(
        "features: {side: 'left|right'}\nclaims:\n- parts: [0.attn.v, '0.attn.act_in:3']\n  depends_on: [side]\n"
        "- {parts: rest, depends_on: [answer]}\n"
    )
    read = read_hypothesis(path)
    assert [len(c.parts) for c in stated(trial, read)] == [2, 2]
    for text, wrong in (
        ("claims: []", "claims"), ("claims: [{parts: rest, depends_on: [answer], why: x}]", "why"),
        ("claims: [{parts: rest, depends_on: answer}]", "depends_on"), ("{", "not a hypothesis"),
        ("features: {answer: x}\nclaims: [{parts: rest, depends_on: [answer]}]", "another name"),
        ("features: {a: '('}\nclaims: [{parts: rest, depends_on: [a]}]", "no regular expression"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(BadInput, match=wrong):
            read_hypothesis(path)
    with pytest.raises(BadInput, match="found none"):
        read_hypothesis(tmp_path / "none.yaml")
    with pytest.raises(BadInput, match=r"claim 1 names '0.attn.v:6'.*0.attn.v:5.*unknown feature 'anser'.*answer"):
        stated(trial, claims((["0.attn.v:6"], "anser")))
    with pytest.raises(BadInput, match=r"claims 1 and 2 are both about 0\.attn\.v:5"):
        stated(trial, claims((["0.attn.v:5"], "answer"), (["0.attn.v"], "answer")))


def test_features_of_the_text_need_the_pairs_of_the_task(trial: ChannelTrial) -> None:
    others = trial.on(trial.task.train[:20])
    assert causal_scrubbing(others).verdict in ("pass", "not measured")
    with pytest.raises(BadInput, match="these pairs are others"):
        causal_scrubbing(others, hypothesis=claims(("rest", "template")))
