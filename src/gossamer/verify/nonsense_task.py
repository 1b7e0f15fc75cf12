"""Does the same discovery find such a circuit for a task that the model cannot know? Answers are unrelated words.

Drori's critique of Gao et al. 2025 (LessWrong, 2026): pruned on a nonsense task, a model reached a loss below 0.05 with
about 30 nodes where the real task took about 10. See tasks/nonsense.py for the task, rediscovery.py for the discovery.

When it lies: the model may have a preference between the two words that follows the prompt. A search that is free
enough finds nonsense circuits in any model: then the sizes are what tells them apart, and `times` is where a line is
drawn between them.
"""

from __future__ import annotations

from collections.abc import Sequence

from gossamer.evidence import Evidence
from gossamer.registry import check
from gossamer.tasks.nonsense import WORDS, nonsense
from gossamer.verify.same_procedure import nothing_there
from gossamer.verify.trial import Trial


@check("nonsense-task")
def nonsense_task(
    trial: Trial, *, draws: int = 1, share: float = 0.5, times: float = 2.0, steps: int | None = None,
    words: Sequence[str] = WORDS,
) -> Evidence:  # fmt: skip
    """The circuit's gain (its f) beside that of what its discovery finds for the same prompts with other answers.

    Passes if the discovery does not reach its target there, or needs more than `times` the parts, or gets less than
    `share` of the gain, in every draw of words. steps: for a cheaper search of masks, which the note then tells.
    """
    return nothing_there(
        trial, claim="nonsense-task: the same discovery finds no such circuit for unrelated answers",
        where="nonsense task", draws=draws, share=share, times=times, steps=steps,
        elsewhere=lambda draw: (
            trial.model, nonsense(trial.task, trial.model, seed=trial.seed + draw, words=words),
        ),
    )  # fmt: skip
