"""A model folder: config.json, model.safetensors (sparse matrices stored sparse), tokenizer, reference means, excerpt.

A matrix with fewer than half its weights non-zero is stored as three arrays: `NAME.row_counts`, `NAME.columns` (the
smallest unsigned type that fits) and `NAME.values`; a bigram table that is exactly 8 bits per entry (quantise.py), as
`NAME.codes` and `NAME.exponents`. Both lose nothing. Loading checks every array before any of it is used. Every
safetensors file has a hash of its content in its metadata (circuit.py, `sealed`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from gossamer.circuit import check_seal, sealed
from gossamer.corpora.tokenizer import load_tokenizer, save_tokenizer
from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line
from gossamer.models.loaded import LoadedModel, Reference, weights_of
from gossamer.models.quantise import from_rounded_rows, rounded_rows
from gossamer.models.sparse import SparseConfig, SparseTransformer
from gossamer.record import Record
from gossamer.whole_file import whole_file, whole_folder

CONFIG, WEIGHTS, RECORD = "config.json", "model.safetensors", "record.json"
FORMAT_VERSION = "1"
_Config = TypeVar("_Config", bound=BaseModel)
MODEL_TYPE = "gossamer-sparse"
_SPARSE = (".row_counts", ".columns", ".values")
_ROUNDED = (".codes", ".exponents")


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace every mostly-zero matrix by its three arrays, a rounded bigram table by its two; the rest unchanged."""
    packed: dict[str, Tensor] = {}
    for name, t in tensors.items():
        t = t.detach().cpu().contiguous()
        if name == "bigram_table" and t.dtype == torch.float32:
            rounded = rounded_rows(t)
            if torch.equal(from_rounded_rows(*rounded), t):
                packed |= {name + part: array for part, array in zip(_ROUNDED, rounded, strict=True)}
                continue
        if t.ndim != 2 or int(t.count_nonzero()) * 2 >= t.numel():
            packed[name] = t
            continue
        rows, columns = t.nonzero(as_tuple=True)
        width = np.uint8 if t.shape[1] <= 2**8 else np.uint16 if t.shape[1] <= 2**16 else np.uint32
        packed[name + ".row_counts"] = torch.bincount(rows, minlength=t.shape[0]).to(torch.int32)
        packed[name + ".columns"] = torch.from_numpy(columns.numpy().astype(width))
        packed[name + ".values"] = t[rows, columns]
    return packed


def unpack(packed: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], where: Path) -> dict[str, Tensor]:
    """The inverse of `pack` for tensors of known shapes; anything that does not fit is CorruptFile."""
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, shape in shapes.items():
        if name in packed:
            t = packed[name]
            used.add(name)
            if t.shape != shape:
                raise CorruptFile(f"{where}: {name} has shape {tuple(t.shape)}, the config says {tuple(shape)}.")
            found[name] = t
            continue
        if name + _ROUNDED[0] in packed and name + _ROUNDED[1] in packed:
            codes, exponents = (packed[name + part] for part in _ROUNDED)
            if codes.shape != shape or exponents.shape != shape[:1] or {codes.dtype, exponents.dtype} != {torch.int8}:
                raise CorruptFile(f"{where}: the codes and exponents of {name} do not fit shape {tuple(shape)}.")
            used |= {name + part for part in _ROUNDED}
            found[name] = from_rounded_rows(codes, exponents)
            continue
        parts = [packed.get(name + part) for part in _SPARSE]
        if any(p is None for p in parts):
            raise CorruptFile(f"{where} lacks the weights of {name}; save the model again.")
        counts, columns, values = (p.numpy() for p in parts if p is not None)
        used |= {name + part for part in _SPARSE}
        fits = len(counts) == shape[0] and int(counts.sum()) == len(columns) == len(values) and (counts >= 0).all()
        if not fits or (len(columns) and int(columns.max()) >= shape[1]):
            raise CorruptFile(f"{where}: the sparse arrays of {name} do not fit shape {tuple(shape)}.")
        full = np.zeros(tuple(shape), dtype=values.dtype)
        full[np.repeat(np.arange(shape[0]), counts), columns] = values
        found[name] = torch.from_numpy(full)
    if extra := set(packed) - used:
        raise CorruptFile(f"{where} holds tensors the config does not know: {', '.join(sorted(extra)[:5])}.")
    return found


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a whole file; a missing file is BadInput, a damaged one CorruptFile."""
    if not path.is_file():
        raise BadInput(f"Expected a file at {path}, found none.")
    try:
        with safe_open(path, framework="pt") as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            meta = dict(f.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        what = one_line(error)
        raise CorruptFile(f"{path} is damaged ({what}); nothing was loaded, restore or make it again.") from error
    check_seal(_bytes_of(tensors), meta, path)
    return tensors, meta


def _bytes_of(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The raw bytes of tensors of any dtype, under their names, shapes and dtypes."""
    return {
        f"{name} {tuple(t.shape)} {t.dtype}": t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        for name, t in tensors.items()
    }


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write under a temporary name, flush to disk, rename: a kill leaves the old file or the new one."""
    meta = sealed(_bytes_of(tensors), metadata)
    with whole_file(path) as partial:
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=meta)
        with open(partial, "rb") as f:
            os.fsync(f.fileno())


def save_model(
    model: SparseTransformer, folder: Path, *, tokenizer: Tokenizer | None, reference: Reference | None,
    record: Mapping[str, Any], extra: Mapping[str, Path] = {},
) -> Path:  # fmt: skip
    """Write a model folder under a temporary name and rename it; an existing model folder is replaced whole.

    extra: name in the folder -> file to copy there. Errors: BadInput for an existing `folder` that is not a model's.
    """
    with whole_folder(folder, "model folder", holds=CONFIG) as work:
        for name, file in extra.items():
            shutil.copyfile(file, work / name)
        (work / CONFIG).write_text(model.config.model_dump_json(indent=1), encoding="utf-8")
        weights = pack(weights_of(model))
        write_safetensors(weights, work / WEIGHTS, {"format_version": FORMAT_VERSION})
        if tokenizer is not None:
            save_tokenizer(tokenizer, work)
        if reference is not None:
            meta = {"format_version": FORMAT_VERSION, "n_tokens": str(reference.n_tokens)}
            tensors = {f"mean.{k}": v for k, v in reference.means.items()} | {"excerpt": reference.excerpt}
            write_safetensors(tensors, work / "reference.safetensors", meta)
        (work / RECORD).write_text(json.dumps(dict(record), indent=1), encoding="utf-8")
    return folder


def write_parts(
    folder: Path, config: BaseModel, tensors: Mapping[str, Tensor], record: Record, *, weights: str = WEIGHTS
) -> None:
    """What every folder of a small model holds, into an empty folder: its configuration, tensors and Record."""
    (folder / CONFIG).write_text(config.model_dump_json(indent=1), encoding="utf-8")
    write_safetensors(tensors, folder / weights, {"format_version": FORMAT_VERSION})
    (folder / RECORD).write_text(json.dumps(record.model_dump(mode="json"), indent=1), encoding="utf-8")


def read_parts(
    folder: Path, kind: type[_Config], what: str, *, weights: str = WEIGHTS
) -> tuple[_Config, dict[str, Tensor], Record]:
    """The inverse of write_parts; CorruptFile for a folder that is not a whole one of `what`."""
    try:
        config = kind.model_validate(read_object(folder / CONFIG))
        record = Record.model_validate(read_object(folder / RECORD))
    except ValidationError as error:
        raise CorruptFile(f"{folder} is not a whole {what} ({one_line(error)}); restore it.") from error
    tensors, meta = read_safetensors(folder / weights)
    if (version := meta.get("format_version")) != FORMAT_VERSION:
        raise CorruptFile(f"{folder / weights} has format version {version}, this Gossamer reads {FORMAT_VERSION}.")
    return config, tensors, record


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; CorruptFile for a file that is anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{path} cannot be read as JSON ({one_line(error)}); restore it or make it again.") from error
    if not isinstance(found, dict):
        raise CorruptFile(
            f"Expected a JSON object in {path}, got a {type(found).__name__}; restore it or make it again."
        )
    return found


def _config_of(folder: Path) -> SparseConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise BadInput(f"Expected a model folder with config.json at {folder}; `gossamer train` writes one.")
    given = read_object(path)
    kind, ours = given.get("model_type", MODEL_TYPE), MODEL_TYPE
    if kind != ours:
        raise Unsupported(
            f"the model_type {kind!r} of {path} here", f"this works on {ours}",
            "a model of `gossamer train`; circuits of a Hugging Face decoder: gossamer discover eap, eap-ig or acdc",
        )  # fmt: skip
    if "architectures" in given:
        raise Unsupported(
            f"the Hugging Face folder {folder}", "it has neither reference means nor sparse weights",
            "the model folder that `gossamer export` made it from, or transformers.AutoModelForCausalLM",
        )  # fmt: skip
    try:
        return SparseConfig.model_validate(given)
    except ValidationError as error:
        raise CorruptFile(f"{path} is not a config of {MODEL_TYPE} ({one_line(error)}); restore it.") from error


def load_weights(folder: Path) -> SparseTransformer:
    """The model of a folder, checked against its config; see `load_model` for the rest of the folder."""
    config = _config_of(folder)
    tensors, meta = read_safetensors(folder / "model.safetensors")
    if meta.get("format_version") != FORMAT_VERSION:
        raise CorruptFile(f"{folder} has format version {meta.get('format_version')}, this Gossamer reads 1.")
    model = SparseTransformer(config, seed=None)
    tensors.setdefault("final_logits_bias", model.final_logits_bias)
    shapes = {k: v.shape for k, v in model.state_dict().items()} | {"final_logits_bias": model.final_logits_bias.shape}
    weights = unpack(tensors, shapes, folder / "model.safetensors")
    model.final_logits_bias.copy_(weights.pop("final_logits_bias"))
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def require_tokenizer_of(tokenizer: Tokenizer, config: SparseConfig, folder: Path) -> None:
    """BadInput for a tokenizer with tokens that the model has no embedding for."""
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise BadInput(
            f"Expected a tokenizer of at most {config.vocab_size} tokens in {folder}, it has "
            f"{tokenizer.get_vocab_size()}; copy the tokenizer the model was trained with."
        )


def load_model(folder: Path, name: str | None = None) -> LoadedModel:
    """Everything in a model folder. A missing tokenizer is BadInput; missing reference means are None."""
    _config_of(folder)  # first, so that another library's folder is told what it is and not what it lacks
    tokenizer = load_tokenizer(folder)
    model = load_weights(folder)
    require_tokenizer_of(tokenizer, model.config, folder)
    reference = _load_reference(folder / "reference.safetensors", model.config)
    record = folder / "record.json"
    return LoadedModel(
        name=name or folder.name,
        model=model,
        tokenizer=tokenizer,
        reference=reference,
        record=read_object(record) if record.is_file() else {},
        folder=str(folder),
    )


def _load_reference(path: Path, config: SparseConfig) -> Reference | None:
    if not path.is_file():
        return None
    tensors, meta = read_safetensors(path)
    means = {location: tensors.get(f"mean.{location}") for location, _ in config.locations()}
    for location, width in config.locations():
        mean = means[location]
        if mean is None or mean.shape != (width,):
            raise CorruptFile(f"{path} lacks the {width} reference means of {location}; compute them again.")
    kept = {k: v for k, v in means.items() if v is not None}
    excerpt, n_tokens = tensors.get("excerpt"), meta.get("n_tokens", "")
    if excerpt is None or excerpt.ndim != 2 or excerpt.dtype != torch.int64 or not n_tokens.isdecimal():
        raise CorruptFile(f"{path} lacks its excerpt of tokens or the number n_tokens; compute the means again.")
    return Reference(means=kept, n_tokens=int(n_tokens), excerpt=excerpt)
