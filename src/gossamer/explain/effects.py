"""How much each node of a circuit matters inside it: mean-ablate it as well and measure the task loss.

When it lies: two nodes that stand in for each other both look useless, and the effect is of this circuit, not of the
whole model.
"""

from __future__ import annotations

import numpy as np
import torch

from gossamer.circuit import Circuit
from gossamer.metric import calibrate, task_loss_nats
from gossamer.subject import Subject
from gossamer.task import Encoded

NODES_PER_PASS = 8


@torch.no_grad()
def node_effects(model: Subject, circuit: Circuit, batch: Encoded) -> np.ndarray:
    """Rise of task_loss_nats [n_nodes of the circuit] when one kept node is mean-ablated inside the circuit."""
    own = np.zeros(circuit.layout.n_nodes, dtype=np.float32)
    own[circuit.nodes] = 1

    edges = model.cut_edges(circuit.as_ablation("gao-mean"))

    def losses(masks: np.ndarray) -> np.ndarray:
        split = {k: torch.from_numpy(v) for k, v in circuit.layout.split(masks).items()}
        z = model.run(batch, masks=split, edges=edges).gap.unflatten(0, (len(masks), -1))
        if circuit.calibration:
            z = calibrate(z, circuit.calibration.scale, circuit.calibration.shift)
        found: np.ndarray = task_loss_nats(z).mean(-1).cpu().double().numpy()
        return found

    base = losses(own[None])[0]
    effects: list[np.ndarray] = []
    for start in range(0, circuit.n_nodes, NODES_PER_PASS):
        chosen = circuit.nodes[start : start + NODES_PER_PASS]
        masks = np.repeat(own[None], len(chosen), axis=0)
        masks[np.arange(len(chosen)), chosen] = 0
        effects.append(losses(masks) - base)
    return np.concatenate(effects) if effects else np.zeros(0)
