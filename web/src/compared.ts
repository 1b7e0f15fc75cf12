// What `gossamer compare` found of this circuit and others: whose ablation costs which task, what they share, the evidence.

import type { ComparedCell, ComparedOverlap, Comparison } from "./bundle";
import { count, h, num, plural } from "./dom";
import { check } from "./trial";

const ALL = "all";
/** Beyond which a share of a loss is drawn as whole. */
const shade = (value: number): string => `--share:${(100 * Math.min(1, Math.max(0, value))).toFixed(1)}%`;

function head(...names: string[]): HTMLElement {
  return h("thead", {}, h("tr", {}, h("td", {}), ...names.map((name) => h("th", { scope: "col" }, name))));
}

function between([low, high]: readonly [number, number]): string {
  return `${num(low, 3)} to ${num(high, 3)}`;
}

function cellOf(cell: ComparedCell | undefined): HTMLElement {
  if (!cell || cell.share === null) return h("td", { class: "absent" }, cell ? "empty" : "–");
  const spread = cell.interval ? `, 95% ${between(cell.interval)}` : "";
  const random = cell.random_interval ? `; random sets, central 95%: ${between(cell.random_interval)}` : "";
  return h("td", { class: "shaded", style: shade(cell.share), "data-tip": `${plural(cell.size, "part")}: ${cell.share}${spread}${random}` },
    `${num(cell.share, 3)} `, cell.random === null ? null : h("span", { class: "aside" }, num(cell.random, 2)));
}

function losses(found: Comparison): HTMLElement | null {
  if (!found.cells.length) return null;
  const key = (ablated: string, on: string): string => JSON.stringify([ablated, on]);
  const at = new Map(found.cells.map((cell) => [key(cell.ablated, cell.on), cell]));
  return h("section", {}, h("h3", {}, "Effect lost, circuit by task"),
    h("table", { class: "sizes losses" }, head(...found.names.map((name) => `on ${name}`)),
      h("tbody", {}, ...found.names.map((a) => h("tr", {}, h("th", { scope: "row" }, a), ...found.names.map((b) => cellOf(at.get(key(a, b)))))))),
    h("p", { class: "prose muted" }, "A row's circuit is ablated, everything else runs: the share of the effect on a column's task that is lost, and beside it the mean of random sets in its place."));
}

function parts(found: Comparison): HTMLElement | null {
  if (!found.parts.length) return null;
  const names = [...new Set(found.parts.map((cell) => cell.ablated))];
  return h("section", {}, h("h3", {}, "What two share, and what each has alone"),
    h("table", { class: "sizes parts" }, head("parts", "its effect lost on", "", "", ""),
      h("tbody", {}, ...names.map((name) => {
        const own = found.parts.filter((cell) => cell.ablated === name);
        return h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, count(own[0]?.size ?? 0)), ...own.flatMap((cell) => [h("td", {}, cell.on), cellOf(cell)]));
      }))));
}

function overlapRow(row: ComparedOverlap, name: string): HTMLElement {
  const cells = [row.iou, row.iom, row.chance, row.p_value];
  return h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, row.kind === ALL ? row.what : `${row.what}: ${row.kind}`),
    h("td", {}, `${count(row.sizes[0])}, ${count(row.sizes[1])}`), h("td", {}, count(row.shared)),
    ...(row.iou === null ? [h("td", { colspan: 4, class: "absent" }, "one of them has none")]
      : cells.map((value) => h("td", { "data-tip": value === null ? null : String(value) }, value === null ? "–" : num(value, 3)))));
}

function overlaps(rows: ReadonlyArray<ComparedOverlap>): HTMLElement | null {
  if (!rows.length) return null;
  const table = (some: ReadonlyArray<ComparedOverlap>): HTMLElement => h("table", { class: "sizes overlaps" },
    head("of", "sizes", "in both", "IoU", "IoM", "by chance", "p"), h("tbody", {}, ...some.map((row) => overlapRow(row, `${row.a}, ${row.b}`))));
  const kinds = rows.filter((row) => row.kind !== ALL);
  return h("section", {}, h("h3", {}, "Overlap"), table(rows.filter((row) => row.kind === ALL)),
    kinds.length ? h("details", { class: "method" }, h("summary", {}, "By kind"), table(kinds)) : null,
    h("p", { class: "prose muted" }, "IoU: shared over all; IoM: over the smaller. By chance: the mean IoU of random sets of their sizes by kind; p: how often those share as much."));
}

/** The comparison as tables, then its other rows of evidence as the trial shows them. */
export function compared(found: Comparison): HTMLElement {
  return h("div", { class: "compared" }, h("p", { class: "lead" }, found.finding),
    h("div", { class: "both-notes" }, losses(found), overlaps(found.overlap), parts(found)),
    found.evidence.length ? h("div", { class: "checks" }, ...found.evidence.map((one) => check(one, "", "found"))) : null);
}
