"""Exact path patching: one sender's counterfactual value along given paths, everything else as in the clean run.

Two questions, two functions. A path is written in the names of the graph: `input->a0.h1<v>->a1.h2<q>->logits`.

`path_patching` (Wang et al. 2022, arXiv 2211.00593, appendix B): which senders does a set of receivers hear directly?
For every sender: what the receivers read is put together from the clean run's writes, with the counterfactual value of
the sender in the place of its own; then everything after the receivers is computed again from that. With
`through="mlps"` the MLPs between sender and receivers compute again too, as the paper has it, the heads do not.

`path_effects` (Goldowsky-Dill et al. 2023, arXiv 2304.05969): how much does the metric change along these paths alone?
The first node of each path carries its counterfactual value; the next reads it along this path and, for all else, what
it read in the clean run, and computes again; and so on to the logits. What a node on a path writes reaches others by
the paths given only. Paths that meet in a node reach it together.

When it lies: a path's effect is that of one change in an otherwise clean run. Effects of paths do not add up to that of
all of them where anything between is not linear, a norm among others; a path that only matters together with another
looks useless alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from gossamer.discover.eap import MetricConfig, Progress, per_pair, training_pairs
from gossamer.discover.edge_patching import EdgePatchingConfig, ablated_alone, named, probe_of_sets, record_of
from gossamer.discover.room import probed, room_for
from gossamer.errors import BadInput, Unsupported, nearest, options
from gossamer.graph import Graph
from gossamer.registry import method
from gossamer.scores import Scores
from gossamer.subject import Probe, ResidualSubject
from gossamer.task import Encoded, Task, sides

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.models.huggingface import Blocks, Decoder

SIGN = "change of the metric when {receivers} get the node's counterfactual value: negative where the metric needs it"


class PathPatchingConfig(EdgePatchingConfig):
    """receivers: what gets the sender's counterfactual value: `logits`, `m3`, or `a5.h1<q>`, also k and v (of a group
    `a5.g0<k>`); at block grain `a5`, `m3`. through: what lies between a sender and the receivers and computes again."""

    receivers: tuple[str, ...] = Field(default=("logits",), min_length=1)
    through: Literal["nothing", "mlps"] = "nothing"


def path_patching_config(**changes: Any) -> PathPatchingConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(PathPatchingConfig, changes, "set of options")


@method("path-patching")
def path_patching(
    model: Decoder | Blocks, task: Task, config: PathPatchingConfig | None = None, *, progress: Progress | None = None
) -> Scores:
    """Per sender the change of the metric by its direct effect on the receivers, on the task's training pairs.

    Nodes that do not come before a receiver, and those that write nothing, have 0. progress(senders done, all senders,
    largest size so far).
    """
    config = config or PathPatchingConfig()
    if config.positions != "all":
        raise Unsupported(
            f"path patching at positions {config.positions!r}", "what lies beside the path is held at all of them",
            "edge-patching or activation-patching",
        )  # fmt: skip
    graph = model.graph()
    known = {_reader_name(graph, e): None for e in range(graph.n_edges)}
    if unknown := [r for r in config.receivers if r not in known]:
        raise BadInput(f"Unknown receiver {unknown[0]!r}: {nearest(unknown[0], known)}")
    task, pairs = training_pairs(model, task, config)
    into = np.array([_reader_name(graph, e) in config.receivers for e in range(graph.n_edges)])
    senders = np.unique(graph.src[into])
    if config.through == "nothing" and not _hear_each_other(graph, into):  # ablating the sender's edges is then all
        found = ablated_alone(
            model, pairs, config, [np.flatnonzero(into & (graph.src == s)) for s in senders], progress,
            name="path-patching",
        )  # fmt: skip
    else:
        found = _one_by_one(model, pairs, config, senders, into, progress)
    values = np.zeros(graph.layout.n_nodes)
    values[senders] = found.mean(1)
    sign = SIGN.format(receivers=", ".join(config.receivers))
    record = record_of(
        "path-patching", config, model, task, pairs, sign=sign, methodology=named("all", graph.layout.grain)
    )
    return Scores(layout=graph.layout, values=values, record=record, signed=True)


def path_effects(
    model: ResidualSubject, pairs: Encoded, paths: Sequence[str], config: MetricConfig | None = None
) -> np.ndarray:
    """What the metric of each pair changes by along all of these paths together and nothing else, [pairs].

    A head's keys and values may be named by the head (`a1.h3<k>`) where its group reads them: the path then goes
    through that head alone, while `a1.g0<k>` goes through all heads of the group.
    """
    config = config or EdgePatchingConfig()
    if pairs.marks.positions != "all":
        raise Unsupported(
            f"paths at positions {pairs.marks.positions!r}", "what lies beside them is held at all of them",
            "pairs.choose('all')",
        )  # fmt: skip
    graph = model.graph()
    route = _route(graph, paths)
    found = np.zeros(pairs.n_pairs)
    for clean, other, begin, end in _batches(pairs, config):
        reference, plain = model.writes(clean)
        there, _ = model.writes(other)
        for number, name in enumerate(_writers(graph)):
            if name in route.senders:
                reference[number] = there[number]
        found[begin:end] = _changed(model, clean, config, route.alpha, reference, plain)
    return found


class _Route(NamedTuple):
    """alpha [edges] is 1 where an edge reads the reference (the sender's counterfactual, another's clean value)."""

    senders: set[str]
    alpha: np.ndarray


def _route(graph: Graph, paths: Sequence[str]) -> _Route:
    """Paths as shares of a run in which only the nodes on them compute anything new.

    An edge on a path reads what this run writes, from the second node on; from its sender it reads the counterfactual.
    Every other edge reads the clean run's value, but for a sender's, which is clean in this run since nothing new gets
    to it.
    """
    number = {(int(s), _reader_name(graph, e)): e for e, s in enumerate(graph.src)}
    starts, on, senders, later = graph.layout.starts, set[int](), set[str](), set[str]()
    writers = _writers(graph)
    if not paths:
        raise BadInput("Expected at least one path such as input->a0.h1<v>->logits, got none.")
    for path in paths:
        steps = path.split("->")
        if len(steps) < 2 or steps[-1] != "logits" or steps[0] not in writers:
            raise BadInput(
                f"Expected a path from a node that writes to logits, such as input->a0.h1<v>->logits, got {path!r}."
            )
        senders.add(steps[0])
        before = [steps[0]]
        for step in steps[1:]:
            reader, after = _step(graph, step)
            for name in before:
                edge = number.get((starts.get(name, -1), reader))
                if edge is None:
                    raise BadInput(f"{path!r} has no edge {name}->{step} in this model's graph; see graph().")
                on.add(edge)
            before = after
            later |= set(after)
    if both := sorted(senders & later):
        raise BadInput(
            f"{both[0]} is the first node of one path and a later node of another, and cannot have two values; patch "
            "these paths apart."
        )
    alpha = np.ones(graph.n_edges, dtype=np.float32)
    sent = np.isin(graph.src, [starts[s] for s in senders])
    alpha[sent] = 0
    alpha[sorted(on)] = sent[sorted(on)]
    return _Route(senders, alpha)


def _step(graph: Graph, step: str) -> tuple[str, list[str]]:
    """(the reader that a step of a path names, the nodes that write after it)."""
    node, _, part = step.partition("<")
    layer, _, place = node.partition(".")
    heads, groups = ([n for n in graph.layout.starts if n.startswith(f"{layer}.{kind}")] for kind in "hg")
    if not groups or not place[1:].isdigit() or part not in ("k>", "v>"):
        return step, [node]
    per_group = len(heads) // len(groups)
    if place[0] == "h":
        return f"{layer}.g{int(place[1:]) // per_group}<{part}", [node]
    return step, [f"{layer}.h{int(place[1:]) * per_group + i}" for i in range(per_group)]


def _one_by_one(
    model: Decoder | Blocks, pairs: Encoded, config: PathPatchingConfig, senders: np.ndarray, into: np.ndarray,
    progress: Progress | None,
) -> np.ndarray:  # fmt: skip
    """Change of the metric per sender [senders, pairs] where what the receivers read has to be held: a run per sender.

    A first run, with heads held at the clean run's values, gives what MLPs make of the sender; in the second all that
    the receivers read is given.
    """
    graph, found = model.graph(), np.zeros((len(senders), pairs.n_pairs))
    names, place = list(graph.layout.starts), {w: i for i, w in enumerate(_writers(graph))}
    mlps = [n for n in place if n.startswith("m")]
    live = np.isin(graph.src, [graph.layout.starts[m] for m in mlps])
    room = room_for(model, pairs, config, "path-patching", most=config.pairs_at_once)
    batches = list(_batches(pairs, config.model_copy(update={"pairs_at_once": room.pairs})))

    def change(sender: int, clean: Encoded, own: Tensor, there: Tensor, plain: Tensor) -> np.ndarray:
        """Of one sender; what its runs made is let go before the next one's."""
        name = names[sender]
        reference = own.clone()
        reference[place[name]] = there[place[name]]
        if config.through == "mlps":
            held = np.where(live & (graph.src != sender), 0, 1).astype(np.float32)
            made = model.written(clean, torch.from_numpy(held).to(reference), reference)
            for m in mlps:
                if m != name:
                    reference[place[m]] = made[place[m]]
            del made
        return _changed(model, clean, config, into.astype(np.float32), reference, plain)

    for b, (clean, other, begin, end) in enumerate(batches):
        own, plain = model.writes(clean)
        there, _ = model.writes(other)
        for i, sender in enumerate(senders.tolist()):
            found[i, begin:end] = change(sender, clean, own, there, plain)
            if progress:
                progress(b * len(senders) + i + 1, len(batches) * len(senders), float(np.abs(found).max()))
        del own, plain, there  # before the next batch's
    return found


@probed("path-patching")
def _probe(model: Decoder | Blocks, config: PathPatchingConfig) -> Probe:
    graph = model.graph()
    if config.through == "nothing":
        return probe_of_sets(model, config, np.flatnonzero(graph.src == 0))
    into = np.array([_reader_name(graph, e) in config.receivers for e in range(graph.n_edges)])

    def probe(pairs: Encoded, trials: int) -> Iterator[None]:
        one = config.model_copy(update={"memory": None, "pairs_at_once": pairs.n_pairs})
        _one_by_one(model, pairs, one, np.zeros(1, dtype=np.int64), into, None)
        yield

    return probe


@torch.no_grad()
def _changed(
    model: ResidualSubject, clean: Encoded, config: MetricConfig, alpha: np.ndarray, reference: Tensor, plain: Tensor
) -> np.ndarray:
    logits = model.patched(clean, torch.from_numpy(alpha).to(reference), reference)
    return (per_pair(config, clean, logits) - per_pair(config, clean, plain)).cpu().double().numpy()


def _batches(pairs: Encoded, config: MetricConfig) -> list[tuple[Encoded, Encoded, int, int]]:
    """(clean rows, counterfactual rows, first pair, end) of batches of pairs."""
    ends = [(i, min(i + config.pairs_at_once, pairs.n_pairs)) for i in range(0, pairs.n_pairs, config.pairs_at_once)]
    return [(*sides(pairs.pairs(begin, end)), begin, end) for begin, end in ends]


def _reader_name(graph: Graph, edge: int) -> str:
    name, what = graph.layout.locations[graph.dst[edge]][0], graph.matrices[graph.matrix[edge]]
    return f"{name}<{what}>" if what in ("q", "k", "v") else name


def _writers(graph: Graph) -> list[str]:
    """Nodes that write, in order: the nodes of a graph come in the order in which they write."""
    names = list(graph.layout.starts)
    return [names[n] for n in np.unique(graph.src)]


def _hear_each_other(graph: Graph, into: np.ndarray) -> bool:
    """Whether what one receiver reads can change what another reads, were it computed again.

    A node's write is read directly by all that comes later, so one step tells.
    """
    readers = {_reader_name(graph, int(e)) for e in np.flatnonzero(into)}
    changed = [graph.layout.starts[n] for r in readers for n in _step(graph, r)[1]]
    return bool(np.isin(graph.src[into], changed).any())
