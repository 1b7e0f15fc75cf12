// The weight-sparse transformer of src/gossamer/models/sparse.py: its forward pass for one prompt, every location to be
// read and changed. Numbers are stored as float32 and summed in float64.

import type { PageArray, PageConfig, PageModel } from "./bundle";

/** Changes activations [pos * width], in place, at a location. */
export type Edit = (location: string, x: Float32Array) => void;

/** An entry of a matrix: its destination reads the reference mean of its source. */
export interface Cut {
  readonly matrix: string;
  readonly row: number;
  readonly column: number;
}

export interface Run {
  /** Logits after the last token, [vocab]. */
  readonly logits: Float32Array;
  /** Activations after every edit, [pos * width] by location. */
  readonly reads: ReadonlyMap<string, Float32Array>;
}

/** Non-zero entries row by row. */
interface Sparse {
  readonly rows: number;
  readonly columns: number;
  readonly start: Int32Array;
  readonly column: Int32Array;
  readonly value: Float32Array;
}

interface Linear {
  readonly weight: Sparse;
  readonly bias: Float32Array | null;
}

const EPS = 2 ** -23; // of float32, as torch.finfo has it
const KINDS = { float32: Float32Array, int32: Int32Array, uint32: Uint32Array, uint16: Uint16Array, uint8: Uint8Array, int8: Int8Array };
type Numbers = InstanceType<(typeof KINDS)[keyof typeof KINDS]>;

function unpacked(array: PageArray): Numbers {
  const text = atob(array.base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return new KINDS[array.dtype](bytes.buffer);
}

function ofDense(full: Float32Array, rows: number, columns: number): Sparse {
  const start = new Int32Array(rows + 1);
  const column: number[] = [];
  const value: number[] = [];
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const entry = full[r * columns + c] as number;
      if (entry !== 0) {
        column.push(c);
        value.push(entry);
      }
    }
    start[r + 1] = column.length;
  }
  return { rows, columns, start, column: Int32Array.from(column), value: Float32Array.from(value) };
}

/** Arrays by name, in the forms of a model folder. */
class Arrays {
  private readonly found: Map<string, PageArray>;

  constructor(arrays: ReadonlyArray<PageArray>) {
    this.found = new Map(arrays.map((array) => [array.name, array] as const));
  }

  vector(name: string): Float32Array | null {
    const array = this.found.get(name);
    return array ? (unpacked(array) as Float32Array) : null;
  }

  needed(name: string): Float32Array {
    const array = this.vector(name);
    if (!array) throw new Error(`The model in this page lacks ${name}.`);
    return array;
  }

  matrix(name: string, columns: number): Sparse {
    const counts = this.found.get(`${name}.row_counts`);
    if (!counts) {
      const full = this.needed(name);
      return ofDense(full, full.length / columns, columns);
    }
    const start = new Int32Array((counts.shape[0] as number) + 1);
    unpacked(counts).forEach((n: number, r: number) => (start[r + 1] = (start[r] as number) + n));
    const column = Int32Array.from(unpacked(this.found.get(`${name}.columns`) as PageArray));
    return { rows: start.length - 1, columns, start, column, value: this.needed(`${name}.values`) };
  }

  /** Rows of whole numbers times a power of two (models/quantise.py), or of plain numbers. */
  rounded(name: string, columns: number): ((row: number) => Float32Array) | null {
    const codes = this.found.get(`${name}.codes`);
    if (codes) {
      const [whole, exponent] = [unpacked(codes), unpacked(this.found.get(`${name}.exponents`) as PageArray)];
      return (row) => Float32Array.from(whole.subarray(row * columns, (row + 1) * columns), (code) => code * 2 ** (exponent[row] as number));
    }
    if (!this.found.has(name) && !this.found.has(`${name}.row_counts`)) return null;
    const table = this.matrix(name, columns);
    return (row) => rowOf(table, row);
  }
}

function rowOf(matrix: Sparse, row: number): Float32Array {
  const out = new Float32Array(matrix.columns);
  for (let e = matrix.start[row] as number; e < (matrix.start[row + 1] as number); e++) out[matrix.column[e] as number] = matrix.value[e] as number;
  return out;
}

/** weight x + bias of every row of x [pos * columns]; rows `from` to `to` of the weight. */
function linear({ weight, bias }: Linear, x: Float32Array, pos: number, from = 0, to = weight.rows): Float32Array {
  const { columns, start, column, value } = weight;
  const width = to - from;
  const out = new Float32Array(pos * width);
  for (let t = 0; t < pos; t++) {
    const base = t * columns;
    for (let r = from; r < to; r++) {
      let sum = 0;
      for (let e = start[r] as number; e < (start[r + 1] as number); e++) sum += (value[e] as number) * (x[base + (column[e] as number)] as number);
      out[t * width + r - from] = sum + (bias ? (bias[r] as number) : 0);
    }
  }
  return out;
}

/** The n-th smallest of a list (from 0), which is reordered: Hoare's selection. */
function nth(list: Float32Array, n: number): number {
  let [lo, hi] = [0, list.length - 1];
  while (lo < hi) {
    const pivot = list[(lo + hi) >> 1] as number;
    let [i, j] = [lo, hi];
    while (i <= j) {
      while ((list[i] as number) < pivot) i++;
      while ((list[j] as number) > pivot) j--;
      if (i > j) break;
      const held = list[i] as number;
      list[i++] = list[j] as number;
      list[j--] = held;
    }
    if (n <= j) hi = j;
    else if (n >= i) lo = i;
    else break;
  }
  return list[n] as number;
}

/** Zeroes all but the k largest |x| of each row, in place. Of equal ones at the edge the first in the row stay; torch
 * does not say which it keeps. */
function keepLargest(x: Float32Array, width: number, k: number): void {
  if (k >= width) return;
  const size = new Float32Array(width);
  for (let base = 0; base < x.length; base += width) {
    for (let i = 0; i < width; i++) size[i] = Math.abs(x[base + i] as number);
    const threshold = nth(size, width - k);
    let ties = k;
    for (let i = 0; i < width; i++) if ((size[i] as number) > threshold) ties--;
    for (let i = 0; i < width; i++) {
      const own = Math.abs(x[base + i] as number);
      if (own > threshold) continue;
      if (own === threshold && ties > 0) ties--;
      else x[base + i] = 0;
    }
  }
}

/** x / sqrt(mean(x^2) + eps) * gain of every row. */
function normed(x: Float32Array, width: number, gain: Float32Array): Float32Array {
  const out = new Float32Array(x.length);
  for (let base = 0; base < x.length; base += width) {
    let square = 0;
    for (let i = 0; i < width; i++) square += (x[base + i] as number) ** 2;
    const scale = 1 / Math.sqrt(square / width + EPS);
    for (let i = 0; i < width; i++) out[base + i] = (x[base + i] as number) * scale * (gain[i] as number);
  }
  return out;
}

/** The error function for x >= 0: a series of positive terms, 2 / sqrt(pi) e^(-x^2) sum of 2^n x^(2n+1) / (2n+1)!!. */
function erf(x: number): number {
  if (x > 6) return 1;
  let term = x;
  let sum = x;
  for (let n = 1; term > sum * 1e-17; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

function gelu(x: number): number {
  const part = erf(Math.abs(x) / Math.SQRT2);
  return 0.5 * x * (x < 0 ? 1 - part : 1 + part);
}

export class SparseModel {
  readonly config: PageConfig;
  /** Reference means by location, in the order of the forward pass. */
  readonly means = new Map<string, Float32Array>();
  private readonly embedding: Sparse;
  private readonly positions: Sparse | null;
  private readonly unembedding: Linear;
  private readonly bigram: ((row: number) => Float32Array) | null;
  private readonly linears = new Map<string, Linear>();
  private readonly vectors = new Map<string, Float32Array>();

  constructor(page: PageModel) {
    const c = page.config;
    const arrays = new Arrays(page.arrays);
    this.config = c;
    this.embedding = arrays.matrix("wte.weight", c.d_model);
    this.positions = c.position === "none" ? null : arrays.matrix("wpe.weight", c.d_pos || c.d_model);
    this.unembedding = { weight: arrays.matrix("lm_head.weight", c.d_model), bias: arrays.vector("final_logits_bias") };
    this.bigram = arrays.rounded("bigram_table", c.vocab_size);
    const [wide, attn] = [c.d_model + c.d_pos, c.n_head * c.d_head];
    for (let i = 0; i < c.n_layer; i++) {
      for (const [name, columns] of [["attn.c_attn", wide], ["attn.c_proj", attn], ["mlp.c_fc", wide], ["mlp.c_proj", c.d_mlp]] as const) {
        this.linears.set(`${i}.${name}`, { weight: arrays.matrix(`h.${i}.${name}.weight`, columns), bias: arrays.vector(`h.${i}.${name}.bias`) });
      }
      for (const name of ["ln_1", "ln_2", ...(c.d_pos ? ["ln_p1", "ln_p2"] : [])]) this.vectors.set(`${i}.${name}`, arrays.needed(`h.${i}.${name}.weight`));
      const sink = arrays.vector(`h.${i}.attn.sink_logit`);
      if (sink) this.vectors.set(`${i}.sink`, sink);
    }
    this.vectors.set("ln_f", arrays.needed("ln_f.weight"));
    for (const { name } of page.arrays) if (name.startsWith("mean.")) this.means.set(name.slice(5), arrays.needed(name));
  }

  /** (matrix holding it, its first row) of a matrix that counts in edges, and the location it reads. */
  private holder(matrix: string): { name: string; first: number; source: string } {
    const [layer, block, weight, part] = matrix.split(".") as [string, string, string, string?];
    const source = weight === "c_proj" ? (block === "attn" ? "attn.v" : "mlp.post_act") : `${block}.act_in`;
    const first = part ? "qkv".indexOf(part) * this.config.n_head * this.config.d_head : 0;
    return { name: `${layer}.${block}.${weight}`, first, source: `${layer}.${source}` };
  }

  private entry(name: string, row: number, column: number): number {
    const weight = this.linears.get(name)?.weight;
    if (!weight || row < 0 || row >= weight.rows) return -1;
    for (let e = weight.start[row] as number; e < (weight.start[row + 1] as number); e++) if (weight.column[e] === column) return e;
    return -1;
  }

  /** Whether a matrix has a non-zero entry there. */
  has({ matrix, row, column }: Cut): boolean {
    const { name, first } = this.holder(matrix);
    return this.entry(name, first + row, column) >= 0;
  }

  /** Every non-zero (row, column) of a matrix that counts in edges. */
  *entries(matrix: string): Iterable<readonly [number, number]> {
    const { name, first } = this.holder(matrix);
    const weight = (this.linears.get(name) as Linear).weight;
    const rows = matrix.includes("c_attn") ? this.config.n_head * this.config.d_head : weight.rows;
    for (let r = 0; r < rows; r++) {
      for (let e = weight.start[first + r] as number; e < (weight.start[first + r + 1] as number); e++) yield [r, weight.column[e] as number];
    }
  }

  /** The matrices with these entries moved, times the mean of their source, into the bias. */
  private without(cuts: ReadonlyArray<Cut>): Map<string, Linear> {
    const linears = new Map(this.linears);
    for (const { matrix, row, column } of cuts) {
      const { name, first, source } = this.holder(matrix);
      const at = this.entry(name, first + row, column);
      let own = linears.get(name) as Linear;
      if (own === this.linears.get(name)) {
        own = { weight: { ...own.weight, value: own.weight.value.slice() }, bias: (own.bias as Float32Array).slice() };
        linears.set(name, own);
      }
      const bias = own.bias as Float32Array;
      bias[first + row] = (bias[first + row] as number) + (own.weight.value[at] as number) * ((this.means.get(source) as Float32Array)[column] as number);
      own.weight.value[at] = 0;
    }
    return linears;
  }

  /** The forward pass of one prompt's tokens. Each edge may be cut once. */
  run(tokens: ReadonlyArray<number>, edit: Edit, cuts: ReadonlyArray<Cut> = []): Run {
    const c = this.config;
    const pos = tokens.length;
    const linears = this.without(cuts);
    const reads = new Map<string, Float32Array>();
    const at = (location: string, x: Float32Array): Float32Array => {
      edit(location, x);
      reads.set(location, x);
      return x;
    };
    const weights = (name: string): Linear => linears.get(name) as Linear;
    const kept = (place: string): number => c.kept[place] as number;
    const write = (x: Float32Array, name: string, place: string, from: Float32Array): void => {
      const d = linear(weights(name), from, pos);
      keepLargest(d, c.d_model, kept(place));
      at(name.replace("c_proj", "resid_delta"), d);
      for (let i = 0; i < x.length; i++) x[i] = (x[i] as number) + (d[i] as number);
    };

    const { x, where } = this.embed(tokens);
    for (let i = 0; i < c.n_layer; i++) {
      let a = at(`${i}.attn.act_in`, this.read(`${i}.ln_`, "1", x, where, kept("attn_in")));
      const width = c.n_head * c.d_head;
      const [q, k, v] = ["q", "k", "v"].map((part, n) => {
        const y = linear(weights(`${i}.attn.c_attn`), a, pos, n * width, (n + 1) * width);
        keepLargest(y, width, kept(`attn_${part}`));
        return at(`${i}.attn.${part}`, y);
      }) as [Float32Array, Float32Array, Float32Array];
      write(x, `${i}.attn.c_proj`, "attn_out", this.attend(i, q, k, v, pos));
      a = at(`${i}.mlp.act_in`, this.read(`${i}.ln_`, "2", x, where, kept("mlp_in")));
      const hidden = linear(weights(`${i}.mlp.c_fc`), a, pos);
      for (let n = 0; n < hidden.length; n++) hidden[n] = c.activation === "gelu" ? gelu(hidden[n] as number) : Math.max(0, hidden[n] as number);
      keepLargest(hidden, c.d_mlp, kept("mlp_neuron"));
      write(x, `${i}.mlp.c_proj`, "mlp_out", at(`${i}.mlp.post_act`, hidden));
    }
    at("final_resid", x);
    const last = normed(x.subarray((pos - 1) * c.d_model), c.d_model, this.vectors.get("ln_f") as Float32Array);
    const logits = linear(this.unembedding, last, 1);
    const next = this.bigram?.(tokens[pos - 1] as number);
    if (next) for (let n = 0; n < logits.length; n++) logits[n] = (logits[n] as number) + (next[n] as number);
    return { logits, reads };
  }

  private embed(tokens: ReadonlyArray<number>): { x: Float32Array; where: Float32Array | null } {
    const { d_model, d_pos, position } = this.config;
    const x = new Float32Array(tokens.length * d_model);
    tokens.forEach((token, t) => x.set(rowOf(this.embedding, token), t * d_model));
    if (!this.positions) return { x, where: null };
    const where = new Float32Array(tokens.length * this.positions.columns);
    tokens.forEach((_, t) => where.set(rowOf(this.positions as Sparse, t), t * (d_pos || d_model)));
    if (position === "channels") return { x, where };
    return { x: x.map((own, n) => own + (where[n] as number)), where: null };
  }

  /** What a sublayer reads: the normalised residual and, where there are any, positional channels after it; AbsTopK of all. */
  private read(norm: string, sub: string, x: Float32Array, where: Float32Array | null, k: number): Float32Array {
    const { d_model, d_pos } = this.config;
    let a = normed(x, d_model, this.vectors.get(norm + sub) as Float32Array);
    if (where) {
      const place = normed(where, d_pos, this.vectors.get(`${norm}p${sub}`) as Float32Array);
      const both = new Float32Array(a.length + place.length);
      for (let t = 0; t * d_model < a.length; t++) {
        both.set(a.subarray(t * d_model, (t + 1) * d_model), t * (d_model + d_pos));
        both.set(place.subarray(t * d_pos, (t + 1) * d_pos), t * (d_model + d_pos) + d_model);
      }
      a = both;
    }
    keepLargest(a, d_model + d_pos, k);
    return a;
  }

  /** Where a head looks from token t: weights on tokens 0 to t. What they lack of 1 is on the sink. */
  looks(layer: number, head: number, q: Float32Array, k: Float32Array, t: number): Float64Array {
    const { n_head, d_head } = this.config;
    const width = n_head * d_head;
    const sink = this.vectors.get(`${layer}.sink`)?.[head];
    const row = new Float64Array(t + 1);
    let largest = sink ?? -Infinity;
    for (let s = 0; s <= t; s++) {
      let score = 0;
      for (let d = head * d_head; d < (head + 1) * d_head; d++) score += (q[t * width + d] as number) * (k[s * width + d] as number);
      row[s] = score / Math.sqrt(d_head);
      largest = Math.max(largest, row[s] as number);
    }
    let total = sink === undefined ? 0 : Math.exp(sink - largest);
    for (let s = 0; s <= t; s++) total += row[s] = Math.exp((row[s] as number) - largest);
    for (let s = 0; s <= t; s++) row[s] = (row[s] as number) / total;
    return row;
  }

  private attend(layer: number, q: Float32Array, k: Float32Array, v: Float32Array, pos: number): Float32Array {
    const { n_head, d_head } = this.config;
    const width = n_head * d_head;
    const out = new Float32Array(pos * width);
    const sum = new Float64Array(d_head);
    for (let head = 0; head < n_head; head++) {
      for (let t = 0; t < pos; t++) {
        const row = this.looks(layer, head, q, k, t);
        sum.fill(0);
        for (let s = 0; s <= t; s++) for (let d = 0; d < d_head; d++) sum[d] = (sum[d] as number) + (row[s] as number) * (v[s * width + head * d_head + d] as number);
        out.set(sum, t * width + head * d_head);
      }
    }
    return out;
  }
}
