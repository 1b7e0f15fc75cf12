// The trial: every check with its value, its nulls and its verdict, as a table with one axis per check.

import type { Bundle, EvidenceView } from "./bundle";
import { count, h, num, s, sentence, ticks } from "./dom";

type Verdict = EvidenceView["verdict"];

const ICONS: Record<Verdict, string> = {
  pass: "M3 8.5L6.5 12L13 4.5",
  fail: "M4 4L12 12M12 4L4 12",
  "not reached": "M8 3V9.5M8 12V13",
  "not measured": "M3.5 8H12.5",
};

export function verdictBadge(verdict: Verdict, label: string = verdict): HTMLElement {
  const icon = s("svg", { width: 14, height: 14, viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: ICONS[verdict] }));
  return h("span", { class: `verdict ${verdict.replace(" ", "-")}` }, icon as unknown as Node, label);
}

interface Row {
  readonly name: string;
  readonly value: number | null;
  readonly interval: readonly [number, number] | null;
  readonly n: number | null;
  readonly outcome: string;
  readonly own: boolean;
}

const WIDTH = 260;
const INSET = 8;

function scaleOf(rows: Row[]): ((v: number) => number) & { lo: number; hi: number } {
  const values = rows.flatMap((row) => [row.value, ...(row.interval ?? [])]).filter((v): v is number => v !== null);
  let [lo, hi] = [Math.min(0, ...values), Math.max(...values, 0)];
  if (hi - lo < 1e-12) hi = lo + 1;
  const room = (hi - lo) * 0.04;
  [lo, hi] = [lo < 0 ? lo - room : lo, hi + room];
  return Object.assign((v: number) => INSET + ((v - lo) / (hi - lo)) * (WIDTH - 2 * INSET), { lo, hi });
}

function plot(row: Row, x: (v: number) => number): SVGSVGElement {
  const svg = s("svg", { width: WIDTH, height: 26, class: "plot", "aria-hidden": "true" }, s("path", { d: `M${INSET} 13H${WIDTH - INSET}`, class: "rail" }));
  if (row.value === null) return svg;
  if (row.interval) {
    const [a, b] = [x(row.interval[0]), x(row.interval[1])];
    svg.append(s("path", { d: `M${a} 13H${b}M${a} 9V17M${b} 9V17`, class: row.own ? "whisker own" : "whisker" }));
  }
  const at = x(row.value);
  svg.append(row.own
    ? s("path", { d: `M${at} 7L${at + 6} 13L${at} 19L${at - 6} 13Z`, class: "own-mark" })
    : s("circle", { cx: at, cy: 13, r: 4, class: "null-mark" }));
  return svg;
}

function axis(x: ((v: number) => number) & { lo: number; hi: number }, unit: string): SVGSVGElement {
  const svg = s("svg", { width: WIDTH, height: 34, class: "plot axis", "aria-hidden": "true" }, s("path", { d: `M${INSET} 2H${WIDTH - INSET}`, class: "axis-line" }));
  for (const t of ticks(x.lo, x.hi, 6)) {
    svg.append(s("path", { d: `M${x(t)} 2v4`, class: "axis-line" }), s("text", { x: x(t), y: 17, class: "axis-text" }, num(t, 3)));
  }
  svg.append(s("text", { x: WIDTH - INSET, y: 31, class: "axis-text end" }, unit));
  return svg;
}

function words(row: Row): string {
  if (row.value === null) return row.outcome;
  return num(row.value, 4);
}

function table(evidence: EvidenceView, own: string): HTMLElement {
  const rows: Row[] = [
    { name: own, value: evidence.value, interval: evidence.interval, n: evidence.n, outcome: evidence.verdict, own: true },
    ...evidence.nulls.map((null_) => ({ ...null_, own: false })),
  ];
  const drawn = rows.some((row) => row.value !== null);
  const x = scaleOf(rows);
  const body = h("tbody");
  for (const row of rows) {
    const interval = row.interval ? `[${num(row.interval[0], 3)}, ${num(row.interval[1], 3)}]` : "";
    body.append(h("tr", { class: row.own ? "own" : null },
      h("th", { scope: "row" }, row.name),
      h("td", { class: row.value === null ? "absent" : "figure-cell", "data-tip": row.value === null ? null : String(row.value) }, words(row)),
      h("td", { class: "interval" }, interval),
      h("td", { class: "n" }, row.n === null ? "" : count(row.n)),
      h("td", { class: "plot-cell" }, drawn ? (plot(row, x) as unknown as Node) : null)));
  }
  const head = h("thead", {}, h("tr", {}, h("th", { class: "c-name" }), h("th", { class: "c-value" }, evidence.unit || "value"), h("th", { class: "c-interval" }, "interval"), h("th", { class: "c-n" }, "n"), h("th", { class: "c-plot" })));
  const result = h("table", { class: "nulls" }, h("caption", { class: "sr" }, evidence.claim), head, body);
  if (drawn) result.append(h("tfoot", {}, h("tr", {}, h("td", { colspan: 4 }), h("td", { class: "plot-cell" }, axis(x, evidence.unit) as unknown as Node))));
  return result;
}

export function check(evidence: EvidenceView, when = "", own = "this circuit"): HTMLElement {
  const cut = evidence.claim.indexOf(": ");
  const [name, rest] = cut > 0 ? [evidence.claim.slice(0, cut), evidence.claim.slice(cut + 2)] : [evidence.claim, ""];
  const how = evidence.methodology ? Object.entries(evidence.methodology) : [];
  return h("article", { class: `check ${evidence.verdict.replace(" ", "-")}`, "data-verdict": evidence.verdict },
    h("div", { class: "check-text" },
      verdictBadge(evidence.verdict),
      h("h3", {}, sentence(name)),
      when ? h("p", { class: "threshold" }, `${sentence(when)}.`) : null,
      rest ? h("p", { class: "claim" }, `${sentence(rest)}.`) : null,
      evidence.threshold ? h("p", { class: "threshold" }, `${sentence(evidence.threshold)}.`) : null,
      evidence.note ? h("p", { class: "note" }, evidence.note) : null,
      how.length
        ? h("details", { class: "method" }, h("summary", {}, evidence.methodology?.["granularity"] ? "Ablation used" : "Method used"),
            h("dl", {}, ...how.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])))
        : null),
    h("div", { class: "check-data" }, table(evidence, own)),
  );
}

const AT_DISCOVERY = "checked at discovery";

/** The faithfulness that `discover` measured, where no trial has measured it again. */
function atDiscovery({ evidence, circuit: { faithfulness } }: Bundle): EvidenceView | null {
  return evidence.some((one) => one.claim.startsWith("faithfulness")) ? null : faithfulness;
}

export function trial(bundle: Bundle): HTMLElement {
  const [{ evidence }, first] = [bundle, atDiscovery(bundle)];
  const none = evidence.length ? null : h("p", { class: "muted" }, "No trial has been run on this circuit yet; ", h("code", {}, "gossamer verify RUN"), " runs it.");
  return h("div", { class: "checks" }, none, first && check(first, AT_DISCOVERY), ...evidence.map((one) => check(one)));
}

/** How many of each verdict, in words. */
export function tally(bundle: Bundle): HTMLElement {
  const order: Verdict[] = ["pass", "fail", "not reached", "not measured"];
  const badges = order.flatMap((verdict) => {
    const n = bundle.evidence.filter((e) => e.verdict === verdict).length;
    return n ? [verdictBadge(verdict, `${n} ${verdict}`)] : [];
  });
  const first = atDiscovery(bundle);
  return h("div", { class: "tally" }, ...badges, first && verdictBadge(first.verdict, `1 ${first.verdict}, ${AT_DISCOVERY}`));
}
