"""Planted circuits with something outside them that the usual questions do not see, and trials of their channels."""

from __future__ import annotations

from toys import PLANTED_NODES, WORDS, planted_model, planted_task
from verify_helpers import circuit_of

from gossamer.models import LoadedModel
from gossamer.models.planted import with_means
from gossamer.verify import ChannelTrial

VALUES_AT = 2 * 128  # rows of c_attn before the value channels


UP, DOWN = range(8, 24, 2), range(9, 24, 2)  # value channels


def suppressed() -> LoadedModel:
    """Eight outside value channels that add to the answer and eight that take as much away: together, or all ablated,
    they do nothing; any two of the latter alone turn the answer round."""
    return _with_values(dict.fromkeys(UP, 2.0) | dict.fromkeys(DOWN, -2.0), 3.0)


def doubled() -> LoadedModel:
    """The value channel of the mechanism twice, 5 and 7, and either of them saturates the answer."""
    return _with_values({7: 300.0}, 300.0)


def _with_values(more: dict[int, float], own: float) -> LoadedModel:
    model = planted_model().model
    attention = model.blocks[0].attn
    attention.c_proj.weight.data[6, 5] = own
    for channel, weight in more.items():
        attention.c_attn.weight.data[VALUES_AT + channel, 3] = 2.0
        attention.c_proj.weight.data[6, channel] = weight
    return with_means(model, WORDS, "planted with more")


def trial_of(model: LoadedModel, sites: tuple[str, ...] = PLANTED_NODES, **fields: object) -> ChannelTrial:
    task = planted_task(16)
    return ChannelTrial(
        model=model, circuit=circuit_of(model, sites), task=task, heldout=model.encode(task.heldout), **fields
    )  # type: ignore[arg-type]  # fmt: skip
