"""What is measured of two models, or two circuits, at once."""

from gossamer.compare.bridge_error import SwitchKL, residual_errors, switch_kl
from gossamer.compare.form_similarity import Forms, FormSimilarity, form_matrix, form_similarity, forms_of
from gossamer.compare.perturbation import Perturbation, perturbation, strongest_nodes
from gossamer.compare.tensor_similarity import (
    TensorSimilarity,
    sampled_similarity,
    similarity_matrix,
    slice_similarities,
    tensor_similarity,
)

__all__ = [
    "FormSimilarity", "Forms", "Perturbation", "SwitchKL", "TensorSimilarity", "form_matrix", "form_similarity",
    "forms_of", "perturbation", "residual_errors", "sampled_similarity", "similarity_matrix", "slice_similarities",
    "strongest_nodes", "switch_kl", "tensor_similarity",
]  # fmt: skip
