"""Masks over module outputs find the hand-written circuits, whole and with nothing else."""

from __future__ import annotations

import pytest
import torch
from planted_edits import COPIES, CROSS, LETTERS, REVERSES, planted_edits, planted_splits

from gossamer.circuit import Circuit
from gossamer.compare.composition import answered, edit_means, kept
from gossamer.discover import ModuleMaskConfig, module_mask, module_mask_config
from gossamer.errors import BadInput
from gossamer.mask import annealed
from gossamer.tasks.pcfg_set import encode

MODEL, EDITS = planted_edits(), planted_splits()
CONFIG = ModuleMaskConfig(steps=60, lr=0.1, penalty=(3e-3,), batch=32)


def found(operation: str, **changes: object) -> Circuit:
    return module_mask(MODEL, operation, EDITS[operation][0], CONFIG.model_copy(update=changes), letters=LETTERS)


@pytest.mark.parametrize(
    ("operation", "value", "channels"),
    [
        ("copy", "mean", COPIES),
        ("reverse", "mean", REVERSES),
        ("swap_first_last", "mean", [*COPIES, *REVERSES[:4]]),
        ("swap_first_last", "zero", [*COPIES, *REVERSES[:4]]),
    ],
)
def test_the_planted_channels_are_found_and_no_other(operation: str, value: str, channels: list[int]) -> None:
    circuit = found(operation, value=value)
    assert [str(s) for s in circuit.sites] == [f"{CROSS}:{i}" for i in channels]
    assert circuit.record.task == operation
    assert circuit.record.details["loss_at_end"] < 0.1


def test_a_penalty_above_every_use_leaves_nothing_and_none_keeps_what_is_used() -> None:
    assert found("copy", penalty=(5.0,)).n_nodes == 0
    assert set(found("copy").nodes) <= set(found("copy", penalty=(0.0,)).nodes)


def test_the_largest_penalty_whose_circuit_is_at_the_floor_is_kept() -> None:
    """0 keeps channels that nobody needs, 5 keeps none; in every order the circuit between is taken."""
    for penalties in ((0.0, 3e-3, 5.0), (5.0, 3e-3, 0.0)):
        circuit = found("copy", penalty=penalties)
        assert [str(s) for s in circuit.sites] == [f"{CROSS}:{i}" for i in COPIES]
        details = circuit.record.details
        assert (details["reached"], details["penalty"]) == (True, 3e-3)
        nothing, own = details["trials"]  # the smallest penalty is not tried any more
        assert (nothing["penalty"], nothing["nodes"], own["nodes"]) == (5.0, 0, len(COPIES))
        assert own["interval"][0] >= 0.9 > nothing["faithfulness"]
    assert found("copy", penalty=(0.0,)).n_nodes > len(COPIES)


def test_without_a_circuit_at_the_floor_the_most_faithful_is_kept_and_told() -> None:
    circuit = found("copy", penalty=(5.0, 3e-3), floor=1.0)
    details = circuit.record.details
    assert (details["reached"], details["penalty"]) == (False, 3e-3)
    assert found("copy", penalty=(5.0, 6.0)).n_nodes == 0


def test_the_choice_sees_training_edits_alone() -> None:
    """The faithfulness in the record is that of the training edits, computed from scratch."""
    train = EDITS["copy"][0]
    circuit = found("copy", penalty=(3e-3,))
    means = edit_means(MODEL, {"copy": train}, LETTERS)
    own = answered(MODEL, kept([circuit]), encode(train, LETTERS), means["copy"]).faithful[0]
    assert circuit.record.details["trials"][0]["faithfulness"] == pytest.approx(own.mean(), abs=1e-6)


def test_the_same_seed_finds_the_same_circuit() -> None:
    seen: list[int] = []
    both = [
        module_mask(MODEL, "copy", EDITS["copy"][0], module_mask_config(steps=10, penalty=(4.0, 5.0)), letters=LETTERS,
                    progress=lambda step, steps, loss: seen.append(step))
        for _ in range(2)
    ]  # fmt: skip
    assert both[0].nodes.tolist() == both[1].nodes.tolist()
    assert both[0].record.details == both[1].record.details
    assert seen == [10, 20] * 2


def test_annealed_masks_sharpen_to_a_step() -> None:
    s = torch.tensor([-0.5, -1e-9, 0.0, 0.05, 0.5])
    assert torch.equal(annealed(s, 0.0), s.sigmoid())
    assert torch.allclose(annealed(s, 1.0), torch.tensor([0.0, 0.5, 0.5, 1.0, 1.0]), atol=1e-4)
    assert torch.allclose(annealed(s, 0.5), (200**0.5 * s).sigmoid())


def test_edits_of_another_operation_are_refused() -> None:
    with pytest.raises(BadInput, match="edits of copy"):
        module_mask(MODEL, "copy", EDITS["reverse"][0], CONFIG, letters=LETTERS)
    with pytest.raises(BadInput, match="edits of copy"):
        module_mask(MODEL, "copy", [], CONFIG, letters=LETTERS)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(BadInput, match="penalty"):
        module_mask_config(penalty=(1e-3, -1))
    with pytest.raises(BadInput, match="value"):
        module_mask_config(value="median")
