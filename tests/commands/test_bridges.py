"""`gossamer bridge perturb` as a command: pairs from a file, a bridge from a folder, one JSON object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys import planted_model, planted_task
from typer.testing import CliRunner

from gossamer import commands
from gossamer.cli.main import app
from gossamer.errors import BadInput
from gossamer.models.bridge import identity_bridge, save_bridge
from gossamer.models.files import save_model


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer,
         "split": split}
        for split, part in (("train", planted_task(16).train), ("heldout", planted_task(16).heldout)) for e in part
    ]  # fmt: skip
    path = tmp_path / "sides.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def bridge(tmp_path: Path) -> Path:
    """The planted model bridged to itself."""
    folder, m = tmp_path / "bridge", planted_model()
    folder.mkdir()
    for place in (folder / "sparse", tmp_path / "dense"):
        save_model(m.model, place, tokenizer=m.tokenizer, reference=m.reference, record={})
    details = {"dense_source": str(tmp_path / "dense"), "dense_sha256": m.hashes()[0]}
    save_bridge(identity_bridge(128, 2), folder, record={"model_sha256": m.hashes()[0], "details": details})
    return folder


def test_the_planted_node_is_found_and_moves_the_answer(bridge: Path, pairs: Path) -> None:
    found = commands.bridge_perturb(bridge, pairs, among="0.attn.act_in", rotations=19)
    assert found.nodes == ("0.attn.act_in:3",)
    assert found.chosen
    assert found.evidence.verdict == "pass"
    given = commands.bridge_perturb(bridge, pairs, nodes=found.nodes, rotations=19)
    assert not given.chosen
    assert given.evidence == found.evidence
    with pytest.raises(BadInput, match="Expected a site"):
        commands.bridge_perturb(bridge, pairs, nodes=("quote",))


def test_json_is_one_object_and_text_a_table(bridge: Path, pairs: Path) -> None:
    arguments = ["bridge", "perturb", str(bridge), str(pairs), "--node", "0.attn.act_in:3", "--rotations", "19"]
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    assert printed.exit_code == 0, printed.output
    assert len(json.loads(printed.stdout)["curve"]) == 11
    text = CliRunner().invoke(app, arguments).stdout
    assert "pass: moved by" in text
    assert "random rotation" in text
