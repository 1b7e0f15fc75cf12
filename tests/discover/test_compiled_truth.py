"""What each method finds in models whose true edges are known, where it errs, and that it finds nothing in noise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from compiled_helpers import edges_of, names, under
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.discover import (
    ACDCConfig,
    EAPIGConfig,
    EdgeMaskConfig,
    RandomConfig,
    acdc,
    acdc_config,
    eap,
    eap_ig,
    edge_mask,
    random_edges,
)
from gossamer.models.compiled import PROGRAMS, CompiledModel, Program, gate
from gossamer.task import Encoded, Task, sides

PARENTS = {"a0.h1->m0<mlp>", "a0.h2->m0<mlp>"}
VALUES = ["resample", "zero"]


@functools.cache
def program(name: str) -> Program:
    return PROGRAMS[name](n=4)


def truth(name: str, value: str = "resample") -> set[str]:
    p = program(name)
    return names(p.model.graph(), p.true_edges(value))


@functools.cache
def found(method: str, name: str, value: str = "resample") -> set[str]:
    """The edges that a method keeps."""
    p = program(name)
    model, graph = under(p.model, value), p.model.graph()
    if method == "acdc":
        return edges_of(graph, acdc(model, p.task, ACDCConfig(threshold=1e-3)))
    if method == "eap-ig":
        return edges_of(graph, eap_ig(model, p.task, EAPIGConfig(steps=5)).above(1e-6))
    return edges_of(graph, edge_mask(model, p.task, EdgeMaskConfig(steps=60, lr=0.2)).above(0.5))


def precision_and_recall(kept: set[str], true: set[str]) -> tuple[float, float]:
    return len(kept & true) / len(kept), len(kept & true) / len(true)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("method", "name"),
    [(m, n) for m in ("acdc", "eap-ig") for n in PROGRAMS if (m, n) != ("acdc", "or")]
    + [("edge-mask", n) for n in ("proportion", "and")],
)
def test_precision_and_recall_are_one_with_matched_truth(method: str, name: str, value: str) -> None:
    assert precision_and_recall(found(method, name, value), truth(name, value)) == (1, 1)


@pytest.mark.parametrize("method", ["acdc", "eap-ig", "edge-mask"])
def test_an_ablation_that_is_not_that_of_the_truth_errs_as_predicted(method: str) -> None:
    """Proportion has 3 edges under resampling, 5 under zero ablation: 2 are missed, or 2 are too many."""
    three, five = (truth("proportion", v) for v in VALUES)
    assert (len(three), len(five), three < five) == (3, 5, True)
    assert precision_and_recall(found(method, "proportion", "resample"), five) == (1, 3 / 5)
    assert precision_and_recall(found(method, "proportion", "zero"), three) == (3 / 5, 1)


def swapped(task: Task) -> Task:
    """The other direction: the counterfactual prompt is run, and parts of the clean one are put into it."""
    return replace(task, train=tuple(
        replace(e, clean=e.counterfactual, counterfactual=e.clean, answer=e.wrong_answer, wrong_answer=e.answer)
        for e in task.train
    ))  # fmt: skip


def by_order(name: str, order: str, task: Task | None = None) -> Circuit:
    p = program(name)
    return acdc(p.model, task or p.task, acdc_config(threshold=1e-3, order=order))


def test_acdc_keeps_one_parent_of_an_or_and_which_one_depends_on_the_order() -> None:
    """The remedies: the other direction finds both, and there an AND is an OR; so the union of both directions, or of
    both orders, has all edges of every gate."""
    for name in ("and", "or", "add"):
        p = program(name)
        graph, true = p.model.graph(), truth(name)
        there, back = by_order(name, "reverse"), by_order(name, "forward")
        other = by_order(name, "reverse", swapped(p.task))
        kept, kept_back, kept_other = (edges_of(graph, c) & PARENTS for c in (there, back, other))
        if name == "or":
            assert kept == {"a0.h1->m0<mlp>"}  # the last is tried first, and goes
            assert kept_back == {"a0.h2->m0<mlp>"}
        else:
            assert kept == kept_back == PARENTS
        assert len(kept_other) == (1 if name == "and" else 2)
        assert edges_of(graph, there | other) == true
        assert edges_of(graph, there | back) == true


def test_a_gradient_at_the_clean_prompt_does_not_see_an_or_and_one_on_the_way_does() -> None:
    p = program("or")
    plain, integrated = eap(p.model, p.task), eap_ig(p.model, p.task)
    both = [e for e in range(plain.graph.n_edges) if names(plain.graph, [e]) <= PARENTS]
    assert not plain.values[both].any()
    assert np.ptp(integrated.values[both]) == pytest.approx(0, abs=1e-9)  # shared alike
    for name in ("induction", "proportion"):
        scores, true = eap(program(name).model, program(name).task), truth(name)
        assert edges_of(scores.graph, scores.top(len(true))) == true


def test_learned_masks_of_an_or_keep_its_parents_as_long_as_samples_may_lose_one() -> None:
    assert found("edge-mask", "or") == truth("or")


def auc(scores: np.ndarray, true: np.ndarray, place: np.ndarray) -> float:
    """How often a true edge has a larger score than another edge of its place; nan without such a pair."""
    above = scores[true][:, None] - scores[~true][None]
    won = ((np.sign(above) + 1) / 2)[place[true][:, None] == place[~true][None]]
    return float(won.mean()) if won.size else np.nan


def gap(batch: Encoded, logits: Tensor) -> Tensor:
    return (logits.gather(1, batch.answer[:, None]) - logits.gather(1, batch.wrong[:, None])).sum()


def test_in_models_with_shuffled_weights_true_edges_score_no_higher_than_others() -> None:
    """300 models; edges that score exactly 0 (they reach nothing) are left out. An edge is compared with those between
    the same layers and kinds of parts: where it lies says something about its size in any model."""
    shuffled, whole = [], []
    for name in ("induction", "reverse"):
        p = program(name)
        graph = p.model.graph()
        nodes = [n.split(".")[0] for n, _ in graph.layout.locations]
        ends = [f"{nodes[s]} {nodes[d]} {k}" for s, d, k in zip(graph.src, graph.dst, graph.matrix, strict=True)]
        place = np.unique(ends, return_inverse=True)[1]
        true = np.isin(np.arange(graph.n_edges), p.true_edges("resample"))
        clean, other = sides(p.model.encode(p.task.train[:2]))

        def scores(m: CompiledModel, clean: Encoded = clean, other: Encoded = other) -> np.ndarray:
            gradient, _ = m.edge_gradient(clean, m.writes(other)[0], lambda logits: gap(clean, logits))
            return gradient.abs().numpy()

        whole.append(auc(scores(p.model), true, place))
        for seed in range(150):
            value = scores(p.model.shuffled(seed))
            used = value > 0
            shuffled.append(auc(value[used], true[used], place[used]))
    known = np.array(shuffled)[np.isfinite(shuffled)]
    assert len(known) >= 60
    assert known.mean() == pytest.approx(0.5, abs=0.05)
    assert whole == [1, 1]


def test_gates_say_what_they_combine() -> None:
    """Logits of the gates on all four inputs: yes where the gate is on."""
    on = {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "add": [0, 1, 1, 2]}
    for kind, wanted in on.items():
        m = gate(kind).model  # type: ignore[arg-type]
        tokens = [[0, *m.tokenizer.encode(f"{x} {y} u v =")] for x in (0, 1) for y in (0, 1)]
        logits = m.logits(torch.tensor(tokens))[:, -1]
        middle = 1.0 if kind == "add" else 0.5
        assert torch.allclose(logits[:, 7] - logits[:, 8], 8 * (torch.tensor(wanted) - middle).double(), atol=1e-3)


def test_methods_ablate_as_they_are_told() -> None:
    """Zero as an option is what a model with silent writes gives, and each finds its own truth."""
    p = PROGRAMS["proportion"](n=8)
    graph = p.model.graph()
    runs: dict[str, Callable[[Any, Any], Circuit]] = {
        "acdc": lambda m, v: acdc(m, p.task, ACDCConfig(threshold=1e-3, ablation=v)),
        "eap-ig": lambda m, v: eap_ig(m, p.task, EAPIGConfig(ablation=v)).above(1e-6),
    }
    for name, run in runs.items():
        told, silent, other = run(p.model, "zero"), run(under(p.model, "zero"), "resample"), run(p.model, "resample")
        assert edges_of(graph, told) == edges_of(graph, silent) == truth("proportion", "zero"), name
        assert edges_of(graph, other) == truth("proportion", "resample"), name
        assert told.record.details["methodology"]["value"] == "zero"


def test_edges_at_random_and_too_high_a_threshold_do_not_find_the_truth() -> None:
    """What precision and recall are without a method: as many edges as are true, drawn at random."""
    for name in ("induction", "reverse"):
        p, true = program(name), truth(name)
        graph = p.model.graph()
        sizes = [np.abs(random_edges(p.model, p.task, RandomConfig(seed=s)).values) for s in range(100)]
        drawn = [names(graph, np.argsort(-size)[: len(true)]) for size in sizes]
        mean = np.mean([precision_and_recall(kept, true) for kept in drawn], axis=0)
        assert mean == pytest.approx(len(true) / graph.n_edges, abs=0.05)
        scores = eap(p.model, p.task)
        worth = np.sort(np.abs(scores.values))[::-1]
        assert worth[len(true) - 1] > 100 * worth[len(true)]  # nothing lies between the true ones and the others
        assert acdc(p.model, p.task, ACDCConfig(threshold=100.0)).n_edges == 0
