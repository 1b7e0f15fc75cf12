"""Random circuits of the toy models, for the tests of exports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from toys import planted_task, random_model

from gossamer import Circuit
from gossamer.circuit import Calibration
from gossamer.models import LoadedModel
from gossamer.record import Record
from gossamer.task import Encoded


def model64(seed: int = 0, **changes: object) -> LoadedModel:
    """A random model in float64: AbsTopK is discontinuous, its ties must not be rounding's."""
    model = random_model(seed, **changes)
    model.model.double()
    return replace(model)  # its hashes are those of the float64 weights


def random_circuit(
    model: LoadedModel, share: float, seed: int = 0, tied: bool = False, fit: Calibration | None = None,
    without: tuple[str, ...] = (),
) -> Circuit:  # fmt: skip
    """Each node is kept with probability `share`; tied: a key channel exactly when its query channel is; without: no
    node of these locations."""
    graph = model.graph("channel")
    keep = np.random.default_rng(seed).random(graph.layout.n_nodes) < share
    for name, flags in graph.layout.split(keep).items():
        flags[:] &= name not in without
    if tied:
        parts = graph.layout.split(keep)
        for name, flags in parts.items():
            if name.endswith(".attn.k"):
                flags[:] = parts[name[:-1] + "q"]
    weights, means = model.hashes()
    record = Record(method="random", config={}, seed=seed, model=model.name, model_sha256=weights, means_sha256=means)
    return Circuit.from_nodes(
        graph, model.edge_weights(graph), np.flatnonzero(keep), record=record, tied=tied, calibration=fit
    )


def prompts(model: LoadedModel, n: int = 12, seed: int = 0) -> Encoded:
    """Pairs of several lengths."""
    return model.encode(planted_task(n, seed).train)


@torch.no_grad()
def ablated_logits(model: LoadedModel, circuit: Circuit, batch: Encoded, preset: str) -> torch.Tensor:
    """Every logit of the ablated model at the last position, from the model itself."""
    from gossamer.mask import apply_masks

    ablation = circuit.as_ablation(preset)
    masks = {k: torch.from_numpy(v).to(model.model.lm_head.weight) for k, v in ablation.keep.items()}
    return model.model(batch.tokens, apply_masks(masks, model.means(ablation.methodology.value)), batch.last)[:, 0]
