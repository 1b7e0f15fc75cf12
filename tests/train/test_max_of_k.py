"""Training of max-of-K models, and their files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gossamer import commands
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.models.max_of_k import (
    NAMES,
    TRANSFORMER_LENS,
    MaxOfKConfig,
    ideal_max_of_k,
    load_max_of_k,
    random_max_of_k,
    save_max_of_k,
    shuffled_max_of_k,
)
from gossamer.record import Record
from gossamer.train.max_of_k import MaxOfKTraining, sampled_accuracy, train_into, train_max_of_k, train_together

SMALL = MaxOfKTraining(k=3, vocabulary=8, d_model=16, steps=200, batch_size=64, lr=1e-2)
RECORD = Record(method="by hand", config={}, seed=0)


def test_training_learns_and_repeats_itself_to_the_bit() -> None:
    seen: list[tuple[int, int]] = []
    a = train_max_of_k(SMALL, progress=lambda step, steps, loss: seen.append((step, steps)))
    b = train_max_of_k(SMALL)
    assert seen[-1] == (200, 200)
    assert all(torch.equal(a.weights()[n], b.weights()[n]) for n in NAMES)
    untrained = random_max_of_k(a.config, 0)
    assert sampled_accuracy(a, samples=2000) > 0.95 > 0.6 > sampled_accuracy(untrained, samples=2000)
    other = train_max_of_k(SMALL.model_copy(update={"seed": 1, "steps": 1}))
    assert not torch.equal(a.weights()["embed"], other.weights()["embed"])


def test_a_sparse_model_has_exactly_its_share_of_every_matrix() -> None:
    model = train_max_of_k(SMALL.model_copy(update={"density": 0.3, "steps": 40}))
    for name, w in model.weights().items():
        assert int(w.count_nonzero()) == round(0.3 * w.numel()), name


def test_the_rate_falls_to_zero_where_asked() -> None:
    """Of one step that ends at rate 0 nothing is left: the weights are those at the start."""
    still = train_max_of_k(SMALL.model_copy(update={"steps": 1, "decay_from": 0.5}))
    start = random_max_of_k(still.config, SMALL.seed)
    assert all(torch.equal(still.weights()[n], start.weights()[n]) for n in NAMES)


def test_models_trained_together_do_not_see_each_other() -> None:
    short = SMALL.model_copy(update={"steps": 20})
    configs = [short, short.model_copy(update={"seed": 1, "density": 0.5}), short.model_copy(update={"density": 0.3})]
    for together, config in zip(train_together(configs), configs, strict=True):
        alone = train_max_of_k(config)
        for name in NAMES:
            torch.testing.assert_close(together.weights()[name], alone.weights()[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(BadInput, match="seed and density only"):
        train_together([short, SMALL])


def test_the_forward_pass_is_the_papers() -> None:
    """Against the formula written out position by position in float64."""
    model = random_max_of_k(MaxOfKConfig(k=4, vocabulary=9, d_model=6, d_head=5), 3).double()
    tokens = torch.randint(9, (7, 4), generator=torch.Generator().manual_seed(0))
    w = model.weights()
    for row, logits in zip(tokens, model(tokens), strict=True):
        x = [w["embed"][t] + w["positions"][i] for i, t in enumerate(row)]
        scores = torch.stack([(x[3] @ w["query"]) @ (xi @ w["key"]) / math.sqrt(5) for xi in x])
        mixed = sum(a * (xi @ w["value"] @ w["output"]) for a, xi in zip(scores.softmax(0), x, strict=True))
        torch.testing.assert_close(logits, (x[3] + mixed) @ w["unembed"], rtol=1e-12, atol=1e-12)


def test_ideal_weights_are_right_and_a_shuffle_keeps_only_the_values() -> None:
    ideal = ideal_max_of_k(5, 10)
    assert sampled_accuracy(ideal, samples=2000) == 1
    shuffled = shuffled_max_of_k(ideal, 0)
    for name, w in ideal.weights().items():
        assert torch.equal(shuffled.weights()[name].flatten().sort().values, w.flatten().sort().values)
    assert sampled_accuracy(shuffled, samples=2000) < 0.6


def test_a_folder_comes_back_and_damage_is_found(tmp_path: Path) -> None:
    model = random_max_of_k(MaxOfKConfig(k=2, vocabulary=5, d_model=4, d_head=4), 0)
    folder = save_max_of_k(model, tmp_path / "m", RECORD)
    loaded = load_max_of_k(folder)
    assert loaded.record == RECORD
    assert all(torch.equal(loaded.model.weights()[n], model.weights()[n]) for n in NAMES)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"k": 2', '"k": 3'))
    with pytest.raises(CorruptFile, match="names and shapes"):
        load_max_of_k(folder)
    (folder / "config.json").write_text(config)
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-3] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(CorruptFile, match="altered or damaged"):
        load_max_of_k(folder)
    with pytest.raises(BadInput, match="prove train"):
        load_max_of_k(tmp_path / "none")
    (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match=r"no config\.json"):
        save_max_of_k(model, tmp_path / "other", RECORD)


def test_transformer_lens_names_are_read_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = random_max_of_k(MaxOfKConfig(k=3, vocabulary=6, d_model=4, d_head=4), 1)
    heads = {"query", "key", "value", "output"}
    found = {
        old: (w[None] if new in heads else w).contiguous()
        for old, new in TRANSFORMER_LENS.items()
        for w in [model.weights()[new]]
    }
    save_file(found | {"unembed.b_U": torch.zeros(6)}, tmp_path / "a.safetensors")
    loaded = load_max_of_k(tmp_path / "a.safetensors")
    assert loaded.model.config == model.config
    assert all(torch.equal(loaded.model.weights()[n], model.weights()[n]) for n in NAMES)
    save_file(found | {"unembed.b_U": torch.ones(6)}, tmp_path / "b.safetensors")
    with pytest.raises(Unsupported, match="b_U"):
        load_max_of_k(tmp_path / "b.safetensors")
    save_file(found | {"blocks.1.attn.W_Q": torch.zeros(1, 4, 4)}, tmp_path / "c.safetensors")
    with pytest.raises(Unsupported, match="one layer"):
        load_max_of_k(tmp_path / "c.safetensors")


def test_the_command_trains_a_folder_and_refuses_nonsense_first(tmp_path: Path) -> None:
    r = commands.prove_train(tmp_path / "m", k=2, density=0.5, vocabulary=6, d_model=8, steps=20)
    assert r.nonzero_weights < r.total_weights
    record = json.loads((tmp_path / "m" / "record.json").read_text())
    assert record["config"]["density"] == 0.5
    assert record["details"]["sampled_accuracy"] == r.sampled_accuracy
    with pytest.raises(BadInput, match="exists"):
        commands.prove_train(tmp_path / "m")
    with pytest.raises(BadInput, match="k: "):
        commands.prove_train(tmp_path / "n", k=1)
    with pytest.raises(BadInput, match="exists"):
        train_into(tmp_path / "m", SMALL)
