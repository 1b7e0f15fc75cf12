// What is drawn alone and what is drawn together. The nodes of one place (a head, or a row of a layer) or of a whole layer
// can be folded into one super-node, and edges to it become one bundle. Pure data: no geometry, no DOM.

import type { Bundle, Carry, Edge, NodeView } from "./bundle";
import { count, num, plural } from "./dom";
import { sizeOf, type Index } from "./index";
import { partName, placeOf } from "./sites";

/** A circuit larger than this opens folded: only the ends of the strongest edges are drawn alone. */
const OPENS_FOLDED = { nodes: 800, edges: 6000 };

/** A sum over edges: how many, and their |weight|. */
export interface Sum {
  n: number;
  size: number;
}

export interface Super {
  readonly key: string;
  readonly what: "part" | "layer";
  readonly members: NodeView[];
  /** Whether other nodes of the same place are drawn alone beside it. */
  readonly partial: boolean;
  readonly inside: Sum;
  readonly into: Sum;
  readonly out: Sum;
  /** A node that stands for it in the layout; its site is the key. */
  readonly node: NodeView;
}

/** An edge as it is drawn: one of the circuit's, or a bundle of those that end in super-nodes. */
export interface Drawn {
  readonly edge: Edge;
  /** Its place among all edges, strongest first; null for a bundle, which has a number of edges and a sum instead. */
  readonly rank: number | null;
  readonly bundle: Sum | null;
  /** A bundle that is drawn without being asked for. */
  readonly always: boolean;
}

export interface Drawing {
  readonly bundle: Bundle;
  readonly nodes: NodeView[];
  readonly supers: ReadonlyMap<string, Super>;
  /** Edges from the strongest to the weakest, then bundles. */
  readonly edges: Drawn[];
  readonly carries: Carry[];
  /** Where a site is drawn: itself, or its super-node. */
  at(site: string): string;
}

export interface Folding {
  /** Places whose nodes are all drawn although the circuit opened folded; `*` for all of them. */
  readonly open: Set<string>;
  /** Places and layers that the reader folded. */
  readonly shut: Set<string>;
  /** Sites drawn alone whatever is folded: pinned, or asked for. */
  readonly alone: Set<string>;
}

export function opensFolded(index: Index): boolean {
  return index.nodes.size > OPENS_FOLDED.nodes || index.edges.length > OPENS_FOLDED.edges;
}

/** The place a node can be folded into: `3.h5`, `3.mlp.post_act`, `3.heads`; null for what stands alone anyway. */
export function partOfNode(node: NodeView): string | null {
  if (node.kind === "head" || node.kind === "kv_group") return `${node.layer}.heads`;
  if (node.kind !== "channel") return null;
  return placeOf(node).short ? `${node.layer}.h${node.head ?? ""}` : node.location;
}

export function layerOfNode(node: NodeView): string | null {
  return node.layer === null ? null : `layer ${node.layer}`;
}

/** The rank of the strongest edge at each site that has one. */
function bestRanks(index: Index): Map<string, number> {
  const best = new Map<string, number>();
  index.edges.forEach((edge, rank) => {
    for (const site of [edge.src, edge.dst]) if (!best.has(site)) best.set(site, rank);
  });
  return best;
}

const ranksOf = new WeakMap<Index, Map<string, number>>();

/** The super-node a node falls into, or null if it is drawn alone. `busy`: places and layers with a node that is not idle. */
function homeOf(node: NodeView, folding: Folding, idle: boolean, busy: ReadonlySet<string>): string | null {
  if (folding.alone.has(node.site)) return null;
  const { shut } = folding;
  const open = { has: (key: string): boolean => folding.open.has(key) || folding.open.has("*") };
  const [layer, part, row] = [layerOfNode(node), partOfNode(node), rowOfHeads(node)];
  if (layer && (shut.has(layer) || (idle && !busy.has(layer) && !open.has(layer)))) return layer;
  if (!part) return null;
  if (row && !shut.has(part) && idle && !busy.has(part) && !open.has(row) && !open.has(part)) return row;
  return shut.has(part) || (idle && !open.has(part)) ? part : null;
}

/** The heads of a layer, for a channel of one of them: idle heads are one super-node. */
function rowOfHeads(node: NodeView): string | null {
  return node.kind === "channel" && placeOf(node).short ? `${node.layer}.heads` : null;
}

function superOf(key: string, members: NodeView[], partial: boolean): Super {
  const first = members[0] as NodeView;
  const what = key.startsWith("layer ") ? "layer" : "part";
  const node: NodeView = {
    ...first, site: key, index: 1e9, ablation_effect_nats: null, mean: null, mean_on_answer: null, direct_logit: null,
    top_tokens_in: [], top_tokens_out: [], examples: [], task_examples: [], score_in: null, score_out: null,
  };
  return { key, what, members, partial, node, inside: { n: 0, size: 0 }, into: { n: 0, size: 0 }, out: { n: 0, size: 0 } };
}

/** Whether it stands in the frame of a head. */
export function inHead({ node, key }: Super): boolean {
  return key === partOfNode(node) && rowOfHeads(node) !== null;
}

export function fold(index: Index, folding: Folding, strongest: number): Drawing {
  const { bundle } = index;
  const large = opensFolded(index);
  let ranks = ranksOf.get(index);
  if (!ranks) ranksOf.set(index, (ranks = bestRanks(index)));
  const homes = new Map<string, NodeView[]>();
  const aloneIn = new Set<string | null>();
  const home = new Map<string, string>();
  const isIdle = (site: string): boolean => large && strongest < index.edges.length && (ranks?.get(site) ?? Infinity) >= strongest;
  const busy = new Set<string>();
  for (const node of bundle.circuit.nodes) {
    if (isIdle(node.site) && !folding.alone.has(node.site)) continue;
    for (const key of [partOfNode(node), layerOfNode(node)]) if (key !== null) busy.add(key);
  }
  for (const node of bundle.circuit.nodes) {
    const key = homeOf(node, folding, isIdle(node.site), busy);
    if (key === null || key === partOfNode(node)) aloneIn.add(rowOfHeads(node)); // a head of its own in the row
    if (key === null) aloneIn.add(partOfNode(node));
    else {
      home.set(node.site, key);
      const list = homes.get(key);
      if (list) list.push(node);
      else homes.set(key, [node]);
    }
  }
  const supers = new Map<string, Super>();
  for (const [key, members] of homes) {
    if (members.length > 1) supers.set(key, superOf(key, members, aloneIn.has(key)));
    else home.delete((members[0] as NodeView).site); // one node is no group
  }
  const at = (site: string): string => home.get(site) ?? site;
  const edges: Drawn[] = [];
  const bundles = new Map<string, Drawn & { bundle: Sum }>();
  index.edges.forEach((edge, rank) => {
    const [src, dst] = [at(edge.src), at(edge.dst)];
    const [a, b] = [supers.get(src), supers.get(dst)];
    if (!a && !b) {
      edges.push({ edge, rank, bundle: null, always: false });
      return;
    }
    const size = sizeOf(edge);
    const add = (sum: Sum): void => {
      sum.n += 1;
      sum.size += size;
    };
    if (a && a === b) return add(a.inside);
    if (a) add(a.out);
    if (b) add(b.into);
    const matrix = bundle.grain === "head" && !b ? edge.matrix : "";
    const key = `${src}|${dst}|${matrix}`;
    let one = bundles.get(key);
    if (!one) {
      // Beside nodes of its own place, a super-node is the rest: its bundles would hide what they do. The rests of rows
      // are joined to the next all the same; between heads, where every layer feeds every later one, not even those.
      const quiet = (one: Super | undefined, other: Super | undefined): boolean =>
        one !== undefined && large && !folding.shut.has(one.key) && (bundle.grain === "head" || (one.partial && (inHead(one) || !other)));
      const always = !quiet(a, b) && !quiet(b, a);
      bundles.set(key, (one = { edge: { src, dst, weight: null, matrix }, rank: null, bundle: { n: 0, size: 0 }, always }));
    }
    add(one.bundle);
  });
  const carries = new Map<string, Carry>();
  for (const carry of index.carries) {
    const [src, dst] = [at(carry.src), at(carry.dst)];
    if (src === dst || [src, dst].some((end) => supers.has(end) && large && !folding.shut.has(end))) continue;
    carries.set(`${src}|${dst}`, src === carry.src && dst === carry.dst ? carry : { src, dst });
  }
  return {
    bundle, supers, at,
    nodes: [...bundle.circuit.nodes.filter((node) => !home.has(node.site)), ...[...supers.values()].map((one) => one.node)],
    edges: [...edges, ...[...bundles.values()].sort((x, y) => y.bundle.size - x.bundle.size)],
    carries: [...carries.values()],
  };
}

/** Every node and edge of a bundle drawn alone, for a small drawing of it (compare.ts). */
export function unfolded(bundle: Bundle): Drawing {
  const { nodes, edges, carries } = bundle.circuit;
  return {
    bundle, supers: new Map(), at: (site) => site, nodes: [...nodes], carries: [...carries],
    edges: edges.map((edge, rank) => ({ edge, rank, bundle: null, always: false })),
  };
}

/** What is written on a super-node: `+120` beside others of its place, `all 12` alone, `layer 3: 45 nodes`. */
export function superText({ key, what, members, partial }: Super): string {
  if (what === "layer") return `${key}: ${plural(members.length, "node")}`;
  return `${partial ? "+" : "all "}${count(members.length)}`;
}

/** `neurons, layer 3`; `heads, layer 1`. */
function rowName({ members }: Super): string {
  const node = members[0] as NodeView;
  return rowOfHeads(node) ? `heads, layer ${node.layer}` : partName(node);
}

/** A super-node in words, with its sums. */
export function aboutSuper(one: Super, measure: "weight" | "score"): string {
  const sum = ({ n, size }: Sum): string => `${plural(n, "edge")}, sum of |${measure}| ${num(size)}`;
  const what = one.what === "layer" ? `${plural(one.members.length, "node")} of ${one.key}` : `${one.partial ? "other " : ""}${inHead(one) ? partName(one.members[0] as NodeView) : rowName(one)}: ${plural(one.members.length, "node")}`;
  return [what, `in: ${sum(one.into)}`, `out: ${sum(one.out)}`, `inside: ${sum(one.inside)}`].join("\n");
}
