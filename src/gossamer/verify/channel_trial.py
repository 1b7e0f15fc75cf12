"""A circuit of channels on held-out pairs, beside matched random, empty and full circuits, run once each.

A circuit with cut edges is tried as its edges in `gaps`, and as its nodes wherever sets of parts are asked for: an edge
that comes from a node outside the circuit carries that node's constant, so that sets of outside edges say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypedDict, cast, get_args

import numpy as np
import torch
from torch import Tensor

from gossamer.ablation import MEANS_OF, Direction, Methodology, Reference, Set, Value
from gossamer.circuit import Circuit
from gossamer.errors import BadInput, Unsupported, nearest
from gossamer.evidence import Null
from gossamer.statistics import mean_interval, quantile_interval
from gossamer.subject import Attending, ResidualSubject, Subject
from gossamer.task import Encoded, Example, Task
from gossamer.verify.nulls import DRAWS, SAME_EDGES, SAME_NODES, gaps, random_circuits, whole_or_nothing
from gossamer.verify.trial import Progress, Watch, mirrored_pairs, rows_of

VALUES = ("mean", "zero", "resample", "optimal")
ROWS_AT_ONCE = 2048
OPTIMAL_STEPS, OPTIMAL_LR, OPTIMAL_PAIRS = 50, 0.02, 16
Values = Mapping[str, Tensor]


class _Masked(TypedDict, total=False):
    """Arguments of a model's `run`."""

    masks: Mapping[str, Tensor]
    value: str
    values: Values


class Gaps(NamedTuple):
    """Logit gaps [draws, rows]: one draw of the circuit, DRAWS random ones, one empty, one full circuit."""

    circuit: Tensor
    random: Tensor
    empty: Tensor
    full: Tensor


class Measured(NamedTuple):
    """value with its bootstrap interval over pairs; `random` is one mean per draw; nulls ready for Evidence."""

    value: float
    interval: tuple[float, float]
    n: int
    random: np.ndarray
    nulls: tuple[Null, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelTrial:
    """A circuit of channels and the held-out pairs it is tried on. Checks that ablate alike share the runs.

    value: of an ablated channel: mean (the model's reference means), zero, resample (the pair's other prompt at the
    same position) or optimal (constants under which the ablated model is nearest to the whole one in the two answers,
    fitted on training pairs to the very set that is tried). When the last lies: it flatters every set alike, so look
    at its random sets.
    """

    model: Subject
    circuit: Circuit
    task: Task
    heldout: Encoded
    seed: int = 0
    progress: Progress | None = None
    cache: Path | None = None
    _gaps: dict[str, Gaps] = field(default_factory=dict)
    _effects: dict[tuple[str, str, bytes], np.ndarray] = field(default_factory=dict)

    def gaps(self, preset: str) -> Gaps:
        """The gaps under an ablation preset, calibrated as the circuit is."""
        if preset not in self._gaps:
            graph = self.model.graph(self.circuit.layout.grain)
            sets = (
                [self.circuit], random_circuits(self.circuit, graph, DRAWS, self.seed),
                [whole_or_nothing(self.circuit, False)], [whole_or_nothing(self.circuit, True)],
            )  # fmt: skip
            self._gaps[preset] = Gaps(*(gaps(self.model, self.circuit, self.heldout, preset, s) for s in sets))
        return self._gaps[preset]

    def measure(self, preset: str, score: Callable[[Tensor], Tensor]) -> Measured:
        """`score` ([.., rows] of logit gaps -> [.., pairs]) for the circuit and its three nulls."""
        own, random, empty, full = (score(z).cpu().double().numpy() for z in self.gaps(preset))
        means = random.mean(1)
        nulls = [
            Null(
                name=SAME_EDGES if self.circuit.granularity == "edge" else SAME_NODES, value=float(means.mean()),
                interval=quantile_interval(means), n=DRAWS,
            )
        ]  # fmt: skip
        for name, (x,) in (("empty circuit", empty), ("full circuit", full)):
            nulls.append(Null(name=name, value=float(x.mean()), interval=mean_interval(x, self.seed), n=len(x)))
        (x,) = own
        return Measured(float(x.mean()), mean_interval(x, self.seed), len(x), means, tuple(nulls))

    @property
    def n_pairs(self) -> int:
        return self.heldout.n_pairs

    @cached_property
    def values(self) -> tuple[str, ...]:
        """Mean first; those that need reference means, or prompts of equal length, only where there are such."""
        have_means = bool(self.model.hashes()[1])
        aligned = bool((self.heldout.last[::2] == self.heldout.last[1::2]).all())
        return tuple(v for v in VALUES if (have_means or v not in ("mean", "optimal")) and (aligned or v != "resample"))

    @cached_property
    def kinds(self) -> np.ndarray:
        """The location of every channel."""
        return np.repeat(
            np.arange(len(self.circuit.layout.locations)), [width for _, width in self.circuit.layout.locations]
        )

    @cached_property
    def inside(self) -> np.ndarray:
        return np.concatenate([self.circuit.kept_by_location()[name] for name, _ in self.circuit.layout.locations])

    @property
    def null(self) -> str:
        return SAME_NODES

    def part(self, number: int) -> str:
        return str(self.circuit.layout.site(number))

    def methodology(
        self, value: str | None = None, set_: Set = "complement", direction: Direction = "clean"
    ) -> Methodology:
        """Of channels as nodes, at all positions."""
        value, references = self._value(value), dict[str, Reference](zero="none", optimal="training")
        references["mean"] = MEANS_OF[self.model.means_of]
        references["resample"] = "counterfactual" if direction == "clean" else "clean"
        if direction == "counterfactual" and value != "resample":
            raise Unsupported(
                f"ablation by {value} in the direction of the counterfactual",
                "only the clean run's own values restore it", "value resample, or direction clean",
            )  # fmt: skip
        return Methodology(
            granularity="node", component="channel", value={v: v for v in get_args(Value)}[value], positions="all",
            direction=direction, set=set_, reference=references[value],
        )  # fmt: skip

    def _value(self, value: str | None) -> str:
        value = self.values[0] if value is None else value
        if value not in VALUES:
            raise BadInput(f"Unknown ablation value {value!r} of channels: {nearest(value, VALUES)}")
        if value not in self.values:
            why = "prompts of a pair differ in length" if value == "resample" else "the model has no reference means"
            raise Unsupported(f"ablation by {value} here", why, f"one of {', '.join(self.values)}")
        return value

    def effects(
        self, kept: np.ndarray, *, value: str | None = None, direction: Direction = "clean"
    ) -> np.ndarray:  # fmt: skip
        """See gossamer.verify.trial."""
        value = self.methodology(value, direction=direction).value
        keys = [(value, direction, np.packbits(row).tobytes()) for row in kept]
        new = [i for i, key in enumerate(keys) if key not in self._effects and key not in keys[:i]]
        at_once = len(new) if value == "resample" else max(1, ROWS_AT_ONCE // len(self.heldout.last))
        for start in range(0, len(new), max(1, at_once)):
            part = new[start : start + at_once]
            if value == "resample":
                found = self._resampled(kept[part], direction)
            elif value == "optimal":
                found = np.stack([self._optimal(row) for row in kept[part]])
            else:
                found = self._constant(kept[part], value)
            self._effects.update(zip((keys[i] for i in part), found, strict=True))
            if self.progress and len(new) > at_once:
                self.progress(start + len(part), len(new), float(found[0].mean()))
        return np.stack([self._effects[key] for key in keys])

    def _masks(self, kept: Tensor) -> dict[str, Tensor]:
        """kept [.., parts] by location."""
        widths = [width for _, width in self.circuit.layout.locations]
        names = [name for name, _ in self.circuit.layout.locations]
        return dict(zip(names, kept.split(widths, dim=-1), strict=True))

    @torch.no_grad()
    def _constant(self, kept: np.ndarray, value: str) -> np.ndarray:
        masks = self._masks(torch.from_numpy(kept.astype(np.float32)))
        gap = self.model.run(self.heldout, masks=masks, value=value).gap
        return _of_pairs(gap).cpu().double().numpy().reshape(len(kept), -1)

    @property
    def sources(self) -> np.ndarray:
        return np.arange(self.circuit.layout.n_nodes)

    def node(self, number: int) -> str:
        return self.part(number)

    def _how(self, kept: np.ndarray, batch: Encoded, value: str | None) -> _Masked:
        """How the model runs both prompts of pairs with these parts kept."""
        value = self._value(value)
        masks = self._masks(torch.from_numpy(kept.astype(np.float32)))
        if value in ("mean", "zero"):
            return {"masks": masks, "value": value}
        if value == "optimal":
            return {"masks": masks, "values": self._fitted(torch.from_numpy(kept.astype(np.float32)))}
        names = [name for name, _ in self.circuit.layout.locations]
        return {"masks": masks, "values": self.model.run(_exchanged(batch), reads=names).reads}

    @torch.no_grad()
    def activity(
        self, kept: np.ndarray, nodes: np.ndarray, start: int, stop: int, *, value: str | None = None
    ) -> Watch:  # fmt: skip
        """See gossamer.verify.trial."""
        batch = self.heldout.pairs(start, stop)
        layout, wanted = self.circuit.layout, dict[str, Tensor]()
        for name, width in layout.locations:
            here = nodes[(nodes >= layout.starts[name]) & (nodes < layout.starts[name] + width)]
            if len(here):
                wanted[name] = torch.from_numpy(here - layout.starts[name])
        reads = self.model.run(batch, reads=tuple(wanted), **self._how(kept, batch, value)).reads
        seen = torch.cat([reads[name][..., at.to(reads[name].device)] for name, at in wanted.items()], dim=-1)
        order = torch.from_numpy(np.argsort(np.argsort(nodes, kind="stable"), kind="stable"))
        return Watch(seen[..., order.to(seen.device)].float().cpu()[..., None], batch.last.cpu())

    @torch.no_grad()
    def attention(self, kept: np.ndarray, start: int, stop: int, *, value: str | None = None) -> Watch:
        """See gossamer.verify.trial."""
        if not isinstance(self.model, Attending):
            raise Unsupported(f"attention patterns of {self.model.name}", "it does not show them", "a decoder")
        batch = self.heldout.pairs(start, stop)
        patterns = self.model.attention(batch, **self._how(kept, batch, value))
        return Watch(patterns.permute(1, 3, 0, 2, 4).float().cpu(), batch.last.cpu())

    @torch.no_grad()
    def _resampled(self, kept: np.ndarray, direction: Direction) -> np.ndarray:
        names, found = [name for name, _ in self.circuit.layout.locations], list[Tensor]()
        shares = torch.from_numpy(kept.astype(np.float32))
        for start in range(0, self.n_pairs, OPTIMAL_PAIRS):
            run = self.heldout.pairs(start, min(start + OPTIMAL_PAIRS, self.n_pairs))
            other = _exchanged(run)
            if direction == "counterfactual":
                run, other = other, run
            values = self.model.run(other, reads=names).reads
            masks = shares if direction == "clean" else 1 - shares
            found.append(
                torch.stack([_of_pairs(self.model.run(run, masks=self._masks(m), values=values).gap) for m in masks])
            )
        return torch.cat(found, dim=1).cpu().double().numpy()

    def _optimal(self, kept: np.ndarray) -> np.ndarray:
        if kept.all() or not kept.any():  # nothing is replaced, or nothing knows the prompt
            return self._constant(kept[None], "mean")[0]
        shares = torch.from_numpy(kept.astype(np.float32))
        values = self._fitted(shares)
        with torch.no_grad():
            gap = self.model.run(self.heldout, masks=self._masks(shares), values=values).gap
        return _of_pairs(gap).cpu().double().numpy()

    @cached_property
    def _training(self) -> Encoded:
        return self.model.encode(self.task.train[:128])

    @cached_property
    def _wanted(self) -> Tensor:
        """Probability of the right answer of two, in the whole model, of every training prompt."""
        with torch.no_grad():
            return self.model.run(self._training).gap.sigmoid()

    @cached_property
    def _spread(self) -> Values:
        """Standard deviation of every channel over training prompts, [channels] by location."""
        names, batch = [name for name, _ in self.circuit.layout.locations], self._training.pairs(0, OPTIMAL_PAIRS)
        with torch.no_grad():
            return {k: v.flatten(0, 1).float().std(0) for k, v in self.model.run(batch, reads=names).reads.items()}

    def _fitted(self, kept: Tensor) -> Values:
        """The constants [channels] that bring the ablated model's preference nearest to the whole one's (binary
        cross-entropy) on training pairs, means included: the best that a walk from the means comes by."""
        start, masks = {k: v.detach().float() for k, v in self.model.means("mean").items()}, self._masks(kept)
        change = {k: torch.zeros_like(v, requires_grad=True) for k, v in start.items()}
        optimizer = torch.optim.Adam(list(change.values()), lr=OPTIMAL_LR)
        starts = np.random.default_rng(self.seed)
        judge = slice(0, 2 * OPTIMAL_PAIRS)

        def moved() -> Values:
            return {k: start[k] + self._spread[k] * change[k] for k in start}

        def loss(pairs: slice) -> Tensor:
            batch = self._training.pairs(pairs.start, pairs.stop)
            wanted = self._wanted[2 * pairs.start : 2 * pairs.stop]
            gap = self.model.run(batch, masks=masks, values=moved()).gap
            return torch.nn.functional.binary_cross_entropy_with_logits(gap, wanted)

        best, found = torch.inf, start
        for step in range(OPTIMAL_STEPS + 1):
            if step % 10 == 0:
                with torch.no_grad():
                    now = float(loss(judge))
                if now < best:
                    best, found = now, {k: v.detach() for k, v in moved().items()}
            with torch.enable_grad():
                optimizer.zero_grad()
                first = int(starts.integers(0, max(1, self._training.n_pairs - OPTIMAL_PAIRS + 1)))
                loss(slice(first, first + OPTIMAL_PAIRS)).backward()
            optimizer.step()
        return found

    def graded(self, kept: Tensor, start: int, stop: int, *, value: str | None = None) -> Tensor:
        """See gossamer.verify.trial; of the values mean and zero."""
        value = self._value(value)
        if value not in ("mean", "zero"):
            raise Unsupported(f"shares of channels ablated by {value}", "it is built for constants", "mean or zero")
        batch = self.heldout.pairs(start, stop)
        return _of_pairs(self.model.run(batch, masks=self._masks(kept), value=value).gap)

    def attributions(self) -> np.ndarray:
        """See gossamer.verify.trial: (x - mean) times the gradient, summed over positions; zero without means."""
        names = [name for name, _ in self.circuit.layout.locations]
        values = self.model.means("zero" if "mean" not in self.values else "mean")
        found = []
        for start in range(0, self.n_pairs, OPTIMAL_PAIRS):
            batch = self.heldout.pairs(start, min(start + OPTIMAL_PAIRS, self.n_pairs))
            with torch.enable_grad():
                out = self.model.run(batch, reads=names, then=lambda location, x: x.requires_grad_())
                gradients = torch.autograd.grad(_of_pairs(out.gap).sum(), [out.reads[n] for n in names])
            rows = torch.cat([
                ((out.reads[n].detach() - values[n]) * g).sum(1) for n, g in zip(names, gradients, strict=True)
            ], dim=-1)  # fmt: skip
            found.append(rows.unflatten(0, (-1, 2)).sum(1))
        return torch.cat(found).cpu().double().numpy()

    @torch.no_grad()
    def scrubbed(self, donors: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """See gossamer.verify.trial; both prompts of a pair are run."""
        names = [name for name, _ in self.circuit.layout.locations]
        keep = self._masks(torch.from_numpy((groups < 0).astype(np.float32)))
        place = self._masks(torch.from_numpy(groups))
        found = []
        for start in range(0, self.n_pairs, OPTIMAL_PAIRS):
            stop = min(start + OPTIMAL_PAIRS, self.n_pairs)
            batch = self.heldout.pairs(start, stop)
            values: dict[str, Tensor] = {}
            for group, rows in enumerate(donors[:, 2 * start : 2 * stop]):
                reads = self.model.run(rows_of(self.heldout, rows), reads=names).reads
                for name, x in reads.items():
                    values[name] = torch.where((place[name] == group).to(x.device), x, values.get(name, x))
            found.append(_of_pairs(self.model.run(batch, masks=keep, values=values).gap))
        return torch.cat(found).cpu().double().numpy()

    def of_nodes(self) -> ChannelTrial:
        """See gossamer.verify.trial."""
        return self

    def mirrored(self) -> ChannelTrial:
        """See gossamer.verify.trial."""
        return replace(self, heldout=mirrored_pairs(self.heldout), _gaps={}, _effects={})

    def on(self, examples: Sequence[Example]) -> ChannelTrial:
        """See gossamer.verify.trial."""
        return replace(self, heldout=self.model.encode(examples), _gaps={}, _effects={})

    def under(self, model: Subject | ResidualSubject) -> ChannelTrial:
        """See gossamer.verify.trial."""
        return replace(self, model=cast(Subject, model), _gaps={}, _effects={})

    def retried(self, circuit: Circuit) -> ChannelTrial:
        """See gossamer.verify.trial."""
        return replace(self, circuit=circuit, _gaps={})

    def elsewhere(self, model: Subject, task: Task, circuit: Circuit) -> ChannelTrial:
        """See gossamer.verify.trial."""
        heldout = model.encode(task.heldout[: self.n_pairs])
        return replace(self, model=model, task=task, circuit=circuit, heldout=heldout, _gaps={}, _effects={})


def _of_pairs(gap: Tensor) -> Tensor:
    """The effect [pairs] of gaps [rows]: how far the logit difference moves between the two prompts, halved."""
    return gap.unflatten(-1, (-1, 2)).mean(-1)


def _exchanged(batch: Encoded) -> Encoded:
    """Every row with the prompt of its pair's other row and its own answers."""
    order = torch.arange(len(batch.last)).view(-1, 2).flip(1).flatten()
    return Encoded(batch.tokens[order], batch.last[order], batch.answer, batch.wrong)
