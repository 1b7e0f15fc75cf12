"""Does the circuit need norms that make more of what is left?

Ablation takes most of the residual stream away, and a norm divides by the size of what remains: the writes of a small
circuit reach the logits amplified, as they never do in the whole model. With the scales of the whole model's run on the
same prompt, circuits pruned with their own come out much larger (Drori 2026, "interpretable yet unfaithful", on the
weight-sparse circuits of Gao et al. 2025, arXiv 2511.13653).

When it lies: held scales take a circuit where it never ran, and a real one that was found with its own scales is tried
with weaker writes than it was fitted to; under ablation by resampling sizes hardly change, and the check says little.
What norms of queries and keys do is held too.
"""

from __future__ import annotations

import numpy as np

from gossamer.errors import Unsupported
from gossamer.evidence import Evidence, Null
from gossamer.registry import check
from gossamer.statistics import bootstrap_interval, quantile_interval
from gossamer.subject import FreezingNorms, ResidualSubject, Subject
from gossamer.verify.edge_faithfulness import FEWEST, why_undefined
from gossamer.verify.trial import Trial, random_sets, shares

CLAIM = "frozen-norms: the circuit does as much with the whole model's norm scales as with its own"


@check("frozen-norms")
def frozen_norms(trial: Trial, *, tolerance: float = 0.2, draws: int = 10) -> Evidence:
    """f of the circuit with every norm held at the scale that it has in the whole model on the same prompt.

    Passes if f differs from that with its own scales by at most `tolerance` at the near end of the interval of the
    difference (the same pairs drawn for both), and its interval is above every random set under held scales.
    """
    how = trial.methodology()
    fields = {
        "claim": CLAIM, "unit": "f (ratio of means) under held norm scales", "n": trial.n_pairs, "seed": trial.seed,
        "methodology": how.as_dict(), "threshold": f"fails if the whole interval of the change of f is beyond "
        f"{tolerance:g} either way, or any random draw under held scales reaches the interval of f",
    }  # fmt: skip
    sets = np.concatenate([
        np.repeat([[False], [True]], len(trial.kinds), axis=1), trial.inside[None],
        random_sets(trial, draws, trial.seed),
    ])  # fmt: skip
    try:
        held = trial.under(_held(trial))
    except Unsupported as error:
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": str(error)})
    own, frozen = trial.effects(sets[:3]), held.effects(sets)
    few = f"{trial.n_pairs} pairs are too few for an interval, {FEWEST} are needed" if trial.n_pairs < FEWEST else ""
    if why := few or next(filter(None, (why_undefined(e[0], e[1], seed=trial.seed) for e in (own, frozen))), ""):
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": f"{why}."})
    (f,), (spread,) = shares(own[2:], own[0], own[1], trial.seed)
    g, spreads = shares(frozen[2:], frozen[0], frozen[1], trial.seed)
    ends, change = quantile_interval(spreads[0]), quantile_interval(spreads[0] - spread)
    random = g[1:]
    near = change[0] <= tolerance and change[1] >= -tolerance
    middle, n = quantile_interval(random), trial.n_pairs
    nulls = [
        Null(name=f"{trial.null}, held scales", value=float(random.mean()), interval=middle, n=draws),
        Null(name="the circuit with its own scales", value=float(f), interval=quantile_interval(spread), n=n),
    ]
    for name, effect in (("empty circuit", frozen[0]), ("full circuit", frozen[1])):
        value = float((effect - frozen[0]).mean() / (frozen[1] - frozen[0]).mean())
        nulls.append(Null(name=f"{name}, held scales", value=value, n=trial.n_pairs))
    off = float(np.abs(frozen[1] - own[1]).max())
    low, high = bootstrap_interval(frozen[0] - own[0], trial.seed)
    note = (
        f"f {f:.3g} with its own scales, {g[0]:.3g} with held ones; change {g[0] - f:+.3g} [{change[0]:.3g}, "
        f"{change[1]:.3g}]. Whole model: {own[1].mean():.4g} logits, held or not (largest difference {off:.1g}); "
        f"everything ablated: {own[0].mean():.4g}, held {frozen[0].mean():.4g} (difference {low:.3g} to {high:.3g})."
    )
    return Evidence.model_validate({
        **fields, "value": float(g[0]), "interval": ends, "nulls": tuple(nulls), "note": note,
        "verdict": "pass" if near and ends[0] > random.max() else "fail",
    })  # fmt: skip


def _held(trial: Trial) -> Subject | ResidualSubject:
    if not isinstance(trial.model, FreezingNorms):
        raise Unsupported(
            f"held norms in {trial.model.name}", "it cannot hold them", "a weight-sparse model or a decoder"
        )
    return trial.model.frozen_norms()
