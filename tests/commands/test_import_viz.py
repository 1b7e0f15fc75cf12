"""A released circuit becomes a run: same losses as stored from the same model, others from another; and binarise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import PLANTED_NODES, planted_model, planted_task, toy_tokenizer
from verify_helpers import circuit_of
from viz_files import viz_content, write_viz

from gossamer import BadInput, Circuit, commands
from gossamer.cli.main import app
from gossamer.commands.run_folder import read_run
from gossamer.models import LoadedModel
from gossamer.models.authors import load_authors_weights
from gossamer.models.files import save_model
from gossamer.show import read_bundle


def saved(model: LoadedModel, folder: Path, means: bool = True) -> str:
    save_model(
        model.model, folder, tokenizer=model.tokenizer, reference=model.reference if means else None,
        record={"details": {"text": "random words"}},
    )  # fmt: skip
    return str(folder)


@pytest.fixture
def model() -> LoadedModel:
    return planted_model()


@pytest.fixture
def content(model: LoadedModel) -> dict[str, Any]:
    batch = model.encode(planted_task(24).heldout)
    return viz_content(model, circuit_of(model, PLANTED_NODES), batch)


@pytest.fixture
def viz(content: dict[str, Any], tmp_path: Path) -> Path:
    return write_viz(content, tmp_path / "viz_data.pt")


def test_a_released_circuit_is_derived_again_tried_shown_and_replayed(
    model: LoadedModel, viz: Path, tmp_path: Path
) -> None:
    r = commands.import_openai_viz(viz, out=tmp_path / "run", model=saved(model, tmp_path / "m"), answers=(" L", " R"))
    assert r.run
    assert r.missing == ()
    assert (r.nodes, r.edges, r.total_nodes, r.biases) == (4, 2, model.layout.n_nodes, 0)
    assert (r.shown_not_weights, r.weights_not_shown) == (0, 0)
    assert r.derived is not None
    assert r.derived.loss == pytest.approx(r.stored_loss, abs=1e-6)
    assert r.derived.circuit_loss == pytest.approx(r.stored_circuit_loss, abs=1e-6)
    assert r.derived.node_loss_difference == pytest.approx(0, abs=1e-5)
    assert r.activation_differences["circuit"] < 1e-4
    assert r.means is not None
    assert "random words" in r.means
    assert json.loads((tmp_path / "run" / "import.json").read_text()) == r.model_dump(mode="json")
    assert {e.verdict for e in commands.verify(tmp_path / "run", quick=True).evidence} == {"pass"}
    commands.show(tmp_path / "run")
    assert read_bundle(tmp_path / "run" / "bundle.json").circuit.n_nodes == 4
    assert commands.replay(tmp_path / "run").agrees


def test_another_model_derives_other_losses(viz: Path, tmp_path: Path) -> None:
    other = planted_model()
    other.model.blocks[0].attn.c_proj.weight.data[6, 5] *= 0.3
    r = commands.import_openai_viz(viz, out=tmp_path / "run", model=saved(other, tmp_path / "m"), answers=(" L", " R"))
    assert r.derived is not None
    assert abs((r.derived.circuit_loss or 0) - (r.stored_circuit_loss or 0)) > 0.01
    assert r.activation_differences["circuit"] > 0.1


def test_activations_tell_whether_they_are_the_circuits_or_the_models(model: LoadedModel, tmp_path: Path) -> None:
    part = circuit_of(model, PLANTED_NODES[1:])  # its value channel reads a mean: a constant in the circuit alone
    viz = write_viz(viz_content(model, part, model.encode(planted_task(8).heldout)), tmp_path / "v.pt")
    r = commands.import_openai_viz(viz, out=tmp_path / "run", model=saved(model, tmp_path / "m"))
    assert r.activation_differences["circuit"] < 1e-4
    assert r.activation_differences["whole model"] > 1


def test_a_task_can_be_asked_instead(model: LoadedModel, content: dict[str, Any], tmp_path: Path) -> None:
    task = planted_task(24)
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer,
         "split": split} for split, part in (("train", task.train), ("heldout", task.heldout)) for e in part
    ]  # fmt: skip
    pairs = tmp_path / "sides.jsonl"
    pairs.write_text("\n".join(map(json.dumps, rows)))
    content["importances"].pop("task_samples")
    viz = write_viz(content, tmp_path / "viz_data.pt")
    r = commands.import_openai_viz(viz, out=tmp_path / "run", model=saved(model, tmp_path / "m"), task=pairs)
    assert r.derived is not None
    assert r.derived.circuit_loss == pytest.approx(r.stored_circuit_loss, abs=1e-6)
    assert read_run(tmp_path / "run").task.name == "sides"


@pytest.mark.parametrize("what", ["model", "answers", "means", "prompts"])
def test_what_is_missing_is_said_and_the_rest_is_made(
    model: LoadedModel, content: dict[str, Any], tmp_path: Path, what: str
) -> None:
    if what == "prompts":
        content["importances"].pop("task_samples")
    viz = write_viz(content, tmp_path / "viz_data.pt")
    folder = None if what == "model" else saved(model, tmp_path / "m", means=what != "means")
    r = commands.import_openai_viz(
        viz, out=tmp_path / "run", model=folder, answers=() if what in ("model", "answers") else (" L", " R")
    )
    assert not r.run
    (missing,) = r.missing
    assert {"model": "--model", "answers": "--answer", "means": "gossamer means", "prompts": "--task"}[what] in missing
    circuit = Circuit.load(Path(r.out) / "circuit.safetensors")
    assert (circuit.n_nodes, circuit.n_edges) == (4, 2)
    assert r.stored_circuit_loss is not None
    if what == "means":
        assert r.derived is not None
        assert r.derived.loss == pytest.approx(r.stored_loss, abs=1e-6)
        assert r.derived.circuit_loss is None
    else:
        assert r.derived is None
    assert set(r.activation_differences) == {
        "model": set(), "prompts": set(), "means": {"whole model"}, "answers": {"whole model", "circuit"},
    }[what]  # fmt: skip


def test_the_authors_own_folder_is_read(tmp_path: Path) -> None:
    from models.test_authors import BASE, release

    release(tmp_path / "m", sink=True)
    toy_tokenizer().save(str(tmp_path / "m" / "tokenizer.json"))
    weights = load_authors_weights(tmp_path / "m")
    c = weights.config
    total = sum(w for _, w in c.locations())
    content = {
        "circuit_data": {"0.mlp.act_in": torch.arange(12), "0.mlp.post_act": torch.arange(20)},
        "num_total_nodes": total, "importances": {"beeg_model_config": {**BASE, "sink": True}},
    }  # fmt: skip
    r = commands.import_openai_viz(
        write_viz(content, tmp_path / "v.pt"), out=tmp_path / "run", model=tmp_path / "m", answers=("L", "R")
    )
    assert r.edges == int(weights.blocks[0].mlp.c_fc.weight.count_nonzero())
    assert r.edges_by_matrix == {"0.mlp.c_fc": r.edges}
    assert r.weights_not_shown is None
    assert "--task" in r.missing[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"answers": ("L",)}, "two different answers"),
        ({"answers": ("L", "L")}, "two different answers"),
        ({"answers": ("L", "R"), "task": "if_equals"}, "and a task"),
        ({"answers": ("L", "R"), "model": None}, "a model to ask"),
        ({"answers": ("L R", "R")}, "one token"),
        ({"target_loss": 0.0}, "target loss above 0"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_and_nothing_is_written(
    model: LoadedModel, viz: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    given = {"model": saved(model, tmp_path / "m"), **options}
    with pytest.raises(BadInput, match=says):
        commands.import_openai_viz(viz, out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_start_token_that_the_file_has_not_is_said(
    model: LoadedModel, content: dict[str, Any], tmp_path: Path
) -> None:
    tokens, _ = content["importances"]["task_samples"]
    content["importances"]["task_samples"] = (tokens[:, 1:], {})
    viz = write_viz(content, tmp_path / "viz_data.pt")
    r = commands.import_openai_viz(viz, out=tmp_path / "run", model=saved(model, tmp_path / "m"), answers=(" L", " R"))
    assert r.prompts_changed > 20
    assert r.run


def test_the_command_line_prints_both_losses_and_binarises(model: LoadedModel, viz: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    run = tmp_path / "run"
    words = ["import", "openai-viz", str(viz), "--out", str(run), "--model", saved(model, tmp_path / "m")]
    done = CliRunner().invoke(app, [*words, "--answer", " L", "--answer", " R"])
    assert done.exit_code == 0, done.output
    assert "stored, halved" in done.output
    assert "+0.0000" in done.output
    done = CliRunner().invoke(app, ["explain", "binarise", str(run), "--steps", "20", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads((run / "binarised.json").read_text())
    assert [n["site"] for n in found["nodes"]] == list(PLANTED_NODES)
    assert found["loss_before"] == pytest.approx(found["evidence"][0]["nulls"][1]["value"])
    shown = CliRunner().invoke(app, ["explain", "binarise", str(run), "--steps", "20"])
    assert "All nodes at once" in shown.output


def test_binarise_wants_the_runs_own_model_and_sound_options(model: LoadedModel, viz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    commands.import_openai_viz(viz, out=run, model=saved(model, tmp_path / "m"), answers=(" L", " R"))
    other = saved(planted_model(decoys=False), tmp_path / "other")
    with pytest.raises(BadInput, match="the model the circuit was found in"):
        commands.binarise(run, model=other)
    with pytest.raises(BadInput, match="steps"):
        commands.binarise(run, steps=1)
