"""What is measured of two models, or two circuits, at once."""

from gossamer.compare.bridge_error import SwitchKL, residual_errors, switch_kl
from gossamer.compare.perturbation import Perturbation, perturbation, strongest_nodes
from gossamer.compare.shared_circuits import OrderStability, SharedCircuits, order_stability, shared_circuits

__all__ = [
    "OrderStability", "Perturbation", "SharedCircuits", "SwitchKL", "order_stability", "perturbation",
    "residual_errors", "shared_circuits", "strongest_nodes", "switch_kl",
]  # fmt: skip
