"""What the commands return: frozen objects whose JSON is what `--json` prints."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue

from gossamer.evidence import Evidence


class Report(BaseModel):
    """Base: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainReport(Report):
    """A finished training run: where the model is and how good it is."""

    model: str
    validation_loss_nats: float
    nonzero_weights: int
    total_weights: int
    steps: int
    seconds: float


class MeansReport(Report):
    """A model folder with the reference means of a text."""

    model: str
    text: str
    tokens: int


class PruneReport(Report):
    """A discovery run. Not `reached`: no circuit met the target; nodes, edges and losses are of the best found."""

    run: str
    model: str
    task: str
    reached: bool
    target_loss: float
    nodes: int
    edges: int
    loss_train: float
    loss_heldout: float
    loss_full: float
    accuracy_circuit: float
    accuracy_full: float
    trials: tuple[dict[str, float | int | bool], ...]
    seconds: float


class VerifyReport(Report):
    """A trial: every check's Evidence."""

    run: str
    model: str
    task: str
    evidence: tuple[Evidence, ...]


class ShowReport(Report):
    """A page and its bundle."""

    run: str
    page: str
    bundle: str
    bytes: int


class Difference(Report):
    """One number of a run that a replay did not get again."""

    what: str
    stored: float | int | str | None
    found: float | int | str | None


class ReplayReport(Report):
    """A run's numbers derived again. `agrees` exactly when `differences` is empty."""

    run: str
    agrees: bool
    compared: int
    differences: tuple[Difference, ...]


class ExportReport(Report):
    """A circuit or a model for use elsewhere.

    mode: exact or frozen; None for a whole model. numbers: stored, tables and indices included; error_*: difference of
    the logit gap from the ablated model's on the held-out pairs; accuracy, loss: of the export beside the ablated
    model's (ablated_*), loss in nats; runtime_error: largest difference of logits between onnxruntime and torch.
    """

    out: str
    to: str
    mode: str | None
    model: str
    task: str | None
    nodes: int | None
    edges: int | None
    numbers: int | None
    model_numbers: int
    ablation: str | None
    n_pairs: int | None
    error_mean: float | None
    error_max: float | None
    accuracy: float | None
    ablated_accuracy: float | None
    loss: float | None
    ablated_loss: float | None
    runtime_error: float | None


class SweepRow(Report):
    """The best circuit of a task, seed and target so far. run: its folder, None if another machine holds it."""

    task: str
    seed: int
    target_loss: float
    reached: bool
    nodes: int
    edges: int
    loss_train: float
    loss_heldout: float | None
    config: dict[str, JsonValue]
    run: str | None


class SweepReport(Report):
    """All that a sweep has found; losses in nats. The same is in OUT/sweep.json."""

    out: str
    model: str
    trials: int
    validation_loss_nats: float | None
    best: tuple[SweepRow, ...]
    seconds: float


class TaskReport(Report):
    """A task, and how a model does on its held-out pairs (None without a model).

    calibrated_accuracy: paired accuracy after one scale and shift of the logit gap, fitted on training pairs; ood: the
    same on each out-of-distribution split; solved: whether it is at least 0.9; problem: why it is not.
    """

    name: str
    description: str
    train_pairs: int
    heldout_pairs: int
    paired_accuracy: float | None = None
    ordered_accuracy: float | None = None
    calibrated_accuracy: float | None = None
    loss_nats: float | None = None
    ood: dict[str, float] = {}
    solved: bool | None = None
    problem: str = ""


class TasksReport(Report):
    """All tasks. Chance: paired accuracy (calibrated or not) 0.25 for a coin and 0 for a model blind to the difference;
    ordered 0.5."""

    model: str | None
    tasks: tuple[TaskReport, ...]


class PairCheck(Report):
    """One pair as the model reads it, by its line in the file; `problems` is empty when it can be used."""

    line: int
    clean: tuple[str, ...]
    counterfactual: tuple[str, ...]
    answer: str
    wrong_answer: str
    aligned: bool
    problems: tuple[str, ...]


class PairsReport(Report):
    """Whether a model can be asked these pairs, and whether it does them at all."""

    pairs_file: str
    model: str
    pairs: int
    usable: int
    aligned: int
    paired_accuracy: float | None
    ordered_accuracy: float | None
    loss_nats: float | None
    checks: tuple[PairCheck, ...]


class DemoReport(Report):
    """The main job in one object. random_same_size_loss: the loss when a random set of the circuit's size is ablated
    (mean of the draws), beside necessity_loss; random_circuit_loss: when all but such a set is ablated. twin_*: the
    circuit of the dense twin by the same search, None where no twin ships."""

    task: str
    model: str
    accuracy_full: float
    accuracy_circuit: float
    nodes: int
    edges: int
    reached: bool
    loss_full: float
    loss_circuit: float
    necessity_loss: float
    random_same_size_loss: float
    random_circuit_loss: float
    twin_nodes: int | None
    twin_edges: int | None
    twin_loss: float | None
    twin_reached: bool | None
    verdicts: dict[str, str]
    run: str
    page: str
    seconds: float
