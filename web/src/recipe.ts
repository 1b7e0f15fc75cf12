// What was asked and done, as text: a question that a server or `gossamer` in Python reads as well; and undo and redo.

import type { Intervention, Question } from "./bundle";

function fail(what: string): never {
  throw new Error(`This is not a recipe: ${what}. Load one that "Save as recipe" wrote.`);
}

const isText = (value: unknown): value is string => typeof value === "string";
const textOrNull = (value: unknown): string | null => (isText(value) ? value : null);

function intervention(raw: unknown): Intervention {
  const { kind, site, value, src, dst, matrix } = (raw ?? {}) as Record<string, unknown>;
  const sound = kind === "cut" ? isText(src) && isText(dst) && isText(matrix) : (kind === "ablate" || (kind === "clamp" && typeof value === "number")) && isText(site);
  if (!sound) fail(`${JSON.stringify(raw)} is no intervention`);
  return {
    kind: kind as Intervention["kind"], site: textOrNull(site), value: typeof value === "number" ? value : null,
    src: textOrNull(src), dst: textOrNull(dst), matrix: textOrNull(matrix),
  };
}

/** The question in a text; an Error for the reader when there is none. */
export function asQuestion(raw: string): Question {
  let found: Partial<Record<keyof Question, unknown>>;
  try {
    found = JSON.parse(raw) as typeof found;
  } catch {
    return fail("it is no JSON");
  }
  if (!found || !isText(found.text)) return fail("it has no prompt");
  const [candidates, interventions] = [found.candidates ?? [], found.interventions ?? []];
  if (!Array.isArray(candidates) || !candidates.every(isText)) return fail("its candidates are no texts");
  if (!Array.isArray(interventions)) return fail("its interventions are no list");
  return { text: found.text, candidates, interventions: interventions.map(intervention) };
}

export function sameQuestion(raw: string, question: Question): boolean {
  try {
    return JSON.stringify(asQuestion(raw)) === JSON.stringify(asQuestion(JSON.stringify(question)));
  } catch {
    return false;
  }
}

/** Lists of interventions with undo and redo. A preview replaces what is shown; the next push makes one step of it. */
export class History {
  private past: ReadonlyArray<Intervention>[] = [];
  private future: ReadonlyArray<Intervention>[] = [];
  private settled: ReadonlyArray<Intervention> = [];
  private shown: ReadonlyArray<Intervention> = [];

  get now(): ReadonlyArray<Intervention> {
    return this.shown;
  }

  get canUndo(): boolean {
    return this.past.length > 0;
  }

  get canRedo(): boolean {
    return this.future.length > 0;
  }

  preview(list: ReadonlyArray<Intervention>): void {
    this.shown = list;
  }

  push(list: ReadonlyArray<Intervention>): void {
    if (JSON.stringify(list) !== JSON.stringify(this.settled)) {
      this.past.push(this.settled);
      this.future = [];
    }
    this.settled = this.shown = list;
  }

  undo(): void {
    this.move(this.past, this.future);
  }

  redo(): void {
    this.move(this.future, this.past);
  }

  private move(from: ReadonlyArray<Intervention>[], to: ReadonlyArray<Intervention>[]): void {
    const list = from.pop();
    if (!list) return;
    to.push(this.settled);
    this.settled = this.shown = list;
  }
}
