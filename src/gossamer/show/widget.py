"""The page as a notebook widget (anywidget): the same module, the same bundle, and the kernel to answer.

The page sends {"id", "what", "body"} and gets {"id", "found"} or {"id", "message"}; see web/src/host.ts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from gossamer.errors import BadInput, GossamerError, one_line
from gossamer.show.bundle import Bundle
from gossamer.show.desk import ALL_NOTES, PROMPTS, QUESTIONS, Desk, checked
from gossamer.show.page import view_source


class Page(anywidget.AnyWidget):
    """bundle: what is drawn, as JSON; asks: whether the kernel answers questions."""

    _esm = view_source()
    bundle = traitlets.Dict().tag(sync=True)
    asks = traitlets.Bool(False).tag(sync=True)


def page(bundle: Bundle, desk: Desk | None = None) -> Page:
    """The widget of a bundle; desk: who answers, in the kernel's own thread, between cells."""
    found = Page(bundle=bundle.model_dump(mode="json"), asks=desk is not None)
    if desk is not None:
        found.on_msg(lambda widget, content, _: widget.send(reply(desk, content)))
    return found


def reply(desk: Desk, message: Any) -> dict[str, Any]:
    """The answer to one message of the page."""
    known: dict[str, Callable[[Any], Any]] = {
        "tokenize": lambda body: desk.tokens(checked(PROMPTS, body)),
        "ask": lambda body: desk.ask(checked(QUESTIONS, body)).model_dump(mode="json"),
        "read notes": lambda body: desk.read_notes(),
        "write notes": lambda body: desk.write_notes(checked(ALL_NOTES, body)),
    }
    number = message.get("id") if isinstance(message, dict) else None
    try:
        if number is None or message.get("what") not in known:
            raise BadInput(f"Expected an id and one of {', '.join(known)}.")
        return {"id": number, "found": known[message["what"]](message.get("body"))}
    except GossamerError as error:
        return {"id": number, "message": one_line(error)}
    except Exception as error:  # the reader is told; the kernel lives on
        return {"id": number, "message": f"The model could not answer: {type(error).__name__}: {one_line(error)}"}
