"""What is measured of a trained model before it is a model folder: its validation loss and its reference means."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gossamer.corpora.python_source import Corpus, standard_library
from gossamer.corpora.tokens import EXCERPT_WINDOWS, TokenFile, frozen_excerpt, tokenize_corpus
from gossamer.errors import BadInput
from gossamer.models.files import load_model, save_model
from gossamer.models.loaded import LoadedModel, Reference, model_sha256, reference_over
from gossamer.models.sparse import SparseTransformer
from gossamer.record import Record

MEAN_TOKENS = 262_144


@torch.no_grad()
def validation_loss(model: SparseTransformer, val: TokenFile, n_ctx: int, batch: int = 32) -> float:
    """Mean next-token cross-entropy in nats over all windows of the validation tokens."""
    device = next(model.parameters()).device
    total, n = 0.0, val.n_windows(n_ctx)
    for start in range(0, n, batch):
        w = val.windows(np.arange(start, min(start + batch, n)), n_ctx).to(device)
        total += float(model.loss(w[:, :-1], w[:, 1:])) * len(w)
    return total / n


def reference_means(
    model: SparseTransformer, text: TokenFile, n_ctx: int, excerpt: Tensor, n_tokens: int = MEAN_TOKENS
) -> Reference:
    """Mean of every node over text, taken after AbsTopK; windows spread evenly over the token file. The excerpt goes
    along as it is."""
    n = min(max(1, n_tokens // n_ctx), text.n_windows(n_ctx))
    chosen = np.linspace(0, text.n_windows(n_ctx) - 1, n).astype(np.int64)
    batches = (text.windows(chosen[start : start + 64], n_ctx)[:, :-1] for start in range(0, n, 64))
    return reference_over(model, batches, excerpt)


def with_means(model: LoadedModel, corpus: Corpus, out: Path) -> LoadedModel:
    """The model with reference means over a corpus and an excerpt of the standard library, as the model folder `out`.

    Errors: BadInput for a corpus shorter than one window.
    """
    n_ctx = model.model.config.n_ctx
    with tempfile.TemporaryDirectory() as scratch:
        text = tokenize_corpus(corpus, model.tokenizer, Path(scratch) / "text.npy", 4 * MEAN_TOKENS)
        if text.n_windows(n_ctx) < 1:
            raise BadInput(f"Expected at least {n_ctx + 1} tokens, {corpus.name} has {text.n_tokens}; add text.")
        excerpt = frozen_excerpt(standard_library(), model.tokenizer, EXCERPT_WINDOWS, n_ctx)
        reference = reference_means(model.model, text, n_ctx, excerpt)
    record = Record.now(
        method="means", config={"tokens": reference.n_tokens}, seed=0, model=model.name,
        model_sha256=model_sha256(model.model), means_sha256=reference.sha256(),
        details={"text": corpus.name, "file_list_sha256": corpus.file_list_hash(), "of": model.record},
    )  # fmt: skip
    save_model(
        model.model.cpu(), out, tokenizer=model.tokenizer, reference=reference, record=record.model_dump(mode="json")
    )
    return load_model(out)
