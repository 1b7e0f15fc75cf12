"""Descriptions of parts: what they mean, as far as that can be read off."""

from gossamer.explain.binarise import BinariseConfig, Binarised, BinaryNode, binarise, binarise_config
from gossamer.explain.effects import node_effects
from gossamer.explain.embeddings import direct_logit, tokens_into, tokens_out_of
from gossamer.explain.examples import TopExample, mean_on_answer, task_examples, top_examples
from gossamer.explain.head_roles import HeadRole, HeadRoles, HeadRolesConfig, head_roles, head_roles_config

__all__ = [
    "BinariseConfig", "Binarised", "BinaryNode", "HeadRole", "HeadRoles", "HeadRolesConfig", "TopExample", "binarise",
    "binarise_config", "direct_logit", "head_roles", "head_roles_config", "mean_on_answer", "node_effects",
    "task_examples", "tokens_into", "tokens_out_of", "top_examples",
]  # fmt: skip
