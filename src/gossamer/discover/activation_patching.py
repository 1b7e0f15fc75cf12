"""Exact activation patching: what a node hands on is replaced by its value on the counterfactual prompt, node by node.

Vig et al. 2020 (arXiv 2004.12265), Meng et al. 2022 (arXiv 2202.05262), in the direction that is called noising: the
clean prompt is run, and one node gets its counterfactual value, at all positions or chosen ones. A head or MLP: all
edges out of it are ablated at once. A key-value group: its heads get the counterfactual keys and values. `input` and
`logits`: the whole counterfactual prompt. With `attention_parts` the queries, keys and values of every head (or group)
are nodes as well, named `a5.h1<q>`, after all others.

When it lies: one node at a time. Of two nodes that do the same work neither looks needed; a node that only matters
together with another is not seen; and a score says nothing of what the node sends where (path_patching.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gossamer.discover.eap import Progress, training_pairs
from gossamer.discover.edge_patching import (
    SIGN,
    EdgePatchingConfig,
    ablated_alone,
    named,
    probe_of_sets,
    record_of,
)
from gossamer.discover.room import probed
from gossamer.errors import Unsupported, options
from gossamer.graph import Graph, Layout
from gossamer.registry import method
from gossamer.scores import Scores
from gossamer.subject import Probe, ResidualSubject
from gossamer.task import Task


class ActivationPatchingConfig(EdgePatchingConfig):
    """attention_parts: also the queries, keys and values of every head or key-value group, each alone."""

    attention_parts: bool = False


def activation_patching_config(**changes: Any) -> ActivationPatchingConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(ActivationPatchingConfig, changes, "set of options")


@method("activation-patching")
def activation_patching(
    model: ResidualSubject, task: Task, config: ActivationPatchingConfig | None = None, *,
    progress: Progress | None = None,
) -> Scores:  # fmt: skip
    """Exact scores of all nodes on the task's training pairs, in units of the metric per node ablated.

    Nodes are numbered as in the graph of heads or blocks; parts of attention come after them. progress(runs done, all
    runs, largest size so far).
    """
    config = config or ActivationPatchingConfig()
    graph = model.graph()
    if config.attention_parts and graph.layout.grain != "head":
        raise Unsupported(
            f"parts of attention at grain {graph.layout.grain}", "its heads are one node", "grain head, or no parts"
        )
    layout = with_parts(graph) if config.attention_parts else graph.layout
    task, pairs = training_pairs(model, task, config)
    sets = [edges_of(graph, name) for name, _ in layout.locations]
    found = ablated_alone(model, pairs, config, sets, progress, name="activation-patching")
    sign, how = SIGN.format(what="node"), named(config.positions, graph.layout.grain)
    record = record_of("activation-patching", config, model, task, pairs, sign=sign, methodology=how)
    return Scores(layout=layout, values=found.mean(1), record=record, signed=True)


@probed("activation-patching")
def _probe(model: ResidualSubject, config: ActivationPatchingConfig) -> Probe:
    return probe_of_sets(model, config, np.flatnonzero(model.graph().src == 0))


def with_parts(graph: Graph) -> Layout:
    """The nodes of a graph, and after them what each reads for its queries, keys and values: `a5.h1<q>`."""
    names = list(graph.layout.starts)
    into = np.unique(np.stack([graph.dst, graph.matrix]), axis=1).T.tolist()
    parts = [f"{names[node]}<{graph.matrices[m]}>" for node, m in into if graph.matrices[m] in ("q", "k", "v")]
    return Layout(grain=graph.layout.grain, locations=(*graph.layout.locations, *((p, 1) for p in parts)))


def edges_of(graph: Graph, name: str) -> np.ndarray:
    """The edges that replace what a node hands on: all out of it, or all into one that writes nothing itself.

    A part of attention, a key-value group and `logits` hand on what they read: with every edge into them ablated they
    read the counterfactual run's residual stream.
    """
    node, _, part = name.partition("<")
    number = graph.layout.starts[node]
    if part:
        return np.flatnonzero((graph.dst == number) & (graph.matrix == graph.matrices.index(part.rstrip(">"))))
    out = np.flatnonzero(graph.src == number)
    return out if len(out) else np.flatnonzero(graph.dst == number)
