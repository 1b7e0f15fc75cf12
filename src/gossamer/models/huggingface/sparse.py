"""The weight-sparse transformer as a transformers model: same numbers, standard folder, `generate` included.

A batch may be padded on either side, by its attention_mask: rows are computed as if they started at their first token,
so padding changes no number at a real position (logits at padding mean nothing). There is no key-value cache: every
new token reads the whole text again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from gossamer.corpora.tokenizer import END_OF_TEXT, save_tokenizer
from gossamer.errors import BadInput, Unsupported, require_new
from gossamer.models.files import MODEL_TYPE
from gossamer.models.loaded import LoadedModel
from gossamer.models.sparse import ALL_PLACES, SparseConfig, SparseTransformer
from gossamer.whole_file import whole_folder


class GossamerConfig(PreTrainedConfig):
    """The fields of gossamer's SparseConfig, under the same names."""

    model_type = MODEL_TYPE
    attribute_map = {  # noqa: RUF012
        "hidden_size": "d_model", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
        "max_position_embeddings": "n_ctx", "intermediate_size": "d_mlp",
    }  # fmt: skip

    vocab_size: int = 2048
    n_ctx: int = 128
    n_layer: int = 2
    d_model: int = 128
    n_head: int = 8
    d_head: int = 16
    d_mlp: int = 512
    activation_fraction: float = 0.25
    topk_places: list[str] | tuple[str, ...] = ALL_PLACES
    activation: str = "gelu"
    sink: bool = False
    bigram: bool = False
    bias: bool = True
    position: str = "none"
    d_pos: int = 0
    use_cache: bool = False
    tie_word_embeddings: bool = False

    def sparse(self) -> SparseConfig:
        """The same as gossamer's own configuration, checked."""
        names = set(SparseConfig.model_fields) - {"model_type"}
        return SparseConfig.model_validate({name: getattr(self, name) for name in names})


class GossamerForCausalLM(PreTrainedModel, GenerationMixin):
    """A gossamer SparseTransformer (`.model`) that transformers can load, save, call and sample from."""

    config_class = GossamerConfig
    config: GossamerConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"

    def __init__(self, config: GossamerConfig) -> None:
        super().__init__(config)
        empty = torch.get_default_device().type == "meta"  # from_pretrained fills the weights in
        self.model = SparseTransformer(config.sparse(), seed=None if empty else 0)
        self.model.register_buffer("final_logits_bias", self.model.final_logits_bias, persistent=True)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """SparseTransformer initialises itself."""

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.model.wte

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.model.lm_head

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, labels: Tensor | None = None,
        return_dict: bool | None = None, **ignored: Any,
    ) -> CausalLMOutput | tuple[Tensor, ...]:  # fmt: skip
        """Logits [batch, pos, vocab]; with labels (-100: not counted) the mean next-token cross-entropy in nats.

        Errors: BadInput for a mask whose rows are not one run of ones each or texts longer than n_ctx; Unsupported
        for inputs_embeds and caches.
        """
        if input_ids is None or ignored.get("inputs_embeds") is not None:
            raise Unsupported("a call without input_ids", "the residual stream starts at the tokens", "input_ids")
        if ignored.get("past_key_values") is not None:
            raise Unsupported("a key-value cache", "none is built", "use_cache=False, which is the default")
        if input_ids.shape[1] > self.config.n_ctx:
            raise BadInput(f"Expected at most {self.config.n_ctx} tokens, got {input_ids.shape[1]}; shorten the text.")
        shift = None if attention_mask is None else _left_padding(attention_mask)
        if shift is None or not bool(shift.any()):
            logits = self.model(input_ids)
        else:
            at = torch.arange(input_ids.shape[1], device=input_ids.device)
            to = (at + shift[:, None]) % input_ids.shape[1]
            back = (at - shift[:, None]) % input_ids.shape[1]
            logits = self.model(input_ids.gather(1, to))
            logits = logits.gather(1, back[:, :, None].expand_as(logits))
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **ignored: Any
    ) -> dict[str, Any]:
        """The whole text each time."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def _left_padding(mask: Tensor) -> Tensor:
    """How many tokens each row of a [batch, pos] mask skips before its run of ones."""
    if mask.ndim != 2:
        raise Unsupported(f"an attention_mask of {mask.ndim} dimensions", "rows are whole texts", "[batch, pos]")
    ones = mask.bool()
    starts = ones & ~torch.nn.functional.pad(ones, (1, 0))[:, :-1]
    if not bool((starts.sum(1) == 1).all()):
        raise BadInput(
            "Expected an attention_mask with one run of ones in each row, got rows with gaps or without ones; to "
            "generate from prompts of several lengths pad them on the left."
        )
    return starts.int().argmax(1)


def export_huggingface(model: LoadedModel, out: Path) -> Path:
    """A folder that AutoModelForCausalLM and AutoTokenizer read: dense safetensors, config, tokenizer, our Record.

    Temporary name, then rename. Errors: BadInput if `out` exists.
    """
    require_new(out)
    fields: dict[str, Any] = model.model.config.model_dump(exclude={"model_type"})
    fields |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), model.bos)
    wrapped = GossamerForCausalLM(GossamerConfig(**fields))
    wrapped.model.load_state_dict(model.model.state_dict(), strict=False)
    wrapped.model.final_logits_bias.copy_(model.model.final_logits_bias)
    wrapped.model.to(model.model.lm_head.weight.dtype)
    wrapped.generation_config.use_cache = False
    with whole_folder(out) as work:
        wrapped.save_pretrained(work)
        save_tokenizer(model.tokenizer, work)
        about = work / "tokenizer_config.json"
        given = json.loads(about.read_text()) | {"pad_token": END_OF_TEXT, "model_max_length": model.model.config.n_ctx}
        about.write_text(json.dumps(given, indent=1), encoding="utf-8")
        (work / "record.json").write_text(json.dumps(model.record, indent=1), encoding="utf-8")
        for file in work.iterdir():
            file.chmod(0o644)
    return out
