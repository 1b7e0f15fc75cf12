"""The only place that knows a model library: loading a model by shipped name, folder, or Hub name."""

from gossamer.models.hub import checked_device, from_pretrained, push_to_hub, shipped_models
from gossamer.models.loaded import LoadedModel, Reference

__all__ = ["LoadedModel", "Reference", "checked_device", "from_pretrained", "push_to_hub", "shipped_models"]
