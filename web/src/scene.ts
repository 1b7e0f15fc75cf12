// A drawing with its geometry: what the SVG, the canvas and the exported pictures show. No DOM.

import type { Carry, NodeView } from "./bundle";
import { num, plural, shorten, signed, visible } from "./dom";
import { aboutSuper, type Drawing, type Drawn } from "./fold";
import { headLayout, PORT } from "./heads";
import { sizeOf, toneOf, type Index, type Tone } from "./index";
import { layout, PILL, plateWidth, type Layout, type Spot } from "./layout";
import { describe } from "./sites";

/** Up to so many lines, edges have arrows and bars at their ends and can be pointed at. */
export const WITH_MARKERS = 700;

/** A cubic curve that leaves and arrives upright; `bow` sideways, for one that would run over what lies between. */
export interface Line {
  readonly x1: number;
  readonly y1: number;
  readonly x2: number;
  readonly y2: number;
  readonly bend: number;
  readonly bow: number;
}

export interface Wire extends Drawn {
  readonly line: Line;
  readonly tone: Tone;
  readonly width: number;
  /** 0 to 1: weak edges between heads recede. */
  readonly fade: number;
}

/** A final channel's direct effect on the answer. */
export interface Direct {
  readonly site: string;
  readonly line: Line;
  readonly tone: Tone;
  readonly width: number;
}

export interface Scene {
  readonly index: Index;
  readonly drawing: Drawing;
  readonly plan: Layout;
  /** Edges from the strongest to the weakest, then bundles. */
  readonly wires: Wire[];
  readonly directs: Direct[];
  readonly wiresOf: ReadonlyMap<string, Wire[]>;
  readonly carriesOf: ReadonlyMap<string, Carry[]>;
  /** What feeds a drawn node and what it feeds. */
  near(site: string): Set<string>;
  /** How dark a node is drawn, 0 to 1: how much it matters. */
  ink(node: NodeView): number;
  /** What a node is, in words; several lines. */
  words(site: string): string;
  /** What a wire is, in words. */
  tip(wire: Wire): string;
}

/** How everything is to look now. Sites are those drawn: a folded node's is its super-node's. */
export interface Look {
  readonly selected: string | null;
  readonly centre: string | null;
  readonly near: ReadonlySet<string>;
  readonly found: ReadonlySet<string> | null;
  readonly strongest: number;
  readonly hidden: ReadonlySet<string>;
  readonly pinned: ReadonlySet<string>;
  readonly lit: ReadonlyMap<string, number> | null;
}

export function lineOf(x1: number, y1: number, x2: number, y2: number, bow = 0): Line {
  return { x1, y1, x2, y2, bend: Math.max(14, Math.abs(y2 - y1) * 0.46) * (y2 < y1 ? -1 : 1), bow };
}

export function pathOf({ x1, y1, x2, y2, bend, bow }: Line): string {
  return `M${x1} ${y1}C${x1 + bow} ${y1 + bend} ${x2 + bow} ${y2 - bend} ${x2} ${y2}`;
}

/** A point of the curve, `t` from 0 at its start to 1 at its end. */
export function pointOn({ x1, y1, x2, y2, bend, bow }: Line, t: number): [number, number] {
  const mix = (a: number, b: number, c: number, d: number): number =>
    (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t * t * c + t ** 3 * d;
  return [mix(x1, x1 + bow, x2 + bow, x2), mix(y1, y1 + bend, y2 - bend, y2)];
}

function thickness(size: number, largest: number): number {
  return 0.7 + 3.6 * Math.sqrt(size / largest);
}

/** The curve of an edge, between the outlines of its ends and into the port of what it is read for. */
function lineOfEdge(edge: Drawn["edge"], from: Spot, to: Spot, spots: Spot[]): Line {
  if (to.y < from.y && (to.folded || from.folded)) return lineOf(from.x, from.y - from.height / 2, to.x, to.y + to.height / 2 + 1.5); // to a folded layer that it is in the middle of
  const port = to.ports.find((one) => one.matrix === edge.matrix);
  const [x2, y1] = [to.x + (port?.dx ?? 0), from.y + from.height / 2];
  const y2 = to.y - to.height / 2 - (port ? PORT.height : 0) - 1.5;
  const upright = from.shape === "part" && Math.abs(x2 - from.x) < 24;
  const over = upright && spots.some((one) => one.y > from.y && one.y < to.y && Math.abs(one.x - x2) < one.width / 2 + 3);
  return lineOf(from.x, y1, x2, y2, over ? Math.min(76, 40 + 0.05 * (y2 - y1)) : 0);
}

function into<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const list = map.get(key);
  if (list) list.push(value);
  else map.set(key, [value]);
}

/** Whether a wire is drawn under this look. */
export function drawn(wire: Wire, look: Look): boolean {
  const { src, dst } = wire.edge;
  if (look.hidden.has(src) || look.hidden.has(dst)) return false;
  return src === look.centre || dst === look.centre || (wire.rank === null ? wire.always : wire.rank < look.strongest);
}

/** The path of a carry: level between query and key, upright in a column, or a curve. */
export function carryPath(a: Spot, b: Spot): { d: string; level: boolean } {
  const level = Math.abs(a.y - b.y) < 1;
  const d = level ? `M${a.x} ${a.y}H${b.x}` : a.x === b.x ? `M${a.x} ${a.y}V${b.y}` : pathOf(lineOf(a.x, a.y, b.x, b.y));
  return { d, level };
}

/** The lines from the tokens to what reads them, and where a short one ends. */
export function rootPaths(plan: Layout): { d: string; site: string | null; dot: { x: number; y: number } | null }[] {
  const out: ReturnType<typeof rootPaths> = [];
  const full: number[] = [];
  for (const root of plan.roots) {
    const { x, y } = plan.spots.get(root.site) as Spot;
    const top = root.full ? plan.tokens.y + 30 : y - PILL.height / 2 - 13;
    if (root.full) full.push(x);
    out.push({ d: `M${x} ${top}V${y}`, site: root.full ? root.site : null, dot: root.full ? null : { x, y: top } });
  }
  if (full.length) {
    const [a, b] = full.reduce(([lo, hi], x) => [Math.min(lo, x), Math.max(hi, x)], [plan.tokens.x, plan.tokens.x]);
    out.push({ d: `M${a} ${plan.tokens.y + 30}H${b}M${plan.tokens.x} ${plan.tokens.y + 15}v15`, site: null, dot: null });
  }
  return out;
}

function answerOf(index: Index): string {
  const example = index.bundle.task.examples[0];
  return example ? `${visible(example.answer)}   rather than   ${visible(example.wrong_answer)}` : "answer";
}

/** The prompt and the answer as written on the plates at the two ends; null where a node stands there. */
export function plates({ index, plan }: Scene): { x: number; y: number; text: string }[] {
  const example = index.bundle.task.examples[0];
  return [
    ...(plan.spots.has("input") ? [] : [{ ...plan.tokens, text: example ? shorten(visible(example.clean), 44) : "prompt" }]),
    ...(plan.spots.has("logits") ? [] : [{ ...plan.answer, text: answerOf(index) }]),
  ];
}

/** What is written on a node: in front in italics (q, k or v), then its number or name. */
export function labelOf({ node, place, text, folded }: Spot): { short: string; text: string } {
  const short = folded ? "" : place.short;
  return { short, text: text ?? (short ? ` ${node.index}` : String(node.index)) };
}

export function planOf(drawing: Drawing): Layout {
  return drawing.bundle.grain === "head" ? headLayout(drawing) : layout(drawing);
}

export function sceneOf(index: Index, drawing: Drawing): Scene {
  const { bundle } = index;
  const plan = planOf(drawing);
  const spots = [...plan.spots.values()];
  const measure = bundle.grain === "head" ? "score" : "weight";
  const fades = bundle.grain === "head" && index.edges.some((edge) => edge.weight !== null);
  const largestSum = drawing.edges.reduce((t, one) => Math.max(t, one.bundle?.size ?? 0), 1e-9);
  const wires = drawing.edges.map((one): Wire => {
    const { edge, bundle: sum } = one;
    const size = sum ? sum.size : sizeOf(edge);
    const share = size / (sum ? largestSum : index.largestWeight);
    return {
      ...one,
      line: lineOfEdge(edge, plan.spots.get(edge.src) as Spot, plan.spots.get(edge.dst) as Spot, spots),
      tone: sum ? "sum" : toneOf(bundle, edge.weight),
      width: sum ? 1 + 5 * Math.sqrt(share) : thickness(size, index.largestWeight),
      fade: fades && !sum ? 0.3 + 0.7 * Math.sqrt(share) : 1,
    };
  });
  const wiresOf = new Map<string, Wire[]>();
  for (const wire of wires) for (const site of [wire.edge.src, wire.edge.dst]) into(wiresOf, site, wire);
  const carriesOf = new Map<string, Carry[]>();
  for (const carry of drawing.carries) for (const site of [carry.src, carry.dst]) into(carriesOf, site, carry);

  const direct = spots.filter((spot) => spot.node.direct_logit !== null);
  const plate = plateWidth(answerOf(index)) / 2 - 16;
  const largestDirect = direct.reduce((t, { node }) => Math.max(t, Math.abs(node.direct_logit as number)), 1e-9);
  const directs = direct.map(({ node, x, y }): Direct => {
    const weight = node.direct_logit as number;
    return {
      site: node.site, tone: weight >= 0 ? "up" : "down", width: thickness(Math.abs(weight), largestDirect),
      line: lineOf(x, y + PILL.height / 2, plan.answer.x + Math.max(-plate, Math.min(plate, (x - plan.answer.x) * 0.3)), plan.answer.y - 17),
    };
  });
  const near = (site: string): Set<string> => {
    const out = new Set<string>();
    for (const { src, dst } of [...(wiresOf.get(site) ?? []).map((wire) => wire.edge), ...(carriesOf.get(site) ?? [])]) out.add(src === site ? dst : src);
    return out;
  };
  return {
    index, drawing, plan, wires, directs, wiresOf, carriesOf, near,
    tip: ({ edge, bundle: sum }) => {
      const value = edge.weight === null ? `no ${measure}` : `${measure} ${signed(edge.weight, 6)}`;
      return `${edge.src} → ${edge.dst}\n${sum ? `${plural(sum.n, "edge")}, sum of |${measure}| ${num(sum.size)}` : `${edge.matrix}  ${value}`}`;
    },
    ink: (node) => Math.sqrt(Math.max(0, index.matter(node) ?? 0) / index.largestMatter),
    words: (site) => {
      const { node, folded } = plan.spots.get(site) as Spot;
      return folded ? aboutSuper(folded, measure) : [describe(node), ...aboutMatter(index, node)].join("\n");
    },
  };
}

/** Lines about how much a node matters; none where nothing is to be said. */
function aboutMatter(index: Index, node: NodeView): string[] {
  const matter = index.matter(node);
  if (index.bundle.grain === "head") return matter === null ? [] : [`|score| of its edges: ${num(matter)}`];
  return [matter === null ? "ablation not measured" : `ablating it: ${signed(matter)} nats`];
}
