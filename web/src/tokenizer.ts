// Byte-level BPE as gossamer/corpora/tokenizer.py makes it: a text is cut into words by a pattern, a word's bytes are merged.

import type { PageTokenizer } from "./bundle";

/** The printable character that stands for each byte in a byte-level vocabulary (GPT-2's table). */
function alphabet(): string[] {
  const printable = (b: number): boolean => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(printable(b) ? b : next++));
}

/** The library's pattern in JavaScript. Its \s is Unicode's white space, which JavaScript's is not (U+0085, U+FEFF). */
function regexOf(pattern: string): RegExp {
  return new RegExp(pattern.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"), "gu");
}

export class Tokenizer {
  private readonly byteText = alphabet();
  private readonly textByte = new Map(this.byteText.map((text, byte) => [text, byte] as const));
  private readonly ids: Map<string, number>;
  /** `left * vocab + right` -> [rank, merged id]. */
  private readonly merges = new Map<number, readonly [number, number]>();
  private readonly special: ReadonlySet<number>;
  private readonly pattern: RegExp;
  private readonly words = new Map<string, readonly number[]>();

  constructor(private readonly page: PageTokenizer) {
    this.ids = new Map(page.vocab.map((text, id) => [text, id] as const));
    this.special = new Set(page.special);
    this.pattern = regexOf(page.pattern);
    page.merges.forEach(([a, b], rank) => {
      const merged = this.ids.get((page.vocab[a] as string) + (page.vocab[b] as string));
      if (merged !== undefined) this.merges.set(a * page.vocab.length + b, [rank, merged]);
    });
  }

  get bos(): number | null {
    return this.page.bos;
  }

  /** Token ids of a text, without what is put before every prompt. A special token's text is that token. */
  encode(text: string): number[] {
    const specials = this.page.special.map((id) => this.page.vocab[id] as string);
    const out: number[] = [];
    let rest = text;
    while (rest) {
      const hits = specials.map((one) => [rest.indexOf(one), one] as const).filter(([at]) => at >= 0);
      const [at, found] = hits.sort((a, b) => a[0] - b[0] || b[1].length - a[1].length)[0] ?? [rest.length, ""];
      this.plain(rest.slice(0, at), out);
      if (found) out.push(this.ids.get(found) as number);
      rest = rest.slice(at + found.length);
    }
    return out;
  }

  /** One token as text; bytes that are no whole character become U+FFFD. */
  decode(id: number): string {
    const text = this.page.vocab[id] ?? "";
    if (this.special.has(id)) return text;
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from([...text], (c) => this.textByte.get(c) ?? 0));
  }

  private plain(text: string, out: number[]): void {
    let end = 0;
    const word = (from: number, to: number): void => {
      if (to > from) for (const id of this.word(text.slice(from, to))) out.push(id);
    };
    for (const match of text.matchAll(this.pattern)) {
      word(end, match.index);
      end = match.index + match[0].length;
      word(match.index, end);
    }
    word(end, text.length);
  }

  private word(text: string): readonly number[] {
    const known = this.words.get(text);
    if (known) return known;
    const parts = Array.from(new TextEncoder().encode(text), (b) => this.ids.get(this.byteText[b] as string)).filter((id) => id !== undefined);
    for (;;) {
      let best: readonly [number, number] | undefined;
      let at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const merge = this.merges.get((parts[i] as number) * this.page.vocab.length + (parts[i + 1] as number));
        if (merge && (!best || merge[0] < best[0])) [best, at] = [merge, i];
      }
      if (!best) break;
      parts.splice(at, 2, best[1]);
    }
    if (this.words.size > 5000) this.words.clear();
    this.words.set(text, parts);
    return parts;
  }
}
