"""Random subsets of the complement: exact at both ends, passed by a planted circuit and by nothing less."""

from __future__ import annotations

import numpy as np
import pytest
from subset_toys import suppressed, trial_of
from taught import she_he, taught
from toys import PLANTED_NODES, planted_model

from gossamer.discover import eap
from gossamer.errors import BadInput
from gossamer.verify import EdgeTrial
from gossamer.verify.random_subsets import random_subsets
from gossamer.verify.subsets import spared
from gossamer.verify.trial import ends, shares

DECODER, SHE_HE = taught(), she_he()
SCORES = eap(DECODER, SHE_HE)


def edges(pairs: int = 6, granularity: str = "edge", kept: int = 30) -> EdgeTrial:
    return EdgeTrial(
        model=DECODER, circuit=SCORES.top(kept), task=SHE_HE, heldout=DECODER.encode(SHE_HE.heldout[:pairs]),
        training=DECODER.encode(SHE_HE.train[:8]), granularity=granularity,
    )  # fmt: skip


def test_nothing_ablated_is_the_whole_model_exactly() -> None:
    for trial in (trial_of(planted_model()), edges()):
        e = random_subsets(trial, p=(0.0,), draws=20)
        assert e.value == 1.0
        assert e.interval == pytest.approx((1.0, 1.0), abs=1e-12)
        assert e.nulls[0].value == 1.0
        assert e.verdict == "fail"  # a random set does as well: such draws ask nothing


def test_everything_ablated_is_the_circuit_alone_exactly() -> None:
    for trial in (trial_of(planted_model()), edges()):
        (f,), spread = shares(trial.effects(trial.inside[None]), *ends(trial), trial.seed)
        e = random_subsets(trial, p=(1.0,), draws=20)
        assert e.value == f
        assert e.interval == pytest.approx(np.quantile(spread[0], (0.025, 0.975)), abs=1e-12)


def test_the_planted_circuit_passes_and_says_its_distribution() -> None:
    e = random_subsets(trial_of(planted_model()))
    assert e.verdict == "pass"
    assert e.value == pytest.approx(1, abs=0.05)
    assert (e.nulls[0].name, e.nulls[0].n) == ("random circuit of the same size at every location, the same draws", 64)
    assert e.nulls[0].value == pytest.approx(0, abs=0.05)
    assert e.interval is not None
    assert e.methodology is not None
    assert e.methodology["set"] == "complement"
    for word in ("median", "5%", "worst", "One pair in one draw", "ahead by"):
        assert word in e.note
    assert e == random_subsets(trial_of(planted_model()))


def test_a_circuit_with_a_part_missing_fails() -> None:
    e = random_subsets(trial_of(planted_model(), PLANTED_NODES[:2] + PLANTED_NODES[3:]))
    assert e.verdict == "fail"
    assert e.value == pytest.approx(0, abs=0.02)


def test_what_the_whole_complement_hides_is_seen() -> None:
    """Control: the circuit alone does the task, and half of what cancels outside turns its answer round."""
    trial = trial_of(suppressed())
    (alone,), _ = shares(trial.effects(trial.inside[None]), *ends(trial), 0)
    assert alone == pytest.approx(1, abs=0.05)
    e = random_subsets(trial)
    assert e.verdict == "fail"
    assert e.value is not None
    assert e.value < 0  # not clipped


@pytest.mark.parametrize(("granularity", "kept"), [("edge", 30), ("node", 12)])
def test_edges_and_heads_are_tried_alike(granularity: str, kept: int) -> None:
    trial = edges(granularity=granularity, kept=kept)
    e = random_subsets(trial, draws=20)
    assert e.value is not None
    assert e.methodology is not None
    assert (e.n, e.methodology["granularity"], e.nulls[0].n) == (6, granularity, 20)
    assert e.value > e.nulls[0].value  # type: ignore[operator]
    assert not trial.inside.all()


def test_draws_are_protected_matched_and_different() -> None:
    found = spared(400, 30, 0)
    share = found.mean(1)
    assert np.all(np.abs(share - (1 - (np.arange(30) + 0.5) / 30)) < 0.1)  # a probability of its own in every stratum
    assert spared(50, 3, 0, (0, 1)).tolist() == [[True] * 50, [False] * 50, [True] * 50]
    assert not np.array_equal(found, spared(400, 30, 1))


def test_what_cannot_be_measured_is_said() -> None:
    one = random_subsets(edges(pairs=1))
    assert (one.verdict, one.value) == ("not measured", None)
    assert "1 pairs are too few" in one.note
    whole = trial_of(planted_model())
    everything = [whole.part(i) for i in range(len(whole.kinds))]
    e = random_subsets(trial_of(planted_model(), tuple(everything)))
    assert e.verdict == "not measured"
    assert "nothing lies outside" in e.note


def test_options_that_make_no_sense_are_refused() -> None:
    trial = trial_of(planted_model())
    with pytest.raises(BadInput, match="at least 20 draws, got 19"):
        random_subsets(trial, draws=19)
    for p in ((), (0.5, 1.5)):
        with pytest.raises(BadInput, match="probabilities from 0 to 1"):
            random_subsets(trial, p=p)
