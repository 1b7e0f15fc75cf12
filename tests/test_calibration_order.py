"""Calibration keeps the order of examples: every row's gap in one orientation, before and after."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.metric import calibrate, fit_calibration


def oriented(z: torch.Tensor) -> torch.Tensor:
    """Clean minus counterfactual answer's logit of every row."""
    return z * torch.tensor([1.0, -1.0], dtype=z.dtype).repeat(len(z) // 2)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-40, 40), st.integers(-40, 40)), min_size=3, max_size=12))
def test_a_fitted_calibration_keeps_the_order_of_all_examples(pairs: list[tuple[int, int]]) -> None:
    z = torch.tensor(pairs, dtype=torch.float64).flatten() / 8
    scale, shift = fit_calibration(z)
    before, after = oriented(z), oriented(calibrate(z, scale, shift))
    assert scale > 0
    later = before[:, None] > before
    assert bool((after[:, None] >= after)[later].all())
    if scale > 1e-6:  # beyond rounding
        assert bool((after[:, None] > after)[later].all())
    if bool(later.any()):  # the control: a negative scale turns the order round
        turned = oriented(calibrate(z, -1.0, shift))
        assert not bool((turned[:, None] >= turned)[later].all())
