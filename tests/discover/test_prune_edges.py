"""Edge pruning on a model whose needed edges are known, and a control on which it must not succeed."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import planted_model

from gossamer import BadInput, Example, LoadedModel, Task
from gossamer.discover import edge_prune_config, prune_edges
from gossamer.discover.prune_edges import thin, weakest_first

QUICK = {"k_coef": (3e-3,), "steps": 100, "batch_pairs": 16, "edge_coef": (3e-3,), "edge_steps": 80}


def two_ways() -> tuple[LoadedModel, Task]:
    """The planted mechanism twice, for left and right and for w0 and w1, with weak edges between the two; and pairs of
    either kind, so that both are needed."""
    model = planted_model(decoys=False)
    block, v = model.model.blocks[0], 2 * model.model.config.d_attn
    model.model.wte.weight.data[4, 4], model.model.wte.weight.data[5, 4] = 1.0, -1.0
    block.attn.c_attn.weight.data[v + 7, 4] = 2.0
    block.attn.c_proj.weight.data[8, 7] = 3.0
    model.model.lm_head.weight.data[:, 8] = model.model.lm_head.weight.data[:, 6]
    block.attn.c_attn.weight.data[v + 5, 4] = block.attn.c_attn.weight.data[v + 7, 3] = 0.002
    block.attn.c_proj.weight.data[6, 7] = block.attn.c_proj.weight.data[8, 5] = 0.002
    rng = random.Random(0)

    def example(sides: tuple[str, str]) -> Example:
        words = [f"w{rng.randrange(2, 11)}" for _ in range(rng.randint(2, 6))]
        at = rng.randrange(len(words))
        clean, other = (" ".join([*words[:at], side, *words[at:]]) for side in sides)
        return Example(clean=clean, counterfactual=other, answer=" L", wrong_answer=" R", template="toy")

    pairs = tuple(example(sides) for _ in range(32) for sides in (("left", "right"), ("w0", "w1")))
    return model, Task(name="two ways", version="1", description="", train=pairs, heldout=pairs)


def test_only_the_needed_edges_are_left() -> None:
    model, task = two_ways()
    found = prune_edges(model, task, edge_prune_config(**QUICK, target_loss=0.15))
    assert found.reached
    assert found.circuit.granularity == "edge"
    assert found.circuit.record.details["edges_of_node_circuit"] == 8
    ends = {
        (str(found.circuit.layout.site(s)), str(found.circuit.layout.site(d)))
        for s, d in zip(found.circuit.src.tolist(), found.circuit.dst.tolist(), strict=True)
    }
    assert ends == {
        ("0.attn.act_in:3", "0.attn.v:5"), ("0.attn.act_in:4", "0.attn.v:7"),
        ("0.attn.v:5", "0.attn.resid_delta:6"), ("0.attn.v:7", "0.attn.resid_delta:8"),
    }  # fmt: skip
    assert found.loss_train <= 0.15


def test_what_the_nodes_do_not_reach_the_edges_do_not(planted: LoadedModel, planted_pairs: Task) -> None:
    found = prune_edges(planted, planted_pairs, edge_prune_config(**QUICK, target_loss=1e-12))
    assert not found.reached
    assert found.circuit.granularity == "node"


def test_the_same_seed_gives_the_same_circuit() -> None:
    model, task = two_ways()
    a, b = (prune_edges(model, task, edge_prune_config(**QUICK, seed=3)) for _ in range(2))
    assert (a.circuit.nodes == b.circuit.nodes).all()
    assert (a.circuit.src == b.circuit.src).all()
    assert a.trials == b.trials


@given(st.sets(st.integers(0, 19)))
def test_thin_keeps_what_is_needed_and_nothing_else(needed: set[int]) -> None:
    left = thin(np.arange(20), lambda rest: needed <= set(rest.tolist()))
    assert set(left.tolist()) == needed


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(BadInput, match="edge_lr"):
        edge_prune_config(edge_lr=0)
    with pytest.raises(BadInput, match="edge_coef"):
        edge_prune_config(edge_coef=(-1.0,))


def test_weakest_first_leaves_out_what_costs_least() -> None:
    worth = np.array([5.0, 1.0, 3.0, 2.0, 4.0])

    def loss(left: np.ndarray) -> float:
        return float(worth.sum() - worth[left].sum())

    left = weakest_first(np.arange(5), loss, lambda rest: loss(rest) <= 6.5)
    assert set(left.tolist()) == {0, 4}  # 1, 2 and 3 cost 6 together; the next would cost 10
    assert len(weakest_first(np.arange(5), loss, lambda rest: True)) == 0
    assert len(weakest_first(np.arange(5), loss, lambda rest: False)) == 5
