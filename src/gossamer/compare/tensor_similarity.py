"""When are two polynomial networks the same function? Cosines from weights alone (Nissen Gonzalez et al. 2026).

A network of gossamer.models.bilinear is a polynomial in its inputs; the similarity of two is <f, g> / (|f| |g|), here
under three inner products, each summed over outputs:

- `symmetric`: of the coefficient tensors, made symmetric layer by layer, by the Gram recursion
      G' = D_a [ 1/m! sum over p of (F_1 G E_p(1)^T) * .. * (F_m G E_p(m)^T) ] D_b^T,   G = I at the input,
  for layers of m factors F (of a) and E (of b); for a bilinear layer that is 1/2 [LGL*RGR + LGR*RGL]. No tensor is
  built.
- `gaussian`: E[f(x) . g(x)] over standard normal inputs, by Isserlis' theorem layer by layer, the output of a layer
  taken for jointly normal. Exact where there is one layer of products.
- `sampled_similarity`: of the coefficient tensors made symmetric over all inputs of the whole network, which is equal
  for equal functions at any depth: E[f(z) . conj g(z)] over complex normal z, up to a factor, by sampling. Or the
  Gaussian one without taking anything for normal.

When it lies: from the second product layer on, `symmetric` and `gaussian` depend on how a function is written down:
(x1 x2)(x3 x4) and (x1 x3)(x2 x4) are one function with similarity 0; ask sampled_similarity there. Inputs of any
direction count: on one-hot inputs most products never occur, so networks that behave alike can differ. A cosine knows
no scale (see norm_ratio). A constant coordinate counts as one more input of size 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gossamer.compare.parts import beyond_chance
from gossamer.errors import BadInput, nearest
from gossamer.evidence import Evidence, Null
from gossamer.hypotheses import null_p_value
from gossamer.models.bilinear import BilinearModel, Product
from gossamer.statistics import quantile_interval

Metric = Literal["symmetric", "gaussian"]
METRICS = ("symmetric", "gaussian")
CHUNK = 2**24  # numbers held at once, about
LEVEL = 0.05
NULL = "inputs in a random order"


@dataclass(frozen=True, kw_only=True)
class TensorSimilarity:
    """value: cosine of two networks; slices: of each output alone [outputs] (nan where one is 0 everywhere);
    norm_ratio: |f| / |g|. error: standard error of a sampled value, else 0."""

    value: float
    slices: Tensor
    norm_ratio: float
    error: float = 0.0


def tensor_similarity(a: BilinearModel, b: BilinearModel, *, metric: Metric = "symmetric") -> TensorSimilarity:
    """The similarity of two networks.

    Errors: BadInput for networks of other inputs, outputs or layers, for a network that is 0 everywhere and for numbers
    beyond float64.
    """
    _check([a, b], metric)
    one, two = _stacked([a], metric), _stacked([b], metric)
    return _cosines(*(_inner(u, v, metric)[0] for u, v in ((one, two), (one, one), (two, two))))


def similarity_matrix(models: Sequence[BilinearModel], *, metric: Metric = "symmetric") -> Tensor:
    """Similarity of every pair [n, n] of networks of one shape, as along the checkpoints of a training.

    Each network's norm is taken once, and a row of pairs in one pass.
    """
    whole, n = _checkpoints(models, metric), len(models)
    ab = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        rest = [layer.only(slice(i, n)) for layer in whole]
        ab[i, i:] = _inner([layer.only(slice(0, 1)) for layer in rest], rest, metric).sum(1)
    norms = _norms(ab.diagonal())
    found = ab / (norms[:, None] * norms)
    return found.triu() + found.triu(1).T


def slice_similarities(
    models: Sequence[BilinearModel], reference: BilinearModel, *, metric: Metric = "symmetric"
) -> Tensor:  # fmt: skip
    """Similarity of each output of each network [n, outputs], all of one shape, with that output of the reference."""
    whole = _checkpoints([*models, reference], metric)
    one = [layer.only(slice(len(models), None)) for layer in whole]
    own = _inner(whole, whole, metric)
    _norms(own.sum(1))
    return (_inner(one, whole, metric) / (own * own[-1]).sqrt())[:-1]


def sampled_similarity(
    a: BilinearModel, b: BilinearModel, *, inputs: Literal["complex", "normal"] = "complex", samples: int = 20_000,
    seed: int = 0,
) -> TensorSimilarity:  # fmt: skip
    """The similarity under full symmetrisation (inputs `complex`) or on standard normal inputs, by sampling.

    For homogeneous f, g of degree m in d inputs, the product of the fully symmetrised tensors is
    E[f(z) . conj g(z)] / m! over standard complex normal z. As |z| and z / |z| are independent, z is drawn on the unit
    sphere: the same cosine with far less spread. A constant coordinate is one of z's. The standard error is by the
    jackknife over 50 blocks of samples.
    """
    _check([a, b], "symmetric" if inputs == "complex" else "gaussian", same_degrees=False)
    if inputs not in ("complex", "normal"):
        raise BadInput(f"Unknown inputs {inputs!r}: {nearest(inputs, ('complex', 'normal'))}")
    blocks = 50
    if samples < 2 * blocks:
        raise BadInput(f"Expected at least {2 * blocks} samples, got {samples}.")
    one, two = a.products(), b.products()
    if inputs == "complex" and (degree(a) != degree(b) or a.config.lifted != b.config.lifted):
        raise BadInput(
            f"Expected networks of one degree, both or neither with a constant, got {degree(a)} and {degree(b)}."
        )
    generator = torch.Generator().manual_seed(seed)
    sums = []
    for block in range(blocks):
        n = samples * (block + 1) // blocks - samples * block // blocks
        ya, yb = (_values(p, x) for p, x in zip((one, two), _draw(a, b, inputs, n, generator), strict=True))
        sums.append(torch.stack([(u * v.conj()).real.mean(0) for u, v in ((ya, yb), (ya, ya), (yb, yb))]))
    each = torch.stack(sums)  # [blocks, (ab, aa, bb), outputs]
    found = _cosines(*each.mean(0))
    without = ((each.sum(0) - each) / (blocks - 1)).sum(2)
    cosines = without[:, 0] / (without[:, 1] * without[:, 2]).sqrt()
    error = math.sqrt((blocks - 1) * float(cosines.var(correction=0)))
    return TensorSimilarity(value=found.value, slices=found.slices, norm_ratio=found.norm_ratio, error=error)


def inputs_shuffled(model: BilinearModel, generator: torch.Generator) -> BilinearModel:
    """The network with its input coordinates in a random order, the constant in its place."""
    c, other = model.config, copy.deepcopy(model)
    order = torch.randperm(c.sizes[0], generator=generator) + c.constant
    reading = [name for name in other.weights if name.startswith("0_") and name != "0_down"]
    with torch.no_grad():
        for name in reading or ["0_down"]:  # of a linear layer there is no other
            w = other.weights[name]
            w[..., int(c.constant) :] = w[..., order]
    return other.requires_grad_(False)


def tensor_evidence(
    a: str, one: BilinearModel, b: str, two: BilinearModel, *, draws: int = 20, samples: int = 20_000, seed: int = 0
) -> Evidence:  # fmt: skip
    """The similarity of two networks by name, beside the second one with its inputs in a random order.

    With one layer of products the symmetric one, exact; of deeper networks the sampled one, which does not depend on
    how a function is written down, with 1.96 standard errors around it. Errors: as of those two.
    """
    deep = sum(kind != "linear" for kind in one.config.kinds) > 1

    def of(other: BilinearModel) -> TensorSimilarity:
        return sampled_similarity(one, other, samples=samples, seed=seed) if deep else tensor_similarity(one, other)

    generator = torch.Generator().manual_seed(seed)
    found, null = of(two), np.array([of(inputs_shuffled(two, generator)).value for _ in range(draws)])
    p, smallest = null_p_value(found.value, null)
    verdict, few = beyond_chance(p, smallest, LEVEL)
    near = (found.value - 1.96 * found.error, found.value + 1.96 * found.error) if deep else None
    seen = [(float(x), i) for i, x in enumerate(found.slices) if not math.isnan(float(x))]
    low, high = min(seen), max(seen)
    return Evidence(
        claim=f"tensor similarity ({a} and {b}): they are more alike than with {NULL}", value=found.value,
        unit="cosine of polynomials", interval=near, n=samples if deep else 1,
        unit_of_n="samples" if deep else "pair of networks", seed=seed,
        nulls=(Null(name=f"{b} with its {NULL}", value=float(null.mean()), interval=quantile_interval(null), n=draws),),
        verdict=verdict, p_value=p, p_smallest=smallest,
        methodology={
            "compared": "coefficient tensors, from weights", "symmetric over": "all inputs, sampled" if deep else "all",
            "ablation": "none",
        },
        threshold=f"fails if {b} with its {NULL} is as alike with a probability above {LEVEL:g}",
        note=f"Output {low[1]} is least alike ({low[0]:.3g}), output {high[1]} most ({high[0]:.3g}); ratio of norms "
        f"{found.norm_ratio:.3g}.{few}",
    )  # fmt: skip


def degree(model: BilinearModel) -> int:
    """Degree of the network as a polynomial of its inputs (and of the constant, where it has one)."""
    return math.prod({"linear": 1, "bilinear": 2, "attention": 5}[kind] for kind in model.config.kinds)


def _draw(
    a: BilinearModel, b: BilinearModel, inputs: str, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:  # fmt: skip
    c = a.config
    width = c.positions * c.sizes[0]
    if inputs == "complex":
        z = torch.randn(n, width + c.lifted, dtype=torch.complex128, generator=generator)
        z = z / z.abs().square().sum(1, keepdim=True).sqrt()
        return z, z
    x = torch.randn(n, width, dtype=torch.float64, generator=generator)
    whole = torch.cat([torch.ones_like(x[:, :1]), x], 1)
    return (whole if a.config.lifted else x), (whole if b.config.lifted else x)


def _values(layers: Sequence[Product], x: Tensor) -> Tensor:
    for layer in layers:
        y = x @ layer.factors[0].to(x.dtype).T
        for factor in layer.factors[1:]:
            y = y * (x @ factor.to(x.dtype).T)
        x = y @ layer.down.to(x.dtype).T
    return x


def _check(models: Sequence[BilinearModel], metric: str, same_degrees: bool = True) -> None:
    if metric not in METRICS:
        raise BadInput(f"Unknown metric {metric!r}: {nearest(metric, METRICS)}")
    if not models:
        raise BadInput("Expected one or more networks, got none.")
    first = models[0].config
    for own in (m.config for m in models[1:]):
        if (own.positions, own.sizes[0], own.sizes[-1]) != (first.positions, first.sizes[0], first.sizes[-1]):
            raise BadInput(
                f"Expected networks of the same inputs and outputs, got {first.positions} x {first.sizes[0]} to "
                f"{first.sizes[-1]} and {own.positions} x {own.sizes[0]} to {own.sizes[-1]}."
            )
        kinds = own.kinds != first.kinds or own.lifted != first.lifted
        if same_degrees and (kinds if metric == "symmetric" else len(own.kinds) != len(first.kinds)):
            raise BadInput(
                f"Expected networks of the same layers, both or neither with a constant, got {first.kinds} and "
                f"{own.kinds}; sampled_similarity compares any two of one degree."
            )


def _cosines(ab: Tensor, aa: Tensor, bb: Tensor) -> TensorSimilarity:
    """From the inner products per output."""
    one, two = _norms(torch.stack([aa.sum(), bb.sum()])).tolist()
    return TensorSimilarity(value=float(ab.sum()) / (one * two), slices=ab / (aa * bb).sqrt(), norm_ratio=one / two)


def _checkpoints(models: Sequence[BilinearModel], metric: Metric) -> list[_Layer]:
    _check(models, metric)
    if any(m.config != models[0].config for m in models):
        raise BadInput("Expected networks of one shape, as checkpoints are; compare others with tensor_similarity.")
    return _stacked(models, metric)


def _norms(squares: Tensor) -> Tensor:
    if not bool(squares.isfinite().all()):
        raise BadInput("The inner products are beyond float64; scale the networks' weights down, a cosine stays.")
    if not bool((squares > 0).all()):
        raise BadInput("Expected networks that are not 0 everywhere; a similarity with nothing is not defined.")
    return squares.sqrt()


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer of n networks of one shape: factors [m, n, products, in], down [n, out, products].

    Under `gaussian` also, on normal inputs of the network: the mean of what the layer reads [n, in], and of its factors
    the means [m, n, products, 1] and the covariances within each product [m, m, n, products, 1].
    """

    factors: Tensor
    down: Tensor
    mean: Tensor
    means: Tensor
    own: Tensor

    def only(self, which: slice) -> _Layer:
        return _Layer(
            factors=self.factors[:, which], down=self.down[which], mean=self.mean[which], means=self.means[:, which],
            own=self.own[:, :, which],
        )  # fmt: skip


def _stacked(models: Sequence[BilinearModel], metric: Metric) -> list[_Layer]:
    """The layers of networks of one shape; under `gaussian` their moments are taken here."""
    chains = [m.products() for m in models]
    n, width, one = len(chains), chains[0][0].factors.shape[2], int(models[0].config.lifted)
    mean = torch.zeros(n, width, dtype=torch.float64)
    mean[:, :one] = 1
    cov = torch.diag_embed(1 - mean)
    found: list[_Layer] = []
    for parts in zip(*chains, strict=True):
        factors, down = torch.stack([p.factors for p in parts], 1), torch.stack([p.down for p in parts])
        if metric == "symmetric":
            none = torch.empty(n, 0)
            layer = _Layer(factors=factors, down=down, mean=none, means=none[None], own=none[None, None])
        else:
            means = factors @ mean[:, :, None]
            own = torch.stack([((f @ cov) * factors).sum(-1, keepdim=True) for f in factors])
            layer = _Layer(factors=factors, down=down, mean=mean, means=means, own=own)
            if len(found) < len(chains[0]) - 1:
                second = _step(layer, layer, cov, metric)
                mean = (down @ _moment(list(means), own, [], own, [[]] * len(means)))[..., 0]
                cov = second - mean[:, :, None] * mean[:, None]
        found.append(layer)
    return found


def _inner(a: Sequence[_Layer], b: Sequence[_Layer], metric: Metric) -> Tensor:
    """Inner products per output [n, outputs] of networks one by one, or of one with each."""
    gram: Tensor | None = None
    for i, (la, lb) in enumerate(zip(a, b, strict=True)):
        if metric == "gaussian":
            if gram is None:
                inputs = int((la.mean[0] == 0).sum())  # a constant, whose mean is 1, comes before them
                gram = torch.zeros(la.mean.shape[1], lb.mean.shape[1], dtype=torch.float64)
                gram[-inputs:, -inputs:].fill_diagonal_(1)
            else:
                gram = gram - la.mean[:, :, None] * lb.mean[:, None]
        gram = _step(la, lb, gram, metric, diagonal=i == len(a) - 1)
    assert gram is not None
    return gram


def _step(a: _Layer, b: _Layer, gram: Tensor | None, metric: Metric, diagonal: bool = False) -> Tensor:
    """Inner products of all outputs of two layers [n, out, out] (or of each with its own [n, out]) from those of their
    inputs, None for I; under `gaussian` second moments from covariances."""
    legs = len(a.factors) if metric == "symmetric" else len(a.factors) + len(b.factors) - 1
    rows = max(1, CHUNK // (b.factors.shape[1] * b.factors.shape[2] * 2**legs))
    found: Tensor | None = None
    for start in range(0, a.factors.shape[2], rows):
        part = slice(start, start + rows)
        right = [(f.mT if gram is None else gram @ f.mT) for f in b.factors]
        table = [[f[:, part] @ r for r in right] for f in a.factors]
        if metric == "symmetric":
            inside = _permanent(table) / math.factorial(len(table))
        else:
            inside = _moment(list(a.means[:, :, part]), a.own[:, :, :, part], list(b.means.mT), b.own.mT, table)
        down = a.down[:, :, part] @ inside
        own = (down * b.down).sum(-1) if diagonal else down @ b.down.mT
        found = own if found is None else found + own
    assert found is not None
    return found


def _permanent(table: Sequence[Sequence[Tensor]]) -> Tensor:
    """Sum over permutations p of the products of table[i][p(i)], entry by entry: row by row over sets of columns."""
    m = len(table)
    found: dict[int, Tensor] = {1 << j: table[0][j] for j in range(m)}
    for row in table[1:]:
        longer: dict[int, Tensor] = {}
        for columns, value in found.items():
            for j in range(m):
                if not columns >> j & 1:
                    key, more = columns | 1 << j, value * row[j]
                    longer[key] = longer[key] + more if key in longer else more
        found = longer
    return found[(1 << m) - 1]


def _moment(
    u: Sequence[Tensor], own_u: Tensor, v: Sequence[Tensor], own_v: Tensor, cross: Sequence[Sequence[Tensor]]
) -> Tensor:  # fmt: skip
    """E of the product of jointly normal u_1 .. u_m and v_1 .. v_k, entry by entry, from their means and covariances
    (Isserlis' theorem with means): the first of them is at its mean or goes with one of the others."""
    m, means = len(u), [*u, *v]

    def covariance(i: int, j: int) -> Tensor:
        if j < m:
            return own_u[i, j]
        return cross[i][j - m] if i < m else own_v[i - m, j - m]

    known: dict[int, Tensor] = {}

    def expected(left: int) -> Tensor:
        if left not in known:
            i = (left & -left).bit_length() - 1
            others = left & (left - 1)
            if not others:
                known[left] = means[i]
            else:
                total = means[i] * expected(others)
                for j in range(i + 1, len(means)):
                    if others >> j & 1:
                        rest = others & ~(1 << j)
                        total = total + (covariance(i, j) * expected(rest) if rest else covariance(i, j))
                known[left] = total
        return known[left]

    return expected((1 << len(means)) - 1)
