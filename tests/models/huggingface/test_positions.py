"""Ablation at chosen positions: against runs of mixed prompts, in every kind of run, between prompts of two lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from patching_helpers import gap, made, number_pairs
from torch import Tensor

from gossamer.models.huggingface import Blocks, Decoder
from gossamer.replacement import resampled
from gossamer.task import Encoded, Example, sides

FAMILIES = ["gpt2", "llama", "falcon", "gpt_neox", "gemma2", "olmo2"]
WRITES = 1e-6  # of logits: some models round to float32 inside
LAST = [Example(clean="5 6 7 8 9", counterfactual="4 3 8", answer=" 5", wrong_answer=" 9")]
# of the characters 2 to 5 and 4 to 7: tokens 1 and 2 of five, tokens 2 and 3 of four
ANSWERS: dict[str, Any] = {"answer": " 5", "wrong_answer": " 9"}
UNEVEN = [
    Example(clean="5 6 7 8 9", counterfactual="4 3 9 8", spans={"two": ((2, 5), (4, 7))}, **ANSWERS),
    Example(clean="7 3 8", counterfactual="2 4 6 5 9", spans={"two": ((0, 3), (6, 9))}, **ANSWERS),
]


def model_of(name: str) -> Decoder:
    return made(name)


def pairs_of(d: Decoder, positions: str = "all") -> tuple[Encoded, Encoded]:
    """Clean and counterfactual prompts that differ from their first token on, the second pair shorter."""
    return sides(d.encode(number_pairs(0).train, positions=positions))


def every_real(batch: Encoded) -> Encoded:
    """Chosen: every position that is no padding, as a mask."""
    chosen = torch.arange(batch.tokens.shape[1]) <= batch.last[:, None]
    return batch._replace(marks=replace(batch.marks, chosen=chosen))


def from_input(d: Decoder) -> Tensor:
    graph = d.graph()
    return torch.from_numpy((graph.src == graph.layout.starts["input"]).astype(np.float64))


def some_edges(d: Decoder, seed: int = 0) -> Tensor:
    return (torch.rand(d.graph().n_edges, generator=torch.Generator().manual_seed(seed)) < 0.5).double()


def plain(d: Decoder, batch: Encoded) -> Tensor:
    return d.writes(batch)[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_input_ablated_at_some_positions_is_a_run_of_the_mixed_prompt(name: str) -> None:
    d = model_of(name)
    clean, other = pairs_of(d)
    reference, _ = d.writes(other)
    chosen = torch.rand(clean.tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    run = clean._replace(marks=replace(clean.marks, chosen=chosen))
    mixed = clean._replace(tokens=torch.where(chosen, other.tokens, clean.tokens))
    with torch.no_grad():
        found = d.patched(run, from_input(d), reference)
        everywhere = d.patched(clean, from_input(d), reference)
    assert torch.allclose(found, plain(d, mixed), atol=WRITES, rtol=0)
    assert not torch.allclose(found, everywhere, atol=1e-3)
    assert not torch.allclose(found, plain(d, clean), atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_real_position_chosen_is_all_and_fewer_are_not(name: str) -> None:
    d = model_of(name)
    clean, other = pairs_of(d)
    reference, there = d.writes(other)
    masked, alpha = every_real(clean), some_edges(d)
    every = torch.ones(d.graph().n_edges).double()

    def numbers(batch: Encoded) -> list[Tensor]:
        runs, removals = d.ablations(batch, reference), d.removals(batch, reference)
        stage = next(iter(removals.stages()))[:5]
        with torch.no_grad():
            return [
                d.patched(batch, alpha, reference), runs.logits(d._table(alpha)[None], 0)[0], removals.logits(stage),
                d.edge_gradient(batch, reference, lambda x: gap_of(x, batch))[0],
                d.path_gradient(batch, reference, lambda x: gap_of(x, batch), [1.0, 0.5]),
            ]  # fmt: skip

    for here, everywhere, again in zip(numbers(masked), numbers(clean), numbers(clean.choose("all")), strict=True):
        assert torch.equal(everywhere, again)
        assert torch.allclose(here, everywhere, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.allclose(d.patched(masked, every, reference), there, atol=1e-5, rtol=0)
        last = pairs_of(d, "last")[0]
        assert torch.allclose(d.patched(last, every, reference), there, atol=1e-5, rtol=0)  # all that the logits read
        inner = d.patched(last, from_input(d), reference)
        before = last._replace(marks=replace(last.marks, chosen=~last.marks.chosen))  # type: ignore[operator]
        earlier = d.patched(before, every, reference)
    for some in (inner, earlier):
        assert not torch.allclose(some, there, atol=1e-3)
        assert not torch.allclose(some, plain(d, clean), atol=1e-3)


def gap_of(logits: Tensor, batch: Encoded) -> Tensor:
    rows = torch.arange(len(logits))
    return (logits[rows, batch.answer] - logits[rows, batch.wrong]).sum()


@pytest.mark.parametrize("name", FAMILIES)
def test_fast_runs_and_gradients_at_chosen_positions_are_those_of_whole_runs(name: str) -> None:
    d = model_of(name)
    clean, other = sides(d.encode(number_pairs(1).train, positions="all"))
    chosen = torch.zeros(clean.tokens.shape, dtype=torch.bool)
    chosen[:, 2:4] = True  # the prompts differ from position 1 on: two positions are shared
    clean = clean._replace(marks=replace(clean.marks, chosen=chosen))
    reference, _ = d.writes(other)
    alpha = some_edges(d)
    runs = d.ablations(clean, reference)
    assert runs.shared == 2
    with torch.no_grad():
        whole = d.patched(clean, alpha, reference)
    assert torch.allclose(runs.logits(d._table(alpha)[None], 0)[0], whole, atol=1e-5, rtol=0)

    removals, gone = d.removals(clean, reference), torch.zeros(d.graph().n_edges).double()
    rng = np.random.default_rng(0)
    for stage in removals.stages():
        live = removals.live(stage)
        removals.drop(stage[~live])
        gone[stage[~live]] = 1
        edges = rng.permutation(stage[live])[:3]
        if len(edges):
            logits = removals.logits(edges)
            for t in range(len(edges)):
                trial = gone.clone()
                trial[edges[: t + 1]] = 1
                with torch.no_grad():
                    assert torch.allclose(logits[t], d.patched(clean, trial, reference), atol=1e-5, rtol=0)
            removals.accept(min(2, len(edges)))
            gone[edges[:2]] = 1

    share = torch.zeros(d.graph().n_edges).double().requires_grad_()
    (slow,) = torch.autograd.grad(gap_of(d.patched(clean, share, reference), clean), share)
    fast, _ = d.edge_gradient(clean, reference, lambda x: gap_of(x, clean))
    assert torch.allclose(fast, slow, atol=1e-6 * float(slow.abs().max()), rtol=0)
    everywhere, _ = d.edge_gradient(clean.choose("all"), reference, lambda x: gap_of(x, clean))
    assert not torch.allclose(everywhere, slow, atol=0.1 * float(slow.abs().max()))


@pytest.mark.parametrize("positions", ["last", "first"])
def test_a_padded_batch_equals_its_items(positions: str) -> None:
    d = model_of("llama")
    examples = [
        replace(e, spans={"first": ((0, e.clean.index(" ")), (0, e.counterfactual.index(" ")))})
        for e in number_pairs(0).train
    ]
    alpha, together = some_edges(d), d.encode(examples, positions=positions)
    assert len(set(together.last.tolist())) > 1

    def logits(batch: Encoded) -> Tensor:
        clean, other = sides(batch)
        with torch.no_grad():
            return d.patched(clean, alpha, resampled(d, clean, other))

    apart = torch.cat([logits(d.encode([e], positions=positions)) for e in examples])
    assert torch.allclose(logits(together), apart, atol=1e-6, rtol=0)
    assert torch.allclose(logits(together.pairs(1, 2)), apart[1:2], atol=1e-6, rtol=0)


def test_blocks_ablate_at_chosen_positions_as_their_heads_do() -> None:
    d = model_of("llama")
    b = Blocks(d)
    clean, other = sides(b.encode(number_pairs(0).train, positions="last"))
    alpha = (torch.rand(b.graph().n_edges, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    heads = alpha[torch.from_numpy(b.members)]
    with torch.no_grad():
        found = b.patched(clean, alpha, b.writes(other)[0])
        wanted = d.patched(clean, heads, d.writes(other)[0])
    assert torch.allclose(found, wanted, atol=1e-6, rtol=0)


# spans


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2"])  # without a table of positions in the embedding
def test_a_span_of_prompts_of_two_lengths_is_exchanged_token_by_token(name: str) -> None:
    d = model_of(name)
    batch = d.encode(UNEVEN, positions="two")
    clean, other = sides(batch)
    assert clean.last.tolist() == [4, 2]
    assert other.last.tolist() == [3, 4]
    with torch.no_grad():
        found = d.patched(clean, from_input(d), resampled(d, clean, other))
        unaligned = d.patched(clean, from_input(d), d.writes(other)[0])
    mixed = [replace(e, clean=c, spans={}) for e, c in zip(UNEVEN, ("5 9 8 8 9", "5 9 8"), strict=True)]
    wanted = plain(d, sides(d.encode(mixed, positions="last"))[0])
    assert torch.allclose(found, wanted, atol=WRITES, rtol=0)
    assert not torch.allclose(unaligned, wanted, atol=1e-3)


def test_a_span_of_the_whole_of_equally_long_prompts_is_all_positions() -> None:
    d = model_of("llama")
    examples = [
        replace(e, spans={"whole": ((0, len(e.clean)), (0, len(e.counterfactual)))}) for e in number_pairs(0).train
    ]
    alpha, found = some_edges(d), []
    for positions in ("whole", "all"):
        clean, other = sides(d.encode(examples, positions=positions))
        with torch.no_grad():
            found.append(d.patched(clean, alpha, resampled(d, clean, other)))
    assert torch.allclose(*found, atol=1e-6, rtol=0)


def test_the_last_tokens_of_prompts_of_two_lengths_stand_for_each_other() -> None:
    d = model_of("llama")
    clean, other = sides(d.encode(LAST, positions="last"))
    with torch.no_grad():
        found = d.patched(clean, from_input(d), resampled(d, clean, other))
    mixed = sides(d.encode([replace(LAST[0], clean="5 6 7 8 8")], positions="last"))[0]
    assert torch.allclose(found, plain(d, mixed), atol=WRITES, rtol=0)
    assert not np.allclose(gap(clean, found), gap(clean, plain(d, clean)), atol=1e-3)
