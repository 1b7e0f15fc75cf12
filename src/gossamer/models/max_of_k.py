"""The max-of-K transformer (Gross et al. 2024, Compact Proofs): one layer, one head, attention only, no norm, no bias.

It reads K tokens of {0 .. v-1} and answers their maximum at the last position. With E the embedding, P the positions,
x_i = E[t_i] + P[i] and q the last position:

    logits = (x_q + sum_i a_i x_i V O) U,    a = softmax_i(x_q Q (x_i K)^T / sqrt(d_head)).

The last position sees every other, so a causal mask changes nothing. A model folder holds config.json,
model.safetensors and record.json; a file under TransformerLens names can be read as well.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line
from gossamer.models.files import CONFIG, WEIGHTS, read_parts, read_safetensors, write_parts
from gossamer.record import Record
from gossamer.whole_file import whole_folder

NAMES = ("embed", "positions", "query", "key", "value", "output", "unembed")
TRANSFORMER_LENS = {
    "embed.W_E": "embed", "pos_embed.W_pos": "positions", "blocks.0.attn.W_Q": "query", "blocks.0.attn.W_K": "key",
    "blocks.0.attn.W_V": "value", "blocks.0.attn.W_O": "output", "unembed.W_U": "unembed",
}  # fmt: skip
_BIASES = {"blocks.0.attn.b_Q", "blocks.0.attn.b_K", "blocks.0.attn.b_V", "blocks.0.attn.b_O", "unembed.b_U"}
INIT = 0.8  # times 1 / sqrt(d_model): the standard deviation of every weight at the start


class MaxOfKConfig(BaseModel):
    """Sizes: K tokens of a vocabulary of v, residual width d_model, head width d_head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["gossamer-max-of-k"] = "gossamer-max-of-k"
    k: int = Field(ge=2, le=64)
    vocabulary: int = Field(default=64, ge=2, le=4096)
    d_model: int = Field(default=32, ge=1, le=4096)
    d_head: int = Field(default=32, ge=1, le=4096)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Shape of every matrix, [in, out]."""
        v, d, h = self.vocabulary, self.d_model, self.d_head
        return {
            "embed": (v, d), "positions": (self.k, d), "query": (d, h), "key": (d, h), "value": (d, h),
            "output": (h, d), "unembed": (d, v),
        }  # fmt: skip


class MaxOfK(nn.Module):
    """The model; all zeros until it is drawn, trained or read. Matrices multiply from the right: [in, out]."""

    embed: nn.Parameter
    positions: nn.Parameter
    query: nn.Parameter
    key: nn.Parameter
    value: nn.Parameter
    output: nn.Parameter
    unembed: nn.Parameter

    def __init__(self, config: MaxOfKConfig) -> None:
        super().__init__()
        self.config = config
        for name, shape in config.shapes().items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [n, vocabulary] at the last position of tokens [n, K] (int64)."""
        x = F.embedding(tokens, self.embed) + self.positions
        query = x[:, -1] @ self.query @ self.key.T / math.sqrt(self.config.d_head)
        attention = (x @ query[:, :, None]).softmax(1)
        mixed = (attention * x).sum(1)
        return (x[:, -1] + mixed @ self.value @ self.output) @ self.unembed

    def weights(self) -> dict[str, Tensor]:
        """The seven matrices, by name."""
        return {name: self.get_parameter(name).detach() for name in NAMES}

    def nonzero(self) -> int:
        """Weights that are not zero."""
        return sum(int(w.count_nonzero()) for w in self.weights().values())


@dataclass(frozen=True, kw_only=True)
class LoadedMaxOfK:
    """A model, the file its weights are in, that file's sha256, and its record (None for another tool's file)."""

    name: str
    model: MaxOfK
    weights: Path
    sha256: str
    record: Record | None


def random_max_of_k(config: MaxOfKConfig, seed: int) -> MaxOfK:
    """Every weight normal with standard deviation 0.8 / sqrt(d_model), as TransformerLens starts the paper's models."""
    generator = torch.Generator().manual_seed(seed)
    model = MaxOfK(config)
    with torch.no_grad():
        for name in NAMES:
            model.get_parameter(name).normal_(std=INIT / math.sqrt(config.d_model), generator=generator)
    return model


def shuffled_max_of_k(model: MaxOfK, seed: int) -> MaxOfK:
    """The same weights, every matrix's entries in a random order of their own."""
    generator = torch.Generator().manual_seed(seed)
    found = MaxOfK(model.config)
    with torch.no_grad():
        for name, w in model.weights().items():
            order = torch.randperm(w.numel(), generator=generator)
            found.get_parameter(name).copy_(w.flatten()[order].view_as(w))
    return found


def ideal_max_of_k(k: int, vocabulary: int = 64) -> MaxOfK:
    """Weights written by hand that every proof certifies in full: the mechanism and nothing else.

    The score of token t is (2 + ln K) t whatever the query (rank 1), the value copies the token into channels that only
    the unembedding reads (diagonal, no direct path), positions are zero. d_model = 2 v, d_head = v.
    """
    model = MaxOfK(MaxOfKConfig(k=k, vocabulary=vocabulary, d_model=2 * vocabulary, d_head=vocabulary))
    own = torch.arange(vocabulary)
    with torch.no_grad():
        model.embed[own, own] = 1
        model.query[own, 0] = math.sqrt(vocabulary)
        model.key[own, 0] = (2 + math.log(k)) * own.float()
        model.value[own, own] = 1
        model.output[own, vocabulary + own] = 1
        model.unembed[vocabulary + own, own] = 1
    return model


def save_max_of_k(model: MaxOfK, folder: Path, record: Record) -> Path:
    """Write a model folder under a temporary name and rename it; an existing model folder is replaced whole.

    Errors: BadInput for an existing `folder` that is not such a model's.
    """
    with whole_folder(folder, "model folder", holds=CONFIG) as work:
        write_parts(work, model.config, model.weights(), record)
    return folder


def load_max_of_k(path: str | Path) -> LoadedMaxOfK:
    """A model folder, or one .safetensors file under TransformerLens names.

    Errors: BadInput for what is neither, CorruptFile for a damaged file, Unsupported for biases that are not zero.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _transformer_lens(path)
    if not (path / CONFIG).is_file():
        raise BadInput(
            f"Expected a max-of-K model folder with {CONFIG} or a .safetensors file at {path}; `gossamer prove train` "
            "makes one."
        )
    config, tensors, record = read_parts(path, MaxOfKConfig, "max-of-K model")
    return _loaded(path.resolve().name, path / WEIGHTS, config, tensors, record)


def _transformer_lens(path: Path) -> LoadedMaxOfK:
    tensors, _ = read_safetensors(path)
    if missing := sorted(set(TRANSFORMER_LENS) - set(tensors)):
        raise BadInput(f"Expected a one-layer TransformerLens model in {path}, it lacks {', '.join(missing)}.")
    if other := sorted(set(tensors) - set(TRANSFORMER_LENS) - _BIASES):
        raise Unsupported(
            f"{path.name} with {', '.join(other[:3])}", "a max-of-K model has one layer of attention", "another file"
        )
    if biased := sorted(name for name in _BIASES & set(tensors) if bool(tensors[name].any())):
        raise Unsupported(f"{path.name} with {', '.join(biased)}", "proofs are of models without biases", "zero biases")
    found = {ours: tensors[theirs] for theirs, ours in TRANSFORMER_LENS.items()}
    for name in ("query", "key", "value", "output"):
        if found[name].ndim != 3 or found[name].shape[0] != 1:
            raise Unsupported(
                f"{path.name} with {name} of shape {tuple(found[name].shape)}", "proofs are of one head", "one head"
            )
        found[name] = found[name][0]
    try:
        config = MaxOfKConfig(
            k=len(found["positions"]), vocabulary=len(found["embed"]), d_model=found["embed"].shape[1],
            d_head=found["query"].shape[1],
        )  # fmt: skip
    except ValidationError as error:
        raise BadInput(f"{path} is not a max-of-K model ({one_line(error)}).") from error
    return _loaded(path.stem, path, config, found, None)


def _loaded(
    name: str, weights: Path, config: MaxOfKConfig, tensors: dict[str, Tensor], record: Record | None
) -> LoadedMaxOfK:
    wanted = config.shapes()
    if {n: tuple(t.shape) for n, t in tensors.items()} != wanted:
        raise CorruptFile(f"{weights}: the matrices' names and shapes are not those of {CONFIG}; restore it.")
    if any(t.dtype != torch.float32 or not bool(t.isfinite().all()) for t in tensors.values()):
        raise CorruptFile(f"{weights}: expected finite float32 weights; restore it or make it again.")
    model = MaxOfK(config)
    model.load_state_dict(tensors)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    return LoadedMaxOfK(
        name=name, model=model.eval().requires_grad_(False), weights=weights, sha256=sha256, record=record
    )
