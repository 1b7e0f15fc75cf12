"""Laws of the L0 projection and of the schedules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import BadInput
from gossamer.models.sparse import SparseTransformer
from gossamer.train.optimizer import SparseAdam, normalise_gradients
from gossamer.train.presets import PRESETS, preset
from gossamer.train.projection import project_, targets
from gossamer.train.schedule import density_at, lr_multiplier, sharkfin


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3), st.integers(0, 1), st.data())
def test_exactly_k_survive_with_the_minimum_alive_inside_k(
    rows: int, columns: int, alive: int, dim: int, data: st.DataObject
) -> None:
    alive = min(alive, (rows, columns)[dim])
    forced = alive * (rows, columns)[1 - dim]
    k = data.draw(st.integers(max(1, forced), rows * columns))
    seed = data.draw(st.integers(0, 99))
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).round(decimals=1)  # ties are common
    before = w.clone()
    kept = project_(w, k, dim, alive)
    assert int(kept.sum()) == k
    assert (kept.sum(dim) >= alive).all()
    assert torch.equal(w[kept], before[kept])
    assert (w[~kept] == 0).all()


def test_without_a_minimum_the_largest_survive() -> None:
    w = torch.tensor([[3.0, -1.0], [0.5, -4.0]])
    project_(w, 2)
    assert w.tolist() == [[3.0, 0.0], [0.0, -4.0]]


def tiny_step_model() -> tuple[SparseTransformer, SparseAdam]:
    c = preset("tiny", d_model=32, d_head=8, n_layer=1, vocab_size=257, n_ctx=16, density=0.2, embed_density=0.3)
    model = SparseTransformer(c.model_config_(), seed=0)
    return model, SparseAdam(model, c)


def test_every_step_leaves_exactly_k_and_the_minimum_alive() -> None:
    model, optimizer = tiny_step_model()
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        progress = step / 12
        tokens = torch.randint(0, 64, (4, 17), generator=generator)
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step(0.05, progress)
        for t in optimizer.targets:
            w = optimizer.parameters[t.name]
            k = max(t.k(density_at(progress, t.density, 1.0, 0.5)), t.forced)
            assert int(w.count_nonzero()) == k, (step, t.name)
            if t.alive_dim is not None:
                assert int((w != 0).sum(t.alive_dim).min()) >= t.min_alive
    names = {t.name for t in optimizer.targets}
    assert {"wte.weight", "lm_head.weight", "h.0.mlp.c_fc.weight", "h.0.attn.c_proj.weight"} <= names
    assert not any("ln_" in n or "bias" in n or "sink" in n for n in names)


def test_weights_regrow_because_gradients_and_moments_stay_dense() -> None:
    model, optimizer = tiny_step_model()
    generator = torch.Generator().manual_seed(0)
    supports = []
    for _ in range(4):
        tokens = torch.randint(0, 64, (4, 17), generator=generator)
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step(0.05, 1.0)
        supports.append(model.blocks[0].mlp.c_fc.weight.detach() != 0)
    assert bool((supports[-1] & ~supports[0]).any())


def test_decay_comes_after_the_projection_and_spares_vectors() -> None:
    model, optimizer = tiny_step_model()
    gain = model.ln_f.weight.detach().clone()
    head = model.lm_head.weight.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(0.5, 1.0)
    kept = model.lm_head.weight != 0
    assert torch.allclose(model.lm_head.weight[kept], head[kept] * (1 - 0.1 * 0.5))
    assert torch.equal(model.ln_f.weight, gain)


def test_gradients_are_divided_by_their_global_rms() -> None:
    model, _ = tiny_step_model()
    for clip_only, scale in ((False, 1e-3), (True, 1e-3), (True, 50.0)):
        for p in model.parameters():
            p.grad = torch.full_like(p, scale)
        rms = normalise_gradients(model, clip_only)
        assert rms == pytest.approx(scale, rel=1e-4)
        expected = scale if clip_only and scale < 1 else scale / (scale + 1e-5)
        assert torch.allclose(model.wte.weight.grad, torch.tensor(expected), rtol=1e-4)


def test_schedules_end_where_they_should() -> None:
    assert density_at(0.0, 0.1, 1.0, 0.5) == 1.0
    assert density_at(0.25, 0.1, 1.0, 0.5) == pytest.approx(0.55)
    assert density_at(0.5, 0.1, 1.0, 0.5) == 0.1 == density_at(1.0, 0.1, 1.0, 0.5)
    assert density_at(0.0, 1.0, 1.0, 0.5) == 1.0
    assert lr_multiplier(0.005, 0.01) == 0.5
    assert lr_multiplier(0.01, 0.01) == 1.0
    assert lr_multiplier(1.0, 0.01) == 0.0
    assert density_at(0.01, 0.1, 1.0, 0.5, anneal_start=0.01) == 1.0 == density_at(0.0, 0.1, 1.0, 0.5, 0.01)
    assert density_at(0.255, 0.1, 1.0, 0.5, anneal_start=0.01) == pytest.approx(0.55)
    assert sharkfin(1.0, 1 / 64) == 1 / 8
    assert sharkfin(1 / 64, 1 / 64) == 1.0


def test_the_published_recipes() -> None:
    paper, script = preset("paper"), preset("train-py")
    assert (paper.d_model, paper.n_layer, paper.n_ctx, paper.d_head) == (2048, 8, 256, 16)
    assert paper.density == paper.embed_density
    assert paper.sparse_biases
    assert (script.d_model, script.density, script.embed_density) == (1024, 1 / 64, 1 / 16)
    assert not script.sparse_biases
    assert (paper.anneal_start, script.anneal_start) == (0, 0.01)
    for c in (paper, script):
        assert (c.betas, c.eps, c.weight_decay, c.lr) == ((0.9, 0.95), 0.1, 0.1, 1.28e-2)
        assert not c.sink
        assert c.bigram
    assert not preset("tiny").bigram
    assert set(PRESETS) == {"tiny", "small", "paper", "train-py"}


def test_a_density_below_the_minimum_alive_is_refused_with_the_smallest_that_works() -> None:
    model = SparseTransformer(preset("tiny").model_config_(), seed=None)
    with pytest.raises(BadInput, match="--density of at least") as caught:
        targets(model, preset("tiny", density=0.001))
    least = float(str(caught.value).split("at least ")[1].split(" ")[0])
    assert targets(model, preset("tiny", density=least))


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("tinny", {}, "did you mean tiny"),
        ("tiny", {"density": 2.0}, "density"),
        ("tiny", {"d_model": 100}, "multiple of d_head"),
        ("tiny", {"banana": 1}, "banana"),
        ("tiny", {"n_ctx": 0}, "n_ctx: Input should be greater than 0"),
        ("tiny", {"vocab_size": 100}, "vocab_size: .* 257"),
        ("tiny", {"seed": -1}, "seed"),
        ("tiny", {"lr": float("nan")}, "lr"),
        ("tiny", {"anneal_start": 0.5}, "before anneal_fraction"),
        ("tiny", {"betas": (2, 3)}, "betas.0"),
        ("tiny", {"tokens": 100}, "1 steps end before the density does"),
        ("tiny", {"anneal_fraction": 1}, "end before the density does"),
    ],
)
def test_a_recipe_that_does_not_hold_together(name: str, changes: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        preset(name, **changes)


def test_density_one_is_the_dense_twin() -> None:
    twin = preset("tiny", density=1)
    assert (twin.density, twin.embed_density, twin.activation_fraction) == (1, 1, 1)
    assert preset("tiny", density=1, activation_fraction=0.25).activation_fraction == 0.25
    assert targets(SparseTransformer(twin.model_config_(), seed=None), twin) == ()
