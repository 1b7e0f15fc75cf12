"""Random decoders with a tokenizer of numbers, and pairs of random numbers, for the tests of patching."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from zoo import decoder

from gossamer.models.huggingface import Decoder, decoder_of
from gossamer.task import Encoded, Example, Task

EXACT = {"gpt2", "falcon", "falcon alibi", "gpt_neox", "opt", "phi", "stablelm", "stablelm parallel"}  # no rounded norm


class Numbers:
    """A tokenizer of numbers in words of their own."""

    bos_token_id = None

    def __call__(self, text: str) -> Numbers:
        self.input_ids = self.encode(text)
        return self

    def encode(self, sequence: str, *, add_special_tokens: bool = True) -> list[int]:
        return [int(w) for w in sequence.split() if w.isdigit()]


def made(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Decoder:
    return decoder_of(decoder(name, **changes).to(dtype), Numbers(), name)


def number_pairs(first_difference: int = 2, length: int = 7, n: int = 3) -> Task:
    """Pairs of random numbers that agree up to a place; the second pair is shorter."""
    rng = np.random.default_rng(0)

    def pair(i: int) -> Example:
        one = rng.integers(2, 64, length - 2 * (i == 1))
        other = one.copy()
        other[first_difference:] = rng.integers(2, 64, len(one) - first_difference)
        one, other = (" ".join(map(str, x)) for x in (one, other))
        return Example(clean=one, counterfactual=other, answer=" 5", wrong_answer=" 9")

    return Task(name="t", version="1", description="", train=tuple(map(pair, range(n))), heldout=(pair(0),))


def gap(batch: Encoded, logits: torch.Tensor) -> np.ndarray:
    """Right minus wrong answer's logit, [rows]."""
    rows = torch.arange(len(logits))
    return (logits[rows, batch.answer] - logits[rows, batch.wrong]).numpy()
