// Gossamer's page as one module: render({ model, el }) draws a bundle into an element and returns its clean-up.
// `model.get("bundle")` is the bundle; a single HTML file, a notebook widget and a server are three hosts of the same.

import type { Bundle } from "./bundle";
import { panel } from "./card";
import { comparison, type MakeStage, type Stage } from "./compare";
import { sizeCurve } from "./curve";
import { count, h } from "./dom";
import type { Engine } from "./engine";
import { figure, legend } from "./figure";
import { opensFolded } from "./fold";
import { hosted, whoAnswers, whoComputes, type HostModel } from "./host";
import { indexOf, type Index } from "./index";
import { lab, noLab } from "./lab";
import { lead } from "./lead";
import { Notes } from "./notes";
import { pageEngine } from "./page_engine";
import { record } from "./record";
import { search } from "./search";
import { follow, hasAddress, keep, linkTo, ownModel, shareBar, stateIn } from "./share";
import { Store, type State, type Theme } from "./state";
import css from "./style.css";
import labCss from "./lab.css";
import { tooltip } from "./tip";
import { Tokenizer } from "./tokenizer";
import { tally, trial } from "./trial";

export interface Host {
  readonly model: HostModel;
  readonly el: HTMLElement;
}

/** More than half as many again, and the page opens with the strongest so many: those between heads run further. */
const MANY_EDGES = { channel: 400, head: 200 };
/** A circuit that opens folded begins with so many: about a hundred nodes drawn alone. */
const FOLDED_EDGES = 60;
const THEMES: Theme[] = ["auto", "light", "dark"];

function themeButton(root: HTMLElement, store: Store): HTMLButtonElement {
  const button = h("button", { type: "button", class: "tool theme" });
  const now = (): Theme => THEMES.find((theme) => theme === store.get().kept["theme"]) ?? "auto";
  const show = (): void => {
    root.dataset["theme"] = now();
    button.textContent = `Theme: ${now()}`;
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(now()) + 1) % THEMES.length] as Theme;
    keep(store, "theme", next === "auto" ? null : next);
  });
  store.listen((after, before) => {
    if (after.kept !== before.kept) show();
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

export function render({ model: given, el }: Host): () => void {
  const [model, leave] = hosted(given);
  const bundle = model.get("bundle") as Bundle;
  const index = indexOf(bundle);
  const many = opensFolded(index) ? FOLDED_EDGES : MANY_EDGES[bundle.grain];
  const first: State = { selected: null, peeked: null, found: null, strongest: index.edges.length > many * 1.5 ? many : index.edges.length, lit: null, kept: {} };
  const address = hasAddress(el);
  const store = new Store({ ...first, ...(address ? stateIn(window.location.hash, bundle) : {}) });
  const notes = new Notes(bundle, model.get("notes"));
  const root = h("div", { class: "gossamer" });
  el.replaceChildren(h("style", {}, css + labCss), root);

  const stageOf = (of: Index, its: Store, own: Notes | null, begin: HTMLElement | null): Stage => {
    const drawing = figure(of, its);
    const open = (site: string): void => {
      its.set({ selected: site });
      drawing.focus(site);
    };
    const toolbar = h("div", { class: "toolbar" }, search(of, its, open), strengthFilter(of, its));
    const element = h("div", { class: begin ? "stage outlined" : "stage" },
      h("div", { class: "stage-figure" }, toolbar, drawing.element, legend(of)),
      panel(of, its, drawing.focus, own, begin));
    // Beside the figure when there is room for both; under it, as a drawer, when there is not.
    const arrange = (width: number): void => {
      element.classList.toggle("stacked", width < 1080 || drawing.naturalWidth > width * 0.95);
      drawing.fit();
    };
    return { element, arrange };
  };
  const make: MakeStage = (of, its, begin) => stageOf(of, its, begin ? null : notes, begin);
  const stages = comparison(index, store, stageOf(index, store, notes, null), make);

  const engine = pageEngine(bundle) ?? (model.get("engine") as Engine | undefined);
  const note = engine ? `Type a prompt. ${engine.where === "page" ? "Computed in this page" : whoComputes(model)}, model and circuit alike.` : "";
  const askPart = part("ask", "Ask it", note, engine ? lab(index, store, engine) : noLab());

  const recordPart = h("details", { class: "part record-part" }, h("summary", {}, h("h2", {}, "Record"), h("span", { class: "muted" }, "where every number came from")), record(bundle.record));
  const trialPart = part("trial", "The trial", "each check beside its nulls: what the same number is when the circuit is not special", trial(bundle));
  const toTrial = (): void => {
    trialPart.tabIndex = -1;
    trialPart.scrollIntoView();
    trialPart.focus({ preventScroll: true });
  };
  root.append(
    h("header", { class: "top" },
      h("div", { class: "eyebrow" }, h("span", {}, "Gossamer circuit"), h("span", { class: "mono" }, bundle.task.name), themeButton(root, store)),
      h("h1", {}, bundle.title), lead(bundle),
      h("div", { class: "verdicts" }, tally(bundle), ownModel(toTrial))),
    askPart,
    stages.element,
    trialPart,
    ...(bundle.grain === "channel" ? [part("curve", "Size for loss", "", sizeCurve(bundle, store))] : []),
    recordPart,
    shareBar(bundle, notes, address ? () => linkTo(store.get(), first) : null),
    h("footer", {}, `Gossamer ${bundle.gossamer_version}. ${whoAnswers(model)}`),
  );
  tooltip(root);

  let lastWidth = 0;
  const watch = new ResizeObserver(() => {
    if (root.clientWidth === lastWidth) return;
    lastWidth = root.clientWidth;
    stages.arrange(lastWidth);
  });
  watch.observe(root);
  stages.arrange(root.clientWidth);

  const escape = (event: KeyboardEvent): void => {
    if (event.key !== "Escape") return;
    store.set({ selected: null, peeked: null });
    stages.escape();
  };
  root.addEventListener("keydown", escape);
  const unfollow = address ? follow(store, first, bundle) : (): void => undefined;
  return () => {
    unfollow();
    watch.disconnect();
    el.replaceChildren();
    void notes.close().then(leave);
  };
}

export { hosted, pageEngine, Tokenizer };
export default { render };
