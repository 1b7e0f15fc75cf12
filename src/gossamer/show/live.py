"""What a live page asks of a model and what it is told, in the page or in a server.

No model and no tensors here; `web/src/engine.ts` is the TypeScript side.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from gossamer.show.bundle import BundleModel


def _whole(text: str) -> str:
    """The text; ValueError for half a character (a lone surrogate), which no tokenizer and no file can take."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"expected whole characters, position {error.start} holds half of one") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]


class Intervention(BundleModel):
    """One thing done to the model. It holds in the model and in the circuit, at every token.

    `ablate`: the node `site` becomes its reference value (the circuit's ablation); `clamp`: it becomes `value`; `cut`:
    the edge `src` -> `dst` through `matrix` carries the reference value of `src`, not its own. What a kind does not use
    is null.
    """

    kind: Literal["ablate", "clamp", "cut"]
    site: Text | None = None
    value: float | None = None
    src: Text | None = None
    dst: Text | None = None
    matrix: Text | None = None


class Question(BundleModel):
    """A prompt, what is done to the model, and the tokens whose probability is asked for (each must be one token).

    Two candidates are the clean prompts' answer, then the counterfactual ones': a circuit's calibration acts on them.
    """

    text: Text
    interventions: tuple[Intervention, ...] = ()
    candidates: tuple[Text, ...] = ()


class TokenProbability(BundleModel):
    """A next token and its probability."""

    token: str
    id: int
    probability: float


class NodeTrace(BundleModel):
    """A node's activation at every token of the prompt."""

    site: str
    values: tuple[float, ...]


class HeadPattern(BundleModel):
    """Where a head looks: row i is the weights of token i on tokens 0 to i; what a row lacks of 1 is on the sink."""

    head: str
    rows: tuple[tuple[float, ...], ...]


class Reading(BundleModel):
    """What one model (or the circuit in it) does at the end of the prompt.

    `top`: the ten most probable next tokens; `candidates`: the probability of each candidate asked for, in their order,
    in a circuit with a calibration after it (gossamer.explain.live), which `top` is not; `traces` of the circuit's
    nodes and `patterns` of its heads.
    """

    top: tuple[TokenProbability, ...]
    candidates: tuple[float, ...]
    traces: tuple[NodeTrace, ...]
    patterns: tuple[HeadPattern, ...]


class Answer(BundleModel):
    """The prompt's tokens (with the token put before every prompt, if there is one) and both readings.

    `note`: what the reader has to know of this answer, such as another ablation than the circuit was found by.
    """

    tokens: tuple[str, ...]
    model: Reading
    circuit: Reading
    note: str = ""
