"""The pair of models that ships: what README and docs say of it."""

from __future__ import annotations

import pytest

from gossamer.discover import PruneConfig, prune
from gossamer.metric import paired_accuracy
from gossamer.models import LoadedModel, from_pretrained
from gossamer.models.hub import shipped_models
from gossamer.tasks import load_task


@pytest.fixture(scope="module")
def pair() -> tuple[LoadedModel, LoadedModel]:
    return from_pretrained("tiny"), from_pretrained("tiny-dense")


def test_the_pair_is_small_and_each_has_its_record_and_curve() -> None:
    folders = shipped_models()
    assert set(folders) == {"tiny", "tiny-dense"}
    files = [f for folder in folders.values() for f in folder.iterdir()]
    assert sum(f.stat().st_size for f in files) < 8 * 2**20
    for folder in folders.values():
        assert {"record.json", "metrics.jsonl", "reference.safetensors"} <= {f.name for f in folder.iterdir()}


def test_the_twin_has_the_depth_text_tokenizer_and_loss_of_the_sparse_model(
    pair: tuple[LoadedModel, LoadedModel],
) -> None:
    sparse, dense = pair
    assert sparse.tokenizer.to_str() == dense.tokenizer.to_str()
    assert sparse.model.config.n_layer == dense.model.config.n_layer
    assert sparse.reference is not None
    assert dense.reference is not None
    assert (sparse.reference.excerpt == dense.reference.excerpt).all()
    ours, theirs = sparse.record["details"], dense.record["details"]
    assert abs(ours["validation_loss_nats"] - theirs["validation_loss_nats"]) <= 0.05
    assert ours["text"]["train_packages"] == theirs["text"]["train_packages"]
    assert ours["nonzero_weights"] < 0.2 * ours["total_weights"]
    assert theirs["nonzero_weights"] == theirs["total_weights"]


def test_the_sparse_model_closes_quotes_with_few_edges(pair: tuple[LoadedModel, LoadedModel]) -> None:
    sparse, task = pair[0], load_task("single_double_quote")
    z = sparse.run(sparse.encode(task.heldout)).gap
    assert float(paired_accuracy(z).mean()) >= 0.98
    found = prune(sparse, task, PruneConfig(k_coef=(4e-3,)))
    assert found.reached
    assert found.circuit.n_nodes <= 60
    assert found.circuit.n_edges <= 60
