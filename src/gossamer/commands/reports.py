"""What the commands return: frozen objects whose JSON is what `--json` prints."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue

from gossamer.evidence import Evidence
from gossamer.show.figures import Kind, Level
from gossamer.show.grid_figure import GridScore
from gossamer.verdict import TrialVerdict


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
    edges_of_nodes: int | None = None  # prune-edges: of the node circuit it started from


class EdgeReport(Report):
    """A circuit of edges. faithfulness: on held-out pairs, with its nulls; strongest: the edges of largest score, by
    name; sign: what the sign of a score says."""

    run: str
    model: str
    task: str
    method: str
    nodes: int
    edges: int
    all_edges: int
    faithfulness: Evidence
    strongest: tuple[tuple[str, float], ...]
    sign: str
    seconds: float


class ComposeReport(Report):
    """A circuit made of others, in the run folder `run`. evidence: a row for every task it was asked; rule: whose
    values stood in for what is outside."""

    run: str
    operation: str
    circuits: tuple[str, ...]
    model: str
    task: str
    rule: str
    nodes: int
    edges: int
    evidence: tuple[Evidence, ...]
    finding: str
    seconds: float


class NodeReport(Report):
    """A number per node, or per pair of writers (`query & key`), largest size first. sign: what its sign says."""

    run: str
    model: str
    task: str
    method: str
    sign: str
    scores: tuple[tuple[str, float], ...]
    record: dict[str, JsonValue]
    seconds: float


class VerifyReport(Report):
    """A trial: every check's Evidence, and the verdict on what was claimed. notes: what reading another tool's file
    changed, or could not tell."""

    run: str
    model: str
    task: str
    evidence: tuple[Evidence, ...]
    verdict: TrialVerdict
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class VerdictReport(Report):
    """What the evidence of a trial says of a claim."""

    run: str
    verdict: TrialVerdict
    evidence: tuple[Evidence, ...]


class ClaimReport(Report):
    """Where a claim was written, its hash, and what it claims: thresholds by check."""

    claim: str
    sha256: str
    checks: dict[str, dict[str, float]]


class DoctorReport(Report):
    """An examination of a model: every check's Evidence; `passed`: none failed. prompts: what it was asked.

    device, dtype: of the model as it was loaded; None for one whose architecture is refused, as is `parameters`.
    """

    model: str
    passed: bool
    prompts: str
    parameters: int | None
    device: str
    dtype: str | None
    evidence: tuple[Evidence, ...]
    seconds: float


class ShowReport(Report):
    """A page and its bundle."""

    run: str
    page: str
    bundle: str
    bytes: int


class ServeReport(Report):
    """A served page: the address to open, with its token where it needs one."""

    run: str
    url: str
    token: str | None


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


class Derived(Report):
    """Losses of an imported circuit derived again, in nats; None without reference means. node_loss_difference: mean
    absolute difference from the stored losses with one kept node ablated as well."""

    prompts: str
    pairs: int
    loss: float
    accuracy: float
    circuit_loss: float | None = None
    circuit_accuracy: float | None = None
    node_loss_difference: float | None = None


class ImportReport(Report):
    """A released circuit read. Stored losses are halved; None: not in the file, or not compared without the model.

    edges: non-zero weights between kept nodes, or without the model the connections shown in the file;
    shown_not_weights, weights_not_shown: where those two differ. activation_differences: largest difference of the
    file's activations from the whole model's and from the circuit's. run: whether `out` is a run folder; missing: what
    could not be made, and what it needs. prompts_changed: prompts that are other tokens once read as text.
    """

    out: str
    file: str
    model: str | None
    means: str | None
    nodes: int
    total_nodes: int
    edges: int
    nodes_by_location: dict[str, int]
    edges_by_matrix: dict[str, int]
    biases: int
    shown_not_weights: int | None
    weights_not_shown: int | None
    stored_loss: float | None
    stored_circuit_loss: float | None
    activation_differences: dict[str, float]
    derived: Derived | None = None
    prompts_changed: int = 0
    run: bool = False
    missing: tuple[str, ...] = ()


class BinaryNodeReport(Report):
    """A node as a two-valued variable: low below cut, else high. Held-out task losses in nats with only this node
    binarised, and with only this node at its mean."""

    site: str
    low: float
    high: float
    cut: float
    loss_alone: float
    loss_constant: float


class BinariseReport(Report):
    """A circuit with every node two-valued, on held-out pairs; the same is in RUN/binarised.json."""

    format_version: int = 1
    run: str
    model: str
    task: str
    config: dict[str, JsonValue]
    loss_before: float
    loss_after: float
    accuracy_before: float
    accuracy_after: float
    evidence: tuple[Evidence, ...]
    nodes: tuple[BinaryNodeReport, ...]
    seconds: float


class RoleScoreReport(Report):
    """See gossamer.explain.head_roles.RoleScore."""

    value: float
    null: float
    null_interval: tuple[float, float]
    p_value: float
    p_adjusted: float
    others: float
    others_interval: tuple[float, float]


class HeadRoleReport(Report):
    """See gossamer.explain.HeadRole."""

    head: str
    next_score: RoleScoreReport | None
    copy_score: RoleScoreReport
    attention: dict[str, RoleScoreReport]


class LensReport(Report):
    """See gossamer.explain.head_roles.LensPoint."""

    after: str
    gap: float
    interval: tuple[float, float]
    null: float
    null_interval: tuple[float, float]
    right: float


class RolesReport(Report):
    """Roles of every head on a task, each score with its null, and the logit lens after every sublayer."""

    model: str
    task: str
    heads: tuple[HeadRoleReport, ...]
    lens: tuple[LensReport, ...]
    record: dict[str, JsonValue]
    seconds: float


class BridgeTrainReport(Report):
    """A trained bridge. sparse_model: the folder of the sparse model trained with it; *_loss: validation loss in nats
    of the sparse model before and after, and of the dense one; bytes: of the bridge's weights."""

    bridge: str
    sparse_model: str
    loss_before: float
    loss_after: float
    loss_dense: float
    steps: int
    seconds: float
    bytes: int


class BridgeSite(Report):
    """One sublayer input. nmse_*: the bridge's error over variance about the token mean; least_squares_*: that of the
    least-squares map between the two models as they were before; kl_*: KL(dense || single switch there) in nats per
    token; ablated_*: the same with the site's residual replaced by its token mean in the model that goes on."""

    site: int
    before: str
    nmse_to_sparse: float
    nmse_to_dense: float
    least_squares_to_sparse: float
    least_squares_to_dense: float
    kl_to_sparse: float
    kl_to_dense: float
    ablated_sparse: float
    ablated_dense: float


class BridgeReport(Report):
    """A bridge on validation text, site by site. kl_models: KL(dense || sparse) without a switch, in nats per token;
    tokens: validation tokens of the NMSE, kl_tokens: those of the KL."""

    bridge: str
    sparse: str
    dense: str
    k: int
    tokens: int
    kl_tokens: int
    kl_models: float
    loss_before: float
    loss_after: float
    loss_dense: float
    sites: tuple[BridgeSite, ...]


class CurvePoint(Report):
    """One strength of a perturbation: logit gap towards the counterfactual answer in nats with its interval over pairs,
    probability of that answer, and the mean gap and the central 95% of random rotations of the same change (quantiles
    of the draws, no confidence interval)."""

    strength: float
    gap: float
    interval: tuple[float, float]
    probability: float
    random: float
    random_quantiles: tuple[float, float]


class PerturbReport(Report):
    """A dense model pushed along sparse nodes. chosen: whether the nodes were picked for moving the sparse model's own
    answer most."""

    bridge: str
    nodes: tuple[str, ...]
    chosen: bool
    task: str
    curve: tuple[CurvePoint, ...]
    evidence: Evidence


class FigureReport(Report):
    """A figure: its data, its pictures, and its one-line finding, which is about the target loss `at`. levels: what
    stands in it at each target loss."""

    kind: Kind
    data: str
    png: str
    svg: str
    finding: str
    warnings: tuple[str, ...]
    models: tuple[str, ...]
    at: float
    trials: int
    seeds: int
    levels: tuple[Level, ...]
    seconds: float


class ProveTrainReport(Report):
    """A trained max-of-K model. sampled_accuracy: share of so many `samples` answered right; seconds: of training."""

    model: str
    k: int
    vocabulary: int
    density: float
    steps: int
    nonzero_weights: int
    total_weights: int
    sampled_accuracy: float
    samples: int
    seconds: float


class ProofRow(Report):
    """One rung: certified of inputs, that share, what checking costs (see verify/proof/cost.py), how many numbers are
    witnesses, the same rung's share with the weights in a random order, and where the certificate is."""

    rung: str
    certified: int
    inputs: int
    bound: float
    flops: int
    unexplained_dimensions: int
    witness_numbers: int
    shuffled: float
    seconds: float
    certificate: str


class ProveBoundReport(Report):
    """Certified lower bounds on a max-of-K model's accuracy; the same as Evidence is in OUT/evidence.json. skipped:
    rungs of --rung all that are out of reach, and why."""

    out: str
    model: str
    k: int
    vocabulary: int
    rows: tuple[ProofRow, ...]
    skipped: dict[str, str]


class ProveCheckReport(Report):
    """What the checker says of a certificate. verified: inputs it could certify itself; None where it rejects."""

    certificate: str
    model: str
    accepted: bool
    reason: str
    rung: str | None
    certified: int | None
    verified: int | None
    inputs: int | None
    seconds: float


class GridReport(Report):
    """One circuit under every methodology: its data, its pictures, and its one-line finding."""

    run: str
    model: str
    task: str
    data: str
    png: str
    svg: str
    finding: str
    rows: tuple[GridScore, ...]
    seconds: float


class SimilarityReport(Report):
    """Checkpoints of a training: similarity of each to the last, what else was measured, and the picture.

    null: the last checkpoint's similarity to one that it should not be like, in words and as the mean of 20 draws.
    """

    run: str
    metric: str
    data: str
    png: str
    svg: str
    finding: str
    steps: tuple[int, ...]
    to_last: tuple[float, ...]
    measured: dict[str, tuple[float, ...]]
    null: tuple[str, float] | None
    null_highest: float
    seconds: float


class TaskReport(Report):
    """A task, and how a model does on its held-out pairs (None without a model).

    calibrated_accuracy: paired accuracy after one scale and shift of the logit gap, fitted on training pairs; ood: the
    same on each out-of-distribution split; solved: whether it is at least 0.9; problem: why it is not. left_out: per
    split, how many pairs do not fit the model's tokenizer and are not among those asked.
    """

    name: str
    description: str
    train_pairs: int
    heldout_pairs: int
    left_out: dict[str, int] = {}
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
    """One pair as the model reads it, by its line in the file; `problems` is empty when it can be used.

    spans: the tokens of each prompt's; answer_tokens, wrong_answer_tokens: where one is several tokens, those of both.
    """

    line: int
    clean: tuple[str, ...]
    counterfactual: tuple[str, ...]
    answer: str
    wrong_answer: str
    aligned: bool
    problems: tuple[str, ...]
    spans: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    answer_tokens: tuple[str, ...] = ()
    wrong_answer_tokens: tuple[str, ...] = ()


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
