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
from gossamer.compare.form_similarity import (
    Forms,
    FormSimilarity,
    checkpoint_form_evidence,
    circuit_form_evidence,
    form_matrix,
    form_similarity,
    forms_of,
    model_form_evidence,
)
from gossamer.compare.overlap import OverlapRow, overlap_evidence, overlaps
from gossamer.compare.perturbation import Perturbation, perturbation, strongest_nodes
from gossamer.compare.reuse import ReuseRow, example_circuits, reuse, reuse_evidence, shared_by
from gossamer.compare.shared_circuits import OrderStability, SharedCircuits, order_stability, shared_circuits
from gossamer.compare.specificity import Specificity, specificity, specificity_evidence
from gossamer.compare.tensor_similarity import (
    TensorSimilarity,
    sampled_similarity,
    similarity_matrix,
    slice_similarities,
    tensor_evidence,
    tensor_similarity,
)

__all__ = [
    "Composed", "CrossTask", "FormSimilarity", "Forms", "OrderStability", "OverlapRow", "Perturbation", "ReuseRow",
    "SharedCircuits", "Specificity", "SwitchKL", "TensorSimilarity", "checkpoint_form_evidence",
    "circuit_form_evidence", "cross_task", "edit_faithfulness", "edit_means", "example_circuits", "form_matrix",
    "form_similarity", "forms_of", "model_form_evidence", "order_stability", "overlap_evidence", "overlaps",
    "perturbation", "residual_errors", "reuse", "reuse_evidence", "sampled_similarity", "shared_by",
    "shared_circuits", "similarity_matrix", "slice_similarities", "specificity", "specificity_evidence",
    "strongest_nodes", "switch_kl", "tensor_evidence", "tensor_similarity", "union_evidence", "unions",
]  # fmt: skip
