"""Two mechanisms chosen by the prompt are split and confirmed; one mechanism, and the order of a pair, are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mechanisms import FIRST, SECOND, mixed_task, trial_of, two_heads, two_routes
from verify_helpers import circuit_of

from gossamer.models.compiled import PROGRAMS
from gossamer.verify import ChannelTrial
from gossamer.verify.mixtures import interaction, mixtures, nearest, silhouette, specific, two_means


def test_silhouette_is_its_definition() -> None:
    rows = np.random.default_rng(0).normal(size=(9, 3))
    labels = np.arange(9) < 4
    wanted = []
    for i in range(9):
        d = np.sqrt(((rows[i] - rows) ** 2).sum(1))
        a = d[(labels == labels[i]) & (np.arange(9) != i)].mean()
        b = d[labels != labels[i]].mean()
        wanted.append((b - a) / max(a, b))
    assert silhouette(rows, labels) == pytest.approx(np.mean(wanted))


def test_two_means_finds_two_clouds_and_what_tells_them_apart() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(40) < 0.4
    rows = rng.normal(size=(40, 5)) * 0.1
    rows[truth, 1] += 2
    rows[~truth, 3] += 2
    found = two_means(rows, rng)
    assert found is not None
    same = np.array_equal(found.labels, truth)
    assert same or np.array_equal(found.labels, ~truth)
    assert np.array_equal(nearest(rows, found.centres), found.labels)
    assert [parts.tolist() for parts in specific(rows, truth)] == [[3], [1]]


def test_interaction_is_one_where_each_cluster_loses_all_by_its_own_parts_alone() -> None:
    labels = np.array([False, False, True, True])
    below = np.array([1.0, 3, 2, 2])
    lost = np.array([[1.0, 3, 0, 0], [0, 0, 2, 2]])
    assert interaction(lost, below, labels).tolist() == [1, 1]
    assert interaction(lost[::-1], below, labels).tolist() == [-1, -1]
    assert interaction(np.stack([below, below]), below, labels).tolist() == [0, 0]


def test_heads_that_the_last_word_chooses_are_two_mechanisms() -> None:
    found = mixtures(two_heads("chosen"))
    assert found.verdict == "fail"
    assert found.value == pytest.approx(1, abs=0.02)
    assert found.nulls[0].value is not None
    assert found.nulls[0].value < 0.2
    assert mixtures(two_heads("chosen")) == found


@pytest.mark.parametrize("name", ["add", "proportion", "induction"])
def test_one_mechanism_is_not_split(name: str) -> None:
    """The two heads of `add` are both needed; of `induction` and `proportion` the parts are in series."""
    p = PROGRAMS[name](n=24)
    every = trial_of(p.model, p.task, set())
    trial = trial_of(p.model, p.task, {every.part(int(i)) for i in p.true_edges("resample")})
    found = mixtures(trial)
    assert found.verdict == "pass"
    assert found.value is None or found.value < 0.3


def test_channels_alike_whichever_prompt_of_a_pair_is_the_clean_one() -> None:
    model, task = two_routes(("w9", "w10")), mixed_task(("w9", "w10"))
    trial = ChannelTrial(
        model=model, circuit=circuit_of(model, FIRST + SECOND), task=task, heldout=model.encode(task.heldout)
    )
    found = mixtures(trial)
    assert found.verdict == "fail"
    assert found.value is not None
    assert found.value > 0.9
    assert mixtures(trial.mirrored()) == found
    # only one kind of pair: one mechanism
    one = trial.on([e for e in (*task.train, *task.heldout) if e.template == "left"])
    assert mixtures(one).verdict == "pass"


def test_pairs_that_the_model_gets_wrong_are_no_second_mechanism() -> None:
    """A third of the pairs have their answers exchanged: their attributions are the others' with the sign turned."""
    model, task = two_routes(("w9", "w10")), mixed_task(("w9", "w10"))
    trial = ChannelTrial(model=model, circuit=circuit_of(model, FIRST), task=task, heldout=model.encode(task.heldout))
    left = [e for e in (*task.train, *task.heldout) if e.template == "left"]
    turned = [replace(e, answer=e.wrong_answer, wrong_answer=e.answer) if i % 3 == 0 else e for i, e in enumerate(left)]
    found = mixtures(trial.on(turned))
    assert found.verdict == "pass"
    assert f"{-(-len(left) // 3)} of {len(left)} pairs the model does not order right" in found.note
    every = mixtures(trial.on([replace(e, answer=e.wrong_answer, wrong_answer=e.answer) for e in left]))
    assert (every.verdict, every.value) == ("not measured", None)
    assert "are needed for two halves" in every.note
    both = trial.retried(circuit_of(model, FIRST + SECOND))
    mixed = [*turned, *(e for e in (*task.train, *task.heldout) if e.template != "left")]
    assert mixtures(both.on(mixed)).verdict == "fail"  # two mechanisms are still seen beside them


def test_too_little_is_not_measured() -> None:
    trial = two_heads("chosen")
    few = mixtures(trial.on(trial.task.heldout[:5]))
    assert (few.verdict, few.value) == ("not measured", None)
    assert "5 held-out pairs" in few.note
    assert mixtures(replace(trial, value="optimal")).verdict == "not measured"
    assert "nothing to divide" in mixtures(trial.retried(trial.circuit.only(np.arange(1)))).note
