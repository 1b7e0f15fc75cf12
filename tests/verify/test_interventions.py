"""The no-op does nothing, the circuit's own values do more than random ones, and a broken harness is found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rediscovery_helpers import edge_trial
from toys import PLANTED_NODES
from verify_helpers import circuit_of

from gossamer.models import LoadedModel
from gossamer.subject import Outcome
from gossamer.task import Task
from gossamer.verify import ChannelTrial
from gossamer.verify.interventions import _directions, interventions

EDGES = edge_trial()
DECOYS = ("0.attn.act_in:1", "0.attn.v:1", "0.attn.resid_delta:2", "final_resid:2")


def trial_of(model: LoadedModel, task: Task, sites: tuple[str, ...] = PLANTED_NODES) -> ChannelTrial:
    return ChannelTrial(
        model=model, circuit=circuit_of(model, sites), task=task, heldout=model.encode(task.heldout[:20])
    )


def test_random_changes_have_the_size_asked_for_and_are_by_row() -> None:
    sizes, last = torch.rand(3, 4, 6), torch.tensor([5, 2, 5, 0])
    found = _directions(sizes, 16, last, (1, 2, 10))
    inside = torch.arange(6) <= last[:, None]
    assert torch.allclose(found.norm(dim=-1), sizes * inside, atol=1e-6)
    later = _directions(sizes[:, 2:], 16, last[2:], (1, 2, 12))
    assert torch.equal(later, found[:, 2:])
    assert not torch.equal(_directions(sizes, 16, last, (1, 3, 10)), found)


@pytest.mark.parametrize("value", ["mean", "resample"])
def test_planted_channels_matter_and_decoys_do_not(planted: LoadedModel, planted_pairs: Task, value: str) -> None:
    pairs = replace(
        planted_pairs, heldout=tuple(e for e in planted_pairs.heldout if len(e.clean) == len(e.counterfactual) - 1)
    )
    if value == "resample":
        planted = replace(planted, reference=None)
    found = interventions(trial_of(planted, pairs))
    assert found.verdict == "pass", found
    assert found.methodology is not None
    assert found.methodology["set"] == "circuit"
    random, nothing = found.nulls
    assert nothing.value is not None
    assert nothing.value < 1e-5
    assert random.value is not None
    assert abs(random.value) < 0.5
    assert interventions(trial_of(planted, pairs, DECOYS)).verdict == "fail"


def test_edges_matter_more_than_random_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = interventions(EDGES, draws=4)
    assert found.verdict == "pass", found
    assert interventions(replace(EDGES, pairs_at_once=3), draws=4).value == pytest.approx(found.value, abs=1e-5)
    few = interventions(replace(EDGES, pairs_at_once=3), draws=4)
    assert few.nulls[0].value == pytest.approx(found.nulls[0].value, abs=1e-4)
    nodes = interventions(replace(EDGES, granularity="node", _known={}, _effects={}), draws=2)
    assert nodes.nulls[1].value is not None
    assert nodes.nulls[1].value < 1e-4
    inside = np.flatnonzero(~EDGES.inside)[:5]
    weak = EDGES.retried(
        type(EDGES.circuit).from_edges(EDGES.graph(), inside, np.zeros(5), record=EDGES.circuit.record)
    )
    assert interventions(weak, draws=4).verdict == "fail"


def test_a_harness_that_changes_something_is_found_out(planted: LoadedModel, planted_pairs: Task) -> None:
    """Control that must fail: values put back a thousandth off."""

    class Off(LoadedModel):
        def run(self, batch: Any, *, values: Any = None, **more: Any) -> Outcome:
            off = values and {k: 1.001 * v for k, v in values.items()}
            return super().run(batch, values=off, **more)

    fields = {k: getattr(planted, k) for k in ("name", "model", "tokenizer", "reference", "record")}
    found = interventions(trial_of(Off(**fields), planted_pairs))
    assert found.verdict == "fail"
    assert "the harness" in found.note


def test_what_has_no_size_is_not_measured() -> None:
    found = interventions(replace(EDGES, value="optimal", _known={}, _effects={}), draws=2)
    assert (found.verdict, found.value) == ("not measured", None)
    assert "ablation by optimal" in found.note
