"""A task: minimal pairs of prompts with one-token answers, in disjoint train and held-out splits.

Generators know no tokenizer: a task is the same pairs for every model, under one version. Where some answers are not
one token of a model, `fitting` keeps the pairs that the model can be asked, tells how many it left out, in the task and
in its version, and refuses a task of which too little is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gossamer.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

MIN_FITTING = 64  # pairs of a split that have to fit: with fewer, an accuracy has a standard error of over 6.2 points


class TextTokenizer(Protocol):
    """What a task needs of a tokenizer: that of the `tokenizers` library fits as it is."""

    def encode(self, sequence: str, *, add_special_tokens: bool = ...) -> object: ...


@dataclass(frozen=True, kw_only=True)
class Example:
    """A minimal pair. `answer` continues `clean`, `wrong_answer` continues `counterfactual`; each is one token.

    line: where it stands in a user's file; 0 for a generated pair.
    """

    clean: str
    counterfactual: str
    answer: str
    wrong_answer: str
    template: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Examples in two disjoint splits: circuits are found on `train`, every reported number is on `heldout`.

    ood: further held-out splits by name, each unlike the training pairs in one respect.
    version changes whenever the templates or the words do. left_out: per split, how many pairs `fitting` removed.
    """

    name: str
    version: str
    description: str
    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    ood: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


class Encoded(NamedTuple):
    """Pairs as tokens. Row 2i is pair i's clean prompt, row 2i + 1 its counterfactual prompt.

    tokens: int64 [2 pairs, pos], right-padded; last: [2 pairs] position of each prompt's last token; answer, wrong:
    [2 pairs] token ids, `answer` being the right one of its own row.
    """

    tokens: Tensor
    last: Tensor
    answer: Tensor
    wrong: Tensor

    @property
    def n_pairs(self) -> int:
        return len(self.tokens) // 2

    def pairs(self, start: int, stop: int) -> Encoded:
        """Pairs start to stop, cut to the longest of their prompts."""
        rows = slice(2 * start, 2 * stop)
        longest = int(self.last[rows].max()) + 1
        return Encoded(self.tokens[rows, :longest], self.last[rows], self.answer[rows], self.wrong[rows])

    def batches(self, size: int, seed: int) -> Iterator[Encoded]:
        """Batches of `size` pairs (the last may be short) without end, epoch after epoch in another order."""
        import numpy as np

        rng = np.random.default_rng(seed)
        while True:
            for start in rng.permutation(np.arange(0, self.n_pairs, size)).tolist():
                yield self.pairs(start, start + size)


def sides(batch: Encoded) -> tuple[Encoded, Encoded]:
    """The clean rows and the counterfactual rows of pairs, both with the clean side's answers."""
    clean, other = (Encoded(batch.tokens[i::2], batch.last[i::2], batch.answer[::2], batch.wrong[::2]) for i in (0, 1))
    return clean, other


class PairReport(NamedTuple):
    """One pair as the model's tokenizer sees it; `problems` is empty when it can be used."""

    clean: list[int]
    counterfactual: list[int]
    answer: int
    wrong_answer: int
    aligned: bool
    problems: tuple[str, ...]


def _encoder(tokenizer: TextTokenizer) -> Callable[[str], list[int]]:
    def ids(text: str) -> list[int]:
        encoded = tokenizer.encode(text, add_special_tokens=False)
        return list(getattr(encoded, "ids", encoded))  # type: ignore[call-overload, no-any-return, unused-ignore]

    return ids


def check_pair(example: Example, tokenizer: TextTokenizer, n_ctx: int, bos: int | None) -> PairReport:
    """Tokens of both sides, whether they align (equal length), and everything that is wrong with the pair."""
    ids = _encoder(tokenizer)
    problems: list[str] = []
    sides: list[list[int]] = []
    answers: list[int] = []
    for name, prompt, answer in (
        ("clean", example.clean, example.answer),
        ("counterfactual", example.counterfactual, example.wrong_answer),
    ):
        prompt_ids, both = ids(prompt), ids(prompt + answer)
        extra = both[len(prompt_ids) :]
        if not prompt_ids:
            problems.append(f"the {name} prompt is empty")
        if both[: len(prompt_ids)] != prompt_ids:
            problems.append(f"{answer!r} merges with the end of the {name} prompt {prompt[-20:]!r}")
        elif len(extra) != 1:
            problems.append(f"the answer {answer!r} is {len(extra)} tokens after the {name} prompt, not one")
        side = ([bos] if bos is not None else []) + prompt_ids
        if len(side) > n_ctx:
            problems.append(f"the {name} prompt is {len(side)} tokens, the model reads {n_ctx}")
        sides.append(side)
        answers.append(extra[0] if extra else -1)
    if answers[0] == answers[1]:
        problems.append(f"both sides have the same answer {example.answer!r}")
    return PairReport(sides[0], sides[1], answers[0], answers[1], len(sides[0]) == len(sides[1]), tuple(problems))


def encode(examples: Sequence[Example], tokenizer: TextTokenizer, n_ctx: int, bos: int | None) -> Encoded:
    """Tokens of all pairs; every problem of every pair in one BadInput. Nothing is truncated."""
    import torch

    if not examples:
        raise BadInput("Expected at least one pair of prompts, got none.")
    reports = [check_pair(e, tokenizer, n_ctx, bos) for e in examples]
    names = [f"line {e.line}" if e.line else f"pair {i}" for i, e in enumerate(examples, 1)]
    problems = [f"{name}: {p}" for name, r in zip(names, reports, strict=True) for p in r.problems]
    if problems:
        more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
        raise BadInput(
            f"{len(problems)} problems in {len(examples)} pairs: {'; '.join(problems[:8])}{more}. Each answer must be "
            "one token right after its prompt; `gossamer tasks check` shows the tokens."
        )
    sides = [side for r in reports for side in (r.clean, r.counterfactual)]
    longest = max(map(len, sides))
    tokens = torch.tensor([s + [0] * (longest - len(s)) for s in sides], dtype=torch.int64)
    answer = torch.tensor([a for r in reports for a in (r.answer, r.wrong_answer)])
    wrong = torch.tensor([a for r in reports for a in (r.wrong_answer, r.answer)])
    return Encoded(tokens, torch.tensor([len(s) - 1 for s in sides]), answer, wrong)


def unequal(report: PairReport) -> tuple[str, ...]:
    """What is wrong with a pair for a method that exchanges activations by position, in words; empty if nothing."""
    lengths = len(report.clean), len(report.counterfactual)
    return () if report.aligned else (f"its prompts have {lengths[0]} and {lengths[1]} tokens, not as many",)


def fitting(task: Task, tokenizer: TextTokenizer, n_ctx: int, bos: int | None, *, aligned: bool = False) -> Task:
    """The task without the pairs that this tokenizer or context length cannot ask; `left_out` and the version say so.

    aligned: both prompts of a pair must have as many tokens, as methods that exchange activations by position need.
    BadInput when less than MIN_FITTING pairs of a split (or less than all of a smaller one) are left; an
    out-of-distribution split of which less is left is left out whole. A task from a user's own file is returned as it
    is: there encode() names every pair that has to be corrected.
    """
    if any(e.line for e in task.train):
        return task
    splits = {"train": task.train, "heldout": task.heldout, **task.ood}
    kept: dict[str, tuple[Example, ...]] = {}
    for name, examples in splits.items():
        reports = [check_pair(e, tokenizer, n_ctx, bos) for e in examples]
        problems = [r.problems + (unequal(r) if aligned else ()) for r in reports]
        kept[name] = tuple(e for e, found in zip(examples, problems, strict=True) if not found)
        if len(kept[name]) >= min(MIN_FITTING, len(examples)):
            continue
        if name in task.ood:
            kept[name] = ()
            continue
        raise BadInput(
            f"{task.name} has {len(kept[name])} of {len(examples)} {name} pairs that fit this model, "
            f"{min(MIN_FITTING, len(examples))} are needed: {next(filter(None, problems))[0]}"
        )
    left_out = {name: len(splits[name]) - len(kept[name]) for name in splits if len(kept[name]) < len(splits[name])}
    if not left_out:
        return task
    fewer = [f"{left_out[name]}-{name}" for name in ("train", "heldout") if name in left_out]
    return replace(
        task, version=f"{task.version}-without-{'-'.join(fewer)}" if fewer else task.version, left_out=left_out,
        train=kept.pop("train"), heldout=kept.pop("heldout"), ood={k: found for k, found in kept.items() if found},
    )  # fmt: skip
