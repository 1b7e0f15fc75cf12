"""A bridge between a sparse and a dense model of equal depth (Gao et al. 2025, sections 2.3 and A.3).

One pair of maps per sublayer input ("site": before each attention and each MLP, site 0 being the embedding), on the
residual stream before its RMSNorm. Encoder: linear with bias, then AbsTopK, dense to sparse; decoder: linear with bias,
sparse to dense. A *single switch* runs one model up to a site, crosses the bridge there and goes on in the other.

A bridge folder: bridge.json, bridge.safetensors, record.json, metrics.jsonl, and in `sparse/` the sparse model it was
trained with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line
from gossamer.models.files import read_object, read_safetensors, write_safetensors
from gossamer.models.hub import from_pretrained
from gossamer.models.kernels import abs_topk
from gossamer.models.loaded import LoadedModel
from gossamer.models.sparse import SparseTransformer

CONFIG, WEIGHTS, RECORD, SPARSE = "bridge.json", "bridge.safetensors", "record.json", "sparse"
FORMAT_VERSION = "1"


class BridgeShape(BaseModel):
    """Widths of the two residual streams, number of sites, and how many channels an encoder's AbsTopK keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["gossamer-bridge"] = "gossamer-bridge"
    d_sparse: int = Field(gt=0)
    d_dense: int = Field(gt=0)
    n_sites: int = Field(gt=0)
    k: int = Field(gt=0)


class Bridge(nn.Module):
    """Encoders and decoders of every site; all zeros until they are trained or fitted."""

    def __init__(self, shape: BridgeShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoders = nn.ModuleList(nn.Linear(shape.d_dense, shape.d_sparse) for _ in range(shape.n_sites))
        self.decoders = nn.ModuleList(nn.Linear(shape.d_sparse, shape.d_dense) for _ in range(shape.n_sites))
        for p in self.parameters():
            nn.init.zeros_(p)

    def maps(self, site: int) -> tuple[nn.Linear, nn.Linear]:
        """(encoder, decoder) of a site; weights [d_sparse, d_dense] and [d_dense, d_sparse]."""
        return cast(nn.Linear, self.encoders[site]), cast(nn.Linear, self.decoders[site])

    def encode(self, h: Tensor, site: int) -> Tensor:
        """Dense residual [..., d_dense] to sparse residual [..., d_sparse], at most k channels of it not zero."""
        return abs_topk(self.encoders[site](h), self.shape.k, inplace=True)

    def decode(self, x: Tensor, site: int) -> Tensor:
        """Sparse residual [..., d_sparse] to dense residual [..., d_dense]."""
        return cast(Tensor, self.decoders[site](x))


def identity_bridge(width: int, n_sites: int) -> Bridge:
    """Full width, k = d, identity matrices: between a model and itself it changes nothing."""
    bridge = Bridge(BridgeShape(d_sparse=width, d_dense=width, n_sites=n_sites, k=width))
    for site in range(n_sites):
        for linear in bridge.maps(site):
            nn.init.eye_(linear.weight)
    return bridge


def require_pair(sparse: LoadedModel, dense: LoadedModel) -> None:
    """BadInput unless the two models read the same tokens and have equal depth, vocabulary and context."""
    a, b = sparse.model.config, dense.model.config
    differ = [
        f"{name} {getattr(a, name)} and {getattr(b, name)}"
        for name in ("n_layer", "vocab_size", "n_ctx") if getattr(a, name) != getattr(b, name)
    ]  # fmt: skip
    if differ:
        raise BadInput(
            f"Expected two models of equal depth, vocabulary and context, {sparse.name} and {dense.name} have "
            f"{', '.join(differ)}; train a twin with `gossamer train --density 1 --data`."
        )
    if json.loads(sparse.tokenizer.to_str()) != json.loads(dense.tokenizer.to_str()):
        raise BadInput(
            f"Expected two models that share a tokenizer, those of {sparse.name} and {dense.name} differ; train a twin "
            "with `gossamer train --density 1 --data`."
        )
    for m in (sparse, dense):
        if bool(m.model.final_logits_bias.any()):
            raise Unsupported(f"a bridge to {m.name}", "it has an output bias", "a model of `gossamer train`")


def tails(model: SparseTransformer, starts: Sequence[Tensor]) -> Tensor:
    """Normalised final residuals [sites, batch, pos, d] of runs that start at site 0, 1, ... with `starts[site]`.

    The same as `model.tail(starts[site], site)` each; sublayers run once, on the runs that have begun by then.
    """
    x = starts[0]
    for site in range(model.n_sites):
        if site:
            x = torch.cat([x, starts[site]])
        x = model.sublayer(x, site)
    return cast(Tensor, model.ln_f(x).unflatten(0, (model.n_sites, -1)))


@dataclass(frozen=True, kw_only=True)
class BridgedPair:
    """A bridge with the two models it joins, each with its tokenizer and Record, and the bridge's own Record."""

    bridge: Bridge
    sparse: LoadedModel
    dense: LoadedModel
    record: dict[str, Any]

    def dense_to_sparse(self, tokens: Tensor, site: int) -> Tensor:
        """Logits [batch, pos, vocab]: the dense model up to `site`, encode, the sparse model from there."""
        x = self.bridge.encode(_up_to(self.dense.model, tokens, site), site)
        return self.sparse.model.unembed(self.sparse.model.tail(x, site), tokens)

    def sparse_to_dense(self, tokens: Tensor, site: int) -> Tensor:
        """Logits [batch, pos, vocab]: the sparse model up to `site`, decode, the dense model from there."""
        x = self.bridge.decode(_up_to(self.sparse.model, tokens, site), site)
        return self.dense.model.unembed(self.dense.model.tail(x, site), tokens)


def _up_to(model: SparseTransformer, tokens: Tensor, site: int) -> Tensor:
    if not 0 <= site < model.n_sites:
        raise BadInput(f"Expected a site of 0 to {model.n_sites - 1}, got {site}.")
    x = model.embed(tokens)
    for earlier in range(site):
        x = model.sublayer(x, earlier)
    return x


@torch.no_grad()
def least_squares(sparse: SparseTransformer, dense: SparseTransformer, batches: Iterable[Tensor]) -> Bridge:
    """The best linear maps with bias between two models' residuals, both ways, without ridge and without AbsTopK.

    batches: tokens [batch, pos]. Normal equations in float64 (pseudo-inverse, so dead channels are no trouble). The
    opponent a bridge must beat, and where its training starts.
    """
    n, d_sparse, d_dense = sparse.n_sites, sparse.config.d_model, dense.config.d_model
    width = d_sparse + d_dense + 1
    moments = torch.zeros(n, width, width, dtype=torch.float64, device=sparse.wte.weight.device)
    for tokens in batches:
        pairs = zip(sparse.residuals(tokens)[:n], dense.residuals(tokens)[:n], strict=True)
        for site, (s, d) in enumerate(pairs):
            rows = torch.cat([s, d, torch.ones_like(s[..., :1])], dim=-1).flatten(0, 1).double()
            moments[site].addmm_(rows.T, rows)
    found = Bridge(BridgeShape(d_sparse=d_sparse, d_dense=d_dense, n_sites=n, k=d_sparse)).to(sparse.wte.weight)
    at_sparse = torch.tensor([*range(d_sparse), width - 1])
    at_dense = torch.tensor([*range(d_sparse, width)])
    for site in range(n):
        for linear, given, wanted in zip(found.maps(site), (at_dense, at_sparse), (at_sparse, at_dense), strict=True):
            m = moments[site].cpu()
            solved = torch.linalg.pinv(m[given][:, given], hermitian=True) @ m[given][:, wanted[:-1]]
            linear.weight.copy_(solved[:-1].T)
            linear.bias.copy_(solved[-1])
    return found


def save_bridge(bridge: Bridge, folder: Path, *, record: dict[str, Any]) -> None:
    """Shape, weights and Record into an existing folder, beside the sparse model in `folder/sparse`."""
    (folder / CONFIG).write_text(bridge.shape.model_dump_json(indent=1), encoding="utf-8")
    write_safetensors(bridge.state_dict(), folder / WEIGHTS, {"format_version": FORMAT_VERSION})
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def load_bridge(folder: Path, *, dense: str | Path | None = None, device: str = "cpu") -> BridgedPair:
    """A bridge folder with both models. dense: where the dense model is now; default: where it was.

    Errors: BadInput for a folder that is no bridge, or models other than those the bridge was trained with (by hash);
    CorruptFile for a damaged file.
    """
    if not (folder / CONFIG).is_file():
        raise BadInput(f"Expected a bridge folder with {CONFIG} at {folder}; `gossamer bridge train` makes one.")
    try:
        shape = BridgeShape.model_validate(read_object(folder / CONFIG))
    except ValidationError as error:
        raise CorruptFile(f"{folder / CONFIG} is not a bridge's shape ({one_line(error)}); restore it.") from error
    tensors, meta = read_safetensors(folder / WEIGHTS)
    if meta.get("format_version") != FORMAT_VERSION:
        raise CorruptFile(f"{folder} has format version {meta.get('format_version')}, this Gossamer reads 1.")
    bridge = Bridge(shape)
    try:
        bridge.load_state_dict(tensors)
    except RuntimeError as error:
        raise CorruptFile(f"{folder / WEIGHTS} does not fit {CONFIG} ({one_line(error)}); restore it.") from error
    record = read_object(folder / RECORD)
    details = record.get("details", {})
    wanted = record.get("model_sha256"), details.get("dense_sha256")
    source = dense or details.get("dense_source")
    if not all(wanted) or not source:
        raise CorruptFile(f"{folder / RECORD} does not name the two models of the bridge; restore it.")
    pair = from_pretrained(folder / SPARSE, device), from_pretrained(source, device)
    for model, sha in zip(pair, wanted, strict=True):
        if model.hashes()[0] != sha:
            raise BadInput(
                f"Expected the model this bridge was trained with (weights {sha[:12]}), got {model.name} with weights "
                f"{model.hashes()[0][:12]}; give the dense model with --dense, or restore {folder / SPARSE}."
            )
    require_pair(*pair)
    widths = pair[0].model.config.d_model, pair[1].model.config.d_model, pair[0].model.n_sites
    if widths != (shape.d_sparse, shape.d_dense, shape.n_sites):
        raise CorruptFile(f"{folder / CONFIG} does not fit the models' widths and depth {widths}; restore it.")
    bridge = bridge.to(device).eval().requires_grad_(False)
    return BridgedPair(bridge=bridge, sparse=pair[0], dense=pair[1], record=record)


def error_and_variance(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of squared errors, and of squared deviations from the mean over all tokens; both over [..., d]."""
    mean = target.flatten(0, -2).mean(0)
    return (prediction - target).square().sum(), (target - mean).square().sum()


def nmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Error over variance about the token mean: 0 is exact, 1 is the best constant. Sums over tokens and channels."""
    error, variance = error_and_variance(prediction, target)
    return error / variance
