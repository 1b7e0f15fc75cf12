"""A baseline: how strongly the weights alone connect a writer with a reader.

The score of an edge is the Frobenius norm of the reader's weights times the writer's: W_Q, W_K, W_V (of one head or
group), W_in or the unembedding, times W_O of one head, W_out or the embedding, with the gains of the norms between them
folded in. It is the root mean square of what is read when the hidden values of the writer are independent with variance
1 (for `input`: when all tokens are equally frequent). No prompt is looked at, so it is the same for every task; scores
have no sign. The numerator of the composition scores of Elhage et al. 2021 ("A Mathematical Framework for Transformer
Circuits").

When it lies: always, as an explanation. It knows no data, no attention pattern, no activation function and not by what
a norm divides; a method that does not beat it has found large weights.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from gossamer.discover.eap import Progress
from gossamer.discover.random_edges import untouched
from gossamer.errors import options
from gossamer.registry import method
from gossamer.scores import EdgeScores
from gossamer.subject import ResidualSubject
from gossamer.task import Task


class WeightMagnitudeConfig(BaseModel):
    """Nothing to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def weight_magnitude_config(**changes: Any) -> WeightMagnitudeConfig:
    """The only options; any field is BadInput."""
    return options(WeightMagnitudeConfig, changes, "set of options")


@method("weight-magnitude")
def weight_magnitude(
    model: ResidualSubject, task: Task, config: WeightMagnitudeConfig | None = None, *,
    progress: Progress | None = None,
) -> EdgeScores:  # fmt: skip
    """Norms of composed weights, of a Hugging Face decoder; Unsupported for another model. The model is not run."""
    from gossamer.models.huggingface.weights import composed_norms

    norms = composed_norms(model, progress)
    record = untouched(model, task, "weight-magnitude", "none, a size", config or WeightMagnitudeConfig())
    return EdgeScores(graph=model.graph("head"), values=norms, record=record)
