"""What a trial of any grain answers: sets of parts, ends, directions, shares, attributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from taught import she_he, taught
from toys import PLANTED_NODES
from verify_helpers import circuit_of

from gossamer.discover import eap
from gossamer.errors import BadInput, Unsupported
from gossamer.models import LoadedModel
from gossamer.task import Task
from gossamer.verify import ChannelTrial, EdgeTrial
from gossamer.verify.edge_trial import CIRCUIT, EMPTY, FULL
from gossamer.verify.trial import ends, random_sets, shares

DECODER, SHE_HE = taught(), she_he()


@pytest.fixture
def channels(planted: LoadedModel, planted_pairs: Task) -> ChannelTrial:
    circuit = circuit_of(planted, PLANTED_NODES)
    return ChannelTrial(
        model=planted, circuit=circuit, task=planted_pairs, heldout=planted.encode(planted_pairs.heldout)
    )


@pytest.fixture(scope="module")
def edges() -> EdgeTrial:
    train, heldout = DECODER.encode(SHE_HE.train[:8]), DECODER.encode(SHE_HE.heldout[:6])
    circuit = eap(DECODER, SHE_HE).top(30)
    return EdgeTrial(model=DECODER, circuit=circuit, task=SHE_HE, heldout=heldout, training=train, draws=3)


def halves(gap: torch.Tensor) -> np.ndarray:
    return gap.double().view(-1, 2).mean(1).numpy()


def test_effects_of_channels_are_the_runs_they_name(channels: ChannelTrial) -> None:
    model, pairs = channels.model, channels.heldout
    empty, whole = ends(channels)
    assert np.allclose(whole, halves(model.run(pairs).gap), atol=1e-6)
    assert np.allclose(empty, 0, atol=1e-6)  # blind to the prompt
    for value, preset in (("mean", "gao-mean"), ("zero", "zero-complement")):
        alone = model.run(pairs, ablation=channels.circuit.as_ablation(preset)).gap
        (own,) = channels.effects(channels.inside[None], value=value)
        assert np.allclose(own, halves(alone), atol=1e-5)
    without = model.run(pairs, ablation=channels.circuit.as_ablation("gao-mean-circuit")).gap
    assert np.allclose(channels.effects(~channels.inside[None])[0], halves(without), atol=1e-5)
    f, draws = shares(channels.effects(channels.inside[None]), empty, whole, 0)
    assert f.shape == (1,)
    assert f[0] == pytest.approx(1, abs=0.05)
    assert draws.shape[1] == 2000


def test_resampling_channels_runs_the_other_prompt(channels: ChannelTrial) -> None:
    _, whole = ends(channels)
    n = len(channels.kinds)
    empty, full = channels.effects(np.repeat([[False], [True]], n, axis=1), value="resample")
    assert np.allclose(empty, -whole, atol=1e-5)
    assert np.allclose(full, whole, atol=1e-5)
    everything = channels.effects(np.ones((1, n), dtype=bool), value="resample", direction="counterfactual")
    assert np.allclose(everything[0], whole, atol=1e-5)
    # the planted circuit carries the whole answer either way; a decoy carries nothing
    (here,) = channels.effects(channels.inside[None], value="resample")
    (there,) = channels.effects(channels.inside[None], value="resample", direction="counterfactual")
    assert np.allclose(here, whole, atol=0.05 * abs(whole).mean())
    assert np.allclose(there, whole, atol=0.05 * abs(whole).mean())
    (nothing,) = channels.effects(~channels.inside[None], value="resample")
    assert nothing.mean() < 0


def test_optimal_constants_do_no_worse_than_means(channels: ChannelTrial) -> None:
    kept = np.ones((1, len(channels.kinds)), dtype=bool)
    kept[0, np.flatnonzero(channels.inside)[1]] = False
    by_mean, by_best = (float(channels.effects(kept, value=v).mean()) for v in ("mean", "optimal"))
    assert abs(by_mean) < 0.05
    assert abs(by_best) < 0.05  # the answer is gone: no constant knows the prompt
    whole = float(ends(channels)[1].mean())
    assert float(channels.effects(channels.inside[None], value="optimal").mean()) == pytest.approx(whole, rel=0.1)


def test_shares_of_channels_have_the_gradient_of_their_attributions(channels: ChannelTrial) -> None:
    kept = torch.ones(len(channels.kinds), requires_grad=True)
    effects = channels.graded(kept, 0, channels.n_pairs)
    assert np.allclose(effects.detach(), ends(channels)[1], atol=1e-5)
    (gradient,) = torch.autograd.grad(effects.mean(), kept)
    assert np.allclose(gradient, channels.attributions().mean(0), atol=1e-4)
    strongest = np.argsort(-channels.attributions().mean(0))[: len(PLANTED_NODES)]
    assert {channels.part(int(i)) for i in strongest} == set(PLANTED_NODES)


def test_effects_of_edges_are_the_trial_s_outcomes(edges: EdgeTrial) -> None:
    n = len(edges.kinds)
    kept = np.stack([edges.inside, np.zeros(n, dtype=bool), np.ones(n, dtype=bool)])
    for direction in ("clean", "counterfactual"):
        set_ = "complement" if direction == "clean" else "circuit"
        wanted = edges.outcome(edges.methodology(set_=set_, direction=direction)).gap  # type: ignore[arg-type]
        found = edges.effects(kept, direction=direction)  # type: ignore[arg-type]
        assert np.allclose(found, wanted[[CIRCUIT, EMPTY, FULL]], atol=1e-4)
    share = torch.ones(n, requires_grad=True)
    effects = edges.graded(share, 0, edges.n_pairs)
    (gradient,) = torch.autograd.grad(effects.mean(), share)
    assert np.allclose(gradient, edges.attributions().mean(0), atol=1e-3)


def test_nodes_are_all_edges_out_of_them(edges: EdgeTrial) -> None:
    nodes = EdgeTrial(
        model=edges.model, circuit=edges.circuit, task=SHE_HE, heldout=edges.heldout, training=edges.training,
        granularity="node",
    )  # fmt: skip
    assert len(nodes.kinds) == len(set(edges.graph().src.tolist()))
    assert nodes.part(0) == "input"
    one = np.ones((1, len(nodes.kinds)), dtype=bool)
    one[0, 1] = False
    by_edges = ~np.isin(edges.graph().src, np.unique(edges.graph().src)[1])
    assert np.allclose(nodes.effects(one), edges.effects(by_edges[None]), atol=1e-5)
    assert nodes.attributions().shape == (edges.n_pairs, len(nodes.kinds))


def test_random_sets_match_kind_by_kind(channels: ChannelTrial, edges: EdgeTrial) -> None:
    for trial in (channels, edges):
        wanted = np.bincount(trial.kinds[trial.inside], minlength=trial.kinds.max() + 1)
        for row in random_sets(trial, 4, 0):
            assert np.array_equal(np.bincount(trial.kinds[row], minlength=len(wanted)), wanted)
        assert np.array_equal(random_sets(trial, 3, 5), random_sets(trial, 3, 5))
        assert not np.array_equal(random_sets(trial, 3, 5), random_sets(trial, 3, 6))


def test_other_pairs_and_other_circuits(channels: ChannelTrial, edges: EdgeTrial) -> None:
    assert channels.on(channels.task.train[:3]).n_pairs == 3
    assert edges.on(SHE_HE.heldout[6:8]).n_pairs == 2
    other = edges.circuit.only(np.arange(5))
    assert edges.retried(other).inside.sum() == 5


def test_what_cannot_be_asked_is_refused(channels: ChannelTrial) -> None:
    kept = channels.inside[None]
    with pytest.raises(BadInput, match="Unknown ablation value 'means'"):
        channels.effects(kept, value="means")
    with pytest.raises(Unsupported, match="direction of the counterfactual"):
        channels.effects(kept, direction="counterfactual")
    with pytest.raises(Unsupported, match="shares of channels"):
        channels.graded(torch.ones(len(channels.kinds)), 0, 2, value="resample")
