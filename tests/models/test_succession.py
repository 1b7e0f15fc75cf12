"""The planted three-task model: what it answers, and that ablating each node alone does what its construction says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gossamer.discover import ActivationPatchingConfig, activation_patching
from gossamer.models.succession import FAMILIES, Succession, succession
from gossamer.task import sides


@pytest.fixture(scope="module", params=[True, False], ids=["shared", "nothing shared"])
def planted(request: pytest.FixtureRequest) -> Succession:
    return succession(shared=request.param, n=3)


def test_it_goes_on_with_every_family(planted: Succession) -> None:
    for name, task in planted.tasks.items():
        batch = planted.model.encode((*task.train, *task.heldout))
        _, logits = planted.model.writes(batch)
        assert torch.equal(logits.argmax(1), batch.answer), name
        words = [planted.model.words[t] for t in batch.answer.tolist()]
        assert set(words) <= set(FAMILIES[name])


def test_the_needed_parts_and_no_others_change_the_answer_alone(planted: Succession) -> None:
    graph = planted.model.graph()
    for name, task in planted.tasks.items():
        found = activation_patching(planted.model, task, ActivationPatchingConfig(pairs=1))
        moved = {n for (n, _), v in zip(graph.layout.locations, found.values, strict=True) if abs(v) > 1e-3}
        assert moved - {"input", "logits"} == planted.shared | planted.private[name]


def test_a_quarter_and_a_third() -> None:
    """Ablated to zero, a shared head takes a quarter of the difference and a shared MLP a third."""
    planted = succession(n=3)
    graph = planted.model.graph()
    batch, _ = sides(planted.model.encode(planted.tasks["months"].train))
    writes, logits = planted.model.writes(batch)
    rows = torch.arange(len(logits))

    def gap(found: torch.Tensor) -> float:
        return float((found[rows, batch.answer] - found[rows, batch.wrong]).mean())

    for part, share in [(p, 1 / 4 if p[0] == "a" else 1 / 3) for p in planted.shared]:
        alpha = torch.from_numpy((graph.src == graph.layout.starts[part]).astype(np.float64))
        without = gap(planted.model.patched(batch, alpha, torch.zeros_like(writes)))
        assert np.isclose(without / gap(logits), 1 - share, atol=1e-4), part


def test_nothing_is_shared_in_the_control() -> None:
    control = succession(shared=False, n=1)
    assert not control.shared
    chains = list(control.private.values())
    assert all(len(c) == 4 for c in chains)
    assert len(frozenset.union(*chains)) == 12
