"""A sweep finds what was planted, trains trials together as it would alone, and resumes without repeating one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from toys import PLANTED_NODES, planted_model, planted_task

from gossamer import commands
from gossamer.commands.reports import SweepReport
from gossamer.discover import PruneConfig, Pruned
from gossamer.discover.mask_training import train_masks
from gossamer.discover.sweep import Size, SweepConfig, open_storage, sweep
from gossamer.errors import BadInput
from gossamer.models import LoadedModel
from gossamer.models.files import save_model
from gossamer.task import Task

pytest.importorskip("optuna")
BASE = PruneConfig(steps=150, batch_pairs=16)
CONFIG = SweepConfig(trials=6, batch=3, target_losses=(0.15, 0.3), base=BASE)


def finished(path: Path, model: LoadedModel, task: Task) -> list[tuple[int, dict[str, float]]]:
    import optuna

    storage = open_storage(str(path))
    (summary,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=summary.study_name, storage=storage).trials
    return [(t.number, t.params) for t in trials if t.state == optuna.trial.TrialState.COMPLETE]


def test_the_planted_circuit_is_the_best_at_every_target(
    tmp_path: Path, planted: LoadedModel, planted_pairs: Task
) -> None:
    kept: dict[float, tuple[Size, Pruned]] = {}

    def keep(size: Size, found: Pruned) -> None:
        before = kept.get(size.target_loss)
        assert before is None or size.key < before[0].key
        kept[size.target_loss] = (size, found)

    swept = sweep(planted, planted_pairs, CONFIG, open_storage(str(tmp_path / "j")), keep=keep)
    assert swept.finished == 6
    for size, config in swept.best:
        assert size.reached
        assert (size.nodes, size.edges) == (kept[size.target_loss][1].circuit.n_nodes, kept[size.target_loss][0].edges)
        assert {str(s) for s in kept[size.target_loss][1].circuit.sites} <= set(PLANTED_NODES)
        assert len(config.k_coef) == 1


def test_trials_of_other_options_trained_together_equal_each_alone(planted: LoadedModel, planted_pairs: Task) -> None:
    configs = [
        PruneConfig(steps=40, batch_pairs=16, k_coef=(3e-3,), lr=3e-2, temperature=0.7, beta2=0.9, weight_decay=0.01),
        PruneConfig(steps=40, batch_pairs=16, k_coef=(1e-3, 1e-2), init_noise_bias=0.3, warmup_fraction=0.2),
    ]
    graph, train = planted.graph("channel"), planted.encode(planted_pairs.train)
    together = train_masks(planted, graph, train, configs)
    alone = torch.cat([train_masks(planted, graph, train, [c]) for c in configs])
    assert torch.allclose(together, alone, atol=1e-5)
    with pytest.raises(BadInput, match="of one steps"):
        train_masks(planted, graph, train, [configs[0], PruneConfig(steps=41, batch_pairs=16)])


def test_an_interrupted_sweep_goes_on_and_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, planted: LoadedModel, planted_pairs: Task
) -> None:
    class Killed(Exception):
        pass

    def kill(step: int, total: int, loss: float) -> None:
        if step > 3 * BASE.steps:  # in the second batch
            raise Killed

    storage = open_storage(str(tmp_path / "a"))
    with pytest.raises(Killed):
        sweep(planted, planted_pairs, CONFIG, storage, progress=kill)
    before = finished(tmp_path / "a", planted, planted_pairs)
    assert len(before) == 3
    swept = sweep(planted, planted_pairs, CONFIG, open_storage(str(tmp_path / "a")))
    after = finished(tmp_path / "a", planted, planted_pairs)
    assert after[:3] == before
    assert len(after) == swept.finished == 6
    whole = sweep(planted, planted_pairs, CONFIG, open_storage(str(tmp_path / "b")))
    assert swept.best == whole.best
    assert [p for _, p in after] == [p for _, p in finished(tmp_path / "b", planted, planted_pairs)]


def test_the_command_writes_runs_that_replay_and_a_second_call_goes_on(tmp_path: Path) -> None:
    m = planted_model()
    save_model(m.model, tmp_path / "m", tokenizer=m.tokenizer, reference=m.reference, record={})
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer,
         "split": split}
        for split, part in (("train", planted_task().train), ("heldout", planted_task().heldout)) for e in part
    ]  # fmt: skip
    (tmp_path / "sides.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def go(trials: int, target_losses: tuple[float, ...] = (0.3,), **more: object) -> SweepReport:
        return commands.sweep_prune(
            tmp_path / "m", [tmp_path / "sides.jsonl"], out=tmp_path / "s", trials=trials, batch=2, seeds=2,
            steps=120, batch_pairs=16, target_losses=target_losses, **more,
        )  # fmt: skip

    first = go(2)
    assert [(b.task, b.seed, b.target_loss, b.reached) for b in first.best] == [
        ("sides", 0, 0.3, True), ("sides", 1, 0.3, True),
    ]  # fmt: skip
    for b in first.best:
        assert b.run is not None
        assert b.loss_heldout is not None
        assert commands.replay(b.run, model=str(tmp_path / "m")).agrees
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["trials"] == 4
    second = go(4)
    assert second.trials == 8
    assert all(b.edges <= a.edges for a, b in zip(first.best, second.best, strict=True))
    with pytest.raises(BadInput, match="another target_losses"):
        go(4, target_losses=(0.1,))
    with pytest.raises(BadInput, match="not search, got lr"):
        go(4, lr=0.1)


def test_without_optuna_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna.storages", None)
    with pytest.raises(BadInput, match=r"\[sweep\]"):
        open_storage(str(tmp_path / "j"))


def test_a_storage_that_cannot_be_opened_is_one_clear_error() -> None:
    with pytest.raises(BadInput, match="Cannot open the storage"):
        open_storage("nosuchdatabase://x/y")
