"""What is measured of two models, or two circuits, at once."""

from gossamer.compare.bridge_error import SwitchKL, residual_errors, switch_kl
from gossamer.compare.perturbation import Perturbation, perturbation, strongest_nodes

__all__ = ["Perturbation", "SwitchKL", "perturbation", "residual_errors", "strongest_nodes", "switch_kl"]
