// The circuit, drawn: pan, zoom and selection by pointer and by keyboard; folding, hiding and pinning; saved as a picture.
// Small drawings are SVG, large ones a canvas; both show the same scene.

import { canvasFigure, type CanvasFigure, type View } from "./canvas_figure";
import { h, num, s } from "./dom";
import { fold, layerOfNode, opensFolded, partOfNode, type Folding } from "./fold";
import { toneOf, type Index } from "./index";
import type { Spot } from "./layout";
import { fileName, PNG_SCALE, pngOf, rasterOf, save, svgText } from "./picture";
import { sceneOf, type Look, type Scene } from "./scene";
import type { State, Store } from "./state";
import { svgFigure, type SvgFigure } from "./svg_figure";

const TALLEST = { svg: 3600, canvas: 1000 };
/** Drawings larger than this are a canvas. */
const SVG_UP_TO = { nodes: 1500, edges: 6000 };
const ZOOM_MOST = 6;
/** Waits, in milliseconds: after the slider moved, and after the view did before it is kept. */
const SETTLED = 150;
const KEPT_AFTER = 300;

export interface Figure {
  readonly element: HTMLElement;
  readonly naturalWidth: number;
  /** Fit the drawing to its frame again, for example after a change of width. */
  fit(): void;
  focus(site: string): void;
}

/** What survives a reload, under `kept.figure`: JSON of what differs from the start. */
interface Kept {
  /** The middle of the frame in the drawing's units, and the zoom over that of the fitted drawing. */
  readonly at?: [x: number, y: number, zoom: number];
  readonly open?: string[];
  readonly shut?: string[];
  readonly alone?: string[];
  readonly hidden?: string[];
  readonly pinned?: string[];
}

function keptOf(text: string | undefined): Kept {
  const known: Kept = {};
  try {
    const value = JSON.parse(text ?? "{}") as Record<string, unknown>;
    const texts = (list: unknown): string[] | undefined => (Array.isArray(list) ? list.filter((one) => typeof one === "string") : undefined);
    const { at } = value;
    const place = Array.isArray(at) && at.length === 3 && at.every((one) => Number.isFinite(one)) ? { at: at as [number, number, number] } : {};
    return { ...place, open: texts(value["open"]), shut: texts(value["shut"]), alone: texts(value["alone"]), hidden: texts(value["hidden"]), pinned: texts(value["pinned"]) };
  } catch {
    return known; // a link that was cut off shows the figure as it starts
  }
}

function toggled<T>(set: ReadonlySet<T>, item: T): Set<T> {
  const out = new Set(set);
  if (!out.delete(item)) out.add(item);
  return out;
}

export function figure(index: Index, store: Store): Figure {
  const folding: Folding = { open: new Set(), shut: new Set(), alone: new Set() };
  let hidden: ReadonlySet<string> = new Set();
  let pinned: ReadonlySet<string> = new Set();
  let wanted: Kept["at"]; // a place to go to when the frame has a size
  const takeUp = (text: string | undefined): void => {
    const kept = keptOf(text);
    Object.assign(folding, { open: new Set(kept.open), shut: new Set(kept.shut), alone: new Set(kept.alone) });
    const keys = new Set([...index.nodes.values()].flatMap((node) => [node.site, partOfNode(node), layerOfNode(node), `${node.layer}.heads`]));
    hidden = new Set((kept.hidden ?? []).filter((site) => keys.has(site)));
    pinned = new Set((kept.pinned ?? []).filter((site) => index.nodes.has(site)));
    wanted = kept.at;
  };
  takeUp(store.get().kept["figure"]);

  let scene: Scene = build();
  let vector: SvgFigure | null = null;
  let canvas: CanvasFigure | null = null;
  let current = "";

  const stage = h("div", { class: "figure-surface" });
  const live = h("div", { class: "sr", "aria-live": "polite" });
  const probe = h("div", { class: "probe" }); // where the tooltip of a node on the canvas stands
  const restore = h("div", { class: "restore", hidden: true });
  const element = h("div", { class: "figure-frame" });
  const spotOf = (site: string): Spot | undefined => scene.plan.spots.get(site);

  function build(): Scene {
    return sceneOf(index, fold(index, { ...folding, alone: new Set([...folding.alone, ...pinned]) }, store.get().strongest));
  }

  // Pan and zoom.
  const view: View = { x: 0, y: 0, k: 1 };
  const size = { width: 0, height: 0 };
  let fitted = true;
  const fitScale = (): number => Math.min(1.25, size.width / scene.plan.width, size.height / scene.plan.height);
  const move = (): void => {
    if (vector) vector.move(view.x, view.y, view.k);
    canvas?.move(view);
    keep();
  };
  const resize = (): void => {
    const { plan } = scene;
    const width = stage.clientWidth || plan.width;
    const height = Math.min(plan.height * Math.min(1.25, width / plan.width), canvas ? TALLEST.canvas : TALLEST.svg);
    Object.assign(size, { width, height });
    vector?.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    vector?.svg.setAttribute("height", height.toFixed(1));
    canvas?.resize(width, height);
  };
  const fit = (): void => {
    resize();
    fitted = true;
    view.k = fitScale();
    view.x = (size.width - scene.plan.width * view.k) / 2;
    view.y = 0;
    move();
  };
  const zoom = (factor: number, x = size.width / 2, y = size.height / 2): void => {
    const k = Math.min(ZOOM_MOST, Math.max(Math.min(0.15, fitScale()), view.k * factor));
    Object.assign(view, { x: x - ((x - view.x) * k) / view.k, y: y - ((y - view.y) * k) / view.k, k });
    fitted = false;
    move();
  };

  // What is kept for a reload.
  let keeping = 0;
  let own = store.get().kept["figure"];
  const keep = (): void => {
    clearTimeout(keeping);
    keeping = window.setTimeout(() => {
      const round = (value: number): number => Number(value.toPrecision(6));
      const list = (set: ReadonlySet<string>): string[] | undefined => (set.size ? [...set] : undefined);
      const now: Kept = {
        at: fitted ? undefined : [round((size.width / 2 - view.x) / view.k), round((size.height / 2 - view.y) / view.k), round(view.k / fitScale())],
        open: list(folding.open), shut: list(folding.shut), alone: list(folding.alone), hidden: list(hidden), pinned: list(pinned),
      };
      const text = JSON.stringify(now);
      const { figure: before, ...others } = store.get().kept;
      if (text === (before ?? "{}")) return;
      own = text === "{}" ? undefined : text;
      store.set({ kept: own === undefined ? others : { ...others, figure: own } });
    }, KEPT_AFTER);
  };

  // The surface: SVG or canvas, as large as what is drawn asks for.
  const mount = (): void => {
    const { strongest } = store.get();
    const lines = scene.wires.reduce((t, wire) => t + Number(wire.rank === null ? wire.always : wire.rank < strongest), 0);
    canvas?.destroy();
    [vector, canvas] = [null, null];
    if (scene.plan.spots.size > SVG_UP_TO.nodes || lines > SVG_UP_TO.edges) {
      canvas = canvasFigure(scene, () => (document.activeElement === canvas?.element ? current : null));
      const c = canvas.element;
      for (const [name, value] of Object.entries({
        tabindex: "0", role: "application", "aria-roledescription": "circuit", "aria-label":
        "The circuit. Arrow keys move between nodes and each is read out, Enter selects, Escape clears, h hides, p pins, c collapses.",
      })) c.setAttribute(name, value);
      stage.replaceChildren(c);
    } else {
      vector = svgFigure(index, scene);
      stage.replaceChildren(vector.svg);
    }
    rove(spotOf(current) ? current : start());
    paint();
  };
  const start = (): string => {
    const best = index.ranked[0]?.site;
    return best === undefined ? (scene.plan.rows[0]?.[0] ?? "") : scene.drawing.at(best);
  };
  /** Draw again after a change of what is folded; `anchor` keeps its place on the screen, without one all is fitted. */
  const refold = (anchor: string | null): void => {
    const place = anchor === null ? undefined : spotOf(scene.drawing.at(anchor));
    const held = element.contains(document.activeElement) && stage.contains(document.activeElement);
    scene = build();
    const now = anchor === null ? undefined : spotOf(scene.drawing.at(anchor));
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

  /** Close or open what folds: a head, a row of a layer, or a layer. */
  const toggleFold = (key: string, anchor: string): void => {
    if (folding.shut.delete(key)) {
      if (opensFolded(index) && !key.startsWith("layer ")) folding.open.add(key);
    } else if (spotOf(key)) folding.open.add(key); // the rest of a place, in a circuit that opened folded
    else {
      folding.shut.add(key);
      folding.open.delete(key);
    }
    refold(anchor);
  };
  const activate = (site: string): void => {
    const folded = spotOf(site)?.folded;
    if (folded) toggleFold(folded.key, (folded.members[0] as { site: string }).site);
    else store.set({ selected: site === store.get().selected ? null : site });
  };
  const hide = (site: string): void => {
    hidden = toggled(hidden, site);
    const next = hidden.has(site) ? (neighbour(site, "ArrowRight") ?? neighbour(site, "ArrowLeft") ?? neighbour(site, "ArrowDown") ?? neighbour(site, "ArrowUp")) : site;
    const held = stage.contains(document.activeElement);
    if (hidden.has(site) && store.get().selected === site) store.set({ selected: null });
    if (store.get().peeked === site) store.set({ peeked: null });
    paint();
    keep();
    if (next && held) focus(next);
  };
  const pin = (site: string): void => {
    if (!index.nodes.has(site)) return;
    pinned = toggled(pinned, site);
    paint();
    keep();
  };
  const collapse = (site: string, whole: boolean): void => {
    const folded = spotOf(site)?.folded;
    const node = index.nodes.get(site) ?? folded?.members[0];
    if (!node) return;
    const key = whole ? layerOfNode(node) : folded ? folded.key : partOfNode(node);
    if (key !== null && !(whole && folded?.what === "layer")) toggleFold(key, node.site);
    else if (folded) activate(site);
  };

  // The pointer.
  const local = (event: MouseEvent): [number, number] => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const siteAt = (event: Event): string | null => {
    if (canvas) return event instanceof MouseEvent ? canvas.hit(...local(event)) : event.type.startsWith("focus") ? current : null;
    return event.target instanceof Element ? (event.target.closest("g.node")?.getAttribute("data-site") ?? null) : null;
  };
  const peek = (peeked: string | null): void => {
    if (peeked !== store.get().peeked) store.set({ peeked });
  };
  const tipAt = (site: string | null): void => {
    const spot = site === null ? undefined : spotOf(site);
    if (spot) {
      probe.setAttribute("data-tip", `${spot.folded ? "" : `${spot.node.site}\n`}${scene.words(spot.node.site)}`);
      Object.assign(probe.style, {
        left: `${view.x + (spot.x - spot.width / 2) * view.k}px`, top: `${view.y + (spot.y - spot.height / 2) * view.k}px`,
        width: `${spot.width * view.k}px`, height: `${spot.height * view.k}px`,
      });
    }
    (spot ? probe : stage).dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  };
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.004), ...local(event));
  }, { passive: false });
  let grip: { x: number; y: number; moved: boolean } | null = null;
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
  const letGo = (): void => {
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
  const memberOf = (key: string): string => [...index.nodes.values()].find((node) => partOfNode(node) === key || layerOfNode(node) === key)?.site ?? "";

  // The keyboard: one stop for Tab, arrows inside.
  const rove = (site: string): void => {
    vector?.groups.get(current)?.setAttribute("tabindex", "-1");
    current = site;
    vector?.groups.get(site)?.setAttribute("tabindex", "0");
  };
  const reveal = (site: string): void => {
    const { x, y } = spotOf(site) as Spot;
    const [px, py] = [view.x + x * view.k, view.y + y * view.k];
    const [before, after] = [view.x, view.y];
    if (px < 30 || px > size.width - 30) view.x += size.width / 2 - px;
    if (py < 20 || py > size.height - 20) view.y += size.height / 2 - py;
    if (before === view.x && after === view.y) return;
    fitted = false;
    move();
  };
  const focus = (asked: string): void => {
    if (hidden.has(asked)) hide(asked);
    if (index.nodes.has(asked) && !spotOf(asked) && store.get().selected === asked) {
      folding.alone.add(asked); // found by search or by a link: brought out of its super-node
      refold(null);
    }
    const site = scene.drawing.at(asked);
    if (!spotOf(site) || hidden.has(site)) return;
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
  const neighbour = (site: string, key: string): string | null => {
    const row = scene.plan.rows.findIndex((sites) => sites.includes(site));
    const open = (sites: string[] | undefined): string[] => (sites ?? []).filter((one) => one === site || !hidden.has(one));
    const sites = open(scene.plan.rows[row]);
    const at = sites.indexOf(site);
    if (key === "ArrowLeft") return sites[at - 1] ?? null;
    if (key === "ArrowRight") return sites[at + 1] ?? null;
    if (key === "Home") return sites[0] ?? null;
    if (key === "End") return sites[sites.length - 1] ?? null;
    const step = key === "ArrowDown" ? 1 : -1;
    let next: string[] = [];
    for (let i = row + step; i >= 0 && i < scene.plan.rows.length && !next.length; i += step) next = open(scene.plan.rows[i]);
    const x = (spotOf(site) as Spot).x;
    const away = (one: string): number => Math.abs((spotOf(one) as Spot).x - x);
    return next.length ? next.reduce((a, b) => (away(b) < away(a) ? b : a)) : null;
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

  // Buttons.
  const tool = (text: string, tip: string, act: () => void): HTMLButtonElement => {
    const button = h("button", { type: "button", class: "tool", "aria-label": tip, "data-tip": tip }, text);
    button.addEventListener("click", act);
    return button;
  };
  const chosen = (act: (site: string) => void) => (): void => {
    const { selected } = store.get();
    if (selected) act(selected);
  };
  const pinButton = tool("Pin", "Pin the selected node: drawn and marked whatever the filter (p)", chosen(pin));
  const forNode = [
    pinButton,
    tool("Hide", "Hide the selected node (h)", chosen(hide)),
    tool("Collapse", "Collapse the head or row of the selected node (c)", chosen((site) => collapse(site, false))),
    tool("Collapse layer", "Collapse the layer of the selected node (Shift+C)", chosen((site) => collapse(site, true))),
  ];
  const expandAll = tool("Expand all", "Expand everything that is collapsed", () => {
    folding.shut.clear();
    if (opensFolded(index)) folding.open.add("*");
    refold(null);
  });
  const picture = (ending: "svg" | "png") => async (): Promise<void> => {
    const name = fileName(`${index.bundle.task.name}-circuit`, ending);
    if (ending === "png" && canvas) return save(name, await pngOf(canvas.picture(PNG_SCALE)));
    const text = asSvg();
    if (ending === "svg") save(name, new Blob([text], { type: "image/svg+xml" }));
    else save(name, await pngOf(await rasterOf(text, size.width, size.height)));
  };
  /** The figure as seen, as SVG; from a canvas only what is in sight is made. */
  const asSvg = (): string => {
    if (vector) return svgText(vector.svg, size.width, size.height, index.bundle.title);
    const [left, top, right, bottom] = [-view.x / view.k, -view.y / view.k, (size.width - view.x) / view.k, (size.height - view.y) / view.k];
    const within = (x1: number, y1: number, x2: number, y2: number): boolean =>
      Math.min(x1, x2) <= right + 40 && Math.max(x1, x2) >= left - 40 && Math.min(y1, y2) <= bottom + 40 && Math.max(y1, y2) >= top - 40;
    const one = svgFigure(index, {
      ...scene,
      wires: scene.wires.filter(({ line }) => within(line.x1, line.y1, line.x2, line.y2)),
      drawing: { ...scene.drawing, carries: scene.drawing.carries.filter(({ src, dst }) => {
        const [a, b] = [spotOf(src) as Spot, spotOf(dst) as Spot];
        return within(a.x, a.y, b.x, b.y);
      }) },
      plan: { ...scene.plan, rows: scene.plan.rows.map((row) => row.filter((site) => {
        const { x, y } = spotOf(site) as Spot;
        return within(x, y, x, y);
      })) },
    });
    const away = h("div", { class: "away", "aria-hidden": "true" }, one.svg as unknown as Node);
    stage.append(away);
    one.paint(lookNow());
    one.move(view.x, view.y, view.k);
    const text = svgText(one.svg, size.width, size.height, index.bundle.title);
    away.remove();
    return text;
  };
  const note = h("span", { class: "muted figure-note", role: "status" });
  const saved = (ending: "svg" | "png"): HTMLButtonElement => {
    const act = picture(ending);
    return tool(ending.toUpperCase(), `Save the figure as seen as ${ending.toUpperCase()}`, () => {
      note.textContent = "";
      act().catch((error: unknown) => (note.textContent = `Not saved: ${error instanceof Error ? error.message : String(error)}`));
    });
  };
  const bar = h("div", { class: "figure-bar", role: "group", "aria-label": "The figure" },
    ...forNode, expandAll, note,
    h("span", { class: "zoom" }, saved("svg"), saved("png"),
      tool("+", "Zoom in (+)", () => zoom(1.25)), tool("−", "Zoom out (-)", () => zoom(0.8)), tool("⤢", "Fit the whole circuit (0)", fit)));

  const key = foldedKey(index.bundle.grain === "head" ? "score" : "weight");

  // What changes is drawn.
  const lookNow = (): Look => {
    const { selected, peeked, found, strongest, lit } = store.get();
    const { at } = scene.drawing;
    const place = (site: string | null): string | null => (site === null || !spotOf(at(site)) || hidden.has(at(site)) ? null : at(site));
    const centre = place(peeked) ?? place(selected);
    let shown: Map<string, number> | null = null;
    if (lit) {
      shown = new Map();
      for (const [site, strength] of lit) shown.set(at(site), Math.max(strength, shown.get(at(site)) ?? 0));
    }
    return {
      selected: place(selected), centre, near: centre === null ? new Set() : scene.near(centre), strongest, hidden, pinned, lit: shown,
      found: found && new Set([...found].map(at)),
    };
  };
  const paint = (): void => {
    const { selected } = store.get();
    const look = lookNow();
    vector?.paint(look);
    canvas?.paint(look);
    const node = selected === null ? undefined : index.nodes.get(selected);
    forNode.forEach((button, i) => (button.disabled = !node || (i === 2 && partOfNode(node) === null) || (i === 3 && layerOfNode(node) === null)));
    pinButton.setAttribute("aria-pressed", String(selected !== null && pinned.has(selected)));
    pinButton.textContent = selected !== null && pinned.has(selected) ? "Unpin" : "Pin";
    expandAll.hidden = key.hidden = scene.drawing.supers.size === 0;
    restore.hidden = hidden.size === 0;
    const list = [...hidden];
    if (restore.dataset["list"] !== list.join("\n")) {
      restore.dataset["list"] = list.join("\n");
      restore.replaceChildren(h("span", { class: "muted" }, "Hidden:"),
        ...list.map((site) => tool(`${site} ↺`, `Show ${site} again`, () => hide(site))),
        ...(list.length > 1 ? [tool("Show all", "Show all hidden nodes again", () => {
          hidden = new Set();
          paint();
          keep();
        })] : []));
    }
  };
  const matters: (keyof State)[] = ["selected", "peeked", "found", "strongest", "lit"];
  let settling = 0;
  const goTo = (): void => {
    if (!wanted) return;
    const [x, y, times] = wanted;
    wanted = undefined;
    fitted = false;
    view.k = fitScale() * times;
    Object.assign(view, { x: size.width / 2 - x * view.k, y: size.height / 2 - y * view.k });
    move();
  };
  store.listen((now, before) => {
    if (now.kept !== before.kept && now.kept["figure"] !== own) { // another address
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

  element.append(bar, h("div", { class: "figure-place" }, stage, probe), restore, key, live);
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
    focus,
  };
}

function line(className: string, mark: SVGElement | null): SVGSVGElement {
  return s("svg", { width: 34, height: 12, "aria-hidden": "true", class: "key" }, s("path", { d: "M2 6H28", class: className }), mark);
}

function item(picture: Element, text: string): HTMLElement {
  return h("span", { class: "legend-item" }, picture as unknown as Node, text);
}

/** What super-nodes and bundles are; shown while something is collapsed. */
function foldedKey(measure: string): HTMLElement {
  const box = { width: 20, height: 11, rx: 3, class: "pill" };
  const pair = s("svg", { width: 28, height: 16, class: "key node super", "aria-hidden": "true" }, s("rect", { ...box, x: 4, y: 1 }), s("rect", { ...box, x: 1, y: 4 }));
  return h("div", { class: "legend" },
    item(pair, "collapsed nodes: click or Enter expands"),
    item(line("edge sum", null), `their edges together: the wider, the larger the sum of |${measure}|`));
}

export function legend(index: Index): HTMLElement {
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
