"""A live page's question to a run's model, answered."""

from __future__ import annotations

from gossamer.commands.edge_runs import EdgeRun
from gossamer.commands.run_folder import Run
from gossamer.errors import Unsupported
from gossamer.explain import Change, Said, ask
from gossamer.show.live import Answer, HeadPattern, NodeTrace, Question, Reading, TokenProbability


def answer(run: Run | EdgeRun, question: Question) -> Answer:
    """What the run's model and its circuit say after the question's prompt, see gossamer.explain.ask.

    Unsupported for a run on a Hugging Face decoder.
    """
    if isinstance(run, EdgeRun):
        raise Unsupported(
            f"questions to {run.model.name}, a Hugging Face decoder", "they are built for weight-sparse models",
            "the page without them",
        )  # fmt: skip
    model = run.weight_sparse
    changes = [Change(**i.model_dump()) for i in question.interventions]
    found = ask(model, run.circuit, question.text, changes, question.candidates)

    def text(token: int) -> str:
        return str(model.tokenizer.decode([token], skip_special_tokens=False))

    def reading(said: Said) -> Reading:
        return Reading(
            top=tuple(TokenProbability(token=text(i), id=i, probability=p) for i, p in said.top),
            candidates=said.candidates,
            traces=tuple(NodeTrace(site=site, values=tuple(v.tolist())) for site, v in said.traces.items()),
            patterns=tuple(
                HeadPattern(head=head, rows=tuple(tuple(row[: i + 1].tolist()) for i, row in enumerate(rows)))
                for head, rows in said.patterns.items()
            ),
        )

    return Answer(
        tokens=tuple(map(text, found.tokens)), model=reading(found.model), circuit=reading(found.circuit)
    )  # fmt: skip
