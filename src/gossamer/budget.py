"""A budget of memory, as people write it."""

from __future__ import annotations

import re

from gossamer.errors import BadInput

_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30,
    "tib": 2**40,
}  # fmt: skip


def bytes_of(text: str | int) -> int:
    """Bytes of "8GB" (10^9 each), "512 MiB" (2^20 each), "1.5gb" or a plain number; BadInput for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    n = float(found[1]) * _UNITS.get(found[2].lower(), 0) if found else 0
    if n < 1:
        raise BadInput(f"Expected an amount of memory such as 8GB or 512MiB, got {text!r}.")
    return int(n)


def in_words(n: float) -> str:
    """An amount of memory for people: GB from one on, else MB."""
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
