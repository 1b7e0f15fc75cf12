"""Where in a model: one injective string per site.

Channel grain: `LOCATION:INDEX`, e.g. `0.mlp.post_act:863` or `final_resid:83`; of an encoder-decoder with the side
before it, `encoder.0.mlp.resid_delta:5`, `decoder.1.cross.resid_delta:7`. Head grain (names of EAP-IG and MIB):
`input`, `logits`, `a5.h1`, `m3`; with grouped queries `a5.g0` is the keys and values that a group of heads shares.
Block grain: the same with `a5` for all heads of a layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gossamer.errors import BadInput

CHANNEL_LOCATIONS = (
    "attn.act_in", "attn.q", "attn.k", "attn.v", "attn.z", "attn.resid_delta", "mlp.act_in", "mlp.gate", "mlp.up",
    "mlp.post_act", "mlp.resid_delta", "cross.resid_delta",
)  # fmt: skip
_CHANNEL = re.compile(r"(?:((?:(?:en|de)coder\.)?(?:0|[1-9]\d*))\.([a-z]+\.[a-z_]+)|(final_resid)):(0|[1-9]\d*)")
_RESIDUAL = re.compile(r"input|logits|a(?:0|[1-9]\d*)(?:\.[hg](?:0|[1-9]\d*))?|m(?:0|[1-9]\d*)")


@dataclass(frozen=True, order=True)
class Site:
    """One site. Channel grain has a location and an index; head and block grain a location (its whole name)."""

    location: str
    index: int | None = None

    def __str__(self) -> str:
        return self.location if self.index is None else f"{self.location}:{self.index}"

    @property
    def layer(self) -> int | None:
        """The layer a channel site belongs to; None for the final residual and for the other grains."""
        head = self.location.removeprefix("encoder.").removeprefix("decoder.").split(".")[0]
        return int(head) if head.isdigit() else None

    @classmethod
    def parse(cls, text: str) -> Site:
        """The inverse of str(); anything else is BadInput."""
        if match := _CHANNEL.fullmatch(text):
            layer, name, final, index = match.groups()
            if final or name in CHANNEL_LOCATIONS:
                return cls(final or f"{layer}.{name}", int(index))
        if _RESIDUAL.fullmatch(text):
            return cls(text)
        raise BadInput(
            f"Expected a site such as 0.mlp.post_act:863, final_resid:83 or a5.h1, got {text!r}; "
            f"locations of a layer: {', '.join(CHANNEL_LOCATIONS)}."
        )
