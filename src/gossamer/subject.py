"""The protocol every model answers, so that methods and checks know no model library. In public we say "model"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from gossamer.ablation import Ablation, MeansOf
from gossamer.errors import BadInput
from gossamer.graph import Graph
from gossamer.record import Record
from gossamer.task import Encoded, Example, Task

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Outcome(NamedTuple):
    """What a run returns. gap: right minus wrong answer's logit per row ([trials * rows] with a trial axis); reads:
    location -> activations after any ablation, [rows, pos, channels]."""

    gap: Tensor
    reads: dict[str, Tensor]


class EdgeMasks(NamedTuple):
    """Edges of a channel graph, each with how much of the source's own value its destination reads.

    edges: (source, destination, matrix) numbers, [3, n]; keep: [n], 1 the source's value, 0 its replacement. An edge
    that is not listed is kept.
    """

    edges: np.ndarray
    keep: Tensor


class Subject(Protocol):
    """A model with its tokenizer and its reference means."""

    @property
    def name(self) -> str: ...

    def hashes(self) -> tuple[str, str]:
        """(hash of the weights, hash of the reference means)."""

    @property
    def means_of(self) -> MeansOf:
        """What the reference means are over."""

    def means(self, value: str = ...) -> Mapping[str, Tensor]:
        """What an ablated node becomes, [channels] per location: its reference mean, or zero."""

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Pairs as this model's tokens; BadInput lists every pair that does not fit."""

    def graph(self, grain: str) -> Graph:
        """Sites and counted edges at a grain; Unsupported for a grain this model has not."""

    def edge_weights(self, graph: Graph) -> np.ndarray:
        """One weight per edge of `graph`: this model's, or what it has within some nodes."""

    def cut_edges(self, ablation: Ablation) -> EdgeMasks | None:
        """What an ablation of granularity edge cuts, as masks of zeros; None at granularity node."""

    def run(
        self, batch: Encoded, *, ablation: Ablation | None = None, masks: Mapping[str, Tensor] | None = None,
        edges: EdgeMasks | None = None, value: str = "mean", values: Mapping[str, Tensor] | None = None,
        reads: Sequence[str] = (), then: Callable[[str, Tensor], Tensor] | None = None,
    ) -> Outcome:  # fmt: skip
        """Forward pass at each prompt's last token, under an ablation or under masks ([channels] or
        [trials, channels]) and edge masks; gradients flow into both. `value` says what masked nodes become, and what
        is read over masked edges: mean or zero; `values` says it of nodes by location instead, [channels] or one for
        every row and position. `then` is a further edit (location, activation [..., channels]) ->
        activation that treats every position alike."""


def require_model_of(record: Record, model: Subject | ResidualSubject) -> None:
    """BadInput unless `model` has the weights and the reference means that a circuit's record names."""
    for what, mine, its in zip(
        ("weights", "reference means"), model.hashes(), (record.model_sha256, record.means_sha256), strict=True
    ):
        if its and mine != its:
            raise BadInput(
                f"Expected the model the circuit was found in ({record.model}, {what} {its[:12]}), got {model.name} "
                f"with {what} {mine[:12] or 'none'}; give that model with --model."
            )


Objective = Callable[["Tensor"], "Tensor"]


class Ablations(Protocol):
    """Ablations of one batch of prompts, several in a pass."""

    clean: Tensor  # logits without any, [rows, vocab]

    @property
    def table_shape(self) -> tuple[int, int]:
        """(writers, readers)"""

    @property
    def at_once(self) -> int:
        """How many ablations in a pass are worth it on this device."""

    def places(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(writer, reader, layer of the reader) of edges of the graph; the logits are read after the last layer."""

    def logits(self, alpha: Tensor, layer: int) -> Tensor:
        """Logits [trials, rows, vocab] under shares alpha [trials, writers, readers], 0 in layers before `layer`."""


class Removals(Protocol):
    """A run of one batch of prompts in which more and more edges are ablated, from the logits back."""

    clean: Tensor  # logits without any, [rows, vocab]

    def stages(self) -> Iterator[np.ndarray]:
        """All edges in ACDC's order, in groups whose readers do not read each other's writes."""

    def live(self, edges: np.ndarray) -> np.ndarray:
        """Per edge, whether what its reader reads can still reach the logits."""

    def at_once(self, edges: np.ndarray) -> int:
        """How many of these edges are worth trying in a pass."""

    def logits(self, edges: np.ndarray) -> Tensor:
        """Logits [trials, rows, vocab]; trial t removes the edges 0 to t, live ones of one stage, besides earlier ones.
        All later stages must have been decided."""

    def accept(self, n: int) -> None:
        """Remove the first n edges of the last trials for good."""

    def drop(self, edges: np.ndarray) -> None:
        """Remove edges that are not live for good."""


@runtime_checkable
class Removing(Protocol):
    """A model that computes no more of a run than a removal can change."""

    def removals(self, batch: Encoded, reference: Tensor) -> Removals:
        """Edges ablated one after the other from the logits back, as ACDC does."""


class Room(NamedTuple):
    """How many pairs go at once, and how many trials of them in a pass."""

    pairs: int
    trials: int


Probe = Callable[[Encoded, int], Iterator[None]]
"""Runs what is dearest of a method on pairs and with so many trials in a pass, and stops after each of its phases."""


@runtime_checkable
class Budgeted(Protocol):
    """A model that can tell how much memory a method takes."""

    def trials_at_once(self, tokens: int) -> int:
        """How many runs of so many tokens a pass is worth on this device."""

    def needed(
        self, n_tokens: int, method: str, probe: Probe | None, *, pairs: int, trials: Callable[[int], int] | None = None
    ) -> int:
        """Peak bytes, weights included, on so many pairs of so many tokens a prompt at once."""

    def within_budget(
        self, n_tokens: int, budget_bytes: int, method: str, probe: Probe | None, *, most: int, least: int = 1,
        trials: Callable[[int], int] | None = None,
    ) -> Room:  # fmt: skip
        """How many pairs of so many tokens a prompt to take at once, from `least` to `most`, and how many trials, up to
        what is worth it. probe: None for the methods that are known without. BadInput, naming what would do, if the
        least does not fit."""


@runtime_checkable
class AlongPath(Protocol):
    """A model that adds up gradients along a path at less than their single cost."""

    def path_gradient(
        self, batch: Encoded, reference: Tensor, objective: Objective, fractions: Sequence[float]
    ) -> Tensor:
        """The mean of `edge_gradient` [edges] over runs that start so far on the way from the reference's start to the
        clean one; the first fraction is 1."""


@runtime_checkable
class FreezingNorms(Protocol):
    """A model that can hold its norms."""

    def frozen_norms(self) -> Subject | ResidualSubject:
        """The same model, the norms of whose ablated runs keep the scales that they have with nothing ablated on the
        same prompts."""


@runtime_checkable
class Attending(Protocol):
    """A model at channel grain that shows where its heads look."""

    def attention(
        self, batch: Encoded, *, masks: Mapping[str, Tensor] | None = None, value: str = "mean",
        values: Mapping[str, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """[layers, rows, heads, pos, keys] in the run with these arguments; in a model with a sink, the sink is one key
        more than there are positions, the last."""


@runtime_checkable
class Watched(Protocol):
    """A model at head or block grain that shows what it does while edges are ablated."""

    def watched(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """(what every writer wrote [writers, rows, pos, d], attention patterns of all heads [layers, rows, heads, pos,
        keys]) in the run that `patched` makes."""


@runtime_checkable
class ResidualSubject(Protocol):
    """A model at head or block grain: named writers to a residual stream, named readers of it, edges between them.

    Writers are in the order of the forward pass, heads before their MLP; `rows` are prompts, computed up to their last
    token.
    """

    @property
    def name(self) -> str: ...

    def hashes(self) -> tuple[str, str]:
        """(hash of the weights, hash of the reference means, empty without)."""

    def encode(self, examples: Sequence[Example], *, positions: str = "all", several: bool = False) -> Encoded:
        """Pairs as this model's tokens, to be ablated at these positions, which are as many on both sides; BadInput
        lists every pair that does not fit. What takes a batch ablates edges at its chosen positions alone."""

    def fitting(self, task: Task, *, positions: str = "all", several: bool = False) -> Task:
        """The task without the pairs this model cannot be asked; `left_out` and the version say how many."""

    def graph(self, grain: str = ...) -> Graph:
        """Nodes and edges at this model's own grain, reader by reader in the order of the forward pass."""

    def writes(self, batch: Encoded, *, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(what every writer wrote [writers, rows, pos, d], logits at the last token [rows, vocab]). start: what the
        residual stream starts as, [rows, pos, d]."""

    def ablations(self, batch: Encoded, reference: Tensor) -> Ablations:
        """Many ablations of the same prompts, each computed from where it differs from the clean run on."""

    def patched(self, batch: Encoded, alpha: Tensor, reference: Tensor) -> Tensor:
        """Logits [rows, vocab] with a share alpha [edges] of each edge ablated: its reader gets that share of
        `reference` ([writers, rows, pos, d]) in place of what the writer writes in this run. Gradients flow."""

    def edge_gradient(
        self, batch: Encoded, reference: Tensor, objective: Objective, *, start: Tensor | None = None,
        writes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(gradient of the objective (logits -> a sum over rows) to alpha [edges] at 0, this run's writes). start: what
        the residual stream starts as; writes: what the reference's change is measured from, default this run's."""
