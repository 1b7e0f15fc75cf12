"""Scores of answers, each per pair or per row so that intervals can be computed.

Of binary choices between a pair's two answers: z is the logit of a row's right answer minus that of its wrong one,
[2 pairs]: row 2i clean, row 2i + 1 counterfactual. Of any row of logits: those of `row_metric`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gossamer.errors import BadInput, Unsupported, nearest

LN2 = math.log(2)


Metric = Literal["logit-difference", "probability-difference", "kl", "answer-rank", "sequence-log-probability"]
# 1 where more is better, -1 where less is
SIGNS: dict[Metric, int] = {
    "logit-difference": 1, "probability-difference": 1, "kl": -1, "answer-rank": -1, "sequence-log-probability": 1,
}  # fmt: skip


class Prompts(Protocol):
    """Which prompt each row is of, [rows]; None where each is one of its own."""

    @property
    def prompt(self) -> Tensor | None: ...


class Answers(Protocol):
    """Token ids of each row's right and wrong answer, [rows] both."""

    @property
    def answer(self) -> Tensor: ...
    @property
    def wrong(self) -> Tensor: ...
    @property
    def marks(self) -> Prompts: ...


def logit_difference(logits: Tensor, batch: Answers) -> Tensor:
    """The right answer's logit minus the wrong one's, [.., rows] of logits [.., rows, vocab]; of half precision in
    single."""
    return _single(_of(logits, batch.answer)) - _single(_of(logits, batch.wrong))


def probability_difference(logits: Tensor, batch: Answers) -> Tensor:
    """The right answer's probability minus the wrong one's, over the whole vocabulary, [.., rows]."""
    return logit_difference(_single(logits).softmax(-1), batch)


def sequence_log_probability(logits: Tensor, batch: Answers) -> Tensor:
    """log p(right answer | prompt) - log p(wrong answer | prompt) in nats, [.., prompts] of logits [.., rows, vocab].

    Rows are as gossamer.task.asked makes them. Each answer's is the sum over its tokens, each given those before it. Of
    the first tokens both follow the prompt itself, so that the difference is that of their logits: with answers of one
    token it is the logit difference, to the bit.
    """
    prompt = batch.marks.prompt
    if prompt is None:
        return logit_difference(logits, batch)
    answer, wrong, prompt = (t.to(logits.device) for t in (batch.answer, batch.wrong, prompt))
    n = int(prompt.max()) + 1
    own = _single(logits[..., n:, :]).log_softmax(-1)
    right = answer[n:] >= 0
    further = _of(own, torch.where(right, answer[n:], wrong[n:])) * torch.where(right, 1.0, -1.0).to(own)
    first = _single(_of(logits[..., :n, :], answer[:n])) - _single(_of(logits[..., :n, :], wrong[:n]))
    return first.index_add(-1, prompt[n:], further.to(first))


def answer_rank(logits: Tensor, batch: Answers) -> Tensor:
    """The right answer's place in the order of the logits, 1 the highest, [.., rows]; equal ones share their mean."""
    own = _of(logits, batch.answer)[..., None]
    return (logits > own).sum(-1) + ((logits == own).sum(-1) + 1) / 2


def _of(values: Tensor, tokens: Tensor) -> Tensor:
    return values.gather(-1, tokens.to(values.device).expand(values.shape[:-1])[..., None])[..., 0]


def divergence_from(whole: Tensor) -> Callable[[Tensor], Tensor]:
    """KL(whole || other) in nats summed over the vocabulary, [.., rows] of the other's logits [.., rows, vocab].

    Half precision is computed in single.
    """
    target = _single(whole).log_softmax(-1)
    weight = target.exp()
    return lambda logits: (weight * (target - _single(logits).log_softmax(-1))).sum(-1)


def jensen_shannon(whole: Tensor, logits: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of the two distributions over its largest value ln 2, so 0 to 1, [..] of logits
    [.., vocab]. 1 minus it is the faithfulness of Mondorf et al. 2025."""
    p, q = (_single(x).log_softmax(-1) for x in (whole, logits))
    middle = torch.logaddexp(p, q) - LN2
    return ((p.exp() * (p - middle) + q.exp() * (q - middle)).sum(-1) / (2 * LN2)).clamp(0, 1)


def divergence(whole: Tensor, logits: Tensor) -> Tensor:
    """See divergence_from."""
    return divergence_from(whole)(logits)


def _single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def known_metric(name: str) -> Metric:
    """BadInput unless it is the name of a metric of a row."""
    for metric in SIGNS:
        if metric == name:
            return metric
    raise BadInput(f"Unknown metric {name!r}: {nearest(name, SIGNS)}")


def row_metric(metric: str, batch: Answers, whole: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """A metric by name: logits [.., rows, vocab] -> [.., rows].

    whole: logits [rows, vocab] of the model with nothing ablated, which `kl` needs. Of answers of several tokens, which
    take several rows, the sequence-log-probability is per prompt, [.., prompts], and so is `kl`, at the first token;
    the others are Unsupported.
    """
    name, prompt = known_metric(metric), batch.marks.prompt
    if name == "kl":
        if whole is None:
            raise BadInput("Expected the whole model's logits beside the metric 'kl', got none.")
        n = len(whole) if prompt is None else int(prompt.max()) + 1
        from_first = divergence_from(whole[:n])
        return lambda logits: from_first(logits[..., :n, :])
    if name == "sequence-log-probability":
        return lambda logits: sequence_log_probability(logits, batch)
    if prompt is not None:
        raise Unsupported(
            f"the metric {name} of answers of several tokens", "it is of one token", "sequence-log-probability"
        )
    of = {
        "logit-difference": logit_difference, "probability-difference": probability_difference,
        "answer-rank": answer_rank,
    }[name]  # fmt: skip
    return lambda logits: of(logits, batch)


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
