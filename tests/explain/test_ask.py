"""Questions to a model and its circuit: equal to what checks measure, and interventions do what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import PLANTED_NODES, random_model

from gossamer.circuit import Calibration, Circuit
from gossamer.discover.prune import circuit_gap
from gossamer.errors import BadInput
from gossamer.explain import Change, ask
from gossamer.explain.live import spoken
from gossamer.models import LoadedModel
from gossamer.record import Record
from gossamer.site import Site
from gossamer.task import Example

PROMPT = "w1 left w2 w3"
PAIR = Example(clean=PROMPT, counterfactual="w1 right w2 w3", answer=" L", wrong_answer=" R")


def circuit_of(model: LoadedModel, nodes: list[int], calibration: Calibration | None = None) -> Circuit:
    graph = model.graph()
    record = Record(method="by-hand", config={}, seed=0, model=model.name, task="planted", task_version="1")
    return Circuit.from_nodes(graph, model.edge_weights(graph), nodes, record=record, calibration=calibration)


def planted_circuit(model: LoadedModel, calibration: Calibration | None = None) -> Circuit:
    return circuit_of(model, [model.layout.number(Site.parse(n)) for n in PLANTED_NODES], calibration)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("calibration", [None, Calibration(scale=1.7, shift=-0.4)])
def test_candidates_are_as_far_apart_as_the_checks_have_them(calibration: Calibration | None, cut: bool) -> None:
    model = random_model()
    rng = np.random.default_rng(0)
    circuit = circuit_of(model, rng.choice(model.layout.n_nodes, 150, replace=False).tolist(), calibration)
    circuit = circuit.only(np.arange(circuit.n_edges) % 3 > 0) if cut else circuit
    batch = model.encode([PAIR])
    found = ask(model, circuit, PROMPT, candidates=(" L", " R"))
    for said, gap in ((found.model, model.run(batch).gap), (found.circuit, circuit_gap(model, circuit, batch))):
        assert np.log(said.candidates[0] / said.candidates[1]) == pytest.approx(float(gap[0]), abs=1e-5)
    assert len(found.model.top) == 10
    assert found.tokens == tuple(batch.tokens[0].tolist())


def test_ablating_clamping_and_cutting_do_what_they_say(planted: LoadedModel) -> None:
    circuit = planted_circuit(planted)
    two = (" L", " R")

    def gap(*changes: Change) -> tuple[float, float]:
        found = ask(planted, circuit, PROMPT, changes, two)
        return tuple(float(np.log(s.candidates[0] / s.candidates[1])) for s in (found.model, found.circuit))  # type: ignore[return-value]

    whole = gap()
    assert min(whole) > 0.1
    edge = {"src": "0.attn.act_in:3", "dst": "0.attn.v:5", "matrix": "0.attn.c_attn.v"}
    mean = float(planted.means()["0.attn.act_in"][3])
    cut = gap(Change("cut", **edge))
    assert cut == pytest.approx(gap(Change("clamp", "0.attn.v:5", 2 * mean)), abs=1e-5)  # the edge's weight is 2
    assert cut == pytest.approx(gap(Change("cut", **edge), Change("cut", **edge)), abs=1e-6)
    assert cut == pytest.approx(gap(Change("ablate", "0.attn.act_in:3")), abs=1e-5)  # its only reader
    assert max(map(abs, np.subtract(cut, whole))) > 0.05
    flipped = gap(Change("clamp", "0.attn.v:5", 2.0), Change("clamp", "0.attn.v:5", -2.0))
    assert max(flipped) < -0.1, "the later of two changes holds, and the answer flips"
    reference = float(planted.means()["0.attn.v"][5])
    assert gap(Change("ablate", "0.attn.v:5")) == pytest.approx(gap(Change("clamp", "0.attn.v:5", reference)))


def test_traces_and_patterns_are_those_of_the_run() -> None:
    model = random_model()
    circuit = circuit_of(model, list(range(model.layout.n_nodes)))
    batch = model.encode([PAIR])
    found = ask(model, circuit, PROMPT, [Change("clamp", "1.attn.v:3", 0.5)])
    reads = model.run(batch, reads=["0.mlp.post_act", "1.attn.v"]).reads
    assert torch.equal(found.model.traces["0.mlp.post_act:7"], reads["0.mlp.post_act"][0, :, 7])
    assert found.model.traces["1.attn.v:3"].tolist() == [0.5] * len(found.tokens)
    attention = model.attention(batch)
    for layer in range(2):
        for head in range(4):
            assert torch.allclose(found.model.patterns[f"a{layer}.h{head}"], attention[layer, 0, head, :, :-1])
    for name, trace in found.model.traces.items():
        assert torch.allclose(trace, found.circuit.traces[name], atol=1e-6), "a circuit of everything is the model"


def test_every_problem_of_a_question_is_said(planted: LoadedModel) -> None:
    circuit = planted_circuit(planted)
    changes = [
        Change("ablate", "0.attn.v:999"), Change("ablate", "nowhere"), Change("clamp", "0.attn.v:5"),
        Change("clamp", "0.attn.v:6", -1.1e6),
        Change("cut", src="0.attn.act_in:4", dst="0.attn.v:5", matrix="0.attn.c_attn.v"),
        Change("cut", src="0.attn.act_in:3", dst="0.attn.v:5", matrix="0.mlp.c_fx"),
    ]  # fmt: skip
    with pytest.raises(BadInput) as error:
        ask(planted, circuit, "w1 " * 20, changes, ("w1 w2",))
    for part in ("at most 16 tokens, got 21", "'w1 w2' is 2", "0.attn.v:999", "'nowhere'", "clamp 0.attn.v:5",
                 "within 1,000,000 of 0 to clamp 0.attn.v:6 to, got -1100000.0",
                 "edges of this graph", "0.mlp.c_fx"):  # fmt: skip
        assert part in str(error.value)
    assert ask(planted, circuit, "").tokens == (planted.bos,)
    with pytest.raises(BadInput, match="finite logits, some are not"):
        spoken(torch.tensor([0.0, torch.nan]))
