"""Is there nothing outside the circuit that does the circuit's work?

Wang et al. 2022 (arXiv 2211.00593), section 4: for every set K of the circuit's parts the circuit without K should do
what the whole model without K does. The incompleteness of K is |F(C \\ K) - F(M \\ K)|, F the mean effect, here as a
share of what the whole model has above the empty circuit; of K = nothing it is what faithfulness measures. A part left
out that backs up a part of the circuit is seen only once that part is gone.

Sets are drawn at random, each part with a probability of the draw's own, uniform between 0 and 1. From the worst of
them a greedy search goes on: it takes the best of a few random parts into K, or out of it, again and again. All are
chosen on the first half of the pairs and the worst is measured on the second.

When it lies: there are too many sets to try, and a pass says that these found none. Ablating a K can leave the whole
model where no prompt puts it; a circuit is then blamed for not following. Both sides can be broken alike: where F(M \\
K) is that of the empty circuit, any circuit agrees.
"""

from __future__ import annotations

import numpy as np

from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null
from gossamer.registry import check
from gossamer.statistics import quantile_interval, resampled_means
from gossamer.verify.subsets import strata, why_not
from gossamer.verify.trial import Trial, ends, random_sets

DRAWS, ROUNDS, CANDIDATES, RIVALS, DRAWS_OF_RIVALS = 32, 5, 8, 3, 10
NAMED = 6


@check("completeness")
def completeness(
    trial: Trial, *, threshold: float = 0.2, draws: int = DRAWS, rounds: int = ROUNDS, rivals: int = RIVALS
) -> Evidence:  # fmt: skip
    """The incompleteness of the worst set found, on pairs it was not chosen on; interval over pairs.

    draws: random sets, the empty one among them. rounds: of the greedy search. rivals: random circuits, each with the
    worst of a few random sets of its own parts and no search. Passes if the incompleteness is at most `threshold` and
    its whole interval below every random circuit's.
    """
    if min(draws, rivals) < 1 or rounds < 0:
        raise BadInput(f"Expected at least 1 draw, 1 rival and 0 rounds, got {draws}, {rivals} and {rounds}.")
    empty, whole = ends(trial)
    half = trial.n_pairs // 2
    fields = {
        "claim": "completeness: without parts of the circuit, circuit and model still do alike",
        "unit": "incompleteness of the worst set found (share of the effect)", "n": trial.n_pairs - half,
        "methodology": trial.methodology().as_dict(), "seed": trial.seed,
        "threshold": f"fails if the incompleteness is above {threshold:g}, or if a random circuit's is inside or below "
        "the interval",
    }  # fmt: skip
    if why := why_not(trial, empty, whole, halves=True):
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": f"{why}."})
    scales = (whole - empty)[:half].mean(), (whole - empty)[half:].mean()
    rng = np.random.default_rng([trial.seed, 4])
    sets = _subsets(trial.inside, draws, rng)
    gaps = gaps_of(trial, trial.inside, sets)
    scores = np.abs(gaps[:, :half].mean(1)) / scales[0]
    worst = int(np.argmax(scores))
    chosen, (gap,) = _greedy(trial, sets[worst], gaps[worst], half, rounds, rng)
    spread = np.abs(resampled_means(gap[half:], trial.seed) / resampled_means((whole - empty)[half:], trial.seed))
    value, interval = float(abs(gap[half:].mean()) / scales[1]), quantile_interval(spread)
    others = np.array([
        _of_rival(trial, inside, half, rng) / scales[1] for inside in random_sets(trial, rivals, trial.seed)
    ])  # fmt: skip
    every = np.abs(gaps.mean(1)) / (whole - empty).mean()
    names = [trial.part(int(i)) for i in np.flatnonzero(chosen)]
    alone, model = trial.effects(np.stack([trial.inside & ~chosen, ~chosen]))[:, half:].mean(1)
    good = value <= threshold and interval[1] < others.min()
    return Evidence.model_validate({
        **fields, "value": value, "interval": interval, "verdict": "pass" if good else "fail",
        "nulls": (
            Null(
                name=trial.null, value=float(others.mean()), interval=(float(others.min()), float(others.max())),
                n=rivals,
            ),
        ),
        "note": f"{draws} random sets, all pairs: median {np.median(every):.3g}, 95% {np.quantile(every, 0.95):.3g}, "
        f"worst {every.max():.3g}; with no part gone {every[0]:.3g}. The worst set found ({rounds} greedy rounds, "
        f"{scores[worst]:.3g} before and {float(abs(gap[:half].mean()) / scales[0]):.3g} after them on the first "
        f"half) has {len(names)} of {int(trial.inside.sum())} parts"
        + (f": {', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''}" if names else "")
        + f". Without it the mean effect is {alone:.3g} logits in the circuit and {model:.3g} in the model. The "
        "interval of random circuits is their range.",
    })  # fmt: skip


def gaps_of(trial: Trial, inside: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """F(C \\ K) - F(M \\ K) in logits, [sets, pairs], of a circuit (bool [parts]) and sets K of its parts."""
    alone, model = trial.effects(np.concatenate([inside & ~sets, ~sets])).reshape(2, len(sets), -1)
    return alone - model


def _subsets(inside: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Random sets of the circuit's parts, bool [draws, parts]; the first is empty."""
    sets = inside & (rng.random((draws, len(inside))) < strata(draws, rng)[:, None])
    sets[0] = False
    return sets


def _greedy(
    trial: Trial, start: np.ndarray, gap: np.ndarray, half: int, rounds: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(set K, its gaps [1, pairs]): what a few changes of one part each make of a start, worse on the first half."""
    chosen, parts = start, np.flatnonzero(trial.inside)
    for _ in range(rounds if len(parts) else 0):
        some = rng.choice(parts, min(CANDIDATES, len(parts)), replace=False)
        tries = np.repeat(chosen[None], len(some), axis=0)
        tries[np.arange(len(some)), some] ^= True
        gaps = gaps_of(trial, trial.inside, tries)
        scores = np.abs(gaps[:, :half].mean(1))
        if scores.max() > abs(gap[:half].mean()):
            chosen, gap = tries[int(np.argmax(scores))], gaps[int(np.argmax(scores))]
    return chosen, gap[None]


def _of_rival(trial: Trial, inside: np.ndarray, half: int, rng: np.random.Generator) -> float:
    """Incompleteness of a random circuit in logits: its worst set on the first half, on the second."""
    gaps = gaps_of(trial, inside, _subsets(inside, DRAWS_OF_RIVALS, rng))
    return float(abs(gaps[int(np.argmax(np.abs(gaps[:, :half].mean(1)))), half:].mean()))
