"""Search the pruning hyperparameters of Gao et al. 2025 (section A.5) and keep the best circuit at every target loss.

The authors ran 256 trials per model and task with CARBS; here optuna proposes (TPE), a batch of proposals at a time,
and the masks of a batch train in one pass. Each trained mask is cut at every target loss. What a trial minimises is the
geometric mean of its edges over the targets.

When it lies: the search overfits the training split it cuts on, and a longer search finds smaller circuits in any
model: compare two models only after the same number of trials, and read the held-out loss.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gossamer.discover.mask_training import owners, train_masks
from gossamer.discover.prune import EVALUATION_PAIRS, PruneConfig, Pruned, Sizes, cut_at, mask_ranking, pruned, trial_of
from gossamer.errors import BadInput, one_line
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
        from optuna.exceptions import OptunaError
        from optuna.storages import JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise BadInput("A sweep needs optuna: pip install 'gossamer-interp[sweep]'.") from error
    if "://" not in where:
        return JournalStorage(JournalFileBackend(where))
    try:
        return RDBStorage(where)
    except (ImportError, OptunaError, SQLAlchemyError) as error:
        raise BadInput(f"Cannot open the storage {where} ({type(error).__name__}: {one_line(error)}).") from error


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
    study = optuna.create_study(study_name=_study_name(model, task, config), storage=storage, load_if_exists=True)
    again = 0
    for stale in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if stale.user_attrs.get("worker") == worker:
            study.tell(stale.number, state=optuna.trial.TrialState.FAIL)
            if set(stale.params) == set(SPACE):
                study.enqueue_trial(stale.params)
                again += 1
    if not study.get_trials(deepcopy=False):
        for given in _first(config.base):
            study.enqueue_trial(given)
    train, heldout = model.encode(task.train), model.encode(task.heldout)
    sample, owner = train.pairs(0, EVALUATION_PAIRS), owners(graph, config.base.tied)
    while (left := config.trials - len(done := _complete(study))) > 0:
        seed = config.base.seed + len(done) + zlib.crc32(worker.encode())
        study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32, multivariate=True, constant_liar=True)
        asked = [study.ask() for _ in range(min(again or config.batch, left))]
        again = 0
        for trial in asked:
            trial.set_user_attr("worker", worker)
        configs = [_suggested(trial, config.base) for trial in asked]
        tau = train_masks(model, graph, train, configs, _of_all(progress, config, len(done), len(asked)))
        best = {target: found[0].key for target in config.target_losses if (found := _best(done, target))}
        for trial, own, t in zip(asked, configs, tau, strict=True):
            tried, sizes = Sizes(model, graph, mask_ranking(owner, t), sample, own.calibrate), []
            for target in sorted(config.target_losses, reverse=True):
                at = own.model_copy(update={"target_loss": target})
                cut = cut_at(tried, target)
                made = trial_of(own.k_coef[0], cut, t[owner])
                size = Size(
                    target_loss=target, reached=cut.reached, nodes=made.nodes, edges=made.edges,
                    loss_train=made.loss_nats,
                )  # fmt: skip
                if target not in best or size.key < best[target]:
                    best[target] = size.key
                    keep(size, pruned(model, task, at, t, cut, tried, heldout, (made,), own.k_coef[0]))
                sizes.append(size)
            trial.set_user_attr("config", own.model_dump(mode="json"))
            trial.set_user_attr("sizes", [s.model_dump() for s in sizes])
        for trial in asked:  # together, so that a batch is done or not
            study.tell(trial, _value([Size.model_validate(s) for s in trial.user_attrs["sizes"]], len(graph.src)))
    return _swept(study, config)


def _study_name(model: Subject, task: Task, config: SweepConfig) -> str:
    """The question a study answers: trials of another base or other targets are not comparable."""
    asked = config.model_dump_json(include={"target_losses", "base"})
    parts = (task.name, task.version, *model.hashes(), hashlib.sha256(asked.encode()).hexdigest())
    return " ".join(p[:48] if p == task.name else p[:16] for p in parts)


def _of_all(
    progress: Callable[[int, int, float], None] | None, config: SweepConfig, done: int, masks: int
) -> Callable[[int, int, float], None]:
    """Progress of a pass as that of the whole sweep, in steps of single masks."""

    def passed(step: int, total: int, loss: float) -> None:
        if progress:
            progress(done * total + step * masks, config.trials * total, loss)

    return passed


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
