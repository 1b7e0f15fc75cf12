"""The text of a run as token files in its `.training` folder."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.corpora.python_source import (
    STANDARD_LIBRARY,
    Corpus,
    find_python_source,
    standard_library,
    text_folder,
)
from gossamer.corpora.tokenizer import save_tokenizer, train_tokenizer
from gossamer.corpora.tokens import EXCERPT_WINDOWS, TokenFile, frozen_excerpt, tokenize_corpus
from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.train.presets import TrainConfig
from gossamer.train.start import Start

VAL_TOKENS = 200_000


class Text(NamedTuple):
    """Tokens to train on and to validate on, an excerpt that may be shown, the tokenizer's folder, and what it was."""

    train: TokenFile
    val: TokenFile
    excerpt: Tensor
    folder: Path
    about: dict[str, Any]


def prepare_text(work: Path, start: Start, *, say: Callable[[str], None]) -> Text:
    """Find text, train the tokenizer, write token files into `work`; or reuse what is already there or in `data`.

    Text that is too short is BadInput, and then a folder `work` made here is removed again.
    """
    source, new = start.data or work, not work.exists()
    if not (source / "text.json").is_file():
        found = text_folder(start.corpus) if start.corpus else find_python_source()
        parts = found.split(seed=start.recipe.seed)
        say(f"text: {len(found.documents):,} files, {sum(found.packages().values()) / 1e6:.0f} MB")
        try:
            start.note(work)
            _tokenize(work, start.recipe, found, parts, start.corpus is not None, say)
        except BadInput:
            if new:
                shutil.rmtree(work)
            raise
    start.note(work)
    try:
        about = json.loads((source / "text.json").read_text(encoding="utf-8"))
        return Text(
            TokenFile(path=source / "train.npy", n_tokens=about["train_tokens"]),
            TokenFile(path=source / "val.npy", n_tokens=about["validation_tokens"]),
            torch.from_numpy(np.load(source / "excerpt.npy")), source, about,
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise CorruptFile(f"The text in {source} is damaged ({one_line(error)}); start the run again.") from error


def _tokenize(
    work: Path, config: TrainConfig, found: Corpus, parts: tuple[Corpus, Corpus], own: bool, say: Callable[[str], None]
) -> None:
    """Tokenizer, token files and excerpt of a corpus (`own`: the user's), and text.json last of all."""
    train_part, val_part = parts
    tokenizer = train_tokenizer(train_part, config.vocab_size, config.seed)
    save_tokenizer(tokenizer, work)
    said = time.perf_counter()

    def progress(done: int, total: int) -> None:
        nonlocal said
        if time.perf_counter() - said > 5:
            said = time.perf_counter()
            say(f"tokens: {done / 1e6:.1f} of at most {total / 1e6:.1f} million")

    train_file = tokenize_corpus(train_part, tokenizer, work / "train.npy", config.tokens, config.seed, progress)
    val_file = tokenize_corpus(val_part, tokenizer, work / "val.npy", VAL_TOKENS, config.seed)
    for name, file, least in (("training", train_file, config.batch_size), ("validation", val_file, 1)):
        if file.n_windows(config.n_ctx) < least:
            raise BadInput(
                f"Expected at least {least * config.n_ctx + 1:,} {name} tokens, {found.name} has {file.n_tokens:,}; "
                "add text, or lower --n-ctx or --batch-size."
            )
    shown = standard_library() if own else train_part.only(STANDARD_LIBRARY)
    excerpt = frozen_excerpt(shown, tokenizer, EXCERPT_WINDOWS, config.n_ctx, config.seed)
    np.save(work / "excerpt.npy", excerpt.numpy())
    about = {
        "corpus": found.name, "files": len(found.documents), "skipped": found.skipped,
        "file_list_sha256": found.file_list_hash(), "train_tokens": train_file.n_tokens,
        "validation_tokens": val_file.n_tokens, "validation_packages": sorted(val_part.packages()),
        "train_packages": dict(train_part.packages()),
    }  # fmt: skip
    (work / "text.json.partial").write_text(json.dumps(about, indent=1))
    os.replace(work / "text.json.partial", work / "text.json")
