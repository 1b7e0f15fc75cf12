"""`gossamer figure tensor-similarity`: how alike the checkpoints of a bilinear network's training are."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from gossamer.commands.reports import SimilarityReport
from gossamer.commands.run_folder import write_json
from gossamer.compare.tensor_similarity import Metric, inputs_shuffled, similarity_matrix, tensor_similarity
from gossamer.models.bilinear import BilinearRun, load_bilinear
from gossamer.record import Record
from gossamer.show.figures import require_matplotlib
from gossamer.show.similarity_figure import SimilarityData, write_similarity_figure

DATA = "tensor-similarity.json"
LEARNT = 0.999  # training accuracy from which on it counts as flat
NULL_DRAWS = 20


def figure_of_run(run: Path, out: Path | None, metric: Metric, seed: int) -> SimilarityReport:
    """See gossamer.commands.figure_tensor_similarity."""
    started = time.perf_counter()
    require_matplotlib()
    loaded = load_bilinear(run)
    matrix = similarity_matrix(loaded.models, metric=metric)
    last, generator = loaded.models[-1], torch.Generator().manual_seed(seed)
    null = [tensor_similarity(last, inputs_shuffled(last, generator), metric=metric).value for _ in range(NULL_DRAWS)]
    finding = finding_of(loaded, matrix[:, -1].numpy())
    own = loaded.record
    record = Record.now(
        method="tensor-similarity", config={"metric": metric}, seed=seed, model=own.model,
        details={"run": own.model_dump(mode="json"), "null_draws": NULL_DRAWS},
    )  # fmt: skip
    data = SimilarityData(
        name=run.resolve().name, measure=f"tensor similarity ({metric})", finding=finding, steps=loaded.steps,
        matrix=tuple(tuple(row) for row in matrix.tolist()), curves=loaded.measured,
        null=("inputs in a random order", float(np.mean(null))), record=record.model_dump(mode="json"),
    )  # fmt: skip
    target = out or run
    target.mkdir(parents=True, exist_ok=True)
    write_json(data, target / DATA)
    png, svg = write_similarity_figure(data, target / DATA.removesuffix(".json"))
    return SimilarityReport(
        run=str(run), metric=metric, data=str(target / DATA), png=str(png), svg=str(svg), finding=finding,
        steps=loaded.steps, to_last=tuple(matrix[:, -1].tolist()), measured=loaded.measured, null=data.null,
        null_highest=float(np.max(null)), seconds=time.perf_counter() - started,
    )  # fmt: skip


def finding_of(run: BilinearRun, to_last: np.ndarray) -> str:
    """How the similarity to the last checkpoint goes on once training accuracy is flat."""
    accuracy = np.array(run.measured.get("train_accuracy", ()))
    learnt = np.flatnonzero(accuracy >= LEARNT)
    if not len(learnt):
        return f"Training accuracy never is {LEARNT:g}; similarity to the last checkpoint starts at {to_last[0]:.3f}."
    first = int(learnt[0])
    rises = int((np.diff(to_last[first:]) > 0).sum())
    return (
        f"At step {run.steps[first]:,} training accuracy is {LEARNT:g} or more; similarity to the last checkpoint is "
        f"{to_last[first]:.3f} there and rises at {rises} of the {len(to_last) - 1 - first} checkpoints after it."
    )
