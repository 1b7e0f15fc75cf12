// The circuit, drawn: SVG with pan, zoom, selection by pointer and by keyboard.

import type { Edge, NodeView } from "./bundle";
import { h, num, plural, s, shorten, signed, uniqueId, visible } from "./dom";
import { headLayout, PORT } from "./heads";
import { sizeOf, toneOf, type Index, type Tone } from "./index";
import { layout, PILL, plateWidth, type Layout, type Spot } from "./layout";
import { describe } from "./sites";
import type { Store } from "./state";

const WITH_MARKERS = 700;
const NUMBERS_UP_TO = 16;
const TALLEST = 2000;

export interface Figure {
  readonly element: HTMLElement;
  readonly naturalWidth: number;
  /** Fit the drawing to its frame again, for example after a change of width. */
  fit(): void;
  focus(site: string): void;
}

interface Drawn {
  readonly edge: Edge;
  readonly rank: number;
  readonly path: SVGPathElement;
  readonly line: Line;
  hit: SVGPathElement | null;
}

/** A cubic curve that leaves and arrives upright; `bow` sideways, for one that would run over what lies between. */
interface Line {
  readonly x1: number;
  readonly y1: number;
  readonly x2: number;
  readonly y2: number;
  readonly bend: number;
  readonly bow: number;
}

function lineOf(x1: number, y1: number, x2: number, y2: number, bow = 0): Line {
  return { x1, y1, x2, y2, bend: Math.max(14, Math.abs(y2 - y1) * 0.46), bow };
}

function pathOf({ x1, y1, x2, y2, bend, bow }: Line): string {
  return `M${x1} ${y1}C${x1 + bow} ${y1 + bend} ${x2 + bow} ${y2 - bend} ${x2} ${y2}`;
}

function curve(x1: number, y1: number, x2: number, y2: number): string {
  return pathOf(lineOf(x1, y1, x2, y2));
}

function thickness(weight: number | null, largest: number): number {
  return 0.7 + 3.6 * Math.sqrt(Math.abs(weight ?? 0) / largest);
}

/** The curve of an edge, between the outlines of its ends and into the port of what it is read for. */
function lineOfEdge(edge: Edge, from: Spot, to: Spot, plan: Layout): Line {
  const port = to.ports.find((one) => one.matrix === edge.matrix);
  const [x2, y1] = [to.x + (port?.dx ?? 0), from.y + from.height / 2];
  const y2 = to.y - to.height / 2 - (port ? PORT.height : 0) - 1.5;
  const upright = from.shape === "part" && Math.abs(x2 - from.x) < 24;
  const over = upright && [...plan.spots.values()].some((one) => one.y > from.y && one.y < to.y && Math.abs(one.x - x2) < one.width / 2 + 3);
  return lineOf(from.x, y1, x2, y2, over ? Math.min(76, 40 + 0.05 * (y2 - y1)) : 0);
}

/** An arrow for a positive weight, a bar for a negative one: the sign can be read without colour. */
function markers(prefix: string): SVGDefsElement {
  const marker = (name: string, box: string, refX: number, shape: SVGElement): SVGMarkerElement =>
    s("marker", {
      id: `${prefix}-${name}`, viewBox: box, refX, refY: 5, markerWidth: 9, markerHeight: 9, orient: "auto",
      markerUnits: "userSpaceOnUse",
    }, shape);
  return s("defs", {},
    marker("up", "0 0 10 10", 8.5, s("path", { d: "M1 1.5L9 5L1 8.5Z", class: "tip-up" })),
    marker("down", "0 0 10 10", 6.5, s("path", { d: "M6.5 .4V9.6", class: "tip-down" })),
    marker("flat", "0 0 10 10", 8.5, s("path", { d: "M1 1.5L9 5L1 8.5Z", class: "tip-flat" })),
  );
}

function bands(plan: Layout): SVGGElement {
  const g = s("g", { "aria-hidden": "true" });
  for (const block of plan.blocks) {
    const right = plan.width - plan.left - 14;
    g.append(
      s("rect", { x: plan.left, y: block.y, width: right, height: block.height, rx: 8, class: "band" }),
      s("text", { x: 4, y: block.y + block.height / 2 - 3, class: "block-title" }, block.title),
      s("text", { x: 4, y: block.y + block.height / 2 + 12, class: "block-sub" }, block.subtitle),
    );
  }
  for (const row of plan.bands) {
    if (row.label !== "final") g.append(s("text", { x: plan.left - 10, y: row.y + 3.5, class: "row-label" }, row.label));
  }
  return g;
}

function headBoxes(plan: Layout): SVGGElement {
  const g = s("g", { "aria-hidden": "true" });
  for (const box of plan.heads) {
    g.append(
      s("rect", { x: box.x, y: box.y, width: box.width, height: box.height, rx: 7, class: "head-box" }),
    );
    if (box.label) g.append(s("text", { x: box.x + 27, y: box.y + box.height / 2 + 3.5, class: "head-label" }, box.label));
  }
  return g;
}

function endTitle(y: number, label: string): SVGTextElement {
  return s("text", { x: 4, y: y + 4.5, class: "block-title" }, label);
}

function endPlate(x: number, y: number, text: string): SVGGElement {
  const width = plateWidth(text);
  return s("g", { class: "plate" },
    s("rect", { x: x - width / 2, y: y - 15, width, height: 30, rx: 15 }),
    s("text", { x, y: y + 4.5, class: "plate-text" }, text),
  );
}

/** What a node looks like. The back stays opaque when the face is dimmed, so that no line shows through. */
function face({ node, place, width, height, shape, text, ports }: Spot, ink: number, fed: (matrix: string) => boolean): SVGElement[] {
  const rx = { channel: 3, unit: 10, part: 5, end: 15 }[shape];
  const box = { x: -width / 2, y: -height / 2, width, height, rx };
  const tabs = ports.map(({ matrix, dx }) =>
    s("g", { class: fed(matrix) ? "port" : "port unfed", transform: `translate(${dx} ${-height / 2 - PORT.height})` },
      s("path", { d: `M${1 - PORT.width / 2} ${PORT.height}V4Q${1 - PORT.width / 2} 1 ${4 - PORT.width / 2} 1H${PORT.width / 2 - 4}Q${PORT.width / 2 - 1} 1 ${PORT.width / 2 - 1} 4V${PORT.height}`, class: "tab" }),
      s("text", { y: PORT.height - 2.5, class: "port-text" }, matrix)));
  const words = text ?? (place.short ? ` ${node.index}` : String(node.index));
  return [
    s("rect", { ...box, class: "back" }),
    s("g", { class: "face" }, ...tabs,
      s("rect", { ...box, class: "pill", style: `--ink-share:${(ink * 82).toFixed(1)}%` }),
      s("text", { y: 4, class: shape === "end" ? "plate-text" : "pill-text" }, place.short ? s("tspan", { class: "qkv" }, place.short) : null, words)),
  ];
}

export function figure(index: Index, store: Store): Figure {
  const { bundle } = index;
  const plan = bundle.grain === "head" ? headLayout(bundle) : layout(bundle);
  const prefix = uniqueId("mark");
  const spotOf = (site: string): Spot => plan.spots.get(site) as Spot;

  const carryLayer = s("g", { class: "carries" });
  const edgeLayer = s("g", { class: "edges", "aria-hidden": "true" });
  const hitLayer = s("g", { class: "hits", "aria-hidden": "true" });
  const nodeLayer = s("g", { class: "nodes" });
  const numberLayer = s("g", { class: "numbers", "aria-hidden": "true" });
  const ends = s("g", { class: "ends" });
  const scene = s("g", {}, bands(plan), ends, carryLayer, headBoxes(plan), edgeLayer, hitLayer, nodeLayer, numberLayer);

  // The tokens above, the answer below.
  const example = bundle.task.examples[0];
  for (const root of plan.roots) {
    const { x, y } = spotOf(root.site);
    const top = root.full ? plan.tokens.y + 30 : y - PILL.height / 2 - 13;
    if (root.full) ends.append(s("path", { d: `M${x} ${top}V${y}`, class: "root", "data-dst": root.site }));
    else ends.append(s("path", { d: `M${x} ${top}V${y}`, class: "root" }), s("circle", { cx: x, cy: top, r: 2, class: "root-dot" }));
  }
  const full = plan.roots.filter((r) => r.full).map((r) => spotOf(r.site).x);
  if (full.length) {
    const [a, b] = [Math.min(...full, plan.tokens.x), Math.max(...full, plan.tokens.x)];
    ends.append(s("path", { d: `M${a} ${plan.tokens.y + 30}H${b}M${plan.tokens.x} ${plan.tokens.y + 15}v15`, class: "root" }));
  }
  ends.append(endTitle(plan.tokens.y, "Tokens in"), endTitle(plan.answer.y, "Answer out"));
  if (!plan.spots.has("input")) ends.append(endPlate(plan.tokens.x, plan.tokens.y, example ? shorten(visible(example.clean), 44) : "prompt"));
  const answerText = example ? `${visible(example.answer)}   rather than   ${visible(example.wrong_answer)}` : "answer";
  if (!plan.spots.has("logits")) ends.append(endPlate(plan.answer.x, plan.answer.y, answerText));

  for (const carry of index.carries) {
    const [a, b] = [spotOf(carry.src), spotOf(carry.dst)];
    const level = Math.abs(a.y - b.y) < 1;
    const d = level ? `M${a.x} ${a.y}H${b.x}` : a.x === b.x ? `M${a.x} ${a.y}V${b.y}` : curve(a.x, a.y, b.x, b.y);
    carryLayer.append(s("path", { d, class: level ? "carry meets" : "carry", "data-src": carry.src, "data-dst": carry.dst }));
  }

  const fades = bundle.grain === "head" && index.edges.some((edge) => edge.weight !== null); // weak ones recede
  const drawn: Drawn[] = index.edges.map((edge, rank) => {
    const tone = toneOf(bundle, edge.weight);
    const line = lineOfEdge(edge, spotOf(edge.src), spotOf(edge.dst), plan);
    const path = s("path", {
      d: pathOf(line),
      class: `edge ${tone}`,
      "stroke-width": thickness(edge.weight, index.largestWeight).toFixed(2),
      "marker-end": `url(#${prefix}-${tone})`,
      style: fades ? `--fade:${(0.3 + 0.7 * Math.sqrt(sizeOf(edge) / index.largestWeight)).toFixed(2)}` : null,
    });
    return { edge, rank, path, line, hit: null };
  });
  // The strongest are drawn last, so they lie on top.
  for (let i = drawn.length - 1; i >= 0; i--) edgeLayer.append((drawn[i] as Drawn).path);
  const measure = bundle.grain === "head" ? "score" : "weight";
  for (const one of drawn.slice(0, WITH_MARKERS)) {
    const value = one.edge.weight === null ? `no ${measure}` : `${measure} ${signed(one.edge.weight, 6)}`;
    one.hit = s("path", { d: pathOf(one.line), class: "hit", "data-tip": `${one.edge.src} → ${one.edge.dst}\n${one.edge.matrix}  ${value}` });
    hitLayer.append(one.hit);
  }
  // The final channels' direct effect on the answer.
  const direct = [...plan.spots.values()].filter((p) => p.node.direct_logit !== null);
  const largestDirect = Math.max(1e-9, ...direct.map((p) => Math.abs(p.node.direct_logit as number)));
  const plate = plateWidth(answerText) / 2 - 16;
  for (const { node, x, y } of direct) {
    const weight = node.direct_logit as number;
    edgeLayer.append(
      s("path", {
        d: curve(x, y + PILL.height / 2, plan.answer.x + Math.max(-plate, Math.min(plate, (x - plan.answer.x) * 0.3)), plan.answer.y - 17),
        class: weight >= 0 ? "edge up" : "edge down",
        "data-site": node.site,
        "stroke-width": thickness(weight, largestDirect).toFixed(2),
        "marker-end": `url(#${prefix}-${weight >= 0 ? "up" : "down"})`,
      }),
    );
  }

  const groups = new Map<string, SVGGElement>();
  for (const site of plan.rows.flat()) {
    const spot = spotOf(site);
    const { node, x, y } = spot;
    const matter = index.matter(node);
    const ink = matter === null ? 0 : Math.sqrt(Math.max(0, matter) / index.largestMatter);
    const words = [describe(node), ...aboutMatter(index, node)].join("\n");
    const unmeasured = matter === null && node.kind === "channel";
    const g = s("g", {
      class: `node ${spot.shape}${ink > 0.69 ? " strong" : ink > 0.55 ? " middle" : ""}${unmeasured ? " unmeasured" : ""}`,
      transform: `translate(${x} ${y})`,
      tabindex: -1,
      role: "button",
      "aria-pressed": "false",
      "aria-label": `${site}: ${words.replace("\n", "; ")}; fed by ${index.fedBy(site).length}, feeds ${index.feeds(site).length}`,
      "data-site": site,
      "data-tip": words,
    });
    g.append(...face(spot, ink, (matrix) => index.fedBy(site).some((link) => link.edge?.matrix === matrix)));
    groups.set(site, g);
    nodeLayer.append(g);
  }

  // Links inside a head lie above its box.
  for (const link of [...carryLayer.querySelectorAll(".meets")]) edgeLayer.append(link);

  const svg = s("svg", { class: "figure-svg", role: "group", "aria-label":
    `The circuit: ${plural(bundle.circuit.n_nodes, "node")} and ${plural(bundle.circuit.n_edges, "edge")}. ` +
    "Arrow keys move between nodes, Enter selects, Escape clears." }, markers(prefix), scene);

  // Pan and zoom.
  const view = { x: 0, y: 0, k: 1 };
  const size = { width: 0, height: 0 };
  const apply = (): void => scene.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`);
  const fit = (): void => {
    const width = svg.parentElement?.clientWidth || plan.width;
    const k = Math.min(1.25, width / plan.width);
    const height = Math.min(plan.height * k, TALLEST);
    Object.assign(size, { width, height });
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height.toFixed(1));
    view.k = Math.min(k, height / plan.height);
    view.x = (width - plan.width * view.k) / 2;
    view.y = 0;
    apply();
  };
  const zoom = (factor: number, x = size.width / 2, y = size.height / 2): void => {
    const k = Math.min(6, Math.max(0.15, view.k * factor));
    view.x = x - ((x - view.x) * k) / view.k;
    view.y = y - ((y - view.y) * k) / view.k;
    view.k = k;
    apply();
  };
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = svg.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * 0.004), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  let grip: { x: number; y: number; moved: boolean } | null = null;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button === 0) grip = { x: event.clientX, y: event.clientY, moved: false };
  });
  svg.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const [dx, dy] = [event.clientX - grip.x, event.clientY - grip.y];
    if (!grip.moved && Math.hypot(dx, dy) < 4) return;
    if (!grip.moved) svg.setPointerCapture(event.pointerId);
    grip = { x: event.clientX, y: event.clientY, moved: true };
    svg.classList.add("dragging");
    view.x += dx;
    view.y += dy;
    apply();
  });
  let dragged = false;
  const letGo = (): void => {
    dragged = grip?.moved ?? false;
    grip = null;
    svg.classList.remove("dragging");
  };
  svg.addEventListener("pointerup", letGo);
  svg.addEventListener("pointercancel", letGo);

  const siteAt = (target: EventTarget | null): string | null =>
    target instanceof Element ? (target.closest("g.node")?.getAttribute("data-site") ?? null) : null;
  svg.addEventListener("click", (event) => {
    if (dragged) return;
    const site = siteAt(event.target);
    store.set({ selected: site === store.get().selected ? null : site });
  });
  const peek = (peeked: string | null): void => {
    if (peeked !== store.get().peeked) store.set({ peeked });
  };
  svg.addEventListener("pointerover", (event) => peek(siteAt(event.target)));
  svg.addEventListener("pointerleave", () => peek(null));
  svg.addEventListener("focusin", (event) => peek(siteAt(event.target)));
  svg.addEventListener("focusout", () => peek(null));

  // Keyboard: one stop for Tab, arrows inside.
  let current = index.ranked[0]?.site ?? plan.rows[0]?.[0] ?? "";
  const rove = (site: string): void => {
    groups.get(current)?.setAttribute("tabindex", "-1");
    current = site;
    groups.get(site)?.setAttribute("tabindex", "0");
  };
  const reveal = (site: string): void => {
    const { x, y } = spotOf(site);
    const [px, py] = [view.x + x * view.k, view.y + y * view.k];
    if (px < 30 || px > size.width - 30) view.x += size.width / 2 - px;
    if (py < 20 || py > size.height - 20) view.y += size.height / 2 - py;
    apply();
  };
  const focus = (site: string): void => {
    const g = groups.get(site);
    if (!g) return;
    rove(site);
    reveal(site);
    g.focus({ preventScroll: false });
  };
  if (current) rove(current);
  const neighbour = (site: string, key: string): string | null => {
    const row = plan.rows.findIndex((sites) => sites.includes(site));
    const sites = plan.rows[row] ?? [];
    const at = sites.indexOf(site);
    if (key === "ArrowLeft") return sites[at - 1] ?? null;
    if (key === "ArrowRight") return sites[at + 1] ?? null;
    if (key === "Home") return sites[0] ?? null;
    if (key === "End") return sites[sites.length - 1] ?? null;
    const next = plan.rows[row + (key === "ArrowDown" ? 1 : -1)];
    const x = spotOf(site).x;
    return next?.reduce((a, b) => (Math.abs(spotOf(b).x - x) < Math.abs(spotOf(a).x - x) ? b : a)) ?? null;
  };
  svg.addEventListener("keydown", (event) => {
    const site = siteAt(event.target);
    if (!site || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") store.set({ selected: site === store.get().selected ? null : site });
    else if (event.key === "+" || event.key === "=") zoom(1.25);
    else if (event.key === "-") zoom(0.8);
    else if (event.key === "0") fit();
    else if (/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) {
      const next = neighbour(site, event.key);
      if (next) focus(next);
    } else return;
    event.preventDefault();
  });

  // The edges of each node, strongest first; nodes that only carry have none.
  const edgesOf = new Map<string, Drawn[]>();
  for (const one of drawn) {
    for (const site of [one.edge.src, one.edge.dst]) {
      const list = edgesOf.get(site);
      if (list) list.push(one);
      else edgesOf.set(site, [one]);
    }
  }
  // Only what changes is touched: with thousands of edges the rest costs more than a frame.
  let painted: { centre: string | null; strongest: number } = { centre: null, strongest: -1 };

  const paint = (): void => {
    const { selected, peeked, found, strongest } = store.get();
    svg.classList.toggle("plain", Math.min(strongest, drawn.length) > WITH_MARKERS);
    const centre = peeked ?? selected;
    svg.classList.toggle("centred", centre !== null);
    const near = new Set<string>();
    if (centre) for (const link of [...index.feeds(centre), ...index.fedBy(centre)]) near.add(link.other.site);
    for (const [site, g] of groups) {
      g.classList.toggle("selected", site === selected);
      g.classList.toggle("centre", site === centre);
      g.classList.toggle("near", near.has(site));
      g.classList.toggle("dim", centre === null && found !== null && !found.has(site));
      g.classList.toggle("idle", (edgesOf.get(site)?.[0]?.rank ?? -1) >= strongest);
      g.classList.toggle("found", found !== null && found.has(site));
      g.setAttribute("aria-pressed", String(site === selected));
    }
    numberLayer.replaceChildren();
    const own = (site: string | null): Drawn[] => (site === null ? [] : (edgesOf.get(site) ?? []));
    const on = own(centre);
    const changed = strongest === painted.strongest ? [...own(painted.centre), ...on] : drawn;
    for (const { edge, rank, path, hit } of changed) {
      const touches = edge.src === centre || edge.dst === centre;
      path.classList.toggle("on", touches);
      path.classList.toggle("hidden", !touches && rank >= strongest);
      hit?.classList.toggle("hidden", !touches && rank >= strongest);
    }
    painted = { centre, strongest };
    for (const path of svg.querySelectorAll<SVGPathElement>(".carry, .root, .edges [data-site]")) {
      const ends = [path.getAttribute("data-src"), path.getAttribute("data-dst"), path.getAttribute("data-site")];
      path.classList.toggle("on", centre !== null && ends.includes(centre));
    }
    if (on.length <= NUMBERS_UP_TO) for (const one of on) numberLayer.append(numberOn(one, centre as string, toneOf(bundle, one.edge.weight)));
  };
  store.listen(paint);
  paint();

  const element = h("div", { class: "figure-frame" });
  element.append(svg as unknown as Node, controls(zoom, fit));
  return { element, naturalWidth: plan.width, fit, focus };
}

/** Lines about how much a node matters; none where nothing is to be said. */
function aboutMatter(index: Index, node: NodeView): string[] {
  const matter = index.matter(node);
  if (index.bundle.grain === "head") return matter === null ? [] : [`|score| of its edges: ${num(matter)}`];
  return [matter === null ? "ablation not measured" : `ablating it: ${signed(matter)} nats`];
}

/** The weight, near the far end of its edge. */
function numberOn({ edge, line }: Drawn, centre: string, tone: Tone): SVGTextElement {
  const t = edge.src === centre ? 0.74 : 0.26;
  const { x1, y1, x2, y2, bend, bow } = line;
  const mix = (a: number, b: number, c: number, d: number): number =>
    (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t * t * c + t ** 3 * d;
  const [x, y] = [mix(x1, x1 + bow, x2 + bow, x2), mix(y1, y1 + bend, y2 - bend, y2)];
  return s("text", { x, y: y + 3.5, class: `number ${tone}` }, edge.weight === null ? "" : signed(edge.weight, 2));
}

function controls(zoom: (factor: number) => void, fit: () => void): HTMLElement {
  const button = (label: string, text: string, act: () => void): HTMLButtonElement => {
    const b = h("button", { type: "button", "aria-label": label, "data-tip": label, class: "tool" }, text);
    b.addEventListener("click", act);
    return b;
  };
  return h("div", { class: "zoom", role: "group", "aria-label": "Zoom" },
    button("Zoom in", "+", () => zoom(1.25)),
    button("Zoom out", "−", () => zoom(0.8)),
    button("Fit the whole circuit", "⤢", fit),
  );
}

export function legend(index: Index): HTMLElement {
  const line = (className: string, mark: SVGElement | null): SVGSVGElement =>
    s("svg", { width: 34, height: 12, "aria-hidden": "true", class: "key" }, s("path", { d: "M2 6H28", class: className }), mark);
  const item = (picture: Element, text: string): HTMLElement => h("span", { class: "legend-item" }, picture as unknown as Node, text);
  const pill = (share: number): SVGElement =>
    s("rect", { x: 0, y: 1, width: 20, height: 12, rx: 3, class: "pill", style: `--ink-share:${share}%` });
  const shape = (rx: number): SVGSVGElement =>
    s("svg", { width: 22, height: 14, class: "key", "aria-hidden": "true" }, s("rect", { x: 0.5, y: 1, width: 20, height: 12, rx, class: "pill" }));
  const scale = s("svg", { width: 66, height: 14, class: "key", "aria-hidden": "true" });
  [4, 40, 82].forEach((share, i) => {
    const one = pill(share);
    one.setAttribute("x", String(0.5 + i * 22));
    scale.append(one);
  });
  const up = line("edge up", s("path", { d: "M26 2.5L33 6L26 9.5Z", class: "tip-up" }));
  const down = line("edge down", s("path", { d: "M30 1V11", class: "tip-down" }));
  if (index.bundle.grain === "head") {
    const { edge_score: score, carries } = index.bundle.circuit;
    const said = (positive: boolean): string => {
      const sign = positive ? "positive score" : "negative score";
      if (!score?.needed) return sign;
      return `${sign}: ${(score.needed > 0) === positive ? "the answer needs the edge" : "the edge works against the answer"}`;
    };
    const scored = index.edges.some((edge) => edge.weight !== null);
    const signs = [score?.needed !== -1, score?.needed === -1];
    return h("div", { class: "legend" },
      ...(scored
        ? [h("p", { class: "legend-note" }, `Score: ${score?.means ?? ""}; the wider the line, the larger it is, up to ${num(index.largestWeight, 3)}.`),
            item(up, said(signs[0] as boolean)),
            index.edges.some((edge) => toneOf(index.bundle, edge.weight) === "down") ? item(down, said(signs[1] as boolean)) : null]
        : [item(line("edge flat", s("path", { d: "M26 2.5L33 6L26 9.5Z", class: "tip-flat" })), "edge; the circuit came without scores")]),
      h("span", { class: "legend-item" }, h("b", { class: "legend-ports" }, "q k v"), "read for queries, keys, values"),
      carries.length ? item(line("carry meets", null), "keys and values (g) that the heads of a frame share, not an edge") : null,
      scored ? item(scale, `stronger fill: more |score| on its edges (up to ${num(index.largestMatter, 3)})`) : null,
    );
  }
  return h("div", { class: "legend" },
    item(up, "positive weight"),
    item(down, "negative weight"),
    item(line("carry", null), "carried by the residual stream, not an edge"),
    item(shape(3), "residual channel"),
    item(shape(6), "neuron, or q, k, v of a head"),
    index.ranked.length ? item(scale, `stronger fill: ablating it costs more (up to ${num(index.largestMatter, 3)} nats)`) : null,
  );
}
