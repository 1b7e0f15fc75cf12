"""The text of a run as token files in its `.training` folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
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
from gossamer.train.start import ModelStart
from gossamer.whole_file import write_whole

VAL_TOKENS = 200_000


class Text(NamedTuple):
    """Tokens to train on and to validate on, an excerpt that may be shown, the tokenizer's folder, and what it was."""

    train: TokenFile
    val: TokenFile
    excerpt: Tensor
    folder: Path
    about: dict[str, Any]


def prepare_text(work: Path, start: ModelStart, *, say: Callable[[str], None]) -> Text:
    """Find text, train the tokenizer, write token files into `work`; or reuse what is already there or in `data`.

    Text that is too short is BadInput, and then a folder `work` made here is removed again.
    """
    source, new, config = start.data or work, not work.exists(), start.recipe
    if not (source / "text.json").is_file():
        found, parts = find_text(start.corpus, config.seed, say)
        try:
            start.note(work)
            tokenizer = train_tokenizer(parts[0], config.vocab_size, config.seed)
            tokenize_text(
                work, tokenizer, found, parts, tokens=config.tokens, n_ctx=config.n_ctx, batch_size=config.batch_size,
                seed=config.seed, own=start.corpus is not None, say=say,
            )  # fmt: skip
        except BadInput:
            if new:
                shutil.rmtree(work)
            raise
    start.note(work)
    return read_text(source)


def find_text(corpus: Path | None, seed: int, say: Callable[[str], None]) -> tuple[Corpus, tuple[Corpus, Corpus]]:
    """The text of a folder, or this machine's Python source: all of it, and its training and validation parts."""
    found = text_folder(corpus) if corpus else find_python_source()
    parts = found.split(seed=seed)
    say(f"text: {len(found.documents):,} files, {sum(found.packages().values()) / 1e6:.0f} MB")
    return found, parts


def read_text(source: Path) -> Text:
    """The token files that `tokenize_text` wrote into a folder; damaged ones are CorruptFile."""
    try:
        about = json.loads((source / "text.json").read_text(encoding="utf-8"))
        return Text(
            TokenFile(path=source / "train.npy", n_tokens=about["train_tokens"]),
            TokenFile(path=source / "val.npy", n_tokens=about["validation_tokens"]),
            torch.from_numpy(np.load(source / "excerpt.npy")), source, about,
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise CorruptFile(f"The text in {source} is damaged ({one_line(error)}); start the run again.") from error


def tokenize_text(
    work: Path, tokenizer: Tokenizer, found: Corpus, parts: tuple[Corpus, Corpus], *, tokens: int, n_ctx: int,
    batch_size: int, seed: int, own: bool, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Tokenizer, token files and excerpt of a corpus (`own`: the user's), and text.json last of all."""
    train_part, val_part = parts
    save_tokenizer(tokenizer, work)
    said = time.perf_counter()

    def progress(done: int, total: int) -> None:
        nonlocal said
        if time.perf_counter() - said > 5:
            said = time.perf_counter()
            say(f"tokens: {done / 1e6:.1f} of at most {total / 1e6:.1f} million")

    train_file = tokenize_corpus(train_part, tokenizer, work / "train.npy", tokens, seed, progress)
    val_file = tokenize_corpus(val_part, tokenizer, work / "val.npy", VAL_TOKENS, seed)
    for name, file, least in (("training", train_file, batch_size), ("validation", val_file, 1)):
        if file.n_windows(n_ctx) < least:
            raise BadInput(
                f"Expected at least {least * n_ctx + 1:,} {name} tokens, {found.name} has {file.n_tokens:,}; "
                "add text, or lower --n-ctx or --batch-size."
            )
    shown = standard_library() if own else train_part.only(STANDARD_LIBRARY)
    excerpt = frozen_excerpt(shown, tokenizer, EXCERPT_WINDOWS, n_ctx, seed)
    np.save(work / "excerpt.npy", excerpt.numpy())
    about = {
        "corpus": found.name, "files": len(found.documents), "skipped": found.skipped,
        "file_list_sha256": found.file_list_hash(), "train_tokens": train_file.n_tokens,
        "validation_tokens": val_file.n_tokens, "validation_packages": sorted(val_part.packages()),
        "train_packages": dict(train_part.packages()),
    }  # fmt: skip
    write_whole(json.dumps(about, indent=1), work / "text.json")
