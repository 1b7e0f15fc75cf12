"""Other tools' files. Pickled ones are read weights-only and never written."""

from gossamer.formats.openai_viz import Connection, VizData, read_viz_data
from gossamer.formats.tracr import read_tracr, tracr_model

__all__ = ["Connection", "VizData", "read_tracr", "read_viz_data", "tracr_model"]
