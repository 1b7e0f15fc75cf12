// Words for sites: where a channel-grain location lies in the drawing and how a person would say it.

import type { NodeView } from "./bundle";

/** The rows of one layer from top to bottom; q, k and v share one row of head boxes. */
const PARTS: Record<string, { order: number; row: string; short: string; noun: string }> = {
  "attn.act_in": { order: 0, row: "reads", short: "", noun: "channel read by attention" },
  "attn.q": { order: 1, row: "heads", short: "q", noun: "query channel" },
  "attn.k": { order: 1, row: "heads", short: "k", noun: "key channel" },
  "attn.v": { order: 1, row: "heads", short: "v", noun: "value channel" },
  "attn.resid_delta": { order: 2, row: "writes", short: "", noun: "channel written by attention" },
  "mlp.act_in": { order: 3, row: "reads", short: "", noun: "channel read by the MLP" },
  "mlp.post_act": { order: 4, row: "neurons", short: "", noun: "neuron" },
  "mlp.resid_delta": { order: 5, row: "writes", short: "", noun: "channel written by the MLP" },
};

export interface Place {
  /** Sort key of the row, and the key itself as text. */
  readonly row: number;
  readonly rowName: string;
  /** `attn`, `mlp`, `final` or `other`. */
  readonly block: string;
  readonly layer: number | null;
  /** `q`, `k`, `v` or nothing. */
  readonly short: string;
  /** Nodes of the residual stream share one column per channel. */
  readonly residual: boolean;
}

export function partOf(location: string): string {
  return location.replace(/^\d+\./, "");
}

export function placeOf(node: NodeView): Place {
  if (node.kind !== "channel") {
    const row = node.layer === null ? (node.kind === "input" ? -1 : 1e9) : node.layer * 10 + (node.kind === "mlp" ? 1 : 0);
    return { row, rowName: node.kind === "mlp" ? "MLP" : "heads", block: "layer", layer: node.layer, short: "", residual: false };
  }
  if (node.location === "final_resid") {
    return { row: 1e9, rowName: "final", block: "final", layer: null, short: "", residual: true };
  }
  const part = partOf(node.location);
  const known = PARTS[part];
  const layer = node.layer ?? 0;
  return {
    row: layer * 10 + (known?.order ?? 8),
    rowName: known?.row ?? part,
    block: known ? (part.split(".")[0] ?? "other") : "other",
    layer: node.layer,
    short: known?.short ?? "",
    residual: part.endsWith("act_in") || part.endsWith("resid_delta"),
  };
}

const NOUNS: Record<Exclude<NodeView["kind"], "channel">, string> = {
  input: "embeddings of the tokens", logits: "logits of the answer", head: "attention head", mlp: "MLP",
  kv_group: "keys and values of group",
};

/** Between heads and MLPs: `attention head 1, layer 5`. */
function describePart(node: NodeView, kind: Exclude<NodeView["kind"], "channel">): string {
  if (node.layer === null) return NOUNS[kind];
  return `${NOUNS[kind]}${kind === "mlp" ? "" : ` ${node.index}`}, layer ${node.layer}`;
}

/** `neuron 863, layer 0`; `value channel 80, head 5, layer 1`. */
export function describe(node: NodeView): string {
  if (node.kind !== "channel") return describePart(node, node.kind);
  if (node.location === "final_resid") return `channel ${node.index} of the final residual stream`;
  const noun = PARTS[partOf(node.location)]?.noun ?? partOf(node.location);
  const words = noun.split(" ");
  const named = words[0] === "channel" ? `channel ${node.index} ${words.slice(1).join(" ")}` : `${noun} ${node.index}`;
  const head = node.head === null ? "" : `, head ${node.head}`;
  return `${named}${head}, layer ${node.layer ?? "?"}`;
}

/** The place of a node, for many of it: `neurons, layer 3`; `head 5, layer 1`. */
export function partName(node: NodeView): string {
  const { layer, rowName, short, block } = placeOf(node);
  if (layer === null) return "channels of the final residual stream";
  const name = short ? (node.head === null ? "head" : `head ${node.head}`) : rowName === "reads" || rowName === "writes" ? `${rowName} of ${block === "mlp" ? "the MLP" : "attention"}` : rowName;
  return `${name}, layer ${layer}`;
}
