"""Which tokens write a residual channel, and which tokens it votes for, read off the two embedding matrices.

When it lies: norms, attention and MLPs stand between the embedding and a later channel of the same number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gossamer.models.loaded import LoadedModel
from gossamer.task import Encoded


def strongest_tokens(weights: Tensor, k: int = 6) -> tuple[tuple[int, float], ...]:
    """(token id, weight) of the k entries of largest size in one column; zeros are left out."""
    top = weights.abs().topk(min(k, len(weights))).indices
    return tuple((int(i), float(weights[i])) for i in top if float(weights[i]) != 0)


@torch.no_grad()
def tokens_into(model: LoadedModel, channel: int) -> tuple[tuple[int, float], ...]:
    """Tokens whose embedding writes residual channel `channel` most."""
    return strongest_tokens(model.model.wte.weight[:, channel])


@torch.no_grad()
def tokens_out_of(model: LoadedModel, channel: int) -> tuple[tuple[int, float], ...]:
    """Tokens whose logit residual channel `channel` moves most, per unit after the final norm's gain."""
    return strongest_tokens(model.model.lm_head.weight[:, channel] * model.model.ln_f.weight[channel])


@torch.no_grad()
def direct_logit(model: LoadedModel, channel: int, batch: Encoded) -> float:
    """Weight of a final residual channel to the clean answer's logit minus the counterfactual's (mean over pairs)."""
    w = model.model.lm_head.weight[:, channel] * model.model.ln_f.weight[channel]
    return float((w[batch.answer[::2]] - w[batch.wrong[::2]]).mean())
