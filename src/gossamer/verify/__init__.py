"""Checks that return Evidence, one file per check, each with its nulls. Held-out examples only."""

from collections.abc import Sequence

from gossamer.circuit import Circuit
from gossamer.evidence import Evidence
from gossamer.registry import check
from gossamer.subject import Subject, require_model_of
from gossamer.task import Task
from gossamer.verify.necessity import necessity
from gossamer.verify.sufficiency import accuracy, sufficiency

BATTERY = ("sufficiency", "accuracy", "necessity")

__all__ = ["BATTERY", "accuracy", "necessity", "run_checks", "sufficiency"]


def run_checks(
    model: Subject, task: Task, circuit: Circuit, *, target_loss: float, checks: Sequence[str] = BATTERY, seed: int = 0
) -> tuple[Evidence, ...]:
    """Run checks by name on the task's held-out pairs. A circuit of another model or other means is BadInput."""
    functions = [check[name] for name in checks]
    require_model_of(circuit.record, model)
    heldout = model.encode(task.heldout)
    return tuple(f(model, circuit, heldout, target_loss=target_loss, seed=seed) for f in functions)
