"""A run beside its twin: the same question or no comparison, and a target that was not reached is said so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys import planted_model, planted_task

from gossamer import commands
from gossamer.commands.bundle_of_run import _twin_view
from gossamer.commands.run_folder import RECORD, RunRecord, RunResult, write_json
from gossamer.errors import BadInput
from gossamer.models.files import save_model
from gossamer.record import Record
from gossamer.show import read_bundle


def about(**changes: object) -> RunRecord:
    record = Record(method="prune", config={}, seed=0, model="dense", task="quotes", task_version="1")
    result = RunResult(
        reached=True, target_loss_nats=0.15, loss_train_nats=0.14, loss_heldout_nats=0.145, loss_full_nats=0.1,
        accuracy_circuit=1, accuracy_full=1, nodes=200, edges=1400, curve=(), trials=(),
    )  # fmt: skip
    return RunRecord(
        record=record.model_copy(update={k: v for k, v in changes.items() if k in Record.model_fields}),
        result=result.model_copy(update={k: v for k, v in changes.items() if k in RunResult.model_fields}),
        model_source=str(changes.get("model_source", "/gone")), task_source="quotes",
    )  # fmt: skip


def saved(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    write_json(about(**changes), folder / RECORD)
    return folder


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    m = planted_model()
    return save_model(
        m.model, tmp_path / "planted", tokenizer=m.tokenizer, reference=m.reference,
        record={"details": {"validation_loss_nats": 3.5}},
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"task": "brackets"}, "task quotes, got task brackets"),
        ({"task_version": "2"}, "task version 1, got task version 2"),
        ({"target_loss_nats": 0.3}, r"target loss 0\.15 nats, got target loss 0\.3 nats"),
        ({"task": "brackets", "target_loss_nats": 0.3}, r"task quotes, target loss 0\.15 nats, got task brackets, "),
    ],
)
def test_a_twin_run_of_another_question_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        _twin_view(saved(tmp_path / "twin", **changes), about())


def test_a_model_is_not_its_own_twin(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="it is the same model"):
        _twin_view(saved(tmp_path / "twin", model_sha256="1" * 64), about(model_sha256="1" * 64))


@pytest.mark.parametrize("reached", [True, False])
def test_a_twin_says_whether_it_reached_the_target(tmp_path: Path, reached: bool) -> None:
    twin = _twin_view(saved(tmp_path / "twin", reached=reached), about())
    assert (twin.reached, twin.n_edges) == (reached, 1400)


def test_a_twin_has_the_loss_of_its_model_while_that_is_there(tmp_path: Path, model_folder: Path) -> None:
    folder = saved(tmp_path / "twin", model_source=str(model_folder))
    assert _twin_view(folder, about()).val_loss_nats == 3.5
    saved(folder, model_source=str(model_folder), model_sha256="of other weights")
    assert _twin_view(folder, about()).val_loss_nats is None
    saved(folder, model_source=str(model_folder))
    (model_folder / "model.safetensors").write_bytes(b"damaged")
    assert _twin_view(folder, about()).val_loss_nats is None
    model_folder.rename(tmp_path / "elsewhere")
    assert _twin_view(folder, about()).val_loss_nats is None


def test_a_run_that_missed_its_target_makes_a_bundle_that_says_so(tmp_path: Path, model_folder: Path) -> None:
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer,
         "split": split}
        for split, part in (("train", planted_task().train), ("heldout", planted_task().heldout)) for e in part
    ]  # fmt: skip
    pairs = tmp_path / "sides.jsonl"
    pairs.write_text("\n".join(map(json.dumps, rows)))
    for name, target, reached in (("near", 0.6, True), ("far", 1e-9, False)):
        run = tmp_path / name
        commands.prune(model_folder, pairs, out=run, target_loss=target, steps=5, batch_pairs=16, k_coef=(1e-3,))
        commands.show(run)
        assert read_bundle(run / "bundle.json").circuit.reached is reached
