"""What is measured of two models, or two circuits, at once."""

from gossamer.compare.bridge_error import SwitchKL, residual_errors, switch_kl
from gossamer.compare.overlap import OverlapRow, overlap_evidence, overlaps
from gossamer.compare.perturbation import Perturbation, perturbation, strongest_nodes
from gossamer.compare.reuse import ReuseRow, example_circuits, reuse, reuse_evidence, shared_by
from gossamer.compare.specificity import Specificity, specificity, specificity_evidence

__all__ = [
    "OverlapRow", "Perturbation", "ReuseRow", "Specificity", "SwitchKL", "example_circuits", "overlap_evidence",
    "overlaps", "perturbation", "residual_errors", "reuse", "reuse_evidence", "shared_by", "specificity",
    "specificity_evidence", "strongest_nodes", "switch_kl",
]  # fmt: skip
