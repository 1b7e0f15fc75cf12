"""Checks that return Evidence, one file per check, each with its nulls. Held-out examples only."""

from collections.abc import Sequence

from gossamer.circuit import Circuit
from gossamer.evidence import Evidence
from gossamer.registry import check
from gossamer.subject import Subject, require_model_of
from gossamer.task import Task
from gossamer.verify.channel_trial import ChannelTrial
from gossamer.verify.curve import Curve, curve, mib
from gossamer.verify.edge_checks import faithfulness, run_edge_checks
from gossamer.verify.edge_faithfulness import circuit_faithfulness, metric_values
from gossamer.verify.edge_trial import EdgeTrial
from gossamer.verify.ground_truth import ROC, precision_recall, roc, roc_of_circuits
from gossamer.verify.necessity import necessity
from gossamer.verify.sufficiency import accuracy, sufficiency
from gossamer.verify.trial import Trial

BATTERY = ("sufficiency", "accuracy", "necessity")

__all__ = [
    "BATTERY", "ChannelTrial", "Curve", "EdgeTrial", "ROC", "Trial", "accuracy", "circuit_faithfulness", "curve",
    "faithfulness", "metric_values", "mib", "necessity", "precision_recall", "roc", "roc_of_circuits", "run_checks",
    "run_edge_checks", "sufficiency",
]  # fmt: skip


def run_checks(
    model: Subject, task: Task, circuit: Circuit, *, target_loss: float, checks: Sequence[str] = BATTERY, seed: int = 0
) -> tuple[Evidence, ...]:
    """Run checks by name on the task's held-out pairs. A circuit of another model or other means is BadInput."""
    functions = [check[name] for name in checks]
    require_model_of(circuit.record, model)
    trial = ChannelTrial(model=model, circuit=circuit, task=task, heldout=model.encode(task.heldout), seed=seed)
    return tuple(f(trial, target_loss=target_loss) for f in functions)
