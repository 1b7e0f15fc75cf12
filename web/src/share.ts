// What the reader looks at lives in the page's address, and leaves as files: a link, a graph, notes.

import type { Bundle } from "./bundle";
import { h } from "./dom";
import { attributionGraph } from "./neuronpedia";
import { soundNotes, type Notes } from "./notes";
import type { State, Store } from "./state";

const LONGEST = 20_000;
const MOST = 40;
const OWN = ["selected", "strongest"];
/** The address is written so long after the last change: a browser takes only so many in a row. */
const SETTLED_MS = 200;

/** Change one text that survives a reload; null forgets it. */
export function keep(store: Store, key: string, text: string | null): void {
  const kept = { ...store.get().kept };
  if (text === null) delete kept[key];
  else kept[key] = text;
  store.set({ kept });
}

/** The state in an address's hash: what is not sound in it is left out. */
export function stateIn(hash: string, bundle: Bundle): Partial<State> {
  let found: URLSearchParams;
  try {
    found = new URLSearchParams(hash.replace(/^#/, "").slice(0, LONGEST * 4));
  } catch {
    return {};
  }
  const kept: Record<string, string> = {};
  for (const [key, text] of [...found].slice(0, MOST)) {
    if (!OWN.includes(key) && /^[a-z][a-z0-9_.-]{0,40}$/i.test(key) && text.length <= LONGEST) kept[key] = text;
  }
  const selected = found.get("selected");
  const strongest = Number(found.get("strongest") ?? NaN);
  const isNode = bundle.circuit.nodes.some((node) => node.site === selected);
  const isCount = found.has("strongest") && Number.isInteger(strongest) && strongest >= 0 && strongest <= bundle.circuit.n_edges;
  return { kept, selected: isNode ? selected : null, ...(isCount ? { strongest } : {}) };
}

function hashOf(state: State, first: State): string {
  const out = new URLSearchParams();
  if (state.selected) out.set("selected", state.selected);
  if (state.strongest !== first.strongest) out.set("strongest", String(state.strongest));
  for (const [key, text] of Object.entries(state.kept).sort()) out.set(key, text);
  const text = out.toString();
  return text ? `#${text}` : "";
}

/** Only a page of its own has an address; in a notebook nothing is done. */
export function hasAddress(el: HTMLElement): boolean {
  return el.id === "gossamer-page";
}

/** Keeps the address as the state is; first: the state of a page opened without a hash. Returns its clean-up. */
export function follow(store: Store, first: State, bundle: Bundle): () => void {
  let own = "";
  let timer = 0;
  const write = (): void => {
    if (!timer) return;
    window.clearTimeout(timer);
    timer = 0;
    own = hashOf(store.get(), first);
    try {
      window.history.replaceState(null, "", own || window.location.pathname + window.location.search);
    } catch {
      /* a host that forbids it: the page works without */
    }
  };
  store.listen((now, before) => {
    if (now.selected === before.selected && now.strongest === before.strongest && now.kept === before.kept) return;
    window.clearTimeout(timer);
    timer = window.setTimeout(write, SETTLED_MS);
  });
  const read = (): void => {
    if (window.location.hash !== own) store.set({ ...first, ...stateIn(window.location.hash, bundle) });
  };
  window.addEventListener("hashchange", read);
  window.addEventListener("pagehide", write);
  return () => {
    write();
    window.removeEventListener("hashchange", read);
    window.removeEventListener("pagehide", write);
  };
}

/** The address of the page as it is now, whether or not the browser shows it already. */
export function linkTo(state: State, first: State): string {
  return window.location.href.replace(/#.*$/, "") + hashOf(state, first);
}

async function toClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { style: "position:fixed;opacity:0", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** A button that copies and says so. */
export function copyButton(label: string, text: () => string, name = label): HTMLButtonElement {
  const said = h("span", { "aria-live": "polite" }, label);
  const button = h("button", { type: "button", class: "tool", "aria-label": name }, said);
  button.addEventListener("click", () => {
    void toClipboard(text()).then((done) => {
      said.textContent = done ? "Copied" : "Select and copy by hand";
      window.setTimeout(() => { said.textContent = label; }, 1600);
    });
  });
  return button;
}

export function download(name: string, content: unknown): void {
  const url = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  const link = h("a", { href: url, download: name });
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function fileName(bundle: Bundle, what: string): string {
  return `${bundle.task.name}-${what}.json`.replace(/[^\w.-]+/g, "-");
}

function notesTools(bundle: Bundle, notes: Notes): HTMLElement[] {
  const out = h("button", { type: "button", class: "tool", "data-export": "notes" });
  out.addEventListener("click", () => download(fileName(bundle, "notes"), notes.all()));
  const show = (): void => {
    const n = Object.keys(notes.all()).length;
    out.textContent = n ? `Save notes (${n})` : "Save notes";
    out.disabled = n === 0;
  };
  notes.listen(show);
  show();
  const said = h("span", { class: "muted", role: "status" });
  const file = h("input", { type: "file", accept: ".json,application/json", class: "sr", tabindex: -1, "aria-label": "A file of notes" });
  file.addEventListener("change", () => {
    void file.files?.[0]?.text().then((text) => {
      let found: Record<string, string> | null = null;
      try {
        found = soundNotes(JSON.parse(text));
      } catch {
        /* said below */
      }
      if (found) notes.add(found);
      said.textContent = found ? `${Object.keys(found).length} read` : "Not a file of notes";
      file.value = "";
    });
  });
  const read = h("button", { type: "button", class: "tool" }, "Read notes");
  read.addEventListener("click", () => file.click());
  return [out, read, file, said];
}

/** Copy link, the graph as JSON, notes. address: of the page as it is; null where it has none. */
export function shareBar(bundle: Bundle, notes: Notes, address: (() => string) | null): HTMLElement {
  const graph = h("button", { type: "button", class: "tool", "data-export": "neuronpedia", "data-tip": "the circuit as an attribution graph, which Neuronpedia and circuit-tracer read" }, "Graph JSON");
  graph.addEventListener("click", () => download(fileName(bundle, "graph"), attributionGraph(bundle)));
  return h("div", { class: "share", role: "group", "aria-label": "Share" },
    address ? copyButton("Copy link", address, "Copy a link to this view") : null, graph, ...notesTools(bundle, notes));
}

/** The way to the trial, and two lines to run on one's own model. */
export function ownModel(toTrial: () => void): HTMLElement {
  const real = h("button", { type: "button", class: "tool real" }, "Is it real?");
  real.addEventListener("click", toTrial);
  const line = (text: string): HTMLElement => h("span", { class: "command" }, h("code", {}, text), copyButton("Copy", () => text, `Copy: ${text}`));
  return h("div", { class: "own-model" }, real, h("span", { class: "muted" }, "On your own model:"), line("gossamer doctor MODEL"), line("gossamer verify RUN"));
}
