// Built from web/ by `npm run build`. Do not edit.

// src/dom.ts
var SVG = "http://www.w3.org/2000/svg";
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === void 0 || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child) element.append(child);
  return element;
}
function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}
function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}
var MINUS = "−";
function num(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? size.toExponential(digits - 1) : String(Number(size.toPrecision(digits)));
  return (value < 0 ? MINUS : "") + text;
}
function signed(value, digits = 4) {
  return (value > 0 ? "+" : "") + num(value, digits);
}
function count(value) {
  return value.toLocaleString("en-US");
}
function plural(n, word) {
  return `${count(n)} ${word}${n === 1 ? "" : "s"}`;
}
function sentence(text) {
  return (text.charAt(0).toUpperCase() + text.slice(1)).replace(/[.\s]+$/, "");
}
var NAMED = { "\n": "⏎", "	": "⇥", "\r": "␍" };
function visible(token) {
  if (token === "") return "∅";
  return token.replace(/[\u0000-\u001f\u007f]/g, (c) => NAMED[c] ?? `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}
function visibleSpaces(token) {
  return visible(token).replace(/ /g, "␣");
}
function ticks(lo, hi, want) {
  const raw = (hi - lo) / Math.max(1, want);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5, 10].find((k) => k * power >= raw) ?? 10) * power;
  const out = [];
  for (let k = Math.ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9; k++) out.push(Number((k * step).toPrecision(10)));
  return out;
}
var serial = 0;
function uniqueId(name) {
  serial += 1;
  return `gossamer-${name}-${serial}`;
}
function shorten(text, most) {
  return text.length > most ? `…${text.slice(text.length - most + 1)}` : text;
}

// src/index.ts
function given(value) {
  if (value === null) throw new Error("a number of the bundle is missing");
  return value;
}
function toneOf(bundle, weight) {
  if (weight === null) return "flat";
  const solid = bundle.circuit.edge_score?.needed === -1 ? weight < 0 : weight >= 0;
  return solid ? "up" : "down";
}
function sizeOf(edge) {
  return Math.abs(edge.weight ?? 0);
}
function strengthOf(node) {
  if (node.kind === "input" || node.kind === "logits" || node.score_in === null) return null;
  return node.score_in + (node.score_out ?? 0);
}
function indexOf(bundle) {
  const { circuit } = bundle;
  const nodes = new Map(circuit.nodes.map((node) => [node.site, node]));
  const out = /* @__PURE__ */ new Map();
  const into2 = /* @__PURE__ */ new Map();
  const add = (map, at, other, edge) => {
    const node = nodes.get(other);
    if (!node) return;
    const list = map.get(at);
    if (list) list.push({ other: node, edge });
    else map.set(at, [{ other: node, edge }]);
  };
  const edges = [...circuit.edges].sort((a, b) => sizeOf(b) - sizeOf(a));
  for (const edge of edges) {
    add(out, edge.src, edge.dst, edge);
    add(into2, edge.dst, edge.src, edge);
  }
  for (const carry of circuit.carries) {
    add(out, carry.src, carry.dst, null);
    add(into2, carry.dst, carry.src, null);
  }
  const matter = (node) => bundle.grain === "head" ? strengthOf(node) : node.ablation_effect_nats;
  const ranked = circuit.nodes.filter((node) => matter(node) !== null).sort((a, b) => matter(b) - matter(a));
  return {
    bundle,
    nodes,
    edges,
    carries: circuit.carries,
    largestWeight: Math.max(1e-9, ...edges.slice(0, 1).map(sizeOf)),
    matter,
    largestMatter: Math.max(1e-9, ranked[0] ? matter(ranked[0]) : 0),
    ranked,
    feeds: (site) => out.get(site) ?? [],
    fedBy: (site) => into2.get(site) ?? []
  };
}

// src/notes.ts
var LONGEST = 2e4;
var PAUSE_MS = 300;
function keyOf(bundle) {
  let hash = 5381;
  for (const c of JSON.stringify([bundle.record, bundle.task.name, bundle.circuit.n_nodes])) hash = (hash * 33 ^ c.charCodeAt(0)) >>> 0;
  return `gossamer-notes-${hash.toString(16)}`;
}
function isHost(value) {
  return typeof value === "object" && value !== null && typeof value.read === "function" && typeof value.write === "function";
}
function soundNotes(value) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  const pairs = Object.entries(value);
  if (!pairs.every(([, text]) => typeof text === "string" && text.length <= LONGEST)) return null;
  return Object.fromEntries(pairs.filter(([, text]) => text !== ""));
}
function changed(notes, by) {
  return soundNotes({ ...notes, ...by }) ?? {};
}
var Notes = class {
  constructor(bundle, host) {
    this.notes = {};
    /** What was written here and is not kept yet: only this is put over what others keep. */
    this.waiting = {};
    this.listeners = [];
    this.timer = 0;
    /** Whether the host's notes have been read: before that nothing is written over them. */
    this.known = false;
    this.turn = Promise.resolve();
    /** Where they are kept, as the page says it. */
    this.where = "page";
    /** At the end of the page there is no time to read again. */
    this.last = () => {
      window.clearTimeout(this.timer);
      if (!Object.keys(this.waiting).length) return;
      if (this.where === "browser") this.toBrowser();
      else if (this.where === "host" && this.known) void Promise.resolve(this.host?.write({ ...this.notes }, true)).catch(() => void 0);
    };
    /** What the host keeps, at the start and when the reader comes back from another tab. */
    this.look = () => {
      const host = this.host;
      if (document.hidden || this.where !== "host" || !host) return;
      this.inTurn(async () => this.have(await this.ofHost(host)));
    };
    /** Another tab has written. */
    this.hear = (event) => {
      if (event.key === this.key || event.key === null) this.have(this.kept());
    };
    this.key = keyOf(bundle);
    this.host = isHost(host) ? host : null;
    window.addEventListener("pagehide", this.last);
    if (this.host) {
      this.where = "host";
      this.look();
      document.addEventListener("visibilitychange", this.look);
      return;
    }
    try {
      this.notes = this.kept();
      this.where = "browser";
      window.addEventListener("storage", this.hear);
    } catch {
    }
  }
  get(site) {
    return this.notes[site] ?? "";
  }
  all() {
    return this.notes;
  }
  set(site, text) {
    this.change({ [site]: text.slice(0, LONGEST) });
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.write(), PAUSE_MS);
  }
  /** Notes from a file over the present ones. */
  add(more) {
    this.change(more);
    this.write();
  }
  listen(listener) {
    this.listeners.push(listener);
  }
  /** Writes what waits and listens no more; ends when the host has what it is sent. */
  close() {
    if (this.where === "host" && !this.known) this.write();
    else this.last();
    window.removeEventListener("pagehide", this.last);
    window.removeEventListener("storage", this.hear);
    document.removeEventListener("visibilitychange", this.look);
    return this.turn;
  }
  change(by) {
    this.waiting = { ...this.waiting, ...by };
    this.notes = changed(this.notes, by);
    this.tell();
  }
  /** What is kept now is this; what waits here stays over it. */
  have(kept) {
    this.notes = changed(kept, this.waiting);
    this.tell();
  }
  /** What the browser keeps; none where that is not notes. Throws without storage. */
  kept() {
    const text = window.localStorage.getItem(this.key);
    try {
      return soundNotes(JSON.parse(text ?? "{}")) ?? {};
    } catch {
      return {};
    }
  }
  write() {
    window.clearTimeout(this.timer);
    if (this.where === "host") this.inTurn(() => this.toHost());
    else if (this.where === "browser") this.toBrowser();
  }
  toBrowser() {
    try {
      const now = changed(this.kept(), this.waiting);
      window.localStorage.setItem(this.key, JSON.stringify(now));
      this.waiting = {};
      this.have(now);
    } catch {
      this.lost();
    }
  }
  /** Another tab may have written since: its notes are read first. */
  async toHost() {
    const sent = this.waiting;
    if (!this.host || !Object.keys(sent).length) return;
    const kept = await this.ofHost(this.host);
    this.have(kept);
    await this.host.write(changed(kept, sent));
    this.waiting = Object.fromEntries(Object.entries(this.waiting).filter(([site, text]) => sent[site] !== text));
  }
  /** What the host keeps; throws where that is not notes, so that nothing is written over it. */
  async ofHost(host) {
    const found2 = soundNotes(await host.read());
    if (!found2) throw new Error("not notes");
    this.known = true;
    return found2;
  }
  /** One call of the host after the other: an answer is never older than what was written. */
  inTurn(call) {
    this.turn = this.turn.then(call).catch(() => this.lost());
  }
  /** The place that kept them does so no more. */
  lost() {
    this.where = "page";
    this.tell();
  }
  tell() {
    for (const listener of this.listeners) listener();
  }
};
var KEPT = { host: "saved beside the run", browser: "kept in this browser", page: "not kept: save them to a file" };
function noteField(notes, site, label) {
  const area = h("textarea", { class: "note-text", rows: 2, maxlength: LONGEST, "aria-label": label, placeholder: "What you think it does" });
  const aside = h("span", { class: "aside note-kept" });
  const refresh = () => {
    if (area.value !== notes.get(site)) area.value = notes.get(site);
    aside.textContent = KEPT[notes.where];
  };
  area.addEventListener("input", () => notes.set(site, area.value));
  refresh();
  return { element: h("section", { class: "card-part" }, h("h3", {}, "Notes", aside), area), refresh };
}

// src/sites.ts
var PARTS = {
  "attn.act_in": { order: 0, row: "reads", short: "", noun: "channel read by attention" },
  "attn.q": { order: 1, row: "heads", short: "q", noun: "query channel" },
  "attn.k": { order: 1, row: "heads", short: "k", noun: "key channel" },
  "attn.v": { order: 1, row: "heads", short: "v", noun: "value channel" },
  "attn.resid_delta": { order: 2, row: "writes", short: "", noun: "channel written by attention" },
  "mlp.act_in": { order: 3, row: "reads", short: "", noun: "channel read by the MLP" },
  "mlp.post_act": { order: 4, row: "neurons", short: "", noun: "neuron" },
  "mlp.resid_delta": { order: 5, row: "writes", short: "", noun: "channel written by the MLP" }
};
function partOf(location) {
  return location.replace(/^\d+\./, "");
}
function placeOf(node) {
  if (node.kind !== "channel") {
    const row = node.layer === null ? node.kind === "input" ? -1 : 1e9 : node.layer * 10 + (node.kind === "mlp" ? 1 : 0);
    return { row, rowName: node.kind === "mlp" ? "MLP" : "heads", block: "layer", layer: node.layer, short: "", residual: false };
  }
  if (node.location === "final_resid") {
    return { row: 1e9, rowName: "final", block: "final", layer: null, short: "", residual: true };
  }
  const part2 = partOf(node.location);
  const known2 = PARTS[part2];
  const layer = node.layer ?? 0;
  return {
    row: layer * 10 + (known2?.order ?? 8),
    rowName: known2?.row ?? part2,
    block: known2 ? part2.split(".")[0] ?? "other" : "other",
    layer: node.layer,
    short: known2?.short ?? "",
    residual: part2.endsWith("act_in") || part2.endsWith("resid_delta")
  };
}
var NOUNS = {
  input: "embeddings of the tokens",
  logits: "logits of the answer",
  head: "attention head",
  mlp: "MLP",
  kv_group: "keys and values of group"
};
function describePart(node, kind) {
  if (node.layer === null) return NOUNS[kind];
  return `${NOUNS[kind]}${kind === "mlp" ? "" : ` ${node.index}`}, layer ${node.layer}`;
}
function describe(node) {
  if (node.kind !== "channel") return describePart(node, node.kind);
  if (node.location === "final_resid") return `channel ${node.index} of the final residual stream`;
  const noun = PARTS[partOf(node.location)]?.noun ?? partOf(node.location);
  const words2 = noun.split(" ");
  const named = words2[0] === "channel" ? `channel ${node.index} ${words2.slice(1).join(" ")}` : `${noun} ${node.index}`;
  const head2 = node.head === null ? "" : `, head ${node.head}`;
  return `${named}${head2}, layer ${node.layer ?? "?"}`;
}
function partName(node) {
  const { layer, rowName: rowName2, short, block } = placeOf(node);
  if (layer === null) return "channels of the final residual stream";
  const name = short ? node.head === null ? "head" : `head ${node.head}` : rowName2 === "reads" || rowName2 === "writes" ? `${rowName2} of ${block === "mlp" ? "the MLP" : "attention"}` : rowName2;
  return `${name}, layer ${layer}`;
}

// src/card.ts
var LINKS_AT_FIRST = 8;
function section(title, note, ...children) {
  return h("section", { class: "card-part" }, h("h3", {}, title, note ? h("span", { class: "aside" }, note) : null), ...children);
}
function nodeButton(node, open) {
  const button2 = h("button", { type: "button", class: "site", "data-tip": describe(node) }, node.site);
  button2.addEventListener("click", () => open(node.site));
  return button2;
}
function linkRow(link, index, open) {
  const { edge, other } = link;
  const parts2 = index.bundle.grain === "head";
  const button2 = h("td", {}, nodeButton(other, open), parts2 && edge && "qkv".includes(edge.matrix) ? h("span", { class: "into" }, `for ${edge.matrix}`) : null);
  if (!edge) return h("tr", {}, button2, h("td", { class: "muted", colspan: 2 }, parts2 ? "keys, values" : "carried"));
  const share2 = 100 * sizeOf(edge) / index.largestWeight;
  return h(
    "tr",
    {},
    button2,
    h("td", { class: "figure-cell", "data-tip": `${edge.matrix}: ${edge.weight ?? "no score"}` }, edge.weight === null ? "–" : signed(edge.weight)),
    h("td", { class: "bar-cell" }, h("span", { class: `bar ${toneOf(index.bundle, edge.weight)}`, style: `width:${share2.toFixed(1)}%` }))
  );
}
function links(title, list, index, open, none, of = null) {
  if (!list.length) return section(title, of, h("p", { class: "muted" }, none));
  const body = h("tbody", {}, ...list.slice(0, LINKS_AT_FIRST).map((link) => linkRow(link, index, open)));
  const table2 = h("table", { class: "links", "aria-label": title }, body);
  const rest = list.slice(LINKS_AT_FIRST);
  if (!rest.length) return section(title, of ?? `${list.length}`, table2);
  const more = h("button", { type: "button", class: "more" }, `${rest.length} more`);
  more.addEventListener("click", () => {
    body.append(...rest.map((link) => linkRow(link, index, open)));
    more.remove();
  });
  return section(title, of ?? `${list.length}`, table2, more);
}
function excerpt(one, largest, least) {
  const text = h("p", { class: "excerpt" });
  one.tokens.forEach((token, i) => {
    const act = one.activations[i];
    const share2 = Math.min(1, Math.abs(act) / largest);
    const kind = act === 0 ? "" : act > 0 ? " pos" : " neg";
    const peak = i === one.position ? " peak" : "";
    const tint = act === 0 ? null : `--share:${(least + share2 * (70 - least)).toFixed(0)}%`;
    const read = act === 0 ? null : h("span", { class: "sr" }, ` (${num(act, 3)})`);
    text.append(h("span", { class: `tok${kind}${peak}`, style: tint, "data-tip": `${visibleSpaces(token)}   ${num(act, 6)}` }, visible(token), read));
  });
  return text;
}
function levelName(level) {
  return level === null ? null : level === 0 ? "silent" : level === 1 ? "strongest" : `${num(100 * level, 3)} %`;
}
function excerpts(list, least = 12) {
  const largest = Math.max(1e-9, ...list.flatMap((one) => one.activations.map(Math.abs)));
  return list.map((one) => {
    const level = levelName(one.level);
    return h(
      "div",
      { class: "excerpt-row" },
      h("span", { class: "peak-value" }, num(one.activations[one.position], 3), level ? h("span", { class: "level" }, level) : null),
      excerpt(one, largest, least)
    );
  });
}
function firesOn(node) {
  if (!node.examples.length) return null;
  const list = [...node.examples.map((one, i) => ({ ...one, level: i ? null : 1 })), ...node.levels];
  const share2 = node.active_share === null ? "strongest in text" : `not zero on ${num(100 * node.active_share, 3)} % of the tokens of a text`;
  const key2 = node.levels.length ? h("p", { class: "fact-note" }, "90 %: stronger than at 90 % of the tokens where it is not zero.") : null;
  return section("Fires on", share2, ...excerpts(list), key2);
}
var HIST = { width: 330, half: 30, gap: 16 };
function histogram(one) {
  const { width, half, gap } = HIST;
  const n = one.clean.length;
  const most = Math.max(1, ...one.clean, ...one.counterfactual);
  const step = (one.high - one.low) / n;
  const bar = width / n;
  const bin = (i) => `${num(one.low + i * step, 3)} to ${num(one.low + (i + 1) * step, 3)}`;
  const said = one.clean.flatMap((c, i) => c || one.counterfactual[i] ? [`${bin(i)}: ${c} clean, ${one.counterfactual[i]} counterfactual`] : []);
  const middle = half;
  const svg = s(
    "svg",
    { viewBox: `0 0 ${width} ${2 * half + gap}`, class: "histogram", role: "img", "aria-label": `At the ${one.at}. ${said.join("; ")}` },
    s("path", { d: `M0 ${middle}H${width}M0 ${middle + gap}H${width}`, class: "axis-line" })
  );
  one.clean.forEach((up, i) => {
    const down = one.counterfactual[i];
    const [a, b] = [up / most * (half - 2), down / most * (half - 2)];
    const tip = `${bin(i)}
${up} clean, ${down} counterfactual`;
    if (up) svg.append(s("rect", { x: i * bar + 1, y: middle - a, width: bar - 2, height: a, class: "bar-clean", "data-tip": tip }));
    if (down) svg.append(s("rect", { x: i * bar + 1.5, y: middle + gap, width: bar - 3, height: b, class: "bar-other", "data-tip": tip }));
  });
  svg.append(
    s("text", { x: 0, y: middle + 12, class: "axis-text start" }, num(one.low, 3)),
    s("text", { x: width, y: middle + 12, class: "axis-text end" }, num(one.high, 3)),
    s("text", { x: width / 2, y: middle + 12, class: "axis-text" }, one.at)
  );
  return h("div", { class: "histogram-row" }, svg);
}
function spread(node) {
  if (!node.histograms.length) return null;
  const prompts = node.histograms[0]?.clean.reduce((a, b) => a + b, 0) ?? 0;
  return section(
    "On the two sides of the pair",
    `${count(prompts)} held-out pairs`,
    ...node.histograms.map(histogram),
    h("p", { class: "fact-note" }, h("span", { class: "key-clean", "aria-hidden": "true" }), "clean, above; ", h("span", { class: "key-other", "aria-hidden": "true" }), "counterfactual, below")
  );
}
function effects(index, node) {
  const body = h("tbody");
  const add = (label, value, exact, ...note) => {
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
    const beside = null_ && value !== null ? h(
      "span",
      { "data-null": String(value), "data-tip": `${null_.name}: mean ${value}, central 95 % of ${null_.n}` },
      `nats; random ${describePlace(node)} ${signed(value, 2)}`,
      null_.interval ? ` [${num(null_.interval[0], 2)}, ${num(null_.interval[1], 2)}]` : "",
      `, n ${null_.n}`
    ) : "nats; no null: the circuit has all of them";
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
function describePlace(node) {
  return node.location.replace(/^\d+\./, "");
}
function ofModel(node, end, list) {
  const all = node.model_edges?.[end];
  const own = list.filter((link) => link.edge).length;
  return all ? `${own} of its ${count(all)} weights in the model` : null;
}
function sides(node) {
  const [clean, counter] = node.mean_on_answer ?? [null, null];
  const rows = [
    ["clean prompt", given(clean), "dot-full"],
    ["counterfactual", given(counter), "dot-open"],
    ["mean over text", given(node.mean), "dot-tick"]
  ];
  const values = [...rows.map((r) => r[1]), 0];
  let [lo, hi] = [Math.min(...values), Math.max(...values)];
  if (hi - lo < 1e-9) [lo, hi] = [lo - 1, hi + 1];
  const [left, right, width] = [6, 6, 150];
  const x = (v) => left + (v - lo) / (hi - lo) * (width - left - right);
  const table2 = h("table", { class: "sides" });
  rows.forEach(([label, value, kind]) => {
    const picture = s(
      "svg",
      { width, height: 20, "aria-hidden": "true" },
      s("path", { d: `M${left} 10H${width - right}`, class: "rail" }),
      s("path", { d: `M${x(0)} 3V17`, class: "zero" }),
      kind === "dot-tick" ? s("path", { d: `M${x(value)} 5V15`, class: "dot-tick" }) : s("circle", { cx: x(value), cy: 10, r: 4, class: kind })
    );
    table2.append(h(
      "tr",
      {},
      h("th", { scope: "row" }, label),
      h("td", { class: "figure-cell", "data-tip": String(value) }, num(value)),
      h("td", {}, picture)
    ));
  });
  return table2;
}
function tokenList(list) {
  return h("div", { class: "chips" }, ...list.map(([token, weight]) => h(
    "span",
    { class: `chip ${weight >= 0 ? "pos" : "neg"}`, "data-tip": `weight ${num(weight, 6)}` },
    h("code", {}, visibleSpaces(token)),
    h("span", { class: "chip-number" }, signed(weight, 2))
  )));
}
function fact(label, value, note) {
  return h("div", { class: "fact" }, h("div", { class: "fact-label" }, label), h("div", { class: "fact-value" }, value), h("div", { class: "fact-note" }, note));
}
function cardHead(node, open) {
  const close = h("button", { type: "button", class: "close", "aria-label": "Close the card (Escape)" }, "×");
  close.addEventListener("click", () => open(null));
  return h(
    "header",
    { class: "card-head" },
    h("div", {}, h("h2", { class: "mono" }, node.site), h("p", { class: "muted" }, describe(node))),
    close
  );
}
function partCard(index, node, open) {
  const edges = (list) => list.filter((link) => link.edge).length;
  const [into2, out] = [index.fedBy(node.site), index.feeds(node.site)];
  const sum = (label, value, n) => value === null || n === 0 ? null : fact(label, num(value), `${plural(n, "edge")}, sum of |score|`);
  const rank = index.ranked.indexOf(node) + 1;
  return h(
    "article",
    { class: "card", "data-card": node.site },
    cardHead(node, open),
    h(
      "div",
      { class: "facts" },
      sum("In", node.score_in, edges(into2)),
      sum("Out", node.score_out, edges(out)),
      rank ? fact("Rank", `${rank}`, `of ${index.ranked.length}, by |score|`) : null
    ),
    h(
      "div",
      { class: "two" },
      node.kind === "input" ? null : links("Fed by", into2, index, open, "No kept edge."),
      node.kind === "logits" ? null : links("Feeds", out, index, open, "No kept edge.")
    ),
    node.task_examples.length ? section("Looks at", "attention from the last token, highest", ...excerpts(node.task_examples, 0)) : null
  );
}
function nodeCard(index, node, open) {
  if (node.kind !== "channel") return partCard(index, node, open);
  const isFinal = node.location === "final_resid";
  const [into2, out] = [index.fedBy(node.site), index.feeds(node.site)];
  const measured = node.mean !== null && node.mean_on_answer !== null;
  return h(
    "article",
    { class: "card", "data-card": node.site },
    cardHead(node, open),
    measured ? section("What it does", null, effects(index, node)) : null,
    measured ? section("At the answer", "last position, mean over pairs", sides(node)) : null,
    spread(node),
    h(
      "div",
      { class: "two" },
      links("Fed by", into2, index, open, "No kept node: it reads the embedding, or only means.", ofModel(node, 0, into2)),
      links("Feeds", out, index, open, isFinal ? "The logits." : "No kept node.", ofModel(node, 1, out))
    ),
    firesOn(node),
    node.task_examples.length ? section("On the task", null, ...excerpts(node.task_examples)) : null,
    measured && node.examples.length + node.task_examples.length === 0 ? section("Fires on", null, h("p", { class: "muted" }, "No examples were recorded.")) : null,
    node.top_tokens_in.length ? section("Tokens that write it", "embedding", tokenList(node.top_tokens_in)) : null,
    node.top_tokens_out.length ? section("Tokens it promotes", "unembedding", tokenList(node.top_tokens_out)) : null
  );
}
function overview(index, open) {
  const { bundle } = index;
  const { model, circuit } = bundle;
  const top = index.ranked.slice(0, 10);
  const parts2 = bundle.grain === "head";
  const rows = top.map((node) => {
    const matter = index.matter(node);
    const share2 = Math.max(0, 100 * matter / index.largestMatter);
    return h(
      "tr",
      {},
      h("td", {}, nodeButton(node, open)),
      h("td", { class: "figure-cell", "data-tip": String(matter) }, parts2 ? num(matter, 3) : signed(matter, 3)),
      h("td", { class: "bar-cell" }, h("span", { class: "bar ink", style: `width:${share2.toFixed(1)}%` }))
    );
  });
  const pairs = bundle.task.examples.map((pair) => h(
    "div",
    { class: "pair" },
    h("p", { class: "prompt" }, visible(pair.clean), h("mark", {}, visible(pair.answer))),
    h("p", { class: "prompt" }, visible(pair.counterfactual), h("mark", { class: "other" }, visible(pair.wrong_answer)))
  ));
  const shared = model.n_group === null ? "" : ` in ${model.n_group} groups`;
  const neurons = model.d_mlp === null ? "" : `${count(model.d_mlp)} neurons per layer, `;
  const size = `${plural(model.n_layer, "layer")}, width ${count(model.d_model)}, ${model.n_head} heads of ${model.d_head}${shared}, ${neurons}${count(model.vocab_size)} tokens`;
  const total = count(model.total_weights);
  const nonzero = model.nonzero_weights;
  const weights = nonzero === null ? `${total} parameters` : `${count(nonzero)} of ${total} weights are not zero (${num(100 * nonzero / Math.max(1, model.total_weights), 2)} %)`;
  return h(
    "div",
    { class: "card overview" },
    section(
      "What matters most",
      parts2 ? "sum of |score| over its edges" : "loss rise when ablated, nats",
      top.length ? h("table", { class: "links" }, h("tbody", {}, ...rows)) : h("p", { class: "muted" }, parts2 ? "The circuit came without scores." : "Not measured.")
    ),
    section("The task", "each prompt and its right answer", ...pairs),
    section(
      "The model",
      null,
      h(
        "p",
        { class: "prose" },
        h("b", {}, model.name),
        `: ${size}. `,
        weights,
        model.val_loss_nats === null ? "." : `; validation loss ${num(model.val_loss_nats)} nats per token.`
      ),
      circuit.calibration ? h("p", { class: "prose muted" }, `The circuit's two candidate logits are scaled by ${num(circuit.calibration.scale)} and shifted by ${num(circuit.calibration.shift)}.`) : null
    )
  );
}
function panel(index, store, focusNode, notes = null, begin = null) {
  const host = h("aside", { class: "panel", "aria-live": "polite", "aria-label": "Selected node", tabindex: -1 });
  const open = (site) => {
    store.set({ selected: site });
    if (site) focusNode(site);
  };
  let field = null;
  notes?.listen(() => field?.refresh());
  const draw = () => {
    const { selected } = store.get();
    const node = selected ? index.nodes.get(selected) : void 0;
    host.classList.toggle("has-node", node !== void 0);
    const card = node ? nodeCard(index, node, open) : begin ?? overview(index, open);
    field = notes && !begin ? noteField(notes, node?.site ?? "circuit", node ? `Notes on ${node.site}` : "Notes on the circuit") : null;
    if (field) card.append(field.element);
    host.replaceChildren(card);
    host.scrollTop = 0;
  };
  store.listen((now, before) => {
    if (now.selected === before.selected) return;
    const held = host.matches(":focus-within");
    draw();
    if (held && before.selected && !now.selected) focusNode(before.selected);
  });
  draw();
  return host;
}

// src/trial.ts
var ICONS = {
  pass: "M3 8.5L6.5 12L13 4.5",
  fail: "M4 4L12 12M12 4L4 12",
  "not reached": "M8 3V9.5M8 12V13",
  "not measured": "M3.5 8H12.5"
};
function verdictBadge(verdict, label = verdict) {
  const icon = s("svg", { width: 14, height: 14, viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: ICONS[verdict] }));
  return h("span", { class: `verdict ${verdict.replace(" ", "-")}` }, icon, label);
}
var WIDTH = 260;
var INSET = 8;
function scaleOf(rows) {
  const values = rows.flatMap((row) => [row.value, ...row.interval ?? []]).filter((v) => v !== null);
  let [lo, hi] = [Math.min(0, ...values), Math.max(...values, 0)];
  if (hi - lo < 1e-12) hi = lo + 1;
  const room = (hi - lo) * 0.04;
  [lo, hi] = [lo < 0 ? lo - room : lo, hi + room];
  return Object.assign((v) => INSET + (v - lo) / (hi - lo) * (WIDTH - 2 * INSET), { lo, hi });
}
function plot(row, x) {
  const svg = s("svg", { width: WIDTH, height: 26, class: "plot", "aria-hidden": "true" }, s("path", { d: `M${INSET} 13H${WIDTH - INSET}`, class: "rail" }));
  if (row.value === null) return svg;
  if (row.interval) {
    const [a, b] = [x(row.interval[0]), x(row.interval[1])];
    svg.append(s("path", { d: `M${a} 13H${b}M${a} 9V17M${b} 9V17`, class: row.own ? "whisker own" : "whisker" }));
  }
  const at = x(row.value);
  svg.append(row.own ? s("path", { d: `M${at} 7L${at + 6} 13L${at} 19L${at - 6} 13Z`, class: "own-mark" }) : s("circle", { cx: at, cy: 13, r: 4, class: "null-mark" }));
  return svg;
}
function axis(x, unit) {
  const svg = s("svg", { width: WIDTH, height: 34, class: "plot axis", "aria-hidden": "true" }, s("path", { d: `M${INSET} 2H${WIDTH - INSET}`, class: "axis-line" }));
  for (const t of ticks(x.lo, x.hi, 6)) {
    svg.append(s("path", { d: `M${x(t)} 2v4`, class: "axis-line" }), s("text", { x: x(t), y: 17, class: "axis-text" }, num(t, 3)));
  }
  svg.append(s("text", { x: WIDTH - INSET, y: 31, class: "axis-text end" }, unit));
  return svg;
}
function words(row) {
  if (row.value === null) return row.outcome;
  return num(row.value, 4);
}
function table(evidence, own) {
  const rows = [
    { name: own, value: evidence.value, interval: evidence.interval, n: evidence.n, outcome: evidence.verdict, own: true },
    ...evidence.nulls.map((null_) => ({ ...null_, own: false }))
  ];
  const drawn2 = rows.some((row) => row.value !== null);
  const x = scaleOf(rows);
  const body = h("tbody");
  for (const row of rows) {
    const interval = row.interval ? `[${num(row.interval[0], 3)}, ${num(row.interval[1], 3)}]` : "";
    body.append(h(
      "tr",
      { class: row.own ? "own" : null },
      h("th", { scope: "row" }, row.name),
      h("td", { class: row.value === null ? "absent" : "figure-cell", "data-tip": row.value === null ? null : String(row.value) }, words(row)),
      h("td", { class: "interval" }, interval),
      h("td", { class: "n" }, row.n === null ? "" : count(row.n)),
      h("td", { class: "plot-cell" }, drawn2 ? plot(row, x) : null)
    ));
  }
  const head2 = h("thead", {}, h("tr", {}, h("th", { class: "c-name" }), h("th", { class: "c-value" }, evidence.unit || "value"), h("th", { class: "c-interval" }, "interval"), h("th", { class: "c-n" }, "n"), h("th", { class: "c-plot" })));
  const result = h("table", { class: "nulls" }, h("caption", { class: "sr" }, evidence.claim), head2, body);
  if (drawn2) result.append(h("tfoot", {}, h("tr", {}, h("td", { colspan: 4 }), h("td", { class: "plot-cell" }, axis(x, evidence.unit)))));
  return result;
}
function check(evidence, when = "", own = "this circuit") {
  const cut = evidence.claim.indexOf(": ");
  const [name, rest] = cut > 0 ? [evidence.claim.slice(0, cut), evidence.claim.slice(cut + 2)] : [evidence.claim, ""];
  const how = evidence.methodology ? Object.entries(evidence.methodology) : [];
  return h(
    "article",
    { class: `check ${evidence.verdict.replace(" ", "-")}`, "data-verdict": evidence.verdict },
    h(
      "div",
      { class: "check-text" },
      verdictBadge(evidence.verdict),
      h("h3", {}, sentence(name)),
      when ? h("p", { class: "threshold" }, `${sentence(when)}.`) : null,
      rest ? h("p", { class: "claim" }, `${sentence(rest)}.`) : null,
      evidence.threshold ? h("p", { class: "threshold" }, `${sentence(evidence.threshold)}.`) : null,
      evidence.note ? h("p", { class: "note" }, evidence.note) : null,
      how.length ? h(
        "details",
        { class: "method" },
        h("summary", {}, evidence.methodology?.["granularity"] ? "Ablation used" : "Method used"),
        h("dl", {}, ...how.flatMap(([key2, value]) => [h("dt", {}, key2), h("dd", {}, value)]))
      ) : null
    ),
    h("div", { class: "check-data" }, table(evidence, own))
  );
}
var AT_DISCOVERY = "checked at discovery";
function atDiscovery({ evidence, circuit: { faithfulness } }) {
  return evidence.some((one) => one.claim.startsWith("faithfulness")) ? null : faithfulness;
}
function trial(bundle) {
  const [{ evidence }, first] = [bundle, atDiscovery(bundle)];
  const none = evidence.length ? null : h("p", { class: "muted" }, "No trial has been run on this circuit yet; ", h("code", {}, "gossamer verify RUN"), " runs it.");
  return h("div", { class: "checks" }, none, first && check(first, AT_DISCOVERY), ...evidence.map((one) => check(one)));
}
function tally(bundle) {
  const order = ["pass", "fail", "not reached", "not measured"];
  const badges = order.flatMap((verdict) => {
    const n = bundle.evidence.filter((e) => e.verdict === verdict).length;
    return n ? [verdictBadge(verdict, `${n} ${verdict}`)] : [];
  });
  const first = atDiscovery(bundle);
  return h("div", { class: "tally" }, ...badges, first && verdictBadge(first.verdict, `1 ${first.verdict}, ${AT_DISCOVERY}`));
}

// src/compared.ts
var ALL = "all";
var shade = (value) => `--share:${(100 * Math.min(1, Math.max(0, value))).toFixed(1)}%`;
function head(...names) {
  return h("thead", {}, h("tr", {}, h("td", {}), ...names.map((name) => h("th", { scope: "col" }, name))));
}
function between([low, high]) {
  return `${num(low, 3)} to ${num(high, 3)}`;
}
function cellOf(cell) {
  if (!cell || cell.share === null) return h("td", { class: "absent" }, cell ? "empty" : "–");
  const spread2 = cell.interval ? `, 95% ${between(cell.interval)}` : "";
  const random = cell.random_interval ? `; random sets, central 95%: ${between(cell.random_interval)}` : "";
  return h(
    "td",
    { class: "shaded", style: shade(cell.share), "data-tip": `${plural(cell.size, "part")}: ${cell.share}${spread2}${random}` },
    `${num(cell.share, 3)} `,
    cell.random === null ? null : h("span", { class: "aside" }, num(cell.random, 2))
  );
}
function losses(found2) {
  if (!found2.cells.length) return null;
  const key2 = (ablated, on) => JSON.stringify([ablated, on]);
  const at = new Map(found2.cells.map((cell) => [key2(cell.ablated, cell.on), cell]));
  return h(
    "section",
    {},
    h("h3", {}, "Effect lost, circuit by task"),
    h(
      "table",
      { class: "sizes losses" },
      head(...found2.names.map((name) => `on ${name}`)),
      h("tbody", {}, ...found2.names.map((a) => h("tr", {}, h("th", { scope: "row" }, a), ...found2.names.map((b) => cellOf(at.get(key2(a, b)))))))
    ),
    h("p", { class: "prose muted" }, "A row's circuit is ablated, everything else runs: the share of the effect on a column's task that is lost, and beside it the mean of random sets in its place.")
  );
}
function parts(found2) {
  if (!found2.parts.length) return null;
  const names = [...new Set(found2.parts.map((cell) => cell.ablated))];
  return h(
    "section",
    {},
    h("h3", {}, "What two share, and what each has alone"),
    h(
      "table",
      { class: "sizes parts" },
      head("parts", "its effect lost on", "", "", ""),
      h("tbody", {}, ...names.map((name) => {
        const own = found2.parts.filter((cell) => cell.ablated === name);
        return h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, count(own[0]?.size ?? 0)), ...own.flatMap((cell) => [h("td", {}, cell.on), cellOf(cell)]));
      }))
    )
  );
}
function overlapRow(row, name) {
  const cells = [row.iou, row.iom, row.chance, row.p_value];
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, name),
    h("td", {}, row.kind === ALL ? row.what : `${row.what}: ${row.kind}`),
    h("td", {}, `${count(row.sizes[0])}, ${count(row.sizes[1])}`),
    h("td", {}, count(row.shared)),
    ...row.iou === null ? [h("td", { colspan: 4, class: "absent" }, "one of them has none")] : cells.map((value) => h("td", { "data-tip": value === null ? null : String(value) }, value === null ? "–" : num(value, 3)))
  );
}
function overlaps(rows) {
  if (!rows.length) return null;
  const table2 = (some) => h(
    "table",
    { class: "sizes overlaps" },
    head("of", "sizes", "in both", "IoU", "IoM", "by chance", "p"),
    h("tbody", {}, ...some.map((row) => overlapRow(row, `${row.a}, ${row.b}`)))
  );
  const kinds = rows.filter((row) => row.kind !== ALL);
  return h(
    "section",
    {},
    h("h3", {}, "Overlap"),
    table2(rows.filter((row) => row.kind === ALL)),
    kinds.length ? h("details", { class: "method" }, h("summary", {}, "By kind"), table2(kinds)) : null,
    h("p", { class: "prose muted" }, "IoU: shared over all; IoM: over the smaller. By chance: the mean IoU of random sets of their sizes by kind; p: how often those share as much.")
  );
}
function compared(found2) {
  return h(
    "div",
    { class: "compared" },
    h("p", { class: "lead" }, found2.finding),
    h("div", { class: "both-notes" }, losses(found2), overlaps(found2.overlap), parts(found2)),
    found2.evidence.length ? h("div", { class: "checks" }, ...found2.evidence.map((one) => check(one, "", "found"))) : null
  );
}

// src/lead.ts
var EQUAL_NATS = 0.05;
function apart(value, other) {
  const digits = [3, 4, 5, 6, 7].find((d) => num(value, d) !== num(other, d));
  return num(value, digits ?? 3);
}
function heldout(pairs) {
  return pairs === null ? "the held-out pairs" : `all ${plural(pairs, "held-out pair")}`;
}
function found({ task, circuit, model }) {
  return h(
    "p",
    { class: "lead" },
    `${sentence(task.description)}: `,
    h("b", {}, plural(circuit.n_nodes, "node")),
    " and ",
    h("b", {}, plural(circuit.n_edges, "edge")),
    ` of ${model.name} do this alone, at `,
    h("b", {}, `${num(given(circuit.loss_heldout_nats), 3)} nats`),
    ` of task loss on ${heldout(circuit.heldout_pairs)}.`
  );
}
function missed({ circuit, model }) {
  const target = given(circuit.target_loss_nats);
  return h(
    "p",
    { class: "lead" },
    verdictBadge("not reached", "Not reached:"),
    ` no circuit found in ${model.name} gets to `,
    h("b", {}, `${num(target, 3)} nats`),
    " of task loss on the training pairs; the best found, ",
    h("b", {}, plural(circuit.n_nodes, "node")),
    " and ",
    h("b", {}, plural(circuit.n_edges, "edge")),
    ", has ",
    h("b", {}, `${apart(given(circuit.loss_train_nats), target)} nats`),
    ` there and ${num(given(circuit.loss_heldout_nats), 3)} held out.`
  );
}
function itsTwin(own, its) {
  if (own === null || its === null) return ["its dense twin", ""];
  const losses2 = `${num(its)} against ${num(own)} nats per token`;
  const equal = Math.abs(own - its) <= EQUAL_NATS;
  return [`its dense twin, ${equal ? "of equal" : "of another"} language-modelling loss (${losses2})`, ","];
}
function ratio(its, own) {
  const times = its / own;
  const text = times < 100 ? num(times, 2) : count(Math.round(times));
  return text === "1" ? "as many" : `${text} times as many`;
}
function twinLine({ circuit, model }, twin) {
  const line2 = h("p", { class: "lead twin-line" });
  const [name, comma] = itsTwin(model.val_loss_nats, twin.val_loss_nats);
  const edges = h("b", {}, plural(twin.n_edges, "edge"));
  if (!twin.reached) {
    line2.append(
      verdictBadge("not reached", "Not reached"),
      ` in ${name}: no circuit found there gets to ${num(given(circuit.target_loss_nats), 3)} nats on the training pairs; the best, `,
      h("b", {}, plural(twin.n_nodes, "node")),
      " and ",
      edges,
      `, has ${num(twin.loss_heldout_nats, 3)} held out.`
    );
    return line2;
  }
  line2.append(`The smallest circuit found in ${name}${comma} has `, edges);
  if (circuit.reached && circuit.n_edges > 0) line2.append(", ", h("b", {}, ratio(twin.n_edges, circuit.n_edges)));
  line2.append(".");
  return line2;
}
function faithful({ circuit, model }) {
  const { faithfulness: f, edge_score } = circuit;
  const line2 = h("p", { class: "lead" });
  const words2 = { pass: "Faithful:", fail: "Not faithful:", "not reached": "Not reached:", "not measured": "Not measured:" };
  if (f) line2.append(verdictBadge(f.verdict, words2[f.verdict]), " ");
  const all = edge_score?.all_edges ?? circuit.n_edges;
  line2.append(
    h("b", {}, plural(circuit.n_edges, "edge")),
    ` of the ${count(all)} in ${model.name} (${num(100 * circuit.n_edges / Math.max(1, all), 2)} %), between `,
    h("b", {}, plural(circuit.n_nodes, "node"))
  );
  if (!f || f.value === null) line2.append("; its faithfulness was not measured.");
  else {
    line2.append(", have a faithfulness of ", h("b", {}, num(f.value, 3)), f.interval ? ` (${num(f.interval[0], 3)} to ${num(f.interval[1], 3)})` : "", " on held-out pairs");
    const random = f.nulls.find((one) => one.name.startsWith("random") && one.value !== null);
    line2.append(random ? `; random circuits of as many have ${Math.abs(random.value) < 5e-4 ? "0.000" : num(random.value, 3)}.` : ".");
  }
  return line2;
}
function lead(bundle) {
  const { circuit, twin } = bundle;
  if (bundle.grain === "head") return h("div", { class: "leads" }, faithful(bundle));
  return h("div", { class: "leads" }, circuit.reached ? found(bundle) : missed(bundle), twin && twinLine(bundle, twin));
}

// src/outline.ts
var BARE = {
  ablation_effect_nats: null,
  mean: null,
  mean_on_answer: null,
  direct_logit: null,
  top_tokens_in: [],
  top_tokens_out: [],
  examples: [],
  task_examples: [],
  score_in: null,
  score_out: null,
  levels: [],
  active_share: null,
  histograms: [],
  direct_effect: null,
  model_effect_nats: null,
  model_edges: null
};
function bareNode(site, dHead, direct = null) {
  const channel = /^(.+):(\d+)$/.exec(site);
  if (channel) {
    const [location, index2] = [channel[1], Number(channel[2])];
    const layer = /^(\d+)\./.exec(location);
    const inHead2 = dHead !== null && /\.attn\.[qkv]$/.test(location);
    return { ...BARE, direct_logit: direct, site, location, layer: layer ? Number(layer[1]) : null, index: index2, head: inHead2 ? Math.floor(index2 / dHead) : null, kind: "channel" };
  }
  if (site === "input" || site === "logits") return { ...BARE, site, location: site, layer: null, index: 0, head: null, kind: site };
  const part2 = /^[am](\d+)(?:\.([hg])(\d+))?$/.exec(site);
  const index = Number(part2?.[3] ?? 0);
  const kind = part2?.[2] === "h" ? "head" : part2?.[2] === "g" ? "kv_group" : "mlp";
  return { ...BARE, site, location: site, layer: Number(part2?.[1] ?? 0), index, head: kind === "head" ? index : null, kind };
}
function shapeOf(outline, dHead, known2 = null, size = outline.nodes.length) {
  const site = (i) => outline.nodes[i];
  const direct = new Map(outline.direct);
  return {
    nodes: outline.nodes.slice(0, size).map((name, i) => known2?.get(name) ?? bareNode(name, dHead, direct.get(i) ?? null)),
    edges: outline.edges.filter(([a, b]) => a < size && b < size).map(([a, b, weight, matrix]) => ({ src: site(a), dst: site(b), weight, matrix: outline.matrices[matrix] })),
    carries: outline.carries.filter(([a, b]) => a < size && b < size).map(([a, b]) => ({ src: site(a), dst: site(b) }))
  };
}
function withShape(bundle, { nodes, edges, carries }) {
  return { ...bundle, circuit: { ...bundle.circuit, nodes, edges, carries, n_nodes: nodes.length, n_edges: edges.length }, cuts: null, other: null };
}
function nameOf(other) {
  return other.twin ? "Dense twin" : "Other circuit";
}

// src/tokenizer.ts
function alphabet() {
  const printable = (b) => b >= 33 && b <= 126 || b >= 161 && b <= 172 || b >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(printable(b) ? b : next++));
}
function regexOf(pattern) {
  return new RegExp(pattern.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"), "gu");
}
var Tokenizer = class {
  constructor(page) {
    this.page = page;
    this.byteText = alphabet();
    this.textByte = new Map(this.byteText.map((text, byte) => [text, byte]));
    /** `left * vocab + right` -> [rank, merged id]. */
    this.merges = /* @__PURE__ */ new Map();
    this.words = /* @__PURE__ */ new Map();
    this.ids = new Map(page.vocab.map((text, id) => [text, id]));
    this.special = new Set(page.special);
    this.pattern = regexOf(page.pattern);
    page.merges.forEach(([a, b], rank) => {
      const merged = this.ids.get(page.vocab[a] + page.vocab[b]);
      if (merged !== void 0) this.merges.set(a * page.vocab.length + b, [rank, merged]);
    });
  }
  get bos() {
    return this.page.bos;
  }
  /** Token ids of a text, without what is put before every prompt. A special token's text is that token. */
  encode(text) {
    const specials = this.page.special.map((id) => this.page.vocab[id]);
    const out = [];
    let rest = text;
    while (rest) {
      const hits = specials.map((one) => [rest.indexOf(one), one]).filter(([at2]) => at2 >= 0);
      const [at, found2] = hits.sort((a, b) => a[0] - b[0] || b[1].length - a[1].length)[0] ?? [rest.length, ""];
      this.plain(rest.slice(0, at), out);
      if (found2) out.push(this.ids.get(found2));
      rest = rest.slice(at + found2.length);
    }
    return out;
  }
  /** One token as text; bytes that are no whole character become U+FFFD. */
  decode(id) {
    const text = this.page.vocab[id] ?? "";
    if (this.special.has(id)) return text;
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from([...text], (c) => this.textByte.get(c) ?? 0));
  }
  plain(text, out) {
    let end = 0;
    const word = (from, to) => {
      if (to > from) for (const id of this.word(text.slice(from, to))) out.push(id);
    };
    for (const match of text.matchAll(this.pattern)) {
      word(end, match.index);
      end = match.index + match[0].length;
      word(match.index, end);
    }
    word(end, text.length);
  }
  word(text) {
    const known2 = this.words.get(text);
    if (known2) return known2;
    const parts2 = Array.from(new TextEncoder().encode(text), (b) => this.ids.get(this.byteText[b])).filter((id) => id !== void 0);
    for (; ; ) {
      let best;
      let at = -1;
      for (let i = 0; i + 1 < parts2.length; i++) {
        const merge = this.merges.get(parts2[i] * this.page.vocab.length + parts2[i + 1]);
        if (merge && (!best || merge[0] < best[0])) [best, at] = [merge, i];
      }
      if (!best) break;
      parts2.splice(at, 2, best[1]);
    }
    if (this.words.size > 5e3) this.words.clear();
    this.words.set(text, parts2);
    return parts2;
  }
};

// src/neuronpedia.ts
var PER_LOCATION = 1e6;
function address(bundle, node, parts2) {
  const { n_layer, n_head, n_group } = bundle.model;
  if (node.kind === "channel") {
    const part2 = parts2.indexOf(node.location.replace(/^\d+\./, ""));
    return [String(node.layer ?? n_layer), part2 * PER_LOCATION + node.index];
  }
  if (node.kind === "input") return ["E", 0];
  if (node.kind === "logits") return [String(n_layer + 1), 0];
  const layer = String(node.layer);
  if (node.kind === "mlp") return [layer, n_head + (n_group ?? 0)];
  return [layer, node.index + (node.kind === "kv_group" ? n_head : 0)];
}
var TYPES = {
  channel: "channel",
  input: "embedding",
  logits: "logit",
  head: "attention head",
  kv_group: "key-value group",
  mlp: "mlp"
};
function tokensOf({ live, task }) {
  const prompt = task.examples[0]?.clean ?? task.name;
  if (!live) return [prompt];
  const tokenizer = new Tokenizer(live.tokenizer);
  return [...tokenizer.bos === null ? [] : [tokenizer.bos], ...tokenizer.encode(prompt)].map((id) => tokenizer.decode(id));
}
function attributionGraph(bundle) {
  const { circuit, task, model } = bundle;
  const tokens = tokensOf(bundle);
  const last = tokens.length - 1;
  const parts2 = [...new Set(circuit.nodes.filter((n) => n.kind === "channel").map((n) => n.location.replace(/^\d+\./, "")))].sort();
  const id = /* @__PURE__ */ new Map();
  const nodes = circuit.nodes.map((node) => {
    const [layer, feature] = address(bundle, node, parts2);
    id.set(node.site, `${layer}_${feature}_${last}`);
    return {
      node_id: `${layer}_${feature}_${last}`,
      feature,
      layer,
      ctx_idx: last,
      feature_type: TYPES[node.kind],
      token_prob: 0,
      is_target_logit: node.kind === "logits",
      run_idx: 0,
      reverse_ctx_idx: 0,
      jsNodeId: `${layer}_${feature}-${last}`,
      clerp: node.site,
      influence: node.ablation_effect_nats,
      activation: null
    };
  });
  const links2 = /* @__PURE__ */ new Map();
  for (const edge of circuit.edges) {
    const key2 = `${edge.src} ${edge.dst}`;
    const link = links2.get(key2) ?? { src: edge.src, dst: edge.dst, edges: [] };
    link.edges.push(edge);
    links2.set(key2, link);
  }
  for (const { src, dst } of circuit.carries) if (!links2.has(`${src} ${dst}`)) links2.set(`${src} ${dst}`, { src, dst, edges: [] });
  return {
    metadata: {
      slug: task.name,
      scan: model.name,
      transcoder_list: [],
      prompt_tokens: tokens,
      prompt: tokens.join(""),
      schema_version: 1,
      info: { description: `${circuit.n_edges} edges; links without reads are carried, not edges`, generator: { name: "gossamer", version: bundle.gossamer_version } },
      gossamer: bundle.record
    },
    qParams: { pinnedIds: [], supernodes: [], linkType: "both", clickedId: "", sg_pos: "" },
    nodes,
    links: [...links2.values()].map(({ src, dst, edges }) => ({
      source: id.get(src),
      target: id.get(dst),
      weight: edges.reduce((sum, e) => sum + (e.weight ?? 0), 0),
      reads: Object.fromEntries(edges.map((e) => [e.matrix, e.weight]))
    }))
  };
}

// src/share.ts
var LONGEST2 = 2e4;
var MOST = 40;
var OWN = ["selected", "strongest"];
var SETTLED_MS = 200;
function keep(store, key2, text) {
  const kept = { ...store.get().kept };
  if (text === null) delete kept[key2];
  else kept[key2] = text;
  store.set({ kept });
}
function stateIn(hash, bundle) {
  let found2;
  try {
    found2 = new URLSearchParams(hash.replace(/^#/, "").slice(0, LONGEST2 * 4));
  } catch {
    return {};
  }
  const kept = {};
  for (const [key2, text] of [...found2].slice(0, MOST)) {
    if (!OWN.includes(key2) && /^[a-z][a-z0-9_.-]{0,40}$/i.test(key2) && text.length <= LONGEST2) kept[key2] = text;
  }
  const selected = found2.get("selected");
  const strongest = Number(found2.get("strongest") ?? NaN);
  const isNode = bundle.circuit.nodes.some((node) => node.site === selected);
  const isCount = found2.has("strongest") && Number.isInteger(strongest) && strongest >= 0 && strongest <= bundle.circuit.n_edges;
  return { kept, selected: isNode ? selected : null, ...isCount ? { strongest } : {} };
}
function hashOf(state, first) {
  const out = new URLSearchParams();
  if (state.selected) out.set("selected", state.selected);
  if (state.strongest !== first.strongest) out.set("strongest", String(state.strongest));
  for (const [key2, text2] of Object.entries(state.kept).sort()) out.set(key2, text2);
  const text = out.toString();
  return text ? `#${text}` : "";
}
function hasAddress(el) {
  return el.id === "gossamer-page";
}
function follow(store, first, bundle) {
  let own = "";
  let timer = 0;
  const write = () => {
    if (!timer) return;
    window.clearTimeout(timer);
    timer = 0;
    own = hashOf(store.get(), first);
    try {
      window.history.replaceState(null, "", own || window.location.pathname + window.location.search);
    } catch {
    }
  };
  store.listen((now, before) => {
    if (now.selected === before.selected && now.strongest === before.strongest && now.kept === before.kept) return;
    window.clearTimeout(timer);
    timer = window.setTimeout(write, SETTLED_MS);
  });
  const read = () => {
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
function linkTo(state, first) {
  return window.location.href.replace(/#.*$/, "") + hashOf(state, first);
}
async function toClipboard(text) {
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
function copyButton(label, text, name = label) {
  const said = h("span", { "aria-live": "polite" }, label);
  const button2 = h("button", { type: "button", class: "tool", "aria-label": name }, said);
  button2.addEventListener("click", () => {
    void toClipboard(text()).then((done) => {
      said.textContent = done ? "Copied" : "Select and copy by hand";
      window.setTimeout(() => {
        said.textContent = label;
      }, 1600);
    });
  });
  return button2;
}
function download(name, content) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  const link = h("a", { href: url, download: name });
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(url), 1e4);
}
function fileName(bundle, what) {
  return `${bundle.task.name}-${what}.json`.replace(/[^\w.-]+/g, "-");
}
function notesTools(bundle, notes) {
  const out = h("button", { type: "button", class: "tool", "data-export": "notes" });
  out.addEventListener("click", () => download(fileName(bundle, "notes"), notes.all()));
  const show = () => {
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
      let found2 = null;
      try {
        found2 = soundNotes(JSON.parse(text));
      } catch {
      }
      if (found2) notes.add(found2);
      said.textContent = found2 ? `${Object.keys(found2).length} read` : "Not a file of notes";
      file.value = "";
    });
  });
  const read = h("button", { type: "button", class: "tool" }, "Read notes");
  read.addEventListener("click", () => file.click());
  return [out, read, file, said];
}
function shareBar(bundle, notes, address2) {
  const graph = h("button", { type: "button", class: "tool", "data-export": "neuronpedia", "data-tip": "the circuit as an attribution graph, which Neuronpedia and circuit-tracer read" }, "Graph JSON");
  graph.addEventListener("click", () => download(fileName(bundle, "graph"), attributionGraph(bundle)));
  return h(
    "div",
    { class: "share", role: "group", "aria-label": "Share" },
    address2 ? copyButton("Copy link", address2, "Copy a link to this view") : null,
    graph,
    ...notesTools(bundle, notes)
  );
}
function ownModel(toTrial) {
  const real = h("button", { type: "button", class: "tool real" }, "Is it real?");
  real.addEventListener("click", toTrial);
  const line2 = (text) => h("span", { class: "command" }, h("code", {}, text), copyButton("Copy", () => text, `Copy: ${text}`));
  return h("div", { class: "own-model" }, real, h("span", { class: "muted" }, "On your own model:"), line2("gossamer doctor MODEL"), line2("gossamer verify RUN"));
}

// src/fold.ts
var OPENS_FOLDED = { nodes: 800, edges: 6e3 };
function opensFolded(index) {
  return index.nodes.size > OPENS_FOLDED.nodes || index.edges.length > OPENS_FOLDED.edges;
}
function partOfNode(node) {
  if (node.kind === "head" || node.kind === "kv_group") return `${node.layer}.heads`;
  if (node.kind !== "channel") return null;
  return placeOf(node).short ? `${node.layer}.h${node.head ?? ""}` : node.location;
}
function layerOfNode(node) {
  return node.layer === null ? null : `layer ${node.layer}`;
}
function bestRanks(index) {
  const best = /* @__PURE__ */ new Map();
  index.edges.forEach((edge, rank) => {
    for (const site of [edge.src, edge.dst]) if (!best.has(site)) best.set(site, rank);
  });
  return best;
}
var ranksOf = /* @__PURE__ */ new WeakMap();
function homeOf(node, folding, idle, busy) {
  if (folding.alone.has(node.site)) return null;
  const { shut } = folding;
  const open = { has: (key2) => folding.open.has(key2) || folding.open.has("*") };
  const [layer, part2, row] = [layerOfNode(node), partOfNode(node), rowOfHeads(node)];
  if (layer && (shut.has(layer) || idle && !busy.has(layer) && !open.has(layer))) return layer;
  if (!part2) return null;
  if (row && !shut.has(part2) && idle && !busy.has(part2) && !open.has(row) && !open.has(part2)) return row;
  return shut.has(part2) || idle && !open.has(part2) ? part2 : null;
}
function rowOfHeads(node) {
  return node.kind === "channel" && placeOf(node).short ? `${node.layer}.heads` : null;
}
function superOf(key2, members, partial) {
  const first = members[0];
  const what = key2.startsWith("layer ") ? "layer" : "part";
  const node = {
    ...first,
    site: key2,
    index: 1e9,
    ablation_effect_nats: null,
    mean: null,
    mean_on_answer: null,
    direct_logit: null,
    top_tokens_in: [],
    top_tokens_out: [],
    examples: [],
    task_examples: [],
    score_in: null,
    score_out: null
  };
  return { key: key2, what, members, partial, node, inside: { n: 0, size: 0 }, into: { n: 0, size: 0 }, out: { n: 0, size: 0 } };
}
function inHead({ node, key: key2 }) {
  return key2 === partOfNode(node) && rowOfHeads(node) !== null;
}
function fold(index, folding, strongest) {
  const { bundle } = index;
  const large = opensFolded(index);
  let ranks = ranksOf.get(index);
  if (!ranks) ranksOf.set(index, ranks = bestRanks(index));
  const homes = /* @__PURE__ */ new Map();
  const aloneIn = /* @__PURE__ */ new Set();
  const home = /* @__PURE__ */ new Map();
  const isIdle = (site) => large && strongest < index.edges.length && (ranks?.get(site) ?? Infinity) >= strongest;
  const busy = /* @__PURE__ */ new Set();
  for (const node of bundle.circuit.nodes) {
    if (isIdle(node.site) && !folding.alone.has(node.site)) continue;
    for (const key2 of [partOfNode(node), layerOfNode(node)]) if (key2 !== null) busy.add(key2);
  }
  for (const node of bundle.circuit.nodes) {
    const key2 = homeOf(node, folding, isIdle(node.site), busy);
    if (key2 === null || key2 === partOfNode(node)) aloneIn.add(rowOfHeads(node));
    if (key2 === null) aloneIn.add(partOfNode(node));
    else {
      home.set(node.site, key2);
      const list = homes.get(key2);
      if (list) list.push(node);
      else homes.set(key2, [node]);
    }
  }
  const supers = /* @__PURE__ */ new Map();
  for (const [key2, members] of homes) {
    if (members.length > 1) supers.set(key2, superOf(key2, members, aloneIn.has(key2)));
    else home.delete(members[0].site);
  }
  const at = (site) => home.get(site) ?? site;
  const edges = [];
  const bundles = /* @__PURE__ */ new Map();
  index.edges.forEach((edge, rank) => {
    const [src, dst] = [at(edge.src), at(edge.dst)];
    const [a, b] = [supers.get(src), supers.get(dst)];
    if (!a && !b) {
      edges.push({ edge, rank, bundle: null, always: false });
      return;
    }
    const size = sizeOf(edge);
    const add = (sum) => {
      sum.n += 1;
      sum.size += size;
    };
    if (a && a === b) return add(a.inside);
    if (a) add(a.out);
    if (b) add(b.into);
    const matrix = bundle.grain === "head" && !b ? edge.matrix : "";
    const key2 = `${src}|${dst}|${matrix}`;
    let one = bundles.get(key2);
    if (!one) {
      const quiet = (one2, other) => one2 !== void 0 && large && !folding.shut.has(one2.key) && (bundle.grain === "head" || one2.partial && (inHead(one2) || !other));
      const always = !quiet(a, b) && !quiet(b, a);
      bundles.set(key2, one = { edge: { src, dst, weight: null, matrix }, rank: null, bundle: { n: 0, size: 0 }, always });
    }
    add(one.bundle);
  });
  const carries = /* @__PURE__ */ new Map();
  for (const carry of index.carries) {
    const [src, dst] = [at(carry.src), at(carry.dst)];
    if (src === dst || [src, dst].some((end) => supers.has(end) && large && !folding.shut.has(end))) continue;
    carries.set(`${src}|${dst}`, src === carry.src && dst === carry.dst ? carry : { src, dst });
  }
  return {
    bundle,
    supers,
    at,
    nodes: [...bundle.circuit.nodes.filter((node) => !home.has(node.site)), ...[...supers.values()].map((one) => one.node)],
    edges: [...edges, ...[...bundles.values()].sort((x, y) => y.bundle.size - x.bundle.size)],
    carries: [...carries.values()]
  };
}
function unfolded(bundle) {
  const { nodes, edges, carries } = bundle.circuit;
  return {
    bundle,
    supers: /* @__PURE__ */ new Map(),
    at: (site) => site,
    nodes: [...nodes],
    carries: [...carries],
    edges: edges.map((edge, rank) => ({ edge, rank, bundle: null, always: false }))
  };
}
function superText({ key: key2, what, members, partial }) {
  if (what === "layer") return `${key2}: ${plural(members.length, "node")}`;
  return `${partial ? "+" : "all "}${count(members.length)}`;
}
function rowName({ members }) {
  const node = members[0];
  return rowOfHeads(node) ? `heads, layer ${node.layer}` : partName(node);
}
function aboutSuper(one, measure) {
  const sum = ({ n, size }) => `${plural(n, "edge")}, sum of |${measure}| ${num(size)}`;
  const what = one.what === "layer" ? `${plural(one.members.length, "node")} of ${one.key}` : `${one.partial ? "other " : ""}${inHead(one) ? partName(one.members[0]) : rowName(one)}: ${plural(one.members.length, "node")}`;
  return [what, `in: ${sum(one.into)}`, `out: ${sum(one.out)}`, `inside: ${sum(one.inside)}`].join("\n");
}

// src/layout.ts
var PILL = { width: 38, height: 20 };
var PITCH = 50;
var HEAD_LABEL = 46;
var HEAD_PAD = 6;
var PILL_GAP = 6;
var LABELS = 132;
var TOP = 50;
function superSpot(one) {
  const text = superText(one);
  const place = inHead(one) ? placeOf(one.node) : { ...placeOf(one.node), short: "" };
  return {
    node: one.node,
    folded: one,
    x: 0,
    y: 0,
    width: Math.max(PILL.width, 16 + 6.6 * text.length),
    height: one.what === "layer" ? 30 : PILL.height + 2,
    place: one.what === "layer" ? { ...place, row: 10 * (place.layer ?? 0), rowName: "", block: "layer", short: "", residual: false } : { ...place, residual: false },
    shape: "super",
    text,
    ports: []
  };
}
function freesOf(spots) {
  const groups = /* @__PURE__ */ new Map();
  for (const [site, { node, place, folded }] of spots) {
    if (place.residual || folded && !place.short) continue;
    const key2 = place.short ? `${place.row}|${node.head ?? -1}` : `${place.row}|${site}`;
    const group = groups.get(key2);
    if (group) group.push(site);
    else groups.set(key2, [site]);
  }
  const frees = [];
  const owner = /* @__PURE__ */ new Map();
  for (const sites of groups.values()) {
    const spot = spots.get(sites[0]);
    const inHead2 = spot.place.short !== "";
    if (inHead2) sites.sort((a, b) => headOrder(spots, sites, a) - headOrder(spots, sites, b));
    const pills = sites.reduce((t, one) => t + spots.get(one).width + PILL_GAP, -PILL_GAP);
    const free = {
      sites,
      row: spot.place.row,
      head: inHead2 ? spot.node.head ?? -1 : null,
      width: inHead2 ? pills + 2 * HEAD_PAD + HEAD_LABEL : PILL.width,
      x: 0
    };
    frees.push(free);
    for (const site of sites) owner.set(site, free);
  }
  return { frees, owner };
}
function headOrder(spots, sites, site) {
  const { node, place, folded } = spots.get(site);
  if (folded) return 1e8;
  if (place.short === "v") return 1e7 + node.index;
  const other = place.short === "q" ? "k" : "q";
  const paired = sites.some((s2) => spots.get(s2)?.place.short === other && spots.get(s2)?.node.index === node.index);
  return (paired ? 0 : 1e6) + node.index * 2 + (place.short === "q" ? 0 : 1);
}
function pullTogether(order) {
  const { channels, ties, frees } = order;
  const at = new Map(channels.map((c, i) => [c, i]));
  const indexOf2 = (items) => new Map(items.map((item2, i) => [item2, i]));
  const [frontOf, freeOf] = [indexOf2([...channels]), indexOf2(frees)];
  const ends = ties.map((tie) => [frontOf.get(tie.channel), freeOf.get(tie.free), tie.weight]);
  const place = new Float64Array(channels.length);
  const [sums, weights] = [new Float64Array(frees.length), new Float64Array(frees.length)];
  const settleFrees = () => {
    for (const [channel, i] of frontOf) place[i] = at.get(channel);
    sums.fill(0);
    weights.fill(0);
    for (const [channel, free, weight] of ends) {
      sums[free] = sums[free] + weight * place[channel];
      weights[free] = weights[free] + weight;
    }
    frees.forEach((free, i) => {
      const weight = weights[i];
      free.x = weight > 0 ? sums[i] / weight : (channels.length - 1) / 2;
    });
  };
  const cost = () => {
    settleFrees();
    let total = 0;
    for (const [channel, free, weight] of ends) total += weight * Math.abs(place[channel] - frees[free].x);
    return total;
  };
  let best = cost();
  let bestOrder = [...channels];
  const sweeps = ties.length > 2e4 ? 8 : 24;
  for (let sweep = 0; sweep < sweeps; sweep++) {
    const sum = /* @__PURE__ */ new Map();
    for (const tie of ties) {
      const entry = sum.get(tie.channel) ?? [0, 0];
      entry[0] += tie.weight * tie.free.x;
      entry[1] += tie.weight;
      sum.set(tie.channel, entry);
    }
    const want = new Map(
      channels.map((c) => {
        const entry = sum.get(c);
        return [c, entry ? entry[0] / entry[1] : at.get(c)];
      })
    );
    channels.sort((a, b) => want.get(a) - want.get(b) || a - b);
    channels.forEach((c, i) => at.set(c, i));
    const now = cost();
    if (now < best - 1e-9) {
      best = now;
      bestOrder = [...channels];
    }
  }
  channels.splice(0, channels.length, ...bestOrder);
  channels.forEach((c, i) => at.set(c, i));
  const work = channels.length * channels.length * ties.length;
  for (let pass = 0; pass < 5 && work < 6e6; pass++) {
    let better = false;
    for (let i = 0; i < channels.length; i++) {
      for (let j = i + 1; j < channels.length; j++) {
        const [a, b] = [channels[i], channels[j]];
        at.set(a, j).set(b, i);
        const now = cost();
        if (now < best - 1e-9) {
          best = now;
          channels[i] = b;
          channels[j] = a;
          better = true;
        } else at.set(a, i).set(b, j);
        if (better && channels[i] !== a) break;
      }
    }
    if (!better) break;
  }
  settleFrees();
}
function columnsOf(channels, span) {
  const column = /* @__PURE__ */ new Map();
  if (channels.length <= 14) {
    channels.forEach((c, i) => column.set(c, i));
    return column;
  }
  const taken = [];
  for (const channel of channels) {
    const [lo, hi] = span.get(channel);
    let slot = -1;
    for (let k = Math.max(0, taken.length - 4); k < taken.length && slot < 0; k++) {
      if (taken[k].every(([a, b]) => hi < a - 1 || lo > b + 1)) slot = k;
    }
    if (slot < 0) slot = taken.push([]) - 1;
    taken[slot].push([lo, hi]);
    column.set(channel, slot);
  }
  return column;
}
function intoSlots(wants, lo, hi) {
  const spare = Math.max(0, wants.length - (hi - lo + 1));
  const first = lo - Math.ceil(spare / 2) - 0.5;
  const slots = hi - lo + 2 + spare;
  const cost = [];
  wants.forEach((want, i) => {
    const row = [];
    let best = i === 0 ? 0 : Infinity;
    for (let k = 0; k < slots; k++) {
      if (i > 0) best = Math.min(best, k > 0 ? cost[i - 1][k - 1] : Infinity);
      row.push(best + Math.abs(first + k - want));
    }
    cost.push(row);
  });
  const out = new Array(wants.length);
  let end = slots;
  for (let i = wants.length - 1; i >= 0; i--) {
    let at = -1;
    for (let k = 0; k < end; k++) {
      if (at < 0 || cost[i][k] < cost[i][at]) at = k;
    }
    out[i] = first + at;
    end = at;
  }
  return out;
}
function sideBySide(frees, gap) {
  const pools = [];
  for (const free of frees) {
    pools.push({ items: [free], offset: [0], want: free.x });
    while (pools.length > 1) {
      const [a, b] = [pools[pools.length - 2], pools[pools.length - 1]];
      const last = a.items.length - 1;
      const step = a.offset[last] + (a.items[last].width + b.items[0].width) / 2 + gap;
      if (a.want + step <= b.want) break;
      const n = a.items.length + b.items.length;
      const want = (a.want * a.items.length + (b.want - step) * b.items.length) / n;
      pools.splice(pools.length - 2, 2, {
        items: [...a.items, ...b.items],
        offset: [...a.offset, ...b.offset.map((o) => o + step)],
        want
      });
    }
  }
  for (const pool of pools) pool.items.forEach((free, i) => free.x = pool.want + pool.offset[i]);
}
function chunk(items, rows) {
  return Array.from({ length: rows }, (_, r) => items.filter((_2, i) => i % rows === r));
}
function plateWidth(text) {
  return Math.max(120, text.length * 7.3 + 28);
}
var BLOCKS = { attn: "attention", mlp: "MLP", final: "residual stream", other: "" };
function layout({ nodes, supers, edges: drawn2, carries }) {
  const edges = drawn2.map(({ edge, bundle }) => ({ src: edge.src, dst: edge.dst, size: bundle ? bundle.size : sizeOf(edge) }));
  const spots = new Map(nodes.map((node) => {
    const folded = supers.get(node.site);
    if (folded) return [node.site, superSpot(folded)];
    const place2 = placeOf(node);
    return [node.site, { node, place: place2, x: 0, y: 0, ...PILL, shape: place2.residual ? "channel" : "unit", text: null, ports: [], folded: null }];
  }));
  const { frees, owner } = freesOf(spots);
  const channels = [...new Set([...spots.values()].filter((p) => p.place.residual).map((p) => p.node.index))].sort((a, b) => a - b);
  const ties = [];
  for (const edge of edges) {
    const [a, b] = [spots.get(edge.src), spots.get(edge.dst)];
    if (!a || !b || a.place.residual === b.place.residual) continue;
    const [channel, free] = a.place.residual ? [a, owner.get(edge.dst)] : [b, owner.get(edge.src)];
    if (free) ties.push({ channel: channel.node.index, free, weight: Math.sqrt(edge.size) + 0.05 });
  }
  pullTogether({ channels, ties, frees });
  const rowKeys = [...new Set([...spots.values()].map((p) => p.place.row))].sort((a, b) => a - b);
  const span = /* @__PURE__ */ new Map();
  for (const { node, place: place2 } of spots.values()) {
    if (!place2.residual) continue;
    const at = rowKeys.indexOf(place2.row);
    const now = span.get(node.index) ?? [at, at];
    span.set(node.index, [Math.min(now[0], at), Math.max(now[1], at)]);
  }
  const column = columnsOf(channels, span);
  const nColumns = Math.max(1, ...[...column.values()].map((c) => c + 1));
  const place = new Map(channels.map((c, i) => [i, column.get(c)]));
  const toColumn = (rank) => {
    const lo2 = place.get(Math.floor(rank)) ?? 0;
    return lo2 + (rank - Math.floor(rank)) * ((place.get(Math.ceil(rank)) ?? lo2) - lo2);
  };
  for (const spot of spots.values()) if (spot.place.residual) spot.x = column.get(spot.node.index) * PITCH;
  const crossing = /* @__PURE__ */ new Map();
  for (const edge of edges) {
    const row = spots.get(edge.dst)?.place.row;
    if (row !== void 0) crossing.set(row, (crossing.get(row) ?? 0) + 1);
  }
  const heads = [];
  const bands2 = [];
  const blocks = [];
  const rows = [];
  let y = TOP;
  let lastBlock = "";
  const beside = [];
  const apart4 = [];
  const rests = [...supers.values()].some((one) => one.partial);
  for (const key2 of rowKeys) {
    const inRow = [...spots.values()].filter((p) => p.place.row === key2);
    const first = inRow[0].place;
    const block = `${first.layer}|${first.block}`;
    const room = Math.max(64, 0.012 * nColumns * PITCH);
    y += block === lastBlock ? 40 + Math.min(room, 0.35 * (crossing.get(key2) ?? 0)) + PILL.height : 34 + PILL.height;
    if (block !== lastBlock) {
      y += 22;
      blocks.push({
        layer: first.layer === null ? null : `layer ${first.layer}`,
        title: first.layer === null ? "Final" : `Layer ${first.layer}`,
        subtitle: BLOCKS[first.block] ?? "",
        y: y - PILL.height / 2 - 16,
        height: 0
      });
    }
    const here = frees.filter((f) => f.row === key2).sort((a, b) => a.x - b.x || a.sites[0].localeCompare(b.sites[0]));
    let lines = 1;
    if (here.length && here[0].head !== null) {
      for (const free of here) free.x = toColumn(free.x) * PITCH;
      const room2 = Math.max(nColumns * PITCH, 560);
      lines = Math.max(1, Math.round(here.reduce((t, f) => t + f.width + 12, 0) / room2));
      chunk(here, lines).forEach((line2, k) => {
        sideBySide(line2, 14);
        for (const free of line2) placeHead(free, y + 6 + k * 46, spots, heads);
      });
      y += 6 + (lines - 1) * 46;
    } else if (here.length) {
      lines = Math.max(1, Math.ceil(here.length / Math.max(nColumns + 1, 11)));
      chunk(here, lines).forEach((line2, k) => {
        const slots = intoSlots(line2.map((f) => toColumn(f.x)), 0, nColumns - 1);
        line2.forEach((free, i) => {
          free.x = slots[i] * PITCH;
          const spot = spots.get(free.sites[0]);
          spot.x = free.x;
          spot.y = y + k * 34;
        });
      });
      y += (lines - 1) * 34;
    }
    for (const spot of inRow) if (spot.place.residual) spot.y = y;
    const single = inRow.filter((p) => !p.folded || p.place.short);
    const middle = single.length ? single.reduce((t, p) => t + p.y, 0) / single.length : y;
    for (const spot of inRow) {
      if (!spot.folded || spot.place.short) continue;
      spot.y = middle;
      (single.length || rests && spot.folded.what === "part" ? beside : apart4).push(spot);
    }
    bands2.push({ label: first.rowName, part: first.short || inRow[0].folded?.what === "layer" ? null : inRow[0].node.location, y: middle });
    rows.push(inRow.sort((a, b) => a.x - b.x || a.y - b.y).map((p) => p.node.site));
    const now = blocks[blocks.length - 1];
    now.height = y + PILL.height / 2 + 16 - now.y;
    lastBlock = block;
  }
  let lo = Infinity;
  let hi = -Infinity;
  for (const spot of spots.values()) {
    if (spot.folded && !spot.place.short) continue;
    [lo, hi] = [Math.min(lo, spot.x - spot.width / 2), Math.max(hi, spot.x + spot.width / 2)];
  }
  for (const box of heads) [lo, hi] = [Math.min(lo, box.x), Math.max(hi, box.x + box.width)];
  if (!Number.isFinite(lo)) [lo, hi] = [0, 320];
  for (const spot of apart4) spot.x = (lo + hi) / 2;
  const widest = Math.max(0, ...beside.map((spot) => spot.width));
  for (const spot of beside) spot.x = hi + 34 + widest / 2;
  if (beside.length) hi += 34 + widest;
  const pad = Math.max(14, (360 - (hi - lo)) / 2);
  const shift = LABELS + pad - lo;
  for (const spot of spots.values()) spot.x += shift;
  const shifted = heads.map((box) => ({ ...box, x: box.x + shift }));
  const fed = new Set(carries.map((c) => c.dst));
  const exclusive = channels.length <= 14;
  const unfed = [...spots.values()].filter((p) => p.place.residual && !p.node.location.endsWith("resid_delta") && !fed.has(p.node.site));
  const inFirstRow = (p) => p.place.row === rowKeys[0];
  const clear = (p) => [...spots.values()].every((q) => q.y >= p.y || Math.abs(q.x - p.x) > q.width / 2 + 4);
  const upTo = exclusive ? () => true : unfed.some(inFirstRow) ? inFirstRow : clear;
  const roots = unfed.map((p) => ({ site: p.node.site, full: upTo(p) }));
  const finals = [...spots.values()].filter((p) => p.place.block === "final");
  const width = LABELS + 2 * pad + (hi - lo);
  const centre = LABELS + (width - LABELS) / 2;
  return {
    spots,
    rows,
    heads: shifted,
    bands: bands2,
    blocks,
    roots,
    tokens: { x: centre, y: 26 },
    answer: { x: finals.length ? finals.reduce((t, p) => t + p.x, 0) / finals.length : centre, y: y + 86 },
    left: LABELS,
    width: width + 14,
    height: y + 86 + 26
  };
}
function placeHead(free, y, spots, heads) {
  const x = free.x - free.width / 2;
  heads.push({
    label: free.head === -1 ? "head" : `head ${free.head}`,
    part: partOfNode(spots.get(free.sites[0]).node),
    x,
    y: y - PILL.height / 2 - HEAD_PAD,
    width: free.width,
    height: PILL.height + 2 * HEAD_PAD
  });
  let left = x + HEAD_LABEL + HEAD_PAD;
  for (const site of free.sites) {
    const spot = spots.get(site);
    spot.x = left + spot.width / 2;
    spot.y = y;
    left += spot.width + PILL_GAP;
  }
}

// src/heads.ts
var PART = { width: 44, height: 24 };
var MLP_WIDTH = 60;
var PORT = { width: 14, height: 12 };
var GAP = 8;
var FRAME_GAP = 16;
var FRAME_PAD = 8;
var LINE = 78;
var WIDEST = 1500;
var SWEEPS = 16;
var READS = {
  channel: [],
  input: [],
  logits: [],
  mlp: [],
  head: ["q", "k", "v"],
  kv_group: ["k", "v"]
};
function textOf(node, bundle) {
  const example = bundle.task.examples[0];
  if (node.kind === "input") return example ? shorten(visible(example.clean), 64) : "prompt";
  if (node.kind === "logits") return example ? `${visible(example.answer).trim()}   rather than   ${visible(example.wrong_answer).trim()}` : "answer";
  return node.kind === "mlp" ? "MLP" : `${node.kind === "head" ? "h" : "g"}${node.index}`;
}
function spotOf(node, bundle) {
  const text = textOf(node, bundle);
  const end = node.kind === "input" || node.kind === "logits";
  const width = end ? plateWidth(text) : node.kind === "mlp" ? MLP_WIDTH : PART.width;
  const reads = node.kind === "head" && bundle.model.n_group !== null ? ["q"] : READS[node.kind];
  const ports = reads.map((matrix, i) => ({ matrix, dx: (i - (reads.length - 1) / 2) * PORT.width }));
  return { node, place: placeOf(node), x: 0, y: 0, width, height: end ? 30 : PART.height, shape: end ? "end" : "part", text, ports, folded: null };
}
function framesOf({ bundle, nodes, supers }) {
  const { n_group, n_head } = bundle.model;
  const perGroup = n_group === null ? 1 : n_head / n_group;
  const frames = /* @__PURE__ */ new Map();
  const inOrder = nodes.filter((node) => !supers.has(node.site) && (node.kind === "head" || node.kind === "kv_group")).sort((a, b) => a.layer - b.layer || Number(a.kind === "head") - Number(b.kind === "head") || a.index - b.index);
  for (const node of inOrder) {
    const group = node.kind === "head" ? Math.floor(node.index / perGroup) : node.index;
    const key2 = `${node.layer}|${group}`;
    const frame = frames.get(key2) ?? { sites: [], layer: node.layer, shared: n_group !== null, width: 0, x: 0 };
    const sites = [...frame.sites, node.site];
    const width = sites.length * PART.width + (sites.length - 1) * GAP + (frame.shared ? 2 * FRAME_PAD : 0);
    frames.set(key2, { ...frame, sites, width });
  }
  for (const one of supers.values()) {
    frames.set(one.key, { sites: [one.key], layer: one.node.layer, shared: false, width: superSpot(one).width, x: 0 });
  }
  return [...frames.values()];
}
function arrange(edges, frames) {
  const owner = new Map(frames.flatMap((frame) => frame.sites.map((site) => [site, frame])));
  const ties = new Map(frames.map((frame) => [frame, []]));
  for (const { edge, bundle } of edges) {
    const [a, b] = [owner.get(edge.src), owner.get(edge.dst)];
    if (!a || !b) continue;
    const weight = Math.sqrt(bundle ? bundle.size : sizeOf(edge)) + 1e-6;
    ties.get(a).push([b, weight]);
    ties.get(b).push([a, weight]);
  }
  const layers = [...new Set(frames.map((frame) => frame.layer))].sort((a, b) => a - b);
  const rows = layers.map((layer) => frames.filter((frame) => frame.layer === layer));
  const settle = (row) => {
    sideBySide(row, FRAME_GAP);
    const mean = row.reduce((t, frame) => t + frame.x, 0) / row.length;
    for (const frame of row) frame.x -= mean;
  };
  rows.forEach(settle);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const row of sweep % 2 ? [...rows].reverse() : rows) {
      for (const frame of row) {
        const near = ties.get(frame);
        const total = near.reduce((t, [, weight]) => t + weight, 0);
        if (total > 0) frame.x = near.reduce((t, [other, weight]) => t + weight * other.x, 0) / total;
      }
      row.sort((a, b) => a.x - b.x);
      settle(row);
    }
  }
}
function headLayout(drawing) {
  const { bundle, nodes, supers, edges } = drawing;
  const spots = new Map(nodes.map((node) => {
    const folded = supers.get(node.site);
    return [node.site, folded ? superSpot(folded) : spotOf(node, bundle)];
  }));
  const frames = framesOf(drawing);
  arrange(edges, frames);
  const into2 = /* @__PURE__ */ new Map();
  for (const { edge } of edges) {
    const layer = spots.get(edge.dst)?.node.layer ?? -1;
    into2.set(layer, (into2.get(layer) ?? 0) + 1);
  }
  const heads = [];
  const bands2 = [];
  const blocks = [];
  const rows = [];
  const top = 26;
  const input = spots.get("input");
  if (input) {
    input.y = top;
    rows.push(["input"]);
  }
  let y = top;
  const layers = [...new Set(nodes.flatMap((node) => node.layer === null ? [] : [node.layer]))].sort((a, b) => a - b);
  for (const layer of layers) {
    const here = frames.filter((frame) => frame.layer === layer).sort((a, b) => a.x - b.x);
    const mlp = spots.get(`m${layer}`);
    y += 84 + Math.min(40, 5 * Math.sqrt(into2.get(layer) ?? 0));
    const start = y - PART.height / 2 - PORT.height - 16;
    const lines = Math.max(1, Math.ceil(here.reduce((t, frame) => t + frame.width + FRAME_GAP, 0) / WIDEST));
    if (here.length) {
      chunk(here, lines).forEach((line2, k) => {
        if (lines > 1) sideBySide(line2, FRAME_GAP);
        for (const frame of line2) placeFrame(frame, y + k * LINE, spots, heads);
        rows.push(line2.flatMap((frame) => frame.sites));
      });
      const whole = here.every((frame) => supers.get(frame.sites[0])?.what === "layer");
      bands2.push({ label: whole ? "" : "heads", part: whole ? null : `${layer}.heads`, y: y + (lines - 1) * LINE / 2 });
      y += (lines - 1) * LINE;
    }
    if (mlp) {
      if (here.length) y += 54;
      mlp.y = y;
      bands2.push({ label: "MLP", part: null, y });
      rows.push([mlp.node.site]);
    }
    const kept = bundle.circuit.nodes.filter((node) => node.kind === "head" && node.layer === layer).length;
    const subtitle = here.length ? `${kept} of ${bundle.model.n_head}` : "";
    blocks.push({ layer: `layer ${layer}`, title: `Layer ${layer}`, subtitle, y: start, height: y + PART.height / 2 + 14 - start });
  }
  const logits = spots.get("logits");
  y += 96;
  if (logits) {
    logits.y = y;
    rows.push(["logits"]);
  }
  const placed = [...spots.values()].filter((spot) => spot.shape === "super" || spot.shape === "part" && spot.node.kind !== "mlp");
  let lo = Math.min(0, ...placed.map((spot) => spot.x - spot.width / 2 - FRAME_PAD));
  let hi = Math.max(0, ...placed.map((spot) => spot.x + spot.width / 2 + FRAME_PAD));
  const mlps = [...spots.values()].filter((spot) => spot.node.kind === "mlp" && !spot.folded);
  const column = hi + 56 + MLP_WIDTH / 2;
  for (const spot of mlps) spot.x = column;
  if (mlps.length) hi = column + MLP_WIDTH / 2 + 62;
  const ends = [input, logits].filter((spot) => spot !== void 0);
  const missing = Math.max(420, ...ends.map((spot) => spot.width)) + 40 - (hi - lo);
  if (missing > 0) [lo, hi] = [lo - missing / 2, hi + missing / 2];
  const pad = 22;
  const shift = LABELS + pad - lo;
  for (const spot of spots.values()) spot.x += shift;
  const width = LABELS + 2 * pad + (hi - lo);
  const centre = LABELS + (width - LABELS) / 2;
  for (const spot of ends) spot.x = centre;
  return {
    spots,
    rows,
    bands: bands2,
    blocks,
    roots: [],
    heads: heads.map((box) => ({ ...box, x: box.x + shift })),
    tokens: { x: centre, y: top },
    answer: { x: centre, y },
    left: LABELS,
    width: width + 14,
    height: y + 26
  };
}
function placeFrame(frame, y, spots, heads) {
  const left = frame.x - frame.width / 2;
  if (frame.shared) {
    const up = PART.height / 2 + PORT.height + 4;
    heads.push({ label: "", part: null, x: left, y: y - up, width: frame.width, height: up + PART.height / 2 + 7 });
  }
  if (!frame.shared && frame.sites.length === 1) return void Object.assign(spots.get(frame.sites[0]), { x: frame.x, y });
  const first = left + (frame.shared ? FRAME_PAD : 0) + PART.width / 2;
  frame.sites.forEach((site, i) => Object.assign(spots.get(site), { x: first + i * (PART.width + GAP), y }));
}

// src/scene.ts
var WITH_MARKERS = 700;
function lineOf(x1, y1, x2, y2, bow = 0) {
  return { x1, y1, x2, y2, bend: Math.max(14, Math.abs(y2 - y1) * 0.46) * (y2 < y1 ? -1 : 1), bow };
}
function pathOf({ x1, y1, x2, y2, bend, bow }) {
  return `M${x1} ${y1}C${x1 + bow} ${y1 + bend} ${x2 + bow} ${y2 - bend} ${x2} ${y2}`;
}
function pointOn({ x1, y1, x2, y2, bend, bow }, t) {
  const mix2 = (a, b, c, d) => (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t * t * c + t ** 3 * d;
  return [mix2(x1, x1 + bow, x2 + bow, x2), mix2(y1, y1 + bend, y2 - bend, y2)];
}
function thickness(size, largest) {
  return 0.7 + 3.6 * Math.sqrt(size / largest);
}
function lineOfEdge(edge, from, to, spots) {
  if (to.y < from.y && (to.folded || from.folded)) return lineOf(from.x, from.y - from.height / 2, to.x, to.y + to.height / 2 + 1.5);
  const port = to.ports.find((one) => one.matrix === edge.matrix);
  const [x2, y1] = [to.x + (port?.dx ?? 0), from.y + from.height / 2];
  const y2 = to.y - to.height / 2 - (port ? PORT.height : 0) - 1.5;
  const upright = from.shape === "part" && Math.abs(x2 - from.x) < 24;
  const over = upright && spots.some((one) => one.y > from.y && one.y < to.y && Math.abs(one.x - x2) < one.width / 2 + 3);
  return lineOf(from.x, y1, x2, y2, over ? Math.min(76, 40 + 0.05 * (y2 - y1)) : 0);
}
function into(map, key2, value) {
  const list = map.get(key2);
  if (list) list.push(value);
  else map.set(key2, [value]);
}
function drawn(wire, look) {
  const { src, dst } = wire.edge;
  if (look.hidden.has(src) || look.hidden.has(dst)) return false;
  return src === look.centre || dst === look.centre || (wire.rank === null ? wire.always : wire.rank < look.strongest);
}
function carryPath(a, b) {
  const level = Math.abs(a.y - b.y) < 1;
  const d = level ? `M${a.x} ${a.y}H${b.x}` : a.x === b.x ? `M${a.x} ${a.y}V${b.y}` : pathOf(lineOf(a.x, a.y, b.x, b.y));
  return { d, level };
}
function rootPaths(plan) {
  const out = [];
  const full = [];
  for (const root of plan.roots) {
    const { x, y } = plan.spots.get(root.site);
    const top = root.full ? plan.tokens.y + 30 : y - PILL.height / 2 - 13;
    if (root.full) full.push(x);
    out.push({ d: `M${x} ${top}V${y}`, site: root.full ? root.site : null, dot: root.full ? null : { x, y: top } });
  }
  if (full.length) {
    const [a, b] = full.reduce(([lo, hi], x) => [Math.min(lo, x), Math.max(hi, x)], [plan.tokens.x, plan.tokens.x]);
    out.push({ d: `M${a} ${plan.tokens.y + 30}H${b}M${plan.tokens.x} ${plan.tokens.y + 15}v15`, site: null, dot: null });
  }
  return out;
}
function answerOf(index) {
  const example = index.bundle.task.examples[0];
  return example ? `${visible(example.answer)}   rather than   ${visible(example.wrong_answer)}` : "answer";
}
function plates({ index, plan }) {
  const example = index.bundle.task.examples[0];
  return [
    ...plan.spots.has("input") ? [] : [{ ...plan.tokens, text: example ? shorten(visible(example.clean), 44) : "prompt" }],
    ...plan.spots.has("logits") ? [] : [{ ...plan.answer, text: answerOf(index) }]
  ];
}
function labelOf({ node, place, text, folded }) {
  const short = folded ? "" : place.short;
  return { short, text: text ?? (short ? ` ${node.index}` : String(node.index)) };
}
function planOf(drawing) {
  return drawing.bundle.grain === "head" ? headLayout(drawing) : layout(drawing);
}
function sceneOf(index, drawing) {
  const { bundle } = index;
  const plan = planOf(drawing);
  const spots = [...plan.spots.values()];
  const measure = bundle.grain === "head" ? "score" : "weight";
  const fades = bundle.grain === "head" && index.edges.some((edge) => edge.weight !== null);
  const largestSum = drawing.edges.reduce((t, one) => Math.max(t, one.bundle?.size ?? 0), 1e-9);
  const wires = drawing.edges.map((one) => {
    const { edge, bundle: sum } = one;
    const size = sum ? sum.size : sizeOf(edge);
    const share2 = size / (sum ? largestSum : index.largestWeight);
    return {
      ...one,
      line: lineOfEdge(edge, plan.spots.get(edge.src), plan.spots.get(edge.dst), spots),
      tone: sum ? "sum" : toneOf(bundle, edge.weight),
      width: sum ? 1 + 5 * Math.sqrt(share2) : thickness(size, index.largestWeight),
      fade: fades && !sum ? 0.3 + 0.7 * Math.sqrt(share2) : 1
    };
  });
  const wiresOf = /* @__PURE__ */ new Map();
  for (const wire of wires) for (const site of [wire.edge.src, wire.edge.dst]) into(wiresOf, site, wire);
  const carriesOf = /* @__PURE__ */ new Map();
  for (const carry of drawing.carries) for (const site of [carry.src, carry.dst]) into(carriesOf, site, carry);
  const direct = spots.filter((spot) => spot.node.direct_logit !== null);
  const plate = plateWidth(answerOf(index)) / 2 - 16;
  const largestDirect = direct.reduce((t, { node }) => Math.max(t, Math.abs(node.direct_logit)), 1e-9);
  const directs = direct.map(({ node, x, y }) => {
    const weight = node.direct_logit;
    return {
      site: node.site,
      tone: weight >= 0 ? "up" : "down",
      width: thickness(Math.abs(weight), largestDirect),
      line: lineOf(x, y + PILL.height / 2, plan.answer.x + Math.max(-plate, Math.min(plate, (x - plan.answer.x) * 0.3)), plan.answer.y - 17)
    };
  });
  const near = (site) => {
    const out = /* @__PURE__ */ new Set();
    for (const { src, dst } of [...(wiresOf.get(site) ?? []).map((wire) => wire.edge), ...carriesOf.get(site) ?? []]) out.add(src === site ? dst : src);
    return out;
  };
  return {
    index,
    drawing,
    plan,
    wires,
    directs,
    wiresOf,
    carriesOf,
    near,
    tip: ({ edge, bundle: sum }) => {
      const value = edge.weight === null ? `no ${measure}` : `${measure} ${signed(edge.weight, 6)}`;
      return `${edge.src} → ${edge.dst}
${sum ? `${plural(sum.n, "edge")}, sum of |${measure}| ${num(sum.size)}` : `${edge.matrix}  ${value}`}`;
    },
    ink: (node) => Math.sqrt(Math.max(0, index.matter(node) ?? 0) / index.largestMatter),
    words: (site) => {
      const { node, folded } = plan.spots.get(site);
      return folded ? aboutSuper(folded, measure) : [describe(node), ...aboutMatter(index, node)].join("\n");
    }
  };
}
function aboutMatter(index, node) {
  const matter = index.matter(node);
  if (index.bundle.grain === "head") return matter === null ? [] : [`|score| of its edges: ${num(matter)}`];
  return [matter === null ? "ablation not measured" : `ablating it: ${signed(matter)} nats`];
}

// src/sketch.ts
var WIDTHS = [0.8, 1.5, 2.5, 4];
var TITLE = { own: 12, least: 10.5, most: 20 };
var MARGIN = 104;
var LEAST_LABEL = 8;
function readable(svg, width) {
  new ResizeObserver(() => {
    const scale = svg.getBoundingClientRect().width / width;
    if (!scale) return;
    svg.style.setProperty("--title", `${Math.min(TITLE.most, Math.max(TITLE.own, TITLE.least / scale)).toFixed(1)}px`);
    svg.classList.toggle("small", 11 * scale < LEAST_LABEL);
  }).observe(svg);
}
function lineOf2(from, to) {
  const [y1, y2] = [from.y + from.height / 2, to.y - to.height / 2];
  const bend = Math.max(14, Math.abs(y2 - y1) * 0.46);
  const r = (v) => v.toFixed(1);
  return `M${r(from.x)} ${r(y1)}C${r(from.x)} ${r(y1 + bend)} ${r(to.x)} ${r(y2 - bend)} ${r(to.x)} ${r(y2)}`;
}
function sketch(bundle) {
  const plan = planOf(unfolded(bundle));
  const edges = bundle.circuit.edges;
  const largest = edges.reduce((most, edge) => Math.max(most, sizeOf(edge)), 1e-9);
  const draw = (scale, label, looks, texts = false) => {
    const drawn2 = [...plan.spots].filter(([site]) => (looks?.node(site) ?? "own") !== "absent");
    const left = plan.left - MARGIN;
    const within = (y, height2) => ([, spot]) => spot.y > y && spot.y < y + height2;
    const blocks = plan.blocks.filter((block) => drawn2.some(within(block.y, block.height)));
    const ends = drawn2.map(([, spot]) => [spot.y - spot.height / 2, spot.y + spot.height / 2]);
    const top = Math.min(...blocks.map((block) => block.y), ...ends.map(([y]) => y)) - 2;
    const foot = Math.max(...blocks.map((block) => block.y + block.height), ...ends.map(([, y]) => y), top) + 2;
    const [width, height] = [plan.width - 12 - left, foot - top];
    const svg = s("svg", { class: "sketch", role: "img", "aria-label": label, width: (width * scale).toFixed(1), height: (height * scale).toFixed(1), viewBox: `${left} ${top} ${width} ${height}` });
    for (const block of blocks) {
      const middle = { x: plan.left - 8, y: block.y + block.height / 2 };
      svg.append(
        s("rect", { x: plan.left, y: block.y, width: plan.width - plan.left - 14, height: block.height, rx: 8, class: "band" }),
        s("text", { ...middle, dy: "-0.15em", class: "sketch-title" }, block.title),
        s("text", { ...middle, dy: "1em", class: "sketch-title" }, block.subtitle.replace("residual stream", "residual"))
      );
    }
    for (const box of plan.heads) {
      if (!drawn2.some(([, { x, y }]) => x > box.x && x < box.x + box.width && y > box.y && y < box.y + box.height)) continue;
      svg.append(s("rect", { x: box.x, y: box.y, width: box.width, height: box.height, rx: 7, class: "head-box" }));
      if (box.label) svg.append(s("text", { x: box.x + 27, y: box.y + box.height / 2 + 3.5, class: "head-label" }, box.label));
    }
    const paths = /* @__PURE__ */ new Map();
    const add = (key2, d) => {
      const list = paths.get(key2);
      if (list) list.push(d);
      else paths.set(key2, [d]);
    };
    for (const { src, dst } of bundle.circuit.carries) {
      const [a, b] = [plan.spots.get(src), plan.spots.get(dst)];
      const faint = [src, dst].some((site) => ["gone", "absent"].includes(looks?.node(site) ?? "own"));
      if (a && b && !faint) add("carry|1.1", Math.abs(a.y - b.y) < 1 ? `M${a.x} ${a.y}H${b.x}` : a.x === b.x ? `M${a.x} ${a.y}V${b.y}` : lineOf2(a, b));
    }
    for (const edge of edges) {
      const [a, b] = [plan.spots.get(edge.src), plan.spots.get(edge.dst)];
      if (!a || !b) continue;
      const look = looks?.edge(edge) ?? "own";
      if (look === "absent") continue;
      const share2 = Math.sqrt(sizeOf(edge) / largest);
      const bin = Math.min(WIDTHS.length - 1, Math.floor(share2 * WIDTHS.length));
      add(`edge ${look === "own" ? toneOf(bundle, edge.weight) : look}|${WIDTHS[bin]}`, lineOf2(a, b));
    }
    const order = (key2) => Number(key2.split("|")[1]) + (key2.startsWith("carry") ? -9 : key2.includes("gone") ? -5 : 0);
    for (const key2 of [...paths.keys()].sort((a, b) => order(a) - order(b))) {
      const [name, stroke] = key2.split("|");
      svg.append(s("path", { d: paths.get(key2).join(""), class: name, "stroke-width": stroke }));
    }
    for (const [site, spot] of drawn2) {
      const look = looks?.node(site) ?? "own";
      const { x, y, width: w, height: t } = spot;
      const g = s(
        "g",
        { class: `mini ${look}`, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, "data-site": site, "data-tip": site },
        s("rect", { x: -w / 2, y: -t / 2, width: w, height: t, rx: spot.shape === "unit" ? 10 : 4, class: "pill" })
      );
      if (texts) g.append(s("text", { y: 4, class: "pill-text" }, spot.text ?? `${spot.place.short ? `${spot.place.short} ` : ""}${spot.node.index}`));
      svg.append(g);
    }
    readable(svg, width);
    return svg;
  };
  return { plan, draw };
}

// src/state.ts
var Store = class {
  constructor(state) {
    this.state = state;
    this.listeners = [];
  }
  get() {
    return this.state;
  }
  set(change) {
    const before = this.state;
    this.state = { ...before, ...change };
    for (const listener of this.listeners) listener(this.state, before);
  }
  listen(listener) {
    this.listeners.push(listener);
  }
};

// src/compare.ts
function shapeOfOther(other) {
  return shapeOf(other.outline, other.d_head);
}
function bundleOfOther(bundle, other) {
  const model = { ...bundle.model, name: other.model, n_layer: other.n_layer };
  const task = other.task === bundle.task.name ? bundle.task : { ...bundle.task, name: other.task, examples: [] };
  const score = other.method === bundle.record["method"] ? bundle.circuit.edge_score : null;
  return withShape({ ...bundle, model, task, circuit: { ...bundle.circuit, edge_score: score } }, shapeOfOther(other));
}
function lossOf(value, pairs) {
  return value === null ? "–" : `${num(value, 3)} nats${pairs === null ? "" : `, ${plural(pairs, "pair")}`}`;
}
function keyOf2({ src, dst, matrix }) {
  return `${src} ${dst} ${matrix}`;
}
function sizes(bundle, other) {
  const { circuit, model, task } = bundle;
  const row = (label, own, its) => own === "–" && its === "–" ? null : h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, own), h("td", {}, its));
  const said = (reached) => reached === null ? "–" : reached ? "yes" : "no, the best found";
  return h(
    "table",
    { class: "sizes" },
    h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col" }, "This circuit"), h("th", { scope: "col" }, nameOf(other)))),
    h(
      "tbody",
      {},
      row("model", model.name, other.model),
      row("task", task.name, other.task),
      row("nodes", count(circuit.n_nodes), count(other.outline.nodes.length)),
      row("edges", count(circuit.n_edges), count(other.outline.edges.length)),
      row("task loss, all held-out pairs", lossOf(circuit.loss_heldout_nats, circuit.heldout_pairs), lossOf(other.loss_heldout_nats, other.heldout_pairs)),
      row("target reached", said(circuit.reached), said(other.reached))
    )
  );
}
function apart2(bundle, other) {
  const [own, its] = [sketch(bundle), sketch(bundleOfOther(bundle, other))];
  const panes = [[own, "This circuit", bundle.model.name, bundle.circuit.n_nodes, bundle.circuit.n_edges], [its, nameOf(other), other.model, other.outline.nodes.length, other.outline.edges.length]];
  const figures = panes.map(([drawn2, name, model, nodes, edges]) => {
    const label = `${plural(nodes, "node")}, ${plural(edges, "edge")}`;
    const svg = drawn2.draw(1, `${name}, ${model}: ${label}`);
    return { svg, width: Number(svg.getAttribute("width")), element: h("figure", { class: "pane" }, svg, h("figcaption", {}, h("b", {}, name), ` in ${model}: ${label}`)) };
  });
  const total = figures.reduce((sum, one) => sum + one.width, 0);
  const widest = Math.max(...figures.map((one) => one.width));
  for (const { svg, width } of figures) svg.style.setProperty("--share", (width / widest).toFixed(4));
  const columns = figures.map((one) => `minmax(0, ${(100 * one.width / total).toFixed(2)}fr)`).join(" ");
  return h(
    "div",
    { class: "both" },
    h("div", { class: "panes", style: `--columns:${columns};--beside:${Math.round(total + 40)}px;--under:${Math.round(widest)}px` }, ...figures.map((one) => one.element)),
    h(
      "div",
      { class: "both-notes" },
      sizes(bundle, other),
      h("p", { class: "prose muted" }, "Both are drawn at one scale; the wider a line, the larger its weight beside the largest of its own circuit; solid is positive, dashed negative. The two models have their own channels: a site of one means nothing in the other, so nothing is matched.")
    )
  );
}
var GROUPS = [["both", "In both"], ["left", "Only in this circuit"], ["right", "Only in the other"]];
function overlaps2(nodes, edges) {
  const rows = [["nodes", nodes], ["edges", edges]];
  return h(
    "table",
    { class: "sizes" },
    h("thead", {}, h("tr", {}, h("td", {}), ...["in both", "only this", "only the other", "IoU", "by chance"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, ...rows.map(([name, one]) => one ? h("tr", {}, h("th", { scope: "row" }, name), ...[one.shared, one.left, one.right].map((n) => h("td", {}, count(n))), h("td", { "data-tip": String(one.iou) }, num(one.iou, 3)), h("td", { "data-tip": String(one.chance) }, num(one.chance, 3))) : h("tr", {}, h("th", { scope: "row" }, name), h("td", { colspan: 5 }, "one of them has none"))))
  );
}
function together(bundle, other, open) {
  const its = shapeOfOther(other);
  const ownNodes = new Set(bundle.circuit.nodes.map((n) => n.site));
  const itsNodes = new Set(its.nodes.map((n) => n.site));
  const [ownEdges, itsEdges] = [new Set(bundle.circuit.edges.map(keyOf2)), new Set(its.edges.map(keyOf2))];
  const union = withShape(bundle, {
    nodes: [...bundle.circuit.nodes, ...its.nodes.filter((n) => !ownNodes.has(n.site))],
    edges: [...bundle.circuit.edges, ...its.edges.filter((e) => !ownEdges.has(keyOf2(e)))],
    carries: [...bundle.circuit.carries, ...its.carries.filter((c) => !(ownNodes.has(c.src) && ownNodes.has(c.dst)))]
  });
  const side = (here, there) => here && there ? "both" : here ? "left" : "right";
  const looks = { node: (site) => side(ownNodes.has(site), itsNodes.has(site)), edge: (edge) => side(ownEdges.has(keyOf2(edge)), itsEdges.has(keyOf2(edge))) };
  const drawn2 = sketch(union).draw(1, `Both circuits in one: ${GROUPS.map(([look, name]) => `${name.toLowerCase()}, ${plural(union.circuit.nodes.filter((n) => looks.node(n.site) === look).length, "node")}`).join("; ")}`, looks, true);
  const item2 = (node) => {
    if (!ownNodes.has(node.site)) return h("li", { class: "mono" }, node.site);
    const button2 = h("button", { type: "button", class: "site" }, node.site);
    button2.addEventListener("click", () => open(node.site));
    return h("li", {}, button2);
  };
  const lists = GROUPS.map(([look, name]) => {
    const nodes = union.circuit.nodes.filter((n) => looks.node(n.site) === look);
    return h(
      "section",
      { class: `group ${look}` },
      h("h3", {}, h("span", { class: "swatch", "aria-hidden": "true" }), name, h("span", { class: "aside" }, count(nodes.length))),
      nodes.length ? h("ul", { class: "site-list" }, ...nodes.map(item2)) : h("p", { class: "muted" }, "No node.")
    );
  });
  return h(
    "div",
    { class: "both" },
    h("div", { class: "union", style: `--least:${Math.round(0.8 * Number(drawn2.getAttribute("width")))}px` }, drawn2),
    h(
      "div",
      { class: "both-notes" },
      overlaps2(other.nodes, other.edges),
      sizes(bundle, other),
      h("p", { class: "prose muted" }, "IoU: shared over all. By chance: its mean for random circuits with as many nodes at every location, and as many edges of every matrix. Filled: in both; solid outline and line: only in this circuit; dashed: only in the other.")
    ),
    h("div", { class: "groups" }, ...lists)
  );
}
function otherOverview(other) {
  const reached = other.reached === false ? ", the best found (target not reached)" : "";
  const loss = other.loss_heldout_nats === null ? "" : `, at ${num(other.loss_heldout_nats, 3)} nats of task loss on ${heldout(other.heldout_pairs)}${reached}`;
  return h("div", { class: "card" }, h(
    "section",
    { class: "card-part" },
    h("h3", {}, nameOf(other)),
    h("p", { class: "prose" }, h("b", {}, other.model), ` on ${other.task}: ${plural(other.outline.nodes.length, "node")} and ${plural(other.outline.edges.length, "edge")}${loss}.`),
    h("p", { class: "prose muted" }, "Select a node to see what feeds it and what it feeds; what its nodes fire on is on the page of its own run.")
  ));
}
function comparison(index, store, main, make) {
  const { bundle } = index;
  const other = bundle.other;
  const place = h("div", { class: "beside" });
  const said = h("p", { class: "cut-note", role: "status", hidden: true });
  let shown = { key: "circuit|", stage: null, store: null };
  let width = 0;
  const modeOf = () => {
    const asked = store.get().kept["compare"];
    if (asked === "numbers" && bundle.comparison) return asked;
    return other && (asked === "other" || asked === "both") ? asked : "circuit";
  };
  const cutOf = () => {
    const size = Number(store.get().kept["cut"] ?? NaN);
    const known2 = bundle.cuts && Number.isInteger(size) && size > 0 && size <= bundle.cuts.nodes.length;
    return known2 && size !== bundle.circuit.n_nodes ? size : null;
  };
  let pointing = false;
  const childOf = (own, follows) => {
    const { lit } = store.get();
    const child = new Store({ selected: null, peeked: null, found: null, strongest: own.edges.length, lit: follows ? lit : null, kept: {} });
    if (follows) {
      child.listen((now, before) => {
        const known2 = now.selected === null || index.nodes.has(now.selected);
        if (!pointing && known2 && now.selected !== before.selected && now.selected !== store.get().selected) store.set({ selected: now.selected });
      });
    }
    return child;
  };
  const point = () => {
    const [cut, { selected, lit }] = [cutOf(), store.get()];
    if (!shown.store || cut === null || !shown.key.startsWith("circuit|")) return;
    pointing = true;
    shown.store.set({ lit, selected: selected && bundle.cuts?.nodes.slice(0, cut).includes(selected) ? selected : null });
    pointing = false;
  };
  const stages = /* @__PURE__ */ new Map();
  const stageAt = (mode, cut) => {
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
  const buttons = /* @__PURE__ */ new Map();
  const bar = h("div", { class: "modes", role: "group", "aria-label": "Which circuit is drawn" });
  if (other || bundle.comparison) {
    const names = [["circuit", "Circuit"]];
    if (other) names.push(["other", nameOf(other)], ["both", "Both"]);
    if (bundle.comparison) names.push(["numbers", "Comparison"]);
    for (const [mode, name] of names) {
      const button2 = h("button", { type: "button", class: "mode", "data-mode": mode }, name);
      button2.addEventListener("click", () => keep(store, "compare", mode === "circuit" ? null : mode));
      buttons.set(mode, button2);
      bar.append(button2);
    }
  }
  const open = (site) => {
    keep(store, "compare", null);
    store.set({ selected: site });
  };
  const show = () => {
    const [mode, cut] = [modeOf(), cutOf()];
    for (const [name, button2] of buttons) button2.setAttribute("aria-pressed", String(name === mode));
    const key2 = `${mode}|${mode === "circuit" ? cut ?? "" : ""}`;
    if (key2 === shown.key) return;
    const made = stages.get(key2) ?? stageAt(mode, cut);
    stages.set(key2, made);
    const { stage, store: child } = made;
    shown = { key: key2, stage, store: child };
    point();
    main.element.hidden = key2 !== "circuit|";
    const both = mode === "both" && other ? other.nodes || other.edges ? together(bundle, other, open) : apart2(bundle, other) : null;
    const numbers = mode === "numbers" && bundle.comparison ? compared(bundle.comparison) : null;
    place.replaceChildren(...[stage?.element, both, numbers].filter((one) => Boolean(one)));
    said.hidden = !(mode === "circuit" && cut !== null);
    if (!said.hidden) {
      const back = h("button", { type: "button", class: "tool" }, "Back to the circuit");
      back.addEventListener("click", () => keep(store, "cut", null));
      said.replaceChildren(h("b", {}, `The same scores cut to ${plural(cut, "node")}`), `, not the circuit of ${count(bundle.circuit.n_nodes)} that was put on trial${cut > bundle.circuit.n_nodes ? "; nodes with a dashed outline came with the cut" : ""}. `, back);
    }
    if (width) arrange2(width);
  };
  const arrange2 = (now) => {
    width = now;
    (shown.stage ?? main).arrange(now);
  };
  store.listen((now, before) => {
    if (now.kept !== before.kept) show();
    if (now.selected !== before.selected || now.lit !== before.lit) point();
  });
  const element = h("div", { class: "comparison" }, buttons.size ? bar : null, said, main.element, place);
  show();
  return { element, arrange: arrange2, escape: () => shown.store?.set({ selected: null, peeked: null }) };
}

// src/curve.ts
var W = 620;
var H = 300;
var M = { left: 56, right: 130, top: 18, bottom: 46 };
var CHANCE = Math.LN2;
function stopsOf({ curve, circuit, cuts }) {
  const most = cuts?.nodes.length ?? 0;
  const own = { nodes: circuit.n_nodes, edges: circuit.n_edges, loss_nats: given(circuit.loss_train_nats) };
  const bySize = new Map([...curve, own].filter((p) => p.nodes > 0 && p.nodes <= most).map((p) => [p.nodes, p]));
  return [...bySize.values()].sort((a, b) => a.nodes - b.nodes);
}
function cutter(bundle, store, moveMark) {
  const { circuit, cuts } = bundle;
  const stops = stopsOf(bundle);
  if (!cuts || stops.length < 2) return null;
  const own = stops.findIndex((p) => p.nodes === circuit.n_nodes);
  const place = new Map(cuts.nodes.map((site, i) => [site, i]));
  const rank = (site) => place.get(site) ?? Infinity;
  const whole = shapeOf(cuts, bundle.model.d_head);
  const linked = new Set(whole.edges.flatMap((e) => [e.src, e.dst]));
  const nodes = whole.nodes.filter((n) => linked.has(n.site) || rank(n.site) < circuit.n_nodes);
  const there = new Set(nodes.map((n) => n.site));
  const drawn2 = sketch(withShape(bundle, { nodes, edges: whole.edges, carries: whole.carries.filter((c) => there.has(c.src) && there.has(c.dst)) }));
  const input = h("input", { type: "range", min: 0, max: stops.length - 1, step: 1, "aria-label": "Size of the cut" });
  const out = h("output", { class: "cut-said" });
  const picture = h("div", { class: "cut-picture" });
  const target = given(circuit.target_loss_nats);
  const show = () => {
    const asked = Number(store.get().kept["cut"] ?? NaN);
    const found2 = stops.findIndex((p) => p.nodes === asked);
    const at = found2 < 0 ? own : found2;
    const point = stops[at];
    const words2 = `${plural(point.nodes, "node")}, ${plural(point.edges, "edge")}: ${num(point.loss_nats)} nats on the training pairs`;
    input.value = String(at);
    input.setAttribute("aria-valuetext", words2);
    out.replaceChildren(h("b", {}, words2), `, ${point.loss_nats <= target ? "within" : "not within"} the target of ${num(target, 3)}${at === own ? ". This is the circuit." : "."}`);
    out.dataset["loss"] = String(point.loss_nats);
    const look = (last) => last < point.nodes ? last < circuit.n_nodes ? "both" : "right" : last < circuit.n_nodes ? "gone" : "absent";
    const looks = { node: (site) => look(rank(site)), edge: (e) => look(Math.max(rank(e.src), rank(e.dst))) };
    picture.replaceChildren(drawn2.draw(1, `The cut: ${words2}`, looks));
    moveMark(point);
  };
  input.addEventListener("input", () => {
    const point = stops[Number(input.value)];
    keep(store, "cut", point.nodes === circuit.n_nodes ? null : String(point.nodes));
  });
  store.listen((now, before) => {
    if (now.kept !== before.kept) show();
  });
  show();
  return { slider: h("div", { class: "cut" }, h("span", { class: "muted" }, "smaller"), input, h("span", { class: "muted" }, "larger"), out), picture };
}
function sizeCurve(bundle, store) {
  const { circuit } = bundle;
  const [target, heldout2] = [given(circuit.target_loss_nats), given(circuit.loss_heldout_nats)];
  const twin = bundle.twin && bundle.twin.n_edges > 0 ? bundle.twin : null;
  const points = bundle.curve.filter((p) => p.edges > 0).sort((a, b) => a.edges - b.edges);
  const left = bundle.curve.length - points.length;
  if (!points.length) return h("p", { class: "muted" }, "The scores were cut at one size only.");
  const sizes2 = [...points.map((p) => p.edges), Math.max(1, circuit.n_edges), ...twin ? [twin.n_edges] : []];
  const losses2 = [...points.map((p) => p.loss_nats), heldout2, target, CHANCE, ...twin ? [twin.loss_heldout_nats] : []];
  const [lo, hi] = [Math.log10(Math.min(...sizes2)) - 0.08, Math.log10(Math.max(...sizes2)) + 0.08];
  const top = Math.max(...losses2) * 1.08;
  const x = (edges) => M.left + (Math.log10(edges) - lo) / Math.max(1e-9, hi - lo) * (W - M.left - M.right);
  const y = (loss) => H - M.bottom - Math.max(0, loss) / top * (H - M.top - M.bottom);
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
    s("text", { x: 14, y: (M.top + H - M.bottom) / 2, class: "axis-title", transform: `rotate(-90 14 ${(M.top + H - M.bottom) / 2})` }, "task loss, nats")
  );
  const rule = (loss, label) => {
    svg.append(s("path", { d: `M${M.left} ${y(loss)}H${W - M.right}`, class: "reference" }), s("text", { x: W - M.right + 8, y: y(loss) + 4, class: "axis-text start" }, label));
  };
  rule(CHANCE, "blind: ln 2");
  rule(target, `target ${num(target, 3)}`);
  svg.append(s("path", { d: points.map((p, i) => `${i ? "L" : "M"}${x(p.edges).toFixed(1)} ${y(p.loss_nats).toFixed(1)}`).join(""), class: "curve-line" }));
  for (const p of points) {
    svg.append(s("circle", { cx: x(p.edges), cy: y(p.loss_nats), r: 3.5, class: "curve-dot", "data-tip": `${count(p.nodes)} nodes, ${count(p.edges)} edges
${num(p.loss_nats)} nats` }));
  }
  const mark = (shape, edges, loss, text) => {
    const left2 = x(edges) > W / 2;
    const below = y(loss) + 24 < H - M.bottom;
    svg.append(shape, s("text", { x: x(edges) + (left2 ? -11 : 11), y: y(loss) + (below ? 19 : -9), class: left2 ? "mark-text end" : "mark-text" }, text));
  };
  if (twin) {
    const [cx, cy] = [x(twin.n_edges), y(twin.loss_heldout_nats)];
    const name = twin.reached ? "dense twin" : "dense twin, not reached";
    mark(s("rect", { x: cx - 6, y: cy - 6, width: 12, height: 12, class: "twin-mark", "data-tip": `${twin.name}
${num(twin.loss_heldout_nats)} nats held out` }), twin.n_edges, twin.loss_heldout_nats, name);
  }
  if (circuit.n_edges > 0) {
    const [cx, cy] = [x(circuit.n_edges), y(heldout2)];
    const name = circuit.reached ? "this circuit" : "best found, not reached";
    mark(s("path", { d: `M${cx} ${cy - 8}l8 8l-8 8l-8 -8Z`, class: "own-mark", "data-tip": `${name}
${num(heldout2)} nats held out` }), circuit.n_edges, heldout2, name);
  }
  const ring = s("circle", { r: 9, class: "cut-ring", "aria-hidden": "true" });
  svg.append(ring);
  const cut = cutter(bundle, store, (point) => {
    ring.setAttribute("cx", String(x(Math.max(point.edges, 10 ** lo))));
    ring.setAttribute("cy", String(y(point.loss_nats)));
  });
  if (!cut) ring.remove();
  const held = twin ? "Diamond and square:" : "Diamond:";
  const note = left ? ` Cuts without any edge are left out (${left}).` : "";
  const said = `Circles: the same scores cut at other sizes, on the training pairs. ${held} held out. Edges on a log axis.${note}`;
  const more = cut ? " The sketch is the cut at the ring: filled nodes are the circuit's, dashed ones come with a larger cut, faint ones are lost in a smaller one. The figure above follows." : "";
  return h(
    "figure",
    { class: "curve-figure" },
    h("div", {}, svg, cut?.slider),
    h("div", {}, cut?.picture, h("figcaption", {}, said + more))
  );
}

// src/svg_figure.ts
var NUMBERS_UP_TO = 16;
function markers(prefix) {
  const marker = (name, box, refX, shape) => s("marker", {
    id: `${prefix}-${name}`,
    viewBox: box,
    refX,
    refY: 5,
    markerWidth: 9,
    markerHeight: 9,
    orient: "auto",
    markerUnits: "userSpaceOnUse"
  }, shape);
  return s(
    "defs",
    {},
    marker("up", "0 0 10 10", 8.5, s("path", { d: "M1 1.5L9 5L1 8.5Z", class: "tip-up" })),
    marker("down", "0 0 10 10", 6.5, s("path", { d: "M6.5 .4V9.6", class: "tip-down" })),
    marker("flat", "0 0 10 10", 8.5, s("path", { d: "M1 1.5L9 5L1 8.5Z", class: "tip-flat" }))
  );
}
function folds(text, key2) {
  if (key2 === null) return text;
  text.classList.add("folds");
  text.setAttribute("data-fold", key2);
  text.setAttribute("data-tip", `Collapse or expand: ${key2}`);
  return text;
}
function bands(plan) {
  const g = s("g", { "aria-hidden": "true" });
  for (const block of plan.blocks) {
    const right = plan.width - plan.left - 14;
    g.append(
      s("rect", { x: plan.left, y: block.y, width: right, height: block.height, rx: 8, class: "band" }),
      folds(s("text", { x: 4, y: block.y + block.height / 2 - 3, class: "block-title" }, block.title), block.layer),
      s("text", { x: 4, y: block.y + block.height / 2 + 12, class: "block-sub" }, block.subtitle)
    );
  }
  for (const row of plan.bands) {
    if (row.label !== "final") g.append(folds(s("text", { x: plan.left - 10, y: row.y + 3.5, class: "row-label" }, row.label), row.part));
  }
  return g;
}
function headBoxes(plan) {
  const g = s("g", { "aria-hidden": "true" });
  for (const box of plan.heads) {
    g.append(s("rect", { x: box.x, y: box.y, width: box.width, height: box.height, rx: 7, class: "head-box" }));
    if (box.label) g.append(folds(s("text", { x: box.x + 27, y: box.y + box.height / 2 + 3.5, class: "head-label" }, box.label), box.part));
  }
  return g;
}
function endPlate(x, y, text) {
  const width = plateWidth(text);
  return s(
    "g",
    { class: "plate" },
    s("rect", { x: x - width / 2, y: y - 15, width, height: 30, rx: 15 }),
    s("text", { x, y: y + 4.5, class: "plate-text" }, text)
  );
}
function face(spot, ink, fed) {
  const { width, height, shape, ports } = spot;
  const rx = { channel: 3, unit: 10, part: 5, end: 15, super: 4 }[shape];
  const box = { x: -width / 2, y: -height / 2, width, height, rx };
  const tabs = ports.map(({ matrix, dx }) => s(
    "g",
    { class: fed(matrix) ? "port" : "port unfed", transform: `translate(${dx} ${-height / 2 - PORT.height})` },
    s("path", { d: `M${1 - PORT.width / 2} ${PORT.height}V4Q${1 - PORT.width / 2} 1 ${4 - PORT.width / 2} 1H${PORT.width / 2 - 4}Q${PORT.width / 2 - 1} 1 ${PORT.width / 2 - 1} 4V${PORT.height}`, class: "tab" }),
    s("text", { y: PORT.height - 2.5, class: "port-text" }, matrix)
  ));
  const { short, text } = labelOf(spot);
  return [
    shape === "super" ? s("rect", { ...box, x: box.x + 3, y: box.y - 3, class: "pill under" }) : s("rect", { ...box, class: "back" }),
    s(
      "g",
      { class: "face" },
      ...tabs,
      s("rect", { ...box, class: "pill", style: `--ink-share:${(ink * 82).toFixed(1)}%` }),
      s("text", { y: 4, class: shape === "end" ? "plate-text" : "pill-text" }, short ? s("tspan", { class: "qkv" }, short) : null, text)
    )
  ];
}
function pinMark({ width, height }) {
  return s(
    "g",
    { class: "pin", transform: `translate(${width / 2 - 2} ${-height / 2})` },
    s("path", { d: "M0 0V7" }),
    s("circle", { r: 3.6 })
  );
}
function halo({ width, height, shape }, strength) {
  const out = 2 + 5 * strength;
  const rx = (shape === "channel" || shape === "super" ? 3 : height / 2) + out;
  return s("rect", {
    class: "halo",
    x: -width / 2 - out,
    y: -height / 2 - out,
    width: width + 2 * out,
    height: height + 2 * out,
    rx,
    style: `--lit-share:${(0.18 + 0.72 * strength).toFixed(3)}`
  });
}
function numberOn({ edge, bundle, line: line2, tone }, centre) {
  const [x, y] = pointOn(line2, edge.src === centre ? 0.74 : 0.26);
  return s("text", { x, y: y + 3.5, class: `number ${tone}` }, bundle ? `${bundle.n}×` : edge.weight === null ? "" : signed(edge.weight, 2));
}
function numbered(scene, look) {
  const own = look.centre === null ? [] : (scene.wiresOf.get(look.centre) ?? []).filter((wire) => drawn(wire, look));
  return own.length <= NUMBERS_UP_TO ? own : [];
}
function svgFigure(index, scene) {
  const { bundle } = index;
  const { plan, wires, wiresOf } = scene;
  const prefix = uniqueId("mark");
  const spotOf2 = (site) => plan.spots.get(site);
  const carryLayer = s("g", { class: "carries" });
  const edgeLayer = s("g", { class: "edges", "aria-hidden": "true" });
  const hitLayer = s("g", { class: "hits", "aria-hidden": "true" });
  const haloLayer = s("g", { class: "halos", "aria-hidden": "true" });
  const nodeLayer = s("g", { class: "nodes" });
  const numberLayer = s("g", { class: "numbers", "aria-hidden": "true" });
  const ends = s("g", { class: "ends" });
  const inner = s("g", {}, bands(plan), ends, carryLayer, headBoxes(plan), edgeLayer, hitLayer, haloLayer, nodeLayer, numberLayer);
  for (const { d, site, dot } of rootPaths(plan)) {
    ends.append(s("path", { d, class: "root", "data-dst": site }));
    if (dot) ends.append(s("circle", { cx: dot.x, cy: dot.y, r: 2, class: "root-dot" }));
  }
  const endTitle = (y, label) => s("text", { x: 4, y: y + 4.5, class: "block-title" }, label);
  ends.append(endTitle(plan.tokens.y, "Tokens in"), endTitle(plan.answer.y, "Answer out"));
  for (const { x, y, text } of plates(scene)) ends.append(endPlate(x, y, text));
  const linked = [];
  for (const { src, dst } of scene.drawing.carries) {
    const { d, level } = carryPath(spotOf2(src), spotOf2(dst));
    const path = s("path", { d, class: level ? "carry meets" : "carry", "data-src": src, "data-dst": dst });
    linked.push(path);
    carryLayer.append(path);
  }
  const paths = /* @__PURE__ */ new Map();
  const made = (wire) => {
    const known2 = paths.get(wire);
    if (known2) return known2;
    const path = s("path", {
      d: pathOf(wire.line),
      class: `edge ${wire.tone}`,
      "stroke-width": wire.width.toFixed(2),
      "marker-end": wire.tone === "sum" ? null : `url(#${prefix}-${wire.tone})`,
      style: wire.fade < 1 ? `--fade:${wire.fade.toFixed(2)}` : null
    });
    const hit = wire.rank === null || wire.rank < WITH_MARKERS ? s("path", { d: pathOf(wire.line), class: "hit", "data-tip": scene.tip(wire) }) : null;
    paths.set(wire, { path, hit });
    return { path, hit };
  };
  for (const { site, line: line2, tone, width } of scene.directs) {
    const path = s("path", { d: pathOf(line2), class: `edge ${tone}`, "data-site": site, "stroke-width": width.toFixed(2), "marker-end": `url(#${prefix}-${tone})` });
    linked.push(path);
    edgeLayer.append(path);
  }
  for (const link of [...carryLayer.querySelectorAll(".meets")]) edgeLayer.append(link);
  const groups = /* @__PURE__ */ new Map();
  for (const site of plan.rows.flat()) {
    const spot = spotOf2(site);
    const { node, x, y, folded } = spot;
    const ink = folded ? 0 : scene.ink(node);
    const words2 = scene.words(site);
    const unmeasured = !folded && node.kind === "channel" && index.matter(node) === null;
    const links2 = folded ? "; collapsed, Enter expands it" : `; fed by ${index.fedBy(site).length}, feeds ${index.feeds(site).length}`;
    const g = s("g", {
      class: `node ${spot.shape}${ink > 0.69 ? " strong" : ink > 0.55 ? " middle" : ""}${unmeasured ? " unmeasured" : ""}`,
      transform: `translate(${x} ${y})`,
      tabindex: -1,
      role: "button",
      "aria-pressed": folded ? null : "false",
      "aria-expanded": folded ? "false" : null,
      "aria-label": `${site}: ${words2.replaceAll("\n", "; ")}${links2}`,
      "data-site": site,
      "data-tip": words2
    });
    g.append(...face(spot, ink, (matrix) => (wiresOf.get(site) ?? []).some(({ edge }) => edge.dst === site && edge.matrix === matrix)));
    groups.set(site, g);
    nodeLayer.append(g);
  }
  const svg = s("svg", { class: "figure-svg", role: "group", "aria-label": `The circuit: ${plural(bundle.circuit.n_nodes, "node")} and ${plural(bundle.circuit.n_edges, "edge")}. Arrow keys move between nodes, Enter selects, Escape clears, h hides, p pins, c collapses.` }, markers(prefix), inner);
  let before = null;
  const paintWires = (look) => {
    const whole = before === null || before.strongest !== look.strongest || before.hidden !== look.hidden;
    const own = (site) => site === null ? [] : wiresOf.get(site) ?? [];
    const changed2 = whole ? wires : [...own(before?.centre ?? null), ...own(look.centre)];
    let shown = 0;
    const fresh = [];
    for (const wire of changed2) {
      const touches = wire.edge.src === look.centre || wire.edge.dst === look.centre;
      const on = drawn(wire, look);
      if (on) shown += 1;
      if (!on && !paths.has(wire)) continue;
      if (!paths.has(wire)) fresh.push(wire);
      const { path, hit } = made(wire);
      path.classList.toggle("on", touches);
      path.classList.toggle("hidden", !on);
      hit?.classList.toggle("hidden", !on);
    }
    fresh.sort((a, b) => (a.rank ?? Infinity) - (b.rank ?? Infinity));
    const first = edgeLayer.firstChild;
    for (const wire of fresh.reverse()) {
      const { path, hit } = made(wire);
      edgeLayer.insertBefore(path, first);
      if (hit) hitLayer.append(hit);
    }
    if (whole) svg.classList.toggle("plain", shown > WITH_MARKERS);
  };
  const paint = (look) => {
    const { selected, centre, near, found: found2, strongest, hidden, pinned, lit } = look;
    svg.classList.toggle("centred", centre !== null);
    paintWires(look);
    for (const [site, g] of groups) {
      const folded = spotOf2(site).folded !== null;
      const rank = wiresOf.get(site)?.[0]?.rank;
      const pin = pinned.has(site);
      g.classList.toggle("selected", site === selected);
      g.classList.toggle("centre", site === centre);
      g.classList.toggle("near", near.has(site));
      g.classList.toggle("dim", centre === null && found2 !== null && !found2.has(site) && !pin);
      g.classList.toggle("idle", !folded && !pin && typeof rank === "number" && rank >= strongest);
      g.classList.toggle("found", found2 !== null && found2.has(site));
      g.classList.toggle("gone", hidden.has(site));
      if (!folded) g.setAttribute("aria-pressed", String(site === selected));
      if (pin !== g.classList.contains("pinned")) {
        g.classList.toggle("pinned", pin);
        if (pin) g.append(pinMark(spotOf2(site)));
        else g.querySelector(".pin")?.remove();
      }
    }
    for (const path of linked) {
      const at = [path.getAttribute("data-src"), path.getAttribute("data-dst"), path.getAttribute("data-site")];
      path.classList.toggle("on", centre !== null && at.includes(centre));
      path.classList.toggle("hidden", at.some((site) => site !== null && hidden.has(site)));
    }
    if (lit !== before?.lit) {
      haloLayer.replaceChildren(...[...lit ?? []].flatMap(([site, strength]) => {
        const spot = plan.spots.get(site);
        if (!spot || !(strength > 0)) return [];
        return [s("g", { transform: `translate(${spot.x} ${spot.y})` }, halo(spot, Math.min(1, strength)))];
      }));
    }
    numberLayer.replaceChildren(...numbered(scene, look).map((wire) => numberOn(wire, centre)));
    before = look;
  };
  const move = (x, y, k) => inner.setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
  return { svg, groups, move, paint };
}

// src/canvas_figure.ts
var MARGIN2 = 160;
var REST = 60;
var SLICE = 8;
var BATCH = 400;
var DENSE = 2500;
var FAINTEST = 0.12;
var READABLE = 0.45;
var CELL = 120;
var SHORT = 400;
var PAD = 12;
var DASH = [5, 3.5];
var FADED = 0.28;
var COLOURS = ["paper", "raised", "band", "ink", "muted", "faint", "up", "down", "focus", "lit"];
function coloursOf(host) {
  const probe = h("span", { hidden: true });
  host.append(probe);
  const out = {};
  for (const name of COLOURS) {
    probe.style.color = `var(--${name})`;
    out[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  const style = getComputedStyle(host);
  return { ...out, sans: style.getPropertyValue("--sans"), serif: style.getPropertyValue("--serif"), mono: style.getPropertyValue("--mono") };
}
function mix(a, b, share2) {
  const [x, y] = [a, b].map((c) => (c.match(/[\d.]+/g) ?? []).map(Number));
  return `rgb(${[0, 1, 2].map((i) => Math.round((x[i] ?? 0) * share2 + (y[i] ?? 0) * (1 - share2))).join(" ")})`;
}
function blocksOf(wires, together2) {
  const sums = wires.filter((wire) => wire.bundle);
  const single = wires.slice(0, wires.length - sums.length);
  const size = together2 ? BATCH : 1;
  const out = [];
  for (const list of [sums, single]) {
    for (let last = list.length; last > 0; last -= size) {
      const part2 = list.slice(Math.max(0, last - size), last);
      for (const tone of ["sum", "flat", "down", "up"]) {
        const own = part2.filter((wire) => wire.tone === tone);
        if (own.length) out.push({ tone, wires: own, fade: tone === "sum" ? 0.6 : own[0].fade, width: own.reduce((t, wire) => t + wire.width, 0) / own.length });
      }
    }
  }
  return out;
}
var Painter = class {
  constructor(g, scene, look, colours, view, rect, scale, margin, beside) {
    this.g = g;
    this.scene = scene;
    this.look = look;
    this.colours = colours;
    this.view = view;
    this.scale = scale;
    this.margin = margin;
    this.beside = beside;
    const { x, y, k } = view;
    this.box = { left: (rect.left - x) / k, top: (rect.top - y) / k, right: (rect.right - x) / k, bottom: (rect.bottom - y) / k };
  }
  inSight({ x1, y1, x2, y2, bow }) {
    const { left, top, right, bottom } = this.box;
    return Math.min(x1, x2) <= right && Math.max(x1, x2) + bow >= left && Math.min(y1, y2) - 40 <= bottom && Math.max(y1, y2) + 40 >= top;
  }
  seen({ x, y, width, height }, pad = 16) {
    const { left, top, right, bottom } = this.box;
    return x - width / 2 - pad <= right && x + width / 2 + pad >= left && y - height / 2 - pad <= bottom && y + height / 2 + pad >= top;
  }
  /** Lines never get thinner than can be seen. */
  thick(width) {
    return Math.max(width, 0.55 / this.view.k);
  }
  /** Adds a curve to the path; if it is dashed, strokes its parts. A long one is a chain of short lines of which those out
   * of sight are left out: what a canvas makes of a curve depends on where it is cut off, and takes long for dashes. */
  trace(line2, dense, dashed) {
    const { g, box } = this;
    const { x1, y1, x2, y2, bend, bow } = line2;
    const span = (Math.abs(x2 - x1) + Math.abs(y2 - y1)) * this.view.k * this.scale;
    g.moveTo(x1, y1);
    if (dense && span < SHORT) return g.bezierCurveTo(x1 + bow, y1 + bend, x2 + bow, y2 - bend, x2, y2);
    const steps = Math.ceil((dense ? 0.6 : 1.7) * Math.sqrt(span)) + 2;
    let [x, y, on, length] = [x1, y1, true, 0];
    for (let i = 1; i <= steps; i++) {
      const [u, v] = [i / steps, 1 - i / steps];
      const [a, b, c, d] = [v * v * v, 3 * v * v * u, 3 * v * u * u, u * u * u];
      const nx = a * x1 + b * (x1 + bow) + c * (x2 + bow) + d * x2;
      const ny = a * y1 + b * (y1 + bend) + c * (y2 - bend) + d * y2;
      const seen = Math.min(x, nx) - PAD <= box.right && Math.max(x, nx) + PAD >= box.left && Math.min(y, ny) - PAD <= box.bottom && Math.max(y, ny) + PAD >= box.top;
      if (seen && !on) {
        if (dashed) {
          g.stroke();
          g.beginPath();
          g.lineDashOffset = length % (DASH[0] + DASH[1]);
        }
        g.moveTo(x, y);
      }
      if (seen) g.lineTo(nx, ny);
      if (dashed) length += Math.hypot(nx - x, ny - y);
      [x, y, on] = [nx, ny, seen];
    }
  }
  text(text, x, y, font, colour, align = "center") {
    this.g.font = font;
    this.g.fillStyle = colour;
    this.g.textAlign = align;
    this.g.fillText(text, x, y);
  }
  rounded(x, y, width, height, r, fill2, stroke, line2 = 1) {
    const { g } = this;
    g.beginPath();
    g.roundRect(x, y, width, height, r);
    if (fill2) {
      g.fillStyle = fill2;
      g.fill();
    }
    if (stroke) {
      g.strokeStyle = stroke;
      g.lineWidth = this.thick(line2);
      g.stroke();
    }
  }
  begin() {
    const { scale, margin, view: { x, y, k } } = this;
    this.g.setTransform(scale * k, 0, 0, scale * k, scale * (margin + x), scale * (margin + y));
    this.g.globalAlpha = 1;
    this.g.setLineDash([]);
  }
  /** Everything that does not change with the pointer, in steps. */
  *base(blocks, crowd) {
    const { g, scene, colours: c, view } = this;
    const { plan } = scene;
    const readable2 = view.k >= READABLE;
    this.begin();
    for (const block of plan.blocks) {
      this.rounded(plan.left, block.y, plan.width - plan.left - 14, block.height, 8, c["band"], null);
      if (!readable2) continue;
      this.text(block.title, 4, block.y + block.height / 2 - 3, `600 12.5px ${c.sans}`, c["ink"], "left");
      this.text(block.subtitle, 4, block.y + block.height / 2 + 12, `12px ${c.sans}`, c["muted"], "left");
    }
    for (const row of plan.bands) if (readable2 && row.label !== "final") this.text(row.label, plan.left - 10, row.y + 3.5, `11px ${c.sans}`, c["muted"], "right");
    const end = `600 12.5px ${c.sans}`;
    if (readable2) for (const [y, words2] of [[plan.tokens.y, "Tokens in"], [plan.answer.y, "Answer out"]]) this.text(words2, 4, y + 4.5, end, c["ink"], "left");
    g.strokeStyle = c["faint"];
    g.lineWidth = this.thick(1.1);
    g.setLineDash([1.5, 3.5]);
    g.stroke(new Path2D(rootPaths(plan).map(({ d }) => d).join("")));
    g.setLineDash([]);
    yield;
    yield* this.carries();
    for (const box of plan.heads) {
      const { x, y, width, height } = box;
      if (!this.seen({ x: x + width / 2, y: y + height / 2, width, height })) continue;
      this.rounded(x, y, width, height, 7, c["paper"], c["faint"]);
      if (box.label && readable2) this.text(box.label, x + 27, y + height / 2 + 3.5, `11px ${c.sans}`, c["muted"]);
    }
    for (const { x, y, text } of plates(scene)) {
      const width = plateWidth(text);
      this.rounded(x - width / 2, y - 15, width, 30, 15, c["paper"], c["faint"]);
      if (readable2) this.text(text, x, y + 4.5, `12px ${c.mono}`, c["ink"]);
    }
    yield;
    yield* this.edges(blocks, crowd);
    yield* this.nodes([...plan.spots.values()]);
    if (readable2) return;
    for (const block of plan.blocks) {
      const at = this.beside ? plan.left - 6 / view.k : 4;
      g.lineWidth = 4 / view.k;
      g.strokeStyle = c["paper"];
      g.font = `600 ${11 / view.k}px ${c.sans}`;
      g.textAlign = this.beside ? "right" : "left";
      g.lineJoin = "round";
      const y = block.y + block.height / 2 + 4 / view.k;
      g.strokeText(block.title, at, y);
      g.fillStyle = c["ink"];
      g.fillText(block.title, at, y);
    }
  }
  *carries() {
    const { g, scene, colours: c } = this;
    const { left, top, right, bottom } = this.box;
    let n = 0;
    g.strokeStyle = c["faint"];
    g.lineWidth = this.thick(1.1);
    g.beginPath();
    for (const { src, dst } of scene.drawing.carries) {
      if (this.look.hidden.has(src) || this.look.hidden.has(dst)) continue;
      const [a, b] = [scene.plan.spots.get(src), scene.plan.spots.get(dst)];
      if (Math.max(a.x, b.x) < left || Math.min(a.x, b.x) > right || Math.max(a.y, b.y) < top || Math.min(a.y, b.y) > bottom) continue;
      g.moveTo(a.x, a.y);
      if (a.x === b.x || a.y === b.y) g.lineTo(b.x, b.y);
      else g.bezierCurveTo(a.x, a.y + 0.46 * (b.y - a.y), b.x, b.y - 0.46 * (b.y - a.y), b.x, b.y);
      if (++n % BATCH === 0) {
        g.stroke();
        yield;
        g.beginPath();
      }
    }
    g.stroke();
  }
  /** `crowd`: how many edges a frame holds, at the mean. Of a crowd each is lighter, thin and without an end. */
  *edges(blocks, crowd) {
    const { g, colours: c, view } = this;
    const dense = crowd > DENSE;
    const alpha = dense ? Math.max(FAINTEST, 0.86 * DENSE / crowd) : 0.86;
    const tones = { up: c["up"], down: c["down"], flat: c["muted"], sum: c["faint"] };
    const ended = [];
    let n = 0;
    for (const { tone, width, fade, wires } of blocks) {
      const seen = wires.filter((wire) => this.inSight(wire.line));
      if (!seen.length) continue;
      g.globalAlpha = Math.max(FAINTEST, alpha * fade);
      g.strokeStyle = tones[tone];
      g.lineWidth = dense ? Math.min(this.thick(width), 1 / (view.k * this.scale)) : this.thick(width);
      const dashed = tone === "down" && !dense;
      g.setLineDash(dashed ? DASH : []);
      g.beginPath();
      for (const wire of seen) this.trace(wire.line, dense, dashed);
      g.stroke();
      g.lineDashOffset = 0;
      n += seen.length;
      if (!dense && view.k >= 0.3) ended.push(...seen);
      if (n >= BATCH / (dense ? 1 : 8)) {
        n = 0;
        yield;
      }
    }
    g.setLineDash([]);
    g.globalAlpha = alpha;
    for (const wire of ended) if (this.seen({ x: wire.line.x2, y: wire.line.y2, width: 0, height: 0 })) this.tip(wire, tones[wire.tone]);
    g.globalAlpha = 1;
    yield;
  }
  /** An arrow, or a bar for a negative weight; edges arrive from above. */
  tip({ tone, line: { x2, y2 } }, colour) {
    const { g } = this;
    if (tone === "sum") return;
    g.beginPath();
    if (tone === "down") {
      g.moveTo(x2 - 4.2, y2);
      g.lineTo(x2 + 4.2, y2);
      g.lineWidth = 2.2;
      g.strokeStyle = colour;
      g.stroke();
    } else {
      g.moveTo(x2 - 3.2, y2 - 6.5);
      g.lineTo(x2 + 3.2, y2 - 6.5);
      g.lineTo(x2, y2 + 0.7);
      g.fillStyle = colour;
      g.fill();
    }
  }
  *nodes(spots, stroke = 1) {
    const { g, scene, colours: c, view } = this;
    let n = 0;
    for (const spot of spots) {
      const { node, x, y, width, height, shape, folded } = spot;
      if (this.look.hidden.has(node.site) || !this.seen(spot)) continue;
      const ink = folded ? 0 : scene.ink(node);
      const fill2 = mix(c["ink"], c["raised"], ink * 0.82);
      if (view.k < 0.12) {
        const side = Math.max(width, 2 / view.k);
        g.fillStyle = mix(c["ink"], c["raised"], 0.45 + 0.5 * ink);
        g.fillRect(x - side / 2, y - Math.max(height, 2 / view.k) / 2, side, Math.max(height, 2 / view.k));
      } else {
        const rx = { channel: 3, unit: 10, part: 5, end: 15, super: 4 }[shape];
        if (shape === "super") this.rounded(x - width / 2 + 3, y - height / 2 - 3, width, height, rx, fill2, c["muted"]);
        for (const { dx } of spot.ports) this.rounded(x + dx - PORT.width / 2 + 1, y - height / 2 - PORT.height + 1, PORT.width - 2, PORT.height, 3, c["raised"], c["ink"], 0.8);
        this.rounded(x - width / 2, y - height / 2, width, height, rx, fill2, c[shape === "end" ? "faint" : "ink"], this.look.pinned.has(node.site) ? 2.6 : stroke);
        if (view.k >= READABLE) {
          for (const { matrix, dx } of spot.ports) this.text(matrix, x + dx, y - height / 2 - 2.5, `italic 10.5px ${c.serif}`, c["ink"]);
          const { short, text } = labelOf(spot);
          const words2 = short + text;
          this.text(words2, x, y + 4, `11px ${shape === "end" ? c.mono : c.sans}`, ink > 0.69 ? c["paper"] : c["ink"]);
        }
      }
      if (++n % BATCH === 0) yield;
    }
    yield;
  }
  /** What lies above: the centre with its edges, what was found, pins and active nodes. */
  above(focused) {
    const { g, scene, look, colours: c, view } = this;
    const at = (site) => look.hidden.has(site) ? void 0 : scene.plan.spots.get(site);
    this.begin();
    const lift = Math.max(1, 0.35 / view.k);
    const ring = (spot, line2, colour, out = 2) => {
      const o = out * lift;
      this.rounded(spot.x - spot.width / 2 - o, spot.y - spot.height / 2 - o, spot.width + 2 * o, spot.height + 2 * o, 4 * lift, null, colour, line2 * lift);
    };
    for (const [site, strength] of look.lit ?? []) {
      const spot = at(site);
      if (!spot || !this.seen(spot)) continue;
      g.globalAlpha = 0.2 + 0.7 * Math.min(1, strength);
      ring(spot, 2 + 4 * strength, c["lit"], 2 + 4 * strength);
      g.globalAlpha = 1;
    }
    if (look.centre !== null) {
      const own = (scene.wiresOf.get(look.centre) ?? []).filter((wire) => drawn(wire, look) && this.inSight(wire.line));
      for (const step of this.edges(blocksOf(own, own.length > DENSE), own.length)) void step;
      const spots = [...look.near, look.centre].flatMap((site) => at(site) ?? []);
      for (const step of this.nodes(spots, 1.8)) void step;
    }
    if (look.found) {
      const spots = [...look.found].flatMap((site) => at(site) ?? []);
      for (const step of this.nodes(spots, 2.2)) void step;
      for (const spot of spots) if (this.seen(spot)) ring(spot, 2, c["ink"]);
    }
    for (const site of look.pinned) {
      const spot = at(site);
      if (!spot) continue;
      const [px, py] = [spot.x + spot.width / 2 - 2, spot.y - spot.height / 2];
      g.beginPath();
      g.arc(px, py, 3.6 * lift, 0, 2 * Math.PI);
      g.fillStyle = c["ink"];
      g.fill();
      g.lineWidth = this.thick(1.2);
      g.strokeStyle = c["paper"];
      g.stroke();
    }
    const chosen = look.selected === null ? void 0 : at(look.selected);
    if (chosen) ring(chosen, 2, c["ink"], 1);
    const held = focused === null ? void 0 : at(focused);
    if (held) ring(held, 2, c["focus"], 4);
    if (view.k >= READABLE) {
      for (const { edge, bundle, line: line2, tone } of numbered(scene, look)) {
        const [x, y] = pointOn(line2, edge.src === look.centre ? 0.74 : 0.26);
        const words2 = bundle ? `${bundle.n}×` : edge.weight === null ? "" : `${edge.weight > 0 ? "+" : "−"}${Math.abs(edge.weight).toPrecision(2)}`;
        g.font = `600 10.5px ${c.sans}`;
        g.textAlign = "center";
        g.lineWidth = 4;
        g.strokeStyle = c["band"];
        g.strokeText(words2, x, y + 3.5);
        g.fillStyle = c[tone === "up" || tone === "down" ? tone : "muted"];
        g.fillText(words2, x, y + 3.5);
      }
    }
  }
};
function gridOf(scene) {
  const grid = /* @__PURE__ */ new Map();
  for (const spot of scene.plan.spots.values()) {
    for (let i = Math.floor((spot.x - spot.width / 2) / CELL); i <= Math.floor((spot.x + spot.width / 2) / CELL); i++) {
      for (let j = Math.floor((spot.y - spot.height / 2) / CELL); j <= Math.floor((spot.y + spot.height / 2) / CELL); j++) {
        const list = grid.get(`${i}|${j}`);
        if (list) list.push(spot);
        else grid.set(`${i}|${j}`, [spot]);
      }
    }
  }
  return grid;
}
function soon(act) {
  const channel = new MessageChannel();
  channel.port1.onmessage = () => {
    channel.port1.close();
    act();
  };
  channel.port2.postMessage(null);
}
function canvasFigure(scene, focused) {
  const raster = () => h("canvas", { class: "raster", hidden: true });
  let [front, back] = [raster(), raster()];
  const over = h("canvas", { class: "over" });
  const element = h("div", { class: "figure-canvas" }, front, back, over);
  const size = { width: 1, height: 1 };
  const grid = gridOf(scene);
  let view = { x: 0, y: 0, k: 1 };
  let drawnAt = view;
  let stale = true;
  let look = null;
  let colours = null;
  let job = 0;
  let timer = 0;
  const ratio2 = () => window.devicePixelRatio || 1;
  const prepared = (canvas, scale, margin) => {
    const [width, height] = [Math.round((size.width + 2 * margin) * scale), Math.round((size.height + 2 * margin) * scale)];
    [canvas.width, canvas.height] = [width, height];
    return canvas.getContext("2d", { willReadFrequently: true });
  };
  const whole = () => ({ left: -MARGIN2, top: -MARGIN2, right: size.width + MARGIN2, bottom: size.height + MARGIN2 });
  const painter = (g, scale, margin, rect) => {
    colours ??= coloursOf(element);
    return new Painter(g, scene, look, colours, { ...view }, rect, scale, margin, size.width - scene.plan.width * view.k > 120);
  };
  let blocks = null;
  const base = (one) => {
    const now = { ...look, centre: null };
    const same = blocks !== null && blocks.look.strongest === now.strongest && blocks.look.hidden === now.hidden;
    if (!blocks || !same || blocks.k !== view.k) {
      const wires = blocks && same ? blocks.wires : scene.wires.filter((wire) => drawn(wire, now));
      const crowd = crowdOf(wires, size.width / view.k, size.height / view.k);
      const list = blocks && same && blocks.crowd > DENSE === crowd > DENSE ? blocks.list : blocksOf(wires, crowd > DENSE);
      blocks = { look: now, wires, k: view.k, crowd, list };
    }
    return one.base(blocks.list, blocks.crowd);
  };
  const crowdOf = (wires, width, height) => {
    const { plan } = scene;
    return wires.reduce((t, { line: { x1, x2, y1, y2 } }) => t + Math.min(1, (Math.abs(x2 - x1) + width) / plan.width) * Math.min(1, (Math.abs(y2 - y1) + height) / plan.height), 0);
  };
  const place = (canvas, margin, from) => {
    const k = view.k / from.k;
    canvas.style.width = `${size.width + 2 * margin}px`;
    canvas.style.height = `${size.height + 2 * margin}px`;
    canvas.style.transform = `translate(${view.x - from.x * k - margin * k}px, ${view.y - from.y * k - margin * k}px) scale(${k})`;
  };
  let overAt = view;
  const paintOver = () => {
    if (!look || !element.isConnected) return;
    overAt = { ...view };
    painter(prepared(over, ratio2(), 0), ratio2(), 0, { left: 0, top: 0, right: size.width, bottom: size.height }).above(focused());
    place(over, 0, overAt);
  };
  function* redraw(g, scale) {
    const [dx, dy] = [(view.x - drawnAt.x) * scale, (view.y - drawnAt.y) * scale];
    const { width, height } = back;
    const even = [dx, dy].every((d) => Math.abs(d - Math.round(d)) < 1e-6);
    if (stale || view.k !== drawnAt.k || !even || Math.abs(dx) >= width || Math.abs(dy) >= height) {
      yield* base(painter(g, scale, MARGIN2, whole()));
      return;
    }
    const [sx, sy] = [Math.round(dx), Math.round(dy)];
    g.drawImage(front, sx, sy);
    const [top, bottom] = [Math.max(0, sy), height + Math.min(0, sy)];
    const bare = [
      sy > 0 ? [0, 0, width, sy] : [0, height + sy, width, -sy],
      sx > 0 ? [0, top, sx, bottom - top] : [width + sx, top, -sx, bottom - top]
    ];
    for (const [x, y, w, t] of bare) {
      if (w <= 0 || t <= 0) continue;
      g.save();
      g.setTransform(1, 0, 0, 1, 0, 0);
      g.beginPath();
      g.rect(x, y, w, t);
      g.clip();
      const [left, upper] = [x / scale - MARGIN2, y / scale - MARGIN2];
      yield* base(painter(g, scale, MARGIN2, { left, top: upper, right: left + w / scale, bottom: upper + t / scale }));
      g.restore();
    }
  }
  const sharpen = () => {
    const mine = ++job;
    if (!look || !element.isConnected) return;
    element.classList.add("blurred");
    const at = { ...view };
    const g = prepared(back, ratio2(), MARGIN2);
    const steps = redraw(g, ratio2());
    const slice = () => {
      if (mine !== job) return;
      const until = performance.now() + SLICE;
      do {
        if (steps.next().done) return finish();
        g.getImageData(0, 0, 1, 1);
      } while (performance.now() < until);
      soon(slice);
    };
    const finish = () => {
      [front, back] = [back, front];
      [drawnAt, stale] = [at, false];
      place(front, MARGIN2, drawnAt);
      front.hidden = false;
      back.hidden = true;
      element.classList.remove("blurred");
    };
    slice();
  };
  const rest = (after) => {
    job += 1;
    clearTimeout(timer);
    element.classList.add("blurred");
    timer = window.setTimeout(() => {
      paintOver();
      sharpen();
    }, after);
  };
  const recolour = () => {
    colours = null;
    stale = true;
    rest(0);
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", recolour);
  const themes = new MutationObserver(recolour);
  soon(() => {
    const root = element.closest(".gossamer");
    if (root) themes.observe(root, { attributes: true, attributeFilter: ["data-theme"] });
  });
  return {
    element,
    resize(width, height) {
      Object.assign(size, { width: Math.round(width), height: Math.round(height) });
      element.style.height = `${size.height}px`;
      stale = true;
      rest(0);
    },
    move(to) {
      view = { ...to };
      place(front, MARGIN2, drawnAt);
      place(over, 0, overAt);
      rest(REST);
    },
    paint(now) {
      const before = look;
      look = now;
      element.classList.toggle("faded", now.centre !== null || now.found !== null);
      if (!before || before.strongest !== now.strongest || before.hidden !== now.hidden || before.pinned !== now.pinned) {
        stale = true;
        rest(before ? REST : 0);
      } else paintOver();
    },
    hit(x, y) {
      const [wx, wy] = [(x - view.x) / view.k, (y - view.y) / view.k];
      const reach = Math.min(CELL / 2, Math.max(0, 3 / view.k));
      const cells = [[0, 0], [-1, -1], [-1, 1], [1, -1], [1, 1]].map(([a, b]) => `${Math.floor((wx + a * reach) / CELL)}|${Math.floor((wy + b * reach) / CELL)}`);
      let [best, nearest] = [null, reach + 1e-9];
      for (const spot of new Set([...new Set(cells)].flatMap((cell) => grid.get(cell) ?? []))) {
        if (look?.hidden.has(spot.node.site)) continue;
        const away = Math.max(Math.abs(spot.x - wx) - spot.width / 2, Math.abs(spot.y - wy) - spot.height / 2, 0);
        if (away < nearest) [best, nearest] = [spot.node.site, away];
      }
      return best;
    },
    picture(scale) {
      const [all, under, above] = [h("canvas", {}), h("canvas", {}), h("canvas", {})];
      for (const step of base(painter(prepared(under, scale, 0), scale, 0, whole()))) void step;
      painter(prepared(above, scale, 0), scale, 0, whole()).above(null);
      const g = prepared(all, scale, 0);
      g.fillStyle = colours["paper"];
      g.fillRect(0, 0, all.width, all.height);
      g.globalAlpha = element.classList.contains("faded") ? FADED : 1;
      g.drawImage(under, 0, 0);
      g.globalAlpha = 1;
      g.drawImage(above, 0, 0);
      return all;
    },
    destroy() {
      job += 1;
      clearTimeout(timer);
      themes.disconnect();
      dark.removeEventListener("change", recolour);
    }
  };
}

// src/picture.ts
var PNG_SCALE = 2;
var SHAPE = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity"];
var TEXT = [...SHAPE, "font-family", "font-size", "font-style", "font-weight", "text-anchor", "paint-order", "white-space"];
var DEFAULTS = {
  fill: "rgb(0, 0, 0)",
  stroke: "none",
  "stroke-width": "1px",
  "stroke-dasharray": "none",
  "stroke-linecap": "butt",
  "stroke-linejoin": "miter",
  opacity: "1",
  "font-style": "normal",
  "font-weight": "400",
  "text-anchor": "start",
  "paint-order": "normal",
  "white-space": "normal"
};
var DROPPED = ["class", "style", "tabindex", "role", "data-site", "data-src", "data-dst", "data-tip", "data-fold"];
function plainColour(value) {
  const parts2 = value.match(/^color\(srgb ([\d.e+-]+) ([\d.e+-]+) ([\d.e+-]+)(?: \/ ([\d.]+))?\)$/);
  if (!parts2) return value;
  const [r, g, b] = parts2.slice(1, 4).map((part2) => Math.round(255 * Number(part2)));
  return parts2[4] === void 0 ? `rgb(${r}, ${g}, ${b})` : `rgba(${r}, ${g}, ${b}, ${parts2[4]})`;
}
function styleOf(element, styles) {
  const parent = element.parentElement?.getAttribute("class") ?? "";
  const lone = element.tagName === "path" && (element.getAttribute("class") ?? "").startsWith("edge ");
  const key2 = lone ? `${parent}|${element.getAttribute("class")}|${element.getAttribute("style") ?? ""}` : null;
  const known2 = key2 === null ? void 0 : styles.get(key2);
  if (known2 !== void 0) return known2;
  const computed = getComputedStyle(element);
  const text = element.tagName === "text" || element.tagName === "tspan";
  const out = {};
  if (element.tagName !== "g" || computed.opacity !== "1") {
    for (const name of element.tagName === "g" ? ["opacity"] : text ? TEXT : SHAPE) {
      const value = computed.getPropertyValue(name);
      if (value && value !== DEFAULTS[name] && !(lone && name === "stroke-width")) out[name] = plainColour(value);
    }
    if (out["stroke"] === void 0) {
      for (const name of Object.keys(out)) if (name.startsWith("stroke-")) delete out[name];
    }
  }
  const style = computed.display === "none" ? null : out;
  if (key2 !== null) styles.set(key2, style);
  return style;
}
function inlined(element, styles) {
  const style = styleOf(element, styles);
  if (style === null || element.classList.contains("hits")) return null;
  const copy = element.cloneNode(false);
  for (const name of DROPPED) copy.removeAttribute(name);
  for (const name of [...copy.getAttributeNames()]) if (name.startsWith("aria-")) copy.removeAttribute(name);
  for (const [name, value] of Object.entries(style)) copy.setAttribute(name, value);
  const site = element.getAttribute("data-site");
  if (site !== null && element.tagName === "g") copy.append(s("title", {}, site));
  for (const child of element.childNodes) {
    if (child instanceof Element) {
      const inner = inlined(child, styles);
      if (inner) copy.append(inner);
    } else copy.append(child.cloneNode());
  }
  return copy;
}
function svgText(svg, width, height, title) {
  const copy = inlined(svg, /* @__PURE__ */ new Map());
  const [w, t] = [Math.round(width), Math.round(height)];
  for (const [name, value] of Object.entries({ viewBox: `0 0 ${w} ${t}`, width: w, height: t })) copy.setAttribute(name, String(value));
  const paper = getComputedStyle(svg.closest(".gossamer") ?? document.body).backgroundColor;
  copy.prepend(s("title", {}, title), s("rect", { width: w, height: t, fill: plainColour(paper) }));
  return `<?xml version="1.0" encoding="UTF-8"?>
${new XMLSerializer().serializeToString(copy)}
`;
}
async function rasterOf(text, width, height) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = h("canvas", { width: Math.round(width * PNG_SCALE), height: Math.round(height * PNG_SCALE) });
  const g = canvas.getContext("2d");
  g.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}
function pngOf(canvas) {
  return new Promise((done, failed) => canvas.toBlob((blob) => blob ? done(blob) : failed(new Error("the picture is too large for this browser")), "image/png"));
}
function save(name, file) {
  const link = h("a", { href: URL.createObjectURL(file), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 6e4);
}
function fileName2(name, ending) {
  return `${name.replace(/[^\w.-]+/g, "_").slice(0, 80) || "circuit"}.${ending}`;
}

// src/figure.ts
var TALLEST = { svg: 3600, canvas: 1e3 };
var SVG_UP_TO = { nodes: 1500, edges: 6e3 };
var ZOOM_MOST = 6;
var SETTLED = 150;
var KEPT_AFTER = 300;
function keptOf(text) {
  const known2 = {};
  try {
    const value = JSON.parse(text ?? "{}");
    const texts = (list) => Array.isArray(list) ? list.filter((one) => typeof one === "string") : void 0;
    const { at } = value;
    const place = Array.isArray(at) && at.length === 3 && at.every((one) => Number.isFinite(one)) ? { at } : {};
    return { ...place, open: texts(value["open"]), shut: texts(value["shut"]), alone: texts(value["alone"]), hidden: texts(value["hidden"]), pinned: texts(value["pinned"]) };
  } catch {
    return known2;
  }
}
function toggled(set, item2) {
  const out = new Set(set);
  if (!out.delete(item2)) out.add(item2);
  return out;
}
function figure(index, store) {
  const folding = { open: /* @__PURE__ */ new Set(), shut: /* @__PURE__ */ new Set(), alone: /* @__PURE__ */ new Set() };
  let hidden = /* @__PURE__ */ new Set();
  let pinned = /* @__PURE__ */ new Set();
  let wanted;
  const takeUp = (text) => {
    const kept = keptOf(text);
    Object.assign(folding, { open: new Set(kept.open), shut: new Set(kept.shut), alone: new Set(kept.alone) });
    const keys = new Set([...index.nodes.values()].flatMap((node) => [node.site, partOfNode(node), layerOfNode(node), `${node.layer}.heads`]));
    hidden = new Set((kept.hidden ?? []).filter((site) => keys.has(site)));
    pinned = new Set((kept.pinned ?? []).filter((site) => index.nodes.has(site)));
    wanted = kept.at;
  };
  takeUp(store.get().kept["figure"]);
  let scene = build();
  let vector = null;
  let canvas = null;
  let current = "";
  const stage = h("div", { class: "figure-surface" });
  const live = h("div", { class: "sr", "aria-live": "polite" });
  const probe = h("div", { class: "probe" });
  const restore = h("div", { class: "restore", hidden: true });
  const element = h("div", { class: "figure-frame" });
  const spotOf2 = (site) => scene.plan.spots.get(site);
  function build() {
    return sceneOf(index, fold(index, { ...folding, alone: /* @__PURE__ */ new Set([...folding.alone, ...pinned]) }, store.get().strongest));
  }
  const view = { x: 0, y: 0, k: 1 };
  const size = { width: 0, height: 0 };
  let fitted = true;
  const fitScale = () => Math.min(1.25, size.width / scene.plan.width, size.height / scene.plan.height);
  const move = () => {
    if (vector) vector.move(view.x, view.y, view.k);
    canvas?.move(view);
    keep2();
  };
  const resize = () => {
    const { plan } = scene;
    const width = stage.clientWidth || plan.width;
    const height = Math.min(plan.height * Math.min(1.25, width / plan.width), canvas ? TALLEST.canvas : TALLEST.svg);
    Object.assign(size, { width, height });
    vector?.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    vector?.svg.setAttribute("height", height.toFixed(1));
    canvas?.resize(width, height);
  };
  const fit = () => {
    resize();
    fitted = true;
    view.k = fitScale();
    view.x = (size.width - scene.plan.width * view.k) / 2;
    view.y = 0;
    move();
  };
  const zoom = (factor, x = size.width / 2, y = size.height / 2) => {
    const k = Math.min(ZOOM_MOST, Math.max(Math.min(0.15, fitScale()), view.k * factor));
    Object.assign(view, { x: x - (x - view.x) * k / view.k, y: y - (y - view.y) * k / view.k, k });
    fitted = false;
    move();
  };
  let keeping = 0;
  let own = store.get().kept["figure"];
  const keep2 = () => {
    clearTimeout(keeping);
    keeping = window.setTimeout(() => {
      const round = (value) => Number(value.toPrecision(6));
      const list = (set) => set.size ? [...set] : void 0;
      const now = {
        at: fitted ? void 0 : [round((size.width / 2 - view.x) / view.k), round((size.height / 2 - view.y) / view.k), round(view.k / fitScale())],
        open: list(folding.open),
        shut: list(folding.shut),
        alone: list(folding.alone),
        hidden: list(hidden),
        pinned: list(pinned)
      };
      const text = JSON.stringify(now);
      const { figure: before, ...others } = store.get().kept;
      if (text === (before ?? "{}")) return;
      own = text === "{}" ? void 0 : text;
      store.set({ kept: own === void 0 ? others : { ...others, figure: own } });
    }, KEPT_AFTER);
  };
  const mount = () => {
    const { strongest } = store.get();
    const lines = scene.wires.reduce((t, wire) => t + Number(wire.rank === null ? wire.always : wire.rank < strongest), 0);
    canvas?.destroy();
    [vector, canvas] = [null, null];
    if (scene.plan.spots.size > SVG_UP_TO.nodes || lines > SVG_UP_TO.edges) {
      canvas = canvasFigure(scene, () => document.activeElement === canvas?.element ? current : null);
      const c = canvas.element;
      for (const [name, value] of Object.entries({
        tabindex: "0",
        role: "application",
        "aria-roledescription": "circuit",
        "aria-label": "The circuit. Arrow keys move between nodes and each is read out, Enter selects, Escape clears, h hides, p pins, c collapses."
      })) c.setAttribute(name, value);
      stage.replaceChildren(c);
    } else {
      vector = svgFigure(index, scene);
      stage.replaceChildren(vector.svg);
    }
    rove(spotOf2(current) ? current : start());
    paint();
  };
  const start = () => {
    const best = index.ranked[0]?.site;
    return best === void 0 ? scene.plan.rows[0]?.[0] ?? "" : scene.drawing.at(best);
  };
  const refold = (anchor) => {
    const place = anchor === null ? void 0 : spotOf2(scene.drawing.at(anchor));
    const held = element.contains(document.activeElement) && stage.contains(document.activeElement);
    scene = build();
    const now = anchor === null ? void 0 : spotOf2(scene.drawing.at(anchor));
    mount();
    if (fitted || !place || !now) fit();
    else {
      resize();
      view.x += (place.x - now.x) * view.k;
      view.y += (place.y - now.y) * view.k;
      move();
    }
    if (held && anchor !== null) focus(anchor);
  };
  const toggleFold = (key3, anchor) => {
    if (folding.shut.delete(key3)) {
      if (opensFolded(index) && !key3.startsWith("layer ")) folding.open.add(key3);
    } else if (spotOf2(key3)) folding.open.add(key3);
    else {
      folding.shut.add(key3);
      folding.open.delete(key3);
    }
    refold(anchor);
  };
  const activate = (site) => {
    const folded = spotOf2(site)?.folded;
    if (folded) toggleFold(folded.key, folded.members[0].site);
    else store.set({ selected: site === store.get().selected ? null : site });
  };
  const hide = (site) => {
    hidden = toggled(hidden, site);
    const next = hidden.has(site) ? neighbour(site, "ArrowRight") ?? neighbour(site, "ArrowLeft") ?? neighbour(site, "ArrowDown") ?? neighbour(site, "ArrowUp") : site;
    const held = stage.contains(document.activeElement);
    if (hidden.has(site) && store.get().selected === site) store.set({ selected: null });
    if (store.get().peeked === site) store.set({ peeked: null });
    paint();
    keep2();
    if (next && held) focus(next);
  };
  const pin = (site) => {
    if (!index.nodes.has(site)) return;
    pinned = toggled(pinned, site);
    paint();
    keep2();
  };
  const collapse = (site, whole) => {
    const folded = spotOf2(site)?.folded;
    const node = index.nodes.get(site) ?? folded?.members[0];
    if (!node) return;
    const key3 = whole ? layerOfNode(node) : folded ? folded.key : partOfNode(node);
    if (key3 !== null && !(whole && folded?.what === "layer")) toggleFold(key3, node.site);
    else if (folded) activate(site);
  };
  const local = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const siteAt = (event) => {
    if (canvas) return event instanceof MouseEvent ? canvas.hit(...local(event)) : event.type.startsWith("focus") ? current : null;
    return event.target instanceof Element ? event.target.closest("g.node")?.getAttribute("data-site") ?? null : null;
  };
  const peek = (peeked) => {
    if (peeked !== store.get().peeked) store.set({ peeked });
  };
  const tipAt = (site) => {
    const spot = site === null ? void 0 : spotOf2(site);
    if (spot) {
      probe.setAttribute("data-tip", `${spot.folded ? "" : `${spot.node.site}
`}${scene.words(spot.node.site)}`);
      Object.assign(probe.style, {
        left: `${view.x + (spot.x - spot.width / 2) * view.k}px`,
        top: `${view.y + (spot.y - spot.height / 2) * view.k}px`,
        width: `${spot.width * view.k}px`,
        height: `${spot.height * view.k}px`
      });
    }
    (spot ? probe : stage).dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  };
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 4e-3), ...local(event));
  }, { passive: false });
  let grip = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button === 0) grip = { x: event.clientX, y: event.clientY, moved: false };
  });
  stage.addEventListener("pointermove", (event) => {
    if (!grip) {
      if (!canvas) return;
      const site = siteAt(event);
      stage.classList.toggle("over-node", site !== null);
      if (site !== store.get().peeked) {
        peek(site);
        tipAt(site);
      }
      return;
    }
    const [dx, dy] = [event.clientX - grip.x, event.clientY - grip.y];
    if (!grip.moved && Math.hypot(dx, dy) < 4) return;
    if (!grip.moved) stage.setPointerCapture(event.pointerId);
    grip = { x: event.clientX, y: event.clientY, moved: true };
    stage.classList.add("dragging");
    view.x += dx;
    view.y += dy;
    fitted = false;
    move();
  });
  let dragged = false;
  const letGo = () => {
    dragged = grip?.moved ?? false;
    grip = null;
    stage.classList.remove("dragging");
  };
  stage.addEventListener("pointerup", letGo);
  stage.addEventListener("pointercancel", letGo);
  stage.addEventListener("click", (event) => {
    if (dragged) return void (dragged = false);
    const label = event.target instanceof Element ? event.target.closest("[data-fold]")?.getAttribute("data-fold") : null;
    if (label) return void toggleFold(label, memberOf(label));
    const site = siteAt(event);
    if (site === null) return store.set({ selected: null });
    if (canvas) rove(site);
    activate(site);
  });
  stage.addEventListener("pointerover", (event) => {
    if (!canvas) peek(siteAt(event));
  });
  stage.addEventListener("pointerleave", (event) => {
    if (event.target === stage || event.target === vector?.svg) peek(null);
  }, true);
  stage.addEventListener("focusin", (event) => {
    peek(siteAt(event));
    if (canvas) paint();
  });
  stage.addEventListener("focusout", () => {
    peek(null);
    if (canvas) paint();
  });
  const memberOf = (key3) => [...index.nodes.values()].find((node) => partOfNode(node) === key3 || layerOfNode(node) === key3)?.site ?? "";
  const rove = (site) => {
    vector?.groups.get(current)?.setAttribute("tabindex", "-1");
    current = site;
    vector?.groups.get(site)?.setAttribute("tabindex", "0");
  };
  const reveal = (site) => {
    const { x, y } = spotOf2(site);
    const [px, py] = [view.x + x * view.k, view.y + y * view.k];
    const [before, after] = [view.x, view.y];
    if (px < 30 || px > size.width - 30) view.x += size.width / 2 - px;
    if (py < 20 || py > size.height - 20) view.y += size.height / 2 - py;
    if (before === view.x && after === view.y) return;
    fitted = false;
    move();
  };
  const focus = (asked) => {
    if (hidden.has(asked)) hide(asked);
    if (index.nodes.has(asked) && !spotOf2(asked) && store.get().selected === asked) {
      folding.alone.add(asked);
      refold(null);
    }
    const site = scene.drawing.at(asked);
    if (!spotOf2(site) || hidden.has(site)) return;
    rove(site);
    reveal(site);
    if (vector) vector.groups.get(site)?.focus({ preventScroll: false });
    else if (canvas) {
      canvas.element.focus({ preventScroll: false });
      live.textContent = `${site}: ${scene.words(site).replaceAll("\n", "; ")}`;
      peek(site);
      paint();
    }
  };
  const neighbour = (site, key3) => {
    const row = scene.plan.rows.findIndex((sites2) => sites2.includes(site));
    const open = (sites2) => (sites2 ?? []).filter((one) => one === site || !hidden.has(one));
    const sites = open(scene.plan.rows[row]);
    const at = sites.indexOf(site);
    if (key3 === "ArrowLeft") return sites[at - 1] ?? null;
    if (key3 === "ArrowRight") return sites[at + 1] ?? null;
    if (key3 === "Home") return sites[0] ?? null;
    if (key3 === "End") return sites[sites.length - 1] ?? null;
    const step = key3 === "ArrowDown" ? 1 : -1;
    let next = [];
    for (let i = row + step; i >= 0 && i < scene.plan.rows.length && !next.length; i += step) next = open(scene.plan.rows[i]);
    const x = spotOf2(site).x;
    const away = (one) => Math.abs(spotOf2(one).x - x);
    return next.length ? next.reduce((a, b) => away(b) < away(a) ? b : a) : null;
  };
  stage.addEventListener("keydown", (event) => {
    const site = canvas ? current : siteAt(event);
    if (!site || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") activate(site);
    else if (event.key === "+" || event.key === "=") zoom(1.25);
    else if (event.key === "-") zoom(0.8);
    else if (event.key === "0") fit();
    else if (event.key === "h") hide(site);
    else if (event.key === "p") pin(site);
    else if (event.key === "c") collapse(site, false);
    else if (event.key === "C") collapse(site, true);
    else if (/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) {
      const next = neighbour(site, event.key);
      if (next) focus(next);
    } else return;
    event.preventDefault();
  });
  const tool = (text, tip, act) => {
    const button2 = h("button", { type: "button", class: "tool", "aria-label": tip, "data-tip": tip }, text);
    button2.addEventListener("click", act);
    return button2;
  };
  const chosen = (act) => () => {
    const { selected } = store.get();
    if (selected) act(selected);
  };
  const pinButton = tool("Pin", "Pin the selected node: drawn and marked whatever the filter (p)", chosen(pin));
  const forNode = [
    pinButton,
    tool("Hide", "Hide the selected node (h)", chosen(hide)),
    tool("Collapse", "Collapse the head or row of the selected node (c)", chosen((site) => collapse(site, false))),
    tool("Collapse layer", "Collapse the layer of the selected node (Shift+C)", chosen((site) => collapse(site, true)))
  ];
  const expandAll = tool("Expand all", "Expand everything that is collapsed", () => {
    folding.shut.clear();
    if (opensFolded(index)) folding.open.add("*");
    refold(null);
  });
  const picture = (ending) => async () => {
    const name = fileName2(`${index.bundle.task.name}-circuit`, ending);
    if (ending === "png" && canvas) return save(name, await pngOf(canvas.picture(PNG_SCALE)));
    const text = asSvg();
    if (ending === "svg") save(name, new Blob([text], { type: "image/svg+xml" }));
    else save(name, await pngOf(await rasterOf(text, size.width, size.height)));
  };
  const asSvg = () => {
    if (vector) return svgText(vector.svg, size.width, size.height, index.bundle.title);
    const [left, top, right, bottom] = [-view.x / view.k, -view.y / view.k, (size.width - view.x) / view.k, (size.height - view.y) / view.k];
    const within = (x1, y1, x2, y2) => Math.min(x1, x2) <= right + 40 && Math.max(x1, x2) >= left - 40 && Math.min(y1, y2) <= bottom + 40 && Math.max(y1, y2) >= top - 40;
    const one = svgFigure(index, {
      ...scene,
      wires: scene.wires.filter(({ line: line2 }) => within(line2.x1, line2.y1, line2.x2, line2.y2)),
      drawing: { ...scene.drawing, carries: scene.drawing.carries.filter(({ src, dst }) => {
        const [a, b] = [spotOf2(src), spotOf2(dst)];
        return within(a.x, a.y, b.x, b.y);
      }) },
      plan: { ...scene.plan, rows: scene.plan.rows.map((row) => row.filter((site) => {
        const { x, y } = spotOf2(site);
        return within(x, y, x, y);
      })) }
    });
    const away = h("div", { class: "away", "aria-hidden": "true" }, one.svg);
    stage.append(away);
    one.paint(lookNow());
    one.move(view.x, view.y, view.k);
    const text = svgText(one.svg, size.width, size.height, index.bundle.title);
    away.remove();
    return text;
  };
  const note = h("span", { class: "muted figure-note", role: "status" });
  const saved = (ending) => {
    const act = picture(ending);
    return tool(ending.toUpperCase(), `Save the figure as seen as ${ending.toUpperCase()}`, () => {
      note.textContent = "";
      act().catch((error) => note.textContent = `Not saved: ${error instanceof Error ? error.message : String(error)}`);
    });
  };
  const bar = h(
    "div",
    { class: "figure-bar", role: "group", "aria-label": "The figure" },
    ...forNode,
    expandAll,
    note,
    h(
      "span",
      { class: "zoom" },
      saved("svg"),
      saved("png"),
      tool("+", "Zoom in (+)", () => zoom(1.25)),
      tool("−", "Zoom out (-)", () => zoom(0.8)),
      tool("⤢", "Fit the whole circuit (0)", fit)
    )
  );
  const key2 = foldedKey(index.bundle.grain === "head" ? "score" : "weight");
  const lookNow = () => {
    const { selected, peeked, found: found2, strongest, lit } = store.get();
    const { at } = scene.drawing;
    const place = (site) => site === null || !spotOf2(at(site)) || hidden.has(at(site)) ? null : at(site);
    const centre = place(peeked) ?? place(selected);
    let shown = null;
    if (lit) {
      shown = /* @__PURE__ */ new Map();
      for (const [site, strength] of lit) shown.set(at(site), Math.max(strength, shown.get(at(site)) ?? 0));
    }
    return {
      selected: place(selected),
      centre,
      near: centre === null ? /* @__PURE__ */ new Set() : scene.near(centre),
      strongest,
      hidden,
      pinned,
      lit: shown,
      found: found2 && new Set([...found2].map(at))
    };
  };
  const paint = () => {
    const { selected } = store.get();
    const look = lookNow();
    vector?.paint(look);
    canvas?.paint(look);
    const node = selected === null ? void 0 : index.nodes.get(selected);
    forNode.forEach((button2, i) => button2.disabled = !node || i === 2 && partOfNode(node) === null || i === 3 && layerOfNode(node) === null);
    pinButton.setAttribute("aria-pressed", String(selected !== null && pinned.has(selected)));
    pinButton.textContent = selected !== null && pinned.has(selected) ? "Unpin" : "Pin";
    expandAll.hidden = key2.hidden = scene.drawing.supers.size === 0;
    restore.hidden = hidden.size === 0;
    const list = [...hidden];
    if (restore.dataset["list"] !== list.join("\n")) {
      restore.dataset["list"] = list.join("\n");
      restore.replaceChildren(
        h("span", { class: "muted" }, "Hidden:"),
        ...list.map((site) => tool(`${site} ↺`, `Show ${site} again`, () => hide(site))),
        ...list.length > 1 ? [tool("Show all", "Show all hidden nodes again", () => {
          hidden = /* @__PURE__ */ new Set();
          paint();
          keep2();
        })] : []
      );
    }
  };
  const matters = ["selected", "peeked", "found", "strongest", "lit"];
  let settling = 0;
  const goTo = () => {
    if (!wanted) return;
    const [x, y, times] = wanted;
    wanted = void 0;
    fitted = false;
    view.k = fitScale() * times;
    Object.assign(view, { x: size.width / 2 - x * view.k, y: size.height / 2 - y * view.k });
    move();
  };
  store.listen((now, before) => {
    if (now.kept !== before.kept && now.kept["figure"] !== own) {
      own = now.kept["figure"];
      takeUp(own);
      refold(null);
      goTo();
      return;
    }
    if (matters.every((name) => now[name] === before[name])) return;
    if (now.strongest !== before.strongest && opensFolded(index)) {
      clearTimeout(settling);
      settling = window.setTimeout(() => refold(null), SETTLED);
      return;
    }
    paint();
  });
  element.append(bar, h("div", { class: "figure-place" }, stage, probe), restore, key2, live);
  mount();
  return {
    element,
    get naturalWidth() {
      return scene.plan.width;
    },
    fit() {
      if (!fitted) return resize();
      fit();
      goTo();
    },
    focus
  };
}
function line(className, mark) {
  return s("svg", { width: 34, height: 12, "aria-hidden": "true", class: "key" }, s("path", { d: "M2 6H28", class: className }), mark);
}
function item(picture, text) {
  return h("span", { class: "legend-item" }, picture, text);
}
function foldedKey(measure) {
  const box = { width: 20, height: 11, rx: 3, class: "pill" };
  const pair = s("svg", { width: 28, height: 16, class: "key node super", "aria-hidden": "true" }, s("rect", { ...box, x: 4, y: 1 }), s("rect", { ...box, x: 1, y: 4 }));
  return h(
    "div",
    { class: "legend" },
    item(pair, "collapsed nodes: click or Enter expands"),
    item(line("edge sum", null), `their edges together: the wider, the larger the sum of |${measure}|`)
  );
}
function legend(index) {
  const pill = (share2) => s("rect", { x: 0, y: 1, width: 20, height: 12, rx: 3, class: "pill", style: `--ink-share:${share2}%` });
  const shape = (rx) => s("svg", { width: 22, height: 14, class: "key", "aria-hidden": "true" }, s("rect", { x: 0.5, y: 1, width: 20, height: 12, rx, class: "pill" }));
  const scale = s("svg", { width: 66, height: 14, class: "key", "aria-hidden": "true" });
  [4, 40, 82].forEach((share2, i) => {
    const one = pill(share2);
    one.setAttribute("x", String(0.5 + i * 22));
    scale.append(one);
  });
  const up = line("edge up", s("path", { d: "M26 2.5L33 6L26 9.5Z", class: "tip-up" }));
  const down = line("edge down", s("path", { d: "M30 1V11", class: "tip-down" }));
  if (index.bundle.grain === "head") {
    const { edge_score: score, carries } = index.bundle.circuit;
    const said = (positive) => {
      const sign = positive ? "positive score" : "negative score";
      if (!score?.needed) return sign;
      return `${sign}: ${score.needed > 0 === positive ? "the answer needs the edge" : "the edge works against the answer"}`;
    };
    const scored = index.edges.some((edge) => edge.weight !== null);
    const signs = [score?.needed !== -1, score?.needed === -1];
    return h(
      "div",
      { class: "legend" },
      ...scored ? [
        h("p", { class: "legend-note" }, `Score: ${score?.means ?? ""}; the wider the line, the larger it is, up to ${num(index.largestWeight, 3)}.`),
        item(up, said(signs[0])),
        index.edges.some((edge) => toneOf(index.bundle, edge.weight) === "down") ? item(down, said(signs[1])) : null
      ] : [item(line("edge flat", s("path", { d: "M26 2.5L33 6L26 9.5Z", class: "tip-flat" })), "edge; the circuit came without scores")],
      h("span", { class: "legend-item" }, h("b", { class: "legend-ports" }, "q k v"), "read for queries, keys, values"),
      carries.length ? item(line("carry meets", null), "keys and values (g) that the heads of a frame share, not an edge") : null,
      scored ? item(scale, `stronger fill: more |score| on its edges (up to ${num(index.largestMatter, 3)})`) : null
    );
  }
  return h(
    "div",
    { class: "legend" },
    item(up, "positive weight"),
    item(down, "negative weight"),
    item(line("carry", null), "carried by the residual stream, not an edge"),
    item(shape(3), "residual channel"),
    item(shape(6), "neuron, or q, k, v of a head"),
    index.ranked.length ? item(scale, `stronger fill: ablating it costs more (up to ${num(index.largestMatter, 3)} nats)`) : null
  );
}

// src/host.ts
var ROUTES = {
  tokenize: ["POST", "tokenize"],
  ask: ["POST", "ask"],
  "read notes": ["GET", "notes"],
  "write notes": ["PUT", "notes"]
};
var KEPT_ALIVE = 2e4;
function toServer(base) {
  return async (what, body, last = false) => {
    const [method, path] = ROUTES[what];
    const text = body === void 0 ? null : JSON.stringify(body);
    const sent = text === null ? {} : { body: text, headers: { "content-type": "application/json" }, keepalive: last && text.length < KEPT_ALIVE };
    const found2 = await fetch(base + path, { method, ...sent }).catch(() => {
      throw new Error("The server does not answer; is it still running?");
    });
    const told = await found2.json().catch(() => null);
    const message = told?.message;
    if (!found2.ok || method === "POST" && typeof message === "string") throw new Error(typeof message === "string" ? message : `The server answered ${found2.status}.`);
    return told;
  };
}
function toKernel(model) {
  const view = Math.random().toString(36).slice(2);
  const waiting = /* @__PURE__ */ new Map();
  let asked = 0;
  const hear = (reply) => {
    const own = waiting.get(reply.id);
    if (!own) return;
    waiting.delete(reply.id);
    if (reply.message === void 0) own.resolve(reply.found);
    else own.reject(new Error(reply.message));
  };
  model.on?.("msg:custom", hear);
  const call = (what, body) => new Promise((resolve, reject) => {
    const id = `${view}-${asked++}`;
    waiting.set(id, { resolve, reject });
    model.send?.({ id, what, body });
  });
  return [call, () => model.off?.("msg:custom", hear)];
}
function hosted(model) {
  const server = model.get("server");
  const [call, leave] = typeof server === "string" ? [toServer(server), () => void 0] : model.get("asks") === true ? toKernel(model) : [null, () => void 0];
  if (!call) return [model, leave];
  const engine = {
    where: "server",
    tokenize: (text) => call("tokenize", { text }),
    ask: (question) => call("ask", question)
  };
  const notes = {
    read: () => call("read notes"),
    write: async (found2, last) => void await call("write notes", found2, last)
  };
  const own = { engine, notes };
  return [{ get: (name) => own[name] ?? model.get(name) }, leave];
}
function whoComputes(model) {
  return model.get("asks") === true ? "Computed by the notebook's kernel" : "Computed by the server";
}
function whoAnswers(model) {
  if (typeof model.get("server") === "string") return "This page asks the server it came from, and no other.";
  return model.get("asks") === true ? "This page asks the notebook's kernel." : "This page is one file and makes no request.";
}

// src/recipe.ts
function fail(what) {
  throw new Error(`This is not a recipe: ${what}. Load one that "Save as recipe" wrote.`);
}
var isText = (value) => typeof value === "string";
var textOrNull = (value) => isText(value) ? value : null;
function intervention(raw) {
  const { kind, site, value, src, dst, matrix } = raw ?? {};
  const sound = kind === "cut" ? isText(src) && isText(dst) && isText(matrix) : (kind === "ablate" || kind === "clamp" && typeof value === "number") && isText(site);
  if (!sound) fail(`${JSON.stringify(raw)} is no intervention`);
  return {
    kind,
    site: textOrNull(site),
    value: typeof value === "number" ? value : null,
    src: textOrNull(src),
    dst: textOrNull(dst),
    matrix: textOrNull(matrix)
  };
}
function asQuestion(raw) {
  let found2;
  try {
    found2 = JSON.parse(raw);
  } catch {
    return fail("it is no JSON");
  }
  if (!found2 || !isText(found2.text)) return fail("it has no prompt");
  const [candidates, interventions] = [found2.candidates ?? [], found2.interventions ?? []];
  if (!Array.isArray(candidates) || !candidates.every(isText)) return fail("its candidates are no texts");
  if (!Array.isArray(interventions)) return fail("its interventions are no list");
  return { text: found2.text, candidates, interventions: interventions.map(intervention) };
}
function sameQuestion(raw, question) {
  try {
    return JSON.stringify(asQuestion(raw)) === JSON.stringify(asQuestion(JSON.stringify(question)));
  } catch {
    return false;
  }
}
var History = class {
  constructor() {
    this.past = [];
    this.future = [];
    this.settled = [];
    this.shown = [];
  }
  get now() {
    return this.shown;
  }
  get canUndo() {
    return this.past.length > 0;
  }
  get canRedo() {
    return this.future.length > 0;
  }
  preview(list) {
    this.shown = list;
  }
  push(list) {
    if (JSON.stringify(list) !== JSON.stringify(this.settled)) {
      this.past.push(this.settled);
      this.future = [];
    }
    this.settled = this.shown = list;
  }
  undo() {
    this.move(this.past, this.future);
  }
  redo() {
    this.move(this.future, this.past);
  }
  move(from, to) {
    const list = from.pop();
    if (!list) return;
    to.push(this.settled);
    this.settled = this.shown = list;
  }
};

// src/probe.ts
var MOST_NODES = 120;
function odds(reading) {
  const [a, b] = reading.candidates;
  return Math.log(Math.max(a, 1e-300) / Math.max(b, 1e-300));
}
function apart3(one, other, node) {
  const of = ({ circuit }) => circuit.traces.find((trace) => trace.site === node.site)?.values ?? [];
  const [a, b] = [of(one), of(other)];
  const by = (t) => Math.abs(a[t] - b[t]);
  const most = Math.min(a.length, b.length);
  let best = 0;
  for (let t = 1; t < most; t++) if (by(t) > by(best)) best = t;
  if (!most || by(best) === 0) return null;
  const seen = ({ tokens }, values) => ({ value: Number(values[best].toPrecision(3)), token: tokens[best] ?? "" });
  return [seen(one, a), seen(other, b)];
}
async function findFlip(index, engine, pairs) {
  for (const pair of pairs) {
    const [one, other] = await bothSides(engine, pair);
    if (odds(one.model) > 0 && odds(other.model) < 0) return flipOf(index, engine, pair, one, other);
  }
  return null;
}
async function bothSides(engine, { clean, counterfactual, answer, wrong_answer }) {
  const ask = (text) => engine.ask({ text, candidates: [answer, wrong_answer], interventions: [] });
  return [await ask(clean), await ask(counterfactual)];
}
async function flipOf(index, engine, pair, one, other) {
  const candidates = [pair.answer, pair.wrong_answer];
  const rest = () => new Promise((done) => window.setTimeout(done, 0));
  const ask = (text, site, value) => engine.ask({ text, candidates, interventions: [{ kind: "clamp", site, value, src: null, dst: null, matrix: null }] });
  let best = null;
  let furthest = 0;
  for (const node of index.ranked.slice(0, MOST_NODES)) {
    await rest();
    const ends = apart3(one, other, node);
    if (!ends) continue;
    const [first, second] = ends;
    const turned = await ask(pair.clean, node.site, second.value);
    const far = Math.min(-odds(turned.model), -odds(turned.circuit));
    if (far <= furthest) continue;
    const back = await ask(pair.counterfactual, node.site, first.value);
    const both = Math.min(far, odds(back.model), odds(back.circuit));
    if (both <= furthest) continue;
    furthest = both;
    best = { site: node.site, candidates, toSecond: second, toFirst: first };
  }
  return best;
}
function known(node) {
  return [...node.examples, ...node.task_examples].flatMap((one) => [...one.activations]).concat(node.mean ?? 0, ...node.mean_on_answer ?? [], 0);
}
function valueRange(node, answer) {
  const values = [...known(node), ...answer?.model.traces.find((trace) => trace.site === node.site)?.values ?? []];
  const [lo, hi] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(0.25 * (hi - lo), 0.5);
  return [lo - room, hi + room];
}
function lightOf(index, reading, at) {
  return new Map(reading.traces.map(({ site, values }) => {
    const node = index.nodes.get(site);
    const mean = node?.mean ?? 0;
    const far = (v) => Math.abs(v - mean);
    const furthest = Math.max(1e-9, ...values.map(far), ...node ? known(node).map(far) : []);
    return [site, far(values[at] ?? mean) / furthest];
  }));
}

// src/lab.ts
var KEPT2 = "lab";
var PAUSE = { page: 60, server: 220 };
var NODES_AT_FIRST = 60;
function percent(p) {
  return `${num(100 * p, p > 0.99 ? 4 : p > 5e-3 ? 3 : 2)} %`;
}
function button(text, run, label, kind = "tool") {
  const made = h("button", { type: "button", class: kind, "aria-label": label }, text);
  made.addEventListener("click", run);
  return made;
}
function code(token) {
  return h("code", {}, visibleSpaces(token));
}
function sayEdge(src, dst, matrix, index) {
  return `${src} → ${dst}${index.bundle.grain === "head" && "qkv".includes(matrix ?? "-") ? ` for ${matrix}` : ""}`;
}
function sayIntervention(one, index) {
  if (one.kind === "cut") return `cut ${sayEdge(one.src, one.dst, one.matrix, index)}`;
  if (one.kind === "clamp") return `clamp ${one.site} to ${num(one.value ?? 0)}`;
  const mean = index.nodes.get(one.site ?? "")?.mean;
  return `ablate ${one.site}${mean === null || mean === void 0 ? "" : `, to its mean ${num(mean)}`}`;
}
var BLANK = { site: null, value: null, src: null, dst: null, matrix: null };
function share(reading) {
  const [a, b] = reading.candidates;
  return a + b > 0 ? a / (a + b) : 0.5;
}
function shareRow(name, now, before, candidates) {
  const own = share(now);
  const was = before && share(before);
  const text = (p, q) => [q === null ? null : h("span", { class: "lab-was" }, `${percent(q)} → `), percent(p)];
  return h(
    "div",
    { class: "lab-share", "data-share": name, "data-value": own },
    h("div", { class: "lab-share-name" }, `the ${name}`),
    h(
      "div",
      { class: "lab-share-ends" },
      h("span", {}, code(candidates[0]), " ", ...text(own, was)),
      h("span", {}, ...text(1 - own, was === null ? null : 1 - was), " ", code(candidates[1]))
    ),
    h(
      "div",
      { class: "lab-track", "aria-hidden": "true" },
      h("span", { class: "lab-part", style: `width:${(100 * own).toFixed(2)}%` }),
      was === null ? null : h("span", { class: "lab-tick", style: `left:${(100 * was).toFixed(2)}%` })
    )
  );
}
function nextTokens(answer, before, candidates) {
  const parts2 = ["model", "circuit"];
  const cell = (part2, token, p, was) => {
    const largest = Math.max(answer[part2].top[0]?.probability ?? 1, ...answer[part2].candidates);
    return h(
      "td",
      { "data-tip": `${visibleSpaces(token)}   ${p}` },
      code(token),
      h("span", { class: "lab-number" }, was === void 0 ? null : h("span", { class: "lab-was" }, `${percent(was)} → `), percent(p)),
      h("span", { class: "lab-bar", style: `width:${(100 * p / largest).toFixed(1)}%`, "aria-hidden": "true" })
    );
  };
  const asked = candidates.map((token, i) => h(
    "tr",
    { class: "asked", "data-token": token },
    ...parts2.map((part2) => cell(part2, token, answer[part2].candidates[i] ?? 0, before?.[part2].candidates[i]))
  ));
  const ranked = answer.model.top.map((_, i) => h("tr", {}, ...parts2.map((part2) => {
    const one = answer[part2].top[i];
    return one ? cell(part2, one.token, one.probability, void 0) : h("td", {});
  })));
  const table2 = (rows) => h(
    "table",
    { class: "lab-next" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "the model says"), h("th", { scope: "col" }, "the circuit says"))),
    h("tbody", {}, ...rows)
  );
  return [table2(asked), table2(ranked)];
}
function strip(values, tokens, at) {
  const largest = Math.max(1e-9, ...values.map(Math.abs));
  const [step, half] = [9, 9];
  const svg = s(
    "svg",
    { width: values.length * step, height: 2 * half + 1, class: "lab-strip", "aria-hidden": "true" },
    s("rect", { x: at * step, y: 0, width: step, height: 2 * half + 1, class: "lab-at" }),
    s("path", { d: `M0 ${half + 0.5}H${values.length * step}`, class: "rail" })
  );
  values.forEach((value, t) => {
    const size = half * Math.abs(value) / largest;
    svg.append(
      s("rect", { x: t * step + 1, y: value > 0 ? half + 0.5 - size : half + 0.5, width: step - 2, height: size, class: value > 0 ? "lab-up" : "lab-down" }),
      s("rect", { x: t * step, y: 0, width: step, height: 2 * half + 1, fill: "transparent", "data-tip": `${visibleSpaces(tokens[t] ?? "")}   ${num(value, 6)}` })
    );
  });
  return svg;
}
function headView(head2, rows, tokens, at) {
  const own = rows[at] ?? [];
  const sink = Math.max(0, 1 - own.reduce((a, b) => a + b, 0));
  const places = own.map((p, i) => ({ p, i })).sort((a, b) => b.p - a.p).slice(0, 4).filter(({ p }) => p >= 5e-3);
  const words2 = places.flatMap(({ p, i }, n2) => [n2 ? ", " : "", code(tokens[i] ?? ""), ` (token ${i}) ${percent(p)}`]);
  if (sink >= 5e-3) words2.push(`${words2.length ? ", " : ""}${percent(sink)} on nothing`);
  const n = rows.length;
  const size = Math.min(10, 220 / n);
  const svg = s(
    "svg",
    { width: n * size, height: n * size, class: "lab-pattern", "aria-hidden": "true" },
    s("path", { d: `M0 0V${n * size}H${n * size}Z`, class: "lab-triangle" }),
    s("rect", { x: 0, y: at * size, width: (at + 1) * size, height: size, class: "lab-at" })
  );
  rows.forEach((row, i) => row.forEach((p, j) => {
    if (p > 0.02) svg.append(s("rect", { x: j * size, y: i * size, width: size, height: size, class: "lab-looks", "fill-opacity": p.toFixed(3), "data-tip": `from ${visibleSpaces(tokens[i] ?? "")} to ${visibleSpaces(tokens[j] ?? "")}: ${percent(p)}` }));
  }));
  return h("div", { class: "lab-head" }, h("p", { class: "prose" }, h("b", { class: "mono" }, head2), " from ", code(tokens[at] ?? ""), ": ", ...words2, "."), svg);
}
function noLab() {
  return h("p", { class: "prose muted" }, "This model does not travel in the page. ", h("code", {}, "gossamer show RUN --serve"), " runs it on your machine and answers prompts here.");
}
function lab(index, store, engine) {
  const { bundle } = index;
  const examples = bundle.task.examples;
  const first = examples[0];
  let text = first?.clean ?? "";
  let candidates = [first?.answer ?? "", first?.wrong_answer ?? ""];
  const history = new History();
  let answer = null;
  let answered = null;
  let before = null;
  let bare = null;
  let at = null;
  let touched = false;
  let lastKept;
  let asked = 0;
  let flip = null;
  let told = 0;
  const prompt = h("textarea", { class: "lab-prompt", rows: 2, spellcheck: "false", autocomplete: "off", autocapitalize: "off", "aria-label": "Prompt" });
  const error = h("p", { class: "lab-error", role: "alert", hidden: true });
  const tokens = h("div", { class: "lab-tokens", role: "radiogroup", "aria-label": "Tokens of the prompt; choose the one that is looked at" });
  const shares = h("div", { class: "lab-shares" });
  const heard = h("p", { class: "sr", "aria-live": "polite" });
  const next = h("div", {});
  const noted = h("p", { class: "muted lab-about" });
  const topTen = h("div", {});
  const suggestion = h("div", { class: "lab-suggestion", hidden: true });
  const insides = h("div", { class: "lab-insides" });
  const done = h("ol", { class: "lab-done", "aria-label": "What is done to the model" });
  const question = (interventions) => ({ text, candidates, interventions });
  const untouched = JSON.stringify(question([]));
  const keep2 = () => {
    if (!touched) return;
    const now = JSON.stringify(question(history.now));
    const { [KEPT2]: _, ...rest } = store.get().kept;
    lastKept = now === untouched ? void 0 : now;
    store.set({ kept: lastKept === void 0 ? rest : { ...rest, [KEPT2]: lastKept } });
  };
  const ask = async () => {
    const mine = ++asked;
    const own = question(history.now);
    const plain = question([]);
    try {
      const found2 = await engine.ask(own);
      if (!own.interventions.length) bare = { to: JSON.stringify(plain), answer: found2 };
      else if (bare?.to !== JSON.stringify(plain)) bare = { to: JSON.stringify(plain), answer: await engine.ask(plain) };
      if (mine !== asked) return;
      [answer, answered, before] = [found2, own, own.interventions.length ? bare.answer : null];
      error.hidden = true;
      if (at !== null && at >= found2.tokens.length) at = null;
      show();
    } catch (problem) {
      if (mine !== asked) return;
      error.textContent = problem instanceof Error ? problem.message : String(problem);
      error.hidden = false;
      root.classList.add("stale");
    }
  };
  let timer = 0;
  const soon2 = () => {
    window.clearTimeout(timer);
    timer = window.setTimeout(() => void ask(), PAUSE[engine.where]);
  };
  const changed2 = () => {
    touched = true;
    drawDone();
    keep2();
    void ask();
  };
  const moved = () => {
    changed2();
    drawValue();
  };
  const where = () => at ?? (answer ? answer.tokens.length - 1 : 0);
  const show = () => {
    if (!answer) return;
    root.classList.remove("stale");
    const pair = candidates;
    shares.replaceChildren(shareRow("model", answer.model, before?.model ?? null, pair), shareRow("circuit", answer.circuit, before?.circuit ?? null, pair));
    heard.textContent = `The model gives ${visible(pair[0])} ${percent(share(answer.model))} of the two, the circuit ${percent(share(answer.circuit))}.`;
    const [asked2, ten] = nextTokens(answer, before, pair);
    next.replaceChildren(asked2);
    topTen.replaceChildren(ten);
    noted.textContent = answer.note ? `${sentence(answer.note)}.` : "";
    noted.hidden = !answer.note;
    drawTokens();
    void drawSuggestion();
    lightUp();
    if (deep.open) drawInsides();
  };
  const lightUp = () => {
    if (!touched || !answer?.circuit.traces.length || !lights.checked) return store.set({ lit: null });
    store.set({ lit: lightOf(index, answer.circuit, where()) });
  };
  const look = (t, focus = false) => {
    at = t;
    touched = true;
    drawTokens();
    lightUp();
    if (deep.open) drawInsides();
    if (focus) tokens.children[where()]?.focus();
  };
  const drawTokens = () => {
    if (!answer) return;
    const here = where();
    const held = tokens.matches(":focus-within");
    tokens.replaceChildren(...answer.tokens.map((token, t) => {
      const one = h("button", { type: "button", class: `lab-token${t === 0 && token.startsWith("<|") ? " given" : ""}`, role: "radio", "aria-checked": String(t === here), tabindex: t === here ? 0 : -1, "data-tip": `token ${t}` }, visibleSpaces(token));
      one.addEventListener("click", () => look(t, true));
      return one;
    }));
    if (held) tokens.children[here]?.focus();
  };
  tokens.addEventListener("keydown", (event) => {
    const last = (answer?.tokens.length ?? 1) - 1;
    const to = { ArrowRight: where() + 1, ArrowLeft: where() - 1, Home: 0, End: last }[event.key];
    if (to === void 0) return;
    event.preventDefault();
    look(Math.min(last, Math.max(0, to)), true);
  });
  const which = h("select", { "aria-label": "Whose activations" }, h("option", { value: "circuit" }, "in the circuit"), h("option", { value: "model" }, "in the whole model"));
  let everyNode = false;
  const drawInsides = () => {
    if (!answer) return;
    const reading = answer[which.value];
    const here = where();
    const words2 = answer.tokens;
    const traces = everyNode ? reading.traces : reading.traces.slice(0, NODES_AT_FIRST);
    const rows = traces.map(({ site, values }) => {
      const open = button(site, () => store.set({ selected: site }), void 0, "site");
      const mean = index.nodes.get(site)?.mean ?? null;
      return h(
        "tr",
        {},
        h("th", { scope: "row" }, open),
        h("td", { class: "figure-cell" }, num(values[here] ?? 0)),
        h("td", { class: "figure-cell muted" }, mean === null ? "" : num(mean)),
        h("td", {}, strip(values, words2, here))
      );
    });
    const rest = reading.traces.length - traces.length;
    insides.replaceChildren(
      h(
        "div",
        { class: "lab-traces", hidden: !reading.traces.length },
        h(
          "table",
          {},
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "node"), h("th", { scope: "col", class: "figure-cell" }, "at ", code(words2[here] ?? "")), h("th", { scope: "col", class: "figure-cell" }, "mean"), h("th", { scope: "col" }, "at every token"))),
          h("tbody", {}, ...rows)
        ),
        rest > 0 ? button(`${rest} more`, () => {
          everyNode = true;
          drawInsides();
        }, void 0, "more") : null
      ),
      h(
        "div",
        { class: "lab-heads" },
        ...reading.patterns.map(({ head: head2, rows: looks }) => headView(head2, looks, words2, here)),
        reading.patterns.length ? null : h("p", { class: "prose muted" }, answer.note.includes("attention") ? sentence(answer.note) : "The circuit has no attention channel.")
      )
    );
  };
  which.addEventListener("change", drawInsides);
  const deep = h("details", { class: "lab-deep" }, h("summary", {}, "Activations and attention, token by token"), which, insides);
  deep.addEventListener("toggle", () => {
    if (deep.open) drawInsides();
  });
  const step = (text2, run, then) => {
    const own = button(text2, () => {
      run();
      moved();
      if (own.disabled) then().focus();
    });
    return own;
  };
  const undo = step("Undo", () => history.undo(), () => redo);
  const redo = step("Redo", () => history.redo(), () => undo);
  const clear = step("Undo all", () => history.push([]), () => undo);
  const drawDone = () => {
    undo.disabled = !history.canUndo;
    redo.disabled = !history.canRedo;
    clear.disabled = !history.now.length;
    done.replaceChildren(...history.now.map((one, i) => {
      const words2 = sayIntervention(one, index);
      const takeBack = button("×", () => {
        history.push(history.now.filter((_, n) => n !== i));
        moved();
        const left = done.querySelectorAll(".close");
        (left[Math.min(i, left.length - 1)] ?? undo).focus();
      }, `Take back: ${words2}`, "close");
      return h("li", {}, h("span", {}, words2), takeBack);
    }));
    done.hidden = !history.now.length;
  };
  const nodeSelect = h("select", { class: "mono", "aria-label": "Node" });
  const groups = /* @__PURE__ */ new Map();
  for (const node of bundle.circuit.nodes) {
    const place = bundle.grain === "head" ? node.layer === null ? "the two ends" : `layer ${node.layer}` : node.location;
    const group = groups.get(place) ?? h("optgroup", { label: place });
    groups.set(place, group);
    group.append(h("option", { value: node.site }, node.site));
  }
  nodeSelect.append(...groups.values());
  const number = h("input", { type: "number", step: "any", class: "lab-number-in", "aria-label": "Value to clamp the node to" });
  const slide = h("input", { type: "range", step: "any", "aria-label": "Value to clamp the node to, as a slider" });
  const about = h("p", { class: "muted lab-about" });
  const cutSelect = h("select", { class: "mono", "aria-label": "Edge to cut" });
  const ablate = button("Ablate", () => {
    history.push([...without(nodeSelect.value), { ...BLANK, kind: "ablate", site: nodeSelect.value }]);
    moved();
  });
  const clampTo = button("Clamp to", () => clamp(true));
  const cut = button("Cut", () => {
    const edge = edgesOf(nodeSelect.value)[Number(cutSelect.value)];
    if (!edge) return;
    const { src, dst, matrix } = edge;
    history.push([...history.now.filter((one) => one.src !== src || one.dst !== dst || one.matrix !== matrix), { ...BLANK, kind: "cut", src, dst, matrix }]);
    changed2();
  });
  const edgesOf = (site) => [...index.fedBy(site), ...index.feeds(site)].flatMap((link) => link.edge ? [link.edge] : []);
  const without = (site) => history.now.filter((one) => one.site !== site);
  const clamp = (settled) => {
    const value = number.valueAsNumber;
    if (!Number.isFinite(value)) {
      error.textContent = "Expected a number to clamp the node to.";
      error.hidden = false;
      return;
    }
    const wanted = [...without(nodeSelect.value), { ...BLANK, kind: "clamp", site: nodeSelect.value, value }];
    if (settled) history.push(wanted);
    else history.preview(wanted);
    changed2();
  };
  slide.addEventListener("input", () => {
    number.value = String(Number(Number(slide.value).toPrecision(4)));
    clamp(false);
  });
  slide.addEventListener("change", () => clamp(true));
  number.addEventListener("keydown", (event) => {
    if (event.key === "Enter") clamp(true);
  });
  for (const control of [clampTo, number, slide]) control.hidden = bundle.grain === "head";
  const drawValue = () => {
    const node = index.nodes.get(nodeSelect.value);
    if (!node) return;
    const [lo, hi] = valueRange(node, answer);
    [slide.min, slide.max] = [String(lo), String(hi)];
    const held = history.now.find((one) => one.site === node.site && one.kind === "clamp")?.value;
    number.value = String(Number((held ?? node.mean ?? 0).toPrecision(4)));
    slide.value = number.value;
  };
  const drawNode = () => {
    const node = index.nodes.get(nodeSelect.value);
    if (!node) return;
    drawValue();
    about.textContent = `${describe(node)}${node.mean === null ? "" : `; its mean over text is ${num(node.mean)}`}`;
    const edges = edgesOf(node.site);
    cutSelect.replaceChildren(...edges.map((edge, i) => h("option", { value: i }, sayEdge(edge.src, edge.dst, edge.matrix, index))));
    cutSelect.disabled = cut.disabled = !edges.length;
  };
  nodeSelect.addEventListener("change", () => {
    drawNode();
    store.set({ selected: nodeSelect.value });
  });
  const claim = h("span", { class: "muted" });
  const go = button("", () => {
    if (!flip || !answer || !answered) return;
    history.push(flipped(flip, answer, answered).wanted);
    nodeSelect.value = flip.site;
    drawNode();
    store.set({ selected: flip.site });
    changed2();
    undo.focus();
  }, void 0, "tool lab-flip");
  const flipped = ({ site, candidates: [own], toFirst, toSecond }, now, of) => {
    const to = share(now.model) >= 0.5 === (of.candidates[0] === own) ? toSecond : toFirst;
    return { to, wanted: [...without(site), { ...BLANK, kind: "clamp", site, value: to.value }] };
  };
  const drawSuggestion = async () => {
    const mine = ++told;
    const [now, question2] = [answer, answered];
    const inOrder = (two2) => JSON.stringify([...two2].sort());
    if (!flip || !now || !question2 || inOrder(flip.candidates) !== inOrder(question2.candidates) || history.now.some((one) => one.site === flip?.site)) {
      suggestion.hidden = true;
      return;
    }
    const { to, wanted } = flipped(flip, now, question2);
    go.textContent = `Clamp ${flip.site} to ${num(to.value, 3)}`;
    claim.textContent = "";
    await new Promise((rested) => window.setTimeout(rested, 0));
    if (mine !== told) return;
    const then = await engine.ask({ ...question2, interventions: wanted }).catch(() => now);
    if (mine !== told) return;
    const turned = ["model", "circuit"].filter((part2) => share(now[part2]) >= 0.5 !== share(then[part2]) >= 0.5);
    const what = turned.length === 2 ? "the answer flips, the model's and the circuit's" : `the ${turned[0]}'s answer flips, the ${turned[0] === "model" ? "circuit" : "model"}'s does not`;
    claim.textContent = ` (what it is at ${visible(to.token)} in a prompt of the other answer): ${what}.`;
    suggestion.hidden = !turned.length;
  };
  const save2 = button("Save as recipe", () => {
    const link = h("a", { download: "recipe.json", href: URL.createObjectURL(new Blob([JSON.stringify(question(history.now), null, 1)], { type: "application/json" })) });
    link.click();
    window.setTimeout(() => URL.revokeObjectURL(link.href), 1e3);
  });
  const file = h("input", { type: "file", accept: "application/json,.json", class: "sr", tabindex: -1, "aria-label": "Recipe to load" });
  const load = button("Load recipe", () => file.click());
  const restore = (raw) => {
    const found2 = asQuestion(raw);
    text = found2.text;
    candidates = [found2.candidates[0] ?? candidates[0], found2.candidates[1] ?? candidates[1]];
    prompt.value = text;
    drawCandidates();
    history.push(found2.interventions);
    drawNode();
    changed2();
  };
  const restoreKept = (raw) => {
    try {
      if (!sameQuestion(raw, question(history.now))) restore(raw);
      return asked > 0;
    } catch {
      return false;
    }
  };
  file.addEventListener("change", () => {
    const chosen = file.files?.[0];
    if (!chosen) return;
    chosen.text().then(restore).catch((problem) => {
      error.textContent = problem instanceof Error ? problem.message : String(problem);
      error.hidden = false;
    });
    file.value = "";
  });
  const two = [0, 1].map((i) => {
    const field = h("input", { type: "text", class: "lab-candidate mono", spellcheck: "false", autocomplete: "off", "aria-label": i ? "Against this next token" : "This next token" });
    field.addEventListener("input", () => {
      candidates = i ? [candidates[0], field.value] : [field.value, candidates[1]];
      touched = true;
      keep2();
      soon2();
    });
    return field;
  });
  const drawCandidates = () => two.forEach((field, i) => field.value = candidates[i] ?? "");
  prompt.addEventListener("input", () => {
    text = prompt.value;
    at = null;
    touched = true;
    keep2();
    soon2();
  });
  const pick = h(
    "select",
    { class: "lab-pick", "aria-label": "Examples of the task" },
    h("option", { value: "" }, "Examples of the task …"),
    ...examples.flatMap((pair, i) => [h("option", { value: `${i} 0` }, visible(pair.clean)), h("option", { value: `${i} 1` }, visible(pair.counterfactual))])
  );
  pick.addEventListener("change", () => {
    const [i, side] = pick.value.split(" ").map(Number);
    const pair = examples[i ?? -1];
    if (!pair) return;
    text = side ? pair.counterfactual : pair.clean;
    candidates = [pair.answer, pair.wrong_answer];
    prompt.value = text;
    at = null;
    pick.value = "";
    drawCandidates();
    changed2();
  });
  const lights = h("input", { type: "checkbox", checked: true });
  lights.addEventListener("change", lightUp);
  const root = h(
    "div",
    { class: "lab" },
    h(
      "div",
      { class: "lab-grid" },
      h(
        "div",
        { class: "lab-left" },
        prompt,
        h(
          "div",
          { class: "lab-row" },
          pick,
          h("span", { class: "muted" }, "compare"),
          two[0],
          h("span", { class: "muted" }, "with"),
          two[1]
        ),
        error,
        tokens,
        suggestion,
        h(
          "fieldset",
          { class: "lab-do" },
          h("legend", {}, "Intervene, in the model and in the circuit, at every token"),
          h("div", { class: "lab-row" }, nodeSelect, ablate, clampTo, number, slide),
          about,
          h("div", { class: "lab-row" }, cutSelect, cut)
        ),
        done,
        h("div", { class: "lab-row" }, undo, redo, clear, save2, load, file, bundle.grain === "channel" ? h("label", { class: "muted lab-lights" }, lights, " light up the figure") : "")
      ),
      h(
        "div",
        { class: "lab-right" },
        h("h3", {}, "Between the two", h("span", { class: "aside" }, "a coin has 50 %")),
        shares,
        heard,
        h("h3", {}, "Among all tokens", h("span", { class: "aside" }, `evenly spread, each has ${percent(1 / bundle.model.vocab_size)}`)),
        next,
        h("details", { class: "lab-ten" }, h("summary", { class: "muted" }, "The ten most probable next tokens of each"), topTen),
        h(
          "p",
          { class: "muted lab-about" },
          `Outside the circuit ${bundle.grain === "head" ? "every edge is ablated" : "everything is at its mean"}: it is made to tell the two apart, and says little about other tokens.`,
          bundle.circuit.calibration ? " Its two candidates are calibrated." : ""
        ),
        noted
      )
    ),
    deep
  );
  store.listen((now, was) => {
    if (now.selected !== was.selected && now.selected && index.nodes.has(now.selected) && nodeSelect.value !== now.selected) {
      nodeSelect.value = now.selected;
      drawNode();
    }
    const kept = now.kept[KEPT2];
    if (kept !== was.kept[KEPT2] && kept !== lastKept) restoreKept(kept ?? untouched);
  });
  prompt.value = text;
  drawCandidates();
  drawDone();
  nodeSelect.value = index.ranked[0]?.site ?? nodeSelect.value;
  drawNode();
  const start = () => {
    const kept = store.get().kept[KEPT2];
    if (kept === void 0 || !restoreKept(kept)) void ask();
    if (engine.where !== "page") return;
    void findFlip(index, engine, examples).then((found2) => {
      flip = found2;
      if (found2) suggestion.append(h("span", { class: "muted" }, "Try: "), go, claim);
      void drawSuggestion();
    }).catch(() => void 0);
  };
  window.setTimeout(start, 0);
  return root;
}

// src/sparse_model.ts
var EPS = 2 ** -23;
var KINDS = { float32: Float32Array, int32: Int32Array, uint32: Uint32Array, uint16: Uint16Array, uint8: Uint8Array, int8: Int8Array };
function unpacked(array) {
  const text = atob(array.base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return new KINDS[array.dtype](bytes.buffer);
}
function ofDense(full, rows, columns) {
  const start = new Int32Array(rows + 1);
  const column = [];
  const value = [];
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const entry = full[r * columns + c];
      if (entry !== 0) {
        column.push(c);
        value.push(entry);
      }
    }
    start[r + 1] = column.length;
  }
  return { rows, columns, start, column: Int32Array.from(column), value: Float32Array.from(value) };
}
var Arrays = class {
  constructor(arrays) {
    this.found = new Map(arrays.map((array) => [array.name, array]));
  }
  vector(name) {
    const array = this.found.get(name);
    return array ? unpacked(array) : null;
  }
  needed(name) {
    const array = this.vector(name);
    if (!array) throw new Error(`The model in this page lacks ${name}.`);
    return array;
  }
  matrix(name, columns) {
    const counts = this.found.get(`${name}.row_counts`);
    if (!counts) {
      const full = this.needed(name);
      return ofDense(full, full.length / columns, columns);
    }
    const start = new Int32Array(counts.shape[0] + 1);
    unpacked(counts).forEach((n, r) => start[r + 1] = start[r] + n);
    const column = Int32Array.from(unpacked(this.found.get(`${name}.columns`)));
    return { rows: start.length - 1, columns, start, column, value: this.needed(`${name}.values`) };
  }
  /** Rows of whole numbers times a power of two (models/quantise.py), or of plain numbers. */
  rounded(name, columns) {
    const codes = this.found.get(`${name}.codes`);
    if (codes) {
      const [whole, exponent] = [unpacked(codes), unpacked(this.found.get(`${name}.exponents`))];
      return (row) => Float32Array.from(whole.subarray(row * columns, (row + 1) * columns), (code2) => code2 * 2 ** exponent[row]);
    }
    if (!this.found.has(name) && !this.found.has(`${name}.row_counts`)) return null;
    const table2 = this.matrix(name, columns);
    return (row) => rowOf(table2, row);
  }
};
function rowOf(matrix, row) {
  const out = new Float32Array(matrix.columns);
  for (let e = matrix.start[row]; e < matrix.start[row + 1]; e++) out[matrix.column[e]] = matrix.value[e];
  return out;
}
function linear({ weight, bias }, x, pos, from = 0, to = weight.rows) {
  const { columns, start, column, value } = weight;
  const width = to - from;
  const out = new Float32Array(pos * width);
  for (let t = 0; t < pos; t++) {
    const base = t * columns;
    for (let r = from; r < to; r++) {
      let sum = 0;
      for (let e = start[r]; e < start[r + 1]; e++) sum += value[e] * x[base + column[e]];
      out[t * width + r - from] = sum + (bias ? bias[r] : 0);
    }
  }
  return out;
}
function nth(list, n) {
  let [lo, hi] = [0, list.length - 1];
  while (lo < hi) {
    const pivot = list[lo + hi >> 1];
    let [i, j] = [lo, hi];
    while (i <= j) {
      while (list[i] < pivot) i++;
      while (list[j] > pivot) j--;
      if (i > j) break;
      const held = list[i];
      list[i++] = list[j];
      list[j--] = held;
    }
    if (n <= j) hi = j;
    else if (n >= i) lo = i;
    else break;
  }
  return list[n];
}
function keepLargest(x, width, k) {
  if (k >= width) return;
  const size = new Float32Array(width);
  for (let base = 0; base < x.length; base += width) {
    for (let i = 0; i < width; i++) size[i] = Math.abs(x[base + i]);
    const threshold = nth(size, width - k);
    let ties = k;
    for (let i = 0; i < width; i++) if (size[i] > threshold) ties--;
    for (let i = 0; i < width; i++) {
      const own = Math.abs(x[base + i]);
      if (own > threshold) continue;
      if (own === threshold && ties > 0) ties--;
      else x[base + i] = 0;
    }
  }
}
function normed(x, width, gain) {
  const out = new Float32Array(x.length);
  for (let base = 0; base < x.length; base += width) {
    let square = 0;
    for (let i = 0; i < width; i++) square += x[base + i] ** 2;
    const scale = 1 / Math.sqrt(square / width + EPS);
    for (let i = 0; i < width; i++) out[base + i] = x[base + i] * scale * gain[i];
  }
  return out;
}
function erf(x) {
  if (x > 6) return 1;
  let term = x;
  let sum = x;
  for (let n = 1; term > sum * 1e-17; n++) {
    term *= 2 * x * x / (2 * n + 1);
    sum += term;
  }
  return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
}
function gelu(x) {
  const part2 = erf(Math.abs(x) / Math.SQRT2);
  return 0.5 * x * (x < 0 ? 1 - part2 : 1 + part2);
}
var SparseModel = class {
  constructor(page) {
    /** Reference means by location, in the order of the forward pass. */
    this.means = /* @__PURE__ */ new Map();
    this.linears = /* @__PURE__ */ new Map();
    this.vectors = /* @__PURE__ */ new Map();
    const c = page.config;
    const arrays = new Arrays(page.arrays);
    this.config = c;
    this.embedding = arrays.matrix("wte.weight", c.d_model);
    this.positions = c.position === "none" ? null : arrays.matrix("wpe.weight", c.d_pos || c.d_model);
    this.unembedding = { weight: arrays.matrix("lm_head.weight", c.d_model), bias: arrays.vector("final_logits_bias") };
    this.bigram = arrays.rounded("bigram_table", c.vocab_size);
    const [wide, attn] = [c.d_model + c.d_pos, c.n_head * c.d_head];
    for (let i = 0; i < c.n_layer; i++) {
      for (const [name, columns] of [["attn.c_attn", wide], ["attn.c_proj", attn], ["mlp.c_fc", wide], ["mlp.c_proj", c.d_mlp]]) {
        this.linears.set(`${i}.${name}`, { weight: arrays.matrix(`h.${i}.${name}.weight`, columns), bias: arrays.vector(`h.${i}.${name}.bias`) });
      }
      for (const name of ["ln_1", "ln_2", ...c.d_pos ? ["ln_p1", "ln_p2"] : []]) this.vectors.set(`${i}.${name}`, arrays.needed(`h.${i}.${name}.weight`));
      const sink = arrays.vector(`h.${i}.attn.sink_logit`);
      if (sink) this.vectors.set(`${i}.sink`, sink);
    }
    this.vectors.set("ln_f", arrays.needed("ln_f.weight"));
    for (const { name } of page.arrays) if (name.startsWith("mean.")) this.means.set(name.slice(5), arrays.needed(name));
  }
  /** (matrix holding it, its first row) of a matrix that counts in edges, and the location it reads. */
  holder(matrix) {
    const [layer, block, weight, part2] = matrix.split(".");
    const source = weight === "c_proj" ? block === "attn" ? "attn.v" : "mlp.post_act" : `${block}.act_in`;
    const first = part2 ? "qkv".indexOf(part2) * this.config.n_head * this.config.d_head : 0;
    return { name: `${layer}.${block}.${weight}`, first, source: `${layer}.${source}` };
  }
  entry(name, row, column) {
    const weight = this.linears.get(name)?.weight;
    if (!weight || row < 0 || row >= weight.rows) return -1;
    for (let e = weight.start[row]; e < weight.start[row + 1]; e++) if (weight.column[e] === column) return e;
    return -1;
  }
  /** Whether a matrix has a non-zero entry there. */
  has({ matrix, row, column }) {
    const { name, first } = this.holder(matrix);
    return this.entry(name, first + row, column) >= 0;
  }
  /** Every non-zero (row, column) of a matrix that counts in edges. */
  *entries(matrix) {
    const { name, first } = this.holder(matrix);
    const weight = this.linears.get(name).weight;
    const rows = matrix.includes("c_attn") ? this.config.n_head * this.config.d_head : weight.rows;
    for (let r = 0; r < rows; r++) {
      for (let e = weight.start[first + r]; e < weight.start[first + r + 1]; e++) yield [r, weight.column[e]];
    }
  }
  /** The matrices with these entries moved, times the mean of their source, into the bias. */
  without(cuts) {
    const linears = new Map(this.linears);
    for (const { matrix, row, column } of cuts) {
      const { name, first, source } = this.holder(matrix);
      const at = this.entry(name, first + row, column);
      let own = linears.get(name);
      if (own === this.linears.get(name)) {
        own = { weight: { ...own.weight, value: own.weight.value.slice() }, bias: own.bias.slice() };
        linears.set(name, own);
      }
      const bias = own.bias;
      bias[first + row] = bias[first + row] + own.weight.value[at] * this.means.get(source)[column];
      own.weight.value[at] = 0;
    }
    return linears;
  }
  /** The forward pass of one prompt's tokens. Each edge may be cut once. */
  run(tokens, edit, cuts = []) {
    const c = this.config;
    const pos = tokens.length;
    const linears = this.without(cuts);
    const reads = /* @__PURE__ */ new Map();
    const at = (location, x2) => {
      edit(location, x2);
      reads.set(location, x2);
      return x2;
    };
    const weights = (name) => linears.get(name);
    const kept = (place) => c.kept[place];
    const write = (x2, name, place, from) => {
      const d = linear(weights(name), from, pos);
      keepLargest(d, c.d_model, kept(place));
      at(name.replace("c_proj", "resid_delta"), d);
      for (let i = 0; i < x2.length; i++) x2[i] = x2[i] + d[i];
    };
    const { x, where } = this.embed(tokens);
    for (let i = 0; i < c.n_layer; i++) {
      let a = at(`${i}.attn.act_in`, this.read(`${i}.ln_`, "1", x, where, kept("attn_in")));
      const width = c.n_head * c.d_head;
      const [q, k, v] = ["q", "k", "v"].map((part2, n) => {
        const y = linear(weights(`${i}.attn.c_attn`), a, pos, n * width, (n + 1) * width);
        keepLargest(y, width, kept(`attn_${part2}`));
        return at(`${i}.attn.${part2}`, y);
      });
      write(x, `${i}.attn.c_proj`, "attn_out", this.attend(i, q, k, v, pos));
      a = at(`${i}.mlp.act_in`, this.read(`${i}.ln_`, "2", x, where, kept("mlp_in")));
      const hidden = linear(weights(`${i}.mlp.c_fc`), a, pos);
      for (let n = 0; n < hidden.length; n++) hidden[n] = c.activation === "gelu" ? gelu(hidden[n]) : Math.max(0, hidden[n]);
      keepLargest(hidden, c.d_mlp, kept("mlp_neuron"));
      write(x, `${i}.mlp.c_proj`, "mlp_out", at(`${i}.mlp.post_act`, hidden));
    }
    at("final_resid", x);
    const last = normed(x.subarray((pos - 1) * c.d_model), c.d_model, this.vectors.get("ln_f"));
    const logits = linear(this.unembedding, last, 1);
    const next = this.bigram?.(tokens[pos - 1]);
    if (next) for (let n = 0; n < logits.length; n++) logits[n] = logits[n] + next[n];
    return { logits, reads };
  }
  embed(tokens) {
    const { d_model, d_pos, position } = this.config;
    const x = new Float32Array(tokens.length * d_model);
    tokens.forEach((token, t) => x.set(rowOf(this.embedding, token), t * d_model));
    if (!this.positions) return { x, where: null };
    const where = new Float32Array(tokens.length * this.positions.columns);
    tokens.forEach((_, t) => where.set(rowOf(this.positions, t), t * (d_pos || d_model)));
    if (position === "channels") return { x, where };
    return { x: x.map((own, n) => own + where[n]), where: null };
  }
  /** What a sublayer reads: the normalised residual and, where there are any, positional channels after it; AbsTopK of all. */
  read(norm, sub, x, where, k) {
    const { d_model, d_pos } = this.config;
    let a = normed(x, d_model, this.vectors.get(norm + sub));
    if (where) {
      const place = normed(where, d_pos, this.vectors.get(`${norm}p${sub}`));
      const both = new Float32Array(a.length + place.length);
      for (let t = 0; t * d_model < a.length; t++) {
        both.set(a.subarray(t * d_model, (t + 1) * d_model), t * (d_model + d_pos));
        both.set(place.subarray(t * d_pos, (t + 1) * d_pos), t * (d_model + d_pos) + d_model);
      }
      a = both;
    }
    keepLargest(a, d_model + d_pos, k);
    return a;
  }
  /** Where a head looks from token t: weights on tokens 0 to t. What they lack of 1 is on the sink. */
  looks(layer, head2, q, k, t) {
    const { n_head, d_head } = this.config;
    const width = n_head * d_head;
    const sink = this.vectors.get(`${layer}.sink`)?.[head2];
    const row = new Float64Array(t + 1);
    let largest = sink ?? -Infinity;
    for (let s2 = 0; s2 <= t; s2++) {
      let score = 0;
      for (let d = head2 * d_head; d < (head2 + 1) * d_head; d++) score += q[t * width + d] * k[s2 * width + d];
      row[s2] = score / Math.sqrt(d_head);
      largest = Math.max(largest, row[s2]);
    }
    let total = sink === void 0 ? 0 : Math.exp(sink - largest);
    for (let s2 = 0; s2 <= t; s2++) total += row[s2] = Math.exp(row[s2] - largest);
    for (let s2 = 0; s2 <= t; s2++) row[s2] = row[s2] / total;
    return row;
  }
  attend(layer, q, k, v, pos) {
    const { n_head, d_head } = this.config;
    const width = n_head * d_head;
    const out = new Float32Array(pos * width);
    const sum = new Float64Array(d_head);
    for (let head2 = 0; head2 < n_head; head2++) {
      for (let t = 0; t < pos; t++) {
        const row = this.looks(layer, head2, q, k, t);
        sum.fill(0);
        for (let s2 = 0; s2 <= t; s2++) for (let d = 0; d < d_head; d++) sum[d] = sum[d] + row[s2] * v[s2 * width + head2 * d_head + d];
        out.set(sum, t * width + head2 * d_head);
      }
    }
    return out;
  }
};

// src/page_engine.ts
var TOP2 = 10;
var LARGEST_CLAMP = 1e6;
function parse(site) {
  const found2 = /^(.+):(\d+)$/.exec(site ?? "");
  return found2 ? { location: found2[1], index: Number(found2[2]) } : null;
}
var key = (edge) => `${edge.matrix} ${edge.row} ${edge.column}`;
var PageEngine = class {
  constructor(page, circuit) {
    this.circuit = circuit;
    /** By location, 1 where the node is in the circuit. */
    this.kept = /* @__PURE__ */ new Map();
    /** Weights between two nodes of the circuit that are none of its edges. */
    this.cutAlways = [];
    this.model = new SparseModel(page);
    this.tokenizer = new Tokenizer(page.tokenizer);
    for (const [location, mean] of this.model.means) this.kept.set(location, new Uint8Array(mean.length));
    for (const node of circuit.nodes) this.kept.get(node.location)[node.index] = 1;
    const edges = new Set(circuit.edges.map((e) => key(this.edge(e.src, e.dst, e.matrix))));
    const matrices = new Map(this.matrices());
    for (const [matrix, [source, destination]] of matrices) {
      const [from, to] = [this.kept.get(source), this.kept.get(destination)];
      if (!from.includes(1) || !to.includes(1)) continue;
      for (const [row, column] of this.model.entries(matrix)) {
        const cut = { matrix, row, column };
        if (to[row] && from[column] && !edges.has(key(cut))) this.cutAlways.push(cut);
      }
    }
    const heads = circuit.nodes.flatMap((node) => node.head === null ? [] : [`${node.layer} ${node.head}`]);
    this.heads = [...new Set(heads)].map((text) => text.split(" ").map(Number)).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  }
  *matrices() {
    for (let i = 0; i < this.model.config.n_layer; i++) {
      for (const part2 of ["q", "k", "v"]) yield [`${i}.attn.c_attn.${part2}`, [`${i}.attn.act_in`, `${i}.attn.${part2}`]];
      yield [`${i}.attn.c_proj`, [`${i}.attn.v`, `${i}.attn.resid_delta`]];
      yield [`${i}.mlp.c_fc`, [`${i}.mlp.act_in`, `${i}.mlp.post_act`]];
      yield [`${i}.mlp.c_proj`, [`${i}.mlp.post_act`, `${i}.mlp.resid_delta`]];
    }
  }
  async tokenize(text) {
    return this.tokenizer.encode(text).map((id) => this.tokenizer.decode(id));
  }
  async ask(question) {
    const problems = [];
    const tokens = [...this.tokenizer.bos === null ? [] : [this.tokenizer.bos], ...this.tokenizer.encode(question.text)];
    const most = this.model.config.n_ctx;
    if (!tokens.length) problems.push("Expected a prompt of at least one token, got none");
    if (tokens.length > most) problems.push(`Expected a prompt of at most ${most} tokens, got ${tokens.length}`);
    const merged = [];
    const wanted = question.candidates.map((text) => this.candidate(question.text, text, problems, merged));
    const values = /* @__PURE__ */ new Map();
    const cuts = [];
    for (const change2 of question.interventions) {
      const problem = this.take(change2, values, cuts);
      if (problem) problems.push(problem);
    }
    if (problems.length) throw new Error(`${problems.join("; ")}.`);
    const change = (location, x) => {
      const width = this.model.means.get(location).length;
      for (const [channel, value] of values.get(location) ?? []) for (let i = channel; i < x.length; i += width) x[i] = value;
    };
    const own = this.model.run(tokens, change, distinct(cuts));
    const alone = this.model.run(tokens, (location, x) => {
      this.ablate(location, x);
      change(location, x);
    }, distinct([...this.cutAlways, ...cuts]));
    return {
      tokens: tokens.map((id) => this.tokenizer.decode(id)),
      model: this.reading(own, wanted, tokens.length, false),
      circuit: this.reading(alone, wanted, tokens.length, true),
      note: merged.length ? `${merged.join(" and ")} would merge with the end of this prompt: asked for is the token it is alone` : ""
    };
  }
  /** The token that a candidate is right after the prompt: see candidate_tokens of gossamer/explain/live.py. */
  candidate(prompt, text, problems, merged) {
    const [before, both] = [this.tokenizer.encode(prompt), this.tokenizer.encode(prompt + text)];
    const merges = before.some((id, i) => both[i] !== id);
    const own = merges ? this.tokenizer.encode(text) : both.slice(before.length);
    if (own.length !== 1) problems.push(`Expected a candidate of one token after the prompt, ${JSON.stringify(text)} is ${own.length}`);
    else if (merges) merged.push(text);
    return own[0] ?? 0;
  }
  /** What is outside the circuit becomes its reference mean. */
  ablate(location, x) {
    const [kept, mean] = [this.kept.get(location), this.model.means.get(location)];
    for (let i = 0; i < x.length; i++) if (!kept[i % kept.length]) x[i] = mean[i % kept.length];
  }
  edge(src, dst, matrix) {
    const [from, to] = [parse(src), parse(dst)];
    const ends = [...this.matrices()].find(([name]) => name === matrix)?.[1];
    if (!from || !to || !ends || ends[0] !== from.location || ends[1] !== to.location) return null;
    const cut = { matrix, row: to.index, column: from.index };
    return to.index < this.model.means.get(to.location).length && this.model.has(cut) ? cut : null;
  }
  /** Adds an intervention to what is changed; returns what is wrong with it. */
  take(change, values, cuts) {
    if (change.kind === "cut") {
      const cut = this.edge(change.src, change.dst, change.matrix);
      if (!cut) return `Expected an edge of this model, got ${change.src} to ${change.dst} through ${change.matrix}`;
      if (!this.model.config.bias) return "A model without biases has no place for what a cut edge is replaced by; ablate nodes";
      cuts.push(cut);
      return null;
    }
    const site = parse(change.site);
    const mean = site && this.model.means.get(site.location)?.[site.index];
    if (!site || mean === void 0 || mean === null) return `Expected a node of this model, got ${change.site}`;
    const value = change.kind === "clamp" ? change.value : mean;
    if (value === null || !(Math.abs(value) <= LARGEST_CLAMP)) return `Expected a number within ${LARGEST_CLAMP.toLocaleString("en")} of 0 to clamp ${change.site} to, got ${value}`;
    const own = values.get(site.location) ?? /* @__PURE__ */ new Map();
    values.set(site.location, own.set(site.index, value));
    return null;
  }
  reading(run, candidates, pos, ofCircuit) {
    const { logits, reads } = run;
    if (!logits.every(Number.isFinite)) throw new Error("Expected finite logits, some are not: an activation has overflowed; make the model again.");
    const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const p = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
    const total = p.reduce((a, b) => a + b, 0);
    for (let i = 0; i < p.length; i++) p[i] = p[i] / total;
    const best = largestOf(p, TOP2);
    let chosen = candidates.map((id) => p[id]);
    const fit = ofCircuit ? this.circuit.calibration : null;
    if (fit && candidates.length === 2) {
      const [a, b] = candidates;
      const z = fit.scale * (logits[a] - logits[b]) + fit.shift;
      const both = chosen[0] + chosen[1];
      chosen = [both / (1 + Math.exp(-z)), both / (1 + Math.exp(z))];
    }
    return {
      top: best.map((id) => ({ token: this.tokenizer.decode(id), id, probability: p[id] })),
      candidates: chosen,
      traces: this.circuit.nodes.map((node) => {
        const x = reads.get(node.location);
        return { site: node.site, values: Array.from({ length: pos }, (_, t) => x[t * x.length / pos + node.index]) };
      }),
      patterns: this.heads.map(([layer, head2]) => {
        const [q, k] = [reads.get(`${layer}.attn.q`), reads.get(`${layer}.attn.k`)];
        return { head: `a${layer}.h${head2}`, rows: Array.from({ length: pos }, (_, t) => Array.from(this.model.looks(layer, head2, q, k, t))) };
      })
    };
  }
};
function largestOf(list, n) {
  const found2 = [];
  list.forEach((value, i) => {
    if (found2.length === n && value <= list[found2[n - 1]]) return;
    const at = found2.findIndex((other) => list[other] < value);
    found2.splice(at < 0 ? found2.length : at, 0, i);
    found2.length = Math.min(found2.length, n);
  });
  return found2;
}
function distinct(cuts) {
  return [...new Map(cuts.map((cut) => [key(cut), cut])).values()];
}
function pageEngine({ live, circuit }) {
  if (!live) return null;
  let made = null;
  const engine = () => made ??= new PageEngine(live, circuit);
  return { where: "page", tokenize: async (text) => engine().tokenize(text), ask: async (question) => engine().ask(question) };
}

// src/record.ts
function isTree(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
function record(value) {
  if (!isTree(value)) return h("span", { class: "mono" }, typeof value === "string" ? value : JSON.stringify(value));
  const list = h("dl", { class: "record" });
  for (const [key2, item2] of Object.entries(value)) {
    list.append(h("dt", {}, key2), h("dd", { class: isTree(item2) ? "tree" : null }, record(item2)));
  }
  return list;
}

// src/search.ts
var AT_MOST = 8;
function nothing({ bundle }) {
  const [first] = bundle.circuit.nodes;
  const site = first ? `a site (${first.site})` : "a site";
  const what = bundle.grain === "head" ? `${site} or a kind (head, MLP, layer 1)` : `${site}, a kind (neuron, value, head 3) or a token that a node reads or promotes`;
  return `No node matches. Search for ${what}.`;
}
function search(index, store, open) {
  const listId = uniqueId("found");
  const what = index.bundle.grain === "head" ? "Find a head, a group or an MLP" : "Find a node or a token";
  const input = h("input", {
    type: "search",
    class: "search",
    placeholder: what,
    "aria-label": what,
    role: "combobox",
    "aria-expanded": "false",
    "aria-controls": listId,
    "aria-autocomplete": "list",
    autocomplete: "off",
    spellcheck: "false"
  });
  const list = h("ul", { class: "results", id: listId, role: "listbox", hidden: true });
  const texts = [...index.nodes.values()].map((node) => ({
    node,
    text: `${node.site} ${describe(node)}`.toLowerCase(),
    tokens: [...node.top_tokens_in, ...node.top_tokens_out].map(([token]) => token.toLowerCase())
  }));
  let active = 0;
  let sites = [];
  const mark = () => {
    [...list.children].forEach((item2, i) => item2.setAttribute("aria-selected", String(i === active)));
    input.setAttribute("aria-activedescendant", list.children[active]?.id ?? "");
  };
  const choose = (site) => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    store.set({ found: null });
    open(site);
  };
  const update = () => {
    const words2 = input.value.toLowerCase().trim().split(/\s+/).filter(Boolean);
    active = 0;
    if (!words2.length) {
      sites = [];
      list.replaceChildren();
      list.hidden = true;
      input.setAttribute("aria-expanded", "false");
      store.set({ found: null });
      return;
    }
    const hits = texts.flatMap(({ node, text, tokens }) => {
      if (words2.every((w) => text.includes(w))) return [{ node, why: describe(node) }];
      const token = tokens.find((t) => words2.every((w) => t.includes(w)));
      return token === void 0 ? [] : [{ node, why: `token ${visibleSpaces(token)}` }];
    });
    sites = hits.map((hit) => hit.node.site);
    list.replaceChildren(...hits.slice(0, AT_MOST).map(({ node, why }) => {
      const item2 = h("li", { role: "option", id: uniqueId("option") }, h("span", { class: "mono" }, node.site), h("span", { class: "muted" }, why));
      item2.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        choose(node.site);
      });
      return item2;
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

// src/style.css
var style_default = '.gossamer {\n  color-scheme: light dark;\n  --paper: light-dark(#fdfdfb, #14161a);\n  --raised: light-dark(#ffffff, #1a1d22);\n  --band: light-dark(#f5f5f1, #1a1d22);\n  --ink: light-dark(#1c1e22, #e9e7e2);\n  --muted: light-dark(#63686f, #9da2a9);\n  --faint: light-dark(#b9bcb8, #50555c);\n  --rule: light-dark(#e3e3dd, #2c3036);\n  --up: light-dark(#2a66ab, #72aef0);\n  --down: light-dark(#c24a1e, #f28b5b);\n  --pass: light-dark(#27704a, #6cc596);\n  --fail: light-dark(#b3221c, #ff7d74);\n  --warn: light-dark(#8a6100, #e0b04a);\n  --focus: light-dark(#111317, #ffffff);\n  --lit: light-dark(#e8a400, #ffc94d);\n  --serif: ui-serif, "Iowan Old Style", Charter, "Source Serif 4", Georgia, "Liberation Serif", "DejaVu Serif", serif;\n  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;\n  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace;\n  box-sizing: border-box;\n  min-height: 100vh;\n  padding: 40px max(28px, calc((100% - 1400px) / 2)) 56px;\n  background: var(--paper);\n  color: var(--ink);\n  font: 14px/1.5 var(--sans);\n  font-variant-numeric: tabular-nums;\n  -webkit-text-size-adjust: 100%;\n}\n.gossamer[data-theme="light"] { color-scheme: light; }\n.gossamer[data-theme="dark"] { color-scheme: dark; }\n.gossamer *, .gossamer *::before { box-sizing: inherit; }\n.gossamer [hidden] { display: none !important; }\n.gossamer .sr { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }\n.gossamer h1, .gossamer h2, .gossamer h3, .gossamer p, .gossamer figure, .gossamer dl, .gossamer dd { margin: 0; }\n.gossamer h1 { font: 400 34px/1.15 var(--serif); letter-spacing: -0.01em; margin: 10px 0 12px; text-wrap: balance; overflow-wrap: anywhere; }\n.gossamer h2 { font: 400 23px/1.25 var(--serif); }\n.gossamer h3 { font: 600 13px/1.4 var(--sans); }\n.gossamer .mono, .gossamer code { font-family: var(--mono); font-size: 0.94em; }\n.gossamer .muted { color: var(--muted); }\n.gossamer .aside { color: var(--muted); font-weight: 400; margin-left: 8px; }\n.gossamer button { font: inherit; color: inherit; }\n.gossamer :focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; border-radius: 3px; }\n\n/* Header */\n.gossamer .top { max-width: 100%; margin-bottom: 28px; }\n.gossamer .eyebrow { display: flex; gap: 14px; align-items: center; color: var(--muted); font-size: 13px; }\n.gossamer .eyebrow .theme { margin-left: auto; }\n.gossamer .lead { font: 400 18px/1.5 var(--serif); max-width: 46em; text-wrap: pretty; }\n.gossamer .lead b { font-weight: 600; white-space: nowrap; }\n.gossamer .lead + .lead { margin-top: 6px; }\n.gossamer .lead .verdict { font: 600 15px/1.5 var(--sans); align-items: baseline; }\n.gossamer .tally { display: flex; flex-wrap: wrap; gap: 6px 20px; margin-top: 14px; }\n.gossamer .tool { background: none; border: 1px solid var(--rule); border-radius: 6px; padding: 3px 9px; cursor: pointer; color: var(--muted); }\n.gossamer .tool:hover { color: var(--ink); border-color: var(--faint); }\n\n/* Verdicts */\n.gossamer .verdict { display: inline-flex; align-items: center; gap: 6px; font-weight: 600; font-size: 13px; white-space: nowrap; }\n.gossamer .verdict svg { fill: none; stroke: currentColor; stroke-width: 2.2; stroke-linecap: round; stroke-linejoin: round; }\n.gossamer .verdict.pass { color: var(--pass); }\n.gossamer .verdict.fail { color: var(--fail); }\n.gossamer .verdict.not-reached { color: var(--warn); }\n.gossamer .verdict.not-measured { color: var(--muted); }\n\n/* Stage: figure and panel */\n.gossamer .stage { display: grid; grid-template-columns: minmax(0, 1fr) 368px; gap: 36px; align-items: start; }\n.gossamer .stage.stacked { grid-template-columns: minmax(0, 1fr); gap: 24px; }\n.gossamer .toolbar { display: flex; flex-wrap: wrap; align-items: center; gap: 10px 24px; margin-bottom: 12px; min-height: 32px; }\n.gossamer .search-box { position: relative; flex: 0 1 260px; }\n.gossamer .search { width: 100%; font: inherit; color: inherit; background: var(--raised); border: 1px solid var(--rule); border-radius: 6px; padding: 5px 10px; }\n.gossamer .search::placeholder { color: var(--muted); }\n.gossamer .results { position: absolute; z-index: 5; top: 100%; left: 0; min-width: 100%; width: max-content; max-width: 460px; margin: 4px 0 0; padding: 4px; list-style: none; background: var(--raised); border: 1px solid var(--rule); border-radius: 8px; box-shadow: 0 8px 28px rgb(0 0 0 / 0.14); }\n.gossamer .results li { display: flex; gap: 14px; justify-content: space-between; padding: 4px 8px; border-radius: 5px; cursor: pointer; }\n.gossamer .results li[aria-selected="true"], .gossamer .results li[role="option"]:hover { background: var(--band); }\n.gossamer .results .count { color: var(--muted); cursor: default; }\n.gossamer .strength { display: inline-flex; align-items: center; gap: 10px; color: var(--muted); font-size: 13px; }\n.gossamer .strength input { width: 120px; accent-color: var(--muted); }\n\n.gossamer .figure-bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px; margin-bottom: 10px; font-size: 13px; }\n.gossamer .figure-bar .tool { min-height: 28px; }\n.gossamer .figure-bar .tool:disabled { opacity: 0.45; cursor: default; }\n.gossamer .figure-bar .tool[aria-pressed="true"] { color: var(--ink); border-color: var(--ink); }\n.gossamer .figure-bar .zoom { display: flex; gap: 4px; margin-left: auto; }\n.gossamer .figure-place { position: relative; overflow: hidden; }\n.gossamer .figure-surface { cursor: grab; touch-action: pan-y; user-select: none; }\n.gossamer .figure-surface.over-node { cursor: pointer; }\n.gossamer .figure-surface.dragging { cursor: grabbing; }\n.gossamer .figure-svg { display: block; width: 100%; overflow: hidden; }\n.gossamer .figure-canvas { position: relative; overflow: hidden; outline-offset: -2px; }\n.gossamer .figure-canvas canvas { position: absolute; left: 0; top: 0; transform-origin: 0 0; will-change: transform; pointer-events: none; }\n.gossamer .figure-canvas.faded .raster { opacity: 0.28; }\n.gossamer .probe { position: absolute; pointer-events: none; visibility: hidden; }\n.gossamer .away { position: absolute; width: 0; height: 0; overflow: hidden; }\n.gossamer .restore { display: flex; flex-wrap: wrap; align-items: center; gap: 6px; margin-top: 8px; font-size: 12px; }\n.gossamer .restore .tool { font-family: var(--mono); font-size: 11.5px; padding: 1px 7px; }\n\n.gossamer .band { fill: var(--band); }\n.gossamer .block-title { font: 600 12.5px var(--sans); fill: var(--ink); }\n.gossamer .block-sub { font: 12px var(--sans); fill: var(--muted); }\n.gossamer .row-label { font: 11px var(--sans); fill: var(--muted); text-anchor: end; }\n.gossamer .head-box { fill: var(--paper); stroke: var(--faint); stroke-width: 1; }\n.gossamer .head-label { font: 11px var(--sans); fill: var(--muted); text-anchor: middle; }\n.gossamer .plate rect { fill: var(--paper); stroke: var(--faint); }\n.gossamer .plate-text { font: 12px var(--mono); fill: var(--ink); text-anchor: middle; white-space: pre; }\n\n.gossamer .carry, .gossamer .root { fill: none; stroke: var(--faint); stroke-width: 1.1; }\n.gossamer .root { stroke-dasharray: 1.5 3.5; }\n.gossamer .root-dot { fill: var(--faint); }\n.gossamer .carry.meets { stroke: var(--muted); stroke-width: 1.6; }\n.gossamer .edge { fill: none; stroke-linecap: butt; opacity: calc(0.86 * var(--fade, 1)); transition: opacity 0.12s; }\n.gossamer .edge.up { stroke: var(--up); }\n.gossamer .edge.down { stroke: var(--down); stroke-dasharray: 5 3.5; }\n.gossamer .edge.flat { stroke: var(--muted); }\n.gossamer .edge.sum { stroke: var(--faint); --fade: 0.6; }\n.gossamer .plain .edge { marker-end: none; }\n.gossamer .plain .hit { display: none; }\n.gossamer .tip-flat { fill: var(--muted); }\n.gossamer .tip-up { fill: var(--up); }\n.gossamer .tip-down { fill: none; stroke: var(--down); stroke-width: 2.4; }\n.gossamer :is(.edge, .hit, .carry, .root).hidden, .gossamer .node.gone { display: none; }\n.gossamer .hit { fill: none; stroke: transparent; stroke-width: 9; pointer-events: stroke; }\n\n.gossamer .node { cursor: pointer; outline: none; }\n.gossamer .node.super .pill { stroke: var(--muted); }\n.gossamer .node.pinned .pill { stroke-width: 2.4; }\n.gossamer .pin circle { fill: var(--ink); stroke: var(--paper); stroke-width: 1.2; }\n.gossamer .pin path { fill: none; stroke: var(--ink); stroke-width: 1.6; }\n.gossamer .halo { fill: var(--lit); opacity: var(--lit-share, 0.5); }\n.gossamer .folds { cursor: pointer; }\n.gossamer .folds:hover { text-decoration: underline; fill: var(--ink); }\n.gossamer .pill { fill: color-mix(in srgb, var(--ink) var(--ink-share, 0%), var(--raised)); stroke: var(--ink); stroke-width: 1; }\n.gossamer .node.unmeasured .pill { stroke-dasharray: 2.5 2.5; }\n.gossamer .node.end .pill { stroke: var(--faint); }\n.gossamer .tab { fill: var(--raised); stroke: var(--ink); stroke-width: 0.8; }\n.gossamer .port-text { font: italic 10.5px var(--serif); fill: var(--ink); text-anchor: middle; pointer-events: none; }\n.gossamer .unfed .tab { fill: none; stroke: var(--faint); }\n.gossamer .unfed .port-text { fill: var(--faint); }\n.gossamer .pill-text { font: 11px var(--sans); fill: var(--ink); text-anchor: middle; pointer-events: none; }\n.gossamer .qkv { font-style: italic; font-family: var(--serif); font-size: 12px; }\n.gossamer .node.strong .pill-text { fill: var(--paper); }\n.gossamer .node.middle .pill-text { fill: light-dark(#1c1e22, #14161a); }\n.gossamer .node:hover .pill, .gossamer .node.near .pill { stroke-width: 1.8; }\n.gossamer .node.selected .pill, .gossamer .node.found .pill { stroke-width: 2.6; }\n.gossamer .node:focus-visible .pill { stroke-width: 2.6; outline: 2px solid var(--focus); outline-offset: 3px; border-radius: 4px; }\n.gossamer .back { fill: var(--band); }\n.gossamer .face { transition: opacity 0.12s; }\n.gossamer .node.dim .face { opacity: 0.22; }\n.gossamer .node.idle:not(.centre, .near) .face { opacity: 0.4; }\n.gossamer .centred .node:not(.centre, .near) .face { opacity: 0.28; }\n.gossamer .centred .edge:not(.on) { opacity: 0.07; }\n.gossamer .centred .edge.on { opacity: 1; }\n.gossamer .centred :is(.carry, .root):not(.on) { opacity: 0.35; }\n.gossamer .centred .carry.on { stroke: var(--ink); stroke-width: 1.8; }\n.gossamer .number { font: 600 10.5px var(--sans); text-anchor: middle; paint-order: stroke; stroke: var(--band); stroke-width: 4px; stroke-linejoin: round; pointer-events: none; }\n.gossamer .number.up { fill: var(--up); }\n.gossamer .number.down { fill: var(--down); }\n.gossamer .number:is(.flat, .sum) { fill: var(--muted); }\n\n.gossamer .legend { display: flex; flex-wrap: wrap; gap: 4px 22px; margin-top: 14px; color: var(--muted); font-size: 12px; }\n.gossamer .legend-item { display: inline-flex; align-items: center; gap: 8px; }\n.gossamer .legend .edge { stroke-width: 2; }\n.gossamer .legend .edge.sum { stroke-width: 5; }\n.gossamer .legend-note { flex-basis: 100%; }\n.gossamer .legend-ports { font: italic 12.5px var(--serif); color: var(--ink); }\n.gossamer .into { color: var(--muted); font-size: 12px; margin-left: 7px; white-space: nowrap; }\n\n/* Panel */\n.gossamer .panel { position: sticky; top: 20px; max-height: calc(100vh - 40px); overflow-y: auto; outline-offset: -2px; padding: 2px 6px 2px 2px; scrollbar-width: thin; }\n.gossamer .panel:not(.has-node) { position: static; max-height: none; overflow: visible; }\n.gossamer .card { display: grid; gap: 22px; }\n.gossamer .card-head { display: flex; justify-content: space-between; gap: 12px; align-items: start; }\n.gossamer .card-head h2 { font: 500 18px/1.3 var(--mono); overflow-wrap: anywhere; }\n.gossamer .close { background: none; border: 0; font-size: 22px; line-height: 1; padding: 2px 6px; cursor: pointer; color: var(--muted); }\n.gossamer .card-part h3 { padding-bottom: 5px; margin-bottom: 6px; border-bottom: 1px solid var(--rule); }\n.gossamer .facts { display: flex; gap: 32px; }\n.gossamer .fact-label, .gossamer .fact-note { color: var(--muted); font-size: 12px; }\n.gossamer .fact-value { font-size: 19px; line-height: 1.35; }\n.gossamer table { border-collapse: collapse; }\n.gossamer .links { width: 100%; table-layout: fixed; }\n.gossamer .links td { padding: 2px 0; vertical-align: baseline; }\n.gossamer .links td:first-child { padding-right: 12px; }\n.gossamer .links .site { overflow-wrap: anywhere; }\n.gossamer .links { font-size: 13px; }\n.gossamer .links td:nth-child(1) { width: 56%; }\n.gossamer .links td:nth-child(2) { width: 22%; }\n.gossamer .figure-cell { text-align: right; padding-right: 10px !important; }\n.gossamer .links .muted { padding-left: 10px; font-size: 12px; }\n.gossamer .site { font-family: var(--mono); font-size: 12px; background: none; border: 0; padding: 0; cursor: pointer; text-align: left; text-decoration: underline; text-decoration-color: var(--faint); text-underline-offset: 3px; }\n.gossamer .site:hover { text-decoration-color: currentColor; }\n.gossamer .bar { display: block; height: 8px; min-width: 1px; }\n.gossamer .bar.up { background: var(--up); }\n.gossamer .bar.down { background: repeating-linear-gradient(90deg, var(--down) 0 4px, transparent 4px 6px); }\n.gossamer .bar.flat { background: var(--faint); }\n.gossamer .bar.ink { background: var(--muted); }\n.gossamer .more { background: none; border: 0; padding: 4px 0; color: var(--muted); cursor: pointer; text-decoration: underline; }\n.gossamer .two { display: grid; gap: 22px; }\n.gossamer .sides th { font-weight: 400; text-align: left; color: var(--muted); padding-right: 12px; white-space: nowrap; }\n.gossamer .sides svg { display: block; }\n.gossamer .rail { stroke: var(--rule); stroke-width: 1; }\n.gossamer .zero { stroke: var(--faint); stroke-width: 1; }\n.gossamer .dot-full { fill: var(--ink); }\n.gossamer .dot-open { fill: var(--paper); stroke: var(--ink); stroke-width: 1.5; }\n.gossamer .dot-tick { stroke: var(--muted); stroke-width: 2; }\n.gossamer .excerpt-row { display: grid; grid-template-columns: 54px minmax(0, 1fr); gap: 10px; padding: 4px 0; align-items: baseline; }\n.gossamer .peak-value { color: var(--muted); font-size: 12px; text-align: right; }\n.gossamer .excerpt { font: 12.5px/1.75 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }\n.gossamer .tok { unicode-bidi: isolate; border-radius: 2px; padding: 1px 0; }\n.gossamer .tok.pos { background: color-mix(in srgb, var(--up) var(--share), transparent); }\n.gossamer .tok.neg { background: color-mix(in srgb, var(--down) var(--share), transparent); text-decoration: underline dashed; text-underline-offset: 3px; }\n.gossamer .tok.peak { outline: 1.5px solid var(--ink); outline-offset: 0; }\n.gossamer .chips { display: flex; flex-wrap: wrap; gap: 6px; }\n.gossamer .chip { display: inline-flex; gap: 7px; align-items: baseline; border: 1px solid var(--rule); border-radius: 5px; padding: 1px 7px; }\n.gossamer .chip-number { font-size: 12px; }\n.gossamer .chip.pos .chip-number { color: var(--up); }\n.gossamer .chip.neg .chip-number { color: var(--down); }\n.gossamer .pair { padding: 5px 0; border-bottom: 1px dotted var(--rule); }\n.gossamer .pair:last-child { border-bottom: 0; }\n.gossamer .prompt { font: 12.5px/1.6 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }\n.gossamer mark { background: none; color: inherit; font-weight: 700; border-bottom: 2px solid var(--ink); margin-left: 1px; }\n.gossamer .prose { font-size: 13px; }\n.gossamer .prose + .prose { margin-top: 6px; }\n\n.gossamer .stacked .panel { position: static; max-height: none; }\n.gossamer .stacked .overview { grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 24px 36px; align-items: start; }\n.gossamer .stacked .panel.has-node { position: sticky; bottom: 0; z-index: 3; max-height: 46vh; background: var(--paper); border-top: 2px solid var(--ink); padding: 16px 8px 20px; box-shadow: 0 -14px 30px -12px rgb(0 0 0 / 0.16); }\n.gossamer .stacked .has-node .card { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 20px 36px; align-items: start; }\n.gossamer .stacked .has-node .card-head { grid-column: 1 / -1; }\n\n/* Parts */\n.gossamer .part { margin-top: 56px; border-top: 1px solid var(--rule); padding-top: 22px; }\n.gossamer .part-head { display: flex; flex-wrap: wrap; gap: 2px 16px; align-items: baseline; margin-bottom: 8px; }\n.gossamer .check { display: grid; grid-template-columns: minmax(220px, 1fr) auto; gap: 12px 48px; padding: 22px 0 22px 18px; border-left: 3px solid transparent; border-bottom: 1px solid var(--rule); }\n.gossamer .check:last-child { border-bottom: 0; }\n.gossamer .check.fail { border-left-color: var(--fail); }\n.gossamer .check.not-reached { border-left-color: var(--warn); }\n.gossamer .check-text { display: grid; gap: 4px; align-content: start; max-width: 30em; }\n.gossamer .check-text h3 { font: 400 18px/1.3 var(--serif); overflow-wrap: anywhere; }\n.gossamer .threshold { font-size: 13px; color: var(--muted); }\n.gossamer .check .note { font-size: 13px; }\n.gossamer .check.fail .note { color: var(--fail); }\n.gossamer .method summary { color: var(--muted); font-size: 13px; cursor: pointer; width: max-content; }\n.gossamer .method dl { display: grid; grid-template-columns: max-content 1fr; gap: 1px 14px; font-size: 12.5px; padding: 6px 0 0 16px; }\n.gossamer .method dt { color: var(--muted); }\n.gossamer .nulls { font-size: 13px; table-layout: fixed; width: 846px; max-width: 100%; }\n.gossamer .c-value { width: 110px; }\n.gossamer .c-interval { width: 156px; }\n.gossamer .c-n { width: 56px; }\n.gossamer .c-plot { width: 260px; }\n.gossamer .nulls th, .gossamer .nulls td { font-weight: 400; text-align: left; padding: 0 16px 0 0; height: 26px; vertical-align: middle; }\n.gossamer .nulls tbody th { color: var(--muted); line-height: 1.3; }\n.gossamer .nulls thead th { color: var(--muted); font-size: 12px; vertical-align: bottom; line-height: 1.3; }\n.gossamer .nulls thead .c-value { white-space: normal !important; }\n.gossamer .nulls thead th:not(:first-child), .gossamer .nulls .figure-cell, .gossamer .nulls .interval, .gossamer .nulls .n { text-align: right; padding-right: 16px !important; white-space: nowrap; }\n.gossamer .nulls .interval, .gossamer .nulls .n { color: var(--muted); }\n.gossamer .nulls .own th, .gossamer .nulls .own .figure-cell { color: var(--ink); font-weight: 600; }\n.gossamer .nulls .absent { text-align: right; font-style: italic; color: var(--muted); white-space: nowrap; }\n.gossamer .nulls .plot-cell { padding-right: 0; }\n.gossamer .plot { display: block; }\n.gossamer .whisker { fill: none; stroke: var(--muted); stroke-width: 1.4; }\n.gossamer .whisker.own { stroke: var(--ink); stroke-width: 2; }\n.gossamer .own-mark { fill: var(--ink); }\n.gossamer .null-mark { fill: var(--paper); stroke: var(--muted); stroke-width: 1.6; }\n.gossamer .axis-line { fill: none; stroke: var(--faint); stroke-width: 1; }\n.gossamer .axis-text { font: 11px var(--sans); fill: var(--muted); text-anchor: middle; }\n.gossamer .axis-text.end { text-anchor: end; }\n.gossamer .axis-text.start { text-anchor: start; }\n\n.gossamer .curve { width: 100%; max-width: 760px; display: block; }\n.gossamer .curve .grid { stroke: var(--rule); stroke-width: 1; }\n.gossamer .curve .reference { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 2 4; }\n.gossamer .curve .axis-title { font: 12px var(--sans); fill: var(--ink); text-anchor: middle; }\n.gossamer .curve-line { fill: none; stroke: var(--ink); stroke-width: 1.6; }\n.gossamer .curve-dot { fill: var(--paper); stroke: var(--ink); stroke-width: 1.4; }\n.gossamer .twin-mark { fill: var(--paper); stroke: var(--ink); stroke-width: 2; }\n.gossamer .mark-text { font: 600 11.5px var(--sans); fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }\n.gossamer .mark-text.end { text-anchor: end; }\n.gossamer .curve-figure { display: grid; grid-template-columns: minmax(0, 620px) minmax(400px, 1fr); gap: 36px; align-items: start; }\n.gossamer figcaption { color: var(--muted); font-size: 13px; margin-top: 18px; max-width: 26em; }\n\n.gossamer .record-part summary { cursor: pointer; display: flex; gap: 14px; align-items: baseline; }\n.gossamer .record-part summary::before { content: "▸"; color: var(--muted); }\n.gossamer .record-part[open] summary::before { content: "▾"; }\n.gossamer .record { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 3px 22px; font-size: 13px; padding-top: 12px; }\n.gossamer .record dt { color: var(--muted); }\n.gossamer .record dd { overflow-wrap: anywhere; }\n.gossamer .record .record { padding-top: 0; }\n.gossamer footer { margin-top: 56px; color: var(--muted); font-size: 12px; }\n\n.gossamer .tip { position: fixed; z-index: 10; max-width: 420px; padding: 5px 9px; border-radius: 6px; background: var(--ink); color: var(--paper); font-size: 12px; line-height: 1.45; white-space: pre-wrap; pointer-events: none; overflow-wrap: anywhere; }\n\n/* Compare, cuts */\n.gossamer .verdicts { display: flex; flex-wrap: wrap; gap: 8px 28px; align-items: center; margin-top: 14px; }\n.gossamer .verdicts .tally { margin-top: 0; }\n.gossamer .own-model { display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: center; font-size: 13px; }\n.gossamer .own-model .real { color: var(--ink); }\n.gossamer .command { display: inline-flex; align-items: center; gap: 6px; }\n.gossamer .command code { background: var(--band); border-radius: 5px; padding: 2px 8px; }\n.gossamer .comparison { border-top: 1px solid var(--rule); padding-top: 20px; }\n.gossamer .modes { display: inline-flex; border: 1px solid var(--rule); border-radius: 7px; overflow: hidden; margin-bottom: 16px; }\n.gossamer .mode { background: none; border: 0; border-left: 1px solid var(--rule); padding: 4px 14px; cursor: pointer; color: var(--muted); }\n.gossamer .mode:first-child { border-left: 0; }\n.gossamer .mode[aria-pressed="true"] { background: var(--ink); color: var(--paper); font-weight: 600; }\n.gossamer .mode:focus-visible { outline-offset: -3px; outline-color: currentColor; }\n.gossamer .cut-note { margin-bottom: 14px !important; padding: 6px 12px; background: var(--band); border-left: 3px solid var(--warn); width: fit-content; }\n.gossamer .pane svg, .gossamer .union svg, .gossamer .cut-picture svg { display: block; width: 100%; height: auto; }\n.gossamer .both { container-type: inline-size; }\n.gossamer .panes { display: grid; gap: 40px; align-items: end; grid-template-columns: var(--columns); max-width: var(--beside); }\n@container (max-width: 1000px) {\n  .gossamer .panes { grid-template-columns: minmax(0, 1fr); max-width: var(--under); gap: 28px; }\n  .gossamer .pane svg { width: calc(100% * var(--share)); }\n}\n.gossamer .union { overflow-x: auto; }\n.gossamer .union svg { max-width: max-content; min-width: var(--least); }\n.gossamer .pane figcaption { margin-top: 10px; max-width: none; }\n.gossamer .both-notes { display: flex; flex-wrap: wrap; gap: 16px 48px; align-items: start; margin-top: 26px; }\n.gossamer .both-notes .prose { max-width: 34em; flex: 1 1 20em; }\n.gossamer .sizes { font-size: 13px; }\n.gossamer .sizes th, .gossamer .sizes td { vertical-align: baseline; line-height: 1.5; font-weight: 400; text-align: right; padding: 2px 0 2px 26px; white-space: nowrap; }\n.gossamer .sizes th[scope="row"] { text-align: left; color: var(--muted); padding-left: 0; }\n.gossamer .sizes thead th { color: var(--muted); border-bottom: 1px solid var(--rule); }\n.gossamer .compared section { max-width: 100%; overflow-x: auto; }\n.gossamer .compared section h3 { margin-bottom: 6px; }\n.gossamer .compared section .prose { margin-top: 8px; max-width: 38em; }\n.gossamer .compared .checks { margin-top: 26px; border-top: 1px solid var(--rule); }\n.gossamer .sizes .shaded { background: color-mix(in srgb, var(--up) calc(var(--share) * 0.45), transparent); background-clip: padding-box; border-left: 14px solid transparent; padding: 2px 12px; }\n.gossamer .sizes .absent { color: var(--muted); }\n.gossamer .groups { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 24px 36px; margin-top: 26px; }\n.gossamer .site-list .mono { font-size: 12px; }\n.gossamer .site-list { list-style: none; margin: 6px 0 0; padding: 0; columns: 2; font-size: 12px; }\n.gossamer .outlined .node.unmeasured .pill { stroke-dasharray: none; }\n.gossamer .swatch { display: inline-block; width: 20px; height: 11px; margin-right: 8px; border: 1.5px solid var(--ink); border-radius: 4px; }\n.gossamer .group.both .swatch { background: var(--ink); }\n.gossamer .group.left .swatch { border-color: var(--up); }\n.gossamer .group.right .swatch { border: 1.5px dashed var(--down); }\n.gossamer .sketch-title { font-family: var(--sans); font-size: var(--title, 12px); fill: var(--muted); text-anchor: end; }\n.gossamer .sketch.small .head-label { display: none; }\n.gossamer .sketch .edge { opacity: 0.75; }\n.gossamer .sketch .edge.both { stroke: var(--ink); }\n.gossamer .sketch .edge.left { stroke: var(--up); }\n.gossamer .sketch .edge.right { stroke: var(--down); stroke-dasharray: 5 3.5; }\n.gossamer .sketch .edge.gone { stroke: var(--faint); opacity: 0.5; }\n.gossamer .mini .pill { stroke-width: 1.2; }\n.gossamer .mini.both .pill { fill: var(--ink); }\n.gossamer .mini.both .pill-text { fill: var(--paper); }\n.gossamer .mini.left .pill { stroke: var(--up); stroke-width: 1.8; }\n.gossamer .mini.right .pill { stroke: var(--down); stroke-width: 1.8; stroke-dasharray: 4 3; }\n.gossamer .mini.gone { opacity: 0.3; }\n.gossamer .cut { display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: center; margin: 6px 0 0 56px; font-size: 13px; }\n.gossamer .cut input { flex: 0 1 320px; accent-color: var(--ink); }\n.gossamer .cut-said { flex-basis: 100%; }\n.gossamer .cut-ring { fill: none; stroke: var(--ink); stroke-width: 2; }\n.gossamer .share { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-top: 40px; }\n.gossamer .share .tool:disabled { opacity: 0.5; cursor: default; }\n\n/* Card */\n.gossamer .effects { width: 100%; font-size: 13px; }\n.gossamer .effects th { font-weight: 400; text-align: left; padding: 2px 10px 2px 0; white-space: nowrap; vertical-align: baseline; }\n.gossamer .effects td { padding: 2px 0; vertical-align: baseline; }\n.gossamer .effects .figure-cell { font-weight: 600; }\n.gossamer .histogram { display: block; width: 100%; max-width: 360px; height: auto; }\n.gossamer .histogram-row + .histogram-row { margin-top: 8px; }\n.gossamer .bar-clean { fill: var(--ink); }\n.gossamer .bar-other { fill: none; stroke: var(--ink); stroke-width: 1; }\n.gossamer .key-clean, .gossamer .key-other { display: inline-block; width: 10px; height: 9px; margin-right: 5px; border: 1px solid var(--ink); }\n.gossamer .key-clean { background: var(--ink); }\n.gossamer .level { display: block; font-size: 11px; line-height: 1.2; }\n.gossamer .note-text { width: 100%; font: 13px/1.5 var(--sans); color: inherit; background: var(--raised); border: 1px solid var(--rule); border-radius: 6px; padding: 6px 9px; resize: vertical; }\n\n@media (max-width: 1220px) {\n  .gossamer .check { grid-template-columns: minmax(0, 1fr); gap: 14px; }\n  .gossamer .check-text { max-width: none; }\n  .gossamer .curve-figure { grid-template-columns: minmax(0, 1fr); gap: 0; }\n  .gossamer figcaption { max-width: 46em; }\n}\n@media (max-width: 1080px) {\n  .gossamer { padding: 28px 28px 40px; }\n  .gossamer h1 { font-size: 29px; }\n  .gossamer .lead { font-size: 17px; }\n}\n@media (max-width: 700px) {\n  .gossamer .check-data { overflow-x: auto; }\n  .gossamer .stacked .has-node .card { grid-template-columns: minmax(0, 1fr); }\n}\n@media (prefers-reduced-motion: reduce) {\n  .gossamer * { transition: none !important; }\n}\n';

// src/lab.css
var lab_default = '.gossamer .part[data-part="ask"] { margin: 0 0 36px; }\n.gossamer .lab { display: grid; gap: 18px; }\n.gossamer .lab-grid { display: grid; grid-template-columns: minmax(0, 7fr) minmax(0, 5fr); gap: 24px 48px; align-items: start; }\n.gossamer .lab-left, .gossamer .lab-right { display: grid; gap: 12px; min-width: 0; }\n.gossamer .lab-right h3 { padding-bottom: 4px; border-bottom: 1px solid var(--rule); }\n.gossamer .lab-prompt { width: 100%; resize: vertical; font: 14px/1.55 var(--mono); color: inherit; background: var(--raised); border: 1px solid var(--faint); border-radius: 6px; padding: 8px 11px; }\n.gossamer .lab-row { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; min-width: 0; }\n.gossamer .lab :is(select, input[type="text"], input[type="number"]) { font: inherit; font-size: 13px; color: inherit; background: var(--raised); border: 1px solid var(--rule); border-radius: 6px; padding: 3px 7px; max-width: 100%; }\n.gossamer .lab select.mono, .gossamer .lab input.mono { font-family: var(--mono); font-size: 12px; }\n.gossamer .lab .lab-pick { flex: 1 1 150px; min-width: 0; max-width: 240px; }\n.gossamer .lab .lab-candidate { width: 84px; }\n.gossamer .lab .lab-number-in { width: 92px; }\n.gossamer .lab input[type="range"] { flex: 1 1 90px; max-width: 170px; accent-color: var(--muted); }\n.gossamer .lab .tool { color: var(--ink); }\n.gossamer .lab .tool:disabled { color: var(--faint); cursor: default; }\n.gossamer .lab-flip { border-color: var(--ink); font-weight: 600; }\n.gossamer .lab-error { color: var(--fail); font-size: 13px; overflow-wrap: anywhere; }\n.gossamer .lab-error::before { content: "⚠ "; }\n.gossamer .lab.stale .lab-right { opacity: 0.45; }\n.gossamer .lab-tokens { display: flex; flex-wrap: wrap; gap: 3px; max-height: 132px; overflow-y: auto; padding: 2px; }\n.gossamer .lab-token { font: 12px/1.5 var(--mono); border: 1px solid var(--rule); background: none; border-radius: 4px; padding: 0 4px; cursor: pointer; white-space: pre; }\n.gossamer .lab-token.given { color: var(--muted); }\n.gossamer .lab-token[aria-checked="true"] { border-color: var(--ink); box-shadow: inset 0 -2px 0 var(--ink); font-weight: 600; }\n.gossamer .lab-suggestion { font-size: 13px; }\n.gossamer .lab-do { border: 1px solid var(--rule); border-radius: 8px; padding: 8px 12px 12px; margin: 0; display: grid; gap: 8px; min-width: 0; }\n.gossamer .lab-do legend { font-size: 12px; color: var(--muted); padding: 0 4px; }\n.gossamer .lab-about { font-size: 12px; }\n.gossamer .lab-done { margin: 0; padding: 0 0 0 22px; display: grid; gap: 2px; font: 12.5px/1.5 var(--mono); }\n.gossamer .lab-done li > span { overflow-wrap: anywhere; }\n.gossamer .lab-done .close { font-size: 16px; padding: 0 8px; vertical-align: -2px; }\n.gossamer .lab-lights { font-size: 13px; margin-left: auto; }\n\n.gossamer .lab-shares { display: grid; gap: 12px; }\n.gossamer .lab-share { display: grid; gap: 3px; }\n.gossamer .lab-share-name { font-size: 12px; color: var(--muted); }\n.gossamer .lab-share-ends { display: flex; justify-content: space-between; gap: 12px; font-weight: 600; }\n.gossamer .lab-was { color: var(--muted); font-weight: 400; }\n.gossamer .lab-track { position: relative; height: 12px; border: 1px solid var(--ink); border-radius: 2px; background: repeating-linear-gradient(135deg, transparent 0 4px, var(--faint) 4px 5px); }\n.gossamer .lab-part { display: block; height: 100%; background: var(--ink); }\n.gossamer .lab-tick { position: absolute; top: -4px; bottom: -4px; width: 2px; margin-left: -1px; background: var(--down); outline: 1px solid var(--paper); }\n.gossamer .lab-next { width: 100%; table-layout: fixed; border-collapse: separate; border-spacing: 0; font-size: 12.5px; line-height: 1.4; }\n.gossamer .lab-next th { font-weight: 400; text-align: left; color: var(--muted); font-size: 12px; padding: 0 0 2px; }\n.gossamer .lab-next td { position: relative; padding: 0 0 4px; overflow: hidden; white-space: nowrap; }\n.gossamer .lab-next :is(th, td):first-child { border-right: 28px solid transparent; }\n.gossamer .lab-next .asked { font-weight: 600; }\n.gossamer .lab-bar { position: absolute; left: 0; bottom: 1px; height: 3px; background: var(--muted); }\n.gossamer .asked .lab-bar { background: var(--ink); }\n.gossamer .lab-number { float: right; }\n.gossamer .lab-ten summary { cursor: pointer; font-size: 13px; width: max-content; max-width: 100%; }\n.gossamer .lab-ten[open] summary { margin-bottom: 6px; }\n\n.gossamer .lab-deep summary { cursor: pointer; font-weight: 600; width: max-content; max-width: 100%; }\n.gossamer .lab-deep[open] summary { margin-bottom: 10px; }\n.gossamer .lab-insides { display: grid; grid-template-columns: minmax(0, 7fr) minmax(0, 5fr); gap: 24px 48px; margin-top: 12px; align-items: start; }\n.gossamer .lab-traces { overflow-x: auto; }\n.gossamer .lab-traces :is(th, td) { font-weight: 400; text-align: left; padding: 1px 14px 1px 0; white-space: nowrap; font-size: 13px; }\n.gossamer .lab-traces thead th { color: var(--muted); font-size: 12px; }\n.gossamer .lab-traces .figure-cell { text-align: right; }\n.gossamer .lab-strip { display: block; }\n.gossamer .lab-up { fill: var(--up); }\n.gossamer .lab-down { fill: var(--down); }\n.gossamer .lab-at { fill: none; stroke: var(--ink); stroke-width: 1; }\n.gossamer .lab-heads { display: grid; gap: 18px; }\n.gossamer .lab-head { display: grid; gap: 8px; }\n.gossamer .lab-triangle { fill: var(--band); }\n.gossamer .lab-looks { fill: var(--ink); }\n\n@media (max-width: 1080px) {\n  .gossamer .lab-grid, .gossamer .lab-insides { grid-template-columns: minmax(0, 1fr); }\n}\n';

// src/tip.ts
function tooltip(root) {
  const box = h("div", { class: "tip", role: "tooltip", hidden: true });
  root.append(box);
  const show = (text, at) => {
    box.textContent = text;
    box.hidden = false;
    const size = box.getBoundingClientRect();
    const edge = document.documentElement.clientWidth;
    const left = Math.min(Math.max(8, at.left + at.width / 2 - size.width / 2), edge - size.width - 8);
    const above = at.top - size.height - 8;
    box.style.left = `${left}px`;
    box.style.top = `${above > 4 ? above : at.bottom + 8}px`;
  };
  const hide = () => {
    box.hidden = true;
  };
  const from = (event) => {
    const target = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    if (target) show(target.getAttribute("data-tip") ?? "", target.getBoundingClientRect());
    else hide();
  };
  const scrolled = () => {
    if (!root.isConnected) document.removeEventListener("scroll", scrolled, true);
    const target = box.hidden ? null : root.querySelector("[data-tip]:focus-visible");
    const at = target?.getBoundingClientRect();
    if (target && at && at.bottom > 0 && at.top < window.innerHeight) show(target.getAttribute("data-tip") ?? "", at);
    else hide();
  };
  document.addEventListener("scroll", scrolled, { capture: true, passive: true });
  root.addEventListener("pointerover", from);
  root.addEventListener("pointerleave", hide);
  root.addEventListener("focusin", from);
  root.addEventListener("focusout", hide);
  return { show, hide };
}

// src/view.ts
var MANY_EDGES = { channel: 400, head: 200 };
var FOLDED_EDGES = 60;
var THEMES = ["auto", "light", "dark"];
function themeButton(root, store) {
  const button2 = h("button", { type: "button", class: "tool theme" });
  const now = () => THEMES.find((theme) => theme === store.get().kept["theme"]) ?? "auto";
  const show = () => {
    root.dataset["theme"] = now();
    button2.textContent = `Theme: ${now()}`;
  };
  button2.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(now()) + 1) % THEMES.length];
    keep(store, "theme", next === "auto" ? null : next);
  });
  store.listen((after, before) => {
    if (after.kept !== before.kept) show();
  });
  show();
  return button2;
}
function strengthFilter(index, store) {
  const all = index.edges.length;
  if (all < 2) return null;
  const out = h("output", {});
  const input = h("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": "Edges drawn, strongest first" });
  const toCount = (v) => Math.round(all ** (v / 100)) - (v === 0 ? 1 : 0);
  const start = Math.min(all, store.get().strongest);
  input.value = String(Math.round(100 * Math.log(Math.max(1, start)) / Math.log(all)));
  const show = (n) => {
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
function part(id, title, note, ...children) {
  return h("section", { class: "part", "data-part": id }, h("div", { class: "part-head" }, h("h2", {}, title), h("p", { class: "muted" }, note)), ...children);
}
function render({ model: given2, el }) {
  const [model, leave] = hosted(given2);
  const bundle = model.get("bundle");
  const index = indexOf(bundle);
  const many = opensFolded(index) ? FOLDED_EDGES : MANY_EDGES[bundle.grain];
  const first = { selected: null, peeked: null, found: null, strongest: index.edges.length > many * 1.5 ? many : index.edges.length, lit: null, kept: {} };
  const address2 = hasAddress(el);
  const store = new Store({ ...first, ...address2 ? stateIn(window.location.hash, bundle) : {} });
  const notes = new Notes(bundle, model.get("notes"));
  const root = h("div", { class: "gossamer" });
  el.replaceChildren(h("style", {}, style_default + lab_default), root);
  const stageOf = (of, its, own, begin) => {
    const drawing = figure(of, its);
    const open = (site) => {
      its.set({ selected: site });
      drawing.focus(site);
    };
    const toolbar = h("div", { class: "toolbar" }, search(of, its, open), strengthFilter(of, its));
    const element = h(
      "div",
      { class: begin ? "stage outlined" : "stage" },
      h("div", { class: "stage-figure" }, toolbar, drawing.element, legend(of)),
      panel(of, its, drawing.focus, own, begin)
    );
    const arrange2 = (width) => {
      element.classList.toggle("stacked", width < 1080 || drawing.naturalWidth > width * 0.95);
      drawing.fit();
    };
    return { element, arrange: arrange2 };
  };
  const make = (of, its, begin) => stageOf(of, its, begin ? null : notes, begin);
  const stages = comparison(index, store, stageOf(index, store, notes, null), make);
  const engine = pageEngine(bundle) ?? model.get("engine");
  const note = engine ? `Type a prompt. ${engine.where === "page" ? "Computed in this page" : whoComputes(model)}, model and circuit alike.` : "";
  const askPart = part("ask", "Ask it", note, engine ? lab(index, store, engine) : noLab());
  const recordPart = h("details", { class: "part record-part" }, h("summary", {}, h("h2", {}, "Record"), h("span", { class: "muted" }, "where every number came from")), record(bundle.record));
  const trialPart = part("trial", "The trial", "each check beside its nulls: what the same number is when the circuit is not special", trial(bundle));
  const toTrial = () => {
    trialPart.tabIndex = -1;
    trialPart.scrollIntoView();
    trialPart.focus({ preventScroll: true });
  };
  root.append(
    h(
      "header",
      { class: "top" },
      h("div", { class: "eyebrow" }, h("span", {}, "Gossamer circuit"), h("span", { class: "mono" }, bundle.task.name), themeButton(root, store)),
      h("h1", {}, bundle.title),
      lead(bundle),
      h("div", { class: "verdicts" }, tally(bundle), ownModel(toTrial))
    ),
    askPart,
    stages.element,
    trialPart,
    ...bundle.grain === "channel" ? [part("curve", "Size for loss", "", sizeCurve(bundle, store))] : [],
    recordPart,
    shareBar(bundle, notes, address2 ? () => linkTo(store.get(), first) : null),
    h("footer", {}, `Gossamer ${bundle.gossamer_version}. ${whoAnswers(model)}`)
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
  const escape = (event) => {
    if (event.key !== "Escape") return;
    store.set({ selected: null, peeked: null });
    stages.escape();
  };
  root.addEventListener("keydown", escape);
  const unfollow = address2 ? follow(store, first, bundle) : () => void 0;
  return () => {
    unfollow();
    watch.disconnect();
    el.replaceChildren();
    void notes.close().then(leave);
  };
}
var view_default = { render };
export {
  Tokenizer,
  view_default as default,
  hosted,
  pageEngine,
  render
};
