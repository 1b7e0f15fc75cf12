"""Methods that return Scores or a Circuit, one file per method, named as papers name it."""

from gossamer.discover.prune import PruneConfig, Pruned, prune, prune_config

__all__ = ["PruneConfig", "Pruned", "prune", "prune_config"]
