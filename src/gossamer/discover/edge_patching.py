"""Exact edge patching: every edge ablated alone, by a run of its own.

What ACDC's first step and EAP's guess are about (Conmy et al. 2023, arXiv 2304.14997; Syed et al. 2023, arXiv
2310.10348): the reader of one edge gets the writer's value of the counterfactual prompt, everything after it is
computed again, and the score is what the metric changes by. Equal to one whole run per edge; a run starts at the layer
of the edge and at the first token in which the prompts differ, and several run in one pass.

When it lies: one edge at a time. Where either of two edges is enough, ablating one changes nothing and both look
useless; where a later part makes up for an ablated one, the edge looks less needed than it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, Field

from gossamer.ablation import of_edges
from gossamer.discover.eap import MetricConfig, Progress, per_pair, training_pairs
from gossamer.discover.room import probed, room_for
from gossamer.errors import BadInput, options
from gossamer.record import Record
from gossamer.registry import method
from gossamer.replacement import resampled
from gossamer.scores import EdgeScores
from gossamer.subject import Budgeted, Probe, ResidualSubject
from gossamer.task import Encoded, Task, sides

SIGN = "change of the metric when the {what} is ablated: negative where the metric needs it"


class EdgePatchingConfig(MetricConfig):
    """As for EAP, with fewer pairs: the cost is a run per edge and batch of pairs. positions: where edges are ablated,
    `all`, `last` or a span of the pairs."""

    pairs: int = Field(default=16, gt=0)
    positions: str = "all"


def edge_patching_config(**changes: Any) -> EdgePatchingConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(EdgePatchingConfig, changes, "set of options")


@method("edge-patching")
def edge_patching(
    model: ResidualSubject, task: Task, config: EdgePatchingConfig | None = None, *, progress: Progress | None = None
) -> EdgeScores:
    """Exact scores of all edges on the task's training pairs, in units of the metric per edge ablated.

    progress(runs done, all runs, largest size so far).
    """
    config = config or EdgePatchingConfig()
    graph = model.graph()
    task, pairs = training_pairs(model, task, config)
    found = ablated_alone(model, pairs, config, np.arange(graph.n_edges)[:, None], progress)
    record = record_of(
        "edge-patching",
        config,
        model,
        task,
        pairs,
        sign=SIGN.format(what="edge"),
        methodology=named(config.positions, graph.layout.grain),
    )
    return EdgeScores(graph=graph, values=found.mean(1), record=record)


def named(positions: str, grain: str = "head") -> str | dict[str, str]:
    """The methodology of exact patching: a preset's name, or, at chosen positions or block grain, in full."""
    if positions == "all" and grain == "head":
        return "acdc-resample"
    return of_edges(component="block" if grain == "block" else "head", positions=positions).as_dict()


@torch.no_grad()
def ablated_alone(
    model: ResidualSubject, pairs: Encoded, config: MetricConfig, sets: Sequence[np.ndarray] | np.ndarray,
    progress: Progress | None = None, *, name: str = "edge-patching",
) -> np.ndarray:  # fmt: skip
    """What the metric of each pair changes by when each of these sets of edges is ablated alone, [sets, pairs].

    name: of the method, for its budget of memory. sets: indices of edges of the graph, none of them empty; an ablated
    edge carries the counterfactual prompt's value,
    at the positions that the pairs have chosen.
    """
    if len(sets) == 0:
        return np.zeros((0, pairs.n_pairs))
    sizes = np.array([len(s) for s in sets])
    edges = np.concatenate(list(sets))
    n = model.graph().n_edges
    if sizes.min() < 1 or edges.min() < 0 or edges.max() >= n:
        raise BadInput(f"Expected sets of edges with numbers of 0 to {n - 1}, got an empty set or another number.")
    starts = np.cumsum(sizes) - sizes
    found = np.zeros((len(sets), pairs.n_pairs))
    trials = trials_of(model, name, pairs.tokens.shape[1])
    room = room_for(model, pairs, config, name, most=config.pairs_at_once, trials=trials)
    batches = range(0, pairs.n_pairs, room.pairs)
    done = 0
    for begin in batches:
        end = min(begin + room.pairs, pairs.n_pairs)
        for some, change in _changes(model, pairs.pairs(begin, end), config, edges, starts, sizes, room.trials):
            found[some, begin:end] = change
            done += len(some)
            if progress:
                progress(done, len(sets) * len(batches), float(np.abs(found).max()))
    return found


def _changes(
    model: ResidualSubject, pairs: Encoded, config: MetricConfig, edges: np.ndarray, starts: np.ndarray,
    sizes: np.ndarray, trials: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """(sets, what they change [sets, pairs]) of one batch of pairs. What a pass has made is let go before the next:
    a budget of memory is of one."""
    clean, other = sides(pairs)
    runs = model.ablations(clean, resampled(model, clean, other))
    before = per_pair(config, clean, runs.clean)
    writer, reader, layer = runs.places(edges)
    first = np.minimum.reduceat(layer, starts)

    def change(some: np.ndarray) -> np.ndarray:
        alpha = torch.zeros(len(some), *runs.table_shape, dtype=runs.clean.dtype, device=runs.clean.device)
        for i, t in enumerate(some.tolist()):
            own = slice(starts[t], starts[t] + sizes[t])
            alpha[i, writer[own], reader[own]] = 1
        logits = runs.logits(alpha, int(first[some[0]]))
        return torch.stack([per_pair(config, clean, trial) - before for trial in logits]).cpu().double().numpy()

    for some in _chunks(first, min(runs.at_once, trials)):
        yield some, change(some)


IN_TRIALS = ("edge-patching", "activation-patching", "path-patching", "acdc")


def trials_of(model: ResidualSubject, name: str, length: int) -> Callable[[int], int] | None:
    """How many runs of pairs of so long prompts a pass of a method is worth; None where every run is one of its own."""
    if name not in IN_TRIALS or not isinstance(model, Budgeted):
        return None
    return lambda pairs: model.trials_at_once(pairs * length)


@probed("edge-patching")
def _probe(model: ResidualSubject, config: EdgePatchingConfig) -> Probe:
    return probe_of_sets(model, config, np.zeros(1, dtype=np.int64))


def probe_of_sets(model: ResidualSubject, config: MetricConfig, edges: np.ndarray) -> Probe:
    """The probe of sets of edges ablated alone, of which this is the one that reaches most."""

    def probe(pairs: Encoded, trials: int) -> Iterator[None]:
        clean, other = sides(pairs)
        runs = model.ablations(clean, resampled(model, clean, other))
        yield
        writer, reader, layer = runs.places(edges)
        alpha = torch.zeros(trials, *runs.table_shape, dtype=runs.clean.dtype, device=runs.clean.device)
        alpha[:, writer, reader] = 1
        logits = runs.logits(alpha, int(layer.min()))
        torch.stack([per_pair(config, clean, trial) for trial in logits]).cpu()
        yield

    return probe


def _chunks(first: np.ndarray, size: int) -> list[np.ndarray]:
    """Indices of trials that start in the same layer, at most `size` together."""
    order = np.argsort(first, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(first[order])) + 1)
    return [g[i : i + size] for g in groups for i in range(0, len(g), size)]


def record_of(
    name: str, config: BaseModel, model: ResidualSubject, task: Task, pairs: Encoded, *, sign: str, **details: Any
) -> Record:
    """How scores of a method were made; pairs that the model cannot be asked were left out, as it says."""
    model_hash, means_hash = model.hashes()
    return Record.now(
        method=name, config=config.model_dump(mode="json"), seed=0, model=model.name, model_sha256=model_hash,
        means_sha256=means_hash, task=task.name, task_version=task.version,
        details={"pairs": pairs.n_pairs, "left_out": dict(task.left_out), "sign": sign, **details},
    )  # fmt: skip
