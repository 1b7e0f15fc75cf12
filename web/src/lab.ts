// Ask the model: type a prompt, see what the model and the circuit say next, ablate and clamp nodes, cut edges.

import type { Answer, Edge, Intervention, Question, Reading } from "./bundle";
import { h, num, s, sentence, visible, visibleSpaces, type Child } from "./dom";
import type { Engine } from "./engine";
import type { Index } from "./index";
import { asQuestion, History, sameQuestion } from "./recipe";
import { describe } from "./sites";
import type { Store } from "./state";
import { findFlip, lightOf, valueRange, type Flip } from "./probe";

const KEPT = "lab";
const PAUSE = { page: 60, server: 220 }; // milliseconds without a key before a question is asked
const NODES_AT_FIRST = 60;

function percent(p: number): string {
  return `${num(100 * p, p > 0.99 ? 4 : p > 0.005 ? 3 : 2)} %`;
}

function button(text: string, run: () => void, label?: string, kind = "tool"): HTMLButtonElement {
  const made = h("button", { type: "button", class: kind, "aria-label": label }, text);
  made.addEventListener("click", run);
  return made;
}

function code(token: string): HTMLElement {
  return h("code", {}, visibleSpaces(token));
}

/** An edge; between heads with what it is read for. */
function sayEdge(src: string | null, dst: string | null, matrix: string | null, index: Index): string {
  return `${src} → ${dst}${index.bundle.grain === "head" && "qkv".includes(matrix ?? "-") ? ` for ${matrix}` : ""}`;
}

/** What an intervention does, in words. */
export function sayIntervention(one: Intervention, index: Index): string {
  if (one.kind === "cut") return `cut ${sayEdge(one.src, one.dst, one.matrix, index)}`;
  if (one.kind === "clamp") return `clamp ${one.site} to ${num(one.value ?? 0)}`;
  const mean = index.nodes.get(one.site ?? "")?.mean;
  return `ablate ${one.site}${mean === null || mean === undefined ? "" : `, to its mean ${num(mean)}`}`;
}

const BLANK = { site: null, value: null, src: null, dst: null, matrix: null };

/** The share that the first of two candidates has of what both have together. */
function share(reading: Reading): number {
  const [a, b] = reading.candidates as [number, number];
  return a + b > 0 ? a / (a + b) : 0.5;
}

/** One stacked bar: the first candidate's share from the left, a tick where it was before interventions. */
function shareRow(name: string, now: Reading, before: Reading | null, candidates: readonly [string, string]): HTMLElement {
  const own = share(now);
  const was = before && share(before);
  const text = (p: number, q: number | null): Child[] => [q === null ? null : h("span", { class: "lab-was" }, `${percent(q)} → `), percent(p)];
  return h("div", { class: "lab-share", "data-share": name, "data-value": own },
    h("div", { class: "lab-share-name" }, `the ${name}`),
    h("div", { class: "lab-share-ends" },
      h("span", {}, code(candidates[0]), " ", ...text(own, was)),
      h("span", {}, ...text(1 - own, was === null ? null : 1 - was), " ", code(candidates[1]))),
    h("div", { class: "lab-track", "aria-hidden": "true" },
      h("span", { class: "lab-part", style: `width:${(100 * own).toFixed(2)}%` }),
      was === null ? null : h("span", { class: "lab-tick", style: `left:${(100 * was).toFixed(2)}%` })));
}

/** Next tokens of the model beside those of the circuit: the candidates, and the ten most probable of each. */
function nextTokens(answer: Answer, before: Answer | null, candidates: readonly string[]): [candidates: HTMLElement, ten: HTMLElement] {
  const parts = ["model", "circuit"] as const;
  const cell = (part: (typeof parts)[number], token: string, p: number, was: number | undefined): HTMLElement => {
    const largest = Math.max(answer[part].top[0]?.probability ?? 1, ...answer[part].candidates);
    return h("td", { "data-tip": `${visibleSpaces(token)}   ${p}` }, code(token),
      h("span", { class: "lab-number" }, was === undefined ? null : h("span", { class: "lab-was" }, `${percent(was)} → `), percent(p)),
      h("span", { class: "lab-bar", style: `width:${((100 * p) / largest).toFixed(1)}%`, "aria-hidden": "true" }));
  };
  const asked = candidates.map((token, i) => h("tr", { class: "asked", "data-token": token },
    ...parts.map((part) => cell(part, token, answer[part].candidates[i] ?? 0, before?.[part].candidates[i]))));
  const ranked = answer.model.top.map((_, i) => h("tr", {}, ...parts.map((part) => {
    const one = answer[part].top[i];
    return one ? cell(part, one.token, one.probability, undefined) : h("td", {});
  })));
  const table = (rows: HTMLElement[]): HTMLElement => h("table", { class: "lab-next" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "the model says"), h("th", { scope: "col" }, "the circuit says"))),
    h("tbody", {}, ...rows));
  return [table(asked), table(ranked)];
}

/** A node's activations as bars above and below a line, one per token. */
function strip(values: ReadonlyArray<number>, tokens: ReadonlyArray<string>, at: number): HTMLElement {
  const largest = Math.max(1e-9, ...values.map(Math.abs));
  const [step, half] = [9, 9];
  const svg = s("svg", { width: values.length * step, height: 2 * half + 1, class: "lab-strip", "aria-hidden": "true" },
    s("rect", { x: at * step, y: 0, width: step, height: 2 * half + 1, class: "lab-at" }),
    s("path", { d: `M0 ${half + 0.5}H${values.length * step}`, class: "rail" }));
  values.forEach((value, t) => {
    const size = (half * Math.abs(value)) / largest;
    svg.append(s("rect", { x: t * step + 1, y: value > 0 ? half + 0.5 - size : half + 0.5, width: step - 2, height: size, class: value > 0 ? "lab-up" : "lab-down" }),
      s("rect", { x: t * step, y: 0, width: step, height: 2 * half + 1, fill: "transparent", "data-tip": `${visibleSpaces(tokens[t] ?? "")}   ${num(value, 6)}` }));
  });
  return svg as unknown as HTMLElement;
}

/** Where a head looks from one token, in words, and from every token as a picture. */
function headView(head: string, rows: ReadonlyArray<ReadonlyArray<number>>, tokens: ReadonlyArray<string>, at: number): HTMLElement {
  const own = rows[at] ?? [];
  const sink = Math.max(0, 1 - own.reduce((a, b) => a + b, 0));
  const places = own.map((p, i) => ({ p, i })).sort((a, b) => b.p - a.p).slice(0, 4).filter(({ p }) => p >= 0.005);
  const words: Child[] = places.flatMap(({ p, i }, n) => [n ? ", " : "", code(tokens[i] ?? ""), ` (token ${i}) ${percent(p)}`]);
  if (sink >= 0.005) words.push(`${words.length ? ", " : ""}${percent(sink)} on nothing`);
  const n = rows.length;
  const size = Math.min(10, 220 / n);
  const svg = s("svg", { width: n * size, height: n * size, class: "lab-pattern", "aria-hidden": "true" },
    s("path", { d: `M0 0V${n * size}H${n * size}Z`, class: "lab-triangle" }),
    s("rect", { x: 0, y: at * size, width: (at + 1) * size, height: size, class: "lab-at" }));
  rows.forEach((row, i) => row.forEach((p, j) => {
    if (p > 0.02) svg.append(s("rect", { x: j * size, y: i * size, width: size, height: size, class: "lab-looks", "fill-opacity": p.toFixed(3), "data-tip": `from ${visibleSpaces(tokens[i] ?? "")} to ${visibleSpaces(tokens[j] ?? "")}: ${percent(p)}` }));
  }));
  return h("div", { class: "lab-head" }, h("p", { class: "prose" }, h("b", { class: "mono" }, head), " from ", code(tokens[at] ?? ""), ": ", ...words, "."), svg as unknown as HTMLElement);
}

/** Where no model runs: what would run it. */
export function noLab(): HTMLElement {
  return h("p", { class: "prose muted" }, "This model does not travel in the page. ", h("code", {}, "gossamer show RUN --serve"), " runs it on your machine and answers prompts here.");
}

export function lab(index: Index, store: Store, engine: Engine): HTMLElement {
  const { bundle } = index;
  const examples = bundle.task.examples;
  const first = examples[0];
  let text = first?.clean ?? "";
  let candidates: [string, string] = [first?.answer ?? "", first?.wrong_answer ?? ""];
  const history = new History();
  let answer: Answer | null = null;
  let answered: Question | null = null; // what `answer` answers
  let before: Answer | null = null;
  let bare: { to: string; answer: Answer } | null = null; // the last question without interventions
  let at: number | null = null; // the token looked at; null: the last one
  let touched = false; // by the reader: from then on nodes light up and the state is kept
  let lastKept: string | undefined;
  let asked = 0;
  let flip: Flip | null = null;
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

  const question = (interventions: readonly Intervention[]): Question => ({ text, candidates, interventions });

  const untouched = JSON.stringify(question([]));

  const keep = (): void => {
    if (!touched) return;
    const now = JSON.stringify(question(history.now));
    const { [KEPT]: _, ...rest } = store.get().kept;
    lastKept = now === untouched ? undefined : now;
    store.set({ kept: lastKept === undefined ? rest : { ...rest, [KEPT]: lastKept } });
  };

  // ---- asking -----------------------------------------------------------------------------------------------------

  const ask = async (): Promise<void> => {
    const mine = ++asked;
    const own = question(history.now);
    const plain = question([]);
    try {
      const found = await engine.ask(own);
      if (!own.interventions.length) bare = { to: JSON.stringify(plain), answer: found };
      else if (bare?.to !== JSON.stringify(plain)) bare = { to: JSON.stringify(plain), answer: await engine.ask(plain) };
      if (mine !== asked) return;
      [answer, answered, before] = [found, own, own.interventions.length ? bare.answer : null];
      error.hidden = true;
      if (at !== null && at >= found.tokens.length) at = null;
      show();
    } catch (problem) {
      if (mine !== asked) return;
      error.textContent = problem instanceof Error ? problem.message : String(problem);
      error.hidden = false;
      root.classList.add("stale");
    }
  };
  let timer = 0;
  const soon = (): void => {
    window.clearTimeout(timer);
    timer = window.setTimeout(() => void ask(), PAUSE[engine.where]);
  };
  const changed = (): void => {
    touched = true;
    drawDone();
    keep();
    void ask();
  };
  /** The same where a node's value may have been taken back. */
  const moved = (): void => {
    changed();
    drawValue();
  };

  // ---- what is shown ----------------------------------------------------------------------------------------------

  const where = (): number => at ?? (answer ? answer.tokens.length - 1 : 0);

  const show = (): void => {
    if (!answer) return;
    root.classList.remove("stale");
    const pair = candidates;
    shares.replaceChildren(shareRow("model", answer.model, before?.model ?? null, pair), shareRow("circuit", answer.circuit, before?.circuit ?? null, pair));
    heard.textContent = `The model gives ${visible(pair[0])} ${percent(share(answer.model))} of the two, the circuit ${percent(share(answer.circuit))}.`;
    const [asked, ten] = nextTokens(answer, before, pair);
    next.replaceChildren(asked);
    topTen.replaceChildren(ten);
    noted.textContent = answer.note ? `${sentence(answer.note)}.` : "";
    noted.hidden = !answer.note;
    drawTokens();
    void drawSuggestion();
    lightUp();
    if (deep.open) drawInsides();
  };

  const lightUp = (): void => {
    if (!touched || !answer?.circuit.traces.length || !lights.checked) return store.set({ lit: null });
    store.set({ lit: lightOf(index, answer.circuit, where()) });
  };

  const look = (t: number | null, focus = false): void => {
    at = t;
    touched = true;
    drawTokens();
    lightUp();
    if (deep.open) drawInsides();
    if (focus) (tokens.children[where()] as HTMLElement | undefined)?.focus();
  };

  const drawTokens = (): void => {
    if (!answer) return;
    const here = where();
    const held = tokens.matches(":focus-within");
    tokens.replaceChildren(...answer.tokens.map((token, t) => {
      const one = h("button", { type: "button", class: `lab-token${t === 0 && token.startsWith("<|") ? " given" : ""}`, role: "radio", "aria-checked": String(t === here), tabindex: t === here ? 0 : -1, "data-tip": `token ${t}` }, visibleSpaces(token));
      one.addEventListener("click", () => look(t, true));
      return one;
    }));
    if (held) (tokens.children[here] as HTMLElement | undefined)?.focus();
  };
  tokens.addEventListener("keydown", (event) => {
    const last = (answer?.tokens.length ?? 1) - 1;
    const to = { ArrowRight: where() + 1, ArrowLeft: where() - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    look(Math.min(last, Math.max(0, to)), true);
  });

  const which = h("select", { "aria-label": "Whose activations" }, h("option", { value: "circuit" }, "in the circuit"), h("option", { value: "model" }, "in the whole model"));
  let everyNode = false;
  const drawInsides = (): void => {
    if (!answer) return;
    const reading = answer[which.value as "model" | "circuit"];
    const here = where();
    const words = answer.tokens;
    const traces = everyNode ? reading.traces : reading.traces.slice(0, NODES_AT_FIRST);
    const rows = traces.map(({ site, values }) => {
      const open = button(site, () => store.set({ selected: site }), undefined, "site");
      const mean = index.nodes.get(site)?.mean ?? null;
      return h("tr", {}, h("th", { scope: "row" }, open), h("td", { class: "figure-cell" }, num(values[here] ?? 0)),
        h("td", { class: "figure-cell muted" }, mean === null ? "" : num(mean)), h("td", {}, strip(values, words, here)));
    });
    const rest = reading.traces.length - traces.length;
    insides.replaceChildren(
      h("div", { class: "lab-traces", hidden: !reading.traces.length }, h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "node"), h("th", { scope: "col", class: "figure-cell" }, "at ", code(words[here] ?? "")), h("th", { scope: "col", class: "figure-cell" }, "mean"), h("th", { scope: "col" }, "at every token"))),
        h("tbody", {}, ...rows)),
      rest > 0 ? button(`${rest} more`, () => { everyNode = true; drawInsides(); }, undefined, "more") : null),
      h("div", { class: "lab-heads" }, ...reading.patterns.map(({ head, rows: looks }) => headView(head, looks, words, here)),
        reading.patterns.length ? null : h("p", { class: "prose muted" }, answer.note.includes("attention") ? sentence(answer.note) : "The circuit has no attention channel.")));
  };
  which.addEventListener("change", drawInsides);
  const deep = h("details", { class: "lab-deep" }, h("summary", {}, "Activations and attention, token by token"), which, insides);
  deep.addEventListener("toggle", () => { if (deep.open) drawInsides(); });

  // ---- interventions ----------------------------------------------------------------------------------------------

  /** A button that goes through the history; when it has no more to do, the focus goes where there is. */
  const step = (text: string, run: () => void, then: () => HTMLButtonElement): HTMLButtonElement => {
    const own = button(text, () => {
      run();
      moved();
      if (own.disabled) then().focus();
    });
    return own;
  };
  const undo: HTMLButtonElement = step("Undo", () => history.undo(), () => redo);
  const redo = step("Redo", () => history.redo(), () => undo);
  const clear = step("Undo all", () => history.push([]), () => undo);
  const drawDone = (): void => {
    undo.disabled = !history.canUndo;
    redo.disabled = !history.canRedo;
    clear.disabled = !history.now.length;
    done.replaceChildren(...history.now.map((one, i) => {
      const words = sayIntervention(one, index);
      const takeBack = button("×", () => {
        history.push(history.now.filter((_, n) => n !== i));
        moved();
        const left = done.querySelectorAll<HTMLButtonElement>(".close");
        (left[Math.min(i, left.length - 1)] ?? undo).focus();
      }, `Take back: ${words}`, "close");
      return h("li", {}, h("span", {}, words), takeBack);
    }));
    done.hidden = !history.now.length;
  };

  const nodeSelect = h("select", { class: "mono", "aria-label": "Node" });
  const groups = new Map<string, HTMLElement>();
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
  const ablate = button("Ablate", () => { history.push([...without(nodeSelect.value), { ...BLANK, kind: "ablate", site: nodeSelect.value }]); moved(); });
  const clampTo = button("Clamp to", () => clamp(true));
  const cut = button("Cut", () => {
    const edge = edgesOf(nodeSelect.value)[Number(cutSelect.value)];
    if (!edge) return;
    const { src, dst, matrix } = edge;
    history.push([...history.now.filter((one) => one.src !== src || one.dst !== dst || one.matrix !== matrix), { ...BLANK, kind: "cut", src, dst, matrix }]);
    changed();
  });
  const edgesOf = (site: string): Edge[] => [...index.fedBy(site), ...index.feeds(site)].flatMap((link) => (link.edge ? [link.edge] : []));
  const without = (site: string): Intervention[] => history.now.filter((one) => one.site !== site);
  const clamp = (settled: boolean): void => {
    const value = number.valueAsNumber;
    if (!Number.isFinite(value)) {
      error.textContent = "Expected a number to clamp the node to.";
      error.hidden = false;
      return;
    }
    const wanted: Intervention[] = [...without(nodeSelect.value), { ...BLANK, kind: "clamp", site: nodeSelect.value, value }];
    if (settled) history.push(wanted);
    else history.preview(wanted);
    changed();
  };
  slide.addEventListener("input", () => {
    number.value = String(Number(Number(slide.value).toPrecision(4)));
    clamp(false);
  });
  slide.addEventListener("change", () => clamp(true));
  number.addEventListener("keydown", (event) => { if (event.key === "Enter") clamp(true); });

  for (const control of [clampTo, number, slide]) control.hidden = bundle.grain === "head"; // a head writes a vector
  const drawValue = (): void => {
    const node = index.nodes.get(nodeSelect.value);
    if (!node) return;
    const [lo, hi] = valueRange(node, answer);
    [slide.min, slide.max] = [String(lo), String(hi)];
    const held = history.now.find((one) => one.site === node.site && one.kind === "clamp")?.value;
    number.value = String(Number((held ?? node.mean ?? 0).toPrecision(4)));
    slide.value = number.value;
  };
  const drawNode = (): void => {
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

  // ---- a first thing to try ---------------------------------------------------------------------------------------

  const claim = h("span", { class: "muted" });
  const go = button("", () => {
    if (!flip || !answer || !answered) return;
    history.push(flipped(flip, answer, answered).wanted);
    nodeSelect.value = flip.site;
    drawNode();
    store.set({ selected: flip.site });
    changed();
    undo.focus();
  }, undefined, "tool lab-flip");

  /** What is tried: the clamp that turns the model's answer round where `flip` was found, beside what is done already. */
  const flipped = ({ site, candidates: [own], toFirst, toSecond }: Flip, now: Answer, of: Question): { to: typeof toFirst; wanted: Intervention[] } => {
    const to = share(now.model) >= 0.5 === (of.candidates[0] === own) ? toSecond : toFirst;
    return { to, wanted: [...without(site), { ...BLANK, kind: "clamp", site, value: to.value }] };
  };

  /** Shown where it turns the answer of the present prompt round, which is asked first. */
  const drawSuggestion = async (): Promise<void> => {
    const mine = ++told;
    const [now, question] = [answer, answered];
    const inOrder = (two: readonly string[]): string => JSON.stringify([...two].sort());
    if (!flip || !now || !question || inOrder(flip.candidates) !== inOrder(question.candidates) || history.now.some((one) => one.site === flip?.site)) {
      suggestion.hidden = true;
      return;
    }
    const { to, wanted } = flipped(flip, now, question);
    go.textContent = `Clamp ${flip.site} to ${num(to.value, 3)}`;
    claim.textContent = "";
    await new Promise((rested) => window.setTimeout(rested, 0)); // the answer is drawn first
    if (mine !== told) return;
    const then = await engine.ask({ ...question, interventions: wanted }).catch(() => now);
    if (mine !== told) return;
    const turned = (["model", "circuit"] as const).filter((part) => share(now[part]) >= 0.5 !== share(then[part]) >= 0.5);
    const what = turned.length === 2 ? "the answer flips, the model's and the circuit's" : `the ${turned[0]}'s answer flips, the ${turned[0] === "model" ? "circuit" : "model"}'s does not`;
    claim.textContent = ` (what it is at ${visible(to.token)} in a prompt of the other answer): ${what}.`;
    suggestion.hidden = !turned.length;
  };

  // ---- recipes ----------------------------------------------------------------------------------------------------

  const save = button("Save as recipe", () => {
    const link = h("a", { download: "recipe.json", href: URL.createObjectURL(new Blob([JSON.stringify(question(history.now), null, 1)], { type: "application/json" })) });
    link.click();
    window.setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  const file = h("input", { type: "file", accept: "application/json,.json", class: "sr", tabindex: -1, "aria-label": "Recipe to load" });
  const load = button("Load recipe", () => file.click());
  const restore = (raw: string): void => {
    const found = asQuestion(raw);
    text = found.text;
    candidates = [found.candidates[0] ?? candidates[0], found.candidates[1] ?? candidates[1]];
    prompt.value = text;
    drawCandidates();
    history.push(found.interventions);
    drawNode();
    changed();
  };
  /** False for what is no question: an address can be mistyped. */
  const restoreKept = (raw: string): boolean => {
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
    chosen.text().then(restore).catch((problem: unknown) => {
      error.textContent = problem instanceof Error ? problem.message : String(problem);
      error.hidden = false;
    });
    file.value = "";
  });

  // ---- prompt and candidates --------------------------------------------------------------------------------------

  const two = [0, 1].map((i) => {
    const field = h("input", { type: "text", class: "lab-candidate mono", spellcheck: "false", autocomplete: "off", "aria-label": i ? "Against this next token" : "This next token" });
    field.addEventListener("input", () => {
      candidates = i ? [candidates[0], field.value] : [field.value, candidates[1]];
      touched = true;
      keep();
      soon();
    });
    return field;
  });
  const drawCandidates = (): void => two.forEach((field, i) => (field.value = candidates[i] ?? ""));
  prompt.addEventListener("input", () => {
    text = prompt.value;
    at = null;
    touched = true;
    keep();
    soon();
  });
  const pick = h("select", { class: "lab-pick", "aria-label": "Examples of the task" }, h("option", { value: "" }, "Examples of the task …"),
    ...examples.flatMap((pair, i) => [h("option", { value: `${i} 0` }, visible(pair.clean)), h("option", { value: `${i} 1` }, visible(pair.counterfactual))]));
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
    changed();
  });
  const lights = h("input", { type: "checkbox", checked: true });
  lights.addEventListener("change", lightUp);

  const root = h("div", { class: "lab" },
    h("div", { class: "lab-grid" },
      h("div", { class: "lab-left" },
        prompt, h("div", { class: "lab-row" }, pick,
          h("span", { class: "muted" }, "compare"), two[0] as HTMLElement, h("span", { class: "muted" }, "with"), two[1] as HTMLElement),
        error, tokens, suggestion,
        h("fieldset", { class: "lab-do" }, h("legend", {}, "Intervene, in the model and in the circuit, at every token"),
          h("div", { class: "lab-row" }, nodeSelect, ablate, clampTo, number, slide), about,
          h("div", { class: "lab-row" }, cutSelect, cut)),
        done,
        h("div", { class: "lab-row" }, undo, redo, clear, save, load, file, bundle.grain === "channel" ? h("label", { class: "muted lab-lights" }, lights, " light up the figure") : "")),
      h("div", { class: "lab-right" }, h("h3", {}, "Between the two", h("span", { class: "aside" }, "a coin has 50 %")), shares, heard,
        h("h3", {}, "Among all tokens", h("span", { class: "aside" }, `evenly spread, each has ${percent(1 / bundle.model.vocab_size)}`)), next,
        h("details", { class: "lab-ten" }, h("summary", { class: "muted" }, "The ten most probable next tokens of each"), topTen),
        h("p", { class: "muted lab-about" }, `Outside the circuit ${bundle.grain === "head" ? "every edge is ablated" : "everything is at its mean"}: it is made to tell the two apart, and says little about other tokens.`,
          bundle.circuit.calibration ? " Its two candidates are calibrated." : ""), noted)),
    deep);

  store.listen((now, was) => {
    if (now.selected !== was.selected && now.selected && index.nodes.has(now.selected) && nodeSelect.value !== now.selected) {
      nodeSelect.value = now.selected;
      drawNode();
    }
    const kept = now.kept[KEPT];
    if (kept !== was.kept[KEPT] && kept !== lastKept) restoreKept(kept ?? untouched);
  });

  prompt.value = text;
  drawCandidates();
  drawDone();
  nodeSelect.value = index.ranked[0]?.site ?? nodeSelect.value;
  drawNode();
  const start = (): void => {
    const kept = store.get().kept[KEPT];
    if (kept === undefined || !restoreKept(kept)) void ask();
    if (engine.where !== "page") return; // hundreds of questions are too many for a server
    void findFlip(index, engine, examples).then((found) => {
      flip = found;
      if (found) suggestion.append(h("span", { class: "muted" }, "Try: "), go, claim);
      void drawSuggestion();
    }).catch(() => undefined); // without a suggestion the lab is whole
  };
  window.setTimeout(start, 0);
  return root;
}
