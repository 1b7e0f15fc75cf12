"""Other tools' files. Pickled ones are read weights-only and never written."""

from gossamer.formats.openai_viz import Connection, VizData, read_viz_data

__all__ = ["Connection", "VizData", "read_viz_data"]
