"""Does every part of the circuit earn its place?

Wang et al. 2022 (arXiv 2211.00593), section 4: a part belongs if leaving it out changes what the circuit does,
|F(C \\ v) - F(C)|. Shi et al. 2024 (arXiv 2410.13032) give that change its null: a random outside part is added to the
circuit and taken away again, which is what leaving out a part that does nothing looks like.

A part earns its place if both hold, the larger of the two p values being kept: its change, averaged over pairs, is not
zero (signs of the pairs' changes flipped at random), and it is larger than that of the outside parts (its rank among
them). Then Benjamini and Hochberg's bound on the share of false discoveries over all parts tested.

When it lies: two parts that back each other up can each be spared, and neither earns its place; the note says how many
matter once all others that do not are gone. Where the circuit is unlike the model an outside part may matter much, and
the null is hard. With few outside parts ranks are coarse: beside 119 of them no part is told from them unless a
sixth of all are, so the note also counts those above every outside part. The smallest circuit in the note was chosen on
the very pairs it is judged on.
"""

from __future__ import annotations

import math

import numpy as np

from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null
from gossamer.hypotheses import adjusted_p_values
from gossamer.registry import check
from gossamer.statistics import quantile_interval, wilson_interval
from gossamer.verify.subsets import why_not
from gossamer.verify.trial import Trial, ends, shares

OTHERS, DECOYS, MOST, FLIPS = 119, 30, 400, 2000
FEWEST_DECOYS = 5
FEWEST_PAIRS = 6  # fewer have no sign-flip p value below 0.05
ROUNDING = 1e-4  # shares of the effect that float32 does not know
NAMED = 8
MOST_BACKUPS = 60  # parts without a place that are tried on their own


@check("minimality")
def minimality(
    trial: Trial, *, threshold: float = 0.95, rate: float = 0.05, others: int = OTHERS, most: int = MOST
) -> Evidence:  # fmt: skip
    """The share of the circuit's parts that earn their place; Wilson's interval over the parts tested.

    rate: of false discoveries. others: outside parts of the null. most: parts tested, a random sample of a larger
    circuit. Passes if the share is at least `threshold` and above that of outside parts added to the circuit.
    """
    if not 0 < rate < 1 or others + 1 < 1 / rate or most < 1:
        raise BadInput(
            f"Expected a rate between 0 and 1, at least 1 / rate - 1 others and at least 1 part to test, got {rate:g}, "
            f"{others} and {most}."
        )
    empty, whole = ends(trial)
    parts, rng = np.flatnonzero(trial.inside), np.random.default_rng([trial.seed, 2])
    tested = parts if len(parts) <= most else np.sort(rng.choice(parts, most, replace=False))
    fields = {
        "claim": "minimality: every part of the circuit earns its place", "n": len(tested), "seed": trial.seed,
        "unit_of_n": "parts",
        "unit": "share of the circuit's parts", "methodology": trial.methodology().as_dict(),
        "threshold": f"fails if fewer than {threshold:g} of the parts change the effect by more than random outside "
        f"parts do ({rate:g} false discoveries), or if added outside parts pass as often",
    }  # fmt: skip
    outside = _alike(trial, parts, others + DECOYS, rng)
    why = why_not(trial, empty, whole) if len(parts) else "the circuit has no parts"
    fewest = math.ceil(1 / rate) - 1  # others, below which no rank reaches the rate
    if not why and len(outside) < fewest + FEWEST_DECOYS:
        why = f"{len(outside)} outside parts of the circuit's kinds are too few for a null"
    if not why and trial.n_pairs < FEWEST_PAIRS:
        why = f"{trial.n_pairs} pairs are too few for a test of each part, {FEWEST_PAIRS} are needed"
    if why:
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": f"{why}."})
    null, decoys = np.split(outside, [max(fewest, len(outside) - DECOYS)])
    own = trial.effects(trial.inside[None])[0]
    scale = (whole - empty).mean()
    loss = (own - _without(trial, trial.inside, tested)) / scale
    gain = {name: (_with(trial, some) - own) / scale for name, some in (("null", null), ("decoys", decoys))}
    earns = _p(loss, gain["null"], trial.seed) <= rate
    passed = _p(gain["decoys"], gain["null"], trial.seed) <= rate
    share, of_decoys = float(earns.mean()), float(passed.mean())
    (low, high), (low0, high0) = (
        [float(x) for x in wilson_interval(int(e.sum()), len(e))] for e in (earns, passed)
    )  # fmt: skip
    idle = tested[~earns]
    size, floor = _shrunk(trial, tested, loss.mean(1), empty, whole, most)
    note = f"{int(earns.sum())} of {len(tested)} parts earn their place" + (
        f" (a random sample of {len(parts)})." if len(tested) < len(parts) else "."
    )
    sizes, of_null = np.abs(loss.mean(1)), np.abs(gain["null"].mean(1))
    note += f" Added outside parts change f by {np.median(of_null):.2g} (median) to {of_null.max():.2g}, the circuit's "
    note += f"by {np.median(sizes):.2g}, {int((sizes > of_null.max()).sum())} of them by more than any outside part; "
    note += f"without {int((loss.mean(1) < 0).sum())} of them it rises."
    if len(idle):
        order = np.argsort(sizes[~earns], kind="stable")
        names = [trial.part(int(i)) for i in idle[order][:NAMED]]
        note += f" Do not: {', '.join(names)}" + (f" and {len(idle) - NAMED} more." if len(idle) > NAMED else ".")
    if 0 < len(idle) <= MOST_BACKUPS:
        backups = _backups(trial, idle, scale, gain["null"], rate)
        note += f" {backups or 'None'} of these matter once the others of them are gone"
        note += ": they back each other up." if backups else "."
    note += f" Left out one after the other, smallest loss first, {len(parts) - size} parts can go before f falls "
    note += f"below {floor:.3g}, the lower end of the circuit's own interval: {size} stay."
    good = share >= threshold and share > of_decoys
    return Evidence.model_validate({
        **fields, "value": share, "interval": (low, high), "verdict": "pass" if good else "fail", "note": note,
        "nulls": (
            Null(name="random outside parts added to the circuit", value=of_decoys, interval=(low0, high0),
                 n=len(decoys)),
        ),
    })  # fmt: skip


def _p(changes: np.ndarray, null: np.ndarray, seed: int) -> np.ndarray:
    """Adjusted p values [parts] of changes of f [parts, pairs], beside those of outside parts [others, pairs]."""
    size, sizes = (np.abs(x.mean(1)) for x in (changes, null))
    size, sizes = (np.where(x > ROUNDING, x, 0.0) for x in (size, sizes))
    rank = (1 + (sizes >= size[:, None]).sum(1)) / (1 + len(sizes))
    signs = np.random.default_rng([seed, 3]).choice([-1.0, 1.0], (FLIPS, changes.shape[1]))
    flipped = np.abs(changes @ signs.T) / changes.shape[1]
    by_sign = (1 + (flipped >= size[:, None] * (1 - 1e-9)).sum(1)) / (1 + FLIPS)
    return adjusted_p_values(np.maximum(rank, by_sign))


def _alike(trial: Trial, parts: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Random outside parts, as many as wanted where there are so many of the kinds of `parts`, in their proportions."""
    place = np.full(len(trial.kinds), np.inf)
    for kind, count in enumerate(np.bincount(trial.kinds[parts])):
        if count:
            own = rng.permutation(np.flatnonzero((trial.kinds == kind) & ~trial.inside))
            place[own] = (np.arange(len(own)) + rng.random()) / count
    chosen = np.argsort(place, kind="stable")[: min(wanted, int(np.isfinite(place).sum()))]
    return rng.permutation(chosen)


def _without(trial: Trial, kept: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Effects [parts, pairs] of a set of parts without each of these."""
    sets = np.repeat(kept[None], len(parts), axis=0)
    sets[np.arange(len(parts)), parts] = False
    return trial.effects(sets)


def _with(trial: Trial, parts: np.ndarray) -> np.ndarray:
    sets = np.repeat(trial.inside[None], len(parts), axis=0)
    sets[np.arange(len(parts)), parts] = True
    return trial.effects(sets)


def _backups(trial: Trial, idle: np.ndarray, scale: float, null: np.ndarray, rate: float) -> int:
    """How many of the parts that do not earn their place do so in the circuit without all the others of them."""
    bare = trial.inside.copy()
    bare[idle] = False
    sets = np.repeat(bare[None], len(idle) + 1, axis=0)
    sets[np.arange(len(idle)), idle] = True
    effects = trial.effects(sets)
    return int((_p((effects[:-1] - effects[-1]) / scale, null, trial.seed) <= rate).sum())


def _shrunk(
    trial: Trial, tested: np.ndarray, losses: np.ndarray, empty: np.ndarray, whole: np.ndarray, budget: int
) -> tuple[int, float]:  # fmt: skip
    """(how many parts stay, the f they must keep): parts leave in the order of their losses ([parts] of f), as many as
    can; losses are then taken again while there are at most `budget` sets to run in all."""
    _, draws = shares(trial.effects(trial.inside[None]), empty, whole, trial.seed)
    floor = quantile_interval(draws[0])[0]
    kept, left = trial.inside.copy(), budget
    while True:
        order = tested[np.argsort(losses, kind="stable")]
        gone = _most_gone(trial, kept, order, floor, empty, whole)
        kept[order[:gone]] = False
        tested, left = order[gone:], left - len(order) - 2 * math.ceil(math.log2(len(order) + 1))
        if not gone or not len(tested) or len(tested) > left:
            break
        before = trial.effects(kept[None])[0].mean()
        losses = before - _without(trial, kept, tested).mean(1)
    return int(kept.sum()), floor


def _most_gone(
    trial: Trial, kept: np.ndarray, order: np.ndarray, floor: float, empty: np.ndarray, whole: np.ndarray
) -> int:  # fmt: skip
    """By bisection, how many of the first of `order` can go while f stays at the floor or above it."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        without = kept.copy()
        without[order[:middle]] = False
        f = float((trial.effects(without[None])[0] - empty).mean() / (whole - empty).mean())
        low, high = (middle, high) if f >= floor - ROUNDING else (low, middle - 1)
    return low
