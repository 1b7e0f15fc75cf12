"""The `gossamer bridge` commands: train a bridge, measure it, push a dense model through it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import (
    BridgeReport,
    BridgeSite,
    BridgeTrainReport,
    CurvePoint,
    PerturbReport,
)
from gossamer.compare import perturbation, residual_errors, strongest_nodes, switch_kl
from gossamer.errors import BadInput
from gossamer.models import LoadedModel, from_pretrained
from gossamer.models.bridge import SPARSE, WEIGHTS, BridgedPair, least_squares, load_bridge
from gossamer.site import Site
from gossamer.tasks import load_task
from gossamer.train.bridge import bridge_config, bridge_text, spread, train_bridge
from gossamer.train.measure import MEAN_TOKENS

KL_WINDOWS = 256


def run_train(
    sparse: str | Path, dense: str | Path, *, out: Path, corpus: Path | None, data: Path | None, device: str,
    threads: int | None, resume: bool, checkpoint_every: int, progress: Steps | None, say: Say, fields: dict[str, Any],
) -> BridgeTrainReport:  # fmt: skip
    """See gossamer.commands.bridge_train."""
    config = bridge_config(**fields)
    pair = train_bridge(
        out, from_pretrained(sparse, device), from_pretrained(dense, device), config, corpus=corpus, data=data,
        threads=threads, resume=resume, checkpoint_every=checkpoint_every, progress=progress, say=say,
    )  # fmt: skip
    assert pair is not None, "only stop_after ends a run early"
    d = pair.record["details"]
    return BridgeTrainReport(
        bridge=str(out), sparse_model=str(out / SPARSE), loss_before=d["validation_loss_before_nats"],
        loss_after=d["validation_loss_nats"], loss_dense=d["validation_loss_dense_nats"], steps=d["steps"],
        seconds=d["train_seconds"], bytes=(out / WEIGHTS).stat().st_size,
    )  # fmt: skip


def _before(pair: BridgedPair, given: str | Path | None, device: str) -> LoadedModel:
    """The sparse model as it was before it was trained with the bridge; BadInput for another one."""
    details = pair.record["details"]
    model = from_pretrained(given or details["sparse_source"], device)
    if model.hashes()[0] != details["sparse_sha256"]:
        raise BadInput(
            f"Expected the sparse model the bridge's training started from (weights {details['sparse_sha256'][:12]}), "
            f"got {model.name}; give its place with --sparse."
        )
    return model


def run_report(
    folder: Path, *, dense: str | Path | None, sparse: str | Path | None, data: Path | None, device: str, say: Say
) -> BridgeReport:
    """See gossamer.commands.bridge_report."""
    pair = load_bridge(folder, dense=dense, device=device)
    before, details = _before(pair, sparse, device), pair.record["details"]
    text = bridge_text(data or Path(details["text_of"]), pair.sparse)
    n_ctx, n_val = pair.sparse.model.config.n_ctx, text.val.n_windows(pair.sparse.model.config.n_ctx)
    windows = [w.to(device) for w in spread(text.val, n_ctx, n_val)]
    few = [w.to(device) for w in spread(text.val, n_ctx, KL_WINDOWS)]
    models = pair.sparse.model, pair.dense.model
    say("least-squares maps between the models as they were before")
    fitted = least_squares(
        before.model, models[1], (w.to(device) for w in spread(text.train, n_ctx, MEAN_TOKENS // n_ctx))
    )
    say("errors and single switches on validation text")
    opponent, own = (
        residual_errors(fitted, before.model, models[1], windows),
        residual_errors(pair.bridge, *models, windows),
    )
    kl = switch_kl(pair.bridge, *models, few)
    sites = tuple(
        BridgeSite(
            site=i, before=f"{i // 2}.{('attn', 'mlp')[i % 2]}", nmse_to_sparse=own[i][0], nmse_to_dense=own[i][1],
            least_squares_to_sparse=opponent[i][0], least_squares_to_dense=opponent[i][1], kl_to_sparse=kl.to_sparse[i],
            kl_to_dense=kl.to_dense[i], ablated_sparse=kl.ablated_sparse[i], ablated_dense=kl.ablated_dense[i],
        )
        for i in range(pair.bridge.shape.n_sites)
    )  # fmt: skip
    return BridgeReport(
        bridge=str(folder), sparse=pair.sparse.name, dense=pair.dense.name, k=pair.bridge.shape.k,
        tokens=sum(w.numel() for w in windows), kl_tokens=sum(w.numel() for w in few), kl_models=kl.models,
        loss_before=details["validation_loss_before_nats"], loss_after=details["validation_loss_nats"],
        loss_dense=details["validation_loss_dense_nats"], sites=sites,
    )  # fmt: skip


def run_perturb(
    folder: Path, task: str, *, nodes: Sequence[str], strongest: int, among: str | None, rotations: int,
    dense: str | Path | None, device: str, seed: int, progress: Steps | None, say: Say,
) -> PerturbReport:  # fmt: skip
    """See gossamer.commands.bridge_perturb."""
    sites = tuple(Site.parse(node) for node in nodes)
    found_task = load_task(task)
    pair = load_bridge(folder, dense=dense, device=device)
    if not sites:
        sites = strongest_nodes(pair, found_task, strongest, among=among)
        say(f"the sparse model's nodes that move its own answer most: {', '.join(map(str, sites))}")
    found = perturbation(pair, sites, found_task, rotations=rotations, seed=seed, progress=progress)
    return PerturbReport(
        bridge=str(folder), nodes=tuple(map(str, sites)), chosen=not nodes, task=found_task.name,
        evidence=found.evidence, curve=tuple(CurvePoint(**p._asdict()) for p in found.curve),
    )  # fmt: skip
