"""`gossamer discover METHOD MODEL TASK`: a circuit, in a run folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.console import Device, Json, ModelName, Set, emit, fields, say, steps, table, trial

if TYPE_CHECKING:
    from gossamer.commands.reports import PruneReport
    from gossamer.discover import PruneConfig

app = typer.Typer(no_args_is_help=True, help="Find the circuit of a task.")

TaskName = Annotated[str, typer.Argument(help="A task (see gossamer tasks), or a file of pairs, ours or a peer's.")]
TargetLoss = Annotated[float | None, typer.Option(help="Task loss the circuit must reach, in nats (0.15).")]
Penalties = Annotated[list[float] | None, typer.Option(help="Node penalty; repeat it to search several at once.")]
Calibrate = Annotated[bool, typer.Option("--calibrate", help="Fit scale and shift of the circuit's logit.")]
TaskSeed = Annotated[int, typer.Option(help="Seed of the task's pairs.")]


@app.callback()
def _group() -> None:
    pass


@app.command("prune")
def prune(
    model: ModelName,
    task: TaskName,
    out: Annotated[Path | None, typer.Option(help="Run folder to write; default runs/TASK-MODEL.")] = None,
    target_loss: TargetLoss = None,
    k_coef: Penalties = None,
    steps_: Annotated[int | None, typer.Option("--steps", help="Steps of mask training.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of the masks.")] = None,
    batch_pairs: Annotated[int | None, typer.Option(help="Pairs per step.")] = None,
    calibrate: Calibrate = False,
    tied: Annotated[bool, typer.Option("--tied", help="One mask for a query channel and its key channel.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the masks and of the batches.")] = None,
    task_seed: TaskSeed = 0,
    set_: Set = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Learn a mask over all nodes and cut it at the target loss (Gao et al. 2025)."""
    from gossamer.commands import prune as method
    from gossamer.discover import PruneConfig

    _run(
        method, PruneConfig, json, model, task, out, task_seed, device, set_, target_loss=target_loss,
        k_coef=k_coef or None, steps=steps_, lr=lr, batch_pairs=batch_pairs, calibrate=calibrate, tied=tied, seed=seed,
    )  # fmt: skip


@app.command("prune-edges")
def prune_edges(
    model: ModelName,
    task: TaskName,
    out: Annotated[Path | None, typer.Option(help="Run folder to write; default runs/TASK-MODEL-edges.")] = None,
    target_loss: TargetLoss = None,
    k_coef: Penalties = None,
    edge_coef: Annotated[
        list[float] | None, typer.Option(help="Edge penalty; repeat it to search several, one after the other.")
    ] = None,
    calibrate: Calibrate = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the masks and of the batches.")] = None,
    task_seed: TaskSeed = 0,
    set_: Set = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Prune nodes, then learn a mask over the edges between them and cut it at the target loss."""
    from gossamer.commands import prune_edges as method
    from gossamer.discover import EdgePruneConfig

    _run(
        method, EdgePruneConfig, json, model, task, out, task_seed, device, set_, target_loss=target_loss,
        k_coef=k_coef or None, edge_coef=edge_coef or None, calibrate=calibrate, seed=seed,
    )  # fmt: skip


Edges = Annotated[int | None, typer.Option(help="Keep so many edges; default: the fewest that are faithful enough.")]
Faithful = Annotated[float, typer.Option(help="Faithfulness to cut at, on training pairs.")]
PairsUsed = Annotated[int | None, typer.Option(help="Training pairs to use.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float64.")]
Force = Annotated[bool, typer.Option("--force", help="Search even if the model does no better than a coin.")]
EdgeOut = Annotated[Path | None, typer.Option(help="Run folder to write; default runs/TASK-MODEL-METHOD.")]
DecoderName = Annotated[str, typer.Argument(help="A folder of a Hugging Face decoder, or a Hub name.")]


_OPTIONS = {
    "edges", "faithfulness", "pairs", "steps", "threshold", "floor", "order", "then_edges", "of", "ablation", "metric",
    "positions", "memory",
}  # fmt: skip


def _of_edges(name: str, options: str, about: str, *own: str) -> None:
    """The command of a method over the edges of a decoder. options: its configuration in gossamer.discover; own: those
    of _OPTIONS it has."""

    def command(
        model: DecoderName, task: TaskName, edges: Edges = None, faithfulness: Faithful = 0.9,
        steps: Annotated[int | None, typer.Option(help="Places between the two prompts (5).")] = None,
        threshold: Annotated[float | None, typer.Option(help="What an edge must be worth to stay (0.01).")] = None,
        floor: Annotated[float | None, typer.Option(help="Share of the metric that must be left (0.8).")] = None,
        order: Annotated[
            str | None, typer.Option(help="last-to-first (default), first-to-last, or the seed of random orders.")
        ] = None,
        then_edges: Annotated[bool, typer.Option("--then-edges", help="Sweep the edges between them too.")] = False,
        of: Annotated[str | None, typer.Option("--method", help="Whose circuits are compared (eap-ig).")] = None,
        ablation: Annotated[
            str | None, typer.Option(help="resample, zero, mean, position-mean or noise (the method's own).")
        ] = None,
        metric: Annotated[
            str | None, typer.Option(help="What is scored; of whole answers: sequence-log-probability.")
        ] = None,
        positions: Annotated[
            str | None, typer.Option(help="Where edges are ablated: all (default), last, or a span of the pairs.")
        ] = None,
        memory: Annotated[str | None, typer.Option(help="Budget, such as 8GB: less goes at once.")] = None,
        out: EdgeOut = None, pairs: PairsUsed = None, task_seed: TaskSeed = 0, force: Force = False, set_: Set = None,
        dtype: Dtype = "float32", device: Device = "cpu", json: Json = False,
    ) -> None:  # fmt: skip
        from gossamer import discover

        asked: dict[str, object] = {
            "steps": steps, "threshold": threshold, "floor": floor, "order": order, "then_edges": then_edges,
            "method": of, "ablation": ablation, "metric": metric, "positions": positions, "memory": memory,
        }  # fmt: skip
        asked |= {"memory": None, "budget": memory} if name == "consensus" else {"pairs": pairs}
        given = fields(getattr(discover, options), set_, **asked)
        if name == "consensus" and pairs:
            given["options"] = {**fields(getattr(discover, options), set_).get("options", {}), "pairs": pairs}
        _edges(name, model, task, json, given, edges, faithfulness, out, task_seed, force, dtype, device)

    _add(command, name, about, _OPTIONS - set(own))


def _of_nodes(name: str, options: str, about: str, *own: str) -> None:
    """The command of a method that gives numbers and no circuit; own: which of its own options it has."""

    def command(
        model: DecoderName, task: TaskName,
        receiver: Annotated[list[str] | None, typer.Option(help="A read, such as a9.h9<q>; repeatable.")] = None,
        attention_parts: Annotated[
            bool, typer.Option("--attention-parts", help="Queries, keys and values of every head too.")
        ] = False,
        head: Annotated[str | None, typer.Option(help="The head that attends, such as a5.h1.")] = None,
        key: Annotated[int | None, typer.Option(help="Position it attends to; negative counts from the end.")] = None,
        query: Annotated[int | None, typer.Option(help="Position it attends from (-1).")] = None,
        positions: Annotated[
            str | None, typer.Option(help="Where nodes are ablated: all (default), last, or a span of the pairs.")
        ] = None,
        grain: Annotated[str, typer.Option(help="head, or block: all heads of a layer as one node.")] = "head",
        memory: Annotated[str | None, typer.Option(help="Budget, such as 8GB: less goes at once.")] = None,
        show: Annotated[int, typer.Option(help="How many numbers to print.")] = 20,
        out: EdgeOut = None, pairs: PairsUsed = None, task_seed: TaskSeed = 0, force: Force = False, set_: Set = None,
        dtype: Dtype = "float32", device: Device = "cpu", json: Json = False,
    ) -> None:  # fmt: skip
        from gossamer import discover
        from gossamer.commands import discover_nodes

        given = fields(
            getattr(discover, options), set_, receivers=receiver or None, attention_parts=attention_parts, head=head,
            key=key, query=query, positions=positions, pairs=pairs, memory=memory,
        )  # fmt: skip
        with steps(name, "score") as progress:
            r = discover_nodes(
                name, model, task, grain=grain, out=out, task_seed=task_seed, force=force, dtype=dtype, device=device,
                progress=progress, say=say, **given,
            )  # fmt: skip

        def text() -> None:
            rows = [[n, f"{score:+.4g}"] for n, score in r.scores[:show]]
            table(f"{len(rows)} of {len(r.scores)}, largest first", ["what", "score"], rows)
            typer.echo(f"sign: {r.sign}\nrun folder: {r.run}")

        emit(r, json, text)

    _add(command, name, about, _OF_NODES - set(own))


_OF_NODES = {"receiver", "attention_parts", "head", "key", "query", "positions", "grain", "memory"}


def _add(command: Callable[..., None], name: str, about: str, without: set[str]) -> None:
    """Register a command under a name, without some of its options."""
    every = inspect.signature(command, eval_str=True)
    kept = [p for n, p in every.parameters.items() if n not in without]
    vars(command)["__signature__"] = every.replace(parameters=kept)  # what typer reads its options from
    app.command(name, help=about)(command)


_CUT = ("edges", "faithfulness")
_SCORED = (*_CUT, "pairs", "ablation", "metric", "positions")
_EAP = (*_SCORED, "memory")
_of_edges("eap", "EAPConfig", "Score every edge by its gradient (Syed et al. 2023) and cut.", *_EAP)
_of_edges("eap-ig", "EAPIGConfig", "Score by gradients between two inputs (Hanna et al. 2024) and cut.", *_EAP, "steps")
_of_edges("eap-ig-activations", "EAPIGConfig", "The same between two activations of each sublayer.", *_EAP, "steps")
_of_edges(
    "ceap", "EAPIGConfig", "Score by conductance (arXiv 2606.16920) and cut.", *_CUT, "pairs", "metric", "steps",
    "memory",
)  # fmt: skip
_of_edges(
    "acdc", "ACDCConfig", "Try every edge from the logits back (Conmy et al. 2023).", "threshold", "pairs", "ablation",
    "metric", "positions", "memory",
)  # fmt: skip
_of_edges(
    "iterative-sweep", "IterativeSweepConfig", "Try every head and MLP, backward and forward (Lan et al. 2024).",
    "floor", "order", "then_edges", "pairs", "ablation", "metric", "positions",
)  # fmt: skip
_of_edges(
    "edge-patching",
    "EdgePatchingConfig",
    "Exact: ablate every edge alone, and cut.",
    *_CUT,
    "pairs",
    "metric",
    "positions",
    "memory",
)
_of_edges(
    "edge-mask",
    "EdgeMaskConfig",
    "Train a hard-concrete mask per edge (Bhaskar et al. 2024).",
    "edges",
    "pairs",
    "ablation",
    "metric",
    "positions",
    "memory",
)
_of_edges(
    "consensus", "ConsensusConfig", "Edges that are found whichever pairs are drawn.", "edges", "pairs", "of", "memory"
)
_of_edges("weight-magnitude", "WeightMagnitudeConfig", "Baseline: score by the size of weights and cut.", *_CUT)
_of_edges("random", "RandomConfig", "Baseline: random scores, cut.", *_CUT)


_GRAINS = ("grain", "memory")
_of_nodes(
    "activation-patching", "ActivationPatchingConfig", "Exact: ablate every node alone.", "attention_parts",
    "positions", *_GRAINS,
)  # fmt: skip
_of_nodes(
    "attribution-patching", "AttributionPatchingConfig", "Every node to first order, with the fixes of AtP*.", *_GRAINS
)
_of_nodes(
    "path-patching", "PathPatchingConfig", "Exact: what senders do to these reads directly.", "receiver", *_GRAINS
)
_of_nodes(
    "direct-logit-attribution", "DirectLogitAttributionConfig", "Parts that sum to the logit difference.", *_GRAINS
)
_of_nodes(
    "query-key-attribution", "QueryKeyAttributionConfig", "Why a head attends there: parts of its score.", "head",
    "key", "query",
)  # fmt: skip


def _edges(
    method: str, model: str, task: str, json: bool, given: dict[str, object], edges: int | None, faithfulness: float,
    out: Path | None, task_seed: int, force: bool, dtype: str, device: str,
) -> None:  # fmt: skip
    from gossamer.commands import discover_edges

    with steps("scoring edges", "score") as progress:
        r = discover_edges(
            method, model, task, edges=edges, faithfulness=faithfulness, out=out, task_seed=task_seed, force=force,
            dtype=dtype, device=device, progress=progress, say=say, **given,
        )  # fmt: skip

    def text() -> None:
        table("Its strongest edges", ["edge", "score"], [[name, f"{score:+.4g}"] for name, score in r.strongest])
        typer.echo(f"sign: {r.sign}\n{r.edges} of {r.all_edges} edges, {r.nodes} nodes do {r.task}; on held-out pairs:")
        trial((r.faithfulness,))
        typer.echo(f"run folder: {r.run}\nNext: gossamer verify {r.run}")

    emit(r, json, text)


def _run(
    method: Callable[..., PruneReport], options: type[PruneConfig], json: bool, model: str, task: str,
    out: Path | None, task_seed: int, device: str, set_: list[str] | None, **given: object,
) -> None:  # fmt: skip
    search = fields(options, set_, **given)
    with steps("learning masks") as progress:
        r = method(model, task, out=out, device=device, task_seed=task_seed, progress=progress, say=say, **search)

    def text() -> None:
        rows = [
            [
                f"{t['k_coef']:g}",
                f"{t['start_nodes']} nodes, {t['start_edges']} edges" if "start_nodes" in t else "all",
                "yes" if t["reached"] else "no",
                str(t["nodes"]),
                str(t["edges"]),
                f"{t['loss_nats']:.3f}",
            ]
            for t in r.trials
        ]
        table(
            "Masks tried (training split)", ["penalty", "start", "reached", "nodes", "edges", "task loss (nats)"], rows
        )
        if r.reached:
            of = "" if r.edges_of_nodes is None else f" (the node circuit: {r.edges_of_nodes})"
            typer.echo(f"{r.nodes} nodes and {r.edges} edges{of} do {r.task}: held-out loss {r.loss_heldout:.3f} nats,")
        else:
            typer.echo(
                f"NOT REACHED: no circuit has a loss of {r.target_loss:g} nats; the best found has {r.nodes} nodes, "
                f"{r.edges} edges and a loss of {r.loss_train:.3f} (held out {r.loss_heldout:.3f}),"
            )
        typer.echo(
            f"pairs right {r.accuracy_circuit:.1%} (whole model: {r.loss_full:.3f} nats, {r.accuracy_full:.1%}).\n"
            f"run folder: {r.run}\nNext: gossamer verify {r.run}"
        )

    emit(r, json, text)
