// The lines under the title: what was found, or that nothing was; and how the dense twin compares.

import type { Bundle, Twin } from "./bundle";
import { count, h, num, plural, sentence } from "./dom";
import { given } from "./index";
import { verdictBadge } from "./trial";

/** Validation losses this near are called equal (docs/decisions/0005-dense-twin.md). */
const EQUAL_NATS = 0.05;

/** `value` to the fewest digits, from three on, that tell it from `other`. */
function apart(value: number, other: number): string {
  const digits = [3, 4, 5, 6, 7].find((d) => num(value, d) !== num(other, d));
  return num(value, digits ?? 3);
}

/** What the loss is of: all held-out pairs, where a check of the trial may take fewer. */
export function heldout(pairs: number | null): string {
  return pairs === null ? "the held-out pairs" : `all ${plural(pairs, "held-out pair")}`;
}

function found({ task, circuit, model }: Bundle): HTMLElement {
  return h("p", { class: "lead" }, `${sentence(task.description)}: `,
    h("b", {}, plural(circuit.n_nodes, "node")), " and ", h("b", {}, plural(circuit.n_edges, "edge")), ` of ${model.name} do this alone, at `,
    h("b", {}, `${num(given(circuit.loss_heldout_nats), 3)} nats`), ` of task loss on ${heldout(circuit.heldout_pairs)}.`);
}

function missed({ circuit, model }: Bundle): HTMLElement {
  const target = given(circuit.target_loss_nats);
  return h("p", { class: "lead" }, verdictBadge("not reached", "Not reached:"),
    ` no circuit found in ${model.name} gets to `, h("b", {}, `${num(target, 3)} nats`), " of task loss on the training pairs; the best found, ",
    h("b", {}, plural(circuit.n_nodes, "node")), " and ", h("b", {}, plural(circuit.n_edges, "edge")), ", has ",
    h("b", {}, `${apart(given(circuit.loss_train_nats), target)} nats`), ` there and ${num(given(circuit.loss_heldout_nats), 3)} held out.`);
}

/** The twin, with its model's loss beside this one's where both are known. */
function itsTwin(own: number | null, its: number | null): [name: string, comma: string] {
  if (own === null || its === null) return ["its dense twin", ""];
  const losses = `${num(its)} against ${num(own)} nats per token`;
  const equal = Math.abs(own - its) <= EQUAL_NATS;
  return [`its dense twin, ${equal ? "of equal" : "of another"} language-modelling loss (${losses})`, ","];
}

function ratio(its: number, own: number): string {
  const times = its / own;
  const text = times < 100 ? num(times, 2) : count(Math.round(times));
  return text === "1" ? "as many" : `${text} times as many`;
}

function twinLine({ circuit, model }: Bundle, twin: Twin): HTMLElement {
  const line = h("p", { class: "lead twin-line" });
  const [name, comma] = itsTwin(model.val_loss_nats, twin.val_loss_nats);
  const edges = h("b", {}, plural(twin.n_edges, "edge"));
  if (!twin.reached) {
    line.append(verdictBadge("not reached", "Not reached"), ` in ${name}: no circuit found there gets to ${num(given(circuit.target_loss_nats), 3)} nats on the training pairs; the best, `,
      h("b", {}, plural(twin.n_nodes, "node")), " and ", edges, `, has ${num(twin.loss_heldout_nats, 3)} held out.`);
    return line;
  }
  line.append(`The smallest circuit found in ${name}${comma} has `, edges);
  if (circuit.reached && circuit.n_edges > 0) line.append(", ", h("b", {}, ratio(twin.n_edges, circuit.n_edges)));
  line.append(".");
  return line;
}

/** Between heads and MLPs: how many of the model's edges, how faithful they are, and what chance has. */
function faithful({ circuit, model }: Bundle): HTMLElement {
  const { faithfulness: f, edge_score } = circuit;
  const line = h("p", { class: "lead" });
  const words = { pass: "Faithful:", fail: "Not faithful:", "not reached": "Not reached:", "not measured": "Not measured:" };
  if (f) line.append(verdictBadge(f.verdict, words[f.verdict]), " ");
  const all = edge_score?.all_edges ?? circuit.n_edges;
  line.append(h("b", {}, plural(circuit.n_edges, "edge")), ` of the ${count(all)} in ${model.name} (${num((100 * circuit.n_edges) / Math.max(1, all), 2)} %), between `,
    h("b", {}, plural(circuit.n_nodes, "node")));
  if (!f || f.value === null) line.append("; its faithfulness was not measured.");
  else {
    line.append(", have a faithfulness of ", h("b", {}, num(f.value, 3)), f.interval ? ` (${num(f.interval[0], 3)} to ${num(f.interval[1], 3)})` : "", " on held-out pairs");
    const random = f.nulls.find((one) => one.name.startsWith("random") && one.value !== null);
    line.append(random ? `; random circuits of as many have ${Math.abs(random.value as number) < 5e-4 ? "0.000" : num(random.value as number, 3)}.` : ".");
  }
  return line;
}

export function lead(bundle: Bundle): HTMLElement {
  const { circuit, twin } = bundle;
  if (bundle.grain === "head") return h("div", { class: "leads" }, faithful(bundle));
  return h("div", { class: "leads" }, circuit.reached ? found(bundle) : missed(bundle), twin && twinLine(bundle, twin));
}
