"""The metrics of a row of logits, by hand and against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch

from gossamer.discover import EAPConfig
from gossamer.discover.eap import per_pair
from gossamer.errors import BadInput
from gossamer.metric import (
    SIGNS,
    answer_rank,
    divergence,
    divergence_from,
    jensen_shannon,
    logit_difference,
    probability_difference,
    row_metric,
)
from gossamer.task import Encoded

BATCH = Encoded(torch.zeros(2, 1), torch.zeros(2), torch.tensor([0, 1]), torch.tensor([1, 2]))
LOGITS = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 3.0]], dtype=torch.float64)


def test_by_hand() -> None:
    e = math.e
    assert logit_difference(LOGITS, BATCH).tolist() == [2, -2]
    found = probability_difference(LOGITS, BATCH)
    assert found.tolist() == pytest.approx([(e**2 - 1) / (e**2 + 2), (e - e**3) / (2 * e + e**3)])
    # a quarter, a quarter, a half, against thirds: 0.5 ln(3/4) + 0.5 ln(3/2), in nats, the whole vocabulary summed
    whole, flat = torch.tensor([[0.25, 0.25, 0.5]]).double().log(), torch.full((1, 3), 7.0).double()
    assert divergence(whole, flat).tolist() == pytest.approx([0.5 * math.log(9 / 8)])
    assert divergence(flat, whole).tolist() == pytest.approx([(2 * math.log(4 / 3) + math.log(2 / 3)) / 3])
    assert divergence(whole, whole).tolist() == [0]
    assert answer_rank(LOGITS, BATCH).tolist() == [1, 2.5]  # two share the places 2 and 3
    assert answer_rank(flat.expand(2, 3), BATCH).tolist() == [2, 2]  # logits that say nothing: the middle


@pytest.mark.parametrize("metric", SIGNS)
def test_more_trials_at_once_and_a_constant_change_nothing(metric: str) -> None:
    trials = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    score = row_metric(metric, BATCH, LOGITS)
    assert score(trials).shape == (4, 2)
    assert torch.equal(score(trials), torch.stack([score(t) for t in trials]))
    assert torch.allclose(score(trials + 3), score(trials))
    assert not torch.allclose(score(trials), score(-trials))


def test_gradients_flow_and_eap_asks_for_the_same_numbers() -> None:
    for metric in ("logit-difference", "probability-difference"):
        logits = LOGITS.clone().requires_grad_()
        row_metric(metric, BATCH)(logits).sum().backward()
        assert logits.grad is not None
        assert logits.grad.abs().sum(1).min() > 0
        config = EAPConfig(metric=metric)
        assert torch.equal(per_pair(config, BATCH, LOGITS), row_metric(metric, BATCH)(LOGITS))


def test_divergence_of_half_precision_is_computed_in_single() -> None:
    whole = torch.linspace(-4, 4, 200)[None]
    near = whole + 0.05 * torch.sin(7 * whole)
    for dtype in (torch.bfloat16, torch.float16):
        half, other = whole.to(dtype), near.to(dtype)
        assert torch.equal(divergence(half, other), divergence_from(half.float())(other.float()))
    assert divergence(whole.double(), near.double()).dtype == torch.float64
    assert float(divergence(whole.double(), near.double())) > 1e-5


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="did you mean logit-difference"):
        row_metric("logit-diff", BATCH)
    with pytest.raises(BadInput, match="whole model's logits"):
        row_metric("kl", BATCH)


def test_jensen_shannon_is_0_of_one_distribution_1_of_disjoint_ones_and_symmetric() -> None:
    p, q = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    assert jensen_shannon(p, p + 3).max() < 1e-6
    assert torch.allclose(jensen_shannon(p, q), jensen_shannon(q, p))
    apart = torch.tensor([[0.0, -200.0], [-200.0, 0.0]])
    assert torch.allclose(jensen_shannon(apart[0], apart[1]), torch.tensor(1.0))
    a, b = p.softmax(-1), q.softmax(-1)
    kl = [(x * (x / (a + b) * 2).log2()).sum(-1) for x in (a, b)]
    assert torch.allclose(jensen_shannon(p, q), (kl[0] + kl[1]) / 2, atol=1e-6)
