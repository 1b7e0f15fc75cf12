"""Are two mechanisms hiding in one circuit? Pairs are clustered by their own attributions, and the split is then tried.

Rai, Geva and Yao 2026 (arXiv 2605.09129) find one faithful circuit of two tasks mixed, and group examples by how the
model processes them before they look for circuits. Here: every pair's attributions over the circuit's parts, of both
orders of its prompts together (which of them is the clean one is no mechanism), at length 1; k-means with two centres
on one half of the held-out pairs; and the mean silhouette of the two clusters beside that of attributions permuted over
pairs within each part, which have the same marginals and no joint structure. Pairs that the whole model does not order
right are left out: nothing answers them, they have no effect to lose, and attributions cluster by that.

Attributions that cluster are not yet mechanisms. The parts on which a cluster relies more than the other (the fewest
with SPECIFIC of the positive difference of means) are ablated besides everything outside the circuit, on the other half
of the pairs, which only the nearest centre assigns to a cluster. The interaction of a cluster is the share of the
circuit's effect that its own pairs lose, less the share that the other's lose; the value is the smaller of the two
interactions, 1 where each cluster has a mechanism of its own. Its p-value is over clusters permuted over pairs.

When it lies: two clusters only, so of three mechanisms one is found against the rest; mechanisms that share most of
their parts, or that differ in the size of what they do alone, do not split; a circuit found on one kind of pairs has
lost the other's mechanism already; attributions are first order, and see nothing of parts that saturate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gossamer.errors import Unsupported
from gossamer.evidence import Evidence, Null
from gossamer.registry import check
from gossamer.statistics import quantile_interval, resampled_means
from gossamer.verify.trial import Trial

RESTARTS, ROUNDS = 8, 50  # of k-means
SMALLEST = 0.1  # a cluster's share of the pairs, at least
SPECIFIC = 0.8
FEWEST = 8  # pairs of a half
CLUSTERS, RANDOM = "attributions permuted over pairs", "clusters permuted over pairs"


class Split(NamedTuple):
    """centres: [2, parts]; labels: bool [pairs], the second cluster; silhouette: mean over pairs."""

    centres: np.ndarray
    labels: np.ndarray
    silhouette: float


@check("mixtures")
def mixtures(trial: Trial, *, split: float = 0.5, level: float = 0.05, draws: int = 99) -> Evidence:
    """How much more each cluster of pairs loses by its own parts than the other does, the smaller of the two.

    Passes (one mechanism) unless there is a causally confirmed split: clusters that are tighter than those of permuted
    attributions (p <= level) and an interaction of at least `split` that permuted clusters do not reach (p <= level).
    """
    inside, n = np.flatnonzero(trial.inside), trial.n_pairs
    fields = {
        "claim": "mixtures: one mechanism, not two, answers all pairs", "unit": "share of the effect",
        "n": n // 2, "seed": trial.seed, "methodology": trial.methodology().as_dict(),
        "threshold": f"fails if pairs cluster (p <= {level:g}) and each cluster loses at least {split:g} more of its "
        f"effect by its own parts than the other does (p <= {level:g})",
    }  # fmt: skip

    def result(verdict: str, note: str, **more: object) -> Evidence:
        return Evidence.model_validate({**fields, "value": None, **more, "verdict": verdict, "note": note})

    if n < 2 * FEWEST:
        return result("not measured", f"{n} held-out pairs; {2 * FEWEST} are needed for two halves.")
    if len(inside) < 2:
        return result("not measured", f"The circuit has {len(inside)} parts: nothing to divide.")
    other = trial.mirrored()
    try:
        raw = (trial.attributions()[:, inside] + other.attributions()[:, inside]) / 2
    except Unsupported as error:
        return result("not measured", str(error))
    every = np.ones((1, len(trial.kinds)), dtype=bool)
    answered = (trial.effects(every)[0] + other.effects(every)[0]) > 0
    length = np.linalg.norm(raw, axis=1, keepdims=True)
    used = answered & (length[:, 0] > 0)
    left_out = "" if used.all() else (
        f"{int((~answered).sum())} of {n} pairs the model does not order right and {int((answered & ~used).sum())} "
        "attribute nothing to the circuit: left out. "
    )  # fmt: skip
    if used.sum() < 2 * FEWEST:
        return result("not measured", f"{left_out}{2 * FEWEST} are needed for two halves.")
    rng = np.random.default_rng(trial.seed)
    order = rng.permutation(np.flatnonzero(used))
    first, second = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    known = raw[first] / length[first]
    if (found := two_means(known, rng)) is None:
        return result("pass", f"{left_out}No two clusters of at least {SMALLEST:.0%} of the pairs: nothing to confirm.")
    permuted = [two_means(_unit(rng.permuted(raw[first], axis=0)), rng) for _ in range(draws)]
    loose = np.array([-1.0 if s is None else s.silhouette for s in permuted])
    p_cluster = float((1 + (loose >= found.silhouette).sum()) / (1 + draws))
    labels = nearest(raw[second] / length[second], found.centres)
    note = left_out + (
        f"Silhouette {found.silhouette:.3f}, of {CLUSTERS} {loose.mean():.3f} (p {p_cluster:.3f}, {draws} draws); "
        f"clusters of {int((~found.labels).sum())} and {int(found.labels.sum())} pairs. "
    )
    if min(labels.sum(), (~labels).sum()) < max(2, SMALLEST * len(labels)):
        return result("pass", f"{note}The other half of the pairs falls into one of them: no split.")
    own = specific(known, found.labels)
    kept = np.stack([trial.inside, np.zeros_like(trial.inside), trial.inside, trial.inside])
    for cluster in (0, 1):
        kept[2 + cluster, inside[own[cluster]]] = False
    effects = (trial.effects(kept)[:, second] + other.effects(kept)[:, second]) / 2
    below, lost = effects[0] - effects[1], effects[0] - effects[2:]  # [pairs], [clusters, pairs]
    for of_it in (labels, ~labels):
        if quantile_interval(resampled_means(below[of_it], trial.seed))[0] <= 0:
            return result("not measured", f"{note}In one cluster the circuit has no effect to lose.")
    interactions = interaction(lost, below, labels)
    spread = np.stack([
        interaction(lost[:, pick], below[pick], labels[pick])
        for pick in (np.sort(_stratified(labels, rng)) for _ in range(500))
    ]).min(1)  # fmt: skip
    null = np.stack([interaction(lost, below, rng.permutation(labels)) for _ in range(999)]).min(1)
    value = float(interactions.min())
    p_split = float((1 + (null >= value).sum()) / (1 + len(null)))
    names = [", ".join(trial.part(int(inside[i])) for i in parts[:4]) + ", ..." * (len(parts) > 4) for parts in own]
    for cluster, of_it in enumerate((~labels, labels)):
        shares = [lost[cluster, rows].mean() / below[rows].mean() for rows in (of_it, ~of_it)]
        note += (
            f"Without {names[cluster]} ({len(own[cluster])} parts) {int(of_it.sum())} pairs lose {shares[0]:.2f} of "
            f"their effect, the others {shares[1]:.2f}. "
        )
    confirmed = p_cluster <= level and value >= split and p_split <= level
    note += f"Interaction p {p_split:.3f}." + (" Two mechanisms." if confirmed else "")
    return result(
        "fail" if confirmed else "pass", note, value=value, interval=quantile_interval(spread), n=len(second),
        nulls=(Null(name=RANDOM, value=float(null.mean()), interval=quantile_interval(null), n=len(null)),),
    )  # fmt: skip


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows at length 1; a row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))


def nearest(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Whether the second centre is the nearer one, bool [pairs]."""
    distances = np.square(rows[:, None] - centres).sum(-1)
    return np.asarray(distances[:, 1] < distances[:, 0])


def two_means(rows: np.ndarray, rng: np.random.Generator) -> Split | None:
    """The tightest of several k-means with two centres, of those with two clusters of at least SMALLEST of the rows."""
    best: tuple[float, Split] | None = None
    for _ in range(RESTARTS):
        centres, labels = rows[rng.choice(len(rows), 2, replace=False)], np.zeros(len(rows), dtype=bool)
        for _ in range(ROUNDS):
            now = nearest(rows, centres)
            if now.all() or not now.any():
                break
            centres = np.stack([rows[~now].mean(0), rows[now].mean(0)])
            if (now == labels).all():
                break
            labels = now
        if not SMALLEST <= labels.mean() <= 1 - SMALLEST:
            continue
        inertia = float(np.square(rows - centres[labels.astype(int)]).sum())
        if best is None or inertia < best[0]:
            best = inertia, Split(centres, labels, silhouette(rows, labels))
    return None if best is None else best[1]


def silhouette(rows: np.ndarray, labels: np.ndarray) -> float:
    """Mean of (b - a) / max(a, b): a the mean distance to the own cluster's other rows, b to the other cluster's."""
    square = np.square(rows).sum(1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * rows @ rows.T, 0))
    np.fill_diagonal(distance, 0)
    same = labels[:, None] == labels
    a = (distance * same).sum(1) / np.maximum(same.sum(1) - 1, 1)
    b = (distance * ~same).sum(1) / (~same).sum(1)
    larger = np.maximum(a, b)
    return float(np.where(larger > 0, (b - a) / np.where(larger > 0, larger, 1.0), 0.0).mean())


def specific(rows: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Per cluster, the fewest parts with SPECIFIC of all by which its mean exceeds the other's, largest first."""
    more = rows[~labels].mean(0) - rows[labels].mean(0)
    found = []
    for excess in (more.clip(min=0), (-more).clip(min=0)):
        order = np.argsort(-excess, kind="stable")
        reached = np.cumsum(excess[order]) >= SPECIFIC * excess.sum() - 1e-12
        found.append(order[: int(reached.argmax()) + 1])
    return found


def interaction(lost: np.ndarray, below: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per cluster, the share of the effect that its pairs lose by its own parts less the share that the other pairs
    lose by them, [2]. lost: [clusters, pairs], below: [pairs], both logits."""
    shares = [
        [lost[cluster, rows].mean() / below[rows].mean() for rows in (of_it, ~of_it)]
        for cluster, of_it in enumerate((~labels, labels))
    ]
    return np.array([own - others for own, others in shares])


def _stratified(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of pairs drawn with replacement within each cluster."""
    return np.concatenate([rng.choice(np.flatnonzero(of_it), int(of_it.sum())) for of_it in (labels, ~labels)])
