"""A released circuit of the authors becomes our run folder, its stored losses beside those derived again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gossamer.ablation import Ablation
from gossamer.circuit import Circuit
from gossamer.commands.reports import Derived, ImportReport
from gossamer.commands.run_folder import CIRCUIT, new_folder, write_json, write_run
from gossamer.commands.solved import scores_of
from gossamer.corpora.tokenizer import END_OF_TEXT
from gossamer.discover import Pruned
from gossamer.discover.prune import EVALUATION_PAIRS, METHODOLOGY, circuit_gap, circuit_loss
from gossamer.errors import BadInput, require_new
from gossamer.explain import node_effects
from gossamer.formats import VizData, read_viz_data
from gossamer.metric import paired_accuracy, task_loss_nats
from gossamer.models import LoadedModel, from_pretrained
from gossamer.scores import Scores
from gossamer.subject import Subject
from gossamer.task import Encoded, Task
from gossamer.tasks import load_task

IMPORT, PAIRS = "import.json", "prompts.jsonl"
NEEDS_MODEL = "weights, losses and a page: give the model's folder with --model"
NEEDS_ANSWERS = (
    "losses and a page: give the two answers with --answer (first that of the file's first half of prompts), or pairs "
    "with --task"
)
NEEDS_MEANS = (
    "the circuit's loss and a page: the model has no reference means; make some with "
    "`gossamer means MODEL --out FOLDER` and import with --model FOLDER"
)
NEEDS_PROMPTS = "losses and a page: the file has no prompts; give pairs with --task"


def import_viz(
    file: Path, out: Path, *, model: str | None, task: str | None, answers: Sequence[str], target_loss: float,
    device: str, say: Callable[[str], None],
) -> ImportReport:  # fmt: skip
    """See gossamer.commands.import_openai_viz."""
    _check_options(out, model, task, answers, target_loss)
    viz = read_viz_data(file)
    loaded = from_pretrained(model, device) if model else None
    circuit = viz.circuit(loaded, target_loss=target_loss, file=file.name)
    say(f"{circuit.n_nodes} of {circuit.layout.n_nodes} nodes, {circuit.n_edges} edges")
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch) / PAIRS
        asked, batch, missing = _question(viz, loaded, task, answers, own)
        report = _report(file, out, viz, loaded, circuit).model_copy(update={"missing": missing})
        if loaded is not None and batch is not None:
            say(f"deriving the losses on {batch.n_pairs} pairs")
            prompts = f"held-out pairs of {task}" if task else "prompts of the file"
            report = report.model_copy(update={"derived": _derived(viz, loaded, circuit, batch, prompts)})
        if loaded is None or asked is None or loaded.reference is None:
            if batch is not None:
                report = report.model_copy(update={"missing": (NEEDS_MEANS,)})
            with new_folder(out) as work:
                circuit.save(work / CIRCUIT)
                write_json(report, work / IMPORT)
            return report
        changed = 0 if batch is None or task else _changed(batch, loaded, asked)
        report = report.model_copy(update={"run": True, "prompts_changed": changed})
        _write_run(loaded, circuit, asked, task or str(own), target_loss, out)
    write_json(report, out / IMPORT)
    return report


def _check_options(
    out: Path, model: str | None, task: str | None, answers: Sequence[str], target_loss: float
) -> None:  # fmt: skip
    require_new(out)
    if answers and (task or len(answers) != 2 or answers[0] == answers[1]):
        also = " and a task" if task else ""
        raise BadInput(f"Expected two different answers or a task, got {', '.join(map(repr, answers))}{also}.")
    if (answers or task) and model is None:
        raise BadInput("Expected a model to ask, got none; give its folder with --model.")
    if not 0 < target_loss < float("inf"):
        raise BadInput(f"Expected a target loss above 0, got {target_loss:g}.")


def _report(file: Path, out: Path, viz: VizData, model: LoadedModel | None, circuit: Circuit) -> ImportReport:
    """What the file says, and how it compares with the model's weights and activations."""
    shown, own = set(viz.shown_edges()), set(zip(circuit.src.tolist(), circuit.dst.tolist(), strict=True))
    compared = model is not None and bool(viz.connections or viz.deltas)
    counts = np.bincount(circuit.matrix, minlength=len(circuit.matrices))
    return ImportReport(
        out=str(out), file=str(file), model=model.name if model else None, means=_means_of(model),
        nodes=circuit.n_nodes, total_nodes=circuit.layout.n_nodes, edges=circuit.n_edges,
        nodes_by_location={k: len(v) for k, v in viz.kept.items() if len(v)},
        edges_by_matrix={name: int(n) for name, n in zip(circuit.matrices, counts, strict=True) if n},
        biases=viz.biases(), shown_not_weights=len(shown - own) if compared else None,
        weights_not_shown=len(own - shown) if compared else None, stored_loss=viz.loss,
        stored_circuit_loss=viz.circuit_loss, activation_differences=_activations(viz, model, circuit),
    )  # fmt: skip


def _means_of(model: LoadedModel | None) -> str | None:
    """Where the model's reference means come from, in words."""
    if model is None or model.reference is None:
        return None
    about = model.record.get("details")
    text = about.get("text") if isinstance(about, Mapping) else None
    text = text.get("corpus") if isinstance(text, Mapping) else text
    return (
        f"{model.reference.n_tokens:,} tokens of {text or 'a text that the record of ' + model.name + ' does not name'}"
    )


@torch.no_grad()
def _activations(viz: VizData, model: LoadedModel | None, circuit: Circuit) -> dict[str, float]:
    """Largest difference of the file's activations on its prompts from the whole model's, and from the circuit's."""
    if model is None or viz.prompts is None or not viz.activations:
        return {}
    batch = viz.batch(0, 0)
    real = torch.arange(batch.tokens.shape[1]) <= batch.last[:, None]
    runs: dict[str, Ablation | None] = {"whole model": None}
    if model.reference is not None:
        runs["circuit"] = circuit.as_ablation(METHODOLOGY)
    found: dict[str, float] = {}
    for name, ablation in runs.items():
        reads = model.run(batch, ablation=ablation, reads=sorted({s.location for s in viz.activations})).reads
        differences = []
        for site, stored in viz.activations.items():
            n, width = stored.shape
            by_pair = stored.view(2, n // 2, width).transpose(0, 1).reshape(n, width)[:, : batch.tokens.shape[1]]
            ours = reads[site.location][..., site.index].cpu().double()
            differences.append(float((ours - by_pair)[real].abs().max()))
        found[name] = max(differences)
    return found


def _question(
    viz: VizData, model: LoadedModel | None, task: str | None, answers: Sequence[str], pairs: Path
) -> tuple[Task | None, Encoded | None, tuple[str, ...]]:
    """(the task to ask, the pairs to derive losses on, what is missing). Answers make a task of the file's prompts,
    written to `pairs`."""
    if model is None:
        return None, None, (NEEDS_MODEL,)
    if task:
        found = load_task(task)
        return found, model.encode(found.heldout), ()
    if viz.prompts is None:
        return None, None, (NEEDS_PROMPTS,)
    if not answers:
        return None, None, (NEEDS_ANSWERS,)
    batch = viz.batch(*(_one_token(model, a) for a in answers))
    _write_pairs(batch, model, answers, pairs)
    return load_task(str(pairs)), batch, ()


def _one_token(model: LoadedModel, answer: str) -> int:
    ids = model.tokenizer.encode(answer, add_special_tokens=False).ids
    if len(ids) != 1:
        raise BadInput(f"Expected an answer of one token, {answer!r} is {len(ids)} in {model.name}; give another.")
    return int(ids[0])


def _write_pairs(batch: Encoded, model: LoadedModel, answers: Sequence[str], path: Path) -> None:
    """The pairs as text, every second one held out; a pair that occurs again is written once."""
    texts = []
    for row, last in zip(batch.tokens.tolist(), batch.last.tolist(), strict=True):
        text = model.tokenizer.decode(row[: last + 1], skip_special_tokens=False)
        texts.append(str(text).removeprefix(END_OF_TEXT))
    rows = [
        {
            "clean": clean, "counterfactual": other, "answer": answers[0], "wrong_answer": answers[1],
            "split": ("train", "heldout")[i % 2],
        }
        for i, (clean, other) in enumerate(dict.fromkeys(zip(texts[::2], texts[1::2], strict=True)))
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def _changed(batch: Encoded, model: LoadedModel, task: Task) -> int:
    """How many prompts of the task are other tokens than any prompt of the file (a start token put before, say)."""
    stored = {tuple(row[: last + 1]) for row, last in zip(batch.tokens.tolist(), batch.last.tolist(), strict=True)}
    own = model.encode((*task.train, *task.heldout))
    rows = zip(own.tokens.tolist(), own.last.tolist(), strict=True)
    return sum(tuple(row[: last + 1]) not in stored for row, last in rows)


@torch.no_grad()
def _derived(viz: VizData, model: LoadedModel, circuit: Circuit, batch: Encoded, prompts: str) -> Derived:
    whole = model.run(batch).gap
    found = Derived(
        prompts=prompts, pairs=batch.n_pairs, loss=float(task_loss_nats(whole).mean()),
        accuracy=float(paired_accuracy(whole).mean()),
    )  # fmt: skip
    if model.reference is None:
        return found
    own = circuit_gap(model, circuit, batch)
    loss = float(task_loss_nats(own).mean())
    update: dict[str, float] = {"circuit_loss": loss, "circuit_accuracy": float(paired_accuracy(own).mean())}
    if viz.node_losses:
        starts = circuit.layout.starts
        stored = {
            int(starts[k] + c): x for k, v in viz.node_losses.items() for c, x in zip(viz.kept[k], v, strict=True)
        }
        ours = dict(zip(circuit.nodes.tolist(), loss + node_effects(model, circuit, batch), strict=True))
        update["node_loss_difference"] = float(np.mean([abs(ours[n] - x) for n, x in stored.items()]))
    return found.model_copy(update=update)


def _write_run(model: LoadedModel, circuit: Circuit, task: Task, source: str, target_loss: float, out: Path) -> None:
    """The run folder that verify, show and replay read."""
    record = circuit.record.model_copy(update={"task": task.name, "task_version": task.version})
    whole = scores_of(model, task.heldout)
    found = given(model, replace(circuit, record=record), task, target_loss)
    write_run(
        out, found, model.source, source, 0, accuracy_full=whole[0], loss_full=whole[2]
    )  # fmt: skip


def given(model: Subject, circuit: Circuit, task: Task, target_loss: float) -> Pruned:
    """A circuit of channels that no search here has found, with its losses. Scores are 1 for kept nodes: there is no
    ranking."""
    kept = np.zeros(circuit.layout.n_nodes)
    kept[circuit.nodes] = 1
    train, heldout = model.encode(task.train).pairs(0, EVALUATION_PAIRS), model.encode(task.heldout)
    loss_train = float(circuit_loss(model, circuit, train).mean())
    own = circuit_gap(model, circuit, heldout)
    return Pruned(
        scores=Scores(layout=circuit.layout, values=kept, record=circuit.record), circuit=circuit,
        reached=loss_train <= target_loss, loss_train=loss_train, loss_heldout=float(task_loss_nats(own).mean()),
        accuracy_heldout=float(paired_accuracy(own).mean()), curve=(), trials=(),
    )  # fmt: skip
