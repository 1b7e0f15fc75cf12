"""Laws of a bridge's training: exact k, gradients everywhere, the dense model untouched, kill and resume, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gossamer import commands
from gossamer.errors import BadInput
from gossamer.models import LoadedModel, from_pretrained
from gossamer.models.bridge import Bridge, BridgeShape, identity_bridge, least_squares, load_bridge
from gossamer.train.bridge import BridgeConfig, bridge_config, bridge_text, losses, spread, train_bridge
from gossamer.train.loop import train
from gossamer.train.measure import validation_loss
from gossamer.train.presets import preset
from gossamer.train.projection import kept_as_is

RECIPE = {
    "d_model": 16, "d_head": 4, "n_layer": 2, "n_ctx": 32, "vocab_size": 300, "batch_size": 4, "density": 0.4,
    "embed_density": 0.5, "tokens": 4 * 32 * 30, "min_alive": 2,
}  # fmt: skip
BRIDGE = {
    "tokens": 4 * 32 * 25,
    "batch_size": 4,
    "kl_sequences": 2,
    "encoder_fraction": 0.5,
    "min_alive": 2,
    "lr": 5e-3,
}


def config(**changes: Any) -> BridgeConfig:
    return bridge_config(**{**BRIDGE, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    """A sparse model, its dense twin, and the `.training` folder they share."""
    folder = tmp_path_factory.mktemp("pair")
    train(folder / "sparse", preset("tiny", **RECIPE), corpus=text_folder, threads=1)
    recipe = preset("tiny", **{**RECIPE, "density": 1, "embed_density": 1, "d_model": 8})
    data = folder / "sparse.training"
    train(folder / "dense", recipe, data=data, threads=1)
    few, about = np.load(data / "val.npy")[: 32 * 128 + 1], json.loads((data / "text.json").read_text())
    np.save(data / "val.npy", few)  # every finished bridge is measured on it
    (data / "text.json").write_text(json.dumps({**about, "validation_tokens": len(few)}))
    return data


@pytest.fixture(scope="module")
def sparse(data: Path) -> LoadedModel:
    return from_pretrained(data.parent / "sparse")


@pytest.fixture(scope="module")
def dense(data: Path) -> LoadedModel:
    return from_pretrained(data.parent / "dense")


def a_batch(rows: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(0, 300, (rows, 33), generator=torch.Generator().manual_seed(seed))


def a_bridge(k: int = 8) -> Bridge:
    bridge = Bridge(BridgeShape(d_sparse=16, d_dense=8, n_sites=4, k=k)).double()
    generator = torch.Generator().manual_seed(0)
    for p in bridge.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return bridge


def doubled(model: LoadedModel, trained: bool) -> Any:
    from gossamer.train.bridge import _copy

    return _copy(model.model, trained).double().requires_grad_(trained)


def test_the_loss_is_the_documented_sum_written_out(sparse: LoadedModel, dense: LoadedModel) -> None:
    s, d, bridge, batch = doubled(sparse, True), doubled(dense, False), a_bridge(), a_batch()
    c = config(ce_coef=0.5, nmse_to_sparse_coef=2, nmse_to_dense_coef=3, kl_to_sparse_coef=4, kl_to_dense_coef=5)
    found = losses(bridge, s, d, batch, c)
    tokens, few = batch[:, :-1], batch[:2, :-1]
    ce = torch.nn.functional.cross_entropy(s(tokens).flatten(0, 1), batch[:, 1:].flatten())
    nmse_s = nmse_d = kl_s = kl_d = torch.zeros((), dtype=torch.float64)
    target = d(few).log_softmax(-1)

    def kl(logits: Tensor) -> Tensor:
        return (target.exp() * (target - logits.log_softmax(-1))).sum(-1).mean()

    def over_variance(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).pow(2).sum() / (y - y.mean((0, 1))).pow(2).sum()

    for i in range(4):
        hs, hd = s.residuals(tokens)[i], d.residuals(tokens)[i]
        nmse_s = nmse_s + over_variance(bridge.encode(hd, i), hs)
        nmse_d = nmse_d + over_variance(bridge.decode(hs, i), hd)
        kl_s = kl_s + kl(s.unembed(s.tail(bridge.encode(hd[:2], i), i), few))
        kl_d = kl_d + kl(d.unembed(d.tail(bridge.decode(hs[:2], i), i), few))
    total = 0.5 * ce + 2 * nmse_s + 3 * nmse_d + 4 * kl_s + 5 * kl_d
    for mine, plain in zip(found, (total, ce, nmse_s, nmse_d, kl_s, kl_d), strict=True):
        assert mine.item() == pytest.approx(plain.item(), rel=1e-9)
    parameters = [*bridge.parameters(), *s.parameters()]
    grads = (torch.autograd.grad(x, parameters, retain_graph=True) for x in (found.total, total))
    for mine, plain in zip(*grads, strict=True):
        assert torch.allclose(mine, plain, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("term", ["nmse_to_sparse", "nmse_to_dense", "kl_to_sparse", "kl_to_dense"])
def test_every_term_reaches_its_map_and_the_sparse_model(sparse: LoadedModel, dense: LoadedModel, term: str) -> None:
    s, bridge = doubled(sparse, True), a_bridge()
    only = {f"{t}_coef": float(t == term) for t in ("ce", *losses_terms())}
    losses(bridge, s, doubled(dense, False), a_batch(), config(**only)).total.backward()
    mine, other = bridge.encoders, bridge.decoders
    if term.endswith("to_dense"):
        mine, other = other, mine
    for linear in mine:
        assert float(linear.weight.grad.abs().sum()) > 0
        assert float(linear.bias.grad.abs().sum()) > 0
    assert all(not p.grad.any() for p in other.parameters())
    reached = s.lm_head if term == "kl_to_sparse" else s.wte  # that switch enters the sparse model after its embedding
    assert float(reached.weight.grad.abs().sum()) > 0


def losses_terms() -> tuple[str, ...]:
    return "nmse_to_sparse", "nmse_to_dense", "kl_to_sparse", "kl_to_dense"


def test_a_model_bridged_to_itself_has_no_loss_but_its_own(sparse: LoadedModel) -> None:
    s = doubled(sparse, False)
    found = losses(identity_bridge(16, 4).double(), s, s, a_batch(), config(ce_coef=1))
    assert [x.item() for x in found[2:]] == pytest.approx([0] * 4, abs=1e-12)
    assert found.total.item() == pytest.approx(found.ce.item())


def test_a_trained_bridge_is_better_and_the_sparse_model_keeps_its_sparsity(
    tmp_path: Path, data: Path, sparse: LoadedModel, dense: LoadedModel
) -> None:
    hashes = sparse.hashes(), dense.hashes()
    pair = train_bridge(tmp_path / "b", sparse, dense, config(tokens=4 * 32 * 120), data=data, threads=1)
    assert pair is not None
    assert (sparse.hashes(), dense.hashes()) == hashes
    lines = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, 121, 10))
    assert lines[-1]["total"] < 0.95 * lines[0]["total"]
    for (name, before), after in zip(
        sparse.model.named_parameters(), pair.sparse.model.parameters(), strict=True
    ):  # fmt: skip
        if name.endswith((".weight", ".bias")):
            assert before.count_nonzero() == after.count_nonzero(), name
    assert not torch.equal(sparse.model.wte.weight, pair.sparse.model.wte.weight)
    joint = from_pretrained(tmp_path / "b" / "sparse")  # an ordinary model folder with means of its own
    assert joint.reference is not None
    assert joint.hashes()[1] not in ("", hashes[0][1])
    assert pair.bridge.shape.k == 8

    report = commands.bridge_report(tmp_path / "b")
    assert len(report.sites) == 4
    val = bridge_text(data, sparse).val
    assert report.loss_before == pytest.approx(validation_loss(sparse.model, val, 32))
    assert report.loss_after == pytest.approx(validation_loss(pair.sparse.model, val, 32))
    for site in report.sites:
        assert site.kl_to_dense < site.ablated_dense
    assert commands.bridge_report(tmp_path / "b") == report


def test_frozen_only_the_bridge_learns(tmp_path: Path, data: Path, sparse: LoadedModel, dense: LoadedModel) -> None:
    c = config(train_sparse=False, batch_size=64, kl_sequences=64, tokens=64 * 32 * 25)
    pair = train_bridge(tmp_path / "b", sparse, dense, c, data=data, threads=1)
    assert pair is not None
    assert pair.sparse.hashes()[0] == sparse.hashes()[0]
    text = bridge_text(data, sparse).train
    begun = Bridge(pair.bridge.shape)
    begun.load_state_dict(least_squares(sparse.model, dense.model, spread(text, 32, 1 << 10)).state_dict())
    batch = text.windows(np.arange(64), 32)
    before, after = (losses(b, sparse.model, dense.model, batch, c) for b in (begun, pair.bridge))
    assert after.total < before.total
    assert after.ce == before.ce


@pytest.fixture(scope="module")
def whole(data: Path, sparse: LoadedModel, dense: LoadedModel) -> Path:
    """The bridge folder of a run in one go."""
    out = data.parent / "whole"
    assert train_bridge(out, sparse, dense, config(), data=data, threads=1) is not None
    return out


@pytest.mark.parametrize("stop", [3, 10, 17])
def test_stopped_anywhere_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, data: Path, sparse: LoadedModel, dense: LoadedModel, whole: Path, stop: int
) -> None:
    part = tmp_path / "part"
    assert train_bridge(part, sparse, dense, config(), data=data, threads=1, stop_after=stop) is None
    assert not part.exists()
    # steps after the last checkpoint, as a kill leaves them
    with open(tmp_path / "part.training" / "metrics.jsonl", "a") as f:
        f.write('{"step": 99}\n')
    resumed = train_bridge(part, sparse, dense, config(), data=data, threads=1, resume=True)
    assert resumed is not None
    once = load_bridge(whole)
    assert once.sparse.hashes() == resumed.sparse.hashes()
    for a, b in zip(once.bridge.parameters(), resumed.bridge.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (whole / "metrics.jsonl").read_text() == (part / "metrics.jsonl").read_text()
    with pytest.raises(BadInput, match="exists"):
        train_bridge(part, sparse, dense, config(), data=data)


def test_a_corpus_is_read_in_the_sparse_models_tokens(
    tmp_path: Path, text_folder: Path, sparse: LoadedModel, dense: LoadedModel
) -> None:
    out = tmp_path / "b"
    assert train_bridge(out, sparse, dense, config(), corpus=text_folder, threads=1, stop_after=1) is None
    text = bridge_text(tmp_path / "b.training", sparse)
    assert text.about["corpus"] == str(text_folder.resolve())
    shown = sparse.tokenizer.decode(text.train.windows(np.arange(1), 32)[0].tolist())
    assert any(shown[:40] in p.read_text() for p in text_folder.rglob("*.py"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"corpus": Path("x"), "data": Path("y")}, "got both"),
        ({"data": Path("nowhere")}, r"no text\.json"),
        ({"checkpoint_every": 0}, "at least 1"),
        ({"resume": True}, "Nothing to resume"),
        ({"dense": "itself, one layer less"}, "equal depth"),
        ({"sparse": "other tokenizer"}, "share a tokenizer"),
        ({"sparse": "from nowhere"}, "came from no file"),
    ],
)
def test_bad_input_is_one_error_and_writes_nothing(
    tmp_path: Path, data: Path, sparse: LoadedModel, dense: LoadedModel, changes: dict[str, Any], says: str
) -> None:
    from toys import random_model

    if "dense" in changes:
        changes = {"dense": random_model(n_layer=1)}
    if changes.get("sparse") == "from nowhere":
        changes = {"sparse": replace(sparse, source="")}
    elif "sparse" in changes:
        changes = {"sparse": replace(sparse, tokenizer=random_model().tokenizer)}
    given = {"sparse": sparse, "dense": dense, "config": config(), "data": data, **changes}
    with pytest.raises(BadInput, match=says):
        train_bridge(tmp_path / "b", **given)
    assert not list(tmp_path.iterdir())


def test_another_recipe_or_another_text_does_not_resume(
    tmp_path: Path, data: Path, sparse: LoadedModel, dense: LoadedModel
) -> None:
    assert train_bridge(tmp_path / "b", sparse, dense, config(), data=data, threads=1, stop_after=2) is None
    with pytest.raises(BadInput, match="--resume"):
        train_bridge(tmp_path / "b", sparse, dense, config(), data=data)
    with pytest.raises(BadInput, match=r"bridge_lr was 0.002, now 0.5"):
        train_bridge(tmp_path / "b", sparse, dense, config(bridge_lr=0.5), data=data, resume=True)
    assert train_bridge(tmp_path / "b", sparse, dense, config(), threads=1, resume=True) is not None  # keeps its data


def test_a_recipe_that_does_not_hold_together_is_refused() -> None:
    with pytest.raises(BadInput, match="kl_sequences 9 is more than batch_size 4"):
        config(kl_sequences=9)
    with pytest.raises(BadInput, match="coef"):
        config(ce_coef=-1)


def test_targets_held_are_the_zeros_there_are(sparse: LoadedModel) -> None:
    kept = {t.name: t for t in kept_as_is(sparse.model, 2)}
    own = dict(sparse.model.named_parameters())
    matrices = {n for n, p in own.items() if p.ndim == 2}
    assert matrices <= set(kept)
    assert all((own[n] == 0).any() for n in set(kept) - matrices)  # a bias may end at exactly zero
    for name, p in sparse.model.named_parameters():
        if name in kept:
            assert kept[name].k(kept[name].density) == int(p.count_nonzero())
    assert kept["h.0.mlp.c_proj.weight"].alive_dim == 0
    assert kept["wte.weight"].alive_dim is None
    assert kept_as_is(sparse.model, 1000)[1].alive_dim is None  # no room for such a minimum
