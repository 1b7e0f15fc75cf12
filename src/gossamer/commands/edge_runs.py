"""Runs whose circuit is edges of a Hugging Face decoder: `discover eap|eap-ig|acdc|...`, their trial and their replay.

The folder: record.json circuit.safetensors evidence.json, and scores.safetensors where the method scores all edges.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from gossamer.ablation import of_edges
from gossamer.budget import in_words
from gossamer.circuit import Circuit
from gossamer.commands.reports import EdgeReport
from gossamer.commands.run_folder import (
    CIRCUIT,
    RECORD,
    SCORES,
    copied_pairs,
    new_folder,
    next_free,
    task_of_run,
    write_json,
)
from gossamer.discover import (
    Consensus,
    acdc_config,
    consensus_config,
    eap_config,
    eap_ig_config,
    edge_mask_config,
    edge_patching_config,
    iterative_sweep_config,
    random_config,
    weight_magnitude_config,
)
from gossamer.discover.room import PROBES, probe_of
from gossamer.errors import BadInput, CorruptFile, Unsupported, one_line, require_new
from gossamer.evidence import Evidence
from gossamer.formats import read_circuit
from gossamer.metric import ordered_accuracy, paired_accuracy, sequence_log_probability
from gossamer.record import Record
from gossamer.registry import method
from gossamer.replacement import Replacement, replacement
from gossamer.scores import EdgeScores
from gossamer.statistics import bootstrap_interval
from gossamer.subject import Budgeted, ResidualSubject, require_model_of
from gossamer.task import Task
from gossamer.task import asked as whole_answers
from gossamer.tasks import asks_by_token_number, load_task
from gossamer.verify import EdgeTrial, faithfulness
from gossamer.verify.edge_faithfulness import why_undefined
from gossamer.verify.edge_trial import edge_values, gap_metric

if TYPE_CHECKING:
    from gossamer.models.huggingface import Decoder

CONFIGS: dict[str, Callable[..., Any]] = {
    "eap": eap_config, "eap-ig": eap_ig_config, "eap-ig-activations": eap_ig_config, "ceap": eap_ig_config,
    "acdc": acdc_config, "edge-patching": edge_patching_config, "edge-mask": edge_mask_config,
    "iterative-sweep": iterative_sweep_config, "consensus": consensus_config, "random": random_config,
    "weight-magnitude": weight_magnitude_config,
}  # fmt: skip
WHOLE_ANSWERS = "sequence-log-probability"
TRIAL_PAIRS = 128  # held-out pairs of a trial; training pairs that a cut is made on
Say = Callable[[str], None]
Steps = Callable[[int, int, float], None]


class EdgeResult(BaseModel):
    """What a run says of its circuit. cut: how the circuit was made of scores, None where the method returned it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int
    edges: int
    all_edges: int
    cut: dict[str, float] | None
    faithfulness: Evidence


class EdgeRunRecord(BaseModel):
    """record.json: provenance, numbers, and where the model and the task come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    kind: Literal["edges"] = "edges"
    record: Record
    result: EdgeResult
    model_source: str
    dtype: str = "float32"
    task_source: str
    task_seed: int = 0
    target: float = 0.9


@dataclass(frozen=True, kw_only=True)
class EdgeRun:
    """A run read from disk, with its model and its task."""

    folder: Path
    about: EdgeRunRecord
    circuit: Circuit
    model: Decoder
    task: Task

    @property
    def f(self) -> float:
        """The faithfulness that its circuit was held to."""
        return self.about.target

    @cached_property
    def standing(self) -> Replacement:
        """What an ablated write becomes in a prompt without a counterfactual: by the run's own ablation, or the mean
        where that resamples; made once."""
        value = own_ablation(self.about.record)
        positions = own_positions(self.about.record)
        how = of_edges("mean" if value == "resample" else value, positions=positions)
        pairs = self.model.encode(
            self.task.train[:TRIAL_PAIRS], positions=positions, several=of_whole_answers(self.about.record)
        )
        found = replacement(self.model, pairs, how)
        return found.fitted(torch.from_numpy(self.circuit.shares(self.model.graph(), how).astype(np.float32)))


def edge_trial(
    model: ResidualSubject, task: Task, circuit: Circuit, value: str = "resample",
    granularity: str = "edge", seed: int = 0, pairs: int = TRIAL_PAIRS,
    progress: Steps | None = None, positions: str = "all",
) -> EdgeTrial:  # fmt: skip
    """The trial of a circuit on a task's held-out pairs."""
    return EdgeTrial(
        model=model, circuit=circuit, task=task,
        heldout=model.encode(task.heldout[:pairs], positions=positions, several=True),
        training=model.encode(task.train[:TRIAL_PAIRS], positions=positions, several=True), value=value,
        granularity=granularity, seed=seed, progress=progress,
    )  # fmt: skip


def needed_by(model: ResidualSubject, task: Task, name: str, config: Any) -> str:
    """How much memory a method is expected to need, in words; nothing where a limit was given, or only trying would
    tell."""
    if name not in PROBES or config.memory is not None or not isinstance(model, Budgeted):
        return ""
    if probe_of(model, config, name) is not None:
        return ""
    positions = getattr(config, "positions", "all")
    batch = model.encode(task.train[: config.pairs], positions=positions, several=True)
    if batch.marks.answers is not None:  # which take rows of their own
        return ""
    most = getattr(config, "pairs_at_once", getattr(config, "batch", config.pairs))
    n, length = min(most, batch.n_pairs), batch.tokens.shape[1]
    need = model.needed(length, name, None, pairs=n)
    return f", about {in_words(need)} (--memory sets a limit)"


def _require_positions(model: Decoder, task: Task, ablation: str, positions: str) -> None:
    """BadInput where means of positions are asked for and held-out prompts have more of them than training prompts."""
    if ablation != "position-mean":
        return
    train, heldout = (
        int(model.encode(part[:TRIAL_PAIRS], positions=positions, several=True).last.max()) + 1
        for part in (task.train, task.heldout)
    )
    if heldout > train:
        raise BadInput(
            f"Expected held-out prompts of at most the {train} tokens of the training prompts for means of positions, "
            f"got {heldout}; use ablation mean."
        )


def own_ablation(record: Record) -> str:
    """What an ablated write became in the method that found a circuit: what it is tried by, unless asked otherwise."""
    return str(_asked(record).get("ablation", "resample"))


def own_positions(record: Record) -> str:
    """Where the method that found a circuit ablated edges: where it is tried, unless asked otherwise."""
    return str(_asked(record).get("positions", "all"))


def of_whole_answers(record: Record) -> bool:
    """Whether the method that found a circuit could be asked answers of several tokens."""
    return _asked(record).get("metric") == WHOLE_ANSWERS


def _asked(record: Record) -> Mapping[str, Any]:
    """The options of the method itself, which consensus has within its own."""
    return record.config.get("options", {}) if record.method == "consensus" else record.config


def require_done(model: ResidualSubject, task: Task, positions: str = "all") -> tuple[float, float]:
    """(paired, ordered accuracy) on training pairs; BadInput for a model that does not do the task.

    That is one that orders pairs no better than a coin; or that gets both prompts of a pair right no more often than a
    coin, and does not order three quarters of them either (a coin orders half). All by the lower ends of 95% intervals.
    """
    batch = model.encode(task.train[:TRIAL_PAIRS], positions=positions, several=True)
    parts = (whole_answers(batch.pairs(start, start + 16)) for start in range(0, batch.n_pairs, 16))
    gap = torch.cat([sequence_log_probability(model.writes(part)[1], part).float().cpu() for part in parts])
    paired, ordered = paired_accuracy(gap).numpy(), ordered_accuracy(gap).numpy()
    surely = bootstrap_interval(ordered)[0]
    if surely <= 0.5 or (surely < 0.75 and bootstrap_interval(paired)[0] <= 0.25):
        raise BadInput(
            f"Expected a model that does {task.name}, {model.name} does not: of {len(paired)} pairs it gets both "
            f"prompts right in {paired.mean():.1%} (a coin 25%) and orders {ordered.mean():.1%} (a coin 50%), so there "
            "is no circuit to find. Try another task (`gossamer tasks --model`) or model, or --force to search all the "
            "same."
        )
    return float(paired.mean()), float(ordered.mean())


def load_for(
    model: str | Path, task: str | Path, task_seed: int, device: str, dtype: str, force: bool, say: Say,
    positions: str = "all", several: bool = False,
) -> tuple[Decoder, Task]:  # fmt: skip
    """A decoder and the pairs of a task that it can be asked; BadInput, without `force`, if it does not do the task."""
    from gossamer.models.huggingface import load_decoder

    asked = None if asks_by_token_number(str(task)) else load_task(str(task), task_seed)
    loaded = load_decoder(model, device, dtype)
    asked = asked or load_task(str(task), task_seed, loaded.tokenizer)
    asked = loaded.fitting(asked, positions=positions, several=several)
    if asked.left_out:
        which = ", ".join(f"{n} {split}" for split, n in asked.left_out.items())
        say(f"{asked.name}: {which} pairs left out, they do not fit {loaded.name}")
    own = sorted((e for e in (*asked.train, *asked.heldout) if e.line), key=lambda e: e.line)
    if own:  # what cannot be asked is told before the search, held-out pairs too
        loaded.encode(own, positions=positions, several=several)
    if not force:
        paired, ordered = require_done(loaded, asked, positions)
        say(f"{loaded.name} gets {paired:.1%} of training pairs right (coin 25%), orders {ordered:.1%} (coin 50%)")
    return loaded, asked


def discover(
    name: str, model: str | Path, task: str | Path, *, edges: int | None, f: float, out: str | Path | None,
    device: str, dtype: str, task_seed: int, force: bool, progress: Steps | None, say: Say, options: dict[str, Any],
) -> EdgeReport:  # fmt: skip
    """See gossamer.commands.discover_edges."""
    started = time.perf_counter()
    if name == "consensus" and edges is not None:  # of every circuit it compares, not of what it returns
        options = {**options, "edges": edges}
    if name in ("acdc", "iterative-sweep") and edges is not None:
        what = "threshold" if name == "acdc" else "floor"
        raise Unsupported(f"a number of edges of {name}", f"its {what} decides it", f"another {what}")
    config = CONFIGS[name](**options)
    if not 0 < f <= 1:
        raise BadInput(f"Expected a faithfulness of more than 0 to 1 to cut at, got {f:g}.")
    own = config.options if name == "consensus" else config.model_dump()
    positions, several = str(own.get("positions", "all")), own.get("metric") == WHOLE_ANSWERS
    loaded, asked = load_for(model, task, task_seed, device, dtype, force, say, positions, several)
    graph = loaded.graph()
    if edges is not None and not 0 < edges <= graph.n_edges:
        raise BadInput(f"Expected 1 to {graph.n_edges} edges of {loaded.name}, got {edges}.")
    folder = Path(out) if out else next_free(Path("runs") / f"{asked.name}-{loaded.name}-{name}")
    require_new(folder)
    _require_positions(loaded, asked, getattr(config, "ablation", ""), positions)
    say(f"{name} over {graph.n_edges:,} edges{needed_by(loaded, asked, name, config)}")
    found = method[name](loaded, asked, config, progress=progress)
    cut: dict[str, float] | None = None
    if name == "edge-mask" and edges is None:
        cut = {"probability": 0.5}
        scores, circuit = found, found.above(0.5, connected=positions == "all")
    elif isinstance(found, EdgeScores):
        cut = {"edges": edges} if edges is not None else {"faithfulness": f}
        scores, circuit = found, cut_of(loaded, asked, found, edges, f, say)
    elif isinstance(found, Consensus):
        scores, circuit = found.inclusion, found.circuit
    else:
        scores, circuit = None, found
    if not circuit.n_edges:
        more = "lower its threshold" if name == "acdc" else "ask for more edges"
        raise BadInput(f"{name} kept no edge of {loaded.name} that lies on a path or counts; {more}.")
    trial = edge_trial(loaded, asked, circuit, own_ablation(circuit.record), positions=positions)
    evidence = faithfulness(trial, target=f)
    result = EdgeResult(
        nodes=circuit.n_nodes, edges=circuit.n_edges, all_edges=graph.n_edges, cut=cut, faithfulness=evidence
    )
    about = EdgeRunRecord(
        record=circuit.record, result=result, model_source=loaded.source, dtype=dtype,
        task_source=copied_pairs(str(task)), task_seed=task_seed, target=f,
    )  # fmt: skip
    folder = folder if out else next_free(folder)  # another run may have taken it meanwhile
    write(folder, about, circuit, scores, str(task))
    return EdgeReport(
        run=str(folder), model=loaded.name, task=asked.name, method=name, nodes=circuit.n_nodes, edges=circuit.n_edges,
        all_edges=graph.n_edges, faithfulness=evidence, strongest=strongest(circuit), sign=sign_of(circuit.record),
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def write(
    folder: Path, about: EdgeRunRecord, circuit: Circuit, scores: EdgeScores | None, task: str,
    also: Callable[[Path], object] | None = None,
) -> None:  # fmt: skip
    """The run folder, whole or not at all. also: writes what else belongs into it."""
    with new_folder(folder) as work:
        if scores is not None:
            scores.save(work / SCORES)
        circuit.save(work / CIRCUIT)
        copied_pairs(task, work)
        write_json(about, work / RECORD)
        if also:
            also(work)


def cut_of(
    model: ResidualSubject, task: Task, scores: EdgeScores, edges: int | None, f: float, say: Say
) -> Circuit:  # fmt: skip
    """The circuit of that many edges; or, by doubling and then halving, one that has a faithfulness of at least f on
    training pairs while one with an edge less has not. Edges on no path are dropped, unless edges are ablated at chosen
    positions, where what is outside the circuit is heard at the others."""
    how = of_edges(own_ablation(scores.record), positions=own_positions(scores.record))
    top = partial(scores.top, connected=how.positions == "all")
    if edges is not None:
        return top(edges)
    batch = model.encode(task.train[:TRIAL_PAIRS], positions=how.positions, several=True)
    n = len(scores.values)

    def gap(*shares: np.ndarray) -> np.ndarray:
        (found,) = edge_values(model, batch, np.stack(shares), how, (gap_metric(batch),), training=batch)
        return found

    empty, full = gap(np.ones(n), np.zeros(n))
    if why := why_undefined(empty, full):
        raise BadInput(f"Expected a faithfulness to cut at, there is none: {why}. Give a number of edges.")

    def value(size: int) -> float:
        circuit = top(size)
        if not circuit.n_edges:
            return 0.0
        (own,) = gap(circuit.shares(scores.graph, how))
        return float((own.mean() - empty.mean()) / (full.mean() - empty.mean()))

    low, high = 0, 1
    while high < len(scores.values) and value(high) < f:
        low, high = high, min(2 * high, len(scores.values))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if value(middle) >= f else (middle, high)
    circuit = top(high)
    say(f"{circuit.n_edges} edges have a faithfulness of {value(high):.3f} on {batch.n_pairs} training pairs")
    return circuit


def strongest(circuit: Circuit, n: int = 10) -> tuple[tuple[str, float], ...]:
    """The n edges of largest weight, as EAP-IG writes them: `a5.h1->a9.h6<q>`."""
    if np.isnan(circuit.weight).any():  # another tool's file without scores
        return ()
    order = np.argsort(-np.abs(circuit.weight), kind="stable")[:n]
    return tuple((edge_name(circuit, int(i)), float(circuit.weight[i])) for i in order)


def edge_name(circuit: Circuit, i: int) -> str:
    src, dst = (circuit.layout.site(int(ends[i])) for ends in (circuit.src, circuit.dst))
    what = circuit.matrices[int(circuit.matrix[i])]
    return f"{src}->{dst}<{what}>" if what in "qkv" else f"{src}->{dst}"


def sign_of(record: Record) -> str:
    removed = "rise of the metric when the edge was removed" if record.method == "acdc" else "not stated"
    return str(record.details.get("sign", removed))


def is_edge_run(folder: Path) -> bool:
    """Whether a run folder's record is of a circuit of edges."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("kind") == "edges"


def read_about(folder: Path) -> EdgeRunRecord:
    """record.json of a run of edges; CorruptFile when it is damaged."""
    path = folder / RECORD
    try:
        return EdgeRunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFile(f"{path} is not a whole run record ({one_line(error)}); make the run again.") from error


def read(folder: Path, model: str | None = None, device: str = "cpu") -> EdgeRun:
    """A run with its model (from where the run found it, or `model`) and its task; every file is checked first."""
    from gossamer.models.huggingface import load_decoder

    about = read_about(folder)
    circuit = Circuit.load(folder / CIRCUIT)
    source = model or about.model_source
    try:
        loaded = load_decoder(source, device, about.dtype)
    except BadInput as error:
        raise BadInput(
            f"{error} The run was made with {about.model_source}; give its place now with --model."
        ) from error
    require_model_of(circuit.record, loaded)
    at, several = own_positions(about.record), of_whole_answers(about.record)
    fitting = partial(loaded.fitting, positions=at, several=several)
    task = task_of_run(folder, about.task_source, about.task_seed, about.record, fitting, loaded.tokenizer)
    return EdgeRun(folder=folder, about=about, circuit=circuit, model=loaded, task=task)


def put_in_run(
    file: Path, model: str | None, task: str | Path | None, out: str | Path | None, edges: int | None, device: str,
    dtype: str,
) -> EdgeRun:  # fmt: skip
    """A circuit from a file, of a model and a task, as a new run folder."""
    from gossamer.models.huggingface import load_decoder

    if model is None or task is None:
        missing = " and ".join(n for n, v in (("--model", model), ("--task", task)) if v is None)
        raise BadInput(f"Expected {missing} with the circuit file {file}: it does not say what it is of.")
    asked = None if asks_by_token_number(str(task)) else load_task(str(task))
    loaded = load_decoder(model, device, dtype)
    asked = asked or load_task(str(task), 0, loaded.tokenizer)
    circuit = read_circuit(file, loaded.graph(), size=edges)
    at, several = own_positions(circuit.record), of_whole_answers(circuit.record)
    asked = loaded.fitting(asked, positions=at, several=several)
    require_model_of(circuit.record, loaded)
    if not circuit.n_edges:
        raise BadInput(f"Expected a circuit with edges in {file}, it has none.")
    folder = Path(out) if out else next_free(Path("runs") / f"{asked.name}-{loaded.name}-{file.stem}")
    require_new(folder)
    model_hash, means_hash = loaded.hashes()
    record = circuit.record.model_copy(update={
        "model": loaded.name, "model_sha256": model_hash, "means_sha256": means_hash, "task": asked.name,
        "task_version": asked.version,
    })  # fmt: skip
    circuit = replace(circuit, record=record)
    result = EdgeResult(
        nodes=circuit.n_nodes, edges=circuit.n_edges, all_edges=loaded.graph().n_edges, cut=None,
        faithfulness=faithfulness(
            edge_trial(loaded, asked, circuit, own_ablation(record), positions=at), target=0.9
        ),
    )  # fmt: skip
    about = EdgeRunRecord(
        record=record, result=result, model_source=loaded.source, dtype=dtype, task_source=copied_pairs(str(task))
    )
    write(folder, about, circuit, None, str(task))
    return EdgeRun(folder=folder, about=about, circuit=circuit, model=loaded, task=asked)
