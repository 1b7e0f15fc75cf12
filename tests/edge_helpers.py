"""Exact ablations of edges, for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gossamer.discover.eap import EAPConfig, per_pair
from gossamer.subject import ResidualSubject
from gossamer.task import Encoded, sides


@torch.no_grad()
def metric_under(model: ResidualSubject, batch: Encoded, config: EAPConfig, alpha: Tensor) -> np.ndarray:
    """The metric per pair [pairs] with a share alpha [edges] of each edge resampled from the counterfactual."""
    clean, other = sides(batch)
    reference, _ = model.writes(other)
    return per_pair(config, clean, model.patched(clean, alpha, reference)).double().cpu().numpy()
