"""Pruning recovers what was planted, says so when it cannot, and is the algorithm of the paper."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from toys import PLANTED_NODES, planted_task, random_model

from gossamer.discover import PruneConfig, prune, prune_config
from gossamer.discover.mask_training import Adam, _losses, _worst_half, train_masks
from gossamer.discover.prune import FEW_PAIRS, Sizes, circuit_loss, cut_at, mask_ranking
from gossamer.errors import BadInput
from gossamer.metric import LN2, task_loss_nats
from gossamer.models import LoadedModel
from gossamer.site import Site
from gossamer.task import Encoded, Task

QUICK = {"steps": 150, "lr": 3e-2, "batch_pairs": 16, "k_coef": (1e-3, 1e-2)}


def test_the_planted_circuit_is_found_exactly(planted: LoadedModel, planted_pairs: Task) -> None:
    found = prune(planted, planted_pairs, prune_config(**QUICK))
    assert found.reached
    assert tuple(map(str, found.circuit.sites)) == PLANTED_NODES
    assert found.circuit.n_edges == 2
    assert found.loss_heldout <= 0.15
    assert found.accuracy_heldout == 1.0


def test_an_impossible_task_is_not_reached_with_the_best_found(planted: LoadedModel, planted_pairs: Task) -> None:
    """Control that must fail: swapped sides in half of the pairs carry no signal."""
    twisted = tuple(
        e if i % 2 else type(e)(clean=e.counterfactual, counterfactual=e.clean, answer=e.answer,
                                wrong_answer=e.wrong_answer)
        for i, e in enumerate(planted_pairs.train)
    )  # fmt: skip
    task = Task(name="noise", version="1", description="", train=twisted, heldout=twisted)
    found = prune(planted, task, prune_config(**QUICK))
    assert not found.reached
    assert not any(t.reached for t in found.trials)
    assert found.loss_heldout >= LN2 - 1e-3


def test_a_target_below_the_whole_model_is_not_reached(planted: LoadedModel, planted_pairs: Task) -> None:
    found = prune(planted, planted_pairs, prune_config(**{**QUICK, "target_loss": 1e-12}))
    assert not found.reached
    assert found.circuit.n_nodes > 0


def test_the_cut_is_the_smallest_that_meets_the_target(planted: LoadedModel, planted_pairs: Task) -> None:
    found = prune(planted, planted_pairs, prune_config(**QUICK))
    sample = planted.encode(planted_pairs.train)
    graph, weights = planted.graph("channel"), planted.edge_weights(planted.graph("channel"))
    ranking = found.scores.ranking()
    k = found.circuit.n_nodes
    assert set(ranking[:k]) == set(found.circuit.nodes)
    smaller = type(found.circuit).from_nodes(graph, weights, ranking[: k - 1], record=found.circuit.record)
    assert float(circuit_loss(planted, smaller, sample).mean()) > 0.15
    assert float(circuit_loss(planted, found.circuit, sample).mean()) <= 0.15
    assert found.loss_train == pytest.approx(float(circuit_loss(planted, found.circuit, sample).mean()), abs=1e-6)


@pytest.mark.parametrize(("few_meet", "all_meet"), [(7, 7), (30, 30), (3, 7), (1, 30), (5, 300)])
def test_a_few_pairs_save_runs_but_do_not_decide_the_cut(
    planted: LoadedModel, monkeypatch: pytest.MonkeyPatch, few_meet: int, all_meet: int
) -> None:
    whole = list[int]()

    def loss_at(_: object, graph: object, nodes: np.ndarray, sample: Encoded, calibrated: bool) -> tuple[float, None]:
        if sample.n_pairs > FEW_PAIRS:
            whole.append(len(nodes))
        return float(len(nodes) < (few_meet if sample.n_pairs == FEW_PAIRS else all_meet)), None

    monkeypatch.setattr(importlib.import_module("gossamer.discover.prune"), "loss_at", loss_at)
    graph, sample = planted.graph("channel"), planted.encode(planted_task(FEW_PAIRS + 1).train)
    tau = torch.arange(20.0, 20.0 - graph.layout.n_nodes, -1.0)
    sizes = Sizes(planted, graph, mask_ranking(np.arange(graph.layout.n_nodes), tau), sample, calibrated=False)
    cut = cut_at(sizes, 0.15)
    assert (cut.reached, cut.nodes.tolist()) == (True, list(range(all_meet)))
    assert (cut.point.nodes, cut.point.loss_nats) == (all_meet, 0.0)
    if few_meet == all_meet:
        assert whole == [all_meet]
    assert len(whole) == len(set(whole)) == len(sizes.curve())


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(planted: LoadedModel, planted_pairs: Task) -> None:
    a, b, c = (prune(planted, planted_pairs, prune_config(**{**QUICK, "steps": 20}, seed=s)) for s in (1, 1, 2))
    assert (a.scores.values == b.scores.values).all()
    assert (a.circuit.nodes == b.circuit.nodes).all()
    assert (a.scores.values != c.scores.values).any()


def test_trials_trained_together_equal_trials_trained_alone(planted: LoadedModel, planted_pairs: Task) -> None:
    train = planted.encode(planted_pairs.train)
    graph = planted.graph("channel")
    config = prune_config(**{**QUICK, "steps": 40, "k_coef": (3e-4, 3e-3, 1e-2)})
    together = train_masks(planted, graph, train, [config])
    for i, k in enumerate(config.k_coef):
        alone = train_masks(planted, graph, train, [config.model_copy(update={"k_coef": (k,)})])
        assert torch.allclose(together[i], alone[0], atol=1e-4)


def test_masks_stay_in_bounds_and_start_on(small: LoadedModel, planted_pairs: Task) -> None:
    train = small.encode(planted_pairs.train)
    graph = small.graph("channel")
    tau = train_masks(small, graph, train, [PruneConfig(steps=60, lr=0.2, k_coef=(0.1,), batch_pairs=8)])
    assert tau.abs().max() <= 1
    first = train_masks(small, graph, train, [PruneConfig(steps=1, lr=1e-9, k_coef=(0.1,), batch_pairs=8)])
    assert (first > 0).all()


def test_tied_masks_keep_query_and_key_channels_together(planted_pairs: Task) -> None:
    model = random_model(seed=4)
    found = prune(
        model, planted_pairs, PruneConfig(steps=30, k_coef=(0.01,), tied=True, target_loss=0.69, batch_pairs=8)
    )
    kept = found.circuit.kept_by_location()
    for i in range(2):
        assert (kept[f"{i}.attn.q"] == kept[f"{i}.attn.k"]).all()
    assert found.circuit.tied


def test_calibration_reaches_targets_that_scale_alone_misses(planted: LoadedModel, planted_pairs: Task) -> None:
    planted.model.lm_head.weight.data.mul_(0.05)  # the right answer, said too quietly for the target
    quiet = prune(planted, planted_pairs, prune_config(**QUICK))
    loud = prune(planted, planted_pairs, prune_config(**QUICK, calibrate=True))
    assert not quiet.reached
    assert loud.reached
    assert loud.circuit.calibration is not None
    assert loud.circuit.calibration.scale > 1


def test_the_penalty_is_on_the_scale_of_the_halved_loss(planted: LoadedModel) -> None:
    """One step's gradient, written out: d/dtau [task_loss_nats + k * nodes] through the sigmoid's slope."""
    task = planted_task(8)
    train, graph = planted.encode(task.train), planted.graph("channel")
    config = PruneConfig(steps=1, k_coef=(0.01,), batch_pairs=8, init_noise_scale=0.0, weight_decay=0.0, lr=1e-3)
    m = torch.ones(graph.layout.n_nodes, requires_grad=True)
    masks = {k: m[graph.layout.starts[k] : graph.layout.starts[k] + w] for k, w in graph.layout.locations}
    (task_loss_nats(planted.run(train, masks=masks).gap).mean() + 0.01 * m.sum()).backward()
    tau = train_masks(planted, graph, train, [config])[0]
    # Adam's first step moves each tau by lr against the sign of its gradient.
    moved = torch.sign(0.1 - tau)
    assert torch.equal(moved[m.grad.abs() > 1e-7], torch.sign(m.grad[m.grad.abs() > 1e-7]))


@pytest.mark.parametrize(("pairs", "size"), [(40, 32), (63, 32), (7, 32), (64, 32)])
def test_every_pair_is_trained_on(pairs: int, size: int) -> None:
    number = torch.arange(pairs).repeat_interleave(2)
    batches = Encoded(number[:, None], torch.zeros_like(number), number, number).batches(size, seed=0)
    seen = [i for _ in range(-(-pairs // size)) for i in next(batches).answer[::2].tolist()]
    assert sorted(seen) == list(range(pairs))


def test_scores_rank_all_nodes_once(planted: LoadedModel, planted_pairs: Task) -> None:
    found = prune(planted, planted_pairs, prune_config(**QUICK))
    ranking = found.scores.ranking()
    assert sorted(ranking) == list(range(len(ranking)))
    assert (np.diff(found.scores.values[ranking]) <= 0).all()


@pytest.mark.parametrize("changes", [{"steps": 0}, {"target_loss": -1}, {"banana": 1}, {"lr": 0}])
def test_options_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=next(iter(changes))):
        prune_config(**changes)


def test_the_optimizer_is_adamw_with_a_row_of_options_each() -> None:
    generator = torch.Generator().manual_seed(0)
    start = (0.3 * torch.randn(3, 40, generator=generator)).clamp(-0.9, 0.9)
    options = {"beta2": [0.9, 0.95, 0.99], "weight_decay": [0.0, 0.1, 0.5], "grad_clip": [1e9, 1.0, 0.1]}
    ours = start.clone().requires_grad_()
    adam = Adam(ours, **{k: torch.tensor(v)[:, None] for k, v in options.items()})
    rows = [r.clone().requires_grad_() for r in start]
    theirs = [
        torch.optim.AdamW([r], betas=(0.9, b), weight_decay=w)
        for r, b, w in zip(rows, options["beta2"], options["weight_decay"], strict=True)
    ]
    for step in range(30):
        grad = torch.randn(3, 40, generator=generator)
        lr = 1e-2 / (1 + step)
        ours.grad = grad.clone()
        adam.step(torch.full((3, 1), lr))
        for i, (row, optimizer) in enumerate(zip(rows, theirs, strict=True)):
            row.grad = grad[i].clone()
            torch.nn.utils.clip_grad_norm_(row, options["grad_clip"][i])
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
    assert torch.allclose(ours.detach(), torch.stack([r.detach() for r in rows]), atol=1e-6)
    assert not torch.allclose(ours.detach(), start, atol=1e-3)


@pytest.mark.parametrize("ablated", ["random", "adversarial"])
def test_the_planted_circuit_is_found_when_only_some_of_the_complement_is_ablated(
    planted: LoadedModel, planted_pairs: Task, ablated: str
) -> None:
    config = prune_config(**{**QUICK, "steps": 60, "k_coef": (1e-2,), "lr": 5e-2}, ablated=ablated)
    found = prune(planted, planted_pairs, config)
    assert found.reached
    assert tuple(map(str, found.circuit.sites)) == PLANTED_NODES
    train, graph = planted.encode(planted_pairs.train), planted.graph("channel")
    again, same = (train_masks(planted, graph, train, [config.model_copy(update={"steps": 5})]) for _ in range(2))
    assert torch.equal(again, same)


def test_an_adversary_finds_the_half_that_hurts(planted: LoadedModel, planted_pairs: Task) -> None:
    """With the mechanism outside the mask, sparing it helps the task: the adversary ablates it, chance only half."""
    graph, batch = planted.graph("channel"), planted.encode(planted_pairs.train)
    m = torch.zeros(1, graph.layout.n_nodes)
    rate = torch.randn(1, graph.layout.n_nodes, generator=torch.Generator().manual_seed(0))
    mechanism = [graph.layout.number(Site.parse(s)) for s in PLANTED_NODES]
    rate[0, mechanism] = 0.5  # spared at first
    worst = _worst_half(planted, graph, batch, m, rate, torch.arange(graph.layout.n_nodes))
    before, after = (_losses(planted, graph, batch, (r > 0).float()) for r in (rate, worst))
    assert float(before) < 0.3
    assert float(after) >= LN2 - 1e-3


def test_masks_of_one_pass_are_trained_against_one_ablation(planted: LoadedModel, planted_pairs: Task) -> None:
    train, graph = planted.encode(planted_pairs.train), planted.graph("channel")
    config = prune_config(**{**QUICK, "steps": 30})
    other = config.model_copy(update={"ablated": "random"})
    assert not torch.equal(train_masks(planted, graph, train, [config]), train_masks(planted, graph, train, [other]))
    with pytest.raises(BadInput, match="ablated"):
        train_masks(planted, graph, train, [config, other])
