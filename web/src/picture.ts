// The figure as a file: SVG that opens alone, PNG at twice the size. Nothing is fetched and nothing leaves the page.

import { h, s } from "./dom";

export const PNG_SCALE = 2;

const SHAPE = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity"];
const TEXT = [...SHAPE, "font-family", "font-size", "font-style", "font-weight", "text-anchor", "paint-order", "white-space"];
const DEFAULTS: Record<string, string> = {
  fill: "rgb(0, 0, 0)", stroke: "none", "stroke-width": "1px", "stroke-dasharray": "none", "stroke-linecap": "butt", "stroke-linejoin": "miter",
  opacity: "1", "font-style": "normal", "font-weight": "400", "text-anchor": "start", "paint-order": "normal", "white-space": "normal",
};
const DROPPED = ["class", "style", "tabindex", "role", "data-site", "data-src", "data-dst", "data-tip", "data-fold"];

/** A computed colour in the form every reader of SVG knows. */
function plainColour(value: string): string {
  const parts = value.match(/^color\(srgb ([\d.e+-]+) ([\d.e+-]+) ([\d.e+-]+)(?: \/ ([\d.]+))?\)$/);
  if (!parts) return value;
  const [r, g, b] = parts.slice(1, 4).map((part) => Math.round(255 * Number(part)));
  return parts[4] === undefined ? `rgb(${r}, ${g}, ${b})` : `rgba(${r}, ${g}, ${b}, ${parts[4]})`;
}

/** Whether an element is drawn, and what its style comes to; elements of one class and style share it. */
type Styles = Map<string, Record<string, string> | null>;

function styleOf(element: Element, styles: Styles): Record<string, string> | null {
  const parent = element.parentElement?.getAttribute("class") ?? "";
  const lone = element.tagName === "path" && (element.getAttribute("class") ?? "").startsWith("edge ");
  const key = lone ? `${parent}|${element.getAttribute("class")}|${element.getAttribute("style") ?? ""}` : null;
  const known = key === null ? undefined : styles.get(key);
  if (known !== undefined) return known;
  const computed = getComputedStyle(element);
  const text = element.tagName === "text" || element.tagName === "tspan";
  const out: Record<string, string> = {};
  if (element.tagName !== "g" || computed.opacity !== "1") {
    for (const name of element.tagName === "g" ? ["opacity"] : text ? TEXT : SHAPE) {
      const value = computed.getPropertyValue(name);
      if (value && value !== DEFAULTS[name] && !(lone && name === "stroke-width")) out[name] = plainColour(value);
    }
    if (out["stroke"] === undefined) for (const name of Object.keys(out)) if (name.startsWith("stroke-")) delete out[name];
  }
  const style = computed.display === "none" ? null : out;
  if (key !== null) styles.set(key, style);
  return style;
}

function inlined(element: Element, styles: Styles): Element | null {
  const style = styleOf(element, styles);
  if (style === null || element.classList.contains("hits")) return null;
  const copy = element.cloneNode(false) as Element;
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

/** An SVG of the page as text that needs nothing from the page; it must be in the document. Width and height in CSS pixels. */
export function svgText(svg: SVGSVGElement, width: number, height: number, title: string): string {
  const copy = inlined(svg, new Map()) as SVGSVGElement;
  const [w, t] = [Math.round(width), Math.round(height)];
  for (const [name, value] of Object.entries({ viewBox: `0 0 ${w} ${t}`, width: w, height: t })) copy.setAttribute(name, String(value));
  const paper = getComputedStyle(svg.closest(".gossamer") ?? document.body).backgroundColor;
  copy.prepend(s("title", {}, title), s("rect", { width: w, height: t, fill: plainColour(paper) }));
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`;
}

/** SVG text as a raster. The picture is a data: URL, which the page's policy allows. */
export async function rasterOf(text: string, width: number, height: number): Promise<HTMLCanvasElement> {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = h("canvas", { width: Math.round(width * PNG_SCALE), height: Math.round(height * PNG_SCALE) });
  const g = canvas.getContext("2d") as CanvasRenderingContext2D;
  g.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

export function pngOf(canvas: HTMLCanvasElement): Promise<Blob> {
  return new Promise((done, failed) => canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("the picture is too large for this browser"))), "image/png"));
}

/** Hand a file to the reader: a link to memory (blob:), which is no request and which the policy does not govern. */
export function save(name: string, file: Blob): void {
  const link = h("a", { href: URL.createObjectURL(file), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** A file name from a task's name: letters, digits, dots, dashes and underscores. */
export function fileName(name: string, ending: string): string {
  return `${name.replace(/[^\w.-]+/g, "_").slice(0, 80) || "circuit"}.${ending}`;
}
