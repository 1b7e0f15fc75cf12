"""Methods that return Scores or a Circuit, one file per method, named as papers name it."""

from gossamer.discover.acdc import ACDCConfig, acdc, acdc_config
from gossamer.discover.activation_patching import (
    ActivationPatchingConfig,
    activation_patching,
    activation_patching_config,
)
from gossamer.discover.attribution_patching import (
    AttributionPatchingConfig,
    attribution_patching,
    attribution_patching_config,
)
from gossamer.discover.ceap import ceap
from gossamer.discover.consensus import Consensus, ConsensusConfig, consensus, consensus_config
from gossamer.discover.direct_logit_attribution import (
    DirectLogitAttributionConfig,
    direct_logit_attribution,
    direct_logit_attribution_config,
)
from gossamer.discover.eap import EAPConfig, eap, eap_config
from gossamer.discover.eap_ig import EAPIGConfig, eap_ig, eap_ig_config
from gossamer.discover.eap_ig_activations import eap_ig_activations
from gossamer.discover.edge_mask import EdgeMaskConfig, edge_mask, edge_mask_config
from gossamer.discover.edge_patching import EdgePatchingConfig, edge_patching, edge_patching_config
from gossamer.discover.iterative_sweep import IterativeSweepConfig, iterative_sweep, iterative_sweep_config
from gossamer.discover.module_mask import ModuleMaskConfig, module_mask, module_mask_config
from gossamer.discover.path_patching import PathPatchingConfig, path_effects, path_patching, path_patching_config
from gossamer.discover.prune import PruneConfig, Pruned, prune, prune_config
from gossamer.discover.prune_edges import EdgePruneConfig, edge_prune_config, prune_edges
from gossamer.discover.query_key_attribution import (
    QueryKeyAttribution,
    QueryKeyAttributionConfig,
    query_key_attribution,
    query_key_attribution_config,
)
from gossamer.discover.random_edges import RandomConfig, random_config, random_edges
from gossamer.discover.weight_magnitude import WeightMagnitudeConfig, weight_magnitude, weight_magnitude_config

__all__ = [
    "ACDCConfig", "ActivationPatchingConfig", "AttributionPatchingConfig", "Consensus", "ConsensusConfig",
    "DirectLogitAttributionConfig", "EAPConfig", "EAPIGConfig", "EdgeMaskConfig", "EdgePatchingConfig",
    "EdgePruneConfig", "IterativeSweepConfig", "ModuleMaskConfig", "PathPatchingConfig", "PruneConfig", "Pruned",
    "QueryKeyAttribution", "QueryKeyAttributionConfig", "RandomConfig", "WeightMagnitudeConfig", "acdc",
    "acdc_config", "activation_patching", "activation_patching_config", "attribution_patching",
    "attribution_patching_config", "ceap", "consensus", "consensus_config", "direct_logit_attribution",
    "direct_logit_attribution_config", "eap", "eap_config", "eap_ig", "eap_ig_activations", "eap_ig_config",
    "edge_mask", "edge_mask_config", "edge_patching", "edge_patching_config", "edge_prune_config",
    "iterative_sweep", "iterative_sweep_config", "module_mask", "module_mask_config", "path_effects",
    "path_patching", "path_patching_config", "prune", "prune_config", "prune_edges", "query_key_attribution",
    "query_key_attribution_config", "random_config", "random_edges", "weight_magnitude", "weight_magnitude_config",
]  # fmt: skip
