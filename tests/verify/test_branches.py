"""Ablation of branches is what the tree of all paths says, path by path, and ablation of edges where it has to be."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any, Literal

import numpy as np
import pytest
import torch
from patching_helpers import BY_HAND, by_hand, made, number_pairs
from scalar_decoder import ScalarDecoder, numbers
from torch import Tensor

from gossamer.ablation import Granularity, Methodology, of_edges
from gossamer.circuit import Circuit, shares_of
from gossamer.discover import path_effects
from gossamer.errors import BadInput, Unsupported
from gossamer.graph import count_branches
from gossamer.models.huggingface import Blocks
from gossamer.record import Record
from gossamer.subject import ResidualSubject
from gossamer.task import Encoded
from gossamer.verify import EdgeTrial, circuit_faithfulness, metric_values
from gossamer.verify.edge_trial import edge_values
from gossamer.verify.grid import grid

EDGES = {"input->a0.h0<v>", "a0.h0->a1.h0<v>", "a1.h0->logits"}


def names(model: ResidualSubject) -> list[str]:
    graph = model.graph("head")
    nodes = [n for n, _ in graph.layout.locations]
    ends = zip(graph.src, graph.dst, (graph.matrices[m] for m in graph.matrix), strict=True)
    return [f"{nodes[s]}->{nodes[d]}{f'<{m}>' if m in 'qkv' else ''}" for s, d, m in ends]


def inside(model: ResidualSubject, edges: set[str]) -> np.ndarray:
    return np.isin(names(model), list(edges))[None]


def values(
    model: ResidualSubject, pairs: Encoded, kept: np.ndarray, granularity: str, value: str = "resample", **how: Any
) -> np.ndarray:
    """The metric of each circuit [circuits, pairs]; how: set and direction."""
    component: Literal["head", "block"] = "block" if isinstance(model, Blocks) else "head"
    asked = of_edges(value, granularity=granularity, component=component, positions=pairs.marks.positions, **how)
    return metric_values(model, pairs, kept, how=asked, training=pairs)


# by hand: x is 1 in the clean run and 0 in the other. a0 = 2 v + 1, a1 = 3 v, the logit is x + a0 + a1.
LINE = ScalarDecoder(
    heads=[[lambda q, k, v: 2 * v + 1], [lambda q, k, v: 3 * v]], mlps=[lambda x: 0 * x] * 2, logit=lambda x: x
)
ONE = numbers((10, 0), (10, 0))


def test_branch_edge_and_node_by_hand() -> None:
    """The circuit is the path of 3 * 2 * x in x + (2 x + 1) + 3 (x + 2 x + 1) = 12 x + 4."""
    pairs, kept = LINE.encode(ONE.train), inside(LINE, EDGES)
    nodes = np.isin(LINE.graph().src, np.unique(LINE.graph().src[kept[0]]))[None]

    def of(granularity: str, value: str, **how: Any) -> float:
        sets = nodes if granularity == "node" else kept
        return float(values(LINE, pairs, sets, granularity, value, **how)[0, 0])

    assert of("branch", "resample", set="circuit") == pytest.approx(12 - 6 + 4)
    assert of("edge", "resample", set="circuit") == pytest.approx(1 + 1 + 3)  # a1 is lost for all that goes through it
    assert of("node", "resample", set="circuit") == pytest.approx(0 + 1 + 3)
    assert of("branch", "resample") == of("edge", "resample") == pytest.approx(6 + 4)
    assert of("node", "resample") == pytest.approx(16)
    assert of("branch", "zero") == pytest.approx(6 + 4)  # an ablated branch still computes what a0 adds by itself
    assert of("edge", "zero") == pytest.approx(3 * 3)  # and an ablated edge does not
    assert of("node", "zero") == pytest.approx(16)


def test_a_circuit_that_lacks_an_edge_of_its_path_has_no_branch() -> None:
    pairs = LINE.encode(ONE.train)
    for missing in EDGES:
        kept = inside(LINE, EDGES - {missing})
        assert count_branches(LINE.graph(), np.flatnonzero(kept[0])) == 0
        assert values(LINE, pairs, kept, "branch", set="circuit")[0, 0] == pytest.approx(16)
        assert values(LINE, pairs, kept, "branch")[0, 0] == pytest.approx(4)
        assert values(LINE, pairs, kept, "edge", set="circuit")[0, 0] != pytest.approx(16)


# brute force: every path from the input to the logits computed as its own branch of a tree


def curved(n_heads: int) -> ScalarDecoder:
    rng = np.random.default_rng(n_heads)
    w = torch.from_numpy(rng.normal(size=(2, n_heads, 3)))

    def head(layer: int, h: int) -> Any:
        return lambda q, k, v: torch.sigmoid(w[layer, h, 0] * q * (k + 0.3)) * v + 0.2 * w[layer, h, 2]

    return ScalarDecoder(
        heads=[[head(i, h) for h in range(n_heads)] for i in range(2)],
        mlps=[lambda x: torch.tanh(x + 0.4), lambda x: 0.5 * x * x], logit=lambda x: x + 0.3 * x * x,
    )  # fmt: skip


def unrolled(model: ScalarDecoder, clean: Tensor, replaced: Tensor, inside: np.ndarray, ablate_circuit: bool) -> Tensor:
    """The logit where every path of the circuit's edges, or every other one, starts at the replaced input."""
    graph, shape = model.graph("head"), model.shape
    starts = np.cumsum([0, *(n for _, _, n in shape.readers)])
    nodes = [n for n, _ in graph.layout.locations]
    columns = {(node, what): i for i, (node, what, _) in enumerate(shape.readers)}

    def read(node: str, what: str, path: tuple[int, ...]) -> Tensor:
        column = columns[node, what]
        total = torch.zeros_like(clean)
        for edge in range(starts[column], starts[column + 1]):
            total = total + wrote(nodes[graph.src[edge]], (edge, *path))
        return total

    def wrote(node: str, path: tuple[int, ...]) -> Tensor:
        if node == "input":
            return replaced if bool(inside[list(path)].all()) == ablate_circuit else clean
        layer = int(node[1:].split(".")[0])
        if node[0] == "m":
            return model.mlps[layer](read(node, "mlp", path))
        return model.heads[layer][int(node.split(".h")[1])](*(read(node, p, path) for p in "qkv"))

    return model.logit(read("logits", "logits", ()))


@pytest.mark.parametrize("n_heads", [1, 2])
def test_every_circuit_is_what_the_tree_of_its_paths_says(n_heads: int) -> None:
    model = curved(n_heads)
    pairs, rng = model.encode(numbers((7, -12), (-9, 4)).train), np.random.default_rng(0)
    n = model.graph().n_edges
    rows = pairs.tokens[:, 0].double() / 10
    clean, other = rows[::2, None], rows[1::2, None]
    same, differs = 0, 0
    for share in (0.3, 0.6, 0.9):
        kept = rng.random((2, n)) < share
        for value, set_ in product(("resample", "zero", "mean"), ("complement", "circuit")):
            to = {"resample": other, "zero": 0 * clean, "mean": rows.mean() + 0 * clean}[value]
            found = values(model, pairs, kept, "branch", value, set=set_)
            for row, own in zip(found, kept, strict=True):
                wanted = unrolled(model, clean, to, own, set_ == "circuit")[:, 0].numpy()
                assert np.allclose(row, wanted, atol=1e-6)
            by_edges = values(model, pairs, kept, "edge", value, set=set_)
            same += bool(np.allclose(by_edges, found, atol=1e-6))
            differs += not np.allclose(by_edges, found, atol=1e-3)
            if value == "resample" and set_ == "complement":
                assert np.allclose(by_edges, found, atol=1e-6)
    assert same <= 6
    assert differs >= 12  # ablating edges is another thing, so that the tree tells them apart


def test_branches_are_counted_as_the_tree_has_them() -> None:
    graph = curved(2).graph()
    leaves = 0

    def walk(node: int, edges: np.ndarray) -> None:
        nonlocal leaves
        leaves += node == graph.layout.starts["input"]
        for edge in edges[graph.dst[edges] == node]:
            walk(int(graph.src[edge]), edges)

    rng = np.random.default_rng(0)
    for edges in (np.arange(graph.n_edges), np.flatnonzero(rng.random(graph.n_edges) < 0.5)):
        leaves = 0
        walk(graph.layout.starts["logits"], edges)
        assert count_branches(graph, edges) == leaves
    grouped = made("llama").graph()  # four heads on two key-value groups, two layers
    heads = 1
    for _ in range(2):
        a = 4 * 3 * heads
        heads = heads + a + (heads + a)
    assert count_branches(grouped, np.arange(grouped.n_edges)) == heads


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox", "falcon"])
@pytest.mark.parametrize("grain", ["head", "block"])
def test_in_every_architecture_branches_meet_edges_and_their_own_mirror(name: str, grain: str) -> None:
    """Complement ablated by resampling: branches are edges. Putting a circuit's clean values back into the other prompt
    is ablating all other branches, and ablating it is putting back all others: exactly, where edges are not."""
    decoder = made(name)
    model: Any = Blocks(decoder) if grain == "block" else decoder
    graph, task = model.graph(grain), number_pairs()
    pairs = model.encode(task.train)
    kept = np.random.default_rng(1).random((3, graph.n_edges)) < np.array([[0.0], [0.7], [1.0]])
    sets = ("complement", "circuit")
    both = {
        (g, d, s): values(model, pairs, kept, g, set=s, direction=d)
        for g in ("branch", "edge") for d in ("clean", "counterfactual") for s in sets
    }  # fmt: skip
    close = 1e-4 if "gemma" in name or "llama" in name else 1e-9  # norms that round to float32
    assert np.allclose(both["branch", "clean", "complement"], both["edge", "clean", "complement"], atol=close)
    for s, mirror in zip(sets, sets[::-1], strict=True):
        assert np.allclose(both["branch", "clean", s], both["branch", "counterfactual", mirror], atol=close)
    off = np.abs(both["edge", "clean", "circuit"] - both["edge", "counterfactual", "complement"])[1]
    assert off.max() > 1e-3
    assert np.abs(both["branch", "clean", "circuit"] - both["edge", "clean", "circuit"])[1].max() > 1e-3
    assert np.allclose(both["branch", "clean", "circuit"][[0, 2]], both["edge", "clean", "circuit"][[0, 2]], atol=close)


def test_a_single_path_is_what_path_patching_says() -> None:
    model, task = made("gpt2"), number_pairs()
    pairs = model.encode(task.train)
    whole = values(model, pairs, np.ones((1, model.graph().n_edges), dtype=bool), "edge")[0]
    for path in ("input->a0.h1<v>->m1->logits", "input->a0.h0<q>->a1.h2<k>->logits", "input->logits"):
        steps = path.split("->")
        kept = inside(model, {f"{a.split('<')[0]}->{b}" for a, b in pairwise(steps)})
        assert kept.sum() == len(steps) - 1
        found = values(model, pairs, kept, "branch", set="circuit")[0] - whole
        assert np.allclose(found, path_effects(model, pairs, [path]), atol=1e-6)


def test_on_a_chain_branches_are_edges() -> None:
    """The model by hand without its second way to the logits: no part has two that it hears from or writes to."""
    chain, two_ways = by_hand(), by_hand()
    model: Any = chain.model
    model.lm_head.weight[:2, 5] = 0
    for decoder, same in ((chain, True), (two_ways, False)):
        pairs = decoder.encode(BY_HAND.train)
        kept = inside(decoder, EDGES)
        rng = np.random.default_rng(0)
        idle = ~inside(decoder, EDGES | {"a0.h0->logits"})
        kept = kept | ((rng.random((4, kept.shape[1])) < 0.4) & idle)  # edges that carry nothing change nothing
        for set_ in ("complement", "circuit"):
            branch, edge = (values(decoder, pairs, kept, g, set=set_) for g in ("branch", "edge"))
            if set_ == "complement" or same:
                assert np.allclose(branch, edge, atol=1e-9)
            else:
                assert (np.abs(branch - edge) > 0.1).all()


# where it is asked for


def trial(model: ResidualSubject, pairs: Encoded, kept: np.ndarray, **fields: Any) -> EdgeTrial:
    graph = model.graph("head")
    record = Record(method="by hand", config={}, seed=0, model_sha256=model.hashes()[0])
    edges = np.flatnonzero(kept)
    circuit = Circuit.from_edges(graph, edges, np.zeros(len(edges)), record=record)
    return EdgeTrial(
        model=model, circuit=circuit, task=ONE, heldout=pairs, training=pairs, granularity="branch", draws=3, **fields
    )


def test_a_trial_and_a_grid_ask_for_branches() -> None:
    model = curved(1)
    pairs = model.encode(numbers((12, -2), (9, 1), (13, -1), (11, 0)).train)
    kept = np.random.default_rng(0).random(model.graph().n_edges) < 0.6
    made = trial(model, pairs, kept)
    for set_ in ("complement", "circuit"):
        how = made.methodology(set_=set_)
        assert how.granularity == "branch"
        assert np.allclose(made.outcome(how).gap[0], values(model, pairs, kept[None], "branch", set=set_)[0])
    assert np.allclose(
        made.effects(kept[None], direction="counterfactual"), values(
            model, pairs, kept[None], "branch", set="circuit", direction="counterfactual"
        ),
    )  # fmt: skip
    assert np.allclose(
        made.graded(torch.from_numpy(kept).double(), 0, 4, value="zero").numpy(),
        made.effects(kept[None], value="zero")[0], atol=1e-6,
    )  # fmt: skip
    rows = {
        (r.granularity, r.value, r.asks): r for _, rows in grid(made, values=("resample", "zero")) for r in rows[:1]
    }
    for asks in ("maintained performance", "restored performance"):
        assert rows["branch", "resample", asks].score == pytest.approx(
            rows["edge", "resample", "maintained performance"].score, abs=1e-6
        )
    assert all(row.score is not None for row in rows.values())
    destroyed = [rows[g, "resample", "destroyed performance"].score for g in ("branch", "edge")]
    assert destroyed[0] != pytest.approx(destroyed[1], abs=1e-3)
    assert (
        rows["branch", "zero", "maintained performance"].score != rows["edge", "zero", "maintained performance"].score
    )


def test_faithfulness_by_branches_names_them() -> None:
    model = made("gpt2", torch.float32)
    pairs = model.encode(number_pairs(n=4).train)
    kept = np.random.default_rng(0).random(model.graph().n_edges) < 0.9
    circuit = trial(model, pairs, kept).circuit
    both: tuple[Granularity, ...] = ("edge", "branch")
    found = [circuit_faithfulness(model, pairs, circuit, value="zero", granularity=g) for g in both]
    assert [f.methodology["granularity"] for f in found if f.methodology] == ["edge", "branch"]
    assert found[0].value != found[1].value


def test_at_chosen_positions_the_input_is_replaced_there_alone() -> None:
    """With every branch ablated at the last token the run is that of the prompt with the other's last token."""
    model = made("gpt2")
    task = number_pairs(first_difference=2)
    pairs = model.encode(task.train, positions="last")
    none = np.zeros((1, model.graph().n_edges), dtype=bool)
    found = values(model, pairs, none, "branch")[0]
    changed = pairs.tokens.clone()
    rows = torch.arange(0, len(changed), 2)
    changed[rows, pairs.last[rows]] = pairs.tokens[rows + 1, pairs.last[rows + 1]]
    plain = model.encode(task.train)._replace(tokens=changed)
    assert np.allclose(found, values(model, plain, ~none, "edge")[0], atol=1e-9)
    assert not np.allclose(found, values(model, pairs, none, "edge")[0], atol=1e-3)  # edges there alone: keys stay


def test_what_has_no_branches_is_refused() -> None:
    with pytest.raises(Unsupported, match="constants are fitted to edges"):
        of_edges("optimal", granularity="branch")
    with pytest.raises(BadInput, match="did you mean branch"):
        of_edges(granularity="brnch")
    model = curved(1)
    made = trial(model, model.encode(numbers((7, -12)).train), np.ones(model.graph().n_edges, dtype=bool))
    assert "optimal" not in made.values
    how = Methodology(
        granularity="branch", component="channel", value="mean", positions="all", direction="clean", set="complement",
        reference="pretraining",
    )  # fmt: skip
    with pytest.raises(Unsupported, match="branches of channels"):
        made.circuit.as_ablation(how)


def test_shares_are_one_where_a_replacement_is_read() -> None:
    graph = LINE.graph()
    kept = inside(LINE, EDGES)[0]
    assert np.array_equal(shares_of(graph, kept, of_edges(granularity="branch")), ~kept)
    of_circuit = shares_of(graph, kept, of_edges(granularity="branch", set="circuit")).astype(bool)
    first = graph.src == 0
    assert np.array_equal(of_circuit[first], kept[first])
    assert np.array_equal(of_circuit[~first], ~kept[~first])
    assert edge_values(
        LINE, LINE.encode(ONE.train), np.zeros((1, graph.n_edges)), of_edges(granularity="branch"), ("kl",)
    ).max() == pytest.approx(0)
