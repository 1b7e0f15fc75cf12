"""The commands of the command line as functions: same names, same arguments; each returns a report.

They compose the verbs and write run folders. `gossamer discover prune MODEL TASK` is `commands.prune(MODEL, TASK)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import (
    BinariseReport,
    BridgeReport,
    BridgeTrainReport,
    ClaimReport,
    ComposeReport,
    DemoReport,
    DoctorReport,
    EdgeReport,
    ExportReport,
    FigureReport,
    GridReport,
    ImportReport,
    MeansReport,
    NodeReport,
    PairsReport,
    PerturbReport,
    ProveBoundReport,
    ProveCheckReport,
    ProveTrainReport,
    PruneReport,
    ReplayReport,
    RolesReport,
    ServeReport,
    ShowReport,
    SimilarityReport,
    SweepReport,
    TasksReport,
    TrainReport,
    VerdictReport,
    VerifyReport,
)
from gossamer.errors import BadInput, require_new

if TYPE_CHECKING:
    from gossamer.commands.comparisons import CompareReport
    from gossamer.compare.tensor_similarity import Metric
    from gossamer.show.bundle import Bundle
    from gossamer.show.figures import Kind
    from gossamer.show.widget import Page
    from gossamer.train.loop import Progress


__all__ = [
    "binarise", "bridge_perturb", "bridge_report", "bridge_train", "claim", "compare", "compose", "demo",
    "discover_edges", "discover_nodes", "doctor", "export", "figure_draw", "figure_frontier",
    "figure_size_for_loss", "figure_tensor_similarity", "grid", "import_openai_viz", "means", "prove_bound",
    "prove_check", "prove_train", "prune", "prune_edges", "replay", "roles", "serve", "show", "sweep_prune",
    "tasks", "tasks_check", "train", "verdict", "verify", "widget",
]  # fmt: skip


def _silent(line: str) -> None:
    pass


def train(
    out: str | Path, *, preset: str = "tiny", corpus: str | Path | None = None, data: str | Path | None = None,
    device: str = "cpu", dtype: str = "float32", threads: int | None = None, micro_batch: int | None = None,
    resume: bool = False, checkpoint_every: int = 200, progress: Callable[[Progress], None] | None = None,
    say: Say = _silent, **recipe: Any,
) -> TrainReport:  # fmt: skip
    """Train a model folder `out`. `recipe` changes fields of the preset (density, tokens, lr, d_model, ...).

    See gossamer.train.loop.train for the rest and for the errors.
    """
    from gossamer.train.loop import train as run
    from gossamer.train.presets import preset as named

    config = named(preset, **recipe)
    loaded = run(
        Path(out), config, corpus=Path(corpus) if corpus else None, data=Path(data) if data else None, device=device,
        dtype=dtype, threads=threads, micro_batch=micro_batch, resume=resume, checkpoint_every=checkpoint_every,
        progress=progress, say=say,
    )  # fmt: skip
    assert loaded is not None, "only stop_after ends a run early"
    d = loaded.record["details"]
    return TrainReport(
        model=str(out), validation_loss_nats=d["validation_loss_nats"], nonzero_weights=d["nonzero_weights"],
        total_weights=d["total_weights"], steps=d["steps"], seconds=d["train_seconds"],
    )  # fmt: skip


def means(
    model: str | Path, out: str | Path, *, corpus: str | Path | None = None, device: str = "cpu", say: Say = _silent
) -> MeansReport:
    """Give a model reference means of a text: writes the model folder `out`, in our layout, ready to be pruned.

    For models that came without, as the authors' released folders do. corpus: a folder of text like the model's
    pretraining text; default: the Python source of this machine.
    """
    from gossamer.corpora.python_source import find_python_source, text_folder
    from gossamer.models import from_pretrained
    from gossamer.train.measure import with_means

    require_new(Path(out))
    loaded = from_pretrained(model, device)
    text = text_folder(Path(corpus)) if corpus else find_python_source()
    say(f"means of {loaded.name} over {text.name}")
    made = with_means(loaded, text, Path(out))
    assert made.reference is not None
    return MeansReport(model=str(out), text=text.name, tokens=made.reference.n_tokens)


def prune(
    model: str | Path, task: str | Path, *, out: str | Path | None = None, device: str = "cpu", task_seed: int = 0,
    progress: Steps | None = None, say: Say = _silent, **search: Any,
) -> PruneReport:  # fmt: skip
    """Find the circuit of a task and write the run folder `out` (default: runs/TASK-MODEL, numbered if taken).

    `search` changes fields of gossamer.discover.PruneConfig (target_loss, k_coef, steps, seed, calibrate, tied, ...).
    """
    from gossamer.commands.prune_runs import discover
    from gossamer.discover import prune_config

    return discover("prune", model, task, prune_config(**search), out, device, task_seed, progress, say)


def prune_edges(
    model: str | Path, task: str | Path, *, out: str | Path | None = None, device: str = "cpu", task_seed: int = 0,
    progress: Steps | None = None, say: Say = _silent, **search: Any,
) -> PruneReport:  # fmt: skip
    """As `prune`, then the edges of the circuit (default folder: runs/TASK-MODEL-edges, numbered if taken).

    `search` changes fields of gossamer.discover.EdgePruneConfig: those of `prune` and edge_coef, edge_steps, edge_lr.
    """
    from gossamer.commands.prune_runs import discover
    from gossamer.discover import edge_prune_config

    return discover("prune-edges", model, task, edge_prune_config(**search), out, device, task_seed, progress, say)


def discover_edges(
    method: str, model: str | Path, task: str | Path, /, *, edges: int | None = None, faithfulness: float = 0.9,
    out: str | Path | None = None, device: str = "cpu", dtype: str = "float32", task_seed: int = 0,
    force: bool = False, progress: Steps | None = None, say: Say = _silent, **options: Any,
) -> EdgeReport:  # fmt: skip
    """Find the circuit of a task among the edges between the heads and MLPs of a Hugging Face decoder.

    method: eap, eap-ig, eap-ig-activations, ceap, acdc, iterative-sweep, edge-mask, edge-patching, consensus, random,
    weight-magnitude. The run folder `out` (default: runs/TASK-MODEL-METHOD, numbered if taken). Methods that score
    edges are cut at `edges` of them or, without that, at the fewest that reach `faithfulness` on training pairs. A
    model that orders the task's pairs no better than a coin is BadInput unless `force`. `options` are fields of the
    method's configuration.
    """
    from gossamer.commands.edge_discovery import discover

    return discover(
        method, model, task, edges=edges, f=faithfulness, out=out, device=device, dtype=dtype, task_seed=task_seed,
        force=force, progress=progress, say=say, options=options,
    )  # fmt: skip


def discover_nodes(
    method: str, model: str | Path, task: str | Path, /, *, grain: str = "head", out: str | Path | None = None,
    device: str = "cpu", dtype: str = "float32", task_seed: int = 0, force: bool = False,
    progress: Steps | None = None, say: Say = _silent, **options: Any,
) -> NodeReport:  # fmt: skip
    """A number for every node of a Hugging Face decoder on a task, largest first; no circuit is cut.

    method: activation-patching, attribution-patching, path-patching, direct-logit-attribution, and, for pairs of
    writers, query-key-attribution. grain: head, or block with all heads of a layer as one node. The run folder
    `out` holds report.json and, of nodes, scores.safetensors. `options` are fields of the method's configuration; the
    rest as discover_edges.
    """
    from gossamer.commands.node_runs import discover

    return discover(
        method, model, task, grain=grain, out=out, device=device, dtype=dtype, task_seed=task_seed, force=force,
        progress=progress, say=say, options=options,
    )  # fmt: skip


def sweep_prune(
    model: str | Path, tasks: Sequence[str | Path], *, out: str | Path = "runs/sweep", trials: int = 64,
    batch: int = 8, seeds: int = 1, target_losses: Sequence[float] = (0.05, 0.1, 0.15, 0.3, 0.5),
    storage: str | None = None, device: str = "cpu", progress: Steps | None = None, say: Say = _silent, **base: Any,
) -> SweepReport:  # fmt: skip
    """Search the pruning options of each task with each seed; the folder `out` keeps the best circuit per target loss.

    Run again with the same `out`, it goes on where it stopped; more `trials` are then added. Each circuit is a run
    folder OUT/TASK-seedN-lossX, ready for verify and show. storage: a database URL that several machines share;
    default: a journal in `out`. `base` fixes fields of gossamer.discover.PruneConfig that are not searched (steps,
    batch_pairs, tied, calibrate).
    """
    from gossamer.commands.sweeps import run_sweep

    return run_sweep(
        model, tasks, out=Path(out), trials=trials, batch=batch, seeds=seeds, target_losses=tuple(target_losses),
        storage=storage, device=device, progress=progress, say=say, base=base,
    )  # fmt: skip


def bridge_train(
    sparse: str | Path, dense: str | Path, out: str | Path, *, corpus: str | Path | None = None,
    data: str | Path | None = None, device: str = "cpu", threads: int | None = None, resume: bool = False,
    checkpoint_every: int = 100, progress: Steps | None = None, say: Say = _silent, **recipe: Any,
) -> BridgeTrainReport:  # fmt: skip
    """Train a bridge between two models of equal depth, and the sparse one with it: the bridge folder `out`.

    The sparse model it ends with is the model folder OUT/sparse, ready for prune. `recipe` changes fields of
    gossamer.train.bridge.BridgeConfig; see gossamer.train.bridge.train_bridge for the rest and for the errors.
    """
    from gossamer.commands.bridges import run_train

    return run_train(
        sparse, dense, out=Path(out), corpus=Path(corpus) if corpus else None, data=Path(data) if data else None,
        device=device, threads=threads, resume=resume, checkpoint_every=checkpoint_every, progress=progress, say=say,
        fields=recipe,
    )  # fmt: skip


def bridge_report(
    bridge: str | Path, *, dense: str | Path | None = None, sparse: str | Path | None = None,
    data: str | Path | None = None, device: str = "cpu", say: Say = _silent,
) -> BridgeReport:  # fmt: skip
    """A bridge on validation text: per site its errors beside least squares, its switches beside mean ablation.

    dense, sparse (as it was before) and data (a `.training` folder) say where those are now; default: where the
    training found them.
    """
    from gossamer.commands.bridges import run_report

    return run_report(
        Path(bridge), dense=dense, sparse=sparse, data=Path(data) if data else None, device=device, say=say
    )


def bridge_perturb(
    bridge: str | Path, task: str | Path, *, nodes: Sequence[str] = (), strongest: int = 1, among: str | None = None,
    rotations: int = 99, dense: str | Path | None = None, device: str = "cpu", seed: int = 0,
    progress: Steps | None = None, say: Say = _silent,
) -> PerturbReport:  # fmt: skip
    """Push the dense model along nodes of the sparse one: its answers on held-out pairs over strengths 0 to 1.

    nodes: channels of one location, such as 1.attn.act_in:37 or 1.attn.v:9; without any, the `strongest` so many (of
    the location `among`) that move the sparse model's own answer most, on training pairs. rotations: random rotations
    of the same change to compare with, 19 or more to pass.
    """
    from gossamer.commands.bridges import run_perturb

    return run_perturb(
        Path(bridge), str(task), nodes=nodes, strongest=strongest, among=among, rotations=rotations, dense=dense,
        device=device, seed=seed, progress=progress, say=say,
    )  # fmt: skip


FIGURE_TARGETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


def figure_size_for_loss(
    sparse: str | Path, dense: str | Path, *, tasks: Sequence[str | Path] = (), out: str | Path = "runs/size-for-loss",
    trials: int = 16, batch: int = 8, seeds: int = 2, target_losses: Sequence[float] = FIGURE_TARGETS,
    at: float = 0.15, sweeps: Sequence[str | Path] = (), device: str = "cpu", progress: Steps | None = None,
    say: Say = _silent, **base: Any,
) -> FigureReport:  # fmt: skip
    """Edges against task loss, for a sparse model and its dense twin, after the same search on both.

    At each target loss the smallest circuit of every task and seed; the geometric mean over the tasks that both models
    reach there with every seed. tasks: default those both solve. at: the target of the finding. Writes
    OUT/size-for-loss.json, .png and .svg; the searches are sweeps below OUT, so a second call goes on. sweeps: folders
    of earlier sweeps to draw from (of the same targets and base). `base` as in sweep_prune. Errors: BadInput for one
    model twice, different tokenizers, unknown tasks, unequal numbers of trials. When it lies: docs/figures.md.
    """
    return _figure(
        "size-for-loss", (sparse, dense), tasks=tasks, out=out, trials=trials, batch=batch, seeds=seeds,
        target_losses=target_losses, at=at, sweeps=sweeps, device=device, progress=progress, say=say, base=base,
    )  # fmt: skip


def figure_frontier(
    models: Sequence[str | Path], *, tasks: Sequence[str | Path] = (), out: str | Path = "runs/frontier",
    trials: int = 16, batch: int = 8, seeds: int = 1, target_losses: Sequence[float] = FIGURE_TARGETS,
    at: float = 0.15, sweeps: Sequence[str | Path] = (), device: str = "cpu", progress: Steps | None = None,
    say: Say = _silent, **base: Any,
) -> FigureReport:  # fmt: skip
    """Circuit size at the target loss `at` against validation loss, for models of several densities and widths.

    The geometric mean of edges over the tasks that all models reach with every seed. Writes OUT/frontier.json, .png
    and .svg; the rest as figure_size_for_loss.
    """
    return _figure(
        "frontier", models, tasks=tasks, out=out, trials=trials, batch=batch, seeds=seeds, target_losses=target_losses,
        at=at, sweeps=sweeps, device=device, progress=progress, say=say, base=base,
    )  # fmt: skip


def figure_draw(out: str | Path) -> FigureReport:
    """Draw a figure's PNG and SVG again from the data in the folder `out`; nothing is searched."""
    from gossamer.commands.figures import draw_again

    return draw_again(Path(out))


def figure_tensor_similarity(
    run: str | Path, *, out: str | Path | None = None, metric: Metric = "symmetric", seed: int = 0
) -> SimilarityReport:  # fmt: skip
    """How alike the checkpoints of a bilinear network's training are; see gossamer.compare.tensor_similarity.

    run: a folder that gossamer.train.bilinear.train_bilinear_into made. Writes tensor-similarity.json, .png and .svg to
    `out` (default: the run). seed: of the null, the last checkpoint with its inputs in a random order.
    """
    from gossamer.commands.similarity import figure_of_run

    return figure_of_run(Path(run), Path(out) if out else None, metric, seed)


def _figure(
    kind: Kind, models: Sequence[str | Path], *, tasks: Sequence[str | Path], out: str | Path, trials: int, batch: int,
    seeds: int, target_losses: Sequence[float], at: float, sweeps: Sequence[str | Path], device: str,
    progress: Steps | None, say: Say, base: dict[str, Any],
) -> FigureReport:  # fmt: skip
    from gossamer.commands.figures import Request, make_figure

    asked = Request(
        models=tuple(models), tasks=tuple(tasks), out=Path(out), trials=trials, batch=batch, seeds=seeds,
        target_losses=tuple(target_losses), at=at, sweeps=tuple(Path(s) for s in sweeps), device=device, base=base,
    )  # fmt: skip
    return make_figure(kind, asked, progress, say)


def verify(
    run: str | Path, *, claim: str | Path | None = None, quick: bool = False, model: str | None = None,
    task: str | Path | None = None, out: str | Path | None = None, ablation: str | None = None,
    granularity: str | None = None, positions: str | None = None, target: float | None = None,
    pairs: int | None = None, edges: int | None = None, hypothesis: str | Path | None = None, device: str = "cpu",
    dtype: str = "float32", seed: int | None = None, progress: Steps | None = None, say: Say = _silent,
) -> VerifyReport:  # fmt: skip
    """Put a run's circuit on trial on the held-out pairs, and write evidence.json into the run folder.

    run: a run folder; or a file with a circuit of edges, ours or another tool's (gossamer.formats), with the `model`
    and the `task` it is of: it is put into the new run folder `out` (default: runs/TASK-MODEL-FILE, numbered). claim:
    a claim.yaml; without it every check of the battery (quick: those that take seconds) is claimed with its usual
    thresholds, on `pairs` held-out pairs. For circuits of edges, ablation: the replacement value (see
    gossamer.replacement; default: the method's), granularity: what is ablated as one, positions: where (all, last or a
    span of the pairs; default: the method's), target: the faithfulness that passes; edges: of a file of scores, how
    many to keep. hypothesis: a YAML file of what parts depend on, for causal scrubbing. A trial that was stopped goes
    on when it is started again.
    """
    from gossamer.commands.trials import verify as put

    changes = {
        "ablation": ablation, "granularity": granularity, "positions": positions, "pairs": pairs, "seed": seed,
    }  # fmt: skip
    return put(
        Path(run), None if claim is None else Path(claim), quick=quick, model=model, task=task, out=out, edges=edges,
        changes=changes, target=target, hypothesis=Path(hypothesis) if hypothesis else None, device=device,
        dtype=dtype, progress=progress, say=say,
    )  # fmt: skip


def claim(
    run: str | Path, *, out: str | Path | None = None, quick: bool = False, model: str | None = None
) -> ClaimReport:  # fmt: skip
    """Write what is usually claimed of a run's circuit as claim.yaml (default: into the run folder), to be changed by
    hand before the trial. quick: only the checks that take seconds."""
    from gossamer.commands.trials import write_claim

    return write_claim(Path(run), Path(out) if out else None, quick, model)


def verdict(run: str | Path, *, claim: str | Path | None = None, model: str | None = None) -> VerdictReport:
    """What the evidence in a run folder says of a claim (default: the one it was made under). Nothing is run.

    Thresholds, pairs or checks that the trial was made with and the claim does not name are told, and what passed by
    them is not measured.
    """
    from gossamer.commands.trials import verdict_of

    found, evidence = verdict_of(Path(run), Path(claim) if claim else None, model)
    return VerdictReport(run=str(run), verdict=found, evidence=evidence)


def grid(
    run: str | Path, *, model: str | None = None, out: str | Path | None = None, values: Sequence[str] = (),
    pairs: int = 128, draws: int = 3, device: str = "cpu", seed: int = 0, progress: Steps | None = None,
    say: Say = _silent,
) -> GridReport:  # fmt: skip
    """A run's circuit under every methodology; see gossamer.verify.grid. Writes grid.json, grid.png and grid.svg to
    `out` (default: RUN/grid), where a grid that was stopped goes on.

    values: of ablations, default all that the circuit's grain has; pairs: held-out ones to use; draws: random sets of
    the same size beside each score.
    """
    from gossamer.commands import grids

    return grids.grid(
        run, model=model, out=out, values=values, pairs=pairs, draws=draws, device=device, seed=seed,
        progress=progress, say=say,
    )  # fmt: skip


def compare(
    runs: Sequence[str | Path], *, along: bool = False, reuse: bool = False, shared: bool = False,
    model: str | None = None, out: str | Path | None = None, value: str | None = None, granularity: str = "edge",
    floor: float = 0.8, pairs: int = 128, draws: int = 20, seed: int = 0, device: str = "cpu",
    progress: Steps | None = None, say: Say = _silent,
) -> CompareReport:  # fmt: skip
    """Circuits of two or more runs on one model: the overlap of every two, and, where their tasks differ, the matrix of
    every circuit ablated on every task. Writes compare.json, .png, .svg and evidence.json to `out` (default:
    runs/compare-MODEL), where a comparison that was stopped goes on.

    runs: run folders; or models, weight-sparse or bilinear, which are compared from weights alone. along: the runs (or
    models) are of checkpoints of one training, in order, and only overlaps (similarities) are made. reuse: the circuits
    of single examples as well; then one run will do. shared: what the circuits of several tasks have in common, kept
    and ablated alone (of a task the first run; floor: share of the logit difference that is asked for), and how alike
    several runs of one task are. value: of the ablation, default the one the circuits were found by;
    granularity: of a decoder's parts; pairs: held-out ones of each task; draws: random sets beside each number. See
    gossamer.compare.overlap, .specificity, .reuse, .shared_circuits, .form_similarity. Unsupported for circuits of
    different models.
    """
    from gossamer.commands import comparisons, model_comparisons

    if model_comparisons.are_models(runs):
        if reuse or shared or value or model:
            raise BadInput("Expected models alone: --reuse, --shared, --value and --model are of run folders.")
        return model_comparisons.compare(runs, along=along, out=out, draws=draws, seed=seed, progress=progress, say=say)
    return comparisons.compare(
        runs, along=along, with_reuse=reuse, with_shared=shared, model=model, out=out, value=value,
        granularity=granularity, floor=floor, pairs=pairs, draws=draws, seed=seed, device=device, progress=progress,
        say=say,
    )  # fmt: skip


def compose(
    operation: str, runs: Sequence[str | Path], *, tasks: Sequence[str | Path] = (), task_seed: int = 0,
    rule: str | None = None, value: str | None = None, model: str | None = None, out: str | Path | None = None,
    pairs: int = 128, draws: int = 20, gain: float = 0.1, seed: int = 0, device: str = "cpu",
    progress: Steps | None = None, say: Say = _silent,
) -> ComposeReport:  # fmt: skip
    """A circuit made of those of two or more runs on one model, asked tasks beside random sets of its size; the run
    folder `out` (default: runs/OPERATION-MODEL, numbered) that verify, show and replay take, with composition.json.

    operation: union, intersection or difference (the first without the others). tasks: default those of the runs; the
    first is the task of the run folder. rule: whose training pairs the values are means of that stand in for what is
    outside: those of the `first` run's task (the default), of the task `evaluated`, or of `all` runs' tasks together; a
    weight-sparse model has reference means of no task. value: of the ablation, default the first run's. draws: random
    supersets of each part (of a union), or subsets, 20 or more for a verdict; gain: what a union must do more than its
    better part. See gossamer.compare.set_algebra. BadInput for one circuit given twice, or two tasks of one name;
    Unsupported for circuits of different models, or a rule where no task's means are taken.
    """
    from gossamer.commands import compositions

    return compositions.compose(
        operation, runs, tasks=tasks, task_seed=task_seed, rule=rule, value=value, model=model, out=out, pairs=pairs,
        draws=draws, gain=gain, seed=seed, device=device, progress=progress, say=say,
    )  # fmt: skip


def doctor(
    model: str | Path, *, task: str | Path | None = None, device: str = "cpu", dtype: str = "float32", pairs: int = 4,
    tokens: int = 12, edges: int = 25, seed: int = 0, progress: Steps | None = None, say: Say = _silent,
) -> DoctorReport:  # fmt: skip
    """Check that circuits can be found in a model on this machine; see gossamer.verify.doctor.

    model: a Hugging Face decoder, or a weight-sparse model, of which fewer checks have a meaning. One whose
    architecture is refused is a report with that reason. task: a task or a file of pairs to ask; default: `pairs` pairs
    of `tokens` random tokens. edges: how many single edges (or nodes) are tried.
    """
    from gossamer.commands.examination import examine

    return examine(
        model, task=task, device=device, dtype=dtype, pairs=pairs, tokens=tokens, edges=edges, seed=seed,
        progress=progress, say=say,
    )  # fmt: skip


def show(
    run: str | Path, *, model: str | None = None, twin: str | Path | None = None, compare: str | Path | None = None,
    device: str = "cpu", say: Say = _silent,
) -> ShowReport:  # fmt: skip
    """Write bundle.json and the offline page.html of a run, whose circuit is of channels or of edges between heads.

    run: a run folder; or the folder of a comparison (`compare`), whose first run's page is then written there. twin:
    the run folder of the dense twin's circuit, for circuits of channels. compare: the run folder of any other circuit
    of the same grain, drawn beside this one, without it the twin's is; or the folder of a comparison with this run in
    it, whose numbers the page then has.
    """
    from gossamer.commands import pages

    beside = Path(compare) if compare else None
    return pages.show(Path(run), model, Path(twin) if twin else None, beside, device, say)


def serve(
    run: str | Path, *, model: str | None = None, twin: str | Path | None = None,
    compare: str | Path | None = None, device: str = "cpu",
    host: str = "127.0.0.1", port: int = 0, token: str | None = None, open_browser: bool = False,
    ready: Callable[[ServeReport], None] | None = None, say: Say = _silent,
) -> ServeReport:  # fmt: skip
    """As `show`, then serve the page until Ctrl-C, with the run's model to answer what the reader asks.

    port: 0 takes a free one. token: what every request must bring; anywhere but on loopback one is made if none is
    given. ready: is told the address before the first request is answered. See gossamer.show.server.
    """
    from gossamer.commands import pages

    told = ready or (lambda report: say(f"open {report.url}"))
    beside = Path(compare) if compare else None
    return pages.serve(
        Path(run), model, Path(twin) if twin else None, beside, device, host, port, token, open_browser, told, say
    )  # fmt: skip


def widget(run: str | Path | Bundle, *, model: str | None = None, device: str = "cpu", say: Say = _silent) -> Page:
    """The page of a run in a notebook (extra `notebook`): of a run folder, of a bundle, or of a file of one.

    A folder that has no bundle.json yet, or one of another circuit or trial than its own, gets it, as from `show`. A
    run folder's model answers what the reader asks, and is loaded with the first question; a bundle alone has none.
    """
    from gossamer.commands import notebook

    return notebook.widget(run, model, device, say)


def replay(
    run: str | Path, *, model: str | None = None, device: str = "cpu", tolerance: float = 1e-4, search: bool = False,
    progress: Steps | None = None, say: Say = _silent,
) -> ReplayReport:  # fmt: skip
    """Derive a run's numbers again: hashes, the cut, every edge weight, losses and evidence.

    search: repeat the whole search from the Record as well (on the same machine it finds the same bits). tolerance:
    largest absolute difference of a number that still agrees (machines differ in the last digits).
    """
    from gossamer.commands import edge_runs
    from gossamer.commands.rederive import differences, edge_differences
    from gossamer.commands.run_folder import read_run

    say(f"deriving the numbers of {run} again")
    if edge_runs.is_edge_run(Path(run)):
        compared, found = edge_differences(edge_runs.read(Path(run), model, device), tolerance, search, progress)
    else:
        compared, found = differences(read_run(Path(run), model, device), tolerance, search, progress)
    return ReplayReport(run=str(run), agrees=not found, compared=compared, differences=tuple(found))


def binarise(
    run: str | Path, *, model: str | None = None, device: str = "cpu", progress: Steps | None = None,
    say: Say = _silent, **options: Any,
) -> BinariseReport:  # fmt: skip
    """Every node of a run's circuit as a two-valued variable; writes binarised.json into the run folder.

    `options` changes fields of gossamer.explain.BinariseConfig (steps, lr, batch_pairs, seed).
    """
    from gossamer.commands.explanations import binarise_run

    return binarise_run(Path(run), model=model, device=device, progress=progress, say=say, options=options)


def roles(
    model: str | Path, task: str | Path, *, device: str = "cpu", dtype: str = "float32", task_seed: int = 0,
    progress: Steps | None = None, say: Say = _silent, **options: Any,
) -> RolesReport:  # fmt: skip
    """What every attention head of a Hugging Face decoder does on a task, with nulls, and the logit lens.

    `options` changes fields of gossamer.explain.HeadRolesConfig (top, members, pairs, samples, draws, seed, ...).
    """
    from gossamer.commands.explanations import roles_of

    return roles_of(
        model, task, device=device, dtype=dtype, task_seed=task_seed, progress=progress, say=say, options=options
    )


def import_openai_viz(
    file: str | Path, *, out: str | Path, model: str | Path | None = None, task: str | Path | None = None,
    answers: Sequence[str] = (), target_loss: float = 0.15, device: str = "cpu", say: Say = _silent,
) -> ImportReport:  # fmt: skip
    """A released circuit of the authors (`viz_data.pt`) as the folder `out`.

    With the model, its reference means and a question, `out` is a run folder for verify, show and replay, and the
    stored losses (halved) stand beside those derived again. The question is the file's own prompts with `answers`, the
    right answer of their first half and that of their second, or a `task` or file of pairs. Without one of these, `out`
    has the circuit and import.json, which says what is missing. target_loss: what verify tries the circuit against.
    """
    from gossamer.commands.imports import import_viz

    return import_viz(
        Path(file), Path(out), model=str(model) if model else None, task=str(task) if task else None, answers=answers,
        target_loss=target_loss, device=device, say=say,
    )  # fmt: skip


def export(
    what: str | Path, *, to: str = "torch", out: str | Path, mode: str | None = None, model: str | None = None,
    ablation: str = "gao-mean", all_tokens: bool = False, device: str = "cpu", say: Say = _silent,
) -> ExportReport:  # fmt: skip
    """A run's circuit as a program of its own, or a whole model for transformers, at the new path `out`.

    to: torch (safetensors, read by gossamer.models.standalone.load_standalone), onnx or python of a run folder;
    huggingface of a model. mode: exact (default) or frozen; python is always frozen. all_tokens: logits of the whole
    vocabulary, not only of the task's answers. See gossamer.models.standalone for what the modes are.
    """
    from gossamer.commands.exports import export_model, export_run

    if to == "huggingface":
        return export_model(what, Path(out), mode, model, ablation, all_tokens, device, say)
    return export_run(
        Path(what),
        to,
        Path(out),
        mode=mode,
        model=model,
        ablation=ablation,
        all_tokens=all_tokens,
        device=device,
        say=say,
    )


def tasks(*, model: str | Path | None = None) -> TasksReport:
    """All tasks; with a model, how it does on each task's held-out pairs."""
    from gossamer.commands.solved import task_reports
    from gossamer.models import any_model

    loaded = None if model is None else any_model(model)
    return TasksReport(model=loaded.name if loaded else None, tasks=tuple(task_reports(loaded)))


def tasks_check(pairs: str | Path, *, model: str | Path = "tiny") -> PairsReport:
    """One's own pairs as a model reads them: tokens, alignment, problems, and how the model does on the usable ones."""
    from gossamer.commands.solved import check_pairs

    return check_pairs(pairs, model)


def prove_train(
    out: str | Path, *, k: int = 4, seed: int = 0, density: float = 1.0, progress: Steps | None = None, **recipe: Any
) -> ProveTrainReport:
    """Train a max-of-K model folder `out`. `recipe` changes other fields of gossamer.train.max_of_k.MaxOfKTraining."""
    from gossamer.commands.proofs import train_one

    return train_one(Path(out), k=k, seed=seed, density=density, progress=progress, recipe=recipe)


def prove_bound(
    model: str | Path, *, rung: str | Sequence[str] = "all", out: str | Path | None = None, seed: int = 0,
    progress: Steps | None = None, say: Say = _silent,
) -> ProveBoundReport:  # fmt: skip
    """Certified lower bounds on a max-of-K model's accuracy, one certificate per rung in the folder `out` (default:
    runs/proofs-MODEL, numbered if taken).

    model: a folder of prove_train, or a .safetensors file under TransformerLens names. rung: names from
    gossamer.verify.proof.RUNGS, or all. seed: of the order that the weights of the null are put in.
    """
    from gossamer.commands.proofs import bound

    return bound(model, rung=rung, out=out, seed=seed, progress=progress, say=say)


def prove_check(certificate: str | Path, model: str | Path) -> ProveCheckReport:
    """Whether a certificate holds for a model's weights, by a checker that shares no code with what made it."""
    from gossamer.commands.proofs import check_one

    return check_one(Path(certificate), Path(model))


def demo(
    *, out: str | Path | None = None, model: str = "tiny", task: str = "single_double_quote",
    progress: Steps | None = None, say: Say = _silent,
) -> DemoReport:  # fmt: skip
    """The main job on the shipped model: prune, verify, show; run folder `out` (default: runs/demo, numbered).

    For a shipped model whose dense twin ships too (`NAME-dense`), the twin's circuit is found as well, with the same
    search, into `OUT-dense`; the page names it.
    """
    from gossamer.commands.main_job import run_demo

    return run_demo(Path(out) if out else None, model, task, progress, say)
