"""The authors' circuit files: what was put in comes out, and what is wrong with a file is said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import PLANTED_NODES, planted_model, planted_task, random_model
from verify_helpers import circuit_of
from viz_files import viz_content, write_viz

from gossamer import BadInput, Circuit, CorruptFile, LoadedModel, Site, Unsupported
from gossamer.formats import VizData, read_viz_data
from gossamer.metric import task_loss_nats
from gossamer.task import Encoded


def random_circuit(model: LoadedModel, seed: int = 0) -> Circuit:
    """About half of the nodes; nothing kept at one location."""
    rng = np.random.default_rng(seed)
    layout = model.layout
    sites = [layout.site(int(n)) for n in np.flatnonzero(rng.random(layout.n_nodes) < 0.5)]
    return circuit_of(model, tuple(str(s) for s in sites if s.location != "1.attn.q"))


def random_pairs(n: int = 6) -> Encoded:
    g = torch.Generator().manual_seed(4)
    tokens = torch.randint(1, 15, (2 * n, 9), generator=g)
    last = torch.randint(4, 9, (2 * n,), generator=g)
    tokens[torch.arange(9) > last[:, None]] = 0
    return Encoded(tokens, last, torch.tensor([2, 3]).repeat(n), torch.tensor([3, 2]).repeat(n)).pairs(0, n)


def same(a: Circuit, b: Circuit) -> bool:
    arrays = all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("nodes", "src", "dst", "matrix", "weight"))
    return arrays and a.layout == b.layout and a.matrices == b.matrices


def in_order(c: Circuit) -> list[tuple[int, int, str]]:
    return sorted((int(s), int(d), c.matrices[int(m)]) for s, d, m in zip(c.src, c.dst, c.matrix, strict=True))


@pytest.mark.parametrize(
    "changes", [{}, {"sink": False}, {"position": "channels", "d_pos": 4}, {"n_layer": 1}], ids=str
)
def test_the_reader_gives_the_circuit_that_was_built_into_the_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = random_model(**changes)
    circuit = random_circuit(model) if model.model.config.n_layer > 1 else circuit_of(model, ("0.attn.v:1",))
    viz = read_viz_data(write_viz(viz_content(model, circuit, random_pairs()), tmp_path / "viz_data.pt"))
    assert viz.n_nodes == circuit.n_nodes
    assert same(viz.circuit(model), circuit)
    bare = viz.circuit()
    assert in_order(bare) == in_order(circuit)
    assert np.array_equal(bare.nodes, circuit.nodes)
    assert np.isnan(bare.weight).all()
    bare.save(tmp_path / "c.safetensors")
    assert in_order(Circuit.load(tmp_path / "c.safetensors")) == in_order(circuit)


@pytest.fixture(scope="module")
def built(small: LoadedModel) -> dict[str, Any]:
    return viz_content(small, random_circuit(small), random_pairs())


@pytest.fixture
def content(built: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(built)


def read(content: Any, folder: Path) -> VizData:
    return read_viz_data(write_viz(content, folder / "viz_data.pt"))


def test_every_loss_is_halved_and_derived_again_from_the_same_model(
    small: LoadedModel, content: dict[str, Any], tmp_path: Path
) -> None:
    viz = read(content, tmp_path)
    circuit, batch = viz.circuit(small), viz.batch(2, 3)
    own = float(task_loss_nats(small.run(batch, ablation=circuit.as_ablation("gao-mean")).gap).mean())
    assert viz.circuit_loss == pytest.approx(own, abs=1e-6)
    assert viz.circuit_loss == pytest.approx(float(content["importances"]["interv_loss"]) / 2, abs=1e-9)
    assert viz.loss == pytest.approx(float(task_loss_nats(small.run(batch).gap).mean()), abs=1e-6)
    assert viz.layer_losses["0.attn"] == pytest.approx(own + 0.25, abs=1e-6)
    assert viz.sweep[0] == (2, pytest.approx(own + 1, abs=1e-6))
    stored = content["importances"]["ch_interv_losses"]
    assert viz.node_losses["0.mlp.act_in"].tolist() == pytest.approx([x / 2 for x in stored["0.mlp.act_in"]])
    assert viz.deltas[0].values.max() == pytest.approx(0.01)
    assert viz.connections[0].values == pytest.approx(content["importances"]["pair_data_connections"][0][0].numpy())


def test_another_weight_gives_another_loss(content: dict[str, Any], tmp_path: Path) -> None:
    other = random_model()
    other.model.blocks[0].mlp.c_proj.weight.data *= 1.5
    viz = read(content, tmp_path)
    own = other.run(viz.batch(2, 3), ablation=viz.circuit(other).as_ablation("gao-mean")).gap
    assert abs(float(task_loss_nats(own).mean()) - (viz.circuit_loss or 0)) > 1e-3


def test_prompts_are_paired_across_the_classes_with_their_ends(content: dict[str, Any], tmp_path: Path) -> None:
    batch, built = read(content, tmp_path).batch(2, 3), random_pairs()
    assert all(torch.equal(a, b) for a, b in zip(batch[:4], built[:4], strict=True))


def test_samples_activations_and_biases_are_read(small: LoadedModel, content: dict[str, Any], tmp_path: Path) -> None:
    viz, circuit = read(content, tmp_path), random_circuit(small)
    site = circuit.sites[0]
    assert viz.samples[site][0.01].top[1].position == 2
    assert len(viz.samples[site][0.01].bottom) == 1
    assert set(viz.activations) == set(circuit.sites)
    state = small.model.state_dict()
    b = [state[f"h.{i}.{m}.bias"] for i in range(2) for m in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert all(bool(x.all()) for x in b)
    written = [d for _, _, d in small.model.config.matrices()]
    kept = circuit.kept_by_location()
    assert viz.biases() == sum(int(kept[d].sum()) for d in written)
    assert all(c.src[-1] == "bias" for c in viz.connections)


def test_the_files_own_order_of_channels_does_not_matter(content: dict[str, Any], tmp_path: Path) -> None:
    before = read(content, tmp_path)
    c, losses = content["circuit_data"], content["importances"]["ch_interv_losses"]
    c["0.mlp.post_act"] = c["0.mlp.post_act"].flip(0).to(torch.int32)
    losses["0.mlp.post_act"] = torch.tensor(losses["0.mlp.post_act"], dtype=torch.float64).flip(0)
    after = read(content, tmp_path)
    assert np.array_equal(after.nodes(), before.nodes())
    assert after.node_losses["0.mlp.post_act"] == pytest.approx(before.node_losses["0.mlp.post_act"])


def test_a_file_with_nothing_but_nodes_and_config_is_read(content: dict[str, Any], tmp_path: Path) -> None:
    inside = {**content["circuit_data"], "prune_config": {"k": 7}}
    inside.pop("1.mlp.act_in")
    config = content["importances"]["beeg_model_config"]
    viz = read({"circuit_data": inside, "importances": {"beeg_model_config": config}}, tmp_path)
    assert (viz.loss, viz.circuit_loss, viz.prompts) == (None, None, None)
    assert len(viz.kept["1.mlp.act_in"]) == 0
    assert viz.circuit().n_edges == 0
    assert viz.prune_config == {"k": 7}
    with pytest.raises(BadInput, match="--task"):
        viz.batch(2, 3)


def test_no_connections_falls_back_on_the_deltas(content: dict[str, Any], tmp_path: Path) -> None:
    both = read(content, tmp_path).circuit()
    content["importances"].pop("pair_data_connections")
    assert in_order(read(content, tmp_path).circuit()) == in_order(both)


def test_lists_per_process_are_joined(content: dict[str, Any], tmp_path: Path) -> None:
    joined = read(content, tmp_path)
    tables = content["importances"]["pair_data"]
    content["importances"]["pair_data"] = [tables[:3], tables[3:]]
    apart = read(content, tmp_path)
    assert [(c.source, c.destination) for c in apart.deltas] == [(c.source, c.destination) for c in joined.deltas]


def importances(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda c: c["importances"].update(changes)


def top(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda c: c.update(changes)


WRONG: list[tuple[Callable[[dict[str, Any]], None], type, str]] = [
    (top(num_total_nodes=136_192), CorruptFile, "num_total_nodes is 136192"),
    (top(circuit_data={"0.attn.y": torch.tensor([1])}), Unsupported, r"0\.attn\.y"),
    (top(circuit_data={"7.attn.q": torch.tensor([1])}), Unsupported, r"7\.attn\.q"),
    (top(circuit_data={"0.attn.q": torch.tensor([99])}), CorruptFile, "channels of 0 to 15"),
    (top(circuit_data={"0.attn.q": torch.tensor([1, 1])}), CorruptFile, "different channels"),
    (top(circuit_data={"0.attn.q": torch.tensor([0.5])}), CorruptFile, "whole numbers"),
    (top(circuit_data=[1]), CorruptFile, "circuit_data"),
    (lambda c: c.pop("circuit_data"), CorruptFile, "lacks circuit_data"),
    (lambda c: c["importances"].pop("beeg_model_config"), CorruptFile, "beeg_model_config"),
    (lambda c: c["importances"]["beeg_model_config"].pop("n_layer"), CorruptFile, "n_layer"),
    (lambda c: c["importances"]["beeg_model_config"].update(rms_norm=False), Unsupported, "LayerNorm"),
    (importances(loss=float("nan")), CorruptFile, "loss: expected a finite"),
    (importances(loss="low"), CorruptFile, "expected a number"),
    (importances(ch_interv_losses={"0.attn.q": [1.0]}), CorruptFile, "1 losses for"),
    (importances(layer_interv_losses={"5.mlp": 1.0}), CorruptFile, r"5\.mlp"),
    (importances(pair_data=[[torch.ones(1, 1), [0], [0], ("0.attn.q", "0.attn.v")]]), Unsupported, "no weight matrix"),
    (importances(pair_data=[[torch.ones(2, 1), [0], [0], ("0.mlp.act_in", "0.mlp.post_act")]]), CorruptFile, "ends"),
    (importances(pair_data=[[torch.ones(1, 1), [99], [0], ("0.mlp.act_in", "0.mlp.post_act")]]), CorruptFile, "to 15"),
    (importances(pair_data=[1, 2]), CorruptFile, "pair_data"),
    (importances(task_samples=(torch.ones(3, 4, dtype=torch.int64), {})), CorruptFile, "even number of prompts"),
    (importances(task_samples=(torch.full((2, 4), 99), {})), CorruptFile, "tokens of 0 to 15"),
    (importances(task_samples=(torch.ones(2, 4).long(), {"0.attn.q": {0: torch.ones(3)}})), CorruptFile, "activations"),
    (top(samples={"0.attn.q": {0: {0.5: ([([1, 2], [0.1], 0)], [])}}}), CorruptFile, "2 tokens with 1"),
    (top(all_loss=[1, 2]), CorruptFile, "all_loss"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_what_is_wrong_with_a_file_is_said(
    content: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None], error: type, says: str
) -> None:
    change(content)
    with pytest.raises(error, match=says) as raised:
        read(content, tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "text", "list"])
def test_a_damaged_file_is_corrupt(content: dict[str, Any], tmp_path: Path, damage: str) -> None:
    path = write_viz([1, 2] if damage == "list" else content, tmp_path / "viz_data.pt")
    whole = path.read_bytes()
    other = {"cut": whole[:-400], "noise": bytes(range(256)), "empty": b"", "text": b"version https", "list": whole}
    path.write_bytes(other[damage])
    with pytest.raises(CorruptFile, match="download it again"):
        read_viz_data(path)
    with pytest.raises(BadInput, match="found no file"):
        read_viz_data(tmp_path / "other.pt")


def test_no_code_runs_from_a_file(content: dict[str, Any], tmp_path: Path) -> None:
    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (flag,))

    content["prune_config"]["x"] = Evil()
    with pytest.raises(CorruptFile, match="nothing in it was run"):
        read(content, tmp_path)
    assert not flag.exists()


def test_a_model_of_another_shape_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="that the circuit was found in"):
        read(content, tmp_path).circuit(random_model(d_mlp=24))


def test_a_planted_circuit_keeps_its_loss_through_the_file(tmp_path: Path) -> None:
    model = planted_model()
    circuit, batch = circuit_of(model, PLANTED_NODES), model.encode(planted_task(16).heldout)
    viz = read(viz_content(model, circuit, batch), tmp_path)
    assert viz.circuit_loss == pytest.approx(viz.loss, abs=0.1)
    assert {str(s) for s in viz.circuit().sites} == set(PLANTED_NODES)
    assert viz.node_losses["final_resid"][0] > 0.6
    assert viz.activations[Site.parse("0.attn.v:5")].shape == viz.prompts.shape  # type: ignore[union-attr]
