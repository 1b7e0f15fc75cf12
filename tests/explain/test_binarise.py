"""psi is what the paper asks of it, and a circuit of two-valued variables is told from one that is not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import PLANTED_NODES, WORDS, planted_model, planted_task
from verify_helpers import circuit_of

from gossamer import BadInput, Example, LoadedModel, Task
from gossamer.circuit import Calibration
from gossamer.explain import BinariseConfig, Binarised, binarise, binarise_config
from gossamer.explain.binarise import gaps, psi, starts, two_valued
from gossamer.metric import calibrate, paired_accuracy, task_loss_nats
from gossamer.models.planted import with_means

FAST = BinariseConfig(steps=60, batch_pairs=16)
FLOATS = st.floats(-50, 50, width=32)


@given(x=st.lists(FLOATS, min_size=1, max_size=8), ends=st.tuples(FLOATS, FLOATS))
def test_psi_is_the_identity_at_1_and_a_step_at_0(x: list[float], ends: tuple[float, float]) -> None:
    low, high = (torch.tensor(e) for e in sorted(ends))
    values = torch.tensor(x)
    assert torch.equal(psi(values, low, high, torch.ones(())), values)
    step = psi(values, low, high, torch.zeros(()))
    assert torch.equal(step, torch.where(values < (low + high) / 2, low, high))


@given(ends=st.tuples(FLOATS, FLOATS), t=st.floats(0, 1, width=32))
def test_both_values_are_fixed_points_for_every_t(ends: tuple[float, float], t: float) -> None:
    low, high = (torch.tensor(e) for e in sorted(ends))
    if low < (low + high) / 2 <= high or low == high:  # not two floats without one between them
        assert torch.equal(psi(low, low, high, torch.tensor(t)), low)
        assert torch.equal(psi(high, low, high, torch.tensor(t)), high)


def test_gradients_pass_straight_to_x_and_to_the_side_that_was_taken() -> None:
    x = torch.tensor([[0.1, 0.9], [0.2, 0.3]], requires_grad=True)
    low, high = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    grad = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    (psi(x, low, high, torch.tensor([0.25, 0.5])) * grad).sum().backward()
    assert torch.equal(x.grad, grad)
    assert low.grad.tolist() == [0.75 * 5, 0.5 * 8]  # type: ignore[union-attr]
    assert high.grad.tolist() == [0.0, 0.5 * 2]  # type: ignore[union-attr]


def test_binarisation_at_t_1_leaves_the_run_as_it_is_bit_for_bit(small: LoadedModel) -> None:
    sites = tuple(f"{loc}:{i}" for loc, width in small.layout.locations for i in range(0, width, 2))
    circuit = circuit_of(small, sites)
    batch = small.encode([Example(clean="w1 w2", counterfactual="w3 w2 w4", answer=" L", wrong_answer=" R")])
    low, high = torch.full((2, circuit.n_nodes), -1.0), torch.full((2, circuit.n_nodes), 1.0)
    ablation = circuit.as_ablation("gao-mean")
    masks = {k: torch.from_numpy(v).float().expand(2, -1) for k, v in ablation.keep.items()}
    as_it_is = small.run(batch, masks=masks).gap.unflatten(0, (2, -1))
    t = torch.stack([torch.ones(circuit.n_nodes), torch.zeros(circuit.n_nodes)])
    edited = gaps(small, circuit, batch, low, high, t)
    assert torch.equal(edited[0], as_it_is[0])
    assert not torch.equal(edited[1], as_it_is[1])
    reads = small.run(batch, masks=masks, reads=("1.mlp.post_act",), then=two_valued(circuit, low, high, t)).reads
    assert set(reads["1.mlp.post_act"].unflatten(0, (2, -1))[1, ..., ::2].unique().tolist()) <= {-1.0, 1.0}


def test_a_calibrated_circuit_stays_calibrated(binary: tuple[LoadedModel, Task]) -> None:
    model, task = binary
    circuit = replace(circuit_of(model, PLANTED_NODES), calibration=Calibration(scale=2.0, shift=0.5))
    batch, low = model.encode(task.heldout), torch.zeros(1, 4)
    plain = model.run(batch, ablation=circuit.as_ablation("gao-mean")).gap
    assert torch.equal(gaps(model, circuit, batch, low, low, torch.ones(1, 4))[0], calibrate(plain, 2.0, 0.5))


def test_a_run_with_an_edit_is_the_same_read_or_not_and_in_parts(small: LoadedModel) -> None:
    words = random.Random(0)
    pairs = [
        Example(clean=f"w{words.randrange(9)} w1 w{words.randrange(9)}", counterfactual="w2 w5", answer=" L",
                wrong_answer=" R") for _ in range(300)
    ]  # fmt: skip
    circuit = circuit_of(small, tuple(f"0.mlp.post_act:{i}" for i in range(9)))
    edit = two_valued(circuit, *(torch.full((1, 9), v) for v in (-0.5, 0.7, 0.0)))
    batch = small.encode(pairs)
    with torch.no_grad():
        together = small.run(batch, then=edit).gap
    apart = small.run(batch, then=edit, reads=("final_resid",)).gap
    assert torch.allclose(together, apart, atol=1e-4)
    assert not torch.allclose(together, small.run(batch).gap, atol=1e-2)


def by_name(found: Binarised, which: int = 0) -> dict[str, float]:
    return {n.name: n.value or 0.0 for n in found.evidence[which].nulls}


def two_sides(n: int = 48, seed: int = 0) -> tuple[LoadedModel, Task]:
    """Every variable has exactly two values: channel 3 is +1 for left, the last word, and -1 for all other tokens."""
    model = planted_model(decoys=False).model
    model.wte.weight.data[:, 3] = -1.0
    model.wte.weight.data[0, 3] = 1.0
    attn = model.blocks[0].attn
    attn.c_attn.bias.data[2 * model.config.d_attn + 5] = 40.0  # value channel 5 is 24 or 56: another cut than its reads
    attn.c_proj.bias.data[6] = -84.0  # half-way between what 4 tokens with and without left write
    rng = random.Random(seed)

    def example() -> Example:
        rest = f"w{rng.randrange(11)} w{rng.randrange(11)}"
        return Example(clean=f"{rest} left", counterfactual=f"{rest} right", answer=" L", wrong_answer=" R")

    train, heldout = (tuple(example() for _ in range(n)) for _ in range(2))
    task = Task(name="sides", version="1", description="Say the side", train=train, heldout=heldout)
    return with_means(model, WORDS, "sides"), task


@pytest.fixture(scope="module")
def binary() -> tuple[LoadedModel, Task]:
    return two_sides()


@pytest.fixture(scope="module")
def found(binary: tuple[LoadedModel, Task]) -> Binarised:
    return binarise(*binary, circuit_of(binary[0], PLANTED_NODES), target_loss=0.3, config=FAST)


def test_a_planted_binary_circuit_is_binarised_without_loss(found: Binarised) -> None:
    loss, accuracy = found.evidence
    assert by_name(found)["start, not trained"] == pytest.approx(found.loss_before, abs=1e-5)
    assert loss.value <= found.loss_before + 1e-5  # type: ignore[operator]
    assert accuracy.value == found.accuracy_before == 1.0
    assert (loss.verdict, accuracy.verdict) == ("pass", "pass")
    assert by_name(found)["circuit as it is"] == found.loss_before
    assert [str(n.site) for n in found.nodes] == list(PLANTED_NODES)
    assert all(n.low < n.cut < n.high for n in found.nodes)


def test_its_controls_fail(found: Binarised) -> None:
    loss, accuracy = by_name(found), by_name(found, 1)
    assert loss["all nodes at their means"] > 0.69
    assert accuracy["all nodes at their means"] == 0
    assert loss["values of other nodes, at random"] > found.loss_before + 0.2
    assert all(n.loss_constant > 0.6 > n.loss_alone for n in found.nodes)


def graded(n: int = 48, seed: int = 0) -> tuple[LoadedModel, Task]:
    """left and right are weak (+0.3, -0.3), w0 and w1 strong (+5, -5): the answer is the sign of their sum. One word
    alone decides in half of the pairs, a strong one against a weak one in the rest."""
    model = planted_model(decoys=False).model
    model.wte.weight.data[:, 3] = 0
    for token, value in ((0, 0.3), (1, -0.3), (4, 5.0), (5, -5.0)):
        model.wte.weight.data[token, 3] = value
    model.lm_head.weight.data *= 8
    rng = random.Random(seed)

    def example(i: int) -> Example:
        sides = (["left"], ["right"]) if i % 2 else (["w0", "right"], ["left", "w1"])
        rest = [f"w{rng.randrange(2, 11)}" for _ in range(rng.randint(1, 3))]
        clean, other = (" ".join([*rest, *side]) for side in sides)
        return Example(clean=clean, counterfactual=other, answer=" L", wrong_answer=" R")

    train, heldout = (tuple(example(i) for i in range(n)) for _ in range(2))
    task = Task(name="graded", version="1", description="Sign of a sum", train=train, heldout=heldout)
    return with_means(model, WORDS, "graded"), task


def test_a_graded_variable_cannot_be_binarised() -> None:
    """Two values of channel 3 either confuse left with right, or a strong word with a weak one."""
    model, task = graded()
    graded_found = binarise(model, task, circuit_of(model, PLANTED_NODES), target_loss=0.15, config=FAST)
    assert graded_found.accuracy_before == 1.0
    assert graded_found.loss_before < 0.15
    loss, accuracy = graded_found.evidence
    assert accuracy.value <= 0.5  # type: ignore[operator]
    assert loss.value > 0.3  # type: ignore[operator]
    assert loss.verdict == "fail"


def test_the_start_is_the_best_of_three_cuts_of_the_nodes_own_values(planted: LoadedModel) -> None:
    circuit, task = circuit_of(planted, PLANTED_NODES), planted_task(24)
    batch = planted.encode(task.train)
    low, high, width = starts(planted, circuit, batch)
    site = circuit.sites.index(next(s for s in circuit.sites if s.location == "0.attn.act_in"))
    reads = planted.run(batch, reads=("0.attn.act_in",)).reads["0.attn.act_in"][..., 3]
    real = torch.arange(reads.shape[1]) <= batch.last[:, None]
    x = reads[real]
    assert float(width[site]) == pytest.approx(float(x.max() - x.min()), rel=1e-5)
    cuts = [x.min() + f * (x.max() - x.min()) for f in (0.25, 0.5, 0.75)]
    pairs = [(float(x[x < c].mean()), float(x[x >= c].mean())) for c in cuts]
    losses = []
    for a, b in pairs:
        lows, highs, t = torch.zeros(1, 4), torch.zeros(1, 4), torch.ones(1, 4)
        lows[0, site], highs[0, site], t[0, site] = a, b, 0.0
        losses.append(float(task_loss_nats(gaps(planted, circuit, batch, lows, highs, t)).mean()))
    assert (float(low[site]), float(high[site])) == pytest.approx(pairs[losses.index(min(losses))], rel=1e-4)


def test_a_training_that_ends_worse_keeps_its_start(binary: tuple[LoadedModel, Task]) -> None:
    circuit, config = circuit_of(binary[0], PLANTED_NODES), BinariseConfig(steps=6, batch_pairs=4, lr=50.0)
    kept = binarise(*binary, circuit, target_loss=0.3, config=config)
    assert kept.evidence[0].value == by_name(kept)["start, not trained"]


def test_same_seed_same_bits(binary: tuple[LoadedModel, Task], found: Binarised) -> None:
    assert found == binarise(*binary, circuit_of(binary[0], PLANTED_NODES), target_loss=0.3, config=FAST)


def test_nothing_to_binarise_and_wrong_options_are_refused(planted: LoadedModel) -> None:
    with pytest.raises(BadInput, match="empty"):
        binarise(planted, planted_task(4), circuit_of(planted, ()), target_loss=0.15)
    with pytest.raises(BadInput, match="lr"):
        binarise_config(lr=-1.0)


def test_the_numbers_are_those_of_the_edited_circuit(binary: tuple[LoadedModel, Task], found: Binarised) -> None:
    low, high = (torch.tensor([[getattr(n, k) for n in found.nodes]]) for k in ("low", "high"))
    model, task = binary
    batch = model.encode(task.heldout)
    z = gaps(model, circuit_of(model, PLANTED_NODES), batch, low, high, torch.zeros(1, 4))[0]
    assert float(task_loss_nats(z).mean()) == pytest.approx(found.evidence[0].value, abs=1e-6)
    assert float(paired_accuracy(z).mean()) == found.evidence[1].value
