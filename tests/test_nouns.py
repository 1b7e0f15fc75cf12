"""Laws of the nouns: sites, graphs, masks, circuits, scores, evidence, metrics, statistics."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from toys import PLANTED_EDGES, PLANTED_NODES

from gossamer import Circuit, Scores, Site
from gossamer.circuit import Calibration
from gossamer.errors import BadInput, CorruptFile
from gossamer.evidence import Evidence, Null, load_evidence, save_evidence
from gossamer.mask import apply_masks, heaviside
from gossamer.metric import LN2, calibrate, fit_calibration, ordered_accuracy, paired_accuracy, task_loss_nats
from gossamer.models import LoadedModel
from gossamer.record import Record
from gossamer.site import CHANNEL_LOCATIONS
from gossamer.statistics import bootstrap_interval, geometric_mean, mean_interval, ratio_of_geometric_means

RECORD = Record.now(method="test", config={"a": 1}, seed=3)


def circuit_of(model: LoadedModel, sites: tuple[str, ...], **fields: object) -> Circuit:
    graph = model.graph("channel")
    nodes = [graph.layout.number(Site.parse(s)) for s in sites]
    return Circuit.from_nodes(graph, model.edge_weights(graph), nodes, record=RECORD, **fields)  # type: ignore[arg-type]


@given(
    st.sampled_from(["", "encoder.", "decoder."]), st.integers(0, 99), st.sampled_from(CHANNEL_LOCATIONS),
    st.integers(0, 10**6),
)  # fmt: skip
def test_a_site_is_its_string(side: str, layer: int, location: str, index: int) -> None:
    site = Site(f"{side}{layer}.{location}", index)
    assert Site.parse(str(site)) == site
    assert site.layer == layer


@pytest.mark.parametrize(
    "text", ["0.mlp.post:1", "01.attn.q:2", "final_resid", "a1.h", "0.attn.q:-1", "coder.0.attn.q:1", ""]
)
def test_an_unknown_site_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="Expected a site such as"):
        Site.parse(text)


def test_node_numbers_and_sites_are_inverse(small: LoadedModel) -> None:
    layout = small.graph("channel").layout
    assert [layout.number(layout.site(n)) for n in range(layout.n_nodes)] == list(range(layout.n_nodes))
    c = small.model.config
    assert layout.n_nodes == c.n_layer * (4 * c.d_model + 3 * c.d_attn + c.d_mlp) + c.d_model


def test_edges_equal_a_count_by_hand(planted: LoadedModel) -> None:
    circuit = circuit_of(planted, PLANTED_NODES)
    assert circuit.n_edges == PLANTED_EDGES
    assert {(str(circuit.layout.site(int(s))), str(circuit.layout.site(int(d))), w) for s, d, w in
            zip(circuit.src, circuit.dst, circuit.weight.tolist(), strict=True)} == {
        ("0.attn.act_in:3", "0.attn.v:5", 2.0), ("0.attn.v:5", "0.attn.resid_delta:6", 3.0),
    }  # fmt: skip


def test_edges_equal_a_brute_force_count(small: LoadedModel) -> None:
    rng = np.random.default_rng(0)
    graph = small.graph("channel")
    nodes = rng.choice(graph.layout.n_nodes, size=graph.layout.n_nodes // 2, replace=False)
    circuit = Circuit.from_nodes(graph, small.edge_weights(graph), nodes, record=RECORD)
    kept = circuit.kept_by_location()
    expected = 0
    for i, block in enumerate(small.model.blocks):
        d = small.model.config.d_attn
        parts = [(f"{i}.attn.act_in", f"{i}.attn.{n}", block.attn.c_attn.weight[j * d : (j + 1) * d])
                 for j, n in enumerate("qkv")]  # fmt: skip
        parts += [
            (f"{i}.attn.v", f"{i}.attn.resid_delta", block.attn.c_proj.weight),
            (f"{i}.mlp.act_in", f"{i}.mlp.post_act", block.mlp.c_fc.weight),
            (f"{i}.mlp.post_act", f"{i}.mlp.resid_delta", block.mlp.c_proj.weight),
        ]
        for src, dst, w in parts:
            for row in np.flatnonzero(kept[dst]):
                for column in np.flatnonzero(kept[src]):
                    expected += float(w[row, column]) != 0
    assert circuit.n_edges == expected > 0


def test_every_kept_edge_is_a_nonzero_weight_between_kept_nodes(small: LoadedModel) -> None:
    graph = small.graph("channel")
    circuit = Circuit.from_nodes(graph, small.edge_weights(graph), range(0, graph.layout.n_nodes, 3), record=RECORD)
    assert np.isin(circuit.src, circuit.nodes).all()
    assert np.isin(circuit.dst, circuit.nodes).all()
    assert (circuit.weight != 0).all()


def test_set_operations(small: LoadedModel) -> None:
    graph = small.graph("channel")
    weights = small.edge_weights(graph)
    a = Circuit.from_nodes(graph, weights, range(0, 120), record=RECORD)
    b = Circuit.from_nodes(graph, weights, range(60, 200), record=RECORD)
    assert ((a & b).nodes == np.arange(60, 120)).all()
    assert ((a | b).nodes == np.arange(200)).all()
    assert (a & a).n_edges == a.n_edges == (a | a).n_edges
    assert ((~a).nodes == np.arange(120, graph.layout.n_nodes)).all()
    assert (~a).n_edges == 0
    assert (a | b).n_edges == a.n_edges + b.n_edges - (a & b).n_edges


def test_circuit_and_complement_ablations_are_opposites(small: LoadedModel) -> None:
    graph = small.graph("channel")
    c = Circuit.from_nodes(graph, small.edge_weights(graph), range(0, 100), record=RECORD)
    inside, outside = c.as_ablation("gao-mean"), c.as_ablation("gao-mean-circuit")
    assert all((inside.keep[k] ^ outside.keep[k]).all() for k in inside.keep)
    assert outside.methodology.set == "circuit"
    with pytest.raises(BadInput, match="did you mean gao-mean"):
        c.as_ablation("gao-meen")


def test_saved_is_loaded(small: LoadedModel, tmp_path: Path) -> None:
    graph = small.graph("channel")
    a = Circuit.from_nodes(
        graph, small.edge_weights(graph), range(50), record=RECORD, calibration=Calibration(scale=2.0, shift=-1.0),
        tied=True,
    )  # fmt: skip
    b = Circuit.load(a.save(tmp_path / "c.safetensors"))
    for name in ("nodes", "src", "dst", "weight", "matrix"):
        assert (getattr(a, name) == getattr(b, name)).all()
    assert (a.layout, a.matrices, a.record, a.calibration, a.tied) == (
        b.layout,
        b.matrices,
        b.record,
        b.calibration,
        b.tied,
    )
    s = Scores(layout=graph.layout, values=np.random.default_rng(0).normal(size=graph.layout.n_nodes), record=RECORD)
    t = Scores.load(s.save(tmp_path / "s.safetensors"))
    assert (s.values == t.values).all()
    assert (s.layout, s.record) == (t.layout, t.record)
    e = Evidence(
        claim="x", value=None, unit="nats", n=0, verdict="not reached", methodology=None, threshold="none",
        nulls=(Null(name="shuffled", value=None, outcome="not reached"),),
    )  # fmt: skip
    assert load_evidence(save_evidence([e], tmp_path / "e.json", RECORD)) == (e,)


@pytest.mark.parametrize("damage", ["truncate", "flip header", "other kind", "missing"])
@pytest.mark.parametrize("kind", ["circuit", "scores", "evidence"])
def test_a_damaged_file_is_one_clear_error(small: LoadedModel, tmp_path: Path, damage: str, kind: str) -> None:
    graph = small.graph("channel")
    circuit = Circuit.from_nodes(graph, small.edge_weights(graph), range(50), record=RECORD)
    scores = Scores(layout=graph.layout, values=np.zeros(graph.layout.n_nodes), record=RECORD)
    paths = {
        "circuit": circuit.save(tmp_path / "circuit"),
        "scores": scores.save(tmp_path / "scores"),
        "evidence": save_evidence([], tmp_path / "evidence", RECORD),
    }
    load = {"circuit": Circuit.load, "scores": Scores.load, "evidence": load_evidence}[kind]
    path = paths[kind]
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip header":
        path.write_bytes(b"\xff" * 16 + content[16:])
    elif damage == "other kind":
        path.write_bytes(paths["scores" if kind != "scores" else "circuit"].read_bytes())
    else:
        path.unlink()
    with pytest.raises((BadInput, CorruptFile), match=r"damaged|expected|Expected|not a whole"):
        load(path)


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray], dict[str, str]], None]) -> Path:
    """The file again with changed arrays or metadata and, like those of earlier versions, no hash."""
    with safe_open(path, framework="np") as f:
        meta = dict(f.metadata())
    arrays = load_file(path)
    meta.pop("sha256")
    change(arrays, meta)
    save_file(arrays, path, metadata=meta)
    return path


def some_circuit(model: LoadedModel) -> Circuit:
    graph = model.graph("channel")
    return Circuit.from_nodes(
        graph, model.edge_weights(graph), range(50), record=RECORD, calibration=Calibration(scale=2.0, shift=-1.0)
    )


def some_scores(model: LoadedModel) -> Scores:
    n = model.graph("channel").layout.n_nodes
    return Scores(layout=model.graph("channel").layout, values=np.linspace(-1, 1, n), record=RECORD)


@pytest.mark.parametrize("make", [some_circuit, some_scores])
def test_one_flipped_bit_anywhere_in_the_numbers_is_noticed(
    small: LoadedModel, tmp_path: Path, make: Callable[[LoadedModel], Circuit | Scores]
) -> None:
    made = make(small)
    path = made.save(tmp_path / "f.safetensors")
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for at in np.linspace(start, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(CorruptFile, match="altered or damaged"):
            type(made).load(path)


def test_a_changed_digit_of_the_metadata_is_noticed(small: LoadedModel, tmp_path: Path) -> None:
    path = some_circuit(small).save(tmp_path / "c.safetensors")
    content = path.read_bytes()
    assert content.count(b"[2.0, -1.0]") == 1
    path.write_bytes(content.replace(b"[2.0, -1.0]", b"[3.0, -1.0]"))
    with pytest.raises(CorruptFile, match="altered or damaged"):
        Circuit.load(path)


def test_files_of_earlier_versions_have_no_hash_and_load(small: LoadedModel, tmp_path: Path) -> None:
    circuit, scores = some_circuit(small), some_scores(small)
    again = Circuit.load(rewrite(circuit.save(tmp_path / "c"), lambda arrays, meta: None))
    assert (again.nodes == circuit.nodes).all()
    assert (again.weight == circuit.weight).all()
    assert (Scores.load(rewrite(scores.save(tmp_path / "s"), lambda arrays, meta: None)).values == scores.values).all()


CIRCUIT_DEFECTS: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], np.ndarray]]] = {
    "node beyond": ("nodes", lambda a: np.append(a["nodes"], 10**6)),
    "node below": ("nodes", lambda a: np.append(-1, a["nodes"])),
    "node twice": ("nodes", lambda a: np.append(a["nodes"], a["nodes"][-1])),
    "not in order": ("nodes", lambda a: a["nodes"][::-1].copy()),
    "fractions": ("nodes", lambda a: a["nodes"] + 0.5),
    "table": ("nodes", lambda a: a["nodes"][:, None]),
    "short src": ("src", lambda a: a["src"][1:]),
    "short dst": ("dst", lambda a: a["dst"][1:]),
    "short weight": ("weight", lambda a: a["weight"][1:]),
    "short matrix": ("matrix", lambda a: a["matrix"][1:]),
    "matrix beyond": ("matrix", lambda a: a["matrix"] + 10**6),
    "matrix below": ("matrix", lambda a: a["matrix"] - 10**6),
    "end outside": ("src", lambda a: a["src"] * 0 + 60),
    "weights in words": ("weight", lambda a: a["weight"].astype(np.int64)),
}


@pytest.mark.parametrize("defect", CIRCUIT_DEFECTS)
def test_a_circuit_that_cannot_be_is_not_loaded(small: LoadedModel, tmp_path: Path, defect: str) -> None:
    name, wrong = CIRCUIT_DEFECTS[defect]
    path = some_circuit(small).save(tmp_path / "c.safetensors")
    rewrite(path, lambda arrays, meta: arrays.update({name: wrong(arrays)}))
    with pytest.raises(CorruptFile, match="make it again") as error:
        Circuit.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("locations", "3"), ("locations", '[["final_resid", -1]]'), ("locations", '[["a", 1], ["a", 1]]'),
     ("calibration", "[1.0]"), ("record", "{}")],
)  # fmt: skip
def test_metadata_that_cannot_be_is_not_loaded(small: LoadedModel, tmp_path: Path, key: str, value: str) -> None:
    path = some_circuit(small).save(tmp_path / "c.safetensors")
    rewrite(path, lambda arrays, meta: meta.update({key: value}))
    with pytest.raises(CorruptFile, match="not a whole circuit file") as error:
        Circuit.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [np.nan, "integers"])
def test_scores_without_an_order_are_not_loaded(small: LoadedModel, tmp_path: Path, wrong: float | str) -> None:
    path = some_scores(small).save(tmp_path / "s.safetensors")
    values = load_file(path)["values"]
    changed = values.astype(np.int64) if wrong == "integers" else np.where(values > 0.5, np.nan, values)
    rewrite(path, lambda arrays, meta: arrays.update({"values": changed}))
    with pytest.raises(CorruptFile, match="no order"):
        Scores.load(path)


def test_wrong_evidence_is_told_in_one_line(tmp_path: Path) -> None:
    path = save_evidence([], tmp_path / "e.json", RECORD)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in content.items() if k != "record"}))
    with pytest.raises(CorruptFile, match="'record'"):
        load_evidence(path)
    path.write_text(json.dumps({**content, "evidence": [{"claim": 3}]}))
    with pytest.raises(CorruptFile, match=r"claim: .*verdict: Field required") as error:
        load_evidence(path)
    assert "\n" not in str(error.value)


def test_circuits_of_two_models_do_not_mix(small: LoadedModel) -> None:
    graph = small.graph("channel")

    def of(model_hash: str) -> Circuit:
        record = RECORD.model_copy(update={"model_sha256": model_hash})
        return Circuit.from_nodes(graph, small.edge_weights(graph), range(50), record=record)

    for mix in (Circuit.__and__, Circuit.__or__):
        with pytest.raises(BadInput, match="one model"):
            mix(of("a" * 64), of("b" * 64))
        assert mix(of("a" * 64), of("a" * 64)).n_nodes == mix(of(""), of("b" * 64)).n_nodes == 50
    assert (~of("a" * 64)).record.model_sha256 == "a" * 64


def test_heaviside_steps_forward_and_slopes_backward() -> None:
    tau = torch.tensor([-1.0, -1e-6, 0.0, 1e-6, 1.0], requires_grad=True)
    m = heaviside(tau, 0.5)
    assert m.tolist() == [0, 0, 0, 1, 1]
    m.sum().backward()
    s = torch.sigmoid(tau.detach() / 0.5)
    assert torch.equal(tau.grad, s * (1 - s) / 0.5)


def test_a_mask_of_ones_changes_no_bit_and_a_mask_of_zeros_leaves_the_value() -> None:
    x, value = torch.randn(6, 5, 4), torch.randn(4)
    edit = apply_masks({"a": torch.ones(4), "b": torch.zeros(3, 4)}, {"a": value, "b": value})
    assert torch.equal(edit("a", x), x)
    assert torch.equal(edit("b", x), value.expand(6, 5, 4))
    assert edit("c", x) is x


def test_gradients_of_a_replacement_are_those_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, 8, generator=generator, dtype=torch.float64).chunk(2, dim=-1)[0].requires_grad_()  # strided
    m = torch.rand(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    value = torch.randn(4, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, m: apply_masks({"a": m}, {"a": value})("a", x), (x, m))
    each = m.repeat_interleave(2, 0)[:, None]
    assert torch.allclose(apply_masks({"a": m}, {"a": value})("a", x), each * x + (1 - each) * value, atol=1e-15)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=20))
def test_an_input_blind_model_loses_at_least_ln2(gap: list[float]) -> None:
    z = torch.tensor([x for g in gap for x in (g, -g)], dtype=torch.float64)
    assert float(task_loss_nats(z).min()) >= LN2 - 1e-12
    assert float(paired_accuracy(z).sum()) == 0


def test_metrics_by_hand() -> None:
    z = torch.tensor([1.0, 2.0, 3.0, -1.0, 0.0, 1.0])
    assert paired_accuracy(z).tolist() == [1, 0, 0]
    assert ordered_accuracy(z).tolist() == [1, 1, 1]
    assert math.isclose(
        float(task_loss_nats(z)[0]), (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2, rel_tol=1e-6
    )


def test_calibration_is_no_no_op_and_keeps_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, generator=generator) + torch.tensor([4.0, -2.0]).repeat(100)
    scale, shift = fit_calibration(z)
    fitted = calibrate(z, scale, shift)
    assert float(task_loss_nats(fitted).mean()) < float(task_loss_nats(z).mean()) - 0.1
    assert float(task_loss_nats(calibrate(z, 1.0, shift)).mean()) != pytest.approx(float(task_loss_nats(z).mean()))
    assert scale > 0
    assert torch.equal(ordered_accuracy(fitted), ordered_accuracy(z))


def test_statistics_by_hand() -> None:
    low, high = bootstrap_interval(np.r_[np.zeros(50), np.ones(50)], seed=1)
    assert 0.35 < low < 0.5 < high < 0.65
    assert bootstrap_interval([2.0] * 5) == (2.0, 2.0)
    assert mean_interval(np.ones(10)) == pytest.approx((0.7225, 1.0), abs=1e-4)  # a share at its edge: Wilson's
    assert mean_interval(np.r_[0.5, np.ones(9)]) == bootstrap_interval(np.r_[0.5, np.ones(9)])


def test_ratio_of_geometric_means_on_known_data() -> None:
    value, interval = ratio_of_geometric_means([[8.0, 8.0], [8.0, 8.0]], [[2.0, 2.0], [2.0, 2.0]])
    assert value == pytest.approx(4)
    assert interval == (pytest.approx(4), pytest.approx(4))
    # tasks are drawn together on both sides: a task that is ten times as hard for both does not widen the interval
    value, interval = ratio_of_geometric_means([[10.0], [100.0]], [[1.0], [10.0]])
    assert (value, interval) == (pytest.approx(10), (pytest.approx(10), pytest.approx(10)))
    # ratios 2 and 32: a draw has both tasks, or one of them twice (a quarter each)
    value, interval = ratio_of_geometric_means([[2.0], [32.0]], [[1.0], [1.0]])
    assert (value, interval) == (pytest.approx(8), (pytest.approx(2), pytest.approx(32)))
    assert ratio_of_geometric_means([[6.0]], [[2.0]]) == (pytest.approx(3), None)
    assert geometric_mean([[1.0, 4.0], [2.0, 8.0]]) == pytest.approx(64**0.25)
