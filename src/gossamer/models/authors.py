"""Read the authors' released model folders: `beeg_config.json` + `final_model.pt` (openai/circuit_sparsity).

No remote code, and the checkpoint is read weights-only. What their config files drifted through is handled by the
table below; what would change the numbers and is not built here is refused. Nothing is dropped in silence that the
forward pass would have used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from torch import Tensor

from gossamer.corpora.tokenizer import load_tokenizer
from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line
from gossamer.models.files import read_object, require_tokenizer_of
from gossamer.models.loaded import LoadedModel
from gossamer.models.sparse import ALL_PLACES, SparseConfig, SparseTransformer

CONFIG, WEIGHTS = "beeg_config.json", "final_model.pt"

_RENAMED = {"n_mlp": "d_mlp", "block_size": "n_ctx"}
_NEEDED = ("vocab_size", "n_ctx", "n_layer", "d_model", "n_head")
_DEFAULT_PLACES = "attn_in,attn_out,mlp_in,mlp_out"


def is_authors_folder(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def authors_config(given: dict[str, Any]) -> SparseConfig:
    """Our config from theirs, with the defaults their loader uses for absent keys; keys it ignores are ignored.

    Errors: BadInput lists every missing key; Unsupported for LayerNorm, a residual activation, and AbsTopK at places
    outside the eight.
    """
    c = {_RENAMED.get(k, k): v for k, v in given.items()}
    missing = [k for k in _NEEDED if c.get(k) is None]
    if missing:
        raise BadInput(f"{CONFIG} lacks {', '.join(missing)}; it is not a config of the released models.")
    wrong = [f"{k} {c[k]!r}" for k in _NEEDED if type(c[k]) is not int or c[k] < 1]
    if wrong:
        raise BadInput(f"Expected positive whole numbers in {CONFIG}, got {', '.join(wrong)}; download it again.")
    if not c.get("d_head") and c["d_model"] % c["n_head"]:
        raise BadInput(
            f"Expected a d_model divisible by n_head in {CONFIG}, got {c['d_model']} and {c['n_head']}; give d_head."
        )
    if not c.get("rms_norm", False):
        raise Unsupported("a model with LayerNorm", "only RMSNorm keeps zero special", "a model with rms_norm true")
    if c.get("residual_activation_type", "identity") != "identity":
        raise Unsupported("an activation on the residual stream", "the published models have none", "one of those")
    if c.get("use_tied_aux_matrix"):
        raise Unsupported("a tied auxiliary matrix", "the released inference code refuses it too", "another model")
    fraction, d_pos = c.get("afrac"), c.get("d_pos_emb") or 0
    try:
        return SparseConfig(
            **{k: c[k] for k in _NEEDED}, d_head=c.get("d_head") or c["d_model"] // c["n_head"],
            d_mlp=c.get("d_mlp") or 4 * c["d_model"], activation_fraction=1.0 if fraction is None else fraction,
            topk_places=() if fraction is None else _places(c.get("afrac_loctypes", _DEFAULT_PLACES)),
            activation=c.get("activation_type", "gelu"), sink=bool(c.get("sink", False)),
            bigram=bool(c.get("enable_bigram_table", False)), bias=bool(c.get("bias", True)),
            position="channels" if d_pos else "additive", d_pos=d_pos,
        )  # fmt: skip
    except ValidationError as error:
        raise BadInput(f"{CONFIG} does not describe a model ({one_line(error)}); download it again.") from error


def _places(given: object) -> tuple[Any, ...]:
    if not isinstance(given, str):
        raise BadInput(
            f"Expected afrac_loctypes in {CONFIG} as names between commas, got {given!r}; download it again."
        )
    names = [n.strip() for n in given.split(",") if n.strip()]
    unknown = sorted(set(names) - set(ALL_PLACES))
    if unknown:
        raise Unsupported(
            f"AbsTopK at {', '.join(unknown)}", "only the eight published places are built", "a model without it"
        )
    return tuple(p for p in ALL_PLACES if p in names)


def authors_state(
    state: dict[str, Tensor], config: SparseConfig, says_sink: bool | None, tied: bool
) -> tuple[SparseConfig, dict[str, Tensor]]:
    """Their state dict under our names, and the config with `sink` as the weights show it.

    Causal-mask buffers hold no numbers and are dropped; a bigram table that the config switches off is not used by
    their code either; an additive position table of zeros is left out. Any other key without a place here is an error
    later, never dropped: a silently dropped sink is another model. tied: a missing unembedding is the embedding.
    """
    ours: dict[str, Tensor] = {}
    for name, t in state.items():
        if name.endswith(".attn.bias") and t.ndim == 4:
            continue
        ours[name.removeprefix("transformer.").replace(".attn_imp.sink_logit", ".sink_logit")] = t.detach().float()
    sink = any(k.endswith(".sink_logit") for k in ours)
    if says_sink is not None and says_sink != sink:
        raise CorruptFile(f"{CONFIG} says sink {says_sink} but {WEIGHTS} shows {sink}; download the folder again.")
    changes: dict[str, Any] = {"sink": sink}
    if not config.bigram:
        ours.pop("bigram_table", None)
    if config.position == "additive" and not bool(ours.get("wpe.weight", torch.zeros(1)).count_nonzero()):
        ours.pop("wpe.weight", None)
        changes["position"] = "none"
    if tied and "wte.weight" in ours:
        ours.setdefault("lm_head.weight", ours["wte.weight"])
    return config.model_copy(update=changes), ours


def load_authors_weights(folder: Path) -> SparseTransformer:
    """The model of a released folder. Errors: CorruptFile for weights that are damaged or do not fit the config."""
    given = read_object(folder / CONFIG)
    config = authors_config(given)
    path = folder / WEIGHTS
    if not path.is_file():
        raise BadInput(f"Expected {WEIGHTS} beside {CONFIG} in {folder}, found none.")
    config, tensors = authors_state(_state_dict(path), config, given.get("sink"), given.get("tied_unembed", True))
    model = SparseTransformer(config, seed=None)
    tensors.setdefault("final_logits_bias", model.final_logits_bias)
    wanted = {k: v.shape for k, v in model.state_dict().items()} | {"final_logits_bias": model.final_logits_bias.shape}
    wrong = [f"lacks {k}" for k in wanted if k not in tensors]
    wrong += [f"has {k}, which the config has no place for" for k in tensors if k not in wanted]
    wrong += [
        f"{k} has shape {tuple(tensors[k].shape)}, expected {tuple(s)}" for k, s in wanted.items()
        if k in tensors and tensors[k].shape != s
    ]  # fmt: skip
    if wrong:
        raise CorruptFile(f"{path} does not fit {CONFIG}: {'; '.join(wrong[:6])} ({len(wrong)} differences).")
    model.final_logits_bias.copy_(tensors.pop("final_logits_bias"))
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def load_weights_only(path: Path) -> Any:
    """Tensors and plain values of a file that torch saved; CorruptFile for anything else, without torch's advice to
    allow code. No code in the file is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # reading damaged bytes raises nearly every type
        what = type(error).__name__
        raise CorruptFile(
            f"{path} is damaged or holds more than tensors and plain values ({what}); nothing in it was run, download "
            "it again."
        ) from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint; CorruptFile for anything else."""
    found = load_weights_only(path)
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise CorruptFile(
            f"Expected a state dict (names and their tensors) in {path}, got other values; download it again."
        )
    return found


def load_authors_model(folder: Path) -> LoadedModel:
    """The model of a released folder with the tokenizer in it (`tokenizer.json`, or vocab.bpe + encoder.json)."""
    model, tokenizer = load_authors_weights(folder), _tokenizer(folder)
    require_tokenizer_of(tokenizer, model.config, folder)
    return LoadedModel(
        name=folder.name, model=model, tokenizer=tokenizer, reference=None,
        record={"source": "authors' layout", "config": read_object(folder / CONFIG)}, folder=str(folder),
    )  # fmt: skip


def _tokenizer(folder: Path) -> Tokenizer:
    encoder, merges = folder / "encoder.json", folder / "vocab.bpe"
    if not (encoder.is_file() and merges.is_file()):
        return load_tokenizer(folder)
    from tokenizers import decoders, models, pre_tokenizers

    try:
        lines = merges.read_text(encoding="utf-8").splitlines()
        pairs = [(a, b) for a, b in (line.split() for line in lines if line and not line.startswith("#version"))]
        found = Tokenizer(models.BPE(vocab=json.loads(encoder.read_text(encoding="utf-8")), merges=pairs))
    except Exception as error:  # the library raises bare Exception
        what = one_line(error)
        raise CorruptFile(f"{merges} and {encoder.name} are not a tokenizer ({what}); download them again.") from error
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    return found
