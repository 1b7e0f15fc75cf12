"""Byte-level BPE for source code: 2,048 tokens by default, <|endoftext|> the last id, every text round-trips."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from gossamer.corpora.python_source import Corpus
from gossamer.errors import BadInput, CorruptFile

END_OF_TEXT = "<|endoftext|>"
PATTERN = r"[ ._]?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s*\n[ \t]*|\s+(?!\S)|\s+"
_SAMPLE_BYTES = 20_000_000


def train_tokenizer(corpus: Corpus, vocab_size: int = 2048, seed: int = 0) -> Tokenizer:
    """BPE merges from a seeded sample of about 20 MB of the corpus."""
    tokenizer = untrained_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_sample(corpus, seed), trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def untrained_tokenizer() -> Tokenizer:
    """Byte-level BPE without vocabulary and merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sample(corpus: Corpus, seed: int) -> Iterator[str]:
    documents = list(corpus.documents)
    random.Random(seed).shuffle(documents)
    taken = 0
    for d in documents:
        yield d.text()
        taken += d.n_bytes
        if taken > _SAMPLE_BYTES:
            return


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and the small file that lets transformers load it too."""
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; BadInput where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BadInput(f"Expected the model's tokenizer at {path}, found none; copy tokenizer.json into the folder.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CorruptFile(f"{path} is not a readable tokenizer.json ({error}); copy it again.") from error
