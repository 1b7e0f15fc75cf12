"""The models that ship, two pairs: what README and docs say of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossamer import commands
from gossamer.discover import PruneConfig, prune
from gossamer.metric import paired_accuracy
from gossamer.models import LoadedModel, from_pretrained
from gossamer.models.hub import shipped_models
from gossamer.tasks import load_task
from gossamer.train.presets import TrainConfig, preset

PAIRS = {"tiny": ("tiny", "tiny-dense"), "small": ("small", "small-dense")}


@pytest.fixture(scope="module")
def pair() -> tuple[LoadedModel, LoadedModel]:
    return from_pretrained("tiny"), from_pretrained("tiny-dense")


@pytest.mark.parametrize(("pair", "most"), [("tiny", 8), ("small", 20)])
def test_a_pair_is_small_and_each_has_its_record_and_curve(pair: str, most: int) -> None:
    known = shipped_models()
    assert set(known) == {name for both in PAIRS.values() for name in both}
    folders = [known[name] for name in PAIRS[pair]]
    assert sum(f.stat().st_size for folder in folders for f in folder.iterdir()) < most * 2**20
    for folder in folders:
        assert {"record.json", "metrics.jsonl", "reference.safetensors"} <= {f.name for f in folder.iterdir()}


@pytest.mark.parametrize("pair", PAIRS)
def test_the_twin_has_the_depth_text_tokenizer_and_loss_of_the_sparse_model(pair: str) -> None:
    sparse, dense = map(from_pretrained, PAIRS[pair])
    assert sparse.tokenizer.to_str() == dense.tokenizer.to_str()
    assert sparse.model.config.n_layer == dense.model.config.n_layer
    assert sparse.reference is not None
    assert dense.reference is not None
    assert (sparse.reference.excerpt == dense.reference.excerpt).all()
    for model in (sparse, dense):
        details = model.record["details"]
        assert model.model.weight_counts() == (details["nonzero_weights"], details["total_weights"])
    ours, theirs = sparse.record["details"], dense.record["details"]
    assert abs(ours["validation_loss_nats"] - theirs["validation_loss_nats"]) <= 0.05
    assert ours["text"]["train_packages"] == theirs["text"]["train_packages"]
    assert ours["nonzero_weights"] < 0.2 * ours["total_weights"]
    assert theirs["nonzero_weights"] == theirs["total_weights"]


def test_the_shipped_models_are_those_of_the_recipes() -> None:
    tiny, twin = preset("tiny"), preset("tiny", density=1, d_model=36, d_head=12)
    small, its_twin = preset("small"), preset("small", density=1, d_model=48, tokens=20_000_000)
    for name, recipe in {"tiny": tiny, "tiny-dense": twin, "small": small, "small-dense": its_twin}.items():
        assert TrainConfig.model_validate(from_pretrained(name).record["config"]) == recipe


def test_the_tasks_it_solves_and_why_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("single_double_quote", "bracket_counting", "enumerate_range", "if_equals")
    monkeypatch.setattr("gossamer.registry.task", dict.fromkeys(asked))
    found = {t.name: t for t in commands.tasks(model="tiny").tasks}
    assert [n for n in asked if found[n].solved] == ["single_double_quote", "if_equals"]
    assert found["bracket_counting"].problem == "does not know it"
    assert set(found["bracket_counting"].ood) == {"a bracket in a comment", "long lists"}
    assert found["enumerate_range"].problem == (
        "enumerate_range has 0 of 2048 train pairs that fit this model, 64 are needed: "
        "the answer ' enumerate' is 4 tokens after the clean prompt, not one"
    )


def test_readme_counts_the_channels(pair: tuple[LoadedModel, LoadedModel]) -> None:
    n = pair[0].graph("channel").layout.n_nodes
    assert f"of {n:,} channels" in Path("README.md").read_text(encoding="utf-8")


def test_the_sparse_model_closes_quotes_with_few_edges(pair: tuple[LoadedModel, LoadedModel]) -> None:
    sparse, task = pair[0], load_task("single_double_quote")
    z = sparse.run(sparse.encode(task.heldout)).gap
    assert float(paired_accuracy(z).mean()) >= 0.98
    found = prune(sparse, task, PruneConfig(k_coef=(4e-3,)))
    assert found.reached
    assert found.circuit.n_nodes <= 60
    assert found.circuit.n_edges <= 60
