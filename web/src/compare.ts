// The circuit, another one, or both: of one model by what they share, of two models side by side at one scale. Or what a
// comparison of this circuit with others found, in numbers.

import { compared } from "./compared";
import type { Bundle, Edge, NodeView, OtherCircuit, Shared } from "./bundle";
import { count, h, num, plural } from "./dom";
import { indexOf, type Index } from "./index";
import { heldout } from "./lead";
import { nameOf, shapeOf, withShape, type Shape } from "./outline";
import { keep } from "./share";
import { sketch, type Look } from "./sketch";
import { Store } from "./state";

/** A figure with its tools and its panel, as view.ts makes it. */
export interface Stage {
  readonly element: HTMLElement;
  /** Fit it to the width of the page. */
  arrange(width: number): void;
}

export type MakeStage = (index: Index, store: Store, overview: HTMLElement | null) => Stage;

type Mode = "circuit" | "other" | "both" | "numbers";

function shapeOfOther(other: OtherCircuit): Shape {
  return shapeOf(other.outline, other.d_head);
}

function bundleOfOther(bundle: Bundle, other: OtherCircuit): Bundle {
  const model = { ...bundle.model, name: other.model, n_layer: other.n_layer };
  const task = other.task === bundle.task.name ? bundle.task : { ...bundle.task, name: other.task, examples: [] };
  const score = other.method === bundle.record["method"] ? bundle.circuit.edge_score : null; // what another method's scores mean is not known here
  return withShape({ ...bundle, model, task, circuit: { ...bundle.circuit, edge_score: score } }, shapeOfOther(other));
}

function lossOf(value: number | null, pairs: number | null): string {
  return value === null ? "–" : `${num(value, 3)} nats${pairs === null ? "" : `, ${plural(pairs, "pair")}`}`;
}

function keyOf({ src, dst, matrix }: Edge): string {
  return `${src} ${dst} ${matrix}`;
}

/** The two in numbers. */
function sizes(bundle: Bundle, other: OtherCircuit): HTMLElement {
  const { circuit, model, task } = bundle;
  const row = (label: string, own: string, its: string): HTMLElement | null =>
    own === "–" && its === "–" ? null : h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, own), h("td", {}, its));
  const said = (reached: boolean | null): string => (reached === null ? "–" : reached ? "yes" : "no, the best found");
  return h("table", { class: "sizes" },
    h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col" }, "This circuit"), h("th", { scope: "col" }, nameOf(other)))),
    h("tbody", {},
      row("model", model.name, other.model), row("task", task.name, other.task),
      row("nodes", count(circuit.n_nodes), count(other.outline.nodes.length)), row("edges", count(circuit.n_edges), count(other.outline.edges.length)),
      row("task loss, all held-out pairs", lossOf(circuit.loss_heldout_nats, circuit.heldout_pairs), lossOf(other.loss_heldout_nats, other.heldout_pairs)),
      row("target reached", said(circuit.reached), said(other.reached))));
}

function apart(bundle: Bundle, other: OtherCircuit): HTMLElement {
  const [own, its] = [sketch(bundle), sketch(bundleOfOther(bundle, other))];
  const panes = [[own, "This circuit", bundle.model.name, bundle.circuit.n_nodes, bundle.circuit.n_edges], [its, nameOf(other), other.model, other.outline.nodes.length, other.outline.edges.length]] as const;
  const figures = panes.map(([drawn, name, model, nodes, edges]) => {
    const label = `${plural(nodes, "node")}, ${plural(edges, "edge")}`;
    const svg = drawn.draw(1, `${name}, ${model}: ${label}`);
    return { svg, width: Number(svg.getAttribute("width")), element: h("figure", { class: "pane" }, svg as unknown as Node, h("figcaption", {}, h("b", {}, name), ` in ${model}: ${label}`)) };
  });
  const total = figures.reduce((sum, one) => sum + one.width, 0);
  const widest = Math.max(...figures.map((one) => one.width));
  for (const { svg, width } of figures) svg.style.setProperty("--share", (width / widest).toFixed(4)); // of the page, one under the other
  const columns = figures.map((one) => `minmax(0, ${((100 * one.width) / total).toFixed(2)}fr)`).join(" ");
  return h("div", { class: "both" },
    h("div", { class: "panes", style: `--columns:${columns};--beside:${Math.round(total + 40)}px;--under:${Math.round(widest)}px` }, ...figures.map((one) => one.element)),
    h("div", { class: "both-notes" }, sizes(bundle, other),
      h("p", { class: "prose muted" }, "Both are drawn at one scale; the wider a line, the larger its weight beside the largest of its own circuit; solid is positive, dashed negative. " +
        "The two models have their own channels: a site of one means nothing in the other, so nothing is matched.")));
}

const GROUPS = [["both", "In both"], ["left", "Only in this circuit"], ["right", "Only in the other"]] as const;

function overlaps(nodes: Shared | null, edges: Shared | null): HTMLElement {
  const rows = [["nodes", nodes], ["edges", edges]] as const;
  return h("table", { class: "sizes" },
    h("thead", {}, h("tr", {}, h("td", {}), ...["in both", "only this", "only the other", "IoU", "by chance"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, ...rows.map(([name, one]) => one
      ? h("tr", {}, h("th", { scope: "row" }, name), ...[one.shared, one.left, one.right].map((n) => h("td", {}, count(n))), h("td", { "data-tip": String(one.iou) }, num(one.iou, 3)), h("td", { "data-tip": String(one.chance) }, num(one.chance, 3)))
      : h("tr", {}, h("th", { scope: "row" }, name), h("td", { colspan: 5 }, "one of them has none")))));
}

function together(bundle: Bundle, other: OtherCircuit, open: (site: string) => void): HTMLElement {
  const its = shapeOfOther(other);
  const ownNodes = new Set(bundle.circuit.nodes.map((n) => n.site));
  const itsNodes = new Set(its.nodes.map((n) => n.site));
  const [ownEdges, itsEdges] = [new Set(bundle.circuit.edges.map(keyOf)), new Set(its.edges.map(keyOf))];
  const union = withShape(bundle, {
    nodes: [...bundle.circuit.nodes, ...its.nodes.filter((n) => !ownNodes.has(n.site))],
    edges: [...bundle.circuit.edges, ...its.edges.filter((e) => !ownEdges.has(keyOf(e)))],
    carries: [...bundle.circuit.carries, ...its.carries.filter((c) => !(ownNodes.has(c.src) && ownNodes.has(c.dst)))],
  });
  const side = (here: boolean, there: boolean): Look => (here && there ? "both" : here ? "left" : "right");
  const looks = { node: (site: string) => side(ownNodes.has(site), itsNodes.has(site)), edge: (edge: Edge) => side(ownEdges.has(keyOf(edge)), itsEdges.has(keyOf(edge))) };
  const drawn = sketch(union).draw(1, `Both circuits in one: ${GROUPS.map(([look, name]) => `${name.toLowerCase()}, ${plural(union.circuit.nodes.filter((n) => looks.node(n.site) === look).length, "node")}`).join("; ")}`, looks, true);
  const item = (node: NodeView): HTMLElement => {
    if (!ownNodes.has(node.site)) return h("li", { class: "mono" }, node.site);
    const button = h("button", { type: "button", class: "site" }, node.site);
    button.addEventListener("click", () => open(node.site));
    return h("li", {}, button);
  };
  const lists = GROUPS.map(([look, name]) => {
    const nodes = union.circuit.nodes.filter((n) => looks.node(n.site) === look);
    return h("section", { class: `group ${look}` }, h("h3", {}, h("span", { class: "swatch", "aria-hidden": "true" }), name, h("span", { class: "aside" }, count(nodes.length))),
      nodes.length ? h("ul", { class: "site-list" }, ...nodes.map(item)) : h("p", { class: "muted" }, "No node."));
  });
  return h("div", { class: "both" }, h("div", { class: "union", style: `--least:${Math.round(0.8 * Number(drawn.getAttribute("width")))}px` }, drawn as unknown as Node),
    h("div", { class: "both-notes" }, overlaps(other.nodes, other.edges), sizes(bundle, other),
      h("p", { class: "prose muted" }, "IoU: shared over all. By chance: its mean for random circuits with as many nodes at every location, and as many edges of every matrix. " +
        "Filled: in both; solid outline and line: only in this circuit; dashed: only in the other.")),
    h("div", { class: "groups" }, ...lists));
}

function otherOverview(other: OtherCircuit): HTMLElement {
  const reached = other.reached === false ? ", the best found (target not reached)" : "";
  const loss = other.loss_heldout_nats === null ? "" : `, at ${num(other.loss_heldout_nats, 3)} nats of task loss on ${heldout(other.heldout_pairs)}${reached}`;
  return h("div", { class: "card" }, h("section", { class: "card-part" }, h("h3", {}, nameOf(other)),
    h("p", { class: "prose" }, h("b", {}, other.model), ` on ${other.task}: ${plural(other.outline.nodes.length, "node")} and ${plural(other.outline.edges.length, "edge")}${loss}.`),
    h("p", { class: "prose muted" }, "Select a node to see what feeds it and what it feeds; what its nodes fire on is on the page of its own run.")));
}

/** The part of the page with the figure: the circuit's stage, a cut's, the other's, or both circuits. */
export function comparison(index: Index, store: Store, main: Stage, make: MakeStage): Stage & { escape(): void } {
  const { bundle } = index;
  const other = bundle.other;
  const place = h("div", { class: "beside" });
  const said = h("p", { class: "cut-note", role: "status", hidden: true });
  let shown: { readonly key: string; readonly stage: Stage | null; readonly store: Store | null } = { key: "circuit|", stage: null, store: null };
  let width = 0;

  const modeOf = (): Mode => {
    const asked = store.get().kept["compare"];
    if (asked === "numbers" && bundle.comparison) return asked;
    return other && (asked === "other" || asked === "both") ? asked : "circuit";
  };
  /** Nodes of the cut that is shown; null for the circuit itself. */
  const cutOf = (): number | null => {
    const size = Number(store.get().kept["cut"] ?? NaN);
    const known = bundle.cuts && Number.isInteger(size) && size > 0 && size <= bundle.cuts.nodes.length;
    return known && size !== bundle.circuit.n_nodes ? size : null;
  };
  let pointing = false;
  const childOf = (own: Index, follows: boolean): Store => {
    const { lit } = store.get();
    const child = new Store({ selected: null, peeked: null, found: null, strongest: own.edges.length, lit: follows ? lit : null, kept: {} });
    if (follows) {
      child.listen((now, before) => {
        const known = now.selected === null || index.nodes.has(now.selected);
        if (!pointing && known && now.selected !== before.selected && now.selected !== store.get().selected) store.set({ selected: now.selected });
      });
    }
    return child;
  };
  /** A cut shows what is selected and lit in the circuit, if it has it. */
  const point = (): void => {
    const [cut, { selected, lit }] = [cutOf(), store.get()];
    if (!shown.store || cut === null || !shown.key.startsWith("circuit|")) return;
    pointing = true;
    shown.store.set({ lit, selected: selected && bundle.cuts?.nodes.slice(0, cut).includes(selected) ? selected : null });
    pointing = false;
  };
  const stages = new Map<string, { stage: Stage | null; store: Store | null }>();
  const stageAt = (mode: Mode, cut: number | null): { stage: Stage | null; store: Store | null } => {
    if (mode === "other" && other) {
      const own = indexOf(bundleOfOther(bundle, other));
      const child = childOf(own, false);
      return { stage: make(own, child, otherOverview(other)), store: child };
    }
    if (mode === "circuit" && cut !== null && bundle.cuts) {
      const own = indexOf(withShape(bundle, shapeOf(bundle.cuts, bundle.model.d_head, index.nodes, cut)));
      const child = childOf(own, true);
      return { stage: make(own, child, null), store: child };
    }
    return { stage: null, store: null };
  };

  const buttons = new Map<Mode, HTMLButtonElement>();
  const bar = h("div", { class: "modes", role: "group", "aria-label": "Which circuit is drawn" });
  if (other || bundle.comparison) {
    const names: [Mode, string][] = [["circuit", "Circuit"]];
    if (other) names.push(["other", nameOf(other)], ["both", "Both"]);
    if (bundle.comparison) names.push(["numbers", "Comparison"]);
    for (const [mode, name] of names) {
      const button = h("button", { type: "button", class: "mode", "data-mode": mode }, name);
      button.addEventListener("click", () => keep(store, "compare", mode === "circuit" ? null : mode));
      buttons.set(mode, button);
      bar.append(button);
    }
  }
  const open = (site: string): void => {
    keep(store, "compare", null);
    store.set({ selected: site });
  };
  const show = (): void => {
    const [mode, cut] = [modeOf(), cutOf()];
    for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(name === mode));
    const key = `${mode}|${mode === "circuit" ? (cut ?? "") : ""}`;
    if (key === shown.key) return;
    const made = stages.get(key) ?? stageAt(mode, cut);
    stages.set(key, made);
    const { stage, store: child } = made;
    shown = { key, stage, store: child };
    point();
    main.element.hidden = key !== "circuit|";
    const both = mode === "both" && other ? (other.nodes || other.edges ? together(bundle, other, open) : apart(bundle, other)) : null;
    const numbers = mode === "numbers" && bundle.comparison ? compared(bundle.comparison) : null;
    place.replaceChildren(...[stage?.element, both, numbers].filter((one): one is HTMLElement => Boolean(one)));
    said.hidden = !(mode === "circuit" && cut !== null);
    if (!said.hidden) {
      const back = h("button", { type: "button", class: "tool" }, "Back to the circuit");
      back.addEventListener("click", () => keep(store, "cut", null));
      said.replaceChildren(h("b", {}, `The same scores cut to ${plural(cut as number, "node")}`), `, not the circuit of ${count(bundle.circuit.n_nodes)} that was put on trial${(cut as number) > bundle.circuit.n_nodes ? "; nodes with a dashed outline came with the cut" : ""}. `, back);
    }
    if (width) arrange(width);
  };
  const arrange = (now: number): void => {
    width = now;
    (shown.stage ?? main).arrange(now);
  };
  store.listen((now, before) => {
    if (now.kept !== before.kept) show();
    if (now.selected !== before.selected || now.lit !== before.lit) point();
  });
  const element = h("div", { class: "comparison" }, buttons.size ? bar : null, said, main.element, place);
  show();
  return { element, arrange, escape: () => shown.store?.set({ selected: null, peeked: null }) };
}
