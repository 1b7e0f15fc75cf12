// Notes the reader writes on nodes and on the circuit. The host keeps them if it gives a place, else the browser does,
// else they last as long as the page; they can be saved to a file and read from one.

import type { Bundle } from "./bundle";
import { h } from "./dom";

/** Notes by site; those on the whole circuit under `circuit`. */
export type NotesOf = Readonly<Record<string, string>>;

/** What a host may give as `model.get("notes")`. */
export interface NotesHost {
  read(): Promise<Record<string, string>>;
  write(notes: Record<string, string>): Promise<unknown> | unknown;
}

const LONGEST = 20_000;
const PAUSE_MS = 300;

/** A small hash of the Record: notes belong to one run, wherever its page lies. */
function keyOf(bundle: Bundle): string {
  let hash = 5381;
  for (const c of JSON.stringify([bundle.record, bundle.task.name, bundle.circuit.n_nodes])) hash = ((hash * 33) ^ c.charCodeAt(0)) >>> 0;
  return `gossamer-notes-${hash.toString(16)}`;
}

function isHost(value: unknown): value is NotesHost {
  return typeof value === "object" && value !== null && typeof (value as NotesHost).read === "function" && typeof (value as NotesHost).write === "function";
}

/** Only texts under keys: what a file or a host gives is not trusted to be notes. */
export function soundNotes(value: unknown): Record<string, string> | null {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  const pairs = Object.entries(value);
  if (!pairs.every(([, text]) => typeof text === "string" && text.length <= LONGEST)) return null;
  return Object.fromEntries(pairs.filter(([, text]) => text !== ""));
}

export class Notes {
  private notes: Record<string, string> = {};
  private listeners: (() => void)[] = [];
  private timer = 0;
  private readonly key: string;
  private readonly host: NotesHost | null;
  /** Where they are kept, as the page says it. */
  where: "host" | "browser" | "page" = "page";

  constructor(bundle: Bundle, host: unknown) {
    this.key = keyOf(bundle);
    this.host = isHost(host) ? host : null;
    if (this.host) {
      this.where = "host";
      this.host.read().then((found) => this.take(soundNotes(found) ?? {}), () => this.lost());
      return;
    }
    try {
      const kept = window.localStorage.getItem(this.key);
      this.where = "browser";
      this.notes = soundNotes(JSON.parse(kept ?? "{}")) ?? {};
    } catch {
      /* no storage here, or not notes: they last as long as the page */
    }
  }

  get(site: string): string {
    return this.notes[site] ?? "";
  }

  all(): NotesOf {
    return this.notes;
  }

  set(site: string, text: string): void {
    const next = { ...this.notes };
    if (text) next[site] = text.slice(0, LONGEST);
    else delete next[site];
    this.notes = next;
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.write(), PAUSE_MS);
    this.tell();
  }

  /** Notes from elsewhere over the present ones. */
  take(more: Record<string, string>): void {
    this.notes = { ...this.notes, ...more };
    this.tell();
  }

  /** As `take`, and kept. */
  add(more: Record<string, string>): void {
    this.take(more);
    this.write();
  }

  listen(listener: () => void): void {
    this.listeners.push(listener);
  }

  /** Writes what waits; for the end of the page. */
  write(): void {
    window.clearTimeout(this.timer);
    try {
      if (this.where === "host") void Promise.resolve(this.host?.write({ ...this.notes })).catch(() => this.lost());
      else if (this.where === "browser") window.localStorage.setItem(this.key, JSON.stringify(this.notes));
    } catch {
      this.lost();
    }
  }

  /** The place that kept them does so no more. */
  private lost(): void {
    this.where = "page";
    this.tell();
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}

const KEPT = { host: "saved beside the run", browser: "kept in this browser", page: "not kept: save them to a file" };

/** The field of one node's note, or of the circuit's; `refresh` it when the notes have changed elsewhere. */
export function noteField(notes: Notes, site: string, label: string): { element: HTMLElement; refresh(): void } {
  const area = h("textarea", { class: "note-text", rows: 2, maxlength: LONGEST, "aria-label": label, placeholder: "What you think it does" });
  const aside = h("span", { class: "aside note-kept" });
  const refresh = (): void => {
    if (area.value !== notes.get(site)) area.value = notes.get(site);
    aside.textContent = KEPT[notes.where];
  };
  area.addEventListener("input", () => notes.set(site, area.value));
  refresh();
  return { element: h("section", { class: "card-part" }, h("h3", {}, "Notes", aside), area), refresh };
}
