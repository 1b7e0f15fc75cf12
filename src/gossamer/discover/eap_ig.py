"""Edge attribution patching with integrated gradients: eap.py's gradient averaged over inputs between two prompts.

Hanna, Pezzelle and Belinkov 2024 (arXiv 2403.17806), `EAP-IG (inputs)`: the residual stream starts k/m of the way from
the counterfactual prompt's embedding to the clean one, k = 1 to m; everything after it is computed from there. The
scores of the edges out of `input` sum, as m grows, to the change of the metric between the two prompts. Where edges are
ablated at chosen positions alone the path is one at those, to an input that is the counterfactual's there.

When it lies: the path between two embeddings is no path of real texts, and only the edges out of `input` are covered
by the sum; the others inherit eap.py's first-order guess at better places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field
from torch import Tensor

from gossamer.discover.eap import EAPConfig, Progress, Score, probe_of_score, scored
from gossamer.discover.room import probed
from gossamer.errors import options
from gossamer.registry import method
from gossamer.scores import EdgeScores
from gossamer.subject import AlongPath, Probe, ResidualSubject
from gossamer.task import Encoded, Task

if TYPE_CHECKING:
    from gossamer.subject import Objective


class EAPIGConfig(EAPConfig):
    """steps: m, places on the way from the counterfactual to the clean embedding."""

    steps: int = Field(default=5, gt=0)


def eap_ig_config(**changes: Any) -> EAPIGConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(EAPIGConfig, changes, "set of options")


@method("eap-ig")
def eap_ig(
    model: ResidualSubject, task: Task, config: EAPIGConfig | None = None, *, progress: Progress | None = None
) -> EdgeScores:
    """Scores of all edges on the task's training pairs, in units of the metric per edge ablated."""
    config = config or EAPIGConfig()
    return scored(model, task, config, "eap-ig", _score(model, config.steps), progress)


@probed("eap-ig")
def _probe(model: ResidualSubject, config: EAPIGConfig) -> Probe:
    return probe_of_score(model, config, _score(model, min(config.steps, 2)))


def _score(model: ResidualSubject, steps: int) -> Score:
    def score(clean: Encoded, reference: Tensor, objective: Objective) -> Tensor:
        if isinstance(model, AlongPath):
            return model.path_gradient(clean, reference, objective, [1.0, *(k / steps for k in range(1, steps))])
        # the last step is the clean run itself: it gives the clean writes along with its gradient
        total, writes = model.edge_gradient(clean, reference, objective)
        for k in range(1, steps):
            start = clean.where_chosen(reference[0] + (writes[0] - reference[0]) * (k / steps), writes[0])
            total = total + model.edge_gradient(clean, reference, objective, start=start, writes=writes)[0]
        return total / steps

    return score
