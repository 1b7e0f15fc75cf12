"""Does the same discovery find such a circuit in a model that learned nothing? All weight matrices are shuffled.

Ramanujan et al. 2020 (arXiv 1911.13299) prune networks with random weights until they do a task; Drori's critique of
Gao et al. 2025 (LessWrong, 2026) asks for this control. The discovery is run with the method and the configuration that
the circuit's record names: see rediscovery.py, and models/shuffled.py for what is shuffled.

When it lies: a method that has to return so many edges returns them of any model; the gain then says what they are
worth. One shuffle is one draw. Activations of shuffled weights have other sizes, so a penalty or a number of steps that
suits the real model may not suit it: `not reached` is weaker where the discovery was tuned to the real one.
"""

from __future__ import annotations

from gossamer.evidence import Evidence
from gossamer.models.shuffled import weight_shuffled
from gossamer.registry import check
from gossamer.verify.same_procedure import nothing_there
from gossamer.verify.trial import Trial


@check("shuffled-model")
def shuffled_model(
    trial: Trial, *, draws: int = 1, share: float = 0.5, times: float = 2.0, steps: int | None = None
) -> Evidence:
    """The circuit's gain (its f) beside that of what its discovery finds in weight-shuffled models.

    Passes if the discovery does not reach its target there, or needs more than `times` the parts, or gets less than
    `share` of the gain, in every draw. steps: for a cheaper search of masks, which the note then tells.
    """
    return nothing_there(
        trial, claim="shuffled-model: the same discovery finds no such circuit in a model with shuffled weights",
        where="weight-shuffled model", draws=draws, share=share, times=times, steps=steps,
        elsewhere=lambda draw: (weight_shuffled(trial.model, trial.seed + draw, task=trial.task), trial.task),
    )  # fmt: skip
