"""Are the attention heads of two weight-sparse transformers, or of circuits in them, the same maps? From weights alone.

A transformer with softmax, GELU and AbsTopK is no polynomial, so gossamer.compare.tensor_similarity does not apply to
the whole of it. Parts of it are matrices, where the tensor cosine is exact: of every head the QK form [b Q]^T K (what
looks for which channel: a constant, by the bias b of the queries, or a channel) and the OV form O V (which channel is
copied to which), with the gain of the norm before them in the columns. The similarity of two models is the mean of two
cosines, of all their QK forms and of all their OV forms; kinds of form that neither has are left out.

Residual channels of different trainings have no common order, and each can be turned around (RMSNorm, AbsTopK and every
form take x to -x channel by channel with the weights); heads have no order either. `form_similarity` looks for the best
order, by linear assignment on the gradient of the similarity until it rises no more, from three starts: the channels'
own order, the one in which embedding and unembedding agree best, and the one in which channels agree in how much every
layer uses them. As a best one is chosen, chance is far from 0: beside it stands the same search on weights in a random
order.

When it lies: the search finds a local best, so a low value is no proof of difference (a permuted copy is found, see the
tests). Forms say nothing of MLPs, other biases, AbsTopK, sinks and softmax's scale: equal forms are not equal models. A
large head outweighs the others. A circuit's forms hold only its edges and the query biases of its nodes, so circuits of
one head each that share it are alike whatever their MLPs do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.compare.parts import beyond_chance
from gossamer.errors import BadInput
from gossamer.evidence import Evidence, Null
from gossamer.graph import Graph
from gossamer.hypotheses import null_p_value
from gossamer.models.loaded import LoadedModel
from gossamer.models.shuffled import permute
from gossamer.models.sparse import SparseTransformer
from gossamer.statistics import quantile_interval

ROUNDS = 50  # of the search, at most
LEVEL = 0.05
RANDOM_EDGES = "random circuits, as many edges of every matrix and query biases of every layer"
SHUFFLED = "weights in a random order"
UNIT = "cosine, mean of QK and OV"


@dataclass(frozen=True, kw_only=True)
class Forms:
    """Of every layer and head the maps [layers, heads, d_head, d], of `output` [layers, heads, d, d_head], of `bias`,
    the query's, [layers, heads, d_head, 1]; tokens [d, 2 vocabulary]: what each residual channel gets from every token
    and gives to it."""

    bias: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    tokens: Tensor

    def qk(self) -> Tensor:
        """[layers, heads, 1 + d of the query, d of the key], all together of norm 1 (or 0)."""
        return _unit(torch.cat([self.bias, self.query], 3).mT @ self.key)

    def ov(self) -> Tensor:
        """[layers, heads, d written, d read], all together of norm 1 (or 0)."""
        return _unit(self.output @ self.value)

    def shuffled(self, seed: int) -> Forms:
        """Every layer's matrices with their entries in a random order, biases as they are."""
        own = {name: getattr(self, name).clone() for name in ("query", "key", "value", "output", "tokens")}
        permute([t for name, w in own.items() for t in (w if name != "tokens" else [w])], seed)
        return replace(self, **own)


def _unit(forms: Tensor) -> Tensor:
    return forms / forms.norm().clamp_min(torch.finfo(forms.dtype).tiny)


class FormSimilarity(NamedTuple):
    """value: mean of qk and ov, cosines of -1 to 1 after the best order found; as_is: the same without one (nan for
    models of other widths). channels [d of a]: which channel of b (-1: none) stands for each of a; signs: 1 or -1, up
    to one common sign; heads: per layer which head of b. null: the same search on weights in a random order, its mean
    and central 95%; p_value of the value among `draws` of them, `smallest` the least there could be."""

    value: float
    qk: float
    ov: float
    as_is: float
    channels: np.ndarray
    signs: np.ndarray
    heads: tuple[tuple[int, ...], ...]
    null: float
    null_interval: tuple[float, float]
    p_value: float
    smallest: float
    draws: int


@torch.no_grad()
def forms_of(model: LoadedModel | SparseTransformer, circuit: Circuit | None = None) -> Forms:
    """The forms of a weight-sparse transformer, or only of a circuit's edges in it; positional channels are left out.

    Errors: BadInput for a circuit of another model's matrices.
    """
    own = model.model if isinstance(model, LoadedModel) else model
    c = own.config
    found: dict[str, list[Tensor]] = {"bias": [], "query": [], "key": [], "value": [], "output": []}
    for i, block in enumerate(own.blocks):
        w = dict(zip("qkv", block.attn.c_attn.weight.double().chunk(3), strict=True))
        out = block.attn.c_proj.weight.double()
        bias = block.attn.c_attn.bias.double()[: c.d_attn] if c.bias else out.new_zeros(c.d_attn)
        if circuit is not None:
            w = {part: own_w * _kept(circuit, f"{i}.attn.c_attn.{part}", own_w) for part, own_w in w.items()}
            out = out * _kept(circuit, f"{i}.attn.c_proj", out)
            bias = bias * torch.from_numpy(circuit.kept_by_location()[f"{i}.attn.q"])
        gain = block.ln_1.weight.double()
        for name, part in (("query", "q"), ("key", "k"), ("value", "v")):
            found[name].append((w[part][:, : c.d_model] * gain).unflatten(0, (c.n_head, c.d_head)))
        found["bias"].append(bias.view(c.n_head, c.d_head, 1))
        found["output"].append(out.unflatten(1, (c.n_head, c.d_head)).transpose(0, 1))
    tokens = torch.cat([own.wte.weight, own.lm_head.weight]).double().T
    return Forms(**{name: torch.stack(w) for name, w in found.items()}, tokens=tokens)


def _kept(circuit: Circuit, matrix: str, w: Tensor) -> Tensor:
    """1 where an entry of a matrix [out, in] is an edge of the circuit."""
    kept = torch.zeros_like(w)
    if matrix not in circuit.matrices:
        raise BadInput(f"Expected a circuit of this model, it has no matrix {matrix}; take one found in it.")
    edges = circuit.matrix == circuit.matrices.index(matrix)
    if not edges.any():
        return kept
    ends = []
    for number in (circuit.dst[edges], circuit.src[edges]):
        location = circuit.layout.site(int(number[0])).location
        ends.append(torch.from_numpy(number - circuit.layout.starts[location]))
    if int(ends[0].max()) >= w.shape[0] or int(ends[1].max()) >= w.shape[1]:
        raise BadInput(f"Expected a circuit of this model, its {matrix} is larger; take one found in it.")
    kept[ends[0], ends[1]] = 1
    return kept


def form_matrix(forms: Sequence[Forms]) -> Tensor:
    """Similarity of every pair [n, n] in the channels' own order, as of the checkpoints of one training or the circuits
    of one model; nan between two circuits without a head."""
    if not forms or any(f.query.shape != forms[0].query.shape for f in forms):
        raise BadInput("Expected the forms of one or more models of one shape, as checkpoints are.")
    total, kinds = torch.zeros(len(forms), len(forms), dtype=torch.float64), torch.zeros(1)
    for parts in ([f.qk().flatten() for f in forms], [f.ov().flatten() for f in forms]):
        x = torch.stack(parts)
        there = x.any(1)
        total, kinds = total + x @ x.T, kinds + (there[:, None] | there).double()
    return total / kinds


def form_similarity(
    a: Forms, b: Forms, *, draws: int = 20, seed: int = 0, progress: Callable[[int, int, float], None] | None = None
) -> FormSimilarity:
    """How alike two models' or circuits' heads are, up to the order and sign of channels and the order of heads.

    A model of fewer channels or heads has some of the other's left over. draws: of the null; progress(searches done,
    all, value of the last). Errors: BadInput for
    another number of layers or vocabulary, or forms that are 0 everywhere (a circuit without a head).
    """
    if len(a.query) != len(b.query) or a.tokens.shape[1] != b.tokens.shape[1]:
        raise BadInput(
            f"Expected models of as many layers and one vocabulary, got {len(a.query)} layers and "
            f"{a.tokens.shape[1] // 2} tokens, {len(b.query)} and {b.tokens.shape[1] // 2}."
        )
    if draws < 1:
        raise BadInput(f"Expected one or more draws, got {draws}.")
    if not any(bool(own.any()) for own in (a.qk(), a.ov())) or not any(bool(own.any()) for own in (b.qk(), b.ov())):
        raise BadInput(
            "Expected forms that are not 0 everywhere, one has no head at work; compare its MLPs by overlap."
        )
    as_is = float(form_matrix([a, b])[0, 1]) if a.query.shape == b.query.shape else float("nan")
    width, heads = (max(x.query.shape[i] for x in (a, b)) for i in (3, 1))
    one, two = _padded(a, width, heads), _padded(b, width, heads)
    found = list[_Found]()
    for i in range(draws + 1):
        found.append(_search(one, two.shuffled(seed + i - 1) if i else two))
        if progress:
            progress(i + 1, draws + 1, found[-1].value)
    best, null = found[0], np.array([f.value for f in found[1:]])
    p, smallest = null_p_value(best.value, null)
    channels = np.where(best.order < b.query.shape[3], best.order, -1)[: a.query.shape[3]]
    return FormSimilarity(
        value=best.value, qk=best.qk, ov=best.ov, as_is=as_is, channels=channels, signs=best.signs[: len(channels)],
        heads=tuple(tuple(int(h) for h in row[: a.query.shape[1]]) for row in best.heads), null=float(null.mean()),
        null_interval=quantile_interval(null), p_value=p, smallest=smallest, draws=draws,
    )  # fmt: skip


def _padded(forms: Forms, width: int, heads: int) -> Forms:
    wide, more = width - forms.query.shape[3], heads - forms.query.shape[1]
    inputs = {name: F.pad(getattr(forms, name), (0, wide, 0, 0, 0, more)) for name in ("query", "key", "value")}
    return replace(
        forms, **inputs, bias=F.pad(forms.bias, (0, 0, 0, 0, 0, more)),
        output=F.pad(forms.output, (0, 0, 0, wide, 0, more)), tokens=F.pad(forms.tokens, (0, 0, 0, wide)),
    )  # fmt: skip


class _Found(NamedTuple):
    value: float
    qk: float
    ov: float
    order: np.ndarray
    signs: np.ndarray
    heads: np.ndarray


def _search(a: Forms, b: Forms) -> _Found:
    """The best of three starts; see the head of the file."""
    width = a.query.shape[3]
    tokens = F.normalize(a.tokens, dim=1) @ F.normalize(b.tokens, dim=1).T
    forms = (a.qk(), a.ov()), (b.qk(), b.ov())
    starts = [(np.arange(width), np.ones(width)), _assigned(tokens), _assigned(_use(forms[0]).T @ _use(forms[1]))]
    return max((_climb(*forms, order, signs) for order, signs in starts), key=lambda found: found.value)


def _use(forms: tuple[Tensor, Tensor]) -> Tensor:
    """How much each layer's heads use every channel [4 layers, d]: looking, looked for, written, read."""
    qk, ov = (form.abs().sum(1) for form in forms)
    return torch.cat([qk[:, 1:].sum(2), qk.sum(1), ov.sum(2), ov.sum(1)])


def _assigned(gains: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """For every row a column of its own and its sign, with the largest sum of absolute values."""
    table = gains.numpy()
    _, order = linear_sum_assignment(-np.abs(table))
    signs = np.sign(table[np.arange(len(order)), order])
    return order, np.where(signs == 0, 1.0, signs)


def _climb(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], order: np.ndarray, signs: np.ndarray
) -> _Found:  # fmt: skip
    best: _Found | None = None
    kinds = sum(bool(x.any() or y.any()) for x, y in zip(a, b, strict=True))
    sizes = [sum(form.flatten(2).norm(dim=2) for form in forms) for forms in (a, b)]
    ties = 1e-9 * sizes[0][:, :, None] * sizes[1][:, None]  # heads that share nothing yet are matched by size
    for _ in range(ROUNDS):
        at = torch.from_numpy(order)
        placed = [torch.cat([b[0][:, :, :1, at], b[0][:, :, 1:][:, :, at][..., at]], 2), b[1][:, :, at][..., at]]
        turned = np.concatenate([[1.0], signs]), signs
        tables = [
            torch.einsum("lhij,lgij->lhg", x, y * torch.from_numpy(rows[:, None] * signs))
            for x, y, rows in zip(a, placed, turned, strict=True)
        ]
        heads = np.stack([linear_sum_assignment(-t.numpy())[1] for t in tables[0] + tables[1] + ties])
        layers = np.arange(len(heads))[:, None]
        qk, ov = ((x * y[layers, heads]).sum((0, 1)).numpy() for x, y in zip(a, placed, strict=True))
        signs = _turned(qk[1:] + ov, qk[0], signs)
        found = float(signs @ qk[1:] @ signs + qk[0] @ signs), float(signs @ ov @ signs)
        if best is not None and sum(found) / kinds <= best.value + 1e-12:
            break
        best = _Found(sum(found) / kinds, *found, order, signs, heads)
        order, signs = _assigned(_gradient(a, b, at, torch.from_numpy(signs), torch.from_numpy(heads)))
    assert best is not None
    return best


def _turned(pairs: np.ndarray, alone: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Signs that raise s pairs s + alone s, turned around one by one while that helps."""
    both, found = pairs + pairs.T, signs.copy()
    np.fill_diagonal(both, 0)
    for _ in range(4 * len(found)):
        gain = -2 * found * (both @ found + alone)
        best = int(gain.argmax())
        if gain[best] <= 1e-12:
            break
        found[best] *= -1
    return found


def _gradient(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], at: Tensor, s: Tensor, heads: Tensor) -> Tensor:
    """How the similarity changes as channel i of a is channel k of b [i, k], heads as they are."""
    layers = torch.arange(len(heads))[:, None]
    found = torch.einsum("lhi,lhk->ik", a[0][:, :, 0], b[0][layers, heads][:, :, 0])
    for x, y in zip((a[0][:, :, 1:], a[1]), (b[0][:, :, 1:], b[1]), strict=True):
        y = y[layers, heads]
        found = found + torch.einsum("lhij,lhkj->ik", x, y[..., at] * s)
        found = found + torch.einsum("lhji,lhjk->ik", x, y[:, :, at] * s[:, None])
    return found


def model_form_evidence(a: str, b: str, found: FormSimilarity, seed: int = 0) -> Evidence:
    """The similarity of two models, by name: it passes where weights in a random order are seldom as alike."""
    verdict, few = beyond_chance(found.p_value, found.smallest, LEVEL)
    as_is = "" if np.isnan(found.as_is) else f"; in the channels' own order {found.as_is:.3g}"
    return Evidence(
        claim=f"form similarity ({a} and {b}): their heads' maps are more alike than {SHUFFLED}", value=found.value,
        unit=UNIT, n=1, unit_of_n="pair of models", seed=seed,
        nulls=(Null(name=f"{SHUFFLED}, the best order found again", value=found.null, interval=found.null_interval,
                    n=found.draws),),
        verdict=verdict, methodology=_how("the best found"),
        threshold=f"fails if {SHUFFLED} are as alike with a probability above {LEVEL:g}", p_value=found.p_value,
        p_smallest=found.smallest, note=f"QK {found.qk:.3g}, OV {found.ov:.3g}{as_is}. MLPs are not compared.{few}",
    )  # fmt: skip


def _how(order: str) -> dict[str, str]:
    return {"compared": "QK and OV forms of the heads, from weights", "order of channels": order, "ablation": "none"}


def checkpoint_form_evidence(forms: Mapping[str, Forms], *, draws: int = 20, seed: int = 0) -> tuple[Evidence, ...]:
    """Along a training: every checkpoint, by name and in order, with the last one, in the channels' own order; beside
    it the last one's weights in a random order."""
    *names, last = forms
    final = _flat(forms[last])
    null = np.array([_cosine(_flat(forms[last].shuffled(seed + i)), final) for i in range(draws)])
    return tuple(
        _own_order(f"{name} and {last}", _cosine(_flat(forms[name]), final), null, f"{SHUFFLED} of {last}",
                   "checkpoints", seed) for name in names
    )  # fmt: skip


def circuit_form_evidence(
    model: LoadedModel, circuits: Mapping[str, Circuit], *, draws: int = 20, seed: int = 0
) -> tuple[Evidence, ...]:  # fmt: skip
    """Every two circuits of one model, in the channels' own order. Beside it, in the second one's place, circuits of
    random edges of the model, as many of every matrix, and with as many of every layer's query biases.

    A circuit without a head at work has no forms: the row is `not measured`.
    """
    graph, rng = model.graph("channel"), np.random.default_rng(seed)
    flat = {name: _flat(forms_of(model, c)) for name, c in circuits.items()}
    rows = list[Evidence]()
    for a, b in itertools.combinations(circuits, 2):
        value = _cosine(flat[a], flat[b])
        null = np.array([
            _cosine(flat[a], _flat(forms_of(model, _random_circuit(graph, circuits[b], rng)))) for _ in range(draws)
        ])  # fmt: skip
        rows.append(_own_order(f"{a} and {b}", value, null, RANDOM_EDGES, "circuits", seed))
    return tuple(rows)


def _own_order(pair: str, value: float, null: np.ndarray, name: str, what: str, seed: int) -> Evidence:
    """A row of two things of one model, nan for a pair without a head at work."""
    more: dict[str, object] = {"value": None, "verdict": "not measured", "note": "One of the two has no head at work."}
    null = np.nan_to_num(null)  # a random circuit without a head at work shares nothing
    if not np.isnan(value):
        p, smallest = null_p_value(value, null)
        verdict, few = beyond_chance(p, smallest, LEVEL)
        more = {
            "value": value, "verdict": verdict, "p_value": p, "p_smallest": smallest,
            "nulls": (Null(name=name, value=float(null.mean()), interval=quantile_interval(null), n=len(null)),),
            "note": f"MLPs are not compared.{few}",
        }  # fmt: skip
    return Evidence.model_validate({
        "claim": f"form similarity ({pair}): their heads' maps are more alike than chance", "unit": UNIT, "n": 1,
        "unit_of_n": f"pair of {what}", "methodology": _how("the channels' own"), "seed": seed,
        "threshold": f"fails if {name} are as alike with a probability above {LEVEL:g}", **more,
    })  # fmt: skip


def _flat(forms: Forms) -> tuple[Tensor, Tensor]:
    return forms.qk().flatten(), forms.ov().flatten()


def _cosine(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """The mean over the kinds of form that either has; nan without any."""
    found = [float(x @ y) for x, y in zip(a, b, strict=True) if bool(x.any() or y.any())]
    return float(np.mean(found)) if found else float("nan")


def _random_circuit(graph: Graph, circuit: Circuit, rng: np.random.Generator) -> Circuit:
    """As many random edges of the graph of every matrix, and as many random nodes of every location of queries."""
    edges = [
        rng.choice(np.flatnonzero(graph.matrix == m), int(n), replace=False)
        for m, n in enumerate(np.bincount(circuit.matrix, minlength=len(circuit.matrices))) if n
    ]  # fmt: skip
    chosen = np.concatenate([np.empty(0, dtype=np.int64), *edges])
    nodes = [
        circuit.layout.starts[name] + rng.choice(circuit.layout.width(name), int(kept.sum()), replace=False)
        for name, kept in circuit.kept_by_location().items() if name.endswith(".attn.q")
    ]  # fmt: skip
    return replace(
        circuit, nodes=np.sort(np.concatenate(nodes)), src=graph.src[chosen], dst=graph.dst[chosen],
        matrix=graph.matrix[chosen], weight=np.zeros(len(chosen)),
    )  # fmt: skip
