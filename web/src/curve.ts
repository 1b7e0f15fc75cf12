// Size against task loss: the same scores cut at other sizes, on a log axis; a slider draws each cut.

import type { Bundle, CurvePoint, Edge } from "./bundle";
import { count, h, num, plural, s, ticks } from "./dom";
import { given } from "./index";
import { shapeOf, withShape } from "./outline";
import { keep } from "./share";
import { sketch, type Look } from "./sketch";
import type { Store } from "./state";

const W = 620;
const H = 300;
const M = { left: 56, right: 130, top: 18, bottom: 46 };
const CHANCE = Math.LN2;

/** The cuts that can be drawn, by size; the circuit is one of them. */
function stopsOf({ curve, circuit, cuts }: Bundle): CurvePoint[] {
  const most = cuts?.nodes.length ?? 0;
  const own: CurvePoint = { nodes: circuit.n_nodes, edges: circuit.n_edges, loss_nats: given(circuit.loss_train_nats) };
  const bySize = new Map([...curve, own].filter((p) => p.nodes > 0 && p.nodes <= most).map((p) => [p.nodes, p] as const));
  return [...bySize.values()].sort((a, b) => a.nodes - b.nodes);
}

/** The slider under the curve and the sketch of its cut; moves the mark on the curve. */
function cutter(bundle: Bundle, store: Store, moveMark: (point: CurvePoint) => void): { slider: HTMLElement; picture: HTMLElement } | null {
  const { circuit, cuts } = bundle;
  const stops = stopsOf(bundle);
  if (!cuts || stops.length < 2) return null;
  const own = stops.findIndex((p) => p.nodes === circuit.n_nodes);
  const place = new Map(cuts.nodes.map((site, i) => [site, i] as const));
  const rank = (site: string): number => place.get(site) ?? Infinity;
  // One plan for all cuts, so that nothing moves; nodes that never have an edge are left out.
  const whole = shapeOf(cuts, bundle.model.d_head);
  const linked = new Set(whole.edges.flatMap((e) => [e.src, e.dst]));
  const nodes = whole.nodes.filter((n) => linked.has(n.site) || rank(n.site) < circuit.n_nodes);
  const there = new Set(nodes.map((n) => n.site));
  const drawn = sketch(withShape(bundle, { nodes, edges: whole.edges, carries: whole.carries.filter((c) => there.has(c.src) && there.has(c.dst)) }));
  const input = h("input", { type: "range", min: 0, max: stops.length - 1, step: 1, "aria-label": "Size of the cut" });
  const out = h("output", { class: "cut-said" });
  const picture = h("div", { class: "cut-picture" });
  const target = given(circuit.target_loss_nats);
  const show = (): void => {
    const asked = Number(store.get().kept["cut"] ?? NaN);
    const found = stops.findIndex((p) => p.nodes === asked);
    const at = found < 0 ? own : found;
    const point = stops[at] as CurvePoint;
    const words = `${plural(point.nodes, "node")}, ${plural(point.edges, "edge")}: ${num(point.loss_nats)} nats on the training pairs`;
    input.value = String(at);
    input.setAttribute("aria-valuetext", words);
    out.replaceChildren(h("b", {}, words), `, ${point.loss_nats <= target ? "within" : "not within"} the target of ${num(target, 3)}${at === own ? ". This is the circuit." : "."}`);
    out.dataset["loss"] = String(point.loss_nats);
    const look = (last: number): Look => (last < point.nodes ? (last < circuit.n_nodes ? "both" : "right") : last < circuit.n_nodes ? "gone" : "absent");
    const looks = { node: (site: string) => look(rank(site)), edge: (e: Edge) => look(Math.max(rank(e.src), rank(e.dst))) };
    picture.replaceChildren(drawn.draw(1, `The cut: ${words}`, looks) as unknown as Node);
    moveMark(point);
  };
  input.addEventListener("input", () => {
    const point = stops[Number(input.value)] as CurvePoint;
    keep(store, "cut", point.nodes === circuit.n_nodes ? null : String(point.nodes));
  });
  store.listen((now, before) => {
    if (now.kept !== before.kept) show();
  });
  show();
  return { slider: h("div", { class: "cut" }, h("span", { class: "muted" }, "smaller"), input, h("span", { class: "muted" }, "larger"), out), picture };
}

export function sizeCurve(bundle: Bundle, store: Store): HTMLElement {
  const { circuit } = bundle;
  const [target, heldout] = [given(circuit.target_loss_nats), given(circuit.loss_heldout_nats)];
  const twin = bundle.twin && bundle.twin.n_edges > 0 ? bundle.twin : null; // a log axis has no zero
  const points = bundle.curve.filter((p) => p.edges > 0).sort((a, b) => a.edges - b.edges);
  const left = bundle.curve.length - points.length;
  if (!points.length) return h("p", { class: "muted" }, "The scores were cut at one size only.");
  const sizes = [...points.map((p) => p.edges), Math.max(1, circuit.n_edges), ...(twin ? [twin.n_edges] : [])];
  const losses = [...points.map((p) => p.loss_nats), heldout, target, CHANCE, ...(twin ? [twin.loss_heldout_nats] : [])];
  const [lo, hi] = [Math.log10(Math.min(...sizes)) - 0.08, Math.log10(Math.max(...sizes)) + 0.08];
  const top = Math.max(...losses) * 1.08;
  const x = (edges: number): number => M.left + ((Math.log10(edges) - lo) / Math.max(1e-9, hi - lo)) * (W - M.left - M.right);
  const y = (loss: number): number => H - M.bottom - (Math.max(0, loss) / top) * (H - M.top - M.bottom);

  const svg = s("svg", { viewBox: `0 0 ${W} ${H}`, class: "curve", role: "img", "aria-label": "Task loss against the number of edges, log scale" });
  for (const t of ticks(0, top, 4)) {
    svg.append(s("path", { d: `M${M.left} ${y(t)}H${W - M.right}`, class: "grid" }), s("text", { x: M.left - 8, y: y(t) + 4, class: "axis-text end" }, num(t, 3)));
  }
  for (let power = Math.floor(lo); power <= hi; power++) {
    for (const k of [1, 2, 5]) {
      const value = k * 10 ** power;
      if (Math.log10(value) < lo || Math.log10(value) > hi) continue;
      svg.append(s("path", { d: `M${x(value)} ${H - M.bottom}v${k === 1 ? 6 : 4}`, class: "axis-line" }));
      if (k === 1 || hi - lo < 2.6) svg.append(s("text", { x: x(value), y: H - M.bottom + 19, class: "axis-text" }, count(value)));
    }
  }
  svg.append(
    s("path", { d: `M${M.left} ${H - M.bottom}H${W - M.right}`, class: "axis-line" }),
    s("text", { x: (M.left + W - M.right) / 2, y: H - 8, class: "axis-title" }, "edges"),
    s("text", { x: 14, y: (M.top + H - M.bottom) / 2, class: "axis-title", transform: `rotate(-90 14 ${(M.top + H - M.bottom) / 2})` }, "task loss, nats"),
  );
  const rule = (loss: number, label: string): void => {
    svg.append(s("path", { d: `M${M.left} ${y(loss)}H${W - M.right}`, class: "reference" }), s("text", { x: W - M.right + 8, y: y(loss) + 4, class: "axis-text start" }, label));
  };
  rule(CHANCE, "blind: ln 2");
  rule(target, `target ${num(target, 3)}`);
  svg.append(s("path", { d: points.map((p, i) => `${i ? "L" : "M"}${x(p.edges).toFixed(1)} ${y(p.loss_nats).toFixed(1)}`).join(""), class: "curve-line" }));
  for (const p of points) {
    svg.append(s("circle", { cx: x(p.edges), cy: y(p.loss_nats), r: 3.5, class: "curve-dot", "data-tip": `${count(p.nodes)} nodes, ${count(p.edges)} edges\n${num(p.loss_nats)} nats` }));
  }
  // Beside its mark, on the side with more room; below it where that is above the axis.
  const mark = (shape: SVGElement, edges: number, loss: number, text: string): void => {
    const left = x(edges) > W / 2;
    const below = y(loss) + 24 < H - M.bottom;
    svg.append(shape, s("text", { x: x(edges) + (left ? -11 : 11), y: y(loss) + (below ? 19 : -9), class: left ? "mark-text end" : "mark-text" }, text));
  };
  if (twin) {
    const [cx, cy] = [x(twin.n_edges), y(twin.loss_heldout_nats)];
    const name = twin.reached ? "dense twin" : "dense twin, not reached";
    mark(s("rect", { x: cx - 6, y: cy - 6, width: 12, height: 12, class: "twin-mark", "data-tip": `${twin.name}\n${num(twin.loss_heldout_nats)} nats held out` }), twin.n_edges, twin.loss_heldout_nats, name);
  }
  if (circuit.n_edges > 0) {
    const [cx, cy] = [x(circuit.n_edges), y(heldout)];
    const name = circuit.reached ? "this circuit" : "best found, not reached";
    mark(s("path", { d: `M${cx} ${cy - 8}l8 8l-8 8l-8 -8Z`, class: "own-mark", "data-tip": `${name}\n${num(heldout)} nats held out` }), circuit.n_edges, heldout, name);
  }
  const ring = s("circle", { r: 9, class: "cut-ring", "aria-hidden": "true" });
  svg.append(ring);
  const cut = cutter(bundle, store, (point) => {
    ring.setAttribute("cx", String(x(Math.max(point.edges, 10 ** lo))));
    ring.setAttribute("cy", String(y(point.loss_nats)));
  });
  if (!cut) ring.remove();
  const held = twin ? "Diamond and square:" : "Diamond:";
  const note = left ? ` Cuts without any edge are left out (${left}).` : "";
  const said = `Circles: the same scores cut at other sizes, on the training pairs. ${held} held out. Edges on a log axis.${note}`;
  const more = cut ? " The sketch is the cut at the ring: filled nodes are the circuit's, dashed ones come with a larger cut, faint ones are lost in a smaller one. The figure above follows." : "";
  return h("figure", { class: "curve-figure" }, h("div", {}, svg as unknown as Node, cut?.slider),
    h("div", {}, cut?.picture, h("figcaption", {}, said + more)));
}
