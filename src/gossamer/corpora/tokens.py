"""A corpus as one array of token ids, and batches whose order is a pure function of (seed, step)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from gossamer.corpora.python_source import Corpus
from gossamer.corpora.tokenizer import END_OF_TEXT
from gossamer.errors import BadInput
from gossamer.whole_file import whole_file

EXCERPT_WINDOWS = 96


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """Token ids on disk (memory-mapped), cut into non-overlapping windows of n_ctx + 1."""

    path: Path
    n_tokens: int

    def _array(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")

    def n_windows(self, n_ctx: int) -> int:
        return (self.n_tokens - 1) // n_ctx

    def windows(self, which: np.ndarray, n_ctx: int) -> Tensor:
        """int64 [len(which), n_ctx + 1]; neighbouring windows share the one boundary token."""
        ids = self._array()
        return torch.from_numpy(np.stack([ids[w * n_ctx : w * n_ctx + n_ctx + 1] for w in which]).astype(np.int64))

    def batch(self, step: int, batch_size: int, n_ctx: int, seed: int) -> Tensor:
        """Batch number `step` of an endless sequence of seeded epochs: the same numbers whoever asks, and when."""
        per_epoch = self.n_windows(n_ctx) // batch_size
        if per_epoch == 0:
            raise BadInput(
                f"Expected at least {batch_size * n_ctx + 1} tokens for one batch, the corpus has {self.n_tokens}; "
                "add text or lower the batch size."
            )
        epoch, place = divmod(step, per_epoch)
        order = _epoch_order(seed, epoch, self.n_windows(n_ctx))
        return self.windows(order[place * batch_size : (place + 1) * batch_size], n_ctx)


@functools.lru_cache(maxsize=1)
def _epoch_order(seed: int, epoch: int, n_windows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n_windows)


def tokenize_corpus(
    corpus: Corpus,
    tokenizer: Tokenizer,
    out: Path,
    max_tokens: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TokenFile:
    """Encode documents in a seeded order, each after <|endoftext|>, until `max_tokens`; written whole or not at all."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    before = [] if end is None else [end]
    pieces: list[np.ndarray] = []
    total = 0
    for texts in _batches(corpus, seed):
        for encoded in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids = np.asarray(
                [*before, *encoded.ids], dtype=np.uint16 if tokenizer.get_vocab_size() < 65536 else np.uint32
            )
            pieces.append(ids)
            total += len(ids)
        if progress:
            progress(min(total, max_tokens), max_tokens)
        if total >= max_tokens:
            break
    joined = np.concatenate(pieces)[:max_tokens]
    with whole_file(out) as partial, partial.open("wb") as file:
        np.save(file, joined)
    return TokenFile(path=out, n_tokens=len(joined))


def _batches(corpus: Corpus, seed: int, size: int = 64) -> Iterator[list[str]]:
    documents = sorted(corpus.documents, key=lambda d: hashlib.sha256(f"{seed} order {d.name}".encode()).digest())
    for start in range(0, len(documents), size):
        yield [d.text() for d in documents[start : start + size]]


def frozen_excerpt(corpus: Corpus, tokenizer: Tokenizer, n_windows: int, n_ctx: int, seed: int = 0) -> Tensor:
    """int64 [n_windows, n_ctx] of standard-library text, one window per document: what pages may show."""
    end = int(tokenizer.token_to_id(END_OF_TEXT) or 0)
    rows: list[list[int]] = []
    rng = np.random.default_rng(seed)
    for texts in _batches(corpus, seed + 1):
        for encoded in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids: list[int] = [end, *encoded.ids]
            if len(ids) >= n_ctx and len(rows) < n_windows:
                start = int(rng.integers(0, len(ids) - n_ctx + 1))
                rows.append(ids[start : start + n_ctx])
        if len(rows) == n_windows:
            break
    return torch.tensor(rows, dtype=torch.int64)
