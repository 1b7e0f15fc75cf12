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
def necessity(trial: ChannelTrial) -> Evidence:
    """Held-out task loss of the model without the circuit.

    Passes if the whole interval is above ln 2 (a model blind to the difference) while 97.5% of random sets of the same
    size leave the loss below it. Here the empty circuit is the whole model and the full circuit is no model at all.
    """
    m = trial.measure(PRESET, task_loss_nats)
    random_high = m.nulls[0].interval[1] if m.nulls[0].interval else float("inf")
    good = m.interval[0] > LN2 and random_high < LN2
    return Evidence(
        claim="necessity: without the circuit the model cannot do the task", value=m.value, unit="nats of task loss",
        interval=m.interval, n=m.n, nulls=m.nulls, seed=trial.seed, verdict="pass" if good else "fail",
        methodology=trial.circuit.as_ablation(PRESET).methodology.as_dict(),
        threshold="fails if the interval reaches down to ln 2 = 0.693 nats, or random sets of the same size reach it",
    )  # fmt: skip
