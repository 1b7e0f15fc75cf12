"""How little is left of the effect when what is ablated of the rest is chosen to hurt?

A comment on Gao et al. 2025 asks for subsets of the complement chosen by an adversary, one choice for a batch of
prompts; the masks and their straight-through slope are theirs (section A.5). The choice is made on the first half of
the held-out pairs: as many random subsets as the adversary has steps are run, the worst of them are where it starts,
and it then moves a logit per outside part down the gradient of the mean effect, the mask being 1 where the logit is
positive. Every mask on the way is a hard one; the worst is run again, and on the second half, which it never saw.

f is 0 at the empty circuit, 1 at the whole model, never clipped. The nulls: the same adversary against random sets in
the circuit's place, and the worst of the random subsets it started from (it can only do better than that, on the half
on which both were chosen).

When it lies: gradient steps find a bad subset, not the worst one, so a pass says that these steps found none. A subset
with many parts can leave the model where no prompt ever puts it, and what fails there need not be the circuit.
"""

from __future__ import annotations

import numpy as np
import torch

from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import Evidence, Null
from gossamer.mask import heaviside
from gossamer.registry import check
from gossamer.statistics import quantile_interval
from gossamer.verify.subsets import spared, why_not
from gossamer.verify.trial import Trial, ends, random_sets, shares

RESTARTS, STEPS, RIVALS = 2, 15, 2
RATE = 0.5  # of the first step; it falls to nothing, and logits start between -1 and 1
PAIRS_AT_ONCE = 32


@check("adversarial-subset")
def adversarial_subset(
    trial: Trial, *, threshold: float = 0.5, restarts: int = RESTARTS, steps: int = STEPS, rivals: int = RIVALS
) -> Evidence:  # fmt: skip
    """f on the second half of the pairs under the subset that an adversary chose on the first; interval over pairs.

    Passes if f is at least `threshold` and every random set in the circuit's place is left below the interval by the
    same adversary. Not measured where masks have no gradient (constants that are fitted to a set).
    """
    if min(restarts, steps, rivals) < 1:
        raise BadInput(f"Expected restarts, steps and rivals of at least 1, got {restarts}, {steps} and {rivals}.")
    half = trial.n_pairs // 2
    fields = {
        "claim": "adversarial-subset: the circuit does the task whatever an adversary ablates of the rest",
        "unit": "share of the effect kept (f) under the chosen subset", "n": trial.n_pairs - half,
        "methodology": trial.methodology().as_dict(), "seed": trial.seed,
        "threshold": f"fails if f is below {threshold:g} on pairs that the subset was not chosen on, or if a random "
        "set in the circuit's place keeps as much against the same adversary",
    }  # fmt: skip
    try:
        trial.graded(torch.ones(len(trial.kinds)), 0, 1)
        empty, whole = ends(trial)
        why = why_not(trial, empty, whole, halves=True)
    except Unsupported as error:
        why = f"an adversary needs gradients: {str(error).rstrip('.')}"
    if why:
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": f"{why}."})
    starts = spared(len(trial.kinds), restarts * steps, trial.seed)
    protected = [trial.inside, *random_sets(trial, rivals, trial.seed)]
    chosen = np.stack([x for p in protected for x in worst_subsets(trial, p, starts, half, restarts, steps)])
    effects = trial.effects(chosen)
    f, spread = shares(effects[:, half:], empty[half:], whole[half:], trial.seed)
    seen, _ = shares(effects[:, :half], empty[:half], whole[:half], trial.seed)
    random, worst, others = 0, 1, f[3::2]
    interval = quantile_interval(spread[worst])
    good = f[worst] >= threshold and others.max() < interval[0]
    ablated = int((~chosen[worst]).sum())
    return Evidence.model_validate({
        **fields, "value": float(f[worst]), "interval": interval, "verdict": "pass" if good else "fail",
        "nulls": (
            Null(
                name=f"{trial.null}, the same adversary", value=float(others.mean()),
                interval=(float(others.min()), float(others.max())), n=rivals,
            ),
            Null(
                name=f"worst of {len(starts)} random subsets", value=float(f[random]),
                interval=quantile_interval(spread[random]), n=trial.n_pairs - half,
            ),
        ),
        "note": f"On the {half} pairs it was chosen on f is {seen[worst]:.3g} (worst random subset {seen[random]:.3g}; "
        f"in random sets' place {', '.join(f'{x:.3g}' for x in seen[3::2])}). The subset ablates {ablated} of "
        f"{int((~trial.inside).sum())} outside parts, {restarts} starts of {steps} steps. The interval of random sets "
        "is their range.",
    })  # fmt: skip


def worst_subsets(
    trial: Trial, protected: np.ndarray, starts: np.ndarray, half: int, restarts: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The kept parts, bool [parts], of the worst of the random subsets `starts` (bool [starts, parts], spared parts)
    and of the worst that the adversary reaches from the worst `restarts` of them; worst on the first `half` pairs."""
    kept = protected | starts
    order = np.argsort(trial.effects(kept)[:, :half].mean(1), kind="stable")
    found = [kept[order[0]]]
    for number, start in enumerate(order[:restarts]):
        found.append(_descended(trial, protected, starts[start], half, steps, trial.seed + number))
    ranked = trial.effects(np.stack(found))[:, :half].mean(1)
    return found[0], found[int(np.argmin(ranked))]


def _descended(
    trial: Trial, protected: np.ndarray, start: np.ndarray, half: int, steps: int, seed: int
) -> np.ndarray:  # fmt: skip
    """The kept parts of the lowest mean effect on the way down from a start."""
    inside = torch.from_numpy(protected.astype(np.float32))
    size = torch.rand(len(start), generator=torch.Generator().manual_seed(seed))
    logits = torch.where(torch.from_numpy(start), size, -size)
    best, lowest = protected | start, np.inf
    for step in range(steps):
        logits = logits.requires_grad_()
        total, gradient = 0.0, torch.zeros_like(logits)
        for first in range(0, half, PAIRS_AT_ONCE):
            last = min(first + PAIRS_AT_ONCE, half)
            with torch.enable_grad():
                effect = trial.graded(inside + (1 - inside) * heaviside(logits), first, last).sum() / half
                gradient += torch.autograd.grad(effect, logits)[0]
            total += float(effect.detach())
        if total < lowest:
            best, lowest = protected | (logits.detach() > 0).numpy(), total
        logits = logits.detach() - RATE * (1 - step / steps) * gradient.sign()
        if trial.progress:
            trial.progress(step + 1, steps, lowest)
    return best
