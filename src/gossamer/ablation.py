"""The methodology of an ablation in seven fields (paper 9's six and the reference), and named presets of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np

from gossamer.errors import BadInput, Unsupported, nearest

Value = Literal["zero", "mean", "position-mean", "resample", "noise", "optimal"]
Granularity = Literal["node", "edge", "branch"]
Direction = Literal["clean", "counterfactual"]
Set = Literal["complement", "circuit"]
Reference = Literal["pretraining", "counterfactual", "clean", "training", "none"]

MeansOf = Literal["pretraining", "training"]
MEANS_OF: dict[str, MeansOf] = {"pretraining": "pretraining", "training": "training"}


@dataclass(frozen=True, kw_only=True)
class Methodology:
    """What "ablate" means for a number. No field has a default: a number that does not say is not a number.

    granularity: what is ablated as one: a node (what it writes, for all its readers), an edge, or a branch, which is a
    whole path from the input to the logits (gossamer.replacement says what that means). set: `complement` ablates
    everything outside the circuit, `circuit` only the circuit. positions: the tokens at which, `all`, `last` (each
    prompt's last one) or those of a span by its name; at the others everything keeps its own value, and so does the
    input of an ablated branch. direction: the prompts that run; with `counterfactual` the clean ones' values are put
    into those (also called denoising). reference: the data the replacement values come from: `pretraining` text, the
    pair's other prompt (`counterfactual` or `clean`, its value at the same position), the task's `training` prompts,
    or `none`.
    """

    granularity: Granularity
    component: Literal["channel", "head", "block"]
    value: Value
    positions: str
    direction: Direction
    set: Set
    reference: Reference

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


REFERENCES: dict[Value, Reference] = {
    "zero": "none", "noise": "none", "mean": "training", "position-mean": "training", "optimal": "training",
    "resample": "counterfactual",
}  # fmt: skip


def of_edges(
    value: str = "resample", *, set: Set = "complement", direction: Direction = "clean", granularity: str = "edge",
    component: Literal["head", "block"] = "head", positions: str = "all",
) -> Methodology:  # fmt: skip
    """The methodology of ablating edges of a residual stream; the reference follows from the value and the direction.

    BadInput for an unknown value or granularity; Unsupported for a direction that has no meaning for the value, and for
    optimal constants of branches.
    """
    values, granularities = ({k: k for k in get_args(kind)} for kind in (Value, Granularity))
    if value not in values:
        raise BadInput(f"Unknown ablation value {value!r}: {nearest(value, values)}")
    if granularity not in granularities:
        raise BadInput(f"Unknown granularity {granularity!r}: {nearest(granularity, granularities)}")
    if direction == "counterfactual" and value != "resample":
        raise Unsupported(
            f"ablation by {value} in the direction of the counterfactual", "only the clean run's own values restore it",
            "value resample, or direction clean",
        )  # fmt: skip
    if granularity == "branch" and value == "optimal":
        raise Unsupported(
            "ablation of branches by optimal", "the constants are fitted to edges or nodes", "mean or resample"
        )
    return Methodology(
        granularity=granularities[granularity], component=component, value=values[value], positions=positions,
        direction=direction, set=set,
        reference="clean" if direction == "counterfactual" else REFERENCES[values[value]],
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Ablation:
    """A methodology applied to a circuit: `keep` is 1 where a node keeps its own value, per location.

    edges (granularity edge or branch): the circuit's (source, destination, matrix) numbers, [3, n]. With set
    `complement` every other edge between kept nodes is ablated, with set `circuit` these are: the destination reads the
    source's replacement value in place of its own. Of branches, those that they make, see gossamer.replacement.
    """

    methodology: Methodology
    keep: dict[str, np.ndarray]
    edges: np.ndarray | None = None
