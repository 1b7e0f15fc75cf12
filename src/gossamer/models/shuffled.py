"""A model of nothing that is built as a given one: the entries of every weight matrix in a random order.

What is found in it by a method that finds a circuit in the real model is the method's own doing. Biases, norms and the
order of layers stay; so does every matrix's set of entries, and with it the density of a weight-sparse model.

When it lies: shuffled weights also lose what trained weights share without any task (a few large directions, the sizes
of rows and columns), so that activations are of other sizes; and one shuffle is one draw.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gossamer.errors import BadInput, Unsupported
from gossamer.models.compiled import CompiledModel
from gossamer.models.loaded import LoadedModel, reference_over

if TYPE_CHECKING:
    from gossamer.task import Task

ROWS_AT_ONCE = 64


def weight_shuffled(model: Any, seed: int, *, task: Task | None = None) -> Any:
    """A copy of a model, weights shuffled by `seed`, of the same kind and shape; the model itself is not touched.

    The reference means of a weight-sparse model are taken again over the excerpt that travels with it; those of a
    decoder at channel grain over the training prompts of `task`, whatever the model's were over. Queries, keys and
    values of a weight-sparse model are shuffled apart, a decoder's fused map to them as one.
    Errors: Unsupported for a model of another kind, BadInput without the task where it is needed.
    """
    if isinstance(model, CompiledModel):
        return model.shuffled(seed)
    if isinstance(model, LoadedModel):
        return _shuffled_sparse(model, seed)
    if type(model).__module__.startswith("gossamer.models.huggingface."):
        from gossamer.models.huggingface.shuffled import shuffled_decoder

        if getattr(model, "reference", None) is not None and task is None:
            raise BadInput(f"Expected a task to take the means of {model.name} over once it is shuffled, got none.")
        return shuffled_decoder(model, seed, task)
    raise Unsupported(
        f"shuffling {type(model).__name__}", "its weights are not known here", "a model of gossamer.models"
    )


@torch.no_grad()
def permute(matrices: Iterable[Tensor], seed: int) -> None:
    """The entries of each matrix in another order, in place."""
    generator = torch.Generator().manual_seed(seed)
    for t in matrices:
        t.copy_(t.flatten()[torch.randperm(t.numel(), generator=generator).to(t.device)].view_as(t))


def _shuffled_sparse(model: LoadedModel, seed: int) -> LoadedModel:
    own = copy.deepcopy(model.model)
    permute(
        (
            part
            for name, p in own.named_parameters() if p.ndim == 2
            for part in (p.data.chunk(3) if name.endswith("c_attn.weight") else (p.data,))
        ),
        seed,
    )  # fmt: skip
    reference = model.reference
    if reference is not None:
        reference = reference_over(own, reference.excerpt.split(ROWS_AT_ONCE), reference.excerpt)
    return replace(
        model, name=f"{model.name}, weights shuffled {seed}", model=own, reference=reference, folder="", source=""
    )  # fmt: skip
