"""Random circuits that match a circuit's size at every location: what a circuit that is not one would score."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gossamer.ablation import methodology
from gossamer.circuit import Circuit
from gossamer.metric import calibrate
from gossamer.subject import Subject
from gossamer.task import Encoded

DRAWS = 20


def matched_random_masks(circuit: Circuit, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Boolean [draws, channels] per location: as many nodes as the circuit keeps there, drawn from all channels.

    A draw may hit nodes of the circuit. A tied circuit's draws keep their query and key channels tied.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for name, inside in circuit.kept_by_location().items():
        if circuit.tied and name.endswith(".attn.k"):
            found[name] = found[name[:-1] + "q"]
            continue
        rank = rng.random((draws, len(inside))).argsort(axis=1).argsort(axis=1)
        found[name] = rank < int(inside.sum())
    return found


@torch.no_grad()
def gaps(model: Subject, circuit: Circuit, batch: Encoded, preset: str, masks: dict[str, np.ndarray]) -> Tensor:
    """Logit gap [draws, rows] with each drawn set in the circuit's place; calibrated exactly as the circuit is.

    masks: boolean [draws, channels] per location, True for members of the set; the preset says whether the set or its
    complement is ablated.
    """
    method = methodology(preset)
    found = []
    for draw in range(len(next(iter(masks.values())))):
        keep = {k: torch.from_numpy(m[draw] == (method.set == "complement")).float() for k, m in masks.items()}
        z = model.run(batch, masks=keep, value=method.value).gap
        if circuit.calibration and method.set == "complement":
            z = calibrate(z, circuit.calibration.scale, circuit.calibration.shift)
        found.append(z)
    return torch.stack(found)


def members(circuit: Circuit) -> dict[str, np.ndarray]:
    """The circuit itself as one draw."""
    return {k: v[None] for k, v in circuit.kept_by_location().items()}


def constant_masks(circuit: Circuit, value: bool) -> dict[str, np.ndarray]:
    """The full (True) or the empty (False) circuit as one draw."""
    return {k: np.full((1, len(v)), value) for k, v in circuit.kept_by_location().items()}
