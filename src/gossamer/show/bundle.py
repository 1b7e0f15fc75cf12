"""The bundle: everything a view draws, as one JSON object with a schema. No model, no tensors.

The TypeScript view reads the same object; its types (`web/src/bundle.d.ts`) are written from these classes by
gossamer.show.typescript, and a test fails when the two differ.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from gossamer.errors import CorruptFile

FORMAT_VERSION: Literal[1] = 1
BUNDLE_ID = "gossamer-bundle"  # of the element of a page that holds it

Interval = tuple[float, float]
Verdict = Literal["pass", "fail", "not reached", "not measured"]
Grain = Literal["channel", "head"]
Kind = Literal["channel", "input", "head", "kv_group", "mlp", "logits"]


class BundleModel(BaseModel):
    """Base of every part: unknown keys, NaN and infinity are errors; values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ExamplePair(BundleModel):
    """One pair of prompts. `answer` continues `clean`, `wrong_answer` continues `counterfactual`; each is one token."""

    clean: str
    counterfactual: str
    answer: str
    wrong_answer: str


class TaskView(BundleModel):
    """What the circuit does: the task's name, one sentence, and a few of its pairs."""

    name: str
    description: str
    examples: tuple[ExamplePair, ...]


class ModelView(BundleModel):
    """The model the circuit was found in. Losses in nats per token; null is what is not known of a model.

    n_group: key-value groups, null where heads share no keys and values.
    """

    name: str
    n_layer: int
    d_model: int
    n_head: int
    d_head: int
    d_mlp: int | None
    vocab_size: int
    nonzero_weights: int | None
    total_weights: int
    val_loss_nats: float | None
    n_group: int | None = None


class Calibration(BundleModel):
    """Scale and shift of the circuit's two candidate logits (paper 0, section 3)."""

    scale: float
    shift: float


class Excerpt(BundleModel):
    """A run of tokens and one activation per token; `position` indexes the peak, or the place that is shown.

    level: the share of the places where the node is not zero that are weaker than this one; 0: one where it is zero.
    """

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    position: int
    level: float | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Excerpt:
        if len(self.tokens) != len(self.activations):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.activations)} activations")
        if not 0 <= self.position < len(self.tokens):
            raise ValueError(f"position {self.position} lies outside {len(self.tokens)} tokens")
        return self


class Histogram(BundleModel):
    """How a node's activation is spread over the prompts of the two sides: counts in equal bins from low to high.

    at: which token of the prompt, in words.
    """

    at: str
    low: float
    high: float
    clean: tuple[int, ...]
    counterfactual: tuple[int, ...]


class NodeView(BundleModel):
    """One kept node: a channel, or at grain head what reads or writes the residual stream.

    At grain channel: `site` is the channel-grain string (`0.mlp.post_act:863`); `layer` is null for `final_resid`;
    `head` is set for q, k and v only. `ablation_effect_nats` is the rise in task loss when this node alone is
    mean-ablated inside the circuit. `mean` is the reference mean; `mean_on_answer` the mean at the last position on the
    clean and on the counterfactual side. `direct_logit` (final_resid only) is the weight to the answer's minus the
    wrong answer's logit. `top_tokens_in` and `top_tokens_out` are (token, weight) from the embedding and the
    unembedding. `levels` are places of ordinary text from strong to silent, `active_share` the share of its tokens at
    which the node is not zero. `direct_effect`: what the node adds to the right minus the wrong answer's logit, mean
    over clean and over counterfactual prompts, straight through the residual stream; null for what does not write to
    it. `model_effect_nats` is the ablation effect in the whole model, whose null is the circuit's `effect_nulls`.
    `model_edges`: how many weights that are not zero lead into and out of it in the whole model.

    At grain head: `site` is the node's name (`a5.h1`, `a5.g0`, `m3`, `input`, `logits`), `index` its number among its
    kind in its layer, and `score_in`, `score_out` the sums of |score| over its edges of the circuit. `task_examples` of
    a head are its attention from the last token; `mean` and `mean_on_answer` are null.
    """

    site: str
    location: str
    layer: int | None
    index: int
    head: int | None
    ablation_effect_nats: float | None
    mean: float | None
    mean_on_answer: tuple[float, float] | None
    direct_logit: float | None
    top_tokens_in: tuple[tuple[str, float], ...]
    top_tokens_out: tuple[tuple[str, float], ...]
    examples: tuple[Excerpt, ...]
    task_examples: tuple[Excerpt, ...]
    kind: Kind = "channel"
    score_in: float | None = None
    score_out: float | None = None
    levels: tuple[Excerpt, ...] = ()
    active_share: float | None = None
    histograms: tuple[Histogram, ...] = ()
    direct_effect: tuple[float, float] | None = None
    model_effect_nats: float | None = None
    model_edges: tuple[int, int] | None = None


class Edge(BundleModel):
    """What joins two kept nodes: at grain channel a nonzero entry of `matrix` (for example `0.mlp.c_fc`).

    At grain head `matrix` is what the edge is read for (q, k, v, mlp or logits) and `weight` its score, null where the
    circuit came without.
    """

    src: str
    dst: str
    weight: float | None
    matrix: str


class Carry(BundleModel):
    """A link without a weight, not counted as an edge: a residual write read later, a query meeting its key, or the
    keys and values of a group read by a head."""

    src: str
    dst: str


class Outline(BundleModel):
    """A circuit without what its nodes do. An edge is (source, destination, weight, matrix) and a carry (source,
    destination), as places in `nodes` and in `matrices`. `direct`: (node, weight) of final channels, as a node's
    `direct_logit`; empty where it is not known."""

    nodes: tuple[str, ...]
    matrices: tuple[str, ...]
    edges: tuple[tuple[int, int, float | None, int], ...]
    carries: tuple[tuple[int, int], ...]
    direct: tuple[tuple[int, float], ...] = ()

    @model_validator(mode="after")
    def _inside(self) -> Outline:
        ends = [end for e in self.edges for end in e[:2]] + [end for c in self.carries for end in c]
        ends += [place for place, _ in self.direct]
        if any(not 0 <= end < len(self.nodes) for end in ends):
            raise ValueError(f"an edge, a carry or a direct weight lies outside the {len(self.nodes)} nodes")
        if any(not 0 <= e[3] < len(self.matrices) for e in self.edges):
            raise ValueError(f"an edge has a matrix outside the {len(self.matrices)}")
        return self


class Shared(BundleModel):
    """What two circuits of one model have in common: intersection over union, and its mean for random circuits with as
    many nodes of every location (edges: of every matrix) each."""

    shared: int
    left: int
    right: int
    iou: float
    chance: float


class OtherCircuit(BundleModel):
    """The circuit that this one is compared with. Its losses are of its own task; null at grain head.

    twin: the circuit of the dense twin. `nodes` and `edges` are null for another model, whose sites mean nothing here.
    `heldout_pairs`: how many its held-out loss is of. It and `d_head` are null where they are not known.
    """

    model: str
    task: str
    method: str
    twin: bool
    n_layer: int
    d_head: int | None
    reached: bool | None
    loss_heldout_nats: float | None
    outline: Outline
    nodes: Shared | None
    edges: Shared | None
    heldout_pairs: int | None = None


class Twin(BundleModel):
    """The dense twin's circuit for the same task and target loss; not `reached`: the best found, no ratio is drawn.

    `val_loss_nats` is the twin model's own loss in nats per token, null when its model is gone.
    """

    name: str
    reached: bool
    n_nodes: int
    n_edges: int
    loss_heldout_nats: float
    val_loss_nats: float | None


class NullView(BundleModel):
    """The same number under a null; `not reached` is an outcome, `not measured` is the absence of one."""

    name: str
    value: float | None
    interval: Interval | None
    n: int | None
    outcome: Literal["measured", "not reached", "not measured"]


class EvidenceView(BundleModel):
    """One check: a claim, its value with interval and n, its nulls and its verdict."""

    claim: str
    value: float | None
    unit: str
    interval: Interval | None
    n: int | None
    nulls: tuple[NullView, ...]
    verdict: Verdict
    methodology: dict[str, str] | None
    threshold: str
    note: str


class ComparedOverlap(BundleModel):
    """What two circuits, a and b by name, share of nodes or edges, all or of one kind. The overlaps are null where one
    has none, chance (the mean IoU of random sets of their sizes) and p_value where not measured."""

    a: str
    b: str
    what: Literal["nodes", "edges"]
    kind: str
    sizes: tuple[int, int]
    shared: int
    iou: float | None
    iom: float | None
    chance: float | None
    p_value: float | None


class ComparedCell(BundleModel):
    """A set of `size` parts ablated on a task: the share of the effect that is lost, null for an empty set; `random`:
    mean over random sets in its place, with the central 95%."""

    ablated: str
    on: str
    size: int
    share: float | None
    interval: Interval | None
    random: float | None
    random_interval: Interval | None


class Comparison(BundleModel):
    """What `gossamer compare` found of this circuit and others. own, other: the names of this one and of the one drawn
    beside it. cells: every circuit ablated on every task, row by row, empty where no matrix was made; parts: what two
    circuits share and what each has alone, likewise; evidence: other rows."""

    own: str
    other: str | None
    names: tuple[str, ...]
    finding: str
    overlap: tuple[ComparedOverlap, ...]
    cells: tuple[ComparedCell, ...]
    parts: tuple[ComparedCell, ...]
    evidence: tuple[EvidenceView, ...]


class EdgeScoreView(BundleModel):
    """What the weight of an edge is at grain head. `means`: in words; `needed`: the sign of an edge that the model's
    answer needs, 0 where the sign does not say; `all_edges`: how many edges the model has."""

    means: str
    needed: Literal[-1, 0, 1]
    all_edges: int


class CircuitView(BundleModel):
    """The circuit; `n_nodes` and `n_edges` must be the lengths of `nodes` and `edges`.

    Grain channel: task losses in nats; not `reached`: no circuit found meets the target on the training pairs, and this
    is the one nearest to it. Grain head: `edge_score` instead, and `faithfulness` on held-out pairs, which says whether
    it is `reached`. `effect_nulls`: per location, the rise in task loss when one random node of it outside the circuit
    is ablated in the whole model. `heldout_pairs`: how many `loss_heldout_nats` is of.
    """

    reached: bool
    target_loss_nats: float | None
    loss_train_nats: float | None
    loss_heldout_nats: float | None
    n_nodes: int
    n_edges: int
    calibration: Calibration | None
    nodes: tuple[NodeView, ...]
    edges: tuple[Edge, ...]
    carries: tuple[Carry, ...]
    faithfulness: EvidenceView | None = None
    edge_score: EdgeScoreView | None = None
    effect_nulls: dict[str, NullView] = {}
    heldout_pairs: int | None = None

    @model_validator(mode="after")
    def _closed(self) -> CircuitView:
        """Every count and every end of a link must agree with what is drawn; all problems are reported at once."""
        sites = [node.site for node in self.nodes]
        known = set(sites)
        problems = []
        if len(known) != len(sites):
            problems.append(f"sites must be unique, but {len(sites) - len(known)} repeat")
        if self.n_nodes != len(self.nodes):
            problems.append(f"n_nodes is {self.n_nodes} but {len(self.nodes)} nodes are listed")
        if self.n_edges != len(self.edges):
            problems.append(f"n_edges is {self.n_edges} but {len(self.edges)} edges are listed")
        links: tuple[Edge | Carry, ...] = (*self.edges, *self.carries)
        loose = sorted({end for link in links for end in (link.src, link.dst)} - known)
        if loose:
            problems.append(f"links end at sites that are not nodes: {', '.join(loose[:5])} ({len(loose)} in all)")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class CurvePoint(BundleModel):
    """The circuit cut at another size from the same scores; task loss in nats."""

    nodes: int
    edges: int
    loss_nats: float


class PageArray(BundleModel):
    """An array that travels in the page: row-major, little-endian, in base64."""

    name: str
    dtype: Literal["float32", "int32", "uint32", "uint16", "uint8", "int8"]
    shape: tuple[int, ...]
    base64: str


class PageConfig(BundleModel):
    """Shape of a weight-sparse transformer (models/sparse.py). `kept`: how many channels AbsTopK keeps, by place."""

    vocab_size: int
    n_ctx: int
    n_layer: int
    d_model: int
    d_pos: int
    n_head: int
    d_head: int
    d_mlp: int
    kept: dict[str, int]
    activation: Literal["gelu", "relu"]
    position: Literal["none", "additive", "channels"]
    bias: bool


class PageTokenizer(BundleModel):
    """Byte-level BPE. `pattern` cuts a text into words; `vocab`: tokens by id, in the bytes' printable alphabet,
    `special` ones as they are; `merges`: pairs of ids, the first merged first; `bos` is put before every prompt."""

    pattern: str
    vocab: tuple[str, ...]
    special: tuple[int, ...]
    merges: tuple[tuple[int, int], ...]
    bos: int | None


class PageModel(BundleModel):
    """A whole weight-sparse model that runs in the page.

    `arrays`: the weights under the names and in the forms of a model folder (models/files.py: a matrix that is mostly
    zero as `.row_counts`, `.columns` and `.values`), and the reference means as `mean.LOCATION`.
    """

    config: PageConfig
    tokenizer: PageTokenizer
    arrays: tuple[PageArray, ...]


class Bundle(BundleModel):
    """Everything one page draws. Read with `Bundle.model_validate_json`, or from a file with `read_bundle`.

    `cuts` is the largest cut of the curve that can be drawn, its nodes from the best score on: a cut to n nodes has the
    first n. `other` is the circuit that this one is compared with. Fields with a default came after the first files of
    this format version: a file without them is of grain channel.
    `comparison`: what a comparison with it and others in it found.
    `live`: the model itself, null where it does not travel (commands/page_model.py).
    """

    format_version: Literal[1]
    title: str
    gossamer_version: str
    task: TaskView
    model: ModelView
    circuit: CircuitView
    twin: Twin | None
    evidence: tuple[EvidenceView, ...]
    curve: tuple[CurvePoint, ...]
    record: Annotated[dict[str, JsonValue], Field(description="free nested JSON: the run's provenance")]
    grain: Grain = "channel"
    cuts: Outline | None = None
    other: OtherCircuit | None = None
    live: PageModel | None = None
    comparison: Comparison | None = None

    @model_validator(mode="after")
    def _of_one_grain(self) -> Bundle:
        """Numbers that the view of a grain cannot do without must be there."""
        c = self.circuit
        wanted: dict[str, object] = (
            {"faithfulness": c.faithfulness, "edge_score": c.edge_score} if self.grain == "head"
            else {n: getattr(c, n) for n in ("target_loss_nats", "loss_train_nats", "loss_heldout_nats")}
        )  # fmt: skip
        problems = [f"circuit.{name} is null" for name, value in wanted.items() if value is None]
        odd = [n.site for n in c.nodes if (n.kind == "channel") != (self.grain == "channel")]
        if odd:
            problems.append(f"{len(odd)} nodes are of another grain, the first is {odd[0]}")
        if self.grain == "channel" and any(e.weight is None for e in c.edges):
            problems.append("an edge has no weight")
        if problems:
            raise ValueError(f"at grain {self.grain}: {'; '.join(problems)}")
        return self


def read_bundle(path: Path) -> Bundle:
    """Read and check `bundle.json`, or the bundle in a page; raises CorruptFile that names every wrong field."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        found = re.search(f'id="{BUNDLE_ID}">(.*?)</script>', content, re.DOTALL)
        if found is None:
            raise CorruptFile(f"{path} holds no bundle: expected a page that `gossamer show` wrote.")
        content = found.group(1)
    try:
        return Bundle.model_validate_json(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors()]
        more = f" (and {len(wrong) - 8} more)" if len(wrong) > 8 else ""
        raise CorruptFile(
            f"{path} is not a bundle of format version {FORMAT_VERSION}: {'; '.join(wrong[:8])}{more}. "
            "Write it again from the run with this version of Gossamer."
        ) from error
