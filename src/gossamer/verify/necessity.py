"""Does the model need the circuit? Only the circuit is mean-ablated, everything else runs (Gao et al. 2025, Fig. 32).

When it lies: a redundant mechanism elsewhere (a hydra) makes a real circuit look unnecessary; a large set of busy
nodes makes anything look necessary, hence the random sets of equal size.
"""

from __future__ import annotations

from gossamer.evidence import Evidence
from gossamer.metric import LN2, task_loss_nats
from gossamer.registry import check
from gossamer.verify.channel_trial import ChannelTrial

PRESET = "gao-mean-circuit"


@check("necessity")
def necessity(trial: ChannelTrial, *, slack: float = 0.05) -> Evidence:
    """Held-out task loss of the model without the circuit.

    Passes if the whole interval is above ln 2 (a model blind to the difference) less `slack` of the way to the whole
    model's loss, which noise outside a circuit may still know, while most random sets of the same size leave the loss
    below that. Not all of them: where every part of a chain is needed, a draw that hits one part of the circuit takes
    away as much as the circuit. Here the empty circuit is the whole model and the full circuit is no model at all.
    """
    m = trial.measure(PRESET, task_loss_nats)
    whole = m.nulls[1].value or 0.0
    least = LN2 - slack * max(0.0, LN2 - whole)
    reach = int((m.random > least).sum())
    good = m.interval[0] > least and 2 * reach < len(m.random)
    return Evidence(
        claim="necessity: without the circuit the model cannot do the task", value=m.value, unit="nats of task loss",
        interval=m.interval, n=m.n, nulls=m.nulls, seed=trial.seed, verdict="pass" if good else "fail",
        methodology=trial.circuit.as_ablation(PRESET).methodology.as_dict(),
        threshold=f"fails if the interval reaches down to {least:.3f} nats (a model blind to the difference has ln 2 = "
        "0.693), or half of the random sets of the same size reach it",
        note=f"{reach} of {len(m.random)} random sets reach it.",
    )  # fmt: skip
