"""Leaving one part out: a planted circuit needs every part, and what it does not need is named."""

from __future__ import annotations

import pytest
from subset_toys import doubled, trial_of
from taught import she_he, taught
from toys import PLANTED_NODES, planted_model

from gossamer.discover import eap
from gossamer.errors import BadInput
from gossamer.verify import EdgeTrial
from gossamer.verify.minimality import minimality

DECODER, SHE_HE = taught(), she_he()


def test_every_part_of_the_planted_circuit_earns_its_place() -> None:
    e = minimality(trial_of(planted_model()))
    assert (e.verdict, e.value, e.n) == ("pass", 1.0, 4)
    (null,) = e.nulls
    assert (null.name, null.value, null.n) == ("random outside parts added to the circuit", 0.0, 30)
    assert "4 of 4 parts earn their place." in e.note
    assert "4 of them by more than any outside part" in e.note
    assert "0 parts can go" in e.note
    assert e == minimality(trial_of(planted_model()))


@pytest.mark.parametrize("idle", ["0.attn.v:9", "0.attn.v:1"])  # dead; in use, but not for this
def test_a_part_too_many_fails_and_is_named(idle: str) -> None:
    e = minimality(trial_of(planted_model(), (*PLANTED_NODES, idle)))
    assert (e.verdict, e.value) == ("fail", 0.8)
    assert f"Do not: {idle}. None of these matter" in e.note
    assert "1 parts can go" in e.note
    assert "4 stay" in e.note


def test_parts_that_back_each_other_up_are_told_from_idle_ones() -> None:
    e = minimality(trial_of(doubled(), (*PLANTED_NODES, "0.attn.v:7")))
    assert (e.verdict, e.value) == ("fail", 0.6)
    assert "Do not: 0.attn.v:5, 0.attn.v:7. 2 of these matter once the others of them are gone" in e.note
    assert "1 parts can go" in e.note


def test_a_circuit_that_does_nothing_needs_no_part() -> None:
    """Control: one part missing, and the other three are idle."""
    e = minimality(trial_of(planted_model(), PLANTED_NODES[:2] + PLANTED_NODES[3:]))
    assert (e.verdict, e.value) == ("fail", 0.0)
    assert "0 stay" in e.note


def edges(kept: int, pairs: int = 8) -> EdgeTrial:
    return EdgeTrial(
        model=DECODER, circuit=eap(DECODER, SHE_HE).top(kept), task=SHE_HE, training=DECODER.encode(SHE_HE.train[:8]),
        heldout=DECODER.encode(SHE_HE.heldout[:pairs]),
    )  # fmt: skip


def test_a_large_circuit_is_sampled() -> None:
    e = minimality(edges(30), most=10, others=19)
    assert e.n == 10
    assert "a random sample of 30" in e.note
    assert e.nulls[0].value is not None


def test_what_cannot_be_measured_is_said() -> None:
    assert "5 pairs are too few" in minimality(edges(30, pairs=5)).note
    few = minimality(edges(DECODER.graph("head").n_edges - 20))
    assert (few.verdict, few.value) == ("not measured", None)
    assert "outside parts of the circuit's kinds are too few" in few.note
    nothing = minimality(trial_of(planted_model(), ()))
    assert (nothing.verdict, nothing.note) == ("not measured", "the circuit has no parts.")
    with pytest.raises(BadInput, match="at least 1 / rate - 1 others"):
        minimality(edges(30), others=18)
