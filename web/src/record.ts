// The Record: free nested JSON as a definition list.

import type { JsonValue } from "./bundle";
import { h } from "./dom";

function isTree(value: JsonValue): value is { readonly [key: string]: JsonValue } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function record(value: JsonValue): HTMLElement {
  if (!isTree(value)) return h("span", { class: "mono" }, typeof value === "string" ? value : JSON.stringify(value));
  const list = h("dl", { class: "record" });
  for (const [key, item] of Object.entries(value)) {
    list.append(h("dt", {}, key), h("dd", { class: isTree(item) ? "tree" : null }, record(item)));
  }
  return list;
}
