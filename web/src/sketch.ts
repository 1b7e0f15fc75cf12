// A circuit drawn small: where its nodes are and how its edges run, without anything to select. Edges of one look are
// one path, so thousands cost no more than a few.

import type { Bundle, Edge } from "./bundle";
import { s } from "./dom";
import { unfolded } from "./fold";
import { sizeOf, toneOf } from "./index";
import type { Layout, Spot } from "./layout";
import { planOf } from "./scene";

const WIDTHS = [0.8, 1.5, 2.5, 4];
/** Titles: at least so many pixels on the screen, and at most so many units of the drawing, for which there is room. */
const TITLE = { own: 12, least: 10.5, most: 20 };
const MARGIN = 104;
/** Numbers of heads smaller than this on the screen are not drawn. */
const LEAST_LABEL = 8;

/** How a node or an edge looks: as in its own figure; as only here, only there or in both; faint; not drawn. */
export type Look = "own" | "left" | "right" | "both" | "gone" | "absent";

export interface Sketched {
  readonly plan: Layout;
  draw(scale: number, label: string, looks?: { node(site: string): Look; edge(edge: Edge): Look }, texts?: boolean): SVGSVGElement;
}

/** Keeps titles readable at the size that the sketch has on the page. */
function readable(svg: SVGSVGElement, width: number): void {
  new ResizeObserver(() => {
    const scale = svg.getBoundingClientRect().width / width;
    if (!scale) return;
    svg.style.setProperty("--title", `${Math.min(TITLE.most, Math.max(TITLE.own, TITLE.least / scale)).toFixed(1)}px`);
    svg.classList.toggle("small", 11 * scale < LEAST_LABEL);
  }).observe(svg);
}

function lineOf(from: Spot, to: Spot): string {
  const [y1, y2] = [from.y + from.height / 2, to.y - to.height / 2];
  const bend = Math.max(14, Math.abs(y2 - y1) * 0.46);
  const r = (v: number): string => v.toFixed(1);
  return `M${r(from.x)} ${r(y1)}C${r(from.x)} ${r(y1 + bend)} ${r(to.x)} ${r(y2 - bend)} ${r(to.x)} ${r(y2)}`;
}

export function sketch(bundle: Bundle): Sketched {
  const plan = planOf(unfolded(bundle));
  const edges = bundle.circuit.edges;
  const largest = edges.reduce((most, edge) => Math.max(most, sizeOf(edge)), 1e-9);
  const draw: Sketched["draw"] = (scale, label, looks, texts = false) => {
    const drawn = [...plan.spots].filter(([site]) => (looks?.node(site) ?? "own") !== "absent");
    const left = plan.left - MARGIN;
    const within = (y: number, height: number) => ([, spot]: [string, Spot]): boolean => spot.y > y && spot.y < y + height;
    const blocks = plan.blocks.filter((block) => drawn.some(within(block.y, block.height)));
    const ends = drawn.map(([, spot]) => [spot.y - spot.height / 2, spot.y + spot.height / 2] as const);
    const top = Math.min(...blocks.map((block) => block.y), ...ends.map(([y]) => y)) - 2;
    const foot = Math.max(...blocks.map((block) => block.y + block.height), ...ends.map(([, y]) => y), top) + 2;
    const [width, height] = [plan.width - 12 - left, foot - top];
    const svg = s("svg", { class: "sketch", role: "img", "aria-label": label, width: (width * scale).toFixed(1), height: (height * scale).toFixed(1), viewBox: `${left} ${top} ${width} ${height}` });
    for (const block of blocks) {
      const middle = { x: plan.left - 8, y: block.y + block.height / 2 };
      svg.append(s("rect", { x: plan.left, y: block.y, width: plan.width - plan.left - 14, height: block.height, rx: 8, class: "band" }),
        s("text", { ...middle, dy: "-0.15em", class: "sketch-title" }, block.title),
        s("text", { ...middle, dy: "1em", class: "sketch-title" }, block.subtitle.replace("residual stream", "residual")));
    }
    for (const box of plan.heads) {
      if (!drawn.some(([, { x, y }]) => x > box.x && x < box.x + box.width && y > box.y && y < box.y + box.height)) continue;
      svg.append(s("rect", { x: box.x, y: box.y, width: box.width, height: box.height, rx: 7, class: "head-box" }));
      if (box.label) svg.append(s("text", { x: box.x + 27, y: box.y + box.height / 2 + 3.5, class: "head-label" }, box.label));
    }
    const paths = new Map<string, string[]>();
    const add = (key: string, d: string): void => {
      const list = paths.get(key);
      if (list) list.push(d);
      else paths.set(key, [d]);
    };
    for (const { src, dst } of bundle.circuit.carries) {
      const [a, b] = [plan.spots.get(src), plan.spots.get(dst)];
      const faint = [src, dst].some((site) => ["gone", "absent"].includes(looks?.node(site) ?? "own"));
      if (a && b && !faint) add("carry|1.1", Math.abs(a.y - b.y) < 1 ? `M${a.x} ${a.y}H${b.x}` : a.x === b.x ? `M${a.x} ${a.y}V${b.y}` : lineOf(a, b));
    }
    for (const edge of edges) {
      const [a, b] = [plan.spots.get(edge.src), plan.spots.get(edge.dst)];
      if (!a || !b) continue;
      const look = looks?.edge(edge) ?? "own";
      if (look === "absent") continue;
      const share = Math.sqrt(sizeOf(edge) / largest);
      const bin = Math.min(WIDTHS.length - 1, Math.floor(share * WIDTHS.length));
      add(`edge ${look === "own" ? toneOf(bundle, edge.weight) : look}|${WIDTHS[bin]}`, lineOf(a, b));
    }
    const order = (key: string): number => Number(key.split("|")[1]) + (key.startsWith("carry") ? -9 : key.includes("gone") ? -5 : 0);
    for (const key of [...paths.keys()].sort((a, b) => order(a) - order(b))) {
      const [name, stroke] = key.split("|");
      svg.append(s("path", { d: (paths.get(key) as string[]).join(""), class: name, "stroke-width": stroke }));
    }
    for (const [site, spot] of drawn) {
      const look = looks?.node(site) ?? "own";
      const { x, y, width: w, height: t } = spot;
      const g = s("g", { class: `mini ${look}`, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, "data-site": site, "data-tip": site },
        s("rect", { x: -w / 2, y: -t / 2, width: w, height: t, rx: spot.shape === "unit" ? 10 : 4, class: "pill" }));
      if (texts) g.append(s("text", { y: 4, class: "pill-text" }, spot.text ?? `${spot.place.short ? `${spot.place.short} ` : ""}${spot.node.index}`));
      svg.append(g);
    }
    readable(svg, width);
    return svg;
  };
  return { plan, draw };
}
