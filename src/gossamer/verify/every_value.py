"""Sufficiency and necessity of a circuit under every ablation value, and restoration in the other direction.

Miller, Chughtai and Saunders 2024 (arXiv 2407.08734) show that one circuit has a different score under every ablation;
a circuit that is only faithful to the value it was found under is a statement about that value. One row a value; that
value's own rows have quantiles over pairs, and sufficiency a p-value among 40 random sets and the number of pairs it
needs. Necessity has none: a random set that holds one part of a chain takes away all that the chain does, so that many
draws do as well beside a circuit that is right (up to a quarter of them beside planted chains).

When it lies: zero and noise take a model where it never is; optimal constants are fitted to the set that is tried, so
they flatter, the random sets too; resampling keeps what the prompts of a pair share, so it misses parts that carry it.
"""

from __future__ import annotations

import numpy as np

from gossamer.ablation import Direction, Set
from gossamer.evidence import Evidence, Null
from gossamer.hypotheses import against_null
from gossamer.registry import check
from gossamer.statistics import bootstrap_interval, quantile_interval
from gossamer.verify.edge_faithfulness import FEWEST
from gossamer.verify.trial import Trial, random_sets, shares

VALUES = ("zero", "mean", "resample", "optimal")
OWN_DRAWS = 40  # of the value the circuit was found under: enough for a p-value among many
DRAWS = {"optimal": 2}  # constants are fitted to every draw
OTHER_DRAWS = 10
LUCK = 0.1  # of random sets may do as well


@check("every-value")
def every_value(
    trial: Trial, *, kept: float = 0.5, lost: float = 0.5, draws: int = OWN_DRAWS
) -> tuple[Evidence, ...]:  # fmt: skip
    """f of the circuit alone, and the share lost without it, under each value; with resampling, restoration too.

    kept, lost: the share of the effect that has to be kept by the circuit and lost without it; draws: random sets
    beside the rows of the circuit's own value. A row passes if its whole interval is above that and at most a tenth of
    the random sets, or one, reach its lower end; where the set itself is what is ablated or restored, fewer than half,
    or one of two: as in necessity, a set that hits one part of a chain does all that the chain does.
    """
    found = []
    for value in [v for v in trial.values if v in VALUES or v == trial.values[0]]:
        found += [
            _row(trial, value, "complement", "clean", kept, draws),
            _row(trial, value, "circuit", "clean", lost, draws),
        ]
        if value == "resample":
            found.append(_row(trial, value, "circuit", "counterfactual", kept, draws))
    return tuple(found)


def _row(trial: Trial, value: str, set_: Set, direction: Direction, threshold: float, most: int) -> Evidence:
    own_value, n = value == trial.values[0], len(trial.inside)
    tested = own_value and direction == "clean"
    draws = most if tested else min(most, DRAWS.get(value, OTHER_DRAWS))
    allowed = max(1, (draws - 1) // 2 if set_ == "circuit" else int(LUCK * draws))
    without = set_ == "circuit" and direction == "clean"
    sets = np.concatenate([trial.inside[None], random_sets(trial, draws, trial.seed)])
    edges = np.repeat([[False], [True]], n, axis=1)
    effects = trial.effects(np.concatenate([~sets if without else sets, edges]), value=value, direction=direction)
    own, empty, whole = effects[:-2], effects[-2], effects[-1]
    name, what = {
        ("complement", "clean"): ("sufficiency", "the circuit alone keeps the effect"),
        ("circuit", "clean"): ("necessity", "without the circuit the effect is lost"),
        ("circuit", "counterfactual"): ("restoration", "the circuit's values alone bring the effect back"),
    }[set_, direction]
    fields = {
        "claim": f"every-value ({name} by {value}): {what}", "n": trial.n_pairs, "seed": trial.seed,
        "unit": f"share of the effect {'lost' if without else 'kept'}",
        "methodology": trial.methodology(value, set_, direction).as_dict(),
        "threshold": f"fails if the interval reaches {threshold:g}, or {allowed + 1} of {draws} random sets do as well",
    }  # fmt: skip
    if trial.n_pairs < FEWEST:
        note = f"{trial.n_pairs} pairs are too few for an interval, {FEWEST} are needed."
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": note})
    low, high = bootstrap_interval(whole - empty, trial.seed)
    if low <= 0:
        note = f"ablation by {value} does not take the effect away (95% of what it takes: {low:.3g} to {high:.3g})."
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": note})
    f, spread = shares(own, empty, whole, trial.seed)
    f, spread = (1 - f, 1 - spread) if without else (f, spread)
    interval, random = quantile_interval(spread[0]), f[1:]
    null = Null(name=trial.null, value=float(random.mean()), interval=quantile_interval(random), n=draws)
    good = interval[0] > threshold and int((random >= interval[0]).sum()) <= allowed
    if tested:
        told = against_null(own[0], own[1:])._asdict()
        fields |= {"quantiles": told["quantiles"]} if without else told
    return Evidence.model_validate({
        **fields, "value": float(f[0]), "interval": interval, "nulls": (null,), "verdict": "pass" if good else "fail",
        "note": f"Effect: whole model {whole.mean():.4g}, {'without' if without else 'circuit'} {own[0].mean():.4g}, "
        f"everything ablated {empty.mean():.4g} logits.",
    })  # fmt: skip
