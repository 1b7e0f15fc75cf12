"""Exact patching of edges, nodes and paths: equal to plain recomputation, and to numbers told by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from patching_helpers import BY_HAND, by_hand, difference, gap, made, number_pairs
from torch import Tensor, nn

from gossamer.discover import (
    ActivationPatchingConfig,
    EdgePatchingConfig,
    PathPatchingConfig,
    activation_patching,
    edge_patching,
    path_effects,
    path_patching,
)
from gossamer.discover.edge_patching import ablated_alone
from gossamer.discover.path_patching import _one_by_one
from gossamer.errors import BadInput
from gossamer.models.huggingface import Decoder
from gossamer.registry import method
from gossamer.scores import Scores
from gossamer.task import Example, Task, sides

FAMILIES = ["gpt2", "llama", "gemma2", "falcon"]
TASK = number_pairs()
ready = cache(made)


def value(scores: Scores, name: str) -> float:
    return float(scores.values[scores.layout.starts[name]])


def edge(d: Decoder, src: str, dst: str, what: str) -> int:
    graph = d.graph()
    at = (graph.layout.starts[src], graph.layout.starts[dst], graph.matrices.index(what))
    return int(graph.numbers(*(np.array([i]) for i in at))[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_edges_equal_one_whole_run_each(name: str) -> None:
    d = ready(name)
    scores, n = edge_patching(d, TASK), d.graph().n_edges
    clean, other = sides(d.encode(TASK.train))
    reference, _ = d.writes(other)
    with torch.no_grad():
        before = gap(clean, d.patched(clean, torch.zeros(n).double(), reference))
        for e in np.random.default_rng(0).choice(n, 12, replace=False):
            logits = d.patched(clean, torch.eye(n).double()[e], reference)
            assert abs((gap(clean, logits) - before).mean() - scores.values[e]) < 1e-10
    assert np.abs(scores.values).max() > 1e-2
    assert scores.record.details["sign"].startswith("change of the metric when the edge is ablated")


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_the_size_of_a_batch_and_padding_change_nothing(name: str) -> None:
    d = ready(name)
    together = activation_patching(d, TASK).values
    apart = activation_patching(d, TASK, ActivationPatchingConfig(pairs_at_once=1)).values
    assert np.allclose(together, apart, atol=1e-6 * np.abs(together).max(), rtol=0)
    assert np.array_equal(activation_patching(d, TASK).values, together)


@contextmanager
def hooks(*wanted: tuple[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Functions put on the outputs of modules: (module, arguments, output) -> another output."""
    with ExitStack() as stack:
        for module, hook in wanted:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def plain_run(d: Decoder, tokens: Tensor, last: Tensor, *wanted: tuple[nn.Module, Callable[..., Any]]) -> Tensor:
    with torch.no_grad(), hooks(*wanted):
        return d.model(tokens, use_cache=False).logits[torch.arange(len(last)), last]


def outputs(d: Decoder, tokens: Tensor, modules: list[nn.Module]) -> dict[nn.Module, Tensor]:
    """What modules return in a plain run."""
    seen: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, args: Any, out: Any) -> None:
        seen[module] = out[0] if isinstance(out, tuple) else out

    plain_run(d, tokens, torch.zeros(len(tokens), dtype=torch.int64), *((m, note) for m in modules))
    return seen


def rows_of(new: Tensor, rows: slice) -> Callable[..., Tensor]:
    """A hook that puts other values in some channels of an output."""

    def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        out = out.clone()
        out[..., rows] = new[..., rows]
        return out

    return hook


def test_nodes_equal_a_run_with_plain_hooks() -> None:
    d = ready("llama")
    scores = activation_patching(d, TASK, ActivationPatchingConfig(attention_parts=True))
    clean, other = sides(d.encode(TASK.train))
    layers: Any = d.model.model.layers  # type: ignore[union-attr]
    att = layers[1].self_attn
    there = outputs(d, other.tokens, [att.q_proj, att.k_proj, att.v_proj, layers[0].mlp])
    before = gap(clean, plain_run(d, clean.tokens, clean.last))

    def change(*wanted: tuple[nn.Module, Callable[..., Any]]) -> float:
        return float((gap(clean, plain_run(d, clean.tokens, clean.last, *wanted)) - before).mean())

    everything = slice(None)
    eight = slice(8, 16)  # the second head or group
    q, k, v = ((m, rows_of(there[m], eight)) for m in (att.q_proj, att.k_proj, att.v_proj))
    expected = {
        "a1.h1<q>": change(q), "a1.g1<k>": change(k), "a1.g1<v>": change(v), "a1.g1": change(k, v),
        "m0": change((layers[0].mlp, rows_of(there[layers[0].mlp], everything))),
    }  # fmt: skip
    whole = float((gap(clean, plain_run(d, other.tokens, other.last)) - before).mean())
    for name, wanted in {**expected, "input": whole, "logits": whole}.items():
        assert value(scores, name) == pytest.approx(wanted, abs=1e-7), name
    assert len({round(v, 9) for v in expected.values()}) == 5
    assert scores.top(2).tolist() == np.argsort(-np.abs(scores.values), kind="stable")[:2].tolist()
    short = activation_patching(d, TASK)
    assert np.allclose(short.values, scores.values[: d.graph().layout.n_nodes], atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_input_and_the_logits_are_the_whole_difference(name: str) -> None:
    d = ready(name)
    clean, other = sides(d.encode(TASK.train))
    whole = (gap(clean, d.writes(other)[1]) - gap(clean, d.writes(clean)[1])).mean()
    scores = activation_patching(d, TASK)
    assert abs(whole) > 1e-3
    assert value(scores, "input") == pytest.approx(whole, abs=1e-10)
    assert value(scores, "logits") == pytest.approx(whole, abs=1e-6)
    every = ablated_alone(d, d.encode(TASK.train), EdgePatchingConfig(), [np.arange(d.graph().n_edges)])
    assert every.mean() == pytest.approx(whole, abs=1e-10)


def test_every_number_of_a_model_made_by_hand() -> None:
    d, whole = by_hand(), difference(1, 1)
    edges, nodes = edge_patching(d, BY_HAND), activation_patching(d, BY_HAND)
    late, early, both = (difference(*s) - whole for s in ((1, -1), (-1, 1), (-1, -1)))
    wanted = {
        ("a0.h0", "a1.h0", "v"): late, ("a1.h0", "logits", "logits"): late, ("a0.h0", "logits", "logits"): early,
        ("input", "a0.h0", "v"): both,
    }  # fmt: skip
    left = edges.values.copy()
    for at, number in wanted.items():
        e = edge(d, *at)
        assert edges.values[e] == pytest.approx(number, abs=1e-5)
        left[e] = 0
    assert np.abs(left).max() < 1e-5  # no other edge does anything
    assert [value(nodes, n) for n in ("input", "a0.h0", "a1.h0")] == pytest.approx([both, both, late], abs=1e-5)
    pairs = d.encode(BY_HAND.train)
    for paths, number in (
        (["a0.h0->logits"], early), (["a0.h0->a1.h0<v>->logits"], late),
        (["a0.h0->logits", "a0.h0->a1.h0<v>->logits"], both), (["input->a0.h0<v>->logits"], early),
        (["input->logits", "input->a0.h0<k>->logits"], 0),
    ):  # fmt: skip
        assert path_effects(d, pairs, paths)[0] == pytest.approx(number, abs=1e-5), paths
    direct = path_patching(d, BY_HAND, PathPatchingConfig(receivers=("a1.h0<v>",)))
    assert value(direct, "a0.h0") == pytest.approx(late, abs=1e-5)
    assert value(direct, "input") == pytest.approx(0, abs=1e-5)  # not directly


# paths


def norm_and_read(layer: Any, linear: Any, x: Tensor) -> Tensor:
    return linear(layer.input_layernorm(x))


@pytest.mark.parametrize("part", ["q", "k"])
def test_a_path_equals_a_recomputation_with_everything_else_held(part: str) -> None:
    """a0.h1 -> queries (or shared keys) of a1.h2 -> logits, in a Llama with two heads a group, by plain hooks."""
    d = ready("llama")
    clean, other = sides(d.encode(TASK.train))
    own, there = d.writes(clean)[0], d.writes(other)[0]
    model: Any = d.model
    layer, rows = model.model.layers[1], torch.arange(3)
    linear = getattr(layer.self_attn, f"{part}_proj")
    before = outputs(d, clean.tokens, [model.model.layers[0], layer])
    change = (there - own)[d.shape.writers.index("a0.h1")]
    channels = slice(16, 24) if part == "q" else slice(8, 16)  # head 2; its group is 1
    read = norm_and_read(layer, linear, before[model.model.layers[0]] + change)
    z: list[Tensor] = []
    note = (layer.self_attn.o_proj, lambda m, args, out: z.append(args[0]))
    plain_run(d, clean.tokens, clean.last, (linear, rows_of(read, channels)), note)
    write = z[0][..., 16:24] @ layer.self_attn.o_proj.weight[:, 16:24].T
    final = before[layer] - own[d.shape.writers.index("a1.h2")] + write
    wanted = gap(clean, model.lm_head(model.model.norm(final))[rows, clean.last])
    found = path_effects(d, d.encode(TASK.train), [f"a0.h1->a1.h2<{part}>->logits"])
    assert np.allclose(found, wanted - gap(clean, d.writes(clean)[1]), atol=1e-7)
    assert np.abs(found).min() > 1e-6
    if part == "k":  # through the whole group it is another number
        assert not np.allclose(found, path_effects(d, d.encode(TASK.train), ["a0.h1->a1.g1<k>->logits"]), atol=1e-6)


def all_paths(d: Decoder) -> list[str]:
    """Paths from the input that have every edge of the graph among them."""
    graph, names = d.graph(), list(d.graph().layout.starts)
    found = []
    for src, dst, matrix in zip(graph.src, graph.dst, graph.matrix, strict=True):
        writer, what = names[src], graph.matrices[matrix]
        read = [f"{names[dst]}<{what}>", "logits"] if what in ("q", "k", "v") else [names[dst], "logits"]
        read = ["logits"] if what == "logits" else read
        into = {"a": [[f"{writer}<{p}>"] for p in ("q", "k", "v")], "m": [[writer]], "i": [[]]}[writer[0]]
        found += ["->".join(["input", *step, *read]) for step in into]
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_all_paths_from_the_input_are_the_whole_change_and_all_but_one_edge_are_not(name: str) -> None:
    d = ready(name)
    clean, other = sides(d.encode(TASK.train))
    whole = gap(clean, d.writes(other)[1]) - gap(clean, d.writes(clean)[1])
    paths, pairs = all_paths(d), d.encode(TASK.train)
    assert np.allclose(path_effects(d, pairs, paths), whole, atol=1e-10)
    fewer = [p for p in paths if not p.startswith("input->m0->")]
    assert not np.allclose(path_effects(d, pairs, fewer), whole, atol=1e-4)


@pytest.mark.parametrize("through", ["nothing", "mlps"])
def test_what_receivers_hear_equals_plain_hooks(through: str) -> None:
    """Wang et al.'s three runs, with receivers in two layers, one of which hears the other in an ordinary run."""
    d = ready("llama", num_hidden_layers=3)
    clean, other = sides(d.encode(TASK.train))
    own, there = d.writes(clean)[0], d.writes(other)[0]
    model: Any = d.model
    layers, change = model.model.layers, (there - own)[d.shape.writers.index("a0.h1")]
    heads = [layer.self_attn.o_proj for layer in layers]
    plain = outputs(d, clean.tokens, [*heads, layers[0], layers[1]])
    heard = {1: plain[layers[0]] + change, 2: plain[layers[1]] + change}
    if through == "mlps":  # a run with all heads held, the sender's write changed
        held = [(m, rows_of(plain[m] + (change if m is heads[0] else 0), slice(None))) for m in heads]
        moved: dict[nn.Module, Tensor] = {}
        notes = [(m, lambda m, args, out: moved.update({m: out[0] if isinstance(out, tuple) else out}))
                 for m in layers[:2]]  # fmt: skip
        plain_run(d, clean.tokens, clean.last, *held, *notes)
        heard = {1: moved[layers[0]], 2: moved[layers[1]]}
    q, v = layers[1].self_attn.q_proj, layers[2].self_attn.v_proj
    logits = plain_run(
        d, clean.tokens, clean.last, (q, rows_of(norm_and_read(layers[1], q, heard[1]), slice(0, 8))),
        (v, rows_of(norm_and_read(layers[2], v, heard[2]), slice(8, 16))),
    )  # fmt: skip
    wanted = (gap(clean, logits) - gap(clean, d.writes(clean)[1])).mean()
    config = PathPatchingConfig(receivers=("a1.h0<q>", "a2.g1<v>"), through=through)  # type: ignore[arg-type]
    found = path_patching(d, TASK, config)
    assert value(found, "a0.h1") == pytest.approx(wanted, abs=1e-7)
    assert abs(wanted) > 1e-5
    assert "a1.h0<q>, a2.g1<v>" in found.record.details["sign"]
    both = ablated_alone(
        d, d.encode(TASK.train), config, [np.array([edge(d, "a0.h1", "a1.h0", "q"), edge(d, "a0.h1", "a2.g1", "v")])]
    )
    assert abs(both.mean() - wanted) > 1e-7  # ablating the two edges is another thing: the one hears the other


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_one_receiver_by_ablated_edges_equals_runs_with_all_it_reads_held(name: str) -> None:
    d = ready(name)
    config = PathPatchingConfig(receivers=("logits",))
    fast = path_patching(d, TASK, config)
    into = d.graph().dst == d.graph().layout.starts["logits"]
    senders = np.unique(d.graph().src[into])
    slow = _one_by_one(d, d.encode(TASK.train), config, senders, into, None)
    assert np.allclose(fast.values[senders], slow.mean(1), atol=1e-10)
    assert fast.values[senders].all()
    through = path_patching(d, TASK, PathPatchingConfig(through="mlps"))
    last = value(through, "m1"), value(fast, "m1")
    assert last[0] == pytest.approx(last[1], abs=1e-10)  # nothing lies between
    assert abs(value(through, "m0") - value(fast, "m0")) > 1e-6


def test_what_cannot_be_asked_is_told() -> None:
    d = ready("llama")
    pairs = d.encode(TASK.train)
    for paths, says in (
        ([], "at least one path"), (["input->m0"], "to logits"), (["logits->logits"], "from a node that writes"),
        (["a1.h0->a0.h1<q>->logits"], "no edge a1.h0->a0.h1<q>"), (["input->a0.h9<q>->logits"], "no edge"),
        (["input->a0.h1<q>->logits", "a0.h1->logits"], "a0.h1 is the first node of one path"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=says):
            path_effects(d, pairs, paths)
    with pytest.raises(BadInput, match=r"Unknown receiver 'a1.h1<k>': did you mean"):
        path_patching(d, TASK, PathPatchingConfig(receivers=("a1.h1<k>",)))
    with pytest.raises(BadInput, match="an empty set"):
        ablated_alone(d, pairs, EdgePatchingConfig(), [np.array([0]), np.array([], dtype=np.int64)])


def test_pairs_without_a_difference_have_no_effect_and_progress_is_told() -> None:
    d, seen = ready("gpt2"), list[tuple[int, int, float]]()
    alike = tuple(Example(clean=e.clean, counterfactual=e.clean, answer=" 5", wrong_answer=" 9") for e in TASK.train)
    same = Task(name="t", version="1", description="", train=alike, heldout=alike)
    scores = activation_patching(d, same, progress=lambda *at: seen.append(at))
    assert np.abs(scores.values).max() < 1e-12
    assert seen[-1][:2] == (d.graph().layout.n_nodes,) * 2
    assert {"edge-patching", "activation-patching", "path-patching"} <= set(method)


def test_signed_scores_keep_their_sign_and_order_in_a_file(tmp_path: Any) -> None:
    scores = activation_patching(ready("gpt2"), TASK)
    back = Scores.load(scores.save(tmp_path / "scores.safetensors"))
    assert back.signed
    assert np.array_equal(back.ranking(), scores.ranking())
    assert scores.values[scores.top(1)[0]] == pytest.approx(np.abs(scores.values).max() * np.sign(scores.values[0]))
