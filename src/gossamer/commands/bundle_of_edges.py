"""A run whose circuit is edges between heads and MLPs becomes a bundle: scores, attention, the trial, the Record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gossamer import __version__
from gossamer.circuit import Circuit
from gossamer.commands.bundle_of_other import compared
from gossamer.commands.edge_runs import EdgeRun, own_positions, sign_of
from gossamer.errors import Unsupported
from gossamer.evidence import Evidence
from gossamer.graph import group_links
from gossamer.record import Record
from gossamer.show import bundle as view
from gossamer.task import sides

EXAMPLES, LOOKED_AT = 6, 4  # pairs of the task on the page; clean prompts on which heads are shown
BEFORE = 8  # tokens that decide how the next one is read
AROUND = 32  # tokens shown to each side of the one that a head looks at most
_KINDS: dict[str, view.Kind] = {"h": "head", "g": "kv_group"}


def build_edge_bundle(run: EdgeRun, evidence: Sequence[Evidence], compare: Path | None = None) -> view.Bundle:
    """Everything the page draws of a circuit of edges. evidence: of its trial, none before `verify`; compare: the run
    folder of another one, drawn beside it.

    Unsupported for a circuit of another grain than head.
    """
    if run.circuit.layout.grain != "head":
        raise Unsupported(f"a page of a circuit at grain {run.circuit.layout.grain}", "it is not built", "grain head")
    title = run.task.description or f"The circuit of {run.task.name}"
    return view.Bundle(
        format_version=1, grain="head", title=title, gossamer_version=__version__,
        task=view.TaskView(
            name=run.task.name, description=title,
            examples=tuple(
                view.ExamplePair(
                    clean=e.clean, counterfactual=e.counterfactual, answer=e.answer, wrong_answer=e.wrong_answer
                )
                for e in run.task.heldout[:EXAMPLES]
            ),
        ),
        model=_model_view(run), circuit=_circuit_view(run, evidence), twin=None,
        evidence=tuple(map(_evidence_view, evidence)), curve=(),
        record=run.about.record.model_dump(mode="json"),
        other=compared(compare, run.circuit, run.model.graph("head")) if compare else None,
    )  # fmt: skip


def _evidence_view(evidence: Evidence) -> view.EvidenceView:
    return view.EvidenceView.model_validate(evidence.model_dump(include=set(view.EvidenceView.model_fields)))


def _model_view(run: EdgeRun) -> view.ModelView:
    parts, config = run.model.parts, run.model.model.config.get_text_config()
    return view.ModelView(
        name=run.model.name, n_layer=len(parts.layers), d_model=parts.d_model, n_head=parts.n_heads,
        n_group=parts.n_groups if parts.n_groups < parts.n_heads else None, d_head=parts.d_head, d_mlp=None,
        vocab_size=config.vocab_size, nonzero_weights=None,
        total_weights=sum(p.numel() for p in run.model.model.parameters()), val_loss_nats=None,
    )  # fmt: skip


def _circuit_view(run: EdgeRun, evidence: Sequence[Evidence]) -> view.CircuitView:
    """The faithfulness is the trial's, where there was one; else that which `discover` measured."""
    circuit, scored = run.circuit, not np.isnan(run.circuit.weight).any()
    site = {int(n): str(s) for n, s in zip(circuit.nodes, circuit.sites, strict=True)}
    edges = zip(circuit.src, circuit.dst, circuit.weight, circuit.matrix, strict=True)
    tried = [e for e in evidence if e.claim.startswith("faithfulness")]
    faithful = tried[0] if tried else run.about.result.faithfulness
    links = group_links(circuit.layout).tolist()
    return view.CircuitView(
        reached=faithful.verdict == "pass", target_loss_nats=None, loss_train_nats=None, loss_heldout_nats=None,
        n_nodes=circuit.n_nodes, n_edges=circuit.n_edges, calibration=None, nodes=_nodes(run, scored),
        edges=tuple(
            view.Edge(src=site[s], dst=site[d], weight=float(w) if scored else None, matrix=circuit.matrices[m])
            for s, d, w, m in edges
        ),
        carries=tuple(view.Carry(src=site[g], dst=site[h]) for g, h in links if g in site and h in site),
        faithfulness=_evidence_view(faithful), edge_score=_score_view(circuit.record, run.about.result.all_edges),
    )  # fmt: skip


def _score_view(record: Record, all_edges: int) -> view.EdgeScoreView:
    """What a score says, and which sign of it the answer needs: as the methods define it."""
    means, needed = sign_of(record), 0
    if record.method == "acdc":
        needed = 1
    elif "sign" not in record.details:
        means = "as its file has it"
    elif means.startswith("change of the metric when the edge is ablated"):
        needed = -1
    elif record.method == "iterative-sweep":
        needed = 1
    which: dict[int, Literal[-1, 0, 1]] = {-1: -1, 0: 0, 1: 1}
    return view.EdgeScoreView(means=means, needed=which[needed], all_edges=all_edges)


def _parts(name: str) -> tuple[view.Kind, int | None, int]:
    """(kind, layer, number among its kind in its layer) of a node's name."""
    if name == "input" or name == "logits":
        return ("input" if name == "input" else "logits"), None, 0
    layer, _, part = name[1:].partition(".")
    return (_KINDS[part[0]], int(layer), int(part[1:])) if part else ("mlp", int(layer), 0)


def _strength(circuit: Circuit, ends: np.ndarray) -> dict[int, float]:
    """The sum of |score| per node number over the edges that have it at this end."""
    total = np.bincount(ends, weights=np.abs(circuit.weight), minlength=circuit.layout.n_nodes)
    return {int(n): float(total[n]) for n in circuit.nodes}


def _nodes(run: EdgeRun, scored: bool) -> tuple[view.NodeView, ...]:
    circuit = run.circuit
    strength = {end: _strength(circuit, getattr(circuit, end)) if scored else {} for end in ("src", "dst")}
    looks = _looks(run)
    nodes: list[view.NodeView] = []
    for number, site in zip(circuit.nodes.tolist(), circuit.sites, strict=True):
        kind, layer, index = _parts(str(site))
        nodes.append(view.NodeView(
            site=str(site), location=str(site), layer=layer, index=index, head=index if kind == "head" else None,
            ablation_effect_nats=None, mean=None, mean_on_answer=None, direct_logit=None, top_tokens_in=(),
            top_tokens_out=(), examples=(), task_examples=looks.get((layer, index), ()) if kind == "head" else (),
            kind=kind, score_in=strength["dst"].get(number), score_out=strength["src"].get(number),
        ))  # fmt: skip
    return tuple(nodes)


def _looks(run: EdgeRun) -> dict[tuple[int | None, int], tuple[view.Excerpt, ...]]:
    """(layer, head) -> its attention from the last token of some clean prompts, over the tokens around the one it looks
    at most; none for a model that does not return its attention."""
    from gossamer.models.huggingface.attention import attention_from_last

    at = own_positions(run.about.record)
    batch = run.model.encode(run.task.heldout[:LOOKED_AT], positions=at, several=True)
    wanted = [(layer, head) for kind, layer, head in map(_parts, map(str, run.circuit.sites)) if kind == "head"]
    found: dict[tuple[int | None, int], tuple[view.Excerpt, ...]] = {}
    for pair in range(batch.n_pairs):
        clean = sides(batch.pairs(pair, pair + 1))[0]
        n = int(clean.last[0]) + 1
        texts = words_of(run.model.tokenizer, clean.tokens[0, :n].tolist())
        try:
            shares = attention_from_last(run.model, clean)[:, 0, :, :n]
        except Unsupported:
            return {}
        for layer, head in wanted:
            row = shares[layer or 0, head]
            peak = int(row.argmax())
            first = max(0, min(peak - AROUND, n - 2 * AROUND))
            here = slice(first, first + 2 * AROUND)
            excerpt = view.Excerpt(
                tokens=texts[here], activations=tuple(round(p, 4) for p in row[here].tolist()), position=peak - first
            )
            found[layer, head] = (*found.get((layer, head), ()), excerpt)
    return found


def words_of(tokenizer: Any, tokens: list[int]) -> tuple[str, ...]:
    """What each token adds to the text of those before it, so that a space stays with its word; alone where that cannot
    be told (part of a character). Before it are at most so many as a character could be made of."""

    def text(part: list[int]) -> str:
        return str(tokenizer.decode(part, skip_special_tokens=False))

    found = []
    for n, token in enumerate(tokens):
        before = tokens[max(0, n - BEFORE) : n]
        known, whole = text(before), text([*before, token])
        found.append(whole[len(known) :] if whole.startswith(known) else text([token]))
    return tuple(found)
