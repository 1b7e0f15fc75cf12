"""Bundles of circuits between heads and MLPs for tests and for work on the page: made in code, the numbers invented."""

from __future__ import annotations

import random

from gossamer.graph import READS, HeadShape, group_links, head_graph
from gossamer.show.bundle import (
    Bundle,
    Carry,
    CircuitView,
    Edge,
    EdgeScoreView,
    EvidenceView,
    ExamplePair,
    Excerpt,
    Kind,
    ModelView,
    NodeView,
    NullView,
    TaskView,
)

TOKENS = ("When", " Mary", " and", " John", " went", " out", ",", " John", " gave", " a", " book", " to")


def faithfulness(value: float = 0.931) -> EvidenceView:
    null = NullView(name="random circuit with as many edges of every matrix", value=0.02, interval=(-0.04, 0.09), n=20,
                    outcome="measured")  # fmt: skip
    return EvidenceView(
        claim="faithfulness: the circuit alone does what the model does", value=value,
        unit="f (ratio-of-means of logit-difference)", interval=(value - 0.04, value + 0.03), n=128, nulls=(null,),
        verdict="pass" if value > 0.9 else "fail", methodology={"value": "resample", "granularity": "edge"},
        threshold="fails outside 0.9 to 1.1, or if any random draw reaches the interval", note="",
    )  # fmt: skip


def _node(site: str, strength: tuple[float, float] | None, rng: random.Random) -> NodeView:
    layer, _, part = site[1:].partition(".")
    kinds: dict[str, Kind] = {"h": "head", "g": "kv_group"}
    end = site in ("input", "logits")
    kind: Kind = ("input" if site == "input" else "logits") if end else kinds[part[0]] if part else "mlp"
    index = int(part[1:]) if part else 0
    looks: tuple[Excerpt, ...] = ()
    if kind == "head":
        shares = [rng.random() ** 6 for _ in TOKENS]
        whole = sum(shares)
        activations = tuple(x / whole for x in shares)
        looks = (Excerpt(tokens=TOKENS, activations=activations, position=activations.index(max(activations))),)
    return NodeView(
        site=site, location=site, layer=None if end else int(layer), index=index, head=index if looks else None,
        ablation_effect_nats=None, mean=None, mean_on_answer=None, direct_logit=None, top_tokens_in=(),
        top_tokens_out=(), examples=(), task_examples=looks, kind=kind, score_in=strength[0] if strength else None,
        score_out=strength[1] if strength else None,
    )  # fmt: skip


def head_bundle(
    layers: int = 2, heads: int = 4, groups: int | None = 2, edges: int = 40, *, scored: bool = True, seed: int = 0
) -> Bundle:
    """A circuit of so many of the model's edges, taken at random; most scores are negative, a few large."""
    rng = random.Random(seed)
    graph = head_graph(HeadShape(n_heads=heads, n_groups=groups or heads, parallel=(False,) * layers))
    kept = sorted(rng.sample(range(graph.n_edges), min(edges, graph.n_edges)))
    name = [str(graph.layout.site(n)) for n in range(graph.layout.n_nodes)]
    drawn = tuple(
        Edge(
            src=name[graph.src[e]], dst=name[graph.dst[e]], matrix=READS[graph.matrix[e]],
            weight=round(rng.paretovariate(1.1) / 100 * (-1 if rng.random() < 0.75 else 1), 6) if scored else None,
        )
        for e in kept
    )  # fmt: skip
    inside = {end for edge in drawn for end in (edge.src, edge.dst)}
    sums = {
        site: tuple(sum(abs(e.weight or 0) for e in drawn if getattr(e, end) == site) for end in ("dst", "src"))
        for site in inside
    }
    links = [(name[a], name[b]) for a, b in group_links(graph.layout).tolist()]
    found = faithfulness()
    return Bundle(
        format_version=1, grain="head", title="Whom the book is given to", gossamer_version="0.0.0",
        task=TaskView(name="ioi", description="Whom the book is given to", examples=(ExamplePair(
            clean="".join(TOKENS), counterfactual="".join(TOKENS).replace("John gave", "Mary gave"), answer=" Mary",
            wrong_answer=" John",
        ),)),
        model=ModelView(
            name="invented", n_layer=layers, d_model=64, n_head=heads, d_head=64 // heads, d_mlp=None, vocab_size=512,
            nonzero_weights=None, total_weights=260_000, val_loss_nats=None, n_group=groups,
        ),
        circuit=CircuitView(
            reached=True, target_loss_nats=None, loss_train_nats=None, loss_heldout_nats=None, n_nodes=len(inside),
            n_edges=len(drawn), calibration=None,
            nodes=tuple(_node(s, (sums[s][0], sums[s][1]) if scored else None, rng) for s in name if s in inside),
            edges=drawn, carries=tuple(Carry(src=g, dst=h) for g, h in links if g in inside and h in inside),
            faithfulness=found,
            edge_score=EdgeScoreView(
                means="change of the metric when the edge is ablated", needed=-1, all_edges=graph.n_edges
            ),
        ),
        twin=None, evidence=(found,), curve=(), record={"method": "invented", "seed": seed},
    )  # fmt: skip
