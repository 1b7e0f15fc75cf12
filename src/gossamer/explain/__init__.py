"""Descriptions of parts: what they mean, as far as that can be read off."""

from gossamer.explain.binarise import BinariseConfig, Binarised, BinaryNode, binarise, binarise_config
from gossamer.explain.effects import direct_effects, model_effects, node_effects, random_effects
from gossamer.explain.embeddings import direct_logit, tokens_into, tokens_out_of
from gossamer.explain.examples import (
    Levels,
    Sides,
    TopExample,
    examples_by_level,
    first_difference,
    histograms,
    mean_on_answer,
    task_examples,
    top_examples,
)
from gossamer.explain.head_roles import HeadRole, HeadRoles, HeadRolesConfig, head_roles, head_roles_config
from gossamer.explain.live import Change, Said, Spoken, ask, token_ids
from gossamer.explain.live_edges import ask_edges

__all__ = [
    "BinariseConfig", "Binarised", "BinaryNode", "Change", "HeadRole", "HeadRoles", "HeadRolesConfig", "Levels",
    "Said", "Sides", "Spoken", "TopExample", "ask", "ask_edges", "binarise", "binarise_config", "direct_effects",
    "direct_logit", "examples_by_level", "first_difference", "head_roles", "head_roles_config", "histograms",
    "mean_on_answer", "model_effects", "node_effects", "random_effects", "task_examples", "token_ids",
    "tokens_into", "tokens_out_of", "top_examples",
]  # fmt: skip
