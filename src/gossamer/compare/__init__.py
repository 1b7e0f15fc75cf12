"""What is measured of two models, or two circuits, at once."""

from gossamer.compare.bridge_error import SwitchKL, residual_errors, switch_kl
from gossamer.compare.composition import (
    Composed,
    CrossTask,
    cross_task,
    edit_faithfulness,
    edit_means,
    union_evidence,
    unions,
)
from gossamer.compare.perturbation import Perturbation, perturbation, strongest_nodes

__all__ = [
    "Composed", "CrossTask", "Perturbation", "SwitchKL", "cross_task", "edit_faithfulness", "edit_means",
    "perturbation", "residual_errors", "strongest_nodes", "switch_kl", "union_evidence", "unions",
]  # fmt: skip
