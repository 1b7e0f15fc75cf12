"""Methods at chosen positions: each against plain runs, with what their record says, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from patching_helpers import made, number_pairs

from gossamer.ablation import methodology, of_edges
from gossamer.circuit import Circuit
from gossamer.discover import (
    ACDCConfig,
    ActivationPatchingConfig,
    ConsensusConfig,
    EAPConfig,
    EAPIGConfig,
    EdgeMaskConfig,
    EdgePatchingConfig,
    PathPatchingConfig,
    acdc,
    activation_patching,
    ceap,
    consensus,
    eap,
    eap_ig,
    eap_ig_activations,
    edge_mask,
    edge_patching,
    path_effects,
    path_patching,
)
from gossamer.discover.acdc import _OneByOne, metric_of
from gossamer.discover.activation_patching import edges_of
from gossamer.discover.eap import per_pair
from gossamer.discover.eap_ig_activations import sublayers
from gossamer.errors import BadInput, Unsupported
from gossamer.models.huggingface import Decoder
from gossamer.replacement import resampled
from gossamer.task import Example, Task, sides
from gossamer.verify import circuit_faithfulness
from gossamer.verify.edge_faithfulness import metric_values
from gossamer.verify.edge_trial import edge_values

UNEVEN = tuple(
    Example(clean=a, counterfactual=b, answer=" 5", wrong_answer=" 9", spans={"who": ends})
    for a, b, ends in (
        ("5 6 7 8 9", "4 3 9 8", ((2, 5), (4, 7))),
        ("7 3 8", "2 4 6 5 9", ((0, 3), (6, 9))),
        ("7 3 8 8", "2 4 6", ((0, 1), (2, 3))),
    )
)
TASK = Task(name="uneven", version="1", description="", train=UNEVEN, heldout=UNEVEN[::-1])


@pytest.fixture(scope="module")
def llama() -> Decoder:
    return made("llama")


def effects(d: Decoder, sets: list[np.ndarray], positions: str = "who", task: Task = TASK) -> np.ndarray:
    """The mean change of the logit difference, each set of edges ablated by a whole run, [sets]."""
    clean, other = sides(d.encode(task.train, positions=positions))
    reference, before = resampled(d, clean, other), per_pair(EAPConfig(), clean, d.writes(clean)[1])
    found = []
    for edges in sets:
        share = torch.zeros(d.graph().n_edges).double()
        share[torch.from_numpy(edges)] = 1
        with torch.no_grad():
            found.append(float((per_pair(EAPConfig(), clean, d.patched(clean, share, reference)) - before).mean()))
    return np.array(found)


def test_exact_patching_of_edges_and_nodes_is_whole_runs(llama: Decoder) -> None:
    n = llama.graph().n_edges
    edges = edge_patching(llama, TASK, EdgePatchingConfig(positions="who"))
    assert np.allclose(edges.values, effects(llama, [np.array([e]) for e in range(n)]), atol=1e-6)
    assert edges.record.details["methodology"] == of_edges(positions="who").as_dict()
    nodes = activation_patching(llama, TASK, ActivationPatchingConfig(positions="who"))
    sets = [edges_of(llama.graph(), name) for name, _ in nodes.layout.locations]
    assert np.allclose(nodes.values, effects(llama, sets), atol=1e-6)
    last = edge_patching(llama, TASK, EdgePatchingConfig(positions="last"))
    assert not np.allclose(edges.values, last.values, atol=1e-3)
    assert edge_patching(llama, number_pairs(4)).record.details["methodology"] == "acdc-resample"


def test_eap_ig_out_of_the_input_and_of_sublayers_sums_to_their_patching(llama: Decoder) -> None:
    of_sublayer = sublayers(llama.graph("head"))
    wanted = effects(llama, of_sublayer)
    moved = eap_ig_activations(llama, TASK, EAPIGConfig(steps=16, positions="who"))
    for edges, whole in zip(of_sublayer, wanted, strict=True):
        assert float(moved.values[edges].sum()) == pytest.approx(float(whole), abs=0.05 * float(np.abs(wanted).max()))
    path = eap_ig(llama, TASK, EAPIGConfig(steps=16, positions="who"))
    assert np.allclose(path.values[of_sublayer[0]], moved.values[of_sublayer[0]], atol=1e-5)
    assert path.record.details["methodology"]["positions"] == "who"
    plain = eap(llama, TASK, EAPConfig(positions="who", pairs_at_once=1)).values
    assert np.allclose(plain, eap_ig(llama, TASK, EAPIGConfig(steps=1, positions="who")).values, atol=1e-9)
    assert abs(plain[of_sublayer[0]].sum() - wanted[0]) > 0.05 * abs(wanted[0])


@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_acdc_is_the_sequential_algorithm_on_whole_runs(llama: Decoder, ablation: str) -> None:
    config = ACDCConfig(positions="who", threshold=0.003, ablation=ablation)  # type: ignore[arg-type]
    found = acdc(llama, TASK, config)
    graph, batch = llama.graph(), llama.encode(TASK.train, positions="who")
    clean, other = sides(batch)
    reference = resampled(llama, clean, other) if ablation == "resample" else llama.writes(clean)[0] * 0
    score = metric_of(config, clean, llama.writes(clean)[1])
    share, now, kept = torch.zeros(graph.n_edges).double(), 0.0, []
    for stage in llama.removals(clean, reference).stages():
        for edge in stage.tolist():
            share[edge] = 1
            with torch.no_grad():
                value = score(llama.patched(clean, share, reference)[None])[0]
            if value - now >= config.threshold:
                kept.append(edge)
                share[edge] = 0
            else:
                now = value
    assert sorted(kept) == graph.numbers(found.src, found.dst, found.matrix).tolist()
    assert 0 < len(kept) < graph.n_edges
    runs = _OneByOne(llama, clean, reference)
    assert float((runs.clean - llama.writes(clean)[1]).abs().max()) < 1e-9


def test_masks_and_consensus_take_positions(llama: Decoder) -> None:
    config = EdgeMaskConfig(positions="who", steps=5, batch=3)
    masks = edge_mask(llama, TASK, config)
    assert masks.record.details["methodology"] == of_edges(positions="who").as_dict()
    assert not np.array_equal(
        masks.values, edge_mask(llama, TASK, config.model_copy(update={"positions": "last"})).values
    )
    drawn = consensus(llama, TASK, ConsensusConfig(method="eap", options={"positions": "who"}, edges=20, resamples=3))
    assert np.allclose(drawn.scores.values, eap(llama, TASK, EAPConfig(positions="who")).values, atol=1e-9)


def test_what_cannot_be_told_at_chosen_positions_is_refused(llama: Decoder) -> None:
    with pytest.raises(Unsupported, match="conductance at positions 'who'"):
        ceap(llama, TASK, EAPIGConfig(positions="who"))
    with pytest.raises(Unsupported, match="path patching at positions 'who'"):
        path_patching(llama, TASK, PathPatchingConfig(positions="who"))
    with pytest.raises(Unsupported, match="paths at positions 'last'"):
        path_effects(llama, llama.encode(UNEVEN, positions="last"), ["input->logits"])
    with pytest.raises(BadInput, match=r"as many tokens, 3 of 3 pairs do not.*mark spans"):
        llama.encode(UNEVEN)
    with pytest.raises(BadInput, match="its prompts have 5 and 4 tokens, not as many"):
        eap(llama, TASK)
    with pytest.raises(BadInput, match="Unknown positions 'whom': did you mean who"):
        eap(llama, TASK, EAPConfig(positions="whom"))
    bare = replace(TASK, train=(UNEVEN[0], replace(UNEVEN[1], spans={}), UNEVEN[2]))
    with pytest.raises(BadInput, match=r"span 'who' in both prompts of every pair, 1 of 3 pairs have none.*pair 2"):
        eap(llama, bare, EAPConfig(positions="who"))
    longer = replace(UNEVEN[0], spans={"who": ((2, 5), (4, 5))})
    with pytest.raises(BadInput, match=r"as many tokens of the span 'who'.*pair 1 \(2 and 1 tokens\)"):
        llama.encode((longer,), positions="who")
    twice = replace(UNEVEN[0], spans={"who": ((2, 50), (4, 7))})
    with pytest.raises(BadInput, match="span 'who' of the clean prompt is characters 2 to 50 of 9"):
        llama.encode((twice,), positions="who")


def test_a_trial_is_at_the_positions_of_its_pairs(llama: Decoder) -> None:
    circuit = eap(llama, TASK, EAPConfig(positions="who")).top(40, connected=False)
    pairs = llama.encode(TASK.heldout, positions="who")
    kept = np.zeros((1, llama.graph().n_edges), dtype=bool)
    kept[0, llama.graph().numbers(circuit.src, circuit.dst, circuit.matrix)] = True
    (values,) = metric_values(llama, pairs, kept)
    clean, other = sides(pairs)
    with torch.no_grad():
        logits = llama.patched(clean, torch.from_numpy(~kept[0]).double(), resampled(llama, clean, other))
    assert np.allclose(values, per_pair(EAPConfig(), clean, logits).numpy(), atol=1e-6)
    found = circuit_faithfulness(llama, pairs, circuit)
    assert found.methodology == of_edges(positions="who").as_dict()
    with pytest.raises(BadInput, match="chosen positions are 'all', as the methodology has them, got 'who'"):
        edge_values(llama, pairs, (~kept).astype(float), of_edges(), ("kl",))


def test_channels_are_ablated_everywhere(llama: Decoder) -> None:
    circuit: Circuit = eap(llama, TASK, EAPConfig(positions="who")).top(40, connected=False)
    with pytest.raises(Unsupported, match="ablation of channels at positions 'last'"):
        circuit.as_ablation(replace(methodology("gao-mean"), positions="last"))
