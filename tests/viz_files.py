"""Files in the authors' `viz_data.pt` format, built from a circuit of a model at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gossamer import Circuit
from gossamer.explain import node_effects
from gossamer.metric import task_loss_nats
from gossamer.models import LoadedModel
from gossamer.task import Encoded


def authors_dict(model: LoadedModel) -> dict[str, Any]:
    """The model's shape as their config names it."""
    c = model.model.config
    return {
        "block_size": c.n_ctx, "vocab_size": c.vocab_size, "n_layer": c.n_layer, "n_head": c.n_head,
        "d_head": c.d_head, "d_model": c.d_model, "d_mlp": c.d_mlp, "rms_norm": True, "sink": c.sink,
        "activation_type": c.activation, "afrac": c.activation_fraction, "afrac_loctypes": ",".join(c.topk_places),
        "dropout": 0.0, "tokenizer_name": "tinypython_2k", "d_pos_emb": c.d_pos or None,
    }  # fmt: skip


def pair_tables(circuit: Circuit, model: LoadedModel, numbers: str) -> list[Any]:
    """pair_data_connections (the weights, biases as the source "bias") or pair_data (a made-up delta for each)."""
    weight = {(int(s), int(d)): float(w) for s, d, w in zip(circuit.src, circuit.dst, circuit.weight, strict=True)}
    kept = {k: np.flatnonzero(v).tolist() for k, v in circuit.kept_by_location().items()}
    starts, found = circuit.layout.starts, []
    state = model.model.state_dict()
    for name, source, destination in model.model.config.matrices():
        if not kept[destination]:
            continue
        layer, sub, matrix = name.split(".")[:3]
        bias = state.get(f"h.{layer}.{sub}.{matrix}.bias", torch.zeros(3 * model.model.config.d_attn))
        shift = "qkv".index(name[-1]) * model.model.config.d_attn if matrix == "c_attn" else 0
        table = [
            [weight.get((starts[source] + s, starts[destination] + d), 0.0) for d in kept[destination]]
            for s in kept[source]
        ]
        table += [[float(bias[shift + d]) for d in kept[destination]]]
        values = torch.tensor(table)
        if numbers == "deltas":
            values = 0.02 * values.sign()
        found.append([values, [*kept[source], "bias"], kept[destination], (source, destination)])
    return found


def viz_content(model: LoadedModel, circuit: Circuit, batch: Encoded) -> dict[str, Any]:
    """Everything a released file holds, its losses measured on `batch` and doubled as theirs are."""
    with torch.no_grad():
        whole = float(task_loss_nats(model.run(batch).gap).mean())
        own = float(task_loss_nats(model.run(batch, ablation=circuit.as_ablation("gao-mean")).gap).mean())
        reads = model.run(batch, ablation=circuit.as_ablation("gao-mean"), reads=tuple(circuit.layout.starts)).reads
    effects = dict(zip(circuit.sites, node_effects(model, circuit, batch), strict=True))
    kept = {k: np.flatnonzero(v) for k, v in circuit.kept_by_location().items()}
    classes = torch.arange(len(batch.tokens)).view(-1, 2).T.flatten()  # all of class 1, then all of class 2
    channels = {
        k: {int(c): reads[k][classes][..., c] for c in v} for k, v in kept.items() if len(v)
    }  # fmt: skip
    tokens = batch.tokens[classes]
    shown = (tokens[0], torch.linspace(0, 1, tokens.shape[1]), 2)
    return {
        "circuit_data": {k: torch.from_numpy(v) for k, v in kept.items()},
        "prune_config": {"target_loss": 0.15, "k": circuit.n_nodes},
        "all_loss": [(step, 2 * own + step) for step in (2, 1, 0) for _ in range(2)],
        "num_total_nodes": circuit.layout.n_nodes,
        "samples": {
            k: {int(c): {q: ([shown], [shown, shown]) for q in (0.001, 0.01, 0.1, 0.5)} for c in v}
            for k, v in kept.items()
        },
        "importances": {
            "beeg_model_config": authors_dict(model), "loss": 2 * whole, "interv_loss": torch.tensor(2 * own),
            "ch_interv_losses": {
                k: [2 * (own + float(e)) for s, e in effects.items() if s.location == k] for k in kept
            },
            "layer_interv_losses": {"0.mlp": 2 * own, "0.attn": 2 * own + 0.5},
            "pair_data": pair_tables(circuit, model, "deltas"),
            "pair_data_connections": pair_tables(circuit, model, "weights"),
            "task_samples": (tokens, channels),
        },
    }  # fmt: skip


def write_viz(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path
