// A scene on a canvas: for more edges than SVG can move. Panning and zooming move the last raster as it is; when they
// rest, a sharp one is drawn in slices on a second canvas that then takes its place, so no frame waits for it. What
// changes with the pointer (a selection, what was found) lies on a canvas above.

import { h } from "./dom";
import { plateWidth, type Spot } from "./layout";
import { PORT } from "./heads";
import { drawn, labelOf, plates, pointOn, rootPaths, type Line, type Look, type Scene, type Wire } from "./scene";
import { numbered } from "./svg_figure";

export interface View {
  x: number;
  y: number;
  k: number;
}

export interface CanvasFigure {
  readonly element: HTMLElement;
  resize(width: number, height: number): void;
  /** Move to a view at once with the raster there is; a sharp one follows when the view rests. */
  move(view: View): void;
  paint(look: Look): void;
  /** The node at a point of the element, in CSS pixels. */
  hit(x: number, y: number): string | null;
  /** The figure as seen, `ratio` pixels to a CSS pixel, drawn afresh in one piece. */
  picture(ratio: number): HTMLCanvasElement;
  destroy(): void;
}

/** How far the raster reaches beyond the frame, in CSS pixels. */
const MARGIN = 160;
/** The view rests when nothing moved for so long, in milliseconds. */
const REST = 60;
/** A slice of drawing, in milliseconds, and how many edges between looks at the clock. */
const SLICE = 8;
const BATCH = 400;
/** More edges in a frame than this, at the mean over frames, and they are drawn lighter, without dashes. */
const DENSE = 2500;
/** Colours of eight bits go astray when fainter lines than this add up. */
const FAINTEST = 0.12;
/** Below this scale text is too small to be read. */
const READABLE = 0.45;
const CELL = 120;
/** Shorter edges of a crowd, in pixels of the raster, are curves; others are chains of lines. */
const SHORT = 400;
/** How far a line reaches beyond its middle, in the drawing's units; and the dashes of a negative weight. */
const PAD = 12;
const DASH: [number, number] = [5, 3.5];
/** Opacity of what is not chosen; style.css says the same. */
const FADED = 0.28;

interface Colours {
  readonly [name: string]: string;
  readonly sans: string;
  readonly serif: string;
  readonly mono: string;
}

const COLOURS = ["paper", "raised", "band", "ink", "muted", "faint", "up", "down", "focus", "lit"] as const;

/** The page's colours as they are now, light or dark. */
function coloursOf(host: HTMLElement): Colours {
  const probe = h("span", { hidden: true });
  host.append(probe);
  const out: Record<string, string> = {};
  for (const name of COLOURS) {
    probe.style.color = `var(--${name})`;
    out[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  const style = getComputedStyle(host);
  return { ...out, sans: style.getPropertyValue("--sans"), serif: style.getPropertyValue("--serif"), mono: style.getPropertyValue("--mono") } as Colours;
}

function mix(a: string, b: string, share: number): string {
  const [x, y] = [a, b].map((c) => (c.match(/[\d.]+/g) ?? []).map(Number)) as [number[], number[]];
  return `rgb(${[0, 1, 2].map((i) => Math.round((x[i] ?? 0) * share + (y[i] ?? 0) * (1 - share))).join(" ")})`;
}

interface Rect {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

/** Edges that are stroked as one path. */
interface Block {
  readonly tone: Wire["tone"];
  readonly width: number;
  readonly fade: number;
  readonly wires: Wire[];
}

/** Edges in the order they are drawn, bundles first and the strongest last. Many are put together by tone and rank: of a
 * block the widths differ by little. Blocks do not depend on the view, so that part of a figure is drawn as the whole is. */
function blocksOf(wires: Wire[], together: boolean): Block[] {
  const sums = wires.filter((wire) => wire.bundle);
  const single = wires.slice(0, wires.length - sums.length);
  const size = together ? BATCH : 1;
  const out: Block[] = [];
  for (const list of [sums, single]) {
    for (let last = list.length; last > 0; last -= size) {
      const part = list.slice(Math.max(0, last - size), last);
      for (const tone of ["sum", "flat", "down", "up"] as const) {
        const own = part.filter((wire) => wire.tone === tone);
        if (own.length) out.push({ tone, wires: own, fade: tone === "sum" ? 0.6 : (own[0] as Wire).fade, width: own.reduce((t, wire) => t + wire.width, 0) / own.length });
      }
    }
  }
  return out;
}

/** Draws a scene under one view of a frame: `scale` pixels to a CSS pixel, and `margin` CSS pixels beyond each side. Only
 * what touches `rect` (CSS pixels of the frame) is drawn. */
class Painter {
  private readonly box: Rect;
  constructor(
    private readonly g: CanvasRenderingContext2D, private readonly scene: Scene, private readonly look: Look, private readonly colours: Colours,
    private readonly view: View, rect: Rect, private readonly scale: number, private readonly margin: number, private readonly beside: boolean,
  ) {
    const { x, y, k } = view;
    this.box = { left: (rect.left - x) / k, top: (rect.top - y) / k, right: (rect.right - x) / k, bottom: (rect.bottom - y) / k };
  }

  private inSight({ x1, y1, x2, y2, bow }: Line): boolean {
    const { left, top, right, bottom } = this.box;
    return Math.min(x1, x2) <= right && Math.max(x1, x2) + bow >= left && Math.min(y1, y2) - 40 <= bottom && Math.max(y1, y2) + 40 >= top;
  }

  private seen({ x, y, width, height }: { x: number; y: number; width: number; height: number }, pad = 16): boolean {
    const { left, top, right, bottom } = this.box;
    return x - width / 2 - pad <= right && x + width / 2 + pad >= left && y - height / 2 - pad <= bottom && y + height / 2 + pad >= top;
  }

  /** Lines never get thinner than can be seen. */
  private thick(width: number): number {
    return Math.max(width, 0.55 / this.view.k);
  }

  /** Adds a curve to the path; if it is dashed, strokes its parts. A long one is a chain of short lines of which those out
   * of sight are left out: what a canvas makes of a curve depends on where it is cut off, and takes long for dashes. */
  private trace(line: Line, dense: boolean, dashed: boolean): void {
    const { g, box } = this;
    const { x1, y1, x2, y2, bend, bow } = line;
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

  private text(text: string, x: number, y: number, font: string, colour: string, align: CanvasTextAlign = "center"): void {
    this.g.font = font;
    this.g.fillStyle = colour;
    this.g.textAlign = align;
    this.g.fillText(text, x, y);
  }

  private rounded(x: number, y: number, width: number, height: number, r: number, fill: string | null, stroke: string | null, line = 1): void {
    const { g } = this;
    g.beginPath();
    g.roundRect(x, y, width, height, r);
    if (fill) {
      g.fillStyle = fill;
      g.fill();
    }
    if (stroke) {
      g.strokeStyle = stroke;
      g.lineWidth = this.thick(line);
      g.stroke();
    }
  }

  private begin(): void {
    const { scale, margin, view: { x, y, k } } = this;
    this.g.setTransform(scale * k, 0, 0, scale * k, scale * (margin + x), scale * (margin + y));
    this.g.globalAlpha = 1;
    this.g.setLineDash([]);
  }

  /** Everything that does not change with the pointer, in steps. */
  *base(blocks: Block[], crowd: number): Generator<void> {
    const { g, scene, colours: c, view } = this;
    const { plan } = scene;
    const readable = view.k >= READABLE;
    this.begin();
    for (const block of plan.blocks) {
      this.rounded(plan.left, block.y, plan.width - plan.left - 14, block.height, 8, c["band"] as string, null);
      if (!readable) continue;
      this.text(block.title, 4, block.y + block.height / 2 - 3, `600 12.5px ${c.sans}`, c["ink"] as string, "left");
      this.text(block.subtitle, 4, block.y + block.height / 2 + 12, `12px ${c.sans}`, c["muted"] as string, "left");
    }
    for (const row of plan.bands) if (readable && row.label !== "final") this.text(row.label, plan.left - 10, row.y + 3.5, `11px ${c.sans}`, c["muted"] as string, "right");
    const end = `600 12.5px ${c.sans}`;
    if (readable) for (const [y, words] of [[plan.tokens.y, "Tokens in"], [plan.answer.y, "Answer out"]] as const) this.text(words, 4, y + 4.5, end, c["ink"] as string, "left");
    g.strokeStyle = c["faint"] as string;
    g.lineWidth = this.thick(1.1);
    g.setLineDash([1.5, 3.5]);
    g.stroke(new Path2D(rootPaths(plan).map(({ d }) => d).join("")));
    g.setLineDash([]);
    yield;
    yield* this.carries();
    for (const box of plan.heads) {
      const { x, y, width, height } = box;
      if (!this.seen({ x: x + width / 2, y: y + height / 2, width, height })) continue;
      this.rounded(x, y, width, height, 7, c["paper"] as string, c["faint"] as string);
      if (box.label && readable) this.text(box.label, x + 27, y + height / 2 + 3.5, `11px ${c.sans}`, c["muted"] as string);
    }
    for (const { x, y, text } of plates(scene)) {
      const width = plateWidth(text);
      this.rounded(x - width / 2, y - 15, width, 30, 15, c["paper"] as string, c["faint"] as string);
      if (readable) this.text(text, x, y + 4.5, `12px ${c.mono}`, c["ink"] as string);
    }
    yield;
    yield* this.edges(blocks, crowd);
    yield* this.nodes([...plan.spots.values()]);
    if (readable) return;
    for (const block of plan.blocks) { // above all, in the size of the page's text; beside the drawing if there is room
      const at = this.beside ? plan.left - 6 / view.k : 4;
      g.lineWidth = 4 / view.k;
      g.strokeStyle = c["paper"] as string;
      g.font = `600 ${11 / view.k}px ${c.sans}`;
      g.textAlign = this.beside ? "right" : "left";
      g.lineJoin = "round";
      const y = block.y + block.height / 2 + 4 / view.k;
      g.strokeText(block.title, at, y);
      g.fillStyle = c["ink"] as string;
      g.fillText(block.title, at, y);
    }
  }

  private *carries(): Generator<void> {
    const { g, scene, colours: c } = this;
    const { left, top, right, bottom } = this.box;
    let n = 0;
    g.strokeStyle = c["faint"] as string;
    g.lineWidth = this.thick(1.1);
    g.beginPath();
    for (const { src, dst } of scene.drawing.carries) {
      if (this.look.hidden.has(src) || this.look.hidden.has(dst)) continue;
      const [a, b] = [scene.plan.spots.get(src) as Spot, scene.plan.spots.get(dst) as Spot];
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
  *edges(blocks: Block[], crowd: number): Generator<void> {
    const { g, colours: c, view } = this;
    const dense = crowd > DENSE;
    const alpha = dense ? Math.max(FAINTEST, (0.86 * DENSE) / crowd) : 0.86;
    const tones = { up: c["up"], down: c["down"], flat: c["muted"], sum: c["faint"] } as Record<Wire["tone"], string>;
    const ended: Wire[] = [];
    let n = 0;
    for (const { tone, width, fade, wires } of blocks) {
      const seen = wires.filter((wire) => this.inSight(wire.line));
      if (!seen.length) continue;
      g.globalAlpha = Math.max(FAINTEST, alpha * fade);
      g.strokeStyle = tones[tone];
      g.lineWidth = dense ? Math.min(this.thick(width), 1 / (view.k * this.scale)) : this.thick(width); // up to a pixel is five times as quick
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
  private tip({ tone, line: { x2, y2 } }: Wire, colour: string): void {
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

  *nodes(spots: Spot[], stroke = 1): Generator<void> {
    const { g, scene, colours: c, view } = this;
    let n = 0;
    for (const spot of spots) {
      const { node, x, y, width, height, shape, folded } = spot;
      if (this.look.hidden.has(node.site) || !this.seen(spot)) continue;
      const ink = folded ? 0 : scene.ink(node);
      const fill = mix(c["ink"] as string, c["raised"] as string, ink * 0.82);
      if (view.k < 0.12) { // a dot
        const side = Math.max(width, 2 / view.k);
        g.fillStyle = mix(c["ink"] as string, c["raised"] as string, 0.45 + 0.5 * ink);
        g.fillRect(x - side / 2, y - Math.max(height, 2 / view.k) / 2, side, Math.max(height, 2 / view.k));
      } else {
        const rx = { channel: 3, unit: 10, part: 5, end: 15, super: 4 }[shape];
        if (shape === "super") this.rounded(x - width / 2 + 3, y - height / 2 - 3, width, height, rx, fill, c["muted"] as string);
        for (const { dx } of spot.ports) this.rounded(x + dx - PORT.width / 2 + 1, y - height / 2 - PORT.height + 1, PORT.width - 2, PORT.height, 3, c["raised"] as string, c["ink"] as string, 0.8);
        this.rounded(x - width / 2, y - height / 2, width, height, rx, fill, c[shape === "end" ? "faint" : "ink"] as string, this.look.pinned.has(node.site) ? 2.6 : stroke);
        if (view.k >= READABLE) {
          for (const { matrix, dx } of spot.ports) this.text(matrix, x + dx, y - height / 2 - 2.5, `italic 10.5px ${c.serif}`, c["ink"] as string);
          const { short, text } = labelOf(spot);
          const words = short + text;
          this.text(words, x, y + 4, `11px ${shape === "end" ? c.mono : c.sans}`, ink > 0.69 ? (c["paper"] as string) : (c["ink"] as string));
        }
      }
      if (++n % BATCH === 0) yield;
    }
    yield;
  }

  /** What lies above: the centre with its edges, what was found, pins and active nodes. */
  above(focused: string | null): void {
    const { g, scene, look, colours: c, view } = this;
    const at = (site: string): Spot | undefined => (look.hidden.has(site) ? undefined : scene.plan.spots.get(site));
    this.begin();
    const lift = Math.max(1, 0.35 / view.k); // small nodes are drawn larger when they matter
    const ring = (spot: Spot, line: number, colour: string, out = 2): void => {
      const o = out * lift;
      this.rounded(spot.x - spot.width / 2 - o, spot.y - spot.height / 2 - o, spot.width + 2 * o, spot.height + 2 * o, 4 * lift, null, colour, line * lift);
    };
    for (const [site, strength] of look.lit ?? []) {
      const spot = at(site);
      if (!spot || !this.seen(spot)) continue;
      g.globalAlpha = 0.2 + 0.7 * Math.min(1, strength);
      ring(spot, 2 + 4 * strength, c["lit"] as string, 2 + 4 * strength);
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
      for (const spot of spots) if (this.seen(spot)) ring(spot, 2, c["ink"] as string);
    }
    for (const site of look.pinned) {
      const spot = at(site);
      if (!spot) continue;
      const [px, py] = [spot.x + spot.width / 2 - 2, spot.y - spot.height / 2];
      g.beginPath();
      g.arc(px, py, 3.6 * lift, 0, 2 * Math.PI);
      g.fillStyle = c["ink"] as string;
      g.fill();
      g.lineWidth = this.thick(1.2);
      g.strokeStyle = c["paper"] as string;
      g.stroke();
    }
    const chosen = look.selected === null ? undefined : at(look.selected);
    if (chosen) ring(chosen, 2, c["ink"] as string, 1);
    const held = focused === null ? undefined : at(focused);
    if (held) ring(held, 2, c["focus"] as string, 4);
    if (view.k >= READABLE) {
      for (const { edge, bundle, line, tone } of numbered(scene, look)) {
        const [x, y] = pointOn(line, edge.src === look.centre ? 0.74 : 0.26);
        const words = bundle ? `${bundle.n}×` : edge.weight === null ? "" : `${edge.weight > 0 ? "+" : "−"}${Math.abs(edge.weight).toPrecision(2)}`;
        g.font = `600 10.5px ${c.sans}`;
        g.textAlign = "center";
        g.lineWidth = 4;
        g.strokeStyle = c["band"] as string;
        g.strokeText(words, x, y + 3.5);
        g.fillStyle = c[tone === "up" || tone === "down" ? tone : "muted"] as string;
        g.fillText(words, x, y + 3.5);
      }
    }
  }
}

/** Nodes by the cells of a grid that they touch. */
function gridOf(scene: Scene): Map<string, Spot[]> {
  const grid = new Map<string, Spot[]>();
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

/** Calls back as soon as the page has drawn and handled what was waiting, without the delay of timers. */
function soon(act: () => void): void {
  const channel = new MessageChannel();
  channel.port1.onmessage = () => {
    channel.port1.close();
    act();
  };
  channel.port2.postMessage(null);
}

export function canvasFigure(scene: Scene, focused: () => string | null): CanvasFigure {
  const raster = (): HTMLCanvasElement => h("canvas", { class: "raster", hidden: true });
  let [front, back] = [raster(), raster()];
  const over = h("canvas", { class: "over" });
  const element = h("div", { class: "figure-canvas" }, front, back, over);
  const size = { width: 1, height: 1 };
  const grid = gridOf(scene);
  let view: View = { x: 0, y: 0, k: 1 };
  let drawnAt: View = view; // where the front raster was drawn
  let stale = true; // whether it shows something else than what is to be drawn
  let look: Look | null = null;
  let colours: Colours | null = null;
  let job = 0;
  let timer = 0;

  const ratio = (): number => window.devicePixelRatio || 1;
  const prepared = (canvas: HTMLCanvasElement, scale: number, margin: number): CanvasRenderingContext2D => {
    const [width, height] = [Math.round((size.width + 2 * margin) * scale), Math.round((size.height + 2 * margin) * scale)];
    [canvas.width, canvas.height] = [width, height]; // empties it and forgets its state
    return canvas.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;
  };
  const whole = (): Rect => ({ left: -MARGIN, top: -MARGIN, right: size.width + MARGIN, bottom: size.height + MARGIN });
  const painter = (g: CanvasRenderingContext2D, scale: number, margin: number, rect: Rect): Painter => {
    colours ??= coloursOf(element);
    return new Painter(g, scene, look as Look, colours, { ...view }, rect, scale, margin, size.width - scene.plan.width * view.k > 120);
  };
  let blocks: { look: Look; wires: Wire[]; k: number; crowd: number; list: Block[] } | null = null;
  /** Blocks change with what is drawn and with the scale, never with the place: a moved raster and a new one agree. */
  const base = (one: Painter): Generator<void> => {
    const now = { ...(look as Look), centre: null };
    const same = blocks !== null && blocks.look.strongest === now.strongest && blocks.look.hidden === now.hidden;
    if (!blocks || !same || blocks.k !== view.k) {
      const wires = blocks && same ? blocks.wires : scene.wires.filter((wire) => drawn(wire, now));
      const crowd = crowdOf(wires, size.width / view.k, size.height / view.k);
      const list = blocks && same && blocks.crowd > DENSE === crowd > DENSE ? blocks.list : blocksOf(wires, crowd > DENSE);
      blocks = { look: now, wires, k: view.k, crowd, list };
    }
    return one.base(blocks.list, blocks.crowd);
  };
  const crowdOf = (wires: Wire[], width: number, height: number): number => {
    const { plan } = scene;
    return wires.reduce((t, { line: { x1, x2, y1, y2 } }) =>
      t + Math.min(1, (Math.abs(x2 - x1) + width) / plan.width) * Math.min(1, (Math.abs(y2 - y1) + height) / plan.height), 0);
  };
  const place = (canvas: HTMLCanvasElement, margin: number, from: View): void => {
    const k = view.k / from.k;
    canvas.style.width = `${size.width + 2 * margin}px`;
    canvas.style.height = `${size.height + 2 * margin}px`;
    canvas.style.transform = `translate(${view.x - from.x * k - margin * k}px, ${view.y - from.y * k - margin * k}px) scale(${k})`;
  };
  let overAt: View = view;
  const paintOver = (): void => {
    if (!look || !element.isConnected) return;
    overAt = { ...view };
    painter(prepared(over, ratio(), 0), ratio(), 0, { left: 0, top: 0, right: size.width, bottom: size.height }).above(focused());
    place(over, 0, overAt);
  };
  /** Draws the parts of the back that the front, moved by whole pixels, does not cover; the whole back where it cannot be used. */
  function* redraw(g: CanvasRenderingContext2D, scale: number): Generator<void> {
    const [dx, dy] = [(view.x - drawnAt.x) * scale, (view.y - drawnAt.y) * scale];
    const { width, height } = back;
    const even = [dx, dy].every((d) => Math.abs(d - Math.round(d)) < 1e-6);
    if (stale || view.k !== drawnAt.k || !even || Math.abs(dx) >= width || Math.abs(dy) >= height) {
      yield* base(painter(g, scale, MARGIN, whole()));
      return;
    }
    const [sx, sy] = [Math.round(dx), Math.round(dy)];
    g.drawImage(front, sx, sy);
    const [top, bottom] = [Math.max(0, sy), height + Math.min(0, sy)];
    const bare = [
      sy > 0 ? [0, 0, width, sy] : [0, height + sy, width, -sy],
      sx > 0 ? [0, top, sx, bottom - top] : [width + sx, top, -sx, bottom - top],
    ] as [number, number, number, number][];
    for (const [x, y, w, t] of bare) {
      if (w <= 0 || t <= 0) continue;
      g.save();
      g.setTransform(1, 0, 0, 1, 0, 0);
      g.beginPath();
      g.rect(x, y, w, t);
      g.clip();
      const [left, upper] = [x / scale - MARGIN, y / scale - MARGIN];
      yield* base(painter(g, scale, MARGIN, { left, top: upper, right: left + w / scale, bottom: upper + t / scale }));
      g.restore();
    }
  }
  const sharpen = (): void => {
    const mine = ++job;
    if (!look || !element.isConnected) return;
    element.classList.add("blurred");
    const at = { ...view };
    const g = prepared(back, ratio(), MARGIN);
    const steps = redraw(g, ratio());
    const slice = (): void => {
      if (mine !== job) return;
      const until = performance.now() + SLICE;
      do {
        if (steps.next().done) return finish();
        g.getImageData(0, 0, 1, 1); // the work is done now, not in the frame that shows it
      } while (performance.now() < until);
      soon(slice);
    };
    const finish = (): void => {
      [front, back] = [back, front];
      [drawnAt, stale] = [at, false];
      place(front, MARGIN, drawnAt);
      front.hidden = false;
      back.hidden = true;
      element.classList.remove("blurred");
    };
    slice();
  };
  const rest = (after: number): void => {
    job += 1;
    clearTimeout(timer);
    element.classList.add("blurred");
    timer = window.setTimeout(() => {
      paintOver();
      sharpen();
    }, after);
  };
  const recolour = (): void => {
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
      place(front, MARGIN, drawnAt);
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
      }
      else paintOver();
    },
    hit(x, y) {
      const [wx, wy] = [(x - view.x) / view.k, (y - view.y) / view.k];
      const reach = Math.min(CELL / 2, Math.max(0, 3 / view.k)); // dots are hard to hit
      const cells = [[0, 0], [-1, -1], [-1, 1], [1, -1], [1, 1]].map(([a, b]) => `${Math.floor((wx + (a as number) * reach) / CELL)}|${Math.floor((wy + (b as number) * reach) / CELL)}`);
      let [best, nearest] = [null as string | null, reach + 1e-9];
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
      g.fillStyle = (colours as Colours)["paper"] as string;
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
    },
  };
}
