"""Weights compiled by Tracr (Lindner et al. 2023, arXiv 2301.05062): a safetensors file and its JSON, or parameters.

The arrays have Haiku's names, joined by `_` and with or without the leading `transformer/`: `token_embed_embeddings`,
`pos_embed_embeddings`, `layer_0/attn/query_w`, ..., `layer_0/mlp/linear_2_b`, and `unembedding_mtx`. The JSON has
`config` (num_heads, num_layers, d_head, mlp_hidden_size, layer_norm, causal, bos) and `vocab`, word to number. Logits
are the residual stream times the unembedding, after every position; its columns are the first words of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line
from gossamer.models.compiled import CompiledModel, Weights


def read_tracr(path: Path) -> CompiledModel:
    """The model in `path` (.safetensors), described by the JSON file of the same name beside it.

    Errors: BadInput for a file that is not there; CorruptFile for one that is damaged, or arrays that do not fit;
    Unsupported for a model with layer norms.
    """
    beside = path.with_suffix(".json")
    for needed in (path, beside):
        if not needed.is_file():
            raise BadInput(f"Expected a file at {needed}, found none; give NAME.safetensors with NAME.json beside it.")
    try:
        described = json.loads(beside.read_text())
        return tracr_model(load_file(path), described["config"], described["vocab"], path.stem)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path} with {beside.name} is no model of Tracr's ({one_line(error)}).") from error


def tracr_model(
    params: Mapping[str, Any], config: Mapping[str, Any], vocab: Mapping[str, int], name: str
) -> CompiledModel:
    """The model of Tracr's own parameters: arrays by name, or dictionaries of arrays by module.

    Errors: ValueError or KeyError for arrays that are missing or of another shape; Unsupported as above.
    """
    if config.get("layer_norm"):
        raise Unsupported(f"the Tracr model {name}", "it has layer norms", "compiling it without them")
    flat: dict[str, Any] = {}
    for key, value in params.items():
        parts = {f"{key}_{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
        flat |= {k.removeprefix("transformer/"): v for k, v in parts.items()}
    heads, layers, d_head = config["num_heads"], config["num_layers"], config["d_head"]

    def array(key: str) -> Tensor:
        return torch.from_numpy(np.array(flat[key], dtype=np.float64))

    def stacked(key: str) -> Tensor:
        return torch.stack([array(f"layer_{i}/{key}") for i in range(layers)])

    def by_head(key: str) -> Tensor:  # [layers, ..., heads * d_head] -> [layers, heads, ..., d_head]
        return stacked(key).unflatten(-1, (heads, d_head)).movedim(-2, 1)

    unembed = array("unembedding_mtx")
    weights = Weights(
        embed=array("token_embed_embeddings"), positions=array("pos_embed_embeddings"), q=by_head("attn/query_w"),
        k=by_head("attn/key_w"), v=by_head("attn/value_w"), q_bias=by_head("attn/query_b"),
        k_bias=by_head("attn/key_b"), v_bias=by_head("attn/value_b"),
        out=stacked("attn/linear_w").unflatten(1, (heads, d_head)), out_bias=stacked("attn/linear_b"),
        up=stacked("mlp/linear_1_w"), up_bias=stacked("mlp/linear_1_b"), down=stacked("mlp/linear_2_w"),
        down_bias=stacked("mlp/linear_2_b"), unembed=unembed, unembed_bias=unembed.new_zeros(unembed.shape[1]),
    )  # fmt: skip
    wanted = Weights.zeros(
        vocab=len(vocab), n_ctx=len(weights.positions), d=weights.embed.shape[1], layers=layers, heads=heads,
        d_head=d_head, hidden=config["mlp_hidden_size"], answers=unembed.shape[1],
    )  # fmt: skip
    if wrong := [k for (k, t), (_, w) in zip(weights.items(), wanted.items(), strict=True) if t.shape != w.shape]:
        raise ValueError(f"its {' and '.join(wrong)} do not have the shape that its config says")
    words = sorted(vocab, key=lambda w: vocab[w])
    if [vocab[w] for w in words] != list(range(len(words))) or config["bos"] not in vocab:
        raise ValueError("its vocabulary does not number its words from 0 on, or lacks the first word of a prompt")
    return CompiledModel(
        name=name, weights=weights, words=tuple(words), bos=config["bos"], causal=bool(config["causal"])
    )
