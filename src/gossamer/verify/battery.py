"""The battery: which checks a circuit is put through, their thresholds, and running them one after the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gossamer.claim import Checks
from gossamer.errors import BadInput, Unsupported, nearest
from gossamer.evidence import Evidence
from gossamer.registry import check
from gossamer.verify.edge_checks import EDGE_BATTERY
from gossamer.verify.trial import Trial

OF_CHANNELS = ("sufficiency", "accuracy", "necessity")
OF_EDGES = tuple(EDGE_BATTERY)
OF_ALL = (
    "every-value", "random-subsets", "adversarial-subset", "completeness", "minimality", "frozen-norms",
    "attention-divergence", "role-drift", "generalisation", "interventions", "budget-matched", "shuffled-model",
    "nonsense-task", "stability", "rivals", "mixtures",
)  # fmt: skip
OF_HYPOTHESIS = "causal-scrubbing"  # made where a hypothesis is stated: there is none that fits every circuit


LEAST = {("stability", "runs"): 2, ("completeness", "rounds"): 0}  # of counts that are not at least 1


def checks_of(grain: str, *, quick: bool = False) -> tuple[str, ...]:
    """The checks of circuits of a grain, in the order they are made in; quick: those that take seconds."""
    own = OF_CHANNELS if grain == "channel" else OF_EDGES
    return own if quick else own + OF_ALL


def _function(name: str, grain: str) -> Callable[..., Evidence | tuple[Evidence, ...]]:
    if grain != "channel" and name in EDGE_BATTERY:
        return EDGE_BATTERY[name]
    return check[name]


def _thresholds(name: str, grain: str) -> dict[str, int | float]:
    """The numbers that a check can be given, with what they are unless said."""
    parameters = inspect.signature(_function(name, grain)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and isinstance(p.default, int | float)}


def _given(name: str, grain: str, limits: Mapping[str, float]) -> dict[str, int | float]:
    """Thresholds as the check takes them, counts as whole numbers; BadInput for others."""
    kinds, found = _thresholds(name, grain), dict[str, int | float]()
    for key, value in limits.items():
        if key not in kinds:
            raise BadInput(f"Unknown threshold {key!r} of {name}: {nearest(key, kinds)}")
        whole = isinstance(kinds[key], int)
        if whole and value != int(value):
            raise BadInput(f"Expected a whole number for {key} of {name}, got {value:g}.")
        if whole and value < LEAST.get((name, key), 1):
            raise BadInput(f"Expected at least {LEAST.get((name, key), 1)} for {key} of {name}, got {value:g}.")
        found[key] = int(value) if whole else value
    return found


def known_checks(grain: str) -> dict[str, dict[str, float]]:
    """Every check of circuits of a grain with its thresholds, as they are unless a claim says otherwise."""
    others = (name for name in check if grain == "channel" or name not in OF_CHANNELS)
    names = dict.fromkeys((*checks_of(grain), *others))
    return {name: {k: float(v) for k, v in _thresholds(name, grain).items()} for name in names}


def asks(grain: str) -> dict[str, str]:
    """What every check asks, in a line."""
    docs = {name: inspect.getdoc(_function(name, grain)) or "" for name in known_checks(grain)}
    return {name: text.partition("\n")[0].rstrip(".") for name, text in docs.items()}


def run_battery(
    trial: Trial, checks: Checks, *, stated: Mapping[str, Mapping[str, Any]] | None = None,
    done: Mapping[str, tuple[Evidence, ...]] | None = None,
    after: Callable[[str, tuple[Evidence, ...]], None] | None = None,
) -> tuple[Evidence, ...]:  # fmt: skip
    """The rows of these checks with these thresholds. stated: what a check is given beside them, such as the hypothesis
    of causal-scrubbing. done: rows of checks that were made before, by name; after: is
    called with the rows of each that is made now."""
    found: list[Evidence] = []
    grain = trial.circuit.layout.grain
    given = {name: _given(name, grain, checks[name]) for name in checks}
    for name, numbers in given.items():
        if done is not None and name in done:
            found += done[name]
            continue
        limits = dict(checks[name])
        try:
            rows = _function(name, grain)(trial, **numbers, **(stated or {}).get(name, {}))
        except Unsupported as error:
            if name in checks_of(grain, quick=True):
                raise
            rows = Evidence(
                claim=f"{name}: not supported here", value=None, unit="", n=trial.n_pairs, verdict="not measured",
                methodology=None, threshold="", seed=trial.seed, note=str(error),
            )  # fmt: skip
        rows = tuple(r.model_copy(update={"limits": limits}) for r in ((rows,) if isinstance(rows, Evidence) else rows))
        if after:
            after(name, rows)
        found += rows
    return tuple(found)
