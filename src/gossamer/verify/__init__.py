"""Checks that return Evidence, one file per check, each with its nulls. Held-out examples only."""

from collections.abc import Sequence

from gossamer.circuit import Circuit
from gossamer.evidence import Evidence
from gossamer.registry import check
from gossamer.subject import Subject, require_model_of
from gossamer.task import Task
from gossamer.verify.adversarial_subset import adversarial_subset
from gossamer.verify.attention_divergence import attention_divergence
from gossamer.verify.battery import OF_CHANNELS, asks, checks_of, known_checks, run_battery
from gossamer.verify.budget_matched import budget_matched
from gossamer.verify.causal_scrubbing import causal_scrubbing
from gossamer.verify.channel_trial import ChannelTrial
from gossamer.verify.completeness import completeness
from gossamer.verify.curve import Curve, curve, mib
from gossamer.verify.edge_checks import faithfulness
from gossamer.verify.edge_faithfulness import circuit_faithfulness, metric_values
from gossamer.verify.edge_trial import EdgeTrial
from gossamer.verify.every_value import every_value
from gossamer.verify.frozen_norms import frozen_norms
from gossamer.verify.generalisation import generalisation
from gossamer.verify.ground_truth import ROC, precision_recall, roc, roc_of_circuits
from gossamer.verify.interventions import interventions
from gossamer.verify.minimality import minimality
from gossamer.verify.mixtures import mixtures
from gossamer.verify.necessity import necessity
from gossamer.verify.nonsense_task import nonsense_task
from gossamer.verify.random_subsets import random_subsets
from gossamer.verify.rivals import rivals
from gossamer.verify.role_drift import role_drift
from gossamer.verify.shuffled_model import shuffled_model
from gossamer.verify.stability import stability
from gossamer.verify.sufficiency import accuracy, sufficiency
from gossamer.verify.trial import Trial

__all__ = [
    "ROC", "ChannelTrial", "Curve", "EdgeTrial", "Trial", "accuracy", "adversarial_subset", "asks",
    "attention_divergence", "budget_matched", "causal_scrubbing", "checks_of", "circuit_faithfulness",
    "completeness", "curve", "every_value", "faithfulness", "frozen_norms", "generalisation", "interventions",
    "known_checks", "metric_values", "mib", "minimality", "mixtures", "necessity", "nonsense_task",
    "precision_recall", "random_subsets", "rivals", "roc", "roc_of_circuits", "role_drift", "run_battery",
    "run_checks", "shuffled_model", "stability", "sufficiency",
]  # fmt: skip


def run_checks(
    model: Subject, task: Task, circuit: Circuit, *, target_loss: float, checks: Sequence[str] = OF_CHANNELS,
    seed: int = 0,
) -> tuple[Evidence, ...]:  # fmt: skip
    """Run checks of a circuit of channels by name on the task's held-out pairs, sufficiency at `target_loss` and the
    others at their usual thresholds. A circuit of another model or other means is BadInput."""
    for name in checks:
        check[name]  # an unknown one is told before anything runs
    require_model_of(circuit.record, model)
    trial = ChannelTrial(model=model, circuit=circuit, task=task, heldout=model.encode(task.heldout), seed=seed)
    known = known_checks("channel") | {"sufficiency": {"target_loss": target_loss}}
    return run_battery(trial, {name: known[name] for name in checks})
