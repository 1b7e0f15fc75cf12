"""Bundles for tests and for work on the page, made in code: the same bytes every time, no model, no file.

`example_bundle` looks like a real run on "which quote closes this string?" in a two-layer model; its numbers are
invented. `synthetic_bundle` has any number of layers, nodes and edges.
"""

from __future__ import annotations

import math
import random

from gossamer.show.bundle import (
    Bundle,
    Calibration,
    Carry,
    CircuitView,
    CurvePoint,
    Edge,
    EvidenceView,
    ExamplePair,
    Excerpt,
    ModelView,
    NodeView,
    NullView,
    TaskView,
    Twin,
)

D_HEAD = 16

SNIPPETS: tuple[tuple[str, ...], ...] = (
    (
        "def",
        " main",
        "():\n",
        "    ",
        "parser",
        " =",
        " argparse",
        ".",
        "ArgumentParser",
        "(",
        "description",
        "=",
        '"',
        "Copy",
        " files",
        '"',
        ")\n",
    ),
    ("    ", "raise", " ValueError", "(", "'", "unknown", " mode", ":", " ", "'", " +", " mode", ")\n"),
    ("print", "(", '"', "hello", " world", '"', ")\n", "print", "(", "'", "bye", "'", ")\n"),
    ("for", " name", " in", " sorted", "(", "os", ".", "listdir", "(", "path", ")):\n", "        ", "yield", " name"),
    ("self", ".", "assertEqual", "(", "repr", "(", "x", "),", ' "', "<", "Foo", ">", '"', ")\n"),
    ("return", " ", "'", "'.", "join", "(", "parts", ")\n", "\n", "def", " close", "(", "self", "):\n"),
    ("if", " line", ".", "startswith", "('", "#", "'):\n", "            ", "continue"),
    ("logger", ".", "debug", '("', "Using", " selector", ":", " %", "s", '",', " selector", ")"),
)

TASK_PROMPTS: tuple[tuple[str, ...], ...] = (
    ("print", '("', "hello", " world"),
    ("print", "('", "hello", " world"),
    ("log", '("', "connection", " lost", " at"),
    ("log", "('", "connection", " lost", " at"),
)


def _excerpt(rng: random.Random, tokens: tuple[str, ...], peak: float, likes: str) -> Excerpt:
    """Activations that are large where a token holds `likes` and nearly absent elsewhere."""
    acts = [0.0 if rng.random() < 0.6 else abs(rng.gauss(0, 0.06)) for _ in tokens]
    hits = [i for i, token in enumerate(tokens) if likes in token] or [rng.randrange(len(tokens))]
    for i in hits:
        acts[i] = peak * rng.uniform(0.75, 1.0) * (1 if rng.random() < 0.9 else -0.6)
    acts = [round(a, 4) for a in acts]
    return Excerpt(tokens=tokens, activations=tuple(acts), position=max(range(len(acts)), key=lambda i: abs(acts[i])))


def _node(rng: random.Random, site: str, effect: float | None, likes: str, empty: bool = False) -> NodeView:
    location, index = site.rsplit(":", 1)
    channel = int(index)
    first = location.split(".")[0]
    residual = location == "final_resid" or location.endswith(("act_in", "resid_delta"))
    peak = rng.uniform(0.8, 4.5)
    clean = rng.uniform(-0.4, 2.6)
    words = ['("', "('", '"', "'", " =", "def", "\n", " in", "self", ' "', "):\n", " name"]
    picks = rng.sample(words, 5)
    return NodeView(
        site=site,
        location=location,
        layer=None if location == "final_resid" else int(first),
        index=channel,
        head=channel // D_HEAD if location.endswith((".q", ".k", ".v")) else None,
        ablation_effect_nats=effect,
        mean=round(rng.gauss(0.05, 0.1), 4),
        mean_on_answer=(round(clean, 4), round(clean * rng.uniform(-1, 1), 4)),
        direct_logit=round(rng.gauss(0, 1.2), 4) if location == "final_resid" else None,
        top_tokens_in=tuple((w, round(rng.gauss(0, 0.9), 3)) for w in picks) if residual and not empty else (),
        top_tokens_out=tuple((w, round(rng.gauss(0, 0.9), 3)) for w in reversed(picks))
        if residual and not empty
        else (),
        examples=() if empty else tuple(_excerpt(rng, s, peak, likes) for s in rng.sample(SNIPPETS, 6)),
        task_examples=() if empty else tuple(_excerpt(rng, s, peak, likes) for s in TASK_PROMPTS),
    )


NODE_LISTS: dict[str, tuple[int, ...]] = {
    "0.attn.act_in": (12, 31, 102),
    "0.attn.q": (51,),
    "0.attn.k": (51,),
    "0.attn.v": (53, 58),
    "0.attn.resid_delta": (31, 147),
    "0.mlp.act_in": (12, 31, 147, 190),
    "0.mlp.post_act": (118, 406, 790, 863, 907),
    "0.mlp.resid_delta": (60, 85, 190),
    "1.attn.act_in": (12, 60, 85, 147),
    "1.attn.q": (2, 82),
    "1.attn.k": (2, 82),
    "1.attn.v": (7, 80),
    "1.attn.resid_delta": (83, 201),
    "1.mlp.act_in": (60, 83, 190),
    "1.mlp.post_act": (33, 377, 512, 640),
    "1.mlp.resid_delta": (83, 211),
    "final_resid": (83, 147, 211),
}

EFFECTS: dict[str, float] = {
    "1.attn.resid_delta:83": 0.541, "final_resid:83": 0.538, "0.mlp.resid_delta:60": 0.497, "1.attn.act_in:60": 0.481,
    "1.attn.v:80": 0.466, "0.mlp.post_act:863": 0.402, "0.mlp.resid_delta:85": 0.311, "1.attn.k:82": 0.287,
    "1.attn.act_in:85": 0.305, "0.mlp.post_act:790": 0.264, "0.mlp.act_in:31": 0.192, "1.attn.q:82": 0.11,
}  # fmt: skip

# The story the figure should tell: quote neurons write "quote" and "which quote"; a head brings it to the answer.
CORE: tuple[tuple[str, str, float], ...] = (
    ("0.mlp.act_in:31", "0.mlp.post_act:863", 1.62),
    ("0.mlp.act_in:31", "0.mlp.post_act:790", -1.38),
    ("0.mlp.post_act:863", "0.mlp.resid_delta:60", 2.21),
    ("0.mlp.post_act:790", "0.mlp.resid_delta:60", -2.04),
    ("0.mlp.post_act:863", "0.mlp.resid_delta:85", 1.47),
    ("0.mlp.post_act:790", "0.mlp.resid_delta:85", 1.53),
    ("1.attn.act_in:60", "1.attn.v:80", 2.48),
    ("1.attn.act_in:85", "1.attn.k:82", 1.91),
    ("1.attn.v:80", "1.attn.resid_delta:83", 2.75),
)

# (src location, dst location, matrix): which pairs of locations a weight matrix joins, per layer.
JOINS: tuple[tuple[str, str, str], ...] = (
    ("attn.act_in", "attn.q", "attn.c_attn"),
    ("attn.act_in", "attn.k", "attn.c_attn"),
    ("attn.act_in", "attn.v", "attn.c_attn"),
    ("attn.v", "attn.resid_delta", "attn.c_proj"),
    ("mlp.act_in", "mlp.post_act", "mlp.c_fc"),
    ("mlp.post_act", "mlp.resid_delta", "mlp.c_proj"),
)


def _legal_pairs(lists: dict[str, tuple[int, ...]], n_layer: int) -> list[tuple[str, str, str]]:
    return [
        (f"{i}.{src}:{a}", f"{i}.{dst}:{b}", f"{i}.{matrix}")
        for i in range(n_layer)
        for src, dst, matrix in JOINS
        for a in lists.get(f"{i}.{src}", ())
        for b in lists.get(f"{i}.{dst}", ())
    ]


def _edges(
    rng: random.Random,
    lists: dict[str, tuple[int, ...]],
    n_layer: int,
    n_edges: int,
    core: tuple[tuple[str, str, float], ...] = (),
) -> tuple[Edge, ...]:
    """The core edges, then one edge in and one out per node where a matrix allows it, then random ones."""
    known = {(src, dst): weight for src, dst, weight in core}
    pairs = _legal_pairs(lists, n_layer)
    rng.shuffle(pairs)
    has_in = {dst for _, dst in known}
    has_out = {src for src, _ in known}
    chosen = [pair for pair in pairs if pair[:2] in known]
    rest: list[tuple[str, str, str]] = []
    for src, dst, matrix in pairs:
        if (src, dst) in known:
            continue
        if src in has_out and dst in has_in:
            rest.append((src, dst, matrix))
            continue
        has_out.add(src)
        has_in.add(dst)
        chosen.append((src, dst, matrix))
    chosen += rest[: max(0, n_edges - len(chosen))]
    return tuple(
        Edge(
            src=src,
            dst=dst,
            weight=known.get((src, dst), round(rng.choice((1, 1, -1)) * math.exp(rng.gauss(-1.3, 0.7)), 4)),
            matrix=matrix,
        )
        for src, dst, matrix in sorted(chosen)
    )


def _carries(lists: dict[str, tuple[int, ...]], n_layer: int) -> tuple[Carry, ...]:
    """Each residual write to each later read of its channel, and each query to the key of its channel."""
    order = [
        f"{i}.{part}"
        for i in range(n_layer)
        for part in ("attn.act_in", "attn.resid_delta", "mlp.act_in", "mlp.resid_delta")
    ]
    order.append("final_resid")
    out = []
    for at, src in enumerate(order):
        for dst in order[at + 1 :] if src.endswith("resid_delta") else ():
            if not dst.endswith("resid_delta"):
                out += [
                    Carry(src=f"{src}:{c}", dst=f"{dst}:{c}") for c in lists.get(src, ()) if c in lists.get(dst, ())
                ]
    for i in range(n_layer):
        shared = set(lists.get(f"{i}.attn.q", ())) & set(lists.get(f"{i}.attn.k", ()))
        out += [Carry(src=f"{i}.attn.q:{c}", dst=f"{i}.attn.k:{c}") for c in sorted(shared)]
    return tuple(out)


METHODOLOGY = {
    "granularity": "channel",
    "component": "node",
    "value": "mean",
    "positions": "all",
    "direction": "noising",
    "set": "complement of the circuit",
    "reference": "stdlib-excerpt-1, 65,536 tokens",
}


def _evidence() -> tuple[EvidenceView, ...]:
    def null(name: str, value: float | None, half: float | None, n: int | None, outcome: str = "measured") -> NullView:
        interval = None if value is None or half is None else (round(value - half, 4), round(value + half, 4))
        return NullView.model_validate({"name": name, "value": value, "interval": interval, "n": n, "outcome": outcome})

    return (
        EvidenceView(
            claim="sufficient: the circuit alone does the task",
            value=0.1482,
            unit="nats",
            interval=(0.1391, 0.1577),
            n=512,
            nulls=(
                null("random circuit of the same size and types", 0.6934, 0.0051, 32),
                null("empty circuit", 0.6931, 0.0002, 512),
                null("full model", 0.0213, 0.0049, 512),
                null("same pruning on a weight-shuffled model", None, None, 8, "not reached"),
            ),
            verdict="pass",
            methodology=METHODOLOGY,
            threshold="fails if the interval lies above 0.16 nats or any random draw does as well",
            note="",
        ),
        EvidenceView(
            claim="necessary: without the circuit the model fails",
            value=1.284,
            unit="nats",
            interval=(1.201, 1.371),
            n=512,
            nulls=(
                null("ablate a random circuit of the same size", 0.0291, 0.0122, 32),
                null("ablate nothing", 0.0213, 0.0049, 512),
            ),
            verdict="pass",
            methodology=METHODOLOGY | {"set": "the circuit"},
            threshold="fails if the interval reaches down to ln 2 = 0.693 nats",
            note="",
        ),
        EvidenceView(
            claim="minimal: every node matters",
            value=0.711,
            unit="share of nodes",
            interval=(0.565, 0.823),
            n=45,
            nulls=(null("random circuit of the same size", 0.041, 0.031, 32),),
            verdict="fail",
            methodology=METHODOLOGY,
            threshold="fails if fewer than 0.9 of the nodes raise the loss by more than 0.001 nats",
            note="13 of 45 nodes can be ablated alone at no cost; the pruning kept passengers.",
        ),
        EvidenceView(
            claim="robust: random subsets of the complement may return",
            value=0.872,
            unit="paired accuracy",
            interval=(0.83, 0.906),
            n=512,
            nulls=(
                null("coin", 0.25, None, None),
                null("random circuit of the same size", 0.253, 0.03, 32),
                null("adversarial subset", None, None, None, "not measured"),
            ),
            verdict="not reached",
            methodology=METHODOLOGY | {"set": "random subsets of the complement"},
            threshold="fails if paired accuracy is below 0.9 with half of the complement restored",
            note="No circuit within the target size reaches the threshold.",
        ),
        EvidenceView(
            claim="stable: another seed finds the same nodes",
            value=None,
            unit="Jaccard index",
            interval=None,
            n=None,
            nulls=(),
            verdict="not measured",
            methodology=None,
            threshold="fails if the Jaccard index is not above that of random circuits",
            note="Needs discovery runs with at least three seeds.",
        ),
    )


def _curve(n_nodes: int, n_edges: int, floor: float) -> tuple[CurvePoint, ...]:
    out = []
    for k in range(3, 12):
        nodes = 2**k
        loss = floor + (math.log(2) - floor) / (1 + (nodes / (n_nodes * 0.45)) ** 1.9)
        out.append(CurvePoint(nodes=nodes, edges=round(n_edges * (nodes / n_nodes) ** 1.35), loss_nats=round(loss, 4)))
    return tuple(out)


TASK = TaskView(
    name="single_double_quote",
    description="Close a string with the same quote that opened it",
    examples=tuple(
        ExamplePair(clean=f'{head}("{body}', counterfactual=f"{head}('{body}", answer='")', wrong_answer="')")
        for head, body in (
            ("print", "hello world"), ("log", "connection lost at"), ("open", "notes.txt"),
            ("warn", "slow path"), ("fail", "no such user"), ("echo", "done"),
        )
    ),
)  # fmt: skip

RECORD = {
    "model": {"name": "tiny-sparse", "sha256": "5f0c9d1e7a44b1c2", "preset": "tiny"},
    "task": {"name": "single_double_quote", "version": 1, "seed": 0},
    "method": {
        "name": "prune",
        "config": {
            "k_coef": 1e-4,
            "steps": 600,
            "batch": 64,
            "lr": 0.003,
            "target_loss_nats": 0.15,
            "ablation": "gao-mean",
        },
    },
    "versions": {"gossamer": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
    "seeds": [0],
    "commit": "3d1f6a2",
    "dirty": False,
    "seconds": 214.6,
}


def example_bundle() -> Bundle:
    """A two-layer circuit of 45 nodes and 62 edges, with evidence that passes, fails and is missing."""
    rng = random.Random(20)
    likes = {"0.mlp.post_act:863": '"', "0.mlp.post_act:790": "'", "0.mlp.resid_delta:60": '"'}
    nodes = tuple(
        _node(
            rng,
            site := f"{location}:{c}",
            EFFECTS.get(site, None if site == "1.mlp.post_act:640" else round(abs(rng.gauss(0, 0.03)), 4)),
            likes.get(site, rng.choice(['"', "'", "(", "def", " name"])),
            empty=site == "1.mlp.post_act:640",
        )
        for location, channels in NODE_LISTS.items()
        for c in channels
    )
    edges = _edges(rng, NODE_LISTS, 2, 62, CORE)
    return Bundle(
        format_version=1,
        title="Which quote closes this string?",
        gossamer_version="0.1.0",
        task=TASK,
        model=ModelView(
            name="tiny-sparse",
            n_layer=2,
            d_model=256,
            n_head=16,
            d_head=D_HEAD,
            d_mlp=1024,
            vocab_size=2048,
            nonzero_weights=131_072,
            total_weights=2_621_440,
            val_loss_nats=2.481,
        ),
        circuit=CircuitView(
            reached=True,
            target_loss_nats=0.15,
            loss_train_nats=0.1499,
            loss_heldout_nats=0.1482,
            n_nodes=len(nodes),
            n_edges=len(edges),
            calibration=Calibration(scale=1.312, shift=-0.084),
            nodes=nodes,
            edges=edges,
            carries=_carries(NODE_LISTS, 2),
        ),
        twin=Twin(
            name="tiny-dense", reached=True, n_nodes=171, n_edges=4388, loss_heldout_nats=0.1507, val_loss_nats=2.476
        ),
        evidence=_evidence(),
        curve=_curve(len(nodes), len(edges), 0.02),
        record=RECORD,
    )


def synthetic_bundle(n_layer: int, n_nodes: int, n_edges: int, seed: int = 0) -> Bundle:
    """A random legal circuit of exactly `n_nodes` nodes over `n_layer` layers and at most `n_edges` edges."""
    rng = random.Random(seed)
    parts = (
        "attn.act_in",
        "attn.q",
        "attn.k",
        "attn.v",
        "attn.resid_delta",
        "mlp.act_in",
        "mlp.post_act",
        "mlp.resid_delta",
    )
    weights = (3, 1, 1, 2, 2, 3, 6, 3)
    lists: dict[str, set[int]] = {}
    channels = rng.sample(range(1024), max(4, n_nodes // 6))
    while sum(map(len, lists.values())) < n_nodes:
        part = rng.choices((*parts, "final"), (*weights, 0.7))[0]
        location = "final_resid" if part == "final" else f"{rng.randrange(n_layer)}.{part}"
        if part in ("attn.q", "attn.k", "attn.v"):
            index = rng.choice((3, 8, 21)) * D_HEAD + rng.randrange(D_HEAD)
        else:
            index = rng.randrange(4096) if part == "mlp.post_act" else rng.choice(channels)
        lists.setdefault(location, set()).add(index)
    fixed = {location: tuple(sorted(indices)) for location, indices in sorted(lists.items())}
    nodes = tuple(
        _node(rng, f"{location}:{c}", round(abs(rng.gauss(0, 0.05)), 4), '"')
        for location, cs in fixed.items()
        for c in cs
    )
    edges = _edges(rng, fixed, n_layer, n_edges)
    small = example_bundle()
    return small.model_copy(
        update={
            "model": small.model.model_copy(update={"n_layer": n_layer, "d_model": 1024, "d_mlp": 4096}),
            "circuit": small.circuit.model_copy(
                update={
                    "n_nodes": len(nodes), "n_edges": len(edges), "nodes": nodes, "edges": edges,
                    "carries": _carries(fixed, n_layer),
                }
            ),
        }
    )  # fmt: skip
