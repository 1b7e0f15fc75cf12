"""A live page's question to a run's model, answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gossamer.commands.bundle_of_edges import words_of
from gossamer.commands.edge_runs import EdgeRun, own_ablation
from gossamer.commands.run_folder import Run
from gossamer.explain import Change, Said, ask, ask_edges, token_ids
from gossamer.models import LoadedModel
from gossamer.show.live import Answer, HeadPattern, NodeTrace, Question, Reading, TokenProbability

if TYPE_CHECKING:
    from gossamer.models.huggingface import Decoder

MOST_NUMBERS = 300_000  # of all attention patterns in an answer: about 3 MB of JSON


def answer(run: Run | EdgeRun, question: Question) -> Answer:
    """What the run's model and its circuit say after the question's prompt.

    See gossamer.explain.ask for circuits of channels in weight-sparse models and gossamer.explain.ask_edges for those
    of edges in Hugging Face decoders. Unsupported for circuits of channels in these.
    """
    changes = [Change(**i.model_dump()) for i in question.interventions]
    asked = question.text, changes, question.candidates
    if isinstance(run, EdgeRun):
        base = run.standing
        found, notes = ask_edges(run.model, run.circuit, base, *asked), [f"ablated by {base.how.value}"]
        if base.how.value != own_ablation(run.about.record):
            notes[0] += ", not resample as in the trial: a typed prompt has no other to resample from"
    else:
        found, notes = ask(run.weight_sparse, run.circuit, *asked), []
    notes += found.notes
    patterns = [p for said in (found.model, found.circuit) for p in said.patterns.values()]
    too_many = sum(p.numel() for p in patterns) > MOST_NUMBERS
    if too_many:
        notes.append(f"no attention patterns: {len(patterns)} of {len(found.tokens)} tokens are too many to send")

    def text(token: int) -> str:
        return str(_asked(run).tokenizer.decode([token], skip_special_tokens=False))

    def reading(said: Said) -> Reading:
        return Reading(
            top=tuple(TokenProbability(token=text(i), id=i, probability=p) for i, p in said.top),
            candidates=said.candidates,
            traces=tuple(NodeTrace(site=site, values=tuple(v.tolist())) for site, v in said.traces.items()),
            patterns=() if too_many else tuple(
                HeadPattern(head=head, rows=tuple(tuple(row[: i + 1].tolist()) for i, row in enumerate(rows)))
                for head, rows in said.patterns.items()
            ),
        )  # fmt: skip

    return Answer(
        tokens=_words(run, found.tokens), model=reading(found.model), circuit=reading(found.circuit),
        note="; ".join(notes),
    )  # fmt: skip


def tokenize(run: Run | EdgeRun, text: str) -> tuple[str, ...]:
    """The tokens of a prompt as text, without what is put before every prompt."""
    return _words(run, token_ids(_asked(run).tokenizer, text))


def _words(run: Run | EdgeRun, tokens: Sequence[int]) -> tuple[str, ...]:
    """The text of each token; of a decoder's, what it adds to the text before it."""
    tokenizer = _asked(run).tokenizer
    if isinstance(run, EdgeRun):
        return words_of(tokenizer, list(tokens))
    return tuple(str(tokenizer.decode([i], skip_special_tokens=False)) for i in tokens)


def _asked(run: Run | EdgeRun) -> LoadedModel | Decoder:
    return run.model if isinstance(run, EdgeRun) else run.weight_sparse
