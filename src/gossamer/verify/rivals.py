"""Is this the circuit, or one of several? A search for another one that shares as little as possible and does as well.

Chen et al. 2026 (arXiv 2605.12671) train masks under a penalty on overlap with circuits found before, and find several
sparse, faithful circuits of one task that share almost nothing. Here the same is asked of one circuit: a hard mask
shrinks from all parts to as many as the circuit has, and keeps those by whose shares, to first order at the mask so
far, pairs lose least against the whole model; parts left out can come back, and the best of the last masks is taken.
Overlap is forbidden, or forbidden outside a core, or costs less and less, down to nothing. Core: the parts of the
circuit without any one of which even the rest of the whole model does not do as well; other circuits need them too
(inputs and logits are often among them).

A rival does as well when on training pairs its f reaches the lower end of the circuit's interval, and on held-out pairs
the circuit's lower end there. Of those the one with the least overlap counts. Where even the free search, which may use
every part of the circuit, finds none, a pass would mean nothing: the check is then not measured.

The overlap's interval is over pairs (bootstrap, training and held-out ones each): in every draw those of the circuits
found count that fall short of the circuit's f, in that draw, by no more than it was allowed; 1 where none does. So it
says how sure it is that the rival does as well. It is of the circuits that were found, searched for once: how far the
search itself would land elsewhere on other pairs is not in it.

When it lies: it looks with one optimiser for so many steps, so that "none found" bounds nothing. It fits few training
pairs, and what it finds there may not hold up held out, where the circuit was found with more of them. A poor circuit
is easily rivalled. Two circuits without a common part can be one mechanism (the channels before and after a copy; a
node and the edges out of it): overlap is of parts, not of what they compute. The core is found by ablating one part at
a time: two parts that stand in for each other are not in it, and where more parts make a circuit worse, a rival may do
without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from gossamer.errors import Unsupported
from gossamer.evidence import Evidence, Null
from gossamer.registry import check
from gossamer.set_overlap import mask_iou
from gossamer.statistics import quantile_interval
from gossamer.verify.edge_faithfulness import why_undefined
from gossamer.verify.trial import Trial, ends, random_sets, shares

FORBIDDEN, CORE = "forbidden", "forbidden outside the core"
PENALTIES = (0.3, 0.1, 0.0)
SHRINKING = 0.8  # of the steps: how long the mask takes from all parts to as many as the circuit has
MEMORY = 0.7  # of the running mean of gradients
SHARPNESS = 4.0  # of the loss: the share of the effect over which a pair that loses nothing stops to count
DRAWS = 20
ROUNDING = 1e-6
FEWEST_STEPS, LEFT = 20, 0.9  # of a search; of the parts after a step, at least
TRIED = 32  # parts tried for the core, at most


@dataclass(frozen=True, kw_only=True, eq=False)
class Rival:
    """What one search found. how: what overlap cost; kept: bool [parts]; overlap: IoU with the circuit; f: on training
    pairs."""

    how: str
    kept: np.ndarray
    overlap: float
    f: float


@check("rivals")
def rivals(
    trial: Trial, *, overlap: float = 0.5, steps: int | None = None, pairs: int = 64, pairs_at_once: int = 16
) -> Evidence:
    """The smallest overlap (IoU, of parts) at which another circuit of at most the same size does as well.

    Passes (canonical) if no rival was found below `overlap`. steps: of each of five searches, by default so many that
    a step leaves out at most a tenth of the parts; pairs: training pairs they are made on, pairs_at_once of them a
    step. The value is None where none was found at any overlap below 1, which is named "not reached" and is a pass.
    """
    size, train = int(trial.inside.sum()), trial.task.train[:pairs]
    fields = {
        "claim": "rivals: no other circuit does as well with few of its parts", "unit": "IoU with the circuit",
        "n": trial.n_pairs, "seed": trial.seed, "methodology": trial.methodology().as_dict(),
        "threshold": f"fails if a circuit of at most {size} parts with an IoU below {overlap:g} does as well",
    }  # fmt: skip

    def unmeasured(why: str) -> Evidence:
        return Evidence.model_validate({**fields, "value": None, "verdict": "not measured", "note": why})

    if len(train) < 2 or trial.n_pairs < 2:
        return unmeasured(f"{len(train)} training and {trial.n_pairs} held-out pairs; 2 of each are needed.")
    if not 0 < size < len(trial.kinds):
        return unmeasured(f"The circuit has {size} of {len(trial.kinds)} parts: there is nothing to choose.")
    there = trial.on(train)
    try:
        start = there.attributions().mean(0)
    except Unsupported as error:
        return unmeasured(str(error))
    empty, whole = ends(there)
    own_empty, own_whole = ends(trial)
    if why := why_undefined(empty, whole, seed=trial.seed) or why_undefined(own_empty, own_whole, seed=trial.seed):
        return unmeasured(f"{why}.")

    def f_of(kept: np.ndarray, at: Trial) -> tuple[np.ndarray, np.ndarray]:
        return shares(at.effects(kept), *((empty, whole) if at is there else (own_empty, own_whole)), trial.seed)

    (f_train,), (spread_train,) = f_of(trial.inside[None], there)
    (f_own,), (spread_own,) = f_of(trial.inside[None], trial)
    wanted, wanted_here = (quantile_interval(s)[0] - ROUNDING for s in (spread_train, spread_own))
    core = core_of(there, empty, whole, wanted, start)
    found = search(there, core, start, steps=steps, pairs_at_once=pairs_at_once, wanted=wanted)
    kept, overlaps = np.stack([r.kept for r in found]), np.array([r.overlap for r in found])
    (held, spread), (_, seen) = f_of(kept, trial), f_of(kept, there)
    as_well = (seen - spread_train >= wanted - f_train) & (spread - spread_own >= wanted_here - f_own)
    least = np.where(as_well, overlaps[:, None], 1.0).min(0)
    good = [r.f >= wanted and h >= wanted_here for r, h in zip(found, held, strict=True)]
    rivals_found = [i for i, r in enumerate(found) if good[i] and r.overlap < 1]
    rival = min(rivals_found, key=lambda i: found[i].overlap, default=None)
    random = random_sets(trial, DRAWS, trial.seed)
    chance, f_random = mask_iou(random, trial.inside, empty=1), f_of(random, trial)[0]
    nulls = [
        Null(name=trial.null, value=float(chance.mean()), interval=quantile_interval(chance), n=DRAWS),
        Null(name="core alone", value=float(mask_iou(core, trial.inside, empty=1)), n=size),
    ]
    note = (
        f"In {(least < overlap).mean():.0%} of draws of the pairs one below {overlap:g} does as well. "
        f"The circuit: {size} parts, f {f_own:.3f} held out, {f_train:.3f} on training pairs; a rival needs "
        f"{wanted_here:.3f} and {wanted:.3f}. Core: {int(core.sum())} parts{_named(trial, core)}. Random sets: f "
        f"{f_random.mean():.3f}. Searches (IoU, f on training pairs, held out): "
        + "; ".join(f"overlap {r.how}: {r.overlap:.2f}, {r.f:.3f}, {h:.3f}" for r, h in zip(found, held, strict=True))
        + "."
    )  # fmt: skip
    if rival is None and not good[-1]:
        return unmeasured(f"The free search did not do as well either, so that no rival means nothing. {note}")
    if rival is None:
        nulls.append(Null(name="rival", value=None, outcome="not reached"))
        note = f"Not reached: none that does as well held out was found below IoU 1, which is a pass. {note}"
        return Evidence.model_validate({
            **fields, "value": None, "nulls": tuple(nulls), "verdict": "pass", "note": note,
        })  # fmt: skip
    r, f_interval = found[rival], quantile_interval(spread[rival])
    outside = mask_iou(r.kept & ~core, trial.inside & ~core, empty=1)
    note = (
        f"The rival: {int(r.kept.sum())} parts, overlap {r.how}, f {held[rival]:.3f} [{f_interval[0]:.3f}, "
        f"{f_interval[1]:.3f}] held out; outside the core IoU {outside:.2f}. {note}"
    )
    return Evidence.model_validate({
        **fields, "value": r.overlap, "interval": quantile_interval(least), "nulls": tuple(nulls), "note": note,
        "verdict": "fail" if r.overlap < overlap else "pass",
    })  # fmt: skip


def _named(trial: Trial, parts: np.ndarray) -> str:
    """The first few names in brackets."""
    names = [trial.part(int(i)) for i in np.flatnonzero(parts)[:5]]
    return f" ({', '.join(names)}{', ...' if parts.sum() > 5 else ''})" if names else ""


def core_of(trial: Trial, empty: np.ndarray, whole: np.ndarray, wanted: float, start: np.ndarray) -> np.ndarray:
    """Parts of the circuit, bool [parts], without any one of which the rest of the whole model is below `wanted`.

    Of a circuit with more than TRIED parts only those with the largest attributions (`start`, [parts]) are tried.
    """
    parts = np.flatnonzero(trial.inside)
    if len(parts) > TRIED:
        parts = np.sort(parts[np.argsort(-np.abs(start[parts]), kind="stable")[:TRIED]])
    kept = np.ones((len(parts), len(trial.kinds)), dtype=bool)
    kept[np.arange(len(parts)), parts] = False
    f, _ = shares(trial.effects(kept), empty, whole, trial.seed)
    core = np.zeros(len(trial.kinds), dtype=bool)
    core[parts[f < wanted]] = True
    return core


def search(
    trial: Trial, core: np.ndarray, start: np.ndarray, *, steps: int | None = None, pairs_at_once: int = 16,
    wanted: float = float("inf"),
) -> tuple[Rival, ...]:  # fmt: skip
    """One circuit of at most the same size for every price of overlap, from forbidden to free; the last is the free
    one. Once one reaches `wanted` on the trial's pairs only the free search is left. start: mean attributions [parts].
    """
    empty, whole = ends(trial)
    below, own = whole - empty, trial.inside
    if steps is None:
        steps = max(FEWEST_STEPS, math.ceil(math.log(len(own) / own.sum()) / -math.log(LEFT) / SHRINKING))
    prices = [(FORBIDDEN, ~own, 0.0), *([(CORE, ~own | core, 0.0)] if core.any() and (own & ~core).any() else [])]
    prices += [(f"at {p:g}" if p else "free", np.ones_like(own), p) for p in PENALTIES]
    found: list[Rival] = []
    for place, (how, allowed, price) in enumerate(prices):
        if place < len(prices) - 1 and any(r.f >= wanted for r in found):
            continue
        tried = _masks(
            trial, start, allowed, price, below=float(below.mean()), whole=whole, steps=steps,
            pairs_at_once=pairs_at_once, done=place * steps, total=len(prices) * steps,
        )  # fmt: skip
        f, _ = shares(trial.effects(tried), empty, whole, trial.seed)
        best = int(f.argmax())
        found.append(
            Rival(how=how, kept=tried[best], overlap=float(mask_iou(tried[best], own, empty=1)), f=float(f[best]))
        )
    return tuple(found)


def _masks(
    trial: Trial, start: np.ndarray, allowed: np.ndarray, price: float, *, below: float, whole: np.ndarray,
    steps: int, pairs_at_once: int, done: int, total: int,
) -> np.ndarray:  # fmt: skip
    """As many allowed parts as the circuit has, as they were after each of the last steps, bool [masks, parts]. A
    part's rank is the running mean of how fast the loss falls with its share, less, for a part of the circuit, the
    price over the circuit's size."""
    own, free, wanted = torch.from_numpy(trial.inside), torch.from_numpy(allowed), torch.from_numpy(whole)
    most, size = int(allowed.sum()), min(int(trial.inside.sum()), int(allowed.sum()))
    gain, cost = torch.from_numpy(start / below), price / int(trial.inside.sum()) * own

    def best(step: int) -> Tensor:
        size_now = max(size, round(most * (size / most) ** min(1.0, step / (SHRINKING * steps))))
        ranked = torch.sort((gain - cost).masked_fill(~free, -torch.inf), descending=True, stable=True).indices
        return torch.zeros(len(own)).index_fill(0, ranked[:size_now], 1.0)

    starts, small = range(0, trial.n_pairs, pairs_at_once), list[np.ndarray]()
    for step in range(steps):
        first = starts[step % len(starts)]
        stop = min(first + pairs_at_once, trial.n_pairs)
        with torch.enable_grad():
            kept = best(step).requires_grad_()
            lost = (wanted[first:stop] - trial.graded(kept, first, stop).double().cpu()) / below
            loss = softplus(SHARPNESS * lost).mean() / SHARPNESS
            (slope,) = torch.autograd.grad(loss, kept)
        gain = MEMORY * gain - (1 - MEMORY) * slope.double().cpu()
        if step + 1 >= SHRINKING * steps:
            small.append(best(step + 1).numpy() > 0)
        if trial.progress:
            trial.progress(done + step + 1, total, float(loss.detach()))
    return np.unique(small, axis=0)
