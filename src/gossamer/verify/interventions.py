"""Is it what the circuit's parts carry that matters, or only that they are changed? And does the harness do nothing
when it is asked to do nothing?

Three replacements of what the circuit's parts write, everything else running on: by the ablation's values (the
counterfactual prompt's, or the means), by the clean values plus a change of the same size in a random direction, and by
their own clean values. The first has to do more than the second, as any disturbance of that size does something; the
third has to do nothing.

Size is the Euclidean norm of the change at one prompt and position, of the clean run: of what a writer writes (head and
block grain), or of the circuit's channels at one location. A channel has one direction only, so the random one is taken
among all channels of its location. Random steering vectors of equal norm are the usual control of activation additions
(Turner et al. 2023, arXiv 2308.10248); the no-op is the first null of the notes on evaluation (papers 8 to 14).

When it lies: a random direction is nearly orthogonal to everything a wide model reads, so that beating it is easy;
failing is what tells. Changes meet those that come from parts before them, so sizes agree at the first part only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.evidence import Evidence, Null
from gossamer.metric import row_metric
from gossamer.registry import check
from gossamer.replacement import everywhere, replacement
from gossamer.statistics import quantile_interval, resampled_means
from gossamer.task import sides
from gossamer.verify.channel_trial import ChannelTrial
from gossamer.verify.edge_trial import EdgeTrial
from gossamer.verify.same_procedure import not_measured, why_no_share
from gossamer.verify.trial import Trial, ends

CLAIM = "interventions: what the circuit's parts carry matters more than a random change of the same size"
UNIT = "share of the effect lost"
PAIRS_AT_ONCE = 16


class Changed(NamedTuple):
    """Effects in logits with the circuit's parts changed in random directions [draws, pairs] or by nothing [pairs]."""

    random: np.ndarray
    nothing: np.ndarray


@check("interventions")
def interventions(trial: Trial, *, draws: int = 10, tolerance: float = 1e-5) -> Evidence:
    """The share of the effect lost when the circuit is ablated, beside random changes of the same size and the no-op.

    Passes if the whole interval is above 97.5% of the random changes and the no-op moves no pair's effect by more than
    `tolerance` times the largest effect (at least 1 logit); rounded for a model of less than float32.
    """
    threshold = (
        f"fails if random changes of the same size reach the interval, or if putting back the same values changes an "
        f"effect by more than {tolerance:g}"
    )
    how = trial.methodology(set_="circuit").as_dict()
    if not isinstance(trial, ChannelTrial | EdgeTrial):
        why = "values cannot be put in place of others in this kind of trial"
        return not_measured(trial, CLAIM, threshold, why, UNIT, how)
    why = f"ablation by {trial.values[0]} has no one change whose size could be matched"
    if trial.values[0] not in ("noise", "optimal"):
        why = why_no_share(trial)
    if why:
        return not_measured(trial, CLAIM, threshold, why, UNIT, how)
    empty, whole = ends(trial)
    (without,) = trial.effects(~trial.inside[None])
    changed = _of_channels(trial, draws) if isinstance(trial, ChannelTrial) else _of_edges(trial, draws)
    below = whole - empty
    spread = resampled_means(whole - without, trial.seed) / resampled_means(below, trial.seed)
    lost, interval = float((whole - without).mean() / below.mean()), quantile_interval(spread)
    random = (whole - changed.random).mean(1) / below.mean()
    moved = float(np.abs(changed.nothing - whole).max())
    allowed = tolerance * max(1.0, float(np.abs(whole).max())) * _coarser(trial)
    good = moved <= allowed and interval[0] > quantile_interval(random)[1]
    return Evidence(
        claim=CLAIM, value=lost, unit=UNIT, interval=interval, n=trial.n_pairs,
        nulls=(
            Null(name="random direction of the same size", value=float(random.mean()),
                 interval=quantile_interval(random), n=draws),
            Null(name="no-op: largest change in logits", value=moved, n=trial.n_pairs),
        ),
        verdict="pass" if good else "fail", methodology=how, threshold=threshold, seed=trial.seed,
        note="" if moved <= allowed else f"The no-op changes an effect by {moved:.2g} logits: the harness, or a model "
        "that does not give the same numbers twice, is at fault, and no other number of this trial can be trusted.",
    )  # fmt: skip


def _coarser(trial: ChannelTrial | EdgeTrial) -> float:
    """How much coarser than float32 the model's numbers are."""
    dtype = getattr(getattr(getattr(trial.model, "decoder", trial.model), "model", None), "dtype", torch.float32)
    return max(1.0, torch.finfo(dtype).eps / torch.finfo(torch.float32).eps)


def _directions(sizes: Tensor, width: int, last: Tensor, number: tuple[int, int, int]) -> Tensor:
    """Random vectors [.., rows, pos, width] of these norms [.., rows, pos], by row and not by batch; none after the
    last token. number: of the trial's seed, the draw and the first row."""
    found = sizes.new_zeros(*sizes.shape, width)
    for row, end in enumerate((last + 1).tolist()):
        generator = torch.Generator().manual_seed(hash((*number[:2], number[2] + row)))
        size = sizes[..., row, :end]
        drawn = torch.randn(*size.shape, width, generator=generator).to(found)
        found[..., row, :end, :] = drawn * (size / drawn.norm(dim=-1))[..., None]
    return found


@torch.no_grad()
def _of_channels(trial: ChannelTrial, draws: int) -> Changed:
    layout, inside = trial.circuit.layout, trial.circuit.kept_by_location()
    names = [name for name, _ in layout.locations if inside[name].any()]
    masks = {name: torch.from_numpy(~inside[name]).float() for name in names}
    value = trial.values[0]
    random: list[list[Tensor]] = [[] for _ in range(draws)]
    nothing: list[Tensor] = []
    for start in range(0, trial.n_pairs, PAIRS_AT_ONCE):
        batch = trial.heldout.pairs(start, min(start + PAIRS_AT_ONCE, trial.n_pairs))
        own = trial.model.run(batch, reads=names).reads
        if value == "resample":
            order = torch.arange(len(batch.last)).view(-1, 2).flip(1).flatten()
            to = {name: own[name][order] for name in names}
        else:
            to = {name: trial.model.means(value)[name].expand_as(own[name]) for name in names}
        kept = {name: torch.from_numpy(inside[name]).to(own[name]) for name in names}
        sizes = {name: ((to[name] - own[name]) * kept[name]).norm(dim=-1) for name in names}
        nothing.append(trial.model.run(batch, masks=masks, values=own).gap)
        for draw in range(draws):
            by = {
                name: _directions(sizes[name], layout.width(name), batch.last, (hash((trial.seed, i)), draw, 2 * start))
                for i, name in enumerate(names)
            }

            def add(location: str, x: Tensor, by: dict[str, Tensor] = by) -> Tensor:
                return x + by[location].to(x) if location in by else x

            random[draw].append(trial.model.run(batch, reads=names, then=add).gap)
    effects = [torch.cat(parts).unflatten(0, (-1, 2)).mean(1).cpu().double().numpy() for parts in (*random, nothing)]
    return Changed(np.stack(effects[:-1]), effects[-1])


@torch.no_grad()
def _of_edges(trial: EdgeTrial, draws: int) -> Changed:
    how = trial.methodology(set_="circuit")
    shares = torch.from_numpy(trial.circuit.shares(trial.graph(), how).astype(np.float32))
    base = replacement(trial.model, trial.training, how, seed=trial.seed, pairs_at_once=trial.pairs_at_once)
    random: list[list[Tensor]] = [[] for _ in range(draws)]
    nothing: list[Tensor] = []
    for start in range(0, trial.n_pairs, trial.pairs_at_once):
        clean, other = sides(trial.heldout.pairs(start, min(start + trial.pairs_at_once, trial.n_pairs)))
        own, to, score = trial.model.writes(clean)[0], base(clean, other), row_metric(trial.metric, clean)
        alpha, sizes = shares.to(own), (to - own).norm(dim=-1)
        run = everywhere(clean, how)
        nothing.append(score(trial.model.patched(run, alpha, own)))
        for draw in range(draws):
            reference = own + _directions(sizes, own.shape[-1], clean.last, (trial.seed, draw, start))
            random[draw].append(score(trial.model.patched(run, alpha, reference)))
    effects = [torch.cat(parts).cpu().double().numpy() for parts in (*random, nothing)]
    return Changed(np.stack(effects[:-1]), effects[-1])
