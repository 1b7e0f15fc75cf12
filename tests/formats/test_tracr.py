"""Models that Tracr compiled, against its own examples, and against the rule for true edges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiled_helpers import changes
from safetensors.numpy import save_file

from gossamer.discover import ACDCConfig, acdc
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.formats import read_tracr, tracr_model
from gossamer.models.compiled import CompiledModel, true_edges
from gossamer.task import Encoded, Example, Task

TRACR = Path(__file__).parents[3] / "shared" / "data" / "tracr-compiled"


@pytest.fixture(params=["copy", "reverse"])
def compiled(request: pytest.FixtureRequest) -> tuple[CompiledModel, dict[str, torch.Tensor]]:
    """A model and its examples: prompt, target and another prompt, [256, 5] each."""
    if not TRACR.is_dir():
        pytest.skip("shared data is absent")
    model = read_tracr(TRACR / f"{request.param}.safetensors")
    lines = [json.loads(s) for s in (TRACR / f"{request.param}.examples.jsonl").read_text().splitlines()]
    ids = model.tokenizer.ids
    return model, {k: torch.tensor([[ids[w] for w in e[k]] for e in lines]) for k in ("seq", "target", "corr_seq")}


def test_it_is_right_on_every_position_of_its_examples(compiled: tuple[CompiledModel, dict[str, torch.Tensor]]) -> None:
    model, examples = compiled
    logits = model.logits(examples["seq"])[:, 1:]
    assert len(logits) == 256
    assert torch.equal(logits.argmax(-1), examples["target"][:, 1:])
    assert not torch.equal(model.logits(examples["corr_seq"])[:, 1:].argmax(-1), examples["target"][:, 1:])


def test_edges_that_matter_are_within_the_rule(compiled: tuple[CompiledModel, dict[str, torch.Tensor]]) -> None:
    """Weights of another compiler: the rule is an upper bound (a length that never varies saturates some edges)."""
    model, examples = compiled
    clean, other = examples["seq"][::20], examples["corr_seq"][::20]
    pairs = torch.stack([clean, other], 1).flatten(0, 1)
    encoded = Encoded(pairs, torch.full((len(pairs),), 4), pairs[:, 0], pairs[:, 0])
    for value, rule in (("zero", true_edges(model)), ("resample", true_edges(model, encoded))):
        matter = np.flatnonzero(changes(model, clean, other, value) > 1e-9)
        assert len(matter)
        assert set(matter) <= set(rule)
        assert len(rule) < model.graph().n_edges / 2 + 1


def test_acdc_finds_the_one_path_of_the_last_token(compiled: tuple[CompiledModel, dict[str, torch.Tensor]]) -> None:
    """Of both programs a head's values carry it from the input to the logits; all else is positions."""
    model, examples = compiled
    answers, others = (model.logits(examples[k])[:, -1].argmax(-1) for k in ("seq", "corr_seq"))

    def words(ids: torch.Tensor) -> str:
        return " ".join(model.words[i] for i in ids.tolist())

    pairs = tuple(
        Example(
            clean=words(examples["seq"][i, 1:]), counterfactual=words(examples["corr_seq"][i, 1:]),
            answer=f" {words(answers[i : i + 1])}", wrong_answer=f" {words(others[i : i + 1])}",
        )
        for i in (answers != others).nonzero().flatten().tolist()[:4]
    )  # fmt: skip
    task = Task(name=model.name, version="1", description="", train=pairs, heldout=())
    found = acdc(model, task, ACDCConfig(threshold=1e-3))
    nodes = [n for n, _ in found.layout.locations]
    head = f"a{model.shape.n_layers - 1}.h0"
    ends = {(nodes[s], nodes[d], found.matrices[m]) for s, d, m in zip(found.src, found.dst, found.matrix, strict=True)}
    assert ends == {("input", head, "v"), (head, "logits", "logits")}


CONFIG = {
    "num_heads": 2, "num_layers": 1, "d_head": 3, "mlp_hidden_size": 4, "layer_norm": False, "causal": True, "bos": "B",
}  # fmt: skip
VOCAB = {"a": 0, "b": 1, "B": 2}


def made(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "token_embed_embeddings": (3, 5), "pos_embed_embeddings": (4, 5), "unembedding_mtx": (5, 2),
        **{f"layer_0/attn/{n}_w": (5, 6) for n in ("query", "key", "value")},
        **{f"layer_0/attn/{n}_b": (6,) for n in ("query", "key", "value")},
        "layer_0/attn/linear_w": (6, 5), "layer_0/attn/linear_b": (5,), "layer_0/mlp/linear_1_w": (5, 4),
        "layer_0/mlp/linear_1_b": (4,), "layer_0/mlp/linear_2_w": (4, 5), "layer_0/mlp/linear_2_b": (5,),
    }  # fmt: skip
    return {k: rng.normal(size=s) for k, s in shapes.items()}


def by_formula(p: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Logits [pos, answers] of one causal layer with two heads, a head and a position at a time."""
    x = p["token_embed_embeddings"][tokens] + p["pos_embed_embeddings"][: len(tokens)]
    q, k, v = (x @ p[f"layer_0/attn/{n}_w"] + p[f"layer_0/attn/{n}_b"] for n in ("query", "key", "value"))
    mixed = np.zeros((len(x), 6))
    for h in (slice(0, 3), slice(3, 6)):
        for i in range(len(x)):
            e = np.exp(k[: i + 1, h] @ q[i, h] / np.sqrt(3))
            mixed[i, h] = (e / e.sum()) @ v[: i + 1, h]
    x = x + mixed @ p["layer_0/attn/linear_w"] + p["layer_0/attn/linear_b"]
    hidden = np.maximum(x @ p["layer_0/mlp/linear_1_w"] + p["layer_0/mlp/linear_1_b"], 0)
    return (x + hidden @ p["layer_0/mlp/linear_2_w"] + p["layer_0/mlp/linear_2_b"]) @ p["unembedding_mtx"]


def written(folder: Path, params: dict[str, np.ndarray], config: dict[str, Any]) -> Path:
    save_file(params, folder / "m.safetensors")
    (folder / "m.json").write_text(json.dumps({"config": config, "vocab": VOCAB}))
    return folder / "m.safetensors"


def test_a_file_and_parameters_in_memory_give_the_numbers_of_the_formulas(tmp_path: Path) -> None:
    params, tokens = made(), [2, 0, 1, 1]
    wanted = by_formula(params, tokens)
    nested: dict[str, Any] = {"unembedding_mtx": params["unembedding_mtx"]}
    for key in params.keys() - nested.keys():
        module, _, part = key.rpartition("_")
        nested.setdefault(f"transformer/{module}", {})[part] = params[key]
    for model in (read_tracr(written(tmp_path, params, CONFIG)), tracr_model(nested, CONFIG, VOCAB, "m")):
        assert model.words == ("a", "b", "B")
        assert np.allclose(model.logits(torch.tensor([tokens]))[0].numpy(), wanted, atol=1e-12)
    ahead = tracr_model(nested, {**CONFIG, "causal": False}, VOCAB, "m")
    assert not np.allclose(ahead.logits(torch.tensor([tokens]))[0].numpy(), wanted, atol=1e-3)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"m\.safetensors, found none"):
        read_tracr(tmp_path / "m.safetensors")
    short = {k: v for k, v in made().items() if k != "layer_0/attn/key_b"}
    with pytest.raises(CorruptFile, match="layer_0/attn/key_b"):
        read_tracr(written(tmp_path, short, CONFIG))
    with pytest.raises(CorruptFile, match="its up and up_bias and down do not have the shape"):
        read_tracr(written(tmp_path, made(), {**CONFIG, "mlp_hidden_size": 5}))
    with pytest.raises(Unsupported, match="layer norms"):
        read_tracr(written(tmp_path, made(), {**CONFIG, "layer_norm": True}))
    path = written(tmp_path, made(), CONFIG)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptFile, match="no model of Tracr's"):
        read_tracr(path)
