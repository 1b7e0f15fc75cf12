"""Head graphs as other tools count them: published counts, the sum over a group's heads, what comes in with a group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    StableLmConfig,
    StableLmForCausalLM,
)

from gossamer.discover import EAPIGConfig, eap, eap_ig
from gossamer.errors import BadInput
from gossamer.formats.heads import PerQueryHead, shape_of
from gossamer.graph import Graph, HeadShape, head_graph
from gossamer.models.huggingface import Decoder, decoder_of
from gossamer.record import Record
from gossamer.task import Example, Task

RECORD = Record(method="test", config={"file": "f"}, seed=0, details={"notes": []})
GROUPED = HeadShape(n_heads=4, n_groups=2, parallel=(False, True))
PUBLISHED = [
    (GPT2Config(), 158, 32_491, 32_491),
    (LlamaConfig(num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8), 1058, 1_592_881, 805_681),
    (Qwen2Config(num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2), 362, 179_749, 79_813),
    (Gemma2Config(num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4), 236, 74_218, 50_610),
]


@pytest.mark.parametrize(("config", "nodes", "edges", "ours"), PUBLISHED, ids=lambda c: getattr(c, "model_type", None))
def test_mib_counts_come_from_configs_alone(config: Any, nodes: int, edges: int, ours: int) -> None:
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    graph = head_graph(HeadShape(n_heads=heads, n_groups=groups, parallel=(False,) * config.num_hidden_layers))
    table = PerQueryHead.of(graph)
    assert (len(table.writers) + 1, table.n_edges, graph.n_edges) == (nodes, edges, ours)
    assert table.spread(np.ones(graph.n_edges)).sum() == edges
    assert table.members.sum() == edges


@pytest.mark.parametrize(
    "shape",
    [
        GROUPED, HeadShape(n_heads=1, n_groups=1, parallel=(False,)),
        HeadShape(n_heads=3, n_groups=1, parallel=(True,)),
        HeadShape(n_heads=2, n_groups=2, parallel=(True, False, False)),
    ],
)  # fmt: skip
def test_a_shape_comes_back_from_its_graph(shape: HeadShape) -> None:
    assert shape_of(head_graph(shape)) == shape


def test_part_of_a_graph_is_refused() -> None:
    graph = head_graph(GROUPED)
    arrays = {k: getattr(graph, k)[:-1] for k in ("src", "dst", "matrix")}
    with pytest.raises(BadInput, match="Expected the whole graph of a decoder"):
        shape_of(Graph(layout=graph.layout, matrices=graph.matrices, **arrays))


def named(table: PerQueryHead, name: str) -> tuple[int, int]:
    source, target = name.split("->")
    return table.writers[source], table.columns[target]


def test_a_group_by_hand() -> None:
    """One layer, two heads, one group: the group's key edge is both heads' key edges."""
    table = PerQueryHead.of(head_graph(HeadShape(n_heads=2, n_groups=1, parallel=(False,))))
    assert (table.n_edges, table.graph.n_edges) == (13, 11)
    scores, kept = np.zeros(table.exists.shape), np.zeros(table.exists.shape, dtype=bool)
    for name, score in {"input->a0.h0<k>": 1.5, "input->a0.h1<k>": -0.25, "input->a0.h0<q>": 4.0}.items():
        scores[named(table, name)] = score
    for name in ("input->a0.h1<k>", "a0.h0->logits"):
        kept[named(table, name)] = True
    circuit = table.circuit(kept, scores, RECORD)
    starts = table.graph.layout.starts
    assert list(zip(circuit.src.tolist(), circuit.dst.tolist(), circuit.weight.tolist(), strict=True)) == [
        (starts["input"], starts["a0.g0"], 1.25), (starts["a0.h0"], starts["logits"], 0.0),
    ]  # fmt: skip
    assert any(
        "1 edges of the other heads came in" in note and "2 edges" in note for note in circuit.record.details["notes"]
    )
    both = kept.copy()
    both[named(table, "input->a0.h0<k>")] = True
    assert table.circuit(both, scores, RECORD).record.details["notes"] == []
    with pytest.raises(BadInput, match="keeps no edge"):
        table.circuit(np.zeros_like(kept), scores, RECORD)


@pytest.fixture(scope="module")
def twins() -> tuple[Decoder, Decoder]:
    """A StableLM (its norms stay in float64) with two key-value groups, and the same function without groups."""
    words = "the boy girl said was that here there she he".split()
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["?", *words])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config: dict[str, Any] = {
        "vocab_size": 11, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "attn_implementation": "eager", "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    grouped = StableLmForCausalLM(StableLmConfig(**config, num_key_value_heads=2)).double()
    whole = StableLmForCausalLM(StableLmConfig(**config, num_key_value_heads=4)).double()
    weights = grouped.state_dict()
    for name in [n for n in weights if "k_proj" in n or "v_proj" in n]:
        weights[name] = weights[name].view(2, 1, 8, 32).expand(2, 2, 8, 32).reshape(32, 32)
    whole.load_state_dict(weights)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return decoder_of(grouped, fast, "grouped"), decoder_of(whole, fast, "whole")


def test_a_groups_score_is_the_sum_of_its_query_heads(twins: tuple[Decoder, Decoder]) -> None:
    """For EAP and EAP-IG, exactly; their mean, the control, is another number."""
    pairs = tuple(
        Example(
            clean=f"the girl {verb} here that", counterfactual=f"the boy {verb} here that", answer=" she",
            wrong_answer=" he",
        )
        for verb in ("said", "was")
    )  # fmt: skip
    task = Task(name="t", version="1", description="", train=pairs, heldout=pairs)
    grouped, whole = twins
    table = PerQueryHead.of(grouped.graph())
    assert table.n_edges == whole.graph().n_edges
    for method, config in ((eap, None), (eap_ig, EAPIGConfig(steps=3))):
        ours = method(grouped, task, config).values  # type: ignore[operator]
        theirs = PerQueryHead.of(whole.graph()).spread(method(whole, task, config).values)  # type: ignore[operator]
        assert np.abs(ours).max() > 1e-2
        assert np.allclose(table.sums(theirs), ours, rtol=0, atol=1e-12)
        assert not np.allclose(table.sums(theirs) / table.members, ours, rtol=0, atol=1e-3)
