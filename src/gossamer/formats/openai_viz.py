"""The authors' released circuits: `viz_data.pt` of openai/circuit_sparsity (Gao et al. 2025), read weights-only.

Every task loss in these files is the sum of the two prompts' cross-entropies; our task_loss_nats is half of it. The
halving happens here, in `_nats`, and nowhere else; numbers of `VizData` are nats on our scale.

When it lies: the file names kept nodes and numbers between them, not the model, its means or the answers. A circuit
read without the model has the connections the file shows, whatever the authors' threshold for showing one was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line
from gossamer.graph import Layout
from gossamer.models.authors import authors_config, load_weights_only
from gossamer.models.loaded import LoadedModel
from gossamer.models.sparse import SparseConfig
from gossamer.record import Record
from gossamer.site import Site
from gossamer.task import Encoded

BIAS: Literal["bias"] = "bias"
METHOD = "openai-viz"
PADDING = 0
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Connection:
    """Numbers from kept channels of one location to kept channels of another.

    values: float [len(src), len(dst)]; src, dst: channel numbers; the last of src may be "bias", the destination's own
    bias, which is no node and makes no edge.
    """

    source: str
    destination: str
    src: tuple[int | Literal["bias"], ...]
    dst: tuple[int, ...]
    values: np.ndarray


class Shown(NamedTuple):
    """A stretch of text that the authors' page shows: token ids, one activation each, and the place of interest."""

    tokens: tuple[int, ...]
    activations: tuple[float, ...]
    position: int


class Samples(NamedTuple):
    """Texts at one quantile of a node's activations: from the bottom and from the top."""

    bottom: tuple[Shown, ...]
    top: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class VizData:
    """What a `viz_data.pt` holds; losses in nats on the scale of task_loss_nats. None or empty: not in the file.

    kept: sorted channel numbers per location of the layout. node_losses: per location, the circuit's loss with that
    kept node ablated as well, in the order of `kept`; layer_losses: the same for a whole `0.attn` or `0.mlp`. deltas:
    change of the loss when one connection is ablated; connections: the connections themselves. sweep: (step of the
    hyperparameter search, loss) of each of its runs. samples: by site and quantile. prompts: int64 [n, pos],
    right-padded with 0, the first half of class 1 and the second of class 2; activations: [n, pos] by site.
    """

    config: SparseConfig
    kept: Mapping[str, np.ndarray]
    loss: float | None
    circuit_loss: float | None
    node_losses: Mapping[str, np.ndarray]
    layer_losses: Mapping[str, float]
    deltas: tuple[Connection, ...]
    connections: tuple[Connection, ...]
    samples: Mapping[Site, Mapping[float, Samples]]
    prompts: Tensor | None
    activations: Mapping[Site, Tensor]
    sweep: tuple[tuple[int, float], ...]
    prune_config: Mapping[str, Any]

    @property
    def layout(self) -> Layout:
        return Layout(grain="channel", locations=self.config.locations())

    @property
    def n_nodes(self) -> int:
        return sum(len(channels) for channels in self.kept.values())

    def nodes(self) -> np.ndarray:
        """Sorted node numbers of the kept channels in our layout."""
        starts = self.layout.starts
        return np.sort(np.concatenate([starts[k] + c for k, c in self.kept.items()]))

    def shown_edges(self) -> dict[tuple[int, int], float]:
        """(source, destination) node numbers of every non-zero connection between two kept nodes, with its number.

        Taken from `connections`, or from `deltas` in a file without those. Bias rows are no edges.
        """
        starts = self.layout.starts
        found: dict[tuple[int, int], float] = {}
        for c in self.connections or self.deltas:
            for i, j in np.argwhere(c.values != 0):
                src, dst = c.src[i], c.dst[j]
                if src != BIAS and src in self.kept[c.source] and dst in self.kept[c.destination]:
                    found[starts[c.source] + src, starts[c.destination] + dst] = float(c.values[i, j])
        return found

    def biases(self) -> int:
        """How many kept channels the file shows a non-zero bias of."""
        rows = (
            c.values[-1] for c in self.connections or self.deltas if c.src and c.src[-1] == BIAS
        )  # fmt: skip
        return sum(int(np.count_nonzero(row)) for row in rows)

    def circuit(self, model: LoadedModel | None = None, **details: Any) -> Circuit:
        """The kept nodes as a Circuit.

        With the model, its edges are the model's non-zero weights between kept nodes, as for every circuit here.
        Without it they are the connections that the file shows, and their weights are NaN: the file has none. Errors:
        BadInput for a model of another shape.
        """
        about = {"methodology": "gao-mean", "weights": "the model's" if model else "unknown", **details}
        config = {"target_loss": details.get("target_loss"), "prune_config": dict(self.prune_config)}
        if model is not None:
            if model.layout != self.layout:
                raise BadInput(
                    f"Expected a model with {self.layout.n_nodes} nodes, {self.config.n_layer} layers of width "
                    f"{self.config.d_model}, as the file says, got {model.name} with {model.layout.n_nodes} nodes; "
                    "give the model that the circuit was found in."
                )
            weights, means = model.hashes()
            record = Record.now(
                method=METHOD, config=config, seed=0, model=model.name, model_sha256=weights, means_sha256=means,
                details=about,
            )  # fmt: skip
            graph = model.graph("channel")
            return Circuit.from_nodes(graph, model.edge_weights(graph), self.nodes(), record=record)
        matrices = self.config.matrices()
        of_pair = {(s, d): i for i, (_, s, d) in enumerate(matrices)}
        layout, edges = self.layout, sorted(self.shown_edges())
        numbers = [of_pair[layout.site(s).location, layout.site(d).location] for s, d in edges]
        ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
        return Circuit(
            layout=layout, nodes=self.nodes(), src=ends[:, 0], dst=ends[:, 1], weight=np.full(len(edges), np.nan),
            matrix=np.array(numbers, dtype=np.int64), matrices=tuple(name for name, *_ in matrices),
            record=Record.now(method=METHOD, config=config, seed=0, details=about),
        )  # fmt: skip

    def batch(self, answer: int, wrong_answer: int) -> Encoded:
        """The file's prompts as pairs: prompt i of class 1 (right token `answer`) with prompt i of class 2.

        The tokens are used as they stand. A prompt ends at its last token that is not 0, so one whose real last token
        is 0 loses it. Errors: BadInput for a file without prompts.
        """
        if self.prompts is None:
            raise BadInput("Expected prompts (task_samples) in the file, it has none; give the pairs with --task.")
        n, width = self.prompts.shape
        tokens = self.prompts.view(2, n // 2, width).transpose(0, 1).reshape(n, width)
        places = torch.arange(width).expand(n, width)
        last = torch.where(tokens != PADDING, places, 0).amax(1)
        answers = torch.tensor([answer, wrong_answer]).repeat(n // 2)
        return Encoded(tokens, last, answers, answers.view(-1, 2).flip(1).flatten()).pairs(0, n // 2)


def read_viz_data(path: Path) -> VizData:
    """A `viz_data.pt` with everything in it checked. No code in it is ever run.

    Errors: BadInput for no file; CorruptFile for one that is damaged, holds more than tensors and plain values, lacks
    its kept nodes or its model config, or contradicts itself; Unsupported for nodes at other locations than ours.
    """
    if not path.is_file():
        raise BadInput(f"Expected a viz_data.pt at {path}, found no file.")
    given = load_weights_only(path)
    try:
        return _Reader().read(given)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise CorruptFile(f"{path} is not a whole viz_data.pt: {one_line(error)}; download it again.") from error


def _nats(stored: object) -> float:
    """A stored task loss, the sum of two cross-entropies, on our scale: half of it."""
    return _number(stored) / 2


def _number(given: object) -> float:
    value = given.item() if isinstance(given, Tensor) else given
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {type(given).__name__}")
    if not np.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return float(value)


def _numbers(given: object) -> np.ndarray:
    """A finite float array of any shape."""
    array = (given if isinstance(given, Tensor) else torch.tensor(given)).detach().double().numpy()
    if not np.isfinite(array).all():
        raise ValueError("expected finite numbers")
    return array


def _whole(given: object) -> Tensor:
    """An int64 tensor from a tensor or a list of whole numbers."""
    found = given if isinstance(given, Tensor) else torch.tensor(given)
    if found.numel() and (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool):
        raise ValueError(f"expected whole numbers, got {found.dtype}")
    return found.to(torch.int64)


def _mapping(given: object) -> dict[Any, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"expected names with values, got {type(given).__name__}")
    return given


class _Reader:
    """The parts of the file one after another; ValueError (and its kin) says in words what is wrong with which."""

    def read(self, given: object) -> VizData:
        top = self.at("the file", _mapping, given)
        importances = self.at("importances", _mapping, top.get("importances", {}))
        if "circuit_data" not in top or "beeg_model_config" not in importances:
            raise ValueError("it lacks circuit_data or importances.beeg_model_config")
        try:
            self.config = authors_config(self.at("beeg_model_config", _mapping, importances["beeg_model_config"]))
        except BadInput as error:
            raise ValueError(f"its model config is wrong ({error})") from error
        self.widths = dict(self.config.locations())
        circuit_data = dict(self.at("circuit_data", _mapping, top["circuit_data"]))
        inside = circuit_data.pop("prune_config", {})
        prune_config = self.at("prune_config", _mapping, top.get("prune_config", inside) or {})
        self.order = self.at("circuit_data", self.channels, circuit_data)
        kept = {k: np.sort(self.order[k]) for k in self.widths}
        total = sum(self.widths.values())
        if "num_total_nodes" in top and self.at("num_total_nodes", _number, top["num_total_nodes"]) != total:
            raise ValueError(f"num_total_nodes is {top['num_total_nodes']}, the model in its config has {total}")
        prompts, activations = self.at("task_samples", self.prompts, importances.get("task_samples"))
        return VizData(
            config=self.config, kept=kept, prompts=prompts, activations=activations,
            loss=self.maybe("loss", _nats, importances), circuit_loss=self.maybe("interv_loss", _nats, importances),
            node_losses=self.at("ch_interv_losses", self.node_losses, importances.get("ch_interv_losses", {})),
            layer_losses=self.at("layer_interv_losses", self.layers, importances.get("layer_interv_losses", {})),
            deltas=self.at("pair_data", self.deltas, importances.get("pair_data", [])),
            connections=self.at("pair_data_connections", self.pairs, importances.get("pair_data_connections", [])),
            samples=self.at("samples", self.samples, top.get("samples", {})),
            sweep=self.at("all_loss", self.sweep, top.get("all_loss", [])),
            prune_config={str(k): v if isinstance(v, bool | int | float | str) else str(v)
                          for k, v in prune_config.items()},
        )  # fmt: skip

    def at(self, name: str, read: Callable[[Any], T], given: object) -> T:
        """read(given), with the part's name in front of what is wrong."""
        try:
            return read(given)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{name}: {one_line(error)}") from error

    def maybe(self, name: str, read: Callable[[Any], T], given: dict[Any, Any]) -> T | None:
        return self.at(name, read, given[name]) if given.get(name) is not None else None

    def location(self, name: object) -> str:
        if name not in self.widths:
            raise Unsupported(
                f"a circuit with nodes at {name}",
                f"the nodes of a {self.config.n_layer}-layer model are at {', '.join(list(self.widths)[:8])}, ... and "
                "final_resid",
                "a circuit of the released pruning sweeps",
            )
        return str(name)

    def channels(self, given: dict[Any, Any]) -> dict[str, np.ndarray]:
        """Kept channels per location in the file's order; a location that is not named keeps none."""
        found = {k: np.zeros(0, dtype=np.int64) for k in self.widths}
        for name, kept in given.items():
            location = self.location(name)
            numbers = _whole(kept).numpy()
            if numbers.ndim != 1 or len(np.unique(numbers)) < len(numbers):
                raise ValueError(f"expected different channels at {location}, got shape {list(numbers.shape)}")
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < self.widths[location]):
                raise ValueError(f"expected channels of 0 to {self.widths[location] - 1} at {location}")
            found[location] = numbers
        return found

    def node_losses(self, given: object) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for name, losses in _mapping(given).items():
            location = self.location(name)
            stored, order = list(losses), self.order[location]
            if len(stored) != len(order):
                raise ValueError(f"{len(stored)} losses for {len(order)} kept nodes at {location}")
            if stored:
                found[location] = np.array([_nats(x) for x in stored])[np.argsort(order)]
        return found

    def layers(self, given: object) -> dict[str, float]:
        found = {str(name): _nats(loss) for name, loss in _mapping(given).items()}
        known = {f"{i}.{sub}" for i in range(self.config.n_layer) for sub in ("attn", "mlp")}
        if unknown := sorted(set(found) - known):
            raise ValueError(f"the model has no layers {', '.join(unknown[:4])}")
        return found

    def deltas(self, given: object) -> tuple[Connection, ...]:
        """Changes of the stored loss, so halved like it."""
        return self.pairs(given, scale=0.5)

    def pairs(self, given: Any, scale: float = 1.0) -> tuple[Connection, ...]:
        known = {(s, d) for _, s, d in self.config.matrices()}
        found = []
        if len(given) and isinstance(given[0][0], list | tuple) and len(given[0][0]) == 4:
            given = [entry for rank in given for entry in rank]  # one version wrote a list per process
        for values, src, dst, (source, destination) in given:
            if (self.location(source), self.location(destination)) not in known:
                raise Unsupported(
                    f"a connection from {source} to {destination}", "no weight matrix joins them", "another circuit"
                )
            ends = [x.tolist() if isinstance(x, Tensor) else list(x) for x in (src, dst)]
            has_bias = bool(ends[0]) and ends[0][-1] == BIAS
            numbers = [_whole(e).tolist() for e in (ends[0][:-1] if has_bias else ends[0], ends[1])]
            for own, location in zip(numbers, (source, destination), strict=True):
                if any(not 0 <= i < self.widths[location] for i in own):
                    raise ValueError(f"expected channels of 0 to {self.widths[location] - 1} at {location}")
            shape = (len(ends[0]), len(ends[1]))
            table = _numbers(values) * scale
            if table.shape != shape and not (table.size == 0 == shape[0] * shape[1]):
                raise ValueError(f"{source} to {destination}: {list(table.shape)} numbers for {list(shape)} ends")
            connection = Connection(
                source=source, destination=destination, src=(*numbers[0], BIAS) if has_bias else tuple(numbers[0]),
                dst=tuple(numbers[1]), values=table.reshape(shape),
            )  # fmt: skip
            found.append(connection)
        return tuple(found)

    def site(self, location: str, channel: object) -> Site:
        (number,) = _whole([channel]).tolist()
        if not 0 <= number < self.widths[location]:
            raise ValueError(f"expected channels of 0 to {self.widths[location] - 1} at {location}, got {number}")
        return Site(location, number)

    def samples(self, given: object) -> dict[Site, dict[float, Samples]]:
        found: dict[Site, dict[float, Samples]] = {}
        for name, channels in _mapping(given).items():
            location = self.location(name)
            for channel, by_quantile in _mapping(channels).items():
                found[self.site(location, channel)] = {
                    _number(q): Samples(*(tuple(self.shown(s) for s in side) for side in sides))
                    for q, sides in _mapping(by_quantile).items()
                }
        return found

    def shown(self, given: Any) -> Shown:
        tokens, activations, position = given
        ids, values, place = _whole(tokens).tolist(), _numbers(activations).tolist(), int(_number(position))
        if len(ids) != len(values) or not 0 <= place < len(ids):
            raise ValueError(f"{len(ids)} tokens with {len(values)} activations and position {place}")
        return Shown(tuple(ids), tuple(values), place)

    def prompts(self, given: Any) -> tuple[Tensor | None, dict[Site, Tensor]]:
        if given is None:
            return None, {}
        tokens, by_location = given
        ids = _whole(tokens)
        if ids.ndim != 2 or len(ids) % 2 or not ids.numel():
            raise ValueError(f"expected an even number of prompts, got tokens of shape {list(ids.shape)}")
        if int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab_size or ids.shape[1] > self.config.n_ctx:
            raise ValueError(
                f"expected tokens of 0 to {self.config.vocab_size - 1} and at most {self.config.n_ctx} of them"
            )
        found: dict[Site, Tensor] = {}
        for name, channels in _mapping(by_location).items():
            location = self.location(name)
            for channel, activations in _mapping(channels).items():
                values = torch.from_numpy(_numbers(activations))
                if values.shape != ids.shape:
                    raise ValueError(f"activations of shape {list(values.shape)} for tokens {list(ids.shape)}")
                found[self.site(location, channel)] = values
        return ids, found

    def sweep(self, given: Any) -> tuple[tuple[int, float], ...]:
        return tuple((int(_number(step)), _nats(loss)) for step, loss in given)
