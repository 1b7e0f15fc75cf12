"""A baseline: every edge has a random score.

What a method must beat at the same number of edges. A circuit's null of its own size and shape is `gossamer verify`'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gossamer.discover.eap import Progress
from gossamer.errors import options
from gossamer.record import Record
from gossamer.registry import method
from gossamer.scores import EdgeScores
from gossamer.subject import ResidualSubject
from gossamer.task import Task


class RandomConfig(BaseModel):
    """seed: other seed, other ranking."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)


def random_config(**changes: Any) -> RandomConfig:
    """The defaults with fields changed; a value out of range is BadInput."""
    return options(RandomConfig, changes, "set of options")


@method("random")
def random_edges(
    model: ResidualSubject, task: Task, config: RandomConfig | None = None, *, progress: Progress | None = None
) -> EdgeScores:
    """Independent standard normal numbers, so that size and sign are random both. The model is not run."""
    config = config or RandomConfig()
    graph = model.graph()
    values = np.random.default_rng(config.seed).standard_normal(graph.n_edges)
    record = untouched(model, task, "random", "random, like the size", config, config.seed)
    return EdgeScores(graph=graph, values=values, record=record)


def untouched(model: ResidualSubject, task: Task, name: str, sign: str, config: BaseModel, seed: int = 0) -> Record:
    """The record of a baseline that looked at no prompt. sign: what that of a score means."""
    model_hash, means_hash = model.hashes()
    return Record.now(
        method=name, config=config.model_dump(mode="json"), seed=seed, model=model.name, model_sha256=model_hash,
        means_sha256=means_hash, task=task.name, task_version=task.version, details={"pairs": 0, "sign": sign},
    )  # fmt: skip
