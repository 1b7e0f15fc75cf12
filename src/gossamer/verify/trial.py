"""A circuit on trial, at any grain: parts that keep their values or lose them, and what that does to the answer.

Parts are what a trial ablates as one: channels, edges, or heads and MLPs. A check asks for the effect of keeping a set
of parts, and knows nothing else of the grain. The effect of a pair is how much its clean prompt prefers the right
answer: at channel grain half of the difference of the logit gap between the pair's two prompts, which no shift of a
calibration changes; at head and block grain the clean prompt's logit difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from gossamer.ablation import Direction, Methodology, Set
from gossamer.circuit import Circuit
from gossamer.statistics import resampled_means
from gossamer.subject import ResidualSubject, Subject
from gossamer.task import Encoded, Example, Task

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int, float], None]


class Watch(NamedTuple):
    """What was seen of runs of both prompts of pairs: rows 2i the clean prompt, 2i + 1 the other one.

    seen: per row and position, see what made it; last: [rows] the position of the last token, what lies beyond it means
    nothing.
    """

    seen: Tensor
    last: Tensor


class Trial(Protocol):
    """What every check sees. `seed` is of every random draw; numbers do not change with the memory used."""

    @property
    def model(self) -> Subject | ResidualSubject: ...
    @property
    def circuit(self) -> Circuit: ...
    @property
    def task(self) -> Task: ...
    @property
    def seed(self) -> int: ...
    @property
    def progress(self) -> Progress | None: ...
    @property
    def cache(self) -> Path | None:
        """Folder of what was rediscovered before; None: the user's, see gossamer.verify.rediscovery."""

    @property
    def heldout(self) -> Encoded:
        """The held-out pairs as the model's tokens."""

    @property
    def n_pairs(self) -> int:
        """Held-out pairs that effects are of."""

    @property
    def values(self) -> tuple[str, ...]:
        """Values of an ablation that this trial can be asked for, the one the circuit was found under first."""

    @property
    def kinds(self) -> np.ndarray:
        """int [parts]: a random set is matched to the circuit's number of parts of each kind."""

    @property
    def inside(self) -> np.ndarray:
        """bool [parts]: the parts of the circuit."""

    @property
    def null(self) -> str:
        """What a random set of parts is called beside a number."""

    def part(self, number: int) -> str:
        """The name of a part."""

    def methodology(
        self, value: str | None = None, set_: Set = "complement", direction: Direction = "clean"
    ) -> Methodology:
        """How parts are ablated, in seven fields."""

    def effects(
        self, kept: np.ndarray, *, value: str | None = None, direction: Direction = "clean",
    ) -> np.ndarray:  # fmt: skip
        """Logits per held-out pair, float64 [sets, pairs], when these parts (bool [sets, parts]) keep their values and
        all others are ablated; each set is run once. direction `counterfactual`: in a run of the other prompt, these
        parts carry the values of the pair's own."""

    def graded(self, kept: Tensor, start: int, stop: int, *, value: str | None = None) -> Tensor:
        """The same, [pairs], of the pairs start to stop for one set whose parts keep a share (float [parts], 0 to 1) of
        their values; gradients flow into it."""

    def attributions(self) -> np.ndarray:
        """float64 [pairs, parts]: to first order, how much each pair's effect falls when a part of the whole model
        is ablated, in logits."""

    @property
    def sources(self) -> np.ndarray:
        """int [parts]: the node out of which a part comes, the part itself where parts are nodes. Nodes are what has an
        activation, numbered from 0."""

    def node(self, number: int) -> str:
        """The name of a node."""

    def activity(
        self, kept: np.ndarray, nodes: np.ndarray, start: int, stop: int, *, value: str | None = None
    ) -> Watch:  # fmt: skip
        """Activations [rows, pos, nodes, d] of nodes (numbers) in the runs of the pairs start to stop in which these
        parts (bool [parts]) keep their values: d is 1 for a channel, and what a head or an MLP writes has the width of
        the residual stream. Unsupported where the model does not show them."""

    def attention(self, kept: np.ndarray, start: int, stop: int, *, value: str | None = None) -> Watch:
        """Attention patterns [rows, pos, layers, heads, keys] of the same runs; a last key beyond the positions is a
        sink. Unsupported where the model does not show them."""

    def scrubbed(self, donors: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Logits per held-out pair, [pairs], when parts carry values of other prompts: part p of prompt r (the rows of
        `heldout`) what it has in prompt donors[groups[p], r] at the same position, or its own where groups[p] is -1.

        donors: int [groups, rows], each as long as its prompt; groups: int [parts of `of_nodes()`]. Of edges only
        clean prompts are run.
        """

    def of_nodes(self) -> Trial:
        """The same trial with what nodes hold or write as its parts, not edges."""

    def mirrored(self) -> Trial:
        """The same trial with the two prompts of every pair exchanged, so that the other answer is the right one."""

    def on(self, examples: Sequence[Example]) -> Trial:
        """The same trial on other pairs."""

    def under(self, model: Subject | ResidualSubject) -> Trial:
        """The same trial with another model in the model's place, of the same parts; nothing that was run is kept."""

    def retried(self, circuit: Circuit) -> Trial:
        """The same trial of another circuit of the same model; what was run is not forgotten."""

    def elsewhere(self, model: Any, task: Task, circuit: Circuit) -> Trial:
        """As many held-out pairs of another task, or another model of the same shape, and a circuit found there."""


def nodes_of(trial: Trial, kept: np.ndarray) -> np.ndarray:
    """Numbers of the nodes out of which one of these parts (bool [parts]) comes, in order."""
    return np.unique(trial.sources[kept])


def mirrored_pairs(pairs: Encoded) -> Encoded:
    """Every pair with its prompts, and their answers, exchanged."""
    order = np.arange(2 * pairs.n_pairs).reshape(-1, 2)[:, ::-1].flatten()
    return pairs.rows(order)


def rows_of(pairs: Encoded, rows: np.ndarray) -> Encoded:
    """These prompts (row numbers, as many as wanted), cut to the longest of them; they need not be pairs."""
    found, longest = pairs.rows(rows), int(pairs.last[rows].max()) + 1
    return found._replace(tokens=found.tokens[:, :longest], marks=found.marks.until(longest))


def random_sets(trial: Trial, draws: int, seed: int, *, sizes: np.ndarray | None = None) -> np.ndarray:
    """Random sets of parts, bool [draws, parts], with as many parts of each kind as the circuit, or as `sizes` says
    ([kinds], of kinds 0 to the last)."""
    kinds, rng = trial.kinds, np.random.default_rng(seed)
    wanted = np.bincount(kinds[trial.inside], minlength=kinds.max() + 1) if sizes is None else sizes
    found = np.zeros((draws, len(kinds)), dtype=bool)
    places = [np.flatnonzero(kinds == k) for k in range(len(wanted))]
    for row in found:
        for n, where in zip(wanted.tolist(), places, strict=True):
            row[rng.choice(where, n, replace=False)] = True
    return found


def ends(trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    """(effect of the empty circuit, of the whole model), [pairs] each."""
    n = len(trial.kinds)
    empty, whole = trial.effects(np.repeat([[False], [True]], n, axis=1))
    return empty, whole


def shares(effects: np.ndarray, empty: np.ndarray, whole: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """f of sets from their effects [.., pairs]: (ratio of means [..], bootstrap draws of it over pairs [.., draws]).

    0 is the empty circuit, 1 the whole model; never clipped. The same pairs are drawn above and below the line.
    """
    below = whole - empty
    return (
        (effects - empty).mean(-1) / below.mean(),
        resampled_means(effects - empty, seed) / resampled_means(below, seed),
    )
