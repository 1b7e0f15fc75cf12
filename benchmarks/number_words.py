"""Prompts of numbers, for models with random weights: benchmarks and tests read them from here."""

from __future__ import annotations


class Numbers:
    """A tokenizer of numbers in words of their own."""

    bos_token_id = None

    def __call__(self, text: str) -> Numbers:
        self.input_ids = self.encode(text)
        return self

    def encode(self, sequence: str, *, add_special_tokens: bool = True) -> list[int]:
        return [int(w) for w in sequence.split() if w.isdigit()]
