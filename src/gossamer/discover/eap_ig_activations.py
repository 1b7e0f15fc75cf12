"""EAP-IG with the activations themselves moved: integrated gradients of what each sublayer writes.

The second variant of Hanna, Pezzelle and Belinkov's code (2024, arXiv 2403.17806), `EAP-IG-activations` in MIB (Mueller
et al. 2025, arXiv 2504.13151); the path is that of Marks et al. 2025 (arXiv 2403.19647). A sublayer is the input, all
heads of a layer, or an MLP. In a run on the clean prompt everything that sublayer S writes is put k/m of the way from
what it writes on the counterfactual prompt to what it writes on the clean one, and what comes after is computed from
there; L_k(S) is the metric. The score of an edge from a writer w of S to a reader r is

    (w on the counterfactual prompt - w on the clean one) . mean over k = 1 to m of (gradient of L_k(S) at r's input)

The scores out of S sum, as m grows, to the exact change of the metric when all that S writes is patched; those out of
`input` are EAP-IG's. One step is EAP. m steps are (m - 1) x (2 x layers + 1) runs beside it: a hundred for GPT-2 small
in five steps.

The published code differs: it sums, for every edge, over the runs of all sublayers, w's own or not, and divides by
their number. Such scores sum to no effect of an ablation.

When it lies: a write half-way between two runs is one that the model never makes, and one sublayer is moved at a time:
what two do only together is counted for neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gossamer.discover.ceap import wide
from gossamer.discover.eap import Progress, Score, probe_of_score, scored
from gossamer.discover.eap_ig import EAPIGConfig
from gossamer.discover.room import probed
from gossamer.graph import Graph
from gossamer.registry import method
from gossamer.scores import EdgeScores
from gossamer.subject import Probe, ResidualSubject
from gossamer.task import Encoded, Task

if TYPE_CHECKING:
    from gossamer.subject import Objective


@method("eap-ig-activations")
def eap_ig_activations(
    model: ResidualSubject, task: Task, config: EAPIGConfig | None = None, *, progress: Progress | None = None
) -> EdgeScores:
    """Scores of all edges on the task's training pairs, in units of the metric per edge ablated.

    Runs with an input of its own per reader, as exact patching has: they take more memory than EAP's.
    """
    config = config or EAPIGConfig()
    return scored(model, task, config, "eap-ig-activations", _score(model, config.steps), progress)


@probed("eap-ig-activations")
def _probe(model: ResidualSubject, config: EAPIGConfig) -> Probe:
    return probe_of_score(model, config, _score(model, min(config.steps, 2), 1))  # every run takes as much


def _score(model: ResidualSubject, steps: int, first: int | None = None) -> Score:
    """first: only so many sublayers."""
    of_sublayer = sublayers(model.graph())[:first]

    def score(clean: Encoded, reference: Tensor, objective: Objective) -> Tensor:
        total = wide(model.edge_gradient(clean, reference, objective)[0])  # k = m is the clean run, whatever is moved
        for own in of_sublayer if steps > 1 else ():
            edges = torch.from_numpy(own).to(total.device)
            for k in range(1, steps):
                share = torch.zeros_like(total).index_fill_(0, edges, 1 - k / steps).requires_grad_()
                with torch.enable_grad():
                    value = objective(model.patched(clean, share, reference))
                    (grad,) = torch.autograd.grad(value, share)
                total[edges] += grad[edges]
        return total / steps

    return score


def sublayers(graph: Graph) -> list[np.ndarray]:
    """Edges (indices) out of each sublayer in order: the input, a layer's heads, a layer's MLP, ... Head and
    block grain."""
    nodes = [str(graph.layout.site(n)).split(".")[0] for n in range(graph.layout.n_nodes)]
    names = list(dict.fromkeys(nodes))
    of_edge = np.array([names.index(n) for n in nodes])[graph.src]
    return [edges for s in range(len(names)) if len(edges := np.flatnonzero(of_edge == s))]
