// Elements and numbers. Text from a bundle only ever becomes a text node or an attribute value: markup stays inert.

export type Child = Node | string | null | undefined | false;
export type Attributes = Record<string, string | number | boolean | null | undefined>;

const SVG = "http://www.w3.org/2000/svg";

function fill<E extends Element>(element: E, attributes: Attributes, children: Child[]): E {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  return fill(document.createElement(tag), attributes, children);
}

export function s<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[K] {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

const MINUS = "\u2212";

/** A number to `digits` significant digits, with a true minus sign; plain below a million. */
export function num(value: number, digits = 4): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? size.toExponential(digits - 1) : String(Number(size.toPrecision(digits)));
  return (value < 0 ? MINUS : "") + text;
}

/** The same with its sign always shown. */
export function signed(value: number, digits = 4): string {
  return (value > 0 ? "+" : "") + num(value, digits);
}

export function count(value: number): string {
  return value.toLocaleString("en-US");
}

/** `1 node`, `2 nodes`. */
export function plural(n: number, word: string): string {
  return `${count(n)} ${word}${n === 1 ? "" : "s"}`;
}

/** The text with a capital first letter and without its final stop. */
export function sentence(text: string): string {
  return (text.charAt(0).toUpperCase() + text.slice(1)).replace(/[.\s]+$/, "");
}

const NAMED: Record<string, string> = { "\n": "⏎", "\t": "⇥", "\r": "␍" };

/** A token as a reader can see it: line ends and control characters get a glyph, an empty token too. */
export function visible(token: string): string {
  if (token === "") return "∅";
  return token.replace(/[\u0000-\u001f\u007f]/g, (c) => NAMED[c] ?? `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

/** A token standing alone, where its spaces must be seen as well. */
export function visibleSpaces(token: string): string {
  return visible(token).replace(/ /g, "␣");
}

/** Evenly spaced round values that cover [lo, hi], about `want` of them. */
export function ticks(lo: number, hi: number, want: number): number[] {
  const raw = (hi - lo) / Math.max(1, want);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5, 10].find((k) => k * power >= raw) ?? 10) * power;
  const out: number[] = [];
  for (let k = Math.ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9; k++) out.push(Number((k * step).toPrecision(10)));
  return out;
}

let serial = 0;

/** An id no other page in the same document uses. */
export function uniqueId(name: string): string {
  serial += 1;
  return `gossamer-${name}-${serial}`;
}

/** The end of a text that is too long for its place. */
export function shorten(text: string, most: number): string {
  return text.length > most ? `…${text.slice(text.length - most + 1)}` : text;
}
