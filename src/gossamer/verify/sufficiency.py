"""Is the circuit enough? Everything outside it is mean-ablated (Gao et al. 2025, section 2.2).

When it lies: one ablation value and one subset (all of the complement) is one question; a circuit can pass it by a
route the whole model does not use.
"""

from __future__ import annotations

from gossamer.evidence import Evidence
from gossamer.metric import paired_accuracy, task_loss_nats
from gossamer.registry import check
from gossamer.verify.channel_trial import ChannelTrial

PRESET = "gao-mean"


@check("sufficiency")
def sufficiency(trial: ChannelTrial, *, target_loss: float = 0.15) -> Evidence:
    """Held-out task loss of the circuit alone, against the loss it was cut at.

    Passes if the lower end of the interval is at most `target_loss` and no random draw does as well.
    """
    m = trial.measure(PRESET, task_loss_nats)
    good = m.interval[0] <= target_loss and m.value < m.random.min()
    return Evidence(
        claim="sufficiency: the circuit alone does the task", value=m.value, unit="nats of task loss",
        interval=m.interval, n=m.n, nulls=m.nulls, seed=trial.seed, verdict="pass" if good else "fail",
        methodology=trial.circuit.as_ablation(PRESET).methodology.as_dict(),
        threshold=f"fails if the interval lies above {target_loss:g} nats or any random draw does as well",
    )  # fmt: skip


@check("accuracy")
def accuracy(trial: ChannelTrial) -> Evidence:
    """Held-out paired accuracy of the circuit alone (both prompts of a pair right; coin 0.25, input-blind 0).

    Passes if the lower end of the interval is above a coin's 0.25 and above every random draw.
    """
    m = trial.measure(PRESET, paired_accuracy)
    good = m.interval[0] > 0.25 and m.value > m.random.max()
    return Evidence(
        claim="accuracy: the circuit alone answers both prompts of a pair right", value=m.value,
        unit="share of pairs", interval=m.interval, n=m.n, nulls=m.nulls, seed=trial.seed,
        verdict="pass" if good else "fail", methodology=trial.circuit.as_ablation(PRESET).methodology.as_dict(),
        threshold="fails if the interval reaches a coin's 0.25 or any random draw does as well",
    )  # fmt: skip
