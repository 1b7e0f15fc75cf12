"""Is this model, on this machine, one that circuits can be found in? Every check gives a number, what it was held to,
why that much, and a control that must miss it.

No circuit and no task is needed: prompts are random tokens unless pairs are given. Tolerances are not guesses: most are
how far the numbers move by rounding alone, which is measured by moving the embeddings up and down by a few roundings. A
check whose control would pass it too is `not measured`.

When it lies: a fault that needs longer prompts, other tokens or more rows than were tried is not seen; checks of single
edges see a random few, so each kind of edge is also tried with all its edges at once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import BadInput, Unsupported, one_line
from gossamer.evidence import Evidence, Null
from gossamer.models import LoadedModel
from gossamer.task import Encoded

if TYPE_CHECKING:
    from gossamer.models.huggingface import Decoder

Progress = Callable[[int, int, float], None]
Say = Callable[[str], None]

ROUNDINGS = 16  # times the rounding that was measured
HALF_ROUNDINGS = 8  # the same where bfloat16 is compared: fewer, or nothing would miss it
SLOPE_ERROR = 1e-3  # of the largest slope of a kind: what the third derivative may do at the steps taken
LOOSEST = 0.1  # of the largest slope: where rounding alone needs a tolerance beyond it, nothing is measured
SWAPPED = "the clean and counterfactual prompts exchanged"
ROUNDING_WHY = f"{ROUNDINGS} times how far rounding alone moves it"


class Part(NamedTuple):
    """One comparison: what differs by how much, what it may, and by how much a wrong one (the control) differs."""

    what: str
    error: float
    tolerance: float
    null: float

    @property
    def fails(self) -> bool:
        return not self.error <= self.tolerance  # also a NaN

    @property
    def blind(self) -> bool:
        return not self.fails and not self.null > self.tolerance


class Slopes(NamedTuple):
    """Shares [n] that a model's metric depends on, from 0 on: their kinds, the gradient that is claimed, the metric.

    group: [n], shares with the same number belong to one place (a reader, a location); noise: how far rounding moves
    the metric; rounding: what it is computed in.
    """

    kinds: Mapping[str, np.ndarray]
    gradient: np.ndarray
    metric: Callable[[np.ndarray], float]
    group: np.ndarray
    group_name: Callable[[int], str]
    noise: float
    rounding: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Patient(ABC):
    """A model under examination. batch: pairs; draws: how many single edges or nodes are tried; free: device -> bytes
    of memory that are free there."""

    model: Decoder | LoadedModel
    batch: Encoded
    draws: int
    seed: int
    free: Callable[[str], int]
    prompts: str = "random tokens"
    _kept: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.model.parameters()).dtype

    @property
    def context(self) -> int:
        """The longest prompt."""
        return self.model.limits[0]

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.model.model.parameters())

    # what a kind of model must say

    @abstractmethod
    def observe(self, batch: Encoded) -> dict[str, Tensor]:
        """What methods ask for, float64 on the CPU: `... logits` or `... gap` by row, the rest summed over rows."""

    @abstractmethod
    def moved(self, size: float, seed: int) -> AbstractContextManager[object]:
        """Embeddings times 1 + size * (normal numbers), within the block."""

    @abstractmethod
    def copied(self, dtype: torch.dtype, device: torch.device) -> Patient:
        """The same with a copy of the model."""

    @abstractmethod
    def slopes(self) -> Slopes: ...

    @abstractmethod
    def own_checks(self) -> Mapping[str, Callable[[], Evidence]]:
        """Checks that only this kind of model has, in order."""

    @property
    @abstractmethod
    def dtypes_do_not_apply(self) -> str:
        """Why another dtype is not compared; empty where it is."""

    # what follows

    @cached_property
    def seen(self) -> dict[str, Tensor]:
        return self.observe(self.batch)

    @cached_property
    def swapped(self) -> dict[str, Tensor]:
        return self.observe(swapped(self.batch))

    @cached_property
    def noise(self) -> dict[str, float]:
        return rounding_noise(self, lambda: self.observe(self.batch), self.seen)

    def tolerance(self, what: str, roundings: int = ROUNDINGS) -> float:
        """How far rounding may move an observation, relative to its largest number."""
        return roundings * (self.noise[what] / _size(self.seen[what]) + torch.finfo(self.dtype).eps)

    def parts(self, other: Mapping[str, Tensor], tolerance: Callable[[str], float] | None = None) -> list[Part]:
        """Each observation against another way to get it; the control is that of exchanged prompts."""
        limit = tolerance or self.tolerance
        return [
            Part(k, relative(other[k], v), limit(k), relative(self.swapped[k], v)) for k, v in self.seen.items()
        ]  # fmt: skip


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference, over the largest number of b."""
    return float((a - b).abs().max()) / _size(b)


def _size(x: Tensor) -> float:
    return max(float(x.abs().max()), 1e-30)


def swapped(batch: Encoded) -> Encoded:
    """Pairs with their prompts exchanged, the answers as they were."""
    order = torch.arange(len(batch.tokens)).view(-1, 2).flip(1).flatten()
    return Encoded(batch.tokens[order], batch.last[order], batch.answer, batch.wrong)


def rounding_noise(
    patient: Patient, run: Callable[[], Mapping[str, Tensor]], plain: Mapping[str, Tensor], draws: int = 2
) -> dict[str, float]:
    """How far rounding moves each of a run's numbers, largest over them, by second differences.

    A smooth model's run with embeddings a little up, plus the run with them as much down, minus twice the run as it is,
    vanishes to second order; what is left is rounding, of the size at which the model rounds inside.
    """
    step = max(torch.finfo(patient.dtype).eps, 1e-6)  # float32's roundings are inside of many float64 models
    found = dict.fromkeys(plain, 0.0)
    for draw in range(draws):
        ways = []
        for size in (step, -step):
            with patient.moved(size, patient.seed + draw):
                ways.append(run())
        for k, v in plain.items():
            found[k] = max(found[k], float((ways[0][k] + ways[1][k] - 2 * v).abs().max()) / math.sqrt(6))
    return found


def judged(
    claim: str, parts: Sequence[Part], *, unit: str, why: str, null: str, n: int, seed: int, note: str = "",
) -> Evidence:  # fmt: skip
    """The worst of the comparisons, in units of its tolerance; every one is in the note."""
    failing = [p for p in parts if p.fails]
    sighted = [p for p in parts if not p.blind]
    shown = max(failing or sighted or parts, key=_over)
    each = "; ".join(f"{p.what} {p.error:.1e} of {p.tolerance:.1e}{_blind(p)}" for p in parts)
    return Evidence(
        claim=claim, value=None if math.isnan(shown.error) else shown.error, unit=unit, n=n, methodology=None,
        nulls=(Null(name=null, value=shown.null, n=n),), seed=seed,
        verdict="fail" if failing else "pass" if sighted else "not measured",
        threshold=f"fails above {shown.tolerance:.2g}: {why}", note="; ".join(filter(None, (each, note))),
    )  # fmt: skip


def _over(p: Part) -> float:
    return math.inf if math.isnan(p.error) else p.error / max(p.tolerance, 1e-30)


def _blind(p: Part) -> str:
    return f" (not measured: the control would pass, {p.null:.1e})" if p.blind else ""


def not_measured(claim: str, unit: str, why: str) -> Evidence:
    """A check that could not be made, and why."""
    return Evidence(
        claim=claim, value=None, unit=unit, n=0, verdict="not measured", methodology=None, threshold="", note=why
    )  # fmt: skip


# checks that every kind of model has

OF_LARGEST = "of the largest number"
SLOPE = "of the largest slope of its kind"


def batch_invariance(p: Patient) -> Evidence:
    """Each pair alone gives what it gives beside the others."""
    longest = p.batch.tokens.shape[1]
    alone = []
    for i in range(p.batch.n_pairs):
        one = slice(2 * i, 2 * i + 2)
        alone.append(p.observe(p.batch.rows(one)))
    joined = {
        k: torch.cat([a[k] for a in alone]) if by_row(k) else torch.stack([a[k] for a in alone]).sum(0) for k in p.seen
    }  # fmt: skip
    return judged(
        "batch invariance: a prompt's numbers do not depend on the prompts beside it", p.parts(joined), unit=OF_LARGEST,
        why=ROUNDING_WHY, null=SWAPPED, n=p.batch.n_pairs, seed=p.seed,
        note=f"{p.batch.n_pairs} pairs of {longest} tokens together and one by one",
    )  # fmt: skip


def by_row(observation: str) -> bool:
    return observation.endswith(("logits", "gap"))


def padding_invariance(p: Patient) -> Evidence:
    """Tokens after a prompt's last one change nothing."""
    claim = "padding invariance: tokens after a prompt's end change nothing"
    extra = min(3, p.context - p.batch.tokens.shape[1])
    if extra < 1:
        return not_measured(claim, OF_LARGEST, "the prompts are as long as the model reads")
    generator = torch.Generator().manual_seed(p.seed + 1)
    picks = torch.randint(p.batch.tokens.numel(), (len(p.batch.tokens), extra), generator=generator)
    padded = torch.cat([p.batch.tokens, p.batch.tokens.flatten()[picks]], dim=1)
    return judged(
        claim, p.parts(p.observe(p.batch._replace(tokens=padded))), unit=OF_LARGEST, why=ROUNDING_WHY, null=SWAPPED,
        n=len(padded), seed=p.seed, note=f"{extra} tokens of other prompts put after each",
    )  # fmt: skip


def determinism(p: Patient) -> Evidence:
    """Twice the same bits."""
    again = p.observe(p.batch)
    parts = [
        Part(k, float((again[k] != v).sum()), 0.0, float((p.swapped[k] != v).sum())) for k, v in p.seen.items()
    ]  # fmt: skip
    return judged(
        "determinism: the same run twice gives the same bits", parts, unit="numbers that differ",
        why="a replay derives the same numbers again", null=SWAPPED, n=sum(v.numel() for v in p.seen.values()),
        seed=p.seed,
    )  # fmt: skip


def finite_differences(p: Patient) -> Evidence:
    """The gradients that scores are made of are the slopes of the exact ablation.

    Central differences (m(+h) - m(-h)) / 2h with all edges of a kind at once, each with a random sign, and of single
    ones, in float64 where a copy fits. The step balances rounding against curvature, see _slope.
    """
    claim = "hook placement: gradients are the slopes of exact ablation"
    wide = _wide(p)
    if wide is None:
        return not_measured(claim, SLOPE, f"a copy in higher precision does not fit into the memory of {p.device}")
    s, rng = wide.slopes(), np.random.default_rng(p.seed)
    parts, tried = list[Part](), 0
    for kind, members in s.kinds.items():
        some = members[s.gradient[members] != 0]  # all of them take part in the first direction
        some = some if len(some) > 1 else members
        picked = rng.choice(some, min(max(2, p.draws // len(s.kinds)), len(some)), replace=False)
        directions = [_signs(members, len(s.gradient), rng), *(_single(i, len(s.gradient)) for i in picked)]
        claimed = np.array([d @ s.gradient for d in directions])
        scale = max(float(np.abs(claimed).max()), 1e-30)
        found = [_slope(s, d, c, scale) for d, c in zip(directions, claimed, strict=True)]
        worst = max(found, key=lambda f: f.error / f.tolerance)
        others = np.abs(np.roll(claimed[1:], 1) - [f.slope for f in found[1:]]).max() / scale
        measured = worst.tolerance < LOOSEST or worst.error > worst.tolerance
        parts.append(Part(kind, worst.error, worst.tolerance, float(others) if measured else 0.0))
        tried += len(directions)
    note, worst_kind = s.rounding, max(parts, key=_over)
    if worst_kind.fails:
        note += f"; the worst is at {_bisect(s, s.kinds[worst_kind.what], rng)}"
    return judged(
        claim, parts, unit=SLOPE, null="gradients of other edges", n=tried, seed=p.seed, note=note,
        why=f"{SLOPE_ERROR:g} for curvature and {ROUNDINGS} times the rounding of the metric over the step",
    )  # fmt: skip


class _Slope(NamedTuple):
    """A slope, how far it is from the one claimed and how far it may be, both of the largest of its kind."""

    slope: float
    error: float
    tolerance: float


def _signs(members: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """All members at once with random signs, as long a vector as a single one."""
    direction = np.zeros(n)
    direction[members] = rng.choice([-1.0, 1.0], len(members)) / math.sqrt(len(members))
    return direction


def _single(i: int, n: int) -> np.ndarray:
    direction = np.zeros(n)
    direction[i] = 1
    return direction


def _slope(s: Slopes, direction: np.ndarray, claimed: float, scale: float, steps: int = 4) -> _Slope:
    """The slope along a direction by central differences at the best step.

    Where that is not the slope claimed there may be a kink between the two ends (a ReLU): shorter steps are tried, as
    far as rounding allows, and there each side by itself, of which one has no kink.
    """
    best = float(np.clip((s.noise / scale) ** (1 / 3), 1e-4, 0.03))
    found = list[_Slope]()
    for h in best / 4.0 ** np.arange(steps):
        tolerance = SLOPE_ERROR + ROUNDINGS * s.noise / (h * scale)
        if found and tolerance > LOOSEST:
            break
        up, down = s.metric(h * direction), s.metric(-h * direction)
        slopes = [(up - down) / (2 * h)]
        if found:
            middle = s.metric(0 * direction)
            slopes += [(up - middle) / h, (middle - down) / h]
        slope = min(slopes, key=lambda x: abs(x - claimed))
        found.append(_Slope(slope, abs(slope - claimed) / scale, tolerance))
        if found[-1].error <= tolerance:
            return found[-1]
    return found[0]


def _bisect(s: Slopes, members: np.ndarray, rng: np.random.Generator) -> str:
    """The place whose gradient is most wrong, by halving the set of places whose edges move."""
    places = np.unique(s.group[members])
    while len(places) > 1:
        halves = np.array_split(places, 2)
        errors = []
        for half in halves:
            inside = members[np.isin(s.group[members], half)]
            direction = _signs(inside, len(s.gradient), rng) * math.sqrt(len(inside))
            claimed = float(direction @ s.gradient)
            errors.append(abs(_slope(s, direction, claimed, max(abs(claimed), 1e-30), 1).slope - claimed))
        places = halves[int(np.argmax(errors))]
    return s.group_name(int(places[0]))


def _fits(p: Patient, dtype: torch.dtype, device: torch.device) -> bool:
    return 1.2 * p.n_parameters * max(dtype.itemsize, p.dtype.itemsize) < p.free(str(device))


def _wide(p: Patient) -> Patient | None:
    """The patient in float64 if that fits, else in float32; None if neither does. Apple's GPUs have no float64."""
    device = torch.device("cpu") if p.device.type == "mps" else p.device
    for dtype in (torch.float64, torch.float32):
        if p.dtype == dtype and p.device == device:
            return p
        if _fits(p, dtype, device):
            return p.copied(dtype, device)
    return None


def dtypes(p: Patient) -> Evidence:
    """bfloat16 gives what float32 gives, but for bfloat16's own rounding."""
    claim = "dtypes: bfloat16 and float32 agree"
    if p.dtypes_do_not_apply:
        return not_measured(claim, OF_LARGEST, p.dtypes_do_not_apply)
    if not _fits(p, torch.float32, p.device):
        return not_measured(claim, OF_LARGEST, f"a copy does not fit into the memory of {p.device}")
    single = p if p.dtype == torch.float32 else p.copied(torch.float32, p.device)
    half = p if p.dtype == torch.bfloat16 else p.copied(torch.bfloat16, p.device)

    def limit(what: str) -> float:
        return half.tolerance(what, HALF_ROUNDINGS) * _size(half.seen[what]) / _size(single.seen[what])

    note = ""
    for k, v in single.seen.items():
        if not by_row(k):
            r = np.corrcoef(v.flatten().numpy(), half.seen[k].flatten().numpy())[0, 1]
            note = f"correlation of {k} {r:.3f}"
    return judged(
        claim, single.parts(half.seen, limit), unit=OF_LARGEST, null=SWAPPED,
        why=f"{HALF_ROUNDINGS} times how far rounding alone moves it in bfloat16",
        n=len(p.batch.tokens), seed=p.seed, note=note,
    )  # fmt: skip


def devices(p: Patient) -> Evidence:
    """The CPU gives what the device gives."""
    claim = f"devices: {p.device} and the CPU agree"
    if p.device.type == "cpu":
        return not_measured("devices: the device and the CPU agree", OF_LARGEST, "the model is on the CPU")
    cpu = torch.device("cpu")
    if not _fits(p, p.dtype, cpu):
        return not_measured(claim, OF_LARGEST, "a copy does not fit into memory")
    return judged(
        claim, p.parts(p.copied(p.dtype, cpu).seen), unit=OF_LARGEST, why=ROUNDING_WHY, null=SWAPPED,
        n=len(p.batch.tokens), seed=p.seed,
    )  # fmt: skip


def random_pairs(vocabulary: int, context: int, bos: int | None, pairs: int, tokens: int, seed: int) -> Encoded:
    """Pairs of random tokens that share their first third, right-padded to unequal lengths; answers at random."""
    if tokens > context:
        raise BadInput(f"Expected prompts of at most the {context} tokens that the model reads, got {tokens}.")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(vocabulary, (2 * pairs, tokens), generator=generator)
    first = max(1, tokens // 3)
    rows[1::2, :first] = rows[::2, :first]
    if bos is not None:
        rows[:, 0] = bos
    last = torch.tensor([tokens - 1 - i % min(3, tokens - first) for i in range(pairs)]).repeat_interleave(2)
    answer = torch.randint(vocabulary, (pairs,), generator=generator)
    wrong = (answer + torch.randint(1, vocabulary, (pairs,), generator=generator)) % vocabulary
    both = torch.stack([answer, wrong], dim=1)
    return Encoded(rows, last, both.flatten(), both.flip(1).flatten())


def patient_of(
    model: Any, pairs: Encoded | None, *, n_pairs: int, tokens: int, draws: int, seed: int,
    free: Callable[[str], int],
) -> Patient:  # fmt: skip
    """A weight-sparse model or a Hugging Face decoder, with pairs given or made of random tokens."""
    if n_pairs < 2 or tokens < 4 or draws < 2:
        raise BadInput(
            f"Expected at least 2 pairs, 4 tokens and 2 edges, got {n_pairs} pairs, {tokens} tokens, {draws} edges."
        )
    context, bos = model.limits
    sparse = isinstance(model, LoadedModel)
    vocabulary = (
        model.model.config.vocab_size if sparse else model.model.get_input_embeddings().num_embeddings
    )  # fmt: skip
    batch = random_pairs(vocabulary, context, bos, n_pairs, tokens, seed) if pairs is None else pairs
    common: dict[str, Any] = {
        "batch": batch, "draws": draws, "seed": seed, "free": free,
        "prompts": "random tokens" if pairs is None else "pairs of the task",
    }  # fmt: skip
    if sparse:
        from gossamer.verify.doctor_channels import Channels

        return Channels(model=model, **common)
    from gossamer.verify.doctor_heads import Heads

    return Heads(model=model, **common)


def checks_of(p: Patient) -> dict[str, Callable[[], Evidence]]:
    """Every check by name, in the order they are made."""
    shared = {
        "batch invariance": batch_invariance, "padding invariance": padding_invariance, "determinism": determinism,
        "finite differences": finite_differences, "dtypes": dtypes, "devices": devices,
    }  # fmt: skip
    return {**p.own_checks(), **{name: partial(f, p) for name, f in shared.items()}}


def doctor(p: Patient, progress: Progress | None = None) -> tuple[Evidence, ...]:
    """Every check; progress(checks done, all, the last one's value). One that the model breaks in has failed."""
    checks = checks_of(p)
    found = []
    for i, (name, check) in enumerate(checks.items(), 1):
        found.append(made(name, check))
        if progress:
            value = found[-1].value
            progress(i, len(checks), math.nan if value is None else value)
    return tuple(found)


def made(name: str, check: Callable[[], Evidence]) -> Evidence:
    """A check's evidence: not measured where memory ends, failed where the model raises."""
    try:
        return check()
    except torch.OutOfMemoryError:
        return not_measured(name, OF_LARGEST, "it does not fit into the device's memory")
    except (RuntimeError, Unsupported) as error:
        found = not_measured(name, OF_LARGEST, f"the model raised {type(error).__name__}: {one_line(error)[:300]}")
        return found.model_copy(update={"verdict": "fail", "threshold": "fails where the model raises"})
