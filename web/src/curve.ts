// Size against task loss: the same scores cut at other sizes. Edges on a log axis.

import type { Bundle } from "./bundle";
import { count, h, num, s, ticks } from "./dom";
import { given } from "./index";

const W = 620;
const H = 300;
const M = { left: 56, right: 130, top: 18, bottom: 46 };
const CHANCE = Math.LN2;

export function sizeCurve(bundle: Bundle): HTMLElement {
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
  // Beside its mark and above it, on the side with more room.
  const mark = (shape: SVGElement, edges: number, loss: number, text: string): void => {
    const left = x(edges) > W / 2;
    svg.append(shape, s("text", { x: x(edges) + (left ? -11 : 11), y: y(loss) - 9, class: left ? "mark-text end" : "mark-text" }, text));
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
  const held = twin ? "Diamond and square:" : "Diamond:";
  const note = left ? ` Cuts without any edge are left out (${left}).` : "";
  return h("figure", { class: "curve-figure" }, svg as unknown as Node,
    h("figcaption", {}, `Circles: the same scores cut at other sizes, on the training pairs. ${held} held out. Edges on a log axis.${note}`));
}
