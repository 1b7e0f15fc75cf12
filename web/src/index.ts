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
  readonly largestEffect: number;
  /** Nodes by ablation effect, largest first; nodes without one are left out. */
  readonly ranked: NodeView[];
  feeds(site: string): Link[];
  fedBy(site: string): Link[];
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
  const edges = [...circuit.edges].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  for (const edge of edges) {
    add(out, edge.src, edge.dst, edge);
    add(into, edge.dst, edge.src, edge);
  }
  for (const carry of circuit.carries) {
    add(out, carry.src, carry.dst, null);
    add(into, carry.dst, carry.src, null);
  }
  const ranked = circuit.nodes
    .filter((node) => node.ablation_effect_nats !== null)
    .sort((a, b) => (b.ablation_effect_nats as number) - (a.ablation_effect_nats as number));
  return {
    bundle,
    nodes,
    edges,
    carries: circuit.carries,
    largestWeight: Math.max(1e-9, ...edges.slice(0, 1).map((e) => Math.abs(e.weight))),
    largestEffect: Math.max(1e-9, ranked[0]?.ablation_effect_nats ?? 0),
    ranked,
    feeds: (site) => out.get(site) ?? [],
    fedBy: (site) => into.get(site) ?? [],
  };
}
