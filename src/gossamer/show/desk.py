"""What a live page may ask for, of a server or of a notebook: tokens, answers, and the notes its reader writes.

The desk knows no model: it is handed two functions. Notes are the only thing a reader can write.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import StringConstraints, TypeAdapter, ValidationError

from gossamer.errors import BadInput, CorruptFile, one_line
from gossamer.show.bundle import Bundle, BundleModel
from gossamer.show.live import Answer, Question, Text
from gossamer.whole_file import write_whole

BUNDLE, PAGE, NOTES = "bundle.json", "page.html", "notes.json"  # files of a run folder that are of its page
MOST_BYTES = 256 * 1024  # of a request and of the notes of a run
MOST_TOKENS = 1024  # of a prompt
MOST_PARTS = 256  # interventions, and candidates, of a question

T = TypeVar("T")
Site = Annotated[str, StringConstraints(max_length=200)]
Notes = dict[Site, Annotated[str, StringConstraints(max_length=20_000)]]
ALL_NOTES: TypeAdapter[Notes] = TypeAdapter(Notes)


class Prompt(BundleModel):
    """A text whose tokens are asked for."""

    text: Text


PROMPTS, QUESTIONS = TypeAdapter(Prompt), TypeAdapter(Question)


@dataclass(frozen=True, kw_only=True)
class Desk:
    """One run's page and who answers it. notes: the file of the reader's notes, by node; it need not exist yet."""

    bundle: Bundle
    answer: Callable[[Question], Answer]
    tokenize: Callable[[str], Sequence[str]]
    notes: Path
    most_tokens: int = MOST_TOKENS

    def tokens(self, prompt: Prompt) -> list[str]:
        """The prompt's tokens, without what is put before every prompt."""
        return list(self.tokenize(prompt.text))

    def ask(self, question: Question) -> Answer:
        """BadInput for more than `most_tokens` tokens or MOST_PARTS interventions or candidates."""
        for what, parts in (("interventions", question.interventions), ("candidates", question.candidates)):
            if len(parts) > MOST_PARTS:
                raise BadInput(f"Expected at most {MOST_PARTS} {what}, got {len(parts)}.")
        if (n := len(self.tokens(Prompt(text=question.text)))) > self.most_tokens:
            raise BadInput(f"Expected a prompt of at most {self.most_tokens} tokens, got {n}; shorten it.")
        return self.answer(question)

    def read_notes(self) -> Notes:
        """The notes by node, none before the first is written; CorruptFile for what does not hold notes.

        A link is refused: a received run folder could name any file of this machine.
        """
        if not os.path.lexists(self.notes):
            return {}
        try:
            if self.notes.is_symlink() or not self.notes.is_file():
                raise ValueError("a link or a folder, not a file")
            try:
                with self.notes.open("rb") as file:
                    text = file.read(MOST_BYTES + 1)
            except OSError as error:
                raise ValueError(error.strerror) from error
            if len(text) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES} bytes")
            return ALL_NOTES.validate_json(text)
        except ValueError as error:
            raise CorruptFile(
                f"{self.notes.name} beside the run does not hold notes by node ({one_line(error)}); correct it or move "
                "it away."
            ) from error

    def write_notes(self, notes: Notes) -> None:
        """Replace all notes, in one step; BadInput, without a path, for a file that cannot be written."""
        text = ALL_NOTES.dump_json(notes, indent=1) + b"\n"
        if len(text) > MOST_BYTES:
            raise BadInput(f"Expected notes of at most {MOST_BYTES} bytes in all, got {len(text)}.")
        try:
            write_whole(text.decode(), self.notes)
        except OSError as error:
            raise BadInput(f"Cannot keep the notes: {error.strerror or type(error).__name__}.") from error


def checked(kind: TypeAdapter[T], body: object) -> T:
    """What came as parsed JSON, as its kind; BadInput that says what is wrong."""
    try:
        return kind.validate_python(body)
    except ValidationError as error:
        raise BadInput(f"Expected another request: {one_line(error)}.") from error
