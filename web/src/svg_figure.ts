// A scene as SVG: what the page shows of circuits up to a few thousand edges, and what is exported.

import { plural, s, signed, uniqueId } from "./dom";
import type { Index, Tone } from "./index";
import { PORT } from "./heads";
import { plateWidth, type Layout, type Spot } from "./layout";
import {
  carryPath, drawn, labelOf, pathOf, plates, pointOn, rootPaths, WITH_MARKERS, type Look, type Scene, type Wire,
} from "./scene";

const NUMBERS_UP_TO = 16;

export interface SvgFigure {
  readonly svg: SVGSVGElement;
  readonly groups: ReadonlyMap<string, SVGGElement>;
  move(x: number, y: number, k: number): void;
  paint(look: Look): void;
}

/** An arrow for a positive weight, a bar for a negative one: the sign can be read without colour. */
function markers(prefix: string): SVGDefsElement {
  const marker = (name: Tone, box: string, refX: number, shape: SVGElement): SVGMarkerElement =>
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

/** Titles that fold what they name when they are clicked (`data-fold`). */
function folds(text: SVGTextElement, key: string | null): SVGTextElement {
  if (key === null) return text;
  text.classList.add("folds");
  text.setAttribute("data-fold", key);
  text.setAttribute("data-tip", `Collapse or expand: ${key}`);
  return text;
}

function bands(plan: Layout): SVGGElement {
  const g = s("g", { "aria-hidden": "true" });
  for (const block of plan.blocks) {
    const right = plan.width - plan.left - 14;
    g.append(
      s("rect", { x: plan.left, y: block.y, width: right, height: block.height, rx: 8, class: "band" }),
      folds(s("text", { x: 4, y: block.y + block.height / 2 - 3, class: "block-title" }, block.title), block.layer),
      s("text", { x: 4, y: block.y + block.height / 2 + 12, class: "block-sub" }, block.subtitle),
    );
  }
  for (const row of plan.bands) {
    if (row.label !== "final") g.append(folds(s("text", { x: plan.left - 10, y: row.y + 3.5, class: "row-label" }, row.label), row.part));
  }
  return g;
}

function headBoxes(plan: Layout): SVGGElement {
  const g = s("g", { "aria-hidden": "true" });
  for (const box of plan.heads) {
    g.append(s("rect", { x: box.x, y: box.y, width: box.width, height: box.height, rx: 7, class: "head-box" }));
    if (box.label) g.append(folds(s("text", { x: box.x + 27, y: box.y + box.height / 2 + 3.5, class: "head-label" }, box.label), box.part));
  }
  return g;
}

function endPlate(x: number, y: number, text: string): SVGGElement {
  const width = plateWidth(text);
  return s("g", { class: "plate" },
    s("rect", { x: x - width / 2, y: y - 15, width, height: 30, rx: 15 }),
    s("text", { x, y: y + 4.5, class: "plate-text" }, text),
  );
}

/** What a node looks like. The back stays opaque when the face is dimmed, so that no line shows through. */
function face(spot: Spot, ink: number, fed: (matrix: string) => boolean): SVGElement[] {
  const { width, height, shape, ports } = spot;
  const rx = { channel: 3, unit: 10, part: 5, end: 15, super: 4 }[shape];
  const box = { x: -width / 2, y: -height / 2, width, height, rx };
  const tabs = ports.map(({ matrix, dx }) =>
    s("g", { class: fed(matrix) ? "port" : "port unfed", transform: `translate(${dx} ${-height / 2 - PORT.height})` },
      s("path", { d: `M${1 - PORT.width / 2} ${PORT.height}V4Q${1 - PORT.width / 2} 1 ${4 - PORT.width / 2} 1H${PORT.width / 2 - 4}Q${PORT.width / 2 - 1} 1 ${PORT.width / 2 - 1} 4V${PORT.height}`, class: "tab" }),
      s("text", { y: PORT.height - 2.5, class: "port-text" }, matrix)));
  const { short, text } = labelOf(spot);
  return [
    shape === "super" ? s("rect", { ...box, x: box.x + 3, y: box.y - 3, class: "pill under" }) : s("rect", { ...box, class: "back" }),
    s("g", { class: "face" }, ...tabs,
      s("rect", { ...box, class: "pill", style: `--ink-share:${(ink * 82).toFixed(1)}%` }),
      s("text", { y: 4, class: shape === "end" ? "plate-text" : "pill-text" }, short ? s("tspan", { class: "qkv" }, short) : null, text)),
  ];
}

/** A pin at the upper right corner of a node. */
function pinMark({ width, height }: Spot): SVGGElement {
  return s("g", { class: "pin", transform: `translate(${width / 2 - 2} ${-height / 2})` },
    s("path", { d: "M0 0V7" }), s("circle", { r: 3.6 }));
}

/** Round a node that is active: the stronger, the wider and the denser. */
function halo({ width, height, shape }: Spot, strength: number): SVGRectElement {
  const out = 2 + 5 * strength;
  const rx = (shape === "channel" || shape === "super" ? 3 : height / 2) + out;
  return s("rect", {
    class: "halo", x: -width / 2 - out, y: -height / 2 - out, width: width + 2 * out, height: height + 2 * out, rx,
    style: `--lit-share:${(0.18 + 0.72 * strength).toFixed(3)}`,
  });
}

/** The weight, near the far end of its edge. */
function numberOn({ edge, bundle, line, tone }: Wire, centre: string): SVGTextElement {
  const [x, y] = pointOn(line, edge.src === centre ? 0.74 : 0.26);
  return s("text", { x, y: y + 3.5, class: `number ${tone}` }, bundle ? `${bundle.n}×` : edge.weight === null ? "" : signed(edge.weight, 2));
}

/** The numbers beside the edges of a centre, if they are few enough to be read. */
export function numbered(scene: Scene, look: Look): Wire[] {
  const own = look.centre === null ? [] : (scene.wiresOf.get(look.centre) ?? []).filter((wire) => drawn(wire, look));
  return own.length <= NUMBERS_UP_TO ? own : [];
}

export function svgFigure(index: Index, scene: Scene): SvgFigure {
  const { bundle } = index;
  const { plan, wires, wiresOf } = scene;
  const prefix = uniqueId("mark");
  const spotOf = (site: string): Spot => plan.spots.get(site) as Spot;

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
  const endTitle = (y: number, label: string): SVGTextElement => s("text", { x: 4, y: y + 4.5, class: "block-title" }, label);
  ends.append(endTitle(plan.tokens.y, "Tokens in"), endTitle(plan.answer.y, "Answer out"));
  for (const { x, y, text } of plates(scene)) ends.append(endPlate(x, y, text));

  const linked: SVGPathElement[] = [];
  for (const { src, dst } of scene.drawing.carries) {
    const { d, level } = carryPath(spotOf(src), spotOf(dst));
    const path = s("path", { d, class: level ? "carry meets" : "carry", "data-src": src, "data-dst": dst });
    linked.push(path);
    carryLayer.append(path);
  }

  // Paths are made when they are first drawn; the strongest lie on top.
  const paths = new Map<Wire, { path: SVGPathElement; hit: SVGPathElement | null }>();
  const made = (wire: Wire): { path: SVGPathElement; hit: SVGPathElement | null } => {
    const known = paths.get(wire);
    if (known) return known;
    const path = s("path", {
      d: pathOf(wire.line), class: `edge ${wire.tone}`, "stroke-width": wire.width.toFixed(2),
      "marker-end": wire.tone === "sum" ? null : `url(#${prefix}-${wire.tone})`,
      style: wire.fade < 1 ? `--fade:${wire.fade.toFixed(2)}` : null,
    });
    const hit = wire.rank === null || wire.rank < WITH_MARKERS ? s("path", { d: pathOf(wire.line), class: "hit", "data-tip": scene.tip(wire) }) : null;
    paths.set(wire, { path, hit });
    return { path, hit };
  };
  for (const { site, line, tone, width } of scene.directs) {
    const path = s("path", { d: pathOf(line), class: `edge ${tone}`, "data-site": site, "stroke-width": width.toFixed(2), "marker-end": `url(#${prefix}-${tone})` });
    linked.push(path);
    edgeLayer.append(path);
  }
  // Links inside a head lie above its box.
  for (const link of [...carryLayer.querySelectorAll(".meets")]) edgeLayer.append(link);

  const groups = new Map<string, SVGGElement>();
  for (const site of plan.rows.flat()) {
    const spot = spotOf(site);
    const { node, x, y, folded } = spot;
    const ink = folded ? 0 : scene.ink(node);
    const words = scene.words(site);
    const unmeasured = !folded && node.kind === "channel" && index.matter(node) === null;
    const links = folded ? "; collapsed, Enter expands it" : `; fed by ${index.fedBy(site).length}, feeds ${index.feeds(site).length}`;
    const g = s("g", {
      class: `node ${spot.shape}${ink > 0.69 ? " strong" : ink > 0.55 ? " middle" : ""}${unmeasured ? " unmeasured" : ""}`,
      transform: `translate(${x} ${y})`,
      tabindex: -1,
      role: "button",
      "aria-pressed": folded ? null : "false",
      "aria-expanded": folded ? "false" : null,
      "aria-label": `${site}: ${words.replaceAll("\n", "; ")}${links}`,
      "data-site": site,
      "data-tip": words,
    });
    g.append(...face(spot, ink, (matrix) => (wiresOf.get(site) ?? []).some(({ edge }) => edge.dst === site && edge.matrix === matrix)));
    groups.set(site, g);
    nodeLayer.append(g);
  }

  const svg = s("svg", { class: "figure-svg", role: "group", "aria-label":
    `The circuit: ${plural(bundle.circuit.n_nodes, "node")} and ${plural(bundle.circuit.n_edges, "edge")}. ` +
    "Arrow keys move between nodes, Enter selects, Escape clears, h hides, p pins, c collapses." }, markers(prefix), inner);

  // Only what changes is touched: with thousands of edges the rest costs more than a frame.
  let before: Look | null = null;
  const paintWires = (look: Look): void => {
    const whole = before === null || before.strongest !== look.strongest || before.hidden !== look.hidden;
    const own = (site: string | null): Wire[] => (site === null ? [] : (wiresOf.get(site) ?? []));
    const changed = whole ? wires : [...own(before?.centre ?? null), ...own(look.centre)];
    let shown = 0;
    const fresh: Wire[] = [];
    for (const wire of changed) {
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
    // Bundles lie under single edges, and of those the strongest are on top.
    fresh.sort((a, b) => (a.rank ?? Infinity) - (b.rank ?? Infinity));
    const first = edgeLayer.firstChild;
    for (const wire of fresh.reverse()) {
      const { path, hit } = made(wire);
      edgeLayer.insertBefore(path, first);
      if (hit) hitLayer.append(hit);
    }
    if (whole) svg.classList.toggle("plain", shown > WITH_MARKERS);
  };
  const paint = (look: Look): void => {
    const { selected, centre, near, found, strongest, hidden, pinned, lit } = look;
    svg.classList.toggle("centred", centre !== null);
    paintWires(look);
    for (const [site, g] of groups) {
      const folded = spotOf(site).folded !== null;
      const rank = wiresOf.get(site)?.[0]?.rank;
      const pin = pinned.has(site);
      g.classList.toggle("selected", site === selected);
      g.classList.toggle("centre", site === centre);
      g.classList.toggle("near", near.has(site));
      g.classList.toggle("dim", centre === null && found !== null && !found.has(site) && !pin);
      g.classList.toggle("idle", !folded && !pin && typeof rank === "number" && rank >= strongest);
      g.classList.toggle("found", found !== null && found.has(site));
      g.classList.toggle("gone", hidden.has(site));
      if (!folded) g.setAttribute("aria-pressed", String(site === selected));
      if (pin !== g.classList.contains("pinned")) {
        g.classList.toggle("pinned", pin);
        if (pin) g.append(pinMark(spotOf(site)));
        else g.querySelector(".pin")?.remove();
      }
    }
    for (const path of linked) {
      const at = [path.getAttribute("data-src"), path.getAttribute("data-dst"), path.getAttribute("data-site")];
      path.classList.toggle("on", centre !== null && at.includes(centre));
      path.classList.toggle("hidden", at.some((site) => site !== null && hidden.has(site)));
    }
    if (lit !== before?.lit) {
      haloLayer.replaceChildren(...[...(lit ?? [])].flatMap(([site, strength]) => {
        const spot = plan.spots.get(site);
        if (!spot || !(strength > 0)) return [];
        return [s("g", { transform: `translate(${spot.x} ${spot.y})` }, halo(spot, Math.min(1, strength)))];
      }));
    }
    numberLayer.replaceChildren(...numbered(scene, look).map((wire) => numberOn(wire, centre as string)));
    before = look;
  };
  const move = (x: number, y: number, k: number): void => inner.setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
  return { svg, groups, move, paint };
}
