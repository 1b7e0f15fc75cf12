"""What ablated writes become: each value against a plain computation, padding and batches changing nothing."""

from __future__ import annotations

import pytest
import torch
from taught import she_he, taught

from gossamer.ablation import of_edges
from gossamer.errors import BadInput, Unsupported
from gossamer.replacement import NOISE, replacement
from gossamer.task import Encoded, Example, sides

MODEL = taught()
LONGER = Example(
    clean="the the girl said here that", counterfactual="the the boy said here that", answer=" she", wrong_answer=" he"
)


@pytest.fixture
def training() -> Encoded:
    """Pairs of two lengths, so that some rows are padded."""
    return MODEL.encode((*she_he().train[:5], LONGER))


def test_resample_and_zero(training: Encoded) -> None:
    clean, other = sides(training)
    assert torch.equal(replacement(MODEL, training, of_edges())(clean, other), MODEL.writes(other)[0])
    zero = replacement(MODEL, training, of_edges("zero"))(clean, other)
    assert zero.shape == MODEL.writes(clean)[0].shape
    assert not zero.any()


def test_means_are_of_real_tokens_only(training: Encoded) -> None:
    clean, other = sides(training)
    rows = [
        MODEL.writes(Encoded(*(t[i : i + 1] for t in training)))[0][:, 0, : training.last[i] + 1] for i in range(12)
    ]
    plain = torch.cat(rows, dim=1).mean(1)
    for at_once in (1, 6):
        mean = replacement(MODEL, training, of_edges("mean"), pairs_at_once=at_once)(clean, other)
        assert torch.allclose(mean, plain[:, None, None].expand_as(mean), atol=1e-6)
    by_position = replacement(MODEL, training, of_edges("position-mean"))(clean, other)
    for position in range(6):
        here = torch.stack([r[:, position] for r in rows if r.shape[1] > position]).mean(0)
        assert torch.allclose(by_position[:, 0, position], here, atol=1e-6)
    assert not torch.allclose(by_position[:, 0, 1], plain, atol=1e-3)


def test_means_of_positions_do_not_reach_beyond_their_training_prompts() -> None:
    training = MODEL.encode(she_he().train[:4])
    longer, other = sides(MODEL.encode((LONGER,)))
    with pytest.raises(BadInput, match="at most 5 tokens"):
        replacement(MODEL, training, of_edges("position-mean"))(longer, other)


def test_noise_depends_on_the_prompt_and_the_seed_alone(training: Encoded) -> None:
    clean, other = sides(training)
    made = replacement(MODEL, training, of_edges("noise"), seed=3)
    together = made(clean, other)
    alone = made(*sides(training.pairs(1, 2)))
    assert torch.allclose(together[:, 1:2, : alone.shape[2]], alone, atol=1e-5)
    assert torch.equal(together, made(clean, other))
    assert not torch.allclose(together, replacement(MODEL, training, of_edges("noise"), seed=4)(clean, other), atol=0.1)
    own = MODEL.writes(clean)[0]
    size = (together - own)[:, :, : int(clean.last.min()) + 1].square().mean((1, 2, 3)).sqrt()
    assert torch.allclose(size, NOISE * made.spread, rtol=0.25)


def test_optimal_constants_do_better_than_means_where_they_were_fitted(training: Encoded) -> None:
    shares = torch.ones(MODEL.graph().n_edges)
    shares[::2] = 0
    clean, other = sides(training)
    _, whole = MODEL.writes(clean)
    mean = replacement(MODEL, training, of_edges("optimal"))
    losses = []
    for values in (mean, mean.fitted(shares)):
        with torch.no_grad():
            logits = MODEL.patched(clean, shares, values(clean, other))
        losses.append(float((whole.softmax(-1) * (whole.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean()))
    assert losses[1] < 0.9 * losses[0]
    resample = replacement(MODEL, training, of_edges())
    assert resample.fitted(shares) is resample


def test_methodologies_that_mean_nothing_are_refused() -> None:
    assert of_edges(direction="counterfactual").reference == "clean"
    with pytest.raises(Unsupported, match="only the clean run's own values"):
        of_edges("mean", direction="counterfactual")
    with pytest.raises(BadInput, match="did you mean resample"):
        of_edges("resampel")
    with pytest.raises(BadInput, match="Unknown granularity 'branches': did you mean branch"):
        of_edges(granularity="branches")
