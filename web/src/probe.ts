// What the page finds out by asking: the node that turns the answer round, and how far nodes are from their means.

import type { Answer, ExamplePair, NodeView, Reading } from "./bundle";
import type { Engine } from "./engine";
import type { Index } from "./index";

/** What a node is at a token. */
interface Seen {
  readonly value: number;
  readonly token: string;
}

/** A node that turns the answers of a pair round when clamped to what it is in the prompt of the other answer, where the
 * two differ most: `toSecond` turns the first of the candidates into the second, `toFirst` the other way. */
export interface Flip {
  readonly site: string;
  readonly candidates: readonly [string, string];
  readonly toFirst: Seen;
  readonly toSecond: Seen;
}

const MOST_NODES = 120; // asked about, those that matter most

/** log of first candidate over second. */
function odds(reading: Reading): number {
  const [a, b] = reading.candidates as [number, number];
  return Math.log(Math.max(a, 1e-300) / Math.max(b, 1e-300));
}

/** What a node is in both prompts of a pair at the token where it differs most between them; null if it differs nowhere.
 * What is before every prompt is thereby left out. */
function apart(one: Answer, other: Answer, node: NodeView): [one: Seen, other: Seen] | null {
  const of = ({ circuit }: Answer): readonly number[] => circuit.traces.find((trace) => trace.site === node.site)?.values ?? [];
  const [a, b] = [of(one), of(other)];
  const by = (t: number): number => Math.abs((a[t] as number) - (b[t] as number));
  const most = Math.min(a.length, b.length);
  let best = 0;
  for (let t = 1; t < most; t++) if (by(t) > by(best)) best = t;
  if (!most || by(best) === 0) return null;
  const seen = ({ tokens }: Answer, values: readonly number[]): Seen => ({ value: Number((values[best] as number).toPrecision(3)), token: tokens[best] ?? "" });
  return [seen(one, a), seen(other, b)];
}

/** The node whose clamp turns both prompts of a pair round, in the model and in the circuit, the furthest; null if none
 * does. The pair is the first whose prompts the model answers. Asks in between the page's other work. */
export async function findFlip(index: Index, engine: Engine, pairs: ReadonlyArray<ExamplePair>): Promise<Flip | null> {
  for (const pair of pairs) {
    const [one, other] = await bothSides(engine, pair);
    if (odds(one.model) > 0 && odds(other.model) < 0) return flipOf(index, engine, pair, one, other);
  }
  return null;
}

async function bothSides(engine: Engine, { clean, counterfactual, answer, wrong_answer }: ExamplePair): Promise<[Answer, Answer]> {
  const ask = (text: string): Promise<Answer> => engine.ask({ text, candidates: [answer, wrong_answer], interventions: [] });
  return [await ask(clean), await ask(counterfactual)];
}

async function flipOf(index: Index, engine: Engine, pair: ExamplePair, one: Answer, other: Answer): Promise<Flip | null> {
  const candidates = [pair.answer, pair.wrong_answer] as const;
  const rest = (): Promise<void> => new Promise((done) => window.setTimeout(done, 0));
  const ask = (text: string, site: string, value: number): Promise<Answer> =>
    engine.ask({ text, candidates, interventions: [{ kind: "clamp", site, value, src: null, dst: null, matrix: null }] });
  let best: Flip | null = null;
  let furthest = 0;
  for (const node of index.ranked.slice(0, MOST_NODES)) {
    await rest();
    const ends = apart(one, other, node);
    if (!ends) continue;
    const [first, second] = ends;
    const turned = await ask(pair.clean, node.site, second.value);
    const far = Math.min(-odds(turned.model), -odds(turned.circuit));
    if (far <= furthest) continue;
    const back = await ask(pair.counterfactual, node.site, first.value);
    const both = Math.min(far, odds(back.model), odds(back.circuit));
    if (both <= furthest) continue;
    furthest = both;
    best = { site: node.site, candidates, toSecond: second, toFirst: first };
  }
  return best;
}

function known(node: NodeView): number[] {
  return [...node.examples, ...node.task_examples].flatMap((one) => [...one.activations]).concat(node.mean ?? 0, ...(node.mean_on_answer ?? []), 0);
}

/** From the least to the largest value the node is known to take, a little wider. */
export function valueRange(node: NodeView, answer: Answer | null): [number, number] {
  const values = [...known(node), ...(answer?.model.traces.find((trace) => trace.site === node.site)?.values ?? [])];
  const [lo, hi] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(0.25 * (hi - lo), 0.5);
  return [lo - room, hi + room];
}

/** See `lit` of State. */
export function lightOf(index: Index, reading: Reading, at: number): Map<string, number> {
  return new Map(reading.traces.map(({ site, values }) => {
    const node = index.nodes.get(site);
    const mean = node?.mean ?? 0;
    const far = (v: number): number => Math.abs(v - mean);
    const furthest = Math.max(1e-9, ...values.map(far), ...(node ? known(node).map(far) : []));
    return [site, far(values[at] ?? mean) / furthest] as const;
  }));
}
