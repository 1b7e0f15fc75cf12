"""`gossamer discover eap|eap-ig|acdc|...`: the circuit of edges of a task, into a run folder.

Methods that score edges are cut here; a model that does not do the task is refused here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gossamer.ablation import of_edges
from gossamer.budget import in_words
from gossamer.circuit import Circuit
from gossamer.commands.edge_runs import (
    TRIAL_PAIRS,
    WHOLE_ANSWERS,
    EdgeResult,
    EdgeRunRecord,
    edge_name,
    edge_trial,
    own_ablation,
    own_positions,
    sign_of,
    write,
)
from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import EdgeReport
from gossamer.commands.run_folder import copied_pairs, next_free
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
from gossamer.discover.room import PROBES, asked_size, probe_of
from gossamer.errors import BadInput, Unsupported, require_new
from gossamer.metric import ordered_accuracy, paired_accuracy, sequence_log_probability
from gossamer.registry import method
from gossamer.scores import EdgeScores
from gossamer.statistics import bootstrap_interval
from gossamer.subject import Budgeted, ResidualSubject
from gossamer.task import Task
from gossamer.task import asked as whole_answers
from gossamer.tasks import asks_by_token_number, load_task
from gossamer.verify import faithfulness
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


def needed_by(model: ResidualSubject, task: Task, name: str, config: Any) -> str:
    """How much memory a method is expected to need, in words; nothing where a limit was given, or only trying would
    tell."""
    if name not in PROBES or config.memory is not None or not isinstance(model, Budgeted):
        return ""
    if probe_of(model, config, name) is not None:
        return ""
    positions = getattr(config, "positions", "all")
    batch = model.encode(task.train[: config.pairs], positions=positions, several=True)
    most = getattr(config, "pairs_at_once", getattr(config, "batch", config.pairs))
    length, each, together = asked_size(batch)
    need = model.needed(length, name, None, pairs=min(most * each, together))
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
