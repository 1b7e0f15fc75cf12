"""Find a model by the name of one that ships with Gossamer, by folder, or on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gossamer.errors import BadInput, Unsupported, nearest
from gossamer.models.authors import is_authors_folder, load_authors_model
from gossamer.models.files import load_model
from gossamer.models.loaded import LoadedModel

if TYPE_CHECKING:
    from gossamer.models.huggingface import Decoder

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_WANTED = ["*.json", "*.safetensors", "*.jsonl"]


def shipped_models() -> dict[str, Path]:
    """The models inside this package: name -> folder."""
    root = Path(str(files("gossamer"))) / "shipped"
    return {p.name: p for p in sorted(root.iterdir()) if (p / "config.json").is_file()} if root.is_dir() else {}


def checked_device(device: str) -> str:
    """The device if this machine has it; BadInput otherwise."""
    kind, _, number = device.partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in count or not (number or "0").isdigit():
        raise BadInput(f"Unknown device {device!r}; use cpu, cuda, cuda:N or mps.")
    if int(number or 0) >= count[kind]:
        raise BadInput(f"Expected a device {device}, this machine has {count[kind] or 'none'} of that kind; use cpu.")
    return device


def from_pretrained(name_or_folder: str | Path, device: str = "cpu") -> LoadedModel:
    """A model by shipped name (`tiny`), by folder (ours or the authors' layout), or by Hub name (`owner/name`).

    A shipped name wins over a folder of that name (`./tiny` or a Path is the folder), a folder over a Hub name. Nothing
    is ever executed from a model folder. Errors: BadInput for a name that is none of these or a device that is not
    there, CorruptFile for a damaged folder.
    """
    checked_device(device)
    folder = Path(os.path.abspath(os.path.expanduser(name_or_folder)))
    text = name_or_folder if isinstance(name_or_folder, str) else str(folder)
    known = shipped_models()
    if text in known:
        found, source = load_model(known[text], name=text), text
    elif folder.is_dir():
        found, source = load_authors_model(folder) if is_authors_folder(folder) else load_model(folder), str(folder)
    elif _HUB_NAME.fullmatch(text):
        found, source = load_model(_download(text), name=text), text
    else:
        raise BadInput(
            f"Unknown model {text!r}: {nearest(text, known)} Or give a model folder or a Hub name owner/name."
        )
    found.model.to(device)
    return replace(found, source=source)


def any_model(name_or_folder: str | Path, device: str = "cpu", dtype: str = "float32") -> LoadedModel | Decoder:
    """A weight-sparse model as from_pretrained gives it, or the decoder in a Hugging Face folder or Hub repository.

    dtype: of a decoder. A bare name (gpt2) that is near none of the shipped ones is looked for on the Hub.
    """
    try:
        return from_pretrained(name_or_folder, device)
    except Unsupported:
        unknown = None
    except BadInput as error:
        text = str(name_or_folder)
        bare = re.fullmatch(r"[\w.-]+", text) and not Path(text).exists()
        if not bare or get_close_matches(text, shipped_models()):
            raise
        unknown = error
    from gossamer.models.huggingface import load_decoder

    try:
        return load_decoder(name_or_folder, device, dtype)
    except BadInput as error:
        raise (unknown or error) from error


def hub_answers(seconds: float = 5) -> bool:
    """Whether the Hub can be reached: one request, where a library's own would try for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception:  # of whichever client the library uses
        return False
    return True


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BadInput(
            f"Expected a model folder or a Hub model named {repo}; there is no such folder and the Hub did not give "
            f"one ({type(error).__name__}). Check the name and the connection, or download it and give the folder."
        ) from error


def push_to_hub(model: LoadedModel, repo: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload the model's folder to the Hub as it is on disk; returns the address of the commit.

    Errors: BadInput for a model that was not loaded from a folder of our layout.
    """
    from huggingface_hub import HfApi

    folder = Path(model.folder)
    if not model.folder or not (folder / "model.safetensors").is_file():
        raise BadInput(
            f"Expected a model loaded from a folder with model.safetensors, got {model.name}; save it first."
        )
    api = HfApi(token=token)
    api.create_repo(repo, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=_WANTED))
