// Answers prompts with the model that travels in the page. What a question and an answer mean: gossamer/explain/live.py.

import type { Answer, Bundle, CircuitView, Intervention, PageModel, Question, Reading } from "./bundle";
import type { Engine } from "./engine";
import { SparseModel, type Cut, type Run } from "./sparse_model";
import { Tokenizer } from "./tokenizer";

const TOP = 10;
const LARGEST_CLAMP = 1e6;

interface Site {
  readonly location: string;
  readonly index: number;
}

/** `1.attn.v:9`; null for what is no channel. */
function parse(site: string | null): Site | null {
  const found = /^(.+):(\d+)$/.exec(site ?? "");
  return found ? { location: found[1] as string, index: Number(found[2]) } : null;
}

const key = (edge: Cut): string => `${edge.matrix} ${edge.row} ${edge.column}`;

class PageEngine {
  private readonly model: SparseModel;
  private readonly tokenizer: Tokenizer;
  /** By location, 1 where the node is in the circuit. */
  private readonly kept = new Map<string, Uint8Array>();
  /** Weights between two nodes of the circuit that are none of its edges. */
  private readonly cutAlways: Cut[] = [];
  private readonly heads: [layer: number, head: number][];

  constructor(page: PageModel, private readonly circuit: CircuitView) {
    this.model = new SparseModel(page);
    this.tokenizer = new Tokenizer(page.tokenizer);
    for (const [location, mean] of this.model.means) this.kept.set(location, new Uint8Array(mean.length));
    for (const node of circuit.nodes) (this.kept.get(node.location) as Uint8Array)[node.index] = 1;
    const edges = new Set(circuit.edges.map((e) => key(this.edge(e.src, e.dst, e.matrix) as Cut)));
    const matrices = new Map(this.matrices());
    for (const [matrix, [source, destination]] of matrices) {
      const [from, to] = [this.kept.get(source) as Uint8Array, this.kept.get(destination) as Uint8Array];
      if (!from.includes(1) || !to.includes(1)) continue;
      for (const [row, column] of this.model.entries(matrix)) {
        const cut = { matrix, row, column };
        if (to[row] && from[column] && !edges.has(key(cut))) this.cutAlways.push(cut);
      }
    }
    const heads = circuit.nodes.flatMap((node) => (node.head === null ? [] : [`${node.layer} ${node.head}`]));
    this.heads = [...new Set(heads)].map((text) => text.split(" ").map(Number) as [number, number]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  }

  private *matrices(): Iterable<[matrix: string, ends: [source: string, destination: string]]> {
    for (let i = 0; i < this.model.config.n_layer; i++) {
      for (const part of ["q", "k", "v"]) yield [`${i}.attn.c_attn.${part}`, [`${i}.attn.act_in`, `${i}.attn.${part}`]];
      yield [`${i}.attn.c_proj`, [`${i}.attn.v`, `${i}.attn.resid_delta`]];
      yield [`${i}.mlp.c_fc`, [`${i}.mlp.act_in`, `${i}.mlp.post_act`]];
      yield [`${i}.mlp.c_proj`, [`${i}.mlp.post_act`, `${i}.mlp.resid_delta`]];
    }
  }

  async tokenize(text: string): Promise<string[]> {
    return this.tokenizer.encode(text).map((id) => this.tokenizer.decode(id));
  }

  async ask(question: Question): Promise<Answer> {
    const problems: string[] = [];
    const tokens = [...(this.tokenizer.bos === null ? [] : [this.tokenizer.bos]), ...this.tokenizer.encode(question.text)];
    const most = this.model.config.n_ctx;
    if (!tokens.length) problems.push("Expected a prompt of at least one token, got none");
    if (tokens.length > most) problems.push(`Expected a prompt of at most ${most} tokens, got ${tokens.length}`);
    const merged: string[] = [];
    const wanted = question.candidates.map((text) => this.candidate(question.text, text, problems, merged));
    const values = new Map<string, Map<number, number>>();
    const cuts: Cut[] = [];
    for (const change of question.interventions) {
      const problem = this.take(change, values, cuts);
      if (problem) problems.push(problem);
    }
    if (problems.length) throw new Error(`${problems.join("; ")}.`);

    const change = (location: string, x: Float32Array): void => {
      const width = (this.model.means.get(location) as Float32Array).length;
      for (const [channel, value] of values.get(location) ?? []) for (let i = channel; i < x.length; i += width) x[i] = value;
    };
    const own = this.model.run(tokens, change, distinct(cuts));
    const alone = this.model.run(tokens, (location, x) => {
      this.ablate(location, x);
      change(location, x);
    }, distinct([...this.cutAlways, ...cuts]));
    return {
      tokens: tokens.map((id) => this.tokenizer.decode(id)),
      model: this.reading(own, wanted, tokens.length, false),
      circuit: this.reading(alone, wanted, tokens.length, true),
      note: merged.length ? `${merged.join(" and ")} would merge with the end of this prompt: asked for is the token it is alone` : "",
    };
  }

  /** The token that a candidate is right after the prompt: see candidate_tokens of gossamer/explain/live.py. */
  private candidate(prompt: string, text: string, problems: string[], merged: string[]): number {
    const [before, both] = [this.tokenizer.encode(prompt), this.tokenizer.encode(prompt + text)];
    const merges = before.some((id, i) => both[i] !== id);
    const own = merges ? this.tokenizer.encode(text) : both.slice(before.length);
    if (own.length !== 1) problems.push(`Expected a candidate of one token after the prompt, ${JSON.stringify(text)} is ${own.length}`);
    else if (merges) merged.push(text);
    return own[0] ?? 0;
  }

  /** What is outside the circuit becomes its reference mean. */
  private ablate(location: string, x: Float32Array): void {
    const [kept, mean] = [this.kept.get(location) as Uint8Array, this.model.means.get(location) as Float32Array];
    for (let i = 0; i < x.length; i++) if (!kept[i % kept.length]) x[i] = mean[i % kept.length] as number;
  }

  private edge(src: string | null, dst: string | null, matrix: string | null): Cut | null {
    const [from, to] = [parse(src), parse(dst)];
    const ends = [...this.matrices()].find(([name]) => name === matrix)?.[1];
    if (!from || !to || !ends || ends[0] !== from.location || ends[1] !== to.location) return null;
    const cut = { matrix: matrix as string, row: to.index, column: from.index };
    return to.index < (this.model.means.get(to.location) as Float32Array).length && this.model.has(cut) ? cut : null;
  }

  /** Adds an intervention to what is changed; returns what is wrong with it. */
  private take(change: Intervention, values: Map<string, Map<number, number>>, cuts: Cut[]): string | null {
    if (change.kind === "cut") {
      const cut = this.edge(change.src, change.dst, change.matrix);
      if (!cut) return `Expected an edge of this model, got ${change.src} to ${change.dst} through ${change.matrix}`;
      if (!this.model.config.bias) return "A model without biases has no place for what a cut edge is replaced by; ablate nodes";
      cuts.push(cut);
      return null;
    }
    const site = parse(change.site);
    const mean = site && this.model.means.get(site.location)?.[site.index];
    if (!site || mean === undefined || mean === null) return `Expected a node of this model, got ${change.site}`;
    const value = change.kind === "clamp" ? change.value : mean;
    if (value === null || !(Math.abs(value) <= LARGEST_CLAMP)) return `Expected a number within ${LARGEST_CLAMP.toLocaleString("en")} of 0 to clamp ${change.site} to, got ${value}`;
    const own = values.get(site.location) ?? new Map<number, number>();
    values.set(site.location, own.set(site.index, value));
    return null;
  }

  private reading(run: Run, candidates: number[], pos: number, ofCircuit: boolean): Reading {
    const { logits, reads } = run;
    if (!logits.every(Number.isFinite)) throw new Error("Expected finite logits, some are not: an activation has overflowed; make the model again.");
    const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const p = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
    const total = p.reduce((a, b) => a + b, 0);
    for (let i = 0; i < p.length; i++) p[i] = (p[i] as number) / total;
    const best = largestOf(p, TOP);
    let chosen = candidates.map((id) => p[id] as number);
    const fit = ofCircuit ? this.circuit.calibration : null;
    if (fit && candidates.length === 2) {
      const [a, b] = candidates as [number, number];
      const z = fit.scale * ((logits[a] as number) - (logits[b] as number)) + fit.shift;
      const both = (chosen[0] as number) + (chosen[1] as number);
      chosen = [both / (1 + Math.exp(-z)), both / (1 + Math.exp(z))];
    }
    return {
      top: best.map((id) => ({ token: this.tokenizer.decode(id), id, probability: p[id] as number })),
      candidates: chosen,
      traces: this.circuit.nodes.map((node) => {
        const x = reads.get(node.location) as Float32Array;
        return { site: node.site, values: Array.from({ length: pos }, (_, t) => x[(t * x.length) / pos + node.index] as number) };
      }),
      patterns: this.heads.map(([layer, head]) => {
        const [q, k] = [reads.get(`${layer}.attn.q`), reads.get(`${layer}.attn.k`)] as [Float32Array, Float32Array];
        return { head: `a${layer}.h${head}`, rows: Array.from({ length: pos }, (_, t) => Array.from(this.model.looks(layer, head, q, k, t))) };
      }),
    };
  }
}

/** Indices of the n largest, the largest first. */
function largestOf(list: Float64Array, n: number): number[] {
  const found: number[] = [];
  list.forEach((value, i) => {
    if (found.length === n && value <= (list[found[n - 1] as number] as number)) return;
    const at = found.findIndex((other) => (list[other] as number) < value);
    found.splice(at < 0 ? found.length : at, 0, i);
    found.length = Math.min(found.length, n);
  });
  return found;
}

function distinct(cuts: ReadonlyArray<Cut>): Cut[] {
  return [...new Map(cuts.map((cut) => [key(cut), cut] as const)).values()];
}

/** The engine of a bundle whose model travels with it, else null. The model is unpacked when it is first asked. */
export function pageEngine({ live, circuit }: Bundle): Engine | null {
  if (!live) return null;
  let made: PageEngine | null = null;
  const engine = (): PageEngine => (made ??= new PageEngine(live, circuit));
  return { where: "page", tokenize: async (text) => engine().tokenize(text), ask: async (question) => engine().ask(question) };
}
