"""Other tools' files, one module per tool, and `read_circuit`, `read_scores` and `read_task` that tell which it is.

Pickled files are read weights-only and never written.
"""

from gossamer.formats import autocircuit, eap_csv, eap_ig, edge_pruning, feature_circuits, head_lists, mib, neuronpedia
from gossamer.formats.openai_viz import Connection, VizData, read_viz_data
from gossamer.formats.recognise import read_circuit, read_scores, read_task
from gossamer.formats.tracr import read_tracr, tracr_model

__all__ = [
    "Connection", "VizData", "autocircuit", "eap_csv", "eap_ig", "edge_pruning", "feature_circuits",
    "head_lists", "mib", "neuronpedia", "read_circuit", "read_scores", "read_task", "read_tracr", "read_viz_data",
    "tracr_model",
]  # fmt: skip
