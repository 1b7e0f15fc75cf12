"""Checks of a circuit of edges (heads or blocks): faithfulness in both directions, accuracy, divergence, necessity.

Miller, Chughtai and Saunders 2024 (arXiv 2407.08734): the same circuit has another score under every ablation, so every
number here says its own, and `gossamer verify --ablation` asks for another.

When it lies: faithfulness compares means, so that prompts too high hide prompts too low; a circuit found by ablating
one way is faithful under that way first of all; a redundant mechanism makes a real circuit look unnecessary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gossamer.ablation import Methodology
from gossamer.evidence import Evidence, Null
from gossamer.statistics import bootstrap_interval, mean_interval, quantile_interval
from gossamer.verify.edge_faithfulness import FEWEST, evidence_of
from gossamer.verify.edge_trial import CIRCUIT, EMPTY, FULL, RANDOM, EdgeTrial

ENDS = (("empty circuit", EMPTY), ("full circuit", FULL))


def faithfulness(trial: EdgeTrial, *, target: float = 0.9) -> Evidence:
    """f = (m(circuit) - m(empty)) / (m(model) - m(empty)), m the mean logit difference (of answers of several tokens:
    of their log probabilities); a ratio of means, not clipped.

    Passes if f is in [target, 2 - target] and its whole interval is above every random draw.
    """
    return _near_one(
        trial, trial.methodology(), target, "faithfulness: the circuit alone does what the model does"
    )  # fmt: skip


def restoration(trial: EdgeTrial, *, target: float = 0.9) -> Evidence:
    """The other direction: on the counterfactual prompts, the circuit's edges carry the clean run's values.

    f as in faithfulness, 0 where nothing and 1 where everything is restored; passes as it does. Not measured of other
    values than resample: only the clean run's own values restore it.
    """
    if trial.value != "resample":
        return Evidence(
            claim="restoration: the circuit's values alone bring the answer back", value=None, unit="f",
            n=trial.n_pairs, verdict="not measured", methodology=None,
            threshold=f"fails outside {target:g} to {2 - target:g}",
            note="It has a meaning under ablation by resample alone.",
        )  # fmt: skip
    how = trial.methodology(set_="circuit", direction="counterfactual")
    return _near_one(trial, how, target, "restoration: the circuit's values alone bring the answer back")


def _near_one(trial: EdgeTrial, how: Methodology, target: float, claim: str) -> Evidence:
    return evidence_of(
        trial.outcome(how).gap, metric=trial.metric, aggregate="ratio-of-means", how=how, target=target,
        seed=trial.seed, null=trial.null, claim=claim,
    )  # fmt: skip


def necessity(trial: EdgeTrial) -> Evidence:
    """The share of the effect that is lost when the circuit's edges, and only those, are ablated.

    Passes if the whole interval is above a half while 97.5% of random circuits take away less than that.
    """
    how = trial.methodology(set_="circuit")
    return evidence_of(
        trial.outcome(how).gap, lost=True, metric=trial.metric, aggregate="ratio-of-means", how=how,
        seed=trial.seed, null=trial.null, claim="necessity: without the circuit the model does not do it",
        unit=f"share of the {trial.metric.replace('-', ' ')} lost",
        threshold="fails if the interval reaches down to 0.5 or random circuits of the same size reach it",
        passes=lambda f, ends, random: bool(ends[0] > 0.5 and quantile_interval(random)[1] < 0.5),
    )  # fmt: skip


def accuracy(trial: EdgeTrial) -> Evidence:
    """Share of the held-out clean prompts on which the circuit alone prefers the right answer; coin 0.5."""
    how = trial.methodology()
    right = (trial.outcome(how).gap > 0).astype(np.float64)
    ends, random = mean_interval(right[CIRCUIT], trial.seed), right[RANDOM].mean(1)
    value = float(right[CIRCUIT].mean())
    return _plain(
        trial, right, ends, claim="accuracy: the circuit alone prefers the right answer", unit="share of prompts",
        methodology=how.as_dict(), verdict="pass" if ends[0] > 0.5 and value > random.max() else "fail",
        threshold="fails if the interval reaches a coin's 0.5 or any random draw does as well",
    )  # fmt: skip


def divergence(trial: EdgeTrial) -> Evidence:
    """KL(model || circuit) over the whole vocabulary, nats: what faithfulness to one logit difference does not see."""
    how = trial.methodology()
    kl = trial.outcome(how).kl
    ends, random = bootstrap_interval(kl[CIRCUIT], trial.seed), kl[RANDOM].mean(1)
    return _plain(
        trial, kl, ends, claim="divergence: the circuit's whole next-token distribution is the model's",
        unit="nats of KL(model || circuit)", methodology=how.as_dict(),
        threshold="fails if any random draw's mean is inside or below the interval",
        verdict="pass" if ends[1] < random.min() else "fail",
    )  # fmt: skip


def _plain(trial: EdgeTrial, per_pair: np.ndarray, ends: tuple[float, float], **fields: object) -> Evidence:
    if (n := per_pair.shape[1]) < FEWEST:
        fields |= {"verdict": "not measured", "note": f"{n} pairs are too few for an interval, {FEWEST} are needed."}
    nulls = [_random(trial, per_pair[RANDOM].mean(1))]
    for name, i in ENDS:
        interval = mean_interval(per_pair[i], trial.seed)
        nulls.append(Null(name=name, value=float(per_pair[i].mean()), interval=interval, n=per_pair.shape[1]))
    return Evidence.model_validate({
        **fields, "value": float(per_pair[CIRCUIT].mean()), "interval": ends, "n": per_pair.shape[1],
        "nulls": tuple(nulls), "seed": trial.seed,
    })  # fmt: skip


def _random(trial: EdgeTrial, means: np.ndarray) -> Null:
    return Null(name=trial.null, value=float(means.mean()), interval=quantile_interval(means), n=len(means))


EDGE_BATTERY: dict[str, Callable[..., Evidence]] = {
    "faithfulness": faithfulness, "restoration": restoration, "accuracy": accuracy, "divergence": divergence,
    "necessity": necessity,
}  # fmt: skip
