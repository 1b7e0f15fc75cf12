"""Heads that look where they did, a head that turns uniform, and circuits without heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from drift_helpers import LOOKING_NODES, Bare, looking_model, trial_of, whole_circuit
from taught import she_he, taught
from toys import PLANTED_NODES

from gossamer.circuit import Circuit
from gossamer.models.huggingface import Blocks, Decoder, channels_of
from gossamer.record import Record
from gossamer.verify import ChannelTrial, EdgeTrial
from gossamer.verify.attention_divergence import attention_divergence
from gossamer.verify.edge_trial import ends_of
from gossamer.verify.trial import Trial

LOOKING = looking_model()


def test_a_circuit_with_its_queries_and_keys_looks_where_the_model_does() -> None:
    for nodes in (LOOKING_NODES, whole_circuit(LOOKING)):
        found = attention_divergence(trial_of(LOOKING, nodes))
        assert found.value == pytest.approx(0, abs=1e-6)
        assert found.verdict == "pass"


def test_without_queries_and_keys_the_head_turns_uniform() -> None:
    trial = trial_of(LOOKING)  # PLANTED_NODES: the value, not where to look for it
    found = attention_divergence(trial)
    whole = LOOKING.attention(trial.heldout)[0][:, 0]  # head 0
    last = trial.heldout.last
    rows = torch.arange(len(last))
    uniform = (torch.arange(whole.shape[1]) <= last[:, None]) / (last + 1)[:, None]
    wanted = 0.5 * (whole[rows, last] - uniform).abs().sum(-1).mean()
    assert found.value == pytest.approx(float(wanted), abs=1e-6)
    assert found.verdict == "fail"
    assert "Uniform inside the circuit alone: a0.h0." in found.note
    assert "1 heads" in found.note
    (null,) = [n for n in found.nulls if n.name == trial.null]
    assert null.n == 10
    assert attention_divergence(trial, most=0.9).verdict == "pass"


def test_numbers_do_not_change_with_what_runs_together() -> None:
    trial = trial_of(LOOKING)
    some = attention_divergence(trial, pairs=20)  # 16 and 4
    shorter = attention_divergence(trial.on(trial.task.heldout[:20]))
    assert some.value == pytest.approx(shorter.value, abs=1e-6)
    assert attention_divergence(trial) == attention_divergence(trial)


def edge_trial(model: Decoder | Blocks, kept: np.ndarray) -> EdgeTrial:
    task, full = she_he(), ends_of(model.graph(), by_hand())[1]
    circuit = Circuit.from_edges(model.graph(), kept, np.zeros(len(kept)), record=full.record)
    return EdgeTrial(
        model=model, circuit=circuit, task=task, heldout=model.encode(task.heldout[:6]),
        training=model.encode(task.train[:8]),
    )  # fmt: skip


def by_hand() -> Record:
    return Record.now(method="by hand", config={}, seed=0, model="taught")


@pytest.mark.parametrize("model", [taught(), Blocks(taught())], ids=["heads", "blocks"])
def test_heads_of_a_decoder(model: Decoder | Blocks) -> None:
    graph = model.graph()
    every = np.arange(graph.n_edges)
    assert attention_divergence(edge_trial(model, every), draws=2).value == pytest.approx(0, abs=1e-6)
    reads = np.array([graph.layout.locations[d][0][0] == "a" for d in graph.dst])
    inner = edge_trial(model, every[~reads])  # attention reads the other prompt of the pair
    found = attention_divergence(inner, draws=2)
    batch = inner.heldout
    whole = trial_patterns(inner, np.ones(len(every), dtype=bool))
    other = whole.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    rows = torch.arange(len(batch.last))
    distance = 0.5 * (whole - other).abs().sum(-1)[rows, batch.last].flatten(1)
    assert found.value is not None
    assert 0 < found.value <= float(distance.max())
    names = found.note.split("over its largest: ")[1]
    worst = int(names[1]) * 4 + int(names[4])
    assert f"{float(distance.mean(0)[worst]):.2f}" in names


def test_heads_of_a_decoder_by_their_channels() -> None:
    model, task = channels_of(taught(), she_he()), she_he()
    graph, pairs = model.graph(), model.encode(task.heldout[:6])
    names = [str(graph.layout.site(i)) for i in range(graph.layout.n_nodes)]
    record = by_hand()

    def trial(left_out: str) -> ChannelTrial:
        nodes = np.array([i for i, name in enumerate(names) if not name.startswith(left_out)])
        circuit = Circuit(
            layout=graph.layout, nodes=nodes, src=nodes[:0], dst=nodes[:0], weight=np.zeros(0), matrix=nodes[:0],
            matrices=graph.matrices, record=record,
        )  # fmt: skip
        return ChannelTrial(model=model, circuit=circuit, task=task, heldout=pairs)

    assert attention_divergence(trial("none"), draws=1).value == 0
    found = attention_divergence(trial("1.attn.k"), draws=1)  # keys all alike, but for rotary positions
    alike = {"1.attn.k": torch.zeros(graph.layout.width("1.attn.k"))}
    whole, own = (m[1][torch.arange(len(pairs.last)), :, pairs.last] for m in (
        model.attention(pairs), model.attention(pairs, masks=alike)
    ))  # fmt: skip
    for head, moved in enumerate((0.5 * (whole - own).abs().sum(-1).mean(0)).tolist()):
        assert f"a1.h{head} {moved:.2f} (" in found.note
    assert "a0.h0 0.00 (" in found.note


def trial_patterns(trial: Trial, kept: np.ndarray) -> torch.Tensor:
    return trial.attention(kept, 0, trial.n_pairs).seen


def test_circuits_and_models_that_show_no_heads() -> None:
    silent = attention_divergence(trial_of(LOOKING, ("0.attn.act_in:3", "final_resid:6")))
    assert silent.verdict == "not measured"
    assert "no attention head" in silent.note
    trial = trial_of(LOOKING, PLANTED_NODES)
    bare = attention_divergence(replace(trial, model=Bare(LOOKING)))
    assert bare.verdict == "not measured"
    assert "attention patterns of looking" in bare.note
    assert attention_divergence(trial.on(trial.task.heldout[:1])).verdict == "not measured"


def test_progress_ends_at_all_runs() -> None:
    said: list[tuple[int, int, float]] = []
    attention_divergence(trial_of(LOOKING, progress=lambda *args: said.append(args)), draws=2, pairs=20)
    assert [s[:2] for s in said] == [(i, 6) for i in range(1, 7)]  # 3 sets, pairs in two parts
