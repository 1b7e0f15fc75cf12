"""Laws of the branches that only run off the CPU, held to on the CPU, and of several threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gossamer.models import kernels
from gossamer.models.kernels import _attention_with_sink_key, abs_topk, attention, linear_topk


def sink_softmax(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    """Attention with a sink as it is defined: one more score in the softmax, whose value is 0."""
    score = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    score = score.masked_fill(torch.ones(score.shape[-2:]).triu(1).bool(), -torch.inf)
    extra = sink.view(1, -1, 1, 1).expand(*score.shape[:3], 1)
    return torch.cat([extra, score], -1).softmax(-1)[..., 1:] @ v


@pytest.mark.parametrize("branch", [_attention_with_sink_key, attention])
def test_both_sink_attentions_and_their_gradients_equal_the_softmax_with_one_more_key(branch: object) -> None:
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(2, 3, 6, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    given.append(torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64))
    inputs = [t.requires_grad_(True) for t in given]
    ours, plain = branch(*inputs), sink_softmax(*inputs)  # type: ignore[operator]
    assert torch.allclose(ours, plain, atol=1e-12)
    direction = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((ours * direction).sum(), inputs), torch.autograd.grad((plain * direction).sum(), inputs),
        strict=True,
    ):  # fmt: skip
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_topk_off_the_fast_path_keeps_exactly_k_among_ties(dtype: torch.dtype, k: int) -> None:
    x = torch.randint(-2, 3, (64, 8), generator=torch.Generator().manual_seed(k)).to(dtype)
    x[0], x[1] = 1.0, 0.0  # all tied, and all zero
    given = x.clone().requires_grad_(True)
    y = abs_topk(given, k)
    y.sum().backward()
    kept = given.grad != 0
    assert (kept.sum(-1) == k).all()
    assert torch.equal(y, x * kept)
    smallest = x.abs().masked_fill(~kept, torch.inf).amin(-1)
    assert (smallest >= x.abs().masked_fill(kept, -torch.inf).amax(-1)).all()


def test_topk_off_the_fast_path_keeps_what_the_fast_path_keeps() -> None:
    order = torch.rand(50, 16, generator=torch.Generator().manual_seed(0)).argsort(-1)
    x = (order + 1.0) * torch.tensor([1.0, -1.0]).repeat(8)  # sixteen different sizes, exact in bfloat16
    for k in (1, 5, 15):
        assert torch.equal(abs_topk(x.bfloat16(), k).float(), abs_topk(x, k))


@pytest.mark.parametrize("smallest_of_a_thread", [48, 1 << 19])
def test_topk_in_blocks_keeps_what_one_pass_keeps(monkeypatch: pytest.MonkeyPatch, smallest_of_a_thread: int) -> None:
    x = torch.randn(101, 16, generator=torch.Generator().manual_seed(0))
    x[::7, :8] = 1.5  # ties in several blocks
    whole = abs_topk(x, 5)
    monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", 48)
    monkeypatch.setattr(kernels, "LARGEST_BLOCK", smallest_of_a_thread)
    torch.set_num_threads(2)
    assert torch.equal(abs_topk(x, 5), whole)


def test_a_product_with_topk_equals_the_two_in_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 5, 7), (12, 7), (12,)
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    ours, plain = linear_topk(*inputs, 2, groups=3), abs_topk(F.linear(*inputs), 2, groups=3)
    assert ours.shape == (2, 5, 12)
    assert torch.allclose(ours, plain, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours.pow(2).sum(), inputs), torch.autograd.grad(plain.pow(2).sum(), inputs), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-12)
