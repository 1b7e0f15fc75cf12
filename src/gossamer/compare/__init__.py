"""What is measured of two models, or two circuits, at once."""

from gossamer.compare.bridge_error import SwitchKL, residual_errors, switch_kl
from gossamer.compare.composition import (
    CrossTask,
    Overlaps,
    Union,
    cross_task,
    faithfulness,
    means_of,
    overlaps,
    unions,
)
from gossamer.compare.perturbation import Perturbation, perturbation, strongest_nodes

__all__ = [
    "CrossTask", "Overlaps", "Perturbation", "SwitchKL", "Union", "cross_task", "faithfulness", "means_of", "overlaps",
    "perturbation", "residual_errors", "strongest_nodes", "switch_kl", "unions",
]  # fmt: skip
