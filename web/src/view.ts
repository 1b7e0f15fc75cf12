// Gossamer's page as one module: render({ model, el }) draws a bundle into an element and returns its clean-up.
// `model.get("bundle")` is the bundle; a single HTML file, a notebook widget and a server are three hosts of the same.

import type { Bundle } from "./bundle";
import { panel } from "./card";
import { sizeCurve } from "./curve";
import { count, h } from "./dom";
import type { Engine } from "./engine";
import { figure, legend } from "./figure";
import { opensFolded } from "./fold";
import { indexOf, type Index } from "./index";
import { lab, noLab } from "./lab";
import { lead } from "./lead";
import { pageEngine } from "./page_engine";
import { record } from "./record";
import { search } from "./search";
import { Store, type Theme } from "./state";
import css from "./style.css";
import labCss from "./lab.css";
import { tooltip } from "./tip";
import { Tokenizer } from "./tokenizer";
import { tally, trial } from "./trial";

export interface Host {
  readonly model: { get(name: string): unknown };
  readonly el: HTMLElement;
}

/** More than half as many again, and the page opens with the strongest so many: those between heads run further. */
const MANY_EDGES = { channel: 400, head: 200 };
/** A circuit that opens folded begins with so many: about a hundred nodes drawn alone. */
const FOLDED_EDGES = 60;
const THEMES: Theme[] = ["auto", "light", "dark"];

function themeButton(root: HTMLElement): HTMLButtonElement {
  const button = h("button", { type: "button", class: "tool theme" });
  let now: Theme = "auto";
  const show = (): void => {
    root.dataset["theme"] = now;
    button.textContent = `Theme: ${now}`;
  };
  button.addEventListener("click", () => {
    now = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length] as Theme;
    show();
  });
  show();
  return button;
}

function strengthFilter(index: Index, store: Store): HTMLElement | null {
  const all = index.edges.length;
  if (all < 2) return null;
  const out = h("output", {});
  const input = h("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": "Edges drawn, strongest first" });
  // The slider is geometric: each step drops the same share of the weakest edges left.
  const toCount = (v: number): number => Math.round(all ** (v / 100)) - (v === 0 ? 1 : 0);
  const start = Math.min(all, store.get().strongest);
  input.value = String(Math.round((100 * Math.log(Math.max(1, start))) / Math.log(all)));
  const show = (n: number): void => {
    out.textContent = n >= all ? `all ${count(all)} edges` : `strongest ${count(n)} of ${count(all)} edges`;
  };
  input.addEventListener("input", () => {
    const strongest = toCount(Number(input.value));
    store.set({ strongest });
    show(strongest);
  });
  show(start);
  return h("label", { class: "strength" }, input, out);
}

function part(id: string, title: string, note: string, ...children: HTMLElement[]): HTMLElement {
  return h("section", { class: "part", "data-part": id }, h("div", { class: "part-head" }, h("h2", {}, title), h("p", { class: "muted" }, note)), ...children);
}

export function render({ model, el }: Host): () => void {
  const bundle = model.get("bundle") as Bundle;
  const index = indexOf(bundle);
  const many = opensFolded(index) ? FOLDED_EDGES : MANY_EDGES[bundle.grain];
  const store = new Store({ selected: null, peeked: null, found: null, strongest: index.edges.length > many * 1.5 ? many : index.edges.length, lit: null, kept: {} });
  const root = h("div", { class: "gossamer" });
  el.replaceChildren(h("style", {}, css + labCss), root);

  const drawing = figure(index, store);
  const open = (site: string): void => {
    store.set({ selected: site });
    drawing.focus(site);
  };
  const toolbar = h("div", { class: "toolbar" }, search(index, store, open), strengthFilter(index, store));
  const stage = h("div", { class: "stage" },
    h("div", { class: "stage-figure" }, toolbar, drawing.element, legend(index)),
    panel(index, store, drawing.focus));

  const engine = pageEngine(bundle) ?? (model.get("engine") as Engine | undefined);
  const note = engine ? `Type a prompt. ${engine.where === "page" ? "Computed in this page" : "Computed by the server"}, model and circuit alike.` : "";
  const askPart = part("ask", "Ask it", note, engine ? lab(index, store, engine) : noLab());

  const recordPart = h("details", { class: "part record-part" }, h("summary", {}, h("h2", {}, "Record"), h("span", { class: "muted" }, "where every number came from")), record(bundle.record));
  root.append(
    h("header", { class: "top" },
      h("div", { class: "eyebrow" }, h("span", {}, "Gossamer circuit"), h("span", { class: "mono" }, bundle.task.name), themeButton(root)),
      h("h1", {}, bundle.title), lead(bundle), tally(bundle.evidence)),
    askPart,
    stage,
    part("trial", "The trial", "each check beside its nulls: what the same number is when the circuit is not special", trial(bundle.evidence)),
    ...(bundle.grain === "channel" ? [part("curve", "Size for loss", "", sizeCurve(bundle))] : []),
    recordPart,
    h("footer", {}, `Gossamer ${bundle.gossamer_version}. This page is one file and makes no request.`),
  );
  tooltip(root);

  // Beside the figure when there is room for both; under it, as a drawer, when there is not.
  const arrange = (): void => {
    const width = root.clientWidth;
    stage.classList.toggle("stacked", width < 1080 || drawing.naturalWidth > width * 0.95);
    drawing.fit();
  };
  let lastWidth = 0;
  const watch = new ResizeObserver(() => {
    if (root.clientWidth === lastWidth) return;
    lastWidth = root.clientWidth;
    arrange();
  });
  watch.observe(root);
  arrange();

  const escape = (event: KeyboardEvent): void => {
    if (event.key === "Escape") store.set({ selected: null, peeked: null });
  };
  root.addEventListener("keydown", escape);
  return () => {
    watch.disconnect();
    el.replaceChildren();
  };
}

export { pageEngine, Tokenizer };
export default { render };
