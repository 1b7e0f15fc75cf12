// Who answers a page that cannot compute by itself: the server it came from, or the notebook's kernel.

import type { Answer } from "./bundle";
import type { Engine } from "./engine";

/** What a host hands to `render`; anywidget's model fits as it is. */
export interface HostModel {
  get(name: string): unknown;
  send?(message: unknown): void;
  on?(event: string, listener: (message: never) => void): void;
  off?(event: string, listener: (message: never) => void): void;
}

/** The reader's notes, by node. */
export interface Notes {
  read(): Promise<Record<string, string>>;
  write(notes: Record<string, string>, last?: boolean): Promise<void>;
}

type What = "tokenize" | "ask" | "read notes" | "write notes";
/** last: the page is about to go away, and the call must outlive it. */
type Call = (what: What, body?: unknown, last?: boolean) => Promise<unknown>;

const ROUTES: Record<What, readonly [method: string, path: string]> = {
  tokenize: ["POST", "tokenize"], ask: ["POST", "ask"], "read notes": ["GET", "notes"], "write notes": ["PUT", "notes"],
};

/** A browser lets at most 64 KiB outlive their page. */
const KEPT_ALIVE = 20_000;

function toServer(base: string): Call {
  return async (what, body, last = false) => {
    const [method, path] = ROUTES[what];
    const text = body === undefined ? null : JSON.stringify(body);
    const sent = text === null ? {} : { body: text, headers: { "content-type": "application/json" }, keepalive: last && text.length < KEPT_ALIVE };
    const found = await fetch(base + path, { method, ...sent }).catch(() => {
      throw new Error("The server does not answer; is it still running?");
    });
    const told: unknown = await found.json().catch(() => null);
    const message = (told as { message?: unknown } | null)?.message;
    if (!found.ok || (method === "POST" && typeof message === "string")) throw new Error(typeof message === "string" ? message : `The server answered ${found.status}.`);
    return told;
  };
}

interface Reply {
  readonly id: string;
  readonly found?: unknown;
  readonly message?: string;
}

/** The call, and how to stop listening. Every view of a widget hears every reply: ids tell whose it is. */
function toKernel(model: HostModel): [Call, () => void] {
  const view = Math.random().toString(36).slice(2);
  const waiting = new Map<string, { resolve(found: unknown): void; reject(error: Error): void }>();
  let asked = 0;
  const hear = (reply: Reply): void => {
    const own = waiting.get(reply.id);
    if (!own) return;
    waiting.delete(reply.id);
    if (reply.message === undefined) own.resolve(reply.found);
    else own.reject(new Error(reply.message));
  };
  model.on?.("msg:custom", hear);
  const call: Call = (what, body) =>
    new Promise((resolve, reject) => {
      const id = `${view}-${asked++}`;
      waiting.set(id, { resolve, reject });
      model.send?.({ id, what, body });
    });
  return [call, () => model.off?.("msg:custom", hear)];
}

/** The host with `engine` and `notes` of whoever answers it, and how to leave: a host that says `server` came from one,
 * a notebook says `asks`. Others are as they were. */
export function hosted(model: HostModel): [HostModel, () => void] {
  const server = model.get("server");
  const [call, leave]: [Call | null, () => void] =
    typeof server === "string" ? [toServer(server), () => undefined] : model.get("asks") === true ? toKernel(model) : [null, () => undefined];
  if (!call) return [model, leave];
  const engine: Engine = {
    where: "server",
    tokenize: (text) => call("tokenize", { text }) as Promise<string[]>,
    ask: (question) => call("ask", question) as Promise<Answer>,
  };
  const notes: Notes = {
    read: () => call("read notes") as Promise<Record<string, string>>,
    write: async (found, last) => void (await call("write notes", found, last)),
  };
  const own: Record<string, unknown> = { engine, notes };
  return [{ get: (name) => own[name] ?? model.get(name) }, leave];
}

/** Who computes what the page itself cannot. */
export function whoComputes(model: HostModel): string {
  return model.get("asks") === true ? "Computed by the notebook's kernel" : "Computed by the server";
}

/** Whom the page asks, for its last line. */
export function whoAnswers(model: HostModel): string {
  if (typeof model.get("server") === "string") return "This page asks the server it came from, and no other.";
  return model.get("asks") === true ? "This page asks the notebook's kernel." : "This page is one file and makes no request.";
}
