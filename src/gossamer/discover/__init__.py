"""Methods that return Scores or a Circuit, one file per method, named as papers name it."""

from gossamer.discover.prune import PruneConfig, Pruned, prune, prune_config
from gossamer.discover.prune_edges import EdgePruneConfig, edge_prune_config, prune_edges

__all__ = [
    "EdgePruneConfig", "PruneConfig", "Pruned", "edge_prune_config", "prune", "prune_config", "prune_edges",
]  # fmt: skip
