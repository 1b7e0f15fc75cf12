"""What of a model travels in the offline page, so that the page can run it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import numpy as np
from tokenizers import Tokenizer

from gossamer.corpora.tokenizer import PATTERN, untrained_tokenizer
from gossamer.models import LoadedModel
from gossamer.models.files import pack
from gossamer.models.loaded import weights_of
from gossamer.models.sparse import ALL_PLACES
from gossamer.show import bundle as view

MOST_BYTES = 3 * 2**20  # of a model in a page, as text


def page_model(model: LoadedModel) -> view.PageModel | None:
    """The model as it travels in a page; None for one of more than MOST_BYTES, without reference means, or with a
    tokenizer that is not byte-level BPE: a server runs those."""
    tokenizer = page_tokenizer(model.tokenizer, model.bos)
    if tokenizer is None or model.reference is None:
        return None
    weights = pack({k: t.float() for k, t in weights_of(model.model).items()})
    means = {f"mean.{k}": t for k, t in model.reference.means.items()}
    arrays = {k: t.cpu().numpy() for k, t in (weights | means).items()}
    if sum(a.nbytes for a in arrays.values()) * 4 / 3 > MOST_BYTES:
        return None
    c = model.model.config
    return view.PageModel(
        config=view.PageConfig(
            vocab_size=c.vocab_size, n_ctx=c.n_ctx, n_layer=c.n_layer, d_model=c.d_model, d_pos=c.d_pos,
            n_head=c.n_head, d_head=c.d_head, d_mlp=c.d_mlp, kept={place: c.kept(place) for place in ALL_PLACES},
            activation=c.activation, position=c.position, bias=c.bias,
        ),
        tokenizer=tokenizer, arrays=_packed(arrays),
    )  # fmt: skip


def _packed(arrays: Mapping[str, np.ndarray]) -> tuple[view.PageArray, ...]:
    return tuple(
        view.PageArray.model_validate({
            "name": name, "dtype": a.dtype.name, "shape": a.shape,
            "base64": base64.b64encode(a.astype(a.dtype.newbyteorder("<")).tobytes()).decode("ascii"),
        })
        for name, a in arrays.items()
    )  # fmt: skip


def page_tokenizer(tokenizer: Tokenizer, bos: int | None) -> view.PageTokenizer | None:
    """The tokenizer as the page reads it; None unless it is one that corpora/tokenizer.py could have made."""
    found, expected = (json.loads(t.to_str()) for t in (tokenizer, untrained_tokenizer()))
    added = found.pop("added_tokens")
    vocab, merges = (found["model"].pop(part, None) for part in ("vocab", "merges"))
    for part in ("vocab", "merges"):
        expected["model"].pop(part)
    expected.pop("added_tokens")
    if found != expected or any(a["lstrip"] or a["rstrip"] or a["single_word"] for a in added):
        return None
    by_id = {number: token for token, number in vocab.items()} | {a["id"]: a["content"] for a in added}
    if sorted(by_id) != list(range(len(by_id))):
        return None
    return view.PageTokenizer(
        pattern=PATTERN, vocab=tuple(by_id[i] for i in range(len(by_id))), special=tuple(a["id"] for a in added),
        merges=tuple((vocab[a], vocab[b]) for a, b in merges), bos=bos,
    )  # fmt: skip
