"""Do circuits compose? Circuits of several operations of one encoder-decoder, each on every operation, and their unions
(Mondorf et al. 2025, arXiv 2410.01434).

Faithfulness is 1 - JSD / ln 2 between the next-token distributions of the whole model and of the circuit, teacher-
forced, the mean over an answer's tokens (its end included, padding not), then over answers. Most tokens of two
operations agree, so beside it stands the same over the tokens that tell the operations apart: those where the circuit's
own operation would have another token. Accuracy is exact match: a greedily decoded answer is right to the last token
exactly when every token, given the right ones before it, has the largest logit, so one pass measures it.

What a channel outside the circuit becomes is part of the question, since circuits of two operations were found with
two sets of means. The rule is said with every number:

- `first`: the means of the first circuit's operation, for a circuit alone its own (the authors' rule);
- `evaluated`: those of the operation that is asked;
- `all`: the mean over all operations, each counting alike;
- `zero`.

A union is bigger than its parts and so nearer to the whole model, whatever it is of. Its null are random supersets of
either part with as many channels of every module as the union has.

When it lies: the union may do what it does by the half of it that the evaluated operation's own circuit shares; the
random supersets have its size, not its importance, so supersets drawn from other circuits would be the harder null;
accuracy jumps where the margin of one token changes sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, permutations
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, nearest
from gossamer.evidence import Evidence, Null
from gossamer.hypotheses import null_p_value
from gossamer.mask import apply_masks
from gossamer.models.encoder_decoder import EncoderDecoder, answer_faithfulness, module_means
from gossamer.statistics import bootstrap_interval, quantile_interval, wilson_interval
from gossamer.tasks.pcfg_set import PAD, Edit, EncodedEdits, encode, told_apart

Rule = Literal["first", "evaluated", "all", "zero"]
Means = Mapping[str, Tensor]  # [channels] per location
AT_ONCE = 4096  # answers in a pass


class Answered(NamedTuple):
    """Of circuits (rows) on edits (columns), [circuits, edits] each. apart: faithfulness over the tokens that tell the
    two operations apart, nan for an edit without one."""

    faithful: np.ndarray
    apart: np.ndarray
    exact: np.ndarray


def edit_means(model: EncoderDecoder, train: Mapping[str, Sequence[Edit]], letters: int = 26) -> dict[str, Means]:
    """Every operation's mean module outputs, over its training edits."""
    return {operation: module_means(model, *encode(given, letters)) for operation, given in train.items()}


def values_by(rule: str, means: Mapping[str, Means], first: str, evaluated: str) -> Means:
    """What a channel outside the circuit becomes, by a rule; BadInput for an unknown one or without the means."""
    if rule not in get_args(Rule):
        raise BadInput(f"Unknown rule {rule!r}: {nearest(rule, get_args(Rule))}")
    for operation in (first, evaluated):
        if operation not in means:
            raise BadInput(f"Expected the means of {operation}, got those of {', '.join(means)}; compute them.")
    if rule == "first":
        return means[first]
    if rule == "evaluated":
        return means[evaluated]
    every = {name: torch.stack([m[name] for m in means.values()]) for name in means[first]}
    return {name: x.mean(0) if rule == "all" else torch.zeros_like(x[0]) for name, x in every.items()}


@torch.no_grad()
def answered(
    model: EncoderDecoder, keep: np.ndarray, batch: EncodedEdits, values: Means, apart: Tensor | None = None
) -> Answered:  # fmt: skip
    """How circuits answer edits. keep: bool [circuits, nodes]; apart: bool [edits, pos] or [circuits, edits, pos]."""
    layout, found = model.config.layout(), []
    counted = batch.answer != PAD
    apart = torch.zeros_like(counted) if apart is None else apart
    whole = model(*batch)
    at_once = max(1, AT_ONCE // len(counted))
    for i in range(0, len(keep), at_once):
        some = keep[i : i + at_once]
        n = len(some)
        masks = {name: torch.from_numpy(m.astype(np.float32)) for name, m in layout.split(some).items()}
        logits = model(batch.source.repeat(n, 1), batch.answer.repeat(n, 1), apply_masks(masks, values))
        logits = logits.unflatten(0, (n, -1))
        same = whole.expand_as(logits)
        told = (apart if apart.ndim == 2 else apart[i : i + at_once]) & counted
        right = (logits.argmax(-1) == batch.answer) | ~counted
        parts = (
            answer_faithfulness(same, logits, counted),
            answer_faithfulness(same, logits, told),
            right.all(-1),
        )
        found.append([x.double().numpy() for x in parts])
    return Answered(*(np.concatenate(x) for x in zip(*found, strict=True)))


def _require_of(model: EncoderDecoder, circuits: Iterable[Circuit], heldout: Iterable[Sequence[Edit]]) -> None:
    """BadInput for a circuit of another model, for none, or for an operation without edits."""
    each, own = list(circuits), model.sha256()
    for c in each:
        if c.layout != model.config.layout() or c.record.model_sha256 not in ("", own):
            raise BadInput(
                f"Expected circuits of the model {own[:12]}, got one of {c.record.model_sha256[:12] or 'another'} with "
                f"{c.layout.n_nodes} nodes; give the model it was found in."
            )
    if not each or not all(map(len, heldout)):
        raise BadInput("Expected one or more circuits, and edits of every operation; got none of one of them.")


def kept(circuits: Sequence[Circuit]) -> np.ndarray:
    """Bool [circuits, nodes]: what keeps its own value when everything outside the circuit is ablated."""
    each = [c.as_ablation("gao-mean").keep for c in circuits]
    return np.array([np.concatenate([k[name] for name, _ in circuits[0].layout.locations]) for k in each])


def random_like(circuit: Circuit, rng: np.random.Generator) -> np.ndarray:
    """Bool [nodes]: as many random channels of every module as the circuit has."""
    return random_superset(circuit & ~circuit, circuit, rng)


def random_superset(part: Circuit, union: Circuit, rng: np.random.Generator) -> np.ndarray:
    """Bool [nodes]: the part and random further channels, of every module as many as the union has."""
    (inside,), (wanted,) = kept([part]), kept([union])
    out = inside.copy()
    for name, start in union.layout.starts.items():
        here = slice(start, start + union.layout.width(name))
        free = np.flatnonzero(~inside[here])
        out[start + rng.choice(free, int(wanted[here].sum() - inside[here].sum()), replace=False)] = True
    return out


class CrossTask(NamedTuple):
    """Circuits (rows) on operations (columns), [circuits, operations] each; apart is nan on a circuit's own operation
    and where no token tells two operations apart."""

    operations: tuple[str, ...]
    faithful: np.ndarray
    apart: np.ndarray
    exact: np.ndarray


def cross_task(
    model: EncoderDecoder, circuits: Mapping[str, Circuit], heldout: Mapping[str, Sequence[Edit]],
    means: Mapping[str, Means], *, rule: Rule = "first", letters: int = 26,
) -> CrossTask:  # fmt: skip
    """Every circuit on every operation's held-out edits."""
    _require_of(model, circuits.values(), heldout.values())
    tables = np.full((3, len(circuits), len(heldout)), np.nan)
    for j, (asked, given) in enumerate(heldout.items()):
        batch = encode(given, letters)
        for i, (own, circuit) in enumerate(circuits.items()):
            apart = _told(given, own, batch)
            found = answered(model, kept([circuit]), batch, values_by(rule, means, own, asked), apart)
            seen = ~np.isnan(found.apart)
            tables[:, i, j] = (
                found.faithful.mean(), found.apart[seen].mean() if seen.any() else np.nan, found.exact.mean()
            )  # fmt: skip
    return CrossTask(tuple(heldout), *tables)


def _told(given: Sequence[Edit], own: str, batch: EncodedEdits) -> Tensor:
    out = torch.zeros_like(batch.answer, dtype=torch.bool)
    for row, edit in zip(out, given, strict=True):
        told = told_apart(edit, own)
        row[: len(told)] = torch.tensor(told)
    return out


def _methodology(circuit: Circuit, rule: Rule) -> dict[str, str]:
    name = "zero-complement" if rule == "zero" else "gao-mean"
    return circuit.as_ablation(name).methodology.as_dict() | {"replacement": rule}


def edit_faithfulness(
    model: EncoderDecoder, circuit: Circuit, heldout: Sequence[Edit], means: Mapping[str, Means], *,
    rule: Rule = "first", letters: int = 26, draws: int = 20, seed: int = 0, floor: float = 0.9, above: float = 0.2,
) -> Evidence:  # fmt: skip
    """A circuit on its own operation, beside random ones with as many channels of every module.

    It passes at `floor` or more and `above` more than the mean of the random ones, with at most half of all channels.
    """
    _require_of(model, [circuit], [heldout])
    own, rng = circuit.record.task, np.random.default_rng(seed)
    keep = np.concatenate([kept([circuit]), [random_like(circuit, rng) for _ in range(draws)]])
    found = answered(model, keep, encode(heldout, letters), values_by(rule, means, own, own))
    value, random, n = float(found.faithful[0].mean()), found.faithful[1:].mean(1), circuit.layout.n_nodes
    p, smallest = null_p_value(value, random)
    good = value >= floor and value - random.mean() >= above and circuit.n_nodes <= n / 2
    return Evidence(
        claim=f"faithfulness ({own}): {circuit.n_nodes} of {n} channels answer as the whole model does",
        value=value, unit="1 - JSD / ln 2", interval=bootstrap_interval(found.faithful[0], seed), n=len(heldout),
        unit_of_n="edits", verdict="pass" if good else "fail", methodology=_methodology(circuit, rule), seed=seed,
        nulls=(
            Null(name="random channels, as many of every module", value=float(random.mean()),
                 interval=quantile_interval(random), n=draws),
        ),
        threshold=f"at least {floor:g}, {above:g} above random channels, with at most half of the channels",
        limits={"floor": floor, "above": above, "share": 0.5}, p_value=p, p_smallest=smallest,
        note=f"exact match {found.exact[0].mean():.3f}, random {found.exact[1:].mean():.3f}",
    )  # fmt: skip


class Composed(NamedTuple):
    """Accuracy of `first | second` on an operation that neither is the circuit of.

    alone: the better of the parts, with its own values or the union's; random: of the supersets of either part, empty
    where none were drawn; own: of the evaluated operation's own circuit, None without one; nodes: of the union.
    """

    first: str
    second: str
    evaluated: str
    nodes: int
    alone: float
    union: float
    own: float | None
    random: tuple[float, ...] = ()

    @property
    def gain(self) -> float:
        return round(self.union - self.alone, 9)  # .47 - .17 is .3

    @property
    def beats_random(self) -> bool:
        """Above every superset drawn, of which there is one at least."""
        return bool(self.random) and self.union > max(self.random)


def union_evidence(
    found: Composed, circuit: Circuit, n: int, *, rule: Rule, seed: int = 0, gain: float = 0.3
) -> Evidence:
    """A union as evidence: it passes with `gain` or more over the better part and above every random superset.

    circuit: the first of the two; n: edits asked; seed: of the supersets.
    """
    tested = null_p_value(found.union, found.random) if found.random else None
    low, high = wilson_interval(round(found.union * n), n)
    what = f"{found.first} | {found.second} on {found.evaluated}"
    return Evidence(
        claim=f"union ({what}): {found.nodes} channels do what neither part does", value=found.union,
        unit="exact match", interval=(float(low), float(high)), n=n, unit_of_n="edits",
        methodology=_methodology(circuit, rule), seed=seed,
        nulls=(
            Null(name="the better part alone", value=found.alone, n=1),
            Null(name="random supersets of a part, as many of every module",
                 value=float(np.mean(found.random)) if found.random else None, n=len(found.random),
                 interval=quantile_interval(found.random) if found.random else None,
                 outcome="measured" if found.random else "not measured"),
        ),
        verdict="pass" if found.gain >= gain and found.beats_random else "fail",
        threshold=f"{gain:g} above the better part, and above every random superset", limits={"gain": gain},
        p_value=tested and tested.p_value, p_smallest=tested and tested.smallest,
    )  # fmt: skip


def unions(
    model: EncoderDecoder, circuits: Mapping[str, Circuit], heldout: Mapping[str, Sequence[Edit]],
    means: Mapping[str, Means], *, rule: Rule = "first", letters: int = 26, draws: int = 20, seed: int = 0,
    tested: int = 20, progress: Callable[[int, int, float], None] | None = None,
) -> list[Composed]:  # fmt: skip
    """Every union of two circuits on every third operation, the largest gain first.

    The first `tested` are put beside random supersets, `draws` of each part; `union_evidence` makes a row of one.
    progress(operations measured, all, best gain). When it lies: the best of
    hundreds of unions gains something by chance; the supersets are a null for one union, not for the choice of it.
    """
    _require_of(model, circuits.values(), heldout.values())
    names, own_values = tuple(circuits), rule == "first"
    flags = dict(zip(names, kept(list(circuits.values())), strict=True))
    pairs = list(permutations(names, 2) if own_values else combinations(names, 2))
    found: list[Composed] = []
    for done, (asked, given) in enumerate(heldout.items(), 1):
        batch = encode(given, letters)
        scores: dict[str, dict[tuple[str, ...], float]] = {}  # by whose values, by whose union
        for owner in names if own_values else names[:1]:
            mine = [(a, b) for a, b in pairs if a == owner or not own_values]
            sets: list[tuple[str, ...]] = [*((n,) for n in names), *mine]
            keep = np.array([np.any([flags[n] for n in some], axis=0) for some in sets])
            exact = answered(model, keep, batch, values_by(rule, means, owner, asked)).exact.mean(1).tolist()
            scores[owner] = dict(zip(sets, exact, strict=True))
        by = {name: scores[name if own_values else names[0]] for name in names}
        for a, b in pairs:
            if asked not in (a, b):
                alone = max(by[a][(a,)], by[b][(b,)], by[a][(b,)])
                own = by[asked][(asked,)] if asked in names else None
                found.append(Composed(a, b, asked, int((flags[a] | flags[b]).sum()), alone, by[a][a, b], own))
        if progress:
            progress(done, len(heldout), max((u.gain for u in found), default=0.0))
    found.sort(key=lambda u: -u.gain)
    rng = np.random.default_rng(seed)
    for i, u in enumerate(found[:tested]):
        parts, union = (circuits[u.first], circuits[u.second]), circuits[u.first] | circuits[u.second]
        keep = np.array([random_superset(part, union, rng) for part in parts for _ in range(draws)])
        values = values_by(rule, means, u.first, u.evaluated)
        random = answered(model, keep, encode(heldout[u.evaluated], letters), values).exact.mean(1)
        found[i] = u._replace(random=tuple(random.tolist()))
    return found
