"""Iterative sweeps find the planted parts in any order, end where nothing can go, and equal the sequential rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from edge_helpers import metric_under
from patching_helpers import gap as gap_of
from patching_helpers import made, number_pairs
from taught import she_he, taught

from gossamer.ablation import of_edges
from gossamer.circuit import Circuit
from gossamer.discover import EAPConfig, IterativeSweepConfig, iterative_sweep, iterative_sweep_config
from gossamer.discover.iterative_sweep import Order
from gossamer.errors import BadInput
from gossamer.graph import nodes_around
from gossamer.models.huggingface import Blocks, Decoder
from gossamer.models.succession import Succession, succession

PAIRS = 2


@pytest.fixture(scope="module")
def planted() -> Succession:
    return succession(n=PAIRS)


def parts(circuit: Circuit) -> set[str]:
    names = {circuit.layout.locations[n][0] for n in circuit.nodes.tolist()}
    return {n for n in names if n[0] in "am" and ".g" not in n}


@pytest.mark.parametrize(
    ("name", "order"), [("numerals", "last-to-first"), ("number-words", "first-to-last"), ("months", 1)]
)
def test_planted_parts_are_found_in_any_order(planted: Succession, name: str, order: Order) -> None:
    config = IterativeSweepConfig(pairs=PAIRS, order=order, ablation="zero")
    circuit = iterative_sweep(planted.model, planted.tasks[name], config)
    assert parts(circuit) == planted.shared | planted.private[name]
    assert circuit.granularity == "node"
    details = circuit.record.details
    assert details["share"] > 0.999
    assert abs(details["share_of_empty"]) < 1e-9
    assert details["methodology"]["value"] == "zero"
    assert details["sweeps"] == 2  # one that removes, one that finds nothing more
    assert details["runs"] >= 40 + len(parts(circuit))
    assert details["passes"] < details["runs"]


def test_below_the_floor_that_all_need_which_part_stays_depends_on_the_order(planted: Succession) -> None:
    """The control: at 70% one of four quarters can go, the first that is tried, and no third."""
    whole, found = planted.shared | planted.private["months"], []
    for order in ("last-to-first", "first-to-last"):
        config = iterative_sweep_config(pairs=PAIRS, floor=0.7, order=order, ablation="zero")
        found.append(whole - parts(iterative_sweep(planted.model, planted.tasks["months"], config)))
    assert found == [{"a1.h3"}, {"a1.h0"}]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return taught()


@pytest.fixture(scope="module", params=["last-to-first", 0])
def swept(request: pytest.FixtureRequest, decoder: Decoder) -> Circuit:
    return iterative_sweep(decoder, she_he(), IterativeSweepConfig(pairs=8, order=request.param, ablation="resample"))


def gap(model: Decoder, circuit: Circuit) -> tuple[float, float]:
    """(mean logit difference of a circuit, of the whole model) by whole runs."""
    batch = model.encode(she_he().train[:8])
    graph = model.graph()
    alphas = (circuit.shares(graph, of_edges(granularity="node")), np.zeros(graph.n_edges))
    own, whole = (float(metric_under(model, batch, EAPConfig(), torch.from_numpy(a).float()).mean()) for a in alphas)
    return own, whole


def test_at_the_end_every_part_is_needed(decoder: Decoder, swept: Circuit) -> None:
    """Against whole runs: the circuit is above the floor, and below it without any single part."""
    own, whole = gap(decoder, swept)
    assert own >= 0.8 * whole
    assert np.isclose(swept.record.details["share"], own / whole, atol=1e-5)
    graph, starts = decoder.graph(), decoder.graph().layout.starts
    kept = parts(swept)
    assert 0 < len(kept) < len(decoder.shape.writers) - 1
    for part in kept:
        nodes = nodes_around(graph.layout, [starts[p] for p in kept - {part}])
        less = Circuit.from_nodes(graph, np.zeros(graph.n_edges), nodes.tolist(), record=swept.record)
        without, _ = gap(decoder, less)
        assert without < 0.8 * whole
        assert np.allclose(swept.weight[swept.src == starts[part]], own - without, atol=1e-4)


def test_several_trials_in_a_pass_decide_as_one_by_one(decoder: Decoder, swept: Circuit) -> None:
    config = IterativeSweepConfig(**swept.record.config)
    one_by_one = Decoder.ablations

    def single(*args: object) -> object:
        runs = one_by_one(*args)  # type: ignore[arg-type]
        return type("Single", (type(runs),), {"at_once": 1, "__init__": lambda self: vars(self).update(vars(runs))})()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "ablations", single)
        again = iterative_sweep(decoder, she_he(), config)
    assert parts(again) == parts(swept)
    assert again.record.details["passes"] > swept.record.details["passes"]


def test_edges_are_swept_within_the_parts(decoder: Decoder) -> None:
    config = IterativeSweepConfig(pairs=8, ablation="resample", then_edges=True)
    nodes = iterative_sweep(decoder, she_he(), config.model_copy(update={"then_edges": False}))
    edges = iterative_sweep(decoder, she_he(), config)
    assert edges.granularity == "edge"
    assert 0 < edges.n_edges < nodes.n_edges
    assert edges.record.details["sweeps"] >= nodes.record.details["sweeps"] + 1  # those of parts, then those of edges
    assert set(edges.nodes.tolist()) <= set(nodes.nodes.tolist())
    batch, graph = decoder.encode(she_he().train[:8]), decoder.graph()
    ablated = torch.from_numpy(edges.shares(graph, of_edges())).float()
    own = metric_under(decoder, batch, EAPConfig(), ablated).mean()
    assert own >= 0.8 * gap(decoder, nodes)[1]
    assert np.isclose(own / gap(decoder, nodes)[1], edges.record.details["share"], atol=1e-5)


def test_blocks_are_parts_too(decoder: Decoder) -> None:
    told: list[tuple[int, int, float]] = []
    circuit = iterative_sweep(
        Blocks(decoder), she_he(), IterativeSweepConfig(pairs=8), progress=lambda *now: told.append(now)
    )
    assert [done for done, _, _ in told] == sorted({done for done, _, _ in told})
    assert told[-1][0] == told[-1][1]
    assert circuit.layout.grain == "block"
    assert 0 < len(parts(circuit)) <= 4


def test_bad_input_is_named() -> None:
    with pytest.raises(BadInput, match="floor"):
        iterative_sweep_config(floor=1.5)
    with pytest.raises(BadInput, match="order"):
        iterative_sweep_config(order="sideways")
    assert iterative_sweep_config(order="3").order == 3  # as the command line gives it
    model, task = made("gpt2"), number_pairs()
    batch = model.encode(task.train)
    if float(gap_of(batch, model.writes(batch)[1])[::2].mean()) > 0:  # ask for the answer that it does not give
        pairs = tuple(replace(e, answer=e.wrong_answer, wrong_answer=e.answer) for e in task.train)
        task = replace(task, train=pairs)
    with pytest.raises(BadInput, match="no share of it to keep"):
        iterative_sweep(model, task, IterativeSweepConfig(ablation="resample"))
