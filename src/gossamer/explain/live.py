"""What a model and a circuit in it say after a prompt, with nodes ablated or clamped and edges cut by hand.

Ablate: a node becomes its reference mean. Clamp: it becomes a value. Cut: an edge's destination reads the reference
mean of its source in place of the source's own value (for the edges into an attention output, whose source is a value
channel, the mean of the value channel). All of it at every token, in the model and in the circuit, after the circuit's
own ablation; of two changes of one node the later one holds.

A circuit's calibration acts on two candidates a and b, a being the clean prompts' answer: of the probability that the
two have together, a gets sigmoid(scale * (l_a - l_b) + shift). All other probabilities are as they are.

When it lies: a clamped node may take a value that it never has, and a circuit that was fitted to one task says little
about other prompts: its other probabilities are those of a model with almost everything at its mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.circuit import Calibration, Circuit
from gossamer.errors import BadInput
from gossamer.explain.examples import text_batch
from gossamer.models.loaded import LoadedModel
from gossamer.models.sparse import attention_pattern
from gossamer.site import Site
from gossamer.subject import EdgeMasks

if TYPE_CHECKING:
    from gossamer.models.huggingface import Decoder

TOP = 10
LARGEST_CLAMP = 1e6  # from 0: beyond it, float32 holds nothing else beside it in a norm


class Change(NamedTuple):
    """One intervention: kind `ablate` or `clamp` of a site, or `cut` of an edge; what a kind does not use is None."""

    kind: str
    site: str | None = None
    value: float | None = None
    src: str | None = None
    dst: str | None = None
    matrix: str | None = None


class Said(NamedTuple):
    """What a model says after a prompt, and its insides at every token of it.

    top: (token id, probability) of the most probable next tokens; candidates: probabilities of the tokens asked for;
    traces: per site of the circuit its activation [pos]; patterns: per head of the circuit its attention [pos, pos].
    """

    top: tuple[tuple[int, float], ...]
    candidates: tuple[float, ...]
    traces: dict[str, Tensor]
    patterns: dict[str, Tensor]


class Spoken(NamedTuple):
    """Token ids of the prompt (with what is put before every prompt) and what model and circuit say after it; notes:
    what has to be known of the candidates."""

    tokens: tuple[int, ...]
    model: Said
    circuit: Said
    notes: tuple[str, ...] = ()


@torch.no_grad()
def ask(
    model: LoadedModel, circuit: Circuit, text: str, changes: Sequence[Change] = (), candidates: Sequence[str] = ()
) -> Spoken:
    """Run a prompt through the model and through the circuit, with the changes in both.

    BadInput, with every problem: a prompt that is empty or too long, a candidate that is not one token, a site or an
    edge that the model has not, a value that is missing or more than LARGEST_CLAMP from 0; and for logits that are not
    finite.
    """
    problems: list[str] = []
    tokens = prompt_tokens(model, text, problems)
    wanted, notes = candidate_tokens(model, text, candidates, problems)
    values, cut = _changes(model, changes, problems)
    if problems:
        raise BadInput(f"{'; '.join(problems[:8])}.")
    ablation = circuit.as_ablation("gao-mean")
    keep = {k: torch.from_numpy(v).to(model.model.lm_head.weight) for k, v in ablation.keep.items()}
    own = model.cut_edges(ablation)
    both = cut if own is None else np.unique(np.concatenate([cut, own.edges], axis=1), axis=1)
    asked = torch.tensor([tokens])
    return Spoken(
        tokens=tuple(tokens),
        model=_said(model, circuit, asked, None, cut, values, wanted, None),
        circuit=_said(model, circuit, asked, keep, both, values, wanted, circuit.calibration),
        notes=notes,
    )


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text, without what is put before every prompt; of either library's tokenizers."""
    found = tokenizer.encode(text, add_special_tokens=False)
    return list(getattr(found, "ids", found))


def prompt_tokens(model: LoadedModel | Decoder, text: str, problems: list[str]) -> list[int]:
    """Tokens of a prompt with what is put before every one; problems gets what is wrong with it."""
    longest, bos = model.limits
    tokens = ([] if bos is None else [bos]) + token_ids(model.tokenizer, text)
    if not tokens:
        problems.append("Expected a prompt of at least one token, got none")
    if len(tokens) > longest:
        problems.append(f"Expected a prompt of at most {longest} tokens, got {len(tokens)}")
    return tokens


def candidate_tokens(
    model: LoadedModel | Decoder, prompt: str, candidates: Sequence[str], problems: list[str]
) -> tuple[list[int], tuple[str, ...]]:
    """The token that each candidate is right after the prompt (the rule of gossamer.task.encode), and notes.

    One that merges with the prompt's end, as a quote does with a space before it, is the token it is alone; a note says
    so. problems gets every candidate that is not one token.
    """
    before = token_ids(model.tokenizer, prompt)
    wanted: list[int] = []
    merged: list[str] = []
    for text in candidates:
        both = token_ids(model.tokenizer, prompt + text)
        merges = both[: len(before)] != before
        own = token_ids(model.tokenizer, text) if merges else both[len(before) :]
        if len(own) != 1:
            problems.append(f"Expected a candidate of one token after the prompt, {text!r} is {len(own)}")
        elif merges:
            merged.append(text)
        wanted.append(own[0] if len(own) == 1 else -1)
    note = f"{' and '.join(merged)} would merge with the end of this prompt: asked for is the token it is alone"
    return wanted, (note,) if merged else ()


def spoken(logits: Tensor) -> tuple[Tensor, tuple[tuple[int, float], ...]]:
    """(next-token probabilities [vocab], the TOP most probable with their tokens) of logits [vocab]; BadInput where one
    is not finite."""
    if not torch.isfinite(logits).all():
        raise BadInput("Expected finite logits, some are not: an activation has overflowed; make the model again.")
    p = logits.softmax(-1)
    best = p.topk(min(TOP, len(p)))
    return p, tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _changes(
    model: LoadedModel, changes: Sequence[Change], problems: list[str]
) -> tuple[dict[str, dict[int, float]], np.ndarray]:
    """(location -> channel -> value it becomes, cut edges as (source, destination, matrix) numbers [3, n])."""
    values: dict[str, dict[int, float]] = {}
    cut: list[tuple[int, int, int]] = []
    graph, means = model.graph(), model.means()

    def number(text: str | None) -> int:
        return model.layout.number(Site.parse(text or ""))

    for change in changes:
        try:
            if change.kind == "cut":
                if change.matrix not in graph.matrices:
                    raise BadInput(f"Expected a matrix of {model.name}, got {change.matrix!r}.")
                edge = (number(change.src), number(change.dst), graph.matrices.index(change.matrix))
                graph.numbers(*(np.array([n]) for n in edge))
                cut.append(edge)
                continue
            number(change.site)
            site = Site.parse(change.site or "")
            value = change.value if change.kind == "clamp" else float(means[site.location][site.index])
            if value is None or not abs(value) <= LARGEST_CLAMP:
                raise BadInput(f"Expected a number within {LARGEST_CLAMP:,.0f} of 0 to clamp {site} to, got {value}.")
            values.setdefault(site.location, {})[site.index or 0] = value
        except BadInput as error:
            problems.append(str(error).rstrip("."))
    edges = np.unique(np.array(cut, dtype=np.int64).reshape(-1, 3).T, axis=1)
    return values, edges


def _said(
    model: LoadedModel, circuit: Circuit, tokens: Tensor, keep: dict[str, Tensor] | None, cut: np.ndarray,
    values: Mapping[str, Mapping[int, float]], candidates: Sequence[int], fit: Calibration | None,
) -> Said:  # fmt: skip
    def change(location: str, x: Tensor) -> Tensor:
        if location not in values:
            return x
        x = x.clone()
        for channel, value in values[location].items():
            x[..., channel] = value
        return x

    edges = EdgeMasks(cut, torch.zeros(cut.shape[1])) if cut.shape[1] else None
    locations = [name for name, _ in model.layout.locations]
    reads = model.run(text_batch(tokens), masks=keep, edges=edges, then=change, reads=locations).reads
    m, last = model.model, tokens[:, -1:].to(model.device)
    logits = m.unembed(m.ln_f(reads["final_resid"][:, -1:]), last)[0, 0].cpu().double()
    p, top = spoken(logits)
    chosen = [float(p[c]) for c in candidates]
    if fit is not None and len(chosen) == 2:
        z = fit.scale * (logits[candidates[0]] - logits[candidates[1]]) + fit.shift
        chosen = [sum(chosen) * float(torch.sigmoid(s)) for s in (z, -z)]
    return Said(
        top=top, candidates=tuple(chosen),
        traces={str(s): reads[s.location][0, :, s.index].cpu() for s in circuit.sites},
        patterns=_patterns(model, circuit, reads),
    )  # fmt: skip


def _patterns(model: LoadedModel, circuit: Circuit, reads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attention [pos, pos], without the sink, of every head with a query, key or value channel in the circuit."""
    c = model.model.config
    of_heads = [s for s in circuit.sites if s.location.split(".")[-1] in ("q", "k", "v")]
    heads = sorted({(s.layer or 0, (s.index or 0) // c.d_head) for s in of_heads})
    found: dict[str, Tensor] = {}
    for layer, head in heads:
        q, k = (reads[f"{layer}.attn.{part}"] for part in "qk")
        sink = model.model.blocks[layer].attn.sink_logit
        found[f"a{layer}.h{head}"] = attention_pattern(q, k, c.n_head, sink)[0, head, :, : q.shape[1]].cpu()
    return found
