"""What is measured of two models, or two circuits, at once."""

from gossamer.compare.bridge_error import SwitchKL, residual_errors, switch_kl
from gossamer.compare.perturbation import Perturbation, perturbation, strongest_nodes
from gossamer.compare.tensor_similarity import (
    TensorSimilarity,
    sampled_similarity,
    similarity_matrix,
    slice_similarities,
    tensor_similarity,
)

# fmt: off
__all__ = [
    "Perturbation", "SwitchKL", "TensorSimilarity", "perturbation", "residual_errors", "sampled_similarity",
    "similarity_matrix", "slice_similarities", "strongest_nodes", "switch_kl", "tensor_similarity",
]
# fmt: on
