"""A decoder's norms held at the scales that they have in another run of the same prompts.

A norm's output without its offset is as large as its input's scale says, so it is multiplied by the ratio of the two
scales: the model's own norm computes, and at the scale of its own input it is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gossamer.errors import Unsupported
from gossamer.models.huggingface.anatomy import NormForm, _is_norm, norm_form
from gossamer.models.norms import Scales, hooked, scales_of


def forms_of(model: PreTrainedModel) -> dict[nn.Module, NormForm]:
    """What every norm of a decoder computes, those of queries and keys among them; Unsupported for one of a kind whose
    scale cannot be told."""
    found = {m: norm_form(m) for m in model.modules() if _is_norm(m)}
    if odd := [type(m).__name__ for m, form in found.items() if form is None]:
        raise Unsupported(
            f"holding the norm {odd[0]}", "it has no scale that multiplies its input",
            "a model with LayerNorm or RMSNorm",
        )  # fmt: skip
    return {m: form for m, form in found.items() if form is not None}


class HeldNorms:
    """The scales of every norm in a run without ablation, and norms that use them."""

    def __init__(self, forms: Mapping[nn.Module, NormForm], whole: Callable[[], Any]) -> None:
        self.forms = forms
        with torch.no_grad():
            self.scales: Scales = scales_of(forms, whole, lambda norm, x: forms[norm].unit(x)[0])

    def ratio(self, norm: nn.Module, x: Tensor) -> Tensor:
        """[..., 1]: the held scale over that of x [..., d]."""
        return self.scales.of(norm, x) / self.forms[norm].unit(x)[0]

    def holding(self) -> AbstractContextManager[None]:
        """Norms are held in the runs inside."""

        def hold(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor | None:
            x = args[0]
            if x.ndim == 1:
                return None  # asked for its gain
            offset = self.forms[norm].offset
            return (offset + (out - offset) * self.ratio(norm, x)).to(out)

        return hooked(self.forms, hold)
