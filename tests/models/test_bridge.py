"""Laws of a bridge: a model bridged to itself is itself, a planted linear pair is bridged exactly, files checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from toys import WORDS, random_model

from gossamer.compare import residual_errors, switch_kl
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.models import LoadedModel
from gossamer.models.bridge import (
    Bridge,
    BridgedPair,
    BridgeShape,
    identity_bridge,
    least_squares,
    load_bridge,
    nmse,
    require_pair,
    save_bridge,
    tails,
)
from gossamer.models.files import save_model
from gossamer.models.kernels import linear_kl
from gossamer.models.planted import with_means
from gossamer.models.sparse import SparseConfig, SparseTransformer


def some_tokens(rows: int = 6, length: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(0, 16, (rows, length), generator=torch.Generator().manual_seed(seed))


def to_itself(seed: int = 0) -> BridgedPair:
    m = random_model(seed)
    m.model.double()
    bridge = identity_bridge(m.model.config.d_model, m.model.n_sites).double()
    return BridgedPair(bridge=bridge, sparse=m, dense=m, record={})


def planted_pair() -> tuple[SparseTransformer, SparseTransformer, Tensor]:
    """(sparse, dense, M [12, 16]): dense residual = M @ sparse residual at every site, and M has full rank.

    No sublayer writes: residuals are embeddings, and the dense embedding is the sparse one through M. The two
    unembeddings read the same 6 directions, so that equal residuals mean equal logits up to the norms.
    """
    generator = torch.Generator().manual_seed(5)
    shape = {"vocab_size": 16, "n_ctx": 16, "n_layer": 2, "n_head": 2, "d_head": 4, "activation_fraction": 1.0}
    sparse = SparseTransformer(SparseConfig.model_validate({**shape, "d_model": 16, "d_mlp": 8}), seed=None)
    dense = SparseTransformer(SparseConfig.model_validate({**shape, "d_model": 12, "d_mlp": 8}), seed=None)
    for p in (*sparse.parameters(), *dense.parameters()):
        p.data.zero_()
    for m in (sparse, dense):
        for norm in (*(n for b in m.blocks for n in (b.ln_1, b.ln_2)), m.ln_f):
            norm.weight.data.fill_(1.0)
        m.double().requires_grad_(False)
    matrix = torch.randn(12, 16, generator=generator, dtype=torch.float64)
    low = torch.randn(16, 12, generator=generator, dtype=torch.float64)  # a 12-dimensional sparse residual: invertible
    sparse.wte.weight.copy_(torch.randn(16, 12, generator=generator, dtype=torch.float64) @ low.T)
    dense.wte.weight.copy_(sparse.wte.weight @ matrix.T)
    dense.lm_head.weight.copy_(torch.randn(16, 12, generator=generator, dtype=torch.float64))
    sparse.lm_head.weight.copy_(torch.randn(16, 16, generator=generator, dtype=torch.float64))
    return sparse, dense, matrix


@pytest.mark.parametrize("changes", [{}, {"bigram": True}, {"position": "channels", "d_pos": 4}, {"sink": False}])
def test_a_run_from_any_site_is_the_run(changes: dict[str, object]) -> None:
    m = random_model(3, **changes).model.double()
    tokens = some_tokens()
    at = m.residuals(tokens)
    whole = m(tokens)
    for site in range(m.n_sites):
        assert torch.equal(m.unembed(m.tail(at[site], site), tokens), whole)
    together = tails(m, at[: m.n_sites])
    for hidden in together:
        assert torch.allclose(m.unembed(hidden, tokens), whole, atol=1e-12)


def test_an_additive_position_is_part_of_site_0() -> None:
    m = random_model(3, position="additive").model.double()
    tokens = some_tokens()
    assert torch.equal(m.unembed(m.tail(m.residuals(tokens)[0], 0), tokens), m(tokens))
    assert not torch.equal(m.embed(tokens), m.wte(tokens))


def test_a_model_bridged_to_itself_by_identities_is_itself() -> None:
    pair = to_itself()
    tokens = some_tokens()
    whole = pair.dense.model(tokens)
    for site in range(4):
        assert torch.allclose(pair.dense_to_sparse(tokens, site), whole, atol=1e-12)
        assert torch.allclose(pair.sparse_to_dense(tokens, site), whole, atol=1e-12)
    errors = residual_errors(pair.bridge, pair.sparse.model, pair.dense.model, [tokens])
    assert all(e == pytest.approx(0, abs=1e-20) for both in errors for e in both)
    kl = switch_kl(pair.bridge, pair.sparse.model, pair.dense.model, [tokens[:4], tokens[4:]])
    assert [*kl.to_sparse, *kl.to_dense, kl.models] == pytest.approx([0] * 9, abs=1e-12)
    assert min(*kl.ablated_sparse, *kl.ablated_dense) > 0.01  # the control: a site's mean is not the site


def test_an_encoder_that_keeps_fewer_channels_is_no_identity() -> None:
    pair = to_itself()
    narrow = Bridge(BridgeShape(d_sparse=16, d_dense=16, n_sites=4, k=8)).double()
    narrow.load_state_dict(pair.bridge.state_dict())
    encoded = narrow.encode(pair.dense.model.residuals(some_tokens())[2], 2)
    assert (encoded != 0).sum(-1).max() == 8
    cut = BridgedPair(bridge=narrow, sparse=pair.sparse, dense=pair.dense, record={})
    assert not torch.allclose(cut.dense_to_sparse(some_tokens(), 2), pair.dense.model(some_tokens()), atol=1e-3)


def test_a_planted_linear_pair_is_bridged_exactly_by_least_squares() -> None:
    sparse, dense, matrix = planted_pair()
    bridge = least_squares(sparse, dense, [some_tokens(8, 16, seed) for seed in range(4)])
    fresh = [some_tokens(8, 16, 9)]
    for to_sparse, to_dense in residual_errors(bridge, sparse, dense, fresh):
        assert to_sparse == pytest.approx(0, abs=1e-12)
        assert to_dense == pytest.approx(0, abs=1e-12)
    residual = sparse.residuals(fresh[0])[1]
    assert torch.allclose(bridge.decode(residual, 1), residual @ matrix.T, atol=1e-6)
    kl = switch_kl(bridge, sparse, dense, fresh)
    assert kl.to_dense == pytest.approx([0] * 4, abs=1e-9)  # decoded, the dense tail sees its own residual
    assert kl.to_sparse == pytest.approx([kl.models] * 4, abs=1e-9)  # encoded, the sparse tail sees its own
    assert kl.models > 0.01


def test_least_squares_leaves_a_residual_that_no_other_linear_map_beats() -> None:
    s, d = random_model(1).model.double(), random_model(2, d_model=8, n_head=2, d_mlp=16).model.double()
    batches = [some_tokens(8, 16, seed) for seed in range(6)]
    bridge = least_squares(s, d, batches)
    best = residual_errors(bridge, s, d, batches)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        other = Bridge(bridge.shape).double()
        moved = {
            k: v + 1e-2 * torch.randn(v.shape, generator=generator, dtype=v.dtype)
            for k, v in bridge.state_dict().items()
        }
        other.load_state_dict(moved)
        for mine, theirs in zip(best, residual_errors(other, s, d, batches), strict=True):
            assert theirs[0] > mine[0]
            assert theirs[1] > mine[1]


def test_nmse_is_0_for_the_target_and_1_for_its_mean() -> None:
    target = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
    assert float(nmse(target, target)) == 0
    assert float(nmse(target.mean((0, 1)).expand_as(target), target)) == pytest.approx(1)
    by_hand = sum(float((target[..., c] ** 2).sum()) for c in range(7)) / sum(
        float(((target[..., c] - target[..., c].mean()) ** 2).sum()) for c in range(7)
    )
    assert float(nmse(torch.zeros_like(target), target)) == pytest.approx(by_hand)


@pytest.mark.parametrize("bigram", [True, False])
def test_the_chunked_kl_and_its_gradients_equal_the_plain_ones(bigram: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gossamer.models.kernels.LOSS_CHUNK_TOKENS", 4)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    h, w, b = draw(3, 10, 5).requires_grad_(), draw(7, 5).requires_grad_(), draw(7, 7).requires_grad_()
    teacher = (draw(10, 4), draw(7, 4), draw(7, 7) if bigram else None)
    tokens = torch.randint(0, 7, (10,), generator=generator)
    total, each = linear_kl(h, w, b if bigram else None, teacher, tokens)
    given = teacher[0] @ teacher[1].T + (teacher[2][tokens] if teacher[2] is not None else 0)
    target = given.log_softmax(-1)
    plain = (target.exp() * (target - (h @ w.T + (b[tokens] if bigram else 0)).log_softmax(-1))).sum(-1).mean(-1)
    assert torch.allclose(each, plain, atol=1e-12)
    assert torch.allclose(total, plain.sum(), atol=1e-12)
    inputs = [h, w, b] if bigram else [h, w]
    for a, p in zip(
        torch.autograd.grad(2 * total, inputs), torch.autograd.grad(2 * plain.sum(), inputs), strict=True
    ):  # fmt: skip
        assert torch.allclose(a, p, atol=1e-12)


def other_tokenizer() -> Tokenizer:
    return Tokenizer(models.WordLevel({f"x{i}": i for i in range(16)}, unk_token="x0"))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: random_model(n_layer=1), "n_layer 2 and 1"),
        (lambda: random_model(n_ctx=8), "n_ctx 16 and 8"),
        (lambda: replace(random_model(), tokenizer=other_tokenizer()), "share a tokenizer"),
    ],
)
def test_models_that_do_not_fit_together_are_refused(small: LoadedModel, other: object, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        require_pair(small, other())  # type: ignore[operator]
    require_pair(small, random_model(4, d_model=8, n_head=2, d_mlp=16))  # other widths are no obstacle


def test_an_output_bias_is_refused(small: LoadedModel) -> None:
    other = random_model(4)
    other.model.final_logits_bias[3] = 1.0
    with pytest.raises(Unsupported, match="output bias"):
        require_pair(small, other)


def saved(tmp_path: Path) -> tuple[Path, Bridge]:
    """A bridge folder between two toy models, the dense one in tmp_path/dense."""
    folder = tmp_path / "bridge"
    folder.mkdir()
    s, d = random_model(1), random_model(2, d_model=8, n_head=2, d_mlp=16)
    save_model(s.model, folder / "sparse", tokenizer=s.tokenizer, reference=s.reference, record={})
    save_model(d.model, tmp_path / "dense", tokenizer=d.tokenizer, reference=d.reference, record={})
    bridge = least_squares(s.model, d.model, [some_tokens()])
    details = {"dense_source": str(tmp_path / "dense"), "dense_sha256": d.hashes()[0]}
    save_bridge(bridge, folder, record={"model_sha256": s.hashes()[0], "details": details})
    return folder, bridge


def test_a_saved_bridge_loads_as_it_was(tmp_path: Path) -> None:
    folder, bridge = saved(tmp_path)
    pair = load_bridge(folder)
    for a, b in zip(pair.bridge.parameters(), bridge.parameters(), strict=True):
        assert torch.equal(a, b)
    assert pair.bridge.shape == bridge.shape
    assert not any(p.requires_grad for p in pair.bridge.parameters())


def test_a_bridge_of_other_models_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    with pytest.raises(BadInput, match="Expected a bridge folder"):
        load_bridge(tmp_path)
    other = with_means(random_model(7, d_model=8, n_head=2, d_mlp=16).model, WORDS, "other")
    save_model(other.model, tmp_path / "other", tokenizer=other.tokenizer, reference=other.reference, record={})
    with pytest.raises(BadInput, match=r"trained with .*--dense"):
        load_bridge(folder, dense=tmp_path / "other")
    shape = json.loads((folder / "bridge.json").read_text())
    (folder / "bridge.json").write_text(json.dumps({**shape, "d_dense": 9}))
    with pytest.raises(CorruptFile, match="does not fit"):
        load_bridge(folder)
    (folder / "bridge.json").write_text(json.dumps(shape))
    load_bridge(folder)
    raw = bytearray((folder / "bridge.safetensors").read_bytes())
    raw[-3] ^= 1
    (folder / "bridge.safetensors").write_bytes(raw)
    with pytest.raises(CorruptFile):
        load_bridge(folder)


def test_a_site_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="site of 0 to 3, got 4"):
        to_itself().dense_to_sparse(some_tokens(), 4)
