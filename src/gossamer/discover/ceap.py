"""Conductance-based edge attribution patching: how much of the metric's change flows through an edge along a path.

Wu, Tonin and Cevher 2026 (arXiv 2606.16920), for circuits that vary less between samples of prompts than EAP-IG's. The
residual stream starts k/m of the way from the counterfactual prompt's embedding to the clean one, k = 0 to m; w_k is
what a writer then writes and L_k the metric. The score of an edge from writer w to reader r, with our sign, is

    sum over k = 0 to m - 1 of (w_k - w_(k+1)) . (gradient of L_k at r's input)

where EAP-IG has (w_0 - w_m) / m in place of the moving difference: a step counts by how far the write moved in it
(conductance, Dhamdhere et al. 2019), so that the scores of all edges that cross any cut between `input` and `logits`
sum, as m grows, to the change of the metric between the two prompts. The equation was checked against a published
description of the paper, not against its code.

When it lies: with few steps the sum is a coarse one from the counterfactual's side (one step is EAP of the swapped
pair), and the path between two embeddings is no path of real texts. Less variance between samples of one template says
nothing about other templates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gossamer.discover.eap import Progress, Score, probe_of_score, scored
from gossamer.discover.eap_ig import EAPIGConfig
from gossamer.discover.room import probed
from gossamer.errors import Unsupported
from gossamer.registry import method
from gossamer.scores import EdgeScores
from gossamer.subject import Probe, ResidualSubject
from gossamer.task import Encoded, Task

if TYPE_CHECKING:
    from gossamer.subject import Objective


@method("ceap")
def ceap(
    model: ResidualSubject, task: Task, config: EAPIGConfig | None = None, *, progress: Progress | None = None
) -> EdgeScores:
    """Scores of all edges on the task's training pairs, in units of the metric per edge ablated.

    A forward and a backward pass per step, as EAP-IG.
    """
    config = config or EAPIGConfig()
    steps = config.steps
    if config.ablation != "resample":
        raise Unsupported(
            f"conductance under ablation by {config.ablation}", "its path ends in another run", "resample"
        )

    if config.positions != "all":
        raise Unsupported(
            f"conductance at positions {config.positions!r}", "what it adds up flows through all of them", "eap-ig"
        )

    return scored(model, task, config, "ceap", _score(model, steps), progress)


@probed("ceap")
def _probe(model: ResidualSubject, config: EAPIGConfig) -> Probe:
    return probe_of_score(model, config, _score(model, min(config.steps, 3)))


def _score(model: ResidualSubject, steps: int) -> Score:
    def score(clean: Encoded, reference: Tensor, objective: Objective) -> Tensor:
        after, _ = model.writes(clean)
        whole = after[0]
        total: Tensor | None = None
        for k in reversed(range(steps)):  # from the clean side: a run knows its own writes and those of the step after
            start = torch.lerp(reference[0], whole, k / steps)
            flow, after = model.edge_gradient(clean, after, objective, start=start)
            total = -wide(flow) if total is None else total - wide(flow)
        assert total is not None
        return total

    return score


def wide(x: Tensor) -> Tensor:
    """In float32 or more, so that a sum over steps loses nothing."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
