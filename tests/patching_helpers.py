"""Random decoders with a tokenizer of numbers, and pairs of random numbers, for the tests of patching."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from number_words import Numbers
from transformers import LlamaConfig, LlamaForCausalLM
from zoo import decoder

from gossamer.models.huggingface import Decoder, decoder_of
from gossamer.task import Encoded, Example, Task

EXACT = {"gpt2", "falcon", "falcon alibi", "gpt_neox", "opt", "phi", "stablelm", "stablelm parallel"}  # no rounded norm


def made(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Decoder:
    return decoder_of(decoder(name, **changes).to(dtype), Numbers(), name)


def number_pairs(first_difference: int = 2, length: int = 7, n: int = 3) -> Task:
    """Pairs of random numbers that agree up to a place; the second pair is shorter."""
    rng = np.random.default_rng(0)

    def pair(i: int) -> Example:
        one = rng.integers(2, 64, length - 2 * (i == 1))
        other = one.copy()
        other[first_difference:] = rng.integers(2, 64, len(one) - first_difference)
        one, other = (" ".join(map(str, x)) for x in (one, other))
        return Example(clean=one, counterfactual=other, answer=" 5", wrong_answer=" 9")

    return Task(name="t", version="1", description="", train=tuple(map(pair, range(n))), heldout=(pair(0),))


def gap(batch: Encoded, logits: torch.Tensor) -> np.ndarray:
    """Right minus wrong answer's logit, [rows]."""
    rows = torch.arange(len(logits))
    return (logits[rows, batch.answer] - logits[rows, batch.wrong]).numpy()


# A Llama whose every number can be told by hand. Prompts of two tokens: 2 or 3 first, then 4. With s = 1 after a 2 and
# s = -1 after a 3: a0.h0 writes s to channel 5 at the first place and s / 2 at the second, where it attends evenly to
# both; a1.h0 reads channel 5 and writes MEAN * s to channel 6 at the second. The answer's logit is channels 5 and 6 of
# what the final norm makes of the second place, the wrong answer's the negative of it.
ROOT = 8**0.5  # a norm gives its input the length of the root of its width
MEAN = (ROOT / 2**0.5 + 0.5 * ROOT / 1.25**0.5) / 2
BY_HAND = Task(
    name="hand", version="1", description="",
    train=(Example(clean="2 4", counterfactual="3 4", answer=" 0", wrong_answer=" 1"),),
    heldout=(Example(clean="3 4", counterfactual="2 4", answer=" 0", wrong_answer=" 1"),),
)  # fmt: skip


def difference(five: float, six: float) -> float:
    """The logit difference with channel 5 times `five` and channel 6 times `six` of what they are after a 2."""
    return 2 * ROOT * (0.5 * five + MEAN * six) / (1 + 0.25 + MEAN**2) ** 0.5


def by_hand() -> Decoder:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=4, rms_norm_eps=1e-30, attn_implementation="eager", bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    d = decoder_of(LlamaForCausalLM(config).double(), Numbers(), "by hand")
    for p in d.model.parameters():
        p.zero_() if p.ndim == 2 else p.fill_(1)
    model: Any = d.model
    first, second = model.model.layers
    model.model.embed_tokens.weight[2:5, 2:5] = torch.eye(3).double()
    first.self_attn.v_proj.weight[0, 2:4] = torch.tensor([1.0, -1.0]).double() / ROOT
    first.self_attn.o_proj.weight[5, 0] = second.self_attn.v_proj.weight[0, 5] = 1
    second.self_attn.o_proj.weight[6, 0] = 1
    model.lm_head.weight[:2, 5:7] = torch.tensor([[1.0], [-1.0]]).double()
    return d
