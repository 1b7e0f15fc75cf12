// The circuit as an attribution-graph JSON of Neuronpedia and circuit-tracer; gossamer.formats.neuronpedia reads it.

import type { Bundle, Edge, NodeView } from "./bundle";
import { Tokenizer } from "./tokenizer";

const PER_LOCATION = 1_000_000;

interface GraphNode {
  readonly node_id: string;
  readonly [key: string]: unknown;
}

/** (layer, number in it): between heads as formats/neuronpedia.py has it; of channels, location by location. */
function address(bundle: Bundle, node: NodeView, parts: ReadonlyArray<string>): [layer: string, feature: number] {
  const { n_layer, n_head, n_group } = bundle.model;
  if (node.kind === "channel") {
    const part = parts.indexOf(node.location.replace(/^\d+\./, ""));
    return [String(node.layer ?? n_layer), part * PER_LOCATION + node.index];
  }
  if (node.kind === "input") return ["E", 0];
  if (node.kind === "logits") return [String(n_layer + 1), 0];
  const layer = String(node.layer);
  if (node.kind === "mlp") return [layer, n_head + (n_group ?? 0)];
  return [layer, node.index + (node.kind === "kv_group" ? n_head : 0)];
}

const TYPES: Record<NodeView["kind"], string> = {
  channel: "channel", input: "embedding", logits: "logit", head: "attention head", kv_group: "key-value group", mlp: "mlp",
};

/** Of the first example, as the model reads it; without the model in the page there is no tokenizer: one token. */
function tokensOf({ live, task }: Bundle): string[] {
  const prompt = task.examples[0]?.clean ?? task.name;
  if (!live) return [prompt];
  const tokenizer = new Tokenizer(live.tokenizer);
  return [...(tokenizer.bos === null ? [] : [tokenizer.bos]), ...tokenizer.encode(prompt)].map((id) => tokenizer.decode(id));
}

export function attributionGraph(bundle: Bundle): object {
  const { circuit, task, model } = bundle;
  const tokens = tokensOf(bundle);
  const last = tokens.length - 1;
  const parts = [...new Set(circuit.nodes.filter((n) => n.kind === "channel").map((n) => n.location.replace(/^\d+\./, "")))].sort();
  const id = new Map<string, string>();
  const nodes: GraphNode[] = circuit.nodes.map((node) => {
    const [layer, feature] = address(bundle, node, parts);
    id.set(node.site, `${layer}_${feature}_${last}`);
    return {
      node_id: `${layer}_${feature}_${last}`, feature, layer, ctx_idx: last, feature_type: TYPES[node.kind], token_prob: 0,
      is_target_logit: node.kind === "logits", run_idx: 0, reverse_ctx_idx: 0,
      jsNodeId: `${layer}_${feature}-${last}`, clerp: node.site, influence: node.ablation_effect_nats, activation: null,
    };
  });
  const links = new Map<string, { src: string; dst: string; edges: Edge[] }>();
  for (const edge of circuit.edges) {
    const key = `${edge.src} ${edge.dst}`;
    const link = links.get(key) ?? { src: edge.src, dst: edge.dst, edges: [] };
    link.edges.push(edge);
    links.set(key, link);
  }
  for (const { src, dst } of circuit.carries) if (!links.has(`${src} ${dst}`)) links.set(`${src} ${dst}`, { src, dst, edges: [] });
  return {
    metadata: {
      slug: task.name, scan: model.name, transcoder_list: [], prompt_tokens: tokens, prompt: tokens.join(""), schema_version: 1,
      info: { description: `${circuit.n_edges} edges; links without reads are carried, not edges`, generator: { name: "gossamer", version: bundle.gossamer_version } },
      gossamer: bundle.record,
    },
    qParams: { pinnedIds: [], supernodes: [], linkType: "both", clickedId: "", sg_pos: "" },
    nodes,
    links: [...links.values()].map(({ src, dst, edges }) => ({
      source: id.get(src), target: id.get(dst), weight: edges.reduce((sum, e) => sum + (e.weight ?? 0), 0),
      reads: Object.fromEntries(edges.map((e) => [e.matrix, e.weight])),
    })),
  };
}
