"""Nodes that keep their role, a node whose sign turns inside the circuit, and what roles are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drift_helpers import TURNED_NODES, trial_of, turning_model, whole_circuit
from taught import she_he, taught
from toys import PLANTED_NODES, planted_model

from gossamer.discover import eap
from gossamer.verify import EdgeTrial
from gossamer.verify.role_drift import _directions, _pair_sums, _principal, _roles, role_drift
from gossamer.verify.trial import Watch

TURNING = turning_model()


def test_the_planted_nodes_keep_their_role() -> None:
    for model in (planted_model(), TURNING):
        nodes = PLANTED_NODES if model is not TURNING else (*PLANTED_NODES, *TURNED_NODES)
        found = role_drift(trial_of(model, nodes))
        assert found.value == 1
        assert found.verdict == "pass"
        assert "None drifts" in found.note
    assert role_drift(trial_of(TURNING, whole_circuit(TURNING))).value == 1


def test_a_node_turns_its_sign_where_the_stronger_write_is_left_out() -> None:
    """In the model the MLP outvotes attention in channel 6; in a circuit without it attention alone is left."""
    found = role_drift(trial_of(TURNING))
    assert found.value == 0.75  # of the four nodes, one
    assert found.interval == (0.75, 0.75)
    assert found.verdict == "fail"
    assert role_drift(trial_of(TURNING), share=0.7).verdict == "pass"
    assert "final_resid:6 -" in found.note
    assert "flips" in found.note
    assert "(correlation below 0): 1; what it tells apart turned: 1." in found.note


def test_heads_and_mlps_of_a_decoder() -> None:
    model, task = taught(), she_he()
    scores = eap(model, task)

    def trial(edges: int) -> EdgeTrial:
        return EdgeTrial(
            model=model, circuit=scores.top(edges), task=task, heldout=model.encode(task.heldout[:6]),
            training=model.encode(task.train[:8]),
        )  # fmt: skip

    whole = role_drift(trial(model.graph().n_edges), draws=2)
    assert whole.value == 1
    assert "input" not in whole.note
    few = role_drift(trial(12), draws=3)
    assert few.value is not None
    assert few.value < 1
    assert few == role_drift(trial(12), draws=3)


def test_roles_are_correlations_over_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 8, 5, 3, generator=generator).double()
    y[..., 1] = 2 - 3 * x[..., 1]
    x[..., 2] = y[..., 2] = 0.1
    last = torch.tensor([4, 4, 3, 3, 4, 4, 2, 2])
    roles = _roles(_pair_sums(x, y, last).mean(-1))
    inside = (torch.arange(5) <= last[:, None]).numpy()
    wanted = np.corrcoef(x[..., 0].numpy()[inside], y[..., 0].numpy()[inside])[0, 1]
    assert roles.correlation == pytest.approx([wanted, -1, 0])
    assert roles.varies.tolist() == [True, True, False]
    assert roles.flips[1:].tolist() == [True, False]


def test_directions_are_first_singular_vectors() -> None:
    rows = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(0)).double()
    rows[..., 0] *= 5
    found = _principal(rows)
    wanted = torch.linalg.svd(rows).Vh[:, 0]
    assert torch.allclose((found * wanted).sum(-1).abs(), torch.ones(3).double(), atol=1e-6)
    seen = torch.zeros(4, 3, 1, 2)  # both prompts of a pair alike: along what varies
    seen[:, 1, 0, 1] = torch.tensor([1.0, 1.0, 2.0, 2.0])
    assert _directions(Watch(seen, torch.tensor([2, 2, 2, 2]))).abs().tolist() == [[0, 1]]


def test_circuits_without_a_node_to_look_at() -> None:
    trial = trial_of(TURNING, ("0.attn.q:17",))
    assert "varies over the tokens" in role_drift(trial).note
    assert role_drift(trial).verdict == "not measured"
    assert role_drift(trial.on(trial.task.heldout[:1])).verdict == "not measured"
    assert "no node" in role_drift(trial_of(TURNING, ())).note


def test_progress_ends_at_all_runs() -> None:
    said: list[tuple[int, int, float]] = []
    role_drift(trial_of(TURNING, progress=lambda *args: said.append(args)), draws=2, pairs=20)
    assert [s[:2] for s in said] == [(i, 6) for i in range(1, 7)]  # 3 sets, pairs in two parts
