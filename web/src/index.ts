// Look-ups over a bundle, made once.

import type { Bundle, Carry, Edge, NodeView } from "./bundle";

export interface Link {
  readonly other: NodeView;
  /** Null for a carry. */
  readonly edge: Edge | null;
}

export interface Index {
  readonly bundle: Bundle;
  readonly nodes: Map<string, NodeView>;
  /** Edges from the strongest to the weakest. */
  readonly edges: Edge[];
  readonly carries: ReadonlyArray<Carry>;
  readonly largestWeight: number;
  /** How much a node matters: its ablation effect in nats or, between heads and MLPs, |score| over its edges. */
  matter(node: NodeView): number | null;
  readonly largestMatter: number;
  /** Nodes by how much they matter, largest first; nodes without a number, and the two ends, are left out. */
  readonly ranked: NodeView[];
  feeds(site: string): Link[];
  fedBy(site: string): Link[];
}

/** A number that the schema promises at this grain. */
export function given(value: number | null): number {
  if (value === null) throw new Error("a number of the bundle is missing");
  return value;
}

export type Tone = "up" | "down" | "flat" | "sum";

/** How an edge is drawn: `sum` a bundle of edges; `up` solid with an arrow, `down` dashed with a bar, `flat` where it has no weight. Between heads
 * and MLPs an edge that the answer needs is solid, whichever sign that is. */
export function toneOf(bundle: Bundle, weight: number | null): Tone {
  if (weight === null) return "flat";
  const solid = bundle.circuit.edge_score?.needed === -1 ? weight < 0 : weight >= 0;
  return solid ? "up" : "down";
}

/** The size of an edge's weight; 0 without one. */
export function sizeOf(edge: Edge): number {
  return Math.abs(edge.weight ?? 0);
}

/** |score| over a node's edges, in and out; null at grain channel and for the input and the logits. */
function strengthOf(node: NodeView): number | null {
  if (node.kind === "input" || node.kind === "logits" || node.score_in === null) return null;
  return node.score_in + (node.score_out ?? 0);
}

export function indexOf(bundle: Bundle): Index {
  const { circuit } = bundle;
  const nodes = new Map(circuit.nodes.map((node) => [node.site, node] as const));
  const out = new Map<string, Link[]>();
  const into = new Map<string, Link[]>();
  const add = (map: Map<string, Link[]>, at: string, other: string, edge: Edge | null): void => {
    const node = nodes.get(other);
    if (!node) return;
    const list = map.get(at);
    if (list) list.push({ other: node, edge });
    else map.set(at, [{ other: node, edge }]);
  };
  const edges = [...circuit.edges].sort((a, b) => sizeOf(b) - sizeOf(a));
  for (const edge of edges) {
    add(out, edge.src, edge.dst, edge);
    add(into, edge.dst, edge.src, edge);
  }
  for (const carry of circuit.carries) {
    add(out, carry.src, carry.dst, null);
    add(into, carry.dst, carry.src, null);
  }
  const matter = (node: NodeView): number | null => (bundle.grain === "head" ? strengthOf(node) : node.ablation_effect_nats);
  const ranked = circuit.nodes
    .filter((node) => matter(node) !== null)
    .sort((a, b) => (matter(b) as number) - (matter(a) as number));
  return {
    bundle,
    nodes,
    edges,
    carries: circuit.carries,
    largestWeight: Math.max(1e-9, ...edges.slice(0, 1).map(sizeOf)),
    matter,
    largestMatter: Math.max(1e-9, ranked[0] ? (matter(ranked[0]) as number) : 0),
    ranked,
    feeds: (site) => out.get(site) ?? [],
    fedBy: (site) => into.get(site) ?? [],
  };
}
