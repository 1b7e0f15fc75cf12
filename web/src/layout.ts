// Where everything goes. Pure geometry: no DOM. Layers run from top to bottom; a channel of the residual stream keeps
// one column through all layers, so a carry is a straight vertical line; neurons and heads sit between the columns.

import type { NodeView } from "./bundle";
import { inHead, partOfNode, superText, type Drawing, type Super } from "./fold";
import { sizeOf } from "./index";
import { placeOf, type Place } from "./sites";

export const PILL = { width: 38, height: 20 };
const PITCH = 50;
const HEAD_LABEL = 46;
const HEAD_PAD = 6;
const PILL_GAP = 6;
export const LABELS = 132;
const TOP = 50;

export interface Spot {
  readonly node: NodeView;
  readonly place: Place;
  x: number;
  y: number;
  readonly width: number;
  readonly height: number;
  readonly shape: "channel" | "unit" | "part" | "end" | "super";
  /** What is written on it; null for a channel, whose index is. */
  readonly text: string | null;
  /** Where edges of a matrix enter, from the middle of the top; those of others enter there. */
  readonly ports: ReadonlyArray<{ readonly matrix: string; readonly dx: number }>;
  readonly folded: Super | null;
}

/** A super-node, to be placed. */
export function superSpot(one: Super): Spot {
  const text = superText(one);
  const place = inHead(one) ? placeOf(one.node) : { ...placeOf(one.node), short: "" };
  return {
    node: one.node, folded: one, x: 0, y: 0, width: Math.max(PILL.width, 16 + 6.6 * text.length), height: one.what === "layer" ? 30 : PILL.height + 2,
    place: one.what === "layer" ? { ...place, row: 10 * (place.layer ?? 0), rowName: "", block: "layer", short: "", residual: false } : { ...place, residual: false },
    shape: "super", text, ports: [],
  };
}

export interface HeadBox {
  readonly label: string;
  /** What a click on its label folds. */
  readonly part: string | null;
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export interface RowBand {
  readonly label: string;
  readonly part: string | null;
  readonly y: number;
}

export interface BlockBand {
  readonly layer: string | null;
  readonly title: string;
  readonly subtitle: string;
  readonly y: number;
  readonly height: number;
}

export interface Layout {
  readonly spots: Map<string, Spot>;
  /** Sites by row, left to right: the order of the arrow keys. */
  readonly rows: string[][];
  readonly heads: HeadBox[];
  readonly bands: RowBand[];
  readonly blocks: BlockBand[];
  /** Sites that read the embedding directly, and whether their line may run up to the tokens. */
  readonly roots: { readonly site: string; readonly full: boolean }[];
  readonly tokens: { readonly x: number; readonly y: number };
  readonly answer: { readonly x: number; readonly y: number };
  readonly left: number;
  readonly width: number;
  readonly height: number;
}

/** Something with a width and the place it wants to be at, then is at. */
export interface Box {
  readonly width: number;
  x: number;
}

/** Something that is placed freely in a row: one neuron, or one head with its channels. */
interface Free extends Box {
  readonly sites: string[];
  readonly row: number;
  readonly head: number | null;
}

interface Tie {
  readonly channel: number;
  readonly free: Free;
  readonly weight: number;
}

interface Order {
  readonly channels: number[];
  readonly ties: Tie[];
  readonly frees: Free[];
}

function freesOf(spots: Map<string, Spot>): { frees: Free[]; owner: Map<string, Free> } {
  const groups = new Map<string, string[]>();
  for (const [site, { node, place, folded }] of spots) {
    if (place.residual || (folded && !place.short)) continue;
    const key = place.short ? `${place.row}|${node.head ?? -1}` : `${place.row}|${site}`;
    const group = groups.get(key);
    if (group) group.push(site);
    else groups.set(key, [site]);
  }
  const frees: Free[] = [];
  const owner = new Map<string, Free>();
  for (const sites of groups.values()) {
    const spot = spots.get(sites[0] as string) as Spot;
    const inHead = spot.place.short !== "";
    if (inHead) sites.sort((a, b) => headOrder(spots, sites, a) - headOrder(spots, sites, b));
    const pills = sites.reduce((t, one) => t + (spots.get(one) as Spot).width + PILL_GAP, -PILL_GAP);
    const free: Free = {
      sites,
      row: spot.place.row,
      head: inHead ? (spot.node.head ?? -1) : null,
      width: inHead ? pills + 2 * HEAD_PAD + HEAD_LABEL : PILL.width,
      x: 0,
    };
    frees.push(free);
    for (const site of sites) owner.set(site, free);
  }
  return { frees, owner };
}

/** In a head: each query beside the key of its channel, then lone queries and keys, then values. */
function headOrder(spots: Map<string, Spot>, sites: string[], site: string): number {
  const { node, place, folded } = spots.get(site) as Spot;
  if (folded) return 1e8;
  if (place.short === "v") return 1e7 + node.index;
  const other = place.short === "q" ? "k" : "q";
  const paired = sites.some((s) => spots.get(s)?.place.short === other && spots.get(s)?.node.index === node.index);
  return (paired ? 0 : 1e6) + node.index * 2 + (place.short === "q" ? 0 : 1);
}

function pullTogether(order: Order): void {
  // Barycentre sweeps, then exchanges: both shorten the weighted length of the edges; ties end in input order.
  const { channels, ties, frees } = order;
  const at = new Map(channels.map((c, i) => [c, i] as const));
  const indexOf = <T>(items: T[]): Map<T, number> => new Map(items.map((item, i) => [item, i] as const));
  const [frontOf, freeOf] = [indexOf([...channels]), indexOf(frees)]; // ties as numbers: these sums are most of the work
  const ends = ties.map((tie) => [frontOf.get(tie.channel) as number, freeOf.get(tie.free) as number, tie.weight] as const);
  const place = new Float64Array(channels.length);
  const [sums, weights] = [new Float64Array(frees.length), new Float64Array(frees.length)];
  const settleFrees = (): void => {
    for (const [channel, i] of frontOf) place[i] = at.get(channel) as number;
    sums.fill(0);
    weights.fill(0);
    for (const [channel, free, weight] of ends) {
      sums[free] = (sums[free] as number) + weight * (place[channel] as number);
      weights[free] = (weights[free] as number) + weight;
    }
    frees.forEach((free, i) => {
      const weight = weights[i] as number;
      free.x = weight > 0 ? (sums[i] as number) / weight : (channels.length - 1) / 2;
    });
  };
  const cost = (): number => {
    settleFrees();
    let total = 0;
    for (const [channel, free, weight] of ends) total += weight * Math.abs((place[channel] as number) - (frees[free] as Free).x);
    return total;
  };
  let best = cost();
  let bestOrder = [...channels];
  const sweeps = ties.length > 20_000 ? 8 : 24; // a large figure is opened, not printed
  for (let sweep = 0; sweep < sweeps; sweep++) {
    const sum = new Map<number, [number, number]>();
    for (const tie of ties) {
      const entry = sum.get(tie.channel) ?? [0, 0];
      entry[0] += tie.weight * tie.free.x;
      entry[1] += tie.weight;
      sum.set(tie.channel, entry);
    }
    const want = new Map(
      channels.map((c) => {
        const entry = sum.get(c);
        return [c, entry ? entry[0] / entry[1] : (at.get(c) as number)] as const;
      }),
    );
    channels.sort((a, b) => (want.get(a) as number) - (want.get(b) as number) || a - b);
    channels.forEach((c, i) => at.set(c, i));
    const now = cost();
    if (now < best - 1e-9) {
      best = now;
      bestOrder = [...channels];
    }
  }
  channels.splice(0, channels.length, ...bestOrder);
  channels.forEach((c, i) => at.set(c, i));
  const work = channels.length * channels.length * ties.length;
  for (let pass = 0; pass < 5 && work < 6e6; pass++) {
    let better = false;
    for (let i = 0; i < channels.length; i++) {
      for (let j = i + 1; j < channels.length; j++) {
        const [a, b] = [channels[i] as number, channels[j] as number];
        at.set(a, j).set(b, i);
        const now = cost();
        if (now < best - 1e-9) {
          best = now;
          channels[i] = b;
          channels[j] = a;
          better = true;
        } else at.set(a, i).set(b, j);
        if (better && channels[i] !== a) break;
      }
    }
    if (!better) break;
  }
  settleFrees();
}

/** Channels whose rows do not overlap may share a column; only done where the figure would get wide. */
function columnsOf(channels: number[], span: Map<number, [number, number]>): Map<number, number> {
  const column = new Map<number, number>();
  if (channels.length <= 14) {
    channels.forEach((c, i) => column.set(c, i));
    return column;
  }
  const taken: [number, number][][] = [];
  for (const channel of channels) {
    const [lo, hi] = span.get(channel) as [number, number];
    let slot = -1;
    for (let k = Math.max(0, taken.length - 4); k < taken.length && slot < 0; k++) {
      if ((taken[k] as [number, number][]).every(([a, b]) => hi < a - 1 || lo > b + 1)) slot = k;
    }
    if (slot < 0) slot = taken.push([]) - 1;
    (taken[slot] as [number, number][]).push([lo, hi]);
    column.set(channel, slot);
  }
  return column;
}

/** Neurons into half-integer slots, in order, at the least total distance from where they want to be. */
function intoSlots(wants: number[], lo: number, hi: number): number[] {
  const spare = Math.max(0, wants.length - (hi - lo + 1));
  const first = lo - Math.ceil(spare / 2) - 0.5;
  const slots = hi - lo + 2 + spare;
  const cost: number[][] = [];
  wants.forEach((want, i) => {
    const row: number[] = [];
    let best = i === 0 ? 0 : Infinity;
    for (let k = 0; k < slots; k++) {
      if (i > 0) best = Math.min(best, k > 0 ? ((cost[i - 1] as number[])[k - 1] as number) : Infinity);
      row.push(best + Math.abs(first + k - want));
    }
    cost.push(row);
  });
  const out: number[] = new Array(wants.length);
  let end = slots;
  for (let i = wants.length - 1; i >= 0; i--) {
    let at = -1;
    for (let k = 0; k < end; k++) {
      if (at < 0 || ((cost[i] as number[])[k] as number) < ((cost[i] as number[])[at] as number)) at = k;
    }
    out[i] = first + at;
    end = at;
  }
  return out;
}

/** Boxes side by side in order, each as near as it can be to its wish (pool-adjacent-violators on the gaps). */
export function sideBySide<F extends Box>(frees: F[], gap: number): void {
  type Pool = { items: F[]; offset: number[]; want: number };
  const pools: Pool[] = [];
  for (const free of frees) {
    pools.push({ items: [free], offset: [0], want: free.x });
    while (pools.length > 1) {
      const [a, b] = [pools[pools.length - 2] as Pool, pools[pools.length - 1] as Pool];
      const last = a.items.length - 1;
      const step = (a.offset[last] as number) + ((a.items[last] as F).width + (b.items[0] as F).width) / 2 + gap;
      if (a.want + step <= b.want) break;
      const n = a.items.length + b.items.length;
      const want = (a.want * a.items.length + (b.want - step) * b.items.length) / n;
      pools.splice(pools.length - 2, 2, {
        items: [...a.items, ...b.items],
        offset: [...a.offset, ...b.offset.map((o) => o + step)],
        want,
      });
    }
  }
  for (const pool of pools) pool.items.forEach((free, i) => (free.x = pool.want + (pool.offset[i] as number)));
}

export function chunk<T>(items: T[], rows: number): T[][] {
  // Every rows-th item to a line, so that each line covers the whole width.
  return Array.from({ length: rows }, (_, r) => items.filter((_, i) => i % rows === r));
}

/** The plate of the tokens or of the answer is as wide as its text in the mono face. */
export function plateWidth(text: string): number {
  return Math.max(120, text.length * 7.3 + 28);
}

const BLOCKS: Record<string, string> = { attn: "attention", mlp: "MLP", final: "residual stream", other: "" };

export function layout({ nodes, supers, edges: drawn, carries }: Drawing): Layout {
  const edges = drawn.map(({ edge, bundle }) => ({ src: edge.src, dst: edge.dst, size: bundle ? bundle.size : sizeOf(edge) }));
  const spots = new Map<string, Spot>(nodes.map((node) => {
    const folded = supers.get(node.site);
    if (folded) return [node.site, superSpot(folded)];
    const place = placeOf(node);
    return [node.site, { node, place, x: 0, y: 0, ...PILL, shape: place.residual ? "channel" : "unit", text: null, ports: [], folded: null }];
  }));
  const { frees, owner } = freesOf(spots);

  // Order the channels.
  const channels = [...new Set([...spots.values()].filter((p) => p.place.residual).map((p) => p.node.index))].sort((a, b) => a - b);
  const ties: Tie[] = [];
  for (const edge of edges) {
    const [a, b] = [spots.get(edge.src), spots.get(edge.dst)];
    if (!a || !b || a.place.residual === b.place.residual) continue; // super-nodes of rows keep to their own column
    const [channel, free] = a.place.residual ? [a, owner.get(edge.dst)] : [b, owner.get(edge.src)];
    if (free) ties.push({ channel: channel.node.index, free, weight: Math.sqrt(edge.size) + 0.05 });
  }
  pullTogether({ channels, ties, frees });

  // Rows and the columns they share.
  const rowKeys = [...new Set([...spots.values()].map((p) => p.place.row))].sort((a, b) => a - b);
  const span = new Map<number, [number, number]>();
  for (const { node, place } of spots.values()) {
    if (!place.residual) continue;
    const at = rowKeys.indexOf(place.row);
    const now = span.get(node.index) ?? [at, at];
    span.set(node.index, [Math.min(now[0], at), Math.max(now[1], at)]);
  }
  const column = columnsOf(channels, span);
  const nColumns = Math.max(1, ...[...column.values()].map((c) => c + 1));
  const place = new Map(channels.map((c, i) => [i, column.get(c) as number] as const));
  const toColumn = (rank: number): number => {
    const lo = place.get(Math.floor(rank)) ?? 0;
    return lo + (rank - Math.floor(rank)) * ((place.get(Math.ceil(rank)) ?? lo) - lo);
  };
  for (const spot of spots.values()) if (spot.place.residual) spot.x = (column.get(spot.node.index) as number) * PITCH;

  // Vertical: one line per row, more for a row too full for one; the gap grows with the edges that cross it.
  const crossing = new Map<number, number>();
  for (const edge of edges) {
    const row = spots.get(edge.dst)?.place.row;
    if (row !== undefined) crossing.set(row, (crossing.get(row) ?? 0) + 1);
  }
  const heads: HeadBox[] = [];
  const bands: RowBand[] = [];
  const blocks: { layer: string | null; title: string; subtitle: string; y: number; height: number }[] = [];
  const rows: string[][] = [];
  let y = TOP;
  let lastBlock = "";
  const beside: Spot[] = []; // super-nodes, in one column to the right of the others
  const apart: Spot[] = []; // those with a row of their own, in the middle
  const rests = [...supers.values()].some((one) => one.partial);
  for (const key of rowKeys) {
    const inRow = [...spots.values()].filter((p) => p.place.row === key);
    const first = (inRow[0] as Spot).place; // super-nodes come last
    const block = `${first.layer}|${first.block}`;
    const room = Math.max(64, 0.012 * nColumns * PITCH); // a wide figure gets high as well
    y += block === lastBlock ? 40 + Math.min(room, 0.35 * (crossing.get(key) ?? 0)) + PILL.height : 34 + PILL.height;
    if (block !== lastBlock) {
      y += 22;
      blocks.push({
        layer: first.layer === null ? null : `layer ${first.layer}`,
        title: first.layer === null ? "Final" : `Layer ${first.layer}`,
        subtitle: BLOCKS[first.block] ?? "",
        y: y - PILL.height / 2 - 16,
        height: 0,
      });
    }
    const here = frees.filter((f) => f.row === key).sort((a, b) => a.x - b.x || a.sites[0]!.localeCompare(b.sites[0]!));
    let lines = 1;
    if (here.length && here[0]!.head !== null) {
      for (const free of here) free.x = toColumn(free.x) * PITCH;
      const room = Math.max(nColumns * PITCH, 560);
      lines = Math.max(1, Math.round(here.reduce((t, f) => t + f.width + 12, 0) / room));
      chunk(here, lines).forEach((line, k) => {
        sideBySide(line, 14);
        for (const free of line) placeHead(free, y + 6 + k * 46, spots, heads);
      });
      y += 6 + (lines - 1) * 46;
    } else if (here.length) {
      lines = Math.max(1, Math.ceil(here.length / Math.max(nColumns + 1, 11)));
      chunk(here, lines).forEach((line, k) => {
        const slots = intoSlots(line.map((f) => toColumn(f.x)), 0, nColumns - 1);
        line.forEach((free, i) => {
          free.x = (slots[i] as number) * PITCH;
          const spot = spots.get(free.sites[0] as string) as Spot;
          spot.x = free.x;
          spot.y = y + k * 34;
        });
      });
      y += (lines - 1) * 34;
    }
    for (const spot of inRow) if (spot.place.residual) spot.y = y;
    const single = inRow.filter((p) => !p.folded || p.place.short);
    const middle = single.length ? single.reduce((t, p) => t + p.y, 0) / single.length : y;
    for (const spot of inRow) {
      if (!spot.folded || spot.place.short) continue;
      spot.y = middle;
      (single.length || (rests && spot.folded.what === "part") ? beside : apart).push(spot);
    }
    bands.push({ label: first.rowName, part: first.short || (inRow[0] as Spot).folded?.what === "layer" ? null : (inRow[0] as Spot).node.location, y: middle });
    rows.push(inRow.sort((a, b) => a.x - b.x || a.y - b.y).map((p) => p.node.site));
    const now = blocks[blocks.length - 1]!;
    now.height = y + PILL.height / 2 + 16 - now.y;
    lastBlock = block;
  }

  // Shift everything to the right of the labels.
  let lo = Infinity;
  let hi = -Infinity;
  for (const spot of spots.values()) {
    if (spot.folded && !spot.place.short) continue;
    [lo, hi] = [Math.min(lo, spot.x - spot.width / 2), Math.max(hi, spot.x + spot.width / 2)];
  }
  for (const box of heads) [lo, hi] = [Math.min(lo, box.x), Math.max(hi, box.x + box.width)];
  if (!Number.isFinite(lo)) [lo, hi] = [0, 320];
  for (const spot of apart) spot.x = (lo + hi) / 2;
  const widest = Math.max(0, ...beside.map((spot) => spot.width));
  for (const spot of beside) spot.x = hi + 34 + widest / 2;
  if (beside.length) hi += 34 + widest;
  const pad = Math.max(14, (360 - (hi - lo)) / 2);
  const shift = LABELS + pad - lo;
  for (const spot of spots.values()) spot.x += shift;
  const shifted = heads.map((box) => ({ ...box, x: box.x + shift }));

  const fed = new Set(carries.map((c) => c.dst));
  const exclusive = channels.length <= 14;
  const unfed = [...spots.values()].filter((p) => p.place.residual && !p.node.location.endsWith("resid_delta") && !fed.has(p.node.site));
  const inFirstRow = (p: Spot): boolean => p.place.row === rowKeys[0];
  const clear = (p: Spot): boolean => [...spots.values()].every((q) => q.y >= p.y || Math.abs(q.x - p.x) > q.width / 2 + 4);
  const upTo = exclusive ? (): boolean => true : unfed.some(inFirstRow) ? inFirstRow : clear; // some line must leave the tokens
  const roots = unfed.map((p) => ({ site: p.node.site, full: upTo(p) }));
  const finals = [...spots.values()].filter((p) => p.place.block === "final");
  const width = LABELS + 2 * pad + (hi - lo);
  const centre = LABELS + (width - LABELS) / 2;
  return {
    spots,
    rows,
    heads: shifted,
    bands,
    blocks,
    roots,
    tokens: { x: centre, y: 26 },
    answer: { x: finals.length ? finals.reduce((t, p) => t + p.x, 0) / finals.length : centre, y: y + 86 },
    left: LABELS,
    width: width + 14,
    height: y + 86 + 26,
  };
}

function placeHead(free: Free, y: number, spots: Map<string, Spot>, heads: HeadBox[]): void {
  const x = free.x - free.width / 2;
  heads.push({
    label: free.head === -1 ? "head" : `head ${free.head}`,
    part: partOfNode((spots.get(free.sites[0] as string) as Spot).node),
    x,
    y: y - PILL.height / 2 - HEAD_PAD,
    width: free.width,
    height: PILL.height + 2 * HEAD_PAD,
  });
  let left = x + HEAD_LABEL + HEAD_PAD;
  for (const site of free.sites) {
    const spot = spots.get(site) as Spot;
    spot.x = left + spot.width / 2;
    spot.y = y;
    left += spot.width + PILL_GAP;
  }
}
