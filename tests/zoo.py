"""Small random decoders of every family that is claimed to work, and of every one that must be refused."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

_SMALL = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 32, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
_OLD = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
_FALCON = {k: v for k, v in _SMALL.items() if k not in ("intermediate_size", "head_dim")}

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", _OLD),
    "gptj": ("gptj", {**_OLD, "rotary_dim": 4}),
    "gpt_neox": ("gpt_neox", {**_SMALL, "use_parallel_residual": True}),
    "gpt_neox sequential": ("gpt_neox", {**_SMALL, "use_parallel_residual": False}),
    "opt": ("opt", {**_SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon multi-query": ("falcon", {**_FALCON, "new_decoder_architecture": False, "multi_query": True}),
    "falcon alibi": ("falcon", {**_FALCON, "alibi": True, "multi_query": False, "parallel_attn": False}),
    "phi": ("phi", _GROUPED),
    "phi3": ("phi3", _GROUPED),
    "llama": ("llama", _GROUPED),
    "llama without groups": ("llama", {**_SMALL, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", _GROUPED),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", _GROUPED),
    "gemma2": ("gemma2", _GROUPED),
    "gemma3": ("gemma3_text", _GROUPED),
    "olmo2": ("olmo2", _GROUPED),
    "stablelm": ("stablelm", _GROUPED),
    "stablelm parallel": ("stablelm", {**_GROUPED, "use_parallel_residual": True}),
}

ROUND_NORMS = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "phi3", "llama without groups"}


def decoder(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model of a family, its norms' gains and all biases away from their trivial values."""
    kind, config = DECODERS[name]
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **{**config, **changes}), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model
