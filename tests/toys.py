"""Models whose right answer is known because we put it there."""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer

from gossamer.corpora.tokenizer import END_OF_TEXT
from gossamer.models import LoadedModel
from gossamer.models.planted import with_means, word_tokenizer
from gossamer.models.sparse import SparseConfig, SparseTransformer
from gossamer.task import Example, Task

WORDS = ["left", "right", "L", "R", *(f"w{i}" for i in range(11)), END_OF_TEXT]


def toy_tokenizer() -> Tokenizer:
    """Sixteen words, split at spaces; the last is the start of every prompt."""
    return word_tokenizer(WORDS)


# The planted mechanism: token left/right writes channel 3 (+1/-1); value channel 5 (head 0) reads it under uniform
# attention and writes channel 6; the unembedding reads channel 6 for L (+) and R (-). Channel 0 is 1 for every token.
PLANTED_NODES = ("0.attn.act_in:3", "0.attn.v:5", "0.attn.resid_delta:6", "final_resid:6")
PLANTED_EDGES = 2


def planted_model(decoys: bool = True) -> LoadedModel:
    """One layer, width 128, 16 heads of 8: wide enough that random sets of four nodes miss the mechanism.

    With `decoys`, other non-zero weights that the task does not need."""
    config = SparseConfig(
        vocab_size=len(WORDS), n_ctx=16, n_layer=1, d_model=128, n_head=16, d_head=8, d_mlp=128, topk_places=(),
        activation_fraction=1.0,
    )  # fmt: skip
    model = SparseTransformer(config, seed=None)
    for p in model.parameters():
        p.data.zero_()
    block = model.blocks[0]
    for norm in (block.ln_1, block.ln_2, model.ln_f):
        norm.weight.data.fill_(1.0)
    model.wte.weight.data[:, 0] = 1.0
    model.wte.weight.data[0, 3], model.wte.weight.data[1, 3] = 1.0, -1.0
    v = 2 * config.d_attn
    block.attn.c_attn.weight.data[v + 5, 3] = 2.0
    block.attn.c_proj.weight.data[6, 5] = 3.0
    model.lm_head.weight.data[2, 6], model.lm_head.weight.data[3, 6] = 0.2, -0.2
    if decoys:
        generator = torch.Generator().manual_seed(0)
        model.wte.weight.data[4:15, 1] = torch.randn(11, generator=generator)
        block.attn.c_attn.weight.data[v + 1, 1] = 1.0
        block.attn.c_proj.weight.data[2, 1] = 1.0
        block.mlp.c_fc.weight.data[:4, 1] = torch.randn(4, generator=generator)
        block.mlp.c_proj.weight.data[2, :4] = torch.randn(4, generator=generator)
        model.lm_head.weight.data[4:15, 2] = torch.randn(11, generator=generator)
    model.eval().requires_grad_(False)
    return with_means(model, WORDS, "planted")


def random_model(seed: int = 0, **changes: object) -> LoadedModel:
    """Two layers with AbsTopK, a sink and most weights zero; no task, but every mechanism in play."""
    fields: dict[str, object] = {
        "vocab_size": len(WORDS), "n_ctx": 16, "n_layer": 2, "d_model": 16, "n_head": 4, "d_head": 4, "d_mlp": 32,
        "activation_fraction": 0.5, "sink": True,
    }  # fmt: skip
    model = SparseTransformer(SparseConfig.model_validate({**fields, **changes}), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            p.data = torch.randn(p.shape, generator=generator) * (torch.rand(p.shape, generator=generator) < 0.3)
        elif name.endswith(("bias", "sink_logit")):
            p.data = 0.3 * torch.randn(p.shape, generator=generator)
    model.eval().requires_grad_(False)
    return with_means(model, WORDS, "random", seed)


def planted_task(n: int = 64, seed: int = 0) -> Task:
    """Say L after a prompt with `left` in it, R after one with `right`."""
    rng = random.Random(seed)

    def example() -> Example:
        words = [f"w{rng.randrange(11)}" for _ in range(rng.randint(2, 6))]
        at = rng.randrange(len(words))
        sides = [" ".join([*words[:at], side, *words[at:]]) for side in ("left", "right")]
        return Example(clean=sides[0], counterfactual=sides[1], answer=" L", wrong_answer=" R", template="toy")

    return Task(
        name="planted", version="1", description="Say which side was named",
        train=tuple(example() for _ in range(n)), heldout=tuple(example() for _ in range(n)),
    )  # fmt: skip
