"""What several tasks share in one model: Lan, Torr and Barez 2024 (arXiv 2311.04131), sections 4 and 5.

A circuit counts here as its heads and MLPs (or, at block grain, attentions and MLPs; at channel grain its channels);
`input` is in every one and is not a part. The shared part of some tasks is the intersection of their circuits. Three
questions, each with its null:

- Cross-evaluation: with all other parts ablated, what share of the whole model's metric does each task's circuit, the
  intersection and the union leave on each task? Beside it: random circuits with as many heads and MLPs, none, all.
- Joint ablation: with only the shared part ablated, what share of the whole model's metric is lost, and what share of
  prompts no longer have the right answer as the highest of all logits, on the task that loses least? Beside it: random
  sets with as many heads and MLPs (they may hit parts of one task, seldom of every one); and of the shared heads alone
  also random heads of the same layers.
- Stability: how alike are circuits of one task that were found in other orders, and which parts are in most of them?

The metric is the logit difference, of held-out pairs, in the clean direction; of channels half the difference of the
pair's two prompts, and an answer counts as right where that is above 0, of which a coin has half. A share is a ratio of
means over pairs and is not clipped; its interval is a bootstrap over pairs. How much circuits overlap, and by chance,
is in overlap.

When it lies: an early head that everything reads is shared by every task and says nothing of these. A random set of
MLPs hits a needed one more often than a random set of heads, as there are fewer; so the heads are also asked alone. To
fall, a metric needs only one needed part in the set: that the shared part as a whole is needed is not that each is. An
ablation by means of one task's prompts keeps what all of those have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np
import torch

from gossamer.ablation import MEANS_OF, Methodology, methodology, of_edges
from gossamer.circuit import Circuit
from gossamer.compare.parts import beyond_chance
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import Evidence, Null
from gossamer.graph import Layout
from gossamer.hypotheses import null_p_value
from gossamer.metric import answer_rank, logit_difference
from gossamer.replacement import replacement
from gossamer.set_overlap import Overlap, overlap_test
from gossamer.statistics import quantile_interval, resampled_means
from gossamer.subject import ResidualSubject, Subject, require_model_of
from gossamer.task import Task, sides

Progress = Callable[[int, int, float], None]
LEVEL = 0.05
SHARED, UNION = "the intersection", "the union"
GAP, RIGHT, AHEAD = "logit difference", "right answers", "right answers ahead of the wrong one"
OWN = "itself"
RANDOM, SAME_LAYERS = "random parts, as many heads and MLPs", "random heads of the same layers"
RANDOM_CHANNELS = "random channels, as many of every location"
CHANNELS_AT_ONCE = 2048  # rows of a pass at channel grain


@dataclass(frozen=True, kw_only=True)
class SharedCircuits:
    """shared, union: names of parts, in the order of the forward pass; own: per task those of its circuit alone.

    cross: circuits of tasks, then intersection and union, each on every task. joint: per task what ablating the shared
    part does to the metric, then to the answers; heads: the same of the shared heads alone, where they are not all.
    """

    shared: tuple[str, ...]
    union: tuple[str, ...]
    own: Mapping[str, tuple[str, ...]]
    cross: tuple[Evidence, ...]
    joint: tuple[Evidence, ...]


class OrderStability(NamedTuple):
    """overlap: mean Jaccard over all pairs of circuits, beside random ones of their sizes by type; heads: of heads
    alone, None where one has none; inclusion: share of the circuits that each part is in, of parts that are in any;
    core: those in at least `least` of them."""

    overlap: Overlap
    heads: Overlap | None
    inclusion: dict[str, float]
    core: tuple[str, ...]
    least: float


def shared_circuits(
    model: ResidualSubject | Subject, tasks: Mapping[str, tuple[Task, Circuit]], *, value: str | None = None,
    floor: float = 0.8, draws: int = 99, pairs: int = 64, pairs_at_once: int = 16, seed: int = 0,
    progress: Progress | None = None,
) -> SharedCircuits:  # fmt: skip
    """The shared part of two or more tasks, each with its circuit of this model, and what it does: see the module.

    value: of an ablation, see gossamer.replacement, default resample; means are over the task's first training pairs,
    as many as held-out ones. Of channels mean, the default, of the model's reference means, or zero. floor: share of
    the metric that cross-evaluation asks for. draws: random sets per number, of fewer than 19 what
    only chance decides is `not measured`; pairs: 2 or more; pairs_at_once: memory alone. progress(runs done, all runs,
    mean metric of the last). With nothing shared, the intersection is `not measured` and joint ablation `not reached`:
    there is nothing to ablate. Errors: BadInput for fewer than two tasks or pairs, a circuit of another model or
    without parts, or a model whose metric on a task is not above 0.
    """
    if len(tasks) < 2 or draws < 1 or pairs < 2 or not 0 < floor <= 1:
        raise BadInput(
            f"Expected two or more tasks, at least 1 draw and 2 pairs and a floor of above 0 to 1, got {len(tasks)}, "
            f"{draws}, {pairs} and {floor:g}."
        )
    residual = model if isinstance(model, ResidualSubject) else None
    fitted = {name: residual.fitting(task) if residual else task for name, (task, _) in tasks.items()}
    for name, asked in fitted.items():
        if len(asked.heldout) < 2:
            raise BadInput(
                f"Expected at least 2 held-out pairs of {name} that this model can be asked, got {len(asked.heldout)}: "
                "one pair has no interval."
            )
    grain = next(iter(tasks.values()))[1].layout.grain
    layout = model.graph(grain).layout
    names, kinds = parts_of(layout)
    sets = {}
    for task, (_, circuit) in tasks.items():
        require_model_of(circuit.record, model)
        sets[task] = _kept(circuit, layout, names)
        if not sets[task].any():
            raise BadInput(f"Expected circuits with parts, that of {task} has none.")
    every = np.stack(list(sets.values()))
    shared, union, alone = (np.asarray(x) for x in (every.all(0), every.any(0), every.sum(0) == 1))
    rng = np.random.default_rng(seed)
    kept = {name: s for name, s in {**sets, SHARED: shared, UNION: union}.items() if s.any()}
    rows = [np.zeros_like(shared), np.ones_like(shared)]  # what is ablated: nothing, everything
    for own in kept.values():
        rows += [~own, *~_random(own, kinds, draws, rng)]
    ablated = _ablated(shared, names, kinds, draws, rng, heads_too=residual is not None)
    random_parts = RANDOM if residual else RANDOM_CHANNELS
    for random in ablated.values():
        rows += [row for some in random.values() for row in some]
    how = _methodology(model, grain, value)
    cross: list[Evidence] = []
    falls: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for i, (task, asked) in enumerate(fitted.items()):
        told = _of_several(progress, i, len(tasks))
        if residual:
            gap, right = _Runs(residual, asked, how, pairs, pairs_at_once, seed).outcomes(np.stack(rows), names, told)
        else:
            gap, right = _channel_outcomes(cast(Subject, model), asked, how, pairs, layout, np.stack(rows), told)
        if not gap[0].mean() > 0:
            raise BadInput(
                f"Expected a model whose logit difference on {task} is above 0, {model.name} has {gap[0].mean():.3g}."
            )
        at = 2
        for name in kept:
            own = gap[at : at + 1 + draws]
            cross.append(_cross(name, task, own, gap[1], gap[0], how, floor, seed, random_parts))
            at += 1 + draws
        if SHARED not in kept:
            cross.append(_no_intersection(task, gap[1], gap[0], how, floor, seed))
        for name, random in ablated.items():
            stop = at + sum(map(len, random.values()))
            falls.setdefault((name, GAP), []).append((gap[0] - gap[at:stop], gap[0]))
            falls.setdefault((name, RIGHT if residual else AHEAD), []).append(
                (right[0] - right[at:stop], np.ones_like(gap[0]))
            )
            at = stop
    joint = [
        _joint(
            name, unit, dict(zip(tasks, found, strict=True)),
            [random_parts if null == RANDOM else null for null in list(ablated[name])[1:]], how, seed,
        )
        for (name, unit), found in falls.items()
    ]  # fmt: skip
    return SharedCircuits(
        shared=_named(names, shared), union=_named(names, union),
        own={task: _named(names, s & alone) for task, s in sets.items()}, cross=tuple(cross),
        joint=tuple(joint or [_nothing_shared(how, seed)]),
    )  # fmt: skip


def order_stability(
    circuits: Sequence[Circuit], *, least: float = 0.8, draws: int = 999, seed: int = 0
) -> OrderStability:  # fmt: skip
    """How alike two or more circuits of one task and model are that were found in other orders, by their parts.

    The null draws, for every circuit, a random set with as many heads and MLPs. BadInput for circuits of several
    models' layouts, for fewer than two, or for one without parts.
    """
    if len(circuits) < 2 or any(c.layout != circuits[0].layout for c in circuits):
        raise BadInput(f"Expected two or more circuits of one model's graph, got {len(circuits)} of one or several.")
    names, kinds = parts_of(circuits[0].layout)
    sets = np.stack([_kept(c, circuits[0].layout, names) for c in circuits])
    if not sets.any(1).all():
        raise BadInput("Expected circuits with heads or MLPs, one has none.")
    share, heads = sets.mean(0), sets & (kinds == 0) & (circuits[0].layout.grain != "channel")
    overlap, of_heads = (
        overlap_test([np.flatnonzero(s) for s in some], kinds, draws=draws, seed=seed) if some.any(1).all() else None
        for some in (sets, heads)
    )
    assert overlap is not None, "every circuit has parts"
    return OrderStability(
        overlap=overlap, heads=of_heads,
        inclusion={n: float(p) for n, p in zip(names, share, strict=True) if p},
        core=_named(names, share >= least), least=least,
    )  # fmt: skip


def parts_of(layout: Layout) -> tuple[tuple[str, ...], np.ndarray]:
    """(names of what writes besides the input, in the order of the forward pass; 1 where it is an MLP, else 0). At
    channel grain all channels, and the number of each one's location.

    Unsupported for another grain.
    """
    if layout.grain == "channel":
        widths = [width for _, width in layout.locations]
        return tuple(str(layout.site(i)) for i in range(layout.n_nodes)), np.repeat(np.arange(len(widths)), widths)
    if layout.grain not in ("head", "block"):
        raise Unsupported(
            f"the shared part of circuits at grain {layout.grain}", "its parts are heads and MLPs, or channels",
            "head, block or channel",
        )  # fmt: skip
    names = tuple(n for n, _ in layout.locations if n[0] in "am" and ".g" not in n)
    return names, np.array([n[0] == "m" for n in names], dtype=np.int64)


def _kept(circuit: Circuit, layout: Layout, names: Sequence[str]) -> np.ndarray:
    """bool [parts]"""
    if circuit.layout != layout:
        raise BadInput(
            f"Expected circuits of this model's graph at grain {layout.grain} ({layout.n_nodes} nodes), got one at "
            f"grain {circuit.layout.grain} of {circuit.layout.n_nodes} nodes."
        )
    places = np.arange(len(names)) if layout.grain == "channel" else [layout.starts[n] for n in names]
    return np.isin(places, circuit.nodes)


def _named(names: Sequence[str], kept: np.ndarray) -> tuple[str, ...]:
    return tuple(names[i] for i in np.flatnonzero(kept).tolist())


def _random(own: np.ndarray, types: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Random sets with as many parts of every type, bool [draws, parts]; a draw may hit parts of its own."""
    found = np.zeros((draws, len(own)), dtype=bool)
    for kind in np.unique(types):
        members = np.flatnonzero(types == kind)
        for row in found:
            row[rng.choice(members, int(own[members].sum()), replace=False)] = True
    return found


def _of_several(progress: Progress | None, done: int, all_: int) -> Progress | None:
    if progress is None:
        return None
    return lambda step, total, number: progress(done * total + step, all_ * total, number)


def _ablated(
    shared: np.ndarray, names: Sequence[str], kinds: np.ndarray, draws: int, rng: np.random.Generator, heads_too: bool
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """What is ablated jointly, and random sets in its place, each bool [sets, parts]; empty where nothing is shared."""
    found: dict[str, dict[str, np.ndarray]] = {}
    heads = shared & (kinds == 0) & heads_too
    if shared.any():
        found["the shared part"] = {OWN: shared[None], RANDOM: _random(shared, kinds, draws, rng)}
    if heads.any() and (heads != shared).any():
        found["the shared heads"] = {OWN: heads[None], RANDOM: _random(heads, kinds, draws, rng)}
    if heads.any():
        layers = np.array([-1 if k else int(n[1:].partition(".")[0]) for n, k in zip(names, kinds, strict=True)])
        next(reversed(found.values()))[SAME_LAYERS] = _random(heads, layers, draws, rng)
    return found


class _Runs:
    """Held-out pairs' clean prompts of a task under ablations of parts."""

    @torch.no_grad()
    def __init__(
        self, model: ResidualSubject, task: Task, how: Methodology, pairs: int, pairs_at_once: int, seed: int
    ) -> None:
        self.model, self.pairs_at_once = model, pairs_at_once
        self.heldout, training = (model.encode(split[:pairs]) for split in (task.heldout, task.train))
        self.replaced = replacement(model, training, how, seed=seed, pairs_at_once=pairs_at_once)

    @torch.no_grad()
    def outcomes(
        self, ablations: np.ndarray, names: Sequence[str], progress: Progress | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(logit difference, 1 where the right answer has the highest logit), [sets, pairs] each, of sets of parts
        that are ablated (bool [sets, parts]); equal ones are run once."""
        graph = self.model.graph()
        numbers = np.array([graph.layout.starts[n] for n in names])
        edges = np.flatnonzero(np.isin(graph.src, numbers))
        part = np.searchsorted(numbers, graph.src[edges])
        different, which = np.unique(ablations, axis=0, return_inverse=True)
        found = np.zeros((2, len(different), self.heldout.n_pairs))
        done, all_ = 0, len(different) * -(-self.heldout.n_pairs // self.pairs_at_once)
        for start in range(0, self.heldout.n_pairs, self.pairs_at_once):
            stop = min(start + self.pairs_at_once, self.heldout.n_pairs)
            clean, other = sides(self.heldout.pairs(start, stop))
            runs = self.model.ablations(clean, self.replaced(clean, other))
            writer, reader, _ = runs.places(edges)
            for first in range(0, len(different), runs.at_once):
                sets = torch.from_numpy(different[first : first + runs.at_once][:, part]).to(runs.clean)
                alpha = runs.clean.new_zeros(len(sets), *runs.table_shape)
                alpha[:, writer, reader] = sets
                logits = runs.logits(alpha, 0)
                for place, measured in enumerate((logit_difference(logits, clean), answer_rank(logits, clean) == 1)):
                    found[place, first : first + len(sets), start:stop] = measured.cpu().double().numpy()
                done += len(sets)
                if progress:
                    progress(done, all_, float(found[0, : first + len(sets), start:stop].mean()))
        gap, right = found[:, which.reshape(-1)]
        return gap, right


def _methodology(model: ResidualSubject | Subject, grain: str, value: str | None) -> Methodology:
    """How everything outside, or the shared part, is ablated."""
    if isinstance(model, ResidualSubject):
        return of_edges(value or "resample", granularity="node", component="block" if grain == "block" else "head")
    if value not in (None, "mean", "zero"):
        raise Unsupported(f"the shared part of channels, ablated by {value}", "it is built for constants", "mean, zero")
    means = replace(methodology("gao-mean"), reference=MEANS_OF[model.means_of])
    return methodology("zero-complement") if value == "zero" else means


@torch.no_grad()
def _channel_outcomes(
    model: Subject, task: Task, how: Methodology, pairs: int, layout: Layout, ablated: np.ndarray,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """As _Runs.outcomes: (half the difference of the pair's two prompts, 1 where it is above 0)."""
    heldout = model.encode(task.heldout[:pairs])
    different, which = np.unique(ablated, axis=0, return_inverse=True)
    found, at_once = list[np.ndarray](), max(1, CHANNELS_AT_ONCE // len(heldout.last))
    for start in range(0, len(different), at_once):
        keep = layout.split(~different[start : start + at_once])
        masks = {name: torch.from_numpy(m.astype(np.float32)) for name, m in keep.items()}
        gap = model.run(heldout, masks=masks, value=how.value).gap.view(-1, heldout.n_pairs, 2).mean(-1)
        found.append(gap.cpu().double().numpy())
        if progress:
            progress(start + len(gap), len(different), float(gap.mean()))
    every = np.concatenate(found)[which.reshape(-1)]
    return every, (every > 0).astype(np.float64)


def _cross(
    name: str, task: str, rows: np.ndarray, empty: np.ndarray, whole: np.ndarray, how: Methodology, floor: float,
    seed: int, random: str,
) -> Evidence:  # fmt: skip
    """rows [1 + draws, pairs]: the circuit, random ones."""
    shares = np.round(rows.mean(1) / whole.mean(), 9)  # ties of random sets are ties
    interval = quantile_interval(resampled_means(rows[0], seed) / resampled_means(whole, seed))
    p, smallest = null_p_value(float(shares[0]), shares[1:])
    verdict, few = beyond_chance(p, smallest, LEVEL, bool(shares[0] >= floor))
    return Evidence(
        claim=f"cross-evaluation ({name} on {task}): it leaves enough of the logit difference",
        value=float(shares[0]), unit=f"share of the whole model's {GAP}", interval=interval,
        n=len(whole), nulls=(
            Null(name=random, value=float(shares[1:].mean()), interval=quantile_interval(shares[1:]), n=len(rows) - 1),
            Null(name="empty circuit", value=float(empty.mean() / whole.mean()), n=len(whole)),
            Null(name="full circuit", value=1.0, n=len(whole)),
        ),
        verdict=verdict, methodology=how.as_dict(), seed=seed, limits={"floor": floor}, note=few.strip(),
        threshold=f"fails below {floor:g}, or if {random}, do as well with a probability above {LEVEL:g}",
        p_value=p, p_smallest=smallest,
    )  # fmt: skip


def _no_intersection(
    task: str, empty: np.ndarray, whole: np.ndarray, how: Methodology, floor: float, seed: int
) -> Evidence:  # fmt: skip
    return Evidence(
        claim=f"cross-evaluation ({SHARED} on {task}): it leaves enough of the logit difference", value=None,
        unit=f"share of the whole model's {GAP}", n=len(whole), verdict="not measured",
        nulls=(Null(name="empty circuit", value=float(empty.mean() / whole.mean()), n=len(whole)),),
        methodology=how.as_dict(), seed=seed, limits={"floor": floor}, threshold=f"fails below {floor:g}",
        note="Empty: the circuits have no part in common.",
    )  # fmt: skip


def _joint(
    name: str, unit: str, falls: Mapping[str, tuple[np.ndarray, np.ndarray]], nulls: Sequence[str], how: Methodology,
    seed: int,
) -> Evidence:  # fmt: skip
    """falls: of every task by how much ablating the set and random sets lowers it [1 + draws of every null, pairs], and
    of what that is a share [pairs]."""
    means = np.stack([f.mean(1) / of.mean() for f, of in falls.values()])  # [tasks, sets]
    least = np.round(means.min(0), 9)  # ties of random sets are ties
    draws = np.split(least[1:], len(nulls))
    p, smallest = null_p_value(float(least[0]), draws[0])
    verdict, few = beyond_chance(p, smallest, LEVEL, bool(least[0] > 0))
    own = np.stack([
        resampled_means(f[0], seed + i) / resampled_means(of, seed + i) for i, (f, of) in enumerate(falls.values())
    ]).min(0)  # fmt: skip
    each = ", ".join(f"{task} {fall:.3g}" for task, fall in zip(falls, means[:, 0], strict=True))
    return Evidence(
        claim=f"joint ablation ({name}, {unit}): every task needs it", value=float(least[0]),
        unit=f"share of the {unit} lost, least of all tasks", interval=quantile_interval(own),
        n=sum(len(of) for _, of in falls.values()),
        nulls=tuple(
            Null(name=f"{null} (median)", value=float(np.median(d)), interval=quantile_interval(d), n=len(d))
            for null, d in zip(nulls, draws, strict=True)
        ),
        verdict=verdict, methodology={**how.as_dict(), "set": "circuit"},
        seed=seed, threshold=f"fails if {nulls[0]}, lose as much on every task with a probability above {LEVEL:g}",
        note=f"By task: {each}.{few}", p_value=p, p_smallest=smallest,
    )  # fmt: skip


def _nothing_shared(how: Methodology, seed: int) -> Evidence:
    return Evidence(
        claim=f"joint ablation (the shared part, {GAP}): every task needs it", value=None,
        unit=f"share of the {GAP} lost, least of all tasks", n=0, verdict="not reached",
        methodology={**how.as_dict(), "set": "circuit"}, threshold="fails if nothing is shared", seed=seed,
        note="The circuits have no part in common: there is nothing to ablate.",
    )  # fmt: skip


def stability_evidence(name: str, circuits: Sequence[Circuit], *, draws: int = 999, seed: int = 0) -> Evidence:
    """That circuits of one task, by name, agree more than random ones of their sizes: see `order_stability`."""
    found = order_stability(circuits, draws=draws, seed=seed)
    own, heads = found.overlap, found.heads
    verdict, few = beyond_chance(own.p_value, own.smallest, LEVEL)
    told = "" if heads is None else f" Heads alone {heads.value:.3g}, random {heads.null:.3g}."
    return Evidence(
        claim=f"stability ({name}): circuits found in other ways agree more than random ones", value=own.value,
        unit="mean Jaccard overlap of parts", n=len(circuits), unit_of_n="circuits", seed=seed,
        nulls=(Null(name="random sets of their sizes", value=own.null, interval=own.null_interval, n=draws),),
        verdict=verdict, methodology=None, p_value=own.p_value,
        p_smallest=own.smallest, threshold=f"fails if random sets agree as much with a probability above {LEVEL:g}",
        note=f"In at least {found.least:.0%} of them: {', '.join(found.core) or 'nothing'}.{told}{few}",
    )  # fmt: skip
