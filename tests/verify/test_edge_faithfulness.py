"""Faithfulness of head circuits: sums by hand on an additive model, identities on a real one, refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from additive import Additive
from verify_helpers import no_task
from zoo import decoder

from gossamer.ablation import methodology, of_edges
from gossamer.circuit import Circuit
from gossamer.errors import BadInput
from gossamer.evidence import Evidence
from gossamer.graph import on_paths
from gossamer.metric import SIGNS, Metric
from gossamer.models.huggingface import Decoder, decoder_of
from gossamer.statistics import resampled_means
from gossamer.task import Encoded, Example
from gossamer.verify import EdgeTrial, circuit_faithfulness, faithfulness, metric_values
from gossamer.verify.edge_faithfulness import (
    ON_PATHS,
    Aggregate,
    faithfulness_of,
    kept_edges,
    random_connected,
    why_undefined,
)
from gossamer.verify.edge_trial import ends_of
from gossamer.verify.nulls import SAME_EDGES, random_edge_circuits

NUMBERS = [(1, -1), (2, -1), (10, 3), (4, -6)]
WEIGHTS = [6.0, 3.0, -3.0, 4.0]  # of the first edges; all others carry nothing


def circuit_of(model: Additive, *edges: int) -> Circuit:
    return Circuit.from_edges(model.graph(), np.array(edges, dtype=int), np.zeros(len(edges)), record=model.record())


@pytest.mark.parametrize(
    ("edges", "f"),
    [((0,), 0.6), ((0, 1), 0.9), ((0, 1, 3), 1.3), ((2,), -0.3), ((5, 6), 0), ((), 0), ((0, 1, 2, 3), 1)],
)
def test_f_of_an_additive_model_is_its_share_of_the_weights_and_never_clipped(edges: tuple[int, ...], f: float) -> None:
    model = Additive(WEIGHTS, NUMBERS)
    aggregates: tuple[Aggregate, ...] = ("ratio-of-means", "mean-of-ratios")
    for aggregate in aggregates:
        found = circuit_faithfulness(model, model.pairs, circuit_of(model, *edges), aggregate=aggregate)
        assert found.value == pytest.approx(f, abs=1e-12)
        assert found.interval == pytest.approx((f, f), abs=1e-12)  # every pair says the same: paired draws agree
        assert [(n.name, n.value, n.n) for n in found.nulls[1:]] == [("empty circuit", 0, 4), ("full circuit", 1, 4)]
        assert aggregate in found.unit
        assert ("Above 1" in found.note) == (f > 1)
        assert found.verdict == ("pass" if 0.85 < f < 1.15 else "fail")
    assert found.methodology == methodology("acdc-resample").as_dict()
    assert found.nulls[0].name == SAME_EDGES
    assert Evidence.model_validate_json(found.model_dump_json()) == found


def test_metric_values_by_hand_and_equal_circuits_run_once() -> None:
    model = Additive(WEIGHTS, NUMBERS)
    kept = kept_edges(model.graph(), [circuit_of(model, 0, 1), circuit_of(model), circuit_of(model, 0, 1)])
    seen: list[tuple[int, int]] = []
    values = metric_values(
        model, model.pairs, kept, pairs_at_once=3, progress=lambda done, runs, _: seen.append((done, runs))
    )
    by_hand = [9 * clean + 1 * other for clean, other in NUMBERS]
    assert values.tolist() == [by_hand, [10 * other for _, other in NUMBERS], by_hand]
    assert model.runs == 4
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    zero = metric_values(model, model.pairs, kept, how=of_edges("zero"))
    assert zero.tolist() == [[9 * clean for clean, _ in NUMBERS], [0] * 4, [9 * clean for clean, _ in NUMBERS]]


def test_ratio_of_means_and_mean_of_ratios_by_hand() -> None:
    own, empty, whole = np.array([[1.0, 2.0], [8.0, -4.0]]), np.zeros(2), np.array([1.0, 4.0])
    assert faithfulness_of(own, empty, whole)[0].tolist() == [0.6, 0.8]
    assert faithfulness_of(own, empty, whole, aggregate="mean-of-ratios")[0].tolist() == [0.75, 3.5]
    # draws of two pairs: the first twice, both, the second twice
    _, draws = faithfulness_of(own, empty, whole, seed=3)
    assert set(np.round(draws[0], 12)) == {1, 0.6, 0.5}
    assert np.bincount(np.searchsorted([0.5, 0.6, 1], np.round(draws[0], 12))) / 2000 == pytest.approx(
        [0.25, 0.5, 0.25], abs=0.05
    )
    assert set(np.round(faithfulness_of(own, empty, whole)[1][1], 12)) == {8, 0.8, -1}


def test_draws_do_not_depend_on_how_they_are_cut() -> None:
    values = np.random.default_rng(0).normal(size=(3, 700))
    means = resampled_means(values, seed=1)
    assert means.shape == (3, 2000)
    assert np.allclose(means[1], resampled_means(values[1], seed=1))
    assert means.std(1) == pytest.approx(values.std(1) / math.sqrt(700), rel=0.1)
    assert means.mean(1) == pytest.approx(values.mean(1), abs=0.005)


def test_f_is_refused_where_the_model_does_not_do_the_task() -> None:
    """The model's answers are as often wrong as right; in another, they are worse than the empty circuit's."""
    noise = Additive(WEIGHTS, [(1, -1), (-1, 1), (2, -2), (-2, 2)])
    found = circuit_faithfulness(noise, noise.pairs, circuit_of(noise, 0, 1))
    assert (found.verdict, found.value, found.interval) == ("not measured", None, None)
    assert "does not differ" in found.note
    assert "does not do this task" in found.note
    worse = Additive(WEIGHTS, [(-1, 2), (-2, 1)])
    assert "is worse than" in circuit_faithfulness(worse, worse.pairs, circuit_of(worse, 0)).note
    with pytest.raises(BadInput, match="not defined: the model's logit-difference"):
        faithfulness_of(np.ones(2), np.ones(2), np.ones(2))
    many = np.r_[np.full(50, 2.0), 0.0]
    assert why_undefined(0 * many, many) == ""
    assert "in 1 of 51 pairs" in why_undefined(0 * many, many, aggregate="mean-of-ratios")
    assert why_undefined(many + 1, many, "kl") == ""  # less is better
    assert "is worse than" in why_undefined(many, many + 1, "kl")


def test_random_circuits_have_the_size_of_the_circuit_and_fail() -> None:
    model = Additive(WEIGHTS, NUMBERS)
    graph = model.graph()
    (own,) = kept_edges(graph, [circuit_of(model, 0, 1, 20, 12, 246, 251)])  # queries, an MLP, logits
    joined = random_connected(graph, own, 50, seed=0)
    assert np.array_equal(joined, random_connected(graph, own, 50, seed=0))
    assert not np.array_equal(joined, random_connected(graph, own, 50, seed=1))
    for kept in joined:
        edges = np.flatnonzero(kept)
        assert len(edges) >= own.sum()
        assert np.array_equal(np.sort(on_paths(graph, edges)), edges)
        assert set(graph.matrix[edges]) <= set(graph.matrix[own])
    assert joined.any(0).sum() > 50
    rng, n = np.random.default_rng(0), graph.n_edges
    drawn = [circuit_of(model, *rng.choice(n, 6, replace=False)) for _ in range(10)]
    verdicts = [circuit_faithfulness(model, model.pairs, c, seed=5).verdict for c in drawn]
    assert verdicts == ["fail"] * 10
    even = Additive(np.ones(graph.n_edges), NUMBERS)  # any circuit of that size does as well as this one
    found = circuit_faithfulness(even, even.pairs, circuit_of(even, *range(10, graph.n_edges)))
    assert (found.value, found.verdict) == (pytest.approx(252 / 262), "fail")
    with pytest.raises(BadInput, match="draw random circuits without connected"):
        random_connected(graph, np.arange(graph.n_edges) < 2, 20, seed=0)


class Words:
    """A tokenizer of words that are numbers."""

    bos_token_id = None

    def __call__(self, text: str) -> Words:
        self.input_ids = self.encode(text)
        return self

    def encode(self, sequence: str, *, add_special_tokens: bool = True) -> list[int]:
        return [int(w) for w in sequence.split() if w.isdigit()]


@pytest.fixture(scope="module")
def llama() -> Decoder:
    return decoder_of(decoder("llama").double(), Words(), "llama")


@pytest.fixture(scope="module")
def pairs(llama: Decoder) -> Encoded:
    """Five pairs of three lengths, answered by the token that ablating everything costs most."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, 64, (2, length)) for length in (4, 7, 7, 5, 4)]

    def example(sides: np.ndarray, answer: int, wrong: int) -> Example:
        one, other = (" ".join(map(str, side)) for side in sides)
        return Example(clean=one, counterfactual=other, answer=f" {answer}", wrong_answer=f" {wrong}")

    batch = llama.encode([example(p, 5, 9) for p in prompts])
    moved = (lambda z: z[::2] - z[1::2])(llama.writes(batch)[1])
    return llama.encode([
        example(p, int(m.argmax()), int(m.argmin())) for p, m in zip(prompts, moved, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("metric", SIGNS)
def test_full_is_one_and_empty_zero_whatever_the_chunks(llama: Decoder, pairs: Encoded, metric: Metric) -> None:
    graph, rng = llama.graph(), np.random.default_rng(0)
    half = rng.random(graph.n_edges) < 0.5
    kept = np.stack([half, np.zeros_like(half), np.ones_like(half)])
    values = metric_values(llama, pairs, kept, metric=metric)
    f, draws = faithfulness_of(values, values[1], values[2], metric=metric)
    assert f[1:].tolist() == [0, 1]
    assert np.allclose(draws[1:], [[0], [1]])
    assert 1e-3 < abs(f[0]) < 10
    assert abs(f[0] - 1) > 1e-3
    for size in (2, 5):
        assert np.allclose(metric_values(llama, pairs, kept, metric=metric, pairs_at_once=size), values, atol=1e-7)
    whole, counterfactual = llama.writes(pairs)[1][::2], llama.writes(pairs)[1][1::2]
    if metric == "logit-difference":
        for row, logits in ((1, counterfactual), (2, whole)):
            answers = [logits.gather(1, t[::2, None])[:, 0] for t in (pairs.answer, pairs.wrong)]
            assert np.allclose(values[row], (answers[0] - answers[1]).numpy(), atol=1e-6)
    if metric == "kl":
        assert values[2].tolist() == [0] * 5
        wanted = torch.nn.functional.kl_div(counterfactual.log_softmax(-1), whole.softmax(-1), reduction="none").sum(1)
        assert np.allclose(values[1], wanted.numpy(), atol=1e-6)


def test_half_precision_is_scored_in_single(llama: Decoder, pairs: Encoded) -> None:
    model = decoder_of(decoder("llama").to(torch.bfloat16), Words(), "llama")
    kept = np.ones((1, model.graph().n_edges), dtype=bool)
    found, wanted = (metric_values(m, pairs, kept, metric="probability-difference") for m in (model, llama))
    assert np.allclose(found, wanted, atol=0.02)
    assert not np.array_equal(found, np.float32(torch.tensor(found).bfloat16().float()))


def test_a_circuit_of_the_model_gets_evidence_with_its_nulls(llama: Decoder, pairs: Encoded) -> None:
    graph = llama.graph()
    record = Additive([], NUMBERS).record(model_sha256=llama.hashes()[0])
    edges = on_paths(graph, np.sort(np.random.default_rng(1).permutation(graph.n_edges)[: int(0.9 * graph.n_edges)]))
    circuit = Circuit.from_edges(graph, edges, np.zeros(len(edges)), record=record)
    one = circuit_faithfulness(llama, pairs, circuit, connected=True)
    assert one.nulls[0].name == ON_PATHS
    assert one.nulls[0].n == 20
    assert one.nulls[0].interval is not None
    assert one.nulls[0].interval[0] < one.nulls[0].interval[1]
    assert one.interval is not None
    assert one.value is not None
    assert one.interval[0] < one.value < one.interval[1]
    for value in ("resample", "mean"):  # the trial's own numbers, pair by pair
        trial = EdgeTrial(model=llama, circuit=circuit, task=no_task(), heldout=pairs, training=pairs, value=value)
        tried = [circuit, *ends_of(graph, record), *random_edge_circuits(circuit, graph, 20, 0, "edge")]
        kept = kept_edges(graph, tried)
        how = trial.methodology()
        for metric, wanted in zip(("logit-difference", "kl"), trial.outcome(how), strict=True):
            found = metric_values(llama, pairs, kept, metric=metric, how=how, training=pairs)  # type: ignore[arg-type]
            assert np.allclose(found, wanted, atol=1e-5)
    trial = EdgeTrial(model=llama, circuit=circuit, task=no_task(), heldout=pairs, training=pairs)
    mine, theirs = circuit_faithfulness(llama, pairs, circuit), faithfulness(trial, target=0.9)
    assert (mine.verdict, mine.value) == (theirs.verdict, pytest.approx(theirs.value))
    assert mine.nulls[0].value == pytest.approx(theirs.nulls[0].value)
    with pytest.raises(BadInput, match="Expected the model the circuit was found in"):
        circuit_faithfulness(llama, pairs, replace(circuit, record=Additive([], NUMBERS).record()))


def test_bad_input() -> None:
    model = Additive(WEIGHTS, NUMBERS)
    circuit, every = circuit_of(model, 0), np.ones((1, model.graph().n_edges), dtype=bool)
    with pytest.raises(BadInput, match="at least 20 random circuits, got 3"):
        circuit_faithfulness(model, model.pairs, circuit, draws=3)
    with pytest.raises(BadInput, match="Unknown metric 'logits'"):
        metric_values(model, model.pairs, every, metric="logits")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="as bool"):
        metric_values(model, model.pairs, every.astype(float))
    with pytest.raises(BadInput, match="at least 1 pair"):
        metric_values(model, model.pairs, every, pairs_at_once=0)
    with pytest.raises(BadInput, match="aggregate ratio-of-means or"):
        circuit_faithfulness(model, model.pairs, circuit, aggregate="median")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="did you mean mean"):
        circuit_faithfulness(model, model.pairs, circuit, value="means")
    for value in ("mean", "noise", "optimal"):
        with pytest.raises(BadInput, match=f"training pairs beside ablation by {value}"):
            circuit_faithfulness(model, model.pairs, circuit, value=value)
    llama = decoder_of(decoder("llama"), Words(), "llama").graph()
    with pytest.raises(BadInput, match="give the model it was found in"):
        kept_edges(llama, [circuit])
    assert model.runs == 0
