"""What commands report to while they work: a line of text, or (done, of how many, the value so far)."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
Steps = Callable[[int, int, float], None]
