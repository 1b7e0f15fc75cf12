// What the reader is looking at. One small store; every part of the page listens to it.

export type Theme = "auto" | "light" | "dark";

export interface State {
  readonly selected: string | null;
  /** Under the pointer or the keyboard focus: shown in the figure as long as it lasts. */
  readonly peeked: string | null;
  /** Sites that match the search; null when nothing is searched. */
  readonly found: ReadonlySet<string> | null;
  /** How many of the strongest edges are drawn. */
  readonly strongest: number;
  /** How far each node of the circuit is from its mean at the token looked at, as a share (0 to 1) of the furthest it is
   * known to go; null while no prompt is asked. lab.ts sets a new map after every answer; the figure listens. */
  readonly lit: ReadonlyMap<string, number> | null;
  /** What other parts of the page want to survive a reload, as text under a key of their own; share.ts keeps it in the URL. */
  readonly kept: Readonly<Record<string, string>>;
}

type Listener = (now: State, before: State) => void;

export class Store {
  private listeners: Listener[] = [];
  constructor(private state: State) {}

  get(): State {
    return this.state;
  }

  set(change: Partial<State>): void {
    const before = this.state;
    this.state = { ...before, ...change };
    for (const listener of this.listeners) listener(this.state, before);
  }

  listen(listener: Listener): void {
    this.listeners.push(listener);
  }
}
