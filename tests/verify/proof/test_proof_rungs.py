"""Every rung of the proofs is sound, and each is no tighter than the one it relaxes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from gossamer.errors import BadInput, Unsupported
from gossamer.models.max_of_k import (
    LoadedMaxOfK,
    MaxOfK,
    MaxOfKConfig,
    ideal_max_of_k,
    load_max_of_k,
    random_max_of_k,
    shuffled_max_of_k,
)
from gossamer.train.max_of_k import MaxOfKTraining, train_max_of_k
from gossamer.verify.proof import LADDER, RUNGS, Parts, cells_of, cost, prove
from gossamer.verify.proof.cells import Cells

SHARED = Path(__file__).parents[4] / "shared" / "data" / "max-of-2" / "max_of_2_attn_only.safetensors"
V = 12


def loaded(model: MaxOfK) -> LoadedMaxOfK:
    return LoadedMaxOfK(name="toy", model=model, weights=Path("none"), sha256="", record=None)


def everything(model: MaxOfK) -> tuple[np.ndarray, np.ndarray]:
    """(all inputs [v^K, K], which are answered right by a plain float64 forward pass)."""
    tokens = torch.tensor(list(itertools.product(range(model.config.vocabulary), repeat=model.config.k)))
    logits = MaxOfK(model.config).double()
    logits.load_state_dict(model.state_dict())
    found = logits(tokens)
    most = tokens.amax(1)
    best = found.gather(1, most[:, None])[:, 0]
    rest = found.scatter(1, most[:, None], -torch.inf).amax(1)
    return tokens.numpy(), (best > rest).numpy()


@pytest.fixture(scope="module")
def models() -> dict[str, MaxOfK]:
    """Trained dense and sparse, random, shuffled, and a large random one whose attention is sharp."""
    recipe = MaxOfKTraining(k=3, vocabulary=V, d_model=16, steps=300, batch_size=64, lr=1e-2)
    trained = train_max_of_k(recipe)
    shape = MaxOfKConfig(k=4, vocabulary=V, d_model=10, d_head=7)
    sharp = random_max_of_k(shape, 5)
    with torch.no_grad():
        sharp.query.mul_(8), sharp.positions.mul_(3)
    return {
        "trained": trained,
        "four": train_max_of_k(recipe.model_copy(update={"k": 4, "steps": 250})),
        "half": train_max_of_k(recipe.model_copy(update={"steps": 60})),
        "sparse": train_max_of_k(recipe.model_copy(update={"density": 0.4})),
        "random": random_max_of_k(shape, 0),
        "sharp": sharp,
        "shuffled": shuffled_max_of_k(trained, 0),
    }


NAMES = ("trained", "four", "half", "sparse", "random", "sharp", "shuffled")


@pytest.mark.parametrize("name", NAMES)
def test_every_certified_input_is_right(models: dict[str, MaxOfK], name: str) -> None:
    """All of them, listed: the count is that of the list, no input twice, and brute force is the forward pass."""
    model = models[name]
    v, k = model.config.vocabulary, model.config.k
    tokens, right = everything(model)
    assert prove(loaded(model), "brute-force").certified == right.sum()
    place = v ** np.arange(k)[::-1]
    assert (tokens @ place == np.arange(v**k)).all()
    most = cells_of(model, "per-output").inputs() @ place
    for rung in RUNGS[1:]:
        cells = cells_of(model, rung)
        listed = cells.inputs() @ place
        assert len(np.unique(listed)) == len(listed) == cells.count(), rung
        assert right[listed].all(), rung
        assert np.isin(listed, most).all(), rung


@pytest.mark.parametrize("name", NAMES)
def test_no_rung_exceeds_the_one_it_relaxes(models: dict[str, MaxOfK], name: str) -> None:
    bound = {rung: prove(loaded(models[name]), rung).certified for rung in RUNGS}
    assert bound["brute-force"] >= bound["per-output"] >= bound["cubic"]
    for rung in RUNGS[3:]:
        assert bound["cubic"] >= bound[rung], rung
    for direct in ("exact", "factored"):
        s = {scores: bound[f"sub-cubic.{scores}.{direct}"] for scores in ("exact", "rank-1", "factored", "svd")}
        assert s["exact"] >= s["rank-1"] >= max(s["factored"], s["svd"])
    for scores in ("exact", "rank-1", "factored", "svd"):
        assert bound[f"sub-cubic.{scores}.exact"] >= bound[f"sub-cubic.{scores}.factored"]


def test_the_trained_model_is_proven_and_the_shuffled_is_not(models: dict[str, MaxOfK]) -> None:
    good, bad = (prove(loaded(models[n]), "cubic").bound for n in ("trained", "shuffled"))
    assert good > 0.5 > 0.1 > bad


@pytest.mark.parametrize("rung", RUNGS)
def test_ideal_weights_are_certified_in_full(rung: str) -> None:
    assert prove(loaded(ideal_max_of_k(4, V)), rung).bound == 1


def test_ideal_weights_of_twenty_tokens_without_looking_at_inputs() -> None:
    found = prove(loaded(ideal_max_of_k(20, 16)), "cubic")
    assert found.certified == found.inputs == 16**20
    with pytest.raises(Unsupported, match="brute force"):
        prove(loaded(ideal_max_of_k(20, 16)), "brute-force")


def test_counting_by_hand() -> None:
    """K = 3, v = 2, everything certified: all 8 inputs; and cells without room for the maximum hold none."""
    good = np.zeros((3, 2, 2, 2), dtype=bool)
    good[1:, :, 1, 0] = True
    cells = Cells(alone=np.ones((2, 2), dtype=bool), good=good)
    assert cells.count() == 8
    sizes = {(q, m, n): size for q, m, n, size in cells.sizes()}
    assert sizes == {
        (0, 0, 0): 1, (0, 0, 1): 0, (0, 0, 2): 0, (0, 1, 0): 1, (0, 1, 1): 2, (1, 1, 0): 1, (1, 1, 1): 2, (1, 1, 2): 1,
    }  # fmt: skip
    assert sorted(map(tuple, cells.inputs().tolist())) == list(itertools.product((0, 1), repeat=3))
    none = Cells(alone=np.zeros((2, 2), dtype=bool), good=good)
    assert none.count() == 5


def test_samples_are_certified_inputs_and_reach_all_of_them(models: dict[str, MaxOfK]) -> None:
    cells = cells_of(models["half"], "cubic")
    listed, drawn = (set(map(tuple, a.tolist())) for a in (cells.inputs(), cells.sample(20_000, 0)))
    assert drawn <= listed
    assert len(drawn) > 0.95 * len(listed) > 100
    assert np.array_equal(cells.sample(50, 1), cells.sample(50, 1))


def test_the_parts_add_up_to_the_model(models: dict[str, MaxOfK]) -> None:
    model = MaxOfK(models["sharp"].config).double().requires_grad_(False)
    model.load_state_dict(models["sharp"].state_dict())
    p = Parts.of(model)
    tokens, _ = everything(models["sharp"])
    q = tokens[:, -1]
    w = np.exp(p.scores[q[:, None], tokens] + p.position_scores[q])
    mixed = (w[..., None] * (p.copies[tokens] + p.position_copies)).sum(1) / w.sum(1, keepdims=True)
    wanted = model(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(p.direct[q] + mixed, wanted, rtol=0, atol=1e-10)


def test_proofs_get_shorter_and_sparse_ones_shorter_still() -> None:
    dense = random_max_of_k(MaxOfKConfig(k=4), 0)
    lengths = [cost(dense, rung) for rung in LADDER]
    assert all(a.flops > b.flops for a, b in itertools.pairwise(lengths))
    assert lengths[0].unexplained_dimensions == 64**5
    assert lengths[2].unexplained_dimensions == 3 * 64**2 + 2 * 4 * 64
    sparse = random_max_of_k(MaxOfKConfig(k=4), 0)
    with torch.no_grad():
        for p in sparse.parameters():
            p.mul_(torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < 0.1)
    for rung in RUNGS[1:]:
        less = cost(sparse, rung)
        assert less.flops < cost(dense, rung).flops
        assert less.unexplained_dimensions < cost(dense, rung).unexplained_dimensions


def test_an_unknown_rung_names_the_nearest() -> None:
    with pytest.raises(BadInput, match="cubic"):
        prove(loaded(ideal_max_of_k(2, 4)), "cubik")


def test_the_published_max_of_two_model_is_always_right() -> None:
    if not SHARED.is_file():
        pytest.skip("shared data is absent")
    model = load_max_of_k(SHARED)
    bounds = {rung: prove(model, rung) for rung in RUNGS}
    assert bounds["brute-force"].certified == bounds["brute-force"].inputs == 4096
    assert all(c.certified <= 4096 for c in bounds.values())
    assert bounds["cubic"].certified > 4000
