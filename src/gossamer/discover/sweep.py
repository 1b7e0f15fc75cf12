"""Search the pruning hyperparameters of Gao et al. 2025 (section A.5) and keep the best circuit at every target loss.

The authors ran 256 trials per model and task with CARBS; here optuna proposes (TPE), a batch of proposals at a time,
and the masks of a batch train in one pass. Each trained mask is cut at every target loss. What a trial minimises is the
geometric mean of its edges over the targets.

When it lies: the search overfits the training split it cuts on, and a longer search finds smaller circuits in any
model: compare two models only after the same number of trials, and read the held-out loss.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gossamer.discover.prune import (
    EVALUATION_PAIRS,
    Cut,
    PruneConfig,
    Pruned,
    Seen,
    Trial,
    cut_at,
    mask_ranking,
    owners,
    pruned,
    train_masks,
)
from gossamer.errors import BadInput
from gossamer.subject import Subject
from gossamer.task import Task

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

# name: (lowest, highest), on a log scale. The paper's search centres lie inside; k_coef is on the halved scale.
SPACE: dict[str, tuple[float, float]] = {
    "k_coef": (5e-4, 3e-2), "lr": (2e-3, 5e-2), "init_noise_scale": (1e-3, 1e-1), "init_noise_bias": (3e-2, 5e-1),
    "weight_decay": (1e-4, 1e-2), "one_minus_beta2": (1e-2, 2e-1), "warmup_fraction": (1e-2, 2e-1),
    "temperature": (3e-1, 3.0),
}  # fmt: skip
FIRST_K_COEF = (2e-3, 4e-3, 6e-3, 1.2e-2)  # tried first, with the default of everything else


class SweepConfig(BaseModel):
    """trials: masks in all; batch: masks per pass; target_losses: nats; base: seed, steps and what is not searched."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    trials: int = Field(default=64, gt=0)
    batch: int = Field(default=8, gt=0)
    target_losses: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.05, 0.1, 0.15, 0.3, 0.5), min_length=1)
    base: PruneConfig = PruneConfig()


class Size(BaseModel):
    """A cut at a target: whether a circuit reaches it, its size, and its task loss in nats on the training pairs."""

    target_loss: float
    reached: bool
    nodes: int
    edges: int
    loss_train: float

    @property
    def key(self) -> tuple[float, ...]:
        """Smaller is better: any circuit that reaches the target before any that does not."""
        return (0, self.edges, self.nodes) if self.reached else (1, self.loss_train, self.nodes)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """The state of a sweep: finished trials, and the best cut at each target with the options that found it."""

    finished: int
    best: tuple[tuple[Size, PruneConfig], ...]


def open_storage(where: str) -> BaseStorage:
    """optuna's storage: a database URL (many machines may share it), or a journal file at a path.

    Errors: BadInput without optuna, or for a URL that cannot be opened.
    """
    try:
        from optuna.storages import JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise BadInput("A sweep needs optuna: pip install 'gossamer-interp[sweep]'.") from error
    if "://" not in where:
        return JournalStorage(JournalFileBackend(where))
    try:
        return RDBStorage(where)
    except Exception as error:  # each database driver has its own errors
        raise BadInput(f"Cannot open the storage {where} ({type(error).__name__}: {error}).") from error


def _suggested(trial: Any, base: PruneConfig) -> PruneConfig:
    found = {name: trial.suggest_float(name, low, high, log=True) for name, (low, high) in SPACE.items()}
    found["beta2"] = 1 - found.pop("one_minus_beta2")
    return base.model_copy(update={**found, "k_coef": (found["k_coef"],)})


def _first(base: PruneConfig) -> list[dict[str, float]]:
    centre = {name: getattr(base, name) for name in SPACE if name not in ("k_coef", "one_minus_beta2")}
    return [{**centre, "one_minus_beta2": 1 - base.beta2, "k_coef": k} for k in FIRST_K_COEF]


def _complete(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def sweep(
    model: Subject, task: Task, config: SweepConfig, storage: BaseStorage, *, worker: str = "here",
    keep: Callable[[Size, Pruned], None] = lambda size, found: None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Swept:  # fmt: skip
    """Search until `config.trials` trials of this model, task, seed and storage are finished, by whomever.

    keep(size, circuit) is called with every circuit that is the best so far at its target, before its trial counts as
    finished: what is killed is done again, what is finished is not. worker names this process among those that share
    the storage. progress(steps done, steps in all, mean loss).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    graph = model.graph("channel")
    name = f"{task.name} {task.version} | {':'.join(h[:16] for h in model.hashes())} | {config.base.seed}"
    study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
    for stale in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if stale.user_attrs.get("worker") == worker:
            study.tell(stale.number, state=optuna.trial.TrialState.FAIL)
            if set(stale.params) == set(SPACE):
                study.enqueue_trial(stale.params)  # the same batch again
    if not study.get_trials(deepcopy=False):
        for given in _first(config.base):
            study.enqueue_trial(given)
    train, heldout = model.encode(task.train), model.encode(task.heldout)
    sample, owner = train.pairs(0, EVALUATION_PAIRS), owners(graph, config.base.tied)
    steps = config.base.steps
    while (left := config.trials - len(done := _complete(study))) > 0:
        seed = config.base.seed + len(done) + zlib.crc32(worker.encode())
        study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32, multivariate=True, constant_liar=True)
        asked = [study.ask() for _ in range(min(config.batch, left))]
        for trial in asked:
            trial.set_user_attr("worker", worker)
        configs = [_suggested(trial, config.base) for trial in asked]

        def passed(step: int, total: int, loss: float, before: int = len(done)) -> None:
            if progress:
                progress(before * steps + step * len(asked), config.trials * steps, loss)  # noqa: B023

        tau = train_masks(model, graph, train, configs, passed)
        for trial, own, t in zip(asked, configs, tau, strict=True):
            seen: Seen = {}
            sizes, done = [], _complete(study)
            for target in sorted(config.target_losses, reverse=True):
                at = own.model_copy(update={"target_loss": target})
                cut = cut_at(model, graph, mask_ranking(owner, t), sample, at, seen)
                size = _size(target, cut)
                best = _best(done, target)
                if best is None or size.key < best[0].key:
                    trials = (Trial(own.k_coef[0], cut.reached, size.nodes, size.edges, size.loss_train, size.nodes),)
                    keep(size, pruned(model, task, at, t, cut, sample, heldout, trials, own.k_coef[0]))
                sizes.append(size)
            trial.set_user_attr("config", own.model_dump(mode="json"))
            trial.set_user_attr("sizes", [s.model_dump() for s in sizes])
            study.tell(trial, _value(sizes, len(graph.src)))
    return _swept(study, config)


def _size(target: float, cut: Cut) -> Size:
    last = cut.points[-1]
    return Size(target_loss=target, reached=cut.reached, nodes=last.nodes, edges=last.edges, loss_train=last.loss_nats)


def _value(sizes: Sequence[Size], all_edges: int) -> float:
    """Mean logarithm of edges; a target that is not reached counts as all edges and what its loss is above it."""
    return float(np.mean([
        math.log(1 + s.edges) if s.reached else math.log(1 + all_edges) + s.loss_train - s.target_loss for s in sizes
    ]))  # fmt: skip


def _best(done: Sequence[FrozenTrial], target: float) -> tuple[Size, PruneConfig] | None:
    found = [
        (size, PruneConfig.model_validate(t.user_attrs["config"]))
        for t in done for s in t.user_attrs["sizes"] if (size := Size.model_validate(s)).target_loss == target
    ]  # fmt: skip
    return min(found, key=lambda pair: pair[0].key, default=None)


def _swept(study: Study, config: SweepConfig) -> Swept:
    done = _complete(study)
    best = tuple(found for target in config.target_losses if (found := _best(done, target)))
    return Swept(finished=len(done), best=best)
