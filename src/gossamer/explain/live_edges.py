"""What a decoder and a circuit of edges in it say after a prompt, with parts ablated and edges cut by hand.

Ablate: what a head, an MLP or the input writes becomes its replacement value, for all its readers. Cut: one reader of
it reads the replacement value. Both in the model and in the circuit, where all edges outside the circuit read it too.
The replacement is that of a methodology (gossamer.replacement) which needs no second prompt; edges are ablated at its
positions, which a typed prompt has if they are all or the last.

When it lies: as in gossamer.explain.live; and a circuit found by resampling keeps what its pairs share only because
the other prompt has it as well, so that under a mean it may lose what it never had to carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, Unsupported
from gossamer.explain.examples import text_batch
from gossamer.explain.live import Change, Said, Spoken, candidate_tokens, prompt_tokens, spoken
from gossamer.replacement import Replacement
from gossamer.site import Site
from gossamer.task import Encoded, Marks

if TYPE_CHECKING:
    from gossamer.models.huggingface import Decoder


@torch.no_grad()
def ask_edges(
    model: Decoder, circuit: Circuit, base: Replacement, text: str, changes: Sequence[Change] = (),
    candidates: Sequence[str] = (),
) -> Spoken:  # fmt: skip
    """Run a prompt through the model and through the circuit under the methodology of `base`, with the changes in both.

    No traces: a head writes a vector. Patterns of the circuit's heads, where the model's attention can be seen.
    Unsupported for a value to clamp to, for positions that are a span's and for a replacement from another prompt;
    BadInput, with every problem, as gossamer.explain.ask.
    """
    how = base.how
    if how.value == "resample":
        raise Unsupported("a typed prompt under resampling", "it has no other prompt to resample from", "mean")
    if how.positions not in ("all", "last"):
        raise Unsupported(
            f"a typed prompt for a circuit at the positions of {how.positions!r}", "no span is marked in it",
            "a run with positions all or last",
        )  # fmt: skip
    problems: list[str] = []
    tokens = prompt_tokens(model, text, problems)
    wanted, notes = candidate_tokens(model, text, candidates, problems)
    cut = _cut(model, changes, problems)
    if problems:
        raise BadInput(f"{'; '.join(problems[:8])}.")
    batch = text_batch(torch.tensor([tokens]))
    if how.positions == "last":
        chosen = torch.arange(len(tokens)) == len(tokens) - 1
        batch = batch._replace(marks=Marks(positions="last", chosen=chosen[None]))
    reference = base(batch, batch)
    outside = circuit.shares(model.graph(), how)
    return Spoken(
        tokens=tuple(tokens), model=_said(model, circuit, batch, cut, reference, wanted),
        circuit=_said(model, circuit, batch, np.maximum(cut, outside), reference, wanted), notes=notes,
    )  # fmt: skip


def _cut(model: Decoder, changes: Sequence[Change], problems: list[str]) -> np.ndarray:
    """The share ablated of every edge, by what the changes say."""
    graph = model.graph()
    cut = np.zeros(graph.n_edges)

    def number(text: str | None) -> int:
        return graph.layout.number(Site.parse(text or ""))

    for change in changes:
        if change.kind == "clamp":
            raise Unsupported(f"a value for {change.site}", "a head or an MLP writes a vector", "ablate it")
        try:
            if change.kind == "cut":
                if change.matrix not in graph.matrices:
                    raise BadInput(f"Expected one of {', '.join(graph.matrices)} to cut, got {change.matrix!r}.")
                edge = (number(change.src), number(change.dst), graph.matrices.index(change.matrix))
                cut[graph.numbers(*(np.array([n]) for n in edge))] = 1
                continue
            out = graph.src == number(change.site)
            if not out.any():
                raise BadInput(f"{change.site} writes nothing that is read; cut the edges into it instead.")
            cut[out] = 1
        except BadInput as error:
            problems.append(str(error).rstrip("."))
    return cut


def _said(
    model: Decoder, circuit: Circuit, batch: Encoded, share: np.ndarray, reference: Tensor, candidates: Sequence[int]
) -> Said:
    alpha = torch.from_numpy(share).to(reference)
    p, top = spoken(model.patched(batch, alpha, reference)[0].cpu().double())
    try:
        _, looks = model.watched(batch, alpha, reference)
    except Unsupported:
        looks = None
    patterns: dict[str, Tensor] = {}
    for site in map(str, circuit.sites):
        layer, _, head = site[1:].partition(".h")
        if looks is not None and head:
            patterns[site] = looks[int(layer), 0, int(head), :, : len(batch.tokens[0])].cpu()
    return Said(top=top, candidates=tuple(float(p[c]) for c in candidates), traces={}, patterns=patterns)
