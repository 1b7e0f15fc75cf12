// A model that answers prompts: in the page itself (the model's weights are in the file) or in a server.

import type { Answer, Question } from "./bundle";

export interface Engine {
  /** Where it computes, as the page says it. */
  readonly where: "page" | "server";
  /** Tokens of a prompt, without what is put before every prompt; rejects with a message for the reader. */
  tokenize(text: string): Promise<string[]>;
  /** Rejects with a message for the reader: prompt too long, a candidate that is not one token, ... */
  ask(question: Question): Promise<Answer>;
}
