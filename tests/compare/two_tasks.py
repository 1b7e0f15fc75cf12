"""Models with two tasks whose circuits share nothing, a core, or everything, at channel and at head grain."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
from mechanisms import SECOND, trial_of, two_heads, two_routes
from toys import PLANTED_NODES, WORDS
from verify_helpers import circuit_of

from gossamer.ablation import Methodology, of_edges
from gossamer.compare.parts import Parts, matched
from gossamer.models import LoadedModel
from gossamer.models.planted import with_means
from gossamer.task import Example, Task
from gossamer.verify import ChannelTrial, EdgeTrial

Kind = Literal["nothing", "core", "everything"]
SIDES = {"sides": ("left", "right"), "others": ("w9", "w10")}


def sides_task(name: str, n: int = 24, seed: int = 0) -> Task:
    """Say L or R after one or the other of two words."""
    rng = random.Random(f"{name} {seed}")

    def example() -> Example:
        words = [f"w{rng.randrange(9)}" for _ in range(rng.randint(2, 6))]
        at = rng.randrange(len(words))
        one, other = (" ".join([*words[:at], side, *words[at:]]) for side in SIDES[name])
        return Example(clean=one, counterfactual=other, answer=" L", wrong_answer=" R", template=name)

    split = [tuple(example() for _ in range(n)) for _ in range(2)]
    return Task(name=name, version="1", description="Which side", train=split[0], heldout=split[1])


def two_channel_tasks(shared: Kind) -> tuple[LoadedModel, dict[str, tuple[str, ...]]]:
    """A model and the circuit of each task: the second task's words have a route of their own, one of their own into
    the first one's last channel, or the first one's."""
    model = two_routes(SIDES["others"])
    weights, ids = model.model, [model.tokenizer.token_to_id(w) for w in SIDES["others"]]
    second = SECOND
    if shared == "core":
        block = weights.blocks[0]
        block.attn.c_proj.weight.data[7, 13], block.attn.c_proj.weight.data[6, 13] = 0.0, 3.0
        second = (*SECOND[:2], *PLANTED_NODES[2:])
    elif shared == "everything":
        weights.wte.weight.data[ids[0], 3], weights.wte.weight.data[ids[1], 3] = 1.0, -1.0
        weights.wte.weight.data[ids, 4] = 0.0
        second = PLANTED_NODES
    weights.wte.weight.data[:, 1] = 0.0  # no decoys: the norm gives them attributions
    return with_means(weights, WORDS, f"two tasks, {shared}"), {"sides": PLANTED_NODES, "others": second}


def channel_trials(shared: Kind) -> dict[str, ChannelTrial]:
    model, sites = two_channel_tasks(shared)
    return {
        name: ChannelTrial(
            model=model, circuit=circuit_of(model, own), task=sides_task(name),
            heldout=model.encode(sides_task(name).heldout),
        )
        for name, own in sites.items()
    }  # fmt: skip


def head_trials() -> dict[str, EdgeTrial]:
    """A head each: which one answers is decided by the last word, A or B, and each task has one of the two."""
    both = two_heads("chosen")
    found = {}
    for name, head in (("A", "a0.h1"), ("B", "a0.h2")):
        train, heldout = (
            tuple(e for e in split if e.template == name) for split in (both.task.train, both.task.heldout)
        )
        task = Task(name=name, version="1", description="", train=train, heldout=heldout)
        found[name] = trial_of(both.model, task, {f"input->{head}<v>", f"{head}->logits"})  # type: ignore[arg-type]
    return found


class Additive:
    """Parts by arithmetic: 60 of two kinds, each with a worth of its own to a task (a few have most of it), the same to
    each of 16 pairs but for noise."""

    kinds = np.repeat([0, 1], [20, 40])
    inside = np.isin(np.arange(60), [0, 1, 2, 20, 21, 22, 23])
    model, progress, n_pairs = SimpleNamespace(name="none", hashes=lambda: ("none", "")), None, 16

    def __init__(self, seed: int, task: int = 0) -> None:
        rng = np.random.default_rng(task)
        self.seed, self.task = seed, SimpleNamespace(name=f"task {task}")
        self.worth = rng.pareto(1.0, 60)
        self.of_pairs = self.worth + rng.normal(0, 1, (16, 60))

    def part(self, number: int) -> str:
        return f"part {number}"

    def methodology(self, value: str | None = None, set_: str = "circuit") -> Methodology:
        return of_edges(value or "mean", granularity="node")

    def effects(self, kept: np.ndarray, *, value: str | None = None) -> np.ndarray:
        return kept @ self.of_pairs.T

    def random_set(self) -> np.ndarray:
        return matched(self.trial, self.inside, 1, np.random.default_rng(1000 + self.seed))[0]

    @property
    def trial(self) -> Parts:
        return cast(Any, self)
