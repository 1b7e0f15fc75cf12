"""Scores of binary choices between a pair's two answers, per pair so that intervals can be computed.

z is the logit of a row's right answer minus that of its wrong one, [2 pairs]: row 2i clean, row 2i + 1 counterfactual.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from gossamer.task import Encoded

LN2 = math.log(2)


def logit_difference(logits: Tensor, batch: Encoded) -> Tensor:
    """The right answer's logit minus the wrong one's, [.., rows] of logits [.., rows, vocab]."""
    return _of(logits, batch.answer) - _of(logits, batch.wrong)


def _of(values: Tensor, tokens: Tensor) -> Tensor:
    return values.gather(-1, tokens.to(values.device).expand(values.shape[:-1])[..., None])[..., 0]


def divergence(whole: Tensor, logits: Tensor) -> Tensor:
    """KL(whole || other) in nats over the vocabulary, [.., rows] of logits [.., rows, vocab]."""
    target = whole.float().log_softmax(-1)
    return (target.exp() * (target - logits.float().log_softmax(-1))).sum(-1)


def task_loss_nats(z: Tensor) -> Tensor:
    """Per pair [..., pairs]: half of [CE(clean) + CE(counterfactual)] over the two candidate logits.

    A model blind to the difference has z of opposite sign on the two rows and scores at least ln 2.
    """
    return F.softplus(-z).unflatten(-1, (-1, 2)).mean(-1)


def paired_accuracy(z: Tensor) -> Tensor:
    """Per pair: 1.0 if both rows are right (a tie is wrong). Coin 0.25, input-blind 0."""
    return (z > 0).unflatten(-1, (-1, 2)).all(-1).float()


def ordered_accuracy(z: Tensor) -> Tensor:
    """Per pair: 1.0 if the logit difference moves the right way between the rows. Coin 0.5."""
    return (z.unflatten(-1, (-1, 2)).sum(-1) > 0).float()


def calibrate(z: Tensor, scale: float, shift: float) -> Tensor:
    """scale * (l_a - l_b) + shift with a, b the clean and the counterfactual answer, back in each row's orientation.

    The shift has opposite signs in the two rows, so it is not a no-op; with scale > 0 the order of examples stays.
    """
    sign = torch.tensor([1.0, -1.0], dtype=z.dtype, device=z.device).repeat(z.shape[-1] // 2)
    return scale * z + shift * sign


def fit_calibration(z: Tensor, steps: int = 16) -> tuple[float, float]:
    """Scale (> 0) and shift that minimise the mean task loss of z, by LBFGS."""
    z = z.detach().cpu().double()  # LBFGS wants the digits; mps has no float64
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, shift], max_iter=steps, line_search_fn="strong_wolfe")
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(z) // 2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task_loss_nats(log_scale.exp() * z + shift * sign).mean()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return float(log_scale.detach().exp()), float(shift.detach())
