// Where everything goes between heads and MLPs. Layers run from top to bottom; in a layer the heads stand in a row, those
// that share keys and values in one frame with them, and the MLP below in a column of its own. Pure geometry: no DOM.

import type { Bundle, NodeView } from "./bundle";
import { shorten, visible } from "./dom";
import type { Drawing } from "./fold";
import { sizeOf } from "./index";
import { chunk, LABELS, plateWidth, sideBySide, superSpot, type BlockBand, type Box, type HeadBox, type Layout, type RowBand, type Spot } from "./layout";
import { placeOf } from "./sites";

const PART = { width: 44, height: 24 };
const MLP_WIDTH = 60;
/** How far ports stand out of the top of their node. */
export const PORT = { width: 14, height: 12 };
const GAP = 8;
const FRAME_GAP = 16;
const FRAME_PAD = 8;
const LINE = 78;
const WIDEST = 1500;
const SWEEPS = 16;

/** A head alone, or the heads of a group with their keys and values. */
interface Frame extends Box {
  readonly sites: string[];
  readonly layer: number;
  readonly shared: boolean;
}

const READS: Record<NodeView["kind"], string[]> = {
  channel: [], input: [], logits: [], mlp: [], head: ["q", "k", "v"], kv_group: ["k", "v"],
};

function textOf(node: NodeView, bundle: Bundle): string {
  const example = bundle.task.examples[0];
  if (node.kind === "input") return example ? shorten(visible(example.clean), 64) : "prompt";
  if (node.kind === "logits") return example ? `${visible(example.answer).trim()}   rather than   ${visible(example.wrong_answer).trim()}` : "answer";
  return node.kind === "mlp" ? "MLP" : `${node.kind === "head" ? "h" : "g"}${node.index}`;
}

function spotOf(node: NodeView, bundle: Bundle): Spot {
  const text = textOf(node, bundle);
  const end = node.kind === "input" || node.kind === "logits";
  const width = end ? plateWidth(text) : node.kind === "mlp" ? MLP_WIDTH : PART.width;
  const reads = node.kind === "head" && bundle.model.n_group !== null ? ["q"] : READS[node.kind];
  const ports = reads.map((matrix, i) => ({ matrix, dx: (i - (reads.length - 1) / 2) * PORT.width }));
  return { node, place: placeOf(node), x: 0, y: 0, width, height: end ? 30 : PART.height, shape: end ? "end" : "part", text, ports, folded: null };
}

/** Heads of one group stand together: the group first, then its heads. */
function framesOf({ bundle, nodes, supers }: Drawing): Frame[] {
  const { n_group, n_head } = bundle.model;
  const perGroup = n_group === null ? 1 : n_head / n_group;
  const frames = new Map<string, Frame>();
  const inOrder = nodes
    .filter((node) => !supers.has(node.site) && (node.kind === "head" || node.kind === "kv_group"))
    .sort((a, b) => (a.layer as number) - (b.layer as number) || Number(a.kind === "head") - Number(b.kind === "head") || a.index - b.index);
  for (const node of inOrder) {
    const group = node.kind === "head" ? Math.floor(node.index / perGroup) : node.index;
    const key = `${node.layer}|${group}`;
    const frame = frames.get(key) ?? { sites: [], layer: node.layer as number, shared: n_group !== null, width: 0, x: 0 };
    const sites = [...frame.sites, node.site];
    const width = sites.length * PART.width + (sites.length - 1) * GAP + (frame.shared ? 2 * FRAME_PAD : 0);
    frames.set(key, { ...frame, sites, width });
  }
  for (const one of supers.values()) {
    frames.set(one.key, { sites: [one.key], layer: one.node.layer as number, shared: false, width: superSpot(one).width, x: 0 });
  }
  return [...frames.values()];
}

/** Frames of a layer beside each other, each near those of other layers that it is joined to; ties stay by number. */
function arrange(edges: Drawing["edges"], frames: Frame[]): void {
  const owner = new Map(frames.flatMap((frame) => frame.sites.map((site) => [site, frame] as const)));
  const ties = new Map<Frame, [Frame, number][]>(frames.map((frame) => [frame, []]));
  for (const { edge, bundle } of edges) {
    const [a, b] = [owner.get(edge.src), owner.get(edge.dst)];
    if (!a || !b) continue;
    const weight = Math.sqrt(bundle ? bundle.size : sizeOf(edge)) + 1e-6;
    (ties.get(a) as [Frame, number][]).push([b, weight]);
    (ties.get(b) as [Frame, number][]).push([a, weight]);
  }
  const layers = [...new Set(frames.map((frame) => frame.layer))].sort((a, b) => a - b);
  const rows = layers.map((layer) => frames.filter((frame) => frame.layer === layer));
  const settle = (row: Frame[]): void => {
    sideBySide(row, FRAME_GAP);
    const mean = row.reduce((t, frame) => t + frame.x, 0) / row.length;
    for (const frame of row) frame.x -= mean; // a row keeps to the middle
  };
  rows.forEach(settle);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const row of sweep % 2 ? [...rows].reverse() : rows) {
      for (const frame of row) {
        const near = ties.get(frame) as [Frame, number][];
        const total = near.reduce((t, [, weight]) => t + weight, 0);
        if (total > 0) frame.x = near.reduce((t, [other, weight]) => t + weight * other.x, 0) / total;
      }
      row.sort((a, b) => a.x - b.x);
      settle(row);
    }
  }
}

export function headLayout(drawing: Drawing): Layout {
  const { bundle, nodes, supers, edges } = drawing;
  const spots = new Map<string, Spot>(nodes.map((node) => {
    const folded = supers.get(node.site);
    return [node.site, folded ? superSpot(folded) : spotOf(node, bundle)];
  }));
  const frames = framesOf(drawing);
  arrange(edges, frames);

  const into = new Map<number, number>();
  for (const { edge } of edges) {
    const layer = spots.get(edge.dst)?.node.layer ?? -1;
    into.set(layer, (into.get(layer) ?? 0) + 1);
  }
  const heads: HeadBox[] = [];
  const bands: RowBand[] = [];
  const blocks: BlockBand[] = [];
  const rows: string[][] = [];
  const top = 26;
  const input = spots.get("input");
  if (input) {
    input.y = top;
    rows.push(["input"]);
  }
  let y = top;
  const layers = [...new Set(nodes.flatMap((node) => (node.layer === null ? [] : [node.layer])))].sort((a, b) => a - b);
  for (const layer of layers) {
    const here = frames.filter((frame) => frame.layer === layer).sort((a, b) => a.x - b.x);
    const mlp = spots.get(`m${layer}`);
    y += 84 + Math.min(40, 5 * Math.sqrt(into.get(layer) ?? 0));
    const start = y - PART.height / 2 - PORT.height - 16;
    const lines = Math.max(1, Math.ceil(here.reduce((t, frame) => t + frame.width + FRAME_GAP, 0) / WIDEST));
    if (here.length) {
      chunk(here, lines).forEach((line, k) => {
        if (lines > 1) sideBySide(line, FRAME_GAP);
        for (const frame of line) placeFrame(frame, y + k * LINE, spots, heads);
        rows.push(line.flatMap((frame) => frame.sites));
      });
      const whole = here.every((frame) => supers.get(frame.sites[0] as string)?.what === "layer");
      bands.push({ label: whole ? "" : "heads", part: whole ? null : `${layer}.heads`, y: y + ((lines - 1) * LINE) / 2 });
      y += (lines - 1) * LINE;
    }
    if (mlp) {
      if (here.length) y += 54;
      mlp.y = y;
      bands.push({ label: "MLP", part: null, y });
      rows.push([mlp.node.site]);
    }
    const kept = bundle.circuit.nodes.filter((node) => node.kind === "head" && node.layer === layer).length;
    const subtitle = here.length ? `${kept} of ${bundle.model.n_head}` : "";
    blocks.push({ layer: `layer ${layer}`, title: `Layer ${layer}`, subtitle, y: start, height: y + PART.height / 2 + 14 - start });
  }
  const logits = spots.get("logits");
  y += 96;
  if (logits) {
    logits.y = y;
    rows.push(["logits"]);
  }

  const placed = [...spots.values()].filter((spot) => spot.shape === "super" || (spot.shape === "part" && spot.node.kind !== "mlp"));
  let lo = Math.min(0, ...placed.map((spot) => spot.x - spot.width / 2 - FRAME_PAD));
  let hi = Math.max(0, ...placed.map((spot) => spot.x + spot.width / 2 + FRAME_PAD));
  const mlps = [...spots.values()].filter((spot) => spot.node.kind === "mlp" && !spot.folded);
  const column = hi + 56 + MLP_WIDTH / 2;
  for (const spot of mlps) spot.x = column;
  if (mlps.length) hi = column + MLP_WIDTH / 2 + 62; // edges along the column bow out to its right
  const ends = [input, logits].filter((spot) => spot !== undefined);
  const missing = Math.max(420, ...ends.map((spot) => spot.width)) + 40 - (hi - lo);
  if (missing > 0) [lo, hi] = [lo - missing / 2, hi + missing / 2];
  const pad = 22;
  const shift = LABELS + pad - lo;
  for (const spot of spots.values()) spot.x += shift;
  const width = LABELS + 2 * pad + (hi - lo);
  const centre = LABELS + (width - LABELS) / 2;
  for (const spot of ends) spot.x = centre;
  return {
    spots, rows, bands, blocks, roots: [],
    heads: heads.map((box) => ({ ...box, x: box.x + shift })),
    tokens: { x: centre, y: top },
    answer: { x: centre, y },
    left: LABELS,
    width: width + 14,
    height: y + 26,
  };
}

function placeFrame(frame: Frame, y: number, spots: Map<string, Spot>, heads: HeadBox[]): void {
  const left = frame.x - frame.width / 2;
  if (frame.shared) {
    const up = PART.height / 2 + PORT.height + 4;
    heads.push({ label: "", part: null, x: left, y: y - up, width: frame.width, height: up + PART.height / 2 + 7 });
  }
  if (!frame.shared && frame.sites.length === 1) return void Object.assign(spots.get(frame.sites[0] as string) as Spot, { x: frame.x, y });
  const first = left + (frame.shared ? FRAME_PAD : 0) + PART.width / 2;
  frame.sites.forEach((site, i) => Object.assign(spots.get(site) as Spot, { x: first + i * (PART.width + GAP), y }));
}
