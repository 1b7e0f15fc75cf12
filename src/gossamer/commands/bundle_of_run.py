"""A run becomes a bundle: the circuit with what each node does, the evidence, the twin, the Record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gossamer import __version__
from gossamer.commands.bundle_of_other import compared, cuts
from gossamer.commands.page_model import page_model
from gossamer.commands.run_folder import CIRCUIT, Run, RunRecord, read_record
from gossamer.errors import BadInput, CorruptFile
from gossamer.evidence import Evidence
from gossamer.explain import (
    TopExample,
    direct_effects,
    direct_logit,
    examples_by_level,
    first_difference,
    histograms,
    mean_on_answer,
    model_effects,
    node_effects,
    random_effects,
    task_examples,
    tokens_into,
    tokens_out_of,
    top_examples,
)
from gossamer.graph import carries
from gossamer.models import LoadedModel, from_pretrained
from gossamer.show import bundle as view
from gossamer.statistics import quantile_interval
from gossamer.subject import require_model_of

EFFECT_PAIRS = 128
NULL_PAIRS = 32  # for effects in the whole model, of the circuit's nodes and of random ones
STRONGEST = 3  # places of ordinary text that a node's card begins with
CUT_EDGES = 5000  # a cut with more is not on the page


def build_bundle(
    run: Run, evidence: Sequence[Evidence], twin: Path | None = None, compare: Path | None = None
) -> view.Bundle:
    """Everything the page draws. twin: the run folder of another model's circuit for the same task; compare: that of
    any circuit of channels, drawn beside this one in place of the twin's."""
    result = run.about.result
    beside = compare or twin
    return view.Bundle(
        format_version=1,
        title=run.task.description,
        gossamer_version=__version__,
        task=view.TaskView(
            name=run.task.name,
            description=run.task.description,
            examples=tuple(
                view.ExamplePair(
                    clean=e.clean, counterfactual=e.counterfactual, answer=e.answer, wrong_answer=e.wrong_answer
                )
                for e in run.task.heldout[:6]
            ),
        ),
        model=_model_view(run),
        circuit=_circuit_view(run),
        twin=_twin_view(twin, run.about) if twin else None,
        evidence=tuple(
            view.EvidenceView.model_validate(e.model_dump(include=set(view.EvidenceView.model_fields)))
            for e in evidence
        ),
        curve=tuple(view.CurvePoint(nodes=n, edges=e, loss_nats=loss) for n, e, loss in result.curve),
        record=run.about.record.model_dump(mode="json"),
        live=page_model(run.weight_sparse),
        cuts=cuts(run, [n for n, _, _ in result.curve], CUT_EDGES),
        other=(
            compared(beside, run.circuit, run.model.graph("channel"), twin=compare is None)
            if beside and (compare or (beside / CIRCUIT).is_file()) else None
        ),
    )  # fmt: skip


def _model_view(run: Run) -> view.ModelView:
    model, c = run.weight_sparse.model, run.weight_sparse.model.config
    nonzero, total = model.weight_counts()
    return view.ModelView(
        name=run.weight_sparse.name, n_layer=c.n_layer, d_model=c.d_model, n_head=c.n_head, d_head=c.d_head,
        d_mlp=c.d_mlp,
        vocab_size=c.vocab_size, nonzero_weights=nonzero, total_weights=total,
        val_loss_nats=_val_loss(run.weight_sparse),
    )  # fmt: skip


def _val_loss(model: LoadedModel) -> float | None:
    return model.record.get("details", {}).get("validation_loss_nats")


def _twin_view(folder: Path, own: RunRecord) -> view.Twin:
    other = read_record(folder)
    _require_same_question(folder, own, other)
    result = other.result
    return view.Twin(
        name=other.record.model, reached=result.reached, n_nodes=result.nodes, n_edges=result.edges,
        loss_heldout_nats=result.loss_heldout_nats, val_loss_nats=_twin_val_loss(other),
    )  # fmt: skip


def _require_same_question(folder: Path, own: RunRecord, other: RunRecord) -> None:
    """BadInput unless both runs asked for a circuit of the same task at the same target loss."""
    expected, came = (
        {
            "task": r.record.task,
            "task version": r.record.task_version,
            "target loss": f"{r.result.target_loss_nats!r} nats",
        }
        for r in (own, other)
    )
    if own.record.model_sha256 and own.record.model_sha256 == other.record.model_sha256:
        raise BadInput(f"Expected a run on another model than {own.record.model} in {folder}; it is the same model.")
    wrong = [what for what in expected if came[what] != expected[what]]
    if wrong:
        raise BadInput(
            f"Expected a twin run of {', '.join(f'{w} {expected[w]}' for w in wrong)}, got "
            f"{', '.join(f'{w} {came[w]}' for w in wrong)} in {folder}; prune the twin with this run's task and target."
        )


def _twin_val_loss(other: RunRecord) -> float | None:
    """Its model's own loss; None when the model is gone or is no longer the one of the run."""
    try:
        model = from_pretrained(other.model_source)
        require_model_of(other.record, model)
    except (BadInput, CorruptFile):
        return None
    return _val_loss(model)


def _circuit_view(run: Run) -> view.CircuitView:
    circuit, result = run.circuit, run.about.result
    site = {int(n): str(s) for n, s in zip(circuit.nodes, circuit.sites, strict=True)}
    edges = zip(circuit.src, circuit.dst, circuit.weight, circuit.matrix, strict=True)
    calibration = circuit.calibration
    return view.CircuitView(
        reached=result.reached,
        target_loss_nats=result.target_loss_nats,
        loss_train_nats=result.loss_train_nats,
        loss_heldout_nats=result.loss_heldout_nats,
        n_nodes=circuit.n_nodes,
        n_edges=circuit.n_edges,
        calibration=view.Calibration(scale=calibration.scale, shift=calibration.shift) if calibration else None,
        nodes=_nodes(run),
        edges=tuple(
            view.Edge(src=site[int(s)], dst=site[int(d)], weight=float(w), matrix=circuit.matrices[int(m)])
            for s, d, w, m in edges
        ),
        carries=tuple(view.Carry(src=site[a], dst=site[b]) for a, b in carries(circuit.layout, circuit.nodes)),
        effect_nulls=_effect_nulls(run),
        heldout_pairs=len(run.task.heldout),
    )


def _effect_nulls(run: Run) -> dict[str, view.NullView]:
    """The ablation effect of random nodes in the whole model, per location of the circuit."""
    batch = run.weight_sparse.encode(run.task.heldout[:NULL_PAIRS])
    return {
        location: view.NullView(
            name="random nodes of the same location, outside the circuit",
            value=float(effects.mean()) if len(effects) else None,
            interval=quantile_interval(effects) if len(effects) else None, n=len(effects) or None,
            outcome="measured" if len(effects) else "not measured",
        )
        for location, effects in random_effects(run.weight_sparse, run.circuit, batch).items()
    }  # fmt: skip


def _nodes(run: Run) -> tuple[view.NodeView, ...]:
    circuit, model = run.circuit, run.weight_sparse
    heldout = model.encode(run.task.heldout)
    sites = circuit.sites
    effects = node_effects(model, circuit, heldout.pairs(0, EFFECT_PAIRS))
    on_answer = mean_on_answer(model, heldout, sites)
    on_task = task_examples(model, heldout, sites)
    means = model.means()
    excerpt = model.reference.excerpt if model.reference and len(model.reference.excerpt) else None
    on_text = {} if excerpt is None else top_examples(model, excerpt, sites, STRONGEST)
    by_level = {} if excerpt is None else examples_by_level(model, excerpt, sites)
    in_model = model_effects(model, circuit, circuit.nodes, heldout.pairs(0, NULL_PAIRS))
    direct = direct_effects(model, heldout.pairs(0, EFFECT_PAIRS), sites)
    spread = {
        "last token": histograms(model, heldout, sites, heldout.last),
        "first token that differs": histograms(model, heldout, sites, first_difference(heldout)),
    }
    graph = model.graph()
    degrees = [np.bincount(ends, minlength=circuit.layout.n_nodes) for ends in (graph.dst, graph.src)]

    def text(token: int) -> str:
        return str(model.tokenizer.decode([token], skip_special_tokens=False))

    def shown(examples: Sequence[TopExample]) -> tuple[view.Excerpt, ...]:
        return tuple(
            view.Excerpt(tokens=tuple(map(text, e.tokens)), activations=e.activations, position=e.position)
            for e in examples
        )

    def votes(found: tuple[tuple[int, float], ...]) -> tuple[tuple[str, float], ...]:
        return tuple((text(token), weight) for token, weight in found)

    nodes: list[view.NodeView] = []
    for number, site, effect, whole in zip(circuit.nodes.tolist(), sites, effects, in_model, strict=True):
        index = site.index or 0
        part = site.location.split(".")[-1]
        residual = part in ("act_in", "resid_delta", "final_resid") and index < model.model.config.d_model
        final = site.location == "final_resid"
        node = view.NodeView(
            site=str(site), location=site.location, layer=site.layer, index=index,
            head=index // model.model.config.d_head if part in ("q", "k", "v") else None,
            ablation_effect_nats=float(effect), mean=float(means[site.location][index]),
            mean_on_answer=on_answer[site], direct_logit=direct_logit(model, index, heldout) if final else None,
            top_tokens_in=votes(tokens_into(model, index)) if residual and part != "resid_delta" else (),
            top_tokens_out=votes(tokens_out_of(model, index)) if residual else (),
            examples=shown(on_text.get(site, ())), task_examples=shown(on_task[site]),
            levels=tuple(
                one.model_copy(update={"level": level})
                for level, e in (by_level[site].shown if site in by_level else ()) for one in shown([e])
            ),
            active_share=by_level[site].share if site in by_level else None,
            histograms=tuple(view.Histogram(at=at, **by[site]._asdict()) for at, by in spread.items()),
            direct_effect=direct.get(site), model_effect_nats=float(whole),
            model_edges=(int(degrees[0][number]), int(degrees[1][number])),
        )  # fmt: skip
        nodes.append(node)
    return tuple(nodes)
