"""A small Llama with grouped queries that was taught a task, so that there is a circuit to find."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gossamer.models.huggingface import Decoder, decoder_of
from gossamer.task import Example, Task

PEOPLE = (("girl", "boy"), ("queen", "king"), ("aunt", "uncle"))
VERBS, PLACES = "said was saw had".split(), "here there often now".split()
WORDS = ["?", "the", "that", "she", "he", *(w for p in PEOPLE for w in p), *VERBS, *PLACES]


def pairs() -> tuple[Example, ...]:
    return tuple(
        Example(
            clean=f"the {people[side]} {v} {p} that", counterfactual=f"the {people[1 - side]} {v} {p} that",
            answer=(" she", " he")[side], wrong_answer=(" he", " she")[side],
        )
        for p in PLACES for people in PEOPLE for v in VERBS for side in (0, 1)
    )  # fmt: skip


def she_he() -> Task:
    """Pronouns; the last place of a person is held out."""
    found = pairs()
    return Task(name="she-he", version="1", description="", train=found[:72], heldout=found[72:])


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words)


@functools.cache
def taught(layers: int = 2, steps: int = 60) -> Decoder:
    """Trained on the training pairs until it knows them (about a second); float32."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, attn_implementation="eager", initializer_range=0.1,
    ))  # fmt: skip
    decoder = decoder_of(model, tokenizer(), "taught")
    batch = decoder.encode(she_he().train)
    model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    rows = torch.arange(len(batch.tokens))
    for _ in range(steps):
        loss = F.cross_entropy(model(batch.tokens).logits[rows, batch.last], batch.answer)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.requires_grad_(False)
    return decoder


def saved(folder: Path) -> Path:
    """The taught model and its tokenizer as a folder that `from_pretrained` reads."""
    decoder = taught()
    decoder.model.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    return folder
