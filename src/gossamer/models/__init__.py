"""The only place that knows a model library: loading a model by shipped name, folder, or Hub name."""

from gossamer.models.hub import any_model, checked_device, from_pretrained, push_to_hub, shipped_models
from gossamer.models.loaded import LoadedModel, Reference

__all__ = [
    "LoadedModel",
    "Reference",
    "any_model",
    "checked_device",
    "from_pretrained",
    "push_to_hub",
    "shipped_models",
]
