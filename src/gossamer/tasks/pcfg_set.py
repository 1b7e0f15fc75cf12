"""The ten string edits of PCFG SET (Hupkes et al. 2020, arXiv 1908.08351), for encoder-decoder models; our generator.

A source is an operation and its one or two strings, in prefix form, a comma between two strings; the answer is the
edited string. `evaluate` reads nested sources too; `edits` draws single ones, as Mondorf et al. 2025 (arXiv 2410.01434)
study each operation by itself: strings of 2 to 5 of 26 letters.

When it lies: an edit is in one split only, but its string may be in the other split of another operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import BadInput, nearest

String = tuple[str, ...]

UNARY: dict[str, Callable[[String], String]] = {
    "copy": lambda x: x,
    "reverse": lambda x: x[::-1],
    "shift": lambda x: x[1:] + x[:1],
    "swap_first_last": lambda x: x[-1:] + x[1:-1] + x[:1] if len(x) > 1 else x,
    "repeat": lambda x: x + x,
    "echo": lambda x: x + x[-1:],
}
BINARY: dict[str, Callable[[String, String], String]] = {
    "append": lambda x, y: x + y,
    "prepend": lambda x, y: y + x,
    "remove_first": lambda x, y: y,
    "remove_second": lambda x, y: x,
}
OPERATIONS = (*UNARY, *BINARY)
PAD, BOS, EOS, COMMA = 0, 1, 2, 3


@dataclass(frozen=True)
class Edit:
    """One operation on one or two strings of letters."""

    operation: str
    strings: tuple[String, ...]

    @property
    def source(self) -> str:
        """As PCFG SET writes it: `append A B , C`."""
        return f"{self.operation} {' , '.join(' '.join(s) for s in self.strings)}"

    @property
    def answer(self) -> String:
        return apply(self.operation, self.strings)


def arity(operation: str) -> int:
    """How many strings an operation takes, 1 or 2; an unknown one is BadInput."""
    if operation not in OPERATIONS:
        raise BadInput(f"Unknown operation {operation!r}: {nearest(operation, OPERATIONS)}")
    return 1 if operation in UNARY else 2


def apply(operation: str, strings: Sequence[String]) -> String:
    """The operation's answer."""
    if len(strings) != (n := arity(operation)):
        raise BadInput(f"Expected {n} string{'s' * (n > 1)} for {operation}, got {len(strings)}.")
    return UNARY[operation](strings[0]) if n == 1 else BINARY[operation](strings[0], strings[1])


def evaluate(source: str) -> String:
    """The answer of a source, which may be nested: `reverse append A B , repeat C`. BadInput for what is none."""
    tokens = source.split()
    answer, read = _read(tokens, 0)
    if read < len(tokens):
        raise BadInput(f"Expected one expression, got {source!r} with {' '.join(tokens[read:])!r} after its end.")
    return answer


def _read(tokens: Sequence[str], at: int) -> tuple[String, int]:
    """(answer of the expression that starts at a token, where it ends)"""
    if at < len(tokens) and tokens[at] in UNARY:
        first, end = _read(tokens, at + 1)
        return apply(tokens[at], [first]), end
    if at < len(tokens) and tokens[at] in BINARY:
        first, end = _read(tokens, at + 1)
        if end == len(tokens):
            raise BadInput(f"Expected a comma and a second string for {tokens[at]}, got the end of the source.")
        second, last = _read(tokens, end + 1)
        return apply(tokens[at], [first, second]), last
    end = at
    while end < len(tokens) and tokens[end] != "," and tokens[end] not in OPERATIONS:
        end += 1
    if end == at:
        raise BadInput(f"Expected an operation or a string at token {at} of {' '.join(tokens)!r}, got none.")
    return tuple(tokens[at:end]), end


def told_apart(edit: Edit, other: str) -> list[bool]:
    """Per token of an edit's answer and its end: would the operation `other` on the same source have another one there?

    As Mondorf et al. have it: one with a single string edits both strings joined, one with two gets an empty second.
    Past the end of the other's answer every token is told apart.
    """
    strings = (sum(edit.strings, ()),) if arity(other) == 1 else (*edit.strings, ())[:2]
    mine, its = (*edit.answer, "<eos>"), (*apply(other, strings), "<eos>")
    return [i >= len(its) or token != its[i] for i, token in enumerate(mine)]


def letter_names(letters: int) -> String:
    """The names of the first so many letters, at most 26."""
    return tuple(chr(ord("A") + i) for i in range(letters))


def vocabulary(letters: int = 26) -> tuple[str, ...]:
    """Every token's name, by its number: padding, start, end, comma, the ten operations, the letters."""
    return ("<pad>", "<bos>", "<eos>", ",", *OPERATIONS, *letter_names(letters))


def edits(
    operation: str, n: int, *, seed: int = 0, letters: int = 26, shortest: int = 2, longest: int = 5
) -> list[Edit]:  # fmt: skip
    """n different edits, lengths and letters uniform up to repeats (which are drawn again): a function of the seed.

    BadInput where there are not so many.
    """
    if not (1 <= shortest <= longest and 1 <= letters <= 26):
        raise BadInput(f"Expected lengths of 1 or more and 1 to 26 letters, got {shortest} to {longest}, {letters}.")
    strings = arity(operation)
    there_are = sum(letters**k for k in range(shortest, longest + 1)) ** strings
    if not 0 < n <= there_are:
        raise BadInput(f"Expected 1 to {there_are} edits of {operation} with such strings, got {n}; draw fewer.")
    rng, names = np.random.default_rng([seed, OPERATIONS.index(operation)]), letter_names(letters)
    found: dict[Edit, None] = {}
    while len(found) < n:
        lengths = rng.integers(shortest, longest + 1, size=(n, strings))
        drawn = rng.integers(0, letters, size=(n, strings, longest))
        for i in range(n):
            parts = tuple(
                tuple(names[c] for c in row[:k]) for k, row in zip(lengths[i].tolist(), drawn[i].tolist(), strict=True)
            )
            found[Edit(operation, parts)] = None
            if len(found) == n:
                break
    return list(found)


def split(drawn: Sequence[Edit], held_out: float = 0.2) -> tuple[list[Edit], list[Edit]]:
    """(training, held-out) edits, the last share of those drawn being held out."""
    cut = len(drawn) - round(held_out * len(drawn))
    return list(drawn[:cut]), list(drawn[cut:])


class EncodedEdits(NamedTuple):
    """Sources [n, pos] and answers [n, pos] as token numbers, int64; both end in EOS, padding follows."""

    source: Tensor
    answer: Tensor

    def rows(self, which: Tensor | slice) -> EncodedEdits:
        return EncodedEdits(self.source[which], self.answer[which])


def encode(given: Sequence[Edit], letters: int = 26) -> EncodedEdits:
    """Edits as tokens, padded to the longest of them."""
    number = {name: i for i, name in enumerate(vocabulary(letters))}
    try:
        sources = [[number[t] for t in e.source.split()] for e in given]
        answers = [[number[t] for t in e.answer] for e in given]
    except KeyError as error:
        raise BadInput(f"Expected letters A to {letter_names(letters)[-1]}, got {error}.") from error
    return EncodedEdits(_padded(sources), _padded(answers))


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    out = torch.full((len(rows), 1 + max(map(len, rows), default=0)), PAD)
    for i, row in enumerate(rows):
        out[i, : len(row) + 1] = torch.tensor([*row, EOS])
    return out


def decode(row: Sequence[int] | Tensor, letters: int = 26) -> String:
    """The tokens' names up to the first <eos>."""
    names = vocabulary(letters)
    out: list[str] = []
    for token in row:
        if token == EOS:
            break
        out.append(names[int(token)])
    return tuple(out)
