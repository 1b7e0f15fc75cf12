"""How much nodes matter: one at a time is replaced by its reference mean, and the task loss or the logits are measured.

`node_effects` is inside the circuit; `model_effects` in the whole model, where random nodes of the same location
(`random_effects`) are its null; `direct_effects` along the residual stream alone.

When it lies: two nodes that stand in for each other both look useless. An effect inside the circuit is of this circuit,
one in the model is what the rest cannot make up for. Most random nodes are silent on a prompt: a null near 0 is easy to
beat.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gossamer.circuit import Calibration, Circuit
from gossamer.metric import calibrate, task_loss_nats
from gossamer.models.loaded import LoadedModel
from gossamer.site import Site
from gossamer.subject import EdgeMasks, Subject
from gossamer.task import Encoded

ROWS_PER_PASS = 2048
RANDOM_NODES = 20


def node_effects(model: Subject, circuit: Circuit, batch: Encoded) -> np.ndarray:
    """Rise of task_loss_nats [n_nodes of the circuit] when one kept node is mean-ablated inside the circuit."""
    own = np.zeros(circuit.layout.n_nodes, dtype=np.float32)
    own[circuit.nodes] = 1
    edges = model.cut_edges(circuit.as_ablation("gao-mean"))
    return _rises(model, circuit, own, circuit.nodes, batch, edges, circuit.calibration)


def model_effects(model: Subject, circuit: Circuit, nodes: np.ndarray, batch: Encoded) -> np.ndarray:
    """Rise of task_loss_nats [nodes] when one node (a node number) is mean-ablated in the whole model."""
    return _rises(model, circuit, np.ones(circuit.layout.n_nodes, dtype=np.float32), nodes, batch, None, None)


def random_effects(
    model: Subject, circuit: Circuit, batch: Encoded, draws: int = RANDOM_NODES, seed: int = 0
) -> dict[str, np.ndarray]:
    """`model_effects` of random nodes outside the circuit, per location of the circuit: up to `draws` of each."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, np.ndarray] = {}
    for location, kept in circuit.kept_by_location().items():
        if kept.any():
            free = np.flatnonzero(~kept) + circuit.layout.starts[location]
            drawn[location] = rng.permutation(free)[:draws]
    found = model_effects(model, circuit, np.concatenate([*drawn.values(), np.empty(0, dtype=np.int64)]), batch)
    ends = np.cumsum([len(nodes) for nodes in drawn.values()])
    return dict(zip(drawn, np.split(found, ends[:-1]), strict=True)) if drawn else {}


@torch.no_grad()
def _rises(
    model: Subject, circuit: Circuit, own: np.ndarray, nodes: np.ndarray, batch: Encoded, edges: EdgeMasks | None,
    calibration: Calibration | None,
) -> np.ndarray:  # fmt: skip
    """Rise of the loss [nodes] when one of the nodes is ablated beside what the mask `own` ablates."""

    def losses(masks: np.ndarray) -> np.ndarray:
        split = {k: torch.from_numpy(v) for k, v in circuit.layout.split(masks).items()}
        z = model.run(batch, masks=split, edges=edges).gap.unflatten(0, (len(masks), -1))
        if calibration:
            z = calibrate(z, calibration.scale, calibration.shift)
        found: np.ndarray = task_loss_nats(z).mean(-1).cpu().double().numpy()
        return found

    base = losses(own[None])[0]
    effects: list[np.ndarray] = []
    at_once = max(1, ROWS_PER_PASS // len(batch.last))
    for start in range(0, len(nodes), at_once):
        chosen = nodes[start : start + at_once].astype(np.int64)
        masks = np.repeat(own[None], len(chosen), axis=0)
        masks[np.arange(len(chosen)), chosen] = 0
        effects.append(losses(masks) - base)
    return np.concatenate(effects) if effects else np.zeros(0)


@torch.no_grad()
def direct_effects(model: LoadedModel, batch: Encoded, sites: Sequence[Site]) -> dict[Site, tuple[float, float]]:
    """What a node adds to the right minus the wrong answer's logit straight through the residual stream.

    Mean over clean prompts and over counterfactual ones, at the last token: the difference with the node's own value
    and with its reference mean, every later node held at its value, the final norm taken anew (exact, no gradient).
    Of nodes that are or write a residual channel; others have none.
    """
    writes = [s for s in sites if s.location == "final_resid" or s.location.endswith(".resid_delta")]
    if not writes:
        return {}
    means, rows = model.means(), torch.arange(len(batch.last))
    reads = model.run(batch, reads=sorted({"final_resid", *(s.location for s in writes)})).reads
    last = {k: v[rows, batch.last] for k, v in reads.items()}
    weight = model.model.lm_head.weight
    direction = weight[batch.answer] - weight[batch.wrong]

    def gap(residual: Tensor) -> Tensor:
        return (model.model.ln_f(residual) * direction).sum(-1)

    whole = gap(last["final_resid"])
    found: dict[Site, tuple[float, float]] = {}
    for site in writes:
        without = last["final_resid"].clone()
        without[:, site.index] -= last[site.location][:, site.index] - means[site.location][site.index or 0]
        added = whole - gap(without)
        found[site] = (float(added[0::2].mean()), float(added[1::2].mean()))
    return found
