"""Checks that return Evidence, one file per check, each with its nulls. Held-out examples only."""

from collections.abc import Sequence

from gossamer.circuit import Circuit
from gossamer.errors import BadInput
from gossamer.evidence import Evidence
from gossamer.registry import check
from gossamer.subject import Subject
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
    for what, mine, its in zip(
        ("weights", "reference means"), model.hashes(), (circuit.record.model_sha256, circuit.record.means_sha256),
        strict=True,
    ):  # fmt: skip
        if its and mine != its:
            raise BadInput(
                f"Expected the model the circuit was found in ({circuit.record.model}, {what} {its[:12]}), got "
                f"{model.name} with {what} {mine[:12]}; give that model with --model."
            )
    heldout = model.encode(task.heldout)
    return tuple(f(model, circuit, heldout, target_loss=target_loss, seed=seed) for f in functions)
