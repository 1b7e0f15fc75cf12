"""Models with two mechanisms, redundant or chosen by the context, at channel and at head grain."""

from __future__ import annotations

import random
from typing import Literal

import numpy as np
import torch
from toys import WORDS, planted_model

from gossamer.circuit import Circuit
from gossamer.models import LoadedModel
from gossamer.models.compiled import SHARP, CompiledModel, _Compiler
from gossamer.models.planted import with_means
from gossamer.record import Record
from gossamer.task import Example, Task
from gossamer.verify import EdgeTrial

FIRST = ("0.attn.act_in:3", "0.attn.v:5", "0.attn.resid_delta:6", "final_resid:6")
SECOND = ("0.attn.act_in:4", "0.attn.v:13", "0.attn.resid_delta:7", "final_resid:7")


def two_routes(words: tuple[str, str]) -> LoadedModel:
    """The planted model with the same mechanism once more, beside it, for these two words; SECOND are its channels.

    With left and right both carry the same; with other words each is of its own words."""
    loaded = planted_model()
    model = loaded.model
    ids = [loaded.tokenizer.token_to_id(w) for w in words]
    block, v = model.blocks[0], 2 * model.config.d_attn
    model.wte.weight.data[ids[0], 4], model.wte.weight.data[ids[1], 4] = 1.0, -1.0
    block.attn.c_attn.weight.data[v + 13, 4] = 2.0
    block.attn.c_proj.weight.data[7, 13] = 3.0
    model.lm_head.weight.data[2, 7], model.lm_head.weight.data[3, 7] = 0.2, -0.2
    return with_means(model, WORDS, "two routes")


def mixed_task(second: tuple[str, str], n: int = 64, seed: int = 0) -> Task:
    """Say L or R after left or right in half of the pairs, after the second words in the others."""
    rng = random.Random(seed)

    def example() -> Example:
        sides = rng.choice([("left", "right"), second])
        words = [f"w{rng.randrange(9)}" for _ in range(rng.randint(2, 6))]
        at = rng.randrange(len(words))
        one, other = (" ".join([*words[:at], side, *words[at:]]) for side in sides)
        pair = Example(clean=one, counterfactual=other, answer=" L", wrong_answer=" R", template=sides[0])
        if rng.random() < 0.5:
            return pair
        return Example(clean=other, counterfactual=one, answer=" R", wrong_answer=" L", template=sides[0])

    return Task(
        name="mixed", version="1", description="Which side", train=tuple(example() for _ in range(n)),
        heldout=tuple(example() for _ in range(n)),
    )  # fmt: skip


HEADS = {f"{a}a0.h{h}{b}" for h in (1, 2) for a, b in (("input->", "<v>"), ("", "->logits"))}


def two_heads(kind: Literal["both", "chosen"], n: int = 48, seed: int = 0) -> EdgeTrial:
    """Whether the first word is 1. both: two heads fetch it, in every prompt; chosen: one of them, by the last word (A
    or B). A trial whose circuit is what they read and write (HEADS), or of `both` the first head alone."""
    words = ["BOS", "0", "1", "u", "v", "A", "B", "yes", "no"]
    c = _Compiler(words, 6, {"bit": 2}, layers=1, heads=4, slots=2, units=1, seed=seed)
    for head, context in ((1, "A"), (2, "B")):
        asks = c.token(context) if kind == "chosen" else c.at("one")
        match = [(asks, c.at("position", 1), SHARP), (c.at("one"), c.token("BOS"), SHARP / 2)]
        c.head(0, head, match, [(c.token("1"), c.at("bit", head - 1))])
        c.answer(c.at("bit", head - 1), {"yes": 4.0, "no": -4.0})
    c.w.unembed_bias[-2:] = torch.tensor([-2.0, 2.0]) * (2 if kind == "both" else 1)
    model = c.model(kind)
    rng = np.random.default_rng(seed)
    found: dict[Example, None] = {}
    while len(found) < 2 * n:
        rest = f"{' '.join(rng.choice(list('uv'), rng.integers(1, 4)))} {rng.choice(list('AB'))}"
        sides = rng.permutation(["0", "1"]).tolist()
        says = {"0": " no", "1": " yes"}
        found[Example(
            clean=f"{sides[0]} {rest}", counterfactual=f"{sides[1]} {rest}", answer=says[sides[0]],
            wrong_answer=says[sides[1]], template=rest[-1],
        )] = None  # fmt: skip
        if len(found) > 40:  # there are no more
            break
    examples = tuple(found)
    task = Task(
        name=kind, version="1", description="", train=examples[: len(examples) // 2],
        heldout=examples[len(examples) // 2 :],
    )  # fmt: skip
    wanted = {e for e in HEADS if kind == "chosen" or "h1" in e}
    return trial_of(model, task, wanted)


def trial_of(model: CompiledModel, task: Task, edges: set[str], value: str = "resample") -> EdgeTrial:
    """A trial of the circuit with these edges by name."""
    graph = model.graph()
    record = Record.now(
        method="by hand", config={}, seed=0, model=model.name, model_sha256=model.hashes()[0], means_sha256=""
    )
    whole = Circuit.from_edges(graph, np.arange(graph.n_edges), np.zeros(graph.n_edges), record=record)
    every = EdgeTrial(
        model=model, circuit=whole, task=task, heldout=model.encode(task.heldout), training=model.encode(task.train),
        value=value,
    )  # fmt: skip
    kept = np.flatnonzero([every.part(i) in edges for i in range(graph.n_edges)])
    return every.retried(Circuit.from_edges(graph, kept, np.zeros(len(kept)), record=record))
