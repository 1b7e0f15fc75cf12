"""Does the circuit still do the task when a random part of everything else is ablated?

To ablate all of the complement is one question, and a kind one: what the rest does against the circuit goes with the
rest. A comment on Gao et al. 2025 asks for random subsets instead; Miller, Chughtai and Saunders 2024 (arXiv
2407.08734) for quantiles instead of one mean. Each draw ablates each outside part with a probability of its own, drawn
uniformly between 0 and 1, and the parts of the circuit keep their values.

f of a draw: the share of the effect kept, a ratio of means over pairs, 0 at the empty circuit and 1 at the whole model,
never clipped. The null has a random set in the circuit's place, as many parts of each kind, in the very same draws.

When it lies: a random half of thousands of parts is nearly always a typical half, and typical halves are alike; the
worst subset is another question (adversarial_subset). Draws of a small probability are easy, and flatter a random set
just as much, hence the paired null.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null
from gossamer.registry import check
from gossamer.statistics import quantile_interval
from gossamer.verify.subsets import spared, why_not
from gossamer.verify.trial import Trial, ends, random_sets, shares

DRAWS, LOWER = 64, 0.05


@check("random-subsets")
def random_subsets(
    trial: Trial, *, threshold: float = 0.8, draws: int = DRAWS, p: Sequence[float] | None = None
) -> Evidence:  # fmt: skip
    """The lower 5% quantile, over draws, of the share of the effect that is kept; interval over draws and pairs.

    draws: at least 20, below which there is no such quantile. p: probabilities in turn instead of uniform ones.
    Passes if the quantile is at least `threshold`, and random sets in the circuit's place are below: their quantile
    below the interval, and their share below the circuit's in the mean over the same draws, its whole interval.
    """
    if draws < 1 / LOWER:
        raise BadInput(f"Expected at least {1 / LOWER:g} draws, got {draws}.")
    alone = spared(len(trial.kinds), draws, trial.seed, p)
    empty, whole = ends(trial)
    fields = {
        "claim": "random-subsets: the circuit does the task whatever random part of the rest is ablated",
        "unit": f"share of the effect kept (f) in the worst {LOWER:.0%} of draws", "n": trial.n_pairs,
        "methodology": trial.methodology().as_dict(), "seed": trial.seed,
        "threshold": f"fails if the {LOWER:.0%} quantile is below {threshold:g}, if that of random sets in the "
        "circuit's place reaches its interval, or if they do as well over the same draws",
    }  # fmt: skip
    if why := why_not(trial, empty, whole):
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": f"{why}."})
    sets = np.stack([trial.inside | alone, random_sets(trial, draws, trial.seed) | alone])
    effects = trial.effects(sets.reshape(2 * draws, -1)).reshape(2, draws, -1)
    f, spread = shares(effects, empty, whole, trial.seed)
    lower = np.quantile(f, LOWER, axis=1)
    again = np.random.default_rng(trial.seed).integers(0, draws, size=(spread.shape[-1], draws))
    redrawn = np.take_along_axis(spread.swapaxes(1, 2), again[None], axis=2)
    intervals = [quantile_interval(q) for q in np.quantile(redrawn, LOWER, axis=2)]
    ahead = quantile_interval((redrawn[0] - redrawn[1]).mean(1))
    good = lower[0] >= threshold and lower[1] < intervals[0][0] and ahead[0] > 0
    of_pairs = 1 + (effects[0] - whole) / (whole - empty).mean()
    ((all_of_it,), _) = shares(trial.effects(trial.inside[None]), empty, whole, trial.seed)
    rates = "a probability of its own, uniform from 0 to 1" if p is None else f"probability {', '.join(map(str, p))}"
    return Evidence.model_validate({
        **fields, "value": float(lower[0]), "interval": intervals[0], "verdict": "pass" if good else "fail",
        "nulls": (Null(name=f"{trial.null}, the same draws", value=float(lower[1]), interval=intervals[1], n=draws),),
        "note": f"{draws} draws, each ablates every outside part with {rates}. f over draws: {_spread(f[0])}; random "
        f"sets: {_spread(f[1])}; the circuit is ahead by {float((f[0] - f[1]).mean()):.3g} a draw [{ahead[0]:.3g}, "
        f"{ahead[1]:.3g}]. One pair in one draw, 1 less what it loses of the mean effect: {_spread(of_pairs)}. With "
        f"everything outside ablated f is {all_of_it:.3g}.",
    })  # fmt: skip


def _spread(f: np.ndarray) -> str:
    return f"median {np.median(f):.3g}, {LOWER:.0%} {np.quantile(f, LOWER):.3g}, worst {f.min():.3g}"
