"""The same discovery gives the same circuit, and is run once for each question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rediscovery_helpers import QUICK, channel_trial, edge_trial
from verify_helpers import circuit_of

from gossamer.circuit import Circuit
from gossamer.discover import acdc, acdc_config, consensus, consensus_config, eap, random_config, random_edges
from gossamer.errors import BadInput, Unsupported
from gossamer.models import LoadedModel
from gossamer.record import Record
from gossamer.registry import config_kind, method
from gossamer.task import Task
from gossamer.verify import ChannelTrial
from gossamer.verify.rediscovery import cut_to, discovery_of, user_folder

TRIAL = edge_trial()


def same(a: Circuit, b: Circuit) -> bool:
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("nodes", "src", "dst", "matrix"))


def test_edges_are_found_again_whatever_returns_them() -> None:
    model, task, graph = TRIAL.model, TRIAL.task, TRIAL.graph()
    scores = eap(model, task)
    agreed = consensus(model, task, consensus_config(method="eap", edges=30, resamples=2, options={"pairs": 8})).circuit
    drawn = random_edges(model, task, random_config(seed=3)).top(20, connected=False)
    for circuit in (
        scores.top(40), scores.top(7, connected=False), agreed, drawn,
        acdc(model, task, acdc_config(threshold=0.3, pairs=4)),
    ):  # fmt: skip
        found = discovery_of(TRIAL.retried(circuit)).run(model, task)
        assert found.reached
        assert same(found.circuit, circuit)
    assert cut_to(scores, graph.n_edges, True).n_edges == scores.top(graph.n_edges).n_edges
    assert not discovery_of(TRIAL).seeded
    assert discovery_of(TRIAL.retried(drawn)).seeded
    assert not same(discovery_of(TRIAL.retried(drawn)).run(model, task, seed=4).circuit, drawn)


def test_a_pruning_is_run_with_all_its_penalties(planted: LoadedModel, planted_pairs: Task) -> None:
    trial = channel_trial(planted, planted_pairs)
    discovery = discovery_of(trial)
    assert discovery.config.model_dump()["k_coef"] == QUICK["k_coef"]
    assert discovery.notes == ""
    found = discovery.run(planted, planted_pairs)
    assert found.reached
    assert same(found.circuit, trial.circuit)
    assert found.loss is not None
    assert found.loss < 0.15
    more = discovery_of(trial, steps=5, gentler=True)
    assert more.config.model_dump()["k_coef"] == (*QUICK["k_coef"], min(QUICK["k_coef"]) / 4)
    assert f"the penalty {min(QUICK['k_coef']) / 4:g} too" in more.notes
    assert f"5 steps, those of the circuit for {QUICK['steps']}" in more.notes
    impossible = trial.circuit.record.model_copy(
        update={"config": {**trial.circuit.record.config, "target_loss": 1e-9}}
    )
    missed = discovery_of(trial.retried(replace(trial.circuit, record=impossible)), steps=5)
    assert not missed.run(planted, planted_pairs).reached


def test_what_was_found_is_kept_and_damage_is_not_believed(
    tmp_path: Path, planted: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def counted(model: object, task: Task, config: object = None, *, progress: object = None) -> object:
        runs.append(task.version)
        return eap(model, task, config)  # type: ignore[arg-type]

    counted.__annotations__ = eap.__annotations__
    counted.__globals__["EAPConfig"] = config_kind(eap)
    monkeypatch.setitem(method._known, "eap", counted)
    model, task = TRIAL.model, TRIAL.task
    discovery = discovery_of(replace(TRIAL, cache=tmp_path))
    first, again = discovery.run(model, task), discovery.run(model, task)
    assert len(runs) == 1
    assert same(first.circuit, again.circuit)
    assert (again.reached, again.loss) == (first.reached, first.loss)
    (entry,) = tmp_path.iterdir()
    good = entry.read_bytes()
    for bad in (good[: len(good) // 2], b"", good[:-8] + bytes(8)):
        entry.write_bytes(bad)
        assert same(discovery.run(model, task).circuit, first.circuit)
    assert len(runs) == 4
    assert [p.name for p in tmp_path.iterdir()] == [entry.name]
    discovery.run(model, replace(task, train=task.train[1:]))
    smaller = TRIAL.circuit.only(np.arange(9))
    discovery_of(replace(TRIAL, circuit=smaller, cache=tmp_path)).run(model, task)
    assert len(runs) == 6
    blocked = replace(discovery, folder=entry)  # a file where the folder should be
    assert same(blocked.run(model, task).circuit, first.circuit)


def test_the_folder_is_the_one_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = Record.now(method="", config={}, seed=0).model_copy(update={"dirty": None})
    monkeypatch.setattr(Record, "now", classmethod(lambda cls, **fields: clean))
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "own"))
    assert user_folder() == tmp_path / "own" / "rediscovered"
    monkeypatch.delenv("GOSSAMER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "gossamer" / "rediscovered"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_folder() == Path.home() / ".cache" / "gossamer" / "rediscovered"
    clean = clean.model_copy(update={"dirty": True})
    assert user_folder() is None


def test_what_no_method_found_cannot_be_found_again(planted: LoadedModel, planted_pairs: Task) -> None:
    circuit = circuit_of(planted, ("final_resid:6",))
    trial = ChannelTrial(
        model=planted, circuit=circuit, task=planted_pairs, heldout=planted.encode(planted_pairs.heldout[:4])
    )
    with pytest.raises(Unsupported, match="repeating the discovery 'by hand'"):
        discovery_of(trial)
    nodes = circuit.record.model_copy(update={"method": "activation-patching", "config": {}})
    with pytest.raises(Unsupported, match="neither scores of edges nor a circuit"):
        discovery_of(TRIAL.retried(replace(TRIAL.circuit, record=nodes))).run(TRIAL.model, TRIAL.task)
    wrong = circuit.record.model_copy(update={"method": "eap", "config": {"pears": 3}})
    with pytest.raises(BadInput, match="record of eap does not hold together: pears"):
        discovery_of(TRIAL.retried(replace(TRIAL.circuit, record=wrong)))
    other = TRIAL.circuit.record.model_copy(update={"task": "another", "task_version": "7"})
    assert "found on another 7" in discovery_of(TRIAL.retried(replace(TRIAL.circuit, record=other))).notes
    assert {name for name in method if config_kind(method[name]) is None} == set()
