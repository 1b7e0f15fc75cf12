"""The methodology of an ablation in seven fields (paper 9's six and the reference), and named presets of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from gossamer.errors import BadInput, nearest

MeansOf = Literal["pretraining", "task"]
MEANS_OF: dict[str, MeansOf] = {"pretraining": "pretraining", "task": "task"}


@dataclass(frozen=True, kw_only=True)
class Methodology:
    """What "ablate" means for a number. No field has a default: a number that does not say is not a number.

    set: `complement` ablates everything outside the circuit, `circuit` only the circuit. reference: the data the
    replacement values come from: `pretraining` text, the training prompts of the `task`, the pair's `counterfactual`
    prompt (its value at the same position), or `none`.
    """

    granularity: Literal["node", "edge", "branch"]
    component: Literal["channel", "head", "block"]
    value: Literal["zero", "mean", "resample"]
    positions: Literal["all"]
    direction: Literal["clean"]
    set: Literal["complement", "circuit"]
    reference: Literal["pretraining", "task", "counterfactual", "none"]

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


PRESETS: dict[str, Methodology] = {
    "gao-mean": Methodology(
        granularity="node", component="channel", value="mean", positions="all", direction="clean", set="complement",
        reference="pretraining",
    ),
    "gao-mean-circuit": Methodology(
        granularity="node", component="channel", value="mean", positions="all", direction="clean", set="circuit",
        reference="pretraining",
    ),
    "zero-complement": Methodology(
        granularity="node", component="channel", value="zero", positions="all", direction="clean", set="complement",
        reference="none",
    ),
    "zero-circuit": Methodology(
        granularity="node", component="channel", value="zero", positions="all", direction="clean", set="circuit",
        reference="none",
    ),
    "acdc-resample": Methodology(
        granularity="edge", component="head", value="resample", positions="all", direction="clean", set="complement",
        reference="counterfactual",
    ),
}  # fmt: skip


def methodology(name: str) -> Methodology:
    """A preset by name; an unknown one is BadInput with the nearest names."""
    if name not in PRESETS:
        raise BadInput(f"Unknown ablation {name!r}: {nearest(name, PRESETS)}")
    return PRESETS[name]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ablation:
    """A methodology applied to a circuit: `keep` is 1 where a node keeps its own value, per location.

    edges (granularity edge): the circuit's (source, destination, matrix) numbers, [3, n]. With set `complement` every
    other edge between kept nodes is ablated, with set `circuit` these are: the destination reads the source's
    replacement value in place of its own.
    """

    methodology: Methodology
    keep: dict[str, np.ndarray]
    edges: np.ndarray | None = None
