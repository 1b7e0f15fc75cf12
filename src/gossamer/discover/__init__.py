"""Methods that return Scores or a Circuit, one file per method, named as papers name it."""

from gossamer.discover.acdc import ACDCConfig, acdc, acdc_config
from gossamer.discover.eap import EAPConfig, eap, eap_config
from gossamer.discover.eap_ig import EAPIGConfig, eap_ig, eap_ig_config
from gossamer.discover.edge_mask import EdgeMaskConfig, edge_mask, edge_mask_config
from gossamer.discover.prune import PruneConfig, Pruned, prune, prune_config
from gossamer.discover.prune_edges import EdgePruneConfig, edge_prune_config, prune_edges

__all__ = [
    "ACDCConfig", "EAPConfig", "EAPIGConfig", "EdgeMaskConfig", "EdgePruneConfig", "PruneConfig", "Pruned", "acdc",
    "acdc_config", "eap", "eap_config", "eap_ig", "eap_ig_config", "edge_mask", "edge_mask_config", "edge_prune_config",
    "prune", "prune_config", "prune_edges",
]  # fmt: skip
