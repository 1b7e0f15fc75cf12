// Find a node by site, by what it is, or by a token it reads or promotes.

import { h, uniqueId, visibleSpaces } from "./dom";
import type { Index } from "./index";
import { describe } from "./sites";
import type { Store } from "./state";

const AT_MOST = 8;

/** Said when nothing matches: what can be searched, with a site of this circuit. */
function nothing({ bundle }: Index): string {
  const [first] = bundle.circuit.nodes;
  const site = first ? `a site (${first.site})` : "a site";
  const what = bundle.grain === "head" ? `${site} or a kind (head, MLP, layer 1)` : `${site}, a kind (neuron, value, head 3) or a token that a node reads or promotes`;
  return `No node matches. Search for ${what}.`;
}

export function search(index: Index, store: Store, open: (site: string) => void): HTMLElement {
  const listId = uniqueId("found");
  const what = index.bundle.grain === "head" ? "Find a head, a group or an MLP" : "Find a node or a token";
  const input = h("input", {
    type: "search", class: "search", placeholder: what, "aria-label": what, role: "combobox",
    "aria-expanded": "false", "aria-controls": listId, "aria-autocomplete": "list", autocomplete: "off", spellcheck: "false",
  });
  const list = h("ul", { class: "results", id: listId, role: "listbox", hidden: true });
  const texts = [...index.nodes.values()].map((node) => ({
    node,
    text: `${node.site} ${describe(node)}`.toLowerCase(),
    tokens: [...node.top_tokens_in, ...node.top_tokens_out].map(([token]) => token.toLowerCase()),
  }));
  let active = 0;
  let sites: string[] = [];

  const mark = (): void => {
    [...list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === active)));
    input.setAttribute("aria-activedescendant", list.children[active]?.id ?? "");
  };
  const choose = (site: string): void => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    store.set({ found: null });
    open(site);
  };
  const update = (): void => {
    const words = input.value.toLowerCase().trim().split(/\s+/).filter(Boolean);
    active = 0;
    if (!words.length) {
      sites = [];
      list.replaceChildren();
      list.hidden = true;
      input.setAttribute("aria-expanded", "false");
      store.set({ found: null });
      return;
    }
    const hits = texts.flatMap(({ node, text, tokens }) => {
      if (words.every((w) => text.includes(w))) return [{ node, why: describe(node) }];
      const token = tokens.find((t) => words.every((w) => t.includes(w)));
      return token === undefined ? [] : [{ node, why: `token ${visibleSpaces(token)}` }];
    });
    sites = hits.map((hit) => hit.node.site);
    list.replaceChildren(...hits.slice(0, AT_MOST).map(({ node, why }) => {
      const item = h("li", { role: "option", id: uniqueId("option") }, h("span", { class: "mono" }, node.site), h("span", { class: "muted" }, why));
      item.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        choose(node.site);
      });
      return item;
    }));
    const more = hits.length - AT_MOST;
    if (more > 0 || !hits.length) list.append(h("li", { class: "count", "aria-disabled": "true" }, hits.length ? `${more} more, marked in the figure` : nothing(index)));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    store.set({ found: new Set(sites) });
    mark();
  };
  input.addEventListener("input", update);
  input.addEventListener("focus", update);
  input.addEventListener("blur", () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    store.set({ found: null });
  });
  input.addEventListener("keydown", (event) => {
    const last = Math.min(sites.length, AT_MOST) - 1;
    if (event.key === "ArrowDown") active = Math.min(last, active + 1);
    else if (event.key === "ArrowUp") active = Math.max(0, active - 1);
    else if (event.key === "Enter") {
      const site = sites[active];
      if (site) choose(site);
    } else if (event.key === "Escape" && input.value) {
      input.value = "";
      update();
      event.stopPropagation();
    } else return;
    event.preventDefault();
    mark();
  });
  return h("div", { class: "search-box" }, input, list);
}
