"""Direct logit attribution: what every writer adds to the logit difference by itself, through the final norm.

Elhage et al. 2021 ("A mathematical framework for transformer circuits"), Wang et al. 2022 (arXiv 2211.00593). What the
final norm reads is a sum of writes; with the norm's scale held at the value it has in the run, the right answer's logit
minus the wrong one's is a sum of one number per writer and a constant. The constant is what no writer wrote: biases of
attention's output maps, the final norm's bias, the logits' bias. The sum is the logit difference of the clean prompts.

Where a model caps its logits (Gemma 2), the numbers add up to the difference before the cap.

When it lies: it is a decomposition, not an ablation. What a writer does through later layers is not in it, without a
writer the norm's scale would be another, and two large contributions may be there only to cancel each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from gossamer.discover.attribution_patching import at_heads
from gossamer.discover.eap import Progress
from gossamer.discover.edge_patching import record_of
from gossamer.discover.room import probed, room_for
from gossamer.errors import options
from gossamer.graph import Layout
from gossamer.registry import method
from gossamer.scores import Scores
from gossamer.task import Encoded, Task, sides

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.models.huggingface import Blocks, Decoder
    from gossamer.subject import Probe

CONSTANT = "constant"
SIGN = "part of the right answer's logit minus the wrong one's: positive where it is for the right answer"


class DirectLogitAttributionConfig(BaseModel):
    """pairs: how many training pairs, their clean prompts; pairs_at_once, memory: as for EAP, no number changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int = Field(default=64, gt=0)
    pairs_at_once: int = Field(default=16, gt=0)
    memory: str | None = None


def direct_logit_attribution_config(**changes: Any) -> DirectLogitAttributionConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(DirectLogitAttributionConfig, changes, "set of options")


@method("direct-logit-attribution")
def direct_logit_attribution(
    model: Decoder | Blocks, task: Task, config: DirectLogitAttributionConfig | None = None, *,
    progress: Progress | None = None,
) -> Scores:  # fmt: skip
    """Logits that each writer adds to the difference on the task's training pairs, and last a node `constant`.

    The values sum to the mean logit difference; nodes that write nothing have 0. Unlike the scores of patching, a
    positive one is for the right answer. details: `constant`, that row by where it comes from; `softcap`, 0 without.
    """
    config = config or DirectLogitAttributionConfig()
    graph, decoder = model.graph(), at_heads(model)
    layout = Layout(grain=graph.layout.grain, locations=(*graph.layout.locations, (CONSTANT, 1)))
    task = model.fitting(task)
    pairs = model.encode(task.train[: config.pairs])
    batches = []
    at_once = room_for(model, pairs, config, "direct-logit-attribution", most=config.pairs_at_once).pairs
    for start in range(0, pairs.n_pairs, at_once):
        done = min(start + at_once, pairs.n_pairs)
        batches.append(contributions(decoder, sides(pairs.pairs(start, done))[0]))
        if progress:
            progress(done, pairs.n_pairs, float(np.abs(batches[-1][0]).max()))
    by_writer, rest = np.concatenate([w for w, _ in batches], axis=1).mean(1), {
        name: float(np.concatenate([r[name] for _, r in batches]).mean()) for name in batches[0][1]
    }  # fmt: skip
    cap = rest.pop("softcap")
    values = np.zeros(layout.n_nodes)
    nodes = [w.split(".")[0] if graph.layout.grain == "block" else w for w in decoder.shape.writers]
    np.add.at(values, [layout.starts[n] for n in nodes], by_writer)  # what heads write is added up to their block's
    values[layout.starts[CONSTANT]] = sum(rest.values())
    record = record_of("direct-logit-attribution", config, model, task, pairs, sign=SIGN, constant=rest, softcap=cap)
    return Scores(layout=layout, values=values, record=record, signed=True)


@probed("direct-logit-attribution")
def _probe(model: Decoder | Blocks, config: DirectLogitAttributionConfig) -> Probe:
    def probe(pairs: Encoded, trials: int) -> Iterator[None]:
        contributions(at_heads(model), sides(pairs)[0])
        yield

    return probe


@torch.no_grad()
def contributions(model: Decoder, clean: Encoded) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(what each writer adds to each prompt's logit difference [writers, rows], the constant's parts [rows] each).

    clean: prompts with answers. Their sum over all is the logit difference (before a softcap, whose value is the part
    `softcap`, which does not count).
    """
    from gossamer.models.huggingface.reads import final_residual, frozen, logit_map

    residual, logits = final_residual(model, clean)
    out = logit_map(model, residual.x, logits)
    norm = frozen(model.parts.final_norm, residual.x)
    answer, wrong = (t.to(logits.device) for t in (clean.answer, clean.wrong))
    direction = (out.weight[answer] - out.weight[wrong]).to(residual.writes)

    def of(x: Tensor) -> np.ndarray:
        return (x * direction).sum(-1).cpu().double().numpy()

    bias = logits.new_zeros(len(logits)) if out.bias is None else out.bias[answer] - out.bias[wrong]
    return of(norm(residual.writes)), {
        "attention output biases": of(norm(residual.biases)), "final norm": of(norm.bias),
        "logits": bias.cpu().double().numpy(), "softcap": np.full(len(logits), out.cap),
    }  # fmt: skip
