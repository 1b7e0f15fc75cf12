"""Answers of several tokens: log probabilities of plain runs of prompt and answer, in every method that takes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from patching_helpers import made, number_pairs
from torch import Tensor

from gossamer.ablation import of_edges
from gossamer.discover import (
    ACDCConfig,
    ActivationPatchingConfig,
    AttributionPatchingConfig,
    EAPConfig,
    EAPIGConfig,
    EdgeMaskConfig,
    EdgePatchingConfig,
    PathPatchingConfig,
    acdc,
    activation_patching,
    attribution_patching,
    direct_logit_attribution,
    eap,
    eap_ig,
    edge_mask,
    edge_patching,
    path_effects,
    path_patching,
)
from gossamer.discover.activation_patching import edges_of
from gossamer.errors import BadInput, Unsupported
from gossamer.metric import divergence, logit_difference, row_metric, sequence_log_probability
from gossamer.models.huggingface import Decoder
from gossamer.replacement import replacement, resampled
from gossamer.task import Example, Task, asked, counterparts, sides
from gossamer.verify.edge_trial import edge_values

WHOLE = "sequence-log-probability"
PAIRS = tuple(
    Example(clean=a, counterfactual=b, answer=right, wrong_answer=wrong)
    for a, b, right, wrong in (
        ("5 6 7 8", "4 3 9 8", " 5 11 2", " 9"),
        ("7 3 8", "2 3 6", " 4", " 8 8"),
        ("7 3 8 8 2", "2 4 6 6 2", " 10 3", " 10 4 7"),
    )
)
TASK = Task(name="whole", version="1", description="", train=PAIRS, heldout=PAIRS[::-1])


@pytest.fixture(scope="module")
def llama() -> Decoder:
    return made("llama")


def log_probability(d: Decoder, prompt: str, answer: str) -> float:
    """By one plain run of the prompt and the answer."""
    first, ids = len(d.tokenizer(prompt).input_ids), d.tokenizer(prompt + answer).input_ids
    with torch.no_grad():
        logs = d.model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    return sum(float(logs[at - 1, ids[at]]) for at in range(first, len(ids)))


def plain(d: Decoder, e: Example, prompt: str) -> float:
    return log_probability(d, prompt, e.answer) - log_probability(d, prompt, e.wrong_answer)


def values(d: Decoder, alpha: Tensor, positions: str = "all", pairs: tuple[Example, ...] = PAIRS) -> np.ndarray:
    """The metric of each pair under an ablation, from one call of the engine."""
    clean, other = sides(d.encode(pairs, positions=positions, several=True))
    with torch.no_grad():
        logits = d.patched(clean, alpha, resampled(d, clean, other))
    return row_metric(WHOLE, clean)(logits).numpy()


def ends(d: Decoder) -> tuple[Tensor, Tensor]:
    n = d.graph().n_edges
    return torch.zeros(n).double(), torch.ones(n).double()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_nothing_and_everything_ablated_are_plain_runs_of_prompt_and_answer(name: str) -> None:
    d = made(name)
    nothing, everything = ends(d)
    assert values(d, nothing) == pytest.approx([plain(d, e, e.clean) for e in PAIRS], abs=1e-5)
    there = [plain(d, e, e.counterfactual) for e in PAIRS]
    assert values(d, everything) == pytest.approx(there, abs=1e-5)
    assert np.abs(values(d, nothing) - there).max() > 0.01
    first = [log_probability(d, e.clean, e.answer[:2]) - log_probability(d, e.clean, e.wrong_answer[:2]) for e in PAIRS]
    assert np.abs(values(d, nothing) - first).max() > 0.1  # one token would be another number
    both = asked(d.encode(PAIRS, several=True))  # each prompt with its own side's answers
    own = row_metric(WHOLE, both)(d.writes(both)[1]).numpy()
    assert own[::2] == pytest.approx(values(d, nothing), abs=1e-5)
    assert own[1::2] == pytest.approx([-x for x in there], abs=1e-5)


def test_a_pair_is_the_same_alone_and_at_chosen_positions_answers_follow_the_last_token(llama: Decoder) -> None:
    alpha = (torch.rand(llama.graph().n_edges, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    together = values(llama, alpha)
    assert together == pytest.approx([float(values(llama, alpha, pairs=(e,))[0]) for e in PAIRS], abs=1e-5)
    graph = llama.graph()
    from_input = torch.from_numpy((graph.src == graph.layout.starts["input"]).astype(np.float64))
    mixed = [f"{e.clean[:-1]}{e.counterfactual[-1]}" for e in PAIRS]
    found = values(llama, from_input, "last")
    assert found == pytest.approx([plain(llama, e, m) for e, m in zip(PAIRS, mixed, strict=True)], abs=1e-5)
    answers = asked(llama.encode(PAIRS, positions="last", several=True))
    assert answers.marks.chosen is not None
    assert answers.marks.chosen.sum(1).tolist() == [1, 1, 1, 1, 1, 1, 2, 3, 2, 3, 2, 2, 2, 2, 3, 2, 3, 2]


def test_with_one_token_it_is_the_logit_difference_to_the_bit(llama: Decoder) -> None:
    task = number_pairs()
    one, whole = EAPConfig(), EAPConfig(metric="sequence-log-probability")
    assert np.array_equal(eap(llama, task, one).values, eap(llama, task, whole).values)
    clean, _ = sides(llama.encode(task.train, several=True))
    logits = torch.randn(2, len(clean.last), 64)
    assert torch.equal(sequence_log_probability(logits, clean), logit_difference(logits, clean))
    assert clean.marks.answers is None


def test_eap_is_the_slope_and_eap_ig_sums_to_the_change(llama: Decoder) -> None:
    nothing, everything = ends(llama)
    clean, other = sides(llama.encode(PAIRS, several=True))
    share = nothing.clone().requires_grad_()
    value = row_metric(WHOLE, clean)(llama.patched(clean, share, resampled(llama, clean, other))).mean()
    (slope,) = torch.autograd.grad(value, share)
    config = EAPConfig(metric="sequence-log-probability")
    fast = eap(llama, TASK, config)
    assert np.allclose(fast.values, slope.numpy(), atol=1e-6 * float(slope.abs().max()))
    apart = eap(llama, TASK, config.model_copy(update={"pairs_at_once": 1}))
    assert np.allclose(fast.values, apart.values, atol=1e-6 * float(slope.abs().max()))
    change = float((values(llama, everything) - values(llama, nothing)).mean())
    errors = []
    for steps in (2, 8, 32):
        path = eap_ig(llama, TASK, EAPIGConfig(metric="sequence-log-probability", steps=steps))
        errors.append(abs(float(path.values[path.graph.src == 0].sum()) - change))
    assert errors[2] < 0.05 * abs(change)
    assert errors[2] < 0.5 * errors[1] < 0.25 * errors[0]


def test_exact_patching_of_edges_and_nodes_is_whole_runs(llama: Decoder) -> None:
    graph, before = llama.graph(), values(llama, ends(llama)[0])

    def effect(edges: np.ndarray) -> float:
        share = torch.zeros(graph.n_edges).double()
        share[torch.from_numpy(edges)] = 1
        return float((values(llama, share) - before).mean())

    edges = edge_patching(llama, TASK, EdgePatchingConfig(metric="sequence-log-probability"))
    some = range(0, graph.n_edges, 7)
    assert edges.values[list(some)] == pytest.approx([effect(np.array([e])) for e in some], abs=1e-5)
    nodes = activation_patching(llama, TASK, ActivationPatchingConfig(metric="sequence-log-probability"))
    sets = [edges_of(llama.graph(), name) for name, _ in nodes.layout.locations]
    assert nodes.values == pytest.approx([effect(s) for s in sets], abs=1e-5)


def test_paths_take_whole_answers_and_first_order_scores_of_nodes_do_not(llama: Decoder) -> None:
    edges = edge_patching(llama, TASK, EdgePatchingConfig(metric="sequence-log-probability"))
    paths = path_patching(llama, TASK, PathPatchingConfig(metric="sequence-log-probability"))
    into = edges.graph.dst == max(edges.graph.dst)
    assert into.sum() > 4
    assert paths.values[edges.graph.src[into]] == pytest.approx(edges.values[into], abs=1e-9)
    through = path_patching(llama, TASK, PathPatchingConfig(metric="sequence-log-probability", through="mlps"))
    config = EdgePatchingConfig(metric="sequence-log-probability")
    ways = [f"input->{via}logits" for via in ("", "m0->", "m1->", "m0->m1->")]
    along = path_effects(llama, llama.encode(PAIRS, several=True), ways, config).mean()
    start = through.layout.starts["input"]
    assert through.values[start] == pytest.approx(along, abs=1e-6)
    assert abs(through.values[start] - paths.values[start]) > 1e-4
    with pytest.raises(Unsupported, match="attribution patching by the metric sequence-log-probability"):
        attribution_patching(llama, TASK, AttributionPatchingConfig(metric="sequence-log-probability"))


def test_searches_and_trials_take_whole_answers(llama: Decoder) -> None:
    pairs = llama.encode(PAIRS, several=True)
    circuit = acdc(llama, TASK, ACDCConfig(metric="sequence-log-probability", threshold=0.02))
    shares = circuit.shares(llama.graph(), of_edges())
    found = edge_values(llama, pairs, shares[None], of_edges(), (WHOLE, "kl"), pairs_at_once=2)
    assert found[0, 0] == pytest.approx(values(llama, torch.from_numpy(shares)), abs=1e-5)
    drop = float((values(llama, ends(llama)[0]) - found[0, 0]).mean())
    assert circuit.record.details["metric_at_end"] == pytest.approx(drop, abs=1e-5)
    single = tuple(replace(e, answer=" 5", wrong_answer=" 9") for e in PAIRS)  # KL is at the first token
    clean, other = sides(llama.encode(single))
    with torch.no_grad():
        logits = llama.patched(clean, torch.from_numpy(shares), resampled(llama, clean, other))
    assert found[1, 0] == pytest.approx(divergence(llama.writes(clean)[1], logits).numpy(), abs=1e-5)
    masks = edge_mask(llama, TASK, EdgeMaskConfig(metric="sequence-log-probability", steps=2, batch=2))
    assert np.isfinite(masks.values).all()


def test_a_span_ends_both_prompts_or_neither(llama: Decoder) -> None:
    spans = {"end": ((4, 5), (4, 5)), "early": ((0, 1), (2, 3))}
    uneven = Example(clean="5 6 7", counterfactual="4 3 9 8", answer=" 5 11", wrong_answer=" 9", spans=spans)
    assert llama.encode((uneven,), positions="early", several=True).marks.chosen is not None
    with pytest.raises(BadInput, match=r"span 'end' to hold the last token of both prompts .* being pair 1"):
        llama.encode((uneven,), positions="end", several=True)
    one = replace(uneven, answer=" 5")
    clean, other = sides(llama.encode((one,), positions="end"))
    assert counterparts(clean, other) is None  # the same position of both
    marks = replace(other.marks, chosen=torch.tensor([[True, False, True, False]]))
    with pytest.raises(BadInput, match="as many chosen positions"):
        counterparts(clean, other._replace(marks=marks))


def test_rows_are_no_wider_than_the_model_reads(llama: Decoder) -> None:
    long = Example(clean=" ".join(["5"] * 31), counterfactual=" ".join(["4"] * 31), answer=" 6 7", wrong_answer=" 9")
    short = Example(clean="5 6", counterfactual="4 3", answer=" 5 11 2 8", wrong_answer=" 9")
    batch = llama.encode((long, short), several=True)
    for rows in (*sides(batch), asked(batch)):
        assert rows.tokens.shape[1] == int(rows.last.max()) + 1 == 32
    nothing = ends(llama)[0]
    together = values(llama, nothing, pairs=(long, short))
    assert together == pytest.approx([plain(llama, e, e.clean) for e in (long, short)], abs=1e-5)


def test_what_is_of_one_token_is_refused(llama: Decoder) -> None:
    for method in (eap, edge_patching, attribution_patching, direct_logit_attribution):
        with pytest.raises(BadInput, match="is 3 tokens after the clean prompt, not one"):
            method(llama, TASK)  # type: ignore[operator]
    clean, _ = sides(llama.encode(PAIRS, several=True))
    for metric in ("logit-difference", "probability-difference", "answer-rank"):
        with pytest.raises(Unsupported, match=f"metric {metric} of answers of several tokens.*sequence-log-prob"):
            row_metric(metric, clean)
    for value in ("noise", "position-mean"):
        with pytest.raises(Unsupported, match=f"ablation by {value} of pairs with answers of several tokens"):
            replacement(llama, llama.encode(PAIRS, several=True), of_edges(value))
        of_one = replacement(llama, llama.encode(number_pairs().train), of_edges(value))
        with pytest.raises(Unsupported, match=f"ablation by {value} of pairs with answers of several tokens"):
            of_one(*sides(llama.encode(PAIRS, several=True)))
    begins = replace(PAIRS[0], answer=" 9 4")
    with pytest.raises(BadInput, match="of ' 9 4' and ' 9' one begins the other"):
        llama.encode((begins,), several=True)
    long = replace(PAIRS[0], answer=" 5" * 30)
    with pytest.raises(BadInput, match="a prompt and an answer are 33 tokens without its last, the model reads 32"):
        llama.encode((long,), several=True)
