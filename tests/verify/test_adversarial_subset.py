"""An adversary chooses what is ablated: never weaker than chance, and it finds what was planted to be found."""

from __future__ import annotations

import numpy as np
import pytest
from subset_toys import DOWN, UP, suppressed, trial_of
from taught import she_he, taught
from toys import PLANTED_NODES, planted_model

from gossamer.discover import eap
from gossamer.errors import BadInput
from gossamer.verify import EdgeTrial
from gossamer.verify.adversarial_subset import adversarial_subset, worst_subsets
from gossamer.verify.subsets import spared
from gossamer.verify.trial import ends, shares

DECODER, SHE_HE = taught(), she_he()
EDGES = eap(DECODER, SHE_HE).top(30)


def edges(value: str = "resample", pairs: int = 6) -> EdgeTrial:
    return EdgeTrial(
        model=DECODER, circuit=EDGES, task=SHE_HE, heldout=DECODER.encode(SHE_HE.heldout[:pairs]),
        training=DECODER.encode(SHE_HE.train[:8]), value=value,
    )  # fmt: skip


def test_it_is_never_weaker_than_the_random_subsets_and_keeps_the_circuit() -> None:
    for trial in (trial_of(suppressed()), trial_of(planted_model()), edges()):
        half = trial.n_pairs // 2
        starts = spared(len(trial.kinds), 8, 0)
        by_chance = trial.effects(trial.inside | starts)[:, :half].mean(1)
        random, worst = worst_subsets(trial, trial.inside, starts, half, 2, 4)
        at_random, at_worst = trial.effects(np.stack([random, worst]))[:, :half].mean(1)
        assert at_random == by_chance.min()
        assert at_worst <= at_random
        assert random[trial.inside].all()
        assert worst[trial.inside].all()


def test_it_finds_the_planted_worst_subset() -> None:
    """Sixteen channels cancel: the worst is to ablate the eight that help and no other that hurts."""
    trial = trial_of(suppressed())
    _, worst = worst_subsets(trial, trial.inside, spared(len(trial.kinds), 6, 0), trial.n_pairs // 2, 1, 6)
    kept = {trial.part(int(i)) for i in np.flatnonzero(worst)}
    assert not kept & {f"0.attn.v:{c}" for c in UP}
    assert kept >= {f"0.attn.v:{c}" for c in DOWN}
    e = adversarial_subset(trial, restarts=1, steps=6)
    assert e.verdict == "fail"
    assert e.value is not None
    by_chance = e.nulls[1]
    assert by_chance.name == "worst of 6 random subsets"
    assert e.value < by_chance.value  # type: ignore[operator]
    (f,), _ = shares(trial.effects(worst[None])[:, 8:], *(x[8:] for x in ends(trial)), 0)
    assert e.value == f  # a hard mask, run again, on pairs it was not chosen on


def test_the_planted_circuit_passes() -> None:
    e = adversarial_subset(trial_of(planted_model()), restarts=2, steps=4)
    assert (e.verdict, e.n) == ("pass", 8)
    assert e.value == pytest.approx(1, abs=0.05)
    assert e.nulls[0].name == "random circuit of the same size at every location, the same adversary"
    assert e.nulls[0].value == pytest.approx(0, abs=0.05)
    assert e == adversarial_subset(trial_of(planted_model()), restarts=2, steps=4)


def test_a_circuit_with_a_part_missing_fails() -> None:
    missing = trial_of(planted_model(), PLANTED_NODES[:2] + PLANTED_NODES[3:])
    e = adversarial_subset(missing, restarts=1, steps=3)
    assert e.verdict == "fail"
    assert e.value == pytest.approx(0, abs=0.02)


def test_edges_have_gradients_too() -> None:
    """Control: a trained model's circuit by EAP under full ablation loses more to the adversary than by chance."""
    e = adversarial_subset(edges(), restarts=1, steps=6)
    assert e.value is not None
    assert e.value < e.nulls[1].value  # type: ignore[operator]
    assert e.methodology is not None
    assert e.methodology["value"] == "resample"


def test_what_cannot_be_measured_is_said() -> None:
    e = adversarial_subset(edges("optimal"), restarts=1, steps=1)
    assert (e.verdict, e.value) == ("not measured", None)
    assert "needs gradients" in e.note
    few = adversarial_subset(edges(pairs=3))
    assert few.verdict == "not measured"
    assert "3 pairs are too few, 4 are needed" in few.note
    with pytest.raises(BadInput, match="at least 1, got 1, 0 and 2"):
        adversarial_subset(edges(), restarts=1, steps=0)
