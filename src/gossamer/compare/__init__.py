"""What is measured of two models, or two circuits, at once."""

from gossamer.compare.bridge_error import SwitchKL, residual_errors, switch_kl
from gossamer.compare.overlap import OverlapRow, overlap_evidence, overlaps
from gossamer.compare.perturbation import Perturbation, perturbation, strongest_nodes
from gossamer.compare.reuse import ReuseRow, example_circuits, reuse, reuse_evidence, shared_by
from gossamer.compare.shared_circuits import OrderStability, SharedCircuits, order_stability, shared_circuits
from gossamer.compare.specificity import Specificity, specificity, specificity_evidence

__all__ = [
    "OrderStability", "OverlapRow", "Perturbation", "ReuseRow", "SharedCircuits", "Specificity", "SwitchKL",
    "example_circuits", "order_stability", "overlap_evidence", "overlaps", "perturbation", "residual_errors",
    "reuse", "reuse_evidence", "shared_by", "shared_circuits", "specificity", "specificity_evidence",
    "strongest_nodes", "switch_kl",
]  # fmt: skip
