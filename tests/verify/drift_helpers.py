"""Trials of planted circuits for the checks of what happens inside a circuit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from toys import PLANTED_NODES, WORDS, planted_model, planted_task
from verify_helpers import circuit_of

from gossamer.models import LoadedModel
from gossamer.models.planted import with_means
from gossamer.verify import ChannelTrial


def trial_of(model: LoadedModel, nodes: tuple[str, ...] = PLANTED_NODES, **changes: Any) -> ChannelTrial:
    task = planted_task(24)
    trial = ChannelTrial(model=model, circuit=circuit_of(model, nodes), task=task, heldout=model.encode(task.heldout))
    return replace(trial, **changes)


def whole_circuit(model: LoadedModel) -> tuple[str, ...]:
    layout = model.graph().layout
    return tuple(str(layout.site(i)) for i in range(layout.n_nodes))


class Bare:
    """A model that shows nothing of what it does."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        if name in ("frozen_norms", "attention"):
            raise AttributeError(name)
        return getattr(self._model, name)


def loud_model() -> LoadedModel:
    """The planted model in a residual stream full of what has nothing to do with it: words write +-6 to channels that
    nothing reads, so that the final norm divides by much more than in the circuit."""
    model = planted_model(decoys=False).model
    signs = torch.randn(11, 8, generator=torch.Generator().manual_seed(0)).sign()
    model.wte.weight.data[4:15, 20:28] = 6 * signs
    return with_means(model, WORDS, "loud")


# head 0 looks at the token that names the side: query 0 is 1 everywhere (channel 0), key 0 the mark in channel 9
LOOKING_NODES = (
    *PLANTED_NODES, "0.attn.act_in:0", "0.attn.act_in:9", "0.attn.q:0", "0.attn.k:0",
)  # fmt: skip


def looking_model() -> LoadedModel:
    model = planted_model(decoys=False).model
    model.wte.weight.data[:2, 9] = 1.0
    weight = model.blocks[0].attn.c_attn.weight.data
    weight[0, 0], weight[model.config.d_attn, 9] = 1.0, 0.6
    return with_means(model, WORDS, "looking")


# attention writes s to channel 6; the MLP takes 3 s away again: gelu(x) - gelu(-x) is x
TURNED_NODES = ("0.mlp.act_in:6", "0.mlp.post_act:10", "0.mlp.post_act:11", "0.mlp.resid_delta:6")


def turning_model() -> LoadedModel:
    model = planted_model(decoys=False).model
    mlp = model.blocks[0].mlp
    for neuron, sign in ((10, 1.0), (11, -1.0)):
        mlp.c_fc.weight.data[neuron, 6] = sign
        mlp.c_proj.weight.data[6, neuron] = -3 * sign
    model.lm_head.weight.data[2:4, 6] *= -1  # the whole model is right
    return with_means(model, WORDS, "turning")
