// Notes the reader writes on nodes and on the circuit. The host keeps them if it gives a place, else the browser does,
// else they last as long as the page; they can be saved to a file and read from one.

import type { Bundle } from "./bundle";
import { h } from "./dom";

/** Notes by site; those on the whole circuit under `circuit`. */
export type NotesOf = Readonly<Record<string, string>>;

/** What a host may give as `model.get("notes")`. */
export interface NotesHost {
  read(): Promise<Record<string, string>>;
  /** last: the page is about to go away. */
  write(notes: Record<string, string>, last?: boolean): Promise<unknown> | unknown;
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

/** The notes with some of them changed; an empty text is no note. */
function changed(notes: NotesOf, by: NotesOf): Record<string, string> {
  return soundNotes({ ...notes, ...by }) ?? {};
}

export class Notes {
  private notes: Record<string, string> = {};
  /** What was written here and is not kept yet: only this is put over what others keep. */
  private waiting: Record<string, string> = {};
  private listeners: (() => void)[] = [];
  private timer = 0;
  /** Whether the host's notes have been read: before that nothing is written over them. */
  private known = false;
  private turn: Promise<void> = Promise.resolve();
  private readonly key: string;
  private readonly host: NotesHost | null;
  /** Where they are kept, as the page says it. */
  where: "host" | "browser" | "page" = "page";

  constructor(bundle: Bundle, host: unknown) {
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
      /* no storage here: they last as long as the page */
    }
  }

  get(site: string): string {
    return this.notes[site] ?? "";
  }

  all(): NotesOf {
    return this.notes;
  }

  set(site: string, text: string): void {
    this.change({ [site]: text.slice(0, LONGEST) });
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.write(), PAUSE_MS);
  }

  /** Notes from a file over the present ones. */
  add(more: Record<string, string>): void {
    this.change(more);
    this.write();
  }

  listen(listener: () => void): void {
    this.listeners.push(listener);
  }

  /** Writes what waits and listens no more; ends when the host has what it is sent. */
  close(): Promise<void> {
    if (this.where === "host" && !this.known) this.write();
    else this.last();
    window.removeEventListener("pagehide", this.last);
    window.removeEventListener("storage", this.hear);
    document.removeEventListener("visibilitychange", this.look);
    return this.turn;
  }

  private change(by: Record<string, string>): void {
    this.waiting = { ...this.waiting, ...by };
    this.notes = changed(this.notes, by);
    this.tell();
  }

  /** What is kept now is this; what waits here stays over it. */
  private have(kept: NotesOf): void {
    this.notes = changed(kept, this.waiting);
    this.tell();
  }

  /** What the browser keeps; none where that is not notes. Throws without storage. */
  private kept(): Record<string, string> {
    const text = window.localStorage.getItem(this.key);
    try {
      return soundNotes(JSON.parse(text ?? "{}")) ?? {};
    } catch {
      return {};
    }
  }

  private write(): void {
    window.clearTimeout(this.timer);
    if (this.where === "host") this.inTurn(() => this.toHost());
    else if (this.where === "browser") this.toBrowser();
  }

  private toBrowser(): void {
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
  private async toHost(): Promise<void> {
    const sent = this.waiting;
    if (!this.host || !Object.keys(sent).length) return;
    const kept = await this.ofHost(this.host);
    this.have(kept);
    await this.host.write(changed(kept, sent));
    this.waiting = Object.fromEntries(Object.entries(this.waiting).filter(([site, text]) => sent[site] !== text));
  }

  /** What the host keeps; throws where that is not notes, so that nothing is written over it. */
  private async ofHost(host: NotesHost): Promise<Record<string, string>> {
    const found = soundNotes(await host.read());
    if (!found) throw new Error("not notes");
    this.known = true;
    return found;
  }

  /** At the end of the page there is no time to read again. */
  private readonly last = (): void => {
    window.clearTimeout(this.timer);
    if (!Object.keys(this.waiting).length) return;
    if (this.where === "browser") this.toBrowser();
    else if (this.where === "host" && this.known) void Promise.resolve(this.host?.write({ ...this.notes }, true)).catch(() => undefined);
  };

  /** What the host keeps, at the start and when the reader comes back from another tab. */
  private readonly look = (): void => {
    const host = this.host;
    if (document.hidden || this.where !== "host" || !host) return;
    this.inTurn(async () => this.have(await this.ofHost(host)));
  };

  /** One call of the host after the other: an answer is never older than what was written. */
  private inTurn(call: () => Promise<void>): void {
    this.turn = this.turn.then(call).catch(() => this.lost());
  }

  /** Another tab has written. */
  private readonly hear = (event: StorageEvent): void => {
    if (event.key === this.key || event.key === null) this.have(this.kept());
  };

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
