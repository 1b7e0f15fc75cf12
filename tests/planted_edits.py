"""An encoder-decoder written by hand that copies, reverses and swaps strings of four letters, its circuits known.

Two heads of cross-attention. Head 0 reads at answer position i the source position of `copy`, head 1 that of `reverse`;
each writes what it reads into channels of its own (COPIES, REVERSES), one per letter and one for the end, which alone
the unembedding reads. A head that has nothing to say at a position looks at the operation's token, whose value is zero:
copying, head 1 at all; reversing, head 0; swapping, head 0 at the two ends and head 1 in the middle. So the circuit of
copy is COPIES, that of reverse is REVERSES, and that of swap_first_last both without the last channel of REVERSES,
since head 0 reads the end. Every other module writes noise into channels that nobody reads.
"""

from __future__ import annotations

import torch

from gossamer.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gossamer.tasks.pcfg_set import EOS, Edit, edits, split, vocabulary

LETTERS, LENGTH, HEAD = 4, 4, 20
TOKENS = vocabulary(LETTERS)
OUT = [*(TOKENS.index(c) for c in "ABCD"), EOS]
POSITION = len(TOKENS)
COPIES, REVERSES, JUNK = (list(range(24 + 5 * i, 29 + 5 * i)) for i in range(3))
CROSS = "decoder.0.cross.resid_delta"
OPERATIONS = ("copy", "reverse", "swap_first_last")
HEARD = {  # at which answer positions a head reads letters
    0: {"copy": range(5), "reverse": (), "swap_first_last": (1, 2, 4)},
    1: {"copy": (), "reverse": range(5), "swap_first_last": (0, 3)},
}


@torch.no_grad()
def planted_edits(seed: int = 0, noise: float = 0.02) -> EncoderDecoder:
    """The model."""
    model = EncoderDecoder(
        EncoderDecoderConfig(
            vocabulary=len(TOKENS), n_layers=1, d_model=40, n_heads=2, d_ff=8, longest_source=6, longest_answer=5
        )
    )
    generator = torch.Generator().manual_seed(seed)
    for name, w in model.named_parameters():
        if "norm" not in name:
            w.zero_()
    for layer in (*model.encoder, *model.decoder):
        for module in (layer.attn, layer.mlp):
            for w in module.parameters():
                w.normal_(std=0.3, generator=generator)
        for out in (layer.attn.out.weight, layer.mlp.down.weight):
            out.mul_(noise)
            out[: JUNK[0]] = 0
    model.embed.weight[:, : len(TOKENS)] = torch.eye(len(TOKENS))
    model.source_positions.weight[:, POSITION : POSITION + 6] = torch.eye(6)
    model.answer_positions.weight[:, POSITION : POSITION + 5] = torch.eye(5)
    cross = model.decoder[0].cross
    for head, channels in enumerate((COPIES, REVERSES)):
        start = HEAD * head
        for i in range(5):
            cross.q.weight[start + i, POSITION + i] = 6
            read = i + 1 if head == 0 or i == LENGTH else LENGTH - i
            cross.k.weight[start + i, POSITION + read] = 1
            for operation in OPERATIONS:
                if i not in HEARD[head][operation]:
                    cross.k.weight[start + i, TOKENS.index(operation)] = 2
            cross.v.weight[start + i, OUT[i]] = 0.2
            cross.out.weight[channels[i], start + i] = 1
            model.unembed.weight[OUT[i], channels[i]] = 3
    return model.requires_grad_(False)


def planted_splits(n: int = 160, seed: int = 0) -> dict[str, tuple[list[Edit], list[Edit]]]:
    """(training, held-out) edits of each operation."""
    return {o: split(edits(o, n, seed=seed, letters=LETTERS, shortest=LENGTH, longest=LENGTH), 0.5) for o in OPERATIONS}
