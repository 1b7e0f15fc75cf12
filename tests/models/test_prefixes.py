"""The prefix tree against prefixes collected one by one, and the model on it against the model on whole rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import random_model

from gossamer.models.prefixes import Prefixes

ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=12)


def padded(rows: list[list[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows)) + 2
    tokens = torch.tensor([r + [pad] * (width - len(r)) for r in rows])
    return tokens, torch.tensor([len(r) - 1 for r in rows])


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(0, 3))
def test_every_prefix_is_there_once(rows: list[list[int]], pad: int) -> None:
    tokens, last = padded(rows, pad)
    p = Prefixes.of(tokens, last)
    assert len(p.tokens) == len({tuple(r[: i + 1]) for r in rows for i in range(len(r))})
    width = p.cells.shape[1]
    by_number: dict[int, set[tuple[int, ...]]] = {}
    for r, row in enumerate(rows):
        assert int(p.ends[r]) == int(p.cells[r, len(row) - 1])
        for i in range(len(row)):
            by_number.setdefault(int(p.cells[r, i]), set()).add(tuple(row[: i + 1]))
    assert all(len(found) == 1 for found in by_number.values())
    assert sorted(by_number) == list(range(len(p.tokens)))
    for number, ((prefix),) in by_number.items():
        home = int(p.homes[number])
        assert tuple(rows[home // width][: home % width + 1]) == prefix
        assert (int(p.tokens[number]), int(p.depth[number])) == (prefix[-1], len(prefix) - 1)


def test_spread_then_gather_is_the_identity_and_its_gradient_adds_up() -> None:
    tokens, last = padded([[1, 2, 3], [1, 2, 2, 0], [1, 2], [3]])
    p = Prefixes.of(tokens, last)
    x = torch.randn(2, len(p.tokens), 5, dtype=torch.float64, requires_grad=True)
    spread = p.spread(x)
    assert torch.equal(p.gather(spread, 2), x)
    uses = torch.bincount(torch.cat([p.cells[r, : int(n) + 1] for r, n in enumerate(last)]))
    inside = torch.arange(p.cells.shape[1]) <= last[:, None]
    (grad,) = torch.autograd.grad((spread * inside.repeat(2, 1)[..., None]).sum(), x)
    assert torch.equal(grad, uses.double()[None, :, None].expand_as(x))


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"sink": True}, {"position": "additive"}, {"position": "channels", "d_pos": 4}, {"n_layer": 1},
        {"bigram": True}, {"topk_places": ()}, {"topk_places": ("attn_q", "mlp_neuron"), "n_layer": 3},
    ],
    ids=str,
)  # fmt: skip
def test_the_model_on_prefixes_equals_the_model_on_rows(changes: dict[str, object]) -> None:
    model = random_model(**changes).model.double()
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 3, (n,), generator=generator).tolist() for n in (3, 7, 5, 7, 2, 7)]
    tokens, last = padded([*rows, rows[1][:4], [*rows[1][:5], 2, 1]])
    scale = {name: torch.rand(width, generator=generator).double() for name, width in model.config.locations()}

    def edit(location: str, x: torch.Tensor) -> torch.Tensor:
        return x * scale[location]

    whole = model.hidden(tokens, edit)[torch.arange(len(tokens)), last]
    tree = model.hidden_at_ends(Prefixes.of(tokens, last), edit, trials=2)
    assert torch.allclose(tree[0], whole, atol=1e-12)
    assert torch.allclose(tree[1], tree[0], atol=1e-12)
    other = tokens.clone()
    other[0, 0] = 3 - other[0, 0]
    assert not torch.allclose(model.hidden_at_ends(Prefixes.of(other, last), edit)[0, 0], whole[0], atol=1e-6)
