"""`gossamer figure`: the same search on several models, and what it comes to at each target loss."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gossamer.circuit import Circuit
from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import FigureReport, SweepRow
from gossamer.commands.run_folder import CIRCUIT, write_json
from gossamer.commands.solved import task_reports
from gossamer.commands.sweeps import checked_search, open_folder, read_start, run_sweep
from gossamer.discover.prune import EVALUATION_PAIRS, METHODOLOGY, PruneConfig
from gossamer.discover.sweep import SPACE
from gossamer.errors import BadInput
from gossamer.metric import task_loss_nats
from gossamer.models import LoadedModel, from_pretrained
from gossamer.record import Record
from gossamer.show.figures import (
    Curves,
    FoundSize,
    Kind,
    Level,
    SearchedModel,
    Spread,
    read_curves,
    require_matplotlib,
    share,
    write_figure,
)
from gossamer.statistics import geometric_mean, ratio_of_geometric_means
from gossamer.task import Task
from gossamer.tasks import load_task
from gossamer.verify.nulls import gaps, random_circuits

COMPARABLE_NATS = 0.05  # validation losses further apart than this make sizes incomparable
NULL_DRAWS, NULL_PAIRS = 5, 128
SAME_RECIPE = ("vocab_size", "n_ctx", "tokens", "batch_size", "lr", "n_layer", "bigram")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a figure is made of; see gossamer.commands.figure_size_for_loss."""

    models: tuple[str | Path, ...]
    tasks: tuple[str | Path, ...]
    out: Path
    trials: int
    batch: int
    seeds: int
    target_losses: tuple[float, ...]
    at: float
    sweeps: tuple[Path, ...]
    device: str
    base: dict[str, Any]


def make_figure(
    kind: Kind, asked: Request, progress: Steps | None, say: Say
) -> FigureReport:  # fmt: skip
    """Search every model, write OUT/KIND.json and draw it."""
    started = time.perf_counter()
    require_matplotlib()
    models = _models(kind, asked)
    base = checked_search(["any"], asked.trials, asked.batch, asked.seeds, asked.target_losses, asked.base)
    if asked.at not in asked.target_losses:
        raise BadInput(f"Expected --at to be one of the target losses {list(asked.target_losses)}, got {asked.at:g}.")
    sweeps = _sweep_folders(asked, models)
    sources = [str(t) for t in asked.tasks] or _solved_by_all(asked.out, models, say)
    tasks = [load_task(t) for t in sources]
    if len({t.name for t in tasks}) < len(tasks):
        raise BadInput(f"Expected each task once, got {', '.join(t.name for t in tasks)}.")
    for model in models:
        for task in tasks:
            model.encode(task.train)  # every pair is checked with every model before the first search
    start = {
        "figure": kind, "models": [m.hashes() for m in models], "tasks": sources, "target_losses": asked.target_losses,
        "base": base.model_dump(mode="json"),
    }  # fmt: skip
    open_folder(asked.out, start, f"{kind} figure")
    searched = []
    for number, (model, folder) in enumerate(zip(models, sweeps, strict=True)):
        say(f"{model.name}, model {number + 1} of {len(models)}: {len(tasks)} tasks x {asked.seeds} seeds")
        swept = run_sweep(
            asked.models[number], sources, out=folder, trials=asked.trials, batch=asked.batch, seeds=asked.seeds,
            target_losses=asked.target_losses, storage=None, device=asked.device, base=asked.base, progress=progress,
            say=say,
        )  # fmt: skip
        if swept.trials != asked.trials * len(tasks) * asked.seeds:
            raise BadInput(
                f"Expected {asked.trials} trials per task and seed of every model, {folder} has "
                f"{swept.trials} for {len(tasks)} tasks and {asked.seeds} seeds; sizes after unequal searches are not "
                "comparable: ask for as many --trials as it has."
            )
        say(f"{model.name}: random circuits of the same sizes")
        searched.append(_searched(model, _label(number, models), tasks, swept.best))
    return _finish(kind, asked, models, tasks, searched, base, started)


def draw_again(out: Path) -> FigureReport:
    """See gossamer.commands.figure_draw."""
    started = time.perf_counter()
    require_matplotlib()
    kinds: tuple[Kind, ...] = ("size-for-loss", "frontier")
    found = [kind for kind in kinds if (out / f"{kind}.json").is_file()]
    if not found:
        raise BadInput(
            f"Expected a folder with size-for-loss.json or frontier.json at {out}; `gossamer figure` makes one."
        )
    return _drawn(read_curves(out / f"{found[0]}.json"), out / found[0], started)


def _drawn(curves: Curves, stem: Path, started: float) -> FigureReport:
    png, svg = write_figure(curves, stem)
    return FigureReport(
        kind=curves.kind, data=str(stem) + ".json", png=str(png), svg=str(svg), finding=curves.finding,
        warnings=curves.warnings, models=tuple(m.label for m in curves.models), at=curves.at, trials=curves.trials,
        seeds=curves.seeds, levels=curves.levels, seconds=time.perf_counter() - started,
    )  # fmt: skip


def _finish(
    kind: Kind, asked: Request, models: Sequence[LoadedModel], tasks: Sequence[Task],
    searched: Sequence[SearchedModel], base: PruneConfig, started: float,
) -> FigureReport:  # fmt: skip
    """Numbers, data and drawing from what the searches found."""
    names = tuple(t.name for t in tasks)
    levels = tuple(level(searched, names, target) for target in sorted(asked.target_losses))
    chosen = next(x for x in levels if x.target_loss == asked.at)
    if kind == "size-for-loss":
        finding = pair_finding(searched, levels, asked.at, asked.seeds)
    else:
        finding = frontier_finding(searched, chosen, asked.seeds)
    config = {
        "trials": asked.trials, "batch": asked.batch, "seeds": asked.seeds, "target_losses": asked.target_losses,
        "at": asked.at, "base": base.model_dump(mode="json"), "space": SPACE,
    }  # fmt: skip
    record = Record.now(
        method=f"figure {kind}", config=config, seed=base.seed,
        details={
            "methodology": METHODOLOGY, "task_versions": {t.name: t.version for t in tasks},
            "null_draws": NULL_DRAWS, "null_pairs": NULL_PAIRS,
        },
    )  # fmt: skip
    curves = Curves(
        kind=kind, finding=finding, warnings=_warnings(kind, models, searched), at=asked.at, trials=asked.trials,
        seeds=asked.seeds, tasks=names, methodology=METHODOLOGY, models=tuple(searched), levels=levels,
        interval_over="tasks and seeds" if len(chosen.tasks) > 1 else "seeds",
        record=record.model_dump(mode="json"),
    )  # fmt: skip
    write_json(curves, asked.out / f"{kind}.json")
    return _drawn(curves, asked.out / kind, started)


def _models(kind: Kind, asked: Request) -> list[LoadedModel]:
    """The models, of one tokenizer and each once."""
    if len(asked.models) < 2:
        raise BadInput(f"Expected at least two models to compare, got {len(asked.models)}.")
    models = [from_pretrained(m, asked.device) for m in asked.models]
    first: dict[str, str | Path] = {}
    for given, model in zip(asked.models, models, strict=True):
        own = model.hashes()[0]
        if own in first:
            raise BadInput(f"Expected different models, {first[own]} and {given} have the same weights; give one.")
        first[own] = given
        if model.tokenizer.to_str() != models[0].tokenizer.to_str():
            raise BadInput(
                f"Expected models of one tokenizer, {asked.models[0]} and {given} have different ones, so neither "
                "their losses nor their prompts are the same; compare models trained on one tokenizer."
            )
        if kind == "frontier" and _validation_loss(model) is None:
            raise BadInput(
                f"Expected a validation loss in every model's record, {given} has none; `gossamer train` writes it."
            )
    return models


def _validation_loss(model: LoadedModel) -> float | None:
    found = model.record.get("details", {}).get("validation_loss_nats")
    return None if found is None else float(found)


def _sweep_folders(asked: Request, models: Sequence[LoadedModel]) -> list[Path]:
    """For each model the given sweep folder of its weights, else its own below OUT."""
    hashes = [m.hashes()[0] for m in models]
    folders = [
        asked.out / "sweeps" / f"{m.name.replace('/', '-')}-{h[:8]}" for m, h in zip(models, hashes, strict=True)
    ]
    for folder in asked.sweeps:
        if not folder.is_dir():
            raise BadInput(f"Expected the folder of a sweep at {folder}; `gossamer sweep prune` makes one.")
        its = read_start(folder, "sweep").get("model", [""])[0]
        if its not in hashes:
            raise BadInput(
                f"Expected a sweep of one of the models, {folder} is of {its[:12] or 'no model'}; leave it out."
            )
        folders[hashes.index(its)] = folder
    return folders


def _solved_by_all(out: Path, models: Sequence[LoadedModel], say: Say) -> list[str]:
    """The tasks that all models solve, of which each can be asked every pair, in order of names; those of an earlier
    call when the figure goes on."""
    if out.exists():
        return [str(t) for t in read_start(out, "figure").get("tasks", [])]
    by_model = []
    for model in models:
        say(f"which tasks {model.name} solves")
        by_model.append({r.name for r in task_reports(model) if r.solved and not r.left_out})
    both = sorted(set.intersection(*by_model))
    if not both:
        each = "; ".join(f"{m.name}: {', '.join(sorted(s)) or 'none'}" for m, s in zip(models, by_model, strict=True))
        raise BadInput(f"Expected a task that all models solve, found none ({each}); name tasks with --task.")
    say(f"tasks that all solve: {', '.join(both)}")
    return both


def _label(number: int, models: Sequence[LoadedModel]) -> str:
    """A model's name, with some of its hash where another has the same name."""
    own = models[number]
    alone = sum(m.name == own.name for m in models) == 1
    return own.name if alone else f"{own.name} {own.hashes()[0][:6]}"


@torch.no_grad()
def _searched(model: LoadedModel, label: str, tasks: Sequence[Task], rows: Sequence[SweepRow]) -> SearchedModel:
    graph = model.graph("channel")
    heldout = {t.name: model.encode(t.heldout).pairs(0, NULL_PAIRS) for t in tasks}
    unpruned = {
        t.name: float(task_loss_nats(model.run(model.encode(t.train).pairs(0, EVALUATION_PAIRS)).gap).mean())
        for t in tasks
    }
    found = []
    for row in rows:
        losses: tuple[float, ...] = ()
        if row.reached and row.run is not None:
            circuit = Circuit.load(Path(row.run) / CIRCUIT)
            drawn = random_circuits(circuit, graph, NULL_DRAWS, row.seed)
            gap = gaps(model, circuit, heldout[row.task], METHODOLOGY, drawn)
            losses = tuple(float(task_loss_nats(z).mean()) for z in gap)
        found.append(FoundSize.model_validate({
            **row.model_dump(exclude={"config", "run"}), "random_losses": losses,
        }))  # fmt: skip
    config = model.model.config
    return SearchedModel(
        label=label, source=model.source, sha256=model.hashes()[0], means_sha256=model.hashes()[1],
        d_model=config.d_model, n_layer=config.n_layer, density=len(graph.src) / model.counted_weights(),
        activation_fraction=config.activation_fraction if config.topk_places else 1.0,
        nonzero_weights=model.model.weight_counts()[0],
        validation_loss_nats=_validation_loss(model), unpruned=unpruned, found=tuple(found),
    )  # fmt: skip


def level(models: Sequence[SearchedModel], tasks: Sequence[str], target: float) -> Level:
    """What models come to at a target. A task counts when every model reaches it there with every seed it was given.

    A circuit without an edge counts as one of one edge: a geometric mean knows no 0.
    """
    at = [[f for f in m.found if f.target_loss == target] for m in models]
    missed = tuple(
        tuple(t for t in tasks if not (mine := [f for f in found if f.task == t]) or not all(f.reached for f in mine))
        for found in at
    )
    counted = tuple(t for t in tasks if not any(t in m for m in missed))
    nothing = (None,) * len(models)
    if not counted:
        return Level(
            target_loss=target, tasks=(), missed=missed, by_task={}, edges=nothing, band=nothing, heldout=nothing,
            random=nothing,
        )  # fmt: skip
    seeds = sorted({f.seed for f in at[0]})
    inside = [[f for f in found if f.task in counted] for found in at]
    sizes = []
    for found in inside:
        by = {(f.task, f.seed): max(f.edges, 1) for f in found}
        sizes.append(np.array([[by[t, s] for s in seeds] for t in counted], dtype=float))
    losses = [_spread([f.loss_heldout for f in found if f.loss_heldout is not None]) for found in inside]
    by_seed = [[geometric_mean(x[:, n]) for n in range(len(seeds))] for x in sizes]
    ratio, interval = ratio_of_geometric_means(sizes[1], sizes[0]) if len(models) == 2 else (None, None)
    return Level(
        target_loss=target, tasks=counted, missed=missed,
        by_task={t: tuple(geometric_mean(x[n]) for x in sizes) for n, t in enumerate(counted)},
        edges=tuple(geometric_mean(x) for x in sizes),
        band=tuple((min(each), max(each)) for each in by_seed),
        heldout=tuple(spread and spread[0] for spread in losses),
        random=tuple(_spread([x for f in found for x in f.random_losses]) for found in inside),
        ratio=ratio, interval=interval,
    )  # fmt: skip


def _spread(values: Sequence[float]) -> Spread | None:
    return (float(np.mean(values)), min(values), max(values)) if values else None


def _of(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def pair_finding(models: Sequence[SearchedModel], levels: Sequence[Level], at: float, seeds: int) -> str:
    """The one line of size-for-loss, from its numbers."""
    first, second = (m.label for m in models)
    chosen = next(x for x in levels if x.target_loss == at)
    counted = [x for x in levels if x.tasks]
    if not counted:
        return f"No task is reached by both {first} and {second} at any target loss: there is no ratio."
    fewer = sum(x.ratio is not None and x.ratio > 1 for x in counted)
    lead = f"{first} needs fewer edges at {fewer} of {len(levels)} target losses"
    if len(counted) < len(levels):
        lead += f" ({len(levels) - len(counted)} not reached by both)"
    if chosen.ratio is None:
        return f"At {at:g} nats no task is reached by both {first} and {second}: no ratio there; {lead}."
    inside = f" [{chosen.interval[0]:.1f}, {chosen.interval[1]:.1f}]" if chosen.interval else ", no interval"
    return (
        f"At {at:g} nats {second} needs {chosen.ratio:.1f} times as many edges as {first}{inside} (geometric mean over "
        f"{_of(len(chosen.tasks), 'task')}, {_of(seeds, 'seed')}); {lead}."
    )


def frontier_finding(models: Sequence[SearchedModel], chosen: Level, seeds: int) -> str:
    """The one line of frontier: the models that no other beats in both loss and size."""
    if not chosen.tasks:
        return f"At {chosen.target_loss:g} nats no task is reached by all {len(models)} models: there is no frontier."
    points = [
        (m, m.validation_loss_nats, e)
        for m, e in zip(models, chosen.edges, strict=True) if m.validation_loss_nats is not None and e is not None
    ]  # fmt: skip
    best = [
        p for p in points
        if not any(q[1] <= p[1] and q[2] <= p[2] and (q[1] < p[1] or q[2] < p[2]) for q in points)
    ]  # fmt: skip
    best.sort(key=lambda p: p[2])
    named = ", ".join(f"{m.label} ({share(m.density)}, {e:.0f} edges, {loss:.2f} nats)" for m, loss, e in best)
    return (
        f"At {chosen.target_loss:g} nats, geometric mean over {_of(len(chosen.tasks), 'task')}, {_of(seeds, 'seed')}: "
        f"{len(best)} of {len(models)} models are beaten by no other in both loss and edges: {named}."
    )


def _warnings(kind: Kind, models: Sequence[LoadedModel], searched: Sequence[SearchedModel]) -> tuple[str, ...]:
    found = []
    losses = [m.validation_loss_nats for m in searched]
    if kind == "size-for-loss":
        known = [x for x in losses if x is not None]
        if len(known) < 2:
            found.append("A model records no validation loss: whether the two are equally good is not known.")
        elif abs(known[0] - known[1]) > COMPARABLE_NATS:
            found.append(
                f"Validation losses differ by {abs(known[0] - known[1]):.2f} nats ({known[0]:.3f} and {known[1]:.3f}), "
                f"more than {COMPARABLE_NATS}: sizes of the two models are not comparable."
            )
    recipes = [m.record.get("config", {}) for m in models]
    for field in SAME_RECIPE:
        values = {str(r[field]) for r in recipes if field in r}
        if len(values) > 1:
            found.append(f"The models were trained with different {field} ({', '.join(sorted(values))}).")
    if any(f.reached and f.edges == 0 for m in searched for f in m.found):
        found.append("A circuit without an edge counts as one of one edge in geometric means.")
    return tuple(found)
