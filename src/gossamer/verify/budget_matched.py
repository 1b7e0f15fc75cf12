"""Does the discovery beat luck with the same budget? As many random circuits as it evaluated, the best of them kept.

Much of what a search gains can be the gain of looking often and keeping the best. Random sets, matched by kind, are
tried on training pairs; the one that does best there is compared with the circuit on held-out pairs.

| method                                     | circuits evaluated                                               |
| ------------------------------------------ | ---------------------------------------------------------------- |
| prune, prune-edges, edge-mask              | steps times masks (prune-edges: of both searches)                |
| acdc                                       | edges that were removed in a run                                 |
| edge-patching                              | one per edge                                                     |
| iterative-sweep                            | its runs                                                         |
| eap-ig, eap-ig-activations, ceap           | two, and one forward and backward pass for each step             |
| consensus                                  | those of its method, once per resample (where scores of blocks   |
|                                            | are shared by resamples it is fewer)                             |
| all others (eap, random, from files)       | two: the two ends                                                |

Never fewer than `fewest` are tried, as a cut at a target evaluates circuits that the record does not count, and never
more than `most`, which the note then tells.

When it lies: a step of a gradient method sees a few pairs and learns from them a direction, a random set is tried on
more pairs and teaches nothing: passing shows that the direction is worth something, not that the circuit is right.
Capped luck is less luck than the method had.
"""

from __future__ import annotations

import numpy as np

from gossamer.errors import options
from gossamer.evidence import Evidence, Null
from gossamer.record import Record
from gossamer.registry import check, config_kind, method
from gossamer.statistics import quantile_interval
from gossamer.verify.same_procedure import UNIT, not_measured, why_no_share
from gossamer.verify.trial import Trial, ends, random_sets, shares

CLAIM = "budget-matched: the circuit is better than the best of as many random ones as its discovery evaluated"
THRESHOLD = "fails unless the whole interval of the difference from the best random circuit is above 0"


def evaluated(record: Record, parts: int) -> tuple[int, str]:
    """(circuits that a discovery evaluated, how that was counted). parts: of the whole model."""
    c, details = record.config, record.details
    if record.method == "consensus":
        kind = config_kind(method[c["method"]])
        inner = {} if kind is None else options(kind, c["options"], "consensus on record").model_dump(mode="json")
        one = record.model_copy(update={"method": c["method"], "config": inner, "details": {}})
        each, words = evaluated(one, parts)
        return c["resamples"] * each, f"{c['resamples']} resamples of {c['method']}, each {words}"
    if "k_coef" in c:
        masks, again = len(c["k_coef"]), len(c["k_coef"]) * len(c.get("edge_coef", ()))
        words = f"{c['steps']} steps of {masks} masks"
        if not again:
            return c["steps"] * masks, words
        return c["steps"] * masks + c["edge_steps"] * again, f"{words} and {c['edge_steps']} of {again} masks of edges"
    if record.method == "acdc":
        tried = max(0, parts - int(details.get("removed_without_a_run", 0)))
        return tried, f"{tried} edges tried"
    if record.method == "edge-mask":
        return c["steps"], f"{c['steps']} steps"
    if record.method == "iterative-sweep":
        runs = details.get("runs", 2 * parts)  # of one resample the record does not say it: every part, there and back
        return runs, f"{runs} runs of its sweeps"
    if record.method == "edge-patching":
        return parts, f"{parts} edges tried"
    if "steps" in c:
        return 2 + c["steps"], f"2 ends and {c['steps']} passes on the way between them"
    return 2, "2 ends"


@check("budget-matched")
def budget_matched(trial: Trial, *, fewest: int = 20, most: int = 400, pairs: int = 16) -> Evidence:
    """f of the circuit less that of the best random set of the same budget, on held-out pairs.

    The best is the one of highest f on the first `pairs` training pairs. Passes if the whole interval (bootstrap over
    pairs, the same for both) is above 0. A circuit of f above 1 counts as higher than one of 1.
    """
    how = trial.methodology().as_dict()
    why = why_no_share(trial) or ("" if len(trial.task.train) else "the task has no training pairs to search on")
    if why:
        return not_measured(trial, CLAIM, THRESHOLD, why, methodology=how)
    wanted, words = evaluated(trial.circuit.record, len(trial.kinds))
    n = min(max(wanted, fewest), most)
    drawn = random_sets(trial, n, trial.seed)
    there = trial.on(trial.task.train[:pairs])
    best = int(there.effects(drawn).mean(1).argmax())
    empty, whole = ends(trial)
    f, spread = shares(trial.effects(np.stack([trial.inside, drawn[best]])), empty, whole, trial.seed)
    difference = quantile_interval(spread[0] - spread[1])
    note = f"Evaluated by the discovery: {words}, {wanted} in all; tried: {n} random sets, each on {there.n_pairs} "
    note += f"training pairs. f: circuit {f[0]:.3g}, best random set {f[1]:.3g}."
    if wanted > most:
        note += f" Capped at {most}: luck had less than the discovery's budget."
    return Evidence(
        claim=CLAIM, value=float(f[0] - f[1]), unit=UNIT, interval=difference, n=trial.n_pairs,
        nulls=(Null(name=f"best of {n}: {trial.null}", value=float(f[1]), interval=quantile_interval(spread[1]), n=n),),
        verdict="pass" if difference[0] > 0 else "fail", methodology=how, threshold=THRESHOLD, seed=trial.seed,
        note=note,
    )  # fmt: skip
