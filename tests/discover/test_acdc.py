"""ACDC equals the sequential algorithm, edge for edge, and the runs it is made of equal whole ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from number_words import Numbers
from zoo import DECODERS, decoder

from gossamer.discover import ACDCConfig, acdc
from gossamer.discover.acdc import metric_of
from gossamer.models.huggingface import Decoder, decoder_of
from gossamer.task import Encoded, Example, Task, sides


def task(first_difference: int, length: int = 9, n: int = 4) -> Task:
    """Pairs of random numbers that agree up to a place; one pair is shorter."""
    rng = np.random.default_rng(0)

    def pair(i: int) -> Example:
        one = rng.integers(2, 64, length - (i == 1))
        other = one.copy()
        other[first_difference:] = rng.integers(2, 64, len(one) - first_difference)
        one, other = (" ".join(map(str, x)) for x in (one, other))
        return Example(clean=one, counterfactual=other, answer=" 5", wrong_answer=" 9")

    return Task(name="t", version="1", description="", train=tuple(map(pair, range(n))), heldout=(pair(0),))


def made(name: str, dtype: torch.dtype = torch.float64, **changes: int) -> Decoder:
    return decoder_of(decoder(name, **changes).to(dtype), Numbers(), name)


@pytest.mark.parametrize("name", DECODERS)
def test_a_run_from_the_middle_equals_the_whole_run(name: str) -> None:
    d = made(name)
    clean, other = sides(d.encode(task(4).train))
    reference, _ = d.writes(other)
    runs, generator = d.ablations(clean, reference), torch.Generator().manual_seed(0)
    assert runs.shared == 4
    places = runs.places(np.arange(d.graph().n_edges))
    for layer in range(d.shape.n_layers + 1):
        alphas = (torch.rand(3, d.graph().n_edges, generator=generator) < 0.3).double()
        alphas *= torch.from_numpy(places[2] >= layer)
        fast = runs.logits(torch.stack([d._table(a) for a in alphas]), layer)
        slow = torch.stack([d.patched(clean, a, reference) for a in alphas])
        assert torch.allclose(fast, slow, atol=1e-6, rtol=0)
        assert not torch.allclose(slow[0], runs.clean, atol=1e-4)
    assert "forward" not in vars(d.parts.layers[0].block)  # nothing is left behind


@pytest.mark.parametrize("name", DECODERS)
def test_a_trial_of_removals_equals_the_whole_run(name: str) -> None:
    """Whatever was accepted before, several trials in a pass and edges that were dropped unseen among it."""
    d = made(name)
    clean, other = sides(d.encode(task(4).train))
    reference, _ = d.writes(other)
    runs, rng = d.removals(clean, reference), np.random.default_rng(0)
    alpha, unseen, worst = torch.zeros(d.graph().n_edges).double(), 0, 0.0
    for stage in runs.stages():
        live = runs.live(stage)
        runs.drop(stage[~live])
        alpha[stage[~live].copy()] = 1
        unseen += int((~live).sum())
        edges = rng.permutation(stage[live])
        for at in range(0, len(edges), 8):
            some = edges[at : at + 8]
            found, trial = runs.logits(some), int(rng.integers(len(some)))
            tried = alpha.clone()
            tried[some[: trial + 1]] = 1
            worst = max(worst, float((found[trial] - d.patched(clean, tried, reference)).abs().max()))
            runs.accept(accepted := int(rng.choice([0, len(some) // 2, len(some), len(some)])))
            alpha[some[:accepted]] = 1
    assert worst < 1e-6
    assert unseen
    assert all("forward" not in vars(m) for m in d.model.modules())  # nothing is left behind


def sequential(d: Decoder, pairs: Encoded, config: ACDCConfig) -> tuple[list[int], float]:
    """Algorithm 1 of the paper, one whole run an edge: edges kept, and the smallest distance to the threshold."""
    clean, other = sides(pairs)
    reference, _ = d.writes(other)
    whole = d.writes(clean)[1]
    score = metric_of(config, clean, whole)
    alpha = torch.zeros(d.graph().n_edges).double()
    now, kept, margin = score(whole[None])[0], [], np.inf
    with torch.no_grad():
        for edge in reversed(range(len(alpha))):
            alpha[edge] = 1
            value = score(d.patched(clean, alpha, reference)[None])[0]
            margin = min(margin, abs(value - now - config.threshold))
            if value - now < config.threshold:
                now = value
            else:
                alpha[edge] = 0
                kept.append(edge)
    return sorted(kept), margin


@pytest.mark.parametrize("metric", ["kl", "logit-difference"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon"])
def test_the_result_is_that_of_the_sequential_algorithm(name: str, metric: str) -> None:
    d = made(name)
    sizes = []
    for threshold in (1e-4, 1e-3, 1e-2):
        config = ACDCConfig(threshold=threshold, metric=metric, pairs=4)  # type: ignore[arg-type]
        wanted, margin = sequential(d, d.encode(task(3).train), config)
        assert margin > 1e-9  # float64: no decision hangs on rounding
        found, graph = acdc(d, task(3), config), d.graph()
        assert list(zip(found.src, found.dst, found.matrix, strict=True)) == [
            (graph.src[e], graph.dst[e], graph.matrix[e]) for e in wanted
        ]
        assert (found.weight >= threshold).all()
        assert found.record.details["passes"] < graph.n_edges
        sizes.append(found.n_edges)
    assert sizes[0] > sizes[-1]


def test_pairs_without_a_difference_lose_every_edge() -> None:
    same = task(3)
    alike = tuple(Example(clean=e.clean, counterfactual=e.clean, answer=" 5", wrong_answer=" 9") for e in same.train)
    found = acdc(made("gpt2"), Task(name="t", version="1", description="", train=alike, heldout=alike))
    assert found.n_edges == 0
    assert found.record.details["metric_at_end"] == pytest.approx(0, abs=1e-9)


def test_progress_goes_up_to_all_edges_and_twice_is_the_same() -> None:
    d, seen = made("llama"), list[tuple[int, int, float]]()
    one = acdc(d, task(3), ACDCConfig(threshold=1e-3), progress=lambda *at: seen.append(at))
    assert seen[-1][:2] == (d.graph().n_edges,) * 2
    assert [s[0] for s in seen] == sorted(s[0] for s in seen)
    two = acdc(d, task(3), ACDCConfig(threshold=1e-3))
    assert np.array_equal(one.weight, two.weight)
