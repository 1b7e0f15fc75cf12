"""Splits on which a circuit holds, falls, or cannot be tried."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drift_helpers import trial_of
from taught import she_he, taught
from toys import PLANTED_NODES, WORDS, planted_model, planted_task

from gossamer.discover import eap
from gossamer.models import LoadedModel
from gossamer.models.planted import with_means
from gossamer.task import Example
from gossamer.verify import ChannelTrial, EdgeTrial
from gossamer.verify.generalisation import generalisation

OTHER_NODES = ("0.attn.act_in:4", "0.attn.v:6")


def two_ways() -> LoadedModel:
    """Beside left and right the model knows w9 and w10, by a channel and a value of their own."""
    model = planted_model(decoys=False).model
    model.wte.weight.data[13, 4], model.wte.weight.data[14, 4] = 1.0, -1.0
    v = 2 * model.config.d_attn
    model.blocks[0].attn.c_attn.weight.data[v + 6, 4] = 2.0
    model.blocks[0].attn.c_proj.weight.data[6, 6] = 3.0
    return with_means(model, WORDS, "two ways")


def said_with(pair: tuple[str, str]) -> tuple[Example, ...]:
    return tuple(
        Example(
            clean=f"w{i} {pair[0]} w{i + 1}", counterfactual=f"w{i} {pair[1]} w{i + 1}", answer=" L", wrong_answer=" R"
        )
        for i in range(8)
    )  # fmt: skip


def trial_with(nodes: tuple[str, ...], **ood: tuple[Example, ...]) -> ChannelTrial:
    trial = trial_of(two_ways(), nodes)
    plain = [e for e in planted_task(100).train if "w9" not in e.clean and "w10" not in e.clean]
    task = replace(trial.task, train=tuple(plain[:20]), heldout=tuple(plain[20:40]), ood=ood)
    return replace(trial, task=task, heldout=trial.model.encode(task.heldout))


def test_a_circuit_that_knows_both_ways_holds_everywhere() -> None:
    found = generalisation(trial_with((*PLANTED_NODES, *OTHER_NODES), other=said_with(("w9", "w10"))))
    assert found.verdict == "pass"
    assert found.value == pytest.approx(0, abs=0.05)
    assert "other: f" in found.note
    assert "heldout: f" in found.note


def test_a_circuit_that_works_only_in_distribution_fails() -> None:
    found = generalisation(trial_with(PLANTED_NODES, other=said_with(("w9", "w10"))))
    assert found.verdict == "fail"
    assert found.value == pytest.approx(1, abs=0.05)  # f is 1 there and 0 here
    assert found.note.startswith("Most on other.")
    assert "100% the right way, the model 100%" in found.note
    assert generalisation(trial_with(PLANTED_NODES)).verdict == "pass"


def test_splits_that_cannot_be_tried_say_why() -> None:
    odd = (Example(clean="w1", counterfactual="w2", answer=" L L", wrong_answer=" R"),) * 2
    found = generalisation(trial_with(PLANTED_NODES, none=said_with(("w2", "w3")), odd=odd, one=odd[:1]))
    assert found.verdict == "pass"  # on the held-out templates
    assert "none: not measured, the model's logit-difference" in found.note
    assert "odd: not measured, 2 problems" in found.note
    assert "one: not measured, it has 1 pairs" in found.note
    trial = trial_of(two_ways())
    alone = generalisation(replace(trial, task=replace(trial.task, heldout=())))
    assert alone.verdict == "not measured"
    assert alone.value is None


def test_edges_of_a_decoder() -> None:
    model, task = taught(), she_he()
    turned = tuple(replace(e, answer=e.wrong_answer, wrong_answer=e.answer) for e in task.heldout[:8])
    task = replace(task, ood={"turned": turned})
    trial = EdgeTrial(
        model=model, circuit=eap(model, task).top(model.graph().n_edges), task=task,
        heldout=model.encode(task.heldout), training=model.encode(task.train[:8]),
    )  # fmt: skip
    found = generalisation(trial, draws=3, pairs=12)
    assert found.value == pytest.approx(0, abs=1e-6)
    assert "turned: not measured" in found.note
