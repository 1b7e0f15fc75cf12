"""What each method finds in models whose true edges are known, where it errs, and that it finds nothing in noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from compiled_helpers import edges_of, names, under
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.discover import ACDCConfig, EAPConfig, EAPIGConfig, EdgeMaskConfig, acdc, eap, eap_ig, edge_mask
from gossamer.discover.eap import sides
from gossamer.models.compiled import PROGRAMS, CompiledModel, Program, gate
from gossamer.task import Encoded, Task

PARENTS = {"a0.h1->m0<mlp>", "a0.h2->m0<mlp>"}
VALUES = ["resample", "zero"]


@pytest.fixture(scope="module")
def programs() -> dict[str, Program]:
    return {name: made(n=4) for name, made in PROGRAMS.items()}


def by_acdc(model: CompiledModel, task: Task, k: int) -> Circuit:
    return acdc(model, task, ACDCConfig(threshold=1e-3))


def by_eap_ig(model: CompiledModel, task: Task, k: int) -> Circuit:
    return eap_ig(model, task, EAPIGConfig(steps=5)).top(k)


def by_masks(model: CompiledModel, task: Task, k: int) -> Circuit:
    return edge_mask(model, task, EdgeMaskConfig(steps=100)).above(0.5)


def precision_and_recall(found: set[str], true: set[str]) -> tuple[float, float]:
    return len(found & true) / len(found), len(found & true) / len(true)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("method", "name"),
    [(m, n) for m in (by_acdc, by_eap_ig) for n in PROGRAMS if (m, n) != (by_acdc, "or")]
    + [(by_masks, n) for n in ("proportion", "and", "add")],
)
def test_precision_and_recall_are_one_with_matched_truth(
    programs: dict[str, Program], method: Callable[..., Circuit], name: str, value: str
) -> None:
    p = programs[name]
    true = p.true_edges(value)  # type: ignore[arg-type]
    found = edges_of(p.model.graph(), method(under(p.model, value), p.task, len(true)))
    assert precision_and_recall(found, names(p.model.graph(), true)) == (1, 1)


@pytest.mark.parametrize("method", [by_acdc, by_eap_ig, by_masks])
def test_an_ablation_that_is_not_that_of_the_truth_errs_as_predicted(
    programs: dict[str, Program], method: Callable[..., Circuit]
) -> None:
    """Proportion has 3 edges under resampling, 5 under zero ablation: 2 are missed, or 2 are too many."""
    p = programs["proportion"]
    graph = p.model.graph()
    three, five = (names(graph, p.true_edges(v)) for v in ("resample", "zero"))
    found = {v: edges_of(graph, method(under(p.model, v), p.task, 5)) for v in VALUES}
    if method is by_eap_ig:  # asked for five, it has three that do anything; the rest is on no path
        scores = eap_ig(p.model, p.task)
        assert names(graph, np.flatnonzero(scores.values)) == three
        found["resample"] = edges_of(graph, scores.above(1e-9))
    assert precision_and_recall(found["resample"], five) == (1, 3 / 5)
    assert precision_and_recall(found["zero"], three) == (3 / 5, 1)


def swapped(task: Task) -> Task:
    """The other direction: the counterfactual prompt is run, and parts of the clean one are put into it."""
    return replace(task, train=tuple(
        replace(e, clean=e.counterfactual, counterfactual=e.clean, answer=e.wrong_answer, wrong_answer=e.answer)
        for e in task.train
    ))  # fmt: skip


def parents(model: CompiledModel, task: Task, **options: str) -> set[str]:
    found = acdc(model, task, ACDCConfig(threshold=1e-3, **options))  # type: ignore[arg-type]
    return edges_of(model.graph(), found) & PARENTS


def test_acdc_keeps_one_parent_of_an_or_and_which_one_depends_on_the_order(programs: dict[str, Program]) -> None:
    p = programs["or"]
    last_first, first_first = parents(p.model, p.task), parents(p.model, p.task, order="forward")
    assert last_first == {"a0.h1->m0<mlp>"}  # the last is tried first, and goes
    assert first_first == {"a0.h2->m0<mlp>"}
    for kind in ("and", "add"):
        other = programs[kind]
        assert parents(other.model, other.task) == parents(other.model, other.task, order="forward") == PARENTS


def test_the_other_direction_finds_both_parents_of_an_or_and_the_union_all(programs: dict[str, Program]) -> None:
    true = {name: names(programs[name].model.graph(), programs[name].true_edges("resample")) for name in PROGRAMS}
    p = programs["or"]
    assert parents(p.model, swapped(p.task)) == PARENTS
    a = programs["and"]
    assert len(parents(a.model, swapped(a.task))) == 1  # there an AND is an OR
    for name in ("and", "or", "add"):
        p = programs[name]
        both = [acdc(p.model, t, ACDCConfig(threshold=1e-3)) for t in (p.task, swapped(p.task))]
        assert edges_of(p.model.graph(), both[0] | both[1]) == true[name]
        orders = [acdc(p.model, p.task, ACDCConfig(threshold=1e-3, order=o)) for o in ("reverse", "forward")]  # type: ignore[arg-type]
        assert edges_of(p.model.graph(), orders[0] | orders[1]) == true[name]


def test_a_gradient_at_the_clean_prompt_does_not_see_an_or_and_one_on_the_way_does(
    programs: dict[str, Program],
) -> None:
    p = programs["or"]
    graph, true = p.model.graph(), p.true_edges("resample")
    plain, integrated = eap(p.model, p.task), eap_ig(p.model, p.task)
    both = [i for i, n in enumerate(range(graph.n_edges)) if names(graph, [n]) <= PARENTS]
    assert not plain.values[both].any()
    assert np.ptp(integrated.values[both]) == pytest.approx(0, abs=1e-9)  # shared alike
    assert edges_of(graph, integrated.above(1e-9)) == names(graph, true)


def test_learned_masks_of_an_or_keep_its_parents_as_long_as_samples_may_lose_one(programs: dict[str, Program]) -> None:
    p = programs["or"]
    found = edge_mask(p.model, p.task, EdgeMaskConfig(steps=100))
    assert edges_of(p.model.graph(), found.above(0.5)) & PARENTS == PARENTS


def auc(scores: np.ndarray, true: np.ndarray, place: np.ndarray) -> float:
    """How often a true edge has a larger score than another edge of its place; nan without such a pair."""
    above = scores[true][:, None] - scores[~true][None]
    won = ((np.sign(above) + 1) / 2)[place[true][:, None] == place[~true][None]]
    return float(won.mean()) if won.size else np.nan


def gap(batch: Encoded, logits: Tensor) -> Tensor:
    return (logits.gather(1, batch.answer[:, None]) - logits.gather(1, batch.wrong[:, None])).sum()


def test_in_models_with_shuffled_weights_true_edges_score_no_higher_than_others(programs: dict[str, Program]) -> None:
    """200 models; edges that score exactly 0 (they reach nothing) are left out. An edge is compared with those between
    the same layers and kinds of parts: where it lies says something about its size in any model."""
    found, whole = [], []
    for name in ("induction", "reverse"):
        p = programs[name]
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
        for seed in range(100):
            value = scores(p.model.shuffled(seed))
            used = value > 0
            found.append(auc(value[used], true[used], place[used]))
    known = np.array(found)[np.isfinite(found)]
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


def test_eap_ranks_the_true_edges_first_where_no_gate_hides_them(programs: dict[str, Program]) -> None:
    for name, p in programs.items():
        true = p.true_edges("resample")
        found = edges_of(p.model.graph(), eap(p.model, p.task, EAPConfig()).top(len(true)))
        assert (found == names(p.model.graph(), true)) is (name != "or")
