"""A task: minimal pairs of prompts with one-token answers, in disjoint train and held-out splits.

Generators know no tokenizer: a task is the same pairs for every model, under one version. Where some answers are not
one token of a model, `fitting` keeps the pairs that the model can be asked, tells how many it left out, in the task and
in its version, and refuses a task of which too little is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gossamer.errors import BadInput, nearest

if TYPE_CHECKING:
    from torch import Tensor

MIN_FITTING = 64  # pairs of a split that have to fit: with fewer, an accuracy has a standard error of over 6.2 points


Chars = tuple[int, int]
"""The first character of a stretch of text, and the one after its last."""
POSITIONS = ("all", "last")  # and the name of any span


class TextTokenizer(Protocol):
    """What a task needs of a tokenizer: that of the `tokenizers` library fits as it is."""

    def encode(self, sequence: str, *, add_special_tokens: bool = ...) -> object: ...


@dataclass(frozen=True, kw_only=True)
class Example:
    """A minimal pair. `answer` continues `clean`, `wrong_answer` continues `counterfactual`; each is one token.

    line: where it stands in a user's file; 0 for a generated pair. spans: by name the stretch of the clean and that of
    the counterfactual prompt which play one part, so that they can be ablated alone or exchanged.
    """

    clean: str
    counterfactual: str
    answer: str
    wrong_answer: str
    template: str = ""
    line: int = field(default=0, compare=False)
    spans: Mapping[str, tuple[Chars, Chars]] = field(default_factory=dict, hash=False)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Marks:
    """What is marked in rows of prompts; indexing takes some of the rows.

    spans: name -> the first token of each row's span and the one after its last, [rows, 2], both 0 where it has none.
    positions: where edges are ablated: "all", "last", or the name of a span; chosen: the same as a mask, bool
    [rows, pos], None for all. answers: where some answer is several tokens, those of each row's right answer and of its
    wrong one, int64 [rows, 2, most], -1 after their ends; else None. prompt: of rows that `asked` made, which prompt
    each is of, [rows]; else None.
    """

    spans: Mapping[str, Tensor] = field(default_factory=dict)
    positions: str = "all"
    chosen: Tensor | None = None
    answers: Tensor | None = None
    prompt: Tensor | None = None

    def __getitem__(self, rows: Any) -> Marks:
        found = {name: getattr(self, name) for name in ("chosen", "answers", "prompt")}
        return Marks(
            spans={name: ends[rows] for name, ends in self.spans.items()}, positions=self.positions,
            **{name: None if t is None else t[rows] for name, t in found.items()},
        )  # fmt: skip

    def until(self, end: int) -> Marks:
        """Those of the positions before `end`."""
        return self if self.chosen is None else replace(self, chosen=self.chosen[:, :end])


class Encoded(NamedTuple):
    """Pairs as tokens. Row 2i is pair i's clean prompt, row 2i + 1 its counterfactual prompt.

    tokens: int64 [2 pairs, pos], right-padded; last: [2 pairs] position of each prompt's last token; answer, wrong:
    [2 pairs] token ids (the first of several), `answer` being the right one of its own row.
    """

    tokens: Tensor
    last: Tensor
    answer: Tensor
    wrong: Tensor
    marks: Marks = Marks()

    @property
    def n_pairs(self) -> int:
        return len(self.tokens) // 2

    def pairs(self, start: int, stop: int) -> Encoded:
        """Pairs start to stop, cut to the longest of their prompts."""
        rows = slice(2 * start, 2 * stop)
        return self.rows(rows).until(int(self.last[rows].max()) + 1)

    def choose(self, positions: str) -> Encoded:
        """The same pairs, whose edges are ablated at these positions only: `all`, `last` (each prompt's last token), or
        those of a span by its name.

        BadInput for an unknown name, for a span that a prompt lacks, and for one that has not as many tokens in both
        prompts of a pair, which would leave values without a place to go; with answers of several tokens also for one
        that ends one prompt of a pair and not the other, since what is ablated at the last token is so at the answer's.
        """
        import torch

        if positions == "all":
            return self._replace(marks=replace(self.marks, positions="all", chosen=None))
        at = torch.arange(self.tokens.shape[1])
        if positions == "last":
            chosen = at == self.last[:, None]
        elif positions in self.marks.spans:
            first, stop = self.marks.spans[positions].unbind(1)
            chosen = (at >= first[:, None]) & (at < stop[:, None])
        else:
            raise BadInput(f"Unknown positions {positions!r}: {nearest(positions, (*POSITIONS, *self.marks.spans))}")
        counts = chosen.sum(1).view(-1, 2)
        if lacking := (counts == 0).any(1).nonzero().flatten().tolist():
            raise BadInput(
                f"Expected a span {positions!r} in both prompts of every pair, {len(lacking)} of {self.n_pairs} pairs "
                f"have none, the first being pair {lacking[0] + 1}; mark it there, or choose other positions."
            )
        if uneven := (counts[:, 0] != counts[:, 1]).nonzero().flatten().tolist():
            one, other = counts[uneven[0]].tolist()
            raise BadInput(
                f"Expected as many tokens of the span {positions!r} in both prompts of a pair, {len(uneven)} of "
                f"{self.n_pairs} pairs have not, the first being pair {uneven[0] + 1} ({one} and {other} tokens); mark "
                "stretches of as many tokens."
            )
        ends = chosen[torch.arange(len(chosen)), self.last].view(-1, 2)
        uneven = (ends[:, 0] != ends[:, 1]).nonzero().flatten().tolist()
        if self.marks.answers is not None and uneven:
            raise BadInput(
                f"Expected the span {positions!r} to hold the last token of both prompts of a pair or of neither, as "
                f"answers of several tokens follow it, {len(uneven)} of {self.n_pairs} pairs have it in one, the first "
                f"being pair {uneven[0] + 1}; mark other stretches, or ask for answers of one token."
            )
        return self._replace(marks=replace(self.marks, positions=positions, chosen=chosen))

    def until(self, end: int) -> Encoded:
        """The positions before `end`."""
        return self._replace(tokens=self.tokens[:, :end], marks=self.marks.until(end))

    def where_chosen(self, there: Tensor, own: Tensor) -> Tensor:
        """`there` [.., rows, pos, d] at the positions where edges are ablated, `own` at the others."""
        chosen = self.marks.chosen
        return there if chosen is None else there.where(chosen.to(there.device)[..., None], own)

    def rows(self, which: Any) -> Encoded:
        """Some of the rows, as an index of tensors takes them."""
        return Encoded(self.tokens[which], self.last[which], self.answer[which], self.wrong[which], self.marks[which])

    def batches(self, size: int, seed: int) -> Iterator[Encoded]:
        """Batches of `size` pairs (the last may be short) without end, epoch after epoch in another order."""
        import numpy as np

        rng = np.random.default_rng(seed)
        while True:
            for start in rng.permutation(np.arange(0, self.n_pairs, size)).tolist():
                yield self.pairs(start, start + size)


def sides(batch: Encoded) -> tuple[Encoded, Encoded]:
    """The clean rows and the counterfactual rows of pairs, both with the clean side's answers; where an answer is
    several tokens, as `asked` makes them."""
    answers = None if batch.marks.answers is None else batch.marks.answers[::2]
    clean, other = (
        _asked(Encoded(
            batch.tokens[i::2], batch.last[i::2], batch.answer[::2], batch.wrong[::2],
            replace(batch.marks[i::2], answers=answers),
        ))
        for i in (0, 1)
    )  # fmt: skip
    if answers is None:
        return clean, other
    end = int(max(clean.last.max(), other.last.max())) + 1
    return clean.until(end), other.until(end)


def asked(batch: Encoded) -> Encoded:
    """Rows that give the whole of answers of several tokens, under teacher forcing; one-token answers as they are.

    First the prompts, which ask for the first token of both answers. Then, for every further token of an answer, the
    prompt and the tokens before it; the other answer's token of such a row is -1. Since a causal model does not see
    what follows, these are the logits of one run of the prompt and the answer. What is ablated at a prompt's last token
    is so at the tokens of its answer. No wider than the longest of these rows.
    """
    return batch if batch.marks.answers is None else (found := _asked(batch)).until(int(found.last.max()) + 1)


def _asked(batch: Encoded) -> Encoded:
    """`asked` with the room that the longest prompt and the longest answer would take."""
    import torch

    answers = batch.marks.answers
    if answers is None:
        return batch
    more = [
        (row, side, answers[row, side, : j + 1].tolist())
        for row in range(len(answers)) for side in (0, 1) for j in range(1, int((answers[row, side] >= 0).sum()))
    ]  # fmt: skip
    source = torch.tensor([*range(len(answers)), *(row for row, _, _ in more)])
    found = batch.rows(source)
    room = answers.shape[2] - 1
    tokens, chosen = torch.nn.functional.pad(found.tokens, (0, room)), found.marks.chosen
    last, answer, wrong = found.last.clone(), found.answer.clone(), found.wrong.clone()
    chosen = None if chosen is None else torch.nn.functional.pad(chosen, (0, room))
    for i, (row, side, given) in enumerate(more, len(answers)):
        first, end = int(batch.last[row]) + 1, int(batch.last[row]) + len(given)
        tokens[i, first:end] = torch.tensor(given[:-1])
        last[i] = end - 1
        answer[i], wrong[i] = (given[-1], -1) if side == 0 else (-1, given[-1])
        if chosen is not None:
            chosen[i, first:end] = chosen[i, first - 1].clone()
    marks = replace(found.marks, chosen=chosen, answers=None, prompt=source)
    return Encoded(tokens, last, answer, wrong, marks)


def counterparts(run: Encoded, other: Encoded) -> Tensor | None:
    """For every position of the prompts that run the one of their other prompts that stands for it, [rows, pos]: of the
    chosen positions the first for the first, and so on; of the others, of which nothing is exchanged, their own number.
    None where each stands for itself. BadInput where a row's other has not as many chosen positions.
    """
    import torch

    here, there = run.marks.chosen, other.marks.chosen
    if here is None or there is None or torch.equal(here, there):
        return None
    if not torch.equal(here.sum(1), there.sum(1)):
        raise BadInput(
            "Expected as many chosen positions in both prompts of every pair, some have not; choose spans of as many "
            "tokens that end both prompts of a pair or neither."
        )
    found = torch.arange(here.shape[1]).repeat(len(here), 1)
    found[here] = there.nonzero()[:, 1]
    return found


class PairReport(NamedTuple):
    """One pair as the model's tokenizer sees it; `problems` is empty when it can be used.

    spans: by name the tokens of each side's, as the characters in the Example. answers: all tokens of both sides'.
    """

    clean: list[int]
    counterfactual: list[int]
    answer: int
    wrong_answer: int
    aligned: bool
    problems: tuple[str, ...]
    spans: Mapping[str, tuple[tuple[int, int], tuple[int, int]]]
    answers: tuple[list[int], list[int]]


def _encoder(tokenizer: TextTokenizer) -> Callable[[str], list[int]]:
    def ids(text: str) -> list[int]:
        encoded = tokenizer.encode(text, add_special_tokens=False)
        return list(getattr(encoded, "ids", encoded))  # type: ignore[call-overload, no-any-return, unused-ignore]

    return ids


def check_pair(
    example: Example, tokenizer: TextTokenizer, n_ctx: int, bos: int | None, *, several: bool = False
) -> PairReport:
    """Tokens of both sides, whether they align (equal length), and everything that is wrong with the pair. several:
    whether answers may be several tokens."""
    ids = _encoder(tokenizer)
    problems: list[str] = []
    sides: list[list[int]] = []
    answers: list[list[int]] = []
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
        elif not extra or (len(extra) > 1 and not several):
            problems.append(f"the answer {answer!r} is {len(extra)} tokens after the {name} prompt, not one")
        side = ([bos] if bos is not None else []) + prompt_ids
        if len(side) > n_ctx:
            problems.append(f"the {name} prompt is {len(side)} tokens, the model reads {n_ctx}")
        sides.append(side)
        answers.append(extra or [-1])
    longest = max(map(len, sides)) + max(map(len, answers)) - 1
    if longest > n_ctx >= max(map(len, sides)):
        problems.append(f"a prompt and an answer are {longest} tokens without its last, the model reads {n_ctx}")
    shorter = min(map(len, answers)) if several else 1
    if answers[0][:shorter] == answers[1][:shorter]:
        pair, least = f"{example.answer!r} and {example.wrong_answer!r}", min(map(len, answers))
        if answers[0] == answers[1]:
            problems.append(f"both sides have the same answer {example.answer!r}")
        elif answers[0][:least] == answers[1][:least]:
            problems.append(f"of {pair} one begins the other")
        else:
            problems.append(f"{pair} begin with the same token")
    spans: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}
    for name, ends in example.spans.items():
        found = [
            _tokens_of(ids, prompt, end, f"the span {name!r} of the {side} prompt", problems)
            for prompt, end, side in zip(
                (example.clean, example.counterfactual), ends, ("clean", "counterfactual"), strict=True
            )
        ]
        (a, b), (c, d) = ((first + (bos is not None), stop + (bos is not None)) for first, stop in found)
        spans[name] = (a, b), (c, d)
    aligned = len(sides[0]) == len(sides[1])
    return PairReport(
        sides[0], sides[1], answers[0][0], answers[1][0], aligned, tuple(problems), spans, (answers[0], answers[1])
    )


def _tokens_of(
    ids: Callable[[str], list[int]], prompt: str, ends: Chars, what: str, problems: list[str]
) -> tuple[int, int]:
    """The first token of a stretch of a prompt and the one after its last, without a token that the tokenizer begins
    with. Spaces before the stretch may be part of its first token."""
    start, end = ends
    if not 0 <= start < end <= len(prompt):
        problems.append(f"{what} is characters {start} to {end} of {len(prompt)}")
        return 0, 0
    whole, inside = ids(prompt), ids(prompt[:end])
    for begin in (start, len(prompt[:start].rstrip())):
        before = ids(prompt[:begin])
        if whole[: len(before)] == before and whole[: len(inside)] == inside and len(inside) > len(before):
            return len(before), len(inside)
    problems.append(f"{what}, {prompt[start:end]!r}, begins or ends inside a token")
    return 0, 0


def encode(
    examples: Sequence[Example], tokenizer: TextTokenizer, n_ctx: int, bos: int | None, *, several: bool = False
) -> Encoded:
    """Tokens of all pairs; every problem of every pair in one BadInput. Nothing is truncated. several: whether answers
    may be several tokens."""
    import torch

    if not examples:
        raise BadInput("Expected at least one pair of prompts, got none.")
    reports = [check_pair(e, tokenizer, n_ctx, bos, several=several) for e in examples]
    names = [f"line {e.line}" if e.line else f"pair {i}" for i, e in enumerate(examples, 1)]
    problems = [f"{name}: {p}" for name, r in zip(names, reports, strict=True) for p in r.problems]
    if problems:
        more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
        raise BadInput(
            f"{len(problems)} problems in {len(examples)} pairs: {'; '.join(problems[:8])}{more}. Each answer must be "
            f"{'tokens' if several else 'one token'} right after its prompt; `gossamer tasks check` shows the tokens."
        )
    sides = [side for r in reports for side in (r.clean, r.counterfactual)]
    longest = max(map(len, sides))
    tokens = torch.tensor([s + [0] * (longest - len(s)) for s in sides], dtype=torch.int64)
    answer = torch.tensor([a for r in reports for a in (r.answer, r.wrong_answer)])
    wrong = torch.tensor([a for r in reports for a in (r.wrong_answer, r.answer)])
    none = (0, 0), (0, 0)
    spans = {
        name: torch.tensor([end for r in reports for end in r.spans.get(name, none)], dtype=torch.int64)
        for name in dict.fromkeys(name for r in reports for name in r.spans)
    }
    most, both = max(len(a) for r in reports for a in r.answers), None
    if most > 1:
        own = [[a + [-1] * (most - len(a)) for a in r.answers] for r in reports]
        both = torch.tensor([pair for one, other in own for pair in ((one, other), (other, one))], dtype=torch.int64)
    marks = Marks(spans=spans, answers=both)
    return Encoded(tokens, torch.tensor([len(s) - 1 for s in sides]), answer, wrong, marks)


def unequal(report: PairReport) -> tuple[str, ...]:
    """What is wrong with a pair for a method that exchanges activations by position, in words; empty if nothing."""
    lengths = len(report.clean), len(report.counterfactual)
    return () if report.aligned else (f"its prompts have {lengths[0]} and {lengths[1]} tokens, not as many",)


def fitting(
    task: Task, tokenizer: TextTokenizer, n_ctx: int, bos: int | None, *, aligned: bool = False, several: bool = False
) -> Task:
    """The task without the pairs that this tokenizer or context length cannot ask; `left_out` and the version say so.

    several: whether answers may be several tokens. aligned: both prompts of a pair must have as many tokens, as methods
    that exchange activations by position need.
    BadInput when less than MIN_FITTING pairs of a split (or less than all of a smaller one) are left; an
    out-of-distribution split of which less is left is left out whole. A task from a user's own file is returned as it
    is: there encode() names every pair that has to be corrected.
    """
    if any(e.line for e in task.train):
        return task
    splits = {"train": task.train, "heldout": task.heldout, **task.ood}
    kept: dict[str, tuple[Example, ...]] = {}
    for name, examples in splits.items():
        reports = [check_pair(e, tokenizer, n_ctx, bos, several=several) for e in examples]
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
