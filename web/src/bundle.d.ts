// Written by gossamer.show.typescript.write_typescript from the Python schema. Do not edit.

export type JsonValue =
  string | number | boolean | null | ReadonlyArray<JsonValue> | { readonly [key: string]: JsonValue };

export interface ExamplePair {
  readonly clean: string;
  readonly counterfactual: string;
  readonly answer: string;
  readonly wrong_answer: string;
}

export interface TaskView {
  readonly name: string;
  readonly description: string;
  readonly examples: ReadonlyArray<ExamplePair>;
}

export interface ModelView {
  readonly name: string;
  readonly n_layer: number;
  readonly d_model: number;
  readonly n_head: number;
  readonly d_head: number;
  readonly d_mlp: number | null;
  readonly vocab_size: number;
  readonly nonzero_weights: number | null;
  readonly total_weights: number;
  readonly val_loss_nats: number | null;
  readonly n_group: number | null;
}

export interface Calibration {
  readonly scale: number;
  readonly shift: number;
}

export interface Excerpt {
  readonly tokens: ReadonlyArray<string>;
  readonly activations: ReadonlyArray<number>;
  readonly position: number;
  readonly level: number | null;
}

export interface Histogram {
  readonly at: string;
  readonly low: number;
  readonly high: number;
  readonly clean: ReadonlyArray<number>;
  readonly counterfactual: ReadonlyArray<number>;
}

export interface NodeView {
  readonly site: string;
  readonly location: string;
  readonly layer: number | null;
  readonly index: number;
  readonly head: number | null;
  readonly ablation_effect_nats: number | null;
  readonly mean: number | null;
  readonly mean_on_answer: readonly [number, number] | null;
  readonly direct_logit: number | null;
  readonly top_tokens_in: ReadonlyArray<readonly [string, number]>;
  readonly top_tokens_out: ReadonlyArray<readonly [string, number]>;
  readonly examples: ReadonlyArray<Excerpt>;
  readonly task_examples: ReadonlyArray<Excerpt>;
  readonly kind: "channel" | "input" | "head" | "kv_group" | "mlp" | "logits";
  readonly score_in: number | null;
  readonly score_out: number | null;
  readonly levels: ReadonlyArray<Excerpt>;
  readonly active_share: number | null;
  readonly histograms: ReadonlyArray<Histogram>;
  readonly direct_effect: readonly [number, number] | null;
  readonly model_effect_nats: number | null;
  readonly model_edges: readonly [number, number] | null;
}

export interface Edge {
  readonly src: string;
  readonly dst: string;
  readonly weight: number | null;
  readonly matrix: string;
}

export interface Carry {
  readonly src: string;
  readonly dst: string;
}

export interface Outline {
  readonly nodes: ReadonlyArray<string>;
  readonly matrices: ReadonlyArray<string>;
  readonly edges: ReadonlyArray<readonly [number, number, number | null, number]>;
  readonly carries: ReadonlyArray<readonly [number, number]>;
  readonly direct: ReadonlyArray<readonly [number, number]>;
}

export interface Shared {
  readonly shared: number;
  readonly left: number;
  readonly right: number;
  readonly iou: number;
  readonly chance: number;
}

export interface OtherCircuit {
  readonly model: string;
  readonly task: string;
  readonly method: string;
  readonly twin: boolean;
  readonly n_layer: number;
  readonly d_head: number | null;
  readonly reached: boolean | null;
  readonly loss_heldout_nats: number | null;
  readonly outline: Outline;
  readonly nodes: Shared | null;
  readonly edges: Shared | null;
  readonly heldout_pairs: number | null;
}

export interface Twin {
  readonly name: string;
  readonly reached: boolean;
  readonly n_nodes: number;
  readonly n_edges: number;
  readonly loss_heldout_nats: number;
  readonly val_loss_nats: number | null;
}

export interface NullView {
  readonly name: string;
  readonly value: number | null;
  readonly interval: readonly [number, number] | null;
  readonly n: number | null;
  readonly outcome: "measured" | "not reached" | "not measured";
}

export interface EvidenceView {
  readonly claim: string;
  readonly value: number | null;
  readonly unit: string;
  readonly interval: readonly [number, number] | null;
  readonly n: number | null;
  readonly nulls: ReadonlyArray<NullView>;
  readonly verdict: "pass" | "fail" | "not reached" | "not measured";
  readonly methodology: { readonly [key: string]: string } | null;
  readonly threshold: string;
  readonly note: string;
}

export interface ComparedOverlap {
  readonly a: string;
  readonly b: string;
  readonly what: "nodes" | "edges";
  readonly kind: string;
  readonly sizes: readonly [number, number];
  readonly shared: number;
  readonly iou: number | null;
  readonly iom: number | null;
  readonly chance: number | null;
  readonly p_value: number | null;
}

export interface ComparedCell {
  readonly ablated: string;
  readonly on: string;
  readonly size: number;
  readonly share: number | null;
  readonly interval: readonly [number, number] | null;
  readonly random: number | null;
  readonly random_interval: readonly [number, number] | null;
}

export interface Comparison {
  readonly own: string;
  readonly other: string | null;
  readonly names: ReadonlyArray<string>;
  readonly finding: string;
  readonly overlap: ReadonlyArray<ComparedOverlap>;
  readonly cells: ReadonlyArray<ComparedCell>;
  readonly parts: ReadonlyArray<ComparedCell>;
  readonly evidence: ReadonlyArray<EvidenceView>;
}

export interface EdgeScoreView {
  readonly means: string;
  readonly needed: -1 | 0 | 1;
  readonly all_edges: number;
}

export interface CircuitView {
  readonly reached: boolean;
  readonly target_loss_nats: number | null;
  readonly loss_train_nats: number | null;
  readonly loss_heldout_nats: number | null;
  readonly n_nodes: number;
  readonly n_edges: number;
  readonly calibration: Calibration | null;
  readonly nodes: ReadonlyArray<NodeView>;
  readonly edges: ReadonlyArray<Edge>;
  readonly carries: ReadonlyArray<Carry>;
  readonly faithfulness: EvidenceView | null;
  readonly edge_score: EdgeScoreView | null;
  readonly effect_nulls: { readonly [key: string]: NullView };
  readonly heldout_pairs: number | null;
}

export interface CurvePoint {
  readonly nodes: number;
  readonly edges: number;
  readonly loss_nats: number;
}

export interface PageArray {
  readonly name: string;
  readonly dtype: "float32" | "int32" | "uint32" | "uint16" | "uint8" | "int8";
  readonly shape: ReadonlyArray<number>;
  readonly base64: string;
}

export interface PageConfig {
  readonly vocab_size: number;
  readonly n_ctx: number;
  readonly n_layer: number;
  readonly d_model: number;
  readonly d_pos: number;
  readonly n_head: number;
  readonly d_head: number;
  readonly d_mlp: number;
  readonly kept: { readonly [key: string]: number };
  readonly activation: "gelu" | "relu";
  readonly position: "none" | "additive" | "channels";
  readonly bias: boolean;
}

export interface PageTokenizer {
  readonly pattern: string;
  readonly vocab: ReadonlyArray<string>;
  readonly special: ReadonlyArray<number>;
  readonly merges: ReadonlyArray<readonly [number, number]>;
  readonly bos: number | null;
}

export interface PageModel {
  readonly config: PageConfig;
  readonly tokenizer: PageTokenizer;
  readonly arrays: ReadonlyArray<PageArray>;
}

export interface Bundle {
  readonly format_version: 1;
  readonly title: string;
  readonly gossamer_version: string;
  readonly task: TaskView;
  readonly model: ModelView;
  readonly circuit: CircuitView;
  readonly twin: Twin | null;
  readonly evidence: ReadonlyArray<EvidenceView>;
  readonly curve: ReadonlyArray<CurvePoint>;
  readonly record: { readonly [key: string]: JsonValue };
  readonly grain: "channel" | "head";
  readonly cuts: Outline | null;
  readonly other: OtherCircuit | null;
  readonly live: PageModel | null;
  readonly comparison: Comparison | null;
}

export interface Intervention {
  readonly kind: "ablate" | "clamp" | "cut";
  readonly site: string | null;
  readonly value: number | null;
  readonly src: string | null;
  readonly dst: string | null;
  readonly matrix: string | null;
}

export interface Question {
  readonly text: string;
  readonly interventions: ReadonlyArray<Intervention>;
  readonly candidates: ReadonlyArray<string>;
}

export interface TokenProbability {
  readonly token: string;
  readonly id: number;
  readonly probability: number;
}

export interface NodeTrace {
  readonly site: string;
  readonly values: ReadonlyArray<number>;
}

export interface HeadPattern {
  readonly head: string;
  readonly rows: ReadonlyArray<ReadonlyArray<number>>;
}

export interface Reading {
  readonly top: ReadonlyArray<TokenProbability>;
  readonly candidates: ReadonlyArray<number>;
  readonly traces: ReadonlyArray<NodeTrace>;
  readonly patterns: ReadonlyArray<HeadPattern>;
}

export interface Answer {
  readonly tokens: ReadonlyArray<string>;
  readonly model: Reading;
  readonly circuit: Reading;
  readonly note: string;
}
