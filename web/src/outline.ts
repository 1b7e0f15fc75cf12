// Circuits that the page knows as outlines only: the compared one, and cuts of the scores at other sizes. Each becomes a
// bundle of its own, so that it is drawn as the circuit is.

import type { Bundle, Carry, Edge, NodeView, OtherCircuit, Outline } from "./bundle";

const BARE = {
  ablation_effect_nats: null, mean: null, mean_on_answer: null, direct_logit: null, top_tokens_in: [], top_tokens_out: [],
  examples: [], task_examples: [], score_in: null, score_out: null, levels: [], active_share: null, histograms: [],
  direct_effect: null, model_effect_nats: null, model_edges: null,
} as const;

/** A node of which only the site is known, and of a final channel its `direct` weight to the answer. dHead: channels of a
 * head, null where not known. */
export function bareNode(site: string, dHead: number | null, direct: number | null = null): NodeView {
  const channel = /^(.+):(\d+)$/.exec(site);
  if (channel) {
    const [location, index] = [channel[1] as string, Number(channel[2])];
    const layer = /^(\d+)\./.exec(location);
    const inHead = dHead !== null && /\.attn\.[qkv]$/.test(location);
    return { ...BARE, direct_logit: direct, site, location, layer: layer ? Number(layer[1]) : null, index, head: inHead ? Math.floor(index / dHead) : null, kind: "channel" };
  }
  if (site === "input" || site === "logits") return { ...BARE, site, location: site, layer: null, index: 0, head: null, kind: site };
  const part = /^[am](\d+)(?:\.([hg])(\d+))?$/.exec(site);
  const index = Number(part?.[3] ?? 0);
  const kind = part?.[2] === "h" ? "head" : part?.[2] === "g" ? "kv_group" : "mlp";
  return { ...BARE, site, location: site, layer: Number(part?.[1] ?? 0), index, head: kind === "head" ? index : null, kind };
}

export interface Shape {
  readonly nodes: ReadonlyArray<NodeView>;
  readonly edges: ReadonlyArray<Edge>;
  readonly carries: ReadonlyArray<Carry>;
}

/** The first `size` nodes of an outline and what joins them; nodes that are `known` come with what they do. */
export function shapeOf(outline: Outline, dHead: number | null, known: ReadonlyMap<string, NodeView> | null = null, size = outline.nodes.length): Shape {
  const site = (i: number): string => outline.nodes[i] as string;
  const direct = new Map(outline.direct);
  return {
    nodes: outline.nodes.slice(0, size).map((name, i) => known?.get(name) ?? bareNode(name, dHead, direct.get(i) ?? null)),
    edges: outline.edges.filter(([a, b]) => a < size && b < size).map(([a, b, weight, matrix]) => ({ src: site(a), dst: site(b), weight, matrix: outline.matrices[matrix] as string })),
    carries: outline.carries.filter(([a, b]) => a < size && b < size).map(([a, b]) => ({ src: site(a), dst: site(b) })),
  };
}

/** The bundle with another circuit in place of its own. */
export function withShape(bundle: Bundle, { nodes, edges, carries }: Shape): Bundle {
  return { ...bundle, circuit: { ...bundle.circuit, nodes, edges, carries, n_nodes: nodes.length, n_edges: edges.length }, cuts: null, other: null };
}

/** What the compared circuit is called. */
export function nameOf(other: OtherCircuit): string {
  return other.twin ? "Dense twin" : "Other circuit";
}
