"""Laws of EAP and EAP-IG: completeness at the input, invariance to batching, and a circuit in a pretrained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from edge_helpers import metric_under
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gossamer.circuit import Circuit
from gossamer.discover import EAPConfig, EAPIGConfig, eap, eap_ig
from gossamer.errors import BadInput
from gossamer.models.huggingface import Decoder, decoder_of, load_decoder
from gossamer.task import Example, Task

STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260k" / "hf"
WORDS = "the boy girl boys girls said was that here there she he they quite often".split()


def pair(clean: str, counterfactual: str) -> Example:
    return Example(clean=clean, counterfactual=counterfactual, answer=" she", wrong_answer=" he")


def she_he(verbs: list[str], places: list[str]) -> tuple[Example, ...]:
    return tuple(pair(f"the girl {v} {p} that", f"the boy {v} {p} that") for v in verbs for p in places)


TASK = Task(
    name="she-he", version="1", description="", train=she_he(["said", "was"], ["here", "there", "often"]),
    heldout=she_he(["said"], ["quite"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def llama() -> Decoder:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["?", *WORDS])}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(WORDS) + 1, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, attn_implementation="eager", initializer_range=0.2,
    )).double()  # fmt: skip
    return decoder_of(model, PreTrainedTokenizerFast(tokenizer_object=words), "llama")


def difference(model: Decoder, task: Task, config: EAPConfig) -> float:
    """The metric of the counterfactual run minus that of the clean one, mean over training pairs."""
    batch, n = model.encode(task.train), model.graph().n_edges
    ends = [metric_under(model, batch, config, torch.full((n,), a)).mean() for a in (1.0, 0.0)]
    return float(ends[0] - ends[1])


@pytest.mark.parametrize("metric", ["logit-difference", "probability-difference"])
def test_scores_out_of_the_input_sum_to_the_change_of_the_metric_as_steps_grow(llama: Decoder, metric: str) -> None:
    wanted = difference(llama, TASK, EAPConfig(metric=metric))  # type: ignore[arg-type]
    assert abs(wanted) > 1e-3
    errors = []
    for steps in (2, 8, 64):
        scores = eap_ig(llama, TASK, EAPIGConfig(steps=steps, metric=metric))  # type: ignore[arg-type]
        errors.append(abs(float(scores.values[scores.graph.src == 0].sum()) - wanted))
    assert errors[2] < 0.02 * abs(wanted)
    assert errors[2] < errors[0]
    plain = eap(llama, TASK, EAPConfig(metric=metric))  # type: ignore[arg-type]
    assert abs(float(plain.values[plain.graph.src == 0].sum()) - wanted) > errors[2]


def test_one_step_is_eap_and_the_size_of_a_batch_changes_nothing(llama: Decoder) -> None:
    together = eap(llama, TASK)
    assert np.array_equal(eap_ig(llama, TASK, EAPIGConfig(steps=1)).values, together.values)
    for function, config in ((eap, EAPConfig(pairs_at_once=1)), (eap_ig, EAPIGConfig(pairs_at_once=4))):
        one, other = function(llama, TASK, config), function(llama, TASK)  # type: ignore[operator]
        assert np.allclose(one.values, other.values, atol=1e-7 * np.abs(other.values).max())
    assert np.array_equal(eap(llama, TASK).values, together.values)


def test_negative_scores_are_edges_the_metric_needs(llama: Decoder) -> None:
    """Ablating the edge moves the metric the way its score says, for the edges of largest score."""
    scores, batch = eap(llama, TASK), llama.encode(TASK.train)
    n = scores.graph.n_edges
    full = metric_under(llama, batch, EAPConfig(), torch.zeros(n)).mean()
    for edge in np.argsort(-np.abs(scores.values))[:5]:
        small = 0.05 * torch.nn.functional.one_hot(torch.tensor(edge), n).double()
        moved = metric_under(llama, batch, EAPConfig(), small).mean() - full
        assert moved == pytest.approx(0.05 * scores.values[edge], rel=0.3)


def test_a_circuit_keeps_what_lies_on_paths_and_its_scores(llama: Decoder) -> None:
    scores = eap(llama, TASK)
    circuit = scores.top(20)
    assert 0 < circuit.n_edges <= 20
    mine = scores.graph.numbers(circuit.src, circuit.dst, circuit.matrix)
    assert np.array_equal(circuit.weight, scores.values[mine])
    assert scores.top(20, connected=False).n_edges == 20
    assert scores.top(scores.graph.n_edges).n_edges == scores.graph.n_edges
    with pytest.raises(BadInput, match="Expected 0 to"):
        scores.top(scores.graph.n_edges + 1)


def test_pairs_of_unequal_length_are_left_out_and_counted(llama: Decoder) -> None:
    longer = pair("the girl said that", "the boy said there that")
    many = Task(name="t", version="1", description="", train=(*TASK.train * 22, longer), heldout=TASK.heldout)
    scores = eap(llama, many, EAPConfig(pairs=6))
    assert scores.record.details["left_out"] == {"train": 1}
    assert scores.record.task_version == "1-without-1-train"
    assert np.allclose(scores.values, eap(llama, TASK).values)
    with pytest.raises(BadInput, match="4 and 5 tokens, not as many"):
        eap(llama, Task(name="t", version="1", description="", train=(longer,), heldout=TASK.heldout))


@pytest.fixture(scope="module")
def stories() -> Decoder:
    if not STORIES.is_dir():
        pytest.skip("shared data is absent")
    return load_decoder(STORIES)


def test_the_she_he_circuit_of_a_pretrained_model(stories: Decoder) -> None:
    """At most a fifth of the edges, faithfulness at least 0.9 on held-out pairs, above 20 random circuits."""
    one = "Once upon a time, there was a {a} {who} in the {p}. One day,"
    adjectives, places = "little happy small nice big sad".split(), "park house garden beach forest shop".split()
    pairs = tuple(
        pair(one.format(a=a, p=p, who="girl"), one.format(a=a, p=p, who="boy")) for a in adjectives for p in places
    )  # fmt: skip
    task = Task(name="she-he", version="1", description="", train=pairs[:24], heldout=pairs[24:])
    batch, n = stories.encode(task.heldout), stories.graph().n_edges

    def metric(kept: np.ndarray) -> float:
        alpha = torch.ones(n)
        alpha[torch.from_numpy(kept)] = 0
        return float(metric_under(stories, batch, EAPConfig(), alpha).mean())

    whole, none = metric(np.arange(n)), metric(np.arange(0))
    assert whole > 2
    assert none < 0
    size, rng = n // 5, np.random.default_rng(0)
    scores = eap(stories, task)
    circuit = scores.top(size)

    def faithfulness(c: Circuit) -> float:
        return (metric(scores.graph.numbers(c.src, c.dst, c.matrix)) - none) / (whole - none)

    found = faithfulness(circuit)
    random = [
        (metric(rng.choice(n, circuit.n_edges, replace=False)) - none) / (whole - none) for _ in range(20)
    ]  # fmt: skip
    assert circuit.n_edges <= size
    assert found >= 0.9
    assert max(random) < found
