"""Methods that return Scores or a Circuit, one file per method, named as papers name it."""

from gossamer.discover.acdc import ACDCConfig, acdc, acdc_config
from gossamer.discover.ceap import ceap
from gossamer.discover.consensus import Consensus, ConsensusConfig, consensus, consensus_config
from gossamer.discover.eap import EAPConfig, eap, eap_config
from gossamer.discover.eap_ig import EAPIGConfig, eap_ig, eap_ig_config
from gossamer.discover.eap_ig_activations import eap_ig_activations
from gossamer.discover.edge_mask import EdgeMaskConfig, edge_mask, edge_mask_config
from gossamer.discover.prune import PruneConfig, Pruned, prune, prune_config
from gossamer.discover.prune_edges import EdgePruneConfig, edge_prune_config, prune_edges
from gossamer.discover.random_edges import RandomConfig, random_config, random_edges
from gossamer.discover.weight_magnitude import WeightMagnitudeConfig, weight_magnitude, weight_magnitude_config

__all__ = [
    "ACDCConfig", "Consensus", "ConsensusConfig", "EAPConfig", "EAPIGConfig", "EdgeMaskConfig", "EdgePruneConfig",
    "PruneConfig", "Pruned", "RandomConfig", "WeightMagnitudeConfig", "acdc", "acdc_config", "ceap", "consensus",
    "consensus_config", "eap", "eap_config", "eap_ig", "eap_ig_activations", "eap_ig_config", "edge_mask",
    "edge_mask_config", "edge_prune_config", "prune", "prune_config", "prune_edges", "random_config", "random_edges",
    "weight_magnitude", "weight_magnitude_config",
]  # fmt: skip
