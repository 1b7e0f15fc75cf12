"""Tensor similarity: against tensors written out, under its symmetries, and where it lies."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from gossamer.compare import (
    sampled_similarity,
    similarity_matrix,
    slice_similarities,
    tensor_evidence,
    tensor_similarity,
)
from gossamer.compare.tensor_similarity import inputs_shuffled
from gossamer.errors import BadInput
from gossamer.models.bilinear import BilinearConfig, BilinearModel, random_bilinear

ONE = BilinearConfig(sizes=(5, 3), kinds=("bilinear",), hidden=4)
TWO = BilinearConfig(sizes=(3, 3, 2), kinds=("bilinear", "bilinear"), hidden=3)
THREE = BilinearConfig(sizes=(2, 2, 2, 2), kinds=("bilinear",) * 3, hidden=2)
FULL = BilinearConfig(
    sizes=(3, 4, 4, 2), kinds=("linear", "attention", "bilinear"), hidden=3, positions=2, heads=2, d_head=1,
    constant=True, residual=0.3,
)  # fmt: skip


def drawn(config: BilinearConfig, seed: int) -> BilinearModel:
    return random_bilinear(config, seed).double().requires_grad_(False)


def written_out(model: BilinearModel) -> Tensor:
    """The whole coefficient tensor [outputs, d, .., d] of layers without a constant, legs in the order of the tree."""
    tensor: Tensor | None = None
    for layer in model.products():
        legs: list[Tensor] = []
        for factor in layer.factors:
            legs.append(factor if tensor is None else torch.tensordot(factor, tensor, 1))
        whole = legs[0]
        for leg in legs[1:]:  # an outer product for every product of the layer
            whole = torch.einsum("ha,hb->hab", whole.flatten(1), leg.flatten(1)).flatten(1)
        tensor = (layer.down @ whole).unflatten(1, [layer.factors.shape[2]] * _degree(whole, model))
    assert tensor is not None
    return tensor


def _degree(whole: Tensor, model: BilinearModel) -> int:
    return round(math.log(whole.shape[1], model.config.sizes[0]))


def fully_symmetric(tensor: Tensor) -> Tensor:
    """Every entry replaced by the mean over all orders of its indices: entries alike up to order share one mean."""
    legs, size = tensor.ndim - 1, tensor.shape[1]
    index = np.sort(np.array(list(itertools.product(range(size), repeat=legs))), 1)
    _, group = np.unique(index, axis=0, return_inverse=True)
    flat, groups = tensor.flatten(1), torch.from_numpy(group.ravel())
    sums = torch.zeros(len(flat), int(groups.max()) + 1, dtype=flat.dtype).index_add_(1, groups, flat)
    return (sums / groups.bincount())[:, groups].view_as(tensor)


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_writing_out_means_what_the_model_computes() -> None:
    """The tensors that the others are compared with: contracted with an input they give the output; a mean over all
    orders, taken literally, is the same symmetric tensor."""
    model = drawn(TWO, 0)
    tensor, x = written_out(model), torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.einsum("oabcd,a,b,c,d->o", tensor, x, x, x, x), model(x[None])[0])
    orders = [tensor.permute(0, *(1 + i for i in p)) for p in itertools.permutations(range(4))]
    torch.testing.assert_close(fully_symmetric(tensor), torch.stack(orders).mean(0))


def test_one_layer_is_exact() -> None:
    a, b = drawn(ONE, 0), drawn(ONE, 1)
    one, two = (fully_symmetric(written_out(m)) for m in (a, b))
    r = tensor_similarity(a, b)
    assert r.value == pytest.approx(cosine(one, two), abs=1e-12)
    assert r.norm_ratio == pytest.approx(float(one.norm() / two.norm()), rel=1e-12)
    for value, u, v in zip(r.slices, one, two, strict=True):
        assert float(value) == pytest.approx(cosine(u, v), abs=1e-12)
    # the Gaussian form: tr(M1) tr(M2) + 2 tr(M1 M2) per output, for symmetric M
    traces = [torch.einsum("oii->o", m) for m in (one, two)]
    m = (one, two)
    inner = [
        float((traces[i] * traces[j]).sum() + 2 * (m[i] * m[j]).sum()) for i, j in ((0, 1), (0, 0), (1, 1))
    ]  # fmt: skip
    gaussian = tensor_similarity(a, b, metric="gaussian").value
    assert gaussian == pytest.approx(inner[0] / math.sqrt(inner[1] * inner[2]), abs=1e-12)


@pytest.mark.parametrize("metric", ["symmetric", "gaussian"])
def test_what_leaves_the_function_alone_leaves_the_similarity_at_one(metric: str) -> None:
    """Hidden products in another order, scaled against each other, sides swapped, another basis between layers: exact.
    The weights themselves then have nothing in common."""
    config = BilinearConfig(sizes=(4, 3, 3), kinds=("bilinear", "bilinear"), hidden=5)
    a, same, generator = drawn(config, 0), drawn(config, 0), torch.Generator().manual_seed(5)
    basis = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    order = torch.randperm(5, generator=generator)
    scale = torch.rand(5, 1, dtype=torch.float64, generator=generator) + 0.5
    w = same.weights
    left, right = w["0_left"][order] * scale, w["0_right"][order] / scale**2
    w["0_left"].copy_(right)
    w["0_right"].copy_(left)
    w["0_down"].copy_(basis @ w["0_down"][:, order] * scale.T)
    for side in ("1_left", "1_right"):
        w[side].copy_(w[side] @ basis.inverse())
    r = tensor_similarity(a, same, metric=metric)  # type: ignore[arg-type]
    assert r.value == pytest.approx(1, abs=1e-12)
    assert r.norm_ratio == pytest.approx(1, rel=1e-10)
    assert torch.allclose(r.slices, torch.ones_like(r.slices), atol=1e-12)
    flat = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, same)]
    assert abs(cosine(*flat)) < 0.6
    w["1_down"].mul_(-2)
    r = tensor_similarity(a, same, metric=metric)  # type: ignore[arg-type]
    assert (r.value, r.norm_ratio) == (pytest.approx(-1, abs=1e-12), pytest.approx(0.5, rel=1e-10))
    assert abs(tensor_similarity(a, drawn(config, 9), metric=metric).value) < 0.9  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [TWO, THREE], ids=["depth 2", "depth 3"])
def test_the_oracle_is_the_full_symmetrisation_and_the_recursions_are_not(config: BilinearConfig) -> None:
    a, b = drawn(config, 0), drawn(config, 1)
    exact = cosine(fully_symmetric(written_out(a)), fully_symmetric(written_out(b)))
    r = sampled_similarity(a, b, samples=40_000)
    assert r.error < 0.02
    assert abs(r.value - exact) < 4 * r.error
    for metric in ("symmetric", "gaussian"):
        assert abs(tensor_similarity(a, b, metric=metric).value - exact) > 0.02  # type: ignore[arg-type]


def test_the_counter_example_of_depth_two() -> None:
    """(x1 x2)(x3 x4) and (x1 x3)(x2 x4): one function; both recursions say 0, the oracle 1."""
    config = BilinearConfig(sizes=(4, 2, 1), kinds=("bilinear", "bilinear"), hidden=2)
    found = []
    for pairs in (((0, 1), (2, 3)), ((0, 2), (1, 3))):
        model = BilinearModel(config).double().requires_grad_(False)
        for row, (i, j) in enumerate(pairs):
            model.weights["0_left"][row, i] = model.weights["0_right"][row, j] = model.weights["0_down"][row, row] = 1
        model.weights["1_left"][0, 0] = model.weights["1_right"][0, 1] = model.weights["1_down"][0, 0] = 1
        found.append(model)
    a, b = found
    x = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(a(x), b(x))
    assert tensor_similarity(a, b).value == 0
    assert tensor_similarity(a, b, metric="gaussian").value == 0
    for inputs in ("complex", "normal"):
        r = sampled_similarity(a, b, inputs=inputs, samples=200)  # type: ignore[arg-type]
        assert (r.value, r.error) == (pytest.approx(1, abs=1e-12), pytest.approx(0, abs=1e-6))


def test_one_layer_of_attention_is_exact_and_the_oracle_agrees() -> None:
    """Ten legs: the recursions against sampling, with a constant and a residual connection, and written out."""
    config = BilinearConfig(sizes=(2, 2), kinds=("attention",), heads=2, d_head=1)
    a, b = drawn(config, 0), drawn(config, 1)
    exact = cosine(fully_symmetric(written_out(a)), fully_symmetric(written_out(b)))
    assert tensor_similarity(a, b).value == pytest.approx(exact, abs=1e-12)
    lifted = config.model_copy(update={"positions": 2, "constant": True, "residual": 0.3})
    a, b = drawn(lifted, 0), drawn(lifted, 1)
    for metric, inputs in (("symmetric", "complex"), ("gaussian", "normal")):
        r = sampled_similarity(a, b, inputs=inputs)  # type: ignore[arg-type]
        assert r.error < 0.01
        assert abs(r.value - tensor_similarity(a, b, metric=metric).value) < 4 * r.error  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["symmetric", "gaussian"])
def test_a_matrix_is_its_pairs(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [drawn(FULL, seed) for seed in range(3)]
    matrix = similarity_matrix(models, metric=metric)  # type: ignore[arg-type]
    slices = slice_similarities(models, models[2], metric=metric)  # type: ignore[arg-type]
    for i, j in itertools.product(range(3), repeat=2):
        r = tensor_similarity(models[i], models[j], metric=metric)  # type: ignore[arg-type]
        assert float(matrix[i, j]) == pytest.approx(r.value, abs=1e-12)
        if j == 2:
            torch.testing.assert_close(slices[i], r.slices)
    module = sys.modules["gossamer.compare.tensor_similarity"]  # the package has the function under that name
    monkeypatch.setattr(module, "CHUNK", 2**13)  # several parts of a layer
    torch.testing.assert_close(similarity_matrix(models, metric=metric), matrix)  # type: ignore[arg-type]


def test_an_unused_constant_changes_nothing_on_normal_inputs() -> None:
    bare = drawn(TWO, 0)
    lifted = BilinearModel(TWO.model_copy(update={"constant": True})).double().requires_grad_(False)
    for name, w in bare.weights.items():
        lifted.weights[name][:, -w.shape[1] :] = w
    assert tensor_similarity(bare, lifted, metric="gaussian").value == pytest.approx(1, abs=1e-12)
    assert sampled_similarity(bare, lifted, inputs="normal", samples=100).value == pytest.approx(1, abs=1e-12)
    with pytest.raises(BadInput, match="both or neither with a constant"):
        tensor_similarity(bare, lifted)


def test_what_cannot_be_compared_is_refused() -> None:
    one, two = drawn(ONE, 0), drawn(TWO, 0)
    with pytest.raises(BadInput, match="same inputs and outputs, got 1 x 5 to 3 and 1 x 3 to 2"):
        tensor_similarity(one, two)
    deeper = drawn(BilinearConfig(sizes=(3, 2), kinds=("bilinear",)), 0)
    with pytest.raises(BadInput, match="sampled_similarity compares"):
        tensor_similarity(two, deeper)
    with pytest.raises(BadInput, match="one degree"):
        sampled_similarity(two, deeper)
    with pytest.raises(BadInput, match="0 everywhere"):
        tensor_similarity(one, BilinearModel(ONE))
    with pytest.raises(BadInput, match="metric"):
        tensor_similarity(one, one, metric="gausian")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="one shape"):
        similarity_matrix([one, drawn(ONE.model_copy(update={"hidden": 9}), 0)])
    with pytest.raises(BadInput, match="at least 100 samples"):
        sampled_similarity(one, one, samples=99)
    huge = drawn(ONE, 0)
    huge.weights["0_down"].mul_(1e300)
    with pytest.raises(BadInput, match="beyond float64"):
        tensor_similarity(huge, huge)


def test_evidence_of_the_same_function_passes_and_of_inputs_in_another_order_fails() -> None:
    a = drawn(BilinearConfig(sizes=(40, 3), kinds=("bilinear",), hidden=8), 0)
    same, unlike = BilinearModel(a.config).double(), inputs_shuffled(a, torch.Generator().manual_seed(77))
    same.load_state_dict(a.state_dict())
    with torch.no_grad():
        for name, w in same.weights.items():
            w.mul_(-2.0 if name in ("0_left", "0_right") else 1.0)  # scaled and turned around
    row = tensor_evidence("a", a, "b", same.requires_grad_(False), draws=19)
    assert (row.verdict, row.p_value) == ("pass", 0.05)
    assert row.value == pytest.approx(1, abs=1e-12)
    assert row.nulls[0].interval is not None
    assert row.nulls[0].interval[1] < 0.5
    assert "ratio of norms 0.25" in row.note
    assert tensor_evidence("a", a, "b", unlike, draws=19).verdict == "fail"
    few = tensor_evidence("a", a, "b", same, draws=10)
    assert (few.verdict, few.value, few.p_smallest) == ("not measured", row.value, 1 / 11)
    assert "Among so few draws no p-value is below 0.0909" in few.note


def test_evidence_of_deep_networks_does_not_depend_on_how_they_are_written_down() -> None:
    """The counter-example of depth two: the recursion says 0, the evidence 1."""
    networks = []
    for pairs in ((0, 1, 2, 3), (0, 2, 1, 3)):
        config = BilinearConfig(sizes=(4, 2, 1), kinds=("bilinear", "bilinear"), hidden=2)
        model = BilinearModel(config).double().requires_grad_(False)
        for w in model.weights.values():
            w.zero_()
        for i in range(2):
            model.weights["0_left"][i, pairs[2 * i]] = model.weights["0_right"][i, pairs[2 * i + 1]] = 1
            model.weights["0_down"][i, i] = 1
        model.weights["1_left"][0, 0] = model.weights["1_right"][0, 1] = model.weights["1_down"][0, 0] = 1
        networks.append(model)
    assert tensor_similarity(*networks).value == pytest.approx(0, abs=1e-12)
    row = tensor_evidence("a", networks[0], "b", networks[1], draws=1, samples=2000)
    assert row.value == pytest.approx(1, abs=1e-9)
    assert row.unit_of_n == "samples"
    assert row.n == 2000
