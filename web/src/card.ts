// The panel beside the figure: a node's card, or, with nothing selected, where to begin.

import type { Excerpt, Histogram, NodeView } from "./bundle";
import { count, h, num, plural, s, signed, visible, visibleSpaces, type Child } from "./dom";
import { given, sizeOf, toneOf, type Index, type Link } from "./index";
import { noteField, type Notes } from "./notes";
import { describe } from "./sites";
import type { Store } from "./state";

const LINKS_AT_FIRST = 8;

function section(title: string, note: string | null, ...children: Child[]): HTMLElement {
  return h("section", { class: "card-part" }, h("h3", {}, title, note ? h("span", { class: "aside" }, note) : null), ...children);
}

function nodeButton(node: NodeView, open: (site: string) => void): HTMLButtonElement {
  const button = h("button", { type: "button", class: "site", "data-tip": describe(node) }, node.site);
  button.addEventListener("click", () => open(node.site));
  return button;
}

function linkRow(link: Link, index: Index, open: (site: string) => void): HTMLElement {
  const { edge, other } = link;
  const parts = index.bundle.grain === "head";
  const button = h("td", {}, nodeButton(other, open), parts && edge && "qkv".includes(edge.matrix) ? h("span", { class: "into" }, `for ${edge.matrix}`) : null);
  if (!edge) return h("tr", {}, button, h("td", { class: "muted", colspan: 2 }, parts ? "keys, values" : "carried"));
  const share = (100 * sizeOf(edge)) / index.largestWeight;
  return h("tr", {}, button,
    h("td", { class: "figure-cell", "data-tip": `${edge.matrix}: ${edge.weight ?? "no score"}` }, edge.weight === null ? "–" : signed(edge.weight)),
    h("td", { class: "bar-cell" }, h("span", { class: `bar ${toneOf(index.bundle, edge.weight)}`, style: `width:${share.toFixed(1)}%` })),
  );
}

function links(title: string, list: Link[], index: Index, open: (site: string) => void, none: string, of: string | null = null): HTMLElement {
  if (!list.length) return section(title, of, h("p", { class: "muted" }, none));
  const body = h("tbody", {}, ...list.slice(0, LINKS_AT_FIRST).map((link) => linkRow(link, index, open)));
  const table = h("table", { class: "links", "aria-label": title }, body); // a hidden caption would undo the widths of its columns
  const rest = list.slice(LINKS_AT_FIRST);
  if (!rest.length) return section(title, of ?? `${list.length}`, table);
  const more = h("button", { type: "button", class: "more" }, `${rest.length} more`);
  more.addEventListener("click", () => {
    body.append(...rest.map((link) => linkRow(link, index, open)));
    more.remove();
  });
  return section(title, of ?? `${list.length}`, table, more);
}

/** Tokens in running text, each tinted by its activation; the peak is outlined, negative ones are underlined. */
function excerpt(one: Excerpt, largest: number, least: number): HTMLElement {
  const text = h("p", { class: "excerpt" });
  one.tokens.forEach((token, i) => {
    const act = one.activations[i] as number;
    const share = Math.min(1, Math.abs(act) / largest);
    const kind = act === 0 ? "" : act > 0 ? " pos" : " neg";
    const peak = i === one.position ? " peak" : "";
    const tint = act === 0 ? null : `--share:${(least + share * (70 - least)).toFixed(0)}%`;
    const read = act === 0 ? null : h("span", { class: "sr" }, ` (${num(act, 3)})`);
    text.append(h("span", { class: `tok${kind}${peak}`, style: tint, "data-tip": `${visibleSpaces(token)}   ${num(act, 6)}` }, visible(token), read));
  });
  return text;
}

function levelName(level: number | null): string | null {
  return level === null ? null : level === 0 ? "silent" : level === 1 ? "strongest" : `${num(100 * level, 3)} %`;
}

/** least: the tint, in percent, of the smallest activation that is not zero. */
function excerpts(list: ReadonlyArray<Excerpt>, least = 12): HTMLElement[] {
  const largest = Math.max(1e-9, ...list.flatMap((one) => one.activations.map(Math.abs)));
  return list.map((one) => {
    const level = levelName(one.level);
    return h("div", { class: "excerpt-row" },
      h("span", { class: "peak-value" }, num(one.activations[one.position] as number, 3), level ? h("span", { class: "level" }, level) : null), excerpt(one, largest, least));
  });
}

/** From the strongest place of ordinary text to one where the node is silent. */
function firesOn(node: NodeView): HTMLElement | null {
  if (!node.examples.length) return null;
  const list = [...node.examples.map((one, i) => ({ ...one, level: i ? null : 1 })), ...node.levels];
  const share = node.active_share === null ? "strongest in text" : `not zero on ${num(100 * node.active_share, 3)} % of the tokens of a text`;
  const key = node.levels.length ? h("p", { class: "fact-note" }, "90 %: stronger than at 90 % of the tokens where it is not zero.") : null;
  return section("Fires on", share, ...excerpts(list), key);
}

const HIST = { width: 330, half: 30, gap: 16 };

/** Counts on the two sides of the pair: clean prompts up and filled, counterfactual ones down and hollow. */
function histogram(one: Histogram): HTMLElement {
  const { width, half, gap } = HIST;
  const n = one.clean.length;
  const most = Math.max(1, ...one.clean, ...one.counterfactual);
  const step = (one.high - one.low) / n;
  const bar = width / n;
  const bin = (i: number): string => `${num(one.low + i * step, 3)} to ${num(one.low + (i + 1) * step, 3)}`;
  const said = one.clean.flatMap((c, i) => (c || one.counterfactual[i] ? [`${bin(i)}: ${c} clean, ${one.counterfactual[i]} counterfactual`] : []));
  const middle = half;
  const svg = s("svg", { viewBox: `0 0 ${width} ${2 * half + gap}`, class: "histogram", role: "img", "aria-label": `At the ${one.at}. ${said.join("; ")}` },
    s("path", { d: `M0 ${middle}H${width}M0 ${middle + gap}H${width}`, class: "axis-line" }));
  one.clean.forEach((up, i) => {
    const down = one.counterfactual[i] as number;
    const [a, b] = [(up / most) * (half - 2), (down / most) * (half - 2)];
    const tip = `${bin(i)}\n${up} clean, ${down} counterfactual`;
    if (up) svg.append(s("rect", { x: i * bar + 1, y: middle - a, width: bar - 2, height: a, class: "bar-clean", "data-tip": tip }));
    if (down) svg.append(s("rect", { x: i * bar + 1.5, y: middle + gap, width: bar - 3, height: b, class: "bar-other", "data-tip": tip }));
  });
  svg.append(s("text", { x: 0, y: middle + 12, class: "axis-text start" }, num(one.low, 3)), s("text", { x: width, y: middle + 12, class: "axis-text end" }, num(one.high, 3)),
    s("text", { x: width / 2, y: middle + 12, class: "axis-text" }, one.at));
  return h("div", { class: "histogram-row" }, svg as unknown as Node);
}

function spread(node: NodeView): HTMLElement | null {
  if (!node.histograms.length) return null;
  const prompts = node.histograms[0]?.clean.reduce((a, b) => a + b, 0) ?? 0;
  return section("On the two sides of the pair", `${count(prompts)} held-out pairs`, ...node.histograms.map(histogram),
    h("p", { class: "fact-note" }, h("span", { class: "key-clean", "aria-hidden": "true" }), "clean, above; ", h("span", { class: "key-other", "aria-hidden": "true" }), "counterfactual, below"));
}

/** What it does, each number with what it is and the null it stands beside. */
function effects(index: Index, node: NodeView): HTMLElement {
  const body = h("tbody");
  const add = (label: string, value: string, exact: number | string | null, ...note: Child[]): void => {
    body.append(h("tr", {}, h("th", { scope: "row" }, label), h("td", { class: "figure-cell", "data-value": exact, "data-tip": exact }, value), h("td", { class: "fact-note" }, ...note)));
  };
  const own = node.ablation_effect_nats;
  const rank = index.ranked.indexOf(node) + 1;
  if (own === null) add("Ablated in the circuit", "–", null, "not measured");
  else add("Ablated in the circuit", signed(own, 3), own, `nats of task loss, rank ${rank} of ${index.ranked.length}`);
  const whole = node.model_effect_nats;
  if (whole !== null) {
    const null_ = index.bundle.circuit.effect_nulls[node.location];
    const value = null_?.value ?? null;
    const beside = null_ && value !== null
      ? h("span", { "data-null": String(value), "data-tip": `${null_.name}: mean ${value}, central 95 % of ${null_.n}` },
          `nats; random ${describePlace(node)} ${signed(value, 2)}`, null_.interval ? ` [${num(null_.interval[0], 2)}, ${num(null_.interval[1], 2)}]` : "", `, n ${null_.n}`)
      : "nats; no null: the circuit has all of them";
    add("Ablated in the model", signed(whole, 3), whole, beside);
  }
  if (node.direct_effect) {
    const [clean, other] = node.direct_effect;
    add("Straight to the answer", signed(clean, 3), clean, "right − wrong logit, clean prompts");
    add("", signed(other, 3), other, "the same, counterfactual prompts");
  } else if (node.model_effect_nats !== null) add("Straight to the answer", "–", null, "does not write to the residual stream");
  if (node.direct_logit !== null) add("Weight to the answer", signed(node.direct_logit, 3), node.direct_logit, "answer − wrong answer, after the norm");
  return h("table", { class: "effects", "aria-label": "Effects" }, body);
}

/** What its null is drawn from. */
function describePlace(node: NodeView): string {
  return node.location.replace(/^\d+\./, "");
}

/** Of how many weights of the model its edges in the circuit are. */
function ofModel(node: NodeView, end: 0 | 1, list: Link[]): string | null {
  const all = node.model_edges?.[end];
  const own = list.filter((link) => link.edge).length;
  return all ? `${own} of its ${count(all)} weights in the model` : null;
}

/** The mean over text, and the means on the two sides of the pair, on one axis. */
function sides(node: NodeView): HTMLElement {
  const [clean, counter] = node.mean_on_answer ?? [null, null];
  const rows: [string, number, string][] = [
    ["clean prompt", given(clean), "dot-full"],
    ["counterfactual", given(counter), "dot-open"],
    ["mean over text", given(node.mean), "dot-tick"],
  ];
  const values = [...rows.map((r) => r[1]), 0];
  let [lo, hi] = [Math.min(...values), Math.max(...values)];
  if (hi - lo < 1e-9) [lo, hi] = [lo - 1, hi + 1];
  const [left, right, width] = [6, 6, 150];
  const x = (v: number): number => left + ((v - lo) / (hi - lo)) * (width - left - right);
  const table = h("table", { class: "sides" });
  rows.forEach(([label, value, kind]) => {
    const picture = s("svg", { width, height: 20, "aria-hidden": "true" },
      s("path", { d: `M${left} 10H${width - right}`, class: "rail" }),
      s("path", { d: `M${x(0)} 3V17`, class: "zero" }),
      kind === "dot-tick"
        ? s("path", { d: `M${x(value)} 5V15`, class: "dot-tick" })
        : s("circle", { cx: x(value), cy: 10, r: 4, class: kind }),
    );
    table.append(h("tr", {}, h("th", { scope: "row" }, label),
      h("td", { class: "figure-cell", "data-tip": String(value) }, num(value)), h("td", {}, picture as unknown as Node)));
  });
  return table;
}

function tokenList(list: ReadonlyArray<readonly [string, number]>): HTMLElement {
  return h("div", { class: "chips" }, ...list.map(([token, weight]) =>
    h("span", { class: `chip ${weight >= 0 ? "pos" : "neg"}`, "data-tip": `weight ${num(weight, 6)}` },
      h("code", {}, visibleSpaces(token)), h("span", { class: "chip-number" }, signed(weight, 2)))));
}

function fact(label: string, value: string, note: string): HTMLElement {
  return h("div", { class: "fact" }, h("div", { class: "fact-label" }, label), h("div", { class: "fact-value" }, value), h("div", { class: "fact-note" }, note));
}

function cardHead(node: NodeView, open: (site: string | null) => void): HTMLElement {
  const close = h("button", { type: "button", class: "close", "aria-label": "Close the card (Escape)" }, "×");
  close.addEventListener("click", () => open(null));
  return h("header", { class: "card-head" },
    h("div", {}, h("h2", { class: "mono" }, node.site), h("p", { class: "muted" }, describe(node))), close);
}

/** A head, a group, an MLP or an end: its edges with their scores, and where a head looks. */
function partCard(index: Index, node: NodeView, open: (site: string | null) => void): HTMLElement {
  const edges = (list: Link[]): number => list.filter((link) => link.edge).length;
  const [into, out] = [index.fedBy(node.site), index.feeds(node.site)];
  const sum = (label: string, value: number | null, n: number): HTMLElement | null =>
    value === null || n === 0 ? null : fact(label, num(value), `${plural(n, "edge")}, sum of |score|`);
  const rank = index.ranked.indexOf(node) + 1;
  return h("article", { class: "card", "data-card": node.site }, cardHead(node, open),
    h("div", { class: "facts" }, sum("In", node.score_in, edges(into)), sum("Out", node.score_out, edges(out)),
      rank ? fact("Rank", `${rank}`, `of ${index.ranked.length}, by |score|`) : null),
    h("div", { class: "two" },
      node.kind === "input" ? null : links("Fed by", into, index, open, "No kept edge."),
      node.kind === "logits" ? null : links("Feeds", out, index, open, "No kept edge.")),
    node.task_examples.length ? section("Looks at", "attention from the last token, highest", ...excerpts(node.task_examples, 0)) : null,
  );
}

function nodeCard(index: Index, node: NodeView, open: (site: string | null) => void): HTMLElement {
  if (node.kind !== "channel") return partCard(index, node, open);
  const isFinal = node.location === "final_resid";
  const [into, out] = [index.fedBy(node.site), index.feeds(node.site)];
  const measured = node.mean !== null && node.mean_on_answer !== null;
  return h("article", { class: "card", "data-card": node.site },
    cardHead(node, open),
    measured ? section("What it does", null, effects(index, node)) : null,
    measured ? section("At the answer", "last position, mean over pairs", sides(node)) : null,
    spread(node),
    h("div", { class: "two" },
      links("Fed by", into, index, open, "No kept node: it reads the embedding, or only means.", ofModel(node, 0, into)),
      links("Feeds", out, index, open, isFinal ? "The logits." : "No kept node.", ofModel(node, 1, out)),
    ),
    firesOn(node),
    node.task_examples.length ? section("On the task", null, ...excerpts(node.task_examples)) : null,
    measured && node.examples.length + node.task_examples.length === 0 ? section("Fires on", null, h("p", { class: "muted" }, "No examples were recorded.")) : null,
    node.top_tokens_in.length ? section("Tokens that write it", "embedding", tokenList(node.top_tokens_in)) : null,
    node.top_tokens_out.length ? section("Tokens it promotes", "unembedding", tokenList(node.top_tokens_out)) : null,
  );
}

function overview(index: Index, open: (site: string) => void): HTMLElement {
  const { bundle } = index;
  const { model, circuit } = bundle;
  const top = index.ranked.slice(0, 10);
  const parts = bundle.grain === "head";
  const rows = top.map((node) => {
    const matter = index.matter(node) as number;
    const share = Math.max(0, (100 * matter) / index.largestMatter);
    return h("tr", {}, h("td", {}, nodeButton(node, open)), h("td", { class: "figure-cell", "data-tip": String(matter) }, parts ? num(matter, 3) : signed(matter, 3)),
      h("td", { class: "bar-cell" }, h("span", { class: "bar ink", style: `width:${share.toFixed(1)}%` })));
  });
  const pairs = bundle.task.examples.map((pair) =>
    h("div", { class: "pair" },
      h("p", { class: "prompt" }, visible(pair.clean), h("mark", {}, visible(pair.answer))),
      h("p", { class: "prompt" }, visible(pair.counterfactual), h("mark", { class: "other" }, visible(pair.wrong_answer)))));
  const shared = model.n_group === null ? "" : ` in ${model.n_group} groups`;
  const neurons = model.d_mlp === null ? "" : `${count(model.d_mlp)} neurons per layer, `;
  const size = `${plural(model.n_layer, "layer")}, width ${count(model.d_model)}, ${model.n_head} heads of ${model.d_head}${shared}, ` +
    `${neurons}${count(model.vocab_size)} tokens`;
  const total = count(model.total_weights);
  const nonzero = model.nonzero_weights;
  const weights = nonzero === null
    ? `${total} parameters`
    : `${count(nonzero)} of ${total} weights are not zero (${num((100 * nonzero) / Math.max(1, model.total_weights), 2)} %)`;
  return h("div", { class: "card overview" },
    section("What matters most", parts ? "sum of |score| over its edges" : "loss rise when ablated, nats",
      top.length ? h("table", { class: "links" }, h("tbody", {}, ...rows)) : h("p", { class: "muted" }, parts ? "The circuit came without scores." : "Not measured.")),
    section("The task", "each prompt and its right answer", ...pairs),
    section("The model", null,
      h("p", { class: "prose" }, h("b", {}, model.name), `: ${size}. `, weights,
        model.val_loss_nats === null ? "." : `; validation loss ${num(model.val_loss_nats)} nats per token.`),
      circuit.calibration
        ? h("p", { class: "prose muted" }, `The circuit's two candidate logits are scaled by ${num(circuit.calibration.scale)} and shifted by ${num(circuit.calibration.shift)}.`)
        : null),
  );
}

/** notes: where the reader's are; without them no field is shown. begin: in place of where to begin. */
export function panel(index: Index, store: Store, focusNode: (site: string) => void, notes: Notes | null = null, begin: HTMLElement | null = null): HTMLElement {
  const host = h("aside", { class: "panel", "aria-live": "polite", "aria-label": "Selected node", tabindex: -1 });
  const open = (site: string | null): void => {
    store.set({ selected: site });
    if (site) focusNode(site);
  };
  let field: ReturnType<typeof noteField> | null = null;
  notes?.listen(() => field?.refresh());
  const draw = (): void => {
    const { selected } = store.get();
    const node = selected ? index.nodes.get(selected) : undefined;
    host.classList.toggle("has-node", node !== undefined);
    const card = node ? nodeCard(index, node, open) : (begin ?? overview(index, open));
    field = notes && !begin ? noteField(notes, node?.site ?? "circuit", node ? `Notes on ${node.site}` : "Notes on the circuit") : null;
    if (field) card.append(field.element);
    host.replaceChildren(card);
    host.scrollTop = 0;
  };
  store.listen((now, before) => {
    if (now.selected === before.selected) return;
    const held = host.matches(":focus-within");
    draw();
    if (held && before.selected && !now.selected) focusNode(before.selected); // a closed card hands the focus back
  });
  draw();
  return host;
}

